//! P8: bytes leave a tier only when nobody needs them, whatever the catalog says.

mod checked;
mod doomed;
mod listings;
mod moved;
mod older;
mod parts;
mod stops;

use super::*;
use crate::catalog::{Hold, Life, NodeId, Rescan};
use crate::hsm::engine::reclaim::with_ground;
use crate::hsm::engine::{Clock, now};
use crate::hsm::reclaim::{Act, ReclaimError, Report, Step, pass};
use crate::hsm::rig::noise;

const BIG: usize = 256 << 10;
const DAY: Duration = Duration::from_secs(86_400);
const WINDOW: Duration = Duration::from_secs(30 * 86_400);
const DELAY: Duration = Duration::from_secs(3600);
const PLACES: &[Place] = &[Place::Elsewhere];

fn settings(clock: &Clock) -> Settings {
    Settings {
        clock: clock.clone(),
        // Only when a test says so.
        collect_every: Duration::ZERO,
        scan_every: Duration::ZERO,
        ..small()
    }
}

/// An instance whose time is moved, its first scan at its end.
fn bench() -> (Bench, Clock) {
    let clock = Clock::default();
    let bench = Bench::new(PLACES, settings(&clock), NOTHING);
    settled(&bench);
    (bench, clock)
}

/// The scan that every start makes is at its end.
fn settled(bench: &Bench) {
    let catalog = bench.engine().catalog();
    wait_for("the first scan", || {
        let done = catalog.scan_state().unwrap();
        let over = done.finished_generation != 0 && !done.running;
        (over && catalog.rescans(1).unwrap().is_empty()).then_some(())
    });
}

/// A complete scan that begins after this.
fn scan(bench: &Bench) {
    let catalog = bench.engine().catalog();
    let before = catalog.scan_state().unwrap().generation;
    let mark = Rescan {
        node: NodeId::ROOT,
        since: now(),
        why: "test".into(),
    };
    catalog.need_rescan(vec![mark]).unwrap();
    bench.engine().shared.bell.ring();
    wait_for("a scan", || {
        let state = catalog.scan_state().unwrap();
        let proven = state.proof_generation > before && !state.running;
        (proven && catalog.rescans(1).unwrap().is_empty()).then_some(())
    });
}

fn run(
    bench: &Bench,
    dry: bool,
    stop: &dyn Fn(Option<Step>) -> bool,
) -> Result<Report, ReclaimError> {
    let shared = &bench.engine().shared;
    with_ground(shared, &shared.tiers[0], stop, |ground| pass(ground, dry)).unwrap()
}

fn collect(bench: &Bench) -> Report {
    run(bench, false, &|_| false).unwrap()
}

fn acts(report: &Report) -> Vec<Act> {
    report.deeds.iter().map(|deed| deed.act).collect()
}

fn remove(bench: &Bench, names: &[&str]) {
    for name in names {
        std::fs::remove_file(bench.root.join(name)).unwrap();
    }
    // The inodes must go, too, before the filesystem says so.
    rustix::fs::sync();
}

fn reads(bench: &Bench, name: &str, data: &[u8]) {
    use std::os::unix::fs::MetadataExt;
    let on_disk = std::fs::metadata(bench.root.join(name)).unwrap().blocks() * 512;
    let read = if on_disk < BIG as u64 / 2 {
        through_mount(bench, name)
    } else {
        std::fs::read(bench.root.join(name)).unwrap()
    };
    assert!(read == data, "{name} reads wrong");
}

/// What a reader of the mount gets.
fn through_mount(bench: &Bench, name: &str) -> Vec<u8> {
    through_mount_up_to(bench, name, BIG)
}

fn through_mount_up_to(bench: &Bench, name: &str, len: usize) -> Vec<u8> {
    use cairn_fuse::{Caller, FileRef, Residency};
    use std::os::fd::AsFd;
    let engine = bench.engine();
    let recaller = engine.recaller().unwrap();
    let residency =
        crate::hsm::residency::HsmResidency::new(recaller, engine.asks(), engine.changelog(), None);
    let handle = bench.handle(name);
    let fd = engine.backing().open_beneath(name.as_bytes()).unwrap();
    let file = FileRef {
        handle: &handle,
        fd: fd.as_fd(),
    };
    let root = Caller {
        uid: 0,
        gid: 0,
        pid: 1,
    };
    let mut whole = Vec::new();
    while whole.len() < len {
        let (tell, told) = std::sync::mpsc::channel();
        let done = Box::new(move |read: Result<Vec<u8>, cairn_fuse::Errno>| {
            let _ = tell.send(read.map_err(|e| e.0));
        });
        residency.read(file, whole.len() as u64, 128 << 10, root, done);
        let read = told.recv().unwrap();
        let read = read.unwrap_or_else(|errno| panic!("{name}: errno {errno}"));
        assert!(!read.is_empty(), "{name} ends early");
        whole.extend(read);
    }
    whole
}

/// Everything that must be over before a deletion: window, scan, decision, delay.
fn collect_all(bench: &Bench, clock: &Clock) -> Vec<Act> {
    let mut all = Vec::new();
    for _ in 0..6 {
        clock.advance(WINDOW + DAY);
        scan(bench);
        all.extend(acts(&collect(bench)));
        clock.advance(DELAY * 2);
        all.extend(acts(&collect(bench)));
    }
    all
}

#[test]
fn p8_a_deleted_files_bytes_go_after_window_scan_and_delay_and_not_before() {
    let (bench, clock) = bench();
    for (name, seed) in [("a", 1), ("b", 2)] {
        bench.write(name, &noise(BIG, seed));
        bench.archive(&[name]);
    }
    bench.done(bench.submit(Verb::Release, &["b"]));
    remove(&bench, &["a"]);
    scan(&bench);
    let holds = |report: &Report| report.holds.keys().copied().collect::<Vec<_>>();
    let young = collect(&bench);
    assert_eq!((acts(&young), holds(&young)), (vec![], vec![Hold::Young]));
    assert!(young.next.is_some(), "it says when");
    clock.advance(WINDOW + DAY);
    // The scan that found it gone had begun before the tombstone.
    let unscanned = collect(&bench);
    assert_eq!(holds(&unscanned), [Hold::Unscanned]);
    scan(&bench);
    let dry = run(&bench, true, &|_| false).unwrap();
    assert_eq!(acts(&dry), [Act::Condemn]);
    assert!(dry.reclaimable > BIG as u64);
    assert_eq!(acts(&collect(&bench)), [Act::Condemn]);
    assert_eq!(acts(&collect(&bench)), [Act::Wait]);
    assert_eq!(bench.objects(0), 2, "nothing goes before the delay");
    clock.advance(DELAY * 2);
    assert_eq!(acts(&collect(&bench)), [Act::Delete]);
    assert_eq!(bench.objects(0), 1);
    let catalog = bench.engine().catalog();
    assert_eq!(catalog.tombstones(None, 10).unwrap(), []);
    assert_eq!(acts(&collect(&bench)), []);
    reads(&bench, "b", &noise(BIG, 2));
}

#[test]
fn p8_an_inode_that_is_there_and_names_the_version_keeps_it() {
    let (bench, clock) = bench();
    bench.write("a", &noise(BIG, 1));
    bench.archive(&["a"]);
    bench.done(bench.submit(Verb::Release, &["a"]));
    scan(&bench);
    // A catalog that is wrong: it takes the file for deleted.
    let node = bench.node("a").id;
    let catalog = bench.engine().catalog();
    let durable = crate::catalog::Durability::Full;
    assert!(catalog.forget(node, now(), durable).unwrap());
    clock.advance(WINDOW + DAY);
    // And a scan that missed it.
    let generation = catalog.begin_scan(shifted_now(&clock)).unwrap();
    catalog.finish_scan(shifted_now(&clock), true).unwrap();
    catalog.scan_proves(generation).unwrap();
    let kept = collect(&bench);
    assert_eq!(acts(&kept), []);
    assert!(kept.holds.contains_key(&Hold::InodeNamesIt), "{kept:?}");
    // The next scan meets it, and takes the tombstone back.
    scan(&bench);
    assert_eq!(catalog.tombstones(None, 10).unwrap(), []);
    reads(&bench, "a", &noise(BIG, 1));
}

fn shifted_now(clock: &Clock) -> crate::id::Timestamp {
    clock.now()
}

/// As `tar` or `rsync` restores it: another inode with the same stub.
fn copy_stub(bench: &Bench, from: &str, to: &str) {
    let (from, to) = (bench.root.join(from), bench.root.join(to));
    let mut record = vec![0; 512];
    let len = rustix::fs::getxattr(&from, "trusted.cairn.record", &mut record[..]).unwrap();
    let was = std::fs::metadata(&from).unwrap();
    let file = std::fs::File::create(&to).unwrap();
    file.set_len(was.len()).unwrap();
    file.set_modified(was.modified().unwrap()).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&to, "trusted.cairn.record", &record[..len], flags).unwrap();
}

#[test]
fn p8_a_stub_that_a_backup_brought_back_keeps_the_bytes() {
    let (bench, clock) = bench();
    bench.write("a", &noise(BIG, 1));
    bench.archive(&["a"]);
    bench.done(bench.submit(Verb::Release, &["a"]));
    let outside = bench.root.join("kept-by-the-backup");
    copy_stub(&bench, "a", "kept-by-the-backup");
    let record = {
        let mut value = vec![0; 512];
        let len = rustix::fs::getxattr(&outside, "trusted.cairn.record", &mut value[..]).unwrap();
        value.truncate(len);
        value
    };
    let was = std::fs::metadata(&outside).unwrap();
    remove(&bench, &["a", "kept-by-the-backup"]);
    scan(&bench);
    clock.advance(WINDOW + DAY);
    // It comes back before the scan that would have proven it gone.
    let file = std::fs::File::create(bench.root.join("b")).unwrap();
    file.set_len(was.len()).unwrap();
    file.set_modified(was.modified().unwrap()).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(bench.root.join("b"), "trusted.cairn.record", &record, flags).unwrap();
    drop(file);
    scan(&bench);
    let kept = collect(&bench);
    assert_eq!(acts(&kept), []);
    assert!(kept.holds.contains_key(&Hold::NamedByRecord), "{kept:?}");
    let acts = collect_all(&bench, &clock);
    assert_eq!((acts, bench.objects(0)), (vec![], 1));
    reads(&bench, "b", &noise(BIG, 1));
}

/// Three files in one aggregate, the last one released; the others are deleted and can go.
fn mostly_dead() -> (Bench, Clock) {
    let (bench, clock) = bench();
    for (name, seed) in [("d/a", 1), ("d/b", 2), ("d/c", 3)] {
        bench.write(name, &noise(BIG, seed));
    }
    std::fs::hard_link(bench.root.join("d/c"), bench.root.join("d/other name")).unwrap();
    std::os::unix::fs::symlink("c", bench.root.join("d/link")).unwrap();
    std::fs::set_permissions(
        bench.root.join("d/c"),
        std::fs::Permissions::from_mode(0o640),
    )
    .unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(bench.root.join("d/c"), "user.kept", b"value", flags).unwrap();
    scan(&bench);
    bench.archive(&["d/a", "d/b", "d/c", "d/link"]);
    assert_eq!(bench.objects(0), 1);
    bench.done(bench.submit(Verb::Release, &["d/c"]));
    remove(&bench, &["d/a", "d/b"]);
    scan(&bench);
    clock.advance(WINDOW + DAY);
    scan(&bench);
    (bench, clock)
}

fn tar_of(bench: &Bench, object: AggregateId) -> Vec<u8> {
    let tier = &bench.engine().tiers()[0].tier;
    let len = tier.stat(object).unwrap();
    tier.read(object, 0, len).unwrap().to_vec()
}

#[test]
fn p8_what_is_needed_of_a_mostly_dead_aggregate_moves_and_stubs_that_name_the_old_place_read() {
    let (bench, clock) = mostly_dead();
    let old = bench.engine().tiers()[0].tier.list(None, 9).unwrap()[0];
    assert_eq!(acts(&run(&bench, true, &|_| false).unwrap()), [Act::Repack]);
    assert_eq!(acts(&collect(&bench)), [Act::Repack]);
    assert_eq!(bench.objects(0), 2);
    assert_eq!(acts(&collect(&bench)), [Act::Condemn]);
    clock.advance(DELAY * 2);
    assert_eq!(acts(&collect(&bench)), [Act::Delete]);
    let left = bench.engine().tiers()[0].tier.list(None, 9).unwrap();
    assert_eq!(left.len(), 1);
    assert_ne!(left[0], old);
    // Plain tar gives back what was there, with attributes and links.
    let to = tempfile::tempdir().unwrap();
    let tar = to.path().join("object.tar");
    std::fs::write(&tar, tar_of(&bench, left[0])).unwrap();
    let out = to.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let mut command = std::process::Command::new("tar");
    command.args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf"]);
    let done = command.arg(&tar).arg("-C").arg(&out).output().unwrap();
    assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
    for name in ["d/c", "d/other name"] {
        assert!(
            std::fs::read(out.join(name)).unwrap() == noise(BIG, 3),
            "{name}"
        );
    }
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(out.join("d/c")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.nlink()), (0o640, 2));
    let mut value = [0; 9];
    let len = rustix::fs::getxattr(out.join("d/c"), "user.kept", &mut value[..]).unwrap();
    assert_eq!(&value[..len], b"value");
    let link = std::fs::read_link(out.join("d/link")).unwrap();
    assert_eq!(link, Path::new("c"));
    assert!(!out.join("d/a").exists());
    // The stub still names the old place.
    reads(&bench, "d/c", &noise(BIG, 3));
}

#[test]
fn p6_after_a_repack_and_the_loss_of_the_catalog_the_stub_reads() {
    let (bench, clock) = mostly_dead();
    collect(&bench);
    collect(&bench);
    clock.advance(DELAY * 2);
    collect(&bench);
    assert_eq!(bench.objects(0), 1);
    let bench = bench.again(PLACES, settings(&clock), NOTHING, |state| {
        for file in std::fs::read_dir(state).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with("catalog") {
                std::fs::remove_file(path).unwrap();
            }
        }
    });
    settled(&bench);
    let catalog = bench.engine().catalog();
    let tier = bench.engine().tiers()[0].id;
    wait_for("the aggregate to be found", || {
        let found = catalog.of_life(tier, Life::Quarantined, None, 9).unwrap();
        (found.len() == 1).then_some(())
    });
    reads(&bench, "d/c", &noise(BIG, 3));
}

#[test]
fn p8_a_deleted_version_within_the_window_is_carried_along_out_of_everybodys_way() {
    let (bench, clock) = mostly_dead();
    // A newer archive of the same name lies in a later aggregate than the one that is repacked.
    bench.done(bench.submit(Verb::Stage, &["d/c"]));
    bench.write("d/c", &noise(BIG, 4));
    scan(&bench);
    bench.archive(&["d/c"]);
    let before = bench.engine().catalog().tombstones(None, 9).unwrap();
    assert_eq!(before.len(), 3);
    assert_eq!(acts(&collect(&bench)), [Act::Repack]);
    let objects = bench.engine().tiers()[0].tier.list(None, 9).unwrap();
    let to = tempfile::tempdir().unwrap();
    for object in objects {
        let tar = to.path().join("object.tar");
        std::fs::write(&tar, tar_of(&bench, object)).unwrap();
        let mut command = std::process::Command::new("tar");
        let done = command.arg("-xpf").arg(&tar).arg("-C").arg(to.path());
        assert!(done.output().unwrap().status.success());
    }
    let restored = std::fs::read(to.path().join("d/c")).unwrap();
    assert!(restored == noise(BIG, 4), "plain tar gives the newest");
    // The old version is still there for an undelete.
    let old = before.iter().max_by_key(|t| t.id).unwrap();
    let aside = format!(".cairn-deleted/{}-{}", old.file, old.version.0);
    assert!(std::fs::read(to.path().join(aside)).unwrap() == noise(BIG, 3));
    let catalog = bench.engine().catalog();
    assert_eq!(catalog.copies(old.file, old.version).unwrap().len(), 1);
    // And goes in its time.
    collect_all(&bench, &clock);
    assert_eq!(catalog.copies(old.file, old.version).unwrap(), []);
    reads(&bench, "d/c", &noise(BIG, 4));
}

#[test]
fn p8_a_condemned_aggregate_whose_member_is_named_again_is_spared() {
    let (bench, clock) = bench();
    bench.write("a", &noise(BIG, 1));
    bench.archive(&["a"]);
    bench.done(bench.submit(Verb::Release, &["a"]));
    scan(&bench);
    let (node, durable) = (bench.node("a"), crate::catalog::Durability::Full);
    let catalog = bench.engine().catalog();
    let copies = {
        let version = node.version.unwrap();
        catalog.copies(version.file, version.version).unwrap()
    };
    remove(&bench, &["a"]);
    scan(&bench);
    clock.advance(WINDOW + DAY);
    scan(&bench);
    assert_eq!(acts(&collect(&bench)), [Act::Condemn]);
    // A file names it again, within the delay.
    bench.write("b", b"");
    scan(&bench);
    let known = crate::catalog::Known {
        node: bench.node("b").id,
        state: FileState::Released,
        version: node.version.unwrap(),
        copies,
        under: None,
    };
    catalog.learn(vec![known], now(), durable).unwrap();
    let tier = bench.engine().tiers()[0].id;
    let rows = catalog.aggregates(tier, None, 9).unwrap();
    assert_eq!(rows[0].life, Life::Live);
    clock.advance(DELAY * 2);
    assert_eq!((acts(&collect(&bench)), bench.objects(0)), (vec![], 1));
}

#[test]
fn what_is_named_as_a_listing_of_the_namespace_and_cannot_be_read_is_nobodys_file_and_stays() {
    let (bench, clock) = bench();
    let snapshot = AggregateId { epoch: 1, seq: 9 }.snapshot();
    // It cannot be read.
    let bytes = noise(BIG, 1);
    let mut put = bench.engine().tiers()[0].tier.put(snapshot, 0).unwrap();
    std::io::Write::write_all(&mut put, &bytes).unwrap();
    put.finish(cairn_mover::Crc32c::of(&bytes)).unwrap();
    // What a user calls so is a file as any other.
    bench.write(".cairn-namespace/e1/000001.jsonl", &noise(BIG, 1));
    scan(&bench);
    bench.archive(&[".cairn-namespace/e1/000001.jsonl"]);
    remove(&bench, &[".cairn-namespace/e1/000001.jsonl"]);
    scan(&bench);
    assert_eq!(bench.objects(0), 2);
    assert!(!collect_all(&bench, &clock).is_empty());
    assert_eq!(bench.objects(0), 1);
    // Not even by a catalog that does not know it.
    let bench = bench.again(PLACES, settings(&clock), NOTHING, |state| {
        for name in ["catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"] {
            let _ = std::fs::remove_file(state.join(name));
        }
    });
    settled(&bench);
    assert_eq!((collect_all(&bench, &clock), bench.objects(0)), (vec![], 1));
}
