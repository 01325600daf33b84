//! Open-file-description locks: they belong to the open file, not to the process, so that two
//! openings in one process exclude each other too, and they end with the last descriptor (P9).
#![allow(
    unsafe_code,
    reason = "fcntl(2) with F_OFD_SETLK, which no safe wrapper here offers"
)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Who else may hold a lock of the same file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// Nobody.
    Alone,
    /// Other readers.
    Readers,
}

/// Locks the whole file at once or not at all; `false` if somebody else holds it.
///
/// # Errors
/// The filesystem has no such locks, or failed.
pub(super) fn try_lock(file: &File, share: Share) -> io::Result<bool> {
    let kind = match share {
        Share::Alone => libc::F_WRLCK,
        Share::Readers => libc::F_RDLCK,
    };
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
        let open = || {
            let mut options = std::fs::OpenOptions::new();
            options
                .read(true)
                .write(true)
                .open(place.path())
                .expect("opens")
        };
        let first = open();
        assert!(try_lock(&first, Share::Alone).expect("locks"));
        let second = open();
        assert!(!try_lock(&second, Share::Readers).expect("is asked"));
        drop(first);
        assert!(try_lock(&second, Share::Readers).expect("is free"));
        assert!(try_lock(&open(), Share::Readers).expect("readers share"));
        assert!(!try_lock(&open(), Share::Alone).expect("not beside a reader"));
    }
}
