//! fallocate, lseek for data and holes, copy_file_range. All on workers; where data are
//! elsewhere they are fetched first, or their extent map answers (P5).

use crate::core::{Core, file_ref, own};
use crate::gate::Next;
use crate::node::InUse;
use crate::ops::open::FETCHES;
use crate::park::Reply;
use crate::{Caller, EventKind, Presence};
use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, seek};
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::sync::Arc;

/// What one copy request moves at most: the reply has 32 bits, and a caller that goes on can be
/// interrupted in between.
const COPY_AT_ONCE: u64 = 1 << 30;

/// A range to copy from one file to another (or the same).
#[derive(Clone, Copy)]
pub(crate) struct Copy {
    pub(crate) from: (u64, u64),
    pub(crate) to: (u64, u64),
    pub(crate) len: u64,
}

impl Core {
    /// Goes on with `work` on a worker when the node may be used and its data are here.
    fn with_data(self: &Arc<Self>, in_use: InUse, caller: Caller, reply: Reply, work: Next) {
        let next = Box::new(move |core: &Arc<Self>, in_use, reply| {
            let again = core.clone();
            core.workers
                .slow(move || again.fetch_then(in_use, caller, reply, work, FETCHES));
        });
        self.enter(in_use, caller.pid, reply, next);
    }

    fn fetch_then(
        self: &Arc<Self>,
        in_use: InUse,
        caller: Caller,
        reply: Reply,
        work: Next,
        fetches: u8,
    ) {
        match self.presence(&in_use) {
            Err(error) => reply.error(error),
            Ok(Presence::Refused(error)) => reply.error(own(error)),
            Ok(Presence::Resident) => work(self, in_use, reply),
            Ok(Presence::Released | Presence::Doubtful) => {
                let Some(left) = fetches.checked_sub(1) else {
                    return reply.error(Errno::IO);
                };
                let next = Box::new(move |core: &Arc<Self>, in_use, reply| {
                    core.fetch_then(in_use, caller, reply, work, left);
                });
                self.fetch(in_use, caller, None, reply, next);
            }
        }
    }

    pub(crate) fn fallocate(
        self: &Arc<Self>,
        caller: Caller,
        id: u64,
        range: (u64, u64),
        mode: i32,
        reply: fuser::ReplyEmpty,
    ) {
        let reply = Reply::Empty(reply);
        let node = match self.node(id) {
            Ok(node) => node,
            Err(error) => return reply.error(error),
        };
        let work = Box::new(move |core: &Arc<Self>, in_use: InUse, reply: Reply| {
            let open = in_use.state.lock().data.write.clone();
            let mode = FallocateFlags::from_bits_retain(mode as u32);
            let result = {
                let _clears = core.writing();
                match open {
                    Some(fd) => fallocate(fd, mode, range.0, range.1),
                    None => core
                        .open_data(&in_use, libc::O_WRONLY)
                        .and_then(|fd| fallocate(fd, mode, range.0, range.1)),
                }
            };
            match result {
                Err(Errno::AGAIN) => core.retry_allocation(in_use, caller, id, range, mode, reply),
                Err(error) => reply.error(error),
                Ok(()) => {
                    core.note(EventKind::Resized, &in_use.handle);
                    reply.ok();
                }
            }
        });
        self.with_data(InUse::new(node), caller, reply, work);
    }

    /// A lease stood in the way.
    fn retry_allocation(
        self: &Arc<Self>,
        in_use: InUse,
        caller: Caller,
        id: u64,
        range: (u64, u64),
        mode: FallocateFlags,
        reply: Reply,
    ) {
        let next = Box::new(move |core: &Arc<Self>, _in_use, reply| match reply {
            Reply::Empty(reply) => {
                core.fallocate(caller, id, range, mode.bits() as i32, reply);
            }
            other => other.error(Errno::INVAL),
        });
        self.retry(in_use, caller.pid, reply, next);
    }

    /// `SEEK_DATA` or `SEEK_HOLE`.
    pub(crate) fn lseek(
        self: &Arc<Self>,
        id: u64,
        offset: i64,
        whence: i32,
        reply: fuser::ReplyLseek,
    ) {
        let reply = Reply::Lseek(reply);
        let core = self.clone();
        self.workers
            .data(move || match core.seek(id, offset, whence) {
                Ok(found) => reply.offset(found),
                Err(error) => reply.error(error),
            });
    }

    fn seek(&self, id: u64, offset: i64, whence: i32) -> Result<u64, Errno> {
        let offset = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
        let data = match whence {
            libc::SEEK_DATA => true,
            libc::SEEK_HOLE => false,
            _ => return Err(Errno::INVAL),
        };
        let node = self.node(id)?;
        if node.is_file() {
            let fd = self.fd(&node)?;
            let file = file_ref(&node, fd.as_fd());
            if self.residency.presence(file) != Presence::Resident {
                return self.residency.seek(file, offset, data).map_err(own);
            }
        }
        // A descriptor of its own: the offset of a shared one belongs to nobody.
        let fd = self.open_data(&node, libc::O_RDONLY)?;
        seek(
            fd,
            if data {
                SeekFrom::Data(offset)
            } else {
                SeekFrom::Hole(offset)
            },
        )
    }

    pub(crate) fn copy(self: &Arc<Self>, caller: Caller, copy: Copy, reply: fuser::ReplyWrite) {
        let reply = Reply::Write(reply);
        let (from, to) = match (self.node(copy.from.0), self.node(copy.to.0)) {
            (Ok(from), Ok(to)) => (from, to),
            (Err(error), _) | (_, Err(error)) => return reply.error(error),
        };
        let work = Box::new(move |core: &Arc<Self>, source: InUse, reply: Reply| {
            let work = Box::new(move |core: &Arc<Self>, target: InUse, reply: Reply| {
                core.copy_now(caller, source, target, copy, reply);
            });
            core.with_data(InUse::new(to), caller, reply, work);
        });
        self.with_data(InUse::new(from), caller, reply, work);
    }

    fn copy_now(
        self: &Arc<Self>,
        caller: Caller,
        source: InUse,
        target: InUse,
        copy: Copy,
        reply: Reply,
    ) {
        match self.copy_range(&source, &target, copy) {
            Ok(count) => reply.written(count),
            Err(Errno::AGAIN) => {
                let next = Box::new(move |core: &Arc<Self>, target, reply| {
                    core.copy_now(caller, source, target, copy, reply);
                });
                self.retry(target, caller.pid, reply, next);
            }
            Err(error) => reply.error(error),
        }
    }

    fn copy_range(&self, source: &InUse, target: &InUse, copy: Copy) -> Result<usize, Errno> {
        let input = self.open_data(source, libc::O_RDONLY)?;
        let output = self.open_data(target, libc::O_WRONLY)?;
        let (mut from, mut to) = (copy.from.1, copy.to.1);
        let len = usize::try_from(copy.len.min(COPY_AT_ONCE)).map_err(|_| Errno::INVAL)?;
        let _clears = self.writing();
        copy_file_range(&input, Some(&mut from), &output, Some(&mut to), len)
    }
}
