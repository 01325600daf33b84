//! A mount that does not die: the instance is killed or upgraded while users work (P12).

use crate::needs_mounts;
use crate::rig::{CAIRN, Instance, is_mounted, program, tree, wait_for};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

/// Only a hang reaches it.
const BOUND: Duration = Duration::from_secs(120);

fn held() -> Result<Instance> {
    let mut cairn = Instance::new(None)?;
    cairn.hold = Some("300s".into());
    Ok(cairn)
}

/// What would wait for ever if nobody served.
fn bounded<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (tell, told) = channel();
    std::thread::spawn(move || tell.send(work()));
    told.recv_timeout(BOUND).context("it was never answered")
}

fn status(cairn: &Instance) -> Result<serde_json::Value> {
    let text = cairn.cairn(["status", "--json"])?;
    Ok(serde_json::from_str(&text)?)
}

fn serving(cairn: &Instance) -> Result<u64> {
    status(cairn)?["pid"].as_u64().context("no pid")
}

fn upgrade(cairn: &Instance, exec: &Path) -> Result<Output> {
    let mount = cairn.mount.to_string_lossy().into_owned();
    cairn.run(["upgrade", "--exec", &exec.to_string_lossy(), &mount])
}

fn end(cairn: &Instance) -> Result<()> {
    cairn.cairn(["down", &cairn.mount.to_string_lossy()])?;
    wait_for("the mount to go", || Ok(!is_mounted(&cairn.mount)?))
}

#[test]
fn p12_the_death_of_the_instance_is_a_pause() -> Result<()> {
    needs_mounts!();
    let mut cairn = held()?;
    cairn.up()?;
    ensure!(status(&cairn)?["mirror"]["hold_s"] == 300);
    let data = tree::bytes(1, 300_000);
    cairn.released("away", &data)?;
    fs::write(cairn.at("here"), b"0123456789")?;
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(cairn.at("here"))?;
    let waits = fs::File::open(cairn.at("away"))?;
    cairn.die()?;
    ensure!(is_mounted(&cairn.mount)?);
    let mut text = [0; 10];
    file.read_exact_at(&mut text, 0)?;
    ensure!(&text == b"0123456789", "without any instance");
    let path = cairn.at("new");
    let (tell, told) = channel();
    std::thread::spawn(move || tell.send(fs::write(path, b"begun while nobody served")));
    cairn.up()?;
    told.recv_timeout(BOUND)
        .context("it was never answered")??;
    file.write_at(b"x", 0)?;
    let read = bounded(move || {
        let mut bytes = vec![0; 300_000];
        waits.read_exact_at(&mut bytes, 0).map(|()| bytes)
    })??;
    ensure!(read == data, "an open of before, read after");
    ensure!(fs::read(cairn.at("here"))? == b"x123456789");
    ensure!(status(&cairn)?["mirror"]["predecessors"] == 1);
    drop(file);
    cairn.down()
}

#[test]
fn p12_who_waits_for_a_recall_is_served_by_the_next_instance() -> Result<()> {
    needs_mounts!();
    let mut cairn = held()?;
    cairn.tier_options("delay=4s");
    cairn.up()?;
    let data = tree::bytes(2, 300_000);
    cairn.released("away", &data)?;
    let path = cairn.at("away");
    let (tell, told) = channel();
    let begun = tell.clone();
    std::thread::spawn(move || {
        let _ = begun.send(Ok(Vec::new()));
        tell.send(fs::read(path))
    });
    told.recv_timeout(BOUND)??;
    wait_for("the recall to begin", || {
        Ok(status(&cairn)?["recalls"]["waiting"].as_u64() > Some(0))
    })?;
    cairn.die()?;
    cairn.up()?;
    let read = told
        .recv_timeout(BOUND)
        .context("it was never answered")??;
    ensure!(read == data);
    cairn.down()
}

/// The mount would answer the next instance alone.
#[test]
fn p12_a_mount_that_waits_for_an_instance_can_be_ended_by_force() -> Result<()> {
    needs_mounts!();
    let mut cairn = held()?;
    cairn.up()?;
    fs::write(cairn.at("f"), b"x")?;
    let file = fs::File::open(cairn.at("f"))?;
    cairn.die()?;
    let mount = cairn.mount.clone();
    let child = Command::new(program())
        .args(["down".as_ref(), "--force".as_ref(), mount.as_os_str()])
        .env_remove("CAIRN_SOCKET")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let pid = child.id().to_string();
    let ended = bounded(move || child.wait_with_output());
    if ended.is_err() {
        let _ = Command::new("kill").args(["-KILL", &pid]).status();
    }
    let output = ended??;
    ensure!(output.status.success(), "{output:?}");
    ensure!(!is_mounted(&cairn.mount)?);
    // Who has a file open is not kept waiting.
    bounded(move || file.sync_all().is_ok())?;
    wait_for("the holder's end", || {
        Ok(!cairn.state.join("holder.sock").exists())
    })?;
    cairn.up()?;
    cairn.down()
}

#[test]
fn p12_an_upgrade_is_a_pause() -> Result<()> {
    needs_mounts!();
    let mut cairn = held()?;
    cairn.up()?;
    fs::write(cairn.at("here"), b"0123456789")?;
    let file = fs::File::open(cairn.at("here"))?;
    let before = serving(&cairn)?;
    let output = upgrade(&cairn, Path::new(CAIRN))?;
    ensure!(output.status.success(), "{output:?}");
    cairn.replaced()?;
    ensure!(serving(&cairn)? != before);
    let mut text = [0; 10];
    file.read_exact_at(&mut text, 0)?;
    drop(file);
    let path = cairn.at("here");
    ensure!(bounded(move || fs::read(path))?? == b"0123456789");
    end(&cairn)
}

#[test]
fn p12_a_program_that_does_not_start_replaces_nothing() -> Result<()> {
    needs_mounts!();
    let mut cairn = held()?;
    cairn.up()?;
    fs::write(cairn.at("here"), b"0123456789")?;
    let before = serving(&cairn)?;
    let output = upgrade(&cairn, Path::new("/bin/false"))?;
    ensure!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(said.contains("serves on"), "{said}");
    ensure!(serving(&cairn)? == before);
    // The same command once more is no way to replace one that serves.
    let mount = cairn.mount.to_string_lossy().into_owned();
    let (backing, state) = (
        cairn.backing.to_string_lossy(),
        cairn.state.to_string_lossy(),
    );
    let output = cairn.run(["up", "--state", &state, &backing, &mount])?;
    ensure!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(said.contains("cairn upgrade"), "{said}");
    ensure!(serving(&cairn)? == before);
    cairn.down()
}

#[test]
fn p12_the_old_program_comes_back_if_the_new_one_fails_too_late() -> Result<()> {
    needs_mounts!();
    let mut cairn = held()?;
    cairn.up()?;
    fs::write(cairn.at("here"), b"0123456789")?;
    let script = cairn.dir.path().join("new");
    let before = serving(&cairn)?;
    fs::write(&script, format!("#!/bin/sh\nkill -KILL {before}\nexit 1\n"))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let output = upgrade(&cairn, &script)?;
    ensure!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(said.contains("serves again"), "{said}");
    cairn.replaced()?;
    ensure!(serving(&cairn)? != before);
    let path = cairn.at("here");
    ensure!(bounded(move || fs::read(path))?? == b"0123456789");
    end(&cairn)
}

#[test]
fn p12_without_a_hold_there_is_nothing_to_hand_on() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let output = upgrade(&cairn, Path::new(CAIRN))?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(said.contains("--hold"), "{said}");
    cairn.kill()
}

/// What `cairn status` says, asked by a path in the mount and not by its socket.
fn status_of_path(cairn: &Instance, check: bool) -> Result<Output> {
    let mut command = Command::new(program());
    command.arg("status").args(check.then_some("--check"));
    command.arg(&cairn.mount).env_remove("CAIRN_SOCKET");
    Ok(command.current_dir("/").stdin(Stdio::null()).output()?)
}

#[test]
fn p12_a_mount_is_held_by_default_and_status_says_that_nobody_serves() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.hold = None;
    cairn.up()?;
    ensure!(status(&cairn)?["mirror"]["hold_s"] == 60);
    fs::write(cairn.at("f"), b"x")?;
    cairn.die()?;
    std::thread::scope(|scope| -> Result<()> {
        let checked = scope.spawn(|| status_of_path(&cairn, true));
        let said = status_of_path(&cairn, false)?;
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        ensure!(said.status.code() == Some(3), "{said:?}");
        ensure!(text.contains("the mount does not answer"), "{text}");
        ensure!(text.contains("cairn up"), "the way out: {text}");
        let checked = checked.join().map_err(|_| anyhow::anyhow!("panic"))??;
        let text = String::from_utf8_lossy(&checked.stdout).into_owned();
        ensure!(checked.status.code() == Some(2), "{checked:?}");
        ensure!(text.contains("CRITICAL"), "{text}");
        Ok(())
    })?;
    cairn.up()?;
    ensure!(fs::read(cairn.at("f"))? == b"x");
    cairn.down()
}
