//! How a job's data stand, from its requests and pins, over all instances at hand.

use super::super::output::{Output, harmless};
use super::super::{CliError, Session, outcome};
use crate::client::{Client, mounts};
use crate::config::units::shown::{Bytes, counted, files, grouped, seconds};
use crate::error::Failure;
use crate::server::wire::{
    JobAct, JobHeld, JobOrder, JobPhase, JobView, Problem, RequestFilter, RequestState,
    RequestView, Verb,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a mount may take to say who serves it.
pub(super) const SILENCE: Duration = Duration::from_secs(5);
/// Requests of one job that are looked at.
const MOST: usize = 1000;

/// Asks each instance that these places lead to; without any, each that is mounted here. One that does not
/// answer, or is not to be trusted, is passed over if another answers, but where `all` that are named must.
pub(super) fn each<T>(
    session: &Session,
    (places, all): (&[PathBuf], bool),
    mut ask: impl FnMut(&mut Client) -> Result<T, CliError>,
) -> Result<Vec<T>, CliError> {
    let mounts = mounts();
    if session.socket.is_some() || (places.is_empty() && mounts.len() < 2) {
        return Ok(vec![ask(&mut session.client_within(None, SILENCE)?)?]);
    }
    let all = all && !places.is_empty();
    let places = if places.is_empty() { &mounts } else { places };
    let (mut answers, mut asked, mut failed) = (Vec::new(), Vec::new(), None);
    for place in places {
        let answer = session
            .client_within(Some(place), SILENCE)
            .and_then(|mut client| {
                let socket = client.socket().to_owned();
                if asked.contains(&socket) {
                    return Ok(None);
                }
                let answer = ask(&mut client)?;
                asked.push(socket);
                Ok(Some(answer))
            });
        match answer {
            Ok(answer) => answers.extend(answer),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match failed {
        Some(error) if all || answers.is_empty() => Err(error),
        _ => Ok(answers),
    }
}

/// The requests of the caller's job.
pub(super) fn requests(client: &mut Client, job: &str) -> Result<Vec<RequestView>, CliError> {
    let filter = RequestFilter {
        all: true,
        job: Some(job.to_owned()),
        limit: MOST,
        ..RequestFilter::default()
    };
    let own = rustix::process::geteuid().as_raw();
    let mut found = client.requests(&filter)?;
    found.retain(|view| view.uid == own);
    Ok(found)
}

/// A request's place in its key: `job:4711/in.3.0` is the first try of line 3.
pub(super) fn kind_of(view: &RequestView) -> Option<(&str, u64)> {
    let (_, rest) = view.key.as_deref()?.split_once('/')?;
    let (kind, rest) = rest.split_once('.')?;
    let (line, _) = rest.split_once('.')?;
    Some((kind, line.parse().ok()?))
}

/// The number of a try.
pub(super) fn try_of(view: &RequestView) -> Option<u64> {
    view.key.as_deref()?.rsplit_once('.')?.1.parse().ok()
}

/// Kinds of requests that bring a job's files in, and that archive what it wrote.
fn is_of(kind: &str, verb: Verb) -> bool {
    match verb {
        Verb::Stage => matches!(kind, "in" | "opt"),
        _ => matches!(kind, "out" | "optout"),
    }
}

/// How far one verb has come for the job at the instances of these places.
pub(super) fn at(
    session: &Session,
    places: &[&Path],
    job: &str,
    verb: Verb,
) -> Result<JobView, CliError> {
    let mut all = empty(job);
    for place in places {
        let mut client = session.client_within(Some(place), SILENCE)?;
        add(&mut all, &mut client, Some(verb))?;
    }
    Ok(all)
}

/// The view of the job at all instances at hand.
pub(super) fn everywhere(
    session: &Session,
    places: &[PathBuf],
    job: &str,
) -> Result<JobView, CliError> {
    let mut all = empty(job);
    each(session, (places, false), |client| {
        add(&mut all, client, None)
    })?;
    Ok(all)
}

pub(super) fn empty(job: &str) -> JobView {
    JobView {
        job: job.to_owned(),
        uid: rustix::process::geteuid().as_raw(),
        phase: JobPhase::None,
        files: 0,
        files_done: 0,
        files_failed: 0,
        bytes: 0,
        bytes_done: 0,
        eta_s: None,
        waiting: None,
        pinned_files: 0,
        pinned_bytes: 0,
        pinned_until: None,
        requests: Vec::new(),
        problems: Vec::new(),
    }
}

fn add(all: &mut JobView, client: &mut Client, verb: Option<Verb>) -> Result<(), CliError> {
    let mut requests = requests(client, &all.job)?;
    // What could not be archived after a first run says nothing about what a second one needs.
    if let Some(verb) = verb {
        requests.retain(|view| kind_of(view).is_some_and(|(kind, _)| is_of(kind, verb)));
    }
    let order = JobOrder {
        job: all.job.clone(),
        act: JobAct::Show,
        pin_for_s: None,
        generation: None,
        need: None,
    };
    let held = client.job(&order)?;
    count(all, &requests, &held);
    Ok(())
}

/// Adds what one instance says.
fn count(all: &mut JobView, requests: &[RequestView], held: &JobHeld) {
    // The newest try of each directive is what counts: newest first.
    let mut newest: BTreeMap<(&str, u64), &RequestView> = BTreeMap::new();
    for view in requests {
        all.requests.push(view.request);
        if let Some(kind) = kind_of(view) {
            newest.entry(kind).or_insert(view);
        }
    }
    for ((kind, _), view) in newest {
        all.files += view.files;
        all.files_done += view.files_done;
        all.files_failed += view.files_failed;
        all.bytes += view.bytes;
        all.bytes_done += view.bytes_done;
        all.eta_s = all.eta_s.max(view.eta_s);
        if all.waiting.is_none() {
            all.waiting = view
                .waiting
                .clone()
                .or_else(|| super::super::progress::cartridges(view));
        }
        let room = JobView::MAX_PROBLEMS.saturating_sub(all.problems.len());
        all.problems
            .extend(view.problems.iter().take(room).cloned());
        all.phase = worse(all.phase, phase(kind, view.state));
    }
    if let Some(waits) = &held.waits {
        all.waiting = Some(waits.clone());
        all.phase = worse(all.phase, JobPhase::Staging);
    }
    all.pinned_files += held.files;
    all.pinned_bytes += held.bytes;
    all.pinned_until = all.pinned_until.max(held.until);
}

/// It was not let in, for no other reason than that other jobs keep as much as they may.
pub(super) fn is_over_budget(view: &JobView) -> bool {
    let over = |problem: &Problem| problem.code == Failure::OverBudget.as_str();
    view.phase == JobPhase::Failed && !view.problems.is_empty() && view.problems.iter().all(over)
}

/// What a request says about its job; one for an optional directive fails nothing.
fn phase(kind: &str, state: RequestState) -> JobPhase {
    match state {
        RequestState::Queued | RequestState::Running => JobPhase::Staging,
        RequestState::Done => JobPhase::Ready,
        RequestState::Failed if kind.starts_with("opt") => JobPhase::Ready,
        RequestState::Failed => JobPhase::Failed,
        RequestState::Cancelled => JobPhase::Released,
    }
}

/// Of two, that which says more about what is to be done: nothing is ready before all is.
fn worse(one: JobPhase, other: JobPhase) -> JobPhase {
    let rank = |phase| match phase {
        JobPhase::None => 0,
        JobPhase::Ready => 1,
        JobPhase::Released => 2,
        JobPhase::Staging => 3,
        JobPhase::Failed => 4,
    };
    if rank(other) > rank(one) { other } else { one }
}

/// What `job status` exits with.
pub(super) fn exit_code(view: &JobView) -> u8 {
    match view.phase {
        JobPhase::Staging => outcome::STILL_RUNNING,
        JobPhase::Failed => {
            let codes = view.problems.iter().map(|p| p.code.as_str());
            match outcome::of_problems(codes, view.files_done > 0) {
                outcome::OK => outcome::SOME_FAILED,
                code => code,
            }
        }
        JobPhase::None | JobPhase::Ready | JobPhase::Released => outcome::OK,
    }
}

/// In one line, as a queue shows it.
pub(super) fn line(view: &JobView) -> String {
    let mut line = counts(view);
    if let Some(waiting) = &view.waiting
        && view.phase == JobPhase::Staging
    {
        line.push_str(&format!("; waits: {}", harmless(waiting)));
    }
    line
}

/// How far it is, in numbers.
pub(super) fn counts(view: &JobView) -> String {
    let mut line = match view.phase {
        JobPhase::None => return "nothing was asked for".to_owned(),
        JobPhase::Released => return "released".to_owned(),
        JobPhase::Ready if view.files == 0 => "all was on disk".to_owned(),
        JobPhase::Staging if view.files == 0 && view.waiting.is_some() => "waits".to_owned(),
        JobPhase::Staging if view.files == 0 => "begins".to_owned(),
        JobPhase::Ready | JobPhase::Staging | JobPhase::Failed => format!(
            "{} of {}, {} of {}",
            grouped(view.files_done),
            files(view.files),
            Bytes(view.bytes_done),
            Bytes(view.bytes)
        ),
    };
    if view.files_failed > 0 {
        line.push_str(&format!(", {} failed", grouped(view.files_failed)));
    }
    if view.phase == JobPhase::Staging
        && let Some(eta) = view.eta_s
    {
        line.push_str(&format!(", about {} left", seconds(eta)));
    }
    line
}

/// For people.
pub(super) fn show(output: &mut Output, view: &JobView) -> Result<(), CliError> {
    let phase = match view.phase {
        JobPhase::None => "none",
        JobPhase::Staging => "staging",
        JobPhase::Ready => "ready",
        JobPhase::Failed => "failed",
        JobPhase::Released => "released",
    };
    output.line(format!("job       {}", view.job))?;
    output.line(format!("state     {phase}: {}", line(view)))?;
    if view.pinned_files > 0 {
        let until = view
            .pinned_until
            .map_or(String::new(), |u| format!(" until {}", u.to_seconds()));
        let (files, bytes) = (files(view.pinned_files), Bytes(view.pinned_bytes));
        output.line(format!("pinned    {files}, {bytes}{until}"))?;
    }
    if !view.requests.is_empty() {
        let numbers: Vec<String> = view.requests.iter().map(u64::to_string).collect();
        let many = counted(numbers.len() as u64, "request");
        output.line(format!("requests  {} ({many})", numbers.join(" ")))?;
    }
    view.problems
        .iter()
        .try_for_each(|problem| output.problem(problem.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_ready_when_nothing_that_it_needs_is_missing() {
        use JobPhase::*;
        assert_eq!(worse(None, Ready), Ready);
        assert_eq!(worse(Ready, Staging), Staging);
        assert_eq!(worse(Staging, Ready), Staging);
        assert_eq!(worse(Staging, Failed), Failed);
        assert_eq!(phase("opt", RequestState::Failed), Ready);
        assert_eq!(phase("in", RequestState::Failed), Failed);
    }
}
