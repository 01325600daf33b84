//! The end of versions and nodes: tombstones, and what copies and aggregates lose by them.
//!
//! Invariants: a (file, version) has at most one tombstone, as old as its latest end; an aggregate's
//! live counts are those of the copies in it that are live.

use super::node::{NodeId, Version};
use super::sql::{Code, all, change, first, int};
use super::{CatalogError, TombstoneWhy, incarnation, nodes};
use crate::id::{DataVersion, FileId, Timestamp};
use rusqlite::{Connection, params};

/// Writes the tombstone of the version that `node` had, and retires its copies. One that is there
/// already was of an end that was none (a file that was taken for changed, and was then released as
/// what it is, say), or that now is sure: what it keeps is kept from now on (P8).
pub(super) fn bury(
    connection: &Connection,
    node: NodeId,
    version: &Version,
    why: TombstoneWhy,
    path: &[u8],
    uid: u32,
    now: Timestamp,
) -> Result<(), CatalogError> {
    // A copied stub shares its version with the original until it is adopted: while another node
    // needs it, nothing has ended.
    let needed = first(
        connection,
        "SELECT 1 FROM nodes WHERE file = ? AND version = ? AND id <> ? AND state <> 2 LIMIT 1",
        params![version.file.0, int(version.version.0), node.0],
        |_| Ok(()),
        "look for other holders",
        version.file,
    )?;
    if needed.is_some() {
        return Ok(());
    }
    change(
        connection,
        "INSERT INTO tombstones (file, version, at, why, epoch, path, uid)
         VALUES (?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (file, version) DO UPDATE SET at = max(at, excluded.at), why = excluded.why,
             epoch = excluded.epoch, path = excluded.path, uid = excluded.uid",
        params![
            version.file.0,
            int(version.version.0),
            now.nanos(),
            why.code(),
            incarnation::epoch(connection)?,
            path,
            uid
        ],
        "write a tombstone",
        version.file,
    )?;
    set_live(connection, version.file, version.version, false)
}

/// A record that names this version is there again: its tombstone was wrong.
pub(super) fn unearth(
    connection: &Connection,
    file: FileId,
    version: DataVersion,
) -> Result<(), CatalogError> {
    change(
        connection,
        "DELETE FROM tombstones WHERE file = ? AND version = ?",
        params![file.0, int(version.0)],
        "remove a tombstone",
        file,
    )?;
    set_live(connection, file, version, true)
}

/// Makes a version's copies count, or not count, in their aggregates.
fn set_live(
    connection: &Connection,
    file: FileId,
    version: DataVersion,
    live: bool,
) -> Result<(), CatalogError> {
    let key = params![file.0, int(version.0), !live];
    let copies = all(
        connection,
        "SELECT tier, epoch, seq, stored_len FROM copies
         WHERE file = ? AND version = ? AND live = ?",
        key,
        |row| {
            let place: (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok((place, row.get::<_, i64>(3)?))
        },
        "find copies",
        file,
    )?;
    let sign = if live { 1 } else { -1 };
    for ((tier, epoch, seq), bytes) in copies {
        change(
            connection,
            "UPDATE aggregates SET live_members = live_members + ?, live_bytes = live_bytes + ?
             WHERE tier = ? AND epoch = ? AND seq = ?",
            params![sign, sign * bytes, tier, epoch, seq],
            "count live members",
            file,
        )?;
    }
    change(
        connection,
        "UPDATE copies SET live = NOT live WHERE file = ? AND version = ? AND live = ?",
        key,
        "retire copies",
        file,
    )
    .map(drop)
}

/// Forgets a node with its names, pins and rescan mark; its version leaves a tombstone. `false`: it is
/// not known.
pub(super) fn forget(
    connection: &Connection,
    node: NodeId,
    why: TombstoneWhy,
    path: &[u8],
    now: Timestamp,
) -> Result<bool, CatalogError> {
    let Some(row) = nodes::get(connection, node)? else {
        return Ok(false);
    };
    if let Some(version) = &row.version {
        bury(
            connection,
            node,
            version,
            why,
            path,
            row.attributes.uid,
            now,
        )?;
    }
    for sql in [
        "DELETE FROM names WHERE node = ?",
        "DELETE FROM names WHERE parent = ?",
        "DELETE FROM pins WHERE node = ?",
        "DELETE FROM rescans WHERE node = ?",
        "DELETE FROM nodes WHERE id = ?",
    ] {
        change(connection, sql, [node.0], "forget", node)?;
    }
    Ok(true)
}

/// Counts again how many tiers hold a good copy of the node's present version.
pub(super) fn recount(connection: &Connection, node: NodeId) -> Result<(), CatalogError> {
    change(
        connection,
        "UPDATE nodes SET copies = (SELECT count(DISTINCT tier) FROM copies
             WHERE copies.file = nodes.file AND copies.version = nodes.version
                 AND copies.state = 0)
         WHERE id = ?",
        [node.0],
        "count copies",
        node,
    )
    .map(drop)
}
