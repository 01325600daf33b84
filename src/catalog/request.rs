//! Vocabulary of durable requests and their actions.

use super::node::NodeId;
use crate::id::{AggregateId, NodeHandle, RequestId, TierId, Timestamp};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Make copies.
    Archive,
    /// Give blocks back.
    Release,
    /// Bring data back.
    Stage,
    /// Read copies back and compare.
    Verify,
    /// Keep on disk until a time.
    Pin,
    /// End a pin.
    Unpin,
    /// Set `noarchive` or `norelease`.
    Set,
    /// Clear them.
    Clear,
    /// Remove copies.
    Remove,
    /// Move what is alive out of aggregates.
    Repack,
}

/// Who wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A user or job asked.
    User,
    /// A policy asked.
    Policy,
    /// A reader waits for a released file.
    Implicit,
}

/// Classes of service, most urgent first. All actions of a request are of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// A reader waits.
    Read,
    /// A user or job asked for data.
    Stage,
    /// A user asked for copies.
    Archive,
    /// Blocks are to be given back.
    Release,
    /// A policy asked for copies.
    PolicyArchive,
    /// Copies are to be read back; repack.
    Verify,
    /// Copies are to be given up. It frees nothing, so nobody waits for it: no [`Class::Release`].
    Remove,
}

impl Class {
    /// All, most urgent first.
    pub const ALL: [Self; 7] = [
        Self::Read,
        Self::Stage,
        Self::Archive,
        Self::Release,
        Self::PolicyArchive,
        Self::Verify,
        Self::Remove,
    ];

    /// The class that serves a verb of an origin.
    #[must_use]
    pub fn of(verb: Verb, origin: Origin) -> Self {
        match (verb, origin) {
            (Verb::Stage, Origin::Implicit) => Self::Read,
            (Verb::Stage, Origin::User | Origin::Policy) => Self::Stage,
            (Verb::Archive, Origin::Policy) => Self::PolicyArchive,
            (Verb::Archive, Origin::User | Origin::Implicit) => Self::Archive,
            (Verb::Release | Verb::Pin | Verb::Unpin | Verb::Set | Verb::Clear, _) => Self::Release,
            (Verb::Remove, _) => Self::Remove,
            (Verb::Verify | Verb::Repack, _) => Self::Verify,
        }
    }
}

/// State of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestState {
    /// Accepted, nothing started.
    Queued,
    /// Some action started.
    Running,
    /// Every action ended, none failed.
    Done,
    /// Every action ended, some failed.
    Failed,
    /// Cancelled; actions that were running may still be ending.
    Cancelled,
}

/// State of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ActionState {
    /// To be started.
    Queued,
    /// Started.
    Running,
    /// To be started again at a later time.
    Waiting,
    /// Ended well.
    Done,
    /// Ended with an error.
    Failed,
    /// Ended because nobody wants it any more.
    Cancelled,
}

/// Files and bytes in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct StateCount {
    /// Actions.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Files and bytes of a request by state; exact at every commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Counts {
    /// To be started.
    pub queued: StateCount,
    /// Started.
    pub running: StateCount,
    /// To be started later.
    pub waiting: StateCount,
    /// Ended well.
    pub done: StateCount,
    /// Ended with an error.
    pub failed: StateCount,
    /// Not wanted any more.
    pub cancelled: StateCount,
}

/// Number of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActionId(pub i64);

impl std::fmt::Display for ActionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "action {}", self.0)
    }
}

/// Where the data that an action needs lie: its order on the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The aggregate.
    pub aggregate: AggregateId,
    /// Offset of the member in it, bytes.
    pub offset: u64,
}

/// A request to be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRequest {
    /// What.
    pub verb: Verb,
    /// For whom.
    pub uid: u32,
    /// Their group.
    pub gid: u32,
    /// Who wants it.
    pub origin: Origin,
    /// Idempotency key, unique per user: a second submission with it gives the first request back.
    pub key: Option<String>,
    /// The tier asked for, if one was.
    pub tier: Option<TierId>,
    /// Everything else that was asked for, as JSON text; the catalog does not look into it.
    pub options: String,
    /// No more actions will be added. If not, [`super::Catalog::add_actions`] adds them and
    /// [`super::Catalog::seal`] ends that; actions start meanwhile.
    pub sealed: bool,
}

/// An action to be added to a request. An action for a (node, tier) that the request already has
/// is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAction {
    /// The file.
    pub node: NodeId,
    /// Its handle: the action outlives the node's row.
    pub handle: NodeHandle,
    /// The tier to write to, or to read from.
    pub tier: Option<TierId>,
    /// Bytes to move.
    pub bytes: u64,
    /// Order on the medium, for what reads from one.
    pub place: Option<Place>,
    /// Nearness for what is packed: the directory's node.
    pub near: NodeId,
    /// It cannot be done, and why: the action is entered as failed and never starts.
    pub refused: Option<Failure>,
}

/// Answer to a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// The request.
    pub id: RequestId,
    /// It was there before, under the same key; the actions of this call were not added.
    pub existing: bool,
}

/// A request's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its number.
    pub id: RequestId,
    /// What.
    pub verb: Verb,
    /// For whom.
    pub uid: u32,
    /// Their group.
    pub gid: u32,
    /// Who wants it.
    pub origin: Origin,
    /// Its class of service.
    pub class: Class,
    /// Idempotency key.
    pub key: Option<String>,
    /// The tier asked for.
    pub tier: Option<TierId>,
    /// Options, JSON text.
    pub options: String,
    /// When it was accepted.
    pub created: Timestamp,
    /// When its first action started.
    pub started: Option<Timestamp>,
    /// When its last action ended.
    pub finished: Option<Timestamp>,
    /// Its state.
    pub state: RequestState,
    /// No more actions will be added.
    pub sealed: bool,
    /// Files and bytes by state.
    pub counts: Counts,
}

/// An action's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// Its number.
    pub id: ActionId,
    /// The request it is part of.
    pub request: RequestId,
    /// The file.
    pub node: NodeId,
    /// Its handle.
    pub handle: NodeHandle,
    /// The tier.
    pub tier: Option<TierId>,
    /// What.
    pub verb: Verb,
    /// Its state (of a cancelled request: as if every row were settled already).
    pub state: ActionState,
    /// Class of service.
    pub class: Class,
    /// For whom.
    pub uid: u32,
    /// Bytes to move.
    pub bytes: u64,
    /// Order on the medium.
    pub place: Option<Place>,
    /// Nearness for what is packed.
    pub near: NodeId,
    /// How often it was started.
    pub attempts: u32,
    /// Not to be started before.
    pub not_before: Option<Timestamp>,
    /// Last start.
    pub started: Option<Timestamp>,
    /// End.
    pub finished: Option<Timestamp>,
    /// Why the last attempt failed.
    pub failure: Option<Failure>,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Stable word for the cause (`tier-unavailable`, `changed`, ...): failures are counted by it.
    pub code: String,
    /// What a person reads.
    pub text: String,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// Well.
    Done,
    /// For good, with an error.
    Failed(Failure),
    /// To be tried again, not before the time; a failure is noted but does not count as one.
    Retry {
        /// Not before.
        not_before: Timestamp,
        /// Why.
        failure: Failure,
    },
    /// Something else had what it works on: to be tried again, not before the time; not counted as an attempt.
    Wait {
        /// Not before.
        not_before: Timestamp,
        /// Why.
        failure: Failure,
    },
    /// Put back as it was before the start (the worker is stopping); not counted as an attempt.
    PutBack,
    /// Nobody wants it any more.
    Cancelled,
}

/// Answer to [`super::Catalog::start_actions`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Started {
    /// These are running now.
    pub started: Vec<ActionId>,
    /// These are not to be started: their request was cancelled, or they ended before.
    pub refused: Vec<ActionId>,
}

/// Which requests to list. Newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestFilter {
    /// Only this user's.
    pub uid: Option<u32>,
    /// Only those that have not finished.
    pub active: bool,
    /// Only those with failed actions.
    pub failed: bool,
    /// Continue below this one.
    pub before: Option<RequestId>,
}
