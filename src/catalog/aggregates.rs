//! Copies, aggregates and tombstones: what lies where, and what is known about it.

use super::copy::{Aggregate, Copy, CopyState, Member, Tombstone};
use super::{Catalog, CatalogError, Durability};
use crate::id::{AggregateId, DataVersion, FileId, TierId, Timestamp};

impl Catalog {
    /// The copies of one version, good ones first.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn copies(&self, file: FileId, version: DataVersion) -> Result<Vec<Copy>, CatalogError> {
        let _ = (file, version);
        unimplemented!()
    }

    /// Notes what reading (or missing) a copy showed. A good read counts as verified.
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
        let _ = (copy, state, now, durability);
        unimplemented!()
    }

    /// Copies of live files that were verified (or else proven) before `before`, oldest first.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn copies_to_verify(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<Copy>, CatalogError> {
        let _ = (before, limit);
        unimplemented!()
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
        let _ = (tier, id);
        unimplemented!()
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
        let _ = (tier, after, limit);
        unimplemented!()
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
        let _ = (tier, aggregate, after, limit);
        unimplemented!()
    }

    /// Tombstones in the order in which they were made, from after the number `after`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn tombstones(
        &self,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Tombstone>, CatalogError> {
        let _ = (after, limit);
        unimplemented!()
    }

    /// The highest aggregate name that the catalog knows on any tier.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn newest_aggregate(&self) -> Result<Option<AggregateId>, CatalogError> {
        unimplemented!()
    }
}
