//! Nodes: found by number, handle or file id; noted in bulk as scans and the changelog see them.

use super::node::{Attributes, Flag, Node, NodeId, Sighting};
use super::{Catalog, CatalogError, Durability};
use crate::id::{FileId, NodeHandle, Timestamp};

impl Catalog {
    /// Notes the root of the backing directory as [`NodeId::ROOT`]. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn set_root(
        &self,
        handle: &NodeHandle,
        attributes: Attributes,
    ) -> Result<(), CatalogError> {
        let _ = (handle, attributes);
        unimplemented!()
    }

    /// Notes what was seen, in one transaction; some thousands at a time are best. New nodes
    /// begin in state none; known ones get the new attributes and keep state, version and flags
    /// (a changed ctime proves nothing, P1). A name that named another node names this one now.
    /// Gives the nodes' numbers in the same order.
    ///
    /// # Errors
    /// [`CatalogError`]; nothing of the batch is noted then.
    pub fn note(
        &self,
        seen: Vec<Sighting>,
        durability: Durability,
    ) -> Result<Vec<NodeId>, CatalogError> {
        let _ = (seen, durability);
        unimplemented!()
    }

    /// A node by its number.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn node(&self, id: NodeId) -> Result<Option<Node>, CatalogError> {
        let _ = id;
        unimplemented!()
    }

    /// A node by its inode.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn node_by_handle(&self, handle: &NodeHandle) -> Result<Option<Node>, CatalogError> {
        let _ = handle;
        unimplemented!()
    }

    /// The nodes that carry a file id (more than one after a stub was copied), at most 100.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn nodes_by_file(&self, file: FileId) -> Result<Vec<Node>, CatalogError> {
        let _ = file;
        unimplemented!()
    }

    /// Notes reads that the mount told of: (node, when). Unknown nodes are passed over.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn note_access(
        &self,
        reads: Vec<(NodeHandle, Timestamp)>,
        durability: Durability,
    ) -> Result<(), CatalogError> {
        let _ = (reads, durability);
        unimplemented!()
    }

    /// Sets or clears a flag.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn set_flag(
        &self,
        node: NodeId,
        flag: Flag,
        on: bool,
        durability: Durability,
    ) -> Result<(), CatalogError> {
        let _ = (node, flag, on, durability);
        unimplemented!()
    }
}
