//! Routes of tiers: what lies on them, how that compares with the catalog, and the collector.

use super::{Answer, Event, Shared, Who, parse, tagged};
use crate::server::wire::{CollectQuery, TierCheckQuery};
use axum::extract::{ConnectInfo, Path, State};
use bytes::Bytes;

pub(super) async fn list(State(api): Shared, ConnectInfo(who): Who) -> Answer {
    Ok(tagged(
        api.ask(who.0, |control, peer| control.tiers(peer)).await?,
    ))
}

pub(super) async fn collect(State(api): Shared, ConnectInfo(who): Who, body: Bytes) -> Answer {
    let CollectQuery { dry_run } = parse(&body)?;
    let event = Event::new(&who.0, "collect");
    let result = api
        .ask(who.0, move |control, peer| control.collect(dry_run, peer))
        .await;
    if !dry_run {
        api.note(event, &result);
    }
    Ok(tagged(result?))
}

pub(super) async fn collection(
    State(api): Shared,
    ConnectInfo(who): Who,
    Path(number): Path<u64>,
) -> Answer {
    let asked = api.ask(who.0, move |control, peer| control.collection(number, peer));
    Ok(tagged(asked.await?))
}

pub(super) async fn check(State(api): Shared, ConnectInfo(who): Who, body: Bytes) -> Answer {
    let query: TierCheckQuery = parse(&body)?;
    let asked = api.ask(who.0, move |control, peer| control.check_tier(&query, peer));
    Ok(tagged(asked.await?))
}

pub(super) async fn checked(
    State(api): Shared,
    ConnectInfo(who): Who,
    Path(number): Path<u64>,
) -> Answer {
    let asked = api.ask(who.0, move |control, peer| control.tier_check(number, peer));
    Ok(tagged(asked.await?))
}
