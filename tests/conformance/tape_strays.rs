//! Cartridges with the barcodes of others, ones that a stop left half done, and what is never made empty.

use crate::MARK;
use crate::name;
use crate::tape_days::{Site, holds, kind, names, try_store, where_is};
use cairn::id::TierId;
use cairn::tier::tape::image::{Access, Image};
use cairn::tier::tape::label::Barcode;
use cairn::tier::tape::library::{CartridgeStatus, Import, LibraryError};
use cairn::tier::tape::{TapeOptions, TapeTier};
use cairn::tier::{ErrorKind, Expect, OpenHow, Tier};
use std::fs;
use std::path::PathBuf;

fn status(tier: &TapeTier, barcode: Barcode) -> CartridgeStatus {
    let library = tier.library().expect("there");
    library.cartridge(barcode).expect("known").0
}

/// A library that adds nothing when it is opened.
fn as_it_is(site: Site) -> Site {
    Site {
        options: TapeOptions {
            cartridges: 0,
            ..site.options.clone()
        },
        ..site
    }
}

/// An image of another tier, with the barcode that this tier's first cartridge has, outside the
/// library: on it is `name(1)`, of 500 bytes.
fn theirs(site: &Site) -> (TierId, Barcode, PathBuf) {
    let other = Site::new(1, 1);
    // Stickers tell 26 * 26 * 26 tiers apart.
    let tier = TierId(MARK.tier.0 + 26 * 26 * 26);
    let how = OpenHow {
        owner: MARK.owner,
        expect: Expect::New(tier),
    };
    let opened = other.open_as(how).expect("opens");
    try_store(&opened, 1, 500).expect("fits");
    let barcode = where_is(&opened, name(1));
    drop(opened);
    let dir = site.place.path().join("theirs");
    fs::create_dir(&dir).expect("directory");
    let image = dir.join(format!("{barcode}.tap"));
    fs::copy(other.image(barcode), &image).expect("carried over");
    (tier, barcode, image)
}

/// Changes the library's state while nothing uses it.
fn edit_state(site: &Site, from: &str, to: &str) {
    let state = site.root().join("library.json");
    let text = fs::read_to_string(&state).expect("text");
    let changed = text.replacen(from, to, 1);
    assert_ne!(changed, text, "{text}");
    fs::write(&state, changed).expect("write");
}

#[test]
fn another_cartridge_never_takes_the_place_of_one_that_is_away() {
    let site = Site::new(1, 1);
    let tier = site.open();
    for seq in 1..=2 {
        try_store(&tier, seq, 1000).expect("fits");
    }
    tier.delete(name(1)).expect("deletes");
    let (_, barcode, image) = theirs(&site);
    assert_eq!(where_is(&tier, name(2)), barcode, "one barcode");
    let library = tier.library().expect("there");
    library.export(barcode, None).expect("goes");
    let why = library
        .import(&Import::At(image.clone()), true)
        .expect_err("two of one barcode");
    let why = why.to_string();
    assert!(
        why.contains("library's own cartridges, exported to"),
        "{why}"
    );
    assert!(image.exists(), "it is where it was");
    assert_eq!(names(&tier), [2]);
    library
        .import(&Import::Known(barcode), false)
        .expect("comes");
    holds(&tier, 2, 1000);
}

#[test]
fn another_tiers_cartridge_begins_without_the_index_of_its_barcode() {
    let site = Site::new(1, 1);
    let tier = site.open();
    try_store(&tier, 1, 1000).expect("fits");
    let (_, barcode, image) = theirs(&site);
    let mine = site.place.path().join("mine.tap");
    let state = site.root().join("library.json");
    drop(tier);
    fs::rename(site.image(barcode), &mine).expect("is taken away");
    fs::remove_file(&state).expect("is lost");
    let site = as_it_is(site);
    let tier = site.open();
    // Its file may be on the one that is not there.
    let why = tier
        .library()
        .expect("there")
        .import(&Import::At(image.clone()), true);
    let why = why.expect_err("its index is there").to_string();
    assert!(why.contains("put that one back"), "{why}");
    drop(tier);
    fs::rename(&mine, site.image(barcode)).expect("is put back");
    let tier = site.open();
    tier.delete(name(1)).expect("deletes");
    drop(tier);
    fs::remove_file(site.image(barcode)).expect("all on it is dead");
    fs::remove_file(&state).expect("is lost");
    let tier = site.open();
    let taken = tier
        .library()
        .expect("there")
        .import(&Import::At(image), true)
        .expect("comes");
    assert_eq!(taken.files, 1);
    assert_eq!(names(&tier), [1], "theirs is alive");
    holds(&tier, 1, 500);
    assert!(
        site.root()
            .join(format!("files/{barcode}.jsonl.1"))
            .exists()
    );
    drop(tier);
    holds(&site.open(), 1, 500);
}

#[test]
fn a_cartridge_that_was_erased_and_not_written_down_is_an_empty_one() {
    let site = Site::new(1, 1);
    let tier = site.open();
    let barcode = tier.library().expect("there").cartridges()[0].entry.barcode;
    let empty = site.place.path().join("empty.tap");
    drop(tier);
    fs::copy(site.image(barcode), &empty).expect("nothing but its label");
    for taken in [false, true] {
        let tier = site.open();
        try_store(&tier, 1, 1000).expect("fits");
        let file = tier
            .library()
            .expect("there")
            .find(name(1))
            .expect("known")
            .1;
        drop(tier);
        let mut image = Image::open(&site.image(barcode), Access::Write).expect("opens");
        image.spoil(file.data()).expect("a bad block");
        drop(image);
        let tier = site.open();
        assert!(tier.read(name(1), 0, 10).is_err());
        let library = tier.library().expect("there");
        library.set_repack(barcode, true).expect("is said");
        tier.delete(name(1)).expect("deletes");
        assert_eq!(status(&tier, barcode).entry.bad.len(), 1);
        drop((tier, library));
        // Stopped behind the erasing.
        fs::copy(&empty, site.image(barcode)).expect("is erased");
        edit_state(&site, "\"full\": false", "\"full\": true");
        if taken {
            edit_state(
                &site,
                "\"full\": true",
                "\"full\": true, \"taken_from\": 77",
            );
        }
        for _ in 0..2 {
            let entry = status(&site.open(), barcode).entry;
            assert!(!entry.full && !entry.repack && entry.bad.is_empty());
            assert_eq!(entry.taken_from, None);
        }
        let tier = site.open();
        try_store(&tier, 1, 2000).expect("is used again");
        holds(&tier, 1, 2000);
        tier.delete(name(1)).expect("deletes");
        tier.library()
            .expect("there")
            .free(barcode)
            .expect("is freed");
    }
}

#[test]
fn a_taken_cartridge_that_is_labelled_anew_is_this_tiers() {
    let site = Site::new(1, 1);
    let tier = site.open();
    let barcode = tier.library().expect("there").cartridges()[0].entry.barcode;
    drop(tier);
    // Stopped between the erasing and the label.
    fs::write(site.image(barcode), b"").expect("is erased");
    edit_state(
        &site,
        "\"full\": false",
        "\"full\": false, \"taken_from\": 77",
    );
    let tier = site.open();
    assert!(status(&tier, barcode).unusable);
    let library = tier.library().expect("there");
    let entry = library.label(Some(barcode)).expect("it is empty");
    assert_eq!(entry.taken_from, None);
    let text = fs::read_to_string(site.root().join("library.json")).expect("text");
    assert!(!text.contains("taken_from"), "{text}");
    assert_eq!(status(&tier, barcode).entry.taken_from, None);
    try_store(&tier, 1, 1000).expect("fits");
    holds(&tier, 1, 1000);
}

#[test]
fn nothing_is_made_empty_that_is_damaged_or_not_to_be_written() {
    let site = Site::new(1, 1);
    let tier = site.open();
    for seq in 1..=2 {
        try_store(&tier, seq, 1000).expect("fits");
    }
    let library = tier.library().expect("there");
    let (barcode, second) = library.find(name(2)).expect("known");
    for seq in 1..=2 {
        tier.delete(name(seq)).expect("deletes");
    }
    let refused = |says: &str| {
        let why = library.free(barcode).expect_err(says);
        assert!(matches!(why, LibraryError::Declined { .. }), "{why}");
        assert!(why.to_string().contains(says), "{why}");
        assert_eq!(status(&tier, barcode).files, 2, "{says}");
    };
    library
        .retire(barcode, Some("a test".into()))
        .expect("is retired");
    refused("retired");
    library.retire(barcode, None).expect("no more");
    library.protect(barcode, true).expect("is protected");
    refused("write-protected");
    library.protect(barcode, false).expect("no more");
    drop((tier, library));
    let mut image = Image::open(&site.image(barcode), Access::Write).expect("opens");
    image
        .spoil(second.object)
        .expect("a bad block in its labels");
    drop(image);
    fs::remove_file(site.root().join(format!("files/{barcode}.jsonl"))).expect("is lost");
    let tier = site.open();
    // What lies behind the damage nobody can see.
    tier.delete(name(1)).expect("deletes");
    let library = tier.library().expect("there");
    let why = library
        .free(barcode)
        .expect_err("it is damaged")
        .to_string();
    assert!(why.contains("bad block"), "{why}");
    assert_eq!(kind(try_store(&tier, 3, 1000)), ErrorKind::Full);
}

#[test]
fn an_exported_cartridge_is_taken_from_an_image_that_is_named_after_it() {
    let site = Site::new(2, 1);
    let tier = site.open();
    let library = tier.library().expect("there");
    let all = library.cartridges();
    let barcodes = [all[0].entry.barcode, all[1].entry.barcode];
    for barcode in barcodes {
        library.export(barcode, None).expect("goes");
    }
    drop((tier, library));
    let named = |barcode| format!("exported/{barcode}.tap");
    edit_state(&site, &named(barcodes[0]), &named(barcodes[1]));
    let tier = site.open();
    let library = tier.library().expect("there");
    let why = library
        .import(&Import::Known(barcodes[0]), false)
        .expect_err("another one's image");
    assert!(why.to_string().contains("not named after it"), "{why}");
    let taken = library.import(&Import::Known(barcodes[1]), false);
    assert_eq!(taken.expect("comes").barcode, barcodes[1]);
}
