//! What the backing filesystem says about an inode.

use crate::id::Timestamp;
use rustix::fs::{AtFlags, Statx, StatxFlags, StatxTimestamp};
use std::io;
use std::os::fd::BorrowedFd;

/// Types of inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// One `statx`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStat {
    /// Type of inode.
    pub kind: NodeKind,
    /// Permission bits with setuid, setgid and sticky (`07777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Blocks of 512 bytes.
    pub blocks: u64,
    /// Preferred I/O size, bytes: of most filesystems their block size, of ZFS its record's, of XFS
    /// with `largeio` a stripe's. See [`Self::one_block`].
    pub block_size: u32,
    /// Last modification.
    pub mtime: Timestamp,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of status, by the backing's clock.
    pub ctime: Timestamp,
    /// Number of names.
    pub nlink: u64,
    /// Inode number: for messages only, nodes are named by handle.
    pub ino: u64,
    /// Device the inode lies on.
    pub dev: u64,
    /// Device numbers (major, minor) of a device node.
    pub rdev: (u32, u32),
}

/// The largest block of ext4 and XFS: what is said to be larger is another size, one that I/O likes.
const LARGEST_BLOCK: u32 = 64 << 10;

fn time(t: StatxTimestamp) -> Timestamp {
    Timestamp {
        sec: t.tv_sec,
        nsec: t.tv_nsec,
    }
}

impl FileStat {
    /// The filesystem's block, in blocks of 512 bytes: what a file without data takes at most, for its
    /// attributes.
    #[must_use]
    pub fn one_block(&self) -> u64 {
        u64::from(self.block_size.clamp(512, LARGEST_BLOCK)) / 512
    }

    /// Asks the filesystem. Any descriptor will do.
    pub(super) fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let raw = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        Self::from_statx(&raw).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
    }

    /// Reads a `statx` that somebody else made; `None` for an unknown type of inode.
    #[must_use]
    pub fn from_statx(raw: &Statx) -> Option<Self> {
        let mode = u32::from(raw.stx_mode);
        let kind = match mode & libc::S_IFMT {
            libc::S_IFREG => NodeKind::Regular,
            libc::S_IFDIR => NodeKind::Directory,
            libc::S_IFLNK => NodeKind::Symlink,
            libc::S_IFIFO => NodeKind::Fifo,
            libc::S_IFSOCK => NodeKind::Socket,
            libc::S_IFCHR => NodeKind::CharDevice,
            libc::S_IFBLK => NodeKind::BlockDevice,
            _ => return None,
        };
        Some(Self {
            kind,
            mode: mode & 0o7777,
            uid: raw.stx_uid,
            gid: raw.stx_gid,
            size: raw.stx_size,
            blocks: raw.stx_blocks,
            block_size: raw.stx_blksize,
            mtime: time(raw.stx_mtime),
            atime: time(raw.stx_atime),
            ctime: time(raw.stx_ctime),
            nlink: u64::from(raw.stx_nlink),
            ino: raw.stx_ino,
            dev: rustix::fs::makedev(raw.stx_dev_major, raw.stx_dev_minor),
            rdev: (raw.stx_rdev_major, raw.stx_rdev_minor),
        })
    }
}
