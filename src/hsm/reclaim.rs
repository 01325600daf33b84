//! Bytes leave a tier (P8): what nobody needs is deleted, what is partly needed is repacked, and
//! what the catalog does not know is looked at and kept.
//!
//! One [`pass`] looks at one tier: it compares the tier's objects with the catalog ([`census`]),
//! judges each aggregate that lost members ([`judge`]), and condemns, deletes ([`remove`]) or
//! copies what is needed into a new one ([`repack`]). What is to be done is decided as a value
//! first, and looked at again by whoever does it.
//!
//! Invariants:
//! - An object is deleted only after, in this order: its own index was read and every member in it
//!   and in the catalog is dead, or moved and proven; a durable transaction condemned it after the
//!   same look; a delay; its index was read again, everything looked at again, a durable transaction
//!   doomed it; this process still holds the backing's mark. The rows go after the object.
//! - Only what this epoch decided is carried out. After a start, whatever an earlier one had decided
//!   is undone where the object is still there; and so is a deletion that failed.
//! - Snapshots of the namespace are no aggregates of files: they have rules of their own ([`listings`]),
//!   and the same way out.
//! - Objects without rows are never deleted, and neither is one whose index cannot be read.
//! - A file in parts lives and dies with the aggregate that has its last part: that one is judged, copied and
//!   deleted first; the others have no rows, and go after it. One whose aggregate is nowhere waits as long as
//!   what nobody knows ([`orphans`]).
//! - A stop after any step leaves every file readable.

mod census;
mod check;
mod judge;
mod listings;
mod media;
mod memory;
mod orphans;
mod placing;
mod remove;
mod repack;
mod successor;

pub use check::{Comparison, Difference, Differs, check};
pub use media::{Left, evacuate, free_cartridges};
pub use memory::Memory;
pub(in crate::hsm) use repack::ASIDE;

use crate::catalog::{Bound, Catalog, CatalogError, Hold};
use crate::config::Percent;
use crate::format::aggregate::AggregateError;
use crate::hsm::backing::Backing;
use crate::hsm::index_cache::IndexCache;
use crate::hsm::restore::RestoreError;
use crate::hsm::tape::desk::Seat;
use crate::hsm::verify::VerifyError;
use crate::id::{AggregateId, TierId, Timestamp};
use crate::tier::{Tier, TierError};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Aggregates that a report names one by one.
const LISTED: usize = 1000;
/// Rows and objects looked at together.
const PAGE: usize = 1000;

/// What an administrator sets.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// How long bytes outlive the name that they had.
    pub keep: Duration,
    /// Between the decision to delete an object and its deletion.
    pub delay: Duration,
    /// An aggregate of which so much can go is repacked.
    pub dead_share: Percent,
}

/// What was just done; a stop after any of them is survived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// An unknown aggregate is in the catalog, quarantined.
    Quarantined,
    /// It is decided that an object goes.
    Condemned,
    /// It is about to be deleted.
    Doomed,
    /// The object is gone.
    Deleted,
    /// Its rows are gone.
    Forgotten,
    /// Another piece of a member was copied.
    Copying,
    /// A new aggregate is durable, and the catalog does not know it.
    Copied,
    /// The rows of what was copied point at it.
    Moved,
}

/// An aggregate's name, and what says that it is being composed until it is dropped.
pub type Named = (AggregateId, Box<dyn std::any::Any>);

/// One tier, and what a pass over it needs.
pub struct Ground<'a> {
    /// Where it is known what is needed.
    pub catalog: &'a Catalog,
    /// The files.
    pub backing: &'a Backing,
    /// The tier.
    pub tier: &'a dyn Tier,
    /// Its number.
    pub id: TierId,
    /// Waits for the turn of an aggregate that is to be read, where that has to be waited for.
    pub seat: &'a dyn Fn(AggregateId) -> Option<Seat>,
    /// What is cached of its aggregates.
    pub indexes: &'a IndexCache,
    /// What was set.
    pub rules: Rules,
    /// The running incarnation's epoch.
    pub epoch: u32,
    /// Aggregates that could not be copied since the start.
    pub unfit: &'a Unfit,
    /// What was learned of namespace snapshots since the start.
    pub memory: &'a Memory,
    /// Names an aggregate that is to be composed.
    pub name: &'a dyn Fn() -> Result<Named, CatalogError>,
    /// The time.
    pub now: &'a dyn Fn() -> Timestamp,
    /// Time that passed since some moment before the start: no setting of the clock moves it.
    pub steady: &'a dyn Fn() -> Duration,
    /// Asked after each step, and before each read: `true`: go no further.
    pub stop: &'a dyn Fn(Option<Step>) -> bool,
}

/// Aggregates that could not be copied. They are not tried again before the next start: what cannot be
/// read would be read to the same place again and again.
#[derive(Debug, Default)]
pub struct Unfit(Mutex<BTreeSet<(TierId, AggregateId)>>);

/// Why a pass ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReclaimError {
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The tier.
    #[error(transparent)]
    Tier(#[from] TierError),
    /// An index could not be read.
    #[error("reading the index of {aggregate}: {source}")]
    Index {
        /// Which.
        aggregate: AggregateId,
        /// Why.
        source: VerifyError,
    },
    /// A namespace snapshot could not be read.
    #[error("looking at the namespace snapshot {snapshot}: {source}")]
    Snapshot {
        /// Which.
        snapshot: AggregateId,
        /// Why.
        source: RestoreError,
    },
    /// A new aggregate could not be composed.
    #[error("repacking {aggregate}: {source}")]
    Compose {
        /// From which.
        aggregate: AggregateId,
        /// Why.
        source: AggregateError,
    },
    /// Something that is needed of an aggregate has no place in another.
    #[error("{aggregate} is not repacked: {why}")]
    Unplaced {
        /// Which.
        aggregate: AggregateId,
        /// Why.
        why: String,
    },
    /// The tier has no room for another object.
    #[error(
        "{aggregate} is not repacked: the tier has {free} bytes free, {len} and a reserve are needed"
    )]
    NoRoom {
        /// Which.
        aggregate: AggregateId,
        /// About as long as the new one would be.
        len: u64,
        /// What is free.
        free: u64,
    },
    /// The tier's receipt is not for what was written.
    #[error("the tier's receipt for {aggregate} does not fit what was written")]
    Receipt {
        /// Which.
        aggregate: AggregateId,
    },
    /// Another instance serves the backing by now.
    #[error(
        "the backing's mark is not that of this epoch: another instance serves it, or the directory was replaced"
    )]
    Superseded,
    /// The caller asked to stop.
    #[error("stopped")]
    Stopped,
}

impl ReclaimError {
    /// The aggregate at hand is left alone, and the pass goes on with the next one.
    fn is_of_one(&self) -> bool {
        match self {
            Self::Index { source, .. } => !matches!(
                source,
                VerifyError::Tier(TierError::Unavailable { .. }) | VerifyError::Stopped
            ),
            Self::Snapshot { source, .. } => source.is_damage(),
            Self::Compose { .. }
            | Self::Receipt { .. }
            | Self::Unplaced { .. }
            | Self::NoRoom { .. } => true,
            // One object that always fails must not end every pass.
            Self::Tier(why) => !matches!(why, TierError::Unavailable { .. }),
            Self::Catalog(_) | Self::Superseded | Self::Stopped => false,
        }
    }
}

/// What is, or would be, done with an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// It was not known and is now quarantined.
    Quarantine,
    /// It left quarantine.
    Release,
    /// It is decided that it goes.
    Condemn,
    /// It waits for its deletion.
    Wait,
    /// Its object is gone.
    Delete,
    /// It was condemned, and something needs it again.
    Spare,
    /// What is needed of it was copied.
    Repack,
    /// It was left alone because something failed.
    Fail,
}

/// One aggregate in a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    /// Which.
    pub aggregate: AggregateId,
    /// What.
    pub act: Act,
    /// Bytes that the tier has more room for, or will have.
    pub bytes: u64,
    /// Why, in words.
    pub why: String,
}

/// What a pass over a tier did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Objects on the tier.
    pub objects: u64,
    /// Aggregates of the catalog whose object is missing.
    pub missing: u64,
    /// Objects that cannot be read as aggregates of this instance, and why; the first few.
    pub strange: Vec<(AggregateId, String)>,
    /// What was done, in order; the first few.
    pub deeds: Vec<Deed>,
    /// All that was done.
    pub done: BTreeMap<&'static str, u64>,
    /// Bytes that can go now, or went.
    pub reclaimable: u64,
    /// Members that nobody's file has any more, or whose aggregate is looked at, by what keeps them.
    pub holds: BTreeMap<Hold, u64>,
    /// Aggregates that lost members, but fewer than are worth a repack.
    pub below_share: u64,
    /// When the next of them may go, as far as is known.
    pub next: Option<Timestamp>,
}

impl Act {
    /// A stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quarantine => "quarantine",
            Self::Release => "release",
            Self::Condemn => "condemn",
            Self::Wait => "wait",
            Self::Delete => "delete",
            Self::Spare => "spare",
            Self::Repack => "repack",
            Self::Fail => "fail",
        }
    }
}

impl Report {
    fn note(&mut self, aggregate: AggregateId, act: Act, bytes: u64, why: impl ToString) {
        *self.done.entry(act.as_str()).or_default() += 1;
        let deed = Deed {
            aggregate,
            act,
            bytes,
            why: why.to_string(),
        };
        tracing::info!(%aggregate, act = act.as_str(), bytes, why = deed.why, "reclaim");
        if self.deeds.len() < LISTED {
            self.deeds.push(deed);
        }
    }

    /// What is due already waits for something else: a scan, say.
    fn wait_until(&mut self, at: Timestamp, now: Timestamp) {
        if at <= now {
            return;
        }
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }
}

impl Ground<'_> {
    fn bound(&self) -> Bound {
        let now = (self.now)();
        Bound {
            before: earlier(now, self.rules.keep),
            now,
        }
    }

    fn did(&self, step: Step) -> Result<(), ReclaimError> {
        if (self.stop)(Some(step)) {
            return Err(ReclaimError::Stopped);
        }
        Ok(())
    }

    fn go_on(&self) -> Result<(), ReclaimError> {
        if (self.stop)(None) {
            return Err(ReclaimError::Stopped);
        }
        Ok(())
    }
}

/// A moment `by` before another.
fn earlier(at: Timestamp, by: Duration) -> Timestamp {
    let nanos = at
        .nanos()
        .saturating_sub(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX));
    Timestamp {
        sec: nanos.div_euclid(1_000_000_000),
        nsec: u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0),
    }
}

/// A moment `by` after another.
fn later(at: Timestamp, by: Duration) -> Timestamp {
    let nanos = at
        .nanos()
        .saturating_add(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX));
    Timestamp {
        sec: nanos.div_euclid(1_000_000_000),
        nsec: u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0),
    }
}

/// Looks at a whole tier. `dry`: nothing is changed, neither on the tier nor in the catalog.
///
/// # Errors
/// [`ReclaimError`]: the pass ended early; what it did is done.
pub fn pass(ground: &Ground<'_>, dry: bool) -> Result<Report, ReclaimError> {
    let mut report = Report::default();
    let orphans = census::take(ground, dry, &mut report)?;
    census::settle_quarantines(ground, dry, &mut report)?;
    remove::undo_earlier(ground, dry, &mut report)?;
    remove::carry_out(ground, dry, &mut report)?;
    orphans::decide(ground, &orphans, dry, &mut report)?;
    decide(ground, dry, &mut report)?;
    listings::pass(ground, dry, &mut report)?;
    Ok(report)
}

/// Learns of what lies on a tier and the catalog does not know, and nothing else.
///
/// # Errors
/// [`ReclaimError`].
pub fn survey(ground: &Ground<'_>) -> Result<Report, ReclaimError> {
    let mut report = Report::default();
    census::take(ground, false, &mut report)?;
    Ok(report)
}

/// Judges all aggregates that lost members, and begins what is to be done about each.
fn decide(ground: &Ground<'_>, dry: bool, report: &mut Report) -> Result<(), ReclaimError> {
    let mut after = None;
    loop {
        let rows = ground.catalog.retired(ground.id, after, PAGE)?;
        for row in &rows {
            ground.go_on()?;
            after = Some(row.id);
            match decide_one(ground, row, dry, report) {
                Err(why) if why.is_of_one() => report.note(row.id, Act::Fail, 0, why),
                done => done?,
            }
        }
        if rows.len() < PAGE {
            return Ok(());
        }
    }
}

fn decide_one(
    ground: &Ground<'_>,
    row: &crate::catalog::Aggregate,
    dry: bool,
    report: &mut Report,
) -> Result<(), ReclaimError> {
    let share = u64::from(ground.rules.dead_share.get());
    // Its catalog's rows can say no, and then its index need not be read.
    let hopeless = judge::hopeless(ground, row, share, report)?;
    if hopeless {
        return Ok(());
    }
    let judged = judge::judge(ground, row)?;
    judged.tell(report);
    match judged.verdict(share) {
        judge::Verdict::Stays => {
            report.below_share += 1;
            Ok(())
        }
        judge::Verdict::Goes => condemn(ground, row, &judged, dry, report),
        judge::Verdict::Repack => {
            report.reclaimable += judged.dead;
            let why = judged.why_it_is_repacked();
            if !dry && !copy(ground, row, &judged)? {
                return Ok(());
            }
            report.note(row.id, Act::Repack, judged.dead, why);
            Ok(())
        }
    }
}

/// Decides that an aggregate goes of which nothing is needed.
fn condemn(
    ground: &Ground<'_>,
    row: &crate::catalog::Aggregate,
    judged: &judge::Judged,
    dry: bool,
    report: &mut Report,
) -> Result<(), ReclaimError> {
    report.reclaimable += row.len;
    let why = judged.why_it_goes();
    if !dry {
        let keys = judged.keys.clone();
        let decided = ground
            .catalog
            .condemn(ground.id, row.id, keys, ground.bound())?;
        if let Err(hold) = decided {
            *report.holds.entry(hold).or_default() += 1;
            return Ok(());
        }
        let now = (ground.now)();
        report.wait_until(later(now, ground.rules.delay), now);
    }
    report.note(row.id, Act::Condemn, row.len, why);
    if dry {
        Ok(())
    } else {
        ground.did(Step::Condemned)
    }
}

/// `false`: it was not done.
fn copy(
    ground: &Ground<'_>,
    row: &crate::catalog::Aggregate,
    judged: &judge::Judged,
) -> Result<bool, ReclaimError> {
    let place = (ground.id, row.id);
    if ground.unfit.0.lock().contains(&place) {
        return Ok(false);
    }
    let done = repack::repack(ground, row, judged);
    if let Err(ReclaimError::Compose { .. } | ReclaimError::Receipt { .. }) = &done {
        // A stop in the middle says nothing of it.
        ground.go_on()?;
        ground.unfit.0.lock().insert(place);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else the collector would run again and again.
    #[test]
    fn what_is_due_already_is_no_time_to_come_back() {
        let at = |sec| Timestamp { sec, nsec: 0 };
        let mut report = Report::default();
        report.wait_until(at(5), at(5));
        report.wait_until(at(4), at(5));
        assert_eq!(report.next, None);
        report.wait_until(at(9), at(5));
        report.wait_until(at(7), at(5));
        report.wait_until(at(3), at(5));
        assert_eq!(report.next, Some(at(7)));
    }
}
