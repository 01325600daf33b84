//! How long whoever waits will wait: the queue is played forward on a copy, with the times of a model.
//!
//! What arrives later is not known, so the answer is for the queue as it is; a library that is asked for
//! more serves this later, or sooner where its cartridge is mounted for others. What that usually comes to is
//! learned from waits that are over: [`experience`].

pub mod experience;
mod known;

use known::KnownOrders;

use super::queue::{Job, JobId, Moment, Order, Queue, Turn};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a library takes for what the queue tells it to do.
pub trait Model<C> {
    /// Until the cartridge of a pass is ready in its drive, whatever was in there put away.
    fn mount(&self, turn: &Turn<C>) -> Duration;
    /// From the end of one read (`None`: the beginning of the tape) until all of this one is read.
    fn read(&self, job: &Job<C>, from: Option<u64>) -> Duration;
}

/// What somebody who waits is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Estimate {
    /// The drive that will read it, by its place in the queue's list.
    pub drive: usize,
    /// Reads that come before it, on all drives.
    pub ahead: usize,
    /// Until its last byte is read.
    pub left: Duration,
}

/// What drives were doing when the question came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Busy {
    /// Until the present read or mount is done.
    pub left: Duration,
}

/// Longest time that is played: a queue of more than that is told "more than".
pub const HORIZON: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Answers one question after the other about the same queue, and remembers what it need not find again: the orders of
/// passes, which are most of the work. What it answers is what [`estimates`] answers.
pub struct Estimator<C> {
    known: KnownOrders<C>,
}

impl<C> Default for Estimator<C> {
    fn default() -> Self {
        let known = KnownOrders::default();
        Self { known }
    }
}

impl<C: Clone + Ord> Estimator<C> {
    /// See [`estimates`]. `order` must give the same answer to the same question each time.
    pub fn estimates(
        &mut self,
        queue: &Queue<C>,
        busy: &[Busy],
        model: &dyn Model<C>,
        order: Order<'_, C>,
        now: Moment,
        most: usize,
    ) -> BTreeMap<JobId, Estimate> {
        self.known.turn();
        let known = &self.known;
        let order = |cartridge: &C, at: Option<u64>, jobs: &[Job<C>]| {
            known.order(cartridge, at, jobs, order)
        };
        estimates(queue, busy, model, &order, now, most)
    }
}

/// Estimates for all jobs that wait, `most` of them at most (in the order in which they end). `busy`: what each drive is
/// at; shorter lists stand for free drives.
pub fn estimates<C: Clone + Ord>(
    queue: &Queue<C>,
    busy: &[Busy],
    model: &dyn Model<C>,
    order: Order<'_, C>,
    now: Moment,
    most: usize,
) -> BTreeMap<JobId, Estimate> {
    let mut play = Play {
        queue: queue.clone(),
        free_at: (0..queue.mounted().count())
            .map(|drive| now + busy.get(drive).copied().unwrap_or_default().left)
            .collect(),
        in_pass: queue.in_pass(),
        at: queue.heads(),
        told: BTreeMap::new(),
    };
    let mut clock = now;
    while play.told.len() < most && clock < now + HORIZON {
        match play.step(clock, now, model, order) {
            Some(later) => clock = later,
            None => break,
        }
    }
    play.told
}

struct Play<C> {
    queue: Queue<C>,
    /// When each drive has done what it is at.
    free_at: Vec<Moment>,
    in_pass: Vec<bool>,
    at: Vec<Option<u64>>,
    told: BTreeMap<JobId, Estimate>,
}

impl<C: Clone + Ord> Play<C> {
    /// The drive that is ready first does its next thing; gives the time of that. `None`: nothing more
    /// will happen.
    fn step(
        &mut self,
        clock: Moment,
        asked: Moment,
        model: &dyn Model<C>,
        order: Order<'_, C>,
    ) -> Option<Moment> {
        let ready = |drive: &usize| (self.free_at[*drive], *drive);
        let passes = (0..self.in_pass.len()).filter(|d| self.in_pass[*d]);
        let first = passes.min_by_key(ready);
        let resting = (0..self.in_pass.len()).filter(|d| !self.in_pass[*d]);
        let begins = resting.map(|d| self.free_at[d].max(clock)).min();
        // A free drive begins a pass before a busy one goes on, if it can at that time.
        if let Some(begins) = begins
            && first.is_none_or(|drive| begins <= self.free_at[drive])
        {
            if let Some(turn) = self.queue.next(begins, order) {
                let begins = begins.max(self.free_at[turn.drive]);
                self.free_at[turn.drive] = begins + model.mount(&turn);
                self.in_pass[turn.drive] = true;
                if turn.load {
                    self.at[turn.drive] = None;
                }
                return Some(begins);
            }
            if first.is_none() {
                return self.queue.ripe_at(begins);
            }
            // While others read, a cartridge may become worth a mount before they are done.
            let ripe = self.queue.ripe_at(begins);
            if let Some(ripe) = ripe
                && first.is_some_and(|drive| ripe < self.free_at[drive])
            {
                return Some(ripe);
            }
        }
        let drive = first?;
        let begun = self.free_at[drive];
        match self.queue.step(drive, begun.max(clock), order) {
            Some(job) => {
                let ends = begun + model.read(&job, self.at[drive]);
                self.at[drive] = Some(job.end);
                self.free_at[drive] = ends;
                let told = Estimate {
                    drive,
                    ahead: self.told.len(),
                    left: ends.saturating_sub(asked),
                };
                self.told.insert(job.id, told);
            }
            None => self.in_pass[drive] = false,
        }
        Some(begun.max(clock))
    }
}

#[cfg(test)]
mod tests;
