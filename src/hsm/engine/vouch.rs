//! A file without a record, asked about: what the catalog has of it decides whether its bytes may
//! be believed (see [`crate::hsm::vouch`]), and is set right where it is behind.

use super::{EngineError, Shared, tree};
use crate::catalog::{
    self, Durability, FileState, Known, Node, NodeId, Sighting, TombstoneWhy, Trouble, Version,
};
use crate::format::member::Extent;
use crate::hsm::backing::{Backing, BackingError, FileStat, How};
use crate::hsm::recall::Adopted;
use crate::hsm::vouch::{Remembered, is_bare, is_lost};
use crate::id::NodeHandle;
use std::os::fd::{AsFd, BorrowedFd};

/// What is told of a lost file, in the catalog and to who asks why.
const NOTE: &str = "its data were released and its stub is gone: only holes are left on disk";

/// What the catalog remembers of the data of a node that carries no record. `None`: nothing that
/// would speak against them.
pub(super) fn remembered(node: &Node, copies: &[catalog::Copy]) -> Option<Remembered> {
    let released = match node.state {
        FileState::Released | FileState::Lost => true,
        FileState::Archived => false,
        FileState::None | FileState::Dirty => return None,
    };
    node.version?;
    Some(Remembered {
        released,
        size: node.proven.map_or(node.attributes.size, |p| p.size),
        stored: copies.iter().map(|c| c.stored_len).max(),
    })
}

impl Shared {
    /// May the catalog know better than the file, which has no record? `bare`: it holds nothing, so
    /// it may be another inode's in whose place it was restored. Quick.
    pub(super) fn may_be_lost(&self, node: &NodeHandle, bare: bool) -> bool {
        (bare || self.catalog.may_be_archived(node)) && !self.believed.holds(node)
    }

    /// Is a file without a record lost? Of a lost one the catalog and the log are told, once. The
    /// caller sees to it that nobody releases it meanwhile. `file`: any descriptor.
    ///
    /// A file that holds its data is none, whatever is wrong with the catalog (a full state
    /// directory, say): it is believed for this time.
    ///
    /// # Errors
    /// It cannot be told: it holds less than what the catalog knows, and the catalog may be behind; or
    /// it holds nothing, and the catalog cannot be read.
    pub(super) fn is_lost(
        &self,
        node: &NodeHandle,
        file: BorrowedFd<'_>,
    ) -> Result<bool, EngineError> {
        // Who cut or wrote it through the mount may be ahead of the catalog.
        let told = self
            .drain_changelog()
            .and_then(|()| Ok(self.catalog.settle(Durability::Relaxed)?));
        let (row, known) = match self.row_and_known(node) {
            Ok(found) => found,
            Err(why) => {
                let open = self.backing.reopen(file, How::Read)?;
                let holds_data = self.backing.has_data(open.as_fd())?;
                return if holds_data { Ok(false) } else { Err(why) };
            }
        };
        let Some((row, known)) = row.as_ref().zip(known) else {
            let lost = row.is_none_or(|r| r.version.is_none()) && self.is_restored(node, file)?;
            if !lost && told.is_ok() {
                self.believed.add(node);
            }
            return Ok(lost);
        };
        let open = self.backing.reopen(file, How::Read)?;
        let Some((size, data)) = measure(&self.backing, open.as_fd())? else {
            return Ok(false);
        };
        if !is_lost(&known, size, data) {
            if let Err(why) = told.and_then(|()| self.found_whole(row, &known, size)) {
                tracing::warn!(%why, "a file without a record holds its data; the catalog could not be told");
                return Ok(false);
            }
            self.believed.add(node);
            return Ok(false);
        }
        told?;
        if row.state != FileState::Lost {
            self.found_lost(row, size, data)?;
        }
        Ok(true)
    }

    /// What the catalog has of a node, and what it remembers of its data.
    fn row_and_known(
        &self,
        node: &NodeHandle,
    ) -> Result<(Option<Node>, Option<Remembered>), EngineError> {
        let Some(row) = self.catalog.node_by_handle(node)? else {
            return Ok((None, None));
        };
        let copies = match row.version {
            Some(version) => self.catalog.copies(version.file, version.version)?,
            None => Vec::new(),
        };
        let known = remembered(&row, &copies);
        Ok((Some(row), known))
    }

    /// A file that the catalog has for released holds data: it was written anew, and a crash took the
    /// event.
    fn found_whole(&self, row: &Node, known: &Remembered, size: u64) -> Result<(), EngineError> {
        if known.released && size > 0 {
            let (why, now) = (TombstoneWhy::Overwrite, self.now());
            self.catalog
                .dirtied(row.id, why, now, Durability::Relaxed)?;
        }
        Ok(())
    }

    /// A file that should have a record and has none: its copy is good, but a kill or a writer
    /// came before the record (P2 step 6). Lost, or dirty: the next archive writes the record, and
    /// nothing else would. The caller has the claim; `node`: as it was when the record was looked for.
    pub(super) fn lacks_record(
        &self,
        node: &Node,
        file: BorrowedFd<'_>,
    ) -> Result<(), EngineError> {
        let (Some(version), false) = (node.version, self.is_lost(&node.handle, file)?) else {
            return Ok(());
        };
        let copies = self.catalog.copies(version.file, version.version)?;
        let known = remembered(node, &copies).filter(|known| !known.released);
        let open = self.backing.reopen(file, How::Read)?;
        let (Some(known), Some((size, data))) = (known, measure(&self.backing, open.as_fd())?)
        else {
            return Ok(());
        };
        // Half of a recall is no new version: the copy is all there is.
        let released = true;
        if is_lost(&Remembered { released, ..known }, size, data) {
            tracing::warn!(node = ?node.handle, "no record, and less data than its copy has");
            return Ok(());
        }
        let (why, now) = (TombstoneWhy::Overwrite, self.now());
        Ok(self
            .catalog
            .differs(node.id, node.proven, why, now, Durability::Relaxed)?)
    }

    /// As [`Self::is_lost`], for a node that is not open; one that is gone is not lost.
    pub(super) fn look_again(&self, node: &NodeHandle) -> Result<bool, EngineError> {
        let hint = tree::hint(self, node)?;
        match self.backing.open_node(node, hint.as_deref(), How::Path) {
            Ok(fd) => self.is_lost(node, fd.as_fd()),
            Err(BackingError::Gone { .. }) => Ok(false),
            Err(why) => Err(why.into()),
        }
    }

    /// Is a file that the catalog does not know a released one's hole, restored without the stub?
    /// A lost one is noted.
    fn is_restored(&self, node: &NodeHandle, file: BorrowedFd<'_>) -> Result<bool, EngineError> {
        let stat = self.backing.stat(file)?;
        // Where it has no name now, there is nothing to compare it with.
        let Ok(path) = self.backing.path_of(file) else {
            return Ok(false);
        };
        let (above, name) = match path.iter().rposition(|b| *b == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b""[..], &path[..]),
        };
        let directory = self.backing.open_beneath(above)?;
        let directory = self.backing.handle_of(directory.as_fd())?;
        let Some(parent) = self.catalog.node_by_handle(&directory)? else {
            return Ok(false);
        };
        let Some(old) = self.replaced(parent.id, name, node, file, &stat)? else {
            return Ok(false);
        };
        let seen = Sighting {
            handle: node.clone(),
            attributes: tree::attributes(&stat),
            place: Some((parent.id, name.to_vec())),
        };
        let noted = self.catalog.note(vec![seen], Durability::Relaxed)?;
        if let Some(id) = noted.first() {
            self.found_restored(*id, &old)?;
        }
        Ok(true)
    }

    /// The released file that had the name of a file that the catalog does not know, if it is gone
    /// and this one is its hole: of its size and time, and without any data.
    pub(super) fn replaced(
        &self,
        parent: NodeId,
        name: &[u8],
        node: &NodeHandle,
        file: BorrowedFd<'_>,
        stat: &FileStat,
    ) -> Result<Option<Node>, EngineError> {
        if !is_bare(stat.size, stat.blocks, stat.block_size) {
            return Ok(None);
        }
        let old = match self.catalog.lookup(parent, name)? {
            Some(id) => self.catalog.node(id)?,
            None => None,
        };
        let its = |old: &Node| {
            let seen = (old.attributes.size, old.attributes.mtime);
            let gone = matches!(old.state, FileState::Released | FileState::Lost);
            gone && old.handle != *node && seen == (stat.size, stat.mtime)
        };
        let Some(old) = old.filter(its) else {
            return Ok(None);
        };
        let hint = tree::hint(self, &old.handle)?;
        let opened = self
            .backing
            .open_node(&old.handle, hint.as_deref(), How::Path);
        match opened {
            // Unlinked, and somebody has it open.
            Ok(fd) if self.backing.stat(fd.as_fd())?.nlink > 0 => return Ok(None),
            Ok(_) | Err(BackingError::Gone { .. } | BackingError::Unnamed { .. }) => {}
            Err(why) => return Err(why.into()),
        }
        let open = self.backing.reopen(file, How::Read)?;
        let holds_nothing = matches!(measure(&self.backing, open.as_fd())?, Some((_, 0)));
        Ok(Some(old).filter(|_| holds_nothing))
    }

    /// A hole took the place of `old`: it is lost, and its copies are those of `old`.
    pub(super) fn found_restored(&self, id: NodeId, old: &Node) -> Result<(), EngineError> {
        let Some(version) = old.version else {
            return Ok(());
        };
        let known = Known {
            node: id,
            state: FileState::Lost,
            version,
            copies: self.catalog.copies(version.file, version.version)?,
            under: None,
        };
        self.catalog
            .learn(vec![known], self.now(), Durability::Full)?;
        match self.catalog.node(id)? {
            Some(row) => self.found_lost(&row, row.attributes.size, 0),
            None => Ok(()),
        }
    }

    fn found_lost(&self, row: &Node, size: u64, data: u64) -> Result<(), EngineError> {
        let path = self.catalog.path_of(row.id)?.unwrap_or_default();
        let path = String::from_utf8_lossy(&path).into_owned();
        tracing::error!(target: "cairn::lost", path, node = ?row.handle, size, data, "{NOTE}");
        self.catalog.lost(row.id, row.planned(), NOTE.to_owned())?;
        if let Some(gate) = self.late.gate.get() {
            gate.changed(&row.handle);
        }
        for tell in self.lost_ears.lock().iter() {
            tell(&path);
        }
        Ok(())
    }

    /// Does a file without a record look lost? For those who only show it: nothing is noted, and
    /// what the mount did a moment ago may not be known yet.
    pub(super) fn looks_lost(&self, node: &NodeHandle, size: u64, bare: bool) -> bool {
        let row = self.catalog.node_by_handle(node).ok().flatten();
        row.is_some_and(|row| match row.state {
            FileState::Lost => size > 0,
            FileState::Released => bare,
            FileState::None | FileState::Archived | FileState::Dirty => false,
        })
    }
}

/// An adopted stub: its node and its copies, which it shares with the file it was copied from, in
/// one durable transaction.
pub(super) fn note_adopted(shared: &Shared, adopted: &Adopted) -> Result<(), EngineError> {
    let record = &adopted.record;
    let mut copies = shared.copies_of_record(record, &adopted.stat);
    for copy in &mut copies {
        copy.stored_len = adopted.stored_len;
    }
    let version = Version {
        file: record.file,
        version: record.version,
        crc: record.crc,
        blocks_crc: record.blocks_crc,
    };
    let seen = Sighting {
        handle: adopted.node.clone(),
        attributes: tree::attributes(&adopted.stat),
        place: None,
    };
    shared.catalog.adopt(seen, version, copies, shared.now())?;
    if let Some(node) = shared.catalog.node_by_handle(&adopted.node)? {
        let trouble = vec![(node.id, None)];
        shared.catalog.set_trouble(trouble, Durability::Relaxed)?;
    }
    Ok(())
}

/// A foreign stub: its state stays what it was, the words say why it is foreign.
pub(super) fn note_foreign(
    shared: &Shared,
    node: &NodeHandle,
    why: &str,
) -> Result<(), EngineError> {
    let Some(row) = shared.catalog.node_by_handle(node)? else {
        return Ok(());
    };
    let note = format!("foreign: it carries the stub of another file, and {why}");
    let (state, durability) = (row.state, Durability::Relaxed);
    let trouble = vec![(row.id, Some(Trouble::Foreign))];
    shared.catalog.set_trouble(trouble, durability)?;
    Ok(shared
        .catalog
        .set_state(row.id, state, Some(note), durability)?)
}

/// Size and bytes of data of a file without a record. `None`: it has one by now, or does not hold
/// still; who opens it next asks again.
fn measure(backing: &Backing, fd: BorrowedFd<'_>) -> Result<Option<(u64, u64)>, BackingError> {
    for _ in 0..5 {
        let before = backing.stat(fd)?;
        let data = data_within(&backing.extents(fd)?, before.size);
        if backing.record(fd)?.is_some() {
            return Ok(None);
        }
        // It may have had a stub while it was measured.
        let after = backing.stat(fd)?;
        if (after.size, after.ctime) == (before.size, before.ctime) {
            return Ok(Some((before.size, data)));
        }
    }
    Ok(None)
}

/// Bytes of the runs that lie before `size`.
fn data_within(runs: &[Extent], size: u64) -> u64 {
    let within = |run: &Extent| (run.offset + run.len).min(size).saturating_sub(run.offset);
    runs.iter().map(within).sum()
}
