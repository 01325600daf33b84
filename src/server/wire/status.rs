//! The state of the whole instance: what `cairn status` shows and a monitor watches.

use super::When;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How bad something is; also the verdict of `status --check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing to do.
    Ok,
    /// Somebody should look.
    Warning,
    /// Somebody must act.
    Critical,
}

/// Facts about the mirror, decided when it was mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mirror {
    /// The backing filesystem's type, such as `xfs`.
    pub filesystem: String,
    /// Reads and writes of resident files go straight to the backing.
    pub passthrough: bool,
    /// Release is possible here.
    pub release: bool,
    /// What the backing has and lacks: `leases`, `punch`, `xattrs`, `handles`, ...
    pub capabilities: BTreeMap<String, bool>,
    /// Seconds that the mount waits for a successor when the instance dies; 0: it ends with it.
    #[serde(default)]
    pub hold_s: u64,
    /// How many instances have served this mount before.
    #[serde(default)]
    pub predecessors: u64,
    /// Bytes free on the backing filesystem for ordinary users.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Numbers of files by state; as of the catalog, so after a finished scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FileCounts {
    /// Regular files.
    pub files: u64,
    /// Their logical bytes.
    pub bytes: u64,
    /// Archived ones, released included.
    pub archived: u64,
    /// Dirty ones.
    pub dirty: u64,
    /// Released ones.
    pub released: u64,
    /// Logical bytes of released ones.
    pub released_bytes: u64,
}

/// Recalls that somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RecallStatus {
    /// Files.
    pub waiting: u64,
    /// Seconds since the oldest began to wait.
    pub oldest_s: Option<u64>,
    /// Recalls since the instance started.
    #[serde(default)]
    pub begun: u64,
    /// Those of them that a reader waited for: nobody had staged the file before.
    #[serde(default)]
    pub by_readers: u64,
}

/// Work accepted and not finished, of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Backlog {
    /// Actions.
    pub files: u64,
    /// Bytes they move.
    pub bytes: u64,
}

/// Failures of one cause in the last 24 hours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureCount {
    /// [`crate::error::Failure::as_str`].
    pub code: String,
    /// How many actions.
    pub count: u64,
    /// The latest.
    pub last: When,
}

/// Whether a tier can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TierHealth {
    /// Reads and writes.
    Ok,
    /// Reads only: no room.
    Full,
    /// Does not answer.
    Unavailable,
}

impl TierHealth {
    /// Its name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Full => "full",
            Self::Unavailable => "unavailable",
        }
    }
}

/// One tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierStatus {
    /// Its name.
    pub name: String,
    /// Where it is, without secrets; only its scheme (`dir:`) for who does not rule the instance.
    pub url: String,
    /// Whether it can be used.
    pub state: TierHealth,
    /// Free bytes, where that can be known.
    pub free: Option<u64>,
    /// Bytes in all, where that can be known.
    pub total: Option<u64>,
    /// Why its copies protect nothing and count for no release: `same-filesystem`, `same-disk` or
    /// `volatile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weakness: Option<String>,
    /// Bytes that can go, when that was last looked at (root only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reclaimable: Option<u64>,
    /// Objects that the catalog did not know, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<u64>,
    /// When the namespace was last put on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<When>,
    /// Cartridges that are asked for and not in the library, by barcode.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent_cartridges: Vec<String>,
    /// What was last seen when it is not `ok`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How far what the catalog knows lags behind what happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ChangelogStatus {
    /// Events not yet taken into the catalog.
    pub lag: u64,
    /// Age of the oldest of them, seconds.
    pub lag_s: Option<u64>,
    /// Overflows since the start; each marked a subtree as needing a scan.
    pub overflows: u64,
    /// Subtrees that still need one.
    pub rescans: u64,
}

/// Copies that are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CopiesStatus {
    /// Files with fewer good copies than the policy asks for, longer than it allows.
    pub fewer_than_asked: u64,
    /// Files without any.
    pub lost: u64,
    /// Stubs that somebody wrote into.
    pub conflict: u64,
    /// Stubs that were copied or restored from another inode's.
    #[serde(default)]
    pub foreign: u64,
    /// Copies that were found bad and are not made again yet.
    #[serde(default)]
    pub bad: u64,
}

/// How the copies on one tier are proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierProof {
    /// The tier.
    pub tier: String,
    /// Copies on it that files need.
    pub copies: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of them, those found bad and not made again.
    pub bad: u64,
    /// When the copy was last read that was not read for the longest time.
    pub oldest: Option<When>,
    /// Seconds that it takes to read them all at the bandwidth that was set.
    pub takes_s: u64,
}

/// The scrub, and what is done about bad copies.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProofStatus {
    /// Every copy is read once in so many seconds; 0: only when somebody asks.
    pub every_s: u64,
    /// Bytes that are read of each tier in a second.
    pub bandwidth: u64,
    /// Bad copies are made again from good ones.
    pub heal: bool,
    /// By tier.
    pub tiers: Vec<TierProof>,
}

/// A file that is lost, whose stub is not to be trusted, or of which a copy is bad.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TroubledFile {
    /// `lost`, `conflict`, `foreign` or `bad copy`.
    pub state: String,
    /// A path of it, relative to the mount, bytes that are not UTF-8 replaced; empty: none is known.
    pub path: String,
    /// More about it, where something is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// The background scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ScanStatus {
    /// One is running.
    pub running: bool,
    /// Files seen by the running one, or by the last.
    pub files: u64,
    /// When the last whole one ended.
    pub finished: Option<When>,
}

/// Something an administrator should know, every time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// Stable name: `unsafe-open-backing`, `same-filesystem`, ...
    pub code: String,
    /// How bad.
    pub level: Level,
    /// One line.
    pub message: String,
}

/// Answer to `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Program version.
    pub version: String,
    /// Identity of the instance.
    pub instance: String,
    /// Host it runs on.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// Since when it runs.
    pub since: When,
    /// When this was computed.
    pub now: When,
    /// Where it is mounted.
    pub mount: String,
    /// What it mirrors (root only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backing: Option<String>,
    /// Facts about the mirror.
    pub mirror: Mirror,
    /// Numbers of files.
    pub files: FileCounts,
    /// Recalls somebody waits for.
    pub recalls: RecallStatus,
    /// Work by class: `stage`, `implicit-stage`, `archive`, `release`, `verify`.
    pub backlog: BTreeMap<String, Backlog>,
    /// Failures by cause, most frequent first.
    pub failures: Vec<FailureCount>,
    /// Tiers, in the order they were named.
    pub tiers: Vec<TierStatus>,
    /// Changelog.
    pub changelog: ChangelogStatus,
    /// Missing copies.
    pub copies: CopiesStatus,
    /// Lost, conflicting and foreign files, and those with bad copies, the first 100 of each (root
    /// only).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubled: Vec<TroubledFile>,
    /// How copies are proven.
    #[serde(default)]
    pub proof: ProofStatus,
    /// Background scan.
    pub scan: ScanStatus,
    /// Warnings.
    pub warnings: Vec<Warning>,
}
