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
        gaps: Some(0),
    }
}

/// As another catalog learns of it.
pub(super) fn found(s: &NamespaceSnapshot) -> FoundSnapshot {
    FoundSnapshot {
        id: s.id,
        base: s.base,
        depth: s.depth,
        begun_at: s.begun_at,
        len: s.len,
    }
}

fn numbers(rig: &Rig, superseded: bool) -> Vec<u64> {
    let all = rig.snapshots(TIER, None, 99).unwrap();
    let of = all
        .iter()
        .filter(|s| s.superseded_at.is_some() == superseded);
    of.map(|s| s.id.seq & 0xff).collect()
}

#[test]
fn a_full_snapshot_supersedes_the_chain_before_it_and_nothing_else() {
    let rig = Rig::new();
    for (seq, base) in [(1, None), (2, Some(1)), (3, Some(2))] {
        rig.note_snapshot(snapshot(seq, base)).unwrap();
    }
    assert_eq!(rig.newest_snapshot(TIER).unwrap().unwrap().id.seq & 0xff, 3);
    assert!(numbers(&rig, true).is_empty());
    rig.note_snapshot(snapshot(4, None)).unwrap();
    rig.note_snapshot(snapshot(5, Some(4))).unwrap();
    assert_eq!(numbers(&rig, true), [1, 2, 3]);
    let first = rig.snapshots(TIER, None, 1).unwrap()[0];
    assert_eq!(first.superseded_at, Some(at(5)));
    assert_eq!(rig.full_snapshot(TIER).unwrap(), Some(snapshot(4, None)));
    // What stands on a snapshot that is gone is of no use.
    rig.forget_snapshot(TIER, snapshot(4, None).id).unwrap();
    assert_eq!(rig.newest_snapshot(TIER).unwrap().unwrap().id.seq & 0xff, 3);
    rig.note_snapshot(snapshot(6, Some(5))).unwrap();
    assert_eq!(rig.newest_snapshot(TIER).unwrap().unwrap().id.seq & 0xff, 3);
}

#[test]
fn a_clock_that_is_behind_shortens_no_window_of_a_snapshot() {
    let rig = Rig::new();
    rig.note_snapshot(snapshot(50, None)).unwrap();
    let behind = NamespaceSnapshot {
        begun_at: at(1),
        ended_at: at(2),
        ..snapshot(60, None)
    };
    rig.note_snapshot(behind).unwrap();
    let rows = rig.snapshots(TIER, None, 9).unwrap();
    assert_eq!(rows[0].superseded_at, Some(at(51)));
    assert_eq!(rows[1].ended_at, at(51));
    rig.learn_snapshot(TIER, found(&snapshot(40, None)), at(3))
        .unwrap();
    let rows = rig.snapshots(TIER, None, 1).unwrap();
    assert_eq!(rows[0].superseded_at, Some(at(51)));
}

#[test]
fn p8_a_snapshot_goes_only_for_one_that_has_no_more_gaps_than_its_full_one() {
    let rig = Rig::new();
    let all = [
        (1, None, Some(1)),
        (2, Some(1), Some(0)),
        (3, None, None),
        (4, None, Some(0)),
        (5, None, Some(2)),
        (6, None, Some(1)),
        (7, None, None),
    ];
    for (seq, base, gaps) in all {
        let row = NamespaceSnapshot {
            gaps,
            ..snapshot(seq, base)
        };
        rig.note_snapshot(row).unwrap();
    }
    let bound = Bound {
        before: at(90),
        now: at(100),
    };
    let id = |seq| snapshot(seq, None).id;
    let condemn = |seq, by| {
        let decided = rig.condemn_snapshot(TIER, id(seq), id(by), bound).unwrap();
        if decided.is_ok() {
            rig.spare_snapshot(TIER, id(seq)).unwrap();
        }
        decided.err()
    };
    let poorer = Some(SnapshotHold::Poorer);
    // An incremental one counts as its full one does.
    assert_eq!((condemn(2, 5), condemn(2, 6)), (poorer, None));
    assert_eq!((condemn(4, 5), condemn(4, 6)), (poorer, poorer));
    // Unknown on either side, but none is never more.
    assert_eq!((condemn(3, 6), condemn(3, 4)), (poorer, None));
    assert_eq!(condemn(5, 7), poorer);
    rig.note_snapshot_gaps(TIER, id(7), 2).unwrap();
    rig.note_snapshot_gaps(TIER, id(3), 1).unwrap();
    assert_eq!((condemn(5, 7), condemn(3, 6)), (None, None));
    // And once more before it goes.
    rig.condemn_snapshot(TIER, id(5), id(6), bound)
        .unwrap()
        .unwrap();
    rig.note_snapshot_gaps(TIER, id(6), 3).unwrap();
    let doomed = rig.doom_snapshot(TIER, id(5), id(6), at(100), bound);
    assert_eq!(doomed.unwrap(), Err(SnapshotHold::Poorer));
}

#[test]
fn p8_a_snapshot_goes_only_for_a_newer_full_one_that_is_proven_and_old_enough() {
    let rig = Rig::new();
    for (seq, base) in [(1, None), (2, Some(1)), (4, None), (5, Some(4)), (6, None)] {
        rig.note_snapshot(snapshot(seq, base)).unwrap();
    }
    let volatile = NamespaceSnapshot {
        proof: ProofKind::Volatile,
        ..snapshot(7, None)
    };
    rig.note_snapshot(volatile).unwrap();
    rig.learn_snapshot(TIER, found(&snapshot(8, None)), at(9))
        .unwrap();
    let id = |seq| snapshot(seq, None).id;
    let bound = |before| Bound {
        before: at(before),
        now: at(100),
    };
    let condemn = |seq, by, before| {
        let decided = rig.condemn_snapshot(TIER, id(seq), id(by), bound(before));
        decided.unwrap().err()
    };
    // 4 ended at 5, 6 at 7.
    assert_eq!(condemn(2, 4, 4), Some(SnapshotHold::Young));
    assert_eq!(condemn(2, 6, 5), Some(SnapshotHold::Unproven), "6 is young");
    assert_eq!(condemn(1, 4, 5), Some(SnapshotHold::StoodOn));
    assert_eq!(condemn(8, 8, 99), Some(SnapshotHold::Newest));
    assert_eq!(condemn(9, 4, 99), Some(SnapshotHold::Undecided));
    for (by, why) in [
        (1, "older"),
        (2, "itself"),
        (5, "not full"),
        (7, "volatile"),
        (8, "learned"),
    ] {
        assert_eq!(condemn(2, by, 99), Some(SnapshotHold::Unproven), "{why}");
    }
    assert_eq!(condemn(2, 4, 5), None);
    assert_eq!(condemn(1, 4, 5), None, "what stands on it goes, too");
    let doom = |seq, by, decided| {
        let doomed = rig.doom_snapshot(TIER, id(seq), id(by), at(decided), bound(5));
        doomed.unwrap().err()
    };
    assert_eq!(doom(1, 4, 100), Some(SnapshotHold::StoodOn));
    assert_eq!(doom(2, 4, 99), Some(SnapshotHold::Undecided), "too soon");
    assert_eq!(doom(4, 6, 100), Some(SnapshotHold::Undecided));
    assert_eq!(doom(2, 4, 100), None);
    assert_eq!(doom(2, 4, 100), Some(SnapshotHold::Undecided), "once");
    rig.forget_snapshot(TIER, id(2)).unwrap();
    rig.begin_incarnation(start(1)).unwrap();
    assert_eq!(
        doom(1, 4, 100),
        Some(SnapshotHold::Undecided),
        "of an earlier epoch"
    );
    rig.spare_snapshot(TIER, id(1)).unwrap();
    assert_eq!(condemn(1, 4, 5), None);
    assert_eq!(doom(1, 4, 100), None);
}

#[test]
fn times_that_an_older_catalog_took_from_a_clock_that_was_set_back_follow_the_names() {
    let rig = Rig::new();
    let other = TierId(TIER.0 + 1);
    for (seq, base) in [(1, None), (2, Some(1)), (3, None), (4, None)] {
        rig.note_snapshot(snapshot(seq, base)).unwrap();
    }
    let elsewhere = NamespaceSnapshot {
        tier: other,
        ..snapshot(5, None)
    };
    rig.note_snapshot(elsewhere).unwrap();
    let Rig { dir, catalog } = rig;
    drop(catalog);
    let path = dir.path().join("catalog");
    let connection = rusqlite::Connection::open(&path).unwrap();
    // As version 3 has them: what the clock said.
    let back = "DROP TABLE snapshot_graves; ALTER TABLE snapshots DROP COLUMN gaps;
        ALTER TABLE aggregates DROP COLUMN in_parts;
        CREATE INDEX snapshots_superseded ON snapshots (superseded_at)
            WHERE superseded_at IS NOT NULL;
        UPDATE snapshots SET superseded_at = 60 WHERE superseded_at IS NOT NULL;
        UPDATE snapshots SET ended_at = CASE seq & 255
            WHEN 1 THEN 50 WHEN 2 THEN 100 WHEN 3 THEN 60 WHEN 4 THEN 110 ELSE 7 END;
        PRAGMA user_version = 3;";
    connection.execute_batch(back).unwrap();
    drop(connection);
    let catalog = Catalog::open(&path, identity()).unwrap();
    let times = |tier| {
        let rows = catalog.snapshots(tier, None, 9).unwrap();
        let of = rows.iter().map(|row| {
            assert_eq!(row.gaps, None);
            let superseded = row.superseded_at.map(|at| at.nanos());
            (row.ended_at.nanos(), superseded)
        });
        of.collect::<Vec<_>>()
    };
    let expected = [
        (50, Some(60)),
        (100, Some(100)),
        (100, Some(100)),
        (110, None),
    ];
    assert_eq!(times(TIER), expected);
    assert_eq!(times(other), [(7, None)]);
}
