//! unlink, rmdir, rename: names go or move.

use crate::backing::Seen;
use crate::core::Core;
use crate::node::Node;
use crate::{Event, EventKind, NodeHandle, sys};
use fuser::RenameFlags;
use rustix::fs::{AtFlags, renameat_with, unlinkat};
use rustix::io::Errno;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// Closing the last reference of a file with more blocks than this goes to a worker (1 MiB).
const LARGE: u64 = 2048;

/// An inode one of whose names is about to go.
struct Victim {
    handle: NodeHandle,
    fd: Option<Arc<OwnedFd>>,
    node: Option<Arc<Node>>,
    last_name: bool,
    large: bool,
}

/// Does closing its last reference take long?
pub(crate) fn is_large(stat: &rustix::fs::Statx) -> bool {
    stat.stx_blocks > LARGE
}

impl Core {
    /// Removes a name; `dir` is for directories.
    pub(crate) fn unlink(
        &self,
        request: u64,
        parent: u64,
        name: &OsStr,
        dir: bool,
    ) -> Result<(), Errno> {
        let (parent_node, parent_fd) = self.dir(parent)?;
        let seen = self.look_to_keep(parent_fd.as_fd(), name);
        if let Some(end) = self.removed_before(request, &seen) {
            return end;
        }
        let victim = self.victim(seen?, dir);
        let intended = self.intend_removal(request, &victim.handle);
        let flags = if dir {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        let result = unlinkat(&parent_fd, name, flags);
        self.settle(intended, result);
        if result.is_ok() {
            self.note_at(
                EventKind::Unlinked,
                &victim.handle,
                &parent_node,
                name.as_bytes(),
            );
        }
        self.bury(victim, result.is_ok());
        result
    }

    /// Looks at a name that may go, with a descriptor of its inode: the one that is there already,
    /// if the node is known.
    fn look_to_keep(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<Seen, Errno> {
        let c_name = CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)?;
        let mut seen = self.backing.glance(dir, &c_name)?;
        if seen.fd.is_none() {
            let node = self.nodes.by_handle(&seen.handle);
            seen.fd = node.and_then(|node| self.fd(&node).ok());
        }
        match seen.fd {
            Some(_) => Ok(seen),
            None => self.backing.look(dir, name),
        }
    }

    /// Holds on to an inode before a name of it goes.
    fn victim(&self, seen: Seen, dir: bool) -> Victim {
        let last_name = dir || seen.stat.stx_nlink <= 1;
        let known = seen.fd.as_ref().filter(|_| last_name);
        let node = known.and_then(|fd| self.nodes.pin(&seen.handle, fd));
        if let (Some(node), Some(fd)) = (&node, known)
            && node.state.lock().io.in_use()
        {
            self.keep(node, fd);
        }
        Victim {
            node,
            handle: seen.handle,
            fd: seen.fd,
            last_name,
            large: is_large(&seen.stat),
        }
    }

    fn bury(&self, victim: Victim, gone: bool) {
        if let Some(node) = &victim.node {
            if gone {
                let mut state = node.state.lock();
                state.orphan = true;
                state.large_orphan = victim.large;
                let open = state.io.is_open();
                drop(state);
                if !open {
                    self.let_go(node);
                } else if let Some(fd) = &victim.fd {
                    self.keep(node, fd);
                }
                // A registered backing id would keep the blocks. To close it is quick: the pin
                // still holds the inode. (Of an open file it is not here.)
                let _idle = self.idle_ids.lock().pop(&node.id);
            } else {
                self.nodes.unpin(node);
                self.let_go(node);
            }
        }
        if gone && victim.last_name && victim.large {
            self.close_later(victim.fd);
        }
    }

    pub(crate) fn rename(
        &self,
        request: u64,
        from: (u64, &OsStr),
        to: (u64, &OsStr),
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let (from_node, from_fd) = self.dir(from.0)?;
        let (to_node, to_fd) = self.dir(to.0)?;
        let source = self.handle_of_name(from_fd.as_fd(), from.1);
        if let Some(end) = self.moved_before(request, &source) {
            return end;
        }
        let replaces =
            !flags.intersects(RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE);
        let victim = if replaces {
            match self.look_to_keep(to_fd.as_fd(), to.1) {
                Ok(seen) => {
                    let dir = u32::from(seen.stat.stx_mode) & libc::S_IFMT == libc::S_IFDIR;
                    Some(self.victim(seen, dir))
                }
                Err(Errno::NOENT) => None,
                Err(error) => return Err(error),
            }
        } else {
            None
        };
        let intended = self.intend_move(request, &source);
        let native = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
        let result = renameat_with(&from_fd, from.1, &to_fd, to.1, native);
        self.settle(intended, result);
        let from = (from_node.handle.clone(), from.1.as_bytes().to_vec());
        let to = (to_node.handle.clone(), to.1.as_bytes().to_vec());
        // Two names of one inode: rename does nothing, as POSIX has it.
        let same = matches!((&source, &victim), (Ok(s), Some(v)) if *s == v.handle);
        if result.is_ok() && !same {
            if let Some(victim) = &victim {
                self.residency.note(Event {
                    kind: EventKind::Unlinked,
                    node: victim.handle.clone(),
                    place: Some(to.clone()),
                    from: None,
                });
            }
            if flags.contains(RenameFlags::RENAME_EXCHANGE)
                && let Ok(other) = self.handle_of_name(from_fd.as_fd(), OsStr::from_bytes(&from.1))
            {
                self.note_rename(other, to.clone(), from.clone());
            }
            if let Ok(source) = source {
                self.note_rename(source, from, to);
            }
        }
        if let Some(victim) = victim {
            self.bury(victim, result.is_ok() && !same);
        }
        result
    }

    fn note_rename(
        &self,
        node: NodeHandle,
        from: (NodeHandle, Vec<u8>),
        to: (NodeHandle, Vec<u8>),
    ) {
        self.residency.note(Event {
            kind: EventKind::Renamed,
            node,
            place: Some(to),
            from: Some(from),
        });
    }

    pub(crate) fn handle_of_name(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
    ) -> Result<NodeHandle, Errno> {
        if self.backing.handles.is_err() {
            return self.backing.look(dir, name).map(|seen| seen.handle);
        }
        let name = CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)?;
        sys::handle_of_name(dir, &name)
    }
}
