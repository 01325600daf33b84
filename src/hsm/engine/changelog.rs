//! The changelog's end: events from the mount, applied to the catalog in their order.
//!
//! Invariants: nothing here is on a user's path; an event that cannot be placed marks its
//! directory for another look instead of being dropped.

use super::tree::{self, attributes};
use super::{EngineError, Shared};
use crate::catalog::{Durability, FileState, Node, NodeId, Rescan, Sighting, TombstoneWhy};
use crate::hsm::backing::{BackingError, FileStat, How};
use crate::id::NodeHandle;
use cairn_fuse::{Event, EventKind};
use std::collections::HashMap;
use std::os::fd::AsFd;

/// Applies a batch. Events of one kind about one node are taken together.
pub(super) fn apply(shared: &Shared, events: Vec<Event>) -> Result<(), EngineError> {
    let mut reads: HashMap<NodeHandle, ()> = HashMap::new();
    let mut looks: Vec<(NodeHandle, bool)> = Vec::new();
    let applied = events.len() as u64;
    for event in events {
        let same = |l: &(NodeHandle, bool)| l.0 == event.node;
        match event.kind {
            EventKind::Read => {
                reads.insert(event.node, ());
            }
            EventKind::Written | EventKind::Resized => {
                looks.retain(|l| !same(l));
                looks.push((event.node, true));
            }
            EventKind::Attributes => {
                if !looks.iter().any(same) {
                    looks.push((event.node, false));
                }
            }
            EventKind::Created | EventKind::Linked | EventKind::Unlinked | EventKind::Renamed => {
                // Names in their order; what was merely looked at can wait for the end.
                if let Err(why) = name(shared, &event) {
                    misplaced(shared, &event, &why)?;
                }
            }
        }
    }
    for (node, data) in looks {
        look(shared, &node, data)?;
    }
    if !reads.is_empty() {
        let now = shared.now();
        let reads = reads.into_keys().map(|n| (n, now)).collect();
        shared.catalog.note_access(reads, Durability::Relaxed)?;
    }
    let position = shared.catalog.status(shared.settings.copies).map(|s| s.changelog.position)?;
    shared.catalog.advance_changelog(position + applied, applied, 0, 0)?;
    Ok(())
}

fn misplaced(shared: &Shared, event: &Event, why: &EngineError) -> Result<(), EngineError> {
    tracing::debug!(%why, ?event, "an event could not be placed; its directory is looked at again");
    let directory = event.place.as_ref().map(|(parent, _)| parent);
    let node = match directory {
        Some(parent) => shared.catalog.node_by_handle(parent)?.map_or(NodeId::ROOT, |n| n.id),
        None => NodeId::ROOT,
    };
    let since = shared.now();
    shared.catalog.need_rescan(Rescan { node, since, why: why.to_string() })?;
    Ok(())
}

fn name(shared: &Shared, event: &Event) -> Result<(), EngineError> {
    let Some((parent, name)) = &event.place else { return Ok(()) };
    if event.kind == EventKind::Unlinked {
        return unlinked(shared, event, parent, name);
    }
    if let Some((from, old)) = &event.from
        && let (Some(from), Ok(to)) =
            (shared.catalog.node_by_handle(from)?, tree::ensure_directory(shared, parent))
    {
        shared.catalog.rename((from.id, old), (to, name), shared.now(), Durability::Relaxed)?;
    }
    let parent = match tree::ensure_directory(shared, parent) {
        Ok(parent) => parent,
        Err(tree::Unplaced::Backing(BackingError::Gone { .. })) => return Ok(()),
        Err(why) => return Err(why.into()),
    };
    // What went again meanwhile has an event of its own behind this one.
    let Some(stat) = stat_named(shared, &event.node, parent, name)? else { return Ok(()) };
    let seen = Sighting {
        handle: event.node.clone(),
        attributes: attributes(&stat),
        place: Some((parent, name.clone())),
    };
    shared.catalog.note(vec![seen], Durability::Relaxed)?;
    Ok(())
}

fn unlinked(shared: &Shared, event: &Event, parent: &NodeHandle, name: &[u8]) -> Result<(), EngineError> {
    let Some(parent) = shared.catalog.node_by_handle(parent)? else { return Ok(()) };
    let alive = stat_of(shared, &event.node)?.is_some_and(|s| s.nlink > 0);
    shared.catalog.unlink(parent.id, name, alive, shared.now(), Durability::Relaxed)?;
    Ok(())
}

fn look(shared: &Shared, handle: &NodeHandle, data: bool) -> Result<(), EngineError> {
    let (Some(node), Some(stat)) = (shared.catalog.node_by_handle(handle)?, stat_of(shared, handle)?) else {
        return Ok(());
    };
    let seen = Sighting { handle: handle.clone(), attributes: attributes(&stat), place: None };
    shared.catalog.note(vec![seen], Durability::Relaxed)?;
    if data && may_have_changed(&node, &stat) {
        let why = if stat.size < node.attributes.size { TombstoneWhy::Truncate } else { TombstoneWhy::Overwrite };
        shared.catalog.dirtied(node.id, why, shared.now(), Durability::Relaxed)?;
    }
    Ok(())
}

/// Equal ctime and size prove that nothing changed (P1); anything else makes it dirty, and the
/// next archive finds out.
fn may_have_changed(node: &Node, stat: &FileStat) -> bool {
    let archived = matches!(node.state, FileState::Archived | FileState::Released);
    archived && node.proven.is_none_or(|p| (p.size, p.ctime) != (stat.size, stat.ctime))
}

/// As [`stat_of`]; where nodes are found by name, by this name: the catalog may know none yet.
fn stat_named(
    shared: &Shared,
    handle: &NodeHandle,
    parent: NodeId,
    name: &[u8],
) -> Result<Option<FileStat>, EngineError> {
    if let Some(stat) = stat_of(shared, handle)? {
        return Ok(Some(stat));
    }
    let Some(mut hint) = shared.catalog.path_of(parent)? else { return Ok(None) };
    if !hint.is_empty() {
        hint.push(b'/');
    }
    hint.extend_from_slice(name);
    match shared.backing.open_node(handle, Some(&hint), How::Path) {
        Ok(fd) => Ok(Some(shared.backing.stat(fd.as_fd())?)),
        Err(BackingError::Gone { .. } | BackingError::Unnamed { .. }) => Ok(None),
        Err(why) => Err(why.into()),
    }
}

fn stat_of(shared: &Shared, handle: &NodeHandle) -> Result<Option<FileStat>, EngineError> {
    let hint = tree::hint(shared, handle)?;
    match shared.backing.open_node(handle, hint.as_deref(), How::Path) {
        Ok(fd) => Ok(Some(shared.backing.stat(fd.as_fd())?)),
        Err(BackingError::Gone { .. } | BackingError::Unnamed { .. }) => Ok(None),
        Err(why) => Err(why.into()),
    }
}

/// What the mount could not tell of: its directories are looked at again.
pub(super) fn rescan_overflows(shared: &Shared) -> Result<(), EngineError> {
    let Some(lost) = shared.changelog.overflow() else { return Ok(()) };
    let since = shared.now();
    let why = format!("{} events were lost", lost.events);
    for parent in &lost.scan {
        let node = shared.catalog.node_by_handle(parent)?.map_or(NodeId::ROOT, |n| n.id);
        shared.catalog.need_rescan(Rescan { node, since, why: why.clone() })?;
    }
    if lost.everything {
        shared.catalog.need_rescan(Rescan { node: NodeId::ROOT, since, why })?;
    }
    let position = shared.catalog.status(shared.settings.copies)?.changelog.position;
    shared.catalog.advance_changelog(position + lost.events, 0, lost.events, 1)?;
    Ok(())
}
