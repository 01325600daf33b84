//! What a repack moved, and the names under which it moved.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Deletes and forgets the aggregate that a repack emptied.
fn repacked(bench: &Bench, clock: &Clock) {
    assert_eq!(acts(&collect(bench)), [Act::Repack]);
    assert_eq!(acts(&collect(bench)), [Act::Condemn]);
    clock.advance(DELAY * 2);
    assert_eq!(acts(&collect(bench)), [Act::Delete]);
}

#[test]
fn p6_a_stub_copied_after_a_repack_is_adopted_where_its_data_are() {
    let (bench, clock) = mostly_dead();
    repacked(&bench, &clock);
    let left = bench.engine().tiers()[0].tier.list(None, 9).unwrap();
    assert_eq!(left.len(), 1);
    // The stub names the aggregate that is gone, and so does its copy.
    copy_stub(&bench, "d/c", "d/copy");
    assert!(through_mount(&bench, "d/copy") == noise(BIG, 3));
    let catalog = bench.engine().catalog();
    let version = wait_for("the copy to be resident", || {
        let row = bench.node("d/copy");
        (row.state == FileState::Archived).then_some(row.version?)
    });
    let copies = catalog.copies(version.file, version.version).unwrap();
    let places: Vec<_> = copies.iter().map(|c| c.aggregate).collect();
    assert_eq!(places, left, "rows where the data are, and nowhere else");
    // Nothing but the copy needs them now.
    remove(&bench, &["d/c", "d/other name"]);
    collect_all(&bench, &clock);
    bench.done(bench.submit(Verb::Release, &["d/copy"]));
    assert_eq!(state_of(&bench, "d/copy"), FileState::Released);
    assert!(through_mount(&bench, "d/copy") == noise(BIG, 3));
}

/// What plain tar gives back of all objects, in their order.
fn plain_restore(bench: &Bench) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    let tar = to.path().join("object.tar");
    for object in bench.engine().tiers()[0].tier.list(None, 99).unwrap() {
        std::fs::write(&tar, tar_of(bench, object)).unwrap();
        let mut command = std::process::Command::new("tar");
        let done = command.arg("-xpf").arg(&tar).arg("-C").arg(to.path());
        assert!(done.output().unwrap().status.success());
    }
    to
}

fn restored(to: &tempfile::TempDir, name: &str) -> Option<Vec<u8>> {
    std::fs::read(to.path().join(name)).ok()
}

#[test]
fn p14_a_repack_writes_no_former_link_over_what_has_its_name_now() {
    let (bench, _clock) = mostly_dead();
    std::fs::remove_file(bench.root.join("d/other name")).unwrap();
    bench.write("d/other name", &noise(BIG, 5));
    scan(&bench);
    bench.archive(&["d/other name"]);
    assert_eq!(acts(&collect(&bench)), [Act::Repack]);
    let to = plain_restore(&bench);
    let new = restored(&to, "d/other name").unwrap();
    assert!(new == noise(BIG, 5), "the old link took the name");
    assert!(restored(&to, "d/c").unwrap() == noise(BIG, 3));
}

/// A pipe's former name, too.
#[test]
fn p14_a_repack_keeps_two_names_of_a_pipe_only_while_they_are_two() {
    let (bench, clock) = bench();
    for (name, seed) in [("d/a", 1), ("d/b", 2), ("d/c", 3)] {
        bench.write(name, &noise(BIG, seed));
    }
    let (pipe, more) = (bench.root.join("d/pipe"), bench.root.join("d/pipe2"));
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, fifo, mode, 0).unwrap();
    std::fs::hard_link(&pipe, &more).unwrap();
    scan(&bench);
    bench.archive(&["d/a", "d/b", "d/c", "d/pipe", "d/pipe2"]);
    remove(&bench, &["d/a", "d/b", "d/pipe2"]);
    rustix::fs::mknodat(rustix::fs::CWD, &more, fifo, mode, 0).unwrap();
    scan(&bench);
    clock.advance(WINDOW + DAY);
    scan(&bench);
    let old = bench.engine().tiers()[0].tier.list(None, 9).unwrap()[0];
    assert_eq!(acts(&collect(&bench)), [Act::Repack]);
    let new = bench.engine().tiers()[0].tier.list(None, 9).unwrap()[1];
    let names = |object| {
        let shared = &bench.engine().shared;
        let tier = &*shared.tiers[0].tier;
        let (_, index) = crate::hsm::verify::read_index(tier, object).unwrap();
        let of = |e: &crate::format::aggregate::IndexEntry| {
            String::from_utf8(e.member.path.as_bytes().to_vec()).unwrap()
        };
        index.entries.iter().map(of).collect::<Vec<_>>()
    };
    assert!(names(old).contains(&"d/pipe2".to_owned()));
    assert!(names(new).contains(&"d/pipe".to_owned()));
    assert!(!names(new).contains(&"d/pipe2".to_owned()), "another pipe");
}

#[test]
fn p14_a_file_whose_name_the_catalog_has_not_heard_of_keeps_a_name() {
    let (bench, _clock) = mostly_dead();
    std::fs::remove_file(bench.root.join("d/other name")).unwrap();
    std::fs::create_dir(bench.root.join("e")).unwrap();
    std::fs::rename(bench.root.join("d/c"), bench.root.join("e/renamed")).unwrap();
    assert_eq!(acts(&collect(&bench)), [Act::Repack]);
    let to = plain_restore(&bench);
    assert!(restored(&to, "e/renamed").expect("under its name") == noise(BIG, 3));
    assert!(!to.path().join(".cairn-deleted").exists());
}

#[test]
fn p14_an_aggregate_is_left_alone_while_a_file_of_it_has_no_name_that_can_be_proven() {
    let (bench, _clock) = mostly_dead();
    // Gone, but for who has it open; and the catalog has not heard of it.
    let open = std::fs::File::open(bench.root.join("d/c")).unwrap();
    remove(&bench, &["d/c", "d/other name"]);
    assert_eq!(
        (acts(&collect(&bench)), bench.objects(0)),
        (vec![Act::Fail], 1)
    );
    drop(open);
}

#[test]
fn p14_a_changed_file_keeps_the_name_of_its_last_copy() {
    let (bench, _clock) = mostly_dead();
    bench.done(bench.submit(Verb::Stage, &["d/c"]));
    bench.write("d/c", &noise(BIG, 4));
    scan(&bench);
    assert_eq!(state_of(&bench, "d/c"), FileState::Dirty);
    assert_eq!(acts(&collect(&bench)), [Act::Repack]);
    let to = plain_restore(&bench);
    assert!(restored(&to, "d/c").unwrap() == noise(BIG, 3));
    assert!(!to.path().join(".cairn-deleted").exists());
    // In the new aggregate, and not only in the old one.
    let new = bench.engine().tiers()[0].tier.list(None, 9).unwrap()[1];
    let tar = tar_of(&bench, new);
    let (entry, data) = (b"d/c", &noise(BIG, 3)[..64]);
    for part in [&entry[..], data] {
        assert!(tar.windows(part.len()).any(|w| w == part));
    }
}

/// Between the copy and the commit another file comes to need what was to stay behind.
#[test]
fn p8_a_repack_that_came_too_late_leaves_nothing_on_the_tier() {
    let (bench, _clock) = mostly_dead();
    let catalog = bench.engine().catalog();
    let version = bench.node("d/c").version.unwrap();
    let mut copy = catalog.copies(version.file, version.version).unwrap()[0];
    let file = crate::id::FileId([5; 16]);
    copy.file = file;
    bench.write("new", b"");
    scan(&bench);
    let known = crate::catalog::Known {
        node: bench.node("new").id,
        state: FileState::Released,
        version: crate::catalog::Version { file, ..version },
        copies: vec![copy],
        under: None,
    };
    let known = Mutex::new(Some(known));
    let stop = |step| {
        if step == Some(Step::Copied)
            && let Some(known) = known.lock().take()
        {
            let durable = crate::catalog::Durability::Full;
            catalog.learn(vec![known], now(), durable).unwrap();
        }
        false
    };
    let report = run(&bench, false, &stop).unwrap();
    assert!(known.lock().is_none(), "it was copied");
    assert_eq!((acts(&report), bench.objects(0)), (vec![], 1));
    reads(&bench, "d/c", &noise(BIG, 3));
}

#[test]
fn what_cannot_be_copied_is_not_tried_again_before_the_next_start() {
    let (bench, _clock) = mostly_dead();
    let tier = &bench.engine().tiers()[0].tier;
    let object = tier.list(None, 9).unwrap()[0];
    let (_, index) = crate::hsm::verify::read_index(&**tier, object).unwrap();
    let of_c = |e: &&crate::format::aggregate::IndexEntry| e.member.path.as_bytes() == b"d/c";
    let entry = index.entries.iter().find(of_c).unwrap();
    let at = entry.block(0).unwrap().offset_in_object;
    let name = object.to_string();
    let mut found = Vec::new();
    let mut left = vec![bench._dir.path().join("tier0")];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let named = path.file_name().unwrap().to_string_lossy().contains(&name);
            match path.is_dir() {
                true => left.push(path),
                false if named => found.push(path),
                false => {}
            }
        }
    }
    assert_eq!(found.len(), 1, "the object's file");
    let file = std::fs::File::options()
        .write(true)
        .open(&found[0])
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"other bytes", at).unwrap();
    let copied = AtomicUsize::new(0);
    let stop = |step| {
        if step == Some(Step::Copying) {
            copied.fetch_add(1, Ordering::Relaxed);
        }
        false
    };
    assert_eq!(acts(&run(&bench, false, &stop).unwrap()), [Act::Fail]);
    let once = copied.load(Ordering::Relaxed);
    assert!(once > 0);
    assert_eq!(acts(&run(&bench, false, &stop).unwrap()), []);
    assert_eq!(copied.load(Ordering::Relaxed), once, "not read again");
    assert_eq!(bench.objects(0), 1);
}

#[test]
fn a_tier_without_room_is_not_filled_by_repacks() {
    let (bench, _clock) = mostly_dead();
    *bench.frees[0].lock() = Some(BIG as u64 + 4096);
    let report = collect(&bench);
    assert_eq!((acts(&report), bench.objects(0)), (vec![Act::Fail], 1));
    assert!(report.deeds[0].why.contains("reserve"), "{report:?}");
    *bench.frees[0].lock() = None;
    assert_eq!(acts(&collect(&bench)), [Act::Repack]);
}
