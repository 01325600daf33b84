//! An agent: acts for one user's remote callers, as a process of that user.
//!
//! It looks and writes through the mount, as any local program does, so that permissions, quota, recalls and the
//! changelog are as for those; and it is one end of the callers' transfers.
//!
//! # Invariants
//! - It is what it was started as: it never changes its user, and never needs more rights.
//! - What a caller's name stands for is looked up beneath the mount's root, and nowhere else.
//! - What it makes of callers' bytes is durable before it says so.
//! - It ends when the door does, or when nothing was asked of it for a while; it has the mount open only while something
//!   is, so that it can be unmounted.
//! - What a caller's connection opened ends with it.

mod probe;
mod register;
mod routes;
mod transfers;

use super::channel::{Channel, Message};
use crate::parcel::Tree;
use cairn_mover::{Host, Listener, Network, Place};
use parking_lot::Mutex;
use register::Transfers;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::net::{TcpStream, UnixStream};

/// Without a caller for so long, an agent ends.
const IDLE: Duration = Duration::from_secs(60);
/// A stream must prove itself within this.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What an agent needs of the instance: the user's own doors to it.
pub trait Local: Send + Sync + 'static {
    /// Makes durable all that was written and named on the mount before, unless it `only_look`s; how often a write was lost
    /// so far, from an arbitrary start on.
    ///
    /// # Errors
    /// The instance does not answer (`NotConnected`), or its filesystem failed.
    fn settle(&self, only_look: bool) -> io::Result<u64>;
    /// Asks for these files, and what lies below these directories, to be brought back. Paths below the mount.
    ///
    /// # Errors
    /// Why that was refused; reading brings them back one by one then.
    fn stage(&self, paths: Vec<Vec<u8>>) -> Result<(), String>;
    /// Asks for copies of these files, and of what lies below these directories; the request's number.
    ///
    /// # Errors
    /// Why that was refused; the policy archives them later.
    fn archive(&self, paths: Vec<Vec<u8>>) -> Result<u64, String>;
}

/// How an agent works.
pub struct Plan {
    /// The mount.
    pub mount: PathBuf,
    /// Networks that may be dialled besides the caller's own address.
    pub dial: Vec<Network>,
    /// Hosts and ports that callers dial; none: where the control connection went.
    pub advertise: Vec<Place>,
    /// The socket to the door.
    pub door: OwnedFd,
    /// The instance.
    pub local: Arc<dyn Local>,
}

/// Who is at the other end of a connection: the agent, and the address that the call came from.
#[derive(Clone)]
struct Call {
    agent: Arc<Agent>,
    from: SocketAddr,
    connection: u64,
}

/// What its parts share.
struct Agent {
    mount: PathBuf,
    tree: Mutex<Weak<Tree>>,
    local: Arc<dyn Local>,
    dial: Vec<Network>,
    advertise: Vec<Place>,
    listener: Listener,
    door: Channel,
    transfers: Transfers,
    callers: AtomicUsize,
    connections: AtomicU64,
}

/// `host:port` as callers dial it.
///
/// # Errors
/// It is none.
pub fn place(text: &str) -> Result<Place, String> {
    let wrong = || format!("`{text}` is no HOST:PORT");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let host: Host = host.trim_matches(['[', ']']).parse().map_err(|_| wrong())?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    Ok(Place::new(host, &[port]))
}

/// Serves until the door is gone, or nobody wants anything.
///
/// # Errors
/// The mount cannot be opened, or threads cannot be started.
pub fn run(plan: Plan) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(64)
        .thread_name("cairn-agent")
        .enable_all()
        .build()?;
    let _inside = runtime.enter();
    let agent = Arc::new(Agent {
        mount: plan.mount,
        tree: Mutex::default(),
        local: plan.local,
        dial: plan.dial,
        advertise: plan.advertise,
        listener: Listener::portless(HANDSHAKE),
        door: Channel::inherited(plan.door),
        transfers: Transfers::default(),
        callers: AtomicUsize::new(0),
        connections: AtomicU64::new(0),
    });
    let watch = Arc::clone(&agent);
    runtime.spawn(async move { watch.until_idle().await });
    let router = routes::router();
    loop {
        match agent.door.receive()? {
            None => break,
            Some(Message::Caller(from, fd)) => {
                let (agent, router) = (Arc::clone(&agent), router.clone());
                agent.callers.fetch_add(1, Ordering::SeqCst);
                runtime.spawn(async move {
                    if let Err(error) = routes::converse(&agent, router, from, fd).await {
                        tracing::debug!(%from, %error, "a caller's connection ended");
                    }
                    agent.callers.fetch_sub(1, Ordering::SeqCst);
                });
            }
            Some(Message::Stream(from, fd)) => {
                let stream = std::net::TcpStream::from(fd);
                match stream
                    .set_nonblocking(true)
                    .and_then(|()| TcpStream::from_std(stream))
                {
                    Ok(stream) => agent.listener.hand_in(stream, from),
                    Err(error) => tracing::warn!(%from, %error, "a stream was lost"),
                }
            }
            Some(Message::Expect(_) | Message::Forget(_)) => {}
        }
    }
    // Transfers end with their ends; what was not named is gone, what can be resumed stays.
    runtime.shutdown_timeout(Duration::from_secs(2));
    Ok(())
}

impl Agent {
    /// The mount's root, open as long as somebody has it.
    fn tree(&self) -> io::Result<Arc<Tree>> {
        let mut kept = self.tree.lock();
        if let Some(open) = kept.upgrade() {
            return Ok(open);
        }
        let opened = Arc::new(Tree::open(&self.mount)?);
        *kept = Arc::downgrade(&opened);
        Ok(opened)
    }

    /// Ends the process when it had neither callers nor transfers for a while. The door starts another one.
    async fn until_idle(&self) {
        let mut since = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.transfers.forget_old().await;
            if self.callers.load(Ordering::SeqCst) > 0 || !self.transfers.is_empty() {
                since = Instant::now();
            } else if since.elapsed() > IDLE {
                std::process::exit(0);
            }
        }
    }
}

/// The address as one without a mapping: `::ffff:192.0.2.1` is 192.0.2.1.
fn plain(from: SocketAddr) -> SocketAddr {
    SocketAddr::new(from.ip().to_canonical(), from.port())
}

fn adopt(fd: OwnedFd) -> io::Result<UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(fd);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}
