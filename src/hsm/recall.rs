//! Recall: a released file's data come back (P4), for readers who wait and for stage requests.
//!
//! One [`Recaller`] serves a backing directory. Each file has at most one recall, however many
//! wait for it; what comes next is decided by a pure state machine ([`progress`]) and done by
//! bounded worker threads: a *lane* for the backing's disk, one for what waits for a sync, one for
//! questions about files without a record, and one for each tier, each serving
//! waiting readers before stage work. What lies on tape waits for its turn first ([`park`]), what its service must
//! restore until it was ([`thaw`]). A waiter is a callback and a token, never a thread.
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

mod adoption;
mod begin;
mod error;
mod fetch;
mod finish;
mod lane;
mod meanwhile;
mod nearness;
mod one;
mod park;
mod progress;
mod quota;
mod serve;
mod source;
mod sys;
mod table;
#[cfg(test)]
pub(in crate::hsm) mod tests;
mod thaw;

pub use adoption::Adopted;
pub use error::{LOST, RecallError, Stowed};
pub use quota::{Owner, quota_left};
pub(in crate::hsm) use source::mismatch;

use crate::error::Failure;
use crate::format::record::{CopyHint, Record, State};
use crate::hsm::backing::{Backing, BackingError, FileStat, How};
use crate::hsm::index_cache::IndexCache;
use crate::hsm::tape::desk::{Desk, Told};
use crate::hsm::version::{Seen, Settle};
use crate::hsm::vouch::is_bare;
use crate::id::{DataVersion, FileId, NodeHandle, TierId, Timestamp};
use crate::tier::Tier;
use cairn_fuse::{ReadDone, WaitDone, WaitToken};
use one::{Charge, Wait, Waiter};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use table::Shared;

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
    /// How soon a tier is asked again how an object stands that it restores; twice as long each time.
    pub restore_poll: Duration,
    /// But no longer than this.
    pub restore_poll_most: Duration,
    /// Where a copy that needs no restore is on a tier that does not answer, the tier is given so long before the
    /// restore is paid for; longer than a tier that was away is passed over.
    pub restore_grace: Duration,
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
            restore_poll: Duration::from_secs(5),
            restore_poll_most: Duration::from_secs(300),
            restore_grace: Duration::from_secs(45),
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
    /// `seen` is a quiescent point (P1) at which nobody had written since the record was set. If
    /// not, a user was quicker, and only the sum can say what the data are.
    pub proven: bool,
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
    /// For whom, as far as the order of work goes.
    pub user: u32,
    /// The copy the caller means to be read; only orders the batch.
    pub place: Option<CopyHint>,
    /// Called once, from any thread, with no lock held.
    pub done: Staged,
}

/// A user with the rights they had when they asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// What is said of a file that may have lost its stub and has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vouched {
    /// Its bytes may be believed.
    Whole,
    /// Somebody holds a lease on it (a release that begins): ask again soon.
    Busy,
}

/// What recall needs of those above it. Called from worker threads, never under a lock of the
/// recaller; may read a database, must not wait for a recall.
pub trait Asks: Send + Sync + 'static {
    /// A tier by number, if it is configured.
    fn tier(&self, id: TierId) -> Option<Arc<dyn Tier>>;
    /// Where reads of a tier wait for their turn, if they do.
    fn desk(&self, _id: TierId) -> Option<Arc<Desk>> {
        None
    }
    /// What is known to pass before the first byte of a copy comes, beyond what any read of its tier takes; `None`:
    /// it cannot be had now. Quick: nothing is asked of the place.
    fn wait(&self, copy: &CopyHint) -> Option<Duration> {
        match self.desk(copy.tier) {
            Some(desk) => desk.reach(copy.aggregate, copy.header),
            None => Some(self.tier(copy.tier)?.wait(copy.aggregate)),
        }
    }
    /// Copies beyond those the stub names (repack moves copies), best first.
    fn copies_of(&self, file: FileId, version: DataVersion) -> Vec<CopyHint>;
    /// A file became resident. Called once for each recall that completes.
    fn recalled(&self, done: &Done);
    /// A recall wrote into a file that is as released as before: what a `stat` showed meanwhile may
    /// be wrong.
    fn touched(&self, node: &NodeHandle);
    /// A copy proved bad: its bytes have the wrong sum, or it is not there.
    fn copy_failed(&self, file: FileId, version: DataVersion, copy: &CopyHint, why: &str);
    /// A check of a ctime window to make later, on a file whose stub was written (see [`Settle`]).
    fn settle(&self, check: Settle);
    /// A user set `user.cairn.stage` on a file or directory (the kernel saw to it that they may
    /// write it). It is done with exactly that user's rights (P15). Must only note the wish: this
    /// is asked on the request path.
    ///
    /// # Errors
    /// Why it cannot be accepted.
    fn stage_requested(
        &self,
        node: &NodeHandle,
        hint: Option<Vec<u8>>,
        user: User,
    ) -> Result<(), Failure>;
    /// May a file without a stub be one whose stub is gone? `bare`: it holds nothing. Must be quick,
    /// and wrong only in saying yes.
    fn may_be_lost(&self, node: &NodeHandle, bare: bool) -> bool;
    /// Must [`Self::vouch`] be asked about a file without a stub before its bytes are believed?
    /// `record`: its own, which says *resident*. That is believed of any file but one that holds
    /// nothing: it may be an older one, put over the stub. Quick.
    fn is_doubtful(&self, node: &NodeHandle, record: Option<&Record>, stat: &FileStat) -> bool {
        let bare = is_bare(stat);
        match record {
            // Data that were never archived from here cannot have been released from here.
            Some(_) => bare && self.may_be_lost(node, false),
            // An empty file has lost nothing.
            None => stat.size > 0 && self.may_be_lost(node, bare),
        }
    }
    /// Is a file without a stub, of which [`Self::is_doubtful`] is true, lost?
    ///
    /// # Errors
    /// [`RecallError::Lost`] if it is; another if that cannot be told now.
    fn vouch(&self, node: &NodeHandle, file: BorrowedFd<'_>) -> Result<Vouched, RecallError>;
    /// A copied stub was adopted under a new file id; its record is durable.
    fn adopted(&self, adopted: &Adopted);
    /// A stub was found foreign, because of this.
    fn foreign(&self, node: &NodeHandle, why: &str);
    /// A stub was found contradicted by its file, by this (P4).
    fn conflict(&self, node: &NodeHandle, why: &str);
    /// Does a file without a stub look lost, to one who only shows it? `record`: as in
    /// [`Self::is_doubtful`].
    fn looks_lost(&self, node: &NodeHandle, record: Option<&Record>, stat: &FileStat) -> bool;
    /// How long until the file is back, if that can be said. Must be quick.
    fn eta(&self, file: FileId) -> Option<Duration>;
    /// Who keeps the file on disk, and until when. Must be quick.
    fn pins(&self, file: FileId) -> Vec<(String, Timestamp)>;
}

/// The steps of P4 after which tests stop as a crash would, or fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// (2) The mark is set.
    Marked,
    /// (2) and synced.
    MarkSynced,
    /// (3)
    Allocated,
    /// (4) A block is written.
    BlockWritten,
    /// (5)
    DataSynced,
    /// (6) Times are back.
    TimesSet,
    /// (6) and synced.
    TimesSynced,
    /// (7) The record says Resident.
    RecordSet,
    /// (7) and synced.
    RecordSynced,
}

/// See the module.
pub struct Recaller {
    shared: Arc<Shared>,
    keeper: Option<(crossbeam_channel::Sender<()>, std::thread::JoinHandle<()>)>,
}

/// How often time is looked at.
const BEAT: Duration = Duration::from_millis(100);

impl Recaller {
    /// A recaller for `backing`. Threads start with the work.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn start(
        backing: Arc<Backing>,
        asks: Arc<dyn Asks>,
        indexes: Arc<IndexCache>,
        settings: Settings,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::new(backing, asks, indexes, settings));
        let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
        let ticking = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("cairn-recall".into())
            .spawn(move || {
                let timeout = crossbeam_channel::RecvTimeoutError::Timeout;
                while stopped.recv_timeout(BEAT) == Err(timeout) {
                    ticking.tick(Instant::now());
                }
            })?;
        Ok(Self {
            shared,
            keeper: Some((stop, thread)),
        })
    }

    /// The backing it works on.
    #[must_use]
    pub fn backing(&self) -> &Arc<Backing> {
        &self.shared.backing
    }

    /// The indexes it keeps.
    #[must_use]
    pub fn indexes(&self) -> &Arc<IndexCache> {
        &self.shared.indexes
    }

    /// Bytes `offset..offset + len` of a file, fewer at its end, once they are here. `uid` is the
    /// user who reads. The recall this may start goes on when the reader gives up.
    pub fn read(
        &self,
        node: &NodeHandle,
        hint: Option<Vec<u8>>,
        uid: u32,
        (offset, len): (u64, u32),
        done: ReadDone,
    ) -> WaitToken {
        self.wait(
            node,
            hint,
            (Charge::User(uid), uid),
            Wait::Read { offset, len, done },
        )
    }

    /// The file resident: for an open for writing, say.
    pub fn fetch(
        &self,
        node: &NodeHandle,
        hint: Option<Vec<u8>>,
        uid: u32,
        done: WaitDone,
    ) -> WaitToken {
        self.wait(node, hint, (Charge::User(uid), uid), Wait::Fetch(done))
    }

    /// The file resident, for a stage request. When the last such wait is given up and nobody
    /// reads, the recall stops and the file is released as before.
    pub fn stage(&self, ask: StageAsk) -> WaitToken {
        let charge = (Charge::Stage, ask.user);
        self.wait(&ask.node, ask.hint, charge, Wait::Stage(ask.done))
    }

    /// Many files at once: read in the order in which they lie on their tiers. Tokens are in the
    /// order of the asks.
    pub fn stage_batch(&self, asks: Vec<StageAsk>) -> Vec<WaitToken> {
        let mut tokens = vec![WaitToken(0); asks.len()];
        let mut asks: Vec<_> = asks.into_iter().enumerate().collect();
        asks.sort_by_key(|(_, ask)| ask.place.map(|p| (p.tier, p.aggregate, p.header)));
        for (at, ask) in asks {
            tokens[at] = self.stage(ask);
        }
        tokens
    }

    /// A wait is given up: its callback is dropped, or runs if it was about to.
    pub fn give_up(&self, token: WaitToken) {
        self.shared.give_up(token.0);
    }

    /// A recall of this node is running or queued. While it is, nobody else may change its record.
    #[must_use]
    pub fn is_running(&self, node: &NodeHandle) -> bool {
        self.shared.table.lock().recalls.contains_key(node)
    }

    /// What those who wait for a file on tape may be told; `None`: it does not wait for a drive.
    #[must_use]
    pub fn told(&self, node: &NodeHandle) -> Option<Told> {
        self.shared.told(node)
    }

    /// How long those who wait for a file whose object is being restored wait still, as far as that is known; the outer
    /// `None`: it does not wait for that.
    #[must_use]
    pub fn restoring(&self, node: &NodeHandle) -> Option<Option<Duration>> {
        self.shared.restoring(node)
    }

    /// Copies of a file of so many bytes, in the order in which a recall would ask them now.
    #[must_use]
    pub fn nearest(&self, copies: &[CopyHint], bytes: u64) -> Vec<CopyHint> {
        begin::in_order(&self.shared, copies, None, bytes)
    }

    /// How many files are being recalled or wait for it.
    #[must_use]
    pub fn running(&self) -> usize {
        self.shared.table.lock().recalls.len()
    }

    /// Recalls since the start: all of them, and those that a reader (or an open for writing) waited for.
    #[must_use]
    pub fn begun(&self) -> (u64, u64) {
        self.shared.table.lock().begun
    }

    /// The node is about to be truncated to nothing: its recall stops, and none begins (readers
    /// wait) until [`Self::truncated`] or until the token is given up. `done` runs when no recalled
    /// byte can land in the file any more.
    pub fn hold(&self, node: &NodeHandle, done: WaitDone) -> WaitToken {
        let token = self.shared.token();
        let (shared, node) = (Arc::clone(&self.shared), node.clone());
        // Stopping waits for a write that is being made, so not on the caller's thread.
        let job = Box::new(move || {
            shared.hold(&node, Some(token));
            done(Ok(()));
        });
        self.shared.disk.push(lane::Urgency::Reader, job);
        WaitToken(token)
    }

    /// The node was cut to 0 bytes (P5: ftruncate first, the stub after). Waits for a block that is
    /// being written; should one have landed after the cut, the file is cut again. The caller holds
    /// users off the node meanwhile.
    ///
    /// # Errors
    /// The stub could not be dropped; a later open finishes it (size 0 with a stub of more).
    pub fn truncated(&self, node: &NodeHandle, fd: BorrowedFd<'_>) -> Result<(), BackingError> {
        self.shared.hold(node, None);
        let dropped = self.drop_stub(node, fd);
        self.backing().was_touched(node, fd);
        for _ in 0..self.shared.forget_hold_tokens(node) {
            self.shared.unhold(node);
        }
        self.shared.unhold(node);
        dropped
    }

    fn drop_stub(&self, node: &NodeHandle, fd: BorrowedFd<'_>) -> Result<(), BackingError> {
        let backing = &self.shared.backing;
        let of = |step| {
            move |why: rustix::io::Errno| BackingError::of(step, || "a truncated file".into(), why)
        };
        let stub = |r: &Record| r.state != State::Resident;
        let Some(record) = backing.record(fd)?.filter(stub) else {
            // A recall came to its end first: what is in the file is the users' own by now.
            return Ok(());
        };
        let file = backing.reopen(fd, How::ReadWrite)?;
        if backing.stat(file.as_fd())?.size != 0 {
            rustix::fs::ftruncate(&file, 0).map_err(of("truncate"))?;
        }
        backing.drop_truncated(node, file.as_fd(), &record)?;
        rustix::fs::fsync(&file).map_err(of("sync"))
    }

    /// Nothing begins any more; `true` once nothing runs, within `patience`. A tier that takes its
    /// time is not waited for longer: what it gives then is not written, because the process ends.
    /// Files that are half back are released again: after a clean stop nobody would look for their
    /// room before they are read.
    #[must_use]
    pub fn halt(&self, patience: Duration) -> bool {
        let lanes = self.shared.lanes();
        for lane in &lanes {
            lane.halt();
        }
        let until = Instant::now() + patience;
        loop {
            if lanes.iter().all(|lane| lane.is_over()) {
                break;
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let half_back: Vec<_> = self.shared.table.lock().recalls.values().cloned().collect();
        for recall in half_back {
            if Instant::now() >= until {
                tracing::warn!("no time to give back the room of all recalls that were cut short");
                break;
            }
            finish::give_room_back(&self.shared, &recall);
        }
        true
    }

    /// Looks at the time now instead of at the next beat.
    pub fn tick(&self, now: Instant) {
        self.shared.tick(now);
    }
}

impl Recaller {
    fn wait(
        &self,
        node: &NodeHandle,
        hint: Option<Vec<u8>>,
        (charge, user): (Charge, u32),
        wait: Wait,
    ) -> WaitToken {
        let token = self.shared.token();
        // Stage requests have their own time-outs.
        let deadline = self.shared.deadline().filter(|_| wait.is_implicit());
        let waiter = Waiter {
            token,
            wait,
            user,
            deadline,
        };
        self.shared.join(node, hint, charge, waiter);
        WaitToken(token)
    }
}

impl Shared {
    fn deadline(&self) -> Option<Instant> {
        Some(Instant::now() + self.settings.timeout?)
    }

    /// Tests stop here as a crash would, or meet an error; otherwise nothing.
    #[cfg(test)]
    fn reached(&self, step: Step) -> Result<(), RecallError> {
        if *self.fail_after.lock() == Some(step) {
            return Err(RecallError::io("a step", rustix::io::Errno::IO));
        }
        if *self.halt_after.lock() == Some(step) {
            Err(RecallError::Cancelled)
        } else {
            Ok(())
        }
    }
    #[cfg(not(test))]
    #[inline]
    #[allow(clippy::unused_self, reason = "the tests' one uses it")]
    fn reached(&self, _step: Step) -> Result<(), RecallError> {
        Ok(())
    }
}

impl Drop for Recaller {
    /// Waits for the blocks being read; what was not done is begun anew by the next start.
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.keeper.take() {
            drop(stop);
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("the recaller's clock panicked");
            }
        }
        for lane in self.shared.lanes() {
            lane.stop();
        }
    }
}
