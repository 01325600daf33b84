//! Which copies count, and which files lack some.

use super::*;
use crate::catalog::{CopyState, Durability};
use crate::hsm::engine::{Weakness, now};
use crate::hsm::rig::noise;

const BIG: usize = 256 << 10;

#[test]
fn p3_a_copy_on_the_backings_own_filesystem_is_no_proof() {
    // The first tier lies beside the backing; a second one, elsewhere, is there too.
    let bench = Bench::new(&[Place::Beside, Place::Elsewhere], small(), NOTHING);
    let slots = bench.engine().tiers();
    let weak = |n: usize| slots[n].weakness(bench.engine().backing());
    assert_eq!((weak(0), weak(1)), (Some(Weakness::SameFilesystem), None));
    bench.write("f", &noise(BIG, 1));
    let mut beside = bench.ask(Verb::Archive, vec![bench.named("f")]);
    beside.tier = Some("t0".into());
    bench.done(bench.engine().submit(beside).unwrap().id);
    assert_eq!((bench.objects(0), bench.objects(1)), (1, 0));
    let refused = bench.ended(bench.submit(Verb::Release, &["f"]));
    assert_eq!(refused.row.state, RequestState::Failed);
    let why = failures(&refused);
    assert!(why[0].contains("0 good copies"), "{why:?}");
    assert_eq!(state_of(&bench, "f"), FileState::Archived);
    // Asked for in general it goes where it is worth something, and can be released then.
    bench.archive(&["f"]);
    assert_eq!((bench.objects(0), bench.objects(1)), (1, 1));
    bench.done(bench.submit(Verb::Release, &["f"]));
    assert_eq!(state_of(&bench, "f"), FileState::Released);
}

#[test]
fn p3_with_worthless_tiers_alone_nothing_is_released_unless_asked_for() {
    for allow in [false, true] {
        let settings = Settings {
            allow_same_fs: allow,
            ..small()
        };
        let bench = Bench::new(&[Place::Beside], settings, NOTHING);
        bench.write("f", &noise(BIG, 1));
        bench.archive(&["f"]);
        let asked = bench.ask(Verb::Release, vec![bench.named("f")]);
        let submitted = bench.engine().submit(asked);
        if allow {
            bench.done(submitted.unwrap().id);
            assert_eq!(state_of(&bench, "f"), FileState::Released);
        } else {
            let why = submitted.unwrap_err().to_string();
            assert!(why.contains("protects nothing"), "{why}");
        }
    }
}

#[test]
fn p3_a_tier_in_memory_is_no_proof() {
    let shm = Path::new("/dev/shm");
    let in_memory = rustix::fs::statfs(shm).is_ok_and(|s| s.f_type == 0x0102_1994);
    if !in_memory {
        eprintln!("SKIPPED: /dev/shm is no tmpfs here");
        return;
    }
    let volatile = tempfile::tempdir_in(shm).unwrap();
    let at = Place::At(volatile.path().join("tier"));
    let settings = Settings {
        copies: 2,
        ..small()
    };
    let bench = Bench::new(&[at, Place::Elsewhere], settings, NOTHING);
    let slot = &bench.engine().tiers()[0];
    let weak = slot.weakness(bench.engine().backing());
    assert_eq!(weak, Some(Weakness::Volatile));
    bench.write("f", &noise(BIG, 1));
    bench.archive(&["f"]);
    assert_eq!((bench.objects(0), bench.objects(1)), (1, 1));
    let asked = bench.ask(Verb::Release, vec![bench.named("f")]);
    let why = bench.engine().submit(asked).unwrap_err().to_string();
    assert!(why.contains("t0 lies in memory"), "{why}");
}

fn damage(bench: &Bench, name: &str) {
    let version = bench.node(name).version.unwrap();
    let catalog = bench.engine().catalog();
    for copy in catalog.copies(version.file, version.version).unwrap() {
        catalog
            .set_copy_state(&copy, CopyState::Bad, now(), Durability::Full)
            .unwrap();
    }
}

const ALL: &str = "rule archive all\n  manual\n";

#[test]
fn a_file_whose_only_copy_went_bad_is_archived_again() {
    let bench = Bench::new(&[Place::Elsewhere], small(), ALL);
    bench.write("f", &noise(BIG, 1));
    bench.write("g", &noise(BIG, 2));
    bench.archive(&["f", "g"]);
    let fewer = || bench.engine().snapshot().unwrap().under_copied;
    assert_eq!((fewer(), bench.run_policy()), (0, vec![0]));
    damage(&bench, "f");
    assert_eq!(fewer(), 1);
    assert_eq!(bench.run_policy(), [1], "policy sees it");
    assert_eq!((fewer(), bench.node("f").copies), (0, 1));
    let made = bench.objects(0);
    damage(&bench, "f");
    bench.archive(&["f"]);
    assert_eq!((fewer(), bench.node("f").copies), (0, 1), "so does a user");
    assert_eq!(bench.objects(0), made + 1);
    // The record on the file names what is good, and not what is bad for ever.
    let report = {
        let fd = bench.engine().open(&bench.handle("f")).unwrap();
        bench
            .engine()
            .report(std::os::fd::AsFd::as_fd(&fd))
            .unwrap()
    };
    assert_eq!(report.record.unwrap().copies.len(), 1);
    bench.done(bench.submit(Verb::Release, &["f"]));
    bench.done(bench.submit(Verb::Stage, &["f"]));
    assert_eq!(std::fs::read(bench.root.join("f")).unwrap(), noise(BIG, 1));
}

#[test]
fn more_copies_than_before_are_made_where_they_are_missing() {
    let settings = Settings {
        copies: 2,
        ..small()
    };
    let bench = Bench::new(&[Place::Elsewhere, Place::Elsewhere], settings, ALL);
    bench.write("f", &noise(BIG, 1));
    let mut one = bench.ask(Verb::Archive, vec![bench.named("f")]);
    one.tier = Some("t1".into());
    bench.done(bench.engine().submit(one).unwrap().id);
    let fewer = || bench.engine().snapshot().unwrap().under_copied;
    assert_eq!(fewer(), 1);
    assert_eq!(bench.run_policy(), [1]);
    assert_eq!((bench.objects(0), bench.objects(1)), (1, 1));
    assert_eq!((fewer(), bench.run_policy()), (0, vec![0]));
}

const BOTH: &str = "rule archive all\n  manual\n\nrule release large\n  manual\n";

/// As a kill leaves it between the catalog's commit and the record (P2 steps 5 and 6).
fn take_record(bench: &Bench, name: &str) {
    let path = bench.root.join(name);
    rustix::fs::removexattr(&path, "trusted.cairn.record").unwrap();
}

#[test]
fn p2_an_archived_file_without_its_record_is_archived_again_and_then_released() {
    let bench = Bench::new(&[Place::Elsewhere], small(), BOTH);
    bench.write("f", &noise(BIG, 1));
    bench.archive(&["f"]);
    // Found by a release.
    take_record(&bench, "f");
    assert_eq!(bench.run_policy(), [0, 1]);
    bench
        .engine()
        .catalog()
        .settle(Durability::Relaxed)
        .unwrap();
    assert_eq!(state_of(&bench, "f"), FileState::Dirty);
    // Found by a scan.
    bench.write("g", &noise(BIG, 2));
    bench.archive(&["g"]);
    take_record(&bench, "g");
    let mark = crate::catalog::Rescan {
        node: crate::catalog::NodeId::ROOT,
        since: now(),
        why: "test".into(),
    };
    bench.engine().catalog().need_rescan(vec![mark]).unwrap();
    wait_for("the scan to find it", || {
        (state_of(&bench, "g") == FileState::Dirty).then_some(())
    });
    assert_eq!(bench.run_policy()[0], 2, "policy archives them again");
    bench.done(bench.submit(Verb::Release, &["f", "g"]));
    for (name, seed) in [("f", 1), ("g", 2)] {
        assert_eq!(state_of(&bench, name), FileState::Released);
        bench.done(bench.submit(Verb::Stage, &[name]));
        let data = std::fs::read(bench.root.join(name)).unwrap();
        assert_eq!(data, noise(BIG, seed));
    }
}

#[test]
fn a_file_without_record_and_with_less_data_than_its_copy_is_no_new_version() {
    let bench = Bench::new(&[Place::Elsewhere], small(), BOTH);
    bench.write("f", &noise(BIG, 1));
    bench.archive(&["f"]);
    take_record(&bench, "f");
    let file = std::fs::File::options();
    let file = { file }.write(true).open(bench.root.join("f")).unwrap();
    let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 0, BIG as u64 / 2).unwrap();
    drop(file);
    assert_eq!(bench.run_policy(), [0, 1]);
    bench
        .engine()
        .catalog()
        .settle(Durability::Relaxed)
        .unwrap();
    assert_eq!(state_of(&bench, "f"), FileState::Archived);
}

#[test]
fn what_was_refused_does_not_keep_a_rule_from_all_others() {
    // Also where some of its copies might not count.
    for places in [&[Place::Elsewhere][..], &[Place::Elsewhere, Place::Beside]] {
        let bench = Bench::new(places, small(), BOTH);
        bench.write("f", &noise(BIG, 1));
        bench.archive(&["f"]);
        let slot = &bench.engine().tiers()[0];
        for name in slot.tier.list(None, 10).unwrap() {
            slot.tier.delete(name).unwrap();
        }
        assert_eq!(bench.run_policy(), [0, 1], "taken, and refused");
        assert_eq!(state_of(&bench, "f"), FileState::Archived);
        assert_eq!(bench.run_policy(), [0, 0], "it rests");
    }
}

#[test]
fn a_file_that_also_lies_on_a_worthless_tier_is_handed_in_once() {
    let bench = Bench::new(&[Place::Beside, Place::Elsewhere], small(), BOTH);
    bench.write("f", &noise(BIG, 1));
    bench.archive(&["f"]);
    assert_eq!((bench.objects(0), bench.objects(1)), (0, 1));
    assert_eq!(bench.run_policy(), [0, 1]);
    assert_eq!(state_of(&bench, "f"), FileState::Released);
}
