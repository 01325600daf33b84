//! Why bytes do not come back, and the word for it that every door knows.
//!
//! The reasons name no file: they are kept and shown later, when it may have another name. Whoever
//! shows one says which file was asked for.

use crate::error::Failure;
use crate::format::record::RecordError;
use crate::hsm::backing::BackingError;
use crate::id::{AggregateId, TierId};
use cairn_fuse::Errno;
use std::sync::Arc;

/// What is told of a lost file.
pub const LOST: &str = "it is lost: its data were released, and its stub is gone or was overwritten by an older record; put the stub back, or get the data from its copies (docs/operations.md, \"Lost\")";

/// Copies that are whole and must be restored by their service before they can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stowed {
    /// The objects that were met, the nearest first; never empty. One of them is enough.
    pub objects: Vec<(TierId, AggregateId)>,
    /// There is another copy, on a tier that does not answer now.
    pub beside_away: bool,
    /// What the first one's tier said.
    pub why: String,
}

/// Why a recall, or one wait for it, came to nothing. Cheap to clone: many may wait for one file.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RecallError {
    /// Somebody wrote into the stub behind Cairn's back (P4 step 1): an administrator decides.
    #[error(
        "it does not look as its stub says: {why}; an administrator decides (docs/operations.md, \"conflict\")"
    )]
    Conflict {
        /// What differs.
        why: &'static str,
    },
    /// The stub was written for another inode or filesystem (P6).
    #[error("it carries the stub of another file: it was copied or restored, and {why}")]
    Foreign {
        /// Why it is not adopted.
        why: &'static str,
    },
    /// It has no record, and what is on disk is not what was archived (P6).
    #[error("{LOST}")]
    Lost,
    /// The record cannot be read.
    #[error("its record cannot be read: {why}")]
    Record {
        /// Damaged, sealed by somebody else, or from a newer Cairn.
        why: String,
        /// What that means for who asked.
        failure: Failure,
    },
    /// No copy holds these bytes with the right checksum.
    #[error("there is no good copy of these bytes ({tried} tried)")]
    NoGoodCopy {
        /// Copies that were tried.
        tried: usize,
    },
    /// Copies may be good, but no tier that has one answers now. Trying later helps.
    #[error("no tier with a copy answers: {why}")]
    Unavailable {
        /// What the last one said.
        why: String,
    },
    /// The copy is whole, its service must restore it first, and that could not be brought about. Trying later helps.
    #[error("{}", .0.why)]
    NotRestored(Stowed),
    /// The backing filesystem is full.
    #[error("no room on the backing filesystem for {bytes} bytes")]
    NoSpace {
        /// Bytes of data to bring back.
        bytes: u64,
    },
    /// The owner's quota would be exceeded.
    #[error("the owner's quota has no room for {bytes} bytes")]
    Quota {
        /// Bytes of data to bring back.
        bytes: u64,
    },
    /// The wait took longer than `recall-timeout`. The recall goes on.
    #[error("waited longer than the recall timeout")]
    TimedOut,
    /// The file was cut to nothing by a user meanwhile.
    #[error("the file was truncated meanwhile")]
    Truncated,
    /// The recall was cancelled, or Cairn is going down.
    #[error("the recall was cancelled")]
    Cancelled,
    /// The inode is no longer there.
    #[error("the file is gone")]
    Gone,
    /// A step on the backing failed.
    #[error("{step}: {}", .source.cause())]
    Backing {
        /// The step of P4.
        step: &'static str,
        /// Why it failed.
        source: Arc<BackingError>,
    },
    /// A system call on the file itself failed.
    #[error("{step}: {source}")]
    Io {
        /// The step of P4.
        step: &'static str,
        /// Why it failed.
        source: Arc<std::io::Error>,
    },
}

impl RecallError {
    /// Sorts a failure of the backing.
    pub(crate) fn backing(step: &'static str, why: BackingError) -> Self {
        match why {
            BackingError::Gone { .. } => Self::Gone,
            BackingError::Record { source, .. } => Self::Record {
                why: source.to_string(),
                failure: match source {
                    RecordError::Newer(_) => Failure::Newer,
                    RecordError::Damaged(_) => Failure::Lost,
                },
            },
            BackingError::BadSeal { .. } => Self::Record {
                why: "its seal is not of this instance".to_owned(),
                failure: Failure::Foreign,
            },
            source => Self::Backing {
                step,
                source: Arc::new(source),
            },
        }
    }

    /// A failed system call.
    pub(crate) fn io(step: &'static str, why: impl Into<std::io::Error>) -> Self {
        Self::Io {
            step,
            source: Arc::new(why.into()),
        }
    }

    /// Waiting and asking again may help; nothing is wrong with the copies.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unavailable { .. }
            | Self::NotRestored(_)
            | Self::NoSpace { .. }
            | Self::Quota { .. }
            | Self::TimedOut
            | Self::Cancelled => true,
            Self::Conflict { .. }
            | Self::Foreign { .. }
            | Self::Lost
            | Self::Record { .. }
            | Self::NoGoodCopy { .. }
            | Self::Truncated
            | Self::Gone
            | Self::Backing { .. }
            | Self::Io { .. } => false,
        }
    }

    /// The word for it in the vocabulary that all doors share.
    #[must_use]
    pub fn failure(&self) -> Failure {
        match self {
            Self::Conflict { .. } => Failure::Conflict,
            Self::Foreign { .. } => Failure::Foreign,
            Self::Lost => Failure::Lost,
            Self::Record { failure, .. } => *failure,
            Self::NoGoodCopy { .. } => Failure::NoGoodCopy,
            Self::Unavailable { .. } | Self::NotRestored(_) => Failure::TierUnavailable,
            Self::NoSpace { .. } => Failure::NoSpace,
            Self::Quota { .. } => Failure::QuotaExceeded,
            Self::TimedOut => Failure::TimedOut,
            Self::Truncated => Failure::Changed,
            Self::Cancelled => Failure::Cancelled,
            Self::Gone => Failure::NotFound,
            Self::Backing { .. } | Self::Io { .. } => Failure::Internal,
        }
    }

    /// What the caller of the system call sees (docs/semantics.md has the table).
    #[must_use]
    pub fn errno(&self) -> Errno {
        Errno(self.failure().errno())
    }
}
