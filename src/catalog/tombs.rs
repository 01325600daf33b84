//! The end of versions and nodes: tombstones, and what copies and aggregates lose by them.
//!
//! Invariants:
//! - A (file, version) has at most one tombstone, as old as its latest end; an aggregate's live counts are those of the copies
//!   in it that are live.
//! - A tombstone is never older than what the catalog knows to have been before it, whatever the clock
//!   says: a clock that is behind shortens no window.
//! - A version that is being undeleted has live copies *and* a marked tombstone. A crash in between
//!   leaves both, until a complete scan has seen whether the file is there ([`came_back`],
//!   [`rest_again`]).

use super::node::{NodeId, Version};
use super::sql::{Code, all, change, first, int};
use super::{
    Catalog, CatalogError, Copy, CopyState, Tombstone, TombstoneWhy, aggregates, incarnation,
    lives, nodes,
};
use crate::id::{DataVersion, FileId, Timestamp};
use rusqlite::{Connection, params};

impl Catalog {
    /// The highest number that any copy or tombstone has of a version of this file; 0: none.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn last_version(&self, file: FileId) -> Result<DataVersion, CatalogError> {
        self.read(|connection| {
            let last = first(
                connection,
                "SELECT max(ifnull((SELECT max(version) FROM copies WHERE file = ?1), 0),
                     ifnull((SELECT max(version) FROM tombstones WHERE file = ?1), 0)) AS last",
                [file.0],
                |row| super::sql::uint(row, "last"),
                "find the last version of",
                file,
            )?;
            Ok(DataVersion(last.unwrap_or(0)))
        })
    }
}

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
        "INSERT INTO tombstones
             (file, version, at, why, epoch, path, uid, size, handle, generation)
         VALUES (?1, ?2, max(?3, ifnull((SELECT begun_at FROM scan WHERE id = 1), ?3),
                 ifnull((SELECT finished_at FROM scan WHERE id = 1), ?3),
                 ifnull((SELECT begun_at FROM instance WHERE id = 1), ?3)),
             ?4, ?5, ?6, ?7,
             (SELECT proven_size FROM nodes WHERE id = ?8 AND file = ?1 AND version = ?2),
             (SELECT handle FROM nodes WHERE id = ?8),
             (SELECT generation FROM scan WHERE id = 1))
         ON CONFLICT (file, version) DO UPDATE SET at = max(at, excluded.at),
             why = CASE (SELECT state FROM nodes WHERE id = ?8) WHEN 2 THEN why ELSE excluded.why END,
             epoch = excluded.epoch, path = excluded.path, uid = excluded.uid,
             size = ifnull(excluded.size, size), handle = excluded.handle,
             generation = excluded.generation",
        params![
            version.file.0,
            int(version.version.0),
            now.nanos(),
            why.code(),
            incarnation::epoch(connection)?,
            path,
            uid,
            node.0
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

/// Makes a version's copies count, or not count, in their aggregates. Those that were given up never
/// do.
pub(super) fn set_live(
    connection: &Connection,
    file: FileId,
    version: DataVersion,
    live: bool,
) -> Result<(), CatalogError> {
    let key = params![file.0, int(version.0), !live];
    let copies = all(
        connection,
        "SELECT tier, epoch, seq, stored_len FROM copies
         WHERE file = ? AND version = ? AND live = ? AND state < 3",
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
        if live {
            lives::reprieve(connection, (tier, epoch, seq))?;
        }
    }
    change(
        connection,
        "UPDATE copies SET live = NOT live
         WHERE file = ? AND version = ? AND live = ? AND state < 3",
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
    // What was below a directory, and is known still, was there.
    change(
        connection,
        "INSERT OR REPLACE INTO last_paths
             SELECT node, CAST(?2 || x'2f' || name AS BLOB) FROM names WHERE parent = ?1",
        params![node.0, path],
        "keep paths below",
        node,
    )?;
    for sql in [
        "DELETE FROM last_paths WHERE node = ?",
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

/// Counts again how many tiers hold a good copy of the node's present version: of its sum, too.
pub(super) fn recount(connection: &Connection, node: NodeId) -> Result<(), CatalogError> {
    change(
        connection,
        "UPDATE nodes SET copies = (SELECT count(DISTINCT tier) FROM copies
             WHERE copies.file = nodes.file AND copies.version = nodes.version
                 AND copies.crc = nodes.crc AND copies.state = 0)
         WHERE id = ?",
        [node.0],
        "count copies",
        node,
    )
    .map(drop)
}

/// Why a version cannot come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotRevived {
    /// Its tombstone is gone: it came back already, or its copies are gone for good.
    Gone,
    /// No copy of it can be read any more.
    NoCopy,
    /// Somebody is undeleting it, or a crash cut that short and the scan has not yet said what came
    /// of it.
    UnderWay,
}

/// A version whose copies count again, for a file that is about to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revived {
    /// The tombstone.
    pub tombstone: u64,
    /// The file id under which it comes back: the old one where nothing else has it and no later
    /// version of it was ever made, else a new one.
    pub file: FileId,
    /// Which data.
    pub version: DataVersion,
    /// Its copies under that id, good ones first.
    pub copies: Vec<Copy>,
}

/// The last word on whether a version may come back, and its copies made to count, in one
/// transaction: what deletes aggregates sees either the tombstone or live members. The tombstone
/// stays, marked, until [`came_back`] or [`rest_again`].
pub(super) fn revive(
    connection: &Connection,
    tombstone: u64,
    fresh: FileId,
    now: Timestamp,
) -> Result<Result<Revived, NotRevived>, CatalogError> {
    let Some(stone) = stone(connection, tombstone)? else {
        return Ok(Err(NotRevived::Gone));
    };
    if stone.heir.is_some() {
        return Ok(Err(NotRevived::UnderWay));
    }
    let (old, version) = (stone.file, stone.version);
    let mut copies = aggregates::copies(connection, old, version)?;
    let mut usable = Vec::with_capacity(copies.len());
    for copy in copies.drain(..) {
        if copy.state != CopyState::Bad && may_be_read(connection, &copy)? {
            usable.push(copy);
        }
    }
    if usable.is_empty() {
        return Ok(Err(NotRevived::NoCopy));
    }
    let file = if is_free(connection, old, version)? {
        set_live(connection, old, version, true)?;
        old
    } else {
        for copy in &mut usable {
            copy.file = fresh;
            aggregates::put_copy(connection, copy)?;
        }
        fresh
    };
    change(
        connection,
        "UPDATE tombstones SET heir = ?, heir_since = ? WHERE id = ?",
        params![file.0, now.nanos(), int(tombstone)],
        "begin to undelete",
        file,
    )?;
    Ok(Ok(Revived {
        tombstone,
        file,
        version,
        copies: usable,
    }))
}

/// May what the copy's aggregate holds be counted on again? Not once its object is being deleted.
fn may_be_read(connection: &Connection, copy: &Copy) -> Result<bool, CatalogError> {
    let known = first(
        connection,
        "SELECT 1 FROM aggregates WHERE tier = ? AND epoch = ? AND seq = ? AND life <> 3",
        params![copy.tier.0, copy.aggregate.epoch, int(copy.aggregate.seq)],
        |_| Ok(()),
        "find",
        copy.aggregate,
    )?;
    Ok(known.is_some())
}

/// Does no file have this id, and was no later version of it made? Only then may a file be given it:
/// two files would number their versions alike.
fn is_free(
    connection: &Connection,
    file: FileId,
    version: DataVersion,
) -> Result<bool, CatalogError> {
    for sql in [
        "SELECT 1 FROM nodes WHERE file = ?1 AND ?2 = ?2 LIMIT 1",
        "SELECT 1 FROM copies WHERE file = ? AND version > ? LIMIT 1",
        "SELECT 1 FROM tombstones WHERE file = ? AND version > ? LIMIT 1",
    ] {
        let key = params![file.0, int(version.0)];
        if first(connection, sql, key, |_| Ok(()), "look for", file)?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The file is there: the tombstone goes, or, where the version came back as another file's, is as it
/// was.
pub(super) fn came_back(connection: &Connection, stone: &Tombstone) -> Result<(), CatalogError> {
    match stone.heir {
        Some(heir) if heir == stone.file => unearth(connection, stone.file, stone.version),
        _ => forget_heir(connection, stone, stone.at),
    }
}

/// No file came of it: the copies stop counting, and the tombstone is as it was, but for its time.
pub(super) fn rest_again(
    connection: &Connection,
    stone: &Tombstone,
    at: Timestamp,
) -> Result<(), CatalogError> {
    match stone.heir {
        Some(heir) if heir == stone.file => {
            set_live(connection, stone.file, stone.version, false)?;
        }
        Some(heir) => aggregates::drop_copies(connection, heir, stone.version)?,
        None => {}
    }
    forget_heir(connection, stone, at)
}

fn forget_heir(
    connection: &Connection,
    stone: &Tombstone,
    at: Timestamp,
) -> Result<(), CatalogError> {
    change(
        connection,
        "UPDATE tombstones SET heir = NULL, heir_since = NULL, at = ?,
             generation = (SELECT generation FROM scan WHERE id = 1) WHERE id = ?",
        params![at.nanos(), int(stone.id)],
        "end an undelete",
        stone.file,
    )
    .map(drop)
}

/// A tombstone by its number.
pub(super) fn stone(connection: &Connection, id: u64) -> Result<Option<Tombstone>, CatalogError> {
    first(
        connection,
        "SELECT * FROM tombstones WHERE id = ?",
        [int(id)],
        aggregates::tombstone_row,
        "find",
        "tombstone",
    )
}
