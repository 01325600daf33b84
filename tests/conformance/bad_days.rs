//! The directory tier on its bad days: gone and back, foreign things, lying media, full disks.

use crate::{MARK, dir, name, store, temporaries};
use cairn::tier::dir::DirTier;
use cairn::tier::{ErrorKind, OpenHow, Tier, TierError};
use cairn_mover::Crc32c;
use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

fn place() -> TempDir {
    TempDir::new().expect("temporary directory")
}

fn kind<T>(result: Result<T, TierError>) -> ErrorKind {
    match result {
        Ok(_) => panic!("succeeded"),
        Err(error) => error.kind(),
    }
}

fn every_operation_is(tier: &dyn Tier, wanted: ErrorKind) {
    assert_eq!(kind(tier.put(name(9), 10)), wanted, "put");
    assert_eq!(kind(tier.read(name(1), 0, 1)), wanted, "read");
    assert_eq!(kind(tier.stat(name(1))), wanted, "stat");
    assert_eq!(kind(tier.delete(name(9))), wanted, "delete");
    assert_eq!(kind(tier.list(None, 10)), wanted, "list");
    assert_eq!(kind(tier.space()), wanted, "space");
}

fn entries(path: &Path) -> usize {
    fs::read_dir(path).expect("directory").count()
}

#[test]
fn a_tier_that_vanishes_is_unavailable_and_comes_back_by_itself() {
    let place = place();
    let (root, aside) = (place.path().join("tier"), place.path().join("aside"));
    let tier = dir(&root);
    store(&tier, name(1), b"kept");
    // Its descriptor is cached now, which must not hide that the tier is gone.
    tier.read(name(1), 0, 4).expect("there");

    fs::rename(&root, &aside).expect("unmounted");
    every_operation_is(&tier, ErrorKind::Unavailable);
    fs::create_dir(&root).expect("the empty mount point");
    every_operation_is(&tier, ErrorKind::Unavailable);
    assert_eq!(entries(&root), 0, "written into the empty mount point");

    fs::remove_dir(&root).expect("still empty");
    fs::rename(&aside, &root).expect("mounted again");
    assert_eq!(tier.read(name(1), 0, 4).expect("back"), &b"kept"[..]);
    store(&tier, name(2), b"goes on");
}

#[test]
fn a_put_whose_tier_vanishes_meanwhile_writes_nowhere() {
    let place = place();
    let (root, aside) = (place.path().join("tier"), place.path().join("aside"));
    let tier = dir(&root);
    let mut put = tier.put(name(1), 5).expect("put");
    put.write_all(b"bytes").expect("write");
    fs::rename(&root, &aside).expect("unmounted");
    fs::create_dir(&root).expect("the empty mount point");
    assert_eq!(
        kind(put.finish(Crc32c::of(b"bytes"))),
        ErrorKind::Unavailable
    );
    assert_eq!(entries(&root), 0);
    assert_eq!(temporaries(&aside), 0);
    assert_eq!(dir(&aside).list(None, 10).expect("list"), []);
}

#[test]
fn a_put_that_outlives_its_filesystem_is_not_taken_for_one_on_the_next() {
    let place = place();
    let (root, aside) = (place.path().join("tier"), place.path().join("aside"));
    let tier = dir(&root);
    let mut put = tier.put(name(1), 5).expect("put");
    put.write_all(b"bytes").expect("write");
    fs::rename(&root, &aside).expect("unmounted");
    // A restored image of the tier, mounted instead: the same mark, another filesystem.
    fs::create_dir(&root).expect("mount point");
    fs::copy(aside.join("cairn-tier.json"), root.join("cairn-tier.json")).expect("mark");
    fs::create_dir(root.join("aggregates")).expect("objects");
    let finished = put.finish(Crc32c::of(b"bytes"));
    assert_eq!(kind(finished), ErrorKind::Unavailable);
    assert_eq!(tier.list(None, 10).expect("the tier itself is there"), []);
    assert_eq!(temporaries(&aside), 0);
    store(&tier, name(2), b"goes on");
}

#[test]
fn a_known_tier_may_be_away_when_it_is_opened_and_nothing_is_made() {
    let place = place();
    let (root, aside) = (place.path().join("tier"), place.path().join("aside"));
    store(&dir(&root), name(1), b"kept");
    fs::rename(&root, &aside).expect("unmounted");
    fs::create_dir(&root).expect("the empty mount point");
    let tier = DirTier::open(&root, OpenHow::known(MARK.owner, MARK.tier)).expect("waits");
    every_operation_is(&tier, ErrorKind::Unavailable);
    assert_eq!(entries(&root), 0);
    assert_eq!(tier.describe().root.expect("root").dev, None);
    fs::remove_dir(&root).expect("still empty");
    fs::rename(&aside, &root).expect("mounted");
    assert_eq!(tier.stat(name(1)).expect("back"), 4);
}

#[test]
fn another_tier_in_its_place_is_unavailable() {
    let place = place();
    let (root, other) = (place.path().join("tier"), place.path().join("other"));
    let tier = dir(&root);
    let stranger = OpenHow::new(cairn::id::InstanceId([8; 16]), cairn::id::TierId(8));
    DirTier::open(&other, stranger).expect("a stranger's");
    fs::rename(&root, place.path().join("aside")).expect("unmounted");
    fs::rename(&other, &root).expect("the stranger's mounted there");
    every_operation_is(&tier, ErrorKind::Unavailable);
}

#[test]
fn a_directory_with_other_things_is_refused_and_left_alone() {
    let place = place();
    fs::write(place.path().join("thesis.tex"), b"mine").expect("file");
    let how = OpenHow::new(MARK.owner, MARK.tier);
    match DirTier::open(place.path(), how) {
        Err(TierError::Refused { why, .. }) => {
            assert!(
                why.contains("thesis.tex") && why.contains("empty directory"),
                "{why}"
            );
        }
        other => panic!("{:?}", other.map(|_| ())),
    }
    assert_eq!(entries(place.path()), 1);

    fs::rename(
        place.path().join("thesis.tex"),
        place.path().join("lost+found"),
    )
    .expect("rename");
    DirTier::open(place.path(), how).expect("a fresh filesystem is empty");
    let missing = place.path().join("not/there");
    assert_eq!(kind(DirTier::open(&missing, how)), ErrorKind::Unavailable);
    let file = place.path().join("cairn-tier.json");
    assert_eq!(kind(DirTier::open(&file, how)), ErrorKind::Refused);
}

#[test]
fn a_damaged_or_newer_mark_is_refused_and_left_alone() {
    for text in ["", "{\"format\":\"cairn-tier\",\"version\":2}", "x"] {
        let place = place();
        let mark = place.path().join("cairn-tier.json");
        fs::write(&mark, text).expect("mark");
        let how = OpenHow::new(MARK.owner, MARK.tier);
        assert_eq!(kind(DirTier::open(place.path(), how)), ErrorKind::Refused);
        assert_eq!(fs::read_to_string(&mark).expect("mark"), text);
        assert_eq!(entries(place.path()), 1);
    }
}

#[test]
fn a_medium_that_lies_gets_no_receipt_and_keeps_nothing() {
    let place = place();
    let tier = dir(place.path());
    let data = vec![7_u8; 3 << 20];
    let mut put = tier.put(name(1), data.len() as u64).expect("put");
    put.write_all(&data).expect("write");
    let part = fs::read_dir(place.path().join("incoming"))
        .expect("incoming")
        .next()
        .expect("one temporary")
        .expect("entry");
    let file = fs::OpenOptions::new()
        .write(true)
        .open(part.path())
        .expect("open");
    file.write_all_at(&[8], 12_345)
        .expect("the medium's bit flips");
    assert_eq!(kind(put.finish(Crc32c::of(&data))), ErrorKind::Corrupt);
    assert_eq!(temporaries(place.path()), 0);
    assert_eq!(kind(tier.stat(name(1))), ErrorKind::Missing);
}

#[test]
fn truncated_and_removed_objects_are_short_and_missing_although_open() {
    let place = place();
    let tier = dir(place.path());
    store(&tier, name(1), &[1; 1000]);
    tier.read(name(1), 0, 1000).expect("whole");
    let path = place
        .path()
        .join("aggregates/e00000001/00000000/00/e00000001-000000000001.tar");
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("chmod");
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("open");
    file.set_len(10).expect("truncate");
    assert_eq!(kind(tier.read(name(1), 0, 1000)), ErrorKind::Short);
    assert_eq!(tier.read(name(1), 0, 10).expect("what is left").len(), 10);
    fs::remove_file(&path).expect("remove");
    assert_eq!(kind(tier.read(name(1), 0, 10)), ErrorKind::Missing);
}

#[test]
fn strangers_files_are_not_listed() {
    let place = place();
    let tier = dir(place.path());
    store(&tier, name(1), b"object");
    let top = place.path().join("aggregates");
    let leaf = top.join("e00000001/00000000/00");
    fs::write(top.join("README"), b"").expect("file");
    fs::write(top.join("e00000002"), b"a file, not an epoch").expect("file");
    std::os::unix::fs::symlink("e00000001", top.join("e00000003")).expect("link");
    fs::create_dir(top.join("E00000001")).expect("dir");
    fs::write(leaf.join("e00000001-000000000001.tar.gz"), b"").expect("file");
    // An object's name where that object would not be looked for.
    fs::write(leaf.join("e00000001-000000000777.tar"), b"").expect("file");
    assert_eq!(tier.list(None, 100).expect("list"), [name(1)]);
}

#[test]
fn a_live_writers_temporary_survives_another_opening() {
    let place = place();
    let tier = dir(place.path());
    let mut put = tier.put(name(1), 5).expect("put");
    put.write_all(b"bytes").expect("write");
    fs::write(place.path().join("incoming/dead.part"), b"left").expect("leftover");
    fs::write(place.path().join("incoming/notes.txt"), b"kept").expect("foreign");
    let other = dir(place.path());
    assert_eq!(temporaries(place.path()), 2);
    put.finish(Crc32c::of(b"bytes")).expect("receipt");
    assert_eq!(other.read(name(1), 0, 5).expect("read"), &b"bytes"[..]);
}

/// A mounted tmpfs that is unmounted when dropped.
struct Small(TempDir);

impl Small {
    fn mount(size: &str) -> Option<Self> {
        let place = place();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "cairn-test"])
            .arg(place.path())
            .output();
        mount.is_ok_and(|m| m.status.success()).then(|| Self(place))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_filesystem_is_full_keeps_nothing_and_goes_on_when_there_is_room() {
    let Some(small) = Small::mount("4m") else {
        eprintln!(
            "SKIPPED a_full_filesystem_is_full_keeps_nothing_and_goes_on_when_there_is_room: \
             cannot mount a tmpfs (needs root)"
        );
        return;
    };
    let root = small.0.path();
    let tier = dir(root);
    // Told beforehand, and found out while writing.
    assert_eq!(kind(tier.put(name(1), 64 << 20)), ErrorKind::Full);
    assert_eq!(temporaries(root), 0);
    let data = vec![1_u8; 8 << 20];
    let mut put = tier.put(name(1), 0).expect("put");
    let error = put.write_all(&data).expect_err("no room");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(
        TierError::from_write(error, "t", name(1)).kind(),
        ErrorKind::Full
    );
    assert_eq!(kind(put.finish(Crc32c::of(&data))), ErrorKind::Full);
    assert_eq!(temporaries(root), 0);
    assert_eq!(kind(tier.stat(name(1))), ErrorKind::Missing);
    store(&tier, name(1), &data[..1 << 20]);
    let space = tier.space().expect("space");
    assert!(space.free < space.total && space.total == Some(4 << 20));
}

#[test]
fn an_unmounted_filesystem_is_unavailable_and_another_mount_of_it_is_used() {
    let Some(small) = Small::mount("4m") else {
        eprintln!(
            "SKIPPED an_unmounted_filesystem_is_unavailable_and_another_mount_of_it_is_used: \
             cannot mount a tmpfs (needs root)"
        );
        return;
    };
    let root = small.0.path();
    let tier = dir(root);
    store(&tier, name(1), b"kept");
    tier.read(name(1), 0, 4).expect("there");
    let mark = fs::read(root.join("cairn-tier.json")).expect("mark");
    let status = Command::new("umount").arg("-l").arg(root).status();
    assert!(status.expect("umount runs").success());
    every_operation_is(&tier, ErrorKind::Unavailable);
    assert_eq!(entries(root), 0);
    // The same tier on another device: recognised by its mark, whatever its number.
    let status = Command::new("mount")
        .args(["-t", "tmpfs", "cairn-test"])
        .arg(root)
        .status();
    assert!(status.expect("mount runs").success());
    fs::write(root.join("cairn-tier.json"), mark).expect("mark");
    // Its mark and nothing else: a part of it is not there, and says nothing of objects.
    every_operation_is(&tier, ErrorKind::Unavailable);
    fs::create_dir(root.join("aggregates")).expect("an empty tier");
    assert_eq!(kind(tier.read(name(1), 0, 4)), ErrorKind::Missing);
    store(&tier, name(2), b"goes on");
}
