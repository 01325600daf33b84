//! Nodes and names: paths, links, renames, sweeps, usage.

use super::*;

fn usage(rig: &Rig, state: FileState) -> (u64, u64) {
    let all = rig.status(1).unwrap().usage;
    let found = all.iter().find(|u| u.state == state);
    found.map_or((0, 0), |u| (u.files, u.bytes))
}

#[test]
fn paths_are_walked_and_follow_renames_of_directories() {
    let rig = Rig::new();
    let a = rig.directory(2, NodeId::ROOT, b"a");
    let b = rig.directory(3, a, b"b");
    let f = rig.file_at(4, 10, b, b"f\xff".to_vec());
    assert_eq!(rig.path_of(f).unwrap().unwrap(), b"a/b/f\xff");
    assert_eq!(rig.path_of(NodeId::ROOT).unwrap().unwrap(), b"");
    rig.rename(
        (NodeId::ROOT, b"a"),
        (NodeId::ROOT, b"z"),
        at(5),
        Durability::Full,
    )
    .unwrap();
    assert_eq!(rig.path_of(f).unwrap().unwrap(), b"z/b/f\xff");
    rig.link(a, b"g", f, Durability::Full).unwrap();
    let mut names = rig.all_names(f, 10).unwrap();
    names.sort();
    assert_eq!(names, [b"z/b/f\xff".to_vec(), b"z/g".to_vec()]);
    assert_eq!(rig.lookup(a, b"g").unwrap(), Some(f));
    let listed = rig.children(a, None, 10).unwrap();
    let listed: Vec<&[u8]> = listed.iter().map(|e| e.name.as_slice()).collect();
    assert_eq!(listed, [b"b".as_slice(), b"g"]);
    assert_eq!(rig.children(a, Some(b"b"), 10).unwrap().len(), 1);
}

#[test]
fn a_circle_of_directories_is_reported_not_followed() {
    let rig = Rig::new();
    let a = rig.directory(2, NodeId::ROOT, b"a");
    let b = rig.directory(3, a, b"b");
    rig.rename((NodeId::ROOT, b"a"), (b, b"a"), at(5), Durability::Full)
        .unwrap();
    assert!(matches!(rig.path_of(a), Err(CatalogError::Damaged { .. })));
}

#[test]
fn noting_again_keeps_state_and_counts_once() {
    let rig = Rig::new();
    let node = rig.file(2, 1000);
    assert_eq!(usage(&rig, FileState::None), (1, 1000));
    rig.archive(node, 1, TIER);
    assert_eq!(rig.file(2, 1500), node);
    let row = rig.row(node);
    assert_eq!(
        (row.state, row.attributes.size),
        (FileState::Archived, 1500)
    );
    assert_eq!(usage(&rig, FileState::None), (0, 0));
    assert_eq!(usage(&rig, FileState::Archived), (1, 1500));
    assert_eq!(rig.usage_of(1000).unwrap(), rig.status(1).unwrap().usage);
    rig.forget(node, at(60), Durability::Full).unwrap();
    assert_eq!(usage(&rig, FileState::Archived), (0, 0));
}

#[test]
fn the_last_unlink_forgets_and_a_replaced_name_does_too() {
    let rig = Rig::new();
    let (f, g) = (rig.file(2, 10), rig.file(3, 20));
    rig.archive(f, 1, TIER);
    rig.archive(g, 1, TIER);
    rig.link(NodeId::ROOT, b"second", f, Durability::Full)
        .unwrap();
    let first = rig
        .unlink(NodeId::ROOT, b"file2", false, at(5), Durability::Full)
        .unwrap();
    assert_eq!(
        first,
        Some(Unlinked {
            node: f,
            forgotten: false
        })
    );
    // rename over the last name
    let (from, to) = (b"file3".as_slice(), b"second".as_slice());
    rig.rename(
        (NodeId::ROOT, from),
        (NodeId::ROOT, to),
        at(6),
        Durability::Full,
    )
    .unwrap();
    assert_eq!(rig.node(f).unwrap(), None);
    let tombs = rig.tombstones(None, 10).unwrap();
    assert_eq!(tombs.len(), 1);
    assert_eq!(
        (tombs[0].file, tombs[0].why),
        (file_id(f), TombstoneWhy::Unlink)
    );
    assert_eq!(
        (tombs[0].path.as_slice(), tombs[0].uid),
        (b"second".as_slice(), 1000)
    );
    // alive elsewhere: only the name goes
    let gone = rig
        .unlink(NodeId::ROOT, b"second", true, at(7), Durability::Full)
        .unwrap();
    assert_eq!(
        gone,
        Some(Unlinked {
            node: g,
            forgotten: false
        })
    );
    assert_eq!(rig.path_of(g).unwrap(), None);
    assert_eq!(
        rig.unlink(NodeId::ROOT, b"nothing", false, at(7), Durability::Full)
            .unwrap(),
        None
    );
}

#[test]
fn a_scan_drops_names_and_tells_which_nodes_it_did_not_see() {
    let rig = Rig::new();
    let (kept, gone) = (rig.file(2, 10), rig.file(3, 20));
    rig.archive(gone, 1, TIER);
    let generation = rig.begin_scan(at(100)).unwrap();
    rig.save_scan_position(b"here".to_vec(), 1).unwrap();
    rig.file(2, 10);
    let fresh = rig.file(9, 30);
    rig.settle(Durability::Relaxed).unwrap();
    assert_eq!(rig.scan_state().unwrap().position, b"here");
    assert_eq!(
        rig.finish_directory(NodeId::ROOT, generation, 10).unwrap(),
        [gone]
    );
    rig.finish_scan(at(101), true).unwrap();
    let (mut after, mut unseen) = (None, Vec::new());
    loop {
        let page = rig.unseen(generation, after, 1).unwrap();
        unseen.extend(page.nodes);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let expected = Unseen {
        node: gone,
        handle: handle(3),
        missed_before: false,
        parent: None,
        parent_seen: false,
    };
    assert_eq!(unseen, [expected]);
    assert!(rig.node(gone).unwrap().is_some(), "unseen is not yet gone");
    let found = Settled {
        gone: vec![gone],
        ..Settled::default()
    };
    assert_eq!(rig.settle_unseen(generation, found, at(102)).unwrap(), 1);
    assert!(rig.node(gone).unwrap().is_none());
    assert!(rig.node(kept).unwrap().is_some() && rig.node(fresh).unwrap().is_some());
    assert_eq!(rig.tombstones(None, 10).unwrap().len(), 1);
    let state = rig.scan_state().unwrap();
    assert_eq!(
        (state.finished_generation, state.running),
        (generation, false)
    );
    assert_eq!(state.finished_begun_at, Some(at(100)));
}

#[test]
fn numbers_of_nodes_are_not_reused_and_the_root_keeps_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(&dir.path().join("catalog"), identity()).unwrap();
    catalog.begin_incarnation(start(1)).unwrap();
    let sighting = |number| Sighting {
        handle: handle(number),
        attributes: attributes(FileKind::Regular, 1),
        place: None,
    };
    let first = catalog.note(vec![sighting(5)], Durability::Full).unwrap()[0];
    assert!(first > NodeId::ROOT);
    catalog.forget(first, at(1), Durability::Full).unwrap();
    let second = catalog.note(vec![sighting(6)], Durability::Full).unwrap()[0];
    assert!(second > first);
    let root = attributes(FileKind::Directory, 0);
    catalog.set_root(&handle(6), root).unwrap();
    assert_eq!(
        catalog.node_by_handle(&handle(6)).unwrap().unwrap().id,
        NodeId::ROOT
    );
    catalog.set_root(&handle(7), root).unwrap();
    assert_eq!(
        catalog.node(NodeId::ROOT).unwrap().unwrap().handle,
        handle(7)
    );
}

#[test]
fn pins_of_several_holders() {
    let rig = Rig::new();
    let node = rig.file(2, 10);
    let pin = |holder: &str, expires| Pin {
        node,
        holder: holder.to_owned(),
        expires: at(expires),
    };
    rig.pin(vec![pin("a", 10), pin("b", 20), pin("b", 30)])
        .unwrap();
    assert_eq!(rig.pinned_until(node, at(5)).unwrap(), Some(at(30)));
    assert_eq!(rig.status(1).unwrap().pins, 2);
    assert_eq!(rig.unpin(vec![node], "b").unwrap(), 1);
    assert_eq!(rig.pinned_until(node, at(5)).unwrap(), Some(at(10)));
    assert_eq!(rig.pinned_until(node, at(10)).unwrap(), None);
    assert_eq!(rig.expire_pins(at(10), 100).unwrap(), 1);
    assert_eq!(rig.pins(node).unwrap(), []);
    assert_eq!(rig.status(1).unwrap().pins, 0);
}

#[test]
fn rescans_and_the_changelog() {
    let rig = Rig::new();
    let mark = |since| Rescan {
        node: NodeId::ROOT,
        since: at(since),
        why: "overflow".to_owned(),
    };
    rig.need_rescan(vec![mark(10)]).unwrap();
    assert_eq!(rig.rescans(10).unwrap(), [mark(10)]);
    // Set again while it was being looked at, by a clock that stands: it stays.
    rig.need_rescan(vec![mark(10)]).unwrap();
    rig.rescanned(&mark(10)).unwrap();
    let again = rig.rescans(10).unwrap();
    assert_eq!(again.len(), 1);
    rig.rescanned(&again[0]).unwrap();
    rig.settle(Durability::Relaxed).unwrap();
    assert_eq!(rig.status(1).unwrap().rescans, 0);
    rig.advance_changelog(7, 5, 2, 1).unwrap();
    rig.advance_changelog(9, 2, 0, 0).unwrap();
    rig.settle(Durability::Relaxed).unwrap();
    let expected = ChangelogState {
        position: 9,
        applied: 7,
        lost: 2,
        overflows: 1,
    };
    assert_eq!(rig.status(1).unwrap().changelog, expected);
}

/// Where handles prove nothing, two scans must have missed a node, and an event in between saves it.
#[test]
fn without_handles_a_node_is_forgotten_when_two_scans_missed_it() {
    let rig = Rig::new();
    let (lost, back) = (rig.file(2, 10), rig.file(3, 20));
    let scan = |from: i64| {
        let generation = rig.begin_scan(at(from)).unwrap();
        rig.finish_scan(at(from + 1), true).unwrap();
        let mut found = Settled::default();
        for unseen in rig.unseen(generation, None, 100).unwrap().nodes {
            let list = if unseen.missed_before {
                &mut found.missed_twice
            } else {
                &mut found.missed
            };
            list.push(unseen.node);
        }
        let forgotten = rig.settle_unseen(generation, found.clone(), at(from + 2));
        (found, forgotten.unwrap())
    };
    let (first, forgotten) = scan(100);
    assert_eq!((first.missed, forgotten), (vec![lost, back], 0));
    assert_eq!(rig.row(lost).seen_scan, 0);
    rig.file(3, 21);
    let (second, forgotten) = scan(200);
    assert_eq!((second.missed_twice, forgotten), (vec![lost], 1));
    assert_eq!(second.missed, [back]);
    assert!(rig.node(lost).unwrap().is_none() && rig.node(back).unwrap().is_some());
}

/// A mark goes with a scan that began after it was set, whatever the clock did meanwhile.
#[test]
fn marks_outlive_scans_that_began_before_them() {
    let rig = Rig::new();
    let mark = |node, since| Rescan {
        node: NodeId(node),
        since: at(since),
        why: "overflow".to_owned(),
    };
    // By a clock that was far ahead when it was set.
    rig.need_rescan(vec![mark(7, 5000)]).unwrap();
    rig.begin_scan(at(100)).unwrap();
    // By a clock that was set back during the scan.
    rig.need_rescan(vec![mark(8, 50)]).unwrap();
    rig.finish_scan(at(101), true).unwrap();
    let left: Vec<_> = rig.rescans(10).unwrap().iter().map(|m| m.node).collect();
    assert_eq!(left, [NodeId(8)]);
    // One that could not look everywhere takes no mark away, and is not the whole scan P8 asks for.
    let begun = rig.scan_state().unwrap().finished_begun_at;
    rig.begin_scan(at(200)).unwrap();
    rig.finish_scan(at(201), false).unwrap();
    assert_eq!(rig.rescans(10).unwrap().len(), 1);
    assert_eq!(rig.scan_state().unwrap().finished_begun_at, begun);
    assert_eq!(rig.scan_state().unwrap().finished_at, Some(at(201)));
}

/// A scan that could not look at something leaves marks on that, and takes the older ones.
#[test]
fn marks_on_what_a_scan_could_not_look_at_take_the_place_of_older_ones() {
    let rig = Rig::new();
    let mark = |node, since| Rescan {
        node: NodeId(node),
        since: at(since),
        why: "test".to_owned(),
    };
    let left = || {
        let mut left: Vec<_> = rig.rescans(10).unwrap().iter().map(|m| m.node.0).collect();
        left.sort_unstable();
        left
    };
    rig.need_rescan(vec![mark(1, 5), mark(7, 5)]).unwrap();
    rig.begin_scan(at(100)).unwrap();
    rig.need_rescan(vec![mark(8, 50)]).unwrap();
    rig.narrow_rescans(vec![mark(9, 60), mark(7, 60)]).unwrap();
    assert_eq!(left(), [7, 8, 9]);
    rig.finish_scan(at(101), false).unwrap();
    rig.narrow_rescans(vec![mark(6, 500)]).unwrap();
    assert_eq!(left(), [6, 7, 8, 9], "no scan runs");
}

#[test]
fn a_part_is_not_begun_while_the_whole_is_scanned() {
    let rig = Rig::new();
    let whole = rig.begin_scan(at(1)).unwrap();
    assert_eq!(rig.begin_part().unwrap(), None);
    rig.finish_scan(at(2), true).unwrap();
    assert_eq!(rig.begin_part().unwrap(), Some(whole + 1));
}

#[test]
fn troubles_are_counted_and_listed() {
    let rig = Rig::new();
    let (a, b) = (rig.file(2, 10), rig.file(3, 20));
    let set = |found| rig.set_trouble(found, Durability::Full).unwrap();
    let counts = || {
        let status = rig.status(1).unwrap();
        (status.foreign, status.conflict)
    };
    set(vec![
        (a, Some(Trouble::Foreign)),
        (b, Some(Trouble::Conflict)),
        (NodeId(99), Some(Trouble::Conflict)),
    ]);
    assert_eq!(counts(), (1, 1));
    set(vec![(a, Some(Trouble::Conflict))]);
    assert_eq!(counts(), (0, 2));
    let listed = rig.troubled(Trouble::Conflict, Some(a), 10).unwrap();
    assert_eq!(listed.iter().map(|n| n.id).collect::<Vec<_>>(), [b]);
    assert_eq!(listed[0].trouble, Some(Trouble::Conflict));
    set(vec![(a, None)]);
    rig.forget(b, at(5), Durability::Full).unwrap();
    assert_eq!(counts(), (0, 0));
    rig.set_state(a, FileState::Lost, None, Durability::Full)
        .unwrap();
    assert_eq!(rig.lost_files(None, 10).unwrap().len(), 1);
}
