//! Whose fault a failure is: the target's disk, on which no name fares better now and a later try may,
//! or the one name's, which would fail at every later try, too.
//!
//! Invariants:
//! - ENOSPC, EDQUOT, EIO and EROFS are the disk's only if a file cannot be written beside it: ext4 says
//!   ENOSPC on an empty disk, too, when the attributes of a file do not fit into their block.
//! - A name is given up only if it failed again after the disk was found good.

use super::RestoreError;
use super::node::os;
use rustix::fs::{AtFlags, Mode, OFlags, XattrFlags};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};

/// What the file is called that is written to try the disk, in the work.
const PROBE: &str = "probe";
/// The attribute that it gets, about as long as a record.
const ATTRIBUTE: &str = "trusted.cairn.probe";
const ATTRIBUTE_LEN: usize = 256;
/// More than any one name but a very strange one takes: so a disk that is full but for a little is full.
const CONTENT: usize = 256 << 10;
/// The step of a failure that the disk was found to be at fault for.
const STEP: &str = "write to";

/// Can it be the disk's? The number alone.
pub(super) fn may_be_of_the_disk(errno: Option<i32>) -> bool {
    matches!(
        errno,
        Some(libc::ENOSPC | libc::EDQUOT | libc::EIO | libc::EROFS)
    )
}

/// Ends the restore: the disk was found to be at fault, a test stops it, or the report cannot be written.
pub(super) fn ends_all(why: &RestoreError) -> bool {
    let RestoreError::Io { step, .. } = why else {
        return false;
    };
    ["reach", "write", STEP].contains(step)
}

/// Writes a file in `work`, whole and durable, and removes it. `why`: what made somebody ask.
///
/// # Errors
/// One that [`ends_all`].
pub(super) fn disk(work: BorrowedFd<'_>, why: impl std::fmt::Display) -> Result<(), RestoreError> {
    let tried = write(work).and_then(|()| remove(work));
    if tried.is_err() {
        // Whatever is left of it goes with the work.
        let _ = remove(work);
    }
    tried.map_err(RestoreError::io(STEP, format!("the target ({why})")))
}

fn write(work: BorrowedFd<'_>) -> io::Result<()> {
    remove(work)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(work, os(PROBE.as_bytes()), flags, Mode::RUSR | Mode::WUSR)?;
    let value = [1; ATTRIBUTE_LEN];
    rustix::fs::fsetxattr(file.as_fd(), ATTRIBUTE, &value, XattrFlags::empty())?;
    let mut file = File::from(file);
    file.write_all(&vec![1; CONTENT])?;
    file.sync_all()
}

fn remove(work: BorrowedFd<'_>) -> io::Result<()> {
    match rustix::fs::unlinkat(work, PROBE, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(why) => Err(why.into()),
    }
}
