//! Between the door and an agent, or the instance as the end of its movers: a socket that keeps messages apart and
//! carries descriptors.
//!
//! ```text
//! door  -> agent   'C' ADDRESS + descriptor   a caller's connection (HTTP), and the address it came from
//!                  'D' ADDRESS + descriptor   a stream of a transfer, nothing read from it
//! agent -> door    'E' TRANSFER               streams of this transfer come to me
//!                  'F' TRANSFER               no longer
//! ```
//!
//! When one end is gone the other one reads an end, and ends.

use crate::server::socket::Reachable;
use cairn_mover::TransferId;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The longest message.
const MAX: usize = 128;

/// One message.
#[derive(Debug)]
pub(super) enum Message {
    /// A caller's connection.
    Caller(SocketAddr, OwnedFd),
    /// A stream of a transfer.
    Stream(SocketAddr, OwnedFd),
    /// Streams of a transfer are expected.
    Expect(TransferId),
    /// They are not any more.
    Forget(TransferId),
}

/// One end.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

impl Channel {
    /// Two ends.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (here, there) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self(here), there))
    }

    /// The end that this process was started with.
    pub(super) fn inherited(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Connects to an instance, which takes movers.
    pub(super) fn connect(socket: &Path) -> io::Result<Self> {
        let made = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let way = Reachable::new(socket)?;
        rustix::net::connect(&made, &SocketAddrUnix::new(way.path())?)?;
        Ok(Self(made))
    }

    /// Ends it for both ends.
    pub(super) fn close(&self) {
        // It may have ended.
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both);
    }

    /// Sends, or fails at once where the other end does not keep up.
    pub(super) fn send(&self, message: &Message) -> io::Result<()> {
        let (text, fd): (Vec<u8>, Option<BorrowedFd<'_>>) = match message {
            Message::Caller(from, fd) => (format!("C{from}").into_bytes(), Some(fd.as_fd())),
            Message::Stream(from, fd) => (format!("D{from}").into_bytes(), Some(fd.as_fd())),
            Message::Expect(transfer) => ([b"E", &transfer.0[..]].concat(), None),
            Message::Forget(transfer) => ([b"F", &transfer.0[..]].concat(), None),
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::sendmsg(&self.0, &[io::IoSlice::new(&text)], &mut ancillary, flags)?;
        Ok(())
    }

    /// Waits for a message; `None`: the other end is gone.
    pub(super) fn receive(&self) -> io::Result<Option<Message>> {
        loop {
            let mut bytes = [0; MAX];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let received = rustix::io::retry_on_intr(|| {
                let parts = &mut [io::IoSliceMut::new(&mut bytes)];
                rustix::net::recvmsg(&self.0, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            })?;
            if received.bytes == 0 {
                return Ok(None);
            }
            let fd = ancillary.drain().find_map(|part| match part {
                RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
                _ => None,
            });
            // The other end is of this program: what it cannot have meant is passed over.
            match parse(&bytes[..received.bytes], fd) {
                Some(message) => return Ok(Some(message)),
                None => tracing::error!("a message between door and agent makes no sense"),
            }
        }
    }
}

fn parse(bytes: &[u8], fd: Option<OwnedFd>) -> Option<Message> {
    let (kind, rest) = bytes.split_first()?;
    let address = || std::str::from_utf8(rest).ok()?.parse().ok();
    let transfer = || Some(TransferId(rest.try_into().ok()?));
    Some(match kind {
        b'C' => Message::Caller(address()?, fd?),
        b'D' => Message::Stream(address()?, fd?),
        b'E' => Message::Expect(transfer()?),
        b'F' => Message::Forget(transfer()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_descriptors_arrive() {
        let (door, there) = Channel::pair().unwrap();
        let agent = Channel::inherited(there);
        let from: SocketAddr = "[2001:db8::1]:7000".parse().unwrap();
        let (read, write) = std::io::pipe().unwrap();
        door.send(&Message::Stream(from, write.into())).unwrap();
        let Some(Message::Stream(seen, fd)) = agent.receive().unwrap() else {
            panic!("no stream");
        };
        assert_eq!(seen, from);
        rustix::io::write(&fd, b"x").unwrap();
        let mut byte = [0];
        rustix::io::read(&read, &mut byte).unwrap();
        assert_eq!(&byte, b"x");
        let transfer = TransferId([7; 16]);
        agent.send(&Message::Expect(transfer)).unwrap();
        assert!(matches!(door.receive().unwrap(), Some(Message::Expect(t)) if t == transfer));
        drop(agent);
        assert!(door.receive().unwrap().is_none());
    }
}
