//! One connection to a server: questions and answers, one after the other.

use super::Trust;
use crate::client::ClientError;
use crate::error::Failure;
use crate::server::remote::door::join::{PROTOCOL, ROUTE};
use crate::server::wire::{
    ArchiveAsked, ArchiveQuery, End, ErrorBody, GivenPath, Hello, Problem, Schema, Tagged,
};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::http::request;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long it may take to connect and to shake hands.
const PATIENCE: Duration = Duration::from_secs(15);
/// The longest line of an answer, bytes.
const LINE_MAX: usize = 64 << 20;
/// The port that is meant where none is named.
pub const PORT: u16 = 7300;

/// Where a server is, and what is shown to it.
#[derive(Clone)]
pub struct Server {
    host: String,
    port: u16,
    token: String,
    tls: Arc<ClientConfig>,
}

impl fmt::Debug for Server {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Server {
    /// `place` is `HOST`, `HOST:PORT`, `[ADDRESS]:PORT` or the same behind `https://`.
    ///
    /// # Errors
    /// It is none of these, or the authorities' file cannot be read.
    pub fn new(place: &str, token: String, trust: &Trust) -> Result<Self, ClientError> {
        let text = place
            .strip_prefix("https://")
            .unwrap_or(place)
            .trim_end_matches('/');
        let wrong = || ClientError::Refused {
            failure: Failure::Usage,
            message: format!("`{place}` names no server"),
            hint: Some(format!(
                "write HOST or HOST:PORT; without a port {PORT} is meant"
            )),
        };
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, port.parse().map_err(|_| wrong())?)
            }
            _ => (text, PORT),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || ServerName::try_from(host).is_err() {
            return Err(wrong());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            token,
            tls: trust.config()?,
        })
    }

    /// `HOST:PORT`.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{self:?}")
    }
}

/// A server whose host died is noticed within two minutes.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15))?;
    sockopt::set_tcp_keepcnt(stream, 4)?;
    Ok(sockopt::set_socket_keepalive(stream, true)?)
}

/// See the module.
pub struct Link {
    sender: SendRequest<Full<Bytes>>,
    peer: SocketAddr,
    local: SocketAddr,
    server: Server,
    /// Says nothing, and ends with the connection.
    alive: watch::Receiver<()>,
}

impl Link {
    /// Connects; the token is not shown yet.
    ///
    /// # Errors
    /// Nobody is there, or it is not whom [`Trust`] believes.
    pub async fn connect(server: &Server) -> Result<Self, ClientError> {
        let away = |source: io::Error| ClientError::Away {
            server: server.place(),
            source,
        };
        let connect = async {
            let stream = TcpStream::connect((server.host.as_str(), server.port)).await?;
            let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
            stream.set_nodelay(true)?;
            keep_alive(&stream)?;
            let name = ServerName::try_from(server.host.clone()).map_err(io::Error::other)?;
            let secured = TlsConnector::from(Arc::clone(&server.tls))
                .connect(name, stream)
                .await?;
            Ok((secured, peer, local))
        };
        let connected = timeout(PATIENCE, connect).await;
        let (secured, peer, local) = connected
            .map_err(|_| away(io::ErrorKind::TimedOut.into()))?
            .map_err(away)?;
        let (sender, connection) = handshake(TokioIo::new(secured))
            .await
            .map_err(ClientError::broken)?;
        let (ends, alive) = watch::channel(());
        tokio::spawn(async move {
            // A mover's connection becomes something else.
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "the connection to the server ended");
            }
            drop(ends);
        });
        Ok(Self {
            sender,
            peer,
            local,
            server: server.clone(),
            alive,
        })
    }

    /// Joins as a mover: the connection becomes a conversation with the instance.
    ///
    /// # Errors
    /// Refused: the token is no mover's; or the connection broke.
    pub async fn join(
        server: &Server,
    ) -> Result<
        (
            impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
            SocketAddr,
        ),
        ClientError,
    > {
        let mut link = Self::connect(server).await?;
        let peer = link.peer;
        let request = link
            .request(Method::POST, ROUTE)
            .header("connection", "upgrade")
            .header("upgrade", PROTOCOL)
            .body(Full::new(Bytes::new()))
            .map_err(ClientError::not_understood)?;
        let late = |_| ClientError::broken("the server does not answer");
        let response = timeout(PATIENCE, link.sent(request))
            .await
            .map_err(late)??;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refused(Answer::of(response)).await);
        }
        let upgraded = timeout(PATIENCE, hyper::upgrade::on(response))
            .await
            .map_err(late)?;
        Ok((TokioIo::new(upgraded.map_err(ClientError::broken)?), peer))
    }

    /// Returns when the connection has ended, and with it what was opened on it.
    pub fn ended(&self) -> impl Future<Output = ()> + use<> {
        let mut alive = self.alive.clone();
        async move {
            // Nothing is ever said; an error is the end.
            while alive.changed().await.is_ok() {}
        }
    }

    /// The address that the connection went to.
    #[must_use]
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// This end's address.
    #[must_use]
    pub const fn local(&self) -> SocketAddr {
        self.local
    }

    /// As whom the server takes us.
    ///
    /// # Errors
    /// Refused: the token is not good.
    pub async fn hello(&mut self) -> Result<Hello, ClientError> {
        self.ask(Method::GET, "/v1/remote/hello", None::<&End>)
            .await
    }

    async fn send(
        &mut self,
        method: Method,
        route: &str,
        body: Option<&(impl Schema + Serialize + Clone)>,
    ) -> Result<Answer, ClientError> {
        let bytes = match body {
            Some(body) => serde_json::to_vec(&Tagged::from(body.clone()))
                .map_err(ClientError::not_understood)?,
            None => Vec::new(),
        };
        let request = self
            .request(method, route)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(bytes)))
            .map_err(ClientError::not_understood)?;
        let response = self.sent(request).await?;
        let good = response.status().is_success();
        let answer = Answer::of(response);
        if good {
            return Ok(answer);
        }
        Err(refused(answer).await)
    }

    fn request(&self, method: Method, route: &str) -> request::Builder {
        Request::builder()
            .method(method)
            .uri(route)
            .header("host", self.server.host.as_str())
            .header("authorization", format!("Bearer {}", self.server.token))
    }

    async fn sent(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, ClientError> {
        self.sender.ready().await.map_err(ClientError::broken)?;
        let sent = self.sender.send_request(request).await;
        sent.map_err(ClientError::broken)
    }

    /// One question, one answer.
    ///
    /// # Errors
    /// Refused, or the connection broke.
    pub async fn ask<T: Schema + DeserializeOwned>(
        &mut self,
        method: Method,
        route: &str,
        body: Option<&(impl Schema + Serialize + Clone)>,
    ) -> Result<T, ClientError> {
        let whole = self.send(method, route, body).await?.whole().await?;
        parse(&whole)
    }

    /// Asks for copies of what was put, now: the request's number.
    ///
    /// # Errors
    /// Refused, or the connection broke.
    pub async fn archive(&mut self, paths: &[Vec<u8>]) -> Result<u64, ClientError> {
        let query = ArchiveQuery {
            paths: paths.iter().map(|path| GivenPath::new(path)).collect(),
        };
        let asked: ArchiveAsked = self
            .ask(Method::POST, "/v1/remote/archive", Some(&query))
            .await?;
        Ok(asked.request)
    }

    /// One question without an answer of its own.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn tell(&mut self, route: &str) -> Result<(), ClientError> {
        self.send(Method::POST, route, None::<&End>)
            .await?
            .whole()
            .await
            .map(drop)
    }

    /// One question, many answers, each handed to `each`; problems among them likewise.
    ///
    /// # Errors
    /// As [`Self::ask`]; or the answer was cut off.
    pub async fn each<T: Schema + DeserializeOwned>(
        &mut self,
        route: &str,
        body: &(impl Schema + Serialize + Clone),
        mut each: impl FnMut(Result<T, Problem>),
    ) -> Result<(), ClientError> {
        let mut answer = self.send(Method::POST, route, Some(body)).await?;
        loop {
            let line = answer.line().await?;
            match schema(&line)?.as_str() {
                End::SCHEMA => return answer.whole().await.map(drop),
                ErrorBody::SCHEMA => return Err(parse::<ErrorBody>(&line)?.into()),
                Problem::SCHEMA => each(Err(parse(&line)?)),
                _ => each(Ok(parse(&line)?)),
            }
        }
    }
}

struct Answer {
    body: Incoming,
    buffer: BytesMut,
}

/// Why an answer is none.
async fn refused(mut answer: Answer) -> ClientError {
    let whole = match answer.whole().await {
        Ok(whole) => whole,
        Err(error) => return error,
    };
    match serde_json::from_slice::<Tagged<ErrorBody>>(&whole) {
        Ok(error) => error.body.into(),
        Err(_) => ClientError::not_understood(String::from_utf8_lossy(&whole)),
    }
}

impl Answer {
    fn of(response: Response<Incoming>) -> Self {
        Self {
            body: response.into_body(),
            buffer: BytesMut::new(),
        }
    }

    async fn more(&mut self) -> Result<bool, ClientError> {
        if self.buffer.len() > LINE_MAX {
            return Err(ClientError::not_understood("an answer without end"));
        }
        match self.body.frame().await {
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

    async fn whole(&mut self) -> Result<Bytes, ClientError> {
        while self.more().await? {}
        Ok(self.buffer.split().freeze())
    }

    async fn line(&mut self) -> Result<Bytes, ClientError> {
        let mut seen = 0;
        loop {
            if let Some(end) = self.buffer[seen..].iter().position(|b| *b == b'\n') {
                return Ok(self.buffer.split_to(seen + end + 1).freeze());
            }
            seen = self.buffer.len();
            if !self.more().await? {
                return Err(ClientError::broken("the answer was cut off"));
            }
        }
    }
}

fn schema(line: &[u8]) -> Result<String, ClientError> {
    #[derive(serde::Deserialize)]
    struct Head {
        schema: String,
    }
    let head: Head = serde_json::from_slice(line).map_err(ClientError::not_understood)?;
    Ok(head.schema)
}

fn parse<T: Schema + DeserializeOwned>(line: &[u8]) -> Result<T, ClientError> {
    let found = schema(line)?;
    if found != T::SCHEMA {
        return Err(ClientError::not_understood(format!(
            "{found}, expected {}",
            T::SCHEMA
        )));
    }
    let tagged: Tagged<T> = serde_json::from_slice(line).map_err(ClientError::not_understood)?;
    Ok(tagged.body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_in_all_usual_ways() {
        let named = |text: &str| {
            let trust = Trust::Fingerprint("00".to_owned());
            Server::new(text, "secret".to_owned(), &trust).map(|s| s.place())
        };
        for (text, place) in [
            ("archive.example.org", "archive.example.org:7300"),
            ("archive:7443", "archive:7443"),
            ("https://archive:7443/", "archive:7443"),
            ("192.0.2.1", "192.0.2.1:7300"),
            ("[2001:db8::1]:7301", "2001:db8::1:7301"),
            ("2001:db8::1", "2001:db8::1:7300"),
        ] {
            assert_eq!(named(text).unwrap(), place, "{text}");
        }
        for text in ["", ":7300", "host:port", "ho st"] {
            assert!(named(text).is_err(), "{text}");
        }
    }
}
