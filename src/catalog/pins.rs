//! Pins: a holder keeps a file on disk until a time. Several holders may.

use super::node::NodeId;
use super::{Catalog, CatalogError, Durability};
use crate::id::Timestamp;

/// One pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The file.
    pub node: NodeId,
    /// Who holds it (`uid:1000`, `job:4711`, ...).
    pub holder: String,
    /// Until when.
    pub expires: Timestamp,
}

impl Catalog {
    /// Adds pins; a holder's earlier pin of the same file is replaced. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn pin(&self, pins: Vec<Pin>) -> Result<(), CatalogError> {
        let _ = (pins, Durability::Full);
        unimplemented!()
    }

    /// Ends a holder's pins of these files; gives how many there were. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn unpin(&self, nodes: Vec<NodeId>, holder: &str) -> Result<u64, CatalogError> {
        let _ = (nodes, holder);
        unimplemented!()
    }

    /// Until when a file is pinned, by whom ever; `None`: not pinned at `now`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn pinned_until(
        &self,
        node: NodeId,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, CatalogError> {
        let _ = (node, now);
        unimplemented!()
    }

    /// The pins of a file, expired ones that were not yet swept included.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn pins(&self, node: NodeId) -> Result<Vec<Pin>, CatalogError> {
        let _ = node;
        unimplemented!()
    }

    /// Sweeps away at most `limit` pins that have expired; gives how many.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn expire_pins(&self, now: Timestamp, limit: usize) -> Result<u64, CatalogError> {
        let _ = (now, limit);
        unimplemented!()
    }
}
