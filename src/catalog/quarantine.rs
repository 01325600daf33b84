//! Aggregates that a restored or rebuilt catalog finds on a tier and does not know; and what took
//! the place of one that was repacked.
//!
//! Invariants:
//! - What lies in a quarantined aggregate can be read and is never deleted. It becomes an ordinary
//!   one when every member is known, or when it was waited for as for a deleted file: then what
//!   nobody names gets a tombstone, and the ordinary wait begins.
//! - Repacking moves a row from the old place to the new one in one transaction, or none of them.

use super::aggregates::{self, add_copy, count};
use super::copy::{Copy, CopyState, Life, NewAggregate};
use super::graves::MemberKey;
use super::lives::{life_of, recount_holders, rows_in, set_life};
use super::sql::{Code, all, change, first, int};
use super::{Catalog, CatalogError, Durability, ProofKind, TombstoneWhy, incarnation};
use crate::id::{AggregateId, TierId, Timestamp};
use cairn_mover::Crc32c;
use rusqlite::{Connection, params};
use std::collections::BTreeSet;

/// A regular file in an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub key: MemberKey,
    /// Offset of its header.
    pub header: u64,
    /// Stored bytes.
    pub stored_len: u64,
    /// Sum of its content.
    pub crc: Crc32c,
}

/// A member that was copied into a new aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// What it is.
    pub key: MemberKey,
    /// Offset of its header in the new aggregate.
    pub header: u64,
}

/// What became of a quarantined aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quarantined {
    /// It waits: so many members are known, so many are not.
    Waits {
        /// Named by a file, or deleted and known to be.
        known: u64,
        /// Named by nobody so far.
        unknown: u64,
    },
    /// It is an ordinary one now; so many members got tombstones.
    Released {
        /// Of members that nobody names.
        tombstones: u64,
    },
}

impl Catalog {
    /// Those of a tier's objects that the catalog does not know, or that it knows from records alone.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn unknown(
        &self,
        tier: TierId,
        objects: &[AggregateId],
    ) -> Result<Vec<AggregateId>, CatalogError> {
        self.read(|connection| {
            let mut unknown = Vec::new();
            for id in objects {
                if !is_known(connection, tier, *id)? {
                    unknown.push(*id);
                }
            }
            Ok(unknown)
        })
    }

    /// Learns of an aggregate that was found on a tier: what its index says, as copies that may be
    /// read and that count for no release. `false`: it is known by now. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn quarantine(
        &self,
        tier: TierId,
        id: AggregateId,
        (len, in_parts): (u64, bool),
        members: Vec<Found>,
        now: Timestamp,
    ) -> Result<bool, CatalogError> {
        self.write_many(members.len(), Durability::Full, move |connection| {
            if is_known(connection, tier, id)? {
                return Ok(false);
            }
            let row = NewAggregate {
                tier,
                id,
                len,
                in_parts,
                crc: Crc32c(0),
                proof: ProofKind::Learned,
            };
            aggregates::insert(connection, &row, now)?;
            set_life(connection, tier, id, Life::Quarantined, now)?;
            for found in &members {
                let copy = Copy {
                    file: found.key.0,
                    version: found.key.1,
                    tier,
                    aggregate: id,
                    header: found.header,
                    stored_len: found.stored_len,
                    crc: found.crc,
                    state: CopyState::Suspect,
                    proven_at: now,
                    last_verified: None,
                };
                if add_copy(connection, &copy)? {
                    count(connection, tier, id, 1, copy.stored_len)?;
                }
            }
            Ok(true)
        })
    }

    /// Looks whether a quarantined aggregate is known by now. `before`: it waited long enough if its
    /// quarantine began earlier. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn settle_quarantine(
        &self,
        tier: TierId,
        id: AggregateId,
        before: Timestamp,
        now: Timestamp,
    ) -> Result<Quarantined, CatalogError> {
        self.write(Durability::Full, move |connection| {
            let waits = |known, unknown| Quarantined::Waits { known, unknown };
            let Some((Life::Quarantined, Some(since), _)) = life_of(connection, tier, id)? else {
                return Ok(waits(0, 0));
            };
            let (mut known, mut unknown) = (0, Vec::new());
            for copy in rows_in(connection, tier, id)? {
                match standing(connection, (copy.file, copy.version))? {
                    Standing::Needed => {
                        known += 1;
                        trust(connection, &copy)?;
                    }
                    Standing::Dead => {
                        known += 1;
                        retire(connection, &copy)?;
                    }
                    Standing::Unknown => unknown.push(copy),
                }
            }
            let waited = since < before && is_scanned_since(connection, tier, id)?;
            // A part of an aggregate that is nowhere has no members that could be known.
            if (!unknown.is_empty() || id.is_part()) && !waited {
                return Ok(waits(known, unknown.len() as u64));
            }
            for copy in &unknown {
                bury(connection, copy, now)?;
                retire(connection, copy)?;
            }
            set_life(connection, tier, id, Life::Live, now)?;
            Ok(Quarantined::Released {
                tombstones: unknown.len() as u64,
            })
        })
    }

    /// A part needs no row any more: its aggregate is there, or the part is not. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn forget_part(&self, tier: TierId, part: AggregateId) -> Result<(), CatalogError> {
        self.write(Durability::Full, move |connection| {
            change(
                connection,
                "DELETE FROM aggregates
                 WHERE tier = ? AND epoch = ? AND seq = ? AND members = 0 AND seq >= 1 << 48",
                params![tier.0, part.epoch, int(part.seq)],
                "forget",
                part,
            )
            .map(drop)
        })
    }

    /// The object of an aggregate is not where it was: its copies are suspect.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn miss_aggregate(&self, tier: TierId, id: AggregateId) -> Result<u64, CatalogError> {
        self.write(Durability::Relaxed, move |connection| {
            let changed = change(
                connection,
                "UPDATE copies SET state = 1
                 WHERE tier = ? AND epoch = ? AND seq = ? AND state = 0",
                params![tier.0, id.epoch, int(id.seq)],
                "suspect copies in",
                id,
            )?;
            if changed > 0 {
                let files: BTreeSet<_> = rows_in(connection, tier, id)?
                    .into_iter()
                    .map(|c| c.file.0)
                    .collect();
                for file in files {
                    recount_holders(connection, crate::id::FileId(file))?;
                }
            }
            Ok(changed as u64)
        })
    }

    /// Members of `old` were copied into `new`, which is durable and proven: their rows move, all or
    /// none. `false`: `old` is no ordinary aggregate by now, or not as it was looked at (`left`:
    /// the versions that stay behind, dead), and nothing was changed. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn repacked(
        &self,
        old: AggregateId,
        new: NewAggregate,
        moved: Vec<Moved>,
        left: Vec<MemberKey>,
        now: Timestamp,
    ) -> Result<bool, CatalogError> {
        self.write_many(moved.len(), Durability::Full, move |connection| {
            let tier = new.tier;
            let life = life_of(connection, tier, old)?;
            if life.is_none_or(|(life, ..)| life != Life::Live) {
                return Ok(false);
            }
            let here = rows_in(connection, tier, old)?;
            let is = |key: MemberKey| move |c: &&Copy| (c.file, c.version) == key;
            let expected = |c: &Copy| {
                let key = (c.file, c.version);
                left.contains(&key) || moved.iter().any(|m| m.key == key)
            };
            if !here.iter().all(expected)
                || !moved.iter().all(|m| here.iter().any(|c| is(m.key)(&c)))
            {
                return Ok(false);
            }
            aggregates::insert(connection, &new, now)?;
            for one in &moved {
                for copy in here.iter().filter(is(one.key)) {
                    move_row(connection, copy, &new, one.header, now)?;
                }
            }
            change(
                connection,
                "UPDATE aggregates SET moved_epoch = ?, moved_seq = ?
                 WHERE tier = ? AND epoch = ? AND seq = ?",
                params![
                    new.id.epoch,
                    int(new.id.seq),
                    tier.0,
                    old.epoch,
                    int(old.seq)
                ],
                "note what took the place of",
                old,
            )?;
            // What took its place stands for what it had taken the place of, too.
            change(
                connection,
                "UPDATE aggregates SET moved_epoch = ?, moved_seq = ?
                 WHERE tier = ? AND moved_epoch = ? AND moved_seq = ? AND moved_seq > 0",
                params![
                    new.id.epoch,
                    int(new.id.seq),
                    tier.0,
                    old.epoch,
                    int(old.seq)
                ],
                "note what took the place of",
                old,
            )?;
            Ok(true)
        })
    }
}

/// The catalog has it, and more of it than a record says.
fn is_known(connection: &Connection, tier: TierId, id: AggregateId) -> Result<bool, CatalogError> {
    let known = first(
        connection,
        "SELECT 1 FROM aggregates WHERE tier = ? AND epoch = ? AND seq = ?
             AND (proof <> 4 OR len > 0)",
        params![tier.0, id.epoch, int(id.seq)],
        |_| Ok(()),
        "find",
        id,
    )?;
    Ok(known.is_some())
}

/// What is known of a version.
enum Standing {
    Needed,
    Dead,
    Unknown,
}

fn standing(connection: &Connection, (file, version): MemberKey) -> Result<Standing, CatalogError> {
    let key = params![file.0, int(version.0)];
    let named = first(
        connection,
        "SELECT 1 FROM nodes WHERE file = ? AND version = ? AND state <> 2 LIMIT 1",
        key,
        |_| Ok(()),
        "look for holders of",
        file,
    )?;
    if named.is_some() {
        return Ok(Standing::Needed);
    }
    let buried = first(
        connection,
        "SELECT 1 FROM tombstones WHERE file = ? AND version = ?",
        key,
        |_| Ok(()),
        "find the tombstone of",
        file,
    )?;
    Ok(buried.map_or(Standing::Unknown, |()| Standing::Dead))
}

/// A complete scan of this epoch began after the quarantine, and nothing is to be scanned again.
fn is_scanned_since(
    connection: &Connection,
    tier: TierId,
    id: AggregateId,
) -> Result<bool, CatalogError> {
    let scanned = first(
        connection,
        "SELECT 1 FROM aggregates JOIN scan ON scan.id = 1
         WHERE tier = ? AND aggregates.epoch = ? AND seq = ?
             AND proof_generation > life_generation AND proof_begun_at > since
             AND proof_epoch = (SELECT epoch FROM instance WHERE id = 1)
             AND (SELECT rows FROM row_counts WHERE what = 'rescans') = 0",
        params![tier.0, id.epoch, int(id.seq)],
        |_| Ok(()),
        "look for a scan since",
        id,
    )?;
    Ok(scanned.is_some())
}

/// A file's record names it: as good as a copy that is learned from a record.
fn trust(connection: &Connection, copy: &Copy) -> Result<(), CatalogError> {
    let AggregateId { epoch, seq } = copy.aggregate;
    let changed = change(
        connection,
        "UPDATE copies SET state = 0 WHERE file = ? AND version = ? AND tier = ? AND epoch = ?
             AND seq = ? AND state = 1",
        params![
            copy.file.0,
            int(copy.version.0),
            copy.tier.0,
            epoch,
            int(seq)
        ],
        "trust a copy",
        copy.aggregate,
    )?;
    if changed > 0 {
        recount_holders(connection, copy.file)?;
    }
    Ok(())
}

/// Nobody needs it: it no longer counts as live in its aggregate.
fn retire(connection: &Connection, copy: &Copy) -> Result<(), CatalogError> {
    let AggregateId { epoch, seq } = copy.aggregate;
    let changed = change(
        connection,
        "UPDATE copies SET live = 0 WHERE file = ? AND version = ? AND tier = ? AND epoch = ?
             AND seq = ? AND live = 1",
        params![
            copy.file.0,
            int(copy.version.0),
            copy.tier.0,
            epoch,
            int(seq)
        ],
        "retire a copy",
        copy.aggregate,
    )?;
    if changed == 0 {
        return Ok(());
    }
    change(
        connection,
        "UPDATE aggregates SET live_members = live_members - 1, live_bytes = live_bytes - ?
         WHERE tier = ? AND epoch = ? AND seq = ?",
        params![int(copy.stored_len), copy.tier.0, epoch, int(seq)],
        "count live members",
        copy.aggregate,
    )
    .map(drop)
}

fn bury(connection: &Connection, copy: &Copy, now: Timestamp) -> Result<(), CatalogError> {
    change(
        connection,
        "INSERT INTO tombstones
             (file, version, at, why, epoch, path, uid, handle, generation)
         VALUES (?1, ?2, max(?3, ifnull((SELECT begun_at FROM scan WHERE id = 1), ?3),
                 ifnull((SELECT finished_at FROM scan WHERE id = 1), ?3),
                 ifnull((SELECT begun_at FROM instance WHERE id = 1), ?3)),
             ?4, ?5, x'', 0, NULL, (SELECT generation FROM scan WHERE id = 1))
         ON CONFLICT (file, version) DO UPDATE SET at = max(at, excluded.at),
             epoch = excluded.epoch, generation = excluded.generation",
        params![
            copy.file.0,
            int(copy.version.0),
            now.nanos(),
            TombstoneWhy::Unknown.code(),
            incarnation::epoch(connection)?
        ],
        "write a tombstone",
        copy.file,
    )
    .map(drop)
}

fn move_row(
    connection: &Connection,
    copy: &Copy,
    to: &NewAggregate,
    header: u64,
    now: Timestamp,
) -> Result<(), CatalogError> {
    let from = copy.aggregate;
    let live = all(
        connection,
        "DELETE FROM copies WHERE file = ? AND version = ? AND tier = ? AND epoch = ? AND seq = ?
         RETURNING live",
        params![
            copy.file.0,
            int(copy.version.0),
            copy.tier.0,
            from.epoch,
            int(from.seq)
        ],
        |row| row.get::<_, bool>(0),
        "move a copy from",
        from,
    )?;
    let live = live.first().copied().unwrap_or(false);
    let gone = i64::from(live);
    change(
        connection,
        "UPDATE aggregates SET members = members - 1, bytes = bytes - ?1,
             live_members = live_members - ?2, live_bytes = live_bytes - ?1 * ?2
         WHERE tier = ?3 AND epoch = ?4 AND seq = ?5",
        params![
            int(copy.stored_len),
            gone,
            copy.tier.0,
            from.epoch,
            int(from.seq)
        ],
        "count members of",
        from,
    )?;
    let there = Copy {
        aggregate: to.id,
        header,
        state: CopyState::Good,
        proven_at: now,
        last_verified: None,
        ..*copy
    };
    if add_copy(connection, &there)? {
        count(connection, to.tier, to.id, 1, there.stored_len)?;
        if !live {
            retire(connection, &there)?;
        }
    }
    recount_holders(connection, copy.file)
}
