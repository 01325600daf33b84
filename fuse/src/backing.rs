//! The backing directory: how its inodes are opened.
//!
//! Where the filesystem and the server's rights allow it, inodes are opened by file handle when
//! they are needed, and a bounded number of descriptors is kept. Elsewhere every known inode
//! costs one descriptor. Every open uses O_NONBLOCK: a lease held on the inode then answers
//! EAGAIN instead of blocking the thread (P11).

use crate::{NodeHandle, sys};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Statx, StatxFlags, openat, statx};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The root of what is mirrored, and how inodes under it are named.
pub(crate) struct Backing {
    /// A real directory descriptor (handles cannot be opened relative to an O_PATH one).
    root: OwnedFd,
    /// Device of the root; inodes of others are refused unless nothing can be mounted below.
    device: (u32, u32),
    /// Does the filesystem keep blocks for user 0 (ext4 and its elders)? Others may go by the
    /// user in other ways: NFS would ask its server who it is.
    pub(crate) reserves: bool,
    /// Is `root` a private clone of its mount?
    pub(crate) detached: bool,
    /// Whether inodes can be opened by handle, else why not.
    pub(crate) handles: Result<(), String>,
    /// Do names change through this mount alone? Then none can change between two system calls
    /// of one lookup: the kernel holds the directory's lock meanwhile.
    steady_names: bool,
}

/// `EXT4_SUPER_MAGIC`, which ext2 and ext3 have, too.
const EXT4: rustix::fs::FsWord = 0xef53;

/// What one look at an inode tells.
pub(crate) struct Seen {
    /// An `O_PATH` descriptor, where one was needed to look.
    pub(crate) fd: Option<Arc<OwnedFd>>,
    pub(crate) handle: NodeHandle,
    pub(crate) stat: Statx,
}

impl Backing {
    /// Takes over a directory. A private clone of its mount is used where the process may make
    /// one: in it nothing is mounted, so that the server can never walk into its own mount.
    pub(crate) fn new(directory: &OwnedFd, shared: bool) -> Result<Self, Errno> {
        let clone = open_tree(
            directory,
            "",
            OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH,
        );
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let (root, detached) = match clone {
            Ok(tree) => (openat(&tree, ".", flags, Mode::empty())?, true),
            Err(error) => {
                tracing::debug!(%error, "the backing's mount cannot be cloned");
                (openat(directory, ".", flags, Mode::empty())?, false)
            }
        };
        let stat = stat_of(root.as_fd())?;
        let handles = probe_handles(root.as_fd());
        if shared && handles.is_err() {
            tracing::warn!("a shared backing without file handles: removed files stay pinned");
        }
        let reserves = rustix::fs::fstatfs(&root).is_ok_and(|s| s.f_type == EXT4);
        Ok(Self {
            root,
            reserves,
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            detached,
            steady_names: !shared && handles.is_ok(),
            handles,
        })
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Looks at `name` in `dir` without following a symbolic link, and without a descriptor where
    /// it can be told that handle and attributes are of one inode: opening and closing cost more
    /// than looking.
    pub(crate) fn glance(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<Seen, Errno> {
        if !self.steady_names {
            return self.look(dir, name);
        }
        let handle = match sys::handle_of_name(dir, name) {
            // Of another filesystem that is mounted there: the longer way says so.
            Err(Errno::OPNOTSUPP | Errno::OVERFLOW) => return self.look(dir, name),
            other => other?,
        };
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = statx(dir, name, flags, StatxFlags::BASIC_STATS)?;
        // Somebody may work on the backing directly all the same.
        if handle.inode_number() != Some(stat.stx_ino) {
            return self.look(dir, name);
        }
        self.same_device(&stat)?;
        Ok(Seen {
            fd: None,
            handle,
            stat,
        })
    }

    /// Looks at `name` in `dir` without following a symbolic link, and keeps a descriptor of it.
    pub(crate) fn look<P: rustix::path::Arg>(
        &self,
        dir: BorrowedFd<'_>,
        name: P,
    ) -> Result<Seen, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(dir, name, flags, Mode::empty())?;
        let stat = stat_of(fd.as_fd())?;
        self.same_device(&stat)?;
        let handle = self.handle_of(fd.as_fd(), &stat)?;
        Ok(Seen {
            fd: Some(Arc::new(fd)),
            handle,
            stat,
        })
    }

    fn same_device(&self, stat: &Statx) -> Result<(), Errno> {
        let device = (stat.stx_dev_major, stat.stx_dev_minor);
        if !self.detached && device != self.device {
            return Err(Errno::XDEV);
        }
        Ok(())
    }

    /// The handle of an inode, or a stand-in where the filesystem has none. A stand-in is as
    /// good while a descriptor of the inode is kept, which is the case in that mode.
    pub(crate) fn handle_of(&self, fd: BorrowedFd<'_>, stat: &Statx) -> Result<NodeHandle, Errno> {
        match sys::handle_of(fd) {
            Err(Errno::OPNOTSUPP | Errno::OVERFLOW) if self.handles.is_err() => {
                let mut bytes = stat.stx_ino.to_le_bytes().to_vec();
                bytes.extend(stat.stx_dev_major.to_le_bytes());
                bytes.extend(stat.stx_dev_minor.to_le_bytes());
                Ok(NodeHandle { kind: -1, bytes })
            }
            other => other,
        }
    }

    /// Opens an inode by its handle.
    pub(crate) fn open_handle(&self, handle: &NodeHandle, flags: i32) -> Result<OwnedFd, Errno> {
        sys::open_handle(self.root(), handle, flags | libc::O_NONBLOCK)
    }
}

/// Opens the inode behind an `O_PATH` descriptor for I/O, without blocking on leases.
pub(crate) fn reopen(fd: BorrowedFd<'_>, flags: i32) -> Result<OwnedFd, Errno> {
    let flags = OFlags::from_bits_retain(flags as u32) | OFlags::NONBLOCK | OFlags::CLOEXEC;
    openat(CWD, proc_path(fd), flags, Mode::empty())
}

/// The path through which calls without an `*at` form reach a descriptor's inode.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// All that `stat` shows of an open inode.
pub(crate) fn stat_of(fd: BorrowedFd<'_>) -> Result<Statx, Errno> {
    statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
}

fn probe_handles(root: BorrowedFd<'_>) -> Result<(), String> {
    let handle = sys::handle_of(root)
        .map_err(|e| format!("the backing filesystem has no file handles ({e})"))?;
    sys::open_handle(root, &handle, libc::O_PATH)
        .map(drop)
        .map_err(|e| format!("file handles may not be opened ({e}); needs CAP_DAC_READ_SEARCH"))
}
