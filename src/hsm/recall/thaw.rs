//! Recalls of what its service must restore first wait here, all of one object together, until it was: minutes, or days.
//!
//! Invariants:
//! - An object is asked for once, however many wait for it, and one question about it is under way at a time.
//! - A recall that waits has changed nothing, holds no descriptor, worker or connection, and counts against nobody.
//!   When its object was restored it begins again from the start, when it is its turn.
//! - What was restored, as the service says, and cannot be read all the same is not waited for again at once: the
//!   reader is told.
//! - Nobody asks on for an object that nobody waits for any more. What was asked for comes all the same.

use super::lane::Urgency;
use super::one::{Phase, Recall};
use super::park::Parked;
use super::source::Sources;
use super::table::{Post, Shared};
use crate::hsm::index_cache::tier_is_passing;
use crate::id::{AggregateId, NodeHandle, TierId};
use crate::tier::{Restoring, TierError};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// For so long an object that was waited for is not waited for again.
const LATELY: Duration = Duration::from_secs(60);

/// An object.
pub(super) type Key = (TierId, AggregateId);

/// One that is being restored.
struct Thaw {
    began: Instant,
    /// How long it takes, as far as that is known.
    takes: Option<Duration>,
    /// The service said that it is under way.
    comes: bool,
    asked: u32,
    /// Until it is asked again.
    pause: Duration,
    /// Who waits, and for which of his asks.
    waiting: Vec<(Weak<Recall>, u64)>,
}

/// All of them.
#[derive(Default)]
pub(super) struct Thaws {
    under_way: HashMap<Key, Thaw>,
    over: HashMap<Key, Instant>,
}

/// It must be restored: it is asked for, if it is not yet. `false`: that was waited for a moment ago, and in vain.
pub(super) fn begin(shared: &Arc<Shared>, key: Key) -> bool {
    let now = Instant::now();
    {
        let mut thaws = shared.thaws.lock();
        thaws
            .over
            .retain(|_, at| now.saturating_duration_since(*at) < LATELY);
        if thaws.over.contains_key(&key) {
            return false;
        }
        match thaws.under_way.entry(key) {
            Entry::Occupied(_) => return true,
            Entry::Vacant(free) => free.insert(Thaw {
                began: now,
                takes: None,
                comes: false,
                asked: 0,
                pause: shared.settings.restore_poll,
                waiting: Vec::new(),
            }),
        };
    }
    ask(shared, key);
    true
}

/// The object of a file's copy that is being restored, if there is one.
pub(super) fn of(shared: &Shared, sources: &Sources) -> Option<Key> {
    let (tier, head) = sources.primary();
    let thaws = shared.thaws.lock();
    let mut keys = thaws.under_way.keys();
    keys.find(|(of, object)| *of == tier && object.head() == head)
        .copied()
}

/// The recall waits until the object was restored; `false`: that is over by now.
pub(super) fn park(shared: &Arc<Shared>, recall: &Arc<Recall>, key: Key) -> bool {
    let next = {
        let mut table = shared.table.lock();
        let mut state = recall.state.lock();
        if state.phase != Phase::Beginning {
            // Whoever ended it meanwhile saw to those who wait.
            return true;
        }
        {
            let mut thaws = shared.thaws.lock();
            let Some(thaw) = thaws.under_way.get_mut(&key) else {
                return false;
            };
            state.asked += 1;
            thaw.waiting.push((Arc::downgrade(recall), state.asked));
        }
        state.leave_drive();
        // Whatever drive it had its turn at: it asks anew.
        (state.called, state.seat_of, state.turn_of) = (false, None, None);
        state.parked = Some(Parked::Restore(key));
        state.phase = Phase::Parked;
        let (admitted, charge) = (std::mem::take(&mut state.admitted), state.charge);
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

/// On a worker of the tier.
fn ask(shared: &Arc<Shared>, key: Key) {
    let here = Arc::clone(shared);
    let lane = shared.tier_lane(key.0, Post::Unseated);
    // A reader waits for it, and it is short.
    lane.push(Urgency::Reader, Box::new(move || asked(&here, key)));
}

fn asked(shared: &Arc<Shared>, key: Key) {
    let (tier, object) = key;
    let Some(tier) = shared.asks.tier(tier) else {
        return over(shared, key, true);
    };
    let said = tier.restore(object);
    if goes_on(shared, key, &said) {
        return;
    }
    match &said {
        Ok(Restoring::Ready) => tracing::info!(tier = %key.0, %object, "it was restored"),
        Ok(Restoring::Coming { .. }) => {
            tracing::debug!(tier = %key.0, %object, "it is being restored, and nobody waits");
        }
        Err(why) => tracing::warn!(tier = %key.0, %object, %why, "it is not restored"),
    }
    over(shared, key, !matches!(said, Ok(Restoring::Coming { .. })));
}

/// Asked again later?
fn goes_on(shared: &Arc<Shared>, key: Key, said: &Result<Restoring, TierError>) -> bool {
    let mut thaws = shared.thaws.lock();
    let Some(thaw) = thaws.under_way.get_mut(&key) else {
        return true;
    };
    thaw.asked += 1;
    thaw.waiting.retain(|(recall, _)| recall.strong_count() > 0);
    // Who is the reason for it comes to wait for it a moment after it was begun.
    let wanted = thaw.asked == 1 || !thaw.waiting.is_empty();
    let goes_on = match said {
        Ok(Restoring::Coming { takes }) => {
            (thaw.takes, thaw.comes) = (*takes, true);
            wanted
        }
        Ok(Restoring::Ready) => false,
        // A service that is away for an hour of the five.
        Err(why) => thaw.comes && tier_is_passing(why) && wanted,
    };
    if !goes_on {
        return false;
    }
    let pause = thaw.pause;
    thaw.pause = (pause * 2).min(shared.settings.restore_poll_most.max(pause));
    drop(thaws);
    let here = Arc::clone(shared);
    let again = Box::new(move || ask(&here, key));
    shared.later(Instant::now() + pause, again);
    true
}

/// Nobody waits for it any more: those who did begin again, when it is their turn. `settled`: it was restored, or
/// cannot be; who meets it at once is told, and does not wait again.
fn over(shared: &Arc<Shared>, key: Key, settled: bool) {
    let thaw = {
        let mut thaws = shared.thaws.lock();
        if settled {
            thaws.over.insert(key, Instant::now());
        }
        thaws.under_way.remove(&key)
    };
    for (recall, asked) in thaw.into_iter().flat_map(|thaw| thaw.waiting) {
        let Some(recall) = recall.upgrade() else {
            continue;
        };
        let begins = {
            let mut table = shared.table.lock();
            let mut state = recall.state.lock();
            if state.phase != Phase::Parked || state.asked != asked {
                continue;
            }
            state.parked = None;
            state.phase = Phase::Queued;
            let begins = table.may_begin(&recall, &mut state, &shared.settings);
            if !begins {
                table.queue(&recall.node, state.charge);
            }
            begins
        };
        if begins {
            shared.begin(&recall);
        }
    }
}

impl Shared {
    /// How long those who wait for this file's object to be restored wait still, if that can be said; the outer
    /// `None`: nobody does.
    pub(super) fn restoring(&self, node: &NodeHandle) -> Option<Option<Duration>> {
        let recall = self.table.lock().recalls.get(node).cloned()?;
        let key = match recall.state.lock().parked.as_ref()? {
            Parked::Restore(key) => *key,
            Parked::Desk { .. } => return None,
        };
        let thaws = self.thaws.lock();
        let thaw = thaws.under_way.get(&key)?;
        let left = thaw
            .takes
            .map(|takes| takes.saturating_sub(thaw.began.elapsed()));
        Some(left)
    }
}

#[cfg(test)]
impl Thaws {
    /// Nothing is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// As if it were long ago.
    pub(super) fn forget(&mut self) {
        self.over.clear();
    }
}
