//! What callers ask of an agent: who they are, what there is, and transfers.

use super::register::Number;
use super::transfers;
use super::{Agent, Call, adopt, plain, probe};
use crate::error::Failure;
use crate::parcel::{Found, Tree, is_on_its_way};
use crate::server::stream::{self, Lines};
use crate::server::wire::{
    ArchiveAsked, ArchiveQuery, ContinueTransfer, DialTransfer, EntryKind, EntryView, ErrorBody,
    FinishTransfer, GivenPath, Hello, ListQuery, OpenTransfer, Problem, Schema, Tagged,
};
use axum::Router;
use axum::extract::{DefaultBodyLimit, Extension, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustix::fs::FileType;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

/// Largest body: a parcel's entries with long names, as text and as hexadecimal.
const BODY_MAX: usize = 16 << 20;

type Asked = Extension<Call>;
type Answer = Result<Response, Refused>;

/// An answer that is no success.
#[derive(Debug)]
pub(super) struct Refused {
    code: Failure,
    message: String,
    hint: Option<&'static str>,
}

impl Refused {
    pub(super) fn new(code: Failure, message: impl ToString) -> Self {
        Self {
            code,
            message: message.to_string(),
            hint: None,
        }
    }

    pub(super) fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    /// A step on a file that failed.
    pub(super) fn io(step: &str, path: &[u8], error: &io::Error) -> Self {
        let path = String::from_utf8_lossy(path);
        Self::new(
            failure_of(error),
            format!("{step} {path}: {}", words_of(error)),
        )
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = ErrorBody {
            code: self.code.as_str().to_owned(),
            message: self.message,
            hint: self.hint.map(str::to_owned),
        };
        (status, axum::Json(Tagged::from(body))).into_response()
    }
}

/// The word for an error of the mount, the other way round than [`Failure::errno`].
pub(super) fn failure_of(error: &io::Error) -> Failure {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => Failure::NotFound,
        Some(libc::EACCES | libc::EPERM | libc::EXDEV | libc::ELOOP | libc::EROFS) => {
            Failure::NotPermitted
        }
        Some(libc::EEXIST | libc::EISDIR | libc::ENOTEMPTY) => Failure::Exists,
        Some(libc::ENOSPC) => Failure::NoSpace,
        Some(libc::EDQUOT) => Failure::QuotaExceeded,
        Some(libc::EHOSTDOWN) => Failure::TierUnavailable,
        Some(libc::ENOMEDIUM) => Failure::CartridgeAbsent,
        Some(libc::ETIMEDOUT) => Failure::TimedOut,
        Some(libc::EUSERS) => Failure::OverBudget,
        Some(libc::EBUSY) => Failure::Busy,
        Some(libc::ENOTCONN) => Failure::NoInstance,
        Some(libc::EIO) => Failure::NoGoodCopy,
        _ => match error.kind() {
            io::ErrorKind::NotConnected => Failure::NoInstance,
            io::ErrorKind::ResourceBusy => Failure::Busy,
            io::ErrorKind::StaleNetworkFileHandle => Failure::Changed,
            _ => Failure::Internal,
        },
    }
}

/// Its text without the number that the standard library adds.
pub(super) fn words_of(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error")
        .next()
        .unwrap_or_default()
        .to_owned()
}

pub(super) fn tagged<T: Schema + Serialize>(value: T) -> Response {
    axum::Json(Tagged::from(value)).into_response()
}

fn parse<T: Schema + DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    let wrong = |why: String| {
        Refused::new(Failure::Usage, why).hint("client and server are of different versions")
    };
    let tagged: Tagged<T> = serde_json::from_slice(body)
        .map_err(|e| wrong(format!("the body is no {}: {e}", T::SCHEMA)))?;
    if tagged.schema != T::SCHEMA {
        return Err(wrong(format!(
            "schema {:?}, expected {:?}",
            tagged.schema,
            T::SCHEMA
        )));
    }
    Ok(tagged.body)
}

pub(super) fn router() -> Router {
    Router::new()
        .route("/v1/remote/hello", get(hello))
        .route("/v1/remote/list", post(list))
        .route("/v1/remote/archive", post(archive))
        .route("/v1/remote/probe", post(try_way))
        .route("/v1/remote/transfers", post(open))
        .route("/v1/remote/transfers/{number}/dial", post(dial))
        .route("/v1/remote/transfers/{number}/next", post(next))
        .route("/v1/remote/transfers/{number}/finish", post(finish))
        .route("/v1/remote/transfers/{number}/cancel", post(cancel))
        .fallback(|| async { Refused::new(Failure::NotFound, "no such route") })
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(())
}

/// Answers on one connection until it ends.
pub(super) async fn converse(
    agent: &Arc<Agent>,
    router: Router,
    from: SocketAddr,
    fd: OwnedFd,
) -> io::Result<()> {
    let call = Call {
        agent: Arc::clone(agent),
        from: plain(from),
        connection: agent.connections.fetch_add(1, Ordering::Relaxed),
    };
    let connection = call.connection;
    let routes = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(call.clone());
        hyper::service::Service::call(&routes, request)
    });
    let served = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(adopt(fd)?), service)
        .await;
    agent.transfers.end_of(connection).await;
    served.map_err(io::Error::other)
}

async fn hello(State(()): State<()>, Extension(call): Asked) -> Answer {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Ok(tagged(Hello {
        uid: rustix::process::geteuid().as_raw(),
        user: None,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        seen_as: call.from.ip().to_string(),
        now_ms: now
            .ok()
            .and_then(|d| i64::try_from(d.as_millis()).ok())
            .unwrap_or(0),
    }))
}

/// A path as callers write it, as one below the root: without slashes around it and doubled ones.
pub(super) fn below(path: &GivenPath) -> Vec<u8> {
    let bytes = path.bytes();
    let names = bytes
        .split(|b| *b == b'/')
        .filter(|name| !name.is_empty() && *name != b".");
    names.collect::<Vec<_>>().join(&b'/')
}

async fn archive(Extension(call): Asked, body: Bytes) -> Answer {
    let query: ArchiveQuery = parse(&body)?;
    let paths: Vec<Vec<u8>> = query.paths.iter().map(below).collect();
    let local = Arc::clone(&call.agent.local);
    let asked = tokio::task::spawn_blocking(move || local.archive(paths)).await;
    let refused = |why: String| Refused::new(Failure::Internal, format!("not archived now: {why}"));
    let request = asked
        .map_err(|e| refused(e.to_string()))?
        .map_err(refused)?;
    Ok(tagged(ArchiveAsked { request }))
}

async fn try_way(Extension(call): Asked, body: Bytes) -> Answer {
    Ok(tagged(probe::probe(&call, parse(&body)?).await?))
}

async fn list(Extension(call): Asked, body: Bytes) -> Answer {
    let query: ListQuery = parse(&body)?;
    let paths: Vec<Vec<u8>> = query.paths.iter().map(below).collect();
    let agent = Arc::clone(&call.agent);
    let tree = transfers::tree(&agent).await?;
    let (mut lines, response) = stream::answer();
    tokio::spawn(async move {
        let walked = tokio::task::spawn_blocking(move || {
            let mut walk = Walk {
                tree: &tree,
                recursive: query.recursive,
                lines: &mut lines,
                released: false,
            };
            let went = paths
                .iter()
                .all(|path| walk.top(path.clone(), query.follow));
            if walk.released
                && query.stage
                && let Err(why) = agent.local.stage(paths)
            {
                tracing::info!(
                    why,
                    "not staged beforehand; what is released comes back as it is read"
                );
            }
            (lines, went)
        });
        match walked.await {
            Ok((lines, true)) => lines.end().await,
            Ok((_, false)) => {}
            Err(error) => tracing::error!(%error, "a walk did not return"),
        }
    });
    Ok(response)
}

/// A listing that is being told.
struct Walk<'a> {
    tree: &'a Tree,
    recursive: bool,
    lines: &'a mut Lines,
    /// Something that looks released was seen: fewer blocks than it has bytes.
    released: bool,
}

impl Walk<'_> {
    /// A path that was asked for.
    fn top(&mut self, path: Vec<u8>, follow: bool) -> bool {
        let is_link = |found: &Found| found.kind == FileType::Symlink;
        if follow && self.tree.look(&path).is_ok_and(|found| is_link(&found)) {
            let there = self
                .tree
                .behind(&path)
                .and_then(|found| EntryView::of(self.tree, &path, &found, &path));
            return match there {
                Ok(Some(entry)) => self.lines.send_blocking(entry),
                Ok(None) => true,
                Err(error) => self.lines.send_blocking(problem(&path, &error)),
            };
        }
        self.visit(path)
    }

    /// One line for the path and, of a directory, for each thing below it. `false`: the caller is gone.
    fn visit(&mut self, path: Vec<u8>) -> bool {
        let mut left = vec![path];
        while let Some(path) = left.pop() {
            let seen = self.tree.look(&path).and_then(|found| {
                self.released |= found.size > found.blocks.saturating_mul(512);
                EntryView::of(self.tree, &path, &found, &path)
            });
            let told = match seen {
                Ok(Some(entry)) => {
                    let goes_in = self.recursive && entry.kind == EntryKind::Directory;
                    self.lines.send_blocking(entry) && (!goes_in || self.go_in(&path, &mut left))
                }
                // Sockets, pipes and devices are nothing to be carried.
                Ok(None) => true,
                Err(error) => self.lines.send_blocking(problem(&path, &error)),
            };
            if !told {
                return false;
            }
        }
        true
    }

    fn go_in(&mut self, path: &[u8], left: &mut Vec<Vec<u8>>) -> bool {
        match self.tree.names(path) {
            Ok(names) => {
                let join = |name: Vec<u8>| match path {
                    b"" => name,
                    _ => [path, b"/", &name].concat(),
                };
                let names = names.into_iter().rev().filter(|name| !is_on_its_way(name));
                left.extend(names.map(join));
                true
            }
            Err(error) => self.lines.send_blocking(problem(path, &error)),
        }
    }
}

pub(super) fn problem(path: &[u8], error: &io::Error) -> Problem {
    Problem {
        path: Some(GivenPath::new(path)),
        code: failure_of(error).as_str().to_owned(),
        message: words_of(error),
    }
}

async fn open(Extension(call): Asked, body: Bytes) -> Answer {
    let asked: OpenTransfer = parse(&body)?;
    Ok(tagged(
        transfers::open(&call.agent, (call.from, call.connection), asked).await?,
    ))
}

async fn dial(Extension(call): Asked, Path(number): Path<Number>, body: Bytes) -> Answer {
    let asked: DialTransfer = parse(&body)?;
    Ok(tagged(transfers::dial(&call.agent, number, &asked).await?))
}

async fn next(Extension(call): Asked, Path(number): Path<Number>, body: Bytes) -> Answer {
    let asked: ContinueTransfer = parse(&body)?;
    Ok(tagged(transfers::go_on(&call.agent, number, asked).await?))
}

async fn finish(Extension(call): Asked, Path(number): Path<Number>, body: Bytes) -> Answer {
    let asked: FinishTransfer = parse(&body)?;
    Ok(tagged(transfers::finish(&call.agent, number, asked).await?))
}

async fn cancel(Extension(call): Asked, Path(number): Path<Number>) -> Answer {
    transfers::cancel(&call.agent, number)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
