//! P7: can users go around the mount?
//!
//! Release is enabled only where they cannot: somewhere from the backing's root upward (the root
//! itself included) there is a directory that only its owner may enter, and the owner is root or
//! who runs Cairn. A search bit for group or others, or an ACL that could give one, opens it: the
//! group bits of a directory with an ACL are its mask, so an ACL never hides behind mode 0700.
//! The same holds for every other place of this mount namespace at which the same directory is
//! mounted once more. What other namespaces show is beyond what can be seen from here.

use super::{Backing, BackingError, FileStat, describe};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Who can get at the backing without the mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Only root or who runs Cairn: this directory stops everybody else.
    Guarded {
        /// The directory that guards.
        by: String,
    },
    /// Users may come in by path: stubs would read as zeros.
    Open,
}

impl Backing {
    /// Walks from the root directory up, at every place where it is mounted, and looks for a
    /// directory that guards it.
    ///
    /// # Errors
    /// What the walk met.
    pub fn users_can_reach(&self) -> Result<Reach, BackingError> {
        let reach = guard_above(self.root())?;
        if reach == Reach::Open {
            return Ok(reach);
        }
        let own = self.stat(self.root())?;
        for place in self.other_places() {
            // What cannot be opened, or is another directory (mounted over), leads nobody here.
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let Ok(fd) = rustix::fs::open(&place, flags, Mode::empty()) else {
                continue;
            };
            let found = self.stat(fd.as_fd())?;
            let same = (found.dev, found.ino) == (own.dev, own.ino);
            if same && guard_above(fd.as_fd())? == Reach::Open {
                return Ok(Reach::Open);
            }
        }
        Ok(reach)
    }

    /// Paths of the root directory through other mounts of its filesystem.
    fn other_places(&self) -> Vec<PathBuf> {
        let root = rustix::fs::statx(self.root(), c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID);
        let (Ok(root), Ok(table)) = (root, std::fs::read("/proc/self/mountinfo")) else {
            return Vec::new();
        };
        let mounts: Vec<Mount> = table
            .split(|b| *b == b'\n')
            .filter_map(Mount::parse)
            .collect();
        places(&mounts, root.stx_mnt_id, &self.root_path)
    }
}

/// A line of `/proc/self/mountinfo`.
#[derive(Debug)]
struct Mount {
    id: u64,
    device: Vec<u8>,
    root: PathBuf,
    at: PathBuf,
}

impl Mount {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|b| *b == b' ');
        let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let device = fields.nth(1)?.to_vec();
        let (root, at) = (unescape(fields.next()?), unescape(fields.next()?));
        Some(Self {
            id,
            device,
            root,
            at,
        })
    }
}

/// Octal escapes of blanks, newlines and backslashes.
fn unescape(text: &[u8]) -> PathBuf {
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text);
    while let [first, behind @ ..] = rest {
        match (first, behind) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', left @ ..]) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = left;
            }
            _ => {
                out.push(*first);
                rest = behind;
            }
        }
    }
    OsString::from_vec(out).into()
}

/// Where else the directory `path` of the mount `own` is to be found.
fn places(mounts: &[Mount], own: u64, path: &Path) -> Vec<PathBuf> {
    let Some(own) = mounts.iter().find(|m| m.id == own) else {
        return Vec::new();
    };
    let Ok(below) = path.strip_prefix(&own.at) else {
        return Vec::new();
    };
    let inside = own.root.join(below);
    let others = mounts
        .iter()
        .filter(|m| m.id != own.id && m.device == own.device);
    others
        .filter_map(|m| Some(m.at.join(inside.strip_prefix(&m.root).ok()?)))
        .collect()
}

/// Walks from a directory up and looks for one that guards it, itself included.
pub(in crate::hsm) fn guard_above(directory: BorrowedFd<'_>) -> Result<Reach, BackingError> {
    let me = rustix::process::geteuid().as_raw();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut above: Option<OwnedFd> = None;
    let mut last = None;
    loop {
        let fd = above.as_ref().map_or(directory, OwnedFd::as_fd);
        let fail = |why| BackingError::of("look above", || describe(fd), why);
        let stat = FileStat::of(fd).map_err(fail)?;
        if stat.mode & 0o077 == 0 && (stat.uid == 0 || stat.uid == me) {
            return Ok(Reach::Guarded { by: describe(fd) });
        }
        // The root of the namespace is its own parent.
        if last == Some((stat.dev, stat.ino)) {
            return Ok(Reach::Open);
        }
        last = Some((stat.dev, stat.ino));
        let up = rustix::fs::openat(fd, c"..", flags, Mode::empty())
            .map_err(|why| BackingError::of("look above", || describe(fd), why))?;
        above = Some(up);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p7_other_mounts_of_the_same_directory_are_found() {
        let table = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw
23 22 8:1 /srv /mnt/with\\040blank rw shared:1 - ext4 /dev/sda1 rw
24 22 8:1 /etc/hosts /run/hosts rw - ext4 /dev/sda1 rw
25 22 8:2 / /other rw - ext4 /dev/sdb1 rw
";
        let mounts: Vec<_> = table
            .split(|b| *b == b'\n')
            .filter_map(Mount::parse)
            .collect();
        let found = places(&mounts, 22, Path::new("/srv/guard/data"));
        assert_eq!(found, [PathBuf::from("/mnt/with blank/guard/data")]);
        let found = places(&mounts, 23, Path::new("/mnt/with blank/guard/data"));
        assert_eq!(found, [PathBuf::from("/srv/guard/data")]);
        assert!(places(&mounts, 99, Path::new("/x")).is_empty());
    }
}
