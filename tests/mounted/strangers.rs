//! P15: what another user learns from Cairn of files that are none of theirs: nothing that they
//! could not find by looking.

use crate::needs_mounts;
use crate::rig::{self, Instance, tree};
use anyhow::{Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

const STRANGER: u32 = 54_321;

/// What the stranger is told, on both streams.
fn told(cairn: &Instance, args: &[&str]) -> Result<String> {
    let program = cairn.dir.path().join("cairn");
    if !program.exists() {
        // By another process: a descriptor open for writing here could be inherited by a child
        // of another test just now, and then the copy cannot be executed.
        let copied = Command::new("cp")
            .arg(rig::program())
            .arg(&program)
            .status()?;
        ensure!(copied.success(), "copying the program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    }
    let output = Command::new(program)
        .args(args)
        .env("CAIRN_SOCKET", cairn.state.join("run/control.sock"))
        .current_dir(&cairn.mount)
        .uid(STRANGER)
        .gid(STRANGER)
        .stdin(Stdio::null())
        .output()?;
    let both = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&both).into_owned())
}

#[test]
fn p15_status_tells_a_stranger_no_place_of_the_administrators() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let backing = cairn.backing.to_string_lossy().into_owned();
    ensure!(cairn.cairn(["status", "--json"])?.contains(&backing));
    let status = told(&cairn, &["status", "--json"])?;
    ensure!(status.contains("cairn.status.v1"), "{status}");
    ensure!(!status.contains(&backing), "{status}");
    let tier = cairn.tier.to_string_lossy().into_owned();
    ensure!(cairn.cairn(["status", "--json"])?.contains(&tier));
    ensure!(status.contains("\"dir:\""), "{status}");
    ensure!(!status.contains(&tier), "{status}");
    ensure!(!told(&cairn, &["status"])?.contains(&tier));
    cairn.down()
}

#[test]
fn p15_requests_of_others_have_no_names_and_files_no_others_requests() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.tier_options("delay=1h");
    cairn.up()?;
    for (name, mode) in [("open", 0o755), ("private", 0o700)] {
        fs::create_dir(cairn.at(name))?;
        fs::set_permissions(cairn.at(name), fs::Permissions::from_mode(mode))?;
    }
    fs::write(cairn.at("private/confidential"), tree::bytes(1, 100_000))?;
    fs::write(cairn.at("open/seen"), tree::bytes(2, 100_000))?;
    let mount = cairn.mount.to_string_lossy().into_owned();
    cairn.cairn(["archive", "--key", "passphrase", &mount])?;
    for args in [
        &["requests", "--all", "--json"][..],
        &["requests", "--all"],
        &["requests", "--failed", "--all"],
        &["requests", "1", "--json"],
        &["cancel", "1"],
        &["state", "-r", "--json", "."],
        &["ls", "-r", "."],
        &["archive", "--dry-run", "--json", "."],
        &["status"],
    ] {
        let text = told(&cairn, args)?;
        for secret in ["confidential", "passphrase"] {
            ensure!(!text.contains(secret), "{args:?}: {text}");
        }
    }
    // The file is there to be seen; that somebody works on it, too; not in which request.
    rig::wait_for("the archive to begin", || {
        Ok(cairn
            .cairn(["state", "--json", &format!("{mount}/open/seen")])?
            .contains("\"request\""))
    })?;
    for args in [
        ["state", "--json", "open/seen"],
        ["why", "--json", "open/seen"],
    ] {
        let text = told(&cairn, &args)?;
        ensure!(text.contains("open/seen"), "{text}");
        ensure!(!text.contains("\"request\""), "{args:?}: {text}");
    }
    cairn.down()
}

/// A failed file was moved to where its asker cannot look: its new name is not theirs.
#[test]
fn p15_a_failed_file_that_moved_out_of_sight_has_no_name() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    fs::write(cairn.at("seen"), tree::bytes(1, 100_000))?;
    cairn.archive("seen")?;
    fs::create_dir(cairn.at("private"))?;
    fs::set_permissions(cairn.at("private"), fs::Permissions::from_mode(0o700))?;
    let refused = told(&cairn, &["release", "--wait", "seen"])?;
    ensure!(refused.contains("seen: only its owner"), "{refused}");
    let before = told(&cairn, &["requests", "2", "--json"])?;
    ensure!(before.contains("/seen\""), "{before}");
    fs::rename(cairn.at("seen"), cairn.at("private/confidential"))?;
    let roots = || cairn.cairn(["requests", "2", "--json"]);
    rig::wait_for("the move to be known", || {
        Ok(roots()?.contains("confidential"))
    })?;
    let after = told(&cairn, &["requests", "2", "--json"])?;
    ensure!(after.contains("not-permitted"), "{after}");
    ensure!(!after.contains("confidential"), "{after}");
    cairn.down()
}
