//! Which news of writes comes behind the archive that took those writes in.
//!
//! The mount tells of a write when its writer closes; the catalog hears of it later, under load much
//! later. Meanwhile an archive may have proven the very data, and then chmod, or the record that the archive
//! itself sets, has moved the ctime: by times alone the file would count as changed, and be archived
//! once more for nothing.
//!
//! Invariants: only news older than a moment at which the archived version was proven to be all there is
//! (P1, [`Quiet::at`](crate::hsm::version::Quiet::at)) is covered, and only for that version; everything
//! newer, or unknown here, is compared. Nothing is kept longer than news from before it can come.

use crate::id::{DataVersion, FileId, NodeHandle};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Instant;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Covered(Mutex<HashMap<NodeHandle, Point>>);

#[derive(Debug, Clone, Copy)]
struct Point {
    version: (FileId, DataVersion),
    at: Instant,
}

impl Covered {
    /// The node's data were `version` at this moment, proven. To be told before the catalog is.
    pub(super) fn proven(&self, node: &NodeHandle, version: (FileId, DataVersion), at: Instant) {
        self.0.lock().insert(node.clone(), Point { version, at });
    }

    /// Is the write that was told of at `told` in `version`?
    pub(super) fn has(
        &self,
        node: &NodeHandle,
        version: Option<(FileId, DataVersion)>,
        told: Instant,
    ) -> bool {
        let known = self.0.lock().get(node).copied();
        known.is_some_and(|point| Some(point.version) == version && told < point.at)
    }

    /// All news from before `then` is applied.
    pub(super) fn forget_before(&self, then: Instant) {
        let mut points = self.0.lock();
        points.retain(|_, point| point.at >= then);
        if points.is_empty() {
            points.shrink_to(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const VERSION: (FileId, DataVersion) = (FileId([7; 16]), DataVersion(3));

    fn node() -> NodeHandle {
        NodeHandle {
            kind: 1,
            bytes: vec![1],
        }
    }

    #[test]
    fn only_older_news_of_the_proven_version_is_covered() {
        let (covered, at) = (Covered::default(), Instant::now());
        let (before, after) = (at - Duration::from_nanos(1), at + Duration::from_nanos(1));
        assert!(!covered.has(&node(), Some(VERSION), before));
        covered.proven(&node(), VERSION, at);
        assert!(covered.has(&node(), Some(VERSION), before));
        assert!(!covered.has(&node(), Some(VERSION), at));
        assert!(!covered.has(&node(), Some(VERSION), after));
        let other = (VERSION.0, DataVersion(4));
        assert!(!covered.has(&node(), Some(other), before));
        assert!(!covered.has(&node(), None, before));
    }

    #[test]
    fn what_no_news_can_precede_is_forgotten() {
        let (covered, at) = (Covered::default(), Instant::now());
        covered.proven(&node(), VERSION, at);
        covered.forget_before(at);
        let before = at - Duration::from_nanos(1);
        assert!(covered.has(&node(), Some(VERSION), before));
        covered.forget_before(at + Duration::from_nanos(1));
        assert!(!covered.has(&node(), Some(VERSION), before));
        assert_eq!(covered.0.lock().capacity(), 0);
    }
}
