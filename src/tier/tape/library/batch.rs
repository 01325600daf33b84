//! Objects that wait for a cartridge of one pool, and which of their writers writes them: who leads takes all that
//! waits, as far as it goes together, and the others get their results from him.
//!
//! While a drive is busy, or is waited for, the next ones gather; so one that comes alone is written at once, and the
//! busier the library, the more are written together. An age makes the first wait for company.
//!
//! Invariants kept here:
//! - Every object that waits has its writer waiting for it, and whoever waits for one that nobody has taken up leads
//!   when it is due: so none waits for ever.
//! - Whoever leads gives every object in his hands a result or puts it back, whatever happens to him: an object is in
//!   the line, in his hands, or has its result, at every moment.
//! - An object that nobody wants any more leaves the line, unless somebody has taken it up.
//! - At a stop nothing more is taken up but snapshots: all others that wait are told so, at once.
//! - Who came first is taken up first.
//! - As many lead at once as there are drives. While one of them still gathers, another begins only if more waits
//!   than goes together.

use super::LibraryError;
use crate::id::AggregateId;
use crate::tier::Proof;
use crate::tier::tape::front::Front;
use crate::tier::tape::label::Barcode;
use crate::tier::tape::options::Together;
use cairn_mover::Crc32c;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::time::{Duration, Instant};

/// How often one who waits asks whether he still should.
const ASKED: Duration = Duration::from_millis(250);

/// An object that is to be written.
pub(super) struct Job {
    ticket: u64,
    /// Since when it waits for company; `None`: it does not any more.
    since: Option<Instant>,
    pub(super) name: AggregateId,
    pub(super) front: Front,
    pub(super) sum: Crc32c,
    /// Cartridges that it could not be written to.
    pub(super) tried: BTreeSet<Barcode>,
    /// Why, if that was an error.
    pub(super) last: Option<LibraryError>,
    /// A drive died over it: what it left is there, perhaps the whole file.
    pub(super) again: Option<Barcode>,
    /// Cartridges at which a drive lost its place over it.
    pub(super) lost: BTreeSet<Barcode>,
    /// It was among others when they failed: now it is seen what it does by itself.
    pub(super) alone: bool,
}

type Written = Result<Proof, LibraryError>;

#[derive(Default)]
struct Line {
    waiting: VecDeque<Job>,
    /// Results that nobody has fetched.
    ended: BTreeMap<u64, Written>,
    leaders: usize,
    /// Of these, those that have not taken up company yet.
    gathering: usize,
    last: u64,
    /// The process stops.
    hurried: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct Batches {
    line: Mutex<Line>,
    changed: Condvar,
}

/// When the writer of an object that waits leads.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    Now,
    At(Instant),
    /// Somebody tells him.
    Later,
}

/// What comes to a writer.
pub(super) enum Turn<'b> {
    /// His object's result.
    Ended(Written),
    /// He leads.
    Lead(Lead<'b>),
}

impl Line {
    /// Where an object waits that is not taken up any more.
    fn dropped(&self, ticket: u64) -> Option<usize> {
        let dropped = |job: &Job| job.ticket == ticket && !job.name.is_snapshot();
        let at = self.waiting.iter().position(dropped);
        at.filter(|_| self.hurried)
    }

    /// Takes one out of the line that nobody has taken up.
    fn take(&mut self, ticket: u64) -> bool {
        let count = self.waiting.len();
        self.waiting.retain(|job| job.ticket != ticket);
        self.waiting.len() < count
    }

    /// Where the one waits that is taken up next: at a stop the others' writers have not been told yet.
    fn first(&self) -> usize {
        let taken_up = |job: &Job| !self.hurried || job.name.is_snapshot();
        self.waiting.iter().position(taken_up).unwrap_or(0)
    }

    fn due(&self, ticket: u64, together: &Together, drives: usize) -> Due {
        if self.leaders >= drives.max(1) || !self.waiting.iter().any(|job| job.ticket == ticket) {
            return Due::Later;
        }
        let bytes: u64 = self.waiting.iter().map(|job| job.front.len()).sum();
        // Enough for so many to take up.
        let is_full = |leaders: usize| {
            self.waiting.len() >= leaders.saturating_mul(together.files as usize)
                || bytes >= together.bytes.saturating_mul(leaders as u64)
        };
        if self.gathering > 0 {
            return if is_full(self.gathering) {
                Due::Now
            } else {
                Due::Later
            };
        }
        // One that waits for nobody takes all with it.
        let patient = self.waiting.iter().all(|job| job.since.is_some());
        let first = self.waiting.front().and_then(|job| job.since);
        match first
            .filter(|_| patient)
            .and_then(|since| since.checked_add(together.age))
        {
            Some(when) if !self.hurried && !is_full(1) && Instant::now() < when => Due::At(when),
            _ => Due::Now,
        }
    }
}

impl Batches {
    /// An object comes, and waits for company if it `may`; gives its number.
    pub(super) fn join(&self, name: AggregateId, front: Front, sum: Crc32c, may: bool) -> u64 {
        let mut line = self.line.lock();
        line.last += 1;
        let ticket = line.last;
        line.waiting.push_back(Job {
            ticket,
            since: may.then(Instant::now),
            name,
            front,
            sum,
            tried: BTreeSet::new(),
            last: None,
            again: None,
            lost: BTreeSet::new(),
            alone: false,
        });
        ticket
    }

    /// Waits until the object of that number has its result, or its writer leads. Until somebody takes it up,
    /// `unwanted` is asked now and then whether it may leave the line.
    pub(super) fn turn(
        &self,
        ticket: u64,
        together: &Together,
        drives: usize,
        unwanted: &dyn Fn() -> bool,
    ) -> Turn<'_> {
        let mut line = self.line.lock();
        let mut asked = Instant::now();
        loop {
            if asked.elapsed() >= ASKED {
                // Whoever answers may hold locks of his own.
                let unwanted = MutexGuard::unlocked(&mut line, unwanted);
                asked = Instant::now();
                if unwanted && line.take(ticket) {
                    return Turn::Ended(Err(LibraryError::Unwanted));
                }
            }
            if let Some(written) = line.ended.remove(&ticket) {
                return Turn::Ended(written);
            }
            if let Some(at) = line.dropped(ticket) {
                line.waiting.remove(at);
                return Turn::Ended(Err(LibraryError::Stopping));
            }
            match line.due(ticket, together, drives) {
                Due::Now => {
                    line.leaders += 1;
                    line.gathering += 1;
                    // They have had their company, whether they are taken up with the first or not.
                    line.waiting.iter_mut().for_each(|job| job.since = None);
                    let first = line.first();
                    return Turn::Lead(Lead {
                        batches: self,
                        gathers: true,
                        jobs: line.waiting.remove(first).into_iter().collect(),
                    });
                }
                Due::At(when) => {
                    let when = when.min(asked + ASKED);
                    self.changed.wait_until(&mut line, when);
                }
                Due::Later => {
                    self.changed.wait_until(&mut line, asked + ASKED);
                }
            }
        }
    }

    /// Whose writer is gone is none of these any more, when nobody has it in his hands.
    pub(super) fn leave(&self, ticket: u64) {
        let mut line = self.line.lock();
        while !line.take(ticket) && line.ended.remove(&ticket).is_none() {
            self.changed.wait(&mut line);
        }
    }

    /// Does the process stop?
    pub(super) fn is_hurried(&self) -> bool {
        self.line.lock().hurried
    }

    /// From now on nothing is taken up but snapshots.
    pub(super) fn hurry(&self) {
        self.line.lock().hurried = true;
        self.changed.notify_all();
    }

    /// Objects that nobody has taken up.
    pub(super) fn waiting(&self) -> usize {
        self.line.lock().waiting.len()
    }
}

/// What one who leads has in his hands: the first, and then its company.
pub(super) struct Lead<'b> {
    batches: &'b Batches,
    gathers: bool,
    jobs: VecDeque<Job>,
}

impl Lead<'_> {
    /// In the order in which they came.
    pub(super) fn jobs(&self) -> &VecDeque<Job> {
        &self.jobs
    }

    /// The same, to be changed.
    pub(super) fn jobs_mut(&mut self) -> &mut VecDeque<Job> {
        &mut self.jobs
    }

    /// The first of them.
    pub(super) fn first(&mut self) -> Option<&mut Job> {
        self.jobs.front_mut()
    }

    /// Takes up those that wait and that `goes` takes, each asked once, in their order.
    pub(super) fn gather(&mut self, mut goes: impl FnMut(&Job) -> bool) {
        let mut line = self.batches.line.lock();
        let mut at = 0;
        while let Some(job) = line.waiting.get(at) {
            if goes(job) {
                self.jobs.extend(line.waiting.remove(at));
            } else {
                at += 1;
            }
        }
        if std::mem::take(&mut self.gathers) {
            line.gathering -= 1;
        }
        drop(line);
        self.batches.changed.notify_all();
    }

    /// Gives results to those that `written` has one for; the others stay in hand.
    pub(super) fn end(&mut self, mut written: impl FnMut(&mut Job) -> Option<Written>) {
        let mut line = self.batches.line.lock();
        let mut at = 0;
        while let Some(job) = self.jobs.get_mut(at) {
            let (ticket, written) = (job.ticket, written(job));
            match written {
                Some(written) => {
                    self.jobs.remove(at);
                    line.ended.insert(ticket, written);
                }
                None => at += 1,
            }
        }
        drop(line);
        self.batches.changed.notify_all();
    }

    /// A drive lost its place over them: they wait again. Each is tried once more on the same cartridge, after its label
    /// was read; one to whom that happened there before goes to another, by itself, since it may be why.
    pub(super) fn lost(mut self, barcode: Barcode, mut why: impl FnMut() -> LibraryError) {
        self.put_back(|job| {
            if job.lost.insert(barcode) {
                job.again = Some(barcode);
                return;
            }
            job.tried.insert(barcode);
            (job.again, job.alone, job.last) = (None, true, Some(why()));
        });
    }

    /// Those in hand wait again, before all others, after `change` was made to each; they are due.
    pub(super) fn put_back(&mut self, mut change: impl FnMut(&mut Job)) {
        let mut line = self.batches.line.lock();
        while let Some(job) = self.jobs.back_mut() {
            change(job);
            job.since = None;
            if let Some(job) = self.jobs.pop_back() {
                line.waiting.push_front(job);
            }
        }
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut line = self.batches.line.lock();
        line.leaders -= 1;
        if self.gathers {
            line.gathering -= 1;
        }
        for job in self.jobs.drain(..) {
            let why = io::Error::other("whoever wrote it, and others with it, gave up");
            let error = LibraryError::io("writing to tape", why);
            line.ended.insert(job.ticket, Err(error));
        }
        drop(line);
        self.batches.changed.notify_all();
    }
}

#[cfg(test)]
mod tests;
