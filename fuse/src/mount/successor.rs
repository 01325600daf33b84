//! The successor's side of a take-over: it meets the holder, looks whether it can go on with what
//! is there, and only then takes it, which ends the predecessor.

use super::holder::{PROTOCOL, WITHOUT_LOCKS};
use super::mounter::{self, Fields, Mounter};
use super::pins::Pinned;
use crate::ledger::{self, Agreement, Ledger, Mapping};
use crate::{MirrorError, descriptors};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A killed predecessor may take this long to end, and the holder to say so.
const PATIENCE: Duration = Duration::from_secs(90);
/// Predecessors for which no more connections are taken wait in line.
const LINE: i32 = 4;

/// A mount without, or with another, server: met, not yet taken.
pub struct Successor {
    socket: OwnedFd,
    holder: i32,
    keeps_locks: bool,
    predecessor: Option<i32>,
    device: Option<u64>,
    mountpoint: PathBuf,
    ledger: Mapping,
}

/// What a predecessor does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Predecessor {
    /// It is dead.
    Dead,
    /// It lives, but is stopped: it serves nobody.
    Stopped,
    /// It serves.
    Serves,
}

impl Successor {
    /// Meets the holder whose socket this is; `None` if there is none, or it holds no mount.
    ///
    /// # Errors
    /// [`MirrorError::TakeOver`] if what it says cannot be understood.
    pub fn meet(socket: &Path) -> Result<Option<Self>, MirrorError> {
        let failed = |why: Errno| MirrorError::take_over("talk to its holder", why);
        // What would not fit the kernel takes out of a message.
        descriptors::raise_limit();
        let connected = match dial(socket) {
            Ok(connected) => connected,
            Err(Errno::NOENT | Errno::CONNREFUSED) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        // Whoever made the socket to listen at runs as this user.
        let peer = socket_peercred(&connected).map_err(failed)?;
        if peer.uid != rustix::process::geteuid() {
            return Err(failed(Errno::PERM));
        }
        set_socket_timeout(&connected, Timeout::Recv, Some(PATIENCE)).map_err(failed)?;
        let Some((message, fds)) = mounter::receive(&connected) else {
            return Ok(None); // it is about to end
        };
        Self::of(connected, &message, fds).map(Some)
    }

    fn of(socket: OwnedFd, message: &[u8], mut fds: Vec<OwnedFd>) -> Result<Self, MirrorError> {
        let failed = |why: Errno| MirrorError::take_over("understand its holder", why);
        let mut fields = Fields(message);
        let keeps_locks = match (fields.byte(), fields.number()) {
            (Some(b'O'), Some(PROTOCOL)) => true,
            (Some(b'O'), Some(WITHOUT_LOCKS)) => false,
            _ => return Err(failed(Errno::PROTO)),
        };
        let offer = (|| {
            let holder = fields.number()?.cast_signed();
            let predecessor = Some(fields.number()?.cast_signed()).filter(|pid| *pid > 0);
            let device = Some(fields.long()?).filter(|number| *number != 0);
            Some((holder, predecessor, device, fields.path()?, fds.pop()?))
        })();
        let (holder, predecessor, device, mountpoint, ledger) =
            offer.ok_or_else(|| failed(Errno::PROTO))?;
        let ledger = Mapping::of(ledger).map_err(failed)?;
        Ledger::check(&ledger).map_err(|why| MirrorError::Ledger {
            why: why.to_string(),
        })?;
        Ok(Self {
            socket,
            holder,
            keeps_locks,
            predecessor,
            device,
            mountpoint,
            ledger,
        })
    }

    /// Does the holder know of record locks? One of an older version does not.
    pub(crate) fn keeps_locks(&self) -> bool {
        self.keeps_locks
    }

    /// Where it is mounted.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// The predecessor's process.
    #[must_use]
    pub fn predecessor_pid(&self) -> Option<u32> {
        self.predecessor.map(i32::cast_unsigned)
    }

    /// What the predecessor does.
    #[must_use]
    pub fn predecessor(&self) -> Predecessor {
        let Some(pid) = self.predecessor else {
            return Predecessor::Dead;
        };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        match stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()) {
            Some([b'T' | b't', ..]) => Predecessor::Stopped,
            None | Some([b'Z' | b'X', ..]) => Predecessor::Dead,
            Some(_) => Predecessor::Serves,
        }
    }

    pub(crate) fn agreement(&self) -> Agreement {
        ledger::agreement_in(&self.ledger)
    }

    /// Which backing is mounted.
    pub(crate) fn root(&self) -> u64 {
        ledger::root_in(&self.ledger)
    }

    /// Ends the predecessor and takes what it had. If this process fails after that, the holder
    /// holds on for the next.
    ///
    /// # Errors
    /// [`MirrorError::TakeOver`]: nothing was taken; the predecessor may be dead.
    pub fn take(self) -> Result<Inheritance, MirrorError> {
        let failed = |why: Errno| MirrorError::take_over("take it from its holder", why);
        mounter::send(&self.socket, b"T", &[]).map_err(failed)?;
        let next = || mounter::receive(&self.socket).ok_or_else(|| failed(Errno::PIPE));
        let (message, fds) = next()?;
        match Fields(&message).number() {
            Some(0) => {}
            Some(error) => return Err(failed(Errno::from_raw_os_error(error.cast_signed()))),
            None => return Err(failed(Errno::PROTO)),
        }
        let [device, _root]: [OwnedFd; 2] = fds.try_into().map_err(|_| failed(Errno::BADF))?;
        let mut pins = Pinned::default();
        loop {
            let (message, fds) = next()?;
            if message.first() == Some(&b'G') {
                tell_lost(&message[1..]);
                break;
            }
            pins.add(&message, fds).map_err(failed)?;
        }
        set_socket_timeout(&self.socket, Timeout::Recv, None).map_err(failed)?;
        // It came with this process's copy of the users' namespace.
        Mounter::forget_own(&self.mountpoint, self.device);
        Ok(Inheritance {
            mounter: Mounter::adopted(
                self.socket,
                self.holder,
                self.mountpoint.clone(),
                self.device,
            ),
            device,
            number: self.device,
            mountpoint: self.mountpoint,
            ledger: self.ledger,
            pins,
        })
    }
}

/// What the holder should have had for this server.
fn tell_lost(message: &[u8]) {
    let mut fields = Fields(message);
    for what in ["inodes that are open without a name", "record locks"] {
        if let Some(count @ 1..) = fields.number() {
            tracing::error!(
                count,
                what,
                "lost with the predecessor: the holder had no descriptors left to keep them"
            );
        }
    }
}

/// A live mount, taken from a predecessor that is dead; to be served by
/// [`Mirror::start`](crate::Mirror::start).
pub struct Inheritance {
    pub(crate) mounter: Mounter,
    pub(crate) device: OwnedFd,
    /// The mount's device number.
    pub(crate) number: Option<u64>,
    pub(crate) mountpoint: PathBuf,
    pub(crate) ledger: Mapping,
    pub(crate) pins: Pinned,
}

impl Inheritance {
    /// The mount's holder, which is this process's mounter from now on.
    #[must_use]
    pub fn mounter(&self) -> &Mounter {
        &self.mounter
    }
}

/// A socket for successors. The directory may be too deep for a socket's address.
pub(crate) fn listen_at(path: &Path) -> Result<OwnedFd, Errno> {
    let (_dir, address) = reachable(path)?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
        }
        _ => {}
    }
    let socket = seqpacket()?;
    bind(&socket, &address)?;
    rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR)?;
    listen(&socket, LINE)?;
    Ok(socket)
}

fn dial(path: &Path) -> Result<OwnedFd, Errno> {
    let (_dir, address) = reachable(path)?;
    let socket = seqpacket()?;
    connect(&socket, &address)?;
    Ok(socket)
}

fn seqpacket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

fn reachable(path: &Path) -> Result<(OwnedFd, SocketAddrUnix), Errno> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::INVAL);
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = openat(CWD, dir, flags, Mode::empty())?;
    let way = Path::new("/proc/self/fd")
        .join(dir.as_raw_fd().to_string())
        .join(name);
    Ok((dir, SocketAddrUnix::new(way)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Shape;
    use rustix::net::socketpair;

    /// What a holder of that version offers.
    fn offered(protocol: u32) -> Result<Successor, MirrorError> {
        let mapping = Mapping::create().unwrap();
        let memory = mapping.fd().try_clone_to_owned().unwrap();
        let _ledger = Ledger::create(Box::new(mapping), Shape::REAL, 7);
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (socket, _far) = socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
        let mut message = vec![b'O'];
        for word in [protocol, 100, 101] {
            message.extend(word.to_le_bytes());
        }
        message.extend(9_u64.to_le_bytes());
        mounter::field(&mut message, b"/data");
        Successor::of(socket, &message, vec![memory])
    }

    #[test]
    fn a_holder_that_knows_nothing_of_locks_is_met_too() {
        for (protocol, keeps_locks) in [(1, false), (2, true)] {
            let met = offered(protocol).unwrap();
            assert_eq!(met.keeps_locks(), keeps_locks);
            assert_eq!(met.mountpoint(), Path::new("/data"));
            assert_eq!(met.predecessor_pid(), Some(101));
        }
        for protocol in [0, PROTOCOL + 1] {
            assert!(offered(protocol).is_err(), "{protocol}");
        }
    }
}
