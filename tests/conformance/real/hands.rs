//! What people and other programs do to a drive while a library has a cartridge in it: what is on the tapes stays.

use super::world::{Make, Object, Shared, Tape, sticker};
use super::{MIB, barcode, content, fresh, lies_on, open, site};
use crate::{name, store};
use cairn::tier::tape::TapeTier;
use cairn::tier::tape::drive::DriveError;
use cairn::tier::tape::library::LibraryError;
use cairn::tier::{ErrorKind, Tier};
use std::sync::Arc;

/// All that is on a tape.
fn objects(world: &Shared, n: u32) -> Vec<Object> {
    world.lock().tape(n).objects.clone()
}

/// Does the tape begin as that one did?
fn begins(tape: &Tape, before: &[Object]) -> bool {
    tape.objects.starts_with(before)
}

#[test]
fn a_drive_that_was_reset_in_between_writes_nothing_over_the_label() {
    for told in [false, true] {
        let (_place, world, tier) = site(1, 1, Make::default());
        let data = content(1, 3_000_000);
        store(&tier, name(1), &data);
        let before = objects(&world, 1);
        world.lock().reset(0, told);
        store(&tier, name(2), &data);
        assert!(begins(world.lock().tape(1), &before), "told: {told}");
        world.lock().reset(0, told);
        let back = tier.read(name(1), 0, data.len() as u64).expect("reads");
        assert!(back == data);
        world.lock().reset(0, told);
        let library = tier.library().expect("library");
        for _ in 0..2 {
            // Whatever is said the first time, it is not of the files.
            let audit = library.audit(barcode(1), &|_| false);
            let bad = audit.map_or_else(|_| Vec::new(), |audit| audit.bad);
            let lost = |(_, why): &(_, String)| why.contains("not where it was left");
            assert!(!bad.iter().any(lost), "{bad:?}");
        }
        drop(library);
        world.lock().reset(0, told);
        for seq in [1, 2] {
            tier.delete(name(seq)).expect("deleted");
        }
        let library = tier.library().expect("library");
        library.free(barcode(1)).expect("is freed");
        assert_eq!(world.lock().tape(1).objects[..1], before[..1]);
        drop(library);
        drop(tier);
        assert_eq!(world.lock().strays, 0);
    }
}

#[test]
fn another_tape_that_somebody_put_in_is_not_written() {
    for (told, files) in [(false, 1), (true, 1), (false, 0), (true, 0)] {
        let (_place, world, tier) = site(1, 1, Make::default());
        let data = content(1, 3_000_000);
        for seq in 1..=files {
            store(&tier, name(seq), &data);
        }
        let own = objects(&world, 1);
        // It has more on it, so that it could be written where the other one ends.
        let before = vec![Object::Block(vec![7; 1000]); 60];
        {
            let mut world = world.lock();
            world.tapes.push(Tape {
                sticker: sticker(7),
                objects: before.clone(),
                synced: before.len(),
                capacity: 24 * MIB,
                ..Tape::default()
            });
            world.slots[1].holds = Some(1);
            world.swap(0, 1, told);
        }
        let mut put = tier.put(name(9), 0).expect("put");
        std::io::Write::write_all(&mut put, &data).expect("taken");
        // The one that was there is in a slot now, and may be fetched from it.
        let stored = put.finish(cairn_mover::Crc32c::of(&data)).is_ok();
        assert!(objects(&world, 7) == before, "told: {told}, {files}");
        assert!(begins(world.lock().tape(1), &own));
        assert!(!stored || lies_on(&tier, 9) == 1);
    }
}

#[test]
fn another_tape_that_comes_in_while_a_file_is_written_is_not_cut() {
    let (_place, world, tier) = site(1, 1, Make::default());
    let data = content(1, 3_000_000);
    store(&tier, name(1), &data);
    let library = tier.library().expect("library");
    let mut mounted = library.mount(barcode(1)).expect("is there");
    let end = mounted.seen.as_ref().expect("was looked at").next.object;
    mounted.drive().locate(end).expect("goes there");
    mounted.drive().write_block(&data[..80]).expect("is taken");
    let before = vec![Object::Block(vec![7; 1000]); 60];
    {
        let mut world = world.lock();
        world.tapes[0].objects = before.clone();
        world.reset(0, true);
    }
    let error = mounted.drive().write_block(&data[..80]);
    assert!(matches!(error, Err(DriveError::Lost { .. })), "{error:?}");
    cairn::tier::tape::volume::cut(
        mounted.drive(),
        cairn::tier::tape::volume::Next {
            object: end,
            bytes: 0,
        },
    )
    .expect_err("nobody knows what tape it is");
    assert!(!mounted.drive().is_sure());
    drop(mounted);
    library.mount(barcode(1)).expect_err("it is another one");
    drop((library, tier));
    assert!(objects(&world, 1) == before);
}

#[test]
fn another_tape_is_not_read_for_the_one_that_was_there() {
    for told in [false, true] {
        let (_place, world, tier) = site(2, 1, Make::default());
        let data = content(1, 3_000_000);
        store(&tier, name(1), &data);
        tier.read(name(1), 0, 1000).expect("reads");
        let on = lies_on(&tier, 1);
        let other = 3 - on;
        let wrong = vec![Object::Block(vec![9; 256 << 10]); 30];
        world.lock().tape(other).objects.extend(wrong);
        world.lock().swap(0, other as usize - 1, told);
        let error = tier.read(name(1), 512 << 10, 1000).expect_err("is another");
        assert_ne!(error.kind(), ErrorKind::Missing, "{error}");
    }
}

#[test]
fn a_tape_is_not_erased_for_another_one() {
    let (_place, world, tier) = site(2, 1, Make::default());
    store(&tier, name(1), &content(1, 1000));
    let on = lies_on(&tier, 1);
    tier.delete(name(1)).expect("deleted");
    let before = objects(&world, 3 - on);
    world.lock().swap(0, 2 - on as usize, false);
    let library = tier.library().expect("library");
    library.free(barcode(on)).expect_err("another one is there");
    assert!(objects(&world, 3 - on) == before);
}

#[test]
fn what_does_not_begin_as_a_file_is_not_written_over_if_files_lie_behind_it() {
    let (place, world, tier) = site(1, 1, Make::default());
    let root = place.path().join("tape");
    for seq in 1..=3 {
        store(&tier, name(seq), &content(seq as u8, 1_000_000));
    }
    drop(tier);
    let index = root.join(format!("files/{}.jsonl", sticker(1)));
    std::fs::remove_file(index).expect("removed");
    // The first file's UHL1 is none.
    let before = {
        let mut world = world.lock();
        world.tape(1).objects[3] = Object::Block(vec![b'X'; 80]);
        world.tape(1).objects.clone()
    };
    let tier = open(&root, &world, fresh()).expect("opens");
    let library = tier.library().expect("library");
    library.audit(barcode(1), &|_| false).expect("is read");
    assert!(library.cartridges()[0].damaged);
    drop(library);
    assert!(tier.put(name(9), 0).is_err(), "has no place");
    assert!(objects(&world, 1) == before);
}

#[test]
fn drives_whose_options_would_make_a_receipt_false_load_nothing() {
    let place = tempfile::TempDir::new().expect("temporary directory");
    // MT_ST_NOWAIT_EOF.
    let make = Make {
        root: false,
        options: 0x8800,
        ..Make::default()
    };
    let world = super::world::world(1, 24 * MIB, 1, make);
    let tier = open(&place.path().join("tape"), &world, fresh()).expect("opens");
    let library = tier.library().expect("library");
    let error = library.label(Some(barcode(1))).expect_err("is not loaded");
    assert!(error.to_string().contains("stinit.def"), "{error}");
    assert!(world.lock().tape(1).objects.is_empty());
}

#[test]
fn a_drive_that_does_not_let_go_is_not_the_wanted_cartridges_fault() {
    let (place, world, tier) = site(2, 1, Make::default());
    store(&tier, name(1), &content(1, 1000));
    let on = lies_on(&tier, 1);
    drop(tier);
    // Whatever it is asked.
    world.lock().bays[0].dead = Some(libc::EIO);
    let tier = open(&place.path().join("tape"), &world, fresh()).expect("opens");
    let library = tier.library().expect("library");
    let error = library.mount(barcode(3 - on)).expect_err("cannot be had");
    assert!(matches!(error, LibraryError::NoDrive(_)), "{error}");
    for cartridge in library.cartridges() {
        let of_wanted = cartridge.entry.barcode == barcode(3 - on);
        let errors = &cartridge.entry.errors;
        let counted = errors.load + errors.read;
        assert_eq!(counted == 0, of_wanted, "{cartridge:?}");
    }
}

#[test]
fn a_drive_that_another_program_has_is_asked_again() {
    let (_place, world, tier) = site(1, 1, Make::default());
    store(&tier, name(1), &content(1, 1000));
    let library = tier.library().expect("library");
    library.mount(barcode(1)).expect("is there").vacate();
    world.lock().bays[0].open = true;
    let busy = library.mount(barcode(1)).expect_err("is in use");
    assert!(busy.to_string().contains("another program"), "{busy}");
    let mut put = tier.put(name(2), 0).expect("put");
    std::io::Write::write_all(&mut put, b"bytes").expect("taken");
    let busy = put.finish(cairn_mover::Crc32c::of(b"bytes"));
    let busy = busy.expect_err("is in use");
    assert_eq!(busy.kind(), ErrorKind::Unavailable, "{busy}");
    world.lock().bays[0].open = false;
    store(&tier, name(2), b"bytes");
    assert!(tier.read(name(1), 0, 1000).expect("reads") == content(1, 1000));
}

#[test]
fn a_drive_that_should_be_empty_and_is_not_is_not_used_and_nothing_is_moved() {
    let place = tempfile::TempDir::new().expect("temporary directory");
    let world = super::world::world(2, 24 * MIB, 2, Make::default());
    {
        // A tape that nobody labelled, in the drive that the changer has as its second.
        let world = &mut *world.lock();
        world.bays[1].holds = world.slots[1].holds.take();
        (world.bays[1].threaded, world.bays[1].open) = (true, false);
        world.bays[1].keeps = true;
    }
    let crossed = Arc::new(super::changer::Fake {
        world: Arc::clone(&world),
        order: vec![1],
    });
    let root = place.path().join("tape");
    let tier = TapeTier::with_hardware(&root, &super::options(), fresh(), crossed).expect("opens");
    let library = tier.library().expect("library");
    let error = library.label(Some(barcode(1))).expect_err("another order");
    assert!(error.to_string().contains("another order"), "{error}");
    assert!(world.lock().moves.is_empty());
    assert!((1..=2).all(|n| objects(&world, n).is_empty()));
}

#[test]
fn what_somebody_left_in_a_drive_is_used_there() {
    let (_place, world, tier) = site(2, 2, Make::default());
    store(&tier, name(1), &content(1, 1000));
    let on = lies_on(&tier, 1);
    let library = tier.library().expect("library");
    library.mount(barcode(on)).expect("is there").vacate();
    for n in 1..=2 {
        if library.drives().iter().any(|d| d.holds == Some(barcode(n))) {
            library.mount(barcode(n)).expect("is there").vacate();
        }
    }
    drop(library);
    {
        // By hand, into the second drive.
        let world = &mut *world.lock();
        let slot = world
            .slots
            .iter()
            .position(|s| s.holds == Some(on as usize - 1))
            .expect("in a slot");
        world.bays[1].holds = world.slots[slot].holds.take();
        world.bays[1].threaded = true;
    }
    assert!(tier.read(name(1), 0, 1000).expect("reads") == content(1, 1000));
}

#[test]
fn what_was_begun_is_not_cut_from_a_tape_with_another_label() {
    let (_place, world, tier) = site(1, 1, Make::default());
    let data = content(1, 1_000_000);
    store(&tier, name(1), &data);
    let before = {
        let world = &mut *world.lock();
        let tape = world.tape(1);
        let label = format!("{:<80}", "VOL1OTHER1          OTHER PROGRAM");
        tape.objects[0] = Object::Block(label.into_bytes());
        tape.objects.extend(vec![Object::Block(vec![7; 1000]); 9]);
        tape.unwritable = true;
        tape.objects.clone()
    };
    let mut put = tier.put(name(2), 0).expect("put");
    std::io::Write::write_all(&mut put, &data).expect("taken");
    put.finish(cairn_mover::Crc32c::of(&data))
        .expect_err("has no place");
    assert!(objects(&world, 1) == before);
}
