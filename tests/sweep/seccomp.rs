//! The door to a process' system calls: a filter that hands those that change something to a
//! supervisor outside, which answers each. Nothing of this is in the program under test.
//!
//! Invariants:
//! - The filter is in place before the program's first instruction, and its children inherit it.
//! - A call that was taken by the supervisor waits for its answer; only death ends the wait.
//!
//! The only unsafe code of this suite.

#![allow(
    unsafe_code,
    reason = "a seccomp filter between fork and exec, its ioctls, and a mapping of a file have no safe wrappers"
)]

use anyhow::{Context, Result};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

const fn step(code: u32, yes: u8, no: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: yes,
        jf: no,
        k,
    }
}

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const HAS: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// Where `seccomp_data` has the low half of an argument.
const fn argument(n: u32) -> u32 {
    16 + 8 * n
}

/// The filter's steps: `calls` go to the supervisor; so do `openat` that may create, and `fcntl`
/// about leases. All others pass.
fn program(calls: &[libc::c_long]) -> Vec<libc::sock_filter> {
    let many = calls.len();
    let mut steps = vec![
        step(LOAD, 0, 0, 0),
        step(EQUAL, (many + 2) as u8, 0, libc::SYS_openat as u32),
        step(EQUAL, (many + 3) as u8, 0, libc::SYS_fcntl as u32),
    ];
    // To the last step.
    let notify = |at: usize| (many + 10 - at - 1) as u8;
    for call in calls {
        steps.push(step(EQUAL, notify(steps.len()), 0, *call as u32));
    }
    steps.push(step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    steps.push(step(LOAD, 0, 0, argument(2)));
    let (yes, create) = (notify(steps.len()), libc::O_CREAT as u32);
    // If not: to the ALLOW behind the look at the command.
    steps.push(step(HAS, yes, 3, create));
    steps.push(step(LOAD, 0, 0, argument(1)));
    for command in [libc::F_SETLEASE, libc::F_GETLEASE] {
        steps.push(step(EQUAL, notify(steps.len()), 0, command as u32));
    }
    steps.push(step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    steps.push(step(RETURN, 0, 0, libc::SECCOMP_RET_USER_NOTIF));
    steps
}

/// Puts the command's process, and what it starts, under supervision: the listener goes through
/// `to`.
pub(crate) fn supervise(command: &mut Command, calls: &[libc::c_long], to: UnixStream) {
    let mut filter = program(calls);
    let install = move || {
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_mut_ptr(),
        };
        let flags =
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
        // Nobody would answer it when the test is gone.
        // SAFETY: plain numbers.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        // SAFETY: a pointer to a program that lives until the call returns. No memory is
        // allocated and no lock taken, as code after fork must not.
        let listener = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                flags,
                &raw const program,
            )
        };
        match listener {
            -1 => Err(io::Error::last_os_error()),
            listener => send(to.as_raw_fd(), listener as RawFd),
        }
    };
    // SAFETY: see `install`; what it captures was made before the fork.
    unsafe {
        command.pre_exec(install);
    }
}

/// Passes a descriptor on, without allocating.
fn send(to: RawFd, what: RawFd) -> io::Result<()> {
    let mut byte = 0_u8;
    let mut part = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let mut room = [0_u64; 8];
    // SAFETY: all pointers are to locals that outlive the call; `room` is larger than the one
    // control message that CMSG_LEN speaks of, and aligned for its header.
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = room.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(4) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as _;
        libc::CMSG_DATA(header)
            .cast::<RawFd>()
            .write_unaligned(what);
        libc::sendmsg(to, &raw const message, 0)
    };
    if sent == 1 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The supervisor's end.
pub(crate) struct Listener(OwnedFd);

/// What became of a wait.
pub(crate) enum Next {
    /// A call waits for its answer.
    Call(Asked),
    /// Nothing in that time.
    Nothing,
    /// Nobody is left who could ask.
    Gone,
}

/// A call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) id: u64,
    /// The thread's.
    pub(crate) thread: u32,
    pub(crate) number: libc::c_long,
    pub(crate) arguments: [u64; 6],
}

/// Its answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer {
    /// It is made.
    Go,
    /// It is not made, and fails.
    Fail(i32),
    /// It is not made, and gives this.
    Say(i64),
}

impl Listener {
    /// Takes the listener that [`supervise`] sends; fails when the other end has gone without.
    pub(crate) fn take(from: &UnixStream) -> Result<Self> {
        let mut byte = [0_u8; 1];
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut room);
        let mut parts = [IoSliceMut::new(&mut byte)];
        recvmsg(from, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        Ok(Self(fd.context(
            "the process ended before its filter was in place",
        )?))
    }

    /// Waits for a call.
    pub(crate) fn next(&self, patience: Duration) -> io::Result<Next> {
        let mut poll = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one entry, which outlives the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, patience.as_millis() as libc::c_int) };
        if ready == 0 {
            return Ok(Next::Nothing);
        }
        if poll.revents & libc::POLLIN == 0 {
            return Ok(if poll.revents == 0 {
                Next::Nothing
            } else {
                Next::Gone
            });
        }
        // SAFETY: plain numbers, for which zeros are what the kernel asks for.
        let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        let fd = self.0.as_raw_fd();
        // SAFETY: the kernel writes into `asked`, which is what this ioctl takes.
        let got = unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked) };
        if got != 0 {
            let why = io::Error::last_os_error();
            return match why.raw_os_error() {
                // Who asked was killed meanwhile.
                Some(libc::ENOENT | libc::EINTR) => Ok(Next::Nothing),
                _ => Err(why),
            };
        }
        Ok(Next::Call(Asked {
            id: asked.id,
            thread: asked.pid,
            number: asked.data.nr.into(),
            arguments: asked.data.args,
        }))
    }

    /// Answers. Who was killed needs none.
    pub(crate) fn answer(&self, to: &Asked, answer: Answer) -> io::Result<()> {
        let (val, error, flags) = match answer {
            Answer::Go => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
            Answer::Fail(errno) => (0, -errno, 0),
            Answer::Say(value) => (value, 0, 0),
        };
        let reply = libc::seccomp_notif_resp {
            id: to.id,
            val,
            error,
            flags,
        };
        let fd = self.0.as_raw_fd();
        // SAFETY: the kernel reads `reply`, which is what this ioctl takes.
        let sent = unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const reply) };
        if sent == 0 {
            return Ok(());
        }
        let why = io::Error::last_os_error();
        match why.raw_os_error() {
            Some(libc::ENOENT) => Ok(()),
            _ => Err(why),
        }
    }
}

/// A shared mapping of a file's beginning, for reading.
pub(crate) struct Mapping {
    at: *const u8,
    len: usize,
}

impl Mapping {
    pub(crate) fn of(file: &std::fs::File, len: usize) -> io::Result<Self> {
        // SAFETY: the kernel chooses the address; nothing else lies in the new mapping.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            at: at.cast_const().cast(),
            len,
        })
    }

    /// What is seen through it now.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        // SAFETY: inside the mapping; bytes that change under us are read one by one.
        (0..self.len)
            .map(|n| unsafe { self.at.add(n).read_volatile() })
            .collect()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what mmap gave.
        unsafe { libc::munmap(self.at.cast_mut().cast(), self.len) };
    }
}
