//! Making inodes: mknod, mkdir, symlink, link, create. Under the caller's identity, so that
//! ownership, setgid directories, default ACLs and quota are the backing filesystem's.

use crate::attr::{Entry, device_parts};
use crate::backing::proc_path;
use crate::core::Core;
use crate::creds::{Creator, act_as};
use crate::node::{InUse, Node};
use crate::park::Reply;
use crate::{Caller, EventKind};
use rustix::fs::{AtFlags, CWD, FileType, Mode, linkat, makedev, mkdirat, mknodat, symlinkat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// What to make.
#[derive(Clone, Copy)]
pub(crate) enum New<'a> {
    /// A file, FIFO, socket or device: type and permission bits, device number.
    Node(u32, u32),
    /// A directory with these permission bits.
    Dir(u32),
    /// A symbolic link to this.
    Symlink(&'a Path),
}

impl Core {
    /// Makes an inode and answers as a lookup does.
    pub(crate) fn make(
        &self,
        request: u64,
        creator: Creator,
        parent: u64,
        name: &OsStr,
        new: New<'_>,
    ) -> Result<(Arc<Node>, Entry), Errno> {
        let (dir_node, dir) = self.dir(parent)?;
        let seen = match self.made_before(request, dir.as_fd(), name)? {
            Some(seen) => seen,
            None => {
                let intended = self.intend_name(request, dir.as_fd(), name, None);
                let made = make_under(creator, &dir, name, new);
                self.settle(intended, made);
                made?;
                self.backing.look(dir.as_fd(), name)?
            }
        };
        let made = self.entry(seen)?;
        self.note_at(
            EventKind::Created,
            &made.0.handle,
            &dir_node,
            name.as_bytes(),
        );
        Ok(made)
    }

    pub(crate) fn link(
        &self,
        request: u64,
        id: u64,
        parent: u64,
        name: &OsStr,
    ) -> Result<(Arc<Node>, Entry), Errno> {
        let node = self.node(id)?;
        let fd = self.fd(&node)?;
        let (dir_node, dir) = self.dir(parent)?;
        let seen = match self.made_before(request, dir.as_fd(), name)? {
            Some(seen) => seen,
            None => {
                let intended = self.intend_name(request, dir.as_fd(), name, Some(&node));
                let made = link_to(&fd, &dir, name);
                self.settle(intended, made);
                made?;
                self.backing.look(dir.as_fd(), name)?
            }
        };
        let linked = self.entry(seen)?;
        self.note_at(
            EventKind::Linked,
            &linked.0.handle,
            &dir_node,
            name.as_bytes(),
        );
        Ok(linked)
    }

    /// Makes a file and opens it.
    pub(crate) fn create(
        self: &Arc<Self>,
        request: u64,
        creator: Creator,
        place: (u64, &OsStr),
        mode: u32,
        flags: i32,
        reply: fuser::ReplyCreate,
    ) {
        let new = New::Node(libc::S_IFREG | (mode & 0o7777), 0);
        self.take_open_back(request);
        match self.make(request, creator, place.0, place.1, new) {
            Ok((node, entry)) => {
                let caller = Caller {
                    uid: creator.uid,
                    gid: creator.gid,
                    pid: creator.pid,
                };
                let reply = Reply::Create(reply, Box::new(entry));
                // The file is new and empty: there is nothing to cut off.
                let flags = flags & !libc::O_TRUNC;
                self.open_node(request, InUse::new(node), caller, flags, reply);
            }
            // Somebody else made it, around this mount. The kernel looks again and opens it.
            Err(Errno::EXIST) if flags & libc::O_EXCL == 0 => {
                reply.error(crate::park::errno(Errno::STALE));
            }
            Err(error) => reply.error(crate::park::errno(error)),
        }
    }
}

fn link_to(fd: &OwnedFd, dir: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    match linkat(fd, "", dir, name, AtFlags::EMPTY_PATH) {
        // Without CAP_DAC_READ_SEARCH the empty path is refused.
        Err(Errno::NOENT | Errno::PERM) => {
            let path = proc_path(fd.as_fd());
            linkat(CWD, path, dir, name, AtFlags::SYMLINK_FOLLOW)
        }
        other => other,
    }
}

fn make_under(creator: Creator, dir: &OwnedFd, name: &OsStr, new: New<'_>) -> Result<(), Errno> {
    let setgid = matches!(new, New::Node(mode, _) if mode & libc::S_ISGID != 0);
    let _acting = act_as(creator, setgid);
    match new {
        New::Node(mode, device) => {
            let (major, minor) = device_parts(device);
            mknodat(
                dir,
                name,
                FileType::from_raw_mode(mode),
                Mode::from_raw_mode(mode & 0o7777),
                makedev(major, minor),
            )
        }
        New::Dir(mode) => mkdirat(dir, name, Mode::from_raw_mode(mode & 0o7777)),
        New::Symlink(target) => symlinkat(target, dir, name),
    }
}
