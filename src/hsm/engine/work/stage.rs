//! The recall lane: hands files to the recaller, which answers when they are resident. No thread
//! waits.

use super::super::{Shared, tree};
use super::{Ended, end, failed, later, soon_or_never, stranger};
use crate::catalog::{Action, Finish, Verb};
use crate::error::Failure;
use crate::hsm::recall::{RecallError, StageAsk};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

pub(super) fn stage(shared: &Arc<Shared>, actions: Vec<Action>) {
    let Some(recaller) = shared.recaller() else {
        for action in &actions {
            end(shared, action, Finish::PutBack);
        }
        return;
    };
    let (mut asks, mut ids) = (Vec::new(), Vec::new());
    let (mut claims, mut claimed) = (Vec::new(), HashSet::new());
    for action in actions {
        if action.verb != Verb::Stage {
            end(shared, &action, stranger(&action));
            continue;
        }
        if let Some(why) = no_room(shared, &action) {
            end(shared, &action, why);
            continue;
        }
        // Until the recaller knows of it. A release, which looks for recalls under its own claim,
        // and this never work on one file together, however long its punch takes.
        if !claimed.contains(&action.handle) {
            let Some(claim) = shared.lanes.claim_to_stage(&action.handle) else {
                end(shared, &action, in_a_moment(shared));
                continue;
            };
            claimed.insert(action.handle.clone());
            claims.push(claim);
        }
        let hint = tree::hint(shared, &action.handle).ok().flatten();
        ids.push((action.id, action.request));
        let (shared, node, user) = (shared.clone(), action.handle.clone(), action.uid);
        let done = Box::new(move |result: Result<_, RecallError>| {
            let finish = match result {
                Ok(_) => Finish::Done,
                Err(why) => failure(&shared, &action, &why),
            };
            end(&shared, &action, finish);
        });
        asks.push(StageAsk {
            node,
            user,
            hint,
            place: None,
            done,
        });
    }
    let tokens = recaller.stage_batch(asks);
    drop(claims);
    for ((action, request), token) in ids.into_iter().zip(tokens) {
        shared.lanes.staging(action, token);
        // A cancel that came before the token was known could not give it up.
        if shared.lanes.are_cancelled(std::iter::once(request))
            && let Some(token) = shared.lanes.stage_token(action)
        {
            recaller.give_up(token);
            shared.lanes.end(Ended {
                action,
                request,
                finish: Finish::Cancelled,
            });
        }
    }
}

/// Another action works on the file; a user's stage does not wait for it longer than it must.
fn in_a_moment(shared: &Shared) -> Finish {
    Finish::Wait {
        not_before: super::super::shifted(shared.now(), Duration::from_millis(250), true),
        failure: super::reason(Failure::Busy, "another action works on it"),
    }
}

/// The request was admitted as a whole (or in parts); has somebody else taken the room meanwhile,
/// or is it still to be made?
fn no_room(shared: &Shared, action: &Action) -> Option<Finish> {
    let room = shared.room_on_backing().ok()?;
    if action.bytes <= room {
        return None;
    }
    let why = format!(
        "{} bytes are needed on the backing filesystem, {room} are free",
        action.bytes
    );
    // What policy makes room for is waited for: half an hour, about.
    let tries = if shared.releases_by_itself() { 12 } else { 3 };
    Some(if action.attempts < tries {
        later(shared, action, Failure::NoSpace, why)
    } else {
        failed(Failure::NoSpace, why)
    })
}

fn failure(shared: &Shared, action: &Action, why: &RecallError) -> Finish {
    let code = code(why);
    match code {
        Failure::Cancelled if shared.stopping() => Finish::PutBack,
        Failure::Cancelled => Finish::Cancelled,
        Failure::NotFound => Finish::Done,
        Failure::TierUnavailable => later(shared, action, code, why),
        Failure::NoSpace => soon_or_never(shared, action, code, why),
        _ if why.is_passing() => soon_or_never(shared, action, code, why),
        _ => failed(code, why),
    }
}

/// The vocabulary's word for a recall's failure.
pub(in crate::hsm::engine) fn code(why: &RecallError) -> Failure {
    match why {
        RecallError::Conflict { .. } | RecallError::Record { .. } => Failure::Conflict,
        RecallError::Foreign { .. } => Failure::Foreign,
        RecallError::Lost => Failure::Lost,
        RecallError::NoGoodCopy { .. } => Failure::NoGoodCopy,
        RecallError::Unavailable { .. } | RecallError::NotRestored(_) => Failure::TierUnavailable,
        RecallError::NoSpace { .. } => Failure::NoSpace,
        RecallError::Quota { .. } => Failure::QuotaExceeded,
        RecallError::TimedOut => Failure::TimedOut,
        RecallError::Truncated => Failure::Changed,
        RecallError::Cancelled => Failure::Cancelled,
        RecallError::Gone => Failure::NotFound,
        RecallError::Backing { .. } | RecallError::Io { .. } => Failure::Internal,
    }
}
