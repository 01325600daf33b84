//! Memory that two processes share and that outlives either: a memfd, mapped.
#![allow(
    unsafe_code,
    reason = "mmap and munmap, and the view of a mapping as atomic words"
)]

use super::{Memory, Shape};
use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// A mapped memfd of the real shape. Pages are used when they are written.
pub(crate) struct Mapping {
    fd: OwnedFd,
    first: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the mapping belongs to this value, and its words are atomic.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// New memory, all zero.
    pub(crate) fn create() -> Result<Self, Errno> {
        let fd = memfd_create("cairn-ledger", MemfdFlags::CLOEXEC)?;
        ftruncate(&fd, Shape::REAL.words() as u64 * 8)?;
        Self::of(fd)
    }

    /// Maps a memfd that another process made.
    pub(crate) fn of(fd: OwnedFd) -> Result<Self, Errno> {
        let words = Shape::REAL.words();
        // One of another version may be shorter: nothing beyond its end may be touched.
        if fstat(&fd)?.st_size != (words * 8) as i64 {
            return Err(Errno::PROTO);
        }
        // SAFETY: a new mapping, wherever the kernel puts it; the file is as long as the mapping
        // and nobody shortens it.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                words * 8,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                fd.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(crate::sys::last_errno());
        }
        let first = NonNull::new(at.cast::<AtomicU64>()).ok_or(Errno::NOMEM)?;
        Ok(Self { fd, first, words })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Memory for Mapping {
    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at < self.words, "a word within the ledger");
        // SAFETY: within the mapping, which lives as long as `self`; page-aligned at its start.
        unsafe { self.first.add(at).as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing borrows from the mapping any more.
        unsafe { libc::munmap(self.first.as_ptr().cast(), self.words * 8) };
    }
}
