//! What a listing says of one name.
//!
//! Invariant: a file's data are said to be on tiers only if its own record, or the catalog, says so
//! of what lies there now; what changed since is said to be an older version.

use super::SnapshotError;
use crate::catalog::{CopyState, FileState, Met};
use crate::format::namespace::{Attributes, Data, Entry, Inode, InodeKind, What};
use crate::format::record::{CopyHint, Record, State};
use crate::hsm::backing::{Backing, BackingError, FileStat, NodeKind, belongs_to, shown_ctime};
use crate::hsm::engine::tree::Looked;
use crate::id::{FileId, NodeHandle};
use std::os::fd::AsFd;

/// Copies that are told of one file.
const COPIES: usize = 16;

/// What is known of files beside their records: the catalog.
pub trait Knows: Sync {
    /// Of each node, in the same order.
    ///
    /// # Errors
    /// It cannot be read.
    fn meet(&self, nodes: &[&NodeHandle]) -> Result<Vec<Option<Met>>, SnapshotError>;
}

impl Knows for crate::catalog::Catalog {
    fn meet(&self, nodes: &[&NodeHandle]) -> Result<Vec<Option<Met>>, SnapshotError> {
        Self::meet(self, nodes, 1).map_err(|why| SnapshotError::Knows(why.into()))
    }
}

/// A directory's or any other inode's attributes, as users see them.
pub(super) fn attributes(
    backing: &Backing,
    fd: impl AsFd,
    stat: &FileStat,
    record: Option<&Record>,
) -> Result<Attributes, BackingError> {
    let stub = record.filter(|r| r.state != State::Resident);
    Ok(Attributes {
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        mtime: stub.map_or(stat.mtime, |r| r.mtime),
        atime: stat.atime,
        ctime: match stub {
            // Its ctime is that of the writes of a recall.
            Some(record) if record.state == State::Recalling => record.user_ctime,
            _ => shown_ctime(record, stat.ctime),
        },
        xattrs: backing.attributes(fd.as_fd())?,
    })
}

/// The entry of a name.
pub(super) fn entry(
    backing: &Backing,
    looked: &Looked,
    met: Option<&Met>,
) -> Result<Entry, BackingError> {
    let name = looked.name.clone();
    let stat = &looked.stat;
    if stat.kind == NodeKind::Directory {
        return Ok(Entry {
            name,
            what: What::Directory(looked.handle.clone()),
        });
    }
    let regular = stat.kind == NodeKind::Regular;
    let record = if regular {
        backing.record(looked.fd.as_fd())?
    } else {
        None
    };
    let own = record
        .as_ref()
        .filter(|r| belongs_to(r, backing.fs(), &looked.handle));
    let (major, minor) = stat.rdev;
    let kind = match stat.kind {
        NodeKind::Regular | NodeKind::Directory => InodeKind::File {
            size: own
                .filter(|r| r.state == State::Recalling)
                .map_or(stat.size, |r| r.size),
            data: data(record.as_ref(), own, met, stat),
        },
        NodeKind::Symlink => {
            let target = rustix::fs::readlinkat(&looked.fd, c"", Vec::new()).map_err(|why| {
                let object = || String::from_utf8_lossy(&looked.name).into_owned();
                BackingError::of("read the link", object, why)
            })?;
            InodeKind::Symlink(target.into_bytes())
        }
        NodeKind::Fifo => InodeKind::Fifo,
        NodeKind::Socket => InodeKind::Socket,
        NodeKind::CharDevice => InodeKind::CharDevice(major, minor),
        NodeKind::BlockDevice => InodeKind::BlockDevice(major, minor),
    };
    Ok(Entry {
        name,
        what: What::Other(Inode {
            kind,
            attributes: attributes(backing, &looked.fd, stat, own)?,
            linked: (stat.nlink > 1).then(|| looked.handle.clone()),
        }),
    })
}

/// The version of the file's data that is on tiers, if there is one.
fn data(
    record: Option<&Record>,
    own: Option<&Record>,
    met: Option<&Met>,
    stat: &FileStat,
) -> Option<Data> {
    let state = met.map_or(FileState::None, |m| m.node.state);
    if let Some(known) = met
        && newer_than_its_record(known, own, stat)
    {
        return of_catalog(known, stat);
    }
    match (own, record) {
        (Some(own), _) => {
            let same = (stat.size, stat.mtime) == (own.size, own.mtime);
            let stale = own.state == State::Resident && (!same || state == FileState::Dirty);
            Some(Data {
                older: stale.then_some((own.size, own.mtime)),
                ..of_record(own, met)
            })
        }
        // A stub that was copied and not yet read: it would be adopted under an identity of its own.
        (None, Some(foreign)) if foreign.state != State::Resident => Some(Data {
            file: FileId::random(),
            ..of_record(foreign, None)
        }),
        (None, _) => met.and_then(|met| of_catalog(met, stat)),
    }
}

/// The catalog knows a later version of what lies there: writing its record failed.
fn newer_than_its_record(met: &Met, own: Option<&Record>, stat: &FileStat) -> bool {
    let (Some(own), Some(version), Some(proven)) = (own, met.node.version, met.node.proven) else {
        return false;
    };
    met.node.state == FileState::Archived
        && version.file == own.file
        && version.version > own.version
        && (proven.size, proven.ctime) == (stat.size, stat.ctime)
}

fn of_record(record: &Record, met: Option<&Met>) -> Data {
    let mut copies = record.copies.clone();
    let version = met.and_then(|m| m.node.version);
    if let Some(met) = met
        && version.is_some_and(|v| (v.file, v.version) == (record.file, record.version))
    {
        for copy in good_copies(met) {
            let same = |c: &CopyHint| (c.tier, c.aggregate) == (copy.tier, copy.aggregate);
            if !copies.iter().any(same) && copies.len() < COPIES {
                copies.push(copy);
            }
        }
    }
    Data {
        file: record.file,
        version: record.version,
        crc: record.crc,
        blocks_crc: record.blocks_crc,
        older: None,
        copies,
    }
}

fn good_copies(met: &Met) -> impl Iterator<Item = CopyHint> {
    let good = met.copies.iter().filter(|c| c.state == CopyState::Good);
    good.map(|c| CopyHint {
        tier: c.tier,
        aggregate: c.aggregate,
        header: c.header,
    })
}

/// Of a file without a record of its own.
fn of_catalog(met: &Met, stat: &FileStat) -> Option<Data> {
    let node = &met.node;
    let (version, proven) = (node.version?, node.proven?);
    let same = (proven.size, proven.ctime) == (stat.size, stat.ctime);
    let older = match node.state {
        FileState::None => return None,
        // Its stub is gone: what it was is on tiers.
        FileState::Released | FileState::Lost if proven.size == stat.size => None,
        FileState::Archived if same => None,
        _ => Some((proven.size, node.attributes.mtime)),
    };
    Some(Data {
        file: version.file,
        version: version.version,
        crc: version.crc,
        blocks_crc: version.blocks_crc,
        older,
        copies: good_copies(met).take(COPIES).collect(),
    })
}
