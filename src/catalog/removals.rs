//! Copies that are given up although their file lives on.
//!
//! Invariants:
//! - What is left of a file's copies was proven by the caller, who keeps releases and archives of it
//!   out meanwhile; the row is compared with what the caller planned under.
//! - The row of a removed copy stays, and does not count: its aggregate's index still names the
//!   version, and whoever reclaims aggregates must be able to tell why that is no reason to keep it.
//! - A version whose last copy was given up while the data are on disk is a deleted one: it leaves a
//!   tombstone, and the file is one that was never archived. Its id is not used again.

use super::copy::{CopyState, TombstoneWhy};
use super::sql::{Code, all, change, int};
use super::{Catalog, CatalogError, Copy, Durability, FileState, NodeId, Planned};
use super::{names, nodes, tombs};
use crate::id::Timestamp;
use rusqlite::{Connection, params};

/// A file that loses copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The file.
    pub node: NodeId,
    /// What it was when that was decided.
    pub planned: Planned,
    /// The copies that go, all of its present version.
    pub copies: Vec<Copy>,
    /// They are the last: the file, which is resident, is not archived from here on.
    pub last: bool,
    /// What is told of the file from here on; `None`: what was told before.
    pub note: Option<String>,
}

/// What came of a [`Removal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// Done.
    Done,
    /// The row is another by now: nothing was done.
    Changed,
}

impl Catalog {
    /// Gives copies up. Always durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn remove_copies(&self, removal: Removal, now: Timestamp) -> Result<Removed, CatalogError> {
        self.write(Durability::Full, move |connection| {
            let row = nodes::get(connection, removal.node)?;
            let Some(row) = row.filter(|row| row.planned() == removal.planned) else {
                return Ok(Removed::Changed);
            };
            if !removal.last {
                for copy in &removal.copies {
                    give_up(connection, copy)?;
                }
                for holder in holders(connection, &removal.copies)? {
                    tombs::recount(connection, holder)?;
                }
                return note(connection, row.id, removal.note.as_deref());
            }
            let (Some(version), FileState::Archived) = (row.version, row.state) else {
                return Ok(Removed::Changed);
            };
            let (path, uid) = (names::path(connection, row.id)?, row.attributes.uid);
            let (why, path) = (TombstoneWhy::Remove, path.unwrap_or_default());
            tombs::bury(connection, row.id, &version, why, &path, uid, now)?;
            change(
                connection,
                "UPDATE nodes SET state = ?, file = NULL, version = NULL, crc = NULL,
                     blocks_crc = NULL, proven_size = NULL, proven_ctime = NULL,
                     proven_boot = NULL, copies = 0 WHERE id = ?",
                params![FileState::None.code(), row.id.0],
                "note that it is not archived",
                row.id,
            )?;
            note(connection, row.id, removal.note.as_deref())
        })
    }
}

/// All files of the version: a copied stub shares it until it is adopted.
fn holders(connection: &Connection, copies: &[Copy]) -> Result<Vec<NodeId>, CatalogError> {
    let Some(copy) = copies.first() else {
        return Ok(Vec::new());
    };
    all(
        connection,
        "SELECT id FROM nodes WHERE file = ?",
        [copy.file.0],
        |row| row.get(0).map(NodeId),
        "find by file",
        copy.file,
    )
}

fn note(
    connection: &Connection,
    node: NodeId,
    note: Option<&str>,
) -> Result<Removed, CatalogError> {
    change(
        connection,
        "UPDATE nodes SET note = ifnull(?, note) WHERE id = ?",
        params![note, node.0],
        "note of",
        node,
    )?;
    Ok(Removed::Done)
}

fn give_up(connection: &Connection, copy: &Copy) -> Result<(), CatalogError> {
    let key = params![
        copy.file.0,
        int(copy.version.0),
        copy.tier.0,
        copy.aggregate.epoch,
        int(copy.aggregate.seq)
    ];
    let was_live = change(
        connection,
        "UPDATE copies SET live = 0
         WHERE file = ? AND version = ? AND tier = ? AND epoch = ? AND seq = ? AND live = 1",
        key,
        "retire a copy",
        copy.file,
    )?;
    if was_live > 0 {
        change(
            connection,
            "UPDATE aggregates SET live_members = live_members - 1, live_bytes = live_bytes - ?
             WHERE tier = ? AND epoch = ? AND seq = ?",
            params![
                int(copy.stored_len),
                copy.tier.0,
                copy.aggregate.epoch,
                int(copy.aggregate.seq)
            ],
            "count live members",
            copy.aggregate,
        )?;
    }
    change(
        connection,
        "UPDATE copies SET state = ?6 WHERE file = ?1 AND version = ?2 AND tier = ?3
             AND epoch = ?4 AND seq = ?5",
        params![
            copy.file.0,
            int(copy.version.0),
            copy.tier.0,
            copy.aggregate.epoch,
            int(copy.aggregate.seq),
            CopyState::Removed.code()
        ],
        "give up a copy",
        copy.file,
    )
    .map(drop)
}
