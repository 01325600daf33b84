//! P13: full filesystems, below the mount and below the tier. Nothing is lost, and it goes on
//! when there is room.

use crate::needs_mounts;
use crate::rig::disk::Disk;
use crate::rig::{Instance, drop_caches, tree, wait_for};
use anyhow::{Result, ensure};
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Fills the filesystem of `dir` but for `left` bytes.
fn fill(dir: &Path, left: u64) -> Result<()> {
    let stat = rustix::fs::statvfs(dir)?;
    let take = (stat.f_bavail * stat.f_frsize).saturating_sub(left);
    let filler = File::create(dir.join("filler"))?;
    rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, take)?;
    filler.sync_all()?;
    Ok(())
}

#[test]
fn p4_a_full_backing_streams_readers_and_refuses_stages() -> Result<()> {
    needs_mounts!();
    for kind in ["ext4", "xfs"] {
        let disk = Disk::new(kind, 512)?;
        let mut cairn = Instance::new(None)?;
        let guard = disk.path.join("guard");
        DirBuilder::new().mode(0o700).create(&guard)?;
        cairn.backing = guard.join("b");
        fs::create_dir(&cairn.backing)?;
        cairn.up()?;
        let data = tree::bytes(1, 40 << 20);
        cairn.released("f", &data)?;
        fill(&guard, 8 << 20)?;
        ensure!(
            fs::read(cairn.at("f"))? == data,
            "{kind}: streamed bytes are wrong"
        );
        ensure!(
            cairn.shown_state("f")? != "archived",
            "{kind}: it became resident without room"
        );
        let open = File::options().write(true).open(cairn.at("f"));
        let error = open.err().and_then(|e| e.raw_os_error());
        ensure!(
            error == Some(libc::ENOSPC),
            "{kind}: opening for writing gave {error:?}"
        );
        let stage = cairn.run([
            OsStr::new("stage"),
            OsStr::new("--wait"),
            OsStr::new("--timeout"),
            OsStr::new("4s"),
            cairn.at("f").as_os_str(),
        ])?;
        let said = String::from_utf8_lossy(&stage.stderr).into_owned()
            + &String::from_utf8_lossy(&stage.stdout);
        ensure!(!stage.status.success(), "{kind}: staged without room");
        println!("{kind}: {} {said}", stage.status);
        fs::remove_file(guard.join("filler"))?;
        drop_caches()?;
        cairn.cairn([
            OsStr::new("stage"),
            OsStr::new("--wait"),
            OsStr::new("--timeout"),
            OsStr::new("60s"),
            cairn.at("f").as_os_str(),
        ])?;
        wait_for("the file to be back", || {
            Ok(cairn.shown_state("f")? == "archived")
        })?;
        ensure!(fs::read(cairn.at("f"))? == data, "{kind}");
        cairn.down()?;
    }
    Ok(())
}

#[test]
fn p13_a_full_tier_keeps_archives_waiting_until_there_is_room() -> Result<()> {
    needs_mounts!();
    let disk = Disk::new("ext4", 64)?;
    let mut cairn = Instance::new(None)?;
    cairn.tier = disk.path.join("tier");
    fs::create_dir(&cairn.tier)?;
    cairn.up()?;
    let data = tree::bytes(2, 12 << 20);
    fs::write(cairn.at("f"), &data)?;
    fill(&disk.path, 2 << 20)?;
    let id = cairn.cairn([OsStr::new("archive"), cairn.at("f").as_os_str()])?;
    let id = id.trim().to_owned();
    wait_for("the archive to meet the full tier", || {
        Ok(cairn.log().contains("given up"))
    })?;
    println!("{}", cairn.cairn(["requests", &id])?);
    ensure!(cairn.shown_state("f")? == "resident");
    let refused = cairn.run([
        OsStr::new("release"),
        OsStr::new("--wait"),
        OsStr::new("--timeout"),
        OsStr::new("5s"),
        cairn.at("f").as_os_str(),
    ])?;
    println!(
        "release: {} {}",
        refused.status,
        String::from_utf8_lossy(&refused.stderr)
    );
    ensure!(
        cairn.shown_state("f")? == "resident",
        "released without a copy"
    );
    fs::remove_file(disk.path.join("filler"))?;
    cairn.cairn(["wait", "--timeout", "60s", &id])?;
    ensure!(cairn.shown_state("f")? == "archived");
    cairn.release("f")?;
    drop_caches()?;
    ensure!(fs::read(cairn.at("f"))? == data);
    cairn.down()
}
