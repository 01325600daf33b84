//! Steps 1 to 5: members go into the aggregate in the order that keeps them true.

use super::candidate::{Candidate, present_names};
use super::identity::{Identity, identify};
use super::opening::{begin, full};
use super::recording::{Recorded, Unrecorded, points, write_records};
use super::source::{self, GaveUp, Stream};
use super::{
    ArchiveError, Batch, CommitError, Copied, Durable, GROUP_BYTES, GROUP_FILES, ItemError,
    Outcome, SMALL, Skip,
};
use crate::format::aggregate::{Added, AggregateWriter, Index, PartsWriter};
use crate::format::member::{DataIdentity, Extent, Kind, Member, MemberPath};
use crate::format::record::CopyHint;
use crate::hsm::backing::{Attributes, FileStat, How, NodeKind};
use crate::hsm::parts::{self, Made, PartsError, Sink, Whole};
use crate::hsm::version::{Quiet, Seen, quiescent, quiescent_one};
use crate::tier::Receipt;
use cairn_mover::{Crc32c, Crc32cHasher};
use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

/// What stops an item, or everything.
pub(super) enum Fault {
    Item(Outcome),
    Batch(ArchiveError),
}

impl<T: Into<Outcome>> From<T> for Fault {
    fn from(why: T) -> Self {
        Self::Item(why.into())
    }
}
impl From<ArchiveError> for Fault {
    fn from(why: ArchiveError) -> Self {
        Self::Batch(why)
    }
}

/// What stands at a path of the aggregate.
#[derive(Clone, Copy)]
struct Place {
    header: u64,
    is_directory: bool,
}

/// A file in the aggregate, waiting for its second quiescent point.
struct Pending {
    copied: Copied,
    /// Copies of the same version elsewhere.
    others: Vec<CopyHint>,
}

/// The finished aggregate.
pub(super) struct Done {
    pub(super) receipt: Receipt,
    pub(super) index: Index,
    pub(super) copied: Vec<(Copied, Result<Recorded, Unrecorded>)>,
}

/// An aggregate being composed. Dropping it abandons the object.
pub(super) struct Composer<'a> {
    pub(super) batch: Batch<'a>,
    /// What its items are together, about, bytes.
    size_hint: u64,
    writer: AggregateWriter<Sink>,
    places: HashMap<MemberPath, Place>,
    /// The directories in it, where a file stands alone.
    directories: Vec<Member>,
    /// Of a file in parts, those that are durable.
    made: Option<Made<'a>>,
    pending: Vec<Pending>,
    /// Entries of items without data.
    entered: usize,
}

/// A regular file at its first quiescent point.
pub(super) struct File {
    pub(super) candidate: Candidate,
    pub(super) seen: Seen,
    pub(super) at: Instant,
    pub(super) stat: FileStat,
    pub(super) runs: Vec<Extent>,
    pub(super) xattrs: Attributes,
}

impl<'a> Composer<'a> {
    pub(super) fn begin(batch: Batch<'a>, size_hint: u64) -> Result<Self, ArchiveError> {
        // How a lone file goes to a tier that takes no object of any length is known when it is looked at.
        let is_bounded = batch.items.len() == 1 && !batch.tier.lengths(size_hint)?.is_empty();
        let sink = match is_bounded {
            true => Sink::waiting(),
            false => Sink::new(begin(&batch, size_hint)?),
        };
        let fs = batch.backing.fs();
        Ok(Self {
            batch,
            size_hint,
            writer: AggregateWriter::new(sink, batch.aggregate, fs, batch.composed),
            places: HashMap::new(),
            directories: Vec::new(),
            made: None,
            pending: Vec::new(),
            entered: 0,
        })
    }

    /// The tier is told of an object of so many bytes, if it was not yet: that has room where others have none, or the
    /// other way round.
    pub(super) fn open(&mut self, len: u64) -> Result<(), ArchiveError> {
        let (batch, aggregate) = (self.batch, self.batch.aggregate);
        let in_parts = self.made.is_some();
        let put = || {
            let mut put = begin(&batch, len)?;
            if in_parts {
                put.hasten();
            }
            Ok(put)
        };
        self.size_hint = self.size_hint.max(len);
        let opened = self.writer.sink().begin(aggregate, put);
        opened.map_err(|why| full(&self.batch, (self.size_hint, in_parts), why))
    }

    /// There is something in it besides the directories on the way.
    pub(super) fn is_worth_sealing(&self) -> bool {
        self.entered > 0 || !self.pending.is_empty()
    }

    /// One group of small files and of nodes without data.
    pub(super) fn pack(
        &mut self,
        items: &[usize],
        outcomes: &mut [Option<Outcome>],
    ) -> Result<(), ArchiveError> {
        self.open(self.size_hint)?;
        let (mut files, mut candidates) = (Vec::new(), Vec::new());
        let mut without_data = Vec::new();
        for &at in items {
            let looked = Candidate::of(&self.batch, at)
                .map_err(Fault::Item)
                .and_then(|c| {
                    if c.stat.kind != NodeKind::Regular {
                        without_data.push(c);
                        return Ok(None);
                    }
                    let open = self.batch.backing.reopen(c.node.as_fd(), How::Read)?;
                    source::soon_read(open.as_fd());
                    files.push(open);
                    candidates.push(c);
                    Ok(None)
                });
            outcomes[at] = settle_for(looked)?;
        }
        // Bytes are read under the leases, and the tier sees them after the leases are gone.
        let mut budget = 2 * GROUP_BYTES;
        let mut read = Vec::with_capacity(candidates.len());
        for (candidate, quiet) in candidates
            .into_iter()
            .zip(quiescent(self.batch.backing, files))
        {
            let at = candidate.item;
            let taken = quiet.map_err(Outcome::from).and_then(|quiet| {
                let file = File::at(&self.batch, candidate, &quiet)?;
                let bytes = file.read_small(&self.batch, &quiet, &mut budget)?;
                Ok((file, bytes))
            });
            match taken {
                Ok(taken) => read.push(taken),
                Err(outcome) => outcomes[at] = Some(outcome),
            }
        }
        // In the caller's order, so that what lies in a directory follows it.
        let mut without_data = without_data.into_iter().peekable();
        for (file, bytes) in read {
            let at = file.candidate.item;
            while let Some(node) = without_data.next_if(|c| c.item < at) {
                outcomes[node.item] = settle_for(self.enter(&node).map(Some))?;
            }
            let added = self.small(&file, &bytes).map(|()| None);
            outcomes[at] = settle_for(added)?;
        }
        for node in without_data {
            outcomes[node.item] = settle_for(self.enter(&node).map(Some))?;
        }
        Ok(())
    }

    fn small(&mut self, file: &File, bytes: &[u8]) -> Result<(), Fault> {
        let crc = file.sum(bytes);
        let identity = self.identity(file, Some(crc))?;
        let names = self.names(&file.candidate)?;
        let member = file.member(names[0].clone(), &identity, Some(crc));
        let added = self.add(&member, &mut &bytes[..])?;
        self.linked(file, identity, names, added)
    }

    /// A file that stands alone.
    pub(super) fn large(&mut self, at: usize, stop: &dyn Fn() -> bool) -> Result<(), Fault> {
        let candidate = Candidate::of(&self.batch, at).map_err(Fault::Item)?;
        let backing = self.batch.backing;
        let open = backing.reopen(candidate.node.as_fd(), How::Read)?;
        let quiet = quiescent_one(backing, open)?;
        let file = File::at(&self.batch, candidate, &quiet).map_err(Fault::Item)?;
        // The lease goes: a large file is read for long, and its writers must not wait for it.
        drop(quiet);
        let open = backing.reopen(file.candidate.node.as_fd(), How::Read)?;
        let identity = self.identity(&file, None)?;
        let names = self.names(&file.candidate)?;
        let member = file.member(names[0].clone(), &identity, None);
        let mut stream = Stream {
            backing,
            file: open,
            seen: file.seen.clone(),
            runs: &file.runs,
            stop,
            at: 0,
            since_look: 0,
            gave_up: None,
        };
        let added = self.add_alone(&member, &mut stream);
        let added = match (added, stream.gave_up.take()) {
            (_, Some(GaveUp::Changed)) => return Err(Outcome::Skipped(Skip::Changed).into()),
            (_, Some(GaveUp::Stopped)) => return Err(ArchiveError::Stopped.into()),
            (_, Some(GaveUp::Backing(why))) => return Err(why.into()),
            (added, None) => added?,
        };
        if let Some(expected) = identity.expected.filter(|e| *e != added.crc) {
            let found = added.crc;
            return Err(Outcome::Failed(ItemError::Rotted { expected, found }).into());
        }
        self.linked(&file, identity, names, added)
    }

    /// Adds a file that stands alone; in parts, if the tier takes no object that long.
    pub(super) fn add_alone(
        &mut self,
        member: &Member,
        data: &mut dyn Read,
    ) -> Result<Added, ArchiveError> {
        let batch = self.batch;
        let aggregate = batch.aggregate;
        let failed = |why| ArchiveError::in_parts(aggregate, why);
        let others = self.writer.len();
        let pieces = parts::cut(batch.tier, aggregate, member, others).map_err(failed)?;
        let Some(pieces) = pieces else {
            self.open(member.kind.stored_len().saturating_add(others))?;
            return self.add(member, data);
        };
        let whole = Whole {
            tier: batch.tier,
            aggregate,
            fs: batch.backing.fs(),
            composed: batch.composed,
            directories: &self.directories,
            unwanted: batch.unwanted,
            leave: &|| (batch.sealed)(),
            back: &|| (batch.resumed)(),
        };
        let mut file = PartsWriter::new(member, &pieces.slices);
        let made = whole.write_all_but_last(&mut file, data, pieces.promise);
        self.made = Some(made.map_err(|why| match batch.is_unwanted() {
            true => ArchiveError::Stopped,
            false => failed(why),
        })?);
        self.open(pieces.last)?;
        let added = self.writer.add_last_part(file, data);
        let added = added.map_err(|why| failed(why.into()))?;
        let place = Place {
            header: added.header,
            is_directory: false,
        };
        self.places.insert(member.path.clone(), place);
        Ok(added)
    }

    fn identity(&self, file: &File, crc: Option<Crc32c>) -> Result<Identity, Fault> {
        let item = &self.batch.items[file.candidate.item];
        identify(
            item.prior.as_ref(),
            file.candidate.record.as_ref(),
            &file.seen,
            crc,
            self.batch.given,
        )
        .map_err(|why| Fault::Item(Outcome::Failed(why)))
    }

    /// The other names of a file that was just added, and its place among those that wait.
    pub(super) fn linked(
        &mut self,
        file: &File,
        identity: Identity,
        names: Vec<MemberPath>,
        added: Added,
    ) -> Result<(), Fault> {
        for name in &names[1..] {
            let target = names[0].clone();
            let mut link = file.member(name.clone(), &identity, None);
            (link.kind, link.identity) = (Kind::HardLink { target }, None);
            link.xattrs.clear();
            self.add(&link, &mut io::empty())?;
        }
        let copied = Copied {
            item: file.candidate.item,
            file: identity.file,
            version: identity.version,
            crc: added.crc,
            blocks_crc: added.blocks_crc,
            copy: CopyHint {
                tier: self.batch.tier.mark().tier,
                aggregate: self.batch.aggregate,
                header: added.header,
            },
            seen: file.seen.clone(),
            at: file.at,
            names: names.iter().map(|n| n.as_bytes().to_vec()).collect(),
        };
        self.pending.push(Pending {
            copied,
            others: identity.copies,
        });
        Ok(())
    }

    /// A node without data.
    fn enter(&mut self, candidate: &Candidate) -> Result<Outcome, Fault> {
        let backing = self.batch.backing;
        let fd = candidate.node.as_fd();
        let kind = kind_of(&candidate.stat, fd)?;
        let item = &self.batch.items[candidate.item];
        if candidate.stat.kind == NodeKind::Directory {
            // One that came in as somebody's ancestor is there already.
            let place = item
                .names
                .iter()
                .filter_map(|n| MemberPath::new(n.clone()).ok())
                .find_map(|n| {
                    self.places
                        .get(&n)
                        .copied()
                        .filter(|p| p.is_directory)
                        .map(|p| (n, p))
                });
            if let Some((name, Place { header, .. })) = place
                && backing.is_name_of(name.as_bytes(), &item.node)?
            {
                self.entered += 1;
                return Ok(Outcome::Entered { header });
            }
        }
        let names = self.names(candidate)?;
        let xattrs = backing.attributes(fd)?;
        let ctime = candidate.stat.ctime;
        let member = member(names[0].clone(), kind, &candidate.stat, ctime, xattrs);
        let added = self.add(&member, &mut io::empty())?;
        for name in &names[1..] {
            // A socket is in the index alone, where tar's link could not point.
            let kind = match candidate.stat.kind {
                NodeKind::Socket => Kind::Socket,
                _ => Kind::HardLink {
                    target: names[0].clone(),
                },
            };
            let link = self::member(name.clone(), kind, &candidate.stat, ctime, Vec::new());
            self.add(&link, &mut io::empty())?;
        }
        self.entered += 1;
        Ok(Outcome::Entered {
            header: added.header,
        })
    }

    /// The names that lead to the node at this moment, their directories added.
    pub(super) fn names(&mut self, candidate: &Candidate) -> Result<Vec<MemberPath>, Fault> {
        let item = &self.batch.items[candidate.item];
        let is_free = |path: &MemberPath| !self.places.contains_key(path);
        let fd = candidate.node.as_fd();
        let names = present_names(self.batch.backing, item, fd, is_free).map_err(Fault::Item)?;
        let mut kept = Vec::with_capacity(names.len());
        let mut renamed = Outcome::Skipped(Skip::Renamed);
        for name in names {
            match self.ancestors(&name) {
                Ok(()) => kept.push(name),
                Err(Fault::Item(outcome)) => renamed = outcome,
                Err(batch) => return Err(batch),
            }
        }
        if kept.is_empty() {
            Err(Fault::Item(renamed))
        } else {
            Ok(kept)
        }
    }

    /// The directories on the way to `path`, each once, so that plain tar restores their modes
    /// and times.
    fn ancestors(&mut self, path: &MemberPath) -> Result<(), Fault> {
        let bytes = path.as_bytes();
        let slashes = bytes
            .iter()
            .enumerate()
            .filter(|(_, b)| **b == b'/')
            .map(|(at, _)| at);
        let root = (!bytes.is_empty()).then_some(0);
        for end in root.into_iter().chain(slashes) {
            let renamed = || Outcome::Skipped(Skip::Renamed);
            let dir = MemberPath::new(&bytes[..end]).map_err(|_| renamed())?;
            match self.places.get(&dir) {
                Some(Place {
                    is_directory: true, ..
                }) => continue,
                Some(_) => return Err(renamed().into()),
                None => {}
            }
            let backing = self.batch.backing;
            let fd = backing
                .open_beneath(dir.as_bytes())
                .map_err(|_| renamed())?;
            let stat = backing.stat(fd.as_fd())?;
            if stat.kind != NodeKind::Directory {
                return Err(renamed().into());
            }
            let xattrs = backing.attributes(fd.as_fd())?;
            let member = member(dir, Kind::Directory, &stat, stat.ctime, xattrs);
            self.add(&member, &mut io::empty())?;
        }
        Ok(())
    }

    pub(super) fn add(
        &mut self,
        member: &Member,
        data: &mut dyn Read,
    ) -> Result<Added, ArchiveError> {
        let aggregate = self.batch.aggregate;
        let added = self
            .writer
            .add(member, data)
            .map_err(|source| ArchiveError::Compose { aggregate, source })?;
        let is_directory = member.kind == Kind::Directory;
        if is_directory && self.batch.items.len() == 1 {
            self.directories.push(member.clone());
        }
        self.places.insert(
            member.path.clone(),
            Place {
                header: added.header,
                is_directory,
            },
        );
        Ok(added)
    }

    /// Step 3. What is not the same any more is disowned: its bytes lie in the tar part, as they
    /// were at one moment, but neither index, catalog nor record will name them.
    pub(super) fn second_points(&mut self, outcomes: &mut [Option<Outcome>]) {
        let backing = self.batch.backing;
        let mut kept = Vec::with_capacity(self.pending.len());
        let mut waiting = std::mem::take(&mut self.pending);
        while !waiting.is_empty() {
            let rest = waiting.split_off(waiting.len().min(GROUP_FILES));
            let nodes = waiting
                .iter()
                .map(|p| (&p.copied.seen.node, &p.copied.names[..]));
            let second = points(backing, nodes);
            for (mut pending, point) in waiting.into_iter().zip(second) {
                let outcome = match point {
                    Ok(quiet) if *quiet.seen() == pending.copied.seen => {
                        pending.copied.at = quiet.at();
                        kept.push(pending);
                        continue;
                    }
                    Ok(_) => Outcome::Skipped(Skip::Changed),
                    Err(why) => why.into(),
                };
                self.writer.disown(pending.copied.copy.header);
                outcomes[pending.copied.item] = Some(outcome);
            }
            waiting = rest;
        }
        self.pending = kept;
    }

    /// Steps 4 to 6.
    pub(super) fn seal(
        self,
        commit: &mut dyn FnMut(Durable<'_>) -> Result<(), CommitError>,
    ) -> Result<Done, ArchiveError> {
        let backing = self.batch.backing;
        let records: Vec<_> = self
            .pending
            .iter()
            .map(|p| p.copied.new_record(&p.others))
            .collect();
        let (receipt, index, copied) = self.make_durable(commit)?;
        let recorded = write_records(backing, &records);
        Ok(Done {
            receipt,
            index,
            copied: copied.into_iter().zip(recorded).collect(),
        })
    }

    /// Steps 4 and 5.
    pub(super) fn make_durable(
        self,
        commit: &mut dyn FnMut(Durable<'_>) -> Result<(), CommitError>,
    ) -> Result<(Receipt, Index, Vec<Copied>), ArchiveError> {
        let (aggregate, in_parts) = (self.batch.aggregate, self.made.is_some());
        let (batch, size) = (self.batch, self.size_hint);
        let failed = |why: PartsError| match why {
            PartsError::NoRoom(why) => full(&batch, (size, in_parts), why),
            why => ArchiveError::in_parts(aggregate, why),
        };
        let finished = self.writer.finish();
        let (sink, index, trailer) = finished.map_err(|why| failed(why.into()))?;
        // The tier may take its time.
        drop(self.places);
        (self.batch.sealed)();
        let sealed = sink.seal(aggregate, trailer.total_len);
        // Whatever was said: a drive that failed in the middle may have written it, and its parts stay.
        if let Some(made) = self.made {
            made.keep();
        }
        let receipt = match sealed {
            // Nothing is there, and whatever the reason was, nobody asks.
            Err(_) if batch.is_unwanted() => return Err(ArchiveError::Stopped),
            sealed => sealed.map_err(|why| failed(why.into()))?,
        };
        let receipt = receipt.ok_or(ArchiveError::Receipt { aggregate })?;
        let copied: Vec<_> = self.pending.into_iter().map(|p| p.copied).collect();
        commit(Durable {
            receipt: &receipt,
            index: &index,
            copied: &copied,
        })
        .map_err(|source| ArchiveError::Commit { aggregate, source })?;
        Ok((receipt, index, copied))
    }
}

impl File {
    fn at(batch: &Batch<'_>, candidate: Candidate, quiet: &Quiet) -> Result<Self, Outcome> {
        let (backing, seen) = (batch.backing, quiet.seen().clone());
        let stat = backing.stat(quiet.fd())?;
        let runs = source::runs(backing, quiet.fd(), seen.size)?;
        if candidate.is_lost(&batch.items[candidate.item], seen.size, quiet.fd())? {
            return Err(Outcome::Skipped(Skip::Lost));
        }
        let xattrs = backing.attributes(quiet.fd())?;
        Ok(Self {
            candidate,
            seen,
            at: quiet.at(),
            stat,
            runs,
            xattrs,
        })
    }

    /// Reads everything under the lease, and looks again whether it is still held.
    fn read_small(
        &self,
        batch: &Batch<'_>,
        quiet: &Quiet,
        budget: &mut u64,
    ) -> Result<Vec<u8>, Outcome> {
        let stored = source::stored(&self.runs);
        if stored > SMALL {
            return Err(Outcome::Skipped(Skip::StandsAlone(stored)));
        }
        // It grew since the group was made up.
        *budget = budget
            .checked_sub(stored)
            .ok_or(Outcome::Skipped(Skip::Changed))?;
        let bytes = source::read_whole(quiet.fd(), &self.runs)?;
        let after = batch.backing.stat(quiet.fd())?;
        let same = (after.size, after.ctime) == (self.seen.size, self.seen.ctime);
        if !quiet.still_held() {
            return Err(Outcome::Skipped(Skip::Busy));
        }
        bytes
            .filter(|_| same)
            .ok_or(Outcome::Skipped(Skip::Changed))
    }

    /// Sum of the logical content whose stored bytes are `bytes`.
    pub(super) fn sum(&self, bytes: &[u8]) -> Crc32c {
        let (mut sum, mut rest) = (Crc32cHasher::default(), bytes);
        for run in &self.runs {
            sum.zeros(run.offset - sum.len());
            let (data, behind) = rest.split_at(usize::try_from(run.len).unwrap_or(usize::MAX));
            sum.update(data);
            rest = behind;
        }
        sum.zeros(self.seen.size - sum.len());
        sum.sum()
    }

    pub(super) fn member(
        &self,
        path: MemberPath,
        identity: &Identity,
        crc: Option<Crc32c>,
    ) -> Member {
        let kind = Kind::Regular {
            size: self.seen.size,
            extents: self.runs.clone(),
        };
        let ctime = self.candidate.shown_ctime(self.stat.ctime);
        let mut member = member(path, kind, &self.stat, ctime, self.xattrs.clone());
        let Identity { file, version, .. } = *identity;
        member.identity = Some(DataIdentity { file, version, crc });
        member
    }
}

fn member(
    path: MemberPath,
    kind: Kind,
    stat: &FileStat,
    ctime: crate::id::Timestamp,
    xattrs: Attributes,
) -> Member {
    Member {
        path,
        kind,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        mtime: stat.mtime,
        atime: stat.atime,
        ctime,
        xattrs,
        identity: None,
    }
}

/// What a node without data is.
fn kind_of(stat: &FileStat, fd: BorrowedFd<'_>) -> Result<Kind, Fault> {
    let (major, minor) = stat.rdev;
    Ok(match stat.kind {
        NodeKind::Directory => Kind::Directory,
        NodeKind::Symlink => {
            let target = rustix::fs::readlinkat(fd, c"", Vec::new()).map_err(|why| {
                let object = || crate::hsm::backing::describe(fd);
                crate::hsm::backing::BackingError::of("read the link", object, why)
            })?;
            Kind::Symlink {
                target: target.into_bytes(),
            }
        }
        NodeKind::Fifo => Kind::Fifo,
        NodeKind::Socket => Kind::Socket,
        NodeKind::CharDevice => Kind::CharDevice { major, minor },
        NodeKind::BlockDevice => Kind::BlockDevice { major, minor },
        NodeKind::Regular => return Err(Fault::Item(Outcome::Skipped(Skip::Changed))),
    })
}

/// An item's fault becomes its outcome, the batch's goes on.
fn settle_for(done: Result<Option<Outcome>, Fault>) -> Result<Option<Outcome>, ArchiveError> {
    match done {
        Ok(outcome) => Ok(outcome),
        Err(Fault::Item(outcome)) => Ok(Some(outcome)),
        Err(Fault::Batch(why)) => Err(why),
    }
}
