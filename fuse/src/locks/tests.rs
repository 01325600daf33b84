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
        step: Duration::ZERO,
    }
}

proptest! {
    /// Against a list of bytes; the last of them stands for all behind it.
    #[test]
    fn covered_bytes_are_those_that_were_locked_last(
        steps in proptest::collection::vec((any::<bool>(), 0_u64..24, 0_u64..24), 1..40)
    ) {
        let mut covered = Covered::default();
        let mut model = [false; 24];
        for (locks, a, b) in steps {
            let (first, last) = (a.min(b), a.max(b));
            model[first as usize..=last as usize].fill(locks);
            let part = range(first, if last == 23 { END } else { last });
            if locks {
                covered.add(part);
            } else {
                covered.remove(part);
            }
            for (at, locked) in model.iter().enumerate() {
                let here = range(at as u64, at as u64);
                prop_assert_eq!(covered.0.iter().any(|held| held.overlaps(here)), *locked);
            }
            for two in covered.0.windows(2) {
                prop_assert!(two[0].last + 1 < two[1].first, "sorted, apart: {:?}", covered);
            }
        }
    }
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
fn who_waits_is_tried_for_once() {
    let mut locks = Locks::<char>::new(9);
    let tickets = [1, 2, 3].map(Ticket);
    for ticket in tickets {
        locks.wait(ticket, ask(ME, 10, range(ticket.0, ticket.0)));
    }
    assert!(locks.take_waiting(8, tickets[1]).is_none());
    let taken = locks.take_waiting(7, tickets[1]).unwrap();
    assert_eq!(taken.range, range(2, 2));
    assert!(locks.take_waiting(7, tickets[1]).is_none());
    let rest: Vec<_> = locks.take_all_waiting(7).iter().map(|w| w.0).collect();
    assert_eq!(rest, [tickets[0], tickets[2]]);
    assert!(locks.take_all_waiting(7).is_empty());
    assert!(locks.waiting.is_empty());
}
