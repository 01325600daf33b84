//! The background scan's position, subtrees that need another look, and the changelog's.
//!
//! A scan has a generation. Whatever is noted while it runs carries it, so that afterwards what
//! does not carry it is what the scan did not see. That alone is no proof that it is gone: a
//! directory that was renamed from a place still to be read into one that was read already is seen
//! nowhere. The scanner proves it ([`Catalog::unseen`], [`Catalog::settle_unseen`]).
//!
//! What moves through the mount may move past the scan, too, and the note of it carries the scan's
//! generation although nobody read a record: whoever notes the event reads the record, and a
//! directory is marked for another look ([`is_unsettled`]).
//!
//! Invariant: a mark for another look goes only with a look that began after it was set, whatever
//! the clock does: a scan's beginning makes all marks older than itself, and a mark is never set
//! older than the last scan's beginning, or than the mark that it takes the place of.

use super::node::NodeId;
use super::sql::{all, change, first, handle, int, maybe_time, page, some_time, uint};
use super::{Catalog, CatalogError, Durability, TombstoneWhy, incarnation, names, nodes, tombs};
use crate::id::{NodeHandle, Timestamp};
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
    /// When the last one began that could look everywhere: P8 asks for a scan begun after a
    /// tombstone.
    pub finished_begun_at: Option<Timestamp>,
    /// Epoch under which it began.
    pub finished_epoch: u32,
    /// When it finished.
    pub finished_at: Option<Timestamp>,
    /// Generation of the last one that proves what it did not find ([`Catalog::scan_proves`]).
    pub proof_generation: u64,
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

/// A node that a scan did not see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unseen {
    /// Its number.
    pub node: NodeId,
    /// The inode.
    pub handle: NodeHandle,
    /// An earlier scan missed it, too ([`Settled::missed`]).
    pub missed_before: bool,
    /// A directory in which it has a name, if it has one.
    pub parent: Option<NodeId>,
    /// The scan, or an event since it began, saw that directory.
    pub parent_seen: bool,
}

/// One page of nodes that a scan did not see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnseenPage {
    /// They.
    pub nodes: Vec<Unseen>,
    /// Where to go on; `None`: all were looked at.
    pub next: Option<NodeId>,
}

/// What became of nodes that a scan did not see.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settled {
    /// Proven gone: the filesystem knows their handles no more.
    pub gone: Vec<NodeId>,
    /// Seen by no scan twice, where handles prove nothing: forgotten unless they were seen since.
    pub missed_twice: Vec<NodeId>,
    /// Missed for the first time, where handles prove nothing.
    pub missed: Vec<NodeId>,
}

impl Catalog {
    /// Begins a scan from the beginning and gives its generation. A scan that was running is
    /// given up. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn begin_scan(&self, now: Timestamp) -> Result<u64, CatalogError> {
        self.write(Durability::Full, move |connection| begin(connection, now))
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

    /// Begins a look at a part of the tree: gives the generation that what is noted from now on
    /// carries; `None` while a scan of the whole is under way.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn begin_part(&self) -> Result<Option<u64>, CatalogError> {
        self.write(Durability::Relaxed, |connection| {
            first(
                connection,
                "UPDATE scan SET generation = generation + 1 WHERE id = 1 AND running = 0
                 RETURNING generation",
                [],
                |row| uint(row, "generation"),
                "begin a part",
                "scan",
            )
        })
    }

    /// The running scan is at its end. `complete`: it could look everywhere; then marks that were
    /// set before it began go. Durable. [`Catalog::unseen`] has what it did not see.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn finish_scan(&self, now: Timestamp, complete: bool) -> Result<(), CatalogError> {
        self.write(Durability::Full, move |connection| {
            let finished = change(
                connection,
                "UPDATE scan SET running = 0, position = x'', finished_generation = generation,
                     finished_begun_at = CASE WHEN ?2 THEN begun_at ELSE finished_begun_at END,
                     finished_epoch = CASE WHEN ?2 THEN epoch ELSE finished_epoch END,
                     finished_at = ?1
                 WHERE id = 1 AND running = 1",
                params![now.nanos(), complete],
                "finish",
                "scan",
            )?;
            if finished > 0 && complete {
                change(
                    connection,
                    "DELETE FROM rescans
                     WHERE since < (SELECT ifnull(begun_at, 0) FROM scan WHERE id = 1)",
                    [],
                    "finish",
                    "scan",
                )?;
            }
            Ok(())
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
    /// Their nodes stay, because they may have moved elsewhere. At most `limit` names at a time,
    /// whose nodes this gives; call again until it gives none.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn finish_directory(
        &self,
        directory: NodeId,
        generation: u64,
        limit: usize,
    ) -> Result<Vec<NodeId>, CatalogError> {
        self.write(Durability::Relaxed, move |connection| {
            let dropped: Vec<(NodeId, Vec<u8>)> = all(
                connection,
                "DELETE FROM names WHERE parent = ?1 AND name IN
                     (SELECT name FROM names WHERE parent = ?1 AND seen < ?2 LIMIT ?3)
                 RETURNING node, name",
                params![directory.0, int(generation), page(limit)],
                |row| Ok((NodeId(row.get(0)?), row.get(1)?)),
                "drop names that are gone",
                directory,
            )?;
            names::keep_last_paths(connection, directory, &dropped)?;
            Ok(dropped.into_iter().map(|(node, _)| node).collect())
        })
    }

    /// Looks at up to `limit` nodes from after `after` and gives those that neither this generation
    /// nor anything later saw. Changes nothing.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn unseen(
        &self,
        generation: u64,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<UnseenPage, CatalogError> {
        let after = after.unwrap_or(NodeId::ROOT);
        self.read(|connection| {
            let looked_at = all(
                connection,
                "SELECT id, handle, seen FROM nodes WHERE id > ? ORDER BY id LIMIT ?",
                params![after.0, page(limit)],
                |row| Ok((NodeId(row.get(0)?), handle(row, "handle")?, row.get(2)?)),
                "look for vanished nodes after",
                after,
            )?;
            let next = (int(looked_at.len() as u64) == page(limit))
                .then(|| looked_at.last().map(|(id, ..)| *id))
                .flatten();
            let mut unseen = Vec::new();
            for (node, handle, seen) in looked_at {
                let seen: i64 = seen;
                if seen >= int(generation) {
                    continue;
                }
                let parent = names::a_parent(connection, node)?;
                let parent_seen = match parent {
                    Some(parent) => nodes::seen(connection, parent)? >= int(generation),
                    None => false,
                };
                unseen.push(Unseen {
                    node,
                    handle,
                    missed_before: seen < 0,
                    parent,
                    parent_seen,
                });
            }
            Ok(UnseenPage {
                nodes: unseen,
                next,
            })
        })
    }

    /// Takes what was found out about nodes that this generation did not see. Gives how many were
    /// forgotten, with tombstones.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn settle_unseen(
        &self,
        generation: u64,
        found: Settled,
        now: Timestamp,
    ) -> Result<u64, CatalogError> {
        self.write(Durability::Relaxed, move |connection| {
            let mut forgotten = 0;
            let mut forget = |node: NodeId| -> Result<(), CatalogError> {
                let path = names::last_path(connection, node)?.unwrap_or_default();
                let gone = tombs::forget(connection, node, TombstoneWhy::Unlink, &path, now)?;
                forgotten += u64::from(gone);
                Ok(())
            };
            for node in found.gone {
                forget(node)?;
            }
            for node in found.missed_twice {
                if nodes::seen(connection, node)? < int(generation) {
                    forget(node)?;
                }
            }
            for node in found.missed {
                // A number below 0 says which scan missed it first; whatever sees it sets it above.
                change(
                    connection,
                    "UPDATE nodes SET seen = -?2 WHERE id = ?1 AND seen >= 0 AND seen < ?2",
                    params![node.0, int(generation)],
                    "note a missed",
                    node,
                )?;
            }
            Ok(forgotten)
        })
    }

    /// Marks subtrees for another look, all or none. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn need_rescan(&self, marks: Vec<Rescan>) -> Result<(), CatalogError> {
        self.write(Durability::Full, move |connection| mark(connection, &marks))
    }

    /// The running scan looked at everything but what these marks are on: they take the place of
    /// the marks that were set before it began. All or nothing; durable. Without a running scan
    /// nothing goes.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn narrow_rescans(&self, marks: Vec<Rescan>) -> Result<(), CatalogError> {
        self.write(Durability::Full, move |connection| {
            change(
                connection,
                "DELETE FROM rescans
                 WHERE since < (SELECT begun_at FROM scan WHERE id = 1 AND running = 1)",
                [],
                "narrow",
                "rescans",
            )?;
            mark(connection, &marks)
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

    /// A subtree was looked at wholly, and the look began after this mark was read: it goes, unless
    /// it was set again since.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn rescanned(&self, mark: &Rescan) -> Result<(), CatalogError> {
        let (node, since) = (mark.node, mark.since.nanos());
        self.post(Durability::Relaxed, move |connection| {
            change(
                connection,
                "DELETE FROM rescans WHERE node = ? AND since = ?",
                params![node.0, since],
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

pub(super) fn begin(connection: &Connection, now: Timestamp) -> Result<u64, CatalogError> {
    let epoch = incarnation::epoch(connection)?;
    change(
        connection,
        "UPDATE rescans SET since = ?1 - 1 WHERE since >= ?1",
        [now.nanos()],
        "begin",
        "scan",
    )?;
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
}

pub(super) fn mark(connection: &Connection, marks: &[Rescan]) -> Result<(), CatalogError> {
    for rescan in marks {
        change(
            connection,
            "INSERT INTO rescans (node, since, why)
             VALUES (?1, max(?2, ifnull((SELECT begun_at FROM scan WHERE id = 1), ?2)), ?3)
             ON CONFLICT DO UPDATE SET since = max(excluded.since, rescans.since + 1),
                 why = excluded.why",
            params![rescan.node.0, rescan.since.nanos(), rescan.why],
            "mark for a rescan",
            rescan.node,
        )?;
    }
    Ok(())
}

impl Catalog {
    /// Is something being looked at, or still to be? Then what moves may be met nowhere.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn is_unsettled(&self) -> Result<bool, CatalogError> {
        self.read(is_unsettled)
    }

    /// How far the changelog is applied: the number of its last event.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn changelog_position(&self) -> Result<u64, CatalogError> {
        self.read(|connection| changelog(connection).map(|c| c.position))
    }
}

pub(super) fn is_unsettled(connection: &Connection) -> Result<bool, CatalogError> {
    let unsettled = first(
        connection,
        "SELECT running = 1 OR finished_generation = generation AND proof_generation < generation
             OR (SELECT rows FROM row_counts WHERE what = 'rescans') > 0
         FROM scan WHERE id = 1",
        [],
        |row| row.get(0),
        "ask whether all is settled by the",
        "scan",
    )?;
    Ok(unsettled.unwrap_or(true))
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
                proof_generation: uint(row, "proof_generation")?,
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
