//! What `cairn rebuild` says at its end.

use serde::{Deserialize, Serialize};

/// A catalog that was built anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildReport {
    /// All that was asked for was read; if not, the same command goes on.
    pub complete: bool,
    /// It was begun by an earlier run.
    pub resumed: bool,
    /// What from: `stubs`, `tiers`.
    pub from: Vec<String>,
    /// Where the catalog lies that was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aside: Option<String>,
    /// How long this run took, seconds.
    pub took_s: u64,
    /// Files and directories that were looked at.
    pub seen: u64,
    /// Regular files by what became of them.
    pub files: RebuiltFiles,
    /// Archived or released files of which no good copy is known.
    pub without_copy: u64,
    /// Files with the stub of another.
    pub foreign: u64,
    /// Files that are not as their stubs say.
    pub conflict: u64,
    /// Something on the backing could not be looked at; the same command looks at it again.
    pub gaps: bool,
    /// Aggregates are named above this epoch from now on.
    pub epoch: u32,
    /// The tiers that were to be read.
    pub tiers: Vec<RebuiltTier>,
    /// What went wrong on the way, the first 100.
    pub problems: Vec<String>,
    /// What the lost catalog knew and this one does not.
    pub not_known: Vec<String>,
}

/// Regular files by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RebuiltFiles {
    /// On disk and on a tier.
    pub archived: u64,
    /// On tiers alone.
    pub released: u64,
    /// Changed since they were archived.
    pub dirty: u64,
    /// Neither a stub nor data.
    pub lost: u64,
    /// Never archived, as far as can be told.
    pub none: u64,
}

/// What was read of one tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuiltTier {
    /// Its name.
    pub name: String,
    /// All of it was read.
    pub complete: bool,
    /// Aggregates.
    pub aggregates: u64,
    /// Files' copies in them.
    pub copies: u64,
    /// Aggregates whose index was damaged.
    pub damaged: u64,
    /// Why not all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}
