//! The desk with drives that are none: who is called, when, and what is held meanwhile.

use super::*;
use crate::id::{AggregateId, InstanceId, TierId};
use crate::tier::tape::{TapeOptions, TapeTier};
use crate::tier::tapes::{Held, HoldError};
use crate::tier::{OpenHow, Tier};
use cairn_mover::Crc32c;
use crossbeam_channel::{Receiver, unbounded};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::io::Write;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

#[derive(Default)]
struct Shelf {
    held: BTreeSet<Cartridge>,
    loaded: Vec<Cartridge>,
    absent: BTreeSet<Cartridge>,
    stuck: Option<Duration>,
    holds: Vec<Cartridge>,
    working: usize,
}

/// Drives of which nothing is known but what they hold.
struct Fake {
    drives: usize,
    shelf: Arc<(Mutex<Shelf>, Condvar)>,
}

struct FakeHeld {
    shelf: Arc<(Mutex<Shelf>, Condvar)>,
    cartridge: Cartridge,
}

impl Held for FakeHeld {
    fn stands(&self) -> bool {
        self.shelf.0.lock().held.contains(&self.cartridge)
    }
    fn unused(&self) -> Duration {
        Duration::ZERO
    }
}

impl Drop for FakeHeld {
    fn drop(&mut self) {
        self.shelf.0.lock().held.remove(&self.cartridge);
        self.shelf.1.notify_all();
    }
}

/// A second for each byte of the way.
struct Plain;

impl Timing for Plain {
    fn step(&self, from: Option<u64>, to: u64) -> f64 {
        from.unwrap_or(0).abs_diff(to) as f64
    }
    fn read(&self, bytes: u64) -> f64 {
        bytes as f64
    }
    fn mount(&self) -> f64 {
        100.0
    }
    fn unmount(&self, _: Option<u64>) -> f64 {
        100.0
    }
}

impl Tapes for Fake {
    fn place(&self, object: AggregateId, range: Range<u64>) -> Option<Stretch> {
        Some(stretch(object.seq, range.start, range.end - range.start))
    }
    fn drives(&self) -> usize {
        self.drives
    }
    fn working(&self) -> usize {
        self.shelf.0.lock().working
    }
    fn loaded(&self) -> Vec<Cartridge> {
        self.shelf.0.lock().loaded.clone()
    }
    fn is_here(&self, cartridge: &Cartridge) -> bool {
        !self.shelf.0.lock().absent.contains(cartridge)
    }
    fn timing(&self, _: &Cartridge) -> Option<Arc<dyn Timing>> {
        Some(Arc::new(Plain))
    }
    fn pace(&self) -> Option<f64> {
        None
    }
    fn hold(
        &self,
        cartridge: &Cartridge,
        _: Option<&Cartridge>,
    ) -> Result<Box<dyn Held>, HoldError> {
        let mut shelf = self.shelf.0.lock();
        if shelf.absent.contains(cartridge) {
            return Err(HoldError::Absent(cartridge.clone()));
        }
        while shelf.held.len() >= self.drives {
            self.shelf.1.wait(&mut shelf);
        }
        assert!(shelf.held.insert(cartridge.clone()), "in two drives");
        shelf.holds.push(cartridge.clone());
        shelf.loaded.retain(|c| c != cartridge);
        shelf.loaded.push(cartridge.clone());
        if shelf.loaded.len() > self.drives {
            let held = shelf.held.clone();
            let out = shelf.loaded.iter().position(|c| !held.contains(c));
            shelf.loaded.remove(out.expect("one is not held"));
        }
        Ok(Box::new(FakeHeld {
            shelf: Arc::clone(&self.shelf),
            cartridge: cartridge.clone(),
        }))
    }
    fn stuck(&self) -> Option<Duration> {
        self.shelf.0.lock().stuck
    }
}

struct Site {
    desk: Arc<Desk>,
    shelf: Arc<(Mutex<Shelf>, Condvar)>,
    threads: Vec<JoinHandle<()>>,
}

impl Site {
    /// Threads begin with [`Site::begin`].
    fn new(drives: usize) -> Self {
        Self::with(drives, |fake| Desk::new(fake))
    }

    fn with(drives: usize, desk: impl FnOnce(Arc<Fake>) -> Desk) -> Self {
        let shelf = Arc::new((Mutex::new(Shelf::default()), Condvar::new()));
        shelf.0.lock().working = drives;
        let fake = Fake {
            drives,
            shelf: Arc::clone(&shelf),
        };
        Self {
            desk: Arc::new(desk(Arc::new(fake))),
            shelf,
            threads: Vec::new(),
        }
    }

    fn begin(&mut self) {
        let work = self.desk.work().into_iter();
        self.threads
            .extend(work.map(|(_, work)| std::thread::spawn(work)));
    }

    /// Asks; the answers come with the number.
    fn ask(&self, n: u64, cartridge: u64, begin: u64, answers: &Answers) -> JobId {
        let tell = answers.0.clone();
        let wish = Wish {
            stretch: stretch(cartridge, begin, 1),
            user: n as u32 % 3,
            urgency: if n.is_multiple_of(2) {
                Urgency::Reader
            } else {
                Urgency::Work
            },
        };
        let called = Box::new(move |seat| tell.send((n, seat)).expect("heard"));
        self.desk.ask(wish, called)
    }

    fn until_nothing_is_held(&self) {
        let mut shelf = self.shelf.0.lock();
        while !shelf.held.is_empty() {
            self.shelf.1.wait(&mut shelf);
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.desk.stop();
        for thread in self.threads.drain(..) {
            thread.join().expect("ends");
        }
    }
}

type Answer = (u64, Option<Seat>);

struct Answers(crossbeam_channel::Sender<Answer>, Receiver<Answer>);

impl Answers {
    fn new() -> Self {
        let (tell, told) = unbounded();
        Self(tell, told)
    }
}

fn cartridge(n: u64) -> Cartridge {
    Cartridge::new(&format!("CRN{n:03}L8"))
}

fn stretch(of: u64, begin: u64, bytes: u64) -> Stretch {
    Stretch {
        cartridge: cartridge(of),
        begin,
        end: begin + bytes,
        bytes,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn whoever_asks_is_called_once_and_whoever_takes_it_back_never(
        steps in prop::collection::vec((0..5_u64, 0..1000_u64, any::<prop::sample::Index>(), 0..6), 1..400),
    ) {
        let mut site = Site::new(2);
        let answers = Answers::new();
        site.begin();
        let (mut asked, mut back) = (Vec::new(), BTreeSet::new());
        for (n, (cartridge, place, of, then)) in (0..).zip(&steps) {
            asked.push((n, site.ask(n, *cartridge, *place, &answers)));
            let (of, id) = asked[of.index(asked.len())];
            match then {
                0 if site.desk.cancel(id) => prop_assert!(back.insert(of), "taken back twice"),
                1 => site.desk.raise(id),
                _ => {}
            }
        }
        let mut called = BTreeSet::new();
        while called.len() + back.len() < steps.len() {
            let answer = answers.1.recv_timeout(Duration::from_secs(60));
            let (n, seat) = answer.expect("no one is lost");
            prop_assert!(seat.is_some() && called.insert(n), "{} was called twice, or without a seat", n);
        }
        prop_assert!(called.is_disjoint(&back));
        prop_assert_eq!(site.desk.waiting(), 0);
        // An idle desk holds nothing, and no seat is left.
        site.until_nothing_is_held();
        prop_assert!(answers.1.is_empty());
        prop_assert!(site.desk.core.front.lock().seats.iter().all(BTreeMap::is_empty));
    }
}

#[test]
fn seats_come_in_the_order_that_costs_least_and_one_hold_serves_them_all() {
    let mut site = Site::new(1);
    let answers = Answers::new();
    let places: Vec<u64> = (0..200).map(|n| n * 83 % 200).collect();
    for place in &places {
        // All of one urgency.
        site.ask(place * 2, 1, place * 10, &answers);
    }
    site.begin();
    let order: Vec<u64> = (0..200)
        .map(|_| answers.1.recv().expect("called").0 / 2)
        .collect();
    assert!(order.is_sorted(), "{order:?}");
    site.until_nothing_is_held();
    assert_eq!(site.shelf.0.lock().holds, [cartridge(1)]);
}

#[test]
fn a_drive_is_kept_while_a_seat_is_out_and_seats_far_apart_come_one_by_one() {
    let mut site = Site::new(1);
    let answers = Answers::new();
    for (n, place) in [(0, 0), (2, 10), (4, 2 * AHEAD)] {
        site.ask(n, 1, place, &answers);
    }
    site.ask(6, 2, 0, &answers);
    site.begin();
    let seats: Vec<Answer> = (0..2).map(|_| answers.1.recv().expect("called")).collect();
    assert_eq!((seats[0].0, seats[1].0), (0, 2));
    let wait = Duration::from_millis(100);
    assert!(answers.1.recv_timeout(wait).is_err(), "too far ahead");
    drop(seats);
    let (far, seat) = answers.1.recv().expect("called");
    assert_eq!(far, 4);
    assert!(
        answers.1.recv_timeout(wait).is_err(),
        "the drive is kept for him"
    );
    assert!(site.shelf.0.lock().held.contains(&cartridge(1)));
    drop(seat);
    assert_eq!(answers.1.recv().expect("called").0, 6);
}

#[test]
fn a_drive_is_let_go_of_for_who_is_stuck_but_not_before_one_was_served() {
    let mut site = Site::new(1);
    let answers = Answers::new();
    for n in 0..20 {
        site.ask(n * 2, 1, n * AHEAD, &answers);
    }
    site.shelf.0.lock().stuck = Some(PATIENCE);
    site.begin();
    // Somebody is stuck all the time: each hold serves one, and all come to their turn.
    for _ in 0..20 {
        drop(answers.1.recv().expect("called"));
    }
    site.until_nothing_is_held();
    assert_eq!(site.shelf.0.lock().holds.len(), 20);
}

/// Every cartridge is worth its mount, and a reader is late at once.
fn hasty() -> Rules {
    Rules {
        reader_after: Duration::ZERO,
        files: 1,
        age: Duration::ZERO,
        reader_late: Duration::from_millis(1),
        ..Rules::default()
    }
}

#[test]
fn a_reader_is_seated_beside_other_work_but_not_beside_readers_far_away() {
    let mut site = Site::new(1);
    let answers = Answers::new();
    site.ask(1, 1, 0, &answers);
    site.begin();
    let (_, work) = answers.1.recv().expect("called");
    // Other work is in hand and waits for that seat.
    site.ask(3, 1, 2 * AHEAD, &answers);
    while !site.desk.core.work.lock().queue.is_empty() || site.desk.waiting() != 1 {
        std::thread::yield_now();
    }
    site.ask(2, 1, 4 * AHEAD, &answers);
    let (n, reader) = answers.1.recv().expect("called");
    assert!(n == 2 && reader.is_some() && work.is_some());
    site.ask(4, 1, 8 * AHEAD, &answers);
    let wait = Duration::from_millis(100);
    assert!(answers.1.recv_timeout(wait).is_err(), "too far away");
    drop(reader);
    let (n, reader) = answers.1.recv().expect("called");
    assert_eq!(n, 4);
    drop((reader, work));
    assert_eq!(answers.1.recv().expect("called").0, 3);
    assert_eq!(site.shelf.0.lock().holds, [cartridge(1)]);
}

#[test]
fn a_late_reader_of_another_cartridge_does_not_wait_until_other_work_is_done() {
    for in_hand in [false, true] {
        let mut site = Site::with(1, |fake| Desk::with_rules(fake, hasty()));
        let answers = Answers::new();
        site.ask(1, 1, 0, &answers);
        site.begin();
        let (_, work) = answers.1.recv().expect("called");
        if in_hand {
            site.ask(3, 1, 2 * AHEAD, &answers);
            while !site.desk.core.work.lock().queue.is_empty() {
                std::thread::yield_now();
            }
        }
        site.ask(2, 2, 0, &answers);
        let (n, reader) = answers.1.recv().expect("called");
        assert!(n == 2 && reader.is_some() && work.is_some());
        // A reader's seat ends for nobody else.
        site.ask(4, 3, 0, &answers);
        let wait = Duration::from_millis(100);
        assert!(answers.1.recv_timeout(wait).is_err());
        drop((work, reader));
        // Perhaps the drive turned to what else waits before he asked.
        while answers.1.recv().expect("called").0 != 4 {}
    }
}

#[test]
fn a_late_reader_does_not_wait_for_a_seat_of_an_earlier_pass() {
    let mut site = Site::with(1, |fake| Desk::with_rules(fake, hasty()));
    let answers = Answers::new();
    site.ask(1, 1, 0, &answers);
    site.begin();
    let (_, work) = answers.1.recv().expect("called");
    let is_busy = |site: &Site, wanted| {
        while site.desk.core.work.lock().busy[0] != wanted {
            std::thread::yield_now();
        }
    };
    is_busy(&site, false);
    // The next pass of the same hold: too far away to be seated beside the first.
    site.ask(3, 1, 2 * AHEAD, &answers);
    is_busy(&site, true);
    site.ask(2, 2, 0, &answers);
    let (n, reader) = answers.1.recv().expect("called");
    assert!(n == 2 && reader.is_some() && work.is_some());
}

#[test]
fn whose_cartridge_is_absent_reads_without_and_it_is_told_which() {
    let mut site = Site::new(1);
    let answers = Answers::new();
    site.shelf.0.lock().absent.insert(cartridge(3));
    site.ask(0, 3, 0, &answers);
    site.ask(2, 4, 0, &answers);
    site.begin();
    let mut told: Vec<_> = (0..2)
        .map(|_| answers.1.recv().expect("called"))
        .map(|(n, seat)| (n, seat.is_some()))
        .collect();
    told.sort_unstable();
    assert_eq!(told, [(0, false), (2, true)]);
    let object = |seq| AggregateId { epoch: 1, seq };
    assert_eq!(site.desk.find(object(3), 0..1), None);
    assert_eq!(site.desk.find(object(4), 5..6), Some(stretch(4, 5, 1)));
    let asked = Absent {
        cartridge: cartridge(3),
        asked: 2,
    };
    assert_eq!(site.desk.absent(), [asked]);
    site.shelf.0.lock().absent.clear();
    assert_eq!(site.desk.absent(), []);
    // Nor does anybody wait for drives that all failed.
    site.shelf.0.lock().working = 0;
    site.ask(8, 4, 0, &answers);
    let (n, seat) = answers.1.recv().expect("called");
    assert!(n == 8 && seat.is_none());
}

#[test]
fn who_waits_with_his_thread_gets_a_seat_or_stops() {
    let mut site = Site::new(1);
    let wish = |of| Wish {
        stretch: stretch(of, 0, 1),
        user: 0,
        urgency: Urgency::Work,
    };
    assert!(site.desk.seat(wish(1), &|| true).is_none(), "nobody serves");
    assert_eq!(site.desk.waiting(), 0);
    site.begin();
    let seat = site.desk.seat(wish(1), &|| false);
    assert!(seat.is_some());
    site.desk.stop();
    assert!(site.desk.seat(wish(2), &|| false).is_none(), "it is closed");
}

#[test]
fn who_waits_is_told_his_place_and_cartridge() {
    let mut site = Site::new(1);
    let answers = Answers::new();
    let first = site.ask(0, 1, 0, &answers);
    site.begin();
    let seat = answers.1.recv().expect("called");
    let later: Vec<JobId> = (1..4).map(|n| site.ask(n * 2, 2, n, &answers)).collect();
    let told = loop {
        let told: Option<Vec<Told>> = later.iter().map(|id| site.desk.told(*id)).collect();
        if let Some(told) = told {
            break told;
        }
        std::thread::yield_now();
    };
    let ahead: Vec<usize> = told.iter().map(|told| told.ahead).collect();
    assert_eq!(ahead, [0, 1, 2]);
    assert!(
        told.iter()
            .all(|t| t.cartridge == cartridge(2) && t.drive == 1)
    );
    assert_eq!(site.desk.told(first), None, "he has his seat");
    drop(seat);
}

/// A library with one drive and two cartridges of 8 MiB.
fn library(place: &std::path::Path) -> TapeTier {
    let options = TapeOptions {
        capacity: Some(8 << 20),
        cartridges: 2,
        drives: 1,
        ..TapeOptions::default()
    };
    let how = OpenHow::new(InstanceId([1; 16]), TierId(3));
    TapeTier::open(&place.join("tape"), &options, how).expect("a library")
}

fn store(tier: &dyn Tier, seq: u64, len: usize) {
    let (name, data) = (AggregateId { epoch: 1, seq }, vec![seq as u8; len]);
    let mut put = tier.put(name, len as u64).expect("begins");
    put.write_all(&data).expect("takes it");
    put.finish(Crc32c::of(&data)).expect("durable");
}

#[test]
fn what_was_exported_is_absent() {
    let place = tempfile::tempdir().expect("a directory");
    let tier = library(place.path());
    store(&tier, 1, 1 << 20);
    let (library, tapes) = (tier.library().expect("there"), tier.tapes().expect("some"));
    let object = AggregateId { epoch: 1, seq: 1 };
    let stretch = tapes.place(object, 0..1).expect("known");
    let barcode = library.find(object).expect("known").0;
    library.export(barcode, None).expect("taken out");
    let why = tapes.hold(&stretch.cartridge, None).map(drop);
    let absent = |why| matches!(why, HoldError::Absent(c) if c == stretch.cartridge);
    assert!(why.is_err_and(absent));
}

#[test]
fn who_writes_elsewhere_gets_the_only_drive_and_readers_get_it_back() {
    let place = tempfile::tempdir().expect("a directory");
    let tier = library(place.path());
    store(&tier, 1, 7 << 20);
    let tapes = tier.tapes().expect("cartridges");
    let desk = Desk::new(Arc::clone(&tapes));
    let threads: Vec<_> = desk.work().into_iter().map(|w| w.1).collect();
    let (object, stop) = (AggregateId { epoch: 1, seq: 1 }, AtomicBool::new(false));
    let seats = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for work in threads {
            scope.spawn(work);
        }
        // There is always somebody who has a seat, and somebody who waits for the next.
        let mut users = Vec::new();
        for user in 0..3 {
            let (desk, tier, stop, seats) = (&desk, &tier, &stop, &seats);
            users.push(scope.spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    let stretch = desk.find(object, 0..7 << 20).expect("it is there");
                    let wish = Wish {
                        stretch,
                        user,
                        urgency: Urgency::Reader,
                    };
                    let _seat = desk.seat(wish, &|| false).expect("his turn comes");
                    let got = tier.read(object, 5 << 20, 10).expect("reads");
                    assert_eq!(got[..], [1; 10]);
                    seats.fetch_add(1, Ordering::AcqRel);
                }
            }));
        }
        let served = |more: u64| {
            let wanted = seats.load(Ordering::Acquire) + more;
            while seats.load(Ordering::Acquire) < wanted {
                std::thread::yield_now();
            }
        };
        served(5);
        for seq in 2..5 {
            // No room but on the other cartridge.
            store(&tier, seq, 2 << 20);
            served(5);
        }
        stop.store(true, Ordering::Release);
        // A desk that is stopped gives nobody a seat.
        for user in users {
            user.join().expect("read what is there");
        }
        desk.stop();
    });
    let found = tier
        .library()
        .expect("there")
        .find(AggregateId { epoch: 1, seq: 4 });
    let first = tier.library().expect("there").find(object);
    assert_ne!(found.expect("known").0, first.expect("known").0);
}
