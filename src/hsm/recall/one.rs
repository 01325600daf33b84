//! One file's recall: who waits, how far it is, and the descriptors it works through.
//!
//! Locks: `state` for what is said here, `io` for every change to the file. `io` is never taken
//! with `state` held; a file is given back (punched) only after [`Recall::stop_serving`].

use super::park::Parked;
use super::progress::{Effects, Progress, Verdict};
use super::source::Sources;
use super::{Done, RecallError, Staged};
use crate::format::record::{CopyHint, Record};
use crate::hsm::backing::FileStat;
use crate::hsm::tape::desk::Seat;
use crate::id::{AggregateId, NodeHandle};
use cairn_fuse::{ReadDone, WaitDone};
use cairn_mover::Checked;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What somebody waits for.
pub(super) enum Wait {
    /// Bytes.
    Read {
        /// From here.
        offset: u64,
        /// So many, fewer at the end of the file.
        len: u32,
        /// The callback.
        done: ReadDone,
    },
    /// The file resident, for a user who opens it for writing.
    Fetch(WaitDone),
    /// The file resident, for a stage request.
    Stage(Staged),
}

/// A wait and its number.
pub(super) struct Waiter {
    pub(super) token: u64,
    pub(super) wait: Wait,
    /// For whom.
    pub(super) user: u32,
    /// When it ends with [`RecallError::TimedOut`].
    pub(super) deadline: Option<Instant>,
}

/// Where a recall is in P4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waits for its turn, or for a truncation to be over.
    Queued,
    /// Waits for its turn at a drive; nothing of it was begun.
    Parked,
    /// Admitted; P4 (1) to (3) are being done.
    Beginning,
    /// Blocks are fetched (4).
    Running,
    /// P4 (5) to (8) are being done, or the file is given back.
    Finishing,
    /// Over; no longer in the table.
    Ended,
}

/// What a recall counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Charge {
    /// The user who read.
    User(u32),
    /// The number of files staged at once.
    Stage,
}

/// An opened stub: fixed for the length of a recall.
pub(super) struct Opened {
    /// What to call the file in messages.
    pub(super) object: String,
    /// For reading: serves readers and is what gets synced.
    pub(super) reader: Arc<OwnedFd>,
    /// The stub when it was looked at. What users may change of it (times) is read again where it
    /// is needed; see `meanwhile`.
    pub(super) record: Record,
    /// Where its data are, in the order in which they are asked: the nearest first.
    pub(super) copies: Vec<CopyHint>,
    /// Before anything was done.
    pub(super) before: FileStat,
}

/// The writing side of the file. Gone once the file is whole, given back, or truncated.
pub(super) struct Writer {
    pub(super) fd: OwnedFd,
}

/// How an answer gets its bytes.
pub(super) enum From {
    /// The file.
    Disk,
    /// Blocks in memory (streaming), in order.
    Memory(Vec<(u32, Checked)>),
}

/// An answer to give once no lock is held.
pub(super) struct Answer {
    pub(super) token: u64,
    pub(super) what: What,
}

/// What is answered.
pub(super) enum What {
    /// Bytes from here, so many.
    Bytes(u64, u32, ReadDone, From),
    Read(ReadDone, RecallError),
    Fetched(WaitDone, Result<(), RecallError>),
    Staged(Staged, Result<Option<Done>, RecallError>),
}

impl Waiter {
    /// The answer that it came to nothing.
    pub(super) fn fail(self, why: RecallError) -> Answer {
        let what = match self.wait {
            Wait::Read { done, .. } => What::Read(done, why),
            Wait::Fetch(done) => What::Fetched(done, Err(why)),
            Wait::Stage(done) => What::Staged(done, Err(why)),
        };
        Answer {
            token: self.token,
            what,
        }
    }

    /// The answer that the file is resident. `served`: there is a descriptor to read through.
    pub(super) fn resident(self, done: Option<&Done>, served: bool) -> Answer {
        let what = match self.wait {
            Wait::Read { done, .. } if !served => What::Read(done, RecallError::Gone),
            Wait::Read { offset, len, done } => What::Bytes(offset, len, done, From::Disk),
            Wait::Fetch(fetched) => What::Fetched(fetched, Ok(())),
            Wait::Stage(staged) => What::Staged(staged, Ok(done.cloned())),
        };
        Answer {
            token: self.token,
            what,
        }
    }
}

impl Wait {
    /// The recall completes even if the one who waits goes away.
    pub(super) fn is_implicit(&self) -> bool {
        !matches!(self, Self::Stage(_))
    }
}

/// What may change while a recall runs.
pub(super) struct State {
    pub(super) phase: Phase,
    /// Whom it would be charged to, and whether it is.
    pub(super) charge: Charge,
    pub(super) admitted: bool,
    pub(super) implicit: bool,
    pub(super) waiters: HashMap<u64, Waiter>,
    pub(super) progress: Option<Progress>,
    pub(super) opened: Option<Arc<Opened>>,
    pub(super) sources: Option<Arc<Sources>>,
    /// What readers on the disk are served through.
    pub(super) reader: Option<Arc<OwnedFd>>,
    /// Streaming: blocks in memory.
    pub(super) memory: HashMap<u32, Checked>,
    /// Streaming: why.
    pub(super) no_room: Option<RecallError>,
    /// Tickets queued or running: for waiting readers, and in the background.
    pub(super) tickets: [u32; 2],
    /// When somebody last wanted anything.
    pub(super) used: Instant,
    /// Where it waits for a drive.
    pub(super) parked: Option<Parked>,
    /// How often it asked for one.
    pub(super) asked: u64,
    /// It was called, with a seat or without.
    pub(super) called: bool,
    /// Its turn at a drive.
    pub(super) seat: Option<Seat>,
    /// The object that it has, or had, its turn for.
    pub(super) seat_of: Option<AggregateId>,
    /// The copy that it waited, or waits, for a drive for: it stays the nearest.
    pub(super) turn_of: Option<AggregateId>,
}

/// See the module.
pub(super) struct Recall {
    pub(super) node: NodeHandle,
    pub(super) hint: Option<Vec<u8>>,
    pub(super) state: Mutex<State>,
    pub(super) io: Mutex<Option<Writer>>,
    /// No more changes to the file: it was truncated.
    pub(super) stop: AtomicBool,
    /// Readers on the disk hold it shared; `false`: what is on disk must not be served.
    pub(super) serving: RwLock<bool>,
}

impl Recall {
    pub(super) fn new(
        node: NodeHandle,
        hint: Option<Vec<u8>>,
        charge: Charge,
        now: Instant,
    ) -> Self {
        Self {
            node,
            hint,
            state: Mutex::new(State {
                phase: Phase::Queued,
                charge,
                admitted: false,
                implicit: false,
                waiters: HashMap::new(),
                progress: None,
                opened: None,
                sources: None,
                reader: None,
                memory: HashMap::new(),
                no_room: None,
                tickets: [0; 2],
                used: now,
                parked: None,
                asked: 0,
                called: false,
                seat: None,
                seat_of: None,
                turn_of: None,
            }),
            io: Mutex::new(None),
            stop: AtomicBool::new(false),
            serving: RwLock::new(true),
        }
    }

    /// The file was truncated under the recall.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// From here on no reader is served from the disk; waits for those being served.
    pub(super) fn stop_serving(&self) {
        *self.serving.write() = false;
    }
}

impl State {
    /// Lets the machine know of a waiter, once there is a machine.
    pub(super) fn register(&mut self, token: u64) -> Vec<Answer> {
        let (Some(progress), Some(waiter)) = (&mut self.progress, self.waiters.get(&token)) else {
            return Vec::new();
        };
        let effects = match (&waiter.wait, &self.sources) {
            (Wait::Read { offset, len, .. }, Some(sources)) => {
                let end = offset.saturating_add(u64::from(*len));
                let blocks = sources.entry().blocks_for(*offset..end);
                let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
                progress.read(token, number(blocks.first)..number(blocks.end))
            }
            (Wait::Fetch(_), _) => progress.want_whole(token, true),
            (Wait::Stage(_), _) => progress.want_whole(token, false),
            (Wait::Read { .. }, None) => return Vec::new(),
        };
        self.take(effects)
    }

    /// Turns what the machine said into answers.
    pub(super) fn take(&mut self, effects: Effects) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(effects.answers.len());
        for (token, verdict) in effects.answers {
            let Some(waiter) = self.waiters.remove(&token) else {
                continue;
            };
            answers.push(match (verdict, waiter.wait) {
                (Verdict::Ready, Wait::Read { offset, len, done }) => {
                    let from = self.bytes_from(offset, len);
                    let what = What::Bytes(offset, len, done, from);
                    Answer { token, what }
                }
                (verdict, wait) => {
                    let why = match verdict {
                        Verdict::NoRoom => self.no_room.clone(),
                        Verdict::Bad | Verdict::Ready => {
                            self.sources.as_ref().map(|s| s.no_good_copy())
                        }
                    };
                    let why = why.unwrap_or(RecallError::Cancelled);
                    Waiter { wait, ..waiter }.fail(why)
                }
            });
        }
        // Only now: an answer may have needed what was just evicted.
        for block in effects.evicted {
            self.memory.remove(&block);
        }
        answers
    }

    fn bytes_from(&self, offset: u64, len: u32) -> From {
        let streaming = self.progress.as_ref().is_some_and(Progress::is_streaming);
        let Some(sources) = self.sources.as_ref().filter(|_| streaming) else {
            return From::Disk;
        };
        let end = offset.saturating_add(u64::from(len));
        let blocks = sources.entry().blocks_for(offset..end);
        let held = blocks.iter().filter_map(|n| {
            let n = u32::try_from(n).ok()?;
            Some((n, self.memory.get(&n)?.clone()))
        });
        From::Memory(held.collect())
    }
}
