//! A running instance as its doors see it: [`Control`] over the engine and the mount.
//!
//! Who may do what is decided here and in the engine, by the peer's credentials alone (P15):
//! a subject is mapped from its descriptor to a node, never by its path.

mod deleted;
mod durable;
mod jobs;
mod nodes;
mod receipt;
mod sight;
mod space;
mod status;
mod tapes;
mod tiers;
mod told;
mod views;

pub(super) use views::verb_out;

use super::control::{
    Control, ControlError, DeletedSink, Gone, NodeSink, Peer, RepairSink, Subject, Undelete,
    UndeletedSink, Wake,
};
use super::wire::{
    Accepted, Collect, JobHeld, JobNeed, JobOrder, Part, Plan, PolicyProblem, PolicyReport,
    PolicyRule, PolicyRun, Receipt, RepairKeep, RequestFilter, RequestView, Status, Stopped,
    SubmitOptions, Submitted, TierCheck, TierCheckQuery, TierList, Verb, Walk, Why,
};
use super::wire::{TapeDone, TapeList, TapeOrder, TapeRun, TapeView};
use crate::catalog::{self, Origin};
use crate::error::Failure;
use crate::hsm::engine::Admission;
use crate::hsm::engine::ask::{Ask, Asker, Consent, Forecast, Named};
use crate::hsm::engine::repair::{KeepWhat, RepairAsk};
use crate::hsm::engine::{Engine, EngineError, RequestReport, RunAsk, Sample, Select};
use crate::id::{NodeHandle, RequestId};
use cairn_fuse::{Mirror, MirrorError};
use crossbeam_channel::Sender;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// See the module.
pub struct Instance {
    engine: Arc<Engine>,
    mirror: Arc<Mirror>,
    mount: PathBuf,
    backing: PathBuf,
    name: String,
    /// Tiers that are asked how much room they have.
    questions: space::Questions,
    durable: durable::Durable,
    /// Told once, when somebody asked for the end: with force or without.
    end: Sender<bool>,
}

impl Instance {
    /// Over a running engine and its mount. `end` is told when the instance is to stop.
    #[must_use]
    pub fn new(
        engine: Arc<Engine>,
        mirror: Arc<Mirror>,
        backing: PathBuf,
        name: String,
        end: Sender<bool>,
    ) -> Self {
        let mount = mirror.mountpoint().to_owned();
        let durable = durable::Durable::of(engine.backing().root());
        Self {
            engine,
            mirror,
            mount,
            backing,
            name,
            questions: space::Questions::default(),
            durable,
            end,
        }
    }

    /// The node a subject stands for: by the mount's own table, or, for who can reach it, the
    /// backing's.
    fn node(&self, subject: &Subject, peer: &Peer) -> Result<NodeHandle, ControlError> {
        if let Some(node) = self.mirror.node_of(subject.fd.as_fd()) {
            return Ok(node);
        }
        let backing = self.engine.backing();
        let device = |fd| backing.stat(fd).map(|s| s.dev);
        // Others' descriptors are not looked at: their filesystem's server may never answer.
        if peer.is_root()
            && let (Ok(theirs), Ok(ours)) = (device(subject.fd.as_fd()), device(backing.root()))
            && theirs == ours
            && backing.path_of(subject.fd.as_fd()).is_ok()
        {
            return backing
                .handle_of(subject.fd.as_fd())
                .map_err(|why| told::error(why.into(), true));
        }
        let given = String::from_utf8_lossy(&subject.given).into_owned();
        Err(ControlError::new(
            Failure::NotFound,
            format!("{given} is not on {}", self.mount.display()),
        )
        .hint("name files by their path below the mount"))
    }

    fn ask(
        &self,
        verb: Verb,
        subjects: &[Subject],
        options: &SubmitOptions,
        part: Part,
        peer: &Peer,
    ) -> Result<Ask, ControlError> {
        let named = subjects.iter().map(|s| {
            Ok(Named {
                node: self.node(s, peer)?,
                given: s.given.clone(),
            })
        });
        Ok(Ask {
            verb: views::verb_in(verb),
            asker: asker(peer),
            origin: Origin::User,
            subjects: named.collect::<Result<_, ControlError>>()?,
            key: options.key.clone(),
            tier: options.tier.clone(),
            pin_for: options.pin_for_s.map(Duration::from_secs),
            job: options.job.clone(),
            job_generation: options.job_generation,
            flags: options.flags.iter().map(|f| views::flag_in(*f)).collect(),
            consent: Consent {
                last_copy: options.last_copy,
                below_policy: options.below_policy,
            },
            select: self.select(verb, options, peer)?,
            into: part.into.map(RequestId),
            last: part.last,
        })
    }

    /// Which copies of the whole archive are meant, where no files are named.
    fn select(
        &self,
        verb: Verb,
        options: &SubmitOptions,
        peer: &Peer,
    ) -> Result<Option<Select>, ControlError> {
        let Some(selection) = options.selection else {
            return Ok(None);
        };
        if verb != Verb::Verify {
            let why = "only verify can be asked for of the whole archive";
            return Err(ControlError::new(Failure::Usage, why));
        }
        if !self.rules(peer) {
            let why = "only root may verify the whole archive";
            return Err(ControlError::new(Failure::NotPermitted, why)
                .hint("name your files: cairn verify PATH..."));
        }
        if selection.copies.is_some_and(|n| n > Sample::MOST) {
            let why = format!("a sample of more than {} copies", Sample::MOST);
            return Err(ControlError::new(Failure::Usage, why).hint("ask for a share: --sample 5%"));
        }
        let copies = selection.copies.map(Sample::Copies);
        Ok(Some(Select {
            older_than_s: selection.older_than_s,
            sample: copies.or(selection.millionths.map(Sample::Millionths)),
            seed: selection.seed,
        }))
    }

    fn own(&self, id: RequestId, peer: &Peer) -> Result<(), ControlError> {
        let row = self.engine.request(id, 0).map_err(self.tells(peer))?.row;
        if row.uid == peer.uid || self.rules(peer) {
            return Ok(());
        }
        Err(ControlError::new(
            Failure::NotPermitted,
            format!("request {id} is another user's"),
        ))
    }

    /// What the peer is told of an error.
    fn tells(&self, peer: &Peer) -> impl Fn(EngineError) -> ControlError + use<> {
        let rules = self.rules(peer);
        move |why| told::error(why, rules)
    }

    fn view(&self, report: &RequestReport, peer: &Peer) -> RequestView {
        let own = report.row.uid == peer.uid;
        if self.rules(peer) {
            return views::request(report, Some(&mut |_| true), true, &self.mount);
        }
        let mut sight = sight::Sight::new(&self.engine, asker(peer));
        let mut sees = |path: &[u8]| sight.reaches(path);
        let sees: Option<views::Sees<'_>> = if own { Some(&mut sees) } else { None };
        views::request(report, sees, false, &self.mount)
    }

    fn only_rulers(&self, peer: &Peer, why: &str) -> Result<(), ControlError> {
        if self.rules(peer) {
            return Ok(());
        }
        Err(ControlError::new(Failure::NotPermitted, why))
    }

    /// Root, or who runs the instance.
    fn rules(&self, peer: &Peer) -> bool {
        peer.is_root() || peer.uid == rustix::process::geteuid().as_raw()
    }
}

fn asker(peer: &Peer) -> Asker {
    Asker {
        uid: peer.uid,
        gid: peer.gid,
        groups: peer.groups.clone(),
    }
}

fn plan(verb: Verb, forecast: Forecast) -> Plan {
    let fits = matches!(&forecast.admission, None | Some(Admission::Fits));
    let in_parts = matches!(&forecast.admission, Some(Admission::InParts(_)));
    let whole = forecast.admission.as_ref().and_then(views::whole);
    let need = forecast.pins;
    let pins = (need.total > 0).then_some(JobNeed {
        bytes: forecast.bytes,
        total: need.total,
        all: need.all,
        user: need.user,
    });
    Plan {
        verb,
        files: forecast.files,
        bytes: forecast.bytes,
        eta_s: forecast.eta_s,
        fits,
        in_parts,
        pins,
        room: forecast.room,
        cost: forecast.cost.into_iter().map(views::cost).collect(),
        skipped: whole
            .into_iter()
            .chain(forecast.skipped.into_iter().map(views::skipped))
            .collect(),
        skipped_files: forecast.skipped_files,
    }
}

impl Control for Instance {
    fn submit(
        &self,
        verb: Verb,
        subjects: Vec<Subject>,
        options: &SubmitOptions,
        part: Part,
        peer: &Peer,
    ) -> Result<Submitted, ControlError> {
        let ask = self.ask(verb, &subjects, options, part, peer)?;
        if options.dry_run {
            let forecast = self.engine.forecast(&ask).map_err(self.tells(peer))?;
            return Ok(Submitted::Plan(plan(verb, forecast)));
        }
        let done = self.engine.submit(ask).map_err(self.tells(peer))?;
        Ok(Submitted::Accepted(Accepted {
            request: done.id.0,
            known: done.existing,
        }))
    }

    fn state(
        &self,
        subject: Subject,
        walk: Walk,
        peer: &Peer,
        sink: NodeSink<'_>,
    ) -> Result<(), ControlError> {
        let node = self.node(&subject, peer)?;
        let for_whom = nodes::ForWhom::new(asker(peer), self.rules(peer));
        nodes::walk(&self.engine, &node, &subject.given, walk, &for_whom, sink)
            .map_err(self.tells(peer))
    }

    fn why(&self, subject: Subject, peer: &Peer) -> Result<Why, ControlError> {
        let node = self.node(&subject, peer)?;
        let for_whom = nodes::ForWhom::new(asker(peer), self.rules(peer));
        nodes::why(&self.engine, &node, &subject.given, &for_whom).map_err(self.tells(peer))
    }

    fn deleted(&self, place: Gone, peer: &Peer, sink: DeletedSink<'_>) -> Result<(), ControlError> {
        self.list_deleted(&place, peer, sink)
    }

    fn undelete(
        &self,
        ask: Undelete,
        peer: &Peer,
        sink: UndeletedSink<'_>,
    ) -> Result<Option<Accepted>, ControlError> {
        self.bring_back(&ask, peer, sink)
    }

    fn receipt(
        &self,
        subject: Subject,
        sha256: bool,
        peer: &Peer,
        wanted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Receipt, ControlError> {
        let node = self.node(&subject, peer)?;
        let whom = nodes::ForWhom::new(asker(peer), self.rules(peer));
        let made = receipt::receipt(&self.engine, &node, &subject.given, sha256, &whom, wanted);
        made.map_err(|why| match why {
            receipt::NoReceipt::Engine(why) => self.tells(peer)(why),
            receipt::NoReceipt::Refused(why) => why,
        })
    }

    fn requests(
        &self,
        filter: &RequestFilter,
        peer: &Peer,
    ) -> Result<Vec<RequestView>, ControlError> {
        if let Some(job) = &filter.job {
            return self.requests_of_job(job, filter, peer);
        }
        let filtered = catalog::RequestFilter {
            uid: (!filter.all).then_some(peer.uid),
            active: !filter.all && !filter.failed,
            failed: filter.failed,
            before: filter.before.map(RequestId),
        };
        let tells = self.tells(peer);
        let rows = self
            .engine
            .requests(filtered, filter.limit)
            .map_err(&tells)?;
        rows.into_iter()
            .map(|row| {
                let report = self.engine.request(row.id, 0).map_err(&tells)?;
                Ok(self.view(&report, peer))
            })
            .collect()
    }

    fn request(&self, id: RequestId, peer: &Peer) -> Result<RequestView, ControlError> {
        let report = self
            .engine
            .request(id, RequestView::MAX_PROBLEMS)
            .map_err(self.tells(peer))?;
        if report.row.finished.is_none() {
            // Nobody is left to wait for what may never end.
            self.engine.has_sound_catalog().map_err(self.tells(peer))?;
        }
        Ok(self.view(&report, peer))
    }

    fn cancel(&self, id: RequestId, peer: &Peer) -> Result<RequestView, ControlError> {
        self.own(id, peer)?;
        self.engine.cancel(id).map_err(self.tells(peer))?;
        self.request(id, peer)
    }

    fn retry(&self, id: RequestId, peer: &Peer) -> Result<Accepted, ControlError> {
        self.own(id, peer)?;
        self.engine.retry(id).map_err(self.tells(peer))?;
        Ok(Accepted {
            request: id.0,
            known: true,
        })
    }

    fn job(&self, order: &JobOrder, peer: &Peer) -> Result<JobHeld, ControlError> {
        self.job_order(order, peer)
    }

    fn status(&self, peer: &Peer) -> Result<Status, ControlError> {
        let rules = self.rules(peer);
        let status = status::status(self, rules).map_err(self.tells(peer))?;
        Ok(if rules {
            status
        } else {
            status::for_users(status)
        })
    }

    fn policy_check(
        &self,
        text: Option<(&str, &str)>,
        peer: &Peer,
    ) -> Result<PolicyReport, ControlError> {
        let (source, text) = match text {
            Some((source, text)) => (source.to_owned(), text.to_owned()),
            None => {
                let (source, text, _) = self.engine.policy();
                // Where the administrator keeps it is nobody else's.
                let name = source.rsplit('/').next().unwrap_or(&source).to_owned();
                (if self.rules(peer) { source } else { name }, text)
            }
        };
        Ok(check_policy(&source, &text))
    }

    fn policy_run(
        &self,
        rule: Option<&str>,
        dry_run: bool,
        peer: &Peer,
    ) -> Result<Vec<PolicyRun>, ControlError> {
        if !self.rules(peer) {
            return Err(ControlError::new(
                Failure::NotPermitted,
                "only root may run policies",
            ));
        }
        // People name rules as they are shown, too: verb/name.
        let rule = rule.map(|r| r.rsplit('/').next().unwrap_or(r).to_owned());
        let runs = self
            .engine
            .run_policy(&RunAsk::Now(rule), dry_run)
            .map_err(self.tells(peer))?;
        Ok(runs.into_iter().map(views::policy_run).collect())
    }

    fn tiers(&self, peer: &Peer) -> Result<TierList, ControlError> {
        self.only_rulers(peer, "only root may look through tiers")?;
        let views = self.engine.tier_views().map_err(self.tells(peer))?;
        Ok(tiers::list(views))
    }

    fn collect(&self, dry_run: bool, peer: &Peer) -> Result<Collect, ControlError> {
        self.only_rulers(peer, "only root may free tiers")?;
        let number = self.engine.collect(dry_run);
        Ok(Collect {
            number,
            dry_run,
            ..Collect::default()
        })
    }

    fn collection(&self, number: u64, peer: &Peer) -> Result<Collect, ControlError> {
        self.only_rulers(peer, "only root may free tiers")?;
        let found = self.engine.collection(number).map_err(self.tells(peer))?;
        let waits = || Collect {
            number,
            ..Collect::default()
        };
        Ok(found.map_or_else(waits, tiers::collect))
    }

    fn check_tier(&self, query: &TierCheckQuery, peer: &Peer) -> Result<TierCheck, ControlError> {
        self.only_rulers(peer, "only root may look through tiers")?;
        let asked = self.engine.check_tier(&query.tier, query.closely);
        Ok(TierCheck {
            number: asked.map_err(self.tells(peer))?,
            tier: query.tier.clone(),
            ..TierCheck::default()
        })
    }

    fn tier_check(&self, number: u64, peer: &Peer) -> Result<TierCheck, ControlError> {
        self.only_rulers(peer, "only root may look through tiers")?;
        let found = self.engine.tier_check(number).map_err(self.tells(peer))?;
        let waits = || TierCheck {
            number,
            ..TierCheck::default()
        };
        Ok(found.map_or_else(waits, tiers::check))
    }

    fn tapes(&self, tier: Option<&str>, peer: &Peer) -> Result<TapeList, ControlError> {
        self.only_rulers(peer, "only root may look through tiers")?;
        tapes::list(&self.engine, tier)
    }

    fn tape(
        &self,
        tier: Option<&str>,
        barcode: &str,
        peer: &Peer,
    ) -> Result<TapeView, ControlError> {
        self.only_rulers(peer, "only root may look through tiers")?;
        tapes::show(&self.engine, tier, barcode)
    }

    fn tape_order(&self, order: &TapeOrder, peer: &Peer) -> Result<TapeDone, ControlError> {
        self.only_rulers(peer, "only root may handle cartridges")?;
        tapes::order(&self.engine, order)
    }

    fn tape_run(&self, number: u64, peer: &Peer) -> Result<TapeRun, ControlError> {
        self.only_rulers(peer, "only root may handle cartridges")?;
        let run = self.engine.tape_run(number).map_err(self.tells(peer))?;
        Ok(tapes::run(run))
    }

    fn repair(
        &self,
        subjects: Vec<Subject>,
        apply: bool,
        keep: Option<RepairKeep>,
        peer: &Peer,
        sink: RepairSink<'_>,
    ) -> Result<(), ControlError> {
        if !self.rules(peer) {
            return Err(ControlError::new(
                Failure::NotPermitted,
                "only root may repair files of this instance",
            ));
        }
        let nodes = subjects.iter().map(|subject| self.node(subject, peer));
        let ask = RepairAsk {
            nodes: nodes.collect::<Result<_, _>>()?,
            apply,
            keep: keep.map(|keep| match keep {
                RepairKeep::Disk => KeepWhat::Disk,
                RepairKeep::Archive => KeepWhat::Archive,
            }),
        };
        self.engine
            .repair(&ask, &mut |repair| sink(views::repair(repair)))
            .map_err(self.tells(peer))
    }

    fn settle(&self, only_look: bool) -> Result<u64, ControlError> {
        if only_look {
            return Ok(self.durable.faults());
        }
        let settled = self.durable.settle();
        settled.map_err(|why| {
            ControlError::new(
                Failure::Internal,
                format!("synchronise the filesystem: {why}"),
            )
        })
    }

    fn shutdown(&self, force: bool, peer: &Peer) -> Result<Stopped, ControlError> {
        if !self.rules(peer) {
            return Err(ControlError::new(
                Failure::NotPermitted,
                "only root may stop this instance",
            ));
        }
        match self.mirror.unmount(force) {
            Ok(()) => {}
            Err(why @ MirrorError::Busy { .. }) => {
                let mut refused = ControlError::new(Failure::Busy, why);
                let holders = crate::server::holders::of(&self.mount);
                if !holders.is_empty() {
                    refused.message = format!("{}: {}", refused.message, holders.join(", "));
                }
                return Err(refused.hint("`cairn down --force` unmounts all the same"));
            }
            Err(why @ MirrorError::Covered { .. }) => {
                return Err(ControlError::new(Failure::Busy, why)
                    .hint("unmount what is mounted on it first (umount)"));
            }
            Err(why) => return Err(ControlError::new(Failure::Internal, why)),
        }
        // The main thread waits for the mount to go, and for this.
        let _ = self.end.try_send(force);
        Ok(Stopped {
            mount: self.mount.display().to_string(),
            pid: std::process::id(),
        })
    }

    fn on_change(&self, wake: Wake) {
        self.engine.on_change(wake);
    }
}

/// Reads a policy and says what is in it.
fn check_policy(source: &str, text: &str) -> PolicyReport {
    let mut report = PolicyReport {
        source: source.to_owned(),
        rules: Vec::new(),
        problems: Vec::new(),
    };
    match cairn_policies::Policy::parse(source, text) {
        Ok(policy) => {
            let rule = |r: &cairn_policies::Rule| PolicyRule {
                name: r.to_string(),
                says: r.trigger.to_string(),
            };
            report.rules = policy.rules.iter().map(rule).collect();
            let warning =
                |w: cairn_policies::Warning| problem(&w.source_name, w.line, 1, w.text, None);
            report.problems = policy.warnings().into_iter().map(warning).collect();
        }
        Err(why) => {
            let name = why.source_name;
            let one =
                |p: cairn_policies::Problem| problem(&name, p.line, p.column, p.message, p.hint);
            report.problems = why.problems.into_iter().map(one).collect();
        }
    }
    report
}

fn problem(
    file: &str,
    line: usize,
    column: usize,
    message: String,
    hint: Option<String>,
) -> PolicyProblem {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    PolicyProblem {
        file: file.to_owned(),
        line: number(line),
        column: number(column),
        message,
        hint,
    }
}
