//! The life of cartridges and drives: they come and go, wear out, are read whole, and are made empty.

use crate::MARK;
use crate::name;
use crate::tape_days::{Site, holds, kind, names, try_store, where_is};
use cairn::format::aggregate::AggregateWriter;
use cairn::id::{AggregateId, FsUuid, TierId, Timestamp};
use cairn::tier::tape::TapeTier;
use cairn::tier::tape::drive::DriveNumber;
use cairn::tier::tape::image::{Access, Image};
use cairn::tier::tape::label::Barcode;
use cairn::tier::tape::library::{CartridgeStatus, Import, Library};
use cairn::tier::{ErrorKind, Expect, OpenHow, Put, Tier};
use cairn_mover::Crc32c;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn library(tier: &TapeTier) -> Arc<Library> {
    tier.library().expect("there")
}

fn status(tier: &TapeTier, barcode: Barcode) -> CartridgeStatus {
    library(tier).cartridge(barcode).expect("known").0
}

/// A small aggregate with nothing in it, as an archive would write it.
fn store_aggregate(tier: &TapeTier, id: AggregateId) {
    let at = Timestamp { sec: 1, nsec: 0 };
    let writer = AggregateWriter::new(Vec::new(), id, FsUuid([7; 16]), at);
    let (bytes, ..) = writer.finish().expect("is composed");
    let mut put: Box<dyn Put> = tier.put(id, bytes.len() as u64).expect("put");
    put.write_all(&bytes).expect("write");
    put.finish(Crc32c::of(&bytes)).expect("finish");
}

fn image_of(dir: &Path, barcode: Barcode) -> PathBuf {
    dir.join(format!("{barcode}.tap"))
}

#[test]
fn cartridges_are_added_and_none_that_has_data_is_labelled() {
    let site = Site::new(1, 1);
    let tier = site.open();
    let library = library(&tier);
    try_store(&tier, 1, 5 << 20).expect("fits");
    assert_eq!(kind(try_store(&tier, 2, 5 << 20)), ErrorKind::Full);
    let added = library.label(None).expect("one more");
    assert_eq!(added.capacity, 8 << 20, "as large as the other");
    try_store(&tier, 2, 5 << 20).expect("fits now");
    let named: Barcode = "VLT042L8".parse().expect("barcode");
    assert_eq!(library.label(Some(named)).expect("by name").barcode, named);

    let used = where_is(&tier, name(1));
    let why = library.label(Some(used)).expect_err("it has data");
    assert!(why.to_string().contains("cairn tape repack"), "{why}");
    let twin: Barcode = "VLT042L9".parse().expect("barcode");
    let why = library
        .label(Some(twin))
        .expect_err("one volume, two cartridges");
    assert!(why.to_string().contains("same name of a volume"), "{why}");
    let found: Barcode = "OLD001L8".parse().expect("barcode");
    fs::copy(site.image(used), site.image(found)).expect("an image from somewhere");
    let why = library.label(Some(found)).expect_err("something is on it");
    assert!(why.to_string().contains("cairn tape import"), "{why}");
    holds(&tier, 1, 5 << 20);
    drop((tier, library));
    let tier = site.open();
    assert_eq!(tier.library().expect("there").cartridges().len(), 3);
}

#[test]
fn an_exported_cartridge_is_asked_for_by_name_and_comes_back_with_all_that_is_on_it() {
    let site = Site::new(2, 1);
    let tier = site.open();
    for seq in 1..=4 {
        try_store(&tier, seq, 3 << 20).expect("fits");
    }
    let barcode = where_is(&tier, name(1));
    tier.delete(name(2)).expect("deletes");
    let vault = site.place.path().join("vault");
    fs::create_dir(&vault).expect("directory");
    let to = library(&tier).export(barcode, Some(&vault)).expect("goes");
    assert_eq!(to, image_of(&vault.canonicalize().expect("there"), barcode));
    assert!(to.exists() && !site.image(barcode).exists());
    let again = library(&tier)
        .export(barcode, None)
        .expect_err("it is away");
    assert!(again.to_string().contains("import it"), "{again}");

    let error = tier.read(name(1), 0, 10).expect_err("it is away");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains(&barcode.to_string()), "{error}");
    assert_eq!(names(&tier), [1, 3, 4], "what is on it is known");
    // All that is on it is known: what nobody knows is nowhere.
    assert_eq!(kind(tier.stat(name(9))), ErrorKind::Missing);
    tier.delete(name(9)).expect("is not there");
    drop(tier);
    let tier = site.open();
    assert_eq!(names(&tier), [1, 3, 4]);
    assert_eq!(kind(tier.read(name(1), 0, 10)), ErrorKind::Unavailable);
    // What is deleted meanwhile is dead when it is back.
    tier.delete(name(1)).expect("is marked");
    let taken = library(&tier)
        .import(&Import::Known(barcode), false)
        .expect("comes");
    assert_eq!((taken.barcode, taken.files), (barcode, 2));
    assert_eq!(names(&tier), [3, 4]);
    assert_eq!(status(&tier, barcode).live, 0);
    try_store(&tier, 5, 6 << 20).expect("it is free again by itself");
    holds(&tier, 5, 6 << 20);
}

#[test]
fn what_may_be_on_an_exported_cartridge_is_not_missing() {
    let site = Site::new(2, 1);
    let tier = site.open();
    for seq in 1..=3 {
        try_store(&tier, seq, 1000).expect("fits");
    }
    let barcode = where_is(&tier, name(1));
    let index = site.root().join(format!("files/{barcode}.jsonl"));
    // Its index cannot be written: it stays.
    let aside = site.place.path().join("aside");
    fs::rename(&index, &aside).expect("aside");
    fs::create_dir(&index).expect("in its place");
    library(&tier)
        .export(barcode, None)
        .expect_err("what is on it would be known to nobody");
    holds(&tier, 1, 1000);
    assert!(status(&tier, barcode).entry.away.is_none());
    fs::remove_dir(&index).expect("goes");
    // It is behind, or was never written: when the cartridge goes it is whole.
    library(&tier).export(barcode, None).expect("goes");
    drop(tier);
    assert_eq!(names(&site.open()), [1, 2, 3]);
    let missing = |seq| kind(site.open().stat(name(seq)));
    assert_eq!(missing(9), ErrorKind::Missing);

    let text = fs::read(&index).expect("text");
    let at = |what: &str| {
        let at = text.windows(what.len()).position(|w| w == what.as_bytes());
        at.expect("is in it")
    };
    // Behind; a line of no use; another name; the last line's end.
    fs::write(&index, &text[..text.len() - 100]).expect("cut");
    assert_eq!(missing(3), ErrorKind::Unavailable);
    let flips = [at("\"file\""), at(&name(3).to_string()) + 9, text.len() - 1];
    for flip in flips {
        let mut flipped = text.clone();
        flipped[flip] ^= 1;
        fs::write(&index, flipped).expect("write");
        assert_eq!(missing(3), ErrorKind::Unavailable, "{flip}");
        let deleted = site.open().delete(name(3));
        assert_eq!(kind(deleted), ErrorKind::Unavailable, "{flip}");
    }
    fs::write(&index, &text).expect("write");
    assert_eq!(missing(9), ErrorKind::Missing);
    // One that was exported by an earlier version: nobody knows how whole it was.
    let state = site.root().join("library.json");
    let text = fs::read_to_string(&state).expect("text");
    let line = text
        .lines()
        .find(|l| l.contains("\"whole\""))
        .expect("kept");
    let old = text.replace(&format!(",\n{line}"), "");
    assert_ne!(old, text);
    fs::write(&state, old).expect("write");
    assert_eq!(missing(9), ErrorKind::Unavailable);
    library(&site.open())
        .import(&Import::Known(barcode), false)
        .expect("comes");
    assert_eq!(missing(9), ErrorKind::Missing);
}

#[test]
fn a_stop_within_an_export_leaves_a_cartridge_that_is_there() {
    let site = Site::new(1, 1);
    let tier = site.open();
    try_store(&tier, 1, 1000).expect("fits");
    let barcode = where_is(&tier, name(1));
    let to = library(&tier).export(barcode, None).expect("goes");
    drop(tier);
    // As if it had been stopped after it was written down, before the image was moved.
    fs::rename(to, site.image(barcode)).expect("is back");
    let tier = site.open();
    holds(&tier, 1, 1000);
    assert!(status(&tier, barcode).entry.away.is_none());
}

#[test]
fn what_another_tier_wrote_is_taken_only_by_word_and_read_and_not_written() {
    let site = Site::new(1, 1);
    let tier = site.open();
    try_store(&tier, 1, 1000).expect("fits");
    let other = Site::new(2, 1);
    let how = OpenHow {
        owner: MARK.owner,
        expect: Expect::New(TierId(77)),
    };
    let theirs = other.open_as(how).expect("opens");
    try_store(&theirs, 11, 2000).expect("fits");
    let barcode = where_is(&theirs, name(11));
    drop(theirs);
    let image = site.place.path().join(format!("{barcode}.tap"));
    fs::copy(other.image(barcode), &image).expect("carried over");

    let library = library(&tier);
    let import = Import::At(image.clone());
    let why = library.import(&import, false).expect_err("another tier's");
    assert!(why.to_string().contains("--take"), "{why}");
    assert!(image.exists(), "it is where it was");
    let taken = library.import(&import, true).expect("is taken");
    assert_eq!((taken.files, taken.from), (1, Some(TierId(77))));
    holds(&tier, 11, 2000);
    drop((tier, library));
    let tier = site.open();
    holds(&tier, 11, 2000);
    for seq in 2..=3 {
        try_store(&tier, seq, 3 << 20).expect("fits the other one");
        assert_ne!(where_is(&tier, name(seq)), barcode);
    }
    // When nothing on it is needed it is this tier's.
    tier.delete(name(11)).expect("deletes");
    try_store(&tier, 4, 7 << 20).expect("fits it");
    assert_eq!(where_is(&tier, name(4)), barcode);
    assert_eq!(status(&tier, barcode).entry.taken_from, None);
    drop(tier);
    holds(&site.open(), 4, 7 << 20);
}

#[test]
fn two_with_one_barcode_and_two_instances_with_one_name_are_refused() {
    let site = Site::new(1, 1);
    let tier = site.open();
    try_store(&tier, 1, 1000).expect("fits");
    let barcode = where_is(&tier, name(1));
    let copy = site.place.path().join(format!("{barcode}.tap"));
    fs::copy(site.image(barcode), &copy).expect("a second one");
    let why = library(&tier)
        .import(&Import::At(copy), false)
        .expect_err("there is one");
    assert!(why.to_string().contains("of this barcode"), "{why}");

    let other = Site::new(1, 1);
    let how = OpenHow {
        owner: MARK.owner,
        expect: Expect::New(TierId(78)),
    };
    let theirs = other.open_as(how).expect("opens");
    try_store(&theirs, 1, 500).expect("fits");
    let foreign = where_is(&theirs, name(1));
    drop(theirs);
    let image = site.place.path().join(format!("{foreign}.tap"));
    fs::copy(other.image(foreign), &image).expect("carried over");
    let why = library(&tier)
        .import(&Import::At(image), true)
        .expect_err("one name, other bytes");
    assert!(why.to_string().contains("with other bytes"), "{why}");
    holds(&tier, 1, 1000);
    // Nothing that is no cartridge comes in.
    for (text, says) in [(&b"no tape at all"[..], "VOL1"), (b"", "VOL1")] {
        let image = site.place.path().join("NUL001L8.tap");
        fs::write(&image, text).expect("write");
        let why = library(&tier)
            .import(&Import::At(image), true)
            .expect_err("no tape");
        assert!(why.to_string().contains(says), "{why}");
    }
}

#[test]
fn all_cartridges_come_back_after_the_loss_of_everything_else() {
    let site = Site::new(3, 1);
    let tier = site.open();
    for seq in 1..=5 {
        try_store(&tier, seq, 3 << 20).expect("fits");
    }
    tier.delete(name(4)).expect("deletes");
    let vault = site.place.path().join("vault");
    fs::create_dir(&vault).expect("directory");
    let all: Vec<Barcode> = library(&tier)
        .cartridges()
        .iter()
        .map(|c| c.entry.barcode)
        .collect();
    for barcode in &all {
        library(&tier).export(*barcode, Some(&vault)).expect("goes");
    }
    drop(tier);
    fs::remove_dir_all(site.root().join("files")).expect("lost");
    fs::remove_file(site.root().join("library.json")).expect("lost");
    let empty = Site {
        options: cairn::tier::tape::TapeOptions {
            cartridges: 0,
            ..site.options.clone()
        },
        ..site
    };
    let tier = empty.open();
    assert!(names(&tier).is_empty());
    for barcode in &all {
        let at = Import::At(image_of(&vault, *barcode));
        library(&tier).import(&at, false).expect("comes");
    }
    // What was deleted is there again until it is deleted again.
    assert_eq!(names(&tier), [1, 2, 3, 4, 5]);
    for seq in 1..=5 {
        holds(&tier, seq, 3 << 20);
    }
}

#[test]
fn a_whole_cartridge_is_read_and_what_is_bad_is_remembered() {
    let site = Site::new(1, 1);
    let tier = site.open();
    let id = |seq| AggregateId { epoch: 1, seq };
    for seq in 1..=3 {
        store_aggregate(&tier, id(seq));
    }
    try_store(&tier, 4, 600_000).expect("no aggregate, and it fits");
    let barcode = where_is(&tier, id(1));
    let bad = library(&tier).find(id(2)).expect("known").1;
    let audit = |tier: &TapeTier| library(tier).audit(barcode, &|_| false).expect("is read");
    let found = audit(&tier);
    assert_eq!((found.files, found.bad.len()), (4, 1), "{:?}", found.bad);
    assert!(found.bad[0].1.contains("trailer"), "{:?}", found.bad);

    drop(tier);
    let mut image = Image::open(&site.image(barcode), Access::Write).expect("opens");
    image.spoil(bad.data()).expect("a bad block");
    drop(image);
    let tier = site.open();
    let found = audit(&tier);
    let names: Vec<u64> = found.bad.iter().map(|(file, _)| file.name.seq).collect();
    assert_eq!((found.files, names), (4, vec![2, 4]));
    drop(tier);
    let tier = site.open();
    let status = status(&tier, barcode);
    assert_eq!(status.entry.bad.len(), 2, "remembered");
    assert!(status.entry.errors.read > 0, "{:?}", status.entry.errors);
}

#[test]
fn a_file_that_goes_while_its_cartridge_is_read_is_not_bad() {
    let site = Site::new(1, 1);
    let tier = site.open();
    for seq in 1..=3 {
        store_aggregate(&tier, AggregateId { epoch: 1, seq });
    }
    let barcode = where_is(&tier, name(1));
    for seq in 1..=3 {
        tier.delete(name(seq)).expect("deletes");
    }
    let library = library(&tier);
    let (freed, frees) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let audit = library.audit(barcode, &|_| {
            // While the first file is read somebody asks for the drive; he gets it before the second.
            if !frees.swap(true, Ordering::Relaxed) {
                scope.spawn(|| {
                    library.free(barcode).expect("all on it is dead");
                    freed.store(true, Ordering::Relaxed);
                });
                let until = Instant::now() + Duration::from_secs(60);
                while library.waiting() == 0 {
                    assert!(Instant::now() < until, "nobody asks for the drive");
                    std::thread::yield_now();
                }
            }
            false
        });
        let audit = audit.expect("is read");
        assert_eq!(audit.bad, []);
    });
    assert!(freed.load(Ordering::Relaxed));
    let status = status(&tier, barcode);
    assert_eq!((status.files, status.entry.bad.len()), (0, 0));
}

#[test]
fn a_cartridge_that_fails_on_two_drives_is_not_written_any_more() {
    let site = Site::new(2, 2);
    let tier = site.open();
    try_store(&tier, 1, 1000).expect("fits");
    let barcode = where_is(&tier, name(1));
    site.faults.unwritable(barcode);
    try_store(&tier, 2, 1000).expect("goes to the other one");
    assert_eq!(status(&tier, barcode).entry.failed_on.len(), 1);
    drop(tier);
    // What went wrong is not forgotten by a start; the other drive fails with it, too.
    let tier = site.open();
    let (entry, drive) = (status(&tier, barcode).entry, DriveNumber(1));
    assert_eq!(entry.errors.write, 1, "{:?}", entry.errors);
    assert!(
        entry
            .errors
            .last
            .is_some_and(|last| last.why.contains("writing"))
    );
    let failed = entry.failed_on[0];
    let library = library(&tier);
    let other = if failed == 1 { DriveNumber(2) } else { drive };
    library
        .retire_drive(DriveNumber(failed), Some("a test".into()))
        .expect("retires");
    library
        .protect(where_is(&tier, name(2)), true)
        .expect("only one is left to write");
    assert!(try_store(&tier, 3, 1000).is_err());
    let entry = status(&tier, barcode).entry;
    assert!(entry.read_only.is_some(), "{entry:?}");
    assert!(entry.failed_on.contains(&other.0));
    holds(&tier, 1, 1000);
    drop((tier, library));
    site.faults.clear();
    let tier = site.open();
    assert_eq!(
        kind(try_store(&tier, 3, 1000)),
        ErrorKind::Full,
        "nor after a start"
    );
    tier.library()
        .expect("there")
        .retire(barcode, None)
        .expect("by word");
    try_store(&tier, 3, 1000).expect("is written again");
}

#[test]
fn a_drive_that_fails_with_several_cartridges_is_retired_and_the_last_one_never() {
    let site = Site::new(4, 2);
    let tier = site.open();
    let lib = library(&tier);
    let all: Vec<Barcode> = lib.cartridges().iter().map(|c| c.entry.barcode).collect();
    // Each holds a file, written in whatever drive.
    for (n, _) in all.iter().enumerate() {
        try_store(&tier, n as u64 + 1, 7 << 20).expect("fits");
    }
    lib.retire_drive(DriveNumber(2), Some("a test".into()))
        .expect("retires");
    for (seq, barcode) in (1..=4).map(|seq| (seq, where_is(&tier, name(seq)))) {
        let file = lib.find(name(seq)).expect("known").1;
        site.faults.bad_block(barcode, file.data());
        assert!(tier.read(name(seq), 0, 10).is_err());
    }
    let drives = lib.drive_states();
    assert!(
        drives[0].retired.is_none(),
        "it is the last one: {drives:?}"
    );
    assert_eq!(drives[0].errors.read, 4, "{drives:?}");
    lib.retire_drive(DriveNumber(2), None)
        .expect("is used again");
    assert!(
        tier.read(name(4), 0, 10).is_err(),
        "it is in the first drive still"
    );
    let drives = lib.drive_states();
    assert!(
        drives[0]
            .retired
            .as_ref()
            .is_some_and(|w| w.contains("one after the other")),
        "{drives:?}"
    );
    drop((tier, lib));
    site.faults.clear();
    let tier = site.open();
    let drives = library(&tier).drive_states();
    assert!(
        drives[0].retired.is_some() && drives[1].retired.is_none(),
        "{drives:?}"
    );
    holds(&tier, 1, 7 << 20);
}

#[test]
fn a_list_says_so_when_it_cannot_know_all_names() {
    let site = Site::new(2, 1);
    let tier = site.open();
    for seq in 1..=4 {
        try_store(&tier, seq, 3 << 20).expect("fits");
    }
    let barcode = where_is(&tier, name(1));
    drop(tier);
    let aside = site.place.path().join("aside.tap");
    fs::rename(site.image(barcode), &aside).expect("taken away");
    let tier = site.open();
    assert_eq!(names(&tier), [1, 2, 3, 4], "its index knows them");
    drop(tier);
    fs::remove_file(site.root().join(format!("files/{barcode}.jsonl"))).expect("lost");
    let tier = site.open();
    let error = tier.list(None, 100).expect_err("it cannot know");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains(&barcode.to_string()), "{error}");
    assert!(library(&tier).unseen()[0].contains("index is lost"));
    drop(tier);
    fs::rename(&aside, site.image(barcode)).expect("put back");
    assert_eq!(names(&site.open()), [1, 2, 3, 4]);
}

#[test]
fn what_lies_among_the_cartridges_and_is_none_is_told_with_the_reason() {
    let site = Site::new(1, 1);
    let tier = site.open();
    try_store(&tier, 1, 1000).expect("fits");
    let barcode = where_is(&tier, name(1));
    let label = fs::read(site.image(barcode)).expect("image");
    let put = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = label.clone();
        change(&mut bytes);
        fs::write(site.root().join("cartridges").join(name), bytes).expect("write");
    };
    put("NUL001L8.tap", &|b| b.clear());
    put("TXT001L8.tap", &|b| *b = b"hello".to_vec());
    put("readme", &|_| {});
    put("WRG001L8.tap", &|_| {});
    // The layout's version stands behind the name of the implementation.
    put(&format!("{}L9.tap", barcode.volume()), &|b| {
        let at = b
            .windows(10)
            .position(|w| w == b"CAIRN TAPE")
            .expect("implementation");
        b[at + 11] = b'9';
    });
    let strange = library(&tier).strangers().expect("looked at");
    let of = |name: &str| {
        let found = strange.iter().find(|(image, _)| image == name);
        found.map(|(_, why)| why.clone()).unwrap_or_default()
    };
    for (name, says) in [
        ("NUL001L8.tap", "no labelled tape"),
        ("TXT001L8.tap", "no labelled tape"),
        ("readme", "no barcode"),
        ("WRG001L8.tap", "wrong sticker"),
        (&*format!("{}L9.tap", barcode.volume()), "version 9"),
    ] {
        assert!(of(name).contains(says), "{name}: {strange:?}");
    }
    assert_eq!(strange.len(), 5);
}

#[test]
fn a_cartridge_is_worth_emptying_when_it_is_done_and_enough_of_it_is_dead() {
    let site = Site::new(2, 1);
    let tier = site.open();
    let library = library(&tier);
    for seq in 1..=3 {
        try_store(&tier, seq, 2_700_000).expect("fits");
    }
    let full = where_is(&tier, name(1));
    assert_eq!(where_is(&tier, name(3)), full);
    assert!(library.worth_repacking(0).is_empty(), "all of it is needed");
    tier.delete(name(1)).expect("deletes");
    assert!(library.worth_repacking(50).is_empty(), "a third is dead");
    assert_eq!(library.worth_repacking(30), [full]);
    tier.delete(name(2)).expect("deletes");
    assert_eq!(library.worth_repacking(50), [full]);
    // Somebody wants it as it is.
    library.protect(full, true).expect("is protected");
    assert!(library.worth_repacking(0).is_empty());
    library.protect(full, false).expect("no more");
    // One that is not full waits, unless nothing more goes to it.
    for seq in 4..=5 {
        try_store(&tier, seq, 1_000_000).expect("fits the other one");
    }
    let begun = where_is(&tier, name(4));
    assert_ne!(begun, full);
    tier.delete(name(4)).expect("deletes");
    assert_eq!(library.worth_repacking(50), [full]);
    library
        .retire(begun, Some("a test".into()))
        .expect("retires");
    assert_eq!(library.worth_repacking(50), [full, begun]);
    // Once it is said, it is not said again, and nothing goes there; also after a start.
    library.set_repack(full, true).expect("is said");
    assert_eq!(library.worth_repacking(50), [begun]);
    drop((tier, library));
    let tier = site.open();
    assert!(status(&tier, full).entry.repack);
    let why = try_store(&tier, 6, 1000)
        .expect_err("neither takes it")
        .to_string();
    assert!(
        why.contains("being repacked") && why.contains("retired"),
        "{why}"
    );
    // What is needed has gone: it is free, and what stood against it is forgotten.
    tier.delete(name(3)).expect("deletes");
    try_store(&tier, 6, 1000).expect("fits");
    let entry = status(&tier, full).entry;
    assert_eq!((entry.repack, entry.freed), (false, 1));
}
