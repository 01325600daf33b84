//! What can go wrong with the backing directory, by what the caller can do about it.

use crate::format::record::RecordError;
use std::io;

/// A step on the backing that failed.
#[derive(Debug, thiserror::Error)]
pub enum BackingError {
    /// The inode is no longer there (or another one has taken its name).
    #[error("{object} is gone from the backing ({step})")]
    Gone {
        /// What was being done.
        step: &'static str,
        /// On what.
        object: String,
    },
    /// Somebody holds a lease on the file, or runs it: opening it would wait.
    #[error("{object} is in use in a way that would make an open wait ({step})")]
    Busy {
        /// What was being done.
        step: &'static str,
        /// On what.
        object: String,
    },
    /// No name is known under which the node can be opened or put into an aggregate.
    #[error("{object} has no known name below the backing's root")]
    Unnamed {
        /// The node.
        object: String,
    },
    /// The record's seal does not fit: it was made by somebody else, or on another file.
    #[error("{object}: the record carries no valid seal of this instance")]
    BadSeal {
        /// The node.
        object: String,
    },
    /// The attribute is there and is no record.
    #[error("{object}: {source}")]
    Record {
        /// The node.
        object: String,
        /// Damaged, or from a newer Cairn.
        source: RecordError,
    },
    /// Records must be sealed here (no right to `trusted.*`), and no key was given.
    #[error(
        "the backing keeps records in user.* attributes (no right to trusted.*), which need the instance's key"
    )]
    NoSealKey,
    /// Another instance works on this backing directory.
    #[error("{root} is in use by another instance: {who}; {way_out}")]
    InUse {
        /// The backing directory.
        root: String,
        /// Host, process and age.
        who: String,
        /// What an administrator can do.
        way_out: String,
    },
    /// The mark on the root cannot be used.
    #[error("the instance mark on {root} {why}")]
    Mark {
        /// The backing directory.
        root: String,
        /// What is wrong, and the way out.
        why: String,
    },
    /// Any other failure.
    #[error("{step} {object}: {source}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// On what.
        object: String,
        /// Why.
        source: io::Error,
    },
}

impl BackingError {
    /// Sorts an error of the operating system.
    pub(in crate::hsm) fn of(
        step: &'static str,
        object: impl FnOnce() -> String,
        source: impl Into<io::Error>,
    ) -> Self {
        let (object, source) = (object(), source.into());
        match source.raw_os_error() {
            Some(libc::ESTALE | libc::ENOENT) => Self::Gone { step, object },
            Some(libc::EAGAIN | libc::ETXTBSY) => Self::Busy { step, object },
            _ => Self::Io {
                step,
                object,
                source,
            },
        }
    }

    /// Why, without saying on what: for texts that are kept and shown beside a name of their own.
    #[must_use]
    pub fn cause(&self) -> String {
        match self {
            Self::Gone { .. } => "it is gone from the backing".to_owned(),
            Self::Busy { .. } => "it is in use in a way that would make an open wait".to_owned(),
            Self::Unnamed { .. } => "it has no known name below the backing's root".to_owned(),
            Self::BadSeal { .. } => "its record carries no valid seal of this instance".to_owned(),
            Self::Record { source, .. } => source.to_string(),
            Self::Io { step, source, .. } => format!("{step} it: {source}"),
            Self::NoSealKey | Self::InUse { .. } | Self::Mark { .. } => self.to_string(),
        }
    }

    /// No room on the backing (ENOSPC or EDQUOT).
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)))
    }
}
