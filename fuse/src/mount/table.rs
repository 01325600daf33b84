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
pub(crate) fn unmount_now(target: &Path, force: bool) -> Result<(), Errno> {
    if !force {
        return unmount(target, UnmountFlags::NOFOLLOW);
    }
    match unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::FORCE) {
        Ok(()) => Ok(()),
        Err(_) => unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH),
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

/// The kernel's number of the mount at `target`, without asking its server anything.
pub(crate) fn mount_id(target: &Path) -> Option<u64> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(CWD, target, flags, Mode::empty()).ok()?;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
    line.trim().parse().ok()
}
