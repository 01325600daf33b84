//! How a transfer behaves, what limits it, and what can be read off it while it runs.

use crate::pace::Bucket;
use parking_lot::Mutex;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How many streams the end that dials makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streams {
    /// As many as the descriptor allows.
    All,
    /// As many as pay, at first this many, at most what the descriptor allows.
    Adaptive(usize),
}

/// How a transfer behaves. The defaults are for networks that work.
#[derive(Debug, Clone)]
pub struct Options {
    /// A stream that was silent for so long is dead.
    pub freeze: Duration,
    /// A transfer without any stream for so long fails.
    pub patience: Duration,
    /// A connection must be made, and prove itself, within this.
    pub handshake: Duration,
    /// Blocks that a stream may have outstanding.
    pub window: usize,
    /// An idle stream takes blocks of another over after this.
    pub steal_after: Duration,
    /// How many streams.
    pub streams: Streams,
    /// Writes to the sink at one time. A filesystem lets one writer at a file, and others wait for it on
    /// processors, so that a second one costs more than it gains. A sink that is not one file may want more.
    pub writers: usize,
    /// The receiver synchronises and keeps its progress whenever so many bytes more were written.
    pub keep_every: u64,
    /// Limits that all bytes pass, of this transfer alone or shared with others.
    pub limits: Vec<Arc<Limit>>,
    /// What is counted.
    pub meter: Arc<Meter>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            freeze: Duration::from_secs(30),
            patience: Duration::from_secs(60),
            handshake: Duration::from_secs(10),
            window: 16,
            steal_after: Duration::from_secs(1),
            streams: Streams::Adaptive(4),
            writers: 1,
            keep_every: 256 << 20,
            limits: Vec::new(),
            meter: Arc::default(),
        }
    }
}

impl Options {
    /// How often an end that has nothing to say says that it lives.
    pub(crate) fn alive_every(&self) -> Duration {
        self.freeze / 4
    }
}

/// A bandwidth limit.
#[derive(Debug)]
pub struct Limit {
    bucket: Mutex<Bucket>,
    begun: Instant,
}

impl Limit {
    /// `rate` bytes a second, of which a tenth of a second's may pass at once.
    #[must_use]
    pub fn new(rate: NonZeroU64) -> Arc<Self> {
        Arc::new(Self {
            bucket: Mutex::new(Bucket::new(rate, rate.get() / 10)),
            begun: Instant::now(),
        })
    }

    /// Waits until `bytes` may pass.
    pub(crate) async fn pass(&self, bytes: u64) {
        let wait = self.bucket.lock().take(bytes, self.begun.elapsed());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

/// What is counted while a transfer runs. Shared; read it at any time.
#[derive(Debug, Default)]
pub struct Meter {
    pub(crate) moved: AtomicU64,
    pub(crate) live: AtomicUsize,
    pub(crate) most: AtomicUsize,
    pub(crate) lost: AtomicU64,
    pub(crate) repeated: AtomicU64,
}

impl Meter {
    /// Bytes that arrived for good: acknowledged at the sender, written at the receiver.
    #[must_use]
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Streams that are up.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// The most streams that were up at one time.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// Streams that died.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Bytes that a second stream has to carry, because the first died (at the sender), or that came
    /// twice (at the receiver).
    #[must_use]
    pub fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }
}
