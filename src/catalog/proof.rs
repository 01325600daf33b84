//! What reading copies back showed: which are due to be read again, which are bad, and what was made
//! again in place of those.
//!
//! Invariants:
//! - A copy that was read and found good counts as checked at that moment; one found bad keeps the
//!   time of its last good check, counts for no release, and stays listed until another copy on its tier
//!   takes its place ([`Catalog::retire`]).
//! - A row never becomes good again but by a read that found it good, and that began when the row was
//!   already what it is now: of two reads at once the one that found it bad is believed. A retired one
//!   never does.

use super::aggregates::{self, COPY, copy_row};
use super::copy::{Copy, CopyPlace, CopyState};
use super::sql::{Code, all, change, first, handle, int, maybe_time, page, uint};
use super::{Catalog, CatalogError, Durability, NewAggregate, NodeId, tombs};
use crate::id::{AggregateId, DataVersion, FileId, NodeHandle, TierId, Timestamp};
use rusqlite::{Connection, params};

/// A live copy that was found bad, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadCopy {
    /// The copy.
    pub copy: Copy,
    /// A file that needs it; `None`: none does at present.
    pub node: Option<NodeId>,
}

/// A live copy as a verification of the whole archive meets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verifiable {
    /// The copy.
    pub copy: Copy,
    /// A file that needs it.
    pub node: NodeId,
    /// Its inode.
    pub handle: NodeHandle,
}

/// A copy that was made from another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// The file's node.
    pub node: NodeId,
    /// The new copy.
    pub copy: Copy,
}

/// Copies of one tier, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProofCount {
    /// The tier.
    pub tier: TierId,
    /// Copies that files need.
    pub copies: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// Of them, those found bad and not made again.
    pub bad: u64,
    /// When the one that was not read for the longest time was last read, or else proven.
    pub oldest: Option<Timestamp>,
}

impl Catalog {
    /// Notes what reading (or missing) a copy showed. A good read counts as verified at `now`: when it
    /// began.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn set_copy_state(
        &self,
        copy: &Copy,
        state: CopyState,
        now: Timestamp,
        durability: Durability,
    ) -> Result<(), CatalogError> {
        let copy = *copy;
        self.post(durability, move |connection| {
            if note(connection, &copy, state, now)? {
                return Ok(());
            }
            Err(CatalogError::Missing {
                step: "note what a copy is",
                object: format!("copy of {} in {}", copy.file, copy.aggregate),
            })
        })
    }

    /// The same of many; those that are no longer known are passed over.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn note_checks(
        &self,
        checks: Vec<(Copy, CopyState)>,
        now: Timestamp,
        durability: Durability,
    ) -> Result<(), CatalogError> {
        self.post_many(checks.len(), durability, move |connection| {
            for (copy, state) in &checks {
                note(connection, copy, *state, now)?;
            }
            Ok(())
        })
    }

    /// Copies of live files on a tier that were verified (or else proven) before `before`, oldest
    /// first, from behind `after`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn copies_to_verify(
        &self,
        tier: TierId,
        before: Timestamp,
        after: Option<&Copy>,
        limit: usize,
    ) -> Result<Vec<Copy>, CatalogError> {
        let (aggregate, _, file, version) = begin(after.map(Copy::place));
        let age = after.map_or(i64::MIN, |c| c.last_verified.unwrap_or(c.proven_at).nanos());
        self.read(|connection| {
            all(
                connection,
                &format!(
                    "SELECT {COPY} FROM copies WHERE tier = ? AND live = 1 AND state < 2
                     AND ifnull(last_verified, proven_at) < ?
                     AND (ifnull(last_verified, proven_at), file, version, epoch, seq)
                         > (?, ?, ?, ?, ?)
                     ORDER BY ifnull(last_verified, proven_at), file, version, epoch, seq LIMIT ?"
                ),
                params![
                    tier.0,
                    before.nanos(),
                    age,
                    file.0,
                    version,
                    aggregate.epoch,
                    int(aggregate.seq),
                    page(limit)
                ],
                copy_row,
                "find copies to verify",
                tier,
            )
        })
    }

    /// Copies in an aggregate that files need, in the order of their places, from after `after`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn live_members(
        &self,
        tier: TierId,
        aggregate: AggregateId,
        after: Option<CopyPlace>,
        limit: usize,
    ) -> Result<Vec<Copy>, CatalogError> {
        let (_, header, file, version) = begin(after);
        self.read(|connection| {
            all(
                connection,
                &format!(
                    "SELECT {COPY} FROM copies WHERE tier = ? AND epoch = ? AND seq = ?
                     AND (header, file, version) > (?, ?, ?) AND live = 1
                     ORDER BY header, file, version LIMIT ?"
                ),
                params![
                    tier.0,
                    aggregate.epoch,
                    int(aggregate.seq),
                    header,
                    file.0,
                    version,
                    page(limit)
                ],
                copy_row,
                "list live members",
                aggregate,
            )
        })
    }

    /// The copies of one version, good ones first, but those in whose place others were made.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn live_copies(
        &self,
        file: FileId,
        version: DataVersion,
    ) -> Result<Vec<Copy>, CatalogError> {
        self.read(|connection| {
            all(
                connection,
                &format!(
                    "SELECT {COPY} FROM copies WHERE file = ? AND version = ?
                     AND (live = 1 OR state < 2) ORDER BY state"
                ),
                params![file.0, int(version.0)],
                copy_row,
                "find copies",
                file,
            )
        })
    }

    /// A tier's bad copies that files need, in the order of their places.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn bad_copies(
        &self,
        tier: TierId,
        after: Option<CopyPlace>,
        limit: usize,
    ) -> Result<Vec<BadCopy>, CatalogError> {
        let (aggregate, header, file, version) = begin(after);
        self.read(|connection| {
            let bad = all(
                connection,
                &format!(
                    "SELECT {COPY} FROM copies WHERE tier = ? AND live = 1 AND state = 2
                     AND (epoch, seq, header, file, version) > (?, ?, ?, ?, ?)
                     ORDER BY epoch, seq, header, file, version LIMIT ?"
                ),
                params![
                    tier.0,
                    aggregate.epoch,
                    int(aggregate.seq),
                    header,
                    file.0,
                    version,
                    page(limit)
                ],
                copy_row,
                "list bad copies of",
                tier,
            )?;
            let whose = |copy: Copy| {
                let node = holder(connection, &copy)?.map(|(node, _)| node);
                Ok(BadCopy { copy, node })
            };
            bad.into_iter().map(whose).collect()
        })
    }

    /// A tier's copies that files need, in the order of their places, with a file each; and where to
    /// go on. A page may be empty although more follow.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn verifiable(
        &self,
        tier: TierId,
        after: Option<CopyPlace>,
        limit: usize,
    ) -> Result<(Vec<Verifiable>, Option<CopyPlace>), CatalogError> {
        let (aggregate, header, file, version) = begin(after);
        self.read(|connection| {
            let copies = all(
                connection,
                &format!(
                    "SELECT {COPY} FROM copies WHERE tier = ?
                     AND (epoch, seq, header, file, version) > (?, ?, ?, ?, ?) AND live = 1
                     ORDER BY epoch, seq, header, file, version LIMIT ?"
                ),
                params![
                    tier.0,
                    aggregate.epoch,
                    int(aggregate.seq),
                    header,
                    file.0,
                    version,
                    page(limit)
                ],
                copy_row,
                "list copies of",
                tier,
            )?;
            let next = copies.last().map(Copy::place);
            let mut found = Vec::with_capacity(copies.len());
            for copy in copies {
                if let Some((node, handle)) = holder(connection, &copy)? {
                    found.push(Verifiable { copy, node, handle });
                }
            }
            Ok((found, next))
        })
    }

    /// An aggregate of copies that were made from other copies is durable. Always durable; all or
    /// nothing. A copy whose version no file has any more counts as nobody's.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn made_again(
        &self,
        aggregate: NewAggregate,
        made: Vec<Made>,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        self.write_many(made.len(), Durability::Full, move |connection| {
            aggregates::insert(connection, &aggregate, now)?;
            for Made { node, copy } in &made {
                aggregates::put_copy(connection, copy)?;
                if holder(connection, copy)?.is_none() {
                    unneeded(connection, copy)?;
                }
                tombs::recount(connection, *node)?;
            }
            Ok(())
        })
    }

    /// Bad copies whose place others on their tier have taken: nobody needs them any more. One without
    /// a good one that counts, in an ordinary aggregate of its tier, stays. Gives how many were retired.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn retire(&self, copies: Vec<Copy>, durability: Durability) -> Result<u64, CatalogError> {
        self.write_many(copies.len(), durability, move |connection| {
            let mut retired = 0;
            for copy in &copies {
                needed_again(connection, copy)?;
                retired += u64::from(unneeded_if_bad(connection, copy)?);
            }
            Ok(retired)
        })
    }

    /// The copies of each tier, counted, with the age of their oldest check.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn proof_counts(&self) -> Result<Vec<ProofCount>, CatalogError> {
        self.read(|connection| {
            let mut counts = all(
                connection,
                "SELECT tier, copies, bytes, bad FROM proof ORDER BY tier",
                [],
                |row| {
                    Ok(ProofCount {
                        tier: TierId(row.get("tier")?),
                        copies: uint(row, "copies")?,
                        bytes: uint(row, "bytes")?,
                        bad: uint(row, "bad")?,
                        oldest: None,
                    })
                },
                "count",
                "copies",
            )?;
            for count in &mut counts {
                count.oldest = first(
                    connection,
                    "SELECT ifnull(last_verified, proven_at) AS checked FROM copies
                     WHERE tier = ? AND live = 1 AND state < 2
                     ORDER BY ifnull(last_verified, proven_at) LIMIT 1",
                    [count.tier.0],
                    |row| maybe_time(row, "checked"),
                    "find the oldest check on",
                    count.tier,
                )?
                .flatten();
            }
            Ok(counts)
        })
    }
}

/// As the statements compare it.
fn begin(after: Option<CopyPlace>) -> (AggregateId, i64, FileId, i64) {
    let first = (AggregateId { epoch: 0, seq: 0 }, -1, FileId([0; 16]), -1);
    after.map_or(first, |at| {
        (at.aggregate, int(at.header), at.file, int(at.version.0))
    })
}

/// `false`: the copy is not known, or was given up meanwhile; or it was found good by a read that
/// began when it was thought to be something else: another read, which ended first, knows better.
fn note(
    connection: &Connection,
    copy: &Copy,
    state: CopyState,
    now: Timestamp,
) -> Result<bool, CatalogError> {
    let place = params![
        copy.file.0,
        int(copy.version.0),
        copy.tier.0,
        copy.aggregate.epoch,
        int(copy.aggregate.seq)
    ];
    let was = first(
        connection,
        "SELECT state, live FROM copies WHERE file = ? AND version = ? AND tier = ? AND epoch = ?
         AND seq = ? AND state < 3",
        place,
        |row| Ok((row.get::<_, i64>("state")?, row.get::<_, bool>("live")?)),
        "look what is known of a copy in",
        copy.aggregate,
    )?;
    let Some((was, live)) = was else {
        return Ok(false);
    };
    let is_good = state == CopyState::Good;
    if is_good && (was != copy.state.code() || !live) {
        return Ok(false);
    }
    let verified = is_good.then_some(now.nanos());
    let rows = change(
        connection,
        "UPDATE copies SET state = ?6,
             last_verified = max(ifnull(?7, last_verified), ifnull(last_verified, ?7))
         WHERE file = ?1 AND version = ?2 AND tier = ?3 AND epoch = ?4 AND seq = ?5",
        params![
            copy.file.0,
            int(copy.version.0),
            copy.tier.0,
            copy.aggregate.epoch,
            int(copy.aggregate.seq),
            state.code(),
            verified
        ],
        "note what a copy is",
        copy.aggregate,
    )?;
    if rows > 0 && state.code() != was {
        let holders = all(
            connection,
            "SELECT id FROM nodes WHERE file = ?",
            [copy.file.0],
            |row| row.get(0).map(NodeId),
            "find by file",
            copy.file,
        )?;
        for node in holders {
            tombs::recount(connection, node)?;
        }
    }
    Ok(rows > 0)
}

/// A node that needs the copy: its present version is this one.
fn holder(
    connection: &Connection,
    copy: &Copy,
) -> Result<Option<(NodeId, NodeHandle)>, CatalogError> {
    first(
        connection,
        "SELECT id, handle FROM nodes WHERE file = ? AND version = ? AND state <> 2 LIMIT 1",
        params![copy.file.0, int(copy.version.0)],
        |row| Ok((NodeId(row.get("id")?), handle(row, "handle")?)),
        "find who needs",
        copy.file,
    )
}

fn unneeded(connection: &Connection, copy: &Copy) -> Result<bool, CatalogError> {
    set_unneeded(
        connection,
        copy,
        "UPDATE copies SET live = 0 WHERE file = ? AND version = ? AND tier = ? AND epoch = ?
         AND seq = ? AND live = 1",
    )
}

/// Good copies, on the tier of this one, of a version that a file holds count: one that was made while the file
/// was taken for changed does not yet.
fn needed_again(connection: &Connection, copy: &Copy) -> Result<(), CatalogError> {
    if holder(connection, copy)?.is_none() {
        return Ok(());
    }
    let of = params![copy.file.0, int(copy.version.0), copy.tier.0];
    let places = all(
        connection,
        "SELECT epoch, seq, stored_len FROM copies WHERE file = ?1 AND version = ?2 AND tier = ?3
             AND state = 0 AND live = 0
             AND NOT EXISTS (SELECT 1 FROM tombstones WHERE file = ?1 AND version = ?2)
             AND EXISTS (SELECT 1 FROM aggregates AS its WHERE its.tier = copies.tier
                 AND its.epoch = copies.epoch AND its.seq = copies.seq AND its.life = 0)",
        of,
        |row| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, i64>(2)?,
            ))
        },
        "find copies that count again",
        copy.file,
    )?;
    for (epoch, seq, bytes) in places {
        change(
            connection,
            "UPDATE copies SET live = 1
             WHERE file = ? AND version = ? AND tier = ? AND epoch = ? AND seq = ?",
            params![copy.file.0, int(copy.version.0), copy.tier.0, epoch, seq],
            "count a copy again",
            copy.file,
        )?;
        change(
            connection,
            "UPDATE aggregates SET live_members = live_members + 1, live_bytes = live_bytes + ?
             WHERE tier = ? AND epoch = ? AND seq = ?",
            params![bytes, copy.tier.0, epoch, seq],
            "count live members",
            copy.file,
        )?;
    }
    Ok(())
}

fn unneeded_if_bad(connection: &Connection, copy: &Copy) -> Result<bool, CatalogError> {
    set_unneeded(
        connection,
        copy,
        "UPDATE copies SET live = 0 WHERE file = ?1 AND version = ?2 AND tier = ?3 AND epoch = ?4
         AND seq = ?5 AND live = 1 AND state = 2
         AND EXISTS (SELECT 1 FROM copies AS good
             JOIN aggregates AS its ON its.tier = good.tier AND its.epoch = good.epoch
                 AND its.seq = good.seq
             WHERE good.file = ?1 AND good.version = ?2 AND good.tier = ?3 AND good.state = 0
                 AND good.live = 1 AND its.life = 0)",
    )
}

fn set_unneeded(connection: &Connection, copy: &Copy, sql: &str) -> Result<bool, CatalogError> {
    let place = params![
        copy.file.0,
        int(copy.version.0),
        copy.tier.0,
        copy.aggregate.epoch,
        int(copy.aggregate.seq)
    ];
    if change(connection, sql, place, "retire a copy", copy.aggregate)? == 0 {
        return Ok(false);
    }
    change(
        connection,
        "UPDATE aggregates SET live_members = live_members - 1, live_bytes = live_bytes - (
             SELECT stored_len FROM copies WHERE file = ? AND version = ? AND tier = ?
                 AND epoch = ? AND seq = ?)
         WHERE tier = ?3 AND epoch = ?4 AND seq = ?5",
        place,
        "count live members",
        copy.aggregate,
    )?;
    Ok(true)
}
