//! What archive, release, stage and change do to a file's row, its copies and tombstones.
//!
//! Invariant: a version that stops being the present one leaves a tombstone in the same
//! transaction, and its copies stop counting as live in their aggregates.

use super::copy::{Archived, NewAggregate, TombstoneWhy};
use super::node::{Attributes, FileState, Known, NodeId, Proven, Sighting};
use super::sql::{Code, change, int};
use super::{
    Catalog, CatalogError, Copy, CopyState, Durability, Version, aggregates, names, nodes, tombs,
};
use crate::id::Timestamp;
use rusqlite::{Connection, params};

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
        self.write(Durability::Full, move |connection| {
            aggregates::insert(connection, &aggregate, now)?;
            for file in &files {
                archive_one(connection, &aggregate, file, now)?;
            }
            Ok(())
        })
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
        self.post(durability, move |connection| {
            prove(connection, node, &proven)
        })
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
        self.post(durability, move |connection| {
            let Some(row) = nodes::get(connection, node)? else {
                return nodes::known(0, "note a change", node);
            };
            let (FileState::Archived | FileState::Released | FileState::Lost, Some(version)) =
                (row.state, &row.version)
            else {
                return Ok(());
            };
            let path = names::path(connection, node)?.unwrap_or_default();
            set_state(connection, node, FileState::Dirty, None)?;
            tombs::bury(
                connection,
                node,
                version,
                why,
                &path,
                row.attributes.uid,
                now,
            )
        })
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
        self.post(durability, move |connection| {
            nodes::set_attributes(connection, node, &attributes)?;
            prove(connection, node, &proven)?;
            set_state(connection, node, FileState::Released, None)
        })
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
        self.post(durability, move |connection| {
            nodes::set_attributes(connection, node, &attributes)?;
            prove(connection, node, &proven)?;
            set_state(connection, node, FileState::Archived, None)?;
            change(
                connection,
                "UPDATE nodes SET staged_at = ? WHERE id = ?",
                params![now.nanos(), node.0],
                "note a stage",
                node,
            )
            .map(drop)
        })
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
        self.post(durability, move |connection| {
            set_state(connection, node, state, note.as_deref())
        })
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
        self.post(durability, move |connection| {
            known
                .iter()
                .try_for_each(|file| learn_one(connection, file, now))
        })
    }

    /// P6: a copied stub was adopted under a new file id (`version`). Its node, released, and its
    /// copies, which lie where another file's do, in one durable transaction.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn adopt(
        &self,
        seen: Sighting,
        version: Version,
        copies: Vec<Copy>,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        self.write(Durability::Full, move |connection| {
            let generation = nodes::generation(connection)?;
            let known = Known {
                node: nodes::sighted(connection, &seen, generation)?,
                state: FileState::Released,
                version,
                copies,
            };
            learn_one(connection, &known, now)
        })
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
        self.write(durability, move |connection| {
            let path = names::path(connection, node)?.unwrap_or_default();
            tombs::forget(connection, node, TombstoneWhy::Unlink, &path, now)
        })
    }
}

fn archive_one(
    connection: &Connection,
    aggregate: &NewAggregate,
    file: &Archived,
    now: Timestamp,
) -> Result<(), CatalogError> {
    let copy = Copy {
        file: file.version.file,
        version: file.version.version,
        tier: aggregate.tier,
        aggregate: aggregate.id,
        header: file.header,
        stored_len: file.stored_len,
        crc: file.version.crc,
        state: CopyState::Good,
        proven_at: now,
        last_verified: None,
    };
    aggregates::put_copy(connection, &copy)?;
    // A node that went meanwhile leaves a copy that nobody needs: its tombstone says so.
    let Some(row) = nodes::get(connection, file.node)? else {
        let (version, why) = (&file.version, TombstoneWhy::Unlink);
        return tombs::bury(connection, file.node, version, why, &[], 0, now);
    };
    let same = row.version.map(|v| (v.file, v.version)) == Some((copy.file, copy.version));
    if same && row.state == FileState::Released {
        // One more copy, made from another tier: the file stays as it is.
        return tombs::recount(connection, file.node);
    }
    set_version(connection, file.node, &file.version, now)?;
    prove(connection, file.node, &file.proven)?;
    set_state(connection, file.node, FileState::Archived, None)?;
    tombs::recount(connection, file.node)
}

fn learn_one(connection: &Connection, known: &Known, now: Timestamp) -> Result<(), CatalogError> {
    for copy in &known.copies {
        aggregates::learn(connection, copy, now)?;
        aggregates::put_copy(connection, copy)?;
    }
    // A later version was archived, and only its record could not be written onto the file: what
    // the catalog committed stands, and no version's number is given twice.
    let row = nodes::get(connection, known.node)?;
    let later = row.and_then(|row| row.version).is_some_and(|have| {
        have.file == known.version.file && have.version > known.version.version
    });
    if later && known.state == FileState::Archived {
        return Ok(());
    }
    set_version(connection, known.node, &known.version, now)?;
    set_state(connection, known.node, known.state, None)?;
    tombs::unearth(connection, known.version.file, known.version.version)?;
    tombs::recount(connection, known.node)
}

/// Sets the present version; the one before, if it was another, leaves a tombstone.
fn set_version(
    connection: &Connection,
    node: NodeId,
    version: &Version,
    now: Timestamp,
) -> Result<(), CatalogError> {
    let Some(row) = nodes::get(connection, node)? else {
        return nodes::known(0, "set the version", node);
    };
    if let Some(before) = &row.version {
        if (before.file, before.version) != (version.file, version.version) {
            let (path, uid) = (names::path(connection, node)?, row.attributes.uid);
            let path = path.unwrap_or_default();
            tombs::bury(
                connection,
                node,
                before,
                TombstoneWhy::Overwrite,
                &path,
                uid,
                now,
            )?;
        } else if row.state == FileState::Dirty {
            // Archived, changed, and now the record says it is what it was.
            tombs::unearth(connection, version.file, version.version)?;
        }
    }
    change(
        connection,
        "UPDATE nodes SET file = ?, version = ?, crc = ?, blocks_crc = ?, proven_size = NULL,
             proven_ctime = NULL, proven_boot = NULL WHERE id = ?",
        params![
            version.file.0,
            int(version.version.0),
            version.crc.0,
            version.blocks_crc.0,
            node.0
        ],
        "set the version",
        node,
    )
    .map(drop)
}

fn prove(connection: &Connection, node: NodeId, proven: &Proven) -> Result<(), CatalogError> {
    let rows = change(
        connection,
        "UPDATE nodes SET proven_size = ?, proven_ctime = ?, proven_boot = ? WHERE id = ?",
        params![
            int(proven.size),
            proven.ctime.nanos(),
            proven.boot.0,
            node.0
        ],
        "note a quiescent point",
        node,
    )?;
    nodes::known(rows, "note a quiescent point", node)
}

fn set_state(
    connection: &Connection,
    node: NodeId,
    state: FileState,
    note: Option<&str>,
) -> Result<(), CatalogError> {
    let rows = change(
        connection,
        "UPDATE nodes SET state = ?, note = ? WHERE id = ?",
        params![state.code(), note, node.0],
        "set the state",
        node,
    )?;
    nodes::known(rows, "set the state", node)
}
