//! What a dead server had begun, taken up by its successor, so that every request is answered once
//! in effect (P12).
//!
//! The kernel sends a request that the dead server had read and not answered once more, with
//! [`RESENT`] set in its number. While it waits, the kernel holds the locks of the directories it
//! is about, so that nobody changes those names through the mount in between.
//!
//! Invariants
//! 1. Before a change that cannot be done twice, the ledger has what will be done: to a name that
//!    was seen to be there (to go, to move), or not to be (to be made). A change that was bound to
//!    fail leaves no intent, and fails again when it is sent again.
//! 2. A resent request with an intent is looked at, not repeated: if the names are as it wanted
//!    them, it was done.
//! 3. An open that was entered and not answered is taken back before it is opened anew.
//! 4. A record lock is granted on a description that the holder has; one that was not answered for
//!    is asked for again, by the same owner.
//! 5. An inode whose last name goes while it is open is handed to the holder before the name goes;
//!    if it is opened at that moment, directly after.

use crate::Presence;
use crate::backing::{Seen, stat_of};
use crate::core::Core;
use crate::ledger::{Found, FoundIntent, FoundOpen, Intended, Intent, told};
use crate::locks::Range;
use crate::mount::{LockPin, Pinned};
use crate::node::Node;
use crate::ops::{FH_CACHED, FH_WRITES, is_large};
use crate::passthrough::Registered;
use crate::sys;
use parking_lot::Mutex;
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Set by the kernel in the number of a request that it sends again.
const RESENT: u64 = 1 << 63;

/// What requests of a dead server had begun, by their numbers.
#[derive(Default)]
pub(crate) struct Replays {
    intents: HashMap<u64, FoundIntent>,
    /// Node and open.
    opens: Mutex<HashMap<u64, (u64, u64)>>,
}

impl Replays {
    pub(crate) fn of(found: &Found) -> Self {
        let opens = found.opens.iter().map(|o| (o.unique, (o.node, o.fh)));
        Self {
            intents: found.intents.clone(),
            opens: Mutex::new(opens.collect()),
        }
    }
}

/// A request's number, the same when it is sent again.
pub(crate) fn number(request: u64) -> u64 {
    request & !RESENT
}

/// How it went, if that was entered.
fn ended(found: FoundIntent) -> Option<Result<(), Errno>> {
    match found.outcome? {
        0 => Some(Ok(())),
        error => Some(Err(Errno::from_raw_os_error(error))),
    }
}

impl Core {
    fn begun(&self, request: u64) -> Option<FoundIntent> {
        if request & RESENT == 0 {
            return None;
        }
        self.replays.intents.get(&number(request)).copied()
    }

    /// Enters what is about to be done.
    pub(crate) fn intend(&self, request: u64, intent: Intent) -> Option<Intended> {
        let ledger = self.nodes.ledger.as_ref()?;
        Some(ledger.intend(number(request), intent))
    }

    /// Enters how it went.
    pub(crate) fn settle(&self, intended: Option<Intended>, result: Result<(), Errno>) {
        if let (Some(ledger), Some(intended)) = (&self.nodes.ledger, intended) {
            let error = result.map_or_else(Errno::raw_os_error, |()| 0);
            ledger.outcome(intended, error);
        }
    }

    /// A name is about to be made; for a hard link, of `linked`. No intent if it is there already.
    pub(crate) fn intend_name(
        &self,
        request: u64,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        linked: Option<&Node>,
    ) -> Option<Intended> {
        self.nodes.ledger.as_ref()?;
        if !matches!(self.handle_of_name(dir, name), Err(Errno::NOENT)) {
            return None;
        }
        let linked = linked.map_or(0, |node| told(&node.handle));
        self.intend(request, Intent::Make { linked })
    }

    /// What a resent request had made already.
    pub(crate) fn made_before(
        &self,
        request: u64,
        dir: BorrowedFd<'_>,
        name: &OsStr,
    ) -> Result<Option<Seen>, Errno> {
        let Some(found) = self.begun(request) else {
            return Ok(None);
        };
        let Intent::Make { linked } = found.intent else {
            return Ok(None);
        };
        if let Some(Err(error)) = ended(found) {
            return Err(error);
        }
        match self.backing.look(dir, name) {
            Ok(seen) if linked == 0 || linked == told(&seen.handle) => Ok(Some(seen)),
            _ => Ok(None),
        }
    }

    /// A name of that inode is about to go.
    pub(crate) fn intend_removal(
        &self,
        request: u64,
        seen: &crate::NodeHandle,
    ) -> Option<Intended> {
        let victim = told(seen);
        self.intend(request, Intent::Remove { victim })
    }

    /// How a resent request that removes a name ended, if it had. `seen`: what has the name now.
    pub(crate) fn removed_before(
        &self,
        request: u64,
        seen: &Result<Seen, Errno>,
    ) -> Option<Result<(), Errno>> {
        let found = self.begun(request)?;
        let Intent::Remove { victim } = found.intent else {
            return None;
        };
        ended(found).or(match seen {
            Ok(seen) if told(&seen.handle) == victim => None,
            Ok(_) | Err(Errno::NOENT) => Some(Ok(())),
            Err(_) => None,
        })
    }

    /// A name of that inode is about to move.
    pub(crate) fn intend_move(
        &self,
        request: u64,
        source: &Result<crate::NodeHandle, Errno>,
    ) -> Option<Intended> {
        let source = told(source.as_ref().ok()?);
        self.intend(request, Intent::Move { source })
    }

    /// How a resent rename ended, if it had. `source`: what has the old name now.
    pub(crate) fn moved_before(
        &self,
        request: u64,
        now: &Result<crate::NodeHandle, Errno>,
    ) -> Option<Result<(), Errno>> {
        let found = self.begun(request)?;
        let Intent::Move { source } = found.intent else {
            return None;
        };
        ended(found).or(match now {
            Ok(handle) if told(handle) == source => None,
            Ok(_) | Err(Errno::NOENT) => Some(Ok(())),
            Err(_) => None,
        })
    }

    /// Had a resent request begun this?
    pub(crate) fn had_begun(&self, request: u64, intent: Intent) -> bool {
        self.begun(request)
            .is_some_and(|found| found.intent == intent)
    }

    /// Takes back what a resent open or create had opened: its reply was never sent.
    pub(crate) fn take_open_back(self: &Arc<Self>, request: u64) {
        if request & RESENT == 0 {
            return;
        }
        let opened = self.replays.opens.lock().remove(&number(request));
        if let Some((node, fh)) = opened {
            self.release(node, fh);
        }
    }

    /// Hands an open inode without a name to the holder, once.
    pub(crate) fn keep(&self, node: &Node, fd: &OwnedFd) {
        let Some(pins) = &self.pins else { return };
        let before = std::mem::replace(&mut node.state.lock().kept, true);
        if !before && !pins.keep(node.id, fd.as_fd()) {
            node.state.lock().kept = false;
        }
    }

    /// The holder need not keep it any more.
    pub(crate) fn let_go(&self, node: &Node) {
        let kept = std::mem::take(&mut node.state.lock().kept);
        if let Some(pins) = self.pins.as_ref().filter(|_| kept) {
            pins.let_go(node.id);
        }
    }

    /// Takes over what the kernel knows and has open. Before any request is read.
    pub(crate) fn adopt(self: &Arc<Self>, found: Found, mut pins: Pinned) {
        let (Some(ledger), Some(device)) = (&self.nodes.ledger, self.device.lock().clone()) else {
            return;
        };
        let mut ids = Vec::new();
        for known in found.nodes {
            let (place, backing) = (known.place, known.backing);
            let pin = pins.inodes.remove(&known.id);
            let pinned = pin.is_some();
            let node = self.nodes.adopt(known, pin);
            // Whether an open that is gone has left one is not in the ledger.
            node.state.lock().mapped = true;
            if pinned {
                self.adopt_orphan(&node);
            }
            if let Some(id) = backing {
                let id = Registered::inherited(id, &device, (ledger.clone(), place));
                ids.push((node, Arc::new(id)));
            }
        }
        self.adopt_locks(pins.locks, &found.opens);
        for open in found.opens {
            match self.nodes.get(open.node) {
                Ok(node) => self.adopt_open(&node, open.fh),
                // The kernel does not know the node any more, and so has no open of it.
                Err(_) => drop(ledger.close(open.fh)),
            }
        }
        for (node, id) in ids {
            let mut state = node.state.lock();
            if state.io.passes_through() {
                state.backing = Some(id);
            } else {
                drop(state);
                let _evicted = self.idle_ids.lock().push(node.id, id);
            }
        }
    }

    /// What is locked on a description its owner knows: it counts as all until it is given up.
    fn adopt_locks(self: &Arc<Self>, locks: Vec<(LockPin, OwnedFd)>, opens: &[FoundOpen]) {
        let opens: HashSet<u64> = opens.iter().map(|open| open.fh).collect();
        for (lock, description) in locks {
            if opens.contains(&lock.fh) {
                let (fh, process) = (lock.fh, lock.process);
                let description = Arc::new(description);
                self.locks
                    .lock()
                    .adopt(lock.owner, fh, process, description);
                continue;
            }
            // Its open was closed, and its server died before it had unlocked everything.
            let _ = sys::set_lock(description.as_fd(), None, Range::WHOLE);
            self.let_lock_go(lock.owner);
        }
    }

    fn adopt_orphan(&self, node: &Node) {
        let stat = self.fd(node).and_then(|fd| stat_of(fd.as_fd()));
        let mut state = node.state.lock();
        state.kept = true;
        if let Ok(stat) = stat {
            state.orphan = stat.stx_nlink == 0;
            state.large_orphan = state.orphan && is_large(&stat);
        }
    }

    fn adopt_open(&self, node: &Node, fh: u64) {
        let cached = fh & FH_CACHED != 0;
        // It may have been elsewhere when it was opened: the residency serves it either way.
        let elsewhere = cached && !matches!(self.presence(node), Ok(Presence::Resident));
        let mut state = node.state.lock();
        state.io.adopt(cached);
        state.through_residency |= elsewhere;
        state.writers += u32::from(fh & FH_WRITES != 0);
    }
}
