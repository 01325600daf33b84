//! Recall: a released file's data come back (P4), for readers who wait and for stage requests.
//!
//! One [`Recaller`] serves a backing directory. Each file has at most one recall, however many
//! wait for it; what comes next is decided by a pure state machine ([`progress`]) and done by
//! bounded worker threads: a *lane* for the backing's disk and one for each tier, each serving
//! waiting readers before stage work. A waiter is a callback and a token, never a thread.
//!
//! Invariants:
//! - Bytes are written into the file, or given to a reader, only as [`cairn_mover::Checked`].
//! - The record turns to Resident only after data and times are synced; until then a crash
//!   leaves a released file, and the next recall starts over (P4).
//! - Every change to the file is made under [`one::Recall`]'s `io` lock with the recall not
//!   stopped; who stops it ([`Recaller::truncated`], [`Recaller::hold`]) takes that lock, so that
//!   no recalled byte lands in a file that was truncated.
//! - No callback runs under a lock. Locks: table before one recall's state; `io` with neither held.
//!
//! No lease is held during a recall. F_WRLCK would fail for every innocent reader of the backing,
//! make an administrator's open wait for lease-break-time, and at the end prove nothing about
//! a writer that came and went. What proves that nobody interferes is P7 (users cannot reach the
//! backing) and the mirror's own rule that opens for writing wait for [`Recaller::fetch`].

mod begin;
mod error;
mod fetch;
mod finish;
mod lane;
mod one;
mod progress;
mod serve;
mod source;
mod table;
#[cfg(test)]
pub(in crate::hsm) mod tests;

pub use error::RecallError;

use crate::format::record::CopyHint;
use crate::hsm::backing::Backing;
use crate::hsm::index_cache::IndexCache;
use crate::hsm::version::{Seen, Settle};
use crate::id::{DataVersion, FileId, NodeHandle, TierId};
use crate::tier::Tier;
use cairn_fuse::WaitToken;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Sizes and limits.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Worker threads for each tier.
    pub tier_workers: usize,
    /// Worker threads for the backing's disk.
    pub disk_workers: usize,
    /// Longest ranged read ahead of readers, bytes (a waiting reader's is one block of 1 MiB).
    pub ahead: u64,
    /// Ranged reads in flight for one file.
    pub in_flight: u32,
    /// Memory for one file that is streamed because it has no room on disk, bytes.
    pub stream_memory: u64,
    /// Files being recalled at once; stage requests beyond it queue.
    pub files: usize,
    /// Files recalled at once because one user read them; that user's further ones wait their turn.
    pub implicit_per_user: usize,
    /// Longest wait of a reader; `None`: as long as it takes. The recall itself goes on.
    pub timeout: Option<Duration>,
    /// How long a streamed or damaged file's recall is kept when nobody reads.
    pub linger: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tier_workers: 8,
            disk_workers: 4,
            ahead: 8 << 20,
            in_flight: 3,
            stream_memory: 32 << 20,
            files: 512,
            implicit_per_user: 64,
            timeout: None,
            linger: Duration::from_secs(10),
        }
    }
}

/// What a recall left: for the catalog (P4 step 8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The file.
    pub file: FileId,
    /// The data that are on disk again.
    pub version: DataVersion,
    /// What the file looks like now.
    pub seen: Seen,
    /// The check of the ctime window to make later.
    pub settle: Option<Settle>,
    /// Bytes of data that came back.
    pub bytes: u64,
}

/// How a stage of one file ended: `Ok(None)` if there was nothing to do, because the file was
/// resident (or has no record).
pub type Staged = Box<dyn FnOnce(Result<Option<Done>, RecallError>) + Send>;

/// A file to stage.
pub struct StageAsk {
    /// The node.
    pub node: NodeHandle,
    /// A name, where nodes are opened by name.
    pub hint: Option<Vec<u8>>,
    /// The copy the caller means to be read; only orders the batch.
    pub place: Option<CopyHint>,
    /// Called once, from any thread, with no lock held.
    pub done: Staged,
}

/// What recall needs of those above it. Called from worker threads, never under a lock of the
/// recaller; may read a database, must not wait for a recall.
pub trait Asks: Send + Sync + 'static {
    /// A tier by number, if it is configured.
    fn tier(&self, id: TierId) -> Option<Arc<dyn Tier>>;
    /// Copies beyond those the stub names (repack moves copies), best first.
    fn copies_of(&self, file: FileId, version: DataVersion) -> Vec<CopyHint>;
    /// A file became resident. Called once for each recall that completes.
    fn recalled(&self, done: &Done);
    /// A copy proved bad: its bytes have the wrong sum, or it is not there.
    fn copy_failed(&self, file: FileId, version: DataVersion, copy: &CopyHint, why: &str);
}

/// See the module.
pub struct Recaller {
    shared: Arc<table::Shared>,
    keeper: Option<(crossbeam_channel::Sender<()>, std::thread::JoinHandle<()>)>,
}
