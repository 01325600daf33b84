//! A mover's call: its connection goes on as a conversation with the instance, behind this door's TLS.
//!
//! Invariants: only a mover's token opens it, and only under that token's name; when one end goes the other is told.

use super::{Agents, ToWhom, refusal};
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
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::UnixStream;

/// What a mover asks for.
pub(crate) const ROUTE: &str = "/v1/mover/join";
/// What its connection becomes.
pub(crate) const PROTOCOL: &str = "cairn-mover";

/// Answers a mover's request.
pub(super) async fn answer(
    agents: &Arc<Agents>,
    name: &str,
    from: SocketAddr,
    place: Option<Place>,
    request: Request<Incoming>,
) -> Response<Body> {
    let upgrades = request.headers().get(UPGRADE);
    if request.uri().path() != ROUTE || upgrades.is_none_or(|to| to != PROTOCOL) {
        let hint = Some("cairn mover --join uses it; users have tokens of their own");
        return refusal(Failure::NotPermitted, "the token is a mover's", hint);
    }
    let agents = Arc::clone(agents);
    let handed = tokio::task::spawn_blocking(move || -> io::Result<_> {
        let (here, there) = std::os::unix::net::UnixStream::pair()?;
        here.set_nonblocking(true)?;
        agents.caller(ToWhom::Instance, from, OwnedFd::from(there))?;
        Ok(here)
    });
    let here = match handed.await.map_err(io::Error::other).and_then(|h| h) {
        Ok(here) => here,
        Err(error) => {
            tracing::warn!(mover = name, %error, "the instance does not take movers");
            let hint = Some("ask again; the server's log says more");
            return refusal(Failure::Interrupted, "the instance does not answer", hint);
        }
    };
    let caller = Caller {
        schema: SCHEMA.to_owned(),
        name: name.to_owned(),
        from: from.to_string(),
    };
    tokio::spawn(async move {
        // Its place in the crowd lasts as long as the conversation.
        let _place = place;
        if let Err(error) = converse(&caller, here, request).await {
            tracing::debug!(mover = caller.name, %error, "a mover's connection ended");
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    response
}

async fn converse(
    caller: &Caller,
    here: std::os::unix::net::UnixStream,
    request: Request<Incoming>,
) -> io::Result<()> {
    let mut instance = UnixStream::from_std(here)?;
    let mut line = serde_json::to_vec(caller)?;
    line.push(b'\n');
    instance.write_all(&line).await?;
    let upgraded = hyper::upgrade::on(request).await;
    let mut mover = TokioIo::new(upgraded.map_err(io::Error::other)?);
    copy_bidirectional(&mut mover, &mut instance).await?;
    Ok(())
}
