//! Nodes: the inodes that the kernel knows, by number and by handle.
//!
//! Invariants
//! 1. One live node per handle: the handle holds the inode's generation, so a reused inode
//!    number is another node with another id.
//! 2. A node lives while the kernel counts lookups of it. The kernel holds an inode during
//!    requests on it and until its RELEASEs are answered, so no count is split over two nodes.
//! 3. An inode whose last name went through the mount is pinned by a descriptor until it is
//!    forgotten: by its handle it could not be opened any more.
//! 4. Lock order: gate map, then table, then a node's state. Descriptor and backing-id caches,
//!    the record locks' table and the parking lot, are leaves: nothing is locked under them. No lock is held across a
//!    system call on the backing filesystem.

use crate::NodeHandle;
use crate::backing::{Backing, Seen, reopen};
use crate::iomode::IoMode;
use crate::ledger::{FoundNode, Ledger, NodePlace};
use crate::passthrough::Registered;
use lru::LruCache;
use parking_lot::{Mutex, RwLock};
use rustix::io::Errno;
use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Id of the root directory, as FUSE has it.
pub(crate) const ROOT: u64 = 1;
/// Ids that are not inode numbers begin here: no filesystem in use has numbers so high.
const MADE_UP: u64 = 1 << 63;

/// One inode of the backing that the kernel knows.
pub(crate) struct Node {
    /// What FUSE calls it, and what `st_ino` shows.
    pub(crate) id: u64,
    pub(crate) handle: NodeHandle,
    /// File type bits (`S_IFMT`).
    pub(crate) kind: u32,
    lookups: AtomicU64,
    /// Where the ledger has it, if there is one.
    pub(crate) place: Option<NodePlace>,
    /// Keeps the inode reachable where its handle does not.
    pinned: Mutex<Option<Arc<OwnedFd>>>,
    pub(crate) state: Mutex<State>,
}

/// What changes about a node. Guarded by its lock.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) io: IoMode,
    /// Live opens for writing.
    pub(crate) writers: u32,
    /// There were some that are gone.
    pub(crate) written: bool,
    /// The one backing id that all passthrough opens share; set while any is alive.
    pub(crate) backing: Option<Arc<Registered>>,
    /// Descriptors that serve cached opens; set while any is alive.
    pub(crate) data: DataFds,
    /// Cached reads go to the residency: data were elsewhere at the latest open.
    pub(crate) through_residency: bool,
    /// The last name is gone.
    pub(crate) orphan: bool,
    /// And so many blocks with it that closing the inode's last descriptor takes long.
    pub(crate) large_orphan: bool,
    /// The holder keeps the inode, too.
    pub(crate) kept: bool,
}

/// Descriptors of one inode for I/O by the server.
#[derive(Default, Clone)]
pub(crate) struct DataFds {
    pub(crate) read: Option<Arc<OwnedFd>>,
    pub(crate) write: Option<Arc<OwnedFd>>,
}

impl Node {
    pub(crate) fn is_file(&self) -> bool {
        self.kind == libc::S_IFREG
    }
    pub(crate) fn is_dir(&self) -> bool {
        self.kind == libc::S_IFDIR
    }
    /// Tells the kernel when an id was reused; the handle holds the filesystem's own generation.
    pub(crate) fn generation(&self) -> u64 {
        let fold = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        u64::from(self.handle.bytes.iter().fold(0x811c_9dc5, fold))
    }
    /// Takes away what keeps a removed inode's blocks allocated; close it off the session thread.
    pub(crate) fn take_pin(&self) -> Option<Arc<OwnedFd>> {
        self.pinned.lock().take()
    }
}

/// Counts a user of a node (an open or size change being decided) for as long as it lives.
pub(crate) struct InUse(Arc<Node>);

impl InUse {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        node.state.lock().io.begin();
        Self(node)
    }
    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.0
    }
}

impl Deref for InUse {
    type Target = Node;
    fn deref(&self) -> &Node {
        &self.0
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.state.lock().io.end();
    }
}

#[derive(Default)]
struct Maps {
    by_id: HashMap<u64, Arc<Node>>,
    by_handle: HashSet<ByHandle>,
}

/// A node that is found by its handle.
struct ByHandle(Arc<Node>);

impl Borrow<NodeHandle> for ByHandle {
    fn borrow(&self) -> &NodeHandle {
        &self.0.handle
    }
}

impl Hash for ByHandle {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.handle.hash(state);
    }
}

impl PartialEq for ByHandle {
    fn eq(&self, other: &Self) -> bool {
        self.0.handle == other.0.handle
    }
}

impl Eq for ByHandle {}

/// The table of nodes, and the bounded cache of their descriptors.
pub(crate) struct Nodes {
    maps: RwLock<Maps>,
    made_up: AtomicU64,
    descriptors: Mutex<LruCache<u64, Arc<OwnedFd>>>,
    /// By handle, or does each node keep its descriptor?
    by_handle: bool,
    /// What a successor will know.
    pub(crate) ledger: Option<Arc<Ledger>>,
}

impl Nodes {
    /// A table that knows the root alone; `descriptors` bounds the cache.
    pub(crate) fn new(
        backing: &Backing,
        root: Seen,
        descriptors: NonZeroUsize,
        ledger: Option<Arc<Ledger>>,
    ) -> Self {
        let root = Arc::new(Node {
            id: ROOT,
            handle: root.handle,
            kind: libc::S_IFDIR,
            lookups: AtomicU64::new(1),
            place: None,
            pinned: Mutex::new(root.fd),
            state: Mutex::default(),
        });
        let mut maps = Maps::default();
        maps.by_handle.insert(ByHandle(root.clone()));
        maps.by_id.insert(ROOT, root);
        Self {
            maps: RwLock::new(maps),
            // Successors make up others: the kernel may know those of their predecessors.
            made_up: AtomicU64::new(
                MADE_UP + (ledger.as_ref().map_or(0, |l| l.generation()) << 40),
            ),
            descriptors: Mutex::new(LruCache::new(descriptors)),
            by_handle: backing.handles.is_ok(),
            ledger,
        }
    }

    pub(crate) fn get(&self, id: u64) -> Result<Arc<Node>, Errno> {
        self.maps.read().by_id.get(&id).cloned().ok_or(Errno::STALE)
    }

    /// Is any node open?
    pub(crate) fn any_open(&self) -> bool {
        let maps = self.maps.read();
        maps.by_id.values().any(|n| n.state.lock().io.is_open())
    }

    pub(crate) fn by_handle(&self, handle: &NodeHandle) -> Option<Arc<Node>> {
        let maps = self.maps.read();
        maps.by_handle.get(handle).map(|known| known.0.clone())
    }

    /// The node of what was just seen, counted as one more lookup.
    pub(crate) fn intern(&self, seen: Seen) -> Arc<Node> {
        let node = self
            .known(&seen.handle)
            .unwrap_or_else(|| self.add(seen.handle, &seen.stat, seen.fd.as_ref()));
        if self.by_handle
            && let Some(fd) = seen.fd
        {
            self.cache(node.id, fd);
        }
        node
    }

    fn known(&self, handle: &NodeHandle) -> Option<Arc<Node>> {
        let maps = self.maps.read();
        let ByHandle(node) = maps.by_handle.get(handle)?;
        // Under the table's lock, so that a concurrent forget sees it.
        self.count(node);
        Some(node.clone())
    }

    fn add(
        &self,
        handle: NodeHandle,
        stat: &rustix::fs::Statx,
        fd: Option<&Arc<OwnedFd>>,
    ) -> Arc<Node> {
        let mut maps = self.maps.write();
        if let Some(ByHandle(node)) = maps.by_handle.get(&handle) {
            self.count(node);
            return node.clone();
        }
        let free = stat.stx_ino > ROOT
            && stat.stx_ino < MADE_UP
            && !maps.by_id.contains_key(&stat.stx_ino);
        let id = if free {
            stat.stx_ino
        } else {
            self.made_up.fetch_add(1, Ordering::Relaxed)
        };
        let kind = u32::from(stat.stx_mode) & libc::S_IFMT;
        let ledger = self.ledger.as_ref();
        let node = Arc::new(Node {
            id,
            place: ledger.and_then(|ledger| ledger.add_node(id, &handle, kind)),
            handle,
            kind,
            lookups: AtomicU64::new(1),
            pinned: Mutex::new(fd.filter(|_| !self.by_handle).cloned()),
            state: Mutex::default(),
        });
        maps.by_handle.insert(ByHandle(node.clone()));
        maps.by_id.insert(id, node.clone());
        node
    }

    fn count(&self, node: &Node) {
        node.lookups.fetch_add(1, Ordering::Relaxed);
        if let (Some(ledger), Some(place)) = (&self.ledger, node.place) {
            ledger.count(place);
        }
    }

    /// A node that the kernel knows from a dead server. `pin`: its last name went while it was
    /// open.
    pub(crate) fn adopt(&self, found: FoundNode, pin: Option<OwnedFd>) -> Arc<Node> {
        let node = Arc::new(Node {
            id: found.id,
            handle: found.handle,
            kind: found.kind,
            lookups: AtomicU64::new(found.lookups),
            place: Some(found.place),
            pinned: Mutex::new(pin.map(Arc::new)),
            state: Mutex::default(),
        });
        let mut maps = self.maps.write();
        maps.by_handle.insert(ByHandle(node.clone()));
        maps.by_id.insert(node.id, node.clone());
        node
    }

    /// The kernel drops `count` lookups. The node, if that was the last.
    pub(crate) fn forget(&self, id: u64, count: u64) -> Option<Arc<Node>> {
        if id == ROOT {
            return None;
        }
        let node = self.get(id).ok()?;
        let more = node.lookups.fetch_sub(count, Ordering::Relaxed) > count;
        if let (Some(ledger), Some(place)) = (&self.ledger, node.place) {
            ledger.uncount(place, count);
        }
        if more {
            return None;
        }
        let mut maps = self.maps.write();
        if node.lookups.load(Ordering::Relaxed) != 0 {
            return None;
        }
        maps.by_id.remove(&id)?;
        maps.by_handle.remove(&node.handle);
        if let (Some(ledger), Some(place)) = (&self.ledger, node.place) {
            ledger.remove_node(place);
        }
        drop(maps);
        let fd = self.descriptors.lock().pop(&id);
        let mut pinned = node.pinned.lock();
        if pinned.is_none() {
            *pinned = fd;
        }
        drop(pinned);
        Some(node)
    }

    fn cache(&self, id: u64, fd: Arc<OwnedFd>) {
        // What falls out is closed after the lock is gone.
        let _evicted = self.descriptors.lock().push(id, fd);
    }

    /// An `O_PATH` descriptor of a node.
    pub(crate) fn fd(&self, backing: &Backing, node: &Node) -> Result<Arc<OwnedFd>, Errno> {
        if let Some(fd) = node.pinned.lock().as_ref() {
            return Ok(fd.clone());
        }
        if let Some(fd) = self.descriptors.lock().get(&node.id) {
            return Ok(fd.clone());
        }
        let fd = Arc::new(backing.open_handle(&node.handle, libc::O_PATH | libc::O_NOFOLLOW)?);
        self.cache(node.id, fd.clone());
        Ok(fd)
    }

    /// A descriptor of a node for I/O. `EAGAIN`: a lease stands in the way.
    pub(crate) fn open(
        &self,
        backing: &Backing,
        node: &Node,
        flags: i32,
    ) -> Result<OwnedFd, Errno> {
        let pinned = node.pinned.lock().clone();
        match pinned {
            Some(fd) => reopen(fd.as_fd(), flags),
            None => backing.open_handle(&node.handle, flags),
        }
    }

    /// Keeps an inode whose last name may go now. Returns its node if the kernel knows it.
    pub(crate) fn pin(&self, handle: &NodeHandle, fd: &Arc<OwnedFd>) -> Option<Arc<Node>> {
        let node = self.by_handle(handle)?;
        let mut pinned = node.pinned.lock();
        if pinned.is_none() {
            *pinned = Some(fd.clone());
        }
        drop(pinned);
        Some(node)
    }

    /// The name did not go after all, or was not the last.
    pub(crate) fn unpin(&self, node: &Node) {
        if self.by_handle && node.id != ROOT {
            node.pinned.lock().take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/operations.md says what an inode costs. With the handle's bytes on the heap and both
    /// tables' entries (at the worst of their growth) that is 256 bytes.
    #[test]
    fn a_known_inode_costs_at_most_256_bytes() {
        let node = size_of::<Node>() + 2 * size_of::<usize>();
        let handle = 32; // up to 24 bytes, as malloc rounds them
        let entries = size_of::<(u64, Arc<Node>)>() + size_of::<ByHandle>() + 2;
        let tables = entries * 16 / 7;
        assert!(
            node + handle + tables <= 256,
            "{node} + {handle} + {tables}"
        );
    }
}
