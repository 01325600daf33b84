//! Where undeleted files go: directories found, or made, with the rights of who asks.
//!
//! Invariants:
//! - Every directory on the way is passed only if who asks may pass it, and nothing is made in one
//!   that they may not write to. No link is followed, and no other filesystem is entered.
//! - As many descriptors are open as the tree is deep.

use super::super::ask::Asker;
use super::super::tree::{self, look_at};
use super::super::{EngineError, Shared};
use super::is_absent;
use super::member::Source;
use crate::catalog::NodeId;
use crate::error::Failure;
use crate::format::member::Member;
use crate::hsm::backing::{Backing, How, NodeKind};
use crate::hsm::undelete::{Owner, end_directory, make_directory};
use crate::id::NodeHandle;
use rustix::fs::Access;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// What who asks may do, and what is made belongs to whom.
#[derive(Clone, Copy)]
pub(super) struct Rights<'a> {
    asker: &'a Asker,
}

impl<'a> Rights<'a> {
    pub(super) fn new(asker: &'a Asker) -> Self {
        Self { asker }
    }

    fn may(&self, dir: &Dir, access: Access) -> bool {
        let Asker { uid, gid, groups } = self.asker;
        *uid == 0 || cairn_fuse::may_access(dir.fd.as_fd(), (*uid, *gid, groups), access)
    }

    /// May they learn whether a name is in it?
    ///
    /// # Errors
    /// They may not.
    pub(super) fn may_pass(&self, dir: &Dir) -> Result<(), EngineError> {
        if self.may(dir, Access::EXEC_OK) {
            return Ok(());
        }
        let why = "you may not enter its directory";
        Err(EngineError::refused(Failure::NotPermitted, why))
    }

    /// # Errors
    /// They may not.
    pub(super) fn may_make_in(&self, dir: &Dir) -> Result<(), EngineError> {
        if self.may(dir, Access::WRITE_OK | Access::EXEC_OK) {
            return Ok(());
        }
        let why = "you may not make files in its directory";
        Err(EngineError::refused(Failure::NotPermitted, why)
            .hint("--to names another place for it"))
    }

    /// Who owned the file in the end may have been given it when its data were new: what was archived
    /// is theirs only if it was so already then.
    ///
    /// # Errors
    /// It was another user's.
    pub(super) fn may_have_back(&self, member: &Member) -> Result<(), EngineError> {
        if self.asker.owns(member.uid) {
            return Ok(());
        }
        let why = "what was archived of it was another user's";
        Err(EngineError::refused(Failure::NotPermitted, why).hint("root can bring it back"))
    }

    /// Root gives back to whom it belonged (`last`: its owner in the end); others get their own, with
    /// its group where they are in it.
    pub(super) fn owner_of(
        &self,
        member: &Member,
        last: Option<u32>,
        dir: &Dir,
    ) -> Result<Owner, EngineError> {
        let Asker { uid, gid, groups } = self.asker;
        if *uid == 0 {
            let uid = last.unwrap_or(member.uid);
            return Ok(Owner {
                uid,
                gid: member.gid,
                in_full: true,
            });
        }
        let within = *gid == member.gid || groups.contains(&member.gid);
        let gid = if within {
            member.gid
        } else {
            dir.group_for(*gid)?
        };
        Ok(Owner {
            uid: *uid,
            gid,
            in_full: false,
        })
    }

    /// Of a directory of which nothing is known.
    fn owner_in(&self, dir: &Dir) -> Result<Owner, EngineError> {
        Ok(Owner {
            uid: self.asker.uid,
            gid: dir.group_for(self.asker.gid)?,
            in_full: false,
        })
    }
}

/// An open directory.
pub(super) struct Dir {
    backing: Arc<Backing>,
    pub(super) fd: OwnedFd,
    pub(super) handle: NodeHandle,
    pub(super) id: NodeId,
    path: Vec<u8>,
    device: u64,
    /// It was made here, as this says: its mode and times are set when all is in it.
    made: Option<(Member, Owner)>,
}

impl Dir {
    /// Has something in it that name?
    pub(super) fn has(&self, name: &[u8]) -> Result<bool, EngineError> {
        use std::os::unix::ffi::OsStrExt;
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        match rustix::fs::statat(&self.fd, std::ffi::OsStr::from_bytes(name), flags) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(why) => Err(EngineError::io("looking for a name")(why.into())),
        }
    }

    pub(super) fn path_of(&self, name: &[u8]) -> Vec<u8> {
        if self.path.is_empty() {
            return name.to_vec();
        }
        [&self.path[..], name].join(&b'/')
    }

    /// The group of what a user makes in it.
    fn group_for(&self, gid: u32) -> Result<u32, EngineError> {
        let stat = self.backing.stat(self.fd.as_fd())?;
        Ok(if stat.mode & 0o2000 == 0 {
            gid
        } else {
            stat.gid
        })
    }
}

/// The directories on the way to the place at hand.
pub(super) struct Dirs<'a> {
    shared: &'a Shared,
    rights: Rights<'a>,
    top: Dir,
    way: Vec<(Vec<u8>, Dir)>,
}

impl<'a> Dirs<'a> {
    pub(super) fn begin(
        shared: &'a Shared,
        top: NodeHandle,
        rights: Rights<'a>,
    ) -> Result<Self, EngineError> {
        let hint = tree::hint(shared, &top)?;
        let fd = shared.backing.open_node(&top, hint.as_deref(), How::Path)?;
        let top = dir(shared, fd, None)?;
        Ok(Self {
            shared,
            rights,
            top,
            way: Vec::new(),
        })
    }

    fn at(&self) -> &Dir {
        self.way.last().map_or(&self.top, |(_, dir)| dir)
    }

    /// Goes back to where the way to `parts` forks.
    fn back_to(&mut self, parts: &[Vec<u8>]) {
        let same = self
            .way
            .iter()
            .zip(parts)
            .take_while(|((name, _), part)| name == *part)
            .count();
        for (_, dir) in self.way.drain(same..).rev() {
            leave(dir);
        }
    }

    /// One further; `false`: nothing has that name.
    fn enter(&mut self, name: &[u8]) -> Result<bool, EngineError> {
        let at = self.at();
        self.rights.may_pass(at)?;
        let looked = match look_at(&self.shared.backing, at.fd.as_fd(), name, at.device) {
            Ok(looked) => looked,
            Err(why) if is_absent(&why) => None,
            Err(why) => return Err(why.into()),
        };
        let Some(looked) = looked else {
            return Ok(false);
        };
        if looked.stat.kind != NodeKind::Directory {
            let why = "what has the name of its directory is none";
            return Err(EngineError::refused(Failure::Exists, why).hint("--to names another place"));
        }
        let next = dir(self.shared, looked.fd, None)?;
        self.way.push((name.to_vec(), next));
        Ok(true)
    }

    /// The directory, if it is there.
    pub(super) fn look(&mut self, parts: &[Vec<u8>]) -> Result<Option<&Dir>, EngineError> {
        self.back_to(parts);
        for part in parts.iter().skip(self.way.len()) {
            if !self.enter(part)? {
                return Ok(None);
            }
        }
        Ok(Some(self.at()))
    }

    /// The directory, which must be there.
    pub(super) fn open(&mut self, parts: &[Vec<u8>]) -> Result<&Dir, EngineError> {
        self.look(parts)?.ok_or_else(|| {
            EngineError::refused(Failure::NotFound, "the directory it would lie in is gone")
        })
    }

    /// The directory, made where it is not there, as the aggregate has that of `path`'s.
    pub(super) fn make(
        &mut self,
        parts: &[Vec<u8>],
        source: &Source,
        path: &[u8],
    ) -> Result<&Dir, EngineError> {
        self.back_to(parts);
        for at in self.way.len()..parts.len() {
            if self.enter(&parts[at])? {
                continue;
            }
            self.rights.may_make_in(self.at())?;
            // As many names are taken from the end of the old path as from the new one's.
            let member = above(path, parts.len() - at).and_then(|path| source.directory(path));
            // What another user noted on it is not to be read by whoever makes it anew.
            let member = member.map(|mut member| {
                if !self.rights.asker.owns(member.uid) {
                    member.xattrs.clear();
                }
                member
            });
            let made = self.make_one(&parts[at], member)?;
            self.way.push((parts[at].clone(), made));
        }
        Ok(self.at())
    }

    fn make_one(&self, name: &[u8], member: Option<Member>) -> Result<Dir, EngineError> {
        let (shared, at) = (self.shared, self.at());
        let owner = match &member {
            Some(member) => self.rights.owner_of(member, None, at)?,
            None => self.rights.owner_in(at)?,
        };
        let fd = make_directory(&shared.backing, at.fd.as_fd(), name, member.as_ref(), owner)?;
        if let Some(gate) = shared.late.gate.get() {
            gate.named(&at.handle, name);
        }
        dir(shared, fd, member.map(|member| (member, owner)))
    }

    /// All is in them.
    pub(super) fn end(mut self) {
        self.back_to(&[]);
    }
}

fn leave(dir: Dir) {
    if let Some((member, owner)) = &dir.made
        && let Err(why) = dir
            .backing
            .reopen(dir.fd.as_fd(), How::Read)
            .and_then(|open| end_directory(open.as_fd(), member, *owner))
    {
        tracing::warn!(%why, "mode and times of a directory could not be given back");
    }
}

fn dir(shared: &Shared, fd: OwnedFd, made: Option<(Member, Owner)>) -> Result<Dir, EngineError> {
    let handle = shared.backing.handle_of(fd.as_fd())?;
    let id = tree::ensure_directory(shared, &handle)?;
    Ok(Dir {
        backing: Arc::clone(&shared.backing),
        device: shared.backing.stat(fd.as_fd())?.dev,
        path: shared.catalog.path_of(id)?.unwrap_or_default(),
        fd,
        handle,
        id,
        made,
    })
}

/// The path without its last `names` names.
fn above(path: &[u8], names: usize) -> Option<&[u8]> {
    (0..names).try_fold(path, |path, _| {
        let end = path.iter().rposition(|b| *b == b'/')?;
        Some(&path[..end])
    })
}
