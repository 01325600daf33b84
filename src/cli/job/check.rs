//! A script is checked before it is submitted: its directives, and whether there is room for what it stages.

use super::super::output::Output;
use super::super::{CliError, Session, outcome};
use super::directives::Directives;
use super::sources::{self, Wanted};
use super::staging::{place, told};
use super::{directives, mistake, room};
use crate::config::units::shown::{Bytes, counted, files, seconds};
use crate::error::Failure;
use crate::server::wire::{
    GivenPath, JobAct, JobCheck, JobMistake, Plan, Problem, Submitted, Verb,
};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Stands for a job that has no name yet.
const JOB: &str = "check";
/// Files with mistakes.
const WRONG: u8 = 2;

/// How it is checked.
pub(super) struct How<'a> {
    pub(super) script: &'a Path,
    /// The directives alone.
    pub(super) syntax: bool,
    pub(super) directory: &'a Path,
    pub(super) json: bool,
}

pub(super) fn run(session: &Session, text: &[u8], how: &How<'_>) -> Result<u8, CliError> {
    let mut output = Output::new(how.json);
    let mut check = JobCheck {
        fits: true,
        ..JobCheck::default()
    };
    let code = match directives::parse(text) {
        Err(wrong) => {
            for one in &wrong {
                if !output.json {
                    eprintln!("cairn: {}", mistake(how.script, one));
                }
            }
            check.mistakes = wrong.iter().map(|one| of_json(how.script, one)).collect();
            WRONG
        }
        Ok(found) => {
            for ignored in &found.ignored {
                let at = how.script.display();
                eprintln!("cairn: {at}:{}: ignored: {}", ignored.line, ignored.why);
            }
            check.directives = found.all.len() as u64;
            // Slurm's controller waits for this, with its locks held: no file is looked at, and no list or mount can hang it.
            let all = match how.syntax {
                true => Vec::new(),
                false => sources::all(&found, Verb::Stage, how.directory),
            };
            if all.is_empty() {
                outcome::OK
            } else {
                look(session, &all, &mut check)?
            }
        }
    };
    if output.json {
        output.object(check)?;
    } else {
        show(&mut output, &check, how)?;
    }
    output.finish()?;
    Ok(code)
}

/// The same, for who submits at once if all is good; what is not is said.
pub(super) fn before_submission(
    session: &Session,
    directives: &Directives,
    directory: &Path,
    script: &Path,
) -> Result<(), CliError> {
    let mut check = JobCheck {
        fits: true,
        ..JobCheck::default()
    };
    let all = sources::all(directives, Verb::Stage, directory);
    if all.is_empty() || look(session, &all, &mut check)? == outcome::OK {
        return Ok(());
    }
    for problem in &check.problems {
        eprintln!("cairn: {}", told(problem));
    }
    let first = check.problems.first();
    let failure = first.and_then(|first| Failure::parse(&first.code));
    let failure = failure.unwrap_or(Failure::Internal);
    let why = match first {
        Some(whole) if whole.path.is_none() => {
            let room = check.room.map_or(String::new(), |room| {
                format!(", and {} bytes are free", room)
            });
            format!("it stages {} bytes{room}", check.bytes)
        }
        _ => {
            let many = counted(check.problems.len() as u64, "file or directory");
            format!("{many} cannot be staged")
        }
    };
    let script = super::shown(script);
    let error = CliError::new(failure, format!("{script} is not submitted: {why}"));
    Err(error.with_hint(format!("cairn job check {script} says more")))
}

fn of_json(script: &Path, wrong: &super::Wrong) -> JobMistake {
    JobMistake {
        script: GivenPath::new(script.as_os_str().as_bytes()),
        line: wrong.line as u64,
        column: wrong.column as u64,
        message: wrong.message.clone(),
        hint: wrong.hint.clone(),
    }
}

/// What the stages would move, and what stands in their way.
fn look(session: &Session, all: &[Wanted], check: &mut JobCheck) -> Result<u8, CliError> {
    let (mut plans, mut weighed) = (Vec::new(), Vec::new());
    for wanted in all {
        let (problems, plan) = match asked(session, wanted) {
            Err(why) if wanted.optional => {
                eprintln!("cairn: optional: {why}");
                continue;
            }
            asked => asked?,
        };
        if wanted.optional {
            let whole = plan.iter().flat_map(whole);
            for problem in problems.iter().chain(whole) {
                eprintln!("cairn: optional: {}", told(problem));
            }
            plans.extend(plan);
        } else {
            check.problems.extend(problems);
            weighed.extend(place(wanted).map(Path::to_owned).zip(plan));
        }
    }
    // What several directives name is counted once.
    let weighed = match weighed.len() {
        0 | 1 => weighed,
        _ => room::weigh(session, all, JOB)?,
    };
    for (at, plan) in weighed {
        among_others(session, (&at, &plan), check)?;
        plans.push(plan);
    }
    if let Some(sum) = plans.into_iter().reduce(Plan::and) {
        (check.files, check.bytes) = (sum.files, sum.bytes);
        (check.eta_s, check.room) = (sum.eta_s, sum.room);
    }
    let good = check.fits && check.problems.is_empty();
    Ok(if good {
        outcome::OK
    } else {
        outcome::SOME_FAILED
    })
}

/// What would come of a directive's stage, and files that it could not stage.
fn asked(session: &Session, wanted: &Wanted) -> Result<(Vec<Problem>, Option<Plan>), CliError> {
    let mut problems = wanted.problems.clone();
    let Some(place) = place(wanted) else {
        return Ok((problems, None));
    };
    let mut options = room::look(JOB);
    if wanted.optional {
        // The job does not wait for it.
        (options.job, options.pin_for_s) = (None, None);
    }
    let mut client = session.client_within(Some(place), super::view::SILENCE)?;
    let mut paths = wanted.paths.iter().cloned();
    let asked = client.submit(Verb::Stage, &mut paths, &options)?;
    problems.extend(asked.problems);
    let plan = match asked.submitted {
        Some(Submitted::Plan(plan)) => Some(plan),
        Some(Submitted::Accepted(_)) | None => None,
    };
    let named = plan.iter().flat_map(|plan| &plan.skipped);
    problems.extend(named.filter(|p| p.path.is_some()).cloned());
    Ok((problems, plan))
}

/// What stands in the way of a stage as a whole. That it is done in parts does not, and for what other jobs keep a
/// job waits.
fn whole(plan: &Plan) -> impl Iterator<Item = &Problem> {
    let code = |problem: &Problem| Failure::parse(&problem.code);
    let stands = move |code| matches!(code, Some(code) if code != Failure::OverBudget);
    let whole = plan.skipped.iter().filter(|p| p.path.is_none());
    whole.filter(move |problem| stands(code(problem)))
}

/// What a job with this plan would have to wait for at an instance, or never get.
fn among_others(
    session: &Session,
    (at, plan): (&Path, &Plan),
    check: &mut JobCheck,
) -> Result<(), CliError> {
    check.in_parts |= plan.in_parts;
    let refused = check.problems.len();
    check.problems.extend(whole(plan).cloned());
    if check.problems.len() > refused {
        check.fits = false;
        return Ok(());
    }
    let Some(need) = plan.pins else {
        return Ok(());
    };
    match room::tell(session, at, JOB, (JobAct::Weigh, Some(need))) {
        Ok(waits) => check.waits = check.waits.take().or(waits),
        Err(CliError::Client(why)) => {
            check.fits &= why.failure() != Failure::NoSpace;
            check.problems.push(Problem {
                path: None,
                code: why.failure().as_str().to_owned(),
                message: why.to_string(),
            });
        }
        Err(why) => return Err(why),
    }
    Ok(())
}

fn show(output: &mut Output, check: &JobCheck, how: &How<'_>) -> Result<(), CliError> {
    for problem in &check.problems {
        eprintln!("cairn: {}", told(problem));
    }
    if !check.mistakes.is_empty() {
        return Ok(());
    }
    let directives = counted(check.directives, "directive");
    if how.syntax {
        return output.line(format!("{}: good, {directives}", how.script.display()));
    }
    let time = check
        .eta_s
        .map_or_else(String::new, |s| format!(", about {}", seconds(s)));
    let room = check
        .room
        .map_or_else(String::new, |room| format!(" ({} free)", Bytes(room)));
    let fits = match (check.fits, check.in_parts) {
        (false, _) => "does not fit",
        (true, _) if check.waits.is_some() => "has to wait",
        (true, true) => "comes in parts, as policy makes room",
        (true, false) => "fits",
    };
    let (count, bytes) = (files(check.files), Bytes(check.bytes));
    output.line(format!(
        "{}: {directives}; would stage {count}, {bytes}{time}; {fits}{room}",
        how.script.display()
    ))?;
    match &check.waits {
        Some(waits) => output.line(format!("it would have to wait: {waits}")),
        None => Ok(()),
    }
}
