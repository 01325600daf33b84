//! `cairn job resume`: goes on with a job that was submitted held, where whoever waited for it died; and how a waiter
//! is left behind by whoever submits.
//!
//! Invariant: one waiter a job. It holds a lock beside its log as long as it lives, however it dies.

use super::super::output::harmless;
use super::super::up::detach;
use super::super::{CliError, Session};
use super::directives::{Directives, What};
use super::queue::{Commands, Door, Queue};
use super::waiter::{Part, Plan, RELEASED, Waiter};
use super::{directory, parse, read};
use crate::error::Failure;
use clap::{Args, ValueEnum};
use rustix::fs::{FlockOperation, flock};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

/// How long a log is kept.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// The first line of a waiter that has begun.
const FOLLOWING: &str = "following";

/// Arguments of `job resume`.
#[derive(Debug, Args)]
pub(super) struct Resume {
    /// The job.
    job: String,
    /// Its batch script, - for standard input (default: as Slurm keeps it; slurmrestd shows none).
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Directory of relative paths (default: the job's own; with --rest this one).
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Stay until the job may run.
    #[arg(short, long)]
    wait: bool,
    /// Leave it held when its files are here.
    #[arg(long)]
    keep_held: bool,
    /// The cluster that it was sent to, where there are several.
    #[arg(long, value_name = "NAME", conflicts_with = "rest")]
    cluster: Option<String>,
    #[command(flatten)]
    door: Door,
    /// Do this part here, and no other.
    #[arg(long, value_enum, hide = true)]
    part: Option<Alone>,
    /// Be the waiter.
    #[arg(long, hide = true)]
    waiter: bool,
}

/// A part that is a job of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Alone {
    StageIn,
    StageOut,
}

/// A job for which a waiter is to be left behind.
pub(super) struct Handing<'a> {
    pub(super) session: &'a Session,
    pub(super) queue: &'a Queue,
    pub(super) job: &'a str,
    pub(super) script: &'a [u8],
    pub(super) directory: &'a Path,
    pub(super) keep_held: bool,
}

impl Resume {
    pub(super) fn run(&self, session: &Session) -> Result<u8, CliError> {
        let plain = !self.job.is_empty() && self.job.bytes().all(|b| b.is_ascii_digit());
        if !plain {
            let why = format!("{:?} is no number of a job of Slurm's", self.job);
            return Err(CliError::usage(why));
        }
        let queue = match &self.door.rest {
            Some(_) => Queue::Rest(Box::new(self.door.open(!self.waiter)?)),
            None => Queue::Slurm(Commands {
                cluster: self.cluster.clone(),
            }),
        };
        let script = self.text(&queue)?;
        let name = self.script.as_deref().unwrap_or(Path::new("-"));
        let directives = parse(name, &script)?;
        let directory = self.place(&queue)?;
        if self.part.is_none() && !self.waiter {
            let handing = Handing {
                session,
                queue: &queue,
                job: &self.job,
                script: &script,
                directory: &directory,
                keep_held: self.keep_held,
            };
            let waiter = handing.start()?;
            return match self.wait {
                true => waiter.until_released(),
                false => {
                    println!("{}", waiter.told());
                    Ok(0)
                }
            };
        }
        let waiter = Waiter {
            session,
            queue,
            job: self.job.clone(),
            script,
            directory,
            plan: Plan {
                part: match self.part {
                    None => Part::Whole,
                    Some(Alone::StageIn) => Part::StageIn,
                    Some(Alone::StageOut) => Part::StageOut,
                },
                keep_held: self.keep_held,
                stages_out: stages_out(&directives),
            },
        };
        match self.part {
            Some(_) => waiter.run(),
            None => alone(&self.job, || waiter.run()),
        }
    }

    fn text(&self, queue: &Queue) -> Result<Vec<u8>, CliError> {
        match (&self.script, queue) {
            (Some(script), _) => read(script),
            (None, Queue::Slurm(slurm)) => slurm.script(&self.job),
            (None, Queue::Rest(_)) => {
                Err(CliError::usage("slurmrestd does not show a job's script")
                    .with_hint("--script FILE names it"))
            }
        }
    }

    fn place(&self, queue: &Queue) -> Result<PathBuf, CliError> {
        match (&self.directory, queue) {
            (None, Queue::Slurm(slurm)) => slurm.directory(&self.job),
            (given, _) => directory(given.as_deref()),
        }
    }
}

/// Whether something is archived at the job's end.
pub(super) fn stages_out(directives: &Directives) -> bool {
    let mut all = directives.all.iter();
    all.any(|one| matches!(one.what, What::StageOut { .. }))
}

/// Where logs and locks are, made if need be.
pub(super) fn records() -> Result<PathBuf, CliError> {
    let base = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))
        .ok_or_else(|| CliError::usage("neither XDG_STATE_HOME nor HOME is set"))?;
    let dir = base.join("cairn/jobs");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .map_err(|e| CliError::system(format!("make {}", dir.display()), &e))?;
    Ok(dir)
}

/// Logs that nobody reads any more. What cannot be removed stays.
fn forget_old(dir: &Path) {
    let before = SystemTime::now().checked_sub(KEPT);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let written = entry.metadata().and_then(|m| m.modified()).ok();
        let old = written.is_some() && written < before;
        let is_log = entry.path().extension().is_some_and(|e| e == "log");
        if is_log && old {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Runs it as the only waiter of the job.
fn alone(job: &str, run: impl FnOnce() -> Result<u8, CliError>) -> Result<u8, CliError> {
    let path = records()?.join(format!("{job}.lock"));
    let failed = |e: std::io::Error| CliError::system(format!("open {}", path.display()), &e);
    let mut lock = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        let who = fs::read_to_string(&path).unwrap_or_default();
        let why = format!(
            "job {job} is waited for already, by {}",
            harmless(who.trim())
        );
        return Err(CliError::new(Failure::Busy, why));
    }
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy().into_owned();
    let who = format!("process {} on {host}\n", std::process::id());
    lock.set_len(0)
        .and_then(|()| lock.write_all(who.as_bytes()))
        .map_err(failed)?;
    // Whoever started this may have gone.
    let _ = writeln!(std::io::stdout(), "{FOLLOWING}");
    let ended = run();
    let _ = fs::remove_file(&path);
    ended
}

/// A waiter that was left behind.
pub(super) struct Left {
    job: String,
    log: PathBuf,
    child: Child,
    lines: Box<dyn BufRead>,
}

impl Handing<'_> {
    /// Starts the waiter in a session of its own; returns when it has begun.
    pub(super) fn start(&self) -> Result<Left, CliError> {
        let dir = records()?;
        forget_old(&dir);
        let log = dir.join(format!("{}.log", self.job));
        let errors = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&log)
            .map_err(|e| CliError::system(format!("open {}", log.display()), &e))?;
        let before = errors.metadata().map_or(0, |m| m.len());
        let failed = |e| CliError::system("start in the background", &e);
        let program = std::env::current_exe().map_err(failed)?;
        let mut child = Command::new(program)
            .args(self.words())
            .env(detach::VARIABLE, "1")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // Whoever does not read it to its end says why.
            let _ = stdin.write_all(self.script);
        }
        let mut lines: Box<dyn BufRead> = match child.stdout.take() {
            Some(out) => Box::new(BufReader::new(out)),
            None => Box::new(std::io::empty()),
        };
        let mut first = String::new();
        lines.read_line(&mut first)?;
        if first.trim() == FOLLOWING {
            return Ok(Left {
                job: self.job.to_owned(),
                log,
                child,
                lines,
            });
        }
        drop(child.wait());
        let text = fs::read(&log).unwrap_or_default();
        let start = usize::try_from(before).unwrap_or(0).min(text.len());
        let said = String::from_utf8_lossy(&text[start..]).trim().to_owned();
        let said = said.strip_prefix("cairn: ").unwrap_or(&said).to_owned();
        Err(CliError::new(Failure::Internal, said))
    }

    fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = ["job", "resume", self.job, "--waiter", "--script", "-"]
            .iter()
            .map(OsString::from)
            .collect();
        words.extend([OsString::from("--directory"), self.directory.into()]);
        words.extend(self.queue.arguments());
        if self.keep_held {
            words.push("--keep-held".into());
        }
        if let Some(socket) = &self.session.socket {
            words.extend([OsString::from("--socket"), socket.clone().into_os_string()]);
        }
        words
    }
}

impl Left {
    /// In a line, for people.
    pub(super) fn told(&self) -> String {
        format!(
            "job {} is held until its files are on disk: process {} sees to it, log in {}",
            self.job,
            self.child.id(),
            self.log.display()
        )
    }

    /// Says how it goes until the job may run. The waiter goes on if this is interrupted.
    pub(super) fn until_released(mut self) -> Result<u8, CliError> {
        let mut line = String::new();
        while self.lines.read_line(&mut line)? > 0 {
            let text = line.trim_end();
            eprintln!("job {}: {text}", self.job);
            if text == RELEASED {
                return Ok(0);
            }
            line.clear();
        }
        let ended = self
            .child
            .wait()
            .map_err(|e| CliError::system("wait for the waiter", &e))?;
        Ok(u8::try_from(ended.code().unwrap_or(1)).unwrap_or(1))
    }
}
