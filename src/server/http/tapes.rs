//! Routes of tape libraries: cartridges, drives, and what is asked of them.

use super::{Answer, Event, Shared, Who, parse, tagged};
use crate::server::wire::{TapeAct, TapeOrder};
use axum::extract::{ConnectInfo, Path, Query, State};
use bytes::Bytes;
use serde::Deserialize;

/// Which library.
#[derive(Debug, Deserialize)]
pub(super) struct Which {
    #[serde(default)]
    tier: Option<String>,
}

pub(super) async fn list(
    State(api): Shared,
    ConnectInfo(who): Who,
    Query(which): Query<Which>,
) -> Answer {
    let asked = api.ask(who.0, move |control, peer| {
        control.tapes(which.tier.as_deref(), peer)
    });
    Ok(tagged(asked.await?))
}

pub(super) async fn show(
    State(api): Shared,
    ConnectInfo(who): Who,
    Path(barcode): Path<String>,
    Query(which): Query<Which>,
) -> Answer {
    let asked = api.ask(who.0, move |control, peer| {
        control.tape(which.tier.as_deref(), &barcode, peer)
    });
    Ok(tagged(asked.await?))
}

pub(super) async fn order(State(api): Shared, ConnectInfo(who): Who, body: Bytes) -> Answer {
    let order: TapeOrder = parse(&body)?;
    let event = Event::new(&who.0, word(&order.act));
    let result = api
        .ask(who.0, move |control, peer| control.tape_order(&order, peer))
        .await;
    api.note(event, &result);
    Ok(tagged(result?))
}

pub(super) async fn run(
    State(api): Shared,
    ConnectInfo(who): Who,
    Path(number): Path<u64>,
) -> Answer {
    let asked = api.ask(who.0, move |control, peer| control.tape_run(number, peer));
    Ok(tagged(asked.await?))
}

/// For the audit log.
const fn word(act: &TapeAct) -> &'static str {
    match act {
        TapeAct::Label { .. } => "tape-label",
        TapeAct::Retire { .. } => "tape-retire",
        TapeAct::Export { .. } => "tape-export",
        TapeAct::Import { .. } => "tape-import",
        TapeAct::Verify { .. } => "tape-verify",
        TapeAct::Repack { .. } => "tape-repack",
    }
}
