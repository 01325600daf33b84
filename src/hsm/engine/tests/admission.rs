//! A stage is admitted, or not, as a whole.

use super::*;
use crate::hsm::engine::Admission;
use crate::hsm::rig::{Image, noise};

const MIB: u64 = 1 << 20;

/// Room on a filesystem, bytes.
fn free(at: &Path) -> u64 {
    let stat = rustix::fs::statvfs(at).unwrap();
    stat.f_bavail * stat.f_frsize
}

#[test]
fn p4_a_stage_that_does_not_fit_is_refused_with_the_numbers_before_a_byte_moves() {
    let Some(image) = Image::ext4("admission") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let root = image.path().join("backing");
    std::fs::create_dir(&root).unwrap();
    let settings = Settings {
        reserve: MIB,
        ..small()
    };
    let places = [Place::Elsewhere];
    let bench = Bench::on(dir, root, &places, settings, NOTHING);
    let names = ["d/a", "d/b", "d/c"];
    for (n, name) in names.iter().enumerate() {
        bench.write(name, &noise(8 * MIB as usize, n as u64));
    }
    bench.archive(&["d"]);
    bench.done(bench.submit(Verb::Release, &["d"]));
    // Room for two of the three.
    let filler = std::fs::File::create(image.path().join("filler")).unwrap();
    let take = free(image.path()) - 18 * MIB;
    rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, take).unwrap();
    filler.sync_all().unwrap();
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
    for name in names {
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
    for (n, name) in names.iter().enumerate() {
        let back = std::fs::read(bench.root.join(name)).unwrap();
        assert_eq!(back, noise(8 * MIB as usize, n as u64), "{name}");
    }
}
