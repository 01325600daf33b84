//! Sums of the blocks of members whose bytes pass in any order, in any pieces, and some of them twice.

use crate::format::aggregate::BLOCK;
use cairn_mover::{ByteRange, Crc32c, Runs};
use parking_lot::Mutex;
use std::collections::HashMap;

/// A block: the member's number, and the block's in it.
type Place = (usize, u64);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Sums>);

#[derive(Debug, Default)]
struct Sums {
    whole: HashMap<Place, Crc32c>,
    /// Blocks of which some bytes did not pass yet.
    begun: HashMap<Place, Runs>,
}

/// Bytes of block `n` of a member of which so many are stored.
pub(super) fn length(stored: u64, n: u64) -> u64 {
    stored.saturating_sub(n * BLOCK).min(BLOCK)
}

impl Tally {
    /// Takes stored bytes of a member, of which it has `stored`.
    pub(super) fn take(&self, member: usize, stored: u64, at: u64, bytes: &[u8]) {
        let (mut at, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let n = at / BLOCK;
            let room = (n + 1) * BLOCK - at;
            let (here, behind) = rest.split_at(rest.len().min(room as usize));
            self.add((member, n), length(stored, n), at - n * BLOCK, here);
            at += here.len() as u64;
            rest = behind;
        }
    }

    fn add(&self, place: Place, length: u64, at: u64, bytes: &[u8]) {
        let sum = Crc32c::of(bytes);
        let (Some(range), Some(all)) = (
            ByteRange::new(at, bytes.len() as u64),
            ByteRange::new(0, length),
        ) else {
            return;
        };
        let mut sums = self.0.lock();
        if sums.whole.contains_key(&place) {
            return;
        }
        let whole = if range == all {
            Some(sum)
        } else {
            let runs = sums.begun.entry(place).or_default();
            runs.add(range, sum);
            runs.sum_of([all])
        };
        if let Some(sum) = whole {
            sums.begun.remove(&place);
            sums.whole.insert(place, sum);
        }
    }

    /// The sum of a block, all of which passed.
    pub(super) fn block(&self, member: usize, n: u64) -> Option<Crc32c> {
        self.0.lock().whole.get(&(member, n)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn pieces_in_any_order_sum_to_their_blocks(
            cuts in prop::collection::vec(1_usize..300_000, 1..12), seed: u64,
        ) {
            let stored: usize = cuts.iter().sum();
            let data: Vec<u8> = (0..stored).map(|n| (n as u64 ^ seed).wrapping_mul(31) as u8).collect();
            let mut pieces = Vec::new();
            let mut at = 0;
            for cut in cuts {
                pieces.push(at..at + cut);
                at += cut;
            }
            pieces.sort_by_key(|piece| (piece.start as u64).wrapping_mul(seed | 1));
            let tally = Tally::default();
            for piece in pieces.iter().chain(&pieces[..1]) {
                tally.take(3, stored as u64, piece.start as u64, &data[piece.clone()]);
            }
            for (n, block) in data.chunks(BLOCK as usize).enumerate() {
                prop_assert_eq!(tally.block(3, n as u64), Some(Crc32c::of(block)));
            }
            prop_assert_eq!(tally.block(4, 0), None);
        }
    }
}
