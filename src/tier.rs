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
//! - Errors say what a caller can do: see [`TierError`]. A failed `write` carries its [`TierError`]
//!   inside the `io::Error` ([`TierError::from_write`] takes it out again), and after it the put is
//!   broken: every later `write` and `finish` fails, and nothing becomes visible.
//! - A read gives exactly what was asked for or an error, never fewer bytes. `len` 0 at an offset
//!   within the object (its end included) gives no bytes. Bytes that are wrong count against the object only if the
//!   tier confirms, after they were read, that they came from its place ([`Tier::confirm`]).
//! - A tier's root carries its owner's mark; another owner's is refused at opening (P8, P9).
//! - A tier that takes no object above some length says so before ([`Tier::longest`]): a file that is longer
//!   goes there in parts.

pub mod clock;
pub mod conformance;
pub mod dir;
mod error;
pub mod exec;
pub mod faults;
pub mod limit;
pub mod mem;
pub mod mover;
mod open;
pub mod owner;
pub mod retry;
pub mod s3;
pub mod tape;
pub mod tapes;
pub mod throttle;
pub mod trial;
mod url;

pub use error::{ErrorKind, TierError};
pub use open::{Expect, OpenHow, is_there, mark_at, open, probe};
pub use url::{TierUrl, UrlError};

use crate::id::{AggregateId, InstanceId, TierId};
use bytes::Bytes;
use cairn_mover::Crc32c;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tapes::Tapes;

/// What a tier's mark says (its file or object `cairn-tier.json`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Number of the tier.
    pub tier: TierId,
    /// The instance that may write here.
    pub owner: InstanceId,
}

/// Kinds of places that this version can keep copies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A directory of a filesystem.
    Dir,
    /// A tape library.
    Tape,
    /// A bucket of an S3 service.
    S3,
    /// A program of the site.
    Exec,
    /// A tier of another host, behind its mover.
    Mover,
    /// Memory of this process: tests.
    Memory,
    /// An implementation that does not say: test doubles.
    Unnamed,
}

impl Kind {
    /// The word before the colon of a tier's URL.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dir => "dir",
            Self::Tape => "tape",
            Self::S3 => "s3",
            Self::Exec => "exec",
            Self::Mover => "mover",
            Self::Memory => "mem",
            Self::Unnamed => "unnamed",
        }
    }
}

/// Where a tier lies, for status lines and for the question whether it shares the backing's
/// filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// What kind of place.
    pub kind: Kind,
    /// The URL that opens it again, without secrets.
    pub url: String,
    /// The directory, where copies lie in one.
    pub root: Option<Root>,
    /// What the place lacks, or does otherwise than others, and what follows from that: for people.
    pub notes: Vec<String>,
}

/// The directory of a tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Absolute path as configured.
    pub path: PathBuf,
    /// `st_dev` when it was last seen with its mark; `None` while it never was. Equal to the
    /// backing's: the tier frees no space. (Subvolumes of one btrfs differ and still share space.)
    pub dev: Option<u64>,
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

/// How an object stands that its service may have to restore before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restoring {
    /// It can be read.
    Ready,
    /// It was asked for, now or before.
    Coming {
        /// How long that takes from when it was asked for, where that is known.
        takes: Option<std::time::Duration>,
    },
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

/// Does nobody want an object any more that is being written?
pub type Unwanted = Arc<dyn Fn() -> bool + Send + Sync>;

/// Room that is kept for objects as long as this lives.
#[derive(Default)]
pub struct Promise(Option<Box<dyn Send + Sync>>);

impl Promise {
    /// It is kept until `guard` is dropped.
    pub fn new(guard: impl Send + Sync + 'static) -> Self {
        Self(Some(Box::new(guard)))
    }

    /// Is room kept, or was it only looked for?
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.0.is_some()
    }
}

/// An object being written. Dropping it abandons it.
pub trait Put: Write + Send {
    /// Makes the object durable, proves it and makes it visible. `sum` is the CRC32C of all bytes
    /// written, as the *caller* computed it while writing.
    ///
    /// # Errors
    /// On any error the object does not exist.
    fn finish(self: Box<Self>, sum: Crc32c) -> Result<Receipt, TierError>;
    /// It does not wait for others that could be made durable with it: whoever writes it does nothing else meanwhile.
    fn hasten(&mut self) {}
    /// It is told how to ask whether anybody still wants it: if `finish` waits for others that could be made durable with
    /// it, it ends with an error, soon, when nobody does and nothing was begun.
    fn heed(&mut self, _unwanted: Unwanted) {}
    /// Gives up; nothing remains visible.
    fn abandon(self: Box<Self>);
}

/// A place for aggregates.
pub trait Tier: Send + Sync {
    /// The mark read (or written) when the tier was opened.
    fn mark(&self) -> Mark;
    /// Where it lies. Wrappers answer for what they wrap.
    fn describe(&self) -> Description {
        Description {
            kind: Kind::Unnamed,
            url: format!("unnamed:{}", self.mark().tier),
            root: None,
            notes: Vec::new(),
        }
    }
    /// Its library of cartridges, where it has one. Wrappers answer for what they wrap.
    fn tape(&self) -> Option<&tape::TapeTier> {
        None
    }
    /// Its cartridges and drives, where it has such: who reads much of it puts his reads in order by
    /// them. Wrappers answer for what they wrap.
    fn tapes(&self) -> Option<Arc<dyn Tapes>> {
        None
    }
    /// The longest object that it takes, bytes; `None`: there is no bound, or none that is known. Wrappers
    /// answer for what they wrap.
    ///
    /// # Errors
    /// [`TierError::Unavailable`].
    fn longest(&self) -> Result<Option<u64>, TierError> {
        Ok(None)
    }
    /// Of what lengths objects may be that a file of so many bytes goes to, the best first: it goes whole if the first
    /// is as long as it is, and is cut for one of them else. None: there is no bound. Wrappers answer for what
    /// they wrap.
    ///
    /// # Errors
    /// [`TierError::Unavailable`].
    fn lengths(&self, _file: u64) -> Result<Vec<u64>, TierError> {
        Ok(self.longest()?.into_iter().collect())
    }
    /// Would objects of these lengths find room now, all of them? Asked before the first of many that are of
    /// no use without the last. Wrappers answer for what they wrap.
    ///
    /// # Errors
    /// [`TierError::Full`], which says how much room is wanted; [`TierError::Unavailable`].
    fn admit(&self, _lengths: &[u64]) -> Result<(), TierError> {
        Ok(())
    }
    /// Keeps room for these objects, which are longer together than any other, until the promise is dropped: each
    /// finds its own when it is put, and others do not. Where that cannot be done room is only looked for, as by
    /// [`Tier::admit`]. Wrappers answer for what they wrap.
    ///
    /// # Errors
    /// As [`Tier::admit`].
    fn promise(&self, objects: &[(AggregateId, u64)]) -> Result<Promise, TierError> {
        let lengths: Vec<u64> = objects.iter().map(|(_, len)| *len).collect();
        self.admit(&lengths)?;
        Ok(Promise::default())
    }
    /// Starts an object of about `size_hint` bytes.
    ///
    /// # Errors
    /// [`TierError::Exists`], [`TierError::Full`], ...
    fn put(&self, name: AggregateId, size_hint: u64) -> Result<Box<dyn Put>, TierError>;
    /// Reads exactly `len` bytes at `offset`.
    ///
    /// # Errors
    /// [`TierError::Short`] if the object ends before, [`TierError::Missing`], ...
    fn read(&self, name: AggregateId, offset: u64, len: u64) -> Result<Bytes, TierError>;
    /// What is known to pass before the first byte of an object can be read, beyond what any read here takes.
    /// Nothing is asked of the place for it. Wrappers answer for what they wrap.
    fn wait(&self, _name: AggregateId) -> Duration {
        Duration::ZERO
    }
    /// Length of an object.
    ///
    /// # Errors
    /// [`TierError::Missing`], ...
    fn stat(&self, name: AggregateId) -> Result<u64, TierError>;
    /// An object whose read said [`TierError::NotRestored`]: asks its service for it, unless that was done, and says how
    /// it stands. It costs what a retrieval costs: for those who have somebody who wants to read it. Wrappers answer for
    /// what they wrap.
    ///
    /// # Errors
    /// [`TierError`].
    fn restore(&self, _name: AggregateId) -> Result<Restoring, TierError> {
        Ok(Restoring::Ready)
    }
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
    /// Is it this tier's own place that answers? Asked before an object is called bad for the bytes that were read of
    /// it: where another place may answer for a while (another one is mounted there), they say nothing of the object.
    /// Wrappers answer for what they wrap.
    ///
    /// # Errors
    /// [`TierError::Unavailable`]: it is not, or does not say.
    fn confirm(&self) -> Result<(), TierError> {
        Ok(())
    }
    /// Room left.
    ///
    /// # Errors
    /// [`TierError`].
    fn space(&self) -> Result<Space, TierError>;
}
