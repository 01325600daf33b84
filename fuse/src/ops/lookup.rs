//! lookup, forget, readlink, statfs.

use crate::attr::Entry;
use crate::core::Core;
use crate::node::Node;
use rustix::fs::{StatVfs, fstatvfs, readlinkat};
use rustix::io::Errno;
use std::ffi::{CString, OsStr};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

impl Core {
    /// The inode that a name stands for, counted as one lookup.
    pub(crate) fn lookup(&self, parent: u64, name: &OsStr) -> Result<(Arc<Node>, Entry), Errno> {
        if name == ".." {
            return Err(Errno::NOENT); // the kernel never asks; nobody shall leave the backing
        }
        let (_, dir) = self.dir(parent)?;
        let name = CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)?;
        self.entry(self.backing.glance(dir.as_fd(), &name)?)
    }

    /// The kernel drops lookups of an inode.
    pub(crate) fn forget(&self, id: u64, count: u64) {
        let Some(node) = self.nodes.forget(id, count) else {
            return;
        };
        let backing = self.idle_ids.lock().pop(&id);
        let pin = node.take_pin();
        self.let_go(&node);
        // The last reference of a removed file: closing it frees its blocks.
        if node.state.lock().large_orphan {
            self.close_later((backing, pin));
        }
    }

    pub(crate) fn readlink(&self, id: u64) -> Result<Vec<u8>, Errno> {
        let node = self.node(id)?;
        let fd = self.fd(&node)?;
        Ok(readlinkat(fd, "", Vec::new())?.into_bytes())
    }

    pub(crate) fn statfs(&self) -> Result<StatVfs, Errno> {
        fstatvfs(self.backing.root())
    }
}
