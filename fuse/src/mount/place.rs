//! Where mount point and backing lie, and whether a dead mount is in the way.

use crate::MirrorError;
use rustix::fs::{Stat, stat, statfs};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

/// Is `path` the directory `dir`, or does it lie inside it? A `path` that does not exist yet is
/// judged by its nearest existing ancestor. Symbolic links are followed, and bind mounts of the
/// same directory are recognised.
///
/// # Errors
/// If either cannot be examined.
pub fn lies_within(path: &Path, dir: &Path) -> io::Result<bool> {
    let dir = identity(&stat(dir)?);
    let mut real = std::path::absolute(path)?;
    let real = loop {
        match real.canonicalize() {
            Ok(found) => break found,
            Err(error) if error.kind() == io::ErrorKind::NotFound && real.pop() => {}
            Err(error) => return Err(error),
        }
    };
    for ancestor in real.ancestors() {
        if identity(&stat(ancestor)?) == dir {
            return Ok(true);
        }
    }
    Ok(false)
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Refuses a mount point and a backing that lie in each other.
pub(crate) fn check_places(mountpoint: &Path, backing: &Path) -> Result<(), MirrorError> {
    let nested = |how| MirrorError::Nested {
        mountpoint: mountpoint.to_owned(),
        backing: backing.to_owned(),
        how,
    };
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| MirrorError::Mountpoint { path, source }
    };
    let inside = lies_within(mountpoint, backing).map_err(at(mountpoint))?;
    let around = lies_within(backing, mountpoint).map_err(at(mountpoint))?;
    match (inside, around) {
        (true, true) => Err(nested("they are the same directory")),
        (true, false) => Err(nested("the mount point lies inside the backing")),
        (false, true) => Err(nested("the backing lies inside the mount point")),
        (false, false) => Ok(()),
    }
}

/// Does a mount lie there whose server is dead ("Transport endpoint is not connected")?
#[must_use]
pub fn is_dead(mountpoint: &Path) -> bool {
    // `stat` could be answered from the kernel's cache.
    matches!(statfs(mountpoint), Err(Errno::NOTCONN))
}

/// Takes away a mount whose server is dead ("Transport endpoint is not connected"), in the
/// calling thread's mount namespace. `true` if there was one.
pub(crate) fn clean_stale(mountpoint: &Path) -> bool {
    let mut cleaned = false;
    // Several may lie on top of each other.
    for _ in 0..16 {
        if !is_dead(mountpoint) {
            break;
        }
        match detach(mountpoint) {
            Ok(()) => cleaned = true,
            Err(error) => {
                tracing::warn!(?mountpoint, %error, "a dead mount is in the way");
                break;
            }
        }
    }
    if cleaned {
        tracing::info!(?mountpoint, "took away a dead mount");
    }
    cleaned
}

fn detach(mountpoint: &Path) -> Result<(), Errno> {
    match unmount(mountpoint, UnmountFlags::DETACH) {
        // A user's own mount is fusermount3's to take away.
        Err(Errno::PERM) => {
            let done = Command::new("fusermount3")
                .args(["-u", "-z", "-q", "--"])
                .arg(mountpoint)
                .stdin(Stdio::null())
                .status()
                .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::NOENT))?;
            done.success().then_some(()).ok_or(Errno::PERM)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_judged_by_where_they_really_are() {
        let base = tempfile::tempdir().unwrap();
        let (a, b) = (base.path().join("a"), base.path().join("b"));
        std::fs::create_dir_all(a.join("deep")).unwrap();
        std::fs::create_dir(&b).unwrap();
        std::os::unix::fs::symlink(a.join("deep"), b.join("link")).unwrap();
        assert!(lies_within(&a, &a).unwrap());
        assert!(lies_within(&a.join("deep/not/yet"), &a).unwrap());
        assert!(lies_within(&b.join("link/new"), &a).unwrap());
        assert!(!lies_within(&b, &a).unwrap());
        assert!(!lies_within(&base.path().join("ab"), &a).unwrap());
        assert!(check_places(&a, &b).is_ok());
        for (mountpoint, backing) in [(&a, &a), (&a.join("deep"), &a), (&a, &a.join("deep"))] {
            let verdict = check_places(mountpoint, backing);
            assert!(
                matches!(verdict, Err(MirrorError::Nested { .. })),
                "{verdict:?}"
            );
        }
    }
}
