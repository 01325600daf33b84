//! Which stream sends what: the sender's half of a transfer, without I/O and without a clock.
//!
//! Ranges are cut into blocks on the grid of the block size. A stream takes the next block when it has
//! room, so a fast one takes more. What a dead stream had outstanding goes back; when nothing is left to take,
//! an idle stream sends again what a slow one has had for too long, from its end.
//!
//! Invariants kept here:
//! - every byte of the transfer is exactly one of: pending, outstanding on at least one stream, acknowledged;
//! - a block is outstanding on at most two streams, and on each of them once;
//! - a block counts once, whichever stream's acknowledgement comes first; its two sums must agree;
//! - `Finish` is handed out only when all is acknowledged and the source was found unchanged
//!   ([`Schedule::unchanged`]), and to another stream only when the first is dead or late.

use crate::checksum::Crc32c;
use crate::frame::Total;
use crate::progress::Runs;
use crate::range::{ByteRange, RangeSet};
use crate::secret::StreamIndex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// How the schedule behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern {
    /// Bytes of a block.
    pub block: u32,
    /// Blocks that a stream may have outstanding: what its death costs.
    pub window: usize,
    /// An idle stream takes a block over no earlier than this after it was sent.
    pub steal_after: Duration,
}

/// What a stream is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Read and send this block.
    Send(ByteRange),
    /// Nothing now; ask again after an event, or after a while.
    Wait,
    /// Send the total.
    Finish(Total),
    /// Say goodbye and end.
    Close,
}

/// An acknowledgement or a sum that cannot be: the other end, or the source, is not to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleFault {
    /// Nothing like it was sent.
    #[error("frame {0} was acknowledged, which was not sent")]
    NotSent(u64),
    /// The block was read twice, with two contents.
    #[error("the block at offset {0} had two contents: the source changed")]
    TwoContents(u64),
}

#[derive(Debug)]
struct Sent {
    sequence: u64,
    block: ByteRange,
    crc: Crc32c,
    since: Duration,
}

#[derive(Debug, Default)]
struct Lane {
    /// Given out, but not sent yet.
    reading: Option<(ByteRange, Duration)>,
    sent: VecDeque<Sent>,
    retired: bool,
}

impl Lane {
    fn blocks(&self) -> impl Iterator<Item = ByteRange> + '_ {
        let reading = self.reading.iter().map(|(block, _)| *block);
        reading.chain(self.sent.iter().map(|s| s.block))
    }

    fn has(&self, block: ByteRange) -> bool {
        self.blocks().any(|b| b == block)
    }

    /// Since when its oldest block is outstanding.
    fn since(&self) -> Option<Duration> {
        let sent = self.sent.front().map(|s| s.since);
        sent.or(self.reading.map(|(_, since)| since))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Moving,
    /// The source did not change; the stream that carries the total, if one does, and since when.
    Finishing(Option<(StreamIndex, Duration)>),
    Done,
}

/// The sender's half.
#[derive(Debug)]
pub struct Schedule {
    pattern: Pattern,
    ranges: Vec<ByteRange>,
    pending: RangeSet,
    acked: Runs,
    total: u64,
    lanes: BTreeMap<StreamIndex, Lane>,
    stage: Stage,
    /// Streams that carried the total.
    asked: BTreeSet<StreamIndex>,
    /// A running mean of the time from sending to acknowledgement.
    usual: Option<Duration>,
}

impl Schedule {
    /// All `ranges` are to be sent; they are disjoint.
    #[must_use]
    pub fn new(ranges: &[ByteRange], pattern: Pattern) -> Self {
        Self {
            pattern,
            ranges: ranges.to_vec(),
            pending: ranges.iter().copied().collect(),
            acked: Runs::default(),
            total: ranges.iter().map(|r| r.len()).sum(),
            lanes: BTreeMap::new(),
            stage: Stage::Moving,
            asked: BTreeSet::new(),
            usual: None,
        }
    }

    /// A stream came up.
    pub fn join(&mut self, stream: StreamIndex) {
        self.lanes.entry(stream).or_default();
    }

    /// A stream is dead: what it had goes to the others. Answers how many bytes that were.
    pub fn lost(&mut self, stream: StreamIndex) -> u64 {
        let Some(lane) = self.lanes.remove(&stream) else {
            return 0;
        };
        if self.asked.remove(&stream) && self.carrier() == Some(stream) {
            self.stage = Stage::Finishing(None);
        }
        let blocks: Vec<_> = lane.blocks().collect();
        let mut back = 0;
        for block in blocks {
            let elsewhere = self.lanes.values().any(|l| l.has(block));
            if !elsewhere && !self.acked.contains(block) {
                back += self.pending.insert(block);
            }
        }
        back
    }

    /// The stream is to end once nothing is outstanding on it.
    pub fn retire(&mut self, stream: StreamIndex) {
        if let Some(lane) = self.lanes.get_mut(&stream) {
            lane.retired = true;
        }
    }

    /// What `stream` is to do now. After `Send`, it calls [`Self::sent`] or dies.
    pub fn next(&mut self, stream: StreamIndex, now: Duration) -> Next {
        let Some(lane) = self.lanes.get(&stream) else {
            return Next::Close;
        };
        let idle = lane.reading.is_none() && lane.sent.is_empty();
        match self.stage {
            Stage::Done => return Next::Close,
            Stage::Finishing(_) if self.carrier() == Some(stream) => return Next::Wait,
            Stage::Finishing(_) if lane.retired => return Next::Close,
            Stage::Finishing(carrier) => {
                let since = carrier.map(|(_, since)| since);
                if since.is_some_and(|since| now.saturating_sub(since) < self.late()) {
                    return Next::Wait;
                }
                self.stage = Stage::Finishing(Some((stream, now)));
                self.asked.insert(stream);
                return Next::Finish(self.sum());
            }
            Stage::Moving if lane.retired && idle => return Next::Close,
            Stage::Moving => {}
        }
        if lane.retired || lane.reading.is_some() || lane.sent.len() >= self.pattern.window {
            return Next::Wait;
        }
        let block = match self.pending.first() {
            Some(range) => range.first_block(self.pattern.block),
            None => match self.slow(stream, now) {
                Some(block) => block,
                None => return Next::Wait,
            },
        };
        self.pending.remove(block);
        if let Some(lane) = self.lanes.get_mut(&stream) {
            lane.reading = Some((block, now));
        }
        Next::Send(block)
    }

    fn carrier(&self) -> Option<StreamIndex> {
        match self.stage {
            Stage::Finishing(carrier) => carrier.map(|(stream, _)| stream),
            Stage::Moving | Stage::Done => None,
        }
    }

    /// After so long, what a stream was given is given to another one, too.
    fn late(&self) -> Duration {
        let usual = self.usual.unwrap_or_default();
        self.pattern.steal_after.max(usual * 4)
    }

    /// The block that `thief` may take over: the last one of the stream that waits longest.
    fn slow(&self, thief: StreamIndex, now: Duration) -> Option<ByteRange> {
        let late = self
            .pattern
            .steal_after
            .max(self.usual.unwrap_or_default() * 4);
        let mut slow: Vec<_> = self
            .lanes
            .iter()
            .filter(|(index, _)| **index != thief)
            .filter_map(|(_, lane)| Some((lane.since()?, lane)))
            .filter(|(since, _)| now.saturating_sub(*since) >= late)
            .collect();
        slow.sort_by_key(|(since, _)| *since);
        if slow.is_empty() {
            return None;
        }
        let mut holders = BTreeMap::new();
        for block in self.lanes.values().flat_map(Lane::blocks) {
            *holders.entry(block).or_insert(0) += 1;
        }
        let free =
            |block: &ByteRange| holders.get(block) == Some(&1) && !self.acked.contains(*block);
        let last = |lane: &Lane| {
            let mut blocks: Vec<_> = lane.blocks().filter(free).collect();
            blocks.sort_unstable();
            blocks.pop()
        };
        slow.into_iter().find_map(|(_, lane)| last(lane))
    }

    /// The block that `next` gave was read with sum `crc`, and goes out as frame `sequence`.
    ///
    /// # Errors
    /// [`ScheduleFault::TwoContents`] if it was read before with another sum.
    pub fn sent(
        &mut self,
        stream: StreamIndex,
        sequence: u64,
        crc: Crc32c,
        now: Duration,
    ) -> Result<(), ScheduleFault> {
        let Some((block, _)) = self.lanes.get_mut(&stream).and_then(|l| l.reading.take()) else {
            return Ok(());
        };
        let mut others = self.lanes.values().flat_map(|l| l.sent.iter());
        if others.any(|s| s.block == block && s.crc != crc) {
            return Err(ScheduleFault::TwoContents(block.start()));
        }
        if let Some(lane) = self.lanes.get_mut(&stream) {
            let since = now;
            lane.sent.push_back(Sent {
                sequence,
                block,
                crc,
                since,
            });
        }
        Ok(())
    }

    /// All frames of `stream` up to `sequence` were written at the other end. Answers the bytes that are new.
    ///
    /// # Errors
    /// [`ScheduleFault::NotSent`] if that frame was not sent.
    pub fn acked(
        &mut self,
        stream: StreamIndex,
        sequence: u64,
        now: Duration,
    ) -> Result<u64, ScheduleFault> {
        let Some(lane) = self.lanes.get_mut(&stream) else {
            return Ok(0);
        };
        if !lane.sent.iter().any(|s| s.sequence == sequence) {
            return Err(ScheduleFault::NotSent(sequence));
        }
        let mut new = 0;
        while lane.sent.front().is_some_and(|s| s.sequence <= sequence) {
            let Some(sent) = lane.sent.pop_front() else {
                break;
            };
            let took = now.saturating_sub(sent.since);
            self.usual = Some(self.usual.map_or(took, |usual| (usual * 7 + took) / 8));
            if self.acked.add(sent.block, sent.crc) {
                new += sent.block.len();
            }
        }
        Ok(new)
    }

    /// Is every byte acknowledged? Then the source is to be asked whether it changed.
    #[must_use]
    pub fn all_acked(&self) -> bool {
        self.acked.bytes() == self.total
    }

    /// The source did not change: the total may go out. Without effect while anything is missing.
    pub fn unchanged(&mut self) {
        if self.all_acked() && self.stage == Stage::Moving {
            self.stage = Stage::Finishing(None);
        }
    }

    /// The receiver has it all. Without effect if nobody asked it.
    pub fn confirmed(&mut self, stream: StreamIndex) {
        if self.asked.contains(&stream) {
            self.stage = Stage::Done;
        }
    }

    /// Did the receiver confirm?
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Bytes that were acknowledged.
    #[must_use]
    pub fn moved(&self) -> u64 {
        self.acked.bytes()
    }

    /// Streams that are up.
    #[must_use]
    pub fn live(&self) -> usize {
        self.lanes.len()
    }

    /// What was sent, and its sum. Right once all is acknowledged.
    #[must_use]
    pub fn sum(&self) -> Total {
        let crc = self.acked.sum_of(self.ranges.iter().copied());
        Total {
            bytes: self.acked.bytes(),
            crc: crc.unwrap_or(Crc32c::EMPTY),
        }
    }

    /// The first invariant above, for tests.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let out: RangeSet = self.lanes.values().flat_map(Lane::blocks).collect();
        for range in &self.ranges {
            let mut at = range.start();
            while let Some(rest) = ByteRange::between(at, range.end()) {
                let block = rest.first_block(self.pattern.block);
                let holders = self.lanes.values().filter(|l| l.has(block)).count();
                let pending = self.pending.contains(block);
                let acked = self.acked.contains(block);
                assert!(holders <= 2, "{block} is outstanding {holders} times");
                assert!(
                    !(pending && (acked || holders > 0)),
                    "{block} is in two places"
                );
                assert!(pending || acked || out.contains(block), "{block} was lost");
                at = block.end();
            }
        }
    }
}

#[cfg(test)]
mod tests;
