//! Batch jobs: what is done for one, what it holds, how its staging stands.

use super::{GivenPath, Problem, When};
use serde::{Deserialize, Serialize};

/// What is to be done about a job's pins and requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobAct {
    /// Nothing: only look.
    Show,
    /// Its pins get a new end.
    Pin,
    /// Its requests are cancelled, its pins are dropped.
    Release,
    /// Its pins end after a time, if they did not end before.
    Lapse,
    /// It claims what it needs on disk, before it asks for it.
    Claim,
    /// It gives up what it has claimed and not pinned.
    Unclaim,
    /// It is told what it would have to wait for.
    Weigh,
}

/// What a job needs on disk, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct JobNeed {
    /// To be brought back.
    pub bytes: u64,
    /// All that it pins.
    pub total: u64,
    /// Files that no job pins.
    pub all: u64,
    /// Files that none of the user's jobs pins.
    pub user: u64,
}

impl JobNeed {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            total: self.total.saturating_add(other.total),
            all: self.all.saturating_add(other.all),
            user: self.user.saturating_add(other.user),
        }
    }
}

/// Body of `POST /v1/jobs`: about the caller's own job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobOrder {
    /// Which.
    pub job: String,
    /// What to do.
    pub act: JobAct,
    /// How long its pins hold from now on, seconds ([`JobAct::Pin`], [`JobAct::Lapse`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin_for_s: Option<u64>,
    /// [`JobHeld::generation`] that the caller knows: a job of another one is not released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// What it needs ([`JobAct::Claim`], [`JobAct::Weigh`]); what it waited for last, if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub need: Option<JobNeed>,
}

/// What a job holds, after what was done.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct JobHeld {
    /// Requests that were cancelled now.
    #[serde(default)]
    pub cancelled: u64,
    /// Pins that were dropped now.
    #[serde(default)]
    pub dropped: u64,
    /// Files that it pins.
    pub files: u64,
    /// Their sizes, bytes.
    pub bytes: u64,
    /// Until when, the last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<When>,
    /// Another number after each release of the job; 0: it was never released.
    #[serde(default)]
    pub generation: u64,
    /// What it waits for, in words: other jobs keep as much on disk as they may. It has to ask again within
    /// two minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
}

/// How far a job's data have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobPhase {
    /// Nothing was asked for.
    None,
    /// Data are on their way.
    Staging,
    /// All that was asked for is done.
    Ready,
    /// Something that the job needs could not be done.
    Failed,
    /// It was released.
    Released,
}

/// What `cairn job` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobView {
    /// Which.
    pub job: String,
    /// Whose.
    pub uid: u32,
    /// How far.
    pub phase: JobPhase,
    /// Files asked for that were not on disk, as far as found.
    pub files: u64,
    /// Of them done.
    pub files_done: u64,
    /// Of them failed.
    pub files_failed: u64,
    /// Their bytes, as far as found.
    pub bytes: u64,
    /// Of them done.
    pub bytes_done: u64,
    /// Seconds still expected; absent when it cannot be known or nothing is left.
    pub eta_s: Option<u64>,
    /// What it waits for now, in a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
    /// Files that it pins.
    pub pinned_files: u64,
    /// Their sizes, bytes.
    pub pinned_bytes: u64,
    /// Until when, the last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned_until: Option<When>,
    /// Its requests, newest first.
    pub requests: Vec<u64>,
    /// What failed, of the newest request that had failures (at most [`JobView::MAX_PROBLEMS`]).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

impl JobView {
    /// Most failed files named in a view.
    pub const MAX_PROBLEMS: usize = 100;
}

/// What `cairn job check` prints about a script.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct JobCheck {
    /// Directives found.
    pub directives: u64,
    /// Files to be staged.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Seconds that it may take; absent when it cannot be known.
    pub eta_s: Option<u64>,
    /// Whether there is room.
    pub fits: bool,
    /// There is no room for all of it now, and it would go on as policy makes room.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_parts: bool,
    /// Room where they would go, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<u64>,
    /// What it would have to wait for, in words: other jobs keep as much on disk as they may, or as there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    /// Mistakes in directives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mistakes: Vec<JobMistake>,
    /// What stands in the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// A mistake in a directive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobMistake {
    /// The script.
    #[serde(flatten)]
    pub script: GivenPath,
    /// Its line, from 1.
    pub line: u64,
    /// Its column, from 1, in characters.
    pub column: u64,
    /// What is wrong.
    pub message: String,
    /// What to write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}
