//! Deleted versions: listed by where they lay, and brought back for a file that is about to be made.
//!
//! Invariant: a version comes back in two transactions with the making of its file between them.
//! Behind the first nothing of it can be reclaimed; behind the second it is a released file's. What a
//! crash leaves between them is settled by the next complete scan that began later.

use super::aggregates::tombstone_row;
use super::node::{Known, NodeId, Proven, Sighting, Version};
use super::sql::{all, first, int, page};
use super::tombs::{self, NotRevived, Revived};
use super::{Catalog, CatalogError, Durability, FileState, Tombstone, nodes, transitions};
use crate::id::{FileId, Timestamp};
use rusqlite::{Connection, params};

/// Longer than any name of a path, and behind all of them: no byte of a name sorts higher.
const BEHIND_ALL: [u8; 256] = [0xff; 256];

/// Which tombstones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Below {
    /// Of what lay below this directory (path relative to the root; empty: the root).
    pub directory: Vec<u8>,
    /// Of files of this user alone.
    pub uid: Option<u32>,
}

/// A file that was made for a version that comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CameBack {
    /// The version, as it was revived.
    pub revived: Revived,
    /// Its sums.
    pub version: Version,
    /// The file.
    pub seen: Sighting,
    /// What it looks like.
    pub proven: Proven,
}

impl Catalog {
    /// Tombstones of what had exactly this path (relative to the root), the latest first, at most
    /// `limit`. `uid`: of that user's files alone.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn deleted_at(
        &self,
        path: &[u8],
        uid: Option<u32>,
        limit: usize,
    ) -> Result<Vec<Tombstone>, CatalogError> {
        self.read(|connection| {
            let (step, object) = ("look for what was deleted at", "a path");
            match uid {
                None => all(
                    connection,
                    "SELECT * FROM tombstones WHERE path = ? ORDER BY id DESC LIMIT ?",
                    params![path, page(limit)],
                    tombstone_row,
                    step,
                    object,
                ),
                Some(uid) => all(
                    connection,
                    "SELECT * FROM tombstones WHERE uid = ? AND path = ? ORDER BY id DESC LIMIT ?",
                    params![uid, path, page(limit)],
                    tombstone_row,
                    step,
                    object,
                ),
            }
        })
    }

    /// Tombstones of what lay below a directory, by path and then in the order in which they were
    /// made, from after `after` (path and number).
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn deleted_below(
        &self,
        what: &Below,
        after: Option<(&[u8], u64)>,
        limit: usize,
    ) -> Result<Vec<Tombstone>, CatalogError> {
        let (mut low, mut high) = (what.directory.clone(), what.directory.clone());
        if what.directory.is_empty() {
            high.extend(BEHIND_ALL);
        } else {
            low.push(b'/');
            // What follows the slash among bytes.
            high.push(b'/' + 1);
        }
        let (path, id) = after.map_or((&low[..], -1), |(path, id)| (path, int(id)));
        self.read(|connection| {
            let (step, object) = ("list what was deleted below", "a directory");
            match what.uid {
                None => all(
                    connection,
                    "SELECT * FROM tombstones WHERE (path, id) > (?, ?) AND path < ?
                     ORDER BY path, id LIMIT ?",
                    params![path, id, high, page(limit)],
                    tombstone_row,
                    step,
                    object,
                ),
                Some(uid) => all(
                    connection,
                    "SELECT * FROM tombstones WHERE uid = ? AND (path, id) > (?, ?) AND path < ?
                     ORDER BY path, id LIMIT ?",
                    params![uid, path, id, high, page(limit)],
                    tombstone_row,
                    step,
                    object,
                ),
            }
        })
    }

    /// P8, the other way round: the copies of a deleted version count again, because a file is about
    /// to be made for it. Always durable. To be followed by [`Catalog::came_back`] or
    /// [`Catalog::rest_again`].
    ///
    /// # Errors
    /// [`CatalogError`]; `Ok(Err)`: it cannot come back.
    pub fn revive(
        &self,
        tombstone: u64,
        now: Timestamp,
    ) -> Result<Result<Revived, NotRevived>, CatalogError> {
        let fresh = FileId::random();
        self.write(Durability::Full, move |connection| {
            tombs::revive(connection, tombstone, fresh, now)
        })
    }

    /// The file is there, with its stub: its node, released, and its copies. Always durable. `None`:
    /// the tombstone is not marked any more; nothing was noted.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn came_back(
        &self,
        file: CameBack,
        now: Timestamp,
    ) -> Result<Option<NodeId>, CatalogError> {
        self.write(Durability::Full, move |connection| {
            let CameBack {
                revived,
                version,
                seen,
                proven,
            } = file;
            let stone = tombs::stone(connection, revived.tombstone)?;
            // A scan may have met the file before, and ended it.
            let known = nodes::by_handle(connection, &seen.handle)?
                .filter(|n| n.planned().version == Some((revived.file, revived.version)));
            let stone = stone.filter(|s| s.heir == Some(revived.file));
            // What is known of it is newer than this.
            if let Some(row) = known {
                if let Some(stone) = stone {
                    tombs::came_back(connection, &stone)?;
                }
                return Ok(Some(row.id));
            }
            let Some(stone) = stone else {
                return Ok(None);
            };
            let generation = nodes::generation(connection)?;
            let node = nodes::sighted(connection, &seen, generation)?;
            let known = Known {
                node,
                state: FileState::Released,
                version,
                copies: revived.copies,
                under: None,
            };
            transitions::learn_one(connection, &known, now)?;
            transitions::prove(connection, node, &proven)?;
            tombs::came_back(connection, &stone)?;
            Ok(Some(node))
        })
    }

    /// Is any version marked as being undeleted? At a start: what was cut short.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn has_revivals(&self) -> Result<bool, CatalogError> {
        self.read(any_revival)
    }

    /// No file was made: the version is as deleted as before. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn rest_again(&self, revived: &Revived) -> Result<(), CatalogError> {
        let (id, heir) = (revived.tombstone, revived.file);
        self.write(Durability::Full, move |connection| {
            match tombs::stone(connection, id)? {
                Some(stone) if stone.heir == Some(heir) => {
                    tombs::rest_again(connection, &stone, stone.at)
                }
                _ => Ok(()),
            }
        })
    }

    /// After a scan that looked everywhere and began at `begun`: settles what was being undeleted
    /// before and is not any more (none of `under_way`). Where no file came of it the copies stop
    /// counting, and the tombstone is as if made now: P8 asks for another scan. Gives how many those
    /// were. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn settle_revivals(
        &self,
        begun: Timestamp,
        under_way: Vec<u64>,
        now: Timestamp,
    ) -> Result<u64, CatalogError> {
        if !self.read(any_revival)? {
            return Ok(0);
        }
        self.write(Durability::Full, move |connection| {
            let mut buried = 0;
            for stone in left_behind(connection, begun)? {
                let Some(heir) = stone.heir.filter(|_| !under_way.contains(&stone.id)) else {
                    continue;
                };
                let there = first(
                    connection,
                    "SELECT 1 FROM nodes WHERE file = ? AND version = ? LIMIT 1",
                    params![heir.0, int(stone.version.0)],
                    |_| Ok(()),
                    "find by file",
                    heir,
                )?;
                if there.is_some() {
                    tombs::came_back(connection, &stone)?;
                } else {
                    tombs::rest_again(connection, &stone, now)?;
                    buried += 1;
                }
            }
            Ok(buried)
        })
    }
}

fn any_revival(connection: &Connection) -> Result<bool, CatalogError> {
    let any = first(
        connection,
        "SELECT 1 FROM tombstones WHERE heir IS NOT NULL AND id > 0 LIMIT 1",
        [],
        |_| Ok(()),
        "look for",
        "undeletes",
    )?;
    Ok(any.is_some())
}

/// A page of them: more are settled by the scan after this.
fn left_behind(connection: &Connection, begun: Timestamp) -> Result<Vec<Tombstone>, CatalogError> {
    all(
        connection,
        "SELECT * FROM tombstones WHERE heir IS NOT NULL AND id > 0 AND heir_since < ?
         ORDER BY id LIMIT ?",
        params![begun.nanos(), page(super::PAGE_MAX)],
        tombstone_row,
        "list",
        "undeletes",
    )
}
