//! The sockets themselves: a directory for them, stale ones removed, modes, and accepting with
//! the peer's identity and a bound for each user.

use super::control::Peer;
use super::crowd::{Crowd, Place};
use super::{ServerError, peer, socket};
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Sleep;

/// How long the other end may read nothing before it counts as gone.
pub(super) const STALL: Duration = Duration::from_secs(30);
/// Connections waiting to be accepted.
const BACKLOG: i32 = 1024;

/// Makes the sockets' directory and clears what a dead instance left there.
pub(super) fn prepare(dir: &Path) -> Result<(), ServerError> {
    let failed = |source| ServerError::Directory {
        path: dir.to_owned(),
        source,
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .map_err(failed)?;
    for name in [socket::CONTROL, socket::HANDLES, socket::MOVERS] {
        clear(&dir.join(name))?;
    }
    Ok(())
}

/// Removes a socket nobody listens on.
fn clear(path: &Path) -> Result<(), ServerError> {
    let failed = |source| ServerError::Bind {
        path: path.to_owned(),
        source,
    };
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    let way = socket::Reachable::new(path).map_err(failed)?;
    match std::os::unix::net::UnixStream::connect(way.path()) {
        // A listener of another socket type refuses the type, not the connection.
        Ok(_) => Err(ServerError::InUse {
            path: path.to_owned(),
        }),
        Err(error) if error.raw_os_error() == Some(libc::EPROTOTYPE) => Err(ServerError::InUse {
            path: path.to_owned(),
        }),
        Err(_) => std::fs::remove_file(path).map_err(failed),
    }
}

fn open_to_all(path: &Path) -> io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
}

/// Binds the socket that takes descriptors, for all; non-blocking.
pub(super) fn bind_packets(path: &Path) -> Result<OwnedFd, ServerError> {
    let bound = packets(path).and_then(|made| open_to_all(path).map(|()| made));
    bound.map_err(|source| ServerError::Bind {
        path: path.to_owned(),
        source,
    })
}

/// Binds one of the kind for this process's user alone.
pub(super) fn bind_own_packets(path: &Path) -> Result<OwnedFd, ServerError> {
    let own = || std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600));
    let bound = packets(path).and_then(|made| own().map(|()| made));
    bound.map_err(|source| ServerError::Bind {
        path: path.to_owned(),
        source,
    })
}

fn packets(path: &Path) -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let made = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let way = socket::Reachable::new(path)?;
    rustix::net::bind(&made, &SocketAddrUnix::new(way.path())?)?;
    rustix::net::listen(&made, BACKLOG)?;
    Ok(made)
}

/// The HTTP socket.
#[derive(Debug)]
pub(super) struct Listener {
    inner: UnixListener,
    crowd: Crowd,
}

impl Listener {
    /// Binds; to be called inside a runtime.
    pub(super) fn bind(path: &Path, crowd: Crowd) -> Result<Self, ServerError> {
        let bind = || -> io::Result<UnixListener> {
            let inner = UnixListener::bind(socket::Reachable::new(path)?.path())?;
            open_to_all(path)?;
            Ok(inner)
        };
        let inner = bind().map_err(|source| ServerError::Bind {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self { inner, crowd })
    }
}

impl Listener {
    /// The next connection of somebody who may have one more.
    pub(super) async fn accept(&self) -> Connection {
        loop {
            let stream = match self.inner.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a control connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            match peer::of(stream.as_fd()) {
                Ok(peer) => match self.crowd.enter(peer.uid) {
                    Some(place) => {
                        return Connection {
                            stream,
                            peer,
                            stalled: None,
                            _place: place,
                        };
                    }
                    None => tracing::warn!(uid = peer.uid, "too many control connections"),
                },
                Err(error) => tracing::warn!(%error, "a control connection without identity"),
            }
        }
    }
}

/// One accepted connection and who made it.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    peer: Peer,
    /// Runs while the other end reads nothing of what is to be written.
    stalled: Option<Pin<Box<Sleep>>>,
    _place: Place,
}

impl Connection {
    /// Who is at the other end.
    pub(super) const fn peer(&self) -> &Peer {
        &self.peer
    }

    /// A write that went on, or one that has to wait: for so long at most.
    fn patient<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(STALL)));
        stalled
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// The caller of one HTTP request.
#[derive(Debug, Clone)]
pub(super) struct Caller(pub(super) Peer);

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.patient(cx, written)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.patient(cx, flushed)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
