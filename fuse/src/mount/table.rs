//! mount(2) and umount(2) for a `/dev/fuse` descriptor, in the calling thread's namespace.

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, statx};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// What to mount where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountSpec {
    pub(crate) target: PathBuf,
    /// Shown as the source.
    pub(crate) name: String,
    /// `MS_*`.
    pub(crate) flags: u32,
    pub(crate) allow_other: bool,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Mounts. The descriptor's number must be this process's own.
pub(crate) fn mount_now(spec: &MountSpec, device: BorrowedFd<'_>) -> Result<(), Errno> {
    let others = if spec.allow_other { ",allow_other" } else { "" };
    let data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions{others}",
        device.as_raw_fd(),
        spec.uid,
        spec.gid,
    );
    let data = CString::new(data).map_err(|_| Errno::INVAL)?;
    let flags = MountFlags::from_bits_retain(spec.flags);
    mount(
        spec.name.as_str(),
        &spec.target,
        "fuse.cairn",
        flags,
        data.as_c_str(),
    )
}

/// Unmounts. With `force`, requests under way end with an error and the mount goes at once.
/// `is_there`: it is still the mount that is meant.
fn unmount_while(target: &Path, force: bool, is_there: impl Fn() -> bool) -> Result<(), Errno> {
    let unmount = |how| unmount(target, UnmountFlags::NOFOLLOW | how);
    if !force {
        return unmount(UnmountFlags::empty());
    }
    match unmount(UnmountFlags::FORCE) {
        Ok(()) => Ok(()),
        // This try ended its connection: somebody saw that, and was quicker.
        Err(Errno::BUSY) if !is_there() => Ok(()),
        Err(first) => match unmount(UnmountFlags::DETACH) {
            Err(Errno::INVAL) if first == Errno::BUSY => Ok(()),
            other => other,
        },
    }
}

/// The device number of the mount at `target`, as `stat` shows it for all files in it, without
/// asking its server anything.
pub(crate) fn device_of(target: &Path) -> Option<u64> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(CWD, target, flags, Mode::empty()).ok()?;
    device_of_fd(fd.as_fd())
}

/// The device number of whatever a descriptor stands for, without asking a FUSE server.
pub(crate) fn device_of_fd(fd: BorrowedFd<'_>) -> Option<u64> {
    let how = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(fd, c"", how, StatxFlags::empty()).ok()?;
    Some(rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor))
}

/// `STATX_MNT_ID_UNIQUE`.
const UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// Which mount it is. What the kernel does not tell is `None`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MountNumber {
    /// Never given again within a boot (Linux 6.8).
    unique: Option<u64>,
    /// As mount tables have it. The next mount may get it once this one is gone.
    id: Option<u64>,
    /// Another's only when nothing is left of this mount's filesystem.
    device: u64,
}

impl MountNumber {
    /// Of the mount on top at `target`, without asking its server anything.
    pub(crate) fn at(target: &Path) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(CWD, target, flags, Mode::empty()).ok()?;
        let how = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat = statx(&fd, c"", how, UNIQUE).ok()?;
        let told = StatxFlags::from_bits_retain(stat.stx_mask).contains(UNIQUE);
        Some(Self {
            unique: told.then_some(stat.stx_mnt_id),
            id: id_of(fd.as_fd()),
            device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        })
    }

    /// Of a mount of which no more is known.
    pub(crate) fn of_device(device: u64) -> Self {
        Self {
            unique: None,
            id: None,
            device,
        }
    }

    /// Do both stand for the same mount, as far as can be told?
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self.unique.zip(other.unique), self.id.zip(other.id)) {
            (Some((one, two)), _) => one == two,
            (None, Some((one, two))) => one == two && self.device == other.device,
            (None, None) => self.device == other.device,
        }
    }

    /// Is this mount the one on top at `target`?
    pub(crate) fn is_at(&self, target: &Path) -> bool {
        Self::at(target).is_some_and(|there| self.is(&there))
    }

    /// Where it is, seen from `target`, in the calling thread's namespace.
    pub(crate) fn place(&self, target: &Path) -> Place {
        if self.is_at(target) {
            return Place::Top;
        }
        match std::fs::read("/proc/thread-self/mountinfo") {
            Ok(table) if !self.is_in(&table) => Place::Gone,
            // Not known: then it is not said to have gone.
            _ => Place::Covered,
        }
    }

    /// Mount tables have no unique numbers; but while anything is left of the filesystem its
    /// device is no other's.
    fn is_in(&self, table: &[u8]) -> bool {
        let line = |line: &[u8]| {
            // ID PARENT MAJOR:MINOR ...
            let mut words = line.split(|byte| *byte == b' ').map(std::str::from_utf8);
            let id: u64 = words.next()?.ok()?.parse().ok()?;
            let (major, minor) = words.nth(1)?.ok()?.split_once(':')?;
            let device = rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?);
            Some(device == self.device && self.id.is_none_or(|own| own == id))
        };
        table
            .split(|byte| *byte == b'\n')
            .any(|one| line(one) == Some(true))
    }
}

/// Where a mount is that was made at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// There, and on top.
    Top,
    /// Another mount lies on it, or it was moved.
    Covered,
    /// In this namespace it is no more.
    Gone,
}

/// Another mount lies on the one to be unmounted.
pub(crate) const COVERED: Errno = Errno::EXIST;

/// Unmounts this mount and no other; done if it has gone already. [`COVERED`]: it can not.
pub(crate) fn unmount_own(
    target: &Path,
    number: Option<MountNumber>,
    force: bool,
) -> Result<(), Errno> {
    let place = || number.map_or(Place::Top, |number| number.place(target));
    match place() {
        Place::Top => unmount_while(target, force, || place() != Place::Gone),
        Place::Covered => Err(COVERED),
        Place::Gone => Ok(()),
    }
}

fn id_of(fd: BorrowedFd<'_>) -> Option<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tmpfs; goes with its last mount.
    struct Tmpfs(PathBuf);

    impl Tmpfs {
        /// `None`: this process may not mount.
        fn new(at: &Path) -> Option<Self> {
            match mount("none", at, "tmpfs", MountFlags::empty(), None) {
                Ok(()) => Some(Self(at.to_owned())),
                Err(Errno::PERM) => {
                    let test = std::thread::current().name().unwrap_or("?").to_owned();
                    eprintln!("SKIPPED {test}: needs the right to mount");
                    None
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    impl Drop for Tmpfs {
        fn drop(&mut self) {
            let _ = unmount(&self.0, UnmountFlags::DETACH);
        }
    }

    #[test]
    fn the_next_mount_at_the_place_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let Some(first) = Tmpfs::new(dir.path()) else {
            return;
        };
        let number = MountNumber::at(dir.path()).unwrap();
        assert!(number.is_at(dir.path()));
        if number.unique.is_none() {
            eprintln!(
                "SKIPPED the_next_mount_at_the_place_is_another: the kernel has no unique numbers \
                 of mounts"
            );
            return;
        }
        drop(first);
        assert!(!number.is_at(dir.path()));
        let second = Tmpfs::new(dir.path());
        assert!(second.is_some());
        // Its place, kind, device and number in the table are the same, most of the time.
        assert!(!number.is_at(dir.path()));
    }

    #[test]
    fn a_mount_under_another_has_not_gone() {
        let dir = tempfile::tempdir().unwrap();
        let Some(below) = Tmpfs::new(dir.path()) else {
            return;
        };
        let number = MountNumber::at(dir.path()).unwrap();
        assert_eq!(number.place(dir.path()), Place::Top);
        let above = Tmpfs::new(dir.path()).unwrap();
        assert_eq!(number.place(dir.path()), Place::Covered);
        for force in [false, true] {
            let done = unmount_own(dir.path(), Some(number), force);
            assert_eq!(done, Err(COVERED), "the other stays");
        }
        drop(above);
        assert_eq!(unmount_own(dir.path(), Some(number), false), Ok(()));
        assert_eq!(number.place(dir.path()), Place::Gone);
        assert_eq!(unmount_own(dir.path(), Some(number), true), Ok(()));
        std::mem::forget(below);
    }

    #[test]
    fn what_an_older_kernel_tells_is_compared_as_far_as_it_goes() {
        let number = |unique, id, device| MountNumber { unique, id, device };
        let full = number(Some(7), Some(3), 40);
        assert!(full.is(&number(Some(7), Some(3), 40)));
        assert!(!full.is(&number(Some(8), Some(3), 40)));
        assert!(full.is(&number(None, Some(3), 40)));
        assert!(!full.is(&number(None, Some(3), 41)));
        assert!(!full.is(&number(None, Some(4), 40)));
        assert!(full.is(&number(None, None, 40)));
    }
}
