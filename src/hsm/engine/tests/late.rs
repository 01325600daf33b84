//! News of a write that comes behind the archive which took the write in.

use super::overwritten::{BIG, bench};
use super::*;
use crate::catalog::{Durability, TombstoneWhy};
use crate::hsm::engine::changelog;
use crate::hsm::residency::Told;
use crate::hsm::rig::noise;
use cairn_fuse::{Event, EventKind};
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

fn news(bench: &Bench, kind: EventKind, at: Instant) -> Told {
    let event = Event {
        kind,
        node: bench.handle("f"),
        place: (kind == EventKind::Unlinked).then(|| (bench.handle(""), b"f".to_vec())),
        from: None,
    };
    Told { at, event }
}

/// Written, told of at the moment that is given, and archived before anybody applies that. Then its
/// status changes, and with it the ctime.
fn archived_before_its_news(bench: &Bench) -> Instant {
    bench.write("f", &noise(BIG, 1));
    let told = Instant::now();
    bench.archive(&["f"]);
    let mode = std::fs::Permissions::from_mode(0o640);
    std::fs::set_permissions(bench.root.join("f"), mode).unwrap();
    told
}

fn apply(bench: &Bench, told: &[Told]) {
    let shared = &bench.engine().shared;
    changelog::apply(shared, told).unwrap();
    shared.catalog.settle(Durability::Relaxed).unwrap();
}

#[test]
fn p1_late_news_of_what_was_archived_makes_nothing_dirty() {
    let bench = bench();
    // The engine's own thread waits for its turn.
    let _turn = bench.engine().shared.drain.lock();
    let told = archived_before_its_news(&bench);
    apply(&bench, &[news(&bench, EventKind::Written, told)]);
    assert_eq!(state_of(&bench, "f"), FileState::Archived);
    // The same, told after: its owner may have written again.
    apply(&bench, &[news(&bench, EventKind::Written, Instant::now())]);
    assert_eq!(state_of(&bench, "f"), FileState::Dirty);
}

/// Two threads told of writes, and the later news is ahead in the queue.
#[test]
fn p1_the_latest_news_of_a_batch_decides() {
    let bench = bench();
    let _turn = bench.engine().shared.drain.lock();
    let told = archived_before_its_news(&bench);
    let of = |at| news(&bench, EventKind::Written, at);
    apply(&bench, &[of(Instant::now()), of(told)]);
    assert_eq!(state_of(&bench, "f"), FileState::Dirty);
}

#[test]
fn p8_a_file_that_goes_with_late_news_was_deleted_not_overwritten() {
    let bench = bench();
    let _turn = bench.engine().shared.drain.lock();
    let told = archived_before_its_news(&bench);
    let written = news(&bench, EventKind::Written, told);
    let gone = news(&bench, EventKind::Unlinked, Instant::now());
    std::fs::remove_file(bench.root.join("f")).unwrap();
    apply(&bench, &[written, gone]);
    let stones = bench.engine().catalog().tombstones(None, 10).unwrap();
    let why: Vec<_> = stones.iter().map(|stone| stone.why).collect();
    assert_eq!(why, [TombstoneWhy::Unlink]);
}
