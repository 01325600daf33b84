//! Extended attributes: the backing's, those that the residency hides, and those it answers.

use crate::backing::proc_path;
use crate::core::{Core, file_ref, own};
use crate::creds::{Creator, act_for_group};
use crate::{Caller, EventKind};
use rustix::fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

/// The kernel's largest value and list (`XATTR_SIZE_MAX`).
const LARGEST: usize = 64 * 1024;
/// Setting this may take the set-group-id bit away, depending on the caller's groups.
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";

impl Core {
    pub(crate) fn getxattr(&self, caller: Caller, id: u64, name: &OsStr) -> Result<Vec<u8>, Errno> {
        let node = self.node(id)?;
        let fd = self.fd(&node)?;
        let file = file_ref(&node, fd.as_fd());
        if let Some(answer) = self.residency.attribute(file, name, caller) {
            return answer.map_err(own);
        }
        if self.residency.is_private(name) {
            return Err(Errno::NODATA);
        }
        grow(|buffer| getxattr(proc_path(fd.as_fd()), name, buffer))
    }

    pub(crate) fn setxattr(
        &self,
        caller: Caller,
        id: u64,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> Result<(), Errno> {
        let node = self.node(id)?;
        let fd = self.fd(&node)?;
        let file = file_ref(&node, fd.as_fd());
        if let Some(answer) = self.residency.set_attribute(file, name, value, caller) {
            return answer.map_err(own);
        }
        if self.residency.is_private(name) {
            return Err(Errno::PERM);
        }
        let flags = XattrFlags::from_bits_retain(flags as u32);
        let path = proc_path(fd.as_fd());
        if name.as_bytes() == ACCESS_ACL {
            let _acting = act_for_group(Creator {
                uid: caller.uid,
                gid: caller.gid,
                pid: caller.pid,
                umask: 0,
            });
            setxattr(path, name, value, flags)?;
        } else {
            setxattr(path, name, value, flags)?;
        }
        self.note(EventKind::Attributes, &node.handle);
        Ok(())
    }

    /// The names that a user may see, each ended by NUL.
    pub(crate) fn listxattr(&self, caller: Caller, id: u64) -> Result<Vec<u8>, Errno> {
        let node = self.node(id)?;
        let fd = self.fd(&node)?;
        let all = grow(|buffer| listxattr(proc_path(fd.as_fd()), buffer))?;
        let mut seen = Vec::with_capacity(all.len());
        for name in all.split_inclusive(|byte| *byte == 0) {
            let bare = name.strip_suffix(&[0]).unwrap_or(name);
            // The server is root and sees `trusted.*`; the kernel shows it to nobody else.
            let trusted = caller.uid != 0 && bare.starts_with(b"trusted.");
            if !trusted && !self.residency.is_private(OsStr::from_bytes(bare)) {
                seen.extend_from_slice(name);
            }
        }
        Ok(seen)
    }

    pub(crate) fn removexattr(&self, id: u64, name: &OsStr) -> Result<(), Errno> {
        let node = self.node(id)?;
        let fd = self.fd(&node)?;
        if self.residency.is_private(name) {
            return Err(Errno::PERM);
        }
        removexattr(proc_path(fd.as_fd()), name)?;
        self.note(EventKind::Attributes, &node.handle);
        Ok(())
    }
}

/// Calls with a small buffer first and with the largest if that does not do.
fn grow(call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 512];
    let length = match call(&mut buffer) {
        Err(Errno::RANGE) => {
            buffer.resize(LARGEST, 0);
            call(&mut buffer)?
        }
        other => other?,
    };
    buffer.truncate(length);
    Ok(buffer)
}
