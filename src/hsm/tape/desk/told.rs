//! What those who wait are told: the queue is played forward on a copy every now and then, apart from the
//! work, corrected by what waits that are over came to, and the answers are kept at hand.

use super::{Core, step};
use crate::hsm::tape::estimate::experience::Experience;
use crate::hsm::tape::estimate::{Busy, Estimator, Model};
use crate::hsm::tape::queue::{Job, JobId, Moment, Turn, Urgency};
use crate::tier::tapes::{Cartridge, Timing};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Shortest time from one answer to the next.
const EVERY: Duration = Duration::from_secs(1);
/// At most this part of the time goes into answers: one in so many.
const SHARE: u32 = 20;
/// Most who are told; others wait for so many that they are told nothing yet.
const MOST: usize = 20_000;

/// What somebody who waits is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The cartridge that he waits for.
    pub cartridge: Cartridge,
    /// The drive that will read it, from 1, as the queue stands.
    pub drive: usize,
    /// Reads that come before it, on all drives.
    pub ahead: usize,
    /// Until its last byte is read.
    pub left: Duration,
}

/// The answers at hand.
#[derive(Default)]
pub(super) struct Board {
    said: Mutex<(Option<Instant>, HashMap<JobId, Told>)>,
    /// Remembers orders from one answer to the next.
    estimator: Mutex<Estimator<Cartridge>>,
    learned: Mutex<Learned>,
}

/// What was foretold, and what it came to.
#[derive(Default)]
struct Learned {
    /// Of those who wait or read: for whom, when it was said first, and how long then.
    first: HashMap<JobId, (Urgency, Moment, Duration)>,
    experience: Experience,
}

impl Board {
    /// The last byte of it was read.
    pub(super) fn is_over(&self, id: JobId, now: Moment) {
        let mut learned = self.learned.lock();
        if let Some((urgency, at, foretold)) = learned.first.remove(&id) {
            let waited = now.saturating_sub(at);
            learned.experience.learn(urgency, foretold, waited, now);
        }
    }

    /// Nobody waits for it any more: nothing is learned.
    pub(super) fn is_off(&self, id: JobId) {
        self.learned.lock().first.remove(&id);
    }

    /// As it was thought out last, less the time that passed since.
    pub(super) fn of(&self, id: JobId) -> Option<Told> {
        let said = self.said.lock();
        let passed = said.0.map_or(Duration::ZERO, |at| at.elapsed());
        let told = said.1.get(&id)?;
        Some(Told {
            left: told.left.saturating_sub(passed),
            ..told.clone()
        })
    }
}

/// Keeps the answers fresh until the desk is stopped.
pub(super) fn work(core: &Core) {
    let mut heard = 0;
    let mut pause = Duration::ZERO;
    loop {
        let until = Instant::now() + pause;
        {
            let mut front = core.front.lock();
            while !front.stopped && (front.rung == heard && front.asks.is_empty()) {
                core.bell.wait(&mut front);
            }
            while !front.stopped && !core.bell.wait_until(&mut front, until).timed_out() {}
            if front.stopped {
                return;
            }
            heard = front.rung;
        }
        let begun = Instant::now();
        core.think();
        pause = EVERY.max(begun.elapsed() * SHARE);
    }
}

/// The times of the cartridges, each asked for once.
struct Times<'a> {
    core: &'a Core,
    known: Mutex<HashMap<Cartridge, Option<Arc<dyn Timing>>>>,
}

impl Times<'_> {
    fn of(&self, cartridge: &Cartridge) -> Option<Arc<dyn Timing>> {
        let mut known = self.known.lock();
        if let Some(timing) = known.get(cartridge) {
            return timing.clone();
        }
        let timing = self.core.tapes.timing(cartridge);
        known.insert(cartridge.clone(), timing.clone());
        timing
    }
}

fn seconds(time: f64) -> Duration {
    Duration::try_from_secs_f64(time).unwrap_or_default()
}

impl Model<Cartridge> for Times<'_> {
    fn mount(&self, turn: &Turn<Cartridge>) -> Duration {
        if !turn.load {
            return Duration::ZERO;
        }
        let away = turn.unload.as_ref().and_then(|c| self.of(c));
        let away = away.map_or(0.0, |timing| timing.unmount(None));
        let there = self.of(&turn.cartridge).map_or(0.0, |t| t.mount());
        seconds(away + there)
    }
    fn read(&self, job: &Job<Cartridge>, from: Option<u64>) -> Duration {
        let timing = self.of(&job.cartridge);
        timing.map_or(Duration::ZERO, |timing| {
            seconds(f64::from(step(&*timing, from, job)) + timing.read(job.bytes))
        })
    }
}

impl Core {
    fn think(&self) {
        let now = self.now();
        let (queue, busy) = {
            let mut work = self.work.lock();
            self.hear(&mut work);
            let left = |until: &Duration| Busy {
                left: until.saturating_sub(now),
            };
            let busy: Vec<_> = work.until.iter().map(left).collect();
            (work.queue.clone(), busy)
        };
        let order = |c: &Cartridge, at, jobs: &[Job<Cartridge>]| self.order(c, at, jobs);
        let times = Times {
            core: self,
            known: Mutex::default(),
        };
        let mut estimator = self.told.estimator.lock();
        let found = estimator.estimates(&queue, &busy, &times, &order, now, MOST);
        drop(estimator);
        // Held: who is seated meanwhile is learned from after this, or not at all.
        let front = self.front.lock();
        let mut learned = self.told.learned.lock();
        let told = found.into_iter().filter_map(|(id, estimate)| {
            let ask = front.asks.get(&id)?;
            let Learned { first, experience } = &mut *learned;
            // Where nobody waits for the library's time, it says nothing of waits.
            if self.pace.is_some() {
                let said = (ask.urgency, now, estimate.left);
                first.entry(id).or_insert(said);
            }
            let left = experience.correct(ask.urgency, estimate.left);
            let told = Told {
                cartridge: ask.cartridge.clone(),
                drive: estimate.drive + 1,
                ahead: estimate.ahead,
                left: self.passing(left),
            };
            Some((id, told))
        });
        let told: HashMap<JobId, Told> = told.collect();
        drop((learned, front));
        *self.told.said.lock() = (Some(Instant::now()), told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_came_to_corrects_what_is_told_and_is_not_kept() {
        let board = Board::default();
        let foretold = Duration::from_secs(600);
        for n in 0..200 {
            let (id, at) = (JobId(n), Duration::from_secs(n));
            let said = (Urgency::Work, at, foretold);
            board.learned.lock().first.insert(id, said);
            if n % 2 == 0 {
                board.is_over(id, at + 3 * foretold);
            } else {
                board.is_off(id);
            }
            // Nobody knows it any more.
            board.is_over(id, at);
        }
        let learned = board.learned.lock();
        assert!(learned.first.is_empty());
        let told = learned.experience.correct(Urgency::Work, foretold);
        assert!(told > 2 * foretold && told < 4 * foretold, "{told:?}");
        let readers = learned.experience.correct(Urgency::Reader, foretold);
        assert_eq!(readers, foretold, "nothing was learned of them");
    }
}
