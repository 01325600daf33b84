//! getattr and setattr. Changes of size go through the gate and run on a worker.

use crate::attr::asked_time;
use crate::backing::proc_path;
use crate::core::{Core, file_ref, own};
use crate::node::{InUse, Node};
use crate::ops::open::FETCHES;
use crate::park::Reply;
use crate::{Caller, Changed, EventKind, Presence};
use fuser::{FileAttr, TimeOrNow};
use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid};
use rustix::fs::{UTIME_NOW, UTIME_OMIT, chmod, chownat, utimensat};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// What a setattr asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) atime: Option<TimeOrNow>,
    pub(crate) mtime: Option<TimeOrNow>,
}

impl Change {
    /// `chown(-1, -1)`: nothing new, but a change of status (ctime, set-id bits) all the same.
    fn is_empty(&self) -> bool {
        self.mode.is_none()
            && self.uid.is_none()
            && self.gid.is_none()
            && self.size.is_none()
            && self.atime.is_none()
            && self.mtime.is_none()
    }
}

impl Core {
    pub(crate) fn getattr(&self, id: u64) -> Result<(FileAttr, Duration), Errno> {
        let node = self.node(id)?;
        self.attr(&node)
    }

    pub(crate) fn setattr(
        self: &Arc<Self>,
        caller: Caller,
        id: u64,
        change: Change,
        reply: fuser::ReplyAttr,
    ) {
        let reply = Reply::Attr(reply);
        let node = match self.node(id) {
            Ok(node) => node,
            Err(error) => return reply.error(error),
        };
        if let Some(size) = change.size {
            let resize = Resize {
                caller,
                size,
                change,
                fetches: FETCHES,
            };
            let next = Box::new(move |core: &Arc<Self>, in_use, reply| {
                let again = core.clone();
                core.workers.slow(move || resize.run(&again, in_use, reply));
            });
            self.enter(InUse::new(node), caller.pid, reply, next);
        } else {
            self.finish(&node, change, reply);
        }
    }

    fn finish(&self, node: &Node, change: Change, reply: Reply) {
        let answer = self.apply(node, change).and_then(|()| self.attr(node));
        match (answer, reply) {
            (Ok((attr, ttl)), Reply::Attr(reply)) => {
                self.note(EventKind::Attributes, &node.handle);
                reply.attr(&ttl, &attr);
            }
            (Err(error), reply) => reply.error(error),
            (Ok(_), reply) => reply.error(Errno::INVAL),
        }
    }

    /// Everything but the size. Owner before mode: a change of owner clears set-id bits.
    fn apply(&self, node: &Node, change: Change) -> Result<(), Errno> {
        let fd = self.fd(node)?;
        if change.uid.is_some() || change.gid.is_some() || change.is_empty() {
            let uid = change.uid.map(Uid::from_raw);
            let gid = change.gid.map(Gid::from_raw);
            chownat(&fd, "", uid, gid, AtFlags::EMPTY_PATH)?;
            self.changed(node, fd.as_fd(), Changed::Owner);
        }
        if let Some(mode) = change.mode {
            chmod(proc_path(fd.as_fd()), Mode::from_raw_mode(mode & 0o7777))?;
            self.changed(node, fd.as_fd(), Changed::Other);
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let times = Timestamps {
                last_access: timespec(change.atime),
                last_modification: timespec(change.mtime),
            };
            self.set_times(node, fd.as_fd(), &times)?;
        }
        Ok(())
    }

    fn set_times(&self, node: &Node, fd: BorrowedFd<'_>, times: &Timestamps) -> Result<(), Errno> {
        if node.is_file()
            && let Some(answer) = self.residency.set_times(file_ref(node, fd), times)
        {
            return answer.map_err(own);
        }
        match utimensat(fd, "", times, AtFlags::EMPTY_PATH) {
            // Kernels before 5.8 know no empty path here.
            Err(Errno::INVAL | Errno::NOENT) => {
                utimensat(CWD, proc_path(fd), times, AtFlags::empty())?;
            }
            other => other?,
        }
        self.changed(node, fd, Changed::Other);
        Ok(())
    }

    /// Tells the residency, whose own the file's status may be as well.
    pub(crate) fn changed(&self, node: &Node, fd: BorrowedFd<'_>, what: Changed) {
        if node.is_file() {
            self.residency.changed(file_ref(node, fd), what);
        }
    }
}

/// A change of size (P5).
#[derive(Clone, Copy)]
struct Resize {
    caller: Caller,
    size: u64,
    change: Change,
    /// As many more, if its data are elsewhere.
    fetches: u8,
}

impl Resize {
    fn run(self, core: &Arc<Core>, in_use: InUse, reply: Reply) {
        match core.presence(&in_use) {
            Err(error) => reply.error(error),
            Ok(Presence::Refused(error)) => reply.error(own(error)),
            Ok(Presence::Resident) => {
                let cut = core.cut(&in_use, self.size);
                self.resized(core, in_use, reply, cut);
            }
            Ok(Presence::Released | Presence::Doubtful) if self.size == 0 => {
                let next = Box::new(move |core: &Arc<Core>, in_use, reply, cut| {
                    self.resized(core, in_use, reply, cut);
                });
                core.cut_stub(in_use, self.caller, reply, next);
            }
            Ok(Presence::Released | Presence::Doubtful) => {
                let Some(fetches) = self.fetches.checked_sub(1) else {
                    return reply.error(Errno::IO);
                };
                let again = Self { fetches, ..self };
                let next = Box::new(move |core: &Arc<Core>, in_use, reply| {
                    again.run(core, in_use, reply);
                });
                core.fetch(in_use, self.caller, Some(self.size), reply, next);
            }
        }
    }

    fn resized(self, core: &Arc<Core>, in_use: InUse, reply: Reply, cut: Result<(), Errno>) {
        match cut {
            Err(Errno::AGAIN) => {
                let next = Box::new(move |core: &Arc<Core>, in_use, reply| {
                    self.run(core, in_use, reply);
                });
                core.retry(in_use, self.caller.pid, reply, next);
            }
            Err(error) => reply.error(error),
            Ok(()) => {
                core.note(EventKind::Resized, &in_use.handle);
                core.finish(&in_use, self.change, reply);
            }
        }
    }
}

fn timespec(time: Option<TimeOrNow>) -> Timespec {
    let (tv_sec, tv_nsec) = match time {
        None => (0, UTIME_OMIT),
        Some(TimeOrNow::Now) => (0, UTIME_NOW),
        Some(TimeOrNow::SpecificTime(time)) => asked_time(time),
    };
    Timespec { tv_sec, tv_nsec }
}
