//! getlk, setlk, flush, and a lock's end at release: record locks, where others use the backing
//! too. They are taken on the backing file, as locks of an open file description of its own for
//! each owner.
//!
//! Invariants
//! 1. A lock is asked for only while its reply is in hand, not parked: so who is interrupted holds
//!    nothing that it was not told of, and an answer that comes when its caller was killed is
//!    followed by the FLUSH of the caller's exit.
//! 2. A process's locks end with the FLUSH of any of its descriptors of the file; those of an open
//!    file description, and of one who lost a race between fcntl and close, with the RELEASE of
//!    the open that they came through.
//! 3. All that touches the backing runs on workers, in the owner's turn; who waits for a lock is
//!    parked, and tried for when one is given up through this mount, or after a while.
//! 4. A lock is told of only after the kernel was told to forget the file's attributes, and its
//!    data where it remembers them.

use crate::core::Core;
use crate::locks::{Ask, Kind, Owner, Range};
use crate::mount::LockPin;
use crate::node::{InUse, Node};
use crate::park::{Reply, Ticket};
use crate::sys;
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// How long somebody waits until its lock is tried again, at first and at most: nobody tells of
/// locks that are given up around this mount. A hundred who wait long ask a network's server some
/// three hundred times a second.
pub(crate) const FIRST_STEP: Duration = Duration::from_millis(5);
const LONGEST_STEP: Duration = Duration::from_millis(320);

/// Why a lock was not granted.
enum Refusal {
    /// Another's is in the way.
    Conflict,
    /// Not a lock's doing; to be tried again.
    Later,
    Failed(Errno),
}

/// Ends an owner's turn when it is dropped, also by a panic.
struct Turn(Arc<Core>, Owner);

impl Drop for Turn {
    fn drop(&mut self) {
        let next = self.0.locks.lock().end(self.1);
        if let Some(job) = next {
            self.0.workers.slow(job);
        }
    }
}

impl Core {
    /// Locks or unlocks.
    pub(crate) fn set_lock(self: &Arc<Self>, ask: Ask, reply: fuser::ReplyEmpty) {
        self.ask_for_lock(ask, Reply::SetLock(reply));
    }

    fn ask_for_lock(self: &Arc<Self>, ask: Ask, reply: Reply) {
        self.in_turn(ask.owner, move |core| core.try_lock(ask, reply));
    }

    /// Runs on a worker, after what the same owner does on the same node already.
    fn in_turn(self: &Arc<Self>, owner: Owner, work: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let core = self.clone();
        let job = Box::new(move || {
            let turn = Turn(core, owner);
            work(&turn.0);
        });
        let now = self.locks.lock().begin(owner, job);
        if let Some(job) = now {
            self.workers.slow(job);
        }
    }

    fn try_lock(self: &Arc<Self>, ask: Ask, reply: Reply) {
        let node = match self.node(ask.owner.node) {
            Ok(node) => node,
            Err(error) => return reply.error(error),
        };
        match self.lock_now(&node, &ask) {
            Ok(()) if ask.kind.is_some() => self.granted(&node, reply),
            Ok(()) => reply.ok(),
            Err(Refusal::Conflict) if ask.waits => self.wait_for_lock(ask, reply),
            Err(Refusal::Conflict) => reply.error(Errno::AGAIN),
            Err(Refusal::Later) => {
                let next = Box::new(move |core: &Arc<Self>, _in_use, reply| {
                    core.ask_for_lock(ask, reply);
                });
                self.retry(InUse::new(node), ask.thread, reply, next);
            }
            Err(Refusal::Failed(error)) => reply.error(error),
        }
    }

    /// Who holds a lock sees what was written under others' before: what the kernel remembers of the
    /// file goes first. The size and time of change that it would look at otherwise may be the
    /// same (one tick of a server's clock, or a time that was set back). By passthrough no data are
    /// remembered; of a file that was opened while its data were elsewhere nothing is dropped that
    /// may be on its way, which a recall may delay for hours.
    fn granted(&self, node: &Node, reply: Reply) {
        let remembered = {
            let state = node.state.lock();
            !state.io.passes_through() && !state.through_residency
        };
        if remembered {
            self.notices.data_first(node.id, reply);
        } else {
            self.notices.attributes_first(node.id, reply);
        }
    }

    fn lock_now(self: &Arc<Self>, node: &Node, ask: &Ask) -> Result<(), Refusal> {
        let (known, has_room) = {
            let locks = self.locks.lock();
            (locks.description(ask.owner), locks.has_room())
        };
        let is_new = known.is_none();
        let description = match (known, ask.kind) {
            (None, None) => return Ok(()),
            (Some(known), _) => known,
            (None, Some(_)) if !has_room => return Err(Refusal::Failed(Errno::NOLCK)),
            // For whatever it may lock later: no lock moves from one description to another.
            (None, Some(_)) => Arc::new(self.open_to_lock(node, libc::O_RDWR)?),
        };
        set(&description, ask)?;
        if is_new {
            self.keep_lock(ask, &description)?;
        }
        if ask.kind.is_some() {
            self.locks.lock().locked(ask, description);
        } else {
            self.unlocked(ask.owner, ask.range);
        }
        if ask.kind != Some(Kind::Write) {
            self.wake(ask.owner.node);
        }
        Ok(())
    }

    /// A description to lock or look through, opened that way first.
    fn open_to_lock(&self, node: &Node, first: i32) -> Result<OwnedFd, Refusal> {
        let mut refused = Errno::ACCESS;
        for way in [first, libc::O_RDONLY, libc::O_WRONLY] {
            // A file that may only grow opens no other way.
            match self.open_data(node, way | libc::O_APPEND) {
                Ok(fd) => return Ok(fd),
                Err(why @ (Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::TXTBSY)) => {
                    refused = why;
                }
                Err(Errno::AGAIN) => return Err(Refusal::Later),
                Err(Errno::MFILE | Errno::NFILE) => return Err(Refusal::Failed(Errno::NOLCK)),
                Err(error) => return Err(Refusal::Failed(error)),
            }
        }
        Err(Refusal::Failed(refused))
    }

    /// Hands a description to the holder, on which a first lock was taken.
    fn keep_lock(&self, ask: &Ask, description: &OwnedFd) -> Result<(), Refusal> {
        let Some(pins) = &self.pins else {
            return Ok(());
        };
        let lock = LockPin {
            owner: ask.owner,
            fh: ask.fh,
            process: ask.process,
        };
        if pins.keep_lock(lock, description.as_fd()) {
            Ok(())
        } else {
            Err(Refusal::Later)
        }
    }

    /// A range was unlocked on the backing.
    fn unlocked(&self, owner: Owner, range: Range) {
        let last = self.locks.lock().unlocked(owner, range);
        if let (Some(_), Some(pins)) = (&last, &self.pins) {
            pins.let_lock_go(owner);
        }
    }

    /// Gives up all that an owner holds on a node, in its turn.
    fn give_up(self: &Arc<Self>, owner: Owner) {
        let Some(description) = self.locks.lock().description(owner) else {
            return;
        };
        // Not by closing alone: that counts only when nobody else has the description.
        if let Err(error) = sys::set_lock(description.as_fd(), None, Range::WHOLE) {
            tracing::warn!(%error, node = owner.node, "record locks end with their descriptor");
        }
        drop(description);
        self.unlocked(owner, Range::WHOLE);
        self.wake(owner.node);
    }

    /// A descriptor is closed: its process's locks on the file go (FLUSH).
    pub(crate) fn close_owner(self: &Arc<Self>, owner: Owner, reply: fuser::ReplyEmpty) {
        if !self.locks.lock().concerns(owner) {
            return reply.ok();
        }
        self.in_turn(owner, move |core| {
            core.give_up(owner);
            reply.ok();
        });
    }

    /// An open is closed for good: what came through it and is still there goes (RELEASE).
    pub(crate) fn close_locks(self: &Arc<Self>, in_use: &InUse, fh: u64) {
        let owners = self.locks.lock().through(in_use.id, fh);
        for owner in owners {
            // Until the description is closed: a lease would find it.
            let in_use = InUse::new(in_use.node().clone());
            self.in_turn(owner, move |core| {
                let still = core.locks.lock().fh(owner) == Some(fh);
                if still {
                    core.give_up(owner);
                }
                drop(in_use);
            });
        }
    }

    fn wait_for_lock(self: &Arc<Self>, mut ask: Ask, reply: Reply) {
        let step = ask.step;
        ask.step = (step * 2).min(LONGEST_STEP);
        let node = ask.owner.node;
        let ticket = self.park.park(ask.thread, reply, None, false);
        self.locks.lock().wait(ticket, ask);
        let core = self.clone();
        self.workers.later(step, move || {
            let ask = core.locks.lock().take_waiting(node, ticket);
            if let Some(ask) = ask {
                core.try_waiting(ticket, ask);
            }
        });
    }

    /// Locks of a node were given up: who waits for one tries again.
    fn wake(self: &Arc<Self>, node: u64) {
        let waiting = self.locks.lock().take_all_waiting(node);
        for (ticket, mut ask) in waiting {
            // Where locks go from hand to hand here, the next one comes soon.
            ask.step = FIRST_STEP;
            self.try_waiting(ticket, ask);
        }
    }

    /// Nothing happens if it was interrupted meanwhile.
    fn try_waiting(self: &Arc<Self>, ticket: Ticket, ask: Ask) {
        if let Some((reply, _)) = self.park.take(ticket) {
            self.ask_for_lock(ask, reply);
        }
    }

    /// Which lock would be in the way?
    pub(crate) fn get_lock(self: &Arc<Self>, ask: Ask, reply: fuser::ReplyLock) {
        self.look_for_lock(ask, Reply::Lock(reply));
    }

    fn look_for_lock(self: &Arc<Self>, ask: Ask, reply: Reply) {
        let node = match self.node(ask.owner.node) {
            Ok(node) => node,
            Err(error) => return reply.error(error),
        };
        let core = self.clone();
        self.workers
            .slow(move || match core.find_lock(&node, &ask) {
                Ok(found) => reply.lock(&found),
                Err(Refusal::Conflict | Refusal::Later) => {
                    let next = Box::new(move |core: &Arc<Self>, _in_use, reply| {
                        core.look_for_lock(ask, reply);
                    });
                    core.retry(InUse::new(node), ask.thread, reply, next);
                }
                Err(Refusal::Failed(error)) => reply.error(error),
            });
    }

    fn find_lock(&self, node: &Node, ask: &Ask) -> Result<sys::FoundLock, Refusal> {
        let known = self.locks.lock().description(ask.owner);
        let description = match known {
            Some(known) => known,
            None => Arc::new(self.open_to_lock(node, libc::O_RDONLY)?),
        };
        let found = sys::get_lock(description.as_fd(), ask.kind, ask.range);
        let mut found = found.map_err(Refusal::Failed)?;
        if found.kind.is_some() && found.process == 0 {
            // A description's: of this mount's own it is known whose they are.
            let here = self.locks.lock().process_at(ask.owner, found.range.first);
            found.process = here.unwrap_or(0);
        }
        Ok(found)
    }
}

fn set(description: &OwnedFd, ask: &Ask) -> Result<(), Refusal> {
    match sys::set_lock(description.as_fd(), ask.kind, ask.range) {
        Ok(()) => Ok(()),
        Err(Errno::AGAIN | Errno::ACCESS) => Err(Refusal::Conflict),
        Err(Errno::INTR) => Err(Refusal::Later),
        // The description could not be opened in the way that this lock needs.
        Err(Errno::BADF) => Err(Refusal::Failed(Errno::NOLCK)),
        Err(error) => Err(Refusal::Failed(error)),
    }
}
