//! Recalls of what lies on tape wait at the desk of their tier until it is their turn. (Those of what must be restored
//! wait likewise, elsewhere: `thaw`.)
//!
//! Invariants:
//! - A recall that is parked has changed nothing, holds no descriptor, and counts against nobody: all
//!   that is asked for is seen by the desk's queue.
//! - When it is called it begins again from the start, with its seat; it is called for the last time
//!   that it asked, and for no earlier one.
//! - Its seat is given back when nothing more is to be read from tape, however it ends. Nothing waits
//!   for a seat but a parked recall: without one it is read all the same, when its tier comes to it.

use super::Asks;
use super::one::{Opened, Phase, Recall, State, Wait, Waiter};
use super::table::Shared;
use crate::format::record::{CopyHint, Record};
use crate::hsm::tape::desk::{Desk, Seat, Told, Wish};
use crate::hsm::tape::queue::{JobId, Urgency};
use crate::id::{AggregateId, NodeHandle};
use crate::tier::tapes::Stretch;
use std::ops::Range;
use std::sync::Arc;

/// What is read before a member's data, where its index is not at hand, bytes.
const HEADERS: u64 = 4096;

/// Where a recall waits.
pub(super) enum Parked {
    /// At a desk, for a drive.
    Desk { desk: Arc<Desk>, job: JobId },
    /// For an object to be restored ([`super::thaw`]).
    Restore(super::thaw::Key),
    /// For a tier to come back, a moment.
    Grace,
}

impl Parked {
    /// A reader came.
    pub(super) fn raise(&self) {
        match self {
            Self::Desk { desk, job } => desk.raise(*job),
            // It comes as soon as it comes.
            Self::Restore(_) | Self::Grace => {}
        }
    }

    /// Nobody waits any more. Who is called all the same is found to have asked before.
    pub(super) fn leave(self) {
        match self {
            Self::Desk { desk, job } => {
                desk.cancel(job);
            }
            Self::Restore(_) | Self::Grace => {}
        }
    }
}

/// Parks a recall that has no seat and is to read from tape; `false`: it goes on at once. With no lock
/// held.
pub(super) fn park(shared: &Arc<Shared>, recall: &Arc<Recall>, opened: &Opened) -> bool {
    let offset = {
        let state = recall.state.lock();
        if state.phase != Phase::Beginning || state.seat.is_some() || state.called {
            return false;
        }
        state.first_wanted()
    };
    let Some((desk, stretch, object, copy)) = find(shared, opened, offset) else {
        return false;
    };
    let next = {
        let mut table = shared.table.lock();
        let mut state = recall.state.lock();
        if state.phase != Phase::Beginning {
            // Whoever ended it meanwhile saw to those who wait.
            return true;
        }
        state.asked += 1;
        (state.seat_of, state.turn_of) = (Some(object), Some(copy));
        let asked = state.asked;
        let waiters = state.waiters.values();
        let reader = waiters.clone().find(|w| w.wait.is_implicit());
        let first = reader.or_else(|| waiters.min_by_key(|w| w.token));
        let wish = Wish {
            stretch,
            user: first.map_or(0, |w| w.user),
            urgency: match reader {
                Some(_) => Urgency::Reader,
                None => Urgency::Work,
            },
        };
        let (shared, same) = (Arc::downgrade(shared), Arc::downgrade(recall));
        let called = Box::new(move |seat| {
            if let (Some(shared), Some(recall)) = (shared.upgrade(), same.upgrade()) {
                call(&shared, &recall, asked, seat);
            }
        });
        let job = desk.ask(wish, called);
        state.parked = Some(Parked::Desk { desk, job });
        state.phase = Phase::Parked;
        let admitted = std::mem::take(&mut state.admitted);
        let charge = state.charge;
        drop(state);
        if admitted {
            table.uncharge(charge);
        }
        charge
    };
    if let Some(next) = shared.next_in_line(next) {
        shared.begin(&next);
    }
    true
}

/// It is its turn: it begins again.
fn call(shared: &Arc<Shared>, recall: &Arc<Recall>, asked: u64, seat: Option<Seat>) {
    {
        let mut table = shared.table.lock();
        let mut state = recall.state.lock();
        if state.phase != Phase::Parked || state.asked != asked {
            return;
        }
        state.parked = None;
        // Without a seat it does not ask again: the read says what is wrong.
        (state.seat, state.called) = (seat, true);
        // Not refused for want of room among those that run: a drive waits.
        table.charge(&mut state);
    }
    shared.begin(recall);
}

/// The first copy that lies on a cartridge which can be had, if no copy elsewhere comes before.
fn find(
    shared: &Shared,
    opened: &Opened,
    offset: u64,
) -> Option<(Arc<Desk>, Stretch, AggregateId, AggregateId)> {
    let record = &opened.record;
    let asks: &dyn Asks = &*shared.asks;
    let unnamed = std::iter::once_with(|| super::source::unnamed(record, asks)).flatten();
    for copy in opened.copies.iter().copied().chain(unnamed) {
        let desk = asks.desk(copy.tier)?;
        let (object, range) = range(shared, &copy, record, offset)?;
        if let Some(stretch) = desk.find(object, range) {
            return Some((desk, stretch, object, copy.aggregate));
        }
    }
    None
}

/// What will be read of which object; `None`: nothing. Of a file in parts: of that which has what is wanted
/// first, at `offset` of the file.
fn range(
    shared: &Shared,
    copy: &CopyHint,
    record: &Record,
    offset: u64,
) -> Option<(AggregateId, Range<u64>)> {
    let Some(entry) = shared.indexes.at_hand(copy, record) else {
        let data = copy.header.saturating_add(HEADERS);
        let range = copy.header..data.saturating_add(record.size);
        return Some((copy.aggregate, range));
    };
    let first = entry.blocks_for(offset..u64::MAX);
    let first = if first.is_empty() { 0 } else { first.first };
    if let Some(part) = super::source::part_of(&entry, copy.aggregate, first) {
        return Some(part);
    }
    let range = entry.data..entry.end();
    (!range.is_empty()).then_some((copy.aggregate, range))
}

impl Shared {
    /// A parked recall waits for a truncation instead of for a drive. Under no lock.
    pub(super) fn unpark(&self, recall: &Recall) {
        let mut state = recall.state.lock();
        if let Some(parked) = state.parked.take().filter(|_| state.phase == Phase::Parked) {
            state.phase = Phase::Queued;
            parked.leave();
        }
    }

    /// What those who wait for a file on tape may be told.
    pub(super) fn told(&self, node: &NodeHandle) -> Option<Told> {
        let recall = self.table.lock().recalls.get(node).cloned()?;
        let (desk, job) = {
            let state = recall.state.lock();
            match state.parked.as_ref()? {
                Parked::Desk { desk, job } => (Arc::clone(desk), *job),
                Parked::Restore(_) | Parked::Grace => return None,
            }
        };
        desk.told(job)
    }
}

impl State {
    /// The offset that somebody waits for who came first; 0: nobody waits for any.
    fn first_wanted(&self) -> u64 {
        let offset = |waiter: &Waiter| match waiter.wait {
            Wait::Read { offset, .. } => Some((waiter.token, offset)),
            Wait::Fetch(_) | Wait::Stage(_) => None,
        };
        let first = self.waiters.values().filter_map(offset).min();
        first.map_or(0, |(_, offset)| offset)
    }

    /// It has nothing more to read from tape: the drive may turn to others.
    pub(super) fn leave_drive(&mut self) {
        self.seat = None;
        if let Some(parked) = self.parked.take() {
            parked.leave();
        }
    }
}
