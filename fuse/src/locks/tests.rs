//! Locked bytes against a list of them; descriptions, turns and waits step by step.

use super::*;
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const ME: Owner = Owner { node: 7, number: 1 };
const YOU: Owner = Owner { node: 7, number: 2 };

fn range(first: u64, last: u64) -> Range {
    Range { first, last }
}

fn ask(owner: Owner, fh: u64, range: Range) -> Ask {
    Ask {
        owner,
        fh,
        process: owner.number as u32 * 100,
        thread: 0,
        range,
        kind: Some(Kind::Write),
        waits: true,
    }
}

fn kind() -> impl Strategy<Value = Option<Kind>> {
    prop_oneof![Just(None), Just(Some(Kind::Read)), Just(Some(Kind::Write))]
}

proptest! {
    /// Against a list of bytes; the last of them stands for all behind it.
    #[test]
    fn covered_bytes_are_as_they_were_locked_last(
        steps in proptest::collection::vec((any::<bool>(), kind(), 0_u64..24, 0_u64..24), 1..40)
    ) {
        let mut covered = Covered::default();
        let mut model = [None; 24];
        for (locks, kind, a, b) in steps {
            let (first, last) = (a.min(b), a.max(b));
            model[first as usize..=last as usize].fill(locks.then_some(kind));
            let part = range(first, if last == 23 { END } else { last });
            if locks {
                covered.add(part, kind);
            } else {
                covered.remove(part);
            }
            for (at, locked) in model.iter().enumerate() {
                let here = range(at as u64, at as u64);
                let mut there = covered.0.iter().filter(|held| held.range.overlaps(here));
                prop_assert_eq!(there.next().map(|held| held.kind), *locked);
                prop_assert!(there.next().is_none(), "once: {:?}", covered);
            }
            for two in covered.0.windows(2) {
                let apart = two[0].range.last + 1 < two[1].range.first;
                prop_assert!(apart || two[0].kind != two[1].kind, "joined: {:?}", covered);
                prop_assert!(two[0].range.last < two[1].range.first, "sorted: {:?}", covered);
            }
        }
    }
}

#[test]
fn writers_shut_others_out_and_readers_writers() {
    let mut locks = Locks::new(9);
    let reads = |owner| Ask {
        kind: Some(Kind::Read),
        ..ask(owner, 10, range(5, 5))
    };
    let writes = |owner| ask(owner, 10, range(5, 5));
    locks.locked(&ask(ME, 10, range(0, 9)), 'd');
    assert!(locks.is_shut_out(&reads(YOU)) && locks.is_shut_out(&writes(YOU)));
    assert!(!locks.is_shut_out(&writes(ME)), "not by one's own");
    assert!(
        !locks.is_shut_out(&ask(YOU, 10, range(10, END))),
        "beside it"
    );
    locks.locked(&reads(ME), 'd');
    assert!(!locks.is_shut_out(&reads(YOU)) && locks.is_shut_out(&writes(YOU)));
    let unlocks = Ask {
        kind: None,
        ..writes(YOU)
    };
    assert!(!locks.is_shut_out(&unlocks));
}

#[test]
fn what_a_predecessors_locks_are_is_asked_of_the_backing() {
    let mut locks = Locks::new(9);
    locks.adopt(ME, 10, 100, 'd');
    assert!(!locks.is_shut_out(&ask(YOU, 11, range(0, 9))));
    assert_eq!(locks.process_at(YOU, 5), None, "it may be another's");
    locks.locked(&ask(ME, 10, range(0, 9)), 'd');
    assert!(locks.is_shut_out(&ask(YOU, 11, range(0, 9))));
    assert_eq!(locks.process_at(YOU, 5), Some(100));
    assert_eq!(locks.process_at(YOU, 10), None);
    assert_eq!(locks.unlocked(ME, range(0, 9)), None, "perhaps not all");
    assert_eq!(locks.unlocked(ME, Range::WHOLE), Some('d'));
}

#[test]
fn a_description_is_given_back_with_its_last_lock() {
    let mut locks = Locks::new(2);
    locks.locked(&ask(ME, 10, range(0, 9)), 'd');
    locks.locked(&ask(ME, 10, range(20, END)), 'e');
    assert_eq!(locks.description(ME), Some('d'), "the first one stays");
    assert_eq!(locks.unlocked(ME, range(0, 4)), None);
    assert_eq!(locks.unlocked(ME, range(20, END)), None);
    assert_eq!(locks.unlocked(YOU, Range::WHOLE), None);
    assert_eq!(locks.unlocked(ME, range(5, 9)), Some('d'));
    assert_eq!(locks.description(ME), None);
    assert!(locks.holders.is_empty());
    // A new one counts anew, and room is what is left.
    locks.locked(&ask(ME, 10, range(0, 0)), 'f');
    assert!(locks.has_room());
    locks.locked(&ask(YOU, 11, range(1, 1)), 'g');
    assert!(!locks.has_room());
    assert_eq!(locks.unlocked(ME, Range::WHOLE), Some('f'));
    assert!(locks.has_room());
}

#[test]
fn a_lock_belongs_to_the_latest_open_that_it_came_through() {
    let mut locks = Locks::new(9);
    locks.locked(&ask(ME, 10, range(0, 9)), 'd');
    locks.locked(&ask(YOU, 10, range(10, 19)), 'e');
    locks.locked(&ask(ME, 11, range(30, 39)), 'd');
    assert_eq!(locks.through(7, 10), [YOU]);
    assert_eq!(locks.through(7, 11), [ME]);
    assert!(locks.through(8, 10).is_empty());
    assert_eq!(locks.process_at(YOU, 35), Some(100));
    assert_eq!(
        locks.process_at(ME, 35),
        None,
        "one's own is in no one's way"
    );
    assert_eq!(locks.process_at(YOU, 25), None);
}

#[test]
fn one_owners_turns_follow_each_other() {
    let mut locks = Locks::<char>::new(9);
    let done = Arc::new(AtomicU32::new(0));
    let job = |number: u32| -> Job {
        let done = done.clone();
        Box::new(move || done.store(number, Ordering::Relaxed))
    };
    assert!(!locks.concerns(ME));
    locks.begin(ME, job(1)).unwrap()();
    assert!(locks.concerns(ME), "while it is its turn");
    assert!(locks.begin(ME, job(2)).is_none());
    assert!(locks.begin(ME, job(3)).is_none());
    assert!(locks.begin(YOU, job(4)).is_some(), "others do not wait");
    for number in [2, 3] {
        locks.end(ME).unwrap()();
        assert_eq!(done.load(Ordering::Relaxed), number);
    }
    assert!(locks.end(ME).is_none());
    assert!(!locks.concerns(ME));
}

#[test]
fn who_waits_is_tried_for_by_one() {
    let mut locks = Locks::new(9);
    locks.locked(&ask(YOU, 10, range(0, 9)), 'd');
    let tickets = [1, 2, 3].map(Ticket);
    for ticket in tickets {
        locks.wait(ticket, ask(ME, 11, range(ticket.0, ticket.0)));
        assert_eq!(locks.refused(7, ticket), Refused::default());
    }
    assert_eq!(locks.unlocked(YOU, Range::WHOLE), Some('d'));
    let mut freed = || -> Vec<_> {
        let next = locks.freed(7, Range::WHOLE);
        next.iter().map(|one| one.0).collect()
    };
    assert_eq!(freed(), tickets);
    assert_eq!(freed(), []);
    assert!(locks.freed(8, Range::WHOLE).is_empty());
    for ticket in tickets {
        assert_eq!(locks.left(7, ticket), []);
        assert_eq!(locks.left(7, ticket), [], "it has gone already");
    }
    assert!(locks.waiting.is_empty());
}
