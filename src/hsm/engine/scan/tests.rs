//! The scan against a directory that changes under it.

mod moving;

use super::super::{Engine, Opening, Settings, claim};
use super::rounds::{Tired, round};
use super::*;
use crate::catalog::{Flag, Node, Pin, Rescan};
use crate::hsm::lease::{Lease, LeaseKind};
use crate::hsm::rig::TestGate;
use cairn_policies::{Policy, shipped};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const ANXIOUS: Manner = Manner {
    doubt: Doubt::Read,
    gentle: false,
};

/// An engine whose threads have ended: what its parts do is the test's to decide.
struct Site {
    engine: Engine,
    dir: tempfile::TempDir,
}

impl Site {
    fn new(build: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["backing", "tier"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        build(&dir.path().join("backing"));
        let engine = Self::begin(dir.path());
        Self { engine, dir }
    }

    fn begin(dir: &Path) -> Engine {
        let backing = dir.join("backing");
        let opening = Opening {
            outside: backing.clone(),
            backing,
            state: dir.join("state"),
            force: false,
            ballast: 0,
        };
        let mut claimed = claim(&opening).unwrap();
        let url = format!("dir:{}", dir.join("tier").display());
        let tiers = claimed.open_tiers(&[("t".into(), url)]).unwrap();
        let policy = Policy::parse("p", shipped::DEFAULT).unwrap();
        let policy = ("p".into(), shipped::DEFAULT.into(), policy);
        let (engine, state) = claimed.start(tiers, Settings::default(), policy).unwrap();
        drop(state);
        engine.attach(Arc::new(TestGate::default()));
        let bound = Instant::now() + Duration::from_secs(120);
        while engine.catalog().scan_state().unwrap().finished_generation == 0 {
            assert!(Instant::now() < bound, "the first scan does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        engine.stop(true).unwrap();
        engine.shared.stop.store(false, Ordering::Release);
        engine
    }

    fn shared(&self) -> &Shared {
        &self.engine.shared
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join("backing").join(name)
    }

    fn node(&self, name: &str) -> Node {
        let shared = self.shared();
        let fd = shared.backing.open_beneath(name.as_bytes()).unwrap();
        let handle = shared.backing.handle_of(fd.as_fd()).unwrap();
        let node = shared.catalog.node_by_handle(&handle).unwrap();
        node.unwrap_or_else(|| panic!("{name} is not in the catalog"))
    }

    fn path_of(&self, node: NodeId) -> Option<String> {
        let path = self.shared().catalog.path_of(node).unwrap();
        path.map(|p| String::from_utf8(p).unwrap())
    }
}

fn tree(root: &Path) {
    fs::create_dir_all(root.join("a")).unwrap();
    fs::create_dir_all(root.join("b/x/deep")).unwrap();
    for name in ["a/f", "b/f", "b/x/f", "b/x/deep/f"] {
        fs::write(root.join(name), name).unwrap();
    }
}

/// From a directory that is still to be read into one that was read: the scan sees nothing of it.
#[test]
fn a_directory_that_moves_behind_a_scans_back_keeps_its_files_pins_and_flags() {
    let site = Site::new(tree);
    let shared = site.shared();
    let (x, deep, file) = (
        site.node("b/x").id,
        site.node("b/x/deep").id,
        site.node("b/x/deep/f").id,
    );
    let pin = Pin {
        node: file,
        holder: "me".into(),
        expires: super::super::shifted(shared.now(), Duration::from_secs(999_999), true),
    };
    shared.catalog.pin(vec![pin]).unwrap();
    shared
        .catalog
        .set_flag(file, Flag::NoRelease, true, Durability::Full)
        .unwrap();
    let mut walk = Walk::begin(shared).unwrap();
    let a = site.node("a").id;
    // Until `a` is done and `b` on top, not begun.
    while walk.stack.last().is_none_or(|top| top.node != a) {
        assert!(walk.step(shared, ANXIOUS).unwrap());
    }
    while walk.stack.last().is_some_and(|top| top.node == a) {
        assert!(walk.step(shared, ANXIOUS).unwrap());
    }
    fs::rename(site.at("b/x"), site.at("a/x")).unwrap();
    while walk.step(shared, ANXIOUS).unwrap() {}
    assert_eq!(walk.end(shared).unwrap(), Reached::End);

    let row = shared.catalog.node(file).unwrap();
    assert!(row.expect("the file was taken for gone").norelease);
    let pinned = shared.catalog.pinned_until(file, shared.now()).unwrap();
    assert!(pinned.is_some(), "its pin is gone");
    assert_eq!(site.path_of(x).as_deref(), Some("a/x"));
    assert_eq!(site.path_of(deep).as_deref(), Some("a/x/deep"));
    assert_eq!(site.path_of(file).as_deref(), Some("a/x/deep/f"));
    // What was not looked at is looked at next.
    let marks = shared.catalog.rescans(10).unwrap();
    assert!(marks.iter().any(|m| m.node == x), "{marks:?}");
    let mut tired = HashMap::new();
    while round(shared, &mut tired).unwrap() {}
    assert_eq!(shared.catalog.rescans(10).unwrap(), []);
}

#[test]
fn what_was_removed_unheard_of_is_forgotten_and_only_that() {
    let site = Site::new(tree);
    let shared = site.shared();
    let (gone, kept) = (site.node("b/x/deep/f").id, site.node("b/x/f").id);
    fs::remove_file(site.at("b/x/deep/f")).unwrap();
    assert_eq!(whole(shared, ANXIOUS).unwrap(), Reached::End);
    assert!(shared.catalog.node(gone).unwrap().is_none());
    assert!(shared.catalog.node(kept).unwrap().is_some());
    // The same by a look at a part.
    let mark = site.node("b/x").id;
    fs::remove_file(site.at("b/x/f")).unwrap();
    assert_eq!(subtree(shared, mark, ANXIOUS).unwrap(), Reached::End);
    assert!(shared.catalog.node(kept).unwrap().is_none());
}

#[test]
fn a_mark_stays_when_the_look_is_cut_short() {
    let site = Site::new(tree);
    let shared = site.shared();
    let mark = Rescan {
        node: site.node("b").id,
        since: shared.now(),
        why: "test".into(),
    };
    shared.catalog.need_rescan(vec![mark]).unwrap();
    shared.stop.store(true, Ordering::Release);
    assert!(round(shared, &mut HashMap::new()).unwrap());
    shared.catalog.settle(Durability::Relaxed).unwrap();
    assert_eq!(shared.catalog.rescans(10).unwrap().len(), 1, "the mark");
    shared.stop.store(false, Ordering::Release);
    assert!(round(shared, &mut HashMap::new()).unwrap());
    shared.catalog.settle(Durability::Relaxed).unwrap();
    assert_eq!(shared.catalog.rescans(10).unwrap(), []);
}

/// An unclean stop marks the whole; a clean one in the middle of the scan that follows leaves the
/// mark standing.
#[test]
fn a_clean_stop_does_not_forget_that_the_one_before_was_not_clean() {
    let site = Site::new(tree);
    let dir = site.dir.path().to_owned();
    let begin = |clean: bool| {
        let backing = dir.join("backing");
        let opening = Opening {
            outside: backing.clone(),
            backing,
            state: dir.join("state"),
            force: false,
            ballast: 0,
        };
        let claimed = claim(&opening).unwrap();
        let marks = claimed.catalog().rescans(10).unwrap();
        if clean {
            claimed.catalog().clean_stop(super::super::now()).unwrap();
        }
        marks.iter().map(|m| m.node).collect::<Vec<_>>()
    };
    drop(site.engine);
    assert_eq!(begin(false), [], "after a clean stop");
    assert_eq!(begin(true), [NodeId::ROOT], "after one that was not");
    assert_eq!(begin(true), [NodeId::ROOT], "no scan has been made since");
}

/// Until a scan went everywhere after a stop that was not a clean one, any file may be one that a
/// recall left half-way; then those may that are still half-way.
#[test]
fn p4_times_are_doubted_until_what_a_crash_left_is_in_order() {
    use crate::format::record::{CopyHint, Record, State};
    use crate::hsm::backing::SetHow;
    use crate::id::{AggregateId, DataVersion, FileId, TierId, Timestamp};
    let site = Site::new(tree);
    let shared = site.shared();
    let backing = &shared.backing;
    // The engine may have been stopped between the end of its first scan and what follows from it.
    assert!(!round(shared, &mut HashMap::new()).unwrap(), "none is due");
    assert!(backing.times_stand(), "the first scan is at its end");
    let old = Timestamp { sec: 1, nsec: 0 };
    let fd = backing.open_beneath(b"b/f").unwrap();
    let record = Record {
        state: State::Recalling,
        fs: backing.fs(),
        file: FileId::random(),
        version: DataVersion(1),
        crc: cairn_mover::Crc32c::of(b"other bytes"),
        handle: backing.handle_of(fd.as_fd()).unwrap(),
        size: backing.stat(fd.as_fd()).unwrap().size,
        mtime: old,
        user_ctime: old,
        ctime_floor: None,
        blocks_crc: cairn_mover::Crc32c::EMPTY,
        copies: vec![CopyHint {
            tier: TierId(1),
            aggregate: AggregateId { epoch: 1, seq: 1 },
            header: 0,
        }],
    };
    backing
        .set_record(fd.as_fd(), &record, SetHow::Create)
        .unwrap();
    let scan = || {
        let mark = Rescan {
            node: NodeId::ROOT,
            since: shared.now(),
            why: "test".into(),
        };
        shared.catalog.need_rescan(vec![mark]).unwrap();
        super::doubt_what_was_left(shared).unwrap();
        assert!(!backing.times_stand(), "nobody looked yet");
        let mut tired = HashMap::new();
        while round(shared, &mut tired).unwrap() {}
    };
    let user = fs::OpenOptions::new().append(true).open(site.at("b/f"));
    scan();
    assert!(!backing.times_stand(), "one is in use, and half-way");
    drop(user);
    scan();
    assert!(backing.times_stand());
}

fn mark_root(shared: &Shared) {
    let mark = Rescan {
        node: NodeId::ROOT,
        since: shared.now(),
        why: "test".into(),
    };
    shared.catalog.need_rescan(vec![mark]).unwrap();
}

fn marked(shared: &Shared) -> Vec<NodeId> {
    shared.catalog.settle(Durability::Relaxed).unwrap();
    let marks = shared.catalog.rescans(10).unwrap();
    marks.iter().map(|m| m.node).collect()
}

/// Something that no record is, in a record's place: the file cannot be compared.
fn damage(site: &Site, name: &str) {
    let attribute = site.shared().backing.keeping().attribute();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(site.at(name), attribute, b"none", flags).unwrap();
}

fn mend(site: &Site, name: &str) {
    let attribute = site.shared().backing.keeping().attribute();
    rustix::fs::removexattr(site.at(name), attribute).unwrap();
}

#[test]
fn a_scan_that_is_taken_up_again_remembers_what_it_could_not_look_at() {
    let site = Site::new(tree);
    let shared = site.shared();
    let bad = site.node("a/f").id;
    damage(&site, "a/f");
    mark_root(shared);
    let before = shared.catalog.scan_state().unwrap().finished_begun_at;
    let mut walk = Walk::begin(shared).unwrap();
    let a = site.node("a").id;
    while walk.stack.last().is_none_or(|top| top.node != a) {
        assert!(walk.step(shared, ANXIOUS).unwrap());
    }
    // Its names are done; then the process stops.
    assert!(walk.step(shared, ANXIOUS).unwrap());
    drop(walk);
    assert_eq!(whole(shared, ANXIOUS).unwrap(), Reached::Gaps);
    assert_eq!(marked(shared), [bad], "what is to be looked at again");
    let state = shared.catalog.scan_state().unwrap();
    assert_eq!(state.finished_begun_at, before, "no complete scan (P8)");
}

#[test]
fn one_file_that_cannot_be_looked_at_makes_no_scan_of_the_whole_again_and_again() {
    let site = Site::new(tree);
    let shared = site.shared();
    let bad = site.node("b/x/f").id;
    damage(&site, "b/x/f");
    mark_root(shared);
    let mut tired = Tired::new();
    assert!(round(shared, &mut tired).unwrap());
    assert_eq!(marked(shared), [bad]);
    // Once more, and then it is left alone.
    let generation = shared.catalog.scan_state().unwrap().finished_generation;
    while round(shared, &mut tired).unwrap() {}
    let state = shared.catalog.scan_state().unwrap();
    assert_eq!(state.finished_generation, generation, "no whole scan");
    assert_eq!(marked(shared), [bad]);
    // It is looked at by its time, and done.
    mend(&site, "b/x/f");
    while round(shared, &mut Tired::new()).unwrap() {}
    assert_eq!(marked(shared), []);
}

/// What the mount told of cannot be placed just now, so whether the file is lost cannot be told.
#[test]
fn a_file_that_meets_an_error_stops_no_scan() {
    let site = Site::new(tree);
    let shared = site.shared();
    let bad = site.node("a/f");
    let known = crate::catalog::Known {
        node: bad.id,
        state: crate::catalog::FileState::Archived,
        version: crate::catalog::Version {
            file: crate::id::FileId([3; 16]),
            version: crate::id::DataVersion(1),
            crc: cairn_mover::Crc32c(11),
            blocks_crc: cairn_mover::Crc32c(12),
        },
        copies: Vec::new(),
        under: None,
    };
    let now = shared.now();
    shared
        .catalog
        .learn(vec![known], now, Durability::Full)
        .unwrap();
    // It cannot be opened for reading: somebody has it for itself alone.
    let alone = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(site.at("a/f"));
    let alone = Lease::take(alone.unwrap(), LeaseKind::Alone).unwrap();
    mark_root(shared);
    assert_eq!(whole(shared, ANXIOUS).unwrap(), Reached::Gaps);
    assert_eq!(marked(shared), [bad.id]);
    drop(alone);
}
