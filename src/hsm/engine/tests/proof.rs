//! Bad copies: found, told, and made again from good ones.

use super::*;
use crate::catalog::{Copy, CopyState};
use crate::format::record::Record;
use crate::hsm::engine::heal::{self, Tried};
use crate::hsm::engine::{CopyNews, Sample, Select};
use crate::hsm::rig::noise;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

const BIG: usize = 200 << 10;

fn two() -> Settings {
    Settings {
        copies: 2,
        ..small()
    }
}

fn bench(settings: Settings) -> Bench {
    let places = vec![Place::Elsewhere; settings.copies as usize];
    Bench::new(&places, settings, NOTHING)
}

/// Everybody's copies on tier `n`, in the order of their places.
pub(super) fn copies_on(bench: &Bench, name: &str, n: usize) -> Vec<Copy> {
    let version = bench.node(name).version.unwrap();
    let tier = bench.engine().tiers()[n].id;
    let mut copies = bench
        .engine()
        .catalog()
        .copies(version.file, version.version)
        .unwrap();
    copies.retain(|c| c.tier == tier);
    copies.sort_by_key(|c| c.aggregate);
    copies
}

/// Where the aggregate lies on disk.
pub(super) fn object(bench: &Bench, n: usize, aggregate: AggregateId) -> PathBuf {
    let tier = bench._dir.path().join(format!("tier{n}"));
    crate::tier::dir::object_path(&tier, aggregate)
}

/// Flips a bit in the middle of a copy's data.
fn flip(bench: &Bench, n: usize, copy: &Copy) {
    let path = object(bench, n, copy.aggregate);
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    let at = copy.header + 4096 + copy.stored_len / 2;
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 4;
    file.write_all_at(&byte, at).unwrap();
}

fn stub(bench: &Bench, name: &str) -> Record {
    let fd = bench.engine().open(&bench.handle(name)).unwrap();
    let report = bench.engine().report(fd.as_fd()).unwrap();
    report.record.unwrap()
}

fn select(bench: &Bench, select: Select, tier: Option<&str>) -> RequestReport {
    let mut ask = bench.ask(Verb::Verify, Vec::new());
    ask.select = Some(select);
    ask.tier = tier.map(str::to_owned);
    bench.ended(bench.engine().submit(ask).unwrap().id)
}

fn bad(bench: &Bench) -> u64 {
    let facts = bench.engine().scrub().unwrap();
    facts.tiers.iter().map(|t| t.bad).sum()
}

fn healed(bench: &Bench) {
    wait_for("bad copies to be healed", || {
        (bad(bench) == 0).then_some(())
    });
}

/// A good copy is on the first tier, and not in that aggregate.
fn is_made_again(bench: &Bench, name: &str, not_in: AggregateId) -> bool {
    let there = copies_on(bench, name, 0);
    let good = |c: &Copy| c.state == CopyState::Good && c.aggregate != not_in;
    there.iter().any(good)
}

type News = Arc<Mutex<Vec<CopyNews>>>;

fn listen(bench: &Bench) -> News {
    let (news, heard) = <(News, News)>::default();
    let tell = news.clone();
    drop(heard);
    bench
        .engine()
        .on_copy(Box::new(move |one| tell.lock().push(one.clone())));
    news
}

/// Files that are on both tiers, and released.
fn released(bench: &Bench, names: &[&str]) {
    for (n, name) in (1..).zip(names) {
        bench.write(name, &noise(BIG, n));
    }
    bench.archive(names);
    bench.done(bench.submit(Verb::Release, names));
}

#[test]
fn the_whole_archive_is_verified_and_what_is_bad_is_named() {
    let settings = Settings {
        heal: false,
        ..two()
    };
    let bench = bench(settings);
    released(&bench, &["d/f", "d/g", "h"]);
    let before = crate::hsm::engine::now();
    let all = select(&bench, Select::default(), None);
    assert_eq!(
        (all.row.state, all.row.counts.done.files),
        (RequestState::Done, 6)
    );
    let copy = copies_on(&bench, "d/g", 0)[0];
    assert!(copy.last_verified >= Some(before), "{copy:?}");
    flip(&bench, 0, &copy);
    let one_tier = select(&bench, Select::default(), Some("t1"));
    assert_eq!(one_tier.row.counts.done.files, 3, "the other tier is good");
    let found = select(&bench, Select::default(), None);
    assert_eq!(
        (found.row.counts.done.files, found.row.counts.failed.files),
        (5, 1)
    );
    let why = failures(&found);
    assert!(why[0].contains("on t0: 1 of its blocks"), "{why:?}");
    assert_eq!(found.failed[0].1.as_deref(), Some(&b"d/g"[..]));
    assert_eq!(copies_on(&bench, "d/g", 0)[0].state, CopyState::Bad);
    assert_eq!((bad(&bench), bench.node("d/g").copies), (1, 1));
    // Nothing is old, and so nothing is read; a sample is of what there is.
    let older = Select {
        older_than_s: Some(3600),
        ..Select::default()
    };
    let of_age = select(&bench, older, None);
    assert_eq!(of_age.row.counts, crate::catalog::Counts::default());
    let some = Select {
        sample: Some(Sample::Copies(2)),
        seed: 5,
        ..Select::default()
    };
    let sampled = select(&bench, some, Some("t1"));
    assert_eq!(sampled.row.counts.done.files, 2);
}

#[test]
fn a_released_file_with_a_bad_copy_is_healed_from_the_good_one() {
    let bench = bench(two());
    let news = listen(&bench);
    released(&bench, &["f", "d/g"]);
    let old = copies_on(&bench, "d/g", 0)[0];
    let raw = std::fs::read(object(&bench, 0, old.aggregate)).unwrap();
    flip(&bench, 0, &old);
    let damaged = std::fs::read(object(&bench, 0, old.aggregate)).unwrap();
    assert_ne!(raw, damaged);
    select(&bench, Select::default(), None);
    healed(&bench);
    let on_first = copies_on(&bench, "d/g", 0);
    let states: Vec<_> = on_first.iter().map(|c| c.state).collect();
    assert_eq!(states, [CopyState::Bad, CopyState::Good]);
    assert_ne!(on_first[1].aggregate, old.aggregate, "P9: a new aggregate");
    let untouched = std::fs::read(object(&bench, 0, old.aggregate)).unwrap();
    assert_eq!(untouched, damaged, "P9: nothing is rewritten");
    let named: Vec<_> = stub(&bench, "d/g")
        .copies
        .iter()
        .map(|c| c.aggregate)
        .collect();
    let other = copies_on(&bench, "d/g", 1)[0].aggregate;
    assert_eq!(named, [on_first[1].aggregate, other]);
    assert_eq!(
        (state_of(&bench, "d/g"), bench.node("d/g").copies),
        (FileState::Released, 2)
    );
    assert_eq!(
        copies_on(&bench, "f", 0).len(),
        1,
        "what is good is left alone"
    );
    wait_for("the news", || (news.lock().len() == 2).then_some(()));
    let told = news.lock().clone();
    assert_eq!(told[0].path, b"d/g");
    assert!(
        told[0].fault.is_some() && told[1].fault.is_none(),
        "{told:?}"
    );
    assert_eq!(told[1].aggregate, on_first[1].aggregate);
    // The new copy serves alone.
    std::fs::remove_file(object(&bench, 1, other)).unwrap();
    bench.done(bench.submit(Verb::Stage, &["d/g"]));
    assert_eq!(
        std::fs::read(bench.root.join("d/g")).unwrap(),
        noise(BIG, 2)
    );
}

#[test]
fn an_aggregate_that_is_gone_is_made_again_as_one() {
    let bench = bench(two());
    let names = ["a", "b", "c", "d"];
    released(&bench, &names);
    let gone = copies_on(&bench, "a", 0)[0].aggregate;
    std::fs::remove_file(object(&bench, 0, gone)).unwrap();
    let before = bench.objects(0);
    // A recall that meets one of them is enough to know it of all.
    let met = copies_on(&bench, "a", 0)[0];
    let shared = &bench.engine().shared;
    shared
        .copy_is_bad(&met, "a recall did not find it")
        .unwrap();
    bench.done(bench.submit(Verb::Stage, &["a"]));
    wait_for("all to be made again", || {
        let made = |name| is_made_again(&bench, name, gone);
        names.iter().all(|name| made(name)).then_some(())
    });
    healed(&bench);
    let places: std::collections::BTreeSet<_> = ["b", "c", "d"]
        .iter()
        .map(|name| copies_on(&bench, name, 0).last().unwrap().aggregate)
        .collect();
    assert_eq!(places.len(), 1, "{places:?}");
    assert!(!places.contains(&gone));
    assert!(
        bench.objects(0) <= before + 2,
        "{} objects",
        bench.objects(0)
    );
    for (n, name) in (1..).zip(names) {
        bench.done(bench.submit(Verb::Stage, &[name]));
        assert_eq!(std::fs::read(bench.root.join(name)).unwrap(), noise(BIG, n));
    }
}

#[test]
fn a_resident_file_is_healed_from_the_disk_and_no_copy_from_a_bad_one() {
    let bench = bench(small());
    bench.write("here", &noise(BIG, 1));
    released(&bench, &["away"]);
    bench.write("here", &noise(BIG, 9));
    bench.archive(&["here"]);
    for name in ["here", "away"] {
        flip(&bench, 0, &copies_on(&bench, name, 0)[0]);
    }
    let found = select(&bench, Select::default(), None);
    assert_eq!(found.row.counts.failed.files, 2);
    wait_for("the resident one to be healed", || {
        (bench.node("here").copies == 1).then_some(())
    });
    assert_eq!(bench.node("away").copies, 0);
    assert_eq!(
        copies_on(&bench, "away", 0).len(),
        1,
        "there is nothing to make one from"
    );
    let refused = bench.ended(bench.submit(Verb::Archive, &["away"]));
    let why = failures(&refused);
    assert!(why[0].starts_with("no-good-copy"), "{why:?}");
    let lost = bench.ended(bench.submit(Verb::Stage, &["away"]));
    assert_eq!(lost.row.state, RequestState::Failed, "never wrong bytes");
    wait_for("its bad copy to stay the only one", || {
        (bad(&bench) == 1).then_some(())
    });
}

/// As a crash leaves it between the new copy's commit and the stub.
#[test]
fn a_heal_that_was_cut_short_is_finished() {
    let settings = Settings {
        heal: false,
        ..two()
    };
    let bench = bench(settings);
    bench.write("large", &noise(9 << 20, 3));
    bench.archive(&["large"]);
    bench.done(bench.submit(Verb::Release, &["large"]));
    let old = copies_on(&bench, "large", 0)[0];
    flip(&bench, 0, &old);
    select(&bench, Select::default(), None);
    // The archive lane's part alone: by hand.
    bench.archive(&["large"]);
    let copies = copies_on(&bench, "large", 0);
    assert_eq!((copies.len(), bad(&bench)), (2, 1));
    let names = |record: &Record| {
        let of = |c: &crate::format::record::CopyHint| c.aggregate;
        record.copies.iter().map(of).collect::<Vec<_>>()
    };
    let before = stub(&bench, "large");
    assert!(names(&before).contains(&old.aggregate));
    let engine = bench.engine();
    let shared = &engine.shared;
    heal::round(shared, &shared.tiers[0], &mut Tried::default()).unwrap();
    assert_eq!(bad(&bench), 0);
    let after = stub(&bench, "large");
    assert!(!names(&after).contains(&old.aggregate));
    assert_eq!(names(&after)[0], copies[1].aggregate);
    let unchanged = |r: &Record| (r.state, r.file, r.version, r.size, r.mtime, r.user_ctime);
    assert_eq!(unchanged(&after), unchanged(&before));
    bench.done(bench.submit(Verb::Stage, &["large"]));
    assert_eq!(
        std::fs::read(bench.root.join("large")).unwrap(),
        noise(9 << 20, 3)
    );
}

#[test]
fn the_scrub_finds_and_heals_what_nobody_asked_for() {
    let settings = Settings {
        scrub_every: Duration::from_secs(2),
        ..two()
    };
    let bench = bench(settings);
    released(&bench, &["f", "g"]);
    wait_for("each copy to be read", || {
        let read = |name, n| copies_on(&bench, name, n)[0].last_verified.is_some();
        let all = [("f", 0), ("f", 1), ("g", 0), ("g", 1)];
        all.iter().all(|(name, n)| read(name, *n)).then_some(())
    });
    let old = copies_on(&bench, "f", 1)[0];
    flip(&bench, 1, &old);
    wait_for("it to be healed", || {
        let copies = copies_on(&bench, "f", 1);
        let good = copies.iter().any(|c| c.state == CopyState::Good);
        (copies.len() == 2 && good && bad(&bench) == 0).then_some(())
    });
    let facts = bench.engine().scrub().unwrap();
    assert_eq!(
        facts.tiers.iter().map(|t| t.copies).collect::<Vec<_>>(),
        [2, 2]
    );
    assert!(facts.tiers.iter().all(|t| facts.is_kept(t)));
}

#[test]
fn an_object_whose_index_is_damaged_is_bad_as_a_whole() {
    let bench = bench(two());
    released(&bench, &["f", "g"]);
    let place = copies_on(&bench, "f", 0)[0].aggregate;
    let path = object(&bench, 0, place);
    let mut bytes = std::fs::read(&path).unwrap();
    let slot = &bench.engine().tiers()[0];
    let (trailer, _) = crate::hsm::verify::read_index(&*slot.tier, place).unwrap();
    bytes[trailer.index_offset as usize + 100] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let mut ask = bench.ask(Verb::Verify, vec![bench.named("f")]);
    ask.tier = Some("t0".into());
    let report = bench.ended(bench.engine().submit(ask).unwrap().id);
    assert_eq!(report.row.counts.failed.files, 1);
    wait_for("both to be made again", || {
        let made = |name| is_made_again(&bench, name, place);
        (made("f") && made("g")).then_some(())
    });
    healed(&bench);
}

/// Three files in three aggregates on each tier.
fn three(bench: &Bench) -> [&'static str; 3] {
    let names = ["a", "b", "c"];
    for name in names {
        released(bench, &[name]);
    }
    names
}

fn no_heal() -> Settings {
    Settings {
        heal: false,
        ..two()
    }
}

/// As a recall, a verification and a scrub would.
fn tell_of_all(bench: &Bench, names: &[&str]) -> Vec<bool> {
    let (shared, slot) = (&bench.engine().shared, &bench.engine().tiers()[0]);
    let mut refused = Vec::new();
    for name in names {
        let copy = copies_on(bench, name, 0)[0];
        shared.copy_is_bad(&copy, "not there").unwrap();
        let gone = [Some(crate::hsm::verify::Fault::Gone("not there".into()))];
        let at = bench.engine().shared.now();
        let noted = shared.note_faults(slot, copy.aggregate, &[copy], &gone, at);
        refused.push(noted.is_err());
    }
    refused
}

#[test]
fn a_tier_that_comes_back_empty_has_no_bad_copies() {
    let bench = bench(no_heal());
    let names = three(&bench);
    let objects = bench._dir.path().join("tier0/aggregates");
    std::fs::remove_dir_all(&objects).unwrap();
    std::fs::create_dir(&objects).unwrap();
    assert_eq!(tell_of_all(&bench, &names), [true; 3]);
    assert_eq!(bad(&bench), 0);
    let shared = &bench.engine().shared;
    assert!(shared.proof.is_doubtful(shared.tiers[0].id));
}

#[test]
fn a_tier_that_gives_no_data_has_no_bad_copies() {
    let bench = bench(no_heal());
    let names = three(&bench);
    bench.withheld[0]
        .broken
        .store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(tell_of_all(&bench, &names), [true; 3]);
    assert_eq!(bad(&bench), 0);
}

#[test]
fn an_object_that_is_missing_among_good_ones_is_bad() {
    let bench = bench(no_heal());
    three(&bench);
    let lost = copies_on(&bench, "b", 0)[0];
    std::fs::remove_file(object(&bench, 0, lost.aggregate)).unwrap();
    let found = select(&bench, Select::default(), None);
    assert_eq!(found.row.counts.failed.files, 1);
    assert_eq!((bad(&bench), bench.node("b").copies), (1, 1));
}

#[test]
fn a_released_file_whose_only_copy_has_a_bad_header_still_reads() {
    let bench = bench(Settings {
        heal: false,
        ..small()
    });
    released(&bench, &["f"]);
    let copy = copies_on(&bench, "f", 0)[0];
    let path = object(&bench, 0, copy.aggregate);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[copy.header as usize + 20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let found = select(&bench, Select::default(), None);
    assert!(failures(&found)[0].contains("tar headers"));
    assert_eq!(bad(&bench), 1);
    let known = {
        use crate::hsm::recall::Asks;
        let answers = crate::hsm::engine::asks::Answers(Arc::downgrade(&bench.engine().shared));
        answers.copies_of(copy.file, copy.version)
    };
    assert_eq!(known.len(), 1, "also where the stub does not name it");
    bench.done(bench.submit(Verb::Stage, &["f"]));
    assert_eq!(std::fs::read(bench.root.join("f")).unwrap(), noise(BIG, 1));
}

#[test]
fn what_must_be_restored_first_is_not_read_and_not_bad() {
    let settings = Settings {
        scrub_every: Duration::from_secs(1),
        ..small()
    };
    let bench = bench(settings);
    let withheld = &bench.withheld[0];
    withheld
        .stowed
        .store(true, std::sync::atomic::Ordering::SeqCst);
    for (n, name) in (1..).zip(["f", "g"]) {
        bench.write(name, &noise(BIG, n));
        bench.archive(&[name]);
    }
    let copies = ["f", "g"].map(|name| copies_on(&bench, name, 0)[0]);
    let objects = copies.map(|copy| copy.aggregate);
    assert_ne!(objects[0], objects[1]);
    // One that cannot be read keeps the scrub from no other: the tier stands.
    wait_for("the scrub to have met both", || {
        let asked = withheld.asked.lock();
        objects.iter().all(|o| asked.contains(o)).then_some(())
    });
    let shared = &bench.engine().shared;
    let slot = shared.slot(copies[0].tier).unwrap();
    let told = shared.check_copies(slot, &*slot.tier, objects[0], &copies[..1], &|| false);
    assert!(told.is_err(), "{told:?}");
    // Somebody else who says so of one: the others answer, that they are there.
    assert_eq!(
        shared.another_answers(slot, objects[0]).unwrap(),
        Some(true)
    );
    for (name, before) in ["f", "g"].iter().zip(copies) {
        let copy = copies_on(&bench, name, 0)[0];
        assert_eq!(copy.state, CopyState::Good);
        assert_eq!(copy.last_verified, before.last_verified, "it was not read");
    }
    assert!(!shared.proof.is_doubtful(slot.id));
}
