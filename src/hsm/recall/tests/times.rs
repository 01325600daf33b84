//! What `stat` may be taken for while a recall writes, and what is told when it comes to nothing.

use super::rig::*;
use crate::format::aggregate::BLOCK;
use crate::format::record::State;
use crate::hsm::backing::How;
use crate::hsm::recall::{Asks, RecallError, Step};
use crate::hsm::residency::{ChangelogSink, HsmResidency};
use cairn_fuse::{FileRef, Residency};
use rustix::fs::{AtFlags, Statx, StatxFlags, statx};
use std::os::fd::AsFd;
use std::sync::Arc;

fn residency(rig: &Rig) -> HsmResidency {
    HsmResidency::new(
        Arc::clone(&rig.recaller),
        Arc::clone(&rig.above) as Arc<dyn Asks>,
        Arc::new(ChangelogSink::new(8)),
        None,
    )
}

/// A file that was written a moment ago: its ctime is its mtime, and it has blocks.
fn written(rig: &Rig, name: &str) -> Statx {
    let stub = rig.dense(name, BLOCK);
    std::fs::write(&stub.path, noise(BLOCK, 3)).expect("written");
    let fd = rig.backing.open_node(&stub.node, None, How::Read);
    let fd = fd.expect("open");
    rustix::fs::fsync(&fd).expect("synced");
    stat(fd.as_fd())
}

fn stat(fd: std::os::fd::BorrowedFd<'_>) -> Statx {
    statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).expect("statx")
}

#[test]
fn p4_a_recalls_own_writes_never_show() {
    let mut rig = Rig::new();
    let new = written(&rig, "new");
    let shows = |rig: &Rig| residency(rig).shows_as_is(&new);
    assert!(shows(&rig), "nothing is at work");
    let stub = rig.dense("file", 3 * BLOCK);
    rig.tier().gate(true);
    let reading = rig.read(&stub, 0, 1);
    rig.until("the stub is marked", |rig| {
        rig.record(&stub).expect("a record").state == State::Recalling
    });
    assert!(!shows(&rig), "it might be the one");
    rig.tier().gate(false);
    reading.wait().expect("read");
    rig.until("it is over", |rig| rig.recaller.running() == 0);
    assert!(shows(&rig), "in order again");
    // Cut short in the middle: between a write of a block and its time being put back.
    let stub = rig.dense("half", 3 * BLOCK);
    *rig.recaller.shared.halt_after.lock() = Some(Step::BlockWritten);
    assert!(matches!(rig.stage(&stub), Err(RecallError::Cancelled)));
    scribble(&stub, 0);
    assert!(!shows(&rig), "it stays as it was left");
    let fd = rig.backing.open_node(&stub.node, None, How::Path);
    let fd = fd.expect("open");
    let half = stat(fd.as_fd());
    let file = FileRef {
        handle: &stub.node,
        fd: fd.as_fd(),
    };
    assert!(!residency(&rig).shows_as_is(&half));
    let shown = residency(&rig).shown(file, &half);
    assert_eq!(shown.mtime, Some((OLD.sec, OLD.nsec)));
    rig.restart();
    rig.stage(&stub).expect("whole");
    assert!(shows(&rig), "in order again");
}

#[test]
fn p4_a_recall_that_comes_to_nothing_is_told_of() {
    let rig = Rig::new();
    let stub = rig.dense("file", 3 * BLOCK);
    *rig.recaller.shared.fail_after.lock() = Some(Step::DataSynced);
    rig.stage(&stub).expect_err("it failed");
    rig.assert_released(&stub);
    assert_eq!(*rig.above.touched.lock(), std::slice::from_ref(&stub.node));
    assert!(rig.backing.times_stand());
}

#[test]
fn p5_a_cut_to_nothing_leaves_nothing_to_wait_for() {
    let rig = Rig::new();
    let stub = rig.dense("file", 3 * BLOCK);
    *rig.recaller.shared.halt_after.lock() = Some(Step::BlockWritten);
    assert!(matches!(rig.stage(&stub), Err(RecallError::Cancelled)));
    assert!(!rig.backing.times_stand());
    let file = std::fs::OpenOptions::new().write(true).open(&stub.path);
    file.expect("open").set_len(0).expect("cut");
    let fd = rig.backing.open_node(&stub.node, None, How::Path);
    let cut = rig
        .recaller
        .truncated(&stub.node, fd.expect("open").as_fd());
    cut.expect("the stub is dropped");
    assert!(rig.backing.times_stand());
}
