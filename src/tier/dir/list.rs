//! Names of a tier's objects, in ascending order, page by page.

use super::layout::{self, AGGREGATES, Shard};
use crate::id::AggregateId;
use rustix::fs::Dir;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// At most `limit` names after `after`. Whatever has no object's name, or lies where that object
/// would not, is passed over.
pub(super) fn names(
    root: impl AsFd,
    after: Option<AggregateId>,
    limit: usize,
) -> io::Result<Vec<AggregateId>> {
    let mut found = Vec::new();
    let from = after.map(Shard::of);
    let top = layout::open_dir(root, AGGREGATES)?;
    for epoch in numbers(&top, "e")? {
        let Ok(epoch) = u32::try_from(epoch) else {
            continue;
        };
        if from.is_some_and(|f| epoch < f.epoch) {
            continue;
        }
        let Some(groups) = enter(&top, &format!("e{epoch:08x}"))? else {
            continue;
        };
        for group in numbers(&groups, "")? {
            if from.is_some_and(|f| (epoch, group) < (f.epoch, f.group)) {
                continue;
            }
            let Some(leaves) = enter(&groups, &format!("{group:08x}"))? else {
                continue;
            };
            for leaf in numbers(&leaves, "")? {
                let Ok(leaf) = u8::try_from(leaf) else {
                    continue;
                };
                let shard = Shard { epoch, group, leaf };
                if from.is_some_and(|f| shard < f) {
                    continue;
                }
                let Some(dir) = enter(&leaves, &format!("{leaf:02x}"))? else {
                    continue;
                };
                collect(&dir, shard, after, limit, &mut found)?;
                if found.len() >= limit {
                    return Ok(found);
                }
            }
        }
    }
    Ok(found)
}

fn collect(
    dir: &OwnedFd,
    shard: Shard,
    after: Option<AggregateId>,
    limit: usize,
    found: &mut Vec<AggregateId>,
) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        names.extend(
            layout::parse_file(entry?.file_name().to_bytes())
                .filter(|name| Shard::of(*name) == shard && after.is_none_or(|a| *name > a)),
        );
    }
    names.sort_unstable();
    names.truncate(limit.saturating_sub(found.len()));
    found.append(&mut names);
    Ok(())
}

/// The entries of `dir` that are hexadecimal numbers (after `prefix`), ascending.
fn numbers(dir: &OwnedFd, prefix: &str) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let number = entry
            .file_name()
            .to_str()
            .ok()
            .and_then(|name| name.strip_prefix(prefix))
            .and_then(|digits| u64::from_str_radix(digits, 16).ok());
        numbers.extend(number);
    }
    // Two spellings of one number are one directory at most: the caller prints it its own way.
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

/// Opens a directory; `None` if it is not there or no directory (a stranger's file).
fn enter(at: &OwnedFd, name: &str) -> io::Result<Option<OwnedFd>> {
    match layout::open_dir(at, name) {
        Ok(dir) => Ok(Some(dir)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => Ok(None),
        Err(error) => Err(error),
    }
}
