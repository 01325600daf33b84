//! Where things lie in a tier's directory, and how directories are made to last.
//!
//! ```text
//! ROOT/cairn-tier.json                                     the mark
//! ROOT/incoming/e0000002a-000000000017.812-1f....part      being written
//! ROOT/aggregates/e0000002a/00000000/00/e0000002a-000000000017.tar
//!                 epoch     seq >> 16  seq >> 8 & 255
//! ```
//! So a lowest directory holds at most 256 objects, one above it at most 256 directories, and an
//! epoch's 1000 directories come only with its 65 millionth object.

use crate::id::AggregateId;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The mark's file.
pub(super) const MARK: &str = "cairn-tier.json";
/// The directory of objects being written.
pub(super) const INCOMING: &str = "incoming";
/// The directory of objects.
pub(super) const AGGREGATES: &str = "aggregates";
/// Users' bytes: for the owner alone.
pub(super) const DIR_MODE: Mode = Mode::RWXU;

/// The three directories of an object below [`AGGREGATES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Shard {
    pub(super) epoch: u32,
    pub(super) group: u64,
    pub(super) leaf: u8,
}

impl Shard {
    pub(super) fn of(name: AggregateId) -> Self {
        let [.., leaf, _] = name.seq.to_be_bytes();
        Self {
            epoch: name.epoch,
            group: name.seq >> 16,
            leaf,
        }
    }

    pub(super) fn names(self) -> [String; 3] {
        [
            format!("e{:08x}", self.epoch),
            format!("{:08x}", self.group),
            format!("{:02x}", self.leaf),
        ]
    }
}

/// Name of an object's file.
pub(super) fn file_name(name: AggregateId) -> String {
    format!("{name}.tar")
}

/// Where an object lies below the root of its tier.
#[must_use]
pub fn object_path(root: &Path, name: AggregateId) -> PathBuf {
    let mut path = root.join(AGGREGATES);
    path.extend(Shard::of(name).names());
    path.push(file_name(name));
    path
}

/// The object whose file has this name, if it is one.
pub(super) fn parse_file(name: &[u8]) -> Option<AggregateId> {
    std::str::from_utf8(name)
        .ok()?
        .strip_suffix(".tar")?
        .parse()
        .ok()
}

/// Opens a directory below another, without following a link.
pub(super) fn open_dir(at: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

/// Opens the directory of an object.
pub(super) fn open_shard(root: impl AsFd, name: AggregateId) -> io::Result<OwnedFd> {
    let mut dir = open_dir(root, AGGREGATES)?;
    for part in Shard::of(name).names() {
        dir = open_dir(&dir, &part)?;
    }
    Ok(dir)
}

/// Makes and opens the directory of an object; when this returns, the way to it is durable, also
/// through directories that a process made which died before it could fsync.
pub(super) fn make_shard(root: impl AsFd, name: AggregateId) -> io::Result<OwnedFd> {
    let mut dir = open_dir(root, AGGREGATES)?;
    for part in Shard::of(name).names() {
        make_dir(&dir, &part)?;
        sync_dir(&dir)?;
        dir = open_dir(&dir, &part)?;
    }
    Ok(dir)
}

/// Makes a directory unless it is there.
pub(super) fn make_dir(at: impl AsFd, name: &str) -> io::Result<()> {
    match rustix::fs::mkdirat(at, name, DIR_MODE) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Makes a directory's entries durable.
pub(super) fn sync_dir(dir: impl AsFd) -> io::Result<()> {
    match rustix::fs::fsync(dir) {
        // Some network filesystems keep entries synchronously and know no fsync of a directory.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_shards() {
        let name = AggregateId {
            epoch: 0x2a,
            seq: 0x1_2345_6789,
        };
        assert_eq!(Shard::of(name).names(), ["e0000002a", "00012345", "67"]);
        assert_eq!(parse_file(file_name(name).as_bytes()), Some(name));
        for foreign in [
            "",
            ".tar",
            "notes.tar",
            "e0000002a-000000000017",
            "\u{e4}.tar",
        ] {
            assert_eq!(parse_file(foreign.as_bytes()), None, "{foreign}");
        }
    }
}
