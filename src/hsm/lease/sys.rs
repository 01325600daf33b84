//! `F_SETLEASE`, `F_GETLEASE` and the signal that a lease break sends.
#![allow(
    unsafe_code,
    reason = "leases and signal dispositions exist only as raw system calls"
)]

use super::LeaseKind;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Once;

/// Lets lease breaks pass without effect: they are noticed by asking, not by signal.
pub(super) fn ignore_breaks() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: SIG_IGN is a valid disposition and SIGIO a valid signal; no handler runs.
        unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    });
}

/// Sets or (with `None`) gives back the lease of this open file.
pub(super) fn set(fd: BorrowedFd<'_>, kind: Option<LeaseKind>) -> io::Result<()> {
    let arg = match kind {
        Some(LeaseKind::NoWriters) => libc::F_RDLCK,
        Some(LeaseKind::Alone) => libc::F_WRLCK,
        None => libc::F_UNLCK,
    };
    // SAFETY: F_SETLEASE takes an int and touches no memory.
    let done = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, libc::c_int::from(arg)) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The lease that this open file has; during a break the kernel answers what is left of it.
pub(super) fn get(fd: BorrowedFd<'_>) -> io::Result<Option<LeaseKind>> {
    // SAFETY: F_GETLEASE takes no argument and touches no memory.
    let held = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETLEASE) };
    match held {
        -1 => Err(io::Error::last_os_error()),
        held if held == libc::c_int::from(libc::F_RDLCK) => Ok(Some(LeaseKind::NoWriters)),
        held if held == libc::c_int::from(libc::F_WRLCK) => Ok(Some(LeaseKind::Alone)),
        _ => Ok(None),
    }
}
