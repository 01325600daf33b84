//! Objects that are finished at the same time and written to a cartridge together: each has a receipt of its own, and
//! what goes wrong with one or with all of them loses none.

use crate::tape_days::{Site, data, holds, kind, names, try_store, where_is};
use crate::{MARK, name};
use cairn::id::TierId;
use cairn::tier::tape::drive::DriveNumber;
use cairn::tier::tape::front::Front;
use cairn::tier::tape::label::Barcode;
use cairn::tier::tape::library::{Library, LibraryError, Mounted};
use cairn::tier::tape::options::Together;
use cairn::tier::tape::{TapeOptions, TapeTier};
use cairn::tier::{ErrorKind, OpenHow, Proof, Tier, TierError};
use cairn_mover::Crc32c;
use std::fs;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const LEN: usize = 600_000;

/// A library in which so many go together, and nothing is written before they are all there.
fn site(cartridges: u32, drives: u32, files: u32) -> Site {
    let mut site = Site::new(cartridges, drives);
    site.options.together = Together {
        files,
        age: HOUR,
        ..Together::default()
    };
    site
}

/// Objects of these numbers, one of them with another sum than its bytes have, finished in this order: the first waits
/// until the last is there.
pub(crate) fn finish(
    library: &Arc<Library>,
    objects: &[u64],
    wrong: Option<u64>,
) -> Vec<Result<Proof, LibraryError>> {
    let all = objects.len();
    let puts: Vec<_> = objects
        .iter()
        .enumerate()
        .map(|(at, seq)| {
            let bytes = data(*seq, LEN);
            let mut front = Front::new(library.front().expect("there"));
            front.add(&bytes).expect("is taken");
            let sum = Crc32c::of(&bytes);
            let sum = if wrong == Some(*seq) {
                Crc32c(!sum.0)
            } else {
                sum
            };
            let (of, seq) = (Arc::clone(library), *seq);
            let put = thread::spawn(move || of.append(name(seq), front, sum, true));
            // The last one is taken up with the others at once.
            while at + 1 < all && library.unwritten() <= at {
                thread::yield_now();
            }
            put
        })
        .collect();
    let wait = |put: thread::JoinHandle<_>| put.join().expect("no panic");
    puts.into_iter().map(wait).collect()
}

fn words(site: &Site, barcode: Barcode) -> (usize, usize) {
    let image = fs::read(site.image(barcode)).expect("image");
    let count = |word: &[u8; 4]| image.windows(4).filter(|w| w == word).count();
    (count(b"UTL1"), count(b"UTLP"))
}

/// What a site whose objects go alone makes of it.
fn reopened(site: Site) -> (Site, TapeTier) {
    site.faults.clear();
    let plain = Site {
        options: TapeOptions {
            together: Together::default(),
            ..site.options
        },
        ..site
    };
    let tier = plain.open();
    (plain, tier)
}

#[test]
fn three_that_are_finished_together_stop_the_tape_twice() {
    let site = site(1, 1, 3);
    let tier = site.open();
    let library = tier.library().expect("there");
    for result in finish(&library, &[1, 2, 3], None) {
        assert_eq!(result.expect("receipt"), Proof::ReadBack);
    }
    let barcode = where_is(&tier, name(1));
    assert_eq!(words(&site, barcode), (1, 2));
    assert_eq!(
        library.drives()[0].tally.backhitches,
        1,
        "before the labels"
    );
    for result in finish(&library, &[4, 5, 6], None) {
        result.expect("receipt");
    }
    assert_eq!(words(&site, barcode), (2, 4));
    assert_eq!(library.drives()[0].tally.backhitches, 3);
    for seq in 1..=6 {
        holds(&tier, seq, LEN);
    }
    drop((tier, library));
    let (_site, tier) = reopened(site);
    assert_eq!(names(&tier), [1, 2, 3, 4, 5, 6]);
    for seq in 1..=6 {
        holds(&tier, seq, LEN);
    }
}

/// The drive is somebody else's, who has what is on this cartridge read.
fn at_the_drive(library: &Library, barcode: Barcode) -> Mounted<'_> {
    library.mount_instead(barcode, None).expect("is mounted")
}

fn stopped(result: &Result<Proof, LibraryError>) -> bool {
    matches!(result, Err(LibraryError::Stopping))
}

#[test]
fn at_a_stop_what_waits_ends_at_once_and_snapshots_are_written() {
    let site = site(1, 1, 3);
    let tier = site.open();
    let library = tier.library().expect("there");
    let tapes = tier.tapes().expect("tapes");
    let lone = {
        let (of, bytes) = (Arc::clone(&library), data(1, LEN));
        let mut front = Front::new(library.front().expect("there"));
        front.add(&bytes).expect("is taken");
        thread::spawn(move || of.append(name(1), front, Crc32c::of(&bytes), true))
    };
    while library.unwritten() == 0 {
        thread::yield_now();
    }
    tapes.hurry();
    assert!(stopped(&lone.join().expect("no panic")));
    let error = try_store(&tier, 2, LEN).expect_err("nothing more is written");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let (snapshot, bytes) = (name(3).snapshot(), data(3, LEN));
    let mut put = tier.put(snapshot, LEN as u64).expect("put");
    put.write_all(&bytes).expect("is taken");
    put.finish(Crc32c::of(&bytes)).expect("receipt");
    assert_eq!(names(&tier), [snapshot.seq]);
}

#[test]
fn a_library_that_was_away_at_a_stop_writes_nothing_when_it_is_back() {
    let site = site(1, 1, 3);
    let tier = site.open();
    let away = site.root().with_extension("away");
    fs::rename(site.root(), &away).expect("is away");
    tier.tapes().expect("tapes").hurry();
    fs::rename(&away, site.root()).expect("is back");
    let error = try_store(&tier, 1, LEN).expect_err("nothing more is written");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[test]
fn at_a_stop_a_drive_that_is_waited_for_writes_one_and_whoever_has_a_receipt_is_there() {
    let site = site(1, 1, 3);
    let tier = site.open();
    let library = tier.library().expect("there");
    for result in finish(&library, &[1, 2, 3], None) {
        result.expect("receipt");
    }
    let barcode = where_is(&tier, name(1));
    let held = at_the_drive(&library, barcode);
    let results: Vec<_> = thread::scope(|scope| {
        let puts: Vec<_> = (4..=8)
            .map(|seq| {
                let library = &library;
                scope.spawn(move || {
                    let bytes = data(seq, LEN);
                    let mut front = Front::new(library.front().expect("there"));
                    front.add(&bytes).expect("is taken");
                    library.append(name(seq), front, Crc32c::of(&bytes), true)
                })
            })
            .collect();
        // One of them leads and waits for the drive.
        while library.unwritten() < 4 || library.waiting() == 0 {
            thread::yield_now();
        }
        tier.tapes().expect("tapes").hurry();
        // All end before the drive is free, but him who leads and whose object he has.
        while puts.iter().filter(|put| put.is_finished()).count() < 3 {
            thread::yield_now();
        }
        drop(held);
        let join = |put: thread::ScopedJoinHandle<'_, _>| put.join().expect("no panic");
        puts.into_iter().map(join).collect()
    });
    let receipts: Vec<u64> = (4..)
        .zip(&results)
        .filter(|(_, r)| r.is_ok())
        .map(|(s, _)| s)
        .collect();
    assert_eq!(results.iter().filter(|r| stopped(r)).count(), 4);
    assert_eq!(receipts.len(), 1);
    assert_eq!(names(&tier), [&[1, 2, 3], &receipts[..]].concat());
    holds(&tier, receipts[0], LEN);
}

#[test]
fn a_cartridge_that_is_retired_while_it_is_waited_for_takes_nothing_more() {
    let site = site(2, 1, 3);
    let tier = site.open();
    let library = tier.library().expect("there");
    for result in finish(&library, &[1, 2, 3], None) {
        result.expect("receipt");
    }
    let barcode = where_is(&tier, name(1));
    let held = at_the_drive(&library, barcode);
    let of = Arc::clone(&library);
    let puts = thread::spawn(move || finish(&of, &[4, 5, 6], None));
    // Who leads has chosen it: it is loaded, and the others are no better.
    while library.waiting() == 0 {
        thread::yield_now();
    }
    library
        .retire(barcode, Some("old".to_owned()))
        .expect("is retired");
    drop(held);
    for result in puts.join().expect("no panic") {
        result.expect("another takes them");
    }
    (4..=6).for_each(|seq| assert_ne!(where_is(&tier, name(seq)), barcode, "{seq}"));
}

#[test]
fn a_proof_that_is_lost_with_the_index_costs_its_own_file_alone() {
    let site = site(1, 1, 3);
    let tier = site.open();
    let library = tier.library().expect("there");
    for result in finish(&library, &[1, 2, 3], None) {
        result.expect("receipt");
    }
    let barcode = where_is(&tier, name(1));
    let mut order: Vec<u64> = names(&tier);
    order.sort_by_key(|seq| library.find(name(*seq)).expect("known").1.object);
    drop((tier, library));
    let path = site.image(barcode);
    let mut image = fs::read(&path).expect("image");
    let utl1 = image.windows(4).rposition(|w| w == b"UTL1").expect("one");
    image[utl1 + 30] ^= 1;
    fs::write(&path, image).expect("writes");
    let index = site.root().join("files").join(format!("{barcode}.jsonl"));
    fs::remove_file(index).expect("is lost");
    let (_site, tier) = reopened(site);
    let mut whole = order[..2].to_vec();
    whole.sort_unstable();
    assert_eq!(names(&tier), whole);
    try_store(&tier, 7, LEN).expect("goes on behind them");
    for seq in whole.iter().chain(&[7]) {
        holds(&tier, *seq, LEN);
    }
}

/// Three that have receipts, the last one's proof and the index of which are lost; in the order in which they lie.
fn without_proof() -> (Site, Barcode, Vec<(u64, u64)>) {
    let site = site(1, 1, 3);
    let tier = site.open();
    let library = tier.library().expect("there");
    for result in finish(&library, &[1, 2, 3], None) {
        result.expect("receipt");
    }
    let barcode = where_is(&tier, name(1));
    let found = |seq| library.find(name(seq)).expect("known").1;
    let mut order: Vec<(u64, u64)> = (1..=3).map(|seq| (found(seq).data(), seq)).collect();
    order.sort_unstable();
    drop((tier, library));
    let path = site.image(barcode);
    let mut image = fs::read(&path).expect("image");
    let utl1 = image.windows(4).rposition(|w| w == b"UTL1").expect("one");
    image[utl1 + 30] ^= 1;
    fs::write(&path, image).expect("writes");
    let index = site.root().join("files").join(format!("{barcode}.jsonl"));
    fs::remove_file(index).expect("is lost");
    let site = Site {
        options: TapeOptions {
            together: Together::default(),
            ..site.options
        },
        ..site
    };
    (site, barcode, order)
}

#[test]
fn what_is_intact_behind_a_bad_block_is_not_missing_and_not_written_over() {
    let (site, barcode, order) = without_proof();
    site.faults.bad_block(barcode, order[0].0 + 1);
    let before = fs::read(site.image(barcode)).expect("image");
    let tier = site.open();
    assert!(tier.library().expect("there").cartridges()[0].damaged);
    for (_, seq) in &order {
        assert_eq!(kind(tier.stat(name(*seq))), ErrorKind::Unavailable, "{seq}");
    }
    try_store(&tier, 7, LEN).expect_err("has no place");
    assert!(fs::read(site.image(barcode)).expect("image") == before);
    drop(tier);
    // Read by a better drive.
    site.faults.clear();
    let tier = site.open();
    for (_, seq) in &order[..2] {
        holds(&tier, *seq, LEN);
    }
    try_store(&tier, 7, LEN).expect("goes on behind them");
}

#[test]
fn what_nothing_proves_is_read_once_and_not_at_every_load() {
    let (site, barcode, order) = without_proof();
    let tier = site.open();
    let library = tier.library().expect("there");
    for _ in 0..2 {
        library.mount(barcode).expect("is mounted").vacate();
    }
    let read = library.drives()[0].tally.read;
    assert!(read < LEN as u64, "labels alone: {read}");
    holds(&tier, order[1].1, LEN);
}

#[test]
fn one_that_nobody_wants_any_more_does_not_wait_for_others_and_its_name_is_free() {
    let site = site(1, 1, 3);
    let tier = site.open();
    let library = tier.library().expect("there");
    let unwanted = Arc::new(AtomicBool::new(false));
    let bytes = data(1, LEN);
    let mut put = tier.put(name(1), LEN as u64).expect("put");
    put.write_all(&bytes).expect("is taken");
    let told = Arc::clone(&unwanted);
    put.heed(Arc::new(move || told.load(Ordering::SeqCst)));
    let put = thread::spawn(move || put.finish(Crc32c::of(&bytes)).map(drop));
    while library.unwritten() == 0 {
        thread::yield_now();
    }
    unwanted.store(true, Ordering::SeqCst);
    assert_eq!(kind(put.join().expect("no panic")), ErrorKind::Unavailable);
    assert_eq!((library.unwritten(), names(&tier)), (0, vec![]));
    for result in finish(&library, &[1, 2, 3], None) {
        result.expect("receipt");
    }
}

#[test]
fn an_age_ends_by_itself() {
    let mut site = site(1, 1, 3);
    site.options.together.age = Duration::from_millis(30);
    let tier = site.open();
    try_store(&tier, 1, LEN).expect("receipt");
    assert_eq!(names(&tier), [1]);
}

#[test]
fn one_whose_bytes_are_wrong_fails_alone() {
    for wrong in [2, 3, 4] {
        let site = site(1, 1, 3);
        let tier = site.open();
        let library = tier.library().expect("there");
        let results = finish(&library, &[2, 3, 4], Some(wrong));
        for (seq, result) in (2..).zip(results) {
            match result {
                Ok(_) => assert_ne!(seq, wrong),
                Err(error) => {
                    assert_eq!(seq, wrong, "{error}");
                    assert!(matches!(error, LibraryError::Corrupt { .. }), "{error}");
                }
            }
        }
        let others: Vec<u64> = [2, 3, 4].into_iter().filter(|seq| *seq != wrong).collect();
        assert_eq!(words(&site, where_is(&tier, name(others[0]))), (1, 1));
        drop((tier, library));
        let (_site, tier) = reopened(site);
        assert_eq!(names(&tier), others);
        others.iter().for_each(|seq| holds(&tier, *seq, LEN));
        try_store(&tier, wrong, LEN).expect("composed anew");
    }
}

#[test]
fn a_power_loss_at_any_block_of_a_batch_leaves_whole_files_alone() {
    // Three labels, three blocks, three labels, three times.
    for nth in 1..=28 {
        let site = site(1, 1, 3);
        let tier = site.open();
        let library = tier.library().expect("there");
        for result in finish(&library, &[1, 2, 3], None) {
            result.expect("receipt");
        }
        site.faults.power_loss(nth);
        let results = finish(&library, &[4, 5, 6], None);
        let receipts = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(receipts, if nth == 28 { 3 } else { 0 }, "{nth}");
        drop((tier, library));
        let (_site, tier) = reopened(site);
        // Those that are whole are there, with a receipt or without.
        let whole = (nth as usize - 1) / 9;
        let expected: Vec<u64> = (1..=3 + whole as u64).collect();
        assert_eq!(names(&tier), expected, "{nth}");
        try_store(&tier, 7, LEN).expect("the tail is overwritten");
        for seq in expected.iter().chain(&[7]) {
            holds(&tier, *seq, LEN);
        }
    }
}

#[test]
fn a_drive_that_dies_in_a_batch_leaves_nothing_of_it_that_counts_and_another_writes_it() {
    // At whichever verb of it.
    for nth in 1..=60 {
        let site = site(2, 2, 3);
        let tier = site.open();
        let library = tier.library().expect("there");
        for result in finish(&library, &[1, 2, 3], None) {
            result.expect("receipt");
        }
        site.faults.kill_drive(DriveNumber(1), nth);
        for result in finish(&library, &[4, 5, 6], None) {
            result.expect("the other drive writes them");
        }
        for seq in 1..=6 {
            holds(&tier, seq, LEN);
        }
        drop((tier, library));
        let (_site, tier) = reopened(site);
        assert_eq!(names(&tier), [1, 2, 3, 4, 5, 6], "{nth}");
        for seq in 4..=6 {
            holds(&tier, seq, LEN);
        }
        // What the dead drive left of them is dead.
        let status = tier.library().expect("there").cartridges();
        assert_eq!(status.iter().map(|c| c.live).sum::<usize>(), 6, "{nth}");
    }
}

#[test]
fn after_a_lie_each_is_written_by_itself() {
    for nth in [1, 2] {
        let site = site(1, 1, 3);
        let tier = site.open();
        let library = tier.library().expect("there");
        for result in finish(&library, &[1, 2, 3], None) {
            result.expect("receipt");
        }
        let barcode = where_is(&tier, name(1));
        site.faults.lie_at(barcode, nth);
        for result in finish(&library, &[4, 5, 6], None) {
            result.expect("alone it is proven");
        }
        assert_eq!(
            words(&site, barcode),
            (4, 2),
            "{nth}: nothing of the batch is there"
        );
        let status = library.cartridges();
        assert_eq!(
            status[0].entry.errors.write, 1,
            "{nth}: the lie counts once"
        );
        drop((tier, library));
        let (_site, tier) = reopened(site);
        assert_eq!(names(&tier), [1, 2, 3, 4, 5, 6]);
        (1..=6).for_each(|seq| holds(&tier, seq, LEN));
    }
}

#[test]
fn a_batch_goes_elsewhere_if_its_cartridge_takes_nothing() {
    let site = site(2, 1, 3);
    let tier = site.open();
    let library = tier.library().expect("there");
    for result in finish(&library, &[1, 2, 3], None) {
        result.expect("receipt");
    }
    let first = where_is(&tier, name(1));
    site.faults.unwritable(first);
    for result in finish(&library, &[4, 5, 6], None) {
        result.expect("another takes them");
    }
    for seq in 4..=6 {
        assert_ne!(where_is(&tier, name(seq)), first);
        holds(&tier, seq, LEN);
    }
    // Where none takes anything, each has its own error.
    site.faults.unwritable(where_is(&tier, name(4)));
    for result in finish(&library, &[7, 8, 9], None) {
        let error = result.expect_err("nowhere");
        assert!(matches!(error, LibraryError::Volume { .. }), "{error}");
    }
    assert_eq!(names(&tier), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn wherever_the_tape_ends_those_before_stay_and_the_others_go_on_together() {
    let size = (LEN + 480) as u64;
    for (end, stay) in [
        (3 * size + 100, 0),
        (4 * size - 100, 0),
        (4 * size + 80, 1),
        (5 * size - 300, 1),
        (5 * size + 80, 2),
        (6 * size + 79, 2),
        (6 * size + 80, 3),
    ] {
        let site = site(2, 1, 3);
        let tier = site.open();
        let library = tier.library().expect("there");
        for result in finish(&library, &[1, 2, 3], None) {
            result.expect("receipt");
        }
        let first = where_is(&tier, name(1));
        site.faults.end_of_tape(first, end);
        for result in finish(&library, &[4, 5, 6], None) {
            result.expect("goes on elsewhere");
        }
        let here = (4..=6).filter(|seq| where_is(&tier, name(*seq)) == first);
        assert_eq!(here.count(), stay, "{end}");
        // Where one did not fit, none as long is tried.
        let cartridges = library.cartridges();
        let of = cartridges.iter().find(|c| c.entry.barcode == first);
        let of = of.expect("there");
        assert_eq!(of.entry.ends.is_some(), stay < 3, "{end}");
        assert!(
            stay == 3 || of.entry.room() - of.used < size,
            "{end}: {of:?}"
        );
        let of_both = (words(&site, first), stay);
        assert_eq!(of_both.0.0, if stay > 0 { 2 } else { 1 }, "{end}");
        for seq in 1..=6 {
            holds(&tier, seq, LEN);
        }
        drop((tier, library));
        let (_site, tier) = reopened(site);
        assert_eq!(names(&tier), [1, 2, 3, 4, 5, 6], "{end}");
        (1..=6).for_each(|seq| holds(&tier, seq, LEN));
    }
}

#[test]
fn a_cartridge_of_layout_1_is_read_and_takes_one_after_the_other() {
    let site = site(1, 1, 3);
    let first = site.open();
    let barcode = first.library().expect("there").cartridges()[0]
        .entry
        .barcode;
    drop(first);
    let mut image = fs::read(site.image(barcode)).expect("image");
    // Behind a length: the label.
    assert_eq!(&image[28..40], b"CAIRN TAPE 2");
    image[39] = b'1';
    fs::write(site.image(barcode), &image).expect("is of layout 1");
    let tier = site.open();
    let library = tier.library().expect("there");
    for result in finish(&library, &[1, 2, 3], None) {
        result.expect("receipt");
    }
    assert_eq!(words(&site, barcode), (3, 0));
    drop((tier, library));
    let (site, tier) = reopened(site);
    (1..=3).for_each(|seq| holds(&tier, seq, LEN));
    assert_eq!(fs::read(site.image(barcode)).expect("image")[39], b'1');
}

#[test]
fn two_pools_write_their_batches_beside_each_other() {
    let site = site(4, 1, 3);
    let pool = |pool: &str, tier: u32| -> Result<TapeTier, TierError> {
        let options = TapeOptions {
            pool: Some(pool.to_owned()),
            ..site.options.clone()
        };
        let how = OpenHow::new(MARK.owner, TierId(tier));
        TapeTier::with_faults(&site.root(), &options, how, site.faults.clone())
    };
    let tiers = [
        pool("near", 0xa).expect("opens"),
        pool("far", 0xb).expect("opens"),
    ];
    thread::scope(|scope| {
        for tier in &tiers {
            scope.spawn(|| {
                let library = tier.library().expect("there");
                for batch in [[1, 2, 3], [4, 5, 6]] {
                    for result in finish(&library, &batch, None) {
                        result.expect("receipt");
                    }
                }
            });
        }
    });
    for tier in &tiers {
        assert_eq!(names(tier), [1, 2, 3, 4, 5, 6]);
        (1..=6).for_each(|seq| holds(tier, seq, LEN));
        assert_eq!(words(&site, where_is(tier, name(1))), (2, 4));
    }
}

#[test]
fn without_any_drive_nobody_waits_for_ever() {
    let site = site(1, 1, 3);
    let tier = site.open();
    let library = tier.library().expect("there");
    site.faults.kill_drive(DriveNumber(1), 4);
    for result in finish(&library, &[1, 2, 3], None) {
        let error = result.expect_err("no drive");
        assert!(matches!(error, LibraryError::NoDrive(_)), "{error}");
    }
    drop(library);
    let full = Site::new(1, 1);
    let tier = full.open();
    assert_eq!(kind(try_store(&tier, 1, 9 << 20)), ErrorKind::Full);
}
