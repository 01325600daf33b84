//! The backing directory as the HSM sees it: nodes opened by handle, their facts, their record.
//!
//! Invariants:
//! - Nothing outside the root is opened: by handle only what a handle of this filesystem names, by
//!   path only with `openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)` and the handle compared.
//! - Opens never wait: `O_NONBLOCK` makes an open that would break somebody's lease fail instead.
//! - A record that is handed out was written by Cairn ([`record`]).

mod attributes;
mod digest;
mod error;
mod life;
mod mark;
mod privileges;
mod probe;
mod reach;
mod record;
mod stat;
pub(in crate::hsm) mod sys;
#[cfg(test)]
pub(in crate::hsm) mod tests;
mod touched;
mod turns;

pub use attributes::{Attributes, is_private};
pub use digest::ContentDigest;
pub use error::BackingError;
pub use life::life_of;
pub use mark::{FRESH_SECONDS, Mark, MarkGuard, this_boot};
pub use privileges::SetId;
pub(in crate::hsm) use privileges::{CAPABILITY, KEPT};
pub use probe::{Capabilities, Filesystem, Lacking};
pub use reach::Reach;
pub(in crate::hsm) use reach::guard_above;
pub use record::{RecordKeeping, SealKey, SetHow, belongs_to, shown_ctime};
pub use stat::{FileStat, NodeKind};
pub use turns::Turn;

use crate::format::member::Extent;
use crate::id::{FsUuid, NodeHandle};
use rustix::fs::{Mode, OFlags, ResolveFlags, SeekFrom};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// No value of an attribute that Cairn writes is longer: a record and a seal, with room to tell
/// a longer one.
const MAX_XATTR: usize = 512;

/// How a node is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// `O_PATH`: disturbs nobody, any type of inode.
    Path,
    /// For reading. Regular files and directories.
    Read,
    /// For reading and writing. Regular files.
    ReadWrite,
}

impl How {
    fn flags(self) -> OFlags {
        let common = OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match self {
            Self::Path => common | OFlags::PATH,
            Self::Read => common | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOATIME,
            Self::ReadWrite => common | OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOATIME,
        }
    }
}

/// How nodes are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `open_by_handle_at`.
    Handles,
    /// By a name that the caller knows, the handle compared: without CAP_DAC_READ_SEARCH.
    Paths,
}

/// The backing directory, probed and open.
#[derive(Debug)]
pub struct Backing {
    root: OwnedFd,
    root_path: PathBuf,
    fs: FsUuid,
    access: Access,
    keeping: RecordKeeping,
    capabilities: Capabilities,
    turns: turns::Turns,
    touched: touched::Touched,
}

/// What to call an inode in a message when no path is at hand.
pub(in crate::hsm) fn describe(fd: BorrowedFd<'_>) -> String {
    std::fs::read_link(record::through_proc(fd)).map_or_else(
        |_| format!("descriptor {}", fd.as_raw_fd()),
        |p| p.display().to_string(),
    )
}

impl Backing {
    /// Opens and probes the directory `root`. `seal` is needed where `trusted.*` attributes are
    /// not permitted. Leaves nothing behind in the directory.
    ///
    /// # Errors
    /// What opening or probing met; [`BackingError::NoSealKey`].
    pub fn open(root: &Path, fs: FsUuid, seal: Option<SealKey>) -> Result<Self, BackingError> {
        let name = || root.display().to_string();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(root, flags, Mode::empty())
            .map_err(|why| BackingError::of("open", name, why))?;
        let root_path = std::fs::read_link(record::through_proc(fd.as_fd()))
            .map_err(|why| BackingError::of("find the path of", name, why))?;
        let found = probe::probe(fd.as_fd())?;
        let keeping = match (found.trusted, seal) {
            (true, _) => RecordKeeping::Trusted,
            (false, Some(key)) => RecordKeeping::Sealed(key),
            (false, None) => return Err(BackingError::NoSealKey),
        };
        Ok(Self {
            root: fd,
            root_path,
            fs,
            access: found.access,
            keeping,
            capabilities: found.capabilities,
            turns: turns::Turns::default(),
            touched: touched::Touched::default(),
        })
    }

    /// Identity of the filesystem.
    #[must_use]
    pub fn fs(&self) -> FsUuid {
        self.fs
    }

    /// What the filesystem can do.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The administrator declares that no other host has the filesystem mounted (P10).
    pub fn declare_only_host(&mut self) {
        self.capabilities.declare_only_host();
    }

    /// How nodes are found.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Where records are kept.
    #[must_use]
    pub fn keeping(&self) -> &RecordKeeping {
        &self.keeping
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens the node. By handle where that is permitted; else by walking `hint`, a path relative
    /// to the root, without following links, and comparing handles.
    ///
    /// # Errors
    /// [`BackingError::Gone`] if the inode is not there any more, [`BackingError::Busy`] if the
    /// open would have to wait, [`BackingError::Unnamed`] if a name is needed and none was given.
    pub fn open_node(
        &self,
        node: &NodeHandle,
        hint: Option<&[u8]>,
        how: How,
    ) -> Result<OwnedFd, BackingError> {
        let object = || {
            hint.map_or_else(
                || format!("{node:?}"),
                |h| String::from_utf8_lossy(h).into_owned(),
            )
        };
        let fail = |why| BackingError::of("open", object, why);
        let path = match self.access {
            Access::Handles => {
                sys::open_by_handle(self.root.as_fd(), node, How::Path.flags()).map_err(fail)?
            }
            Access::Paths => {
                let hint = hint.ok_or_else(|| BackingError::Unnamed { object: object() })?;
                let path = self.open_beneath(hint)?;
                if self.handle_of(path.as_fd())? != *node {
                    return Err(BackingError::Gone {
                        step: "find",
                        object: object(),
                    });
                }
                path
            }
        };
        if how == How::Path {
            Ok(path)
        } else {
            self.reopen(path.as_fd(), how)
        }
    }

    /// Opens the inode behind `fd` (an `O_PATH` descriptor, say) once more. Other inodes than
    /// regular files and directories are refused: opening a device or a pipe has effects.
    ///
    /// # Errors
    /// [`BackingError::Busy`] if the open would have to wait.
    pub fn reopen(&self, fd: BorrowedFd<'_>, how: How) -> Result<OwnedFd, BackingError> {
        let fail = |why: io::Error| BackingError::of("open", || describe(fd), why);
        if !matches!(self.stat(fd)?.kind, NodeKind::Regular | NodeKind::Directory) {
            return Err(fail(io::Error::from_raw_os_error(libc::EINVAL)));
        }
        let (path, flags) = (record::through_proc(fd), how.flags() & !OFlags::NOFOLLOW);
        let open = |flags| rustix::fs::open(&path, flags, Mode::empty());
        match open(flags) {
            // Somebody else's file, and no CAP_FOWNER.
            Err(rustix::io::Errno::PERM) => open(flags & !OFlags::NOATIME),
            done => done,
        }
        .map_err(|why| fail(why.into()))
    }

    /// An `O_PATH` descriptor of what has the name `path` (relative to the root; empty: the root
    /// itself) at this moment. No link is followed, nothing outside the root is reached.
    ///
    /// # Errors
    /// [`BackingError::Gone`], or what the walk met.
    pub fn open_beneath(&self, path: &[u8]) -> Result<OwnedFd, BackingError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let object = || String::from_utf8_lossy(path).into_owned();
        let fail = |why| BackingError::of("walk to", object, why);
        let (parent, name) = match path.iter().rposition(|b| *b == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b""[..], path),
        };
        let mut dir = None;
        // In steps, because a path may be longer than PATH_MAX.
        for part in parent.split(|b| *b == b'/').filter(|p| !p.is_empty()) {
            let from = dir.as_ref().map_or(self.root.as_fd(), OwnedFd::as_fd);
            let part = OsStr::from_bytes(part);
            let next = flags | OFlags::DIRECTORY;
            dir =
                Some(rustix::fs::openat2(from, part, next, Mode::empty(), resolve).map_err(fail)?);
        }
        let from = dir.as_ref().map_or(self.root.as_fd(), OwnedFd::as_fd);
        let name = if name.is_empty() {
            OsStr::new(".")
        } else {
            OsStr::from_bytes(name)
        };
        // With O_PATH | O_NOFOLLOW a link as the last component is opened itself.
        rustix::fs::openat2(from, name, flags, Mode::empty(), resolve).map_err(fail)
    }

    /// The handle of an open inode.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn handle_of(&self, fd: BorrowedFd<'_>) -> Result<NodeHandle, BackingError> {
        handle_of(fd)
    }

    /// One name that the inode has at this moment, relative to the root. The name is verified: it
    /// leads to this inode without leaving the root.
    ///
    /// # Errors
    /// [`BackingError::Unnamed`] if the kernel knows none (a cold inode opened by handle, a deleted
    /// file, a file outside the root).
    pub fn path_of(&self, fd: BorrowedFd<'_>) -> Result<Vec<u8>, BackingError> {
        let unnamed = || BackingError::Unnamed {
            object: describe(fd),
        };
        let path = std::fs::read_link(record::through_proc(fd))
            .map_err(|why| BackingError::of("find the path of", || describe(fd), why))?;
        let path = path.strip_prefix(&self.root_path).map_err(|_| unnamed())?;
        let path = path.as_os_str().as_bytes().to_vec();
        if self.is_name_of(&path, &self.handle_of(fd)?)? {
            Ok(path)
        } else {
            Err(unnamed())
        }
    }

    /// Does `path` (relative to the root) lead to `node` at this moment?
    ///
    /// # Errors
    /// What the walk met, other than that there is no such name.
    pub fn is_name_of(&self, path: &[u8], node: &NodeHandle) -> Result<bool, BackingError> {
        match self.open_beneath(path) {
            Ok(found) => Ok(self.handle_of(found.as_fd())? == *node),
            Err(BackingError::Gone { .. }) => Ok(false),
            Err(BackingError::Io { source, .. })
                if matches!(
                    source.raw_os_error(),
                    Some(libc::ENOTDIR | libc::ELOOP | libc::EXDEV | libc::ENAMETOOLONG)
                ) =>
            {
                Ok(false)
            }
            Err(why) => Err(why),
        }
    }

    /// The inode's facts.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn stat(&self, fd: BorrowedFd<'_>) -> Result<FileStat, BackingError> {
        stat_of(fd)
    }

    /// The data runs of a regular file (open for reading), ascending, disjoint, not touching.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn extents(&self, fd: BorrowedFd<'_>) -> Result<Vec<Extent>, BackingError> {
        data_runs(fd)
    }

    /// Does the regular file (open for reading) have any data run?
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn has_data(&self, fd: BorrowedFd<'_>) -> Result<bool, BackingError> {
        seek(fd, SeekFrom::Data(0))
            .map(|found| found.is_some())
            .map_err(|why| BackingError::of("map the extents of", || describe(fd), why))
    }
}

fn data_runs(fd: BorrowedFd<'_>) -> Result<Vec<Extent>, BackingError> {
    let fail = |why| BackingError::of("map the extents of", || describe(fd), why);
    let (mut runs, mut at) = (Vec::<Extent>::new(), 0_u64);
    while let Some(start) = seek(fd, SeekFrom::Data(at)).map_err(fail)? {
        let Some(end) = seek(fd, SeekFrom::Hole(start)).map_err(fail)? else {
            break;
        };
        if end <= start {
            break;
        }
        match runs.last_mut() {
            Some(last) if last.offset + last.len == start => last.len += end - start,
            _ => runs.push(Extent {
                offset: start,
                len: end - start,
            }),
        }
        at = end;
    }
    Ok(runs)
}

/// Bytes of data before `size` of a regular file (open for reading): what was written, not what was
/// allocated. All of them, or at least `enough`.
pub(in crate::hsm) fn data_bytes(
    fd: BorrowedFd<'_>,
    size: u64,
    enough: u64,
) -> Result<u64, BackingError> {
    let fail = |why| BackingError::of("map the extents of", || describe(fd), why);
    if let Some(written) = sys::written_bytes(fd, size, enough).map_err(fail)? {
        return Ok(written);
    }
    let within = |run: &Extent| (run.offset + run.len).min(size).saturating_sub(run.offset);
    Ok(data_runs(fd)?.iter().map(within).sum())
}

/// [`Backing::handle_of`], where no backing is open.
pub(in crate::hsm) fn handle_of(fd: BorrowedFd<'_>) -> Result<NodeHandle, BackingError> {
    sys::name_to_handle(fd)
        .map_err(|why| BackingError::of("get the handle of", || describe(fd), why))
}

/// [`Backing::stat`], where no backing is open.
pub(in crate::hsm) fn stat_of(fd: BorrowedFd<'_>) -> Result<FileStat, BackingError> {
    FileStat::of(fd).map_err(|why| BackingError::of("stat", || describe(fd), why))
}

/// Opens a path, where no backing is open. A link at its end is not followed.
pub(in crate::hsm) fn open_alone(path: &Path, flags: OFlags) -> Result<OwnedFd, BackingError> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|why| BackingError::of("open", || path.display().to_string(), why))
}

/// `lseek` for data or holes; `None` past the last run.
fn seek(fd: BorrowedFd<'_>, to: SeekFrom) -> Result<Option<u64>, rustix::io::Errno> {
    match rustix::fs::seek(fd, to) {
        Ok(at) => Ok(Some(at)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(why) => Err(why),
    }
}
