//! A directory tier changes hands: its mark gets another owner, and keeps its number.
//!
//! Invariants: the mark is replaced whole, by one rename; two takers are one after the other (a lock
//! on the directory); a tier that was written to a moment ago is taken from nobody.

use super::layout::{INCOMING, MARK};
use super::mark::{self, MarkError};
use super::place::refused;
use crate::id::InstanceId;
use crate::tier::{Mark, TierError, TierUrl};
use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags, StatxFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// A put that began or ended within so many seconds is a sign of life.
const SIGN_OF_LIFE: i64 = 90;

/// The mark at `root`.
pub(in crate::tier) fn owner_of(root: &Path) -> Result<Mark, TierError> {
    let dir = open(root)?;
    read(&dir, root)
}

/// Gives the tier at `root` from one instance to another.
pub(in crate::tier) fn take(
    root: &Path,
    from: InstanceId,
    to: InstanceId,
    note: &str,
) -> Result<Mark, TierError> {
    let dir = open(root)?;
    rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| refused(root, "somebody else works on its mark"))?;
    let found = read(&dir, root)?;
    if found.owner != from {
        let why = format!("it belongs to instance {} by now", found.owner);
        return Err(refused(root, &why));
    }
    if let Some(age) = last_written(&dir).filter(|age| *age < SIGN_OF_LIFE) {
        let why = format!(
            "it was written to {age} s ago: its owner seems to be alive. Stop it, or wait {} s",
            SIGN_OF_LIFE - age
        );
        return Err(refused(root, &why));
    }
    let wanted = Mark { owner: to, ..found };
    mark::replace(&dir, wanted, note).map_err(|error| TierError::Unavailable {
        tier: label(root),
        step: "writing the mark",
        why: error.to_string(),
    })?;
    read(&dir, root)
}

fn label(root: &Path) -> String {
    TierUrl::Dir {
        path: root.to_owned(),
        pace: crate::tier::throttle::Pace::default(),
    }
    .to_string()
}

fn open(root: &Path) -> Result<OwnedFd, TierError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(root, flags, Mode::empty()).map_err(|error| TierError::Unavailable {
        tier: label(root),
        step: "opening",
        why: error.to_string(),
    })
}

fn read(dir: &OwnedFd, root: &Path) -> Result<Mark, TierError> {
    mark::read(dir).map_err(|error| match error {
        error if error.is_absent() => refused(root, &format!("it has no {MARK}")),
        MarkError::Io(error) => TierError::Unavailable {
            tier: label(root),
            step: "reading the mark",
            why: error.to_string(),
        },
        error => refused(root, &error.to_string()),
    })
}

/// Seconds since something was written into `incoming/`, or moved out of it.
fn last_written(dir: &OwnedFd) -> Option<i64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let incoming = rustix::fs::openat(dir, INCOMING, flags, Mode::empty()).ok()?;
    let written = |name: &std::ffi::CStr| {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        let stat = rustix::fs::statx(incoming.as_fd(), name, flags, StatxFlags::MTIME).ok()?;
        Some(stat.stx_mtime.tv_sec)
    };
    let mut newest = written(c"")?;
    for entry in Dir::read_from(&incoming).ok()?.flatten() {
        let name = entry.file_name();
        // The directory above changes with its mark, too.
        if name != c"." && name != c".." {
            newest = newest.max(written(name).unwrap_or(newest));
        }
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(
        i64::try_from(now.as_secs())
            .ok()?
            .saturating_sub(newest)
            .max(0),
    )
}
