//! A lane: a few worker threads and a queue that serves waiting readers before stage work.
//!
//! One lane for the backing's disk and one for each tier, so that a tier that hangs holds up
//! nobody but its own readers. Threads start as there is work, up to the lane's number, and stay.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// Work for a lane.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// Who waits for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// A user does.
    Reader,
    /// A stage request, or nobody.
    Background,
}

#[derive(Default)]
struct Queue {
    urgent: VecDeque<Job>,
    background: VecDeque<Job>,
    idle: usize,
    threads: Vec<JoinHandle<()>>,
    stopped: bool,
}

/// See the module.
pub(super) struct Lane {
    name: String,
    most: usize,
    queue: Mutex<Queue>,
    work: Condvar,
}

impl Lane {
    /// A lane of at most `most` threads.
    pub(super) fn new(name: String, most: usize) -> Arc<Self> {
        Arc::new(Self {
            name,
            most: most.max(1),
            queue: Mutex::new(Queue::default()),
            work: Condvar::new(),
        })
    }

    /// Queues a job; dropped unseen if the lane was stopped.
    pub(super) fn push(self: &Arc<Self>, urgency: Urgency, job: Job) {
        let mut queue = self.queue.lock();
        if queue.stopped {
            // Dropped after the lock: a job owns callbacks whose drop may do anything.
            drop(queue);
            drop(job);
            return;
        }
        match urgency {
            Urgency::Reader => queue.urgent.push_back(job),
            Urgency::Background => queue.background.push_back(job),
        }
        let waiting = queue.urgent.len() + queue.background.len();
        if queue.idle < waiting && queue.threads.len() < self.most {
            let lane = Arc::clone(self);
            match thread::Builder::new()
                .name(self.name.clone())
                .spawn(move || lane.run())
            {
                Ok(thread) => queue.threads.push(thread),
                // The jobs wait for a thread that runs, or for the next push to succeed here.
                Err(why) => tracing::error!(lane = %self.name, %why, "cannot start a worker"),
            }
        }
        drop(queue);
        self.work.notify_one();
    }

    fn run(&self) {
        let mut queue = self.queue.lock();
        loop {
            let next = queue.urgent.pop_front();
            if let Some(job) = next.or_else(|| queue.background.pop_front()) {
                drop(queue);
                job();
                queue = self.queue.lock();
            } else if queue.stopped {
                return;
            } else {
                queue.idle += 1;
                self.work.wait(&mut queue);
                queue.idle -= 1;
            }
        }
    }

    /// Drops what is queued; nothing begins any more.
    pub(super) fn halt(&self) {
        let dropped = {
            let mut queue = self.queue.lock();
            queue.stopped = true;
            (
                std::mem::take(&mut queue.urgent),
                std::mem::take(&mut queue.background),
            )
        };
        self.work.notify_all();
        drop(dropped);
    }

    /// Every thread has ended.
    pub(super) fn is_over(&self) -> bool {
        self.queue
            .lock()
            .threads
            .iter()
            .all(JoinHandle::is_finished)
    }

    /// Drops what is queued and waits for what runs.
    pub(super) fn stop(&self) {
        let (threads, dropped) = {
            let mut queue = self.queue.lock();
            queue.stopped = true;
            let dropped = (
                std::mem::take(&mut queue.urgent),
                std::mem::take(&mut queue.background),
            );
            (std::mem::take(&mut queue.threads), dropped)
        };
        self.work.notify_all();
        drop(dropped);
        for thread in threads {
            // The last owner may go on one of the lane's own threads; that one ends by itself.
            if thread.thread().id() != thread::current().id() && thread.join().is_err() {
                tracing::error!(lane = %self.name, "a worker panicked");
            }
        }
    }

    #[cfg(test)]
    pub(super) fn threads(&self) -> usize {
        self.queue.lock().threads.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;

    #[test]
    fn readers_come_before_stage_work_and_threads_are_bounded() {
        let lane = Lane::new("test".into(), 1);
        let (hold, held) = bounded::<()>(0);
        let (told, tell) = bounded(16);
        lane.push(
            Urgency::Background,
            Box::new(move || held.recv().expect("held")),
        );
        for n in 0..4 {
            let (told, urgency) = (
                told.clone(),
                if n < 2 {
                    Urgency::Background
                } else {
                    Urgency::Reader
                },
            );
            lane.push(urgency, Box::new(move || told.send(n).expect("told")));
        }
        hold.send(()).expect("the first job waits for this");
        drop(told);
        assert_eq!(tell.iter().take(4).collect::<Vec<_>>(), [2, 3, 0, 1]);
        assert_eq!(lane.threads(), 1);
        lane.stop();
    }
}
