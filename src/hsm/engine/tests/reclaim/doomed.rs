//! The last steps before a deletion, and what is not deleted at all.

use super::*;
use crate::catalog::NotRevived;
use crate::id::AggregateId;
use cairn_mover::Crc32c;
use std::io::Write;

/// One aggregate that is condemned and has waited.
fn condemned() -> (Bench, Clock) {
    let (bench, clock) = bench();
    bench.write("a", &noise(BIG, 1));
    bench.archive(&["a"]);
    remove(&bench, &["a"]);
    scan(&bench);
    clock.advance(WINDOW + DAY);
    scan(&bench);
    assert_eq!(acts(&collect(&bench)), [Act::Condemn]);
    clock.advance(DELAY * 2);
    (bench, clock)
}

#[test]
fn p9_a_deletion_that_was_not_done_is_decided_anew() {
    let (bench, clock) = condemned();
    let catalog = bench.engine().catalog();
    let stopped = run(&bench, false, &|step| step == Some(Step::Doomed));
    assert!(matches!(stopped, Err(ReclaimError::Stopped)));
    let stone = catalog.tombstones(None, 9).unwrap()[0].id;
    let refused = catalog.revive(stone, clock.now()).unwrap();
    assert_eq!(refused, Err(NotRevived::NoCopy), "it is being deleted");
    // Not carried out later by somebody who did not look.
    assert_eq!(acts(&collect(&bench)), [Act::Spare, Act::Condemn]);
    assert_eq!(bench.objects(0), 1);
    // From now on it can be undeleted, and is not deleted then.
    assert!(catalog.revive(stone, clock.now()).unwrap().is_ok());
    clock.advance(DELAY * 2);
    assert_eq!((acts(&collect(&bench)), bench.objects(0)), (vec![], 1));
}

#[test]
fn p9_without_this_epochs_mark_nothing_is_deleted() {
    let (bench, _clock) = condemned();
    let attribute = "trusted.cairn.mark";
    let mut mark = vec![0; 4096];
    let len = rustix::fs::getxattr(&bench.root, attribute, &mut mark[..]).unwrap();
    rustix::fs::removexattr(&bench.root, attribute).unwrap();
    let ended = run(&bench, false, &|_| false);
    assert!(matches!(ended, Err(ReclaimError::Superseded)), "{ended:?}");
    assert_eq!(bench.objects(0), 1);
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&bench.root, attribute, &mark[..len], flags).unwrap();
    let acts = acts(&collect(&bench));
    assert_eq!(acts, [Act::Spare, Act::Condemn]);
}

/// Its name went while somebody had it open, an event had made its row dirty, and no scan came between
/// its end and the collector.
#[test]
fn p8_a_row_in_any_state_holds_until_the_end_of_its_inode_was_noted() {
    let (bench, clock) = bench();
    bench.write("a", &noise(BIG, 1));
    bench.archive(&["a"]);
    let open = std::fs::File::open(bench.root.join("a")).unwrap();
    let (catalog, node) = (bench.engine().catalog(), bench.node("a").id);
    let durable = crate::catalog::Durability::Full;
    let why = crate::catalog::TombstoneWhy::Overwrite;
    catalog.dirtied(node, why, clock.now(), durable).unwrap();
    remove(&bench, &["a"]);
    clock.advance(WINDOW + DAY);
    scan(&bench);
    let held = collect(&bench);
    assert!(held.holds.contains_key(&Hold::InodeNamesIt), "{held:?}");
    drop(open);
    rustix::fs::sync();
    let held = collect(&bench);
    assert_eq!(acts(&held), []);
    assert!(held.holds.contains_key(&Hold::NamedByFile), "{held:?}");
    // The scan notes its end, and from then on the window counts.
    scan(&bench);
    let held = collect(&bench);
    assert!(held.holds.contains_key(&Hold::Young), "{held:?}");
    assert!(collect_all(&bench, &clock).contains(&Act::Delete));
}

#[test]
fn what_is_named_as_a_snapshot_is_no_aggregate_that_nobody_knows() {
    let (bench, clock) = bench();
    let id = AggregateId {
        epoch: 0,
        seq: AggregateId::NAMESPACE + 1,
    };
    let tier = bench.engine().tiers()[0].tier.clone();
    let mut put = tier.put(id, 7).unwrap();
    put.write_all(b"listing").unwrap();
    put.finish(Crc32c::of(b"listing")).unwrap();
    let report = collect(&bench);
    // It is none, and that is said.
    assert_eq!((acts(&report), report.strange[0].0), (vec![], id));
    assert_eq!((collect_all(&bench, &clock), bench.objects(0)), (vec![], 1));
}
