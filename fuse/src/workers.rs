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
    timer: Sender<(Instant, Job)>,
}

impl Workers {
    pub(crate) fn start() -> Result<Self, MirrorError> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let data = pool("cairn-fuse-data", (cores * 2).clamp(4, 32))?;
        let slow = pool("cairn-fuse-slow", 16)?;
        let asking = pool("cairn-fuse-ask", 4)?;
        let (timer, waiting) = unbounded();
        let due = slow.clone();
        spawn("cairn-fuse-timer", move || keep_time(&waiting, &due))?;
        Ok(Self {
            data,
            slow,
            asking,
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
        let _ = self.timer.send((Instant::now() + after, Box::new(job)));
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

struct Timed(Instant, Job);

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
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
        self.0.cmp(&other.0)
    }
}

fn keep_time(arriving: &Receiver<(Instant, Job)>, due: &Sender<Job>) {
    let mut waiting: BinaryHeap<Reverse<Timed>> = BinaryHeap::new();
    loop {
        let now = Instant::now();
        while waiting.peek().is_some_and(|next| next.0.0 <= now) {
            if let Some(Reverse(Timed(_, job))) = waiting.pop() {
                let _ = due.send(job);
            }
        }
        let wait = waiting
            .peek()
            .map_or(Duration::from_secs(3600), |next| next.0.0 - now);
        match arriving.recv_timeout(wait) {
            Ok((at, job)) => waiting.push(Reverse(Timed(at, job))),
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
