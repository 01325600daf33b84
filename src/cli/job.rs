//! `cairn job`: what a batch job needs of the archive, for its scheduler's scripts and for people.
//!
//! A job is a name. All that is asked for it is asked by its user: requests by keys that begin with
//! `job:JOB/`, pins by the holder `uid:UID/job:JOB`.

mod check;
mod directives;
mod queue;
mod release;
mod resume;
mod room;
mod sbatch;
mod sources;
mod staging;
mod submit;
mod view;
mod waiter;
mod with_slurm;

pub(crate) use directives::Wrong;
pub(crate) use sbatch::Sbatch;

use super::output::{Output, harmless};
use super::{CliError, Session, outcome, user};
use crate::config::units::{format_duration, parse_duration};
use crate::error::Failure;
use crate::server::wire::{JobAct, Verb};
use clap::{Args, Subcommand};
use directives::Directives;
use release::{Release, order};
use staging::Staging;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Largest script that is read, bytes; Slurm's own limit is 4 MiB.
const LONGEST_SCRIPT: u64 = 16 << 20;

/// Arguments of `job`.
#[derive(Debug, Args)]
pub(crate) struct Job {
    #[command(subcommand)]
    command: JobCommand,
}

#[derive(Debug, Subcommand)]
enum JobCommand {
    /// Check a batch script's directives, and whether there is room for what it stages
    #[command(after_help = "Example: cairn job check run.sh")]
    Check(Check),
    /// Submit a job by slurmrestd, and let it run when its files are on disk
    #[command(
        after_help = "Example: cairn job submit --rest https://slurm.example.org --token-file ~/.jwt run.sh"
    )]
    Submit(submit::Submit),
    /// Go on with a job that is held until its files are on disk
    #[command(after_help = "Example: cairn job resume 4711")]
    Resume(resume::Resume),
    /// Bring a job's files to disk, and pin them for it
    #[command(after_help = "Example: cairn job stage-in 4711 --script run.sh --wait")]
    StageIn(StageIn),
    /// Show how far a job's files have come
    #[command(after_help = "Example: cairn job status 4711")]
    Status(Known),
    /// Keep a job's files on disk for longer
    #[command(after_help = "Example: cairn job pin 4711 --for 2d")]
    Pin(Pin),
    /// End a job's staging, and drop its pins
    #[command(after_help = "Example: cairn job release 4711")]
    Release(Release),
    /// Archive what a job has written
    #[command(after_help = "Example: cairn job stage-out 4711 --script run.sh --wait")]
    StageOut(StageOut),
}

/// For whom, and as whom.
#[derive(Debug, Clone, Default, Args)]
struct Scheduled {
    /// Ask Slurm (scontrol) whose job it is, act as that user, and tell Slurm how far it is.
    #[arg(long)]
    slurm: bool,
    /// Act as this user (root alone can).
    #[arg(long = "as", value_name = "UID", hide = true)]
    user: Option<u32>,
    /// Print the state at each change (what tells Slurm reads it).
    #[arg(long, hide = true)]
    follow: bool,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

/// Arguments of `job check`.
#[derive(Debug, Args)]
struct Check {
    /// The batch script (- for standard input).
    script: PathBuf,
    /// Look at the directives alone, not at files.
    #[arg(long)]
    syntax: bool,
    /// Directory of relative paths (default: this one).
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Arguments of `job stage-in`.
#[derive(Debug, Args)]
struct StageIn {
    #[command(flatten)]
    work: Work,
    /// Stop waiting after DUR (90s, 2h); staging goes on.
    #[arg(long, value_name = "DUR", requires = "wait", value_parser = parse_duration)]
    timeout: Option<Duration>,
}

/// Arguments of `job stage-out`.
#[derive(Debug, Args)]
struct StageOut {
    #[command(flatten)]
    work: Work,
    /// Stop waiting after DUR (90s, 2h); archiving goes on.
    #[arg(long, value_name = "DUR", requires = "wait", value_parser = parse_duration)]
    timeout: Option<Duration>,
}

/// What is to be done, and where it is written.
#[derive(Debug, Args)]
struct Work {
    /// The job.
    job: String,
    /// Its batch script (- for standard input).
    #[arg(long, value_name = "FILE")]
    script: PathBuf,
    /// Directory of relative paths (default: this one; with --slurm the job's own).
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Wait until it is done.
    #[arg(short, long)]
    wait: bool,
    /// Look, and try nothing anew that has failed (what Slurm asks again and again).
    #[arg(long, hide = true)]
    poll: bool,
    #[command(flatten)]
    scheduled: Scheduled,
}

/// Arguments of `job status`.
#[derive(Debug, Args)]
struct Known {
    /// The job.
    job: String,
    /// Counts alone, no path: what everybody may see.
    #[arg(long, hide = true)]
    brief: bool,
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    scheduled: Scheduled,
}

/// Which mounts are asked.
#[derive(Debug, Args)]
struct Places {
    /// Its batch script (- for standard input): only the mounts that it names are asked, not all of this host.
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Directory of relative paths (default: this one; with --slurm the job's own).
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// Arguments of `job pin`.
#[derive(Debug, Args)]
struct Pin {
    /// The job.
    job: String,
    #[command(flatten)]
    places: Places,
    /// How long from now on (90s, 2h, 7d; at most 30d; with --slurm the job's time limit).
    #[arg(long = "for", value_name = "DUR", value_parser = parse_duration,
          required_unless_present = "slurm")]
    lasting: Option<Duration>,
    #[command(flatten)]
    scheduled: Scheduled,
}

impl Job {
    pub(crate) fn run(&self, session: &Session) -> Result<u8, CliError> {
        match &self.command {
            JobCommand::Check(args) => args.run(session),
            JobCommand::Submit(args) => args.run(session),
            JobCommand::Resume(args) => args.run(session),
            JobCommand::StageIn(args) => args.run(session),
            JobCommand::Status(args) => args.run(session),
            JobCommand::Pin(args) => args.run(session),
            JobCommand::Release(args) => args.run(session),
            JobCommand::StageOut(args) => args.run(session),
        }
    }
}

impl Scheduled {
    /// From here on what is done is done as the user who was named.
    fn become_them(&self) -> Result<(), CliError> {
        self.user.map_or(Ok(()), user::become_user)
    }
}

/// A script's bytes.
fn read(script: &Path) -> Result<Vec<u8>, CliError> {
    let failed = |e| CliError::system(format!("read {}", script.display()), &e);
    let mut text = Vec::new();
    let read = if script == Path::new("-") {
        std::io::stdin()
            .take(LONGEST_SCRIPT + 1)
            .read_to_end(&mut text)
    } else {
        let file = std::fs::File::open(script).map_err(failed)?;
        file.take(LONGEST_SCRIPT + 1).read_to_end(&mut text)
    };
    if read.map_err(failed)? as u64 > LONGEST_SCRIPT {
        let why = format!("{} is larger than 16 MiB", script.display());
        return Err(CliError::usage(why));
    }
    Ok(text)
}

/// The directives of a script; mistakes are one error, a line each.
fn parse(script: &Path, text: &[u8]) -> Result<Directives, CliError> {
    let directives = directives::parse(text).map_err(|wrong| {
        let lines: Vec<String> = wrong.iter().map(|one| mistake(script, one)).collect();
        CliError::usage(lines.join("\ncairn: "))
    })?;
    for ignored in &directives.ignored {
        eprintln!(
            "cairn: {}:{}: ignored: {}",
            shown(script),
            ignored.line,
            ignored.why
        );
    }
    Ok(directives)
}

/// `run.sh:3:8: unknown ... (what to write)`.
fn mistake(script: &Path, wrong: &Wrong) -> String {
    let hint = wrong
        .hint
        .as_ref()
        .map_or(String::new(), |hint| format!(" ({hint})"));
    let (line, column) = (wrong.line, wrong.column);
    format!(
        "{}:{line}:{column}: {}{hint}",
        shown(script),
        harmless(&wrong.message)
    )
}

fn shown(script: &Path) -> String {
    if script == Path::new("-") {
        return "script".to_owned();
    }
    script.display().to_string()
}

/// Where relative paths begin.
fn directory(given: Option<&Path>) -> Result<PathBuf, CliError> {
    let at = |path: &Path| {
        std::path::absolute(path)
            .map_err(|e| CliError::system(format!("find {}", path.display()), &e))
    };
    at(given.unwrap_or(Path::new(".")))
}

impl Check {
    fn run(&self, session: &Session) -> Result<u8, CliError> {
        let text = read(&self.script)?;
        let directory = directory(self.directory.as_deref())?;
        let how = check::How {
            script: &self.script,
            syntax: self.syntax,
            directory: &directory,
            json: self.json,
        };
        check::run(session, &text, &how)
    }
}

impl Work {
    fn staging(&self, verb: Verb, timeout: Option<Duration>) -> Result<Staging, CliError> {
        self.scheduled.become_them()?;
        let text = read(&self.script)?;
        Ok(Staging {
            job: self.job.clone(),
            verb,
            directives: parse(&self.script, &text)?,
            directory: directory(self.directory.as_deref())?,
            wait: self.wait,
            until: timeout.and_then(|t| std::time::Instant::now().checked_add(t)),
            follow: self.scheduled.follow,
            json: self.scheduled.json,
            poll: self.poll,
        })
    }

    fn with_slurm(
        &self,
        session: &Session,
        verb: &'static str,
        timeout: Option<Duration>,
    ) -> Result<u8, CliError> {
        let text = read(&self.script)?;
        // What is wrong is said before anybody is asked.
        parse(&self.script, &text)?;
        let limit = timeout.map(|timeout| ["--timeout".into(), format_duration(timeout).into()]);
        let limit = limit.into_iter().flatten();
        with_slurm::Order {
            session,
            verb,
            job: &self.job,
            script: Some(text),
            wait: self.wait,
            arguments: self
                .poll
                .then(|| "--poll".into())
                .into_iter()
                .chain(limit)
                .collect(),
            json: self.scheduled.json,
        }
        .run()
    }
}

impl Places {
    fn text(&self) -> Result<Option<Vec<u8>>, CliError> {
        self.script.as_deref().map(read).transpose()
    }

    /// Paths on the mounts that are meant; none: all mounts.
    fn paths(&self) -> Result<Vec<PathBuf>, CliError> {
        let (Some(script), Some(text)) = (&self.script, self.text()?) else {
            return Ok(Vec::new());
        };
        let directory = directory(self.directory.as_deref())?;
        // Of one with a mistake, nothing tells where its files were: all are asked.
        let found = parse(script, &text);
        Ok(found.map_or_else(|_| Vec::new(), |d| sources::places(&d, &directory)))
    }
}

impl StageIn {
    fn run(&self, session: &Session) -> Result<u8, CliError> {
        if self.work.scheduled.slurm {
            return self.work.with_slurm(session, "stage-in", self.timeout);
        }
        self.work.staging(Verb::Stage, self.timeout)?.run(session)
    }
}

impl StageOut {
    fn run(&self, session: &Session) -> Result<u8, CliError> {
        if self.work.scheduled.slurm {
            return self.work.with_slurm(session, "stage-out", self.timeout);
        }
        self.work.staging(Verb::Archive, self.timeout)?.run(session)
    }
}

impl Known {
    fn run(&self, session: &Session) -> Result<u8, CliError> {
        if self.scheduled.slurm {
            return self.with_slurm(session);
        }
        self.scheduled.become_them()?;
        let view = view::everywhere(session, &self.places.paths()?, &self.job)?;
        let mut output = Output::new(self.scheduled.json);
        let code = view::exit_code(&view);
        if output.json {
            output.object(view)?;
        } else if self.brief {
            output.line(format!("job {}: {}", self.job, view::counts(&view)))?;
        } else {
            view::show(&mut output, &view)?;
        }
        output.finish()?;
        Ok(code)
    }

    fn with_slurm(&self, session: &Session) -> Result<u8, CliError> {
        with_slurm::Order {
            session,
            verb: "status",
            job: &self.job,
            script: self.places.text()?,
            wait: false,
            arguments: self.brief.then(|| "--brief".into()).into_iter().collect(),
            json: self.scheduled.json,
        }
        .run()
    }
}

impl Pin {
    fn run(&self, session: &Session) -> Result<u8, CliError> {
        let lasting = |time: Duration| time.as_secs().max(1);
        if self.scheduled.slurm {
            let lasting = self
                .lasting
                .map(|time| format!("{}s", lasting(time)).into());
            return with_slurm::Order {
                session,
                verb: "pin",
                job: &self.job,
                script: self.places.text()?,
                wait: false,
                arguments: lasting.map_or_else(Vec::new, |time| vec!["--for".into(), time]),
                json: self.scheduled.json,
            }
            .run();
        }
        self.scheduled.become_them()?;
        let held = order(
            session,
            &self.places.paths()?,
            &self.job,
            (JobAct::Pin, self.lasting.map(lasting)),
            true,
        )?;
        let mut output = Output::new(self.scheduled.json);
        if output.json {
            output.object(held)?;
        } else {
            let until = held
                .until
                .map_or(String::new(), |u| format!(" until {}", u.to_seconds()));
            let files = crate::config::units::shown::files(held.files);
            output.line(format!("job {} pins {files}{until}", self.job))?;
        }
        output.finish()?;
        Ok(outcome::OK)
    }
}

/// That a job needs something which cannot be had.
fn no_job(job: &str) -> CliError {
    CliError::new(Failure::NotFound, format!("Slurm knows no job {job}"))
        .with_hint("scontrol show job; its pins end by themselves")
}
