//! The values that cross the control API, shared by server, client and the engine behind
//! [`super::control::Control`]: plain data, each serialised as one JSON object.
//!
//! What travels alone (an answer, a line of a stream, a line of `--json`) is wrapped in
//! [`Tagged`], which adds its `schema` field. A change that an old reader would misunderstand
//! makes a new schema name; added fields do not.

mod backup;
mod deleted;
mod job;
mod path;
mod policy;
mod probe;
mod query;
mod rebuild;
mod receipt;
mod repair;
mod request;
mod state;
mod status;
mod tape;
mod tier;
mod transfer;
mod when;

pub use backup::CatalogBackup;
pub use deleted::{DeletedBy, DeletedQuery, DeletedView, GonePlace, UndeleteQuery, UndeletedView};
pub use job::{JobAct, JobCheck, JobHeld, JobMistake, JobNeed, JobOrder, JobPhase, JobView};
pub use path::GivenPath;
pub use policy::{PolicyProblem, PolicyReport, PolicyRule, PolicyRun};
pub use probe::{ArchiveAsked, ArchiveQuery, DoctorReport, PathReport, ProbeQuery, Probed};
pub use query::{PolicyCheckQuery, PolicyRunQuery, ShutdownQuery, StateQuery, WhyQuery};
pub use rebuild::{RebuildReport, RebuiltFiles, RebuiltTier};
pub use receipt::{CheckCommand, CopyProof, Receipt, ReceiptQuery, Verifying};
pub use repair::{RepairKeep, RepairQuery, RepairView};
pub use request::{
    Accepted, CartridgeWait, Cost, Flag, Part, Plan, Problem, RequestFilter, RequestList,
    RequestState, RequestView, Selection, SubjectRef, Submission, SubmitOptions, Submitted, Verb,
};
pub use state::{CopyView, NodeState, NodeType, PinView, StateFlag, Waiting, Walk, Why};
pub use status::{
    Backlog, ChangelogStatus, CopiesStatus, FailureCount, FileCounts, Level, Mirror, ProofStatus,
    RecallStatus, ScanStatus, Status, TierHealth, TierProof, TierStatus, TroubledFile, Warning,
};
pub use tape::{
    StrangeImage, TapeAct, TapeCartridge, TapeDone, TapeDrive, TapeErrors, TapeFileView,
    TapeLibrary, TapeList, TapeOrder, TapeRun, TapeTrouble, TapeView,
};
pub use tier::{
    Collect, CollectDeed, CollectQuery, CollectTier, ObjectCount, StrangeObject, TierCheck,
    TierCheckQuery, TierDifference, TierList, TierObjects, TierOwner, TierTest, TierTestCase,
};
pub use transfer::{
    BadEntry, ContinueTransfer, Copied, DialTransfer, Dialled, Dialling, EntryKind, EntryView,
    FinishTransfer, FinishedTransfer, Hello, ListQuery, OpenTransfer, OpenedTransfer, TokenView,
    Way,
};
pub use transfer::{PortLease, Settled};
pub use when::When;

use serde::{Deserialize, Serialize};

/// A value with a name and version of its own on the wire.
pub trait Schema {
    /// `cairn.NAME.vN`; never reused for another meaning.
    const SCHEMA: &'static str;
}

/// A value with its `schema` field in front.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tagged<T> {
    /// [`Schema::SCHEMA`] of `T`.
    pub schema: String,
    /// The value; its fields stand beside `schema`.
    #[serde(flatten)]
    pub body: T,
}

impl<T: Schema> From<T> for Tagged<T> {
    fn from(body: T) -> Self {
        Self {
            schema: T::SCHEMA.to_owned(),
            body,
        }
    }
}

macro_rules! schemas {
    ($($name:ty => $schema:literal),* $(,)?) => {
        $(impl Schema for $name { const SCHEMA: &'static str = $schema; })*
        /// Every schema name of this version.
        pub const SCHEMAS: &[&str] = &[$($schema),*];
    };
}

schemas! {
    Submission => "cairn.submission.v1",
    Accepted => "cairn.accepted.v1",
    Plan => "cairn.plan.v1",
    Problem => "cairn.problem.v1",
    RequestView => "cairn.request.v1",
    RequestList => "cairn.requests.v1",
    NodeState => "cairn.state.v1",
    Why => "cairn.why.v1",
    Receipt => "cairn.receipt.v1",
    Verifying => "cairn.verifying.v1",
    Status => "cairn.status.v1",
    PolicyReport => "cairn.policy.v1",
    PolicyRun => "cairn.policy-run.v1",
    TierList => "cairn.tiers.v1",
    TierOwner => "cairn.tier-owner.v1",
    TierTest => "cairn.tier-test.v1",
    TierCheck => "cairn.tier-check.v1",
    TierCheckQuery => "cairn.tier-check-query.v1",
    Collect => "cairn.collect.v1",
    CollectQuery => "cairn.collect-query.v1",
    TapeList => "cairn.tapes.v1",
    TapeView => "cairn.tape.v1",
    TapeOrder => "cairn.tape-order.v1",
    TapeDone => "cairn.tape-done.v1",
    TapeRun => "cairn.tape-run.v1",
    RebuildReport => "cairn.rebuild.v1",
    CatalogBackup => "cairn.catalog-backup.v1",
    RepairQuery => "cairn.repair-query.v1",
    RepairView => "cairn.repair.v1",
    ErrorBody => "cairn.error.v1",
    End => "cairn.end.v1",
    Stopped => "cairn.stopped.v1",
    StateQuery => "cairn.state-query.v1",
    WhyQuery => "cairn.why-query.v1",
    ReceiptQuery => "cairn.receipt-query.v1",
    PolicyCheckQuery => "cairn.policy-check-query.v1",
    PolicyRunQuery => "cairn.policy-run-query.v1",
    ShutdownQuery => "cairn.shutdown-query.v1",
    DeletedQuery => "cairn.deleted-query.v1",
    DeletedView => "cairn.undelete.v1",
    UndeleteQuery => "cairn.undelete-query.v1",
    UndeletedView => "cairn.undeleted.v1",
    Hello => "cairn.remote-hello.v1",
    ListQuery => "cairn.remote-list-query.v1",
    EntryView => "cairn.remote-entry.v1",
    OpenTransfer => "cairn.transfer-open.v1",
    OpenedTransfer => "cairn.transfer-opened.v1",
    ContinueTransfer => "cairn.transfer-next.v1",
    DialTransfer => "cairn.transfer-dial.v1",
    Dialled => "cairn.transfer-dialled.v1",
    FinishTransfer => "cairn.transfer-finish.v1",
    FinishedTransfer => "cairn.transfer-finished.v1",
    TokenView => "cairn.token.v1",
    Copied => "cairn.copied.v1",
    ArchiveQuery => "cairn.archive-query.v1",
    ArchiveAsked => "cairn.archive-asked.v1",
    ProbeQuery => "cairn.probe-query.v1",
    Probed => "cairn.probed.v1",
    DoctorReport => "cairn.doctor.v1",
    PortLease => "cairn.port-lease.v1",
    Settled => "cairn.settled.v1",
    JobOrder => "cairn.job-order.v1",
    JobHeld => "cairn.job-held.v1",
    JobView => "cairn.job.v1",
    JobCheck => "cairn.job-check.v1",
}

/// Body of every answer that is no success, and last line of a stream that broke off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// [`crate::error::Failure::as_str`].
    pub code: String,
    /// One sentence: what failed, with the object's name.
    pub message: String,
    /// What the caller can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Last line of a stream that is whole. A stream without it was cut off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Lines before this one.
    pub lines: u64,
}

/// Answer to a shutdown that has been carried out: nothing is mounted any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// Where it was mounted.
    pub mount: String,
    /// The process that is about to end.
    pub pid: u32,
}

#[cfg(test)]
mod tests;
