//! P6: stubs that were copied around the mount, with `cp -a` or from a backup.

use crate::needs_mounts;
use crate::rig::{Instance, on_disk, tree, wait_for};
use anyhow::{Context, Result, ensure};
use std::ffi::OsStr;
use std::fs;
use std::process::Command;

/// Copies a stub with all that root can copy, holes as holes.
fn copy(cairn: &Instance, from: &str, to: &str) -> Result<()> {
    let done = Command::new("cp")
        .args(["-a", "--sparse=always"])
        .arg(cairn.below(from))
        .arg(cairn.below(to))
        .output()
        .context("cp")?;
    let why = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(done.status.success(), "cp: {why}");
    let mut value = [0; 512];
    rustix::fs::getxattr(cairn.below(to), "trusted.cairn.record", &mut value[..])
        .context("cp leaves the stub behind")?;
    cairn.cold()
}

fn id(cairn: &Instance, name: &str) -> Result<String> {
    let mut value = [0; 64];
    let len = rustix::fs::getxattr(cairn.at(name), "user.cairn.id", &mut value[..])?;
    Ok(String::from_utf8_lossy(&value[..len]).into_owned())
}

#[test]
fn p6_a_copied_stub_is_a_released_file_of_its_own() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let data = tree::bytes(1, 300_000);
    cairn.released("original", &data)?;
    copy(&cairn, "original", "copy")?;
    copy(&cairn, "original", "staged")?;
    ensure!(cairn.shown_state("copy")? == "foreign");
    ensure!(fs::read(cairn.at("copy"))? == data, "{}", cairn.log());
    wait_for(
        "the recall",
        || Ok(cairn.shown_state("copy")? == "archived"),
    )?;
    ensure!(id(&cairn, "copy")? != id(&cairn, "original")?);
    // It outlives the original, by copies that both count on.
    fs::remove_file(cairn.at("original"))?;
    cairn.release("copy")?;
    ensure!(on_disk(&cairn.below("copy"))? <= 8192, "{}", cairn.log());
    cairn.cairn([
        OsStr::new("verify"),
        OsStr::new("--wait"),
        cairn.at("copy").as_os_str(),
    ])?;
    cairn.down()?;
    cairn.up()?;
    cairn.cold()?;
    ensure!(fs::read(cairn.at("copy"))? == data, "{}", cairn.log());
    ensure!(fs::read(cairn.at("staged"))? == data, "{}", cairn.log());
    cairn.down()
}

#[test]
fn p6_a_stub_of_anothers_data_is_foreign() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    cairn.released("original", &tree::bytes(2, 200_000))?;
    copy(&cairn, "original", "taken")?;
    std::os::unix::fs::chown(cairn.below("taken"), Some(1234), Some(1234))?;
    for _ in 0..2 {
        let read = fs::read(cairn.at("taken")).err();
        let read = read.and_then(|e| e.raw_os_error());
        ensure!(read == Some(libc::EIO), "reading gave {read:?}");
    }
    ensure!(cairn.shown_state("taken")? == "foreign");
    // Seen through the mount the file becomes known, and the next look tells why.
    fs::rename(cairn.at("taken"), cairn.at("still"))?;
    wait_for("the reason to be told", || {
        std::os::unix::fs::chown(cairn.below("still"), Some(1234), Some(1234))?;
        ensure!(fs::read(cairn.at("still")).is_err());
        let why = cairn.run([OsStr::new("why"), cairn.at("still").as_os_str()])?;
        let why = String::from_utf8_lossy(&why.stdout).into_owned();
        Ok(why.contains("foreign") && why.contains("another owner"))
    })?;
    // Cut to nothing it is a new file.
    fs::write(cairn.at("still"), b"new")?;
    ensure!(fs::read(cairn.at("still"))? == b"new");
    wait_for("the stub to be forgotten", || {
        Ok(cairn.shown_state("still")? == "resident")
    })?;
    cairn.down()
}
