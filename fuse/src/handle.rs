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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_known_handle_holds_the_inode_number() {
        let made = |kind, bytes: &[u8]| NodeHandle {
            kind,
            bytes: bytes.to_vec(),
        };
        let ext4 = [7_u32.to_ne_bytes(), 9_u32.to_ne_bytes()].concat();
        assert_eq!(made(1, &ext4).inode_number(), Some(7));
        let mut xfs = (5_u64 << 32).to_ne_bytes().to_vec();
        xfs.extend(3_u32.to_ne_bytes());
        assert_eq!(made(0x81, &xfs).inode_number(), Some(5 << 32));
        // tmpfs has the same type with another content, and a stand-in is no handle at all.
        assert_eq!(made(1, &xfs).inode_number(), None);
        assert_eq!(made(-1, &xfs).inode_number(), None);
        // What this machine's filesystems really give.
        for dir in [std::env::temp_dir(), "/dev/shm".into()] {
            let Ok(file) = std::fs::File::open(&dir) else {
                continue;
            };
            if let Some(number) = NodeHandle::of(&file).ok().and_then(|h| h.inode_number()) {
                assert_eq!(number, file.metadata().unwrap().ino(), "{dir:?}");
            }
        }
    }
}
