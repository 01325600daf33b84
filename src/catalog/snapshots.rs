//! Namespace snapshots: what lies on which tier, and what is no longer needed.
//!
//! Invariants: a row is written only after the tier's receipt; a full snapshot supersedes what lay on
//! its tier before, in the same transaction; nothing here deletes: who collects takes
//! [`Catalog::superseded_snapshots`] and the window of `keep-deleted`.

use super::sql::{Code, all, change, coded, first, int, maybe_time, page, some_time, uint};
use super::{Catalog, CatalogError, Durability, ProofKind};
use crate::id::{AggregateId, TierId, Timestamp};
use cairn_mover::Crc32c;
use rusqlite::{Row, params};

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
}

impl Catalog {
    /// Notes a snapshot that its tier has proven durable. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn note_snapshot(&self, s: NamespaceSnapshot) -> Result<(), CatalogError> {
        self.write(Durability::Full, move |connection| {
            change(
                connection,
                "INSERT OR REPLACE INTO snapshots
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)",
                params![
                    s.tier.0,
                    s.id.epoch,
                    int(s.id.seq),
                    s.base.map(|b| b.epoch),
                    s.base.map(|b| int(b.seq)),
                    s.depth,
                    s.begun_at.nanos(),
                    s.ended_at.nanos(),
                    int(s.took_ms),
                    int(s.len),
                    s.crc.0,
                    s.proof.code(),
                    int(s.directories),
                    int(s.entries),
                    int(s.changelog),
                    s.newest.epoch,
                    int(s.newest.seq)
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
                params![s.ended_at.nanos(), s.tier.0, s.id.epoch, int(s.id.seq)],
                "supersede the snapshots before",
                s.id,
            )
            .map(drop)
        })
    }

    /// The newest snapshot on a tier.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn newest_snapshot(&self, tier: TierId) -> Result<Option<NamespaceSnapshot>, CatalogError> {
        self.read(|connection| {
            first(
                connection,
                "SELECT * FROM snapshots WHERE tier = ? ORDER BY epoch DESC, seq DESC LIMIT 1",
                [tier.0],
                row,
                "find the newest snapshot on tier",
                tier,
            )
        })
    }

    /// The full snapshot of the chain that a tier has now.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn full_snapshot(&self, tier: TierId) -> Result<Option<NamespaceSnapshot>, CatalogError> {
        self.read(|connection| {
            first(
                connection,
                "SELECT * FROM snapshots WHERE tier = ? AND base_seq IS NULL
                 ORDER BY epoch DESC, seq DESC LIMIT 1",
                [tier.0],
                row,
                "find the full snapshot on tier",
                tier,
            )
        })
    }

    /// Snapshots superseded before `before`, oldest first: nothing needs them but a restore to a
    /// time before that. A chain is superseded as a whole.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn superseded_snapshots(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<NamespaceSnapshot>, CatalogError> {
        self.read(|connection| {
            all(
                connection,
                "SELECT * FROM snapshots WHERE superseded_at < ? ORDER BY superseded_at LIMIT ?",
                params![before.nanos(), page(limit)],
                row,
                "list superseded",
                "snapshots",
            )
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
                change(
                    connection,
                    "DELETE FROM snapshots WHERE tier = ? AND epoch = ? AND seq = ?",
                    params![tier.0, id.epoch, int(id.seq)],
                    "forget the snapshot",
                    id,
                )?;
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

fn row(row: &Row<'_>) -> rusqlite::Result<NamespaceSnapshot> {
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
    })
}
