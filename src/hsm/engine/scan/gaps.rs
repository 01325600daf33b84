//! What a scan could not look at, and the saved position that remembers it.

use super::{Level, Reached};
use crate::catalog::{NodeId, Rescan};
use crate::id::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Gaps that are remembered one by one.
const REMEMBERED: usize = 200;

/// Files that could not be looked at, and directories with something in them that could not be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Gaps {
    nodes: BTreeSet<i64>,
    /// There are others.
    more: bool,
    /// There may be files whose holes took the place of released ones, and nobody could tell.
    unproven: bool,
}

impl Gaps {
    pub(super) fn add(&mut self, node: NodeId) {
        if self.nodes.len() < REMEMBERED {
            self.nodes.insert(node.0);
        } else if !self.nodes.contains(&node.0) {
            self.more = true;
        }
    }

    /// A directory in which something may have taken the place of a released file: what that was
    /// is not forgotten yet.
    pub(super) fn add_unproven(&mut self, node: NodeId) {
        self.unproven = true;
        self.add(node);
    }

    pub(super) fn unproven(&self) -> bool {
        self.unproven
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && !self.more
    }

    pub(super) fn reached(&self) -> Reached {
        if self.is_empty() {
            Reached::End
        } else {
            Reached::Gaps
        }
    }

    /// Marks that stand for those that the scan found; `None`: there are none, or too many to be
    /// told one by one.
    pub(super) fn marks(&self, since: Timestamp) -> Option<Vec<Rescan>> {
        if self.is_empty() || self.more {
            return None;
        }
        let mark = |node: &i64| Rescan {
            node: NodeId(*node),
            since,
            why: "a scan could not look at it, or at something in it".to_owned(),
        };
        Some(self.nodes.iter().map(mark).collect())
    }
}

/// The position of a running scan.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Position {
    pub(super) levels: Vec<Level>,
    pub(super) gaps: Gaps,
}

impl Position {
    /// What [`Position::write`] made; nothing: from the beginning. An earlier version wrote the
    /// levels alone: what it could not look at is not known, so there may have been anything.
    pub(super) fn read(saved: &[u8]) -> Self {
        if saved.is_empty() {
            return Self::default();
        }
        if let Ok(position) = serde_json::from_slice(saved) {
            return position;
        }
        Self {
            levels: serde_json::from_slice(saved).unwrap_or_default(),
            gaps: Gaps {
                more: true,
                ..Gaps::default()
            },
        }
    }

    pub(super) fn write<'a>(levels: impl Iterator<Item = &'a Level>, gaps: &Gaps) -> Vec<u8> {
        #[derive(Serialize)]
        struct Saved<'a> {
            levels: Vec<&'a Level>,
            gaps: &'a Gaps,
        }
        let levels = levels.collect();
        serde_json::to_vec(&Saved { levels, gaps }).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level() -> Level {
        Level {
            kind: 1,
            handle: vec![1, 2],
            done: b"a".to_vec(),
        }
    }

    #[test]
    fn a_position_remembers_its_gaps() {
        let mut gaps = Gaps::default();
        gaps.add(NodeId(7));
        gaps.add_unproven(NodeId(8));
        let read = Position::read(&Position::write([level()].iter(), &gaps));
        assert_eq!((read.levels.len(), &read.gaps), (1, &gaps));
        assert_eq!(read.gaps.reached(), Reached::Gaps);
        assert!(read.gaps.unproven());
        assert!(Position::read(b"").gaps.is_empty());
    }

    #[test]
    fn a_position_of_an_earlier_version_may_have_had_any_gaps() {
        let read = Position::read(br#"[{"kind":1,"handle":[1,2],"done":[97]}]"#);
        assert_eq!(read.levels.len(), 1);
        assert_eq!(read.gaps.reached(), Reached::Gaps);
        assert_eq!(read.gaps.marks(Timestamp { sec: 1, nsec: 0 }), None);
    }

    #[test]
    fn very_many_gaps_are_not_told_one_by_one() {
        let mut gaps = Gaps::default();
        let since = Timestamp { sec: 1, nsec: 0 };
        assert_eq!(gaps.marks(since), None);
        (0..REMEMBERED as i64).for_each(|n| gaps.add(NodeId(n)));
        assert_eq!(gaps.marks(since).unwrap().len(), REMEMBERED);
        gaps.add(NodeId(-1));
        assert_eq!(gaps.marks(since), None);
    }
}
