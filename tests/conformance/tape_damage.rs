//! What a tape library knows and cannot see, because a medium or an index is damaged or away: nothing with
//! a receipt is written over, forgotten or called missing.

use crate::name;
use crate::tape_days::{Site, holds, kind, names, try_store, where_is};
use cairn::tier::tape::TapeOptions;
use cairn::tier::tape::TapeTier;
use cairn::tier::tape::drive::DriveNumber;
use cairn::tier::tape::label::Barcode;
use cairn::tier::tape::library::LibraryError;
use cairn::tier::tape::timing::Generation;
use cairn::tier::{ErrorKind, Tier};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn an_older_image_in_a_cartridges_place_is_read_and_not_written_and_says_so() {
    let site = Site::new(1, 1);
    let tier = site.open();
    try_store(&tier, 1, 1 << 20).expect("fits");
    let barcode = where_is(&tier, name(1));
    drop(tier);
    let older = fs::read(site.image(barcode)).expect("image");
    let tier = site.open();
    try_store(&tier, 2, 1 << 20).expect("fits");
    drop(tier);
    let newer = fs::read(site.image(barcode)).expect("image");
    fs::write(site.image(barcode), &older).expect("is restored");
    let tier = site.open();
    // The second had a receipt: it is not forgotten, and nothing is written in its place.
    assert_eq!(names(&tier), [1, 2]);
    holds(&tier, 1, 1 << 20);
    assert!(tier.read(name(2), 0, 10).is_err());
    assert_eq!(kind(try_store(&tier, 3, 1 << 20)), ErrorKind::Full);
    says_of(&tier, barcode, "the index knows");
    drop(tier);
    assert!(fs::read(site.image(barcode)).expect("image") == older);
    fs::write(site.image(barcode), newer).expect("is put back");
    let tier = site.open();
    holds(&tier, 2, 1 << 20);
    try_store(&tier, 3, 1 << 20).expect("is written again");
}

/// What the library says of a cartridge holds these words.
fn says_of(tier: &TapeTier, barcode: Barcode, words: &str) {
    let status = tier.library().expect("there").cartridges();
    let found = status.iter().find(|c| c.entry.barcode == barcode);
    let says = found.expect("listed").trouble.clone().unwrap_or_default();
    assert!(says.contains(words), "{says}");
}

/// Flips the lowest bit of a byte of the last label of that kind in an image.
fn flip_in_last_label(path: &Path, kind: &[u8]) {
    let mut image = fs::read(path).expect("image");
    let at = image.windows(4).rposition(|w| w == kind).expect("a label");
    image[at + 20] ^= 1;
    fs::write(path, image).expect("is changed");
}

#[test]
fn a_flipped_bit_in_the_last_closing_labels_costs_no_object() {
    let site = Site::new(2, 1);
    let tier = site.open();
    for seq in 1..=2 {
        try_store(&tier, seq, 600_000).expect("fits");
    }
    let barcode = where_is(&tier, name(2));
    drop(tier);
    flip_in_last_label(&site.image(barcode), b"UTL1");
    let damaged = fs::read(site.image(barcode)).expect("image");
    let tier = site.open();
    says_of(&tier, barcode, "its labels cannot be read");
    try_store(&tier, 3, 600_000).expect("another cartridge takes it");
    assert_ne!(where_is(&tier, name(3)), barcode);
    for seq in 1..=3 {
        holds(&tier, seq, 600_000);
    }
    // A name that nobody knows may be there.
    assert_eq!(kind(tier.stat(name(9))), ErrorKind::Unavailable);
    drop(tier);
    assert!(fs::read(site.image(barcode)).expect("image") == damaged);
    flip_in_last_label(&site.image(barcode), b"UTL1");
    let tier = site.open();
    assert_eq!(names(&tier), [1, 2, 3]);
    assert_eq!(kind(tier.stat(name(9))), ErrorKind::Missing);
    try_store(&tier, 4, 600_000).expect("fits");
    assert_eq!(where_is(&tier, name(4)), barcode, "it is written again");
}

#[test]
fn nothing_is_missing_while_a_cartridge_cannot_be_seen() {
    let site = Site::new(2, 1);
    let tier = site.open();
    for seq in 1..=2 {
        try_store(&tier, seq, 6 << 20).expect("fits");
    }
    let away = where_is(&tier, name(1));
    assert_eq!(kind(tier.stat(name(9))), ErrorKind::Missing);
    drop(tier);
    let index = site.root().join(format!("files/{away}.jsonl"));
    let (aside, index_aside) = (
        site.place.path().join("aside.tap"),
        site.place.path().join("aside.jsonl"),
    );
    fs::rename(site.image(away), &aside).expect("is taken away");
    fs::rename(&index, &index_aside).expect("is lost");
    let unseen = |tier: &TapeTier, step: &str| {
        for error in [
            tier.stat(name(1)).map(|_| ()).expect_err(step),
            tier.read(name(1), 0, 1).map(|_| ()).expect_err(step),
            tier.delete(name(1)).expect_err(step),
        ] {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{step}: {error}");
            assert!(error.to_string().contains(&away.to_string()), "{error}");
        }
        holds(tier, 2, 6 << 20);
    };
    unseen(&site.open(), "neither image nor index");
    // Nor when nobody but its index says that there was such a cartridge.
    fs::rename(&index_aside, &index).expect("is found");
    fs::remove_file(site.root().join("library.json")).expect("is lost");
    let fewer = Site {
        options: TapeOptions {
            cartridges: 1,
            ..site.options
        },
        ..site
    };
    unseen(&fewer.open(), "an index alone");
    fs::remove_file(fewer.root().join("library.json")).expect("is lost");
    fs::rename(&aside, fewer.image(away)).expect("is put back");
    holds(&fewer.open(), 1, 6 << 20);
}

#[test]
fn an_index_that_cannot_be_read_leaves_the_library_in_use() {
    let site = Site::new(2, 1);
    let tier = site.open();
    try_store(&tier, 1, 600_000).expect("fits");
    let barcode = where_is(&tier, name(1));
    drop(tier);
    let index = site.root().join(format!("files/{barcode}.jsonl"));
    let aside = site.place.path().join("aside.jsonl");
    fs::rename(&index, &aside).expect("is taken away");
    // Reading a directory fails.
    fs::create_dir(&index).expect("directory");
    let tier = site.open();
    says_of(&tier, barcode, "its index cannot be read");
    holds(&tier, 1, 600_000);
    try_store(&tier, 2, 600_000).expect("fits");
    assert_ne!(where_is(&tier, name(2)), barcode);
    assert!(tier.delete(name(1)).is_err(), "it would not stay dead");
    drop(tier);
    fs::remove_dir(&index).expect("still a directory");
    fs::rename(&aside, &index).expect("is put back");
    let tier = site.open();
    tier.delete(name(1)).expect("deletes");
    assert_eq!(names(&tier), [2]);
}

#[test]
fn a_cartridge_that_cannot_be_written_stops_nobody() {
    let site = Site::new(2, 1);
    let tier = site.open();
    try_store(&tier, 1, 1000).expect("fits");
    let first = where_is(&tier, name(1));
    site.faults.unwritable(first);
    try_store(&tier, 2, 1000).expect("another takes it");
    let second = where_is(&tier, name(2));
    assert_ne!(second, first);
    site.faults.unwritable(second);
    assert_eq!(kind(try_store(&tier, 3, 1000)), ErrorKind::Transient);
    site.faults.clear();
    try_store(&tier, 3, 1000).expect("one that failed is better than none");
    // One that lied is the last resort too.
    let lied = where_is(&tier, name(3));
    site.faults.lie(lied);
    assert_eq!(kind(try_store(&tier, 4, 1000)), ErrorKind::Corrupt);
    try_store(&tier, 4, 1000).expect("fits");
    for seq in 1..=4 {
        holds(&tier, seq, 1000);
    }
}

#[test]
fn a_drive_that_dies_while_a_cartridge_is_freed_leaves_its_label() {
    for nth in 1..=12 {
        let site = Site::new(1, 2);
        let tier = site.open();
        for seq in 1..=2 {
            try_store(&tier, seq, 600_000).expect("fits");
            tier.delete(name(seq)).expect("deletes");
        }
        let library = tier.library().expect("there");
        let barcode = library.cartridges()[0].entry.barcode;
        site.faults.kill_drive(DriveNumber(1), nth);
        let freed = library.free(barcode);
        drop((tier, library));
        site.faults.clear();
        let tier = site.open();
        let status = tier.library().expect("there").cartridges();
        assert_eq!(status[0].trouble, None, "{nth}: {freed:?}");
        assert_eq!(names(&tier), [0_u64; 0], "{nth}");
        // The same name in the same place as a dead one.
        try_store(&tier, 1, 600_000).expect("fits");
        drop(tier);
        let tier = site.open();
        holds(&tier, 1, 600_000);
    }
}

#[test]
fn no_library_is_made_where_one_was() {
    let site = Site::new(1, 1);
    let tier = site.open();
    try_store(&tier, 1, 1000).expect("fits");
    let aside = site.place.path().join("aside");
    fs::rename(site.root(), &aside).expect("unmounted");
    fs::create_dir(site.root()).expect("another in its place");
    let mark = |root: PathBuf| root.join("cairn-tier.json");
    fs::copy(mark(aside.clone()), mark(site.root())).expect("the mark alone");
    for _ in 0..3 {
        assert_eq!(kind(tier.list(None, 10)), ErrorKind::Unavailable);
    }
    assert_eq!(fs::read_dir(site.root()).expect("directory").count(), 1);
    fs::remove_dir_all(site.root()).expect("goes");
    fs::rename(&aside, site.root()).expect("mounted again");
    holds(&tier, 1, 1000);
}

#[test]
fn a_reader_that_waited_for_a_drive_looks_again() {
    let site = Site::new(1, 1);
    let tier = site.open();
    try_store(&tier, 1, 1000).expect("fits");
    let library = tier.library().expect("there");
    // Between these two a reader waits, and its object goes.
    let (barcode, file) = library.find(name(1)).expect("known");
    tier.delete(name(1)).expect("deletes");
    library.free(barcode).expect("is freed");
    try_store(&tier, 2, 1000).expect("takes its place");
    let read = library.read(barcode, &file, 0, &mut [0; 1000]);
    assert!(matches!(read, Err(LibraryError::Elsewhere)), "{read:?}");
    assert_eq!(kind(tier.read(name(1), 0, 10)), ErrorKind::Missing);
}

#[test]
fn no_two_cartridges_have_one_volume_name() {
    let site = Site::new(2, 1);
    drop(site.open());
    let more = Site {
        options: TapeOptions {
            cartridges: 4,
            generation: Generation::Lto9,
            ..site.options
        },
        ..site
    };
    let status = more.open().library().expect("there").cartridges();
    let volumes: BTreeSet<String> = status
        .iter()
        .map(|c| c.entry.barcode.volume().to_owned())
        .collect();
    assert_eq!(volumes.len(), 4, "{volumes:?}");
}
