//! `quotactl_fd`, which no safe binding offers.
#![allow(unsafe_code, reason = "quotas can be asked only by a raw system call")]

use std::os::fd::{AsRawFd, BorrowedFd};

/// Whose quota.
#[derive(Debug, Clone, Copy)]
pub(super) enum Quota {
    User,
    Group,
}

/// What a quota says, in bytes; a limit of 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) used: u64,
    pub(super) hard: u64,
    pub(super) soft: u64,
    /// Until then (seconds since 1970) the soft limit may be exceeded; 0: not running.
    pub(super) grace_until: i64,
}

/// `quotactl_fd(2)`, the same number on every architecture (Linux 5.14).
const SYS_QUOTACTL_FD: libc::c_long = 443;
/// Block limits are kept in units of 1 KiB (`QIF_DQBLKSIZE`).
const UNIT: u64 = 1024;

/// The quota of `id` on the filesystem of `fd` (open for reading); `None` where there is none.
pub(super) fn quota_of(fd: BorrowedFd<'_>, kind: Quota, id: u32) -> Option<Usage> {
    let kind = match kind {
        Quota::User => libc::USRQUOTA,
        Quota::Group => libc::GRPQUOTA,
    };
    // SAFETY: all-zero bytes are a valid dqblk.
    let mut block: libc::dqblk = unsafe { std::mem::zeroed() };
    // SAFETY: Q_GETQUOTA writes one dqblk to the address, which lives across the call.
    let done = unsafe {
        libc::syscall(
            SYS_QUOTACTL_FD,
            fd.as_raw_fd(),
            libc::QCMD(libc::Q_GETQUOTA, kind),
            id,
            &raw mut block,
        )
    };
    (done == 0).then(|| Usage {
        used: block.dqb_curspace,
        hard: block.dqb_bhardlimit.saturating_mul(UNIT),
        soft: block.dqb_bsoftlimit.saturating_mul(UNIT),
        grace_until: i64::try_from(block.dqb_btime).unwrap_or(i64::MAX),
    })
}
