//! A new backing of stubs from a tier alone: names, links, attributes and ACLs as of a namespace
//! snapshot. Reads through a mount of it then recall.
//!
//! Invariants:
//! - The tier is only read.
//! - No file is ever visible under its name as a hole without its stub (invariant 3): the tree is made
//!   in a hidden directory below the guarded target, each file is named there after it has its record,
//!   and all of it moves to its place only when it is durable ([`site`]).
//! - Every name is one component, made below a descriptor, without following anything ([`make`]).
//! - A restore that was killed goes on when the same command is given again; until it is done, no
//!   instance starts on the target ([`is_unfinished`]).
//! - What cannot be restored is said, each name with the reason; nothing is made of zeros.

mod find;
mod later;
mod make;
mod node;
mod probe;
mod site;
mod spool;
#[cfg(test)]
pub(in crate::hsm) mod tests;

pub use find::{Found, Listed, all as snapshots};
pub(in crate::hsm) use find::{Seen, read_whole, see, snapshot_names};
pub use site::is_unfinished;

use crate::format::aggregate::AggregateError;
use crate::format::namespace::ListingError;
use crate::hsm::backing::BackingError;
use crate::hsm::index_cache::{IndexCache, IndexError};
use crate::id::{AggregateId, Timestamp};
use crate::tier::{Tier, TierError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Memory for indexes.
const INDEXES: usize = 64 << 20;

/// What to restore.
pub struct Order<'a> {
    /// From where.
    pub tier: &'a dyn Tier,
    /// To where: made if it is not there, else empty.
    pub to: &'a Path,
    /// As of the newest snapshot that began at this time or before; `None`: the newest.
    pub at: Option<Timestamp>,
    /// Put files that were archived after the snapshot where the index of their aggregate says.
    pub with_later: bool,
    /// Name of this host.
    pub host: &'a str,
    /// Now.
    pub now: Timestamp,
    /// Called at each step, for tests that stop it there; an error ends it as a crash would.
    pub reached: &'a dyn Fn(Step) -> io::Result<()>,
}

/// Moments of a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// The target is marked.
    Marked,
    /// The listings are on the target's disk.
    Spooled,
    /// A file is whole, and has no name yet.
    Made,
    /// It has its name in the hidden tree.
    Named,
    /// A directory and all in it is done.
    Directory,
    /// The tree is made, but not durable.
    Tree,
    /// It is durable.
    Durable,
    /// Something moved to its place.
    Placed,
    /// All is in its place, and still marked.
    AllPlaced,
    /// What belongs to it is made, too; still marked.
    Belongings,
}

/// Why a name is not what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// No copy of it was on any tier: it is not there.
    NotArchived,
    /// It was changed after it was archived: the older version is there.
    Older,
    /// Its copies are on other tiers: its stub is there, and reads wait for those.
    Elsewhere,
    /// It is there, without extended attributes that the target refuses.
    Attributes,
    /// It could not be made.
    Failed,
    /// It came after the snapshot and is not there.
    Later,
    /// It came after the snapshot and is there, where its aggregate says.
    LaterPlaced,
}

impl Loss {
    /// The word in the report.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotArchived => "not-archived",
            Self::Older => "older",
            Self::Elsewhere => "elsewhere",
            Self::Attributes => "attributes",
            Self::Failed => "failed",
            Self::Later => "later",
            Self::LaterPlaced => "later-placed",
        }
    }
}

/// Hears of every name that is not what it was.
pub trait Report {
    /// `path`: below the root.
    ///
    /// # Errors
    /// Ends the restore.
    fn lost(&mut self, path: &[u8], loss: Loss, why: &str) -> io::Result<()>;

    /// That was all; it must be durable when this returns. A restore that goes on behind this tells
    /// nothing again.
    ///
    /// # Errors
    /// Ends the restore.
    fn told(&mut self) -> io::Result<()>;

    /// All is in its place, and still no instance starts there: the time to make what belongs to it.
    /// Called again if the restore dies behind this.
    ///
    /// # Errors
    /// Ends the restore.
    fn placed(&mut self) -> io::Result<()>;
}

/// What was restored.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// From which snapshot, and when it began and ended.
    pub snapshot: Option<Found>,
    /// When its walk ended.
    pub ended: Timestamp,
    /// Snapshots that were newer and could not be used, with the reason.
    pub skipped: Vec<(AggregateId, String)>,
    /// Directories that are there.
    pub directories: u64,
    /// Other names.
    pub names: u64,
    /// Stubs among them.
    pub stubs: u64,
    /// Logical bytes of the stubs.
    pub bytes: u64,
    /// Names that could not be looked at when the snapshots were taken, and are in none.
    pub gaps: u64,
    /// Names that are not what they were, by why.
    pub lost: BTreeMap<Loss, u64>,
    /// Where the backing's root is guarded; `None`: users can reach it, and it stays mode 0700.
    pub guarded: bool,
}

/// Why nothing, or not everything, was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The tier.
    #[error(transparent)]
    Tier(#[from] TierError),
    /// There is no snapshot to restore from.
    #[error("there is no namespace snapshot on the tier{}", why.as_deref().unwrap_or(""))]
    None {
        /// More about it.
        why: Option<String>,
        /// Those that are there are all of a later time than was asked for: of this one and later.
        reach: Option<Timestamp>,
    },
    /// An aggregate's index.
    #[error(transparent)]
    Index(#[from] Arc<IndexError>),
    /// A listing.
    #[error(transparent)]
    Listing(#[from] ListingError),
    /// An aggregate's bytes.
    #[error("{aggregate}: {source}")]
    Aggregate {
        /// Which.
        aggregate: AggregateId,
        /// What is wrong.
        source: AggregateError,
    },
    /// A snapshot that is no whole one.
    #[error("the snapshot {snapshot}: {why}")]
    Snapshot {
        /// Which.
        snapshot: AggregateId,
        /// What is wrong.
        why: String,
    },
    /// The target is not fit.
    #[error("{}: {why}", path.display())]
    Target {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A step on the target.
    #[error(transparent)]
    Backing(#[from] BackingError),
    /// A system call.
    #[error("{step} {object}: {source}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// To what.
        object: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl RestoreError {
    /// The snapshot is at fault; one before it may do.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Snapshot { .. } | Self::Listing(_) | Self::Aggregate { .. } => true,
            Self::Index(why) => !why.is_passing(),
            Self::Tier(why) => !crate::hsm::index_cache::tier_is_passing(why),
            Self::None { .. } | Self::Target { .. } | Self::Backing(_) | Self::Io { .. } => false,
        }
    }

    fn io(step: &'static str, object: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Self {
        let object = object.to_string();
        move |source| Self::Io {
            step,
            object,
            source,
        }
    }
}

/// Restores.
///
/// # Errors
/// [`RestoreError`]: the target is left marked as unfinished; given the same order again, the restore
/// goes on.
pub fn restore(order: &Order<'_>, report: &mut dyn Report) -> Result<Outcome, RestoreError> {
    let indexes = IndexCache::new(INDEXES);
    let mut site = site::Site::open(order)?;
    let fresh = site.snapshot().is_none();
    let (chain, skipped) = find::chain(order, &indexes, site.snapshot())?;
    let later = later::Later::read(order, &indexes, &chain)?;
    let newest = chain.last().map(|link| link.found);
    site.mark(order, &chain, &skipped)?;
    (order.reached)(Step::Marked).map_err(RestoreError::io("reach", "a step"))?;
    let mut outcome = Outcome {
        snapshot: newest,
        skipped: if fresh { skipped } else { site.skipped() },
        ..Outcome::default()
    };
    if !site.is_placing() {
        let spool = match spool::Spool::fill(order, &chain, &site) {
            // Nothing was made from it: another one can be.
            Err(why) if fresh && why.is_damage() => {
                site.give_up()?;
                return Err(why);
            }
            filled => filled?,
        };
        (order.reached)(Step::Spooled).map_err(RestoreError::io("reach", "a step"))?;
        let mut make = make::Make::new(order, &site, &spool, later, report, &mut outcome)?;
        make.tree()?;
        make.later(&indexes)?;
    }
    site.place(order, report, &mut outcome)?;
    Ok(outcome)
}
