//! What a drive's thread does: it takes turns, and hands out the seats of each.

use super::{AHEAD, BESIDE, Core, Front, NO_PATIENCE, PATIENCE, SEATS, Seat, Sitter, Work};
use crate::hsm::tape::queue::{Job, Turn, Urgency};
use crate::tier::tapes::{Cartridge, Held, HoldError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a thread sleeps that hears nothing.
const REST: Duration = Duration::from_secs(1);
/// How soon it is looked again whether somebody is stuck.
const LOOK: Duration = Duration::from_millis(50);
/// Seats whose drive nobody has used for so long are forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// What becomes of a job in hand.
enum Room {
    /// It gets its seat.
    Free,
    /// It waits again: a reader came for the same cartridge.
    ReaderFirst,
    /// The drive is to be let go of.
    Leave,
}

/// A cartridge that this thread keeps in its drive.
type Kept = (Cartridge, Box<dyn Held>);

/// Takes turns until the desk is stopped.
pub(super) fn work(core: &Arc<Core>, own: usize) {
    let mut kept: Option<Kept> = None;
    loop {
        let heard = {
            let front = core.front.lock();
            if front.stopped {
                return;
            }
            front.rung
        };
        let step = || match core.turn(own) {
            Some(turn) => core.pass(own, &turn, kept.take()),
            None if kept.is_some() && core.is_left(own, kept.as_ref(), false) => None,
            None => {
                core.rest(heard, kept.is_some());
                kept.take()
            }
        };
        match catch_unwind(AssertUnwindSafe(step)) {
            Ok(left) => kept = left,
            Err(_) => {
                tracing::error!("a drive's thread panicked; it goes on");
                kept = None;
                core.give_back(own);
            }
        }
    }
}

impl Core {
    /// Looks for what comes next; this thread's own turn, if it has one.
    fn turn(self: &Arc<Self>, own: usize) -> Option<Turn<Cartridge>> {
        let (working, loaded) = (self.tapes.working(), self.tapes.loaded());
        let mut work = self.work.lock();
        self.hear(&mut work);
        if work.turns.get(own)?.is_none() {
            notice(&mut work, working, &loaded);
            let order = |c: &Cartridge, at, jobs: &[Job<Cartridge>]| self.order(c, at, jobs);
            let mut any = false;
            while let Some(turn) = work.queue.next(self.now(), &order) {
                let drive = turn.drive;
                work.busy[drive] = true;
                work.turns[drive] = Some(turn);
                any = true;
            }
            if any {
                self.ring(&mut self.front.lock());
            }
        }
        let own = work.turns.get_mut(own)?.take();
        drop(work);
        if working == 0 {
            // No drive will come to them: their reads say why.
            self.send_all_away(None);
        }
        own
    }

    /// Makes a pass; what it keeps at the end.
    fn pass(
        self: &Arc<Self>,
        own: usize,
        turn: &Turn<Cartridge>,
        kept: Option<Kept>,
    ) -> Option<Kept> {
        let kept = match kept {
            Some(kept) if kept.0 == turn.cartridge && kept.1.stands() => kept,
            other => {
                let late = || self.is_late(|cartridge| *cartridge == turn.cartridge);
                while other.is_some() && !self.is_left(own, other.as_ref(), late()) {
                    let heard = self.front.lock().rung;
                    self.rest(heard, true);
                }
                // Before another drive is waited for.
                drop(other);
                self.is_at(own, self.mount_time(turn));
                match self.tapes.hold(&turn.cartridge, turn.unload.as_ref()) {
                    Ok(held) => (turn.cartridge.clone(), held),
                    Err(why) => {
                        self.refuse(own, &turn.cartridge, &why);
                        return None;
                    }
                }
            }
        };
        // Seats of an earlier pass of this hold are seats of this one: others wait for them likewise.
        let (mut seated, mut back) = (self.has_seats(own), None);
        loop {
            let job = {
                let mut work = self.work.lock();
                self.hear(&mut work);
                let order = |c: &Cartridge, at, jobs: &[Job<Cartridge>]| self.order(c, at, jobs);
                let job = work.queue.step(own, self.now(), &order);
                if job.is_none() {
                    work.busy[own] = false;
                    work.until[own] = self.now();
                }
                job
            };
            let Some(job) = job else {
                return Some(kept);
            };
            // Where the pass is full no reader joins it: what was put back comes again, and has its turn.
            let again = back == Some(job.id);
            match self.room(own, &job, &*kept.1, (seated, again)) {
                Room::Free => {
                    self.is_at(own, self.read_time(own, &job));
                    seated |= self.call(own, &job);
                    back = None;
                }
                Room::ReaderFirst => {
                    back = Some(job.id);
                    self.put_back(&mut self.work.lock(), job);
                }
                Room::Leave => {
                    self.break_off(own, job);
                    let late = || self.is_late(|cartridge| *cartridge != kept.0);
                    while !self.is_left(own, Some(&kept), late()) {
                        let heard = self.front.lock().rung;
                        self.rest(heard, true);
                    }
                    return None;
                }
            }
        }
    }

    /// Waits until another may be seated, or should not be.
    fn room(
        &self,
        own: usize,
        job: &Job<Cartridge>,
        held: &dyn Held,
        (seated, again): (bool, bool),
    ) -> Room {
        loop {
            if !held.stands() || seated && (self.is_stuck(1) || self.gives_way(own, job)) {
                return Room::Leave;
            }
            let forgotten = held.unused() >= FORGOTTEN;
            let mut front = self.front.lock();
            if front.stopped {
                return Room::Leave;
            }
            let wanted = front.asks.contains_key(&job.id);
            if !wanted || self.fits(&front, own, job) {
                return Room::Free;
            }
            if forgotten {
                tracing::warn!(cartridge = %job.cartridge, "a seat at a drive that nobody uses is given to the next");
                front.seats.get_mut(own).into_iter().for_each(|s| s.clear());
                return Room::Free;
            }
            let other = job.urgency == Urgency::Work && !again;
            if other && self.has_reader(&front, own, &job.cartridge) {
                return Room::ReaderFirst;
            }
            self.bell.wait_for(&mut front, LOOK);
        }
    }

    /// Are seats of this drive out?
    fn has_seats(&self, own: usize) -> bool {
        let front = self.front.lock();
        front.seats.get(own).is_some_and(|seats| !seats.is_empty())
    }

    /// Is there a seat beside those that are out? A reader minds none but readers', if he wants little or is late.
    fn fits(&self, front: &Front, own: usize, job: &Job<Cartridge>) -> bool {
        let seats = front.seats.get(own).into_iter().flatten().map(|(_, s)| s);
        let long = job.end.saturating_sub(job.begin) > BESIDE;
        let reader = job.urgency == Urgency::Reader && (!long || self.has_waited(job.since));
        let (mut many, mut begin, mut end) = (0, job.begin, job.end);
        for sitter in seats.filter(|s| !reader || s.urgency == Urgency::Reader) {
            many += 1;
            (begin, end) = (begin.min(sitter.begin), end.max(sitter.end));
        }
        many == 0 || many < SEATS && end - begin <= AHEAD
    }

    /// Does a reader wait for this cartridge who would be seated where other work is not?
    fn has_reader(&self, front: &Front, own: usize, cartridge: &Cartridge) -> bool {
        let mut seats = front.seats.get(own).into_iter().flatten();
        let readers = |ask: &super::Ask| ask.urgency == Urgency::Reader;
        let mut asks = front.asks.values().filter(|a| readers(a));
        seats.all(|(_, s)| s.urgency == Urgency::Work) && asks.any(|a| a.cartridge == *cartridge)
    }

    /// Must other work that is in hand wait for a reader elsewhere?
    fn gives_way(&self, own: usize, job: &Job<Cartridge>) -> bool {
        if job.urgency == Urgency::Reader {
            return false;
        }
        let mut work = self.work.lock();
        self.hear(&mut work);
        work.queue.gives_way(own, self.now())
    }

    fn has_waited(&self, since: crate::hsm::tape::queue::Moment) -> bool {
        self.now().saturating_sub(since) >= self.late
    }

    /// Has a reader of one of these cartridges waited for too long?
    fn is_late(&self, of: impl Fn(&Cartridge) -> bool) -> bool {
        let front = self.front.lock();
        let mut readers = front.asks.values().filter(|ask| {
            ask.urgency == Urgency::Reader && of(&ask.cartridge) && self.has_waited(ask.since)
        });
        readers.next().is_some()
    }

    /// May the drive be let go of? Not while seats are out, unless somebody has waited for it for very
    /// long, or nobody uses it; nor, if a reader elsewhere is `late`, for other work.
    fn is_left(&self, own: usize, kept: Option<&Kept>, late: bool) -> bool {
        let stands = kept.is_some_and(|(_, held)| held.stands() && held.unused() < FORGOTTEN);
        let stuck = self.is_stuck(2);
        let mut front = self.front.lock();
        let gone = !stands || stuck || front.stopped;
        let Some(seats) = front.seats.get_mut(own) else {
            return true;
        };
        let work = seats.values().all(|s| s.urgency == Urgency::Work);
        if gone || late && work {
            seats.clear();
        }
        seats.is_empty()
    }

    /// Has somebody waited for a drive for so many times as long as is borne?
    fn is_stuck(&self, times: u32) -> bool {
        let bound = self.passing(PATIENCE).max(NO_PATIENCE) * times;
        self.tapes.stuck().is_some_and(|since| since >= bound)
    }

    /// The next one's turn; `false`: he took his wish back.
    fn call(self: &Arc<Self>, own: usize, job: &Job<Cartridge>) -> bool {
        let (called, seat) = {
            let mut front = self.front.lock();
            let Some(ask) = front.asks.remove(&job.id) else {
                return false;
            };
            front.next += 1;
            let number = front.next;
            if let Some(seats) = front.seats.get_mut(own) {
                let sitter = Sitter {
                    begin: job.begin,
                    end: job.end,
                    urgency: ask.urgency,
                };
                seats.insert(number, sitter);
            }
            let seat = Seat {
                core: Arc::clone(self),
                drive: own,
                number,
                job: job.id,
            };
            (ask.called, seat)
        };
        if catch_unwind(AssertUnwindSafe(|| called(Some(seat)))).is_err() {
            tracing::error!("whoever got a seat at a drive panicked");
        }
        true
    }

    /// The pass ends before its end: what is left waits as it did.
    fn break_off(&self, own: usize, in_hand: Job<Cartridge>) {
        self.put_back(&mut self.work.lock(), in_hand);
        self.give_back(own);
    }

    /// What was in hand waits again, as old as it was.
    fn put_back(&self, work: &mut Work, mut job: Job<Cartridge>) {
        self.hear(work);
        let urgency = self.front.lock().asks.get(&job.id).map(|ask| ask.urgency);
        if let Some(urgency) = urgency {
            // The queue did not know it when it was raised.
            job.urgency = urgency;
            work.queue.offer(job);
        }
    }

    /// The drive's turn is over, and it is empty as far as the queue goes.
    fn give_back(&self, own: usize) {
        let now = self.now();
        let mut work = self.work.lock();
        work.queue.drive_down(own);
        work.queue.drive_up(own);
        work.turns[own] = None;
        work.busy[own] = false;
        work.until[own] = now;
    }

    /// The cartridge cannot be had: the reads of those who wait for it say why.
    fn refuse(&self, own: usize, cartridge: &Cartridge, why: &HoldError) {
        tracing::warn!(%cartridge, %why, "a cartridge cannot be had");
        if let HoldError::Absent(cartridge) = why {
            self.is_absent(cartridge);
        }
        self.give_back(own);
        self.send_all_away(Some(cartridge));
    }

    /// All who wait (for one cartridge) are called without a seat.
    fn send_all_away(&self, cartridge: Option<&Cartridge>) {
        let mut asks = Vec::new();
        {
            let mut work = self.work.lock();
            self.hear(&mut work);
            let mut front = self.front.lock();
            let of = |ask: &super::Ask| cartridge.is_none_or(|c| *c == ask.cartridge);
            for (id, ask) in front.asks.extract_if(|_, ask| of(ask)) {
                drop(work.queue.cancel(id));
                self.told.is_off(id);
                asks.push(ask);
            }
        }
        for ask in asks {
            if catch_unwind(AssertUnwindSafe(|| (ask.called)(None))).is_err() {
                tracing::error!("whoever waited for a drive panicked");
            }
        }
    }

    /// Sleeps until something is heard, or becomes due.
    fn rest(&self, heard: u64, soon: bool) {
        let ripe = {
            let mut work = self.work.lock();
            self.hear(&mut work);
            let now = self.now();
            let ripe = work.queue.ripe_at(now);
            ripe.map(|ripe| self.passing(ripe.saturating_sub(now)))
        };
        let most = if soon { LOOK } else { REST };
        let least = Duration::from_millis(1);
        let until = Instant::now() + ripe.unwrap_or(most).clamp(least, most);
        let mut front = self.front.lock();
        while front.rung == heard && !front.stopped {
            if self.bell.wait_until(&mut front, until).timed_out() {
                return;
            }
        }
    }

    /// The drive will be at what it does for so long.
    fn is_at(&self, own: usize, seconds: f64) {
        let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        let now = self.now();
        let mut work = self.work.lock();
        if let Some(until) = work.until.get_mut(own) {
            *until = (*until).max(now) + time;
        }
    }

    fn mount_time(&self, turn: &Turn<Cartridge>) -> f64 {
        let timing = self.tapes.timing(&turn.cartridge);
        timing.filter(|_| turn.load).map_or(0.0, |t| t.mount())
    }

    fn read_time(&self, own: usize, job: &Job<Cartridge>) -> f64 {
        let seats_end = {
            let front = self.front.lock();
            let seats = front.seats.get(own).into_iter();
            seats.flat_map(|s| s.values()).map(|s| s.end).max()
        };
        let timing = self.tapes.timing(&job.cartridge);
        timing.map_or(0.0, |t| t.step(seats_end, job.begin) + t.read(job.bytes))
    }
}

/// Brings what the queue knows of drives that rest up to what is in them.
fn notice(work: &mut Work, working: usize, loaded: &[Cartridge]) {
    let Work { queue, busy, .. } = work;
    let resting: Vec<usize> = (0..busy.len()).filter(|d| !busy[*d]).collect();
    for drive in &resting {
        if *drive < working {
            queue.drive_up(*drive);
        } else {
            queue.drive_down(*drive);
        }
    }
    let known = |queue: &crate::hsm::tape::queue::Queue<Cartridge>| {
        let mounted = queue.mounted();
        mounted
            .map(Option::<&Cartridge>::cloned)
            .collect::<Vec<_>>()
    };
    let mounted = known(queue);
    for drive in &resting {
        let holds = mounted.get(*drive).and_then(Option::as_ref);
        if holds.is_some_and(|cartridge| !loaded.contains(cartridge)) {
            queue.found(*drive, None);
        }
    }
    let mounted = known(queue);
    let mut empty = resting
        .iter()
        .filter(|drive| **drive < working && mounted.get(**drive) == Some(&None));
    for cartridge in loaded {
        if mounted.iter().flatten().any(|known| known == cartridge) {
            continue;
        }
        let Some(drive) = empty.next() else { return };
        queue.found(*drive, Some(cartridge.clone()));
    }
}
