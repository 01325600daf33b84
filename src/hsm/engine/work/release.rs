//! The release lane: P3 for each file, and a look at what a batch of punches really freed.

use super::super::copies::Ahead;
use super::super::{EngineError, Shared, tree};
use super::{busy, end, failed, later, soon_or_never};
use crate::catalog::{
    self, Action, Durability, FileState, Finish, Node, Origin, Planned, Proven, TombstoneWhy,
    Version,
};
use crate::error::Failure;
use crate::format::record::{Record, State};
use crate::hsm::backing::{BackingError, FileStat, How};
use crate::hsm::recall::RecallError;
use crate::hsm::release::{
    Gain, Order, Permit, Proof, Recovered, Refusal, Released, recover as set_in_order,
    release as punch,
};
use crate::hsm::version::{Seen, Trust};
use std::os::fd::AsFd;
use std::sync::Arc;

pub(super) fn release(shared: &Arc<Shared>, actions: &[Action]) {
    let refused = |code: Failure, why: &str| {
        for action in actions {
            end(shared, action, failed(code, why));
        }
    };
    if let Err(why) = shared.release_allowed() {
        return refused(Failure::NotPermitted, &why);
    }
    let Some(gate) = shared.late.gate.get() else {
        return refused(
            Failure::NoInstance,
            "there is no mount to shut users out of",
        );
    };
    let permit = match Permit::of(&shared.backing, shared.settings.unsafe_open_backing) {
        Ok(permit) => permit,
        Err(why) => return refused(Failure::NotPermitted, &why.to_string()),
    };
    let mut gain = Gain::begin(&shared.backing).ok();
    for action in actions {
        if shared.stopping() {
            end(shared, action, Finish::PutBack);
            continue;
        }
        let (finish, freed) = one(shared, permit, &**gate, action);
        if let Finish::Failed(why) = &finish {
            let busy = why.code == Failure::Busy.as_str();
            shared.refused.note(action.node, busy, shared.now());
        }
        if let Some(gain) = &mut gain {
            gain.add(freed);
        }
        end(shared, action, finish);
    }
    if let Some(shortfall) = gain.and_then(|g| g.end(&shared.backing).ok().flatten()) {
        stop_releasing(shared, actions, &shortfall.to_string());
    }
}

/// Blocks were punched and did not come free (a snapshot holds them): going on is senseless.
fn stop_releasing(shared: &Shared, actions: &[Action], why: &str) {
    tracing::error!(%why, "releases stop: punching frees no space here");
    let requests: std::collections::BTreeSet<_> = actions.iter().map(|a| a.request).collect();
    for request in requests {
        let by_policy = shared
            .catalog
            .request(request)
            .is_ok_and(|r| r.is_some_and(|r| r.origin == Origin::Policy));
        if by_policy && let Err(why) = shared.cancel(request) {
            tracing::warn!(%why, "the policy's request could not be cancelled");
        }
    }
}

fn one(
    shared: &Shared,
    permit: Permit<'_>,
    gate: &dyn cairn_fuse::Gate,
    action: &Action,
) -> (Finish, u64) {
    let Some(_claim) = shared.lanes.claim(&action.handle) else {
        return (busy(shared, action), 0);
    };
    if shared
        .recaller()
        .is_some_and(|r| r.is_running(&action.handle))
    {
        return (
            soon_or_never(shared, action, Failure::Busy, "it is being recalled"),
            0,
        );
    }
    let node = match shared.catalog.node_by_handle(&action.handle) {
        Ok(Some(node)) => node,
        Ok(None) => return (Finish::Done, 0),
        Err(why) => return (later(shared, action, Failure::Internal, why), 0),
    };
    match re_check(shared, &node) {
        Ok(None) => {}
        Ok(Some((code, why))) => return (failed(code, why), 0),
        Err(why) => return (later(shared, action, why.code(), why), 0),
    }
    let trust = trust(shared, &node);
    let seen = node.proven.map(|p| Seen {
        node: node.handle.clone(),
        size: p.size,
        ctime: p.ctime,
    });
    let ahead = match look_ahead(shared, &node) {
        Ok(ahead) => ahead,
        Err(why) => return (later(shared, action, why.code(), why), 0),
    };
    let hint = tree::hint(shared, &node.handle).ok().flatten();
    let order = Order {
        node: &node.handle,
        hint: hint.as_deref(),
        min_size: shared.settings.min_release,
        copies: shared.copies_asked() as usize,
        seen: seen
            .as_ref()
            .zip(node.version)
            .map(|(seen, version)| Proof {
                file: version.file,
                version: version.version,
                seen,
                trust,
            }),
        prove: &|record| shared.prove(record, &ahead),
        note: &|| announce(shared, &node),
    };
    // What the catalog's writer has in its queue now is not waited for under the lease.
    if let Err(why) = shared.catalog.settle(Durability::Relaxed) {
        return (later(shared, action, Failure::Internal, why), 0);
    }
    let mut done = punch(permit, gate, &order);
    take_back(shared, &node, &done);
    if matches!(&done, Err(Refusal::Backing(full)) if full.is_full())
        && shared.reserve.backing.give_up()
    {
        // P13: what is kept back for this; the punch makes more room than the stub takes.
        tracing::warn!("the backing is full: its ballast is given up for a stub");
        done = punch(permit, gate, &order);
        take_back(shared, &node, &done);
    }
    match done {
        Ok(released) => (note(shared, &node, &released), released.freed),
        Err(why) if ahead.missed() => (moved(shared, action, &node, &why), 0),
        Err(why) => (refusal(shared, action, &node, &why), 0),
    }
}

/// Its copies moved while it was released, and what was read before says nothing of them.
fn moved(shared: &Shared, action: &Action, node: &Node, why: &Refusal) -> Finish {
    match why {
        Refusal::Copies { .. } => soon_or_never(shared, action, Failure::Busy, why),
        why => refusal(shared, action, node, why),
    }
}

fn trust(shared: &Shared, node: &Node) -> Trust {
    if node.is_suspect(&shared.incarnation) {
        Trust::Suspect
    } else {
        Trust::Sound
    }
}

/// What takes reading a tier, before the file's users are shut out.
fn look_ahead(shared: &Shared, node: &Node) -> Result<Ahead, EngineError> {
    let Some(version) = node.version else {
        return Ok(Ahead::default());
    };
    let copies = shared.catalog.copies(version.file, version.version)?;
    shared.look_ahead(copies.iter())
}

/// Brings a file into order whose release or recall was cut short: whole again, or released. The
/// caller holds no claim on it, or is the release that found it so.
pub(in crate::hsm::engine) fn recover(shared: &Shared, node: &crate::id::NodeHandle) {
    let Some(gate) = shared.late.gate.get() else {
        return;
    };
    if shared.recaller().is_some_and(|r| r.is_running(node)) {
        return;
    }
    let hint = tree::hint(shared, node).ok().flatten();
    match set_in_order(&shared.backing, &**gate, node, hint.as_deref()) {
        Ok(found @ (Recovered::Resident(_) | Recovered::Released(_))) => {
            tracing::info!(
                ?node,
                "a release or recall that was cut short is in order again"
            );
            let (Recovered::Resident(stamp) | Recovered::Released(stamp)) = &found else {
                return;
            };
            if matches!(found, Recovered::Resident(_)) {
                is_whole_again(shared, node, &stamp.record);
            }
            if let Some(settle) = &stamp.settle {
                let _ = shared.settles.send(settle.clone());
            }
        }
        Ok(Recovered::Nothing | Recovered::Truncated) => {}
        Ok(Recovered::Conflict) => {
            tracing::error!(?node, "somebody wrote into a stub: reads give EIO")
        }
        Err(why) => tracing::debug!(?node, %why, "could not be brought into order now"),
    }
    let backing = &shared.backing;
    if let Ok(fd) = backing.open_node(node, hint.as_deref(), How::Path) {
        backing.was_touched(node, fd.as_fd());
    }
}

/// A release that was cut short had noted its file as released; it is resident.
fn is_whole_again(shared: &Shared, node: &crate::id::NodeHandle, record: &Record) {
    let told = shared.catalog.node_by_handle(node).and_then(|row| {
        let version = Some((record.file, record.version));
        let row = row.filter(|r| r.state == FileState::Released && r.planned().version == version);
        row.map_or(Ok(true), |row| {
            let (id, planned) = (row.id, row.planned());
            shared
                .catalog
                .swap_state(id, planned, (FileState::Archived, row.note), shared.now())
        })
    });
    if let Err(why) = told {
        tracing::warn!(?node, %why, "that it is resident again could not be noted; the next scan finds it");
    }
}

/// The row says *released* before the first block goes, so that whoever finds the file without its stub
/// knows (P6). A row that could not be written behind the punch would say that its holes are data.
pub(in crate::hsm::engine) fn announce(shared: &Shared, node: &Node) -> Result<(), String> {
    // From here on a missing record is a missing stub. Nobody looks at the file meanwhile: the lease
    // keeps them out.
    shared.believed.forget(&node.handle);
    let told = shared.catalog.swap_state(
        node.id,
        node.planned(),
        (FileState::Released, None),
        shared.now(),
    );
    match told {
        Ok(true) => Ok(()),
        Ok(false) => Err("the catalog has other news of it".to_owned()),
        Err(why) => Err(why.to_string()),
    }
}

/// The row is as it was, where a release ended with the file still resident.
pub(in crate::hsm::engine) fn take_back(
    shared: &Shared,
    node: &Node,
    done: &Result<Released, Refusal>,
) {
    if done.is_ok() || node.state == FileState::Released {
        return;
    }
    let planned = Planned {
        state: FileState::Released,
        ..node.planned()
    };
    let resident = || {
        let hint = tree::hint(shared, &node.handle).ok().flatten();
        let fd = shared
            .backing
            .open_node(&node.handle, hint.as_deref(), How::Path)?;
        let record = shared.backing.record(fd.as_fd())?;
        Ok::<_, BackingError>(record.is_none_or(|r| r.state == State::Resident))
    };
    if resident().unwrap_or(false)
        && let Err(why) = shared.catalog.swap_state(
            node.id,
            planned,
            (node.state, node.note.clone()),
            shared.now(),
        )
    {
        tracing::warn!(%why, "a release that was not done stays noted; the next scan finds it");
    }
}

/// What may have changed since the plan was made.
fn re_check(
    shared: &Shared,
    node: &Node,
) -> Result<Option<(Failure, &'static str)>, crate::hsm::engine::EngineError> {
    if node.norelease {
        return Ok(Some((Failure::NotPermitted, "it is set norelease")));
    }
    if shared
        .catalog
        .pinned_until(node.id, shared.now())?
        .is_some()
    {
        return Ok(Some((Failure::Busy, "it is pinned")));
    }
    Ok(None)
}

fn note(shared: &Shared, node: &Node, released: &Released) -> Finish {
    let noted = shared
        .backing
        .open_node(
            &node.handle,
            tree::hint(shared, &node.handle).ok().flatten().as_deref(),
            How::Path,
        )
        .and_then(|fd| shared.backing.stat(fd.as_fd()));
    match noted {
        Ok(stat) => {
            let proven = Proven {
                size: released.record.size,
                ctime: released.ctime,
                boot: shared.incarnation.boot,
            };
            let noted = note_stub(shared, node, released, &stat, proven);
            if let Err(why) = noted {
                tracing::warn!(%why, "a release could not be noted; the next scan finds it");
            }
        }
        Err(why) => tracing::debug!(%why, "released, and gone since"),
    }
    if let Some(settle) = &released.settle {
        let _ = shared.settles.send(settle.clone());
    }
    Finish::Done
}

/// The row follows the stub, which is the truth.
fn note_stub(
    shared: &Shared,
    node: &Node,
    released: &Released,
    stat: &FileStat,
    proven: Proven,
) -> Result<(), catalog::CatalogError> {
    let record = &released.record;
    if node.planned().version == Some((record.file, record.version)) {
        let (mut planned, seen) = (node.planned(), tree::attributes(stat));
        planned.state = FileState::Released;
        return shared
            .catalog
            .released(node.id, planned, seen, proven, Durability::Relaxed);
    }
    // A later version was archived whose record could not be written; what was released is this.
    let known = catalog::Known {
        node: node.id,
        state: FileState::Released,
        version: Version {
            file: record.file,
            version: record.version,
            crc: record.crc,
            blocks_crc: record.blocks_crc,
        },
        copies: shared.copies_of_record(record),
        under: None,
    };
    shared
        .catalog
        .learn(vec![known], shared.now(), Durability::Relaxed)
}

/// The caller has the claim.
fn lacks_record(shared: &Shared, node: &Node) -> Result<(), crate::hsm::engine::EngineError> {
    let hint = tree::hint(shared, &node.handle)?;
    let fd = shared
        .backing
        .open_node(&node.handle, hint.as_deref(), How::Path)?;
    shared.lacks_record(node, fd.as_fd())
}

fn changed(shared: &Shared, node: &Node, why: &Refusal) -> Finish {
    let noted = shared.catalog.differs(
        node.id,
        node.proven,
        TombstoneWhy::Overwrite,
        shared.now(),
        Durability::Relaxed,
    );
    if let Err(why) = noted {
        tracing::warn!(%why, "a change could not be noted");
    }
    failed(Failure::Changed, why)
}

fn refusal(shared: &Shared, action: &Action, node: &Node, why: &Refusal) -> Finish {
    match why {
        Refusal::InUse | Refusal::NotQuiet(_) => soon_or_never(shared, action, Failure::Busy, why),
        // Perhaps half-way, by a process that was stopped in the middle of it.
        Refusal::AlreadyReleased => {
            recover(shared, &node.handle);
            Finish::Done
        }
        Refusal::Vanished => Finish::Done,
        // Its holes are no new data: the catalog's copies are those of the file.
        Refusal::Dirty { .. } if matches!(node.state, FileState::Released | FileState::Lost) => {
            match shared.look_again(&node.handle) {
                Ok(true) => failed(Failure::Lost, RecallError::Lost),
                Ok(false) => changed(shared, node, why),
                Err(why) => later(shared, action, why.code(), why),
            }
        }
        Refusal::Dirty { .. } => changed(shared, node, why),
        Refusal::NotArchived => {
            if let Err(why) = lacks_record(shared, node) {
                tracing::warn!(%why, "a missing record could not be noted");
            }
            failed(Failure::NoGoodCopy, why)
        }
        Refusal::Copies { .. } | Refusal::Unproven(_) => failed(Failure::NoGoodCopy, why),
        // A full state directory, most often; or news of the file that are not committed yet.
        Refusal::Unnoted(_) => soon_or_never(shared, action, Failure::Busy, why),
        Refusal::Foreign => failed(Failure::Foreign, why),
        Refusal::Small(_) | Refusal::FreesNothing(_) => failed(Failure::Usage, why),
        Refusal::Backing(full) if full.is_full() => later(shared, action, Failure::NoSpace, why),
        Refusal::Backing(_) => soon_or_never(shared, action, Failure::Internal, why),
    }
}
