//! What was deleted: asked about, and brought back.

use super::{CopyView, GivenPath, SubjectRef, When};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A place that may be gone: a directory that is there, and the path from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GonePlace {
    /// The nearest directory above it that is there (or it itself), handed over.
    pub subject: SubjectRef,
    /// From there on; empty: the directory itself. Neither `.` nor `..` is in it.
    #[serde(default)]
    pub below: GivenPath,
}

impl GonePlace {
    /// The whole path, as the user typed it.
    #[must_use]
    pub fn path(&self) -> GivenPath {
        self.subject.path.reach(&self.below.bytes())
    }
}

/// Body of `POST /v1/deleted`; answered by a stream of [`DeletedView`]s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedQuery {
    /// Of this place and all below it.
    pub place: GonePlace,
}

/// Body of `POST /v1/undelete`; answered by a stream of [`UndeletedView`]s and problems, with
/// `cairn.accepted.v1` in the end if a stage was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndeleteQuery {
    /// What to bring back.
    pub from: GonePlace,
    /// Where to; else where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<GonePlace>,
    /// What was there at that time; else what was there last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<When>,
    /// The version of this number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// All below it, and directories.
    #[serde(default)]
    pub recursive: bool,
    /// Bring the data back to disk, too.
    #[serde(default)]
    pub stage: bool,
}

/// What ended a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeletedBy {
    /// The file's last name went.
    Unlink,
    /// Its data were changed.
    Overwrite,
    /// It was cut.
    Truncate,
    /// Its last copy was given up (`cairn remove --last-copy`); the data were on disk.
    Remove,
    /// Nobody knows: found on a tier by a catalog that was rebuilt or put back, and no file names it.
    Unknown,
}

impl DeletedBy {
    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unlink => "unlink",
            Self::Overwrite => "overwrite",
            Self::Truncate => "truncate",
            Self::Remove => "remove",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for DeletedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A deleted version that can be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedView {
    /// Where the file was then, as far as the caller named it.
    #[serde(flatten)]
    pub path: GivenPath,
    /// Its size, bytes.
    pub size: u64,
    /// Who owned it.
    pub uid: u32,
    /// Which version of its data.
    pub version: u64,
    /// When it ended.
    pub deleted: When,
    /// By what.
    pub by: DeletedBy,
    /// Until when it can be had, at least.
    pub until: When,
    /// Its copies; none: it cannot be had.
    pub copies: Vec<CopyView>,
}

/// A file that is back, released.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndeletedView {
    /// Where it was, as the caller named it.
    #[serde(flatten)]
    pub path: GivenPath,
    /// Where it is now, as the caller named it.
    pub now: GivenPath,
    /// Its size, bytes.
    pub size: u64,
    /// When its data were last modified.
    pub modified: When,
    /// Which version of its data.
    pub version: u64,
    /// When that had ended.
    pub deleted: When,
    /// By what. Anything but `unlink`: what was changed after that was never archived, or is another
    /// version.
    pub by: DeletedBy,
}
