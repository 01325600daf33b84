//! What a user may do to a file, as the kernel itself decides: modes, groups and ACLs.

use crate::sys;
use rustix::fs::{Access, AtFlags, accessat};
use rustix::process::geteuid;
use std::os::fd::BorrowedFd;

/// May the user `(uid, gid, groups)` access what the descriptor stands for (`O_PATH` will do)? The
/// path to it is not looked at: whoever asks has shown by a descriptor, or by a walk, that they
/// get there. In a process without the right to act for others the answer is its own user's.
#[must_use]
pub fn may_access(
    fd: BorrowedFd<'_>,
    (uid, gid, groups): (u32, u32, &[u32]),
    access: Access,
) -> bool {
    let check = || accessat(fd, c"", access, AtFlags::EACCESS | AtFlags::EMPTY_PATH).is_ok();
    if !geteuid().is_root() || uid == 0 {
        return check();
    }
    let Ok(before) = sys::thread_groups() else {
        return false;
    };
    if sys::set_thread_groups(groups).is_err() {
        return false;
    }
    sys::set_thread_fsgid(gid);
    sys::set_thread_fsuid(uid);
    let allowed = check();
    // Back to user 0 the kernel raises the filesystem capabilities again by itself.
    sys::set_thread_fsuid(0);
    sys::set_thread_fsgid(0);
    if let Err(error) = sys::set_thread_groups(&before) {
        tracing::error!(%error, "this thread keeps another user's groups");
    }
    allowed
}
