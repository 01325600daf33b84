//! The window in which a ctime is Cairn's own doing (P4, "the mount shows the user's ctime").
//!
//! Every write of a record changes the backing's ctime. The record therefore carries the clock's
//! reading just before it was set, and a ctime at most [`CTIME_WINDOW_NS`] later is shown as the
//! user's own. A user's chmod within the same few milliseconds would hide in the window: [`settle`],
//! called when the window is past, finds it and opens the window's curtain.

use super::{coarse_now, in_window};
use crate::format::record::{CTIME_WINDOW_NS, Record};
use crate::hsm::backing::{Backing, BackingError, How, SetHow, belongs_to};
use crate::id::{NodeHandle, Timestamp};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Tries to get the record and its ctime into one window before giving the window up. One misses
/// it where the filesystem makes a change wait for its journal, which it seldom does twice running;
/// on a loaded disk one in thirty was seen to miss.
const TRIES: u32 = 16;
/// Tries that are made however long they take: on a disk with a long queue one alone was seen to take
/// more than two seconds, and the next one a moment.
const SURE_TRIES: u32 = 4;
/// When no more than those are made: users who look at the file wait meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);
/// A record that is older than this is not on its way to one that fits any more: a few tries on a disk
/// that takes seconds for each.
pub const LONGEST_SETTING: Duration = Duration::from_secs(30);

/// May a record with this floor still be on its way to one that fits?
#[must_use]
pub fn may_be_setting(floor: Timestamp) -> bool {
    let age = coarse_now().nanos().saturating_sub(floor.nanos());
    u128::try_from(age).is_ok_and(|age| age < LONGEST_SETTING.as_nanos())
}

/// A check to be made once the window is past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settle {
    /// The inode.
    pub node: NodeHandle,
    /// A name of it, where nodes are found by name.
    pub hint: Option<Vec<u8>>,
    /// The ctime that Cairn's own write left.
    pub ctime: Timestamp,
    /// The floor of the window that it belongs to.
    pub floor: Timestamp,
}

impl Settle {
    /// When it may be run, by the coarse clock: nanoseconds since 1970.
    #[must_use]
    pub fn due_nanos(&self) -> i64 {
        self.ctime.nanos().saturating_add(CTIME_WINDOW_NS)
    }
    /// The window is past.
    #[must_use]
    pub fn is_due(&self) -> bool {
        coarse_now().nanos() > self.due_nanos()
    }
}

/// What [`Stamp::set`] left on the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// The record as set.
    pub record: Record,
    /// The file's ctime afterwards.
    pub ctime: Timestamp,
    /// The check to make later; `None` if no window is open.
    pub settle: Option<Settle>,
}

impl Stamp {
    /// Sets `record` with the floor of a new window, as the *last* call of a step that changes
    /// the ctime. The caller has the node's turn, so that nobody is shown a ctime of a try that
    /// missed. After many tries that fell out of the window (a clock that jumps, a slow disk) it
    /// sets the record without one. Not durable before an fsync.
    ///
    /// # Errors
    /// What writing the record met.
    pub fn set(
        backing: &Backing,
        fd: BorrowedFd<'_>,
        hint: Option<&[u8]>,
        record: &Record,
        how: SetHow,
    ) -> Result<Self, BackingError> {
        let (mut record, mut how) = (record.clone(), how);
        let begun = Instant::now();
        let mut tries = 0;
        while tries < SURE_TRIES || tries < TRIES && begun.elapsed() < PATIENCE {
            tries += 1;
            let floor = coarse_now();
            record.ctime_floor = Some(floor);
            backing.set_record(fd, &record, how)?;
            how = SetHow::Replace;
            let ctime = backing.stat(fd)?.ctime;
            if in_window(floor, ctime) {
                let (node, hint) = (backing.handle_of(fd)?, hint.map(<[u8]>::to_vec));
                let settle = Some(Settle {
                    node,
                    hint,
                    ctime,
                    floor,
                });
                return Ok(Self {
                    record,
                    ctime,
                    settle,
                });
            }
        }
        record.ctime_floor = None;
        backing.set_record(fd, &record, how)?;
        let ctime = backing.stat(fd)?.ctime;
        Ok(Self {
            record,
            ctime,
            settle: None,
        })
    }
}

/// What [`settle`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The ctime is still the one that Cairn's own write left.
    Quiet,
    /// Somebody else changed the file's status: the backing's ctime is shown from now on.
    Shown,
    /// The file, or its record, is gone or another one by now: a later one has its own check.
    Moot,
}

/// Makes the check. The caller sees to it that no other step of Cairn's works on the node
/// meanwhile (the engine's per-node lock), because the record is read and written again.
///
/// # Errors
/// What the steps met.
pub fn settle(backing: &Backing, check: &Settle) -> Result<Settled, BackingError> {
    let fd = match backing.open_node(&check.node, check.hint.as_deref(), How::Path) {
        Err(BackingError::Gone { .. }) => return Ok(Settled::Moot),
        opened => opened?,
    };
    // A user may be setting the times of a stub, which changes its record.
    let _turn = backing.turn(&check.node);
    let Some(mut record) = backing.record(fd.as_fd())? else {
        return Ok(Settled::Moot);
    };
    // Taken for somebody else's, a later stamp of Cairn's own would be written over, and the file
    // would look changed by a ctime that the catalog was never told.
    let own = record.ctime_floor == Some(check.floor);
    if !own || !belongs_to(&record, backing.fs(), &check.node) {
        return Ok(Settled::Moot);
    }
    let ctime = backing.stat(fd.as_fd())?.ctime;
    if ctime == check.ctime {
        return Ok(Settled::Quiet);
    }
    if in_window(check.floor, ctime) {
        record.ctime_floor = None;
        backing.set_record(fd.as_fd(), &record, SetHow::Replace)?;
    }
    Ok(Settled::Shown)
}
