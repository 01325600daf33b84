//! Who leads, and when; and that nobody waits for ever.

use super::*;
use proptest::prelude::*;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

const HOUR: Duration = Duration::from_secs(3600);

fn together(files: u32, bytes: u64, age: Duration) -> Together {
    Together { files, bytes, age }
}

fn front(place: &TempDir, len: usize) -> Front {
    let mut front = Front::new(File::open(place.path()).expect("directory"));
    front.add(&vec![1; len]).expect("is taken");
    front
}

fn join(batches: &Batches, place: &TempDir, len: usize) -> u64 {
    let name = AggregateId { epoch: 1, seq: 1 };
    batches.join(name, front(place, len), Crc32c(0), true)
}

fn lead<'b>(batches: &'b Batches, ticket: u64, bounds: &Together, drives: usize) -> Lead<'b> {
    match batches.turn(ticket, bounds, drives, &|| false) {
        Turn::Lead(lead) => lead,
        Turn::Ended(written) => panic!("{written:?}"),
    }
}

fn due(batches: &Batches, ticket: u64, bounds: &Together, drives: usize) -> Due {
    batches.line.lock().due(ticket, bounds, drives)
}

fn tickets(lead: &Lead<'_>) -> Vec<u64> {
    lead.jobs().iter().map(|job| job.ticket).collect()
}

#[test]
fn what_comes_while_one_gathers_goes_with_it_and_what_comes_later_waits_for_a_drive() {
    let (place, batches) = (
        TempDir::new().expect("temporary directory"),
        Batches::default(),
    );
    let bounds = together(3, 1 << 30, Duration::ZERO);
    let first = join(&batches, &place, 10);
    let mut one = lead(&batches, first, &bounds, 2);
    // A second drive is there, and the first leader still takes what comes.
    let second = join(&batches, &place, 10);
    assert_eq!(due(&batches, second, &bounds, 2), Due::Later);
    one.gather(|_| true);
    assert_eq!(tickets(&one), [first, second]);
    let third = join(&batches, &place, 10);
    assert_eq!(due(&batches, third, &bounds, 1), Due::Later);
    let mut two = lead(&batches, third, &bounds, 2);
    two.gather(|_| true);
    let fourth = join(&batches, &place, 10);
    assert_eq!(due(&batches, fourth, &bounds, 2), Due::Later, "both drives");
    one.end(|_| Some(Ok(Proof::ReadBack)));
    drop(one);
    assert_eq!(due(&batches, fourth, &bounds, 2), Due::Now);
    assert!(matches!(
        batches.turn(second, &bounds, 2, &|| false),
        Turn::Ended(Ok(Proof::ReadBack))
    ));
}

#[test]
fn another_drive_is_asked_for_when_more_waits_than_goes_together() {
    let (place, batches) = (
        TempDir::new().expect("temporary directory"),
        Batches::default(),
    );
    for bounds in [together(2, 1 << 30, HOUR), together(64, 20, HOUR)] {
        let one = join(&batches, &place, 10);
        assert!(matches!(due(&batches, one, &bounds, 2), Due::At(_)));
        let two = join(&batches, &place, 10);
        // Full: nobody waits for company.
        let first = lead(&batches, two, &bounds, 2);
        assert_eq!(tickets(&first), [one], "who came first");
        let three = join(&batches, &place, 5);
        assert_eq!(
            due(&batches, three, &bounds, 2),
            if bounds.files == 2 {
                Due::Now
            } else {
                Due::Later
            }
        );
        let four = join(&batches, &place, 10);
        assert_eq!(due(&batches, four, &bounds, 2), Due::Now);
        batches.line.lock().waiting.clear();
    }
}

#[test]
fn one_that_comes_alone_is_due_at_once_or_after_its_age_or_with_one_that_waits_for_nobody() {
    let (place, batches) = (
        TempDir::new().expect("temporary directory"),
        Batches::default(),
    );
    let now = together(16, 1 << 30, Duration::ZERO);
    let later = together(16, 1 << 30, HOUR);
    let ticket = join(&batches, &place, 10);
    assert_eq!(due(&batches, ticket, &now, 1), Due::Now);
    let Due::At(when) = due(&batches, ticket, &later, 1) else {
        panic!("it waits for company");
    };
    assert!(when > Instant::now() + HOUR / 2);
    let batches = Arc::new(batches);
    let waiter = Arc::clone(&batches);
    let waits = thread::spawn(move || {
        let lead = lead(&waiter, ticket, &later, 1);
        tickets(&lead)
    });
    // One that waits for nobody takes it along.
    let name = AggregateId { epoch: 1, seq: 2 };
    batches.join(name, front(&place, 10), Crc32c(0), false);
    batches.changed.notify_all();
    assert_eq!(waits.join().expect("leads"), [ticket]);
}

#[test]
fn one_that_nobody_wants_any_more_leaves_the_line_unless_it_was_taken_up() {
    let (place, batches) = (
        TempDir::new().expect("temporary directory"),
        Batches::default(),
    );
    let bounds = together(16, 1 << 30, HOUR);
    let (one, two) = (join(&batches, &place, 10), join(&batches, &place, 10));
    // Asked without the line's lock: who answers may look at it.
    let turn = batches.turn(one, &bounds, 1, &|| batches.waiting() == 2);
    assert!(matches!(turn, Turn::Ended(Err(LibraryError::Unwanted))));
    let taken = lead(&batches, two, &together(16, 1 << 30, Duration::ZERO), 1);
    thread::scope(|scope| {
        let (asked, answers) = channel();
        let (of, bounds) = (&batches, &bounds);
        let writer = scope.spawn(move || {
            let unwanted = || asked.send(()).is_ok();
            let Turn::Ended(written) = of.turn(two, bounds, 1, &unwanted) else {
                panic!("somebody else has it");
            };
            written
        });
        answers.recv().expect("is asked");
        answers.recv().expect("and again");
        let mut taken = taken;
        taken.end(|_| Some(Ok(Proof::ReadBack)));
        let written = writer.join().expect("no panic");
        assert!(matches!(written, Ok(Proof::ReadBack)));
    });
}

#[test]
fn at_a_stop_nobody_waits_and_snapshots_alone_are_taken_up() {
    let (place, batches) = (
        TempDir::new().expect("temporary directory"),
        Batches::default(),
    );
    let bounds = together(16, 1 << 30, HOUR);
    let one = join(&batches, &place, 10);
    let mut busy = {
        let now = together(16, 1 << 30, Duration::ZERO);
        lead(&batches, one, &now, 1)
    };
    busy.gather(|_| true);
    let two = join(&batches, &place, 10);
    let snapshot = AggregateId { epoch: 1, seq: 9 }.snapshot();
    let three = batches.join(snapshot, front(&place, 10), Crc32c(0), false);
    batches.hurry();
    let stopped = |ticket| {
        let turn = batches.turn(ticket, &bounds, 1, &|| false);
        matches!(turn, Turn::Ended(Err(LibraryError::Stopping)))
    };
    assert!(stopped(two));
    // What is in hand, and put back, is not begun again.
    busy.put_back(|_| {});
    drop(busy);
    assert!(stopped(one));
    assert!(stopped(join(&batches, &place, 10)));
    assert_eq!(tickets(&lead(&batches, three, &bounds, 1)), [three]);
}

#[test]
fn at_a_stop_a_snapshot_is_not_kept_from_the_tape_by_one_whose_writer_was_not_told_yet() {
    let (place, batches) = (
        TempDir::new().expect("temporary directory"),
        Batches::default(),
    );
    let bounds = together(16, 1 << 30, HOUR);
    let one = join(&batches, &place, 10);
    let snapshot = AggregateId { epoch: 1, seq: 9 }.snapshot();
    let two = batches.join(snapshot, front(&place, 10), Crc32c(0), false);
    batches.hurry();
    assert_eq!(tickets(&lead(&batches, two, &bounds, 1)), [two]);
    let turn = batches.turn(one, &bounds, 1, &|| false);
    assert!(matches!(turn, Turn::Ended(Err(LibraryError::Stopping))));
}

/// What one who leads does to those in his hands, or dies of; each for the n-th that he looks at.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Gather(usize),
    End(usize),
    PutBack(usize),
    Leave,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        (0..6_usize).prop_map(Deed::Gather),
        (0..6_usize).prop_map(Deed::End),
        (0..6_usize).prop_map(Deed::PutBack),
        Just(Deed::Leave),
    ]
}

fn dies(left: &mut usize) {
    assert!(*left > 0, "dies");
    *left -= 1;
}

fn act(lead: &mut Lead<'_>, deed: Deed) {
    match deed {
        Deed::Gather(mut left) => lead.gather(|job| {
            dies(&mut left);
            job.ticket % 3 != 0
        }),
        Deed::End(mut left) => lead.end(|job| {
            dies(&mut left);
            (job.ticket % 2 == 0).then_some(Ok(Proof::ReadBack))
        }),
        Deed::PutBack(mut left) => lead.put_back(|job| {
            dies(&mut left);
            job.alone = true;
        }),
        Deed::Leave => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_one_who_leads_does_and_dies_of_each_object_has_one_place(
        count in 1..6_u64,
        deeds in prop::collection::vec(deed(), 1..12),
    ) {
        let place = TempDir::new().expect("temporary directory");
        let batches = Batches::default();
        let bounds = together(16, 1 << 30, Duration::ZERO);
        let all: BTreeSet<u64> = (0..count).map(|_| join(&batches, &place, 1)).collect();
        for deeds in deeds.chunks(3) {
            let Some(first) = batches.line.lock().waiting.front().map(|job| job.ticket) else {
                break;
            };
            let mut leads = lead(&batches, first, &bounds, 1);
            let died = catch_unwind(AssertUnwindSafe(|| {
                deeds.iter().for_each(|deed| act(&mut leads, *deed));
            }));
            // Nobody is lost between the line, the hands and the results; nor there twice.
            let line = batches.line.lock();
            let mut places: Vec<u64> = line.waiting.iter().map(|job| job.ticket).collect();
            places.extend(tickets(&leads));
            places.extend(line.ended.keys());
            drop(line);
            places.sort_unstable();
            prop_assert_eq!(places, Vec::from_iter(all.iter().copied()), "{:?}", died.is_err());
            drop(leads);
            prop_assert_eq!(batches.line.lock().leaders, 0);
            prop_assert_eq!(batches.line.lock().gathering, 0);
        }
        // Whoever waits leads, or has a result.
        for ticket in &all {
            if let Turn::Lead(mut leads) = batches.turn(*ticket, &bounds, 1, &|| false) {
                leads.end(|_| Some(Ok(Proof::ReadBack)));
                drop(leads);
                batches.leave(*ticket);
            }
        }
        let line = batches.line.lock();
        prop_assert!(line.waiting.is_empty() && line.ended.is_empty());
    }
}

#[test]
fn over_whom_a_drive_loses_its_place_twice_goes_elsewhere_alone_and_the_others_try_once_more() {
    let (place, batches) = (
        TempDir::new().expect("temporary directory"),
        Batches::default(),
    );
    let bounds = together(16, 1 << 30, Duration::ZERO);
    let barcode: Barcode = "CRN001L8".parse().expect("barcode");
    let lose = |ticket| {
        let mut leads = lead(&batches, ticket, &bounds, 1);
        leads.gather(|_| true);
        leads.lost(barcode, || LibraryError::Elsewhere);
    };
    let old: Vec<u64> = (0..2).map(|_| join(&batches, &place, 10)).collect();
    lose(old[0]);
    let new = join(&batches, &place, 10);
    lose(old[0]);
    let line = batches.line.lock();
    for job in &line.waiting {
        let twice = job.ticket != new;
        assert_eq!(job.tried.contains(&barcode), twice);
        assert_eq!(job.alone, twice);
        assert_eq!(job.last.is_some(), twice, "each has its own error");
        assert_eq!(job.again.is_some(), !twice);
    }
    assert_eq!(line.waiting.len(), 3);
}

#[test]
fn those_put_back_come_first_again_in_their_order() {
    let (place, batches) = (
        TempDir::new().expect("temporary directory"),
        Batches::default(),
    );
    let bounds = together(16, 1 << 30, Duration::ZERO);
    let all: Vec<u64> = (0..3).map(|_| join(&batches, &place, 10)).collect();
    let mut one = lead(&batches, all[0], &bounds, 1);
    one.gather(|_| true);
    let later = join(&batches, &place, 10);
    one.put_back(|job| job.alone = true);
    drop(one);
    let mut again = lead(&batches, later, &bounds, 1);
    assert!(again.jobs()[0].alone);
    again.gather(|job| job.ticket == later);
    assert_eq!(tickets(&again), [all[0], later]);
    drop(again);
    // They wait for no company any more, though nothing else would make them due.
    let patient = together(16, 1 << 30, HOUR);
    assert_eq!(due(&batches, all[1], &patient, 1), Due::Now);
    let mut last = lead(&batches, all[2], &patient, 1);
    last.gather(|_| true);
    assert_eq!(tickets(&last), all[1..]);
}

#[test]
fn whoever_leads_and_dies_leaves_nobody_waiting() {
    let place = TempDir::new().expect("temporary directory");
    let batches = Arc::new(Batches::default());
    let bounds = together(16, 1 << 30, Duration::ZERO);
    let tickets: Vec<u64> = (0..3).map(|_| join(&batches, &place, 10)).collect();
    let (out, results): (Sender<String>, Receiver<String>) = channel();
    let mut threads = Vec::new();
    for ticket in tickets {
        let (batches, out) = (Arc::clone(&batches), out.clone());
        threads.push(thread::spawn(move || {
            match batches.turn(ticket, &bounds, 1, &|| false) {
                Turn::Ended(written) => {
                    let why = written.expect_err("nobody wrote it").to_string();
                    out.send(why).expect("is heard");
                }
                Turn::Lead(mut lead) => {
                    lead.gather(|_| true);
                    panic!("the leader dies");
                }
            }
        }));
    }
    drop(out);
    let died = threads
        .into_iter()
        .map(|t| t.join().is_err())
        .filter(|died| *died)
        .count();
    assert_eq!(died, 1);
    let results: Vec<String> = results.iter().collect();
    assert_eq!(results.len(), 2);
    assert!(
        results.iter().all(|why| why.contains("gave up")),
        "{results:?}"
    );
    // The next one that comes leads.
    let next = join(&batches, &place, 10);
    assert_eq!(due(&batches, next, &bounds, 1), Due::Now);
}
