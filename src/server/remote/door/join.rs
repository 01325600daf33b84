//! A mover's call: its connection goes on as a conversation with the instance, behind this door's TLS.
//!
//! Invariants: only a mover's token opens it, and only under that token's name, and it lasts no longer than the token is
//! good; when one end goes the other is told.

use super::{Agents, ToWhom, Tokens, refusal};
use crate::error::Failure;
use crate::server::crowd::Place;
use crate::tier::mover::{Caller, SCHEMA};
use axum::body::Body;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, copy};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

/// What a mover asks for.
pub(crate) const ROUTE: &str = "/v1/mover/join";
/// What its connection becomes.
pub(crate) const PROTOCOL: &str = "cairn-mover";

/// How often it is looked whether the token is still good.
const LOOK: Duration = Duration::from_secs(2);
/// How long the last words of one end may take to the other.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Who calls.
pub(super) struct Mover {
    pub(super) name: String,
    pub(super) token: String,
    pub(super) from: SocketAddr,
}

/// A conversation that the instance is ready for.
pub(super) struct Conversation {
    caller: Caller,
    token: String,
    instance: UnixStream,
    request: Request<Incoming>,
}

/// Hands a mover over to the instance, or says why not.
pub(super) async fn hand_over(
    agents: &Arc<Agents>,
    mover: &Mover,
    request: Request<Incoming>,
) -> Result<Conversation, Response<Body>> {
    let upgrades = request.headers().get(UPGRADE);
    if request.uri().path() != ROUTE || upgrades.is_none_or(|to| to != PROTOCOL) {
        let hint = Some("cairn mover --join uses it; users have tokens of their own");
        return Err(refusal(
            Failure::NotPermitted,
            "the token is a mover's",
            hint,
        ));
    }
    let (agents, from) = (Arc::clone(agents), mover.from);
    let handed = tokio::task::spawn_blocking(move || -> io::Result<_> {
        let (here, there) = std::os::unix::net::UnixStream::pair()?;
        here.set_nonblocking(true)?;
        agents.caller(ToWhom::Instance, from, OwnedFd::from(there))?;
        Ok(here)
    });
    let here = handed.await.map_err(io::Error::other).and_then(|h| h);
    match here.and_then(UnixStream::from_std) {
        Ok(instance) => Ok(Conversation {
            caller: Caller {
                schema: SCHEMA.to_owned(),
                name: mover.name.clone(),
                from: from.to_string(),
            },
            token: mover.token.clone(),
            instance,
            request,
        }),
        Err(error) => {
            tracing::warn!(mover = mover.name, %error, "the instance does not take movers");
            let hint = Some("ask again; the server's log says more");
            Err(refusal(
                Failure::Interrupted,
                "the instance does not answer",
                hint,
            ))
        }
    }
}

impl Conversation {
    /// Begins with what is answered here, and goes on by itself; `place` is its place among connections meanwhile.
    pub(super) fn go_on(self, place: Option<Place>, tokens: Arc<Tokens>) -> Response<Body> {
        tokio::spawn(async move {
            let _place = place;
            let (name, token) = (self.caller.name.clone(), self.token.clone());
            tokio::select! {
                ended = self.talk() => if let Err(error) = ended {
                    tracing::debug!(mover = name, %error, "a mover's connection ended");
                },
                () = is_void(&tokens, &token) => tracing::warn!(mover = name, token, "its token is void: ended"),
            }
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
        response
    }

    async fn talk(self) -> io::Result<()> {
        let (instance_read, mut instance_write) = self.instance.into_split();
        let mut instance_read = instance_read;
        let mut line = serde_json::to_vec(&self.caller)?;
        line.push(b'\n');
        instance_write.write_all(&line).await?;
        let upgraded = hyper::upgrade::on(self.request).await;
        let mover = TokioIo::new(upgraded.map_err(io::Error::other)?);
        let (mut mover_read, mut mover_write) = tokio::io::split(mover);
        // When one end goes, so does the other: one that is stopped would keep its place for ever.
        tokio::select! {
            ended = copy(&mut instance_read, &mut mover_write) => {
                ended?;
                timeout(LAST_WORDS, mover_write.shutdown()).await?
            }
            ended = copy(&mut mover_read, &mut instance_write) => ended.map(drop),
        }
    }
}

/// Returns when the token is not good any more. What cannot be read says nothing against it.
async fn is_void(tokens: &Arc<Tokens>, id: &str) {
    loop {
        sleep(LOOK).await;
        let (tokens, id) = (Arc::clone(tokens), id.to_owned());
        let good = tokio::task::spawn_blocking(move || tokens.is_good(&id)).await;
        if matches!(good, Ok(Ok(false))) {
            return;
        }
    }
}
