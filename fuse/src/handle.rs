//! A node's name that outlives paths: the file handle of the backing filesystem.

use crate::sys;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// A backing inode as the filesystem itself names it: the type and bytes of `name_to_handle_at`.
/// Stable across renames and restarts; a successor of a deleted inode has another one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeHandle {
    /// `handle_type` of the kernel's `struct file_handle`.
    pub kind: i32,
    /// `f_handle`, at most 128 bytes (`MAX_HANDLE_SZ`).
    pub bytes: Vec<u8>,
}

impl NodeHandle {
    /// The handle of an open inode; an `O_PATH` descriptor suffices.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where the filesystem has no handles.
    pub fn of(fd: impl AsFd) -> io::Result<Self> {
        Ok(sys::handle_of(fd.as_fd())?)
    }

    /// Opens the inode with `open(2)` flags. `mount` is any descriptor of the same mount that is
    /// not `O_PATH`. Needs CAP_DAC_READ_SEARCH.
    ///
    /// # Errors
    /// `ESTALE` if the inode is gone, also if its number is in use again.
    pub fn open(&self, mount: impl AsFd, flags: i32) -> io::Result<OwnedFd> {
        Ok(sys::open_handle(mount.as_fd(), self, flags)?)
    }
}

impl NodeHandle {
    /// The inode number that the handle holds, where the filesystem's format is known.
    pub(crate) fn inode_number(&self) -> Option<u64> {
        /// ext2/3/4 and others: number and generation of 32 bits each (`FILEID_INO32_GEN`).
        const INO32: i32 = 1;
        /// XFS: a number of 64 bits, then the generation.
        const XFS: i32 = 0x81;
        /// btrfs: the object's id of 64 bits, then subvolume and generation.
        const BTRFS: i32 = 0x4d;
        match (self.kind, self.bytes.len()) {
            (INO32, 8) => {
                let number = self.bytes.first_chunk()?;
                Some(u32::from_ne_bytes(*number).into())
            }
            (XFS, 12) | (BTRFS, 20) => Some(u64::from_ne_bytes(*self.bytes.first_chunk()?)),
            _ => None,
        }
    }
}

impl fmt::Debug for NodeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeHandle({:x}:", self.kind)?;
        self.bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))?;
        f.write_str(")")
    }
}
