//! A recall that fails leaves a released file that holds no room, and the next one starts over.

use super::rig::*;
use crate::format::aggregate::BLOCK;
use crate::format::record::State;
use crate::hsm::recall::{RecallError, Settings, Step};
use cairn_fuse::Errno;
use std::sync::atomic::Ordering;

#[test]
fn p4_a_failure_after_any_step_gives_the_room_back() {
    use Step::*;
    let steps = [
        Marked,
        MarkSynced,
        Allocated,
        BlockWritten,
        DataSynced,
        TimesSet,
        TimesSynced,
        RecordSet,
        RecordSynced,
    ];
    for step in steps {
        let rig = Rig::new();
        let stub = rig.dense("file", 3 * BLOCK + 5);
        *rig.recaller.shared.fail_after.lock() = Some(step);
        let failed = rig.stage(&stub);
        assert!(
            matches!(failed, Err(RecallError::Io { .. })),
            "{step:?}: {failed:?}"
        );
        rig.until("it is over", |rig| rig.recaller.running() == 0);
        if matches!(step, RecordSet | RecordSynced) {
            rig.assert_whole(&stub);
        } else {
            rig.assert_released(&stub);
        }
        assert_eq!(rig.stat(&stub).mtime, OLD, "{step:?}");
        *rig.recaller.shared.fail_after.lock() = None;
        rig.stage(&stub).expect("the next one starts over");
        rig.assert_whole(&stub);
    }
}

#[test]
fn p4_a_tier_that_fails_half_way_leaves_no_room_taken() {
    let rig = Rig::with(Settings {
        in_flight: 1,
        ..Settings::default()
    });
    let stub = rig.dense("file", 12 * BLOCK);
    let tier = rig.tier();
    // The index is known, so that it is not asked for: it lies behind.
    let copy = stub.record.copies[0];
    let indexes = rig.recaller.indexes();
    indexes
        .load(&*tier, copy.tier, copy.aggregate)
        .expect("loaded");
    let away = stub.entry_data + 6 * BLOCK;
    tier.away_from.store(away, Ordering::Relaxed);
    let head = rig.read(&stub, 0, 100).wait().expect("the head");
    assert!(head == stub.content[..100]);
    rig.until("it is over", |rig| rig.recaller.running() == 0);
    assert!(tier.bytes_read() > 6 * BLOCK, "it was half-way");
    rig.assert_released(&stub);
    // Who waits for what does not come is told so.
    let error = rig.read(&stub, 11 * BLOCK, 100).wait();
    assert_eq!(error, Err(Errno(libc::EHOSTDOWN)));
    rig.until("it is over", |rig| rig.recaller.running() == 0);
    rig.assert_released(&stub);
    tier.away_from.store(u64::MAX, Ordering::Relaxed);
    tier.control().set_unavailable(false);
    rig.stage(&stub).expect("staged");
    rig.assert_whole(&stub);
}

#[test]
fn a_stop_gives_back_what_is_half_way() {
    let mut rig = Rig::new();
    let stub = rig.dense("file", 6 * BLOCK);
    let bad = stub.entry_data + 2 * BLOCK + 17;
    let copy = stub.record.copies[0].aggregate;
    rig.tier().control().flip(copy, bad * 8);
    let eio = Err(Errno(libc::EIO));
    assert_eq!(rig.read(&stub, 2 * BLOCK, 10).wait(), eio);
    // Its good blocks are on disk, for readers who may come.
    assert_eq!(rig.record(&stub).expect("a stub").state, State::Recalling);
    assert!(rig.recaller.halt(PATIENCE), "nothing runs");
    rig.assert_released(&stub);
    rig.restart();
    let got = rig.read(&stub, 0, 10).wait().expect("a good block");
    assert!(got == stub.content[..10]);
}

/// What is kept of a failure is shown later, when the file may have another name.
#[test]
fn a_reason_names_no_path() {
    let rig = Rig::new();
    let stub = rig.dense("a-name-of-before", 2 * BLOCK);
    let mut said = Vec::new();
    rig.tier().control().set_unavailable(true);
    said.push(rig.stage(&stub));
    rig.tier().control().set_unavailable(false);
    *rig.recaller.shared.fail_after.lock() = Some(Step::DataSynced);
    said.push(rig.stage(&stub));
    *rig.recaller.shared.fail_after.lock() = None;
    scribble(&stub, BLOCK);
    said.push(rig.stage(&stub));
    for why in said {
        let why = why.expect_err("it fails").to_string();
        assert!(!why.contains("a-name-of-before"), "{why}");
        let root = rig.backing.root();
        let root = crate::hsm::backing::describe(root);
        assert!(!why.contains(&root), "{why}");
    }
}
