//! Requests that wait: replies laid aside, never threads (P11).
//!
//! A parked reply is answered once: by what it waited for, or by the watcher when its caller was
//! interrupted or is gone, whichever takes it first.

use crate::attr::Entry;
use crate::locks::Kind;
use crate::node::InUse;
use crate::passthrough::Registered;
use crate::sys::FoundLock;
use crate::workers::Job;
use crate::{Residency, WaitToken};
use fuser::{FileHandle, FopenFlags};
use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// A reply that may have to wait.
pub(crate) enum Reply {
    Data(fuser::ReplyData),
    Open(fuser::ReplyOpen),
    Create(fuser::ReplyCreate, Box<Entry>),
    Attr(fuser::ReplyAttr),
    Empty(fuser::ReplyEmpty),
    /// Of a request to lock or unlock.
    SetLock(fuser::ReplyEmpty),
    Write(fuser::ReplyWrite),
    Lseek(fuser::ReplyLseek),
    Lock(fuser::ReplyLock),
    /// In place of the library's, which cannot be made without a mount.
    #[cfg(test)]
    Told(crossbeam_channel::Sender<Errno>),
}

/// The errno as FUSE's library wants it.
pub(crate) fn errno(error: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(error.raw_os_error())
}

impl Reply {
    /// Ends the request with an error.
    pub(crate) fn error(self, error: Errno) {
        #[cfg(test)]
        if let Self::Told(tell) = &self {
            let _ = tell.send(error);
            return;
        }
        let error = errno(error);
        match self {
            Self::Data(reply) => reply.error(error),
            Self::Open(reply) => reply.error(error),
            Self::Create(reply, _) => reply.error(error),
            Self::Attr(reply) => reply.error(error),
            Self::Empty(reply) | Self::SetLock(reply) => reply.error(error),
            Self::Write(reply) => reply.error(error),
            Self::Lseek(reply) => reply.error(error),
            Self::Lock(reply) => reply.error(error),
            #[cfg(test)]
            Self::Told(_) => {}
        }
    }

    /// Answers an open. Replies of other kinds end with EINVAL: they cannot come here.
    pub(crate) fn opened(self, fh: u64, flags: FopenFlags, backing: Option<&Registered>) {
        let fh = FileHandle(fh);
        match (self, backing) {
            (Self::Open(reply), Some(id)) => id.opened(reply, fh, flags),
            (Self::Open(reply), None) => reply.opened(fh, flags),
            (Self::Create(reply, e), Some(id)) => id.created(reply, &e, fh, flags),
            (Self::Create(reply, e), None) => {
                reply.created(&e.ttl, &e.attr, e.generation, fh, flags);
            }
            (other, _) => other.error(Errno::INVAL),
        }
    }

    pub(crate) fn data(self, bytes: &[u8]) {
        match self {
            Self::Data(reply) => reply.data(bytes),
            other => other.error(Errno::INVAL),
        }
    }

    pub(crate) fn ok(self) {
        match self {
            Self::Empty(reply) | Self::SetLock(reply) => reply.ok(),
            other => other.error(Errno::INVAL),
        }
    }

    pub(crate) fn written(self, count: usize) {
        match self {
            // No request is for more.
            Self::Write(reply) => reply.written(u32::try_from(count).unwrap_or(u32::MAX)),
            other => other.error(Errno::INVAL),
        }
    }

    /// Which lock is in the way, if any.
    pub(crate) fn lock(self, found: &FoundLock) {
        let kind = match found.kind {
            Some(Kind::Read) => libc::F_RDLCK,
            Some(Kind::Write) => libc::F_WRLCK,
            None => libc::F_UNLCK,
        };
        match self {
            Self::Lock(reply) => {
                reply.locked(found.range.first, found.range.last, kind, found.process);
            }
            other => other.error(Errno::INVAL),
        }
    }

    pub(crate) fn offset(self, offset: u64) {
        match self {
            Self::Lseek(reply) => reply.offset(i64::try_from(offset).unwrap_or(i64::MAX)),
            other => other.error(Errno::INVAL),
        }
    }
}

/// Names a parked reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ticket(pub(crate) u64);

struct Parked {
    thread: u32,
    reply: Reply,
    in_use: Option<InUse>,
    token: Option<WaitToken>,
    /// To be done when the caller does not wait any more.
    given_up: Option<Job>,
}

/// A reply that is out for a moment, to be answered or laid aside again.
struct Lent {
    thread: u32,
    /// The caller does not wait any more.
    stop: Option<Errno>,
    given_up: Job,
}

#[derive(Default)]
struct Slots {
    parked: HashMap<Ticket, Parked>,
    lent: HashMap<Ticket, Lent>,
    /// Abandoned before their token was known.
    orphaned: HashSet<Ticket>,
    /// Parked by whom a token will be told.
    expecting: HashSet<Ticket>,
    next: u64,
    closed: bool,
}

/// A parked reply as the watcher sees it.
pub(crate) struct Waiting {
    pub(crate) ticket: Ticket,
    pub(crate) thread: u32,
    /// The kernel makes of its EINTR that the call begins anew, and leaves it to the thread's signal
    /// to do that or to tell EINTR: without one the caller sees what no caller should (512).
    pub(crate) restarts: bool,
}

/// All parked replies.
#[derive(Default)]
pub(crate) struct Park {
    slots: Mutex<Slots>,
    arrived: Condvar,
}

impl Park {
    /// Lays a reply aside for the thread `caller` (0: unknown). With `expects_token`, exactly one
    /// [`Park::set_token`] must follow. `in_use` is dropped when the caller gives up.
    pub(crate) fn park(
        &self,
        caller: u32,
        reply: Reply,
        in_use: Option<InUse>,
        expects_token: bool,
    ) -> Ticket {
        let mut slots = self.slots.lock();
        slots.next += 1;
        let ticket = Ticket(slots.next);
        if slots.closed {
            if expects_token {
                slots.orphaned.insert(ticket);
            }
            drop(slots);
            reply.error(Errno::NOTCONN);
            return ticket;
        }
        if expects_token {
            slots.expecting.insert(ticket);
        }
        let parked = Parked {
            thread: caller,
            reply,
            in_use,
            token: None,
            given_up: None,
        };
        self.lay_aside(&mut slots, ticket, parked);
        ticket
    }

    fn lay_aside(&self, slots: &mut Slots, ticket: Ticket, parked: Parked) {
        slots.parked.insert(ticket, parked);
        if slots.parked.len() == 1 {
            self.arrived.notify_all();
        }
    }

    /// The name of a reply that is about to be lent for the first time: to be laid aside again with
    /// [`Park::give_back`], or answered and then [`settled`](Park::settle). If its caller gives up
    /// meanwhile that is known when it comes back.
    pub(crate) fn lent(&self, caller: u32, given_up: impl FnOnce(Ticket) -> Job) -> Ticket {
        let mut slots = self.slots.lock();
        slots.next += 1;
        let ticket = Ticket(slots.next);
        let lent = Lent {
            thread: caller,
            stop: None,
            given_up: given_up(ticket),
        };
        slots.lent.insert(ticket, lent);
        ticket
    }

    /// Takes it out again, unless it was answered.
    pub(crate) fn lend(&self, ticket: Ticket) -> Option<Reply> {
        let mut slots = self.slots.lock();
        let mut parked = slots.parked.remove(&ticket)?;
        let lent = Lent {
            thread: parked.thread,
            stop: None,
            given_up: parked.given_up.take()?,
        };
        slots.lent.insert(ticket, lent);
        Some(parked.reply)
    }

    pub(crate) fn give_back(&self, ticket: Ticket, reply: Reply) {
        let mut slots = self.slots.lock();
        let closed = slots.closed.then_some(Errno::NOTCONN);
        let Some(lent) = slots.lent.remove(&ticket) else {
            return;
        };
        if let Some(error) = lent.stop.or(closed) {
            drop(slots);
            reply.error(error);
            return (lent.given_up)();
        }
        let parked = Parked {
            thread: lent.thread,
            reply,
            in_use: None,
            token: None,
            given_up: Some(lent.given_up),
        };
        self.lay_aside(&mut slots, ticket, parked);
    }

    /// A lent reply was answered.
    pub(crate) fn settle(&self, ticket: Ticket) {
        let lent = self.slots.lock().lent.remove(&ticket);
        drop(lent);
    }

    /// What the wait is called. `false`: the caller is gone already; give the wait up.
    #[must_use]
    pub(crate) fn set_token(&self, ticket: Ticket, token: WaitToken) -> bool {
        let mut slots = self.slots.lock();
        slots.expecting.remove(&ticket);
        if let Some(parked) = slots.parked.get_mut(&ticket) {
            parked.token = Some(token);
        }
        !slots.orphaned.remove(&ticket)
    }

    /// The reply back, unless somebody answered it.
    pub(crate) fn take(&self, ticket: Ticket) -> Option<(Reply, Option<InUse>)> {
        let parked = self.slots.lock().parked.remove(&ticket)?;
        Some((parked.reply, parked.in_use))
    }

    /// Answers a reply whose caller does not wait any more.
    pub(crate) fn abandon(&self, ticket: Ticket, error: Errno, residency: &dyn Residency) {
        let mut slots = self.slots.lock();
        let Some(parked) = slots.parked.remove(&ticket) else {
            if let Some(lent) = slots.lent.get_mut(&ticket) {
                lent.stop = Some(error);
            }
            return;
        };
        if parked.token.is_none() && slots.expecting.contains(&ticket) {
            slots.orphaned.insert(ticket);
        }
        drop(slots);
        parked.reply.error(error);
        if let Some(token) = parked.token {
            residency.give_up(token);
        }
        if let Some(job) = parked.given_up {
            job();
        }
    }

    /// Who waits, waiting itself until there are any. `None`: closed.
    pub(crate) fn waiting(&self) -> Option<Vec<Waiting>> {
        let mut slots = self.slots.lock();
        while slots.parked.is_empty() && slots.lent.is_empty() && !slots.closed {
            self.arrived.wait(&mut slots);
        }
        if slots.closed {
            return None;
        }
        let parked = slots.parked.iter().map(|(ticket, parked)| Waiting {
            ticket: *ticket,
            thread: parked.thread,
            restarts: matches!(parked.reply, Reply::SetLock(_)),
        });
        // Only who waits for a lock comes and goes.
        let lent = slots.lent.iter().map(|(ticket, lent)| Waiting {
            ticket: *ticket,
            thread: lent.thread,
            restarts: true,
        });
        Some(parked.chain(lent).collect())
    }

    /// Sleeps, but not beyond [`Park::close`]. `false`: closed.
    pub(crate) fn pause(&self, period: Duration) -> bool {
        let until = std::time::Instant::now() + period;
        let mut slots = self.slots.lock();
        while !slots.closed {
            if self.arrived.wait_until(&mut slots, until).timed_out() {
                break;
            }
        }
        !slots.closed
    }

    /// The mount is gone: every wait is given up.
    pub(crate) fn close(&self, residency: &dyn Residency) {
        let tickets: Vec<Ticket> = {
            let mut slots = self.slots.lock();
            slots.closed = true;
            self.arrived.notify_all();
            slots.parked.keys().copied().collect()
        };
        for ticket in tickets {
            self.abandon(ticket, Errno::NOTCONN, residency);
        }
    }
}

#[cfg(test)]
#[path = "park/tests.rs"]
mod tests;
