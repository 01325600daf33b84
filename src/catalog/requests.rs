//! Durable requests: accepted, cancelled, retried, listed.
//!
//! Invariants: what [`Catalog::submit`] gave back survives any crash; a key names one request per
//! user; a request's counts equal its rows at every commit, where the rows of a cancelled request
//! count as settled before they are.

use super::dispatch::end_unstarted;
use super::request::{
    Action, ActionId, ActionState, NewAction, NewRequest, Request, RequestFilter, Submitted,
};
use super::rows::{self, ACTION};
use super::sql::{Code, all, change, first, handle_key, int, page};
use super::tally::{self, RowState, Tally};
use super::{Catalog, CatalogError, Class, Durability, NodeId, RequestState, Verb};
use crate::id::{RequestId, Timestamp};
use rusqlite::{Connection, params};

/// Actions changed in one transaction where a request has more.
const CHUNK: usize = 5000;

impl Catalog {
    /// Accepts a request with its first actions. Always durable. Tens of thousands of actions are
    /// best given in chunks: the first here with `sealed: false`, then [`Catalog::add_actions`].
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn submit(
        &self,
        request: NewRequest,
        actions: Vec<NewAction>,
        now: Timestamp,
    ) -> Result<Submitted, CatalogError> {
        self.write_many(actions.len(), Durability::Full, move |connection| {
            if let Some(key) = &request.key
                && let Some(there) = by_key(connection, request.uid, key)?
            {
                return Ok(Submitted {
                    id: there.id,
                    existing: true,
                });
            }
            let id = insert(connection, &request, now)?;
            let mut tally = Tally::default();
            add(connection, &mut tally, id, (&actions, Refused::Walked), now)?;
            tally.apply(connection, now)?;
            Ok(Submitted {
                id: RequestId(id as u64),
                existing: false,
            })
        })
    }

    /// Adds actions to a request that is not sealed; those it has already are left out, and refusals
    /// of files that have an action. Gives how many were added (0 if the request was cancelled).
    ///
    /// # Errors
    /// [`CatalogError::Missing`], [`CatalogError::Refused`] if it is sealed.
    pub fn add_actions(
        &self,
        request: RequestId,
        actions: Vec<NewAction>,
        now: Timestamp,
        durability: Durability,
    ) -> Result<u64, CatalogError> {
        self.enter(request, actions, now, durability, Refused::Walked)
    }

    /// Adds refusals of all that a request that is not sealed names, durably: a subject that has actions
    /// (they may not be all) has failed, too. Gives how many were added.
    ///
    /// # Errors
    /// As [`Self::add_actions`].
    pub fn refuse_subjects(
        &self,
        request: RequestId,
        subjects: Vec<NewAction>,
        now: Timestamp,
    ) -> Result<u64, CatalogError> {
        self.enter(request, subjects, now, Durability::Full, Refused::Whole)
    }

    fn enter(
        &self,
        request: RequestId,
        actions: Vec<NewAction>,
        now: Timestamp,
        durability: Durability,
        by: Refused,
    ) -> Result<u64, CatalogError> {
        let id = int(request.0);
        self.write_many(actions.len(), durability, move |connection| {
            let mut tally = Tally::default();
            let head = tally.head(connection, id)?;
            match head.ok_or_else(|| missing("add actions", request))? {
                head if head.cancelled => return Ok(0),
                head if head.sealed => {
                    return Err(CatalogError::Refused {
                        step: "add actions",
                        object: format!("request {request}"),
                        why: "it is sealed",
                    });
                }
                _ => {}
            }
            let added = add(connection, &mut tally, id, (&actions, by), now)?;
            tally.apply(connection, now)?;
            Ok(added)
        })
    }

    /// No more actions will come. A request without open actions ends here. Durable.
    ///
    /// # Errors
    /// [`CatalogError::Missing`].
    pub fn seal(&self, request: RequestId, now: Timestamp) -> Result<(), CatalogError> {
        let id = int(request.0);
        self.write(Durability::Full, move |connection| {
            let sql = "UPDATE requests SET sealed = 1 WHERE id = ?";
            if change(connection, sql, [id], "seal request", request)? == 0 {
                return Err(missing("seal", request));
            }
            let mut tally = Tally::default();
            tally.head(connection, id)?;
            tally.apply(connection, now)
        })
    }

    /// Cancels: one change of one row, durable, effective when it returns. Actions that are
    /// running are the caller's to stop; they end by [`Catalog::finish_actions`]. `false`: it had
    /// ended before.
    ///
    /// # Errors
    /// [`CatalogError::Missing`].
    pub fn cancel(&self, request: RequestId, now: Timestamp) -> Result<bool, CatalogError> {
        let id = int(request.0);
        self.write(Durability::Full, move |connection| {
            tally::cancel(connection, id, now)
        })
    }

    /// Writes the cancelled state into at most `limit` action rows of cancelled requests; gives
    /// how many. Background work, invisible to readers.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn settle_cancelled(&self, now: Timestamp, limit: usize) -> Result<u64, CatalogError> {
        self.write_many(limit, Durability::Relaxed, move |connection| {
            let unsettled = first(
                connection,
                "SELECT id FROM requests WHERE unsettled = 1 ORDER BY id LIMIT 1",
                [],
                |row| row.get::<_, i64>(0),
                "find",
                "cancelled requests",
            )?;
            let Some(id) = unsettled else {
                return Ok(0);
            };
            let settled = change(
                connection,
                "UPDATE actions SET state = 6, finished = ?2 WHERE id IN
                     (SELECT id FROM actions WHERE request = ?1 AND state IN (0, 1, 3) LIMIT ?3)",
                params![id, now.nanos(), page(limit)],
                "settle request",
                id,
            )?;
            if int(settled as u64) < page(limit) {
                let sql = "UPDATE requests SET unsettled = 0 WHERE id = ?";
                change(connection, sql, [id], "settle request", id)?;
            }
            Ok(settled as u64)
        })
    }

    /// Queues the failed actions of a request anew; gives how many. Those that were refused when they
    /// were entered were never begun and stay as they are: what refused them (the asker's rights) is
    /// not looked at again here. Durable.
    ///
    /// # Errors
    /// [`CatalogError::Missing`], [`CatalogError::Refused`] for a cancelled request.
    pub fn retry_failed(&self, request: RequestId, now: Timestamp) -> Result<u64, CatalogError> {
        let failed = self
            .request(request)?
            .ok_or_else(|| missing("retry", request))?;
        if failed.state == RequestState::Cancelled {
            return Err(CatalogError::Refused {
                step: "retry",
                object: format!("request {request}"),
                why: "it was cancelled",
            });
        }
        // As many as had failed when this began: what fails again meanwhile is not retried again.
        let mut left = failed.counts.failed.files;
        let mut retried = 0;
        while left > 0 {
            let id = int(request.0);
            let chunk = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let some = self.write(Durability::Full, move |connection| {
                retry_some(connection, id, chunk, now)
            })?;
            if some == 0 {
                break;
            }
            retried += some;
            left = left.saturating_sub(some);
        }
        Ok(retried)
    }

    /// One request.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn request(&self, id: RequestId) -> Result<Option<Request>, CatalogError> {
        self.read(|connection| {
            first(
                connection,
                "SELECT * FROM requests WHERE id = ?",
                [int(id.0)],
                rows::request,
                "find request",
                id,
            )
        })
    }

    /// A user's request by its key.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn request_by_key(&self, uid: u32, key: &str) -> Result<Option<Request>, CatalogError> {
        self.read(|connection| by_key(connection, uid, key))
    }

    /// Requests, newest first.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn requests(
        &self,
        filter: RequestFilter,
        limit: usize,
    ) -> Result<Vec<Request>, CatalogError> {
        let query = listing(&filter);
        let before = filter.before.map_or(i64::MAX, |id| int(id.0));
        self.read(|connection| {
            let mut values = vec![before, page(limit)];
            values.extend(filter.uid.map(i64::from));
            all(
                connection,
                &query,
                rusqlite::params_from_iter(values),
                rows::request,
                "list",
                "requests",
            )
        })
    }

    /// The requests of a user's job, newest first: those whose keys begin with `job:JOB/`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn requests_of_job(
        &self,
        uid: u32,
        job: &str,
        limit: usize,
    ) -> Result<Vec<Request>, CatalogError> {
        // `0` is the next character after `/`.
        let (from, to) = (format!("job:{job}/"), format!("job:{job}0"));
        self.read(|connection| {
            let mut found = all(
                connection,
                "SELECT * FROM requests INDEXED BY requests_key
                 WHERE uid = ? AND key >= ? AND key < ? LIMIT ?",
                params![uid, from, to, page(limit)],
                rows::request,
                "list the requests of job",
                job,
            )?;
            found.sort_by_key(|request| std::cmp::Reverse(request.id));
            Ok(found)
        })
    }

    /// At most `limit` requests of a user's job that are not final and of this verb.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn open_requests_of_job(
        &self,
        uid: u32,
        job: &str,
        verb: Verb,
        limit: usize,
    ) -> Result<Vec<RequestId>, CatalogError> {
        let (from, to) = (format!("job:{job}/"), format!("job:{job}0"));
        self.read(|connection| {
            all(
                connection,
                "SELECT id FROM requests INDEXED BY requests_key
                 WHERE uid = ? AND key >= ? AND key < ? AND finished IS NULL AND verb = ? LIMIT ?",
                params![uid, from, to, verb.code(), page(limit)],
                |row| super::sql::uint(row, "id").map(RequestId),
                "list the open requests of job",
                job,
            )
        })
    }

    /// Users with requests, from after `after`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn next_user(&self, after: Option<u32>) -> Result<Option<u32>, CatalogError> {
        let after = after.map_or(-1, i64::from);
        self.read(|connection| {
            let sql = "SELECT uid FROM requests WHERE uid > ? ORDER BY uid LIMIT 1";
            first(
                connection,
                sql,
                [after],
                |row| row.get(0),
                "find users of",
                "requests",
            )
        })
    }

    /// Has the user at least so many (at least 1) requests that are not final?
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn has_open_requests(&self, uid: u32, many: usize) -> Result<bool, CatalogError> {
        let last = many.saturating_sub(1);
        let sql = "SELECT id FROM requests WHERE uid = ? AND finished IS NULL
                   ORDER BY id LIMIT 1 OFFSET ?";
        self.read(|connection| {
            let values = [i64::from(uid), int(last as u64)];
            let row = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
            let found = first(connection, sql, values, row, "count requests of", uid)?;
            Ok(found.is_some())
        })
    }

    /// Requests that were accepted but not sealed when the last incarnation ended: to be expanded
    /// again from their options (actions they have already are left out), or cancelled.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn unsealed(&self) -> Result<Vec<Request>, CatalogError> {
        self.read(|connection| {
            all(
                connection,
                "SELECT * FROM requests WHERE state < 2 AND sealed = 0 ORDER BY id LIMIT ?",
                [page(super::PAGE_MAX)],
                rows::request,
                "list",
                "unsealed requests",
            )
        })
    }

    /// A request's actions by ascending number from after `after`; with `state`, those in it.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn actions(
        &self,
        request: RequestId,
        state: Option<ActionState>,
        after: Option<ActionId>,
        limit: usize,
    ) -> Result<Vec<Action>, CatalogError> {
        let after = after.map_or(0, |id| id.0);
        self.read(|connection| {
            let Some(head) = tally::head(connection, int(request.0))? else {
                return Ok(Vec::new());
            };
            let wanted = |row: &&RowState| {
                state.is_none_or(|state| rows::shown(**row, head.cancelled) == state)
            };
            let query = format!(
                "{ACTION} WHERE a.request = ? AND a.state = ? AND a.id > ? ORDER BY a.id LIMIT ?"
            );
            let mut found = Vec::new();
            // One ordered run per state of rows, then merged: no state is sorted as a whole.
            for row in RowState::ALL.iter().filter(wanted) {
                found.extend(all(
                    connection,
                    &query,
                    params![int(request.0), row.code(), after, page(limit)],
                    rows::action,
                    "list actions of request",
                    request,
                )?);
            }
            found.sort_by_key(|action| action.id);
            found.truncate(limit.clamp(1, super::PAGE_MAX));
            Ok(found)
        })
    }

    /// The actions about a node that have not ended, newest first, at most 100.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn open_actions_of(&self, node: NodeId) -> Result<Vec<Action>, CatalogError> {
        self.read(|connection| {
            all(
                connection,
                &format!(
                    "{ACTION} WHERE a.node = ? AND a.state < 4 AND (r.state <> 4 OR a.state = 2)
                     ORDER BY a.id DESC LIMIT 100"
                ),
                [node.0],
                rows::action,
                "find actions of",
                node,
            )
        })
    }

    /// Forgets requests that finished before a time, with their actions (and so their keys), at
    /// most `limit` actions at a time; gives how many rows went. 0: nothing is left to forget.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn forget_requests(&self, before: Timestamp, limit: usize) -> Result<u64, CatalogError> {
        self.write_many(limit, Durability::Relaxed, move |connection| {
            let oldest = first(
                connection,
                "SELECT id FROM requests WHERE finished IS NOT NULL AND finished < ?
                 ORDER BY finished LIMIT 1",
                [before.nanos()],
                |row| row.get::<_, i64>(0),
                "find",
                "old requests",
            )?;
            let Some(id) = oldest else {
                return Ok(0);
            };
            let gone = change(
                connection,
                "DELETE FROM actions WHERE id IN
                     (SELECT id FROM actions WHERE request = ? LIMIT ?)",
                params![id, page(limit)],
                "forget request",
                id,
            )?;
            if int(gone as u64) < page(limit) {
                let sql = "DELETE FROM requests WHERE id = ?";
                change(connection, sql, [id], "forget request", id)?;
            }
            Ok(gone as u64 + 1)
        })
    }
}

fn missing(step: &'static str, request: RequestId) -> CatalogError {
    CatalogError::Missing {
        step,
        object: format!("request {request}"),
    }
}

fn by_key(connection: &Connection, uid: u32, key: &str) -> Result<Option<Request>, CatalogError> {
    first(
        connection,
        "SELECT * FROM requests WHERE uid = ? AND key = ?",
        params![uid, key],
        rows::request,
        "find by key",
        "request",
    )
}

fn insert(connection: &Connection, r: &NewRequest, now: Timestamp) -> Result<i64, CatalogError> {
    let id = first(
        connection,
        "INSERT INTO requests (verb, uid, gid, origin, class, key, tier, options, created, state,
             sealed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?) RETURNING id",
        params![
            r.verb.code(),
            r.uid,
            r.gid,
            r.origin.code(),
            Class::of(r.verb, r.origin).code(),
            r.key,
            r.tier.map_or(0, |tier| tier.0),
            r.options,
            now.nanos(),
            r.sealed
        ],
        |row| row.get(0),
        "accept",
        "request",
    )?;
    id.ok_or(CatalogError::Missing {
        step: "accept",
        object: "request".to_owned(),
    })
}

/// What refused the files among actions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// The walk, each file by itself.
    Walked,
    /// All that was named, as one.
    Whole,
}

/// Adds the actions that the request does not have; gives how many.
fn add(
    connection: &Connection,
    tally: &mut Tally,
    request: i64,
    (actions, by): (&[NewAction], Refused),
    now: Timestamp,
) -> Result<u64, CatalogError> {
    tally.head(connection, request)?;
    let mut added = 0;
    for action in actions {
        // Expanded a second time, because the first end of it could not be noted, a file may be refused
        // for what was meanwhile done to it.
        let is_walked = action.refused.is_some() && by == Refused::Walked;
        if is_walked && is_of(connection, request, action.node)? {
            continue;
        }
        let (epoch, seq, offset) = match action.place {
            Some(p) => (
                Some(p.aggregate.epoch),
                Some(int(p.aggregate.seq)),
                Some(int(p.offset)),
            ),
            None => (None, None, None),
        };
        let bytes = int(action.bytes);
        let new = change(
            connection,
            "INSERT OR IGNORE INTO actions (request, node, handle, tier, state, bytes, epoch, seq,
                 offset, near) VALUES (?, ?, ?, ?, 0, ?, ?, ?, ?, ?)",
            params![
                request,
                action.node.0,
                handle_key(&action.handle),
                action.tier.map_or(0, |tier| tier.0),
                bytes,
                epoch,
                seq,
                offset,
                action.near.0
            ],
            "add an action to request",
            request,
        )?;
        if new > 0 {
            tally.shift(request, None, RowState::Pending, bytes);
            added += 1;
            if let Some(why) = &action.refused {
                let id = ActionId(connection.last_insert_rowid());
                end_unstarted(connection, tally, id, why, now)?;
            }
        }
    }
    Ok(added)
}

/// Has the request an action of this node, on whatever tier?
fn is_of(connection: &Connection, request: i64, node: NodeId) -> Result<bool, CatalogError> {
    let found = first(
        connection,
        "SELECT 1 FROM actions WHERE node = ? AND request = ? LIMIT 1",
        [node.0, request],
        |_| Ok(()),
        "look for actions of request",
        request,
    )?;
    Ok(found.is_some())
}

fn retry_some(
    connection: &Connection,
    request: i64,
    limit: usize,
    now: Timestamp,
) -> Result<u64, CatalogError> {
    let mut tally = Tally::default();
    if tally
        .head(connection, request)?
        .is_none_or(|head| head.cancelled)
    {
        return Ok(0);
    }
    let failed = all(
        connection,
        "SELECT id, bytes FROM actions WHERE request = ? AND state = 5 AND attempts > 0
             ORDER BY id LIMIT ?",
        params![request, page(limit)],
        |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
        "find failed actions of request",
        request,
    )?;
    for (id, bytes) in &failed {
        change(
            connection,
            "UPDATE actions SET state = 0, finished = NULL, not_before = NULL WHERE id = ?",
            [id],
            "retry",
            ActionId(*id),
        )?;
        tally.shift(request, Some(RowState::Failed), RowState::Pending, *bytes);
    }
    tally.apply(connection, now)?;
    Ok(failed.len() as u64)
}

/// The query for a filter: `?1` the id to stay below, `?2` the limit, `?3` the user.
pub(super) fn listing(filter: &RequestFilter) -> String {
    let mut query = "SELECT * FROM requests WHERE id < ?1".to_owned();
    if filter.uid.is_some() {
        query.push_str(" AND uid = ?3");
    }
    if filter.failed {
        query.push_str(" AND failed > 0");
    }
    if filter.active {
        query.push_str(" AND finished IS NULL");
    }
    query.push_str(" ORDER BY id DESC LIMIT ?2");
    query
}
