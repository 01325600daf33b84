//! The background scan's position, subtrees that need another look, and the changelog's.
//!
//! A scan has a generation. Whatever is noted while it runs carries it, so that afterwards what
//! does not is known to be gone.

use super::node::NodeId;
use super::sql::{all, change, first, int, maybe_time, page, some_time, uint};
use super::{Catalog, CatalogError, Durability, TombstoneWhy, incarnation, names, tombs};
use crate::id::Timestamp;
use rusqlite::{Connection, params};

/// Where the background scan stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScanState {
    /// Generation of the running scan, or of the last one; 0: none ever began.
    pub generation: u64,
    /// When it began.
    pub begun_at: Option<Timestamp>,
    /// Epoch under which it began.
    pub epoch: u32,
    /// It has not finished.
    pub running: bool,
    /// Where it stands, in the scanner's own words; empty at the beginning.
    pub position: Vec<u8>,
    /// Files and directories seen so far.
    pub seen: u64,
    /// Generation of the last scan that finished; 0: none did.
    pub finished_generation: u64,
    /// When that one began: P8 asks for a scan begun after a tombstone.
    pub finished_begun_at: Option<Timestamp>,
    /// Epoch under which it began.
    pub finished_epoch: u32,
    /// When it finished.
    pub finished_at: Option<Timestamp>,
}

/// A subtree that must be looked at again: changelog records about it were lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rescan {
    /// Its directory.
    pub node: NodeId,
    /// Since when.
    pub since: Timestamp,
    /// Why, for people.
    pub why: String,
}

/// The changelog's counters since the catalog was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct ChangelogState {
    /// Number of the last event that was applied.
    pub position: u64,
    /// Events applied.
    pub applied: u64,
    /// Events lost to overflow (their subtrees were marked for a rescan).
    pub lost: u64,
    /// Overflows.
    pub overflows: u64,
}

/// Answer to [`Catalog::sweep_vanished`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// Nodes forgotten by this call.
    pub forgotten: u64,
    /// Where to go on; `None`: all were looked at.
    pub next: Option<NodeId>,
}

impl Catalog {
    /// Begins a scan from the beginning and gives its generation. A scan that was running is
    /// given up. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn begin_scan(&self, now: Timestamp) -> Result<u64, CatalogError> {
        self.write(Durability::Full, move |connection| {
            let epoch = incarnation::epoch(connection)?;
            let generation = first(
                connection,
                "UPDATE scan SET generation = generation + 1, begun_at = ?, epoch = ?,
                     running = 1, position = x'', seen = 0 WHERE id = 1 RETURNING generation",
                params![now.nanos(), epoch],
                |row| uint(row, "generation"),
                "begin",
                "scan",
            )?;
            generation.ok_or(CatalogError::Missing {
                step: "begin",
                object: "scan".to_owned(),
            })
        })
    }

    /// Keeps the running scan's position. It becomes durable no later than the nodes noted
    /// before it.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn save_scan_position(&self, position: Vec<u8>, seen: u64) -> Result<(), CatalogError> {
        self.post(Durability::Relaxed, move |connection| {
            change(
                connection,
                "UPDATE scan SET position = ?, seen = ? WHERE id = 1 AND running = 1",
                params![position, int(seen)],
                "save the position",
                "scan",
            )
            .map(drop)
        })
    }

    /// The running scan has seen everything. Durable. Call [`Catalog::sweep_vanished`] after it.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn finish_scan(&self, now: Timestamp) -> Result<(), CatalogError> {
        self.write(Durability::Full, move |connection| {
            change(
                connection,
                "UPDATE scan SET running = 0, position = x'', finished_generation = generation,
                     finished_begun_at = begun_at, finished_epoch = epoch, finished_at = ?
                 WHERE id = 1 AND running = 1",
                [now.nanos()],
                "finish",
                "scan",
            )
            .map(drop)
        })
    }

    /// Where the scan stands.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn scan_state(&self) -> Result<ScanState, CatalogError> {
        self.read(state)
    }

    /// A directory was read to its end in this generation: names of it that were not seen go.
    /// Their nodes stay until the sweep, because they may have moved elsewhere. At most `limit`
    /// names at a time; call again until it gives 0.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn finish_directory(
        &self,
        directory: NodeId,
        generation: u64,
        limit: usize,
    ) -> Result<u64, CatalogError> {
        self.write(Durability::Relaxed, move |connection| {
            let gone = change(
                connection,
                "DELETE FROM names WHERE parent = ?1 AND name IN
                     (SELECT name FROM names WHERE parent = ?1 AND seen < ?2 LIMIT ?3)",
                params![directory.0, int(generation), page(limit)],
                "drop names that are gone",
                directory,
            )?;
            Ok(gone as u64)
        })
    }

    /// Looks at up to `limit` nodes from after `after` and forgets, with tombstones, those that
    /// neither the finished generation nor anything later saw. Background work: run it to its end
    /// after [`Catalog::finish_scan`].
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn sweep_vanished(
        &self,
        generation: u64,
        after: Option<NodeId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Swept, CatalogError> {
        let after = after.unwrap_or(NodeId::ROOT);
        self.write_many(Durability::Relaxed, move |connection| {
            let looked_at = all(
                connection,
                "SELECT id, seen FROM nodes WHERE id > ? ORDER BY id LIMIT ?",
                params![after.0, page(limit)],
                |row| Ok((NodeId(row.get(0)?), uint(row, "seen")?)),
                "look for vanished nodes after",
                after,
            )?;
            let next = (int(looked_at.len() as u64) == page(limit))
                .then(|| looked_at.last().map(|(id, _)| *id))
                .flatten();
            let mut forgotten = 0;
            for (node, _) in looked_at.iter().filter(|(_, seen)| *seen < generation) {
                let path = names::path(connection, *node)?.unwrap_or_default();
                let gone = tombs::forget(connection, *node, TombstoneWhy::Unlink, &path, now)?;
                forgotten += u64::from(gone);
            }
            Ok(Swept { forgotten, next })
        })
    }

    /// Marks a subtree for another look. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn need_rescan(&self, rescan: Rescan) -> Result<(), CatalogError> {
        self.write(Durability::Full, move |connection| {
            change(
                connection,
                "INSERT INTO rescans (node, since, why) VALUES (?, ?, ?)
                 ON CONFLICT DO UPDATE SET since = excluded.since, why = excluded.why",
                params![rescan.node.0, rescan.since.nanos(), rescan.why],
                "mark for a rescan",
                rescan.node,
            )
            .map(drop)
        })
    }

    /// Subtrees to look at again, oldest first.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn rescans(&self, limit: usize) -> Result<Vec<Rescan>, CatalogError> {
        self.read(|connection| {
            all(
                connection,
                "SELECT node, since, why FROM rescans WHERE since >= ? ORDER BY since LIMIT ?",
                [i64::MIN, page(limit)],
                |row| {
                    Ok(Rescan {
                        node: NodeId(row.get(0)?),
                        since: some_time(row, "since")?,
                        why: row.get(2)?,
                    })
                },
                "list",
                "rescans",
            )
        })
    }

    /// A subtree was looked at; the mark goes if it was set before `begun`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn rescanned(&self, node: NodeId, begun: Timestamp) -> Result<(), CatalogError> {
        self.post(Durability::Relaxed, move |connection| {
            change(
                connection,
                "DELETE FROM rescans WHERE node = ? AND since < ?",
                params![node.0, begun.nanos()],
                "note a rescan",
                node,
            )
            .map(drop)
        })
    }

    /// Adds to the changelog's counters and sets its position.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn advance_changelog(
        &self,
        position: u64,
        applied: u64,
        lost: u64,
        overflows: u64,
    ) -> Result<(), CatalogError> {
        self.post(Durability::Relaxed, move |connection| {
            change(
                connection,
                "UPDATE changelog SET position = ?, applied = applied + ?, lost = lost + ?,
                     overflows = overflows + ? WHERE id = 1",
                params![int(position), int(applied), int(lost), int(overflows)],
                "advance",
                "changelog",
            )
            .map(drop)
        })
    }
}

impl Catalog {
    /// How far the changelog is applied: the number of its last event.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn changelog_position(&self) -> Result<u64, CatalogError> {
        self.read(|connection| changelog(connection).map(|c| c.position))
    }
}

pub(super) fn state(connection: &Connection) -> Result<ScanState, CatalogError> {
    let state = first(
        connection,
        "SELECT * FROM scan WHERE id = 1",
        [],
        |row| {
            Ok(ScanState {
                generation: uint(row, "generation")?,
                begun_at: maybe_time(row, "begun_at")?,
                epoch: row.get("epoch")?,
                running: row.get("running")?,
                position: row.get("position")?,
                seen: uint(row, "seen")?,
                finished_generation: uint(row, "finished_generation")?,
                finished_begun_at: maybe_time(row, "finished_begun_at")?,
                finished_epoch: row.get("finished_epoch")?,
                finished_at: maybe_time(row, "finished_at")?,
            })
        },
        "read the state",
        "scan",
    )?;
    Ok(state.unwrap_or_default())
}

pub(super) fn changelog(connection: &Connection) -> Result<ChangelogState, CatalogError> {
    let state = first(
        connection,
        "SELECT position, applied, lost, overflows FROM changelog WHERE id = 1",
        [],
        |row| {
            Ok(ChangelogState {
                position: uint(row, "position")?,
                applied: uint(row, "applied")?,
                lost: uint(row, "lost")?,
                overflows: uint(row, "overflows")?,
            })
        },
        "read the state",
        "changelog",
    )?;
    Ok(state.unwrap_or_default())
}
