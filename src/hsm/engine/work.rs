//! The work of the lanes: one dispatch at a time, each action's end told to the lanes.

mod again;
mod archive;
pub(super) mod release;
mod remove;
mod stage;
mod verify;

use super::Shared;
use crate::catalog::{Action, ActionId, Failure as Reason, Finish, Verb};
use crate::error::Failure;
use crate::hsm::schedule::{Dispatch, Lane};
use crate::id::RequestId;
use std::collections::HashSet;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

/// Shortest and longest pause before an action is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// Shortest and longest pause before a file is asked for again that another action has.
const BUSY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// How often a file that is being written to is tried before its action fails.
const BUSY_TRIES: u32 = 5;

/// How an action ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) action: ActionId,
    pub(super) request: RequestId,
    pub(super) finish: Finish,
}

/// Carries a dispatch out, or begins to.
pub(super) fn carry_out(shared: &Arc<Shared>, dispatch: &Dispatch) {
    let mut actions = shared.lanes.actions(dispatch);
    // None is left under way whose row is not held any more.
    let have: HashSet<_> = actions.iter().map(|a| a.id).collect();
    for item in dispatch.items.iter().filter(|i| !have.contains(&i.action)) {
        shared.lanes.end(Ended {
            action: item.action,
            request: item.request,
            finish: Finish::PutBack,
        });
    }
    // Dispatches wait for a worker too: what was cancelled meanwhile does not begin.
    for action in actions.extract_if(.., |a| {
        shared.lanes.are_cancelled(std::iter::once(a.request))
    }) {
        end(shared, &action, Finish::PutBack);
    }
    // Asked for by an earlier version, they may come as of another class.
    let removals: Vec<_> = actions.extract_if(.., |a| a.verb == Verb::Remove).collect();
    remove::remove(shared, &removals);
    if actions.is_empty() {
        return;
    }
    match dispatch.lane {
        Lane::Recall => stage::stage(shared, actions),
        Lane::Archive => archive::archive(shared, dispatch.tier, actions),
        Lane::Release => release::release(shared, &actions),
        Lane::Verify => verify::verify(shared, &actions),
        Lane::Remove => {
            for action in &actions {
                end(shared, action, stranger(action));
            }
        }
    }
}

/// Ends what a worker's panic left open: slots and requests must not wait for it. (What it ended
/// itself for good stays ended.)
pub(super) fn panicked(shared: &Arc<Shared>, dispatch: &Dispatch) {
    for action in shared.lanes.actions(dispatch) {
        let why = "the program met a mistake of its own; its log says where";
        let finish = soon_or_never(shared, &action, Failure::Internal, why);
        end(shared, &action, finish);
    }
}

fn end(shared: &Shared, action: &Action, finish: Finish) {
    if let Finish::Failed(why) = &finish {
        tracing::info!(target: "cairn::action", request = action.request.0, verb = ?action.verb, code = %why.code, why = %why.text, "failed");
    }
    shared.lanes.end(Ended {
        action: action.id,
        request: action.request,
        finish,
    });
}

fn reason(code: Failure, text: impl Display) -> Reason {
    Reason {
        code: code.as_str().to_owned(),
        text: text.to_string(),
    }
}

fn failed(code: Failure, text: impl Display) -> Finish {
    Finish::Failed(reason(code, text))
}

/// Tried again later, each time after a longer pause.
fn later(shared: &Shared, action: &Action, code: Failure, text: impl Display) -> Finish {
    let pause = pause_after(action.attempts);
    Finish::Retry {
        not_before: super::shifted(shared.now(), pause, true),
        failure: reason(code, text),
    }
}

/// Tried again a few times, then failed.
fn soon_or_never(shared: &Shared, action: &Action, code: Failure, text: impl Display) -> Finish {
    if action.attempts < BUSY_TRIES {
        later(shared, action, code, text)
    } else {
        failed(code, text)
    }
}

/// Another action has the file, perhaps for as long as a tape takes: it waits for that, and no attempt is counted.
/// It is asked for more seldom the longer that lasts.
fn busy(shared: &Shared, action: &Action) -> Finish {
    let pause = (shared.lanes.claimed_for(&action.handle) / 4).clamp(BUSY.0, BUSY.1);
    Finish::Wait {
        not_before: super::shifted(shared.now(), pause, true),
        failure: reason(Failure::Busy, "another action works on it"),
    }
}

fn pause_after(attempts: u32) -> Duration {
    BACKOFF
        .0
        .saturating_mul(1 << attempts.min(9))
        .min(BACKOFF.1)
}

/// The words of a verb that a lane should never see.
fn stranger(action: &Action) -> Finish {
    let verb: Verb = action.verb;
    failed(
        Failure::Internal,
        format!("{verb:?} is not this lane's work"),
    )
}
