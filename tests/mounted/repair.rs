//! `cairn repair`: a lost stub put back, a conflict settled either way, and what is left alone.

use crate::needs_mounts;
use crate::rig::{Instance, on_disk, tree};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, UNIX_EPOCH};

const RECORD: &str = "trusted.cairn.record";

/// What `cairn repair` says, one object a file, and whether something is left.
fn repair(cairn: &Instance, args: &[&str], names: &[&str]) -> Result<(Vec<Value>, bool)> {
    let paths: Vec<_> = names.iter().map(|n| cairn.at(n)).collect();
    let mut all: Vec<&OsStr> = vec![OsStr::new("repair"), OsStr::new("--json")];
    all.extend(args.iter().map(OsStr::new));
    all.extend(paths.iter().map(|p| p.as_os_str()));
    let output = cairn.run(all)?;
    let code = output.status.code().context("a signal")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(code <= 1, "{code} {said}\n{}", cairn.log());
    let lines = String::from_utf8(output.stdout)?;
    let found = lines.lines().map(|l| Ok(serde_json::from_str(l)?));
    Ok((found.collect::<Result<_>>()?, code == 1))
}

fn one(found: &[Value]) -> Result<&Value> {
    ensure!(found.len() == 1, "{found:?}");
    ensure!(found[0]["schema"] == "cairn.repair.v1", "{found:?}");
    Ok(&found[0])
}

fn record_of(cairn: &Instance, name: &str) -> Result<Vec<u8>> {
    let mut bytes = vec![0; 512];
    let length = rustix::fs::getxattr(cairn.below(name), RECORD, &mut bytes[..])?;
    bytes.truncate(length);
    Ok(bytes)
}

fn take_stub(cairn: &Instance, name: &str) -> Result<()> {
    rustix::fs::removexattr(cairn.below(name), RECORD)?;
    // The mount knows of no change: it asks at the next open.
    ensure!(fs::read(cairn.at(name)).is_err(), "zeros");
    Ok(())
}

fn mtime(cairn: &Instance, name: &str) -> Result<(i64, i64)> {
    let stat = fs::metadata(cairn.below(name))?;
    Ok((stat.mtime(), stat.mtime_nsec()))
}

#[test]
fn p6_a_lost_stub_is_put_back_from_what_a_tier_bears_out() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    fs::create_dir(cairn.at("d"))?;
    let data = tree::bytes(1, 300_000);
    for name in ["d/lost", "d/other", "touched", "away"] {
        cairn.released(name, &data)?;
    }
    let before = mtime(&cairn, "d/lost")?;
    for name in ["d/lost", "touched", "away"] {
        take_stub(&cairn, name)?;
    }
    // Its time is not that of its data any more: who knows what it is.
    let file = File::options().write(true).open(cairn.below("touched"))?;
    file.set_times(FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_secs(5)))?;
    drop(file);
    // A plan changes nothing.
    let (found, left) = repair(&cairn, &[], &[])?;
    ensure!(found.len() == 3 && left, "{found:?}");
    let of = |name: &str| found.iter().find(|v| v["path"] == name).cloned();
    let lost = of("d/lost").context("d/lost")?;
    ensure!(
        lost["trouble"] == "lost" && lost["remedy"] == "put-stub-back",
        "{lost}"
    );
    ensure!(
        lost["result"] == "planned" && !lost["why"].to_string().is_empty(),
        "{lost}"
    );
    let touched = of("touched").context("touched")?;
    ensure!(touched["remedy"] == "none", "{touched}");
    ensure!(
        touched["advice"].to_string().contains("modification time"),
        "{touched}"
    );
    ensure!(
        fs::read(cairn.at("d/lost")).is_err(),
        "it was only to be planned"
    );
    ensure!(record_of(&cairn, "d/lost").is_err());
    // Done below one directory.
    let (found, left) = repair(&cairn, &["--apply"], &["d"])?;
    ensure!(one(&found)?["result"] == "done" && !left, "{found:?}");
    cairn.cold()?;
    ensure!(fs::read(cairn.at("d/lost"))? == data);
    ensure!(mtime(&cairn, "d/lost")? == before);
    ensure!(fs::read(cairn.at("d/other"))? == data);
    // A tier that is not there says nothing, and nothing is done; after a restart its index is at hand
    // all the same, unless the cache is gone.
    cairn.down()?;
    fs::remove_dir_all(cairn.state.join("indexes"))?;
    let aside = cairn.dir.path().join("aside");
    cairn.up()?;
    fs::rename(&cairn.tier, &aside)?;
    let (found, left) = repair(&cairn, &["--apply"], &["away"])?;
    ensure!(one(&found)?["remedy"] == "none" && left, "{found:?}");
    ensure!(
        found[0]["advice"].to_string().contains("try again"),
        "{found:?}"
    );
    fs::rename(&aside, &cairn.tier)?;
    let (found, _) = repair(&cairn, &["--apply"], &["away"])?;
    ensure!(one(&found)?["result"] == "done", "{found:?}");
    ensure!(fs::read(cairn.at("away"))? == data);
    let audit = fs::read_to_string(cairn.state.join("audit.jsonl"))?;
    let lines = audit
        .lines()
        .filter(|l| l.contains("repair put-stub-back"))
        .count();
    ensure!(lines == 2, "{audit}");
    cairn.down()
}

/// A released file into which somebody wrote around the mount.
fn in_conflict(cairn: &Instance, name: &str, data: &[u8]) -> Result<()> {
    cairn.released(name, data)?;
    let file = File::options().write(true).open(cairn.below(name))?;
    file.write_all_at(b"WRITTEN AROUND THE MOUNT", 4096)?;
    drop(file);
    ensure!(fs::read(cairn.at(name)).is_err(), "it is no conflict");
    Ok(())
}

fn on_disk_now(len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    data[4096..4096 + 24].copy_from_slice(b"WRITTEN AROUND THE MOUNT");
    data
}

#[test]
fn p4_a_conflict_is_settled_as_the_administrator_says_and_the_other_is_kept() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let data = tree::bytes(2, 300_000);
    for name in ["disk", "archive"] {
        in_conflict(&cairn, name, &data)?;
        File::open(cairn.below(name))?; // holds nothing: it is closed again
    }
    let (found, left) = repair(&cairn, &["--apply"], &["disk", "archive"])?;
    ensure!(found.len() == 2 && left, "{found:?}");
    for case in &found {
        ensure!(
            case["trouble"] == "conflict" && case["remedy"] == "none",
            "{case}"
        );
        ensure!(
            case["advice"].to_string().contains("--keep archive"),
            "{case}"
        );
    }
    let written = on_disk_now(data.len());
    let (found, left) = repair(&cairn, &["--keep", "archive", "--apply"], &["archive"])?;
    ensure!(one(&found)?["result"] == "done" && !left, "{found:?}");
    ensure!(
        found[0]["kept"]["path"] == "archive.cairn-kept-1",
        "{found:?}"
    );
    ensure!(
        on_disk(&cairn.below("archive"))? <= 8192,
        "its blocks are still there"
    );
    let (found, left) = repair(&cairn, &["--keep", "disk", "--apply"], &["disk"])?;
    ensure!(one(&found)?["result"] == "done" && !left, "{found:?}");
    cairn.cold()?;
    for (name, content) in [
        ("archive", &data),
        ("archive.cairn-kept-1", &written),
        ("disk", &written),
        ("disk.cairn-kept-1", &data),
    ] {
        let read = fs::read(cairn.at(name)).with_context(|| format!("{name}\n{}", cairn.log()))?;
        ensure!(read == *content, "{name}");
    }
    // Both go on as files do.
    ensure!(cairn.shown_state("disk")? == "resident");
    cairn.archive("")?;
    for name in [
        "disk",
        "archive",
        "archive.cairn-kept-1",
        "disk.cairn-kept-1",
    ] {
        cairn.release(name)?;
    }
    cairn.cold()?;
    ensure!(fs::read(cairn.at("disk"))? == written && fs::read(cairn.at("archive"))? == data);
    let (found, left) = repair(&cairn, &[], &[])?;
    ensure!(found.is_empty() && !left, "{found:?}");
    cairn.down()
}

#[test]
fn p6_a_foreign_stub_is_named_with_the_way_out() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let data = tree::bytes(3, 300_000);
    cairn.released("original", &data)?;
    let stub = record_of(&cairn, "original")?;
    let time = fs::metadata(cairn.below("original"))?.modified()?;
    let copied = |name: &str| -> Result<()> {
        let file = File::create(cairn.below(name))?;
        file.set_len(data.len() as u64)?;
        let none = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(cairn.below(name), RECORD, &stub, none)?;
        Ok(file.set_times(FileTimes::new().set_modified(time))?)
    };
    copied("given")?;
    std::os::unix::fs::chown(cairn.below("given"), Some(4242), Some(4242))?;
    copied("filled")?;
    let file = File::options().write(true).open(cairn.below("filled"))?;
    file.write_all_at(&data[..8192], 0)?;
    drop(file);
    for name in ["given", "filled"] {
        ensure!(fs::read(cairn.at(name)).is_err(), "{name}");
    }
    let (found, left) = repair(&cairn, &["--apply"], &["given"])?;
    let given = one(&found)?;
    ensure!(
        left && given["trouble"] == "foreign" && given["remedy"] == "none",
        "{given}"
    );
    ensure!(
        given["why"].to_string().contains("another owner (0:0)"),
        "{given}"
    );
    std::os::unix::fs::chown(cairn.below("given"), Some(0), Some(0))?;
    ensure!(fs::read(cairn.at("given"))? == data);
    let (found, _) = repair(&cairn, &["--apply", "--keep", "disk"], &["filled"])?;
    ensure!(one(&found)?["result"] == "done", "{found:?}");
    let mut kept = vec![0; data.len()];
    kept[..8192].copy_from_slice(&data[..8192]);
    ensure!(fs::read(cairn.at("filled"))? == kept);
    ensure!(fs::read(cairn.at("original"))? == data);
    cairn.down()
}

/// A list of rights whose mask is wider than what it gives the group: the mode alone says too much.
#[test]
fn a_kept_file_has_the_rights_of_its_original() -> Result<()> {
    needs_mounts!();
    const ACL: &str = "system.posix_acl_access";
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let entry = |tag: u16, rights: u16, id: u32| {
        [
            &tag.to_le_bytes()[..],
            &rights.to_le_bytes(),
            &id.to_le_bytes(),
        ]
        .concat()
    };
    let none = u32::MAX;
    let list = |user: u32| {
        let entries = [
            2_u32.to_le_bytes().to_vec(),
            entry(0x01, 6, none),
            entry(0x02, 4, user),
            entry(0x04, 0, none),
            entry(0x10, 6, none),
            entry(0x20, 0, none),
        ];
        entries.concat()
    };
    let flags = rustix::fs::XattrFlags::empty();
    fs::create_dir(cairn.at("d"))?;
    // What new files inherit.
    rustix::fs::setxattr(
        cairn.below("d"),
        "system.posix_acl_default",
        &list(5555),
        flags,
    )?;
    let data = tree::bytes(4, 300_000);
    for (name, keep) in [("d/disk", "disk"), ("d/archive", "archive")] {
        in_conflict(&cairn, name, &data)?;
        rustix::fs::setxattr(cairn.below(name), ACL, &list(4242), flags)?;
        let (found, _) = repair(&cairn, &["--apply", "--keep", keep], &[name])?;
        ensure!(one(&found)?["result"] == "done", "{found:?}");
        let kept = cairn.below(&format!("{name}.cairn-kept-1"));
        let mut read = vec![0; 512];
        let length = rustix::fs::getxattr(&kept, ACL, &mut read[..])?;
        ensure!(
            read[..length] == list(4242),
            "{keep}: {:?}",
            &read[..length]
        );
        ensure!(fs::metadata(&kept)?.mode() & 0o777 == 0o660, "{keep}");
    }
    // Without a list of its own, it does not inherit one.
    in_conflict(&cairn, "d/plain", &data)?;
    rustix::fs::removexattr(cairn.below("d/plain"), ACL)?;
    let (found, _) = repair(&cairn, &["--apply", "--keep", "archive"], &["d/plain"])?;
    ensure!(one(&found)?["result"] == "done", "{found:?}");
    let mut read = vec![0; 512];
    let kept = cairn.below("d/plain.cairn-kept-1");
    ensure!(rustix::fs::getxattr(&kept, ACL, &mut read[..]).is_err());
    cairn.down()
}

/// Cut short by an earlier program between its record and its size; and of another size from the start.
#[test]
fn p4_a_half_mended_file_of_another_size_is_still_a_conflict() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let data = tree::bytes(5, 300_000);
    for name in ["longer", "shorter"] {
        cairn.released(name, &data)?;
        let size = if name == "longer" { 500_000 } else { 100_000 };
        let file = File::options().write(true).open(cairn.below(name))?;
        file.set_len(size)?;
        file.write_all_at(b"WRITTEN AROUND THE MOUNT", 4096)?;
        drop(file);
        ensure!(fs::read(cairn.at(name)).is_err(), "it is no conflict");
        let (found, left) = repair(&cairn, &["--keep", "archive", "--apply"], &[name])?;
        ensure!(one(&found)?["result"] == "done" && !left, "{found:?}");
        cairn.cold()?;
        ensure!(fs::read(cairn.at(name))? == data, "{name}");
        let kept = fs::metadata(cairn.at(&format!("{name}.cairn-kept-1")))?;
        ensure!(kept.len() == size, "{name}");
    }
    cairn.down()
}
