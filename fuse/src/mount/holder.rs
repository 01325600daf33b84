//! The holder: the mounter's life, and what it keeps for a successor of its server (P12).
//!
//! The process is tiny, has one thread, and does what messages say. With a hold time it keeps the
//! connection (`/dev/fuse`), the ledger, the backing's root, the inodes that are open without a
//! name, and the open file descriptions that record locks are on. When its server dies it waits
//! that long for a successor; then it aborts the connection and unmounts. Without a hold time it
//! unmounts at once.
//!
//! Invariants
//! 1. Two servers never read requests at once: a successor gets the connection only after its
//!    predecessor is dead, which is seen at a descriptor of the process, not at its number.
//! 2. What the dead server said last is heard before the successor is told anything.
//! 3. Only a process of the same user becomes a successor.
//! 4. A connection that is dead, an unmounted place, an incomplete ledger, or a server that went
//!    in good order is not held; nor is anything after SIGTERM.
//!
//! A successor's conversation: it connects to the socket beside the state; the holder offers
//! (`O`, with the ledger); it answers `T` or goes; the holder kills and buries the server, and
//! sends an error number with connection and root, then pinned inodes (`K`) and locks (`L`), then
//! `G`, with how many of each it should have and has not. From then on it is the server, on that
//! socket.

use super::mounter::{self, Fields, Mounted, field};
use super::pins::{LockPin, Pin};
use crate::ledger::{Ledger, Mapping};
use crate::locks::Owner;
use crate::{descriptors, sys};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{SocketFlags, accept_with};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Of the conversation with a successor; changes with its messages. What follows 1 differs from it in
/// record locks alone, which only shared mounts have.
pub(super) const PROTOCOL: u32 = 2;
pub(super) const WITHOUT_LOCKS: u32 = 1;
/// Inodes, or descriptions, in one message.
const PINS_AT_ONCE: usize = 32;
/// How long a killed server may take to end.
const LONGEST_DEATH: Duration = Duration::from_secs(60);
/// How long a successor may leave the holder waiting in the middle of a message.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is kept for a successor.
pub(super) struct Keep {
    pub(super) time: Duration,
    listener: OwnedFd,
    /// Where the listener is bound, and which file that is.
    socket: PathBuf,
    file: Option<(u64, u64)>,
    ledger: Mapping,
    root: OwnedFd,
    pub(super) device: Option<OwnedFd>,
    /// `None`: the descriptor did not arrive, this process has too many.
    pins: HashMap<u64, Option<OwnedFd>>,
    locks: HashMap<Owner, (LockPin, Option<OwnedFd>)>,
}

impl Keep {
    /// Of an `H` message and its descriptors.
    pub(super) fn of(fields: &mut Fields<'_>, fds: Vec<OwnedFd>) -> Result<Self, Errno> {
        let time = fields.long().ok_or(Errno::INVAL)?;
        let socket = fields.path().ok_or(Errno::INVAL)?;
        let [listener, ledger, root]: [OwnedFd; 3] = fds.try_into().map_err(|_| Errno::BADF)?;
        Ok(Self {
            time: Duration::from_millis(time),
            listener,
            file: identity(&socket),
            socket,
            ledger: Mapping::of(ledger)?,
            root,
            device: None,
            pins: HashMap::new(),
            locks: HashMap::new(),
        })
    }

    /// Is there still a connection to hand over?
    fn lives(&self) -> bool {
        let Some(device) = &self.device else {
            return false;
        };
        // Requests may wait or not; an error means that the connection is dead.
        let polled = sys::poll(&[(Some(device.as_fd()), false)], Some(Duration::ZERO));
        Ledger::check(&self.ledger).is_ok() && polled.is_ok_and(|ready| !ready[0].failed())
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        if self.file.is_some() && identity(&self.socket) == self.file {
            let _ = std::fs::remove_file(&self.socket);
        }
    }
}

fn identity(path: &std::path::Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::lstat(path).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

/// Who may become the server.
struct Candidate {
    socket: OwnedFd,
    pid: Pid,
}

/// The process' state.
pub(super) struct Life {
    server: Option<OwnedFd>,
    /// The server's process; `None`: unknown.
    process: Option<(Pid, OwnedFd)>,
    candidate: Option<Candidate>,
    terminated: Option<OwnedFd>,
    pub(super) mounted: Option<Mounted>,
    pub(super) keep: Option<Keep>,
    /// Nothing is held any more: the server went in good order, or SIGTERM came.
    pub(super) dismissed: bool,
    until: Option<Instant>,
}

/// The whole life, as the child of the process `server`.
pub(super) fn live(socket: OwnedFd, server: i32) {
    let parent = Pid::from_raw(server).filter(|_| {
        // It may be dead, and its number another's.
        rustix::process::getppid() == Pid::from_raw(server)
    });
    let mut life = Life {
        server: Some(socket),
        process: parent.and_then(process_of),
        candidate: None,
        terminated: sys::termination().ok(),
        mounted: None,
        keep: None,
        dismissed: false,
        until: None,
    };
    while life.turn() {}
    life.end();
}

fn process_of(pid: Pid) -> Option<(Pid, OwnedFd)> {
    let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    Some((pid, fd))
}

impl Life {
    /// Waits for something to happen and answers it. `false`: the end.
    fn turn(&mut self) -> bool {
        let alone = self.server.is_none();
        let left = self
            .until
            .map(|until| until.saturating_duration_since(Instant::now()));
        if alone && left == Some(Duration::ZERO) {
            return false;
        }
        let keep = self.keep.as_ref();
        let device = keep.and_then(|k| k.device.as_ref()).map(AsFd::as_fd);
        let listener = keep.filter(|k| self.candidate.is_none() && k.device.is_some());
        let fds = [
            (self.server.as_ref().map(AsFd::as_fd), true),
            (self.candidate.as_ref().map(|c| c.socket.as_fd()), true),
            (listener.map(|k| k.listener.as_fd()), true),
            (self.terminated.as_ref().map(AsFd::as_fd), true),
            (device.filter(|_| alone), false),
        ];
        let ready = match sys::poll(&fds, left) {
            Ok(ready) => ready,
            Err(Errno::INTR) => return true,
            Err(_) => return false,
        };
        let [server, candidate, listener, terminated, dead] = ready[..] else {
            return false;
        };
        if terminated.happened() {
            sys::take_signal(self.terminated.as_ref());
            self.dismissed = true;
        }
        if alone && (self.dismissed || dead.failed()) {
            return false;
        }
        if server.happened() && !self.hear() && !self.lose_server() {
            return false;
        }
        if candidate.happened() {
            return self.answer();
        }
        if listener.happened() {
            self.greet();
        }
        true
    }

    /// The server is gone. `false`: nothing is held.
    fn lose_server(&mut self) -> bool {
        self.server = None;
        let held = !self.dismissed
            && self.mounted.as_ref().is_some_and(Mounted::is_there)
            && self.keep.as_ref().is_some_and(Keep::lives);
        let time = self.keep.as_ref().map(|keep| keep.time);
        self.until = time.and_then(|time| Instant::now().checked_add(time));
        held
    }

    /// One message of the server. `false`: there are no more.
    fn hear(&mut self) -> bool {
        let Some(socket) = self.server.take() else {
            return false;
        };
        let Some((message, mut fds)) = mounter::receive(&socket) else {
            return false;
        };
        let answered = match (message.first(), Pin::of(&message)) {
            (Some(b'E'), _) => {
                self.dismissed = true;
                true
            }
            (_, Some(Pin::Keep(node))) => {
                if let Some(keep) = &mut self.keep {
                    keep.pins.insert(node, fds.pop());
                }
                true
            }
            (_, Some(Pin::LetGo(node))) => {
                if let Some(keep) = &mut self.keep {
                    keep.pins.remove(&node);
                }
                true
            }
            (_, Some(Pin::KeepLock(lock))) => {
                if let Some(keep) = &mut self.keep {
                    keep.locks.insert(lock.owner, (lock, fds.pop()));
                }
                true
            }
            (_, Some(Pin::LetLockGo(owner))) => {
                if let Some(keep) = &mut self.keep {
                    keep.locks.remove(&owner);
                }
                true
            }
            _ => mounter::obey_and_answer(&socket, &message, fds, self),
        };
        if answered {
            self.server = Some(socket);
        }
        answered
    }

    /// Somebody wants to be the server.
    fn greet(&mut self) {
        let (Some(keep), Some(mounted)) = (&self.keep, &self.mounted) else {
            return;
        };
        let Ok(socket) = accept_with(&keep.listener, SocketFlags::CLOEXEC) else {
            return;
        };
        let Ok(peer) = socket_peercred(&socket) else {
            return;
        };
        if peer.uid != rustix::process::geteuid() {
            return;
        }
        for way in [Timeout::Recv, Timeout::Send] {
            if set_socket_timeout(&socket, way, Some(PATIENCE)).is_err() {
                return;
            }
        }
        let mut message = vec![b'O'];
        // A dead server's number may be another process's by now.
        let process = self.process.as_ref().filter(|_| self.server.is_some());
        let server = process.map_or(0, |(pid, _)| number(*pid));
        for word in [PROTOCOL, number(rustix::process::getpid()), server] {
            message.extend(word.to_le_bytes());
        }
        message.extend(mounted.device.unwrap_or(0).to_le_bytes());
        field(&mut message, mounted.target.as_os_str().as_encoded_bytes());
        if mounter::send(&socket, &message, &[keep.ledger.fd()]).is_ok() {
            let pid = peer.pid;
            self.candidate = Some(Candidate { socket, pid });
        }
    }

    /// What the candidate says. `false`: the end.
    fn answer(&mut self) -> bool {
        let Some(candidate) = self.candidate.take() else {
            return true;
        };
        match mounter::receive(&candidate.socket) {
            Some((message, _)) if message == b"T" => self.hand_over(candidate),
            _ => true,
        }
    }

    fn hand_over(&mut self, candidate: Candidate) -> bool {
        let refuse = |error: Errno| {
            let code = error.raw_os_error().cast_unsigned().to_le_bytes();
            let _ = mounter::send(&candidate.socket, &code, &[]);
        };
        if !self.bury_server() {
            refuse(Errno::BUSY);
            return true;
        }
        while let Some(server) = &self.server
            && sys::poll(&[(Some(server.as_fd()), true)], Some(Duration::ZERO))
                .is_ok_and(|ready| ready[0].happened())
            && self.hear()
        {}
        if !self.lose_server() {
            refuse(Errno::NOTCONN);
            return false;
        }
        let heir = process_of(candidate.pid);
        let granted = self.keep.as_ref().ok_or(Errno::NOTCONN).and_then(|keep| {
            let device = keep.device.as_ref().ok_or(Errno::NOTCONN)?;
            grant(keep, device, candidate.socket.as_fd())
        });
        // Without a word of its own it could not be killed one day.
        if granted.is_ok() && heir.is_some() {
            self.server = Some(candidate.socket);
            self.process = heir;
            self.until = None;
        }
        true
    }

    /// Kills the server, should it live (it may be stopped), and waits for its death.
    fn bury_server(&self) -> bool {
        let Some((_, process)) = &self.process else {
            return self.server.is_none();
        };
        let _ = pidfd_send_signal(process, Signal::KILL);
        let until = Instant::now() + LONGEST_DEATH;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match sys::poll(&[(Some(process.as_fd()), true)], Some(left)) {
                Ok(ready) if ready[0].happened() => return true,
                Err(Errno::INTR) => {}
                _ if left.is_zero() => return false,
                _ => {}
            }
        }
    }

    /// Nothing stays behind.
    fn end(mut self) {
        // The last descriptor of the connection, where a server is gone: it ends with it.
        drop(self.keep.take());
        if let Some(mounted) = &self.mounted {
            let _ = mounted.unmount(true);
        }
    }
}

/// What makes a process fit to outlive its parent: no terminal's end ends it, and it can keep as
/// many descriptors as it may.
pub(super) fn settle_down() {
    let _ = rustix::process::setsid();
    descriptors::raise_limit();
}

/// Waits for the end of a holder that is no child.
pub(super) fn wait_for(pid: i32) {
    if let Some((_, process)) = Pid::from_raw(pid).and_then(process_of) {
        let _ = sys::poll(&[(Some(process.as_fd()), true)], Some(LONGEST_DEATH));
    }
}

fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().cast_unsigned()
}

/// Sends all that a successor needs.
fn grant(keep: &Keep, device: &OwnedFd, heir: BorrowedFd<'_>) -> Result<(), Errno> {
    let fds = [device.as_fd(), keep.root.as_fd()];
    mounter::send(heir, &0_u32.to_le_bytes(), &fds)?;
    let held = keep.pins.iter();
    let pins: Vec<_> = held.filter_map(|(n, fd)| Some((n, fd.as_ref()?))).collect();
    for some in pins.chunks(PINS_AT_ONCE) {
        let mut message = vec![b'K'];
        for (node, _) in some {
            message.extend(node.to_le_bytes());
        }
        let fds: Vec<_> = some.iter().map(|(_, fd)| fd.as_fd()).collect();
        mounter::send(heir, &message, &fds)?;
    }
    let held = keep.locks.values();
    let locks: Vec<_> = held.filter_map(|(l, fd)| Some((l, fd.as_ref()?))).collect();
    for some in locks.chunks(PINS_AT_ONCE) {
        let mut message = vec![b'L'];
        for (lock, _) in some {
            lock.put(&mut message);
        }
        let fds: Vec<_> = some.iter().map(|(_, fd)| fd.as_fd()).collect();
        mounter::send(heir, &message, &fds)?;
    }
    let mut end = vec![b'G'];
    for (kept, sent) in [
        (keep.pins.len(), pins.len()),
        (keep.locks.len(), locks.len()),
    ] {
        end.extend(((kept - sent) as u32).to_le_bytes());
    }
    mounter::send(heir, &end, &[])
}
