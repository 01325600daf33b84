//! What a restart must find, seen through the mount, and what it must say.

use crate::model::{Entry, Found, Model, Stop};
use crate::rig::{Instance, wait_for};
use crate::tally::Tally;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// Compares a directory with its reference, then takes what was in doubt as it is found, synced.
pub(crate) fn directory(
    dir: &Path,
    model: &mut Model,
    stop: Stop,
    tally: &mut Tally,
) -> Result<()> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let name = path
            .file_name()
            .context("a name")?
            .to_string_lossy()
            .into_owned();
        // In doubt or not: no file may be unreadable.
        let content = fs::read(&path).with_context(|| {
            let state = attribute(&path, "user.cairn.state");
            format!("read {} ({state}) after a {stop:?}", path.display())
        })?;
        let meta = fs::metadata(&path)?;
        ensure!(
            meta.size() == content.len() as u64,
            "{name}: size and bytes differ"
        );
        found.insert(
            name,
            Found {
                content,
                mtime: (meta.mtime(), meta.mtime_nsec()),
            },
        );
    }
    let (checked, doubtful) = model.check(stop, &found).with_context(|| {
        format!(
            "{} after a {stop:?}, pending {:?}",
            dir.display(),
            model.pending
        )
    })?;
    tally.checked += checked;
    tally.doubtful += doubtful;
    for name in found.keys() {
        File::open(dir.join(name))?.sync_all()?;
    }
    File::open(dir)?.sync_all()?;
    model.files = found
        .into_iter()
        .map(|(name, there)| (name, adopted(there)))
        .collect();
    model.ghosts.clear();
    model.pending = None;
    Ok(())
}

fn adopted(there: Found) -> Entry {
    Entry {
        content: Arc::new(there.content),
        mtime: Some(there.mtime),
        data_synced: true,
        name_synced: true,
    }
}

fn attribute(path: &Path, name: &str) -> String {
    let mut value = [0_u8; 256];
    match rustix::fs::lgetxattr(path, name, &mut value[..]) {
        Ok(len) => String::from_utf8_lossy(&value[..len]).into_owned(),
        Err(why) => why.to_string(),
    }
}

fn lines(cairn: &Instance, args: &[&str]) -> Result<Vec<Value>> {
    let text = cairn.cairn(args)?;
    text.lines()
        .map(|l| serde_json::from_str(l).with_context(|| l.to_owned()))
        .collect()
}

/// The requests that are open.
pub(crate) fn open_requests(cairn: &Instance) -> Result<u64> {
    Ok(lines(cairn, &["requests", "--json"])?.len() as u64)
}

/// Waits until no request is open: what was accepted goes on after a restart and ends.
pub(crate) fn requests_end(cairn: &Instance) -> Result<()> {
    wait_for("open requests to end", || Ok(open_requests(cairn)? == 0))
        .with_context(|| format!("{:?}", lines(cairn, &["requests", "--json"])))
}

/// Waits for the scan, then: no file lost, no stub in conflict.
pub(crate) fn status(cairn: &Instance) -> Result<()> {
    let mount = cairn.mount.to_string_lossy().into_owned();
    let mut last = Value::Null;
    wait_for("the scan to finish", || {
        let mut all = lines(cairn, &["status", "--json"])?;
        last = all.pop().context("a status")?;
        let scan = &last["scan"];
        Ok(scan["running"] == false
            && !scan["finished"].is_null()
            && last["changelog"]["lag"] == 0
            && last["changelog"]["rescans"] == 0)
    })
    .with_context(|| last.to_string())?;
    ensure!(last["mount"] == mount, "status of another mount: {last}");
    ensure!(last["copies"]["lost"] == 0, "files are lost: {last}");
    ensure!(
        last["copies"]["conflict"] == 0,
        "stubs are in conflict: {last}"
    );
    Ok(())
}
