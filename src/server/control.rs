//! The seam between the doors and the engine: everything that a caller can ask of a running
//! instance, in plain values.
//!
//! # The contract
//! - Methods block and may be called from any thread, many at once; the server calls them from
//!   threads of its own, a bounded number. None waits for a tier but [`Control::undelete`], which
//!   reads what it makes files from, [`Control::repair`] and [`Control::receipt`].
//! - The engine decides what [`Peer`] may do: what the namespace's permissions let that user do,
//!   no more (P15). A [`Subject`] is looked at through its descriptor, never through its path.
//! - An acceptance is durable before it is answered (design, invariant 6).

use super::wire::{
    Accepted, Collect, ErrorBody, JobHeld, JobOrder, Part, Problem, TapeDone, TapeList, TapeOrder,
    TapeRun, TapeView, TierCheck, TierCheckQuery, TierList,
};
use super::wire::{
    DeletedView, NodeState, PolicyReport, PolicyRun, Receipt, RepairKeep, RepairView,
    RequestFilter, RequestView, Status, Stopped, SubmitOptions, Submitted, UndeletedView, Verb,
    Walk, When, Why,
};
use crate::error::Failure;
use crate::id::RequestId;
use std::fmt;
use std::os::fd::OwnedFd;

/// Who asks, as the kernel says (SO_PEERCRED, SO_PEERGROUPS).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Effective user id when the connection was made.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Process id; 0 if it is not visible from here (another PID namespace).
    pub pid: u32,
}

impl Peer {
    /// Whether it is root.
    #[must_use]
    pub const fn is_root(&self) -> bool {
        self.uid == 0
    }
    /// Whether it belongs to the group.
    #[must_use]
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

/// A file or directory that a caller named by handing over a descriptor.
#[derive(Debug)]
pub struct Subject {
    /// An O_PATH descriptor of it, opened by the caller (a symbolic link itself, not its target).
    pub fd: OwnedFd,
    /// The path as the user typed it: for messages and views only.
    pub given: Vec<u8>,
}

/// A place that may be gone.
#[derive(Debug)]
pub struct Gone {
    /// The nearest directory above it that is there.
    pub subject: Subject,
    /// The path from there on, as the user typed it.
    pub below: Vec<u8>,
}

/// What is to come back.
#[derive(Debug)]
pub struct Undelete {
    /// What was deleted.
    pub from: Gone,
    /// Where to; else where it was.
    pub to: Option<Gone>,
    /// What was there at that time.
    pub at: Option<When>,
    /// The version of this number.
    pub version: Option<u64>,
    /// All below it.
    pub recursive: bool,
    /// The data, too.
    pub stage: bool,
}

/// Takes what was deleted one by one; `false`: the caller is gone, stop.
pub type DeletedSink<'a> = &'a mut dyn FnMut(DeletedView) -> bool;

/// Takes what came back, and what did not, one by one.
pub type UndeletedSink<'a> = &'a mut dyn FnMut(Result<UndeletedView, Problem>) -> bool;

/// A refusal or failure, as the caller will see it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ControlError {
    /// What kind: decides HTTP status and exit code.
    pub code: Failure,
    /// One sentence with the object's name. No secrets; no paths the caller could not know.
    pub message: String,
    /// What the caller can do.
    pub hint: Option<String>,
}

impl ControlError {
    /// Without a hint.
    pub fn new(code: Failure, message: impl fmt::Display) -> Self {
        Self {
            code,
            message: message.to_string(),
            hint: None,
        }
    }
    /// With a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }
}

impl From<ControlError> for ErrorBody {
    fn from(error: ControlError) -> Self {
        Self {
            code: error.code.as_str().to_owned(),
            message: error.message,
            hint: error.hint,
        }
    }
}

/// Takes the nodes of an answer one by one; `false`: the caller is gone, stop.
pub type NodeSink<'a> = &'a mut dyn FnMut(NodeState) -> bool;

/// Takes repairs one by one; `false`: the caller is gone, stop.
pub type RepairSink<'a> = &'a mut dyn FnMut(RepairView) -> bool;

/// Called with a request's number when something about it changed; must not block.
pub type Wake = Box<dyn Fn(RequestId) + Send + Sync>;

/// A running instance, as its doors see it.
pub trait Control: Send + Sync {
    /// Asks for work on the subjects; a directory stands for everything below it. See [`Part`]
    /// for requests handed over in several calls: a later part names the request, must come from
    /// the same user with the same verb, and a request whose last part does not come within a
    /// minute is closed as if it had.
    ///
    /// # Errors
    /// Refused as a whole: nothing was begun. A subject that cannot be done is no such error; it
    /// becomes a problem of the request (or a skipped file of the plan).
    fn submit(
        &self,
        verb: Verb,
        subjects: Vec<Subject>,
        options: &SubmitOptions,
        part: Part,
        peer: &Peer,
    ) -> Result<Submitted, ControlError>;

    /// The state of a subject, its children or its whole tree, handed to `sink` as it is found.
    /// Needs what `stat` and `readdir` would need. What the peer may not enter is left out.
    ///
    /// # Errors
    /// The subject is none of this mount's, or the peer may not see it.
    fn state(
        &self,
        subject: Subject,
        walk: Walk,
        peer: &Peer,
        sink: NodeSink<'_>,
    ) -> Result<(), ControlError>;

    /// Why a file is as it is.
    ///
    /// # Errors
    /// As [`Control::state`].
    fn why(&self, subject: Subject, peer: &Peer) -> Result<Why, ControlError>;

    /// What was deleted at a place and below it, as far as the peer may know of it, handed to `sink`
    /// as it is found.
    ///
    /// # Errors
    /// The place is on no directory of this mount's.
    fn deleted(&self, place: Gone, peer: &Peer, sink: DeletedSink<'_>) -> Result<(), ControlError>;

    /// Brings deleted files back as released ones, each handed to `sink` when it has its name. The
    /// request that stages them, if that was asked for.
    ///
    /// # Errors
    /// Nothing was begun.
    fn undelete(
        &self,
        ask: Undelete,
        peer: &Peer,
        sink: UndeletedSink<'_>,
    ) -> Result<Option<Accepted>, ControlError>;
    /// What copies of a file exist, with sums and commands that prove them without Cairn. Needs the
    /// right to read the file. Alone among these it may wait for tiers, and reads all of the file for
    /// `sha256`; it gives up soon after `wanted` says no.
    ///
    /// # Errors
    /// As [`Control::state`]; it was never archived.
    fn receipt(
        &self,
        subject: Subject,
        sha256: bool,
        peer: &Peer,
        wanted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Receipt, ControlError>;

    /// Requests, newest first, at most `filter.limit`; paths and keys only of the peer's own.
    ///
    /// # Errors
    /// The catalog cannot be read.
    fn requests(
        &self,
        filter: &RequestFilter,
        peer: &Peer,
    ) -> Result<Vec<RequestView>, ControlError>;

    /// One request. Called often while somebody waits: must be cheap.
    ///
    /// # Errors
    /// [`Failure::NotFound`].
    fn request(&self, id: RequestId, peer: &Peer) -> Result<RequestView, ControlError>;

    /// Cancels what is not finished, effective at once; no effect on a request that is final.
    ///
    /// # Errors
    /// [`Failure::NotFound`]; [`Failure::NotPermitted`] for another user's.
    fn cancel(&self, id: RequestId, peer: &Peer) -> Result<RequestView, ControlError>;

    /// Asks again for the files that failed or were cancelled, as a new request or the same one.
    ///
    /// # Errors
    /// As [`Control::cancel`]; [`Failure::Busy`] while it is not final.
    fn retry(&self, id: RequestId, peer: &Peer) -> Result<Accepted, ControlError>;

    /// Shows, prolongs or ends what a batch job of the peer's own holds. Ending is effective at once:
    /// its requests give up their places, its pins are gone.
    ///
    /// # Errors
    /// [`Failure::Usage`]: that is no job's name.
    fn job(&self, order: &JobOrder, peer: &Peer) -> Result<JobHeld, ControlError>;

    /// The state of the whole instance.
    ///
    /// # Errors
    /// The catalog cannot be read.
    fn status(&self, peer: &Peer) -> Result<Status, ControlError>;

    /// Checks a policy: the text given (with the name it goes by), else the one in force.
    ///
    /// # Errors
    /// Only if there is nothing to check; mistakes are in the report.
    fn policy_check(
        &self,
        text: Option<(&str, &str)>,
        peer: &Peer,
    ) -> Result<PolicyReport, ControlError>;

    /// Runs the rule of that name now, or all rules, as if their triggers had fired.
    ///
    /// # Errors
    /// [`Failure::NotPermitted`] unless root or the instance's own user (a dry run too: it tells
    /// of other users' files); [`Failure::NotFound`].
    fn policy_run(
        &self,
        rule: Option<&str>,
        dry_run: bool,
        peer: &Peer,
    ) -> Result<Vec<PolicyRun>, ControlError>;

    /// What lies on the tiers.
    ///
    /// # Errors
    /// [`Failure::NotPermitted`] unless root or the instance's own user.
    fn tiers(&self, peer: &Peer) -> Result<TierList, ControlError>;

    /// Asks for a run that frees the tiers of what nobody needs (P8). It runs on its own.
    ///
    /// # Errors
    /// As [`Control::tiers`].
    fn collect(&self, dry_run: bool, peer: &Peer) -> Result<Collect, ControlError>;

    /// How far such a run has come.
    ///
    /// # Errors
    /// As [`Control::tiers`]; [`Failure::NotFound`].
    fn collection(&self, number: u64, peer: &Peer) -> Result<Collect, ControlError>;

    /// Asks for a comparison of a tier with the catalog, which changes nothing. It runs on its own.
    ///
    /// # Errors
    /// As [`Control::tiers`]; [`Failure::Usage`] if there is no such tier; [`Failure::Busy`] if many runs wait.
    fn check_tier(&self, query: &TierCheckQuery, peer: &Peer) -> Result<TierCheck, ControlError>;

    /// How far such a comparison has come.
    ///
    /// # Errors
    /// As [`Control::tiers`]; [`Failure::NotFound`].
    fn tier_check(&self, number: u64, peer: &Peer) -> Result<TierCheck, ControlError>;

    /// The tape libraries: all of them, or that of one tier.
    ///
    /// # Errors
    /// As [`Control::tiers`]; [`Failure::Usage`] if the tier is none or no library.
    fn tapes(&self, tier: Option<&str>, peer: &Peer) -> Result<TapeList, ControlError>;

    /// One cartridge, and what is on it.
    ///
    /// # Errors
    /// As [`Control::tapes`]; [`Failure::CartridgeAbsent`].
    fn tape(
        &self,
        tier: Option<&str>,
        barcode: &str,
        peer: &Peer,
    ) -> Result<TapeView, ControlError>;

    /// Does something with cartridges or drives. It may wait for a drive; what takes long runs on its
    /// own.
    ///
    /// # Errors
    /// As [`Control::tape`]; [`Failure::Usage`] if it is not to be done, with the reason.
    fn tape_order(&self, order: &TapeOrder, peer: &Peer) -> Result<TapeDone, ControlError>;

    /// How far such a run has come.
    ///
    /// # Errors
    /// As [`Control::tiers`]; [`Failure::NotFound`].
    fn tape_run(&self, number: u64, peer: &Peer) -> Result<TapeRun, ControlError>;

    /// Hands what is wrong with the subjects (none: with anything), and what would be done about it,
    /// to `sink`; with `apply` it is done. Unlike the other methods this may wait for a tier.
    ///
    /// # Errors
    /// [`Failure::NotPermitted`] unless root or the instance's own user.
    fn repair(
        &self,
        subjects: Vec<Subject>,
        apply: bool,
        keep: Option<RepairKeep>,
        peer: &Peer,
        sink: RepairSink<'_>,
    ) -> Result<(), ControlError>;

    /// Unmounts and begins to stop; the process ends soon after the answer. With `force` also
    /// while the mount is in use.
    ///
    /// # Errors
    /// [`Failure::Busy`], naming who holds it as far as is known; [`Failure::NotPermitted`].
    fn shutdown(&self, force: bool, peer: &Peer) -> Result<Stopped, ControlError>;

    /// Makes durable all that was written and named on the mount before, unless it is `only_look`ed at; how often a write was
    /// lost so far, from an arbitrary start on: who finds another number than when they began must write again.
    ///
    /// # Errors
    /// The filesystem failed.
    fn settle(&self, only_look: bool) -> Result<u64, ControlError> {
        let _ = only_look;
        Err(ControlError::new(
            Failure::Internal,
            "this instance has no filesystem",
        ))
    }

    /// Registers who wants to know that a request changed. Optional: without it waiting callers
    /// learn of a change within a second.
    fn on_change(&self, wake: Wake) {
        drop(wake);
    }
}
