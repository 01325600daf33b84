//! Interruption of waiting callers: the FUSE library does not deliver FUSE_INTERRUPT, so the
//! signals of parked callers are looked up in `/proc` (P11).

use crate::Residency;
use crate::park::Park;
use rustix::io::Errno;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Signals whose default is to stop the process. A stopped caller goes on waiting when it is
/// continued, as it would on a local disk; they interrupt only where a handler is set.
const STOPPING: u64 = (1 << (libc::SIGSTOP - 1))
    | (1 << (libc::SIGTSTP - 1))
    | (1 << (libc::SIGTTIN - 1))
    | (1 << (libc::SIGTTOU - 1));

/// What to do about a parked caller.
#[derive(Debug, PartialEq, Eq)]
enum Caller {
    Waits,
    Interrupted,
    Gone,
}

/// Watches until the park is closed.
pub(crate) fn run(park: &Park, residency: &Arc<dyn Residency>) {
    let mut buffer = Vec::with_capacity(4096);
    while let Some(mut waiting) = park.waiting() {
        // A thread with several readahead requests is looked at once.
        waiting.sort_unstable_by_key(|(_, thread)| *thread);
        let begun = Instant::now();
        let mut seen: Option<(u32, bool)> = None;
        for (ticket, thread) in waiting {
            if thread == 0 {
                // Of another pid namespace: bounded by the residency's own time limits, or by the
                // lock that is in the way.
                continue;
            }
            let stop = match seen {
                Some((known, stop)) if known == thread => stop,
                _ => look(thread, &mut buffer) != Caller::Waits,
            };
            seen = Some((thread, stop));
            if stop {
                park.abandon(ticket, Errno::INTR, residency.as_ref());
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

fn look(thread: u32, buffer: &mut Vec<u8>) -> Caller {
    buffer.clear();
    match std::fs::File::open(format!("/proc/{thread}/status")) {
        Ok(mut file) => match file.read_to_end(buffer) {
            Ok(_) => judge(&String::from_utf8_lossy(buffer)),
            Err(_) => Caller::Gone,
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Caller::Gone,
        Err(_) => Caller::Waits,
    }
}

fn judge(status: &str) -> Caller {
    let (mut pending, mut blocked, mut caught) = (0, 0, 0);
    for line in status.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        let mask = || u64::from_str_radix(value.trim(), 16).unwrap_or(0);
        match key {
            "State" if value.trim_start().starts_with(['Z', 'X']) => return Caller::Gone,
            "SigPnd" | "ShdPnd" => pending |= mask(),
            "SigBlk" => blocked = mask(),
            "SigCgt" => caught = mask(),
            _ => {}
        }
    }
    if pending & !blocked & (!STOPPING | caught) != 0 {
        Caller::Interrupted
    } else {
        Caller::Waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pending: u64, blocked: u64, caught: u64) -> String {
        format!(
            "Name:\tcat\nState:\tD (disk sleep)\nSigPnd:\t{pending:016x}\nShdPnd:\t{:016x}\n\
             SigBlk:\t{blocked:016x}\nSigIgn:\t{:016x}\nSigCgt:\t{caught:016x}\n",
            0, 0
        )
    }

    #[test]
    fn pending_signals_interrupt_unless_blocked_or_merely_stopping() {
        let int = 1 << (libc::SIGINT - 1);
        let stop = 1 << (libc::SIGTSTP - 1);
        assert_eq!(judge(&status(0, 0, 0)), Caller::Waits);
        assert_eq!(judge(&status(int, 0, 0)), Caller::Interrupted);
        assert_eq!(judge(&status(int, int, 0)), Caller::Waits);
        assert_eq!(judge(&status(stop, 0, 0)), Caller::Waits);
        assert_eq!(judge(&status(stop, 0, stop)), Caller::Interrupted);
        assert_eq!(judge("State:\tZ (zombie)\n"), Caller::Gone);
        assert_eq!(look(u32::MAX, &mut Vec::new()), Caller::Gone);
    }

    #[test]
    fn looking_takes_a_twentieth_of_the_time_or_keeps_the_round() {
        assert_eq!(period(Duration::ZERO), Duration::from_millis(100));
        assert_eq!(
            period(Duration::from_millis(10)),
            Duration::from_millis(200)
        );
        for scan in [20, 100, 250, 300].map(Duration::from_millis) {
            assert_eq!(scan + period(scan), ROUND, "{scan:?}");
        }
        assert_eq!(period(Duration::from_secs(9)), Duration::from_millis(100));
    }
}
