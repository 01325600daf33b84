//! P8: what moves past a scan keeps its bytes. Each move is told by the mount between two steps of the
//! scan.

use super::*;
use crate::catalog::{Bound, Departed, FileState, Hold, Known, Version};
use crate::format::record::{CopyHint, Record, State};
use crate::hsm::backing::SetHow;
use crate::hsm::engine::{changelog, shifted};
use crate::id::{AggregateId, DataVersion, FileId, TierId};
use cairn_fuse::{Event, EventKind};

const FILE: FileId = FileId([7; 16]);
const PLACE: (TierId, AggregateId) = (TierId(1), AggregateId { epoch: 1, seq: 1 });

/// A version whose file was deleted a day ago, and of which a backup brought a stub back to `name`
/// that nobody has opened.
fn restored(site: &Site, name: &str) {
    let shared = site.shared();
    let version = Version {
        file: FILE,
        version: DataVersion(1),
        crc: cairn_mover::Crc32c(11),
        blocks_crc: cairn_mover::Crc32c(12),
    };
    fs::write(site.at("deleted"), b"").unwrap();
    assert_eq!(whole(shared, ANXIOUS).unwrap(), Reached::End);
    let node = site.node("deleted").id;
    let known = Known {
        node,
        state: FileState::Archived,
        version,
        copies: Vec::new(),
        under: None,
    };
    let then = shifted(shared.now(), Duration::from_secs(86_400), false);
    let catalog = &shared.catalog;
    catalog.learn(vec![known], then, Durability::Full).unwrap();
    fs::remove_file(site.at("deleted")).unwrap();
    assert!(catalog.forget(node, then, Durability::Full).unwrap());
    fs::create_dir_all(site.at(name).parent().unwrap()).unwrap();
    fs::write(site.at(name), b"").unwrap();
    let fd = shared.backing.open_beneath(name.as_bytes()).unwrap();
    let stat = shared.backing.stat(fd.as_fd()).unwrap();
    let mut handle = shared.backing.handle_of(fd.as_fd()).unwrap();
    handle.bytes[0] ^= 0xff;
    let record = Record {
        state: State::Released,
        fs: shared.backing.fs(),
        file: FILE,
        version: version.version,
        crc: version.crc,
        handle,
        size: stat.size,
        mtime: stat.mtime,
        user_ctime: stat.mtime,
        ctime_floor: None,
        blocks_crc: version.blocks_crc,
        copies: vec![CopyHint {
            tier: PLACE.0,
            aggregate: PLACE.1,
            header: 0,
        }],
    };
    shared
        .backing
        .set_record(fd.as_fd(), &record, SetHow::Create)
        .unwrap();
}

/// A scan during which `from` moves to `to`, behind its back, when the directory `a` is done and `b` is
/// not begun. `told`: at once, or when the scan is at the end of its way.
fn scan_while_it_moves(site: &Site, from: &str, to: &str, told: bool) {
    let shared = site.shared();
    let mut walk = Walk::begin(shared).unwrap();
    let a = site.node("a").id;
    while walk.stack.last().is_none_or(|top| top.node != a) {
        assert!(walk.step(shared, ANXIOUS).unwrap());
    }
    while walk.stack.last().is_some_and(|top| top.node == a) {
        assert!(walk.step(shared, ANXIOUS).unwrap());
    }
    let handle = |path: &str| {
        let fd = shared.backing.open_beneath(path.as_bytes()).unwrap();
        shared.backing.handle_of(fd.as_fd()).unwrap()
    };
    let place = |path: &str| {
        let (parent, name) = path.rsplit_once('/').unwrap();
        Some((handle(parent), name.as_bytes().to_vec()))
    };
    let event = Event {
        kind: EventKind::Renamed,
        node: handle(from),
        place: place(to),
        from: place(from),
    };
    fs::rename(site.at(from), site.at(to)).unwrap();
    if told {
        changelog::apply(shared, &[event.clone().into()]).unwrap();
    }
    while walk.step(shared, ANXIOUS).unwrap() {}
    if !told {
        use cairn_fuse::Residency as _;
        let recaller = site.engine.recaller().unwrap();
        let asks = site.engine.asks();
        let mount =
            crate::hsm::residency::HsmResidency::new(recaller, asks, site.engine.changelog(), None);
        mount.note(event);
    }
    assert_eq!(walk.end(shared).unwrap(), Reached::End);
    let mut tired = Tired::new();
    while round(shared, &mut tired).unwrap() {}
    shared.catalog.settle(Durability::Relaxed).unwrap();
    assert_eq!(marked(shared), []);
}

fn fate(site: &Site) -> Result<Departed, Hold> {
    let now = site.shared().now();
    let bound = Bound { before: now, now };
    let key = (FILE, DataVersion(1));
    let found = site
        .shared()
        .catalog
        .departed(PLACE.0, PLACE.1, &[key], bound);
    found.unwrap().remove(0)
}

#[test]
fn p8_a_restored_stub_that_moves_past_the_scan_keeps_its_bytes() {
    let site = Site::new(tree);
    restored(&site, "b/stub");
    scan_while_it_moves(&site, "b/stub", "a/stub", true);
    assert_eq!(fate(&site), Err(Hold::NamedByRecord));
    // What no record names is dead, by the next scan.
    fs::remove_file(site.at("a/stub")).unwrap();
    assert_eq!(whole(site.shared(), ANXIOUS).unwrap(), Reached::End);
    assert!(matches!(fate(&site), Ok(Departed::Dead(_))));
}

#[test]
fn p8_a_move_that_is_told_at_the_end_of_a_scan_counts() {
    let site = Site::new(tree);
    restored(&site, "b/stub");
    scan_while_it_moves(&site, "b/stub", "a/stub", false);
    assert_eq!(fate(&site), Err(Hold::NamedByRecord));
}

#[test]
fn p8_an_unknown_directory_that_moves_past_the_scan_keeps_what_its_stubs_name() {
    let site = Site::new(tree);
    restored(&site, "b/back/deep/stub");
    scan_while_it_moves(&site, "b/back", "a/back", true);
    assert_eq!(fate(&site), Err(Hold::NamedByRecord));
}
