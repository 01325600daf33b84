//! What the engine tells of files and requests, and the calls that change requests.

use super::ask::{Ask, Forecast};
use super::cost::Bill;
use super::{Engine, EngineError, Shared, tree};
use crate::catalog::{
    self, Action, ActionState, FileState, Node, Pin, Request, RequestFilter, Submitted,
};
use crate::error::Failure;
use crate::format::record::{Record, State};
use crate::hsm::backing::{BackingError, FileStat, How, NodeKind, belongs_to};
use crate::id::{NodeHandle, RequestId};
use std::os::fd::{AsFd, BorrowedFd};

/// A file as a door shows it.
#[derive(Debug)]
pub struct FileReport {
    /// What the backing says.
    pub stat: FileStat,
    /// The inode.
    pub handle: NodeHandle,
    /// Its own record, if it has one.
    pub record: Option<Record>,
    /// It carries another file's stub.
    pub foreign: bool,
    /// What is on disk contradicts its stub (P4).
    pub conflict: bool,
    /// What the catalog knows, if it knows it.
    pub node: Option<Node>,
    /// Copies of the present version.
    pub copies: Vec<catalog::Copy>,
    /// Who keeps it on disk.
    pub pins: Vec<Pin>,
    /// What is still to be done about it.
    pub open: Vec<Action>,
}

impl FileReport {
    /// Its data are only on tiers.
    #[must_use]
    pub fn is_released(&self) -> bool {
        self.record
            .as_ref()
            .is_some_and(|r| r.state != State::Resident)
    }

    /// It was archived once.
    #[must_use]
    pub fn was_archived(&self) -> bool {
        self.record.is_some() || self.node.as_ref().is_some_and(|n| n.version.is_some())
    }

    /// It changed since, as far as times can tell.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        let Some(node) = &self.node else { return false };
        let moved = node.proven.is_some_and(|p| {
            p.size != self.stat.size || (p.ctime != self.stat.ctime && self.stat.mtime > p.ctime)
        });
        node.state == FileState::Dirty || (node.state == FileState::Archived && moved)
    }

    /// No good copy is left, and no data.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.node
            .as_ref()
            .is_some_and(|n| n.state == FileState::Lost)
    }
}

/// A request and why some of its files failed.
#[derive(Debug)]
pub struct RequestReport {
    /// The row.
    pub row: Request,
    /// Failed actions with a present path each, if one is known; at most as many as asked for.
    pub failed: Vec<(Action, Option<Vec<u8>>)>,
    /// What its first waiting action waits for.
    pub waiting: Option<catalog::Failure>,
    /// What its files wait for on tape.
    pub tape: super::TapeWaits,
}

impl Engine {
    /// Looks at a node through a descriptor of the backing.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn report(&self, fd: BorrowedFd<'_>) -> Result<FileReport, EngineError> {
        self.shared.report(fd)
    }

    /// Opens a node (`O_PATH`) for [`Engine::report`].
    ///
    /// # Errors
    /// [`EngineError`]; the node may be gone.
    pub fn open(&self, node: &NodeHandle) -> Result<std::os::fd::OwnedFd, EngineError> {
        let hint = tree::hint(&self.shared, node)?;
        Ok(self
            .shared
            .backing
            .open_node(node, hint.as_deref(), crate::hsm::backing::How::Path)?)
    }

    /// The names in a directory, in the order of their bytes.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn names(&self, dir: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, EngineError> {
        Ok(tree::names(&self.shared.backing, dir)?)
    }

    /// An entry of a directory (`O_PATH` descriptor); `None` if it went meanwhile or another
    /// filesystem is mounted there.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn entry(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<Option<std::os::fd::OwnedFd>, EngineError> {
        let backing = &self.shared.backing;
        let device = backing.stat(dir)?.dev;
        Ok(tree::look_at(backing, dir, name, device)?.map(|looked| looked.fd))
    }

    /// Accepts a request: durable when this returns.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn submit(&self, ask: Ask) -> Result<Submitted, EngineError> {
        self.shared.submit(ask)
    }

    /// What a request would do, and cost.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn forecast(&self, ask: &Ask) -> Result<Forecast, EngineError> {
        self.shared.forecast(ask, Bill::open(&self.shared))
    }

    /// # Errors
    /// Damage of the catalog's file was met since it was opened: what is asked for may never end.
    pub fn has_sound_catalog(&self) -> Result<(), EngineError> {
        let Some(why) = self.shared.catalog.damage() else {
            return Ok(());
        };
        let message = format!(
            "the catalog's file is damaged ({why}): stop the instance (cairn down) and make the catalog anew \
             (cairn rebuild)"
        );
        let hint =
            "it is made from the files' records and the tiers; files and copies are as they were";
        Err(EngineError::refused(Failure::Internal, message).hint(hint))
    }

    /// A request with up to `problems` of its failures.
    ///
    /// # Errors
    /// [`Failure::NotFound`] and the catalog's.
    pub fn request(&self, id: RequestId, problems: usize) -> Result<RequestReport, EngineError> {
        let shared = &self.shared;
        let row = shared.catalog.request(id)?.ok_or_else(|| no_request(id))?;
        let mut failed = Vec::new();
        if problems > 0 && row.counts.failed.files > 0 {
            for action in shared
                .catalog
                .actions(id, Some(ActionState::Failed), None, problems)?
            {
                let path = shared.catalog.path_of(action.node)?;
                failed.push((action, path));
            }
        }
        let mut waiting = None;
        if row.counts.waiting.files > 0 {
            let first = shared
                .catalog
                .actions(id, Some(ActionState::Waiting), None, 1)?;
            waiting = first.into_iter().next().and_then(|a| a.failure);
        }
        let tape = if row.finished.is_none() && row.verb == crate::catalog::Verb::Stage {
            shared.tape_waits(id)
        } else {
            super::TapeWaits::default()
        };
        Ok(RequestReport {
            row,
            failed,
            waiting,
            tape,
        })
    }

    /// Requests, newest first.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn requests(
        &self,
        filter: RequestFilter,
        limit: usize,
    ) -> Result<Vec<Request>, EngineError> {
        Ok(self.shared.catalog.requests(filter, limit)?)
    }

    /// Cancels, effective at once.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn cancel(&self, id: RequestId) -> Result<(), EngineError> {
        self.shared.cancel(id)
    }

    /// Tries the failed files of a request again.
    ///
    /// # Errors
    /// [`Failure::Busy`] while it is not finished.
    pub fn retry(&self, id: RequestId) -> Result<u64, EngineError> {
        let row = self
            .shared
            .catalog
            .request(id)?
            .ok_or_else(|| no_request(id))?;
        if row.finished.is_none() {
            return Err(
                EngineError::refused(Failure::Busy, format!("request {id} has not ended"))
                    .hint(format!("`cairn wait {id}` waits for it")),
            );
        }
        let again = self.shared.catalog.retry_failed(id, self.shared.now())?;
        if again == 0 && row.counts.failed.files > 0 {
            let why = format!("what failed in request {id} was refused and never begun");
            return Err(EngineError::refused(Failure::NotPermitted, why)
                .hint("ask for these files anew, when nothing forbids it any more"));
        }
        self.shared.bell.ring();
        self.shared.changed(id);
        Ok(again)
    }
}

fn no_request(id: RequestId) -> EngineError {
    EngineError::refused(Failure::NotFound, format!("there is no request {id}"))
        .hint("`cairn requests --all` lists them")
}

impl Shared {
    fn report(&self, fd: BorrowedFd<'_>) -> Result<FileReport, EngineError> {
        let (stat, handle) = (self.backing.stat(fd)?, self.backing.handle_of(fd)?);
        let mut foreign = false;
        let record = if stat.kind == NodeKind::Regular {
            let found = self.backing.record(fd).unwrap_or_else(|why| {
                tracing::warn!(%why, "a record cannot be read");
                None
            });
            let own = found
                .as_ref()
                .is_some_and(|r| belongs_to(r, self.backing.fs(), &handle));
            foreign = !own && found.as_ref().is_some_and(|r| r.state != State::Resident);
            found.filter(|_| own)
        } else {
            None
        };
        let conflict = record
            .as_ref()
            .is_some_and(|record| self.is_contradicted(fd, &handle, &stat, record));
        let node = self.catalog.node_by_handle(&handle)?;
        let version = record.as_ref().map(|r| (r.file, r.version)).or_else(|| {
            node.as_ref()
                .and_then(|n| n.version)
                .map(|v| (v.file, v.version))
        });
        let mut copies = match version {
            Some((file, version)) => self.catalog.live_copies(file, version)?,
            None => Vec::new(),
        };
        if copies.is_empty()
            && let Some(record) = &record
        {
            copies = self.copies_of_record(record);
        }
        let (pins, open) = match &node {
            Some(node) => (
                self.catalog.pins(node.id)?,
                self.catalog.open_actions_of(node.id)?,
            ),
            None => (Vec::new(), Vec::new()),
        };
        Ok(FileReport {
            stat,
            handle,
            record,
            foreign,
            conflict,
            node,
            copies,
            pins,
            open,
        })
    }

    /// Does what is on disk contradict the stub, for good? Who cannot be looked at now is not accused: a
    /// release sets the stub before it punches, and users set times meanwhile.
    fn is_contradicted(
        &self,
        fd: BorrowedFd<'_>,
        handle: &NodeHandle,
        stat: &FileStat,
        record: &Record,
    ) -> bool {
        let stub = record.state != State::Resident && stat.size > 0;
        // What is as the stub says and has no block but that of its attributes needs no closer look.
        let plain = (stat.size, stat.mtime) == (record.size, record.mtime)
            && stat.blocks <= stat.one_block();
        let Some(_claim) = (stub && !plain).then(|| self.lanes.claim(handle)).flatten() else {
            return false;
        };
        let look = || -> Result<bool, BackingError> {
            let file = self.backing.reopen(fd, How::Read)?;
            let _turn = self.backing.turn(handle);
            let stat = self.backing.stat(file.as_fd())?;
            let Some(now) = self.backing.record(file.as_fd())? else {
                return Ok(false);
            };
            let found = self.backing.contradiction(file.as_fd(), &stat, &now)?;
            Ok(found.is_some() && stat.size > 0)
        };
        look().unwrap_or(false)
    }

    pub(super) fn cancel(&self, id: RequestId) -> Result<(), EngineError> {
        if self.catalog.request(id)?.is_none() {
            return Err(no_request(id));
        }
        // Here first: nothing starts while the change of the row waits for its turn to be written.
        let (waited, running) = self.lanes.cancel(id);
        match self.catalog.cancel(id, self.now()) {
            Ok(true) => {}
            Ok(false) => self.lanes.uncancel(id, waited),
            Err(why) => {
                self.lanes.uncancel(id, waited);
                return Err(why.into());
            }
        }
        if let Some(recaller) = self.recaller() {
            for action in running {
                if let Some(token) = self.lanes.stage_token(action.id) {
                    recaller.give_up(token);
                    self.lanes.end(super::work::Ended {
                        action: action.id,
                        request: id,
                        finish: catalog::Finish::Cancelled,
                    });
                }
            }
        }
        self.bell.ring();
        self.changed(id);
        Ok(())
    }
}
