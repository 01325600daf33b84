//! What archive, release, stage and change do to a file's row, its copies and tombstones.
//!
//! Invariant: a version that stops being the present one leaves a tombstone in the same
//! transaction, and its copies stop counting as live in their aggregates.

use super::copy::{Archived, NewAggregate, TombstoneWhy};
use super::node::{Attributes, FileState, Known, NodeId, Proven};
use super::{Catalog, CatalogError, Durability};
use crate::id::Timestamp;

impl Catalog {
    /// P2 step 5: an aggregate is durable and these files are in it. Always durable; all or
    /// nothing. Files whose version was another before leave a tombstone of that one.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn archived(
        &self,
        aggregate: NewAggregate,
        files: Vec<Archived>,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let _ = (aggregate, files, now);
        unimplemented!()
    }

    /// P1: the ctime is new but the bytes were compared and are the same.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn rebound(
        &self,
        node: NodeId,
        proven: Proven,
        durability: Durability,
    ) -> Result<(), CatalogError> {
        let _ = (node, proven, durability);
        unimplemented!()
    }

    /// The file's data changed: an archived (or released and written over) file is dirty now, and
    /// its version leaves a tombstone. No effect on a file that was never archived.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn dirtied(
        &self,
        node: NodeId,
        why: TombstoneWhy,
        now: Timestamp,
        durability: Durability,
    ) -> Result<(), CatalogError> {
        let _ = (node, why, now, durability);
        unimplemented!()
    }

    /// P3 step 7: blocks were given back. `attributes` and `proven` as seen after the punch.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn released(
        &self,
        node: NodeId,
        attributes: Attributes,
        proven: Proven,
        durability: Durability,
    ) -> Result<(), CatalogError> {
        let _ = (node, attributes, proven, durability);
        unimplemented!()
    }

    /// P4 step 8: the data are back. `attributes` and `proven` as seen at the end.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn staged(
        &self,
        node: NodeId,
        attributes: Attributes,
        proven: Proven,
        now: Timestamp,
        durability: Durability,
    ) -> Result<(), CatalogError> {
        let _ = (node, attributes, proven, now, durability);
        unimplemented!()
    }

    /// Sets a state with the words that explain it (lost, conflict, foreign, repaired).
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn set_state(
        &self,
        node: NodeId,
        state: FileState,
        note: Option<String>,
        durability: Durability,
    ) -> Result<(), CatalogError> {
        let _ = (node, state, note, durability);
        unimplemented!()
    }

    /// Takes what records or indexes say into the catalog: rebuild, and rows that a power loss
    /// took back. Aggregates not known yet get a row with [`super::ProofKind::Learned`]. What the
    /// catalog knew about a node's version before leaves a tombstone if it was a lower one of the
    /// same file.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn learn(
        &self,
        known: Vec<Known>,
        now: Timestamp,
        durability: Durability,
    ) -> Result<(), CatalogError> {
        let _ = (known, now, durability);
        unimplemented!()
    }

    /// The inode is gone (`ESTALE`) although the catalog still has it: forgets it and its names
    /// and leaves a tombstone. `false`: it was not known.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn forget(
        &self,
        node: NodeId,
        now: Timestamp,
        durability: Durability,
    ) -> Result<bool, CatalogError> {
        let _ = (node, now, durability);
        unimplemented!()
    }
}
