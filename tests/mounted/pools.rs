//! Two copies in two pools of one tape library: they are never on one cartridge, so that what damages one
//! leaves the other.

use crate::needs_mounts;
use crate::rig::{Instance, tree};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// `near` and `far`, pools of one library, with so many drives; two copies of everything.
fn equip(cairn: &mut Instance, root: &Path, drives: u32) -> Result<()> {
    let policy = cairn.dir.path().join("two.policy");
    fs::write(&policy, "copies 2\n\nrule archive none\n  never\n")?;
    let config = cairn.dir.path().join("cairn.toml");
    fs::write(&config, "heal = false\n")?;
    cairn.args = vec![
        "--config".into(),
        config.display().to_string(),
        "--policy".into(),
        policy.display().to_string(),
    ];
    for pool in ["near", "far"] {
        let url = format!(
            "{pool}=tape:{}?capacity=64MiB&cartridges=4&drives={drives}&pool={pool}",
            root.display()
        );
        cairn.args.extend(["--tier".to_owned(), url]);
    }
    Ok(())
}

/// Whose each cartridge is, by barcode.
fn owners(root: &Path) -> Result<BTreeMap<String, String>> {
    let state: Value = serde_json::from_slice(&fs::read(root.join("library.json"))?)?;
    ensure!(state["version"] == 3, "{state}");
    let cartridges = state["cartridges"].as_array().context("cartridges")?;
    let owned = cartridges.iter().filter_map(|c| {
        let owner = c["owner"].as_str()?;
        Some((c["barcode"].as_str()?.to_owned(), owner.to_owned()))
    });
    Ok(owned.collect())
}

/// The images that hold a file's bytes, and where in them.
fn images_with(root: &Path, data: &[u8]) -> Result<BTreeMap<String, (PathBuf, u64)>> {
    let needle = data.get(1000..1064).context("a longer file")?;
    let mut found = BTreeMap::new();
    for image in fs::read_dir(root.join("cartridges"))? {
        let path = image?.path();
        let bytes = fs::read(&path)?;
        if let Some(at) = bytes.windows(needle.len()).position(|w| w == needle) {
            let barcode = path
                .file_stem()
                .context("a name")?
                .to_string_lossy()
                .into_owned();
            found.insert(barcode, (path, at as u64));
        }
    }
    Ok(found)
}

fn flip((path, at): &(PathBuf, u64)) -> Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, *at)?;
    Ok(file.write_all_at(&[byte[0] ^ 1], *at)?)
}

fn wrong(cairn: &Instance, name: &str) -> Result<()> {
    match fs::read(cairn.at(name)) {
        Err(error) => ensure!(error.raw_os_error() == Some(libc::EIO), "{name}: {error}"),
        Ok(_) => bail!("{name} was read"),
    }
    Ok(())
}

#[test]
fn two_copies_in_two_pools_outlive_a_cartridge_and_a_drive() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    let root = cairn.dir.path().join("tape");
    equip(&mut cairn, &root, 2)?;
    cairn.up()?;
    let names = ["first-bad", "second-bad", "both-bad", "whole"];
    let content = |n: usize| tree::bytes(90 + n as u64, 300_000 + n);
    let mut lies = Vec::new();
    for (n, name) in names.into_iter().enumerate() {
        cairn.released(name, &content(n))?;
        let at = images_with(&root, &content(n))?;
        let owners = owners(&root)?;
        let of: Vec<_> = at.keys().map(|barcode| owners.get(barcode)).collect();
        ensure!(
            of.len() == 2 && of[0].is_some() && of[1].is_some(),
            "{name}: {at:?} {owners:?}"
        );
        ensure!(of[0] != of[1], "{name}: two copies in one pool: {of:?}");
        lies.push(at.into_values().collect::<Vec<_>>());
    }
    cairn.down()?;
    // Of one file the copy in one pool is damaged, of one that in the other; and one of the two drives is gone.
    let one_alone = [&lies[0][0], &lies[1][1]];
    one_alone.into_iter().try_for_each(flip)?;
    lies[2].iter().try_for_each(flip)?;
    equip(&mut cairn, &root, 1)?;
    cairn.up()?;
    cairn.cold()?;
    for _ in 0..2 {
        for n in [0, 1, 3] {
            ensure!(fs::read(cairn.at(names[n]))? == content(n), "{}", names[n]);
        }
        wrong(&cairn, "both-bad")?;
    }
    // What is damaged in one pool alone is put right by hand, so that the other is what is left to be told.
    one_alone.into_iter().try_for_each(flip)?;
    let verify: Vec<_> = ["verify".into(), "--wait".into()]
        .into_iter()
        .chain(names.map(|name| cairn.at(name).into_os_string()))
        .collect();
    let done = cairn.run(verify)?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(done.status.code() == Some(1), "{done:?}");
    ensure!(said.contains("both-bad"), "{said}");
    let others = names.into_iter().filter(|name| *name != "both-bad");
    for name in others {
        ensure!(!said.contains(name), "{name}: {said}");
    }
    cairn.down()
}

/// The lines of a list that name a cartridge.
fn line<'l>(list: &'l str, barcode: &str) -> Vec<&'l str> {
    let lines = list.lines().filter(|line| line.starts_with(barcode));
    lines.collect()
}

#[test]
fn cartridges_are_shown_with_their_pool_and_looked_after_within_it() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    let root = cairn.dir.path().join("tape");
    equip(&mut cairn, &root, 1)?;
    cairn.up()?;
    cairn.released("file", &tree::bytes(7, 300_000))?;
    let owners = owners(&root)?;
    ensure!(owners.len() == 2, "{owners:?}");
    let list = cairn.cairn(["tape", "list"])?;
    let mut pools = Vec::new();
    for barcode in owners.keys() {
        // In its own pool's part alone.
        let [line] = line(&list, barcode)[..] else {
            bail!("{barcode}: {list}");
        };
        let pool = ["near", "far"]
            .into_iter()
            .find(|p| line.contains(&format!("pool {p}")));
        pools.push(pool.with_context(|| line.to_owned())?);
        let shown = cairn.cairn(["tape", "show", barcode])?;
        ensure!(
            shown.contains(&format!("pool {}", pools[pools.len() - 1])),
            "{shown}"
        );
        let read = cairn.cairn(["tape", "verify", barcode])?;
        ensure!(read.contains("1 file"), "{read}");
    }
    pools.sort_unstable();
    ensure!(pools == ["far", "near"], "{list}");
    ensure!(
        list.matches("scratch").count() == 4,
        "two blank ones, in each pool's part: {list}"
    );
    cairn.cairn(["tape", "label", "VLT001L8", "--tier", "far"])?;
    let list = cairn.cairn(["tape", "list", "--tier", "near"])?;
    ensure!(line(&list, "VLT001L8")[0].contains("scratch"), "{list}");
    let verify = cairn.run(["tape", "verify", "VLT001L8"])?;
    let said = String::from_utf8_lossy(&verify.stderr).into_owned();
    ensure!(
        !verify.status.success() && said.contains("is blank"),
        "{said}"
    );
    let other = owners.keys().next().context("one")?;
    let wrong = ["near", "far"].map(|tier| cairn.run(["tape", "retire", other, "--tier", tier]));
    let refused = wrong.iter().flatten().filter(|done| !done.status.success());
    ensure!(refused.count() == 1, "{wrong:?}");
    cairn.down()?;
    // And while nothing uses it.
    let url = |pool: &str| format!("tape:{}{pool}", root.display());
    let list = cairn.cairn(["tape", "list", "--tier", &url("?pool=near")])?;
    ensure!(
        list.contains("pool near") && !list.contains("pool far"),
        "{list}"
    );
    let whole = cairn.run(["tape", "list", "--tier", &url("")])?;
    let said = String::from_utf8_lossy(&whole.stderr).into_owned();
    ensure!(
        !whole.status.success() && said.contains("pool=NAME"),
        "{said}"
    );
    Ok(())
}

#[test]
fn a_pool_that_is_named_twice_is_refused_before_anything_is_made() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    let root = cairn.dir.path().join("tape");
    for (name, pool) in [("a", "near"), ("b", "near")] {
        let url = format!("{name}=tape:{}?pool={pool}", root.display());
        cairn.args.extend(["--tier".to_owned(), url]);
    }
    let error = cairn.up().err().context("it started")?.to_string();
    ensure!(error.contains("each needs a pool= of its own"), "{error}");
    ensure!(!root.exists(), "something was made");
    Ok(())
}
