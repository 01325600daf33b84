//! The archive lane: P2 for a batch, on one tier.

use super::super::expand::is_current;
use super::super::lanes::Claim;
use super::super::{EngineError, Shared, Slot, tree};
use super::{again, busy, end, failed, later, pause_after, soon_or_never};
use crate::catalog::{
    self, Action, CopyState, Durability, FileState, Finish, Met, Node, Proven, Version,
};
use crate::error::Failure;
use crate::format::aggregate::Index;
use crate::format::record::{CopyHint, State};
use crate::hsm::archive::{
    ArchiveError, Batch, CommitError, Copied, Durable, Item, ItemError, Outcome, Prior, Skip,
    Unrecorded, archive as compose,
};
use crate::hsm::backing::{How, belongs_to};
use crate::hsm::version::{Seen, Trust};
use crate::id::TierId;
use crate::tier::{Proof, Receipt, TierError};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

/// Names of one inode that go into its aggregate; more are rarer than they are worth.
const MOST_NAMES: usize = 1000;
/// A tier that stopped is left alone for so long: the process ends meanwhile.
const AT_STOP: Duration = Duration::from_secs(3600);

pub(super) fn archive(shared: &Arc<Shared>, tier: Option<TierId>, actions: Vec<Action>) {
    let Some(slot) = tier.and_then(|id| shared.slot(id)) else {
        for action in &actions {
            end(
                shared,
                action,
                failed(Failure::TierUnavailable, "its tier is not configured here"),
            );
        }
        return;
    };
    let (mut ready, released) = ready(shared, slot, actions);
    // In the order of a walk, each directory before what lies in it: tar sets a directory's times
    // when it leaves it, so what it comes back to would change them.
    ready.sort_by(|a, b| walk_order(&a.0).cmp(walk_order(&b.0)));
    let (mut rows, mut items, mut nodes, mut claims) = (vec![], vec![], vec![], vec![]);
    for (item, action, node, claim) in ready {
        items.push(item);
        rows.push(action);
        nodes.push(node);
        claims.push(claim);
    }
    if !items.is_empty() {
        compose_and_record(shared, slot, (&rows, &items, &nodes));
    }
    if !released.is_empty() {
        again::again(shared, slot, released);
    }
}

/// Resident files, to be read from the disk.
type Resident<'a> = Vec<(Item, Action, Node, Claim<'a>)>;
/// Released ones, to be read from another tier.
type Released<'a> = Vec<again::Ready<'a>>;

/// Claims the nodes, looks all of them up at once, and ends what is not to be composed.
fn ready<'a>(
    shared: &'a Shared,
    slot: &Slot,
    actions: Vec<Action>,
) -> (Resident<'a>, Released<'a>) {
    let mut claimed = Vec::new();
    for action in actions {
        match shared.lanes.claim_to_copy(&action.handle) {
            Some(claim) => claimed.push((action, claim)),
            None => end(shared, &action, busy(shared, &action)),
        }
    }
    let handles: Vec<_> = claimed.iter().map(|(action, _)| &action.handle).collect();
    let met = match shared.catalog.meet(&handles, MOST_NAMES) {
        Ok(met) => met,
        Err(why) => {
            for (action, _) in &claimed {
                let finish = later(shared, action, Failure::Internal, &why);
                end(shared, action, finish);
            }
            return (Vec::new(), Vec::new());
        }
    };
    let (mut ready, mut released) = (Vec::new(), Vec::new());
    for ((action, claim), met) in claimed.into_iter().zip(met) {
        let met = match met {
            Some(met) if has_stub(shared, &met) => {
                match again::ready(shared, slot, &action, met, claim) {
                    Ok(one) => released.push(one),
                    Err(finish) => end(shared, &action, finish),
                }
                continue;
            }
            met => met,
        };
        match met.map(|met| item(shared, slot, &action, met)) {
            Some(Ok(Some((item, node)))) => ready.push((item, action, node, claim)),
            None | Some(Ok(None)) => end(shared, &action, Finish::Done),
            Some(Err(finish)) => end(shared, &action, finish),
        }
    }
    (ready, released)
}

/// Is it released, as its catalog's row and its own stub say? (A file that has lost its stub is
/// composed like any other, which finds out.)
fn has_stub(shared: &Shared, met: &Met) -> bool {
    let node = &met.node;
    let hint = met.names.first().map(Vec::as_slice);
    let record = || {
        let fd = shared
            .backing
            .open_node(&node.handle, hint, How::Path)
            .ok()?;
        let record = shared.backing.record(fd.as_fd()).ok()??;
        let own = belongs_to(&record, shared.backing.fs(), &node.handle);
        (own && record.state != State::Resident).then_some(())
    };
    node.state == FileState::Released && record().is_some()
}

/// The components of an item's first name: compared one by one.
fn walk_order(item: &Item) -> impl Iterator<Item = &[u8]> {
    let name = item.names.first().map_or(&[][..], Vec::as_slice);
    name.split(|b| *b == b'/')
}

/// What the protocol needs to know; `None`: another action has archived it since this one was
/// planned. The caller has the claim.
fn item(
    shared: &Shared,
    slot: &Slot,
    action: &Action,
    met: Met,
) -> Result<Option<(Item, Node)>, Finish> {
    let node = met.node;
    if node.noarchive {
        let why = "it was set noarchive meanwhile";
        return Err(failed(Failure::NotPermitted, why));
    }
    let names = if met.names.is_empty() {
        tree::present_name(shared, &action.handle)
    } else {
        met.names
    };
    let item = Item {
        node: action.handle.clone(),
        names,
        prior: prior(shared, &node, &met.copies),
    };
    let there = |prior: &Prior| prior.copies.iter().any(|c| c.tier == slot.id);
    if item.prior.as_ref().is_some_and(there) && is_unchanged(shared, &item, &node) {
        return Ok(None);
    }
    Ok(Some((item, node)))
}

/// What lies there is the version whose copies are known.
fn is_unchanged(shared: &Shared, item: &Item, node: &Node) -> bool {
    let hint = item.names.first().map(Vec::as_slice);
    let looked = shared
        .backing
        .open_node(&item.node, hint, How::Path)
        .and_then(|fd| {
            Ok((
                shared.backing.stat(fd.as_fd())?,
                shared.backing.record(fd.as_fd())?,
            ))
        });
    let (stat, record) = match looked {
        Ok(looked) => looked,
        // What is wrong with it, its archive finds out.
        Err(_) => return false,
    };
    let record = record.filter(|r| belongs_to(r, shared.backing.fs(), &item.node));
    let version = record
        .filter(|r| r.state == State::Resident)
        .map(|r| (r.file, r.version));
    version.is_some()
        && version == node.planned().version
        && is_current(node, &stat, &shared.incarnation)
}

fn prior(shared: &Shared, node: &Node, copies: &[catalog::Copy]) -> Option<Prior> {
    let version = node.version?;
    let good = copies
        .iter()
        .filter(|c| c.state == CopyState::Good && c.crc == version.crc);
    let trust = if node.is_suspect(&shared.incarnation) {
        Trust::Suspect
    } else {
        Trust::Sound
    };
    let seen = node.proven.map(|p| {
        (
            Seen {
                node: node.handle.clone(),
                size: p.size,
                ctime: p.ctime,
            },
            trust,
        )
    });
    Some(Prior {
        file: version.file,
        version: version.version,
        size: node.proven.map_or(node.attributes.size, |p| p.size),
        crc: version.crc,
        seen,
        copies: good
            .map(|c| CopyHint {
                tier: c.tier,
                aggregate: c.aggregate,
                header: c.header,
            })
            .collect(),
        released: matches!(node.state, FileState::Released | FileState::Lost),
        remembered: crate::hsm::vouch::remembered(node, copies),
    })
}

fn compose_and_record(
    shared: &Arc<Shared>,
    slot: &Slot,
    (rows, items, nodes): (&[Action], &[Item], &[Node]),
) {
    let composing = match shared.composing.name(&shared.catalog) {
        Ok(name) => name,
        Err(why) => {
            for action in rows {
                end(
                    shared,
                    action,
                    later(shared, action, Failure::Internal, &why),
                );
            }
            return;
        }
    };
    let given = |file| {
        let last = shared.catalog.last_version(file);
        last.map_err(|why| why.to_string())
    };
    let unwanted = shared.unwanted(rows);
    let batch = Batch {
        backing: &shared.backing,
        tier: &*slot.tier,
        aggregate: composing.id(),
        composed: shared.now(),
        items,
        given: &given,
        // What is copied again from another tier may come behind it, without a slot.
        sealed: &|| shared.sealed(rows),
        resumed: &|| shared.resumed(rows),
        unwanted: Some(&unwanted),
    };
    let mut commit = |durable: Durable<'_>| commit(shared, slot, nodes, durable);
    match compose(batch, &*unwanted, &mut commit) {
        Ok(report) => {
            note_records(shared, nodes, &report.outcomes);
            for (outcome, (action, node)) in report.outcomes.into_iter().zip(rows.iter().zip(nodes))
            {
                let finish = finish(shared, slot, action, node, outcome);
                end(shared, action, finish);
            }
        }
        Err(why) => batch_failed(shared, slot, rows, &why),
    }
}

/// The catalog's words for a receipt.
pub(super) fn new_aggregate(
    slot: &Slot,
    receipt: &Receipt,
    index: &Index,
) -> catalog::NewAggregate {
    catalog::NewAggregate {
        tier: slot.id,
        id: receipt.aggregate,
        len: index.len_with_parts(receipt.len),
        in_parts: !index.parts().is_empty(),
        crc: receipt.crc,
        proof: match receipt.proof {
            Proof::ReadBack => catalog::ProofKind::ReadBack,
            Proof::ServiceChecksum => catalog::ProofKind::ServiceChecksum,
            Proof::Drive => catalog::ProofKind::Drive,
            Proof::Volatile => catalog::ProofKind::Volatile,
        },
    }
}

/// Bytes of a file's data as they lie in an aggregate.
pub(super) fn stored(index: &Index, copied: &Copied) -> u64 {
    index
        .by_identity(copied.file, copied.version)
        .map_or(0, |e| e.stored_len())
}

/// P2 step 5.
fn commit(
    shared: &Shared,
    slot: &Slot,
    nodes: &[Node],
    durable: Durable<'_>,
) -> Result<(), CommitError> {
    let receipt = durable.receipt;
    let aggregate = new_aggregate(slot, receipt, durable.index);
    let files = durable.copied.iter().filter_map(|c| {
        let node = nodes.get(c.item)?;
        shared
            .covered
            .proven(&node.handle, (c.file, c.version), c.at);
        Some(catalog::Archived {
            node: node.id,
            planned: node.planned(),
            version: Version {
                file: c.file,
                version: c.version,
                crc: c.crc,
                blocks_crc: c.blocks_crc,
            },
            proven: proven(shared, &c.seen),
            header: c.copy.header,
            stored_len: stored(durable.index, c),
        })
    });
    shared
        .catalog
        .archived(aggregate, files.collect(), shared.now())?;
    if let Some(recaller) = shared.recaller() {
        recaller
            .indexes()
            .made(slot.id, receipt.aggregate, durable.index);
    }
    Ok(())
}

fn proven(shared: &Shared, seen: &Seen) -> Proven {
    Proven {
        size: seen.size,
        ctime: seen.ctime,
        boot: shared.incarnation.boot,
    }
}

fn finish(shared: &Shared, slot: &Slot, action: &Action, node: &Node, outcome: Outcome) -> Finish {
    match outcome {
        Outcome::Archived(_) | Outcome::Entered { .. } => Finish::Done,
        Outcome::Skipped(why) => skipped(shared, slot, action, node, &why),
        Outcome::Failed(why @ ItemError::Rotted { .. }) => failed(Failure::Conflict, why),
        Outcome::Failed(ItemError::Backing(why)) if why.is_full() => {
            later(shared, action, Failure::NoSpace, why)
        }
        Outcome::Failed(why) => soon_or_never(shared, action, Failure::Internal, why),
    }
}

fn skipped(shared: &Shared, slot: &Slot, action: &Action, node: &Node, why: &Skip) -> Finish {
    match why {
        Skip::Vanished => Finish::Done,
        Skip::Released => match has_copy(shared, slot, node) {
            Ok(true) => Finish::Done,
            Ok(false) => failed(
                Failure::NoGoodCopy,
                format!("{why}, and it has no copy on {}: stage it first", slot.name),
            ),
            Err(why) => later(shared, action, why.code(), why),
        },
        Skip::Busy | Skip::Twice => soon_or_never(shared, action, Failure::Busy, why),
        Skip::Changed | Skip::Renamed | Skip::StandsAlone(_) => {
            soon_or_never(shared, action, Failure::Changed, why)
        }
        Skip::Foreign => failed(Failure::Foreign, why),
        // As far as the catalog knew: what the mount did a moment ago may not have been applied.
        Skip::Lost => match shared.look_again(&node.handle) {
            Ok(true) => failed(Failure::Lost, why),
            Ok(false) => soon_or_never(shared, action, Failure::Changed, why),
            Err(why) => later(shared, action, why.code(), why),
        },
    }
}

/// A good copy of the present version is on the tier already.
fn has_copy(shared: &Shared, slot: &Slot, node: &Node) -> Result<bool, EngineError> {
    let Some(version) = node.version else {
        return Ok(false);
    };
    let copies = shared.catalog.copies(version.file, version.version)?;
    let there =
        |c: &catalog::Copy| c.tier == slot.id && c.state == CopyState::Good && c.crc == version.crc;
    Ok(copies.iter().any(there))
}

/// The copies are good whether or not the records are on the files; what is known of those is
/// noted, all at once, before the first action ends.
fn note_records(shared: &Shared, nodes: &[Node], outcomes: &[Outcome]) {
    let mut points = Vec::new();
    for (node, outcome) in nodes.iter().zip(outcomes) {
        let Outcome::Archived(archived) = outcome else {
            continue;
        };
        let copied = &archived.copied;
        match &archived.recorded {
            Ok(recorded) => {
                points.push(catalog::Rebound {
                    node: node.id,
                    version: (copied.file, copied.version),
                    proven: proven(shared, &recorded.seen),
                });
                if let Some(settle) = &recorded.settle {
                    let _ = shared.settles.send(settle.clone());
                }
            }
            Err(why @ Unrecorded::Changed) => {
                tracing::debug!(%why, "archived, and changed since");
                let (with, why) = (
                    Some(proven(shared, &copied.seen)),
                    catalog::TombstoneWhy::Overwrite,
                );
                let (now, soon) = (shared.now(), Durability::Relaxed);
                if let Err(why) = shared.catalog.differs(node.id, with, why, now, soon) {
                    tracing::warn!(%why, "a change could not be noted");
                }
            }
            Err(why) => tracing::debug!(%why, "archived, without a record on the file"),
        }
    }
    if !points.is_empty()
        && let Err(why) = shared.catalog.rebound(points, Durability::Relaxed)
    {
        tracing::warn!(%why, "quiescent points could not be noted; the next look compares sums");
    }
}

pub(super) fn batch_failed(shared: &Shared, slot: &Slot, rows: &[Action], why: &ArchiveError) {
    let is_stopped = || {
        let desk = shared.desks.get(slot.id);
        desk.is_some_and(|desk| desk.is_stopped())
    };
    let code = match why {
        // Its tier writes nothing more: until the process ends it is not tried again.
        ArchiveError::Tier(TierError::Unavailable { .. }) if is_stopped() => {
            let until = super::super::shifted(shared.now(), AT_STOP, true);
            shared.lanes.pause(slot.id, until);
            for action in rows {
                end(shared, action, Finish::PutBack);
            }
            return;
        }
        ArchiveError::Tier(TierError::Full { .. }) | ArchiveError::NoRoom(_) => Failure::NoSpace,
        ArchiveError::Uncut(_) => {
            for action in rows {
                end(shared, action, failed(Failure::NoSpace, why));
            }
            return;
        }
        ArchiveError::Tier(_) => Failure::TierUnavailable,
        ArchiveError::Compose { .. }
        | ArchiveError::Origin { .. }
        | ArchiveError::Receipt { .. }
        | ArchiveError::Commit { .. } => Failure::Internal,
        ArchiveError::Stopped => {
            for action in rows {
                end(shared, action, Finish::PutBack);
            }
            return;
        }
    };
    tracing::warn!(tier = %slot.name, %why, files = rows.len(), "an aggregate was given up");
    let attempts = rows.iter().map(|a| a.attempts).max().unwrap_or(0);
    if matches!(
        why,
        ArchiveError::Tier(TierError::Full { .. } | TierError::Unavailable { .. })
    ) {
        let until = super::super::shifted(shared.now(), pause_after(attempts), true);
        shared.lanes.pause(slot.id, until);
    }
    for action in rows {
        end(shared, action, later(shared, action, code, why));
    }
}
