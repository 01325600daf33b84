//! Undelete without a mount: what a crash leaves after each step, and what else may hold a version.

use super::super::tests::{Bench, NOTHING, Place as TierPlace, small, state_of, wait_for};
use super::*;
use crate::catalog::{Catalog, Durability, FileState, NodeId, Verb};
use crate::hsm::backing::How;
use crate::hsm::engine::now;
use crate::hsm::rig::noise;
use std::path::Path;
use std::time::Duration;

const BIG: usize = 256 << 10;

fn looker() -> Looker {
    Looker {
        asker: Asker::ENGINE,
        sees_all: true,
    }
}

fn root(bench: &Bench) -> NodeHandle {
    let backing = bench.engine().backing();
    backing.handle_of(backing.root()).unwrap()
}

fn ask(bench: &Bench, name: &str) -> Undelete {
    Undelete {
        from: Place {
            directory: root(bench),
            below: vec![name.as_bytes().to_vec()],
        },
        to: None,
        which: Which::Latest,
        recursive: false,
    }
}

fn try_it(bench: &Bench, name: &str, reached: Reached<'_>) -> Outcome {
    let shared = &bench.engine().shared;
    shared.undelete_one(&ask(bench, name), &looker(), &mut |_, _| true, reached)
}

fn listed(bench: &Bench, name: &str) -> Vec<Deleted> {
    let mut all = Vec::new();
    let place = ask(bench, name).from;
    bench
        .engine()
        .deleted(&place, &looker(), &mut |_, _| true, &mut |one| {
            all.push(one);
            true
        })
        .unwrap();
    all
}

/// A bench with a released file `f` that was deleted, and a scan that knows.
fn deleted() -> Bench {
    let bench = Bench::new(&[TierPlace::Elsewhere], small(), NOTHING);
    bench.write("f", &noise(BIG, 1));
    bench.archive(&["f"]);
    bench.done(bench.submit(Verb::Release, &["f"]));
    std::fs::remove_file(bench.root.join("f")).unwrap();
    scan(&bench);
    assert_eq!(listed(&bench, "f").len(), 1);
    bench
}

/// A scan of the whole that begins now, and all that follows from it: what a scan did not see is
/// settled before the next one begins.
fn scan(bench: &Bench) {
    for _ in 0..2 {
        one_scan(bench);
    }
}

fn one_scan(bench: &Bench) {
    let catalog = bench.engine().catalog();
    let begun = catalog.scan_state().unwrap().generation;
    let mark = Rescan {
        node: NodeId::ROOT,
        since: now(),
        why: "test".into(),
    };
    catalog.need_rescan(vec![mark]).unwrap();
    bench.engine().shared.bell.ring();
    wait_for("a scan", || {
        let state = catalog.scan_state().unwrap();
        let marked = !catalog.rescans(1).unwrap().is_empty();
        (!marked && state.finished_generation > begun && !state.running).then_some(())
    });
    catalog.settle(Durability::Relaxed).unwrap();
}

/// Members of the one aggregate that count.
fn live(bench: &Bench) -> u64 {
    let tier = bench.engine().tiers()[0].id;
    let all = bench.engine().catalog().aggregates(tier, None, 10).unwrap();
    all.iter().map(|a| a.live_members).sum()
}

fn reads_right(bench: &Bench, name: &str, seed: u64) {
    bench.done(bench.submit(Verb::Stage, &[name]));
    let data = std::fs::read(bench.root.join(name)).unwrap();
    assert!(data == noise(BIG, seed), "{name}: other bytes");
}

#[test]
fn p8_a_crash_after_any_step_leaves_nothing_or_a_released_file() {
    for step in [Step::Revived, Step::Made, Step::Named, Step::Noted] {
        let bench = deleted();
        assert_eq!(live(&bench), 0);
        let halted = try_it(&bench, "f", &|reached| reached != step);
        assert!(halted.is_err(), "{step:?}");
        assert_eq!(live(&bench), 1, "{step:?}: it might be there");
        let there = bench.root.join("f").exists();
        assert_eq!(there, matches!(step, Step::Named | Step::Noted), "{step:?}");
        if there {
            assert_is_stub(&bench, "f");
        } else {
            // Nobody undeletes it meanwhile: nobody knows whether there is a file.
            let (_, why) = try_it(&bench, "f", &|_| true).unwrap_err();
            assert_eq!(why.code(), Failure::Busy, "{step:?}: {why}");
        }
        scan(&bench);
        if there {
            assert_eq!(
                (live(&bench), listed(&bench, "f").len()),
                (1, 0),
                "{step:?}"
            );
            assert_eq!(state_of(&bench, "f"), FileState::Released, "{step:?}");
        } else {
            assert_eq!(
                (live(&bench), listed(&bench, "f").len()),
                (0, 1),
                "{step:?}"
            );
            try_it(&bench, "f", &|_| true).unwrap();
        }
        reads_right(&bench, "f", 1);
    }
}

/// It is whole: its stub stands, and it holds nothing.
fn assert_is_stub(bench: &Bench, name: &str) {
    let backing = bench.engine().backing();
    let fd = backing.open_beneath(name.as_bytes()).unwrap();
    let record = backing.record(fd.as_fd()).unwrap().expect("a record");
    let stat = backing.stat(fd.as_fd()).unwrap();
    assert_eq!((record.state, record.size), (State::Released, stat.size));
    assert_eq!((stat.size, record.mtime), (BIG as u64, stat.mtime));
    let open = backing.reopen(fd.as_fd(), How::Read).unwrap();
    assert!(!backing.has_data(open.as_fd()).unwrap());
}

#[test]
fn p8_no_name_is_met_without_its_stub() {
    let bench = deleted();
    let seen = |reached: Step| {
        let there = bench.root.join("f").exists();
        assert_eq!(there, matches!(reached, Step::Named | Step::Noted));
        if there {
            assert_is_stub(&bench, "f");
        }
        true
    };
    try_it(&bench, "f", &seen).unwrap();
}

#[test]
fn what_cannot_be_named_is_as_deleted_as_before() {
    let bench = deleted();
    let mut elsewhere = ask(&bench, "f");
    bench.write("taken", b"x");
    elsewhere.to = Some(Place {
        directory: root(&bench),
        below: vec![b"taken".to_vec()],
    });
    let shared = &bench.engine().shared;
    let done = shared.undelete_one(&elsewhere, &looker(), &mut |_, _| true, &|_| true);
    assert_eq!(done.unwrap_err().1.code(), Failure::Exists);
    assert_eq!((live(&bench), listed(&bench, "f").len()), (0, 1));
    assert_eq!(std::fs::read(bench.root.join("taken")).unwrap(), b"x");
    try_it(&bench, "f", &|_| true).unwrap();
}

#[test]
fn a_version_of_a_file_that_lives_comes_back_as_another_file() {
    let bench = Bench::new(&[TierPlace::Elsewhere], small(), NOTHING);
    bench.write("f", &noise(BIG, 1));
    bench.archive(&["f"]);
    bench.write("f", &noise(BIG, 2));
    bench.archive(&["f"]);
    let old = bench.node("f").version.unwrap();
    let shared = &bench.engine().shared;
    // Also where a crash comes before the catalog hears of it, or before there is a file.
    let tries = [
        ("one", Step::Made, 1),
        ("one", Step::Named, 2),
        ("two", Step::Noted, 3),
    ];
    for (name, step, count) in tries {
        let mut to = ask(&bench, "f");
        to.to = Some(Place {
            directory: root(&bench),
            below: vec![name.as_bytes().to_vec()],
        });
        let halt = |reached| reached != step;
        let done = shared.undelete_one(&to, &looker(), &mut |_, _| true, &halt);
        assert!(done.is_err());
        scan(&bench);
        assert_eq!(live(&bench), count, "{name} {step:?}");
    }
    let beside = try_it(&bench, "f", &|_| true).unwrap();
    let beside = String::from_utf8(beside.path).unwrap();
    assert!(beside.starts_with("f.until-"), "{beside}");
    for name in ["one", "two", &beside] {
        let row = bench.node(name);
        assert_ne!(
            row.version.unwrap().file,
            old.file,
            "two files number versions alike"
        );
        reads_right(&bench, name, 1);
    }
    assert_eq!(std::fs::read(bench.root.join("f")).unwrap(), noise(BIG, 2));
}

#[test]
fn of_a_file_of_several_versions_the_last_alone_keeps_its_id() {
    let bench = Bench::new(&[TierPlace::Elsewhere], small(), NOTHING);
    bench.write("f", &noise(BIG, 1));
    bench.archive(&["f"]);
    bench.write("f", &noise(BIG, 2));
    bench.archive(&["f"]);
    let file = bench.node("f").version.unwrap().file;
    std::fs::remove_file(bench.root.join("f")).unwrap();
    scan(&bench);
    let shared = &bench.engine().shared;
    let mut first = ask(&bench, "f");
    first.which = Which::Version(crate::id::DataVersion(1));
    first.to = Some(Place {
        directory: root(&bench),
        below: vec![b"one".to_vec()],
    });
    shared
        .undelete_one(&first, &looker(), &mut |_, _| true, &|_| true)
        .unwrap();
    try_it(&bench, "f", &|_| true).unwrap();
    assert_ne!(bench.node("one").version.unwrap().file, file);
    assert_eq!(bench.node("f").version.unwrap().file, file);
    reads_right(&bench, "one", 1);
    reads_right(&bench, "f", 2);
}

#[test]
fn holes_alone_need_no_stub() {
    let bench = Bench::new(&[TierPlace::Elsewhere], small(), NOTHING);
    let hole = std::fs::File::create(bench.root.join("f")).unwrap();
    hole.set_len(1 << 20).unwrap();
    drop(hole);
    bench.archive(&["f"]);
    std::fs::remove_file(bench.root.join("f")).unwrap();
    scan(&bench);
    try_it(&bench, "f", &|_| true).unwrap();
    let data = std::fs::read(bench.root.join("f")).unwrap();
    assert!(data.len() == 1 << 20 && data.iter().all(|b| *b == 0));
    bench.archive(&["f"]);
    assert_eq!(state_of(&bench, "f"), FileState::Archived);
}

#[test]
fn a_version_without_a_readable_copy_is_refused_and_stays() {
    let bench = deleted();
    let copies = listed(&bench, "f").pop().unwrap().copies;
    assert_eq!(copies.len(), 1);
    let catalog: &Catalog = bench.engine().catalog();
    let bad = crate::catalog::CopyState::Bad;
    catalog
        .set_copy_state(&copies[0], bad, now(), Durability::Full)
        .unwrap();
    let why = try_it(&bench, "f", &|_| true).unwrap_err().1;
    assert_eq!(why.code(), Failure::NoGoodCopy, "{why}");
    // Nobody reads it back while no file needs it: that it is good again is never noted.
    let better = crate::catalog::CopyState::Suspect;
    catalog
        .set_copy_state(&copies[0], better, now(), Durability::Full)
        .unwrap();
    try_it(&bench, "f", &|_| true).unwrap();
    assert!(Path::new(&bench.root.join("f")).exists());
}

const BOB: u32 = 54_321;
const ALICE: u32 = 54_322;

fn user(uid: u32) -> Looker {
    Looker {
        asker: Asker {
            uid,
            gid: uid,
            groups: Vec::new(),
        },
        sees_all: false,
    }
}

fn give(bench: &Bench, name: &str, uid: u32) {
    std::os::unix::fs::chown(bench.root.join(name), Some(uid), Some(uid)).unwrap();
}

/// A bench with a directory `home` where everybody may make files. The backing itself is closed: who
/// asks comes through a mount.
fn home() -> Bench {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new(&[TierPlace::Elsewhere], small(), NOTHING);
    std::fs::create_dir(bench.root.join("home")).unwrap();
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(bench.root.join("home"), open).unwrap();
    bench
}

/// Asks for what lay in `home`.
fn ask_home(bench: &Bench, below: &[&str]) -> Undelete {
    let below = below.iter().map(|p| p.as_bytes().to_vec()).collect();
    let directory = bench.handle("home");
    let from = Place { directory, below };
    Undelete {
        from,
        to: None,
        which: Which::Latest,
        recursive: false,
    }
}

fn one_of_home(bench: &Bench, name: &str, looker: &Looker) -> Outcome {
    let ask = ask_home(bench, &[name]);
    let shared = &bench.engine().shared;
    shared.undelete_one(&ask, looker, &mut |_, _| true, &|_| true)
}

/// All of `home`, or of what lay below it.
fn all_of_home(bench: &Bench, below: &[&str], looker: &Looker) -> Vec<Outcome> {
    let ask = Undelete {
        recursive: true,
        ..ask_home(bench, below)
    };
    let mut all = Vec::new();
    let mut each = |one| {
        all.push(one);
        true
    };
    bench
        .engine()
        .undelete(&ask, looker, &mut |_, _| true, &mut each)
        .unwrap();
    all
}

#[test]
fn p15_what_was_archived_as_anothers_is_not_given_to_who_owns_the_file_now() {
    let bench = home();
    bench.write("home/f", &noise(BIG, 1));
    give(&bench, "home/f", BOB);
    bench.archive(&["home/f"]);
    give(&bench, "home/f", ALICE);
    scan(&bench);
    bench.write("home/f", &noise(BIG, 2));
    scan(&bench);
    let stones = bench.engine().catalog().tombstones(None, 10).unwrap();
    assert_eq!(stones.len(), 1);
    assert_eq!(stones[0].uid, ALICE);
    let (_, why) = one_of_home(&bench, "f", &user(ALICE)).unwrap_err();
    assert_eq!(why.code(), Failure::NotPermitted, "{why}");
    assert!(why.to_string().contains("another user's"), "{why}");
    std::fs::remove_file(bench.root.join("home/f")).unwrap();
    scan(&bench);
    let (_, why) = all_of_home(&bench, &[], &user(ALICE))
        .pop()
        .unwrap()
        .unwrap_err();
    assert_eq!(why.code(), Failure::NotPermitted, "{why}");
    assert_eq!(live(&bench), 0, "its copies count again");
    // Nor to whom it was then: it was not theirs when it ended.
    let (_, why) = one_of_home(&bench, "f", &user(BOB)).unwrap_err();
    assert_eq!(why.code(), Failure::NotFound, "{why}");
    let back = one_of_home(&bench, "f", &looker()).unwrap();
    assert_eq!(back.path, b"home/f");
    reads_right(&bench, "home/f", 1);
}

#[test]
fn a_version_that_ends_was_its_owners_of_before() {
    let bench = home();
    bench.write("home/f", &noise(BIG, 1));
    give(&bench, "home/f", BOB);
    bench.archive(&["home/f"]);
    bench.write("home/f", &noise(100, 2));
    give(&bench, "home/f", ALICE);
    let kind = cairn_fuse::EventKind::Resized;
    let told = cairn_fuse::Event {
        kind,
        node: bench.handle("home/f"),
        place: None,
        from: None,
    };
    super::super::changelog::apply(&bench.engine().shared, &[told.into()]).unwrap();
    let catalog = bench.engine().catalog();
    catalog.settle(Durability::Relaxed).unwrap();
    let stones = catalog.tombstones(None, 10).unwrap();
    assert_eq!((stones.len(), stones[0].uid), (1, BOB));
    assert_eq!(bench.node("home/f").attributes.uid, ALICE);
}

#[test]
fn p8_what_was_cut_short_is_settled_also_after_a_stop_that_was_clean() {
    for step in [Step::Revived, Step::Named] {
        let bench = deleted();
        assert!(try_it(&bench, "f", &|reached| reached != step).is_err());
        let places = [TierPlace::Elsewhere];
        let bench = bench.again(&places, small(), NOTHING, |_| {});
        assert!(bench.engine().shared.incarnation.after_clean_stop);
        wait_for("what was cut short to be settled", || {
            let left = bench.engine().catalog().has_revivals().unwrap();
            (!left).then_some(())
        });
        if step == Step::Revived {
            assert_eq!(live(&bench), 0);
            try_it(&bench, "f", &|_| true).unwrap();
        }
        reads_right(&bench, "f", 1);
    }
}

#[test]
fn an_undelete_ends_with_a_refusal_when_the_engine_stops() {
    let bench = home();
    for name in ["home/a", "home/b", "home/c"] {
        bench.write(name, &noise(BIG, 1));
    }
    bench.archive(&["home"]);
    for name in ["a", "b", "c"] {
        std::fs::remove_file(bench.root.join("home").join(name)).unwrap();
    }
    scan(&bench);
    let shared = &bench.engine().shared;
    let ask = Undelete {
        recursive: true,
        ..ask_home(&bench, &[])
    };
    let mut back = 0;
    let mut each = |one: Outcome| {
        one.unwrap();
        back += 1;
        assert!(!shared.undeleting.halt(Duration::ZERO), "one is under way");
        true
    };
    let undelete = |each: &mut dyn FnMut(Outcome) -> bool| {
        let done = bench
            .engine()
            .undelete(&ask, &looker(), &mut |_, _| true, each);
        done.unwrap_err().code()
    };
    assert_eq!(undelete(&mut each), Failure::NoInstance);
    assert_eq!(back, 1);
    assert!(shared.undeleting.halt(Duration::ZERO), "none is any more");
    assert_eq!(undelete(&mut |_| panic!("begun")), Failure::NoInstance);
}

#[test]
fn the_kernel_is_told_of_a_name_whatever_comes_after() {
    let bench = deleted();
    assert!(try_it(&bench, "f", &|reached| reached != Step::Named).is_err());
    assert_eq!(bench.gate.named.lock()[..], [(root(&bench), b"f".to_vec())]);
}

#[test]
fn p15_whether_a_name_is_in_a_closed_directory_is_not_told() {
    use std::os::unix::fs::PermissionsExt;
    let bench = home();
    std::fs::create_dir(bench.root.join("home/closed")).unwrap();
    bench.write("home/closed/there", &noise(BIG, 1));
    bench.write("home/closed/gone", &noise(BIG, 1));
    for name in ["home/closed/there", "home/closed/gone"] {
        give(&bench, name, ALICE);
    }
    bench.archive(&["home"]);
    for name in ["home/closed/there", "home/closed/gone"] {
        std::fs::remove_file(bench.root.join(name)).unwrap();
    }
    scan(&bench);
    bench.write("home/closed/there", b"another's");
    let closed = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(bench.root.join("home/closed"), closed).unwrap();
    let told = all_of_home(&bench, &["closed"], &user(ALICE));
    assert_eq!(told.len(), 2);
    for one in told {
        let (_, why) = one.unwrap_err();
        assert_eq!(why.code(), Failure::NotPermitted, "{why}");
    }
}

#[test]
fn a_default_acl_of_its_directory_opens_no_file() {
    let bench = home();
    bench.write("home/f", &noise(BIG, 1));
    bench.archive(&["home/f"]);
    std::fs::remove_file(bench.root.join("home/f")).unwrap();
    scan(&bench);
    let entry = |tag: u16, perm: u16, id: u32| {
        let mut bytes = tag.to_le_bytes().to_vec();
        bytes.extend(perm.to_le_bytes());
        bytes.extend(id.to_le_bytes());
        bytes
    };
    let nobody = u32::MAX;
    let parts = [
        2_u32.to_le_bytes().to_vec(),
        entry(1, 7, nobody),
        entry(2, 7, ALICE),
        entry(4, 5, nobody),
        entry(0x10, 7, nobody),
        entry(0x20, 5, nobody),
    ];
    let (home, name) = (bench.root.join("home"), "system.posix_acl_default");
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&home, name, &parts.concat(), flags).unwrap();
    one_of_home(&bench, "f", &looker()).unwrap();
    let mut value = [0; 256];
    let found = rustix::fs::getxattr(home.join("f"), "system.posix_acl_access", &mut value[..]);
    assert_eq!(found, Err(rustix::io::Errno::NODATA));
}

#[test]
fn a_user_has_back_a_directory_that_is_read_only() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let bench = home();
    let top = bench.root.join("home/ro");
    bench.write("home/ro/in/a", &noise(BIG, 1));
    bench.write("home/ro/in/b", &noise(BIG, 1));
    for name in ["home/ro", "home/ro/in", "home/ro/in/a", "home/ro/in/b"] {
        give(&bench, name, ALICE);
    }
    for dir in [top.join("in"), top.clone()] {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o555)).unwrap();
    }
    bench.archive(&["home"]);
    std::fs::remove_dir_all(&top).unwrap();
    scan(&bench);
    for one in all_of_home(&bench, &["ro"], &user(ALICE)) {
        one.unwrap();
    }
    for dir in [top.clone(), top.join("in")] {
        let found = std::fs::metadata(&dir).unwrap();
        assert_eq!((found.mode() & 0o7777, found.uid()), (0o555, ALICE));
    }
    reads_right(&bench, "home/ro/in/b", 1);
}

#[test]
fn newer_news_of_a_file_that_came_back_stand() {
    use std::os::unix::fs::PermissionsExt;
    let bench = deleted();
    let met = |reached| {
        if reached == Step::Named {
            scan(&bench);
            bench.done(bench.submit(Verb::Stage, &["f"]));
        }
        true
    };
    try_it(&bench, "f", &met).unwrap();
    assert_eq!(state_of(&bench, "f"), FileState::Archived);
    assert!(!bench.engine().catalog().has_revivals().unwrap());
    std::fs::remove_file(bench.root.join("f")).unwrap();
    scan(&bench);
    let changed = |reached| {
        if reached == Step::Named {
            let mode = std::fs::Permissions::from_mode(0o640);
            std::fs::set_permissions(bench.root.join("f"), mode).unwrap();
        }
        true
    };
    try_it(&bench, "f", &changed).unwrap();
    wait_for("the catalog to know its mode", || {
        (bench.node("f").attributes.mode & 0o777 == 0o640).then_some(())
    });
}
