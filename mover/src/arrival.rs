//! The receiver's half of a transfer, without I/O: what may arrive, what was written, and when it is whole.
//!
//! Invariants kept here:
//! - only blocks of the plan are accepted, whole: a frame that overlaps, lies outside or is cut otherwise
//!   is refused before its payload is read;
//! - a block is written by one stream only ([`Arrival::claim`]); its duplicate is checked and dropped;
//! - what arrived counts when it was written, with the sum that was checked; and so does its duplicate, which
//!   is not acknowledged before ([`Claim::Busy`]);
//! - a claim ends with [`Arrival::written`], or with the transfer: whoever claims sees to that, also when its
//!   stream dies meanwhile;
//! - it is whole only if the sender's total agrees with what was written.

use crate::checksum::Crc32c;
use crate::frame::Total;
use crate::progress::{Progress, Runs};
use crate::range::{ByteRange, RangeSet};

/// What the other end says that cannot be: the transfer is to be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ArrivalFault {
    /// No block of this transfer.
    #[error(
        "{0:?} is no block of this transfer: outside its ranges, overlapping, or cut elsewhere"
    )]
    NotPlanned(Option<ByteRange>),
    /// The end was said before the last byte.
    #[error("the sender says that all was acknowledged, and {0} bytes are missing")]
    TooEarly(u64),
    /// The totals differ.
    #[error("the sender sent {theirs:?}, and {ours:?} was written")]
    Total {
        /// What the sender says.
        theirs: Total,
        /// What was written.
        ours: Total,
    },
}

/// What to do with a block that arrived whole and checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Write it, then call [`Arrival::written`].
    Write,
    /// Another stream brought it and it is being written; acknowledge it when that is done.
    Busy,
    /// Another stream brought it and it was written; acknowledge it.
    Written,
}

/// The receiver's half.
#[derive(Debug)]
pub struct Arrival {
    block: u32,
    ranges: Vec<ByteRange>,
    plan: RangeSet,
    /// What was claimed, written or not yet.
    claimed: RangeSet,
    written: Runs,
    progress: Progress,
    complete: bool,
}

impl Arrival {
    /// `ranges` are to arrive in blocks of `block`; what is in `progress` already is not among them.
    #[must_use]
    pub fn new(ranges: &[ByteRange], block: u32, progress: Progress) -> Self {
        Self {
            block,
            ranges: ranges.to_vec(),
            plan: ranges.iter().copied().collect(),
            claimed: RangeSet::default(),
            written: Runs::default(),
            progress,
            complete: false,
        }
    }

    /// May a data frame with this range come? Ask before its payload is read.
    ///
    /// # Errors
    /// [`ArrivalFault::NotPlanned`].
    pub fn expects(&self, range: Option<ByteRange>) -> Result<ByteRange, ArrivalFault> {
        let planned = |block: &ByteRange| {
            let start = block.start();
            let on_grid = start.is_multiple_of(u64::from(self.block));
            let within = self.plan.holding(start);
            within.is_some_and(|r| {
                let rest = ByteRange::between(start, r.end());
                (on_grid || r.start() == start)
                    && rest.is_some_and(|rest| rest.first_block(self.block) == *block)
            })
        };
        range.filter(planned).ok_or(ArrivalFault::NotPlanned(range))
    }

    /// A block that was expected arrived, and its sum was checked.
    pub fn claim(&mut self, block: ByteRange) -> Claim {
        if self.written.contains(block) {
            return Claim::Written;
        }
        if self.claimed.overlaps(block) {
            return Claim::Busy;
        }
        self.claimed.insert(block);
        Claim::Write
    }

    /// A claimed block was written.
    pub fn written(&mut self, block: ByteRange, crc: Crc32c) {
        if self.written.add(block, crc) {
            self.progress.add(block, crc);
        }
    }

    /// The sender says that this was all.
    ///
    /// # Errors
    /// [`ArrivalFault`] if it was not: then nothing of it may be used.
    pub fn finish(&mut self, theirs: Total) -> Result<(), ArrivalFault> {
        let missing = self.plan.bytes() - self.written.bytes();
        if missing > 0 {
            return Err(ArrivalFault::TooEarly(missing));
        }
        let crc = self.written.sum_of(self.ranges.iter().copied());
        let ours = Total {
            bytes: self.written.bytes(),
            crc: crc.unwrap_or(Crc32c::EMPTY),
        };
        if theirs != ours || crc.is_none() {
            return Err(ArrivalFault::Total { theirs, ours });
        }
        self.complete = true;
        Ok(())
    }

    /// Did the sender's total agree?
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Bytes written by this transfer.
    #[must_use]
    pub fn moved(&self) -> u64 {
        self.written.bytes()
    }

    /// What is there, of this transfer and of those before.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }
}
