//! What came after the snapshot: told, or put where its aggregate's index says.

use super::super::later::Member;
use super::{Loss, Make, RestoreError, Stub, node, probe, push};
use crate::format::aggregate::{Index, IndexEntry};
use crate::format::member::{Kind, MAX_NAME, MemberPath};
use crate::format::namespace::{Attributes, Data, Inode, InodeKind};
use crate::format::record::CopyHint;
use crate::hsm::index_cache::IndexCache;
use crate::id::{AggregateId, FileId};
use rustix::fs::RenameFlags;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

impl Make<'_> {
    /// All of it, by path.
    pub(in super::super) fn later(&mut self, indexes: &IndexCache) -> Result<(), RestoreError> {
        let later = std::mem::take(&mut self.later);
        for (id, why) in later.unread.clone() {
            self.path.clear();
            let why = format!("what {id} holds is not known: {why}");
            self.lost(Loss::Failed, &why)?;
        }
        for (file, member) in later.rest() {
            self.path.clone_from(&member.path);
            let of = format!(
                "version {} of file {file}, in {}",
                member.version.0, member.aggregate
            );
            if !self.order.with_later {
                self.lost(Loss::Later, &of)?;
                continue;
            }
            match self.twice(|make| make.put(indexes, file, &member)) {
                Ok(()) => self.lost(Loss::LaterPlaced, &of)?,
                Err(why) if probe::ends_all(&why) => return Err(why),
                Err(why) => self.lost(Loss::Failed, &why.to_string())?,
            }
        }
        Ok(())
    }

    fn put(
        &mut self,
        indexes: &IndexCache,
        file: FileId,
        member: &Member,
    ) -> Result<(), RestoreError> {
        let id = member.aggregate;
        let loaded = indexes.load(self.order.tier, self.tier, id)?;
        let index = loaded.index();
        let missing = || RestoreError::Snapshot {
            snapshot: id,
            why: "its index changed".to_owned(),
        };
        let path = MemberPath::new(member.path.clone()).map_err(|_| missing())?;
        let entry = index.by_path(&path).ok_or_else(missing)?;
        let (inode, stub) = self.inode(id, file, entry)?;
        let Some((name, above)) = split(&member.path) else {
            return Err(missing());
        };
        let directory = self.enter_directory(index, above)?;
        let before = rustix::fs::fstat(&directory)
            .map_err(|e| RestoreError::io("stat", "a directory")(e.into()))?;
        let name = self.name_beside(directory.as_fd(), name, file, stub.is_some())?;
        let up_to = member.path.len() - split(&member.path).map_or(0, |(name, _)| name.len());
        self.path.truncate(up_to);
        self.path.extend_from_slice(&name);
        self.make(
            directory.as_fd(),
            &name,
            &inode,
            stub.as_ref(),
            RenameFlags::empty(),
        )?;
        rustix::fs::futimens(&directory, &node::times_of(&before))
            .map_err(|e| RestoreError::io("set the times of", "a directory")(e.into()))?;
        self.outcome.names += 1;
        if let Some(stub) = &stub {
            self.outcome.stubs += 1;
            self.outcome.bytes += stub.size;
        }
        Ok(())
    }

    /// The name that the file gets: its own, where nothing or an older version of it has that; else
    /// one beside it. What another file has stays that file's.
    fn name_beside(
        &self,
        at: BorrowedFd<'_>,
        name: &[u8],
        file: FileId,
        has_data: bool,
    ) -> Result<Vec<u8>, RestoreError> {
        let is_taken = |name: &[u8]| -> Result<bool, RestoreError> {
            let Some(found) = node::found(at, name)? else {
                return Ok(false);
            };
            Ok(self.file_of(found.as_fd())? != Some(file))
        };
        if !is_taken(name)? {
            return Ok(name.to_vec());
        }
        let suffix = format!(".cairn-{file}");
        let room = MAX_NAME.saturating_sub(suffix.len());
        let mut other = name[..name.len().min(room)].to_vec();
        other.extend_from_slice(suffix.as_bytes());
        // An empty file has no record: it is the one that an earlier try made.
        if is_taken(&other)? && has_data {
            let why = rustix::io::Errno::EXIST;
            let object = String::from_utf8_lossy(&other).into_owned();
            return Err(RestoreError::io("name", object)(why.into()));
        }
        Ok(other)
    }

    /// Which file's stub it is, if it is one.
    fn file_of(&self, found: BorrowedFd<'_>) -> Result<Option<FileId>, RestoreError> {
        let stat = rustix::fs::fstat(found)
            .map_err(|e| RestoreError::io("stat", "what is there")(e.into()))?;
        if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
            return Ok(None);
        }
        Ok(self.backing.record(found)?.map(|record| record.file))
    }

    /// The member as an inode: its extended attributes stand in its own header.
    fn inode(
        &self,
        id: AggregateId,
        file: FileId,
        entry: &IndexEntry,
    ) -> Result<(Inode, Option<Stub>), RestoreError> {
        let bad = |source| RestoreError::Aggregate {
            aggregate: id,
            source,
        };
        let headers = self.order.tier.read(id, entry.header, entry.header_len())?;
        let member = entry.whole_member(&headers).map_err(bad)?;
        let damaged = |why: &str| RestoreError::Snapshot {
            snapshot: id,
            why: format!("{}: {why}", member.path),
        };
        let Kind::Regular { size, .. } = member.kind else {
            return Err(damaged("it is no file"));
        };
        let identity = member.identity.filter(|i| i.file == file);
        let identity = identity.ok_or_else(|| damaged("it is another file"))?;
        let data = Data {
            file,
            version: identity.version,
            crc: identity.crc.ok_or_else(|| damaged("it has no sum"))?,
            blocks_crc: entry.blocks_crc(),
            older: None,
            copies: Vec::new(),
        };
        let copies = vec![CopyHint {
            tier: self.tier,
            aggregate: id,
            header: entry.header,
        }];
        let inode = Inode {
            kind: InodeKind::File { size, data: None },
            attributes: attributes(&member),
            linked: None,
        };
        let stub = (size > 0).then_some(Stub {
            data,
            size,
            mtime: None,
            copies,
        });
        Ok((inode, stub))
    }

    /// The directory at a path of the tree; what is missing on the way is made as the index has it.
    fn enter_directory(&mut self, index: &Index, path: &[u8]) -> Result<OwnedFd, RestoreError> {
        let fail = RestoreError::io("open", "the tree");
        let mut here = self.site.tree()?.try_clone_to_owned().map_err(fail)?;
        let mut so_far = Vec::new();
        for name in path.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
            push(&mut so_far, name);
            let is_new = node::found(here.as_fd(), name)?.is_none();
            let inner = node::enter(here.as_fd(), name)?;
            if is_new {
                let entry = MemberPath::new(so_far.clone()).ok();
                let entry = entry.and_then(|path| index.by_path(&path));
                self.twice(|make| make.new_directory(inner.as_fd(), entry, name))?;
            }
            here = inner;
        }
        Ok(here)
    }

    fn new_directory(
        &mut self,
        fd: BorrowedFd<'_>,
        entry: Option<&IndexEntry>,
        name: &[u8],
    ) -> Result<(), RestoreError> {
        let Some(entry) = entry.filter(|e| e.member.kind == Kind::Directory) else {
            // Nobody knows whose it is: root's alone.
            return Ok(());
        };
        let attributes = attributes(&entry.member);
        let work = self.site.work()?;
        let refused = node::set_attributes(fd, false, &attributes, name, work)?;
        node::set_directory_times(fd, &attributes, name)?;
        refused.map_or(Ok(()), |why| self.lost(Loss::Attributes, &why))
    }
}

fn attributes(member: &crate::format::member::Member) -> Attributes {
    Attributes {
        mode: member.mode,
        uid: member.uid,
        gid: member.gid,
        mtime: member.mtime,
        atime: member.atime,
        ctime: member.ctime,
        xattrs: member.xattrs.clone(),
    }
}

/// Name and path of its directory.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => Some((&path[at + 1..], &path[..at])),
        None if path.is_empty() => None,
        None => Some((path, b"")),
    }
}
