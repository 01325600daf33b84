//! The way out of a namespace snapshot: superseded, condemned, doomed, gone (P8, P9).
//!
//! Invariants:
//! - A snapshot goes only while a newer full one of the same tier has a proven row, both have been
//!   there for as long as the caller's bound says, the newer one has no more gaps than the full one
//!   of its chain, and nothing that stays stands on it. So the newest proven full one, and what stands
//!   on it, never goes.
//! - That is looked at in the transaction that condemns it, and once more in the one that dooms it.
//! - A decision binds the epoch that made it and no other.

use super::snapshots::row;
use super::sql::{all, change, first, int, page, some_time};
use super::{Bound, Catalog, CatalogError, Durability, NamespaceSnapshot, aggregates, incarnation};
use crate::id::{AggregateId, TierId, Timestamp};
use rusqlite::{Connection, params};

/// What keeps a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotHold {
    /// No full one took its place.
    Newest,
    /// One did, but not long enough ago.
    Young,
    /// The full one that is named instead is not newer, not proven, or not old enough.
    Unproven,
    /// The full one that is named instead has more gaps than the one on which this stands, or it is
    /// not known.
    Poorer,
    /// Another one that stays stands on it.
    StoodOn,
    /// It is not known, or was not condemned by this epoch.
    Undecided,
}

/// A snapshot that is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotGrave {
    /// Which.
    pub id: AggregateId,
    /// When that was decided.
    pub since: Timestamp,
    /// By which epoch.
    pub decided_by: u32,
    /// Its object is being deleted.
    pub doomed: bool,
}

impl Catalog {
    /// A tier's snapshots in the order of their names, from after `after`: also those that another
    /// catalog made ([`super::ProofKind::Learned`]).
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn snapshots(
        &self,
        tier: TierId,
        after: Option<AggregateId>,
        limit: usize,
    ) -> Result<Vec<NamespaceSnapshot>, CatalogError> {
        let after = after.unwrap_or(AggregateId { epoch: 0, seq: 0 });
        self.read(|connection| {
            all(
                connection,
                "SELECT * FROM snapshots WHERE tier = ? AND (epoch, seq) > (?, ?)
                 ORDER BY epoch, seq LIMIT ?",
                params![tier.0, after.epoch, int(after.seq), page(limit)],
                row,
                "list the snapshots of tier",
                tier,
            )
        })
    }

    /// A tier's snapshots that are to go, in the order of their names, from after `after`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn snapshot_graves(
        &self,
        tier: TierId,
        after: Option<AggregateId>,
        limit: usize,
    ) -> Result<Vec<SnapshotGrave>, CatalogError> {
        let after = after.unwrap_or(AggregateId { epoch: 0, seq: 0 });
        self.read(|connection| {
            all(
                connection,
                "SELECT * FROM snapshot_graves WHERE tier = ? AND (epoch, seq) > (?, ?)
                 ORDER BY epoch, seq LIMIT ?",
                params![tier.0, after.epoch, int(after.seq), page(limit)],
                |row| {
                    Ok(SnapshotGrave {
                        id: aggregates::id_row(row)?,
                        since: some_time(row, "since")?,
                        decided_by: row.get("decided_by")?,
                        doomed: row.get("doomed")?,
                    })
                },
                "list snapshots that are to go from tier",
                tier,
            )
        })
    }

    /// Decides, durably and under the present epoch, that a snapshot goes. `by`: a full one whose
    /// index the caller has just read on the tier. `Err`: what keeps it, and nothing was changed.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn condemn_snapshot(
        &self,
        tier: TierId,
        id: AggregateId,
        by: AggregateId,
        bound: Bound,
    ) -> Result<Result<(), SnapshotHold>, CatalogError> {
        self.write(Durability::Full, move |connection| {
            if let Some(hold) = held(connection, tier, id, by, bound, true)? {
                return Ok(Err(hold));
            }
            let epoch = incarnation::epoch(connection)?;
            change(
                connection,
                "INSERT OR REPLACE INTO snapshot_graves VALUES (?, ?, ?, ?, ?, 0)",
                params![tier.0, id.epoch, int(id.seq), bound.now.nanos(), epoch],
                "condemn the snapshot",
                id,
            )?;
            Ok(Ok(()))
        })
    }

    /// The last look before the object of a condemned snapshot is deleted. It must have been condemned
    /// by this epoch and not after `decided`, and nothing may stand on it any more. `Err`: what keeps
    /// it. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn doom_snapshot(
        &self,
        tier: TierId,
        id: AggregateId,
        by: AggregateId,
        decided: Timestamp,
        bound: Bound,
    ) -> Result<Result<(), SnapshotHold>, CatalogError> {
        self.write(Durability::Full, move |connection| {
            let epoch = incarnation::epoch(connection)?;
            let key = params![tier.0, id.epoch, int(id.seq), decided.nanos(), epoch];
            let condemned = first(
                connection,
                "SELECT 1 FROM snapshot_graves WHERE tier = ? AND epoch = ? AND seq = ?
                     AND since <= ? AND decided_by = ? AND doomed = 0",
                key,
                |_| Ok(()),
                "look whether it was decided that it goes:",
                id,
            )?;
            if condemned.is_none() {
                return Ok(Err(SnapshotHold::Undecided));
            }
            if let Some(hold) = held(connection, tier, id, by, bound, false)? {
                return Ok(Err(hold));
            }
            change(
                connection,
                "UPDATE snapshot_graves SET doomed = 1
                 WHERE tier = ? AND epoch = ? AND seq = ?",
                params![tier.0, id.epoch, int(id.seq)],
                "doom the snapshot",
                id,
            )?;
            Ok(Ok(()))
        })
    }

    /// A condemned or doomed snapshot whose object is there stays. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn spare_snapshot(&self, tier: TierId, id: AggregateId) -> Result<(), CatalogError> {
        self.write(Durability::Full, move |connection| {
            change(
                connection,
                "DELETE FROM snapshot_graves WHERE tier = ? AND epoch = ? AND seq = ?",
                params![tier.0, id.epoch, int(id.seq)],
                "spare the snapshot",
                id,
            )
            .map(drop)
        })
    }
}

/// What keeps a snapshot, if anything does. `together`: what is condemned already may stand on it.
fn held(
    connection: &Connection,
    tier: TierId,
    id: AggregateId,
    by: AggregateId,
    bound: Bound,
    together: bool,
) -> Result<Option<SnapshotHold>, CatalogError> {
    let key = params![tier.0, id.epoch, int(id.seq)];
    let found = first(
        connection,
        "SELECT * FROM snapshots WHERE tier = ? AND epoch = ? AND seq = ?",
        key,
        row,
        "find the snapshot",
        id,
    )?;
    let Some(found) = found else {
        return Ok(Some(SnapshotHold::Undecided));
    };
    match found.superseded_at {
        None => return Ok(Some(SnapshotHold::Newest)),
        Some(at) if at > bound.before || at > bound.now => return Ok(Some(SnapshotHold::Young)),
        Some(_) => {}
    }
    // Learned and volatile ones prove nothing.
    let proven = first(
        connection,
        "SELECT 1 FROM snapshots WHERE tier = ?1 AND epoch = ?2 AND seq = ?3
             AND (epoch, seq) > (?4, ?5) AND base_seq IS NULL AND proof < 3
             AND ended_at <= ?6 AND ended_at <= ?7
             AND NOT EXISTS (SELECT 1 FROM snapshot_graves AS its
                 WHERE its.tier = ?1 AND its.epoch = ?2 AND its.seq = ?3 AND its.doomed = 1)",
        params![
            tier.0,
            by.epoch,
            int(by.seq),
            id.epoch,
            int(id.seq),
            bound.before.nanos(),
            bound.now.nanos()
        ],
        |_| Ok(()),
        "look at the full snapshot",
        by,
    )?;
    if proven.is_none() {
        return Ok(Some(SnapshotHold::Unproven));
    }
    if is_poorer(connection, tier, by, id)? {
        return Ok(Some(SnapshotHold::Poorer));
    }
    let stands = first(
        connection,
        "SELECT 1 FROM snapshots AS upon
         WHERE tier = ?1 AND base_epoch = ?2 AND base_seq = ?3
             AND NOT (?4 AND EXISTS (SELECT 1 FROM snapshot_graves AS its
                 WHERE its.tier = ?1 AND its.epoch = upon.epoch AND its.seq = upon.seq))
         LIMIT 1",
        params![tier.0, id.epoch, int(id.seq), together],
        |_| Ok(()),
        "look what stands on",
        id,
    )?;
    Ok(stands.map(|()| SnapshotHold::StoodOn))
}

/// May there be something that only `id`, or what it stands on, lists?
fn is_poorer(
    connection: &Connection,
    tier: TierId,
    by: AggregateId,
    id: AggregateId,
) -> Result<bool, CatalogError> {
    match gaps(connection, tier, by)? {
        None => Ok(true),
        Some(0) => Ok(false),
        Some(missing) => Ok(gaps(connection, tier, id)?.is_none_or(|own| missing > own)),
    }
}

/// The gaps of the full one of a chain: an incremental one lists, and misses, only what changed.
fn gaps(
    connection: &Connection,
    tier: TierId,
    of: AggregateId,
) -> Result<Option<u64>, CatalogError> {
    let mut at = of;
    loop {
        let key = params![tier.0, at.epoch, int(at.seq)];
        let found = first(
            connection,
            "SELECT * FROM snapshots WHERE tier = ? AND epoch = ? AND seq = ?",
            key,
            row,
            "look at the gaps of the snapshot",
            at,
        )?;
        match found.map(|found| (found.base, found.gaps)) {
            // What says that it stands on a newer one is damaged.
            Some((Some(base), _)) if base < at => at = base,
            Some((None, gaps)) => return Ok(gaps),
            Some((Some(_), _)) | None => return Ok(None),
        }
    }
}
