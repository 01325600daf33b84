//! Record locks that are held on the backing: by whom, through which open file description, who
//! works on them now and who waits. No I/O, no clock.
//!
//! Invariants
//! 1. An owner has one description per node, while it holds a lock there and no longer: its own
//!    locks do not conflict on one description, and would on two.
//! 2. What an owner does on a node is done one after the other (its *turns*), so that nobody locks
//!    through a description that another of its threads is about to give up.
//! 3. What is entered as locked is locked on the backing, or was until a moment ago: it is entered
//!    after that, and struck out before somebody is tried for who waited for it.
//!
//! A leaf of the lock order (see `node`): nothing is locked under it, and it is not held across
//! system calls.

mod line;

use crate::park::Ticket;
use crate::workers::Job;
use line::{Held, Line, Refused};
use std::collections::{HashMap, VecDeque};

/// The last byte that a lock can cover: "to the end, however long the file becomes".
pub(crate) const END: u64 = i64::MAX as u64;

/// Bytes of a file, the first and the last included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Range {
    pub(crate) const WHOLE: Self = Self {
        first: 0,
        last: END,
    };

    fn lies_within(self, other: Self) -> bool {
        other.first <= self.first && self.last <= other.last
    }

    fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// They overlap, or nothing is between them.
    fn touches(self, other: Self) -> bool {
        self.first <= other.last.saturating_add(1) && other.first <= self.last.saturating_add(1)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
}

/// Whose locks: the kernel's number of a process's descriptor table, or of one open file
/// description, and the node that they are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Owner {
    pub(crate) node: u64,
    pub(crate) number: u64,
}

/// What somebody wants of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) owner: Owner,
    /// The open that it came through.
    pub(crate) fh: u64,
    pub(crate) process: u32,
    /// The thread that waits for the answer.
    pub(crate) thread: u32,
    pub(crate) range: Range,
    /// `None`: to unlock.
    pub(crate) kind: Option<Kind>,
    pub(crate) waits: bool,
}

impl Ask {
    /// Would one of these two locks shut the other out, if others hold them?
    fn conflicts(&self, kind: Kind, range: Range) -> bool {
        let both_read = kind == Kind::Read && self.kind == Some(Kind::Read);
        self.kind.is_some() && !both_read && self.range.overlaps(range)
    }
}

/// Locked bytes of one kind. `None`: not known, perhaps not locked at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    range: Range,
    kind: Option<Kind>,
}

/// Which bytes are locked, and how: sorted, and of one kind apart from each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Covered(Vec<Part>);

impl Covered {
    fn add(&mut self, mut range: Range, kind: Option<Kind>) {
        self.remove(range);
        self.0.retain(|held| {
            let joined = held.kind == kind && held.range.touches(range);
            if joined {
                range.first = range.first.min(held.range.first);
                range.last = range.last.max(held.range.last);
            }
            !joined
        });
        let at = self
            .0
            .partition_point(|held| held.range.first < range.first);
        self.0.insert(at, Part { range, kind });
    }

    fn remove(&mut self, range: Range) {
        let held = std::mem::take(&mut self.0);
        for Part { range: part, kind } in held {
            if !part.overlaps(range) {
                self.0.push(Part { range: part, kind });
                continue;
            }
            if part.first < range.first {
                let (first, last) = (part.first, range.first - 1);
                let range = Range { first, last };
                self.0.push(Part { range, kind });
            }
            if part.last > range.last {
                let (first, last) = (range.last + 1, part.last);
                let range = Range { first, last };
                self.0.push(Part { range, kind });
            }
        }
    }

    fn shuts_out(&self, ask: &Ask) -> bool {
        let mut parts = self.0.iter();
        parts.any(|part| {
            part.kind
                .is_some_and(|kind| ask.conflicts(kind, part.range))
        })
    }
}

struct Holder<D> {
    description: D,
    covered: Covered,
    /// The latest open that it took a lock through.
    fh: u64,
    process: u32,
}

/// All record locks of a mount; `D` is an open file description.
pub(crate) struct Locks<D> {
    /// By node, then by the owner's number.
    holders: HashMap<u64, HashMap<u64, Holder<D>>>,
    count: usize,
    most: usize,
    /// Whose turn it is, and what is to be done after it.
    turns: HashMap<Owner, VecDeque<Job>>,
    /// By node.
    waiting: HashMap<u64, Line>,
}

impl<D: Clone> Locks<D> {
    /// For so many descriptions at most.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            holders: HashMap::new(),
            count: 0,
            most,
            turns: HashMap::new(),
            waiting: HashMap::new(),
        }
    }

    /// The job back if it is its turn now, which ends with [`Locks::end`]; else it waits.
    #[must_use]
    pub(crate) fn begin(&mut self, owner: Owner, job: Job) -> Option<Job> {
        if let Some(after) = self.turns.get_mut(&owner) {
            after.push_back(job);
            return None;
        }
        self.turns.insert(owner, VecDeque::new());
        Some(job)
    }

    /// A turn is over: whose is next?
    #[must_use]
    pub(crate) fn end(&mut self, owner: Owner) -> Option<Job> {
        let next = self.turns.get_mut(&owner)?.pop_front();
        if next.is_none() {
            self.turns.remove(&owner);
        }
        next
    }

    /// Does it hold a lock, or is it just about to?
    pub(crate) fn concerns(&self, owner: Owner) -> bool {
        self.turns.contains_key(&owner) || self.holder(owner).is_some()
    }

    fn holder(&self, owner: Owner) -> Option<&Holder<D>> {
        self.holders.get(&owner.node)?.get(&owner.number)
    }

    pub(crate) fn description(&self, owner: Owner) -> Option<D> {
        Some(self.holder(owner)?.description.clone())
    }

    /// The open that it took its latest lock through.
    pub(crate) fn fh(&self, owner: Owner) -> Option<u64> {
        Some(self.holder(owner)?.fh)
    }

    /// Is there room for one more holder?
    pub(crate) fn has_room(&self) -> bool {
        self.count < self.most
    }

    /// It was granted, on that description.
    pub(crate) fn locked(&mut self, ask: &Ask, description: D) {
        let owners = self.holders.entry(ask.owner.node).or_default();
        let holder = owners.entry(ask.owner.number).or_insert_with(|| {
            self.count += 1;
            Holder {
                description,
                covered: Covered::default(),
                fh: ask.fh,
                process: ask.process,
            }
        });
        holder.fh = ask.fh;
        holder.covered.add(ask.range, ask.kind);
    }

    /// A description with locks that were taken through a predecessor. What they are is not known:
    /// they may cover all of the file until all is given up.
    pub(crate) fn adopt(&mut self, owner: Owner, fh: u64, process: u32, description: D) {
        let ask = Ask {
            owner,
            fh,
            process,
            thread: 0,
            range: Range::WHOLE,
            kind: None,
            waits: false,
        };
        self.locked(&ask, description);
    }

    /// A range was unlocked. The description if nothing is left on it: it is forgotten here.
    #[must_use]
    pub(crate) fn unlocked(&mut self, owner: Owner, range: Range) -> Option<D> {
        let owners = self.holders.get_mut(&owner.node)?;
        let covered = &mut owners.get_mut(&owner.number)?.covered;
        covered.remove(range);
        if !covered.0.is_empty() {
            return None;
        }
        let holder = owners.remove(&owner.number)?;
        if owners.is_empty() {
            self.holders.remove(&owner.node);
        }
        self.count -= 1;
        Some(holder.description)
    }

    /// Who took its latest lock on the node through that open.
    pub(crate) fn through(&self, node: u64, fh: u64) -> Vec<Owner> {
        let owners = self.holders.get(&node);
        let those = owners.into_iter().flatten().filter(|(_, h)| h.fh == fh);
        those.map(|(&number, _)| Owner { node, number }).collect()
    }

    /// The process, other than `asking`, that has a lock at that place.
    pub(crate) fn process_at(&self, asking: Owner, place: u64) -> Option<u32> {
        let here = Range {
            first: place,
            last: place,
        };
        let has_it = |part: &Part| part.kind.is_some() && part.range.overlaps(here);
        self.holders
            .get(&asking.node)?
            .iter()
            .filter(|(number, _)| **number != asking.number)
            .find(|(_, holder)| holder.covered.0.iter().any(has_it))
            .map(|(_, holder)| holder.process)
    }

    /// Is a lock in the way of which it is known here?
    pub(crate) fn is_shut_out(&self, ask: &Ask) -> bool {
        Known(self.holders.get(&ask.owner.node)).shut_out(ask)
    }

    /// Somebody waits, and is being tried for.
    pub(crate) fn wait(&mut self, ticket: Ticket, ask: Ask) {
        let line = self.waiting.entry(ask.owner.node).or_default();
        line.enter(ticket, ask);
    }

    /// It did not get its lock.
    #[must_use]
    pub(crate) fn refused(&mut self, node: u64, ticket: Ticket) -> Refused {
        let known = Known(self.holders.get(&node));
        let line = self.waiting.get_mut(&node);
        line.map(|line| line.refused(ticket, &known))
            .unwrap_or_default()
    }

    /// The time has come. Who is to be tried for now, which may be others.
    #[must_use]
    pub(crate) fn due(&mut self, node: u64, ticket: Ticket, turn: u64) -> Vec<(Ticket, Ask)> {
        let known = Known(self.holders.get(&node));
        let line = self.waiting.get_mut(&node);
        line.map(|line| line.due(ticket, turn, &known))
            .unwrap_or_default()
    }

    /// It waits no more. Who is to be tried for instead.
    #[must_use]
    pub(crate) fn left(&mut self, node: u64, ticket: Ticket) -> Vec<(Ticket, Ask)> {
        let known = Known(self.holders.get(&node));
        let Some(line) = self.waiting.get_mut(&node) else {
            return Vec::new();
        };
        let next = line.left(ticket, &known);
        if line.is_empty() {
            self.waiting.remove(&node);
        }
        next
    }

    /// Locks within that range were given up: who is to be tried for.
    #[must_use]
    pub(crate) fn freed(&mut self, node: u64, range: Range) -> Vec<(Ticket, Ask)> {
        let known = Known(self.holders.get(&node));
        let line = self.waiting.get_mut(&node);
        line.map(|line| line.freed(range, &known))
            .unwrap_or_default()
    }
}

/// The locks of one node.
struct Known<'a, D>(Option<&'a HashMap<u64, Holder<D>>>);

impl<D> Held for Known<'_, D> {
    fn shut_out(&self, ask: &Ask) -> bool {
        let holders = self.0.into_iter().flatten();
        holders
            .filter(|(number, _)| **number != ask.owner.number)
            .any(|(_, holder)| holder.covered.shuts_out(ask))
    }

    fn all_known(&self) -> bool {
        let mut holders = self.0.into_iter().flatten();
        holders.all(|(_, holder)| holder.covered.0.iter().all(|part| part.kind.is_some()))
    }
}

#[cfg(test)]
#[path = "locks/tests.rs"]
mod tests;
