//! Open-file-description locks: they belong to the open file, not to the process, so that two
//! openings in one process exclude each other too, and they end with the last descriptor (P9).
//!
//! A child that was forked and has not yet called exec has that last descriptor. So a lock is given up
//! by saying so, not by closing: otherwise a cartridge that was just put down seems to be held.
#![allow(
    unsafe_code,
    reason = "fcntl(2) with F_OFD_SETLK, which no safe wrapper here offers"
)]

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::AsRawFd;

/// Who else may hold a lock of the same file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// Nobody.
    Alone,
    /// Other readers.
    Readers,
}

/// A file that is locked as a whole until this is dropped.
#[derive(Debug)]
pub(super) struct Locked(File);

impl Locked {
    /// Locks at once or not at all; `None` if somebody else holds it.
    ///
    /// # Errors
    /// The filesystem has no such locks, or failed.
    pub(super) fn try_new(file: File, share: Share) -> io::Result<Option<Self>> {
        let kind = match share {
            Share::Alone => libc::F_WRLCK,
            Share::Readers => libc::F_RDLCK,
        };
        Ok(set(&file, kind)?.then_some(Self(file)))
    }
}

impl Deref for Locked {
    type Target = File;
    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        if let Err(error) = set(&self.0, libc::F_UNLCK) {
            tracing::warn!(%error, "a lock ends only with its last descriptor");
        }
    }
}

/// `false`: another's lock is in the way.
fn set(file: &File, kind: libc::c_int) -> io::Result<bool> {
    let lock = libc::flock {
        // Both fit: they are small constants of the platform.
        l_type: libc::c_short::try_from(kind).unwrap_or(libc::c_short::MAX),
        l_whence: 0,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open for the whole call; `lock` is a valid flock that the kernel
    // only reads.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if result == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_writer_or_many_readers_also_within_one_process() {
        let place = tempfile::NamedTempFile::new().expect("file");
        let lock = |share| {
            let mut options = std::fs::OpenOptions::new();
            let file = options.read(true).write(true).open(place.path());
            Locked::try_new(file.expect("opens"), share).expect("is asked")
        };
        let first = lock(Share::Alone).expect("is free");
        assert!(lock(Share::Readers).is_none());
        // As in a child between fork and exec.
        let copy = first.try_clone().expect("a second descriptor");
        drop(first);
        let reader = lock(Share::Readers).expect("is free, whatever descriptors are left");
        assert!(lock(Share::Readers).is_some(), "readers share");
        assert!(lock(Share::Alone).is_none(), "not beside a reader");
        drop((reader, copy));
        assert!(lock(Share::Alone).is_some());
    }
}
