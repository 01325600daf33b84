//! A rebuild that read tiers, and a file without a record: it may be one whose record was lost.
//!
//! Invariants:
//! - Only the sum of all its bytes makes a file archived, and only a file that holds nothing can be
//!   lost.
//! - No file is taken for one that another inode is: that is known only behind a scan, when all records
//!   were read, and a file's own name comes before its looks.

use super::super::super::rebuild::{Lookalike, the_only};
use super::super::Reached;
use super::{Comparison, Doubt, EngineError, Shared};
use crate::catalog::{
    Durability, FileState, Known, Node, NodeId, Planned, Proven, Remembrance, Rescan,
};
use crate::hsm::backing::{BackingError, How, belongs_to, data_bytes};
use crate::hsm::engine::tree::{self, Looked};
use crate::hsm::version::{Rebound, rebind};
use cairn_mover::Crc32c;
use std::os::fd::AsFd;

/// What the catalog says of a lost one.
const NOTE: &str =
    "a rebuild found its data on a tier, and neither a stub nor data on disk: only holes are left";

/// Nodes looked at together.
const PAGE: usize = 1000;

/// What is taken for likeness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Name,
    Looks,
}

/// Takes the regular files of which nothing is known for what the tiers say that they are.
pub(in crate::hsm::engine::scan) fn recognise(shared: &Shared) -> Result<Reached, EngineError> {
    let mut gaps = Vec::new();
    for by in [By::Name, By::Looks] {
        let mut after = None;
        loop {
            let page = shared.catalog.unknown_files(after, PAGE)?;
            let Some(last) = page.last().copied() else {
                break;
            };
            after = Some(last);
            for id in page {
                if shared.stopping() {
                    return Ok(Reached::Stopped);
                }
                match recognise_one(shared, id, by) {
                    Ok(()) => {}
                    Err(why @ EngineError::Catalog(_)) => return Err(why),
                    Err(why) => {
                        tracing::warn!(node = %id, %why, "whether it is an archived file is not known");
                        gaps.push(id);
                    }
                }
            }
        }
    }
    if gaps.is_empty() {
        return Ok(Reached::End);
    }
    let since = shared.now();
    let mark = |node| Rescan {
        node,
        since,
        why: "a rebuild could not look at it".to_owned(),
    };
    shared
        .catalog
        .need_rescan(gaps.into_iter().map(mark).collect())?;
    Ok(Reached::Gaps)
}

fn recognise_one(shared: &Shared, id: NodeId, by: By) -> Result<(), EngineError> {
    let Some(node) = shared.catalog.node(id)? else {
        return Ok(());
    };
    let (backing, handle) = (&shared.backing, node.handle.clone());
    let hint = tree::hint(shared, &handle)?;
    let fd = match backing.open_node(&handle, hint.as_deref(), How::Path) {
        Ok(fd) => fd,
        Err(BackingError::Gone { .. }) => return Ok(()),
        Err(why) => return Err(why.into()),
    };
    let record = backing.record(fd.as_fd())?;
    if record.is_some_and(|record| belongs_to(&record, backing.fs(), &handle)) {
        return Ok(());
    }
    let stat = backing.stat(fd.as_fd())?;
    let looked = Looked {
        name: Vec::new(),
        fd,
        handle,
        stat,
    };
    Comparison::new(shared, Doubt::Read).by_looks(&looked, &node, by)
}

impl Comparison<'_> {
    fn by_looks(&mut self, looked: &Looked, node: &Node, by: By) -> Result<(), EngineError> {
        let (shared, stat) = (self.shared, &looked.stat);
        let mut found = shared.lookalikes(node, stat)?;
        if by == By::Name {
            found.retain(|l| l.by_name);
        }
        if found.is_empty() {
            return Ok(());
        }
        let file = match shared.backing.reopen(looked.fd.as_fd(), How::Read) {
            Ok(file) => file,
            Err(BackingError::Busy { .. }) => return Ok(()),
            Err(why) => return Err(why.into()),
        };
        let holds_nothing = stat.size > 0 && data_bytes(file.as_fd(), stat.size, 1)? == 0;
        let zeros = Crc32c::of_zeros(stat.size);
        if holds_nothing && found.iter().all(|l| l.it.version.crc != zeros) {
            let Some(it) = the_only(&found, stat) else {
                return Ok(());
            };
            self.learn_as(looked, node, &it, FileState::Lost)?;
            // If news came meanwhile, it is not, and nothing is said of it.
            let noted = Planned {
                state: FileState::Lost,
                version: Some((it.version.file, it.version.version)),
            };
            return Ok(shared.catalog.lost(node.id, noted, NOTE.to_owned())?);
        }
        drop(file);
        self.by_sum(looked, node, &found)
    }

    fn by_sum(
        &mut self,
        looked: &Looked,
        node: &Node,
        found: &[Lookalike],
    ) -> Result<(), EngineError> {
        let backing = &self.shared.backing;
        let mut sum = None;
        for Lookalike { it, .. } in found {
            if sum.is_some_and(|sum| sum != it.version.crc) {
                continue;
            }
            let file = backing.reopen(looked.fd.as_fd(), How::Read)?;
            match rebind(backing, file, None, it.size, it.version.crc) {
                Ok(Rebound::Same(quiet)) => {
                    let proven = Proven {
                        size: quiet.seen().size,
                        ctime: quiet.seen().ctime,
                        boot: self.shared.incarnation.boot,
                    };
                    self.same(node, it.version, proven);
                    return self.learn_as(looked, node, it, FileState::Archived);
                }
                Ok(Rebound::Dirty { found, .. }) => sum = found.or(sum),
                Err(why) => {
                    tracing::debug!(%why, "whether it is an archived file cannot be told now");
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Told at once: the next file must not be taken for the same.
    fn learn_as(
        &mut self,
        looked: &Looked,
        node: &Node,
        it: &Remembrance,
        state: FileState,
    ) -> Result<(), EngineError> {
        self.known.push(Known {
            node: node.id,
            state,
            version: it.version,
            // They are in the catalog, and live from here on.
            copies: Vec::new(),
            under: Some((node.planned(), looked.stat.ctime)),
        });
        self.tell()?;
        Ok(self.shared.catalog.settle(Durability::Relaxed)?)
    }
}
