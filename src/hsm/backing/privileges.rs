//! What the kernel takes from a file whenever its data are written or punched: setuid and setgid
//! bits (unless the writer has CAP_FSETID) and file capabilities (always).
//!
//! Right for a user's write; a release or a recall changes no data as the user sees them, and gives
//! back what was taken.

use super::{Backing, BackingError, describe, record::through_proc};
use rustix::fs::{Mode, XattrFlags};
use std::os::fd::BorrowedFd;

const CAPABILITY: &str = "security.capability";
/// `XATTR_CAPS_SZ_3` is 24; anything longer is none that the kernel made.
const LONGEST: usize = 64;

/// The privileges of a file before its blocks are touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Privileges {
    mode: u32,
    capability: Option<Vec<u8>>,
}

impl Backing {
    /// Notes a file's privileges. Any descriptor will do.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn privileges(&self, fd: BorrowedFd<'_>) -> Result<Privileges, BackingError> {
        let mut value = [0_u8; LONGEST];
        let capability = match rustix::fs::getxattr(through_proc(fd), CAPABILITY, &mut value[..]) {
            Ok(len) => Some(value[..len].to_vec()),
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => None,
            Err(why) => {
                return Err(BackingError::of(
                    "read the privileges of",
                    || describe(fd),
                    why,
                ));
            }
        };
        Ok(Privileges {
            mode: self.stat(fd)?.mode,
            capability,
        })
    }

    /// Gives back what was taken since. Changes the ctime only if something was. Not durable before
    /// an fsync.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn restore_privileges(
        &self,
        fd: BorrowedFd<'_>,
        before: &Privileges,
    ) -> Result<(), BackingError> {
        let now = self.privileges(fd)?;
        let fail = |why| BackingError::of("give back the privileges of", || describe(fd), why);
        if now.mode != before.mode {
            let mode = Mode::from_raw_mode(before.mode);
            rustix::fs::chmod(through_proc(fd), mode).map_err(fail)?;
        }
        self.restore_capability(fd, before)
    }

    /// Gives back a file capability that was taken since, and nothing else: what users may have
    /// changed meanwhile (the mode) stays theirs. Changes the ctime only if one was taken. Not
    /// durable before an fsync.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn restore_capability(
        &self,
        fd: BorrowedFd<'_>,
        before: &Privileges,
    ) -> Result<(), BackingError> {
        let Some(value) = &before.capability else {
            return Ok(());
        };
        if self.privileges(fd)?.capability.as_ref() == Some(value) {
            return Ok(());
        }
        rustix::fs::setxattr(through_proc(fd), CAPABILITY, value, XattrFlags::empty())
            .map_err(|why| BackingError::of("give back the capability of", || describe(fd), why))
    }
}
