//! A catalog that is built anew: how far that came, and what aggregates say before the inodes of
//! their files are found.
//!
//! # Invariants
//! - A copy that an aggregate's index tells of is known, but live only once a file's record (or its
//!   bytes) names it: what no file names has no tombstone either, so nobody deletes it on the word of
//!   a catalog that does not know what it has forgotten (P8).
//! - Where a tier's reading stands is committed with the rows that were read: a rebuild that was
//!   killed goes on, and doing an aggregate twice changes nothing.

mod sweep;

pub use sweep::RebuildSweep;

use super::node::Version;
use super::sql::{Code, all, change, first, int, maybe_time, some_time, time, uint};
use super::{Catalog, CatalogError, Copy, CopyState, Durability, ProofKind};
use crate::id::{AggregateId, DataVersion, FileId, TierId, Timestamp};
use cairn_mover::Crc32c;
use rusqlite::{Connection, Row, params};

/// What a catalog is built from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sources {
    /// The records on the files of the backing.
    pub stubs: bool,
    /// The indexes of all aggregates.
    pub tiers: bool,
}

/// A rebuild that is under way, or was the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebuildState {
    /// What from.
    pub sources: Sources,
    /// When it began.
    pub begun_at: Timestamp,
    /// When it was done; `None`: it is not.
    pub finished_at: Option<Timestamp>,
}

/// How far the reading of one tier came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TierRead {
    /// The last aggregate that was read.
    pub after: Option<AggregateId>,
    /// All were.
    pub complete: bool,
    /// How many.
    pub aggregates: u64,
    /// Files' copies in them.
    pub members: u64,
    /// Aggregates whose index was damaged: read from the front, or not at all.
    pub damaged: u64,
}

/// An aggregate as it was found on its tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LearnedAggregate {
    /// The tier.
    pub tier: TierId,
    /// Its name.
    pub id: AggregateId,
    /// Length, bytes.
    pub len: u64,
    /// It has parts, and `len` is with them; `None`: its index could not be read.
    pub in_parts: Option<bool>,
    /// When it was composed.
    pub composed: Timestamp,
    /// Its index is damaged.
    pub damaged: bool,
}

/// A file's data in an aggregate, as its index (or its headers) say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LearnedMember {
    /// The file.
    pub file: FileId,
    /// Which data.
    pub version: DataVersion,
    /// Offset of the member's first header block, bytes.
    pub header: u64,
    /// Bytes of its data as stored.
    pub stored_len: u64,
    /// Sum of the whole content.
    pub crc: Crc32c,
    /// Sum of the list of block sums.
    pub blocks_crc: Crc32c,
    /// Its names then.
    pub names: Vec<Vec<u8>>,
    /// Size then, bytes.
    pub size: u64,
    /// Modification time then.
    pub mtime: Timestamp,
    /// Owner then.
    pub uid: u32,
    /// Group then.
    pub gid: u32,
}

/// A file as the newest aggregate that has it under a name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembrance {
    /// Identity and sums.
    pub version: Version,
    /// Size then, bytes.
    pub size: u64,
    /// Modification time then.
    pub mtime: Timestamp,
    /// Owner and group then.
    pub owner: (u32, u32),
}

impl Catalog {
    /// Begins a rebuild, or goes on with one from the same sources. Durable.
    ///
    /// # Errors
    /// [`CatalogError::Refused`] if one from other sources is under way.
    pub fn begin_rebuild(
        &self,
        sources: Sources,
        now: Timestamp,
    ) -> Result<RebuildState, CatalogError> {
        self.write(Durability::Full, move |connection| {
            let begun = state(connection)?.filter(|s| s.finished_at.is_none());
            if let Some(begun) = begun {
                if begun.sources == sources {
                    sweep::leave_if_served(connection)?;
                    return Ok(begun);
                }
                return Err(CatalogError::Refused {
                    step: "begin",
                    object: "rebuild".to_owned(),
                    why: "one from other sources is under way",
                });
            }
            for sql in [
                "DELETE FROM rebuild_tiers",
                "DELETE FROM rebuild_damaged",
                "DELETE FROM rebuild_members",
            ] {
                change(connection, sql, [], "begin", "rebuild")?;
            }
            change(
                connection,
                "INSERT OR REPLACE INTO rebuild (id, stubs, tiers, begun_at) VALUES (1, ?, ?, ?)",
                params![sources.stubs, sources.tiers, now.nanos()],
                "begin",
                "rebuild",
            )?;
            Ok(RebuildState {
                sources,
                begun_at: now,
                finished_at: None,
            })
        })
    }

    /// Was anything ever done with this catalog? Not with one that was made a moment before a crash.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn has_served(&self) -> Result<bool, CatalogError> {
        self.read(|connection| Ok(super::incarnation::epoch(connection)? > 0))
    }

    /// The rebuild that is under way, or the last one; `None`: this catalog never was built anew.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn rebuild_state(&self) -> Result<Option<RebuildState>, CatalogError> {
        self.read(state)
    }

    /// The rebuild is done: what was kept for it goes. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn finish_rebuild(&self, now: Timestamp) -> Result<(), CatalogError> {
        self.write(Durability::Full, move |connection| {
            change(
                connection,
                "DELETE FROM rebuild_members",
                [],
                "finish",
                "rebuild",
            )?;
            change(
                connection,
                "UPDATE rebuild SET finished_at = ? WHERE id = 1",
                [now.nanos()],
                "finish",
                "rebuild",
            )
            .map(drop)
        })
    }

    /// How far the reading of a tier came.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn tier_read(&self, tier: TierId) -> Result<TierRead, CatalogError> {
        self.read(|connection| {
            let found = first(
                connection,
                "SELECT * FROM rebuild_tiers WHERE tier = ?",
                [tier.0],
                tier_row,
                "find",
                tier,
            )?;
            Ok(found.unwrap_or_default())
        })
    }

    /// All of a tier's aggregates were read. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn finish_tier(&self, tier: TierId) -> Result<(), CatalogError> {
        self.write(Durability::Full, move |connection| {
            change(
                connection,
                "INSERT INTO rebuild_tiers VALUES (?, 0, 0, 1, 0, 0, 0)
                 ON CONFLICT DO UPDATE SET complete = 1",
                [tier.0],
                "finish",
                tier,
            )
            .map(drop)
        })
    }

    /// Notes members of an aggregate, none of them live. `done`: these are the last of it, and the
    /// reading goes on behind it; until then it is read again from its beginning.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn learn_members(
        &self,
        aggregate: LearnedAggregate,
        members: Vec<LearnedMember>,
        done: bool,
    ) -> Result<(), CatalogError> {
        self.write_many(members.len().max(65), Durability::Relaxed, move |c| {
            insert_aggregate(c, &aggregate)?;
            let (mut added, mut bytes, mut amended) = (0, 0, 0);
            for member in &members {
                match add(c, &aggregate, member)? {
                    Learned::New => {
                        added += 1;
                        bytes += member.stored_len;
                    }
                    Learned::Amended => amended += 1,
                    Learned::Known => {}
                }
                remember(c, aggregate.id, member)?;
            }
            count(c, &aggregate, added, bytes)?;
            count_read(c, &aggregate, added + amended)?;
            if done {
                advance(c, &aggregate)?;
            }
            Ok(())
        })
    }

    /// Was the index of an aggregate found damaged, or could it not be read? Then what it does not bear
    /// out may be in it all the same.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn was_damaged(&self, tier: TierId, id: AggregateId) -> Result<bool, CatalogError> {
        self.read(|connection| {
            let found = first(
                connection,
                "SELECT 1 FROM rebuild_damaged WHERE tier = ? AND epoch = ? AND seq = ?",
                params![tier.0, id.epoch, int(id.seq)],
                |_| Ok(()),
                "find",
                id,
            )?;
            Ok(found.is_some())
        })
    }

    /// What the newest aggregate that has a file under this name says of it.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn remembered_as(&self, path: &[u8]) -> Result<Option<Remembrance>, CatalogError> {
        self.read(|connection| {
            first(
                connection,
                "SELECT * FROM rebuild_members WHERE path = ?",
                [path],
                remembrance_row,
                "find by path",
                String::from_utf8_lossy(path),
            )
        })
    }

    /// Files that had this size and this modification time, by name; at most `limit`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn remembered_alike(
        &self,
        size: u64,
        mtime: Timestamp,
        limit: usize,
    ) -> Result<Vec<Remembrance>, CatalogError> {
        self.read(|connection| {
            all(
                connection,
                "SELECT * FROM rebuild_members WHERE size = ? AND mtime = ? LIMIT ?",
                params![int(size), mtime.nanos(), super::sql::page(limit)],
                remembrance_row,
                "find alike",
                size,
            )
        })
    }

    /// The copy at a place of an aggregate whose data have this sum, whoever's it is: an adopted stub
    /// shares it with the file that it was copied from. Not one that only a record tells of.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn copy_at(
        &self,
        tier: TierId,
        aggregate: AggregateId,
        header: u64,
        crc: Crc32c,
    ) -> Result<Option<Copy>, CatalogError> {
        let before = header.checked_sub(1);
        let found = self.members(tier, aggregate, before, 100)?;
        let doubtful = self.was_damaged(tier, aggregate)?;
        Ok(found.into_iter().find(|copy| {
            let borne_out = doubtful || copy.state != CopyState::Suspect;
            copy.header == header && copy.crc == crc && borne_out
        }))
    }

    /// Notes the length of an aggregate, with its parts, whose index was not read before.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn learn_length(
        &self,
        tier: TierId,
        id: AggregateId,
        (len, in_parts): (u64, bool),
    ) -> Result<(), CatalogError> {
        self.post(Durability::Relaxed, move |connection| {
            change(
                connection,
                "UPDATE aggregates SET len = ?, in_parts = ?
                 WHERE tier = ? AND epoch = ? AND seq = ? AND (len = 0 OR in_parts IS NULL)",
                params![int(len), in_parts, tier.0, id.epoch, int(id.seq)],
                "note the length of",
                id,
            )
            .map(drop)
        })
    }
}

fn state(connection: &Connection) -> Result<Option<RebuildState>, CatalogError> {
    first(
        connection,
        "SELECT * FROM rebuild WHERE id = 1",
        [],
        |row| {
            Ok(RebuildState {
                sources: Sources {
                    stubs: row.get("stubs")?,
                    tiers: row.get("tiers")?,
                },
                begun_at: some_time(row, "begun_at")?,
                finished_at: maybe_time(row, "finished_at")?,
            })
        },
        "find",
        "rebuild",
    )
}

fn tier_row(row: &Row<'_>) -> rusqlite::Result<TierRead> {
    let after = AggregateId {
        epoch: row.get("epoch")?,
        seq: uint(row, "seq")?,
    };
    Ok(TierRead {
        after: (after != AggregateId { epoch: 0, seq: 0 }).then_some(after),
        complete: row.get("complete")?,
        aggregates: uint(row, "aggregates")?,
        members: uint(row, "members")?,
        damaged: uint(row, "damaged")?,
    })
}

fn remembrance_row(row: &Row<'_>) -> rusqlite::Result<Remembrance> {
    Ok(Remembrance {
        version: Version {
            file: FileId(row.get("file")?),
            version: DataVersion(uint(row, "version")?),
            crc: Crc32c(row.get("crc")?),
            blocks_crc: Crc32c(row.get("blocks_crc")?),
        },
        size: uint(row, "size")?,
        mtime: time(row.get("mtime")?),
        owner: (row.get("uid")?, row.get("gid")?),
    })
}

fn insert_aggregate(connection: &Connection, a: &LearnedAggregate) -> Result<(), CatalogError> {
    change(
        connection,
        "INSERT INTO aggregates (tier, epoch, seq, len, crc, proof, composed_at,
             members, bytes, live_members, live_bytes, in_parts)
         VALUES (?, ?, ?, ?, 0, ?, ?, 0, 0, 0, 0, ?)
         ON CONFLICT DO UPDATE SET in_parts = ifnull(in_parts, excluded.in_parts),
             len = CASE WHEN len = 0 OR (in_parts IS NULL AND excluded.in_parts NOTNULL)
                 THEN excluded.len ELSE len END",
        params![
            a.tier.0,
            a.id.epoch,
            int(a.id.seq),
            int(a.len),
            ProofKind::Learned.code(),
            a.composed.nanos(),
            a.in_parts
        ],
        "learn of the aggregate",
        a.id,
    )
    .map(drop)
}

/// What an index says of a copy, against what was known.
enum Learned {
    /// It was not.
    New,
    /// A record told of it, or an earlier reading, and not the same.
    Amended,
    /// It was, as it is.
    Known,
}

fn add(
    connection: &Connection,
    a: &LearnedAggregate,
    m: &LearnedMember,
) -> Result<Learned, CatalogError> {
    // Without its index nothing vouches that a member is what a file was.
    let state = if a.damaged {
        CopyState::Suspect
    } else {
        CopyState::Good
    };
    let added = change(
        connection,
        "INSERT OR IGNORE INTO copies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, 0)",
        params![
            m.file.0,
            int(m.version.0),
            a.tier.0,
            a.id.epoch,
            int(a.id.seq),
            int(m.header),
            int(m.stored_len),
            m.crc.0,
            state.code(),
            a.composed.nanos()
        ],
        "learn of a copy",
        m.file,
    )?;
    if added > 0 {
        return Ok(Learned::New);
    }
    let told = Copy {
        file: m.file,
        version: m.version,
        tier: a.tier,
        aggregate: a.id,
        header: m.header,
        stored_len: m.stored_len,
        crc: m.crc,
        state,
        proven_at: a.composed,
        last_verified: None,
    };
    Ok(match sweep::amend(connection, &told)? {
        true => Learned::Amended,
        false => Learned::Known,
    })
}

/// A later aggregate knows better what a name was; within one, the first name leads.
fn remember(
    connection: &Connection,
    id: AggregateId,
    m: &LearnedMember,
) -> Result<(), CatalogError> {
    for name in &m.names {
        change(
            connection,
            "INSERT INTO rebuild_members VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq,
                 file = excluded.file, version = excluded.version, crc = excluded.crc,
                 blocks_crc = excluded.blocks_crc, size = excluded.size, mtime = excluded.mtime,
                 uid = excluded.uid, gid = excluded.gid
             WHERE (excluded.epoch, excluded.seq) >= (epoch, seq)",
            params![
                name,
                id.epoch,
                int(id.seq),
                m.file.0,
                int(m.version.0),
                m.crc.0,
                m.blocks_crc.0,
                int(m.size),
                m.mtime.nanos(),
                m.uid,
                m.gid
            ],
            "remember a name of",
            m.file,
        )?;
    }
    Ok(())
}

fn count(
    connection: &Connection,
    a: &LearnedAggregate,
    members: u64,
    bytes: u64,
) -> Result<(), CatalogError> {
    change(
        connection,
        "UPDATE aggregates SET members = members + ?, bytes = bytes + ?
         WHERE tier = ? AND epoch = ? AND seq = ?",
        params![
            int(members),
            int(bytes),
            a.tier.0,
            a.id.epoch,
            int(a.id.seq)
        ],
        "count members",
        a.id,
    )
    .map(drop)
}

/// Copies that the tier was found to hold.
fn count_read(
    connection: &Connection,
    a: &LearnedAggregate,
    members: u64,
) -> Result<(), CatalogError> {
    change(
        connection,
        "INSERT INTO rebuild_tiers VALUES (?, 0, 0, 0, 0, ?, 0)
         ON CONFLICT DO UPDATE SET members = members + excluded.members",
        params![a.tier.0, int(members)],
        "count members",
        a.id,
    )
    .map(drop)
}

fn advance(connection: &Connection, a: &LearnedAggregate) -> Result<(), CatalogError> {
    if a.damaged {
        change(
            connection,
            "INSERT OR IGNORE INTO rebuild_damaged VALUES (?, ?, ?)",
            params![a.tier.0, a.id.epoch, int(a.id.seq)],
            "note the damage of",
            a.id,
        )?;
    }
    change(
        connection,
        "UPDATE rebuild_tiers SET epoch = ?, seq = ?, aggregates = aggregates + 1,
             damaged = damaged + ? WHERE tier = ?",
        params![a.id.epoch, int(a.id.seq), a.damaged, a.tier.0],
        "go on behind",
        a.id,
    )
    .map(drop)
}
