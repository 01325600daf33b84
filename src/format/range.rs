//! From a logical range of a member to the stored blocks that hold it, and back: what a recall
//! reads, verifies and writes, as values.
//!
//! Stored bytes are the member's data runs packed one behind the other; a block is the n-th
//! [`BLOCK`] of them. A logical range touches a contiguous run of blocks, because packing keeps
//! the order. What no piece covers is a hole: zeros.

use super::aggregate::{BLOCK, IndexEntry};
use super::member::Extent;
use crate::id::AggregateId;
use cairn_mover::Crc32c;
use std::ops::Range;

/// Numbers of blocks: `first..end`. Empty for a range that lies in holes or behind the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRange {
    /// The first block.
    pub first: u64,
    /// Behind the last.
    pub end: u64,
}

impl BlockRange {
    /// How many blocks.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.end.saturating_sub(self.first)
    }
    /// No block at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The numbers in order.
    pub fn iter(&self) -> Range<u64> {
        self.first..self.end
    }
}

impl IntoIterator for BlockRange {
    type Item = u64;
    type IntoIter = Range<u64>;
    fn into_iter(self) -> Range<u64> {
        self.first..self.end
    }
}

/// Where a block lies and what its bytes must sum to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockPlace {
    /// The number of the part that it lies in; 0: the aggregate's own object.
    part: u16,
    /// From the start of the object, bytes.
    pub offset_in_object: u64,
    /// Length in bytes: [`BLOCK`], or less for the last block of a member.
    pub len: u64,
    /// Sum of the block's bytes.
    pub crc: Crc32c,
}

impl BlockPlace {
    /// The object that it lies in, of a member of `aggregate`.
    #[must_use]
    pub fn object(&self, aggregate: AggregateId) -> AggregateId {
        aggregate.part(self.part)
    }
}

/// Blocks that lie behind one another in one object: what one read can give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRun {
    part: u16,
    /// Their numbers; not empty.
    pub blocks: Range<u64>,
    /// From the start of the object, bytes.
    pub offset_in_object: u64,
    /// Length in bytes.
    pub len: u64,
}

impl BlockRun {
    /// The object that they lie in, of a member of `aggregate`.
    #[must_use]
    pub fn object(&self, aggregate: AggregateId) -> AggregateId {
        aggregate.part(self.part)
    }
}

/// A part of a block and where it goes in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Offset in the file, bytes.
    pub logical: u64,
    /// Offset within the block, bytes.
    pub within_block: u64,
    /// Length in bytes; never 0.
    pub len: u64,
}

impl IndexEntry {
    /// How many blocks the member's data take.
    #[must_use]
    pub fn block_count(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// The blocks that hold any byte of a logical range. Takes time in the number of runs.
    #[must_use]
    pub fn blocks_for(&self, logical: Range<u64>) -> BlockRange {
        let mut stored = 0_u64;
        let mut touched: Option<Range<u64>> = None;
        for run in self.member.kind.runs() {
            if run.offset >= logical.end {
                break;
            }
            let from = logical.start.max(run.offset);
            let to = logical.end.min(run.offset + run.len);
            if from < to {
                let start = stored + (from - run.offset);
                let end = stored + (to - run.offset);
                touched = Some(touched.map_or(start, |t| t.start)..end);
            }
            stored += run.len;
        }
        let touched = touched.unwrap_or(0..0);
        BlockRange {
            first: touched.start / BLOCK,
            end: touched.end.div_ceil(BLOCK),
        }
    }

    /// The place and sum of block `n`; `None` behind the last.
    #[must_use]
    pub fn block(&self, n: u64) -> Option<BlockPlace> {
        let crc = *self.blocks.get(usize::try_from(n).ok()?)?;
        let (part, data, blocks) = self.home(n);
        Some(BlockPlace {
            part,
            offset_in_object: data + (n - blocks.start) * BLOCK,
            len: (self.stored_len() - n * BLOCK).min(BLOCK),
            crc,
        })
    }

    /// What a block lies in: the number of the part (0: the aggregate's own object), where its data begin, and
    /// which blocks are there. The one place that knows where data are.
    fn home(&self, n: u64) -> (u16, u64, Range<u64>) {
        let parts = self.parts();
        let at = parts.partition_point(|part| part.first + part.blocks <= n);
        match parts.get(at) {
            Some(part) => {
                let number = u16::try_from(at + 1).unwrap_or(u16::MAX);
                (number, part.data, part.first..part.first + part.blocks)
            }
            None => (0, self.data, self.first_own_block()..self.block_count()),
        }
    }

    /// Blocks `first..end` as reads of one object each, in order; what is behind the last block is none.
    #[must_use]
    pub fn runs_of_blocks(&self, blocks: Range<u64>) -> Vec<BlockRun> {
        let (mut first, end) = (blocks.start, blocks.end.min(self.block_count()));
        let mut runs = Vec::new();
        while first < end {
            let (part, data, home) = self.home(first);
            let upto = home.end.min(end);
            runs.push(BlockRun {
                part,
                blocks: first..upto,
                offset_in_object: data + (first - home.start) * BLOCK,
                len: (upto * BLOCK).min(self.stored_len()) - first * BLOCK,
            });
            first = upto;
        }
        runs
    }

    /// All blocks that lie in the object of block `n`, of a member of `aggregate`.
    #[must_use]
    pub fn beside(&self, n: u64) -> Option<BlockRun> {
        let (_, _, home) = self.home(n);
        self.runs_of_blocks(home).into_iter().next()
    }

    /// Where the bytes of block `n` go in the file, in order; they cover the block exactly. Takes
    /// time in the number of runs before it.
    pub fn pieces(&self, n: u64) -> impl Iterator<Item = Piece> + '_ {
        let from = n.saturating_mul(BLOCK);
        let to = from.saturating_add(BLOCK);
        let mut stored = 0_u64;
        let placed = self.member.kind.runs().iter().map(move |run| {
            let at = stored;
            stored += run.len;
            (at, run)
        });
        placed
            .skip_while(move |(at, run)| at + run.len <= from)
            .take_while(move |(at, _)| *at < to)
            .map(move |(at, run)| piece(at, run, from, to))
    }
}

/// The runs of a member with where each begins in the stored data: answers as [`IndexEntry`]'s
/// methods do, in logarithmic time. For whoever asks about many blocks of a file with many holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataMap {
    /// Offset in the stored data, and the run; ascending in both.
    runs: Vec<(u64, Extent)>,
    stored: u64,
}

impl IndexEntry {
    /// Makes the map, once.
    #[must_use]
    pub fn data_map(&self) -> DataMap {
        let mut stored = 0;
        let place = |run: &Extent| {
            let at = stored;
            stored += run.len;
            (at, *run)
        };
        let runs = self.member.kind.runs().iter().map(place).collect();
        DataMap { runs, stored }
    }
}

impl DataMap {
    /// See [`IndexEntry::blocks_for`].
    #[must_use]
    pub fn blocks_for(&self, logical: Range<u64>) -> BlockRange {
        let start = self.stored_before(logical.start);
        let end = self.stored_before(logical.end);
        if start >= end {
            return BlockRange { first: 0, end: 0 };
        }
        BlockRange {
            first: start / BLOCK,
            end: end.div_ceil(BLOCK),
        }
    }

    /// See [`IndexEntry::pieces`].
    pub fn pieces(&self, n: u64) -> impl Iterator<Item = Piece> + '_ {
        let from = n.saturating_mul(BLOCK);
        let to = from.saturating_add(BLOCK).min(self.stored);
        let first = self.runs.partition_point(|(at, run)| at + run.len <= from);
        let touched = self.runs[first..].iter();
        touched
            .take_while(move |(at, _)| *at < to)
            .map(move |(at, run)| piece(*at, run, from, to))
    }

    /// How many stored bytes belong before a logical offset.
    fn stored_before(&self, logical: u64) -> u64 {
        let behind = self.runs.partition_point(|(_, run)| run.offset < logical);
        match behind.checked_sub(1).and_then(|n| self.runs.get(n)) {
            Some((at, run)) => at + (logical - run.offset).min(run.len),
            None => 0,
        }
    }
}

fn piece(at: u64, run: &Extent, from: u64, to: u64) -> Piece {
    let start = at.max(from);
    let end = (at + run.len).min(to);
    Piece {
        logical: run.offset + (start - at),
        within_block: start - from,
        len: end - start,
    }
}

#[cfg(test)]
mod tests;
