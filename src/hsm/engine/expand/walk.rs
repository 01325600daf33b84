//! The walk below what was named, on the asker's behalf, and what it hands to the catalog.

use super::super::ask::{Ask, Asker, Forecast, Named, Skipped};
use super::super::cost::{self, Bill};
use super::super::tree::{self, Looked};
use super::super::{EngineError, Shared, jobs, shifted};
use super::CHUNK;
use super::wanted::{Facts, Wanted, wanted};
use crate::catalog::{self, CopyState, Durability, FileState, Met, NewAction, Node, NodeId, Verb};
use crate::error::Failure;
use crate::format::record::{Record, State};
use crate::hsm::backing::{Access, BackingError, How, NodeKind};
use crate::id::{NodeHandle, RequestId};
use std::collections::HashMap;
use std::os::fd::AsFd;

pub(super) enum Out<'a> {
    Forecast(&'a mut Forecast),
    Request {
        request: RequestId,
        pending: Vec<NewAction>,
    },
    /// Pins alone, of a request whose actions come later and say what is refused.
    Pins {
        request: RequestId,
    },
}

/// Files of a forecast that are remembered: of more than these, one that is named twice counts twice.
const COUNTED: usize = 4 << 20;

pub(super) struct Walk<'a> {
    pub(super) shared: &'a Shared,
    pub(super) ask: &'a Ask,
    pub(super) out: Out<'a>,
    /// Nodes whose pins change, many at once: a commit each would take minutes.
    pub(super) rows: Vec<NodeId>,
    /// Files that a job's stage would pin, and their sizes, bytes; of a forecast.
    pub(super) held: Vec<(NodeId, u64)>,
    /// Those that were counted, to count none of them twice.
    pub(super) counted: std::collections::HashSet<NodeId>,
    /// What it would cost, if that is asked.
    pub(super) bill: Option<Bill<'a>>,
}

impl Walk<'_> {
    /// Opens and looks.
    fn open(&self, named: &Named) -> Result<Looked, EngineError> {
        let open = || -> Result<_, EngineError> {
            let hint = tree::hint(self.shared, &named.node)?;
            Ok(self
                .shared
                .backing
                .open_node(&named.node, hint.as_deref(), How::Path))
        };
        let mut opened = open()?;
        if opened.is_err() && self.shared.backing.access() == Access::Paths {
            // Nodes are found by name here, and this one's may be too new for the catalog.
            self.shared.drain_changelog()?;
            opened = open()?;
        }
        let fd = opened?;
        let stat = self.shared.backing.stat(fd.as_fd())?;
        Ok(Looked {
            name: named.given.clone(),
            handle: named.node.clone(),
            fd,
            stat,
        })
    }

    /// All that was named, some at a time: for each file that it knows, the catalog's answer takes longer than the rest.
    /// Whatever stands in the way of one becomes its result; only the catalog's errors are the request's, which is
    /// then tried again.
    pub(super) fn subjects(&mut self) -> Result<(), EngineError> {
        let ask = self.ask;
        ask.subjects
            .chunks(tree::CHUNK)
            .try_for_each(|some| self.named(some))
    }

    fn named(&mut self, some: &[Named]) -> Result<(), EngineError> {
        let mut opened = Vec::new();
        for named in some {
            let looked = self.open(named);
            opened.extend(self.or_unreachable(named, looked)?.map(|l| (named, l)));
        }
        let handles = opened.iter().map(|(_, looked)| &looked.handle);
        let known = self.shared.catalog.nodes_by_handles(handles)?;
        let known: HashMap<_, _> = known.into_iter().map(|n| (n.handle, n.id)).collect();
        let mut placed = Vec::new();
        for (named, looked) in opened {
            let place = match known.get(&looked.handle) {
                Some(id) if looked.stat.kind != NodeKind::Directory => Ok((*id, *id)),
                _ => self.place(&looked),
            };
            let place = self.or_unreachable(named, place)?;
            placed.extend(place.map(|place| (named, looked, place)));
        }
        let ids: Vec<NodeId> = placed.iter().map(|(_, _, (id, _))| *id).collect();
        let met = self.meet(&ids)?;
        let mut directories = Vec::new();
        for ((named, looked, (id, near)), met) in placed.into_iter().zip(met) {
            let done = self.one(&looked, (id, met), near, true);
            let done = self.or_unreachable(named, done)?;
            if done.is_some() && looked.stat.kind == NodeKind::Directory {
                directories.push((named, id));
            }
        }
        // Not before: what was met is not to become old over a long walk.
        for (named, id) in directories {
            let walked = self.directory(named, id);
            self.or_unreachable(named, walked)?;
        }
        Ok(())
    }

    /// What came of something that was named; nothing if it is refused because of it.
    fn or_unreachable<T>(
        &mut self,
        named: &Named,
        came: Result<T, EngineError>,
    ) -> Result<Option<T>, EngineError> {
        match came {
            Ok(came) => Ok(Some(came)),
            Err(why @ EngineError::Catalog(_)) => Err(why),
            Err(why) => self.unreachable(named, &why).map(|()| None),
        }
    }

    /// What was named cannot be looked at (or not to its end): it failed, and says why.
    fn unreachable(&mut self, named: &Named, why: &EngineError) -> Result<(), EngineError> {
        let known = self.shared.catalog.node_by_handle(&named.node)?;
        let id = known.map_or_else(|| nobody(&named.node), |node| node.id);
        let text = if why.code() == Failure::NotFound {
            "it no longer exists".to_owned()
        } else {
            why.to_string()
        };
        let text = format!("{}: {text}", String::from_utf8_lossy(&named.given));
        let at = (&named.node, &named.given[..]);
        self.refuse(at, id, id, why.code(), &text)
    }

    /// The catalog's number of a subject, and of the directory it lies in.
    fn place(&self, looked: &Looked) -> Result<(NodeId, NodeId), EngineError> {
        let shared = self.shared;
        if looked.stat.kind == NodeKind::Directory {
            let id = tree::ensure_directory(shared, &looked.handle)?;
            return Ok((id, id));
        }
        let known = |handle| shared.catalog.node_by_handle(handle);
        if let Some(node) = known(&looked.handle)? {
            return Ok((node.id, node.id));
        }
        let path = match shared.backing.path_of(looked.fd.as_fd()) {
            // It has names, and the kernel has forgotten them (the inode was opened by handle, cold). Whatever
            // was made through the mount is in the changelog, with the name.
            Err(BackingError::Unnamed { .. }) if looked.stat.nlink > 0 => {
                shared.drain_changelog()?;
                if let Some(node) = known(&looked.handle)? {
                    return Ok((node.id, node.id));
                }
                None
            }
            path => Some(path?),
        };
        let mut place = None;
        if let Some(path) = path {
            let (dir, name) = match path.iter().rposition(|b| *b == b'/') {
                Some(at) => (&path[..at], &path[at + 1..]),
                None => (&path[..0], &path[..]),
            };
            let dir = shared.backing.open_beneath(dir)?;
            let parent = tree::ensure_directory(shared, &shared.backing.handle_of(dir.as_fd())?)?;
            place = Some((parent, name.to_vec()));
        }
        let parent = place.as_ref().map(|(parent, _)| *parent);
        let seen = catalog::Sighting {
            handle: looked.handle.clone(),
            attributes: tree::attributes(&looked.stat),
            place,
        };
        let ids = shared.catalog.note(vec![seen], Durability::Relaxed)?;
        let id = ids.first().copied().or(parent);
        let id = id.unwrap_or_else(|| nobody(&looked.handle));
        Ok((id, parent.unwrap_or(id)))
    }

    /// Everything below a directory; a stack instead of recursion, because trees are deep. It holds
    /// no descriptors, because trees are wide.
    fn directory(&mut self, top: &Named, id: NodeId) -> Result<(), EngineError> {
        let mut stack = vec![(top.clone(), id)];
        while let Some((named, id)) = stack.pop() {
            let dir = match self.open(&named) {
                Ok(dir) => dir,
                Err(why @ EngineError::Catalog(_)) => return Err(why),
                // It went since it was listed.
                Err(why) if why.code() == Failure::NotFound => continue,
                Err(why) => {
                    let at = (&named.node, &named.given[..]);
                    self.refuse(at, id, id, why.code(), &why.to_string())?;
                    continue;
                }
            };
            if self.shared.stopping() || self.cancelled()? {
                return Ok(());
            }
            if !self.may_list(&dir) {
                self.refuse(
                    (&dir.handle, &dir.name),
                    id,
                    id,
                    Failure::NotPermitted,
                    "no permission to read the directory",
                )?;
                continue;
            }
            let names = match tree::names(&self.shared.backing, dir.fd.as_fd()) {
                Ok(names) => names,
                Err(why) => {
                    self.refuse(
                        (&dir.handle, &dir.name),
                        id,
                        id,
                        Failure::NotFound,
                        &why.to_string(),
                    )?;
                    continue;
                }
            };
            let mut below = Vec::new();
            for chunk in names.chunks(tree::CHUNK) {
                below.extend(self.entries(&dir, id, chunk)?);
            }
            stack.extend(below.into_iter().rev());
        }
        Ok(())
    }

    fn entries(
        &mut self,
        dir: &Looked,
        id: NodeId,
        names: &[Vec<u8>],
    ) -> Result<Vec<(Named, NodeId)>, EngineError> {
        let shared = self.shared;
        let mut found = Vec::new();
        for name in names {
            match tree::look_at(&shared.backing, dir.fd.as_fd(), name, dir.stat.dev) {
                Ok(looked) => found.extend(looked),
                Err(why) => {
                    let why = EngineError::from(why);
                    let text = format!("{}: {why}", String::from_utf8_lossy(name));
                    self.refuse((&dir.handle, &dir.name), id, id, why.code(), &text)?;
                }
            }
        }
        let seen = found.iter().map(|l| tree::sighting(l, id)).collect();
        let ids = self.shared.catalog.note(seen, Durability::Relaxed)?;
        let mut below = Vec::new();
        let met = self.meet(&ids)?;
        for ((looked, child), met) in found.into_iter().zip(ids).zip(met) {
            self.one(&looked, (child, met), id, false)?;
            if looked.stat.kind == NodeKind::Directory {
                below.push((
                    Named {
                        node: looked.handle,
                        given: looked.name,
                    },
                    child,
                ));
            }
        }
        Ok(below)
    }

    /// Decides about one node.
    fn one(
        &mut self,
        looked: &Looked,
        (id, met): (NodeId, Option<Met>),
        near: NodeId,
        direct: bool,
    ) -> Result<(), EngineError> {
        if self.is_counted(id) {
            return Ok(());
        }
        let facts = self.facts(looked, (id, met), direct)?;
        if self.ask.pins_for_job() && facts.can_be_pinned() {
            self.hold(id, facts.bytes_on_disk())?;
        }
        match wanted(self.ask.verb, &facts) {
            Wanted::Nothing(why) => {
                if let Out::Forecast(forecast) = &mut self.out
                    && let Some(why) = why
                {
                    skip(forecast, &looked.name, None, why);
                }
                Ok(())
            }
            Wanted::Refuse(code, why) => {
                self.refuse((&looked.handle, &looked.name), id, near, code, why)
            }
            Wanted::Now => self.now(id, looked.stat.size),
            Wanted::Act { bytes, place } => {
                if let (Out::Forecast(forecast), Verb::Stage) = (&mut self.out, self.ask.verb) {
                    forecast.need.add(looked.stat.uid, looked.stat.gid, bytes);
                }
                let tiers = self.tiers_for(&facts);
                self.charge(&facts, &tiers, bytes)?;
                for tier in tiers {
                    self.act(NewAction {
                        node: id,
                        handle: looked.handle.clone(),
                        tier,
                        bytes,
                        place,
                        near,
                        refused: None,
                    })?;
                }
                Ok(())
            }
        }
    }

    /// A forecast has met it before: by another name, or named twice. What is named alone is not remembered.
    fn is_counted(&mut self, id: NodeId) -> bool {
        let forecast = matches!(self.out, Out::Forecast(_));
        let remembers = self.ask.pins_for_job() || self.ask.subjects.len() > 1;
        forecast && remembers && self.counted.len() < COUNTED && !self.counted.insert(id)
    }

    /// Counts what a job would pin.
    fn hold(&mut self, id: NodeId, size: u64) -> Result<(), EngineError> {
        if matches!(self.out, Out::Forecast(_)) {
            self.held.push((id, size));
        }
        if self.held.len() < CHUNK {
            return Ok(());
        }
        self.count_held()
    }

    pub(super) fn count_held(&mut self) -> Result<(), EngineError> {
        let held = std::mem::take(&mut self.held);
        if let Out::Forecast(forecast) = &mut self.out {
            let uid = self.ask.asker.uid;
            self.shared.count_pins(&held, uid, &mut forecast.pins)?;
        }
        Ok(())
    }

    /// Puts what is to be done about a file on the bill.
    fn charge(
        &mut self,
        facts: &Facts,
        tiers: &[Option<crate::id::TierId>],
        bytes: u64,
    ) -> Result<(), EngineError> {
        let Some(bill) = &mut self.bill else {
            return Ok(());
        };
        match self.ask.verb {
            Verb::Stage => bill.read(&facts.copies, bytes, true),
            Verb::Archive => tiers.iter().flatten().try_for_each(|tier| {
                bill.keep(*tier, bytes);
                // An archive restores nothing: it waits for a copy that can be read.
                match facts.released() {
                    true => bill.read(&facts.copies, bytes, false),
                    false => Ok(()),
                }
            }),
            _ => Ok(()),
        }
    }

    /// Rows of nodes, and their copies where the verb asks for them.
    fn meet(&self, ids: &[NodeId]) -> Result<Vec<Option<Met>>, EngineError> {
        let copies = matches!(self.ask.verb, Verb::Archive | Verb::Stage | Verb::Remove);
        Ok(self.shared.catalog.meet_by_number(ids, copies)?)
    }

    fn facts(
        &self,
        looked: &Looked,
        (id, met): (NodeId, Option<Met>),
        direct: bool,
    ) -> Result<Facts, EngineError> {
        let shared = self.shared;
        let record = if looked.stat.kind == NodeKind::Regular {
            match shared.backing.record(looked.fd.as_fd()) {
                Ok(found) => found.filter(|r| {
                    crate::hsm::backing::belongs_to(r, shared.backing.fs(), &looked.handle)
                }),
                Err(_) => None,
            }
        } else {
            None
        };
        let pinned = match self.ask.verb {
            Verb::Release => shared.catalog.pinned_until(id, shared.now())?.is_some(),
            _ => false,
        };
        let (node, copies) = met.map_or((None, Vec::new()), |met| (Some(met.node), met.copies));
        let crc = node.as_ref().and_then(|n| n.version).map(|v| v.crc);
        let good = || {
            let good = |c: &&catalog::Copy| c.state == CopyState::Good && Some(c.crc) == crc;
            copies.iter().filter(good)
        };
        let lost =
            self.ask.verb == Verb::Stage && self.is_lost(looked, node.as_ref(), record.as_ref());
        Ok(Facts {
            copies: if self.bill.is_some() {
                cost::places(good(), record.as_ref())
            } else {
                Vec::new()
            },
            stat: looked.stat,
            record,
            node,
            pinned,
            lost,
            direct,
            owned: self.ask.asker.owns(looked.stat.uid),
            for_job: matches!(self.out, Out::Pins { .. }) && self.ask.job.is_some(),
            readable: self.may_read(looked),
            min_release: shared.settings.min_release,
            trusted_from: shared.incarnation,
            stored: copies.iter().map(|c| c.stored_len).max(),
            lies_there: copies.iter().any(|c| self.tier_choice().contains(&c.tier)),
            tiers_wanted: self.tier_choice(),
            tiers_have: good().map(|c| c.tier).collect(),
        })
    }

    /// Are a file's data on tiers alone, and its stub is gone? As the row says, where nobody can
    /// tell.
    fn is_lost(&self, looked: &Looked, node: Option<&Node>, record: Option<&Record>) -> bool {
        let (shared, stub) = (
            self.shared,
            record.is_some_and(|r| r.state != State::Resident),
        );
        let gone = |n: &Node| matches!(n.state, FileState::Released | FileState::Lost);
        let lost = node.is_some_and(|n| n.state == FileState::Lost);
        !stub
            && node.is_some_and(gone)
            && shared.looks_lost(&looked.handle, record, &looked.stat)
            && shared
                .is_lost(&looked.handle, looked.fd.as_fd())
                .unwrap_or(lost)
    }

    fn tier_choice(&self) -> Vec<crate::id::TierId> {
        match &self.ask.tier {
            Some(name) => self
                .shared
                .slot_named(name)
                .map(|s| vec![s.id])
                .unwrap_or_default(),
            None => self.shared.archive_tiers(),
        }
    }

    fn tiers_for(&self, facts: &Facts) -> Vec<Option<crate::id::TierId>> {
        if self.ask.verb == Verb::Archive {
            facts.tiers_missing().into_iter().map(Some).collect()
        } else if self.ask.tier.is_some() {
            self.tier_choice().into_iter().map(Some).collect()
        } else {
            vec![None]
        }
    }

    fn may_read(&self, looked: &Looked) -> bool {
        let asked = self.ask.verb == Verb::Stage || matches!(self.out, Out::Pins { .. });
        !asked || readable(&self.ask.asker, looked, rustix::fs::Access::READ_OK)
    }

    fn may_list(&self, dir: &Looked) -> bool {
        let both = rustix::fs::Access::READ_OK | rustix::fs::Access::EXEC_OK;
        readable(&self.ask.asker, dir, both)
    }

    /// Pins and flags are set while walking: they are rows, not work.
    fn now(&mut self, id: NodeId, size: u64) -> Result<(), EngineError> {
        if let Out::Forecast(forecast) = &mut self.out {
            forecast.files += 1;
            forecast.bytes += size;
            return Ok(());
        }
        match self.ask.verb {
            Verb::Pin | Verb::Unpin => {
                self.rows.push(id);
                if self.rows.len() >= CHUNK {
                    self.set_pins()
                } else {
                    Ok(())
                }
            }
            Verb::Set | Verb::Clear => {
                for flag in &self.ask.flags {
                    let on = self.ask.verb == Verb::Set;
                    // Durable with the seal, before which nobody is told that it is done.
                    self.shared
                        .catalog
                        .set_flag(id, *flag, on, Durability::Relaxed)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn set_pins(&mut self) -> Result<(), EngineError> {
        let (catalog, ask, nodes) = (
            &self.shared.catalog,
            self.ask,
            std::mem::take(&mut self.rows),
        );
        let holder = jobs::holder(ask.asker.uid, ask.job.as_deref());
        if nodes.is_empty() {
            return Ok(());
        }
        if ask.verb == Verb::Unpin {
            catalog.unpin(nodes, &holder)?;
            return Ok(());
        }
        let how_long = ask
            .pin_for
            .unwrap_or(std::time::Duration::from_secs(24 * 3600));
        let expires = shifted(self.shared.now(), how_long, true);
        let pin = |node: &NodeId| catalog::Pin {
            node: *node,
            holder: holder.clone(),
            expires,
        };
        catalog.pin(nodes.iter().map(pin).collect())?;
        // Who cancelled it meanwhile has dropped the pins that they saw.
        if let Out::Pins { request } = self.out
            && self.shared.was_cancelled(request)?
        {
            catalog.unpin(nodes, &holder)?;
        }
        Ok(())
    }

    fn refuse(
        &mut self,
        (handle, name): (&NodeHandle, &[u8]),
        id: NodeId,
        near: NodeId,
        code: Failure,
        why: &str,
    ) -> Result<(), EngineError> {
        let failure = catalog::Failure {
            code: code.as_str().to_owned(),
            text: why.to_owned(),
        };
        match &mut self.out {
            Out::Forecast(forecast) => {
                skip(forecast, name, Some(code), why);
                return Ok(());
            }
            Out::Pins { .. } => return Ok(()),
            Out::Request { .. } => {}
        }
        self.act(NewAction {
            node: id,
            handle: handle.clone(),
            tier: None,
            bytes: 0,
            place: None,
            near,
            refused: Some(failure),
        })
    }

    fn act(&mut self, action: NewAction) -> Result<(), EngineError> {
        match &mut self.out {
            Out::Forecast(forecast) => {
                forecast.files += 1;
                forecast.bytes += action.bytes;
                Ok(())
            }
            Out::Pins { .. } => Ok(()),
            Out::Request { pending, .. } => {
                pending.push(action);
                if pending.len() >= CHUNK {
                    self.flush()
                } else {
                    Ok(())
                }
            }
        }
    }

    pub(super) fn flush(&mut self) -> Result<(), EngineError> {
        self.set_pins()?;
        if let Out::Request { request, pending } = &mut self.out
            && !pending.is_empty()
        {
            let actions = std::mem::take(pending);
            self.shared.catalog.add_actions(
                *request,
                actions,
                self.shared.now(),
                Durability::Full,
            )?;
            self.shared.bell.ring();
        }
        Ok(())
    }

    fn cancelled(&self) -> Result<bool, EngineError> {
        match &self.out {
            Out::Forecast(_) => Ok(false),
            Out::Request { request, .. } | Out::Pins { request } => {
                self.shared.was_cancelled(*request)
            }
        }
    }
}

/// Stands in an action for the number of a node that the catalog does not know: below all numbers
/// that it gives, and another one for every inode that is named.
pub(super) fn nobody(handle: &NodeHandle) -> NodeId {
    let bytes = handle.kind.to_le_bytes().into_iter();
    let hash = bytes
        .chain(handle.bytes.iter().copied())
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        });
    NodeId(-1 - (hash >> 2).cast_signed())
}

fn skip(forecast: &mut Forecast, name: &[u8], code: Option<Failure>, why: &str) {
    forecast.skipped_files += 1;
    if forecast.skipped.len() < 1000 {
        forecast.skipped.push(Skipped {
            path: name.to_vec(),
            code,
            why: why.to_owned(),
        });
    }
}

/// Asks the kernel, under the asker's own credentials, so that modes, groups and ACLs count.
fn readable(asker: &Asker, looked: &Looked, access: rustix::fs::Access) -> bool {
    if asker.uid == 0 || *asker == Asker::ENGINE {
        return true;
    }
    cairn_fuse::may_access(
        looked.fd.as_fd(),
        (asker.uid, asker.gid, &asker.groups),
        access,
    )
}
