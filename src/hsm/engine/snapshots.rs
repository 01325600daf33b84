//! Namespace snapshots: when one is due, and where it goes.
//!
//! Invariants: a tier's incremental snapshot stands on one that the same tier holds, so that the
//! tier alone is enough; a chain has at most [`LONGEST_CHAIN`] of them; a stop is never held up for
//! longer than [`AT_STOP`].

use super::{EngineError, Shared, Slot, shifted};
use crate::catalog::{Catalog, CatalogError, NamespaceSnapshot, ProofKind};
use crate::format::namespace::Base;
use crate::hsm::snapshot::{self, Order, SnapshotError, Taken};
use crate::id::{AggregateId, TierId, Timestamp};
use crate::tier::{Proof, Receipt, Tier};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Incremental snapshots on one full one.
pub(super) const LONGEST_CHAIN: u32 = 48;
/// The first one of a tier comes so long after a start, at the latest.
const FIRST: Duration = Duration::from_secs(600);
/// A tier that failed is left alone so long.
const PAUSE: Duration = Duration::from_secs(600);
/// How often it is looked whether one is due.
const LOOK: Duration = Duration::from_secs(5);
/// Longest that a stop waits for a snapshot.
const AT_STOP: Duration = Duration::from_secs(20);
/// Names above which a tier's first one is not begun at a stop: nobody knows how long it takes.
const FIRST_AT_STOP: u64 = 200_000;
/// And for a tier that does not answer, beyond that.
const GRACE: Duration = Duration::from_secs(5);

/// Aggregates that are being composed: files in them may have been looked at before a snapshot, and
/// get their copies after it.
#[derive(Default)]
pub(super) struct Composing(Arc<Mutex<BTreeSet<AggregateId>>>);

/// An aggregate being composed, until this is dropped.
pub(super) struct UnderWay {
    all: Arc<Mutex<BTreeSet<AggregateId>>>,
    id: AggregateId,
}

impl Composing {
    /// A new name.
    pub(super) fn name(&self, catalog: &Catalog) -> Result<UnderWay, CatalogError> {
        let mut all = self.0.lock();
        let id = catalog.next_aggregate()?;
        all.insert(id);
        Ok(UnderWay {
            all: Arc::clone(&self.0),
            id,
        })
    }

    /// A snapshot's name, and the first aggregate that may hold what it does not list.
    fn snapshot(&self, catalog: &Catalog) -> Result<(AggregateId, AggregateId), CatalogError> {
        let all = self.0.lock();
        let id = catalog.next_aggregate()?;
        Ok((id.snapshot(), all.first().copied().unwrap_or(id)))
    }
}

impl UnderWay {
    pub(super) fn id(&self) -> AggregateId {
        self.id
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.all.lock().remove(&self.id);
    }
}

/// What is known of a tier's snapshots.
#[derive(Debug, Clone, Copy)]
struct Known {
    newest: Option<NamespaceSnapshot>,
    full: Option<NamespaceSnapshot>,
    /// It holds something that could be restored.
    used: bool,
    /// Something happened since the newest.
    changed: bool,
}

/// What a tier is to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Full,
    /// On this one, in so many steps from the full one.
    On(AggregateId, u32),
}

/// Decides. `started`: when the engine was.
fn due(
    known: &Known,
    (every, changes): (Duration, Duration),
    started: Timestamp,
    now: Timestamp,
) -> Option<Kind> {
    if every.is_zero() || !known.used {
        return None;
    }
    let (Some(newest), Some(full)) = (known.newest, known.full) else {
        let first = if changes.is_zero() { every } else { changes };
        return (shifted(started, first.min(FIRST), true) <= now).then_some(Kind::Full);
    };
    // A clock that was set back makes ctimes useless to tell what changed.
    if now < newest.begun_at || shifted(full.begun_at, every, true) <= now {
        return Some(Kind::Full);
    }
    let soon = !changes.is_zero() && shifted(newest.begun_at, changes, true) <= now;
    (soon && known.changed).then(|| on(&newest))
}

/// What comes next in a chain.
fn on(newest: &NamespaceSnapshot) -> Kind {
    if newest.depth >= LONGEST_CHAIN {
        Kind::Full
    } else {
        Kind::On(newest.id, newest.depth + 1)
    }
}

/// Where events and archives stand.
fn position(shared: &Shared) -> Result<(u64, AggregateId), EngineError> {
    let none = AggregateId { epoch: 0, seq: 0 };
    Ok((
        shared.catalog.changelog_position()?,
        shared.catalog.newest_aggregate()?.unwrap_or(none),
    ))
}

fn known(shared: &Shared, tier: TierId) -> Result<Known, EngineError> {
    let catalog = &shared.catalog;
    let newest = catalog.newest_snapshot(tier)?;
    let now = position(shared)?;
    Ok(Known {
        full: catalog.full_snapshot(tier)?,
        used: !catalog.aggregates(tier, None, 1)?.is_empty(),
        changed: newest.is_none_or(|n| (n.changelog, n.newest) != now),
        newest,
    })
}

/// The thread.
pub(super) fn work(shared: &Arc<Shared>) {
    let mut tired: HashMap<TierId, Instant> = HashMap::new();
    let mut rung = 0;
    let mut looked: Option<Instant> = None;
    while !shared.stopping() {
        rung = shared.bell.wait(rung, LOOK);
        if looked.is_some_and(|at| at.elapsed() < LOOK) {
            continue;
        }
        looked = Some(Instant::now());
        tired.retain(|_, until| *until > Instant::now());
        if let Err(why) = round(shared, &mut tired) {
            tracing::warn!(%why, "whether a namespace snapshot is due cannot be told");
        }
    }
}

fn round(shared: &Arc<Shared>, tired: &mut HashMap<TierId, Instant>) -> Result<(), EngineError> {
    let every = (
        shared.settings.snapshot_every,
        shared.settings.snapshot_changes,
    );
    let mut wanted: BTreeMap<Kind, Vec<&Slot>> = BTreeMap::new();
    for slot in &shared.tiers {
        let rests = tired.contains_key(&slot.id);
        if let Some(kind) = due(
            &known(shared, slot.id)?,
            every,
            shared.started,
            shared.now(),
        ) && !rests
        {
            wanted.entry(kind).or_default().push(slot);
        }
    }
    for (kind, slots) in wanted {
        let failed = take(shared, kind, &slots, &|| shared.stopping(), true);
        let until = Instant::now() + PAUSE;
        tired.extend(failed.into_iter().map(|tier| (tier, until)));
    }
    Ok(())
}

/// Takes one for some tiers; gives those that did not get it.
fn take(
    shared: &Shared,
    kind: Kind,
    slots: &[&Slot],
    stop: &(dyn Fn() -> bool + Sync),
    gentle: bool,
) -> Vec<TierId> {
    match try_take(shared, kind, slots, stop, gentle) {
        Ok(failed) => failed,
        Err(Unable::Snapshot(SnapshotError::Stopped | SnapshotError::Unchanged)) => Vec::new(),
        Err(why) => {
            let names: Vec<_> = slots.iter().map(|s| s.name.as_str()).collect();
            tracing::warn!(tiers = names.join(", "), %why, "no namespace snapshot was taken");
            slots.iter().map(|s| s.id).collect()
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Unable {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

impl From<CatalogError> for Unable {
    fn from(why: CatalogError) -> Self {
        Self::Engine(why.into())
    }
}

fn try_take(
    shared: &Shared,
    kind: Kind,
    slots: &[&Slot],
    stop: &(dyn Fn() -> bool + Sync),
    gentle: bool,
) -> Result<Vec<TierId>, Unable> {
    // What users did up to now is in the catalog then.
    shared.drain_changelog()?;
    let at = position(shared)?;
    let (snapshot, horizon) = shared.composing.snapshot(&shared.catalog)?;
    let base = match kind {
        Kind::Full => None,
        Kind::On(id, depth) => {
            let Some(first) = slots.first() else {
                return Ok(Vec::new());
            };
            let newest = shared.catalog.newest_snapshot(first.id)?;
            let newest = newest.filter(|n| n.id == id);
            let since = newest.map_or(Timestamp::default(), |n| n.begun_at);
            let base = Base {
                snapshot: id,
                depth,
            };
            Some((base, since))
        }
    };
    let tiers: Vec<&dyn Tier> = slots.iter().map(|s| &*s.tier).collect();
    let taken = snapshot::take(&Order {
        backing: &shared.backing,
        tiers: &tiers,
        snapshot,
        base,
        horizon,
        knows: &shared.catalog,
        hint: &|node| super::tree::hint(shared, node).ok().flatten(),
        stop,
        gentle,
        now: &|| shared.now(),
    })?;
    let mut failed = Vec::new();
    for (slot, receipt) in slots.iter().zip(&taken.receipts) {
        match receipt {
            Ok(receipt) => {
                let row = row(slot, receipt, &taken, base.map(|(base, _)| base), at);
                shared.catalog.note_snapshot(row)?;
                tracing::info!(tier = %slot.name, %snapshot, directories = taken.directories,
                    names = taken.entries, missing = taken.gaps, "the namespace is on the tier");
            }
            Err(why) => {
                tracing::warn!(tier = %slot.name, %why, "the namespace snapshot is not on the tier");
                failed.push(slot.id);
            }
        }
    }
    Ok(failed)
}

fn row(
    slot: &Slot,
    receipt: &Receipt,
    taken: &Taken,
    base: Option<Base>,
    (changelog, newest): (u64, AggregateId),
) -> NamespaceSnapshot {
    NamespaceSnapshot {
        tier: slot.id,
        id: receipt.aggregate,
        base: base.map(|b| b.snapshot),
        depth: base.map_or(0, |b| b.depth),
        begun_at: taken.begun,
        ended_at: taken.ended,
        took_ms: u64::try_from(taken.took.as_millis()).unwrap_or(u64::MAX),
        len: receipt.len,
        crc: receipt.crc,
        proof: match receipt.proof {
            Proof::ReadBack => ProofKind::ReadBack,
            Proof::ServiceChecksum => ProofKind::ServiceChecksum,
            Proof::Drive => ProofKind::Drive,
            Proof::Volatile => ProofKind::Volatile,
        },
        directories: taken.directories,
        entries: taken.entries,
        changelog,
        newest,
        superseded_at: None,
        gaps: Some(taken.gaps),
    }
}

/// One for the first tier, whether it is due or not; `false`: it was not taken.
#[cfg(test)]
pub(super) fn take_now(shared: &Shared, full: bool) -> bool {
    let slot = &shared.tiers[0];
    let before = known(shared, slot.id).unwrap().newest;
    let kind = before.as_ref().filter(|_| !full).map_or(Kind::Full, on);
    take(shared, kind, &[slot], &|| false, false);
    let after = known(shared, slot.id).unwrap().newest;
    after.map(|newest| newest.id) != before.map(|newest| newest.id)
}

/// The mount is gone and nobody writes: what changed since the last snapshot goes to every tier,
/// if that can be done in time. `false`: a tier does not answer, and a thread is left that waits
/// for it.
pub(super) fn at_stop(shared: &Arc<Shared>) -> bool {
    if shared.settings.snapshot_every.is_zero() {
        return true;
    }
    let (done, ended) = crossbeam_channel::bounded(1);
    let of = Arc::clone(shared);
    let thread = std::thread::Builder::new()
        .name("cairn-snapshot-at-stop".to_owned())
        .spawn(move || {
            last_ones(&of);
            // Who waited may have given up.
            let _ = done.send(());
        });
    if let Err(why) = thread {
        tracing::warn!(%why, "no namespace snapshot at this stop");
        return true;
    }
    let answered =
        ended.recv_timeout(AT_STOP + GRACE) != Err(crossbeam_channel::RecvTimeoutError::Timeout);
    if !answered {
        tracing::warn!("no namespace snapshot at this stop: a tier does not answer");
    }
    answered
}

fn last_ones(shared: &Arc<Shared>) {
    let begun = Instant::now();
    let mut wanted: BTreeMap<Kind, Vec<&Slot>> = BTreeMap::new();
    for slot in &shared.tiers {
        let known = match known(shared, slot.id) {
            Ok(known) if known.used && known.changed => known,
            Ok(_) => continue,
            Err(why) => {
                tracing::warn!(%why, "no namespace snapshot at this stop");
                return;
            }
        };
        // A full one took as long as the walk of an incremental one does, or longer.
        let long = known.full.map(|full| Duration::from_millis(full.took_ms));
        let many = || {
            let seen = shared.catalog.scan_state().map(|state| state.seen);
            seen.map_or(true, |seen| seen > FIRST_AT_STOP)
        };
        if long.map_or_else(many, |long| long > 2 * AT_STOP) {
            tracing::info!(tier = %slot.name, "no namespace snapshot at this stop: it would take too long");
            continue;
        }
        let kind = known.newest.as_ref().map_or(Kind::Full, on);
        wanted.entry(kind).or_default().push(slot);
    }
    for (kind, slots) in wanted {
        let late = || begun.elapsed() > AT_STOP;
        take(shared, kind, &slots, &late, false);
        if late() {
            tracing::warn!("no namespace snapshot at this stop: it took too long");
            return;
        }
    }
}

impl super::Engine {
    /// When the namespace was last put on a tier, and whether that was too long ago (or never).
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn namespace_on(&self, tier: TierId) -> Result<(Option<Timestamp>, bool), EngineError> {
        let shared = &self.shared;
        let known = known(shared, tier)?;
        let every = shared.settings.snapshot_every;
        let last = known.newest.map(|n| n.begun_at);
        let since = last.unwrap_or(shared.started).max(
            // What is as it was needs no new one.
            if known.changed {
                Timestamp::default()
            } else {
                shared.now()
            },
        );
        let late = shifted(since, every.saturating_mul(2), true) < shared.now();
        Ok((last, late && known.used && !every.is_zero()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(seq: u64, depth: u32, begun: i64) -> NamespaceSnapshot {
        let id = |seq| AggregateId { epoch: 1, seq }.snapshot();
        NamespaceSnapshot {
            tier: TierId(1),
            id: id(seq),
            base: (depth > 0).then(|| id(seq - 1)),
            depth,
            begun_at: at(begun),
            ended_at: at(begun),
            took_ms: 0,
            len: 0,
            crc: cairn_mover::Crc32c(0),
            proof: ProofKind::Volatile,
            directories: 0,
            entries: 0,
            changelog: 0,
            newest: AggregateId { epoch: 0, seq: 0 },
            superseded_at: None,
            gaps: Some(0),
        }
    }

    fn at(sec: i64) -> Timestamp {
        Timestamp { sec, nsec: 0 }
    }

    const DAY: Duration = Duration::from_secs(86_400);
    const HOUR: Duration = Duration::from_secs(3600);

    fn kind(known: &Known, now: i64) -> Option<Kind> {
        due(known, (DAY, HOUR), at(0), at(now))
    }

    #[test]
    fn what_is_due_and_when() {
        let mut known = Known {
            newest: None,
            full: None,
            used: true,
            changed: true,
        };
        assert_eq!(kind(&known, 599), None);
        assert_eq!(kind(&known, 600), Some(Kind::Full));
        known.used = false;
        assert_eq!(kind(&known, 600), None, "there is nothing to restore");
        known.used = true;
        let full = snapshot(1, 0, 1000);
        (known.newest, known.full) = (Some(full), Some(full));
        assert_eq!(kind(&known, 1000 + 3599), None);
        assert_eq!(kind(&known, 1000 + 3600), Some(Kind::On(full.id, 1)));
        known.changed = false;
        assert_eq!(kind(&known, 1000 + 3600), None);
        assert_eq!(kind(&known, 1000 + 86_400), Some(Kind::Full));
        assert_eq!(kind(&known, 999), Some(Kind::Full), "the clock went back");
        assert_eq!(
            due(&known, (Duration::ZERO, HOUR), at(0), at(1 << 40)),
            None
        );
    }

    #[test]
    fn a_chain_ends() {
        let mut known = Known {
            newest: Some(snapshot(60, LONGEST_CHAIN - 1, 1000)),
            full: Some(snapshot(1, 0, 900)),
            used: true,
            changed: true,
        };
        let next = Kind::On(snapshot(60, 0, 0).id, LONGEST_CHAIN);
        assert_eq!(kind(&known, 1000 + 3600), Some(next));
        known.newest = Some(snapshot(61, LONGEST_CHAIN, 1000));
        assert_eq!(kind(&known, 1000 + 3600), Some(Kind::Full));
    }
}
