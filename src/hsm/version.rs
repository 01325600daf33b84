//! P1: what proves that a file has not changed.
//!
//! Invariants:
//! - A [`Quiet`] exists only where a quiescent point was made: under a read lease (no writer, no
//!   writable mapping), with a ctime that the coarse clock, floored to the filesystem's
//!   granularity, has passed, and with the lease still held at the end.
//! - Two quiescent points with equal [`Seen`] prove that the data did not change in between
//!   (unless power was lost in between: see [`Trust`]). Unequal ones prove nothing.

mod content;
mod settle;
#[cfg(test)]
mod tests;

pub use content::{Interrupted, checksum};
pub use settle::{LONGEST_SETTING, Settle, Settled, Stamp, may_be_setting, settle};

use crate::format::record::CTIME_WINDOW_NS;
use crate::hsm::backing::{Backing, BackingError, NodeKind};
use crate::hsm::lease::{Lease, LeaseError, LeaseKind};
use crate::id::{NodeHandle, Timestamp};
use cairn_mover::Crc32c;
use rustix::time::{ClockId, clock_gettime};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The `v` of P1: what a file looked like at a quiescent point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The inode.
    pub node: NodeHandle,
    /// Its size in bytes.
    pub size: u64,
    /// Its ctime by the backing's clock.
    pub ctime: Timestamp,
}

/// How far a recorded version may be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Recorded in this boot, or every boot since ended in a clean stop with syncfs.
    Sound,
    /// A boot since then did not end cleanly: power loss can leave new data under the old ctime.
    Suspect,
}

/// A quiescent point, its lease still held.
#[derive(Debug)]
pub struct Quiet {
    lease: Lease<OwnedFd>,
    seen: Seen,
    at: Instant,
}

/// Why no quiescent point could be made.
#[derive(Debug, thiserror::Error)]
pub enum NotQuiet {
    /// Somebody can write: a writer has it open or mapped, or is waiting to open it.
    #[error("somebody writes to the file, or is about to")]
    Writer,
    /// The ctime did not pass within the bound: the clock stands, or the ctime lies in the future.
    #[error("its ctime ({0:?}) is not in the past")]
    Future(Timestamp),
    /// Its status changed while it was being looked at (chmod, rename, ...): try again.
    #[error("its status changed meanwhile")]
    Restless,
    /// Only regular files have data.
    #[error("not a regular file")]
    NotRegular,
    /// Leases do not work here.
    #[error(transparent)]
    Lease(LeaseError),
    /// A step on the backing failed.
    #[error(transparent)]
    Backing(#[from] BackingError),
}

impl From<LeaseError> for NotQuiet {
    fn from(why: LeaseError) -> Self {
        match why {
            LeaseError::InUse => Self::Writer,
            refused @ LeaseError::Refused(_) => Self::Lease(refused),
        }
    }
}

impl Quiet {
    /// Not proven yet: see [`prove`].
    fn looked(backing: &Backing, lease: Lease<OwnedFd>) -> Result<Self, NotQuiet> {
        let at = Instant::now();
        let seen = look(backing, lease.fd())?;
        Ok(Self { lease, seen, at })
    }
    /// What the file looked like.
    #[must_use]
    pub fn seen(&self) -> &Seen {
        &self.seen
    }
    /// A moment at which it looked so: what was written before it is in the data, and whoever writes
    /// after it changes what there is to be seen.
    #[must_use]
    pub fn at(&self) -> Instant {
        self.at
    }
    /// The file, open for reading.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.lease.fd()
    }
    /// Nobody has asked to write since.
    #[must_use]
    pub fn still_held(&self) -> bool {
        self.lease.still_held()
    }
}

/// `CLOCK_REALTIME_COARSE`: the clock that stamps files, a tick behind at most.
#[must_use]
pub fn coarse_now() -> Timestamp {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    Timestamp {
        sec: now.tv_sec,
        nsec: u32::try_from(now.tv_nsec).unwrap_or(0),
    }
}

/// Longest wait for the coarse clock to pass a ctime: several ticks; a step of the filesystem's
/// own granularity comes on top.
const SOME_TICKS: Duration = Duration::from_millis(50);
/// Half of the shortest tick in use (HZ=1000 to 100).
const NAP: Duration = Duration::from_micros(500);

/// Quiescent points on many files at the cost of one wait. Each descriptor must be open
/// `O_RDONLY` (see [`How::Read`](crate::hsm::backing::How::Read)); results are in the same order.
/// Keep the number of files small enough that their leases do not trouble users for long.
#[must_use]
pub fn quiescent(backing: &Backing, files: Vec<OwnedFd>) -> Vec<Result<Quiet, NotQuiet>> {
    let leased = files.into_iter().map(|fd| {
        let lease = Lease::take(fd, LeaseKind::NoWriters)?;
        Quiet::looked(backing, lease)
    });
    prove(backing, leased.collect())
}

/// A quiescent point on a file that nobody else has open or mapped at all, through a descriptor
/// opened for reading and writing: what a release stands on (P3).
///
/// # Errors
/// [`NotQuiet`]; [`NotQuiet::Writer`] stands for any other user of the file.
pub fn quiescent_alone(backing: &Backing, file: OwnedFd) -> Result<Quiet, NotQuiet> {
    let lease = Lease::take(file, LeaseKind::Alone)?;
    prove(backing, vec![Quiet::looked(backing, lease)])
        .pop()
        .unwrap_or(Err(NotQuiet::NotRegular))
}

/// A quiescent point on one file.
///
/// # Errors
/// [`NotQuiet`].
pub fn quiescent_one(backing: &Backing, file: OwnedFd) -> Result<Quiet, NotQuiet> {
    quiescent(backing, vec![file])
        .pop()
        .unwrap_or(Err(NotQuiet::NotRegular))
}

/// Makes quiescent points anew under the same leases, after Cairn itself changed the ctimes (by
/// writing records): what they give proves, together with the former ones, that data are unchanged.
#[must_use]
pub fn quiescent_again(backing: &Backing, files: Vec<Quiet>) -> Vec<Result<Quiet, NotQuiet>> {
    let looked = files
        .into_iter()
        .map(|quiet| Quiet::looked(backing, quiet.lease));
    prove(backing, looked.collect())
}

fn look(backing: &Backing, fd: BorrowedFd<'_>) -> Result<Seen, NotQuiet> {
    let stat = backing.stat(fd)?;
    if stat.kind != NodeKind::Regular {
        return Err(NotQuiet::NotRegular);
    }
    Ok(Seen {
        node: backing.handle_of(fd)?,
        size: stat.size,
        ctime: stat.ctime,
    })
}

/// Waits until the clock has passed all ctimes, then looks again under the leases.
fn prove(backing: &Backing, files: Vec<Result<Quiet, NotQuiet>>) -> Vec<Result<Quiet, NotQuiet>> {
    let step = i64::from(backing.capabilities().granularity_ns);
    // A ctime further ahead than any wait can bridge never counts, and is not waited for.
    let bound = SOME_TICKS + Duration::from_nanos(u64::from(backing.capabilities().granularity_ns));
    let horizon = coarse_now().nanos().saturating_add(bound.as_nanos() as i64);
    let ahead = |q: &Quiet| q.seen.ctime.nanos() <= horizon;
    let latest = files
        .iter()
        .flatten()
        .filter(|q| ahead(q))
        .map(|q| q.seen.ctime.nanos())
        .max();
    let now = latest.map_or_else(|| floor_now(step), |latest| wait_past(latest, step, bound));
    let check = |quiet: Quiet| {
        if quiet.seen.ctime.nanos() >= now {
            return Err(NotQuiet::Future(quiet.seen.ctime));
        }
        // The statx lies between two moments at which the lease was held, so what it says holds
        // for the whole time; a ctime that moved meanwhile (chmod) makes another point necessary.
        let again = look(backing, quiet.fd())?;
        if !quiet.still_held() {
            return Err(NotQuiet::Writer);
        }
        if again != quiet.seen {
            Err(NotQuiet::Restless)
        } else {
            Ok(quiet)
        }
    };
    files.into_iter().map(|file| file.and_then(check)).collect()
}

/// The coarse clock, floored to steps of `step` nanoseconds.
fn floor_now(step: i64) -> i64 {
    let now = coarse_now().nanos();
    now - now.rem_euclid(step.max(1))
}

/// Waits (boundedly) until the floored clock is later than `ctime`; gives its reading.
fn wait_past(ctime: i64, step: i64, bound: Duration) -> i64 {
    let begun = Instant::now();
    loop {
        // Asked first: whoever was kept from running past the bound still reads the clock after it.
        let late = begun.elapsed() > bound;
        let now = floor_now(step);
        if now > ctime || late {
            return now;
        }
        std::thread::sleep(NAP);
    }
}

/// What [`rebind`] found.
#[derive(Debug)]
pub enum Rebound {
    /// The data are those of the version: the quiescent point to keep for it from now on.
    Same(Quiet),
    /// The data changed: the file is dirty.
    Dirty {
        /// What the file looks like now.
        seen: Seen,
        /// Sum of what it holds now (`None`: the size differs, nothing was read).
        found: Option<Crc32c>,
    },
}

/// Is the file still what was archived as `(size, crc)` and seen as `known`? Equal v proves it,
/// unless it is suspect; else the bytes are read and compared under the lease.
///
/// # Errors
/// [`NotQuiet`]: nothing can be said now.
pub fn rebind(
    backing: &Backing,
    file: OwnedFd,
    known: Option<(&Seen, Trust)>,
    size: u64,
    crc: Crc32c,
) -> Result<Rebound, NotQuiet> {
    let quiet = quiescent_one(backing, file)?;
    if let Some((seen, Trust::Sound)) = known
        && *seen == quiet.seen
    {
        return Ok(Rebound::Same(quiet));
    }
    if quiet.seen.size != size {
        return Ok(Rebound::Dirty {
            seen: quiet.seen,
            found: None,
        });
    }
    let found = match checksum(backing, quiet.fd(), size, || quiet.still_held()) {
        Ok(found) => found,
        Err(Interrupted::Stopped) => return Err(NotQuiet::Writer),
        Err(Interrupted::Backing(why)) => return Err(why.into()),
    };
    if !quiet.still_held() {
        return Err(NotQuiet::Writer);
    }
    if found == crc {
        Ok(Rebound::Same(quiet))
    } else {
        Ok(Rebound::Dirty {
            seen: quiet.seen,
            found: Some(found),
        })
    }
}

/// Does `ctime` lie in the window after `floor` in which it is Cairn's own doing (P4)?
#[must_use]
pub fn in_window(floor: Timestamp, ctime: Timestamp) -> bool {
    (0..=CTIME_WINDOW_NS).contains(&ctime.nanos().saturating_sub(floor.nanos()))
}
