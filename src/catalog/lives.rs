//! What the collector asks, and the way out of an aggregate: condemned, doomed, gone (P8, P9).
//!
//! Invariants:
//! - A version is dead only with a tombstone that is older than the caller's bound and than the
//!   begin of the last complete scan of this epoch, while no mark for another look stands, no row
//!   names it and that scan met no record that does. A scan of an earlier epoch proves nothing: what
//!   happened between it and an older catalog that was put back is not known.
//! - An aggregate is condemned, and doomed, in a transaction that looks at all of this once more
//!   for every member; what names a member of a condemned one takes it back, in its own
//!   transaction. Both go through the one writer, so one of them is first.
//! - A decision binds the epoch that made it and no other.

use super::aggregates::{COPY, aggregate_row, copy_row};
use super::copy::{Aggregate, Copy, Life};
use super::sql::{Code, all, change, first, int, maybe_handle, page, some_time, time, uint};
use super::{Catalog, CatalogError, Durability, incarnation};
use crate::id::{AggregateId, DataVersion, FileId, NodeHandle, TierId, Timestamp};
use rusqlite::{Connection, params};
use std::collections::BTreeSet;

/// What keeps a member's bytes on their tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hold {
    /// Without a tombstone nothing is dead.
    NoTombstone,
    /// A row of the catalog names it.
    NamedByFile,
    /// Its tombstone is younger than the bound.
    Young,
    /// No complete scan began after the tombstone in this epoch, or something is to be scanned again.
    Unscanned,
    /// A scan met a record that names it, or its place.
    NamedByRecord,
    /// Its inode is there, and its record still names it.
    InodeNamesIt,
    /// Its inode is not known by a handle, and the filesystem was not mounted anew since.
    NoHandle,
    /// Another file shares its bytes: a copied stub that was adopted.
    Shared,
    /// Names without data that the namespace still has.
    Name,
    /// Its aggregate holds names alone: nobody can say that they are not needed.
    OnlyNames,
    /// What keeps it could not be looked at.
    Unclear,
}

/// The tombstone of a dead version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grave {
    /// The inode that had it.
    pub handle: Option<NodeHandle>,
    /// The backing was mounted anew since: no descriptor from before lives on.
    pub outlived: bool,
}

/// A version, as members of aggregates are told apart.
pub type MemberKey = (FileId, DataVersion);

/// How a member came to be needed no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Departed {
    /// Its version is dead, as far as the catalog knows.
    Dead(Grave),
    /// It lies, proven, in the aggregate that took the place of this one.
    Moved,
}

/// Whose decision it is, and what it may rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Tombstones must be older.
    pub before: Timestamp,
    /// Now.
    pub now: Timestamp,
}

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

/// What a scan is worth.
struct Proof {
    /// Generation of the last complete scan of this epoch.
    generation: Option<i64>,
    /// It began.
    begun_at: Timestamp,
    /// The backing's present life was first seen.
    mounted_at: Timestamp,
}

impl Catalog {
    /// What became of members of an aggregate, as far as the catalog knows, and what keeps the others.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn departed(
        &self,
        tier: TierId,
        id: AggregateId,
        members: &[MemberKey],
        bound: Bound,
    ) -> Result<Vec<Result<Departed, Hold>>, CatalogError> {
        let mut found = Vec::with_capacity(members.len());
        // In pages: no read transaction is long.
        for some in members.chunks(1000) {
            self.read(|connection| {
                let proof = proof(connection)?;
                for member in some {
                    found.push(departed(connection, (tier, id), *member, bound, &proof)?);
                }
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// When the tombstone of a version was written.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn died(&self, (file, version): MemberKey) -> Result<Option<Timestamp>, CatalogError> {
        self.read(|connection| {
            first(
                connection,
                "SELECT at FROM tombstones WHERE file = ? AND version = ?",
                params![file.0, int(version.0)],
                |row| some_time(row, "at"),
                "find the tombstone of",
                file,
            )
        })
    }

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
                     AND life = 0 AND live_members < members
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

    /// The backing's scan of the whole tree with this generation, which could look everywhere, has
    /// told the catalog all that it found: from now on it proves what it did not find. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn scan_proves(&self, generation: u64) -> Result<(), CatalogError> {
        self.write(Durability::Full, move |connection| {
            let proves = change(
                connection,
                "UPDATE scan SET proof_generation = generation, proof_epoch = epoch,
                     proof_begun_at = begun_at
                 WHERE id = 1 AND running = 0 AND generation = ?1 AND finished_generation = ?1
                     AND finished_begun_at = begun_at",
                [int(generation)],
                "note the proof of",
                "scan",
            )?;
            if proves > 0 {
                change(
                    connection,
                    "DELETE FROM namings WHERE generation < ?",
                    [int(generation)],
                    "forget what an earlier scan met",
                    "namings",
                )?;
            }
            Ok(())
        })
    }

    /// A scan met records that name these versions, or members at these places, and that are no
    /// rows of the catalog.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn met(&self, namings: Vec<Naming>, durability: Durability) -> Result<(), CatalogError> {
        self.post_many(namings.len(), durability, move |connection| {
            for naming in &namings {
                change(
                    connection,
                    "INSERT INTO namings VALUES (?, (SELECT generation FROM scan WHERE id = 1))
                     ON CONFLICT DO UPDATE SET generation = excluded.generation",
                    [naming.key()],
                    "note a record",
                    "namings",
                )?;
            }
            Ok(())
        })
    }
}

/// What a record names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// A version.
    Version(MemberKey),
    /// An aggregate in which a copy is said to lie.
    Place(TierId, AggregateId),
}

impl Naming {
    fn key(self) -> Vec<u8> {
        match self {
            Self::Version((file, version)) => {
                [b"v", &file.0[..], &version.0.to_be_bytes()].concat()
            }
            Self::Place(tier, id) => [
                b"p",
                &tier.0.to_be_bytes()[..],
                &id.epoch.to_be_bytes(),
                &id.seq.to_be_bytes(),
            ]
            .concat(),
        }
    }
}

fn proof(connection: &Connection) -> Result<Proof, CatalogError> {
    let found = first(
        connection,
        "SELECT proof_generation, ifnull(proof_begun_at, 0),
             proof_epoch = (SELECT epoch FROM instance WHERE id = 1) AND proof_generation > 0
                 AND (SELECT rows FROM row_counts WHERE what = 'rescans') = 0,
             (SELECT first_seen FROM boots
              WHERE seq = (SELECT boot FROM instance WHERE id = 1))
         FROM scan WHERE id = 1",
        [],
        |row| {
            let counts: bool = row.get(2)?;
            Ok(Proof {
                generation: counts.then_some(row.get(0)?),
                begun_at: time(row.get(1)?),
                mounted_at: time(row.get::<_, Option<i64>>(3)?.unwrap_or(i64::MIN)),
            })
        },
        "read the proof of",
        "scan",
    )?;
    found.ok_or(CatalogError::Missing {
        step: "read the proof of",
        object: "scan".to_owned(),
    })
}

/// The tombstone of a version that is dead by the catalog, or what keeps it.
fn grave(
    connection: &Connection,
    (file, version): MemberKey,
    bound: Bound,
    proof: &Proof,
) -> Result<Result<Grave, Hold>, CatalogError> {
    let key = params![file.0, int(version.0)];
    let found = first(
        connection,
        "SELECT at, generation, handle FROM tombstones WHERE file = ? AND version = ?",
        key,
        |row| {
            let at = some_time(row, "at")?;
            let generation: i64 = row.get("generation")?;
            Ok((at, generation, maybe_handle(row, "handle")?))
        },
        "find the tombstone of",
        file,
    )?;
    let Some((at, generation, handle)) = found else {
        return Ok(Err(Hold::NoTombstone));
    };
    let needed = first(
        connection,
        "SELECT 1 FROM nodes WHERE file = ? AND version = ? AND state <> 2 LIMIT 1",
        key,
        |_| Ok(()),
        "look for holders of",
        file,
    )?;
    if needed.is_some() {
        return Ok(Err(Hold::NamedByFile));
    }
    if at > bound.before || at > bound.now {
        return Ok(Err(Hold::Young));
    }
    let Some(proven) = proof
        .generation
        .filter(|g| *g > generation && proof.begun_at > at)
    else {
        return Ok(Err(Hold::Unscanned));
    };
    if is_named(connection, Naming::Version((file, version)), proven)? {
        return Ok(Err(Hold::NamedByRecord));
    }
    Ok(Ok(Grave {
        handle,
        outlived: proof.mounted_at > at,
    }))
}

fn is_named(
    connection: &Connection,
    naming: Naming,
    generation: i64,
) -> Result<bool, CatalogError> {
    let met = first(
        connection,
        "SELECT 1 FROM namings WHERE what = ? AND generation >= ?",
        params![naming.key(), generation],
        |_| Ok(()),
        "look for records",
        "namings",
    )?;
    Ok(met.is_some())
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

fn departed(
    connection: &Connection,
    place: (TierId, AggregateId),
    member: MemberKey,
    bound: Bound,
    proof: &Proof,
) -> Result<Result<Departed, Hold>, CatalogError> {
    match grave(connection, member, bound, proof)? {
        Ok(grave) => Ok(Ok(Departed::Dead(grave))),
        Err(_) if has_moved(connection, place, member)? => Ok(Ok(Departed::Moved)),
        Err(hold) => Ok(Err(hold)),
    }
}

/// A good copy lies in the aggregate that took the place of `from`, which is an ordinary one.
fn has_moved(
    connection: &Connection,
    (tier, from): (TierId, AggregateId),
    (file, version): MemberKey,
) -> Result<bool, CatalogError> {
    let moved = first(
        connection,
        "SELECT 1 FROM aggregates AS old
             JOIN copies ON copies.file = ?4 AND copies.version = ?5 AND copies.tier = old.tier
                 AND copies.epoch = old.moved_epoch AND copies.seq = old.moved_seq
             JOIN aggregates AS new ON new.tier = old.tier AND new.epoch = old.moved_epoch
                 AND new.seq = old.moved_seq
         WHERE old.tier = ?1 AND old.epoch = ?2 AND old.seq = ?3
             AND copies.state = 0 AND new.life = 0 AND new.proof <> 4
             AND NOT EXISTS (SELECT 1 FROM copies AS here
                 WHERE here.file = ?4 AND here.version = ?5 AND here.tier = ?1
                     AND here.epoch = ?2 AND here.seq = ?3)",
        params![tier.0, from.epoch, int(from.seq), file.0, int(version.0)],
        |_| Ok(()),
        "look where it moved from",
        from,
    )?;
    Ok(moved.is_some())
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
