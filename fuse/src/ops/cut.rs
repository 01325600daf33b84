//! Changes of size on the backing, and the one of a stub to nothing (P5).
//!
//! Invariants
//! 1. A stub is cut only while the residency holds its recall off: no recalled byte lands behind
//!    the cut, and no recall that was finishing calls the empty file resident with its old data.
//! 2. The hold ends with the cut, with its failure, or with the caller: a [`StubHold`] that is
//!    dropped gives it up, also when it learns its name only afterwards.

use crate::core::{Core, file_ref, own};
use crate::node::{InUse, Node};
use crate::park::Reply;
use crate::{Caller, Presence, Residency, WaitToken};
use parking_lot::Mutex;
use rustix::fs::ftruncate;
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::sync::Arc;

/// What goes on after a cut, on a worker, with how it went. `EAGAIN`: a lease.
pub(crate) type AfterCut = Box<dyn FnOnce(&Arc<Core>, InUse, Reply, Result<(), Errno>) + Send>;

impl Core {
    /// Cuts or extends a file on the backing, clearing set-id bits. `EAGAIN`: a lease.
    pub(crate) fn cut(&self, node: &Node, size: u64) -> Result<(), Errno> {
        let open = node.state.lock().data.write.clone();
        let _clears = self.writing();
        match open {
            Some(fd) => ftruncate(fd, size),
            None => ftruncate(self.open_data(node, libc::O_WRONLY)?, size),
        }
    }

    /// Cuts a released file to nothing, also while its recall runs. The reply is parked until the
    /// recall has stopped.
    pub(crate) fn cut_stub(
        self: &Arc<Self>,
        in_use: InUse,
        caller: Caller,
        reply: Reply,
        next: AfterCut,
    ) {
        let node = in_use.node().clone();
        let fd = match self.fd(&node) {
            Ok(fd) => fd,
            Err(error) => return reply.error(error),
        };
        let ticket = self.park.park(caller.pid, reply, Some(in_use), true);
        let hold = StubHold {
            residency: self.residency.clone(),
            name: Arc::default(),
        };
        let name = hold.name.clone();
        let core = self.clone();
        let done = Box::new(move |result: Result<(), crate::Errno>| {
            let Some((reply, Some(in_use))) = core.park.take(ticket) else {
                return;
            };
            if let Err(error) = result {
                return reply.error(own(error));
            }
            let again = core.clone();
            core.workers.slow(move || {
                let result = again.cut_held(&in_use);
                drop(hold);
                next(&again, in_use, reply, result);
            });
        });
        let file = file_ref(&node, fd.as_fd());
        let token = self.residency.fetch(file, Some(0), caller, done);
        let waits = self.park.set_token(ticket, token);
        let dropped = name.lock().tell(token);
        if dropped || !waits {
            self.residency.give_up(token);
        }
    }

    /// The recall may have come to its end before it was held: then there is no stub any more.
    fn cut_held(&self, node: &Node) -> Result<(), Errno> {
        match self.presence(node)? {
            Presence::Refused(error) => Err(own(error)),
            Presence::Resident => self.cut(node, 0),
            Presence::Released | Presence::Doubtful => {
                let fd = self.fd(node)?;
                self.cut(node, 0)?;
                let file = file_ref(node, fd.as_fd());
                self.residency.truncated(file).map_err(own)
            }
        }
    }
}

/// The residency holds off a recall while this lives.
struct StubHold {
    residency: Arc<dyn Residency>,
    name: Arc<Mutex<HoldName>>,
}

/// The residency tells the name of a hold only when the call returns; the hold may be over then.
#[derive(Debug, Default, PartialEq, Eq)]
enum HoldName {
    #[default]
    Untold,
    Told(WaitToken),
    Dropped,
}

impl HoldName {
    /// `true`: the hold was dropped already; give it up.
    fn tell(&mut self, token: WaitToken) -> bool {
        if *self == Self::Dropped {
            return true;
        }
        *self = Self::Told(token);
        false
    }
}

impl Drop for StubHold {
    fn drop(&mut self) {
        let name = std::mem::replace(&mut *self.name.lock(), HoldName::Dropped);
        if let HoldName::Told(token) = name {
            self.residency.give_up(token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AlwaysResident, Errno as Code, FileRef, ReadDone, Shown, WaitDone};
    use std::ffi::OsStr;

    /// Remembers which waits were given up.
    #[derive(Default)]
    struct Remembers(Mutex<Vec<u64>>);

    impl Residency for Remembers {
        fn presence(&self, file: FileRef<'_>) -> Presence {
            AlwaysResident.presence(file)
        }
        fn shown(&self, _: FileRef<'_>, _: &rustix::fs::Statx) -> Shown {
            Shown::default()
        }
        fn read(&self, f: FileRef<'_>, o: u64, l: u32, c: Caller, done: ReadDone) -> WaitToken {
            AlwaysResident.read(f, o, l, c, done)
        }
        fn fetch(&self, f: FileRef<'_>, k: Option<u64>, c: Caller, done: WaitDone) -> WaitToken {
            AlwaysResident.fetch(f, k, c, done)
        }
        fn give_up(&self, token: WaitToken) {
            self.0.lock().push(token.0);
        }
        fn seek(&self, _: FileRef<'_>, _: u64, _: bool) -> Result<u64, Code> {
            Err(Code(libc::EIO))
        }
        fn truncated(&self, _: FileRef<'_>) -> Result<(), Code> {
            Ok(())
        }
        fn is_private(&self, _: &OsStr) -> bool {
            false
        }
        fn attribute(&self, _: FileRef<'_>, _: &OsStr, _: Caller) -> Option<Result<Vec<u8>, Code>> {
            None
        }
        fn set_attribute(
            &self,
            _: FileRef<'_>,
            _: &OsStr,
            _: &[u8],
            _: Caller,
        ) -> Option<Result<(), Code>> {
            None
        }
        fn note(&self, _: crate::Event) {}
    }

    #[test]
    fn a_dropped_hold_is_given_up_whenever_it_learns_its_name() {
        let residency = Arc::new(Remembers::default());
        let hold = || StubHold {
            residency: residency.clone(),
            name: Arc::default(),
        };
        let (told_first, dropped_first) = (hold(), hold());
        assert!(!told_first.name.lock().tell(WaitToken(7)));
        drop(told_first);
        assert_eq!(*residency.0.lock(), [7]);
        let name = dropped_first.name.clone();
        drop(dropped_first);
        assert!(name.lock().tell(WaitToken(8)), "the teller gives it up");
    }
}
