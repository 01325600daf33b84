//! A file without a stub, asked about: what the catalog has of it decides whether its bytes may be
//! believed (see [`crate::hsm::vouch`]), and is set right where it is behind.

use super::{EngineError, Shared, tree};
use crate::catalog::{
    Durability, FileState, Known, Node, NodeId, Sighting, TombstoneWhy, Trouble, Version,
};
use crate::format::record::{Record, State};
use crate::hsm::backing::{BackingError, FileStat, How, belongs_to, data_bytes};
use crate::hsm::recall::Adopted;
use crate::hsm::vouch::{Look, Remembered, is_bare, is_lost, remembered};
use crate::id::NodeHandle;
use std::os::fd::{AsFd, BorrowedFd};

/// What is told of a lost file, in the catalog and to who asks why.
const NOTE: &str = "its data were released and its stub is gone: only holes are left on disk";

/// The same of a file that has a record.
const OVERTAKEN: &str =
    "its data were released and an older record was put over its stub: only holes are left on disk";

/// How often a file that does not hold still is looked at.
const LOOKS: u32 = 5;

/// What a file says of itself.
#[derive(PartialEq, Eq)]
pub(super) enum Says {
    /// That its data are elsewhere, or may be.
    Stub,
    /// That they are here, by its own record.
    Resident(Box<Record>),
    /// Nothing. Nor does a record that was copied here with the data of another inode.
    Nothing,
}

/// A file that is judged.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) node: &'a NodeHandle,
    /// Any descriptor.
    pub(super) file: BorrowedFd<'a>,
    pub(super) says: &'a Says,
}

/// What lies on disk of a file without a stub.
struct Measured {
    /// Bytes.
    size: u64,
    /// Bytes of data, or as many as were asked for.
    data: u64,
    /// It did not change while they were counted.
    still: bool,
}

impl Shared {
    /// May the catalog know better than the file, which has no stub? `bare`: it holds nothing, so
    /// it may be another inode's in whose place it was restored. Quick.
    pub(super) fn may_be_lost(&self, node: &NodeHandle, bare: bool) -> bool {
        (bare || self.catalog.may_be_archived(node)) && !self.believed.holds(node)
    }

    /// Is a file without a stub lost? Of a lost one the catalog and the log are told, once. A stub is
    /// not: it says where its data are. `file`: any descriptor.
    ///
    /// A file that holds its data is none, whatever is wrong with the catalog (a full state
    /// directory, say) and whoever writes to it: it is believed for this time.
    ///
    /// # Errors
    /// It cannot be told: it holds less than what the catalog knows, and the catalog may be behind; or
    /// the catalog cannot be read, and it holds nothing, or has holes and may be half of a recall; or
    /// its record changes all the time.
    pub(super) fn is_lost(
        &self,
        node: &NodeHandle,
        file: BorrowedFd<'_>,
    ) -> Result<bool, EngineError> {
        for _ in 0..LOOKS {
            let says = &self.says(node, file)?;
            if *says == Says::Stub {
                return Ok(false);
            }
            if let Some(lost) = self.judge(Asked { node, file, says })? {
                return Ok(lost);
            }
        }
        Err(restless(node).into())
    }

    fn says(&self, node: &NodeHandle, file: BorrowedFd<'_>) -> Result<Says, BackingError> {
        Ok(match self.backing.record(file)? {
            Some(record) if record.state != State::Resident => Says::Stub,
            Some(record) if belongs_to(&record, self.backing.fs(), node) => {
                Says::Resident(Box::new(record))
            }
            _ => Says::Nothing,
        })
    }

    /// `None`: it says something else by now.
    pub(super) fn judge(&self, asked: Asked<'_>) -> Result<Option<bool>, EngineError> {
        let Asked { node, file, says } = asked;
        if let Says::Resident(record) = says {
            return self.is_overwritten(asked, record);
        }
        let look = self.believed.look(node);
        let told = self.catch_up();
        let (row, known) = match self.row_and_known(node) {
            Ok(found) => found,
            Err(why) => return self.is_whole_without_catalog(&look, asked, why),
        };
        let Some((row, known)) = row.as_ref().zip(known) else {
            let unknown = row.is_none_or(|r| r.version.is_none());
            if unknown && self.is_restored(node, file)? {
                return Ok(Some(true));
            }
            let stat = self.backing.stat(file)?;
            match told {
                Ok(()) => look.believe(),
                // Its name may be one that the catalog has not heard of.
                Err(why) if unknown && is_bare(&stat) => {
                    return Err(why);
                }
                Err(_) => look.believe_for_now(),
            }
            return Ok(Some(false));
        };
        let Some(found) = self.measure(asked, |size| known.needs(None, size))? else {
            return Ok(None);
        };
        if !is_lost(&known, None, (found.size, found.data)) {
            if !found.still {
                // Somebody writes to it; what it is when they are done is asked then.
                look.believe_for_now();
                return Ok(Some(false));
            }
            if let Err(why) = told.and_then(|()| self.found_whole(row, &known, found.size)) {
                tracing::warn!(%why, "a file without a record holds its data; the catalog could not be told");
                look.believe_for_now();
                return Ok(Some(false));
            }
            look.believe();
            return Ok(Some(false));
        }
        if !found.still {
            return Ok(Some(false));
        }
        told?;
        if row.state != FileState::Lost {
            self.found_lost(row, (found.size, found.data), NOTE)?;
        }
        Ok(Some(true))
    }

    /// Was an older record put over the stub of a file whose record says *resident*? As
    /// [`Self::judge`]. The catalog is asked, and told first, only of one that holds nothing: after
    /// it was measured, so that who cut it before that was heard.
    fn is_overwritten(
        &self,
        asked: Asked<'_>,
        record: &Record,
    ) -> Result<Option<bool>, EngineError> {
        let look = self.believed.look(asked.node);
        let Some(lies) = self.measure(asked, |_| 1)? else {
            return Ok(None);
        };
        if lies.size == 0 || lies.data > 0 {
            look.believe();
            return Ok(Some(false));
        }
        let told = self.catch_up();
        let (row, known) = self.row_and_known(asked.node)?;
        let lost = |known: &_| is_lost(known, Some(record), (lies.size, lies.data));
        let Some((row, _)) = row.zip(known).filter(|(_, known)| lost(known)) else {
            // Its owner's own. Were its data released, the row would say so: no block goes before.
            match told {
                Ok(()) => look.believe(),
                Err(_) => look.believe_for_now(),
            }
            return Ok(Some(false));
        };
        // Its owner may have cut it a moment ago.
        told?;
        if !lies.still {
            return Err(restless(asked.node).into());
        }
        if row.state != FileState::Lost {
            self.found_lost(&row, (lies.size, lies.data), OVERTAKEN)?;
        }
        Ok(Some(true))
    }

    /// Tells the catalog what the mount did: who cut or wrote a file through it may be ahead of it.
    fn catch_up(&self) -> Result<(), EngineError> {
        self.drain_changelog()?;
        Ok(self.catalog.settle(Durability::Relaxed)?)
    }

    /// The catalog cannot be asked about a file without a record, because of `why`: without holes it is
    /// whole whatever it would say, and one that it never had archived may have as many as its owner
    /// likes.
    fn is_whole_without_catalog(
        &self,
        look: &Look<'_>,
        asked: Asked<'_>,
        why: EngineError,
    ) -> Result<Option<bool>, EngineError> {
        let Some(found) = self.measure(asked, |size| size)? else {
            return Ok(None);
        };
        let doubtful = found.data == 0 || self.catalog.may_be_archived(asked.node);
        if found.data < found.size && doubtful {
            return Err(why);
        }
        look.believe_for_now();
        Ok(Some(false))
    }

    /// Size and bytes of data of a file; `needs`: how many are enough, by its size. One that does not
    /// hold still is looked at until it has enough, or often enough. `None`: it says something else of
    /// itself by now.
    fn measure(
        &self,
        asked: Asked<'_>,
        needs: impl Fn(u64) -> u64,
    ) -> Result<Option<Measured>, BackingError> {
        let open = self.backing.reopen(asked.file, How::Read)?;
        let fd = open.as_fd();
        let mut looks = 0;
        loop {
            let before = self.backing.stat(fd)?;
            let enough = needs(before.size);
            let data = data_bytes(fd, before.size, enough)?;
            if self.says(asked.node, fd)? != *asked.says {
                return Ok(None);
            }
            // It may have had a stub while it was measured.
            let after = self.backing.stat(fd)?;
            let found = Measured {
                size: before.size,
                data,
                still: (after.size, after.ctime) == (before.size, before.ctime),
            };
            looks += 1;
            if found.still || looks == LOOKS || after.size > 0 && data >= enough {
                return Ok(Some(found));
            }
        }
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
        let Some(known) = known else {
            return Ok(());
        };
        // Half of a recall is no new version: the copy is all there is.
        let released = true;
        let known = Remembered { released, ..known };
        let asked = Asked {
            node: &node.handle,
            file,
            says: &Says::Nothing,
        };
        let found = self.measure(asked, |size| known.needs(None, size))?;
        let Some(found) = found.filter(|found| found.still) else {
            return Ok(());
        };
        if is_lost(&known, None, (found.size, found.data)) {
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
        if !is_bare(stat) {
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
        let says = &Says::Nothing;
        let found = self.measure(Asked { node, file, says }, |_| 1)?;
        let holds_nothing = found.is_some_and(|f| f.still && f.data == 0);
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
            Some(row) => self.found_lost(&row, (row.attributes.size, 0), NOTE),
            None => Ok(()),
        }
    }

    fn found_lost(
        &self,
        row: &Node,
        (size, data): (u64, u64),
        note: &'static str,
    ) -> Result<(), EngineError> {
        let path = self.catalog.path_of(row.id)?.unwrap_or_default();
        let path = String::from_utf8_lossy(&path).into_owned();
        tracing::error!(target: "cairn::lost", path, node = ?row.handle, size, data, "{note}");
        self.catalog.lost(row.id, row.planned(), note.to_owned())?;
        if let Some(gate) = self.late.gate.get() {
            gate.changed(&row.handle);
        }
        for tell in self.lost_ears.lock().iter() {
            tell(&path);
        }
        Ok(())
    }

    /// Does a file without a stub look lost? `record`: its own. For those who only show it: nothing is
    /// noted, and what the mount did a moment ago may not be known yet.
    pub(super) fn looks_lost(
        &self,
        node: &NodeHandle,
        record: Option<&Record>,
        stat: &FileStat,
    ) -> bool {
        let bare = is_bare(stat);
        if record.is_some() && !bare {
            return false;
        }
        let Some(row) = self.catalog.node_by_handle(node).ok().flatten() else {
            return false;
        };
        match (record, row.state) {
            (_, FileState::None | FileState::Archived | FileState::Dirty) => false,
            (Some(record), _) => remembered(&row, &[]).is_some_and(|k| k.is_overtaken(record)),
            (None, FileState::Lost) => stat.size > 0,
            (None, FileState::Released) => bare,
        }
    }
}

/// An adopted stub: its node and its copies, which it shares with the file it was copied from, in
/// one durable transaction.
pub(super) fn note_adopted(shared: &Shared, adopted: &Adopted) -> Result<(), EngineError> {
    let record = &adopted.record;
    let mut copies = shared.copies_of_record(record);
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

/// A stub that cannot be used: its state stays what it was, the words say why.
pub(super) fn note_trouble(
    shared: &Shared,
    node: &NodeHandle,
    trouble: Trouble,
    note: String,
) -> Result<(), EngineError> {
    let Some(row) = shared.catalog.node_by_handle(node)? else {
        return Ok(());
    };
    let durability = Durability::Relaxed;
    let trouble = vec![(row.id, Some(trouble))];
    shared.catalog.set_trouble(trouble, durability)?;
    Ok(shared.catalog.set_note(row.id, note, durability)?)
}

/// As of a lease on it: whoever asked asks again.
fn restless(node: &NodeHandle) -> BackingError {
    BackingError::Busy {
        step: "look at",
        object: format!("{node:?}"),
    }
}
