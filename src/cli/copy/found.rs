//! Which names are meant: what the arguments stand for here and there, as a plan.

use super::umask;
use crate::cli::CliError;
use crate::client::ClientError;
use crate::client::remote::Link;
use crate::client::remote::plan::{Item, Plan, Skip, join, name_of, walk, without};
use crate::parcel::Tree;
use crate::server::wire::{EntryKind, EntryView, GivenPath, ListQuery, Problem};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// A place below the mount, as it was written behind the colon.
pub(super) struct Remote {
    /// Without slashes around it.
    pub(super) path: Vec<u8>,
    /// It ends in a slash: a directory is meant.
    pub(super) directory: bool,
}

fn remote(given: &OsStr) -> Result<Remote, CliError> {
    let text = given.as_bytes().strip_prefix(b":").ok_or_else(|| {
        CliError::usage(format!(
            "{}: a place on the server begins with a colon",
            given.to_string_lossy()
        ))
        .with_hint("cairn put LOCAL... :REMOTE, cairn get :REMOTE... LOCAL")
    })?;
    let names: Vec<&[u8]> = text
        .split(|b| *b == b'/')
        .filter(|n| !n.is_empty() && *n != b".")
        .collect();
    if names.contains(&&b".."[..]) {
        return Err(CliError::usage(format!(
            "{}: `..` leads nowhere on the server",
            given.to_string_lossy()
        )));
    }
    Ok(Remote {
        path: names.join(&b'/'),
        directory: text.ends_with(b"/") || names.is_empty(),
    })
}

fn local(given: &OsStr) -> Result<PathBuf, CliError> {
    if given.as_bytes().starts_with(b":") {
        let text = given.to_string_lossy();
        return Err(CliError::usage(format!("{text}: a place here is wanted"))
            .with_hint(format!("a file of that name is ./{text}")));
    }
    Ok(PathBuf::from(given))
}

/// Local paths, and the place that they go to.
pub(super) fn to_remote(paths: &[OsString]) -> Result<(Vec<PathBuf>, Remote), CliError> {
    let (last, first) = paths
        .split_last()
        .ok_or_else(|| CliError::usage("nothing is named"))?;
    Ok((
        first.iter().map(|p| local(p)).collect::<Result<_, _>>()?,
        remote(last)?,
    ))
}

/// Places on the server, and the local path that they go to.
pub(super) fn from_remote(paths: &[OsString]) -> Result<(Vec<Remote>, PathBuf), CliError> {
    let (last, first) = paths
        .split_last()
        .ok_or_else(|| CliError::usage("nothing is named"))?;
    Ok((
        first.iter().map(|p| remote(p)).collect::<Result<_, _>>()?,
        local(last)?,
    ))
}

async fn listed(
    link: &mut Link,
    paths: &[&[u8]],
    recursive: bool,
    stage: bool,
) -> Result<(Vec<EntryView>, Vec<Problem>), ClientError> {
    let query = ListQuery {
        paths: paths.iter().map(|path| GivenPath::new(path)).collect(),
        recursive,
        follow: !recursive,
        stage,
    };
    let (mut entries, mut problems) = (Vec::new(), Vec::new());
    link.each("/v1/remote/list", &query, |line| match line {
        Ok(entry) => entries.push(entry),
        Err(problem) => problems.push(problem),
    })
    .await?;
    Ok((entries, problems))
}

/// What stands at one place, if anything does.
pub(super) async fn at(link: &mut Link, path: &[u8]) -> Result<Option<EntryView>, ClientError> {
    let (mut entries, problems) = listed(link, &[path], false, false).await?;
    match problems
        .into_iter()
        .find(|problem| problem.code != "not-found")
    {
        Some(problem) => Err(problem.into()),
        None => Ok(entries.pop()),
    }
}

/// A file there that is made here and now, of nothing that has a mode or a time of its own.
pub(super) fn made_now(remote: &Remote, size: u64) -> EntryView {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seconds = now.ok().and_then(|now| i64::try_from(now.as_secs()).ok());
    EntryView {
        path: GivenPath::new(&remote.path),
        kind: EntryKind::File,
        size,
        mode: 0o666 & !umask(),
        mtime_s: seconds.unwrap_or(0),
        mtime_ns: 0,
        target: None,
    }
}

/// A directory as an item, under the name that it has there.
fn directory(path: &Path, there: Vec<u8>) -> Option<Item> {
    if there.is_empty() {
        return None;
    }
    let found = Tree::open(path).and_then(|tree| tree.look(b"")).ok()?;
    Some(Item {
        local: there.clone(),
        remote: EntryView {
            path: GivenPath::new(&there),
            kind: EntryKind::Directory,
            size: 0,
            mode: found.mode,
            mtime_s: found.modified.seconds,
            mtime_ns: found.modified.nanos,
            target: None,
        },
        found: Some(found),
        name_of: None,
    })
}

/// What is put where.
pub(super) async fn put(
    link: &mut Link,
    local: &[PathBuf],
    remote: &Remote,
    skip: Skip,
) -> Result<Plan, CliError> {
    let there = at(link, &remote.path).await?;
    let is_directory = there
        .as_ref()
        .is_some_and(|entry| entry.kind == EntryKind::Directory);
    let into = remote.directory || is_directory || local.len() > 1;
    if into && there.is_some() && !is_directory {
        let why = format!(":{} is no directory", String::from_utf8_lossy(&remote.path));
        return Err(CliError::usage(why));
    }
    let mut known = HashMap::new();
    if skip != Skip::Nothing && there.is_some() {
        let (entries, problems) = listed(link, &[&remote.path], true, false).await?;
        if let Some(problem) = problems.into_iter().next() {
            return Err(ClientError::from(problem).into());
        }
        known.extend(entries.into_iter().map(|entry| (entry.path.bytes(), entry)));
    }
    let mut plan = Plan::default();
    for path in local {
        let to = if into {
            join(&remote.path, &name_of(path)?)
        } else {
            remote.path.clone()
        };
        plan.tops.push(to.clone());
        let (tree, mut items) = walk(path, &to, &mut plan.problems)?;
        for item in &mut items {
            if item.remote.kind == EntryKind::Directory {
                // Nothing is read of it: only what it is called there matters.
                item.local = item.remote.path.bytes();
            }
        }
        if path.symlink_metadata().is_ok_and(|m| m.is_dir()) {
            items.extend(directory(path, to));
        }
        let (items, skipped) = without(items, skip, &known, |item| item.remote.path.bytes());
        plan.skipped += skipped;
        plan.add(&tree, items);
    }
    Ok(plan)
}

/// What is got where.
pub(super) async fn get(
    link: &mut Link,
    remote: &[Remote],
    local: &Path,
    skip: Skip,
) -> Result<Plan, CliError> {
    let failed = |e: std::io::Error| CliError::system(format!("open {}", local.display()), &e);
    let is_directory = local.metadata().is_ok_and(|m| m.is_dir());
    let ends_in_slash = local.as_os_str().as_bytes().ends_with(b"/");
    let into = is_directory || remote.len() > 1 || ends_in_slash;
    if into && !is_directory {
        std::fs::create_dir(local)
            .map_err(|e| CliError::system(format!("make {}", local.display()), &e))?;
    }
    let top = if into {
        local
    } else {
        local
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."))
    };
    // What a server names is written below this directory, and through no link out of it.
    let tree = Arc::new(Tree::strict(top).map_err(failed)?);
    let mut plan = Plan::default();
    for place in remote {
        let name = match (
            into,
            place.path.rsplit(|b| *b == b'/').next().unwrap_or_default(),
        ) {
            (false, _) => name_of(local)?,
            (true, name) => name.to_vec(),
        };
        let (entries, problems) = listed(link, &[&place.path], true, true).await?;
        plan.problems.extend(problems);
        let mut known = HashMap::new();
        let mut items = Vec::new();
        for entry in entries {
            let path = entry.path.bytes();
            let below = path.strip_prefix(place.path.as_slice()).unwrap_or_default();
            let below = below.strip_prefix(b"/").unwrap_or(below);
            let here = join(&name, below);
            // The mount's own root has no name; what lies in it does.
            if here.is_empty() {
                continue;
            }
            if skip != Skip::Nothing
                && let Ok(found) = tree.look(&here)
            {
                known.insert(here.clone(), as_seen(&entry, &found));
            }
            items.push(Item {
                local: here,
                remote: entry,
                found: None,
                name_of: None,
            });
        }
        let (items, skipped) = without(items, skip, &known, |item| item.local.clone());
        plan.skipped += skipped;
        plan.add(&tree, items);
    }
    if plan.count == 0 && plan.directories.is_empty() && plan.skipped == 0 {
        if let Some(problem) = plan.problems.into_iter().next() {
            return Err(ClientError::from(problem).into());
        }
        return Err(CliError::usage("there is nothing to get"));
    }
    Ok(plan)
}

/// What is here in the place of an entry, of which its time matters alone.
fn as_seen(entry: &EntryView, found: &crate::parcel::Found) -> EntryView {
    EntryView {
        mtime_s: found.modified.seconds,
        mtime_ns: found.modified.nanos,
        ..entry.clone()
    }
}
