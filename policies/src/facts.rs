//! What a planner is told about a file and about the moment of a run. Values only: the engine
//! collects them from its catalog.

use crate::quantity::{ByteCount, Moment};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// A file's number in the catalog: names it in a plan and breaks ties in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct NodeKey(pub u64);

/// Where a file's data are. Exactly one holds for each file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileState {
    /// On disk, never archived.
    New,
    /// On disk, archived once and changed since.
    Dirty,
    /// On disk, and the present data version has at least one complete copy.
    Archived,
    /// Archived, blocks given back.
    Released,
    /// No good copy left anywhere.
    Lost,
}

impl FileState {
    /// All of them, in the order in which they print.
    pub const ALL: [Self; 5] = [
        Self::New,
        Self::Dirty,
        Self::Archived,
        Self::Released,
        Self::Lost,
    ];

    /// The language's word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Dirty => "dirty",
            Self::Archived => "archived",
            Self::Released => "released",
            Self::Lost => "lost",
        }
    }

    pub(crate) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }
}

/// A set of states.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StateSet(u8);

impl StateSet {
    /// Every state.
    pub const ALL: Self = Self(0b1_1111);
    /// None.
    pub const NONE: Self = Self(0);

    /// The set of these states.
    #[must_use]
    pub fn of(states: &[FileState]) -> Self {
        Self(
            states
                .iter()
                .fold(0, |bits, state| bits | Self::bit(*state)),
        )
    }

    const fn bit(state: FileState) -> u8 {
        1 << state as u8
    }

    /// Is this state in it?
    #[must_use]
    pub const fn contains(self, state: FileState) -> bool {
        self.0 & Self::bit(state) != 0
    }

    /// No state at all?
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// States in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// States in either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// States not in it.
    #[must_use]
    pub const fn complement(self) -> Self {
        Self(!self.0 & Self::ALL.0)
    }

    /// Its states, in the order of [`FileState::ALL`].
    pub fn iter(self) -> impl Iterator<Item = FileState> {
        FileState::ALL
            .into_iter()
            .filter(move |state| self.contains(*state))
    }
}

impl fmt::Display for StateSet {
    /// `new or dirty`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, state) in self.iter().enumerate() {
            let glue = if i == 0 { "" } else { " or " };
            write!(f, "{glue}{}", state.word())?;
        }
        Ok(())
    }
}

impl fmt::Debug for StateSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateSet({self})")
    }
}

/// What users and administrators forbade for a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags {
    /// Never archived by policy.
    pub noarchive: bool,
    /// Never released by policy.
    pub norelease: bool,
}

/// What is known of one regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFacts {
    /// Its number.
    pub node: NodeKey,
    /// One of its paths, relative to the root of the mount, without a leading `/`; any bytes.
    pub path: Vec<u8>,
    /// Its size.
    pub size: ByteCount,
    /// What it takes on disk, in bytes: what a release would give back.
    pub blocks: ByteCount,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last modification of data, as users see it (they can set it).
    pub mtime: Moment,
    /// Last access.
    pub atime: Moment,
    /// Last change as users see it: not moved by release and recall.
    pub ctime: Moment,
    /// Where its data are.
    pub state: FileState,
    /// What is forbidden.
    pub flags: Flags,
    /// Number of hard links.
    pub nlink: u64,
    /// Latest end of its pins, if it has any.
    pub pinned_until: Option<Moment>,
    /// When it last came back to disk, if it ever did.
    pub staged_at: Option<Moment>,
    /// Complete copies of the present data version.
    pub copies: u32,
}

/// How full the backing filesystem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Bytes in use.
    pub used: ByteCount,
    /// Bytes in all; 0 if unknown: then no watermark is ever passed.
    pub total: ByteCount,
}

/// Which rules a run takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Select {
    /// Those that are due: timers by the moment of their last run (by rule name; a rule that is
    /// missing has never run and is due), watermarks by usage. Manual rules are never due.
    Due(BTreeMap<String, Moment>),
    /// These, now, whatever their timers and high watermarks say. A watermark rule still stops
    /// at its low mark.
    Named(Vec<String>),
}

/// The circumstances of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunInput {
    /// The moment that ages are counted to.
    pub now: Moment,
    /// Fullness of the backing filesystem before the run.
    pub usage: Usage,
    /// Which rules.
    pub select: Select,
    /// May anything be released? If not, why, in words for the administrator.
    pub release_allowed: Result<(), String>,
}
