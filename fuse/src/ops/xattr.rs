//! Extended attributes: the backing's, those that the residency hides, and those it answers.

use crate::backing::proc_path;
use crate::core::{Core, file_ref, own};
use crate::creds::{Creator, act_for_group};
use crate::ledger::Intent;
use crate::node::Node;
use crate::{AttributeChange, Caller, Changed, EventKind, FileRef};
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
        request: u64,
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
        let change = AttributeChange::Set { value, flags };
        let flags = XattrFlags::from_bits_retain(flags as u32);
        let path = proc_path(fd.as_fd());
        let new = flags.contains(XattrFlags::CREATE);
        let there = || self.value_of(file, name, caller);
        let intended = (new && self.nodes.ledger.is_some() && there() == Err(Errno::NODATA))
            .then(|| self.intend(request, Intent::SetNew))
            .flatten();
        let result = if let Some(answer) = self.change_elsewhere(&node, file, name, change) {
            answer
        } else {
            let _acting = (name.as_bytes() == ACCESS_ACL).then(|| {
                act_for_group(Creator {
                    uid: caller.uid,
                    gid: caller.gid,
                    pid: caller.pid,
                    umask: 0,
                })
            });
            setxattr(&path, name, value, flags)
        };
        let done = || self.had_begun(request, Intent::SetNew) && there().as_deref() == Ok(value);
        let result = match result {
            Err(Errno::EXIST) if done() => Ok(()),
            result => result,
        };
        self.settle(intended, result);
        result?;
        self.changed(&node, fd.as_fd(), Changed::Other);
        self.note(EventKind::Attributes, &node.handle);
        Ok(())
    }

    /// The names that a user may see, each ended by NUL.
    pub(crate) fn listxattr(&self, caller: Caller, id: u64) -> Result<Vec<u8>, Errno> {
        let node = self.node(id)?;
        let fd = self.fd(&node)?;
        let all = grow(|buffer| listxattr(proc_path(fd.as_fd()), buffer))?;
        let file = file_ref(&node, fd.as_fd());
        let names = || all.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        let mut seen = Vec::with_capacity(all.len());
        for mut name in names() {
            if self.residency.is_private(OsStr::from_bytes(name)) {
                match self.residency.listed_as(file, OsStr::from_bytes(name)) {
                    Some(other) if names().all(|there| there != other.as_bytes()) => {
                        name = other.as_bytes();
                    }
                    _ => continue,
                }
            }
            // The server is root and sees `trusted.*`; the kernel shows it to nobody else.
            if caller.uid == 0 || !name.starts_with(b"trusted.") {
                seen.extend_from_slice(name);
                seen.push(0);
            }
        }
        Ok(seen)
    }

    pub(crate) fn removexattr(
        &self,
        request: u64,
        caller: Caller,
        id: u64,
        name: &OsStr,
    ) -> Result<(), Errno> {
        let node = self.node(id)?;
        let fd = self.fd(&node)?;
        if self.residency.is_private(name) {
            return Err(Errno::PERM);
        }
        let file = file_ref(&node, fd.as_fd());
        let path = proc_path(fd.as_fd());
        let there = || self.value_of(file, name, caller).is_ok();
        let intended = (self.nodes.ledger.is_some() && there())
            .then(|| self.intend(request, Intent::Unset))
            .flatten();
        let removed = self
            .change_elsewhere(&node, file, name, AttributeChange::Remove)
            .unwrap_or_else(|| removexattr(&path, name));
        let result = match removed {
            Err(Errno::NODATA) if self.had_begun(request, Intent::Unset) => Ok(()),
            result => result,
        };
        self.settle(intended, result);
        result?;
        self.changed(&node, fd.as_fd(), Changed::Other);
        self.note(EventKind::Attributes, &node.handle);
        Ok(())
    }

    /// A change that the residency makes itself; `None`: the backing is to make it.
    fn change_elsewhere(
        &self,
        node: &Node,
        file: FileRef<'_>,
        name: &OsStr,
        change: AttributeChange<'_>,
    ) -> Option<Result<(), Errno>> {
        if !node.is_file() {
            return None;
        }
        let answer = self.residency.change_attribute(file, name, change)?;
        Some(answer.map_err(own))
    }

    /// The value as users see it, wherever it is.
    fn value_of(&self, file: FileRef<'_>, name: &OsStr, caller: Caller) -> Result<Vec<u8>, Errno> {
        match self.residency.attribute(file, name, caller) {
            Some(answer) => answer.map_err(own),
            None => grow(|buffer| getxattr(proc_path(file.fd), name, buffer)),
        }
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
