//! The HTTP API: routes, what they share, and how refusals look. Bodies are JSON with a `schema`
//! field; see [`super::wire`].

mod admin;
mod deleted;
mod jobs;
mod nodes;
mod requests;
mod tapes;
mod tiers;

use super::audit::{Audit, Event};
use super::control::{Control, ControlError, Peer, Subject};
use super::handles::Tokens;
use super::listen::{Caller, Connection, Listener};
use super::share::{Share, Shares};
use super::socket::parse_token;
use super::waits::Waits;
use super::wire::{ErrorBody, Schema, SubjectRef, Tagged};
use super::{MAX_SUBJECTS, stream};
use crate::error::Failure;
use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tracing::Instrument;

/// Largest body: [`MAX_SUBJECTS`] paths of 4 KiB, thrice (as text and as hexadecimal), and air.
const MAX_BODY: usize = 8 << 20;
/// A body of at most so much is no burden, bytes.
const SMALL_BODY: u64 = 64 << 10;
/// How long a body may take to arrive.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// How long a request's head may take to arrive; and how long a connection may lie idle.
const HEAD_PATIENCE: Duration = Duration::from_secs(60);

/// What the handlers share.
pub(super) struct Api {
    control: Arc<dyn Control>,
    tokens: Arc<Tokens>,
    waits: Arc<Waits>,
    audit: Audit,
    /// Threads for questions: each user's, all users', root's. Together with the walks' they are
    /// fewer than there are threads.
    calls: Shares,
    /// Threads for walks, so that quick questions need not wait for one.
    walks: Shares,
    /// Large bodies in memory, which are each user's own.
    bodies: Shares,
    stopped: watch::Receiver<bool>,
}

type Shared = axum::extract::State<Arc<Api>>;
type Who = axum::extract::ConnectInfo<Caller>;
type Answer = Result<Response, Refusal>;

impl Api {
    pub(super) fn new(
        control: Arc<dyn Control>,
        tokens: Arc<Tokens>,
        waits: Arc<Waits>,
        audit: Audit,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        Self {
            control,
            tokens,
            waits,
            audit,
            calls: Shares::new(8, 64, 32),
            walks: Shares::new(4, 64, 16),
            bodies: Shares::new(4, Semaphore::MAX_PERMITS, 16),
            stopped,
        }
    }

    /// Asks the engine on the caller's behalf, on a thread that may block.
    async fn ask<T, F>(&self, peer: Peer, question: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Control, &Peer) -> Result<T, ControlError> + Send + 'static,
    {
        let share = self.calls.enter(&peer).await.ok_or_else(ending)?;
        let control = Arc::clone(&self.control);
        let span = tracing::Span::current();
        let call = move || {
            // The thread is the caller's also when they went away meanwhile.
            let _share = share;
            span.in_scope(|| question(&*control, &peer))
        };
        match tokio::task::spawn_blocking(call).await {
            Ok(answer) => Ok(answer?),
            Err(error) => {
                tracing::error!(%error, "a control call did not return");
                Err(Refusal::new(
                    Failure::Internal,
                    "the instance failed to answer",
                ))
            }
        }
    }

    /// A place among the walks, held until it is dropped.
    async fn walk(&self, peer: &Peer) -> Result<Share, Refusal> {
        self.walks.enter(peer).await.ok_or_else(ending)
    }

    /// The descriptors behind the tokens. All are taken, also when one is void.
    fn subjects(&self, named: &[SubjectRef], peer: &Peer) -> Result<Vec<Subject>, Refusal> {
        if named.len() > MAX_SUBJECTS {
            let message = format!(
                "{} subjects in one call, at most {MAX_SUBJECTS}",
                named.len()
            );
            return Err(Refusal::new(Failure::Usage, message));
        }
        let taken = named.iter().map(|subject| {
            let token = parse_token(&subject.token)?;
            let fd = self.tokens.take(&token, peer)?;
            Some(Subject {
                fd,
                given: subject.path.bytes(),
            })
        });
        let taken: Vec<Option<Subject>> = taken.collect();
        let all: Option<Vec<Subject>> = taken.into_iter().collect();
        all.ok_or_else(|| {
            let why = "a subject's token is unknown, used or expired";
            Refusal::new(Failure::Usage, why).hint("hand the descriptors in again")
        })
    }

    /// Notes in the audit log what came of something.
    fn note<T>(&self, event: Event, result: &Result<T, Refusal>) {
        let event = match result {
            Ok(_) => event,
            Err(refusal) => event.failed(&refusal.0),
        };
        self.audit.record(&event);
    }
}

/// An answer that is no success.
#[derive(Debug)]
pub(super) struct Refusal(ControlError);

impl Refusal {
    fn new(code: Failure, message: impl std::fmt::Display) -> Self {
        Self(ControlError::new(code, message))
    }
    fn hint(self, hint: &str) -> Self {
        Self(self.0.hint(hint))
    }
}

impl From<ControlError> for Refusal {
    fn from(error: ControlError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, axum::Json(Tagged::from(ErrorBody::from(self.0)))).into_response()
    }
}

fn tagged<T: Schema + Serialize>(value: T) -> Response {
    axum::Json(Tagged::from(value)).into_response()
}

/// The body as what it says it is.
fn parse<T: Schema + DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let tagged: Tagged<T> = serde_json::from_slice(body).map_err(|error| {
        Refusal::new(
            Failure::Usage,
            format!("the body is no {}: {error}", T::SCHEMA),
        )
    })?;
    if tagged.schema != T::SCHEMA {
        let message = format!("schema {:?}, expected {:?}", tagged.schema, T::SCHEMA);
        return Err(Refusal::new(Failure::Usage, message)
            .hint("client and instance are of different versions"));
    }
    Ok(tagged.body)
}

async fn no_such_route() -> Refusal {
    Refusal::new(Failure::NotFound, "no such route")
        .hint("client and instance are of different versions")
}

fn ending() -> Refusal {
    Refusal::new(Failure::Internal, "the instance is stopping")
}

/// Takes the body in: what a caller may have in memory is bounded, and the time they may take.
async fn bounded(
    State(api): Shared,
    ConnectInfo(who): Who,
    call: axum::extract::Request,
    next: axum::middleware::Next,
) -> Answer {
    let (head, body) = call.into_parts();
    let size = hyper::body::Body::size_hint(&body);
    if size.lower() > MAX_BODY as u64 {
        let message = format!("a body of {} bytes, at most {MAX_BODY}", size.lower());
        return Err(Refusal::new(Failure::Usage, message).hint("hand files over in several calls"));
    }
    let most = size.upper();
    let _share = if most.is_none_or(|most| most > SMALL_BODY) {
        Some(api.bodies.enter(&who.0).await.ok_or_else(ending)?)
    } else {
        None
    };
    let all = axum::body::to_bytes(body, MAX_BODY);
    let bytes = match tokio::time::timeout(BODY_PATIENCE, all).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            let message = format!("the body was cut off, or is larger than 8 MiB: {error}");
            return Err(Refusal::new(Failure::Usage, message));
        }
        Err(_) => {
            let message = "the body did not arrive in time";
            return Err(Refusal::new(Failure::TimedOut, message));
        }
    };
    let call = axum::extract::Request::from_parts(head, axum::body::Body::from(bytes));
    Ok(next.run(call).await)
}

/// All that is logged on behalf of a call says whose it is; the route names the request.
async fn traced(
    ConnectInfo(who): Who,
    call: axum::extract::Request,
    next: axum::middleware::Next,
) -> Response {
    let Caller(Peer { uid, pid, .. }) = who;
    let route = call.uri().path().to_owned();
    let span = tracing::info_span!("control", method = %call.method(), route, uid, pid);
    next.run(call).instrument(span).await
}

fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/v1/requests", post(requests::submit).get(requests::list))
        .route("/v1/requests/{id}", get(requests::show))
        .route("/v1/requests/{id}/wait", get(requests::wait))
        .route("/v1/requests/{id}/cancel", post(requests::cancel))
        .route("/v1/requests/{id}/retry", post(requests::retry))
        .route("/v1/jobs", post(jobs::order))
        .route("/v1/state", post(nodes::state))
        .route("/v1/why", post(nodes::why))
        .route("/v1/deleted", post(deleted::list))
        .route("/v1/undelete", post(deleted::undelete))
        .route("/v1/repair", post(nodes::repair))
        .route("/v1/receipt", post(nodes::receipt))
        .route("/v1/status", get(admin::status))
        .route("/v1/policy/check", post(admin::policy_check))
        .route("/v1/policy/run", post(admin::policy_run))
        .route("/v1/tiers", get(tiers::list))
        .route("/v1/tiers/check", post(tiers::check))
        .route("/v1/tiers/check/{number}", get(tiers::checked))
        .route("/v1/tiers/collect", post(tiers::collect))
        .route("/v1/tiers/collect/{number}", get(tiers::collection))
        .route("/v1/tapes", get(tapes::list).post(tapes::order))
        .route("/v1/tapes/runs/{number}", get(tapes::run))
        .route("/v1/tapes/cartridge/{barcode}", get(tapes::show))
        .route("/v1/settle", post(admin::settle).get(admin::settled))
        .route("/v1/shutdown", post(admin::shutdown))
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_route)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(axum::middleware::from_fn_with_state(api.clone(), bounded))
        .layer(axum::middleware::from_fn(traced))
        .with_state(api)
}

/// Returns when the server stops.
async fn stop(stopped: &mut watch::Receiver<bool>) {
    // An error means that the server was dropped, which is a stop too.
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Serves until `stopped` turns true; then lets answers under way finish.
pub(super) async fn serve(doors: Listener, api: Api, mut stopped: watch::Receiver<bool>) {
    let router = router(Arc::new(api));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop(&mut stopped) => break,
            Some(_) = connections.join_next() => {}
            connection = doors.accept() => {
                connections.spawn(converse(connection, router.clone(), stopped.clone()));
            }
        }
    }
    drop(doors);
    while connections.join_next().await.is_some() {}
}

/// Answers on one connection until it ends, or lies idle too long.
async fn converse(connection: Connection, router: Router, mut stopped: watch::Receiver<bool>) {
    let caller = Caller(connection.peer().clone());
    let routes = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |mut call: hyper::Request<Incoming>| {
        call.extensions_mut().insert(ConnectInfo(caller.clone()));
        hyper::service::Service::call(&routes, call)
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .serve_connection(TokioIo::new(connection), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop(&mut stopped) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a control connection ended");
    }
}
