//! P4: a crash after any step leaves a file that is released or resident, and starting again
//! works. P5: a truncation meanwhile.

use super::rig::*;
use crate::format::aggregate::BLOCK;
use crate::format::record::State;
use crate::hsm::backing::How;
use crate::hsm::recall::{RecallError, Step, quota};
use std::os::fd::AsFd;

#[test]
fn p4_a_crash_after_any_step_does_no_harm() {
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
        let mut rig = Rig::new();
        let stub = rig.dense("file", 3 * BLOCK + 5);
        *rig.recaller.shared.halt_after.lock() = Some(step);
        let halted = rig.stage(&stub);
        assert!(
            matches!(halted, Err(RecallError::Cancelled)),
            "{step:?}: {halted:?}"
        );
        let state = rig.record(&stub).expect("the record is never gone").state;
        let resident = matches!(step, RecordSet | RecordSynced);
        let expected = if resident {
            State::Resident
        } else {
            State::Recalling
        };
        assert_eq!(state, expected, "{step:?}");
        rig.restart();
        let done = rig.stage(&stub).expect("a second recall starts over");
        assert_eq!(done.is_none(), resident, "{step:?}");
        rig.assert_whole(&stub);
    }
}

/// The owner's quota counts the blocks of a recall that was cut short: not twice.
#[test]
fn p4_what_an_interrupted_recall_took_is_not_charged_again() {
    let rig = Rig::new();
    let stub = rig.dense("file", 3 * BLOCK);
    let to_charge = |rig: &Rig| {
        let record = rig.record(&stub).expect("a record");
        quota::still_to_charge(&record, &rig.stat(&stub), 3 * BLOCK)
    };
    assert_eq!(to_charge(&rig), 3 * BLOCK);
    *rig.recaller.shared.halt_after.lock() = Some(Step::Allocated);
    assert!(matches!(rig.stage(&stub), Err(RecallError::Cancelled)));
    assert!(rig.stat(&stub).blocks * 512 >= 3 * BLOCK, "room was made");
    assert_eq!(to_charge(&rig), 0);
}

#[test]
fn p5_a_truncation_during_a_recall_stops_it() {
    let rig = Rig::new();
    let stub = rig.dense("file", 12 * BLOCK);
    let tier = rig.tier();
    tier.gate(true);
    let reading = rig.read(&stub, 5 * BLOCK, 100);
    rig.until("it runs", |_| !tier.reads.lock().is_empty());
    let path = rig
        .backing
        .open_node(&stub.node, None, How::Path)
        .expect("open");
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&stub.path)
        .expect("open");
    file.set_len(0).expect("truncated");
    rig.recaller
        .truncated(&stub.node, path.as_fd())
        .expect("the stub is dropped");
    tier.gate(false);
    assert_eq!(reading.wait(), Ok(Vec::new()), "the end of the file");
    rig.until("nothing runs", |rig| rig.recaller.running() == 0);
    assert_eq!(rig.record(&stub), None);
    assert_eq!(std::fs::metadata(&stub.path).expect("stat").len(), 0);
}

#[test]
fn p5_no_byte_lands_in_a_file_whose_truncation_was_announced() {
    let rig = Rig::new();
    let stub = rig.dense("file", 12 * BLOCK);
    let tier = rig.tier();
    tier.gate(true);
    let before = rig.read(&stub, 0, 100);
    rig.until("it runs", |_| !tier.reads.lock().is_empty());
    let (tell, told) = crossbeam_channel::bounded(1);
    rig.recaller.hold(
        &stub.node,
        Box::new(move |how| tell.send(how).expect("told")),
    );
    told.recv_timeout(PATIENCE)
        .expect("answered")
        .expect("held");
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&stub.path)
        .expect("open");
    file.set_len(0).expect("truncated");
    // From here on anything that lands would show.
    tier.gate(false);
    let during = rig.read(&stub, BLOCK, 100);
    assert!(!during.is_answered() && !before.is_answered());
    assert_eq!(file.metadata().expect("stat").len(), 0);
    let path = rig
        .backing
        .open_node(&stub.node, None, How::Path)
        .expect("open");
    rig.recaller
        .truncated(&stub.node, path.as_fd())
        .expect("the stub is dropped");
    assert_eq!(
        (before.wait(), during.wait()),
        (Ok(Vec::new()), Ok(Vec::new()))
    );
    assert_eq!(file.metadata().expect("stat").len(), 0);
}

#[test]
fn p5_a_hold_that_is_given_up_lets_the_recall_begin_again() {
    let rig = Rig::new();
    let stub = rig.dense("file", 2 * BLOCK);
    let (tell, told) = crossbeam_channel::bounded(1);
    let token = rig.recaller.hold(
        &stub.node,
        Box::new(move |how| tell.send(how).expect("told")),
    );
    told.recv_timeout(PATIENCE)
        .expect("answered")
        .expect("held");
    let reading = rig.read(&stub, 0, 100);
    assert_eq!(rig.tier().bytes_read(), 0);
    rig.recaller.give_up(token);
    assert!(reading.wait().expect("bytes") == stub.content[..100]);
}

#[test]
fn p5_a_truncation_that_a_crash_cut_short_is_finished() {
    let rig = Rig::new();
    let stub = rig.dense("file", 2 * BLOCK);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&stub.path)
        .expect("open");
    file.set_len(0).expect("truncated");
    assert_eq!(rig.read(&stub, 0, 100).wait(), Ok(Vec::new()));
    assert_eq!(rig.record(&stub), None);
}
