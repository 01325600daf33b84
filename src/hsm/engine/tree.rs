//! Looking at the backing's tree: directories listed in order, nodes looked at, the catalog told.

use super::Shared;
use crate::catalog::{self, Durability, FileKind, NodeId, Sighting};
use crate::hsm::backing::{Backing, BackingError, FileStat, How, NodeKind};
use crate::id::NodeHandle;
use rustix::fs::{Mode, OFlags};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// How many entries are looked at (and held open) at once.
pub(in crate::hsm) const CHUNK: usize = 256;

/// An inode that was looked at.
#[derive(Debug)]
pub(in crate::hsm) struct Looked {
    pub(in crate::hsm) name: Vec<u8>,
    pub(in crate::hsm) fd: OwnedFd,
    pub(in crate::hsm) handle: NodeHandle,
    pub(in crate::hsm) stat: FileStat,
}

/// Names in a directory in the order of their bytes, without `.` and `..`.
pub(in crate::hsm) fn names(
    backing: &Backing,
    directory: BorrowedFd<'_>,
) -> Result<Vec<Vec<u8>>, BackingError> {
    let readable = backing.reopen(directory, How::Read)?;
    let fail = |why: rustix::io::Errno| BackingError::of("list", || "a directory".to_owned(), why);
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(readable).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Looks at one name; `None` if it went meanwhile, or if another filesystem is mounted there.
pub(in crate::hsm) fn look_at(
    backing: &Backing,
    directory: BorrowedFd<'_>,
    name: &[u8],
    device: u64,
) -> Result<Option<Looked>, BackingError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(directory, OsStr::from_bytes(name), flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(why) => {
            let object = || String::from_utf8_lossy(name).into_owned();
            return Err(BackingError::of("look at", object, why));
        }
    };
    let stat = backing.stat(fd.as_fd())?;
    if stat.dev != device {
        return Ok(None);
    }
    let handle = backing.handle_of(fd.as_fd())?;
    Ok(Some(Looked {
        name: name.to_vec(),
        fd,
        handle,
        stat,
    }))
}

/// The catalog's words for what `statx` said.
pub(super) fn attributes(stat: &FileStat) -> catalog::Attributes {
    catalog::Attributes {
        kind: match stat.kind {
            NodeKind::Regular => FileKind::Regular,
            NodeKind::Directory => FileKind::Directory,
            NodeKind::Symlink => FileKind::Symlink,
            NodeKind::Fifo | NodeKind::Socket | NodeKind::CharDevice | NodeKind::BlockDevice => {
                FileKind::Special
            }
        },
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        size: stat.size,
        blocks: stat.blocks,
        nlink: stat.nlink,
        mtime: stat.mtime,
        ctime: stat.ctime,
        atime: stat.atime,
    }
}

/// A sighting under a name.
pub(super) fn sighting(looked: &Looked, parent: NodeId) -> Sighting {
    Sighting {
        handle: looked.handle.clone(),
        attributes: attributes(&looked.stat),
        place: Some((parent, looked.name.clone())),
    }
}

/// The root of the backing, which is what every path in the catalog hangs on: before anything is
/// asked for, and again when a scan begins.
pub(super) fn note_root(shared: &Shared) -> Result<NodeHandle, super::EngineError> {
    let backing = &shared.backing;
    let handle = backing.handle_of(backing.root())?;
    shared
        .catalog
        .set_root(&handle, attributes(&backing.stat(backing.root())?))?;
    Ok(handle)
}

/// A directory that could not be followed up to the root.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unplaced {
    #[error(transparent)]
    Backing(#[from] BackingError),
    #[error(transparent)]
    Catalog(#[from] catalog::CatalogError),
    #[error("it lies deeper than {0} directories")]
    Deep(usize),
}

/// Depth at which following a directory upwards gives up: a circle, or not ours.
const DEEPEST: usize = 4096;

/// The catalog's number of a directory, noting it and those above it that are not yet known.
pub(super) fn ensure_directory(shared: &Shared, handle: &NodeHandle) -> Result<NodeId, Unplaced> {
    if let Some(known) = shared.catalog.node_by_handle(handle)?
        && (known.id == NodeId::ROOT || shared.catalog.path_of(known.id)?.is_some())
    {
        return Ok(known.id);
    }
    let backing = &shared.backing;
    let hint = hint(shared, handle)?;
    let mut at = backing.open_node(handle, hint.as_deref(), How::Path)?;
    let mut below = Vec::new();
    let mut parent = loop {
        let here = backing.handle_of(at.as_fd())?;
        if let Some(known) = shared.catalog.node_by_handle(&here)?
            && (known.id == NodeId::ROOT
                || !below.is_empty() && shared.catalog.path_of(known.id)?.is_some())
        {
            break known.id;
        }
        if below.len() > DEEPEST {
            return Err(Unplaced::Deep(DEEPEST));
        }
        let path = backing.path_of(at.as_fd())?;
        let name = path.rsplit(|b| *b == b'/').next().unwrap_or(&path).to_vec();
        let stat = backing.stat(at.as_fd())?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let up = rustix::fs::openat(&at, c"..", flags, Mode::empty())
            .map_err(|why| BackingError::of("look above", || "a directory".to_owned(), why))?;
        below.push(Looked {
            name,
            fd: std::mem::replace(&mut at, up),
            handle: here,
            stat,
        });
    };
    while let Some(looked) = below.pop() {
        let noted = shared
            .catalog
            .note(vec![sighting(&looked, parent)], Durability::Relaxed)?;
        parent = noted.first().copied().unwrap_or(parent);
    }
    Ok(parent)
}

/// A path under which a node can be found where handles cannot be opened; `None` if there is none
/// or none is needed.
pub(super) fn hint(
    shared: &Shared,
    handle: &NodeHandle,
) -> Result<Option<Vec<u8>>, catalog::CatalogError> {
    if shared.backing.access() == crate::hsm::backing::Access::Handles {
        return Ok(None);
    }
    match shared.catalog.node_by_handle(handle)? {
        Some(node) => shared.catalog.path_of(node.id),
        None => Ok(None),
    }
}

/// A present name of a node that the catalog knows no name of, as the kernel tells it.
pub(super) fn present_name(shared: &Shared, handle: &NodeHandle) -> Vec<Vec<u8>> {
    let found = shared
        .backing
        .open_node(handle, None, How::Path)
        .and_then(|fd| shared.backing.path_of(fd.as_fd()));
    found.into_iter().collect()
}
