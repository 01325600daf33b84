//! Where the mount leads: into the backing directory and nowhere else, for nobody more than the
//! backing allows; and what reaches the disk.

use crate::rig::{Rig, TestResult, need_mount};
use anyhow::Context;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn no_path_leads_out_of_the_backing() -> TestResult {
    need_mount!("no_path_leads_out_of_the_backing");
    let outside = tempfile::tempdir()?;
    fs::write(outside.path().join("secret"), b"secret")?;
    let rig = Rig::new()?;
    fs::create_dir_all(rig.m("d/sub"))?;
    fs::write(rig.m("d/sub/f"), b"inside")?;
    // A directory that the kernel knows is exchanged for a symbolic link behind its back.
    fs::rename(rig.b("d/sub"), rig.b("d/moved"))?;
    symlink(outside.path(), rig.b("d/sub"))?;
    fs::write(rig.m("d/sub/new"), b"new")?;
    assert!(!outside.path().join("new").exists(), "written outside");
    assert_eq!(fs::read(rig.b("d/moved/new"))?, b"new");
    assert!(fs::read(rig.m("d/sub/secret")).is_err(), "read outside");
    assert!(fs::remove_file(rig.m("d/sub/secret")).is_err());
    assert!(fs::rename(rig.m("d/sub/f"), rig.m("d/sub/secret")).is_ok());
    assert_eq!(fs::read(outside.path().join("secret"))?, b"secret");
    // A symbolic link is read, and followed by the caller's own kernel, not by the server.
    symlink("../../../../../../etc", rig.m("up"))?;
    assert_eq!(
        fs::read_link(rig.m("up"))?,
        Path::new("../../../../../../etc")
    );
    // `..` of the mount's root is where it is mounted.
    let above = fs::metadata(rig.m(".."))?;
    let parent = fs::metadata(rig.m("").parent().context("parent")?)?;
    let number = std::os::unix::fs::MetadataExt::ino;
    assert_eq!(number(&above), number(&parent));
    Ok(())
}

#[test]
fn users_may_do_what_the_backing_lets_them() -> TestResult {
    need_mount!("users_may_do_what_the_backing_lets_them");
    let rig = Rig::new()?;
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let at = rig
        .mirror()
        .mountpoint()
        .to_str()
        .context("a plain path")?
        .to_owned();
    let line = mounts
        .lines()
        .find(|line| line.contains(&at))
        .context("the mount")?;
    assert!(
        line.contains("allow_other") && line.contains("default_permissions"),
        "{line}"
    );
    fs::write(rig.m("private"), b"secret")?;
    fs::set_permissions(rig.m("private"), PermissionsExt::from_mode(0o600))?;
    fs::create_dir(rig.m("closed"))?;
    fs::write(rig.m("closed/f"), b"secret")?;
    fs::set_permissions(rig.m("closed/f"), PermissionsExt::from_mode(0o644))?;
    fs::set_permissions(rig.m("closed"), PermissionsExt::from_mode(0o700))?;
    // Known to the kernel, and known to the server: still refused to others.
    assert_eq!(fs::read(rig.m("closed/f"))?, b"secret");
    for script in [
        "cat \"$0\"/private",
        "echo x >> \"$0\"/private",
        "cat \"$0\"/closed/f",
        "ls \"$0\"/closed",
        "chmod 666 \"$0\"/private",
        "chown 1000 \"$0\"/private",
        "ln \"$0\"/private \"$0\"/mine",
        "setfattr -n user.x -v 1 \"$0\"/private",
        "mknod \"$0\"/disk b 8 0",
        "touch \"$0\"/private",
        "truncate -s 0 \"$0\"/private",
    ] {
        for root in [rig.m(""), rig.b("")] {
            let done = Command::new("setpriv")
                .args([
                    "--reuid",
                    "1000",
                    "--regid",
                    "1000",
                    "--clear-groups",
                    "sh",
                    "-c",
                ])
                .arg(script)
                .arg(&root)
                .output()?;
            assert!(!done.status.success(), "{script} in {root:?}");
        }
    }
    assert_eq!(fs::read(rig.b("private"))?, b"secret");
    Ok(())
}

/// Something mounted for the length of a test.
struct Mounted(PathBuf);

impl Mounted {
    fn new(args: &[&str], what: &Path, at: PathBuf) -> anyhow::Result<Option<Self>> {
        let done = Command::new("mount")
            .args(args)
            .arg(what)
            .arg(&at)
            .output()?;
        Ok(done.status.success().then_some(Self(at)))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_mount_point_below_shows_what_it_covers() -> TestResult {
    need_mount!("a_mount_point_below_shows_what_it_covers");
    let rig = Rig::new()?;
    fs::create_dir(rig.m("d"))?;
    fs::write(rig.m("d/covered"), b"covered")?;
    let tmpfs = ["-t", "tmpfs"];
    let Some(_mounted) = Mounted::new(&tmpfs, Path::new("none"), rig.b("d"))? else {
        eprintln!("SKIPPED a_mount_point_below_shows_what_it_covers: no tmpfs can be mounted");
        return Ok(());
    };
    fs::write(rig.b("d/other"), b"of another filesystem")?;
    assert_eq!(fs::read(rig.m("d/covered"))?, b"covered");
    assert!(!rig.m("d/other").exists());
    fs::write(rig.m("d/new"), b"new")?;
    assert!(!rig.b("d/new").exists());
    let names: Vec<_> = fs::read_dir(rig.m("d"))?
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    Ok(())
}

/// The disk, as it would be found after a loss of power: a copy of the image in which a
/// filesystem lies that is still mounted.
fn after_power_loss(image: &Path, into: &Path) -> anyhow::Result<Option<Mounted>> {
    let copy = into.join("copy.img");
    fs::copy(image, &copy)?;
    let at = into.join("found");
    fs::create_dir(&at)?;
    Mounted::new(&["-o", "loop,nouuid"], &copy, at)
}

#[test]
fn fsync_through_the_mount_reaches_the_disk() -> TestResult {
    need_mount!("fsync_through_the_mount_reaches_the_disk");
    let dir = tempfile::tempdir()?;
    let (image, at) = (dir.path().join("disk.img"), dir.path().join("disk"));
    fs::create_dir(&at)?;
    File::create(&image)?.set_len(512 << 20)?;
    let made = Command::new("mkfs.xfs").arg("-q").arg(&image).status();
    let mounted = match made {
        Ok(status) if status.success() => Mounted::new(&["-o", "loop"], &image, at.clone())?,
        _ => None,
    };
    let Some(_mounted) = mounted else {
        eprintln!("SKIPPED fsync_through_the_mount_reaches_the_disk: no XFS in an image here");
        return Ok(());
    };
    fs::create_dir(at.join("backing"))?;
    let rig = Rig::with(|c| c.backing = cairn_fuse::BackingDir::Path(at.join("backing")))?;
    fs::create_dir(rig.m("d"))?;
    fs::write(rig.m("d/f"), b"written")?;
    fs::write(rig.m("d/g"), b"written too")?;
    File::open(rig.m("d/f"))?.sync_all()?;
    File::options()
        .write(true)
        .open(rig.m("d/g"))?
        .sync_data()?;
    File::open(rig.m("d"))?.sync_all()?;
    let found = tempfile::tempdir()?;
    let _found = after_power_loss(&image, found.path())?.context("the copy mounts")?;
    let disk = found.path().join("found/backing/d");
    assert_eq!(fs::read(disk.join("f"))?, b"written");
    assert_eq!(fs::read(disk.join("g"))?, b"written too");
    Ok(())
}
