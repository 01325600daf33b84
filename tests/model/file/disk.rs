//! The file on its disk: what the page cache has, and what a loss of power can leave of it.
//!
//! Invariants:
//! - Metadata (record, ctime, punches, cuts, room for data) become durable in the order in which they
//!   were done; data that were written, at any time or never, each block for itself, but not before
//!   there is room for them. That is what a journalling filesystem promises, and no more.
//! - A sync of the file makes all of it durable.

use std::hash::{Hash, Hasher};

/// A block that was punched, or never allocated: it reads as zeros.
pub(crate) const HOLE: u8 = 0;
/// Behind the end of the file.
pub(crate) const EMPTY: u8 = 7;

/// A set of contents with one in it.
pub(crate) const fn bit(content: u8) -> u8 {
    1 << content
}

/// The record's attribute; the number is the version's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Record {
    None,
    Resident(u8),
    Released(u8),
    Recalling(u8),
}

impl Record {
    fn code(self) -> u64 {
        let version = u64::from(self.version());
        let kind = match self {
            Self::None => 0,
            Self::Resident(_) => 1,
            Self::Released(_) => 2,
            Self::Recalling(_) => 3,
        };
        kind << 4 | version
    }

    /// Of a stub: the data are on tiers.
    pub(crate) fn stub(self) -> Option<u8> {
        match self {
            Self::Released(version) | Self::Recalling(version) => Some(version),
            Self::None | Self::Resident(_) => None,
        }
    }

    pub(crate) fn version(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Resident(v) | Self::Released(v) | Self::Recalling(v) => v,
        }
    }
}

/// A change of metadata that is not durable yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Nothing,
    Stamp,
    Record(Record),
    Punch(u8),
    Truncate,
    /// Room for a block of which this could be read before.
    Allocate(u8, u8),
}

/// Changes that wait at once, at most; the oldest become durable when there are more.
const JOURNAL: usize = 8;

/// The file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Medium {
    /// As every process sees it.
    pub(crate) data: [u8; 2],
    pub(crate) record: Record,
    pub(crate) ctime: u8,
    /// Durable, before any change that waits.
    durable_record: Record,
    durable_ctime: u8,
    /// What each block may be, by bit, if none of the waiting changes took it.
    before: [u8; 2],
    /// What it may be if one of them that took it is durable, beside that, but not the last.
    between: [u8; 2],
    /// And if the last is.
    after: [u8; 2],
    /// The waiting changes and the ctime that each set.
    journal: [(Change, u8); JOURNAL],
    waiting: u8,
}

impl Hash for Medium {
    /// In few pieces: most of a search's time is spent here.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self {
            data,
            record,
            ctime,
            durable_record,
            durable_ctime,
            before,
            between,
            after,
            journal,
            waiting,
        } = *self;
        let blocks = [data, before, between, after];
        let blocks = blocks
            .iter()
            .flatten()
            .fold(0, |all, b| all << 8 | u64::from(*b));
        let times = u64::from(ctime) << 16 | u64::from(durable_ctime) << 8 | u64::from(waiting);
        state.write_u64(blocks);
        state.write_u64(times << 32 | record.code() << 8 | durable_record.code());
        for pair in journal.chunks(2) {
            let code = |(change, at): (Change, u8)| change.code() << 8 | u64::from(at);
            state.write_u64(code(pair[0]) << 32 | code(pair[1]));
        }
    }
}

impl Change {
    fn code(self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Stamp => 1,
            Self::Truncate => 2,
            Self::Punch(block) => 4 | u64::from(block),
            Self::Allocate(block, left) => 8 | u64::from(block) | u64::from(left) << 4,
            Self::Record(record) => 256 | record.code(),
        }
    }
}

impl Medium {
    /// Just written, not synced.
    pub(crate) fn new(data: [u8; 2]) -> Self {
        Self {
            data,
            record: Record::None,
            ctime: 1,
            durable_record: Record::None,
            durable_ctime: 1,
            before: [bit(EMPTY) | bit(data[0]), bit(EMPTY) | bit(data[1])],
            between: [0; 2],
            after: [0; 2],
            journal: [(Change::Nothing, 0); JOURNAL],
            waiting: 0,
        }
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.data == [EMPTY; 2]
    }

    pub(crate) fn has_hole(&self) -> bool {
        self.data.contains(&HOLE)
    }

    /// Data extents.
    pub(crate) fn has_data(&self) -> bool {
        self.data.iter().any(|b| *b != HOLE && *b != EMPTY)
    }

    /// The ctime moves, with nothing else (yet).
    pub(crate) fn stamp(&mut self, now: u8) {
        self.change(Change::Stamp, now);
    }

    pub(crate) fn set_record(&mut self, record: Record, now: u8) {
        self.record = record;
        self.change(Change::Record(record), now);
    }

    pub(crate) fn punch(&mut self, block: u8, now: u8) {
        self.take(block, HOLE);
        self.change(Change::Punch(block), now);
    }

    pub(crate) fn truncate(&mut self, now: u8) {
        for block in 0..2 {
            self.take(block, EMPTY);
        }
        self.change(Change::Truncate, now);
    }

    fn take(&mut self, block: u8, left: u8) {
        let at = usize::from(block);
        self.data[at] = left;
        // Nothing, if no change that waits took it before.
        self.between[at] |= self.after[at];
        self.after[at] = 0;
    }

    /// Data, in the page cache; the ctime is the caller's.
    pub(crate) fn store(&mut self, block: u8, content: u8) {
        let at = usize::from(block);
        let left = self.data[at];
        if left == HOLE || left == EMPTY {
            self.take(block, left);
            self.change(Change::Allocate(block, left), self.ctime);
        }
        self.data[at] = content;
        if self.takers(at).next().is_some() {
            self.after[at] |= bit(content);
        } else {
            self.before[at] |= bit(content);
        }
    }

    /// The waiting changes that take a block, with what they leave.
    fn takers(&self, at: usize) -> impl Iterator<Item = (u8, u8)> + '_ {
        self.journal
            .iter()
            .take(usize::from(self.waiting))
            .zip(0_u8..)
            .filter_map(move |((change, _), number)| match change {
                Change::Punch(block) if usize::from(*block) == at => Some((number, HOLE)),
                Change::Truncate => Some((number, EMPTY)),
                Change::Allocate(block, left) if usize::from(*block) == at => Some((number, *left)),
                _ => None,
            })
    }

    fn change(&mut self, change: Change, ctime: u8) {
        self.ctime = ctime;
        if usize::from(self.waiting) == JOURNAL {
            self.commit_oldest();
        }
        self.journal[usize::from(self.waiting)] = (change, ctime);
        self.waiting += 1;
    }

    fn commit_oldest(&mut self) {
        let (change, ctime) = self.journal[0];
        for at in 0..2 {
            let first = self.takers(at).next();
            if let Some((0, left)) = first {
                let last = self.takers(at).count() == 1;
                let later = if last {
                    self.after[at]
                } else {
                    self.between[at]
                };
                self.before[at] = bit(left) | later;
                if self.takers(at).count() <= 2 {
                    self.between[at] = 0;
                }
                if last {
                    self.after[at] = 0;
                }
            }
        }
        if let Change::Record(record) = change {
            self.durable_record = record;
        }
        self.durable_ctime = ctime;
        self.journal.rotate_left(1);
        self.journal[JOURNAL - 1] = (Change::Nothing, 0);
        self.waiting -= 1;
    }

    pub(crate) fn sync(&mut self) {
        *self = Self {
            durable_record: self.record,
            durable_ctime: self.ctime,
            before: [bit(self.data[0]), bit(self.data[1])],
            between: [0; 2],
            after: [0; 2],
            journal: [(Change::Nothing, 0); JOURNAL],
            waiting: 0,
            ..*self
        };
    }

    /// Everything that a loss of power can leave, synced.
    pub(crate) fn after_loss(&self, ordered: bool) -> Vec<Self> {
        let all = 1_u16 << self.waiting;
        let mut left = Vec::new();
        for kept in 0..all {
            // In their order: the first so many.
            if ordered && kept & (kept + 1) != 0 {
                continue;
            }
            self.leave(kept, &mut left);
        }
        left
    }

    /// `kept`: the waiting changes that became durable, by bit.
    fn leave(&self, kept: u16, left: &mut Vec<Self>) {
        let (mut record, mut ctime) = (self.durable_record, self.durable_ctime);
        for number in (0..self.waiting).filter(|n| kept >> n & 1 == 1) {
            let (change, at) = self.journal[usize::from(number)];
            ctime = at;
            if let Change::Record(set) = change {
                record = set;
            }
        }
        let may_be = |at: usize| {
            let last = self.takers(at).last().map(|(number, _)| number);
            let taken = self.takers(at).filter(|(n, _)| kept >> n & 1 == 1).last();
            match taken {
                Some((number, value)) if Some(number) == last => bit(value) | self.after[at],
                Some((_, value)) => bit(value) | self.between[at],
                None => self.before[at],
            }
        };
        let blocks = [may_be(0), may_be(1)];
        for first in contents(blocks[0]) {
            for second in contents(blocks[1]) {
                // The size is one of the inode's metadata: it is there, or it is not.
                let mut state = Self {
                    data: [first, second],
                    record,
                    ctime,
                    ..*self
                };
                state.sync();
                left.push(state);
            }
        }
    }
}

/// The contents in a set.
pub(crate) fn contents(set: u8) -> impl Iterator<Item = u8> {
    (0..8).filter(move |c| set & bit(*c) != 0)
}
