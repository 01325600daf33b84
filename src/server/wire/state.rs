//! The state of files: what `cairn state`, `cairn ls` and `cairn why` show.

use super::{GivenPath, When};
use serde::{Deserialize, Serialize};

/// A word of a file's state. Order is the order in which they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateFlag {
    /// At least one copy, of whatever version, exists on a tier.
    Exists,
    /// A complete copy of the present data version is on a tier.
    Archived,
    /// Archived once, changed since.
    Dirty,
    /// Archived, and its blocks given back.
    Released,
    /// Must not be archived.
    NoArchive,
    /// Must not be released.
    NoRelease,
    /// No good copy left.
    Lost,
    /// It carries another file's stub: copied or restored, and not adopted.
    Foreign,
    /// Its file contradicts the stub: somebody wrote to it around the mount.
    Conflict,
}

impl StateFlag {
    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exists => "exists",
            Self::Archived => "archived",
            Self::Dirty => "dirty",
            Self::Released => "released",
            Self::NoArchive => "noarchive",
            Self::NoRelease => "norelease",
            Self::Lost => "lost",
            Self::Foreign => "foreign",
            Self::Conflict => "conflict",
        }
    }
}

/// What kind of thing a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeType {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Device, socket or FIFO.
    Special,
}

/// Which nodes are meant by a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Walk {
    /// The subject itself.
    Itself,
    /// What lies directly in it if it is a directory (not `.` and `..`), else itself.
    Children,
    /// Itself and everything below, no symbolic links followed, no mount points crossed. All entries of
    /// one directory come together, then those of its subdirectories.
    Tree,
}

/// One copy of the file's present or an earlier data version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyView {
    /// The tier's name.
    pub tier: String,
    /// The aggregate that holds it.
    pub aggregate: String,
    /// Which data version.
    pub version: u64,
}

/// One pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinView {
    /// Who holds it: a user id, or a name such as `job:1234`.
    pub holder: String,
    /// Until when.
    pub until: When,
}

/// A node and its state. Attributes are those that the mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// The subject's path as given, joined with the name below it.
    #[serde(flatten)]
    pub path: GivenPath,
    /// What it is.
    pub kind: NodeType,
    /// Permission bits and set-id bits (0 to 0o7777).
    pub mode: u32,
    /// Number of names.
    pub nlink: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Logical size, bytes.
    pub size: u64,
    /// Bytes on disk.
    pub on_disk: u64,
    /// Modification time: seconds since 1970.
    pub mtime_s: i64,
    /// And nanoseconds, 0 to 999,999,999.
    pub mtime_ns: u32,
    /// Target of a symbolic link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Words, in order. Empty for what is only resident, and for what is no regular file.
    pub flags: Vec<StateFlag>,
    /// Present data version; 0 if never archived.
    pub version: u64,
    /// Known copies, best first.
    pub copies: Vec<CopyView>,
    /// Who wants it on disk.
    pub pins: Vec<PinView>,
    /// The request that works on it now, if the caller may know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<u64>,
}

impl NodeState {
    /// Whether it bears the flag.
    #[must_use]
    pub fn is(&self, flag: StateFlag) -> bool {
        self.flags.contains(&flag)
    }
}

/// One thing that a file waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// What is to be done to it.
    pub verb: super::Verb,
    /// What that waits for, in a sentence ("drive 2 reads cartridge A00017, 31 files before this one").
    pub on: String,
    /// Since when.
    pub since: When,
    /// Seconds still expected.
    pub eta_s: Option<u64>,
    /// On behalf of which request; absent for an implicit stage, or where the caller may not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<u64>,
}

/// Why a file is as it is, and when that will change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// The subject's path as given.
    #[serde(flatten)]
    pub path: GivenPath,
    /// Its state.
    pub flags: Vec<StateFlag>,
    /// What it waits for now.
    pub waiting: Vec<Waiting>,
    /// What holds it where it is: rules, pins, flags, a last failure; one sentence each.
    pub because: Vec<String>,
}
