//! What batch jobs hold is bounded, and is theirs until they are released.

use super::*;
use crate::config::Percent;
use crate::error::Failure;
use crate::hsm::rig::{Image, noise};

const MIB: u64 = 1 << 20;
const DAY: Duration = Duration::from_secs(86_400);

impl Bench {
    pub(super) fn job_ask(&self, uid: u32, job: &str, attempt: u32, names: &[&str]) -> Ask {
        let subjects = names.iter().map(|name| self.named(name)).collect();
        let mut ask = self.ask(Verb::Stage, subjects);
        ask.asker.uid = uid;
        ask.asker.gid = uid;
        ask.key = Some(format!("job:{job}/in.1.{attempt}"));
        ask.job = Some(job.to_owned());
        ask.pin_for = Some(DAY);
        ask
    }

    fn job_files(&self, uid: u32, job: &str) -> u64 {
        self.engine().held_by_job(uid, job).unwrap().files
    }
}

/// Four files, of which one user's jobs may keep two, and all jobs three.
fn bounded(image: &Image) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let root = image.path().join("backing");
    std::fs::create_dir(&root).unwrap();
    let stat = rustix::fs::statvfs(image.path()).unwrap();
    let total = stat.f_blocks * stat.f_frsize;
    let size = total / 10;
    let settings = Settings {
        reserve: MIB,
        job_pins: Percent::new(35).unwrap(),
        job_pins_per_user: Percent::new(25).unwrap(),
        ..small()
    };
    let bench = Bench::on(dir, root, &[Place::Elsewhere], settings, NOTHING);
    for (n, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        bench.write(name, &noise(size as usize, n as u64));
    }
    bench
}

#[test]
fn jobs_keep_no_more_than_they_may_and_a_file_counts_once() {
    let Some(image) = Image::ext4("job-pins") else {
        return;
    };
    let bench = bounded(&image);
    let stage = |uid, job, attempt, names: &[&str]| {
        let asked = bench
            .engine()
            .submit(bench.job_ask(uid, job, attempt, names));
        bench.ended(asked.unwrap().id)
    };
    let fails = |uid, job, attempt, names: &[&str], code: &str, words: &str| {
        let report = stage(uid, job, attempt, names);
        assert_eq!(report.row.state, RequestState::Failed);
        let said = failures(&report);
        assert!(
            said[0].starts_with(code) && said[0].contains(words),
            "{said:?}"
        );
    };
    let done = |uid, job, attempt, names: &[&str]| {
        assert_eq!(
            stage(uid, job, attempt, names).row.state,
            RequestState::Done
        );
    };
    done(1, "one", 0, &["a"]);
    done(1, "two", 0, &["a", "b"]);
    // The same files once more cost nothing; a third one is too much for this user.
    done(1, "three", 0, &["a", "b", "a"]);
    fails(1, "three", 1, &["c"], "over-budget", "your jobs keep");
    fails(
        1,
        "four",
        0,
        &["a", "b", "c"],
        "quota-exceeded",
        "your jobs together may keep",
    );
    // Another user shares two and adds one, which is all that there is room for.
    done(2, "one", 0, &["b", "c"]);
    fails(3, "one", 0, &["d"], "over-budget", "all jobs keep");
    // A job's end makes room if nobody else holds what it held.
    bench.engine().release_job(2, "one", None).unwrap();
    let need = bench.engine().forecast(&bench.job_ask(3, "one", 1, &["d"]));
    let need = need.unwrap();
    let weighed = || {
        let need = Some((need.pins, need.bytes));
        bench.engine().claim_for_job(3, "one", need, false).unwrap()
    };
    wait_for("the room to be seen", || weighed().is_none().then_some(()));
    done(3, "one", 1, &["d"]);
    let held = (bench.job_files(1, "two"), bench.job_files(3, "one"));
    assert_eq!(held, (2, 1));
    // Without a job nothing is pinned by who may merely read it.
    let mut bare = bench.job_ask(5, "x", 0, &["a"]);
    (bare.job, bare.key) = (None, None);
    let refused = bench.engine().submit(bare).unwrap_err();
    assert_eq!(refused.code(), Failure::Usage);
}

#[test]
fn a_job_claims_all_that_it_needs_or_waits_with_nothing() {
    let Some(image) = Image::ext4("job-claims") else {
        return;
    };
    let bench = bounded(&image);
    let engine = bench.engine();
    let need = |uid, names: &[&str]| {
        let forecast = engine.forecast(&bench.job_ask(uid, "x", 0, names)).unwrap();
        (forecast.pins, forecast.bytes)
    };
    let claim = |uid, job, need| engine.claim_for_job(uid, job, need, true);
    let size = need(1, &["a"]).0.total;
    assert_eq!(need(1, &["a", "a", "b"]).0.total, 2 * size);
    assert_eq!(claim(1, "one", Some(need(1, &["a", "b"]))).unwrap(), None);
    // Nothing is pinned yet, and it counts; also what was asked for in a second directive or part.
    let waits = claim(1, "two", Some(need(1, &["c"]))).unwrap().unwrap();
    assert!(waits.contains("your jobs keep"), "{waits}");
    assert_eq!(engine.job_waits(1, "two"), Some(waits));
    assert_eq!(claim(2, "one", Some(need(2, &["c"]))).unwrap(), None);
    assert!(claim(3, "one", Some(need(3, &["d"]))).unwrap().is_some());
    // Its requests draw from it one after the other.
    for (attempt, name) in ["a", "b"].into_iter().enumerate() {
        let ask = bench.job_ask(1, "one", attempt as u32, &[name]);
        bench.done(engine.submit(ask).unwrap().id);
    }
    let never = claim(1, "three", Some(need(1, &["a", "b", "c"]))).unwrap_err();
    assert_eq!(never.code(), Failure::QuotaExceeded);
    // The one that waits is remembered, and gets it when there is room.
    assert!(claim(1, "two", None).unwrap().is_some());
    engine.release_job(1, "one", None).unwrap();
    wait_for("room for it", || {
        claim(1, "two", None).unwrap().is_none().then_some(())
    });
    assert_eq!(engine.job_waits(1, "two"), None);
    // What is only weighed is not claimed.
    let weighed = engine.claim_for_job(4, "x", Some(need(4, &["d"])), false);
    assert_eq!(weighed.unwrap(), None);
    assert_eq!(claim(5, "x", Some(need(5, &["d"]))).unwrap(), None);
}

#[test]
fn nothing_is_done_for_a_job_that_was_released_meanwhile() {
    let bench = Bench::new(&[Place::Elsewhere], small(), NOTHING);
    bench.write("a", &noise(100_000, 1));
    let known = bench.engine().job_generation(1, "4711").unwrap();
    assert_eq!(known, 0);
    let ask = |attempt, generation| Ask {
        job_generation: Some(generation),
        ..bench.job_ask(1, "4711", attempt, &["a"])
    };
    bench.done(bench.engine().submit(ask(0, known)).unwrap().id);
    assert_eq!(bench.job_files(1, "4711"), 1);
    let (_, dropped, next) = bench.engine().release_job(1, "4711", Some(known)).unwrap();
    assert!(dropped == 1 && next > known);
    let late = bench.engine().submit(ask(1, known)).unwrap_err();
    assert_eq!(late.code(), Failure::Cancelled);
    assert_eq!(bench.job_files(1, "4711"), 0);
    // Who does not know of a release does not release what was asked for since.
    bench.done(bench.engine().submit(ask(2, next)).unwrap().id);
    let late = bench
        .engine()
        .release_job(1, "4711", Some(known))
        .unwrap_err();
    assert_eq!(late.code(), Failure::Cancelled);
    assert_eq!(bench.job_files(1, "4711"), 1);
    // Pins are made longer, never shorter.
    let until = || bench.engine().held_by_job(1, "4711").unwrap().until;
    let before = until();
    bench
        .engine()
        .pin_job(1, "4711", Duration::from_secs(60))
        .unwrap();
    assert_eq!(until(), before);
    bench.engine().pin_job(1, "4711", 2 * DAY).unwrap();
    assert!(until() > before);
    // But of a job that is to run again, until it is staged again.
    bench.engine().lapse_job(1, "4711", DAY / 24).unwrap();
    assert!(until() < before);
}
