//! The changelog's near end: a bounded queue between the request path and the engine.
//!
//! Invariants: [`ChangelogSink::push`] never blocks on the engine and never fails; an event that
//! finds no room is counted, and the directories that must be scanned to make up for it are
//! remembered, or if there are too many of them, that all must be. They are remembered until whoever
//! asked has written them down: what could not be comes back ([`ChangelogSink::put_back`]).

use crate::id::NodeHandle;
use cairn_fuse::{Event, EventKind};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Nodes remembered after an overflow; beyond it everything is scanned.
const REMEMBERED: usize = 4096;

/// What was lost since it was last asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overflow {
    /// Events lost.
    pub events: u64,
    /// Directories (or, where an event named no directory, nodes) to look at again.
    pub scan: HashSet<NodeHandle>,
    /// Too many to remember: scan everything.
    pub everything: bool,
}

impl Overflow {
    fn lose(&mut self, event: &Event) {
        self.events += 1;
        if event.kind == EventKind::Read {
            // No look can tell when a file was read.
            return;
        }
        let places = [&event.place, &event.from].into_iter().flatten();
        let mut nodes: Vec<_> = places.map(|(parent, _)| parent).collect();
        if nodes.is_empty() {
            nodes.push(&event.node);
        }
        for node in nodes {
            self.remember(node.clone());
        }
    }

    fn remember(&mut self, node: NodeHandle) {
        if self.scan.len() < REMEMBERED {
            self.scan.insert(node);
        } else if !self.scan.contains(&node) {
            self.everything = true;
        }
    }
}

/// An event, and when it was told: behind what it tells of.
#[derive(Debug, Clone)]
pub struct Told {
    /// When.
    pub at: Instant,
    /// What.
    pub event: Event,
}

impl From<Event> for Told {
    /// Told now.
    fn from(event: Event) -> Self {
        let at = Instant::now();
        Self { at, event }
    }
}

/// See the module.
pub struct ChangelogSink {
    into: Sender<Told>,
    out: Receiver<Told>,
    lost: Mutex<Overflow>,
    /// When the oldest event happened that is taken and not yet applied.
    taken: Mutex<Option<Instant>>,
}

impl ChangelogSink {
    /// Room for `events` events.
    #[must_use]
    pub fn new(events: usize) -> Self {
        let (into, out) = bounded(events.max(1));
        Self {
            into,
            out,
            lost: Mutex::default(),
            taken: Mutex::default(),
        }
    }

    /// An event happened.
    pub fn push(&self, event: Event) {
        let Err(full) = self.into.try_send(event.into()) else {
            return;
        };
        let (TrySendError::Full(told) | TrySendError::Disconnected(told)) = full;
        self.lost.lock().lose(&told.event);
    }

    /// Events that were taken but could not be applied: as if they had found no room.
    pub fn missed(&self, events: &[Told]) {
        let mut lost = self.lost.lock();
        for told in events {
            lost.lose(&told.event);
        }
    }

    /// Takes up to `most` events in the order in which they happened, waiting up to `wait` for the
    /// first. [`ChangelogSink::applied`] follows.
    #[must_use]
    pub fn drain(&self, most: usize, wait: Duration) -> Vec<Told> {
        let mut events = Vec::new();
        if let Ok(first) = self.out.recv_timeout(wait) {
            *self.taken.lock() = Some(first.at);
            events.push(first);
            events.extend(self.out.try_iter().take(most.saturating_sub(1)));
        }
        events
    }

    /// What happened up to now, in batches of at most `most` events; [`ChangelogSink::applied`]
    /// follows each. What happens meanwhile is left, or this would go on as long as users do.
    pub fn up_to_now(&self, most: usize) -> impl Iterator<Item = Vec<Told>> + '_ {
        let mut left = self.waiting();
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let batch = self.drain(left.min(most), Duration::ZERO);
            left = left.saturating_sub(batch.len());
            Some(batch).filter(|b| !b.is_empty())
        })
    }

    /// What was taken is applied.
    pub fn applied(&self) {
        *self.taken.lock() = None;
    }

    /// How long ago the oldest event happened that is taken and not applied. (Those that were not
    /// even taken are younger.)
    #[must_use]
    pub fn lag(&self) -> Option<Duration> {
        self.taken.lock().map(|since| since.elapsed())
    }

    /// Events waiting: the lag.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.out.len()
    }

    /// Takes note of what was lost; `None` if nothing was. To be asked after draining, so that
    /// what a scan then finds is newer than every event taken before.
    #[must_use]
    pub fn overflow(&self) -> Option<Overflow> {
        let lost = std::mem::take(&mut *self.lost.lock());
        (lost.events > 0).then_some(lost)
    }

    /// What was lost could not be written down: it is told again.
    pub fn put_back(&self, before: Overflow) {
        let mut lost = self.lost.lock();
        lost.events += before.events;
        lost.everything |= before.everything;
        for node in before.scan {
            lost.remember(node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u32) -> NodeHandle {
        NodeHandle {
            kind: 1,
            bytes: n.to_le_bytes().to_vec(),
        }
    }

    fn created(n: u32, parent: u32) -> Event {
        Event {
            kind: EventKind::Created,
            node: node(n),
            place: Some((node(parent), b"name".to_vec())),
            from: None,
        }
    }

    #[test]
    fn what_does_not_fit_is_counted_and_its_directory_remembered() {
        let sink = ChangelogSink::new(2);
        for n in 0..5 {
            sink.push(created(n, 100 + n / 4));
        }
        assert_eq!(sink.waiting(), 2);
        let drained = sink.drain(10, Duration::ZERO);
        let drained: Vec<_> = drained.into_iter().map(|told| told.event).collect();
        assert_eq!(drained, [created(0, 100), created(1, 100)]);
        let lost = sink.overflow().expect("three events");
        assert_eq!((lost.events, lost.everything), (3, false));
        assert_eq!(lost.scan, HashSet::from([node(100), node(101)]));
        assert_eq!(sink.overflow(), None);
    }

    #[test]
    fn taking_what_happened_ends_while_more_happens() {
        let sink = ChangelogSink::new(100);
        (0..3).for_each(|n| sink.push(created(n, 100)));
        let mut taken = Vec::new();
        for batch in sink.up_to_now(2) {
            taken.push(batch.len());
            assert!(taken.len() < 20, "it would go on for ever");
            (0..5).for_each(|n| sink.push(created(n, 100)));
        }
        assert_eq!(taken, [2, 1]);
        assert_eq!(sink.waiting(), 10);
    }

    #[test]
    fn what_could_not_be_applied_counts_as_lost() {
        let sink = ChangelogSink::new(2);
        sink.push(created(1, 100));
        let taken = sink.drain(10, Duration::ZERO);
        sink.missed(&taken);
        let lost = sink.overflow().expect("one event");
        assert_eq!((lost.events, lost.scan), (1, HashSet::from([node(100)])));
    }

    #[test]
    fn what_could_not_be_written_down_is_told_again_with_what_was_lost_since() {
        let sink = ChangelogSink::new(1);
        sink.push(created(0, 100));
        sink.push(created(1, 100));
        let before = sink.overflow().expect("one event");
        sink.push(created(2, 101));
        sink.put_back(before);
        let lost = sink.overflow().expect("both");
        assert_eq!(
            (lost.events, lost.scan),
            (2, HashSet::from([node(100), node(101)]))
        );
    }

    #[test]
    fn a_lost_read_marks_nothing() {
        let sink = ChangelogSink::new(1);
        sink.push(created(0, 100));
        sink.push(Event {
            kind: EventKind::Read,
            place: None,
            ..created(1, 100)
        });
        let lost = sink.overflow().expect("one event");
        assert_eq!((lost.events, lost.scan.len()), (1, 0));
    }

    #[test]
    fn the_lag_is_the_age_of_what_is_taken_and_not_applied() {
        let sink = ChangelogSink::new(2);
        sink.push(created(0, 100));
        assert_eq!(sink.lag(), None);
        let taken = sink.drain(10, Duration::ZERO);
        assert!(sink.lag().is_some() && taken.len() == 1);
        sink.applied();
        assert_eq!(sink.lag(), None);
    }

    #[test]
    fn too_many_directories_mean_everything() {
        let sink = ChangelogSink::new(1);
        for n in 0..REMEMBERED as u32 + 2 {
            sink.push(created(n, n));
        }
        let lost = sink.overflow().expect("most events");
        assert!(lost.everything && lost.scan.len() == REMEMBERED);
    }
}
