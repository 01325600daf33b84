//! The background scan: makes what lies in the backing directory known to policy, from the first
//! start on, resuming where it stopped. It also compares records with the catalog and finds what
//! is lost (P6).
//!
//! Depth first, names in order; the position is the stack of directories with the last name done
//! in each, so it is small and can be taken up again by another process.
//!
//! Invariants:
//! - What a scan did not see is not therefore gone: a node is forgotten when the filesystem knows
//!   its handle no more, or, where there are no handles, when two scans that could look everywhere
//!   missed it. Its pins and flags live as long.
//! - A mark for another look goes only with a look that began after it and could look everywhere,
//!   or for marks on all that it could not look at, also before the scan was taken up again.
//! - What the mount moves while a scan is under way may be met by no step of it. Its records are read
//!   when the event is noted, a directory is marked for another look, and no look counts before all
//!   events until its end are noted (P8).
//! - One file that cannot be looked at stops no scan; a catalog that fails does.

mod compare;
mod gaps;
mod rounds;
mod sweep;
#[cfg(test)]
mod tests;
mod unseen;

pub(super) use compare::namings;
pub(super) use rounds::{doubt_what_was_left, work};
pub(super) use sweep::{Sweep, sweep};

use super::changelog::rescan_overflows;
use super::tree::{self, Looked, sighting};
use super::{EngineError, Shared};
use crate::catalog::{Durability, NodeId};
use crate::hsm::backing::{BackingError, How, NodeKind};
use crate::id::NodeHandle;
use compare::{Comparison, Doubt};
use gaps::{Gaps, Position};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// Longest rest of a gentle scan between two chunks.
const REST: Duration = Duration::from_millis(200);

/// How a scan goes about it.
#[derive(Debug, Clone, Copy)]
struct Manner {
    /// What a changed ctime leaves open is decided by reading the file.
    doubt: Doubt,
    /// Rests as long as it works.
    gentle: bool,
}

/// How far a scan came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    /// It looked everywhere.
    End,
    /// It went everywhere, and something could not be looked at.
    Gaps,
    /// The engine stops.
    Stopped,
}

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
fn whole(shared: &Shared, manner: Manner) -> Result<Reached, EngineError> {
    let walk = Walk::begin(shared)?;
    let mut manner = manner;
    // Set since it was decided what is due: its end takes them away.
    if manner.doubt == Doubt::Leave && !shared.catalog.rescans(1)?.is_empty() {
        manner.doubt = Doubt::Read;
    }
    walk.run(shared, manner)
}

/// A scan of the whole tree under way.
struct Walk {
    generation: u64,
    stack: Vec<Place>,
    seen: u64,
    /// What could not be looked at, by earlier processes, too.
    gaps: Gaps,
    /// It was begun here.
    in_one_go: bool,
}

impl Walk {
    fn begin(shared: &Shared) -> Result<Self, EngineError> {
        let state = shared.catalog.scan_state()?;
        let (generation, position) = if state.running {
            (state.generation, Position::read(&state.position))
        } else {
            let begun = shared.catalog.begin_scan(shared.now())?;
            (begun, Position::default())
        };
        Ok(Self {
            generation,
            stack: resume(shared, position.levels)?,
            seen: if state.running { state.seen } else { 0 },
            gaps: position.gaps,
            in_one_go: !state.running,
        })
    }

    /// A scan that was begun just now.
    fn of(shared: &Shared, generation: u64) -> Result<Self, EngineError> {
        Ok(Self {
            generation,
            stack: resume(shared, Vec::new())?,
            seen: 0,
            gaps: Gaps::default(),
            in_one_go: true,
        })
    }

    fn run(mut self, shared: &Shared, manner: Manner) -> Result<Reached, EngineError> {
        while !shared.stopping() {
            let begun = Instant::now();
            if !self.step(shared, manner)? {
                return self.end(shared);
            }
            rest(shared, manner, begun.elapsed());
        }
        Ok(Reached::Stopped)
    }

    /// Looks at some entries of one directory; `false`: there is nothing more to look at.
    fn step(&mut self, shared: &Shared, manner: Manner) -> Result<bool, EngineError> {
        let Some(top) = self.stack.last_mut() else {
            return Ok(false);
        };
        let Some(found) = next_chunk(shared, top, &mut self.gaps)? else {
            // A place that could not be read leaves the names as they are.
            if self.gaps.is_empty() && self.in_one_go {
                drop_names(shared, top.node, self.generation)?;
            }
            self.stack.pop();
            return Ok(true);
        };
        self.seen += found.len() as u64;
        let node = top.node;
        let below = note(shared, node, found, manner, &mut self.gaps)?;
        self.stack.extend(below.into_iter().rev());
        let levels = self.stack.iter().map(|o| &o.level);
        let position = Position::write(levels, &self.gaps);
        shared.catalog.save_scan_position(position, self.seen)?;
        Ok(true)
    }

    fn end(self, shared: &Shared) -> Result<Reached, EngineError> {
        hear_all(shared)?;
        if let Some(marks) = self.gaps.marks(shared.now()) {
            shared.catalog.narrow_rescans(marks)?;
        }
        let whole = self.gaps.is_empty();
        shared.catalog.finish_scan(shared.now(), whole)?;
        if whole {
            let state = shared.catalog.scan_state()?;
            shared.settle_revivals(state.finished_begun_at)?;
        }
        if !self.gaps.unproven() {
            unseen::settle_all(shared, self.generation, whole && self.in_one_go)?;
            // P8: only now is everything told that it found; and only what it began itself counts.
            if whole && self.in_one_go && !shared.stopping() {
                shared.catalog.scan_proves(self.generation)?;
                shared.bell.ring();
            }
        }
        Ok(self.gaps.reached())
    }
}

/// What moved past the look at hand is noted, and marked where it is a directory, before the look
/// counts for anything.
fn hear_all(shared: &Shared) -> Result<(), EngineError> {
    shared.drain_changelog()?;
    rescan_overflows(shared)
}

/// As long as the work took, so that users have half of the disk at least.
fn rest(shared: &Shared, manner: Manner, worked: Duration) {
    if manner.gentle && !shared.stopping() {
        std::thread::sleep(worked.min(REST));
    }
}

/// Looks at one subtree again, because changelog records about it were lost.
fn subtree(shared: &Shared, node: NodeId, manner: Manner) -> Result<Reached, EngineError> {
    let Some(row) = shared.catalog.node(node)? else {
        return Ok(Reached::End);
    };
    let Some(generation) = shared.catalog.begin_part()? else {
        return Ok(Reached::Gaps);
    };
    let mut gaps = Gaps::default();
    if row.attributes.kind != crate::catalog::FileKind::Directory {
        unseen::again(shared, &row, generation, manner, &mut gaps)?;
        return Ok(gaps.reached());
    }
    let mut stack = vec![Place::new(row.handle, node, Vec::new())];
    let mut unnamed = Vec::new();
    while let Some(top) = stack.last_mut() {
        if shared.stopping() {
            return Ok(Reached::Stopped);
        }
        let node = top.node;
        match next_chunk(shared, top, &mut gaps)? {
            None => {
                if gaps.is_empty() {
                    unnamed.extend(drop_names(shared, node, generation)?);
                }
                stack.pop();
            }
            Some(found) => stack.extend(note(shared, node, found, manner, &mut gaps)?),
        }
    }
    unseen::settle_unnamed(shared, generation, unnamed)?;
    hear_all(shared)?;
    Ok(gaps.reached())
}

/// Names of a directory that was read to its end and that are not there any more; their nodes.
fn drop_names(
    shared: &Shared,
    directory: NodeId,
    generation: u64,
) -> Result<Vec<NodeId>, EngineError> {
    let mut nodes = Vec::new();
    loop {
        let dropped = shared
            .catalog
            .finish_directory(directory, generation, 5000)?;
        if dropped.is_empty() {
            return Ok(nodes);
        }
        nodes.extend(dropped);
    }
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
/// What cannot be looked at is one of the `gaps`.
fn next_chunk(
    shared: &Shared,
    place: &mut Place,
    gaps: &mut Gaps,
) -> Result<Option<Vec<Looked>>, EngineError> {
    let reading = match &mut place.reading {
        Some(reading) => reading,
        None => match read(shared, &place.level) {
            Ok(reading) => place.reading.insert(reading),
            // A directory that went meanwhile is the changelog's business.
            Err(EngineError::Backing(BackingError::Gone { .. })) => return Ok(None),
            Err(why) => {
                tracing::warn!(%why, "a directory could not be scanned");
                gaps.add(place.node);
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
                gaps.add(place.node);
            }
        }
        place.level.done = name;
    }
    Ok(Some(found))
}

/// Tells the catalog what was seen, and gives the directories among it.
fn note(
    shared: &Shared,
    parent: NodeId,
    looked: Vec<Looked>,
    manner: Manner,
    gaps: &mut Gaps,
) -> Result<Vec<Place>, EngineError> {
    // Before their names are theirs in the catalog, too.
    let mut restored = Vec::new();
    let mut found = Vec::with_capacity(looked.len());
    for l in looked {
        if l.stat.kind == NodeKind::Regular {
            match shared.replaced(parent, &l.name, &l.handle, l.fd.as_fd(), &l.stat) {
                Ok(None) => {}
                Ok(Some(old)) => restored.push((found.len(), old)),
                Err(why @ EngineError::Catalog(_)) => return Err(why),
                // Noted it would take the name of the file whose hole it may be.
                Err(why) => {
                    tracing::warn!(%why, "a file that holds nothing could not be compared");
                    gaps.add_unproven(parent);
                    continue;
                }
            }
        }
        found.push(l);
    }
    let seen = found.iter().map(|l| sighting(l, parent)).collect();
    let ids = shared.catalog.note(seen, Durability::Relaxed)?;
    let mut directories = Vec::new();
    let mut comparison = Comparison::new(shared, manner.doubt);
    for (looked, &id) in found.iter().zip(&ids) {
        match looked.stat.kind {
            NodeKind::Directory => {
                directories.push(Place::new(looked.handle.clone(), id, Vec::new()));
            }
            NodeKind::Regular if !comparison.compare(looked, id)? => gaps.add(id),
            _ => {}
        }
    }
    comparison.finish()?;
    for (at, old) in restored {
        if let Some(id) = ids.get(at) {
            shared.found_restored(*id, &old)?;
        }
    }
    Ok(directories)
}
