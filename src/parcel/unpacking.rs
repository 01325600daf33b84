//! The receiving end of an archive: ranges of a tar file there, written here as the members that lie in them.
//!
//! Invariants kept here, whoever made the archive:
//! - an index is believed about one thing alone, where its members lie: names come from it, and are kept below the tree as
//!   those of any parcel; a member's data are good if they have the sums of the index, and get no name before;
//! - no two members share a byte, so an archive never becomes more than it is; holes cost nothing;
//! - ranges without the archive's headers are enough: what is not asked for is not moved.

use super::ends::Incoming;
use super::layout::{Entry, Kind, Layout, LayoutFault, Piece, Time};
use super::opened::Trouble;
use super::receiving::{Fate, Placing, Receiving, Settle, Within};
use super::tally::{Tally, length};
use super::tree::Tree;
use crate::format::aggregate::{BLOCK, DataMap, Index, IndexEntry};
use crate::format::member::{self, MemberPath};
use cairn_mover::{ByteRange, Crc32c, Progress, RangeSet, Sink};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// Members that lie so near to each other are moved with what is between them: their headers, mostly.
const NEAR: u64 = 16 << 10;

/// An archive there, whose index was read.
#[derive(Debug)]
pub struct Contents {
    entries: Vec<IndexEntry>,
    /// The server's name for the state of the archive.
    version: Vec<u8>,
    size: u64,
}

/// A member that is to have its name here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// Which.
    pub member: usize,
    /// Whose data it has: its own, or those that it is another name of.
    pub data: usize,
}

impl Contents {
    /// Of an archive of `size` bytes.
    ///
    /// # Errors
    /// Members that share bytes: nobody writes that but to do harm.
    pub fn new(index: Index, version: Vec<u8>, size: u64) -> Result<Self, &'static str> {
        let mut places: Vec<(u64, u64)> = index
            .entries
            .iter()
            .filter(|entry| entry.header > 0)
            .map(|entry| (entry.header, entry.end()))
            .collect();
        places.sort_unstable();
        if places.windows(2).any(|two| two[1].0 < two[0].1) {
            return Err("members lie on top of each other");
        }
        Ok(Self {
            entries: index.entries,
            version,
            size,
        })
    }

    /// The server's name for the state of the archive that the index is of.
    #[must_use]
    pub fn version(&self) -> &[u8] {
        &self.version
    }

    /// Its members, by path.
    #[must_use]
    pub fn members(&self) -> &[IndexEntry] {
        &self.entries
    }

    /// The member of that path.
    #[must_use]
    pub fn find(&self, path: &MemberPath) -> Option<usize> {
        self.entries
            .binary_search_by(|entry| entry.member.path.cmp(path))
            .ok()
    }

    /// Bytes that are stored of a member.
    #[must_use]
    pub fn stored(&self, member: usize) -> u64 {
        self.entries.get(member).map_or(0, IndexEntry::stored_len)
    }

    /// A member as an entry of a parcel; `None`: nothing that is carried (a socket, a pipe, a device, the root itself).
    #[must_use]
    pub fn entry(&self, want: Want) -> Option<Entry> {
        let named = &self.entries.get(want.member)?.member;
        let data = &self.entries.get(want.data)?.member;
        let kind = match &data.kind {
            member::Kind::Regular { size, .. } if data.kind.stored_len() == *size => {
                Kind::File(*size)
            }
            member::Kind::Regular { size, .. } => Kind::Sparse {
                size: *size,
                stored: data.kind.stored_len(),
            },
            member::Kind::Symlink { target } => Kind::Link(target.clone()),
            member::Kind::Directory if !named.path.as_bytes().is_empty() => Kind::Directory,
            _ => return None,
        };
        Some(Entry {
            path: named.path.as_bytes().to_vec(),
            kind,
            mode: data.mode & 0o777,
            modified: Time {
                seconds: data.mtime.sec,
                nanos: data.mtime.nsec,
            },
        })
    }
}

/// Data of a member, where they lie in the archive.
#[derive(Debug)]
struct Lying {
    at: u64,
    end: u64,
    /// Its number in the parcel.
    entry: usize,
    member: usize,
    /// Of one with holes.
    map: Option<DataMap>,
}

/// See the module.
#[derive(Debug)]
pub struct Unpacking {
    contents: Arc<Contents>,
    receiving: Receiving,
    /// In their order.
    lying: Vec<Lying>,
    tally: Tally,
}

/// Why members cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum UnpackFault {
    /// Their names or sizes cannot be.
    #[error(transparent)]
    Layout(#[from] LayoutFault),
    /// A file cannot be made.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Unpacking {
    /// Ready to write these members below the tree; each is one that [`Contents::entry`] has.
    ///
    /// # Errors
    /// [`UnpackFault`].
    pub fn new(
        tree: Arc<Tree>,
        contents: Arc<Contents>,
        wants: &[Want],
        placing: Placing,
        tag: String,
        settle: Settle,
    ) -> Result<Self, UnpackFault> {
        let entries = wants.iter().filter_map(|want| contents.entry(*want));
        let layout = Layout::new(entries.collect())?;
        let mut lying: Vec<Lying> = Vec::new();
        for (entry, want) in wants.iter().enumerate() {
            let of = &contents.entries[want.data];
            if of.stored_len() > 0 {
                lying.push(Lying {
                    at: of.data,
                    end: of.end(),
                    entry,
                    member: want.data,
                    map: (!of.is_dense()).then(|| of.data_map()),
                });
            }
        }
        lying.sort_by_key(|lying| lying.at);
        let within = Within {
            at: lying.first().map_or(0, |lying| lying.at),
            size: contents.size,
        };
        let source = (contents.version.as_slice(), within);
        let receiving = Receiving::within(tree, layout, placing, source, tag, settle)?;
        Ok(Self {
            receiving,
            lying,
            tally: Tally::default(),
            contents,
        })
    }

    /// What of the archive is wanted.
    fn wanted(&self) -> RangeSet {
        let mut wanted = RangeSet::default();
        let mut before = None;
        for lying in &self.lying {
            let near = before.filter(|end| lying.at.saturating_sub(*end) <= NEAR);
            let range = ByteRange::between(near.unwrap_or(lying.at), lying.end);
            range.map(|range| wanted.insert(range));
            before = Some(lying.end);
        }
        wanted
    }

    /// Stored bytes of a member, at their place in its file.
    fn write(&self, lying: &Lying, at: u64, bytes: &[u8]) -> io::Result<()> {
        let stored = lying.end - lying.at;
        self.tally.take(lying.entry, stored, at, bytes);
        let piece = |at, len| Piece {
            entry: lying.entry,
            at,
            len,
        };
        let Some(map) = &lying.map else {
            return self.receiving.take(piece(at, bytes.len()), bytes);
        };
        let end = at + bytes.len() as u64;
        for n in at / BLOCK..end.div_ceil(BLOCK) {
            for run in map.pieces(n) {
                let start = n * BLOCK + run.within_block;
                let (from, to) = (start.max(at), (start + run.len).min(end));
                if from < to {
                    let here = &bytes[(from - at) as usize..(to - at) as usize];
                    let logical = run.logical + (from - start);
                    self.receiving.take(piece(logical, here.len()), here)?;
                }
            }
        }
        Ok(())
    }

    /// Has each block the sum of the index? What an earlier transfer left is read for it.
    fn is_good(&self, lying: &Lying) -> io::Result<bool> {
        let entry = &self.contents.entries[lying.member];
        let mut buffer = Vec::new();
        for (n, known) in (0..).zip(&entry.blocks) {
            let sum = match self.tally.block(lying.entry, n) {
                Some(sum) => sum,
                None => {
                    buffer.resize(length(entry.stored_len(), n) as usize, 0);
                    self.receiving.read_back(n * BLOCK, &mut buffer)?;
                    Crc32c::of(&buffer)
                }
            };
            if sum != *known {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Sink for Unpacking {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        let first = self.lying.partition_point(|lying| lying.end <= offset);
        for lying in self.lying[first..].iter().take_while(|l| l.at < end) {
            let (from, to) = (lying.at.max(offset), lying.end.min(end));
            let here = &bytes[(from - offset) as usize..(to - offset) as usize];
            self.write(lying, from - lying.at, here)?;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.receiving.sync()
    }

    fn keep(&self, progress: &Progress) -> io::Result<()> {
        self.receiving.keep(progress)
    }
}

impl Incoming for Unpacking {
    fn size(&self) -> u64 {
        self.contents.size
    }

    fn progress(&self, version: &[u8]) -> Progress {
        let begun = self.receiving.begun();
        begun.unwrap_or_else(|| Progress::new(version, self.contents.size))
    }

    fn lacking(&self, version: &[u8]) -> Vec<ByteRange> {
        let mut wanted = self.wanted();
        for (run, _) in self.progress(version).runs() {
            wanted.remove(run);
        }
        wanted.iter().collect()
    }

    fn place(
        &self,
        progress: &Progress,
        troubles: &BTreeMap<usize, Trouble>,
    ) -> io::Result<Vec<(usize, Fate)>> {
        for lying in &self.lying {
            let wrong = match self.is_good(lying) {
                Ok(true) => continue,
                Ok(false) => io::Error::new(
                    io::ErrorKind::InvalidData,
                    "its data do not have the checksums of the archive's index",
                ),
                Err(error) => error,
            };
            self.receiving.fail(lying.entry, "check it", wrong);
        }
        self.receiving.place(progress, troubles)
    }
}

/// The end of an archive, or any other range of a file there, kept in memory.
#[derive(Debug)]
pub struct Tail {
    size: u64,
    range: ByteRange,
    bytes: Mutex<Vec<u8>>,
    version: Mutex<Vec<u8>>,
}

impl Tail {
    /// For that range of a file of `size` bytes.
    #[must_use]
    pub fn new(size: u64, range: ByteRange) -> Self {
        Self {
            size,
            range,
            bytes: Mutex::new(vec![0; range.len() as usize]),
            version: Mutex::default(),
        }
    }

    /// What comes is of a file in that state.
    pub fn is_of(&self, version: &[u8]) {
        *self.version.lock() = version.to_vec();
    }

    /// What was received, once, and the state of the file that it is of.
    #[must_use]
    pub fn take(&self) -> (Vec<u8>, Vec<u8>) {
        let bytes = std::mem::take(&mut *self.bytes.lock());
        (bytes, self.version.lock().clone())
    }
}

impl Sink for Tail {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut all = self.bytes.lock();
        let at = offset.checked_sub(self.range.start());
        let at = at.and_then(|at| usize::try_from(at).ok());
        let here = at.and_then(|at| all.get_mut(at..at.checked_add(bytes.len())?));
        let here = here.ok_or(io::ErrorKind::InvalidData)?;
        here.copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Incoming for Tail {
    fn size(&self) -> u64 {
        self.size
    }

    fn progress(&self, version: &[u8]) -> Progress {
        Progress::new(version, self.size)
    }

    fn lacking(&self, _version: &[u8]) -> Vec<ByteRange> {
        vec![self.range]
    }

    fn place(
        &self,
        _progress: &Progress,
        _troubles: &BTreeMap<usize, Trouble>,
    ) -> io::Result<Vec<(usize, Fate)>> {
        Ok(Vec::new())
    }
}
