//! Counters of requests and classes: what a batch of state changes adds up to, applied once.
//!
//! Invariants: a request's counts are those of its rows (of a cancelled request: as if settled);
//! a class's backlog is the sum over its requests that are not over. The request's own state
//! follows from its counts here and nowhere else.

use super::CatalogError;
use super::request::{Class, RequestState};
use super::sql::{Code, change, coded, first, prepared};
use crate::id::Timestamp;
use rusqlite::{Connection, Row, params};
use std::collections::BTreeMap;

/// State of an action's row, as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowState {
    /// To be started, in no window.
    Pending = 0,
    /// To be started, in the dispatcher's window.
    Taken = 1,
    /// Started.
    Running = 2,
    /// To be started at a later time.
    Waiting = 3,
    /// Ended well.
    Done = 4,
    /// Ended with an error.
    Failed = 5,
    /// Not wanted any more.
    Cancelled = 6,
}

impl Code for RowState {
    const ALL: &'static [Self] = &[
        Self::Pending,
        Self::Taken,
        Self::Running,
        Self::Waiting,
        Self::Done,
        Self::Failed,
        Self::Cancelled,
    ];
    fn code(self) -> i64 {
        self as i64
    }
}

/// What state changes need to know of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) class: Class,
    pub(super) uid: u32,
    pub(super) cancelled: bool,
    pub(super) sealed: bool,
}

/// Files and bytes by [`RowState`].
type Deltas = [(i64, i64); 7];

/// State changes of one transaction, by request.
#[derive(Default)]
pub(super) struct Tally {
    requests: BTreeMap<i64, (Head, Deltas)>,
}

impl Tally {
    /// The request's head; `None`: there is no such request.
    pub(super) fn head(
        &mut self,
        connection: &Connection,
        request: i64,
    ) -> Result<Option<Head>, CatalogError> {
        if let Some((head, _)) = self.requests.get(&request) {
            return Ok(Some(*head));
        }
        let head = head(connection, request)?;
        if let Some(head) = head {
            self.requests.insert(request, (head, Deltas::default()));
        }
        Ok(head)
    }

    /// Counts a change from one state (none: the row is new) to another.
    pub(super) fn shift(&mut self, request: i64, from: Option<RowState>, to: RowState, bytes: i64) {
        let Some((_, deltas)) = self.requests.get_mut(&request) else {
            return;
        };
        if let Some(from) = from {
            let delta = &mut deltas[from as usize];
            *delta = (delta.0 - 1, delta.1 - bytes);
        }
        let delta = &mut deltas[to as usize];
        *delta = (delta.0 + 1, delta.1 + bytes);
    }

    /// Applies all of it, and lets each request's state follow.
    pub(super) fn apply(self, connection: &Connection, now: Timestamp) -> Result<(), CatalogError> {
        for (request, (head, d)) in self.requests {
            if d.iter().any(|delta| *delta != (0, 0)) {
                apply_one(connection, request, &d)?;
                add_backlog(connection, &head, &d)?;
            }
            follow(connection, request, now)?;
        }
        Ok(())
    }
}

pub(super) fn head(connection: &Connection, request: i64) -> Result<Option<Head>, CatalogError> {
    first(
        connection,
        "SELECT class, uid, state, sealed FROM requests WHERE id = ?",
        [request],
        |row| {
            Ok(Head {
                class: coded(row, "class")?,
                uid: row.get("uid")?,
                cancelled: coded::<RequestState>(row, "state")? == RequestState::Cancelled,
                sealed: row.get("sealed")?,
            })
        },
        "find request",
        request,
    )
}

fn apply_one(connection: &Connection, request: i64, d: &Deltas) -> Result<(), CatalogError> {
    let changed = prepared(
        connection,
        "UPDATE requests SET pending = pending + ?2, pending_bytes = pending_bytes + ?3,
                 taken = taken + ?4, taken_bytes = taken_bytes + ?5,
                 running = running + ?6, running_bytes = running_bytes + ?7,
                 waiting = waiting + ?8, waiting_bytes = waiting_bytes + ?9,
                 done = done + ?10, done_bytes = done_bytes + ?11,
                 failed = failed + ?12, failed_bytes = failed_bytes + ?13,
                 cancelled = cancelled + ?14, cancelled_bytes = cancelled_bytes + ?15
             WHERE id = ?1",
    )
    .and_then(|mut s| {
        let flat = d.iter().flat_map(|(files, bytes)| [*files, *bytes]);
        s.execute(rusqlite::params_from_iter(
            std::iter::once(request).chain(flat),
        ))
    });
    changed
        .map(drop)
        .map_err(|e| CatalogError::sql("count for request", request, e))
}

/// Adds to the backlog of the class: of everybody (-1) and of the user.
fn add_backlog(connection: &Connection, head: &Head, d: &Deltas) -> Result<(), CatalogError> {
    if d[..4].iter().all(|delta| *delta == (0, 0)) {
        return Ok(());
    }
    for uid in [-1, i64::from(head.uid)] {
        change(
            connection,
            "INSERT INTO backlog (class, uid, pending, pending_bytes, taken, taken_bytes, running,
                 running_bytes, waiting, waiting_bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT DO UPDATE SET
                 pending = pending + excluded.pending,
                 pending_bytes = pending_bytes + excluded.pending_bytes,
                 taken = taken + excluded.taken, taken_bytes = taken_bytes + excluded.taken_bytes,
                 running = running + excluded.running,
                 running_bytes = running_bytes + excluded.running_bytes,
                 waiting = waiting + excluded.waiting,
                 waiting_bytes = waiting_bytes + excluded.waiting_bytes",
            params![
                head.class.code(),
                uid,
                d[0].0,
                d[0].1,
                d[1].0,
                d[1].1,
                d[2].0,
                d[2].1,
                d[3].0,
                d[3].1
            ],
            "count the backlog",
            format_args!("{:?}", head.class),
        )?;
    }
    Ok(())
}

/// Sets the request's state to what its counts say.
fn follow(connection: &Connection, request: i64, now: Timestamp) -> Result<(), CatalogError> {
    let read = |row: &Row<'_>| -> rusqlite::Result<(RequestState, bool, bool, [i64; 4])> {
        Ok((
            coded(row, "state")?,
            row.get("sealed")?,
            row.get::<_, Option<i64>>("finished")?.is_some(),
            [
                row.get("open")?,
                row.get("running")?,
                row.get("failed")?,
                row.get("ended")?,
            ],
        ))
    };
    let found = first(
        connection,
        "SELECT state, sealed, finished, pending + taken + waiting + running AS open, running,
             failed, done + failed AS ended FROM requests WHERE id = ?",
        [request],
        read,
        "find request",
        request,
    )?;
    let Some((state, sealed, finished, [open, running, failed, ended])) = found else {
        return Ok(());
    };
    let next = match state {
        RequestState::Cancelled => RequestState::Cancelled,
        _ if sealed && open == 0 && failed > 0 => RequestState::Failed,
        _ if sealed && open == 0 => RequestState::Done,
        RequestState::Queued if running == 0 && ended == 0 => RequestState::Queued,
        _ => RequestState::Running,
    };
    let over = match next {
        RequestState::Cancelled => running == 0,
        RequestState::Done | RequestState::Failed => true,
        RequestState::Queued | RequestState::Running => false,
    };
    if next == state && over == finished {
        return Ok(());
    }
    change(
        connection,
        "UPDATE requests SET state = ?2, finished = CASE WHEN ?3 THEN ifnull(finished, ?4) END,
             started = CASE WHEN ?5 THEN ifnull(started, ?4) ELSE started END
         WHERE id = ?1",
        params![
            request,
            next.code(),
            over,
            now.nanos(),
            next != RequestState::Queued && running + ended > 0
        ],
        "set the state of request",
        request,
    )
    .map(drop)
}

/// Moves all that a request has open, but not running, to cancelled, and the request with it.
/// `false`: it had ended before.
pub(super) fn cancel(
    connection: &Connection,
    request: i64,
    now: Timestamp,
) -> Result<bool, CatalogError> {
    let missing = || CatalogError::Missing {
        step: "cancel",
        object: format!("request {request}"),
    };
    let head = head(connection, request)?.ok_or_else(missing)?;
    let open = first(
        connection,
        "SELECT pending, pending_bytes, taken, taken_bytes, waiting, waiting_bytes
         FROM requests WHERE id = ? AND state < 2",
        [request],
        |row| {
            let mut d = Deltas::default();
            for (at, state) in [RowState::Pending, RowState::Taken, RowState::Waiting]
                .into_iter()
                .enumerate()
            {
                let (files, bytes): (i64, i64) = (row.get(2 * at)?, row.get(2 * at + 1)?);
                d[state as usize] = (-files, -bytes);
                let cancelled = &mut d[RowState::Cancelled as usize];
                *cancelled = (cancelled.0 + files, cancelled.1 + bytes);
            }
            Ok(d)
        },
        "cancel request",
        request,
    )?;
    let Some(deltas) = open else {
        return Ok(false);
    };
    apply_one(connection, request, &deltas)?;
    add_backlog(connection, &head, &deltas)?;
    change(
        connection,
        "UPDATE requests SET state = ?, unsettled = 1 WHERE id = ?",
        params![RequestState::Cancelled.code(), request],
        "cancel request",
        request,
    )?;
    follow(connection, request, now)?;
    Ok(true)
}
