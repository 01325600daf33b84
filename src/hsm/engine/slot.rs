//! A configured tier, and what a copy on it is worth: one that goes together with the backing, or
//! with the power, protects nothing and is no proof for a release (P3).

use crate::hsm::backing::Backing;
use crate::id::TierId;
use crate::tier::{Root, Tier};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

/// `f_type` of the filesystems in memory: tmpfs, ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58F6];

/// Why copies on a tier count for nothing where a file's blocks are to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Weakness {
    /// It lies on the backing's own filesystem (or subvolume, or pool).
    SameFilesystem,
    /// It lies on another partition of the backing's own disk.
    SameDisk,
    /// It lies in memory.
    Volatile,
}

impl Weakness {
    /// The word in status and configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SameFilesystem => "same-filesystem",
            Self::SameDisk => "same-disk",
            Self::Volatile => "volatile",
        }
    }
}

impl std::fmt::Display for Weakness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::SameFilesystem => {
                "lies on the backing's own filesystem: it frees no space, protects nothing"
            }
            Self::SameDisk => {
                "lies on the backing's own disk, and goes with it: it protects nothing"
            }
            Self::Volatile => "lies in memory, and goes with the power: it protects nothing",
        })
    }
}

/// A configured tier.
pub struct Slot {
    /// Its name in configuration.
    pub name: String,
    /// Its number.
    pub id: TierId,
    /// Where it is, without secrets.
    pub url: String,
    /// The tier, with its wrappers.
    pub tier: Arc<dyn Tier>,
    /// What was found on the device on which it was last seen: it may come back on another.
    found: Mutex<Option<(u64, Option<Weakness>)>>,
}

impl Slot {
    /// A tier under a name.
    #[must_use]
    pub fn new(name: String, id: TierId, url: String, tier: Arc<dyn Tier>) -> Self {
        Self {
            name,
            id,
            url,
            tier,
            found: Mutex::new(None),
        }
    }

    /// What makes its copies worthless beside this backing. `None`: nothing is known to, also of a
    /// tier that was never seen since the start (none of its copies can be proven then).
    #[must_use]
    pub fn weakness(&self, backing: &Backing) -> Option<Weakness> {
        let root = self.tier.describe().root?;
        let device = root.dev?;
        let mut found = self.found.lock();
        if let Some((at, known)) = *found
            && at == device
        {
            return known;
        }
        match look(backing, &root, device) {
            Some(known) => {
                *found = Some((device, known));
                known
            }
            // It went at this very moment.
            None => None,
        }
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot")
            .field("name", &self.name)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// `None`: it cannot be looked at now, or another filesystem lies over it.
fn look(backing: &Backing, root: &Root, device: u64) -> Option<Option<Weakness>> {
    let own = backing.stat(backing.root()).ok()?.dev;
    if own == device {
        return Some(Some(Weakness::SameFilesystem));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&root.path, flags, Mode::empty()).ok()?;
    if rustix::fs::fstat(&fd).ok()?.st_dev != device {
        return None;
    }
    #[allow(clippy::cast_sign_loss, reason = "a magic number is a bit pattern")]
    let magic = rustix::fs::fstatfs(&fd).ok()?.f_type as u64 & 0xFFFF_FFFF;
    if IN_MEMORY.contains(&magic) {
        return Some(Some(Weakness::Volatile));
    }
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts = mount_of(&table, backing.root()).zip(mount_of(&table, fd.as_fd()));
    Some(mounts.and_then(|(ours, theirs)| shared(&ours, &theirs)))
}

/// Where a filesystem comes from.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    kind: String,
    source: String,
}

fn mount_of(table: &str, fd: BorrowedFd<'_>) -> Option<Mount> {
    let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    mount_numbered(table, stat.stx_mnt_id)
}

/// A line of `mountinfo`: number first; behind the dash, kind and source.
fn mount_numbered(table: &str, number: u64) -> Option<Mount> {
    let number = number.to_string();
    let line = table
        .lines()
        .find(|line| line.split(' ').next() == Some(number.as_str()))?;
    let mut behind = line.split_once(" - ")?.1.split(' ');
    Some(Mount {
        kind: behind.next()?.to_owned(),
        source: behind.next()?.to_owned(),
    })
}

/// Two mounts of different device numbers that fail together all the same.
fn shared(ours: &Mount, theirs: &Mount) -> Option<Weakness> {
    let pool = |mount: &Mount| mount.source.split('/').next().map(str::to_owned);
    let same = match (ours.kind.as_str(), theirs.kind.as_str()) {
        // Subvolumes and datasets have device numbers of their own.
        ("btrfs", "btrfs") => ours.source == theirs.source,
        ("zfs", "zfs") => pool(ours) == pool(theirs),
        _ => false,
    };
    if same {
        return Some(Weakness::SameFilesystem);
    }
    let disks = disk_of(&ours.source).zip(disk_of(&theirs.source));
    disks
        .is_some_and(|(ours, theirs)| ours == theirs)
        .then_some(Weakness::SameDisk)
}

/// The whole disk that a block device is (a partition of). What is made of several devices, or of
/// a file, is taken for a disk of its own: what lies below it cannot be told apart here.
fn disk_of(source: &str) -> Option<std::path::PathBuf> {
    let rdev = std::fs::metadata(Path::new(source).canonicalize().ok()?).ok()?;
    let rdev = std::os::unix::fs::MetadataExt::rdev(&rdev);
    if rdev == 0 || !source.starts_with('/') {
        return None;
    }
    let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    let entry = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
    let entry = entry.canonicalize().ok()?;
    if entry.join("partition").exists() {
        entry.parent().map(Path::to_owned)
    } else {
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
23 1 0:21 /vol /srv/a rw,relatime shared:1 - btrfs /dev/sdx1 rw,subvol=/vol
24 1 0:22 /other /srv/b rw,relatime - btrfs /dev/sdx1 rw
25 1 0:23 / /srv/c rw - zfs tank/home rw
26 1 0:24 / /srv/d rw shared:3 master:2 - zfs tank/tape rw
27 1 0:25 / /srv/e rw - zfs rust/tape rw
28 1 0:26 / /srv/f rw - nfs4 server:/export rw
";

    #[test]
    fn subvolumes_and_datasets_fail_with_their_pool() {
        let at = |number| mount_numbered(TABLE, number).unwrap();
        assert_eq!(at(23).source, "/dev/sdx1");
        assert_eq!(shared(&at(23), &at(24)), Some(Weakness::SameFilesystem));
        assert_eq!(shared(&at(25), &at(26)), Some(Weakness::SameFilesystem));
        assert_eq!(shared(&at(25), &at(27)), None);
        assert_eq!(shared(&at(23), &at(28)), None);
        assert_eq!(mount_numbered(TABLE, 2), None);
    }
}
