//! What the kernel takes from a file whenever its data are written or punched: setuid and setgid
//! bits (unless the writer has CAP_FSETID) and file capabilities (always).
//!
//! Right for a user's write; a release or a recall changes no data as the user sees them, and gives
//! back what was taken. From before its first write until the file is settled again the capability
//! is therefore *kept* in an attribute of Cairn's own.
//!
//! Invariants:
//! - The kept copy is durable before the first write that takes the capability, and goes only once
//!   the capability itself is back: a crash in between loses nothing.
//! - It counts only for the owner for whom it was kept: the kernel takes a capability when the owner
//!   changes, and a crash may come before the kept copy is taken, too.
//! - It counts only beside a record that says Released or Recalling. No resident file has one, since
//!   a user's write must take the capability for good.
//! - What users see is `security.capability` while it is there, else the kept copy. What they set
//!   or remove, they set or remove in both.
//! - Set-id bits are given back only if they were there right before the write or punch, this thread
//!   is one from whose files the kernel takes them, and owner and mode are otherwise the same since.
//! - All that writes any of these runs in the node's turn ([`Backing::turn`]).
//!
//! Without `trusted.*` (an unprivileged mount) nothing is kept: there nobody may set a capability.

use super::{Backing, BackingError, RecordKeeping, describe, record::through_proc};
use crate::format::record::State;
use rustix::fs::{Mode, XattrFlags, getxattr, removexattr, setxattr};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities};
use std::os::fd::BorrowedFd;

/// The attribute that holds a file capability.
pub(in crate::hsm) const CAPABILITY: &str = "security.capability";
/// Where it is kept.
pub(in crate::hsm) const KEPT: &str = "trusted.cairn.capability";
/// First byte of a kept capability whose owner is kept with it: user and group follow. The kernel's
/// own bytes begin with 0 or 1, and so did those that were once kept as they are.
const WITH_OWNER: u8 = 2;
/// `XATTR_CAPS_SZ_3` is 24; anything longer is none that the kernel made.
const LONGEST: usize = 64;
/// Set-user-id and set-group-id.
const SET_ID: u32 = 0o6000;

/// A file's mode and owner while it had set-id bits: see [`Backing::set_id`].
#[derive(Debug, Clone, Copy)]
pub struct SetId {
    mode: u32,
    owner: (u32, u32),
}

fn read(fd: BorrowedFd<'_>, name: &str) -> Result<Option<Vec<u8>>, Errno> {
    let mut value = [0_u8; LONGEST];
    match getxattr(through_proc(fd), name, &mut value[..]) {
        Ok(len) => Ok(Some(value[..len].to_vec())),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(why) => Err(why),
    }
}

fn owner(fd: BorrowedFd<'_>) -> Result<(u32, u32), Errno> {
    let stat = rustix::fs::stat(through_proc(fd))?;
    Ok((stat.st_uid, stat.st_gid))
}

/// What stands before a kept capability.
fn header((uid, gid): (u32, u32)) -> [u8; 9] {
    let mut header = [WITH_OWNER; 9];
    header[1..5].copy_from_slice(&uid.to_le_bytes());
    header[5..].copy_from_slice(&gid.to_le_bytes());
    header
}

fn remove(fd: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    match removexattr(through_proc(fd), name) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        done => done,
    }
}

impl Backing {
    fn keeps(&self) -> bool {
        matches!(self.keeping(), RecordKeeping::Trusted)
    }

    /// What is kept, if it is still the owner's for whom it was.
    fn kept(&self, fd: BorrowedFd<'_>) -> Result<Option<Vec<u8>>, Errno> {
        if !self.keeps() {
            return Ok(None);
        }
        let Some(mut value) = read(fd, KEPT)? else {
            return Ok(None);
        };
        if value.first() != Some(&WITH_OWNER) {
            return Ok(Some(value));
        }
        let header = header(owner(fd)?);
        let same = value.starts_with(&header);
        Ok(same.then(|| value.split_off(header.len())))
    }

    fn keep(fd: BorrowedFd<'_>, value: &[u8]) -> Result<(), Errno> {
        let kept = [&header(owner(fd)?)[..], value].concat();
        setxattr(through_proc(fd), KEPT, &kept, XattrFlags::empty())
    }

    /// Does its record say that the data are elsewhere?
    fn is_stub(&self, fd: BorrowedFd<'_>) -> bool {
        let record = self.record(fd);
        record.is_ok_and(|r| r.is_some_and(|r| r.state != State::Resident))
    }

    /// Keeps the capability of a stub whose blocks are about to be written or punched; `true` if
    /// there is one. In the node's turn. To be followed by a sync before the first write.
    ///
    /// # Errors
    /// What the filesystem says; no room ([`BackingError::is_full`]), for one.
    pub fn keep_capability(&self, fd: BorrowedFd<'_>) -> Result<bool, BackingError> {
        let keep = || {
            if self.kept(fd)?.is_some() {
                // An earlier step was cut short: what is on the file may be gone already.
                return Ok(true);
            }
            let Some(value) = read(fd, CAPABILITY)?.filter(|_| self.keeps()) else {
                return Ok(false);
            };
            Self::keep(fd, &value).map(|()| true)
        };
        keep()
            .map_err(|why: Errno| BackingError::of("keep the capability of", || describe(fd), why))
    }

    /// Gives a kept capability back; it stays kept. In the node's turn. Not durable before a sync.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn give_back_capability(&self, fd: BorrowedFd<'_>) -> Result<(), BackingError> {
        let give = || match self.kept(fd)? {
            Some(value) if read(fd, CAPABILITY)?.as_ref() != Some(&value) => {
                setxattr(through_proc(fd), CAPABILITY, &value, XattrFlags::empty())
            }
            _ => Ok(()),
        };
        give().map_err(|why: Errno| {
            BackingError::of("give back the capability of", || describe(fd), why)
        })
    }

    /// Gives a kept capability back and forgets the kept copy: before the record says Resident, or
    /// Released again. In the node's turn. Not durable before a sync; the filesystem's journal keeps
    /// the order.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn settle_capability(&self, fd: BorrowedFd<'_>) -> Result<(), BackingError> {
        self.give_back_capability(fd)?;
        self.forget_capability(fd)
    }

    /// Drops the kept copy alone: the data are the users' own, and so is what the file has.
    ///
    /// # Errors
    /// What the filesystem says.
    pub(super) fn forget_capability(&self, fd: BorrowedFd<'_>) -> Result<(), BackingError> {
        if !self.keeps() {
            return Ok(());
        }
        remove(fd, KEPT)
            .map_err(|why| BackingError::of("drop the kept capability of", || describe(fd), why))
    }

    /// The capability as users see it.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn capability(&self, fd: BorrowedFd<'_>) -> Result<Option<Vec<u8>>, Errno> {
        if let Some(value) = read(fd, CAPABILITY)? {
            return Ok(Some(value));
        }
        match self.kept(fd)? {
            Some(value) if self.is_stub(fd) => Ok(Some(value)),
            // It may have been given back between the two looks.
            _ => read(fd, CAPABILITY),
        }
    }

    /// A user sets the capability. In the node's turn.
    ///
    /// # Errors
    /// As `setxattr(2)`.
    pub fn set_capability(
        &self,
        fd: BorrowedFd<'_>,
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<(), Errno> {
        if !(self.keeps() && self.is_stub(fd)) {
            return setxattr(through_proc(fd), CAPABILITY, value, flags);
        }
        let there = self.capability(fd)?.is_some();
        if there && flags.contains(XattrFlags::CREATE) {
            return Err(Errno::EXIST);
        }
        if !there && flags.contains(XattrFlags::REPLACE) {
            return Err(Errno::NODATA);
        }
        // The file's own first: the kernel looks at the value.
        setxattr(through_proc(fd), CAPABILITY, value, XattrFlags::empty())?;
        Self::keep(fd, value)
    }

    /// A user takes the capability away. In the node's turn.
    ///
    /// # Errors
    /// As `removexattr(2)`.
    pub fn remove_capability(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        if self.capability(fd)?.is_none() {
            return Err(Errno::NODATA);
        }
        self.lose_capability(fd)
    }

    /// The file has no capability any more: the kernel took it because its owner changed. In the
    /// node's turn.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn lose_capability(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        remove(fd, CAPABILITY)?;
        if self.keeps() {
            remove(fd, KEPT)?;
        }
        Ok(())
    }

    /// The set-id bits that this thread's next write or punch takes; `None`: it takes none. In the
    /// node's turn, right before that.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn set_id(&self, fd: BorrowedFd<'_>) -> Result<Option<SetId>, BackingError> {
        let stat = self.stat(fd)?;
        let there = stat.mode & SET_ID != 0 && !self.leaves_set_id();
        Ok(there.then_some(SetId {
            mode: stat.mode,
            owner: (stat.uid, stat.gid),
        }))
    }

    /// Does the kernel leave this thread's files their set-id bits? Only a capability of the initial
    /// user namespace counts, as it does for `trusted.*`.
    fn leaves_set_id(&self) -> bool {
        let has = |c: CapabilitySets| c.effective.contains(CapabilitySet::FSETID);
        self.keeps() && capabilities(None).is_ok_and(has)
    }

    /// Gives back the set-id bits that a write or punch took. What a user took meanwhile, by a
    /// change of owner or mode, stays taken. In the node's turn. Not durable before a sync.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn restore_set_id(
        &self,
        fd: BorrowedFd<'_>,
        before: Option<SetId>,
    ) -> Result<(), BackingError> {
        let Some(SetId { mode, owner }) = before else {
            return Ok(());
        };
        let set = |mode| {
            rustix::fs::chmod(through_proc(fd), Mode::from_raw_mode(mode))
                .map_err(|why| BackingError::of("give back the mode of", || describe(fd), why))
        };
        let now = self.stat(fd)?;
        let same = (now.uid, now.gid) == owner && now.mode & !SET_ID == mode & !SET_ID;
        if !same || now.mode == mode {
            return Ok(());
        }
        set(mode)?;
        // An owner that changed between the two looks must not get them.
        let now = self.stat(fd)?;
        if (now.uid, now.gid) != owner {
            set(now.mode & !SET_ID)?;
        }
        Ok(())
    }
}
