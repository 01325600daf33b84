//! Namespace snapshots.

use super::*;

pub(super) fn snapshot(seq: u64, base: Option<u64>) -> NamespaceSnapshot {
    let id = |seq| AggregateId { epoch: 1, seq }.snapshot();
    NamespaceSnapshot {
        tier: TIER,
        id: id(seq),
        base: base.map(id),
        depth: u32::from(base.is_some()),
        begun_at: at(seq as i64),
        ended_at: at(seq as i64 + 1),
        took_ms: 5,
        len: 100,
        crc: Crc32c(7),
        proof: ProofKind::ReadBack,
        directories: 1,
        entries: 2,
        changelog: 3,
        newest: AggregateId { epoch: 1, seq: 1 },
        superseded_at: None,
    }
}

#[test]
fn a_full_snapshot_supersedes_the_chain_before_it_and_nothing_else() {
    let rig = Rig::new();
    for (seq, base) in [(1, None), (2, Some(1)), (3, Some(2))] {
        rig.note_snapshot(snapshot(seq, base)).unwrap();
    }
    assert_eq!(rig.newest_snapshot(TIER).unwrap().unwrap().id.seq & 0xff, 3);
    assert_eq!(rig.superseded_snapshots(at(99), 9).unwrap(), []);
    rig.note_snapshot(snapshot(4, None)).unwrap();
    rig.note_snapshot(snapshot(5, Some(4))).unwrap();
    let superseded = rig.superseded_snapshots(at(99), 9).unwrap();
    let numbers: Vec<_> = superseded.iter().map(|s| s.id.seq & 0xff).collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert_eq!(superseded[0].superseded_at, Some(at(5)));
    assert_eq!(rig.superseded_snapshots(at(5), 9).unwrap(), []);
    assert_eq!(rig.full_snapshot(TIER).unwrap(), Some(snapshot(4, None)));
    // What stands on a snapshot that is gone is of no use.
    rig.forget_snapshot(TIER, snapshot(4, None).id).unwrap();
    assert_eq!(rig.newest_snapshot(TIER).unwrap().unwrap().id.seq & 0xff, 3);
}
