//! A catalog that no process serves, only read: by who has to decide about a backing while nobody
//! works on it. Nothing in it changes; SQLite may leave its log beside it.

use super::readers::Readers;
use super::{CatalogError, Copy, Identity, Node, NodeId, aggregates, names, nodes, schema};
use crate::id::{DataVersion, FileId, NodeHandle};
use std::path::Path;

/// See the module.
pub struct Unserved {
    pub(super) readers: Readers,
    identity: Identity,
}

impl Unserved {
    /// Opens the catalog at `path`; `None`: there is none.
    ///
    /// # Errors
    /// [`CatalogError::Newer`], [`CatalogError::Older`], [`CatalogError::NotACatalog`],
    /// [`CatalogError::Sql`].
    pub fn open(path: &Path) -> Result<Option<Self>, CatalogError> {
        if !schema::is_present(path)? {
            return Ok(None);
        }
        let readers = Readers::open(path)?;
        let identity = readers.read(schema::identity)?;
        Ok(Some(Self { readers, identity }))
    }

    /// Whose catalog it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// A node by its inode.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn node_by_handle(&self, handle: &NodeHandle) -> Result<Option<Node>, CatalogError> {
        self.readers.read(|c| nodes::by_handle(c, handle))
    }

    /// The node that has a name.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn lookup(&self, parent: NodeId, name: &[u8]) -> Result<Option<Node>, CatalogError> {
        self.readers.read(|c| match names::find(c, parent, name)? {
            Some(node) => nodes::get(c, node),
            None => Ok(None),
        })
    }

    /// The copies of one version, good ones first.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn copies(&self, file: FileId, version: DataVersion) -> Result<Vec<Copy>, CatalogError> {
        self.readers.read(|c| aggregates::copies(c, file, version))
    }
}
