//! A stage is admitted, or not, as a whole.

use super::*;
use crate::error::Failure;
use crate::hsm::engine::Admission;
use crate::hsm::rig::{Image, noise};

const MIB: u64 = 1 << 20;

/// Room on a filesystem, bytes.
fn free(at: &Path) -> u64 {
    let stat = rustix::fs::statvfs(at).unwrap();
    stat.f_bavail * stat.f_frsize
}

const NAMES: [&str; 3] = ["d/a", "d/b", "d/c"];

/// Three files of 8 MiB that are on the tier alone, and so much room; what takes the rest of it.
fn three_released(image: &Image, policy: &str, room: u64) -> (Bench, std::fs::File) {
    let dir = tempfile::tempdir().unwrap();
    let root = image.path().join("backing");
    std::fs::create_dir(&root).unwrap();
    let settings = Settings {
        reserve: MIB,
        ..small()
    };
    let bench = Bench::on(dir, root, &[Place::Elsewhere], settings, policy);
    for (n, name) in NAMES.iter().enumerate() {
        bench.write(name, &noise(8 * MIB as usize, n as u64));
    }
    bench.archive(&["d"]);
    bench.done(bench.submit(Verb::Release, &["d"]));
    let filler = std::fs::File::create(image.path().join("filler")).unwrap();
    let take = free(image.path()) - room;
    rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, take).unwrap();
    filler.sync_all().unwrap();
    (bench, filler)
}

#[test]
fn p4_a_stage_that_does_not_fit_is_refused_with_the_numbers_before_a_byte_moves() {
    let Some(image) = Image::ext4("admission") else {
        return;
    };
    // Room for two of the three.
    let (bench, filler) = three_released(&image, NOTHING, 18 * MIB);
    let asked = || bench.ask(Verb::Stage, vec![bench.named("d")]);
    let forecast = bench.engine().forecast(&asked()).unwrap();
    assert_eq!((forecast.files, forecast.bytes), (3, 24 * MIB));
    let Some(Admission::Refused(_, why)) = forecast.admission else {
        panic!("{forecast:?}");
    };
    assert!(why.contains("25165824 bytes are needed"), "{why}");
    assert!(forecast.room.unwrap() < 18 * MIB);
    let report = bench.ended(bench.submit(Verb::Stage, &["d"]));
    assert_eq!(report.row.state, RequestState::Failed);
    let said = failures(&report);
    assert_eq!(said.len(), 1);
    assert!(said[0].starts_with("no-space: 25165824 bytes"), "{said:?}");
    for name in NAMES {
        assert_eq!(state_of(&bench, name), FileState::Released);
    }
    // Two of them fit, and with room all of them do.
    bench.done(bench.submit(Verb::Stage, &["d/a", "d/b"]));
    drop(filler);
    std::fs::remove_file(image.path().join("filler")).unwrap();
    let forecast = bench.engine().forecast(&asked()).unwrap();
    assert_eq!(
        (forecast.files, forecast.admission),
        (1, Some(Admission::Fits))
    );
    assert!(forecast.eta_s.is_some(), "two were staged before");
    bench.done(bench.submit(Verb::Stage, &["d"]));
    for (n, name) in NAMES.iter().enumerate() {
        let back = std::fs::read(bench.root.join(name)).unwrap();
        assert_eq!(back, noise(8 * MIB as usize, n as u64), "{name}");
    }
}

/// Nothing is old enough for it.
const RELEASES: &str = "rule archive none
  never

rule release late
  when not accessed for 3650 d
  above 98 % down to 97 %
";

#[test]
fn a_job_waits_for_disk_that_other_jobs_keep_and_nobody_else_does() {
    let Some(image) = Image::ext4("admission-jobs") else {
        return;
    };
    let (bench, _filler) = three_released(&image, RELEASES, 20 * MIB);
    let engine = bench.engine();
    // Whatever is named several times comes back once.
    let twice = bench.job_ask(0, "one", 0, &["d/a", "d", "d/b", "d/a"]);
    let twice = engine.forecast(&twice).unwrap();
    assert_eq!((twice.files, twice.bytes), (3, 24 * MIB));
    assert_eq!((twice.pins.total, twice.need.bytes), (24 * MIB, 24 * MIB));
    let first = engine.submit(bench.job_ask(0, "one", 0, &["d/a", "d/b"]));
    bench.done(first.unwrap().id);

    let said = |ask: &Ask| {
        let forecast = engine.forecast(ask).unwrap();
        match forecast.admission {
            Some(Admission::Refused(code, why)) => Some((code, why)),
            _ => None,
        }
    };
    let later = bench.job_ask(0, "two", 0, &["d/c"]);
    // All pins are counted every few seconds.
    let why = wait_for("the pins to be seen", || {
        let (code, why) = said(&later)?;
        (code == Failure::OverBudget).then_some(why)
    });
    assert!(
        why.contains("0 could be released, and jobs keep 1677"),
        "{why}"
    );
    let nobody = bench.ask(Verb::Stage, vec![bench.named("d/c")]);
    assert_eq!(said(&nobody).map(|(code, _)| code), Some(Failure::NoSpace));
    engine.release_job(0, "one", None).unwrap();
    wait_for("room for it", || {
        let admission = engine.forecast(&later).unwrap().admission;
        matches!(admission, Some(Admission::InParts(_))).then_some(())
    });
}
