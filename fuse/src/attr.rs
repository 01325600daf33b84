//! Attributes as the kernel gets them: what `statx` said, with the residency's corrections.

use crate::Shown;
use fuser::{FileAttr, FileType, Generation, INodeNo};
use rustix::fs::Statx;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A name's inode, as a lookup answers it.
pub(crate) struct Entry {
    pub(crate) attr: FileAttr,
    pub(crate) generation: Generation,
    /// Of the name.
    pub(crate) ttl: Duration,
    /// Of the attributes.
    pub(crate) attr_ttl: Duration,
}

/// Attributes of a node with that id.
pub(crate) fn attributes(id: u64, stat: &Statx, shown: Shown) -> FileAttr {
    let time = |t: rustix::fs::StatxTimestamp| time_of(t.tv_sec, t.tv_nsec);
    let overlay = |own: Option<(i64, u32)>, backing| match own {
        Some((sec, nsec)) => time_of(sec, nsec),
        None => time(backing),
    };
    let blocks = stat.stx_blocks.saturating_sub(shown.hidden_blocks);
    FileAttr {
        ino: INodeNo(id),
        size: stat.stx_size,
        blocks: if shown.at_least_one_block {
            blocks.max(1)
        } else {
            blocks
        },
        atime: time(stat.stx_atime),
        mtime: overlay(shown.mtime, stat.stx_mtime),
        ctime: overlay(shown.ctime, stat.stx_ctime),
        crtime: UNIX_EPOCH,
        kind: kind_of(u32::from(stat.stx_mode)),
        perm: stat.stx_mode & 0o7777,
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev: device(stat.stx_rdev_major, stat.stx_rdev_minor),
        blksize: stat.stx_blksize,
        flags: 0,
    }
}

/// The answer that a name does not exist, which the kernel remembers for the reply's TTL.
pub(crate) fn nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

pub(crate) fn kind_of(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

/// The kernel's 32-bit device number.
fn device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// Major and minor of the kernel's 32-bit device number.
pub(crate) fn device_parts(device: u32) -> (u32, u32) {
    (
        (device & 0xf_ff00) >> 8,
        (device & 0xff) | ((device >> 12) & 0xf_ff00),
    )
}

fn time_of(sec: i64, nsec: u32) -> SystemTime {
    let whole = Duration::from_secs(sec.unsigned_abs());
    let base = if sec < 0 {
        UNIX_EPOCH.checked_sub(whole)
    } else {
        UNIX_EPOCH.checked_add(whole)
    };
    base.and_then(|t| t.checked_add(Duration::from_nanos(u64::from(nsec))))
        .unwrap_or(UNIX_EPOCH)
}

/// Seconds and nanoseconds that the kernel meant by a time which the FUSE library converted: the
/// library subtracts the nanoseconds of times before 1970 instead of adding them.
pub(crate) fn asked_time(time: SystemTime) -> (i64, i64) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (
            i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            i64::from(after.subsec_nanos()),
        ),
        Err(before) => (
            0_i64.saturating_sub_unsigned(before.duration().as_secs()),
            i64::from(before.duration().subsec_nanos()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_round_trip() {
        for (major, minor) in [(0, 0), (8, 1), (259, 0x12345), (0xfff, 0xf_ffff)] {
            assert_eq!(device_parts(device(major, minor)), (major, minor));
        }
    }

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        let shown = time_of(-2, 800_000_000);
        assert_eq!(
            UNIX_EPOCH.duration_since(shown).unwrap(),
            Duration::from_millis(1200)
        );
        // What the library makes of (-2 s, 800 ms) sent by the kernel.
        let library = UNIX_EPOCH - Duration::new(2, 800_000_000);
        assert_eq!(asked_time(library), (-2, 800_000_000));
        assert_eq!(asked_time(UNIX_EPOCH + Duration::new(5, 7)), (5, 7));
        assert_eq!(
            time_of(i64::MIN, 999_999_999),
            time_of(i64::MIN, 999_999_999)
        );
    }
}
