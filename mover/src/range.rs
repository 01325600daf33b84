//! Ranges of byte offsets, and sets of them.
//!
//! Invariants kept here:
//! - a [`ByteRange`] is never empty and never wraps;
//! - a [`RangeSet`] holds disjoint ranges that do not even touch, in order.

use std::collections::BTreeMap;
use std::fmt;

/// Offsets from `start` (included) to `end` (excluded), in bytes; never empty.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteRange {
    start: u64,
    end: u64,
}

impl ByteRange {
    /// `len` bytes from `start`; nothing if that is empty or ends behind `u64::MAX`.
    #[must_use]
    pub fn new(start: u64, len: u64) -> Option<Self> {
        let end = start.checked_add(len)?;
        (len > 0).then_some(Self { start, end })
    }

    /// From `start` up to `end`; nothing if that is empty.
    #[must_use]
    pub fn between(start: u64, end: u64) -> Option<Self> {
        (start < end).then_some(Self { start, end })
    }

    /// Offset of the first byte.
    #[must_use]
    pub fn start(self) -> u64 {
        self.start
    }

    /// Offset behind the last byte.
    #[must_use]
    pub fn end(self) -> u64 {
        self.end
    }

    /// Bytes in it; at least 1.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(self) -> u64 {
        self.end - self.start
    }

    /// Does `other` lie wholly in it?
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The block that begins at its start: up to the next multiple of `block`, or its end.
    #[must_use]
    pub fn first_block(self, block: u32) -> Self {
        let block = u64::from(block.max(1));
        let grid = (self.start / block).saturating_add(1).saturating_mul(block);
        Self {
            start: self.start,
            end: self.end.min(grid),
        }
    }
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A set of byte offsets, kept as disjoint ranges.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// start -> end.
    ranges: BTreeMap<u64, u64>,
    bytes: u64,
}

impl RangeSet {
    /// Adds `range`; ranges that overlap or touch become one. Answers how many bytes were new.
    pub fn insert(&mut self, range: ByteRange) -> u64 {
        let (mut start, mut end) = (range.start, range.end);
        let mut absorbed = 0;
        while let Some((&s, &e)) = self.ranges.range(..=end).next_back() {
            if e < start {
                break;
            }
            self.ranges.remove(&s);
            absorbed += e - s;
            start = start.min(s);
            end = end.max(e);
        }
        self.ranges.insert(start, end);
        let new = (end - start) - absorbed;
        self.bytes += new;
        new
    }

    /// Takes `range` out. Answers how many of its bytes were there.
    pub fn remove(&mut self, range: ByteRange) -> u64 {
        let mut taken = 0;
        while let Some((&s, &e)) = self.ranges.range(..range.end).next_back() {
            if e <= range.start {
                break;
            }
            self.ranges.remove(&s);
            if s < range.start {
                self.ranges.insert(s, range.start);
            }
            if range.end < e {
                self.ranges.insert(range.end, e);
            }
            taken += e.min(range.end) - s.max(range.start);
        }
        self.bytes -= taken;
        taken
    }

    /// The range of the set that holds the byte at `offset`.
    #[must_use]
    pub fn holding(&self, offset: u64) -> Option<ByteRange> {
        let (&start, &end) = self.ranges.range(..=offset).next_back()?;
        (offset < end).then_some(ByteRange { start, end })
    }

    /// Is every byte of `range` in the set?
    #[must_use]
    pub fn contains(&self, range: ByteRange) -> bool {
        self.holding(range.start).is_some_and(|r| r.contains(range))
    }

    /// Is any byte of `range` in the set?
    #[must_use]
    pub fn overlaps(&self, range: ByteRange) -> bool {
        let before = self.ranges.range(..range.end).next_back();
        before.is_some_and(|(_, &e)| e > range.start)
    }

    /// The lowest range.
    #[must_use]
    pub fn first(&self) -> Option<ByteRange> {
        self.iter().next()
    }

    /// Its ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = ByteRange> + '_ {
        let range = |(&start, &end)| ByteRange { start, end };
        self.ranges.iter().map(range)
    }

    /// How many bytes are in it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// No byte is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many separate ranges it has.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.ranges.len()
    }
}

impl FromIterator<ByteRange> for RangeSet {
    fn from_iter<I: IntoIterator<Item = ByteRange>>(ranges: I) -> Self {
        let mut set = Self::default();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

impl fmt::Debug for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_set_of_ranges_is_a_set_of_offsets(
            steps in proptest::collection::vec((any::<bool>(), 0_u64..60, 1_u64..20), 1..60)
        ) {
            let mut set = RangeSet::default();
            let mut model = BTreeSet::new();
            for (add, start, len) in steps {
                let range = ByteRange::new(start, len).unwrap();
                let offsets = start..start + len;
                let present = offsets.clone().filter(|o| model.contains(o)).count() as u64;
                prop_assert_eq!(set.contains(range), present == len);
                prop_assert_eq!(set.overlaps(range), present > 0);
                if add {
                    prop_assert_eq!(set.insert(range), len - present);
                    model.extend(offsets);
                } else {
                    prop_assert_eq!(set.remove(range), present);
                    model.retain(|o| !offsets.contains(o));
                }
                let shown: Vec<u64> = set.iter().flat_map(|r| r.start()..r.end()).collect();
                prop_assert_eq!(shown, model.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(set.bytes(), model.len() as u64);
                let ranges: Vec<_> = set.iter().collect();
                prop_assert!(ranges.windows(2).all(|w| w[0].end() < w[1].start()));
            }
        }
    }

    #[test]
    fn blocks_end_on_the_grid() {
        let block = |start, end| ByteRange::between(start, end).unwrap().first_block(8);
        assert_eq!(block(3, 30), ByteRange::between(3, 8).unwrap());
        assert_eq!(block(8, 30), ByteRange::between(8, 16).unwrap());
        assert_eq!(block(24, 30), ByteRange::between(24, 30).unwrap());
        let last = ByteRange::between(u64::MAX - 2, u64::MAX).unwrap();
        assert_eq!(last.first_block(8), last);
    }
}
