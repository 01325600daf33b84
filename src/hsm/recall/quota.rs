//! Would the owner's quota have room for a file's data?
//!
//! The filesystem itself charges the blocks that a recall allocates to the file's owner and
//! group, but does not refuse them to a process with CAP_SYS_RESOURCE. So user and group quotas
//! are asked first. Project quotas (XFS, ext4) are not covered here: they are enforced for root
//! too, and show as EDQUOT at fallocate.

use super::sys::{Quota, Usage, quota_of};
use crate::format::record::{Record, State};
use crate::hsm::backing::FileStat;
use std::os::fd::BorrowedFd;

/// `true` where quotas are off, unlimited, or leave room for `bytes` more.
pub(super) fn has_room(fd: BorrowedFd<'_>, stat: &FileStat, bytes: u64) -> bool {
    let now = crate::hsm::version::coarse_now().sec;
    [(Quota::User, stat.uid), (Quota::Group, stat.gid)]
        .into_iter()
        .filter_map(|(kind, id)| quota_of(fd, kind, id))
        .all(|usage| fits(&usage, bytes, now))
}

/// Of `bytes` of data, how many the owner is not charged for yet: the rest lies in blocks that an
/// earlier recall took and was cut short on.
pub(super) fn still_to_charge(record: &Record, stat: &FileStat, bytes: u64) -> u64 {
    match record.state {
        State::Recalling => bytes.saturating_sub(stat.blocks.saturating_mul(512)),
        // A block that holds its attributes, at most.
        State::Released | State::Resident => bytes,
    }
}

/// Whom a quota charges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A user.
    User(u32),
    /// A group.
    Group(u32),
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(id) => write!(f, "user {id}"),
            Self::Group(id) => write!(f, "group {id}"),
        }
    }
}

/// Bytes that an owner's quota leaves on the filesystem of `fd` (open for reading); `None`: as many
/// as there are.
#[must_use]
pub fn quota_left(fd: BorrowedFd<'_>, owner: Owner) -> Option<u64> {
    let (kind, id) = match owner {
        Owner::User(id) => (Quota::User, id),
        Owner::Group(id) => (Quota::Group, id),
    };
    left(
        &quota_of(fd, kind, id)?,
        crate::hsm::version::coarse_now().sec,
    )
}

fn left(usage: &Usage, now: i64) -> Option<u64> {
    let grace = usage.grace_until == 0 || now < usage.grace_until;
    let soft = (usage.soft > 0 && !grace).then_some(usage.soft);
    let hard = (usage.hard > 0).then_some(usage.hard);
    let limit = soft.into_iter().chain(hard).min()?;
    Some(limit.saturating_sub(usage.used))
}

fn fits(usage: &Usage, bytes: u64, now: i64) -> bool {
    let after = usage.used.saturating_add(bytes);
    let hard = usage.hard == 0 || after <= usage.hard;
    let grace = usage.grace_until == 0 || now < usage.grace_until;
    let soft = usage.soft == 0 || after <= usage.soft || grace;
    hard && soft
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_kept_and_zero_means_none() {
        let usage = |hard, soft, grace_until| Usage {
            used: 100,
            hard,
            soft,
            grace_until,
        };
        assert!(fits(&usage(0, 0, 0), u64::MAX, 1));
        assert_eq!(left(&usage(0, 0, 0), 1), None);
        assert_eq!(left(&usage(200, 0, 0), 1), Some(100));
        assert_eq!(left(&usage(200, 150, 9), 1), Some(100));
        assert_eq!(left(&usage(200, 150, 9), 9), Some(50), "grace is over");
        assert_eq!(left(&usage(50, 0, 0), 1), Some(0));
        assert!(fits(&usage(200, 0, 0), 100, 1));
        assert!(!fits(&usage(200, 0, 0), 101, 1));
        assert!(fits(&usage(0, 150, 9), 60, 1), "within the grace time");
        assert!(!fits(&usage(0, 150, 9), 60, 9), "grace is over");
    }
}
