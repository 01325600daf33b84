//! What must come to an end whatever else happens: requests, waits, a start on a full disk.

use super::*;
use crate::hsm::emergency::{Emergency, Verdict};
use crate::hsm::engine::room::{heed, is_releasing};
use crate::hsm::rig::Image;
use std::io::Write;

#[test]
fn a_request_of_policy_that_could_not_be_filled_is_not_left_open() {
    let policy = "rule archive all\n  manual\n";
    let bench = Bench::new(&[Place::Elsewhere], small(), policy);
    bench.write("f", &[7; 5000]);
    bench.archive(&["f"]);
    bench.write("f", &[8; 5000]);
    let catalog = bench.engine().catalog();
    let now = crate::hsm::engine::now();
    let node = bench.node("f");
    let (why, full) = (
        crate::catalog::TombstoneWhy::Overwrite,
        crate::catalog::Durability::Full,
    );
    catalog.dirtied(node.id, why, now, full).unwrap();
    let beside = rusqlite::Connection::open(bench._state.catalog()).unwrap();
    beside.busy_timeout(Duration::from_secs(60)).unwrap();
    beside
        .execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON actions
             BEGIN SELECT RAISE(ABORT, 'no room'); END",
        )
        .unwrap();
    let ran = bench.engine().run_policy(&RunAsk::Now(None), false);
    assert!(ran.is_err(), "{ran:?}");
    let open = catalog.unsealed().unwrap();
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn nobody_waits_for_room_that_nobody_sees() {
    let settings = Settings {
        emergency_wait: Duration::from_secs(3600),
        ..small()
    };
    let bench = Bench::new(&[], settings, NOTHING);
    bench.engine().stop(true).unwrap();
    let shared = &bench.engine().shared;
    let now = Instant::now();
    shared.room.tell(Verdict::Hold, now);
    assert!(!shared.room.is_open());
    let mut emergency = Emergency::new(shared.settings.emergency_mark);
    let failed = Err(rustix::io::Errno::IO);
    heed(shared, &mut emergency, failed, false, now);
    assert!(shared.room.is_open());
}

#[test]
fn p13_nobody_waits_for_room_that_removals_do_not_make() {
    let bench = Bench::new(&[Place::Elsewhere], small(), NOTHING);
    bench.write("f", &[7; 100_000]);
    bench.archive(&["f"]);
    let shared = &bench.engine().shared;
    // A check of the archive's ctime may have it for a moment.
    let node = bench.handle("f");
    let claim = wait_for("it to be nobody's", || shared.lanes.claim(&node));
    let wait = |verb, tier: Option<&str>| {
        let mut ask = bench.ask(verb, vec![bench.named("f")]);
        ask.tier = tier.map(str::to_owned);
        let id = bench.engine().submit(ask).unwrap().id;
        wait_for("it to be tried in vain", || {
            let report = bench.engine().request(id, 10).unwrap();
            (report.row.counts.waiting.files > 0).then_some(id)
        })
    };
    let removal = wait(Verb::Remove, Some("t0"));
    assert!(!is_releasing(shared), "a removal passes for a release");
    wait(Verb::Release, None);
    assert!(is_releasing(shared));
    drop(claim);
    assert_eq!(bench.ended(removal).row.state, RequestState::Failed);
}

#[test]
fn p13_it_starts_on_a_full_disk_by_its_ballast() {
    let Some(image) = Image::ext4("p13_it_starts_on_a_full_disk_by_its_ballast") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let backing = dir.path().join("backing");
    std::fs::create_dir(&backing).unwrap();
    std::fs::set_permissions(&backing, std::fs::Permissions::from_mode(0o700)).unwrap();
    let opening = Opening {
        outside: backing.clone(),
        backing,
        state: image.path().join("state"),
        force: false,
        ballast: 8 << 20,
    };
    drop(claim(&opening).unwrap());
    assert!(opening.state.join("ballast").exists());
    let mut filler = std::fs::File::create(image.path().join("filler")).unwrap();
    for block in [vec![1; 1 << 20], vec![1; 4096], vec![1; 1]] {
        while filler.write_all(&block).is_ok() {}
    }
    drop(claim(&opening).unwrap());
    assert!(!opening.state.join("ballast").exists());
}
