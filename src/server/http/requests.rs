//! Routes of requests: submit, list, show, wait, cancel, retry.

use super::{Answer, Api, Event, Refusal, Shared, Who, parse, stream, tagged};
use crate::error::Failure;
use crate::id::RequestId;
use crate::server::control::{ControlError, Peer};
use crate::server::wire::{
    ErrorBody, RequestFilter, RequestList, RequestView, Submission, SubmitOptions, Submitted,
};
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Longest list in one answer.
const MAX_LIST: usize = 1000;
/// How often a waiting caller hears of changes at most.
const CALM: Duration = Duration::from_millis(50);
/// How often a request is looked at without being told that it changed.
const LOOK: Duration = Duration::from_secs(1);
/// How often a waiting caller hears something even if nothing changed.
const HEARTBEAT: Duration = Duration::from_secs(15);

pub(super) async fn submit(State(api): Shared, ConnectInfo(who): Who, body: Bytes) -> Answer {
    let Submission {
        verb,
        subjects: named,
        options,
        part,
    } = parse(&body)?;
    let first = named.first().map(|s| s.path.clone());
    let mut event = Event::new(&who.0, verb.as_str()).subjects(named.len(), first);
    let dry_run = options.dry_run;
    let result = place(&api, verb, &named, options, part, who.0).await;
    if let Ok(Submitted::Accepted(accepted)) = &result {
        event = event.request(accepted.request);
        tracing::info!(request = accepted.request, %verb, subjects = named.len(), "accepted");
    }
    if !dry_run {
        api.note(event, &result);
    }
    Ok(match result? {
        Submitted::Accepted(accepted) => (StatusCode::ACCEPTED, tagged(accepted)).into_response(),
        Submitted::Plan(plan) => tagged(plan),
    })
}

async fn place(
    api: &Api,
    verb: crate::server::wire::Verb,
    named: &[crate::server::wire::SubjectRef],
    options: SubmitOptions,
    part: crate::server::wire::Part,
    peer: Peer,
) -> Result<Submitted, Refusal> {
    let subjects = api.subjects(named, &peer)?;
    // These walk before they answer: they must not take the threads of quick questions.
    let walks = options.dry_run || !part.last || part.into.is_some();
    let place = if walks {
        Some(api.walk(&peer).await?)
    } else {
        None
    };
    api.ask(peer, move |control, peer| {
        let _place = place;
        control.submit(verb, subjects, &options, part, peer)
    })
    .await
}

pub(super) async fn list(
    State(api): Shared,
    ConnectInfo(who): Who,
    filter: Result<Query<RequestFilter>, axum::extract::rejection::QueryRejection>,
) -> Answer {
    let Query(mut filter) =
        filter.map_err(|error| Refusal::new(Failure::Usage, error.body_text()))?;
    filter.limit = filter.limit.clamp(1, MAX_LIST);
    let requests = api
        .ask(who.0, move |control, peer| control.requests(&filter, peer))
        .await?;
    Ok(tagged(RequestList { requests }))
}

fn number(text: &str) -> Result<RequestId, Refusal> {
    text.parse()
        .map(RequestId)
        .map_err(|_| Refusal::new(Failure::NotFound, format!("{text:?} is no request number")))
}

async fn look(api: &Api, id: RequestId, peer: &Peer) -> Result<RequestView, Refusal> {
    api.ask(peer.clone(), move |control, peer| control.request(id, peer))
        .await
}

pub(super) async fn show(
    State(api): Shared,
    ConnectInfo(who): Who,
    Path(id): Path<String>,
) -> Answer {
    Ok(tagged(look(&api, number(&id)?, &who.0).await?))
}

pub(super) async fn cancel(
    State(api): Shared,
    ConnectInfo(who): Who,
    Path(id): Path<String>,
) -> Answer {
    let id = number(&id)?;
    let event = Event::new(&who.0, "cancel").request(id.0);
    let result = api
        .ask(who.0, move |control, peer| control.cancel(id, peer))
        .await;
    api.note(event, &result);
    api.waits.wake(id);
    Ok(tagged(result?))
}

pub(super) async fn retry(
    State(api): Shared,
    ConnectInfo(who): Who,
    Path(id): Path<String>,
) -> Answer {
    let id = number(&id)?;
    let event = Event::new(&who.0, "retry").request(id.0);
    let result = api
        .ask(who.0, move |control, peer| control.retry(id, peer))
        .await;
    api.note(event, &result);
    Ok((StatusCode::ACCEPTED, tagged(result?)).into_response())
}

/// A line now, a line at each change, an end when the request is final.
pub(super) async fn wait(
    State(api): Shared,
    ConnectInfo(who): Who,
    Path(id): Path<String>,
) -> Answer {
    let id = number(&id)?;
    let wait = api.waits.begin(id, who.0.uid).ok_or_else(|| {
        Refusal::new(Failure::Busy, "too many callers wait for requests")
            .hint("ask from time to time instead: cairn requests ID")
    })?;
    let first = look(&api, id, &who.0).await?;
    let (lines, response) = stream::answer();
    tokio::spawn(follow(api, id, who.0, wait, first, lines));
    Ok(response)
}

fn stopping() -> ErrorBody {
    ControlError::new(Failure::NoInstance, "the instance is stopping")
        .hint("accepted requests go on when it runs again: cairn requests")
        .into()
}

async fn follow(
    api: Arc<Api>,
    id: RequestId,
    peer: Peer,
    mut wait: crate::server::waits::Wait,
    mut view: RequestView,
    mut lines: stream::Lines,
) {
    let mut stopped = api.stopped.clone();
    loop {
        if !lines.send(view.clone()).await {
            return;
        }
        if view.state.is_final() {
            return lines.end().await;
        }
        let heartbeat = Instant::now() + HEARTBEAT;
        loop {
            let calm = Instant::now() + CALM;
            tokio::select! {
                () = lines.closed() => return,
                () = super::stop(&mut stopped) => return lines.break_off(stopping()).await,
                () = sleep_until(Instant::now() + LOOK) => {}
                () = wait.changed() => sleep_until(calm).await,
            }
            match look(&api, id, &peer).await {
                Ok(now) if now != view || Instant::now() >= heartbeat => {
                    view = now;
                    break;
                }
                Ok(_) => {}
                Err(refusal) => return lines.break_off(refusal.0.into()).await,
            }
        }
    }
}
