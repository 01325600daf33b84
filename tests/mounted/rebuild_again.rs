//! A rebuild that goes on: what must be looked at again, and what was learned while a tier was away.

use crate::needs_mounts;
use crate::rebuild::{BY_TIERS, assert_same, dump, forget_catalog, lived_in, rebuild, rebuilt};
use crate::rig::{Instance, tree};
use anyhow::{Context, Result, ensure};
use std::fs::{self, File, FileTimes};
use std::path::PathBuf;

fn tier_goes(cairn: &Instance) -> Result<PathBuf> {
    let aside = cairn.dir.path().join("tier-aside");
    fs::rename(&cairn.tier, &aside)?;
    Ok(aside)
}

#[test]
fn a_tier_that_comes_back_is_known_as_if_it_had_never_been_away() -> Result<()> {
    needs_mounts!();
    let (cairn, _, _, before) = lived_in()?;
    forget_catalog(&cairn)?;
    let aside = tier_goes(&cairn)?;
    let (output, report) = rebuild(&cairn, &[])?;
    ensure!(output.status.code() == Some(6), "{report}");
    fs::rename(&aside, &cairn.tier)?;
    let report = rebuilt(&cairn, &[])?;
    ensure!(
        report["resumed"] == true && report["without_copy"] == 0,
        "{report}"
    );
    assert_same(&before, &dump(&cairn, BY_TIERS)?)
}

/// What a record alone tells of counts for little once its tier was read.
#[test]
fn p6_a_record_that_a_tier_does_not_bear_out_is_not_believed_when_the_tier_is_back() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    fs::write(cairn.at("gone"), tree::bytes(1, 100_000))?;
    cairn.archive("gone")?;
    fs::write(cairn.at("there"), tree::bytes(2, 100_000))?;
    cairn.archive("there")?;
    cairn.down()?;
    let first = std::process::Command::new("find")
        .arg(&cairn.tier)
        .args(["-name", "*.tar"])
        .output()?;
    let first = String::from_utf8(first.stdout)?;
    fs::remove_file(first.lines().min().context("an aggregate")?)?;
    forget_catalog(&cairn)?;
    let aside = tier_goes(&cairn)?;
    let (_, report) = rebuild(&cairn, &[])?;
    ensure!(report["files"]["archived"] == 2, "{report}");
    fs::rename(&aside, &cairn.tier)?;
    let report = rebuilt(&cairn, &[])?;
    ensure!(
        report["files"]["archived"] == 1 && report["files"]["dirty"] == 1,
        "{report}"
    );
    cairn.up()?;
    cairn.archive("")?;
    cairn.release("gone")?;
    cairn.cold()?;
    ensure!(fs::read(cairn.at("gone"))? == tree::bytes(1, 100_000));
    cairn.down()
}

/// The instance served in between and was killed: what it was told of went with it.
#[test]
fn what_changed_before_a_kill_is_found_by_the_rebuild_that_goes_on() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let old = tree::bytes(1, 100_000);
    for name in ["kept", "changed"] {
        fs::write(cairn.at(name), &old)?;
    }
    cairn.archive("")?;
    cairn.down()?;
    forget_catalog(&cairn)?;
    let aside = tier_goes(&cairn)?;
    let (output, report) = rebuild(&cairn, &[])?;
    ensure!(output.status.code() == Some(6), "{report}");
    ensure!(report["files"]["archived"] == 2, "{report}");
    // As the backing is after `up`, a write through the mount, and a kill before the event was applied.
    fs::rename(&aside, &cairn.tier)?;
    cairn.up()?;
    cairn.kill()?;
    let time = fs::metadata(cairn.below("changed"))?.modified()?;
    fs::write(cairn.below("changed"), tree::bytes(2, 100_000))?;
    File::options()
        .write(true)
        .open(cairn.below("changed"))?
        .set_times(FileTimes::new().set_modified(time))?;
    let aside = tier_goes(&cairn)?;
    let (_, report) = rebuild(&cairn, &[])?;
    ensure!(report["files"]["dirty"] == 1, "{report}");
    fs::rename(&aside, &cairn.tier)?;
    cairn.up()?;
    cairn.archive("")?;
    cairn.release("changed")?;
    cairn.cold()?;
    ensure!(fs::read(cairn.at("changed"))? == tree::bytes(2, 100_000));
    cairn.down()
}

/// `cp -p` of a file whose copy sorts before it, and is met first.
#[test]
fn a_sibling_that_is_met_first_is_not_taken_for_its_original() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let data = tree::bytes(1, 100_000);
    for name in ["m", "n"] {
        fs::write(cairn.at(name), &data)?;
    }
    cairn.archive("")?;
    cairn.down()?;
    for (from, to) in [("m", "a"), ("n", "b")] {
        fs::write(cairn.below(to), &data)?;
        let time = fs::metadata(cairn.below(from))?.modified()?;
        File::options()
            .write(true)
            .open(cairn.below(to))?
            .set_times(FileTimes::new().set_modified(time))?;
    }
    // One original has its record, the other its name alone.
    rustix::fs::removexattr(cairn.below("n"), "trusted.cairn.record")?;
    forget_catalog(&cairn)?;
    let report = rebuilt(&cairn, &[])?;
    ensure!(
        report["files"]["archived"] == 2 && report["files"]["none"] == 2,
        "{report}"
    );
    let files = dump(&cairn, "files")?;
    let known: Vec<serde_json::Value> = files
        .lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect::<Result<_>>()?;
    let mut versions: Vec<_> = known.iter().filter_map(|f| f["file"].as_str()).collect();
    versions.sort_unstable();
    versions.dedup();
    ensure!(versions.len() == 2, "{files}");
    Ok(())
}

/// The record of the latest version did not come onto the file, and the catalog went.
#[test]
fn a_version_number_on_a_tier_is_not_given_twice() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let write = |cairn: &Instance, n: u64| fs::write(cairn.at("f"), tree::bytes(n, 100_000));
    write(&cairn, 1)?;
    cairn.archive("f")?;
    let mut first = vec![0; 512];
    let record = "trusted.cairn.record";
    let length = rustix::fs::getxattr(cairn.below("f"), record, &mut first[..])?;
    write(&cairn, 2)?;
    cairn.archive("f")?;
    cairn.down()?;
    let none = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(cairn.below("f"), record, &first[..length], none)?;
    forget_catalog(&cairn)?;
    rebuilt(&cairn, &[])?;
    cairn.up()?;
    write(&cairn, 3)?;
    cairn.archive("f")?;
    cairn.release("f")?;
    cairn.cold()?;
    ensure!(fs::read(cairn.at("f"))? == tree::bytes(3, 100_000));
    cairn.down()?;
    let members = dump(&cairn, "members")?;
    let versions: std::collections::BTreeSet<_> = members
        .lines()
        .map(|line| Ok(serde_json::from_str::<serde_json::Value>(line)?["version"].to_string()))
        .collect::<Result<_>>()?;
    ensure!(versions.len() == 3, "{members}");
    Ok(())
}

/// A directory answers with an error: the mount of another instance that died lies over it.
#[test]
fn what_could_not_be_looked_at_keeps_a_rebuild_from_being_done() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    fs::create_dir(cairn.at("d"))?;
    for name in ["f", "d/g"] {
        fs::write(cairn.at(name), tree::bytes(1, 100_000))?;
    }
    cairn.archive("")?;
    cairn.down()?;
    forget_catalog(&cairn)?;
    let mut other = Instance::new(None)?;
    other.mount = cairn.below("d");
    other.up()?;
    other.kill_with_mounter()?;
    ensure!(fs::metadata(cairn.below("d")).is_err(), "it answers");
    for resumed in [false, true] {
        let (output, report) = rebuild(&cairn, &[])?;
        ensure!(!output.status.success(), "{report}");
        ensure!(
            report["complete"] == false && report["gaps"] == true,
            "{report}"
        );
        ensure!(report["resumed"] == resumed, "{report}");
        ensure!(report["files"]["archived"] == 1, "{report}");
    }
    drop(other);
    let report = rebuilt(&cairn, &[])?;
    ensure!(
        report["resumed"] == true && report["gaps"] == false,
        "{report}"
    );
    ensure!(report["files"]["archived"] == 2, "{report}");
    cairn.up()?;
    ensure!(cairn.shown_state("d/g")? == "archived");
    cairn.down()
}
