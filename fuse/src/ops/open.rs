//! open and release: which I/O mode an open gets, and what must happen before it is answered.
//!
//! Invariants
//! 1. An open is counted by the node's I/O mode before its reply is sent; `fh` carries what
//!    RELEASE needs to undo the count, and no descriptor number (P12).
//! 2. All passthrough opens of an inode use `State::backing`, which is set before the first
//!    reply and taken away only by the RELEASE that leaves none.
//! 3. A released file is opened at once for reading, and after its recall for writing and exec;
//!    cutting it to nothing needs no recall (P5).

use crate::core::{Core, own};
use crate::iomode::{Data, Decision};
use crate::ledger::FH_BITS;
use crate::node::{InUse, Node};
use crate::park::Reply;
use crate::passthrough::Registered;
use crate::restart::number;
use crate::{Caller, EventKind, Presence};
use fuser::FopenFlags;
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// `__FMODE_EXEC`: the kernel opens a program to run it.
const FMODE_EXEC: i32 = 0x20;
/// Recalls that one open, or change of size or space, waits for before it gives up: more means that
/// the file is released as fast as it is recalled.
pub(super) const FETCHES: u8 = 3;

/// What `fh` says of an open. The rest of its bits number it.
pub(crate) const FH_CACHED: u64 = 1;
pub(crate) const FH_WRITES: u64 = 2;
const FH_MAPS: u64 = 4;

/// An open on its way to an answer.
#[derive(Clone, Copy)]
struct Opening {
    flags: i32,
    caller: Caller,
    fetches: u8,
    /// Waits for room, if there is none (P13).
    waits: bool,
    request: u64,
}

impl Core {
    pub(crate) fn open(
        self: &Arc<Self>,
        request: u64,
        caller: Caller,
        id: u64,
        flags: i32,
        reply: fuser::ReplyOpen,
    ) {
        let reply = Reply::Open(reply);
        self.take_open_back(request);
        match self.node(id) {
            Ok(node) => self.open_node(request, InUse::new(node), caller, flags, reply),
            Err(error) => reply.error(error),
        }
    }

    /// Opens a node that the request counts as a user of already.
    pub(crate) fn open_node(
        self: &Arc<Self>,
        request: u64,
        in_use: InUse,
        caller: Caller,
        flags: i32,
        reply: Reply,
    ) {
        let opening = Opening {
            flags,
            caller,
            fetches: FETCHES,
            waits: matches!(reply, Reply::Open(_)),
            request,
        };
        let next = Box::new(move |core: &Arc<Self>, in_use, reply| {
            opening.proceed(core, in_use, reply);
        });
        self.enter(in_use, caller.pid, reply, next);
    }

    /// An open is closed for good.
    pub(crate) fn release(self: &Arc<Self>, id: u64, fh: u64) {
        if let Some(ledger) = &self.nodes.ledger
            && !ledger.close(fh)
        {
            return; // sent again: it was done
        }
        let Ok(node) = self.node(id) else { return };
        let writes = fh & FH_WRITES != 0;
        // Counted as a user until the descriptors are closed: a lease would find them.
        let in_use = InUse::new(node);
        let mut state = in_use.state.lock();
        state.writers = state.writers.saturating_sub(u32::from(writes));
        state.written |= writes;
        state.mapped |= fh & (FH_MAPS | FH_CACHED) == FH_MAPS;
        let last = state.io.release(fh & FH_CACHED != 0);
        let (backing, data) = if last {
            (state.backing.take(), std::mem::take(&mut state.data))
        } else {
            Default::default()
        };
        let orphan = state.orphan;
        drop(state);
        if orphan && last {
            self.let_go(&in_use);
        }
        if writes {
            self.note(EventKind::Written, &in_use.handle);
        }
        if fh & FH_MAPS != 0 {
            // Times may have changed through a mapping. (What else a writer changes was asked for
            // anew all the time, or told to the kernel by the write.)
            self.notices.attributes(id);
        }
        self.close_locks(&in_use, fh);
        if (orphan && last) || data.read.is_some() || data.write.is_some() {
            self.close_later((backing.filter(|_| orphan), data, in_use));
        } else if let Some(backing) = backing {
            let _evicted = self.idle_ids.lock().push(id, backing);
        }
    }

    /// A cached open that was counted gets no descriptors, so it is not answered.
    fn undo_cached(&self, node: &Node) {
        let mut state = node.state.lock();
        let last = state.io.release(true);
        // One of two may have been opened; a lease would find it.
        let data = if last {
            std::mem::take(&mut state.data)
        } else {
            Default::default()
        };
        let orphan = state.orphan;
        drop(state);
        if orphan && last {
            self.let_go(node);
        }
        drop(data);
    }

    /// The backing id that all passthrough opens of a node share.
    fn backing_id(&self, node: &Node) -> Result<Arc<Registered>, Errno> {
        if let Some(id) = node.state.lock().backing.as_ref() {
            return Ok(id.clone());
        }
        let idle = self.idle_ids.lock().pop(&node.id);
        let id = match idle {
            Some(id) => id,
            None => {
                let fd = self.fd(node)?;
                let device = self.device.lock().clone().ok_or(Errno::NOTCONN)?;
                let noted = self.nodes.ledger.clone().zip(node.place);
                let _clears = self.writing();
                Arc::new(Registered::new(&device, fd.as_fd(), noted)?)
            }
        };
        // Two first opens may both come here: one id wins, the other is closed unused.
        let mut state = node.state.lock();
        let id = state.backing.get_or_insert(id).clone();
        id.note();
        Ok(id)
    }
}

impl Opening {
    fn writes(self) -> bool {
        self.flags & libc::O_ACCMODE != libc::O_RDONLY
    }

    fn truncates(self) -> bool {
        self.flags & libc::O_TRUNC != 0
    }

    /// Needs all data: it may change them, or map them where no error can be told.
    fn needs_data(self) -> bool {
        self.writes() || self.flags & FMODE_EXEC != 0
    }

    fn proceed(mut self, core: &Arc<Core>, in_use: InUse, reply: Reply) {
        if std::mem::take(&mut self.waits) && self.writes() && !core.residency.may_write() {
            let next = Box::new(move |core: &Arc<Core>, in_use, reply| {
                self.proceed(core, in_use, reply);
            });
            return core.await_room(in_use, self.caller, reply, next);
        }
        match core.presence(&in_use) {
            Err(error) => reply.error(error),
            Ok(Presence::Refused(error)) => reply.error(own(error)),
            Ok(Presence::Released | Presence::Doubtful) if self.truncates() => {
                // The data go before the stub does (P5).
                let next = Box::new(move |core: &Arc<Core>, in_use, reply, cut| {
                    self.truncated(core, in_use, reply, cut);
                });
                core.cut_stub(in_use, self.caller, reply, next);
            }
            Ok(Presence::Resident) if self.truncates() => {
                let core = core.clone();
                core.clone()
                    .workers
                    .slow(move || self.truncate(&core, in_use, reply));
            }
            Ok(Presence::Doubtful) => self.fetch(core, in_use, reply),
            Ok(Presence::Released) if self.needs_data() => self.fetch(core, in_use, reply),
            Ok(Presence::Released) => self.answer(core, in_use, reply, Data::Released),
            Ok(Presence::Resident) => self.answer(core, in_use, reply, Data::Resident),
        }
    }

    fn fetch(mut self, core: &Arc<Core>, in_use: InUse, reply: Reply) {
        let Some(left) = self.fetches.checked_sub(1) else {
            return reply.error(Errno::IO);
        };
        self.fetches = left;
        let next = Box::new(move |core: &Arc<Core>, in_use, reply| {
            self.proceed(core, in_use, reply);
        });
        core.fetch(in_use, self.caller, None, reply, next);
    }

    /// O_TRUNC of a file whose data are here, on a worker.
    fn truncate(self, core: &Arc<Core>, in_use: InUse, reply: Reply) {
        let cut = core.cut(&in_use, 0);
        self.truncated(core, in_use, reply, cut);
    }

    fn truncated(mut self, core: &Arc<Core>, in_use: InUse, reply: Reply, cut: Result<(), Errno>) {
        match cut {
            Err(Errno::AGAIN) => self.again(core, in_use, reply),
            Err(error) => reply.error(error),
            Ok(()) => {
                core.note(EventKind::Resized, &in_use.handle);
                self.flags &= !libc::O_TRUNC;
                self.answer(core, in_use, reply, Data::Resident);
            }
        }
    }

    /// Tries again from the beginning a little later.
    fn again(self, core: &Arc<Core>, in_use: InUse, reply: Reply) {
        let next = Box::new(move |core: &Arc<Core>, in_use, reply| {
            self.proceed(core, in_use, reply);
        });
        core.retry(in_use, self.caller.pid, reply, next);
    }

    fn answer(self, core: &Arc<Core>, in_use: InUse, reply: Reply, data: Data) {
        let decision = in_use.state.lock().io.open(data, core.passes_through());
        match decision {
            Decision::FetchFirst => self.fetch(core, in_use, reply),
            Decision::Cached => self.cached(core, in_use, reply, data),
            Decision::Passthrough => match core.backing_id(&in_use) {
                Ok(id) => self.opened(core, &in_use, reply, Some(&id)),
                Err(error) => self.without_id(core, in_use, reply, error),
            },
        }
    }

    /// No backing id could be registered.
    fn without_id(self, core: &Arc<Core>, in_use: InUse, reply: Reply, error: Errno) {
        tracing::warn!(id = in_use.id, %error, "no backing id; opened without passthrough");
        let mut state = in_use.state.lock();
        if state.io.fall_back() {
            drop(state);
            return self.cached(core, in_use, reply, Data::Resident);
        }
        // Another open of this inode is being answered at the same time.
        state.io.release(false);
        drop(state);
        self.again(core, in_use, reply);
    }

    /// Answers an open whose reads and writes come to the server. It is counted already.
    fn cached(self, core: &Arc<Core>, in_use: InUse, reply: Reply, data: Data) {
        let ready = match data {
            Data::Released => Ok(()),
            Data::Resident => self.open_data(core, &in_use),
        };
        if let Err(error) = ready {
            core.undo_cached(&in_use);
            return match error {
                Errno::AGAIN => self.again(core, in_use, reply),
                error => reply.error(error),
            };
        }
        in_use.state.lock().through_residency = data == Data::Released;
        self.opened(core, &in_use, reply, None);
    }

    /// Descriptors for reads and writes by the server, shared by all cached opens of the node.
    fn open_data(self, core: &Core, node: &Node) -> Result<(), Errno> {
        let have = node.state.lock().data.clone();
        let reads = self.flags & libc::O_ACCMODE != libc::O_WRONLY;
        if reads && have.read.is_none() {
            let fd = Arc::new(core.open_data(node, libc::O_RDONLY)?);
            node.state.lock().data.read.get_or_insert(fd);
        }
        if self.writes() && have.write.is_none() {
            let fd = Arc::new(core.open_data(node, libc::O_WRONLY)?);
            node.state.lock().data.write.get_or_insert(fd);
        }
        Ok(())
    }

    fn opened(self, core: &Core, node: &Node, reply: Reply, id: Option<&Registered>) {
        let mut bits = 0;
        // Without a writeback cache there is nothing for FLUSH to do, but with forwarded locks.
        let mut flags = if core.shared {
            FopenFlags::empty()
        } else {
            FopenFlags::FOPEN_NOFLUSH
        };
        if id.is_none() {
            bits |= FH_CACHED;
            // Cached pages stay true from open to open: what passes the server by is written by
            // passthrough opens, and each of those drops them while no cached open is alive. To
            // drop them here would also be wrong: the kernel answers a write into a page before
            // the server has it, and who reads the page anew in between keeps the old bytes.
            if !core.shared {
                flags |= FopenFlags::FOPEN_KEEP_CACHE;
            }
            // The kernel lets one writer of a file after the other through its cache, and past it
            // many at once.
            if self.flags & libc::O_DIRECT != 0 && core.direct.load(Ordering::Relaxed) {
                flags |= FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
            }
        }
        if self.writes() {
            bits |= FH_WRITES;
            node.state.lock().writers += 1;
        }
        let maps = self.flags & libc::O_ACCMODE == libc::O_RDWR;
        if maps {
            bits |= FH_MAPS;
        }
        let fh = match &core.nodes.ledger {
            Some(ledger) => {
                let orphan = node.state.lock().orphan;
                if orphan && let Ok(fd) = core.fd(node) {
                    core.keep(node, &fd);
                }
                ledger.add_open(node.id, number(self.request), bits)
            }
            None => core.opens.fetch_add(1, Ordering::Relaxed) << FH_BITS | bits,
        };
        reply.opened(fh, flags, id);
        if maps {
            // What the kernel believes from before must be asked again while this is open.
            core.notices.attributes(node.id);
        }
        if self.flags & libc::O_ACCMODE != libc::O_WRONLY {
            core.note(EventKind::Read, &node.handle);
        }
    }
}
