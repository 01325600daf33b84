//! Archive, release and recall of everything that users have.

use crate::needs_mounts;
use crate::rig::{Instance, on_disk, tree};
use anyhow::{Result, ensure};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

#[test]
fn a_varied_tree_survives_archive_release_and_recall() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let large = tree::varied(&cairn.mount)?;
    let before = tree::picture(&cairn.mount)?;
    let ctimes = |cairn: &Instance| -> Result<Vec<_>> {
        large
            .iter()
            .map(|n| Ok(fs::metadata(cairn.at(n)).map(|m| (m.ctime(), m.ctime_nsec()))?))
            .collect()
    };
    let shown = ctimes(&cairn)?;
    cairn.archive("")?;
    cairn.release("")?;
    for name in &large {
        let blocks = on_disk(&cairn.below(name))?;
        ensure!(blocks <= 8192, "{name} still has {blocks} bytes on disk");
        ensure!(
            fs::metadata(cairn.at(name))?.blocks() >= 1,
            "{name} shows as a hole"
        );
    }
    ensure!(
        ctimes(&cairn)? == shown,
        "release shows as a change of status"
    );
    cairn.cold()?;
    let after = tree::picture(&cairn.mount)?;
    for (path, facts) in &before {
        ensure!(
            after.get(path) == Some(facts),
            "{}: {facts:?} became {:?}",
            path.display(),
            after.get(path)
        );
    }
    ensure!(after.len() == before.len(), "names appeared");
    ensure!(
        ctimes(&cairn)? == shown,
        "recall shows as a change of status"
    );
    cairn.down()
}

#[test]
fn a_released_tree_is_copied_as_data_and_never_as_holes() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    for n in 0..6_u64 {
        fs::write(cairn.at(&format!("f{n}")), tree::bytes(n, 200_000))?;
    }
    for (tool, args) in [
        ("cp", vec!["-a", "--sparse=always", "mount/.", "copy"]),
        ("tar", vec!["-C", "mount", "-S", "-cf", "copy/all.tar", "."]),
    ] {
        cairn.archive("")?;
        cairn.release("")?;
        ensure!(
            on_disk(&cairn.below("f0"))? <= 8192,
            "not released before {tool}"
        );
        fs::create_dir(cairn.dir.path().join("copy"))?;
        let done = Command::new(tool)
            .args(&args)
            .current_dir(cairn.dir.path())
            .output()?;
        ensure!(
            done.status.success(),
            "{tool}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        if tool == "tar" {
            let out = Command::new("tar")
                .args(["-xf", "all.tar"])
                .current_dir(cairn.dir.path().join("copy"))
                .status()?;
            ensure!(out.success(), "tar x");
        }
        for n in 0..6_u64 {
            let copy = fs::read(cairn.dir.path().join(format!("copy/f{n}")))?;
            ensure!(
                copy == tree::bytes(n, 200_000),
                "{tool} copied something else of f{n}"
            );
        }
        fs::remove_dir_all(cairn.dir.path().join("copy"))?;
    }
    cairn.down()
}

#[test]
fn plain_tar_restores_without_cairn() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    tree::varied(&cairn.mount)?;
    let before = tree::picture(&cairn.mount)?;
    cairn.archive("")?;
    cairn.down()?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/long/plain_restore");
    for tar in ["tar", "bsdtar"] {
        if Command::new(tar).arg("--version").output().is_err() {
            eprintln!("SKIPPED plain_tar_restores_without_cairn/{tar}: not installed");
            continue;
        }
        let to = cairn.dir.path().join(format!("by-{tar}"));
        fs::create_dir(&to)?;
        let args = [OsStr::new(tar), cairn.tier.as_os_str(), to.as_os_str()];
        let out = Command::new("bash").arg(script).args(args).output()?;
        ensure!(
            out.status.success(),
            "{tar}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        let restored = tree::picture(&to)?;
        for (path, facts) in &before {
            let found = restored.get(path);
            let same = found.is_some_and(|found| match tar {
                "bsdtar" => facts.is_but_for_directory_time(found),
                _ => facts == found,
            });
            ensure!(
                same,
                "{tar}: {}: {facts:?} became {found:?}",
                path.display()
            );
        }
    }
    Ok(())
}
