//! The tree is made, directory by directory, from the listings.
//!
//! Invariants:
//! - Each name is made below the descriptor of its directory, never by a path; one directory is open
//!   at a time, and going back up is checked.
//! - A name in the hidden tree has everything: so one that is found there was made by an earlier try.
//! - A directory's own attributes come when all that lies in it is there.
//! - A name that fails is tried again if the disk is good ([`probe`]), and then told: it fails at every
//!   later try. If the disk is not, all ends, and a later try goes on.
//! - Names of a directory ascend, and no directory is made twice: a listing in which that is not so
//!   makes nothing twice, and is named with its line.

use super::later::Later;
use super::site::Site;
use super::spool::{Place, Spool};
use super::{Loss, Order, Outcome, Report, RestoreError, Step};
use super::{node, probe};
use crate::format::namespace::{
    self, Attributes, Data, Directory, Entry, Inode, InodeKind, Line, What,
};
use crate::format::record::CopyHint;
use crate::hsm::backing::{Backing, BackingError, How};
use crate::id::{NodeHandle, TierId};
use rustix::fs::{FileType, RenameFlags};
use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

mod after;

/// A directory on the way.
struct Level {
    attributes: Attributes,
    /// Directories in it that are still to be made, the last first: names, and where listed.
    left: Vec<(Vec<u8>, NodeHandle, u64)>,
    /// In which snapshot that was.
    link: usize,
    /// Length of its path.
    path: usize,
    /// Which inode it is.
    identity: (u64, u64),
}

/// See the module.
pub(super) struct Make<'a> {
    order: &'a Order<'a>,
    site: &'a Site,
    backing: &'a Backing,
    spool: &'a Spool,
    lines: BufReader<&'a std::fs::File>,
    later: Later,
    report: &'a mut dyn Report,
    outcome: &'a mut Outcome,
    tier: TierId,
    /// Directories that were made.
    made: HashSet<NodeHandle>,
    /// Inodes with more names than one, by what they were: what they are.
    linked: HashMap<NodeHandle, NodeHandle>,
    path: Vec<u8>,
}

impl<'a> Make<'a> {
    pub(super) fn new(
        order: &'a Order<'a>,
        site: &'a Site,
        spool: &'a Spool,
        later: Later,
        report: &'a mut dyn Report,
        outcome: &'a mut Outcome,
    ) -> Result<Self, RestoreError> {
        outcome.ended = spool.ended;
        outcome.gaps = spool.gaps;
        Ok(Self {
            order,
            site,
            backing: site.backing()?,
            spool,
            lines: BufReader::with_capacity(1 << 16, &spool.file),
            later,
            report,
            outcome,
            tier: order.tier.mark().tier,
            made: HashSet::new(),
            linked: HashMap::new(),
            path: Vec::new(),
        })
    }

    fn reached(&self, step: Step) -> Result<(), RestoreError> {
        (self.order.reached)(step).map_err(RestoreError::io("reach", "a step"))
    }

    fn lost(&mut self, loss: Loss, why: &str) -> Result<(), RestoreError> {
        *self.outcome.lost.entry(loss).or_default() += 1;
        self.report
            .lost(&self.path, loss, why)
            .map_err(RestoreError::io("write", "the report"))
    }

    /// All that the snapshot lists.
    pub(super) fn tree(&mut self) -> Result<(), RestoreError> {
        let root = self.spool.root.clone();
        let fail = RestoreError::io("open", "the tree");
        let mut here = self.site.tree()?.try_clone_to_owned().map_err(fail)?;
        let Some(level) = self.directory(here.as_fd(), &root)? else {
            return Err(RestoreError::Snapshot {
                snapshot: self
                    .spool
                    .snapshots
                    .last()
                    .copied()
                    .unwrap_or(crate::id::AggregateId { epoch: 0, seq: 0 }),
                why: "the root is not listed".to_owned(),
            });
        };
        let mut levels = vec![level];
        while let Some(level) = levels.last_mut() {
            let Some((name, node, line)) = level.left.pop() else {
                let Some(done) = levels.pop() else { break };
                here = self.close(here, done, levels.last())?;
                continue;
            };
            let (link, length) = (level.link, level.path);
            self.path.truncate(length);
            push(&mut self.path, &name);
            if self.made.contains(&node) {
                let why = self.at_line(link, line, "the directory is listed in another place, too");
                self.lost(Loss::Failed, &why)?;
                continue;
            }
            let inner = match self.twice(|_| node::enter(here.as_fd(), &name)) {
                Ok(inner) => inner,
                Err(why) if probe::ends_all(&why) => return Err(why),
                Err(why) => {
                    let why = self.at_line(link, line, why);
                    self.lost(Loss::Failed, &why)?;
                    continue;
                }
            };
            match self.directory(inner.as_fd(), &node)? {
                Some(level) => {
                    levels.push(level);
                    here = inner;
                }
                None => {
                    let why = "what lies in the directory is in no listing";
                    let why = self.at_line(link, line, why);
                    self.lost(Loss::Failed, &why)?;
                }
            }
        }
        Ok(())
    }

    /// The attributes of a directory that is done, and the one above it.
    fn close(
        &mut self,
        here: OwnedFd,
        done: Level,
        above: Option<&Level>,
    ) -> Result<OwnedFd, RestoreError> {
        self.path.truncate(done.path);
        self.outcome.directories += 1;
        let Some(above) = above else {
            // The root: its attributes wait for the end.
            let root = self.site.root_attributes()?;
            self.finish_directory(root.as_fd(), &done.attributes)?;
            return Ok(here);
        };
        let up = node::leave(&here, above.identity)?;
        self.finish_directory(here.as_fd(), &done.attributes)?;
        self.reached(Step::Directory)?;
        Ok(up)
    }

    fn finish_directory(
        &mut self,
        fd: BorrowedFd<'_>,
        attributes: &Attributes,
    ) -> Result<(), RestoreError> {
        let name = self.path.clone();
        let done = self.twice(|make| {
            let work = make.site.work()?;
            let refused = node::set_attributes(fd, false, attributes, &name, work)?;
            node::set_directory_times(fd, attributes, &name)?;
            Ok(refused)
        });
        match done {
            Ok(None) => Ok(()),
            Ok(Some(why)) => self.lost(Loss::Attributes, &why),
            Err(why) if probe::ends_all(&why) => Err(why),
            Err(why) => self.lost(Loss::Failed, &why.to_string()),
        }
    }

    fn at_line(&self, link: usize, line: u64, why: impl std::fmt::Display) -> String {
        match self.spool.snapshots.get(link) {
            Some(snapshot) => format!("{why} (line {line} of the listing in {snapshot})"),
            None => why.to_string(),
        }
    }

    /// Reads the listing of a directory, and makes all in it but directories. `None`: there is none.
    fn directory(
        &mut self,
        fd: BorrowedFd<'_>,
        node: &NodeHandle,
    ) -> Result<Option<Level>, RestoreError> {
        let Some(place) = self.spool.places.get(node).copied() else {
            return Ok(None);
        };
        self.made.insert(node.clone());
        let length = self.path.len();
        self.seek(place.at)?;
        let Some(Line::Directory(Directory { attributes, .. })) = self.line(place, place.line)?
        else {
            return Ok(None);
        };
        let mut level = Level {
            attributes,
            left: Vec::new(),
            link: place.link,
            path: length,
            identity: node::identity(fd)?,
        };
        let (mut last, mut line) = (Vec::new(), place.line);
        loop {
            line += 1;
            let Some(Line::Entry(entry)) = self.line(place, line)? else {
                break;
            };
            self.path.truncate(length);
            push(&mut self.path, &entry.name);
            if entry.name <= last {
                let why = self.at_line(place.link, line, "the name does not ascend");
                self.lost(Loss::Failed, &why)?;
                continue;
            }
            last.clone_from(&entry.name);
            let Entry { name, what } = entry;
            match what {
                What::Directory(node) => level.left.push((name, node, line)),
                What::Other(inode) => {
                    if let Err(why) = self.other(fd, &name, &inode) {
                        if probe::ends_all(&why) {
                            return Err(why);
                        }
                        let why = self.at_line(place.link, line, why);
                        self.lost(Loss::Failed, &why)?;
                    }
                }
            }
        }
        self.path.truncate(length);
        level.left.reverse();
        Ok(Some(level))
    }

    fn seek(&mut self, to: u64) -> Result<(), RestoreError> {
        let fail = || RestoreError::io("read", "the listings");
        let here = self.lines.stream_position().map_err(fail())?;
        // What is in the buffer stays there.
        let by = i64::try_from(i128::from(to) - i128::from(here));
        match by {
            Ok(by) => self.lines.seek_relative(by),
            Err(_) => self.lines.seek(SeekFrom::Start(to)).map(drop),
        }
        .map_err(fail())
    }

    /// The next line; `None` at the end.
    fn line(&mut self, place: Place, line: u64) -> Result<Option<Line>, RestoreError> {
        let mut bytes = Vec::new();
        self.lines
            .read_until(b'\n', &mut bytes)
            .map_err(RestoreError::io("read", "the listings"))?;
        if bytes.pop().is_none() {
            return Ok(None);
        }
        // It was read whole before: so this is the disk's fault.
        let line = namespace::decode_line(&bytes).map_err(|why| {
            let why = self.at_line(place.link, line, why);
            RestoreError::io("read", "the listings")(std::io::Error::other(why))
        })?;
        Ok(Some(line))
    }

    /// A name that is no directory's.
    fn other(
        &mut self,
        at: BorrowedFd<'_>,
        name: &[u8],
        inode: &Inode,
    ) -> Result<(), RestoreError> {
        let extra = match &inode.kind {
            InodeKind::File {
                data: Some(data), ..
            } => self.later.known(data.file, data.version),
            _ => Vec::new(),
        };
        let stub = match &inode.kind {
            InodeKind::File { data: None, size } if *size > 0 => {
                return self.lost(
                    Loss::NotArchived,
                    "it was on no tier when the snapshot was taken",
                );
            }
            InodeKind::File {
                data: Some(data),
                size,
            } => self.stub(data, *size, extra)?,
            _ => None,
        };
        self.twice(|make| make.give(at, name, inode, stub.as_ref()))
    }

    /// A step of one name: once more, if it may have been the disk's fault and the disk is good.
    fn twice<T>(
        &mut self,
        mut step: impl FnMut(&mut Self) -> Result<T, RestoreError>,
    ) -> Result<T, RestoreError> {
        match step(self) {
            Err(why) if !probe::ends_all(&why) && probe::may_be_of_the_disk(errno(&why)) => {
                probe::disk(self.site.work()?, &why)?;
                step(self)
            }
            done => done,
        }
    }

    /// Gives the name what it had. It is all that this may be called again for.
    fn give(
        &mut self,
        at: BorrowedFd<'_>,
        name: &[u8],
        inode: &Inode,
        stub: Option<&Stub>,
    ) -> Result<(), RestoreError> {
        if let Some(linked) = &inode.linked
            && let Some(first) = self.linked.get(linked).cloned()
        {
            if node::found(at, name)?.is_none() {
                let fd = self.backing.open_node(&first, None, How::Path)?;
                node::link(fd.as_fd(), at, name)?;
                self.reached(Step::Named)?;
            }
            self.outcome.names += 1;
            return Ok(());
        }
        let made = match node::found(at, name)? {
            Some(found) if self.is_it(found.as_fd(), inode, stub)? => {
                let of = &inode.attributes;
                // What the earlier try told is gone.
                if let Some(why) = node::missing_attributes(self.backing, found.as_fd(), of)? {
                    self.lost(Loss::Attributes, &why)?;
                }
                found
            }
            Some(_) => {
                let gone = rustix::fs::unlinkat(at, node::os(name), rustix::fs::AtFlags::empty());
                gone.map_err(|e| {
                    RestoreError::io("remove", String::from_utf8_lossy(name))(e.into())
                })?;
                self.make(at, name, inode, stub, RenameFlags::NOREPLACE)?
            }
            None => self.make(at, name, inode, stub, RenameFlags::NOREPLACE)?,
        };
        if let Some(linked) = &inode.linked {
            let now = self.backing.handle_of(made.as_fd())?;
            self.linked.insert(linked.clone(), now);
        }
        self.outcome.names += 1;
        if let Some(stub) = stub {
            self.outcome.stubs += 1;
            self.outcome.bytes += stub.size;
        }
        Ok(())
    }

    /// Did an earlier try make it?
    fn is_it(
        &self,
        found: BorrowedFd<'_>,
        inode: &Inode,
        stub: Option<&Stub>,
    ) -> Result<bool, RestoreError> {
        let stat = rustix::fs::fstat(found)
            .map_err(|e| RestoreError::io("stat", "what is there")(e.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != node::file_type(&inode.kind) {
            return Ok(false);
        }
        let record = match inode.kind {
            InodeKind::File { .. } => self.backing.record(found)?,
            _ => None,
        };
        let has = record.map(|r| (r.file, r.version));
        Ok(has == stub.map(|s| (s.data.file, s.data.version)))
    }

    /// What the stub of a file says, and what is to be said of it. `None`: an empty file needs none.
    fn stub(
        &mut self,
        data: &Data,
        size: u64,
        extra: Vec<CopyHint>,
    ) -> Result<Option<Stub>, RestoreError> {
        let (size, mtime) = match data.older {
            Some((size, mtime)) => {
                let why = format!(
                    "it was changed since version {} was archived",
                    data.version.0
                );
                self.lost(Loss::Older, &why)?;
                (size, Some(mtime))
            }
            None => (size, None),
        };
        // This tier's first, and where they lie now before where they lay.
        let mut copies = extra;
        for copy in &data.copies {
            let same = |c: &CopyHint| (c.tier, c.aggregate) == (copy.tier, copy.aggregate);
            if !copies.iter().any(same) {
                copies.push(*copy);
            }
        }
        copies.sort_by_key(|c| c.tier != self.tier);
        if size == 0 {
            return Ok(None);
        }
        if copies.first().is_none_or(|c| c.tier != self.tier) {
            let tiers: Vec<_> = copies.iter().map(|c| c.tier.to_string()).collect();
            let why = format!("its copies are on other tiers ({})", tiers.join(", "));
            self.lost(Loss::Elsewhere, &why)?;
        }
        Ok(Some(Stub {
            data: data.clone(),
            size,
            mtime,
            copies,
        }))
    }

    /// Makes it out of sight, and gives it its name.
    fn make(
        &mut self,
        at: BorrowedFd<'_>,
        name: &[u8],
        inode: &Inode,
        stub: Option<&Stub>,
        how: RenameFlags,
    ) -> Result<OwnedFd, RestoreError> {
        let work = self.site.work()?;
        let size = stub.map_or(0, |s| s.size);
        let attributes = &inode.attributes;
        let fd = node::make(work, &inode.kind, size, name)?;
        let is_link = matches!(inode.kind, InodeKind::Symlink(_));
        let stamp = |stub: &Stub| {
            let (data, copies) = (&stub.data, stub.copies.clone());
            node::stamp(
                self.backing,
                fd.as_fd(),
                data,
                copies,
                (size, attributes.ctime),
            )
        };
        // Takes its room before the users' attributes do: without one of these it can be read.
        stub.map_or(Ok(()), stamp)?;
        let refused = node::set_attributes(fd.as_fd(), is_link, attributes, name, work)?;
        let mtime = stub.and_then(|s| s.mtime).unwrap_or(attributes.mtime);
        let times = (mtime, attributes.atime);
        node::set_times_at(work, std::ffi::OsStr::new(node::NEW), times, name)?;
        // It holds as of now.
        stub.map_or(Ok(()), stamp)?;
        self.reached(Step::Made)?;
        rustix::fs::renameat_with(work, node::NEW, at, node::os(name), how)
            .map_err(|e| RestoreError::io("name", String::from_utf8_lossy(name))(e.into()))?;
        if let Some(why) = refused {
            self.lost(Loss::Attributes, &why)?;
        }
        self.reached(Step::Named)?;
        Ok(fd)
    }
}

/// What a stub is to say.
pub(super) struct Stub {
    data: Data,
    size: u64,
    /// Of an older version.
    mtime: Option<crate::id::Timestamp>,
    copies: Vec<CopyHint>,
}

fn push(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}

/// The system's number for it, if it was a system call.
fn errno(why: &RestoreError) -> Option<i32> {
    match why {
        RestoreError::Backing(BackingError::Io { source, .. })
        | RestoreError::Io { source, .. } => source.raw_os_error(),
        _ => None,
    }
}
