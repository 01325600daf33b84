//! What recalls ask of the engine: tiers, further copies, and where to write down how they ended.

use super::{EngineError, Shared, tree};
use crate::catalog::{
    Copy, Durability, FileState, Known, Node, Proven, Recalled, Trouble, Version,
};
use crate::error::Failure;
use crate::format::record::{CopyHint, Record, State};
use crate::hsm::backing::{BackingError, FileStat, How, belongs_to};
use crate::hsm::recall::{Adopted, Asks, Done, RecallError, User, Vouched};
use crate::hsm::tape::desk::Desk;
use crate::hsm::version::Settle;
use crate::id::{DataVersion, FileId, NodeHandle, TierId, Timestamp};
use crate::tier::Tier;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Weak, because the engine owns the recaller.
pub(super) struct Answers(pub(super) Weak<Shared>);

impl Asks for Answers {
    fn tier(&self, id: TierId) -> Option<Arc<dyn Tier>> {
        self.0.upgrade()?.slot(id).map(|s| s.tier.clone())
    }

    fn desk(&self, id: TierId) -> Option<Arc<Desk>> {
        self.0.upgrade()?.desks.get(id).cloned()
    }

    fn copies_of(&self, file: FileId, version: DataVersion) -> Vec<CopyHint> {
        let Some(shared) = self.0.upgrade() else {
            return Vec::new();
        };
        match shared.catalog.copies(file, version) {
            // Bad ones, the last, too: perhaps only a header is, or another file's blocks. Each block is
            // compared with its sum before anybody gets it.
            Ok(copies) => copies
                .iter()
                .map(|c| CopyHint {
                    tier: c.tier,
                    aggregate: c.aggregate,
                    header: c.header,
                })
                .collect(),
            Err(why) => {
                tracing::warn!(%why, "the catalog could not be asked for further copies");
                Vec::new()
            }
        }
    }

    fn recalled(&self, done: &Done) {
        let Some(shared) = self.0.upgrade() else {
            return;
        };
        if let Some(gate) = shared.late.gate.get() {
            gate.changed(&done.seen.node);
        }
        if let Err(why) = note(&shared, done) {
            tracing::warn!(%why, "a recall could not be noted; the next scan finds it");
        }
        if let Some(settle) = &done.settle {
            let _ = shared.settles.send(settle.clone());
        }
    }

    fn touched(&self, node: &NodeHandle) {
        let shared = self.0.upgrade();
        if let Some(gate) = shared.as_ref().and_then(|s| s.late.gate.get()) {
            gate.changed(node);
        }
    }

    fn settle(&self, check: Settle) {
        if let Some(shared) = self.0.upgrade() {
            let _ = shared.settles.send(check);
        }
    }

    fn stage_requested(
        &self,
        node: &NodeHandle,
        _hint: Option<Vec<u8>>,
        user: User,
    ) -> Result<(), Failure> {
        let shared = self.0.upgrade().ok_or(Failure::NoInstance)?;
        shared.wish(node.clone(), user)
    }

    fn may_be_lost(&self, node: &NodeHandle, bare: bool) -> bool {
        self.0.upgrade().is_none_or(|s| s.may_be_lost(node, bare))
    }

    fn vouch(&self, node: &NodeHandle, file: BorrowedFd<'_>) -> Result<Vouched, RecallError> {
        let shared = self.0.upgrade().ok_or(RecallError::Cancelled)?;
        match shared.is_lost(node, file) {
            Ok(false) => Ok(Vouched::Whole),
            Ok(true) => Err(RecallError::Lost),
            Err(EngineError::Backing(BackingError::Busy { .. })) => Ok(Vouched::Busy),
            Err(why) => Err(RecallError::Unavailable {
                why: format!("the catalog cannot say whether it is whole: {why}"),
            }),
        }
    }

    fn adopted(&self, adopted: &Adopted) {
        let Some(shared) = self.0.upgrade() else {
            return;
        };
        // From here on a missing record is a missing stub.
        shared.believed.forget(&adopted.node);
        if let Err(why) = super::vouch::note_adopted(&shared, adopted) {
            tracing::warn!(%why, "an adopted stub could not be noted; the next scan finds it");
        }
    }

    fn foreign(&self, node: &NodeHandle, why: &str) {
        let Some(shared) = self.0.upgrade() else {
            return;
        };
        let note = format!("foreign: it carries the stub of another file, and {why}");
        if let Err(why) = super::vouch::note_trouble(&shared, node, Trouble::Foreign, note) {
            tracing::warn!(%why, "a foreign stub could not be noted");
        }
    }

    fn conflict(&self, node: &NodeHandle, why: &str) {
        let Some(shared) = self.0.upgrade() else {
            return;
        };
        let note = format!("conflict: somebody changed a released file behind Cairn's back: {why}");
        if let Err(why) = super::vouch::note_trouble(&shared, node, Trouble::Conflict, note) {
            tracing::warn!(%why, "a stub in conflict could not be noted; the next scan finds it");
        }
    }

    fn looks_lost(&self, node: &NodeHandle, record: Option<&Record>, stat: &FileStat) -> bool {
        let shared = self.0.upgrade();
        shared.is_some_and(|s| s.looks_lost(node, record, stat))
    }

    fn eta(&self, file: FileId) -> Option<Duration> {
        // Of what lies on tape, or is being restored: a `dir` tier answers at once, and what waits there, waits behind
        // others, which nobody can foresee.
        let shared = self.0.upgrade()?;
        let recaller = shared.recaller().filter(|r| r.running() > 0)?;
        let nodes = shared.catalog.nodes_by_file(file).ok()?;
        let left = nodes.iter().find_map(|node| {
            let told = recaller.told(&node.handle).map(|told| told.left);
            told.or_else(|| recaller.restoring(&node.handle).flatten())
        });
        // Nothing would say that the data are here.
        Some(left?.max(Duration::from_secs(1)))
    }

    fn pins(&self, file: FileId) -> Vec<(String, Timestamp)> {
        let Some(shared) = self.0.upgrade() else {
            return Vec::new();
        };
        let nodes = shared.catalog.nodes_by_file(file).unwrap_or_default();
        let pins = nodes
            .iter()
            .filter_map(|n| shared.catalog.pins(n.id).ok())
            .flatten();
        let now = shared.now();
        pins.filter(|p| p.expires > now)
            .map(|p| (p.holder, p.expires))
            .collect()
    }

    fn copy_failed(&self, file: FileId, version: DataVersion, copy: &CopyHint, why: &str) {
        let Some(shared) = self.0.upgrade() else {
            return;
        };
        let noted = shared.catalog.copies(file, version).and_then(|copies| {
            let there = |c: &&Copy| (c.tier, c.aggregate) == (copy.tier, copy.aggregate);
            let mut known = copies.iter().filter(there);
            known.try_for_each(|known| shared.copy_is_bad(known, why))
        });
        if let Err(why) = noted {
            tracing::error!(%why, "a bad copy could not be noted");
        }
    }
}

/// A file that the scan has not come to since the catalog was new (a restored backing, say): its own
/// record tells what it is, as the scan would have found it.
fn learn(
    shared: &Shared,
    done: &Done,
    node: &Node,
    fd: BorrowedFd<'_>,
    stat: &FileStat,
) -> Result<(), EngineError> {
    let record = shared.backing.record(fd)?.filter(|r| {
        belongs_to(r, shared.backing.fs(), &node.handle)
            && r.state == State::Resident
            && (r.file, r.version) == (done.file, done.version)
    });
    let Some(record) = record else {
        return Ok(());
    };
    let known = Known {
        node: node.id,
        state: FileState::Archived,
        version: Version {
            file: record.file,
            version: record.version,
            crc: record.crc,
            blocks_crc: record.blocks_crc,
        },
        copies: shared.copies_of_record(&record),
        under: Some((node.planned(), stat.ctime)),
    };
    let catalog = &shared.catalog;
    Ok(catalog.learn(vec![known], shared.now(), Durability::Relaxed)?)
}

fn note(shared: &Shared, done: &Done) -> Result<(), super::EngineError> {
    let Some(node) = shared.catalog.node_by_handle(&done.seen.node)? else {
        return Ok(());
    };
    let hint = tree::hint(shared, &node.handle)?;
    let fd = shared
        .backing
        .open_node(&node.handle, hint.as_deref(), How::Path)?;
    let stat = shared.backing.stat(fd.as_fd())?;
    if node.version.is_none() {
        learn(shared, done, &node, fd.as_fd(), &stat)?;
    }
    let proven = Proven {
        size: done.seen.size,
        // A ctime that no file has: what was not proven is compared by its sum.
        ctime: if done.proven {
            done.seen.ctime
        } else {
            Timestamp { sec: 0, nsec: 0 }
        },
        boot: shared.incarnation.boot,
    };
    let back = Recalled {
        version: (done.file, done.version),
        attributes: tree::attributes(&stat),
        proven,
        ctime: done.seen.ctime,
    };
    let now = shared.now();
    shared
        .catalog
        .staged(node.id, back, now, Durability::Relaxed)?;
    Ok(())
}
