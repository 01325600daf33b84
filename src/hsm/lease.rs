//! Leases on backing files (P1, P3): the kernel's word that nobody writes, or that nobody else
//! has the file open at all.
//!
//! Invariants:
//! - A lease is given back when its guard goes, whatever happens in between.
//! - A lease break cannot kill the process: SIGIO, whose default action does, is ignored from the
//!   first lease on.

mod sys;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// What a lease promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseKind {
    /// No descriptor and no shared mapping through which anybody could write (`F_RDLCK`, on a
    /// descriptor opened `O_RDONLY`).
    NoWriters,
    /// No other descriptor and no mapping at all (`F_WRLCK`).
    Alone,
}

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Somebody has the file open or mapped in a conflicting way.
    #[error("the file is in use: a descriptor or a mapping conflicts")]
    InUse,
    /// The filesystem or the process' rights do not allow leases.
    #[error("no lease: {0}")]
    Refused(io::Error),
}

/// A lease, held while this lives. New conflicting opens of others wait in the kernel (or fail
/// with EWOULDBLOCK), and [`Self::still_held`] turns false.
#[derive(Debug)]
pub struct Lease<F: AsFd> {
    fd: F,
    kind: LeaseKind,
}

impl<F: AsFd> Lease<F> {
    /// Takes a lease through `fd`, which must be the only descriptor of the conflicting sort.
    ///
    /// # Errors
    /// [`LeaseError`]; never waits.
    pub fn take(fd: F, kind: LeaseKind) -> Result<Self, LeaseError> {
        sys::ignore_breaks();
        match sys::set(fd.as_fd(), Some(kind)) {
            Ok(()) => Ok(Self { fd, kind }),
            Err(why) => match why.raw_os_error() {
                Some(libc::EAGAIN | libc::EBUSY) => Err(LeaseError::InUse),
                _ => Err(LeaseError::Refused(why)),
            },
        }
    }

    /// Nobody has asked for a conflicting open since the lease was taken.
    #[must_use]
    pub fn still_held(&self) -> bool {
        sys::get(self.fd.as_fd()).is_ok_and(|held| held == Some(self.kind))
    }

    /// The descriptor the lease is on.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<F: AsFd> AsFd for Lease<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<F: AsFd> Drop for Lease<F> {
    fn drop(&mut self) {
        // The only failure is that it is already gone (broken by force after lease-break-time).
        let _ = sys::set(self.fd.as_fd(), None);
    }
}
