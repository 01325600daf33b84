//! Undeletes under way in this process: which tombstones, and whether any may begin.
//!
//! Invariants: a tombstone has one turn at a time; once halted no call begins, and those under way are
//! waited for with a bound.

use parking_lot::{Condvar, Mutex};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Undeletes under way in this process.
#[derive(Default)]
pub(in crate::hsm::engine) struct UnderWay {
    at: Mutex<At>,
    ended: Condvar,
}

#[derive(Default)]
struct At {
    /// Their tombstones.
    stones: HashSet<u64>,
    /// Calls that may begin one.
    calls: usize,
    /// None begins any more.
    closed: bool,
}

/// One of them, while it lives.
pub(super) struct Turn<'a>(&'a UnderWay, u64);

/// A call, while it lives.
pub(super) struct Call<'a>(&'a UnderWay);

impl UnderWay {
    pub(super) fn begin(&self, stone: u64) -> Option<Turn<'_>> {
        let fresh = self.at.lock().stones.insert(stone);
        fresh.then_some(Turn(self, stone))
    }

    pub(super) fn all(&self) -> Vec<u64> {
        self.at.lock().stones.iter().copied().collect()
    }

    /// `None`: the engine stops.
    pub(super) fn call(&self) -> Option<Call<'_>> {
        let mut at = self.at.lock();
        (!at.closed).then(|| {
            at.calls += 1;
            Call(self)
        })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.at.lock().closed
    }

    /// Refuses calls from here on, and waits so long for those under way. `false`: some are left.
    pub(in crate::hsm::engine) fn halt(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        let mut at = self.at.lock();
        at.closed = true;
        while at.calls > 0 {
            if self.ended.wait_until(&mut at, end).timed_out() {
                return at.calls == 0;
            }
        }
        true
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.at.lock().stones.remove(&self.1);
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.at.lock().calls -= 1;
        self.0.ended.notify_all();
    }
}
