//! System calls that no safe wrapper covers, each as one small safe function.
#![allow(
    unsafe_code,
    reason = "raw system calls: file handles, per-thread credentials, fork"
)]

use crate::NodeHandle;
use crate::locks::{END, Kind, Range};
use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// The kernel's `MAX_HANDLE_SZ`.
const HANDLE_BYTES: usize = 128;

/// The kernel's `struct file_handle` with room for the largest handle.
#[repr(C)]
struct RawHandle {
    bytes: u32,
    kind: i32,
    data: [u8; HANDLE_BYTES],
}

pub(crate) fn last_errno() -> Errno {
    Errno::from_raw_os_error(
        std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO),
    )
}

fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result < 0 {
        Err(last_errno())
    } else {
        Ok(result)
    }
}

/// The handle of an open inode (`O_PATH` suffices).
pub(crate) fn handle_of(fd: BorrowedFd<'_>) -> Result<NodeHandle, Errno> {
    handle_at(fd, c"", libc::AT_EMPTY_PATH)
}

/// The handle of `name` in `dir`, without following a symbolic link.
pub(crate) fn handle_of_name(dir: BorrowedFd<'_>, name: &CStr) -> Result<NodeHandle, Errno> {
    handle_at(dir, name, 0)
}

fn handle_at(dir: BorrowedFd<'_>, name: &CStr, flags: i32) -> Result<NodeHandle, Errno> {
    let mut raw = RawHandle {
        bytes: HANDLE_BYTES as u32,
        kind: 0,
        data: [0; HANDLE_BYTES],
    };
    let mut mount: libc::c_int = 0;
    // SAFETY: `raw` has the layout and the room that it declares; `name` ends in NUL.
    check(unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            dir.as_raw_fd(),
            name.as_ptr(),
            &raw mut raw,
            &raw mut mount,
            flags,
        )
    })?;
    let length = (raw.bytes as usize).min(HANDLE_BYTES);
    Ok(NodeHandle {
        kind: raw.kind,
        bytes: raw.data[..length].to_vec(),
    })
}

/// Opens an inode by its handle; `mount` is any real (not `O_PATH`) descriptor of its mount.
pub(crate) fn open_handle(
    mount: BorrowedFd<'_>,
    handle: &NodeHandle,
    flags: i32,
) -> Result<OwnedFd, Errno> {
    let length = handle.bytes.len();
    if length > HANDLE_BYTES {
        return Err(Errno::STALE);
    }
    let mut raw = RawHandle {
        bytes: length as u32,
        kind: handle.kind,
        data: [0; HANDLE_BYTES],
    };
    raw.data[..length].copy_from_slice(&handle.bytes);
    // SAFETY: `raw` is a whole handle; the result is a new descriptor that nobody else owns.
    unsafe {
        let fd = check(libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            &raw mut raw,
            flags | libc::O_CLOEXEC,
        ))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// Sets the calling thread's user for filesystem checks. Never fails visibly: the kernel reports
/// nothing, so callers must have the right (root).
pub(crate) fn set_thread_fsuid(uid: u32) {
    // SAFETY: changes this thread's credentials only.
    unsafe { libc::syscall(libc::SYS_setfsuid, uid) };
}

/// Sets the calling thread's group for filesystem checks.
pub(crate) fn set_thread_fsgid(gid: u32) {
    // SAFETY: changes this thread's credentials only.
    unsafe { libc::syscall(libc::SYS_setfsgid, gid) };
}

/// Sets the calling thread's supplementary groups (glibc's `setgroups` would change all threads).
pub(crate) fn set_thread_groups(groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: pointer and length describe `groups`; gid_t is u32.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// `faccessat2(2)` on an open inode (`O_PATH` suffices) with the thread's effective credentials.
/// Not rustix's `accessat`: that one refuses `AT_EMPTY_PATH` without asking the kernel.
pub(crate) fn accessible(fd: BorrowedFd<'_>, access: u32) -> Result<(), Errno> {
    let flags = libc::AT_EACCESS | libc::AT_EMPTY_PATH;
    // SAFETY: the empty name ends in NUL; nothing is written to memory.
    check(unsafe {
        libc::syscall(
            libc::SYS_faccessat2,
            fd.as_raw_fd(),
            c"".as_ptr(),
            access,
            flags,
        )
    })
    .map(drop)
}

/// The calling thread's supplementary groups.
pub(crate) fn thread_groups() -> Result<Vec<u32>, Errno> {
    // SAFETY: size 0 only asks for the count.
    let count = check(unsafe { libc::syscall(libc::SYS_getgroups, 0, std::ptr::null::<u32>()) })?;
    let mut groups = vec![0_u32; count as usize];
    // SAFETY: the buffer has room for `count` groups.
    let got =
        check(unsafe { libc::syscall(libc::SYS_getgroups, groups.len(), groups.as_mut_ptr()) })?;
    groups.truncate(got as usize);
    Ok(groups)
}

/// Gives the calling thread its own umask and working directory.
pub(crate) fn unshare_fs() -> Result<(), Errno> {
    // SAFETY: CLONE_FS only separates this thread's umask, root and working directory from others'.
    check(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_FS) }).map(drop)
}

/// Moves the calling (only) thread into its own mount namespace.
pub(crate) fn unshare_mounts() -> Result<(), Errno> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWNS) }).map(drop)
}

/// Grows the descriptor table once: a table that grows while threads run stops them all (RCU).
pub(crate) fn grow_descriptor_table(fd: BorrowedFd<'_>, size: u64) {
    let high = i32::try_from(size.saturating_sub(1)).unwrap_or(i32::MAX);
    // SAFETY: the duplicate, if it could be made, is ours and closed at once.
    unsafe {
        let copy = libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, high);
        if copy >= 0 {
            libc::close(copy);
        }
    }
}

/// Closes a backing id (`FUSE_DEV_IOC_BACKING_CLOSE`) that belongs to this `/dev/fuse`.
pub(crate) fn close_backing(device: BorrowedFd<'_>, id: u32) -> Result<(), Errno> {
    /// `_IOW(229, 2, uint32_t)`.
    const BACKING_CLOSE: libc::c_ulong = (1 << 30) | (4 << 16) | (229 << 8) | 2;
    // SAFETY: the call reads four bytes.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), BACKING_CLOSE as _, &raw const id) };
    check(result.into()).map(drop)
}

/// Both sides of [`fork`].
pub(crate) enum Fork {
    /// In the new process.
    Child,
    /// In the old one, with the new one's id.
    Parent(i32),
}

/// `fork(2)`. Refused with `EBUSY` unless the process has one thread only: in the child of others
/// hardly any function may be called.
pub(crate) fn fork() -> Result<Fork, Errno> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads != 1 {
        return Err(Errno::BUSY);
    }
    // SAFETY: there is one thread, so that the child's locks and heap are in order.
    match unsafe { libc::fork() } {
        0 => Ok(Fork::Child),
        pid if pid > 0 => Ok(Fork::Parent(pid)),
        _ => Err(last_errno()),
    }
}

/// Ignores the terminal's and supervisors' signals: the process ends when its peer does.
pub(crate) fn ignore_stop_signals() {
    for signal in [
        libc::SIGINT,
        libc::SIGTERM,
        libc::SIGHUP,
        libc::SIGQUIT,
        libc::SIGPIPE,
    ] {
        // SAFETY: SIG_IGN installs no handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// A descriptor that is readable when SIGTERM has come; the signal does nothing else any more.
pub(crate) fn termination() -> Result<OwnedFd, Errno> {
    // SAFETY: the set is filled before it is read; this process has one thread.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()).into())?;
        // An ignored signal would not be kept pending.
        libc::signal(libc::SIGTERM, libc::SIG_DFL);
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        let fd = check(libc::signalfd(-1, &raw const set, flags).into())?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// Takes a signal out of such a descriptor.
pub(crate) fn take_signal(fd: Option<&OwnedFd>) {
    if let Some(fd) = fd {
        let mut signal = [0; size_of::<libc::signalfd_siginfo>()];
        let _ = rustix::io::read(fd, &mut signal);
    }
}

/// What [`poll`] saw at a descriptor.
#[derive(Clone, Copy)]
pub(crate) struct Ready(libc::c_short);

impl Ready {
    pub(crate) fn happened(self) -> bool {
        self.0 != 0
    }
    pub(crate) fn failed(self) -> bool {
        self.0 & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0
    }
}

/// Waits until something can be read from a descriptor (where `true`) or is wrong with it.
pub(crate) fn poll(
    fds: &[(Option<BorrowedFd<'_>>, bool)],
    timeout: Option<Duration>,
) -> Result<Vec<Ready>, Errno> {
    let mut polled: Vec<_> = fds
        .iter()
        .map(|(fd, input)| libc::pollfd {
            fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
            events: if *input { libc::POLLIN } else { 0 },
            revents: 0,
        })
        .collect();
    // Rounded up: a wait that ends early would be begun again and again.
    let timeout = timeout.map_or(-1, |t| {
        i32::try_from(t.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
    });
    let count = polled.len() as libc::nfds_t;
    // SAFETY: the array lives through the call, and its length is right.
    check(unsafe { libc::poll(polled.as_mut_ptr(), count, timeout) }.into())?;
    Ok(polled.iter().map(|p| Ready(p.revents)).collect())
}

/// Puts `fd` onto the number of `onto`, whose own file is closed by that.
pub(crate) fn replace(fd: BorrowedFd<'_>, onto: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: whoever owns `onto` goes on owning its number; only what it stands for changes.
    let result = unsafe { libc::dup3(fd.as_raw_fd(), onto.as_raw_fd(), libc::O_CLOEXEC) };
    check(result.into()).map(drop)
}

/// Points the standard descriptors at `/dev/null`, so that the process keeps nobody's pipe open.
pub(crate) fn silence_stdio() {
    let Ok(null) = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
    else {
        return;
    };
    for standard in 0..3 {
        // SAFETY: both are descriptors of this process; nothing else runs in it.
        unsafe { libc::dup2(null.as_raw_fd(), standard) };
    }
}

/// Ends the process without running exit handlers (those belong to the parent).
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: never returns.
    unsafe { libc::_exit(code) }
}

/// Waits for a child to end.
pub(crate) fn reap(pid: i32) {
    // SAFETY: no status is asked for.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
}

/// What [`get_lock`] found. No kind: nothing is in the way.
pub(crate) struct FoundLock {
    pub(crate) kind: Option<Kind>,
    pub(crate) range: Range,
    /// 0: not known.
    pub(crate) process: u32,
}

/// A record lock as the kernel is told of it. `None`: to unlock.
fn record(kind: Option<Kind>, range: Range) -> Result<libc::flock, Errno> {
    let first = i64::try_from(range.first).map_err(|_| Errno::INVAL)?;
    let count = match range.last {
        END.. => 0, // to the end
        last => i64::try_from(last).map_err(|_| Errno::INVAL)? - first + 1,
    };
    // SAFETY: plain numbers, for which zero is good.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = match kind {
        Some(Kind::Read) => libc::F_RDLCK as libc::c_short,
        Some(Kind::Write) => libc::F_WRLCK as libc::c_short,
        None => libc::F_UNLCK as libc::c_short,
    };
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = first;
    lock.l_len = count;
    Ok(lock)
}

/// Locks or unlocks bytes for an open file description, without waiting. `EAGAIN` or `EACCES`:
/// another's lock is in the way.
pub(crate) fn set_lock(fd: BorrowedFd<'_>, kind: Option<Kind>, range: Range) -> Result<(), Errno> {
    let lock = record(kind, range)?;
    // SAFETY: the structure lives through the call, which only reads it.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    check(result.into()).map(drop)
}

/// Looks for a lock of another that would be in the way of this one.
pub(crate) fn get_lock(
    fd: BorrowedFd<'_>,
    kind: Option<Kind>,
    range: Range,
) -> Result<FoundLock, Errno> {
    let mut lock = record(kind, range)?;
    // SAFETY: the structure lives through the call, which fills it.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    check(result.into())?;
    let first = u64::try_from(lock.l_start).unwrap_or(0);
    Ok(FoundLock {
        kind: match libc::c_int::from(lock.l_type) {
            libc::F_RDLCK => Some(Kind::Read),
            libc::F_WRLCK => Some(Kind::Write),
            _ => None,
        },
        range: Range {
            first,
            last: match u64::try_from(lock.l_len) {
                Ok(0) | Err(_) => END,
                Ok(count) => first + (count - 1),
            },
        },
        // Below zero for locks of descriptions and of other hosts.
        process: u32::try_from(lock.l_pid).unwrap_or(0),
    })
}
