//! One start of a Cairn on its catalog: identity, epoch, boots, tiers, names for aggregates.
//!
//! Invariants: an epoch is used by one incarnation; it is durable before the first aggregate is
//! named with it, so a name is never given twice (P9). A boot that ended without a clean stop
//! makes every version proven in it, or before it, suspect (P1). So does an epoch above this
//! catalog's: it is an older one that was put back.

use super::sql::{all, change, first};
use super::{Catalog, CatalogError, Durability};
use crate::id::{AggregateId, FsUuid, InstanceId, TierId, Timestamp};
use parking_lot::Mutex;
use rusqlite::{Connection, params};

/// Whose catalog it is and of which backing filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The instance.
    pub instance: InstanceId,
    /// The backing filesystem.
    pub fs: FsUuid,
}

/// The kernel's `boot_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BootId(pub [u8; 16]);

/// Number of a boot, counted by the catalog from 1 in the order in which it saw them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootSeq(pub u32);

/// What an incarnation begins with.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// The present boot.
    pub boot: BootId,
    /// The new epoch lies above this one: the highest found on tiers and in the backing's mark;
    /// 0 if none.
    pub epoch_above: u32,
    /// Now.
    pub now: Timestamp,
}

/// A running incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incarnation {
    /// Its epoch.
    pub epoch: u32,
    /// The present boot.
    pub boot: BootSeq,
    /// Versions proven in this boot or later are good; earlier ones are suspect (P1).
    pub trusted_from: BootSeq,
    /// The last incarnation ended with a clean stop, and this is the catalog that it left.
    pub after_clean_stop: bool,
}

/// A tier that the catalog knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierRow {
    /// Its number.
    pub id: TierId,
    /// Its name in configuration.
    pub name: String,
    /// Where it is, without secrets.
    pub url: String,
    /// `dir`, `tape`, `s3`, `exec`.
    pub kind: String,
    /// The instance whose mark it carries.
    pub owner: InstanceId,
}

#[derive(Default)]
pub(super) struct Current(Mutex<Option<(Incarnation, u64)>>);

impl Catalog {
    /// Begins to write under a new epoch. Always durable. Called once after opening.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn begin_incarnation(&self, start: Start) -> Result<Incarnation, CatalogError> {
        let incarnation =
            self.write(Durability::Full, move |connection| begin(connection, start))?;
        *self.inner.incarnation.0.lock() = Some((incarnation, 0));
        Ok(incarnation)
    }

    /// The running incarnation; `None` before [`Catalog::begin_incarnation`].
    #[must_use]
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.inner
            .incarnation
            .0
            .lock()
            .map(|(incarnation, _)| incarnation)
    }

    /// Notes a clean stop (the backing was `syncfs`ed by the caller) and folds the log into the
    /// database, if that can be done: the log is complete without it. Always durable. The last write
    /// of an incarnation.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn clean_stop(&self, now: Timestamp) -> Result<(), CatalogError> {
        let _ = now;
        self.write(Durability::Full, |connection| {
            change(
                connection,
                "UPDATE instance SET clean = 1 WHERE id = 1",
                [],
                "note the clean stop",
                "instance",
            )
        })?;
        if let Err(why) = self.inner.writer.fold_log() {
            tracing::warn!(%why, "the catalog keeps its log");
        }
        Ok(())
    }

    /// A name for an aggregate, never given before. Touches no disk.
    ///
    /// # Errors
    /// [`CatalogError::Refused`] before [`Catalog::begin_incarnation`].
    pub fn next_aggregate(&self) -> Result<AggregateId, CatalogError> {
        let mut current = self.inner.incarnation.0.lock();
        let Some((incarnation, seq)) = current.as_mut() else {
            return Err(CatalogError::Refused {
                step: "name an aggregate",
                object: "aggregate".to_owned(),
                why: "no incarnation has begun",
            });
        };
        *seq += 1;
        Ok(AggregateId {
            epoch: incarnation.epoch,
            seq: *seq,
        })
    }

    /// Adds a tier or changes its row. Durable.
    ///
    /// # Errors
    /// [`CatalogError`]; a name that another tier has is refused.
    pub fn set_tier(&self, tier: TierRow) -> Result<(), CatalogError> {
        self.write(Durability::Full, move |connection| {
            change(
                connection,
                "INSERT INTO tiers (id, name, url, kind, owner) VALUES (?, ?, ?, ?, ?)
                 ON CONFLICT (id) DO UPDATE SET name = excluded.name, url = excluded.url,
                     kind = excluded.kind, owner = excluded.owner",
                params![tier.id.0, tier.name, tier.url, tier.kind, tier.owner.0],
                "note the tier",
                &tier.name,
            )
            .map(drop)
        })
    }

    /// All tiers, by name.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn tiers(&self) -> Result<Vec<TierRow>, CatalogError> {
        self.read(tiers)
    }

    /// The next incarnation's epoch lies above this one, whatever the last one's was. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn raise_epoch(&self, above: u32) -> Result<(), CatalogError> {
        self.write(Durability::Full, move |connection| {
            change(
                connection,
                "UPDATE instance SET epoch = max(epoch, ?) WHERE id = 1",
                [above],
                "raise the epoch",
                "instance",
            )
            .map(drop)
        })
    }
}

impl Catalog {
    /// The running incarnation writes under an epoch above this one; to be called before it names an
    /// aggregate. Durable.
    ///
    /// # Errors
    /// [`CatalogError`]; no epoch lies above it.
    pub fn begin_above(&self, above: u32) -> Result<Option<Incarnation>, CatalogError> {
        let epoch = above.checked_add(1).ok_or(CatalogError::Refused {
            step: "raise the epoch",
            object: "instance".to_owned(),
            why: "epochs are used up",
        })?;
        self.raise_epoch(epoch)?;
        let mut current = self.inner.incarnation.0.lock();
        if let Some((incarnation, seq)) = current.as_mut()
            && incarnation.epoch < epoch
        {
            incarnation.epoch = epoch;
            *seq = 0;
        }
        Ok(current.map(|(incarnation, _)| incarnation))
    }
}

/// The tiers by name.
pub(super) fn tiers(connection: &Connection) -> Result<Vec<TierRow>, CatalogError> {
    all(
        connection,
        "SELECT id, name, url, kind, owner FROM tiers ORDER BY name",
        [],
        |row| {
            Ok(TierRow {
                id: TierId(row.get(0)?),
                name: row.get(1)?,
                url: row.get(2)?,
                kind: row.get(3)?,
                owner: InstanceId(row.get(4)?),
            })
        },
        "list",
        "tiers",
    )
}

/// The epoch that is being written under.
pub(super) fn epoch(connection: &Connection) -> Result<u32, CatalogError> {
    let epoch = first(
        connection,
        "SELECT epoch FROM instance WHERE id = 1",
        [],
        |row| row.get(0),
        "read epoch",
        "instance",
    )?;
    epoch.ok_or(CatalogError::Missing {
        step: "read epoch",
        object: "instance".to_owned(),
    })
}

fn begin(connection: &Connection, start: Start) -> Result<Incarnation, CatalogError> {
    let step = "begin an incarnation";
    let missing = || CatalogError::Missing {
        step,
        object: "instance".to_owned(),
    };
    let (last_epoch, clean, last_boot, trusted): (u32, bool, u32, u32) = first(
        connection,
        "SELECT epoch, clean, boot, trusted_from FROM instance WHERE id = 1",
        [],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        step,
        "instance",
    )?
    .ok_or_else(missing)?;
    // Somebody wrote under a later epoch: this is an older catalog, put back. What it says of
    // clean stops and boots is about another time; nothing that it has proven counts.
    let behind = start.epoch_above > last_epoch;
    let same = first(
        connection,
        "SELECT boot FROM boots WHERE seq = ?",
        [last_boot],
        |row| row.get::<_, [u8; 16]>(0),
        step,
        "boots",
    )? == Some(start.boot.0)
        && !behind;
    let clean = clean && !behind;
    let boot = if same { last_boot } else { last_boot + 1 };
    // Within one boot nothing was lost with memory. Across boots, only a clean stop promises that
    // what was recorded is what is on the disk (P1).
    let trusted_from = if same || clean { trusted } else { boot };
    let epoch = last_epoch
        .max(start.epoch_above)
        .checked_add(1)
        .ok_or(CatalogError::Refused {
            step,
            object: "instance".to_owned(),
            why: "epochs are used up",
        })?;
    let now = start.now.nanos();
    if !same {
        change(
            connection,
            "INSERT INTO boots (seq, boot, first_seen) VALUES (?, ?, ?)",
            params![boot, start.boot.0, now],
            step,
            "boots",
        )?;
    }
    change(
        connection,
        "UPDATE instance SET epoch = ?, clean = 0, boot = ?, trusted_from = ?, begun_at = ?
         WHERE id = 1",
        params![epoch, boot, trusted_from, now],
        step,
        "instance",
    )?;
    Ok(Incarnation {
        epoch,
        boot: BootSeq(boot),
        trusted_from: BootSeq(trusted_from),
        after_clean_stop: clean,
    })
}
