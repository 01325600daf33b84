//! One start of a Cairn on its catalog: identity, epoch, boots, tiers, names for aggregates.
//!
//! Invariants: an epoch is used by one incarnation; it is durable before the first aggregate is
//! named with it, so a name is never given twice (P9). A boot that ended without a clean stop
//! makes every version proven in it, or before it, suspect (P1).

use super::{Catalog, CatalogError, Durability};
use crate::id::{AggregateId, FsUuid, InstanceId, TierId, Timestamp};
use parking_lot::Mutex;

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
    /// The last incarnation ended with a clean stop.
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
        let _ = (start, &self.inner.incarnation.0, Durability::Full);
        unimplemented!()
    }

    /// The running incarnation; `None` before [`Catalog::begin_incarnation`].
    #[must_use]
    pub fn incarnation(&self) -> Option<Incarnation> {
        unimplemented!()
    }

    /// Notes a clean stop (the backing was `syncfs`ed by the caller) and folds the log into the
    /// database. Always durable. The last write of an incarnation.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn clean_stop(&self, now: Timestamp) -> Result<(), CatalogError> {
        let _ = now;
        unimplemented!()
    }

    /// A name for an aggregate, never given before. Touches no disk.
    ///
    /// # Errors
    /// [`CatalogError::Refused`] before [`Catalog::begin_incarnation`].
    pub fn next_aggregate(&self) -> Result<AggregateId, CatalogError> {
        unimplemented!()
    }

    /// Adds a tier or changes its row. Durable.
    ///
    /// # Errors
    /// [`CatalogError`]; a name that another tier has is refused.
    pub fn set_tier(&self, tier: TierRow) -> Result<(), CatalogError> {
        let _ = tier;
        unimplemented!()
    }

    /// All tiers, by name.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn tiers(&self) -> Result<Vec<TierRow>, CatalogError> {
        unimplemented!()
    }
}
