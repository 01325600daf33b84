//! Recalls of what its service must restore first wait here, all of one object together, until it was: minutes, or days.
//!
//! Invariants:
//! - An object is asked for once, however many wait for it, and one question about it is under way at a time.
//! - Nothing is asked for as long as a copy that needs no restore may come back in a moment
//!   ([`Settings::restore_grace`](super::Settings)).
//! - A recall that waits has changed nothing, holds no descriptor, worker or connection, and counts against nobody.
//!   When its object was restored it begins again from the start, when it is its turn.
//! - What was restored, as the service says, and cannot be read all the same is not waited for again at once: the
//!   reader is told.
//! - Nobody asks on for an object that nobody waits for any more. What was asked for comes all the same.
//!
//! Of a file in parts all are asked for when the first is found wanting: their hours pass together.

use super::error::Stowed;
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
/// A file gets grace once in so long: what follows it may take long to fail.
const GRACE_ONCE_IN: Duration = Duration::from_secs(3600);

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
    /// Files whose nearer copies were read in vain: they wait for it, whatever they would begin with. `true`: one of
    /// those may come back.
    last_hope_of: HashMap<NodeHandle, bool>,
    /// Those that try just now whether one of their copies is back.
    trying: Vec<(Weak<Recall>, NodeHandle)>,
    /// All that were let try together with them.
    tried: Vec<NodeHandle>,
}

/// All of them.
#[derive(Default)]
pub(super) struct Thaws {
    under_way: HashMap<Key, Thaw>,
    over: HashMap<Key, Instant>,
    /// Files that have a copy which may come back before a restore is paid for: until when they are given that.
    grace: HashMap<NodeHandle, Instant>,
}

/// What becomes of a file that must be restored.
pub(super) enum Begun {
    /// This object is on its way.
    Comes(Key),
    /// Not asked for yet: another copy may be back by then.
    At(Instant),
    /// That was waited for a moment ago, and in vain.
    InVain,
}

/// One of the objects must be restored for the file at `node`: it is asked for, if none is yet.
pub(super) fn begin(shared: &Arc<Shared>, node: &NodeHandle, stowed: &Stowed) -> Begun {
    let now = Instant::now();
    let (key, fresh) = {
        let mut thaws = shared.thaws.lock();
        thaws.forget_what_is_long_ago(now);
        let under_way = |key: &&Key| thaws.under_way.contains_key(key);
        let key = match stowed.objects.iter().find(under_way) {
            Some(key) => *key,
            None => {
                let mut untried = stowed.objects.iter();
                let Some(key) = untried.find(|key| !thaws.over.contains_key(key)) else {
                    return Begun::InVain;
                };
                if stowed.beside_away
                    && let Some(until) = thaws.grace(node, now + shared.settings.restore_grace)
                {
                    return Begun::At(until);
                }
                *key
            }
        };
        let (thaw, fresh) = thaws.entry(key, shared.settings.restore_poll);
        thaw.last_hope_of.insert(node.clone(), stowed.beside_away);
        (key, fresh)
    };
    if fresh {
        ask(shared, key);
    }
    Begun::Comes(key)
}

/// The other objects of a file in parts, of which one is on its way, are asked for too.
pub(super) fn begin_beside(shared: &Arc<Shared>, sources: &Sources, key: Key) {
    for object in sources.beside(key) {
        let key = (key.0, object);
        let fresh = {
            let mut thaws = shared.thaws.lock();
            !thaws.over.contains_key(&key) && thaws.entry(key, shared.settings.restore_poll).1
        };
        if fresh {
            ask(shared, key);
        }
    }
}

/// Until when the file at `node` waits for another copy to come back.
pub(super) fn waits_until(shared: &Shared, node: &NodeHandle) -> Option<Instant> {
    let until = shared.thaws.lock().grace.get(node).copied();
    until.filter(|until| *until > Instant::now())
}

impl Thaws {
    fn forget_what_is_long_ago(&mut self, now: Instant) {
        let since = |at: &Instant| now.saturating_duration_since(*at);
        self.over.retain(|_, at| since(at) < LATELY);
        self.grace.retain(|_, until| since(until) < GRACE_ONCE_IN);
    }

    /// Until when the file is to wait; `None`: it did.
    fn grace(&mut self, node: &NodeHandle, until: Instant) -> Option<Instant> {
        let until = *self.grace.entry(node.clone()).or_insert(until);
        (until > Instant::now()).then_some(until)
    }

    /// The object's restore; `true`: it was not known before.
    fn entry(&mut self, key: Key, pause: Duration) -> (&mut Thaw, bool) {
        match self.under_way.entry(key) {
            Entry::Occupied(known) => (known.into_mut(), false),
            Entry::Vacant(free) => {
                let thaw = Thaw {
                    began: Instant::now(),
                    takes: None,
                    comes: false,
                    asked: 0,
                    pause,
                    waiting: Vec::new(),
                    last_hope_of: HashMap::new(),
                    trying: Vec::new(),
                    tried: Vec::new(),
                };
                (free.insert(thaw), true)
            }
        }
    }
}

/// The object that is being restored and that the file must wait for, if there is one: it has no copy elsewhere, or was
/// read there in vain. (With a copy elsewhere, that is tried first, whatever is on its way.)
pub(super) fn of(shared: &Shared, node: &NodeHandle, sources: &Sources) -> Option<Key> {
    let (tier, head) = sources.primary();
    let alone = sources.is_alone(&*shared.asks);
    let thaws = shared.thaws.lock();
    let waits_for = |((of, object), thaw): &(&Key, &Thaw)| {
        (alone && *of == tier && object.head() == head) || thaw.last_hope_of.contains_key(node)
    };
    let found = thaws.under_way.iter().find(waits_for);
    found.map(|(key, _)| *key)
}

/// The recall waits until the object was restored; `false`: that is over by now.
pub(super) fn park(shared: &Arc<Shared>, recall: &Arc<Recall>, key: Key) -> bool {
    let enter = |asked| {
        let mut thaws = shared.thaws.lock();
        let thaw = thaws.under_way.get_mut(&key);
        thaw.map(|thaw| thaw.waiting.push((Arc::downgrade(recall), asked)))
    };
    set_aside(shared, recall, Parked::Restore(key), enter).is_some()
}

/// It waits until then, for a tier to come back.
pub(super) fn park_until(shared: &Arc<Shared>, recall: &Arc<Recall>, until: Instant) {
    let Some(asked) = set_aside(shared, recall, Parked::Grace, Some) else {
        return;
    };
    let (here, waits) = (Arc::clone(shared), (Arc::downgrade(recall), asked));
    shared.later(until, Box::new(move || resume(&here, vec![waits])));
}

/// The recall waits as `parked` says, and holds nothing meanwhile. `enter` hears which of its asks it is; `None`: there
/// is nothing to wait for. `Some` of it also where the recall ended meanwhile: whoever ended it saw to those who wait.
fn set_aside<T: Default>(
    shared: &Arc<Shared>,
    recall: &Arc<Recall>,
    parked: Parked,
    enter: impl FnOnce(u64) -> Option<T>,
) -> Option<T> {
    let (entered, next) = {
        let mut table = shared.table.lock();
        let mut state = recall.state.lock();
        if state.phase != Phase::Beginning {
            return Some(T::default());
        }
        let entered = enter(state.asked + 1)?;
        state.asked += 1;
        state.leave_drive();
        // Whatever drive it had its turn at: it asks anew.
        (state.called, state.seat_of, state.turn_of) = (false, None, None);
        state.parked = Some(parked);
        state.phase = Phase::Parked;
        let (admitted, charge) = (std::mem::take(&mut state.admitted), state.charge);
        drop(state);
        if admitted {
            table.uncharge(charge);
        }
        (entered, charge)
    };
    if let Some(next) = shared.next_in_line(next) {
        shared.begin(&next);
    }
    Some(entered)
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
    // Whoever waits for one part of a file waits for the others, too.
    let same_file = |other: &Key| other.0 == key.0 && other.1.head() == key.1.head();
    let mut others = thaws.under_way.iter();
    let beside = others.any(|(other, thaw)| same_file(other) && !thaw.waiting.is_empty());
    let Some(thaw) = thaws.under_way.get_mut(&key) else {
        return true;
    };
    thaw.asked += 1;
    thaw.waiting.retain(|(recall, _)| recall.strong_count() > 0);
    thaw.forget_who_tried();
    // Who is the reason for it comes to wait for it a moment after it was begun.
    let wanted = thaw.asked == 1 || beside || !thaw.waiting.is_empty() || !thaw.trying.is_empty();
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
    let tries = thaw.let_try();
    drop(thaws);
    resume(shared, tries);
    let here = Arc::clone(shared);
    let again = Box::new(move || ask(&here, key));
    shared.later(Instant::now() + pause, again);
    true
}

impl Thaw {
    /// They ended, or came to wait again.
    fn forget_who_tried(&mut self) {
        let waits = &self.last_hope_of;
        self.trying
            .retain(|(recall, node)| recall.strong_count() > 0 && !waits.contains_key(node));
    }

    /// Who is to see whether a copy that was away is back: one, and more each time that none comes to wait again.
    fn let_try(&mut self) -> Vec<(Weak<Recall>, u64)> {
        if !self.trying.is_empty() {
            return Vec::new();
        }
        let mut tried = self.tried.iter();
        let in_vain = tried.any(|node| self.last_hope_of.contains_key(node));
        let most = if in_vain {
            1
        } else {
            (self.tried.len() * 4).max(1)
        };
        self.tried.clear();
        let mut tries = Vec::new();
        self.waiting.retain(|(recall, asked)| {
            let Some(known) = recall.upgrade().filter(|_| tries.len() < most) else {
                return true;
            };
            if self.last_hope_of.get(&known.node) != Some(&true) {
                return true;
            }
            self.last_hope_of.remove(&known.node);
            self.trying.push((recall.clone(), known.node.clone()));
            self.tried.push(known.node.clone());
            tries.push((recall.clone(), *asked));
            false
        });
        tries
    }
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
    resume(shared, thaw.map(|thaw| thaw.waiting).unwrap_or_default());
}

/// They begin again, when it is their turn.
fn resume(shared: &Arc<Shared>, waiting: Vec<(Weak<Recall>, u64)>) {
    for (recall, asked) in waiting {
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
            // Nothing is asked for yet.
            Parked::Grace => return Some(None),
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

    /// So many objects of the tier are on their way.
    pub(super) fn asked_for(&self, tier: TierId) -> u64 {
        let comes = |(key, thaw): &(&Key, &Thaw)| key.0 == tier && thaw.comes;
        self.under_way.iter().filter(comes).count() as u64
    }

    /// As if it were long ago.
    pub(super) fn forget(&mut self) {
        self.over.clear();
    }
}
