//! Routes of files: their state, and why it is so.

use super::{Answer, Refusal, Shared, Who, parse, stream, tagged};
use crate::error::Failure;
use crate::server::audit::Event;
use crate::server::control::{Control, Peer, Subject};
use crate::server::wire::{
    ErrorBody, GivenPath, Problem, ReceiptQuery, RepairQuery, RepairView, StateQuery, Walk,
    WhyQuery,
};
use axum::extract::{ConnectInfo, State};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One line a node; a subject that cannot be shown gives a problem line and the others go on.
pub(super) async fn state(State(api): Shared, ConnectInfo(who): Who, body: Bytes) -> Answer {
    let StateQuery { subjects, walk } = parse(&body)?;
    let subjects = api.subjects(&subjects, &who.0)?;
    let place = api.walk(&who.0).await?;
    let (mut lines, response) = stream::answer();
    let control = Arc::clone(&api.control);
    tokio::spawn(async move {
        let walked = tokio::task::spawn_blocking(move || {
            let _place = place;
            let went = visit(&*control, subjects, walk, &who.0, &mut lines);
            (lines, went)
        })
        .await;
        match walked {
            Ok((lines, true)) => lines.end().await,
            Ok((_, false)) => {}
            Err(error) => tracing::error!(%error, "a walk did not return"),
        }
    });
    Ok(response)
}

/// `false`: the caller is gone.
fn visit(
    control: &dyn Control,
    subjects: Vec<Subject>,
    walk: Walk,
    peer: &Peer,
    lines: &mut stream::Lines,
) -> bool {
    for subject in subjects {
        let path = GivenPath::new(&subject.given);
        let mut listening = true;
        let seen = control.state(subject, walk, peer, &mut |node| {
            listening = listening && lines.send_blocking(node);
            listening
        });
        if let (true, Err(error)) = (listening, seen) {
            let code = error.code.as_str().to_owned();
            let problem = Problem {
                path: Some(path),
                code,
                message: error.message,
            };
            listening = lines.send_blocking(problem);
        }
        if !listening {
            return false;
        }
    }
    true
}

/// Sets the flag when the answer is no longer wanted: the caller went away, or has it.
struct Unwanted(Arc<AtomicBool>);

impl Drop for Unwanted {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// May take long: it is counted among the walks.
pub(super) async fn receipt(State(api): Shared, ConnectInfo(who): Who, body: Bytes) -> Answer {
    let ReceiptQuery { subject, sha256 } = parse(&body)?;
    let subject = api
        .subjects(&[subject], &who.0)?
        .pop()
        .ok_or_else(|| Refusal::new(Failure::Internal, "a subject was lost"))?;
    let place = api.walk(&who.0).await?;
    let gone = Arc::new(AtomicBool::new(false));
    let (_unwanted, stopped) = (Unwanted(Arc::clone(&gone)), api.stopped.clone());
    let control = Arc::clone(&api.control);
    let made = tokio::task::spawn_blocking(move || {
        let _place = place;
        let wanted = || !gone.load(Ordering::Acquire) && !*stopped.borrow();
        control.receipt(subject, sha256, &who.0, &wanted)
    });
    match made.await {
        Ok(receipt) => Ok(tagged(receipt?)),
        Err(error) => {
            tracing::error!(%error, "a receipt did not return");
            let why = "the instance failed to answer";
            Err(Refusal::new(Failure::Internal, why))
        }
    }
}

pub(super) async fn why(State(api): Shared, ConnectInfo(who): Who, body: Bytes) -> Answer {
    let WhyQuery { subject } = parse(&body)?;
    let subject = api
        .subjects(&[subject], &who.0)?
        .pop()
        .ok_or_else(|| Refusal::new(Failure::Internal, "a subject was lost"))?;
    Ok(tagged(
        api.ask(who.0, move |control, peer| control.why(subject, peer))
            .await?,
    ))
}

/// One line a file that is not in order; what was done is in the audit log.
pub(super) async fn repair(State(api): Shared, ConnectInfo(who): Who, body: Bytes) -> Answer {
    let RepairQuery {
        subjects,
        apply,
        keep,
    } = parse(&body)?;
    let subjects = api.subjects(&subjects, &who.0)?;
    let place = api.walk(&who.0).await?;
    let (mut lines, response) = stream::answer();
    tokio::spawn(async move {
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            let peer = who.0;
            let mut listening = true;
            let went = api
                .control
                .repair(subjects, apply, keep, &peer, &mut |repair| {
                    if apply && repair.remedy != "none" {
                        api.audit.record(&mended(&peer, &repair));
                    }
                    listening = listening && lines.send_blocking(repair);
                    listening
                });
            if let Err(error) = &went
                && listening
            {
                let said: ErrorBody = error.clone().into();
                listening = lines.send_blocking(said);
            }
            (lines, listening && went.is_ok())
        })
        .await;
        match done {
            Ok((lines, true)) => lines.end().await,
            Ok((_, false)) => {}
            Err(error) => tracing::error!(%error, "a repair did not return"),
        }
    });
    Ok(response)
}

fn mended(peer: &Peer, repair: &RepairView) -> Event {
    let event = Event::new(peer, format!("repair {}", repair.remedy));
    let event = event.subjects(1, Some(repair.path.clone()));
    match repair.result.as_str() {
        "done" => event,
        word => {
            let code = Failure::parse(word).unwrap_or(Failure::Internal);
            let message = repair.message.clone().unwrap_or_default();
            event.failed(&crate::server::control::ControlError::new(code, message))
        }
    }
}
