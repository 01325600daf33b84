//! What a user may do to a file, as the kernel itself decides: modes, groups and ACLs.

use crate::sys;
use rustix::fs::Access;
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
    let check = || sys::accessible(fd, access.bits()).is_ok();
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

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, Mode, OFlags, fchmod, openat};
    use std::os::fd::AsFd;

    #[test]
    fn modes_count_also_through_an_o_path_descriptor() {
        let dir = std::env::temp_dir().join(format!("cairn-access-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let open = openat(CWD, &dir, OFlags::RDONLY, Mode::empty()).unwrap();
        let path = openat(CWD, &dir, OFlags::PATH, Mode::empty()).unwrap();
        std::fs::remove_dir(&dir).unwrap();
        let both = Access::READ_OK | Access::EXEC_OK;
        let me = (
            geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
            &[][..],
        );
        assert!(may_access(path.as_fd(), me, both));
        if !geteuid().is_root() {
            eprintln!("SKIPPED modes_count_also_through_an_o_path_descriptor: others need root");
            return;
        }
        let other = 54_321;
        for (mode, groups, may) in [
            (0o700, &[][..], false),
            (0o755, &[], true),
            (0o750, &[], false),
            (0o750, &[0], true),
        ] {
            fchmod(&open, Mode::from_raw_mode(mode)).unwrap();
            assert_eq!(
                may_access(path.as_fd(), (other, other, groups), both),
                may,
                "{mode:o}"
            );
        }
    }
}
