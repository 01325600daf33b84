//! What those who wait are told: the queue is played forward on a copy every now and then, apart from the
//! work, and the answers are kept at hand.

use super::{Core, step};
use crate::hsm::tape::estimate::{Busy, Model, estimates};
use crate::hsm::tape::queue::{Job, JobId, Turn};
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
}

impl Board {
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
        let found = estimates(&queue, &busy, &times, &order, now, MOST);
        let cartridges: HashMap<JobId, Cartridge> = {
            let front = self.front.lock();
            let of = |(id, ask): (&JobId, &super::Ask)| (*id, ask.cartridge.clone());
            front.asks.iter().map(of).collect()
        };
        let told = found.into_iter().filter_map(|(id, estimate)| {
            let told = Told {
                cartridge: cartridges.get(&id)?.clone(),
                drive: estimate.drive + 1,
                ahead: estimate.ahead,
                left: self.passing(estimate.left),
            };
            Some((id, told))
        });
        *self.told.said.lock() = (Some(Instant::now()), told.collect());
    }
}
