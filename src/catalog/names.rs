//! Names: (directory, name) to node; paths are walked up, never stored.

use super::node::{FileKind, Node, NodeId, Sighting};
use super::sql::{self, NODE, all, change, first, page};
use super::{Catalog, CatalogError, Durability, Rescan, TombstoneWhy, nodes, scan, tombs};
use crate::id::{NodeHandle, Timestamp};
use rusqlite::{Connection, params};
use std::collections::HashMap;
use std::collections::hash_map;

/// Directories above one another that are believed; deeper is a circle of links.
const DEPTH: usize = 100_000;

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name, bytes without `/`.
    pub name: Vec<u8>,
    /// What it names.
    pub node: Node,
}

/// Answer to [`Catalog::unlink`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unlinked {
    /// What the name named.
    pub node: NodeId,
    /// The node was forgotten with it (and a tombstone left, if it had copies).
    pub forgotten: bool,
}

impl Catalog {
    /// What a name names.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn lookup(&self, parent: NodeId, name: &[u8]) -> Result<Option<NodeId>, CatalogError> {
        self.read(|connection| find(connection, parent, name))
    }

    /// One known path of a node, bytes relative to the root (empty: the root); `None` if no name
    /// of it, or of a directory above it, is known.
    ///
    /// # Errors
    /// [`CatalogError::Damaged`] if the links run in a circle.
    pub fn path_of(&self, node: NodeId) -> Result<Option<Vec<u8>>, CatalogError> {
        self.read(|connection| path(connection, node))
    }

    /// All known paths of a node, at most `limit`, in no order that means anything.
    ///
    /// # Errors
    /// As [`Catalog::path_of`].
    pub fn all_names(&self, node: NodeId, limit: usize) -> Result<Vec<Vec<u8>>, CatalogError> {
        self.read(|connection| names(connection, node, limit, &mut HashMap::new()))
    }

    /// The entries of a directory in the order of their bytes, from after `after`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn children(
        &self,
        parent: NodeId,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry>, CatalogError> {
        self.read(|connection| children(connection, parent, after, limit))
    }

    /// Notes a further name of a known node. A name that named another node names this one now.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn link(
        &self,
        parent: NodeId,
        name: &[u8],
        node: NodeId,
        durability: Durability,
    ) -> Result<(), CatalogError> {
        let name = name.to_vec();
        self.post(durability, move |connection| {
            let generation = nodes::generation(connection)?;
            put(connection, parent, &name, node, generation)
        })
    }

    /// Notes that a name moved. What the new name named before loses it (and is forgotten, with
    /// a tombstone, if that was its last). Nothing happens if the old name is not known.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn rename(
        &self,
        from: (NodeId, &[u8]),
        to: (NodeId, &[u8]),
        now: Timestamp,
        durability: Durability,
    ) -> Result<(), CatalogError> {
        let (from, to) = ((from.0, from.1.to_vec()), (to.0, to.1.to_vec()));
        self.post(durability, move |connection| {
            moved(connection, &from, &to, false, now)
        })
    }

    /// Notes that a name went. If the inode is known to live on (`alive`: another name, or the
    /// caller saw it), only the name goes; else, when it was the last one, the node is forgotten
    /// and leaves a tombstone. `None`: the name was not known.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn unlink(
        &self,
        parent: NodeId,
        name: &[u8],
        alive: bool,
        now: Timestamp,
        durability: Durability,
    ) -> Result<Option<Unlinked>, CatalogError> {
        let name = name.to_vec();
        self.write(durability, move |connection| {
            unlinked(connection, (parent, &name), alive, now)
        })
    }

    /// Notes changes of the namespace in their order, in one transaction, one after the
    /// other (see [`NameChange`]). A directory that is seen while a scan is under way is marked for
    /// another look: it may have moved past it, and what lies in it with it. Some thousands at a
    /// time are best. Returns once readers can see them.
    ///
    /// # Errors
    /// [`CatalogError`]; nothing of the batch is noted then.
    pub fn note_changes(
        &self,
        changes: Vec<NameChange>,
        now: Timestamp,
        durability: Durability,
    ) -> Result<(), CatalogError> {
        self.write_many(changes.len(), durability, move |connection| {
            let generation = nodes::generation(connection)?;
            let unsettled = scan::is_unsettled(connection)?;
            for change in &changes {
                match change {
                    NameChange::Seen(sighting) => {
                        let node = nodes::sighted(connection, sighting, generation)?;
                        if unsettled && sighting.attributes.kind == FileKind::Directory {
                            moved_meanwhile(connection, node, now)?;
                        }
                    }
                    NameChange::Moved { node, from, to } => {
                        let there = find(connection, from.0, &from.1)?;
                        let known = nodes::by_handle(connection, node)?.map(|n| n.id);
                        // The other half of an exchange has taken the name, perhaps.
                        if there.is_some() && there == known {
                            moved(connection, from, to, true, now)?;
                        }
                    }
                    NameChange::Gone { name, alive } => {
                        unlinked(connection, (name.0, &name.1), *alive, now)?;
                    }
                }
            }
            Ok(())
        })
    }
}

/// One change of the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameChange {
    /// A node, with a name or without.
    Seen(Sighting),
    /// A name moved. What the new name named before loses it and lives on: an exchange gives it
    /// another, and what a rename really replaces has its own [`NameChange::Gone`] before this.
    /// Nothing happens if the old name is not known as the node's.
    Moved {
        /// What it names.
        node: NodeHandle,
        /// Directory and name before.
        from: (NodeId, Vec<u8>),
        /// Directory and name since.
        to: (NodeId, Vec<u8>),
    },
    /// A name went.
    Gone {
        /// Directory and name.
        name: (NodeId, Vec<u8>),
        /// The inode is known to live on.
        alive: bool,
    },
}

/// What lies in the directory is in none of the lists that the scan reads, perhaps.
fn moved_meanwhile(
    connection: &Connection,
    node: NodeId,
    now: Timestamp,
) -> Result<(), CatalogError> {
    let mark = Rescan {
        node,
        since: now,
        why: "it came or moved while a scan was under way".to_owned(),
    };
    scan::mark(connection, &[mark])
}

/// `alive`: what the new name named before is not gone with it.
fn moved(
    connection: &Connection,
    from: &(NodeId, Vec<u8>),
    to: &(NodeId, Vec<u8>),
    alive: bool,
    now: Timestamp,
) -> Result<(), CatalogError> {
    let Some(node) = find(connection, from.0, &from.1)? else {
        return Ok(());
    };
    let replaced = find(connection, to.0, &to.1)?;
    if replaced == Some(node) {
        // Two names of one inode: rename(2) leaves both.
        return Ok(());
    }
    if let Some(other) = replaced {
        drop_name(connection, to.0, &to.1, other, alive, now)?;
    }
    take(connection, from.0, &from.1)?;
    let generation = nodes::generation(connection)?;
    put(connection, to.0, &to.1, node, generation)
}

fn unlinked(
    connection: &Connection,
    (parent, name): (NodeId, &[u8]),
    alive: bool,
    now: Timestamp,
) -> Result<Option<Unlinked>, CatalogError> {
    let Some(node) = find(connection, parent, name)? else {
        return Ok(None);
    };
    let forgotten = drop_name(connection, parent, name, node, alive, now)?;
    Ok(Some(Unlinked { node, forgotten }))
}

/// The entries of a directory in the order of their bytes, from after `after`.
pub(super) fn children(
    connection: &Connection,
    parent: NodeId,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<Entry>, CatalogError> {
    // No name is empty, so everything sorts after the empty one.
    all(
        connection,
        &format!(
            "SELECT {NODE}, names.name AS entry FROM names
             JOIN nodes ON nodes.id = names.node
             WHERE names.parent = ? AND names.name > ? ORDER BY names.name LIMIT ?"
        ),
        params![parent.0, after.unwrap_or_default(), page(limit)],
        |row| {
            Ok(Entry {
                name: row.get("entry")?,
                node: sql::node(row)?,
            })
        },
        "list the directory",
        parent,
    )
}

pub(super) fn find(
    connection: &Connection,
    parent: NodeId,
    name: &[u8],
) -> Result<Option<NodeId>, CatalogError> {
    first(
        connection,
        "SELECT node FROM names WHERE parent = ? AND name = ?",
        params![parent.0, name],
        |row| row.get(0).map(NodeId),
        "look up",
        parent,
    )
}

/// Sets what a name names.
pub(super) fn put(
    connection: &Connection,
    parent: NodeId,
    name: &[u8],
    node: NodeId,
    generation: i64,
) -> Result<(), CatalogError> {
    change(
        connection,
        "INSERT INTO names (parent, name, node, seen) VALUES (?, ?, ?, ?)
         ON CONFLICT (parent, name) DO UPDATE SET node = excluded.node, seen = excluded.seen",
        params![parent.0, name, node.0, generation],
        "note a name",
        parent,
    )
    .map(drop)
}

fn take(connection: &Connection, parent: NodeId, name: &[u8]) -> Result<(), CatalogError> {
    change(
        connection,
        "DELETE FROM names WHERE parent = ? AND name = ?",
        params![parent.0, name],
        "drop a name",
        parent,
    )
    .map(drop)
}

/// Some names of a node: (directory, name).
fn places(
    connection: &Connection,
    node: NodeId,
    limit: i64,
) -> Result<Vec<(NodeId, Vec<u8>)>, CatalogError> {
    all(
        connection,
        "SELECT parent, name FROM names WHERE node = ? LIMIT ?",
        params![node.0, limit],
        |row| Ok((NodeId(row.get(0)?), row.get(1)?)),
        "find names",
        node,
    )
}

/// A directory in which the node has a name.
pub(super) fn a_parent(
    connection: &Connection,
    node: NodeId,
) -> Result<Option<NodeId>, CatalogError> {
    Ok(places(connection, node, 1)?.pop().map(|(parent, _)| parent))
}

/// One path of a node, walked up.
pub(super) fn path(connection: &Connection, node: NodeId) -> Result<Option<Vec<u8>>, CatalogError> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut at = node;
    while at != NodeId::ROOT {
        let Some((parent, name)) = places(connection, at, 1)?.pop() else {
            return Ok(None);
        };
        names.push(name);
        at = parent;
        if names.len() > DEPTH {
            return Err(CatalogError::Damaged {
                object: node.to_string(),
                why: "its directories contain each other".to_owned(),
            });
        }
    }
    names.reverse();
    Ok(Some(names.join(&b'/')))
}

/// One path of a node, or the one that it had last: for its tombstone.
pub(super) fn last_path(
    connection: &Connection,
    node: NodeId,
) -> Result<Option<Vec<u8>>, CatalogError> {
    let mut below: Vec<Vec<u8>> = Vec::new();
    let mut at = node;
    let top = loop {
        if at == NodeId::ROOT || below.len() > DEPTH {
            break None;
        }
        if let Some((parent, name)) = places(connection, at, 1)?.pop() {
            below.push(name);
            at = parent;
            continue;
        }
        let kept = first(
            connection,
            "SELECT path FROM last_paths WHERE node = ?",
            [at.0],
            |row| row.get::<_, Vec<u8>>(0),
            "find the last path of",
            at,
        )?;
        match kept {
            Some(path) => break Some(path),
            None => return Ok(None),
        }
    };
    below.extend(top);
    below.reverse();
    Ok(Some(below.join(&b'/')))
}

/// These names are gone from a directory, and what had them may be.
pub(super) fn keep_last_paths(
    connection: &Connection,
    directory: NodeId,
    dropped: &[(NodeId, Vec<u8>)],
) -> Result<(), CatalogError> {
    if dropped.is_empty() {
        return Ok(());
    }
    let Some(above) = last_path(connection, directory)? else {
        return Ok(());
    };
    for (node, name) in dropped {
        change(
            connection,
            "INSERT OR REPLACE INTO last_paths VALUES (?, ?)",
            params![node.0, join(above.clone(), name)],
            "keep the last path of",
            node,
        )?;
    }
    Ok(())
}

/// All known paths of a node, at most `limit`. `directories`: paths of directories that were found before
/// in the same transaction.
pub(super) fn names(
    connection: &Connection,
    node: NodeId,
    limit: usize,
    directories: &mut HashMap<NodeId, Option<Vec<u8>>>,
) -> Result<Vec<Vec<u8>>, CatalogError> {
    let places = places(connection, node, page(limit))?;
    let mut paths = Vec::with_capacity(places.len());
    for (parent, name) in places {
        if let hash_map::Entry::Vacant(new) = directories.entry(parent) {
            new.insert(path(connection, parent)?);
        }
        if let Some(Some(directory)) = directories.get(&parent) {
            paths.push(join(directory.clone(), &name));
        }
    }
    Ok(paths)
}

fn join(mut directory: Vec<u8>, name: &[u8]) -> Vec<u8> {
    if !directory.is_empty() {
        directory.push(b'/');
    }
    directory.extend_from_slice(name);
    directory
}

/// Drops a name; `true`: the node had no other, was not alive otherwise, and is forgotten.
fn drop_name(
    connection: &Connection,
    parent: NodeId,
    name: &[u8],
    node: NodeId,
    alive: bool,
    now: Timestamp,
) -> Result<bool, CatalogError> {
    let last_path = last_path(connection, parent)?.map(|directory| join(directory, name));
    take(connection, parent, name)?;
    if alive || !places(connection, node, 1)?.is_empty() {
        return Ok(false);
    }
    let path = last_path.unwrap_or_default();
    tombs::forget(connection, node, TombstoneWhy::Unlink, &path, now)
}
