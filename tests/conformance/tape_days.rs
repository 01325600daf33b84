//! A tape library on its bad days: cartridges and drives that fail, mistaken cartridges, full tapes,
//! lost indexes.

use crate::{MARK, name, store};
use cairn::id::{AggregateId, InstanceId, TierId};
use cairn::tier::tape::drive::DriveNumber;
use cairn::tier::tape::faults::TapeFaults;
use cairn::tier::tape::image::{Access, Image};
use cairn::tier::tape::label::Barcode;
use cairn::tier::tape::{TapeOptions, TapeTier};
use cairn::tier::{ErrorKind, OpenHow, Tier, TierError};
use cairn_mover::Crc32c;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use tempfile::TempDir;

pub(crate) struct Site {
    pub(crate) place: TempDir,
    pub(crate) options: TapeOptions,
    pub(crate) faults: TapeFaults,
}

impl Site {
    pub(crate) fn new(cartridges: u32, drives: u32) -> Self {
        Self {
            place: TempDir::new().expect("temporary directory"),
            options: TapeOptions {
                capacity: Some(8 << 20),
                cartridges,
                drives,
                ..TapeOptions::default()
            },
            faults: TapeFaults::default(),
        }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.place.path().join("tape")
    }

    pub(crate) fn open(&self) -> TapeTier {
        let how = OpenHow::new(MARK.owner, MARK.tier);
        self.open_as(how).expect("opens")
    }

    pub(crate) fn open_as(&self, how: OpenHow) -> Result<TapeTier, TierError> {
        TapeTier::with_faults(&self.root(), &self.options, how, self.faults.clone())
    }

    pub(crate) fn image(&self, barcode: Barcode) -> PathBuf {
        self.root().join(format!("cartridges/{barcode}.tap"))
    }
}

pub(crate) fn data(seq: u64, len: usize) -> Vec<u8> {
    (0..len)
        .map(|n| (n as u64 * 7 + seq + n as u64 / 251) as u8)
        .collect()
}

pub(crate) fn kind<T>(result: Result<T, TierError>) -> ErrorKind {
    match result {
        Ok(_) => panic!("succeeded"),
        Err(error) => error.kind(),
    }
}

pub(crate) fn try_store(tier: &dyn Tier, seq: u64, len: usize) -> Result<(), TierError> {
    let bytes = data(seq, len);
    let mut put = tier.put(name(seq), len as u64)?;
    put.write_all(&bytes)
        .map_err(|e| TierError::from_write(e, "t", name(seq)))?;
    put.finish(Crc32c::of(&bytes)).map(|_| ())
}

pub(crate) fn holds(tier: &dyn Tier, seq: u64, len: usize) {
    let bytes = tier.read(name(seq), 0, len as u64).expect("reads");
    assert!(bytes == data(seq, len), "{seq} reads back different");
}

pub(crate) fn where_is(tier: &TapeTier, name: AggregateId) -> Barcode {
    tier.library().expect("there").find(name).expect("known").0
}

pub(crate) fn names(tier: &dyn Tier) -> Vec<u64> {
    let found = tier.list(None, usize::MAX).expect("lists");
    found.into_iter().map(|name| name.seq).collect()
}

#[test]
fn objects_fill_cartridge_after_cartridge_until_the_library_is_full() {
    let site = Site::new(3, 1);
    let tier = site.open();
    for seq in 1..=6 {
        try_store(&tier, seq, 3 << 20).expect("fits");
    }
    assert_ne!(where_is(&tier, name(1)), where_is(&tier, name(3)));
    let full = tier.put(name(7), 3 << 20).map(|_| ());
    let why = full.as_ref().expect_err("full").to_string();
    assert_eq!(kind(full), ErrorKind::Full);
    assert!(why.contains("add 1 or more of LTO-8"), "{why}");
    // What has room is used still, and more cartridges make room.
    try_store(&tier, 8, 1 << 20).expect("fits");
    drop(tier);
    let more = Site {
        options: TapeOptions {
            cartridges: 4,
            ..site.options
        },
        ..site
    };
    let tier = more.open();
    try_store(&tier, 7, 3 << 20).expect("fits now");
    for seq in 1..=7 {
        holds(&tier, seq, 3 << 20);
    }
}

#[test]
fn what_is_longer_than_a_cartridge_is_told_so() {
    let site = Site::new(2, 1);
    let tier = site.open();
    let long = try_store(&tier, 1, (8 << 20) + 1);
    let why = long.as_ref().expect_err("too long").to_string();
    assert_eq!(kind(long), ErrorKind::Full);
    assert!(why.contains("more than a whole cartridge holds"), "{why}");
    assert_eq!(names(&tier), [0_u64; 0]);
}

#[test]
fn at_an_early_end_of_tape_the_object_goes_whole_to_another_cartridge() {
    let site = Site::new(2, 1);
    let tier = site.open();
    try_store(&tier, 1, 1 << 20).expect("fits");
    let first = where_is(&tier, name(1));
    site.faults.end_of_tape(first, 2 << 20);
    try_store(&tier, 2, 3 << 20).expect("finds another");
    assert_ne!(where_is(&tier, name(2)), first);
    // The tape that ended is not tried again, also after a restart.
    drop(tier);
    site.faults.clear();
    let tier = site.open();
    try_store(&tier, 3, 1 << 20).expect("fits");
    assert_ne!(where_is(&tier, name(3)), first);
    for (seq, len) in [(1, 1 << 20), (2, 3 << 20), (3, 1 << 20)] {
        holds(&tier, seq, len);
    }
}

#[test]
fn a_missing_cartridge_is_asked_for_and_others_go_on() {
    let site = Site::new(2, 1);
    let tier = site.open();
    try_store(&tier, 1, 6 << 20).expect("fits");
    try_store(&tier, 2, 6 << 20).expect("fits");
    let away = where_is(&tier, name(1));
    drop(tier);
    let aside = site.place.path().join("aside.tap");
    fs::rename(site.image(away), &aside).expect("is taken away");
    let tier = site.open();
    assert_eq!(names(&tier), [1, 2]);
    assert_eq!(tier.stat(name(1)).expect("its index is there"), 6 << 20);
    let error = tier.read(name(1), 0, 10).expect_err("is not there");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains(&away.to_string()), "{error}");
    holds(&tier, 2, 6 << 20);
    try_store(&tier, 3, 1 << 20).expect("the other has room");
    fs::rename(&aside, site.image(away)).expect("is put back");
    holds(&tier, 1, 6 << 20);
}

#[test]
fn a_bad_block_fails_the_reads_that_need_it_alone() {
    let site = Site::new(1, 1);
    let tier = site.open();
    for seq in 1..=3 {
        try_store(&tier, seq, 1 << 20).expect("fits");
    }
    let (barcode, file) = tier.library().expect("there").find(name(2)).expect("known");
    drop(tier);
    let mut image = Image::open(&site.image(barcode), Access::Write).expect("opens");
    image.spoil(file.data() + 1).expect("spoils");
    drop(image);
    let tier = site.open();
    // It was loaded anew before that was said of it, and is believed at once from then on.
    let mounts = |tier: &TapeTier| {
        let drives = tier.library().expect("there").drives();
        drives.iter().map(|d| d.tally.mounts).sum::<u64>()
    };
    let before = mounts(&tier);
    for more in [2, 2] {
        assert_eq!(kind(tier.read(name(2), 300_000, 10)), ErrorKind::Unreadable);
        assert_eq!(mounts(&tier), before + more);
    }
    let whole = tier.read(name(2), 0, 262_144).expect("the block before");
    assert_eq!(whole, data(2, 262_144));
    tier.read(name(2), 2 * 262_144, 262_144)
        .expect("the block behind");
    for seq in [1, 3] {
        holds(&tier, seq, 1 << 20);
    }
    try_store(&tier, 4, 1000).expect("the end is where it was");
}

#[test]
fn a_drive_that_dies_is_left_out_and_its_work_goes_on_elsewhere() {
    // At whichever verb of a put and a read it dies.
    for nth in 1..=40 {
        let site = Site::new(2, 2);
        let tier = site.open();
        try_store(&tier, 1, 600_000).expect("fits");
        site.faults.kill_drive(DriveNumber(1), nth);
        try_store(&tier, 2, 600_000).expect("finds the other drive");
        holds(&tier, 1, 600_000);
        holds(&tier, 2, 600_000);
        drop(tier);
        site.faults.clear();
        let tier = site.open();
        assert_eq!(names(&tier), [1, 2], "{nth}");
        holds(&tier, 2, 600_000);
        // What the dead drive left of it is dead.
        let status = tier.library().expect("there").cartridges();
        assert_eq!(status.iter().map(|c| c.live).sum::<usize>(), 2, "{nth}");
    }
}

#[test]
fn without_any_drive_the_tier_is_unavailable() {
    let site = Site::new(1, 1);
    let tier = site.open();
    try_store(&tier, 1, 1000).expect("fits");
    site.faults.kill_drive(DriveNumber(1), 1);
    let error = tier.read(name(1), 0, 10).expect_err("no drive");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("no drive is left"), "{error}");
    assert_eq!(kind(try_store(&tier, 2, 1000)), ErrorKind::Unavailable);
    assert_eq!(names(&tier), [1]);
}

#[test]
fn a_medium_that_lies_gets_no_receipt_and_keeps_nothing() {
    let site = Site::new(1, 1);
    let tier = site.open();
    try_store(&tier, 1, 1 << 20).expect("fits");
    site.faults.lie(where_is(&tier, name(1)));
    assert_eq!(kind(try_store(&tier, 2, 1 << 20)), ErrorKind::Corrupt);
    assert_eq!(names(&tier), [1]);
    try_store(&tier, 2, 1 << 20).expect("composed anew");
    drop(tier);
    let tier = site.open();
    assert_eq!(names(&tier), [1, 2]);
    holds(&tier, 2, 1 << 20);
}

#[test]
fn the_example_script_takes_every_object_out_of_an_image() {
    let site = Site::new(1, 1);
    let tier = site.open();
    let lens = [0, 1, 262_144, 262_145, 1 << 20];
    for (seq, len) in (1..).zip(lens) {
        try_store(&tier, seq, len).expect("fits");
    }
    let barcode = where_is(&tier, name(1));
    drop(tier);
    let out = TempDir::new().expect("temporary directory");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/tap_files.py");
    let ran = std::process::Command::new("python3")
        .arg(script)
        .args([&site.image(barcode), out.path()])
        .status();
    match ran {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("the_example_script_...: not run, there is no python3 here");
            return;
        }
        ran => assert!(ran.expect("runs").success()),
    }
    for (seq, len) in (1..).zip(lens) {
        let file = out.path().join(format!("{}.tar", name(seq)));
        assert!(fs::read(file).expect("is there") == data(seq, len), "{seq}");
    }
    assert_eq!(
        fs::read_dir(out.path()).expect("directory").count(),
        lens.len()
    );
}

#[test]
fn a_lie_about_the_closing_labels_leaves_no_object_either() {
    let site = Site::new(1, 1);
    let tier = site.open();
    try_store(&tier, 1, 1000).expect("fits");
    site.faults.lie_at(where_is(&tier, name(1)), 2);
    assert_eq!(kind(try_store(&tier, 2, 1 << 20)), ErrorKind::Corrupt);
    drop(tier);
    let tier = site.open();
    assert_eq!(names(&tier), [1]);
}

#[test]
fn a_cartridge_state_that_is_lost_is_made_anew_from_the_images() {
    let site = Site::new(3, 1);
    let tier = site.open();
    for seq in 1..=4 {
        try_store(&tier, seq, 3 << 20).expect("fits");
    }
    drop(tier);
    fs::remove_file(site.root().join("library.json")).expect("is lost");
    // Whoever knows the tier makes nothing in its place; a rebuild opens it as a new one.
    let known = site
        .open_as(OpenHow::known(MARK.owner, MARK.tier))
        .expect("waits");
    assert_eq!(kind(known.list(None, 10)), ErrorKind::Unavailable);
    drop(known);
    let fewer = Site {
        options: TapeOptions {
            cartridges: 1,
            ..site.options
        },
        ..site
    };
    let tier = fewer.open();
    assert_eq!(names(&tier), [1, 2, 3, 4]);
    assert_eq!(tier.library().expect("there").cartridges().len(), 3);
    holds(&tier, 4, 3 << 20);
}

#[test]
fn a_power_loss_at_any_block_leaves_whole_objects_alone() {
    for nth in 1..=10 {
        let site = Site::new(1, 1);
        let tier = site.open();
        try_store(&tier, 1, 600_000).expect("fits");
        site.faults.power_loss(nth);
        // Three labels, three blocks, three labels: the tenth is the next object's.
        let put = try_store(&tier, 2, 600_000);
        assert_eq!(put.is_ok(), nth == 10, "{nth}");
        drop(tier);
        site.faults.clear();
        let tier = site.open();
        let expected: &[u64] = if nth == 10 { &[1, 2] } else { &[1] };
        assert_eq!(names(&tier), expected, "{nth}");
        holds(&tier, 1, 600_000);
        try_store(&tier, 3, 600_000).expect("the tail is overwritten");
        holds(&tier, 3, 600_000);
    }
}

#[test]
fn lost_indexes_are_made_anew_from_the_cartridges() {
    let site = Site::new(2, 1);
    let tier = site.open();
    for seq in 1..=5 {
        try_store(&tier, seq, 2 << 20).expect("fits");
    }
    tier.delete(name(3)).expect("deletes");
    drop(tier);
    let tier = site.open();
    assert_eq!(names(&tier), [1, 2, 4, 5], "the dead stay dead");
    drop(tier);
    fs::remove_dir_all(site.root().join("files")).expect("is lost");
    let tier = site.open();
    // Nothing says any more that it was deleted.
    assert_eq!(names(&tier), [1, 2, 3, 4, 5]);
    for seq in 1..=5 {
        holds(&tier, seq, 2 << 20);
    }
}

#[test]
fn mistaken_cartridges_are_told_apart_and_left_alone() {
    let (site, other) = (Site::new(2, 1), Site::new(1, 1));
    let tier = site.open();
    try_store(&tier, 1, 1000).expect("fits");
    let used = where_is(&tier, name(1));
    let status = tier.library().expect("there").cartridges();
    let blank = status
        .iter()
        .map(|c| c.entry.barcode)
        .find(|b| *b != used)
        .expect("two");
    drop(tier);
    // The same barcode in another library.
    let stranger = OpenHow::new(InstanceId([3; 16]), TierId(MARK.tier.0 + 26 * 26 * 26));
    let theirs = other.open_as(stranger).expect("opens");
    try_store(&theirs, 1, 1000).expect("fits");
    let twin = where_is(&theirs, name(1));
    drop(theirs);
    let cases: [(Vec<u8>, &str); 4] = [
        (
            fs::read(other.image(twin)).expect("image"),
            "two libraries with one barcode",
        ),
        (
            fs::read(site.image(used)).expect("image"),
            "a wrong sticker",
        ),
        (b"no tape at all".repeat(100), "no labelled tape"),
        (
            newer(&fs::read(site.image(used)).expect("image")),
            "newer Cairn",
        ),
    ];
    assert_eq!(twin, used, "the test needs two libraries with one barcode");
    for (image, says) in cases {
        // In the place of the one it is mistaken for; a wrong sticker is one on the other.
        let at = if says == "a wrong sticker" {
            blank
        } else {
            used
        };
        let kept = fs::read(site.image(at)).expect("image");
        fs::write(site.image(at), &image).expect("is put there");
        let tier = site.open();
        let status = tier.library().expect("there").cartridges();
        let found = status
            .iter()
            .find(|c| c.entry.barcode == at)
            .expect("listed");
        let trouble = found.trouble.clone().unwrap_or_default();
        assert!(trouble.contains(says), "{says}: {trouble}");
        if at == used {
            assert_eq!(
                kind(tier.read(name(1), 0, 10)),
                ErrorKind::Unavailable,
                "{says}"
            );
            try_store(&tier, 9, 1000).expect("the other cartridge is used");
            tier.delete(name(9)).expect("deletes");
        }
        drop(tier);
        assert!(
            fs::read(site.image(at)).expect("image") == image,
            "{says}: was written"
        );
        fs::write(site.image(at), kept).expect("is put back");
    }
    holds(&site.open(), 1, 1000);
}

fn newer(image: &[u8]) -> Vec<u8> {
    let mut image = image.to_vec();
    let at = image
        .windows(12)
        .position(|w| w == b"CAIRN TAPE 2")
        .expect("label");
    image[at + 11] = b'9';
    image
}

#[test]
fn a_protected_cartridge_is_read_and_not_written() {
    let site = Site::new(2, 1);
    let tier = site.open();
    try_store(&tier, 1, 1000).expect("fits");
    let first = where_is(&tier, name(1));
    tier.library()
        .expect("there")
        .protect(first, true)
        .expect("protects");
    try_store(&tier, 2, 1000).expect("fits");
    assert_ne!(where_is(&tier, name(2)), first);
    drop(tier);
    let tier = site.open();
    holds(&tier, 1, 1000);
    let second = where_is(&tier, name(2));
    tier.library()
        .expect("there")
        .protect(second, true)
        .expect("protects");
    let error = try_store(&tier, 3, 1000).expect_err("none is left");
    assert_eq!(error.kind(), ErrorKind::Full);
    assert!(error.to_string().contains("write-protected"), "{error}");
}

#[test]
fn a_cartridge_is_freed_when_all_on_it_is_dead_and_not_before() {
    let site = Site::new(1, 1);
    let tier = site.open();
    let library = tier.library().expect("there");
    for seq in 1..=2 {
        try_store(&tier, seq, 3 << 20).expect("fits");
    }
    let barcode = where_is(&tier, name(1));
    tier.delete(name(1)).expect("deletes");
    assert!(
        library
            .free(barcode)
            .is_err_and(|e| e.to_string().contains("1 files"))
    );
    assert_eq!(kind(try_store(&tier, 3, 6 << 20)), ErrorKind::Full);
    holds(&tier, 2, 3 << 20);
    tier.delete(name(2)).expect("deletes");
    // Nobody had to say so.
    try_store(&tier, 3, 6 << 20).expect("fits now");
    assert_eq!(library.cartridges()[0].entry.freed, 1);
    assert!(library.free(barcode).is_err(), "the new one is alive");
    drop((tier, library));
    let tier = site.open();
    assert_eq!(names(&tier), [3]);
    holds(&tier, 3, 6 << 20);
}

#[test]
fn a_library_has_one_process_and_comes_back_when_it_is_free() {
    let site = Site::new(1, 1);
    let tier = site.open();
    try_store(&tier, 1, 1000).expect("fits");
    let second = site.open_as(OpenHow::new(MARK.owner, MARK.tier));
    assert_eq!(kind(second), ErrorKind::Unavailable);
    let waiting = site
        .open_as(OpenHow::known(MARK.owner, MARK.tier))
        .expect("waits");
    let error = waiting.read(name(1), 0, 10).expect_err("is held");
    assert!(error.to_string().contains("another process"), "{error}");
    drop(tier);
    holds(&waiting, 1, 1000);
}

#[test]
fn a_library_that_vanishes_is_unavailable_and_comes_back_by_itself() {
    let site = Site::new(1, 1);
    let tier = site.open();
    store(&tier, name(1), b"kept");
    let mut put = tier.put(name(2), 5).expect("put");
    put.write_all(b"bytes").expect("write");
    let aside = site.place.path().join("aside");
    fs::rename(site.root(), &aside).expect("unmounted");
    fs::create_dir(site.root()).expect("the empty mount point");
    assert_eq!(
        kind(put.finish(Crc32c::of(b"bytes"))),
        ErrorKind::Unavailable
    );
    assert_eq!(kind(tier.read(name(1), 0, 1)), ErrorKind::Unavailable);
    assert_eq!(kind(tier.put(name(3), 1)), ErrorKind::Unavailable);
    assert_eq!(kind(tier.list(None, 1)), ErrorKind::Unavailable);
    assert_eq!(kind(tier.delete(name(1))), ErrorKind::Unavailable);
    assert_eq!(fs::read_dir(site.root()).expect("directory").count(), 0);
    fs::remove_dir(site.root()).expect("still empty");
    fs::rename(&aside, site.root()).expect("mounted again");
    assert_eq!(tier.read(name(1), 0, 4).expect("back"), &b"kept"[..]);
    assert_eq!(names(&tier), [1]);
}

#[test]
fn many_readers_and_writers_share_two_drives() {
    let site = Site::new(4, 2);
    let tier = site.open();
    for seq in 1..=8 {
        try_store(&tier, seq, 1 << 20).expect("fits");
    }
    std::thread::scope(|scope| {
        for reader in 0..4_u64 {
            let tier = &tier;
            scope.spawn(move || {
                for round in 0..8 {
                    holds(tier, (round * (2 * reader + 1)) % 8 + 1, 1 << 20);
                }
            });
        }
        for writer in 0..3_u64 {
            let tier = &tier;
            scope.spawn(move || {
                for n in 0..4 {
                    try_store(tier, 100 + writer * 10 + n, 400_000).expect("fits");
                }
            });
        }
    });
    assert_eq!(names(&tier).len(), 20);
}
