//! Files whose release was refused: policy passes over them for a while. A watermark's rule takes the
//! same files first each time, and those that cannot be released would keep it from all others.
//!
//! In memory alone: after a restart they are tried once more.

use crate::catalog::NodeId;
use crate::id::Timestamp;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;

/// How long: some runs of a watermark's rule.
const REST: Duration = Duration::from_secs(600);
/// How long where somebody had the file open: a full disk may depend on it.
const SHORT: Duration = Duration::from_secs(60);
/// Files remembered; those that came first stay.
const REMEMBERED: usize = 65_536;

/// Files that were refused, and until when they rest.
#[derive(Default)]
pub(super) struct Refused(Mutex<HashMap<NodeId, Timestamp>>);

impl Refused {
    /// Its release was refused for good.
    pub(super) fn note(&self, node: NodeId, busy: bool, now: Timestamp) {
        let rest = if busy { SHORT } else { REST };
        let mut resting = self.0.lock();
        if resting.len() >= REMEMBERED {
            resting.retain(|_, until| now < *until);
        }
        if resting.len() < REMEMBERED {
            resting.insert(node, super::shifted(now, rest, true));
        }
    }

    /// It is not to be tried yet.
    pub(super) fn rests(&self, node: NodeId, now: Timestamp) -> bool {
        self.0.lock().get(&node).is_some_and(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_file_rests_and_then_no_longer() {
        let refused = Refused::default();
        let at = |sec| Timestamp { sec, nsec: 0 };
        refused.note(NodeId(7), false, at(1000));
        refused.note(NodeId(9), true, at(1000));
        assert!(refused.rests(NodeId(7), at(1599)));
        assert!(!refused.rests(NodeId(7), at(1600)));
        assert!(!refused.rests(NodeId(8), at(1000)));
        assert!(refused.rests(NodeId(9), at(1059)) && !refused.rests(NodeId(9), at(1060)));
        for n in 100..70_000 {
            refused.note(NodeId(n), false, at(1000));
        }
        assert_eq!(refused.0.lock().len(), REMEMBERED);
        refused.note(NodeId(1), false, at(2000));
        assert!(
            refused.rests(NodeId(1), at(2001)),
            "the others rest no more"
        );
    }
}
