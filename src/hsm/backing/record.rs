//! The record's place on a file: which extended attribute, and the seal where users could write it.
//!
//! Invariant: a record that is handed out was written by Cairn. With `trusted.*` the kernel sees
//! to that (CAP_SYS_ADMIN); in `user.*` the value ends in an HMAC-SHA256 over the record and the
//! inode's handle under the instance's key, so that a user can neither make one nor move one.

use super::{Backing, BackingError, FileStat, MAX_XATTR, describe};
use crate::format::record::{Record, State};
use crate::hsm::version;
use crate::id::{NodeHandle, Timestamp};
use hmac::{Hmac, Mac};
use rustix::fs::XattrFlags;
use sha2::Sha256;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

type HmacSha256 = Hmac<Sha256>;

/// Bytes of a seal.
const SEAL: usize = 32;

/// The instance's key for sealing records. Never logged.
#[derive(Clone)]
pub struct SealKey(pub [u8; 32]);

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey(..)")
    }
}

/// Where records are kept.
#[derive(Debug, Clone)]
pub enum RecordKeeping {
    /// `trusted.cairn.record`.
    Trusted,
    /// `user.cairn.record`, sealed.
    Sealed(SealKey),
}

impl RecordKeeping {
    /// Name of the attribute.
    #[must_use]
    pub fn attribute(&self) -> &'static str {
        match self {
            Self::Trusted => "trusted.cairn.record",
            Self::Sealed(_) => "user.cairn.record",
        }
    }
}

/// How [`Backing::set_record`] treats a record that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetHow {
    /// There must be none.
    Create,
    /// There must be one.
    Replace,
    /// Either.
    Either,
}

fn seal(key: &SealKey, node: &NodeHandle, record: &[u8]) -> Result<HmacSha256, BackingError> {
    // HMAC takes keys of any length, so this cannot fail for ours.
    let mut mac = HmacSha256::new_from_slice(&key.0).map_err(|_| BackingError::NoSealKey)?;
    mac.update(b"cairn record 1\0");
    mac.update(&node.kind.to_le_bytes());
    mac.update(&(node.bytes.len() as u64).to_le_bytes());
    mac.update(&node.bytes);
    mac.update(record);
    Ok(mac)
}

/// The path by which attributes of any descriptor, `O_PATH` too, can be reached.
pub(super) fn through_proc(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

impl Backing {
    /// The record on a file; `None` if it has none. Any descriptor will do.
    ///
    /// # Errors
    /// [`BackingError::Record`] if the attribute is damaged or newer, [`BackingError::BadSeal`],
    /// or what reading it met.
    pub fn record(&self, fd: BorrowedFd<'_>) -> Result<Option<Record>, BackingError> {
        let mut buffer = [0_u8; MAX_XATTR];
        let name = self.keeping.attribute();
        let len = match rustix::fs::getxattr(through_proc(fd), name, &mut buffer[..]) {
            Ok(len) => len,
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => return Ok(None),
            // Longer than anything that Cairn writes.
            Err(rustix::io::Errno::RANGE) => {
                return Err(BackingError::Record {
                    object: describe(fd),
                    source: crate::format::record::RecordError::Damaged("too long"),
                });
            }
            Err(why) => return Err(BackingError::of("read the record of", || describe(fd), why)),
        };
        let mut bytes = &buffer[..len];
        if let RecordKeeping::Sealed(key) = &self.keeping {
            let bad = || BackingError::BadSeal {
                object: describe(fd),
            };
            let split = len.checked_sub(SEAL).ok_or_else(bad)?;
            let (record, tag) = bytes.split_at(split);
            seal(key, &self.handle_of(fd)?, record)?
                .verify_slice(tag)
                .map_err(|_| bad())?;
            bytes = record;
        }
        Record::decode(bytes)
            .map(Some)
            .map_err(|source| BackingError::Record {
                object: describe(fd),
                source,
            })
    }

    /// Writes the record. Not durable before an fsync of the file. Any descriptor will do.
    ///
    /// # Errors
    /// [`BackingError::Io`] with EEXIST or ENODATA if `how` does not fit, ENOSPC, ...
    pub fn set_record(
        &self,
        fd: BorrowedFd<'_>,
        record: &Record,
        how: SetHow,
    ) -> Result<(), BackingError> {
        let mut bytes = record.encode();
        if let RecordKeeping::Sealed(key) = &self.keeping {
            let tag = seal(key, &self.handle_of(fd)?, &bytes)?
                .finalize()
                .into_bytes();
            bytes.extend_from_slice(&tag);
        }
        let flags = match how {
            SetHow::Create => XattrFlags::CREATE,
            SetHow::Replace => XattrFlags::REPLACE,
            SetHow::Either => XattrFlags::empty(),
        };
        rustix::fs::setxattr(through_proc(fd), self.keeping.attribute(), &bytes, flags)
            .map_err(|why| BackingError::of("write the record of", || describe(fd), why))
    }

    /// Takes the record away, and a kept capability with it. Succeeds if there is none. Not
    /// durable before an fsync.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn remove_record(&self, fd: BorrowedFd<'_>) -> Result<(), BackingError> {
        self.forget_capability(fd)?;
        match rustix::fs::removexattr(through_proc(fd), self.keeping.attribute()) {
            Ok(()) | Err(rustix::io::Errno::NODATA) => Ok(()),
            Err(why) => Err(BackingError::of(
                "remove the record of",
                || describe(fd),
                why,
            )),
        }
    }
}

impl Backing {
    /// P5: drops the stub `seen` of a file that was cut to nothing, if that is still what it is, in
    /// the node's turn, which this takes: the look that led here may be stale, and the file by now
    /// be another version, resident, or archived anew. `false`: look again. Not durable before an
    /// fsync.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn drop_truncated(
        &self,
        node: &NodeHandle,
        fd: BorrowedFd<'_>,
        seen: &Record,
    ) -> Result<bool, BackingError> {
        let _turn = self.turn(node);
        let same = |now: &Record| {
            now.state != State::Resident && (now.file, now.version) == (seen.file, seen.version)
        };
        let still = self.record(fd)?.as_ref().is_some_and(same) && self.stat(fd)?.size == 0;
        if still {
            self.remove_record(fd)?;
        }
        Ok(still)
    }
}

impl Backing {
    /// P4 (1): what of the file (open for reading) contradicts the stub that it carries; `None`: nothing.
    /// A stub that an earlier recall left marked may hold data; its mtime is not looked at, because that
    /// recall's writes may have changed it.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn contradiction(
        &self,
        fd: BorrowedFd<'_>,
        stat: &FileStat,
        record: &Record,
    ) -> Result<Option<&'static str>, BackingError> {
        if record.state == State::Resident {
            return Ok(None);
        }
        if stat.size != record.size {
            return Ok(Some("its size differs"));
        }
        if record.state == State::Released {
            if self.has_data(fd)? {
                return Ok(Some("it holds data"));
            }
            if stat.mtime != record.mtime {
                return Ok(Some("its modification time differs"));
            }
        }
        Ok(None)
    }
}

/// `true` if `record` was written on this inode of this filesystem, not copied or restored from
/// another one. Records keep the first 40 bytes of longer handles.
#[must_use]
pub fn belongs_to(record: &Record, fs: crate::id::FsUuid, node: &NodeHandle) -> bool {
    let kept = &node.bytes[..node.bytes.len().min(40)];
    record.fs == fs && record.handle.kind == node.kind && record.handle.bytes == kept
}

/// The ctime a user should see, given the record and the backing's own ctime: the record's while
/// the backing's is Cairn's own doing (P4), else the backing's.
#[must_use]
pub fn shown_ctime(record: Option<&Record>, backing: Timestamp) -> Timestamp {
    let ours = record.filter(|r| {
        r.ctime_floor
            .is_some_and(|floor| version::in_window(floor, backing))
    });
    ours.map_or(backing, |r| r.user_ctime)
}

/// `true` for an error that means "no such attribute namespace here".
pub(super) fn unsupported(why: &io::Error) -> bool {
    matches!(
        why.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EPERM | libc::EACCES)
    )
}
