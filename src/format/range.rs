//! From a logical range of a member to the stored blocks that hold it, and back: what a recall
//! reads, verifies and writes, as values.
//!
//! Stored bytes are the member's data runs packed one behind the other; a block is the n-th
//! [`BLOCK`] of them. A logical range touches a contiguous run of blocks, because packing keeps
//! the order. What no piece covers is a hole: zeros.

use super::aggregate::{BLOCK, IndexEntry};
use super::member::Extent;
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
    /// From the start of the object, bytes.
    pub offset_in_object: u64,
    /// Length in bytes: [`BLOCK`], or less for the last block of a member.
    pub len: u64,
    /// Sum of the block's bytes.
    pub crc: Crc32c,
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
        let start = n * BLOCK;
        Some(BlockPlace {
            offset_in_object: self.data + start,
            len: (self.stored_len() - start).min(BLOCK),
            crc,
        })
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
mod tests {
    use super::super::member::{Kind, Member, MemberPath};
    use super::*;
    use crate::id::Timestamp;
    use proptest::prelude::*;

    fn entry(size: u64, extents: Vec<Extent>) -> IndexEntry {
        let kind = Kind::Regular { size, extents };
        let blocks = vec![Crc32c(1); kind.stored_len().div_ceil(BLOCK) as usize];
        let now = Timestamp::default();
        let member = Member {
            path: MemberPath::root(),
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: now,
            atime: now,
            ctime: now,
            xattrs: Vec::new(),
            identity: None,
        };
        IndexEntry {
            member,
            header: 1024,
            data: 4096,
            header_crc: Crc32c(1),
            blocks,
        }
    }

    #[test]
    fn a_dense_file_maps_straight() {
        let entry = entry(
            3 * BLOCK + 5,
            vec![Extent {
                offset: 0,
                len: 3 * BLOCK + 5,
            }],
        );
        assert_eq!(entry.blocks_for(0..1), BlockRange { first: 0, end: 1 });
        assert_eq!(
            entry.blocks_for(BLOCK - 1..BLOCK + 1),
            BlockRange { first: 0, end: 2 }
        );
        assert_eq!(
            entry.blocks_for(3 * BLOCK..u64::MAX),
            BlockRange { first: 3, end: 4 }
        );
        assert!(entry.blocks_for(4 * BLOCK..5 * BLOCK).is_empty());
        let last = entry.block(3).unwrap();
        assert_eq!((last.offset_in_object, last.len), (4096 + 3 * BLOCK, 5));
        assert_eq!(entry.block(4), None);
        assert_eq!(entry.block(u64::MAX), None);
        assert_eq!(entry.pieces(4).count(), 0);
    }

    proptest! {
        #[test]
        fn pieces_and_ranges_agree_with_the_extents(
            runs in proptest::collection::vec((1_u64..5000, 1_u64..5000), 1..12),
            a in 0_u64..40_000_000, len in 0_u64..3_000_000,
        ) {
            let mut at = 0;
            let runs: Vec<_> = runs.into_iter().map(|(gap, len)| {
                let run = Extent { offset: at + gap * 512, len: len * 512 };
                at = run.offset + run.len;
                run
            }).collect();
            let entry = entry(at + 9, runs.clone());
            // Pieces cover each block exactly, in order, and lie in the runs.
            let mut covered = 0;
            for n in 0..entry.block_count() {
                let mut within = 0;
                for piece in entry.pieces(n) {
                    prop_assert_eq!(piece.within_block, within);
                    within += piece.len;
                    covered += piece.len;
                    prop_assert!(runs.iter().any(|r| r.offset <= piece.logical
                        && piece.logical + piece.len <= r.offset + r.len));
                }
                prop_assert_eq!(within, entry.block(n).unwrap().len);
            }
            prop_assert_eq!(covered, entry.stored_len());
            // A range needs exactly the blocks that have a piece in it.
            let range = entry.blocks_for(a..a + len);
            for n in 0..entry.block_count() {
                let hit = entry.pieces(n).any(|p| p.logical < a + len && a < p.logical + p.len);
                prop_assert!(!hit || range.iter().contains(&n));
                let edge = n == range.first || n + 1 == range.end;
                prop_assert!(hit || !edge || !range.iter().contains(&n));
            }
        }
    }
}
