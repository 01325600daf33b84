//! The way out of an aggregate: condemned, doomed, gone (P8, P9).
//!
//! Invariants:
//! - An aggregate is condemned, and doomed, in a transaction that looks once more whether every
//!   member is dead or moved; what names a member of a condemned one takes it back, in its own
//!   transaction. Both go through the one writer, so one of them is first.
//! - A decision binds the epoch that made it and no other.

use super::aggregates::{COPY, aggregate_row, copy_row};
use super::copy::{Aggregate, Copy, Life};
use super::graves::{Bound, Hold, MemberKey, Naming, departed, is_named, proof};
use super::sql::{Code, all, change, first, int, page, uint};
use super::{Catalog, CatalogError, Durability, incarnation};
use crate::id::{AggregateId, FileId, TierId, Timestamp};
use rusqlite::{Connection, params};
use std::collections::BTreeSet;

/// The aggregates of one life on a tier, summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TierSum {
    /// What they are.
    pub life: Life,
    /// How many.
    pub objects: u64,
    /// Their lengths.
    pub len: u64,
    /// Stored bytes of their members.
    pub bytes: u64,
    /// Those of members that some file needs.
    pub live_bytes: u64,
}

impl Catalog {
    /// A tier's ordinary aggregates of which some member is needed by nobody, in the order of their
    /// names.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn retired(
        &self,
        tier: TierId,
        after: Option<AggregateId>,
        limit: usize,
    ) -> Result<Vec<Aggregate>, CatalogError> {
        let after = after.unwrap_or(AggregateId { epoch: 0, seq: 0 });
        self.read(|connection| {
            all(
                connection,
                "SELECT * FROM aggregates WHERE tier = ? AND (epoch, seq) > (?, ?)
                     AND life = 0 AND (live_members < members OR moved_seq > 0)
                 ORDER BY epoch, seq LIMIT ?",
                params![tier.0, after.epoch, int(after.seq), page(limit)],
                aggregate_row,
                "list retired aggregates of tier",
                tier,
            )
        })
    }

    /// A tier's aggregates of one life that is not the ordinary one, in the order of their names.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn of_life(
        &self,
        tier: TierId,
        life: Life,
        after: Option<AggregateId>,
        limit: usize,
    ) -> Result<Vec<Aggregate>, CatalogError> {
        let after = after.unwrap_or(AggregateId { epoch: 0, seq: 0 });
        self.read(|connection| {
            all(
                connection,
                "SELECT * FROM aggregates WHERE tier = ? AND life = ? AND life > 0
                     AND (epoch, seq) > (?, ?) ORDER BY epoch, seq LIMIT ?",
                params![
                    tier.0,
                    life.code(),
                    after.epoch,
                    int(after.seq),
                    page(limit)
                ],
                aggregate_row,
                "list aggregates by their life of tier",
                tier,
            )
        })
    }

    /// Sums of a tier's aggregates, by life.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn tier_sums(&self, tier: TierId) -> Result<Vec<TierSum>, CatalogError> {
        self.read(|connection| {
            all(
                connection,
                "SELECT * FROM tier_sums WHERE tier = ? AND objects > 0 ORDER BY life",
                [tier.0],
                |row| {
                    Ok(TierSum {
                        life: super::sql::coded(row, "life")?,
                        objects: uint(row, "objects")?,
                        len: uint(row, "len")?,
                        bytes: uint(row, "bytes")?,
                        live_bytes: uint(row, "live_bytes")?,
                    })
                },
                "sum aggregates of tier",
                tier,
            )
        })
    }

    /// Decides, durably and under the present epoch, that an aggregate goes, after looking at each
    /// of its members once more: those of its index, which the caller read, and all that the
    /// catalog has there. `Err`: what keeps it, and nothing was changed.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn condemn(
        &self,
        tier: TierId,
        id: AggregateId,
        members: Vec<MemberKey>,
        bound: Bound,
    ) -> Result<Result<(), Hold>, CatalogError> {
        self.write_many(members.len(), Durability::Full, move |connection| {
            if life_of(connection, tier, id)?.is_none_or(|(life, ..)| life != Life::Live) {
                return Ok(Err(Hold::Unclear));
            }
            if let Some(hold) = held(connection, tier, id, &members, bound)? {
                return Ok(Err(hold));
            }
            set_life(connection, tier, id, Life::Condemned, bound.now)?;
            Ok(Ok(()))
        })
    }

    /// The last look before the object of a condemned aggregate is deleted. It must have been
    /// condemned in this epoch and not after `decided`; else, or if something needs a member
    /// again, it is an ordinary one from now on (`Err`: why). Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn doom(
        &self,
        tier: TierId,
        id: AggregateId,
        members: Vec<MemberKey>,
        decided: Timestamp,
        bound: Bound,
    ) -> Result<Result<(), Hold>, CatalogError> {
        self.write_many(members.len(), Durability::Full, move |connection| {
            let Some((Life::Condemned, since, epoch)) = life_of(connection, tier, id)? else {
                return Ok(Err(Hold::Unclear));
            };
            let hold = if epoch != incarnation::epoch(connection)? {
                Some(Hold::Unscanned)
            } else if since.is_none_or(|since| since > decided) {
                return Ok(Err(Hold::Young));
            } else {
                held(connection, tier, id, &members, bound)?
            };
            match hold {
                Some(hold) => {
                    set_life(connection, tier, id, Life::Live, bound.now)?;
                    Ok(Err(hold))
                }
                None => {
                    set_life(connection, tier, id, Life::Doomed, bound.now)?;
                    Ok(Ok(()))
                }
            }
        })
    }

    /// A condemned or doomed aggregate whose object is there is an ordinary one again. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn spare(&self, tier: TierId, id: AggregateId) -> Result<(), CatalogError> {
        self.write(Durability::Full, move |connection| {
            change(
                connection,
                "UPDATE aggregates SET life = 0, since = NULL
                 WHERE tier = ? AND epoch = ? AND seq = ? AND life IN (1, 3)",
                params![tier.0, id.epoch, int(id.seq)],
                "spare",
                id,
            )
            .map(drop)
        })
    }

    /// The object of a doomed or condemned aggregate is gone: its row and its copies go, and with the
    /// last copy of a version its tombstone. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn forget_aggregate(&self, tier: TierId, id: AggregateId) -> Result<(), CatalogError> {
        self.write(Durability::Full, move |connection| {
            match life_of(connection, tier, id)? {
                Some((Life::Condemned | Life::Doomed, ..)) => {}
                _ => return Ok(()),
            }
            for copy in rows_in(connection, tier, id)? {
                drop_copy(connection, &copy)?;
                let left = super::aggregates::copies(connection, copy.file, copy.version)?;
                if left.is_empty() {
                    change(
                        connection,
                        "DELETE FROM tombstones WHERE file = ? AND version = ?",
                        params![copy.file.0, int(copy.version.0)],
                        "forget a tombstone",
                        copy.file,
                    )?;
                }
                recount_holders(connection, copy.file)?;
            }
            change(
                connection,
                "DELETE FROM aggregates WHERE tier = ? AND epoch = ? AND seq = ?",
                params![tier.0, id.epoch, int(id.seq)],
                "forget",
                id,
            )
            .map(drop)
        })
    }

    /// All that the catalog has in an aggregate.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn all_members(&self, tier: TierId, id: AggregateId) -> Result<Vec<Copy>, CatalogError> {
        self.read(|connection| rows_in(connection, tier, id))
    }
}

/// What keeps an aggregate, if anything does.
fn held(
    connection: &Connection,
    tier: TierId,
    id: AggregateId,
    members: &[MemberKey],
    bound: Bound,
) -> Result<Option<Hold>, CatalogError> {
    let proof = proof(connection)?;
    let Some(proven) = proof.generation else {
        return Ok(Some(Hold::Unscanned));
    };
    if is_named(connection, Naming::Place(tier, id), proven)? {
        return Ok(Some(Hold::NamedByRecord));
    }
    let of_rows = rows_in(connection, tier, id)?;
    let of_rows = of_rows.iter().map(|c| (c.file, c.version));
    let mut seen = BTreeSet::new();
    for member in members.iter().copied().chain(of_rows) {
        if seen.insert((member.0.0, member.1))
            && let Err(hold) = departed(connection, (tier, id), member, bound, &proof)?
        {
            return Ok(Some(hold));
        }
    }
    Ok(None)
}

/// All copies in an aggregate.
pub(super) fn rows_in(
    connection: &Connection,
    tier: TierId,
    id: AggregateId,
) -> Result<Vec<Copy>, CatalogError> {
    all(
        connection,
        &format!(
            "SELECT {COPY} FROM copies WHERE tier = ? AND epoch = ? AND seq = ? ORDER BY header"
        ),
        params![tier.0, id.epoch, int(id.seq)],
        copy_row,
        "list all members",
        id,
    )
}

pub(super) fn drop_copy(connection: &Connection, copy: &Copy) -> Result<(), CatalogError> {
    change(
        connection,
        "DELETE FROM copies
         WHERE file = ? AND version = ? AND tier = ? AND epoch = ? AND seq = ?",
        params![
            copy.file.0,
            int(copy.version.0),
            copy.tier.0,
            copy.aggregate.epoch,
            int(copy.aggregate.seq)
        ],
        "drop a copy",
        copy.file,
    )
    .map(drop)
}

/// Counts the copies of a file's nodes again.
pub(super) fn recount_holders(connection: &Connection, file: FileId) -> Result<(), CatalogError> {
    let holders = all(
        connection,
        "SELECT id FROM nodes WHERE file = ?",
        [file.0],
        |row| row.get(0).map(super::NodeId),
        "find by file",
        file,
    )?;
    holders
        .into_iter()
        .try_for_each(|node| super::tombs::recount(connection, node))
}

/// Life, since when, and the epoch that decided it.
pub(super) fn life_of(
    connection: &Connection,
    tier: TierId,
    id: AggregateId,
) -> Result<Option<(Life, Option<Timestamp>, u32)>, CatalogError> {
    first(
        connection,
        "SELECT life, since, life_epoch FROM aggregates WHERE tier = ? AND epoch = ? AND seq = ?",
        params![tier.0, id.epoch, int(id.seq)],
        |row| {
            let since = super::sql::maybe_time(row, "since")?;
            Ok((
                super::sql::coded(row, "life")?,
                since,
                row.get("life_epoch")?,
            ))
        },
        "find",
        id,
    )
}

pub(super) fn set_life(
    connection: &Connection,
    tier: TierId,
    id: AggregateId,
    life: Life,
    now: Timestamp,
) -> Result<(), CatalogError> {
    let since = (life != Life::Live).then_some(now.nanos());
    change(
        connection,
        "UPDATE aggregates SET life = ?1, since = ?2,
             life_epoch = (SELECT epoch FROM instance WHERE id = 1),
             life_generation = (SELECT generation FROM scan WHERE id = 1)
         WHERE tier = ?3 AND epoch = ?4 AND seq = ?5",
        params![life.code(), since, tier.0, id.epoch, int(id.seq)],
        "set the life of",
        id,
    )
    .map(drop)
}

/// A member of the aggregate at this place (tier, epoch, seq) is needed again.
pub(super) fn reprieve(
    connection: &Connection,
    place: (i64, i64, i64),
) -> Result<(), CatalogError> {
    change(
        connection,
        "UPDATE aggregates SET life = 0, since = NULL
         WHERE tier = ? AND epoch = ? AND seq = ? AND life = 1",
        params![place.0, place.1, place.2],
        "reprieve",
        "aggregate",
    )
    .map(drop)
}
