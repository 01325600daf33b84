//! Routes of the instance as a whole: status, policies, shutdown.

use super::{Answer, Event, Shared, Who, parse, stream, tagged};
use crate::server::wire::{PolicyCheckQuery, PolicyRunQuery, Settled, ShutdownQuery};
use axum::extract::{ConnectInfo, State};
use bytes::Bytes;

pub(super) async fn status(State(api): Shared, ConnectInfo(who): Who) -> Answer {
    Ok(tagged(
        api.ask(who.0, |control, peer| control.status(peer)).await?,
    ))
}

pub(super) async fn policy_check(State(api): Shared, ConnectInfo(who): Who, body: Bytes) -> Answer {
    let PolicyCheckQuery { name, text } = parse(&body)?;
    let report = api.ask(who.0, move |control, peer| {
        let name = name.as_deref().unwrap_or("policy");
        control.policy_check(text.as_deref().map(|text| (name, text)), peer)
    });
    Ok(tagged(report.await?))
}

pub(super) async fn policy_run(State(api): Shared, ConnectInfo(who): Who, body: Bytes) -> Answer {
    let PolicyRunQuery { rule, dry_run } = parse(&body)?;
    let event = Event::new(&who.0, "policy-run");
    let result = api
        .ask(who.0, move |control, peer| {
            control.policy_run(rule.as_deref(), dry_run, peer)
        })
        .await;
    if !dry_run {
        api.note(event, &result);
    }
    let (mut lines, response) = stream::answer();
    let runs = result?;
    tokio::spawn(async move {
        for run in runs {
            if !lines.send(run).await {
                return;
            }
        }
        lines.end().await;
    });
    Ok(response)
}

/// Anybody may ask for it, as anybody may call sync(2).
pub(super) async fn settle(State(api): Shared, ConnectInfo(who): Who) -> Answer {
    let faults = api.ask(who.0, |control, _| control.settle(false)).await?;
    Ok(tagged(Settled { faults }))
}

pub(super) async fn settled(State(api): Shared, ConnectInfo(who): Who) -> Answer {
    let faults = api.ask(who.0, |control, _| control.settle(true)).await?;
    Ok(tagged(Settled { faults }))
}

pub(super) async fn shutdown(State(api): Shared, ConnectInfo(who): Who, body: Bytes) -> Answer {
    let ShutdownQuery { force } = parse(&body)?;
    let event = Event::new(&who.0, "shutdown");
    let result = api
        .ask(who.0, move |control, peer| control.shutdown(force, peer))
        .await;
    api.note(event, &result);
    Ok(tagged(result?))
}
