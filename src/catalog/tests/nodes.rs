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
fn a_scan_drops_names_and_sweeps_nodes_it_did_not_see() {
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
        1
    );
    rig.finish_scan(at(101)).unwrap();
    let (mut after, mut forgotten) = (None, 0);
    loop {
        let swept = rig.sweep_vanished(generation, after, 1, at(102)).unwrap();
        forgotten += swept.forgotten;
        after = swept.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(forgotten, 1);
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
    rig.need_rescan(mark(10)).unwrap();
    rig.rescanned(NodeId::ROOT, at(10)).unwrap();
    assert_eq!(rig.rescans(10).unwrap(), [mark(10)]);
    rig.rescanned(NodeId::ROOT, at(11)).unwrap();
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
