//! What a repack moved, and the names under which it moved.

use super::*;

/// Deletes and forgets the aggregate that a repack emptied.
fn repacked(bench: &Bench, clock: &Clock) {
    assert_eq!(acts(&collect(bench)), [Act::Repack]);
    assert_eq!(acts(&collect(bench)), [Act::Condemn]);
    clock.advance(DELAY * 2);
    assert_eq!(acts(&collect(bench)), [Act::Delete]);
}

#[test]
fn p6_a_stub_copied_after_a_repack_is_adopted_where_its_data_are() {
    let (bench, clock) = mostly_dead();
    repacked(&bench, &clock);
    let left = bench.engine().tiers()[0].tier.list(None, 9).unwrap();
    assert_eq!(left.len(), 1);
    // The stub names the aggregate that is gone, and so does its copy.
    copy_stub(&bench, "d/c", "d/copy");
    assert!(through_mount(&bench, "d/copy") == noise(BIG, 3));
    let catalog = bench.engine().catalog();
    let version = wait_for("the copy to be resident", || {
        let row = bench.node("d/copy");
        (row.state == FileState::Archived).then_some(row.version?)
    });
    let copies = catalog.copies(version.file, version.version).unwrap();
    let places: Vec<_> = copies.iter().map(|c| c.aggregate).collect();
    assert_eq!(places, left, "rows where the data are, and nowhere else");
    // Nothing but the copy needs them now.
    remove(&bench, &["d/c", "d/other name"]);
    collect_all(&bench, &clock);
    bench.done(bench.submit(Verb::Release, &["d/copy"]));
    assert_eq!(state_of(&bench, "d/copy"), FileState::Released);
    assert!(through_mount(&bench, "d/copy") == noise(BIG, 3));
}
