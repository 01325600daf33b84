//! The state of files for `cairn state`, `ls` and `why`: seen on the asker's behalf.

use super::told;
use super::views::{verb_out, when};
use crate::catalog::{Action, ActionState};
use crate::error::Failure;
use crate::hsm::backing::NodeKind;
use crate::hsm::engine::ask::Asker;
use crate::hsm::engine::{Engine, EngineError, FileReport};
use crate::id::NodeHandle;
use crate::server::control::NodeSink;
use crate::server::wire::{
    CopyView, GivenPath, NodeState, NodeType, PinView, StateFlag, Waiting, Walk, Why,
};
use rustix::fs::Access;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

/// Who asks about nodes.
pub(super) struct ForWhom {
    asker: Asker,
    /// They rule the instance.
    rules: bool,
}

impl ForWhom {
    pub(super) const fn new(asker: Asker, rules: bool) -> Self {
        Self { asker, rules }
    }

    pub(super) const fn rules(&self) -> bool {
        self.rules
    }

    /// May they do that to what the descriptor stands for?
    pub(super) fn may(&self, fd: &OwnedFd, access: Access) -> bool {
        may(&self.asker, fd, access)
    }

    /// The number of a request, if the caller may know that it works on the file.
    fn request(&self, engine: &Engine, action: &Action) -> Option<u64> {
        let id = action.request;
        let theirs = || {
            let report = engine.request(id, 0);
            report.is_ok_and(|report| report.row.uid == self.asker.uid)
        };
        (self.rules || theirs()).then_some(id.0)
    }
}

/// Hands the state of a node, its children or its tree to `sink`.
pub(super) fn walk(
    engine: &Engine,
    node: &NodeHandle,
    given: &[u8],
    walk: Walk,
    whom: &ForWhom,
    sink: NodeSink<'_>,
) -> Result<(), EngineError> {
    let fd = engine.open(node)?;
    let top = GivenPath::new(given);
    let report = engine.report(fd.as_fd())?;
    let directory = report.stat.kind == NodeKind::Directory;
    if walk != Walk::Children || !directory {
        let going_on = sink(state(engine, &fd, &report, top.clone(), whom));
        if !going_on || walk == Walk::Itself || !directory {
            return Ok(());
        }
    }
    // Directories that wait for their turn are held by name below an open one: a descriptor each
    // would let one listing of a wide directory take all that the server may have.
    let mut next = Some((fd, top));
    let mut stack: Vec<(Rc<OwnedFd>, Vec<u8>, GivenPath)> = Vec::new();
    while let Some((dir, path)) = next.take() {
        if may(&whom.asker, &dir, Access::READ_OK | Access::EXEC_OK) {
            let dir = Rc::new(dir);
            let mut below = Vec::new();
            for name in engine.names(dir.as_fd())? {
                let Some((child, report)) = look(engine, &dir, &name) else {
                    continue;
                };
                let at = path.join(&name);
                if !sink(state(engine, &child, &report, at.clone(), whom)) {
                    return Ok(());
                }
                if walk == Walk::Tree && report.stat.kind == NodeKind::Directory {
                    below.push((Rc::clone(&dir), name, at));
                }
            }
            stack.extend(below.into_iter().rev());
        }
        while let (None, Some((parent, name, path))) = (&next, stack.pop()) {
            next = look(engine, &parent, &name)
                .filter(|(_, report)| report.stat.kind == NodeKind::Directory)
                .map(|(fd, _)| (fd, path));
        }
    }
    Ok(())
}

/// An entry of a directory; `None` if it is no longer there or cannot be looked at.
fn look(engine: &Engine, dir: &OwnedFd, name: &[u8]) -> Option<(OwnedFd, FileReport)> {
    let found = engine.entry(dir.as_fd(), name).and_then(|fd| {
        fd.map(|fd| engine.report(fd.as_fd()).map(|report| (fd, report)))
            .transpose()
    });
    found.unwrap_or_else(|why| {
        tracing::debug!(%why, "an entry is left out of a listing");
        None
    })
}

/// May they do that to what the descriptor stands for?
pub(super) fn may(asker: &Asker, fd: &OwnedFd, access: Access) -> bool {
    asker.uid == 0
        || cairn_fuse::may_access(fd.as_fd(), (asker.uid, asker.gid, &asker.groups), access)
}

fn flags(report: &FileReport) -> Vec<StateFlag> {
    let node = report.node.as_ref();
    let states = [
        (StateFlag::Exists, report.was_archived()),
        (
            StateFlag::Archived,
            report.was_archived() && !report.is_dirty(),
        ),
        (StateFlag::Dirty, report.was_archived() && report.is_dirty()),
        (StateFlag::Released, report.is_released()),
        (StateFlag::NoArchive, node.is_some_and(|n| n.noarchive)),
        (StateFlag::NoRelease, node.is_some_and(|n| n.norelease)),
        (StateFlag::Lost, report.is_lost()),
        (StateFlag::Foreign, report.foreign),
        (StateFlag::Conflict, report.conflict),
    ];
    states
        .into_iter()
        .filter(|(_, on)| *on)
        .map(|(flag, _)| flag)
        .collect()
}

fn state(
    engine: &Engine,
    fd: &OwnedFd,
    report: &FileReport,
    path: GivenPath,
    whom: &ForWhom,
) -> NodeState {
    let stat = &report.stat;
    let copy = |c: &crate::catalog::Copy| CopyView {
        tier: engine
            .tiers()
            .iter()
            .find(|t| t.id == c.tier)
            .map_or_else(|| c.tier.to_string(), |t| t.name.clone()),
        aggregate: c.aggregate.to_string(),
        version: c.version.0,
    };
    let target = match stat.kind {
        NodeKind::Symlink => rustix::fs::readlinkat(fd, "", Vec::new())
            .ok()
            .map(|t| t.to_string_lossy().into_owned()),
        _ => None,
    };
    NodeState {
        path,
        kind: match stat.kind {
            NodeKind::Regular => NodeType::File,
            NodeKind::Directory => NodeType::Directory,
            NodeKind::Symlink => NodeType::Symlink,
            NodeKind::Fifo | NodeKind::Socket | NodeKind::CharDevice | NodeKind::BlockDevice => {
                NodeType::Special
            }
        },
        mode: stat.mode,
        nlink: stat.nlink,
        uid: stat.uid,
        gid: stat.gid,
        size: stat.size,
        on_disk: stat.blocks.saturating_mul(512),
        mtime_s: stat.mtime.sec,
        mtime_ns: stat.mtime.nsec,
        target,
        flags: flags(report),
        version: report.record.as_ref().map_or(0, |r| r.version.0),
        copies: report.copies.iter().map(copy).collect(),
        pins: report
            .pins
            .iter()
            .map(|p| PinView {
                holder: p.holder.clone(),
                until: when(p.expires),
            })
            .collect(),
        request: report
            .open
            .iter()
            .find_map(|action| whom.request(engine, action)),
    }
}

/// Where a file waits for its turn at a drive.
fn at_drive(told: &crate::hsm::tape::desk::Told) -> String {
    let before = match told.ahead {
        0 => "none before this one".to_owned(),
        1 => "1 file before this one".to_owned(),
        many => format!("{many} files before this one"),
    };
    format!(
        "cartridge {} in drive {}, {before}",
        told.cartridge, told.drive
    )
}

/// What a file waits for, and which rule holds it where it is.
pub(super) fn why(
    engine: &Engine,
    node: &NodeHandle,
    given: &[u8],
    whom: &ForWhom,
) -> Result<Why, EngineError> {
    let fd = engine.open(node)?;
    let report = engine.report(fd.as_fd())?;
    let mut because = Vec::new();
    if let Some(node) = &report.node {
        let note = node.note.clone();
        because.extend(note.map(|text| told::reason(Failure::Internal, text, whom.rules)));
        if report.stat.kind == NodeKind::Regular {
            let text = engine.explain(node)?;
            // The first line is the file's present path, which may be where nobody else can look.
            let lines = text.lines().skip(usize::from(!whom.rules));
            because.extend(lines.map(str::to_owned));
        }
    } else {
        because.push("not yet known to policy: the background scan has not come to it".into());
    }
    let told = engine.recaller().and_then(|recaller| recaller.told(node));
    let restoring = engine.recaller().and_then(|r| r.restoring(node));
    let restored =
        restoring.map(|_| "its object is being restored by the tier's service".to_owned());
    let drive = told.as_ref().map(at_drive).or(restored);
    let left = told.as_ref().map(|told| told.left).or(restoring.flatten());
    let asked = |id| engine.request(id, 0).ok().map(|r| r.row.created);
    let waiting = report.open.iter().map(|action| Waiting {
        verb: verb_out(action.verb),
        on: match (action.state, &action.failure) {
            (ActionState::Running, _) if drive.is_some() => drive.clone().unwrap_or_default(),
            (ActionState::Running, _) => "it is being worked on".into(),
            (_, Some(failure)) => told::written(&failure.code, &failure.text, whom.rules),
            _ => "its turn".into(),
        },
        since: when(asked(action.request).unwrap_or_else(crate::hsm::engine::now)),
        eta_s: left.map(|left| left.as_secs().max(1)),
        request: whom.request(engine, action),
    });
    let mut waiting: Vec<Waiting> = waiting.collect();
    if engine.recaller().is_some_and(|r| r.is_running(node)) && waiting.is_empty() {
        waiting.push(Waiting {
            verb: crate::server::wire::Verb::Stage,
            on: drive.unwrap_or_else(|| "its data are coming back for a reader".into()),
            since: when(crate::hsm::engine::now()),
            eta_s: left.map(|left| left.as_secs().max(1)),
            request: None,
        });
    }
    Ok(Why {
        path: GivenPath::new(given),
        flags: flags(&report),
        waiting,
        because,
    })
}
