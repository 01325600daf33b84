//! No query scans: every statement that this room can prepare is shown to SQLite's planner.

use super::*;
use crate::catalog::sql::SEEN;

/// Tables of a handful of rows, listed whole.
const SMALL: [&str; 2] = ["tiers", "proof"];

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
    rig.copies_to_verify(TIER, at(9), 5).unwrap();
    proofs(rig, copies[0]);
    rig.aggregate(TIER, aggregate.id).unwrap();
    rig.aggregates(TIER, Some(aggregate.id), 5).unwrap();
    rig.members(TIER, aggregate.id, Some(1), 5).unwrap();
    rig.newest_aggregate().unwrap();
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
    requests(rig);
    rig.status(2).unwrap();
    rig.usage_of(0).unwrap();
    rig.last_failures(5).unwrap();
    rig.tiers().unwrap();
    rig.settle(d).unwrap();
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
