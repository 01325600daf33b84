//! What records say, compared with the catalog: for a few files that a scan looks at together.
//!
//! Invariant: a version that the catalog did not know, or whose file may have changed since, is
//! called archived only if something vouches for the data: a quiescent point with this very ctime,
//! a ctime that Cairn's own writing of the record left, or the sum, read under a lease (P1). What
//! nothing vouches for is dirty, and the next archive makes a copy of it.

mod looks;

pub(super) use looks::recognise;

use super::super::Shared;
use super::super::lanes::Claim;
use super::super::tree::Looked;
use super::super::work::release;
use crate::catalog::{
    self, Durability, FileState, Known, Naming, Node, NodeId, Proven, TombstoneWhy, Trouble,
    Version,
};
use crate::format::record::{CopyHint, Record, State};
use crate::hsm::backing::{BackingError, FileStat, How, belongs_to};
use crate::hsm::engine::EngineError;
use crate::hsm::version::{Rebound, in_window, rebind};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// A time that a user sets on a stub reaches its record a moment later: this long a difference is
/// no conflict.
const MOMENT: Duration = Duration::from_millis(500);

/// What to do about a file that the catalog knows as archived and whose ctime moved since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// Nothing was missed: the events of the mount say what was written.
    Leave,
    /// Events may have been missed: its sum is compared.
    Read,
}

/// What the data of a resident file turned out to be.
enum Data {
    /// Those of the record, as far as can be told without reading.
    Vouched,
    /// Those of the record: read, at this quiescent point.
    Same(Proven),
    /// Others.
    Changed,
    /// It cannot be told now: somebody writes, or is about to.
    Unknown,
    /// Cairn itself works on it, and will say.
    InHand,
}

/// One chunk's comparison; what it finds is told to the catalog by [`Comparison::finish`].
pub(super) struct Comparison<'a> {
    shared: &'a Shared,
    doubt: Doubt,
    known: Vec<Known>,
    proven: Vec<catalog::Rebound>,
    trouble: Vec<(NodeId, Option<Trouble>)>,
    /// Files that are not as their stubs say, to be looked at once more.
    suspects: Vec<(NodeId, Option<Trouble>, &'a Looked)>,
    /// Records that name what no row does: they keep copies from being deleted (P8).
    namings: Vec<Naming>,
    /// A file was read, and the catalog does not know yet.
    read: bool,
}

/// What a record keeps from being deleted. `own`: it is that of the inode that carries it.
pub(in crate::hsm::engine) fn namings(record: &Record, own: bool) -> Vec<Naming> {
    let mut named = vec![Naming::Version((record.file, record.version))];
    if !own {
        // Its identity may be that of an adopted stub, which no index has.
        let place = |c: &CopyHint| Naming::Place(c.tier, c.aggregate);
        named.extend(record.copies.iter().map(place));
    }
    named
}

impl<'a> Comparison<'a> {
    pub(super) fn new(shared: &'a Shared, doubt: Doubt) -> Self {
        Self {
            shared,
            doubt,
            known: Vec::new(),
            proven: Vec::new(),
            trouble: Vec::new(),
            suspects: Vec::new(),
            namings: Vec::new(),
            read: false,
        }
    }

    /// Compares one regular file; `false`: it could not be looked at.
    ///
    /// # Errors
    /// The catalog's alone: one bad file stops no scan.
    pub(super) fn compare(&mut self, looked: &'a Looked, id: NodeId) -> Result<bool, EngineError> {
        match self.compare_one(looked, id) {
            Err(why) if !matches!(why, EngineError::Catalog(_)) => {
                tracing::warn!(node = %id, %why, "a file could not be compared with the catalog");
                Ok(false)
            }
            done => done,
        }
    }

    fn compare_one(&mut self, looked: &'a Looked, id: NodeId) -> Result<bool, EngineError> {
        let Some((record, own)) = self.record_of(looked) else {
            return Ok(false);
        };
        let node = self.shared.catalog.node(id)?;
        if let Some(record) = &record {
            self.note_naming(node.as_ref(), record, own);
        }
        let Some(node) = node else {
            // Forgotten a moment ago.
            return Ok(true);
        };
        let trouble = match &record {
            Some(record) if record.state == State::Resident => None,
            Some(_) if !own => Some(Trouble::Foreign),
            Some(record) if !self.is_as_its_stub_says(looked, record, &looked.stat) => {
                self.suspects.push((id, node.trouble, looked));
                node.trouble
            }
            _ => None,
        };
        if node.trouble != trouble {
            self.trouble.push((id, trouble));
        }
        match record.filter(|_| own) {
            Some(record) => self.with_record(looked, &node, record)?,
            None => self.without_record(looked, &node)?,
        }
        // Reading takes long, and what was read goes stale.
        if std::mem::take(&mut self.read) {
            self.tell()?;
        }
        Ok(true)
    }

    /// What the record names, unless that is what the node's row says.
    fn note_naming(&mut self, node: Option<&Node>, record: &Record, own: bool) {
        let key = (record.file, record.version);
        let says = |node: &Node| {
            node.planned().version == Some(key)
                && matches!(node.state, FileState::Archived | FileState::Released)
        };
        if own && node.is_some_and(says) {
            return;
        }
        self.namings.extend(namings(record, own));
    }

    /// The record on the file, and whether it is the file's own. `None`: it cannot be read.
    /// A release or recall that was cut short is set in order first.
    fn record_of(&self, looked: &Looked) -> Option<(Option<Record>, bool)> {
        let shared = self.shared;
        let read = || {
            let record = shared.backing.record(looked.fd.as_fd())?;
            let own = |r: &Record| belongs_to(r, shared.backing.fs(), &looked.handle);
            let own = record.as_ref().is_some_and(own);
            Ok::<_, BackingError>((record, own))
        };
        let mut found = read();
        if matches!(&found, Ok((Some(r), true)) if r.state == State::Recalling)
            && let Some(claim) = shared.lanes.claim(&looked.handle)
        {
            release::recover(shared, &looked.handle);
            drop(claim);
            found = read();
        }
        if matches!(&found, Ok((Some(r), true)) if r.state == State::Recalling) {
            // In use, say. Until it is in order its times are not what users are to see.
            let backing = &shared.backing;
            backing.was_touched(&looked.handle, looked.fd.as_fd());
        }
        match found {
            Ok(found) => Some(found),
            Err(why) => {
                tracing::warn!(%why, "a record cannot be read");
                None
            }
        }
    }

    fn without_record(&mut self, looked: &Looked, node: &Node) -> Result<(), EngineError> {
        if node.version.is_none() || node.state == FileState::Dirty {
            return Ok(());
        }
        // Whoever has it may be about to write the record.
        let Some(_claim) = self.shared.lanes.claim(&looked.handle) else {
            return Ok(());
        };
        self.shared.lacks_record(node, looked.fd.as_fd())
    }

    fn with_record(
        &mut self,
        looked: &Looked,
        node: &Node,
        record: Record,
    ) -> Result<(), EngineError> {
        let version = Version {
            file: record.file,
            version: record.version,
            crc: record.crc,
            blocks_crc: record.blocks_crc,
        };
        self.shared.bear_out(node.id, &record)?;
        let resident = record.state == State::Resident;
        let same_version = node.version == Some(version);
        let agrees = same_version
            && match node.state {
                FileState::Released => !resident,
                FileState::Archived | FileState::Dirty => resident,
                FileState::None | FileState::Lost => false,
            };
        if agrees && node.state != FileState::Archived {
            return Ok(());
        }
        if agrees && !self.shared.is_on_no_tier(&record)? {
            return self.still_archived(looked, node, &record, version);
        }
        if resident && matches!(node.state, FileState::Released | FileState::Lost) {
            return self.back_on_disk(looked, node, &record, version);
        }
        self.learn(looked, node, &record, version, None)
    }

    /// A resident file that the catalog has on tiers alone: what a recall brought back, a release
    /// that was not done, or an older record over a stub. A release says so in the catalog before it
    /// writes the stub, so it is kept out until the catalog is told.
    fn back_on_disk(
        &mut self,
        looked: &Looked,
        node: &Node,
        record: &Record,
        version: Version,
    ) -> Result<(), EngineError> {
        let (shared, fd) = (self.shared, looked.fd.as_fd());
        let Some(claim) = shared.lanes.claim(&looked.handle) else {
            return Ok(());
        };
        let row = shared.catalog.node(node.id)?;
        let as_it_was = shared.backing.record(fd)?.as_ref() == Some(record)
            && shared.backing.stat(fd)?.ctime == looked.stat.ctime
            && row.is_some_and(|row| row.planned() == node.planned());
        // If not, whoever changed it tells the catalog.
        if !as_it_was || shared.is_lost(&looked.handle, fd)? {
            return Ok(());
        }
        self.learn(looked, node, record, version, Some(&claim))?;
        self.tell()
    }

    /// What the record says, for the catalog. `claim`: the caller's, if it has one.
    fn learn(
        &mut self,
        looked: &Looked,
        node: &Node,
        record: &Record,
        version: Version,
        claim: Option<&Claim<'_>>,
    ) -> Result<(), EngineError> {
        let copies = self.shared.believable_copies(record)?;
        let state = if record.state == State::Resident && self.shared.is_on_no_tier(record)? {
            // What the record says was archived is on no tier: the next archive makes a copy.
            FileState::Dirty
        } else if record.state == State::Resident {
            let proven = node.proven.filter(|_| node.version == Some(version));
            match self.data(looked, record, (proven, Doubt::Read), claim)? {
                Data::Vouched => FileState::Archived,
                Data::Same(proven) => {
                    self.same(node, version, proven);
                    FileState::Archived
                }
                Data::Changed | Data::Unknown | Data::InHand => FileState::Dirty,
            }
        } else {
            FileState::Released
        };
        self.known.push(Known {
            node: node.id,
            state,
            version,
            copies,
            under: Some((node.planned(), looked.stat.ctime)),
        });
        Ok(())
    }

    /// The catalog says archived, and so does the record: do the data, too?
    fn still_archived(
        &mut self,
        looked: &Looked,
        node: &Node,
        record: &Record,
        version: Version,
    ) -> Result<(), EngineError> {
        match self.data(looked, record, (node.proven, self.doubt), None)? {
            Data::Vouched | Data::InHand => {}
            Data::Same(proven) => self.same(node, version, proven),
            // Written to, and the event was lost: no rule would ever archive it again. Where it
            // cannot be told the next archive finds out.
            Data::Changed | Data::Unknown => {
                let (why, now) = (TombstoneWhy::Overwrite, self.shared.now());
                self.shared
                    .catalog
                    .differs(node.id, node.proven, why, now, Durability::Relaxed)?;
            }
        }
        Ok(())
    }

    fn same(&mut self, node: &Node, version: Version, proven: Proven) {
        self.proven.push(catalog::Rebound {
            node: node.id,
            version: (version.file, version.version),
            proven,
        });
    }

    /// Are the data of a resident file those of its record?
    fn data(
        &mut self,
        looked: &Looked,
        record: &Record,
        (proven, doubt): (Option<Proven>, Doubt),
        claim: Option<&Claim<'_>>,
    ) -> Result<Data, EngineError> {
        let stat = &looked.stat;
        if (stat.size, stat.mtime) != (record.size, record.mtime) {
            return Ok(Data::Changed);
        }
        let seen = proven.is_some_and(|p| (p.size, p.ctime) == (stat.size, stat.ctime));
        let ours = record.ctime_floor.is_some_and(|f| in_window(f, stat.ctime));
        if seen || ours || doubt == Doubt::Leave {
            return Ok(Data::Vouched);
        }
        // Whoever of Cairn's own has it knows more than can be seen from here.
        let own = claim
            .is_none()
            .then(|| self.shared.lanes.claim(&looked.handle));
        if matches!(own, Some(None)) {
            return Ok(Data::InHand);
        }
        let file = match self.shared.backing.reopen(looked.fd.as_fd(), How::Read) {
            Ok(file) => file,
            Err(BackingError::Busy { .. }) => return Ok(Data::Unknown),
            Err(why) => return Err(why.into()),
        };
        self.read = true;
        match rebind(&self.shared.backing, file, None, record.size, record.crc) {
            Ok(Rebound::Same(quiet)) => Ok(Data::Same(Proven {
                size: quiet.seen().size,
                ctime: quiet.seen().ctime,
                boot: self.shared.incarnation.boot,
            })),
            Ok(Rebound::Dirty { .. }) => Ok(Data::Changed),
            Err(why) => {
                tracing::debug!(%why, "whether a file changed cannot be told now");
                Ok(Data::Unknown)
            }
        }
    }

    fn is_as_its_stub_says(&self, looked: &Looked, record: &Record, stat: &FileStat) -> bool {
        // A recall's half-written file is no conflict, and neither is a truncation under way (P5).
        let half_way = record.state == State::Recalling && stat.size == record.size;
        if half_way || stat.size == 0 {
            return true;
        }
        let fits = (stat.size, stat.mtime) == (record.size, record.mtime);
        // The record itself may take one block.
        fits && (stat.blocks <= stat.one_block() || !self.has_data(looked.fd.as_fd()))
    }

    fn has_data(&self, fd: BorrowedFd<'_>) -> bool {
        let backing = &self.shared.backing;
        let found = backing.reopen(fd, How::Read);
        // Who cannot be looked at now is not accused.
        found.is_ok_and(|file| backing.has_data(file.as_fd()).unwrap_or(false))
    }

    /// Tells the catalog.
    pub(super) fn finish(mut self) -> Result<(), EngineError> {
        if !self.suspects.is_empty() {
            std::thread::sleep(MOMENT);
            for (id, before, looked) in std::mem::take(&mut self.suspects) {
                if let Some(claim) = self.shared.lanes.claim(&looked.handle) {
                    // The punch of a release may have been lost with the power.
                    release::recover(self.shared, &looked.handle);
                    drop(claim);
                }
                let now = self.shared.backing.stat(looked.fd.as_fd());
                let (Ok(stat), Some((Some(record), true))) = (now, self.record_of(looked)) else {
                    continue;
                };
                let stub = record.state != State::Resident;
                let bad = stub && !self.is_as_its_stub_says(looked, &record, &stat);
                let trouble = bad.then_some(Trouble::Conflict);
                if before != trouble {
                    self.trouble.push((id, trouble));
                }
            }
        }
        self.tell()
    }

    fn tell(&mut self) -> Result<(), EngineError> {
        let catalog = &self.shared.catalog;
        let namings = std::mem::take(&mut self.namings);
        if !namings.is_empty() {
            catalog.met(namings, Durability::Relaxed)?;
        }
        let known = std::mem::take(&mut self.known);
        if !known.is_empty() {
            catalog.learn(known, self.shared.now(), Durability::Relaxed)?;
        }
        let proven = std::mem::take(&mut self.proven);
        if !proven.is_empty() {
            catalog.rebound(proven, Durability::Relaxed)?;
        }
        let trouble = std::mem::take(&mut self.trouble);
        if !trouble.is_empty() {
            catalog.set_trouble(trouble, Durability::Relaxed)?;
        }
        Ok(())
    }
}
