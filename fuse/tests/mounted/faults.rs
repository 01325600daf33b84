//! A backing that has no room, or fails: each error reaches the caller as itself, with as much
//! done as on the backing, and nothing wrong is remembered afterwards.

use crate::disk::{Disk, ran};
use crate::failing::Failing;
use crate::posix::as_user;
use crate::rig::{Rig, TestResult, eventually, need_mount, pattern};
use anyhow::Context;
use cairn_fuse::{BackingDir, Passthrough};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

const BOTH: [Passthrough; 2] = [Passthrough::Auto, Passthrough::Off];

/// What a call gave: how much, or its errno.
type Given = Result<usize, i32>;

fn given<T>(result: std::io::Result<T>) -> Result<T, i32> {
    result.map_err(|e| e.raw_os_error().unwrap_or(-1))
}

/// Writes until an error comes, and what each write gave.
fn write_until_refused(file: &mut File, size: usize) -> Vec<Given> {
    let data = pattern(size);
    let mut all = Vec::new();
    loop {
        let one = given(file.write(&data));
        all.push(one);
        if one.is_err() {
            return all;
        }
    }
}

/// Fills a filesystem by writes and appends, and says what they gave.
fn fill(root: &Path) -> anyhow::Result<Vec<Given>> {
    let mut file = File::create(root.join("filler"))?;
    let mut all = write_until_refused(&mut file, 300_000);
    // Room again in the middle of a page, for less than the next append wants.
    let full = file.metadata()?.len();
    file.set_len(full - 100_001)?;
    drop(file);
    let mut file = File::options().append(true).open(root.join("filler"))?;
    all.extend(write_until_refused(&mut file, 70_000));
    let (size, seen) = (file.metadata()?.len(), fs::read(root.join("filler"))?);
    all.push(Ok(size as usize));
    all.push(Ok(seen.len()));
    all.push(given(fs::write(root.join("other"), b"no room")).map(|()| 0));
    all.push(given(fs::metadata(root.join("other"))).map(|meta| meta.len() as usize));
    // And room for all of it.
    drop(file);
    fs::remove_file(root.join("filler"))?;
    eventually("there is room", || {
        fs::write(root.join("other"), pattern(500_000)).is_ok()
    });
    all.push(Ok(usize::from(
        fs::read(root.join("other"))? == pattern(500_000),
    )));
    Ok(all)
}

#[test]
fn a_full_disk_takes_as_much_as_it_would() -> TestResult {
    const NAME: &str = "a_full_disk_takes_as_much_as_it_would";
    need_mount!("a_full_disk_takes_as_much_as_it_would");
    let disk = || Disk::in_memory(NAME, "size=2m,mode=755");
    let Some(plain) = disk() else { return Ok(()) };
    let wanted = fill(&plain.backing())?;
    assert!(wanted.contains(&Err(libc::ENOSPC)), "{wanted:?}");
    for passthrough in BOTH {
        let disk = disk().context("a second one")?;
        let rig = disk.rig(passthrough)?;
        assert_eq!(fill(&rig.m(""))?, wanted, "{passthrough:?}");
    }
    Ok(())
}

/// Calls that need room for a name or an inode.
fn name_calls(root: &Path, tag: &str) -> Vec<(&'static str, Given)> {
    let long = |what: &str| {
        root.join("dir")
            .join(format!("{what}-{tag}-{}", "n".repeat(200)))
    };
    let value = vec![1; 900];
    let set = || {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(root.join("file"), "user.v", &value, flags).map_err(Into::into)
    };
    let calls: [(&str, std::io::Result<()>); 6] = [
        ("mkdir", fs::create_dir(long("mkdir"))),
        ("create", File::create_new(long("create")).map(drop)),
        ("symlink", symlink("s".repeat(900), long("symlink"))),
        ("link", fs::hard_link(root.join("file"), long("link"))),
        ("rename", fs::rename(root.join("moves"), long("rename"))),
        ("setxattr", set()),
    ];
    calls
        .map(|(name, result)| (name, given(result).map(|()| 0)))
        .into()
}

#[test]
fn names_without_room_are_refused_and_leave_nothing() -> TestResult {
    const NAME: &str = "names_without_room_are_refused_and_leave_nothing";
    need_mount!("names_without_room_are_refused_and_leave_nothing");
    // Blocks of 1 KiB, small inodes, nothing reserved for root.
    let mkfs = [
        "mkfs.ext4",
        "-q",
        "-F",
        "-b",
        "1024",
        "-I",
        "128",
        "-m",
        "0",
    ];
    let Some(disk) = Disk::new(NAME, &mkfs, 16, "") else {
        return Ok(());
    };
    let below = disk.backing();
    fs::create_dir(below.join("dir"))?;
    for name in ["file", "moves"] {
        fs::write(below.join(name), b"")?;
    }
    let mut filler = File::create(below.join("filler"))?;
    for size in [1 << 20, 1024, 1] {
        write_until_refused(&mut filler, size);
    }
    // The directory's last block, too.
    let mut number = 0;
    let full = loop {
        let name = below
            .join("dir")
            .join(format!("{number}-{}", "f".repeat(200)));
        if let Err(error) = fs::hard_link(below.join("file"), name) {
            break error;
        }
        number += 1;
    };
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    let wanted = name_calls(&below, "below");
    assert!(
        wanted.iter().all(|(_, given)| *given == Err(libc::ENOSPC)),
        "{wanted:?}"
    );
    let rig = disk.rig(Passthrough::Auto)?;
    assert_eq!(name_calls(&rig.m(""), "through"), wanted);
    let names = |root: &Path| fs::read_dir(root.join("dir")).map(Iterator::count);
    assert_eq!((names(&rig.m(""))?, names(&below)?), (number, number));
    assert!(rig.m("moves").exists());
    // With room, the same calls work: no refusal is remembered.
    drop(filler);
    fs::remove_file(rig.m("filler"))?;
    // A large file's blocks come free a little after its name has gone.
    eventually("there is room", || {
        rustix::fs::statvfs(&below).unwrap().f_bavail > 1000
    });
    let after = name_calls(&rig.m(""), "through");
    assert!(after.iter().all(|(_, given)| given.is_ok()), "{after:?}");
    assert_eq!(names(&rig.m(""))?, number + 5);
    Ok(())
}

#[test]
fn a_used_up_quota_is_told_as_it_is() -> TestResult {
    const NAME: &str = "a_used_up_quota_is_told_as_it_is";
    need_mount!("a_used_up_quota_is_told_as_it_is");
    // Of a subvolume: the one kind of quota that a kernel with btrfs always has.
    let Some(disk) = Disk::new(NAME, &["mkfs.btrfs", "-q"], 256, "") else {
        return Ok(());
    };
    let (root, below) = (disk.root(), disk.backing());
    let (root, below) = (
        root.to_str().context("plain")?,
        below.to_str().context("plain")?,
    );
    fs::remove_dir(below)?;
    let limited = ran("btrfs", &["subvolume", "create", below])
        && ran("btrfs", &["quota", "enable", root])
        && ran("btrfs", &["qgroup", "limit", "4M", below]);
    anyhow::ensure!(limited, "a subvolume cannot be limited");
    for passthrough in BOTH {
        let rig = disk.rig(passthrough)?;
        for dir in [Path::new(below), &rig.m("")] {
            let path = dir.join("f");
            let mut file = File::create(&path)?;
            let all = write_until_refused(&mut file, 300_000);
            assert_eq!(
                all.last(),
                Some(&Err(libc::EDQUOT)),
                "{passthrough:?} {dir:?}"
            );
            let written: usize = all.iter().flatten().sum();
            assert_eq!(file.metadata()?.len(), written as u64);
            assert_eq!(fs::read(&path)?.len(), written);
            // Perhaps a little of it fits by now.
            let mut append = File::options().append(true).open(&path)?;
            let more = write_until_refused(&mut append, 300_000);
            assert_eq!(more.last(), Some(&Err(libc::EDQUOT)), "{more:?}");
            drop((file, append));
            fs::remove_file(&path)?;
            // Freed when the last descriptor is closed, a little later, and the transaction ends.
            eventually("there is room again", || {
                let synced = ran("btrfs", &["filesystem", "sync", root]);
                let written = fs::write(dir.join("g"), pattern(1_000_000)).is_ok();
                let removed = fs::remove_file(dir.join("g")).is_ok();
                synced && written && removed
            });
        }
    }
    Ok(())
}

/// Stops a filesystem at once, as a lost disk does: all that needs it gives EIO.
#[allow(unsafe_code, reason = "no safe wrapper shuts a filesystem down")]
fn shut_down(root: &Path) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    // `_IOR('X', 125, __u32)`, of ext4 and XFS alike; 2: the log is not written.
    const GOING_DOWN: libc::Ioctl = 0x8004_587d_u32 as libc::Ioctl;
    let (dir, how) = (File::open(root)?, 2_u32);
    // SAFETY: the kernel reads four bytes at the pointer, which outlive the call.
    match unsafe { libc::ioctl(dir.as_raw_fd(), GOING_DOWN, &raw const how) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Calls that cannot do without the disk, on what was open or known before it failed.
fn calls_on_a_dead_disk(root: &Path, open: &mut File) -> Vec<(&'static str, Given)> {
    let calls = [
        ("write", open.write(&[1; 5000]).map(drop)),
        ("write at", open.write_at(&[1; 5000], 0).map(drop)),
        ("fsync", open.sync_all()),
        ("truncate", open.set_len(3)),
        ("mkdir", fs::create_dir(root.join("new"))),
        ("create", File::create_new(root.join("newer")).map(drop)),
        ("rename", fs::rename(root.join("f"), root.join("g"))),
        ("unlink", fs::remove_file(root.join("f"))),
        ("link", fs::hard_link(root.join("f"), root.join("h"))),
        ("chmod", {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o640);
            fs::set_permissions(root.join("f"), mode)
        }),
    ];
    calls
        .map(|(name, result)| (name, given(result).map(|()| 0)))
        .into()
}

#[test]
fn a_failing_disk_is_told_as_it_is_and_the_mount_lives() -> TestResult {
    const NAME: &str = "a_failing_disk_is_told_as_it_is_and_the_mount_lives";
    need_mount!("a_failing_disk_is_told_as_it_is_and_the_mount_lives");
    for (mkfs, mib) in [
        (["mkfs.ext4", "-q", "-F"], 64),
        (["mkfs.xfs", "-q", "-f"], 320),
    ] {
        for passthrough in BOTH {
            let Some(disk) = Disk::new(NAME, &mkfs, mib, "") else {
                continue;
            };
            let rig = disk.rig(passthrough)?;
            let mut all = Vec::new();
            for root in [disk.backing(), rig.m("")] {
                fs::write(root.join("f"), pattern(10_000))?;
            }
            let open = |root: &Path| File::options().append(true).open(root.join("f"));
            let mut files = [open(&disk.backing())?, open(&rig.m(""))?];
            shut_down(&disk.root())?;
            for (root, file) in [disk.backing(), rig.m("")].iter().zip(&mut files) {
                all.push(calls_on_a_dead_disk(root, file));
            }
            let what = (mkfs[0], passthrough);
            assert!(
                all[0].iter().any(|(_, g)| *g == Err(libc::EIO)),
                "{what:?} {:?}",
                all[0]
            );
            assert_eq!(all[1], all[0], "{what:?}");
            // It is the disk that is dead: the mount answers, and goes as any other.
            assert!(rustix::fs::statvfs(rig.m("")).is_ok());
            drop(files);
            eventually("the mount is not busy", || {
                rig.mirror().unmount(false).is_ok()
            });
        }
    }
    Ok(())
}

/// What is read of a file of which a part cannot be read any more: piece by piece and at once.
fn read_pieces(path: &Path, data: &[u8]) -> anyhow::Result<Vec<Given>> {
    let file = File::open(path)?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    let mut buffer = vec![0; 100_000];
    let mut all = Vec::new();
    for offset in (0..BROKEN).step_by(100_000) {
        let one = given(file.read_at(&mut buffer, offset));
        if let Ok(count) = one {
            let place = offset as usize;
            let right = buffer[..count] == data[place..place + count];
            anyhow::ensure!(right, "other bytes at {offset}");
        }
        all.push(one);
    }
    all.push(given(fs::read(path)).map(|data| data.len()));
    all.push(Ok(fs::metadata(path)?.len() as usize));
    Ok(all)
}

/// Size of a file whose end is lost.
const BROKEN: u64 = 3_000_000;

#[test]
fn a_disk_that_fails_in_the_middle_of_a_file_cuts_nothing_off() -> TestResult {
    const NAME: &str = "a_disk_that_fails_in_the_middle_of_a_file_cuts_nothing_off";
    need_mount!("a_disk_that_fails_in_the_middle_of_a_file_cuts_nothing_off");
    let mkfs = ["mkfs.ext4", "-q", "-F", "-O", "^has_journal"];
    let Some(disk) = Disk::new(NAME, &mkfs, 32, "") else {
        return Ok(());
    };
    let below = disk.backing().join("f");
    let data = pattern(BROKEN as usize);
    fs::write(&below, &data)?;
    rustix::fs::syncfs(File::open(&below)?)?;
    // What lies behind the image's end cannot be read: cut until the file's end is there.
    let image = File::options().write(true).open(disk.image())?;
    let refused = |all: &[Given]| all.iter().filter(|g| g.is_err()).count();
    let mut wanted = read_pieces(&below, &data)?;
    for end in (0..64_u64).rev().map(|half| half << 19) {
        image.set_len(end)?;
        wanted = read_pieces(&below, &data)?;
        if refused(&wanted) > 4 {
            break;
        }
    }
    assert!((4..25).contains(&refused(&wanted)), "{wanted:?}");
    for passthrough in BOTH {
        let rig = disk.rig(passthrough)?;
        rustix::fs::fadvise(&File::open(&below)?, 0, None, rustix::fs::Advice::DontNeed)?;
        let seen = read_pieces(&rig.m("f"), &data)?;
        assert_eq!(seen.last(), wanted.last(), "{passthrough:?}: its length");
        assert_eq!(seen.len(), wanted.len());
        // How much of a piece comes before the error is up to what the kernel reads at once.
        let length = |one: &Given| one.unwrap_or(0);
        for (at, (seen, wanted)) in seen.iter().zip(&wanted).enumerate() {
            let near = length(seen).abs_diff(length(wanted)) <= 128 << 10;
            assert!(near, "{passthrough:?}, piece {at}: {seen:?} for {wanted:?}");
        }
        assert!(refused(&seen) > 3, "{passthrough:?}: {seen:?}");
    }
    Ok(())
}

#[test]
fn what_is_reserved_for_root_is_not_the_users() -> TestResult {
    const NAME: &str = "what_is_reserved_for_root_is_not_the_users";
    need_mount!("what_is_reserved_for_root_is_not_the_users");
    let mkfs = ["mkfs.ext4", "-q", "-F", "-m", "40"];
    let Some(disk) = Disk::new(NAME, &mkfs, 32, "") else {
        return Ok(());
    };
    let open_to_all = |path: &Path| {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777))
    };
    open_to_all(&disk.backing())?;
    for path in disk.root().ancestors().take(2) {
        open_to_all(path)?;
    }
    let script = "head -c 40000000 /dev/zero > \"$0\"/f";
    let taken = |root: &Path| -> anyhow::Result<u64> {
        assert!(!as_user(1000, script, root)?, "there is not so much room");
        let size = fs::metadata(root.join("f"))?.len();
        fs::remove_file(root.join("f"))?;
        Ok(size)
    };
    let free = || rustix::fs::statvfs(disk.root()).map(|s| s.f_bavail);
    let before = free()?;
    let wanted = taken(&disk.backing())?;
    for passthrough in BOTH {
        eventually("all blocks are free again", || free().unwrap() == before);
        let rig = disk.rig(passthrough)?;
        let seen = taken(&rig.m(""))?;
        // How many blocks the filesystem's own tables take is up to it.
        assert!(
            seen.abs_diff(wanted) < 1 << 20,
            "{passthrough:?}: {seen} for {wanted}"
        );
    }
    Ok(())
}

/// What each kind of call gives below a directory; `open`: a file that was opened before.
fn each_call(root: &Path, open: &File) -> Vec<(&'static str, Given)> {
    let path = |name: &str| root.join(name);
    let read = |name: &str| File::open(path(name)).and_then(|f| f.read_at(&mut [0; 9], 0));
    vec![
        ("open and read", given(read("other"))),
        ("read", given(open.read_at(&mut [0; 9], 1 << 16))),
        ("fsync", given(open.sync_all()).map(|()| 0)),
        ("truncate", given(open.set_len(7)).map(|()| 0)),
        ("create", given(File::create_new(path("made"))).map(|_| 0)),
        (
            "rename",
            given(fs::rename(path("b"), path("c"))).map(|()| 0),
        ),
        ("unlink", given(fs::remove_file(path("gone"))).map(|()| 0)),
        ("absent", given(fs::metadata(path("absent"))).map(|_| 0)),
        (
            "list",
            given(fs::read_dir(root).and_then(|mut d| d.next().transpose())).map(|_| 0),
        ),
    ]
}

#[test]
fn whatever_fails_below_is_told_as_it_is_and_not_remembered() -> TestResult {
    need_mount!("whatever_fails_below_is_told_as_it_is_and_not_remembered");
    let faults = [
        libc::ESTALE,
        libc::EIO,
        libc::ENOSPC,
        libc::EDQUOT,
        libc::EROFS,
    ];
    for passthrough in BOTH {
        let below = Failing::new()?;
        let rig = Rig::with(|c| {
            c.backing = BackingDir::Path(below.root().to_owned());
            c.passthrough = passthrough;
        })?;
        for fault in faults {
            for name in ["other", "b", "gone"] {
                fs::write(rig.m(name), pattern(100_000))?;
            }
            // One of which the kernel has nothing cached.
            let unread = format!("unread{fault}");
            fs::write(below.at(&unread), pattern(100_000))?;
            let open = |path| File::options().read(true).write(true).open(path);
            let (above, direct) = (open(rig.m(&unread))?, open(below.at(&unread))?);
            below.fail_with(fault);
            let seen = each_call(&rig.m(""), &above);
            let mut wanted = each_call(below.root(), &direct);
            below.fail_with(0);
            for (call, result) in &wanted {
                assert_eq!(*result, Err(fault), "{call}: the fault works");
            }
            let passes = rig.mirror().facts().passthrough.is_ok();
            if passes && seen[0].1 == Err(libc::EIO) {
                // Where the server has a backing id at hand the kernel alone opens the backing file,
                // and tells every error of that as EIO.
                wanted[0].1 = seen[0].1;
            }
            assert_eq!(seen, wanted);
            // And then all is as if nothing had been.
            assert_eq!(fs::read(rig.m(&unread))?, pattern(100_000));
            assert_eq!(fs::read(rig.m("other"))?, pattern(100_000));
            assert_eq!(given(fs::metadata(rig.m("made"))).err(), Some(libc::ENOENT));
            assert_eq!(fs::read_dir(rig.m(""))?.count(), 4);
            fs::rename(rig.m("b"), rig.m("c"))?;
            fs::remove_file(rig.m("c"))?;
            drop((above, direct));
            fs::remove_file(rig.m(&unread))?;
        }
    }
    Ok(())
}
