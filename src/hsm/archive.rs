//! P2: a batch of files becomes one aggregate on one tier.
//!
//! Invariants:
//! - A file counts as archived only after, in this order: a quiescent point, its bytes read, a
//!   second quiescent point with equal v, the tier's receipt, the catalog's durable commit. The
//!   record on the file comes last.
//! - A file that changed drops out of the batch and of the index; a large one, which stands alone,
//!   takes its aggregate with it (no trailer is ever written).
//! - A file that is longer than the tier takes goes there in parts ([`crate::hsm::parts`]), all of them between the two
//!   quiescent points, and is in the catalog when all are durable.
//! - A released, foreign or lost file is never archived: its zeros are not its data (P6).
//! - Memory is bounded by [`GROUP_BYTES`] and one small file, whatever the batch.

mod again;
mod ahead;
mod candidate;
mod compose;
mod identity;
mod opening;
mod recording;
mod source;
#[cfg(test)]
mod tests;

pub(in crate::hsm) use again::Verified;
pub use again::{Again, Kept, Origin, Uncopied, Wanted, copy_again, restub};
pub use recording::{NewRecord, Recorded, Unrecorded, write_records};

use crate::format::aggregate::{AggregateError, Index};
use crate::format::member::BadPath;
use crate::format::parts::Uncut;
use crate::format::record::CopyHint;
use crate::hsm::backing::{Backing, BackingError, How, NodeKind};
use crate::hsm::parts::PartsError;
use crate::hsm::version::{NotQuiet, Seen, Trust};
use crate::hsm::vouch::Remembered;
use crate::id::{AggregateId, DataVersion, FileId, NodeHandle, Timestamp};
use crate::tier::{Receipt, Tier, TierError, Unwanted};
use cairn_mover::Crc32c;
use compose::{Composer, Fault};
use std::collections::HashSet;
use std::os::fd::AsFd;
use std::time::Instant;

/// A file with at most this many stored bytes is packed with others; a larger one stands alone.
pub const SMALL: u64 = 8 << 20;
/// Files whose leases are held at the same time.
const GROUP_FILES: usize = 64;
/// Bytes read under leases before anything is given to the tier.
const GROUP_BYTES: u64 = 16 << 20;

/// What the catalog knows of a file from before.
#[derive(Debug, Clone)]
pub struct Prior {
    /// The file.
    pub file: FileId,
    /// The last version number that was ever given to its data, in failed attempts too.
    pub version: DataVersion,
    /// Size of that version, bytes.
    pub size: u64,
    /// Sum of that version.
    pub crc: Crc32c,
    /// What the file looked like then.
    pub seen: Option<(Seen, Trust)>,
    /// Copies of that version.
    pub copies: Vec<CopyHint>,
    /// Its data are only on tiers.
    pub released: bool,
    /// What the catalog has of it against which a file without a stub is held.
    pub remembered: Option<Remembered>,
}

/// A node to archive.
#[derive(Debug, Clone)]
pub struct Item {
    /// The inode; one item for each.
    pub node: NodeHandle,
    /// All its known names, relative to the root, the best first. Each is verified.
    pub names: Vec<Vec<u8>>,
    /// What is known of a regular file.
    pub prior: Option<Prior>,
}

/// What to archive, and where to.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    /// Where the files are.
    pub backing: &'a Backing,
    /// Where they go.
    pub tier: &'a dyn Tier,
    /// The new aggregate's name, never used before.
    pub aggregate: AggregateId,
    /// Now, for the aggregate's header.
    pub composed: Timestamp,
    /// The nodes. A regular file of more than [`SMALL`] stored bytes must be the only one.
    pub items: &'a [Item],
    /// The highest number that is known to have been given to data of a file.
    pub given: Given<'a>,
    /// Told when the aggregate, or a part of its file, is composed, and nothing but its tier is waited for.
    pub sealed: &'a (dyn Fn() + Sync),
    /// Asked then by a tier that waits for others that it writes together.
    pub unwanted: Option<&'a Unwanted>,
    /// Told when it is composed further, behind a part.
    pub resumed: &'a (dyn Fn() + Sync),
}

/// Says which of a file's version numbers is the highest that any copy or tombstone has; 0: none.
pub type Given<'a> = &'a (dyn Fn(FileId) -> Result<DataVersion, String> + Sync);

/// A file's data in the finished aggregate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Which item of the batch.
    pub item: usize,
    /// The file.
    pub file: FileId,
    /// Which data.
    pub version: DataVersion,
    /// Sum of the whole logical content.
    pub crc: Crc32c,
    /// Sum of the encoded list of block checksums.
    pub blocks_crc: Crc32c,
    /// Where the copy lies.
    pub copy: CopyHint,
    /// What the file looked like at both quiescent points.
    pub seen: Seen,
    /// When it looked so last.
    pub at: Instant,
    /// The names under which it is in the aggregate; the first carries the data.
    pub names: Vec<Vec<u8>>,
}

/// What the catalog is to commit durably (P2, step 5).
#[derive(Debug, Clone, Copy)]
pub struct Durable<'a> {
    /// The tier's receipt.
    pub receipt: &'a Receipt,
    /// What is in the aggregate.
    pub index: &'a Index,
    /// The files.
    pub copied: &'a [Copied],
}

/// Any error of the catalog's.
pub type CommitError = Box<dyn std::error::Error + Send + Sync>;

/// Why a node was left out, by rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Skip {
    /// A writer has the file open or mapped, or waits to open it: try later.
    #[error("somebody is writing to it")]
    Busy,
    /// It changed while it was being archived: try later.
    #[error("it changed while it was being archived")]
    Changed,
    /// The inode is gone.
    #[error("it no longer exists")]
    Vanished,
    /// None of its known names leads to it now: look its names up and try again.
    #[error("it was renamed")]
    Renamed,
    /// Its data are on tiers only.
    #[error("it is released: there is nothing on disk to archive")]
    Released,
    /// It carries the stub of another file.
    #[error("it carries the stub of another file (copied or restored from a backup)")]
    Foreign,
    /// No stub, and the catalog has its data released: not zeros, lost (P6).
    #[error("its stub is missing or was overwritten: it is lost until it is repaired")]
    Lost,
    /// More than [`SMALL`] stored bytes among others.
    #[error("it is too large to be packed with others ({0} bytes stored)")]
    StandsAlone(u64),
    /// The node is in the batch already.
    #[error("it is in the batch already")]
    Twice,
}

/// Why a node was left out, by failure.
#[derive(Debug, thiserror::Error)]
pub enum ItemError {
    /// A step on the backing failed.
    #[error(transparent)]
    Backing(#[from] BackingError),
    /// No quiescent point can be made.
    #[error(transparent)]
    NotQuiet(NotQuiet),
    /// Its name cannot be a member's.
    #[error(transparent)]
    Path(#[from] BadPath),
    /// Which version numbers were given is not known now.
    #[error("which data versions it had cannot be looked up: {0}")]
    Unnumbered(String),
    /// Nobody changed it, but its bytes are no longer those that were archived.
    #[error(
        "the disk gives other bytes than were archived ({found}, was {expected}), though nobody changed the file"
    )]
    Rotted {
        /// Sum of what was archived.
        expected: Crc32c,
        /// Sum of what was read.
        found: Crc32c,
    },
}

/// A file that was archived.
#[derive(Debug)]
pub struct Archived {
    /// The copy, as it was committed.
    pub copied: Copied,
    /// Whether the record is on the file; if not, [`write_records`] can be tried again.
    pub recorded: Result<Recorded, Unrecorded>,
}

/// What became of an item.
#[derive(Debug)]
pub enum Outcome {
    /// A complete copy of its data is on the tier and in the catalog.
    Archived(Box<Archived>),
    /// A node without data: its entry is in the aggregate.
    Entered {
        /// Offset of the entry (0 for a socket, which only the index lists).
        header: u64,
    },
    /// Left out by a rule.
    Skipped(Skip),
    /// Left out because something failed.
    Failed(ItemError),
}

/// What became of the batch.
#[derive(Debug)]
pub struct Report {
    /// The aggregate, if there is one: with its receipt and index.
    pub aggregate: Option<(Receipt, Index)>,
    /// One for each item, in order.
    pub outcomes: Vec<Outcome>,
}

/// Why the whole batch failed. No aggregate is visible on the tier, unless the catalog refused
/// the commit ([`Self::Commit`]): then it is one that nobody knows, for P8 to find.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The aggregate could not be composed.
    #[error("composing {aggregate}: {source}")]
    Compose {
        /// Which.
        aggregate: AggregateId,
        /// Why.
        source: AggregateError,
    },
    /// The tier failed.
    #[error(transparent)]
    Tier(#[from] TierError),
    /// The tier's receipt is not for what was written.
    #[error("the tier's receipt for {aggregate} does not fit what was written")]
    Receipt {
        /// Which.
        aggregate: AggregateId,
    },
    /// The file is longer than the tier takes, and cannot be cut for it.
    #[error("it is too long for the tier: {0}")]
    Uncut(#[from] Uncut),
    /// The tier has no room for the file, or for all parts of it; for others it may have.
    #[error(transparent)]
    NoRoom(TierError),
    /// The catalog could not commit.
    #[error("committing {aggregate} to the catalog: {source}")]
    Commit {
        /// Which.
        aggregate: AggregateId,
        /// Why.
        source: CommitError,
    },
    /// The copy that a file stands for cannot be read to its end.
    #[error("the copy to be copied cannot be read to its end: {why}")]
    Origin {
        /// Why.
        why: String,
    },
    /// The caller asked to stop.
    #[error("stopped")]
    Stopped,
}

impl ArchiveError {
    fn in_parts(aggregate: AggregateId, why: PartsError) -> Self {
        match why {
            PartsError::Tier(why) => Self::Tier(why),
            PartsError::NoRoom(why) => Self::NoRoom(why),
            PartsError::Compose(source) => Self::Compose { aggregate, source },
            PartsError::Receipt(aggregate) => Self::Receipt { aggregate },
            PartsError::Uncut(why) => Self::Uncut(why),
        }
    }
}

/// Archives the batch. `stop` is asked between groups of files and megabytes of a large one;
/// `commit` makes the catalog's entry durable (synchronous=FULL), and only if it succeeds does any
/// file count as archived.
///
/// # Errors
/// [`ArchiveError`] if the batch as a whole failed; items that fail alone are in the report.
pub fn archive(
    batch: Batch<'_>,
    stop: &dyn Fn() -> bool,
    commit: &mut dyn FnMut(Durable<'_>) -> Result<(), CommitError>,
) -> Result<Report, ArchiveError> {
    let mut outcomes: Vec<Option<Outcome>> = batch.items.iter().map(|_| None).collect();
    ahead::look_ahead(&batch);
    let groups = group(&batch, &mut outcomes);
    let hint = groups.iter().map(|g| g.bytes).sum();
    let composer = Composer::begin(batch, hint)?;
    let copied = match compose_all(composer, &groups, &mut outcomes, stop)? {
        Some(composer) => Some(composer.seal(commit)?),
        None => None,
    };
    let aggregate = copied.map(|done| {
        for (copied, recorded) in done.copied {
            let item = copied.item;
            outcomes[item] = Some(Outcome::Archived(Box::new(Archived { copied, recorded })));
        }
        (done.receipt, done.index)
    });
    let left = || Outcome::Skipped(Skip::Changed);
    let outcomes = outcomes
        .into_iter()
        .map(|o| o.unwrap_or_else(left))
        .collect();
    Ok(Report {
        aggregate,
        outcomes,
    })
}

/// Items whose leases are held together.
#[derive(Debug, Default)]
struct Group {
    items: Vec<usize>,
    /// Bytes on disk, about.
    bytes: u64,
    /// One large file.
    large: bool,
}

/// Looks at all items and groups them; what cannot even be looked at gets its outcome.
fn group(batch: &Batch<'_>, outcomes: &mut [Option<Outcome>]) -> Vec<Group> {
    let mut nodes = HashSet::new();
    let mut groups = vec![Group::default()];
    for (at, item) in batch.items.iter().enumerate() {
        if !nodes.insert(&item.node) {
            outcomes[at] = Some(Outcome::Skipped(Skip::Twice));
            continue;
        }
        let hint = item.names.first().map(Vec::as_slice);
        let stat = batch
            .backing
            .open_node(&item.node, hint, How::Path)
            .and_then(|fd| batch.backing.stat(fd.as_fd()));
        let stat = match stat {
            Ok(stat) => stat,
            Err(why) => {
                outcomes[at] = Some(why.into());
                continue;
            }
        };
        let regular = stat.kind == NodeKind::Regular;
        let bytes = if regular {
            (stat.blocks * 512).min(stat.size)
        } else {
            0
        };
        let large = bytes > SMALL;
        if large && batch.items.len() > 1 {
            outcomes[at] = Some(Outcome::Skipped(Skip::StandsAlone(bytes)));
            continue;
        }
        if groups
            .last()
            .is_none_or(|g| g.items.len() >= GROUP_FILES || g.bytes + bytes > GROUP_BYTES)
        {
            groups.push(Group::default());
        }
        if let Some(group) = groups.last_mut() {
            group.items.push(at);
            group.bytes += bytes;
            group.large = large;
        }
    }
    groups.retain(|g| !g.items.is_empty());
    groups
}

/// Steps 1 to 3. `None`: the aggregate was abandoned.
fn compose_all<'a>(
    mut composer: Composer<'a>,
    groups: &[Group],
    outcomes: &mut [Option<Outcome>],
    stop: &dyn Fn() -> bool,
) -> Result<Option<Composer<'a>>, ArchiveError> {
    for group in groups {
        if stop() {
            return Err(ArchiveError::Stopped);
        }
        if let ([at], true) = (&group.items[..], group.large) {
            match composer.large(*at, stop) {
                Ok(()) => {}
                Err(Fault::Item(outcome)) => {
                    // No trailer: the aggregate goes with the composer.
                    outcomes[*at] = Some(outcome);
                    return Ok(None);
                }
                Err(Fault::Batch(why)) => return Err(why),
            }
        } else {
            composer.pack(&group.items, outcomes)?;
        }
    }
    composer.second_points(outcomes);
    Ok(if composer.is_worth_sealing() {
        Some(composer)
    } else {
        None
    })
}

impl From<BackingError> for Outcome {
    fn from(why: BackingError) -> Self {
        match why {
            BackingError::Gone { .. } => Self::Skipped(Skip::Vanished),
            BackingError::Busy { .. } => Self::Skipped(Skip::Busy),
            BackingError::Unnamed { .. } => Self::Skipped(Skip::Renamed),
            why => Self::Failed(why.into()),
        }
    }
}

impl From<NotQuiet> for Outcome {
    fn from(why: NotQuiet) -> Self {
        match why {
            NotQuiet::Writer => Self::Skipped(Skip::Busy),
            NotQuiet::Restless => Self::Skipped(Skip::Changed),
            NotQuiet::Backing(why) => why.into(),
            why @ (NotQuiet::Future(_) | NotQuiet::NotRegular | NotQuiet::Lease(_)) => {
                Self::Failed(ItemError::NotQuiet(why))
            }
        }
    }
}
