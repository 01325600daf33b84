//! The dispatcher: decides which queued action starts next. Pure: no I/O, no clock, no threads.
//!
//! Lanes have worker slots of their own, so that no lane ever waits for another's queue: recalls
//! ([`Class::Read`], [`Class::Stage`]), archives ([`Class::Archive`], [`Class::PolicyArchive`]),
//! releases, verification, copies given up. Within a lane the more urgent class goes first, but each class has
//! slots that the other may not take. Within a class users take turns.
//!
//! # Invariants (asserted by property tests after every event)
//! 1. An item is dispatched at most once between its offer and its end, and is never lost: it is
//!    in the window, in flight, or was handed back by `cancel`, `done` or a refused offer.
//! 2. No lane, class, tier or user has more in flight than its limit. An archive that is composed and waits for its
//!    tier alone counts there ([`Limits::sealing`]), and in its lane no more; if it goes on, it may be one too many there.
//! 3. With a free recall slot for its class and its tier up, a recall starts at the next call,
//!    whatever else is queued.
//! 4. After `cancel` no item of that request is dispatched.
//! 5. Users with something to start in a class get turns one after the other.

use crate::catalog::{Action, ActionId, Class, NodeId, Place};
use crate::id::{RequestId, TierId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

mod pack;
mod window;

use window::Window;

/// Limits. All at least 1 where something is to move at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Slots of the recall lane.
    pub recall_slots: usize,
    /// Of these, kept free of [`Class::Stage`], for readers that wait.
    pub read_reserved: usize,
    /// Of these, kept free of [`Class::Read`] as long as stages wait.
    pub stage_reserved: usize,
    /// Slots of the archive lane.
    pub archive_slots: usize,
    /// Of these, kept free of [`Class::PolicyArchive`], for users.
    pub user_archive_reserved: usize,
    /// Of these, kept free of [`Class::Archive`] as long as policy archives wait.
    pub policy_reserved: usize,
    /// Slots of the release lane.
    pub release_slots: usize,
    /// Slots of verification.
    pub verify_slots: usize,
    /// Slots of the lane that gives copies up.
    pub remove_slots: usize,
    /// Implicit recalls of one user in flight.
    pub reads_per_user: usize,
    /// Dispatches in flight per tier and lane, where `tiers` names no other.
    pub per_tier: usize,
    /// Dispatches in flight per lane of particular tiers (a tape library's drives, ...).
    pub tiers: BTreeMap<TierId, usize>,
    /// Items of a class that the window holds at most.
    pub window: usize,
    /// Items of one dispatch of recalls or releases.
    pub batch: usize,
    /// Items of one dispatch of verifications: what lies in one aggregate is read in one pass.
    pub verify_batch: usize,
    /// Items of one dispatch of implicit recalls: a reader behind others in a batch waits for them.
    pub read_batch: usize,
    /// Bytes at which an aggregate of small files is full.
    pub pack_bytes: u64,
    /// Files at which it is full.
    pub pack_members: usize,
    /// Larger files go alone, bytes (P2: 8 MiB).
    pub pack_alone_over: u64,
    /// Aggregates that may wait for a tier, composed, without a slot: of those tiers that write several together.
    pub sealing: BTreeMap<TierId, Sealing>,
}

/// How many aggregates may wait for a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealing {
    /// How many.
    pub dispatches: usize,
    /// Bytes of their items, together.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            recall_slots: 16,
            read_reserved: 8,
            stage_reserved: 2,
            archive_slots: 4,
            user_archive_reserved: 1,
            policy_reserved: 1,
            release_slots: 2,
            verify_slots: 1,
            remove_slots: 1,
            reads_per_user: 64,
            per_tier: 64,
            tiers: BTreeMap::new(),
            window: 4096,
            batch: 256,
            verify_batch: 4096,
            read_batch: 8,
            pack_bytes: 256 << 20,
            pack_members: 8192,
            pack_alone_over: 8 << 20,
            sealing: BTreeMap::new(),
        }
    }
}

/// An action as the dispatcher needs to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// The action.
    pub action: ActionId,
    /// Its request.
    pub request: RequestId,
    /// Its class.
    pub class: Class,
    /// For whom.
    pub uid: u32,
    /// The tier it needs.
    pub tier: Option<TierId>,
    /// Bytes to move.
    pub bytes: u64,
    /// Where its data lie.
    pub place: Option<Place>,
    /// Nearness: the directory.
    pub near: NodeId,
}

impl From<&Action> for Item {
    fn from(action: &Action) -> Self {
        Self {
            action: action.id,
            request: action.request,
            class: action.class,
            uid: action.uid,
            tier: action.tier,
            bytes: action.bytes,
            place: action.place,
            near: action.near,
        }
    }
}

/// Worker slots that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Data come back.
    Recall,
    /// Copies are made.
    Archive,
    /// Blocks are given back.
    Release,
    /// Copies are read back.
    Verify,
    /// Copies are given up.
    Remove,
}

impl Lane {
    /// Must the item's tier answer? Not for a release, nor for one whose copy is given up.
    fn needs_tier(self) -> bool {
        !matches!(self, Self::Release | Self::Remove)
    }

    /// The lane that serves a class.
    #[must_use]
    pub fn of(class: Class) -> Self {
        match class {
            Class::Read | Class::Stage => Self::Recall,
            Class::Archive | Class::PolicyArchive => Self::Archive,
            Class::Release => Self::Release,
            Class::Verify => Self::Verify,
            Class::Remove => Self::Remove,
        }
    }
}

/// Work for one worker: items of one class and tier, in the order in which to do them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispatch {
    /// The lane whose slot it takes until its last item is done.
    pub lane: Lane,
    /// The class.
    pub class: Class,
    /// The tier.
    pub tier: Option<TierId>,
    /// What to do. Archives: one aggregate. Recalls: one aggregate, ascending offsets.
    pub items: Vec<Item>,
}

/// How an item in flight ended, as far as the dispatcher cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is out of the window: done, failed, cancelled, or back in the catalog for a later time.
    Ended,
    /// It was not begun (its tier went away, its batch was given up): back into the window.
    Again,
}

/// Answer to [`Scheduler::offer`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refused {
    /// The window of their class is full: put them back.
    pub full: Vec<ActionId>,
    /// Their request was cancelled: not to be started.
    pub cancelled: Vec<ActionId>,
    /// Already in the window or in flight: nothing to do.
    pub known: Vec<ActionId>,
}

/// Answer to [`Scheduler::cancel`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dropped {
    /// Were in the window and are no longer.
    pub waiting: Vec<ActionId>,
    /// Are in flight: the worker is to be told.
    pub in_flight: Vec<ActionId>,
}

/// How many cancelled requests are remembered: an offer that was on its way when its request was
/// cancelled is refused here already (the catalog refuses it in any case).
const REMEMBERED: usize = 4096;

/// The dispatcher.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    windows: BTreeMap<Class, Window>,
    flights: BTreeMap<u64, Flight>,
    in_flight: BTreeMap<ActionId, u64>,
    next_flight: u64,
    paused: BTreeMap<TierId, Timestamp>,
    cancelled: BTreeSet<RequestId>,
}

/// A dispatch that has items which are not done.
#[derive(Debug)]
struct Flight {
    class: Class,
    tier: Option<TierId>,
    /// It is composed, and waits for its tier alone.
    composed: bool,
    /// It needs no slot for that.
    sealing: bool,
    bytes: u64,
    items: BTreeMap<ActionId, Item>,
}

impl Scheduler {
    /// An empty dispatcher.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            windows: Class::ALL.iter().map(|c| (*c, Window::default())).collect(),
            flights: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            next_flight: 0,
            paused: BTreeMap::new(),
            cancelled: BTreeSet::new(),
        }
    }

    /// New limits from now on; what is in flight beyond them ends in peace.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// How many more items of a class the window takes: what to ask the catalog for.
    #[must_use]
    pub fn room(&self, class: Class) -> usize {
        self.limits.window.saturating_sub(self.waiting(class))
    }

    /// Items of a class in the window.
    #[must_use]
    pub fn waiting(&self, class: Class) -> usize {
        self.windows.get(&class).map_or(0, Window::len)
    }

    /// Items of a class in flight.
    #[must_use]
    pub fn running(&self, class: Class) -> usize {
        let of_class = self.flights.values().filter(|f| f.class == class);
        of_class.map(|f| f.items.len()).sum()
    }

    /// Is a dispatch of a class in flight that does more than wait for a tier which writes several together?
    #[must_use]
    pub fn is_working(&self, class: Class) -> bool {
        let waits = |f: &Flight| {
            let tier = f.tier.as_ref();
            f.composed && tier.is_some_and(|tier| self.limits.sealing.contains_key(tier))
        };
        let mut of_class = self.flights.values().filter(|f| f.class == class);
        of_class.any(|f| !waits(f))
    }

    /// Takes items into the window; those that it does not take are given back by reason.
    pub fn offer(&mut self, items: impl IntoIterator<Item = Item>) -> Refused {
        let mut refused = Refused::default();
        for item in items {
            let room = self.room(item.class);
            let waits = self.windows.values().any(|w| w.contains(item.action));
            let Some(window) = self.windows.get_mut(&item.class) else {
                continue;
            };
            if self.cancelled.contains(&item.request) {
                refused.cancelled.push(item.action);
            } else if waits || self.in_flight.contains_key(&item.action) {
                refused.known.push(item.action);
            } else if room == 0 {
                refused.full.push(item.action);
            } else {
                window.insert(item);
            }
        }
        refused
    }

    /// What to start now, if anything. Call again until it gives `None`.
    pub fn next(&mut self, now: Timestamp) -> Option<Dispatch> {
        self.paused.retain(|_, until| *until > now);
        Class::ALL.into_iter().find_map(|class| self.start(class))
    }

    /// When something that waits only for a paused tier could start; to set a timer by.
    #[must_use]
    pub fn wake_at(&self) -> Option<Timestamp> {
        self.paused.values().min().copied()
    }

    /// An item in flight ended. `false`: it was not in flight.
    pub fn done(&mut self, action: ActionId, outcome: Outcome) -> bool {
        let Some(number) = self.in_flight.remove(&action) else {
            return false;
        };
        let Some(flight) = self.flights.get_mut(&number) else {
            return false;
        };
        let item = flight.items.remove(&action);
        if flight.items.is_empty() {
            self.flights.remove(&number);
            self.give_slots_back();
        }
        if let (Some(item), Outcome::Again) = (item, outcome)
            && !self.cancelled.contains(&item.request)
            && let Some(window) = self.windows.get_mut(&item.class)
        {
            window.put_back(item);
        }
        true
    }

    /// The dispatch of archives with this item is composed, and waits for its tier alone: it needs no slot for that, as
    /// soon as no more wait there than may. `false`: it is not in flight.
    pub fn composed(&mut self, action: ActionId) -> bool {
        let Some(number) = self.in_flight.get(&action) else {
            return false;
        };
        let flight = self.flights.get_mut(number);
        let flight = flight.filter(|f| Lane::of(f.class) == Lane::Archive);
        let is_there = flight.map(|f| f.composed = true).is_some();
        self.give_slots_back();
        is_there
    }

    /// The dispatch of archives with this item goes on composing: it counts in its lane again at once, also if others
    /// have taken all slots since; then none starts before there are fewer. `false`: it is not in flight.
    pub fn resumed(&mut self, action: ActionId) -> bool {
        let number = self.in_flight.get(&action);
        let flight = number.and_then(|number| self.flights.get_mut(number));
        let Some(flight) = flight else {
            return false;
        };
        (flight.composed, flight.sealing) = (false, false);
        // Another that is composed may have its place.
        self.give_slots_back();
        true
    }

    /// Drops a request's items from the window and names those in flight.
    pub fn cancel(&mut self, request: RequestId) -> Dropped {
        self.cancelled.insert(request);
        if self.cancelled.len() > REMEMBERED {
            self.cancelled.pop_first();
        }
        let waiting = self.windows.values_mut();
        Dropped {
            waiting: waiting.flat_map(|w| w.remove_request(request)).collect(),
            in_flight: self
                .flights
                .values()
                .flat_map(|f| f.items.values())
                .filter(|i| i.request == request)
                .map(|i| i.action)
                .collect(),
        }
    }

    /// The request was not cancelled after all.
    pub fn uncancel(&mut self, request: RequestId) {
        self.cancelled.remove(&request);
    }

    /// Was this request cancelled? (Of those that are remembered.)
    #[must_use]
    pub fn is_cancelled(&self, request: RequestId) -> bool {
        self.cancelled.contains(&request)
    }

    /// Takes one item that nobody wants any more out of the window. `false`: it is not there.
    pub fn withdraw(&mut self, action: ActionId) -> bool {
        self.windows
            .values_mut()
            .any(|w| w.remove(action).is_some())
    }

    /// Starts nothing that needs this tier before `until` (a later time given before stays).
    pub fn pause_tier(&mut self, tier: TierId, until: Timestamp) {
        let pause = self.paused.entry(tier).or_insert(until);
        *pause = (*pause).max(until);
    }

    /// The tier answers again.
    pub fn resume_tier(&mut self, tier: TierId) {
        self.paused.remove(&tier);
    }

    /// Until when a tier is paused.
    #[must_use]
    pub fn paused_until(&self, tier: TierId) -> Option<Timestamp> {
        self.paused.get(&tier).copied()
    }

    fn start(&mut self, class: Class) -> Option<Dispatch> {
        if !self.slot_is_free(class) {
            return None;
        }
        let blocked = self.blocked_tiers(Lane::of(class));
        let reads = (class == Class::Read).then(|| self.reads_by_user());
        let cap = self.limits.reads_per_user;
        let left = |uid: u32| match &reads {
            Some(reads) => cap.saturating_sub(reads.get(&uid).copied().unwrap_or(0)),
            None => usize::MAX,
        };
        let may = |item: &Item| item.tier.is_none_or(|t| !blocked.contains(&t));
        let window = self.windows.get_mut(&class)?;
        let first = window.choose(|item| may(item) && left(item.uid) > 0)?;
        let items = match class {
            Class::Archive | Class::PolicyArchive => pack::archive(window, &first, &self.limits),
            Class::Read => pack::recall(window, &first, self.limits.read_batch, left),
            Class::Stage => pack::recall(window, &first, self.limits.batch, left),
            Class::Verify => pack::recall(window, &first, self.limits.verify_batch, left),
            Class::Release | Class::Remove => pack::release(window, &first, self.limits.batch),
        };
        for item in &items {
            window.remove(item.action);
        }
        self.depart(class, first.tier, items)
    }

    fn depart(&mut self, class: Class, tier: Option<TierId>, items: Vec<Item>) -> Option<Dispatch> {
        debug_assert!(!items.is_empty(), "a dispatch has items");
        debug_assert!(items.iter().all(|i| i.tier == tier && i.class == class));
        let number = self.next_flight;
        self.next_flight += 1;
        for item in &items {
            let before = self.in_flight.insert(item.action, number);
            debug_assert!(before.is_none(), "{:?} dispatched twice", item.action);
        }
        let flight = Flight {
            class,
            tier,
            composed: false,
            sealing: false,
            bytes: items.iter().fold(0, |sum, i| i.bytes.saturating_add(sum)),
            items: items.iter().map(|i| (i.action, *i)).collect(),
        };
        self.flights.insert(number, flight);
        Some(Dispatch {
            lane: Lane::of(class),
            class,
            tier,
            items,
        })
    }

    /// Whether the lane has a slot that this class may take now.
    fn slot_is_free(&self, class: Class) -> bool {
        let l = &self.limits;
        let free_for = |other: Class, slots: usize, others_always: usize, others_waiting: usize| {
            let (mine, theirs) = (self.slots_of(class), self.slots_of(other));
            let wanted = if self.waiting(other) > 0 {
                others_waiting
            } else {
                0
            };
            // Reservations never take a class's last slot.
            let reserved = others_always.max(wanted).min(slots.saturating_sub(1));
            mine + theirs < slots && mine < slots - reserved
        };
        match class {
            Class::Read => free_for(Class::Stage, l.recall_slots, 0, l.stage_reserved),
            Class::Stage => free_for(Class::Read, l.recall_slots, l.read_reserved, 0),
            Class::Archive => free_for(Class::PolicyArchive, l.archive_slots, 0, l.policy_reserved),
            Class::PolicyArchive => {
                free_for(Class::Archive, l.archive_slots, l.user_archive_reserved, 0)
            }
            Class::Release => self.slots_of(class) < l.release_slots,
            Class::Verify => self.slots_of(class) < l.verify_slots,
            Class::Remove => self.slots_of(class) < l.remove_slots,
        }
    }

    fn slots_of(&self, class: Class) -> usize {
        let of_class = self.flights.values().filter(|f| f.class == class);
        of_class.filter(|f| !f.sealing).count()
    }

    /// Those that are composed give their slots back, as many as may wait for their tiers without.
    fn give_slots_back(&mut self) {
        for (tier, limit) in &self.limits.sealing {
            let of_tier = self.flights.values_mut();
            let (waiting, composed): (Vec<_>, Vec<_>) = of_tier
                .filter(|f| f.tier == Some(*tier) && f.composed)
                .partition(|f| f.sealing);
            let mut dispatches = waiting.len();
            let mut bytes = waiting.iter().fold(0_u64, |n, f| n.saturating_add(f.bytes));
            for flight in composed {
                let sum = bytes.saturating_add(flight.bytes);
                if dispatches < limit.dispatches && sum <= limit.bytes {
                    flight.sealing = true;
                    (dispatches, bytes) = (dispatches + 1, sum);
                }
            }
        }
    }

    /// Tiers that are paused, or busy to their limit in this lane.
    fn blocked_tiers(&self, lane: Lane) -> BTreeSet<TierId> {
        let mut busy: BTreeMap<TierId, usize> = BTreeMap::new();
        for flight in self.flights.values().filter(|f| Lane::of(f.class) == lane) {
            if let Some(tier) = flight.tier {
                *busy.entry(tier).or_default() += 1;
            }
        }
        let limit = |tier: &TierId| self.limits.tiers.get(tier).copied();
        let full = busy
            .into_iter()
            .filter(|(tier, count)| *count >= limit(tier).unwrap_or(self.limits.per_tier))
            .map(|(tier, _)| tier);
        let paused = self.paused.keys().copied().filter(|_| lane.needs_tier());
        full.chain(paused).collect()
    }

    fn reads_by_user(&self) -> BTreeMap<u32, usize> {
        let mut reads = BTreeMap::new();
        let of_class = self.flights.values().filter(|f| f.class == Class::Read);
        for item in of_class.flat_map(|f| f.items.values()) {
            *reads.entry(item.uid).or_default() += 1;
        }
        reads
    }
}

#[cfg(test)]
mod tests;
