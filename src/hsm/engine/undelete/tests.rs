//! Undelete without a mount: what a crash leaves after each step, and what else may hold a version.

use super::super::tests::{Bench, NOTHING, Place as TierPlace, small, state_of, wait_for};
use super::*;
use crate::catalog::{Catalog, Durability, FileState, NodeId, Rescan, Verb};
use crate::hsm::backing::How;
use crate::hsm::engine::now;
use crate::hsm::rig::noise;
use std::path::Path;

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
