//! Progress of one file's recall: which stored blocks are here, which come next, and whom that
//! answers. A pure state machine: no I/O, no clock; the shell in [`super`] performs what it says.
//!
//! Invariants (asserted by the property test after every event):
//! 1. A reader is answered [`Verdict::Ready`] only while every block of its range is verified and
//!    at hand (on disk, or in memory while streaming).
//! 2. Every waiter is answered exactly once, or gave up.
//! 3. A block is asked for at most once at a time, and never again after it was found bad.
//! 4. Order: blocks that readers wait for, first come first served; then ahead from where the
//!    last fetch ended; then the gaps from the lowest.
//! 5. While streaming, blocks in memory number at most the window plus those that an unanswered
//!    reader needs.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Range;

/// Names a waiter; the shell's wait tokens.
pub(crate) type WaiterId = u64;

/// How much is asked for at once, in blocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Longest run fetched ahead of any reader.
    pub(crate) ahead: u32,
    /// Blocks kept in memory while streaming.
    pub(crate) window: u32,
    /// Runs in flight at once.
    pub(crate) in_flight: u32,
}

/// What a waiter hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// All its bytes are verified and at hand.
    Ready,
    /// Some of its bytes have no good copy.
    Bad,
    /// The file cannot be brought back whole: there is no room for it.
    NoRoom,
}

/// What an event brought about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    /// Waiters to answer, each once.
    pub(crate) answers: Vec<(WaiterId, Verdict)>,
    /// Streaming: blocks to drop from memory.
    pub(crate) evicted: Vec<u32>,
}

/// Adjacent blocks to fetch with one ranged read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// First block.
    pub(crate) first: u32,
    /// How many; never 0.
    pub(crate) count: u32,
    /// A reader waits for it.
    pub(crate) urgent: bool,
}

impl Run {
    /// The blocks.
    pub(crate) fn blocks(self) -> Range<u32> {
        self.first..self.first + self.count
    }
}

/// Where a recall stands as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// There is, or will be, something to fetch.
    Working,
    /// Every block is on disk: the file can become resident.
    Complete,
    /// Nothing left to fetch, but some blocks have no good copy: the file stays released and its
    /// good bytes are served from the disk.
    Damaged,
    /// Streaming, and no reader waits: may be dropped when idle.
    Idle,
    /// Nobody wants it any more: stop and give the room back.
    Unwanted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Missing,
    Fetching,
    Here,
    Bad,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Progress {
    limits: Limits,
    blocks: Vec<Block>,
    here: u32,
    bad: u32,
    runs: u32,
    /// Where fetching ahead goes on.
    cursor: u32,
    /// No block below this one is missing.
    lowest: u32,
    /// Length of the next run ahead; doubles up to the limit, so that a first reader is not kept
    /// waiting behind a long run nobody asked for.
    stride: u32,
    urgent: VecDeque<u32>,
    readers: BTreeMap<WaiterId, Range<u32>>,
    by_block: HashMap<u32, Vec<WaiterId>>,
    whole: BTreeSet<WaiterId>,
    /// A reader once asked: the recall goes on to the end without it.
    implicit: bool,
    streaming: bool,
    /// Streaming: blocks in memory in order of arrival, and the block last read.
    memory: VecDeque<u32>,
    anchor: u32,
}

impl Progress {
    /// A file of `blocks` stored blocks, none of which is here. `implicit`: a reader has asked.
    pub(crate) fn new(blocks: u32, limits: Limits, implicit: bool) -> Self {
        Self {
            limits,
            blocks: vec![Block::Missing; blocks as usize],
            here: 0,
            bad: 0,
            runs: 0,
            cursor: 0,
            lowest: 0,
            stride: 1,
            urgent: VecDeque::new(),
            readers: BTreeMap::new(),
            by_block: HashMap::new(),
            whole: BTreeSet::new(),
            implicit,
            streaming: false,
            memory: VecDeque::new(),
            anchor: 0,
        }
    }

    fn at(&self, block: u32) -> Block {
        self.blocks
            .get(block as usize)
            .copied()
            .unwrap_or(Block::Here)
    }

    fn set(&mut self, block: u32, to: Block) {
        if let Some(slot) = self.blocks.get_mut(block as usize) {
            match *slot {
                Block::Here => self.here -= 1,
                Block::Bad => self.bad -= 1,
                Block::Missing | Block::Fetching => {}
            }
            *slot = to;
            match to {
                Block::Here => self.here += 1,
                Block::Bad => self.bad += 1,
                Block::Missing => self.lowest = self.lowest.min(block),
                Block::Fetching => {}
            }
        }
    }

    fn count(&self) -> u32 {
        u32::try_from(self.blocks.len()).unwrap_or(u32::MAX)
    }

    /// Blocks on disk or in memory.
    #[cfg(test)]
    pub(crate) fn here(&self) -> u32 {
        self.here
    }

    /// A reader waits for `range` (possibly empty: a hole, or the end of the file).
    pub(crate) fn read(&mut self, id: WaiterId, range: Range<u32>) -> Effects {
        let range = range.start..range.end.min(self.count());
        self.implicit = true;
        self.anchor = range.start;
        let mut effects = Effects::default();
        if let Some(verdict) = self.verdict(&range) {
            effects.answers.push((id, verdict));
            return effects;
        }
        for block in range.clone() {
            self.by_block.entry(block).or_default().push(id);
            if self.at(block) == Block::Missing {
                self.urgent.push_back(block);
            }
        }
        self.readers.insert(id, range);
        effects
    }

    /// Somebody waits for the whole file to be resident. `implicit`: the recall completes even if
    /// that one gives up (an open for writing); otherwise it was asked to be staged.
    pub(crate) fn want_whole(&mut self, id: WaiterId, implicit: bool) -> Effects {
        let mut effects = Effects::default();
        if self.bad > 0 {
            effects.answers.push((id, Verdict::Bad));
        } else if self.streaming {
            effects.answers.push((id, Verdict::NoRoom));
        } else {
            self.implicit |= implicit;
            self.whole.insert(id);
        }
        effects
    }

    /// A waiter is gone; it will not be answered.
    pub(crate) fn give_up(&mut self, id: WaiterId) {
        self.whole.remove(&id);
        if let Some(range) = self.readers.remove(&id) {
            self.forget(id, &range);
        }
    }

    /// There is no room for the file: from here on bytes go from memory to readers. What was on
    /// disk is given back, so it counts as missing again.
    pub(crate) fn stream(&mut self) -> Effects {
        let mut effects = Effects::default();
        if !self.streaming {
            self.streaming = true;
            for block in 0..self.count() {
                if self.at(block) == Block::Here {
                    self.set(block, Block::Missing);
                    if self.by_block.contains_key(&block) {
                        self.urgent.push_back(block);
                    }
                }
            }
        }
        let whole = std::mem::take(&mut self.whole);
        effects
            .answers
            .extend(whole.into_iter().map(|id| (id, Verdict::NoRoom)));
        effects
    }

    /// Bytes are served from memory.
    pub(crate) fn is_streaming(&self) -> bool {
        self.streaming
    }

    /// The next run to fetch; its blocks count as in flight until [`Self::arrived`],
    /// [`Self::failed`] or [`Self::returned`] is said of each, and the run until [`Self::run_over`].
    pub(crate) fn next(&mut self) -> Option<Run> {
        if self.runs >= self.limits.in_flight {
            return None;
        }
        let run = self.next_urgent().or_else(|| self.next_ahead())?;
        for block in run.blocks() {
            self.set(block, Block::Fetching);
        }
        self.cursor = run.first + run.count;
        self.runs += 1;
        Some(run)
    }

    fn next_urgent(&mut self) -> Option<Run> {
        while let Some(block) = self.urgent.pop_front() {
            if self.at(block) == Block::Missing && self.by_block.contains_key(&block) {
                if block != self.cursor {
                    // A jump: start small again, for the next jump may follow.
                    self.stride = 1;
                }
                return Some(Run {
                    first: block,
                    count: 1,
                    urgent: true,
                });
            }
        }
        None
    }

    fn next_ahead(&mut self) -> Option<Run> {
        let most = if self.streaming {
            let room = self.limits.window.saturating_sub(self.here) / 2;
            let horizon = self.anchor.saturating_add(self.limits.window / 2);
            room.min(horizon.saturating_sub(self.cursor))
        } else if self.implicit || !self.whole.is_empty() {
            self.stride
        } else {
            0
        };
        if most == 0 {
            return None;
        }
        let first = self.first_missing()?;
        let count = (first..self.count())
            .take(most as usize)
            .take_while(|&b| self.at(b) == Block::Missing)
            .count();
        self.stride = (self.stride * 2).min(self.limits.ahead);
        Some(Run {
            first,
            count: u32::try_from(count).unwrap_or(1),
            urgent: false,
        })
    }

    /// From the cursor to the end, then (not while streaming, where nothing is kept) the gaps.
    fn first_missing(&mut self) -> Option<u32> {
        let end = self.count();
        if let Some(found) = (self.cursor..end).find(|&b| self.at(b) == Block::Missing) {
            return Some(found);
        }
        if self.streaming {
            return None;
        }
        // The cursor is parked at the end until the gaps are closed or a reader moves it.
        self.lowest = (self.lowest..end)
            .find(|&b| self.at(b) == Block::Missing)
            .unwrap_or(end);
        (self.lowest < end).then_some(self.lowest)
    }

    /// A block's bytes were verified and are on disk (or in memory while streaming).
    pub(crate) fn arrived(&mut self, block: u32) -> Effects {
        let mut effects = Effects::default();
        if self.at(block) != Block::Fetching {
            return effects;
        }
        self.set(block, Block::Here);
        self.tell(block, &mut effects);
        if self.streaming {
            self.memory.push_back(block);
            self.evict(&mut effects);
        }
        effects
    }

    /// A block has no good copy.
    pub(crate) fn failed(&mut self, block: u32) -> Effects {
        let mut effects = Effects::default();
        if self.at(block) != Block::Fetching {
            return effects;
        }
        self.set(block, Block::Bad);
        self.tell(block, &mut effects);
        let whole = std::mem::take(&mut self.whole);
        effects
            .answers
            .extend(whole.into_iter().map(|id| (id, Verdict::Bad)));
        effects
    }

    /// A block in flight was not fetched after all; it is missing again.
    pub(crate) fn returned(&mut self, block: u32) {
        if self.at(block) == Block::Fetching {
            self.set(block, Block::Missing);
            if self.by_block.contains_key(&block) {
                self.urgent.push_front(block);
            }
        }
    }

    /// The end of a run that [`Self::next`] gave will not be fetched with it: fetching ahead goes on there.
    pub(crate) fn cut_off(&mut self, blocks: Range<u32>) {
        self.cursor = blocks.start;
        blocks.rev().for_each(|block| self.returned(block));
    }

    /// A run that [`Self::next`] gave is over.
    pub(crate) fn run_over(&mut self) {
        self.runs = self.runs.saturating_sub(1);
    }

    /// Where it stands. Nothing but [`Standing::Working`] is said while a run is in flight.
    pub(crate) fn standing(&self) -> Standing {
        if self.runs > 0 || !self.readers.is_empty() {
            return Standing::Working;
        }
        if self.streaming {
            return Standing::Idle;
        }
        if self.here == self.count() {
            return Standing::Complete;
        }
        if !self.implicit && self.whole.is_empty() {
            return Standing::Unwanted;
        }
        if self.here + self.bad == self.count() {
            return Standing::Damaged;
        }
        Standing::Working
    }

    /// A reader waits for a block that nobody fetches yet.
    pub(crate) fn is_urgent(&mut self) -> bool {
        while let Some(&block) = self.urgent.front() {
            if self.at(block) == Block::Missing && self.by_block.contains_key(&block) {
                return true;
            }
            self.urgent.pop_front();
        }
        false
    }

    fn verdict(&self, range: &Range<u32>) -> Option<Verdict> {
        let mut open = false;
        for block in range.clone() {
            match self.at(block) {
                Block::Bad => return Some(Verdict::Bad),
                Block::Missing | Block::Fetching => open = true,
                Block::Here => {}
            }
        }
        (!open).then_some(Verdict::Ready)
    }

    /// Answers the readers for whom `block` was the last one missing, or is bad.
    fn tell(&mut self, block: u32, effects: &mut Effects) {
        for id in self.by_block.get(&block).cloned().unwrap_or_default() {
            let Some(range) = self.readers.get(&id).cloned() else {
                continue;
            };
            if let Some(verdict) = self.verdict(&range) {
                self.readers.remove(&id);
                self.forget(id, &range);
                effects.answers.push((id, verdict));
            }
        }
    }

    fn forget(&mut self, id: WaiterId, range: &Range<u32>) {
        for block in range.clone() {
            if let Some(ids) = self.by_block.get_mut(&block) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    self.by_block.remove(&block);
                }
            }
        }
    }

    fn evict(&mut self, effects: &mut Effects) {
        let mut looked = self.memory.len();
        while self.memory.len() > self.limits.window as usize && looked > 0 {
            looked -= 1;
            let Some(oldest) = self.memory.pop_front() else {
                break;
            };
            if self.by_block.contains_key(&oldest) {
                self.memory.push_back(oldest);
            } else {
                self.set(oldest, Block::Missing);
                effects.evicted.push(oldest);
            }
        }
    }
}

#[cfg(test)]
#[path = "progress/tests.rs"]
mod tests;
