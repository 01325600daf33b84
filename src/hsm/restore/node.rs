//! One inode: made without a name that anybody sees, given everything it had, then named.

use super::{RestoreError, probe};
use crate::format::namespace::{Attributes, Data, InodeKind};
use crate::format::record::{CopyHint, Record, State};
use crate::hsm::backing::{Backing, SetHow};
use crate::hsm::version::Stamp;
use crate::id::Timestamp;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// What an inode is called while it has no name.
pub(super) const NEW: &str = "new";

pub(super) fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

fn fail(step: &'static str, object: &[u8]) -> impl Fn(rustix::io::Errno) -> RestoreError {
    let object = String::from_utf8_lossy(object).into_owned();
    move |e| RestoreError::io(step, &object)(e.into())
}

/// How the type of an inode shows in its mode.
pub(super) fn file_type(kind: &InodeKind) -> FileType {
    match kind {
        InodeKind::File { .. } => FileType::RegularFile,
        InodeKind::Symlink(_) => FileType::Symlink,
        InodeKind::Fifo => FileType::Fifo,
        InodeKind::Socket => FileType::Socket,
        InodeKind::CharDevice(..) => FileType::CharacterDevice,
        InodeKind::BlockDevice(..) => FileType::BlockDevice,
    }
}

/// Makes the inode under [`NEW`] in `work`; what lies there goes.
pub(super) fn make(
    work: BorrowedFd<'_>,
    kind: &InodeKind,
    size: u64,
    name: &[u8],
) -> Result<OwnedFd, RestoreError> {
    match rustix::fs::unlinkat(work, NEW, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(why) => return Err(fail("make way for", name)(why)),
    }
    let private = Mode::RUSR | Mode::WUSR;
    let make = fail("make", name);
    let (device, of) = match kind {
        InodeKind::CharDevice(major, minor) | InodeKind::BlockDevice(major, minor) => {
            (rustix::fs::makedev(*major, *minor), kind)
        }
        _ => (0, kind),
    };
    match of {
        InodeKind::File { .. } => {
            let flags =
                OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(work, NEW, flags, private).map_err(&make)?;
            rustix::fs::ftruncate(&file, size).map_err(fail("set the size of", name))?;
            return Ok(file);
        }
        InodeKind::Symlink(target) => {
            rustix::fs::symlinkat(os(target), work, NEW).map_err(&make)?;
        }
        _ => {
            rustix::fs::mknodat(work, NEW, file_type(of), private, device).map_err(&make)?;
        }
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(work, NEW, flags, Mode::empty()).map_err(make)
}

/// By which any descriptor's inode is reached, a link itself.
fn through_proc(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Owner, mode and extended attributes; not the times. `Some`: which attributes the target refuses,
/// though it took the rest, and its disk, tried in `work`, is good.
pub(super) fn set_attributes(
    fd: BorrowedFd<'_>,
    is_link: bool,
    attributes: &Attributes,
    name: &[u8],
    work: BorrowedFd<'_>,
) -> Result<Option<String>, RestoreError> {
    let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
    let how = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(fd, c"", Some(uid), Some(gid), how).map_err(fail("give away", name))?;
    let path = through_proc(fd);
    let mut refused = Vec::new();
    if !is_link {
        // Behind the owner, which takes set-id bits.
        rustix::fs::chmod(&path, Mode::from_raw_mode(attributes.mode))
            .map_err(fail("set the mode of", name))?;
    }
    for (attribute, value) in &attributes.xattrs {
        if crate::hsm::backing::is_private(attribute) {
            let why = rustix::io::Errno::PERM;
            return Err(fail("set an attribute of Cairn's own on", name)(why));
        }
        let set = || rustix::fs::setxattr(&path, os(attribute), value, XattrFlags::empty());
        let done = match set() {
            Err(why) if probe::may_be_of_the_disk(Some(why.raw_os_error())) => {
                // Given a name without it, it would never get it.
                let shown = String::from_utf8_lossy(name);
                probe::disk(work, format!("set an attribute of {shown}: {why}"))?;
                set()
            }
            done => done,
        };
        let Err(why) = done else { continue };
        if attribute == crate::format::acl::ACCESS {
            // The group's bits are the mask of the list, which may be more than the group had.
            let mode = attributes.mode & !0o070;
            rustix::fs::chmod(&path, Mode::from_raw_mode(mode))
                .map_err(fail("set the mode of", name))?;
        }
        let why = std::io::Error::from(why);
        refused.push(format!("{}: {why}", String::from_utf8_lossy(attribute)));
    }
    Ok((!refused.is_empty()).then(|| without(&refused)))
}

fn without(refused: &[String]) -> String {
    format!("it is there without attributes: {}", refused.join(", "))
}

/// Which of the attributes an inode that an earlier try made does not have.
pub(super) fn missing_attributes(
    backing: &Backing,
    fd: BorrowedFd<'_>,
    attributes: &Attributes,
) -> Result<Option<String>, RestoreError> {
    if attributes.xattrs.is_empty() {
        return Ok(None);
    }
    let has = backing.attributes(fd)?;
    let missing = attributes.xattrs.iter().filter(|(name, value)| {
        // A list of access that says no more than the mode is not kept as one.
        name != crate::format::acl::ACCESS && !has.iter().any(|(n, v)| (n, v) == (name, value))
    });
    let missing: Vec<_> = missing
        .map(|(name, _)| String::from_utf8_lossy(name).into_owned())
        .collect();
    Ok((!missing.is_empty()).then(|| without(&missing)))
}

fn spec(time: Timestamp) -> Timespec {
    Timespec {
        tv_sec: time.sec,
        tv_nsec: i64::from(time.nsec),
    }
}

/// Times of an inode that has the name `name` in `at`.
pub(super) fn set_times_at(
    at: BorrowedFd<'_>,
    named: &OsStr,
    (mtime, atime): (Timestamp, Timestamp),
    name: &[u8],
) -> Result<(), RestoreError> {
    let times = Timestamps {
        last_access: spec(atime),
        last_modification: spec(mtime),
    };
    rustix::fs::utimensat(at, named, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(fail("set the times of", name))
}

/// Times of a directory that is open.
pub(super) fn set_directory_times(
    fd: BorrowedFd<'_>,
    attributes: &Attributes,
    name: &[u8],
) -> Result<(), RestoreError> {
    let times = Timestamps {
        last_access: spec(attributes.atime),
        last_modification: spec(attributes.mtime),
    };
    rustix::fs::futimens(fd, &times).map_err(fail("set the times of", name))
}

/// The stub's record, as the last thing before its name.
pub(super) fn stamp(
    backing: &Backing,
    fd: BorrowedFd<'_>,
    data: &Data,
    copies: Vec<CopyHint>,
    (size, ctime): (u64, Timestamp),
) -> Result<(), RestoreError> {
    // The filesystem may keep coarser times than the one before.
    let mtime = backing.stat(fd)?.mtime;
    let record = Record {
        state: State::Released,
        fs: backing.fs(),
        file: data.file,
        version: data.version,
        crc: data.crc,
        handle: backing.handle_of(fd)?,
        size,
        mtime,
        user_ctime: ctime,
        ctime_floor: None,
        blocks_crc: data.blocks_crc,
        copies,
    };
    Stamp::set(backing, fd, None, &record, SetHow::Either)?;
    Ok(())
}

/// Times as a stat tells them.
pub(super) fn times_of(stat: &Stat) -> Timestamps {
    let spec = |sec, nsec| Timespec {
        tv_sec: sec,
        tv_nsec: i64::try_from(nsec).unwrap_or(0),
    };
    Timestamps {
        last_access: spec(stat.st_atime, stat.st_atime_nsec),
        last_modification: spec(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Access and modification, seconds and nanoseconds.
pub(super) fn times(fd: BorrowedFd<'_>) -> Result<[(i64, i64); 2], RestoreError> {
    let stat = rustix::fs::fstat(fd).map_err(fail("stat", b"the root"))?;
    let times = times_of(&stat);
    let pair = |t: Timespec| (t.tv_sec, t.tv_nsec);
    Ok([pair(times.last_access), pair(times.last_modification)])
}

/// The inverse of [`times`].
pub(super) fn set_times(
    fd: BorrowedFd<'_>,
    [access, modification]: [(i64, i64); 2],
) -> Result<(), RestoreError> {
    let spec = |(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: spec(access),
        last_modification: spec(modification),
    };
    rustix::fs::futimens(fd, &times).map_err(fail("set the times of", b"the root"))
}

/// Owner, extended attributes and, if it may be, mode and ACLs of one directory for another.
pub(super) fn copy_attributes(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    with_mode: bool,
    work: BorrowedFd<'_>,
) -> Result<(), RestoreError> {
    let root = b"the root";
    let stat = rustix::fs::fstat(from).map_err(fail("stat", root))?;
    let mut list = vec![0; 65536];
    let len = rustix::fs::flistxattr(from, &mut list[..]).map_err(fail("read", root))?;
    let mut value = vec![0; 65536];
    let mut xattrs = Vec::new();
    for name in list[..len].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        if crate::hsm::backing::is_private(name)
            || (!with_mode && name == crate::format::acl::ACCESS)
        {
            continue;
        }
        let len =
            rustix::fs::fgetxattr(from, os(name), &mut value[..]).map_err(fail("read", root))?;
        xattrs.push((name.to_vec(), value[..len].to_vec()));
    }
    let mode = if with_mode {
        stat.st_mode & 0o7777
    } else {
        0o700
    };
    let none = Timestamp::default();
    let attributes = Attributes {
        mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: none,
        atime: none,
        ctime: none,
        xattrs,
    };
    if let Some(why) = set_attributes(to, false, &attributes, root, work)? {
        tracing::warn!(why, "the root");
    }
    Ok(())
}

/// The same inode under one more name.
pub(super) fn link(
    fd: BorrowedFd<'_>,
    at: BorrowedFd<'_>,
    name: &[u8],
) -> Result<(), RestoreError> {
    rustix::fs::linkat(fd, c"", at, os(name), AtFlags::EMPTY_PATH).map_err(fail("link", name))
}

/// What has a name, if something has.
pub(super) fn found(at: BorrowedFd<'_>, name: &[u8]) -> Result<Option<OwnedFd>, RestoreError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(at, os(name), flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(why) => Err(fail("look at", name)(why)),
    }
}

/// A directory of that name, made if it is not there.
pub(super) fn enter(at: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, RestoreError> {
    match rustix::fs::mkdirat(at, os(name), Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(why) => return Err(fail("make", name)(why)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, os(name), flags, Mode::empty()).map_err(fail("enter", name))
}

/// The directory above, which must be the one that was left.
pub(super) fn leave(fd: &OwnedFd, back_to: (u64, u64)) -> Result<OwnedFd, RestoreError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let up = rustix::fs::openat(fd, c"..", flags, Mode::empty())
        .map_err(fail("leave", b"a directory"))?;
    if identity(up.as_fd())? == back_to {
        Ok(up)
    } else {
        Err(fail("leave", b"a directory")(rustix::io::Errno::STALE))
    }
}

/// Which inode.
pub(super) fn identity(fd: BorrowedFd<'_>) -> Result<(u64, u64), RestoreError> {
    let stat = rustix::fs::fstat(fd).map_err(fail("stat", b"a directory"))?;
    Ok((stat.st_dev, stat.st_ino))
}
