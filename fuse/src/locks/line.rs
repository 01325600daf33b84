//! Who waits for record locks of one node, and for whom of them it is worth asking the backing: it
//! tells nobody of locks that are given up, so it is asked again and again. No I/O, no clock.
//!
//! Invariants
//! 1. Nobody is tried for who is shut out by a lock that is known here.
//! 2. Nobody is tried for beside one who asks for no more: if that one is refused, so is it. Nor
//!    beside one who is being tried for and would shut it out.
//! 3. Who is not tried for is looked at again when anything ends that kept it from that.

use super::{Ask, Kind, Range, Ticket};
use std::time::Duration;

/// How long somebody waits until its lock is tried again, at first and at most. A hundred who wait
/// long for different locks ask a network's server some three hundred times a second.
const FIRST_STEP: Duration = Duration::from_millis(5);
const LONGEST_STEP: Duration = Duration::from_millis(320);

/// What is known of the locks of a node.
pub(super) trait Held {
    /// Is another's lock in its way?
    fn shut_out(&self, ask: &Ask) -> bool;
    /// Is it known of all locks that were taken here what they are?
    fn all_known(&self) -> bool;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Somebody tries for it.
    Tried,
    /// It is tried for when that turn of the clock comes.
    Due(u64),
    /// When something changes here.
    Behind,
}

struct Waiter {
    ticket: Ticket,
    ask: Ask,
    state: State,
    step: Duration,
}

impl Waiter {
    /// Need that one not be tried for because of this one?
    fn stands_before(&self, ask: &Ask, all_known: bool) -> bool {
        if self.state == State::Behind {
            return false;
        }
        let would_shut_out = self.state == State::Tried
            && self.ask.owner != ask.owner
            && self
                .ask
                .kind
                .is_some_and(|kind| ask.conflicts(kind, self.ask.range));
        // An unknown lock may be that one's own, and in the way of this one alone.
        let asks_no_more = all_known
            && self.ask.range.lies_within(ask.range)
            && (self.ask.kind == Some(Kind::Read) || ask.kind == Some(Kind::Write));
        would_shut_out || asks_no_more
    }
}

/// What follows when somebody did not get its lock.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Refused {
    /// After what time it is to be tried for, if not before, and the number of that turn.
    pub(crate) again: Option<(Duration, u64)>,
    /// Who is to be tried for now.
    pub(crate) next: Vec<(Ticket, Ask)>,
}

/// Those who wait, in the order in which they came.
#[derive(Default)]
pub(super) struct Line {
    waiters: Vec<Waiter>,
    turns: u64,
}

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    fn place(&self, ticket: Ticket) -> Option<usize> {
        self.waiters.iter().position(|one| one.ticket == ticket)
    }

    /// It is being tried for.
    pub(super) fn enter(&mut self, ticket: Ticket, ask: Ask) {
        self.waiters.push(Waiter {
            ticket,
            ask,
            state: State::Tried,
            step: FIRST_STEP,
        });
    }

    /// May it be tried for, as far as is known?
    fn is_free(&self, at: usize, held: &impl Held, all_known: bool) -> bool {
        let ask = &self.waiters[at].ask;
        let mut others = self.waiters.iter().enumerate();
        !held.shut_out(ask) && !others.any(|(i, w)| i != at && w.stands_before(ask, all_known))
    }

    pub(super) fn refused(&mut self, ticket: Ticket, held: &impl Held) -> Refused {
        let Some(at) = self.place(ticket) else {
            return Refused::default();
        };
        let free = self.is_free(at, held, held.all_known());
        let one = &mut self.waiters[at];
        let range = one.ask.range;
        let mut again = None;
        one.state = State::Behind;
        if free {
            self.turns += 1;
            one.state = State::Due(self.turns);
            again = Some((one.step, self.turns));
            one.step = (one.step * 2).min(LONGEST_STEP);
        }
        let next = self.next(range, held, false);
        Refused { again, next }
    }

    pub(super) fn due(
        &mut self,
        ticket: Ticket,
        turn: u64,
        held: &impl Held,
    ) -> Vec<(Ticket, Ask)> {
        let Some(at) = self.place(ticket) else {
            return Vec::new();
        };
        let one = &mut self.waiters[at];
        if one.state != State::Due(turn) {
            return Vec::new();
        }
        one.state = State::Behind;
        let range = one.ask.range;
        if self.is_free(at, held, held.all_known()) {
            let one = &mut self.waiters[at];
            one.state = State::Tried;
            return vec![(ticket, one.ask)];
        }
        self.next(range, held, false)
    }

    pub(super) fn left(&mut self, ticket: Ticket, held: &impl Held) -> Vec<(Ticket, Ask)> {
        let Some(at) = self.place(ticket) else {
            return Vec::new();
        };
        let range = self.waiters.remove(at).ask.range;
        self.next(range, held, false)
    }

    pub(super) fn freed(&mut self, range: Range, held: &impl Held) -> Vec<(Ticket, Ask)> {
        self.next(range, held, true)
    }

    /// Who is to be tried for after a change within that range.
    fn next(&mut self, range: Range, held: &impl Held, freed: bool) -> Vec<(Ticket, Ask)> {
        let all_known = held.all_known();
        let mut next = Vec::new();
        for at in 0..self.waiters.len() {
            let one = &self.waiters[at];
            let may = match one.state {
                State::Tried => false,
                State::Due(_) => freed,
                State::Behind => true,
            };
            let concerned = may && one.ask.range.overlaps(range);
            if !concerned || !self.is_free(at, held, all_known) {
                continue;
            }
            let one = &mut self.waiters[at];
            one.state = State::Tried;
            if freed {
                // Where locks go from hand to hand here, the next one comes soon.
                one.step = FIRST_STEP;
            }
            next.push((one.ticket, one.ask));
        }
        next
    }
}

#[cfg(test)]
#[path = "line/tests.rs"]
mod tests;
