//! P10: what this backing filesystem can do, found out by trying it on an unnamed file.
//!
//! Every lack is named with what it disables. Leases are host-local, so a filesystem that other
//! hosts may have mounted allows no release, however well its leases look from here.

use super::{Access, BackingError, SetHow, attributes, describe, record, sys};
use crate::hsm::lease::{Lease, LeaseError, LeaseKind};
use rustix::fs::{FallocateFlags, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Filesystems that Cairn knows by the magic number of `statfs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filesystem {
    /// ext2, ext3 or ext4.
    Ext,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
    /// OpenZFS.
    Zfs,
    /// Memory: nothing survives power loss. For tests.
    Tmpfs,
    /// Anything else: taken for one that other hosts may share.
    Other(u64),
}

impl Filesystem {
    fn of(magic: u64) -> Self {
        match magic {
            0xEF53 => Self::Ext,
            0x5846_5342 => Self::Xfs,
            0x9123_683E => Self::Btrfs,
            0x2FC1_2FC1 => Self::Zfs,
            0x0102_1994 => Self::Tmpfs,
            other => Self::Other(other),
        }
    }
    /// Only this host can have it mounted (writably).
    #[must_use]
    pub fn is_host_local(self) -> bool {
        !matches!(self, Self::Other(_))
    }
    /// What fsync wrote survives power loss.
    #[must_use]
    pub fn survives_power_loss(self) -> bool {
        self != Self::Tmpfs
    }
    /// Name for messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Zfs => "zfs",
            Self::Tmpfs => "tmpfs",
            Self::Other(_) => "unknown",
        }
    }
}

/// Something that the backing cannot do, and what follows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lacking {
    /// No proof that nobody writes.
    #[error("file leases do not work here ({0}): nothing can be archived or released")]
    Leases(String),
    /// Blocks cannot be given back.
    #[error("holes cannot be punched here ({0}): nothing can be released")]
    Punch(String),
    /// Nodes have no lasting names.
    #[error("file handles cannot be had here ({0}): nothing can be archived or released")]
    Handles(String),
    /// Handles cannot be opened.
    #[error(
        "files cannot be opened by handle ({0}): they are found by the names that the catalog knows"
    )]
    OpenByHandle(String),
    /// Other hosts may read stubs as zeros.
    #[error(
        "the filesystem (magic {0:#x}) may be shared with other hosts, where leases of this one do not count: nothing can be released"
    )]
    HostLocal(u64),
}

impl Lacking {
    fn forbids_release(&self) -> bool {
        !matches!(self, Self::OpenByHandle(_))
    }
    fn forbids_archive(&self) -> bool {
        matches!(self, Self::Leases(_) | Self::Handles(_))
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// The filesystem.
    pub filesystem: Filesystem,
    /// Steps in which it keeps times, nanoseconds (1 to 2 s).
    pub granularity_ns: u32,
    /// What it cannot do.
    pub lacking: Vec<Lacking>,
}

impl Capabilities {
    /// May files be released here?
    ///
    /// # Errors
    /// The first lack that forbids it.
    pub fn release(&self) -> Result<(), &Lacking> {
        self.lacking
            .iter()
            .find(|l| l.forbids_release())
            .map_or(Ok(()), Err)
    }
    /// May files be archived here?
    ///
    /// # Errors
    /// The first lack that forbids it.
    pub fn archive(&self) -> Result<(), &Lacking> {
        self.lacking
            .iter()
            .find(|l| l.forbids_archive())
            .map_or(Ok(()), Err)
    }
    /// The administrator declares that no other host has the filesystem mounted (P10).
    pub fn declare_only_host(&mut self) {
        self.lacking.retain(|l| !matches!(l, Lacking::HostLocal(_)));
    }
}

pub(super) struct Probed {
    pub(super) capabilities: Capabilities,
    pub(super) access: Access,
    /// `trusted.*` attributes can be set.
    pub(super) trusted: bool,
}

/// Tries everything in the directory `root`; leaves nothing behind.
pub(super) fn probe(root: BorrowedFd<'_>) -> Result<Probed, BackingError> {
    let fail = |step| move |why: io::Error| BackingError::of(step, || describe(root), why);
    let statfs = rustix::fs::fstatfs(root).map_err(|e| fail("statfs")(e.into()))?;
    #[allow(clippy::cast_sign_loss, reason = "a magic number is a bit pattern")]
    let filesystem = Filesystem::of(statfs.f_type as u64 & 0xFFFF_FFFF);
    let file = scratch(root).map_err(fail("create a probe file in"))?;
    let mut lacking = Vec::new();
    if let Filesystem::Other(magic) = filesystem {
        lacking.push(Lacking::HostLocal(magic));
    }
    if let Err(why) = leases(&file) {
        lacking.push(Lacking::Leases(why.to_string()));
    }
    if let Err(why) = punch(&file) {
        lacking.push(Lacking::Punch(why.to_string()));
    }
    let mut access = Access::Paths;
    match sys::name_to_handle(root) {
        Err(why) => lacking.push(Lacking::Handles(why.to_string())),
        Ok(handle) => match sys::open_by_handle(root, &handle, OFlags::PATH | OFlags::CLOEXEC) {
            Ok(_) => access = Access::Handles,
            Err(why) => lacking.push(Lacking::OpenByHandle(why.to_string())),
        },
    }
    let trusted =
        attribute_works(&file, "trusted.cairn.probe").map_err(fail("probe trusted.* in"))?;
    if !trusted && !attribute_works(&file, "user.cairn.probe").map_err(fail("probe user.* in"))? {
        return Err(fail(
            "keep extended attributes (no trusted.*, no user.*) in",
        )(io::Error::from_raw_os_error(libc::EOPNOTSUPP)));
    }
    let granularity_ns = granularity(&file).map_err(fail("probe the time stamps of"))?;
    Ok(Probed {
        capabilities: Capabilities {
            filesystem,
            granularity_ns,
            lacking,
        },
        access,
        trusted,
    })
}

/// An unnamed file; where the filesystem has none, a file whose name goes at once.
fn scratch(root: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (flags, mode) = (OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
    match rustix::fs::openat(root, c".", flags | OFlags::TMPFILE, mode) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {
            let name = format!(".cairn-probe-{}", std::process::id());
            let fd = rustix::fs::openat(root, &name, flags | OFlags::CREATE | OFlags::EXCL, mode)?;
            rustix::fs::unlinkat(root, &name, rustix::fs::AtFlags::empty())?;
            Ok(fd)
        }
        done => Ok(done?),
    }
}

/// A write lease is granted alone and refused beside another descriptor.
fn leases(file: &OwnedFd) -> io::Result<()> {
    let refused = |why: LeaseError| io::Error::other(why.to_string());
    drop(Lease::take(file.as_fd(), LeaseKind::Alone).map_err(refused)?);
    let second = rustix::fs::open(
        record::through_proc(file.as_fd()),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    match Lease::take(file.as_fd(), LeaseKind::Alone) {
        Err(LeaseError::InUse) => {}
        Err(why) => return Err(refused(why)),
        Ok(_) => return Err(io::Error::other("a second descriptor is not noticed")),
    }
    match Lease::take(second, LeaseKind::NoWriters) {
        Err(LeaseError::InUse) => Ok(()),
        Err(why) => Err(refused(why)),
        Ok(_) => Err(io::Error::other("a writer is not noticed")),
    }
}

fn punch(file: &OwnedFd) -> io::Result<()> {
    rustix::io::pwrite(file, &[1; 8192], 0)?;
    let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(file, how, 0, 8192)?;
    let mut read = [1; 1];
    rustix::io::pread(file, &mut read, 0)?;
    if read == [0] {
        Ok(())
    } else {
        Err(io::Error::other("a punched hole keeps its data"))
    }
}

fn attribute_works(file: &OwnedFd, name: &str) -> io::Result<bool> {
    debug_assert!(attributes::is_private(name.as_bytes()) && SetHow::Create != SetHow::Replace);
    match rustix::fs::fsetxattr(file, name, b"1", XattrFlags::CREATE) {
        Ok(()) => Ok(true),
        Err(why) if record::unsupported(&why.into()) => Ok(false),
        Err(why) => Err(why.into()),
    }
}

/// Sets a time with nine telling digits and an odd second, and looks how much of it is kept.
fn granularity(file: &OwnedFd) -> io::Result<u32> {
    let odd = Timespec {
        tv_sec: 1_000_000_001,
        tv_nsec: 111_111_111,
    };
    rustix::fs::futimens(
        file,
        &Timestamps {
            last_access: odd,
            last_modification: odd,
        },
    )?;
    let kept = rustix::fs::fstat(file)?;
    let (sec, nsec) = (kept.st_mtime, kept.st_mtime_nsec as u64);
    let lost = 111_111_111_u64.saturating_sub(nsec);
    Ok(match lost {
        _ if sec != odd.tv_sec => 2_000_000_000,
        0 => 1,
        111_111_111 => 1_000_000_000,
        // Some power of ten was cut off: the smallest one above what was lost.
        lost => 10_u32.pow(lost.ilog10() + 1),
    })
}
