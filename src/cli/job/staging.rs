//! Staging for a job, in and out: its requests are made once however often it is asked, and waited for
//! also while no instance answers.
//!
//! Invariants:
//! - What is asked for a directive has a key of its own, `job:JOB/KIND.LINE.TRY`: asking again while a try is
//!   open goes on with it; a new try is made only when none is open.
//! - A job is told to be ready only when, after its last request ended, nothing that it needs was left to
//!   stage.
//! - A job claims all that it needs before it asks for anything: no two wait for each other.
//! - What is optional is asked for when all that is needed has been.

use super::super::output::{Output, harmless};
use super::super::{CliError, Session, outcome};
use super::directives::Directives;
use super::sources::{self, Wanted};
use super::view;
use crate::client::ClientError;
use crate::error::Failure;
use crate::server::wire::{
    JobPhase, JobView, Problem, RequestView, SubmitOptions, Submitted, Verb,
};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a job that stages is looked at, at first and later.
const LOOK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// How often who follows hears something even if nothing changed.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long it is waited between two looks for an instance.
const AWAY: Duration = Duration::from_secs(1);
/// How often what was staged may turn out to be gone again.
const ROUNDS: u32 = 5;

/// What is to be done for a job.
pub(super) struct Staging {
    pub(super) job: String,
    /// Stage or archive.
    pub(super) verb: Verb,
    pub(super) directives: Directives,
    /// Where relative paths begin.
    pub(super) directory: PathBuf,
    pub(super) wait: bool,
    /// Wait no longer than until then.
    pub(super) until: Option<Instant>,
    /// Print the state at each change, as JSON.
    pub(super) follow: bool,
    pub(super) json: bool,
    /// It is looked at again and again: what failed is not tried anew by a look.
    pub(super) poll: bool,
}

/// What is known of the job at each instance: its generation when this began.
pub(super) type Known = BTreeMap<PathBuf, u64>;

/// Says how it goes.
pub(super) struct Teller {
    output: Output,
    follow: bool,
    pub(super) last: Option<(Instant, JobView)>,
}

impl Teller {
    pub(super) fn tell(&mut self, view: &JobView) -> Result<(), CliError> {
        let heard = self
            .last
            .as_ref()
            .is_some_and(|(at, last)| last == view && (!self.follow || at.elapsed() < HEARTBEAT));
        if heard {
            return Ok(());
        }
        if self.follow {
            self.output.object(view.clone())?;
            self.output.flush()?;
        } else if !self.output.json
            && self
                .last
                .as_ref()
                .is_none_or(|(at, _)| at.elapsed() > HEARTBEAT)
        {
            eprintln!("job {}: {}", view.job, view::line(view));
        } else {
            return Ok(());
        }
        self.last = Some((Instant::now(), view.clone()));
        Ok(())
    }
}

impl Staging {
    pub(super) fn run(&self, session: &Session) -> Result<u8, CliError> {
        let all = sources::all(&self.directives, self.verb, &self.directory);
        let mut teller = Teller {
            output: Output::new(self.json || self.follow),
            follow: self.follow,
            last: None,
        };
        let mut codes = Vec::new();
        for wanted in &all {
            let problems = wanted.problems.iter();
            codes.extend(say(&mut teller, wanted, problems.cloned().collect())?);
        }
        if !codes.is_empty() {
            teller.output.finish()?;
            return Ok(outcome::of_problems(
                codes.iter().map(String::as_str),
                false,
            ));
        }
        let code = self.carry_out(session, &all, &mut teller)?;
        teller.output.finish()?;
        Ok(code)
    }

    fn carry_out(
        &self,
        session: &Session,
        all: &[Wanted],
        teller: &mut Teller,
    ) -> Result<u8, CliError> {
        let (mut known, mut round, mut again) = (Known::new(), 0, !self.poll);
        while round < ROUNDS {
            // A look asks for nothing that was asked for before.
            again |= self.look(session, all, teller)?.requests.is_empty();
            if again
                && self.verb == Verb::Stage
                && let Some(waiting) = self.claims(session, all, teller)?
            {
                return self.ended(teller, &waiting);
            }
            let codes = self.begin_all(session, all, teller, (&mut known, again))?;
            if !codes.is_empty() {
                return Ok(outcome::of_problems(
                    codes.iter().map(String::as_str),
                    false,
                ));
            }
            let view = self.follow(session, all, teller)?;
            if view::is_over_budget(&view) {
                // What it had claimed was forgotten by a restart, and others were quicker: from the beginning.
                self.patiently(session, teller, || self.let_go(session, all, &mut known))?;
                std::thread::sleep(AWAY);
                (round, again) = (round + 1, true);
                continue;
            }
            let ready = matches!(view.phase, JobPhase::Ready | JobPhase::None);
            if !self.wait || !ready {
                return self.ended(teller, &view);
            }
            if self.patiently(session, teller, || self.is_all_here(session, all))? {
                return self.ended(teller, &view);
            }
            tracing::info!(round, "something that was staged is gone again");
            (round, again) = (round + 1, true);
        }
        let why = "what was staged was released again, as often as it came";
        Err(CliError::new(Failure::Busy, why).with_hint("is the disk full? cairn status says so"))
    }

    /// Where the job's requests are: one place for each directive that names something.
    pub(super) fn places<'a>(
        all: &'a [Wanted],
        session: &Session,
    ) -> Result<Vec<&'a Path>, CliError> {
        let mut found: Vec<(PathBuf, &Path)> = Vec::new();
        for place in all.iter().filter_map(place) {
            let client = session.client_within(Some(place), view::SILENCE)?;
            if !found.iter().any(|(socket, _)| socket == client.socket()) {
                found.push((client.socket().to_owned(), place));
            }
        }
        Ok(found.into_iter().map(|(_, place)| place).collect())
    }

    /// Asks for all that is wanted; the codes of what the job needs and cannot be asked for.
    fn begin_all(
        &self,
        session: &Session,
        all: &[Wanted],
        teller: &mut Teller,
        (known, again): (&mut Known, bool),
    ) -> Result<Vec<String>, CliError> {
        let mut codes = Vec::new();
        let (optional, needed): (Vec<_>, Vec<_>) = all.iter().partition(|w| w.optional);
        let both = needed.into_iter().chain(optional);
        for wanted in both.filter(|w| !w.paths.is_empty()) {
            let begin = || self.begin(session, wanted, known, again);
            let begun = self.patiently(session, teller, begin);
            match begun {
                Ok(problems) => codes.extend(say(teller, wanted, problems)?),
                Err(why) if wanted.optional => eprintln!("cairn: optional: {why}"),
                Err(why) => return Err(why),
            }
        }
        Ok(codes)
    }

    /// Has the request of a directive made, if none is open; one that has ended is made anew if it may be tried
    /// `again`. What could not be handed over.
    fn begin(
        &self,
        session: &Session,
        wanted: &Wanted,
        known: &mut Known,
        again: bool,
    ) -> Result<Vec<Problem>, CliError> {
        let mut client = session.client_within(place(wanted), view::SILENCE)?;
        let generation = self.generation(&mut client, known)?;
        let kind = self.kind(wanted);
        let tries: Vec<RequestView> = view::requests(&mut client, &self.job)?
            .into_iter()
            .filter(|view| view::kind_of(view) == Some((kind, wanted.line as u64)))
            .collect();
        let open = tries.iter().find(|view| !view.state.is_final());
        if open.is_none() && !again && !tries.is_empty() {
            return Ok(Vec::new());
        }
        let next = tries.iter().filter_map(view::try_of).max();
        let next = next.map_or(0, |last| last + 1);
        // The same key: what its caller did not hand over to the end is handed over now.
        let key = match open.and_then(|view| view.key.clone()) {
            Some(key) => key,
            None => format!("job:{}/{kind}.{}.{next}", self.job, wanted.line),
        };
        let stage = self.verb == Verb::Stage;
        let options = SubmitOptions {
            tier: wanted.tier.clone(),
            key: Some(key),
            job: Some(self.job.clone()),
            job_generation: stage.then_some(generation),
            pin_for_s: stage.then_some(wanted.pin.as_secs().max(1)),
            ..SubmitOptions::default()
        };
        let mut paths = wanted.paths.iter().cloned();
        Ok(client.submit(self.verb, &mut paths, &options)?.problems)
    }

    fn kind(&self, wanted: &Wanted) -> &'static str {
        match (self.verb == Verb::Stage, wanted.optional) {
            (true, false) => "in",
            (true, true) => "opt",
            (false, false) => "out",
            (false, true) => "optout",
        }
    }

    /// Looks until nothing moves any more, or only once if nobody waits.
    fn follow(
        &self,
        session: &Session,
        all: &[Wanted],
        teller: &mut Teller,
    ) -> Result<JobView, CliError> {
        let mut pause = LOOK.0;
        loop {
            let view = self.look(session, all, teller)?;
            if !self.waits_on() || view.phase != JobPhase::Staging {
                return Ok(view);
            }
            teller.tell(&view)?;
            std::thread::sleep(pause);
            pause = (pause * 2).min(LOOK.1);
        }
    }

    fn look(
        &self,
        session: &Session,
        all: &[Wanted],
        teller: &mut Teller,
    ) -> Result<JobView, CliError> {
        self.patiently(session, teller, || {
            let places = Self::places(all, session)?;
            view::at(session, &places, &self.job, self.verb)
        })
    }

    /// Nothing that the job needs is still to be staged (or archived).
    fn is_all_here(&self, session: &Session, all: &[Wanted]) -> Result<bool, CliError> {
        if self.verb != Verb::Stage {
            return Ok(true);
        }
        for wanted in all.iter().filter(|w| !w.optional && !w.paths.is_empty()) {
            let mut client = session.client_within(place(wanted), view::SILENCE)?;
            let options = SubmitOptions {
                dry_run: true,
                ..SubmitOptions::default()
            };
            let mut paths = wanted.paths.iter().cloned();
            let submitted = client.submit(self.verb, &mut paths, &options)?.submitted;
            if matches!(submitted, Some(Submitted::Plan(plan)) if plan.files > 0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Asks until somebody answers, if the job waits: an instance that died is started again, and what was
    /// accepted goes on.
    pub(super) fn patiently<T>(
        &self,
        session: &Session,
        teller: &mut Teller,
        mut ask: impl FnMut() -> Result<T, CliError>,
    ) -> Result<T, CliError> {
        loop {
            let why = match ask() {
                Err(why) if self.waits_on() && is_away(session, &why, teller.last.is_some()) => why,
                answer => return answer,
            };
            let away = JobView {
                phase: JobPhase::Staging,
                waiting: Some(match &why {
                    CliError::Client(e) if e.failure() == Failure::OverBudget => why.to_string(),
                    _ => format!("Cairn does not answer: {why}"),
                }),
                ..match &teller.last {
                    Some((_, last)) => last.clone(),
                    None => view::empty(&self.job),
                }
            };
            teller.tell(&away)?;
            std::thread::sleep(AWAY);
        }
    }

    pub(super) fn waits_on(&self) -> bool {
        self.wait && self.until.is_none_or(|until| Instant::now() < until)
    }

    fn ended(&self, teller: &mut Teller, view: &JobView) -> Result<u8, CliError> {
        let code = view::exit_code(view);
        if teller.follow {
            teller.output.object(view.clone())?;
        } else if teller.output.json {
            teller.output.object(view.clone())?;
            return Ok(if self.wait { code } else { outcome::OK });
        } else {
            let line = format!("job {}: {}", view.job, view::line(view));
            teller.output.line(line)?;
        }
        for problem in &view.problems {
            eprintln!("cairn: {}", told(problem));
        }
        if view.phase == JobPhase::Released && self.wait {
            eprintln!("cairn: the job was released meanwhile");
            return Ok(outcome::SOME_FAILED);
        }
        // Without a wait what is accepted is done.
        Ok(if self.wait || code != outcome::STILL_RUNNING {
            code
        } else {
            outcome::OK
        })
    }
}

/// Nobody serves the mount just now. A path on no mount is a mistake, unless it was on one before.
fn is_away(session: &Session, why: &CliError, was_there: bool) -> bool {
    match why {
        CliError::Client(ClientError::NoInstance { .. }) => was_there || session.socket.is_some(),
        // Too much was asked of it at one time, by this user.
        CliError::Client(error) => {
            matches!(error.failure(), Failure::NoInstance | Failure::OverBudget)
        }
        CliError::Output(_) | CliError::Failed { .. } => false,
    }
}

/// What leads to the instance.
pub(super) fn place(wanted: &Wanted) -> Option<&Path> {
    let first = wanted.paths.first()?;
    Some(Path::new(OsStr::from_bytes(first)))
}

/// Says what cannot be asked for; the codes of what the job needs.
fn say(
    teller: &mut Teller,
    wanted: &Wanted,
    problems: Vec<Problem>,
) -> Result<Vec<String>, CliError> {
    let mut codes = Vec::new();
    for problem in problems {
        if wanted.optional {
            eprintln!("cairn: optional: {}", told(&problem));
            continue;
        }
        codes.push(problem.code.clone());
        if teller.follow {
            eprintln!("cairn: {}", told(&problem));
        } else {
            teller.output.problem(problem)?;
        }
    }
    Ok(codes)
}

/// A problem in a line.
pub(super) fn told(problem: &Problem) -> String {
    let message = harmless(&problem.message);
    match &problem.path {
        Some(path) => format!("{}: {message} ({})", harmless(path.text()), problem.code),
        None => format!("{message} ({})", problem.code),
    }
}
