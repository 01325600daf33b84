//! Requests: what is asked for, what is answered, how far it has come.

use super::{GivenPath, When};
use crate::config::Amount;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a request does to its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Make copies on a tier.
    Archive,
    /// Give the blocks of archived files back.
    Release,
    /// Bring released files back.
    Stage,
    /// Read copies back and compare.
    Verify,
    /// Keep on disk until a time ([`SubmitOptions::pin_for_s`]).
    Pin,
    /// Take the caller's pins off.
    Unpin,
    /// Set flags ([`SubmitOptions::flags`]).
    Set,
    /// Clear flags.
    Clear,
    /// Give up the copy on one tier ([`SubmitOptions::tier`]).
    Remove,
}

impl Verb {
    /// Its name, as typed and in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Release => "release",
            Self::Stage => "stage",
            Self::Verify => "verify",
            Self::Pin => "pin",
            Self::Unpin => "unpin",
            Self::Set => "set",
            Self::Clear => "clear",
            Self::Remove => "remove",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A flag that a user may set on a file or, for what is created below it later, a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flag {
    /// Never archive.
    NoArchive,
    /// Never release.
    NoRelease,
}

/// One subject in a submission: the token got for its descriptor, and its path for messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubjectRef {
    /// One-use token from the handles socket.
    pub token: String,
    /// As the user typed it.
    #[serde(flatten)]
    pub path: GivenPath,
}

/// Which copies of the whole archive, for a verification that names no files (root).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Selection {
    /// Those that were not read for so long, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_than_s: Option<u64>,
    /// So many of them, by chance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<u64>,
    /// So many of a million of them, by chance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub millionths: Option<u32>,
    /// What the chance follows from: the same seed and the same copies give the same sample.
    #[serde(default)]
    pub seed: u64,
}

/// How a request is to be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SubmitOptions {
    /// Only this tier, by its name; else as policy says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Idempotency key: the same key by the same user gives the same request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The batch job that it is for; its `key` begins with `job:JOB/` then. What a stage for a job finds
    /// on disk or brings there is pinned by the job, if `pin_for_s` says for how long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// [`super::JobHeld::generation`] of the job when its caller began: nothing is done if it was released since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_generation: Option<u64>,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// How long a pin holds, seconds (verb `pin`, or `stage` for a job).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin_for_s: Option<u64>,
    /// Which flags (verbs `set` and `clear`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<Flag>,
    /// Also the last good copy, of a file whose data are on disk (verb `remove`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub last_copy: bool,
    /// Also if fewer copies are left than policy asks for (verb `remove`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub below_policy: bool,
    /// Copies of the whole archive instead of files (verb `verify`; no subjects).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<Selection>,
}

/// A request with more subjects than one call may carry is handed over in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The request that an earlier part was accepted as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub into: Option<u64>,
    /// No part follows. Until then the request is not done, even if all its actions are.
    pub last: bool,
}

impl Part {
    /// The only part of a request.
    pub const WHOLE: Self = Self {
        into: None,
        last: true,
    };
}

/// Body of `POST /v1/requests`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// What to do.
    pub verb: Verb,
    /// With what; at most [`crate::server::MAX_SUBJECTS`].
    pub subjects: Vec<SubjectRef>,
    /// How.
    #[serde(default)]
    pub options: SubmitOptions,
    /// Which part of the request this is.
    pub part: Part,
}

/// A request that is durable: it survives a crash from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Its number.
    pub request: u64,
    /// The same user had used the same key before, for a request that was handed over whole: this
    /// is that request, nothing new was begun. (One whose last part never came takes its parts
    /// again.)
    #[serde(default)]
    pub known: bool,
}

/// What something would cost, in one currency: an estimate from the configuration's prices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Which, as the configuration names it.
    pub currency: String,
    /// Once: a decimal number, as text.
    pub once: Amount,
    /// And each month from then on.
    pub monthly: Amount,
}

/// What a request would do (`--dry-run`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The verb.
    pub verb: Verb,
    /// Files that would be worked on.
    pub files: u64,
    /// Bytes that would move (archive, stage, verify) or be freed (release).
    pub bytes: u64,
    /// Expected duration, seconds; absent when it cannot be known.
    pub eta_s: Option<u64>,
    /// Whether there is room for it.
    pub fits: bool,
    /// There is no room for all of it now, and it would go on as policy makes room.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_parts: bool,
    /// What a job would keep on disk by pins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pins: Option<super::JobNeed>,
    /// Room where the bytes would go, bytes; absent when it does not matter or is not known.
    pub room: Option<u64>,
    /// What it would cost (archive, stage), each currency once; empty when no tier that it needs has
    /// prices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cost: Vec<Cost>,
    /// Files that would be left out, with the reason; at most [`Plan::MAX_SKIPPED`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Problem>,
    /// How many would be left out in all.
    #[serde(default)]
    pub skipped_files: u64,
}

impl Plan {
    /// Most skipped files named in a plan.
    pub const MAX_SKIPPED: usize = 1000;

    /// The plan of both parts together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.files = self.files.saturating_add(other.files);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.eta_s = self
            .eta_s
            .zip(other.eta_s)
            .map(|(a, b)| a.saturating_add(b));
        self.room = self.room.or(other.room);
        self.in_parts = self.in_parts || other.in_parts;
        self.pins = match (self.pins, other.pins) {
            (Some(one), Some(more)) => Some(one.and(more)),
            (one, more) => one.or(more),
        };
        self.fits = self.fits && other.fits && self.room.is_none_or(|room| self.bytes <= room);
        self.skipped_files = self.skipped_files.saturating_add(other.skipped_files);
        for more in other.cost {
            match self.cost.iter_mut().find(|c| c.currency == more.currency) {
                Some(cost) => {
                    cost.once = cost.once.and(more.once);
                    cost.monthly = cost.monthly.and(more.monthly);
                }
                None => self.cost.push(more),
            }
        }
        self.skipped.extend(other.skipped);
        self.skipped.truncate(Self::MAX_SKIPPED);
        self
    }
}

/// Answer to a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// Durable, and begun when its turn comes.
    Accepted(Accepted),
    /// Nothing was begun: `dry_run` was set.
    Plan(Plan),
}

/// One file that could not be done, or not yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Which; absent where the caller may not know.
    #[serde(flatten)]
    pub path: Option<GivenPath>,
    /// [`crate::error::Failure::as_str`].
    pub code: String,
    /// Why, in a sentence.
    pub message: String,
}

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestState {
    /// Accepted; nothing has begun.
    Queued,
    /// Some actions have begun.
    Running,
    /// Finished, all well.
    Done,
    /// Finished; some files failed.
    Failed,
    /// Cancelled before its end.
    Cancelled,
}

impl RequestState {
    /// Whether nothing more will happen.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::Running => false,
            Self::Done | Self::Failed | Self::Cancelled => true,
        }
    }
    /// Its name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A cartridge that files wait for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CartridgeWait {
    /// Its barcode.
    pub barcode: String,
    /// How many.
    pub files: u64,
}

/// A request as one caller may see it: paths only in the caller's own (root sees all).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestView {
    /// Its number.
    pub request: u64,
    /// What it does.
    pub verb: Verb,
    /// Where it stands.
    pub state: RequestState,
    /// Who asked.
    pub uid: u32,
    /// The caller's idempotency key (own requests only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The batch job that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// When it was accepted.
    pub created: When,
    /// When it reached its final state.
    pub finished: Option<When>,
    /// Files in all, as far as found; grows while directories are being walked.
    pub files: u64,
    /// Files done, including those that needed nothing.
    pub files_done: u64,
    /// Files that failed.
    pub files_failed: u64,
    /// Bytes in all, as far as found.
    pub bytes: u64,
    /// Bytes done.
    pub bytes_done: u64,
    /// Seconds still expected; absent when it cannot be known or nothing is left.
    pub eta_s: Option<u64>,
    /// What it waits for now, in a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
    /// Cartridges that its files wait for, by barcode, of those files that are asked for by now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cartridges: Vec<CartridgeWait>,
    /// What was named in it (own requests only; at most [`RequestView::MAX_PATHS`]).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<GivenPath>,
    /// The files that failed (at most [`RequestView::MAX_PROBLEMS`]; `files_failed` counts all).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

impl RequestView {
    /// Most subjects named in a view.
    pub const MAX_PATHS: usize = 16;
    /// Most failed files named in a view.
    pub const MAX_PROBLEMS: usize = 1000;
}

/// Which requests are listed, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RequestFilter {
    /// Also those that are final; else only queued and running ones.
    #[serde(default)]
    pub all: bool,
    /// Only those with failed files, final or not.
    #[serde(default)]
    pub failed: bool,
    /// Only those for this batch job, final or not: the caller's own, or anybody's for root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Only with a number below this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// At most so many; the server bounds it further.
    pub limit: usize,
}

/// Answer to `GET /v1/requests`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestList {
    /// Newest first.
    pub requests: Vec<RequestView>,
}
