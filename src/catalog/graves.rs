//! Is a version dead? Tombstones, what scans proved, and the records that they met (P8).
//!
//! Invariant: a version is dead only with a tombstone that is older than the caller's bound, whose
//! window was over before the last complete scan of this epoch began, while no mark for another look stands, no row
//! names it and that scan met no record that does. A scan of an earlier epoch proves nothing: what
//! happened between it and an older catalog that was put back is not known.

use super::sql::{change, first, int, maybe_handle, some_time, time};
use super::{Catalog, CatalogError, Durability};
use crate::id::{AggregateId, DataVersion, FileId, NodeHandle, TierId, Timestamp};
use rusqlite::{Connection, params};

/// What keeps a member's bytes on their tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hold {
    /// Without a tombstone nothing is dead.
    NoTombstone,
    /// A row of the catalog names it.
    NamedByFile,
    /// Its tombstone is younger than the bound.
    Young,
    /// No complete scan began after the tombstone's window in this epoch, or something is to be scanned again.
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
    /// This copy of it was given up, and there is another good one.
    GivenUp,
}

/// Whose decision it is, and what it may rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Tombstones must be older.
    pub before: Timestamp,
    /// Now.
    pub now: Timestamp,
}

/// What a scan is worth.
pub(super) struct Proof {
    /// Generation of the last complete scan of this epoch.
    pub(super) generation: Option<i64>,
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

    /// Do copies of a later version of the file lie anywhere?
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn has_later_copies(&self, (file, version): MemberKey) -> Result<bool, CatalogError> {
        self.read(|connection| {
            let later = first(
                connection,
                "SELECT 1 FROM copies WHERE file = ? AND version > ? LIMIT 1",
                params![file.0, int(version.0)],
                |_| Ok(()),
                "look for later copies of",
                file,
            )?;
            Ok(later.is_some())
        })
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

pub(super) fn proof(connection: &Connection) -> Result<Proof, CatalogError> {
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
    // Somebody who is bringing it back makes its copies count first.
    let counted = first(
        connection,
        "SELECT 1 FROM copies WHERE file = ? AND version = ? AND live = 1 LIMIT 1",
        key,
        |_| Ok(()),
        "look for live copies of",
        file,
    )?;
    if needed.is_some() || counted.is_some() {
        return Ok(Err(Hold::NamedByFile));
    }
    if at > bound.before || at > bound.now {
        return Ok(Err(Hold::Young));
    }
    // A stub may come back from a backup until the window's end, and the scan must have been able to
    // meet it.
    let keep = bound.now.nanos().saturating_sub(bound.before.nanos());
    let window_ends = at.nanos().saturating_add(keep);
    let Some(proven) = proof
        .generation
        .filter(|g| *g > generation && proof.begun_at.nanos() > window_ends)
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

pub(super) fn is_named(
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

pub(super) fn departed(
    connection: &Connection,
    place: (TierId, AggregateId),
    member: MemberKey,
    bound: Bound,
    proof: &Proof,
) -> Result<Result<Departed, Hold>, CatalogError> {
    if place.1.is_part() {
        return part_departed(connection, place, member, bound, proof);
    }
    match grave(connection, member, bound, proof)? {
        Ok(grave) => Ok(Ok(Departed::Dead(grave))),
        Err(_) if has_moved(connection, place, member)? => Ok(Ok(Departed::Moved)),
        Err(_) if is_given_up(connection, place, member)? => Ok(Ok(Departed::GivenUp)),
        Err(hold) => Ok(Err(hold)),
    }
}

/// Of a part whose aggregate is nowhere: its version is dead, or no node, copy or record ever named it. Or a
/// copy of it on the same tier is good and proven, which is whole without this part.
fn part_departed(
    connection: &Connection,
    (tier, id): (TierId, AggregateId),
    (file, version): MemberKey,
    bound: Bound,
    proof: &Proof,
) -> Result<Result<Departed, Hold>, CatalogError> {
    let (names, whole) = first(
        connection,
        "SELECT EXISTS (SELECT 1 FROM nodes WHERE file = ?1 AND version = ?2 AND state <> 2)
             OR EXISTS (SELECT 1 FROM copies WHERE file = ?1 AND version = ?2),
             EXISTS (SELECT 1 FROM copies AS good
                 JOIN aggregates AS its ON its.tier = good.tier AND its.epoch = good.epoch
                     AND its.seq = good.seq
                 WHERE good.file = ?1 AND good.version = ?2 AND good.tier = ?3
                     AND good.state = 0 AND good.live = 1 AND its.life = 0 AND its.proof <> 4
                     AND (its.epoch, its.seq) <> (?4, ?5))",
        params![file.0, int(version.0), tier.0, id.epoch, int(id.head().seq)],
        |row| Ok((row.get::<_, bool>(0)?, row.get::<_, bool>(1)?)),
        "look who needs",
        id,
    )?
    .unwrap_or((true, false));
    if whole {
        return Ok(Ok(Departed::GivenUp));
    }
    match grave(connection, (file, version), bound, proof)? {
        Ok(grave) => Ok(Ok(Departed::Dead(grave))),
        Err(Hold::NoTombstone) if names => Ok(Err(Hold::NamedByFile)),
        Err(Hold::NoTombstone) => {
            let Some(proven) = proof.generation else {
                return Ok(Err(Hold::Unscanned));
            };
            let named = is_named(connection, Naming::Version((file, version)), proven)?;
            Ok(if named {
                Err(Hold::NamedByRecord)
            } else {
                Ok(Departed::GivenUp)
            })
        }
        Err(hold) => Ok(Err(hold)),
    }
}

/// The copy at this place was given up by an administrator, whose row stays to say so (state 3), and a
/// good one lies elsewhere, in an ordinary aggregate; or it was bad and retired, and the good one lies on
/// the same tier, proven.
fn is_given_up(
    connection: &Connection,
    (tier, id): (TierId, AggregateId),
    (file, version): MemberKey,
) -> Result<bool, CatalogError> {
    let given_up = first(
        connection,
        "SELECT 1 FROM copies AS here
             JOIN copies AS good ON good.file = here.file AND good.version = here.version
             JOIN aggregates AS its ON its.tier = good.tier AND its.epoch = good.epoch
                 AND its.seq = good.seq
         WHERE here.file = ?1 AND here.version = ?2 AND here.tier = ?3 AND here.epoch = ?4
             AND here.seq = ?5 AND good.state = 0 AND its.life = 0
             AND (here.state = 3 OR here.state = 2 AND here.live = 0 AND good.live = 1
                  AND good.tier = here.tier AND its.proof <> 4)",
        params![file.0, int(version.0), tier.0, id.epoch, int(id.seq)],
        |_| Ok(()),
        "look whether it was given up in",
        id,
    )?;
    Ok(given_up.is_some())
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
