//! One port for everything: TLS with HTTP in it, and streams of transfers, told apart by their first bytes.
//!
//! # Invariants
//! - What a stranger can make the door hold is bounded: so many connections that did not prove themselves at one time, of
//!   all and of one address, each for so long at most; a wrong token is answered late and ends the connection.
//! - A connection that proved itself counts among its user's, of which there may be so many, and may then lie idle: data
//!   move elsewhere for hours. Its transfers end with it.
//! - The `authorization` header ends here; what an agent gets is a connection of its user.
//! - A stream is not read, only looked at, until an agent has it: its handshake is between the two ends.

pub(crate) mod join;

use super::Identity;
use super::agents::{Agents, Start, Whom as ToWhom};
use super::tokens::{Token, Tokens};
use crate::error::Failure;
use crate::server::crowd::Crowd;
use crate::server::wire::{ErrorBody, Tagged};
use axum::body::Body;
use cairn_mover::handshake::{HELLO_LEN, Hello, MAGIC};
use cairn_mover::{Listener, TransferId};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{Mutex, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

pub use super::agents::Start as AgentStart;

/// Connections that did not prove themselves yet, at one time.
const STRANGERS: usize = 512;
/// Of these, from one address: a whole network of containers may stand behind it.
const FROM_ONE: usize = 128;
/// How long one may take to do so.
const PATIENCE: Duration = Duration::from_secs(10);
/// A wrong token is answered after so long.
const PENALTY: Duration = Duration::from_millis(500);
/// So often it is looked again whether a stream is expected.
const AGAIN: u32 = 6;
/// How often it is looked whether more of a stream's first message came.
const LOOK: Duration = Duration::from_millis(5);

struct Door {
    agents: Arc<Agents>,
    tokens: Arc<Tokens>,
    tls: TlsAcceptor,
    crowd: Crowd,
    strangers: Strangers,
    /// Answers streams of transfers that nobody expects, as an agent would.
    nobody: Listener,
}

/// Serves callers on the socket until `stopped` turns true.
///
/// # Errors
/// Never returns one for what a caller does.
pub async fn serve(
    socket: TcpListener,
    identity: Identity,
    tokens: Tokens,
    start: Start,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    let door = Arc::new(Door {
        agents: Agents::new(start),
        tokens: Arc::new(tokens),
        tls: TlsAcceptor::from(identity.config),
        crowd: Crowd::default(),
        strangers: Strangers::default(),
        nobody: Listener::portless(PATIENCE),
    });
    loop {
        let accepted = tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => return Ok(()),
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((connection, from)) => {
                let Some(place) = door.strangers.enter(from.ip()) else {
                    tracing::warn!(%from, "too many connections that did not prove themselves; dropped");
                    continue;
                };
                let door = Arc::clone(&door);
                tokio::spawn(async move { door.meet(connection, from, place).await });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A dead host is noticed within two minutes.
fn keep_alive(connection: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_tcp_keepidle(connection, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(connection, Duration::from_secs(15))?;
    sockopt::set_tcp_keepcnt(connection, 4)?;
    Ok(sockopt::set_socket_keepalive(connection, true)?)
}

/// Connections that did not prove themselves, by address.
#[derive(Clone, Default)]
struct Strangers(Arc<parking_lot::Mutex<HashMap<IpAddr, usize>>>);

/// One of them.
struct Stranger {
    all: Strangers,
    from: IpAddr,
}

impl Strangers {
    fn enter(&self, from: IpAddr) -> Option<Stranger> {
        let mut all = self.0.lock();
        if all.values().sum::<usize>() >= STRANGERS {
            return None;
        }
        let count = all.entry(from).or_default();
        if *count >= FROM_ONE {
            return None;
        }
        *count += 1;
        Some(Stranger {
            all: self.clone(),
            from,
        })
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut all = self.all.0.lock();
        if let Some(count) = all.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.from);
            }
        }
    }
}

/// What a connection is.
enum Kind {
    Call,
    Stream(TransferId),
}

/// Looks at the first bytes, and leaves them there.
async fn look(connection: &TcpStream) -> io::Result<Kind> {
    let mut bytes = [0; HELLO_LEN];
    loop {
        let seen = connection.peek(&mut bytes).await?;
        let start = seen.min(MAGIC.len());
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if bytes[..start] != MAGIC[..start] {
            return Ok(Kind::Call);
        }
        if seen == HELLO_LEN {
            let hello =
                Hello::decode(&bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            return Ok(Kind::Stream(hello.transfer));
        }
        // There is no waiting for more than what is there.
        sleep(LOOK).await;
    }
}

impl Door {
    async fn meet(&self, connection: TcpStream, from: SocketAddr, place: Stranger) {
        match timeout(PATIENCE, look(&connection)).await {
            Ok(Ok(Kind::Stream(transfer))) => self.stream(connection, from, transfer).await,
            Ok(Ok(Kind::Call)) => self.call(connection, from, place).await,
            Ok(Err(error)) => tracing::debug!(%from, %error, "a connection without a beginning"),
            Err(_) => tracing::debug!(%from, "a connection without a beginning"),
        }
    }

    async fn stream(&self, connection: TcpStream, from: SocketAddr, transfer: TransferId) {
        // The agent's word may be on its way still, behind the answer that its caller has heard.
        for _ in 0..AGAIN {
            if self.agents.expects(transfer) {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        let hand_over = || -> io::Result<Option<OwnedFd>> {
            let fd = OwnedFd::from(connection.into_std()?);
            Ok(self.agents.stream(transfer, from, fd))
        };
        let back = hand_over().and_then(|back| match back {
            Some(fd) => TcpStream::from_std(std::net::TcpStream::from(fd)).map(Some),
            None => Ok(None),
        });
        match back {
            Ok(None) => {}
            Ok(Some(stranger)) => self.nobody.hand_in(stranger, from),
            Err(error) => tracing::warn!(%from, %error, "a stream could not be handed over"),
        }
    }

    async fn call(&self, connection: TcpStream, from: SocketAddr, place: Stranger) {
        // Answers are small and waited for; and a caller whose host died is noticed. Without either it works, too.
        let _ = connection.set_nodelay(true);
        let _ = keep_alive(&connection);
        let secured = match timeout(PATIENCE, self.tls.accept(connection)).await {
            Ok(Ok(secured)) => secured,
            Ok(Err(error)) => return tracing::debug!(%from, %error, "no TLS"),
            Err(_) => return tracing::debug!(%from, "no TLS in time"),
        };
        let (proven, mut is_proven) = watch::channel(false);
        let (bereft, mut is_bereft) = watch::channel(false);
        let caller = Caller {
            door: self,
            from,
            agent: Mutex::new(None),
            counted: Mutex::new(None),
            stranger: Mutex::new(Some(place)),
            proven,
            bereft,
        };
        let service = hyper::service::service_fn(|request| caller.answer(request));
        let serving = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(secured), service)
            .with_upgrades();
        let mut serving = std::pin::pin!(serving);
        let late = async {
            // An error is the end of the connection.
            let proven = timeout(PATIENCE, is_proven.wait_for(|proven| *proven))
                .await
                .is_ok();
            if proven {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            served = serving.as_mut() => if let Err(error) = served {
                tracing::debug!(%from, %error, "a caller's connection ended");
            },
            _ = is_bereft.wait_for(|bereft| *bereft) => tracing::warn!(%from, "a caller's agent died"),
            () = late => tracing::debug!(%from, "no good token in time"),
        }
    }
}

/// One caller's connection.
struct Caller<'a> {
    door: &'a Door,
    from: SocketAddr,
    /// The connection to the agent of that user, made with the first request.
    agent: Mutex<Option<ToAgent>>,
    /// Whose connection it is.
    counted: Mutex<Option<(u32, crate::server::crowd::Place)>>,
    stranger: Mutex<Option<Stranger>>,
    proven: watch::Sender<bool>,
    /// Its agent has died, and with it what was opened: the caller must not wait for that.
    bereft: watch::Sender<bool>,
}

struct ToAgent {
    uid: u32,
    sender: SendRequest<Incoming>,
}

/// An answer behind which the connection ends.
fn closing(mut response: Response<Body>) -> Response<Body> {
    let close = hyper::header::HeaderValue::from_static("close");
    response
        .headers_mut()
        .insert(hyper::header::CONNECTION, close);
    response
}

fn refusal(code: Failure, message: &str, hint: Option<&str>) -> Response<Body> {
    let body = ErrorBody {
        code: code.as_str().to_owned(),
        message: message.to_owned(),
        hint: hint.map(str::to_owned),
    };
    let text = serde_json::to_vec(&Tagged::from(body)).unwrap_or_default();
    let mut response = Response::new(Body::from(text));
    *response.status_mut() =
        StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("application/json"),
    );
    response
}

/// Among whose connections one counts: each mover is like a user of its own.
fn counted_as(token: &Token) -> u32 {
    match &token.mover {
        Some(name) => cairn_mover::Crc32c::of(name.as_bytes()).0 | 1 << 31,
        None => token.uid,
    }
}

impl Caller<'_> {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
        let token = match self.token(&request) {
            Ok(Some(token)) => token,
            Ok(None) => {
                tracing::warn!(from = %self.from, "a call without a good token was refused");
                sleep(PENALTY).await;
                let hint =
                    Some("an administrator issues one: cairn token issue; name it in CAIRN_TOKEN");
                let mut refused = refusal(
                    Failure::NotPermitted,
                    "the token is not known, or void",
                    hint,
                );
                *refused.status_mut() = StatusCode::UNAUTHORIZED;
                return Ok(closing(refused));
            }
            Err(error) => {
                tracing::error!(%error, "nobody can be let in");
                return Ok(refusal(
                    Failure::Internal,
                    "the server cannot read its tokens",
                    None,
                ));
            }
        };
        // From here on the connection counts among the user's.
        if let Err(error) = self.admit(counted_as(&token)).await {
            tracing::warn!(uid = token.uid, %error, "a caller is not let in");
            let hint = Some("end other copies first");
            return Ok(closing(refusal(
                Failure::OverBudget,
                "you have too many connections",
                hint,
            )));
        }
        if let Some(name) = &token.mover {
            let mover = join::Mover {
                name: name.clone(),
                token: token.id.clone(),
                from: self.from,
            };
            let (agents, tokens) = (&self.door.agents, &self.door.tokens);
            return Ok(match join::hand_over(agents, &mover, request).await {
                Ok(conversation) => {
                    let place = self.counted.lock().await.take().map(|(_, place)| place);
                    conversation.go_on(place, Arc::clone(tokens))
                }
                Err(refused) => closing(refused),
            });
        }
        if request.uri().path() == join::ROUTE {
            let hint = Some("an administrator issues one: cairn token issue --mover NAME");
            return Ok(closing(refusal(
                Failure::NotPermitted,
                "the token is a user's, and not a mover's",
                hint,
            )));
        }
        match self.pass_on(&token, request).await {
            Ok(response) => Ok(response.map(Body::new)),
            Err(error) => {
                tracing::warn!(uid = token.uid, %error, "a call did not reach its agent");
                self.agent.lock().await.take();
                let why = format!("the agent of user {} does not answer: {error}", token.uid);
                Ok(refusal(
                    Failure::Interrupted,
                    &why,
                    Some("ask again; the server's log says more"),
                ))
            }
        }
    }

    /// Counts the connection among the user's, and no more among strangers'.
    async fn admit(&self, uid: u32) -> io::Result<()> {
        let mut counted = self.counted.lock().await;
        if counted.as_ref().is_none_or(|(of, _)| *of != uid) {
            let place = self.door.crowd.enter(uid);
            let place = place.ok_or_else(|| io::Error::other("that user has too many"))?;
            *counted = Some((uid, place));
        }
        self.stranger.lock().await.take();
        self.proven.send_replace(true);
        Ok(())
    }

    fn token(
        &self,
        request: &Request<Incoming>,
    ) -> Result<Option<Token>, super::tokens::TokenError> {
        let header = request
            .headers()
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        match header.and_then(|text| text.strip_prefix("Bearer ")) {
            Some(text) => self.door.tokens.find(text.trim()),
            None => Ok(None),
        }
    }

    async fn pass_on(
        &self,
        token: &Token,
        mut request: Request<Incoming>,
    ) -> io::Result<Response<Incoming>> {
        request.headers_mut().remove(AUTHORIZATION);
        let mut agent = self.agent.lock().await;
        if agent
            .as_ref()
            .is_none_or(|a| a.uid != token.uid || a.sender.is_closed())
        {
            *agent = None;
            *agent = Some(self.reach(token.uid).await?);
        }
        let Some(to) = agent.as_mut() else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        to.sender.ready().await.map_err(io::Error::other)?;
        to.sender
            .send_request(request)
            .await
            .map_err(io::Error::other)
    }

    async fn reach(&self, uid: u32) -> io::Result<ToAgent> {
        let (here, there) = UnixStream::pair()?;
        let there = OwnedFd::from(there.into_std()?);
        let (agents, from) = (Arc::clone(&self.door.agents), self.from);
        // Starting a process takes its time.
        let handed =
            tokio::task::spawn_blocking(move || agents.caller(ToWhom::Agent(uid), from, there))
                .await;
        handed.map_err(io::Error::other)??;
        let (sender, connection) = handshake(TokioIo::new(here))
            .await
            .map_err(io::Error::other)?;
        let bereft = self.bereft.clone();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to an agent ended");
            }
            bereft.send_replace(true);
        });
        Ok(ToAgent { uid, sender })
    }
}
