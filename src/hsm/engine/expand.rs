//! From what was named to actions: directories are taken whole, links are not followed, other
//! filesystems are not entered. The walk runs on the asker's behalf: what they may not read or do
//! not own becomes a failed action with the reason, never a silent omission.

mod parts;
mod turns;
mod walk;
mod wanted;

pub(super) use parts::Parts;
pub(super) use wanted::is_current;

use super::ask::{Ask, Asker, Consent, Forecast, Named, Options};
use super::cost::Bill;
use super::{Admission, EngineError, Shared};
use crate::catalog::{self, NewRequest, Submitted, Verb};
use crate::error::Failure;
use crate::hsm::recall::User;
use crate::id::{NodeHandle, RequestId};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use turns::Turns;
use walk::{Out, Walk};

/// How long the next part of a request may take to come.
const PATIENCE: Duration = Duration::from_secs(60);
/// Actions given to the catalog at once.
const CHUNK: usize = 2000;
/// How long after a failure a request's expansion is tried again.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(10);
/// Threads that expand stages, and threads that expand the rest.
pub(super) const THREADS: usize = 4;
/// Stages asked for by an attribute that may wait for one user.
const MAX_WISHES: usize = 1000;
/// Requests that one user may have which are not done.
const MAX_OPEN: usize = 10_000;

/// A request waiting to be expanded.
pub(super) struct Job {
    request: RequestId,
    ask: Ask,
}

/// Requests to be expanded, users in turn; stages have threads of their own, so that a user's
/// stage does not wait for the walk of somebody's archive.
pub(super) struct Expander {
    stages: Turns<Job>,
    others: Turns<Job>,
    wishes: Turns<Wish>,
}

/// A stage asked for by an attribute.
struct Wish {
    node: NodeHandle,
    user: User,
}

/// Which requests a thread expands.
#[derive(Clone, Copy)]
pub(super) enum Queue {
    Stages,
    Others,
}

impl Expander {
    pub(super) fn new() -> Self {
        Self {
            stages: Turns::new(THREADS),
            others: Turns::new(THREADS),
            wishes: Turns::new(1),
        }
    }

    fn queue(&self, queue: Queue) -> &Turns<Job> {
        match queue {
            Queue::Stages => &self.stages,
            Queue::Others => &self.others,
        }
    }
}

/// A thread that expands what comes, until the engine stops.
pub(super) fn work(shared: &Arc<Shared>, queue: Queue) {
    let jobs = shared.expander.queue(queue);
    let mut late: Vec<(std::time::Instant, Job)> = Vec::new();
    while !shared.stopping() {
        if let Some(at) = late.iter().position(|(at, _)| at.elapsed() > AGAIN) {
            let (_, job) = late.swap_remove(at);
            jobs.push(job.ask.asker.uid, job);
        }
        let Some(turn) = jobs.next(std::time::Duration::from_millis(200)) else {
            continue;
        };
        if shared.is_cancelled(turn.job.request) {
            continue;
        }
        let (request, ask) = (turn.job.request, &turn.job.ask);
        let done = catch_unwind(AssertUnwindSafe(|| expand(shared, request, ask)));
        let failed = match done {
            Ok(done) => done.err(),
            // Tried again it would panic again: whoever waits for it is told.
            Err(_) => shared.fail_whole(request, ask).err(),
        };
        if let Some(why) = failed {
            tracing::error!(request = request.0, %why, "a request could not be expanded; it is tried again");
            late.push((std::time::Instant::now(), turn.end()));
        }
    }
}

/// The thread that turns wishes into requests, until the engine stops.
pub(super) fn grant_wishes(shared: &Arc<Shared>) {
    while !shared.stopping() {
        let Some(turn) = shared
            .expander
            .wishes
            .next(std::time::Duration::from_millis(200))
        else {
            continue;
        };
        if let Err(why) = shared.grant(turn.end()) {
            tracing::warn!(%why, "a stage asked for by attribute was not accepted");
        }
    }
}

impl Shared {
    /// Accepts a request: durable when this returns, expanded in the background.
    pub(super) fn submit(&self, ask: Ask) -> Result<Submitted, EngineError> {
        let tier = ask
            .tier
            .as_deref()
            .map(|name| self.slot_named(name).map(|s| s.id))
            .transpose()?;
        self.may_do(&ask)?;
        super::jobs::may_ask(&ask)?;
        self.is_of_now(&ask)?;
        if let Some(request) = ask.into {
            return self.submit_part(request, ask);
        }
        self.may_have_more(ask.asker.uid)?;
        let options = serde_json::to_string(&Options::of(&ask)).map_err(|e| {
            EngineError::refused(
                Failure::Internal,
                format!("the request cannot be kept: {e}"),
            )
        })?;
        let new = NewRequest {
            verb: ask.verb,
            uid: ask.asker.uid,
            gid: ask.asker.gid,
            origin: ask.origin,
            key: ask.key.clone(),
            tier,
            options,
            sealed: false,
        };
        let submitted = self.catalog.submit(new, Vec::new(), self.now())?;
        if submitted.existing {
            return self.known(submitted, ask);
        }
        if let Err(released) = self.is_of_now(&ask) {
            self.cancel(submitted.id)?;
            return Err(released);
        }
        if ask.last {
            self.hand_over(submitted.id, ask);
        } else {
            // At once: the last part seals the request, and must not overtake the first.
            let _adding = self.parts.add(submitted.id);
            expand(self, submitted.id, &ask)?;
        }
        Ok(submitted)
    }

    /// Refuses a user who has very many requests that are not done; root never.
    fn may_have_more(&self, uid: u32) -> Result<(), EngineError> {
        if uid == 0 || !self.catalog.has_open_requests(uid, MAX_OPEN)? {
            return Ok(());
        }
        let why = format!("you have {MAX_OPEN} requests that are not done");
        Err(EngineError::refused(Failure::OverBudget, why)
            .hint("name many files in one request (--files-from), or wait for some to end"))
    }

    /// A request that its key names already. One whose caller went away between two parts is
    /// gone on with by who comes again; actions that it has are not added twice.
    fn known(&self, submitted: Submitted, ask: Ask) -> Result<Submitted, EngineError> {
        let row = self.catalog.request(submitted.id)?;
        if row.is_some_and(|row| row.verb != ask.verb) {
            let key = ask.key.as_deref().unwrap_or_default();
            let why = format!(
                "the key {key:?} is request {}'s, of another kind",
                submitted.id
            );
            return Err(EngineError::refused(Failure::Usage, why).hint("take another key"));
        }
        if self.parts.holds(submitted.id) {
            return self.submit_part(submitted.id, ask);
        }
        Ok(submitted)
    }

    /// Ends a request that the program cannot expand, because of a mistake of its own.
    fn fail_whole(&self, request: RequestId, ask: &Ask) -> Result<(), EngineError> {
        tracing::error!(
            request = request.0,
            "expanding a request panicked; it has failed"
        );
        let why = "the program met a mistake of its own; its log says where";
        self.refuse_whole(request, ask, Failure::Internal, why)
    }

    /// Nothing of this (part of a) request is done: each of its subjects has failed.
    fn refuse_whole(
        &self,
        request: RequestId,
        ask: &Ask,
        code: Failure,
        why: &str,
    ) -> Result<(), EngineError> {
        let mut failed = Vec::new();
        for subject in &ask.subjects {
            let known = self.catalog.node_by_handle(&subject.node)?;
            failed.push(catalog::NewAction {
                node: known.map_or_else(|| walk::nobody(&subject.node), |node| node.id),
                handle: subject.node.clone(),
                tier: None,
                bytes: 0,
                place: None,
                near: catalog::NodeId::ROOT,
                refused: Some(catalog::Failure {
                    code: code.as_str().to_owned(),
                    text: why.to_owned(),
                }),
            });
        }
        self.catalog.refuse_subjects(request, failed, self.now())?;
        if ask.last {
            self.catalog.seal(request, self.now())?;
        }
        self.changed(request);
        Ok(())
    }

    /// Some of its actions are entered.
    fn has_begun(&self, request: RequestId) -> Result<bool, EngineError> {
        let counts = self.catalog.request(request)?.map(|row| row.counts);
        Ok(counts.is_some_and(|counts| counts != catalog::Counts::default()))
    }

    fn is_cancelled(&self, request: RequestId) -> bool {
        self.was_cancelled(request).unwrap_or(false)
    }

    /// A later part of a request that is still open.
    fn submit_part(&self, request: RequestId, ask: Ask) -> Result<Submitted, EngineError> {
        let row = self.catalog.request(request)?.ok_or_else(|| {
            EngineError::refused(Failure::NotFound, format!("there is no request {request}"))
        })?;
        let other = super::jobs::job_of(&row) != ask.job.as_deref();
        if row.uid != ask.asker.uid || row.verb != ask.verb || other {
            return Err(EngineError::refused(
                Failure::NotPermitted,
                format!("request {request} is another user's or job's, or of another kind"),
            ));
        }
        let held = self.parts.holds(request);
        let _adding = self.parts.add(request);
        let expanded = expand(self, request, &ask);
        if ask.last && expanded.is_ok() || !held && expanded.is_err() {
            self.parts.done(request);
        }
        expanded?;
        Ok(Submitted {
            id: request,
            existing: false,
        })
    }

    /// Closes requests whose next part has not come: their caller is gone.
    pub(super) fn close_abandoned(&self) -> Result<(), EngineError> {
        for id in self.parts.late(PATIENCE) {
            self.catalog.seal(id, self.now())?;
            // Not before: what cannot be sealed now is tried again.
            self.parts.done(id);
            self.changed(id);
        }
        Ok(())
    }

    /// Accepts a stage that was asked for by an attribute, off the asker's path. The kernel has
    /// seen to it that the asker may write the file.
    ///
    /// # Errors
    /// [`Failure::OverBudget`]: very many of the user's wait already.
    pub(super) fn wish(&self, node: NodeHandle, user: User) -> Result<(), Failure> {
        // Not yet durable: an attribute's setter is told no more than that it was heard.
        let uid = user.uid;
        let heard = self
            .expander
            .wishes
            .push_up_to(uid, Wish { node, user }, MAX_WISHES);
        heard.then_some(()).ok_or(Failure::OverBudget)
    }

    /// Turns a wish into a request.
    fn grant(&self, Wish { node, user }: Wish) -> Result<(), EngineError> {
        self.submit(Ask {
            verb: Verb::Stage,
            asker: Asker {
                uid: user.uid,
                gid: user.gid,
                groups: user.groups,
            },
            origin: catalog::Origin::User,
            subjects: vec![Named {
                node,
                given: b"user.cairn.stage".to_vec(),
            }],
            key: None,
            tier: None,
            pin_for: None,
            job: None,
            job_generation: None,
            flags: Vec::new(),
            consent: Consent::default(),
            select: None,
            into: None,
            last: true,
        })?;
        Ok(())
    }

    fn hand_over(&self, request: RequestId, ask: Ask) {
        let queue = if ask.verb == Verb::Stage {
            Queue::Stages
        } else {
            Queue::Others
        };
        // What is not taken before a stop is taken up again at the next start.
        let queue = self.expander.queue(queue);
        queue.push(ask.asker.uid, Job { request, ask });
    }

    /// Requests that were accepted before the last stop but not yet expanded.
    pub(super) fn resume_expansion(&self) -> Result<(), EngineError> {
        for request in self.catalog.unsealed()? {
            let tier = request
                .tier
                .and_then(|id| self.slot(id))
                .map(|s| s.name.clone());
            match serde_json::from_str::<Options>(&request.options) {
                Ok(options) => self.hand_over(request.id, options.ask(&request, tier)),
                Err(why) => {
                    tracing::error!(request = request.id.0, %why, "its options cannot be read; it is cancelled");
                    self.catalog.cancel(request.id, self.now())?;
                }
            }
        }
        Ok(())
    }

    /// Refuses at once what cannot work at all.
    fn may_do(&self, ask: &Ask) -> Result<(), EngineError> {
        match ask.verb {
            Verb::Archive if self.tiers.is_empty() => Err(EngineError::refused(
                Failure::TierUnavailable,
                "no tier is configured",
            )),
            Verb::Archive => self.backing.capabilities().archive().map_err(|lack| {
                EngineError::refused(
                    Failure::Usage,
                    format!("this backing cannot be archived from: {lack}"),
                )
            }),
            Verb::Release => self.release_allowed().map_err(|why| {
                EngineError::refused(
                    Failure::NotPermitted,
                    format!("releases are disabled: {why}"),
                )
            }),
            Verb::Remove if ask.tier.is_none() => {
                let why = "which copy is to go must be said";
                Err(EngineError::refused(Failure::Usage, why).hint("--tier NAME names it"))
            }
            _ => Ok(()),
        }
    }

    /// What a request would do, without doing it; and what it would cost, where a bill is given.
    pub(super) fn forecast<'a>(
        &'a self,
        ask: &'a Ask,
        bill: Option<Bill<'a>>,
    ) -> Result<Forecast, EngineError> {
        if let Some(select) = ask.select {
            return self.forecast_selection(ask, select);
        }
        let mut forecast = Forecast::default();
        let mut walk = Walk {
            shared: self,
            ask,
            out: Out::Forecast(&mut forecast),
            rows: Vec::new(),
            held: Vec::new(),
            counted: Default::default(),
            bill,
        };
        walk.subjects()?;
        walk.count_held()?;
        let bill = walk.bill.take();
        forecast.cost = bill.map_or_else(Vec::new, Bill::total);
        if ask.verb == Verb::Stage {
            forecast.eta_s = self.stage_eta(forecast.bytes)?;
            forecast.admitted(ask, self.admit(&forecast.need, ask.pins_for_job())?);
        }
        Ok(forecast)
    }
}

/// Pins what a stage for a job is about, before it is looked at what of it is on disk: what is there now
/// stays there, and what comes is pinned before its first byte.
fn pin_first(shared: &Shared, request: RequestId, ask: &Ask) -> Result<(), EngineError> {
    let pins = Ask {
        verb: Verb::Pin,
        ..ask.clone()
    };
    let mut walk = Walk {
        shared,
        ask: &pins,
        out: Out::Pins { request },
        rows: Vec::new(),
        held: Vec::new(),
        counted: Default::default(),
        bill: None,
    };
    walk.subjects()?;
    walk.set_pins()
}

/// Expands a request and seals it, if no further part is to come.
fn expand(shared: &Shared, request: RequestId, ask: &Ask) -> Result<(), EngineError> {
    // What was let in before a restart is in.
    let resumed = ask.into.is_none() && shared.has_begun(request)?;
    if let Err(over) = shared.is_of_now(ask) {
        // It was accepted just before its job was released.
        tracing::info!(request = request.0, %over, "nothing is done for it");
        shared.cancel(request)?;
        return Ok(());
    }
    if ask.verb == Verb::Stage && !resumed {
        let forecast = shared.forecast(ask, None)?;
        if let Some(Admission::Refused(code, why)) = forecast.admission {
            return shared.refuse_whole(request, ask, code, &why);
        }
        if let (true, Some(job)) = (ask.pins_for_job(), &ask.job)
            && let Err((code, why)) = shared.draw_pins((ask.asker.uid, job), forecast.pins)?
        {
            return shared.refuse_whole(request, ask, code, &why);
        }
    }
    if let Some(select) = ask.select
        && !shared.expand_selection(request, ask, select)?
    {
        // By a stop: the next start chooses again. Or it was cancelled, and nothing is to be sealed.
        return Ok(());
    }
    if ask.verb == Verb::Stage && ask.pin_for.is_some() {
        pin_first(shared, request, ask)?;
    }
    let out = Out::Request {
        request,
        pending: Vec::new(),
    };
    let mut walk = Walk {
        shared,
        ask,
        out,
        rows: Vec::new(),
        held: Vec::new(),
        counted: Default::default(),
        bill: None,
    };
    walk.subjects()?;
    walk.flush()?;
    if shared.stopping() {
        // The walk may have been cut short; the next start does it again, from its beginning.
        return Ok(());
    }
    if ask.last {
        shared.catalog.seal(request, shared.now())?;
    }
    shared.bell.ring();
    shared.changed(request);
    Ok(())
}
