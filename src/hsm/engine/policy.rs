//! Policy in force: when rules are due, what they choose, and the requests that come of it. The
//! language and the choosing are `cairn-policies`; here are the clock, the catalog and the disk.
//!
//! A rule's plan is a value: computed from the catalog, shown by a dry run, and re-checked file by
//! file when its actions are carried out.

use super::ask::{Forecast, Skipped};
use super::{Engine, EngineError, Shared, shifted};
use crate::catalog::{
    self, ArchiveFilter, CandidateCursor, Candidates, Durability, FileState, NewAction, NewRequest,
    Node, NodeId, Origin, ReleaseFilter,
};
use crate::error::Failure;
use crate::id::{RequestId, Timestamp};
use cairn_policies::{
    ByteCount, FileFacts, Flags, Moment, NodeKey, Plan, Policy, Rule, RulePlan, RunInput, Select,
    Trigger, Usage, Verb,
};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often triggers are looked at.
const TICK: Duration = Duration::from_secs(5);
/// Candidates asked of the catalog at once.
const PAGE: usize = 2000;
/// How often old requests are looked for.
const DAY: Duration = Duration::from_secs(86_400);
/// Rows of old requests that go in one transaction.
const FORGET: usize = 500;

/// The policy, and when its rules ran.
pub(super) struct InForce {
    pub(super) policy: Policy,
    pub(super) source: String,
    pub(super) text: String,
    last_runs: BTreeMap<String, Moment>,
    last_requests: BTreeMap<String, RequestId>,
}

impl InForce {
    pub(super) fn new(source: String, text: String, policy: Policy) -> Self {
        Self {
            policy,
            source,
            text,
            last_runs: BTreeMap::new(),
            last_requests: BTreeMap::new(),
        }
    }
}

/// Which rules to run.
#[derive(Debug, Clone)]
pub enum RunAsk {
    /// Those that are due.
    Due,
    /// One by name, or all.
    Now(Option<String>),
}

/// What came of one rule.
#[derive(Debug, Clone)]
pub struct RuleRun {
    /// `verb/name`.
    pub rule: String,
    /// Why it took what it took.
    pub because: String,
    /// What it takes.
    pub forecast: Forecast,
    /// The request made; `None` for a dry run, or if there was nothing to do.
    pub request: Option<RequestId>,
}

/// The thread that runs rules when they are due.
pub(super) fn work(shared: &Arc<Shared>) {
    let mut heard = 0;
    let mut forgot: Option<Instant> = None;
    let every = DAY.min(shared.settings.keep_requests);
    while !shared.stopping() {
        let due = || match shared.any_due() {
            true => shared.run_policy(&RunAsk::Due, false).map(drop),
            false => Ok(()),
        };
        match catch_unwind(AssertUnwindSafe(due)) {
            Ok(Ok(())) => {}
            Ok(Err(why)) => tracing::error!(%why, "policy could not be run"),
            Err(_) => tracing::error!("running the policy panicked; it is tried again"),
        }
        heard = shared.bell.wait(heard, TICK);
        if let Err(why) = shared.close_abandoned() {
            tracing::warn!(%why, "an abandoned request could not be closed");
        }
        let expired = shared.catalog.expire_pins(shared.now(), 1000);
        if let Err(why) = expired.and_then(|_| shared.catalog.settle_cancelled(shared.now(), 5000))
        {
            tracing::warn!(%why, "housekeeping failed");
        }
        if forgot.is_none_or(|at| at.elapsed() >= every) {
            forgot = Some(Instant::now());
            if let Err(why) = shared.forget_requests() {
                tracing::warn!(%why, "old requests could not be forgotten");
            }
        }
    }
}

impl Engine {
    /// Runs rules, or shows what they would do.
    ///
    /// # Errors
    /// [`EngineError`]; an unknown name is refused with the nearest one.
    pub fn run_policy(&self, ask: &RunAsk, dry_run: bool) -> Result<Vec<RuleRun>, EngineError> {
        self.shared.drain_changelog()?;
        self.shared.run_policy(ask, dry_run)
    }

    /// The policy in force: where it came from, its text, and what it says.
    #[must_use]
    pub fn policy(&self) -> (String, String, Policy) {
        let held = self.shared.policy.lock();
        (held.source.clone(), held.text.clone(), held.policy.clone())
    }

    /// Which rule holds a file where it is, in sentences.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn explain(&self, node: &Node) -> Result<String, EngineError> {
        let shared = &self.shared;
        let policy = shared.policy.lock().policy.clone();
        let policy = shared.in_full(policy);
        let input = shared.input(Select::Due(BTreeMap::new()))?;
        let facts = shared.file_facts(node)?;
        Ok(cairn_policies::explain(&policy, &input, &facts).to_string())
    }
}

impl Shared {
    /// Requests that ended long ago go, in small transactions.
    fn forget_requests(&self) -> Result<(), EngineError> {
        let keep = self.settings.keep_requests;
        if keep.is_zero() {
            return Ok(());
        }
        let before = shifted(self.now(), keep, false);
        while !self.stopping() && self.catalog.forget_requests(before, FORGET)? > 0 {}
        // Who still asks for a job may have begun long ago.
        let before = before.min(shifted(self.now(), DAY * 60, false));
        while !self.stopping() && self.catalog.forget_jobs(before, FORGET)? > 0 {}
        Ok(())
    }

    pub(super) fn usage(&self) -> Result<Usage, EngineError> {
        let stat = rustix::fs::fstatvfs(self.backing.root())
            .map_err(|e| EngineError::io("asking how full the backing is")(e.into()))?;
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        let free = stat.f_bfree.saturating_mul(stat.f_frsize);
        Ok(Usage {
            used: ByteCount(total.saturating_sub(free)),
            total: ByteCount(total),
        })
    }

    /// Bytes that a stage may still take.
    pub(super) fn room_on_backing(&self) -> Result<u64, EngineError> {
        let stat = rustix::fs::fstatvfs(self.backing.root())
            .map_err(|e| EngineError::io("asking how full the backing is")(e.into()))?;
        let room = stat.f_bavail.saturating_mul(stat.f_frsize);
        Ok(room.saturating_sub(self.settings.reserve))
    }

    fn any_due(&self) -> bool {
        let now = moment(self.now());
        let Ok(usage) = self.usage() else {
            return false;
        };
        let held = self.policy.lock();
        let due = |rule: &Rule| match rule.trigger {
            Trigger::Every(span) => held
                .last_runs
                .get(&rule.name)
                .is_none_or(|last| last.after(span) <= now),
            Trigger::Watermark { high, .. } => {
                usage.total.0 > 0 && usage.used > high.of(usage.total)
            }
            Trigger::Manual | Trigger::Never => false,
        };
        held.policy.rules.iter().any(due)
    }

    fn input(&self, select: Select) -> Result<RunInput, EngineError> {
        Ok(RunInput {
            now: moment(self.now()),
            usage: self.usage()?,
            select,
            release_allowed: self.release_allowed(),
        })
    }

    pub(super) fn run_policy(
        &self,
        ask: &RunAsk,
        dry_run: bool,
    ) -> Result<Vec<RuleRun>, EngineError> {
        let (policy, select) = {
            let held = self.policy.lock();
            let select = match ask {
                RunAsk::Due => Select::Due(held.last_runs.clone()),
                RunAsk::Now(Some(name)) => Select::Named(vec![name.clone()]),
                RunAsk::Now(None) => {
                    Select::Named(held.policy.rules.iter().map(|r| r.name.clone()).collect())
                }
            };
            (held.policy.clone(), select)
        };
        let policy = self.in_full(policy);
        let input = self.input(select)?;
        let plan = self.plan(&policy, &input)?;
        if let Some(unknown) = plan.unknown.first() {
            let message = format!("the policy has no rule {:?}", unknown.name);
            let refused = EngineError::refused(Failure::NotFound, message);
            return Err(match &unknown.nearest {
                Some(nearest) => refused.hint(format!("did you mean {nearest:?}?")),
                None => refused.hint("`cairn policy check` lists the rules"),
            });
        }
        plan.rules
            .iter()
            .map(|rule| self.carry_out(rule, &input, dry_run))
            .collect()
    }

    /// As many copies as the instance's settings ask for, where that is more.
    fn in_full(&self, mut policy: Policy) -> Policy {
        policy.settings.copies = policy.settings.copies.max(self.settings.copies);
        policy
    }

    fn plan(&self, policy: &Policy, input: &RunInput) -> Result<Plan, EngineError> {
        let failed = RefCell::new(None);
        let new = Pages::new(self, policy, input, Question::Archive, &failed);
        let fewer = Pages::new(self, policy, input, Question::Copies, &failed);
        let mut release = Pages::new(self, policy, input, Question::Release, &failed);
        if !fewer.ended {
            // What lies on tiers that do not count may have too few and enough: it comes once.
            let from = policy.settings.copies;
            release.release.min_copies = from.saturating_add(self.useless_tiers()?);
        }
        let plan = cairn_policies::plan(policy, input, new.chain(fewer).chain(release));
        match failed.into_inner() {
            Some(why) => Err(why),
            None => Ok(plan),
        }
    }

    fn carry_out(
        &self,
        rule: &RulePlan,
        input: &RunInput,
        dry_run: bool,
    ) -> Result<RuleRun, EngineError> {
        let mut run = RuleRun {
            rule: format!("{}/{}", rule.verb.word(), rule.rule),
            because: rule.stop.say(input.now, input.usage),
            forecast: Forecast {
                files: rule.taken.files,
                bytes: rule.taken.bytes.0,
                ..Forecast::default()
            },
            request: None,
        };
        for (reason, tally) in &rule.held {
            run.forecast.skipped_files += tally.files;
            run.forecast.skipped.push(Skipped {
                path: Vec::new(),
                code: None,
                why: format!("{} files held: {reason}", tally.files),
            });
        }
        if dry_run {
            run.forecast.cost = self.cost_of_rule(rule)?;
            return Ok(run);
        }
        self.policy
            .lock()
            .last_runs
            .insert(rule.rule.clone(), input.now);
        let earlier = self.policy.lock().last_requests.get(&rule.rule).copied();
        if let Some(id) = earlier
            && self
                .catalog
                .request(id)?
                .is_some_and(|r| r.finished.is_none())
        {
            run.because = format!("request {id} of its last run is not finished");
            run.request = Some(id);
            return Ok(run);
        }
        if !rule.files.is_empty() {
            let id = self.request_for(rule)?;
            self.policy
                .lock()
                .last_requests
                .insert(rule.rule.clone(), id);
            run.request = Some(id);
        }
        Ok(run)
    }

    fn request_for(&self, rule: &RulePlan) -> Result<RequestId, EngineError> {
        let verb = match rule.verb {
            Verb::Archive => catalog::Verb::Archive,
            Verb::Release => catalog::Verb::Release,
        };
        let new = NewRequest {
            verb,
            uid: 0,
            gid: 0,
            origin: Origin::Policy,
            key: None,
            tier: None,
            options: "{}".into(),
            sealed: false,
        };
        let id = self.catalog.submit(new, Vec::new(), self.now())?.id;
        // If neither of what follows can be done now, it is closed as what its caller left.
        let _adding = self.parts.add(id);
        let filled = self.fill(id, rule);
        if filled.is_err() {
            self.catalog.cancel(id, self.now())?;
        }
        self.parts.done(id);
        self.bell.ring();
        filled.map(|()| id)
    }

    /// Enters the actions of a rule and seals the request.
    fn fill(&self, id: RequestId, rule: &RulePlan) -> Result<(), EngineError> {
        let mut pending = Vec::new();
        for file in &rule.files {
            let Some(node) = self.catalog.node(NodeId(file.node.0.cast_signed()))? else {
                continue;
            };
            let tiers = match rule.verb {
                Verb::Archive => self.lacking(&node)?.into_iter().map(Some).collect(),
                Verb::Release => vec![None],
            };
            for tier in tiers {
                pending.push(NewAction {
                    node: node.id,
                    handle: node.handle.clone(),
                    tier,
                    bytes: node.attributes.size,
                    place: None,
                    near: nearness(&file.path.0),
                    refused: None,
                });
            }
            if pending.len() >= PAGE {
                let chunk = std::mem::take(&mut pending);
                self.catalog
                    .add_actions(id, chunk, self.now(), Durability::Relaxed)?;
                self.bell.ring();
            }
        }
        self.catalog
            .add_actions(id, pending, self.now(), Durability::Relaxed)?;
        Ok(self.catalog.seal(id, self.now())?)
    }

    fn file_facts(&self, node: &Node) -> Result<FileFacts, EngineError> {
        let seen = &node.attributes;
        // What was archived and not changed since has a ctime of Cairn's own making (P2 step 6).
        let ours = node.proven.is_some_and(|p| p.ctime == seen.ctime);
        let accessed = node
            .last_access
            .map_or(seen.atime, |noted| noted.max(seen.atime));
        Ok(FileFacts {
            node: NodeKey(node.id.0.cast_unsigned()),
            path: self.catalog.path_of(node.id)?.unwrap_or_default(),
            size: ByteCount(seen.size),
            blocks: ByteCount(seen.blocks.saturating_mul(512)),
            uid: seen.uid,
            gid: seen.gid,
            mtime: moment(seen.mtime),
            atime: moment(accessed),
            ctime: moment(if ours { seen.mtime } else { seen.ctime }),
            state: match node.state {
                FileState::None => cairn_policies::FileState::New,
                FileState::Archived => cairn_policies::FileState::Archived,
                FileState::Dirty => cairn_policies::FileState::Dirty,
                FileState::Released => cairn_policies::FileState::Released,
                FileState::Lost => cairn_policies::FileState::Lost,
            },
            flags: Flags {
                noarchive: node.noarchive,
                norelease: node.norelease,
            },
            nlink: seen.nlink,
            pinned_until: self.catalog.pinned_until(node.id, self.now())?.map(moment),
            staged_at: node.staged_at.map(moment),
            copies: self.copies_that_count(node)?,
        })
    }
}

fn moment(t: Timestamp) -> Moment {
    Moment::new(t.sec, t.nsec)
}

/// Files of one directory belong together; any stable number of the directory will do.
fn nearness(path: &[u8]) -> NodeId {
    let end = path.iter().rposition(|b| *b == b'/').unwrap_or(0);
    let hash = path[..end].iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    });
    NodeId((hash >> 1).cast_signed())
}

/// What the catalog is asked for a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    /// New and changed files.
    Archive,
    /// Archived files with fewer copies than asked for.
    Copies,
    /// Archived files that take space.
    Release,
}

/// Candidates, asked of the catalog page by page.
struct Pages<'a> {
    shared: &'a Shared,
    question: Question,
    archive: ArchiveFilter,
    release: ReleaseFilter,
    copies: u32,
    cursor: Option<CandidateCursor>,
    page: std::vec::IntoIter<Node>,
    ended: bool,
    failed: &'a RefCell<Option<EngineError>>,
}

impl<'a> Pages<'a> {
    fn new(
        shared: &'a Shared,
        policy: &Policy,
        input: &RunInput,
        question: Question,
        failed: &'a RefCell<Option<EngineError>>,
    ) -> Self {
        let verb = match question {
            Question::Archive | Question::Copies => Verb::Archive,
            Question::Release => Verb::Release,
        };
        let asked = |rule: &&Rule| {
            rule.verb == verb
                && match &input.select {
                    Select::Named(names) => names.contains(&rule.name),
                    Select::Due(_) => true,
                }
        };
        let filters: Vec<_> = policy
            .rules
            .iter()
            .filter(asked)
            .map(|rule| rule.prefilter())
            .filter(|f| match question {
                Question::Archive => !f.states.is_empty(),
                Question::Copies | Question::Release => {
                    f.states.contains(cairn_policies::FileState::Archived)
                }
            })
            .collect();
        let least = |span: fn(&cairn_policies::Prefilter) -> Option<cairn_policies::Span>| {
            let spans = filters
                .iter()
                .map(|f| span(f).map_or(0, cairn_policies::Span::secs));
            Duration::from_secs(spans.min().unwrap_or(0))
        };
        let now = shared.now();
        // A second of slack: what was written in this very second still counts as unchanged for 0 s.
        let soon = |by: Duration| {
            if by.is_zero() {
                shifted(now, Duration::from_secs(1), true)
            } else {
                shifted(now, by, false)
            }
        };
        let changed = least(|f| f.modified_before).max(least(|f| f.changed_before));
        let keep = Duration::from_secs(policy.settings.keep_staged.secs());
        Self {
            shared,
            question,
            archive: ArchiveFilter {
                older_than: soon(changed),
            },
            release: ReleaseFilter {
                min_size: filters
                    .iter()
                    .map(|f| f.min_size.0)
                    .min()
                    .unwrap_or(0)
                    .max(shared.settings.min_release),
                accessed_before: soon(least(|f| f.accessed_before)),
                staged_before: soon(keep),
                min_copies: policy.settings.copies,
                now,
            },
            copies: policy.settings.copies,
            cursor: None,
            page: Vec::new().into_iter(),
            ended: filters.is_empty(),
            failed,
        }
    }

    fn ask(&self) -> Result<Candidates, EngineError> {
        let catalog = &self.shared.catalog;
        Ok(match self.question {
            Question::Archive => catalog.to_archive(self.archive, self.cursor, PAGE)?,
            Question::Copies => {
                // The catalog counts what lies on any tier; which of that counts is looked at then.
                let fewer = self.copies.saturating_add(self.shared.useless_tiers()?);
                let mut found = catalog.under_copied(fewer, self.cursor, PAGE)?;
                found.nodes.retain(|n| n.state == FileState::Archived);
                found
            }
            Question::Release => catalog.to_release(self.release, self.cursor, PAGE)?,
        })
    }
}

impl Iterator for Pages<'_> {
    type Item = FileFacts;

    fn next(&mut self) -> Option<FileFacts> {
        loop {
            if let Some(node) = self.page.next() {
                let rests = self.shared.refused.rests(node.id, self.shared.now());
                if self.question == Question::Release && rests {
                    continue;
                }
                match self.shared.file_facts(&node) {
                    Ok(mut facts) => {
                        // Another copy of it may be wanted all the same.
                        facts.flags.norelease |= rests;
                        return Some(facts);
                    }
                    Err(why) => {
                        *self.failed.borrow_mut() = Some(why);
                        return None;
                    }
                }
            }
            if self.ended || self.failed.borrow().is_some() {
                return None;
            }
            match self.ask() {
                Ok(found) => {
                    self.cursor = found.next;
                    self.ended = found.next.is_none();
                    self.page = found.nodes.into_iter();
                }
                Err(why) => *self.failed.borrow_mut() = Some(why),
            }
        }
    }
}
