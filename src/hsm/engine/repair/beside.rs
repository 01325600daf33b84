//! What an administrator gives up, kept under another name in the same directory.
//!
//! Invariants:
//! - A name is made exclusively, and durable with its content before the caller goes on; half of one is
//!   removed again.
//! - Nobody may read it who could not read the original: until it is filled only its owner may, and then
//!   it has the original's list of rights, or is its owner's alone.

use crate::catalog::{FileKind, NodeId};
use crate::format::acl::ACCESS;
use crate::format::record::{Record, State};
use crate::hsm::backing::{Backing, FileStat, How, SetHow, describe};
use crate::hsm::engine::{Shared, tree};
use crate::hsm::version::Stamp;
use crate::id::{FileId, NodeHandle};
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Bytes copied at once.
const CHUNK: usize = 1 << 20;
/// Longest name, bytes.
const NAME_MAX: usize = 255;

/// What was made.
pub(super) struct Beside {
    pub(super) path: Vec<u8>,
    pub(super) handle: NodeHandle,
    pub(super) stat: FileStat,
    pub(super) parent: NodeId,
    pub(super) name: Vec<u8>,
    /// A stub's record.
    pub(super) record: Option<Record>,
}

/// The file beside which one is made, and what was seen of it.
type Original<'a> = (BorrowedFd<'a>, &'a FileStat);

/// Makes a file beside `path` (relative to the root), of the owner and mode that `like` has, and fills
/// it.
fn make(
    shared: &Shared,
    path: &[u8],
    (original, like): Original<'_>,
    mtime: crate::id::Timestamp,
    fill: impl FnOnce(&Backing, BorrowedFd<'_>) -> Result<Option<Record>, String>,
) -> Result<Beside, String> {
    let backing = &shared.backing;
    let (above, last) = match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&b""[..], path),
    };
    let told = |why: &dyn std::fmt::Display| why.to_string();
    let directory = backing.open_beneath(above).map_err(|e| told(&e))?;
    let directory = backing
        .reopen(directory.as_fd(), How::Read)
        .map_err(|e| told(&e))?;
    let parent = backing.handle_of(directory.as_fd()).map_err(|e| told(&e))?;
    let parent = tree::ensure_directory(shared, &parent).map_err(|e| told(&e))?;
    let (name, file) = create(directory.as_fd(), last)?;
    let filled = own(file.as_fd(), like)
        .map(|()| rights(original, file.as_fd(), like))
        .and_then(|mode| {
            let record = fill(backing, file.as_fd())?;
            set_mode(file.as_fd(), mode)?;
            Ok(record)
        })
        .and_then(|record| {
            set_mtime(file.as_fd(), mtime)?;
            finish(shared, &file, record, like)
        });
    let done = filled.and_then(|record| {
        rustix::fs::fsync(&directory).map_err(|e| format!("sync the directory: {e}"))?;
        Ok(record)
    });
    let record = match done {
        Ok(record) => record,
        Err(why) => {
            // It has its name since a moment ago, and only here.
            let _ = rustix::fs::unlinkat(&directory, OsStr::from_bytes(&name), AtFlags::empty());
            return Err(why);
        }
    };
    let mut whole = above.to_vec();
    if !whole.is_empty() {
        whole.push(b'/');
    }
    whole.extend_from_slice(&name);
    Ok(Beside {
        path: whole,
        handle: backing.handle_of(file.as_fd()).map_err(|e| told(&e))?,
        stat: backing.stat(file.as_fd()).map_err(|e| told(&e))?,
        parent,
        name,
        record,
    })
}

fn create(directory: BorrowedFd<'_>, last: &[u8]) -> Result<(Vec<u8>, OwnedFd), String> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for n in 1..1000 {
        let ending = format!(".cairn-kept-{n}");
        let stem = &last[..last.len().min(NAME_MAX - ending.len())];
        let name = [stem, ending.as_bytes()].concat();
        let made = rustix::fs::openat(
            directory,
            OsStr::from_bytes(&name),
            flags,
            Mode::from_raw_mode(0o600),
        );
        match made {
            Ok(file) => return Ok((name, file)),
            Err(rustix::io::Errno::EXIST) => {}
            Err(why) => return Err(format!("make a file beside it: {why}")),
        }
    }
    Err("a thousand files are kept beside it already".to_owned())
}

fn own(fd: BorrowedFd<'_>, like: &FileStat) -> Result<(), String> {
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(like.uid),
        rustix::fs::Gid::from_raw(like.gid),
    );
    rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(|e| format!("give it its owner: {e}"))
}

fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> Result<(), String> {
    rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)).map_err(|e| format!("give it its mode: {e}"))
}

/// Gives it the original's list of rights, or none if that has none, and takes them away for now by
/// its mode; gives the mode that it is to have.
fn rights(original: BorrowedFd<'_>, fd: BorrowedFd<'_>, like: &FileStat) -> u32 {
    let same = take_rights(fd)
        .and_then(|()| copy_rights(original, fd))
        .and_then(|()| rustix::fs::fchmod(fd, Mode::from_raw_mode(0o600)));
    match same {
        // Not the bits that run a program as somebody else.
        Ok(()) => like.mode & 0o777,
        Err(why) => {
            tracing::warn!(%why, "the rights of a kept file are its owner's alone");
            like.mode & 0o700
        }
    }
}

/// What it inherited from its directory.
fn take_rights(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    match rustix::fs::fremovexattr(fd, OsStr::from_bytes(ACCESS)) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        done => done,
    }
}

fn copy_rights(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let name = OsStr::from_bytes(ACCESS);
    let mut list = vec![0; 1 << 16];
    match rustix::fs::fgetxattr(from, name, &mut list[..]) {
        Ok(len) => rustix::fs::fsetxattr(to, name, &list[..len], XattrFlags::empty()),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(why) => Err(why),
    }
}

fn set_mtime(fd: BorrowedFd<'_>, mtime: crate::id::Timestamp) -> Result<(), String> {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: mtime.sec,
            tv_nsec: mtime.nsec.into(),
        },
    };
    rustix::fs::futimens(fd, &times).map_err(|e| format!("set its time: {e}"))
}

/// Its record, if it is a stub, and the sync.
fn finish(
    shared: &Shared,
    file: &OwnedFd,
    record: Option<Record>,
    like: &FileStat,
) -> Result<Option<Record>, String> {
    let backing = &shared.backing;
    let mut written = None;
    if let Some(record) = record {
        let handle = backing.handle_of(file.as_fd()).map_err(|e| e.to_string())?;
        let mtime = backing.stat(file.as_fd()).map_err(|e| e.to_string())?.mtime;
        let record = Record {
            state: State::Released,
            fs: backing.fs(),
            file: FileId::random(),
            handle,
            mtime,
            user_ctime: like.ctime,
            ctime_floor: None,
            ..record
        };
        let stamp = Stamp::set(backing, file.as_fd(), None, &record, SetHow::Create);
        written = Some(stamp.map_err(|e| e.to_string())?.record);
    }
    rustix::fs::fsync(file).map_err(|e| format!("sync it: {e}"))?;
    Ok(written)
}

/// What was archived, as a stub of its own.
pub(super) fn stub(
    shared: &Shared,
    path: &[u8],
    original: Original<'_>,
    record: &Record,
) -> Result<Beside, String> {
    make(shared, path, original, record.mtime, |_, fd| {
        rustix::fs::ftruncate(fd, record.size).map_err(|e| format!("set its size: {e}"))?;
        Ok(Some(record.clone()))
    })
}

/// What is on disk, holes as holes.
pub(super) fn data(
    shared: &Shared,
    path: &[u8],
    (from, like): Original<'_>,
) -> Result<Beside, String> {
    make(shared, path, (from, like), like.mtime, |backing, to| {
        let mut buffer = vec![0_u8; CHUNK];
        for run in backing.extents(from).map_err(|e| e.to_string())? {
            let (mut at, end) = (run.offset, (run.offset + run.len).min(like.size));
            while at < end {
                let want = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
                let got = rustix::io::pread(from, &mut buffer[..want], at)
                    .map_err(|e| format!("read {}: {e}", describe(from)))?;
                if got == 0 {
                    return Err(format!("{} ended early", describe(from)));
                }
                write_all(to, &buffer[..got], at)?;
                at += got as u64;
            }
        }
        rustix::fs::ftruncate(to, like.size).map_err(|e| format!("set its size: {e}"))?;
        Ok(None)
    })
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8], mut at: u64) -> Result<(), String> {
    while !bytes.is_empty() {
        let put = rustix::io::pwrite(to, bytes, at).map_err(|e| format!("write: {e}"))?;
        bytes = &bytes[put..];
        at += put as u64;
    }
    Ok(())
}

impl Beside {
    pub(super) fn sighting(&self) -> crate::catalog::Sighting {
        let attributes = tree::attributes(&self.stat);
        debug_assert_eq!(attributes.kind, FileKind::Regular);
        crate::catalog::Sighting {
            handle: self.handle.clone(),
            attributes,
            place: Some((self.parent, self.name.clone())),
        }
    }
}
