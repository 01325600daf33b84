//! What a caller asks of the engine, in plain values.

use crate::catalog::{Flag, Origin, Verb};
use crate::id::NodeHandle;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// For whom something is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Asker {
    /// The engine itself: policy and recovery.
    pub const ENGINE: Self = Self {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
    };

    /// May it do to a file of `owner` what only the owner and root may?
    #[must_use]
    pub fn owns(&self, owner: u32) -> bool {
        self.uid == 0 || self.uid == owner
    }
}

/// A file or directory that was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The inode.
    pub node: NodeHandle,
    /// The path as the user typed it, for messages only.
    pub given: Vec<u8>,
}

/// What an owner agrees to when copies are given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Consent {
    /// The last good copy may go, of a file whose data are on disk.
    pub last_copy: bool,
    /// Fewer may be left than policy asks for.
    pub below_policy: bool,
}

/// A request to be made.
#[derive(Debug, Clone)]
pub struct Ask {
    /// What.
    pub verb: Verb,
    /// For whom.
    pub asker: Asker,
    /// Who wants it.
    pub origin: Origin,
    /// Files, and directories that stand for all below them.
    pub subjects: Vec<Named>,
    /// Idempotency key.
    pub key: Option<String>,
    /// A tier by name.
    pub tier: Option<String>,
    /// How long to pin.
    pub pin_for: Option<Duration>,
    /// The batch job that it is for.
    pub job: Option<String>,
    /// The job's generation that its caller knows: nothing is done for a job that was released since.
    pub job_generation: Option<u64>,
    /// Flags to set or clear.
    pub flags: Vec<Flag>,
    /// What may be given up.
    pub consent: Consent,
    /// Which copies of the whole archive; there are no subjects then (verify alone).
    pub select: Option<super::Select>,
    /// A later part of this request.
    pub into: Option<crate::id::RequestId>,
    /// No further part will come.
    pub last: bool,
}

impl Ask {
    /// A stage that pins for a job what it is about.
    pub(super) fn pins_for_job(&self) -> bool {
        self.verb == Verb::Stage && self.job.is_some() && self.pin_for.is_some()
    }
}

/// A file that a request would leave out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// As it was named, or its name; empty: several.
    pub path: Vec<u8>,
    /// What it would fail with; `None`: nothing is to be done about it.
    pub code: Option<crate::error::Failure>,
    /// In words.
    pub why: String,
}

/// What a request would do.
#[derive(Debug, Clone, Default)]
pub struct Forecast {
    /// Files to be acted on.
    pub files: u64,
    /// Bytes to be moved.
    pub bytes: u64,
    /// What a stage needs, by owner.
    pub need: super::Need,
    /// Room for them, bytes, where that matters.
    pub room: Option<u64>,
    /// What would be pinned for a job.
    pub pins: super::PinNeed,
    /// Whether they are let in; `None` where nothing is asked.
    pub admission: Option<super::Admission>,
    /// Files left out, and why; at most a thousand are kept.
    pub skipped: Vec<Skipped>,
    /// Files left out, all of them.
    pub skipped_files: u64,
    /// Seconds it may take, if that can be told.
    pub eta_s: Option<u64>,
    /// What it would cost, by currency, where a tier that it needs has prices (archive and stage).
    pub cost: Vec<super::Cost>,
}

/// The part of an [`Ask`] that must survive a crash before it is expanded: `request.options`.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub(super) struct Options {
    pub(super) groups: Vec<u32>,
    pub(super) subjects: Vec<(i32, Vec<u8>, Vec<u8>)>,
    pub(super) pin_for_s: Option<u64>,
    #[serde(default)]
    pub(super) job: Option<String>,
    #[serde(default)]
    pub(super) job_generation: Option<u64>,
    pub(super) noarchive: bool,
    pub(super) norelease: bool,
    #[serde(default)]
    pub(super) consent: Consent,
    pub(super) select: Option<super::Select>,
}

impl Options {
    pub(super) fn of(ask: &Ask) -> Self {
        let subject = |s: &Named| (s.node.kind, s.node.bytes.clone(), s.given.clone());
        Self {
            groups: ask.asker.groups.clone(),
            subjects: ask.subjects.iter().map(subject).collect(),
            pin_for_s: ask.pin_for.map(|d| d.as_secs()),
            job: ask.job.clone(),
            job_generation: ask.job_generation,
            noarchive: ask.flags.contains(&Flag::NoArchive),
            norelease: ask.flags.contains(&Flag::NoRelease),
            consent: ask.consent,
            select: ask.select,
        }
    }

    /// The ask again, as it was.
    pub(super) fn ask(self, request: &crate::catalog::Request, tier: Option<String>) -> Ask {
        let mut flags = Vec::new();
        flags.extend(self.noarchive.then_some(Flag::NoArchive));
        flags.extend(self.norelease.then_some(Flag::NoRelease));
        let named = |(kind, bytes, given)| Named {
            node: NodeHandle { kind, bytes },
            given,
        };
        Ask {
            verb: request.verb,
            asker: Asker {
                uid: request.uid,
                gid: request.gid,
                groups: self.groups,
            },
            origin: request.origin,
            subjects: self.subjects.into_iter().map(named).collect(),
            key: request.key.clone(),
            tier,
            pin_for: self.pin_for_s.map(Duration::from_secs),
            job: self.job,
            job_generation: self.job_generation,
            flags,
            consent: self.consent,
            select: self.select,
            into: None,
            last: true,
        }
    }
}
