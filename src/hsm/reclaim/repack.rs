//! What is needed of an aggregate goes into a new one on the same tier.
//!
//! Invariants:
//! - Every byte is checked against its block's sum on the way, every member against the sum of its
//!   content, and the new object is proven by the tier's receipt before a row points at it.
//! - Extracting all aggregates in the order of their names still gives the newest of everything
//!   (invariant 5 of the design): a file goes in under the names that it has *now* ([`super::placing`]),
//!   and what no file of the namespace is goes below [`ASIDE`], where it overwrites nothing. Directories are
//!   entered as they are now. A file's own attributes are those of its header.

use super::judge::Judged;
use super::placing::{Place, places, unplaced};
use super::remove::check_mark;
use super::{Ground, ReclaimError, Step};
use crate::catalog::{Aggregate, MemberKey, Moved, NewAggregate, ProofKind};
use crate::format::aggregate::{AggregateWriter, IndexEntry, PartsWriter};
use crate::format::member::{Kind, Member, MemberPath};
use crate::hsm::backing::NodeKind;
use crate::hsm::parts::{self, Made, PartsError, Pieces, Sink, Whole};
use crate::hsm::tape::desk::Seat;
use crate::id::{AggregateId, NodeHandle, Timestamp};
use crate::tier::Proof;
use bytes::Bytes;
use cairn_mover::Checked;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::os::fd::AsFd;

/// Where members go that are no file's of the namespace: deleted ones that are still kept.
pub(in crate::hsm) const ASIDE: &str = ".cairn-deleted";
/// This part of a tier is left to archives.
const RESERVE: u64 = 100;

/// Copies what is needed, and moves its rows. `false`: it was not as it was judged any more.
pub(super) fn repack(
    ground: &Ground<'_>,
    row: &Aggregate,
    judged: &Judged,
) -> Result<bool, ReclaimError> {
    // Its turn comes before it is named: a snapshot waits for what has a name.
    drop((ground.seat)(row.id));
    // First of all: what gets one of these names from now on is archived under a later name than this.
    // Held until its rows are there: a snapshot taken meanwhile counts it among the later ones.
    let (id, _composing) = (ground.name)()?;
    let mut entries = places(ground, row.id, (&judged.index, &judged.fates))?;
    // As they lie: on tape anything else costs minutes. Links come behind their targets.
    entries.sort_by_key(|(entry, _)| (entry.header == 0, entry.header));
    let hint = entries
        .iter()
        .map(|(e, _)| e.stored_len() + e.header_len())
        .sum();
    let hint: u64 = hint;
    check_room(ground, row.id, hint)?;
    // What is longer goes there in parts, and is told of behind them.
    let bound = ground.tier.lengths(hint)?.into_iter().next();
    let mut sink = Sink::waiting();
    if bound.is_none_or(|longest| hint <= longest) {
        open(&mut sink, ground, id, hint)?;
    }
    // Only now: the tier may have needed a drive to make room. What it lies on is still at hand, mostly.
    let seated = Seated::default();
    seated.at(ground, row.id);
    let writer = AggregateWriter::new(sink, id, ground.backing.fs(), (ground.now)());
    let mut copier = Copier {
        ground,
        from: row.id,
        to: id,
        seated: &seated,
        writer,
        directories: Vec::new(),
        made: None,
        taken: HashMap::new(),
        moved: Vec::new(),
    };
    for (entry, place) in entries {
        copier.copy(entry, place)?;
    }
    // All is read. Who has a drive does not wait for another, to write.
    seated.leave();
    copier.open(hint)?;
    let (new, index, moved) = copier.seal(id)?;
    ground.did(Step::Copied)?;
    let left = judged.dead_keys.clone();
    let done = ground
        .catalog
        .repacked(row.id, new, moved, left, (ground.now)())?;
    if done {
        ground.indexes.made(ground.id, id, &index);
        ground.did(Step::Moved)?;
    } else {
        take_back(ground, id, index.parts().len());
    }
    Ok(done)
}

/// The tier is told of the new object, if it was not yet.
fn open(
    sink: &mut Sink,
    ground: &Ground<'_>,
    id: AggregateId,
    len: u64,
) -> Result<(), ReclaimError> {
    let put = || {
        let mut put = ground.tier.put(id, len)?;
        // One after the other is copied: none comes that it could wait for.
        put.hasten();
        Ok(put)
    };
    Ok(sink.begin(id, put)?)
}

/// Is there room for another object on the tier, and what archives need besides?
fn check_room(ground: &Ground<'_>, aggregate: AggregateId, len: u64) -> Result<(), ReclaimError> {
    let space = ground.tier.space()?;
    let reserve = space.total.unwrap_or(0) / RESERVE;
    match space.free {
        Some(free) if free < len.saturating_add(reserve) => Err(ReclaimError::NoRoom {
            aggregate,
            len,
            free,
        }),
        _ => Ok(()),
    }
}

/// The object was made a moment ago under a name of this epoch, and no row was ever committed for it.
fn take_back(ground: &Ground<'_>, id: AggregateId, parts: usize) {
    let gone = check_mark(ground).and_then(|()| Ok(parts::delete(ground.tier, id, parts)?));
    if let Err(why) = gone {
        tracing::warn!(aggregate = %id, %why, "an object that nobody needs could not be deleted");
    }
}

/// The turn at a drive of the object that is being read.
#[derive(Default)]
struct Seated(RefCell<Option<(AggregateId, Option<Seat>)>>);

impl Seated {
    /// Waits for that of another object, and has none meanwhile.
    fn at(&self, ground: &Ground<'_>, object: AggregateId) {
        let there = |at: &(AggregateId, _)| at.0 == object;
        if !self.0.borrow().as_ref().is_some_and(there) {
            self.leave();
            let seat = (ground.seat)(object);
            self.0.replace(Some((object, seat)));
        }
    }

    fn leave(&self) {
        drop(self.0.replace(None));
    }
}

struct Copier<'a> {
    ground: &'a Ground<'a>,
    from: AggregateId,
    to: AggregateId,
    seated: &'a Seated,
    writer: AggregateWriter<Sink>,
    /// The directories in it.
    directories: Vec<Member>,
    /// Of a file in parts, those that are durable.
    made: Option<Made<'a>>,
    /// Paths in the new aggregate; `true`: a directory.
    taken: HashMap<MemberPath, bool>,
    moved: Vec<Moved>,
}

impl Copier<'_> {
    fn copy(&mut self, entry: &IndexEntry, place: Place) -> Result<(), ReclaimError> {
        self.ground.go_on()?;
        let path = &entry.member.path;
        match place {
            Place::Named { key, node, names } => {
                let names = self.free(names, &node)?;
                self.file(entry, key, names)
            }
            Place::Aside(key) => {
                let path = self.aside(key)?;
                self.file(entry, key, vec![path])
            }
            // One of a pipe or device may have lost its target.
            Place::Link { target } if self.taken.get(&target) != Some(&false) => Ok(()),
            Place::Node | Place::Link { .. } => {
                if self.taken.contains_key(path) || !self.directories(path)? {
                    return Ok(());
                }
                let member = self.whole(entry)?;
                self.add(&member, &mut io::empty()).map(drop)
            }
        }
    }

    /// Those of a file's names that are free in the new aggregate, and still its own. Their
    /// directories are entered.
    fn free(
        &mut self,
        names: Vec<MemberPath>,
        node: &NodeHandle,
    ) -> Result<Vec<MemberPath>, ReclaimError> {
        let mut free = Vec::with_capacity(names.len());
        for name in names {
            let leads = self.ground.backing.is_name_of(name.as_bytes(), node);
            if leads.map_err(|why| unplaced(self.from, why))?
                && !self.taken.contains_key(&name)
                && self.directories(&name)?
            {
                free.push(name);
            }
        }
        Ok(free)
    }

    fn file(
        &mut self,
        entry: &IndexEntry,
        key: MemberKey,
        names: Vec<MemberPath>,
    ) -> Result<(), ReclaimError> {
        let mut names = names.into_iter();
        let Some(path) = names.next() else {
            return Err(unplaced(self.from, "a file lost its name meanwhile"));
        };
        let mut member = self.whole(entry)?;
        member.path = path.clone();
        let mut data = Stored {
            ground: self.ground,
            seated: self.seated,
            from: self.from,
            entry,
            next: 0,
            at_hand: Bytes::new(),
        };
        let added = match self.cut(&member)? {
            None => {
                self.open(member.kind.stored_len())?;
                self.add(&member, &mut data)?
            }
            Some(pieces) => self.add_in_parts(&member, pieces, &mut data)?,
        };
        self.moved.push(Moved { key, header: added });
        for name in names {
            let link = Member {
                path: name,
                kind: Kind::HardLink {
                    target: path.clone(),
                },
                xattrs: Vec::new(),
                identity: None,
                ..member.clone()
            };
            self.add(&link, &mut io::empty())?;
        }
        Ok(())
    }

    /// The parts in which the tier takes a file that is too long for it.
    fn cut(&self, member: &Member) -> Result<Option<Pieces>, ReclaimError> {
        let pieces = parts::cut(self.ground.tier, self.to, member, self.writer.len());
        let pieces = pieces.map_err(|why| self.in_parts(why))?;
        let is_beside = pieces.is_some() && !self.moved.is_empty();
        if is_beside || self.made.is_some() {
            let why = "a file is too long to be beside others";
            return Err(unplaced(self.from, why));
        }
        Ok(pieces)
    }

    fn open(&mut self, len: u64) -> Result<(), ReclaimError> {
        open(self.writer.sink(), self.ground, self.to, len)
    }

    fn in_parts(&self, why: PartsError) -> ReclaimError {
        match why {
            PartsError::Tier(why) | PartsError::NoRoom(why) => why.into(),
            PartsError::Compose(source) => ReclaimError::Compose {
                aggregate: self.from,
                source,
            },
            PartsError::Receipt(aggregate) => ReclaimError::Receipt { aggregate },
            PartsError::Uncut(why) => unplaced(self.from, why),
        }
    }

    fn add_in_parts(
        &mut self,
        member: &Member,
        pieces: Pieces,
        data: &mut dyn Read,
    ) -> Result<u64, ReclaimError> {
        let ground = self.ground;
        let whole = Whole {
            tier: ground.tier,
            aggregate: self.to,
            fs: ground.backing.fs(),
            composed: (ground.now)(),
            directories: &self.directories,
            unwanted: None,
            leave: &|| self.seated.leave(),
            back: &|| (),
        };
        let mut file = PartsWriter::new(member, &pieces.slices);
        let made = whole.write_all_but_last(&mut file, data, pieces.promise);
        self.made = Some(made.map_err(|why| self.in_parts(why))?);
        self.open(pieces.last)?;
        let added = self.writer.add_last_part(file, data);
        let added = added.map_err(|why| self.in_parts(why.into()))?;
        self.taken.insert(member.path.clone(), false);
        Ok(added.header)
    }

    /// The member with what its header alone holds.
    fn whole(&self, entry: &IndexEntry) -> Result<Member, ReclaimError> {
        let headers = match entry.header_len() {
            0 => Bytes::new(),
            len => {
                self.seated.at(self.ground, self.from);
                self.ground.tier.read(self.from, entry.header, len)?
            }
        };
        entry
            .whole_member(&headers)
            .map_err(|source| ReclaimError::Compose {
                aggregate: self.from,
                source,
            })
    }

    /// A place for what is no file of the namespace.
    fn aside(&mut self, (file, version): MemberKey) -> Result<MemberPath, ReclaimError> {
        let now = (self.ground.now)();
        let path =
            |text: String| MemberPath::new(text.into_bytes()).map_err(|_| ReclaimError::Stopped);
        let top = path(ASIDE.to_owned())?;
        if !self.taken.contains_key(&top) {
            self.add(&directory(top, now), &mut io::empty())?;
        }
        path(format!("{ASIDE}/{file}-{}", version.0))
    }

    /// The directories on the way to `path`, as they are now. `false`: one of them is none here.
    fn directories(&mut self, path: &MemberPath) -> Result<bool, ReclaimError> {
        let bytes = path.as_bytes();
        let ends = bytes.iter().enumerate().filter(|(_, b)| **b == b'/');
        let ends: Vec<usize> = std::iter::once(0).chain(ends.map(|(at, _)| at)).collect();
        for end in ends {
            let Ok(path) = MemberPath::new(&bytes[..end]) else {
                return Ok(false);
            };
            match self.taken.get(&path) {
                Some(true) => continue,
                Some(false) => return Ok(false),
                None => {}
            }
            let backing = self.ground.backing;
            let looked = backing
                .open_beneath(path.as_bytes())
                .and_then(|fd| Ok((backing.stat(fd.as_fd())?, backing.attributes(fd.as_fd())?)));
            let Ok((stat, xattrs)) = looked else {
                return Ok(false);
            };
            if stat.kind != NodeKind::Directory {
                return Ok(false);
            }
            let member = Member {
                mode: stat.mode,
                uid: stat.uid,
                gid: stat.gid,
                mtime: stat.mtime,
                atime: stat.atime,
                ctime: stat.ctime,
                xattrs,
                ..directory(path, stat.ctime)
            };
            self.add(&member, &mut io::empty())?;
        }
        Ok(true)
    }

    fn add(&mut self, member: &Member, data: &mut dyn Read) -> Result<u64, ReclaimError> {
        let added = self.writer.add(member, data);
        let added = added.map_err(|source| ReclaimError::Compose {
            aggregate: self.from,
            source,
        })?;
        let is_directory = member.kind == Kind::Directory;
        if is_directory && self.moved.is_empty() {
            self.directories.push(member.clone());
        }
        self.taken.insert(member.path.clone(), is_directory);
        Ok(added.header)
    }

    /// The end of the aggregate, proven.
    #[allow(
        clippy::type_complexity,
        reason = "three things that are made together"
    )]
    fn seal(
        self,
        id: AggregateId,
    ) -> Result<(NewAggregate, crate::format::aggregate::Index, Vec<Moved>), ReclaimError> {
        let (sink, index, trailer) =
            self.writer
                .finish()
                .map_err(|source| ReclaimError::Compose {
                    aggregate: self.from,
                    source,
                })?;
        let sealed = sink.seal(id, trailer.total_len);
        // Whatever was said: a drive that failed in the middle may have written it, and its parts stay.
        if let Some(made) = self.made {
            made.keep();
        }
        let receipt = sealed?.ok_or(ReclaimError::Receipt { aggregate: id })?;
        let unique: HashSet<_> = self.moved.iter().map(|m| (m.key.0.0, m.key.1)).collect();
        debug_assert_eq!(unique.len(), self.moved.len());
        let new = NewAggregate {
            tier: self.ground.id,
            id,
            len: index.len_with_parts(receipt.len),
            in_parts: !index.parts().is_empty(),
            crc: receipt.crc,
            proof: match receipt.proof {
                Proof::ReadBack => ProofKind::ReadBack,
                Proof::ServiceChecksum => ProofKind::ServiceChecksum,
                Proof::Drive => ProofKind::Drive,
                Proof::Volatile => ProofKind::Volatile,
            },
        };
        Ok((new, index, self.moved))
    }
}

/// A directory that only root may enter.
fn directory(path: MemberPath, at: Timestamp) -> Member {
    Member {
        path,
        kind: Kind::Directory,
        mode: 0o700,
        uid: 0,
        gid: 0,
        mtime: at,
        atime: at,
        ctime: at,
        xattrs: Vec::new(),
        identity: None,
    }
}

/// A member's stored bytes, block by block, each checked.
struct Stored<'a> {
    ground: &'a Ground<'a>,
    seated: &'a Seated,
    from: AggregateId,
    entry: &'a IndexEntry,
    next: u64,
    at_hand: Bytes,
}

impl Read for Stored<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at_hand.is_empty() {
            let Some(place) = self.entry.block(self.next) else {
                return Ok(0);
            };
            if (self.ground.stop)(Some(Step::Copying)) {
                return Err(io::Error::other("stopped"));
            }
            let object = place.object(self.from);
            self.seated.at(self.ground, object);
            let tier = self.ground.tier;
            let bytes = tier
                .read(object, place.offset_in_object, place.len)
                .map_err(io::Error::other)?;
            let checked = Checked::verify(bytes, place.crc).map_err(io::Error::other)?;
            self.at_hand = checked.into_bytes();
            self.next += 1;
        }
        let take = into.len().min(self.at_hand.len());
        into[..take].copy_from_slice(&self.at_hand.split_to(take));
        Ok(take)
    }
}
