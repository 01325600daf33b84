//! The HTTP API: routes, what they share, and how refusals look. Bodies are JSON with a `schema`
//! field; see [`super::wire`].

mod admin;
mod nodes;
mod requests;

use super::audit::{Audit, Event};
use super::control::{Control, ControlError, Peer, Subject};
use super::handles::Tokens;
use super::listen::{Caller, Listener};
use super::socket::parse_token;
use super::waits::Waits;
use super::wire::{ErrorBody, Schema, SubjectRef, Tagged};
use super::{MAX_SUBJECTS, stream};
use crate::error::Failure;
use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tracing::Instrument;

/// Largest body: [`MAX_SUBJECTS`] paths of 4 KiB, thrice (as text and as hexadecimal), and air.
const MAX_BODY: usize = 16 << 20;
/// Walks at once: fewer than the threads there are, so that quick questions find one.
const MAX_WALKS: usize = 24;

/// What the handlers share.
pub(super) struct Api {
    control: Arc<dyn Control>,
    tokens: Arc<Tokens>,
    waits: Arc<Waits>,
    audit: Audit,
    walks: Arc<Semaphore>,
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
            walks: Arc::new(Semaphore::new(MAX_WALKS)),
            stopped,
        }
    }

    /// Asks the engine, on a thread that may block.
    async fn ask<T, F>(&self, question: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Control) -> Result<T, ControlError> + Send + 'static,
    {
        let control = Arc::clone(&self.control);
        let span = tracing::Span::current();
        match tokio::task::spawn_blocking(move || span.in_scope(|| question(&*control))).await {
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
    async fn walk(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.walks)
            .acquire_owned()
            .await
            .map_err(|_| Refusal::new(Failure::Internal, "the instance is stopping"))
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

fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/requests", post(requests::submit).get(requests::list))
        .route("/v1/requests/{id}", get(requests::show))
        .route("/v1/requests/{id}/wait", get(requests::wait))
        .route("/v1/requests/{id}/cancel", post(requests::cancel))
        .route("/v1/requests/{id}/retry", post(requests::retry))
        .route("/v1/state", post(nodes::state))
        .route("/v1/why", post(nodes::why))
        .route("/v1/status", get(admin::status))
        .route("/v1/policy/check", post(admin::policy_check))
        .route("/v1/policy/run", post(admin::policy_run))
        .route("/v1/shutdown", post(admin::shutdown))
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_route)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(axum::middleware::from_fn(traced))
        .with_state(Arc::new(api))
}

/// Returns when the server stops.
async fn stop(stopped: &mut watch::Receiver<bool>) {
    // An error means that the server was dropped, which is a stop too.
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Serves until `stopped` turns true; then lets answers under way finish.
pub(super) async fn serve(doors: Listener, api: Api, mut stopped: watch::Receiver<bool>) {
    let service = router(api).into_make_service_with_connect_info::<Caller>();
    let stop = async move { stop(&mut stopped).await };
    if let Err(error) = axum::serve(doors, service)
        .with_graceful_shutdown(stop)
        .await
    {
        tracing::error!(%error, "the control server ended");
    }
}
