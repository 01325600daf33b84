//! The scan that a rebuild makes, and what must be settled before it: copies that only records tell
//! of, and rows that an earlier sweep left while a tier was away.
//!
//! # Invariants
//! - A sweep counts only while the rebuild alone has this catalog: once another incarnation had it, or
//!   another tier was read to its end, everything is looked at again.
//! - Where a tier is read, a copy that only a record tells of is suspect from the beginning of the
//!   reading until an index bears it out.

use super::super::node::NodeId;
use super::super::sql::{Code, all, change, first, int, page, uint};
use super::super::{
    Catalog, CatalogError, Copy, CopyState, Durability, FileState, incarnation, scan, tombs,
};
use crate::id::{AggregateId, DataVersion, FileId, TierId, Timestamp};
use rusqlite::{Connection, params};

/// The last sweep of a rebuild.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RebuildSweep {
    /// The scan's generation; 0: none counts.
    pub generation: u64,
    /// The tiers of which all was read by then, ascending.
    pub tiers: Vec<TierId>,
}

impl Catalog {
    /// The running incarnation, with its epoch as it is now, is the rebuild's; the epoch. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn hold_rebuild(&self) -> Result<u32, CatalogError> {
        self.write(Durability::Full, |connection| {
            let epoch = incarnation::epoch(connection)?;
            change(
                connection,
                "UPDATE rebuild SET epoch = ? WHERE id = 1",
                [epoch],
                "hold",
                "rebuild",
            )?;
            Ok(epoch)
        })
    }

    /// The sweep that counts, if any.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn rebuild_sweep(&self) -> Result<RebuildSweep, CatalogError> {
        self.read(|connection| {
            let found = first(
                connection,
                "SELECT sweep, swept_with FROM rebuild WHERE id = 1",
                [],
                |row| {
                    let tiers: Vec<u8> = row.get("swept_with")?;
                    let number = |b: &[u8]| b.try_into().map(u32::from_le_bytes).ok().map(TierId);
                    Ok(RebuildSweep {
                        generation: uint(row, "sweep")?,
                        tiers: tiers.chunks(4).filter_map(number).collect(),
                    })
                },
                "find the sweep of",
                "rebuild",
            )?;
            Ok(found.unwrap_or_default())
        })
    }

    /// Begins the rebuild's scan of everything, with all of `tiers` read, and gives its generation.
    /// Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn begin_rebuild_sweep(
        &self,
        tiers: &[TierId],
        now: Timestamp,
    ) -> Result<u64, CatalogError> {
        let tiers: Vec<u8> = tiers.iter().flat_map(|t| t.0.to_le_bytes()).collect();
        self.write(Durability::Full, move |connection| {
            let generation = scan::begin(connection, now)?;
            change(
                connection,
                "UPDATE rebuild SET sweep = ?, swept_with = ? WHERE id = 1",
                params![int(generation), tiers],
                "begin the sweep of",
                "rebuild",
            )?;
            Ok(generation)
        })
    }

    /// A tier is about to be read: what the catalog has of it is suspect until an index says so. No
    /// effect on one whose reading has begun. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn begin_tier(&self, tier: TierId) -> Result<(), CatalogError> {
        self.write(Durability::Full, move |connection| {
            let begun = change(
                connection,
                "INSERT OR IGNORE INTO rebuild_tiers VALUES (?, 0, 0, 0, 0, 0, 0)",
                [tier.0],
                "begin to read",
                tier,
            )?;
            if begun > 0 {
                change(
                    connection,
                    "UPDATE copies SET state = 1 WHERE tier = ? AND state = 0",
                    [tier.0],
                    "doubt the copies on",
                    tier,
                )?;
            }
            Ok(())
        })
    }

    /// Up to `limit` nodes from after `after`: the copies that indexes were found to hold of the
    /// versions that they have are live, and counted. Where to go on; `None`: that was all.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn join_learned(
        &self,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<Option<NodeId>, CatalogError> {
        let after = after.map_or(i64::MIN, |node| node.0);
        self.write_many(limit, Durability::Relaxed, move |connection| {
            let nodes = all(
                connection,
                "SELECT id, file, version, state FROM nodes WHERE id > ? ORDER BY id LIMIT ?",
                params![after, page(limit)],
                |row| {
                    let file: Option<[u8; 16]> = row.get("file")?;
                    let version: Option<i64> = row.get("version")?;
                    Ok((NodeId(row.get("id")?), file, version, row.get("state")?))
                },
                "look for files after",
                after,
            )?;
            for (node, file, version, state) in &nodes {
                let (Some(file), Some(version)) = (file, version) else {
                    continue;
                };
                let state: i64 = *state;
                if state != FileState::Dirty.code() {
                    let version = DataVersion(u64::try_from(*version).unwrap_or(0));
                    tombs::set_live(connection, FileId(*file), version, true)?;
                }
                tombs::recount(connection, *node)?;
            }
            let full = int(nodes.len() as u64) == page(limit);
            Ok(nodes.last().map(|n| n.0).filter(|_| full))
        })
    }

    /// Suspect copies that are where a record says: an index bears them out.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn bear_out(&self, node: NodeId, copies: Vec<Copy>) -> Result<(), CatalogError> {
        self.write(Durability::Relaxed, move |connection| {
            for copy in &copies {
                amend(connection, copy)?;
            }
            tombs::recount(connection, node)
        })
    }

    /// Up to `limit` regular files from after `after` of which no version is known.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn unknown_files(
        &self,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<Vec<NodeId>, CatalogError> {
        let after = after.map_or(i64::MIN, |node| node.0);
        self.read(|connection| {
            all(
                connection,
                "SELECT id FROM nodes WHERE id > ? AND kind = 0 AND version IS NULL
                 ORDER BY id LIMIT ?",
                params![after, page(limit)],
                |row| Ok(NodeId(row.get(0)?)),
                "look for unknown files after",
                after,
            )
        })
    }
}

/// Another incarnation had the catalog since: no sweep counts, and tiers that were not read to their end
/// are read from their beginning.
pub(super) fn leave_if_served(connection: &Connection) -> Result<(), CatalogError> {
    let left = change(
        connection,
        "UPDATE rebuild SET sweep = 0
         WHERE id = 1 AND epoch <> (SELECT epoch FROM instance WHERE id = 1)",
        [],
        "take up",
        "rebuild",
    )?;
    if left > 0 {
        change(
            connection,
            "DELETE FROM rebuild_tiers WHERE complete = 0",
            [],
            "take up",
            "rebuild",
        )?;
    }
    Ok(())
}

/// What an index says of a copy that is known already. `true`: it was known otherwise.
pub(super) fn amend(connection: &Connection, copy: &Copy) -> Result<bool, CatalogError> {
    let AggregateId { epoch, seq } = copy.aggregate;
    let key = (
        copy.file.0,
        int(copy.version.0),
        copy.tier.0,
        epoch,
        int(seq),
    );
    let known: Option<(i64, i64, u32, i64, bool)> = first(
        connection,
        "SELECT header, stored_len, crc, state, live FROM copies
         WHERE file = ? AND version = ? AND tier = ? AND epoch = ? AND seq = ?",
        key,
        |row| {
            Ok((
                row.get(0)?,
                row.get(1)?,
                row.get(2)?,
                row.get(3)?,
                row.get(4)?,
            ))
        },
        "find a copy of",
        copy.file,
    )?;
    let Some((header, stored_len, crc, state, live)) = known else {
        return Ok(false);
    };
    // What was found bad, or was given up, stays so.
    let open = [CopyState::Good.code(), CopyState::Suspect.code()].contains(&state);
    let wanted = if open { copy.state.code() } else { state };
    let told = (int(copy.header), int(copy.stored_len), copy.crc.0, wanted);
    if told == (header, stored_len, crc, state) {
        return Ok(false);
    }
    change(
        connection,
        "UPDATE copies SET header = ?6, stored_len = ?7, crc = ?8, state = ?9
         WHERE file = ?1 AND version = ?2 AND tier = ?3 AND epoch = ?4 AND seq = ?5",
        params![
            key.0, key.1, key.2, key.3, key.4, told.0, told.1, told.2, told.3
        ],
        "amend a copy of",
        copy.file,
    )?;
    let more = told.1 - stored_len;
    change(
        connection,
        "UPDATE aggregates SET bytes = bytes + ?, live_bytes = live_bytes + ?
         WHERE tier = ? AND epoch = ? AND seq = ?",
        params![more, if live { more } else { 0 }, key.2, key.3, key.4],
        "count the bytes of",
        copy.aggregate,
    )?;
    Ok(true)
}
