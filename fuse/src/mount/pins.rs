//! What the holder keeps of open files: inodes that have no name any more, and the open file
//! descriptions that record locks are on. A description's locks last while anybody has it.

use super::mounter::Fields;
use crate::locks::Owner;
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::collections::HashMap;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Whose record locks are on a description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LockPin {
    pub(crate) owner: Owner,
    /// The open that it took the first of them through.
    pub(crate) fh: u64,
    pub(crate) process: u32,
}

impl LockPin {
    pub(super) fn put(self, message: &mut Vec<u8>) {
        for word in [self.owner.node, self.owner.number, self.fh] {
            message.extend(word.to_le_bytes());
        }
        message.extend(self.process.to_le_bytes());
    }

    pub(super) fn get(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            owner: owner(fields)?,
            fh: fields.long()?,
            process: fields.number()?,
        })
    }
}

fn owner(fields: &mut Fields<'_>) -> Option<Owner> {
    Some(Owner {
        node: fields.long()?,
        number: fields.long()?,
    })
}

/// What a predecessor had kept.
#[derive(Default)]
pub(crate) struct Pinned {
    /// By their nodes' ids.
    pub(crate) inodes: HashMap<u64, OwnedFd>,
    pub(crate) locks: Vec<(LockPin, OwnedFd)>,
}

impl Pinned {
    /// One message of the holder, with a descriptor for each thing that it names. `EMFILE`: not all
    /// have arrived, there are too many for this process.
    pub(super) fn add(&mut self, message: &[u8], fds: Vec<OwnedFd>) -> Result<(), Errno> {
        let mut fields = Fields(message);
        let kind = fields.byte();
        for fd in fds {
            match kind {
                Some(b'K') => {
                    let node = fields.long().ok_or(Errno::PROTO)?;
                    self.inodes.insert(node, fd);
                }
                Some(b'L') => {
                    let lock = LockPin::get(&mut fields).ok_or(Errno::PROTO)?;
                    self.locks.push((lock, fd));
                }
                _ => return Err(Errno::PROTO),
            }
        }
        match kind {
            Some(b'K' | b'L') if fields.0.is_empty() => Ok(()),
            Some(b'K' | b'L') => Err(Errno::MFILE),
            _ => Err(Errno::PROTO),
        }
    }
}

/// A message about a pinned inode, by its node's id, or about a description with locks. It has no
/// answer.
pub(super) enum Pin {
    Keep(u64),
    LetGo(u64),
    KeepLock(LockPin),
    LetLockGo(Owner),
}

impl Pin {
    pub(super) fn of(message: &[u8]) -> Option<Self> {
        let mut fields = Fields(message);
        match fields.byte()? {
            b'K' => fields.long().map(Self::Keep),
            b'k' => fields.long().map(Self::LetGo),
            b'L' => LockPin::get(&mut fields).map(Self::KeepLock),
            b'l' => owner(&mut fields).map(Self::LetLockGo),
            _ => None,
        }
    }
}

/// The server's side. Never waits: what the holder does not take at once is not kept.
pub(crate) struct Pins {
    socket: OwnedFd,
    /// Held while a message is sent, so that nobody's locks are let go after the same owner has new
    /// ones.
    unsent: Mutex<Unsent>,
}

/// Whose locks the holder is still to let go: it would not take the message.
#[derive(Default)]
struct Unsent {
    owners: Vec<Owner>,
    /// Somebody will see to it.
    is_retried: bool,
}

impl Pins {
    pub(super) fn of(socket: BorrowedFd<'_>) -> Result<Self, Errno> {
        Ok(Self {
            socket: rustix::io::fcntl_dupfd_cloexec(socket, 3)?,
            unsent: Mutex::default(),
        })
    }

    /// The holder has it, or will have it when it listens next; also if this process dies now.
    #[must_use]
    pub(crate) fn keep(&self, node: u64, fd: BorrowedFd<'_>) -> bool {
        let message = numbered(b'K', &[node]);
        let sent = self.send(&message, Some(fd));
        if let Err(error) = sent {
            tracing::debug!(%error, node, "the holder was not told of a pinned inode");
        }
        sent.is_ok()
    }

    pub(crate) fn let_go(&self, node: u64) {
        let _ = self.send(&numbered(b'k', &[node]), None);
    }

    /// The holder has the description, as with [`Pins::keep`]; or there is no holder, and so nobody
    /// to keep it for. `false`: it does not take it now.
    #[must_use]
    pub(crate) fn keep_lock(&self, lock: LockPin, fd: BorrowedFd<'_>) -> bool {
        let mut unsent = self.unsent.lock();
        let mut message = vec![b'L'];
        lock.put(&mut message);
        self.tell(&mut unsent) && !is_busy(self.send(&message, Some(fd)))
    }

    /// Nothing is locked on that description any more. `false`: the holder does not hear it now, and
    /// the caller is to [try again](Pins::try_again) later.
    #[must_use]
    pub(crate) fn let_lock_go(&self, owner: Owner) -> bool {
        let mut unsent = self.unsent.lock();
        unsent.owners.push(owner);
        self.tell(&mut unsent) || std::mem::replace(&mut unsent.is_retried, true)
    }

    /// Tells what is still to be told. `false`: the holder does not hear it now.
    #[must_use]
    pub(crate) fn catch_up(&self) -> bool {
        self.tell(&mut self.unsent.lock())
    }

    /// The same, for whom [`Pins::let_lock_go`] asked to; over and over, until it is done.
    #[must_use]
    pub(crate) fn try_again(&self) -> bool {
        let mut unsent = self.unsent.lock();
        let done = self.tell(&mut unsent);
        unsent.is_retried = !done;
        done
    }

    fn tell(&self, unsent: &mut Unsent) -> bool {
        while let Some(owner) = unsent.owners.last() {
            let message = numbered(b'l', &[owner.node, owner.number]);
            if is_busy(self.send(&message, None)) {
                return false;
            }
            unsent.owners.pop();
        }
        true
    }

    fn send(&self, message: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = SendAncillaryBuffer::new(&mut room);
        let fds = fd.map(|fd| [fd]);
        if let Some(fds) = &fds {
            rights.push(SendAncillaryMessage::ScmRights(fds));
        }
        let parts = [IoSlice::new(message)];
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        sendmsg(&self.socket, &parts, &mut rights, flags).map(drop)
    }
}

/// Is there a holder which has not taken the message?
fn is_busy(sent: Result<(), Errno>) -> bool {
    let gone = [Errno::PIPE, Errno::CONNRESET, Errno::NOTCONN];
    sent.is_err_and(|why| !gone.contains(&why))
}

fn numbered(letter: u8, numbers: &[u64]) -> Vec<u8> {
    let mut message = vec![letter];
    message.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::mounter;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::os::fd::AsFd;

    const LOCK: LockPin = LockPin {
        owner: Owner { node: 7, number: 1 },
        fh: 10,
        process: 100,
    };

    /// The server's end, and the holder's.
    fn pins() -> (Pins, OwnedFd) {
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
        (Pins::of(ours.as_fd()).unwrap(), theirs)
    }

    #[test]
    fn a_busy_holder_is_told_later_and_by_one() {
        let (pins, holder) = pins();
        let mut before = 0;
        while pins.keep(9, holder.as_fd()) {
            before += 1;
        }
        assert!(!pins.keep_lock(LOCK, holder.as_fd()), "it has no place");
        assert!(!pins.let_lock_go(LOCK.owner), "to be tried again");
        assert!(pins.let_lock_go(LOCK.owner), "by whom was told that");
        assert!(!pins.catch_up());
        assert!(!pins.try_again(), "once more");
        assert!(pins.let_lock_go(LOCK.owner), "by the same one");
        for _ in 0..before {
            mounter::receive(&holder).unwrap();
        }
        assert!(pins.try_again());
        assert!(pins.keep_lock(LOCK, holder.as_fd()));
        // All that was given up before the new one is kept.
        let heard = [(); 4].map(|()| mounter::receive(&holder).unwrap().0[0]);
        assert_eq!(&heard, b"lllL");
        while pins.keep(9, holder.as_fd()) {}
        assert!(!pins.let_lock_go(LOCK.owner), "by nobody yet");
    }

    #[test]
    fn a_dead_holder_keeps_nothing_and_an_error_is_no_death() {
        let (pins, holder) = pins();
        let root = std::fs::File::open("/").unwrap();
        drop(holder);
        assert!(pins.keep_lock(LOCK, root.as_fd()), "for whom?");
        assert!(pins.let_lock_go(LOCK.owner) && pins.catch_up());
        for error in [Errno::AGAIN, Errno::NOBUFS, Errno::NOMEM, Errno::PERM] {
            assert!(is_busy(Err(error)), "{error}");
        }
        assert!(!is_busy(Ok(())));
    }
}
