//! The scan of everything that a rebuild makes.
//!
//! Invariants:
//! - It is not made again only while nobody else had the catalog since, and the same tiers were read to
//!   their end; then what it could not look at is looked at again.
//! - All records are read before a file without one is taken for what it looks like.

use super::compare::{Doubt, recognise};
use super::{Manner, Reached, Walk, subtree};
use crate::catalog::{NodeId, Rescan};
use crate::hsm::engine::{EngineError, Shared};
use crate::id::TierId;

/// Marks looked at in one run.
const MARKS: usize = 10_000;
/// Nodes settled in one transaction.
const PAGE: usize = 4000;
const MANNER: Manner = Manner {
    doubt: Doubt::Read,
    gentle: false,
};

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm::engine) enum Sweep {
    /// It looked everywhere.
    Done,
    /// It went everywhere, and something could not be looked at: marks say what.
    Gaps,
    /// It was stopped, and can be gone on with.
    Stopped,
}

/// One scan of everything for a catalog that is built anew, or the rest of it. `read`: the tiers of
/// which all was read, ascending.
pub(in crate::hsm::engine) fn sweep(
    shared: &Shared,
    read: &[TierId],
) -> Result<Sweep, EngineError> {
    let reached = match scan(shared, read)? {
        // Its own, or of what moved while it was under way.
        Reached::End => marked(shared)?,
        other => other,
    };
    if reached == Reached::Stopped {
        return Ok(Sweep::Stopped);
    }
    let found = match shared.has_read_tiers() {
        true => recognise(shared)?,
        false => Reached::End,
    };
    Ok(match (reached, found) {
        (_, Reached::Stopped) => Sweep::Stopped,
        (Reached::End, Reached::End) => Sweep::Done,
        _ => Sweep::Gaps,
    })
}

fn scan(shared: &Shared, read: &[TierId]) -> Result<Reached, EngineError> {
    let (state, last) = (
        shared.catalog.scan_state()?,
        shared.catalog.rebuild_sweep()?,
    );
    let counts = last.generation != 0 && last.tiers == read;
    if counts && state.running && state.generation == last.generation {
        return finish(shared, Walk::begin(shared)?);
    }
    let made = counts && !state.running && state.finished_generation == last.generation;
    let anew = || -> Result<bool, EngineError> {
        let marks = shared.catalog.rescans(MARKS)?;
        Ok(marks.iter().any(|mark| mark.node == NodeId::ROOT))
    };
    if made && !anew()? {
        return Ok(Reached::End);
    }
    let mut after = None;
    loop {
        after = shared.catalog.join_learned(after, PAGE)?;
        if after.is_none() {
            break;
        }
    }
    let generation = shared.catalog.begin_rebuild_sweep(read, shared.now())?;
    finish(shared, Walk::of(shared, generation)?)
}

fn finish(shared: &Shared, walk: Walk) -> Result<Reached, EngineError> {
    let reached = walk.run(shared, MANNER)?;
    if reached == Reached::Gaps && shared.catalog.rescans(1)?.is_empty() {
        // Too many to be told one by one.
        shared.catalog.need_rescan(vec![Rescan {
            node: NodeId::ROOT,
            since: shared.now(),
            why: "a rebuild could not look at many things".to_owned(),
        }])?;
    }
    Ok(reached)
}

/// Looks again at what marks are on.
fn marked(shared: &Shared) -> Result<Reached, EngineError> {
    let marks = shared.catalog.rescans(MARKS)?;
    let mut reached = if marks.len() < MARKS {
        Reached::End
    } else {
        Reached::Gaps
    };
    for mark in &marks {
        match subtree(shared, mark.node, MANNER)? {
            Reached::End => shared.catalog.rescanned(mark)?,
            Reached::Gaps => reached = Reached::Gaps,
            Reached::Stopped => return Ok(Reached::Stopped),
        }
    }
    Ok(reached)
}
