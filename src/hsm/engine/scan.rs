//! The background scan: makes what lies in the backing directory known to policy, from the first
//! start on, resuming where it stopped. It also compares records with the catalog and finds what
//! is lost (P6).
//!
//! Depth first, names in order; the position is the stack of directories with the last name done
//! in each, so it is small and can be taken up again by another process.

use super::tree::{self, Looked, sighting};
use super::work::release;
use super::{EngineError, Shared};
use crate::catalog::{Durability, FileState, Known, NodeId, TombstoneWhy, Version};
use crate::format::record::State;
use crate::hsm::backing::{BackingError, How, NodeKind, belongs_to};
use crate::id::NodeHandle;
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, OwnedFd};

/// A directory on the way: what was done in it so far.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Level {
    kind: i32,
    handle: Vec<u8>,
    /// Last name done; empty: none.
    done: Vec<u8>,
}

/// A directory to be read. It is opened when it comes to the top of the stack, so that as many
/// are open as the tree is deep.
struct Place {
    level: Level,
    node: NodeId,
    reading: Option<Reading>,
}

/// A directory being read.
struct Reading {
    fd: OwnedFd,
    device: u64,
    /// Names to do, in descending order.
    left: Vec<Vec<u8>>,
}

impl Place {
    fn new(handle: NodeHandle, node: NodeId, done: Vec<u8>) -> Self {
        Self {
            level: Level {
                kind: handle.kind,
                handle: handle.bytes,
                done,
            },
            node,
            reading: None,
        }
    }
}

/// Scans the whole tree once, or goes on with the scan that was running. Returns early, keeping
/// its position, when the engine stops.
pub(super) fn whole(shared: &Shared) -> Result<(), EngineError> {
    let state = shared.catalog.scan_state()?;
    let (generation, levels) = if state.running {
        (
            state.generation,
            serde_json::from_slice(&state.position).unwrap_or_default(),
        )
    } else {
        (shared.catalog.begin_scan(shared.now())?, Vec::new())
    };
    let mut seen = if state.running { state.seen } else { 0 };
    let mut stack = resume(shared, levels)?;
    // What a scan did not see is taken for gone only if it could look everywhere, from its first
    // directory on, in one go.
    let mut whole = !state.running;
    while let Some(top) = stack.last_mut() {
        if shared.stopping() {
            return Ok(());
        }
        let Some(found) = next_chunk(shared, top, &mut whole)? else {
            while whole
                && shared
                    .catalog
                    .finish_directory(top.node, generation, 5000)?
                    > 0
            {}
            stack.pop();
            continue;
        };
        seen += found.len() as u64;
        let node = top.node;
        stack.extend(note(shared, node, &found)?.into_iter().rev());
        let levels: Vec<&Level> = stack.iter().map(|o| &o.level).collect();
        shared
            .catalog
            .save_scan_position(serde_json::to_vec(&levels).unwrap_or_default(), seen)?;
    }
    shared.catalog.finish_scan(shared.now())?;
    let (mut after, mut sweeping) = (None, whole);
    while sweeping {
        let swept = shared
            .catalog
            .sweep_vanished(generation, after, 2000, shared.now())?;
        match swept.next {
            Some(next) if !shared.stopping() => after = Some(next),
            _ => sweeping = false,
        }
    }
    Ok(())
}

/// Looks at one subtree again, because changelog records about it were lost.
pub(super) fn subtree(shared: &Shared, node: NodeId) -> Result<(), EngineError> {
    let Some(row) = shared.catalog.node(node)? else {
        return Ok(());
    };
    let mut stack = vec![Place::new(row.handle, node, Vec::new())];
    while let Some(top) = stack.last_mut() {
        if shared.stopping() {
            return Ok(());
        }
        let node = top.node;
        match next_chunk(shared, top, &mut true)? {
            None => drop(stack.pop()),
            Some(found) => stack.extend(note(shared, node, &found)?),
        }
    }
    Ok(())
}

fn resume(shared: &Shared, levels: Vec<Level>) -> Result<Vec<Place>, EngineError> {
    let mut stack = Vec::new();
    for level in levels {
        let handle = NodeHandle {
            kind: level.kind,
            bytes: level.handle,
        };
        if let Some(node) = shared.catalog.node_by_handle(&handle)? {
            stack.push(Place::new(handle, node.id, level.done));
        }
    }
    if stack.is_empty() {
        let handle = tree::note_root(shared)?;
        stack.push(Place::new(handle, NodeId::ROOT, Vec::new()));
    }
    Ok(stack)
}

fn read(shared: &Shared, level: &Level) -> Result<Reading, EngineError> {
    let handle = NodeHandle {
        kind: level.kind,
        bytes: level.handle.clone(),
    };
    let hint = tree::hint(shared, &handle)?;
    let fd = shared
        .backing
        .open_node(&handle, hint.as_deref(), How::Path)?;
    let device = shared.backing.stat(fd.as_fd())?.dev;
    let mut left = tree::names(&shared.backing, fd.as_fd())?;
    left.retain(|name| level.done.is_empty() || *name > level.done);
    left.reverse();
    Ok(Reading { fd, device, left })
}

/// Looks at the next entries of a directory; `None` at its end.
/// What cannot be looked at makes the scan less than `whole`.
fn next_chunk(
    shared: &Shared,
    place: &mut Place,
    whole: &mut bool,
) -> Result<Option<Vec<Looked>>, EngineError> {
    let reading = match &mut place.reading {
        Some(reading) => reading,
        None => match read(shared, &place.level) {
            Ok(reading) => place.reading.insert(reading),
            // A directory that went meanwhile is the changelog's business.
            Err(EngineError::Backing(BackingError::Gone { .. })) => return Ok(None),
            Err(why) => {
                tracing::warn!(%why, "a directory could not be scanned");
                *whole = false;
                return Ok(None);
            }
        },
    };
    if reading.left.is_empty() {
        return Ok(None);
    }
    let mut found = Vec::with_capacity(tree::CHUNK);
    while found.len() < tree::CHUNK {
        let Some(name) = reading.left.pop() else {
            break;
        };
        match tree::look_at(&shared.backing, reading.fd.as_fd(), &name, reading.device) {
            Ok(looked) => found.extend(looked),
            Err(BackingError::Gone { .. }) => {}
            Err(why) => {
                tracing::warn!(%why, "an entry could not be scanned");
                *whole = false;
            }
        }
        place.level.done = name;
    }
    Ok(Some(found))
}

/// Tells the catalog what was seen, and gives the directories among it.
fn note(shared: &Shared, parent: NodeId, found: &[Looked]) -> Result<Vec<Place>, EngineError> {
    let seen = found.iter().map(|l| sighting(l, parent)).collect();
    let ids = shared.catalog.note(seen, Durability::Relaxed)?;
    let mut directories = Vec::new();
    let mut known = Vec::new();
    for (looked, id) in found.iter().zip(ids) {
        match looked.stat.kind {
            NodeKind::Directory => {
                directories.push(Place::new(looked.handle.clone(), id, Vec::new()));
            }
            NodeKind::Regular => known.extend(compare(shared, looked, id)?),
            _ => {}
        }
    }
    if !known.is_empty() {
        shared
            .catalog
            .learn(known, shared.now(), Durability::Relaxed)?;
    }
    Ok(directories)
}

/// What the record says that the catalog does not know.
fn compare(shared: &Shared, looked: &Looked, id: NodeId) -> Result<Option<Known>, EngineError> {
    let own = || {
        let found = shared.backing.record(looked.fd.as_fd());
        found.map(|r| r.filter(|r| belongs_to(r, shared.backing.fs(), &looked.handle)))
    };
    let mut record = own();
    if matches!(&record, Ok(Some(r)) if r.state == State::Recalling)
        && let Some(claim) = shared.lanes.claim(&looked.handle)
    {
        release::recover(shared, &looked.handle);
        drop(claim);
        record = own();
    }
    let record = match record {
        Ok(record) => record,
        Err(why) => {
            tracing::warn!(%why, "a record cannot be read");
            return Ok(None);
        }
    };
    let Some(node) = shared.catalog.node(id)? else {
        return Ok(None);
    };
    let Some(record) = record else {
        if node.version.is_some() && node.state != FileState::Dirty {
            shared.is_lost(&looked.handle, looked.fd.as_fd())?;
        }
        return Ok(None);
    };
    let version = Version {
        file: record.file,
        version: record.version,
        crc: record.crc,
        blocks_crc: record.blocks_crc,
    };
    let state = match record.state {
        State::Released | State::Recalling => FileState::Released,
        // Whether it changed since is for the next quiescent point to say.
        State::Resident => FileState::Archived,
    };
    let agrees = node.version == Some(version)
        && (node.state == state
            || (state == FileState::Archived && node.state == FileState::Dirty));
    if agrees {
        let same = (looked.stat.size, looked.stat.mtime) == (record.size, record.mtime);
        if record.state == State::Resident && node.state == FileState::Archived && !same {
            // Written to, and the event was lost: no rule would ever archive it again.
            let why = TombstoneWhy::Overwrite;
            let now = shared.now();
            shared.catalog.dirtied(id, why, now, Durability::Relaxed)?;
        }
        return Ok(None);
    }
    let copies = shared.copies_of_record(&record, &looked.stat);
    Ok(Some(Known {
        node: id,
        state,
        version,
        copies,
    }))
}
