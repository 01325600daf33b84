//! The system calls of these tests that have no safe wrapper: leases, truncate(2).
#![allow(unsafe_code, reason = "fcntl(F_SETLEASE) and truncate")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn check(result: i64) -> io::Result<()> {
    match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Keeps others from opening a file (P3): they wait, or get EAGAIN.
pub(crate) struct Lease<'a>(&'a File);

impl<'a> Lease<'a> {
    /// `None`: another descriptor or mapping of the file is alive.
    pub(crate) fn take(file: &'a File) -> Option<Self> {
        /// Missing in `libc`.
        const F_SETSIG: libc::c_int = 10;
        let control = |command, value: i32| {
            // SAFETY: both commands take a number.
            check(unsafe { libc::fcntl(file.as_raw_fd(), command, value) }.into()).is_ok()
        };
        // Who comes meanwhile is told of by a signal, whose default action here is to do nothing.
        let taken = control(F_SETSIG, libc::SIGURG) && control(libc::F_SETLEASE, libc::F_WRLCK);
        taken.then_some(Self(file))
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // SAFETY: the command takes a number.
        unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
    }
}

/// truncate(2): a change of size by path, without an open.
pub(crate) fn truncate(path: &Path, size: u64) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path ends in NUL.
    check(unsafe { libc::truncate(path.as_ptr(), size as i64) }.into())
}
