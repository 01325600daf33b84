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
//!    parked, and tried for on workers of its own when its [line](crate::locks) says so. Who gives
//!    a lock up is answered first.
//! 4. A lock is told of only after the kernel was told to forget the file's attributes, and its
//!    data where it remembers them.

use crate::core::Core;
use crate::locks::{Ask, Kind, Owner, Range};
use crate::mount::LockPin;
use crate::node::{InUse, Node};
use crate::park::{Reply, Ticket};
use crate::sys;
use crate::workers::{Job, Workers};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// How long until a busy holder is told again.
const HOLDER_RETRY: Duration = Duration::from_millis(100);

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

/// A waiting request with its reply in hand, while its lock is tried for.
struct Attempt {
    core: Arc<Core>,
    ticket: Ticket,
    ask: Ask,
    waits_on: bool,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let (core, ticket, node) = (&self.core, self.ticket, self.ask.owner.node);
        let next = if self.waits_on {
            let refused = core.locks.lock().refused(node, ticket);
            if let Some((step, turn)) = refused.again {
                core.try_later(node, ticket, step, turn);
            }
            refused.next
        } else {
            core.park.settle(ticket);
            core.locks.lock().left(node, ticket)
        };
        core.try_for(next);
    }
}

impl Core {
    /// Locks or unlocks.
    pub(crate) fn set_lock(self: &Arc<Self>, ask: Ask, reply: fuser::ReplyEmpty) {
        self.ask_for_lock(ask, Reply::SetLock(reply));
    }

    fn ask_for_lock(self: &Arc<Self>, ask: Ask, reply: Reply) {
        self.in_turn(ask.owner, Workers::slow, move |core| {
            core.try_lock(ask, reply);
        });
    }

    /// Runs on a worker, after what the same owner does on the same node already.
    fn in_turn(
        self: &Arc<Self>,
        owner: Owner,
        pool: fn(&Workers, Job),
        work: impl FnOnce(&Arc<Self>) + Send + 'static,
    ) {
        let core = self.clone();
        let job = Box::new(move || {
            let turn = Turn(core, owner);
            work(&turn.0);
        });
        let now = self.locks.lock().begin(owner, job);
        if let Some(job) = now {
            pool(&self.workers, job);
        }
    }

    fn try_lock(self: &Arc<Self>, ask: Ask, reply: Reply) {
        match self.lock_now(&ask) {
            Err(Refusal::Conflict | Refusal::Later) if ask.waits => self.wait_for_lock(ask, reply),
            Err(Refusal::Later) => match self.node(ask.owner.node) {
                Ok(node) => {
                    let next = Box::new(move |core: &Arc<Self>, _in_use, reply| {
                        core.ask_for_lock(ask, reply);
                    });
                    self.retry(InUse::new(node), ask.thread, reply, next);
                }
                Err(error) => reply.error(error),
            },
            result => self.answer_lock(&ask, reply, result),
        }
    }

    fn answer_lock(self: &Arc<Self>, ask: &Ask, reply: Reply, result: Result<(), Refusal>) {
        let node = ask.owner.node;
        match result {
            Ok(()) if ask.kind.is_some() => self.granted(node, reply),
            Ok(()) => reply.ok(),
            Err(Refusal::Conflict | Refusal::Later) => return reply.error(Errno::AGAIN),
            Err(Refusal::Failed(error)) => return reply.error(error),
        }
        if ask.kind != Some(Kind::Write) {
            self.wake(node, ask.range);
        }
    }

    /// Who holds a lock sees what was written under others' before: what the kernel remembers of the
    /// file goes first. The size and time of change that it would look at otherwise may be the
    /// same (one tick of a server's clock, or a time that was set back). By passthrough no data are
    /// remembered; of a file that was opened while its data were elsewhere nothing is dropped that
    /// may be on its way, which a recall may delay for hours.
    fn granted(&self, node: u64, reply: Reply) {
        let remembered = self.node(node).is_ok_and(|node| {
            let state = node.state.lock();
            !state.io.passes_through() && !state.through_residency
        });
        if remembered {
            self.notices.data_first(node, reply);
        } else {
            self.notices.attributes_first(node, reply);
        }
    }

    fn lock_now(self: &Arc<Self>, ask: &Ask) -> Result<(), Refusal> {
        let (known, has_room) = {
            let locks = self.locks.lock();
            if locks.is_shut_out(ask) {
                return Err(Refusal::Conflict);
            }
            (locks.description(ask.owner), locks.has_room())
        };
        let description = match (known, ask.kind) {
            (None, None) => return Ok(()),
            (Some(known), _) => {
                set(&known, ask)?;
                known
            }
            (None, Some(_)) if !has_room => return Err(Refusal::Failed(Errno::NOLCK)),
            (None, Some(_)) => self.lock_anew(ask)?,
        };
        if ask.kind.is_some() {
            self.locks.lock().locked(ask, description);
        } else {
            self.unlocked(ask.owner, ask.range);
        }
        Ok(())
    }

    /// A first lock, on a description that the holder has then, too.
    fn lock_anew(&self, ask: &Ask) -> Result<Arc<OwnedFd>, Refusal> {
        if self.pins.as_ref().is_some_and(|pins| !pins.catch_up()) {
            return Err(Refusal::Later);
        }
        let node = self.node(ask.owner.node).map_err(Refusal::Failed)?;
        // For whatever it may lock later: no lock moves from one description to another.
        let description = self.open_to_lock(&node, libc::O_RDWR)?;
        set(&description, ask)?;
        let Some(pins) = &self.pins else {
            return Ok(Arc::new(description));
        };
        let lock = LockPin {
            owner: ask.owner,
            fh: ask.fh,
            process: ask.process,
        };
        if pins.keep_lock(lock, description.as_fd()) {
            return Ok(Arc::new(description));
        }
        // Not by closing alone: that counts only when nobody else has the description.
        let _ = sys::set_lock(description.as_fd(), None, Range::WHOLE);
        Err(Refusal::Later)
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

    /// A range was unlocked on the backing.
    fn unlocked(self: &Arc<Self>, owner: Owner, range: Range) {
        let last = self.locks.lock().unlocked(owner, range);
        if last.is_some() {
            self.let_lock_go(owner);
        }
    }

    /// Tells the holder that nothing is locked there any more.
    pub(crate) fn let_lock_go(self: &Arc<Self>, owner: Owner) {
        if let Some(pins) = &self.pins
            && !pins.let_lock_go(owner)
        {
            self.tell_holder_later();
        }
    }

    fn tell_holder_later(self: &Arc<Self>) {
        let core = Arc::downgrade(self);
        self.workers.waits_later(HOLDER_RETRY, move || {
            let Some(core) = core.upgrade() else { return };
            if core.pins.as_ref().is_some_and(|pins| !pins.try_again()) {
                core.tell_holder_later();
            }
        });
    }

    /// Gives up all that an owner holds on a node, in its turn. `false`: it held nothing.
    fn give_up(self: &Arc<Self>, owner: Owner) -> bool {
        let Some(description) = self.locks.lock().description(owner) else {
            return false;
        };
        // Not by closing alone: that counts only when nobody else has the description.
        if let Err(error) = sys::set_lock(description.as_fd(), None, Range::WHOLE) {
            tracing::warn!(%error, node = owner.node, "record locks end with their descriptor");
        }
        drop(description);
        self.unlocked(owner, Range::WHOLE);
        true
    }

    /// A descriptor is closed: its process's locks on the file go (FLUSH).
    pub(crate) fn close_owner(self: &Arc<Self>, owner: Owner, reply: fuser::ReplyEmpty) {
        if !self.locks.lock().concerns(owner) {
            return reply.ok();
        }
        self.in_turn(owner, Workers::slow, move |core| {
            let given_up = core.give_up(owner);
            reply.ok();
            if given_up {
                core.wake(owner.node, Range::WHOLE);
            }
        });
    }

    /// An open is closed for good: what came through it and is still there goes (RELEASE).
    pub(crate) fn close_locks(self: &Arc<Self>, in_use: &InUse, fh: u64) {
        let owners = self.locks.lock().through(in_use.id, fh);
        for owner in owners {
            // Until the description is closed: a lease would find it.
            let in_use = InUse::new(in_use.node().clone());
            self.in_turn(owner, Workers::slow, move |core| {
                let still = core.locks.lock().fh(owner) == Some(fh);
                let given_up = still && core.give_up(owner);
                drop(in_use);
                if given_up {
                    core.wake(owner.node, Range::WHOLE);
                }
            });
        }
    }

    /// It waits under one name until it is answered, however often it is tried for.
    fn wait_for_lock(self: &Arc<Self>, ask: Ask, reply: Reply) {
        let (core, node) = (self.clone(), ask.owner.node);
        let ticket = self.park.lent(ask.thread, |ticket| {
            Box::new(move || {
                let next = core.locks.lock().left(node, ticket);
                core.try_for(next);
            })
        });
        self.locks.lock().wait(ticket, ask);
        self.park.give_back(ticket, reply);
        drop(Attempt {
            core: self.clone(),
            ticket,
            ask,
            waits_on: true,
        });
    }

    fn try_later(self: &Arc<Self>, node: u64, ticket: Ticket, after: Duration, turn: u64) {
        let core = self.clone();
        self.workers.waits_later(after, move || {
            let next = core.locks.lock().due(node, ticket, turn);
            core.try_for(next);
        });
    }

    /// Locks within a range were given up: who waits for them is tried for.
    fn wake(self: &Arc<Self>, node: u64, range: Range) {
        let next = self.locks.lock().freed(node, range);
        self.try_for(next);
    }

    fn try_for(self: &Arc<Self>, waiting: Vec<(Ticket, Ask)>) {
        for (ticket, ask) in waiting {
            self.in_turn(ask.owner, Workers::waits, move |core| {
                core.try_waiting(ticket, ask);
            });
        }
    }

    /// Nothing happens if it was interrupted meanwhile.
    fn try_waiting(self: &Arc<Self>, ticket: Ticket, ask: Ask) {
        let Some(reply) = self.park.lend(ticket) else {
            return;
        };
        let mut attempt = Attempt {
            core: self.clone(),
            ticket,
            ask,
            waits_on: false,
        };
        match self.lock_now(&ask) {
            Err(Refusal::Conflict | Refusal::Later) => {
                // Before it may be tried for again: then it must be found.
                self.park.give_back(ticket, reply);
                attempt.waits_on = true;
            }
            result => self.answer_lock(&ask, reply, result),
        }
    }

    /// Which lock would be in the way?
    pub(crate) fn get_lock(self: &Arc<Self>, ask: Ask, reply: fuser::ReplyLock) {
        self.look_for_lock(ask, Reply::Lock(reply));
    }

    fn look_for_lock(self: &Arc<Self>, ask: Ask, reply: Reply) {
        self.in_turn(ask.owner, Workers::slow, move |core| {
            let node = match core.node(ask.owner.node) {
                Ok(node) => node,
                Err(error) => return reply.error(error),
            };
            match core.find_lock(&node, &ask) {
                Ok(found) => reply.lock(&found),
                Err(Refusal::Conflict | Refusal::Later) => {
                    let next = Box::new(move |core: &Arc<Self>, _in_use, reply| {
                        core.look_for_lock(ask, reply);
                    });
                    core.retry(InUse::new(node), ask.thread, reply, next);
                }
                Err(Refusal::Failed(error)) => reply.error(error),
            }
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
