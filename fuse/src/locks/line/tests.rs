//! The line step by step, and against a filesystem whose locks others take, too.

use super::*;
use crate::locks::Owner;
use proptest::prelude::*;

/// All locks of a file: those taken here, and those of others.
#[derive(Default)]
struct File {
    here: Vec<(u64, Range, Kind)>,
    elsewhere: Option<(Range, Kind)>,
    unknown: bool,
}

impl File {
    fn grants(&self, ask: &Ask) -> bool {
        let other = self.elsewhere.as_ref();
        !self.shut_out(ask) && !other.is_some_and(|(range, kind)| ask.conflicts(*kind, *range))
    }
}

impl Held for File {
    fn shut_out(&self, ask: &Ask) -> bool {
        let mut others = self.here.iter().filter(|one| one.0 != ask.owner.number);
        others.any(|(_, range, kind)| ask.conflicts(*kind, *range))
    }

    fn all_known(&self) -> bool {
        !self.unknown
    }
}

fn ask(number: u64, first: u64, last: u64, kind: Kind) -> Ask {
    Ask {
        owner: Owner { node: 7, number },
        fh: number,
        process: 0,
        thread: 0,
        range: Range { first, last },
        kind: Some(kind),
        waits: true,
    }
}

fn named(next: &[(Ticket, Ask)]) -> Vec<u64> {
    next.iter().map(|(ticket, _)| ticket.0).collect()
}

/// All of them arrive, are tried for, and refused.
fn line(file: &File, asks: &[Ask]) -> (Line, Vec<Option<Duration>>) {
    let mut line = Line::default();
    let mut steps = Vec::new();
    for (number, ask) in asks.iter().enumerate() {
        let ticket = Ticket(number as u64);
        line.enter(ticket, *ask);
        let refused = line.refused(ticket, file);
        assert_eq!(refused.next, []);
        steps.push(refused.again.map(|again| again.0));
    }
    (line, steps)
}

const WRITE: Kind = Kind::Write;
const READ: Kind = Kind::Read;

#[test]
fn who_is_shut_out_here_is_not_tried_for() {
    let mut file = File::default();
    file.here.push((1, Range { first: 0, last: 9 }, WRITE));
    let asks = [ask(2, 0, 9, WRITE), ask(3, 5, 5, READ), ask(3, 6, 6, READ)];
    let (mut line, steps) = line(&file, &asks);
    assert_eq!(steps, [None; 3]);
    file.here.clear();
    let beside = line.freed(
        Range {
            first: 10,
            last: 20,
        },
        &file,
    );
    assert_eq!(beside, [], "that is not what they wait for");
    let freed = line.freed(Range { first: 0, last: 4 }, &file);
    assert_eq!(named(&freed), [0]);
    let freed = line.freed(Range { first: 5, last: 9 }, &file);
    assert_eq!(freed, [], "readers behind the writer that is tried for");
    file.here.push((2, Range { first: 0, last: 9 }, WRITE));
    assert_eq!(line.left(Ticket(0), &file), []);
    file.here = vec![(2, Range { first: 5, last: 5 }, READ)];
    let freed = line.freed(Range { first: 0, last: 9 }, &file);
    assert_eq!(named(&freed), [1, 2], "beside another reader");
}

#[test]
fn who_is_in_its_own_way_is_in_nobodys() {
    let mut file = File::default();
    file.here.push((1, Range { first: 0, last: 9 }, WRITE));
    let (mut line, steps) = line(&file, &[ask(1, 5, 5, WRITE), ask(1, 5, 6, READ)]);
    assert_eq!(steps, [Some(FIRST_STEP); 2]);
    // One who asks for less is tried for instead of who asks for more.
    line.enter(Ticket(2), ask(1, 5, 5, READ));
    let refused = line.refused(Ticket(2), &file);
    assert_eq!(refused.again.map(|again| again.0), Some(FIRST_STEP));
    assert_eq!(line.due(Ticket(0), 1, &file), []);
    assert_eq!(line.due(Ticket(1), 2, &file), []);
    assert_eq!(named(&line.due(Ticket(2), 3, &file)), [2]);
    assert_eq!(named(&line.left(Ticket(2), &file)), [0, 1]);
}

#[test]
fn one_is_tried_for_of_all_who_want_the_same() {
    let file = File {
        elsewhere: Some((Range { first: 0, last: 9 }, WRITE)),
        ..File::default()
    };
    let asks = [
        ask(1, 0, 9, READ),
        ask(2, 0, 9, READ),
        ask(3, 0, 20, WRITE),
        ask(4, 5, 12, READ),
    ];
    let (mut line, steps) = line(&file, &asks);
    assert_eq!(steps, [Some(FIRST_STEP), None, None, Some(FIRST_STEP)]);
    // Each time a little later.
    let mut step = FIRST_STEP;
    for turn in [1, 3, 4, 5, 6, 7, 8, 9] {
        assert_eq!(line.due(Ticket(0), turn + 100, &file), [], "another turn");
        assert_eq!(named(&line.due(Ticket(0), turn, &file)), [0]);
        let refused = line.refused(Ticket(0), &file);
        step = (step * 2).min(LONGEST_STEP);
        assert_eq!(refused.again.map(|again| again.0), Some(step));
        assert_eq!(refused.next, []);
    }
    assert_eq!(step, LONGEST_STEP);
    // It gives up: another is tried for in its place.
    assert_eq!(named(&line.left(Ticket(0), &file)), [1]);
}

#[test]
fn each_is_tried_for_while_it_is_not_known_what_is_locked() {
    let file = File {
        unknown: true,
        ..File::default()
    };
    let (_, steps) = line(&file, &[ask(1, 0, 9, WRITE), ask(2, 0, 9, WRITE)]);
    assert_eq!(steps, [Some(FIRST_STEP); 2]);
}

#[derive(Debug, Clone)]
enum Step {
    Arrives(u64, u64, u64, bool),
    /// The n-th of those who are tried for.
    Tried(usize),
    Unlocks(u64),
    Elsewhere(Option<(u64, u64, bool)>),
    Clock,
    GivesUp(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let range = || (0_u64..8, 0_u64..8, any::<bool>());
    prop_oneof![
        3 => (1_u64..5, range()).prop_map(|(o, (a, b, w))| Step::Arrives(o, a, b, w)),
        4 => (0_usize..4).prop_map(Step::Tried),
        2 => (1_u64..5).prop_map(Step::Unlocks),
        1 => proptest::option::of(range()).prop_map(Step::Elsewhere),
        1 => Just(Step::Clock),
        1 => (0_u64..20).prop_map(Step::GivesUp),
    ]
}

fn part(a: u64, b: u64, writes: bool) -> (Range, Kind) {
    let (first, last) = (a.min(b), a.max(b));
    (Range { first, last }, if writes { WRITE } else { READ })
}

#[derive(Default)]
struct World {
    file: File,
    line: Line,
    tried: Vec<(Ticket, Ask)>,
    due: Vec<(Ticket, u64)>,
    tickets: u64,
    granted: u64,
}

impl World {
    fn take(&mut self, step: Step) {
        match step {
            Step::Arrives(owner, a, b, writes) => {
                let (range, kind) = part(a, b, writes);
                let ask = ask(owner, range.first, range.last, kind);
                self.tickets += 1;
                self.line.enter(Ticket(self.tickets), ask);
                self.tried.push((Ticket(self.tickets), ask));
            }
            Step::Tried(at) if at < self.tried.len() => {
                let (ticket, ask) = self.tried.remove(at);
                let next = if self.file.grants(&ask) {
                    let kind = ask.kind.unwrap();
                    self.file.here.push((ask.owner.number, ask.range, kind));
                    self.granted += 1;
                    self.line.left(ticket, &self.file)
                } else {
                    let refused = self.line.refused(ticket, &self.file);
                    self.due
                        .extend(refused.again.map(|again| (ticket, again.1)));
                    refused.next
                };
                self.tried.extend(next);
            }
            Step::Tried(_) => {}
            Step::Unlocks(owner) => {
                self.file.here.retain(|one| one.0 != owner);
                self.tried.extend(self.line.freed(Range::WHOLE, &self.file));
            }
            Step::Elsewhere(lock) => {
                self.file.elsewhere = lock.map(|(a, b, writes)| part(a, b, writes));
            }
            Step::Clock => {
                for (ticket, turn) in std::mem::take(&mut self.due) {
                    self.tried.extend(self.line.due(ticket, turn, &self.file));
                }
            }
            Step::GivesUp(number) => {
                let ticket = Ticket(number);
                // While it is tried for, it is answered after that.
                if !self.tried.iter().any(|one| one.0 == ticket) {
                    self.tried.extend(self.line.left(ticket, &self.file));
                }
            }
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        for (at, one) in self.line.waiters.iter().enumerate() {
            let tried = self.tried.iter().filter(|t| t.0 == one.ticket).count();
            prop_assert_eq!(tried, usize::from(one.state == State::Tried));
            match one.state {
                State::Behind => prop_assert!(!self.line.is_free(at, &self.file, true)),
                State::Due(turn) => prop_assert!(self.due.contains(&(one.ticket, turn))),
                State::Tried => {}
            }
        }
        Ok(())
    }
}

proptest! {
    /// Nobody is forgotten: who is behind somebody has a reason to be, and when all others give
    /// their locks up everybody gets his.
    #[test]
    fn everybody_gets_his_lock_in_the_end(
        steps in proptest::collection::vec(step(), 1..80)
    ) {
        let mut world = World::default();
        for step in steps {
            world.take(step);
            world.check()?;
        }
        world.take(Step::Elsewhere(None));
        for _ in 0..1000 {
            for owner in 1..5 {
                world.take(Step::Unlocks(owner));
                world.take(Step::Tried(0));
                world.check()?;
            }
            world.take(Step::Clock);
        }
        prop_assert!(world.line.is_empty());
    }
}
