//! One queue for everything that is to be read from cartridges: which drive turns to which cartridge, and
//! what it reads there. A state machine without I/O and without a clock.
//!
//! Work is kept by cartridge. A cartridge is mounted when that is worth it (files, bytes, or age), or when a
//! reader has waited for a moment; a drive that has one makes a *pass*: a bounded set of reads in the order that costs
//! least, readers before other work, which reads that arrive meanwhile join as long as the bound allows. Then the
//! drive is free for whatever comes first: what has waited too long, cartridges with readers, users who had
//! least. A pass of other work ends early for a reader who has waited too long while no drive was free.
//!
//! # Invariants (asserted by property tests after every event)
//! 1. A job is handed out once, or handed back by [`Queue::cancel`] or [`Queue::drive_down`], and never lost.
//! 2. No cartridge is in two drives.
//! 3. A pass is no longer than its bound, whatever arrives.
//! 4. Nobody starves: once a job has waited for [`Rules::overdue`], a drive that could turn to its cartridge (which
//!    is not away, nor in a drive that is amid a pass) begins no pass but for jobs that are older, each of
//!    which then has its own; and a pass is not ended early while such a job is in it.

mod choice;
mod pass;
mod shelf;
#[cfg(test)]
mod tests;

use pass::Pass;
use shelf::{Key, Shelf};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// Time since an origin that the caller keeps: a monotonic clock's, or a simulation's.
pub type Moment = Duration;

/// A job's number, the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// For whom it is, as far as the order of work goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// Somebody's read waits.
    Reader,
    /// Stages, verification, repack.
    Work,
}

/// A stretch of one cartridge that is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job<C> {
    /// Its number; no other job of the queue may have it.
    pub id: JobId,
    /// Where it lies.
    pub cartridge: C,
    /// Its first block there.
    pub begin: u64,
    /// The block behind its last one.
    pub end: u64,
    /// Bytes to be read.
    pub bytes: u64,
    /// For whom.
    pub user: u32,
    /// How urgently.
    pub urgency: Urgency,
    /// When it was asked for.
    pub since: Moment,
}

/// When a cartridge is worth its mount, and what one pass may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// A reader who has waited this long has the cartridge mounted.
    pub reader_after: Duration,
    /// So do this many jobs,
    pub files: usize,
    /// or this many bytes,
    pub bytes: u64,
    /// or a job that has waited this long.
    pub age: Duration,
    /// Most jobs of one pass; at least 1.
    pub pass_jobs: usize,
    /// Bytes after which a pass takes no more jobs.
    pub pass_bytes: u64,
    /// A reader who has waited this long goes before everything but what is overdue, and ends passes of other
    /// work.
    pub reader_late: Duration,
    /// What has waited this long goes before everything that came later.
    pub overdue: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            reader_after: Duration::from_secs(2),
            files: 100,
            bytes: 50 << 30,
            age: Duration::from_secs(15 * 60),
            pass_jobs: 2000,
            pass_bytes: 500 << 30,
            reader_late: Duration::from_secs(5 * 60),
            overdue: Duration::from_secs(60 * 60),
        }
    }
}

/// What a drive is to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn<C> {
    /// Which drive, by its place in the queue's list.
    pub drive: usize,
    /// The cartridge of the pass that begins.
    pub cartridge: C,
    /// What has to leave the drive first.
    pub unload: Option<C>,
    /// It is not in the drive yet.
    pub load: bool,
}

/// In which order to make reads on a cartridge, given the block at which the head stands (`None`: at the
/// beginning of the tape): indexes into the slice. See [`order`](super::order).
pub type Order<'a, C> = &'a dyn Fn(&C, Option<u64>, &[Job<C>]) -> Vec<usize>;

#[derive(Debug, Clone)]
struct Drive<C> {
    up: bool,
    mounted: Option<C>,
    /// The block behind the last that it read of what is mounted.
    at: Option<u64>,
    pass: Option<Pass<C>>,
    /// Passes that it has made: who rested longest is taken first.
    passes: u64,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Queue<C> {
    rules: Rules,
    /// What no pass has taken yet.
    waiting: BTreeMap<C, Shelf<C>>,
    drives: Vec<Drive<C>>,
    /// Where each job is that is not handed out.
    known: HashMap<JobId, (C, Key)>,
    /// Of each user, how many those are.
    users: BTreeMap<u32, usize>,
    /// Cartridges that nobody can mount now.
    away: BTreeSet<C>,
    /// Bytes that each user was served, in this queue's own counting.
    served: BTreeMap<u32, u64>,
}

/// What a mount costs in the counting of what users were served: bytes that a drive reads meanwhile.
const MOUNT_BYTES: u64 = 30 << 30;

impl<C: Clone + Ord> Queue<C> {
    /// An empty queue for so many drives, which hold nothing.
    #[must_use]
    pub fn new(rules: Rules, drives: usize) -> Self {
        let drive = Drive {
            up: true,
            mounted: None,
            at: None,
            pass: None,
            passes: 0,
        };
        Self {
            rules,
            waiting: BTreeMap::new(),
            drives: vec![drive; drives],
            known: HashMap::new(),
            users: BTreeMap::new(),
            away: BTreeSet::new(),
            served: BTreeMap::new(),
        }
    }

    /// A job arrives; `false`: one of its number is here already.
    pub fn offer(&mut self, job: Job<C>) -> bool {
        if self.known.contains_key(&job.id) {
            return false;
        }
        let place = (job.cartridge.clone(), (job.since, job.id));
        self.known.insert(job.id, place);
        // Who was away comes back level with whoever had least, and has nothing saved up.
        if !self.users.contains_key(&job.user) {
            let present = self.users.keys().filter_map(|user| self.served.get(user));
            let least = present.min().copied().unwrap_or(0);
            let served = self.served.entry(job.user).or_default();
            *served = (*served).max(least);
        }
        *self.users.entry(job.user).or_default() += 1;
        self.shelve(job);
        true
    }

    fn shelve(&mut self, job: Job<C>) {
        let shelf = self.waiting.entry(job.cartridge.clone()).or_default();
        shelf.insert(job);
    }

    /// It is no longer here.
    fn forget(&mut self, job: &Job<C>) {
        self.known.remove(&job.id);
        if let Some(jobs) = self.users.get_mut(&job.user) {
            *jobs -= 1;
            if *jobs == 0 {
                self.users.remove(&job.user);
            }
        }
        // What nobody is here to be compared with need not be remembered.
        if self.users.is_empty() {
            self.served.clear();
        }
    }

    /// Nobody wants it any more; `None`: it is not here, or handed out.
    pub fn cancel(&mut self, id: JobId) -> Option<Job<C>> {
        let (cartridge, key) = self.known.get(&id)?.clone();
        let shelf = self.waiting.get_mut(&cartridge);
        let waits = shelf.and_then(|shelf| shelf.remove(key));
        let job = waits.or_else(|| {
            let mut passes = self.drives.iter_mut().filter_map(|d| d.pass.as_mut());
            passes.find_map(|pass| pass.cancel(id))
        })?;
        self.tidy(&cartridge);
        self.forget(&job);
        Some(job)
    }

    fn tidy(&mut self, cartridge: &C) {
        if self.waiting.get(cartridge).is_some_and(Shelf::is_empty) {
            self.waiting.remove(cartridge);
        }
    }

    /// The next pass that a free drive is to begin, if one is worth it now.
    pub fn next(&mut self, now: Moment, order: Order<'_, C>) -> Option<Turn<C>> {
        let (cartridge, at) = self.choose(now)?;
        let shelf = self.waiting.get_mut(&cartridge)?;
        let mut pass = Pass::of(shelf, &self.rules);
        let payer = pass.payer();
        let drive = &mut self.drives[at];
        let load = drive.mounted.as_ref() != Some(&cartridge);
        let unload = drive.mounted.take().filter(|_| load);
        if load {
            drive.at = None;
        }
        drive.mounted = Some(cartridge.clone());
        drive.passes += 1;
        pass.sort(&cartridge, drive.at, order, true);
        drive.pass = Some(pass);
        self.tidy(&cartridge);
        if let (true, Some(user)) = (load, payer) {
            *self.served.entry(user).or_default() += MOUNT_BYTES;
        }
        Some(Turn {
            drive: at,
            cartridge,
            unload,
            load,
        })
    }

    /// The next read of a drive's pass; `None`: the pass is over, and the drive is free.
    pub fn step(&mut self, drive: usize, now: Moment, order: Order<'_, C>) -> Option<Job<C>> {
        let at = self.drives.get(drive)?.at;
        let cartridge = self.drives[drive].mounted.clone()?;
        let gives_way = self.gives_way(drive, now);
        let pass = self.drives[drive].pass.as_mut()?;
        // Arrivals for what is mounted join: readers at once, others when they are many enough for what is left to be
        // ordered anew.
        if let Some(shelf) = self.waiting.get_mut(&cartridge)
            && !gives_way
        {
            let (readers, work) = pass.join(shelf, &self.rules);
            if readers || work {
                pass.sort(&cartridge, at, order, work);
            }
        }
        let next = if gives_way { None } else { pass.take() };
        self.tidy(&cartridge);
        let Some(job) = next else {
            let left = self.drives[drive].pass.take();
            left.into_iter()
                .flat_map(Pass::into_jobs)
                .for_each(|job| self.shelve(job));
            return None;
        };
        self.drives[drive].at = Some(job.end);
        self.forget(&job);
        *self.served.entry(job.user).or_default() += job.bytes;
        Some(job)
    }

    /// A drive gives up: what its pass had not handed out waits again, as old as it was.
    pub fn drive_down(&mut self, drive: usize) {
        let Some(drive) = self.drives.get_mut(drive) else {
            return;
        };
        drive.up = false;
        (drive.mounted, drive.at) = (None, None);
        let left = drive.pass.take();
        left.into_iter()
            .flat_map(Pass::into_jobs)
            .for_each(|job| self.shelve(job));
    }

    /// A reader came for what was queued as other work; `false`: it is not here, or handed out.
    pub fn raise(&mut self, id: JobId) -> bool {
        let Some((cartridge, key)) = self.known.get(&id).cloned() else {
            return false;
        };
        let shelf = self.waiting.get_mut(&cartridge);
        if let Some(mut job) = shelf.and_then(|shelf| shelf.remove(key)) {
            job.urgency = Urgency::Reader;
            self.shelve(job);
            return true;
        }
        let mut passes = self.drives.iter_mut().filter_map(|d| d.pass.as_mut());
        passes.any(|pass| pass.raise(id))
    }

    /// What a drive holds that makes no pass: others use it, too. The caller sees to it that no
    /// cartridge is in two.
    pub fn found(&mut self, drive: usize, cartridge: Option<C>) {
        let drive = self.drives.get_mut(drive).filter(|d| d.pass.is_none());
        if let Some(drive) = drive.filter(|d| d.mounted != cartridge) {
            (drive.mounted, drive.at) = (cartridge, None);
        }
    }

    /// It works again; it is empty.
    pub fn drive_up(&mut self, drive: usize) {
        if let Some(drive) = self.drives.get_mut(drive) {
            drive.up = true;
        }
    }

    /// A cartridge was taken away: its jobs wait until it is back, and no drive turns to it. Of a job that is
    /// handed out, whoever has it must see to it.
    pub fn away(&mut self, cartridge: C) {
        for drive in 0..self.drives.len() {
            if self.drives[drive].mounted.as_ref() == Some(&cartridge) {
                self.drive_down(drive);
                self.drive_up(drive);
            }
        }
        self.away.insert(cartridge);
    }

    /// It is back.
    pub fn back(&mut self, cartridge: &C) {
        self.away.remove(cartridge);
    }

    /// Jobs that wait or are in a pass.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Cartridges that are asked for and away, with how many jobs wait for each: an operator has to
    /// bring them.
    pub fn wanted(&self) -> impl Iterator<Item = (&C, usize)> {
        let missing = self.waiting.iter().filter(|(c, _)| self.away.contains(*c));
        missing.map(|(cartridge, shelf)| (cartridge, shelf.len()))
    }

    /// What each drive holds.
    pub fn mounted(&self) -> impl Iterator<Item = Option<&C>> {
        self.drives.iter().map(|drive| drive.mounted.as_ref())
    }

    /// Which drives are amid a pass.
    #[must_use]
    pub fn in_pass(&self) -> Vec<bool> {
        self.drives.iter().map(|d| d.pass.is_some()).collect()
    }

    /// Behind which block each drive's head stands; `None`: at the beginning, or nothing is mounted.
    #[must_use]
    pub fn heads(&self) -> Vec<Option<u64>> {
        self.drives.iter().map(|drive| drive.at).collect()
    }

    /// Jobs that a drive's pass has still to hand out, in that order.
    pub fn ahead(&self, drive: usize) -> impl Iterator<Item = &Job<C>> {
        let pass = self.drives.get(drive).and_then(|d| d.pass.as_ref());
        pass.into_iter().flat_map(Pass::rest)
    }
}
