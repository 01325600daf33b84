//! Inodes that the holder keeps because they are open and have no name any more.

use super::mounter::Fields;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

/// A message about a pinned inode, by its node's id. It has no answer.
pub(super) enum Pin {
    Keep(u64),
    LetGo(u64),
}

impl Pin {
    pub(super) fn of(message: &[u8]) -> Option<Self> {
        let mut fields = Fields(message);
        match fields.byte()? {
            b'K' => fields.long().map(Self::Keep),
            b'k' => fields.long().map(Self::LetGo),
            _ => None,
        }
    }
}

/// The server's side. Never waits: what the holder does not take at once is not kept.
pub(crate) struct Pins(OwnedFd);

impl Pins {
    pub(super) fn of(socket: BorrowedFd<'_>) -> Result<Self, Errno> {
        rustix::io::fcntl_dupfd_cloexec(socket, 3).map(Self)
    }

    /// The holder has it, or will have it when it listens next; also if this process dies now.
    #[must_use]
    pub(crate) fn keep(&self, node: u64, fd: BorrowedFd<'_>) -> bool {
        self.send(b'K', node, Some(fd))
    }

    pub(crate) fn let_go(&self, node: u64) {
        let _ = self.send(b'k', node, None);
    }

    fn send(&self, letter: u8, node: u64, fd: Option<BorrowedFd<'_>>) -> bool {
        let mut message = vec![letter];
        message.extend(node.to_le_bytes());
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = SendAncillaryBuffer::new(&mut room);
        let fds = fd.map(|fd| [fd]);
        if let Some(fds) = &fds {
            rights.push(SendAncillaryMessage::ScmRights(fds));
        }
        let parts = [IoSlice::new(&message)];
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match sendmsg(&self.0, &parts, &mut rights, flags) {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(%error, node, "the holder was not told of a pinned inode");
                false
            }
        }
    }
}
