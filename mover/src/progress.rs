//! What of a transfer is there, and so what is missing: the value that survives both processes.
//!
//! ```text
//!  0  4  "CMIS"
//!  4  1  version, 1
//!  5  1  length of the data version, then the data version
//!  .  8  size of the object
//!  .  4  number of runs, then of each: 8 start, 8 length, 4 CRC32C
//!  .  4  CRC32C of all that stands before
//! ```
//!
//! Invariants kept here:
//! - a byte counts once: [`Runs::add`] refuses what overlaps;
//! - runs that touch are one, with the sum of both, so that memory follows the gaps and not the size;
//! - progress of one data version is never used for another ([`Progress::resume`]);
//! - whoever keeps it keeps it *after* the bytes are durable (the shell's order, protocol P15).

use crate::checksum::Crc32c;
use crate::iod::VERSION_MAX;
use crate::range::{ByteRange, RangeSet};
use std::collections::BTreeMap;

/// The most runs that are written; what lies in others is moved again.
pub(crate) const RUNS_MAX: usize = 65_536;

const MAGIC: [u8; 4] = *b"CMIS";
const VERSION: u8 = 1;

/// Runs of bytes that are there, each with its sum.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runs {
    /// start -> (length, sum).
    runs: BTreeMap<u64, (u64, Crc32c)>,
    bytes: u64,
}

impl Runs {
    /// Adds `range` with sum `crc`. Answers whether it counted: not if any byte of it was there before.
    pub fn add(&mut self, range: ByteRange, crc: Crc32c) -> bool {
        let before = self.runs.range(..range.end()).next_back();
        let before = before.map(|(&start, &(len, sum))| (start, len, sum));
        if before.is_some_and(|(start, len, _)| start + len > range.start()) {
            return false;
        }
        let (mut start, mut len, mut sum) = (range.start(), range.len(), crc);
        if let Some((s, l, c)) = before.filter(|(s, l, _)| s + l == range.start()) {
            (start, len, sum) = (s, l + len, c.then(crc, range.len()));
        }
        if let Some((l, c)) = self.runs.remove(&range.end()) {
            (len, sum) = (len + l, sum.then(c, l));
        }
        self.runs.insert(start, (len, sum));
        self.bytes += range.len();
        true
    }

    /// Is any byte of `range` there?
    #[must_use]
    pub fn overlaps(&self, range: ByteRange) -> bool {
        let before = self.runs.range(..range.end()).next_back();
        before.is_some_and(|(start, (len, _))| start + len > range.start())
    }

    /// Is every byte of `range` there?
    #[must_use]
    pub fn contains(&self, range: ByteRange) -> bool {
        let before = self.runs.range(..=range.start()).next_back();
        before.is_some_and(|(start, (len, _))| start + len >= range.end())
    }

    /// Bytes that are there.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The sum of `ranges`, one behind the other; nothing unless each of them is a run as it stands.
    #[must_use]
    pub fn sum_of(&self, ranges: impl IntoIterator<Item = ByteRange>) -> Option<Crc32c> {
        let mut sum = Crc32c::EMPTY;
        for range in ranges {
            let (len, crc) = self.runs.get(&range.start())?;
            if *len != range.len() {
                return None;
            }
            sum = sum.then(*crc, *len);
        }
        Some(sum)
    }

    fn iter(&self) -> impl Iterator<Item = (ByteRange, Crc32c)> + '_ {
        let run = |(&start, &(len, crc))| ByteRange::new(start, len).map(|r| (r, crc));
        self.runs.iter().filter_map(run)
    }
}

/// How far one object came, of one version of its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    version: Vec<u8>,
    size: u64,
    there: Runs,
}

/// Why bytes are no progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProgressFault {
    /// Cut, altered, or something else.
    #[error("the record of what arrived is damaged; start over")]
    Damaged,
    /// Written by a later Cairn.
    #[error("the record of what arrived has version {0}, and not 1; start over")]
    Version(u8),
    /// Of another state of the data, or another size.
    #[error("what arrived before is of another version of the data; start over")]
    OtherVersion,
    /// The descriptor has bytes that are there.
    #[error("the descriptor asks for bytes that are there already")]
    There,
}

impl Progress {
    /// Nothing of `size` bytes is there. `version` is the sender's name for the state of the data,
    /// cut to [`VERSION_MAX`] bytes.
    #[must_use]
    pub fn new(version: &[u8], size: u64) -> Self {
        Self {
            version: version[..version.len().min(VERSION_MAX)].to_vec(),
            size,
            there: Runs::default(),
        }
    }

    /// This progress, if it is of the same data.
    ///
    /// # Errors
    /// [`ProgressFault::OtherVersion`] if it is not, or if the sender gives no version: then nothing
    /// proves that it is the same.
    pub fn resume(self, version: &[u8], size: u64) -> Result<Self, ProgressFault> {
        let fresh = self.there.bytes == 0;
        let same = self.version == version && self.size == size;
        if same && (fresh || !version.is_empty()) {
            return Ok(self);
        }
        Err(ProgressFault::OtherVersion)
    }

    /// Is all of `ranges` missing?
    ///
    /// # Errors
    /// [`ProgressFault::There`] if not: progress would not know any more which bytes are whose.
    pub(crate) fn lacks(&self, ranges: &[ByteRange]) -> Result<(), ProgressFault> {
        let missing = self.missing();
        let all = ranges.iter().all(|r| missing.contains(*r));
        all.then_some(()).ok_or(ProgressFault::There)
    }

    /// Adds what was written. Answers whether it counted.
    pub fn add(&mut self, range: ByteRange, crc: Crc32c) -> bool {
        range.end() <= self.size && self.there.add(range, crc)
    }

    /// The object's size, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that are there.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.there.bytes
    }

    /// What is there, in order, each run with its sum.
    pub fn runs(&self) -> impl Iterator<Item = (ByteRange, Crc32c)> + '_ {
        self.there.iter()
    }

    /// What is missing, in order.
    #[must_use]
    pub fn missing(&self) -> RangeSet {
        let mut missing: RangeSet = ByteRange::new(0, self.size).into_iter().collect();
        self.there.iter().for_each(|(range, _)| {
            missing.remove(range);
        });
        missing
    }

    /// What is missing, in at most `most` ranges for a descriptor: the first ones, if there are more.
    #[must_use]
    pub fn ranges(&self, most: usize) -> Vec<ByteRange> {
        self.missing().iter().take(most).collect()
    }

    /// The sum of the whole object, once it is there.
    #[must_use]
    pub fn crc(&self) -> Option<Crc32c> {
        self.there.sum_of(ByteRange::new(0, self.size))
    }

    /// Its bytes, to be kept. Above [`RUNS_MAX`] runs, the rest counts as missing.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        // Bounded by `new` and by `take`.
        out.extend_from_slice(&[VERSION, self.version.len() as u8]);
        out.extend_from_slice(&self.version);
        out.extend_from_slice(&self.size.to_le_bytes());
        let count = self.there.runs.len().min(RUNS_MAX) as u32;
        out.extend_from_slice(&count.to_le_bytes());
        for (range, crc) in self.there.iter().take(RUNS_MAX) {
            out.extend_from_slice(&range.start().to_le_bytes());
            out.extend_from_slice(&range.len().to_le_bytes());
            out.extend_from_slice(&crc.0.to_le_bytes());
        }
        let sum = Crc32c::of(&out).0;
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads what was kept.
    ///
    /// # Errors
    /// [`ProgressFault`]: all of it is to be moved again.
    pub fn decode(bytes: &[u8]) -> Result<Self, ProgressFault> {
        let damaged = ProgressFault::Damaged;
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or(damaged)?;
        if Crc32c::of(body).0.to_le_bytes() != *sum {
            return Err(damaged);
        }
        let rest = body.strip_prefix(&MAGIC).ok_or(damaged)?;
        let (&[version, len], rest) = rest.split_first_chunk().ok_or(damaged)?;
        if version != VERSION {
            return Err(ProgressFault::Version(version));
        }
        let (token, rest) = rest.split_at_checked(len.into()).ok_or(damaged)?;
        let (size, rest) = rest.split_first_chunk().ok_or(damaged)?;
        let (count, rest) = rest.split_first_chunk().ok_or(damaged)?;
        let count = u32::from_le_bytes(*count) as usize;
        if token.len() > VERSION_MAX || count > RUNS_MAX || rest.len() != count * 20 {
            return Err(damaged);
        }
        let mut progress = Self::new(token, u64::from_le_bytes(*size));
        for run in rest.chunks_exact(20) {
            let eight = |at: usize| {
                run[at..]
                    .first_chunk()
                    .map_or(0, |b| u64::from_le_bytes(*b))
            };
            let range = ByteRange::new(eight(0), eight(8)).ok_or(damaged)?;
            let crc = Crc32c(
                run[16..]
                    .first_chunk()
                    .map_or(0, |b| u32::from_le_bytes(*b)),
            );
            let last = progress.there.runs.last_key_value();
            let apart = last.is_none_or(|(start, (len, _))| start + len < range.start());
            if !apart || !progress.add(range, crc) {
                return Err(damaged);
            }
        }
        Ok(progress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(start: u64, len: u64) -> ByteRange {
        ByteRange::new(start, len).unwrap()
    }

    #[test]
    fn progress_of_another_version_is_not_resumed() {
        let mut progress = Progress::new(b"a", 100);
        assert!(progress.add(range(10, 20), Crc32c(1)));
        let resume = |version, size| progress.clone().resume(version, size);
        assert!(resume(b"a", 100).is_ok());
        assert_eq!(resume(b"b", 100).unwrap_err(), ProgressFault::OtherVersion);
        assert_eq!(resume(b"a", 101).unwrap_err(), ProgressFault::OtherVersion);
        let mut nameless = Progress::new(b"", 100);
        assert!(nameless.clone().resume(b"", 100).is_ok());
        nameless.add(range(10, 20), Crc32c(1));
        assert_eq!(
            nameless.resume(b"", 100).unwrap_err(),
            ProgressFault::OtherVersion
        );
    }

    #[test]
    fn what_was_kept_is_read_or_refused() {
        let mut progress = Progress::new(b"version", 100);
        progress.add(range(10, 20), Crc32c(1));
        progress.add(range(90, 10), Crc32c(2));
        let bytes = progress.encode();
        assert_eq!(Progress::decode(&bytes).unwrap(), progress);
        let missing: Vec<_> = progress.missing().iter().collect();
        assert_eq!(missing, [range(0, 10), range(30, 60)]);
        assert_eq!(progress.ranges(1), [range(0, 10)]);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert!(Progress::decode(&bad).is_err(), "bit in byte {at}");
            assert!(Progress::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        let empty = Progress::new(b"", 0);
        assert_eq!(empty.crc(), Some(Crc32c::EMPTY));
        assert_eq!(Progress::decode(&empty.encode()).unwrap(), empty);
    }

    proptest! {
        #[test]
        fn pieces_in_any_order_count_once_and_sum_like_the_whole(
            bytes in proptest::collection::vec(any::<u8>(), 1..200),
            order in proptest::collection::vec(any::<u16>(), 1..40),
        ) {
            let size = bytes.len() as u64;
            let mut progress = Progress::new(b"v", size);
            let mut there = vec![false; bytes.len()];
            for at in order {
                let block = u64::from(at) % size / 7;
                let cut = range(block * 7, 7.min(size - block * 7));
                let (from, to) = (cut.start() as usize, cut.end() as usize);
                let new = !there[from..to].iter().any(|t| *t);
                prop_assert_eq!(progress.add(cut, Crc32c::of(&bytes[from..to])), new);
                there[from..to].fill(true);
                prop_assert_eq!(progress.bytes(), there.iter().filter(|t| **t).count() as u64);
            }
            let back = Progress::decode(&progress.encode()).unwrap();
            prop_assert_eq!(&back, &progress);
            for missing in progress.missing().iter() {
                let (from, to) = (missing.start() as usize, missing.end() as usize);
                prop_assert!(progress.add(missing, Crc32c::of(&bytes[from..to])));
            }
            prop_assert_eq!(progress.crc(), Some(Crc32c::of(&bytes)));
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes: Vec<u8>, start: u64, len: u64) {
            let _ = Progress::decode(&bytes);
            bytes.splice(0..0, *b"CMIS\x01\x00");
            bytes.extend_from_slice(&start.to_le_bytes());
            bytes.extend_from_slice(&1_u32.to_le_bytes());
            bytes.extend_from_slice(&start.to_le_bytes());
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(&Crc32c::of(&bytes).0.to_le_bytes());
            let _ = Progress::decode(&bytes);
        }
    }
}
