//! What users do to the status of a released file while its stub stands or a recall runs: their
//! owner, mode, times and capability must survive the recall, which itself writes the file.
//!
//! Invariants:
//! - While a stub stands, its record has the modification time and the ctime that users are to
//!   see: what they change is written there, in the node's turn, before their call returns. So it
//!   outlives a recall, a release or a crash at any point.
//! - A file whose time is being set never has a record that says Released beside another time than
//!   the record's: for that moment it says Recalling, where P4 (1) compares no time.
//! - Whoever turns a stub's record reads it again in the same turn ([`own_record`]).

use super::one::{Opened, Recall};
use super::{RecallError, Recaller};
use crate::format::record::{Record, State as Data};
use crate::hsm::backing::{Access, Backing, BackingError, SetHow, SetId, belongs_to};
use crate::hsm::version::{Settle, Stamp, coarse_now};
use crate::id::{NodeHandle, Timestamp};
use cairn_fuse::{Changed, Errno};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};
use std::os::fd::{AsRawFd, BorrowedFd};

/// The stub as it is now. In the node's turn, which must last until what follows from it is
/// written.
pub(super) fn own_record(
    backing: &Backing,
    opened: &Opened,
    fd: BorrowedFd<'_>,
) -> Result<Record, RecallError> {
    let record = backing
        .record(fd)
        .map_err(|why| RecallError::backing("read the record", why))?;
    let same = |now: &Record| {
        let known = &opened.record;
        now.state != Data::Resident && (now.file, now.version) == (known.file, known.version)
    };
    // Else somebody cut the file meanwhile.
    record.filter(same).ok_or(RecallError::Truncated)
}

/// The set-id bits that the write or punch to follow takes.
pub(super) fn set_id(
    backing: &Backing,
    recall: &Recall,
    fd: BorrowedFd<'_>,
) -> Result<Option<SetId>, RecallError> {
    let _turn = backing.turn(&recall.node);
    backing
        .set_id(fd)
        .map_err(|why| RecallError::backing("stat", why))
}

/// Puts the modification time back to what users are to see, and set-id bits that were `taken`,
/// after data were written or punched.
pub(super) fn put_back(
    backing: &Backing,
    recall: &Recall,
    opened: &Opened,
    fd: BorrowedFd<'_>,
    taken: Option<SetId>,
) -> Result<(), RecallError> {
    let _turn = backing.turn(&recall.node);
    let record = own_record(backing, opened, fd)?;
    backing
        .restore_set_id(fd, taken)
        .map_err(|why| RecallError::backing("give back the mode", why))?;
    set_mtime(fd, record.mtime).map_err(|why| RecallError::io("set the times", why))
}

/// Sets mtime alone. Nothing here reads the file in a way that would change its atime.
pub(super) fn set_mtime(fd: BorrowedFd<'_>, to: Timestamp) -> Result<(), rustix::io::Errno> {
    let last_access = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_OMIT,
    };
    let times = Timestamps {
        last_access,
        last_modification: spec(to),
    };
    rustix::fs::futimens(fd, &times)
}

fn spec(time: Timestamp) -> Timespec {
    Timespec {
        tv_sec: time.sec,
        tv_nsec: i64::from(time.nsec),
    }
}

impl Recaller {
    /// Sets a file's times for a user, if it has a record; `None` leaves it to the caller.
    pub fn set_times(
        &self,
        node: &NodeHandle,
        fd: BorrowedFd<'_>,
        times: &Timestamps,
    ) -> Option<Result<(), Errno>> {
        if times.last_modification.tv_nsec == UTIME_OMIT {
            return None;
        }
        let backing = &self.shared.backing;
        backing.record(fd).ok()??;
        let turn = backing.turn(node);
        // Again: it may have been released, or have become resident, before our turn.
        let record = backing.record(fd).ok()??;
        let mine = belongs_to(&record, backing.fs(), node);
        let done = match record.state {
            Data::Released if mine => time_of_stub(backing, fd, times, &record),
            Data::Recalling if mine => {
                time_of_recalling(backing, fd, times, &record).map(|()| None)
            }
            _ => utimes(fd, times)
                .map(|()| None)
                .map_err(|why| Errno(why.raw_os_error())),
        };
        drop(turn);
        Some(done.map(|settle| {
            if let Some(mut settle) = settle {
                settle.hint = match backing.access() {
                    Access::Handles => None,
                    Access::Paths => backing.path_of(fd).ok(),
                };
                self.shared.asks.settle(settle);
            }
        }))
    }

    /// A user changed something of a file other than its data, by a call that was made on the
    /// backing. Quick: reads one attribute; writes it only while a recall (or what is left of one)
    /// hides the backing's ctime.
    pub fn changed(&self, node: &NodeHandle, fd: BorrowedFd<'_>, what: Changed) {
        let backing = &self.shared.backing;
        if !matches!(backing.record(fd), Ok(Some(_))) {
            return;
        }
        let _turn = backing.turn(node);
        let noted = || {
            if what == Changed::Owner {
                // The kernel took it; a recall may just have given it back.
                backing
                    .lose_capability(fd)
                    .map_err(|why| BackingError::of("take the capability", String::new, why))?;
            }
            let record = backing.record(fd)?.filter(|r| r.state == Data::Recalling);
            let Some(record) = record.filter(|r| belongs_to(r, backing.fs(), node)) else {
                return Ok(());
            };
            let record = Record {
                user_ctime: coarse_now(),
                ..record
            };
            backing.set_record(fd, &record, SetHow::Replace)
        };
        match noted() {
            Ok(()) | Err(BackingError::Gone { .. }) => {}
            Err(why) => tracing::warn!(%why, ?node, "a change of status may not show in ctime"),
        }
    }
}

/// The check to make later, without a name of the file.
fn time_of_stub(
    backing: &Backing,
    fd: BorrowedFd<'_>,
    times: &Timestamps,
    record: &Record,
) -> Result<Option<Settle>, Errno> {
    let stat = backing.stat(fd).map_err(eio)?;
    if (stat.size, stat.mtime) != (record.size, record.mtime) {
        // A conflict (P4) is not made good by touching the file.
        utimes(fd, times).map_err(|why| Errno(why.raw_os_error()))?;
        return Ok(None);
    }
    let between = Record {
        state: Data::Recalling,
        ..record.clone()
    };
    backing
        .set_record(fd, &between, SetHow::Replace)
        .map_err(eio)?;
    let set = utimes(fd, times);
    if let Err(why) = set {
        backing
            .set_record(fd, record, SetHow::Replace)
            .map_err(eio)?;
        return Err(Errno(why.raw_os_error()));
    }
    let stat = backing.stat(fd).map_err(eio)?;
    let record = Record {
        mtime: stat.mtime,
        user_ctime: stat.ctime,
        ..record.clone()
    };
    let stamp = Stamp::set(backing, fd, None, &record, SetHow::Replace).map_err(eio)?;
    Ok(stamp.settle)
}

/// A recall writes, or one was cut short. The time is named, not read back, because a write of the
/// recall may come in between.
fn time_of_recalling(
    backing: &Backing,
    fd: BorrowedFd<'_>,
    times: &Timestamps,
    record: &Record,
) -> Result<(), Errno> {
    let now = coarse_now();
    let mut named = Timestamps {
        last_access: times.last_access,
        last_modification: times.last_modification,
    };
    if named.last_modification.tv_nsec == UTIME_NOW {
        named.last_modification = spec(now);
    }
    match utimes(fd, &named) {
        // Who may write but is not the owner may only say "now".
        Err(rustix::io::Errno::PERM) => utimes(fd, times),
        set => set,
    }
    .map_err(|why| Errno(why.raw_os_error()))?;
    let record = Record {
        mtime: Timestamp {
            sec: named.last_modification.tv_sec,
            nsec: u32::try_from(named.last_modification.tv_nsec).unwrap_or(0),
        },
        user_ctime: now,
        ..record.clone()
    };
    backing
        .set_record(fd, &record, SetHow::Replace)
        .map_err(eio)
}

/// `utimensat` on any descriptor, `O_PATH` too.
fn utimes(fd: BorrowedFd<'_>, times: &Timestamps) -> Result<(), rustix::io::Errno> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    utimensat(CWD, path, times, AtFlags::empty())
}

fn eio(why: BackingError) -> Errno {
    tracing::warn!(%why, "a stub's times could not be set");
    if why.is_full() {
        return Errno(libc::ENOSPC);
    }
    Errno(libc::EIO)
}
