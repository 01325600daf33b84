//! Files: what is written, changed and asked through the mount is what the backing has.

use crate::rig::{Rig, TestResult, need_mount, pattern, python};
use cairn_fuse::{EventKind, MirrorConfig, Passthrough};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::sync::atomic::Ordering;

fn off(config: &mut MirrorConfig) {
    config.passthrough = Passthrough::Off;
}

#[test]
fn data_written_through_the_mount_are_in_the_backing() -> TestResult {
    need_mount!("data_written_through_the_mount_are_in_the_backing");
    for passthrough in [true, false] {
        let rig = Rig::with(|c| {
            if !passthrough {
                off(c)
            }
        })?;
        if passthrough {
            assert_eq!(rig.mirror().facts().passthrough, Ok(()));
        }
        let data = pattern(3 << 20);
        fs::write(rig.m("f"), &data)?;
        assert!(fs::read(rig.b("f"))? == data);
        assert!(fs::read(rig.m("f"))? == data);
        let mut file = File::options().read(true).write(true).open(rig.m("f"))?;
        file.write_all_at(b"middle", 1 << 20)?;
        file.seek(SeekFrom::End(-3))?;
        file.write_all(b"end of file")?;
        file.sync_all()?;
        let mut back = Vec::new();
        File::open(rig.m("f"))?.read_to_end(&mut back)?;
        assert!(back == fs::read(rig.b("f"))?);
        assert_eq!(file.metadata()?.len(), (3 << 20) + 8);
        file.set_len(100)?;
        assert_eq!(fs::metadata(rig.b("f"))?.len(), 100);
        let mut appending = File::options().append(true).open(rig.m("f"))?;
        appending.write_all(b"tail")?;
        assert_eq!(fs::read(rig.b("f"))?[100..], *b"tail");
        File::create(rig.m("f"))?.write_all(b"new")?;
        assert_eq!(fs::read(rig.b("f"))?, b"new");
    }
    Ok(())
}

/// Descriptors of this process, which is the server, for the backing's file of that name. (The
/// server's copy of the backing's mount has no path.)
fn descriptors_of(rig: &Rig, name: &str) -> std::io::Result<usize> {
    let mut count = 0;
    for fd in fs::read_dir("/proc/self/fd")? {
        let fd = fd?.path();
        // `O_PATH` descriptors are no users of the file.
        let info = fd.to_string_lossy().replace("/fd/", "/fdinfo/");
        let info = fs::read_to_string(info).unwrap_or_default();
        let flags = info.lines().find_map(|l| l.strip_prefix("flags:"));
        let flags = i32::from_str_radix(flags.unwrap_or_default().trim(), 8).unwrap_or(0);
        let is_it = fs::read_link(&fd).is_ok_and(|to| to.ends_with(name) && to != rig.m(name));
        count += usize::from(is_it && flags & libc::O_PATH == 0);
    }
    Ok(count)
}

#[test]
fn an_open_that_fails_half_way_leaves_no_descriptor() -> TestResult {
    need_mount!("an_open_that_fails_half_way_leaves_no_descriptor");
    let rig = Rig::with(off)?;
    // By another process: a child of another test might get this one's descriptor for writing.
    let copied = std::process::Command::new("cp")
        .arg("/bin/sleep")
        .arg(rig.b("half-way"))
        .status()?;
    assert!(copied.success());
    assert_eq!(descriptors_of(&rig, "half-way")?, 0);
    let reader = File::open(rig.m("half-way"))?;
    crate::rig::eventually("it to be served", || {
        descriptors_of(&rig, "half-way").is_ok_and(|count| count > 0)
    });
    drop(reader);
    crate::rig::eventually("its end", || {
        descriptors_of(&rig, "half-way").is_ok_and(|count| count == 0)
    });
    // A program that runs is opened for reading, and not for writing.
    let mut runs = std::process::Command::new(rig.b("half-way"))
        .arg("3600")
        .spawn()?;
    let opened = File::options()
        .read(true)
        .write(true)
        .open(rig.m("half-way"));
    let left = descriptors_of(&rig, "half-way");
    let _ = runs.kill();
    runs.wait()?;
    let error = opened.err().and_then(|e| e.raw_os_error());
    assert_eq!(error, Some(libc::ETXTBSY));
    assert_eq!(left?, 0);
    Ok(())
}

#[test]
fn attributes_are_the_backings() -> TestResult {
    need_mount!("attributes_are_the_backings");
    let rig = Rig::new()?;
    fs::write(rig.m("f"), b"x")?;
    fs::set_permissions(rig.m("f"), PermissionsExt::from_mode(0o2640))?;
    std::os::unix::fs::chown(rig.m("f"), Some(1000), Some(1001))?;
    fs::set_permissions(rig.m("f"), PermissionsExt::from_mode(0o6755))?;
    let old = std::time::UNIX_EPOCH - std::time::Duration::new(1, 200_000_000);
    File::open(rig.m("f"))?.set_modified(old)?;
    let (m, b) = (fs::metadata(rig.m("f"))?, fs::metadata(rig.b("f"))?);
    for (mirror, backing) in [
        (m.ino(), b.ino()),
        (u64::from(m.mode()), u64::from(b.mode())),
        (u64::from(m.uid()), u64::from(b.uid())),
        (u64::from(m.gid()), u64::from(b.gid())),
        (m.size(), b.size()),
        (m.nlink(), b.nlink()),
        (m.blocks(), b.blocks()),
    ] {
        assert_eq!(mirror, backing);
    }
    assert_eq!(b.mode() & 0o7777, 0o6755);
    assert_eq!((m.mtime(), m.mtime_nsec()), (b.mtime(), b.mtime_nsec()));
    assert_eq!((m.mtime(), m.mtime_nsec()), (-2, 800_000_000));
    assert_eq!((m.ctime(), m.ctime_nsec()), (b.ctime(), b.ctime_nsec()));
    assert_eq!(
        fs::metadata(rig.m(""))?.ino(),
        fs::metadata(rig.b(""))?.ino()
    );
    Ok(())
}

#[test]
fn writing_clears_set_id_bits() -> TestResult {
    need_mount!("writing_clears_set_id_bits");
    let rig = Rig::new()?;
    fs::write(rig.m("f"), b"program")?;
    fs::set_permissions(rig.m("f"), PermissionsExt::from_mode(0o6777))?;
    let status = std::process::Command::new("setpriv")
        .args([
            "--reuid",
            "1000",
            "--regid",
            "1000",
            "--clear-groups",
            "sh",
            "-c",
        ])
        .arg("printf changed >> \"$0\"")
        .arg(rig.m("f"))
        .status()?;
    assert!(status.success());
    assert_eq!(fs::metadata(rig.m("f"))?.mode() & 0o7777, 0o777);
    assert_eq!(fs::metadata(rig.b("f"))?.mode() & 0o7777, 0o777);
    Ok(())
}

#[test]
fn new_inodes_belong_to_their_maker() -> TestResult {
    need_mount!("new_inodes_belong_to_their_maker");
    let rig = Rig::new()?;
    fs::create_dir(rig.m("team"))?;
    std::os::unix::fs::chown(rig.m("team"), Some(0), Some(4242))?;
    fs::set_permissions(rig.m("team"), PermissionsExt::from_mode(0o2775))?;
    let status = std::process::Command::new("setpriv")
        .args([
            "--reuid", "1000", "--regid", "1000", "--groups", "4242", "sh", "-c",
        ])
        .arg("umask 027; cd \"$0\" && touch team/f && mkdir team/d && ln -s x team/l && touch own")
        .arg(rig.m(""))
        .status()?;
    assert!(status.success());
    for (name, mode) in [("team/f", 0o640), ("team/d", 0o2750), ("team/l", 0o777)] {
        let meta = fs::symlink_metadata(rig.b(name))?;
        assert_eq!((meta.uid(), meta.gid()), (1000, 4242), "{name}");
        assert_eq!(meta.mode() & 0o7777, mode, "{name}");
    }
    assert_eq!(fs::metadata(rig.b("own"))?.gid(), 1000);
    // The server is itself again.
    fs::write(rig.m("roots"), b"")?;
    assert_eq!(fs::metadata(rig.b("roots"))?.uid(), 0);
    Ok(())
}

#[test]
fn stores_through_a_mapping_are_seen() -> TestResult {
    need_mount!("stores_through_a_mapping_are_seen");
    for passthrough in [true, false] {
        let rig = Rig::with(|c| {
            if !passthrough {
                off(c)
            }
        })?;
        fs::write(rig.m("f"), vec![b'a'; 8192])?;
        let script = "import mmap,sys\n\
                      f=open(sys.argv[1],'r+b'); m=mmap.mmap(f.fileno(),8192)\n\
                      m[5000:5004]=b'MMAP'; m.flush(); m.close(); f.close()";
        python(script, &rig.m("f"))?;
        assert_eq!(&fs::read(rig.b("f"))?[5000..5004], b"MMAP");
        assert_eq!(&fs::read(rig.m("f"))?[5000..5004], b"MMAP");
    }
    Ok(())
}

/// Found by the model: with passthrough a mapping that was left by its descriptor belongs to the
/// backing file alone, and its stores changed times that the kernel had been told for long.
#[test]
fn a_mapping_that_outlives_its_descriptor_moves_the_times() -> TestResult {
    need_mount!("a_mapping_that_outlives_its_descriptor_moves_the_times");
    use crate::mapping::{Mapping, Stores};
    for passthrough in [Passthrough::Auto, Passthrough::Off] {
        let rig = Rig::with(|c| c.passthrough = passthrough)?;
        let path = rig.m("f");
        fs::write(&path, pattern(8192))?;
        let file = File::options().read(true).write(true).open(&path)?;
        let mapping = Mapping::new(&file, 8192, Stores::Shared)?;
        drop(file);
        for round in [1, 2] {
            let old = std::time::UNIX_EPOCH + std::time::Duration::new(round, 7);
            File::open(&path)?.set_modified(old)?;
            assert_eq!(fs::metadata(&path)?.modified()?, old);
            assert_eq!(mapping.store(5000, b"MMAP")?, 4);
            mapping.sync()?;
            let below = fs::metadata(rig.b("f"))?.modified()?;
            assert!(below > old);
            assert_eq!(fs::metadata(&path)?.modified()?, below, "{passthrough:?}");
        }
        drop(mapping);
        // And are believed again when it is gone.
        crate::rig::eventually("the kernel asks no more", || {
            let before = rig.fake.looked.load(Ordering::SeqCst);
            let _ = fs::metadata(&path).unwrap();
            rig.fake.looked.load(Ordering::SeqCst) == before
        });
    }
    Ok(())
}

#[test]
fn holes_space_and_copies_work() -> TestResult {
    need_mount!("holes_space_and_copies_work");
    use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, seek};
    let rig = Rig::new()?;
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(rig.m("f"))?;
    file.write_all_at(&[1; 65536], 1 << 20)?;
    assert_eq!(seek(&file, SeekFrom::Data(0))?, 1 << 20);
    assert_eq!(seek(&file, SeekFrom::Hole(1 << 20))?, (1 << 20) + 65536);
    assert!(seek(&file, SeekFrom::Data(1 << 30)).is_err());
    fallocate(
        &file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        1 << 20,
        4096,
    )?;
    assert_eq!(seek(&file, SeekFrom::Data(0))?, (1 << 20) + 4096);
    fallocate(&file, FallocateFlags::empty(), 2 << 20, 4096)?;
    assert_eq!(fs::metadata(rig.b("f"))?.len(), (2 << 20) + 4096);
    let target = File::create(rig.m("g"))?;
    let (mut from, mut to) = ((1 << 20) + 4096, 10);
    let copied = copy_file_range(&file, Some(&mut from), &target, Some(&mut to), 4096)?;
    assert_eq!(copied, 4096);
    assert_eq!(fs::read(rig.b("g"))?[10..], [1; 4096]);
    Ok(())
}

#[test]
fn unnamed_files_are_refused_as_documented() -> TestResult {
    need_mount!("unnamed_files_are_refused_as_documented");
    use rustix::fs::{CWD, Mode, OFlags, openat};
    let rig = Rig::new()?;
    let opened = openat(CWD, rig.m(""), OFlags::TMPFILE | OFlags::RDWR, Mode::RUSR);
    assert_eq!(opened.err(), Some(rustix::io::Errno::OPNOTSUPP));
    Ok(())
}

#[test]
fn ranges_are_neither_collapsed_nor_inserted_as_documented() -> TestResult {
    need_mount!("ranges_are_neither_collapsed_nor_inserted_as_documented");
    use rustix::fs::{FallocateFlags, fallocate};
    let rig = Rig::new()?;
    let data = pattern(3 * 4096);
    fs::write(rig.m("f"), &data)?;
    let file = File::options().write(true).open(rig.m("f"))?;
    for how in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
        let refused = fallocate(&file, how, 4096, 4096).err();
        assert_eq!(refused, Some(rustix::io::Errno::OPNOTSUPP), "{how:?}");
    }
    assert!(fs::read(rig.m("f"))? == data);
    Ok(())
}

#[test]
fn the_changelog_hears_what_happened() -> TestResult {
    need_mount!("the_changelog_hears_what_happened");
    let rig = Rig::new()?;
    fs::write(rig.m("f"), b"x")?;
    fs::rename(rig.m("f"), rig.m("g"))?;
    fs::hard_link(rig.m("g"), rig.m("h"))?;
    fs::set_permissions(rig.m("h"), PermissionsExt::from_mode(0o600))?;
    fs::read(rig.m("h"))?;
    fs::remove_file(rig.m("h"))?;
    // Both are noted behind an answer.
    crate::rig::eventually("Written and Read are noted", || {
        let noted = |kind| !rig.fake.events_of(kind).is_empty();
        noted(EventKind::Written) && noted(EventKind::Read)
    });
    let created = rig.fake.events_of(EventKind::Created).remove(0);
    assert_eq!(created.place.as_ref().unwrap().1, b"f");
    let renamed = rig.fake.events_of(EventKind::Renamed).remove(0);
    assert_eq!(renamed.node, created.node);
    assert_eq!(renamed.from.unwrap().1, b"f");
    assert_eq!(renamed.place.unwrap().1, b"g");
    for kind in [
        EventKind::Linked,
        EventKind::Attributes,
        EventKind::Read,
        EventKind::Unlinked,
    ] {
        let events = rig.fake.events_of(kind);
        assert!(events.iter().any(|e| e.node == created.node), "{kind:?}");
    }
    Ok(())
}

#[test]
fn a_busy_mount_says_so_and_force_takes_it() -> TestResult {
    need_mount!("a_busy_mount_says_so_and_force_takes_it");
    let rig = Rig::new()?;
    fs::write(rig.m("f"), b"x")?;
    let file = File::open(rig.m("f"))?;
    let busy = rig.mirror().unmount(false);
    assert!(
        matches!(busy, Err(cairn_fuse::MirrorError::Busy { .. })),
        "{busy:?}"
    );
    rig.mirror().unmount(true)?;
    rig.mirror().wait()?;
    assert!(!rig.m("f").exists());
    drop(file);
    Ok(())
}

#[test]
fn nested_places_are_refused() -> TestResult {
    need_mount!("nested_places_are_refused");
    let inside = Rig::with(|c| c.mountpoint = c.mountpoint.join("../b"));
    assert!(inside.is_err_and(|e| e.to_string().contains("inside each other")));
    Ok(())
}
