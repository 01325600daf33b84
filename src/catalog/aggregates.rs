//! Copies, aggregates and tombstones: what lies where, and what is known about it.

use super::copy::{Aggregate, Copy, Life, Member, Tombstone};
use super::sql::{
    Code, all, change, coded, first, int, maybe_handle, maybe_time, maybe_uint, page, some_time,
    uint,
};
use super::{Catalog, CatalogError, NewAggregate, lives};
use crate::id::{AggregateId, DataVersion, FileId, TierId, Timestamp};
use cairn_mover::Crc32c;
use rusqlite::{Connection, Row, params};

impl Catalog {
    /// The copies of one version, good ones first; those that were given up are none.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn copies(&self, file: FileId, version: DataVersion) -> Result<Vec<Copy>, CatalogError> {
        self.read(|connection| copies(connection, file, version))
    }

    /// An aggregate's row.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn aggregate(
        &self,
        tier: TierId,
        id: AggregateId,
    ) -> Result<Option<Aggregate>, CatalogError> {
        self.read(|connection| {
            first(
                connection,
                "SELECT * FROM aggregates WHERE tier = ? AND epoch = ? AND seq = ?",
                params![tier.0, id.epoch, int(id.seq)],
                aggregate_row,
                "find",
                id,
            )
        })
    }

    /// A tier's aggregates in the order of their names, from after `after`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn aggregates(
        &self,
        tier: TierId,
        after: Option<AggregateId>,
        limit: usize,
    ) -> Result<Vec<Aggregate>, CatalogError> {
        self.read(|connection| of_tier(connection, tier, after, limit))
    }

    /// What lies in an aggregate by ascending offset, from after the offset `after`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn members(
        &self,
        tier: TierId,
        aggregate: AggregateId,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Member>, CatalogError> {
        let after = after.map_or(-1, int);
        self.read(|connection| {
            all(
                connection,
                &format!(
                    "SELECT {COPY} FROM copies WHERE tier = ? AND epoch = ? AND seq = ?
                     AND header > ? ORDER BY header LIMIT ?"
                ),
                params![
                    tier.0,
                    aggregate.epoch,
                    int(aggregate.seq),
                    after,
                    page(limit)
                ],
                copy_row,
                "list members",
                aggregate,
            )
        })
    }

    /// Tombstones in the order in which they were made, from after the number `after`; those whose
    /// version is being undeleted are left out.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn tombstones(
        &self,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Tombstone>, CatalogError> {
        self.read(|connection| {
            all(
                connection,
                "SELECT * FROM tombstones WHERE id > ? AND heir IS NULL ORDER BY id LIMIT ?",
                params![after.map_or(0, int), page(limit)],
                tombstone_row,
                "list",
                "tombstones",
            )
        })
    }

    /// The highest aggregate name that the catalog knows on any tier.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn newest_aggregate(&self) -> Result<Option<AggregateId>, CatalogError> {
        self.read(|connection| {
            first(
                connection,
                "SELECT epoch, seq FROM aggregates WHERE epoch >= 0 AND seq < 1 << 48
                 ORDER BY epoch DESC, seq DESC LIMIT 1",
                [],
                id_row,
                "find the newest",
                "aggregate",
            )
        })
    }
}

impl Catalog {
    /// The newest aggregates of a tier that lie there in the ordinary way, the newest first.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn newest_of(&self, tier: TierId, limit: usize) -> Result<Vec<AggregateId>, CatalogError> {
        self.read(|connection| {
            all(
                connection,
                "SELECT epoch, seq FROM aggregates WHERE tier = ? AND life = 0 AND seq < 1 << 48
                 ORDER BY epoch DESC, seq DESC LIMIT ?",
                params![tier.0, page(limit)],
                id_row,
                "find the newest of tier",
                tier,
            )
        })
    }
}

/// A tier's aggregates in the order of their names, from after `after`.
pub(super) fn of_tier(
    connection: &Connection,
    tier: TierId,
    after: Option<AggregateId>,
    limit: usize,
) -> Result<Vec<Aggregate>, CatalogError> {
    let after = after.unwrap_or(AggregateId { epoch: 0, seq: 0 });
    all(
        connection,
        "SELECT * FROM aggregates WHERE tier = ? AND (epoch, seq) > (?, ?)
         ORDER BY epoch, seq LIMIT ?",
        params![tier.0, after.epoch, int(after.seq), page(limit)],
        aggregate_row,
        "list aggregates of tier",
        tier,
    )
}

/// The first tier above `after` that has an aggregate.
pub(super) fn next_tier(
    connection: &Connection,
    after: TierId,
) -> Result<Option<TierId>, CatalogError> {
    first(
        connection,
        "SELECT tier FROM aggregates WHERE tier > ? ORDER BY tier LIMIT 1",
        [after.0],
        |row| row.get(0).map(TierId),
        "find a tier above",
        after,
    )
}

/// Columns of [`copy_row`], for `SELECT`.
pub(super) const COPY: &str =
    "file, version, tier, epoch, seq, header, stored_len, crc, state, proven_at, last_verified";

/// The copies of one version, good ones first; those that were given up are none.
pub(super) fn copies(
    connection: &Connection,
    file: FileId,
    version: DataVersion,
) -> Result<Vec<Copy>, CatalogError> {
    all(
        connection,
        &format!(
            "SELECT {COPY} FROM copies WHERE file = ? AND version = ? AND state < 3 ORDER BY state"
        ),
        params![file.0, int(version.0)],
        copy_row,
        "find copies",
        file,
    )
}

pub(super) fn id_row(row: &Row<'_>) -> rusqlite::Result<AggregateId> {
    Ok(AggregateId {
        epoch: row.get("epoch")?,
        seq: uint(row, "seq")?,
    })
}

pub(super) fn copy_row(row: &Row<'_>) -> rusqlite::Result<Copy> {
    Ok(Copy {
        file: FileId(row.get("file")?),
        version: DataVersion(uint(row, "version")?),
        tier: TierId(row.get("tier")?),
        aggregate: id_row(row)?,
        header: uint(row, "header")?,
        stored_len: uint(row, "stored_len")?,
        crc: Crc32c(row.get("crc")?),
        state: coded(row, "state")?,
        proven_at: some_time(row, "proven_at")?,
        last_verified: maybe_time(row, "last_verified")?,
    })
}

pub(super) fn aggregate_row(row: &Row<'_>) -> rusqlite::Result<Aggregate> {
    Ok(Aggregate {
        tier: TierId(row.get("tier")?),
        id: id_row(row)?,
        len: uint(row, "len")?,
        in_parts: row.get("in_parts")?,
        crc: Crc32c(row.get("crc")?),
        proof: coded(row, "proof")?,
        composed_at: some_time(row, "composed_at")?,
        members: uint(row, "members")?,
        bytes: uint(row, "bytes")?,
        live_members: uint(row, "live_members")?,
        live_bytes: uint(row, "live_bytes")?,
        life: coded(row, "life")?,
        since: maybe_time(row, "since")?,
        decided_by: row.get("life_epoch")?,
        moved_to: Some(AggregateId {
            epoch: row.get("moved_epoch")?,
            seq: uint(row, "moved_seq")?,
        })
        .filter(|to| to.seq > 0),
    })
}

pub(super) fn tombstone_row(row: &Row<'_>) -> rusqlite::Result<Tombstone> {
    Ok(Tombstone {
        id: uint(row, "id")?,
        file: FileId(row.get("file")?),
        version: DataVersion(uint(row, "version")?),
        at: some_time(row, "at")?,
        why: coded(row, "why")?,
        epoch: row.get("epoch")?,
        path: row.get("path")?,
        uid: row.get("uid")?,
        size: maybe_uint(row, "size")?,
        heir: row.get::<_, Option<[u8; 16]>>("heir")?.map(FileId),
        handle: maybe_handle(row, "handle")?,
        generation: uint(row, "generation")?,
    })
}

/// Adds the row of a new aggregate, without members yet. A learned one becomes known in full.
pub(super) fn insert(
    connection: &Connection,
    a: &NewAggregate,
    now: Timestamp,
) -> Result<(), CatalogError> {
    change(
        connection,
        "INSERT INTO aggregates (tier, epoch, seq, len, crc, proof, composed_at,
             members, bytes, live_members, live_bytes, in_parts)
         VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, 0, 0, ?)
         ON CONFLICT DO UPDATE SET len = excluded.len, crc = excluded.crc, proof = excluded.proof,
             in_parts = excluded.in_parts",
        params![
            a.tier.0,
            a.id.epoch,
            int(a.id.seq),
            int(a.len),
            a.crc.0,
            a.proof.code(),
            now.nanos(),
            a.in_parts
        ],
        "note the aggregate",
        a.id,
    )
    .map(drop)
}

/// Adds the row of an aggregate that a record names, if there is none.
pub(super) fn learn(
    connection: &Connection,
    copy: &Copy,
    now: Timestamp,
) -> Result<(), CatalogError> {
    change(
        connection,
        "INSERT OR IGNORE INTO aggregates (tier, epoch, seq, len, crc, proof, composed_at,
             members, bytes, live_members, live_bytes)
         VALUES (?, ?, ?, 0, 0, ?, ?, 0, 0, 0, 0)",
        params![
            copy.tier.0,
            copy.aggregate.epoch,
            int(copy.aggregate.seq),
            super::ProofKind::Learned.code(),
            now.nanos()
        ],
        "learn of the aggregate",
        copy.aggregate,
    )
    .map(drop)
}

/// Adds a copy, live, and counts it in its aggregate. One that is there keeps what is known of it.
pub(super) fn put_copy(connection: &Connection, copy: &Copy) -> Result<(), CatalogError> {
    if is_doomed(connection, copy)? || !add_copy(connection, copy)? {
        return Ok(());
    }
    let AggregateId { epoch, seq } = copy.aggregate;
    lives::reprieve(connection, (copy.tier.0.into(), epoch.into(), int(seq)))?;
    count(connection, copy.tier, copy.aggregate, 1, copy.stored_len)
}

/// Is the copy's object being deleted? Nothing is to rely on it any more.
pub(super) fn is_doomed(connection: &Connection, copy: &Copy) -> Result<bool, CatalogError> {
    let life = lives::life_of(connection, copy.tier, copy.aggregate)?;
    Ok(life.is_some_and(|(life, ..)| life == Life::Doomed))
}

/// Counts copies that were just added to an aggregate, all at once.
pub(super) fn count_members(
    connection: &Connection,
    aggregate: &NewAggregate,
    members: u64,
    bytes: u64,
) -> Result<(), CatalogError> {
    count(connection, aggregate.tier, aggregate.id, members, bytes)
}

pub(super) fn count(
    connection: &Connection,
    tier: TierId,
    aggregate: AggregateId,
    members: u64,
    bytes: u64,
) -> Result<(), CatalogError> {
    change(
        connection,
        "UPDATE aggregates SET members = members + ?1, bytes = bytes + ?2,
             live_members = live_members + ?1, live_bytes = live_bytes + ?2
         WHERE tier = ?3 AND epoch = ?4 AND seq = ?5",
        params![
            int(members),
            int(bytes),
            tier.0,
            aggregate.epoch,
            int(aggregate.seq)
        ],
        "count members",
        aggregate,
    )
    .map(drop)
}

/// Takes away the rows of a version's copies, and counts them no more. Their bytes are another
/// file's, too.
pub(super) fn drop_copies(
    connection: &Connection,
    file: FileId,
    version: DataVersion,
) -> Result<(), CatalogError> {
    for copy in copies(connection, file, version)? {
        change(
            connection,
            "UPDATE aggregates SET members = members - 1, bytes = bytes - ?1,
                 live_members = live_members - 1, live_bytes = live_bytes - ?1
             WHERE tier = ?2 AND epoch = ?3 AND seq = ?4",
            params![
                int(copy.stored_len),
                copy.tier.0,
                copy.aggregate.epoch,
                int(copy.aggregate.seq)
            ],
            "count members",
            copy.aggregate,
        )?;
    }
    change(
        connection,
        "DELETE FROM copies WHERE file = ? AND version = ?",
        params![file.0, int(version.0)],
        "drop copies",
        file,
    )
    .map(drop)
}

/// Adds a copy, live, that is still to be counted in its aggregate; `false`: it is there already.
pub(super) fn add_copy(connection: &Connection, copy: &Copy) -> Result<bool, CatalogError> {
    let added = change(
        connection,
        "INSERT OR IGNORE INTO copies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)",
        params![
            copy.file.0,
            int(copy.version.0),
            copy.tier.0,
            copy.aggregate.epoch,
            int(copy.aggregate.seq),
            int(copy.header),
            int(copy.stored_len),
            copy.crc.0,
            copy.state.code(),
            copy.proven_at.nanos(),
            copy.last_verified.map(Timestamp::nanos)
        ],
        "note a copy",
        copy.file,
    )?;
    Ok(added > 0)
}
