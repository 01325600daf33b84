//! What a scan did not see, and what lost the name under which it was known: gone, or elsewhere?

use super::super::tree::{self, Looked};
use super::super::{EngineError, Shared};
use super::Manner;
use super::compare::Comparison;
use super::gaps::Gaps;
use crate::catalog::{Durability, Node, NodeId, Rescan, Settled, Sighting};
use crate::hsm::backing::{Access, BackingError, How, NodeKind};
use crate::id::NodeHandle;
use std::collections::BTreeSet;
use std::os::fd::AsFd;

/// Nodes looked at together.
const PAGE: usize = 2000;

/// What the filesystem says of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inode {
    /// No such inode any more.
    Gone,
    /// It is there, or nothing says that it is not.
    There,
    /// Nothing can be known without a name.
    NoHandles,
}

fn ask(shared: &Shared, handle: &NodeHandle) -> Inode {
    if shared.backing.access() != Access::Handles {
        return Inode::NoHandles;
    }
    match shared.backing.open_node(handle, None, How::Path) {
        Err(BackingError::Gone { .. }) => Inode::Gone,
        Ok(_) | Err(_) => Inode::There,
    }
}

/// After a scan of the whole: forgets what is proven gone, and marks for another look the
/// directories that hold what the scan did not see. `everywhere`: it could look everywhere, in one
/// go; without handles nothing is held against a node otherwise.
pub(super) fn settle_all(
    shared: &Shared,
    generation: u64,
    everywhere: bool,
) -> Result<(), EngineError> {
    let mut after = None;
    loop {
        let page = shared.catalog.unseen(generation, after, PAGE)?;
        let (mut found, mut look) = (Settled::default(), BTreeSet::new());
        for unseen in &page.nodes {
            match ask(shared, &unseen.handle) {
                Inode::Gone => found.gone.push(unseen.node),
                Inode::NoHandles if !everywhere => {}
                Inode::NoHandles if unseen.missed_before => found.missed_twice.push(unseen.node),
                Inode::NoHandles => found.missed.push(unseen.node),
                Inode::There => match unseen.parent {
                    Some(parent) if unseen.parent_seen => drop(look.insert(parent)),
                    // Its directory was not seen either, and is looked at from above.
                    Some(_) => {}
                    None => look.extend(place(shared, unseen.node, &unseen.handle)),
                },
            }
        }
        if found != Settled::default() {
            shared
                .catalog
                .settle_unseen(generation, found, shared.now())?;
        }
        if !look.is_empty() {
            let since = shared.now();
            let mark = |node| Rescan {
                node,
                since,
                why: "it moved while a scan was under way".to_owned(),
            };
            shared
                .catalog
                .need_rescan(look.into_iter().map(mark).collect())?;
        }
        match page.next {
            Some(next) if !shared.stopping() => after = Some(next),
            _ => return Ok(()),
        }
    }
}

/// A directory without a name gets the one that it has now; it is to be looked at. (A file without
/// one keeps all but a name until a scan meets it: its directory is not known.)
fn place(shared: &Shared, node: NodeId, handle: &NodeHandle) -> Option<NodeId> {
    let fd = shared.backing.open_node(handle, None, How::Path).ok()?;
    if shared.backing.stat(fd.as_fd()).ok()?.kind != NodeKind::Directory {
        return None;
    }
    match tree::ensure_directory(shared, handle) {
        Ok(id) => Some(id),
        Err(why) => {
            tracing::debug!(%node, %why, "a directory has no name");
            None
        }
    }
}

/// After a look at a part: forgets those of the nodes that are proven gone.
pub(super) fn settle_unnamed(
    shared: &Shared,
    generation: u64,
    nodes: Vec<NodeId>,
) -> Result<(), EngineError> {
    let mut found = Settled::default();
    for id in nodes {
        if let Some(node) = shared.catalog.node(id)?
            && ask(shared, &node.handle) == Inode::Gone
        {
            found.gone.push(id);
        }
    }
    if found != Settled::default() {
        shared
            .catalog
            .settle_unseen(generation, found, shared.now())?;
    }
    Ok(())
}

/// Looks at one node that is no directory.
pub(super) fn again(
    shared: &Shared,
    node: &Node,
    generation: u64,
    manner: Manner,
    gaps: &mut Gaps,
) -> Result<(), EngineError> {
    let hint = tree::hint(shared, &node.handle)?;
    let opened = shared
        .backing
        .open_node(&node.handle, hint.as_deref(), How::Path);
    let fd = match opened {
        Ok(fd) => fd,
        Err(BackingError::Gone { .. } | BackingError::Unnamed { .. }) => {
            return settle_unnamed(shared, generation, vec![node.id]);
        }
        Err(why) => return Err(why.into()),
    };
    let stat = shared.backing.stat(fd.as_fd())?;
    let looked = Looked {
        name: Vec::new(),
        fd,
        handle: node.handle.clone(),
        stat,
    };
    let seen = Sighting {
        handle: node.handle.clone(),
        attributes: tree::attributes(&looked.stat),
        place: None,
    };
    shared.catalog.note(vec![seen], Durability::Relaxed)?;
    if looked.stat.kind == NodeKind::Regular {
        let mut comparison = Comparison::new(shared, manner.doubt);
        if !comparison.compare(&looked, node.id)? {
            gaps.add(node.id);
        }
        comparison.finish()?;
    }
    Ok(())
}
