//! Threads for what may block, so that session threads do not (P11).

use crate::{MirrorError, creds};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Work for another thread.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Pools apart, so that a hundred waiting fsyncs do not stop a read; and a timer. The queues are
/// bounded by the kernel: each job is one request. Threads end when the last sender is dropped.
pub(crate) struct Workers {
    data: Sender<Job>,
    slow: Sender<Job>,
    asking: Sender<Job>,
    waits: Sender<Job>,
    timer: Sender<Timed>,
}

impl Workers {
    pub(crate) fn start() -> Result<Self, MirrorError> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let data = pool("cairn-fuse-data", (cores * 2).clamp(4, 32))?;
        let slow = pool("cairn-fuse-slow", 16)?;
        let asking = pool("cairn-fuse-ask", 4)?;
        let waits = pool("cairn-fuse-wait", 4)?;
        let (timer, waiting) = unbounded();
        spawn("cairn-fuse-timer", move || keep_time(&waiting))?;
        Ok(Self {
            data,
            slow,
            asking,
            waits,
            timer,
        })
    }

    /// Reads and writes of file data.
    pub(crate) fn data(&self, job: impl FnOnce() + Send + 'static) {
        let _ = self.data.send(Box::new(job));
    }

    /// Everything else that may take long.
    pub(crate) fn slow(&self, job: impl FnOnce() + Send + 'static) {
        let _ = self.slow.send(Box::new(job));
    }

    /// Questions to the residency whose answers may take a database.
    pub(crate) fn asking(&self, job: impl FnOnce() + Send + 'static) {
        let _ = self.asking.send(Box::new(job));
    }

    /// On the slow pool, after a while.
    pub(crate) fn later(&self, after: Duration, job: impl FnOnce() + Send + 'static) {
        self.at(after, self.slow.clone(), Box::new(job));
    }

    /// Tries for those who wait for record locks, of whom there may be thousands.
    pub(crate) fn waits(&self, job: impl FnOnce() + Send + 'static) {
        let _ = self.waits.send(Box::new(job));
    }

    /// The same, after a while.
    pub(crate) fn waits_later(&self, after: Duration, job: impl FnOnce() + Send + 'static) {
        self.at(after, self.waits.clone(), Box::new(job));
    }

    fn at(&self, after: Duration, pool: Sender<Job>, job: Job) {
        let at = Instant::now() + after;
        let _ = self.timer.send(Timed { at, pool, job });
    }
}

/// Starts a named thread that works for users.
pub(crate) fn spawn(
    name: &'static str,
    body: impl FnOnce() + Send + 'static,
) -> Result<std::thread::JoinHandle<()>, MirrorError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            creds::work_for_users();
            body();
        })
        .map_err(|source| MirrorError::Thread { name, source })
}

fn pool(name: &'static str, threads: usize) -> Result<Sender<Job>, MirrorError> {
    let (sender, jobs) = unbounded::<Job>();
    for _ in 0..threads {
        let jobs = jobs.clone();
        spawn(name, move || {
            for job in &jobs {
                // A reply that is dropped by a panic answers EIO; the pool must outlive it.
                if catch_unwind(AssertUnwindSafe(job)).is_err() {
                    tracing::error!(pool = name, "a request failed by panic");
                }
            }
        })?;
    }
    Ok(sender)
}

struct Timed {
    at: Instant,
    pool: Sender<Job>,
    job: Job,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

fn keep_time(arriving: &Receiver<Timed>) {
    let mut waiting: BinaryHeap<Reverse<Timed>> = BinaryHeap::new();
    loop {
        let now = Instant::now();
        while waiting.peek().is_some_and(|next| next.0.at <= now) {
            if let Some(Reverse(Timed { pool, job, .. })) = waiting.pop() {
                let _ = pool.send(job);
            }
        }
        let wait = waiting
            .peek()
            .map_or(Duration::from_secs(3600), |next| next.0.at - now);
        match arriving.recv_timeout(wait) {
            Ok(timed) => waiting.push(Reverse(timed)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_run_in_their_time_and_survive_a_panic() {
        let workers = Workers::start().unwrap();
        let (sender, done) = unbounded();
        let late = sender.clone();
        workers.later(Duration::from_millis(30), move || {
            late.send("late").unwrap()
        });
        for _ in 0..40 {
            workers.slow(|| std::panic::resume_unwind(Box::new(())));
        }
        workers.slow(move || sender.send("soon").unwrap());
        let bound = Duration::from_secs(20);
        assert_eq!(done.recv_timeout(bound), Ok("soon"));
        assert_eq!(done.recv_timeout(bound), Ok("late"));
    }
}
