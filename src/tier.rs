//! Tiers: where copies live. One small trait, one conformance suite (`conformance`) that every
//! tier passes, and wrappers for retry, limits and injected faults.
//!
//! # The contract
//! - Objects are aggregates, named by [`AggregateId`]. A name is created at most once and its
//!   bytes never change afterwards (P9). Nothing is ever overwritten.
//! - [`Put::finish`] returns only when the object is durable *and proven*: its bytes were read
//!   back past any cache, or the service verified the checksum itself (P2). Before `finish` returns
//!   the object is not visible to `read`, `stat` or `list`; after an `abandon`, a drop or a crash it
//!   never becomes visible.
//! - Methods block; callers bound how many run at once. All of them may be called from any thread.
//! - Errors say what a caller can do: see [`TierError`].
//! - A tier's root carries its owner's mark; another owner's is refused at opening (P8, P9).

use crate::id::{AggregateId, InstanceId, TierId};
use bytes::Bytes;
use cairn_mover::Crc32c;
use std::io::Write;

/// What a tier's mark says (its file or object `cairn-tier.json`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Number of the tier.
    pub tier: TierId,
    /// The instance that may write here.
    pub owner: InstanceId,
}

/// How a tier knows that an object is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// fsynced, then read back past the page cache and compared.
    ReadBack,
    /// The service verified the checksum.
    ServiceChecksum,
    /// The drive verified a synchronised write.
    Drive,
    /// Memory only: tests.
    Volatile,
}

/// Evidence that an object is durable; what the catalog and invariant 1 rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The object.
    pub aggregate: AggregateId,
    /// Its length in bytes.
    pub len: u64,
    /// CRC32C of all of it.
    pub crc: Crc32c,
    /// How that is known.
    pub proof: Proof,
}

/// Room on a tier, in bytes; `None` where it cannot be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// Free for new objects.
    pub free: Option<u64>,
    /// In all.
    pub total: Option<u64>,
}

/// An object being written. Dropping it abandons it.
pub trait Put: Write + Send {
    /// Makes the object durable, proves it and makes it visible. `sum` is the CRC32C of all bytes
    /// written, as the *caller* computed it while writing.
    ///
    /// # Errors
    /// On any error the object does not exist.
    fn finish(self: Box<Self>, sum: Crc32c) -> Result<Receipt, TierError>;
    /// Gives up; nothing remains visible.
    fn abandon(self: Box<Self>);
}

/// A place for aggregates.
pub trait Tier: Send + Sync {
    /// The mark read (or written) when the tier was opened.
    fn mark(&self) -> Mark;
    /// Starts an object of about `size_hint` bytes.
    ///
    /// # Errors
    /// [`TierError::Exists`], [`TierError::Full`], ...
    fn put(&self, name: AggregateId, size_hint: u64) -> Result<Box<dyn Put>, TierError>;
    /// Reads exactly `len` bytes at `offset`.
    ///
    /// # Errors
    /// [`TierError::Short`] if the object ends before.
    fn read(&self, name: AggregateId, offset: u64, len: u64) -> Result<Bytes, TierError>;
    /// Length of an object.
    ///
    /// # Errors
    /// [`TierError::Missing`], ...
    fn stat(&self, name: AggregateId) -> Result<u64, TierError>;
    /// Deletes an object. Only P8 may call this. Deleting what is not there succeeds.
    ///
    /// # Errors
    /// [`TierError`].
    fn delete(&self, name: AggregateId) -> Result<(), TierError>;
    /// Names of all objects in ascending order, from after `after`, at most `limit`.
    ///
    /// # Errors
    /// [`TierError`].
    fn list(&self, after: Option<AggregateId>, limit: usize)
    -> Result<Vec<AggregateId>, TierError>;
    /// Room left.
    ///
    /// # Errors
    /// [`TierError`].
    fn space(&self) -> Result<Space, TierError>;
}

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
        source: std::io::Error,
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
    /// The place belongs to another instance, or is no tier.
    #[error("{place} cannot be used as a tier: {why}")]
    Refused {
        /// Where.
        place: String,
        /// Why, and the way out.
        why: String,
    },
}
