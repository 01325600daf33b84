//! The desk of a tape tier: everything that is to be read from its cartridges is asked for here, and
//! whoever's turn it is gets a [`Seat`]: his cartridge is in a drive, and stays there while he reads.
//!
//! The order is that of the [`queue`](super::queue). Each drive has a thread, which takes turns: it holds
//! the cartridge of a pass, hands out its seats one after the other, and lets go of it. So that a
//! drive does not stand still while a small file is being synced, a few seats are handed out ahead, as far as what is read
//! for them fits the blocks that a drive keeps at hand.
//!
//! Invariants:
//! - Whoever asks is called once, with a seat or without (then the read itself says what is wrong), or
//!   never, if he took his wish back before ([`Desk::cancel`] says so) or the desk was stopped.
//! - Seats of one pass are handed out in the queue's order. A seat is given back when it is dropped.
//! - A drive's cartridge is held during its pass, and until the seats are given back; an idle desk
//!   holds nothing. Nobody who holds a cartridge waits for another drive.
//! - Readers do not wait for other work without bound: one who wants little, or is late, is seated beside it, and for
//!   one who is late and wants another cartridge its seats end, though it may read on.
//! - Who needs a drive and gets none because all are held (a writer, say) gets one within
//!   [`Rules`]' bounds: between two seats, after the first of a hold, a drive that
//!   somebody has waited for for [`PATIENCE`] is let go of. Who holds it next stands behind him in the line.
//! - Locks: `work`, then `front`, then those of what is told. Nobody is called under either; `front` is held for moments alone, so
//!   asking, cancelling and raising block nobody.

mod drive;
#[cfg(test)]
mod tests;
mod told;

pub use told::Told;

use super::order;
use super::queue::{Job, JobId, Moment, Queue, Rules, Turn, Urgency};
use crate::tier::tapes::{Cartridge, Stretch, Tapes, Timing};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long somebody waits for a drive before one is let go of for him, in the library's time.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// The same where nobody waits for the library's time.
const NO_PATIENCE: Duration = Duration::from_millis(100);
/// When a reader is late there.
const NO_DELAY: Duration = Duration::from_secs(2);
/// Seats of one drive at once.
const SEATS: usize = 8;
/// Bytes of tape from the first of them to the last: below what a drive keeps at hand.
const AHEAD: u64 = 4 << 20;
/// Bytes of tape up to which a reader is seated at once beside other work, and reads between its reads. Each of
/// his reads costs both a locate: one who wants more waits until he is late.
const BESIDE: u64 = 64 << 20;
/// How long an absent cartridge is shown that nobody asks for any more.
const SHOWN: Duration = Duration::from_secs(60 * 60);

/// Called once, from a thread of the desk that holds no lock; must be quick. `None`: it is read without.
pub type Called = Box<dyn FnOnce(Option<Seat>) + Send>;

/// What is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Where it lies.
    pub stretch: Stretch,
    /// For whom.
    pub user: u32,
    /// How urgently.
    pub urgency: Urgency,
}

/// One's turn at a cartridge, which is in a drive until this is dropped. It need not be used.
pub struct Seat {
    core: Arc<Core>,
    drive: usize,
    number: u64,
    job: JobId,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seat")
            .field("drive", &self.drive)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.core.told.is_over(self.job, self.core.now());
        let mut front = self.core.front.lock();
        if let Some(seats) = front.seats.get_mut(self.drive) {
            seats.remove(&self.number);
        }
        self.core.ring(&mut front);
    }
}

/// Who asked and was not called yet.
struct Ask {
    cartridge: Cartridge,
    urgency: Urgency,
    since: Moment,
    called: Called,
}

/// Who has a seat.
struct Sitter {
    /// Where what he reads lies.
    begin: u64,
    end: u64,
    urgency: Urgency,
}

/// What the queue does not know yet.
enum News {
    Ask(Job<Cartridge>),
    Cancel(JobId),
    Raise(JobId),
}

struct Front {
    asks: HashMap<JobId, Ask>,
    news: Vec<News>,
    /// Of each drive: who reads from it.
    seats: Vec<BTreeMap<u64, Sitter>>,
    /// Cartridges that were asked for and not there: how often, and when last.
    absent: BTreeMap<Cartridge, (u64, Instant)>,
    next: u64,
    /// Grows with whatever may concern a drive's thread.
    rung: u64,
    stopped: bool,
}

struct Work {
    queue: Queue<Cartridge>,
    /// Turns that the drives' threads have still to take.
    turns: Vec<Option<Turn<Cartridge>>>,
    /// Drives whose threads are amid a turn.
    busy: Vec<bool>,
    /// When each drive will have done what it is at.
    until: Vec<Moment>,
}

struct Core {
    tapes: Arc<dyn Tapes>,
    pace: Option<f64>,
    /// A reader who has waited this long goes before other work that has seats, in the library's time.
    late: Duration,
    begun: Instant,
    work: Mutex<Work>,
    front: Mutex<Front>,
    bell: Condvar,
    told: told::Board,
}

/// See the module. Its threads are its owner's: [`Desk::work`].
pub struct Desk {
    core: Arc<Core>,
}

/// A cartridge that was asked for and is not in the library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absent {
    /// Which.
    pub cartridge: Cartridge,
    /// How often it was asked for since it was seen last.
    pub asked: u64,
}

impl Desk {
    /// A desk for these cartridges and drives.
    #[must_use]
    pub fn new(tapes: Arc<dyn Tapes>) -> Self {
        let rules = match tapes.pace() {
            Some(_) => Rules::default(),
            // Nobody waits for the library's time: every cartridge is worth its mount at once.
            None => Rules {
                reader_after: Duration::ZERO,
                files: 1,
                age: Duration::ZERO,
                reader_late: NO_DELAY,
                ..Rules::default()
            },
        };
        Self::with_rules(tapes, rules)
    }

    /// The same by other rules, in the library's time.
    #[must_use]
    pub fn with_rules(tapes: Arc<dyn Tapes>, rules: Rules) -> Self {
        let drives = tapes.drives();
        let pace = tapes.pace();
        let core = Core {
            pace,
            late: rules.reader_late,
            begun: Instant::now(),
            work: Mutex::new(Work {
                queue: Queue::new(rules, drives),
                turns: vec![None; drives],
                busy: vec![false; drives],
                until: vec![Moment::ZERO; drives],
            }),
            front: Mutex::new(Front {
                asks: HashMap::new(),
                news: Vec::new(),
                seats: (0..drives).map(|_| BTreeMap::new()).collect(),
                absent: BTreeMap::new(),
                next: 0,
                rung: 0,
                stopped: false,
            }),
            bell: Condvar::new(),
            told: told::Board::default(),
            tapes,
        };
        Self {
            core: Arc::new(core),
        }
    }

    /// The work of its threads, by what to call them; each runs until [`Desk::stop`].
    #[must_use]
    pub fn work(&self) -> Vec<(String, Box<dyn FnOnce() + Send>)> {
        let mut all: Vec<(String, Box<dyn FnOnce() + Send>)> = Vec::new();
        for number in 0..self.core.tapes.drives() {
            let core = Arc::clone(&self.core);
            let work = Box::new(move || drive::work(&core, number));
            all.push((format!("tape-{}", number + 1), work));
        }
        let core = Arc::clone(&self.core);
        all.push(("tape-eta".into(), Box::new(move || told::work(&core))));
        all
    }

    /// Drives of its library.
    #[must_use]
    pub fn drives(&self) -> usize {
        self.core.tapes.drives()
    }

    /// Nobody is called any more; the threads end when they have done what they are at.
    pub fn stop(&self) {
        let dropped = {
            let mut front = self.core.front.lock();
            front.stopped = true;
            self.core.ring(&mut front);
            std::mem::take(&mut front.asks)
        };
        drop(dropped);
        self.core.tapes.hurry();
    }

    /// Was it stopped? Then nothing more is written to its tier, but snapshots.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.core.front.lock().stopped
    }

    /// Where a part of an object lies, if it is worth asking for it here: its cartridge is in the
    /// library, and a drive works. Else a read says at once what is wrong.
    #[must_use]
    pub fn find(
        &self,
        object: crate::id::AggregateId,
        range: std::ops::Range<u64>,
    ) -> Option<Stretch> {
        let tapes = &self.core.tapes;
        let stretch = tapes.place(object, range)?;
        if !tapes.is_here(&stretch.cartridge) {
            self.core.is_absent(&stretch.cartridge);
            return None;
        }
        (tapes.working() > 0).then_some(stretch)
    }

    /// What passes before a byte of an object is under the head, if a drive turns to it at once; `None`: it is not
    /// to be had now. Who waits for the drives is not counted.
    #[must_use]
    pub fn reach(&self, object: crate::id::AggregateId, at: u64) -> Option<Duration> {
        let tapes = &self.core.tapes;
        let stretch = tapes.place(object, at..at.saturating_add(1))?;
        if tapes.working() == 0 || !tapes.is_here(&stretch.cartridge) {
            return None;
        }
        let Some(pace) = tapes.pace() else {
            return Some(Duration::ZERO);
        };
        let timing = tapes.timing(&stretch.cartridge)?;
        let is_loaded = tapes.loaded().contains(&stretch.cartridge);
        let ready = if is_loaded { 0.0 } else { timing.mount() };
        let seconds = (ready + timing.step(None, stretch.begin)) / pace;
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }

    /// Asks for a seat. Must be quick: does no I/O.
    pub fn ask(&self, wish: Wish, called: Called) -> JobId {
        let since = self.core.now();
        let mut front = self.core.front.lock();
        front.next += 1;
        let id = JobId(front.next);
        if front.stopped {
            return id;
        }
        let cartridge = wish.stretch.cartridge.clone();
        let urgency = wish.urgency;
        let ask = Ask {
            cartridge,
            urgency,
            since,
            called,
        };
        front.asks.insert(id, ask);
        front.news.push(News::Ask(Job {
            id,
            cartridge: wish.stretch.cartridge,
            begin: wish.stretch.begin,
            end: wish.stretch.end,
            bytes: wish.stretch.bytes,
            user: wish.user,
            urgency: wish.urgency,
            since,
        }));
        self.core.ring(&mut front);
        id
    }

    /// Nobody wants it any more; `true`: nobody will be called, `false`: somebody was, or is about to be.
    pub fn cancel(&self, id: JobId) -> bool {
        let ask = {
            let mut front = self.core.front.lock();
            let ask = front.asks.remove(&id);
            if ask.is_some() {
                front.news.push(News::Cancel(id));
                self.core.ring(&mut front);
            }
            ask
        };
        self.core.told.is_off(id);
        ask.is_some()
    }

    /// A reader came for it.
    pub fn raise(&self, id: JobId) {
        let mut front = self.core.front.lock();
        if let Some(ask) = front.asks.get_mut(&id) {
            ask.urgency = Urgency::Reader;
            front.news.push(News::Raise(id));
            self.core.ring(&mut front);
        }
    }

    /// Waits for a seat; `None`: it is read without, or `stop` said so, which is asked every now and then.
    pub fn seat(&self, wish: Wish, stop: &dyn Fn() -> bool) -> Option<Seat> {
        let (call, called) = crossbeam_channel::bounded(1);
        let id = self.ask(wish, Box::new(move |seat| drop(call.send(seat))));
        loop {
            match called.recv_timeout(Duration::from_millis(100)) {
                Ok(seat) => return seat,
                Err(crossbeam_channel::RecvTimeoutError::Disconnected) => return None,
                Err(crossbeam_channel::RecvTimeoutError::Timeout) => {}
            }
            if stop() && self.cancel(id) {
                return None;
            }
        }
    }

    /// What one who asked and waits may be told.
    #[must_use]
    pub fn told(&self, id: JobId) -> Option<Told> {
        self.core.told.of(id)
    }

    /// How many wait for a seat.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.core.front.lock().asks.len()
    }

    /// Cartridges that somebody asked for of late, and that are not in the library.
    #[must_use]
    pub fn absent(&self) -> Vec<Absent> {
        let asked: Vec<_> = {
            let front = self.core.front.lock();
            let lately = front
                .absent
                .iter()
                .filter(|(_, (_, at))| at.elapsed() < SHOWN);
            lately.map(|(c, (asked, _))| (c.clone(), *asked)).collect()
        };
        let (here, gone): (Vec<_>, Vec<_>) = asked
            .into_iter()
            .partition(|(cartridge, _)| self.core.tapes.is_here(cartridge));
        let mut front = self.core.front.lock();
        for (cartridge, _) in here {
            front.absent.remove(&cartridge);
        }
        drop(front);
        let absent = |(cartridge, asked)| Absent { cartridge, asked };
        gone.into_iter().map(absent).collect()
    }
}

impl Core {
    /// The library's time.
    fn now(&self) -> Moment {
        let since = self.begun.elapsed();
        self.pace.map_or(since, |pace| {
            Moment::try_from_secs_f64(since.as_secs_f64() * pace).unwrap_or(since)
        })
    }

    /// So much of the library's time, as it passes here; nothing where nobody waits for it.
    fn passing(&self, time: Duration) -> Duration {
        self.pace.map_or(Duration::ZERO, |pace| {
            Duration::try_from_secs_f64(time.as_secs_f64() / pace).unwrap_or(Duration::MAX)
        })
    }

    fn ring(&self, front: &mut Front) {
        front.rung += 1;
        self.bell.notify_all();
    }

    fn is_absent(&self, cartridge: &Cartridge) {
        let mut front = self.front.lock();
        let asked = front.absent.entry(cartridge.clone());
        let asked = asked.or_insert((0, Instant::now()));
        *asked = (asked.0 + 1, Instant::now());
    }

    /// Tells the queue what came meanwhile.
    fn hear(&self, work: &mut Work) {
        let news = std::mem::take(&mut self.front.lock().news);
        for news in news {
            match news {
                News::Ask(job) => {
                    work.queue.offer(job);
                }
                News::Cancel(id) => drop(work.queue.cancel(id)),
                News::Raise(id) => {
                    work.queue.raise(id);
                }
            }
        }
    }

    /// The order that costs least, by the times of the cartridge.
    fn order(&self, cartridge: &Cartridge, at: Option<u64>, jobs: &[Job<Cartridge>]) -> Vec<usize> {
        let Some(timing) = self.tapes.timing(cartridge) else {
            return (0..jobs.len()).collect();
        };
        order::order(jobs.len(), |from, to| {
            step(&*timing, from.map(|from| jobs[from].end).or(at), &jobs[to])
        })
    }
}

fn step(timing: &dyn Timing, from: Option<u64>, job: &Job<Cartridge>) -> f32 {
    timing.step(from, job.begin) as f32
}
