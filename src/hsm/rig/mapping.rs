//! Memory mappings, for tests that hold a file by one.
#![allow(unsafe_code, reason = "mmap exists only as a raw system call")]

use std::os::fd::{AsRawFd, BorrowedFd};

/// A mapping of the first `len` bytes of a file.
pub(crate) struct Mapping {
    at: *mut libc::c_void,
    len: usize,
}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, len: usize, protection: libc::c_int, flags: libc::c_int) -> Self {
        // SAFETY: the kernel chooses the address; nothing else lies in the new mapping.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                protection,
                flags,
                fd.as_raw_fd(),
                0,
            )
        };
        assert_ne!(at, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        Self { at, len }
    }

    /// Shared and writable.
    pub(crate) fn writable(fd: BorrowedFd<'_>, len: usize) -> Self {
        Self::new(
            fd,
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
        )
    }

    /// Private and read-only.
    pub(crate) fn readable(fd: BorrowedFd<'_>, len: usize) -> Self {
        Self::new(fd, len, libc::PROT_READ, libc::MAP_PRIVATE)
    }

    /// Stores one byte; the mapping must be writable.
    pub(crate) fn store(&self, offset: usize, byte: u8) {
        assert!(offset < self.len);
        // SAFETY: inside the mapping, which lives as long as `self`.
        unsafe { self.at.cast::<u8>().add(offset).write_volatile(byte) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what mmap gave.
        unsafe { libc::munmap(self.at, self.len) };
    }
}
