//! Tests of the dispatcher: by example, and random events with every invariant checked after each.

use super::*;
use crate::id::AggregateId;
use proptest::prelude::*;

fn at(sec: i64) -> Timestamp {
    Timestamp { sec, nsec: 0 }
}

fn item(action: i64, class: Class, uid: u32) -> Item {
    Item {
        action: ActionId(action),
        request: RequestId(u64::from(uid) + 100),
        class,
        uid,
        tier: Some(TierId(1)),
        bytes: 1000,
        place: None,
        near: NodeId(1),
    }
}

fn placed(action: i64, class: Class, uid: u32, seq: u64, offset: u64) -> Item {
    let aggregate = AggregateId { epoch: 1, seq };
    Item {
        place: Some(Place { aggregate, offset }),
        ..item(action, class, uid)
    }
}

fn actions(dispatch: &Dispatch) -> Vec<i64> {
    dispatch.items.iter().map(|i| i.action.0).collect()
}

fn start_all(s: &mut Scheduler) -> Vec<Dispatch> {
    std::iter::from_fn(|| s.next(at(0))).collect()
}

#[test]
fn a_stage_never_waits_behind_archives() {
    let mut s = Scheduler::new(Limits::default());
    s.offer((0..4000).map(|n| Item {
        bytes: 9 << 20,
        ..item(n, Class::Archive, 1)
    }));
    s.offer((5000..9000).map(|n| item(n, Class::PolicyArchive, 2)));
    let started = start_all(&mut s);
    assert_eq!(started.len(), Limits::default().archive_slots);
    s.offer([placed(10_000, Class::Stage, 1, 1, 0)]);
    assert_eq!(actions(&s.next(at(0)).unwrap()), [10_000]);
    s.offer([placed(10_001, Class::Read, 1, 1, 0)]);
    assert_eq!(s.next(at(0)).unwrap().class, Class::Read);
}

#[test]
fn stages_leave_slots_to_readers_and_readers_to_stages() {
    let mut s = Scheduler::new(Limits::default());
    let l = Limits::default();
    s.offer((0..100).map(|n| item(n, Class::Stage, 1)));
    assert_eq!(start_all(&mut s).len(), l.recall_slots - l.read_reserved);
    s.offer((200..300).map(|n| item(n, Class::Read, 1)));
    assert_eq!(start_all(&mut s).len(), l.read_reserved);
    let mut s = Scheduler::new(l.clone());
    s.offer((0..100).map(|n| item(n, Class::Read, 1)));
    s.offer((200..300).map(|n| item(n, Class::Stage, 1)));
    let started = start_all(&mut s);
    let stages = started.iter().filter(|d| d.class == Class::Stage).count();
    assert_eq!((started.len(), stages), (l.recall_slots, l.stage_reserved));
}

#[test]
fn policy_archives_are_not_starved_by_users() {
    let mut s = Scheduler::new(Limits::default());
    s.offer((0..100).map(|n| Item {
        bytes: 9 << 20,
        ..item(n, Class::Archive, 1)
    }));
    s.offer([item(500, Class::PolicyArchive, 0)]);
    let started = start_all(&mut s);
    assert!(started.iter().any(|d| d.class == Class::PolicyArchive));
    assert_eq!(started.len(), Limits::default().archive_slots);
}

#[test]
fn recalls_of_an_aggregate_go_together_by_offset_whoever_asked() {
    let mut s = Scheduler::new(Limits::default());
    s.offer([
        placed(1, Class::Stage, 1, 7, 500),
        placed(2, Class::Stage, 1, 8, 0),
        placed(3, Class::Stage, 2, 7, 100),
        placed(4, Class::Stage, 1, 7, 300),
        Item {
            tier: Some(TierId(2)),
            ..placed(5, Class::Stage, 1, 7, 0)
        },
    ]);
    assert_eq!(actions(&s.next(at(0)).unwrap()), [3, 4, 1]);
}

#[test]
fn archives_are_packed_by_directory_and_large_ones_go_alone() {
    let limits = Limits {
        pack_members: 4,
        ..Limits::default()
    };
    let mut s = Scheduler::new(limits);
    let near = |action, directory| Item {
        near: NodeId(directory),
        ..item(action, Class::Archive, 1)
    };
    s.offer([
        near(1, 20),
        near(2, 10),
        near(3, 30),
        near(4, 20),
        near(5, 21),
    ]);
    s.offer([Item {
        bytes: 9 << 20,
        ..near(6, 20)
    }]);
    assert_eq!(actions(&s.next(at(0)).unwrap()), [1, 4, 5, 3]);
    assert_eq!(actions(&s.next(at(0)).unwrap()), [2]);
    assert_eq!(actions(&s.next(at(0)).unwrap()), [6]);
}

#[test]
fn an_aggregate_is_closed_at_its_bytes() {
    let mut s = Scheduler::new(Limits {
        pack_bytes: 2500,
        ..Limits::default()
    });
    s.offer((0..5).map(|n| item(n, Class::Archive, 1)));
    assert_eq!(actions(&s.next(at(0)).unwrap()), [0, 1]);
}

#[test]
fn a_paused_tier_waits_and_others_go_on() {
    let mut s = Scheduler::new(Limits::default());
    s.offer([
        item(1, Class::Stage, 1),
        Item {
            tier: Some(TierId(2)),
            ..item(2, Class::Stage, 1)
        },
    ]);
    s.pause_tier(TierId(1), at(10));
    s.pause_tier(TierId(1), at(5));
    assert_eq!(actions(&s.next(at(0)).unwrap()), [2]);
    assert_eq!(s.next(at(9)), None);
    assert_eq!(s.wake_at(), Some(at(10)));
    assert_eq!(actions(&s.next(at(10)).unwrap()), [1]);
}

#[test]
fn put_back_items_come_first_again() {
    let mut s = Scheduler::new(Limits {
        recall_slots: 1,
        read_reserved: 0,
        ..Limits::default()
    });
    s.offer([item(1, Class::Stage, 1), item(2, Class::Stage, 1)]);
    assert_eq!(actions(&s.next(at(0)).unwrap()), [1]);
    assert_eq!(s.next(at(0)), None);
    assert!(s.done(ActionId(1), Outcome::Again));
    assert!(!s.done(ActionId(1), Outcome::Ended));
    assert_eq!(actions(&s.next(at(0)).unwrap()), [1]);
}

#[test]
fn users_take_turns() {
    let limits = Limits {
        recall_slots: 1,
        read_reserved: 0,
        ..Limits::default()
    };
    let mut s = Scheduler::new(limits);
    s.offer((0..1000).map(|n| item(n, Class::Stage, 1)));
    s.offer([
        item(2000, Class::Stage, 2),
        item(2001, Class::Stage, 2),
        item(3000, Class::Stage, 3),
    ]);
    let mut order = Vec::new();
    for _ in 0..6 {
        let dispatch = s.next(at(0)).unwrap();
        order.push(dispatch.items[0].uid);
        s.done(dispatch.items[0].action, Outcome::Ended);
    }
    assert_eq!(order, [1, 2, 3, 1, 2, 1]);
}

#[test]
fn what_waits_for_its_tier_alone_gives_its_slot_back_within_bounds() {
    let limit = Sealing {
        dispatches: 2,
        bytes: 25 << 20,
    };
    let mut s = Scheduler::new(Limits {
        archive_slots: 1,
        sealing: BTreeMap::from([(TierId(1), limit)]),
        ..Limits::default()
    });
    let large = |n, tier| Item {
        bytes: 10 << 20,
        tier: Some(TierId(tier)),
        ..item(n, Class::Archive, 1)
    };
    let first = |s: &mut Scheduler| s.next(at(0)).map(|d| d.items[0].action);
    s.offer((0..6).map(|n| large(n, 1)));
    let one = first(&mut s).unwrap();
    assert_eq!(first(&mut s), None, "one slot");
    assert!(s.is_working(Class::Archive));
    assert!(s.composed(one));
    assert!(!s.is_working(Class::Archive), "it only waits");
    let two = first(&mut s).unwrap();
    assert!(s.composed(two));
    let three = first(&mut s).unwrap();
    assert!(s.composed(three));
    assert_eq!(first(&mut s), None, "two may wait without");
    // One that goes on counts again at once; another waits in its place.
    assert!(s.resumed(two));
    assert_eq!(first(&mut s), None, "one goes on");
    assert!(s.composed(two));
    assert_eq!(first(&mut s), None, "the third waits in its place");
    assert!(!s.resumed(ActionId(99)), "nobody knows it");
    assert!(s.done(one, Outcome::Ended));
    // And when one of them is through, it waits in its place.
    let four = first(&mut s).unwrap();
    assert!(s.done(two, Outcome::Ended) && s.done(three, Outcome::Ended));
    // Too many bytes with what waits.
    s.offer([Item {
        bytes: 20 << 20,
        ..large(10, 1)
    }]);
    assert!(s.composed(four));
    while let Some(action) = first(&mut s) {
        if action == ActionId(10) {
            assert!(s.composed(action));
            s.offer([large(12, 1)]);
            assert_eq!(first(&mut s), None);
        }
        s.done(action, Outcome::Ended);
    }
    s.done(four, Outcome::Ended);
    // A tier that writes one after the other, and a lane that composes nothing.
    s.offer([large(20, 2), large(21, 2)]);
    let alone = first(&mut s).unwrap();
    assert!(s.composed(alone));
    assert!(s.is_working(Class::Archive), "it is being written");
    assert_eq!(first(&mut s), None, "its tier writes one after the other");
    assert!(!s.composed(ActionId(99)), "nobody knows it");
}

#[derive(Debug, Clone)]
enum Event {
    Offer(Vec<Item>),
    Next,
    Done(usize, bool),
    Compose(usize),
    Resume(usize),
    Cancel(u64),
    Pause(u32, i64),
    Withdraw(usize),
    Tick(i64),
}

fn some_item() -> impl Strategy<Value = Item> {
    let class = proptest::sample::select(Class::ALL.to_vec());
    let bytes = prop_oneof![1..5000_u64, Just(9_u64 << 20)];
    let place = proptest::option::of((0..3_u64, 0..50_u64));
    (
        0..400_i64,
        0..12_u64,
        class,
        0..4_u32,
        0..3_u32,
        bytes,
        place,
        1..5_i64,
    )
        .prop_map(
            |(action, request, class, uid, tier, bytes, place, near)| Item {
                action: ActionId(action),
                request: RequestId(request),
                class,
                uid,
                tier: (tier > 0).then_some(TierId(tier)),
                bytes,
                place: place.map(|(seq, offset)| Place {
                    aggregate: AggregateId { epoch: 1, seq },
                    offset,
                }),
                near: NodeId(near),
            },
        )
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => proptest::collection::vec(some_item(), 1..12).prop_map(Event::Offer),
        8 => Just(Event::Next),
        6 => (any::<usize>(), any::<bool>()).prop_map(|(n, again)| Event::Done(n, again)),
        3 => any::<usize>().prop_map(Event::Compose),
        2 => any::<usize>().prop_map(Event::Resume),
        1 => (0..12_u64).prop_map(Event::Cancel),
        1 => (1..3_u32, 0..50_i64).prop_map(|(t, until)| Event::Pause(t, until)),
        1 => any::<usize>().prop_map(Event::Withdraw),
        2 => (1..10_i64).prop_map(Event::Tick),
    ]
}

/// What the dispatcher must be doing, kept beside it.
#[derive(Default)]
struct Watch {
    waiting: BTreeMap<ActionId, Item>,
    flying: Vec<(Dispatch, BTreeSet<ActionId>)>,
    /// Of those, the first items of archives that are composed.
    composed: BTreeSet<ActionId>,
    /// Of those, the ones that wait for their tiers without a slot.
    sealing: BTreeSet<ActionId>,
    /// Of those, the ones that went on behind it.
    resumed: BTreeSet<ActionId>,
    cancelled: BTreeSet<RequestId>,
    paused: BTreeMap<TierId, i64>,
    /// Dispatches that a user with something to start was passed over, by (class, user).
    passed: BTreeMap<(Class, u32), usize>,
    now: i64,
}

fn tight() -> Limits {
    Limits {
        recall_slots: 4,
        read_reserved: 1,
        stage_reserved: 1,
        archive_slots: 2,
        release_slots: 1,
        reads_per_user: 3,
        per_tier: 2,
        window: 40,
        batch: 5,
        read_batch: 4,
        pack_bytes: 10_000,
        pack_members: 4,
        sealing: BTreeMap::from([(
            TierId(1),
            Sealing {
                dispatches: 2,
                bytes: 18 << 20,
            },
        )]),
        ..Limits::default()
    }
}

impl Watch {
    fn flying_items(&self) -> impl Iterator<Item = &Item> {
        self.flying
            .iter()
            .flat_map(|(d, left)| d.items.iter().filter(|i| left.contains(&i.action)))
    }

    fn slots(&self, f: impl Fn(&Dispatch) -> bool) -> usize {
        self.flying.iter().filter(|(d, _)| f(d)).count()
    }

    /// Does it wait for its tier without a slot?
    fn seals(&self, dispatch: &Dispatch) -> bool {
        self.sealing.contains(&dispatch.items[0].action)
    }

    /// Composed ones go without slots as soon as they may, for good.
    fn give_slots_back(&mut self, limits: &Limits) {
        let first = |d: &Dispatch| d.items[0].action;
        let bytes = |d: &Dispatch| d.items.iter().map(|i| i.bytes).sum::<u64>();
        let flying: Vec<&Dispatch> = self.flying.iter().map(|(d, _)| d).collect();
        self.composed
            .retain(|c| flying.iter().any(|d| first(d) == *c));
        self.sealing.retain(|c| self.composed.contains(c));
        for (tier, limit) in &limits.sealing {
            for dispatch in flying.iter().filter(|d| d.tier == Some(*tier)) {
                let without = flying.iter().filter(|d| d.tier == Some(*tier));
                let without = without.filter(|d| self.sealing.contains(&first(d)));
                let (count, sum) = without.fold((0, 0), |(n, b), d| (n + 1, b + bytes(d)));
                let fits = count < limit.dispatches && sum + bytes(dispatch) <= limit.bytes;
                if fits && self.composed.contains(&first(dispatch)) {
                    self.sealing.insert(first(dispatch));
                }
            }
        }
    }

    /// A dispatch is composed.
    fn compose(&mut self, s: &mut Scheduler, limits: &Limits, n: usize) {
        if self.flying.is_empty() {
            return;
        }
        let (dispatch, left) = &self.flying[n % self.flying.len()];
        let (first, action) = (dispatch.items[0].action, *left.first().unwrap());
        let is_archive = dispatch.lane == Lane::Archive;
        assert_eq!(s.composed(action), is_archive, "{dispatch:?}");
        if is_archive {
            self.composed.insert(first);
            self.resumed.remove(&first);
            self.give_slots_back(limits);
        }
    }

    /// A composed one goes on.
    fn resume(&mut self, s: &mut Scheduler, limits: &Limits, n: usize) {
        if self.flying.is_empty() {
            return;
        }
        let (dispatch, left) = &self.flying[n % self.flying.len()];
        let (first, action) = (dispatch.items[0].action, *left.first().unwrap());
        assert!(s.resumed(action));
        if self.composed.remove(&first) {
            self.resumed.insert(first);
        }
        self.give_slots_back(limits);
    }

    fn is_paused(&self, tier: TierId) -> bool {
        self.paused
            .get(&tier)
            .is_some_and(|until| *until > self.now)
    }

    /// Whether an item could start as far as its tier and user are concerned.
    fn may(&self, item: &Item, limits: &Limits) -> bool {
        let lane = Lane::of(item.class);
        let tier_ok = item.tier.is_none_or(|t| {
            let busy = self.slots(|d| d.lane == lane && d.tier == Some(t));
            busy < limits.per_tier && (!lane.needs_tier() || !self.is_paused(t))
        });
        let of_user = |i: &&Item| i.class == Class::Read && i.uid == item.uid;
        let reads = self.flying_items().filter(of_user).count();
        tier_ok && (item.class != Class::Read || reads < limits.reads_per_user)
    }

    fn dispatched(&mut self, dispatch: Dispatch, limits: &Limits) {
        assert!(!dispatch.items.is_empty());
        for item in &dispatch.items {
            let was = self.waiting.remove(&item.action);
            assert_eq!(was, Some(*item), "dispatched but not waiting: {item:?}");
            assert!(!self.cancelled.contains(&item.request));
            assert_eq!((item.class, item.tier), (dispatch.class, dispatch.tier));
        }
        match dispatch.lane {
            Lane::Recall | Lane::Verify => {
                let place = |i: &Item| i.place.map(|p| p.aggregate);
                let first = place(&dispatch.items[0]);
                assert!(dispatch.items.iter().all(|i| place(i) == first));
                assert!(dispatch.items.is_sorted_by_key(|i| i.place));
            }
            Lane::Archive => {
                let slots = self.slots(|d| d.lane == Lane::Archive && !self.seals(d));
                assert!(slots < limits.archive_slots, "no slot was free");
                let bytes: u64 = dispatch.items.iter().map(|i| i.bytes).sum();
                assert!(dispatch.items.len() == 1 || bytes <= limits.pack_bytes);
                assert!(dispatch.items.len() <= limits.pack_members);
                assert!(
                    dispatch
                        .items
                        .iter()
                        .all(|i| i.uid == dispatch.items[0].uid)
                );
            }
            Lane::Release | Lane::Remove => assert!(dispatch.items.len() <= limits.batch),
        }
        let served: BTreeSet<u32> = dispatch.items.iter().map(|i| i.uid).collect();
        let ready: BTreeSet<u32> = self
            .waiting
            .values()
            .filter(|i| i.class == dispatch.class && self.may(i, limits))
            .map(|i| i.uid)
            .collect();
        self.passed.retain(|(class, uid), _| {
            *class != dispatch.class || (ready.contains(uid) && !served.contains(uid))
        });
        for uid in ready.difference(&served) {
            let passed = self.passed.entry((dispatch.class, *uid)).or_default();
            *passed += 1;
            // Four users: each of the other three goes once before it.
            assert!(
                *passed <= 3,
                "user {uid} was passed over {passed} times in {:?}",
                dispatch.class
            );
        }
        let left = dispatch.items.iter().map(|i| i.action).collect();
        self.flying.push((dispatch, left));
    }

    fn check(&self, s: &Scheduler, limits: &Limits) {
        for class in Class::ALL {
            let waiting = self.waiting.values().filter(|i| i.class == class).count();
            assert_eq!(s.waiting(class), waiting, "{class:?}: lost or made up");
            let flying = self.flying_items().filter(|i| i.class == class).count();
            assert_eq!(s.running(class), flying);
        }
        let lane = |l: Lane| self.slots(|d| d.lane == l && !self.seals(d));
        for (tier, limit) in &limits.sealing {
            let theirs = |d: &Dispatch| d.tier == Some(*tier) && self.seals(d);
            assert!(self.slots(theirs) <= limit.dispatches);
            let waiting = self.flying.iter().filter(|(d, _)| theirs(d));
            let bytes: u64 = waiting.flat_map(|(d, _)| &d.items).map(|i| i.bytes).sum();
            assert!(bytes <= limit.bytes);
        }
        assert!(lane(Lane::Recall) <= limits.recall_slots);
        let resumed = |d: &Dispatch| self.resumed.contains(&d.items[0].action);
        assert!(lane(Lane::Archive) <= limits.archive_slots + self.slots(resumed));
        assert!(lane(Lane::Release) <= limits.release_slots);
        assert!(lane(Lane::Verify) <= limits.verify_slots);
        assert!(lane(Lane::Remove) <= limits.remove_slots);
        let stages = self.slots(|d| d.class == Class::Stage);
        assert!(stages <= limits.recall_slots - limits.read_reserved);
        for uid in 0..4 {
            let reads = self
                .flying_items()
                .filter(|i| i.class == Class::Read && i.uid == uid);
            assert!(reads.count() <= limits.reads_per_user);
        }
        for tier in [TierId(1), TierId(2)] {
            for l in [
                Lane::Recall,
                Lane::Archive,
                Lane::Release,
                Lane::Verify,
                Lane::Remove,
            ] {
                assert!(self.slots(|d| d.lane == l && d.tier == Some(tier)) <= limits.per_tier);
            }
        }
    }

    /// Invariant 3, when nothing more would start.
    fn nothing_left(&self, limits: &Limits) {
        let slots = self.slots(|d| d.lane == Lane::Recall);
        let stages = self.slots(|d| d.class == Class::Stage);
        for item in self.waiting.values().filter(|i| self.may(i, limits)) {
            let free = match item.class {
                Class::Read => slots < limits.recall_slots - limits.stage_reserved,
                Class::Stage => {
                    slots < limits.recall_slots
                        && stages < limits.recall_slots - limits.read_reserved
                }
                _ => false,
            };
            assert!(!free, "a free slot, and {item:?} waits");
        }
    }

    fn offered(&mut self, s: &mut Scheduler, limits: &Limits, items: Vec<Item>) {
        for item in items {
            let of_class = self.waiting.values().filter(|i| i.class == item.class);
            let full = of_class.count() >= limits.window;
            let known = self.waiting.contains_key(&item.action)
                || self.flying_items().any(|i| i.action == item.action);
            let mut expected = Refused::default();
            if self.cancelled.contains(&item.request) {
                expected.cancelled.push(item.action);
            } else if known {
                expected.known.push(item.action);
            } else if full {
                expected.full.push(item.action);
            } else {
                self.waiting.insert(item.action, item);
            }
            assert_eq!(s.offer([item]), expected);
        }
    }

    fn cancel(&mut self, s: &mut Scheduler, request: u64) {
        let request = RequestId(request);
        let dropped = s.cancel(request);
        self.cancelled.insert(request);
        for action in &dropped.waiting {
            assert_eq!(self.waiting.remove(action).unwrap().request, request);
        }
        assert!(self.waiting.values().all(|i| i.request != request));
        let flying = self.flying_items().filter(|i| i.request == request);
        let mut flying: Vec<ActionId> = flying.map(|i| i.action).collect();
        let mut named = dropped.in_flight;
        flying.sort();
        named.sort();
        assert_eq!(named, flying);
    }

    fn apply(&mut self, s: &mut Scheduler, limits: &Limits, event: Event) {
        match event {
            Event::Offer(items) => self.offered(s, limits, items),
            Event::Next => match s.next(at(self.now)) {
                Some(dispatch) => {
                    assert!(
                        !dispatch.lane.needs_tier()
                            || dispatch.tier.is_none_or(|t| !self.is_paused(t))
                    );
                    self.dispatched(dispatch, limits);
                }
                None => self.nothing_left(limits),
            },
            Event::Done(n, again) => {
                let all: Vec<Item> = self.flying_items().copied().collect();
                if all.is_empty() {
                    return;
                }
                let item = all[n % all.len()];
                let outcome = if again {
                    Outcome::Again
                } else {
                    Outcome::Ended
                };
                assert!(s.done(item.action, outcome));
                for (_, left) in &mut self.flying {
                    left.remove(&item.action);
                }
                self.flying.retain(|(_, left)| !left.is_empty());
                self.give_slots_back(limits);
                if again && !self.cancelled.contains(&item.request) {
                    self.waiting.insert(item.action, item);
                }
            }
            Event::Compose(n) => self.compose(s, limits, n),
            Event::Resume(n) => self.resume(s, limits, n),
            Event::Cancel(request) => self.cancel(s, request),
            Event::Pause(tier, until) => {
                s.pause_tier(TierId(tier), at(until));
                let pause = self.paused.entry(TierId(tier)).or_insert(until);
                *pause = (*pause).max(until);
            }
            Event::Withdraw(n) => {
                let ids: Vec<ActionId> = self.waiting.keys().copied().collect();
                if !ids.is_empty() {
                    let id = ids[n % ids.len()];
                    assert!(s.withdraw(id));
                    self.waiting.remove(&id);
                }
            }
            Event::Tick(by) => self.now += by,
        }
        // Who can no longer start (tier, cap) is not being passed over.
        let passed = std::mem::take(&mut self.passed);
        self.passed = passed
            .into_iter()
            .filter(|((class, uid), _)| {
                let theirs = |i: &&Item| i.class == *class && i.uid == *uid;
                self.waiting
                    .values()
                    .filter(theirs)
                    .any(|i| self.may(i, limits))
            })
            .collect();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_invariant_holds_after_every_event(events in proptest::collection::vec(event(), 1..120)) {
        let limits = tight();
        let mut s = Scheduler::new(limits.clone());
        let mut watch = Watch::default();
        for event in events {
            watch.apply(&mut s, &limits, event);
            watch.check(&s, &limits);
        }
    }
}
