//! A deleted file made anew, released: an inode with the stub of a version that lies on tiers.
//!
//! Invariants:
//! - Nobody ever meets it without its stub: it gets its name when size, attributes and record are on
//!   it and synced (invariant 3 of the design). A crash before that leaves nothing at all.
//! - It never takes a name that something has.
//! - What root alone may give a file is given to it only for root: others get back owner, mode, times
//!   and what they could set themselves.

use crate::format::member::{Kind, Member, Xattr};
use crate::format::record::{CopyHint, Record, State};
use crate::hsm::backing::{Backing, BackingError, FileStat, How, SetHow, describe, is_private};
use crate::id::{DataVersion, FileId, NodeHandle};
use cairn_mover::Crc32c;
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, linkat, openat,
};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Set-user-id and set-group-id.
const SET_ID: u32 = 0o6000;

/// To whom a file or directory is given back.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// With all that root alone may give: attributes of any kind, set-id bits of any owner.
    pub in_full: bool,
}

/// Whose data the stub names.
#[derive(Debug, Clone)]
pub struct Data {
    /// The file.
    pub file: FileId,
    /// Which data.
    pub version: DataVersion,
    /// Sum of all of it.
    pub crc: Crc32c,
    /// Sum of the block sums.
    pub blocks_crc: Crc32c,
    /// Where it lies, best first.
    pub copies: Vec<CopyHint>,
}

/// An inode without a name.
#[derive(Debug)]
pub struct Nameless {
    fd: OwnedFd,
    handle: NodeHandle,
}

/// A file that has its name.
#[derive(Debug)]
pub struct Named {
    /// The inode.
    pub handle: NodeHandle,
    /// What it looks like.
    pub stat: FileStat,
}

/// Why a file did not get its name.
#[derive(Debug, thiserror::Error)]
pub enum Unnamed {
    /// Something has it.
    #[error("the name is taken")]
    Taken,
    /// A step failed.
    #[error(transparent)]
    Backing(#[from] BackingError),
}

fn fail(step: &'static str, fd: BorrowedFd<'_>) -> impl Fn(Errno) -> BackingError {
    let object = describe(fd);
    move |why| BackingError::of(step, || object.clone(), why)
}

impl Nameless {
    /// Makes it in `directory`, as `member` says, and syncs it. `data`: of its stub; `None`: it is all
    /// holes, as it was archived, and needs none.
    ///
    /// # Errors
    /// What a step met. Nothing is left.
    pub fn make(
        backing: &Backing,
        directory: BorrowedFd<'_>,
        member: &Member,
        owner: Owner,
        data: Option<Data>,
    ) -> Result<Self, BackingError> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let fd = as_owner(owner, || openat(directory, c".", flags, mode))
            .map_err(fail("make a nameless file in", directory))?;
        let Kind::Regular { size, .. } = member.kind else {
            return Err(fail("make", fd.as_fd())(Errno::INVAL));
        };
        rustix::fs::ftruncate(&fd, size).map_err(fail("size", fd.as_fd()))?;
        dress(fd.as_fd(), member, owner)?;
        let handle = backing.handle_of(fd.as_fd())?;
        if let Some(data) = data {
            let stat = backing.stat(fd.as_fd())?;
            let record = Record {
                state: State::Released,
                fs: backing.fs(),
                file: data.file,
                version: data.version,
                crc: data.crc,
                handle: handle.clone(),
                size,
                // As this filesystem keeps it.
                mtime: stat.mtime,
                user_ctime: stat.ctime,
                ctime_floor: None,
                blocks_crc: data.blocks_crc,
                copies: data.copies,
            };
            backing.set_record(fd.as_fd(), &record, SetHow::Create)?;
        }
        rustix::fs::fsync(&fd).map_err(fail("sync", fd.as_fd()))?;
        Ok(Self { fd, handle })
    }

    /// The inode.
    #[must_use]
    pub fn handle(&self) -> &NodeHandle {
        &self.handle
    }

    /// Gives it the name, and syncs the directory. `told`: called once there is the name, whatever
    /// comes after.
    ///
    /// # Errors
    /// [`Unnamed`]; then it has none, but for a sync that failed.
    pub fn name(
        self,
        backing: &Backing,
        directory: BorrowedFd<'_>,
        name: &[u8],
        told: &dyn Fn(),
    ) -> Result<Named, Unnamed> {
        let itself = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let name = OsStr::from_bytes(name);
        match linkat(CWD, itself, directory, name, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) => told(),
            Err(Errno::EXIST) => return Err(Unnamed::Taken),
            Err(why) => return Err(fail("make a name in", directory)(why).into()),
        }
        sync(backing, directory)?;
        Ok(Named {
            stat: backing.stat(self.fd.as_fd())?,
            handle: self.handle,
        })
    }
}

/// Makes a directory, as `member` says where that is known, but closed to all but its owner until all
/// is in it: then [`end_directory`] gives it its mode and times. `told`: called once it has its name.
///
/// # Errors
/// What a step met; then it is gone again.
pub fn make_directory(
    backing: &Backing,
    parent: BorrowedFd<'_>,
    name: &[u8],
    member: Option<&Member>,
    owner: Owner,
) -> Result<OwnedFd, BackingError> {
    let os = OsStr::from_bytes(name);
    as_owner(owner, || rustix::fs::mkdirat(parent, os, Mode::RWXU))
        .map_err(fail("make a directory in", parent))?;
    dressed_directory(backing, parent, os, member, owner).inspect_err(|_| {
        // It would stand in the way of the next try.
        if let Err(why) = rustix::fs::unlinkat(parent, os, AtFlags::REMOVEDIR) {
            tracing::warn!(%why, "a directory that was made in vain is left");
        }
    })
}

fn dressed_directory(
    backing: &Backing,
    parent: BorrowedFd<'_>,
    os: &OsStr,
    member: Option<&Member>,
    owner: Owner,
) -> Result<OwnedFd, BackingError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made =
        openat(parent, os, flags, Mode::empty()).map_err(fail("open what was made in", parent))?;
    match member {
        Some(member) => dress(made.as_fd(), member, owner)?,
        None => give(made.as_fd(), owner)?,
    }
    sync(backing, made.as_fd())?;
    sync(backing, parent)?;
    Ok(made)
}

/// What users make counts against their quota, and takes nothing of what is reserved for root.
fn as_owner<T>(owner: Owner, make: impl FnOnce() -> T) -> T {
    if owner.uid == 0 || owner.in_full {
        return make();
    }
    cairn_fuse::as_user(owner.uid, owner.gid, make)
}

fn sync(backing: &Backing, directory: BorrowedFd<'_>) -> Result<(), BackingError> {
    let open = backing.reopen(directory, How::Read)?;
    rustix::fs::fsync(&open).map_err(fail("sync", directory))
}

fn give(fd: BorrowedFd<'_>, owner: Owner) -> Result<(), BackingError> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(fail("give away", fd))
}

/// Owner, attributes, mode and times, in an order in which none takes another away.
fn dress(fd: BorrowedFd<'_>, member: &Member, owner: Owner) -> Result<(), BackingError> {
    give(fd, owner)?;
    // What it had is all that it gets: nothing of its new directory's default ACL.
    for name in ["system.posix_acl_access", "system.posix_acl_default"] {
        match rustix::fs::fremovexattr(fd, name) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::ACCESS | Errno::INVAL) => {}
            Err(why) => return Err(fail("remove an inherited ACL of", fd)(why)),
        }
    }
    for (name, value) in member.xattrs.iter().filter(|x| may_have(x, owner)) {
        match rustix::fs::fsetxattr(fd, OsStr::from_bytes(name), value, XattrFlags::empty()) {
            Ok(()) => {}
            Err(why @ (Errno::OPNOTSUPP | Errno::PERM)) => {
                let name = String::from_utf8_lossy(name);
                tracing::warn!(%name, %why, "an attribute of an undeleted file could not be given back");
            }
            Err(why) => return Err(fail("set an attribute of", fd)(why)),
        }
    }
    set_mode_and_times(fd, member, owner, Manner::Begun)
}

/// Is more to come?
#[derive(Clone, Copy)]
enum Manner {
    /// Of a directory.
    Begun,
    /// No.
    Whole,
}

fn set_mode_and_times(
    fd: BorrowedFd<'_>,
    member: &Member,
    owner: Owner,
    manner: Manner,
) -> Result<(), BackingError> {
    let same = (member.uid, member.gid) == (owner.uid, owner.gid);
    let kept = if owner.in_full && same { 0 } else { SET_ID };
    // A set-group-id bit that a new directory has is its parent's.
    let inherited = match (&member.kind, rustix::fs::fstat(fd)) {
        (Kind::Directory, Ok(stat)) => stat.st_mode & 0o2000,
        _ => 0,
    };
    let mode = match (manner, &member.kind) {
        (Manner::Begun, Kind::Directory) => 0o700,
        _ => member.mode & !kept,
    };
    let mode = Mode::from_raw_mode(mode | inherited);
    rustix::fs::fchmod(fd, mode).map_err(fail("set the mode of", fd))?;
    set_times(fd, member)
}

/// All is in a directory that was made.
///
/// # Errors
/// What the filesystem says.
pub fn end_directory(
    fd: BorrowedFd<'_>,
    member: &Member,
    owner: Owner,
) -> Result<(), BackingError> {
    set_mode_and_times(fd, member, owner, Manner::Whole)
}

/// Everybody may set `user.*` and an ACL of their own; what else there is, root gave.
fn may_have((name, _): &Xattr, owner: Owner) -> bool {
    let plain = name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_");
    !is_private(name) && (owner.in_full || plain)
}

fn set_times(fd: BorrowedFd<'_>, member: &Member) -> Result<(), BackingError> {
    let spec = |t: crate::id::Timestamp| Timespec {
        tv_sec: t.sec,
        tv_nsec: t.nsec.into(),
    };
    let times = Timestamps {
        last_access: spec(member.atime),
        last_modification: spec(member.mtime),
    };
    rustix::fs::futimens(fd, &times).map_err(fail("set the times of", fd))
}
