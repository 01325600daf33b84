//! The backing is gone: what a tier alone gives back.

use crate::needs_mounts;
use crate::rig::{Instance, drop_caches, program, tree, wait_for};
use anyhow::{Context, Result, ensure};
use rustix::fs::XattrFlags;
use std::fs;
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
    drop_caches()?;
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
