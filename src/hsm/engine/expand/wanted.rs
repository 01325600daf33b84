//! What a verb means for one node: a pure decision.

use crate::catalog::{FileState, Incarnation, Node, Place, Verb};
use crate::error::Failure;
use crate::format::record::{CopyHint, Record, State};
use crate::hsm::backing::{FileStat, NodeKind};
use crate::hsm::recall::LOST;
use crate::id::TierId;

/// What is known about a node when a request meets it.
pub(super) struct Facts {
    pub(super) stat: FileStat,
    /// The file's own record, if it carries one that is its own.
    pub(super) record: Option<Record>,
    pub(super) node: Option<Node>,
    pub(super) pinned: bool,
    /// It has no stub and should have one; asked for a stage alone.
    pub(super) lost: bool,
    /// It was named itself, and not met in a directory.
    pub(super) direct: bool,
    pub(super) owned: bool,
    /// It is pinned for a job, which may keep on disk what its user may read.
    pub(super) for_job: bool,
    pub(super) readable: bool,
    pub(super) min_release: u64,
    pub(super) trusted_from: Incarnation,
    /// Bytes of its data without holes, where copies of them are known.
    pub(super) stored: Option<u64>,
    /// Some copy of it, good or not, lies on a wanted tier.
    pub(super) lies_there: bool,
    pub(super) tiers_wanted: Vec<TierId>,
    pub(super) tiers_have: Vec<TierId>,
    /// Where its data lie, if what reading them costs is asked.
    pub(super) copies: Vec<CopyHint>,
}

/// What to do about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// There is nothing to do; with a reason where a person would ask.
    Nothing(Option<&'static str>),
    /// It cannot be done.
    Refuse(Failure, &'static str),
    /// A row is changed at once.
    Now,
    /// An action.
    Act { bytes: u64, place: Option<Place> },
}

impl Facts {
    pub(super) fn released(&self) -> bool {
        self.record
            .as_ref()
            .is_some_and(|r| r.state != State::Resident)
    }

    /// What is read, or comes back.
    pub(super) fn can_be_pinned(&self) -> bool {
        self.stat.kind == NodeKind::Regular && self.readable && !self.lost
    }

    /// What it takes when its data are on disk, bytes.
    pub(super) fn bytes_on_disk(&self) -> u64 {
        let there = if self.released() {
            self.stored.unwrap_or(u64::MAX)
        } else {
            self.stat.blocks.saturating_mul(512)
        };
        there.min(self.stat.size)
    }

    /// The present data are archived, as far as can be told without reading them.
    fn current(&self) -> bool {
        let known = self.node.as_ref();
        self.record.is_some()
            && known.is_some_and(|node| is_current(node, &self.stat, &self.trusted_from))
    }

    /// Tiers that a copy of the present data is still to be made on.
    pub(super) fn tiers_missing(&self) -> Vec<TierId> {
        // The data of a released file are what its copies are.
        let same = self.released() || self.current();
        let have = |tier: &TierId| same && self.tiers_have.contains(tier);
        self.tiers_wanted
            .iter()
            .filter(|t| !have(t))
            .copied()
            .collect()
    }
}

/// A file that carries its record is what was last archived, as far as can be told without reading
/// it.
pub(in crate::hsm::engine) fn is_current(
    node: &Node,
    stat: &FileStat,
    trusted_from: &Incarnation,
) -> bool {
    let proven = node
        .proven
        .is_some_and(|p| (p.size, p.ctime) == (stat.size, stat.ctime));
    node.state == FileState::Archived && proven && !node.is_suspect(trusted_from)
}

/// The decision.
pub(super) fn wanted(verb: Verb, facts: &Facts) -> Wanted {
    let regular = facts.stat.kind == NodeKind::Regular;
    match verb {
        Verb::Archive => archive(facts),
        Verb::Stage | Verb::Release | Verb::Verify | Verb::Remove if !regular => {
            Wanted::Nothing(None)
        }
        Verb::Release => release(facts),
        Verb::Stage if facts.lost => Wanted::Refuse(Failure::Lost, LOST),
        Verb::Stage if !facts.released() => Wanted::Nothing(None),
        Verb::Stage if !facts.readable => {
            Wanted::Refuse(Failure::NotPermitted, "no permission to read the file")
        }
        Verb::Stage => Wanted::Act {
            bytes: facts
                .stored
                .map_or(facts.stat.size, |stored| stored.min(facts.stat.size)),
            place: place(facts),
        },
        Verb::Verify if !facts.owned => refuse_stranger(),
        Verb::Verify if facts.record.is_none() && facts.direct => {
            Wanted::Refuse(Failure::NoGoodCopy, "never archived")
        }
        Verb::Verify if facts.record.is_none() => Wanted::Nothing(Some("never archived")),
        Verb::Verify => Wanted::Act {
            bytes: facts.stat.size,
            place: place(facts),
        },
        Verb::Pin | Verb::Unpin if !regular => Wanted::Nothing(None),
        Verb::Pin if facts.for_job && facts.readable => Wanted::Now,
        Verb::Pin | Verb::Unpin | Verb::Set | Verb::Clear => {
            if facts.owned {
                Wanted::Now
            } else {
                refuse_stranger()
            }
        }
        Verb::Remove => remove(facts),
        Verb::Repack => Wanted::Refuse(Failure::Usage, "this version cannot repack"),
    }
}

fn refuse_stranger() -> Wanted {
    Wanted::Refuse(Failure::NotPermitted, "only its owner or root may do that")
}

fn archive(facts: &Facts) -> Wanted {
    if !facts.owned {
        return refuse_stranger();
    }
    if facts.node.as_ref().is_some_and(|n| n.noarchive) {
        return if facts.direct {
            Wanted::Refuse(
                Failure::NotPermitted,
                "it is set noarchive: `cairn clear noarchive` first",
            )
        } else {
            Wanted::Nothing(Some("set noarchive"))
        };
    }
    if facts.released() {
        return if facts.tiers_missing().is_empty() {
            Wanted::Nothing(None)
        } else if facts.tiers_have.is_empty() {
            Wanted::Refuse(
                Failure::NoGoodCopy,
                "it is released, and no good copy of it is known to make another from",
            )
        } else {
            Wanted::Act {
                bytes: facts.stored.unwrap_or(facts.stat.size),
                place: None,
            }
        };
    }
    if facts.stat.kind == NodeKind::Regular && facts.tiers_missing().is_empty() {
        return Wanted::Nothing(None);
    }
    let bytes = if facts.stat.kind == NodeKind::Regular {
        facts.stat.size
    } else {
        0
    };
    Wanted::Act { bytes, place: None }
}

fn release(facts: &Facts) -> Wanted {
    let quietly = |code, why| {
        if facts.direct {
            Wanted::Refuse(code, why)
        } else {
            Wanted::Nothing(Some(why))
        }
    };
    if facts.released() {
        return Wanted::Nothing(None);
    }
    if !facts.owned {
        return refuse_stranger();
    }
    if facts.stat.size < facts.min_release {
        return quietly(Failure::Usage, "smaller than what is released");
    }
    if facts.stat.blocks <= facts.stat.one_block() {
        // The record may have a block of its own; the data have none.
        return quietly(Failure::Usage, "all holes: it has no blocks to give back");
    }
    if facts.node.as_ref().is_some_and(|n| n.norelease) {
        return quietly(Failure::NotPermitted, "set norelease");
    }
    if facts.pinned {
        return quietly(Failure::Busy, "pinned");
    }
    if facts.record.is_none() {
        return quietly(
            Failure::NoGoodCopy,
            "not archived yet: `cairn archive` first",
        );
    }
    Wanted::Act {
        bytes: facts.stat.size,
        place: None,
    }
}

fn remove(facts: &Facts) -> Wanted {
    let quietly = |code, why| {
        if facts.direct {
            Wanted::Refuse(code, why)
        } else {
            Wanted::Nothing(Some(why))
        }
    };
    if !facts.owned {
        return refuse_stranger();
    }
    let state = facts.node.as_ref().map(|n| n.state);
    match state {
        None | Some(FileState::None) => quietly(Failure::NoGoodCopy, "never archived"),
        Some(FileState::Dirty) => quietly(
            Failure::Changed,
            "it changed since it was archived: its copies are kept as those of deleted files are",
        ),
        Some(FileState::Lost) => quietly(Failure::Lost, LOST),
        Some(_) if !facts.lies_there => quietly(Failure::NotFound, "it has no copy there"),
        Some(_) => Wanted::Act {
            bytes: facts.stat.size,
            place: None,
        },
    }
}

fn place(facts: &Facts) -> Option<Place> {
    let copy = facts.record.as_ref()?.copies.first()?;
    Some(Place {
        aggregate: copy.aggregate,
        offset: copy.header,
    })
}
