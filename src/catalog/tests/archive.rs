//! Versions, copies, aggregates, tombstones, and what policies ask.
use super::*;

const OTHER: TierId = TierId(8);

#[test]
fn archiving_records_version_copies_and_aggregate() {
    let rig = Rig::new();
    let node = rig.file(2, 10);
    let aggregate = rig.archive(node, 1, TIER);
    let row = rig.row(node);
    assert_eq!((row.state, row.copies), (FileState::Archived, 1));
    assert_eq!(
        (row.version, row.proven),
        (
            Some(version_of(node, 1)),
            Some(Proven {
                ctime: at(10),
                ..proven(1)
            })
        )
    );
    let copies = rig.copies(file_id(node), DataVersion(1)).unwrap();
    assert_eq!(
        (copies.len(), copies[0].aggregate, copies[0].header),
        (1, aggregate.id, 512)
    );
    let stored = rig.aggregate(TIER, aggregate.id).unwrap().unwrap();
    assert_eq!(
        (stored.live_members, stored.live_bytes, stored.members),
        (1, 100, 1)
    );
    assert_eq!(rig.members(TIER, aggregate.id, None, 10).unwrap(), copies);
    assert_eq!(rig.members(TIER, aggregate.id, Some(512), 10).unwrap(), []);
    assert_eq!(rig.aggregates(TIER, None, 10).unwrap(), [stored]);
    assert_eq!(rig.newest_aggregate().unwrap(), Some(aggregate.id));
    // a second copy on the same tier is no second copy; one on another tier is
    rig.archive(node, 1, TIER);
    assert_eq!(rig.row(node).copies, 1);
    rig.archive(node, 1, OTHER);
    assert_eq!(rig.row(node).copies, 2);
    assert_eq!(rig.nodes_by_file(file_id(node)).unwrap()[0].id, node);
}

#[test]
fn a_change_makes_dirty_and_leaves_one_tombstone() {
    let rig = Rig::new();
    let node = rig.file(2, 10);
    rig.dirtied(node, TombstoneWhy::Overwrite, at(1), Durability::Full)
        .unwrap();
    assert_eq!(
        rig.row(node).state,
        FileState::None,
        "never archived: nothing to be dirty about"
    );
    let aggregate = rig.archive(node, 1, TIER);
    for _ in 0..2 {
        rig.dirtied(node, TombstoneWhy::Truncate, at(60), Durability::Full)
            .unwrap();
    }
    assert_eq!(rig.row(node).state, FileState::Dirty);
    let tombs = rig.tombstones(None, 10).unwrap();
    assert_eq!(tombs.len(), 1);
    assert_eq!(
        (tombs[0].why, tombs[0].epoch, tombs[0].path.as_slice()),
        (TombstoneWhy::Truncate, 1, b"file2".as_slice())
    );
    assert_eq!(
        rig.aggregate(TIER, aggregate.id)
            .unwrap()
            .unwrap()
            .live_members,
        0
    );
    rig.archive(node, 2, TIER);
    let row = rig.row(node);
    assert_eq!(
        (row.state, row.version.unwrap().version),
        (FileState::Archived, DataVersion(2))
    );
    assert_eq!(rig.tombstones(None, 10).unwrap().len(), 1);
    assert_eq!(rig.status(1).unwrap().tombstones, 1);
}

#[test]
fn p8_a_deleted_file_is_kept_from_its_deletion_however_long_ago_it_was_taken_for_changed() {
    let rig = Rig::new();
    let node = rig.file(2, 10);
    rig.archive(node, 1, TIER);
    rig.dirtied(node, TombstoneWhy::Overwrite, at(60), Durability::Full)
        .unwrap();
    // It had not changed: a release compares the sum, and notes what it punches.
    let planned = rig.row(node).planned();
    let noted = rig.swap_state(node, planned, (FileState::Released, None), at(70));
    assert!(noted.unwrap());
    rig.forget(node, at(9_000), Durability::Full).unwrap();
    let tombs = rig.tombstones(None, 10).unwrap();
    assert_eq!(
        (tombs.len(), tombs[0].at, tombs[0].why),
        (1, at(9_000), TombstoneWhy::Unlink)
    );
}

#[test]
fn release_stage_and_a_copy_made_while_released() {
    let rig = Rig::new();
    let node = rig.file(2, 10);
    rig.archive(node, 1, TIER);
    let mut stub = attributes(FileKind::Regular, 10);
    stub.blocks = 0;
    rig.released(node, rig.plan(node), stub, proven(1), Durability::Full)
        .unwrap();
    rig.archive(node, 1, OTHER);
    let row = rig.row(node);
    assert_eq!(
        (row.state, row.copies, row.attributes.blocks),
        (FileState::Released, 2, 0)
    );
    let back = attributes(FileKind::Regular, 10);
    rig.staged(node, recalled(node, 1, back), at(70), Durability::Full)
        .unwrap();
    let row = rig.row(node);
    assert_eq!(
        (row.state, row.staged_at),
        (FileState::Archived, Some(at(70)))
    );
    let six = Proven {
        size: 6,
        ..proven(1)
    };
    let point = |node, version| Rebound {
        node,
        version: (file_id(node), DataVersion(version)),
        proven: six,
    };
    rig.rebound(
        vec![point(NodeId(999), 1), point(node, 1)],
        Durability::Full,
    )
    .unwrap();
    assert_eq!(rig.row(node).proven.unwrap().size, 6);
    rig.set_state(node, FileState::Lost, Some("gone".into()), Durability::Full)
        .unwrap();
    assert_eq!(rig.row(node).note.as_deref(), Some("gone"));
}

#[test]
fn archiving_a_node_that_went_meanwhile_leaves_a_tombstone() {
    let rig = Rig::new();
    let node = rig.file(2, 10);
    rig.forget(node, at(5), Durability::Full).unwrap();
    let aggregate = rig.archive(node, 1, TIER);
    assert_eq!(rig.tombstones(None, 10).unwrap().len(), 1);
    assert_eq!(
        rig.aggregate(TIER, aggregate.id)
            .unwrap()
            .unwrap()
            .live_members,
        0
    );
}

#[test]
fn a_version_that_another_node_needs_is_not_buried() {
    let rig = Rig::new();
    let (a, b) = (rig.file(2, 10), rig.file(3, 10));
    rig.archive(a, 1, TIER);
    let known = Known {
        node: b,
        state: FileState::Released,
        version: version_of(a, 1),
        copies: rig.copies(file_id(a), DataVersion(1)).unwrap(),
        under: None,
    };
    rig.learn(vec![known], at(60), Durability::Full).unwrap();
    rig.forget(a, at(61), Durability::Full).unwrap();
    assert_eq!(rig.tombstones(None, 10).unwrap(), []);
    rig.forget(b, at(62), Durability::Full).unwrap();
    assert_eq!(rig.tombstones(None, 10).unwrap().len(), 1);
}

#[test]
fn learning_rebuilds_and_takes_a_wrong_tombstone_back() {
    let rig = Rig::new();
    let node = rig.file(2, 10);
    let aggregate = rig.archive(node, 1, TIER);
    let copies = rig.copies(file_id(node), DataVersion(1)).unwrap();
    rig.forget(node, at(60), Durability::Full).unwrap();
    let again = rig.file(2, 10);
    let mut copies = copies;
    copies.push(Copy {
        tier: OTHER,
        ..copies[0]
    });
    let known = Known {
        node: again,
        state: FileState::Released,
        version: version_of(node, 1),
        copies,
        under: None,
    };
    rig.learn(vec![known], at(61), Durability::Full).unwrap();
    let row = rig.row(again);
    assert_eq!((row.state, row.copies), (FileState::Released, 2));
    assert_eq!(rig.tombstones(None, 10).unwrap(), []);
    assert_eq!(
        rig.aggregate(TIER, aggregate.id)
            .unwrap()
            .unwrap()
            .live_members,
        1
    );
    let learned = rig.aggregate(OTHER, aggregate.id).unwrap().unwrap();
    assert_eq!(
        (learned.proof, learned.live_members),
        (ProofKind::Learned, 1)
    );
    assert!(
        row.is_suspect(&rig.incarnation().unwrap()),
        "a record proves no quiescent point"
    );
}

#[test]
fn a_bad_copy_no_longer_counts() {
    let rig = Rig::new();
    let node = rig.file(2, 10);
    rig.archive(node, 1, TIER);
    rig.archive(node, 1, OTHER);
    let copies = rig.copies(file_id(node), DataVersion(1)).unwrap();
    let under = |wanted| rig.status(wanted).unwrap().under_copied;
    assert_eq!((under(1), under(2), under(3)), (0, 0, 1));
    rig.set_copy_state(&copies[0], CopyState::Bad, at(80), Durability::Full)
        .unwrap();
    assert_eq!(rig.row(node).copies, 1);
    assert_eq!((under(1), under(2)), (0, 1));
    let listed = rig.under_copied(2, None, 10).unwrap();
    assert_eq!((listed.nodes[0].id, listed.next), (node, None));
    let due = rig
        .copies_to_verify(copies[1].tier, at(1000), None, 10)
        .unwrap();
    assert_eq!(due, [copies[1]]);
    rig.set_copy_state(&copies[1], CopyState::Good, at(2000), Durability::Full)
        .unwrap();
    assert_eq!(
        rig.copies_to_verify(copies[1].tier, at(1000), None, 10)
            .unwrap(),
        []
    );
    let listed = rig.copies(file_id(node), DataVersion(1)).unwrap();
    assert_eq!(listed[0].state, CopyState::Good, "good ones first");
}

#[test]
fn bad_copies_are_counted_listed_and_retired_when_others_took_their_place() {
    let rig = Rig::new();
    let (f, g) = (rig.file(10, 10), rig.file(11, 20));
    let first = rig.archive(f, 1, TIER);
    rig.archive(g, 1, TIER);
    let counted = || {
        let counts = rig.proof_counts().unwrap();
        let of = counts.iter().find(|c| c.tier == TIER).unwrap();
        (of.copies, of.bad)
    };
    assert_eq!(counted(), (2, 0));
    let bad = rig.copies(file_id(f), DataVersion(1)).unwrap()[0];
    let full = Durability::Full;
    assert_eq!(rig.retire(vec![bad], full).unwrap(), 0, "it is good");
    rig.note_checks(vec![(bad, CopyState::Bad)], at(50), full)
        .unwrap();
    assert_eq!((counted(), rig.row(f).copies), ((2, 1), 0));
    let listed = rig.bad_copies(TIER, None, 10).unwrap();
    assert_eq!((listed.len(), listed[0].node), (1, Some(f)));
    assert_eq!(listed[0].copy.aggregate, first.id);
    let behind = Some(listed[0].copy.place());
    assert_eq!(rig.bad_copies(TIER, behind, 10).unwrap(), []);
    let again = NewAggregate {
        id: AggregateId { epoch: 9, seq: 9 },
        ..first
    };
    let copy = Copy {
        aggregate: again.id,
        state: CopyState::Good,
        ..bad
    };
    rig.made_again(again, vec![Made { node: f, copy }], at(60))
        .unwrap();
    assert_eq!((counted(), rig.row(f).copies), ((3, 1), 1));
    // By the time that it is retired what took its place may be no better.
    let doomed = |state, life| {
        let connection = rig.connection();
        let one = "epoch = 9 AND seq = 9";
        let set = format!("UPDATE copies SET state = {state} WHERE {one};");
        let its = format!("UPDATE aggregates SET life = {life} WHERE {one};");
        connection.execute_batch(&(set + &its)).unwrap();
    };
    for (state, life) in [(2, 0), (0, 1)] {
        doomed(state, life);
        assert_eq!(rig.retire(vec![bad], full).unwrap(), 0, "{state} {life}");
    }
    doomed(0, 0);
    let bound = crate::catalog::Bound {
        before: at(70),
        now: at(70),
    };
    let departed = || {
        let member = [(bad.file, bad.version)];
        rig.departed(TIER, first.id, &member, bound).unwrap()[0].clone()
    };
    assert!(departed().is_err(), "it is needed until it is retired");
    assert_eq!(rig.retire(vec![bad], full).unwrap(), 1);
    assert_eq!(rig.retire(vec![bad], full).unwrap(), 0, "once");
    assert_eq!(departed(), Ok(crate::catalog::Departed::GivenUp));
    assert_eq!(counted(), (2, 0));
    let gone = rig.aggregate(TIER, first.id).unwrap().unwrap();
    assert_eq!(
        (gone.live_members, gone.live_bytes),
        (0, 0),
        "nobody needs it"
    );
    let live = rig.live_copies(file_id(f), DataVersion(1)).unwrap();
    assert_eq!(
        live.iter().map(|c| c.aggregate).collect::<Vec<_>>(),
        [again.id]
    );
}

/// A bad copy of a released file, and one that is being made in its place.
fn being_made_again() -> (Rig, NodeId, Made, NewAggregate) {
    let rig = Rig::new();
    let node = rig.file(2, 10);
    rig.archive(node, 1, TIER);
    let copy = rig.copies(file_id(node), DataVersion(1)).unwrap()[0];
    let bad = vec![(copy, CopyState::Bad)];
    rig.note_checks(bad, at(50), Durability::Full).unwrap();
    let late = NewAggregate {
        tier: TIER,
        id: rig.next_aggregate().unwrap(),
        len: 1,
        in_parts: false,
        crc: Crc32c(1),
        proof: ProofKind::ReadBack,
    };
    let copy = Copy {
        aggregate: late.id,
        state: CopyState::Good,
        ..copy
    };
    (rig, node, Made { node, copy }, late)
}

fn live(rig: &Rig, made: Made) -> bool {
    let live = rig.live_members(TIER, made.copy.aggregate, None, 5);
    live.unwrap() == [made.copy]
}

fn is_dirty_with_a_tombstone(rig: &Rig, node: NodeId) -> bool {
    let (dirty, stones) = (rig.row(node).state, rig.tombstones(None, 5).unwrap());
    assert_eq!(dirty == FileState::Dirty, stones.len() == 1, "{stones:?}");
    dirty == FileState::Dirty
}

/// Its file was looked at, and its ctime moved before that was noted: it may have changed.
#[test]
fn a_file_that_is_learned_as_changed_since_has_a_tombstone_and_its_copies_count_when_it_had_not() {
    let (rig, node, made, late) = being_made_again();
    let version = rig.row(node).version.unwrap();
    let learn = |ctime| {
        let known = Known {
            node,
            state: FileState::Archived,
            version,
            copies: Vec::new(),
            under: Some((rig.plan(node), ctime)),
        };
        rig.learn(vec![known], at(60), Durability::Full).unwrap();
    };
    learn(at(0));
    assert!(is_dirty_with_a_tombstone(&rig, node));
    rig.made_again(late, vec![made], at(61)).unwrap();
    assert!(!live(&rig, made), "nobody has that version");
    learn(at(1000));
    assert!(!is_dirty_with_a_tombstone(&rig, node));
    assert!(live(&rig, made));
}

/// A release of a dirty file that was found unchanged was not done after all.
#[test]
fn a_release_that_is_taken_back_leaves_the_tombstone_again() {
    let (rig, node, made, late) = being_made_again();
    let why = TombstoneWhy::Overwrite;
    rig.dirtied(node, why, at(60), Durability::Full).unwrap();
    let swap = |state| {
        let planned = rig.plan(node);
        let done = rig.swap_state(node, planned, (state, None), at(70));
        assert!(done.unwrap());
    };
    swap(FileState::Released);
    assert!(!is_dirty_with_a_tombstone(&rig, node));
    swap(FileState::Dirty);
    assert!(is_dirty_with_a_tombstone(&rig, node));
    assert_eq!(rig.tombstones(None, 5).unwrap()[0].at, at(70));
    rig.made_again(late, vec![made], at(71)).unwrap();
    assert!(!live(&rig, made));
    swap(FileState::Released);
    assert!(live(&rig, made));
}

/// Words about a file come from somebody who read its row before news came.
#[test]
fn words_about_a_file_change_no_state() {
    let (rig, node, made, late) = being_made_again();
    let why = TombstoneWhy::Overwrite;
    rig.dirtied(node, why, at(60), Durability::Full).unwrap();
    rig.made_again(late, vec![made], at(61)).unwrap();
    rig.set_note(node, "conflict".into(), Durability::Full)
        .unwrap();
    assert!(is_dirty_with_a_tombstone(&rig, node));
    assert_eq!(rig.row(node).note.as_deref(), Some("conflict"));
}

/// It was made again while the file was taken for changed; if that was wrong, it counts when the bad one
/// it was made for is retired.
#[test]
fn a_copy_of_a_version_that_no_file_has_is_nobodys_until_a_file_has_it() {
    let rig = Rig::new();
    let f = rig.file(10, 10);
    let first = rig.archive(f, 1, TIER);
    let full = Durability::Full;
    let bad = rig.copies(file_id(f), DataVersion(1)).unwrap()[0];
    rig.note_checks(vec![(bad, CopyState::Bad)], at(50), full)
        .unwrap();
    rig.dirtied(f, TombstoneWhy::Overwrite, at(70), full)
        .unwrap();
    let late = NewAggregate {
        id: AggregateId { epoch: 9, seq: 10 },
        ..first
    };
    let copy = Copy {
        aggregate: late.id,
        state: CopyState::Good,
        ..bad
    };
    rig.made_again(late, vec![Made { node: f, copy }], at(80))
        .unwrap();
    let live = |id| rig.aggregate(TIER, id).unwrap().unwrap().live_members;
    assert_eq!(live(late.id), 0);
    // As rows were met: the bad one counts again, the good one was forgotten.
    let connection = rig.connection();
    connection
        .execute_batch(
            "DELETE FROM tombstones; UPDATE nodes SET state = 1 WHERE file IS NOT NULL;
             UPDATE copies SET live = state = 2;
             UPDATE aggregates SET live_members = epoch <> 9, live_bytes = 100 * (epoch <> 9)",
        )
        .unwrap();
    assert_eq!(rig.retire(vec![bad], full).unwrap(), 1);
    assert_eq!((live(first.id), live(late.id)), (0, 1));
}

#[test]
fn candidates_to_archive_in_order_and_in_pages() {
    let rig = Rig::new();
    let files: Vec<NodeId> = (0..7).map(|n| rig.file(10 + n, 10 * (n + 1))).collect();
    rig.directory(50, NodeId::ROOT, b"dir");
    rig.set_flag(files[1], Flag::NoArchive, true, Durability::Full)
        .unwrap();
    rig.archive(files[2], 1, TIER);
    rig.archive(files[3], 1, TIER);
    rig.dirtied(files[3], TombstoneWhy::Overwrite, at(60), Durability::Full)
        .unwrap();
    let filter = ArchiveFilter { older_than: at(70) };
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = rig.to_archive(filter, after, 2).unwrap();
        found.extend(page.nodes.iter().map(|n| n.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(
        found,
        [files[0], files[3], files[4], files[5]],
        "oldest change first, 70 is too new"
    );
}

#[test]
fn candidates_to_release_respect_flags_pins_sizes_and_access() {
    let rig = Rig::new();
    let files: Vec<NodeId> = (0..8).map(|n| rig.file(10 + n, 10 * (n + 1))).collect();
    for file in &files[..7] {
        rig.archive(*file, 1, TIER);
    }
    rig.set_flag(files[1], Flag::NoRelease, true, Durability::Full)
        .unwrap();
    let pin = Pin {
        node: files[2],
        holder: "job".into(),
        expires: at(500),
    };
    rig.pin(vec![pin]).unwrap();
    rig.note_access(vec![(handle(13), at(65))], Durability::Full)
        .unwrap();
    let back = attributes(FileKind::Regular, 50);
    let back = recalled(files[4], 1, back);
    rig.staged(files[4], back, at(90), Durability::Full)
        .unwrap();
    let mut filter = ReleaseFilter {
        min_size: 20,
        accessed_before: at(1000),
        staged_before: at(80),
        min_copies: 1,
        now: at(100),
    };
    let ids = |filter| -> Vec<NodeId> {
        let page = rig.to_release(filter, None, 100).unwrap();
        assert_eq!(page.next, None);
        page.nodes.iter().map(|n| n.id).collect()
    };
    // 0 is too small, 1 flagged, 2 pinned, 3 read at 65 (after 5, at 60), 4 staged too lately
    assert_eq!(ids(filter), [files[5], files[3], files[6]]);
    filter.now = at(500);
    filter.staged_before = at(91);
    assert_eq!(
        ids(filter),
        [files[2], files[4], files[5], files[3], files[6]]
    );
    filter.min_copies = 2;
    assert_eq!(ids(filter), []);
}

fn recalled(node: NodeId, version: u64, attributes: Attributes) -> Recalled {
    Recalled {
        version: (file_id(node), DataVersion(version)),
        attributes,
        proven: proven(1),
        ctime: attributes.ctime,
    }
}

/// A later write as the changelog notes it: attributes first.
fn changed(rig: &Rig, node: NodeId, number: u64, ctime: i64) {
    let row = rig.row(node);
    let seen = Sighting {
        handle: handle(number),
        attributes: Attributes {
            ctime: at(ctime),
            ..row.attributes
        },
        place: None,
    };
    rig.note(vec![seen], Durability::Full).unwrap();
    rig.differs(
        node,
        row.proven,
        TombstoneWhy::Overwrite,
        at(ctime),
        Durability::Full,
    )
    .unwrap();
}

#[test]
fn an_archive_that_ends_late_does_not_undo_a_change_that_was_noted_meanwhile() {
    let rig = Rig::new();
    let node = rig.file(2, 10);
    rig.archive(node, 1, TIER);
    // A second copy is being made of what is archived ...
    let planned = rig.plan(node);
    changed(&rig, node, 2, 30);
    assert_eq!(rig.row(node).state, FileState::Dirty);
    let aggregate = rig.archive_begun(planned, node, 1, OTHER);
    let row = rig.row(node);
    assert_eq!((row.state, row.copies), (FileState::Dirty, 2));
    assert_eq!(rig.tombstones(None, 10).unwrap().len(), 1);
    let live = |aggregate: NewAggregate| {
        let found = rig.aggregate(aggregate.tier, aggregate.id);
        found.unwrap().unwrap().live_members
    };
    assert_eq!(live(aggregate), 0, "nobody needs the copy");
    // ... and a version of what was dirty already and is written to once more, or was new.
    let planned = rig.plan(node);
    changed(&rig, node, 2, 40);
    let (dirty, new) = (rig.plan(node), rig.file(3, 20));
    assert_eq!(planned, dirty, "the state alone does not tell");
    let at_thirty = |node, version| Archived {
        node,
        planned: rig.plan(node),
        version: version_of(node, version),
        proven: Proven {
            ctime: at(30),
            ..proven(1)
        },
        header: 512,
        stored_len: 100,
    };
    changed(&rig, new, 3, 40);
    let name = NewAggregate {
        id: rig.next_aggregate().unwrap(),
        ..aggregate
    };
    let both = vec![at_thirty(node, 2), at_thirty(new, 1)];
    rig.archived(name, both, at(50)).unwrap();
    for node in [node, new] {
        assert_eq!(rig.row(node).state, FileState::Dirty, "{node}");
    }
    assert_eq!(live(name), 0);
    // What comes after the change ends it.
    rig.archive(node, 3, OTHER);
    assert_eq!(rig.row(node).state, FileState::Archived);
}

#[test]
fn an_older_version_that_ends_last_replaces_nothing() {
    let rig = Rig::new();
    let node = rig.file(2, 10);
    let planned = rig.plan(node);
    rig.archive(node, 2, TIER);
    let late = rig.archive_begun(planned, node, 1, OTHER);
    let row = rig.row(node);
    assert_eq!(row.version.unwrap().version, DataVersion(2));
    assert_eq!((row.state, row.copies), (FileState::Archived, 1));
    let found = rig.aggregate(OTHER, late.id).unwrap().unwrap();
    assert_eq!((found.members, found.live_members), (1, 0));
}

#[test]
fn late_news_of_releases_recalls_and_losses_change_nothing_that_changed_since() {
    let rig = Rig::new();
    let node = rig.file(2, 10);
    rig.archive(node, 1, TIER);
    let archived = rig.plan(node);
    let same = rig.row(node).attributes;
    changed(&rig, node, 2, 30);
    rig.released(node, archived, same, proven(1), Durability::Full)
        .unwrap();
    assert_eq!(rig.row(node).state, FileState::Dirty);
    rig.lost(node, archived, "gone".into()).unwrap();
    assert_eq!(rig.row(node).state, FileState::Dirty);
    // A recall that had ended before the change, and one of another version.
    let mut back = recalled(node, 1, same);
    rig.staged(node, back, at(70), Durability::Full).unwrap();
    assert_eq!(rig.row(node).state, FileState::Dirty);
    back = recalled(node, 7, rig.row(node).attributes);
    rig.staged(node, back, at(70), Durability::Full).unwrap();
    assert_eq!(rig.row(node).state, FileState::Dirty);
    // What was taken for a change was the recall itself.
    back = recalled(node, 1, rig.row(node).attributes);
    rig.staged(node, back, at(70), Durability::Full).unwrap();
    assert_eq!(rig.row(node).state, FileState::Archived);
    assert_eq!(rig.tombstones(None, 10).unwrap(), []);
    // A comparison with a point that is not the last one.
    let row = rig.row(node);
    let other = Proven {
        ctime: at(8),
        ..proven(1)
    };
    let why = TombstoneWhy::Overwrite;
    rig.differs(node, Some(other), why, at(80), Durability::Full)
        .unwrap();
    assert_eq!(rig.row(node), row);
    // A point of another version.
    let point = Rebound {
        node,
        version: (file_id(node), DataVersion(9)),
        proven: other,
    };
    rig.rebound(vec![point], Durability::Full).unwrap();
    assert_eq!(rig.row(node), row);
}

#[test]
fn what_was_learned_by_a_slow_look_does_not_overwrite_news() {
    let rig = Rig::new();
    let looked = |node: NodeId| Known {
        node,
        state: FileState::Archived,
        version: version_of(node, 1),
        copies: rig.copies(file_id(node), DataVersion(1)).unwrap(),
        under: Some((rig.plan(node), rig.row(node).attributes.ctime)),
    };
    let (edited, touched, same) = (rig.file(2, 10), rig.file(3, 10), rig.file(4, 10));
    for node in [edited, touched, same] {
        rig.archive(node, 1, TIER);
    }
    let known = [edited, touched, same].map(looked).to_vec();
    rig.dirtied(edited, TombstoneWhy::Overwrite, at(60), Durability::Full)
        .unwrap();
    // A look that says nothing of data: the same name, a later ctime.
    assert_eq!(rig.file(3, 11), touched);
    rig.learn(known, at(61), Durability::Full).unwrap();
    let states = [edited, touched, same].map(|node| rig.row(node).state);
    use FileState::{Archived, Dirty};
    assert_eq!(states, [Dirty, Dirty, Archived]);
    let tombs = rig.tombstones(None, 10).unwrap();
    let of: Vec<FileId> = tombs.iter().map(|stone| stone.file).collect();
    assert_eq!(of, [edited, touched].map(file_id), "{tombs:?}");
}
