//! Modes, times and extended attributes.

use super::{Outcome, Step, look_of};
use rustix::fs::{
    AtFlags, CWD, StatxFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags,
};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

#[derive(Debug, Clone, Copy)]
pub(super) enum AttributeAct {
    Chmod,
    Chown,
    SetTimes,
    Statx,
    SetAttribute,
    GetAttribute,
    RemoveAttribute,
    ListAttributes,
}

impl AttributeAct {
    pub(super) const ALL: &[Self] = &[
        Self::Chmod,
        Self::Chown,
        Self::SetTimes,
        Self::SetTimes,
        Self::Statx,
        Self::Statx,
        Self::SetAttribute,
        Self::GetAttribute,
        Self::RemoveAttribute,
        Self::ListAttributes,
    ];

    pub(super) fn run(self, step: &Step, root: &Path) -> Outcome {
        let path = root.join(&step.name);
        let attribute = ["user.v", "user.v", "user.w", "trusted.v"][step.variant as usize / 4 % 4];
        let follow = !step.variant.is_multiple_of(4);
        match self {
            Self::Chmod => {
                let mode = 0o600 + step.variant as u32 % 0o100;
                fs::set_permissions(path, PermissionsExt::from_mode(mode))?;
            }
            Self::Chown => {
                let ids = (step.variant as u32 % 3, step.variant as u32 % 2);
                std::os::unix::fs::lchown(path, Some(ids.0), Some(ids.1))?;
            }
            Self::SetTimes => return set_times(step, &path),
            Self::Statx => return statx(&path, &root.join(&step.other)),
            Self::SetAttribute => {
                let value = &step.data[..step.data.len() % 200];
                let flags = match step.variant % 5 {
                    0 => XattrFlags::CREATE,
                    1 => XattrFlags::REPLACE,
                    _ => XattrFlags::empty(),
                };
                match follow {
                    true => rustix::fs::setxattr(path, attribute, value, flags)?,
                    false => rustix::fs::lsetxattr(path, attribute, value, flags)?,
                }
            }
            Self::GetAttribute => {
                let mut value = vec![0; 256];
                let length = match follow {
                    true => rustix::fs::getxattr(path, attribute, &mut value[..])?,
                    false => rustix::fs::lgetxattr(path, attribute, &mut value[..])?,
                };
                value.truncate(length);
                return Ok(value);
            }
            Self::RemoveAttribute => match follow {
                true => rustix::fs::removexattr(path, attribute)?,
                false => rustix::fs::lremovexattr(path, attribute)?,
            },
            Self::ListAttributes => return Ok(attributes_of(&path)?),
        }
        Ok(Vec::new())
    }
}

/// Their names, in order.
pub(super) fn attributes_of(path: &Path) -> rustix::io::Result<Vec<u8>> {
    let mut list = vec![0; 1024];
    let length = rustix::fs::llistxattr(path, &mut list[..])?;
    let mut names: Vec<&[u8]> = list[..length].split(|byte| *byte == 0).collect();
    names.sort_unstable();
    Ok(names.join(&b' '))
}

/// Both times, each to an old one or left as it is; or both to now.
fn set_times(step: &Step, path: &Path) -> Outcome {
    let omit = |time: Timespec, left| Timespec {
        tv_nsec: if left { UTIME_OMIT } else { time.tv_nsec },
        ..time
    };
    let mut times = Timestamps {
        last_access: omit(step.old_time(3), step.variant.is_multiple_of(5)),
        last_modification: omit(step.old_time(4), step.variant % 5 == 1),
    };
    if step.variant.is_multiple_of(7) {
        times.last_access.tv_nsec = UTIME_NOW;
        times.last_modification.tv_nsec = UTIME_NOW;
    }
    let flags = match step.variant % 2 {
        0 => AtFlags::empty(),
        _ => AtFlags::SYMLINK_NOFOLLOW,
    };
    rustix::fs::utimensat(CWD, path, &times, flags)?;
    let meta = match step.variant % 2 {
        0 => fs::metadata(path)?,
        _ => fs::symlink_metadata(path)?,
    };
    let mut seen = look_of(&meta);
    // That of a symbolic link moves when it is followed, on the mount only at the first time.
    if times.last_access.tv_nsec < 1_000_000_000 && !meta.is_symlink() {
        seen += &format!(" atime {}.{:09}", meta.atime(), meta.atime_nsec());
    }
    Ok(seen.into())
}

fn statx(path: &Path, other: &Path) -> Outcome {
    let of = |path| {
        let (flags, mask) = (AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS);
        rustix::fs::statx(CWD, path, flags, mask)
    };
    let seen = of(path)?;
    let same = of(other).map(|other| other.stx_ino == seen.stx_ino);
    // Whoever has an inode number twice has one file.
    let basic = seen.stx_mask & StatxFlags::BASIC_STATS.bits();
    Ok(format!(
        "{basic:x} {} {:?} {same:?}",
        seen.stx_blksize,
        (seen.stx_rdev_major, seen.stx_rdev_minor)
    )
    .into())
}
