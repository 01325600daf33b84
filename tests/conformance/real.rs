//! A real library without hardware: the drive's verbs over a model of the `st` driver, the changer over one of `mtx`.
//! The suite that virtual libraries pass, and what only a real one meets.

mod batches;
mod changer;
mod hands;
mod st;
mod world;

use crate::{MARK, name, store};
use cairn::tier::conformance;
use cairn::tier::tape::label::Barcode;
use cairn::tier::tape::library::Import;
use cairn::tier::tape::{TapeOptions, TapeTier};
use cairn::tier::{ErrorKind, OpenHow, Proof, Tier, TierError};
use changer::Fake;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use world::{Make, Object, Shared, sticker, world};

const MIB: u64 = 1 << 20;

/// Cartridges are said to hold more than they do: the drives must tell.
fn options() -> TapeOptions {
    TapeOptions {
        capacity: Some(40 * MIB),
        ..TapeOptions::default()
    }
}

fn hardware(world: &Shared) -> Arc<Fake> {
    let order = (0..world.lock().bays.len()).collect();
    let world = Arc::clone(world);
    Arc::new(Fake { world, order })
}

fn open(root: &Path, world: &Shared, how: OpenHow) -> Result<TapeTier, TierError> {
    TapeTier::with_hardware(root, &options(), how, hardware(world))
}

fn fresh() -> OpenHow {
    OpenHow::new(MARK.owner, MARK.tier)
}

fn barcode(n: u32) -> Barcode {
    sticker(n).parse().expect("barcode")
}

fn label(tier: &TapeTier, numbers: impl IntoIterator<Item = u32>) {
    let library = tier.library().expect("library");
    for n in numbers {
        library.label(Some(barcode(n))).expect("is labelled");
    }
}

/// Number of the tape that a file lies on.
fn lies_on(tier: &TapeTier, seq: u64) -> u32 {
    let library = tier.library().expect("library");
    let at = library.find(name(seq)).expect("is known").0;
    (1..=9).find(|n| barcode(*n) == at).expect("one of ours")
}

/// Somebody takes what is in a drive out by hand, and puts it into its slot.
fn take_out(world: &Shared, drive: usize) {
    let world = &mut *world.lock();
    world.bays[drive].threaded = false;
    let tape = world.bays[drive].holds.take().expect("one is in it");
    world.slots[tape].holds = Some(tape);
}

fn content(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|n| (n / 7 + n / 255) as u8 ^ seed).collect()
}

/// A library with `count` labelled cartridges.
fn site(count: u32, drives: u32, make: Make) -> (TempDir, Shared, TapeTier) {
    let place = TempDir::new().expect("temporary directory");
    let world = world(count, 24 * MIB, drives, make);
    let tier = open(&place.path().join("tape"), &world, fresh()).expect("opens");
    label(&tier, 1..=count);
    (place, world, tier)
}

fn conforms(drives: u32, make: Make) {
    let place = TempDir::new().expect("temporary directory");
    let count = AtomicU32::new(0);
    let outcomes = conformance::run(&|| {
        let n = count.fetch_add(1, Ordering::Relaxed);
        let world = world(5, 24 * MIB, drives, make);
        let root = place.path().join(n.to_string());
        let tier = open(&root, &world, fresh()).expect("opens");
        label(&tier, 1..=5);
        Arc::new(tier)
    });
    assert!(!outcomes.is_empty());
    let failures: Vec<String> = outcomes
        .into_iter()
        .filter_map(|o| o.result.err().map(|why| format!("{}: {why}", o.case)))
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_real_library_conforms_with_one_drive_and_with_several() {
    for drives in [1, 3] {
        conforms(drives, Make::default());
    }
}

#[test]
fn a_real_library_conforms_whose_drives_are_slow_poor_and_not_roots() {
    let make = Make {
        erases: false,
        waits_for_load: true,
        not_ready: 3,
        stays: true,
        passes: 512 << 10,
        root: false,
        options: 0x803,
    };
    conforms(2, make);
}

#[test]
fn receipts_are_the_drives_word_and_the_driver_writes_no_mark_of_its_own() {
    let (place, world, tier) = site(2, 1, Make::default());
    let data = content(1, 3_000_000);
    let mut put = tier.put(name(1), 0).expect("put");
    std::io::Write::write_all(&mut put, &data).expect("taken");
    let receipt = put.finish(cairn_mover::Crc32c::of(&data)).expect("receipt");
    assert_eq!(receipt.proof, Proof::Drive);
    assert_eq!(tier.describe().root, None, "its directory holds no copies");
    // The label and its mark; the file's three groups, each with a mark.
    let blocks = data.len().div_ceil(256 << 10);
    let all = 1 + 3 + 1 + blocks + 1 + 3 + 1;
    {
        let mut world = world.lock();
        let tape = world.tape(lies_on(&tier, 1));
        let marks = tape.objects.iter().filter(|o| **o == Object::Mark).count();
        let seen = (tape.objects.len(), marks, tape.synced);
        assert_eq!(seen, (all, 3, all), "all of it on the medium");
    }
    assert_eq!(
        world.lock().bays[0].options & 0xfc77,
        0x840,
        "as st(4) is asked to be"
    );
    drop(tier);
    // Left in the drive, it is used there: the changer moves nothing.
    let moves = world.lock().moves.len();
    let known = OpenHow::known(MARK.owner, MARK.tier);
    let tier = open(&place.path().join("tape"), &world, known).expect("opens");
    let back = tier.read(name(1), 0, data.len() as u64).expect("reads");
    assert!(back == data);
    assert_eq!(world.lock().moves.len(), moves);
    drop(tier);
    // Given back by hand, it is put in anew.
    {
        let mut world = world.lock();
        (world.bays[0].threaded, world.bays[0].ejected) = (false, true);
    }
    let tier = open(&place.path().join("tape"), &world, known).expect("opens");
    assert!(tier.read(name(1), 0, 10).expect("reads")[..] == data[..10]);
    assert_eq!(world.lock().moves.len(), moves + 2);
    store(&tier, name(2), &data);
    assert_eq!(world.lock().strays, 0);
}

#[test]
fn nothing_is_labelled_but_what_has_no_data() {
    let place = TempDir::new().expect("temporary directory");
    let world = world(5, 24 * MIB, 1, Make::default());
    {
        let world = &mut *world.lock();
        let block = |text: &str| Object::Block(text.as_bytes().to_vec());
        // Written by tar; only a mark, as `mt weof` leaves it; another program's label; a longer block than ours.
        world.tape(1).objects = vec![block("x"), Object::Mark];
        world.tape(2).objects = vec![Object::Mark];
        let foreign = format!("{:<80}", "VOL1REA003          OTHER PROGRAM");
        world.tape(3).objects = vec![block(&foreign), Object::Mark];
        world.tape(4).objects = vec![Object::Block(vec![7; 9 << 20]), Object::Mark];
        for n in 1..=5 {
            let tape = world.tape(n);
            tape.synced = tape.objects.len();
        }
    }
    let tier = open(&place.path().join("tape"), &world, fresh()).expect("opens");
    let library = tier.library().expect("library");
    for n in [1, 3, 4] {
        let before = world.lock().tape(n).objects.clone();
        let error = library.label(Some(barcode(n))).expect_err("has data");
        assert!(error.to_string().contains(&sticker(n)), "{error}");
        assert!(world.lock().tape(n).objects == before, "{n} is as it was");
        assert!(
            library
                .cartridges()
                .iter()
                .all(|c| c.entry.barcode != barcode(n))
        );
    }
    label(&tier, [2, 5]);
    assert!(library.label(None).is_err(), "nobody makes cartridges");
    let strangers = library.strangers().expect("asked");
    let named: Vec<&str> = strangers.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(named, [sticker(1), sticker(3), sticker(4)]);
    // With the label of this tier it is taken as it is: its files, too.
    store(&tier, name(1), &content(1, 100_000));
    drop(library);
    drop(tier);
    std::fs::remove_file(place.path().join("tape/library.json")).expect("removed");
    std::fs::remove_dir_all(place.path().join("tape/files")).expect("removed");
    let tier = open(&place.path().join("tape"), &world, fresh()).expect("opens");
    assert!(
        tier.list(None, 9).expect("lists").is_empty(),
        "nobody was named"
    );
    let lies_on_5 = world.lock().tape(5).objects.len() > 2;
    let (own, other) = if lies_on_5 { (5, 2) } else { (2, 5) };
    label(&tier, [other]);
    let library = tier.library().expect("library");
    let taken = library
        .import(&Import::Known(barcode(own)), false)
        .expect("is taken in");
    assert_eq!((taken.files, taken.from), (1, None));
    for n in [1, 3] {
        let error = library
            .import(&Import::Known(barcode(n)), false)
            .expect_err("is not ours");
        assert!(error.to_string().contains(&sticker(n)), "{error}");
    }
    library.label(Some(barcode(own))).expect_err("it has files");
    assert_eq!(tier.list(None, 9).expect("lists"), [name(1)]);
    let back = tier.read(name(1), 0, 100_000).expect("reads");
    assert!(back == content(1, 100_000));
}

#[test]
fn a_lost_state_is_made_anew_from_the_indexes_and_a_lost_index_from_the_tape() {
    let (place, world, tier) = site(2, 1, Make::default());
    let root = place.path().join("tape");
    store(&tier, name(1), &content(1, 100_000));
    drop(tier);
    std::fs::remove_file(root.join("library.json")).expect("removed");
    let tier = open(&root, &world, fresh()).expect("opens");
    assert!(tier.read(name(1), 0, 100_000).expect("reads") == content(1, 100_000));
    let barcodes = tier.library().expect("library").cartridges();
    assert_eq!(barcodes.len(), 2);
    drop(tier);
    for n in [1, 2] {
        std::fs::remove_file(root.join(format!("files/{}.jsonl", sticker(n)))).expect("removed");
    }
    let tier = open(&root, &world, fresh()).expect("opens");
    let unseen = tier.stat(name(1)).expect_err("nobody looked");
    assert_eq!(unseen.kind(), ErrorKind::Unavailable, "{unseen}");
    assert!(unseen.to_string().contains("cairn tape verify"), "{unseen}");
    let library = tier.library().expect("library");
    for n in [1, 2] {
        library.audit(barcode(n), &|_| false).expect("is read");
    }
    assert_eq!(tier.stat(name(1)).expect("is known"), 100_000);
    let missing = tier.stat(name(2)).expect_err("all were seen");
    assert_eq!(missing.kind(), ErrorKind::Missing, "{missing}");
}

#[test]
fn at_the_end_of_a_tape_the_file_goes_to_another_whole() {
    let (_place, world, tier) = site(3, 1, Make::default());
    let data = content(3, 9 * MIB as usize);
    for seq in 1..=5 {
        store(&tier, name(seq), &data);
    }
    for seq in 1..=5 {
        let back = tier.read(name(seq), 0, data.len() as u64).expect("reads");
        assert!(back == data, "{seq}");
    }
    let library = tier.library().expect("library");
    let cartridges = library.cartridges();
    let mut files: Vec<(usize, bool)> = cartridges
        .iter()
        .map(|c| (c.files, c.entry.ends.is_some()))
        .collect();
    files.sort_unstable();
    assert_eq!(files, [(1, false), (2, true), (2, true)]);
    // What was begun at the end is gone, and the driver was not made to write there.
    let mut world = world.lock();
    assert_eq!(world.strays, 0);
    for full in cartridges.iter().filter(|c| c.entry.ends.is_some()) {
        // What is left, shorter ones may use.
        let ends = full.entry.ends.expect("it ended");
        assert!(!full.entry.full && ends < full.entry.capacity && ends > full.used);
        let n = (1..=3).find(|n| barcode(*n) == full.entry.barcode);
        let tape = world.tape(n.expect("one of ours"));
        assert_eq!(tape.objects.len(), 2 + 2 * (9 + 36) - 1);
        assert_eq!(tape.synced, tape.objects.len());
    }
}

#[test]
fn behind_the_early_warning_are_labels_alone() {
    let (_place, world, tier) = site(2, 1, Make::default());
    let data = content(3, 9 * MIB as usize);
    for seq in [1, 2] {
        store(&tier, name(seq), &data);
    }
    let on = lies_on(&tier, 1);
    let (used, room) = {
        let mut world = world.lock();
        let tape = world.tape(on);
        let used = tape.bytes(tape.objects.len());
        (used, tape.capacity - tape.capacity / 64 - used)
    };
    assert_eq!(lies_on(&tier, 2), on);
    // The last block meets it: the file goes to another tape, and nothing of it stays.
    let last = content(4, room as usize - 3 * 80);
    store(&tier, name(3), &last);
    assert_ne!(lies_on(&tier, 3), on);
    let mut world = world.lock();
    let tape = world.tape(on);
    assert_eq!(tape.bytes(tape.objects.len()), used);
    assert_eq!(tape.synced, tape.objects.len());
}

#[test]
fn closing_labels_fit_behind_the_early_warning() {
    let (_place, world, tier) = site(1, 1, Make::default());
    let data = content(3, 9 * MIB as usize);
    store(&tier, name(1), &data);
    let room = {
        let mut world = world.lock();
        let tape = world.tape(1);
        tape.capacity - tape.capacity / 64 - tape.bytes(tape.objects.len())
    };
    let last = content(4, room as usize - 3 * 80 - 100);
    store(&tier, name(2), &last);
    assert!(tier.read(name(2), 0, last.len() as u64).expect("reads") == last);
    let mut world = world.lock();
    let tape = world.tape(1);
    assert!(tape.bytes(tape.objects.len()) > tape.capacity - tape.capacity / 64);
}

#[test]
fn a_cartridge_that_cannot_be_written_is_left_as_it_was() {
    let (_place, world, tier) = site(2, 1, Make::default());
    let data = content(5, 1_000_000);
    store(&tier, name(1), &data);
    let on = lies_on(&tier, 1);
    let before = world.lock().tape(on).objects.len();
    world.lock().tape(on).unwritable = true;
    store(&tier, name(2), &data);
    assert_ne!(lies_on(&tier, 2), on);
    assert!(tier.read(name(1), 0, data.len() as u64).expect("reads") == data);
    let mut world = world.lock();
    assert_eq!(world.strays, 0);
    assert_eq!(world.tape(on).objects.len(), before);
}

#[test]
fn a_bad_block_is_an_error_and_never_zeros_whereever_the_head_is_then() {
    for stays in [false, true] {
        let make = Make {
            stays,
            ..Make::default()
        };
        let (_place, world, tier) = site(1, 1, make);
        let data = content(5, 2 * MIB as usize);
        store(&tier, name(1), &data);
        store(&tier, name(2), &data);
        // The label, its headers and their mark, one block.
        world.lock().tape(1).bad.insert(6);
        let error = tier
            .read(name(1), 0, data.len() as u64)
            .expect_err("is bad");
        assert!(error.to_string().contains("object 6"), "{error}");
        let behind = tier.read(name(1), 2 * (256 << 10), 1000).expect("reads");
        assert!(behind[..] == data[2 * (256 << 10)..][..1000]);
        assert!(tier.read(name(2), 0, data.len() as u64).expect("reads") == data);
        let end = tier.library().expect("library").cartridges();
        assert!(!end[0].damaged, "a file's data are not its labels");
    }
}

#[test]
fn a_drive_that_dies_is_left_alone_with_what_is_in_it() {
    let (_place, world, tier) = site(2, 2, Make::default());
    let data = content(6, 3_000_000);
    store(&tier, name(1), &data);
    let tape = lies_on(&tier, 1) as usize - 1;
    let holding = {
        let world = world.lock();
        let at = world.bays.iter().position(|bay| bay.holds == Some(tape));
        at.expect("in a drive")
    };
    world.lock().bays[holding].dying = Some(8);
    // The cartridge cannot be had out of it: the bytes go to the other one.
    store(&tier, name(2), &data);
    assert!(tier.read(name(2), 0, data.len() as u64).expect("reads") == data);
    let away = tier.read(name(1), 0, 10).expect_err("is in the dead drive");
    assert_eq!(away.kind(), ErrorKind::Unavailable, "{away}");
    assert!(away.to_string().contains("take it out by hand"), "{away}");
    let drives = tier.library().expect("library").drives();
    let failed: Vec<bool> = drives.iter().map(|d| d.failed.is_some()).collect();
    assert_eq!(failed.iter().filter(|f| **f).count(), 1);
    take_out(&world, holding);
    assert!(tier.read(name(1), 0, data.len() as u64).expect("reads") == data);
}

#[test]
fn after_a_reset_of_the_bus_reading_goes_on_and_what_was_being_written_is_written_anew() {
    let (_place, world, tier) = site(2, 1, Make::default());
    let data = content(7, 3_000_000);
    store(&tier, name(1), &data);
    tier.read(name(1), 0, 10).expect("reads");
    world.lock().bays[0].lost = true;
    // The next block, where the head stood.
    let next = tier.read(name(1), 256 << 10, 1000).expect("reads on");
    assert!(next[..] == data[256 << 10..][..1000]);
    world.lock().bays[0].lost = true;
    store(&tier, name(2), &data);
    assert!(tier.read(name(2), 0, data.len() as u64).expect("reads") == data);
}

#[test]
fn what_was_not_synchronised_is_lost_with_the_power_and_nothing_else() {
    let (place, world, tier) = site(1, 1, Make::default());
    let root = place.path().join("tape");
    let data = content(8, 3_000_000);
    store(&tier, name(1), &data);
    // The drive is gone in the middle of the next file: nothing is said to be there.
    world.lock().bays[0].dying = Some(10);
    let mut put = tier.put(name(2), 0).expect("put");
    std::io::Write::write_all(&mut put, &data).expect("taken");
    put.finish(cairn_mover::Crc32c::of(&data))
        .expect_err("no drive is left");
    drop(tier);
    {
        let world = &mut *world.lock();
        let torn = world.tape(1).objects.len() - world.tape(1).synced;
        assert!(torn > 0, "some of it was in the buffer");
        world.bays[0].dead = None;
        world.power_loss();
    }
    let tier = open(&root, &world, fresh()).expect("opens");
    assert!(tier.read(name(1), 0, data.len() as u64).expect("reads") == data);
    let gone = tier.stat(name(2)).expect_err("was never there");
    assert_eq!(gone.kind(), ErrorKind::Missing, "{gone}");
    store(&tier, name(2), &data);
    assert!(tier.read(name(2), 0, data.len() as u64).expect("reads") == data);
}

#[test]
fn a_tab_is_the_cartridges_own_and_is_seen_when_it_is_loaded() {
    let (place, world, tier) = site(2, 1, Make::default());
    let root = place.path().join("tape");
    store(&tier, name(1), &content(9, 1000));
    let library = tier.library().expect("library");
    let error = library.protect(barcode(1), true).expect_err("by hand");
    assert!(error.to_string().contains("move its tab"), "{error}");
    let on = lies_on(&tier, 1);
    drop((library, tier));
    world.lock().tape(on).protected = true;
    take_out(&world, 0);
    let tier = open(&root, &world, fresh()).expect("opens");
    assert!(tier.read(name(1), 0, 1000).expect("reads") == content(9, 1000));
    store(&tier, name(2), &content(2, 1000));
    let cartridges = tier.library().expect("library").cartridges();
    for cartridge in cartridges {
        let protected = cartridge.entry.barcode == barcode(on);
        assert_eq!(
            (cartridge.entry.write_protected, cartridge.files),
            (protected, 1)
        );
    }
}

#[test]
fn a_changer_that_fails_is_told_of_and_asked_again() {
    let (_place, world, tier) = site(2, 1, Make::default());
    store(&tier, name(1), &content(1, 1000));
    world.lock().jammed = Some("MOVE MEDIUM Failed: mechanical positioning error".to_owned());
    let library = tier.library().expect("library");
    let holding = lies_on(&tier, 1);
    let other = 3 - holding;
    let error = library.mount(barcode(other)).expect_err("cannot be moved");
    assert!(
        error.to_string().contains("mechanical positioning error"),
        "{error}"
    );
    // What was to leave is in the drive still.
    assert_eq!(library.drives()[0].holds, Some(barcode(holding)));
    library
        .mount(barcode(holding))
        .expect_err("it lies in the mouth");
    world.lock().jammed = None;
    drop(library.mount(barcode(holding)).expect("is put in anew"));
    drop(library.mount(barcode(other)).expect("moves again"));
    drop(library.mount(barcode(holding)).expect("and back"));
    drop(library);
    assert!(tier.read(name(1), 0, 1000).expect("reads") == content(1, 1000));
}

#[test]
fn a_cartridge_leaves_through_the_port_and_comes_back_by_its_barcode() {
    let (place, world, tier) = site(2, 1, Make::default());
    let root = place.path().join("tape");
    let data = content(4, 200_000);
    store(&tier, name(1), &data);
    let library = tier.library().expect("library");
    let lies = library.find(name(1)).expect("is known").0;
    let place_of = library.export(lies, None).expect("leaves");
    assert_eq!(place_of.to_string_lossy(), "import/export slot 5");
    let away = tier.read(name(1), 0, 10).expect_err("is away");
    assert_eq!(away.kind(), ErrorKind::Unavailable, "{away}");
    // All that is on it is known: other names are missing.
    assert_eq!(
        tier.stat(name(2)).expect_err("none").kind(),
        ErrorKind::Missing
    );
    assert!(library.import(&Import::At("/x.tap".into()), false).is_err());
    drop((library, tier));
    // It stands in the port still: away it is all the same.
    let tier = open(&root, &world, fresh()).expect("opens");
    assert!(tier.read(name(1), 0, 10).is_err());
    let library = tier.library().expect("library");
    let gone = world.lock().slots[4].holds.take();
    let absent = library
        .import(&Import::Known(lies), false)
        .expect_err("is gone");
    assert!(absent.to_string().contains("put it"), "{absent}");
    // The changer's inventory is believed for a while.
    drop((library, tier));
    world.lock().slots[4].holds = gone;
    let tier = open(&root, &world, fresh()).expect("opens");
    let library = tier.library().expect("library");
    let taken = library
        .import(&Import::Known(lies), false)
        .expect("comes back");
    assert_eq!((taken.files, taken.bytes, taken.from), (1, 200_000, None));
    assert!(world.lock().slots[4].holds.is_none(), "out of the port");
    drop(library);
    assert!(tier.read(name(1), 0, data.len() as u64).expect("reads") == data);
}

#[test]
fn what_is_dead_is_erased_and_the_cartridge_is_written_again() {
    for erases in [true, false] {
        let make = Make {
            erases,
            ..Make::default()
        };
        let (_place, world, tier) = site(1, 1, make);
        for seq in 1..=3 {
            store(&tier, name(seq), &content(seq as u8, 2_000_000));
        }
        for seq in 1..=3 {
            tier.delete(name(seq)).expect("deleted");
        }
        let library = tier.library().expect("library");
        library.free(barcode(1)).expect("is freed");
        let left = world.lock().tape(1).objects.len();
        assert_eq!(left, 2, "the label, and a mark");
        assert_eq!(world.lock().tape(1).synced, 2);
        drop(library);
        store(&tier, name(9), &content(9, 1000));
        assert!(tier.read(name(9), 0, 1000).expect("reads") == content(9, 1000));
    }
}

#[test]
fn drives_in_another_order_than_the_changers_are_found_out() {
    let place = TempDir::new().expect("temporary directory");
    let world = world(2, 24 * MIB, 2, Make::default());
    let crossed = Arc::new(Fake {
        world: Arc::clone(&world),
        order: vec![1, 0],
    });
    let root = place.path().join("tape");
    let tier = TapeTier::with_hardware(&root, &options(), fresh(), crossed).expect("opens");
    let library = tier.library().expect("library");
    library
        .label(Some(barcode(1)))
        .expect_err("no drive has it");
    let failed: Vec<String> = library
        .drives()
        .into_iter()
        .filter_map(|d| d.failed)
        .collect();
    assert!(failed[0].contains("in the order"), "{failed:?}");
    assert!(world.lock().tape(1).objects.is_empty());
}

#[test]
fn a_real_library_and_a_virtual_one_are_not_taken_for_each_other() {
    let (place, world, tier) = site(1, 1, Make::default());
    let root = place.path().join("tape");
    drop(tier);
    let error = TapeTier::open(&root, &TapeOptions::default(), fresh()).map(drop);
    let error = error.expect_err("is real");
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    let images = place.path().join("images");
    drop(TapeTier::open(&images, &options(), fresh()).expect("opens"));
    let error = open(&images, &world, fresh())
        .map(drop)
        .expect_err("is virtual");
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(root.join("library.json").exists() && !root.join("cartridges").exists());
}

#[test]
fn stickers_that_were_mixed_up_are_found_out_and_nothing_is_written() {
    let (place, world, tier) = site(2, 1, Make::default());
    let root = place.path().join("tape");
    store(&tier, name(1), &content(1, 1000));
    drop(tier);
    take_out(&world, 0);
    let before: Vec<Vec<Object>> = {
        let tapes = &mut world.lock().tapes;
        (tapes[0].sticker, tapes[1].sticker) = (sticker(2), sticker(1));
        tapes.iter().map(|tape| tape.objects.clone()).collect()
    };
    let tier = open(&root, &world, fresh()).expect("opens");
    let error = tier.read(name(1), 0, 1000).expect_err("is another tape");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("a wrong sticker"), "{error}");
    let mut put = tier.put(name(2), 0).expect("put");
    std::io::Write::write_all(&mut put, b"bytes").expect("taken");
    put.finish(cairn_mover::Crc32c::of(b"bytes"))
        .expect_err("neither is what its sticker says");
    let after: Vec<Vec<Object>> = {
        let world = world.lock();
        world.tapes.iter().map(|t| t.objects.clone()).collect()
    };
    assert!(before == after);
}

#[test]
fn a_changer_that_is_away_at_the_opening_is_waited_for() {
    let (place, world, tier) = site(1, 1, Make::default());
    store(&tier, name(1), &content(1, 1000));
    drop(tier);
    take_out(&world, 0);
    world.lock().mute = Some("cannot open SCSI device '/dev/sg9' - No such device".to_owned());
    let known = OpenHow::known(MARK.owner, MARK.tier);
    let tier = open(&place.path().join("tape"), &world, known).expect("opens");
    // What lies where is known; only the bytes cannot be had.
    assert_eq!(tier.stat(name(1)).expect("is known"), 1000);
    let away = tier.read(name(1), 0, 1000).expect_err("cannot be had");
    assert_eq!(away.kind(), ErrorKind::Unavailable, "{away}");
    assert!(away.to_string().contains("No such device"), "{away}");
    let unseen = tier.stat(name(2)).expect_err("may be anywhere");
    assert_eq!(unseen.kind(), ErrorKind::Unavailable, "{unseen}");
    world.lock().mute = None;
    let until = Instant::now() + Duration::from_secs(60);
    let back = loop {
        match tier.read(name(1), 0, 1000) {
            Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(50)),
            read => break read.expect("reads again"),
        }
    };
    assert!(back == content(1, 1000));
}

#[test]
fn whoever_dies_in_the_middle_of_a_file_leaves_a_tail_that_is_written_over() {
    let (place, world, tier) = site(1, 1, Make::default());
    let root = place.path().join("tape");
    let data = content(2, 1_000_000);
    store(&tier, name(1), &data);
    let library = tier.library().expect("library");
    let mut mounted = library.mount(barcode(1)).expect("in its drive");
    let end = mounted.seen.as_ref().expect("was looked at").next.object;
    mounted.drive().locate(end).expect("goes there");
    for _ in 0..3 {
        mounted
            .drive()
            .write_block(&data[..1000])
            .expect("is taken");
    }
    drop(mounted);
    drop((library, tier));
    assert_eq!(world.lock().strays, 0);
    // The driver closes what a killed one wrote with a mark.
    world.lock().tape(1).put(end as usize + 3, Object::Mark);
    let tier = open(&root, &world, fresh()).expect("opens");
    assert!(tier.read(name(1), 0, data.len() as u64).expect("reads") == data);
    store(&tier, name(2), &data);
    assert!(tier.read(name(2), 0, data.len() as u64).expect("reads") == data);
    let status = &tier.library().expect("library").cartridges()[0];
    assert_eq!((status.files, status.damaged), (2, false));
}
