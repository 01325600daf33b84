//! A deleted file whose aggregate is repacked while it can still be had.

use crate::needs_mounts;
use crate::rig::{Instance, on_disk, tree, wait_for};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn json(cairn: &Instance, args: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&cairn.cairn(args)?)?)
}

/// The tier's objects by their paths.
fn objects(cairn: &Instance) -> Result<BTreeSet<PathBuf>> {
    let found = Command::new("find")
        .arg(&cairn.tier)
        .args(["-name", "*.tar"])
        .output()?;
    ensure!(found.status.success(), "{found:?}");
    let text = String::from_utf8(found.stdout)?;
    Ok(text.lines().map(PathBuf::from).collect())
}

fn only(cairn: &Instance) -> Result<PathBuf> {
    let found = objects(cairn)?;
    let only = found.first().filter(|_| found.len() == 1);
    Ok(only.with_context(|| format!("{found:?}"))?.clone())
}

/// The complete scan that follows an unclean stop is at its end.
fn scanned(cairn: &Instance) -> Result<()> {
    wait_for("the scan to end", || {
        let now = json(cairn, &["status", "--json"])?;
        let over = now["scan"]["running"] == false && now["changelog"]["rescans"] == 0;
        Ok(over && !now["scan"]["finished"].is_null())
    })
}

/// What a run of the collector did, in words; `kept` by condition.
fn collect(cairn: &Instance) -> Result<(Vec<String>, Value)> {
    let run = json(cairn, &["tier", "collect", "--wait", "--json"])?;
    let tier = &run["tiers"][0];
    ensure!(tier["error"].is_null(), "{run}");
    let deeds = tier["deeds"].as_array().context("deeds")?;
    let acts = deeds.iter().map(|deed| deed["act"].to_string());
    Ok((acts.collect(), run))
}

/// What standard tar says of an object, which must be without a word on stderr.
fn tar(what: &str, object: &Path, names: &[&str]) -> Result<Vec<u8>> {
    let mut command = Command::new("tar");
    let done = command.arg(what).arg(object).args(names).output()?;
    ensure!(done.status.success() && done.stderr.is_empty(), "{done:?}");
    Ok(done.stdout)
}

fn data(seed: u64) -> Vec<u8> {
    tree::bytes(seed, 300_000 + seed as usize)
}

/// Standard tar lists what is needed and what can still be had, and nothing that is dead.
fn shown_by_tar(new: &Path) -> Result<()> {
    let listed = String::from_utf8(tar("-tf", new, &[])?)?;
    let aside: Vec<_> = listed
        .lines()
        .filter(|name| name.starts_with(".cairn-deleted/") && !name.ends_with('/'))
        .collect();
    ensure!(aside.len() == 1 && !listed.contains("d/dead"), "{listed}");
    for (name, seed) in [(aside[0], 2), ("d/stays", 3)] {
        ensure!(tar("-xOf", new, &[name])? == data(seed), "{name}: {listed}");
    }
    Ok(())
}

/// Two of four files in one object are dead, and it is written anew without them, while a third is
/// deleted but can still be had.
#[test]
fn p8_a_file_deleted_before_its_aggregate_was_repacked_comes_back() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    let config = cairn.dir.path().join("cairn.toml");
    // No scan but that after an unclean stop: what is deleted after it is kept, however slow this machine is.
    let settings = "keep-deleted = \"10s\"\nscan-every = \"0s\"\ncollect-every = \"0s\"\n\
         delete-delay = \"0s\"\nsnapshot-every = \"0s\"\nrepack-share = \"25%\"\n";
    fs::write(&config, settings)?;
    let config = config.to_string_lossy().into_owned();
    cairn.args.extend(["--config".to_owned(), config]);
    let url = format!("disk=dir:{}", cairn.tier.display());
    cairn.args.extend(["--tier".to_owned(), url]);
    cairn.up()?;
    fs::create_dir(cairn.at("d"))?;
    for (seed, name) in ["dead", "dead too", "deleted", "stays"].iter().enumerate() {
        fs::write(cairn.at("d").join(name), data(seed as u64))?;
    }
    cairn.archive("d")?;
    for name in ["d/deleted", "d/stays"] {
        cairn.release(name)?;
    }
    let old = only(&cairn)?;
    for name in ["d/dead", "d/dead too"] {
        fs::remove_file(cairn.at(name))?;
    }
    // Their window ends, and a scan that begins later sees that nothing names them.
    wait_for("the end of their window", || {
        let (_, run) = collect(&cairn)?;
        let kept = &run["tiers"][0]["kept"];
        Ok(kept["keep-deleted"].is_null() && kept["scan"] == 2)
    })?;
    cairn.kill()?;
    cairn.up()?;
    scanned(&cairn)?;

    fs::remove_file(cairn.at("d/deleted"))?;
    rustix::fs::sync();
    wait_for("the object to be repacked", || {
        Ok(collect(&cairn)?.0.contains(&"\"repack\"".to_owned()))
    })?;
    wait_for("the old object to go", || {
        collect(&cairn)?;
        Ok(!objects(&cairn)?.contains(&old))
    })?;
    let new = only(&cairn)?;
    ensure!(new != old, "{}", new.display());
    shown_by_tar(&new)?;

    let path = cairn.at("d/deleted").to_string_lossy().into_owned();
    cairn.cairn(["undelete", &path])?;
    wait_for("the kernel to see the name", || {
        Ok(fs::metadata(&path).is_ok())
    })?;
    ensure!(cairn.shown_state("d/deleted")? == "released");
    cairn.cold()?;
    ensure!(fs::read(&path)? == data(2), "other bytes\n{}", cairn.log());
    // Once more, from a stub that names the new place, and after everything was looked at again.
    cairn.release("d/deleted")?;
    ensure!(on_disk(&cairn.below("d/deleted"))? <= 8192, "not released");
    cairn.kill()?;
    cairn.up()?;
    scanned(&cairn)?;
    let (acts, run) = collect(&cairn)?;
    ensure!(acts.is_empty(), "{run}");
    for (seed, name) in [(2, "d/deleted"), (3, "d/stays")] {
        cairn.cold()?;
        let read = fs::read(cairn.at(name))?;
        ensure!(read == data(seed), "{name}: other bytes\n{}", cairn.log());
    }
    ensure!(only(&cairn)? == new, "{:?}", objects(&cairn)?);
    cairn.down()
}
