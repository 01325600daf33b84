//! Names: (directory, name) to node; paths are walked up, never stored.

use super::node::{Node, NodeId};
use super::{Catalog, CatalogError, Durability};
use crate::id::Timestamp;

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name, bytes without `/`.
    pub name: Vec<u8>,
    /// What it names.
    pub node: Node,
}

/// Answer to [`Catalog::unlink`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unlinked {
    /// What the name named.
    pub node: NodeId,
    /// The node was forgotten with it (and a tombstone left, if it had copies).
    pub forgotten: bool,
}

impl Catalog {
    /// What a name names.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn lookup(&self, parent: NodeId, name: &[u8]) -> Result<Option<NodeId>, CatalogError> {
        let _ = (parent, name);
        unimplemented!()
    }

    /// One known path of a node, bytes relative to the root (empty: the root); `None` if no name
    /// of it, or of a directory above it, is known.
    ///
    /// # Errors
    /// [`CatalogError::Damaged`] if the links run in a circle.
    pub fn path_of(&self, node: NodeId) -> Result<Option<Vec<u8>>, CatalogError> {
        let _ = node;
        unimplemented!()
    }

    /// All known paths of a node, at most `limit`, in no order that means anything.
    ///
    /// # Errors
    /// As [`Catalog::path_of`].
    pub fn all_names(&self, node: NodeId, limit: usize) -> Result<Vec<Vec<u8>>, CatalogError> {
        let _ = (node, limit);
        unimplemented!()
    }

    /// The entries of a directory in the order of their bytes, from after `after`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn children(
        &self,
        parent: NodeId,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry>, CatalogError> {
        let _ = (parent, after, limit);
        unimplemented!()
    }

    /// Notes a further name of a known node. A name that named another node names this one now.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn link(
        &self,
        parent: NodeId,
        name: &[u8],
        node: NodeId,
        durability: Durability,
    ) -> Result<(), CatalogError> {
        let _ = (parent, name, node, durability);
        unimplemented!()
    }

    /// Notes that a name moved. What the new name named before loses it (and is forgotten, with
    /// a tombstone, if that was its last). Nothing happens if the old name is not known.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn rename(
        &self,
        from: (NodeId, &[u8]),
        to: (NodeId, &[u8]),
        now: Timestamp,
        durability: Durability,
    ) -> Result<(), CatalogError> {
        let _ = (from, to, now, durability);
        unimplemented!()
    }

    /// Notes that a name went. If the inode is known to live on (`alive`: another name, or the
    /// caller saw it), only the name goes; else, when it was the last one, the node is forgotten
    /// and leaves a tombstone. `None`: the name was not known.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn unlink(
        &self,
        parent: NodeId,
        name: &[u8],
        alive: bool,
        now: Timestamp,
        durability: Durability,
    ) -> Result<Option<Unlinked>, CatalogError> {
        let _ = (parent, name, alive, now, durability);
        unimplemented!()
    }
}
