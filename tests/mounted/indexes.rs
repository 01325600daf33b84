//! Indexes in the state directory: what is known of released files without their tier.

use crate::needs_mounts;
use crate::rig::{Instance, on_disk, tree};
use anyhow::{Context, Result, ensure};
use rustix::fs::{SeekFrom, seek};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// Data and holes as `lseek` tells them.
fn extents(cairn: &Instance, name: &str) -> Result<Vec<(u64, u64)>> {
    let file = File::open(cairn.at(name))?;
    let (mut at, mut found) = (0, Vec::new());
    while let Ok(data) = seek(&file, SeekFrom::Data(at)) {
        at = seek(&file, SeekFrom::Hole(data))?;
        found.push((data, at));
    }
    Ok(found)
}

#[test]
fn p6_holes_of_released_files_need_no_tier_after_a_restart() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let sparse = File::create(cairn.at("f"))?;
    sparse.set_len(8 << 20)?;
    sparse.write_all_at(&tree::bytes(1, 128 << 10), 1 << 20)?;
    sparse.write_all_at(&tree::bytes(2, 64 << 10), 6 << 20)?;
    drop(sparse);
    let before = extents(&cairn, "f")?;
    ensure!(before.len() == 2, "{before:?}");
    cairn.archive("f")?;
    cairn.release("f")?;
    ensure!(on_disk(&cairn.below("f"))? <= 8192, "{}", cairn.log());
    cairn.down()?;
    let indexes = cairn.state.join("indexes");
    let kept = || -> Result<Vec<_>> {
        let list = fs::read_dir(&indexes)?.map(|e| Ok(e?.path()));
        list.collect()
    };
    let file = kept()?.pop().context("no index was kept")?;
    cairn.up()?;
    let aside = cairn.dir.path().join("aside");
    fs::rename(&cairn.tier, &aside)?;
    let known = extents(&cairn, "f")?;
    ensure!(known == before, "{known:?}\n{}", cairn.log());
    cairn.down()?;
    fs::rename(&aside, &cairn.tier)?;
    // A damaged one is dropped, and fetched anew.
    let good = fs::read(&file)?;
    let mut bad = good.clone();
    let last = bad.len() - 1;
    bad[last] ^= 1;
    fs::write(&file, &bad)?;
    cairn.up()?;
    let known = extents(&cairn, "f")?;
    ensure!(known == [(0, 8 << 20)], "{known:?}");
    ensure!(fs::read(cairn.at("f"))?.len() == 8 << 20);
    ensure!(fs::read(&file)? == good, "fetched anew");
    cairn.down()
}
