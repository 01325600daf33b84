//! Which scan is due, and the thread that makes it.

use super::compare::Doubt;
use super::{Manner, Reached, subtree, whole};
use crate::catalog::{NodeId, Rescan, ScanState};
use crate::hsm::engine::{EngineError, Shared, shifted};
use crate::id::Timestamp;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the thread looks for something to do when nothing rings.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a subtree that could not be looked at wholly is left alone; and the whole tree. Twice
/// as long each time, up to a day.
const PAUSE: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(3600));
const LONGEST: Duration = Duration::from_secs(86_400);
/// Marks looked at together.
const MARKS: usize = 1000;

/// What is due.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Round {
    /// The whole tree; `anxious`: something may have been missed, else it is just time again.
    Whole { anxious: bool },
    /// A subtree.
    Part(Rescan),
}

/// What could not be looked at wholly is left alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest {
    until: Instant,
    pause: Duration,
}

/// Nodes that are left alone, and those that were a short time ago.
pub(super) type Tired = HashMap<NodeId, Rest>;

fn left_alone(tired: &mut Tired, node: NodeId, first: Duration, now: Instant) {
    let pause = tired
        .get(&node)
        .map_or(first, |r| r.pause.saturating_mul(2).min(LONGEST));
    let until = now + pause;
    tired.insert(node, Rest { until, pause });
}

/// Decides. `every`: how long after its end the next scan follows; zero: never.
fn due(
    state: &ScanState,
    marks: &[Rescan],
    every: Duration,
    now: Timestamp,
    rests: impl Fn(NodeId) -> bool,
) -> Option<Round> {
    let marked = marks.iter().any(|m| m.node == NodeId::ROOT);
    let never = state.finished_generation == 0;
    if (state.running || never || marked) && !rests(NodeId::ROOT) {
        return Some(Round::Whole {
            // Its end takes away marks on parts, too.
            anxious: never || !marks.is_empty(),
        });
    }
    let mut parts = marks.iter().filter(|m| m.node != NodeId::ROOT);
    if let Some(part) = parts.find(|m| !rests(m.node)).filter(|_| !state.running) {
        return Some(Round::Part(part.clone()));
    }
    let again = state.finished_at.filter(|_| !every.is_zero())?;
    let over = shifted(again, every, true) <= now;
    (over && !rests(NodeId::ROOT)).then_some(Round::Whole {
        anxious: !marks.is_empty(),
    })
}

/// Was everything looked at since the last start after a stop that was not a clean one?
fn is_looked_at(state: &ScanState, marks: &[Rescan]) -> bool {
    // The mark on the root may have given way to marks on the parts that could not be looked at.
    state.finished_generation != 0 && marks.is_empty()
}

/// What an earlier process may have left half-way: until a scan went everywhere, anything.
pub(in crate::hsm::engine) fn doubt_what_was_left(shared: &Shared) -> Result<(), EngineError> {
    let (state, marks) = (shared.catalog.scan_state()?, shared.catalog.rescans(MARKS)?);
    if !is_looked_at(&state, &marks) {
        shared.backing.doubt_times();
    }
    Ok(())
}

/// The scan thread's work, until the engine stops.
pub(in crate::hsm::engine) fn work(shared: &Arc<Shared>) {
    // This thread alone: users come first.
    if let Err(why) = rustix::process::setpriority_process(None, 10) {
        tracing::debug!(%why, "the scan runs at ordinary priority");
    }
    // What a crash left half-way can only be set in order with users shut out.
    for _ in 0..100 {
        if shared.late.gate.get().is_some() || shared.stopping() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut tired = Tired::new();
    let mut heard = 0;
    while !shared.stopping() {
        match round(shared, &mut tired) {
            Ok(true) => continue,
            Ok(false) => {}
            Err(why) => tracing::warn!(%why, "what is to be scanned cannot be read"),
        }
        heard = shared.bell.wait(heard, PATIENCE);
    }
}

/// Makes the scan that is due; `false`: none is.
pub(super) fn round(shared: &Shared, tired: &mut Tired) -> Result<bool, EngineError> {
    let begun = Instant::now();
    tired.retain(|_, rest| rest.until + LONGEST > begun);
    let (state, marks) = (shared.catalog.scan_state()?, shared.catalog.rescans(MARKS)?);
    if is_looked_at(&state, &marks) {
        shared.backing.trust_times();
    }
    let every = shared.settings.scan_every;
    let next = due(&state, &marks, every, shared.now(), |n| {
        tired.get(&n).is_some_and(|rest| rest.until > begun)
    });
    let (node, pause, made) = match next {
        None => return Ok(false),
        Some(Round::Whole { anxious }) => {
            let manner = Manner {
                doubt: if anxious { Doubt::Read } else { Doubt::Leave },
                gentle: !anxious,
            };
            (NodeId::ROOT, PAUSE.1, whole(shared, manner))
        }
        Some(Round::Part(mark)) => {
            let manner = Manner {
                doubt: Doubt::Read,
                gentle: false,
            };
            let mut made = subtree(shared, mark.node, manner);
            if matches!(made, Ok(Reached::End))
                && let Err(why) = shared.catalog.rescanned(&mark)
            {
                made = Err(why.into());
            }
            (mark.node, PAUSE.0, made)
        }
    };
    match made {
        Ok(Reached::End) => {
            tired.remove(&node);
            return Ok(true);
        }
        Ok(Reached::Stopped) => return Ok(true),
        Ok(Reached::Gaps) => {}
        Err(why) => tracing::error!(%why, "a scan stopped; it is taken up again"),
    }
    left_alone(tired, node, pause, Instant::now());
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sec: i64) -> Timestamp {
        Timestamp { sec, nsec: 0 }
    }

    fn mark(node: i64) -> Rescan {
        Rescan {
            node: NodeId(node),
            since: at(5),
            why: String::new(),
        }
    }

    fn finished(sec: i64) -> ScanState {
        ScanState {
            generation: 1,
            finished_generation: 1,
            finished_at: Some(at(sec)),
            ..ScanState::default()
        }
    }

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_tree_that_no_scan_finished_is_scanned() {
        let state = ScanState::default();
        let found = due(&state, &[mark(7)], DAY, at(0), |_| false);
        assert_eq!(found, Some(Round::Whole { anxious: true }));
    }

    #[test]
    fn a_scan_that_a_stop_cut_short_goes_on_and_one_that_was_asked_for_begins() {
        let running = ScanState {
            running: true,
            ..finished(0)
        };
        let go_on = due(&running, &[mark(7)], DAY, at(1), |_| false);
        assert_eq!(go_on, Some(Round::Whole { anxious: true }));
        let go_on = due(&running, &[], DAY, at(1), |_| false);
        assert_eq!(go_on, Some(Round::Whole { anxious: false }));
        let marked = due(&finished(0), &[mark(7), mark(1)], DAY, at(1), |_| false);
        assert_eq!(marked, Some(Round::Whole { anxious: true }));
    }

    #[test]
    fn marked_subtrees_come_before_what_is_only_due_by_time() {
        let found = due(&finished(0), &[mark(7)], DAY, at(10 * 86_400), |_| false);
        assert_eq!(found, Some(Round::Part(mark(7))));
    }

    #[test]
    fn the_whole_is_scanned_again_after_its_time_or_never() {
        let state = finished(1000);
        let then = |every, sec| due(&state, &[], every, at(sec), |_| false);
        assert_eq!(then(DAY, 1000 + 86_399), None);
        assert_eq!(
            then(DAY, 1000 + 86_400),
            Some(Round::Whole { anxious: false })
        );
        assert_eq!(then(Duration::ZERO, i64::MAX / 2_000_000_000), None);
    }

    /// Its end takes away marks on parts that rest: what they ask for is done.
    #[test]
    fn a_scan_that_is_due_by_time_compares_where_there_are_marks() {
        let tired = |n| n == NodeId(7);
        let found = due(&finished(0), &[mark(7)], DAY, at(10 * 86_400), tired);
        assert_eq!(found, Some(Round::Whole { anxious: true }));
    }

    #[test]
    fn what_cannot_be_scanned_rests_longer_each_time_up_to_a_day() {
        let (mut tired, now) = (Tired::new(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..10 {
            left_alone(&mut tired, NodeId(7), PAUSE.0, now);
            pauses.push(tired[&NodeId(7)].pause.as_secs());
        }
        assert_eq!(pauses[..3], [600, 1200, 2400]);
        assert_eq!(pauses[8..], [86_400, 86_400]);
    }

    #[test]
    fn what_could_not_be_scanned_rests() {
        let tired = |n| n == NodeId(7);
        let found = due(&finished(0), &[mark(7), mark(8)], DAY, at(1), tired);
        assert_eq!(found, Some(Round::Part(mark(8))));
        let all = due(&finished(0), &[mark(7)], Duration::ZERO, at(1), |_| true);
        assert_eq!(all, None);
    }
}
