//! From what was named to actions: directories are taken whole, links are not followed, other
//! filesystems are not entered. The walk runs on the asker's behalf: what they may not read or do
//! not own becomes a failed action with the reason, never a silent omission.

mod wanted;

use super::ask::{Ask, Asker, Forecast, Named, Options};
use super::tree::{self, Looked};
use super::{EngineError, Shared};
use crate::catalog::{self, Durability, NewAction, NewRequest, NodeId, Submitted, Verb};
use crate::error::Failure;
use crate::hsm::backing::{Access, How, NodeKind};
use crate::id::RequestId;
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use wanted::{Facts, Wanted, wanted};

/// How long the next part of a request may take to come.
const PATIENCE: Duration = Duration::from_secs(60);
/// Actions given to the catalog at once.
const CHUNK: usize = 2000;
/// How long after a failure a request's expansion is tried again.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(10);

/// A request waiting to be expanded.
pub(super) struct Job {
    request: RequestId,
    ask: Ask,
}

/// Queues of requests to be expanded; stages have threads of their own, so that a user's stage
/// does not wait for the walk of somebody's archive.
pub(super) struct Expander {
    stages: Sender<Job>,
    others: Sender<Job>,
    wishes: Sender<(crate::id::NodeHandle, u32)>,
}

/// The far ends, for the threads that expand.
pub(super) struct Jobs {
    pub(super) stages: Receiver<Job>,
    pub(super) others: Receiver<Job>,
    pub(super) wishes: Receiver<(crate::id::NodeHandle, u32)>,
}

pub(super) fn queues() -> (Expander, Jobs) {
    let (stages, stage_jobs) = unbounded();
    let (others, other_jobs) = unbounded();
    let (wishes, wished) = unbounded();
    (
        Expander {
            stages,
            others,
            wishes,
        },
        Jobs {
            stages: stage_jobs,
            others: other_jobs,
            wishes: wished,
        },
    )
}

/// A thread that expands what comes, until the engine stops.
pub(super) fn work(
    shared: &Arc<Shared>,
    jobs: &Receiver<Job>,
    wishes: &Receiver<(crate::id::NodeHandle, u32)>,
) {
    let mut late: Vec<(std::time::Instant, Job)> = Vec::new();
    while !shared.stopping() {
        for wish in wishes.try_iter() {
            if let Err(why) = shared.grant(wish) {
                tracing::warn!(%why, "a stage asked for by attribute was not accepted");
            }
        }
        let due = late.iter().position(|(at, _)| at.elapsed() > AGAIN);
        let job = match due {
            Some(at) => late.swap_remove(at).1,
            None => match jobs.recv_timeout(std::time::Duration::from_millis(200)) {
                Ok(job) => job,
                Err(_) => continue,
            },
        };
        if shared.is_cancelled(job.request) {
            continue;
        }
        if let Err(why) = expand(shared, job.request, &job.ask) {
            tracing::error!(request = job.request.0, %why, "a request could not be expanded; it is tried again");
            late.push((std::time::Instant::now(), job));
        }
    }
}

impl Shared {
    /// Accepts a request: durable when this returns, expanded in the background.
    pub(super) fn submit(&self, ask: Ask) -> Result<Submitted, EngineError> {
        let tier = ask
            .tier
            .as_deref()
            .map(|name| self.slot_named(name).map(|s| s.id))
            .transpose()?;
        self.may_do(&ask)?;
        if let Some(request) = ask.into {
            return self.submit_part(request, ask);
        }
        let options = serde_json::to_string(&Options::of(&ask)).map_err(|e| {
            EngineError::refused(
                Failure::Internal,
                format!("the request cannot be kept: {e}"),
            )
        })?;
        let new = NewRequest {
            verb: ask.verb,
            uid: ask.asker.uid,
            gid: ask.asker.gid,
            origin: ask.origin,
            key: ask.key.clone(),
            tier,
            options,
            sealed: false,
        };
        let submitted = self.catalog.submit(new, Vec::new(), self.now())?;
        if submitted.existing {
            return self.known(submitted, ask);
        }
        if ask.last {
            self.hand_over(submitted.id, ask);
        } else {
            // At once: the last part seals the request, and must not overtake the first.
            self.parts
                .lock()
                .insert(submitted.id, std::time::Instant::now());
            expand(self, submitted.id, &ask)?;
        }
        Ok(submitted)
    }

    /// A request that its key names already. One whose caller went away between two parts is
    /// gone on with by who comes again; actions that it has are not added twice.
    fn known(&self, submitted: Submitted, ask: Ask) -> Result<Submitted, EngineError> {
        let row = self.catalog.request(submitted.id)?;
        if row.is_some_and(|row| row.verb != ask.verb) {
            let key = ask.key.as_deref().unwrap_or_default();
            let why = format!(
                "the key {key:?} is request {}'s, of another kind",
                submitted.id
            );
            return Err(EngineError::refused(Failure::Usage, why).hint("take another key"));
        }
        if self.parts.lock().contains_key(&submitted.id) {
            return self.submit_part(submitted.id, ask);
        }
        Ok(submitted)
    }

    fn is_cancelled(&self, request: RequestId) -> bool {
        let row = self.catalog.request(request);
        row.is_ok_and(|row| row.is_none_or(|r| r.state == catalog::RequestState::Cancelled))
    }

    /// A later part of a request that is still open.
    fn submit_part(&self, request: RequestId, ask: Ask) -> Result<Submitted, EngineError> {
        let row = self.catalog.request(request)?.ok_or_else(|| {
            EngineError::refused(Failure::NotFound, format!("there is no request {request}"))
        })?;
        if row.uid != ask.asker.uid || row.verb != ask.verb {
            return Err(EngineError::refused(
                Failure::NotPermitted,
                format!("request {request} is another user's, or of another kind"),
            ));
        }
        expand(self, request, &ask)?;
        let mut parts = self.parts.lock();
        if ask.last {
            parts.remove(&request);
        } else {
            parts.insert(request, std::time::Instant::now());
        }
        Ok(Submitted {
            id: request,
            existing: false,
        })
    }

    /// Closes requests whose next part has not come: their caller is gone.
    pub(super) fn close_abandoned(&self) -> Result<(), EngineError> {
        let late: Vec<RequestId> = {
            let mut parts = self.parts.lock();
            let late = parts
                .iter()
                .filter(|(_, at)| at.elapsed() > PATIENCE)
                .map(|(id, _)| *id);
            let late: Vec<_> = late.collect();
            parts.retain(|id, _| !late.contains(id));
            late
        };
        for id in late {
            self.catalog.seal(id, self.now())?;
            self.changed(id);
        }
        Ok(())
    }

    /// Accepts a stage that was asked for by an attribute, off the asker's path. The kernel has
    /// seen to it that the asker may write the file.
    pub(super) fn wish(&self, node: crate::id::NodeHandle, uid: u32) {
        // Not yet durable: an attribute's setter is told no more than that it was heard.
        let _ = self.expander.wishes.send((node, uid));
    }

    /// Turns wishes into requests.
    fn grant(&self, (node, uid): (crate::id::NodeHandle, u32)) -> Result<(), EngineError> {
        self.submit(Ask {
            verb: Verb::Stage,
            asker: Asker {
                uid,
                ..Asker::ENGINE
            },
            origin: catalog::Origin::User,
            subjects: vec![Named {
                node,
                given: b"user.cairn.stage".to_vec(),
            }],
            key: None,
            tier: None,
            pin_for: None,
            flags: Vec::new(),
            into: None,
            last: true,
        })?;
        Ok(())
    }

    fn hand_over(&self, request: RequestId, ask: Ask) {
        let queue = if ask.verb == Verb::Stage {
            &self.expander.stages
        } else {
            &self.expander.others
        };
        // The receivers live as long as the engine; a job that is lost with them is taken up again
        // at the next start.
        let _ = queue.send(Job { request, ask });
    }

    /// Requests that were accepted before the last stop but not yet expanded.
    pub(super) fn resume_expansion(&self) -> Result<(), EngineError> {
        for request in self.catalog.unsealed()? {
            let tier = request
                .tier
                .and_then(|id| self.slot(id))
                .map(|s| s.name.clone());
            match serde_json::from_str::<Options>(&request.options) {
                Ok(options) => self.hand_over(request.id, options.ask(&request, tier)),
                Err(why) => {
                    tracing::error!(request = request.id.0, %why, "its options cannot be read; it is cancelled");
                    self.catalog.cancel(request.id, self.now())?;
                }
            }
        }
        Ok(())
    }

    /// Refuses at once what cannot work at all.
    fn may_do(&self, ask: &Ask) -> Result<(), EngineError> {
        match ask.verb {
            Verb::Archive if self.tiers.is_empty() => Err(EngineError::refused(
                Failure::TierUnavailable,
                "no tier is configured",
            )),
            Verb::Archive => self.backing.capabilities().archive().map_err(|lack| {
                EngineError::refused(
                    Failure::Usage,
                    format!("this backing cannot be archived from: {lack}"),
                )
            }),
            Verb::Release => self.release_allowed().map_err(|why| {
                EngineError::refused(
                    Failure::NotPermitted,
                    format!("releases are disabled: {why}"),
                )
            }),
            _ => Ok(()),
        }
    }

    /// What a request would do, without doing it.
    pub(super) fn forecast(&self, ask: &Ask) -> Result<Forecast, EngineError> {
        let mut forecast = Forecast::default();
        if ask.verb == Verb::Stage {
            forecast.room = Some(self.room_on_backing()?);
        }
        let mut walk = Walk {
            shared: self,
            ask,
            out: Out::Forecast(&mut forecast),
            rows: Vec::new(),
        };
        for subject in &ask.subjects {
            walk.subject(subject)?;
        }
        Ok(forecast)
    }
}

/// Expands a request and seals it, if no further part is to come.
fn expand(shared: &Shared, request: RequestId, ask: &Ask) -> Result<(), EngineError> {
    let out = Out::Request {
        request,
        pending: Vec::new(),
    };
    let mut walk = Walk {
        shared,
        ask,
        out,
        rows: Vec::new(),
    };
    for subject in &ask.subjects {
        walk.subject(subject)?;
    }
    walk.flush()?;
    if shared.stopping() {
        // The walk may have been cut short; the next start does it again, from its beginning.
        return Ok(());
    }
    if ask.last {
        shared.catalog.seal(request, shared.now())?;
    }
    shared.bell.ring();
    shared.changed(request);
    Ok(())
}

enum Out<'a> {
    Forecast(&'a mut Forecast),
    Request {
        request: RequestId,
        pending: Vec<NewAction>,
    },
}

struct Walk<'a> {
    shared: &'a Shared,
    ask: &'a Ask,
    out: Out<'a>,
    /// Nodes whose pins change, many at once: a commit each would take minutes.
    rows: Vec<NodeId>,
}

impl Walk<'_> {
    /// Opens and looks; `None` if it is gone.
    fn open(&self, named: &Named) -> Result<Option<Looked>, EngineError> {
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
        let fd = match opened {
            Ok(fd) => fd,
            Err(why) => {
                tracing::debug!(%why, "it went before it was looked at");
                return Ok(None);
            }
        };
        let stat = self.shared.backing.stat(fd.as_fd())?;
        Ok(Some(Looked {
            name: named.given.clone(),
            handle: named.node.clone(),
            fd,
            stat,
        }))
    }

    fn subject(&mut self, named: &Named) -> Result<(), EngineError> {
        let Some(looked) = self.open(named)? else {
            return Ok(());
        };
        let (id, near) = self.place(&looked)?;
        self.one(&looked, id, near, true)?;
        if looked.stat.kind == NodeKind::Directory {
            self.directory(looked, id)?;
        }
        Ok(())
    }

    /// The catalog's number of a subject, and of the directory it lies in.
    fn place(&self, looked: &Looked) -> Result<(NodeId, NodeId), EngineError> {
        let shared = self.shared;
        if looked.stat.kind == NodeKind::Directory {
            let id = tree::ensure_directory(shared, &looked.handle)?;
            return Ok((id, id));
        }
        if let Some(node) = shared.catalog.node_by_handle(&looked.handle)? {
            return Ok((node.id, node.id));
        }
        let path = shared.backing.path_of(looked.fd.as_fd())?;
        let (dir, name) = match path.iter().rposition(|b| *b == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&path[..0], &path[..]),
        };
        let dir = shared.backing.open_beneath(dir)?;
        let parent = tree::ensure_directory(shared, &shared.backing.handle_of(dir.as_fd())?)?;
        let seen = catalog::Sighting {
            handle: looked.handle.clone(),
            attributes: tree::attributes(&looked.stat),
            place: Some((parent, name.to_vec())),
        };
        let ids = shared.catalog.note(vec![seen], Durability::Relaxed)?;
        Ok((ids.first().copied().unwrap_or(parent), parent))
    }

    /// Everything below a directory; a stack instead of recursion, because trees are deep. It holds
    /// no descriptors, because trees are wide.
    fn directory(&mut self, top: Looked, id: NodeId) -> Result<(), EngineError> {
        let mut stack = vec![(
            Named {
                node: top.handle,
                given: top.name,
            },
            id,
        )];
        while let Some((named, id)) = stack.pop() {
            let Some(dir) = self.open(&named)? else {
                continue;
            };
            if self.shared.stopping() || self.cancelled()? {
                return Ok(());
            }
            if !self.may_list(&dir) {
                self.refuse(
                    &dir,
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
                    self.refuse(&dir, id, id, Failure::NotFound, &why.to_string())?;
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
                    self.refuse(dir, id, id, why.code(), &text)?;
                }
            }
        }
        let seen = found.iter().map(|l| tree::sighting(l, id)).collect();
        let ids = self.shared.catalog.note(seen, Durability::Relaxed)?;
        let mut below = Vec::new();
        for (looked, child) in found.into_iter().zip(ids) {
            self.one(&looked, child, id, false)?;
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
        id: NodeId,
        near: NodeId,
        direct: bool,
    ) -> Result<(), EngineError> {
        let facts = self.facts(looked, id, direct)?;
        match wanted(self.ask.verb, &facts) {
            Wanted::Nothing(why) => {
                if let Out::Forecast(forecast) = &mut self.out
                    && let Some(why) = why
                {
                    skip(forecast, looked, why);
                }
                Ok(())
            }
            Wanted::Refuse(code, why) => self.refuse(looked, id, near, code, why),
            Wanted::Now => self.now(id, looked.stat.size),
            Wanted::Act { bytes, place } => {
                for tier in self.tiers_for(&facts) {
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

    fn facts(&self, looked: &Looked, id: NodeId, direct: bool) -> Result<Facts, EngineError> {
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
        let node = shared.catalog.node(id)?;
        let pinned = match self.ask.verb {
            Verb::Release => shared.catalog.pinned_until(id, shared.now())?.is_some(),
            _ => false,
        };
        let copies = match node.as_ref().and_then(|n| n.version) {
            Some(v) if self.ask.verb == Verb::Archive => {
                shared.catalog.copies(v.file, v.version)?
            }
            _ => Vec::new(),
        };
        let crc = node.as_ref().and_then(|n| n.version).map(|v| v.crc);
        Ok(Facts {
            stat: looked.stat,
            record,
            node,
            pinned,
            direct,
            owned: self.ask.asker.owns(looked.stat.uid),
            readable: self.may_read(looked),
            min_release: shared.settings.min_release,
            trusted_from: shared.incarnation,
            tiers_wanted: self.tier_choice(),
            tiers_have: copies
                .iter()
                .filter(|c| c.state == catalog::CopyState::Good && Some(c.crc) == crc)
                .map(|c| c.tier)
                .collect(),
        })
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
        self.ask.verb != Verb::Stage
            || readable(&self.ask.asker, looked, rustix::fs::Access::READ_OK)
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

    fn set_pins(&mut self) -> Result<(), EngineError> {
        let (catalog, ask, nodes) = (
            &self.shared.catalog,
            self.ask,
            std::mem::take(&mut self.rows),
        );
        let holder = format!("uid:{}", ask.asker.uid);
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
        let expires = super::shifted(self.shared.now(), how_long, true);
        let pin = |node| catalog::Pin {
            node,
            holder: holder.clone(),
            expires,
        };
        Ok(catalog.pin(nodes.into_iter().map(pin).collect())?)
    }

    fn refuse(
        &mut self,
        looked: &Looked,
        id: NodeId,
        near: NodeId,
        code: Failure,
        why: &str,
    ) -> Result<(), EngineError> {
        let failure = catalog::Failure {
            code: code.as_str().to_owned(),
            text: why.to_owned(),
        };
        if let Out::Forecast(forecast) = &mut self.out {
            skip(forecast, looked, why);
            return Ok(());
        }
        self.act(NewAction {
            node: id,
            handle: looked.handle.clone(),
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

    fn flush(&mut self) -> Result<(), EngineError> {
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
            Out::Request { request, .. } => {
                let row = self.shared.catalog.request(*request)?;
                Ok(row.is_none_or(|r| r.state == catalog::RequestState::Cancelled))
            }
        }
    }
}

fn skip(forecast: &mut Forecast, looked: &Looked, why: &str) {
    forecast.skipped_files += 1;
    if forecast.skipped.len() < 1000 {
        forecast.skipped.push((looked.name.clone(), why.to_owned()));
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
