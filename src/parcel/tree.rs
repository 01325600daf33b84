//! A directory beneath which names are looked up, and nowhere else.
//!
//! Invariant: every lookup is anchored at the directory's descriptor, and the kernel itself refuses to leave it
//! (`openat2` with `RESOLVE_BENEATH`): by `..`, by absolute symbolic links, by links into `/proc`, or by a rename
//! meanwhile. A strict one goes through no symbolic link at all, and into no other filesystem: what comes from a server that
//! is not believed is written nowhere but in the directories that it stands for.

use super::layout::Time;
use lru::LruCache;
use parking_lot::Mutex;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// Directories kept open: files of one directory come one after the other.
const KEPT: NonZeroUsize = NonZeroUsize::new(32).expect("32 is not 0");

/// See the module.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    how: ResolveFlags,
    /// Directories by path.
    open: Mutex<LruCache<Vec<u8>, Arc<OwnedFd>>>,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub kind: FileType,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// When its data were changed last.
    pub modified: Time,
    /// When anything of it was changed last.
    pub changed: Time,
    /// Which inode.
    pub inode: u64,
    /// Blocks of 512 bytes on disk.
    pub blocks: u64,
    /// Its names.
    pub links: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// On which device it lies.
    pub device: (u32, u32),
}

impl Found {
    /// Whether the data are, as far as a look can tell, what they were.
    #[must_use]
    pub fn is_as(&self, earlier: &Self) -> bool {
        (self.inode, self.size, self.modified, self.changed)
            == (
                earlier.inode,
                earlier.size,
                earlier.modified,
                earlier.changed,
            )
    }

    /// A name for the state of the data, at most 64 bytes.
    #[must_use]
    pub fn version(&self) -> Vec<u8> {
        let mut bytes = self.inode.to_le_bytes().to_vec();
        bytes.extend(self.size.to_le_bytes());
        for time in [self.modified, self.changed] {
            bytes.extend(time.seconds.to_le_bytes());
            bytes.extend(time.nanos.to_le_bytes());
        }
        bytes
    }
}

impl From<Statx> for Found {
    fn from(stat: Statx) -> Self {
        let time = |t: rustix::fs::StatxTimestamp| Time {
            seconds: t.tv_sec,
            nanos: t.tv_nsec,
        };
        Self {
            kind: FileType::from_raw_mode(stat.stx_mode.into()),
            size: stat.stx_size,
            mode: u32::from(stat.stx_mode) & 0o7777,
            modified: time(stat.stx_mtime),
            changed: time(stat.stx_ctime),
            inode: stat.stx_ino,
            blocks: stat.stx_blocks,
            links: stat.stx_nlink,
            owner: (stat.stx_uid, stat.stx_gid),
            device: (stat.stx_dev_major, stat.stx_dev_minor),
        }
    }
}

/// A path's directory and its last name.
pub(super) fn split(path: &[u8]) -> (&[u8], &OsStr) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], OsStr::from_bytes(&path[at + 1..])),
        None => (b"", OsStr::from_bytes(path)),
    }
}

impl Tree {
    /// What lies below `root`.
    ///
    /// # Errors
    /// It is no directory, or cannot be entered.
    pub fn open(root: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self::at(rustix::fs::open(root, flags, Mode::empty())?))
    }

    /// The same, strict (see the module).
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn strict(root: &Path) -> io::Result<Self> {
        let mut tree = Self::open(root)?;
        tree.how |= ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        Ok(tree)
    }

    /// The same, of an open directory.
    #[must_use]
    pub fn at(root: OwnedFd) -> Self {
        Self {
            root,
            how: ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
            open: Mutex::new(LruCache::new(KEPT)),
        }
    }

    /// Its directory.
    pub fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Opens what lies at the path; `""` is the directory itself.
    ///
    /// # Errors
    /// As `openat2`; `EXDEV` where the path leads out.
    pub fn open_at(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        let path: &OsStr = OsStr::from_bytes(if path.is_empty() { b"." } else { path });
        loop {
            match rustix::fs::openat2(
                &self.root,
                path,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                self.how,
            ) {
                // Somebody renames beside it, and the kernel cannot tell whether that led out.
                Err(Errno::AGAIN) => {}
                other => return Ok(other?),
            }
        }
    }

    /// The directory at the path, open for lookups in it.
    pub(super) fn directory(&self, path: &[u8]) -> io::Result<Arc<OwnedFd>> {
        if let Some(found) = self.open.lock().get(path) {
            return Ok(Arc::clone(found));
        }
        let opened = Arc::new(self.open_at(path, OFlags::PATH | OFlags::DIRECTORY)?);
        self.open.lock().put(path.to_vec(), Arc::clone(&opened));
        Ok(opened)
    }

    /// What lies at the path; a symbolic link at its end is not followed.
    ///
    /// # Errors
    /// As `statx`.
    pub fn look(&self, path: &[u8]) -> io::Result<Found> {
        if path.is_empty() {
            return stat(self.root.as_fd());
        }
        let (parent, name) = split(path);
        let parent = self.directory(parent)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let wanted = StatxFlags::BASIC_STATS;
        Ok(rustix::fs::statx(&*parent, name, flags, wanted)?.into())
    }

    /// What lies at the path, or where a symbolic link there leads to.
    ///
    /// # Errors
    /// As `openat2`; `EXDEV` where it leads out.
    pub fn behind(&self, path: &[u8]) -> io::Result<Found> {
        stat(self.open_at(path, OFlags::PATH)?)
    }

    /// What a symbolic link says.
    ///
    /// # Errors
    /// As `readlinkat`.
    pub fn link(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        let (parent, name) = split(path);
        let parent = self.directory(parent)?;
        Ok(rustix::fs::readlinkat(&*parent, name, Vec::new())?.into_bytes())
    }

    /// The names in the directory, in order.
    ///
    /// # Errors
    /// As `openat2` and `getdents64`.
    pub fn names(&self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let directory = self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&directory)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// Of an open file.
pub(super) fn stat(fd: impl AsFd) -> io::Result<Found> {
    Ok(rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_outside_is_reached() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(top.path().join("in/sub")).unwrap();
        std::fs::write(top.path().join("secret"), "x").unwrap();
        std::fs::write(top.path().join("in/sub/file"), "y").unwrap();
        symlink("../../secret", top.path().join("in/sub/relative")).unwrap();
        symlink(top.path().join("secret"), top.path().join("in/absolute")).unwrap();
        symlink("sub", top.path().join("in/within")).unwrap();
        symlink("..", top.path().join("in/up")).unwrap();
        let tree = Tree::open(&top.path().join("in")).unwrap();
        for path in ["../secret", "sub/relative", "absolute", "up/secret"] {
            let error = tree.open_at(path.as_bytes(), OFlags::RDONLY).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EXDEV), "{path}");
        }
        let strict = Tree::strict(&top.path().join("in")).unwrap();
        assert!(strict.open_at(b"sub/file", OFlags::RDONLY).is_ok());
        let error = strict.open_at(b"within/file", OFlags::RDONLY).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
        assert!(tree.look(b"up/secret").is_err());
        assert_eq!(tree.look(b"within/file").unwrap().size, 1);
        assert_eq!(
            tree.names(b"sub").unwrap(),
            [b"file".to_vec(), b"relative".to_vec()]
        );
    }
}
