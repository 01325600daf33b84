//! A namespace snapshot: the backing is walked, and what is found goes to tiers as an aggregate.
//!
//! What is promised, though users work meanwhile ([`walk`] keeps it):
//! - A name that a directory has during the whole walk, and that stays in it, is listed; each name as
//!   it was at one moment of the walk.
//! - A file or directory that exists throughout and is moved from one directory to another meanwhile
//!   is listed at least once: directories that changed after they were listed are listed once more,
//!   until none does, at most [`walk::ROUNDS`] times. Only what is moved on and on can be missed.
//! - What changed after the walk began is in the next incremental one, whether or not it is in this.
//!
//! Invariants: nothing is called a snapshot before a tier's receipt fits it; what could not be looked
//! at is counted in its end line; memory grows with directories (about a hundred bytes each), never
//! with names.

mod entry;
mod put;
#[cfg(test)]
pub(in crate::hsm) mod tests;
mod walk;

pub use entry::Knows;

use crate::format::aggregate::AggregateError;
use crate::format::namespace::{Base, Head};
use crate::hsm::backing::{Backing, BackingError};
use crate::id::{AggregateId, NodeHandle, Timestamp};
use crate::tier::{Receipt, Tier, TierError};
use std::time::{Duration, Instant};

/// What to take.
pub struct Order<'a> {
    /// Of what.
    pub backing: &'a Backing,
    /// Where to, all at once: each gets the same bytes under the same name.
    pub tiers: &'a [&'a dyn Tier],
    /// Its name, never used before.
    pub snapshot: AggregateId,
    /// `None`: everything; else on what it stands, and since when a directory counts as changed.
    pub base: Option<(Base, Timestamp)>,
    /// Aggregates from this name on may hold files that are not in it.
    pub horizon: AggregateId,
    /// What is known of files beside their records.
    pub knows: &'a dyn Knows,
    /// A path of a directory, where nodes are found by name.
    pub hint: &'a dyn Fn(&NodeHandle) -> Option<Vec<u8>>,
    /// Asked again and again: give up?
    pub stop: &'a dyn Fn() -> bool,
    /// Rest as long as it works.
    pub gentle: bool,
    /// Now.
    pub now: &'a dyn Fn() -> Timestamp,
}

/// A snapshot that at least one tier has.
#[derive(Debug)]
pub struct Taken {
    /// By tier, in the order's order.
    pub receipts: Vec<Result<Receipt, TierError>>,
    /// Directories listed; in an incremental one those that changed.
    pub directories: u64,
    /// Names listed.
    pub entries: u64,
    /// What could not be looked at.
    pub gaps: u64,
    /// When the walk began.
    pub begun: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// How long it all took.
    pub took: Duration,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The root cannot be looked at.
    #[error(transparent)]
    Backing(#[from] BackingError),
    /// What is known of files cannot be read.
    #[error("looking up what is known of files: {0}")]
    Knows(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The aggregate could not be composed.
    #[error("composing {snapshot}: {source}")]
    Compose {
        /// Which.
        snapshot: AggregateId,
        /// Why.
        source: AggregateError,
    },
    /// No tier took it; what the first of them said.
    #[error("no tier took the snapshot: {0}")]
    Tiers(#[source] TierError),
    /// The caller asked to stop.
    #[error("stopped")]
    Stopped,
    /// Nothing changed since its base: there is no need for one.
    #[error("nothing changed")]
    Unchanged,
}

/// How far behind the clock a change may be stamped: a tick of the coarse clock, and a filesystem
/// that keeps whole seconds.
const MARGIN: Duration = Duration::from_secs(2);

/// Takes a snapshot. Blocks for as long as it takes.
///
/// # Errors
/// [`SnapshotError`]; then no tier has it.
pub fn take(order: &Order<'_>) -> Result<Taken, SnapshotError> {
    let (started, begun) = (Instant::now(), (order.now)());
    let backing = order.backing;
    let head = Head {
        snapshot: order.snapshot,
        fs: backing.fs(),
        base: order.base.map(|(base, _)| base),
        begun,
        horizon: order.horizon,
        root: backing.handle_of(backing.root())?,
    };
    let mut put = put::Put::begin(order, begun)?;
    let since = order
        .base
        .map(|(_, since)| super::engine::shifted(since, MARGIN, false));
    let mut walk = walk::Walk::new(order, since, head, &mut put);
    walk.whole()?;
    let (listing, gaps) = walk.finish();
    let (directories, entries) = listing.counts();
    if order.base.is_some() && directories == 0 {
        return Err(SnapshotError::Unchanged);
    }
    let ended = (order.now)();
    put.part(&listing.finish(ended))?;
    Ok(Taken {
        receipts: put.finish()?,
        directories,
        entries,
        gaps,
        begun,
        ended,
        took: started.elapsed(),
    })
}
