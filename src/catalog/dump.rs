//! All that a catalog knows, page by page in an order that does not depend on its own numbers: so
//! that two catalogs of one backing can be compared.
//!
//! Invariant: memory is bounded by a page, and by the depth of the tree.

use super::sql::{self, NODE, all, handle_key, int, page};
use super::unserved::Unserved;
use super::{
    Aggregate, CatalogError, Copy, Entry, Node, NodeId, Pin, TierRow, Tombstone, aggregates,
    incarnation, names,
};
use crate::id::{AggregateId, DataVersion, FileId, NodeHandle, TierId};
use rusqlite::params;

/// A copy, and whether some file needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyRow {
    /// The copy.
    pub copy: Copy,
    /// It is of a version that a file has now.
    pub live: bool,
}

/// Where a listing of copies goes on.
pub type CopyKey = (FileId, DataVersion, TierId, AggregateId);

impl Unserved {
    /// Nodes in the order of their handles, from after `after`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn nodes(
        &self,
        after: Option<&NodeHandle>,
        limit: usize,
    ) -> Result<Vec<Node>, CatalogError> {
        let after = after.map(handle_key).unwrap_or_default();
        self.readers.read(|connection| {
            all(
                connection,
                &format!("SELECT {NODE} FROM nodes WHERE handle > ? ORDER BY handle LIMIT ?"),
                params![after, page(limit)],
                sql::node,
                "list",
                "nodes",
            )
        })
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
        self.readers
            .read(|connection| names::children(connection, parent, after, limit))
    }

    /// Copies in the order of file, version, tier and aggregate, from after `after`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn all_copies(
        &self,
        after: Option<CopyKey>,
        limit: usize,
    ) -> Result<Vec<CopyRow>, CatalogError> {
        let first = (
            FileId([0; 16]),
            DataVersion(0),
            TierId(0),
            AggregateId { epoch: 0, seq: 0 },
        );
        let (file, version, tier, id) = after.unwrap_or(first);
        self.readers.read(|connection| {
            all(
                connection,
                &format!(
                    "SELECT {}, live FROM copies
                     WHERE (file, version, tier, epoch, seq) > (?, ?, ?, ?, ?)
                     ORDER BY file, version, tier, epoch, seq LIMIT ?",
                    aggregates::COPY
                ),
                params![
                    file.0,
                    int(version.0),
                    tier.0,
                    id.epoch,
                    int(id.seq),
                    page(limit)
                ],
                |row| {
                    Ok(CopyRow {
                        copy: aggregates::copy_row(row)?,
                        live: row.get("live")?,
                    })
                },
                "list",
                "copies",
            )
        })
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
        self.readers
            .read(|connection| aggregates::of_tier(connection, tier, after, limit))
    }

    /// All tiers, in the order of their numbers.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn tiers(&self) -> Result<Vec<TierRow>, CatalogError> {
        let mut tiers = self.readers.read(incarnation::tiers)?;
        tiers.sort_by_key(|tier| tier.id);
        Ok(tiers)
    }

    /// Numbers of all tiers that have a row or an aggregate, ascending.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn tier_numbers(&self) -> Result<Vec<TierId>, CatalogError> {
        let mut known: Vec<TierId> = self.tiers()?.iter().map(|tier| tier.id).collect();
        // Tiers that only records told of: from one to the next.
        let mut after = TierId(0);
        while let Some(next) = self.readers.read(|c| aggregates::next_tier(c, after))? {
            known.push(next);
            after = next;
        }
        known.sort();
        known.dedup();
        Ok(known)
    }

    /// Tombstones in the order of file and version, from after `after`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn tombstones(
        &self,
        after: Option<(FileId, DataVersion)>,
        limit: usize,
    ) -> Result<Vec<Tombstone>, CatalogError> {
        let (file, version) = after.unwrap_or((FileId([0; 16]), DataVersion(0)));
        self.readers.read(|connection| {
            all(
                connection,
                "SELECT * FROM tombstones WHERE (file, version) > (?, ?)
                 ORDER BY file, version LIMIT ?",
                params![file.0, int(version.0), page(limit)],
                aggregates::tombstone_row,
                "list",
                "tombstones",
            )
        })
    }

    /// The pins of a node.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn pins(&self, node: NodeId) -> Result<Vec<Pin>, CatalogError> {
        self.readers
            .read(|connection| super::pins::of(connection, node))
    }
}
