//! Interruption of waiting callers: the FUSE library does not deliver FUSE_INTERRUPT, so the
//! signals of parked callers are looked up in `/proc` (P11).

use crate::Residency;
use crate::park::Park;
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Signals whose default is to stop the process. A stopped caller goes on waiting when it is
/// continued, as it would on a local disk; they interrupt only where a handler is set.
const STOPPING: u64 = (1 << (libc::SIGSTOP - 1))
    | (1 << (libc::SIGTSTP - 1))
    | (1 << (libc::SIGTTIN - 1))
    | (1 << (libc::SIGTTOU - 1));

/// Watches until the park is closed.
pub(crate) fn run(park: &Park, residency: &Arc<dyn Residency>) {
    let mut look = Look::default();
    let mut shared = Shared::default();
    while let Some(mut waiting) = park.waiting() {
        // A thread with several readahead requests is looked at once.
        waiting.sort_unstable_by_key(|one| one.thread);
        let begun = Instant::now();
        shared.next_round();
        let mut seen: Option<(u32, Caller)> = None;
        for one in waiting {
            if one.thread == 0 {
                // Of another pid namespace: bounded by the residency's own time limits, or by the
                // lock that is in the way.
                continue;
            }
            let caller = match seen {
                Some((known, caller)) if known == one.thread => caller,
                _ => look.at(one.thread),
            };
            seen = Some((one.thread, caller));
            let stop = match caller {
                Caller::Gone => true,
                Caller::Unknown => false,
                Caller::Lives(signals) if one.restarts => {
                    signals.interrupts(signals.own)
                        || shared.is_for(one.thread, &signals, |leader| look.at(leader))
                }
                Caller::Lives(signals) => signals.interrupts(signals.own | signals.shared),
            };
            if stop {
                park.abandon(one.ticket, Errno::INTR, residency.as_ref());
            }
        }
        if !park.pause(period(begun.elapsed())) {
            return;
        }
    }
}

/// From one look at a caller to the next, at most. Signals are to work within a second, and a
/// buffered reader that catches one needs two rounds: when its readahead ends with EINTR, the
/// kernel asks for the page alone once more before it looks at the signal.
const ROUND: Duration = Duration::from_millis(400);

/// A twentieth of the time at most goes into looking, as long as that keeps to [`ROUND`]: on a
/// busy machine the look itself takes a good part of it.
fn period(scan: Duration) -> Duration {
    let shortest = Duration::from_millis(100);
    (scan * 20).clamp(shortest, ROUND.saturating_sub(scan).max(shortest))
}

/// What is known of a parked caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Lives(Signals),
    Gone,
    Unknown,
}

/// A thread's signals, as `/proc` has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Signals {
    /// The process, which is the number of its first thread.
    process: u32,
    /// Pending for this very thread.
    own: u64,
    /// Pending for any thread of its process.
    shared: u64,
    blocked: u64,
    caught: u64,
}

impl Signals {
    /// Those of `pending` that end a wait of this thread.
    fn effective(&self, pending: u64) -> u64 {
        pending & !self.blocked & (!STOPPING | self.caught)
    }

    fn interrupts(&self, pending: u64) -> bool {
        self.effective(pending) != 0
    }
}

/// To which of a process's threads the kernel has given a signal that is for any of them: it does
/// not say. It takes the first thread of the process, unless that blocks the signal; else one that
/// does not. If that one runs, or sleeps otherwise, the signal is not pending for long; so it is
/// taken for a waiting thread's only in the second round. Which of several that wait is a guess:
/// that they are asked in the order in which they were made. One in a round, so that a wrong one is
/// the only wrong one.
#[derive(Default)]
struct Shared {
    /// Processes with such signals, and which.
    now: HashMap<u32, u64>,
    before: HashMap<u32, u64>,
    answered: HashSet<u32>,
}

impl Shared {
    fn next_round(&mut self) {
        self.before = std::mem::take(&mut self.now);
        self.answered.clear();
    }

    fn is_for(
        &mut self,
        thread: u32,
        signals: &Signals,
        mut look: impl FnMut(u32) -> Caller,
    ) -> bool {
        let mut pending = signals.effective(signals.shared);
        if pending == 0 || self.answered.contains(&signals.process) {
            return false;
        }
        if thread != signals.process {
            if let Caller::Lives(first) = look(signals.process) {
                pending &= first.blocked;
            }
            *self.now.entry(signals.process).or_default() |= pending;
            let before = self.before.get(&signals.process);
            pending &= before.copied().unwrap_or_default();
        }
        pending != 0 && self.answered.insert(signals.process)
    }
}

/// Looks at threads.
#[derive(Default)]
struct Look(Vec<u8>);

impl Look {
    fn at(&mut self, thread: u32) -> Caller {
        self.0.clear();
        match std::fs::File::open(format!("/proc/{thread}/status")) {
            Ok(mut file) => match file.read_to_end(&mut self.0) {
                Ok(_) => judge(&String::from_utf8_lossy(&self.0)),
                Err(_) => Caller::Gone,
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Caller::Gone,
            Err(_) => Caller::Unknown,
        }
    }
}

fn judge(status: &str) -> Caller {
    let mut signals = Signals::default();
    for line in status.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        let mask = || u64::from_str_radix(value, 16).unwrap_or(0);
        match key {
            "State" if value.starts_with(['Z', 'X']) => return Caller::Gone,
            "Tgid" => signals.process = value.parse().unwrap_or(0),
            "SigPnd" => signals.own = mask(),
            "ShdPnd" => signals.shared = mask(),
            "SigBlk" => signals.blocked = mask(),
            "SigCgt" => signals.caught = mask(),
            _ => {}
        }
    }
    Caller::Lives(signals)
}

#[cfg(test)]
#[path = "watch/tests.rs"]
mod tests;
