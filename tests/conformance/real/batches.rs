//! Objects that are written together by a real drive: what is in its buffer when it loses that has no receipt, and what
//! has one is on the tape.

use super::world::{Fails, Make, Object, Shared, Tape, sticker, world};
use super::{MIB, fresh, hardware, label, options};
use crate::tape_batches::{LEN, finish};
use crate::tape_days::{holds, names};
use cairn::tier::Tier;
use cairn::tier::tape::library::LibraryError;
use cairn::tier::tape::options::Together;
use cairn::tier::tape::{TapeOptions, TapeTier};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

const BATCH: [u64; 4] = [5, 6, 7, 8];

/// A library with one cartridge and one drive, in which four go together, and on the cartridge a batch.
fn site() -> (TempDir, Shared, TapeTier) {
    let place = TempDir::new().expect("temporary directory");
    let world = world(1, 24 * MIB, 1, Make::default());
    let tier = open(&place, &world, 4);
    label(&tier, [1]);
    let library = tier.library().expect("library");
    for result in finish(&library, &[1, 2, 3, 4], None) {
        result.expect("receipt");
    }
    drop(library);
    (place, world, tier)
}

fn open(place: &TempDir, world: &Shared, files: u32) -> TapeTier {
    let options = TapeOptions {
        together: Together {
            files,
            age: Duration::from_secs(if files > 1 { 3600 } else { 0 }),
            ..Together::default()
        },
        ..options()
    };
    let root = place.path().join("tape");
    TapeTier::with_hardware(&root, &options, fresh(), hardware(world)).expect("opens")
}

/// A batch, one of which is given up if its sum is `wrong`; those that have a receipt.
fn batch(tier: &TapeTier, wrong: Option<u64>) -> Vec<u64> {
    let library = tier.library().expect("library");
    let mut receipts = Vec::new();
    for (seq, result) in BATCH.into_iter().zip(finish(&library, &BATCH, wrong)) {
        match result {
            Ok(_) => receipts.push(seq),
            Err(error) if wrong == Some(seq) => {
                assert!(matches!(error, LibraryError::Corrupt { .. }), "{error}");
            }
            Err(_) => {}
        }
    }
    receipts
}

/// The power goes, and so does the index: what has a receipt is on the tape.
fn on_the_tape(place: &TempDir, world: &Shared, tier: TapeTier, receipts: &[u64], case: &str) {
    drop(tier);
    world.lock().power_loss();
    std::fs::remove_dir_all(place.path().join("tape/files")).expect("removed");
    let tier = open(place, world, 1);
    let library = tier.library().expect("library");
    library
        .audit(super::barcode(1), &|_| false)
        .expect("is read");
    let there = names(&tier);
    for seq in [1, 2, 3, 4].iter().chain(receipts) {
        assert!(there.contains(seq), "{case}: {seq} had a receipt");
        holds(&tier, *seq, LEN);
    }
}

#[test]
fn a_batch_stops_the_drive_twice() {
    let (place, world, tier) = site();
    let before = world.lock().bays[0].flushes;
    assert_eq!(batch(&tier, None), BATCH);
    assert_eq!(world.lock().bays[0].flushes - before, 2);
    // One that is given up, once more: what was begun of it is gone back over.
    let library = tier.library().expect("library");
    let before = world.lock().bays[0].flushes;
    let results = finish(&library, &[9, 10, 11, 12], Some(10));
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 3);
    assert_eq!(world.lock().bays[0].flushes - before, 3);
    drop(library);
    on_the_tape(&place, &world, tier, &[5, 6, 7, 8, 9, 11, 12], "all");
    assert_eq!(world.lock().strays, 0);
}

#[test]
fn a_stop_ends_a_batch_behind_the_object_in_hand() {
    let (place, world, tier) = site();
    let library = tier.library().expect("library");
    let (tell, told) = channel();
    let (go, wait) = channel();
    // A block of the first one's data.
    world.lock().bays[0].gate = Some((5, tell, wait));
    let of = Arc::clone(&library);
    let puts = thread::spawn(move || finish(&of, &BATCH, None));
    told.recv().expect("is being written");
    tier.tapes().expect("tapes").hurry();
    go.send(()).expect("goes on");
    let results = puts.join().expect("no panic");
    let stopped = |r: &Result<_, _>| matches!(r, Err(LibraryError::Stopping));
    assert!(results[0].is_ok(), "{:?}", results[0]);
    assert!(results[1..].iter().all(stopped), "{results:?}");
    drop(library);
    on_the_tape(&place, &world, tier, &BATCH[..1], "stopped");
}

#[test]
fn whichever_flush_of_a_batch_fails_what_has_a_receipt_is_on_the_tape() {
    for wrong in [None, Some(5), Some(6), Some(8)] {
        for (nth, falls) in (1..=4).flat_map(|nth| [(nth, false), (nth, true)]) {
            let (place, world, tier) = site();
            {
                // A torn tail, in which all that is sought is found.
                let mut world = world.lock();
                let tape = world.tape(1);
                tape.objects.extend(vec![Object::Block(vec![7; 1000]); 100]);
                tape.flush();
                world.bays[0].fails = Some(Fails {
                    nth,
                    falls,
                    swap: None,
                });
            }
            let case = format!("{wrong:?}, flush {nth}, {falls}");
            let receipts = batch(&tier, wrong);
            // What failed with the others is written by itself.
            let others = BATCH.into_iter().filter(|seq| wrong != Some(*seq));
            assert_eq!(receipts, Vec::from_iter(others), "{case}");
            if nth <= 2 {
                assert!(world.lock().bays[0].fails.is_none(), "{case}");
            }
            on_the_tape(&place, &world, tier, &receipts, &case);
        }
    }
}

#[test]
fn over_whom_a_drive_loses_its_place_once_is_written_all_the_same_and_twice_has_that_error() {
    // The second time over all of them, in the middle of the second.
    for (resets, lost) in [(vec![9], 0), (vec![9, 14], 4)] {
        let (place, world, tier) = site();
        world.lock().bays[0].resets = resets;
        let library = tier.library().expect("library");
        let results = finish(&library, &BATCH, None);
        let mut receipts = Vec::new();
        for (seq, result) in BATCH.into_iter().zip(results) {
            match result {
                Ok(_) => receipts.push(seq),
                // Not that no cartridge has room, for which a tier is left alone.
                Err(LibraryError::Volume { source, .. }) => {
                    assert!(source.is_lost(), "{source}");
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(receipts.len() + lost, 4);
        assert!(world.lock().bays[0].resets.is_empty());
        drop(library);
        on_the_tape(&place, &world, tier, &receipts, "lost");
    }
}

#[test]
fn a_tape_that_comes_in_where_a_batch_is_flushed_is_not_written() {
    for wrong in [None, Some(5), Some(6), Some(8)] {
        for nth in 1..=3 {
            let (place, world, tier) = site();
            let foreign = vec![Object::Block(vec![7; 1000]); 100];
            {
                let mut world = world.lock();
                world.tapes.push(Tape {
                    sticker: sticker(7),
                    objects: foreign.clone(),
                    synced: foreign.len(),
                    capacity: 24 * MIB,
                    ..Tape::default()
                });
                world.slots[1].holds = Some(1);
                world.bays[0].fails = Some(Fails {
                    nth,
                    falls: false,
                    swap: Some(1),
                });
            }
            let case = format!("{wrong:?}, flush {nth}");
            let receipts = batch(&tier, wrong);
            let found = world.lock().tape(7).objects.clone();
            assert!(found == foreign, "{case}: another tape is written");
            on_the_tape(&place, &world, tier, &receipts, &case);
        }
    }
}
