//! The route of batch jobs.

use super::{Answer, Event, Shared, Who, parse, tagged};
use crate::server::wire::{JobAct, JobOrder};
use axum::extract::{ConnectInfo, State};
use bytes::Bytes;

pub(super) async fn order(State(api): Shared, ConnectInfo(who): Who, body: Bytes) -> Answer {
    let order: JobOrder = parse(&body)?;
    let act = match order.act {
        JobAct::Show | JobAct::Claim | JobAct::Unclaim | JobAct::Weigh => None,
        JobAct::Pin => Some("pin"),
        JobAct::Release => Some("release"),
        JobAct::Lapse => Some("lapse"),
    };
    let event = act.map(|act| Event::new(&who.0, format!("job {act}")).said(order.job.clone()));
    let result = api
        .ask(who.0, move |control, peer| control.job(&order, peer))
        .await;
    if let Some(event) = event {
        api.note(event, &result);
    }
    Ok(tagged(result?))
}
