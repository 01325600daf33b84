//! Record locks that are held on the backing: by whom, through which open file description, who
//! works on them now and who waits. No I/O, no clock.
//!
//! Invariants
//! 1. An owner has one description per node, while it holds a lock there and no longer: its own
//!    locks do not conflict on one description, and would on two.
//! 2. What an owner does on a node is done one after the other (its *turns*), so that nobody locks
//!    through a description that another of its threads is about to give up.
//! 3. Who waits is in the list of its node until whoever takes it out of there tries for it.
//!
//! A leaf of the lock order (see `node`): nothing is locked under it, and it is not held across
//! system calls.

use crate::park::Ticket;
use crate::workers::Job;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

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
#[derive(Debug, Clone, Copy)]
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
    /// How long it waits until it is tried again.
    pub(crate) step: Duration,
}

/// Which bytes are locked, in whatever way: sorted, apart from each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Covered(Vec<Range>);

impl Covered {
    fn add(&mut self, mut range: Range) {
        self.0.retain(|held| {
            let joined = held.touches(range);
            if joined {
                range.first = range.first.min(held.first);
                range.last = range.last.max(held.last);
            }
            !joined
        });
        let at = self.0.partition_point(|held| held.first < range.first);
        self.0.insert(at, range);
    }

    fn remove(&mut self, range: Range) {
        let held = std::mem::take(&mut self.0);
        for part in held {
            if !part.overlaps(range) {
                self.0.push(part);
                continue;
            }
            if part.first < range.first {
                self.0.push(Range {
                    first: part.first,
                    last: range.first - 1,
                });
            }
            if part.last > range.last {
                self.0.push(Range {
                    first: range.last + 1,
                    last: part.last,
                });
            }
        }
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
    waiting: HashMap<u64, Vec<(Ticket, Ask)>>,
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
        holder.covered.add(ask.range);
    }

    /// A description with locks that were taken through a predecessor. How much of the file they
    /// cover is not known: it counts as all of it until all is given up.
    pub(crate) fn adopt(&mut self, owner: Owner, fh: u64, process: u32, description: D) {
        let ask = Ask {
            owner,
            fh,
            process,
            thread: 0,
            range: Range::WHOLE,
            kind: None,
            waits: false,
            step: Duration::ZERO,
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
        self.holders
            .get(&asking.node)?
            .iter()
            .filter(|(number, _)| **number != asking.number)
            .find(|(_, holder)| holder.covered.0.iter().any(|held| held.overlaps(here)))
            .map(|(_, holder)| holder.process)
    }

    /// Somebody waits with a parked reply.
    pub(crate) fn wait(&mut self, ticket: Ticket, ask: Ask) {
        let waiting = self.waiting.entry(ask.owner.node).or_default();
        waiting.push((ticket, ask));
    }

    /// What that one wanted, unless somebody else tries for it already.
    #[must_use]
    pub(crate) fn take_waiting(&mut self, node: u64, ticket: Ticket) -> Option<Ask> {
        let waiting = self.waiting.get_mut(&node)?;
        let at = waiting.iter().position(|(known, _)| *known == ticket)?;
        let (_, ask) = waiting.remove(at);
        if waiting.is_empty() {
            self.waiting.remove(&node);
        }
        Some(ask)
    }

    /// All who wait at a node, in the order in which they came.
    #[must_use]
    pub(crate) fn take_all_waiting(&mut self, node: u64) -> Vec<(Ticket, Ask)> {
        self.waiting.remove(&node).unwrap_or_default()
    }
}

#[cfg(test)]
#[path = "locks/tests.rs"]
mod tests;
