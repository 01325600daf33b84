//! Healing: a bad copy is made again on its tier, from the data on disk or from a good copy on
//! another tier, as durable archives that nobody asked for.
//!
//! Invariants:
//! - What is to be healed is what the catalog has as bad and needed, so a crash loses nothing of it.
//! - A bad copy is retired only when another one on its tier is durable and good, and the stub of a
//!   released file no longer names it. It is never rewritten, and never read from (P9).
//! - At most one request for each tier at a time, of a bounded number of files and bytes; what could
//!   not be healed rests, longer each time.

use super::{EngineError, Shared, Slot, tree};
use crate::catalog::{
    BadCopy, Copy, CopyPlace, CopyState, Durability, FileState, NewAction, NewRequest, Node,
    NodeId, Origin, Verb, Version,
};
use crate::format::record::CopyHint;
use crate::hsm::archive::restub;
use crate::hsm::backing::BackingError;
use crate::id::{AggregateId, DataVersion, FileId, RequestId, TierId};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the thread looks when nothing rings.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bad copies looked at together, and pages of them in one round.
const PAGE: usize = 1000;
const PAGES: usize = 8;
/// Files and bytes of one request.
const MOST: (usize, u64) = (10_000, 256 << 30);
/// How long what could not be healed rests at first, and at last.
const PAUSE: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(86_400));

/// Copies that are remembered as tried, about.
const REMEMBERED: usize = 100_000;

/// A copy that was to be healed: which version, on which tier.
type Key = (FileId, DataVersion, TierId);

/// What was tried, and when it is tried again.
#[derive(Default)]
pub(super) struct Tried {
    copies: HashMap<Key, (Instant, Duration)>,
    /// Requests of this process that have not ended.
    open: HashMap<TierId, RequestId>,
    /// Behind what the last round looked at. What nothing can be done about must not be in the way.
    behind: HashMap<TierId, CopyPlace>,
}

impl Tried {
    fn rests(&self, key: &Key, now: Instant) -> bool {
        self.copies.get(key).is_some_and(|(until, _)| *until > now)
    }

    fn note(&mut self, key: Key, now: Instant) {
        if self.copies.len() >= REMEMBERED {
            self.copies.retain(|_, (until, _)| *until > now);
        }
        let pause = self
            .copies
            .get(&key)
            .map_or(PAUSE.0, |(_, pause)| pause.saturating_mul(2).min(PAUSE.1));
        self.copies.insert(key, (now + pause, pause));
    }
}

/// The healing thread, until the engine stops.
pub(super) fn work(shared: &Arc<Shared>) {
    let (mut tried, mut heard) = (Tried::default(), 0);
    while !shared.stopping() {
        if shared.settings.heal {
            for slot in &shared.tiers {
                let round = || round(shared, slot, &mut tried);
                match catch_unwind(AssertUnwindSafe(round)) {
                    Ok(Ok(())) => {}
                    Ok(Err(why)) => {
                        tracing::warn!(tier = %slot.name, %why, "bad copies could not be healed; tried again");
                    }
                    Err(_) => tracing::error!("healing panicked; it is tried again"),
                }
            }
        }
        heard = shared.bell.wait(heard, PATIENCE);
        // It rings for much else.
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// One look at a tier's bad copies.
pub(super) fn round(shared: &Shared, slot: &Slot, tried: &mut Tried) -> Result<(), EngineError> {
    if shared.proof.is_doubtful(slot.id) {
        return Ok(());
    }
    let counts = shared.catalog.proof_counts()?;
    if !counts.iter().any(|c| c.tier == slot.id && c.bad > 0) {
        return Ok(());
    }
    let running = match tried.open.get(&slot.id) {
        Some(id) => shared
            .catalog
            .request(*id)?
            .is_some_and(|r| r.finished.is_none()),
        None => false,
    };
    let (mut actions, mut bytes) = (Vec::new(), 0_u64);
    for _ in 0..PAGES {
        let after = tried.behind.remove(&slot.id);
        let page = shared.catalog.bad_copies(slot.id, after, PAGE)?;
        let (more, mut made) = (page.len() == PAGE, Vec::new());
        let last = page.last().map(|bad| bad.copy.place());
        for bad in page {
            if shared.stopping() {
                break;
            }
            let full = actions.len() >= MOST.0 || bytes >= MOST.1;
            match look(shared, slot, &bad)? {
                Look::Made(instead) if settle(shared, &bad, &instead)? => {
                    made.push((bad.copy, instead))
                }
                Look::Made(_) => {}
                Look::Wanted(node) if !running && !full => {
                    let key = (bad.copy.file, bad.copy.version, slot.id);
                    if !tried.rests(&key, Instant::now()) && !is_asked_for(shared, slot, &node)? {
                        tried.note(key, Instant::now());
                        bytes += bad.copy.stored_len;
                        actions.push(action(slot, &node, &bad.copy));
                    }
                }
                Look::Wanted(_) | Look::Hopeless => {}
            }
        }
        retire(shared, slot, made)?;
        if !more || shared.stopping() {
            break;
        }
        tried.behind.extend(last.map(|last| (slot.id, last)));
    }
    if !actions.is_empty() {
        let id = ask(shared, slot, actions)?;
        tried.open.insert(slot.id, id);
    }
    Ok(())
}

/// What can be done about a bad copy.
enum Look {
    /// A good one lies on its tier.
    Made(Copy),
    /// It can be made again.
    Wanted(Box<Node>),
    /// Not now: nobody needs it, or there is nothing to make it from.
    Hopeless,
}

fn look(shared: &Shared, slot: &Slot, bad: &BadCopy) -> Result<Look, EngineError> {
    let node = bad.node.map(|id| shared.catalog.node(id)).transpose()?;
    let Some(node) = node.flatten() else {
        return Ok(Look::Hopeless);
    };
    let Some(version) = node.version else {
        return Ok(Look::Hopeless);
    };
    if (version.file, version.version) != (bad.copy.file, bad.copy.version) {
        return Ok(Look::Hopeless);
    }
    let good = good_copies(shared, &version)?;
    if let Some(instead) = good.iter().find(|copy| copy.tier == slot.id) {
        return Ok(Look::Made(*instead));
    }
    let from_elsewhere = good.iter().any(|copy| shared.slot(copy.tier).is_some());
    Ok(match node.state {
        FileState::Archived if !node.noarchive => Look::Wanted(Box::new(node)),
        FileState::Released if from_elsewhere => Look::Wanted(Box::new(node)),
        _ => Look::Hopeless,
    })
}

/// Good copies of a version, in the order of the tiers' configuration.
pub(super) fn good_copies(shared: &Shared, version: &Version) -> Result<Vec<Copy>, EngineError> {
    let mut good = shared.catalog.copies(version.file, version.version)?;
    good.retain(|c| c.state == CopyState::Good && c.crc == version.crc);
    let place = |copy: &Copy| shared.tiers.iter().position(|t| t.id == copy.tier);
    good.sort_by_key(|copy| (place(copy).is_none(), place(copy), copy.aggregate));
    Ok(good)
}

fn is_asked_for(shared: &Shared, slot: &Slot, node: &Node) -> Result<bool, EngineError> {
    let open = shared.catalog.open_actions_of(node.id)?;
    let same = |a: &crate::catalog::Action| a.verb == Verb::Archive && a.tier == Some(slot.id);
    Ok(open.iter().any(same))
}

fn action(slot: &Slot, node: &Node, copy: &Copy) -> NewAction {
    // Neighbours in the lost aggregate are packed together again.
    let AggregateId { epoch, seq } = copy.aggregate;
    let near = (u64::from(epoch) << 40 ^ seq) & (i64::MAX as u64);
    NewAction {
        node: node.id,
        handle: node.handle.clone(),
        tier: Some(slot.id),
        bytes: copy.stored_len,
        place: None,
        near: NodeId(near.cast_signed()),
        refused: None,
    }
}

fn ask(shared: &Shared, slot: &Slot, actions: Vec<NewAction>) -> Result<RequestId, EngineError> {
    let files = actions.len();
    let new = NewRequest {
        verb: Verb::Archive,
        uid: 0,
        gid: 0,
        origin: Origin::Policy,
        key: None,
        tier: Some(slot.id),
        options: "{}".into(),
        sealed: true,
    };
    let id = shared.catalog.submit(new, actions, shared.now())?.id;
    tracing::info!(request = id.0, tier = %slot.name, files, "bad copies are made again");
    shared.bell.ring();
    Ok(id)
}

/// Another copy took the place of a bad one: the stub says so. `false`: not now.
fn settle(shared: &Shared, bad: &BadCopy, instead: &Copy) -> Result<bool, EngineError> {
    for node in shared.catalog.nodes_by_file(bad.copy.file)? {
        let Some(_claim) = shared.lanes.claim(&node.handle) else {
            // Whoever works on it now is done soon.
            return Ok(false);
        };
        let Some(version) = node.version else {
            continue;
        };
        if (version.file, version.version) != (bad.copy.file, bad.copy.version) {
            continue;
        }
        match rename_copies(shared, &node, &version, instead) {
            Ok(true) => {}
            // What took its place is gone, or bad, by now.
            Ok(false) => return Ok(false),
            // A file that went needs no copy.
            Err(EngineError::Backing(BackingError::Gone { .. })) => {}
            // One whose stub cannot be written now must not keep the others from theirs.
            Err(EngineError::Backing(why)) => {
                tracing::debug!(%why, "a stub keeps the name of a bad copy; tried again");
                return Ok(false);
            }
            Err(why) => return Err(why),
        }
    }
    Ok(true)
}

/// Then the catalog. `made`: bad copies, and those in their place.
fn retire(shared: &Shared, slot: &Slot, made: Vec<(Copy, Copy)>) -> Result<(), EngineError> {
    let bad: Vec<_> = made.iter().map(|(bad, _)| *bad).collect();
    if bad.is_empty() || shared.catalog.retire(bad, Durability::Full)? == 0 {
        return Ok(());
    }
    for (bad, instead) in made {
        tracing::info!(file = %bad.file, tier = %slot.name, aggregate = %instead.aggregate, "a bad copy was made again");
        shared.tell_copy(slot, &bad, instead.aggregate, None);
    }
    Ok(())
}

/// The stub names the good copies; `false`: the one that is to be among them is none.
fn rename_copies(
    shared: &Shared,
    node: &Node,
    version: &Version,
    instead: &Copy,
) -> Result<bool, EngineError> {
    let good = good_copies(shared, version)?;
    if !good
        .iter()
        .any(|copy| copy.place() == instead.place() && copy.tier == instead.tier)
    {
        return Ok(false);
    }
    let hints: Vec<CopyHint> = good
        .iter()
        .map(|c| CopyHint {
            tier: c.tier,
            aggregate: c.aggregate,
            header: c.header,
        })
        .collect();
    let hint = tree::hint(shared, &node.handle)?;
    let of = (version.file, version.version);
    let written = restub(&shared.backing, &node.handle, hint.as_deref(), of, &hints)?;
    if let Some(Some(settle)) = written {
        let _ = shared.settles.send(settle);
    }
    Ok(true)
}
