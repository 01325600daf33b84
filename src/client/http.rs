//! One HTTP/1.1 connection over the control socket, on a runtime of its own; calls block.

use super::error::ClientError;
use crate::server::peer::listener_uid;
use crate::server::socket::Reachable;
use crate::server::wire::{End, ErrorBody, Schema, Tagged};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Longest answer, or line of one, that is taken, bytes.
const MAX_ANSWER: usize = 64 << 20;
/// A connection that lay idle so long is made anew: the instance closes idle ones after a while,
/// and who reads a long list of files from a slow pipe is idle between two calls.
const IDLE: Duration = Duration::from_secs(15);

/// The connection.
#[derive(Debug)]
pub(super) struct Http {
    runtime: Runtime,
    /// Remembers a Ctrl-C that comes between two calls.
    interrupts: Signal,
    sender: SendRequest<Full<Bytes>>,
    socket: PathBuf,
    trusted: bool,
    /// When the last call ended.
    idle_since: Instant,
}

impl Http {
    /// Connects. Unless `trusted`, only to a listener run by root or by the caller: who gets our
    /// descriptors must be one who could open the files anyway.
    pub(super) fn connect(socket: &Path, trusted: bool) -> Result<Self, ClientError> {
        let local = |source| ClientError::Local {
            step: "start the client",
            source,
        };
        let runtime = super::runtime()?;
        let interrupts = {
            let _inside = runtime.enter();
            signal(SignalKind::interrupt()).map_err(local)?
        };
        let sender = dial(&runtime, socket, trusted)?;
        Ok(Self {
            runtime,
            interrupts,
            sender,
            socket: socket.to_owned(),
            trusted,
            idle_since: Instant::now(),
        })
    }

    /// One question, one answer.
    pub(super) fn ask<T: Schema + DeserializeOwned>(
        &mut self,
        method: Method,
        route: &str,
        body: Option<&(impl Schema + Serialize + Clone)>,
    ) -> Result<T, ClientError> {
        let mut lines = self.lines(method, route, body)?;
        let whole = lines.whole()?;
        let answer = Line(whole).parse();
        self.idle_since = Instant::now();
        answer
    }

    /// One question, many lines of answer.
    pub(super) fn lines(
        &mut self,
        method: Method,
        route: &str,
        body: Option<&(impl Schema + Serialize + Clone)>,
    ) -> Result<Lines<'_>, ClientError> {
        let bytes = match body {
            Some(body) => serde_json::to_vec(&Tagged::from(body.clone()))
                .map_err(ClientError::not_understood)?,
            None => Vec::new(),
        };
        let request = Request::builder()
            .method(method)
            .uri(route)
            .header("host", "cairn")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(bytes)))
            .map_err(ClientError::not_understood)?;
        if self.idle_since.elapsed() > IDLE {
            self.sender = dial(&self.runtime, &self.socket, self.trusted)?;
        }
        self.idle_since = Instant::now();
        let sender = &mut self.sender;
        let response: Response<Incoming> = self
            .runtime
            .block_on(interruptible(&mut self.interrupts, None, async {
                sender.ready().await?;
                sender.send_request(request).await
            }))?
            .map_err(ClientError::broken)?;
        let good = response.status().is_success();
        let mut lines = Lines {
            runtime: &self.runtime,
            interrupts: &mut self.interrupts,
            body: response.into_body(),
            buffer: BytesMut::new(),
        };
        if good {
            return Ok(lines);
        }
        let whole = lines.whole()?;
        let error: Tagged<ErrorBody> = serde_json::from_slice(&whole)
            .map_err(|_| ClientError::not_understood(String::from_utf8_lossy(&whole)))?;
        Err(error.body.into())
    }
}

/// Connects to a socket whose listener may have our descriptors.
fn dial(
    runtime: &Runtime,
    socket: &Path,
    trusted: bool,
) -> Result<SendRequest<Full<Bytes>>, ClientError> {
    let dead = |source| ClientError::Dead {
        socket: socket.to_owned(),
        source,
    };
    let way = Reachable::new(socket).map_err(dead)?;
    let stream = runtime
        .block_on(UnixStream::connect(way.path()))
        .map_err(dead)?;
    let uid = listener_uid(stream.as_fd()).map_err(dead)?;
    if !trusted && uid != 0 && uid != rustix::process::geteuid().as_raw() {
        return Err(ClientError::Untrusted {
            socket: socket.to_owned(),
            uid,
        });
    }
    let (sender, connection) = runtime
        .block_on(handshake(TokioIo::new(stream)))
        .map_err(ClientError::broken)?;
    runtime.spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "control connection ended");
        }
    });
    Ok(sender)
}

/// An answer that is being read.
pub(super) struct Lines<'a> {
    runtime: &'a Runtime,
    interrupts: &'a mut Signal,
    body: Incoming,
    buffer: BytesMut,
}

impl Lines<'_> {
    /// The next line; `None` after the last of a whole answer. Ctrl-C gives
    /// [`ClientError::Interrupted`], the end of time [`ClientError::TimedOut`].
    pub(super) fn next(&mut self, until: Option<Instant>) -> Result<Option<Line>, ClientError> {
        let line = loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                break Line(self.buffer.split_to(end + 1).freeze());
            }
            if !self.more(until)? {
                return Err(ClientError::broken("the answer was cut off"));
            }
        };
        if line.is(End::SCHEMA) {
            // Read to the body's end, so that the connection can be used again.
            while self.more(until)? {}
            return Ok(None);
        }
        if line.is(ErrorBody::SCHEMA) {
            return Err(line.parse::<ErrorBody>()?.into());
        }
        Ok(Some(line))
    }

    fn whole(&mut self) -> Result<Bytes, ClientError> {
        while self.more(None)? {}
        Ok(self.buffer.split().freeze())
    }

    fn more(&mut self, until: Option<Instant>) -> Result<bool, ClientError> {
        if self.buffer.len() > MAX_ANSWER {
            return Err(ClientError::not_understood("an answer without end"));
        }
        let frame =
            self.runtime
                .block_on(interruptible(self.interrupts, until, self.body.frame()))?;
        match frame {
            None => Ok(false),
            Some(Err(error)) => Err(ClientError::broken(error)),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    self.buffer.extend_from_slice(&data);
                }
                Ok(true)
            }
        }
    }
}

/// One line of an answer.
pub(super) struct Line(Bytes);

impl Line {
    /// Whether it is of that schema.
    pub(super) fn is(&self, schema: &str) -> bool {
        #[derive(serde::Deserialize)]
        struct Head<'a> {
            #[serde(borrow)]
            schema: std::borrow::Cow<'a, str>,
        }
        serde_json::from_slice::<Head<'_>>(&self.0).is_ok_and(|head| head.schema == schema)
    }

    /// The line as what it should be.
    pub(super) fn parse<T: Schema + DeserializeOwned>(&self) -> Result<T, ClientError> {
        if !self.is(T::SCHEMA) {
            return Err(ClientError::not_understood(format!(
                "expected {}",
                T::SCHEMA
            )));
        }
        let tagged: Tagged<T> =
            serde_json::from_slice(&self.0).map_err(ClientError::not_understood)?;
        Ok(tagged.body)
    }
}

async fn interruptible<T>(
    interrupts: &mut Signal,
    until: Option<Instant>,
    future: impl Future<Output = T>,
) -> Result<T, ClientError> {
    let time_up = async {
        match until {
            Some(until) => tokio::time::sleep_until(until.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        done = future => Ok(done),
        () = time_up => Err(ClientError::TimedOut),
        _ = interrupts.recv() => Err(ClientError::Interrupted),
    }
}
