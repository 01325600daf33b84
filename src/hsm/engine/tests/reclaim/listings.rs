//! Namespace snapshots leave a tier when no restore within the window needs them, and not before.

use super::*;
use crate::hsm::engine::snapshots::take_now;
use crate::hsm::restore::{Order, Report as _, RestoreError, restore, see};
use crate::hsm::snapshot::tests::next_tick;
use crate::id::Timestamp;
use std::sync::atomic::{AtomicU64, Ordering};

const HOUR: Duration = Duration::from_secs(3600);

/// The snapshots on the tier, oldest first.
fn on_tier(bench: &Bench) -> Vec<AggregateId> {
    let objects = bench.engine().tiers()[0].tier.list(None, 99).unwrap();
    objects.into_iter().filter(|id| id.is_snapshot()).collect()
}

/// Takes one, which looks at every directory once: none changed in this tick. Its name.
fn snapshot(bench: &Bench, full: bool) -> AggregateId {
    next_tick();
    assert!(take_now(&bench.engine().shared, full), "none was taken");
    *on_tier(bench).last().unwrap()
}

/// A file, its archive, a full snapshot, a change and one that stands on it; the two.
fn chain(bench: &Bench, name: &str) -> [AggregateId; 2] {
    bench.write(name, &noise(BIG, 1));
    scan(bench);
    bench.archive(&[name]);
    let full = snapshot(bench, true);
    bench.write(&format!("after {name}"), b"x");
    [full, snapshot(bench, false)]
}

/// Three chains, a day apart, the second and third of one full snapshot each; and a day later.
fn three() -> (Bench, Clock, [AggregateId; 4]) {
    let (bench, clock) = bench();
    let [first, upon] = chain(&bench, "a");
    clock.advance(DAY);
    let second = snapshot(&bench, true);
    clock.advance(DAY);
    let third = snapshot(&bench, true);
    clock.advance(DAY);
    (bench, clock, [first, upon, second, third])
}

fn deeds(report: &Report, act: Act) -> Vec<AggregateId> {
    let of = report.deeds.iter().filter(|deed| deed.act == act);
    of.map(|deed| deed.aggregate).collect()
}

struct Nobody;

impl crate::hsm::restore::Report for Nobody {
    fn lost(&mut self, _: &[u8], _: crate::hsm::restore::Loss, _: &str) -> std::io::Result<()> {
        Ok(())
    }
    fn told(&mut self) -> std::io::Result<()> {
        Ok(())
    }
    fn placed(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// From which snapshot a restore as of that time is made.
fn restored(bench: &Bench, at: Timestamp) -> Result<AggregateId, RestoreError> {
    let to = tempfile::tempdir().unwrap();
    let target = to.path().join("backing");
    std::fs::create_dir(&target).unwrap();
    let mut report = Nobody;
    report.told().unwrap();
    let order = Order {
        tier: &*bench.engine().tiers()[0].tier,
        to: &target,
        at: Some(at),
        with_later: false,
        host: "here",
        now: at,
        reached: &|_| Ok(()),
    };
    let outcome = restore(&order, &mut report)?;
    assert_eq!(outcome.skipped, [], "a snapshot could not be used");
    assert!(target.join("a").exists(), "it made nothing");
    Ok(outcome.snapshot.unwrap().id)
}

fn begun(bench: &Bench, id: AggregateId) -> Timestamp {
    let tier = &bench.engine().tiers()[0].tier;
    let indexes = crate::hsm::index_cache::IndexCache::new(1 << 20);
    see(&**tier, &indexes, id).unwrap().found.begun
}

#[test]
fn p8_a_chain_goes_from_its_end_when_another_was_there_for_the_window() {
    let (bench, clock, [first, upon, second, third]) = three();
    assert_eq!(on_tier(&bench), [first, upon, second, third]);
    let at = begun(&bench, first);
    assert_eq!(acts(&collect(&bench)), []);
    assert_eq!(restored(&bench, begun(&bench, upon)).unwrap(), upon);
    // The second one was taken a day after the first, two days ago.
    clock.advance(WINDOW - DAY * 2 - HOUR);
    let young = collect(&bench);
    assert_eq!(acts(&young), []);
    assert!(young.next.is_some(), "it says when");
    clock.advance(HOUR * 2);
    let dry = run(&bench, true, &|_| false).unwrap();
    assert_eq!(deeds(&dry, Act::Condemn), [upon, first]);
    assert_eq!(deeds(&collect(&bench), Act::Condemn), [upon, first]);
    assert_eq!(deeds(&collect(&bench), Act::Wait), [upon, first]);
    assert_eq!(on_tier(&bench).len(), 4, "nothing goes before the delay");
    clock.advance(DELAY * 2);
    assert_eq!(deeds(&collect(&bench), Act::Delete), [upon, first]);
    assert_eq!(on_tier(&bench), [second, third]);
    // Each moment of the window has its snapshot; what was before is said not to be had.
    let reach = begun(&bench, second);
    let oldest = crate::hsm::engine::shifted(clock.now(), WINDOW, false);
    assert!(reach <= oldest);
    assert_eq!(restored(&bench, oldest).unwrap(), second);
    assert_eq!(restored(&bench, begun(&bench, third)).unwrap(), third);
    match restored(&bench, at) {
        Err(RestoreError::None { reach: said, .. }) => assert_eq!(said, Some(reach)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn p8_the_newest_full_one_and_what_stands_on_it_stay_for_ever() {
    let (bench, clock) = bench();
    let chain = chain(&bench, "a");
    for _ in 0..4 {
        clock.advance(WINDOW * 2);
        assert_eq!(acts(&collect(&bench)), []);
    }
    assert_eq!(on_tier(&bench), chain);
}

#[test]
fn p8_a_newer_one_that_is_gone_or_unreadable_lets_nothing_go() {
    for gone in [true, false] {
        let (bench, clock, [first, upon, second, third]) = three();
        clock.advance(WINDOW * 2);
        let tier = bench.engine().tiers()[0].tier.clone();
        for id in [second, third] {
            let len = tier.stat(id).unwrap();
            let bytes = tier.read(id, 0, len).unwrap();
            tier.delete(id).unwrap();
            if gone {
                continue;
            }
            let cut = &bytes[..bytes.len() - 1024];
            let mut put = tier.put(id, 0).unwrap();
            std::io::Write::write_all(&mut put, cut).unwrap();
            put.finish(cairn_mover::Crc32c::of(cut)).unwrap();
        }
        let report = collect(&bench);
        assert_eq!(acts(&report), [], "{gone}");
        assert_eq!(report.strange.is_empty(), gone, "{report:?}");
        collect_all(&bench, &clock);
        assert!(on_tier(&bench).starts_with(&[first, upon]), "{gone}");
        // The next full one does, in its time; what cannot be read stays.
        let next = snapshot(&bench, true);
        assert_eq!(acts(&collect(&bench)), []);
        clock.advance(WINDOW + DAY);
        collect_all(&bench, &clock);
        let left: &[_] = if gone {
            &[next]
        } else {
            &[second, third, next]
        };
        assert_eq!(on_tier(&bench), left, "{gone}");
    }
}

/// Puts other bytes in the place of an object.
fn altered(bench: &Bench, id: AggregateId, alter: impl FnOnce(&mut Vec<u8>)) {
    let tier = &bench.engine().tiers()[0].tier;
    let mut bytes = tier.read(id, 0, tier.stat(id).unwrap()).unwrap().to_vec();
    alter(&mut bytes);
    tier.delete(id).unwrap();
    let mut put = tier.put(id, 0).unwrap();
    std::io::Write::write_all(&mut put, &bytes).unwrap();
    put.finish(cairn_mover::Crc32c::of(&bytes)).unwrap();
}

#[test]
fn p8_nothing_goes_on_the_strength_of_one_that_is_damaged_in_its_middle() {
    let (bench, clock) = bench();
    let [first, upon] = chain(&bench, "a");
    // A listing of several blocks: its head and its index stay as they were.
    for n in 0..800 {
        let target = format!("{n:04}").repeat(1000);
        std::os::unix::fs::symlink(target, bench.root.join(format!("link {n}"))).unwrap();
    }
    let second = snapshot(&bench, true);
    assert!(bench.engine().tiers()[0].tier.stat(second).unwrap() > 3 << 20);
    altered(&bench, second, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    clock.advance(WINDOW * 2);
    for _ in 0..3 {
        let report = collect(&bench);
        assert_eq!(acts(&report), []);
        let (of, why) = &report.strange[0];
        assert_eq!((*of, report.strange.len()), (second, 1));
        assert!(why.contains("checksum mismatch"), "{why}");
        clock.advance(DELAY * 2);
    }
    assert_eq!(on_tier(&bench), [first, upon, second]);
    // The next one does.
    let third = snapshot(&bench, true);
    clock.advance(WINDOW + DAY);
    collect_all(&bench, &clock);
    assert_eq!(on_tier(&bench), [third]);
}

#[test]
fn p8_a_clock_that_is_set_ahead_takes_no_snapshot_in_two_passes() {
    let (bench, clock, all) = three();
    clock.jump(WINDOW * 2);
    assert_eq!(
        deeds(&collect(&bench), Act::Condemn),
        [all[2], all[1], all[0]]
    );
    clock.jump(WINDOW * 2);
    let report = collect(&bench);
    assert_eq!(acts(&report), [Act::Wait; 3]);
    assert!(report.next.is_some(), "it says when");
    clock.advance(DELAY - Duration::from_secs(600));
    assert_eq!(acts(&collect(&bench)), [Act::Wait; 3]);
    assert_eq!(on_tier(&bench), all);
    clock.advance(Duration::from_secs(1200));
    assert_eq!(
        deeds(&collect(&bench), Act::Delete),
        [all[2], all[1], all[0]]
    );
}

/// Another filesystem in the backing, which no snapshot looks into.
struct Foreign(std::path::PathBuf);

impl Foreign {
    /// `None`, and a word why, where nothing can be mounted.
    fn on(bench: &Bench, name: &str) -> Option<Self> {
        let path = bench.root.join(name);
        std::fs::create_dir(&path).unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "none"]).arg(&path);
        if !mount.output().is_ok_and(|done| done.status.success()) {
            eprintln!("SKIPPED: nothing can be mounted here");
            return None;
        }
        Some(Self(path))
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let mut umount = std::process::Command::new("umount");
        let _ = umount.arg("-l").arg(&self.0).status();
    }
}

#[test]
fn p8_one_with_gaps_takes_the_place_of_none_that_has_fewer() {
    let (bench, clock) = bench();
    let [first, upon] = chain(&bench, "a");
    clock.advance(DAY);
    let second = snapshot(&bench, true);
    let Some(foreign) = Foreign::on(&bench, "other") else {
        return;
    };
    clock.advance(DAY);
    let third = snapshot(&bench, true);
    let catalog = bench.engine().catalog();
    let tier = bench.engine().tiers()[0].id;
    let rows = catalog.snapshots(tier, None, 9).unwrap();
    let gaps: Vec<_> = rows.iter().map(|row| row.gaps).collect();
    assert_eq!(gaps, [0, 0, 0, 1].map(Some));
    // A newer one without any does: the one between, which stays.
    clock.advance(WINDOW * 2);
    collect(&bench);
    clock.advance(DELAY * 2);
    let report = collect(&bench);
    assert_eq!(deeds(&report, Act::Delete), [upon, first]);
    assert_eq!(on_tier(&bench), [second, third]);
    let (of, why) = &report.strange[0];
    assert_eq!((*of, report.strange.len()), (second, 1));
    assert!(
        why.contains(&format!("{third} has 1 gaps, and it has 0")),
        "{why}"
    );
    // A gap that lasts holds nothing up for ever.
    let fourth = snapshot(&bench, true);
    clock.advance(WINDOW + DAY);
    collect_all(&bench, &clock);
    assert_eq!(on_tier(&bench), [second, fourth]);
    drop(foreign);
    let fifth = snapshot(&bench, true);
    clock.advance(WINDOW + DAY);
    collect_all(&bench, &clock);
    assert_eq!(on_tier(&bench), [fifth]);
}

/// As a catalog of schema version 3 has it.
fn forget_gaps(state: &std::path::Path) {
    let catalog = rusqlite::Connection::open(state.join("catalog.sqlite")).unwrap();
    let changed = catalog.execute("UPDATE snapshots SET gaps = NULL", []);
    assert!(changed.unwrap() > 0);
}

#[test]
fn p8_how_many_gaps_one_has_that_no_row_says_it_is_asked_itself() {
    for damaged in [false, true] {
        let (bench, clock) = bench();
        let Some(_foreign) = Foreign::on(&bench, "other") else {
            return;
        };
        let [first, upon] = chain(&bench, "a");
        let second = snapshot(&bench, true);
        if damaged {
            altered(&bench, first, |bytes| {
                let said = b"\"gaps\":1";
                let at = bytes.windows(said.len()).position(|some| some == said);
                bytes[at.unwrap() + said.len() - 1] = b'2';
            });
        }
        let bench = bench.again(PLACES, settings(&clock), NOTHING, forget_gaps);
        settled(&bench);
        clock.advance(WINDOW * 2);
        collect(&bench);
        clock.advance(DELAY * 2);
        let report = collect(&bench);
        let left: &[_] = if damaged {
            &[first, upon, second]
        } else {
            &[second]
        };
        assert_eq!(on_tier(&bench), left, "{report:?}");
        assert_eq!(report.strange.is_empty(), !damaged, "{report:?}");
    }
}

#[test]
fn p9_a_decision_about_a_snapshot_binds_no_other_epoch() {
    let (bench, clock, all) = three();
    clock.advance(WINDOW);
    assert_eq!(acts(&collect(&bench)).len(), 3);
    let bench = bench.again(PLACES, settings(&clock), NOTHING, |_| ());
    settled(&bench);
    clock.advance(DELAY * 2);
    let report = collect(&bench);
    assert_eq!(deeds(&report, Act::Spare), all[..3]);
    assert_eq!(deeds(&report, Act::Delete), []);
    assert_eq!(on_tier(&bench), all);
    clock.advance(DELAY * 2);
    collect(&bench);
    assert_eq!(on_tier(&bench), all[3..]);
}

/// Stopped after the `n`-th step of all that follows, and started again; what was done.
fn stop_at(n: u64) -> Vec<Step> {
    let (bench, clock, [.., third]) = three();
    clock.advance(WINDOW);
    let (count, done) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let stop = |step: Option<Step>| {
        if let Some(step) = step
            && count.fetch_add(1, Ordering::Relaxed) < n
        {
            done.lock().push(step);
        }
        count.load(Ordering::Relaxed) >= n
    };
    for _ in 0..2 {
        let _ = run(&bench, false, &stop);
        clock.advance(DELAY * 2);
    }
    let whole = |bench: &Bench| {
        // Whatever is listed can be restored, without passing over anything.
        for id in on_tier(bench) {
            assert_eq!(restored(bench, begun(bench, id)).unwrap(), id);
        }
    };
    whole(&bench);
    let bench = bench.again(PLACES, settings(&clock), NOTHING, |_| ());
    settled(&bench);
    let steps = done.into_inner();
    let first = deeds(&collect(&bench), Act::Delete);
    assert!(
        first.is_empty() || steps.last() == Some(&Step::Deleted),
        "after {steps:?}: {first:?}"
    );
    whole(&bench);
    collect_all(&bench, &clock);
    assert_eq!(on_tier(&bench), [third], "after {steps:?}");
    let tier = bench.engine().tiers()[0].id;
    let catalog = bench.engine().catalog();
    assert_eq!(catalog.snapshots(tier, None, 9).unwrap().len(), 1);
    assert_eq!(catalog.snapshot_graves(tier, None, 9).unwrap(), []);
    steps
}

#[test]
fn p8_a_stop_between_grave_and_deletion_leaves_whole_chains() {
    let mut n = 1;
    loop {
        let steps = stop_at(n);
        if (steps.len() as u64) < n {
            // Three condemned, and of each the way out.
            assert_eq!(steps.len(), 3 + 3 * 3, "{steps:?}");
            break;
        }
        n += 1;
    }
}

#[test]
fn p8_snapshots_of_a_lost_catalog_are_learned_and_their_window_begins_then() {
    let (bench, clock, all) = three();
    clock.advance(WINDOW);
    let bench = bench.again(PLACES, settings(&clock), NOTHING, |state| {
        for name in ["catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"] {
            let _ = std::fs::remove_file(state.join(name));
        }
    });
    settled(&bench);
    // A file that was in use in the first scan says what it names in a later one; only a scan that saw all is a proof.
    scan(&bench);
    let report = collect(&bench);
    assert_eq!(deeds(&report, Act::Quarantine)[..], all);
    // Nothing that this catalog took is there: none of them is superseded, and the next is a full one.
    clock.advance(WINDOW * 2);
    assert_eq!(deeds(&collect(&bench), Act::Condemn), []);
    let next = snapshot(&bench, false);
    let tier = bench.engine().tiers()[0].id;
    let catalog = bench.engine().catalog();
    assert_eq!(catalog.full_snapshot(tier).unwrap().unwrap().id, next);
    assert_eq!(deeds(&collect(&bench), Act::Condemn), []);
    clock.advance(WINDOW + DAY);
    collect_all(&bench, &clock);
    assert_eq!(on_tier(&bench), [next]);
}
