//! The backing is gone: what a tier alone gives back.

use crate::needs_mounts;
use crate::rig::disk::Disk;
use crate::rig::{Instance, program, tree, wait_for};
use anyhow::{Context, Result, ensure};
use rustix::fs::XattrFlags;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::process::{Command, Output};

fn restore(cairn: &Instance, to: &Path, more: &[&str]) -> Result<Output> {
    let tier = format!("disk=dir:{}", cairn.tier.display());
    Command::new(program())
        .args(["restore", "--tier", &tier, "--to"])
        .arg(to)
        .arg("--state")
        .arg(cairn.dir.path().join("state-2"))
        .args(more)
        .output()
        .context("cairn restore")
}

fn said(output: &Output) -> String {
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    format!("{}\n{}", text(&output.stdout), text(&output.stderr))
}

fn archive_all(cairn: &Instance) -> Result<()> {
    let mount = cairn.mount.to_string_lossy().into_owned();
    cairn.cairn(["archive", "--wait", &mount])?;
    Ok(())
}

/// A tree with one of everything, through the mount.
fn build(cairn: &Instance) -> Result<()> {
    let at = |name: &str| cairn.at(name);
    for dir in ["proj/run-1", "proj/run-2", "old/deep/er"] {
        fs::create_dir_all(at(dir))?;
    }
    for n in 0..12_u32 {
        let len = 1000 + 9000 * n as usize;
        fs::write(at(&format!("proj/run-1/f{n}")), tree::bytes(n.into(), len))?;
    }
    fs::write(at("old/deep/er/x"), tree::bytes(90, 70_000))?;
    fs::write(at("old/gone"), tree::bytes(91, 70_000))?;
    let odd = std::ffi::OsStr::from_bytes(b"proj/100%\xff\n");
    fs::write(cairn.mount.join(odd), tree::bytes(92, 3000))?;
    fs::write(at("empty"), b"")?;
    fs::hard_link(at("proj/run-1/f3"), at("old/linked"))?;
    symlink("../nowhere", at("proj/soft"))?;
    lchown(at("proj/soft"), Some(7), Some(8))?;
    let no = XattrFlags::empty();
    rustix::fs::setxattr(at("proj/run-1/f4"), "user.note", b"\xff\x00", no)?;
    let acl = acl(&[
        (1, 7, !0),
        (2, 5, 1234),
        (4, 5, !0),
        (16, 5, !0),
        (32, 0, !0),
    ]);
    rustix::fs::setxattr(at("proj/run-1/f5"), "system.posix_acl_access", &acl, no)?;
    rustix::fs::setxattr(at("proj/run-2"), "system.posix_acl_default", &acl, no)?;
    Ok(())
}

/// The kernel's form of an ACL: tag, permissions, identity.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// Renames, overwrites, chmods, unlinks.
fn change(cairn: &Instance) -> Result<()> {
    let at = |name: &str| cairn.at(name);
    fs::rename(at("old/deep"), at("proj/run-2/deep"))?;
    fs::rename(at("proj/run-1/f1"), at("proj/run-2/renamed"))?;
    fs::write(at("proj/run-1/f2"), tree::bytes(200, 50_000))?;
    fs::set_permissions(at("proj/run-1/f6"), fs::Permissions::from_mode(0o4511))?;
    fs::set_permissions(at("proj"), fs::Permissions::from_mode(0o2751))?;
    chown(at("proj/run-1/f7"), Some(4321), Some(1234))?;
    fs::remove_file(at("old/gone"))?;
    fs::remove_file(at("proj/run-1/f8"))?;
    Ok(())
}

/// As if the lost machine had written nothing for long.
fn quiet_for_long(cairn: &Instance) -> Result<()> {
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::open(cairn.tier.join("incoming"))?.set_modified(long_ago)?;
    Ok(())
}

fn both_are_listed(cairn: &Instance) -> Result<()> {
    let listed = Command::new(program())
        .args(["restore", "--list", "--tier"])
        .arg(format!("dir:{}", cairn.tier.display()))
        .output()?;
    let list = said(&listed);
    ensure!(listed.status.success(), "{list}");
    ensure!(
        list.contains("full") && list.contains("changes since"),
        "{list}"
    );
    Ok(())
}

#[test]
fn a_tier_alone_gives_the_namespace_back() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    build(&cairn)?;
    archive_all(&cairn)?;
    // The first snapshot, a full one.
    cairn.down()?;
    cairn.up()?;
    change(&cairn)?;
    archive_all(&cairn)?;
    cairn.release("proj/run-2/deep/er/x")?;
    let was = tree::picture(&cairn.mount)?;
    // And one of what changed.
    cairn.down()?;
    cairn.up()?;
    fs::write(cairn.at("later"), tree::bytes(300, 4000))?;
    cairn.cairn(["archive", "--wait", &cairn.at("later").to_string_lossy()])?;
    cairn.kill()?;
    fs::remove_dir_all(&cairn.backing)?;

    both_are_listed(&cairn)?;
    let to = cairn.dir.path().join("guarded/new");
    quiet_for_long(&cairn)?;
    let early = cairn.dir.path().join("guarded/early");
    let done = restore(&cairn, &early, &["--at", "2001-02-03 04:05:06"])?;
    let told = said(&done);
    ensure!(
        !done.status.success() && told.contains("of that time or before"),
        "{told}"
    );
    ensure!(told.contains("reach back to 20"), "{told}");
    let done = restore(&cairn, &to, &["--take"])?;
    let told = said(&done);
    ensure!(done.status.success(), "{told}");
    ensure!(
        told.contains("later") && !told.contains("not-archived"),
        "{told}"
    );
    let report = fs::read_to_string(cairn.dir.path().join("guarded/new.restore-report.jsonl"))?;
    ensure!(
        report.lines().count() == 1 && report.contains("\"path\":\"later\""),
        "{report}"
    );

    // What it said to do next.
    cairn.backing = to;
    cairn.state = cairn.dir.path().join("state-2");
    cairn.up()?;
    cairn.cold()?;
    let is = tree::picture(&cairn.mount)?;
    for (path, facts) in &was {
        let now = is.get(path);
        ensure!(
            now == Some(facts),
            "{path:?}: {facts:?}\n{now:?}\n{}",
            cairn.log()
        );
    }
    let linked = (
        fs::metadata(cairn.at("old/linked"))?,
        fs::metadata(cairn.at("proj/run-1/f3"))?,
    );
    ensure!(linked.0.ino() == linked.1.ino());
    ensure!(is.len() == was.len(), "{:?}", is.keys());
    // It is an archive like any other: known, released again, recalled again.
    wait_for("the first scan to end", || {
        let status = cairn.cairn(["status", "--json", &cairn.mount.to_string_lossy()])?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        Ok(status["scan"]["running"] == false && !status["scan"]["finished"].is_null())
    })?;
    wait_for("the recall to end", || {
        Ok(cairn.shown_state("proj/run-1/f11")? == "archived")
    })?;
    cairn.release("proj/run-1/f11")?;
    let again = fs::read(cairn.at("proj/run-1/f11"))?;
    ensure!(again == tree::bytes(11, 1000 + 9000 * 11));
    cairn.down()
}

#[test]
fn what_was_never_archived_is_said_and_an_unfinished_restore_does_not_start() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    fs::write(cairn.at("kept"), tree::bytes(1, 70_000))?;
    archive_all(&cairn)?;
    fs::write(cairn.at("fresh"), b"not yet archived")?;
    cairn.down()?;
    let to = cairn.dir.path().join("guarded/new");
    let done = restore(&cairn, &to, &[])?;
    let told = said(&done);
    ensure!(done.status.code() == Some(1), "{told}");
    ensure!(
        told.contains("fresh") && told.contains("not-archived"),
        "{told}"
    );
    ensure!(!to.join("fresh").exists() && to.join("kept").exists());
    // Asked for again, it says what is there, and where the report lies.
    let told = said(&restore(&cairn, &to, &[])?);
    ensure!(told.contains("is the backing of the instance in"), "{told}");
    ensure!(told.contains("new.restore-report.jsonl"), "{told}");
    // An instance that no restore made has no report.
    let state = cairn.state.to_string_lossy().into_owned();
    let own = Command::new(program())
        .args(["restore", "--state", &state, "--tier"])
        .arg(format!("dir:{}", cairn.tier.display()))
        .arg("--to")
        .arg(&cairn.backing)
        .output()?;
    let told = said(&own);
    ensure!(own.status.code() == Some(1), "{told}");
    ensure!(told.contains("is the backing of the instance in"), "{told}");
    ensure!(!told.contains("hint"), "{told}");
    // The tier belongs to the former instance until it is given away.
    cairn.backing = to.clone();
    cairn.state = cairn.dir.path().join("state-2");
    let refused = format!("{:#}", cairn.up().err().context("it started")?);
    ensure!(refused.contains("belongs to instance"), "{refused}");
    // As a restore leaves it that was killed.
    let unfinished = br#"{"format":1,"snapshot":"e00000001-100000000001","tier":"00000001","fs":"x","work":"w","phase":"making"}"#;
    rustix::fs::setxattr(
        &to,
        "trusted.cairn.restore",
        unfinished,
        XattrFlags::empty(),
    )?;
    let refused = format!("{:#}", cairn.up().err().context("it started")?);
    ensure!(refused.contains("is not finished"), "{refused}");
    Ok(())
}

/// A disk for the new backing, with a directory that only root may enter.
fn target(mib: u64) -> Result<(Disk, std::path::PathBuf)> {
    let disk = Disk::new("ext4", mib)?;
    let guard = disk.path.join("guard");
    fs::create_dir(&guard)?;
    fs::set_permissions(&guard, fs::Permissions::from_mode(0o700))?;
    Ok((disk, guard.join("new")))
}

/// The target's ext4 keeps the attributes of a file in one block, which is as good as full of the users'
/// own: ENOSPC, and nothing that a later try could wait for.
#[test]
fn attributes_that_leave_no_room_for_a_record_do_not_stop_a_restore() -> Result<()> {
    needs_mounts!();
    let (disk, to) = target(64)?;
    let block = usize::try_from(rustix::fs::statvfs(&disk.path)?.f_bsize)?;
    ensure!(
        block == 1024,
        "blocks of {block}: the source may not take it"
    );
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    fs::write(cairn.at("crammed"), tree::bytes(1, 70_000))?;
    fs::write(cairn.at("other"), tree::bytes(2, 70_000))?;
    let (no, note) = (XattrFlags::empty(), vec![b'n'; block - 80]);
    // The target takes it, as long as it is the only one.
    fs::write(disk.path.join("fits"), b"")?;
    rustix::fs::setxattr(disk.path.join("fits"), "user.note", &note, no)?;
    rustix::fs::setxattr(cairn.at("crammed"), "user.note", &note, no)?;
    archive_all(&cairn)?;
    cairn.down()?;
    quiet_for_long(&cairn)?;
    let done = restore(&cairn, &to, &["--take"])?;
    let told = said(&done);
    ensure!(done.status.code() == Some(1), "{told}");
    ensure!(
        told.contains("crammed: it is there without attributes: user.note"),
        "{told}"
    );
    ensure!(!told.contains("failed"), "{told}");
    cairn.backing = to;
    cairn.state = cairn.dir.path().join("state-2");
    cairn.up()?;
    for (name, seed) in [("crammed", 1), ("other", 2)] {
        ensure!(
            fs::read(cairn.at(name))? == tree::bytes(seed, 70_000),
            "{name}"
        );
    }
    cairn.down()
}

/// Fills the disk that the file lies on, but for `left` bytes.
fn fill(path: &Path, left: u64) -> Result<()> {
    let (mut file, chunk, mut len) = (fs::File::create(path)?, [1; 1 << 12], 0);
    while let Ok(()) = file.write_all(&chunk) {
        len += chunk.len() as u64;
    }
    file.sync_all()?;
    file.set_len(len - left)?;
    file.sync_all()?;
    Ok(())
}

/// Stubs, and behind them empty files, each with attributes that take a block of their own.
const MANY: u32 = 600;
const STUBS: u32 = 100;

fn noted(n: u32) -> (String, Vec<u8>) {
    let path = if n < STUBS { "a" } else { "b" };
    // Each another: ext4 shares blocks of attributes that are the same.
    (format!("{path}{n}"), format!("{n:0>300}").into_bytes())
}

#[test]
fn a_restore_that_fills_its_disk_ends_and_goes_on_when_there_is_room() -> Result<()> {
    needs_mounts!();
    let (disk, to) = target(64)?;
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    for n in 0..MANY {
        let (name, note) = noted(n);
        let len = if n < STUBS { 5000 } else { 0 };
        fs::write(cairn.at(&name), tree::bytes(n.into(), len))?;
        rustix::fs::setxattr(cairn.at(&name), "user.note", &note, XattrFlags::empty())?;
    }
    archive_all(&cairn)?;
    cairn.down()?;
    quiet_for_long(&cairn)?;
    // The listings find room, and some of the files.
    fill(&disk.path.join("filler"), 800 << 10)?;
    let report = cairn.dir.path().join("report");
    let more = ["--take", "--report", &report.to_string_lossy()];
    let told = said(&restore(&cairn, &to, &more)?);
    ensure!(told.contains("goes on where this ended"), "{told}");
    ensure!(told.contains("set an attribute of b"), "{told}");
    fs::remove_file(disk.path.join("filler"))?;
    let done = restore(&cairn, &to, &more)?;
    let told = said(&done);
    ensure!(done.status.success(), "{told}");
    for n in 0..MANY {
        let (name, note) = noted(n);
        let len = fs::metadata(to.join(&name))?.len();
        ensure!(len == if n < STUBS { 5000 } else { 0 }, "{name}");
        let mut value = [0; 400];
        let len = rustix::fs::getxattr(to.join(&name), "user.note", &mut value[..])?;
        ensure!(value[..len] == note, "{name}");
    }
    Ok(())
}
