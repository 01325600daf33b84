//! The end that listens: ports of a range, and who may come in through them.
//!
//! Invariants kept here:
//! - only a connection that proved itself gets to a transfer; strangers are dropped and logged;
//! - a stream's number is used once in a transfer;
//! - at most [`PENDING`] connections of a port (or of those handed in) are in their handshake; the oldest
//!   makes room;
//! - a transfer is expected only while its [`Incoming`] lives.

use super::crew::{Door, SURPLUS};
use super::error::Error;
use super::stream::{Stream, accept};
use crate::handshake::{Hello, Terms};
use crate::iod::{Host, Iod, Place};
use crate::ports::PortMap;
use crate::secret::{Secret, TransferId, random};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

/// Connections of one port that may be in their handshake at one time.
const PENDING: usize = 64;

/// Where to listen.
#[derive(Debug, Clone)]
pub struct ListenOptions {
    /// The address to bind; what is advertised is another matter.
    pub bind: IpAddr,
    /// The ports to bind, and as they are dialled; any free ports, if not given.
    pub ports: Option<PortMap>,
    /// How many ports are wanted, at least 1.
    pub want: usize,
    /// A connection must prove itself within this.
    pub handshake: Duration,
}

/// Fewer ports were free than wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortfall {
    /// The range.
    pub range: String,
    /// How many were wanted.
    pub wanted: usize,
    /// How many there are.
    pub got: usize,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { range, wanted, got } = self;
        write!(
            f,
            "port range {range} has {got} free ports and {wanted} were wanted: using {got}; \
             widen it (CAIRN_PORT_RANGE) or ask for fewer streams"
        )
    }
}

struct Expected {
    secret: Secret,
    terms: Terms,
    used: HashSet<u16>,
    streams: mpsc::Sender<Stream>,
}

#[derive(Default)]
struct Register {
    transfers: Mutex<HashMap<TransferId, Expected>>,
    strangers: AtomicU64,
}

impl Register {
    fn look_up(&self, hello: &Hello) -> Option<(Secret, Terms)> {
        let transfers = self.transfers.lock();
        let found = transfers.get(&hello.transfer);
        found.map(|e| (e.secret.clone(), e.terms))
    }

    fn admit(&self, stream: Stream) {
        let (peer, index) = (stream.peer, stream.index);
        let mut transfers = self.transfers.lock();
        let admitted = transfers.get_mut(&stream.transfer).is_some_and(|expected| {
            expected.used.insert(index.0) && expected.streams.try_send(stream).is_ok()
        });
        if !admitted {
            tracing::warn!(%peer, stream = %index, "stream dropped: its number was used, or there are too many");
        }
    }

    async fn handshake(self: Arc<Self>, socket: TcpStream, peer: SocketAddr, limit: Duration) {
        let look_up = |hello: &Hello| self.look_up(hello);
        match accept(socket, peer, look_up, limit).await {
            Ok(stream) => self.admit(stream),
            Err(error) => {
                self.strangers.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%peer, %error, "connection to a data port dropped");
            }
        }
    }

    async fn serve(self: Arc<Self>, socket: TcpListener, limit: Duration) {
        let mut handshakes = Handshakes::default();
        loop {
            match socket.accept().await {
                Ok((connection, peer)) => {
                    let task = Arc::clone(&self).handshake(connection, peer, limit);
                    handshakes.begin(task);
                }
                Err(error) => {
                    // Out of descriptors, or the connection is gone already: neither is for ever.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

/// Handshakes under way: a bounded number, of which the oldest makes room.
#[derive(Default)]
struct Handshakes {
    tasks: JoinSet<()>,
    pending: VecDeque<AbortHandle>,
}

impl Handshakes {
    fn begin(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.pending.retain(|task| !task.is_finished());
        if self.pending.len() >= PENDING
            && let Some(oldest) = self.pending.pop_front()
        {
            oldest.abort();
        }
        self.pending.push_back(self.tasks.spawn(task));
    }
}

/// Listens on some ports, for any number of transfers. Dropped, it lets nobody in any more.
pub struct Listener {
    register: Arc<Register>,
    addresses: Vec<SocketAddr>,
    ports: Option<PortMap>,
    wanted: usize,
    handshake: Duration,
    handed: Mutex<Handshakes>,
    _tasks: JoinSet<()>,
}

impl Listener {
    /// Listens nowhere: connections come by [`Self::hand_in`] from whoever accepts them, so that many processes can
    /// share one open port. Each must prove itself within `handshake`.
    #[must_use]
    pub fn portless(handshake: Duration) -> Self {
        Self {
            register: Arc::default(),
            addresses: Vec::new(),
            ports: None,
            wanted: 0,
            handshake,
            handed: Mutex::default(),
            _tasks: JoinSet::new(),
        }
    }

    /// Takes a connection that was accepted elsewhere, with nothing read from it. Inside a runtime.
    pub fn hand_in(&self, connection: TcpStream, peer: SocketAddr) {
        let task = Arc::clone(&self.register).handshake(connection, peer, self.handshake);
        self.handed.lock().begin(task);
    }

    /// Takes up to `want` free ports, from a random place of the range on. Fewer are no error: see [`Self::shortfall`].
    ///
    /// # Errors
    /// [`Error::Listen`] if there is none.
    pub async fn bind(options: &ListenOptions) -> Result<Self, Error> {
        let wanted = options.want.max(1);
        let start = u16::from_le_bytes(random()?);
        let candidates: Vec<u16> = match options.ports {
            Some(map) => map.bind().from_place(start.into()).collect(),
            None => vec![0; wanted],
        };
        let (mut sockets, mut last) = (Vec::new(), io::ErrorKind::AddrInUse.into());
        for port in candidates {
            if sockets.len() == wanted {
                break;
            }
            match TcpListener::bind((options.bind, port)).await {
                Ok(socket) => sockets.push(socket),
                // Taken: the next one.
                Err(error) => last = error,
            }
        }
        let failed = |source| Error::Listen {
            address: options.bind,
            ports: options.ports.map_or("any".into(), |p| p.bind().to_string()),
            source,
        };
        if sockets.is_empty() {
            return Err(failed(last));
        }
        let addresses = sockets.iter().map(TcpListener::local_addr);
        let addresses = addresses.collect::<Result<_, _>>().map_err(failed)?;
        let register = Arc::new(Register::default());
        let mut tasks = JoinSet::new();
        for socket in sockets {
            tasks.spawn(Arc::clone(&register).serve(socket, options.handshake));
        }
        let listener = Self {
            register,
            addresses,
            ports: options.ports,
            wanted,
            handshake: options.handshake,
            handed: Mutex::default(),
            _tasks: tasks,
        };
        if let Some(shortfall) = listener.shortfall() {
            tracing::warn!("{shortfall}");
        }
        Ok(listener)
    }

    /// What was bound.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What to say if there are fewer ports than wanted.
    #[must_use]
    pub fn shortfall(&self) -> Option<Shortfall> {
        let got = self.addresses.len();
        (got < self.wanted).then(|| Shortfall {
            range: self.ports.map_or("any".into(), |p| p.to_string()),
            wanted: self.wanted,
            got,
        })
    }

    /// How many streams to put into a descriptor in parallel mode: one for each port, at most as wanted.
    #[must_use]
    pub fn streams(&self) -> u16 {
        u16::try_from(self.addresses.len().min(self.wanted)).unwrap_or(u16::MAX)
    }

    /// Places for a descriptor: its ports as they are dialled, on each of `hosts`.
    #[must_use]
    pub fn places(&self, hosts: &[Host]) -> Vec<Place> {
        let dialled = |bound: u16| match self.ports {
            Some(map) => map.advertised(bound).unwrap_or(bound),
            None => bound,
        };
        let ports: Vec<u16> = self.addresses.iter().map(|a| dialled(a.port())).collect();
        let place = |host: &Host| Place::new(host.clone(), &ports);
        hosts.iter().map(place).collect()
    }

    /// How many connections were dropped because they did not prove themselves.
    #[must_use]
    pub fn strangers(&self) -> u64 {
        self.register.strangers.load(Ordering::Relaxed)
    }

    /// From now on, streams of this transfer are let in. Call it before the descriptor is sent.
    ///
    /// # Errors
    /// [`Error::Expected`] if the transfer is expected already.
    pub fn expect(&self, iod: &Iod) -> Result<Door, Error> {
        let (sender, streams) = mpsc::channel(usize::from(iod.streams) * SURPLUS);
        let expected = Expected {
            secret: iod.secret.clone(),
            terms: Terms::of(iod),
            used: HashSet::new(),
            streams: sender,
        };
        let mut transfers = self.register.transfers.lock();
        if transfers.contains_key(&iod.transfer) {
            return Err(Error::Expected(iod.transfer));
        }
        transfers.insert(iod.transfer, expected);
        Ok(Door::Listening(Incoming {
            transfer: iod.transfer,
            streams,
            register: Arc::clone(&self.register),
        }))
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.addresses).finish()
    }
}

/// The streams of one transfer that were let in. Dropped, no more of them are.
pub struct Incoming {
    transfer: TransferId,
    streams: mpsc::Receiver<Stream>,
    register: Arc<Register>,
}

impl Incoming {
    /// The next stream; never, if the listener is gone.
    pub(crate) async fn stream(&mut self) -> Stream {
        match self.streams.recv().await {
            Some(stream) => stream,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.register.transfers.lock().remove(&self.transfer);
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Incoming({})", self.transfer)
    }
}
