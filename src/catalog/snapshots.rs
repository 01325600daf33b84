//! Namespace snapshots: what lies on which tier, and what is no longer needed.
//!
//! Invariants: a row is written only after the tier's receipt, or says that it was learned; a full
//! snapshot supersedes what lay on its tier before, in the same transaction; none was superseded before
//! something that the catalog knows to have been earlier, whatever the clock says. How they go:
//! [`super::snapshot_graves`].

use super::sql::{Code, all, change, coded, first, int, maybe_time, maybe_uint, some_time, uint};
use super::{Catalog, CatalogError, Durability, ProofKind};
use crate::id::{AggregateId, TierId, Timestamp};
use cairn_mover::Crc32c;
use rusqlite::{Connection, Row, params};

/// A namespace snapshot on a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamespaceSnapshot {
    /// The tier.
    pub tier: TierId,
    /// Its name.
    pub id: AggregateId,
    /// The snapshot on which it stands; `None`: it is a full one.
    pub base: Option<AggregateId>,
    /// How many stand between it and the full one, this one counted; 0: it is the full one.
    pub depth: u32,
    /// When the walk began.
    pub begun_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// How long the whole took, milliseconds.
    pub took_ms: u64,
    /// Length, bytes.
    pub len: u64,
    /// CRC32C of all of it.
    pub crc: Crc32c,
    /// How that is known.
    pub proof: ProofKind,
    /// Directories listed.
    pub directories: u64,
    /// Names listed.
    pub entries: u64,
    /// Where the changelog stood when the walk began.
    pub changelog: u64,
    /// The newest aggregate of files then.
    pub newest: AggregateId,
    /// A full one took its place then.
    pub superseded_at: Option<Timestamp>,
    /// Names and directories that could not be looked at, and are not listed; in an incremental one,
    /// of those that changed. `None`: not known.
    pub gaps: Option<u64>,
}

/// A namespace snapshot that another catalog made, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundSnapshot {
    /// Its name.
    pub id: AggregateId,
    /// The snapshot on which it stands; `None`: it is a full one.
    pub base: Option<AggregateId>,
    /// Steps from the full one.
    pub depth: u32,
    /// When the walk began.
    pub begun_at: Timestamp,
    /// Length of the object, bytes.
    pub len: u64,
}

impl Catalog {
    /// Notes a snapshot that its tier has proven durable. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn note_snapshot(&self, s: NamespaceSnapshot) -> Result<(), CatalogError> {
        self.write(Durability::Full, move |connection| {
            // What it stands on was found gone meanwhile: it is of no use, and nothing is to stand on it.
            if let Some(base) = s.base
                && !is_there(connection, s.tier, base)?
            {
                return Ok(());
            }
            let ended = not_before(connection, s.tier, s.ended_at)?;
            change(
                connection,
                "INSERT OR REPLACE INTO snapshots
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, ?)",
                params![
                    s.tier.0,
                    s.id.epoch,
                    int(s.id.seq),
                    s.base.map(|b| b.epoch),
                    s.base.map(|b| int(b.seq)),
                    s.depth,
                    s.begun_at.nanos(),
                    ended.nanos(),
                    int(s.took_ms),
                    int(s.len),
                    s.crc.0,
                    s.proof.code(),
                    int(s.directories),
                    int(s.entries),
                    int(s.changelog),
                    s.newest.epoch,
                    int(s.newest.seq),
                    s.gaps.map(int)
                ],
                "note the snapshot",
                s.id,
            )?;
            if s.base.is_some() {
                return Ok(());
            }
            change(
                connection,
                "UPDATE snapshots SET superseded_at = ?1
                 WHERE tier = ?2 AND (epoch, seq) < (?3, ?4) AND superseded_at IS NULL",
                params![ended.nanos(), s.tier.0, s.id.epoch, int(s.id.seq)],
                "supersede the snapshots before",
                s.id,
            )
            .map(drop)
        })
    }

    /// The newest snapshot on a tier that this catalog's instance took.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn newest_snapshot(&self, tier: TierId) -> Result<Option<NamespaceSnapshot>, CatalogError> {
        self.read(|connection| {
            first(
                connection,
                "SELECT * FROM snapshots WHERE tier = ? AND proof < 4
                 ORDER BY epoch DESC, seq DESC LIMIT 1",
                [tier.0],
                row,
                "find the newest snapshot on tier",
                tier,
            )
        })
    }

    /// The full snapshot of the chain that a tier has now, likewise.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn full_snapshot(&self, tier: TierId) -> Result<Option<NamespaceSnapshot>, CatalogError> {
        self.read(|connection| {
            first(
                connection,
                "SELECT * FROM snapshots WHERE tier = ? AND base_seq IS NULL AND proof < 4
                 ORDER BY epoch DESC, seq DESC LIMIT 1",
                [tier.0],
                row,
                "find the full snapshot on tier",
                tier,
            )
        })
    }

    /// Those of these snapshots that the catalog does not know on a tier.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn unknown_snapshots(
        &self,
        tier: TierId,
        ids: &[AggregateId],
    ) -> Result<Vec<AggregateId>, CatalogError> {
        let mut unknown = Vec::new();
        // In pages: no read transaction is long.
        for some in ids.chunks(1000) {
            self.read(|connection| {
                for id in some {
                    if !is_there(connection, tier, *id)? {
                        unknown.push(*id);
                    }
                }
                Ok(())
            })?;
        }
        Ok(unknown)
    }

    /// Notes a snapshot that another catalog made, and that was found on the tier at `now`. If there is
    /// a newer full one that is proven, it counts as superseded from now on. Nothing new is to stand
    /// on it. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn learn_snapshot(
        &self,
        tier: TierId,
        found: FoundSnapshot,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        self.write(Durability::Full, move |connection| {
            let at = not_before(connection, tier, now)?;
            change(
                connection,
                "INSERT OR IGNORE INTO snapshots
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, 0, ?8, 0, ?9, 0, 0, 0, 0, 0,
                     (SELECT ?10 FROM snapshots WHERE tier = ?1 AND (epoch, seq) > (?2, ?3)
                          AND base_seq IS NULL AND proof < 3 LIMIT 1), NULL)",
                params![
                    tier.0,
                    found.id.epoch,
                    int(found.id.seq),
                    found.base.map(|b| b.epoch),
                    found.base.map(|b| int(b.seq)),
                    found.depth,
                    found.begun_at.nanos(),
                    int(found.len),
                    ProofKind::Learned.code(),
                    at.nanos()
                ],
                "learn of the snapshot",
                found.id,
            )
            .map(drop)
        })
    }

    /// Notes how many gaps a snapshot has, as it says itself; one that is not known is passed over.
    /// Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn note_snapshot_gaps(
        &self,
        tier: TierId,
        id: AggregateId,
        gaps: u64,
    ) -> Result<(), CatalogError> {
        self.write(Durability::Full, move |connection| {
            change(
                connection,
                "UPDATE snapshots SET gaps = ? WHERE tier = ? AND epoch = ? AND seq = ?",
                params![int(gaps), tier.0, id.epoch, int(id.seq)],
                "note the gaps of the snapshot",
                id,
            )
            .map(drop)
        })
    }

    /// Forgets a snapshot: it is gone from its tier, or damaged there. What stands on it is
    /// forgotten, too, so that the next one is a full one. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn forget_snapshot(&self, tier: TierId, id: AggregateId) -> Result<(), CatalogError> {
        self.write(Durability::Full, move |connection| {
            let mut gone = vec![id];
            while let Some(id) = gone.pop() {
                for sql in [
                    "DELETE FROM snapshots WHERE tier = ? AND epoch = ? AND seq = ?",
                    "DELETE FROM snapshot_graves WHERE tier = ? AND epoch = ? AND seq = ?",
                ] {
                    let key = params![tier.0, id.epoch, int(id.seq)];
                    change(connection, sql, key, "forget the snapshot", id)?;
                }
                gone.extend(all(
                    connection,
                    "SELECT epoch, seq FROM snapshots
                     WHERE tier = ? AND base_epoch = ? AND base_seq = ?",
                    params![tier.0, id.epoch, int(id.seq)],
                    |row| {
                        Ok(AggregateId {
                            epoch: row.get("epoch")?,
                            seq: uint(row, "seq")?,
                        })
                    },
                    "find what stands on",
                    id,
                )?);
            }
            Ok(())
        })
    }
}

fn is_there(connection: &Connection, tier: TierId, id: AggregateId) -> Result<bool, CatalogError> {
    let found = first(
        connection,
        "SELECT 1 FROM snapshots WHERE tier = ? AND epoch = ? AND seq = ?",
        params![tier.0, id.epoch, int(id.seq)],
        |_| Ok(()),
        "find the snapshot",
        id,
    )?;
    Ok(found.is_some())
}

/// `at`, or what is known to have been before it and has a later time.
fn not_before(
    connection: &Connection,
    tier: TierId,
    at: Timestamp,
) -> Result<Timestamp, CatalogError> {
    let latest = first(
        connection,
        "SELECT max(?1, ifnull((SELECT begun_at FROM instance WHERE id = 1), ?1),
             ifnull((SELECT ended_at FROM snapshots WHERE tier = ?2 AND proof < 4
                 ORDER BY epoch DESC, seq DESC LIMIT 1), ?1)) AS at",
        params![at.nanos(), tier.0],
        |row| some_time(row, "at"),
        "order the time of a snapshot on tier",
        tier,
    )?;
    Ok(latest.unwrap_or(at))
}

pub(super) fn row(row: &Row<'_>) -> rusqlite::Result<NamespaceSnapshot> {
    let base: Option<u32> = row.get("base_epoch")?;
    Ok(NamespaceSnapshot {
        tier: TierId(row.get("tier")?),
        id: AggregateId {
            epoch: row.get("epoch")?,
            seq: uint(row, "seq")?,
        },
        base: match base {
            Some(epoch) => Some(AggregateId {
                epoch,
                seq: uint(row, "base_seq")?,
            }),
            None => None,
        },
        depth: row.get("depth")?,
        begun_at: some_time(row, "begun_at")?,
        ended_at: some_time(row, "ended_at")?,
        took_ms: uint(row, "took")?,
        len: uint(row, "len")?,
        crc: Crc32c(row.get("crc")?),
        proof: coded(row, "proof")?,
        directories: uint(row, "directories")?,
        entries: uint(row, "entries")?,
        changelog: uint(row, "changelog")?,
        newest: AggregateId {
            epoch: row.get("newest_epoch")?,
            seq: uint(row, "newest_seq")?,
        },
        superseded_at: maybe_time(row, "superseded_at")?,
        gaps: maybe_uint(row, "gaps")?,
    })
}
