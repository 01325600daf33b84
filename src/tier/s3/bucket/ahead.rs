//! Members that lie side by side are read with one request: where small reads of an object follow each other closely,
//! what comes next is read with them, and kept for a moment.
//!
//! Invariants kept here:
//! - What is given is what the service gave for that very range: objects never change. Whether bytes are the right
//!   ones is known to who has the checksum.
//! - Nothing is given twice from here: whoever asks again for what he was given, since it was wrong, gets it from the
//!   service.
//! - At most [`WINDOWS`] of at most [`LONGEST`] are kept, for [`KEPT`] or until somebody looks after that, and none of an
//!   object that was deleted.
//! - Whoever waited for a window that could not be read is told why, and does not wait again.
//! - No more is read ahead than twice what reads spanned that wanted at least half of it: bytes cost more than requests
//!   where a service bills for what leaves it.

use crate::id::AggregateId;
use crate::tier::{ErrorKind, TierError};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longer reads are requests of their own.
const SMALL: u64 = 512 << 10;
/// Reads further apart than this have nothing to do with each other.
const NEAR: u64 = 2 << 20;
const LONGEST: u64 = 4 << 20;
const WINDOWS: usize = 8;
const KEPT: Duration = Duration::from_secs(20);
/// So many reads that follow each other are no accident.
const A_ROW: usize = 3;
/// So many reads are remembered, of all objects.
const REMEMBERED: usize = 64;
const LATELY: Duration = Duration::from_secs(5);

/// What was read of late, and what was read ahead.
#[derive(Default)]
pub(super) struct Ahead {
    lately: Mutex<VecDeque<(AggregateId, Range<u64>, Instant)>>,
    windows: Mutex<VecDeque<Arc<Window>>>,
}

/// A range that is read, or was, for all who want some of it.
pub(super) struct Window {
    object: AggregateId,
    range: Range<u64>,
    made: Instant,
    /// Locked by who reads it, while he does.
    got: Mutex<Got>,
}

enum Got {
    Nothing,
    /// From the window's beginning; shorter where the object ends.
    Bytes(Bytes, BTreeSet<u64>),
    /// It could not be read.
    Failed(ErrorKind, String),
}

/// What a window has for a read.
#[derive(Debug)]
pub(super) enum Served {
    Bytes(Bytes),
    /// It is to be asked for by itself.
    Itself,
    /// Nobody gets it now.
    Failed(ErrorKind, String),
}

impl Ahead {
    /// The window that a read is served from; `None`: it is a request of its own.
    pub(super) fn window(
        &self,
        object: AggregateId,
        wanted: Range<u64>,
        now: Instant,
    ) -> Option<Arc<Window>> {
        if wanted.is_empty() || wanted.end - wanted.start > SMALL {
            return None;
        }
        self.note(object, &wanted, now);
        let mut windows = self.windows.lock();
        windows.retain(|window| now.saturating_duration_since(window.made) < KEPT);
        let has = |window: &&Arc<Window>| {
            window.object == object
                && window.range.start <= wanted.start
                && wanted.end <= window.range.end
        };
        if let Some(window) = windows.iter().find(has) {
            return Some(Arc::clone(window));
        }
        let len = self.in_a_row(object, &wanted)?;
        let window = Arc::new(Window {
            object,
            range: wanted.start..wanted.start.saturating_add(len),
            made: now,
            got: Mutex::new(Got::Nothing),
        });
        if windows.len() >= WINDOWS {
            windows.pop_front();
        }
        windows.push_back(Arc::clone(&window));
        Some(window)
    }

    /// It is deleted, or what was kept for long is to go (`None`).
    pub(super) fn forget(&self, object: Option<AggregateId>, now: Instant) {
        self.windows.lock().retain(|window| {
            Some(window.object) != object && now.saturating_duration_since(window.made) < KEPT
        });
    }

    /// What failed serves those who waited for it, and nobody after them.
    pub(super) fn drop_failed(&self, failed: &Arc<Window>) {
        self.windows
            .lock()
            .retain(|window| !Arc::ptr_eq(window, failed));
    }

    fn note(&self, object: AggregateId, wanted: &Range<u64>, now: Instant) {
        let mut lately = self.lately.lock();
        lately.retain(|(_, _, at)| now.saturating_duration_since(*at) < LATELY);
        if lately.len() >= REMEMBERED {
            lately.pop_front();
        }
        lately.push_back((object, wanted.clone(), now));
    }

    /// How much is to be read from there, if reads follow each other.
    fn in_a_row(&self, object: AggregateId, wanted: &Range<u64>) -> Option<u64> {
        let lately = self.lately.lock();
        let near = |(of, range, _): &&(AggregateId, Range<u64>, Instant)| {
            *of == object
                && range.start <= wanted.start
                && wanted.start.saturating_sub(range.end) <= NEAR
        };
        let row: Vec<&Range<u64>> = lately.iter().filter(near).map(|(_, r, _)| r).collect();
        let first = row.iter().map(|range| range.start).min()?;
        let span = wanted.end - first;
        let read: u64 = row.iter().map(|range| range.end - range.start).sum();
        (row.len() >= A_ROW && read.saturating_mul(2) >= span).then(|| {
            span.saturating_mul(2)
                .clamp(wanted.end - wanted.start, LONGEST)
        })
    }
}

impl Window {
    /// The bytes of `wanted`, read with the window if they are not there yet. `read`: an offset and a length, and what
    /// there is of it.
    pub(super) fn serve(
        &self,
        wanted: Range<u64>,
        read: impl FnOnce(u64, u64) -> Result<Bytes, TierError>,
    ) -> Served {
        let mut got = self.got.lock();
        if matches!(*got, Got::Nothing) {
            let len = self.range.end - self.range.start;
            *got = match read(self.range.start, len) {
                Ok(bytes) => Got::Bytes(bytes, BTreeSet::new()),
                Err(why) => Got::Failed(why.kind(), why.to_string()),
            };
        }
        let (bytes, given) = match &mut *got {
            Got::Bytes(bytes, given) => (bytes, given),
            Got::Failed(kind, why) => return Served::Failed(*kind, why.clone()),
            Got::Nothing => return Served::Itself,
        };
        let within = |at: u64| usize::try_from(at.checked_sub(self.range.start)?).ok();
        let part = within(wanted.start).zip(within(wanted.end));
        let part = part.and_then(|(from, to)| bytes.get(from..to));
        match part {
            // A copy: whoever keeps some of it keeps not all of it.
            Some(part) if given.insert(wanted.start) => Served::Bytes(Bytes::copy_from_slice(part)),
            Some(_) | None => Served::Itself,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    fn name(seq: u64) -> AggregateId {
        AggregateId { epoch: 1, seq }
    }

    /// A member of 64 KiB and its header, one behind the other.
    fn member(n: u64) -> Range<u64> {
        let at = n * 65 * KIB + KIB;
        at..at + 64 * KIB
    }

    fn object(range: Range<u64>) -> Bytes {
        range.map(|n| (n % 251) as u8).collect()
    }

    #[test]
    fn what_lies_side_by_side_costs_few_requests_and_is_what_was_asked_for() {
        let (ahead, now) = (Ahead::default(), Instant::now());
        let (mut requests, mut bytes) = (0, 0);
        for n in 0..200 {
            let wanted = member(n);
            let window = ahead.window(name(1), wanted.clone(), now);
            let served = window.map(|window| {
                window.serve(wanted.clone(), |offset, len| {
                    requests += 1;
                    bytes += len;
                    Ok(object(offset..offset + len))
                })
            });
            if let Some(Served::Bytes(served)) = served {
                assert!(served == object(wanted));
            } else {
                requests += 1;
                bytes += 64 * KIB;
            }
        }
        assert!(requests <= 12, "{requests} requests for 200 members");
        assert!(bytes <= 200 * 65 * KIB + LONGEST, "{bytes}");
    }

    #[test]
    fn members_that_lie_apart_are_read_by_themselves() {
        let (ahead, now) = (Ahead::default(), Instant::now());
        for n in 0..50 {
            assert!(ahead.window(name(1), member(5 * n), now).is_none());
            assert!(ahead.window(name(n), member(n), now).is_none());
        }
        // Neither is what followed each other long ago, nor what is large.
        assert!(ahead.window(name(9), member(0), now).is_none());
        assert!(ahead.window(name(9), member(1), now).is_none());
        let later = now + LATELY;
        assert!(ahead.window(name(9), member(2), later).is_none());
        assert!(ahead.window(name(9), 0..SMALL + 1, later).is_none());
    }

    fn is_served(
        window: &Window,
        n: u64,
        read: impl FnOnce(u64, u64) -> Result<Bytes, TierError>,
    ) -> bool {
        matches!(window.serve(member(n), read), Served::Bytes(bytes) if bytes == object(member(n)))
    }

    #[test]
    fn nothing_is_given_twice_and_a_window_that_failed_serves_nobody() {
        let (ahead, now) = (Ahead::default(), Instant::now());
        for n in 0..2 {
            assert!(ahead.window(name(1), member(n), now).is_none());
        }
        let window = ahead.window(name(1), member(2), now).expect("a row");
        let read = |offset, len| Ok(object(offset..offset + len));
        assert!(is_served(&window, 2, read));
        assert!(!is_served(&window, 2, read), "it was wrong");
        // The object ends within the window: so it says whoever asks for what lies behind.
        let ends = |offset, _| Ok(object(offset..offset + 70 * KIB));
        let end = Window {
            object: name(2),
            range: member(0).start..member(9).end,
            made: now,
            got: Mutex::new(Got::Nothing),
        };
        assert!(is_served(&end, 0, ends));
        assert!(!is_served(&end, 1, ends));
        let failed = Window {
            object: name(3),
            range: member(0).start..member(9).end,
            made: now,
            got: Mutex::new(Got::Nothing),
        };
        let away = |_, _| {
            Err(TierError::Missing {
                tier: String::new(),
                object: name(3),
            })
        };
        for n in 0..2 {
            let told = failed.serve(member(n), away);
            assert!(
                matches!(told, Served::Failed(ErrorKind::Missing, _)),
                "{told:?}"
            );
        }
        ahead.drop_failed(&window);
        assert_eq!(ahead.windows.lock().len(), 0);
        // What was kept is forgotten.
        assert!(ahead.window(name(1), member(3), now + KEPT).is_none());
    }
}
