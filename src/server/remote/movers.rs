//! Where the doors hand in movers of other hosts: a socket beside the control socket, for whoever runs the instance alone.
//!
//! A door connects once, and speaks as with an agent (see [`super::channel`]): it hands in movers' connections, behind TLS
//! and a token, and the streams of the transfers that this end expects.
//!
//! Invariants: nobody but root and the instance's own user is listened to; what a door handed in ends with the door.

use super::channel::{Channel, Message};
use crate::server::{peer, sys};
use crate::tier::mover::{Caller, Doorway, Gate, SCHEMA, hall};
use cairn_mover::{Listener, TransferId};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;

/// A stream must prove itself within this.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The door's own line is short.
const LINE_MAX: u64 = 4096;

/// The doors' socket.
pub(in crate::server) struct Landing(AsyncFd<OwnedFd>);

/// Channels that end with whoever served them.
#[derive(Default)]
struct Open(Vec<std::sync::Weak<Channel>>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0
            .iter()
            .filter_map(std::sync::Weak::upgrade)
            .for_each(|channel| channel.close());
    }
}

impl Landing {
    /// Takes a socket that is bound, for its owner alone; inside a runtime.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub(in crate::server) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self(sys::watch(socket)?))
    }

    /// Listens to doors until it is dropped.
    pub(in crate::server) async fn serve(self) {
        let mut open = Open::default();
        loop {
            match self.accept().await {
                Ok(channel) => {
                    open.0.retain(|one| one.strong_count() > 0);
                    open.0.push(Arc::downgrade(&channel));
                    let inside = Handle::current();
                    let listen = move || listen(&inside, &channel);
                    let thread = std::thread::Builder::new().name("cairn-landing".to_owned());
                    if let Err(error) = thread.spawn(listen) {
                        tracing::error!(%error, "no thread for a door");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a door was not let in");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn accept(&self) -> io::Result<Arc<Channel>> {
        let connection = loop {
            let mut ready = self.0.readable().await?;
            let flags = rustix::net::SocketFlags::CLOEXEC;
            match ready.try_io(|fd| Ok(rustix::net::accept_with(fd.get_ref(), flags)?)) {
                Ok(accepted) => break accepted?,
                Err(_would_block) => {}
            }
        };
        let who = peer::of(connection.as_fd())?;
        if who.uid != 0 && who.uid != rustix::process::geteuid().as_raw() {
            let why = format!("user {} is not who runs this instance", who.uid);
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        Ok(Arc::new(Channel::inherited(connection)))
    }
}

/// What a door is told.
struct ToDoor(Arc<Channel>);

impl Doorway for ToDoor {
    fn expect(&self, transfer: TransferId) -> io::Result<()> {
        self.0.send(&Message::Expect(transfer))
    }

    fn forget(&self, transfer: TransferId) {
        if let Err(error) = self.0.send(&Message::Forget(transfer)) {
            tracing::debug!(%error, "a door is gone");
        }
    }
}

/// Until the door is gone.
fn listen(inside: &Handle, channel: &Arc<Channel>) {
    let _inside = inside.enter();
    let listener = Arc::new(Listener::portless(HANDSHAKE));
    let gate = Gate {
        listener: Arc::clone(&listener),
        doorway: Arc::new(ToDoor(Arc::clone(channel))),
    };
    let mut movers = tokio::task::JoinSet::new();
    loop {
        while movers.try_join_next().is_some() {}
        match channel.receive() {
            Ok(Some(Message::Caller(from, fd))) => {
                movers.spawn(meet(from, fd, gate.clone()));
            }
            Ok(Some(Message::Stream(from, fd))) => {
                let stream = std::net::TcpStream::from(fd);
                let adopted = stream.set_nonblocking(true);
                match adopted.and_then(|()| TcpStream::from_std(stream)) {
                    Ok(stream) => listener.hand_in(stream, from),
                    Err(error) => tracing::warn!(%from, %error, "a stream was lost"),
                }
            }
            Ok(Some(Message::Expect(_) | Message::Forget(_))) => {}
            Ok(None) => return,
            Err(error) => return tracing::warn!(%error, "a door is lost"),
        }
    }
}

/// One mover, as the door hands it in: the door's line first, then its own.
async fn meet(from: SocketAddr, fd: OwnedFd, gate: Gate) {
    let stream = std::os::unix::net::UnixStream::from(fd);
    let adopted = stream
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(stream));
    let met = async {
        let mut stream = BufReader::new(adopted?);
        let mut text = Vec::new();
        let mut line = (&mut stream).take(LINE_MAX);
        let read = line.read_until(b'\n', &mut text);
        tokio::time::timeout(HANDSHAKE, read).await??;
        let caller: Caller = serde_json::from_slice(&text)?;
        if caller.schema != SCHEMA {
            let why = format!("the door speaks {}", caller.schema);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        hall().converse(caller, stream, gate).await
    };
    if let Err(error) = met.await {
        tracing::warn!(%from, %error, "a mover's connection ended");
    }
}
