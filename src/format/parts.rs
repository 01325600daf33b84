//! A file that is longer than an object may be is cut into parts, each in a plain tar of its own (P14).
//!
//! ```text
//! e0000002a-000000000017-0001    dirs, name.cairn-part-0001    blocks 0..a
//! e0000002a-000000000017-0002    dirs, name.cairn-part-0002    blocks a..b
//! e0000002a-000000000017         dirs, name.cairn-part-0003    blocks b..     the head: made last
//! ```
//! The head's index has the file's own entry, with the sums of all its blocks and where each part lies; so a
//! part says nothing that the head does not say, too.
//!
//! Invariants:
//! - Parts are cut at whole blocks of *stored* data: every block of the file lies in one object, and is
//!   a block there. So sums are those of a file in one piece, and a run is cut at multiples of 512 bytes.
//! - Joined by `cat`, in the order of their numbers, they are the file, holes as zeros.
//! - Every part but the last holds whole blocks alone, and none is empty.

use super::aggregate::{BLOCK, Index, IndexEntry};
use super::member::{Extent, Kind, MAX_NAME, Member, MemberPath};
use crate::id::AggregateId;
use cairn_mover::Crc32c;
use std::ops::Range;

/// Bytes around a member that are not worth an exact account: ends, paddings, heads.
const SLACK: u64 = 64 << 10;
/// What a run costs at most, in the map of a header and in an index, bytes.
const RUN_COST: u64 = 64;
/// What a block's sum costs in an index, bytes.
const BLOCK_COST: u64 = 4;
/// What a part costs in the head's index, bytes.
const PART_COST: u64 = 48;

/// How a member's data lie on objects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Span {
    /// All in this one.
    #[default]
    Whole,
    /// The member is a part of a file; whose, its identity says.
    Part {
        /// Its number, from 1.
        number: u16,
        /// Where its content begins in the file's, bytes.
        offset: u64,
    },
    /// The member is a file whose last part alone is in this object; these are the others, in order.
    Parts(Vec<PartPlace>),
}

/// Where a part lies in its own object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartPlace {
    /// Offset of its first header block.
    pub header: u64,
    /// Offset of its first stored byte.
    pub data: u64,
    /// CRC32C of `header..data`.
    pub header_crc: Crc32c,
    /// The file's first block that lies in it.
    pub first: u64,
    /// How many do.
    pub blocks: u64,
    /// Length of its object, bytes.
    pub len: u64,
}

/// What a part's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartMark {
    /// Its number, from 1.
    pub number: u16,
    /// Where its content begins in the file's, bytes.
    pub offset: u64,
    /// In the last one: the size of the whole file.
    pub whole: Option<u64>,
}

/// One part of a file, planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Its number, from 1.
    pub number: u16,
    /// Its content, in the file's.
    pub content: Range<u64>,
    /// Its blocks of the file's stored data.
    pub blocks: Range<u64>,
    /// Its runs, counted from its own beginning.
    pub extents: Vec<Extent>,
}

impl Slice {
    /// What its member is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind::Regular {
            size: self.content.end - self.content.start,
            extents: self.extents.clone(),
        }
    }

    /// Its stored bytes.
    #[must_use]
    pub fn stored_len(&self) -> u64 {
        self.extents.iter().map(|run| run.len).sum()
    }
}

/// Why a file cannot be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Uncut {
    /// An object has no room for a block and what is around it.
    #[error("an object of {0} bytes has no room for a part")]
    Short(u64),
    /// Part numbers have four digits.
    #[error("it would be more than 9999 parts of at most {0} bytes")]
    Many(u64),
}

/// A bound of what an object needs besides the file's stored bytes and what grows with them: `others` is
/// what was written before it.
#[must_use]
pub fn around(member: &Member, others: u64) -> u64 {
    let attributes = member.xattrs.iter();
    let attributes: u64 = attributes.map(|(n, v)| (n.len() + v.len()) as u64).sum();
    // Each stands in a header, or in the index, or (of a directory) in both.
    2 * (others + 2 * attributes) + 8 * member.path.as_bytes().len() as u64 + SLACK
}

/// How long an object with all of a file in it is at most.
#[must_use]
pub fn whole_len(kind: &Kind, around: u64) -> u64 {
    let stored = kind.stored_len();
    stored
        .saturating_add(around)
        .saturating_add(kind.runs().len() as u64 * RUN_COST)
        .saturating_add(stored.div_ceil(BLOCK) * BLOCK_COST)
}

/// How much longer the object with the last part is than one with it alone, if there are so many: its index has all
/// of the file.
#[must_use]
pub fn head_len(kind: &Kind, parts: usize) -> u64 {
    let of_all = kind.stored_len().div_ceil(BLOCK) * BLOCK_COST;
    of_all
        .saturating_add((kind.runs().len() as u64).saturating_mul(RUN_COST))
        .saturating_add((parts as u64).saturating_mul(2 * PART_COST))
}

/// Cuts a file for objects of at most `limit` bytes: at least two parts.
///
/// # Errors
/// [`Uncut`].
pub fn cut(kind: &Kind, limit: u64, around: u64) -> Result<Vec<Slice>, Uncut> {
    let (size, runs) = match kind {
        Kind::Regular { size, extents } => (*size, &extents[..]),
        _ => (0, &[][..]),
    };
    let blocks = kind.stored_len().div_ceil(BLOCK);
    let room = limit.saturating_sub(around);
    // The head's index has all of the file's.
    let of_all = blocks * BLOCK_COST + (runs.len() as u64).saturating_mul(RUN_COST);
    let most = u64::from(AggregateId::MOST_PARTS);
    let guess = kind.stored_len().div_ceil(room.max(1)).min(most) + 2;
    let head_room = room.saturating_sub(of_all.saturating_add(2 * guess * PART_COST));
    if blocks < 2 || room < BLOCK + BLOCK_COST + 2 * RUN_COST || head_room < BLOCK {
        return Err(Uncut::Short(limit));
    }
    let mut slicer = Slicer {
        runs,
        taken: 0,
        slices: Vec::new(),
    };
    let mut first = 0;
    while first < blocks {
        let left = kind.stored_len() - first * BLOCK;
        let is_last = left <= head_room && first > 0;
        let most = if is_last { blocks } else { blocks - 1 };
        let end = slicer.take(first..most, if is_last { u64::MAX } else { room });
        if end == first {
            return Err(Uncut::Short(limit));
        }
        first = end;
        if slicer.slices.len() > usize::from(AggregateId::MOST_PARTS) {
            return Err(Uncut::Many(limit));
        }
    }
    let mut slices = slicer.slices;
    if let Some(last) = slices.last_mut() {
        last.content.end = size;
    }
    if slices.len() > usize::from(AggregateId::MOST_PARTS) {
        return Err(Uncut::Many(limit));
    }
    Ok(slices)
}

struct Slicer<'a> {
    /// Runs that are not in slices yet; of the first, `taken` bytes are.
    runs: &'a [Extent],
    taken: u64,
    slices: Vec<Slice>,
}

impl Slicer<'_> {
    /// Makes the next slice, of as many of these blocks as find room; where it ends.
    fn take(&mut self, blocks: Range<u64>, room: u64) -> u64 {
        let start = self.runs.first().map_or(0, |run| run.offset + self.taken);
        // The first begins with the file, holes and all.
        let start = if self.slices.is_empty() { 0 } else { start };
        let mut extents: Vec<Extent> = Vec::new();
        let (mut stored, mut end) = (0_u64, blocks.start);
        while end < blocks.end {
            let (runs, taken) = (self.runs, self.taken);
            let before = (extents.len(), extents.last().copied());
            let got = self.block(start, &mut extents);
            let cost = stored
                .saturating_add(got)
                .saturating_add(extents.len() as u64 * 2 * RUN_COST)
                .saturating_add((end - blocks.start + 1) * BLOCK_COST);
            if cost > room {
                (self.runs, self.taken) = (runs, taken);
                extents.truncate(before.0);
                if let (Some(last), Some(as_was)) = (extents.last_mut(), before.1) {
                    *last = as_was;
                }
                break;
            }
            stored += got;
            end += 1;
        }
        let next = self
            .runs
            .first()
            .map_or(start, |run| run.offset + self.taken);
        let ends_at = extents
            .last()
            .map_or(start, |run| start + run.offset + run.len);
        if end > blocks.start {
            self.slices.push(Slice {
                number: u16::try_from(self.slices.len() + 1).unwrap_or(u16::MAX),
                content: start..next.max(ends_at),
                blocks: blocks.start..end,
                extents,
            });
        }
        end
    }

    /// Takes one block, or what is left; how many bytes.
    fn block(&mut self, start: u64, extents: &mut Vec<Extent>) -> u64 {
        let mut got = 0;
        while let (Some(run), true) = (self.runs.first(), got < BLOCK) {
            let len = (run.len - self.taken).min(BLOCK - got);
            let offset = run.offset + self.taken - start;
            match extents.last_mut() {
                Some(last) if last.offset + last.len == offset => last.len += len,
                _ => extents.push(Extent { offset, len }),
            }
            got += len;
            self.taken += len;
            if self.taken == run.len {
                (self.runs, self.taken) = (&self.runs[1..], 0);
            }
        }
        got
    }
}

/// The name of a part's member. One that is too long for more is shortened, and has some of the file's id: so
/// that of two such files in a directory neither takes the other's place.
#[must_use]
pub fn part_path(member: &Member, number: u16) -> MemberPath {
    let path = &member.path;
    let suffix = format!(".cairn-part-{number:04}");
    let bytes = path.as_bytes();
    let name_at = bytes
        .iter()
        .rposition(|b| *b == b'/')
        .map_or(0, |at| at + 1);
    let longest = name_at + MAX_NAME - suffix.len();
    let mut name = bytes.to_vec();
    if name.len() > longest {
        let id = member.identity.map_or([0; 16], |identity| identity.file.0);
        let [a, b, c, d, ..] = id;
        let some = format!("~{:08x}", u32::from_be_bytes([a, b, c, d]));
        name.truncate(longest - some.len());
        name.extend_from_slice(some.as_bytes());
    }
    name.extend_from_slice(suffix.as_bytes());
    // A component that is long enough and no dots, behind a path that was one.
    MemberPath::new(name).unwrap_or_else(|_| path.clone())
}

impl IndexEntry {
    /// The parts in other objects; none of a file in one piece.
    #[must_use]
    pub fn parts(&self) -> &[PartPlace] {
        match &self.span {
            Span::Parts(parts) => parts,
            Span::Whole | Span::Part { .. } => &[],
        }
    }

    /// Is it a part of a file, and no file?
    #[must_use]
    pub fn is_part(&self) -> bool {
        matches!(self.span, Span::Part { .. })
    }

    /// The first block whose bytes are in this object.
    pub(super) fn first_own_block(&self) -> u64 {
        self.parts()
            .last()
            .map_or(0, |last| last.first + last.blocks)
    }

    /// Stored bytes in this object.
    #[must_use]
    pub fn own_stored_len(&self) -> u64 {
        let elsewhere = self.first_own_block().saturating_mul(BLOCK);
        self.stored_len().saturating_sub(elsewhere)
    }

    /// Path and kind of its member in this object's tar part.
    pub(super) fn in_tar(&self) -> (MemberPath, Kind) {
        let member = &self.member;
        let Kind::Regular { size, extents } = &member.kind else {
            return (member.path.clone(), member.kind.clone());
        };
        if self.parts().is_empty() {
            return (member.path.clone(), member.kind.clone());
        }
        let number = u16::try_from(self.parts().len() + 1).unwrap_or(u16::MAX);
        let mut skip = self.first_own_block() * BLOCK;
        let mut start = None;
        let mut own = Vec::new();
        for run in extents {
            let passed = skip.min(run.len);
            skip -= passed;
            if passed < run.len {
                let begin = run.offset + passed;
                let start = *start.get_or_insert(begin);
                own.push(Extent {
                    offset: begin - start,
                    len: run.len - passed,
                });
            }
        }
        let kind = Kind::Regular {
            size: size - start.unwrap_or(*size),
            extents: own,
        };
        (part_path(member, number), kind)
    }
}

impl Index {
    /// The parts of the file that lies in this object and others, if there is one.
    #[must_use]
    pub fn parts(&self) -> &[PartPlace] {
        let mut entries = self.entries.iter();
        entries
            .find(|entry| !entry.parts().is_empty())
            .map_or(&[], |entry| entry.parts())
    }

    /// Lengths of all objects together, if that of this one is `len`.
    #[must_use]
    pub fn len_with_parts(&self, len: u64) -> u64 {
        let parts = self.parts().iter();
        parts.fold(len, |sum, part| sum.saturating_add(part.len))
    }
}

#[cfg(test)]
mod tests;
