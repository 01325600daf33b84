//! Rows of requests and actions as the vocabulary of [`super::request`].

use super::node::NodeId;
use super::request::{
    Action, ActionId, ActionState, Counts, Failure, Place, Request, RequestState, StateCount,
};
use super::sql::{coded, handle, maybe_time, some_time, uint};
use super::tally::RowState;
use crate::id::{AggregateId, RequestId, TierId};
use rusqlite::Row;

fn count(row: &Row<'_>, files: &str, bytes: &str) -> rusqlite::Result<StateCount> {
    Ok(StateCount {
        files: uint(row, files)?,
        bytes: uint(row, bytes)?,
    })
}

/// Files and bytes to be started: in a window or not.
pub(super) fn queued(row: &Row<'_>) -> rusqlite::Result<StateCount> {
    let (pending, taken) = (
        count(row, "pending", "pending_bytes")?,
        count(row, "taken", "taken_bytes")?,
    );
    Ok(StateCount {
        files: pending.files + taken.files,
        bytes: pending.bytes + taken.bytes,
    })
}

/// Files and bytes that are running.
pub(super) fn running(row: &Row<'_>) -> rusqlite::Result<StateCount> {
    count(row, "running", "running_bytes")
}

/// Files and bytes that wait for a time.
pub(super) fn waiting(row: &Row<'_>) -> rusqlite::Result<StateCount> {
    count(row, "waiting", "waiting_bytes")
}

fn tier(row: &Row<'_>) -> rusqlite::Result<Option<TierId>> {
    let tier: u32 = row.get("tier")?;
    Ok((tier != 0).then_some(TierId(tier)))
}

/// A request: `SELECT * FROM requests`.
pub(super) fn request(row: &Row<'_>) -> rusqlite::Result<Request> {
    Ok(Request {
        id: RequestId(uint(row, "id")?),
        verb: coded(row, "verb")?,
        uid: row.get("uid")?,
        gid: row.get("gid")?,
        origin: coded(row, "origin")?,
        class: coded(row, "class")?,
        key: row.get("key")?,
        tier: tier(row)?,
        options: row.get("options")?,
        created: some_time(row, "created")?,
        started: maybe_time(row, "started")?,
        finished: maybe_time(row, "finished")?,
        state: coded(row, "state")?,
        sealed: row.get("sealed")?,
        counts: Counts {
            queued: queued(row)?,
            running: running(row)?,
            waiting: waiting(row)?,
            done: count(row, "done", "done_bytes")?,
            failed: count(row, "failed", "failed_bytes")?,
            cancelled: count(row, "cancelled", "cancelled_bytes")?,
        },
    })
}

/// Columns and tables of [`action`].
pub(super) const ACTION: &str = "SELECT a.*, r.verb AS r_verb, r.class AS r_class, r.uid AS r_uid, \
    r.state AS r_state FROM actions a JOIN requests r ON r.id = a.request";

/// An action: [`ACTION`].
pub(super) fn action(row: &Row<'_>) -> rusqlite::Result<Action> {
    let cancelled = coded::<RequestState>(row, "r_state")? == RequestState::Cancelled;
    let place = match row.get::<_, Option<u32>>("epoch")? {
        Some(epoch) => Some(Place {
            aggregate: AggregateId {
                epoch,
                seq: uint(row, "seq")?,
            },
            offset: uint(row, "offset")?,
        }),
        None => None,
    };
    let failure = match row.get::<_, Option<String>>("code")? {
        Some(code) => Some(Failure {
            code,
            text: row.get::<_, Option<String>>("text")?.unwrap_or_default(),
        }),
        None => None,
    };
    Ok(Action {
        id: ActionId(row.get("id")?),
        request: RequestId(uint(row, "request")?),
        node: NodeId(row.get("node")?),
        handle: handle(row, "handle")?,
        tier: tier(row)?,
        verb: coded(row, "r_verb")?,
        state: shown(coded(row, "state")?, cancelled),
        class: coded(row, "r_class")?,
        uid: row.get("r_uid")?,
        bytes: uint(row, "bytes")?,
        place,
        near: NodeId(row.get("near")?),
        attempts: row.get("attempts")?,
        not_before: maybe_time(row, "not_before")?,
        started: maybe_time(row, "started")?,
        finished: maybe_time(row, "finished")?,
        failure,
    })
}

/// What a row's state means to a reader.
pub(super) fn shown(state: RowState, cancelled: bool) -> ActionState {
    match state {
        RowState::Pending | RowState::Taken | RowState::Waiting if cancelled => {
            ActionState::Cancelled
        }
        RowState::Pending | RowState::Taken => ActionState::Queued,
        RowState::Running => ActionState::Running,
        RowState::Waiting => ActionState::Waiting,
        RowState::Done => ActionState::Done,
        RowState::Failed => ActionState::Failed,
        RowState::Cancelled => ActionState::Cancelled,
    }
}
