//! Shutting a filesystem down, by the system call itself: the tools that can do it look at every
//! mount of the machine first, and would wait for one whose server is stopped. And mounts of a
//! test's own: in other processes' copies a dead filesystem would live on, and write.

#![allow(
    unsafe_code,
    reason = "an ioctl and an unshare, which have no safe wrappers"
)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `XFS_IOC_GOINGDOWN`, which ext4 answers as well: `_IOR('X', 125, __u32)`.
const GOING_DOWN: libc::Ioctl = 0x8004_587d_u32 as libc::Ioctl;
/// Nothing more reaches the device, not even the log.
const NO_LOG_FLUSH: u32 = 2;

/// Stops the filesystem that `dir` lies on as a loss of power does.
///
/// # Errors
/// Not permitted (root only), or a filesystem that cannot.
pub(crate) fn shut_down(dir: &File) -> io::Result<()> {
    let how = NO_LOG_FLUSH;
    // SAFETY: the kernel reads four bytes at the pointer, which outlive the call.
    match unsafe { libc::ioctl(dir.as_raw_fd(), GOING_DOWN, &raw const how) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// In this thread's own mount namespace ([`own_mounts`]): `/dev/fuse` as most systems have it, open
/// to all users.
///
/// # Errors
/// A step that failed.
pub(crate) fn open_dev_fuse() -> anyhow::Result<()> {
    let script = "set -e; d=$(mktemp -d); mount -t tmpfs none $d; mknod -m 666 $d/fuse c 10 229; \
                  mount --bind $d/fuse /dev/fuse; umount -l $d; rmdir $d";
    let done = std::process::Command::new("sh")
        .args(["-c", script])
        .output()?;
    let why = String::from_utf8_lossy(&done.stderr).into_owned();
    anyhow::ensure!(done.status.success(), "/dev/fuse for all: {why}");
    Ok(())
}

/// Gives this thread, and what it starts from now on, a mount namespace of its own. Its mounts end
/// with its last user, also when the test is killed.
///
/// # Errors
/// Not permitted (root only).
pub(crate) fn own_mounts() -> io::Result<()> {
    use rustix::mount::{MountPropagationFlags, mount_change};
    // SAFETY: file descriptors stay shared; only this thread's view of mounts (and with it its
    // working directory and umask) parts from the other threads'.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS)? };
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    Ok(mount_change("/", private)?)
}
