//! Repairs as the control API shows them.

use super::{GivenPath, SubjectRef};
use serde::{Deserialize, Serialize};

/// What stays in place where disk and archive differ; the other is kept beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RepairKeep {
    /// What is on disk.
    Disk,
    /// What was archived.
    Archive,
}

/// Body of `POST /v1/repair`; answered by a stream of repairs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RepairQuery {
    /// Files, and directories for what is below them; none: everything.
    #[serde(default)]
    pub subjects: Vec<SubjectRef>,
    /// Do it; else only say what would be done.
    #[serde(default)]
    pub apply: bool,
    /// The choice where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<RepairKeep>,
}

/// A file that is not in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairView {
    /// Where it is, below the mount.
    #[serde(flatten)]
    pub path: GivenPath,
    /// `lost`, `foreign` or `conflict`.
    pub trouble: String,
    /// In words.
    pub why: String,
    /// `put-stub-back`, `keep-disk`, `keep-archive`, or `none`.
    pub remedy: String,
    /// Where there is none: what may help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// `planned`, `done`, or why not: a word of the table of failures.
    pub result: String,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Where what was given up is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<GivenPath>,
}
