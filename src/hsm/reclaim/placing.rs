//! Under which names what is kept goes into a new aggregate: decided before a byte is written.
//!
//! Invariants:
//! - The data of a file that is there go in under a name that leads to its inode at this moment, or the
//!   aggregate is left as it is: its old place may be the only one where plain tar finds them.
//! - Aside goes only what is buried, and of which neither a row nor a record says that a file is it.
//! - What is not known is an error, and never a reason to leave a name out.

use super::judge::{Fate, key_of, name_fate};
use super::{Ground, ReclaimError};
use crate::catalog::{FileState, Hold, MemberKey, Node};
use crate::format::aggregate::{Index, IndexEntry};
use crate::format::member::{Kind, MemberPath};
use crate::hsm::backing::{BackingError, How, NodeKind};
use crate::id::{AggregateId, NodeHandle};
use std::collections::HashMap;
use std::os::fd::AsFd;

/// Names of one file that are looked for.
const MOST_NAMES: usize = 1000;

/// What becomes of an entry in the new aggregate.
pub(super) enum Place {
    /// Data of a file that is there, under names that it has; the old one first.
    Named {
        key: MemberKey,
        node: NodeHandle,
        names: Vec<MemberPath>,
    },
    /// Data of a deleted file.
    Aside(MemberKey),
    /// A link, pipe, device or socket that is there.
    Node,
    /// Another name of one of these.
    Link { target: MemberPath },
}

/// Where the entries go that are kept of an aggregate.
pub(super) fn places<'i>(
    ground: &Ground<'_>,
    from: AggregateId,
    (index, fates): (&'i Index, &[Fate]),
) -> Result<Vec<(&'i IndexEntry, Place)>, ReclaimError> {
    let kinds: HashMap<&MemberPath, &Kind> = index
        .entries
        .iter()
        .map(|entry| (&entry.member.path, &entry.member.kind))
        .collect();
    let mut found = Vec::new();
    for (entry, fate) in index.entries.iter().zip(fates) {
        let Fate::Kept(hold) = fate else { continue };
        ground.go_on()?;
        let place = match (&entry.member.kind, key_of(entry)) {
            (Kind::Regular { .. }, Some(key)) => Some(data(ground, from, (entry, key), *hold)?),
            (Kind::Regular { .. }, None) => return Err(unplaced(from, "it says not whose it is")),
            // The names that a file has are asked of the namespace: what was one of them may be
            // another file's by now.
            (Kind::HardLink { target }, _) => match kinds.get(target) {
                Some(Kind::Regular { .. }) | None => None,
                Some(_) => {
                    is_same(ground, from, &entry.member.path, target)?.then(|| Place::Link {
                        target: target.clone(),
                    })
                }
            },
            _ => match name_fate(ground, entry) {
                Fate::Kept(Hold::Name) => Some(Place::Node),
                Fate::Kept(_) => return Err(unplaced(from, "a name cannot be looked at")),
                Fate::Gone | Fate::Moved => None,
            },
        };
        found.extend(place.map(|place| (entry, place)));
    }
    Ok(found)
}

/// An aggregate of which something has no place is left alone.
pub(super) fn unplaced(aggregate: AggregateId, why: impl ToString) -> ReclaimError {
    ReclaimError::Unplaced {
        aggregate,
        why: why.to_string(),
    }
}

fn data(
    ground: &Ground<'_>,
    from: AggregateId,
    (entry, key): (&IndexEntry, MemberKey),
    hold: Hold,
) -> Result<Place, ReclaimError> {
    let (file, version) = key;
    let mut holders = ground.catalog.nodes_by_file(file)?;
    holders.retain(|node| node.version.is_some_and(|v| v.version == version));
    // Changed since: these are its newest data that lie anywhere, unless there are later ones.
    let newest = !ground.catalog.has_later_copies(key)?;
    holders.retain(|node| node.state != FileState::Dirty || newest);
    holders.sort_by_key(|node| (node.state == FileState::Dirty, node.id));
    let mut all_gone = true;
    for node in &holders {
        let (names, gone) = names(ground, from, node, &entry.member.path)?;
        all_gone &= gone;
        if !names.is_empty() {
            let node = node.handle.clone();
            return Ok(Place::Named { key, node, names });
        }
    }
    let held = holders.iter().any(|node| node.state != FileState::Dirty);
    if held || !all_gone {
        return Err(unplaced(from, format!("{file} has no name that is known")));
    }
    // Records that name it are files that the catalog does not know by it.
    let buried = matches!(hold, Hold::Young | Hold::Unscanned);
    if !buried || ground.catalog.died(key)?.is_none() {
        let why = format!("whether {file} is deleted is not known ({hold:?})");
        return Err(unplaced(from, why));
    }
    Ok(Place::Aside(key))
}

/// The names that an inode has now, `old` first; and whether it is gone.
fn names(
    ground: &Ground<'_>,
    from: AggregateId,
    node: &Node,
    old: &MemberPath,
) -> Result<(Vec<MemberPath>, bool), ReclaimError> {
    let backing = ground.backing;
    let mut names = Vec::new();
    for name in ground.catalog.all_names(node.id, MOST_NAMES)? {
        let Some(name) = member_path(name) else {
            continue;
        };
        // The catalog may lag behind a rename.
        let leads = backing.is_name_of(name.as_bytes(), &node.handle);
        if leads.map_err(|why| unplaced(from, why))? {
            names.push(name);
        }
    }
    if names.is_empty() {
        match backing.open_node(&node.handle, None, How::Path) {
            Ok(fd) => {
                let name = backing.path_of(fd.as_fd());
                names.extend(name.ok().and_then(member_path));
            }
            Err(BackingError::Gone { .. }) => return Ok((names, true)),
            Err(why) => return Err(unplaced(from, why)),
        }
    }
    names.sort_by_key(|name| (name != old, name.clone()));
    Ok((names, false))
}

fn member_path(name: Vec<u8>) -> Option<MemberPath> {
    MemberPath::new(name)
        .ok()
        .filter(|name| !name.as_bytes().is_empty())
}

/// Are both names of one inode that is neither a file with data nor a directory?
fn is_same(
    ground: &Ground<'_>,
    from: AggregateId,
    link: &MemberPath,
    target: &MemberPath,
) -> Result<bool, ReclaimError> {
    let look = |path: &MemberPath| match ground.backing.open_beneath(path.as_bytes()) {
        Ok(fd) => match ground.backing.stat(fd.as_fd()) {
            Ok(stat) => Ok(Some(stat)),
            Err(why) => Err(unplaced(from, why)),
        },
        Err(why) if super::judge::is_absent(&why) => Ok(None),
        Err(why) => Err(unplaced(from, why)),
    };
    let (Some(link), Some(target)) = (look(link)?, look(target)?) else {
        return Ok(false);
    };
    let special = !matches!(link.kind, NodeKind::Directory | NodeKind::Regular);
    Ok(special && (link.dev, link.ino) == (target.dev, target.ino))
}
