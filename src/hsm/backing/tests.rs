//! The backing on real filesystems: finding nodes, keeping records, the mark.

use super::*;
use crate::format::record::{Record, State};
use crate::hsm::rig::{Image, Rig};
use crate::id::{DataVersion, FileId, InstanceId, Timestamp};
use cairn_mover::Crc32c;
use rustix::fs::XattrFlags;
use std::os::unix::fs::{FileExt, PermissionsExt};

fn record(rig: &Rig, name: &str) -> Record {
    Record {
        state: State::Resident,
        fs: rig.backing.fs(),
        file: FileId([1; 16]),
        version: DataVersion(1),
        crc: Crc32c::of(b"data"),
        handle: rig.node(name),
        size: 4,
        mtime: Timestamp { sec: 1, nsec: 2 },
        user_ctime: Timestamp { sec: 3, nsec: 4 },
        ctime_floor: None,
        blocks_crc: Crc32c::EMPTY,
        copies: Vec::new(),
    }
}

/// As in a mount without privileges.
fn unprivileged() -> Rig {
    let mut rig = Rig::new();
    rig.backing.access = Access::Paths;
    rig.backing.keeping = RecordKeeping::Sealed(SealKey([9; 32]));
    rig
}

#[test]
fn a_node_is_found_after_a_rename_and_gone_after_unlink() {
    let rig = Rig::new();
    rig.write("a", b"data");
    let node = rig.node("a");
    std::fs::rename(rig.path("a"), rig.path("b")).unwrap();
    if rig.backing.access() == Access::Handles {
        let fd = rig.backing.open_node(&node, None, How::Read).unwrap();
        assert_eq!(rig.backing.path_of(fd.as_fd()).unwrap(), b"b");
    }
    std::fs::remove_file(rig.path("b")).unwrap();
    rig.write("b", b"another inode");
    let gone = rig.backing.open_node(&node, Some(b"b"), How::Read);
    assert!(matches!(gone, Err(BackingError::Gone { .. })));
}

#[test]
fn p5_a_stale_look_drops_no_record() {
    let rig = Rig::new();
    rig.write("f", b"");
    let (node, fd) = (rig.node("f"), rig.open("f", How::Path));
    let (backing, fd) = (&rig.backing, fd.as_fd());
    let stub = Record {
        state: State::Released,
        ..record(&rig, "f")
    };
    let later = Record {
        version: DataVersion(2),
        ..stub.clone()
    };
    let resident = Record {
        state: State::Resident,
        ..stub.clone()
    };
    for now in [later, resident] {
        backing.set_record(fd, &now, SetHow::Either).unwrap();
        assert!(!backing.drop_truncated(&node, fd, &stub).unwrap());
        assert_eq!(backing.record(fd).unwrap(), Some(now));
    }
    backing.set_record(fd, &stub, SetHow::Replace).unwrap();
    rig.write("f", b"data");
    assert!(!backing.drop_truncated(&node, fd, &stub).unwrap());
    assert_eq!(backing.record(fd).unwrap().as_ref(), Some(&stub));
    rig.write("f", b"");
    assert!(backing.drop_truncated(&node, fd, &stub).unwrap());
    assert_eq!(backing.record(fd).unwrap(), None);
    assert!(!backing.drop_truncated(&node, fd, &stub).unwrap());
}

#[test]
fn without_handles_a_node_is_found_by_name_and_compared() {
    let rig = unprivileged();
    rig.write("d/a", b"data");
    let node = rig.node("d/a");
    let open = |hint: Option<&[u8]>| rig.backing.open_node(&node, hint, How::Read);
    assert!(open(Some(b"d/a")).is_ok());
    assert!(matches!(open(None), Err(BackingError::Unnamed { .. })));
    rig.write("d/b", b"data");
    assert!(matches!(open(Some(b"d/b")), Err(BackingError::Gone { .. })));
    assert!(matches!(
        open(Some(b"d/none")),
        Err(BackingError::Gone { .. })
    ));
}

#[test]
fn nothing_outside_the_root_is_reached() {
    let rig = Rig::new();
    rig.write("d/a", b"data");
    std::os::unix::fs::symlink("/etc", rig.path("out")).unwrap();
    std::os::unix::fs::symlink("d", rig.path("in")).unwrap();
    for path in [
        "../backing/d/a",
        "d/../../backing",
        "out/passwd",
        "in/a",
        "d/a/x",
    ] {
        assert!(rig.backing.open_beneath(path.as_bytes()).is_err(), "{path}");
        assert!(
            !rig.backing
                .is_name_of(path.as_bytes(), &rig.node("d/a"))
                .unwrap_or(false)
        );
    }
    let link = rig.backing.open_beneath(b"out").unwrap();
    assert_eq!(
        rig.backing.stat(link.as_fd()).unwrap().kind,
        NodeKind::Symlink
    );
    let root = rig.backing.open_beneath(b"").unwrap();
    let same = rig.backing.handle_of(rig.backing.root()).unwrap();
    assert_eq!(rig.backing.handle_of(root.as_fd()).unwrap(), same);
}

#[test]
fn paths_longer_than_path_max_are_walked() {
    let rig = Rig::new();
    let part = "x".repeat(200);
    let (mut path, mut dir) = (String::new(), rig.open("", How::Path));
    for _ in 0..30 {
        rustix::fs::mkdirat(&dir, &part, Mode::RWXU).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        dir = rustix::fs::openat(&dir, &part, flags, Mode::empty()).unwrap();
        path = if path.is_empty() {
            part.clone()
        } else {
            format!("{path}/{part}")
        };
    }
    assert!(path.len() > 4096);
    let node = rig.backing.handle_of(dir.as_fd()).unwrap();
    assert!(rig.backing.is_name_of(path.as_bytes(), &node).unwrap());
}

#[test]
fn devices_and_pipes_are_not_opened() {
    let rig = Rig::new();
    let pipe = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rig.backing.root(), "pipe", pipe, Mode::RWXU, 0).unwrap();
    let node = rig.node("pipe");
    assert!(
        rig.backing
            .open_node(&node, Some(b"pipe"), How::Read)
            .is_err()
    );
    assert!(
        rig.backing
            .open_node(&node, Some(b"pipe"), How::Path)
            .is_ok()
    );
}

#[test]
fn extents_are_the_data_runs() {
    let rig = Rig::new();
    let file = std::fs::File::create(rig.path("f")).unwrap();
    file.set_len(1 << 20).unwrap();
    file.write_at(&[1; 4096], 65_536).unwrap();
    file.write_at(&[1; 8192], 131_072).unwrap();
    let fd = rig.open("f", How::Read);
    let run = |offset, len| Extent { offset, len };
    let found = rig.backing.extents(fd.as_fd()).unwrap();
    assert_eq!(found, [run(65_536, 4096), run(131_072, 8192)]);
    assert!(rig.backing.has_data(fd.as_fd()).unwrap());
    file.set_len(0).unwrap();
    file.set_len(1 << 20).unwrap();
    assert!(!rig.backing.has_data(fd.as_fd()).unwrap());
}

#[test]
fn room_that_was_never_written_is_no_data_even_once_it_was_read() {
    let rig = Rig::new();
    let file = std::fs::File::create(rig.path("f")).unwrap();
    let room = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 1 << 20);
    let fd = rig.open("f", How::Read);
    if room.is_err()
        || super::sys::written_bytes(fd.as_fd(), 1, 1)
            .unwrap()
            .is_none()
    {
        eprintln!("SKIPPED room_that_was_never_written: no fallocate or no FIEMAP here ({room:?})");
        return;
    }
    file.write_at(&[1; 8192], 65_536).unwrap();
    file.write_at(&[1; 4096], (1 << 20) - 100).unwrap();
    let size = file.metadata().unwrap().len();
    file.sync_all().unwrap();
    std::fs::read(rig.path("f")).unwrap();
    let data = |size, enough| super::data_bytes(fd.as_fd(), size, enough).unwrap();
    let all = data(size, u64::MAX);
    // Whole blocks, of at most 64 KiB.
    assert!((8192 + 4096..5 * 65_536).contains(&all), "{all}");
    // It is not read to the end if that is enough.
    assert!(data(size, 1) < all);
    // What waits to be written into that room is data, too, and so is what has no room yet.
    file.write_at(&[1; 8192], 500_000).unwrap();
    assert!(data(size, all + 1) > all);
    let half = data(65_536 + 4096, u64::MAX);
    assert!(half <= 65_536 + 4096, "{half}");
    let late = std::fs::File::create(rig.path("late")).unwrap();
    late.write_at(&[1; 8192], 0).unwrap();
    let fd = rig.open("late", How::Read);
    assert_eq!(super::data_bytes(fd.as_fd(), 8192, 8192).unwrap(), 8192);
}

#[test]
fn a_mark_names_its_state_directory_if_there_is_room_for_it() {
    let rig = Rig::new();
    let read = || Backing::mark_of(&rig.root).unwrap().unwrap().state;
    for (path, kept) in [
        ("/var/lib/cairn/x".to_owned(), true),
        ("x".repeat(300), false),
    ] {
        let state = Some(PathBuf::from(path));
        let named = Mark {
            state: state.clone(),
            ..mark(&rig, "here")
        };
        let guard = rig.backing.claim(named, 1_000, false).unwrap();
        assert_eq!(read(), state.filter(|_| kept));
        drop(guard);
    }
}

#[test]
fn p9_who_is_alive_shuts_out_an_undoing() {
    let rig = Rig::new();
    let shut_out = |host: &str, now, force| Backing::shut_out(&rig.root, host, now, force);
    drop(shut_out("here", 1_000, false).unwrap());
    let guard = rig
        .backing
        .claim(mark(&rig, "there"), 1_000, false)
        .unwrap();
    for force in [false, true] {
        let refused = shut_out("there", 1_000, force).unwrap_err();
        assert!(matches!(refused, BackingError::InUse { .. }), "{refused}");
    }
    let alive = guard.mark().clone();
    drop(guard);
    drop(shut_out("here", 1_000, false).unwrap());
    // Its host holds no lock here, and its heart beats.
    let fd = std::fs::File::open(&rig.root).unwrap();
    let names = ["trusted.cairn.mark", "user.cairn.mark"];
    let flags = rustix::fs::XattrFlags::REPLACE;
    let set = |name: &&str| rustix::fs::fsetxattr(&fd, *name, &alive.encode(), flags).is_ok();
    assert!(names.iter().any(set));
    let refused = shut_out("here", 1_000 + FRESH_SECONDS - 1, false).unwrap_err();
    assert!(refused.to_string().contains("host there"), "{refused}");
    drop(shut_out("here", 1_000 + FRESH_SECONDS, false).unwrap());
    drop(shut_out("here", 1_000, true).unwrap());
    drop(shut_out("there", 1_000, false).unwrap());
}

fn keeps_a_record(rig: &Rig) {
    rig.write("f", b"data");
    let want = record(rig, "f");
    let fd = rig.open("f", How::Path);
    let fd = fd.as_fd();
    let backing = &rig.backing;
    assert_eq!(backing.record(fd).unwrap(), None);
    assert!(
        backing.set_record(fd, &want, SetHow::Replace).is_err(),
        "there is none"
    );
    backing.set_record(fd, &want, SetHow::Create).unwrap();
    assert!(
        backing.set_record(fd, &want, SetHow::Create).is_err(),
        "there is one"
    );
    assert_eq!(backing.record(fd).unwrap(), Some(want));
    backing.remove_record(fd).unwrap();
    backing.remove_record(fd).unwrap();
    assert_eq!(backing.record(fd).unwrap(), None);
}

#[test]
fn a_record_is_kept_through_an_o_path_descriptor() {
    keeps_a_record(&Rig::new());
    keeps_a_record(&unprivileged());
}

#[test]
fn p6_a_sealed_record_cannot_be_moved_or_changed() {
    let rig = unprivileged();
    rig.write("f", b"data");
    rig.write("g", b"data");
    let (f, g) = (rig.open("f", How::Path), rig.open("g", How::Path));
    rig.backing
        .set_record(f.as_fd(), &record(&rig, "f"), SetHow::Create)
        .unwrap();
    let name = "user.cairn.record";
    let mut value = [0; 512];
    let len = rustix::fs::getxattr(rig.path("f"), name, &mut value[..]).unwrap();
    let set = |path: &str, value: &[u8]| {
        rustix::fs::setxattr(rig.path(path), name, value, XattrFlags::empty()).unwrap();
    };
    let bad = |fd: &OwnedFd| {
        matches!(
            rig.backing.record(fd.as_fd()),
            Err(BackingError::BadSeal { .. })
        )
    };
    set("g", &value[..len]);
    assert!(bad(&g), "moved to another inode");
    for at in [0, len / 2, len - 1] {
        let mut forged = value;
        forged[at] ^= 1;
        set("f", &forged[..len]);
        assert!(bad(&f), "byte {at} changed");
    }
    set("f", &value[..10]);
    assert!(bad(&f), "cut");
    set("f", &value[..len]);
    assert!(rig.backing.record(f.as_fd()).unwrap().is_some());
}

#[test]
fn a_damaged_record_is_told_from_none() {
    let rig = Rig::new();
    if !matches!(rig.backing.keeping(), RecordKeeping::Trusted) {
        return eprintln!("SKIPPED a_damaged_record: no right to trusted.*");
    }
    rig.write("f", b"data");
    let fd = rig.open("f", How::Path);
    for garbage in [&b"garbage"[..], &[0; 300], &[1; 4000]] {
        let name = "trusted.cairn.record";
        rustix::fs::setxattr(rig.path("f"), name, garbage, XattrFlags::empty()).unwrap();
        let found = rig.backing.record(fd.as_fd());
        assert!(
            matches!(found, Err(BackingError::Record { .. })),
            "{}",
            garbage.len()
        );
    }
}

#[test]
fn cairns_own_attributes_are_not_a_members() {
    let rig = Rig::new();
    rig.write("f", b"data");
    let fd = rig.open("f", How::Path);
    rig.backing
        .set_record(fd.as_fd(), &record(&rig, "f"), SetHow::Create)
        .unwrap();
    rustix::fs::setxattr(rig.path("f"), "user.mine", b"value", XattrFlags::empty()).unwrap();
    let found = rig.backing.attributes(fd.as_fd()).unwrap();
    assert_eq!(found, [(b"user.mine".to_vec(), b"value".to_vec())]);
}

fn probed(image: &Image, filesystem: Filesystem) {
    let rig = Rig::on(image.path());
    let found = rig.backing.capabilities();
    assert_eq!(found.filesystem, filesystem);
    assert_eq!(
        (found.lacking.as_slice(), found.granularity_ns),
        (&[][..], 1)
    );
    assert!(found.release().is_ok() && found.archive().is_ok());
    let left: Vec<_> = std::fs::read_dir(&rig.root)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(left.iter().all(|n| n == "lost+found"), "{left:?}");
}

#[test]
fn p10_ext4_and_xfs_have_what_release_needs() {
    let test = "p10_ext4_and_xfs_have_what_release_needs";
    if let Some(image) = Image::ext4(test) {
        probed(&image, Filesystem::Ext);
    }
    if let Some(image) = Image::xfs(test) {
        probed(&image, Filesystem::Xfs);
    }
}

#[test]
fn p10_a_filesystem_that_others_may_share_releases_only_when_declared() {
    let mut found = Capabilities {
        filesystem: Filesystem::Other(0x6969),
        granularity_ns: 1,
        lacking: vec![Lacking::HostLocal(0x6969)],
    };
    assert!(found.release().is_err() && found.archive().is_ok());
    found.declare_only_host();
    assert!(found.release().is_ok());
    found.lacking.push(Lacking::Leases("no".to_owned()));
    assert!(found.release().is_err() && found.archive().is_err());
}

#[test]
fn p7_a_directory_only_its_owner_may_enter_guards() {
    let rig = Rig::new();
    assert!(matches!(
        rig.backing.users_can_reach().unwrap(),
        Reach::Guarded { .. }
    ));
    let set = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let above = rig.root.parent().unwrap();
    set(above, 0o755);
    for open in [0o755, 0o711, 0o770, 0o701, 0o710] {
        set(&rig.root, open);
        assert_eq!(
            rig.backing.users_can_reach().unwrap(),
            Reach::Open,
            "{open:o}"
        );
    }
    set(above, 0o700);
    assert!(matches!(
        rig.backing.users_can_reach().unwrap(),
        Reach::Guarded { .. }
    ));
}

fn mark(rig: &Rig, host: &str) -> Mark {
    Mark {
        fs: rig.backing.fs(),
        instance: InstanceId([4; 16]),
        host: host.to_owned(),
        pid: 77,
        boot: "boot".to_owned(),
        epoch: 3,
        started: 1_000,
        heartbeat: 0,
        state: Some(PathBuf::from("/var/lib/cairn/x")),
    }
}

#[test]
fn p9_a_second_instance_is_refused_and_told_who() {
    let rig = Rig::new();
    let first = rig.backing.claim(mark(&rig, "here"), 1_000, false).unwrap();
    match rig.backing.claim(mark(&rig, "here"), 1_001, true) {
        Err(BackingError::InUse { who, .. }) => {
            assert!(who.contains("host here, process 77"), "{who}");
        }
        other => panic!("{other:?}"),
    }
    drop(first);
    assert_eq!(
        Backing::mark_of(&rig.root).unwrap().unwrap().heartbeat,
        0,
        "a clean stop"
    );
    rig.backing.claim(mark(&rig, "here"), 1_002, false).unwrap();
}

#[test]
fn p9_another_hosts_fresh_mark_refuses_and_a_stale_one_does_not() {
    let rig = Rig::new();
    let first = rig
        .backing
        .claim(mark(&rig, "there"), 1_000, false)
        .unwrap();
    // It died with its host: the lock is gone, the mark still beats.
    let mut value = vec![0; 512];
    let len = rustix::fs::getxattr(&rig.root, mark_attribute(&rig), &mut value[..]).unwrap();
    drop(first);
    let restore = || {
        let none = XattrFlags::empty();
        rustix::fs::setxattr(&rig.root, mark_attribute(&rig), &value[..len], none).unwrap();
    };
    restore();
    let early = rig
        .backing
        .claim(mark(&rig, "here"), 1_000 + FRESH_SECONDS - 1, false);
    assert!(matches!(early, Err(BackingError::InUse { .. })));
    drop(
        rig.backing
            .claim(mark(&rig, "here"), 1_000 + FRESH_SECONDS, false)
            .unwrap(),
    );
    restore();
    rig.backing.claim(mark(&rig, "here"), 1_001, true).unwrap();
}

fn mark_attribute(rig: &Rig) -> &'static str {
    match rig.backing.keeping() {
        RecordKeeping::Trusted => "trusted.cairn.mark",
        RecordKeeping::Sealed(_) => "user.cairn.mark",
    }
}

#[test]
fn p9_a_strange_mark_is_left_alone() {
    let rig = Rig::new();
    let set = |value: &str| {
        let none = XattrFlags::empty();
        rustix::fs::setxattr(&rig.root, mark_attribute(&rig), value.as_bytes(), none).unwrap();
    };
    for strange in ["", "{", "[]", r#"{"format":2}"#, r#"{"format":1,"fs":7}"#] {
        set(strange);
        let refused = rig.backing.claim(mark(&rig, "here"), 1_000, true);
        assert!(
            matches!(refused, Err(BackingError::Mark { .. })),
            "{strange}"
        );
    }
    let other = Mark {
        fs: FsUuid([8; 16]),
        ..mark(&rig, "here")
    };
    rustix::fs::removexattr(&rig.root, mark_attribute(&rig)).unwrap();
    drop(rig.backing.claim(other, 1_000, false).unwrap());
    let refused = rig.backing.claim(mark(&rig, "here"), 9_000, true);
    assert!(matches!(refused, Err(BackingError::Mark { .. })));
}

/// Unmounts when dropped.
struct Bound(PathBuf);

impl Drop for Bound {
    fn drop(&mut self) {
        if let Err(why) = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {why}", self.0.display());
        }
    }
}

#[test]
fn p7_a_second_mount_of_the_directory_opens_it() {
    let rig = Rig::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let guarded = tempfile::tempdir().unwrap();
    let set = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    // The guard is the temporary directory above, which a bind mount of the root leaves out.
    set(rig.root.parent().unwrap(), 0o700);
    set(&rig.root, 0o755);
    set(elsewhere.path(), 0o755);
    set(guarded.path(), 0o700);
    let (second, third) = (elsewhere.path().join("m"), guarded.path().join("m"));
    std::fs::create_dir(&second).unwrap();
    std::fs::create_dir(&third).unwrap();
    let bind = |to: &Path| rustix::mount::mount_bind(&rig.root, to).map(|()| Bound(to.to_owned()));
    let Ok(_third) = bind(&third) else {
        return eprintln!("SKIPPED p7_a_second_mount_of_the_directory_opens_it: no right to mount");
    };
    let reach = || rig.backing.users_can_reach().unwrap();
    assert!(
        matches!(reach(), Reach::Guarded { .. }),
        "guarded there too"
    );
    let bound = bind(&second).unwrap();
    assert_eq!(reach(), Reach::Open);
    drop(bound);
    assert!(matches!(reach(), Reach::Guarded { .. }));
}
