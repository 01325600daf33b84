//! read, write, fsync, fsyncdir: data of cached opens, and durability.

use crate::Caller;
use crate::core::{Core, file_ref, own};
use crate::node::Node;
use crate::park::Reply;
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2, pwrite, pwritev2};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Core {
    /// A read of a cached open: from the page cache at once, from the disk on a worker, or from
    /// the residency with the reply parked.
    pub(crate) fn read(
        self: &Arc<Self>,
        caller: Caller,
        id: u64,
        offset: u64,
        size: u32,
        reply: fuser::ReplyData,
    ) {
        let reply = Reply::Data(reply);
        let node = match self.node(id) {
            Ok(node) => node,
            Err(error) => return reply.error(error),
        };
        let state = node.state.lock();
        let (elsewhere, open) = (state.through_residency, state.data.read.clone());
        drop(state);
        if elsewhere {
            return self.read_elsewhere(&node, caller, offset, size, reply);
        }
        let mut buffer = self.buffers.take(size as usize);
        if let Some(fd) = &open {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            if preadv2(fd, &mut parts, offset, ReadWriteFlags::NOWAIT) == Ok(size as usize) {
                return reply.data(buffer.filled(size as usize));
            }
        }
        let core = self.clone();
        self.workers.data(move || {
            let result = match open {
                Some(fd) => read_full(&fd, &mut buffer, offset),
                None => core
                    .open_data(&node, libc::O_RDONLY)
                    .and_then(|fd| read_full(&fd, &mut buffer, offset)),
            };
            match result {
                Ok(count) => reply.data(buffer.filled(count)),
                Err(error) => reply.error(error),
            }
        });
    }

    fn read_elsewhere(
        self: &Arc<Self>,
        node: &Arc<Node>,
        caller: Caller,
        offset: u64,
        size: u32,
        reply: Reply,
    ) {
        let fd = match self.fd(node) {
            Ok(fd) => fd,
            Err(error) => return reply.error(error),
        };
        let ticket = self.park.park(caller.pid, reply, None, true);
        let park = self.park.clone();
        let done = Box::new(move |result: Result<Vec<u8>, crate::Errno>| {
            let Some((reply, _)) = park.take(ticket) else {
                return;
            };
            match result {
                Ok(mut bytes) => {
                    bytes.truncate(size as usize);
                    reply.data(&bytes);
                }
                Err(error) => reply.error(own(error)),
            }
        });
        let file = file_ref(node, fd.as_fd());
        let token = self.residency.read(file, offset, size, caller, done);
        if !self.park.set_token(ticket, token) {
            self.residency.give_up(token);
        }
    }

    /// A write of a cached open. The kernel sends an inode's writes one after the other.
    pub(crate) fn write(
        self: &Arc<Self>,
        id: u64,
        offset: u64,
        bytes: &[u8],
        reply: fuser::ReplyWrite,
    ) {
        let reply = Reply::Write(reply);
        let node = match self.node(id) {
            Ok(node) => node,
            Err(error) => return reply.error(error),
        };
        let open = node.state.lock().data.write.clone();
        let done = open
            .as_ref()
            .map_or(0, |fd| self.write_at_once(fd, bytes, offset));
        if done == bytes.len() && done > 0 {
            return reply.written(done);
        }
        let rest = self.buffers.copy(&bytes[done..]);
        let offset = offset + done as u64;
        let core = self.clone();
        self.workers.data(move || {
            let _clears = core.writing();
            let result = match open {
                Some(fd) => write_full(&fd, &rest, offset),
                None => core
                    .open_data(&node, libc::O_WRONLY)
                    .and_then(|fd| write_full(&fd, &rest, offset)),
            };
            match result {
                Ok(count) => reply.written(done + count),
                // A short answer: who wrote asks for the rest, and is told then.
                Err(_) if done > 0 => reply.written(done),
                Err(error) => reply.error(error),
            }
        });
    }

    /// Writes what the backing takes without waiting (memory for pages that it has, no throttling):
    /// without a copy, and without another thread. How much that was.
    fn write_at_once(&self, fd: &OwnedFd, bytes: &[u8], offset: u64) -> usize {
        if !self.writes_at_once.load(Ordering::Relaxed) {
            return 0;
        }
        let _clears = self.writing();
        match pwritev2(fd, &[IoSlice::new(bytes)], offset, ReadWriteFlags::NOWAIT) {
            Ok(count) => count,
            Err(Errno::OPNOTSUPP) => {
                self.writes_at_once.store(false, Ordering::Relaxed);
                0
            }
            // What is wrong, a write that may wait finds out.
            Err(_) => 0,
        }
    }

    /// Makes a file or directory durable. Any descriptor of the inode will do.
    pub(crate) fn fsync(self: &Arc<Self>, id: u64, data_only: bool, reply: fuser::ReplyEmpty) {
        let reply = Reply::Empty(reply);
        let node = match self.node(id) {
            Ok(node) => node,
            Err(error) => return reply.error(error),
        };
        let core = self.clone();
        self.workers.slow(move || {
            let data = node.state.lock().data.clone();
            let result = match data.write.or(data.read) {
                Some(fd) => sync(&fd, data_only),
                None => match core.open_data(&node, libc::O_RDONLY) {
                    // Only the owner of the data holds a lease that refuses readers, and only
                    // while nobody has the file open: nothing of this caller's is unwritten.
                    Err(Errno::AGAIN) => rustix::fs::syncfs(core.backing.root()),
                    Err(error) => Err(error),
                    Ok(fd) => sync(&Arc::new(fd), data_only),
                },
            };
            match result {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(error),
            }
        });
    }
}

fn sync(fd: &Arc<OwnedFd>, data_only: bool) -> Result<(), Errno> {
    if data_only {
        rustix::fs::fdatasync(fd)
    } else {
        rustix::fs::fsync(fd)
    }
}

/// Reads until the buffer is full or the file ends. An error on the way is the answer, whatever
/// was read before it: the kernel takes a short answer for the file's end, shows zeros behind it
/// and forgets the size. It asks again page by page, so the reader gets what there is.
fn read_full(fd: &OwnedFd, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut done = 0;
    while done < buffer.len() {
        match pread(fd, &mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all, or what fits before an error.
fn write_full(fd: &OwnedFd, bytes: &[u8], offset: u64) -> Result<usize, Errno> {
    let mut done = 0;
    while done < bytes.len() {
        match pwrite(fd, &bytes[done..], offset + done as u64) {
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}
