//! What archive, release, stage and change do to a file's row, its copies and tombstones.
//!
//! Invariants:
//! - A version that stops being the present one leaves a tombstone in the same transaction, and its
//!   copies stop counting as live in their aggregates. A file is dirty exactly while the version that its
//!   row names has one: where the one goes, so does the other, and what was made of the version meanwhile
//!   counts again ([`tombs::unearth`]). But for a copied stub: while another node has the same version,
//!   and is not dirty itself, nothing of the version has ended, and the one that was changed is dirty
//!   without a tombstone ([`tombs::bury`]).
//! - Steps take time and end late. Each says under which row it was planned ([`Planned`]) or
//!   which version it is about, and is compared with the row in the transaction: news that was
//!   noted meanwhile stands. A dirty file never becomes archived by the end of an archive that
//!   began before it was changed.

use super::copy::{Archived, NewAggregate, Rebound, Recalled, TombstoneWhy};
use super::node::{Attributes, FileState, Known, Node, NodeId, Planned, Proven, Sighting};
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
        self.write_many(files.len(), Durability::Full, move |connection| {
            aggregates::insert(connection, &aggregate, now)?;
            let (mut members, mut bytes) = (0, 0);
            for file in &files {
                if archive_one(connection, &aggregate, file, now)? {
                    members += 1;
                    bytes += file.stored_len;
                }
            }
            aggregates::count_members(connection, &aggregate, members, bytes)
        })
    }

    /// P1: the ctime is new but the bytes were compared, or never touched, and are this version's.
    /// Nodes that are gone, or have another version by now, are passed over.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn rebound(
        &self,
        points: Vec<Rebound>,
        durability: Durability,
    ) -> Result<(), CatalogError> {
        self.post_many(points.len(), durability, move |connection| {
            for point in &points {
                let (file, version) = point.version;
                let Proven { size, ctime, boot } = point.proven;
                change(
                    connection,
                    "UPDATE nodes SET proven_size = ?, proven_ctime = ?, proven_boot = ?
                     WHERE id = ? AND file = ? AND version = ?",
                    params![
                        int(size),
                        ctime.nanos(),
                        boot.0,
                        point.node.0,
                        file.0,
                        int(version.0)
                    ],
                    "note a quiescent point",
                    point.node,
                )?;
            }
            Ok(())
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
            dirty(connection, &row, why, now)
        })
    }

    /// As [`Catalog::dirtied`], where a comparison with the quiescent point `with` showed the
    /// change: if the file was proven anew since, that comparison says nothing.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn differs(
        &self,
        node: NodeId,
        with: Option<Proven>,
        why: TombstoneWhy,
        now: Timestamp,
        durability: Durability,
    ) -> Result<(), CatalogError> {
        self.post(durability, move |connection| {
            match nodes::get(connection, node)? {
                Some(row) if row.proven == with => dirty(connection, &row, why, now),
                _ => Ok(()),
            }
        })
    }

    /// As [`Catalog::differs`], where the file was seen with this ctime: one that lies behind the point that was
    /// proven since is a change all the same. The version that ends was `owner`'s.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn differs_of(
        &self,
        node: NodeId,
        (with, seen): (Option<Proven>, Timestamp),
        owner: u32,
        (why, now): (TombstoneWhy, Timestamp),
        durability: Durability,
    ) -> Result<(), CatalogError> {
        self.post(durability, move |connection| {
            match nodes::get(connection, node)? {
                // Proven anew since it was looked at, by an archive that has set its record, say: a write behind
                // that cannot have the same ctime (P1), and nobody tells of it again.
                Some(mut row)
                    if row.proven == with || row.proven.is_some_and(|p| p.ctime < seen) =>
                {
                    row.attributes.uid = owner;
                    dirty(connection, &row, why, now)
                }
                _ => Ok(()),
            }
        })
    }

    /// P3 step 7: blocks were given back. `attributes` and `proven` as seen after the punch. No
    /// effect if the row is not what the release was planned under: somebody wrote since.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn released(
        &self,
        node: NodeId,
        planned: Planned,
        attributes: Attributes,
        proven: Proven,
        durability: Durability,
    ) -> Result<(), CatalogError> {
        self.post(durability, move |connection| {
            let Some(row) = nodes::get(connection, node)? else {
                return nodes::known(0, "note a release", node);
            };
            if row.planned() != planned {
                return Ok(());
            }
            nodes::set_attributes(connection, node, &attributes)?;
            prove(connection, node, &proven)?;
            set_state(connection, node, FileState::Released, None)
        })
    }

    /// P4 step 8: the data are back. No effect if the row has another version by now, or if a
    /// change was noted that came after the recall's end.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn staged(
        &self,
        node: NodeId,
        back: Recalled,
        now: Timestamp,
        durability: Durability,
    ) -> Result<(), CatalogError> {
        self.post(durability, move |connection| {
            let Some(row) = nodes::get(connection, node)? else {
                return nodes::known(0, "note a stage", node);
            };
            let other = row.planned().version != Some(back.version);
            let newer = row.attributes.ctime > back.ctime;
            if other || (row.state == FileState::Dirty && newer) {
                return Ok(());
            }
            if let (FileState::Dirty, Some(version)) = (row.state, &row.version) {
                // Taken for a change was what the recall itself did.
                tombs::unearth(connection, version.file, version.version)?;
            }
            if back.attributes.ctime >= row.attributes.ctime {
                nodes::set_attributes(connection, node, &back.attributes)?;
            }
            prove(connection, node, &back.proven)?;
            set_state(connection, node, FileState::Archived, None)?;
            change(
                connection,
                "UPDATE nodes SET staged_at = ?, trouble = 0 WHERE id = ?",
                params![now.nanos(), node.0],
                "note a stage",
                node,
            )
            .map(drop)
        })
    }

    /// A released file's stub is missing: it is lost (P6). No effect if the row is not what that
    /// was seen under.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn lost(&self, node: NodeId, planned: Planned, note: String) -> Result<(), CatalogError> {
        self.post(Durability::Full, move |connection| {
            match nodes::get(connection, node)? {
                Some(row) if row.planned() == planned => {
                    set_state(connection, node, FileState::Lost, Some(&note))
                }
                _ => Ok(()),
            }
        })
    }

    /// Words about a file (conflict, foreign). Its state stays what it is *now*: who read it before may
    /// be late.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn set_note(
        &self,
        node: NodeId,
        note: String,
        durability: Durability,
    ) -> Result<(), CatalogError> {
        self.post(durability, move |connection| {
            let rows = change(
                connection,
                "UPDATE nodes SET note = ? WHERE id = ?",
                params![note, node.0],
                "note the words about",
                node,
            )?;
            nodes::known(rows, "note the words about", node)
        })
    }

    /// Forces a state, whatever that leaves of copies and tombstones.
    #[cfg(test)]
    pub(crate) fn set_state(
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

    /// As [`Self::set_state`], waiting for the commit. `false`, and no effect, if the row is not what
    /// the caller's step was planned under. One that is taken for changed again leaves its tombstone again,
    /// at `now`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn swap_state(
        &self,
        node: NodeId,
        planned: Planned,
        (state, note): (FileState, Option<String>),
        now: Timestamp,
    ) -> Result<bool, CatalogError> {
        self.write(Durability::Relaxed, move |connection| {
            let row = nodes::get(connection, node)?;
            let row = row.filter(|row| row.planned() == planned);
            if let Some(row) = &row {
                if state == FileState::Dirty {
                    dirty(connection, row, TombstoneWhy::Overwrite, now)?;
                }
                // Taken for a change, and compared since: what the row was planned under is its
                // version, and needed.
                let needed = matches!(state, FileState::Archived | FileState::Released);
                if let (FileState::Dirty, Some((file, version)), true) =
                    (planned.state, planned.version, needed)
                {
                    tombs::unearth(connection, file, version)?;
                }
                set_state(connection, node, state, note.as_deref())?;
            }
            Ok(row.is_some())
        })
    }

    /// Takes what records or indexes say into the catalog: rebuild, and rows that a power loss
    /// took back. Aggregates not known yet get a row with [`super::ProofKind::Learned`]. What the
    /// catalog knew about a node's version before leaves a tombstone if it was a lower one of the
    /// same file. Rows that are not what a file was looked at under stay as they are, and a file
    /// whose ctime moved since is dirty, not archived.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn learn(
        &self,
        known: Vec<Known>,
        now: Timestamp,
        durability: Durability,
    ) -> Result<(), CatalogError> {
        self.post_many(known.len(), durability, move |connection| {
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
            let mut copies = copies;
            let mut doomed = false;
            for copy in std::mem::take(&mut copies) {
                match aggregates::is_doomed(connection, &copy)? {
                    true => doomed = true,
                    false => copies.push(copy),
                }
            }
            if copies.is_empty() && doomed {
                return Err(CatalogError::Refused {
                    step: "adopt",
                    object: version.file.to_string(),
                    why: "all its copies are being deleted",
                });
            }
            let generation = nodes::generation(connection)?;
            let known = Known {
                node: nodes::sighted(connection, &seen, generation)?,
                state: FileState::Released,
                version,
                copies,
                under: None,
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
            let path = names::last_path(connection, node)?.unwrap_or_default();
            tombs::forget(connection, node, TombstoneWhy::Unlink, &path, now)
        })
    }
}

/// `true`: its copy is one more in the aggregate.
fn archive_one(
    connection: &Connection,
    aggregate: &NewAggregate,
    file: &Archived,
    now: Timestamp,
) -> Result<bool, CatalogError> {
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
    let added = aggregates::add_copy(connection, &copy)?;
    let ours = &file.version;
    // A node that went meanwhile leaves a copy that nobody needs: its tombstone says so.
    let Some(row) = nodes::get(connection, file.node)? else {
        let why = TombstoneWhy::Unlink;
        tombs::bury(connection, file.node, ours, why, &[], 0, now)?;
        return Ok(added);
    };
    let same = row.planned().version == Some((copy.file, copy.version));
    if same && row.state == FileState::Released {
        // One more copy, made from another tier: the file stays as it is.
        tombs::recount(connection, file.node)?;
        return Ok(added);
    }
    let later = |v: Version| v.file == ours.file && v.version > ours.version;
    if row.version.is_some_and(later) {
        // The row has a later one already.
        let path = names::path(connection, file.node)?.unwrap_or_default();
        let (why, uid) = (TombstoneWhy::Overwrite, row.attributes.uid);
        tombs::bury(connection, file.node, ours, why, &path, uid, now)?;
        return Ok(added);
    }
    replace_version(connection, &row, ours, now)?;
    let changed = changed_since(&row, file);
    let state = if changed {
        FileState::Dirty
    } else {
        FileState::Archived
    };
    change(
        connection,
        "UPDATE nodes SET file = ?1, version = ?2, crc = ?3, blocks_crc = ?4, proven_size = ?5,
             proven_ctime = ?6, proven_boot = ?7, state = ?8, note = NULL,
             copies = (SELECT count(DISTINCT tier) FROM copies
                 WHERE copies.file = ?1 AND copies.version = ?2
                     AND copies.crc = ?3 AND copies.state = 0)
         WHERE id = ?9",
        params![
            ours.file.0,
            int(ours.version.0),
            ours.crc.0,
            ours.blocks_crc.0,
            int(file.proven.size),
            file.proven.ctime.nanos(),
            file.proven.boot.0,
            state.code(),
            file.node.0
        ],
        "note an archived file",
        file.node,
    )?;
    if changed {
        let path = names::path(connection, file.node)?.unwrap_or_default();
        let (why, uid) = (TombstoneWhy::Overwrite, row.attributes.uid);
        tombs::bury(connection, file.node, ours, why, &path, uid, now)?;
    }
    Ok(added)
}

/// Was a change noted after the archive had begun? (Its own record is written only after this.)
fn changed_since(row: &Node, file: &Archived) -> bool {
    let noted = row.state == FileState::Dirty && file.planned.state != FileState::Dirty;
    noted || row.attributes.ctime > file.proven.ctime
}

pub(super) fn learn_one(
    connection: &Connection,
    known: &Known,
    now: Timestamp,
) -> Result<(), CatalogError> {
    let row = nodes::get(connection, known.node)?;
    let mut state = known.state;
    if let (Some(row), Some((planned, ctime))) = (&row, known.under) {
        // A look takes time when the file is read: news that came meanwhile stands.
        if row.planned() != planned {
            return Ok(());
        }
        if state == FileState::Archived && row.attributes.ctime > ctime {
            state = FileState::Dirty;
        }
    }
    for copy in &known.copies {
        aggregates::learn(connection, copy, now)?;
        aggregates::put_copy(connection, copy)?;
    }
    // A later version was archived, and only its record could not be written onto the file: what
    // the catalog committed stands, and no version's number is given twice.
    let later = row.and_then(|row| row.version).is_some_and(|have| {
        have.file == known.version.file && have.version > known.version.version
    });
    if later && matches!(state, FileState::Archived | FileState::Dirty) {
        return Ok(());
    }
    set_version(connection, known.node, &known.version, now)?;
    set_state(connection, known.node, state, None)?;
    tombs::unearth(connection, known.version.file, known.version.version)?;
    if state == FileState::Dirty {
        // Who looked found other data, or somebody may have changed them since: as after any change (see
        // `dirty`).
        let path = names::path(connection, known.node)?.unwrap_or_default();
        let uid = nodes::get(connection, known.node)?.map_or(0, |row| row.attributes.uid);
        let (version, why) = (&known.version, TombstoneWhy::Overwrite);
        tombs::bury(connection, known.node, version, why, &path, uid, now)?;
    }
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
    replace_version(connection, &row, version, now)?;
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

/// The version before, if it is another, leaves a tombstone.
fn replace_version(
    connection: &Connection,
    row: &Node,
    version: &Version,
    now: Timestamp,
) -> Result<(), CatalogError> {
    let Some(before) = &row.version else {
        return Ok(());
    };
    if (before.file, before.version) != (version.file, version.version) {
        let (path, uid) = (names::path(connection, row.id)?, row.attributes.uid);
        let path = path.unwrap_or_default();
        let why = TombstoneWhy::Overwrite;
        tombs::bury(connection, row.id, before, why, &path, uid, now)?;
    } else if row.state == FileState::Dirty {
        // Archived, changed, and now the record says it is what it was.
        tombs::unearth(connection, version.file, version.version)?;
    }
    Ok(())
}

/// An archived, released or lost file is dirty now.
fn dirty(
    connection: &Connection,
    row: &Node,
    why: TombstoneWhy,
    now: Timestamp,
) -> Result<(), CatalogError> {
    let (FileState::Archived | FileState::Released | FileState::Lost, Some(version)) =
        (row.state, &row.version)
    else {
        return Ok(());
    };
    let (path, uid) = (names::path(connection, row.id)?, row.attributes.uid);
    let path = path.unwrap_or_default();
    set_state(connection, row.id, FileState::Dirty, None)?;
    tombs::bury(connection, row.id, version, why, &path, uid, now)
}

pub(super) fn prove(
    connection: &Connection,
    node: NodeId,
    proven: &Proven,
) -> Result<(), CatalogError> {
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
