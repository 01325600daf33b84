//! The ledger against a model, with the writer killed after every number of stores.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

const SMALL: Shape = Shape {
    intents: 4,
    opens: 6,
    nodes: 6,
};

/// Memory whose writer dies: after so many stores nothing is stored any more.
struct Mortal {
    words: Arc<Vec<AtomicU64>>,
    left: Arc<AtomicU64>,
}

impl Mortal {
    fn dead(&self) -> bool {
        let left = |n: u64| n.checked_sub(1);
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left)
            .is_err()
    }
}

impl Memory for Mortal {
    fn word(&self, at: usize) -> &AtomicU64 {
        &self.words[at]
    }
    fn store(&self, at: usize, value: u64) {
        if !self.dead() {
            self.words[at].store(value, Ordering::Relaxed);
        }
    }
    fn replace(&self, at: usize, old: u64, new: u64) -> bool {
        if self.load(at) != old {
            return false;
        }
        self.store(at, new);
        true
    }
    fn add(&self, at: usize, value: u64) -> u64 {
        let before = self.load(at);
        self.store(at, before + value);
        before
    }
}

fn memory() -> Arc<Vec<AtomicU64>> {
    Arc::new((0..SMALL.words()).map(|_| AtomicU64::new(0)).collect())
}

fn mortal(words: &Arc<Vec<AtomicU64>>, stores: u64) -> Box<Mortal> {
    Box::new(Mortal {
        words: words.clone(),
        left: Arc::new(AtomicU64::new(stores)),
    })
}

fn handle(of: u64, length: usize) -> NodeHandle {
    let bytes = of.to_le_bytes().into_iter().cycle().take(length).collect();
    NodeHandle { kind: 0x81, bytes }
}

#[derive(Debug, Clone)]
enum Op {
    Add(u64, usize),
    Count(u64),
    Uncount(u64, u64),
    Remove(u64),
    Back(u64, u32),
    Unback(u64, u32),
    Open(u64, u64),
    Close(usize),
    Intend(u64, Intent, Option<i32>),
}

fn op() -> impl Strategy<Value = Op> {
    let node = 1u64..5;
    let intent = prop_oneof![
        Just(Intent::Make { linked: 0 }),
        (1u64..9).prop_map(|victim| Intent::Remove { victim }),
        (1u64..9).prop_map(|source| Intent::Move { source }),
        Just(Intent::SetNew),
        Just(Intent::Unset),
    ];
    prop_oneof![
        4 => (node.clone(), 0usize..=HANDLE_ROOM).prop_map(|(n, l)| Op::Add(n, l)),
        1 => node.clone().prop_map(Op::Count),
        1 => (node.clone(), 1u64..3).prop_map(|(n, c)| Op::Uncount(n, c)),
        2 => node.clone().prop_map(Op::Remove),
        2 => (node.clone(), 1u32..4).prop_map(|(n, b)| Op::Back(n, b)),
        2 => (node.clone(), 1u32..4).prop_map(|(n, b)| Op::Unback(n, b)),
        3 => (node, 1u64..99).prop_map(|(n, u)| Op::Open(n, u)),
        3 => (0usize..6).prop_map(Op::Close),
        2 => (1u64..99, intent, prop::option::of(0i32..99)).prop_map(|(u, i, o)| Op::Intend(u, i, o)),
    ]
}

/// What should be found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Model {
    /// Length of the handle, lookups, backing id.
    nodes: BTreeMap<u64, (usize, u64, u32)>,
    opens: BTreeMap<u64, (u64, u64)>,
    intents: Vec<(u64, Intent, Option<i32>)>,
}

impl Model {
    fn of(found: &Found) -> Self {
        let mut intents: Vec<_> = found
            .intents
            .iter()
            .map(|(unique, f)| (*unique, f.intent, f.outcome))
            .collect();
        intents.sort_by_key(|i| i.0);
        Self {
            nodes: found
                .nodes
                .iter()
                .map(|n| {
                    let length = n.handle.bytes.len();
                    assert_eq!(n.handle, handle(n.id, length), "a torn handle");
                    assert_eq!(n.kind, libc::S_IFREG);
                    (n.id, (length, n.lookups, n.backing.unwrap_or(0)))
                })
                .collect(),
            opens: found
                .opens
                .iter()
                .map(|o| (o.fh, (o.node, o.unique)))
                .collect(),
            intents,
        }
    }

    fn shown(&self) -> Self {
        let mut last = BTreeMap::new();
        for (unique, intent, outcome) in self.intents.iter().rev().take(SMALL.intents).rev() {
            last.insert(*unique, (*unique, *intent, *outcome));
        }
        Self {
            intents: last.into_values().collect(),
            ..self.clone()
        }
    }
}

/// A writer: the ledger, and what it remembers itself.
struct Writer {
    ledger: Ledger,
    places: BTreeMap<u64, NodePlace>,
    model: Model,
}

impl Writer {
    /// States that a reader may find if the writer dies within the call: each is a step of it.
    fn apply(&mut self, op: &Op) -> Vec<Model> {
        let mut steps = vec![self.model.shown()];
        match *op {
            Op::Add(id, length) => {
                if !self.places.contains_key(&id) {
                    let made = self.ledger.add_node(id, &handle(id, length), libc::S_IFREG);
                    self.places.insert(id, made.unwrap());
                    self.model.nodes.insert(id, (length, 1, 0));
                }
            }
            Op::Count(id) => {
                if let Some(place) = self.places.get(&id) {
                    self.ledger.count(*place);
                    self.model.nodes.get_mut(&id).unwrap().1 += 1;
                }
            }
            Op::Uncount(id, count) => {
                if let Some(place) = self.places.get(&id) {
                    self.ledger.uncount(*place, count);
                    let lookups = &mut self.model.nodes.get_mut(&id).unwrap().1;
                    *lookups = lookups.saturating_sub(count);
                }
            }
            Op::Remove(id) => {
                if let Some(place) = self.places.remove(&id) {
                    self.ledger.remove_node(place);
                    self.model.nodes.remove(&id);
                }
            }
            Op::Back(id, backing) => {
                if let Some(place) = self.places.get(&id) {
                    self.ledger.set_backing(*place, backing);
                    self.model.nodes.get_mut(&id).unwrap().2 = backing;
                }
            }
            Op::Unback(id, backing) => {
                if let Some(place) = self.places.get(&id) {
                    self.ledger.clear_backing(*place, backing);
                    let known = &mut self.model.nodes.get_mut(&id).unwrap().2;
                    *known = if *known == backing { 0 } else { *known };
                }
            }
            Op::Open(node, unique) => {
                if self.model.opens.len() < SMALL.opens {
                    let fh = self.ledger.add_open(node, unique, 5);
                    assert_eq!(fh & 7, 5);
                    assert!(self.model.opens.insert(fh, (node, unique)).is_none());
                }
            }
            Op::Close(which) => {
                if let Some(fh) = self.model.opens.keys().nth(which).copied() {
                    assert!(self.ledger.close(fh));
                    assert!(!self.ledger.close(fh), "twice is once");
                    self.model.opens.remove(&fh);
                }
            }
            Op::Intend(unique, intent, outcome) => {
                let intended = self.ledger.intend(unique, intent);
                if self.model.intents.len() >= SMALL.intents {
                    // The oldest goes before the new one stands.
                    let mut without = self.model.clone();
                    without.intents.push((0, intent, None));
                    let mut gone = without.shown();
                    gone.intents.retain(|i| i.0 != 0);
                    steps.push(gone);
                }
                self.model.intents.push((unique, intent, None));
                steps.push(self.model.shown());
                if let Some(error) = outcome {
                    self.ledger.outcome(intended, error);
                    self.model.intents.last_mut().unwrap().2 = Some(error);
                }
            }
        }
        steps.push(self.model.shown());
        steps
    }
}

proptest! {
    /// Wherever the writer dies, the reader finds what stood before the call, after it, or after
    /// one of its steps; and can go on.
    #[test]
    fn a_kill_between_any_two_stores_leaves_a_readable_ledger(
        ops in prop::collection::vec(op(), 1..40),
        last in op(),
        stores in 0u64..14,
    ) {
        let words = memory();
        let memory = mortal(&words, u64::MAX);
        let left = memory.left.clone();
        let mut writer = Writer {
            ledger: Ledger::create(memory, SMALL, 7),
            places: BTreeMap::new(),
            model: Model::default(),
        };
        for op in &ops {
            writer.apply(op);
        }
        left.store(stores, Ordering::Relaxed);
        // The dying call checks itself in the last moments; only what it left behind counts.
        let steps = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| writer.apply(&last)));
        let (ledger, found) = Ledger::inherit(mortal(&words, u64::MAX), SMALL).unwrap();
        prop_assert_eq!(ledger.root(), 7);
        prop_assert_eq!(ledger.generation(), 2);
        let seen = Model::of(&found);
        if let Ok(steps) = steps {
            prop_assert!(steps.contains(&seen), "{seen:#?} is none of {steps:#?}");
        }
        // The successor's records do not run over those found.
        let mut heir = Writer {
            places: found.nodes.iter().map(|n| (n.id, n.place)).collect(),
            model: Model { intents: Vec::new(), ..seen.clone() },
            ledger,
        };
        for op in ops.iter().filter(|op| !matches!(op, Op::Intend(..))) {
            heir.apply(op);
        }
        let (_, again) = Ledger::inherit(mortal(&words, u64::MAX), SMALL).unwrap();
        let (again, model) = (Model::of(&again), heir.model);
        prop_assert_eq!(again.nodes, model.nodes);
        prop_assert_eq!(again.opens, model.opens);
    }

    /// Numbers of opens are never given twice, also not by successors.
    #[test]
    fn numbers_of_opens_are_never_reused(rounds in prop::collection::vec(1usize..7, 1..8)) {
        let words = memory();
        let mut ledger = Ledger::create(mortal(&words, u64::MAX), SMALL, 1);
        let mut given = std::collections::HashSet::new();
        for opens in rounds {
            let fhs: Vec<_> = (0..opens as u64).map(|n| ledger.add_open(n, n, 0)).collect();
            for fh in fhs {
                prop_assert!(given.insert(fh));
                prop_assert!(ledger.close(fh));
            }
            ledger = Ledger::inherit(mortal(&words, u64::MAX), SMALL).unwrap().0;
        }
    }
}

#[test]
fn what_does_not_fit_makes_it_incomplete() {
    let full = |fill: fn(&Ledger)| {
        let words = memory();
        fill(&Ledger::create(mortal(&words, u64::MAX), SMALL, 1));
        Ledger::check(mortal(&words, 0).as_ref())
    };
    assert_eq!(full(|_| {}), Ok(()));
    let long = |l: &Ledger| assert!(l.add_node(2, &handle(2, 33), 0).is_none());
    assert_eq!(full(long), Err(Unreadable::Incomplete));
    let many = |l: &Ledger| {
        let last = (1..=7).map(|id| l.add_node(id, &handle(id, 8), 0)).last();
        assert_eq!(last, Some(None));
    };
    assert_eq!(full(many), Err(Unreadable::Incomplete));
    let opens = |l: &Ledger| {
        let fh = (1..=7).map(|id| l.add_open(id, id, 0)).last().unwrap();
        assert!(
            l.close(fh) && l.close(fh),
            "not recorded, and so not missed"
        );
    };
    assert_eq!(full(opens), Err(Unreadable::Incomplete));
}

#[test]
fn a_ledger_of_another_version_is_refused() {
    let words = memory();
    assert_eq!(
        Ledger::check(mortal(&words, 0).as_ref()),
        Err(Unreadable::Version)
    );
    Ledger::create(mortal(&words, u64::MAX), SMALL, 1);
    words[H_MAGIC].store(MAGIC + 1, Ordering::Relaxed);
    assert!(matches!(
        Ledger::inherit(mortal(&words, u64::MAX), SMALL),
        Err(Unreadable::Version)
    ));
}

#[test]
fn a_scribbled_record_is_none() {
    let words = memory();
    let ledger = Ledger::create(mortal(&words, u64::MAX), SMALL, 1);
    ledger.add_node(3, &handle(3, 12), libc::S_IFREG).unwrap();
    ledger.add_open(3, 1, 0);
    ledger.intend(9, Intent::SetNew);
    let places = [SMALL.nodes_at() + 4, SMALL.opens_at() + 1, HEADER + 2];
    for at in places {
        words[at].fetch_xor(1 << 17, Ordering::Relaxed);
    }
    let (_, found) = Ledger::inherit(mortal(&words, u64::MAX), SMALL).unwrap();
    assert_eq!(found, Found::default());
}

#[test]
fn handles_are_told_apart() {
    let mut seen = std::collections::HashSet::new();
    for id in 0..2000u64 {
        for length in [8, 12] {
            assert!(seen.insert(told(&handle(id, length))));
        }
    }
}

#[test]
fn the_mapping_is_shared_and_sparse() {
    let first = Mapping::create().unwrap();
    let second = Mapping::of(first.fd().try_clone_to_owned().unwrap()).unwrap();
    let end = Shape::REAL.words() - 1;
    first.store(end, 5);
    assert_eq!(second.load(end), 5);
    let used = rustix::fs::fstat(first.fd()).unwrap().st_blocks;
    assert!(used < 1024, "{used} blocks");
    let short = rustix::fs::memfd_create("short", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    assert!(Mapping::of(short).is_err());
}
