//! What is needed of an aggregate goes into a new one on the same tier.
//!
//! Invariants:
//! - Every byte is checked against its block's sum on the way, every member against the sum of its
//!   content, and the new object is proven by the tier's receipt before a row points at it.
//! - Extracting all aggregates in the order of their names still gives the newest of everything
//!   (invariant 5 of the design): a file goes in under the names that it has *now*, and what no
//!   file of the namespace is goes below [`ASIDE`], where it overwrites nothing. Directories are
//!   entered as they are now. A file's own attributes are those of its header.

use super::judge::{Fate, Judged, key_of};
use super::{Ground, ReclaimError, Step};
use crate::catalog::{Aggregate, FileState, MemberKey, Moved, NewAggregate, ProofKind};
use crate::format::aggregate::{AggregateWriter, IndexEntry};
use crate::format::member::{Kind, Member, MemberPath};
use crate::hsm::backing::NodeKind;
use crate::id::{AggregateId, Timestamp};
use crate::tier::{Proof, Put};
use bytes::Bytes;
use cairn_mover::{Checked, Crc32cHasher};
use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

/// Where members go that are no file's of the namespace: deleted ones that are still kept.
pub(in crate::hsm) const ASIDE: &str = ".cairn-deleted";
/// Names of one file that are looked for.
const MOST_NAMES: usize = 1000;

/// Copies what is needed, and moves its rows. `false`: it was not as it was judged any more.
pub(super) fn repack(
    ground: &Ground<'_>,
    row: &Aggregate,
    judged: &Judged,
) -> Result<bool, ReclaimError> {
    // Held until its rows are there: a snapshot taken meanwhile counts it among the later ones.
    let (id, _composing) = (ground.name)()?;
    let kept = |(_, fate): &(&IndexEntry, &Fate)| matches!(fate, Fate::Kept(_));
    let entries = judged.index.entries.iter().zip(&judged.fates);
    let mut entries: Vec<&IndexEntry> = entries.filter(kept).map(|(entry, _)| entry).collect();
    // As they lie: on tape anything else costs minutes. Links come behind their targets.
    entries.sort_by_key(|entry| (entry.header == 0, entry.header));
    let hint = entries
        .iter()
        .map(|e| e.stored_len() + e.header_len())
        .sum();
    let sink = Sink {
        put: ground.tier.put(id, hint)?,
        sum: Crc32cHasher::default(),
    };
    let writer = AggregateWriter::new(sink, id, ground.backing.fs(), (ground.now)());
    let mut copier = Copier {
        ground,
        from: row.id,
        writer,
        taken: HashMap::new(),
        moved: Vec::new(),
    };
    for entry in &entries {
        copier.copy(entry)?;
    }
    let (new, index, moved) = copier.seal(id)?;
    ground.did(Step::Copied)?;
    let left = judged.dead_keys.clone();
    let done = ground
        .catalog
        .repacked(row.id, new, moved, left, (ground.now)())?;
    if done {
        ground.indexes.made(ground.id, id, &index);
        ground.did(Step::Moved)?;
    }
    Ok(done)
}

/// The object being written, summed on its way.
struct Sink {
    put: Box<dyn Put>,
    sum: Crc32cHasher,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.put.write(bytes)?;
        self.sum.update(&bytes[..taken]);
        Ok(taken)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.put.flush()
    }
}

struct Copier<'a> {
    ground: &'a Ground<'a>,
    from: AggregateId,
    writer: AggregateWriter<Sink>,
    /// Paths in the new aggregate; `true`: a directory.
    taken: HashMap<MemberPath, bool>,
    moved: Vec<Moved>,
}

impl Copier<'_> {
    fn copy(&mut self, entry: &IndexEntry) -> Result<(), ReclaimError> {
        self.ground.go_on()?;
        match (&entry.member.kind, key_of(entry)) {
            (Kind::Regular { .. }, Some(key)) => self.file(entry, key),
            // A file's other names go in with it. One of a pipe or device may have lost its target.
            (Kind::HardLink { target }, _) => match self.taken.get(target) {
                Some(false) if !self.taken.contains_key(&entry.member.path) => {
                    let member = self.whole(entry)?;
                    self.add(&member, &mut io::empty()).map(drop)
                }
                _ => Ok(()),
            },
            _ if self.taken.contains_key(&entry.member.path) => Ok(()),
            _ => {
                self.directories(&entry.member.path)?;
                let member = self.whole(entry)?;
                self.add(&member, &mut io::empty()).map(drop)
            }
        }
    }

    fn file(&mut self, entry: &IndexEntry, key: MemberKey) -> Result<(), ReclaimError> {
        let mut names = self.names(entry, key)?.into_iter();
        let path = match names.next() {
            Some(path) => path,
            None => self.aside(key)?,
        };
        let mut member = self.whole(entry)?;
        member.path = path.clone();
        let mut data = Stored {
            ground: self.ground,
            from: self.from,
            entry,
            next: 0,
            at_hand: Bytes::new(),
        };
        let added = self.add(&member, &mut data)?;
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

    /// The member with what its header alone holds.
    fn whole(&self, entry: &IndexEntry) -> Result<Member, ReclaimError> {
        let headers = match entry.header_len() {
            0 => Bytes::new(),
            len => self.ground.tier.read(self.from, entry.header, len)?,
        };
        entry
            .whole_member(&headers)
            .map_err(|source| ReclaimError::Compose {
                aggregate: self.from,
                source,
            })
    }

    /// The names that the file has now and that are free in the new aggregate, the one of the old
    /// aggregate first. Their directories are entered.
    fn names(
        &mut self,
        entry: &IndexEntry,
        (file, version): MemberKey,
    ) -> Result<Vec<MemberPath>, ReclaimError> {
        let catalog = self.ground.catalog;
        let node = catalog.nodes_by_file(file)?.into_iter().find(|node| {
            node.state != FileState::Dirty && node.version.is_some_and(|v| v.version == version)
        });
        let Some(node) = node else {
            return Ok(Vec::new());
        };
        let known = catalog.all_names(node.id, MOST_NAMES)?;
        let mut names: Vec<_> = known
            .into_iter()
            .filter_map(|name| MemberPath::new(name).ok())
            .filter(|name| !self.taken.contains_key(name) && !name.as_bytes().is_empty())
            .collect();
        names.sort_by_key(|name| (*name != entry.member.path, name.clone()));
        let mut kept = Vec::with_capacity(names.len());
        for name in names {
            // The catalog may lag behind a rename.
            if self
                .ground
                .backing
                .is_name_of(name.as_bytes(), &node.handle)
                .unwrap_or(false)
                && self.directories(&name)?
            {
                kept.push(name);
            }
        }
        Ok(kept)
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
        let (sum, len) = (sink.sum.sum(), sink.sum.len());
        let receipt = sink.put.finish(sum)?;
        if receipt.aggregate != id
            || receipt.len != len
            || trailer.total_len != len
            || receipt.crc != sum
        {
            return Err(ReclaimError::Receipt { aggregate: id });
        }
        let unique: HashSet<_> = self.moved.iter().map(|m| (m.key.0.0, m.key.1)).collect();
        debug_assert_eq!(unique.len(), self.moved.len());
        let new = NewAggregate {
            tier: self.ground.id,
            id,
            len,
            crc: sum,
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
            let bytes = self
                .ground
                .tier
                .read(self.from, place.offset_in_object, place.len)
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
