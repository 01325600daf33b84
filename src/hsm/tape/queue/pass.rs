//! What one drive reads from one cartridge before it is free again.

use super::shelf::Shelf;
use super::{Job, JobId, Order, Rules};
use std::collections::VecDeque;

/// Jobs taken, in the order in which they are read.
#[derive(Debug, Clone)]
pub(super) struct Pass<C> {
    rest: VecDeque<Job<C>>,
    /// All that it ever took.
    jobs: usize,
    bytes: u64,
}

impl<C: Clone + Ord> Pass<C> {
    /// The oldest job, and then users in turns, each with the oldest first, up to the bound.
    pub(super) fn of(shelf: &mut Shelf<C>, rules: &Rules) -> Self {
        let mut pass = Self {
            rest: VecDeque::new(),
            jobs: 0,
            bytes: 0,
        };
        pass.join(shelf, rules);
        pass
    }

    fn has_room(&self, rules: &Rules) -> bool {
        self.jobs == 0 || self.jobs < rules.pass_jobs && self.bytes < rules.pass_bytes
    }

    /// Takes as many as the bound allows; `true`: some joined.
    pub(super) fn join(&mut self, shelf: &mut Shelf<C>, rules: &Rules) -> bool {
        let before = self.jobs;
        let room = rules.pass_jobs.max(1).saturating_sub(self.jobs);
        for key in shelf.in_turns(room) {
            if !self.has_room(rules) {
                break;
            }
            if let Some(job) = shelf.remove(key) {
                self.jobs += 1;
                self.bytes += job.bytes;
                self.rest.push_back(job);
            }
        }
        self.jobs > before
    }

    /// Whose oldest job the pass is for.
    pub(super) fn payer(&self) -> Option<u32> {
        let oldest = self.rest.iter().min_by_key(|job| (job.since, job.id));
        oldest.map(|job| job.user)
    }

    /// Puts what is left in the order that costs least from here.
    pub(super) fn sort(&mut self, cartridge: &C, at: Option<u64>, order: Order<'_, C>) {
        // Whoever orders them counts on the order in which they lie.
        self.rest
            .make_contiguous()
            .sort_by_key(|job| (job.begin, job.id));
        let found = order(cartridge, at, self.rest.make_contiguous());
        let mut jobs: Vec<Option<Job<C>>> = self.rest.drain(..).map(Some).collect();
        let mut place = |index: usize| jobs.get_mut(index).and_then(Option::take);
        self.rest = found.into_iter().filter_map(&mut place).collect();
        // An answer that forgot some is mended: nothing is lost by it.
        self.rest.extend(jobs.into_iter().flatten());
    }

    pub(super) fn take(&mut self) -> Option<Job<C>> {
        self.rest.pop_front()
    }

    pub(super) fn cancel(&mut self, id: JobId) -> Option<Job<C>> {
        let at = self.rest.iter().position(|job| job.id == id)?;
        self.rest.remove(at)
    }

    pub(super) fn rest(&self) -> impl Iterator<Item = &Job<C>> {
        self.rest.iter()
    }

    pub(super) fn into_jobs(self) -> impl Iterator<Item = Job<C>> {
        self.rest.into_iter()
    }
}
