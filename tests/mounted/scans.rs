//! What a scan makes of a backing directory that the catalog does not know, or not any more.

use crate::needs_mounts;
use crate::rig::{Instance, tree, wait_for};
use anyhow::{Context, Result, ensure};
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

fn status(cairn: &Instance) -> Result<serde_json::Value> {
    let text = cairn.cairn([
        OsStr::new("status"),
        OsStr::new("--json"),
        cairn.mount.as_os_str(),
    ])?;
    Ok(serde_json::from_str(&text)?)
}

/// Until the first scan, and those that were asked for, are at their end.
fn scanned(cairn: &Instance) -> Result<serde_json::Value> {
    let mut last = serde_json::Value::Null;
    wait_for("the scan to end", || {
        last = status(cairn)?;
        let over = last["scan"]["running"] == false && last["changelog"]["rescans"] == 0;
        Ok(over && !last["scan"]["finished"].is_null())
    })?;
    Ok(last)
}

fn forget_catalog(cairn: &Instance) -> Result<()> {
    for name in ["catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"] {
        match fs::remove_file(cairn.state.join(name)) {
            Err(why) if why.kind() != std::io::ErrorKind::NotFound => return Err(why.into()),
            _ => {}
        }
    }
    Ok(())
}

/// Other bytes, and size and modification time as they were.
fn edit_unseen(path: &Path) -> Result<()> {
    let file = File::options().write(true).open(path)?;
    let before = file.metadata()?.modified()?;
    file.write_all_at(b"EDITED", 1000)?;
    file.set_times(FileTimes::new().set_modified(before))?;
    Ok(())
}

/// A record proves nothing under a catalog that never saw its file quiet: what changed since must be
/// archived again, whatever its size and times say.
#[test]
fn p1_a_fresh_catalog_takes_no_edited_file_for_archived() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let data = tree::bytes(61, 100_000);
    for name in ["as-it-was", "mode-set", "edited"] {
        fs::write(cairn.at(name), &data)?;
        cairn.archive(name)?;
    }
    cairn.down()?;
    fs::set_permissions(cairn.below("mode-set"), Permissions::from_mode(0o640))?;
    edit_unseen(&cairn.below("edited"))?;
    forget_catalog(&cairn)?;
    cairn.up()?;
    let files = scanned(&cairn)?["files"].clone();
    ensure!(
        (&files["archived"], &files["dirty"]) == (&2.into(), &1.into()),
        "{files}"
    );
    // The next archive makes a copy of what it is now, and only then can its blocks go.
    cairn.archive("edited")?;
    cairn.release("edited")?;
    cairn.cold()?;
    let mut edited = data;
    edited[1000..1006].copy_from_slice(b"EDITED");
    ensure!(fs::read(cairn.at("edited"))? == edited);
    cairn.down()
}

/// The backup of a catalog: what was archived since is known from the records, and what it has
/// proven is not believed.
#[test]
fn p1_an_older_catalog_that_was_put_back_is_not_believed() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let (first, second) = (tree::bytes(62, 100_000), tree::bytes(63, 100_000));
    fs::write(cairn.at("f"), &first)?;
    cairn.archive("f")?;
    cairn.down()?;
    let kept = cairn.dir.path().join("kept.sqlite");
    fs::copy(cairn.state.join("catalog.sqlite"), &kept)?;
    cairn.up()?;
    fs::write(cairn.at("f"), &second)?;
    cairn.archive("f")?;
    fs::write(cairn.at("later"), &second)?;
    cairn.archive("later")?;
    cairn.down()?;
    forget_catalog(&cairn)?;
    fs::copy(&kept, cairn.state.join("catalog.sqlite"))?;
    cairn.up()?;
    let files = scanned(&cairn)?["files"].clone();
    ensure!(
        files["files"] == 2 && files["archived"] == 2 && files["dirty"] == 0,
        "{files}"
    );
    // A copy that is known from a record alone has no receipt: a new one is made.
    cairn.archive("f")?;
    cairn.release("f")?;
    cairn.cold()?;
    ensure!(fs::read(cairn.at("f"))? == second);
    cairn.down()
}

#[test]
fn files_in_trouble_are_counted_and_named() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    cairn.released("written-into", &tree::bytes(64, 100_000))?;
    cairn.released("copied", &tree::bytes(65, 100_000))?;
    let calm = scanned(&cairn)?;
    ensure!(calm["copies"]["conflict"] == 0 && calm["troubled"].is_null());
    cairn.kill()?;
    File::options()
        .write(true)
        .open(cairn.below("written-into"))?
        .write_all_at(b"behind its back", 0)?;
    let copy = Command::new("cp")
        .args(["-a", "--sparse=always"])
        .args([cairn.below("copied"), cairn.below("copy")])
        .status()?;
    ensure!(copy.success());
    // Another time than the stub's: nothing could vouch for it.
    let then = FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000));
    File::open(cairn.below("copy"))?.set_times(then)?;
    cairn.up()?;
    let found = scanned(&cairn)?;
    let copies = &found["copies"];
    ensure!(
        (&copies["conflict"], &copies["foreign"]) == (&1.into(), &1.into()),
        "{found}"
    );
    let named = found["troubled"].as_array().context("none is named")?;
    let named: Vec<_> = named.iter().map(|f| (&f["state"], &f["path"])).collect();
    ensure!(
        named
            == [
                (&"conflict".into(), &"written-into".into()),
                (&"foreign".into(), &"copy".into())
            ],
        "{named:?}"
    );
    // What is removed is no trouble any more.
    fs::remove_file(cairn.at("copy"))?;
    wait_for("the removed file to be forgotten", || {
        Ok(status(&cairn)?["copies"]["foreign"] == 0)
    })?;
    cairn.down()
}
