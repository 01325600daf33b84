//! Pools: several tiers in one library share its drives and its blank cartridges, and never a cartridge
//! that was written.

use crate::tape_days::{Site, data, holds, kind, names, try_store, where_is};
use crate::{MARK, name};
use cairn::id::TierId;
use cairn::tier::tape::label::Barcode;
use cairn::tier::tape::library::{CartridgeStatus, Import, Library, LibraryError};
use cairn::tier::tape::{TapeOptions, TapeTier};
use cairn::tier::{ErrorKind, Mark, OpenHow, Tier, TierError};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;

fn site(cartridges: u32, drives: u32) -> Site {
    Site::new(cartridges, drives)
}

fn try_pool(site: &Site, pool: &str, tier: u32) -> Result<TapeTier, TierError> {
    let options = TapeOptions {
        pool: Some(pool.to_owned()),
        ..site.options.clone()
    };
    let how = OpenHow::new(MARK.owner, TierId(tier));
    TapeTier::with_faults(&site.root(), &options, how, site.faults.clone())
}

fn pools(site: &Site) -> [TapeTier; 2] {
    [("near", 0xa), ("far", 0xb)].map(|(pool, tier)| try_pool(site, pool, tier).expect("opens"))
}

/// Barcodes of the cartridges that a tier's objects lie on.
fn cartridges(tier: &TapeTier) -> BTreeSet<String> {
    let names = tier.list(None, usize::MAX).expect("lists");
    let at = names.into_iter().map(|name| where_is(tier, name));
    at.map(|barcode| barcode.to_string()).collect()
}

#[test]
fn two_pools_share_drives_and_never_a_cartridge() {
    let site = site(6, 2);
    let [near, far] = pools(&site);
    std::thread::scope(|scope| {
        for tier in [&near, &far] {
            scope.spawn(move || {
                (1..=6).for_each(|seq| try_store(tier, seq, 3 << 20).expect("fits"))
            });
        }
    });
    let (a, b) = (cartridges(&near), cartridges(&far));
    assert_eq!(a.intersection(&b).count(), 0, "{a:?} {b:?}");
    assert_eq!((a.len(), b.len()), (3, 3), "two each, 3 MiB of 8");
    // The same names, each pool's own; deleted in one, they are there in the other.
    near.delete(name(2)).expect("deletes");
    assert_eq!(names(&near), [1, 3, 4, 5, 6]);
    assert_eq!(names(&far), [1, 2, 3, 4, 5, 6]);
    holds(&far, 2, 3 << 20);
    assert_eq!(kind(near.stat(name(2))), ErrorKind::Missing);
    let drives = |tier: &TapeTier| tier.library().expect("there").drives();
    assert_eq!(drives(&near).len(), 2);
    assert_eq!(drives(&near), drives(&far));
    // Read back after everything was closed and opened in the other order.
    drop((near, far));
    let far = try_pool(&site, "far", 0xb).expect("opens");
    let near = try_pool(&site, "near", 0xa).expect("opens");
    assert_eq!((cartridges(&near), cartridges(&far)), (a, b));
    assert_eq!(names(&near), [1, 3, 4, 5, 6]);
    holds(&near, 6, 3 << 20);
    holds(&far, 2, 3 << 20);
}

#[test]
fn a_pool_is_open_once_and_all_with_the_same_equipment() {
    let site = site(2, 2);
    let [near, far] = pools(&site);
    let twice = try_pool(&site, "near", 0xa).map(|_| ());
    let why = twice.as_ref().expect_err("open already").to_string();
    assert!(
        kind(twice) == ErrorKind::Refused && why.contains("two tiers"),
        "{why}"
    );
    let other = Site {
        options: TapeOptions {
            drives: 1,
            ..site.options.clone()
        },
        place: tempfile::TempDir::new().expect("another"),
        faults: site.faults.clone(),
    };
    let options = TapeOptions {
        pool: Some("third".to_owned()),
        ..other.options
    };
    let how = OpenHow::new(MARK.owner, TierId(0xc));
    let other = TapeTier::open(&site.root(), &options, how).map(|_| ());
    let why = other.as_ref().expect_err("other drives").to_string();
    assert!(
        kind(other) == ErrorKind::Refused && why.contains("same options"),
        "{why}"
    );
    // As a whole it is nobody's; and nobody's as a whole has pools.
    assert_eq!(
        kind(
            site.open_as(OpenHow::new(MARK.owner, MARK.tier))
                .map(|_| ())
        ),
        ErrorKind::Refused
    );
    drop((near, far));
    let whole = crate::tape_days::Site::new(2, 1);
    drop(whole.open());
    let pool = try_pool(&whole, "near", 0xa).map(|_| ());
    let why = pool.as_ref().expect_err("a whole tier").to_string();
    assert!(
        kind(pool) == ErrorKind::Refused && why.contains("without pool="),
        "{why}"
    );
}

#[test]
fn while_another_process_has_the_library_every_pool_waits_for_it() {
    let site = site(2, 1);
    drop(pools(&site));
    let script = "import fcntl,sys\nf=open(sys.argv[1],'r+')\nfcntl.lockf(f,fcntl.LOCK_EX)\nprint('held',flush=True)\nsys.stdin.read()";
    let other = Command::new("python3")
        .args(["-c", script])
        .arg(site.root().join("library.lock"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut other = match other {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("while_another_process_has_...: not run, there is no python3 here");
            return;
        }
        other => other.expect("runs"),
    };
    let mut said = String::new();
    let out = other.stdout.as_mut().expect("its output");
    BufReader::new(out).read_line(&mut said).expect("it speaks");
    assert_eq!(said, "held\n");
    let known = [("near", 0xa), ("far", 0xb)].map(|(pool, tier)| {
        let options = TapeOptions {
            pool: Some(pool.to_owned()),
            ..site.options.clone()
        };
        let how = OpenHow::known(MARK.owner, TierId(tier));
        TapeTier::open(&site.root(), &options, how).expect("opens, away")
    });
    for tier in &known {
        let away = try_store(tier, 1, 1000);
        let why = away.as_ref().expect_err("away").to_string();
        assert!(
            kind(away) == ErrorKind::Unavailable && why.contains("another process"),
            "{why}"
        );
    }
    drop(other.stdin.take());
    other.wait().expect("it ends");
    for tier in &known {
        try_store(tier, 1, 1000).expect("is back");
        holds(tier, 1, 1000);
    }
}

#[test]
fn the_last_blank_cartridge_goes_to_one_pool_and_the_other_is_full() {
    for _ in 0..5 {
        let site = site(3, 2);
        let [near, far] = pools(&site);
        let total = near.space().expect("space").total;
        assert_eq!(total, Some(3 * (8 << 20)));
        try_store(&near, 1, 5 << 20).expect("fits");
        try_store(&far, 1, 5 << 20).expect("fits");
        assert_eq!(near.space().expect("space").total, Some(2 * (8 << 20)));
        let done = std::thread::scope(|scope| {
            let put = |tier| scope.spawn(move || try_store(tier, 2, 5 << 20));
            [put(&near), put(&far)].map(|put| put.join().expect("ends"))
        });
        let full = done.iter().filter_map(|done| done.as_ref().err());
        let full: Vec<String> = full.map(TierError::to_string).collect();
        assert_eq!(full.len(), 1, "{done:?}");
        assert!(full[0].contains("add 1 or more of LTO-8"), "{full:?}");
        assert_eq!(cartridges(&near).intersection(&cartridges(&far)).count(), 0);
        // What was begun is filled still.
        try_store(&near, 3, 1 << 20).expect("fits");
        try_store(&far, 3, 1 << 20).expect("fits");
    }
}

#[test]
fn whose_a_cartridge_is_stands_on_its_label() {
    let site = site(3, 1);
    let [near, far] = pools(&site);
    let state = site.root().join("library.json");
    let before = fs::read(&state).expect("state");
    try_store(&near, 1, 100_000).expect("fits");
    try_store(&far, 2, 100_000).expect("fits");
    let (a, b) = (cartridges(&near), cartridges(&far));
    drop((near, far));
    let check = |step: &str| {
        let [near, far] = pools(&site);
        assert_eq!(
            (cartridges(&near), cartridges(&far)),
            (a.clone(), b.clone()),
            "{step}"
        );
        holds(&near, 1, 100_000);
        holds(&far, 2, 100_000);
        assert_eq!(kind(near.stat(name(2))), ErrorKind::Missing, "{step}");
    };
    // As if the process had died before the state said who took them; and without any state.
    fs::write(&state, &before).expect("an older state");
    check("an older state");
    fs::remove_file(&state).expect("is lost");
    let how = OpenHow::known(MARK.owner, TierId(0xa));
    let options = TapeOptions {
        pool: Some("near".to_owned()),
        ..site.options.clone()
    };
    let known = TapeTier::open(&site.root(), &options, how).expect("opens, away");
    assert_eq!(kind(known.stat(name(1))), ErrorKind::Unavailable);
    drop(known);
    check("no state");
    // Nobody says whose it is any more, but its index says that it was written: what is not known is not missing.
    fs::write(&state, before).expect("an older state");
    let barcode = a.first().and_then(|b| b.parse().ok()).expect("barcode");
    fs::write(site.image(barcode), "").expect("is emptied");
    for tier in &pools(&site) {
        assert_eq!(kind(tier.stat(name(1 + 6))), ErrorKind::Unavailable);
        try_store(tier, 9, 100_000).expect("goes elsewhere");
        assert_ne!(where_is(tier, name(9)), barcode);
    }
}

#[test]
fn a_cartridge_that_is_away_hides_its_own_pool_alone() {
    let site = site(3, 1);
    let [near, far] = pools(&site);
    try_store(&near, 1, 100_000).expect("fits");
    try_store(&far, 1, 100_000).expect("fits");
    let away = where_is(&near, name(1));
    drop((near, far));
    fs::remove_file(site.image(away)).expect("is taken away");
    let [near, far] = pools(&site);
    assert_eq!(kind(near.stat(name(7))), ErrorKind::Unavailable);
    assert_eq!(kind(near.read(name(1), 0, 10)), ErrorKind::Unavailable);
    assert_eq!(kind(far.stat(name(7))), ErrorKind::Missing);
    assert_eq!(far.read(name(1), 0, 10).expect("reads"), data(1, 10));
    // Without its index nobody knows what its own pool has.
    drop((near, far));
    fs::remove_file(site.root().join(format!("files/{away}.jsonl"))).expect("is lost");
    let [near, far] = pools(&site);
    assert_eq!(kind(near.list(None, 10)), ErrorKind::Unavailable);
    assert_eq!(names(&far), [1]);
    assert_eq!(library(&near).unseen().len(), 1);
    assert_eq!(library(&far).unseen(), Vec::<String>::new());
}

#[test]
fn a_pool_goes_and_comes_with_its_mark() {
    let site = site(2, 1);
    let [near, far] = pools(&site);
    try_store(&near, 1, 1000).expect("fits");
    let mark = site.root().join("pools/near/cairn-tier.json");
    let aside = site.place.path().join("mark");
    fs::rename(&mark, &aside).expect("goes");
    assert_eq!(kind(near.stat(name(1))), ErrorKind::Unavailable);
    assert_eq!(kind(far.stat(name(1))), ErrorKind::Missing);
    fs::rename(&aside, &mark).expect("comes back");
    holds(&near, 1, 1000);
    let Mark { tier, .. } = near.mark();
    assert_eq!(tier, TierId(0xa));
}

#[test]
fn a_power_loss_while_a_blank_cartridge_is_taken_leaves_it_blank_or_taken() {
    for nth in 1..=11 {
        for state_is_old in [false, true] {
            let site = site(3, 1);
            let [near, far] = pools(&site);
            try_store(&near, 1, 600_000).expect("fits");
            let state = site.root().join("library.json");
            let before = fs::read(&state).expect("state");
            site.faults.power_loss(nth);
            // The volume's label, three labels, three blocks, three labels: the eleventh is the next object's.
            let put = try_store(&far, 2, 600_000);
            assert_eq!(put.is_ok(), nth == 11, "{nth}");
            drop((near, far));
            site.faults.clear();
            if state_is_old {
                fs::write(&state, before).expect("an older state");
            }
            let [near, far] = pools(&site);
            assert_eq!(names(&near), [1]);
            let expected: &[u64] = if nth == 11 { &[2] } else { &[] };
            assert_eq!(names(&far), expected, "{nth}");
            holds(&near, 1, 600_000);
            // All three can be written still, each by one pool.
            for seq in [3, 4] {
                try_store(&far, seq, 6 << 20).unwrap_or_else(|e| panic!("{nth}: {e}"));
                holds(&far, seq, 6 << 20);
            }
            let (a, b) = (cartridges(&near), cartridges(&far));
            assert_eq!((a.len(), b.len()), (1, 2), "{nth}: {a:?} {b:?}");
            assert_eq!(a.intersection(&b).count(), 0);
        }
    }
}

fn library(tier: &TapeTier) -> Arc<Library> {
    tier.library().expect("there")
}

fn status(tier: &TapeTier, barcode: Barcode) -> CartridgeStatus {
    library(tier).cartridge(barcode).expect("its own").0
}

#[test]
fn a_new_cartridge_is_nobodys_and_what_needs_a_label_is_declined() {
    let site = site(1, 1);
    let [near, far] = pools(&site);
    try_store(&near, 1, 1000).expect("fits");
    assert_eq!(kind(try_store(&far, 1, 1000)), ErrorKind::Full);
    let one = library(&near).label(None).expect("one more").barcode;
    let two = "VLT042L8".parse().expect("barcode");
    library(&far).label(Some(two)).expect("by name");
    library(&far).label(Some(two)).expect("is blank still");
    for tier in [&near, &far] {
        let all = library(tier).cartridges();
        let blank = all.iter().filter(|c| c.scratch).map(|c| c.entry.barcode);
        assert_eq!(blank.collect::<Vec<_>>(), [one, two]);
        let lib = library(tier);
        let declined = [
            lib.protect(two, true).err(),
            lib.audit(two, &|_| false).err(),
            lib.set_repack(two, true).err(),
            lib.export(two, None).err(),
            lib.free(two).err(),
        ];
        for why in declined {
            assert!(matches!(why, Some(LibraryError::Blank { .. })), "{why:?}");
        }
    }
    assert!(status(&near, two).pool.is_none());
    // Retired, it is not taken; then it is.
    library(&near)
        .retire(two, Some("a test".into()))
        .expect("is retired");
    try_store(&far, 1, 1000).expect("fits");
    assert_eq!(where_is(&far, name(1)), one);
    assert_eq!(kind(try_store(&near, 2, 8 << 20)), ErrorKind::Full);
    library(&far).retire(two, None).expect("is used again");
    try_store(&near, 2, 7 << 20).expect("fits the first");
    try_store(&near, 3, 7 << 20).expect("fits");
    assert_eq!(where_is(&near, name(3)), two);
    assert_eq!(status(&near, two).pool.as_deref(), Some("near"));
    drop((near, far));
    let [near, far] = pools(&site);
    holds(&near, 3, 7 << 20);
    holds(&far, 1, 1000);
}

#[test]
fn no_pool_touches_a_cartridge_of_another() {
    let site = site(4, 1);
    let [near, far] = pools(&site);
    try_store(&near, 1, 7 << 20).expect("fits");
    try_store(&far, 1, 7 << 20).expect("fits");
    let (own, other) = (where_is(&near, name(1)), where_is(&far, name(1)));
    assert_eq!(status(&near, own).pool.as_deref(), Some("near"));
    let lib = library(&near);
    assert!(lib.cartridges().iter().all(|c| c.entry.barcode != other));
    let declined = [
        lib.cartridge(other).err(),
        lib.label(Some(other)).err(),
        lib.protect(other, true).err(),
        lib.retire(other, Some("a test".into())).err(),
        lib.audit(other, &|_| false).err(),
        lib.set_repack(other, true).err(),
        lib.export(other, None).err(),
        lib.free(other).err(),
    ];
    for (nth, why) in declined.into_iter().enumerate() {
        let theirs =
            matches!(why, Some(LibraryError::OtherPool { owner, .. }) if owner == TierId(0xb));
        assert!(theirs, "{nth}: {why:?}");
    }
    // What is dead in the other pool is that one's to free, and what is worth emptying there.
    far.delete(name(1)).expect("deletes");
    assert_eq!(lib.free_dead(), []);
    assert_eq!(library(&far).free_dead().len(), 1);
    try_store(&far, 2, 3 << 20).expect("fits");
    try_store(&far, 3, 3 << 20).expect("fits");
    assert_eq!(where_is(&far, name(2)), other, "it stayed its pool's");
    far.delete(name(2)).expect("deletes");
    library(&far)
        .retire(other, Some("a test".into()))
        .expect("is retired");
    assert_eq!(library(&far).worth_repacking(30), [other]);
    assert!(lib.worth_repacking(30).is_empty());
    holds(&near, 1, 7 << 20);
    holds(&far, 3, 3 << 20);
}

#[test]
fn a_cartridge_that_comes_is_the_pools_that_its_label_says() {
    let site = site(4, 1);
    let [near, far] = pools(&site);
    let third = try_pool(&site, "third", 0xc).expect("opens");
    try_store(&near, 1, 1000).expect("fits");
    try_store(&far, 2, 2000).expect("fits");
    try_store(&third, 3, 3000).expect("fits");
    let (at_far, at_third) = (where_is(&far, name(2)), where_is(&third, name(3)));
    let out = library(&far).export(at_far, None).expect("goes");
    assert_eq!(kind(far.read(name(2), 0, 10)), ErrorKind::Unavailable);
    assert_eq!(kind(far.stat(name(9))), ErrorKind::Missing);
    assert_eq!(kind(near.stat(name(2))), ErrorKind::Missing);
    // By whichever pool it comes in.
    let taken = library(&near)
        .import(&Import::Known(at_far), false)
        .expect("comes");
    assert_eq!((taken.files, taken.from), (1, None));
    holds(&far, 2, 2000);
    assert_eq!(kind(near.stat(name(2))), ErrorKind::Missing);
    // The library knows it, though its pool is not open.
    library(&third).export(at_third, None).expect("goes");
    drop(third);
    library(&near)
        .import(&Import::Known(at_third), false)
        .expect("comes");
    holds(&try_pool(&site, "third", 0xc).expect("opens"), 3, 3000);

    // Another library with pools of the same tiers; one of them is not open.
    let elsewhere = Site::new(1, 1);
    let [here, there] = pools(&elsewhere);
    library(&far).export(at_far, None).expect("goes");
    let carried = elsewhere.place.path().join(format!("{at_far}.tap"));
    fs::copy(&out, &carried).expect("carried over");
    library(&here)
        .import(&Import::At(carried), false)
        .expect("comes");
    holds(&there, 2, 2000);
    assert_eq!(kind(here.stat(name(2))), ErrorKind::Missing);
    let carried = elsewhere.place.path().join(format!("{at_third}.tap"));
    fs::copy(site.image(at_third), &carried).expect("carried over");
    let import = Import::At(carried.clone());
    let why = library(&here)
        .import(&import, false)
        .expect_err("nobody's here");
    assert!(why.to_string().contains("--take"), "{why}");
    assert!(carried.exists(), "it is where it was");
    let taken = library(&here).import(&import, true).expect("is taken");
    assert_eq!(taken.from, Some(TierId(0xc)));
    holds(&here, 3, 3000);
    assert_eq!(kind(there.stat(name(3))), ErrorKind::Missing);
    drop((here, there));
    let [here, there] = pools(&elsewhere);
    holds(&here, 3, 3000);
    holds(&there, 2, 2000);
    // When nothing on it is needed it gets the label of the pool that took it.
    here.delete(name(3)).expect("deletes");
    assert_eq!(library(&here).free_dead().len(), 1);
    let entry = status(&here, at_third).entry;
    assert_eq!((entry.taken_from, entry.owner), (None, Some(TierId(0xa))));
}

#[test]
fn what_an_index_knows_is_known_again_when_its_cartridge_can_be_seen() {
    let site = site(2, 1);
    let [near, far] = pools(&site);
    let state = site.root().join("library.json");
    let before = fs::read(&state).expect("state");
    try_store(&near, 1, 1000).expect("fits");
    let barcode = where_is(&near, name(1));
    drop((near, far));
    // The state does not say whose it is, and the image comes later.
    fs::write(&state, before).expect("an older state");
    let aside = site.place.path().join(format!("{barcode}.tap"));
    fs::rename(site.image(barcode), &aside).expect("goes");
    let [near, far] = pools(&site);
    assert_eq!(kind(near.stat(name(1))), ErrorKind::Unavailable);
    let taken = library(&far)
        .import(&Import::At(aside), false)
        .expect("comes");
    assert_eq!(taken.files, 1);
    holds(&near, 1, 1000);
    assert_eq!(kind(far.stat(name(1))), ErrorKind::Missing);
}

#[test]
fn a_pool_asks_for_room_for_its_own_files_in_parts_and_no_other_ones() {
    let site = site(4, 1);
    let [near, far] = pools(&site);
    let store = |tier: &TapeTier, id, len: usize| {
        let bytes = data(1, len);
        let mut put = tier.put(id, len as u64).expect("room");
        std::io::Write::write_all(&mut put, &bytes).expect("is taken");
        put.finish(cairn_mover::Crc32c::of(&bytes)).expect("fits");
    };
    // Of one name in both: short ones here, ones as long as a cartridge there.
    for (tier, len) in [(&near, 1 << 20), (&far, 7 << 20)] {
        store(tier, name(1).part(1), len);
        store(tier, name(1), len);
    }
    let here = where_is(&near, name(1));
    let library = near.library().expect("there");
    assert!(library.has_room_for_parts(here));
    let there = far.library().expect("there");
    assert!(
        !there.has_room_for_parts(where_is(&far, name(1))),
        "only one is blank or its own"
    );
}
