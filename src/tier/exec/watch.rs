//! Programs end with this process, also when it is killed: a process of its own watches this one, and ends what it
//! was told of.
//!
//! Invariants kept here:
//! - A program's group is told of by the program's own process before it becomes the program, and crossed off before
//!   its number can be another's. Where that cannot be told, the watcher is killed, and another one watches what is
//!   started from then on: it ends nobody rather than somebody else.
//! - The watcher holds nothing of this process but its end of a socket and a descriptor of it. (What it has of its
//!   memory is least if it is started early: [`begin`].)
//!
//! What has left its program's group (a connection that ssh shares) is not ended, as when its program ends.

use super::sys;
use parking_lot::Mutex;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, pidfd_open, pidfd_send_signal, waitid,
};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Between the request to end and the end.
const GRACE: Duration = Duration::from_secs(5);

/// This process's watcher, if there is one.
static WATCHER: Mutex<Option<Arc<Watcher>>> = Mutex::new(None);
/// Words are told apart by it.
static TOKEN: AtomicU64 = AtomicU64::new(1);

struct Watcher {
    socket: OwnedFd,
    process: OwnedFd,
}

/// One program's line on the watcher's list.
pub(super) struct Line {
    watcher: Arc<Watcher>,
    token: u64,
}

/// Starts the watcher now, for a process that will use programs and has few threads and little memory yet.
///
/// # Errors
/// It cannot be started; it will be tried again with the first program.
pub fn begin() -> io::Result<()> {
    current().map(drop)
}

/// A line for a program that is about to be started.
pub(super) fn line() -> io::Result<Line> {
    Ok(Line {
        watcher: current()?,
        token: TOKEN.fetch_add(1, Ordering::Relaxed),
    })
}

fn current() -> io::Result<Arc<Watcher>> {
    let mut known = WATCHER.lock();
    if let Some(watcher) = &*known {
        if watcher.lives() {
            return Ok(Arc::clone(watcher));
        }
        tracing::warn!(
            "the process that watches programs is gone: those that run now outlive this process if it is killed"
        );
    }
    let watcher = Arc::new(Watcher::start()?);
    *known = Some(Arc::clone(&watcher));
    Ok(watcher)
}

impl Watcher {
    fn start() -> io::Result<Self> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let own = pidfd_open(getpid(), PidfdFlags::empty())?;
        let grace = i32::try_from(GRACE.as_millis()).unwrap_or(i32::MAX);
        let pid = sys::start_watcher(theirs.as_fd(), own.as_fd(), grace)?;
        let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self {
            socket: ours,
            process: pidfd_open(pid, PidfdFlags::empty())?,
        })
    }

    /// Reaps it if it does not.
    fn lives(&self) -> bool {
        let how = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        matches!(waitid(WaitId::PidFd(self.process.as_fd()), how), Ok(None))
    }
}

impl Line {
    /// What the program's process needs to write it: the socket, and the token.
    pub(super) fn pen(&self) -> (RawFd, u64) {
        (self.watcher.socket.as_raw_fd(), self.token)
    }
}

impl Drop for Line {
    /// Crosses it off. Whoever holds it sees to it that the group's number is nobody else's yet.
    fn drop(&mut self) {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let Err(error) = send(&self.watcher.socket, &sys::word(self.token, 0), flags) else {
            return;
        };
        if self.watcher.lives() {
            tracing::warn!(%error, "the process that watches programs does not listen: it is ended");
            let _ = pidfd_send_signal(&self.watcher.process, Signal::KILL);
        }
    }
}
