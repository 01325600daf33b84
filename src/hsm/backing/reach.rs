//! P7: can users go around the mount?
//!
//! Release is enabled only where they cannot: somewhere from the backing's root upward (the root
//! itself included) there is a directory that only its owner may enter, and the owner is root or
//! who runs Cairn. A search bit for group or others, or an ACL that could give one, opens it: the
//! group bits of a directory with an ACL are its mask, so an ACL never hides behind mode 0700.

use super::{Backing, BackingError, FileStat, describe};
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsFd, OwnedFd};

/// Who can get at the backing without the mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Only root or who runs Cairn: this directory stops everybody else.
    Guarded {
        /// The directory that guards.
        by: String,
    },
    /// Users may come in by path: stubs would read as zeros.
    Open,
}

impl Backing {
    /// Walks from the root directory up and looks for a directory that guards it.
    ///
    /// # Errors
    /// What the walk met.
    pub fn users_can_reach(&self) -> Result<Reach, BackingError> {
        let me = rustix::process::geteuid().as_raw();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut above: Option<OwnedFd> = None;
        let mut last = None;
        loop {
            let fd = above.as_ref().map_or(self.root(), OwnedFd::as_fd);
            let fail = |why| BackingError::of("look above", || describe(fd), why);
            let stat = FileStat::of(fd).map_err(fail)?;
            if stat.mode & 0o077 == 0 && (stat.uid == 0 || stat.uid == me) {
                return Ok(Reach::Guarded { by: describe(fd) });
            }
            // The root of the namespace is its own parent.
            if last == Some((stat.dev, stat.ino)) {
                return Ok(Reach::Open);
            }
            last = Some((stat.dev, stat.ino));
            let up = rustix::fs::openat(fd, c"..", flags, Mode::empty())
                .map_err(|why| BackingError::of("look above", || describe(fd), why))?;
            above = Some(up);
        }
    }
}
