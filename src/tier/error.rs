//! What can go wrong with a tier, sorted by what the caller can do about it.
//!
//! Promise: the tables here are exhaustive, without a `_` arm, so that a new failure cannot be
//! added without deciding what callers do.

use crate::id::AggregateId;
use cairn_mover::Crc32c;
use std::io;

/// What can go wrong, sorted by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum TierError {
    /// The tier as a whole does not answer; other objects will fail likewise. Try later.
    #[error("tier {tier} is unavailable ({step}): {why}")]
    Unavailable {
        /// Which.
        tier: String,
        /// What was being done.
        step: &'static str,
        /// What was seen.
        why: String,
    },
    /// No room for the object. Try when there is room.
    #[error("tier {tier} is full ({step}): {why}")]
    Full {
        /// Which.
        tier: String,
        /// What was being done.
        step: &'static str,
        /// What was seen.
        why: String,
    },
    /// This one operation failed and may succeed when repeated.
    #[error("tier {tier}, {object}: {step}: {source}")]
    Transient {
        /// Which.
        tier: String,
        /// The object.
        object: String,
        /// What was being done.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// There is no such object.
    #[error("tier {tier} has no {object}")]
    Missing {
        /// Which.
        tier: String,
        /// The object.
        object: AggregateId,
    },
    /// The name is taken. Names are never reused: compose under a new one.
    #[error("tier {tier} already has {object}")]
    Exists {
        /// Which.
        tier: String,
        /// The object.
        object: AggregateId,
    },
    /// The object is shorter than what was asked for: truncated.
    #[error("tier {tier}, {object}: ends at {len}, wanted {wanted}")]
    Short {
        /// Which.
        tier: String,
        /// The object.
        object: AggregateId,
        /// Its length.
        len: u64,
        /// The end of what was asked for.
        wanted: u64,
    },
    /// What was read back is not what was written: the medium lies. The object was removed.
    #[error("tier {tier}, {object}: read back {found}, wrote {expected}")]
    Corrupt {
        /// Which.
        tier: String,
        /// The object.
        object: AggregateId,
        /// Sum of what was written.
        expected: Crc32c,
        /// Sum of what came back.
        found: Crc32c,
    },
    /// The medium does not give the bytes, and was tried again: other bytes of the object may be had.
    #[error("tier {tier}, {object}: {why}")]
    Unreadable {
        /// Which.
        tier: String,
        /// The object.
        object: AggregateId,
        /// What was seen.
        why: String,
    },
    /// The object is whole and where it should be, in a class from which the service must restore it before it gives
    /// its bytes: hours. Nothing is known against it, and asking again soon is of no use.
    #[error("tier {tier}, {object}: {why}")]
    NotRestored {
        /// Which.
        tier: String,
        /// The object.
        object: AggregateId,
        /// What was seen.
        why: String,
    },
    /// The place belongs to another instance, or is no tier.
    #[error("{place} cannot be used as a tier: {why}")]
    Refused {
        /// Where.
        place: String,
        /// Why, and the way out.
        why: String,
    },
}

/// The variants of [`TierError`] without what they carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// [`TierError::Unavailable`].
    Unavailable,
    /// [`TierError::Full`].
    Full,
    /// [`TierError::Transient`].
    Transient,
    /// [`TierError::Missing`].
    Missing,
    /// [`TierError::Exists`].
    Exists,
    /// [`TierError::Short`].
    Short,
    /// [`TierError::Corrupt`].
    Corrupt,
    /// [`TierError::Unreadable`].
    Unreadable,
    /// [`TierError::NotRestored`].
    NotRestored,
    /// [`TierError::Refused`].
    Refused,
}

impl ErrorKind {
    /// A stable word for logs and counters of failures by cause.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Full => "full",
            Self::Transient => "transient",
            Self::Missing => "missing",
            Self::Exists => "exists",
            Self::Short => "short",
            Self::Corrupt => "corrupt",
            Self::Unreadable => "unreadable",
            Self::NotRestored => "not-restored",
            Self::Refused => "refused",
        }
    }

    /// Whether repeating the very same operation at once can help. A tier that is unavailable or
    /// full is waited for by the scheduler, not hammered.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        match self {
            Self::Transient => true,
            Self::Unavailable
            | Self::Full
            | Self::Missing
            | Self::Exists
            | Self::Short
            | Self::Corrupt
            | Self::Unreadable
            | Self::NotRestored
            | Self::Refused => false,
        }
    }
}

impl TierError {
    /// Which decision it asks of the caller.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unavailable { .. } => ErrorKind::Unavailable,
            Self::Full { .. } => ErrorKind::Full,
            Self::Transient { .. } => ErrorKind::Transient,
            Self::Missing { .. } => ErrorKind::Missing,
            Self::Exists { .. } => ErrorKind::Exists,
            Self::Short { .. } => ErrorKind::Short,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Unreadable { .. } => ErrorKind::Unreadable,
            Self::NotRestored { .. } => ErrorKind::NotRestored,
            Self::Refused { .. } => ErrorKind::Refused,
        }
    }

    /// See [`ErrorKind::is_retryable`].
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.kind().is_retryable()
    }

    /// The tier's word on a failed `write` of a [`super::Put`]: what it put inside the
    /// `io::Error`, or [`TierError::Transient`] for an error that says nothing more.
    #[must_use]
    pub fn from_write(error: io::Error, tier: &str, object: AggregateId) -> Self {
        match error.downcast::<Self>() {
            Ok(own) => own,
            Err(source) => Self::Transient {
                tier: tier.to_owned(),
                object: object.to_string(),
                step: "writing",
                source,
            },
        }
    }
}

impl From<TierError> for io::Error {
    /// Keeps the whole error inside, for [`TierError::from_write`]. Never of the kind
    /// `Interrupted`, which `write_all` would repeat.
    fn from(error: TierError) -> Self {
        let kind = match error.kind() {
            ErrorKind::Full => io::ErrorKind::StorageFull,
            ErrorKind::Missing => io::ErrorKind::NotFound,
            ErrorKind::Exists => io::ErrorKind::AlreadyExists,
            ErrorKind::Short => io::ErrorKind::UnexpectedEof,
            ErrorKind::Corrupt | ErrorKind::Unreadable => io::ErrorKind::InvalidData,
            ErrorKind::Refused => io::ErrorKind::PermissionDenied,
            ErrorKind::Unavailable | ErrorKind::Transient | ErrorKind::NotRestored => {
                io::ErrorKind::Other
            }
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_error_carries_the_tiers_word() {
        let name = AggregateId { epoch: 1, seq: 1 };
        let full = TierError::Full {
            tier: "t".into(),
            step: "writing",
            why: "ENOSPC".into(),
        };
        let back = TierError::from_write(io::Error::from(full), "t", name);
        assert_eq!(back.kind(), ErrorKind::Full);
        let plain = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(TierError::from_write(plain, "t", name).is_retryable());
    }
}
