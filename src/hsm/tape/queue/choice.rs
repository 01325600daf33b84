//! Which cartridge comes next, and in which drive.

use super::shelf::{Key, Shelf};
use super::{Drive, Moment, Queue};
use std::cmp::Reverse;

/// The greatest comes first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// What is overdue, the oldest first; all others are equal.
    overdue: Option<Reverse<Key>>,
    /// A reader who has waited too long, the one who has longest first.
    late: Option<Reverse<Key>>,
    readers: bool,
    /// What the user served least of those who wait for it was served, in steps of one pass.
    served: Reverse<u64>,
    /// It is mounted.
    at_hand: bool,
    bytes: u64,
}

impl<C: Clone + Ord> Queue<C> {
    /// The first of all cartridges that are worth a pass now and can have a drive.
    pub(super) fn choose(&self, now: Moment) -> Option<(C, usize)> {
        let mut best: Option<(Rank, &C, usize)> = None;
        for (cartridge, shelf) in &self.waiting {
            let Some(drive) = self.drive_for(cartridge) else {
                continue;
            };
            let at_hand = self.drives[drive].mounted.as_ref() == Some(cartridge);
            if !at_hand && !self.is_worth_a_mount(shelf, now) {
                continue;
            }
            let rank = self.rank(shelf, at_hand, now);
            if best.as_ref().is_none_or(|(least, ..)| rank > *least) {
                best = Some((rank, cartridge, drive));
            }
        }
        best.map(|(_, cartridge, drive)| (cartridge.clone(), drive))
    }

    /// When a cartridge that is not worth a mount by now will be, if nothing else happens; `None`: never.
    #[must_use]
    pub fn ripe_at(&self, now: Moment) -> Option<Moment> {
        let rules = &self.rules;
        let here = self.waiting.iter().filter(|(c, _)| !self.away.contains(*c));
        let times = here.flat_map(|(_, shelf)| {
            let by_age = shelf
                .oldest()
                .map(|(since, _)| since + rules.age.min(rules.overdue));
            let by_reader = shelf.oldest_reader();
            let by_reader = by_reader.map(|(since, _)| since + rules.reader_after);
            [by_age, by_reader]
        });
        times.flatten().filter(|time| *time > now).min()
    }

    fn is_worth_a_mount(&self, shelf: &Shelf<C>, now: Moment) -> bool {
        let rules = &self.rules;
        let waited = |key: Option<Key>, bound| {
            key.is_some_and(|(since, _)| now.saturating_sub(since) >= bound)
        };
        shelf.len() >= rules.files
            || shelf.bytes() >= rules.bytes
            || waited(shelf.oldest(), rules.age.min(rules.overdue))
            || waited(shelf.oldest_reader(), rules.reader_after)
    }

    fn rank(&self, shelf: &Shelf<C>, at_hand: bool, now: Moment) -> Rank {
        let is_overdue = |(since, _): &Key| now.saturating_sub(*since) >= self.rules.overdue;
        let is_late = |(since, _): &Key| now.saturating_sub(*since) >= self.rules.reader_late;
        let served = shelf.users().filter_map(|user| self.served.get(&user));
        let served = served.min().copied().unwrap_or(0);
        Rank {
            overdue: shelf.oldest().filter(is_overdue).map(Reverse),
            late: shelf.oldest_reader().filter(is_late).map(Reverse),
            readers: shelf.oldest_reader().is_some(),
            served: Reverse(served / self.rules.pass_bytes.max(1)),
            at_hand,
            bytes: shelf.bytes(),
        }
    }

    /// Must this drive's pass end for a reader elsewhere? Only one of other work that has handed something
    /// out, with nothing overdue in it, and if no other drive is there for him.
    #[must_use]
    pub fn gives_way(&self, drive: usize, now: Moment) -> bool {
        let Some(pass) = self.drives.get(drive).and_then(|d| d.pass.as_ref()) else {
            return false;
        };
        let mut free = self.drives.iter().filter(|d| d.up && d.pass.is_none());
        if !pass.may_end() || free.next().is_some() {
            return false;
        }
        let late = |(since, _): Key| now.saturating_sub(since) >= self.rules.reader_late;
        let mut others = self.waiting.iter().filter(|(cartridge, shelf)| {
            shelf.oldest_reader().is_some_and(late)
                && !self.away.contains(*cartridge)
                && !self
                    .drives
                    .iter()
                    .any(|d| d.mounted.as_ref() == Some(cartridge))
        });
        let overdue = |(since, _): Key| now.saturating_sub(since) >= self.rules.overdue;
        // The whole pass is looked at last: this is asked before each of its reads.
        others.next().is_some() && !pass.oldest().is_some_and(overdue)
    }

    /// The drive that would take it: the one that holds it, else an empty one, else the one that holds what
    /// nobody asks for, else the one that has rested longest. `None`: it is away, all are busy, or it is in one
    /// that is.
    fn drive_for(&self, cartridge: &C) -> Option<usize> {
        if self.away.contains(cartridge) {
            return None;
        }
        let holds = |drive: &Drive<C>| drive.mounted.as_ref() == Some(cartridge);
        if let Some(at) = self.drives.iter().position(holds) {
            let free = self.drives[at].up && self.drives[at].pass.is_none();
            return free.then_some(at);
        }
        let free = self.drives.iter().enumerate();
        let free = free.filter(|(_, drive)| drive.up && drive.pass.is_none());
        let cost = |drive: &Drive<C>| match &drive.mounted {
            None => 0,
            Some(other) if !self.waiting.contains_key(other) => 1,
            Some(_) => 2,
        };
        free.min_by_key(|(at, drive)| (cost(drive), drive.passes, *at))
            .map(|(at, _)| at)
    }
}
