//! Random events against a model of who may hear what.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const LIMITS: Limits = Limits {
    ahead: 4,
    window: 4,
    in_flight: 3,
};

#[derive(Debug, Clone)]
enum Event {
    Read(u32, u32),
    Whole(bool),
    GiveUp(usize),
    Next,
    Over(usize, u8),
    Stream,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0_u32..40, 0_u32..3).prop_map(|(a, n)| Event::Read(a, n)),
        1 => any::<bool>().prop_map(Event::Whole),
        1 => (0_usize..8).prop_map(Event::GiveUp),
        6 => Just(Event::Next),
        6 => (0_usize..3, any::<u8>()).prop_map(|(i, f)| Event::Over(i, f)),
        1 => Just(Event::Stream),
    ]
}

/// What the world outside the machine knows.
struct World {
    total: u32,
    progress: Progress,
    next_id: WaiterId,
    readers: Vec<(WaiterId, Range<u32>)>,
    whole: Vec<WaiterId>,
    flying: Vec<Run>,
    at_hand: BTreeSet<u32>,
    bad: BTreeSet<u32>,
    cursor: u32,
}

impl World {
    fn new(total: u32) -> Self {
        Self {
            total,
            progress: Progress::new(total, LIMITS, false),
            next_id: 1,
            readers: Vec::new(),
            whole: Vec::new(),
            flying: Vec::new(),
            at_hand: BTreeSet::new(),
            bad: BTreeSet::new(),
            cursor: 0,
        }
    }

    fn heard(&mut self, effects: Effects) {
        for (id, verdict) in effects.answers {
            if let Some(at) = self.readers.iter().position(|(r, _)| *r == id) {
                let (_, range) = self.readers.remove(at);
                match verdict {
                    Verdict::Ready => assert!(
                        range.clone().all(|b| self.at_hand.contains(&b)),
                        "{range:?} answered before it was there"
                    ),
                    Verdict::Bad => assert!(range.clone().any(|b| self.bad.contains(&b))),
                    Verdict::NoRoom => panic!("a reader is never told that there is no room"),
                }
            } else {
                let at = self.whole.iter().position(|w| *w == id);
                self.whole.remove(at.expect("answered twice, or nobody"));
                assert_ne!(
                    verdict,
                    Verdict::Ready,
                    "the shell says when a file is whole"
                );
            }
        }
        for block in effects.evicted {
            assert!(self.at_hand.remove(&block));
            assert!(!self.readers.iter().any(|(_, r)| r.contains(&block)));
        }
    }

    fn next(&mut self) -> Option<Run> {
        let missing = |w: &Self, b: &u32| {
            !w.at_hand.contains(b)
                && !w.bad.contains(b)
                && !w.flying.iter().any(|r| r.blocks().contains(b))
        };
        let demanded: Vec<u32> = self
            .readers
            .iter()
            .flat_map(|(_, r)| r.clone())
            .filter(|b| missing(self, b))
            .collect();
        let run = self.progress.next()?;
        assert!(run.count > 0 && run.blocks().end <= self.total);
        assert!(
            run.blocks().all(|b| missing(self, &b)),
            "fetched twice: {run:?}"
        );
        assert_eq!(run.urgent, !demanded.is_empty(), "readers come first");
        if run.urgent {
            assert!(demanded.contains(&run.first) && run.count == 1);
        } else {
            let ahead = (self.cursor..self.total).find(|b| missing(self, b));
            let gap = (0..self.total).find(|b| missing(self, b));
            assert_eq!(Some(run.first), ahead.or(gap), "order");
            assert!(run.count <= LIMITS.ahead);
        }
        self.cursor = run.blocks().end;
        self.flying.push(run);
        assert!(self.flying.len() <= LIMITS.in_flight as usize);
        Some(run)
    }

    fn over(&mut self, which: usize, fate: u8) {
        if self.flying.is_empty() {
            return;
        }
        let run = self.flying.remove(which % self.flying.len());
        for block in run.blocks() {
            let effects = match fate.wrapping_add(block as u8) % 16 {
                0 => {
                    self.bad.insert(block);
                    self.progress.failed(block)
                }
                1 => {
                    self.progress.returned(block);
                    Effects::default()
                }
                _ => {
                    self.at_hand.insert(block);
                    self.progress.arrived(block)
                }
            };
            self.heard(effects);
        }
        self.progress.run_over();
    }

    fn apply(&mut self, event: &Event) {
        match *event {
            Event::Read(first, n) => {
                let (id, range) = (
                    self.next_id,
                    first.min(self.total)..(first + n).min(self.total),
                );
                self.next_id += 1;
                let range = range.start.min(range.end)..range.end;
                self.readers.push((id, range.clone()));
                let effects = self.progress.read(id, range);
                self.heard(effects);
            }
            Event::Whole(implicit) => {
                let id = self.next_id;
                self.next_id += 1;
                self.whole.push(id);
                let effects = self.progress.want_whole(id, implicit);
                self.heard(effects);
            }
            Event::GiveUp(n) => {
                if n < self.readers.len() {
                    let (id, _) = self.readers.remove(n);
                    self.progress.give_up(id);
                } else if let Some(id) = self.whole.pop() {
                    self.progress.give_up(id);
                }
            }
            Event::Next => {
                self.next();
            }
            Event::Over(which, fate) => self.over(which, fate),
            Event::Stream => {
                if !self.progress.is_streaming() {
                    self.at_hand.clear();
                }
                let effects = self.progress.stream();
                self.heard(effects);
                assert!(
                    self.whole.is_empty(),
                    "nobody waits for a file that has no room"
                );
            }
        }
        self.check();
    }

    fn check(&self) {
        assert_eq!(self.progress.here() as usize, self.at_hand.len());
        for (id, range) in &self.readers {
            let open = range.clone().any(|b| !self.at_hand.contains(&b));
            assert!(open, "reader {id} of {range:?} should have been answered");
            assert!(
                !range.clone().any(|b| self.bad.contains(&b)),
                "reader {id} waits for nothing"
            );
        }
        if self.progress.is_streaming() {
            let needed = self.at_hand.iter();
            let needed = needed.filter(|b| self.readers.iter().any(|(_, r)| r.contains(b)));
            assert!(self.at_hand.len() <= LIMITS.window as usize + needed.count());
        }
    }

    /// Lets everything in flight and everything still wanted arrive.
    fn drain(&mut self) {
        for _ in 0..10_000 {
            while self.next().is_some() {}
            if self.flying.is_empty() {
                return;
            }
            let run = self.flying.remove(0);
            for block in run.blocks() {
                self.at_hand.insert(block);
                let effects = self.progress.arrived(block);
                self.heard(effects);
            }
            self.progress.run_over();
            self.check();
        }
        panic!("never comes to an end");
    }
}

proptest! {
    #[test]
    fn every_waiter_hears_the_truth_once(
        total in 0_u32..40,
        events in prop::collection::vec(event(), 0..120),
    ) {
        let mut world = World::new(total);
        let (mut implicit, mut answered_whole) = (false, false);
        for e in &events {
            implicit |= matches!(e, Event::Read(..) | Event::Whole(true));
            answered_whole |= matches!(e, Event::Whole(_));
            world.apply(e);
        }
        world.drain();
        prop_assert!(world.readers.is_empty(), "readers left: {:?}", world.readers);
        let standing = world.progress.standing();
        if world.progress.is_streaming() {
            prop_assert_eq!(standing, Standing::Idle);
        } else if !world.whole.is_empty() {
            prop_assert_eq!(standing, Standing::Complete);
        } else if world.at_hand.len() == total as usize {
            prop_assert_eq!(standing, Standing::Complete);
        } else if standing == Standing::Unwanted {
            prop_assert!(!events.iter().any(|e| matches!(e, Event::Read(..))));
        } else {
            prop_assert_eq!(standing, Standing::Damaged);
            prop_assert!(implicit && !world.bad.is_empty());
        }
        let _ = answered_whole;
    }
}

#[test]
fn a_far_read_moves_its_range_up_and_goes_on_from_there() {
    let mut world = World::new(20);
    world.apply(&Event::Read(0, 1));
    assert_eq!(world.next().map(|r| (r.first, r.count)), Some((0, 1)));
    assert_eq!(world.next().map(|r| (r.first, r.count)), Some((1, 1)));
    world.apply(&Event::Read(15, 1));
    let far = world.next().expect("the far block");
    assert_eq!((far.first, far.urgent), (15, true));
    world.over(0, 2);
    assert_eq!(world.next().map(|r| (r.first, r.urgent)), Some((16, false)));
    world.drain();
    assert_eq!(world.progress.standing(), Standing::Complete);
}

#[test]
fn a_cancelled_stage_stops_and_an_implicit_recall_goes_on() {
    let mut progress = Progress::new(4, LIMITS, false);
    progress.want_whole(1, false);
    progress.give_up(1);
    assert_eq!(progress.standing(), Standing::Unwanted);
    assert_eq!(progress.next(), None);
    progress.read(2, 0..1);
    progress.give_up(2);
    assert_eq!(progress.standing(), Standing::Working);
    assert!(progress.next().is_some());
}
