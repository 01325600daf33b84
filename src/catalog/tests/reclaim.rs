//! P8 in the catalog: what is dead, what is condemned, what is quarantined.

use super::*;

const DAY: i64 = 86_400;

fn bound(now: i64) -> Bound {
    Bound {
        before: at(now - 30 * DAY),
        now: at(now),
    }
}

/// A complete scan that begins and ends now and meets nothing.
fn scan(rig: &Rig, now: i64) {
    let generation = rig.begin_scan(at(now)).unwrap();
    rig.finish_scan(at(now + 1), true).unwrap();
    rig.scan_proves(generation).unwrap();
}

fn key(node: NodeId, version: u64) -> MemberKey {
    (file_id(node), DataVersion(version))
}

/// An archived file, deleted at second 100.
fn deleted(rig: &Rig) -> (NewAggregate, MemberKey) {
    let node = rig.file(2, 10);
    let aggregate = rig.archive(node, 1, TIER);
    assert!(rig.forget(node, at(100), Durability::Full).unwrap());
    (aggregate, key(node, 1))
}

fn hold(rig: &Rig, aggregate: NewAggregate, key: MemberKey, now: i64) -> Option<Hold> {
    let found = rig.departed(TIER, aggregate.id, &[key], bound(now));
    found.unwrap().remove(0).err()
}

fn life(rig: &Rig, id: AggregateId) -> Life {
    rig.aggregate(TIER, id).unwrap().unwrap().life
}

const LATE: i64 = 100 + 31 * DAY;

#[test]
fn p8_a_version_is_dead_after_window_and_a_scan_of_this_epoch_that_met_nothing() {
    let rig = Rig::new();
    let (aggregate, key) = deleted(&rig);
    let hold = |now| hold(&rig, aggregate, key, now);
    assert_eq!(hold(200), Some(Hold::Young));
    assert_eq!(hold(LATE), Some(Hold::Unscanned), "no scan");
    scan(&rig, 300);
    // A stub may come back from a backup as long as the window is open.
    assert_eq!(hold(LATE), Some(Hold::Unscanned), "begun within the window");
    scan(&rig, LATE + 300);
    assert_eq!(hold(LATE), None);
    // A clock that was set back is no reason.
    assert_eq!(hold(50), Some(Hold::Young));
    // A record is met by the next scan.
    let generation = rig.begin_scan(at(LATE + 400)).unwrap();
    let met = vec![Naming::Version(key)];
    rig.met(met, Durability::Full).unwrap();
    rig.finish_scan(at(LATE + 401), true).unwrap();
    rig.scan_proves(generation).unwrap();
    assert_eq!(hold(LATE), Some(Hold::NamedByRecord));
    scan(&rig, LATE + 500);
    assert_eq!(hold(LATE), None, "and no more by the one after it");
    // Something is to be looked at again.
    let mark = Rescan {
        node: NodeId::ROOT,
        since: at(LATE + 600),
        why: "test".into(),
    };
    rig.need_rescan(vec![mark]).unwrap();
    assert_eq!(hold(LATE), Some(Hold::Unscanned));
    scan(&rig, LATE + 700);
    assert_eq!(hold(LATE), None);
    // Another epoch: what was proven before says nothing.
    rig.begin_incarnation(start(1)).unwrap();
    assert_eq!(hold(LATE), Some(Hold::Unscanned));
    scan(&rig, LATE + 800);
    assert_eq!(hold(LATE), None);
}

#[test]
fn p8_a_scan_that_could_not_look_everywhere_proves_nothing() {
    let rig = Rig::new();
    let (aggregate, key) = deleted(&rig);
    let generation = rig.begin_scan(at(300)).unwrap();
    rig.finish_scan(at(301), false).unwrap();
    rig.scan_proves(generation).unwrap();
    assert_eq!(hold(&rig, aggregate, key, LATE), Some(Hold::Unscanned));
    // Nor one that had begun before the tombstone.
    let generation = rig.begin_scan(at(400)).unwrap();
    let node = rig.file(3, 10);
    let later = rig.archive(node, 1, TIER);
    rig.forget(node, at(401), Durability::Full).unwrap();
    rig.finish_scan(at(402), true).unwrap();
    rig.scan_proves(generation).unwrap();
    let key = (file_id(node), DataVersion(1));
    assert_eq!(hold(&rig, later, key, LATE * 2), Some(Hold::Unscanned));
}

#[test]
fn p8_without_a_handle_only_another_life_of_the_filesystem_tells() {
    let rig = Rig::new();
    let (aggregate, key) = deleted(&rig);
    let sql = "UPDATE tombstones SET handle = NULL";
    rig.connection().execute(sql, []).unwrap();
    scan(&rig, LATE + 300);
    let grave = |rig: &Rig| {
        let found = rig.departed(TIER, aggregate.id, &[key], bound(LATE));
        match found.unwrap().remove(0) {
            Ok(Departed::Dead(grave)) => grave,
            other => panic!("{other:?}"),
        }
    };
    let expected = |outlived| Grave {
        handle: None,
        outlived,
    };
    assert_eq!(grave(&rig), expected(false));
    // The machine was started again, later.
    let again = Start {
        now: at(5000),
        ..start(2)
    };
    rig.begin_incarnation(again).unwrap();
    scan(&rig, LATE + 5001);
    assert_eq!(grave(&rig), expected(true));
}

#[test]
fn p9_condemned_doomed_gone_each_looks_again() {
    let rig = Rig::new();
    let (aggregate, key) = deleted(&rig);
    let (id, keys) = (aggregate.id, vec![key]);
    let condemn = |now| rig.condemn(TIER, id, keys.clone(), bound(now)).unwrap();
    let doom = |decided, now| {
        let doomed = rig.doom(TIER, id, keys.clone(), at(decided), bound(now));
        doomed.unwrap()
    };
    assert_eq!(condemn(LATE), Err(Hold::Unscanned));
    assert_eq!(life(&rig, id), Life::Live);
    scan(&rig, LATE + 300);
    // A member that only the index knows, without a tombstone.
    let stranger = (FileId([9; 16]), DataVersion(1));
    let both = vec![key, stranger];
    let held = rig.condemn(TIER, id, both, bound(LATE)).unwrap();
    assert_eq!(held, Err(Hold::NoTombstone));
    assert_eq!(condemn(LATE), Ok(()));
    assert_eq!(condemn(LATE), Err(Hold::Unclear), "once");
    assert_eq!(doom(LATE - 1, LATE), Err(Hold::Young), "too early");
    assert_eq!(life(&rig, id), Life::Condemned);
    // A record names the version again, before the delay is over.
    let node = rig.file(5, 10);
    let known = Known {
        node,
        state: FileState::Released,
        version: Version {
            file: key.0,
            ..version_of(node, 1)
        },
        copies: rig.copies(key.0, key.1).unwrap(),
        under: None,
    };
    rig.learn(vec![known], at(LATE), Durability::Full).unwrap();
    assert_eq!(life(&rig, id), Life::Live, "it takes the aggregate back");
    assert_eq!(doom(LATE + 9, LATE + 9), Err(Hold::Unclear));
    // Gone again; this time nothing comes between.
    rig.forget(node, at(LATE), Durability::Full).unwrap();
    let late = LATE + 40 * DAY;
    scan(&rig, late);
    assert_eq!(condemn(late), Ok(()));
    // Another epoch does not carry out what it did not decide.
    rig.begin_incarnation(start(1)).unwrap();
    scan(&rig, late);
    assert_eq!(doom(late + 9, late + 9), Err(Hold::Unscanned));
    assert_eq!(life(&rig, id), Life::Live);
    assert_eq!(condemn(late + 10), Ok(()));
    assert_eq!(doom(late + 20, late + 20), Ok(()));
    assert_eq!(life(&rig, id), Life::Doomed);
    rig.forget_aggregate(TIER, id).unwrap();
    assert_eq!(rig.aggregate(TIER, id).unwrap(), None);
    assert_eq!(rig.copies(key.0, key.1).unwrap(), []);
    assert_eq!(rig.tombstones(None, 9).unwrap(), [], "with the last copy");
    assert_eq!(rig.tier_sums(TIER).unwrap(), []);
}

fn found(key: MemberKey) -> Found {
    Found {
        key,
        header: 512,
        stored_len: 100,
        crc: Crc32c(11),
    }
}

#[test]
fn p8_what_is_unknown_waits_as_long_as_what_was_deleted_and_then_once_more() {
    let rig = Rig::new();
    let id = AggregateId { epoch: 0, seq: 5 };
    let members = vec![found((FileId([7; 16]), DataVersion(1)))];
    let learn = || rig.quarantine(TIER, id, (4096, false), members.clone(), at(100));
    assert!(learn().unwrap());
    assert!(!learn().unwrap(), "known by now");
    assert_eq!(rig.unknown(TIER, &[id]).unwrap(), []);
    let settle = |now: i64| rig.settle_quarantine(TIER, id, bound(now).before, at(now));
    let waits = Quarantined::Waits {
        known: 0,
        unknown: 1,
    };
    assert_eq!(settle(200).unwrap(), waits);
    assert_eq!(settle(LATE).unwrap(), waits, "no scan");
    scan(&rig, 300);
    assert_eq!(settle(200).unwrap(), waits, "not yet");
    let released = Quarantined::Released { tombstones: 1 };
    assert_eq!(settle(LATE).unwrap(), released);
    let row = rig.aggregate(TIER, id).unwrap().unwrap();
    assert_eq!(
        (row.life, row.live_members, row.live_bytes),
        (Life::Live, 0, 0)
    );
    // Now the ordinary wait begins.
    let key = members[0].key;
    let hold = |now| {
        let found = rig.departed(TIER, id, &[key], bound(now)).unwrap();
        found[0].clone().err()
    };
    scan(&rig, LATE + 5);
    assert_eq!(hold(LATE + 10), Some(Hold::Young));
    assert_eq!(hold(LATE * 2 + 10), Some(Hold::Unscanned));
    scan(&rig, LATE * 2);
    assert_eq!(hold(LATE * 2 + 10), None);
}

#[test]
fn p8_a_quarantined_aggregate_whose_members_files_name_is_an_ordinary_one() {
    let rig = Rig::new();
    let node = rig.file(2, 10);
    rig.archive(node, 1, TIER);
    let id = AggregateId { epoch: 0, seq: 5 };
    let members = vec![found(key(node, 1))];
    assert!(
        rig.quarantine(TIER, id, (4096, false), members, at(100))
            .unwrap()
    );
    let copies = rig.copies(file_id(node), DataVersion(1)).unwrap();
    let states: Vec<_> = copies.iter().map(|c| c.state).collect();
    assert_eq!(states, [CopyState::Good, CopyState::Suspect]);
    let settled = rig.settle_quarantine(TIER, id, at(0), at(101)).unwrap();
    assert_eq!(settled, Quarantined::Released { tombstones: 0 });
    let copies = rig.copies(file_id(node), DataVersion(1)).unwrap();
    assert!(copies.iter().all(|c| c.state == CopyState::Good));
}

#[test]
fn a_repack_moves_all_rows_or_none() {
    let rig = Rig::new();
    let node = rig.file(2, 10);
    let old = rig.archive(node, 1, TIER);
    let new = NewAggregate {
        id: rig.next_aggregate().unwrap(),
        ..old
    };
    let moved = |key| Moved { key, header: 1024 };
    let stranger = (FileId([9; 16]), DataVersion(1));
    let both = vec![moved(key(node, 1)), moved(stranger)];
    // What is not there cannot have been copied; what is there must be.
    assert!(!rig.repacked(old.id, new, both, vec![], at(60)).unwrap());
    assert!(!rig.repacked(old.id, new, vec![], vec![], at(60)).unwrap());
    assert_eq!(rig.aggregate(TIER, new.id).unwrap(), None);
    let one = vec![moved(key(node, 1))];
    assert!(rig.repacked(old.id, new, one, vec![], at(60)).unwrap());
    let copies = rig.copies(file_id(node), DataVersion(1)).unwrap();
    assert_eq!((copies.len(), copies[0].aggregate), (1, new.id));
    let row = |id| rig.aggregate(TIER, id).unwrap().unwrap();
    let counts = |id| {
        let row = row(id);
        (row.members, row.bytes, row.live_members, row.live_bytes)
    };
    assert_eq!(
        (counts(old.id), counts(new.id)),
        ((0, 0, 0, 0), (1, 100, 1, 100))
    );
    assert_eq!(row(old.id).moved_to, Some(new.id));
    // The old one may go although the file lives.
    let departed = rig.departed(TIER, old.id, &[key(node, 1)], bound(LATE));
    assert_eq!(departed.unwrap(), [Ok(Departed::Moved)]);
    // Not if the new one is in doubt.
    rig.miss_aggregate(TIER, new.id).unwrap();
    let departed = rig.departed(TIER, old.id, &[key(node, 1)], bound(LATE));
    assert_eq!(departed.unwrap(), [Err(Hold::NoTombstone)]);
}

#[test]
fn p8_a_copy_that_was_given_up_holds_its_aggregate_only_while_no_other_is_good() {
    let rig = Rig::new();
    let node = rig.file(2, 10);
    let (one, other) = (rig.archive(node, 1, TIER), rig.archive(node, 1, TierId(8)));
    let hold = |rig: &Rig, of: NewAggregate| {
        let found = rig.departed(of.tier, of.id, &[key(node, 1)], bound(LATE));
        found.unwrap().remove(0)
    };
    assert_eq!(hold(&rig, one), Err(Hold::NoTombstone));
    let sql = "UPDATE copies SET state = 3, live = 0 WHERE tier = 7";
    rig.connection().execute(sql, []).unwrap();
    assert_eq!(hold(&rig, one), Ok(Departed::GivenUp));
    assert_eq!(hold(&rig, other), Err(Hold::NoTombstone));
    let sql = "UPDATE copies SET state = 2 WHERE tier = 8";
    rig.connection().execute(sql, []).unwrap();
    assert_eq!(hold(&rig, one), Err(Hold::NoTombstone));
}

#[test]
fn p8_a_clock_that_is_behind_shortens_no_window() {
    let rig = Rig::new();
    scan(&rig, 1000);
    deleted(&rig);
    let stones = rig.tombstones(None, 9).unwrap();
    let ends: Vec<_> = stones.iter().map(|stone| stone.at).collect();
    assert_eq!(ends, [at(1001)], "not before the end of the scan");
}

#[test]
fn p9_nothing_relies_on_what_is_doomed() {
    let rig = Rig::new();
    let (aggregate, key) = deleted(&rig);
    let stone = rig.tombstones(None, 9).unwrap()[0].id;
    let copies = rig.copies(key.0, key.1).unwrap();
    scan(&rig, LATE + 300);
    let (id, keys) = (aggregate.id, vec![key]);
    let condemned = rig.condemn(TIER, id, keys.clone(), bound(LATE));
    assert_eq!(condemned.unwrap(), Ok(()));
    let doomed = rig.doom(TIER, id, keys, at(LATE + 9), bound(LATE + 9));
    assert_eq!(doomed.unwrap(), Ok(()));
    // Neither an undelete, nor a copied stub, nor a record that a scan meets.
    let revived = rig.revive(stone, at(LATE + 9)).unwrap();
    assert_eq!(revived, Err(NotRevived::NoCopy));
    let node = rig.file(5, 10);
    let version = version_of(node, 1);
    let theirs = |copy: &Copy| Copy {
        file: version.file,
        ..*copy
    };
    let theirs: Vec<_> = copies.iter().map(theirs).collect();
    let seen = rig.node(node).unwrap().unwrap();
    let sighting = Sighting {
        handle: seen.handle,
        attributes: seen.attributes,
        place: None,
    };
    let adopted = rig.adopt(sighting, version, theirs.clone(), at(LATE + 9));
    assert!(matches!(adopted, Err(CatalogError::Refused { .. })));
    let known = Known {
        node,
        state: FileState::Released,
        version,
        copies: theirs,
        under: None,
    };
    rig.learn(vec![known], at(LATE + 9), Durability::Full)
        .unwrap();
    assert_eq!(rig.copies(version.file, version.version).unwrap(), []);
    // Where the deletion was not done, all may.
    rig.spare(TIER, id).unwrap();
    assert!(rig.revive(stone, at(LATE + 9)).unwrap().is_ok());
}

#[test]
fn p8_what_somebody_brings_back_is_not_dead() {
    let rig = Rig::new();
    let (aggregate, key) = deleted(&rig);
    scan(&rig, LATE + 300);
    assert_eq!(hold(&rig, aggregate, key, LATE), None);
    // Its copies count before its tombstone goes.
    let sql = "UPDATE copies SET live = 1";
    rig.connection().execute(sql, []).unwrap();
    assert_eq!(hold(&rig, aggregate, key, LATE), Some(Hold::NamedByFile));
}

#[test]
fn a_catalog_of_version_2_is_brought_forward_with_tombstones_and_sums() {
    let rig = Rig::new();
    let (aggregate, key) = deleted(&rig);
    let Rig { dir, catalog } = rig;
    drop(catalog);
    let path = dir.path().join("catalog");
    let connection = rusqlite::Connection::open(&path).unwrap();
    // As version 2 has it: without what version 3 added for this.
    let back = "DROP TRIGGER aggregate_added; DROP TRIGGER aggregate_removed;
        DROP TRIGGER aggregate_changed; DROP TABLE tier_sums; DROP TABLE namings;
        DROP INDEX aggregates_retired; DROP INDEX aggregates_lives; DROP INDEX aggregates_moved;
        ALTER TABLE tombstones DROP COLUMN handle; ALTER TABLE tombstones DROP COLUMN generation;
        ALTER TABLE scan DROP COLUMN proof_generation; ALTER TABLE scan DROP COLUMN proof_epoch;
        ALTER TABLE scan DROP COLUMN proof_begun_at;
        ALTER TABLE aggregates DROP COLUMN life; ALTER TABLE aggregates DROP COLUMN since;
        ALTER TABLE aggregates DROP COLUMN life_epoch;
        ALTER TABLE aggregates DROP COLUMN life_generation;
        ALTER TABLE aggregates DROP COLUMN moved_epoch;
        ALTER TABLE aggregates DROP COLUMN moved_seq;";
    connection.execute_batch(back).unwrap();
    // And only this part of the step: others have theirs.
    let step = include_str!("../schema_3.sql");
    let part = &step[step.find("-- Deleting (P8)").unwrap()..];
    let end = part.find("\n-- Rebuilding").unwrap();
    connection.execute_batch(&part[..end]).unwrap();
    drop(connection);
    let catalog = Catalog::open(&path, identity()).unwrap();
    let tombstones = catalog.tombstones(None, 9).unwrap();
    assert_eq!((tombstones[0].file, &tombstones[0].handle), (key.0, &None));
    let row = catalog.aggregate(TIER, aggregate.id).unwrap().unwrap();
    assert_eq!(
        (row.life, row.since, row.moved_to),
        (Life::Live, None, None)
    );
    let sums = catalog.tier_sums(TIER).unwrap();
    let sum = TierSum {
        life: Life::Live,
        objects: 1,
        len: 4096,
        bytes: 100,
        live_bytes: 0,
    };
    assert_eq!(sums, [sum]);
}
