//! Of several copies the nearest is read.

use super::rig::{Rig, Stub, Watched, dense};
use crate::format::aggregate::BLOCK;
use crate::id::TierId;
use std::sync::Arc;
use std::time::Duration;

const BOTH: [TierId; 2] = [TierId(1), TierId(2)];

fn rig() -> (Rig, Arc<Watched>, Arc<Watched>) {
    let rig = Rig::new();
    let second = rig.add_tier(BOTH[1]);
    let first = rig.tier();
    (rig, first, second)
}

fn stub(rig: &Rig, name: &str) -> Stub {
    rig.released(name, 4 * BLOCK, &dense(4 * BLOCK), &BOTH)
}

fn read(rig: &Rig, stub: &Stub) {
    rig.stage(stub).expect("staged");
    rig.assert_whole(stub);
}

#[test]
fn a_copy_that_takes_hours_is_left_where_another_is_at_hand() {
    let (rig, first, second) = rig();
    let (one, two) = (stub(&rig, "one"), stub(&rig, "two"));
    *first.far.lock() = Duration::from_secs(5 * 3600);
    read(&rig, &one);
    assert_eq!((first.bytes_read(), second.bytes_read()), (0, 4 * BLOCK));
    // As near as the other: the order of the stub.
    *first.far.lock() = Duration::ZERO;
    read(&rig, &two);
    assert_eq!(
        (first.bytes_read(), second.bytes_read()),
        (4 * BLOCK, 4 * BLOCK)
    );
}

#[test]
fn a_tier_that_did_not_answer_is_not_asked_again_at_once() {
    let (rig, first, second) = rig();
    let (one, two) = (stub(&rig, "one"), stub(&rig, "two"));
    first.control().set_unavailable(true);
    read(&rig, &one);
    assert_eq!((first.bytes_read(), second.bytes_read()), (0, 4 * BLOCK));
    first.control().set_unavailable(false);
    read(&rig, &two);
    assert_eq!((first.bytes_read(), second.bytes_read()), (0, 8 * BLOCK));
    assert!(rig.above.failed.lock().is_empty(), "no copy is bad");
}

#[test]
fn a_copy_that_is_far_is_read_where_the_near_one_is_bad() {
    let (rig, first, second) = rig();
    let one = stub(&rig, "one");
    *first.far.lock() = Duration::from_secs(5 * 3600);
    let near = one.record.copies[1];
    second
        .control()
        .flip(near.aggregate, (one.entry_data + 2 * BLOCK) * 8);
    read(&rig, &one);
    assert_eq!(first.bytes_read(), BLOCK);
    let failed: Vec<_> = rig.above.failed.lock().iter().map(|(c, _)| *c).collect();
    assert_eq!(failed, [near]);
}
