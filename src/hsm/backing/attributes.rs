//! A node's extended attributes, as they go into its member: all but Cairn's own.

use super::privileges::{CAPABILITY, KEPT};
use super::{Backing, BackingError, describe, record::through_proc};
use crate::format::member::Xattr;
use std::os::fd::BorrowedFd;

/// Linux's limits: `XATTR_LIST_MAX` and `XATTR_SIZE_MAX`.
const LIST_MAX: usize = 65536;
const SIZE_MAX: usize = 65536;
/// Attribute names that are Cairn's own begin so.
const PRIVATE: [&[u8]; 2] = [b"trusted.cairn.", b"user.cairn."];

/// Is this extended attribute Cairn's own (neither shown nor archived)?
#[must_use]
pub fn is_private(name: &[u8]) -> bool {
    PRIVATE.iter().any(|prefix| name.starts_with(prefix))
}

/// Names and values, as in [`Member::xattrs`](crate::format::member::Member::xattrs).
pub type Attributes = Vec<Xattr>;

impl Backing {
    /// All extended attributes of an inode (any descriptor) but Cairn's own, in the order of
    /// `listxattr`, ACLs in the kernel's binary form, a kept capability as the capability that it
    /// is. One that goes while being read is left out.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn attributes(&self, fd: BorrowedFd<'_>) -> Result<Attributes, BackingError> {
        let path = through_proc(fd);
        let fail = |why| BackingError::of("read the attributes of", || describe(fd), why);
        let mut list = vec![0_u8; LIST_MAX];
        let len = match rustix::fs::listxattr(&path, &mut list[..]) {
            Ok(len) => len,
            Err(rustix::io::Errno::OPNOTSUPP) => 0,
            Err(why) => return Err(fail(why)),
        };
        if len == 0 {
            return Ok(Vec::new());
        }
        let mut value = vec![0_u8; SIZE_MAX];
        let mut found = Vec::new();
        let names = || list[..len].split(|b| *b == 0).filter(|n| !n.is_empty());
        if names().any(|n| n == KEPT.as_bytes())
            && let Some(value) = self.capability(fd).map_err(fail)?
        {
            found.push((CAPABILITY.as_bytes().to_vec(), value));
        }
        let kept = !found.is_empty();
        for name in names().filter(|n| !is_private(n)) {
            if kept && name == CAPABILITY.as_bytes() {
                continue;
            }
            match rustix::fs::getxattr(&path, name, &mut value[..]) {
                Ok(len) => found.push((name.to_vec(), value[..len].to_vec())),
                Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => {}
                Err(why) => return Err(fail(why)),
            }
        }
        Ok(found)
    }
}
