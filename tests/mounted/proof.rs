//! Copies proven without Cairn, and bad ones made again, with real tools on a real mount.

use crate::needs_mounts;
use crate::rig::{Instance, tree, wait_for};
use anyhow::{Context, Result, ensure};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

fn receipt(cairn: &Instance, name: &OsStr, more: &[&str]) -> Result<serde_json::Value> {
    let path = cairn.mount.join(name);
    let mut args = vec![OsStr::new("receipt"), OsStr::new("--json")];
    args.extend(more.iter().map(OsStr::new));
    args.push(path.as_os_str());
    Ok(serde_json::from_str(&cairn.cairn(args)?)?)
}

/// Runs each command of a receipt with bash, and compares what it prints. How many there were.
fn run_checks(receipt: &serde_json::Value, content: &[u8]) -> Result<usize> {
    let setup = receipt["setup"].as_str().context("setup")?;
    let sha = {
        let mut child = Command::new("sha256sum")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()?;
        std::io::Write::write_all(&mut child.stdin.take().context("stdin")?, content)?;
        String::from_utf8(child.wait_with_output()?.stdout)?
    };
    let mut ran = 0;
    for copy in receipt["copies"].as_array().context("copies")? {
        for check in copy["checks"].as_array().context("checks")? {
            let command = check["command"].as_str().context("command")?;
            let script = format!("set -o pipefail\n{setup}\n{command}");
            let out = Command::new("bash").args(["-c", &script]).output()?;
            let printed = String::from_utf8_lossy(&out.stdout).into_owned();
            ensure!(
                out.status.success() && out.stderr.is_empty(),
                "{command}: {}",
                String::from_utf8_lossy(&out.stderr)
            );
            let wanted = check["prints"].as_str().map_or(sha.trim_end(), |p| p);
            ensure!(
                printed.trim_end() == wanted,
                "{command}: {printed:?}, not {wanted:?}"
            );
            if check["of"] == "content, sha256" {
                ensure!(
                    printed == sha,
                    "{command}: {printed:?}, and the file's is {sha:?}"
                );
            }
            ran += 1;
        }
    }
    Ok(ran)
}

type Files = Vec<(OsString, Vec<u8>)>;

/// Files with odd names, a sparse one and a large one, archived and released.
fn odd_files(cairn: &Instance) -> Result<Files> {
    let names: [&[u8]; 9] = [
        b"plain",
        b"it's \"odd\" $HOME",
        b"back\\slash\\n",
        b"-dash",
        b"new\nline",
        b"\xff\xfebytes7",
        b"star*[a]?",
        b"c:drive",
        "gr\u{fc}n".as_bytes(),
    ];
    let mut files: Vec<(OsString, Vec<u8>)> = (1..)
        .zip(names)
        .map(|(n, name)| {
            (
                OsStr::from_bytes(name).to_owned(),
                tree::bytes(n, 70_000 + 13 * n as usize),
            )
        })
        .collect();
    for (name, data) in &files {
        fs::write(cairn.mount.join(name), data)?;
    }
    let sparse = File::create(cairn.at("sparse"))?;
    sparse.set_len(3 << 20)?;
    sparse.write_all_at(&tree::bytes(77, 128 << 10), 1 << 20)?;
    drop(sparse);
    files.push(("sparse".into(), fs::read(cairn.at("sparse"))?));
    let large = tree::bytes(78, 9 << 20);
    fs::write(cairn.at("large"), &large)?;
    files.push(("large".into(), large));
    cairn.archive("")?;
    cairn.release("")?;
    cairn.cold()?;
    Ok(files)
}

#[test]
fn a_receipts_commands_prove_the_copies_without_cairn() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let files = odd_files(&cairn)?;
    for (name, data) in &files {
        let shown = receipt(&cairn, name, &[])?;
        ensure!(shown["schema"] == "cairn.receipt.v1" && shown["sha256"].is_null());
        ensure!(
            shown["size"] == data.len() && shown["current"] == true,
            "{shown}"
        );
        let least = if name == "sparse" { 3 } else { 4 };
        ensure!(run_checks(&shown, data)? == least, "{shown}");
    }
    // With a digest of a released file: from its copy, and it stays released.
    let shown = receipt(&cairn, OsStr::new("sparse"), &["--sha256"])?;
    ensure!(shown["sha256_note"] == "computed now, from disk", "{shown}");
    ensure!(cairn.shown_state("sparse")? == "released");
    run_checks(&shown, &files[files.len() - 2].1)?;
    // The commands find damage.
    let object = PathBuf::from(
        shown["copies"][0]["object"]["path"]
            .as_str()
            .context("object")?,
    );
    let at = shown["copies"][0]["data_offset"]
        .as_u64()
        .context("offset")?;
    flip(&object, at + 1000)?;
    ensure!(
        run_checks(&shown, &files[files.len() - 2].1).is_err(),
        "damage was not seen"
    );
    others_see_no_places(&cairn)?;
    cairn.down()
}

/// Who may not read a file gets no receipt; who may, no place of the administrator's.
fn others_see_no_places(cairn: &Instance) -> Result<()> {
    let as_user = |name: &str| {
        Command::new("setpriv")
            .args([
                "--reuid",
                "12345",
                "--regid",
                "12345",
                "--clear-groups",
                "--",
            ])
            .arg(crate::rig::program())
            .args(["receipt", "--json"])
            .arg(cairn.at(name))
            .env("CAIRN_SOCKET", cairn.state.join("run/control.sock"))
            .output()
    };
    fs::set_permissions(
        cairn.at("large"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )?;
    let refused = as_user("large")?;
    ensure!(refused.status.code() == Some(5), "{refused:?}");
    let theirs: serde_json::Value = serde_json::from_slice(&as_user("plain")?.stdout)?;
    let copy = &theirs["copies"][0];
    ensure!(
        copy["tier"] == "disk" && copy["data_offset"].is_u64(),
        "{theirs}"
    );
    for hidden in ["url", "object", "member", "checks"] {
        ensure!(copy[hidden].is_null(), "{hidden} is shown: {theirs}");
    }
    Ok(())
}

fn flip(path: &std::path::Path, at: u64) -> Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    byte[0] ^= 1;
    Ok(file.write_all_at(&byte, at)?)
}

/// An instance that makes two copies, with a file that is its configuration.
fn with_two_tiers(cairn: &mut Instance) -> Result<(PathBuf, PathBuf)> {
    let other = cairn.dir.path().join("other");
    fs::create_dir(&other)?;
    let policy = cairn.dir.path().join("two.policy");
    fs::write(&policy, "copies 2\n\nrule archive none\n  never\n")?;
    let config = cairn.dir.path().join("cairn.toml");
    let url = |name: &str, at: &std::path::Path| format!("{name}=dir:{}", at.display());
    cairn.args = vec![
        "--config".into(),
        config.display().to_string(),
        "--policy".into(),
        policy.display().to_string(),
        "--tier".into(),
        url("disk", &cairn.tier),
        "--tier".into(),
        url("other", &other),
    ];
    Ok((other, config))
}

#[test]
fn the_archive_is_verified_by_root_and_a_bad_copy_is_in_status_and_audit_and_healed() -> Result<()>
{
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    let (other, config) = with_two_tiers(&mut cairn)?;
    fs::write(&config, "heal = false\n")?;
    cairn.up()?;
    let data = tree::bytes(5, 300_000);
    cairn.released("f", &data)?;
    cairn.released("g", &data)?;
    let all = cairn.cairn(["verify", "--all", "--wait"])?;
    ensure!(all.contains("4 read"), "{all}");
    let shown = receipt(&cairn, OsStr::new("f"), &[])?;
    let copy = &shown["copies"][0];
    let object = PathBuf::from(copy["object"]["path"].as_str().context("object")?);
    flip(&object, copy["data_offset"].as_u64().context("offset")? + 5)?;
    let found = cairn.run(["verify", "--sample", "100%", "--seed", "9", "--wait"])?;
    let said = String::from_utf8_lossy(&found.stderr).into_owned();
    ensure!(found.status.code() == Some(1), "{found:?}");
    ensure!(
        said.contains("--seed 9") && said.contains("wrong checksums"),
        "{said}"
    );
    let status: serde_json::Value = serde_json::from_str(&cairn.cairn(["status", "--json"])?)?;
    ensure!(status["copies"]["bad"] == 1, "{status}");
    let named = status["troubled"].as_array().context("troubled")?;
    ensure!(
        named
            .iter()
            .any(|t| t["state"] == "bad copy" && t["path"] == "f"),
        "{named:?}"
    );
    let refused = Command::new("setpriv")
        .args([
            "--reuid",
            "12345",
            "--regid",
            "12345",
            "--clear-groups",
            "--",
        ])
        .arg(crate::rig::program())
        .args(["verify", "--all"])
        .env("CAIRN_SOCKET", cairn.state.join("run/control.sock"))
        .output()?;
    ensure!(refused.status.code() == Some(5), "{refused:?}");
    cairn.down()?;
    // What was found outlives the instance, and is healed by the next.
    fs::write(&config, "heal = true\n")?;
    cairn.up()?;
    wait_for("the copy to be made again", || {
        let status = cairn.cairn(["status", "--json"])?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        Ok(status["copies"]["bad"] == 0)
    })?;
    let audit = fs::read_to_string(cairn.state.join("audit.jsonl"))?;
    ensure!(
        audit.contains("\"bad copy\"") && audit.contains("\"healed\""),
        "{audit}"
    );
    // The copy that was made serves alone.
    fs::rename(&other, cairn.dir.path().join("aside"))?;
    cairn.cold()?;
    ensure!(fs::read(cairn.at("f"))? == data);
    cairn.down()
}
