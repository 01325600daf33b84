//! Pins: a holder keeps a file on disk until a time. Several holders may.

use super::node::NodeId;
use super::sql::{all, change, first, page, time};
use super::{Catalog, CatalogError, Durability};
use crate::id::Timestamp;
use rusqlite::{Connection, params};

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
        self.write(Durability::Full, move |connection| {
            for pin in &pins {
                change(
                    connection,
                    "INSERT INTO pins (node, holder, expires) VALUES (?, ?, ?)
                     ON CONFLICT DO UPDATE SET expires = excluded.expires",
                    params![pin.node.0, pin.holder, pin.expires.nanos()],
                    "pin",
                    pin.node,
                )?;
            }
            Ok(())
        })
    }

    /// Ends a holder's pins of these files; gives how many there were. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn unpin(&self, nodes: Vec<NodeId>, holder: &str) -> Result<u64, CatalogError> {
        let holder = holder.to_owned();
        self.write(Durability::Full, move |connection| {
            let mut ended = 0;
            for node in &nodes {
                ended += change(
                    connection,
                    "DELETE FROM pins WHERE node = ? AND holder = ?",
                    params![node.0, holder],
                    "unpin",
                    node,
                )?;
            }
            Ok(ended as u64)
        })
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
        self.read(|connection| {
            let until = first(
                connection,
                "SELECT max(expires) FROM pins WHERE node = ? AND expires > ?",
                params![node.0, now.nanos()],
                |row| row.get::<_, Option<i64>>(0),
                "find pins",
                node,
            )?;
            Ok(until.flatten().map(time))
        })
    }

    /// The pins of a file, expired ones that were not yet swept included.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn pins(&self, node: NodeId) -> Result<Vec<Pin>, CatalogError> {
        self.read(|connection| of(connection, node))
    }

    /// Sweeps away at most `limit` pins that have expired; gives how many.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn expire_pins(&self, now: Timestamp, limit: usize) -> Result<u64, CatalogError> {
        self.write(Durability::Relaxed, move |connection| {
            let swept = change(
                connection,
                "DELETE FROM pins WHERE (node, holder) IN
                     (SELECT node, holder FROM pins WHERE expires <= ? LIMIT ?)",
                params![now.nanos(), page(limit)],
                "sweep",
                "pins",
            )?;
            Ok(swept as u64)
        })
    }
}

/// The pins of a node.
pub(super) fn of(connection: &Connection, node: NodeId) -> Result<Vec<Pin>, CatalogError> {
    all(
        connection,
        "SELECT node, holder, expires FROM pins WHERE node = ? LIMIT ?",
        params![node.0, page(super::PAGE_MAX)],
        |row| {
            Ok(Pin {
                node: NodeId(row.get(0)?),
                holder: row.get(1)?,
                expires: time(row.get(2)?),
            })
        },
        "find pins",
        node,
    )
}
