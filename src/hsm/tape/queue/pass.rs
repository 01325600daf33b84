//! What one drive reads from one cartridge before it is free again.

use super::shelf::{Key, Shelf};
use super::{Job, JobId, Order, Rules, Urgency};
use std::collections::VecDeque;

/// Jobs taken, in the order in which they are read: readers, and then other work.
#[derive(Debug, Clone)]
pub(super) struct Pass<C> {
    readers: VecDeque<Job<C>>,
    work: VecDeque<Job<C>>,
    /// All that it ever took.
    jobs: usize,
    bytes: u64,
    /// It handed something out.
    begun: bool,
}

/// Other work joins at once where no more than this is left to be ordered anew.
const FEW: usize = 256;

impl<C: Clone + Ord> Pass<C> {
    /// The oldest job, and then users in turns, each with the oldest first, up to the bound.
    pub(super) fn of(shelf: &mut Shelf<C>, rules: &Rules) -> Self {
        let mut pass = Self {
            readers: VecDeque::new(),
            work: VecDeque::new(),
            jobs: 0,
            bytes: 0,
            begun: false,
        };
        let turns = shelf.in_turns(rules.pass_jobs.max(1));
        pass.take_in(shelf, turns, rules);
        pass
    }

    fn has_room(&self, rules: &Rules) -> bool {
        self.jobs == 0 || self.jobs < rules.pass_jobs && self.bytes < rules.pass_bytes
    }

    fn take_in(&mut self, shelf: &mut Shelf<C>, keys: Vec<Key>, rules: &Rules) {
        for key in keys {
            if !self.has_room(rules) {
                break;
            }
            if let Some(job) = shelf.remove(key) {
                self.jobs += 1;
                self.bytes += job.bytes;
                self.put(job);
            }
        }
    }

    fn put(&mut self, job: Job<C>) {
        match job.urgency {
            Urgency::Reader => self.readers.push_back(job),
            Urgency::Work => self.work.push_back(job),
        }
    }

    /// Takes in what arrived, as much as the bound allows: did readers join, did other work?
    pub(super) fn join(&mut self, shelf: &mut Shelf<C>, rules: &Rules) -> (bool, bool) {
        if !self.has_room(rules) {
            return (false, false);
        }
        let (readers, work) = (self.readers.len(), self.work.len());
        let room = rules.pass_jobs.saturating_sub(self.jobs);
        let keys = shelf.readers(room);
        self.take_in(shelf, keys, rules);
        if self.work.len() <= FEW.max(8 * shelf.len()) {
            let keys = shelf.in_turns(room.saturating_sub(self.readers.len() - readers));
            self.take_in(shelf, keys, rules);
        }
        (self.readers.len() > readers, self.work.len() > work)
    }

    /// Whose oldest job the pass is for.
    pub(super) fn payer(&self) -> Option<u32> {
        let oldest = self.rest().min_by_key(|job| (job.since, job.id));
        oldest.map(|job| job.user)
    }

    pub(super) fn oldest(&self) -> Option<Key> {
        self.rest().map(|job| (job.since, job.id)).min()
    }

    /// It is of other work alone, and has begun.
    pub(super) fn may_end(&self) -> bool {
        self.begun && self.readers.is_empty()
    }

    /// Puts what is left in the order that costs least from here: readers, and `work` too if that has grown.
    pub(super) fn sort(&mut self, cartridge: &C, at: Option<u64>, order: Order<'_, C>, work: bool) {
        sort(&mut self.readers, cartridge, at, order);
        if work {
            let at = self.readers.back().map(|job| job.end).or(at);
            sort(&mut self.work, cartridge, at, order);
        }
    }

    pub(super) fn take(&mut self) -> Option<Job<C>> {
        self.begun = true;
        self.readers.pop_front().or_else(|| self.work.pop_front())
    }

    pub(super) fn cancel(&mut self, id: JobId) -> Option<Job<C>> {
        [&mut self.readers, &mut self.work]
            .into_iter()
            .find_map(|jobs| {
                let at = jobs.iter().position(|job| job.id == id)?;
                jobs.remove(at)
            })
    }

    /// A reader came for it.
    pub(super) fn raise(&mut self, id: JobId) -> bool {
        let at = self.work.iter().position(|job| job.id == id);
        let job = at.and_then(|at| self.work.remove(at));
        let here = job.is_some();
        self.readers.extend(job.map(|mut job| {
            job.urgency = Urgency::Reader;
            job
        }));
        here
    }

    pub(super) fn rest(&self) -> impl Iterator<Item = &Job<C>> {
        self.readers.iter().chain(&self.work)
    }

    pub(super) fn into_jobs(self) -> impl Iterator<Item = Job<C>> {
        self.readers.into_iter().chain(self.work)
    }
}

fn sort<C>(jobs: &mut VecDeque<Job<C>>, cartridge: &C, at: Option<u64>, order: Order<'_, C>) {
    if jobs.len() < 2 {
        return;
    }
    // Whoever orders them counts on the order in which they lie.
    jobs.make_contiguous()
        .sort_by_key(|job| (job.begin, job.id));
    let found = order(cartridge, at, jobs.make_contiguous());
    let mut left: Vec<Option<Job<C>>> = jobs.drain(..).map(Some).collect();
    let mut place = |index: usize| left.get_mut(index).and_then(Option::take);
    jobs.extend(found.into_iter().filter_map(&mut place));
    // An answer that forgot some is mended: nothing is lost by it.
    jobs.extend(left.into_iter().flatten());
}
