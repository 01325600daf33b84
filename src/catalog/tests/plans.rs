//! No query scans: every statement that this room can prepare is shown to SQLite's planner.

use super::*;
use crate::catalog::End;
use crate::catalog::sql::SEEN;

/// Tables of a handful of rows, listed whole; and what a rebuild kept, which goes as a whole.
const SMALL: [&str; 5] = [
    "proof",
    "tiers",
    "rebuild_tiers",
    "rebuild_damaged",
    "rebuild_members",
];

/// How steps end that were planned earlier.
fn late_news(rig: &Rig, f: NodeId) {
    let d = Durability::Full;
    let version = (file_id(f), DataVersion(1));
    let point = Rebound {
        node: f,
        version,
        proven: proven(1),
    };
    rig.rebound(vec![point], d).unwrap();
    let same = attributes(FileKind::Regular, 10);
    rig.released(f, rig.plan(f), same, proven(1), d).unwrap();
    rig.lost(f, rig.plan(f), "gone".into()).unwrap();
    rig.set_note(f, "words".into(), d).unwrap();
    let back = Recalled {
        version,
        attributes: same,
        proven: proven(1),
        ctime: same.ctime,
    };
    rig.staged(f, back, at(3), d).unwrap();
    let why = TombstoneWhy::Overwrite;
    rig.differs(f, None, why, at(3), d).unwrap();
}

fn snapshots(rig: &Rig) {
    let full = super::snapshots::snapshot(1, None);
    rig.note_snapshot(full).unwrap();
    rig.newest_snapshot(TIER).unwrap();
    rig.full_snapshot(TIER).unwrap();
    rig.snapshots(TIER, None, 5).unwrap();
    let stray = super::snapshots::snapshot(9, None);
    assert_eq!(rig.unknown_snapshots(TIER, &[stray.id]).unwrap().len(), 1);
    rig.learn_snapshot(TIER, super::snapshots::found(&stray), at(9))
        .unwrap();
    let old = super::snapshots::snapshot(0, None);
    rig.learn_snapshot(TIER, super::snapshots::found(&old), at(3))
        .unwrap();
    let bound = Bound {
        before: at(90),
        now: at(99),
    };
    let condemned = rig.condemn_snapshot(TIER, old.id, full.id, bound).unwrap();
    assert_eq!(condemned, Ok(()));
    rig.snapshot_graves(TIER, None, 5).unwrap();
    let doomed = rig.doom_snapshot(TIER, old.id, full.id, at(99), bound);
    assert_eq!(doomed.unwrap(), Ok(()));
    rig.spare_snapshot(TIER, old.id).unwrap();
    rig.forget_snapshot(TIER, full.id).unwrap();
}

/// What is asked and noted about the proof of copies.
fn proofs(rig: &Rig, copy: Copy) {
    let d = Durability::Full;
    rig.live_copies(copy.file, copy.version).unwrap();
    rig.live_members(TIER, copy.aggregate, None, 5).unwrap();
    rig.verifiable(TIER, None, 5).unwrap();
    rig.proof_counts().unwrap();
    rig.note_checks(vec![(copy, CopyState::Bad)], at(2), d)
        .unwrap();
    rig.bad_copies(TIER, None, 5).unwrap();
    rig.retire(vec![copy], d).unwrap();
}

/// Calls everything once, so that every statement was prepared.
fn call_everything(rig: &Rig) {
    let d = Durability::Full;
    let (f, g) = (rig.file(2, 10), rig.file(3, 20));
    let dir = rig.directory(4, NodeId::ROOT, b"d");
    let aggregate = rig.archive(f, 1, TIER);
    rig.archive(f, 2, TIER);
    let version = DataVersion(2);
    let copies = rig.copies(file_id(f), version).unwrap();
    rig.set_copy_state(&copies[0], CopyState::Good, at(1), d)
        .unwrap();
    rig.copies_to_verify(TIER, at(9), None, 5).unwrap();
    proofs(rig, copies[0]);
    rig.aggregate(TIER, aggregate.id).unwrap();
    rig.aggregates(TIER, Some(aggregate.id), 5).unwrap();
    rig.members(TIER, aggregate.id, Some(1), 5).unwrap();
    rig.newest_aggregate().unwrap();
    rig.newest_of(TIER, 5).unwrap();
    snapshots(rig);
    assert!(!rig.has_open_requests(1000, 3).unwrap());
    rig.tombstones(None, 5).unwrap();
    rig.node_by_handle(&handle(2)).unwrap();
    rig.nodes_by_file(file_id(f)).unwrap();
    rig.note_access(vec![(handle(2), at(3))], d).unwrap();
    for flag in [Flag::NoArchive, Flag::NoRelease] {
        rig.set_flag(g, flag, true, d).unwrap();
    }
    rig.lookup(NodeId::ROOT, b"x").unwrap();
    rig.all_names(f, 5).unwrap();
    rig.children(dir, Some(b"x"), 5).unwrap();
    rig.link(dir, b"l", f, d).unwrap();
    rig.rename((dir, b"l"), (dir, b"m"), at(2), d).unwrap();
    rig.unlink(dir, b"m", false, at(2), d).unwrap();
    late_news(rig, f);
    rig.dirtied(f, TombstoneWhy::Overwrite, at(3), d).unwrap();
    let known = Known {
        node: g,
        state: FileState::Released,
        version: version_of(f, 2),
        copies,
        under: None,
    };
    rig.learn(vec![known], at(3), d).unwrap();
    let pin = Pin {
        node: f,
        holder: "h".into(),
        expires: at(5),
    };
    rig.pin(vec![pin]).unwrap();
    rig.pins(f).unwrap();
    rig.pinned_until(f, at(1)).unwrap();
    rig.unpin(vec![f], "h").unwrap();
    rig.held("h", at(1)).unwrap();
    rig.change_ends("h", End::AtLeast(at(6)), at(0)).unwrap();
    rig.change_ends("h", End::AtMost(at(6)), at(0)).unwrap();
    rig.unpin_all("h").unwrap();
    rig.requests_of_job(1000, "4711", 5).unwrap();
    rig.next_user(None).unwrap();
    rig.expire_pins(at(9), 5).unwrap();
    rig.to_archive(ArchiveFilter { older_than: at(9) }, None, 5)
        .unwrap();
    let release = ReleaseFilter {
        min_size: 1,
        accessed_before: at(9),
        staged_before: at(9),
        min_copies: 1,
        now: at(9),
    };
    rig.to_release(release, None, 5).unwrap();
    rig.under_copied(2, None, 5).unwrap();
    scans(rig, f);
    deleted(rig);
    reclaim(rig, f, aggregate.id);
    rebuilds(rig, f);
    requests(rig);
    rig.status(2).unwrap();
    rig.usage_of(0).unwrap();
    rig.last_failures(5).unwrap();
    rig.tiers().unwrap();
    rig.settle(d).unwrap();
}

/// Deleted versions listed and brought back, and copies given up.
fn deleted(rig: &Rig) {
    for (number, alone) in [(31, true), (32, false)] {
        let f = rig.file(number, 10);
        rig.archive(f, 1, TIER);
        rig.archive(f, if alone { 1 } else { 2 }, TIER);
        let name = format!("file{number}").into_bytes();
        rig.unlink(NodeId::ROOT, &name, false, at(4), Durability::Full)
            .unwrap();
        let mut stones = Vec::new();
        for uid in [None, Some(1000)] {
            stones = rig.deleted_at(&name, uid, 5).unwrap();
            let below = Below {
                directory: Vec::new(),
                uid,
            };
            assert!(!rig.deleted_below(&below, None, 5).unwrap().is_empty());
        }
        let last = stones.last().unwrap();
        let revived = rig.revive(last.id, at(5)).unwrap().unwrap();
        assert_eq!(revived.file == last.file, alone, "a later version is known");
        rig.rest_again(&revived).unwrap();
        let revived = rig.revive(last.id, at(5)).unwrap().unwrap();
        rig.settle_revivals(at(6), Vec::new(), at(7)).unwrap();
        let again = rig.revive(last.id, at(8)).unwrap().unwrap();
        let seen = Sighting {
            handle: handle(number + 100),
            attributes: attributes(FileKind::Regular, 10),
            place: Some((NodeId::ROOT, b"back".to_vec())),
        };
        let back = CameBack {
            version: Version {
                file: again.file,
                ..version_of(f, 1)
            },
            revived: again,
            seen,
            proven: proven(1),
        };
        let node = rig.came_back(back, at(9)).unwrap().unwrap();
        give_up(rig, node, !alone);
        drop(revived);
    }
}

fn give_up(rig: &Rig, node: NodeId, last: bool) {
    let version = rig.row(node).version.unwrap();
    if last {
        rig.set_state(node, FileState::Archived, None, Durability::Full)
            .unwrap();
    }
    let removal = Removal {
        node,
        planned: rig.plan(node),
        copies: rig.copies(version.file, version.version).unwrap(),
        last,
        note: Some("gone".into()),
    };
    assert_eq!(rig.remove_copies(removal, at(9)).unwrap(), Removed::Done);
    assert_eq!(rig.row(node).copies, 0);
}

fn rebuilds(rig: &Rig, f: NodeId) {
    let sources = Sources {
        stubs: true,
        tiers: true,
    };
    rig.has_served().unwrap();
    rig.begin_rebuild(sources, at(1)).unwrap();
    rig.hold_rebuild().unwrap();
    rig.begin_rebuild(sources, at(1)).unwrap();
    rig.rebuild_state().unwrap();
    rig.begin_tier(TIER).unwrap();
    rig.tier_read(TIER).unwrap();
    let aggregate = LearnedAggregate {
        tier: TIER,
        id: AggregateId { epoch: 9, seq: 9 },
        len: 1,
        in_parts: None,
        composed: at(1),
        damaged: true,
    };
    let member = LearnedMember {
        file: file_id(f),
        version: DataVersion(9),
        header: 512,
        stored_len: 1,
        crc: Crc32c(1),
        blocks_crc: Crc32c(1),
        names: vec![b"x".to_vec()],
        size: 1,
        mtime: at(1),
        uid: 0,
        gid: 0,
    };
    rig.learn_members(aggregate, vec![member], true).unwrap();
    rig.remembered_as(b"x").unwrap();
    rig.was_damaged(TIER, aggregate.id).unwrap();
    rig.remembered_alike(1, at(1), 5).unwrap();
    rig.learn_length(TIER, aggregate.id, (1, false)).unwrap();
    let learned = rig.copy_at(TIER, aggregate.id, 512, Crc32c(1)).unwrap();
    let learned = learned.map(|copy| Copy {
        stored_len: 2,
        ..copy
    });
    rig.bear_out(f, learned.into_iter().collect()).unwrap();
    rig.begin_rebuild_sweep(&[TIER], at(1)).unwrap();
    rig.rebuild_sweep().unwrap();
    rig.unknown_files(None, 5).unwrap();
    let mut after = None;
    while let Some(next) = rig.join_learned(after, 2).unwrap() {
        after = Some(next);
    }
    rig.finish_tier(TIER).unwrap();
    rig.finish_rebuild(at(2)).unwrap();
    rig.raise_epoch(1).unwrap();
    let kept = Unserved::open(&rig.path()).unwrap().unwrap();
    kept.nodes(Some(&handle(2)), 5).unwrap();
    kept.all_copies(None, 5).unwrap();
    kept.tombstones(None, 5).unwrap();
    kept.tier_numbers().unwrap();
}

fn scans(rig: &Rig, f: NodeId) {
    let generation = rig.begin_scan(at(1)).unwrap();
    rig.save_scan_position(vec![1], 1).unwrap();
    rig.finish_directory(NodeId::ROOT, generation, 5).unwrap();
    rig.finish_scan(at(2), true).unwrap();
    rig.unseen(generation, None, 100).unwrap();
    let found = Settled {
        gone: vec![NodeId(98)],
        missed_twice: vec![NodeId(97)],
        missed: vec![NodeId(96)],
    };
    rig.settle_unseen(generation, found, at(3)).unwrap();
    rig.begin_part().unwrap();
    let mark = Rescan {
        node: f,
        since: at(1),
        why: String::new(),
    };
    rig.need_rescan(vec![mark.clone()]).unwrap();
    rig.rescans(5).unwrap();
    rig.rescanned(&mark).unwrap();
    rig.set_trouble(vec![(f, Some(Trouble::Foreign))], Durability::Full)
        .unwrap();
    rig.troubled(Trouble::Foreign, None, 5).unwrap();
    rig.lost_files(None, 5).unwrap();
    rig.advance_changelog(1, 1, 0, 0).unwrap();
}

/// What the collector asks and does.
fn reclaim(rig: &Rig, f: NodeId, id: AggregateId) {
    let bound = Bound {
        before: at(900),
        now: at(1000),
    };
    let key = (file_id(f), DataVersion(1));
    let naming = Naming::Version(key);
    rig.met(vec![naming], Durability::Full).unwrap();
    rig.scan_proves(9).unwrap();
    rig.departed(TIER, id, &[key], bound).unwrap().pop();
    rig.died(key).unwrap();
    rig.retired(TIER, None, 5).unwrap();
    rig.tier_sums(TIER).unwrap();
    rig.all_members(TIER, id).unwrap();
    let found = Found {
        key,
        header: 512,
        stored_len: 9,
        crc: Crc32c(1),
    };
    let stray = AggregateId { epoch: 0, seq: 77 };
    assert_eq!(rig.unknown(TIER, &[id, stray]).unwrap(), [stray]);
    assert!(
        rig.quarantine(TIER, stray, (9, false), vec![found], at(1))
            .unwrap()
    );
    rig.of_life(TIER, Life::Quarantined, None, 5).unwrap();
    rig.settle_quarantine(TIER, stray, at(9), at(9)).unwrap();
    rig.miss_aggregate(TIER, id).unwrap();
    let new = NewAggregate {
        tier: TIER,
        id: rig.next_aggregate().unwrap(),
        len: 1,
        in_parts: false,
        crc: Crc32c(1),
        proof: ProofKind::Volatile,
    };
    let moved = Moved { key, header: 512 };
    rig.repacked(id, new, vec![moved], vec![], at(9)).unwrap();
    let _ = rig.condemn(TIER, id, vec![key], bound).unwrap();
    let _ = rig.doom(TIER, id, vec![key], at(9), bound).unwrap();
    rig.spare(TIER, id).unwrap();
    rig.forget_aggregate(TIER, id).unwrap();
}

fn requests(rig: &Rig) {
    let new = NewRequest {
        sealed: false,
        ..request(Verb::Stage, 5, Some("k"))
    };
    let id = rig
        .submit(new, vec![action(NodeId(2), 1)], at(1))
        .unwrap()
        .id;
    let more = (3..9).map(|n| action(NodeId(n), 1)).collect();
    rig.add_actions(id, more, at(1), Durability::Full).unwrap();
    rig.unsealed().unwrap();
    rig.seal(id, at(1)).unwrap();
    let taken = rig.take_actions(Class::Stage, 6, at(2)).unwrap();
    let ids: Vec<ActionId> = taken.iter().map(|a| a.id).collect();
    rig.start_actions(ids.clone(), at(2)).unwrap();
    let retry = Finish::Retry {
        not_before: at(3),
        failure: failure("busy"),
    };
    let ends = [
        Finish::Done,
        Finish::Failed(failure("x")),
        Finish::PutBack,
        retry,
    ];
    let ended = ids.iter().copied().zip(ends).collect();
    rig.finish_actions(ended, at(3), Durability::Full).unwrap();
    rig.take_actions(Class::Stage, 6, at(4)).unwrap();
    rig.recover_actions(at(4)).unwrap();
    rig.retry_failed(id, at(4)).unwrap();
    rig.open_actions_of(NodeId(2)).unwrap();
    rig.actions(id, None, None, 5).unwrap();
    rig.request(id).unwrap();
    for n in 0..8 {
        let filter = RequestFilter {
            uid: (n & 1 > 0).then_some(5),
            active: n & 2 > 0,
            failed: n & 4 > 0,
            before: None,
        };
        rig.requests(filter, 5).unwrap();
    }
    rig.cancel(id, at(5)).unwrap();
    while rig.settle_cancelled(at(5), 2).unwrap() > 0 {}
    while rig.forget_requests(at(99), 2).unwrap() > 0 {}
}

#[test]
fn no_statement_scans_a_table() {
    let rig = Rig::new();
    call_everything(&rig);
    let connection = rig.connection();
    let statements = SEEN.lock().clone();
    assert!(
        statements.len() > 90,
        "only {} statements were seen",
        statements.len()
    );
    let mut scans = Vec::new();
    for sql in statements.iter().filter(|sql| !sql.starts_with("PRAGMA")) {
        let mut explain = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
            .unwrap();
        let given = vec![rusqlite::types::Null; explain.parameter_count()];
        let plan: Vec<String> = explain
            .query_map(rusqlite::params_from_iter(given), |row| row.get("detail"))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        for line in plan.iter().filter(|line| line.starts_with("SCAN")) {
            let small = SMALL.iter().any(|t| line.starts_with(&format!("SCAN {t}")));
            // A derived table of at most LIMIT rows, not a table.
            let derived = line.starts_with("SCAN (subquery") || line.contains("CONSTANT ROW");
            // Partial indices that hold only what is in hand.
            let in_hand = line.contains("actions_in_hand") || line.contains("requests_unse");
            if !small && !derived && !in_hand {
                scans.push(format!("{line}\n    {sql}"));
            }
        }
    }
    assert!(
        scans.is_empty(),
        "statements that scan:\n{}",
        scans.join("\n")
    );
}

#[test]
fn what_users_wait_for_is_answered_by_the_index_made_for_it() {
    let rig = Rig::new();
    call_everything(&rig);
    let connection = rig.connection();
    let statements = SEEN.lock().clone();
    let uses = |part: &str, index: &str| {
        let matching: Vec<_> = statements.iter().filter(|sql| sql.contains(part)).collect();
        assert!(!matching.is_empty(), "no statement contains {part:?}");
        for sql in matching {
            let mut explain = connection
                .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
                .unwrap();
            let given = vec![rusqlite::types::Null; explain.parameter_count()];
            let plan: Vec<String> = explain
                .query_map(rusqlite::params_from_iter(given), |row| row.get("detail"))
                .unwrap()
                .map(Result::unwrap)
                .collect();
            let plan = plan.join("; ");
            assert!(
                plan.contains(index),
                "{sql}\n  does not use {index}: {plan}"
            );
            assert!(!plan.contains("B-TREE"), "{sql}\n  sorts: {plan}");
        }
    };
    uses("tombstones WHERE (path, id)", "tombstones_path");
    uses("uid = ? AND (path, id)", "tombstones_uid");
    uses("tombstones WHERE path =", "tombstones_path");
    uses("uid = ? AND path =", "tombstones_uid");
    uses("heir IS NOT NULL", "tombstones_heir");
    uses("mtime AS cursor", "nodes_to_archive");
    uses("accessed AS cursor", "nodes_to_release");
    uses("copies AS cursor", "nodes_by_copies");
    uses("a.state = 0", "actions_pending");
    uses("a.state = ? AND a.id", "actions_state");
    uses("state < 2 AND pending > 0", "requests_pending");
    uses("state = 3 AND not_before", "actions_waiting");
    uses(
        "FROM requests WHERE id < ?1 AND uid = ?3 ORDER",
        "requests_uid",
    );
    uses("ORDER BY names.name", "PRIMARY KEY");
    uses("count > 0 ORDER BY count DESC", "failure_causes_count");
}
