//! Time as the wrappers see it: a clock that can be waited on, injected so that tests never wait.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// A clock that only goes forward.
pub trait Clock: Send + Sync {
    /// Time since some fixed moment.
    fn now(&self) -> Duration;
    /// Blocks the calling thread for `time`.
    fn sleep(&self, time: Duration);
}

/// The machine's monotonic clock.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }
    fn sleep(&self, time: Duration) {
        if !time.is_zero() {
            std::thread::sleep(time);
        }
    }
}

/// A clock that moves only when somebody sleeps on it, and remembers each sleep: for tests.
#[derive(Debug, Default)]
pub struct VirtualClock {
    sleeps: Mutex<Vec<Duration>>,
}

impl VirtualClock {
    /// All sleeps so far, in order.
    #[must_use]
    pub fn sleeps(&self) -> Vec<Duration> {
        self.sleeps.lock().clone()
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Duration {
        self.sleeps.lock().iter().sum()
    }
    fn sleep(&self, time: Duration) {
        self.sleeps.lock().push(time);
    }
}
