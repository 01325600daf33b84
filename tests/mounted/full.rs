//! P13: full filesystems, below the mount and below the tier. Nothing is lost, and it goes on
//! when there is room.

use crate::needs_mounts;
use crate::rig::disk::Disk;
use crate::rig::{Instance, tree, wait_for};
use anyhow::{Result, ensure};
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{Child, Command};

/// Fills the filesystem of `dir` but for `left` bytes.
fn fill(dir: &Path, left: u64) -> Result<()> {
    let stat = rustix::fs::statvfs(dir)?;
    let take = (stat.f_bavail * stat.f_frsize).saturating_sub(left);
    let filler = File::create(dir.join("filler"))?;
    rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, take)?;
    filler.sync_all()?;
    Ok(())
}

/// Before `up`: settings of a configuration file.
fn configure(cairn: &mut Instance, settings: &str) -> Result<()> {
    let file = cairn.dir.path().join("cairn.toml");
    fs::write(&file, settings)?;
    let file = file.to_string_lossy().into_owned();
    cairn.args.extend(["--config".to_owned(), file]);
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
        // Nothing that could be released makes room here: waiting for it is another test's.
        configure(&mut cairn, "emergency-wait = \"0s\"")?;
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
        cairn.cold()?;
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
    cairn.cold()?;
    ensure!(fs::read(cairn.at("f"))? == data);
    cairn.down()
}

/// A process that opens a file for reading and writing and writes one byte. Ended when dropped.
struct Writer(Child);

impl Writer {
    fn start(path: &Path) -> Result<Self> {
        let script = "import sys\nf=open(sys.argv[1],'r+b')\nf.write(b'!')\nf.close()";
        let child = Command::new("python3")
            .args(["-c", script])
            .arg(path)
            .spawn()?;
        Ok(Self(child))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// As [`wait_for`], three times as long: policy and its retries come first.
fn patiently(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    for _ in 0..2 {
        if wait_for(what, &mut done).is_ok() {
            return Ok(());
        }
    }
    wait_for(what, done)
}

/// A warning of `cairn status` says this.
fn says(cairn: &Instance, what: &str) -> Result<bool> {
    let status = cairn.cairn([
        OsStr::new("status"),
        OsStr::new("--json"),
        cairn.mount.as_os_str(),
    ])?;
    Ok(status.contains(what))
}

#[test]
fn p13_above_the_emergency_mark_opens_for_writing_wait_for_releases() -> Result<()> {
    needs_mounts!();
    let disk = Disk::new("ext4", 256)?;
    let mut cairn = Instance::new(None)?;
    let guard = disk.path.join("guard");
    DirBuilder::new().mode(0o700).create(&guard)?;
    cairn.backing = guard.join("b");
    fs::create_dir(&cairn.backing)?;
    let policy = cairn.dir.path().join("release.policy");
    fs::write(
        &policy,
        "copies 1\nkeep-staged 0 s\nrule release room\n    when size >= 64 KiB\n    above 70 % down to 50 %\n    order oldest access first\n",
    )?;
    let settings = format!(
        "policy = {:?}\nemergency-mark = \"97%\"\nemergency-wait = \"10m\"\n",
        policy.display().to_string()
    );
    configure(&mut cairn, &settings)?;
    cairn.up()?;
    // As long as these are open they cannot be released.
    let data = tree::bytes(3, 8 << 20);
    let mut open = Vec::new();
    for n in 0..12 {
        let name = format!("cold{n}");
        fs::write(cairn.at(&name), &data)?;
        open.push(File::open(cairn.at(&name))?);
        cairn.archive(&name)?;
    }
    fs::write(cairn.at("log"), b"?")?;
    fill(&guard, 2 << 20)?;
    patiently("the emergency to be noticed", || says(&cairn, "(0 now)"))?;
    let mut writer = Writer::start(&cairn.at("log"))?;
    patiently("the open to wait", || says(&cairn, "(1 now)"))?;
    // Whoever waits can be interrupted, and is then waited for no more.
    let mut second = Writer::start(&cairn.at("log"))?;
    patiently("the second open to wait", || says(&cairn, "(2 now)"))?;
    second.0.kill()?;
    patiently("the killed writer to end", || {
        Ok(second.0.try_wait()?.is_some())
    })?;
    patiently("its wait to be given up", || says(&cairn, "(1 now)"))?;
    // Creations hold their directory's lock: they never wait. Neither do readers.
    fs::write(cairn.at("new"), b"x")?;
    ensure!(fs::read(cairn.at("log"))? == b"?");
    drop(open);
    patiently("the writer to go on", || Ok(writer.0.try_wait()?.is_some()))?;
    ensure!(writer.0.wait()?.success(), "it could not write");
    ensure!(fs::read(cairn.at("log"))? == b"!");
    let stat = rustix::fs::statvfs(&guard)?;
    let (used, room) = (stat.f_blocks - stat.f_bfree, stat.f_bavail);
    ensure!(
        used * 100 < (used + room) * 97,
        "it went on without room: {used} of {} blocks",
        used + room
    );
    ensure!(fs::read(cairn.at("cold0"))? == data);
    cairn.down()
}
