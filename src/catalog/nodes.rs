//! Nodes: found by number, handle or file id; noted in bulk as scans and the changelog see them.

use super::node::{Attributes, Flag, Node, NodeId, Sighting, Trouble};
use super::sql::{self, Code, NODE, all, change, first, handle_key, int};
use super::{Catalog, CatalogError, Durability, names};
use crate::id::{FileId, NodeHandle, Timestamp};
use rusqlite::{Connection, params};

impl Catalog {
    /// Notes the root of the backing directory as [`NodeId::ROOT`]. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn set_root(
        &self,
        handle: &NodeHandle,
        attributes: Attributes,
    ) -> Result<(), CatalogError> {
        let handle = handle_key(handle);
        self.write(Durability::Full, move |connection| {
            let generation = generation(connection)?;
            // Another root under the same catalog (restored backing): its handle is new.
            change(
                connection,
                "DELETE FROM nodes WHERE handle = ? AND id <> 1",
                [&handle],
                "note the root",
                NodeId::ROOT,
            )?;
            change(
                connection,
                "INSERT OR IGNORE INTO nodes (id, handle, kind, mode, uid, gid, size, blocks,
                     nlink, mtime, ctime, atime) VALUES (1, ?, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)",
                [&handle],
                "note the root",
                NodeId::ROOT,
            )?;
            change(
                connection,
                "UPDATE nodes SET handle = ? WHERE id = 1",
                [&handle],
                "note the root",
                NodeId::ROOT,
            )?;
            upsert(connection, &handle, &attributes, generation).map(drop)
        })
    }

    /// Notes what was seen, in one transaction; some thousands at a time are best. New nodes
    /// begin in state none; known ones get the new attributes and keep state, version and flags
    /// (a changed ctime proves nothing, P1). A name that named another node names this one now.
    /// Gives the nodes' numbers in the same order.
    ///
    /// # Errors
    /// [`CatalogError`]; nothing of the batch is noted then.
    pub fn note(
        &self,
        seen: Vec<Sighting>,
        durability: Durability,
    ) -> Result<Vec<NodeId>, CatalogError> {
        self.write_many(seen.len(), durability, move |connection| {
            let generation = generation(connection)?;
            let mut ids = Vec::with_capacity(seen.len());
            for sighting in &seen {
                ids.push(sighted(connection, sighting, generation)?);
            }
            Ok(ids)
        })
    }

    /// A node by its number.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn node(&self, id: NodeId) -> Result<Option<Node>, CatalogError> {
        self.read(|connection| get(connection, id))
    }

    /// A node by its inode.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn node_by_handle(&self, handle: &NodeHandle) -> Result<Option<Node>, CatalogError> {
        self.read(|connection| by_handle(connection, handle))
    }

    /// Nodes by their inodes, as of one moment; those that are not known are left out. Some thousands at
    /// a time are best.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn nodes_by_handles<'h>(
        &self,
        handles: impl IntoIterator<Item = &'h NodeHandle>,
    ) -> Result<Vec<Node>, CatalogError> {
        self.read(|connection| {
            handles
                .into_iter()
                .filter_map(|handle| by_handle(connection, handle).transpose())
                .collect()
        })
    }

    /// The nodes that carry a file id (more than one after a stub was copied), at most 100.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn nodes_by_file(&self, file: FileId) -> Result<Vec<Node>, CatalogError> {
        self.read(|connection| {
            all(
                connection,
                &format!("SELECT {NODE} FROM nodes WHERE file = ? LIMIT 100"),
                [file.0],
                sql::node,
                "find by file",
                file,
            )
        })
    }

    /// Notes reads that the mount told of: (node, when). Unknown nodes are passed over.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn note_access(
        &self,
        reads: Vec<(NodeHandle, Timestamp)>,
        durability: Durability,
    ) -> Result<(), CatalogError> {
        self.post(durability, move |connection| {
            for (handle, at) in &reads {
                change(
                    connection,
                    "UPDATE nodes SET last_access = max(ifnull(last_access, ?2), ?2)
                     WHERE handle = ?1",
                    params![handle_key(handle), at.nanos()],
                    "note a read",
                    format_args!("{handle:?}"),
                )?;
            }
            Ok(())
        })
    }

    /// Notes what is wrong with stubs, or that nothing is. Nodes that are not known are passed over.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn set_trouble(
        &self,
        found: Vec<(NodeId, Option<Trouble>)>,
        durability: Durability,
    ) -> Result<(), CatalogError> {
        self.post(durability, move |connection| {
            for (node, trouble) in &found {
                change(
                    connection,
                    "UPDATE nodes SET trouble = ?2 WHERE id = ?1 AND trouble <> ?2",
                    params![node.0, trouble.map_or(0, Trouble::code)],
                    "note the trouble with",
                    node,
                )?;
            }
            Ok(())
        })
    }

    /// Files with a trouble, in the order of their numbers, from after `after`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn troubled(
        &self,
        trouble: Trouble,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<Vec<Node>, CatalogError> {
        self.read(|connection| {
            all(
                connection,
                &format!(
                    "SELECT {NODE} FROM nodes WHERE trouble = ? AND trouble > 0 AND id > ?
                     ORDER BY id LIMIT ?"
                ),
                params![trouble.code(), after.map_or(0, |n| n.0), sql::page(limit)],
                sql::node,
                "list files in trouble after",
                after.unwrap_or(NodeId::ROOT),
            )
        })
    }

    /// Lost files, in the order of their numbers, from after `after`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn lost_files(
        &self,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<Vec<Node>, CatalogError> {
        self.read(|connection| {
            all(
                connection,
                &format!(
                    "SELECT {NODE} FROM nodes WHERE kind = 0 AND state = 4 AND id > ?
                     ORDER BY id LIMIT ?"
                ),
                params![after.map_or(0, |n| n.0), sql::page(limit)],
                sql::node,
                "list lost files after",
                after.unwrap_or(NodeId::ROOT),
            )
        })
    }

    /// Sets or clears a flag.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn set_flag(
        &self,
        node: NodeId,
        flag: Flag,
        on: bool,
        durability: Durability,
    ) -> Result<(), CatalogError> {
        let sql = match flag {
            Flag::NoArchive => "UPDATE nodes SET noarchive = ? WHERE id = ?",
            Flag::NoRelease => "UPDATE nodes SET norelease = ? WHERE id = ?",
        };
        self.post(durability, move |connection| {
            let rows = change(connection, sql, params![on, node.0], "set a flag", node)?;
            known(rows, "set a flag", node)
        })
    }
}

/// An error if a change found no row.
pub(super) fn known(rows: usize, step: &'static str, node: NodeId) -> Result<(), CatalogError> {
    if rows > 0 {
        return Ok(());
    }
    Err(CatalogError::Missing {
        step,
        object: node.to_string(),
    })
}

/// A node by its inode; it may be unknown.
pub(super) fn by_handle(
    connection: &Connection,
    handle: &NodeHandle,
) -> Result<Option<Node>, CatalogError> {
    first(
        connection,
        &format!("SELECT {NODE} FROM nodes WHERE handle = ?"),
        [handle_key(handle)],
        sql::node,
        "find by handle",
        format_args!("{handle:?}"),
    )
}

/// A node that may be unknown.
pub(super) fn get(connection: &Connection, id: NodeId) -> Result<Option<Node>, CatalogError> {
    first(
        connection,
        &format!("SELECT {NODE} FROM nodes WHERE id = ?"),
        [id.0],
        sql::node,
        "find",
        id,
    )
}

/// The generation that saw the node last; below 0: the first that missed it, where a miss counts;
/// the lowest number for a node that is not known.
pub(super) fn seen(connection: &Connection, id: NodeId) -> Result<i64, CatalogError> {
    let seen = first(
        connection,
        "SELECT seen FROM nodes WHERE id = ?",
        [id.0],
        |row| row.get(0),
        "find",
        id,
    )?;
    Ok(seen.unwrap_or(i64::MIN))
}

/// The generation that whatever is seen now carries.
pub(super) fn generation(connection: &Connection) -> Result<i64, CatalogError> {
    let generation = first(
        connection,
        "SELECT generation FROM scan WHERE id = 1",
        [],
        |row| row.get(0),
        "read generation",
        "scan",
    )?;
    Ok(generation.unwrap_or(0))
}

pub(super) fn sighted(
    connection: &Connection,
    seen: &Sighting,
    generation: i64,
) -> Result<NodeId, CatalogError> {
    let key = handle_key(&seen.handle);
    let id = upsert(connection, &key, &seen.attributes, generation)?;
    if let Some((parent, name)) = &seen.place {
        names::put(connection, *parent, name, id, generation)?;
    }
    Ok(id)
}

fn upsert(
    connection: &Connection,
    handle: &[u8],
    a: &Attributes,
    generation: i64,
) -> Result<NodeId, CatalogError> {
    let id = first(
        connection,
        "INSERT INTO nodes (handle, kind, mode, uid, gid, size, blocks, nlink, mtime, ctime,
             atime, seen) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (handle) DO UPDATE SET kind = excluded.kind, mode = excluded.mode,
             uid = excluded.uid, gid = excluded.gid, size = excluded.size,
             blocks = excluded.blocks, nlink = excluded.nlink, mtime = excluded.mtime,
             ctime = excluded.ctime, atime = excluded.atime, seen = max(seen, excluded.seen)
         RETURNING id",
        params![
            handle,
            a.kind.code(),
            a.mode,
            a.uid,
            a.gid,
            int(a.size),
            int(a.blocks),
            int(a.nlink),
            a.mtime.nanos(),
            a.ctime.nanos(),
            a.atime.nanos(),
            generation
        ],
        |row| row.get(0).map(NodeId),
        "note a node",
        "node",
    )?;
    id.ok_or(CatalogError::Missing {
        step: "note a node",
        object: "node".to_owned(),
    })
}

/// New attributes of a known node.
pub(super) fn set_attributes(
    connection: &Connection,
    node: NodeId,
    a: &Attributes,
) -> Result<(), CatalogError> {
    let rows = change(
        connection,
        "UPDATE nodes SET kind = ?, mode = ?, uid = ?, gid = ?, size = ?, blocks = ?, nlink = ?,
             mtime = ?, ctime = ?, atime = ? WHERE id = ?",
        params![
            a.kind.code(),
            a.mode,
            a.uid,
            a.gid,
            int(a.size),
            int(a.blocks),
            int(a.nlink),
            a.mtime.nanos(),
            a.ctime.nanos(),
            a.atime.nanos(),
            node.0
        ],
        "note attributes",
        node,
    )?;
    known(rows, "note attributes", node)
}
