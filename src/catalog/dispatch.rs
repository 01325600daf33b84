//! Actions on their way: taken into the dispatcher's window, started, ended.
//!
//! Invariants: an action is in at most one window; it starts only while its request is not
//! cancelled; a restart loses nothing, because whatever was taken or running is queued again.

use super::request::{Action, ActionId, Class, Finish, Started};
use super::rows::{self, ACTION};
use super::sql::{Code, all, change, coded, first, page};
use super::tally::{RowState, Tally};
use super::{Catalog, CatalogError, Durability, Failure};
use crate::id::Timestamp;
use rusqlite::{Connection, Row, params};

/// Waiting actions woken at a time.
const WAKE: i64 = 2000;
/// Requests of one user looked at in one take.
const REQUESTS: i64 = 512;
/// Failures kept one by one; older ones only count.
const FAILURES: i64 = 1000;

impl Catalog {
    /// After a restart: what was taken or running is queued again (of cancelled requests:
    /// settled). Once, after [`Catalog::begin_incarnation`], before the first take. Gives how many.
    /// Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn recover_actions(&self, now: Timestamp) -> Result<u64, CatalogError> {
        self.write_many(usize::MAX, Durability::Full, move |connection| {
            let in_hand = all(
                connection,
                "SELECT id, request, state, bytes FROM actions WHERE state IN (1, 2)",
                [],
                row,
                "recover",
                "actions",
            )?;
            let mut tally = Tally::default();
            for action in &in_hand {
                let to = match tally.head(connection, action.request)? {
                    Some(head) if !head.cancelled => RowState::Pending,
                    _ => RowState::Cancelled,
                };
                set(connection, &mut tally, action, to)?;
            }
            tally.apply(connection, now)?;
            Ok(in_hand.len() as u64)
        })
    }

    /// Takes up to `limit` actions of a class that may start at `now`, shared out among the users
    /// that have some, oldest requests first, by order on the medium within a request. They are
    /// not taken again until they end, are put back, or the process restarts.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn take_actions(
        &self,
        class: Class,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Action>, CatalogError> {
        let turn = self.inner.turns.lock()[class as usize];
        let limit = usize::try_from(page(limit)).unwrap_or(1);
        let (taken, last) = self.write_many(limit, Durability::Relaxed, move |connection| {
            let mut tally = Tally::default();
            wake(connection, &mut tally, now)?;
            tally.apply(connection, now)?;
            take(connection, class, limit, turn, now)
        })?;
        self.inner.turns.lock()[class as usize] = last;
        Ok(taken)
    }

    /// Marks actions as running. Those whose request was cancelled meanwhile are refused. Relaxed:
    /// a crash queues them again.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn start_actions(
        &self,
        actions: Vec<ActionId>,
        now: Timestamp,
    ) -> Result<Started, CatalogError> {
        self.write_many(actions.len(), Durability::Relaxed, move |connection| {
            let (mut tally, mut answer) = (Tally::default(), Started::default());
            for id in &actions {
                let found = find(connection, *id)?;
                let open = |a: &ActionRow| matches!(a.state, RowState::Pending | RowState::Taken);
                let Some(action) = found.filter(open) else {
                    answer.refused.push(*id);
                    continue;
                };
                if tally
                    .head(connection, action.request)?
                    .is_none_or(|head| head.cancelled)
                {
                    // Counted as cancelled when the request was.
                    set_row(connection, action.id, RowState::Cancelled)?;
                    answer.refused.push(*id);
                    continue;
                }
                count(connection, &mut tally, &action, RowState::Running)?;
                change(
                    connection,
                    "UPDATE actions SET state = ?, attempts = attempts + 1, started = ?
                     WHERE id = ?",
                    params![RowState::Running.code(), now.nanos(), id.0],
                    "start",
                    id,
                )?;
                answer.started.push(*id);
            }
            tally.apply(connection, now)?;
            Ok(answer)
        })
    }

    /// Notes how attempts ended, and waits for the commit: an end that is lost unseen would leave
    /// its request open until the next start. Ending an action twice has no effect. An attempt of a cancelled
    /// request that would be tried again ends as cancelled.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn finish_actions(
        &self,
        ended: Vec<(ActionId, Finish)>,
        now: Timestamp,
        durability: Durability,
    ) -> Result<(), CatalogError> {
        self.write_many(ended.len(), durability, move |connection| {
            let mut tally = Tally::default();
            for (id, finish) in &ended {
                if let Some(action) = find(connection, *id)? {
                    end(connection, &mut tally, &action, finish, now)?;
                }
            }
            tally.apply(connection, now)
        })
    }
}

/// What state changes need of an action's row.
struct ActionRow {
    id: i64,
    request: i64,
    state: RowState,
    bytes: i64,
}

fn row(row: &Row<'_>) -> rusqlite::Result<ActionRow> {
    Ok(ActionRow {
        id: row.get("id")?,
        request: row.get("request")?,
        state: coded(row, "state")?,
        bytes: row.get("bytes")?,
    })
}

fn find(connection: &Connection, id: ActionId) -> Result<Option<ActionRow>, CatalogError> {
    first(
        connection,
        "SELECT id, request, state, bytes FROM actions WHERE id = ?",
        [id.0],
        row,
        "find",
        id,
    )
}

fn set_row(connection: &Connection, id: i64, to: RowState) -> Result<(), CatalogError> {
    change(
        connection,
        "UPDATE actions SET state = ? WHERE id = ?",
        params![to.code(), id],
        "set the state of",
        ActionId(id),
    )
    .map(drop)
}

/// Changes a row's state and counts it, except that what a cancelled request had open was counted
/// as cancelled with it.
fn set(
    connection: &Connection,
    tally: &mut Tally,
    action: &ActionRow,
    to: RowState,
) -> Result<(), CatalogError> {
    set_row(connection, action.id, to)?;
    count(connection, tally, action, to)
}

/// Counts a change of a row's state that is made beside this.
fn count(
    connection: &Connection,
    tally: &mut Tally,
    action: &ActionRow,
    to: RowState,
) -> Result<(), CatalogError> {
    let cancelled = tally
        .head(connection, action.request)?
        .is_none_or(|h| h.cancelled);
    if !cancelled || action.state == RowState::Running {
        tally.shift(action.request, Some(action.state), to, action.bytes);
    }
    Ok(())
}

/// Queues waiting actions whose time has come.
fn wake(connection: &Connection, tally: &mut Tally, now: Timestamp) -> Result<(), CatalogError> {
    let due = all(
        connection,
        "SELECT id, request, state, bytes FROM actions WHERE state = 3 AND not_before <= ?
         ORDER BY not_before LIMIT ?",
        params![now.nanos(), WAKE],
        row,
        "wake",
        "actions",
    )?;
    for action in &due {
        let cancelled = tally
            .head(connection, action.request)?
            .is_none_or(|h| h.cancelled);
        let to = if cancelled {
            RowState::Cancelled
        } else {
            RowState::Pending
        };
        set(connection, tally, action, to)?;
    }
    Ok(())
}

/// Users with something to start, beginning behind the one served last.
fn users(connection: &Connection, class: Class, turn: i64) -> Result<Vec<i64>, CatalogError> {
    let mut users = Vec::new();
    for sql in [
        "SELECT uid FROM backlog WHERE class = ? AND pending > 0 AND uid >= 0 AND uid > ?
         ORDER BY uid LIMIT 10000",
        "SELECT uid FROM backlog WHERE class = ? AND pending > 0 AND uid >= 0 AND uid <= ?
         ORDER BY uid LIMIT 10000",
    ] {
        let values = params![class.code(), turn];
        users.extend(all(
            connection,
            sql,
            values,
            |row| row.get::<_, i64>(0),
            "find",
            "users",
        )?);
    }
    Ok(users)
}

fn take(
    connection: &Connection,
    class: Class,
    limit: usize,
    turn: i64,
    now: Timestamp,
) -> Result<(Vec<Action>, i64), CatalogError> {
    let users = users(connection, class, turn)?;
    let share = (limit / users.len().max(1)).max(1);
    let (mut taken, mut last, mut tally) = (Vec::new(), turn, Tally::default());
    // First everybody's share, then what is left over to whoever has more.
    for round in [share, limit] {
        for uid in &users {
            let room = round.min(limit - taken.len());
            if room > 0 {
                take_of_user(connection, &mut tally, class, *uid, room, &mut taken)?;
                last = if round == share { *uid } else { last };
            }
        }
    }
    tally.apply(connection, now)?;
    Ok((taken, last))
}

fn take_of_user(
    connection: &Connection,
    tally: &mut Tally,
    class: Class,
    uid: i64,
    room: usize,
    taken: &mut Vec<Action>,
) -> Result<(), CatalogError> {
    let goal = taken.len() + room;
    let requests = all(
        connection,
        "SELECT id FROM requests WHERE class = ? AND uid = ? AND state < 2 AND pending > 0
         ORDER BY id LIMIT ?",
        params![class.code(), uid, REQUESTS],
        |row| row.get::<_, i64>(0),
        "find requests of user",
        uid,
    )?;
    for request in requests {
        if taken.len() >= goal {
            break;
        }
        let actions = all(
            connection,
            &format!(
                "{ACTION} WHERE a.request = ? AND a.state = 0
                 ORDER BY a.tier, a.epoch, a.seq, a.offset, a.id LIMIT ?"
            ),
            params![request, page(goal - taken.len())],
            rows::action,
            "take actions of request",
            request,
        )?;
        tally.head(connection, request)?;
        for action in actions {
            set_row(connection, action.id.0, RowState::Taken)?;
            let bytes = super::sql::int(action.bytes);
            tally.shift(request, Some(RowState::Pending), RowState::Taken, bytes);
            taken.push(action);
        }
    }
    Ok(())
}

/// An action that was refused when it was entered: failed, and never in anybody's window.
pub(super) fn end_unstarted(
    connection: &Connection,
    tally: &mut Tally,
    id: ActionId,
    why: &Failure,
    now: Timestamp,
) -> Result<(), CatalogError> {
    match find(connection, id)? {
        Some(action) => end(
            connection,
            tally,
            &action,
            &Finish::Failed(why.clone()),
            now,
        ),
        None => Ok(()),
    }
}

fn end(
    connection: &Connection,
    tally: &mut Tally,
    action: &ActionRow,
    finish: &Finish,
    now: Timestamp,
) -> Result<(), CatalogError> {
    let over = [RowState::Done, RowState::Failed, RowState::Cancelled];
    if over.contains(&action.state) {
        return Ok(());
    }
    let cancelled = tally
        .head(connection, action.request)?
        .is_none_or(|h| h.cancelled);
    let unstarted = action.state != RowState::Running;
    let (to, failure, not_before) = match finish {
        _ if cancelled && unstarted => (RowState::Cancelled, None, None),
        Finish::Done => (RowState::Done, None, None),
        Finish::Failed(failure) => (RowState::Failed, Some(failure), None),
        Finish::Cancelled => (RowState::Cancelled, None, None),
        Finish::Retry { failure, .. } | Finish::Wait { failure, .. } if cancelled => {
            (RowState::Cancelled, Some(failure), None)
        }
        Finish::PutBack if cancelled => (RowState::Cancelled, None, None),
        Finish::Retry {
            not_before,
            failure,
        }
        | Finish::Wait {
            not_before,
            failure,
        } => (RowState::Waiting, Some(failure), Some(not_before.nanos())),
        Finish::PutBack => (RowState::Pending, None, None),
    };
    count(connection, tally, action, to)?;
    let uncounted = matches!(finish, Finish::PutBack | Finish::Wait { .. });
    let put_back = uncounted && to != RowState::Cancelled && !unstarted;
    change(
        connection,
        "UPDATE actions SET state = ?8, not_before = ?2, code = ?3, text = ?4,
             finished = CASE WHEN ?5 THEN ?6 END, attempts = attempts - ?7 WHERE id = ?1",
        params![
            action.id,
            not_before,
            failure.map(|f| &f.code),
            failure.map(|f| &f.text),
            over.contains(&to),
            now.nanos(),
            put_back,
            to.code()
        ],
        "end",
        ActionId(action.id),
    )?;
    match failure {
        Some(failure) if to == RowState::Failed => note_failure(connection, action, failure, now),
        _ => Ok(()),
    }
}

fn note_failure(
    connection: &Connection,
    action: &ActionRow,
    failure: &Failure,
    now: Timestamp,
) -> Result<(), CatalogError> {
    let step = "note a failure";
    change(
        connection,
        "INSERT INTO failures (at, request, action, code, text) VALUES (?, ?, ?, ?, ?)",
        params![
            now.nanos(),
            action.request,
            action.id,
            failure.code,
            failure.text
        ],
        step,
        ActionId(action.id),
    )?;
    let oldest = connection.last_insert_rowid() - FAILURES;
    let old = "DELETE FROM failures WHERE id <= ?";
    change(connection, old, [oldest], step, ActionId(action.id))?;
    change(
        connection,
        "INSERT INTO failure_causes VALUES (?, 1, ?, ?, ?)
         ON CONFLICT DO UPDATE SET count = count + 1, last_at = excluded.last_at,
             last_text = excluded.last_text, last_request = excluded.last_request",
        params![failure.code, now.nanos(), failure.text, action.request],
        step,
        ActionId(action.id),
    )
    .map(drop)
}
