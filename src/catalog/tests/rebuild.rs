//! A catalog that is built anew, and what is printed of one.

use super::*;

const AGGREGATE: AggregateId = AggregateId { epoch: 3, seq: 7 };

fn aggregate(seq: u64) -> LearnedAggregate {
    LearnedAggregate {
        tier: TIER,
        id: AggregateId { epoch: 3, seq },
        len: 8192,
        in_parts: Some(false),
        composed: at(40),
        damaged: false,
    }
}

fn member(node: NodeId, version: u64, name: &str) -> LearnedMember {
    let of = version_of(node, version);
    LearnedMember {
        file: of.file,
        version: of.version,
        header: 512,
        stored_len: 100,
        crc: of.crc,
        blocks_crc: of.blocks_crc,
        names: vec![name.as_bytes().to_vec()],
        size: 10,
        mtime: at(10),
        uid: 1000,
        gid: 100,
    }
}

fn begun() -> Rig {
    let rig = Rig::new();
    let sources = Sources {
        stubs: true,
        tiers: true,
    };
    rig.begin_rebuild(sources, at(1)).unwrap();
    rig
}

fn learn_file(rig: &Rig, node: NodeId, state: FileState) {
    let known = Known {
        node,
        state,
        version: version_of(node, 1),
        copies: Vec::new(),
        under: None,
    };
    rig.learn(vec![known], at(61), Durability::Full).unwrap();
}

#[test]
fn p8_what_an_index_tells_of_is_no_files_and_nobody_may_delete_it() {
    let rig = begun();
    let node = rig.file(2, 10);
    let (members, done) = (vec![member(node, 1, "file2")], true);
    rig.learn_members(aggregate(7), members, done).unwrap();
    let found = || rig.aggregate(TIER, AGGREGATE).unwrap().unwrap();
    assert_eq!(
        (found().members, found().bytes, found().len),
        (1, 100, 8192)
    );
    assert_eq!((found().live_members, found().live_bytes), (0, 0));
    assert_eq!(found().proof, ProofKind::Learned);
    assert_eq!(rig.tombstones(None, 10).unwrap(), []);
    // A record names it.
    learn_file(&rig, node, FileState::Released);
    assert_eq!((found().live_members, found().live_bytes), (1, 100));
    let row = rig.row(node);
    assert_eq!((row.copies, row.state), (1, FileState::Released));
    assert!(row.is_suspect(&rig.incarnation().unwrap()));
}

#[test]
fn p8_the_version_of_a_file_that_changed_since_is_dead_and_has_a_tombstone() {
    let rig = begun();
    let node = rig.file(2, 10);
    let (members, done) = (vec![member(node, 1, "file2")], true);
    rig.learn_members(aggregate(7), members, done).unwrap();
    learn_file(&rig, node, FileState::Dirty);
    let found = rig.aggregate(TIER, AGGREGATE).unwrap().unwrap();
    assert_eq!(found.live_members, 0);
    let tombs = rig.tombstones(None, 10).unwrap();
    assert_eq!((tombs.len(), &tombs[0].path[..]), (1, &b"file2"[..]));
}

/// A comparison showed that it had not changed after all.
#[test]
fn p8_a_released_file_that_was_taken_for_dirty_has_no_tombstone() {
    let rig = Rig::new();
    let node = rig.file(2, 10);
    let aggregate = rig.archive(node, 1, TIER);
    let live = || {
        let found = rig.aggregate(TIER, aggregate.id).unwrap().unwrap();
        found.live_members
    };
    rig.dirtied(node, TombstoneWhy::Overwrite, at(60), Durability::Full)
        .unwrap();
    assert_eq!((live(), rig.tombstones(None, 10).unwrap().len()), (0, 1));
    let released = rig.swap_state(node, rig.plan(node), (FileState::Released, None), at(60));
    assert!(released.unwrap());
    assert_eq!((live(), rig.tombstones(None, 10).unwrap().len()), (1, 0));
}

#[test]
fn reading_a_tier_goes_on_where_it_was_and_counts_nothing_twice() {
    let rig = begun();
    let (a, b) = (rig.file(2, 10), rig.file(3, 10));
    let read = || rig.tier_read(TIER).unwrap();
    rig.learn_members(aggregate(7), vec![member(a, 1, "a")], false)
        .unwrap();
    assert_eq!(read().after, None, "its rest is still to come");
    // Killed: it is read again from its beginning.
    rig.learn_members(aggregate(7), vec![member(a, 1, "a")], false)
        .unwrap();
    let last = LearnedMember {
        header: 1024,
        ..member(b, 1, "b")
    };
    rig.learn_members(aggregate(7), vec![last], true).unwrap();
    let found = rig.aggregate(TIER, AGGREGATE).unwrap().unwrap();
    assert_eq!((found.members, found.bytes), (2, 200));
    assert_eq!(read().after, Some(AGGREGATE));
    assert_eq!((read().aggregates, read().members), (1, 2));
    rig.finish_tier(TIER).unwrap();
    assert!(read().complete);
    let sources = |tiers| Sources { stubs: true, tiers };
    let again = rig.begin_rebuild(sources(true), at(9)).unwrap();
    assert_eq!((again.begun_at, read().complete), (at(1), true));
    let other = rig.begin_rebuild(sources(false), at(9));
    assert!(matches!(other, Err(CatalogError::Refused { .. })));
    rig.finish_rebuild(at(9)).unwrap();
    assert_eq!(rig.remembered_as(b"a").unwrap(), None);
    rig.begin_rebuild(sources(false), at(10)).unwrap();
    assert!(!read().complete);
}

#[test]
fn the_newest_aggregate_says_what_a_name_was() {
    let rig = begun();
    let (a, b) = (rig.file(2, 10), rig.file(3, 10));
    let named = |name: &str| {
        rig.remembered_as(name.as_bytes())
            .unwrap()
            .map(|r| r.version)
    };
    rig.learn_members(aggregate(8), vec![member(b, 1, "x")], true)
        .unwrap();
    rig.learn_members(
        aggregate(7),
        vec![member(a, 1, "x"), member(a, 2, "y")],
        true,
    )
    .unwrap();
    assert_eq!(named("x"), Some(version_of(b, 1)));
    assert_eq!(named("y"), Some(version_of(a, 2)));
    assert_eq!(rig.remembered_alike(10, at(10), 9).unwrap().len(), 2);
    assert_eq!(rig.remembered_alike(10, at(11), 9).unwrap(), []);
    let place = rig.copy_at(TIER, AGGREGATE, 512, Crc32c(11)).unwrap();
    assert_eq!(place.map(|c| c.file), Some(file_id(a)));
    assert_eq!(rig.copy_at(TIER, AGGREGATE, 512, Crc32c(0)).unwrap(), None);
}

#[test]
fn a_length_that_only_the_tier_knows_is_learned_once() {
    let rig = begun();
    let node = rig.file(2, 10);
    let copy = Copy {
        file: file_id(node),
        version: DataVersion(1),
        tier: TIER,
        aggregate: AGGREGATE,
        header: 512,
        stored_len: 10,
        crc: Crc32c(11),
        state: CopyState::Good,
        proven_at: at(1),
        last_verified: None,
    };
    let known = Known {
        node,
        state: FileState::Released,
        version: version_of(node, 1),
        copies: vec![copy],
        under: None,
    };
    rig.learn(vec![known], at(61), Durability::Full).unwrap();
    let known = || {
        let row = rig.aggregate(TIER, AGGREGATE).unwrap().unwrap();
        (row.len, row.in_parts)
    };
    assert_eq!(known(), (0, None));
    for told in [(4096, true), (8192, false)] {
        rig.learn_length(TIER, AGGREGATE, told).unwrap();
        rig.settle(Durability::Relaxed).unwrap();
        assert_eq!(known(), (4096, Some(true)));
    }
    rig.raise_epoch(99).unwrap();
    assert_eq!(rig.begin_incarnation(start(1)).unwrap().epoch, 100);
}

#[test]
fn a_dump_pages_through_all_there_is() {
    let rig = Rig::new();
    let directory = rig.directory(9, NodeId::ROOT, b"d");
    for n in 20..30 {
        let node = rig.file_at(n, 10, directory, n.to_string().into_bytes());
        rig.archive(node, 1, if n % 2 == 0 { TIER } else { TierId(3) });
        rig.dirtied(node, TombstoneWhy::Truncate, at(60), Durability::Full)
            .unwrap();
    }
    let kept = Unserved::open(&rig.path()).unwrap().unwrap();
    let (mut nodes, mut after) = (Vec::new(), None);
    loop {
        let page = kept.nodes(after.as_ref(), 3).unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.handle.clone());
        nodes.extend(page);
    }
    assert_eq!(nodes.len(), 12);
    assert!(nodes.is_sorted_by_key(|n| n.handle.bytes.clone()));
    let (mut copies, mut after) = (Vec::new(), None);
    while let Some(last) = kept.all_copies(after, 3).unwrap().last().copied() {
        copies.extend(kept.all_copies(after, 3).unwrap());
        let c = last.copy;
        after = Some((c.file, c.version, c.tier, c.aggregate));
    }
    assert_eq!(copies.len(), 10);
    assert!(copies.iter().all(|c| !c.live));
    assert_eq!(kept.tier_numbers().unwrap(), [TierId(3), TIER]);
    assert_eq!(kept.aggregates(TIER, None, 9).unwrap().len(), 5);
    assert_eq!(kept.tombstones(None, 3).unwrap().len(), 3);
    assert_eq!(kept.children(directory, Some(b"25"), 9).unwrap().len(), 4);
    assert_eq!(kept.pins(directory).unwrap(), []);
}

#[test]
fn the_condition_of_a_catalog_is_told_without_changing_it() {
    let rig = Rig::new();
    for n in 0..2000 {
        rig.file(n + 2, 10);
    }
    let path = rig.path();
    assert_eq!(Catalog::condition(&path).unwrap(), Condition::Whole);
    assert!(rig.has_served().unwrap());
    rig.clean_stop(at(9)).unwrap();
    drop(rig.catalog);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 9000].fill(0x5a);
    std::fs::write(&path, &bytes).unwrap();
    let found = Catalog::condition(&path).unwrap();
    assert!(matches!(found, Condition::Damaged(_)), "{found:?}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    std::fs::write(&path, "no catalog at all").unwrap();
    let found = Catalog::condition(&path).unwrap();
    assert!(matches!(found, Condition::Damaged(_)), "{found:?}");
    std::fs::write(&path, "").unwrap();
    assert_eq!(Catalog::condition(&path).unwrap(), Condition::Absent);
    // What cannot be read says nothing of damage: nobody is to build a catalog anew for that.
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let found = Catalog::condition(&path);
    assert!(matches!(&found, Err(why) if !why.is_damage()), "{found:?}");
}

/// A row that a program before wrote for what it made is of one object; of what it found nobody knows.
#[test]
fn a_catalog_of_version_4_does_not_say_what_is_in_parts() {
    let rig = Rig::new();
    rig.learn_members(aggregate(7), Vec::new(), true).unwrap();
    let node = rig.file(1, 10);
    let made = rig.archive(node, 1, TIER);
    let Rig { dir, catalog } = rig;
    drop(catalog);
    let path = dir.path().join("catalog");
    let old = rusqlite::Connection::open(&path).unwrap();
    let back = "ALTER TABLE aggregates DROP COLUMN in_parts; PRAGMA user_version = 4";
    old.execute_batch(back).unwrap();
    drop(old);
    let catalog = Catalog::open(&path, identity()).unwrap();
    let told = |id| catalog.aggregate(TIER, id).unwrap().unwrap().in_parts;
    assert_eq!(told(made.id), Some(false));
    assert_eq!(told(AGGREGATE), None);
}
