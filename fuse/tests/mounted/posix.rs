//! What POSIX and Linux promise of a filesystem, item by item: the mount answers as the directory
//! below it does.

use crate::rig::{Rig, TestResult, eventually, need_mount, pattern};
use cairn_fuse::BackingDir;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FlockOperation, RawDir, SeekFrom, StatxFlags, Timespec,
    Timestamps, fallocate, flock, seek, statvfs, statx, utimensat,
};
use rustix::io::Errno;
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

/// Runs a shell script as a user without groups; `$0` is the path. Did it succeed?
pub(crate) fn as_user(uid: u32, script: &str, path: impl AsRef<Path>) -> anyhow::Result<bool> {
    let id = uid.to_string();
    let output = Command::new("setpriv")
        .args(["--reuid", &id, "--regid", &id, "--clear-groups", "sh", "-c"])
        .arg(script)
        .arg(path.as_ref())
        .output()?;
    Ok(output.status.success())
}

fn mode(path: &Path, mode: u32) -> std::io::Result<()> {
    fs::set_permissions(path, PermissionsExt::from_mode(mode))
}

#[test]
fn sticky_directories_protect_names() -> TestResult {
    need_mount!("sticky_directories_protect_names");
    let rig = Rig::new()?;
    fs::create_dir(rig.m("tmp"))?;
    mode(&rig.m("tmp"), 0o1777)?;
    assert!(as_user(1000, "touch \"$0\"/theirs", rig.m("tmp"))?);
    assert!(!as_user(1001, "rm -f \"$0\"/theirs", rig.m("tmp"))?);
    assert!(!as_user(
        1001,
        "mv -f \"$0\"/theirs \"$0\"/x",
        rig.m("tmp")
    )?);
    assert!(rig.b("tmp/theirs").exists());
    assert!(as_user(1000, "rm \"$0\"/theirs", rig.m("tmp"))?);
    assert!(!rig.b("tmp/theirs").exists());
    Ok(())
}

#[test]
fn setgid_is_lost_by_who_is_not_in_the_group() -> TestResult {
    need_mount!("setgid_is_lost_by_who_is_not_in_the_group");
    let rig = Rig::new()?;
    fs::write(rig.m("f"), b"")?;
    chown(rig.m("f"), Some(1000), Some(4242))?;
    // chmod by the owner, who is not of group 4242, drops the bit; it keeps its own set-user-id.
    assert!(as_user(1000, "chmod 6755 \"$0\"", rig.m("f"))?);
    assert_eq!(fs::metadata(rig.b("f"))?.mode() & 0o7777, 0o4755);
    // A change of owner drops both.
    mode(&rig.m("f"), 0o6755)?;
    chown(rig.m("f"), Some(1001), None)?;
    assert_eq!(fs::metadata(rig.b("f"))?.mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(rig.m("f"))?.mode() & 0o7777, 0o755);
    // A directory inherits group and bit.
    fs::create_dir(rig.m("d"))?;
    chown(rig.m("d"), Some(0), Some(4242))?;
    mode(&rig.m("d"), 0o2777)?;
    assert!(as_user(1000, "mkdir \"$0\"/sub", rig.m("d"))?);
    let sub = fs::metadata(rig.b("d/sub"))?;
    assert_eq!((sub.gid(), sub.mode() & 0o2000), (4242, 0o2000));
    Ok(())
}

#[test]
fn truncating_and_allocating_by_others_clear_set_id_bits() -> TestResult {
    need_mount!("truncating_and_allocating_by_others_clear_set_id_bits");
    let rig = Rig::new()?;
    for (name, script) in [
        ("cut", "truncate -s 3 \"$0\""),
        ("grown", "truncate -s 9000 \"$0\""),
        ("emptied", ": > \"$0\""),
        ("allocated", "fallocate -l 10000 \"$0\""),
    ] {
        fs::write(rig.m(name), b"program")?;
        mode(&rig.m(name), 0o6777)?;
        assert!(as_user(1000, script, rig.m(name))?, "{name}");
        assert_eq!(fs::metadata(rig.b(name))?.mode() & 0o7777, 0o777, "{name}");
        assert_eq!(fs::metadata(rig.m(name))?.mode() & 0o7777, 0o777, "{name}");
    }
    Ok(())
}

#[test]
fn a_chown_to_nobody_new_is_still_a_change_of_status() -> TestResult {
    need_mount!("a_chown_to_nobody_new_is_still_a_change_of_status");
    let rig = Rig::new()?;
    fs::write(rig.m("f"), b"program")?;
    mode(&rig.m("f"), 0o6755)?;
    let ctime = || fs::metadata(rig.b("f")).map(|meta| (meta.ctime(), meta.ctime_nsec()));
    let before = ctime()?;
    // The clock that stamps files advances in ticks: changed as often as it takes to see it.
    eventually("chown(-1, -1) changes ctime", || {
        chown(rig.m("f"), None, None).unwrap();
        ctime().unwrap() != before
    });
    assert_eq!(fs::metadata(rig.b("f"))?.mode() & 0o7777, 0o755);
    Ok(())
}

#[test]
fn a_released_file_outlives_its_name() -> TestResult {
    need_mount!("a_released_file_outlives_its_name");
    let rig = Rig::new()?;
    let data = pattern(200_000);
    rig.released("f", &data)?;
    let file = File::open(rig.m("f"))?;
    fs::remove_file(rig.m("f"))?;
    assert_eq!(file.metadata()?.nlink(), 0);
    assert_eq!(file.metadata()?.len(), data.len() as u64);
    std::thread::scope(|scope| -> TestResult {
        let reader = scope.spawn(|| {
            let mut bytes = vec![0; data.len()];
            file.read_exact_at(&mut bytes, 0).map(|()| bytes)
        });
        // Served from elsewhere: by its handle alone the removed file cannot be opened any more.
        while !reader.is_finished() {
            rig.fake.stream();
            std::thread::yield_now();
        }
        assert!(reader.join().unwrap()? == data, "other bytes");
        Ok(())
    })
}

#[test]
fn all_names_of_a_released_file_are_one_file() -> TestResult {
    need_mount!("all_names_of_a_released_file_are_one_file");
    let rig = Rig::new()?;
    let data = pattern(100_000);
    let handle = rig.released("one", &data)?;
    fs::hard_link(rig.m("one"), rig.m("two"))?;
    let (one, two) = (fs::metadata(rig.m("one"))?, fs::metadata(rig.m("two"))?);
    assert_eq!((one.ino(), one.nlink()), (two.ino(), 2));
    assert!(rig.fake.is_released(&handle), "a link needs no data");
    std::thread::scope(|scope| -> TestResult {
        let reader = scope.spawn(|| fs::read(rig.m("two")));
        while !reader.is_finished() {
            rig.fake.stream();
            std::thread::yield_now();
        }
        assert!(reader.join().unwrap()? == data, "other bytes");
        Ok(())
    })?;
    fs::remove_file(rig.m("one"))?;
    assert_eq!(fs::metadata(rig.m("two"))?.nlink(), 1);
    assert!(rig.fake.is_released(&handle));
    Ok(())
}

/// Names from where the descriptor stands, each with the position behind it.
fn entries(dir: &File, at_most: usize) -> anyhow::Result<Vec<(Vec<u8>, u64)>> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut all = Vec::new();
    let mut raw = RawDir::new(dir, &mut buffer);
    while all.len() < at_most
        && let Some(entry) = raw.next()
    {
        let entry = entry?;
        all.push((
            entry.file_name().to_bytes().to_vec(),
            entry.next_entry_cookie(),
        ));
    }
    Ok(all)
}

#[test]
fn seekdir_and_rewinddir_go_where_they_went_before() -> TestResult {
    need_mount!("seekdir_and_rewinddir_go_where_they_went_before");
    let rig = Rig::new()?;
    fs::create_dir(rig.m("d"))?;
    for i in 0..3000 {
        File::create(rig.b("d").join(format!("entry-{i}")))?;
    }
    let dir = File::open(rig.m("d"))?;
    let all = entries(&dir, usize::MAX)?;
    assert_eq!(all.len(), 3002);
    for place in [0, 1, 17, 1500, 2999] {
        seek(&dir, SeekFrom::Start(all[place].1))?;
        let rest = entries(&dir, 5)?;
        let expected: Vec<_> = all[place + 1..].iter().take(5).cloned().collect();
        assert_eq!(rest, expected, "from {place}");
    }
    // A new name is there after rewinddir; one that went is not.
    fs::write(rig.m("d/new"), b"")?;
    fs::remove_file(rig.m("d/entry-7"))?;
    seek(&dir, SeekFrom::Start(0))?;
    let again = entries(&dir, usize::MAX)?;
    assert!(again.iter().any(|(name, _)| name == b"new"));
    assert!(!again.iter().any(|(name, _)| name == b"entry-7"));
    assert_eq!(again.len(), 3002);
    Ok(())
}

#[test]
fn a_hundred_thousand_entries_are_listed() -> TestResult {
    need_mount!("a_hundred_thousand_entries_are_listed");
    const MANY: usize = 100_000;
    // In memory where that is possible: a disk takes a minute to make and remove so many.
    let backing = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    let rig = Rig::with(|c| c.backing = BackingDir::Path(backing.path().to_owned()))?;
    let below = backing.path().join("d");
    fs::create_dir(&below)?;
    // Links of few files: quick to make, and each of them is a name all the same.
    for i in 0..MANY {
        let original = below.join(format!("{}", i / 1000 * 1000));
        let name = below.join(format!("{i}"));
        if i % 1000 == 0 {
            File::create(name)?;
        } else {
            fs::hard_link(original, name)?;
        }
    }
    let mut seen = vec![false; MANY];
    for entry in fs::read_dir(rig.m("d"))? {
        let entry = entry?;
        assert_eq!(entry.metadata()?.nlink(), 1000);
        let i: usize = entry.file_name().to_str().unwrap().parse()?;
        assert!(!std::mem::replace(&mut seen[i], true), "{i} came twice");
    }
    assert!(seen.iter().all(|seen| *seen));
    Ok(())
}

#[test]
fn extended_attributes_have_the_backings_limits() -> TestResult {
    need_mount!("extended_attributes_have_the_backings_limits");
    let rig = Rig::new()?;
    fs::write(rig.m("f"), b"")?;
    fs::write(rig.b("g"), b"")?;
    let set = |path: &Path, name: &str, size: usize| {
        let value = vec![b'v'; size];
        rustix::fs::setxattr(path, name, &value, rustix::fs::XattrFlags::empty())
    };
    for size in [0, 1, 255, 2000, 4096, 30_000, 65_536, 65_537] {
        let (through, below) = (
            set(&rig.m("f"), "user.v", size),
            set(&rig.b("g"), "user.v", size),
        );
        assert_eq!(through, below, "{size} bytes");
        if through.is_ok() {
            let mut value = vec![0; 65_536];
            let length = rustix::fs::getxattr(rig.m("f"), "user.v", &mut value[..])?;
            assert_eq!((length, &value[..size]), (size, &vec![b'v'; size][..]));
        }
    }
    for name in [
        "user.".to_owned(),
        format!("user.{}", "n".repeat(250)),
        format!("user.{}", "n".repeat(251)),
        "unknown.name".to_owned(),
        "security.test".to_owned(),
        "trusted.test".to_owned(),
        "system.unknown".to_owned(),
    ] {
        assert_eq!(
            set(&rig.m("f"), &name, 3),
            set(&rig.b("g"), &name, 3),
            "{name}"
        );
    }
    // Of a user's point of view: trusted.* is root's alone, and is not even listed.
    mode(&rig.m("f"), 0o666)?;
    assert!(as_user(
        1000,
        "! getfattr -n trusted.test \"$0\" 2>/dev/null",
        rig.m("f")
    )?);
    assert!(as_user(
        1000,
        "! setfattr -n trusted.x -v 1 \"$0\" 2>/dev/null",
        rig.m("f")
    )?);
    assert!(as_user(
        1000,
        "getfattr -n security.test \"$0\"",
        rig.m("f")
    )?);
    Ok(())
}

/// A lock of the open file, not of the process, on the whole file.
#[allow(unsafe_code, reason = "no safe wrapper has locks of open files")]
fn lock_open_file(file: &File) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    // SAFETY: a `struct flock` may be all zeros: the whole file, from its beginning.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as _;
    // SAFETY: the descriptor is open, and the lock a valid one.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } < 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap());
    }
    Ok(())
}

#[test]
fn locks_shut_others_out() -> TestResult {
    need_mount!("locks_shut_others_out");
    let rig = Rig::new()?;
    fs::write(rig.m("f"), b"data")?;
    let open = || File::options().read(true).write(true).open(rig.m("f"));
    let (one, two) = (open()?, open()?);
    flock(&one, FlockOperation::LockExclusive)?;
    let refused = flock(&two, FlockOperation::NonBlockingLockShared);
    assert_eq!(refused, Err(Errno::WOULDBLOCK));
    flock(&one, FlockOperation::Unlock)?;
    flock(&two, FlockOperation::NonBlockingLockShared)?;
    flock(&one, FlockOperation::NonBlockingLockShared)?;
    drop(two);
    flock(&one, FlockOperation::NonBlockingLockExclusive)?;
    drop(one);
    // Record locks: this process's, against those of an open file.
    let (one, two) = (open()?, open()?);
    rustix::fs::fcntl_lock(&one, FlockOperation::LockExclusive)?;
    assert_eq!(lock_open_file(&two), Err(Errno::AGAIN));
    rustix::fs::fcntl_lock(&one, FlockOperation::Unlock)?;
    lock_open_file(&two)?;
    let refused = rustix::fs::fcntl_lock(&one, FlockOperation::NonBlockingLockExclusive);
    assert!(matches!(refused, Err(Errno::AGAIN | Errno::ACCESS)));
    Ok(())
}

#[test]
fn data_and_holes_are_found_where_they_are() -> TestResult {
    need_mount!("data_and_holes_are_found_where_they_are");
    let rig = Rig::new()?;
    let file = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(rig.m("f"))?;
    file.write_all_at(&[1; 65536], 1 << 20)?;
    file.set_len(4 << 20)?;
    fallocate(
        &file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        (1 << 20) + 16384,
        4096,
    )?;
    let below = File::open(rig.b("f"))?;
    for at in [
        0,
        1 << 20,
        (1 << 20) + 16384,
        (1 << 20) + 20480,
        2 << 20,
        4 << 20,
        5 << 20,
    ] {
        for whence in [SeekFrom::Data(at), SeekFrom::Hole(at)] {
            assert_eq!(seek(&file, whence), seek(&below, whence), "{whence:?}");
        }
    }
    assert_eq!(seek(&file, SeekFrom::Data(0)), Ok(1 << 20));
    assert_eq!(seek(&file, SeekFrom::Data(4 << 20)), Err(Errno::NXIO));
    Ok(())
}

#[test]
fn statfs_is_the_disks() -> TestResult {
    need_mount!("statfs_is_the_disks");
    let rig = Rig::new()?;
    let (mount, backing) = (statvfs(rig.m(""))?, statvfs(rig.b(""))?);
    assert_eq!(
        (
            mount.f_blocks,
            mount.f_bsize,
            mount.f_frsize,
            mount.f_namemax,
            mount.f_files > 0
        ),
        (
            backing.f_blocks,
            backing.f_bsize,
            backing.f_frsize,
            backing.f_namemax,
            backing.f_files > 0
        )
    );
    Ok(())
}

#[test]
fn times_are_kept_to_the_nanosecond() -> TestResult {
    need_mount!("times_are_kept_to_the_nanosecond");
    let rig = Rig::new()?;
    fs::write(rig.m("f"), b"")?;
    for (sec, nsec) in [
        (1_700_000_000, 123_456_789),
        (1, 1),
        (0, 999_999_999),
        (-5, 250_000_001),
    ] {
        let time = Timespec {
            tv_sec: sec,
            tv_nsec: nsec,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        utimensat(CWD, rig.m("f"), &times, AtFlags::empty())?;
        for path in [rig.m("f"), rig.b("f")] {
            let meta = fs::metadata(&path)?;
            assert_eq!((meta.mtime(), meta.mtime_nsec()), (sec, nsec), "{path:?}");
            assert_eq!((meta.atime(), meta.atime_nsec()), (sec, nsec), "{path:?}");
        }
    }
    Ok(())
}

#[test]
fn access_times_are_the_backings() -> TestResult {
    need_mount!("access_times_are_the_backings");
    let rig = Rig::new()?;
    for name in ["f", "noatime"] {
        fs::write(rig.m(name), pattern(10_000))?;
        let old = Timespec {
            tv_sec: 1000,
            tv_nsec: 0,
        };
        let times = Timestamps {
            last_access: old,
            last_modification: old,
        };
        utimensat(CWD, rig.m(name), &times, AtFlags::empty())?;
    }
    // relatime: an access time that is not younger than the others is renewed by a read.
    fs::read(rig.m("f"))?;
    let below = fs::metadata(rig.b("f"))?;
    assert!(
        below.atime() > 1000,
        "the read left no trace on the backing"
    );
    assert_eq!(fs::metadata(rig.m("f"))?.atime(), below.atime());
    // And not where the one who opens it wishes so.
    let quiet = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NOATIME;
    let file = File::from(rustix::fs::open(
        rig.m("noatime"),
        quiet,
        rustix::fs::Mode::empty(),
    )?);
    file.read_exact_at(&mut [0; 5000], 0)?;
    drop(file);
    assert_eq!(fs::metadata(rig.b("noatime"))?.atime(), 1000);
    assert_eq!(fs::metadata(rig.m("noatime"))?.atime(), 1000);
    Ok(())
}

#[test]
fn birth_times_are_not_given_as_documented() -> TestResult {
    need_mount!("birth_times_are_not_given_as_documented");
    let rig = Rig::new()?;
    fs::write(rig.m("f"), b"")?;
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let seen = statx(CWD, rig.m("f"), AtFlags::empty(), wanted)?;
    assert_eq!(seen.stx_mask & StatxFlags::BTIME.bits(), 0);
    // A whole filesystem can be asked to sync through the mount; it is no error.
    rustix::fs::syncfs(File::open(rig.m("f"))?)?;
    Ok(())
}
