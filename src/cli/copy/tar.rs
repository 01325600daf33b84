//! `--tar`: what is packed under which names, and where members go.

use super::found::{Remote, at, made_now};
use crate::cli::CliError;
use crate::client::ClientError;
use crate::client::remote::Link;
use crate::client::remote::plan::{Item, Plan, Skip, Tar, name_of, told, walk};
use crate::client::remote::session::Session;
use crate::client::remote::tar::unpack;
use crate::error::Failure;
use crate::parcel::{Named, Outgoing, Packing, Tree};
use crate::server::wire::{EntryKind, EntryView};
use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names of one archive: whoever gets it holds its index in memory.
const NAMES_MAX: usize = 5_000_000;

/// What a local path is called in an archive: its own name, or nothing, where what lies in it is meant (`.`, `dir/.`).
fn name_in_archive(path: &Path) -> Result<Vec<u8>, CliError> {
    let bytes = path.as_os_str().as_bytes();
    if bytes == b"." || bytes.ends_with(b"/.") {
        return Ok(Vec::new());
    }
    Ok(name_of(path)?)
}

/// All names at and below these paths, and what cannot be looked at.
fn names(local: &[PathBuf], plan: &mut Plan) -> Result<Vec<Named>, CliError> {
    let mut names = Vec::new();
    for path in local {
        let top = name_in_archive(path)?;
        let (tree, items) = walk(path, &top, &mut plan.problems)?;
        let own = path.symlink_metadata().is_ok_and(|meta| meta.is_dir());
        if own && let Ok(found) = tree.look(b"") {
            names.push(Named {
                tree: Arc::clone(&tree),
                local: Vec::new(),
                name: top,
                found,
            });
        }
        for item in items {
            if let Some(found) = item.found {
                names.push(Named {
                    tree: Arc::clone(&tree),
                    local: item.local,
                    name: item.remote.path.bytes(),
                    found,
                });
            }
        }
    }
    let mut seen = HashSet::new();
    match names.iter().find(|named| !seen.insert(&named.name)) {
        Some(twice) => Err(CliError::usage(format!(
            "{}: two things would have this name in the archive",
            String::from_utf8_lossy(&twice.name)
        ))),
        None => Ok(names),
    }
}

/// The archive of these paths, as one file there.
pub(super) async fn put(
    link: &mut Link,
    local: &[PathBuf],
    remote: &Remote,
) -> Result<Plan, CliError> {
    let shown = String::from_utf8_lossy(&remote.path).into_owned();
    let there = at(link, &remote.path).await?;
    let is_directory = |entry: &EntryView| entry.kind == EntryKind::Directory;
    if remote.directory || there.as_ref().is_some_and(is_directory) {
        return Err(CliError::usage(format!(":{shown} is a directory"))
            .with_hint("name the archive: cairn put --tar LOCAL... :DIR/NAME.tar"));
    }
    let mut plan = Plan::default();
    plan.tops.push(remote.path.clone());
    let names = names(local, &mut plan)?;
    if names.len() > NAMES_MAX {
        let why = format!(
            "{} names are too many for one archive: {NAMES_MAX} at most",
            names.len()
        );
        return Err(CliError::usage(why).with_hint("make several, or put the tree as it is"));
    }
    let made = tokio::task::spawn_blocking(move || Packing::new(names)).await;
    let made = made.map_err(|e| CliError::new(Failure::Internal, e))?;
    let (packing, left_out) =
        made.map_err(|e| CliError::new(Failure::NotAFile, format!("make the archive: {e}")))?;
    plan.problems
        .extend(left_out.iter().map(|(name, error)| told(name, error)));
    if packing.is_empty() {
        return match plan.problems.into_iter().next() {
            Some(problem) => Err(ClientError::from(problem).into()),
            None => Err(CliError::usage("there is nothing to put")),
        };
    }
    let size = Outgoing::size(&packing);
    let item = Item {
        local: remote.path.clone(),
        remote: made_now(remote, size),
        found: None,
        name_of: None,
    };
    let tree = Arc::new(Tree::open(Path::new("/")).map_err(|e| CliError::system("open /", &e))?);
    // What could not be packed did not fail the archive.
    plan.count = plan.problems.len() as u64;
    plan.add(&tree, vec![item]);
    let packing = Arc::new(packing);
    for parcel in &mut plan.files {
        parcel.tar = Some(Tar::Packs(Arc::clone(&packing)));
    }
    Ok(plan)
}

/// The one file there that is meant.
pub(super) async fn archive(link: &mut Link, remote: &[Remote]) -> Result<EntryView, CliError> {
    let [place] = remote else {
        return Err(CliError::usage("one file there at a time"));
    };
    let shown = String::from_utf8_lossy(&place.path).into_owned();
    match at(link, &place.path).await? {
        Some(entry) if entry.kind == EntryKind::File => Ok(entry),
        Some(_) => Err(CliError::new(
            Failure::NotAFile,
            format!(":{shown} is no file"),
        )),
        None => Err(CliError::new(
            Failure::NotFound,
            format!(":{shown}: no such file"),
        )),
    }
}

/// Members as files below a directory here, which is made.
pub(super) async fn get(
    session: &Session,
    view: &EntryView,
    local: &Path,
    members: &[Vec<u8>],
    skip: Skip,
) -> Result<Plan, CliError> {
    if !local.metadata().is_ok_and(|meta| meta.is_dir()) {
        std::fs::create_dir(local)
            .map_err(|e| CliError::system(format!("make {}", local.display()), &e))?;
    }
    // What an archive names is written below this directory, and through no link out of it.
    let tree = Tree::strict(local)
        .map_err(|e| CliError::system(format!("open {}", local.display()), &e))?;
    let tree = Arc::new(tree);
    let archive = Arc::new(session.archive(view, &tree).await?);
    let mut plan = Plan::default();
    let how = (skip, session.placing.resume);
    unpack(&mut plan, &archive, &tree, members, how);
    let nothing = plan.count == 0 && plan.directories.is_empty() && plan.skipped == 0;
    if nothing && let Some(problem) = plan.problems.first().cloned() {
        return Err(ClientError::from(problem).into());
    }
    Ok(plan)
}

/// A member's name as it was given.
pub(super) fn member(given: &std::ffi::OsString) -> Result<Vec<u8>, CliError> {
    let bytes = given.as_bytes();
    if bytes.split(|b| *b == b'/').any(|part| part == b"..") {
        let text = given.to_string_lossy();
        return Err(CliError::usage(format!("{text}: no member has `..`")));
    }
    Ok(bytes.to_vec())
}
