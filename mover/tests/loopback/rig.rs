//! Sources and sinks in memory, and a transfer between them.

use cairn_mover::{
    BLOCK_MIN, ByteRange, DialRule, Dialler, Direction, Door, Error, Failed, Iod, ListenOptions,
    Listener, Meter, Mode, Options, Place, Progress, Protect, Received, Secret, Sent, Sink, Source,
    Streams, TransferId, receive, send,
};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub(crate) const BLOCK: u32 = 4 * BLOCK_MIN;

/// Bytes that have no period which a misplaced block could hide in.
pub(crate) fn bytes(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// A source in memory.
pub(crate) struct Held {
    pub(crate) bytes: Vec<u8>,
    pub(crate) changed: AtomicBool,
    /// How long its first read takes.
    pub(crate) slow: Duration,
    /// It changes as soon as so many bytes were read.
    pub(crate) changes_after: u64,
    pub(crate) read: AtomicU64,
}

impl Held {
    pub(crate) fn new(len: usize) -> Arc<Self> {
        Arc::new(Self::with(len))
    }

    pub(crate) fn with(len: usize) -> Self {
        Self {
            bytes: bytes(len),
            changed: AtomicBool::new(false),
            slow: Duration::ZERO,
            changes_after: u64::MAX,
            read: AtomicU64::new(0),
        }
    }
}

impl Source for Held {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let from = offset as usize;
        buffer.copy_from_slice(&self.bytes[from..from + buffer.len()]);
        let len = buffer.len() as u64;
        let before = self.read.fetch_add(len, Ordering::Relaxed);
        if before + len >= self.changes_after {
            self.changed.store(true, Ordering::Relaxed);
        }
        if before == 0 {
            std::thread::sleep(self.slow);
        }
        Ok(())
    }

    fn unchanged(&self) -> io::Result<bool> {
        Ok(!self.changed.load(Ordering::Relaxed))
    }
}

/// A sink in memory.
pub(crate) struct Store {
    pub(crate) bytes: Mutex<Vec<u8>>,
    pub(crate) written: AtomicU64,
    pub(crate) synced: AtomicU64,
    /// What was kept last.
    pub(crate) kept: Mutex<Option<Vec<u8>>>,
    /// How long its first write takes.
    pub(crate) slow: Duration,
    /// It is full when so many bytes were written.
    pub(crate) room: u64,
    /// Writes beyond so many bytes wait until it is opened.
    pub(crate) gate_after: u64,
    pub(crate) open: AtomicBool,
}

impl Store {
    pub(crate) fn new(len: usize) -> Self {
        Self {
            bytes: Mutex::new(vec![0; len]),
            written: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            kept: Mutex::new(None),
            slow: Duration::ZERO,
            room: u64::MAX,
            gate_after: u64::MAX,
            open: AtomicBool::new(false),
        }
    }

    pub(crate) fn kept(&self) -> Option<Progress> {
        let kept = self.kept.lock().unwrap();
        kept.as_ref().map(|bytes| Progress::decode(bytes).unwrap())
    }
}

impl Sink for Store {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let len = bytes.len() as u64;
        let before = self.written.fetch_add(len, Ordering::SeqCst);
        if before == 0 {
            std::thread::sleep(self.slow);
        }
        if before + len > self.room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if before + len > self.gate_after {
            let opened = (0..6_000).any(|_| {
                std::thread::sleep(Duration::from_millis(5));
                self.open.load(Ordering::SeqCst)
            });
            if !opened {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        let from = offset as usize;
        self.bytes.lock().unwrap()[from..from + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let written = self.written.load(Ordering::SeqCst);
        self.synced.store(written, Ordering::SeqCst);
        Ok(())
    }

    fn keep(&self, progress: &Progress) -> io::Result<()> {
        let synced = self.synced.load(Ordering::SeqCst);
        assert!(
            progress.bytes() <= synced,
            "kept before it was synchronised"
        );
        *self.kept.lock().unwrap() = Some(progress.encode());
        Ok(())
    }
}

/// Options under which nothing takes long, and no stream is called dead by mistake.
pub(crate) fn options() -> Options {
    Options {
        freeze: Duration::from_secs(20),
        patience: Duration::from_secs(20),
        handshake: Duration::from_secs(20),
        streams: Streams::All,
        meter: Arc::new(Meter::default()),
        ..Options::default()
    }
}

pub(crate) fn iod(size: usize, direction: Direction, protect: Protect) -> Iod {
    Iod {
        transfer: TransferId::generate().unwrap(),
        secret: Secret::generate().unwrap(),
        direction,
        mode: Mode::Parallel,
        protect,
        block: BLOCK,
        streams: 4,
        offer: 20,
        size: size as u64,
        version: b"v1".to_vec(),
        places: Vec::new(),
        ranges: ByteRange::new(0, size as u64).into_iter().collect(),
    }
}

pub(crate) async fn listener(want: usize) -> Listener {
    let options = ListenOptions {
        bind: LOCAL,
        ports: None,
        want,
        handshake: Duration::from_secs(20),
    };
    Listener::bind(&options).await.unwrap()
}

/// The two doors of a transfer. What is dialled is `through`, if given, instead of the listener.
pub(crate) async fn doors(
    listener: &Listener,
    iod: &mut Iod,
    through: Option<u16>,
) -> (Door, Door) {
    iod.places = match through {
        Some(port) => vec![Place::new("127.0.0.1".parse().unwrap(), &[port])],
        None => listener.places(&["127.0.0.1".parse().unwrap()]),
    };
    let listening = listener.expect(iod).unwrap();
    // The far side knows what stands in the message, and no more.
    let far = Iod::decode(&iod.encode().unwrap()).unwrap();
    let rule = DialRule::new(LOCAL, Vec::new());
    let dialling = Dialler::new(&far, &rule).await.unwrap();
    (listening, Door::Dialling(dialling))
}

/// What the two ends say.
pub(crate) type Both = (Result<Sent, Error>, Result<Received, Failed>);

/// Both ends to their end. `ends` are the options of sender and receiver.
pub(crate) async fn run(
    (listening, dialling): (Door, Door),
    iod: &Iod,
    source: Arc<dyn Source>,
    sink: Arc<dyn Sink>,
    progress: Option<Progress>,
    ends: (&Options, &Options),
) -> Both {
    let (from, to) = match iod.direction {
        Direction::FromListener => (listening, dialling),
        Direction::ToListener => (dialling, listening),
    };
    let progress = progress.unwrap_or_else(|| Progress::new(&iod.version, iod.size));
    tokio::join!(
        send(from, iod, source, ends.0),
        receive(to, iod, sink, progress, ends.1)
    )
}

/// A bounded wait for a condition.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..3_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
