//! What all operations share: the tables, the pools, the residency, and how the mount runs.

use crate::attr::{Entry, attributes};
use crate::backing::{Backing, Seen, stat_of};
use crate::buffers::Buffers;
use crate::creds;
use crate::gate::{Gates, Next};
use crate::locks::Locks;
use crate::mount::Pins;
use crate::node::{InUse, Node, Nodes, ROOT};
use crate::notify::Notices;
use crate::park::{Park, Reply};
use crate::passthrough::Registered;
use crate::restart::Replays;
use crate::workers::Workers;
use crate::{Caller, Event, EventKind, FileRef, NodeHandle, Presence, Residency, Shown};
use fuser::{FileAttr, Generation};
use lru::LruCache;
use parking_lot::Mutex;
use rustix::fs::Statx;
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How long a request waits before it tries again to get past a lease.
const LEASE_RETRY: Duration = Duration::from_millis(5);

/// The mirror without FUSE's wire format.
pub(crate) struct Core {
    pub(crate) residency: Arc<dyn Residency>,
    pub(crate) backing: Backing,
    pub(crate) nodes: Nodes,
    pub(crate) gates: Gates,
    pub(crate) park: Arc<Park>,
    /// Record locks that were taken on the backing: where it is shared.
    pub(crate) locks: Mutex<Locks<Arc<OwnedFd>>>,
    pub(crate) workers: Workers,
    pub(crate) buffers: Arc<Buffers>,
    /// The backing knows writes that do not wait, as far as is known.
    pub(crate) writes_at_once: AtomicBool,
    pub(crate) notices: Notices,
    /// Backing ids of files that nobody has open, kept for the next open.
    pub(crate) idle_ids: Mutex<LruCache<u64, Arc<Registered>>>,
    /// Numbers opens; never reused.
    pub(crate) opens: AtomicU64,
    pub(crate) passthrough: AtomicBool,
    /// Opens with `O_DIRECT` go past the kernel's cache, several at once. Only where nothing is ever
    /// opened by passthrough.
    pub(crate) direct: AtomicBool,
    /// The connection, while its session runs.
    pub(crate) device: Arc<Mutex<Option<Arc<OwnedFd>>>>,
    /// What requests of a dead server had begun.
    pub(crate) replays: Replays,
    /// Where inodes go that are open and have no name.
    pub(crate) pins: Option<Pins>,
    pub(crate) shared: bool,
    /// How long the kernel may believe names and attributes.
    pub(crate) ttl: Duration,
}

/// A file whose attributes change more often than this while they are looked at has no one moment.
const MOMENTS: u32 = 16;

/// Has the file changed between the two? Steps within one tick may share a ctime (before Linux 6.13).
fn changed(before: &Statx, after: &Statx) -> bool {
    let all = |stat: &Statx| {
        let (ctime, mtime) = (stat.stx_ctime, stat.stx_mtime);
        let times = (ctime.tv_sec, ctime.tv_nsec, mtime.tv_sec, mtime.tv_nsec);
        (times, stat.stx_size, stat.stx_blocks)
    };
    all(before) != all(after)
}

impl Core {
    pub(crate) fn passes_through(&self) -> bool {
        self.passthrough.load(Ordering::Relaxed)
    }

    pub(crate) fn node(&self, id: u64) -> Result<Arc<Node>, Errno> {
        self.nodes.get(id)
    }

    /// An `O_PATH` descriptor of a node.
    pub(crate) fn fd(&self, node: &Node) -> Result<Arc<OwnedFd>, Errno> {
        self.nodes.fd(&self.backing, node)
    }

    /// A directory's descriptor for `*at` calls.
    pub(crate) fn dir(&self, id: u64) -> Result<(Arc<Node>, Arc<OwnedFd>), Errno> {
        let node = self.node(id)?;
        let fd = self.fd(&node)?;
        Ok((node, fd))
    }

    /// Counts a lookup of what was seen, and says what the kernel is to know of it.
    pub(crate) fn entry(&self, seen: Seen) -> Result<(Arc<Node>, Entry), Errno> {
        let mut stat = seen.stat;
        let node = self.nodes.intern(seen);
        let mut attr_ttl = self.ttl_of(&node);
        if node.state.lock().written {
            // It may have been seen before its writer's last change, and that writer be gone.
            match self.fd(&node).and_then(|fd| stat_of(fd.as_fd())) {
                Ok(now) => stat = now,
                Err(_) => attr_ttl = Duration::ZERO,
            }
        }
        let (stat, shown) = self.shown(&node, stat);
        let attr = attributes(node.id, &stat, shown);
        let entry = Entry {
            attr,
            generation: Generation(node.generation()),
            ttl: self.ttl,
            attr_ttl,
        };
        Ok((node, entry))
    }

    /// Attributes as users see them.
    pub(crate) fn attr(&self, node: &Node) -> Result<(FileAttr, Duration), Errno> {
        let fd = self.fd(node)?;
        // Before they are looked at: a writer may change them after that, and go.
        let ttl = self.ttl_of(node);
        let stat = stat_of(fd.as_fd())?;
        // The root's id is FUSE's; its number is shown as the backing has it.
        let id = if node.id == ROOT {
            stat.stx_ino
        } else {
            node.id
        };
        let (stat, shown) = self.shown(node, stat);
        Ok((attributes(id, &stat, shown), ttl))
    }

    /// Attributes, and what of them users see otherwise. Both of one moment: what the owner of the
    /// data does to a file changes both, and one of them from before and one from after it would
    /// show times that nobody set.
    fn shown(&self, node: &Node, mut stat: Statx) -> (Statx, Shown) {
        if !node.is_file() || self.residency.shows_as_is(&stat) {
            return (stat, Shown::default());
        }
        let Ok(fd) = self.fd(node) else {
            return (stat, Shown::default());
        };
        let mut left = MOMENTS;
        loop {
            let shown = self.residency.shown(file_ref(node, fd.as_fd()), &stat);
            left -= 1;
            match stat_of(fd.as_fd()) {
                Ok(after) if left > 0 && changed(&stat, &after) => stat = after,
                _ => return (stat, shown),
            }
        }
    }

    /// How long attributes may be believed. A file that is open for writing may change through a
    /// mapping, and its blocks by the close itself: of neither the kernel's FUSE side learns.
    fn ttl_of(&self, node: &Node) -> Duration {
        if node.is_file() && node.state.lock().writers > 0 {
            Duration::ZERO
        } else {
            self.ttl
        }
    }

    /// Are a file's data here?
    pub(crate) fn presence(&self, node: &Node) -> Result<Presence, Errno> {
        let fd = self.fd(node)?;
        Ok(self.residency.presence(file_ref(node, fd.as_fd())))
    }

    /// Until the guard is dropped this thread changes data as its users may.
    pub(crate) fn writing(&self) -> creds::WithoutFsetid {
        creds::writing(self.backing.reserves)
    }

    /// Opens a node's inode for I/O by the server. `EAGAIN`: a lease stands in the way.
    pub(crate) fn open_data(&self, node: &Node, flags: i32) -> Result<OwnedFd, Errno> {
        self.nodes.open(&self.backing, node, flags)
    }

    /// Goes on with `next` when the file's first `keep` bytes (or all) are on disk. The reply is
    /// parked meanwhile, so its caller can be interrupted.
    pub(crate) fn fetch(
        self: &Arc<Self>,
        in_use: InUse,
        caller: Caller,
        keep: Option<u64>,
        reply: Reply,
        next: Next,
    ) {
        let node = in_use.node().clone();
        let fd = match self.fd(&node) {
            Ok(fd) => fd,
            Err(error) => return reply.error(error),
        };
        let ticket = self.park.park(caller.pid, reply, Some(in_use), true);
        let core = self.clone();
        let done = Box::new(move |result: Result<(), crate::Errno>| {
            let Some((reply, Some(in_use))) = core.park.take(ticket) else {
                return;
            };
            match result {
                Err(error) => reply.error(own(error)),
                Ok(()) => {
                    let again = core.clone();
                    core.workers.slow(move || next(&again, in_use, reply));
                }
            }
        });
        let file = file_ref(&node, fd.as_fd());
        let token = self.residency.fetch(file, keep, caller, done);
        if !self.park.set_token(ticket, token) {
            self.residency.give_up(token);
        }
    }

    /// Goes on with `next` when the residency says that there is room to write. The node is not
    /// counted as used meanwhile: making room may be about this very file.
    pub(crate) fn await_room(
        self: &Arc<Self>,
        in_use: InUse,
        caller: Caller,
        reply: Reply,
        next: Next,
    ) {
        let node = in_use.node().clone();
        drop(in_use);
        let ticket = self.park.park(caller.pid, reply, None, true);
        let core = self.clone();
        let done = Box::new(move |result: Result<(), crate::Errno>| {
            let Some((reply, _)) = core.park.take(ticket) else {
                return;
            };
            match result {
                Err(error) => reply.error(own(error)),
                Ok(()) => {
                    let again = core.clone();
                    core.workers.slow(move || {
                        again.enter(InUse::new(node), caller.pid, reply, next);
                    });
                }
            }
        });
        let token = self.residency.await_room(caller, done);
        if !self.park.set_token(ticket, token) {
            self.residency.give_up(token);
        }
    }

    /// Tries again a little later, for whom a lease stood in the way.
    pub(crate) fn retry(self: &Arc<Self>, in_use: InUse, caller: u32, reply: Reply, next: Next) {
        let ticket = self.park.park(caller, reply, Some(in_use), false);
        let core = self.clone();
        self.workers.later(LEASE_RETRY, move || {
            if let Some((reply, Some(in_use))) = core.park.take(ticket) {
                next(&core, in_use, reply);
            }
        });
    }

    /// Tells the changelog.
    pub(crate) fn note(&self, kind: EventKind, node: &NodeHandle) {
        self.residency.note(Event {
            kind,
            node: node.clone(),
            place: None,
            from: None,
        });
    }

    /// Tells the changelog, with the name that it happened to.
    pub(crate) fn note_at(&self, kind: EventKind, node: &NodeHandle, dir: &Node, name: &[u8]) {
        self.residency.note(Event {
            kind,
            node: node.clone(),
            place: Some((dir.handle.clone(), name.to_vec())),
            from: None,
        });
    }

    /// Closes on a worker what may take long to close (the last reference of a removed file).
    pub(crate) fn close_later<T: Send + 'static>(&self, what: T) {
        self.workers.slow(move || drop(what));
    }
}

/// A file as the residency is shown it.
pub(crate) fn file_ref<'a>(node: &'a Node, fd: BorrowedFd<'a>) -> FileRef<'a> {
    FileRef {
        handle: &node.handle,
        fd,
    }
}

/// The residency's errno as this crate's.
pub(crate) fn own(error: crate::Errno) -> Errno {
    if (1..4096).contains(&error.0) {
        Errno::from_raw_os_error(error.0)
    } else {
        Errno::IO
    }
}
