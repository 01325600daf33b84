//! The changelog's end: events from the mount, applied to the catalog in their order.
//!
//! Invariants: nothing here is on a user's path; an event that cannot be placed marks its
//! directory for another look instead of being dropped; what was lost is remembered until its mark
//! is durable.

use super::tree::{self, attributes};
use super::{EngineError, Shared, scan};
use crate::catalog::{
    Durability, FileState, NameChange, Naming, Node, NodeId, Rescan, Sighting, TombstoneWhy,
};
use crate::format::record::{Record, State};
use crate::hsm::backing::{BackingError, FileStat, How, NodeKind, belongs_to};
use crate::hsm::residency::{Overflow, Told};
use crate::id::{NodeHandle, Timestamp};
use cairn_fuse::{Event, EventKind};
use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

/// Nodes to be looked at; with when a change of data was told last, if one was.
type Looks = HashMap<NodeHandle, Option<Instant>>;

/// Applies a batch. Changes of names keep their order; looks at one node are taken together.
pub(super) fn apply(shared: &Shared, events: &[Told]) -> Result<(), EngineError> {
    let mut reads: HashMap<NodeHandle, Timestamp> = HashMap::new();
    let mut looks = Looks::new();
    let mut names = Names {
        shared,
        pending: Vec::new(),
        namings: Vec::new(),
        // Of what happened before a scan begins it sees the end itself.
        unsettled: shared.catalog.is_unsettled()?,
        directories: HashMap::new(),
    };
    for Told { at, event } in events {
        match event.kind {
            EventKind::Read => {
                reads.insert(event.node.clone(), shared.now());
            }
            EventKind::Written | EventKind::Resized => {
                // Told of from several threads, the queue is not quite in the order of time.
                let latest = looks.entry(event.node.clone()).or_insert(None);
                *latest = (*latest).max(Some(*at));
            }
            EventKind::Attributes => {
                looks.entry(event.node.clone()).or_insert(None);
            }
            EventKind::Created | EventKind::Linked | EventKind::Unlinked | EventKind::Renamed => {
                if event.kind == EventKind::Unlinked
                    && let Some(&Some(told)) = looks.get(&event.node)
                {
                    names.written(&event.node, told)?;
                }
                if let Err(why) = names.event(event) {
                    misplaced(shared, event, &why)?;
                }
            }
        }
    }
    // What was merely looked at could wait for the names.
    names.flush()?;
    look(shared, &looks)?;
    if !reads.is_empty() {
        shared
            .catalog
            .note_access(reads.into_iter().collect(), Durability::Relaxed)?;
    }
    let (position, applied) = (shared.catalog.changelog_position()?, events.len() as u64);
    shared
        .catalog
        .advance_changelog(position + applied, applied, 0, 0)?;
    Ok(())
}

fn misplaced(shared: &Shared, event: &Event, why: &EngineError) -> Result<(), EngineError> {
    tracing::debug!(%why, ?event, "an event could not be placed; its directory is looked at again");
    let directory = event.place.as_ref().map(|(parent, _)| parent);
    let node = match directory {
        Some(parent) => shared
            .catalog
            .node_by_handle(parent)?
            .map_or(NodeId::ROOT, |n| n.id),
        None => NodeId::ROOT,
    };
    let since = shared.now();
    shared.catalog.need_rescan(vec![Rescan {
        node,
        since,
        why: why.to_string(),
    }])?;
    Ok(())
}

/// Changes of names on their way to the catalog: many in one transaction.
struct Names<'a> {
    shared: &'a Shared,
    pending: Vec<NameChange>,
    /// What records name that the scan under way may meet nowhere (P8).
    namings: Vec<Naming>,
    /// A scan is under way, or something is to be looked at.
    unsettled: bool,
    /// Directories that the catalog is known to know.
    directories: HashMap<NodeHandle, NodeId>,
}

impl Names<'_> {
    fn event(&mut self, event: &Event) -> Result<(), EngineError> {
        let Some((parent, name)) = &event.place else {
            return Ok(());
        };
        if event.kind == EventKind::Unlinked {
            return self.unlinked(&event.node, parent, name);
        }
        if let Some((from, old)) = &event.from
            && let (Some(from), Some(to)) = (self.known(from)?, self.directory(parent)?)
        {
            self.pending.push(NameChange::Moved {
                node: event.node.clone(),
                from: (from, old.clone()),
                to: (to, name.clone()),
            });
        }
        let Some(parent) = self.directory(parent)? else {
            return Ok(());
        };
        // What went again meanwhile has an event of its own behind this one.
        let Some((fd, stat)) = open_named(self.shared, &event.node, parent, name)? else {
            return Ok(());
        };
        if self.unsettled && stat.kind == NodeKind::Regular {
            self.note_record(&event.node, fd.as_fd())?;
        }
        self.pending.push(NameChange::Seen(Sighting {
            handle: event.node.clone(),
            attributes: attributes(&stat),
            place: Some((parent, name.clone())),
        }));
        Ok(())
    }

    /// What the file's record names is not gone, whether the scan meets the file or not.
    fn note_record(&mut self, node: &NodeHandle, fd: BorrowedFd<'_>) -> Result<(), EngineError> {
        let backing = &self.shared.backing;
        if let Some(record) = backing.record(fd)? {
            let own = belongs_to(&record, backing.fs(), node);
            self.namings.extend(scan::namings(&record, own));
        }
        Ok(())
    }

    /// Its last name may be about to go, and with it all that could be compared: what was archived may
    /// not be what it was in the end.
    fn written(&mut self, node: &NodeHandle, told: Instant) -> Result<(), EngineError> {
        self.flush()?;
        let catalog = &self.shared.catalog;
        if let Some(row) = catalog.node_by_handle(node)?
            && !self.shared.covered.has(node, row.planned().version, told)
            && stat_of(self.shared, node)?.is_none()
        {
            let (why, now) = (TombstoneWhy::Overwrite, self.shared.now());
            catalog.differs(row.id, row.proven, why, now, Durability::Relaxed)?;
        }
        Ok(())
    }

    fn unlinked(
        &mut self,
        node: &NodeHandle,
        parent: &NodeHandle,
        name: &[u8],
    ) -> Result<(), EngineError> {
        let Some(parent) = self.known(parent)? else {
            return Ok(());
        };
        let alive = stat_of(self.shared, node)?.is_some_and(|s| s.nlink > 0);
        self.pending.push(NameChange::Gone {
            name: (parent, name.to_vec()),
            alive,
        });
        // A directory that went is forgotten with its name.
        self.directories.remove(node);
        Ok(())
    }

    /// The number of a directory that the catalog may know.
    fn known(&mut self, handle: &NodeHandle) -> Result<Option<NodeId>, EngineError> {
        if let Some(id) = self.directories.get(handle) {
            return Ok(Some(*id));
        }
        self.flush()?;
        let id = self.shared.catalog.node_by_handle(handle)?.map(|n| n.id);
        if let Some(id) = id {
            self.directories.insert(handle.clone(), id);
        }
        Ok(id)
    }

    /// The number of a directory, which is noted if it is not known yet; `None`: it is gone.
    fn directory(&mut self, handle: &NodeHandle) -> Result<Option<NodeId>, EngineError> {
        if let Some(id) = self.directories.get(handle) {
            return Ok(Some(*id));
        }
        // It may be among what is pending.
        self.flush()?;
        match tree::ensure_directory(self.shared, handle) {
            Ok(id) => {
                self.directories.insert(handle.clone(), id);
                Ok(Some(id))
            }
            Err(tree::Unplaced::Backing(BackingError::Gone { .. })) => Ok(None),
            Err(why) => Err(why.into()),
        }
    }

    fn flush(&mut self) -> Result<(), EngineError> {
        if !self.namings.is_empty() {
            let namings = std::mem::take(&mut self.namings);
            self.shared.catalog.met(namings, Durability::Relaxed)?;
        }
        if self.pending.is_empty() {
            return Ok(());
        }
        let changes = std::mem::take(&mut self.pending);
        self.shared
            .catalog
            .note_changes(changes, self.shared.now(), Durability::Relaxed)?;
        Ok(())
    }
}

/// Nodes to be looked at; those whose data may have changed are compared with what was proven.
fn look(shared: &Shared, looks: &Looks) -> Result<(), EngineError> {
    let (mut seen, mut dirty) = (Vec::new(), Vec::new());
    for node in shared.catalog.nodes_by_handles(looks.keys())? {
        let told = looks.get(&node.handle).copied().flatten();
        let covered = |told| {
            let version = node.planned().version;
            shared.covered.has(&node.handle, version, told)
        };
        let data = told.is_some_and(|told| !covered(told));
        let Some((fd, stat)) = open(shared, &node.handle)? else {
            continue;
        };
        seen.push(Sighting {
            handle: node.handle.clone(),
            attributes: attributes(&stat),
            place: None,
        });
        let changed = data && may_have_changed(&node, &stat);
        if changed && !is_its_stub(shared, fd.as_fd(), &node, &stat) {
            let cut = stat.size < node.attributes.size;
            dirty.push((
                (node.id, (node.proven, stat.ctime), node.attributes.uid),
                if cut {
                    TombstoneWhy::Truncate
                } else {
                    TombstoneWhy::Overwrite
                },
            ));
        }
    }
    // First, and waited for: an archive that has set the file's record, which moves its ctime, tells the
    // catalog so meanwhile.
    if !seen.is_empty() {
        shared.catalog.note(seen, Durability::Relaxed)?;
    }
    for ((node, with, owner), why) in dirty {
        let now = shared.now();
        // A version that ends was its owner's of before, not of whoever has the file by now.
        shared
            .catalog
            .differs_of(node, with, owner, (why, now), Durability::Relaxed)?;
    }
    Ok(())
}

/// Is it released still? News of a write that was before the release may come behind it, and the release's own
/// punch moves the ctime: a row that were dirty then would let an old record put over the stub pass for
/// the file's.
fn is_its_stub(shared: &Shared, fd: BorrowedFd<'_>, node: &Node, stat: &FileStat) -> bool {
    let (FileState::Released, Some(version)) = (node.state, &node.version) else {
        return false;
    };
    let own = |r: &Record| belongs_to(r, shared.backing.fs(), &node.handle);
    let record = shared.backing.record(fd).ok().flatten().filter(own);
    record.is_some_and(|r| {
        r.state != State::Resident
            && (r.file, r.version, r.size) == (version.file, version.version, stat.size)
    })
}

/// Equal ctime and size prove that nothing changed (P1); anything else makes it dirty, and the
/// next archive finds out.
fn may_have_changed(node: &Node, stat: &FileStat) -> bool {
    use FileState::{Archived, Lost, Released};
    let archived = matches!(node.state, Archived | Released | Lost);
    archived
        && node
            .proven
            .is_none_or(|p| (p.size, p.ctime) != (stat.size, stat.ctime))
}

/// As [`open`]; where nodes are found by name, by this name: the catalog may know none yet.
fn open_named(
    shared: &Shared,
    handle: &NodeHandle,
    parent: NodeId,
    name: &[u8],
) -> Result<Option<(OwnedFd, FileStat)>, EngineError> {
    if let Some(found) = open(shared, handle)? {
        return Ok(Some(found));
    }
    let Some(mut hint) = shared.catalog.path_of(parent)? else {
        return Ok(None);
    };
    if !hint.is_empty() {
        hint.push(b'/');
    }
    hint.extend_from_slice(name);
    match shared.backing.open_node(handle, Some(&hint), How::Path) {
        Ok(fd) => with_stat(shared, fd),
        Err(BackingError::Gone { .. } | BackingError::Unnamed { .. }) => Ok(None),
        Err(why) => Err(why.into()),
    }
}

fn with_stat(shared: &Shared, fd: OwnedFd) -> Result<Option<(OwnedFd, FileStat)>, EngineError> {
    let stat = shared.backing.stat(fd.as_fd())?;
    Ok(Some((fd, stat)))
}

fn stat_of(shared: &Shared, handle: &NodeHandle) -> Result<Option<FileStat>, EngineError> {
    Ok(open(shared, handle)?.map(|(_, stat)| stat))
}

/// `None`: it is gone.
fn open(shared: &Shared, handle: &NodeHandle) -> Result<Option<(OwnedFd, FileStat)>, EngineError> {
    let hint = tree::hint(shared, handle)?;
    match shared.backing.open_node(handle, hint.as_deref(), How::Path) {
        Ok(fd) => with_stat(shared, fd),
        Err(BackingError::Gone { .. } | BackingError::Unnamed { .. }) => Ok(None),
        Err(why) => Err(why.into()),
    }
}

/// What the mount could not tell of: its directories are looked at again.
pub(super) fn rescan_overflows(shared: &Shared) -> Result<(), EngineError> {
    let Some(lost) = shared.changelog.overflow() else {
        return Ok(());
    };
    let marked = marks(shared, &lost).and_then(|marks| Ok(shared.catalog.need_rescan(marks)?));
    if let Err(why) = marked {
        shared.changelog.put_back(lost);
        return Err(why);
    }
    let position = shared.catalog.changelog_position()?;
    shared
        .catalog
        .advance_changelog(position + lost.events, 0, lost.events, 1)?;
    Ok(())
}

fn marks(shared: &Shared, lost: &Overflow) -> Result<Vec<Rescan>, EngineError> {
    let mut nodes = BTreeSet::new();
    for handle in &lost.scan {
        match shared.catalog.node_by_handle(handle)? {
            Some(node) => drop(nodes.insert(node.id)),
            None => match tree::ensure_directory(shared, handle) {
                Ok(id) => drop(nodes.insert(id)),
                // What is in a directory that is gone is gone, too, or was moved to another.
                Err(tree::Unplaced::Backing(BackingError::Gone { .. })) => {}
                Err(_) => drop(nodes.insert(NodeId::ROOT)),
            },
        }
    }
    if lost.everything {
        nodes.insert(NodeId::ROOT);
    }
    let since = shared.now();
    let mark = |node| Rescan {
        node,
        since,
        why: format!("{} events were lost", lost.events),
    };
    Ok(nodes.into_iter().map(mark).collect())
}

/// Changes that nobody waited for and that did not get into the catalog: nobody knows which files
/// they were about. `noticed`: how many of them are marked already.
pub(super) fn rescan_unwritten(shared: &Shared, noticed: &mut u64) -> Result<(), EngineError> {
    let failed = shared.catalog.write_errors();
    if failed > *noticed {
        // Most often because there was no room for the catalog's log.
        shared.reserve.state.give_up();
        shared.catalog.need_rescan(vec![Rescan {
            node: NodeId::ROOT,
            since: shared.now(),
            why: format!("{} changes could not be written", failed - *noticed),
        }])?;
        *noticed = failed;
    }
    Ok(())
}
