//! What batch jobs hold is bounded, and is theirs until they are released.

use super::*;
use crate::config::Percent;
use crate::error::Failure;
use crate::hsm::engine::Admission;
use crate::hsm::rig::{Image, noise};

const MIB: u64 = 1 << 20;
const DAY: Duration = Duration::from_secs(86_400);

impl Bench {
    fn job_ask(&self, uid: u32, job: &str, attempt: u32, names: &[&str]) -> Ask {
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
        let forecast = bench
            .engine()
            .forecast(&bench.job_ask(uid, job, attempt, names));
        let forecast = forecast.unwrap();
        let Some(Admission::Refused(_, why)) = forecast.admission else {
            panic!("{forecast:?}");
        };
        assert_eq!(forecast.waits.is_some(), code == "over-budget", "{why}");
        let said = failures(&stage(uid, job, attempt, names));
        assert!(
            said[0].starts_with(code) && said[0].contains(words),
            "{said:?}"
        );
        assert_eq!(said[0], format!("{code}: {why}"));
    };
    assert_eq!(stage(1, "one", 0, &["a"]).row.state, RequestState::Done);
    assert_eq!(
        stage(1, "two", 0, &["a", "b"]).row.state,
        RequestState::Done
    );
    // The same files once more cost nothing; a third one is too much for this user.
    assert_eq!(
        stage(1, "three", 0, &["a", "b"]).row.state,
        RequestState::Done
    );
    fails(1, "three", 1, &["c"], "over-budget", "your jobs keep");
    fails(
        1,
        "three",
        2,
        &["a", "b", "c", "d"],
        "over-budget",
        "your jobs keep",
    );
    // Another user shares two and adds one, which is all that there is room for.
    assert_eq!(
        stage(2, "one", 0, &["b", "c"]).row.state,
        RequestState::Done
    );
    fails(3, "one", 0, &["d"], "over-budget", "all jobs keep");
    fails(
        4,
        "one",
        0,
        &["a", "b", "c"],
        "quota-exceeded",
        "job-pins-per-user",
    );
    // A job's end makes room if nobody else holds what it held.
    bench.engine().release_job(2, "one", None).unwrap();
    std::thread::sleep(Duration::from_millis(2100));
    assert_eq!(stage(3, "one", 1, &["d"]).row.state, RequestState::Done);
    assert_eq!(
        (bench.job_files(1, "two"), bench.job_files(3, "one")),
        (2, 1)
    );
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
}
