//! `cairn remove`: which copies may be given up, and what is left of them.

use super::super::ask::Consent;
use super::*;
use crate::catalog::{CopyState, Durability, TombstoneWhy};
use crate::format::record::{Record, State};
use crate::hsm::backing::SetHow;
use crate::hsm::rig::noise;
use std::os::fd::AsFd;

const BIG: usize = 256 << 10;
const LAST: Consent = Consent {
    last_copy: true,
    below_policy: false,
};
const BELOW: Consent = Consent {
    last_copy: false,
    below_policy: true,
};

/// Two tiers, and a file `f` on both.
fn on_both(copies: u32) -> Bench {
    // Healing would archive anew what a test calls bad.
    let settings = Settings {
        copies,
        heal: false,
        ..small()
    };
    let places = [Place::Elsewhere, Place::Elsewhere];
    let bench = Bench::new(&places, settings, "rule archive all\n  manual\n");
    // A scan that meets the file amid its archive may take the record's ctime for a change.
    let catalog = bench.engine().catalog();
    wait_for("the end of the first scan", || {
        (catalog.scan_state().unwrap().finished_generation != 0).then_some(())
    });
    bench.write("f", &noise(BIG, 1));
    for tier in ["t0", "t1"] {
        let mut ask = bench.ask(Verb::Archive, vec![bench.named("f")]);
        ask.tier = Some(tier.into());
        bench.done(bench.engine().submit(ask).unwrap().id);
    }
    bench
}

fn remove(bench: &Bench, tier: &str, consent: Consent) -> RequestReport {
    let mut ask = bench.ask(Verb::Remove, vec![bench.named("f")]);
    (ask.tier, ask.consent) = (Some(tier.into()), consent);
    bench.ended(bench.engine().submit(ask).unwrap().id)
}

fn is_done(report: &RequestReport) {
    assert_eq!(report.row.state, RequestState::Done, "{report:?}");
}

fn is_refused(report: &RequestReport, why: &str) {
    assert_eq!(report.row.state, RequestState::Failed, "{report:?}");
    let told = failures(report);
    assert!(told[0].contains(why), "{told:?}");
}

fn record(bench: &Bench) -> Option<Record> {
    let backing = bench.engine().backing();
    let fd = backing.open_beneath(b"f").unwrap();
    backing.record(fd.as_fd()).unwrap()
}

/// Members that count on a tier.
fn live(bench: &Bench, tier: usize) -> u64 {
    let id = bench.engine().tiers()[tier].id;
    let all = bench.engine().catalog().aggregates(id, None, 100).unwrap();
    all.iter().map(|a| a.live_members).sum()
}

fn forget_objects(bench: &Bench, tier: usize) {
    let slot = &bench.engine().tiers()[tier];
    for name in slot.tier.list(None, 100).unwrap() {
        slot.tier.delete(name).unwrap();
    }
}

#[test]
fn a_copy_that_is_not_the_last_is_given_up_and_the_other_is_read() {
    for released in [true, false] {
        let bench = on_both(1);
        if released {
            bench.done(bench.submit(Verb::Release, &["f"]));
        }
        let t0 = bench.engine().tiers()[0].id;
        assert_eq!((live(&bench, 0), live(&bench, 1)), (1, 1));
        is_done(&remove(&bench, "t0", Consent::default()));
        let named = record(&bench).unwrap().copies;
        assert_eq!(named.len(), 1);
        assert_ne!(named[0].tier, t0);
        assert_eq!((live(&bench, 0), live(&bench, 1)), (0, 1));
        let row = bench.node("f");
        assert_eq!(row.copies, 1);
        let version = row.version.unwrap();
        let catalog = bench.engine().catalog();
        assert_eq!(
            catalog.copies(version.file, version.version).unwrap().len(),
            1
        );
        // Whoever reclaims aggregates is told that this one was given up.
        let given_up = catalog.aggregates(t0, None, 10).unwrap()[0].id;
        let members = catalog.members(t0, given_up, None, 10).unwrap();
        assert_eq!(members[0].state, CopyState::Removed);
        // No bytes went; when they do, the other copy serves.
        assert_eq!(bench.objects(0), 1);
        forget_objects(&bench, 0);
        if !released {
            assert_eq!(state_of(&bench, "f"), FileState::Archived);
            bench.done(bench.submit(Verb::Release, &["f"]));
        }
        bench.done(bench.submit(Verb::Stage, &["f"]));
        assert_eq!(std::fs::read(bench.root.join("f")).unwrap(), noise(BIG, 1));
        let again = remove(&bench, "t0", Consent::default());
        is_refused(&again, "no copy there");
    }
}

#[test]
fn the_last_good_copy_of_a_released_file_is_never_given_up() {
    let bench = on_both(1);
    bench.done(bench.submit(Verb::Release, &["f"]));
    is_done(&remove(&bench, "t0", Consent::default()));
    for consent in [Consent::default(), LAST, BELOW] {
        is_refused(&remove(&bench, "t1", consent), "`cairn stage` first");
    }
    assert_eq!(live(&bench, 1), 1);
    bench.done(bench.submit(Verb::Stage, &["f"]));
    assert_eq!(std::fs::read(bench.root.join("f")).unwrap(), noise(BIG, 1));
}

#[test]
fn a_copy_that_cannot_be_proven_is_none_that_is_left() {
    let bench = on_both(1);
    bench.done(bench.submit(Verb::Release, &["f"]));
    // It is in the catalog, and gone from its tier.
    forget_objects(&bench, 1);
    is_refused(&remove(&bench, "t0", Consent::default()), "last good copy");
    assert_eq!(record(&bench).unwrap().copies.len(), 2);
    bench.done(bench.submit(Verb::Stage, &["f"]));
    assert_eq!(std::fs::read(bench.root.join("f")).unwrap(), noise(BIG, 1));
}

#[test]
fn the_last_copy_of_a_resident_file_goes_on_its_owners_word() {
    let bench = on_both(1);
    is_done(&remove(&bench, "t0", Consent::default()));
    is_refused(&remove(&bench, "t1", Consent::default()), "--last-copy");
    let before = bench.node("f").version.unwrap();
    is_done(&remove(&bench, "t1", LAST));
    let row = bench.node("f");
    assert_eq!(
        (row.state, row.version, row.copies),
        (FileState::None, None, 0)
    );
    assert!(record(&bench).is_none());
    assert_eq!((live(&bench, 0), live(&bench, 1)), (0, 0));
    assert_eq!(std::fs::read(bench.root.join("f")).unwrap(), noise(BIG, 1));
    let catalog = bench.engine().catalog();
    let stones = catalog.tombstones(None, 10).unwrap();
    assert_eq!(stones.len(), 1);
    assert_eq!(
        (stones[0].why, &stones[0].path[..]),
        (TombstoneWhy::Remove, &b"f"[..])
    );
    assert!(row.note.unwrap().contains("0 of the 1 copies"));
    // It is a file that was never archived: its numbers are another's.
    bench.archive(&["f"]);
    assert_ne!(bench.node("f").version.unwrap().file, before.file);
    bench.done(bench.submit(Verb::Release, &["f"]));
    bench.done(bench.submit(Verb::Stage, &["f"]));
    assert_eq!(std::fs::read(bench.root.join("f")).unwrap(), noise(BIG, 1));
}

/// The tier's directory is away until it is moved back.
fn away(bench: &Bench, tier: usize, away: bool) {
    let (here, there) = (format!("tier{tier}"), format!("away{tier}"));
    let (from, to) = if away { (here, there) } else { (there, here) };
    let dir = bench._dir.path();
    std::fs::rename(dir.join(from), dir.join(to)).unwrap();
}

#[test]
fn only_the_copy_that_was_named_is_given_up_while_another_tier_is_away() {
    let bench = on_both(1);
    away(&bench, 1, true);
    is_refused(&remove(&bench, "t0", Consent::default()), "--last-copy");
    is_done(&remove(&bench, "t0", LAST));
    let row = bench.node("f");
    assert_eq!((row.state, row.copies), (FileState::Archived, 1));
    assert_eq!((live(&bench, 0), live(&bench, 1)), (0, 1));
    let named = record(&bench).unwrap().copies;
    assert_eq!(named.len(), 1);
    assert_eq!(named[0].tier, bench.engine().tiers()[1].id);
    assert_eq!(bench.engine().catalog().tombstones(None, 10).unwrap(), []);
    // It counts for a release when its tier is back, and no sooner.
    let early = bench.submit(Verb::Release, &["f"]);
    assert_eq!(bench.ended(early).row.state, RequestState::Failed);
    away(&bench, 1, false);
    bench.done(bench.submit(Verb::Release, &["f"]));
    bench.done(bench.submit(Verb::Stage, &["f"]));
    assert_eq!(std::fs::read(bench.root.join("f")).unwrap(), noise(BIG, 1));
    // Now it is the last, by all that is known.
    is_done(&remove(&bench, "t1", LAST));
    assert_eq!(state_of(&bench, "f"), FileState::None);
}

#[test]
fn without_a_record_a_copy_elsewhere_stays_too() {
    for is_away in [false, true] {
        let bench = on_both(1);
        let backing = bench.engine().backing();
        let fd = backing.open_beneath(b"f").unwrap();
        backing.remove_record(fd.as_fd()).unwrap();
        if is_away {
            away(&bench, 1, true);
        }
        is_done(&remove(&bench, "t0", LAST));
        let row = bench.node("f");
        assert_eq!((row.state, row.copies), (FileState::Archived, 1));
        assert_eq!((live(&bench, 0), live(&bench, 1)), (0, 1), "{is_away}");
        assert_eq!(bench.engine().catalog().tombstones(None, 10).unwrap(), []);
    }
}

#[test]
fn a_bad_copy_elsewhere_is_none_that_stays() {
    let bench = on_both(1);
    let version = bench.node("f").version.unwrap();
    let catalog = bench.engine().catalog();
    let t1 = bench.engine().tiers()[1].id;
    let copies = catalog.copies(version.file, version.version).unwrap();
    let copy = copies.iter().find(|c| c.tier == t1).unwrap();
    let now = super::super::now();
    catalog
        .set_copy_state(copy, CopyState::Bad, now, Durability::Full)
        .unwrap();
    is_done(&remove(&bench, "t0", LAST));
    assert_eq!(state_of(&bench, "f"), FileState::None);
}

#[test]
fn a_verify_that_ends_after_a_removal_does_not_take_it_back() {
    let bench = on_both(1);
    let version = bench.node("f").version.unwrap();
    let catalog = bench.engine().catalog();
    let t0 = bench.engine().tiers()[0].id;
    let before = catalog.copies(version.file, version.version).unwrap();
    let read = *before.iter().find(|c| c.tier == t0).unwrap();
    is_done(&remove(&bench, "t0", Consent::default()));
    let now = super::super::now();
    catalog
        .note_checks(vec![(read, CopyState::Good)], now, Durability::Full)
        .unwrap();
    let left = catalog.copies(version.file, version.version).unwrap();
    assert!(left.iter().all(|c| c.tier != t0), "{left:?}");
    assert_eq!((live(&bench, 0), bench.node("f").copies), (0, 1));
    let members = catalog.members(t0, read.aggregate, None, 10).unwrap();
    assert_eq!(members[0].state, CopyState::Removed);
}

#[test]
fn fewer_than_policy_asks_are_left_only_on_request_and_it_is_said() {
    let bench = on_both(2);
    is_refused(
        &remove(&bench, "t0", Consent::default()),
        "policy asks for 2",
    );
    is_refused(&remove(&bench, "t0", LAST), "policy asks for 2");
    assert_eq!(bench.run_policy(), [0], "it has what is asked for");
    is_done(&remove(&bench, "t0", BELOW));
    let note = bench.node("f").note.unwrap();
    assert!(note.contains("1 of the 2 copies"), "{note}");
    assert_eq!(bench.run_policy(), [1], "as was said, it is made again");
    assert_eq!((live(&bench, 0), bench.node("f").copies), (1, 2));
}

#[test]
fn p1_what_was_proven_stays_proven_and_policy_makes_no_copy_anew() {
    let bench = on_both(1);
    is_done(&remove(&bench, "t1", Consent::default()));
    let objects = (bench.objects(0), bench.objects(1));
    assert_eq!(bench.run_policy(), [0]);
    bench.archive(&["f"]);
    assert_eq!((bench.objects(0), bench.objects(1)), objects);
}

#[test]
fn a_removal_that_was_cut_short_is_done_again() {
    let bench = on_both(1);
    bench.done(bench.submit(Verb::Release, &["f"]));
    // As a kill leaves it: the record forgot the copy, the catalog did not.
    let backing = bench.engine().backing();
    let fd = backing.open_beneath(b"f").unwrap();
    let mut forgot = record(&bench).unwrap();
    let t0 = bench.engine().tiers()[0].id;
    forgot.copies.retain(|c| c.tier != t0);
    backing
        .set_record(fd.as_fd(), &forgot, SetHow::Replace)
        .unwrap();
    is_done(&remove(&bench, "t0", Consent::default()));
    assert_eq!(live(&bench, 0), 0);
    assert_eq!(record(&bench).unwrap().state, State::Released);
    // And of the last one: the record is gone, the catalog still has it.
    bench.done(bench.submit(Verb::Stage, &["f"]));
    backing.remove_record(fd.as_fd()).unwrap();
    is_done(&remove(&bench, "t1", LAST));
    assert_eq!(state_of(&bench, "f"), FileState::None);
}

#[test]
fn what_changed_keeps_its_copies() {
    let bench = on_both(1);
    bench.write("f", &noise(BIG, 2));
    is_refused(&remove(&bench, "t0", LAST), "changed since it was archived");
    bench
        .engine()
        .catalog()
        .settle(Durability::Relaxed)
        .unwrap();
    assert!(record(&bench).is_some());
}
