//! Routes of what was deleted: listed, and brought back.

use super::{Answer, Api, Event, Refusal, Shared, Who, parse, stream};
use crate::error::Failure;
use crate::server::control::{Control, ControlError, Gone, Peer, Undelete};
use crate::server::wire::{DeletedQuery, GivenPath, GonePlace, UndeleteQuery};
use axum::extract::{ConnectInfo, State};
use bytes::Bytes;
use std::sync::Arc;

/// Takes the descriptors of the places out of the hatch.
fn gone(api: &Api, places: Vec<GonePlace>, peer: &Peer) -> Result<Vec<Gone>, Refusal> {
    let named: Vec<_> = places.iter().map(|p| p.subject.clone()).collect();
    let subjects = api.subjects(&named, peer)?;
    Ok(subjects
        .into_iter()
        .zip(places)
        .map(|(subject, place)| Gone {
            subject,
            below: place.below.bytes(),
        })
        .collect())
}

fn lost() -> Refusal {
    Refusal::new(Failure::Internal, "a subject was lost")
}

/// One line a version.
pub(super) async fn list(State(api): Shared, ConnectInfo(who): Who, body: Bytes) -> Answer {
    let DeletedQuery { place } = parse(&body)?;
    let place = gone(&api, vec![place], &who.0)?.pop().ok_or_else(lost)?;
    let share = api.walk(&who.0).await?;
    let (mut lines, response) = stream::answer();
    let control = Arc::clone(&api.control);
    tokio::spawn(async move {
        let walked = tokio::task::spawn_blocking(move || {
            let _share = share;
            let mut listening = true;
            let done = control.deleted(place, &who.0, &mut |view| {
                listening = listening && lines.send_blocking(view);
                listening
            });
            (lines, done)
        });
        end(walked.await).await;
    });
    Ok(response)
}

/// The last line: all is told, or why not.
async fn end(walked: Result<(stream::Lines, Result<(), ControlError>), tokio::task::JoinError>) {
    match walked {
        Ok((lines, Ok(()))) => lines.end().await,
        Ok((lines, Err(error))) => lines.break_off(error.into()).await,
        Err(error) => tracing::error!(%error, "a walk did not return"),
    }
}

/// One line a file: back, or why not.
pub(super) async fn undelete(State(api): Shared, ConnectInfo(who): Who, body: Bytes) -> Answer {
    let query: UndeleteQuery = parse(&body)?;
    let path = query.from.path();
    let mut places = vec![query.from];
    places.extend(query.to);
    let mut places = gone(&api, places, &who.0)?.into_iter();
    let ask = Undelete {
        from: places.next().ok_or_else(lost)?,
        to: places.next(),
        at: query.at,
        version: query.version,
        recursive: query.recursive,
        stage: query.stage,
    };
    let share = api.walk(&who.0).await?;
    let (lines, response) = stream::answer();
    let api = Arc::clone(&api);
    tokio::spawn(async move {
        let (control, asked) = (Arc::clone(&api.control), Arc::clone(&api));
        let walked = tokio::task::spawn_blocking(move || {
            let _share = share;
            bring_back(&*control, &asked, ask, path, &who.0, lines)
        });
        end(walked.await).await;
    });
    Ok(response)
}

/// Carries it out, to its end also if the caller goes away, and notes it in the audit log.
fn bring_back(
    control: &dyn Control,
    api: &Api,
    ask: Undelete,
    path: GivenPath,
    peer: &Peer,
    mut lines: stream::Lines,
) -> (stream::Lines, Result<(), ControlError>) {
    let (mut back, mut failed) = (0_u64, 0_u64);
    let mut listening = true;
    let done = control.undelete(ask, peer, &mut |one| {
        match one {
            Ok(view) => {
                back += 1;
                listening = listening && lines.send_blocking(view);
            }
            Err(problem) => {
                failed += 1;
                listening = listening && lines.send_blocking(problem);
            }
        }
        true
    });
    let mut event = Event::new(peer, "undelete")
        .subjects(1, Some(path))
        .said(format!("{back} files are back, {failed} are not"));
    let done = match done {
        Ok(accepted) => {
            if let Some(accepted) = accepted {
                event = event.request(accepted.request);
                lines.send_blocking(accepted);
            }
            Ok(())
        }
        Err(error) => {
            event = event.failed(&error);
            Err(error)
        }
    };
    if done.is_ok() && back == 0 && failed > 0 {
        event = event.ended_as("failed");
    }
    api.audit.record(&event);
    (lines, done)
}
