//! P3: a file's blocks are given back.
//!
//! Invariants:
//! - Nothing is punched unless, under a lease that shuts everybody else out, the file was proven to
//!   be the version that `prove` says has enough good copies (invariant 1 of the design).
//! - From the moment the first block can be gone until the last is, the durable record says
//!   [`State::Recalling`]: a stub whose file may hold extents that mean nothing. Only behind the
//!   punch does it say [`State::Released`], with which extents would be a conflict. So a crash
//!   anywhere leaves a resident or a released file, also in the middle of a long punch.
//! - The catalog is told before the first write to the file ([`Order::note`]), and told otherwise by the
//!   caller if nothing comes of it.
//! - Only a [`Permit`] lets anybody release here: the filesystem can do it and users cannot go
//!   around the mount (P7, P10).

mod check;
mod gain;
mod mend;
mod recover;
#[cfg(test)]
mod tests;

pub use gain::{Gain, Shortfall};
pub use mend::{Keep, MendError, Patient, drop_stub, make_stub_whole, put_stub};
pub use recover::{Recovered, recover};

use crate::format::record::{CopyHint, Record, State};
use crate::hsm::backing::{
    Backing, BackingError, FileStat, How, Lacking, Reach, SetHow, SetId, describe, shown_ctime,
};
use crate::hsm::version::{NotQuiet, Quiet, Seen, Settle, Stamp, Trust, quiescent_alone};
use crate::id::{DataVersion, FileId, NodeHandle, Timestamp};
use cairn_fuse::Gate;
use cairn_mover::Crc32c;
use rustix::fs::{FallocateFlags, Timespec, Timestamps, UTIME_OMIT};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Below this many bytes a file is not worth a stub (P3): the default.
pub const MIN_SIZE: u64 = 64 << 10;

/// Leave to release files of one backing.
#[derive(Debug, Clone, Copy)]
pub struct Permit<'a> {
    backing: &'a Backing,
}

/// Why nothing may be released on a backing.
#[derive(Debug, thiserror::Error)]
pub enum NotPermitted {
    /// The filesystem cannot do it.
    #[error(transparent)]
    Lacking(Lacking),
    /// Users can get at the backing while the mount is away, and would read zeros (P7).
    #[error(
        "users can reach the backing directory without the mount, and would read released files as zeros: put it below a directory that only root may enter (`cairn adopt` does it)"
    )]
    Open,
    /// It could not be found out.
    #[error(transparent)]
    Backing(#[from] BackingError),
}

impl<'a> Permit<'a> {
    /// Checks the filesystem (P10) and the way to it (P7). `open_backing`: the administrator wants
    /// it although users can reach the backing (`--unsafe-open-backing`).
    ///
    /// # Errors
    /// [`NotPermitted`].
    pub fn of(backing: &'a Backing, open_backing: bool) -> Result<Self, NotPermitted> {
        backing
            .capabilities()
            .release()
            .map_err(|why| NotPermitted::Lacking(why.clone()))?;
        if !open_backing && backing.users_can_reach()? == Reach::Open {
            return Err(NotPermitted::Open);
        }
        Ok(Self { backing })
    }
}

/// A quiescent point from before, and what it proved.
#[derive(Debug, Clone, Copy)]
pub struct Proof<'a> {
    /// The file.
    pub file: FileId,
    /// The version that its data were then.
    pub version: DataVersion,
    /// What it looked like.
    pub seen: &'a Seen,
    /// How far this may be trusted.
    pub trust: Trust,
}

/// A file to release.
pub struct Order<'a> {
    /// The inode.
    pub node: &'a NodeHandle,
    /// A name of it, where nodes are found by name.
    pub hint: Option<&'a [u8]>,
    /// Smallest size worth it, bytes; see [`MIN_SIZE`].
    pub min_size: u64,
    /// Good copies on live places that policy asks for, at least 1.
    pub copies: usize,
    /// What the file looked like when it was last proven to be a version, which version that was,
    /// and how far this is to be trusted. It proves nothing about a record of another version.
    pub seen: Option<Proof<'a>>,
    /// The catalog's answer, asked under the lease: the copies of exactly this file, version and
    /// sum that are proven durable on live places, the best first; or why there is no answer.
    pub prove: &'a dyn Fn(&Record) -> Result<Vec<CopyHint>, String>,
    /// Called under the lease, when nothing speaks against the release any more and nothing of the
    /// file was changed: the catalog has it as released from here on. A file without its stub is
    /// judged by that, so without it no block goes.
    pub note: &'a dyn Fn() -> Result<(), String>,
}

/// What a release did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// Bytes that the file's blocks took before and no longer take.
    pub freed: u64,
    /// The stub.
    pub record: Record,
    /// The file's ctime when the stub had been written, still under the lease: what it looks like
    /// later may be a user's doing.
    pub ctime: Timestamp,
    /// A check to be made later.
    pub settle: Option<Settle>,
}

/// Why a file was not released. It is as it was, resident, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// A descriptor or a mapping of it lives, through the mount or beside it.
    #[error("it is in use")]
    InUse,
    /// It has no record: never archived, as far as it says.
    #[error("it is not archived")]
    NotArchived,
    /// It is released already, or being recalled.
    #[error("it is released already")]
    AlreadyReleased,
    /// Its record belongs to another inode.
    #[error("it carries the record of another file (copied or restored)")]
    Foreign,
    /// Its data are not those that were archived.
    #[error("it changed since it was archived")]
    Dirty {
        /// What it looks like now.
        seen: Seen,
        /// Sum of what it holds now, if it was read.
        found: Option<Crc32c>,
    },
    /// Not enough good copies.
    #[error("it has {good} good copies on live places, {wanted} are asked for")]
    Copies {
        /// Proven.
        good: usize,
        /// Asked for.
        wanted: usize,
    },
    /// The catalog gave no answer.
    #[error("its copies cannot be proven: {0}")]
    Unproven(String),
    /// The catalog could not be told before.
    #[error("its release cannot be noted: {0}")]
    Unnoted(String),
    /// Smaller than is worth it.
    #[error("it is smaller than {0} bytes")]
    Small(u64),
    /// Its blocks would not come free.
    #[error("nothing would come free: {0}")]
    FreesNothing(&'static str),
    /// It is not quiet.
    #[error(transparent)]
    NotQuiet(NotQuiet),
    /// The inode is gone.
    #[error("it no longer exists")]
    Vanished,
    /// A step failed; if it is a step behind the stub's writing, the file counts as released and
    /// [`recover`] finishes it.
    #[error(transparent)]
    Backing(BackingError),
}

impl From<BackingError> for Refusal {
    fn from(why: BackingError) -> Self {
        match why {
            BackingError::Busy { .. } => Self::InUse,
            BackingError::Gone { .. } => Self::Vanished,
            why => Self::Backing(why),
        }
    }
}

impl From<NotQuiet> for Refusal {
    fn from(why: NotQuiet) -> Self {
        match why {
            NotQuiet::Writer => Self::InUse,
            NotQuiet::Backing(why) => why.into(),
            why => Self::NotQuiet(why),
        }
    }
}

/// Releases one file, steps 1 to 7 of P3. The catalog is the caller's, with what this returns.
///
/// # Errors
/// [`Refusal`].
pub fn release(
    permit: Permit<'_>,
    gate: &dyn Gate,
    order: &Order<'_>,
) -> Result<Released, Refusal> {
    let backing = permit.backing;
    check::cheap(backing, order)?;
    // (1) Users of the mount are shut out.
    let hold = gate.hold(order.node).ok_or(Refusal::InUse)?;
    // (2) So is everybody else: no other descriptor, no mapping.
    let quiet = alone(backing, order.node, order.hint)?;
    // (3) It is what was archived, and enough copies of that are good.
    let record = check::proven(backing, order, &quiet)?;
    let stat = backing.stat(quiet.fd())?;
    check::frees(backing, quiet.fd(), &stat)?;
    (order.note)().map_err(Refusal::Unnoted)?;
    // That may have waited for a disk, and who wants the file waits for a lease only so long: what
    // they wrote since must not get a mark that says that it may be punched.
    if !quiet.still_held() {
        return Err(Refusal::InUse);
    }
    // (4) to (6)
    let emptied = empty(backing, &quiet, order, &record, &stat);
    backing.was_touched(order.node, quiet.fd());
    let stamp = emptied?;
    let left = backing.stat(quiet.fd())?.blocks;
    // (7)
    gate.changed(order.node);
    drop(quiet);
    drop(hold);
    Ok(Released {
        freed: stat.blocks.saturating_sub(left) * 512,
        record: stamp.record,
        ctime: stamp.ctime,
        settle: stamp.settle,
    })
}

/// Steps 4 to 6: stub, punch, times (and what else a punch takes from a file). On an error before
/// the punch the record is resident again. What users set meanwhile (no lease keeps them from
/// setting times, say) is in the stub, and stays.
fn empty(
    backing: &Backing,
    quiet: &Quiet,
    order: &Order<'_>,
    record: &Record,
    stat: &FileStat,
) -> Result<Stamp, Refusal> {
    let fd = quiet.fd();
    let of = (order.node, order.hint);
    let marked = mark(backing, fd, order.node, record)
        .and_then(|()| sync(fd))
        .map_err(Refusal::from)
        // Making it durable may have taken long; who asked for the file meanwhile waits for the
        // lease, and after the kernel's lease-break-time no longer.
        .and_then(|()| {
            if quiet.still_held() {
                Ok(())
            } else {
                Err(Refusal::InUse)
            }
        });
    if let Err(why) = marked {
        if backing
            .record(fd)?
            .is_some_and(|r| r.state != State::Resident)
        {
            settle_stub(backing, fd, of, (record, State::Resident), None)?;
            sync(fd)?;
        }
        return Err(why);
    }
    let taken = punch(backing, quiet, order.node, stat)?;
    let stamp = settle_stub(backing, fd, of, (record, State::Released), taken)?;
    // One fsync for the punch and what came after it: the filesystem's journal keeps their order,
    // and a record that says Released over data that are all still there is finished by `recover`.
    sync(fd)?;
    Ok(stamp)
}

/// The stub's mark, with times as they are now, and the capability kept; not yet durable. After an
/// error the mark may stand.
fn mark(
    backing: &Backing,
    fd: BorrowedFd<'_>,
    node: &NodeHandle,
    record: &Record,
) -> Result<(), BackingError> {
    let _turn = backing.turn(node);
    let stat = backing.stat(fd)?;
    let stub = Record {
        state: State::Recalling,
        size: stat.size,
        mtime: stat.mtime,
        user_ctime: shown_ctime(Some(record), stat.ctime),
        ctime_floor: None,
        ..record.clone()
    };
    backing.will_touch(node);
    backing.set_record(fd, &stub, SetHow::Replace)?;
    backing.keep_capability(fd).map(drop)
}

/// A stub becomes what `state` says: its time, capability and set-id bits (`taken` by a punch) back,
/// the record last, in one turn with what users may have set up to now. Not durable before a sync.
fn settle_stub(
    backing: &Backing,
    fd: BorrowedFd<'_>,
    (node, hint): (&NodeHandle, Option<&[u8]>),
    (known, state): (&Record, State),
    taken: Option<SetId>,
) -> Result<Stamp, Refusal> {
    let _turn = backing.turn(node);
    let same = |r: &Record| (r.file, r.version) == (known.file, known.version);
    let record = backing.record(fd)?.filter(same).ok_or(Refusal::InUse)?;
    backing.restore_set_id(fd, taken)?;
    backing.settle_capability(fd)?;
    set_mtime(fd, record.mtime)?;
    let record = Record {
        state,
        // As the filesystem keeps it, which may be coarser than what was asked for.
        mtime: backing.stat(fd)?.mtime,
        ..record
    };
    Ok(Stamp::set(backing, fd, hint, &record, SetHow::Replace)?)
}

/// Gives back all blocks, those behind the end too: a punch reaches as far as the last block that has
/// data, and a cut to the size that the file has takes what was allocated behind it. So a released
/// file has no block but of attributes, whatever room it had (see [`crate::hsm::vouch::is_bare`]).
/// Gives the set-id bits that this takes.
fn punch(
    backing: &Backing,
    quiet: &Quiet,
    node: &NodeHandle,
    stat: &FileStat,
) -> Result<Option<SetId>, BackingError> {
    let fd = quiet.fd();
    let set_id = || {
        let _turn = backing.turn(node);
        backing.set_id(fd)
    };
    let before = set_id()?;
    let block = u64::from(stat.block_size).max(MIN_SIZE);
    let longest = i64::MAX.cast_unsigned() & !(MIN_SIZE - 1);
    let end = stat
        .size
        .checked_next_multiple_of(block)
        .unwrap_or(longest)
        .min(longest);
    let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(fd, how, 0, end)
        .map_err(|why| BackingError::of("punch", || describe(fd), why))?;
    #[cfg(test)]
    tests::behind_punch()?;
    // A user may have given it some since.
    let taken = set_id()?.or(before);
    // Nobody can have it open; but who asked for it waits for the lease only so long. Held now, it
    // is for as long as that. Else the room stays: that is no harm.
    if !quiet.still_held() {
        return Ok(taken);
    }
    if backing.stat(fd)?.size != stat.size {
        return Err(BackingError::Busy {
            step: "give back the room behind the end of",
            object: describe(fd),
        });
    }
    rustix::fs::ftruncate(fd, stat.size).map_err(|why| {
        BackingError::of("give back the room behind the end of", || describe(fd), why)
    })?;
    Ok(taken)
}

fn sync(fd: BorrowedFd<'_>) -> Result<(), BackingError> {
    rustix::fs::fsync(fd).map_err(|why| BackingError::of("fsync", || describe(fd), why))
}

/// Sets mtime alone: nothing here reads the file in a way that would change its atime.
fn set_mtime(fd: BorrowedFd<'_>, mtime: Timestamp) -> Result<(), BackingError> {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: mtime.sec,
            tv_nsec: mtime.nsec.into(),
        },
    };
    rustix::fs::futimens(fd, &times)
        .map_err(|why| BackingError::of("set the times of", || describe(fd), why))
}

/// Opens the node alone: for the release itself and for its recovery.
fn alone(backing: &Backing, node: &NodeHandle, hint: Option<&[u8]>) -> Result<Quiet, Refusal> {
    let file: OwnedFd = backing.open_node(node, hint, How::ReadWrite)?;
    debug_assert!(
        backing
            .handle_of(file.as_fd())
            .is_ok_and(|found| found == *node)
    );
    Ok(quiescent_alone(backing, file)?)
}
