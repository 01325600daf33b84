//! `cairn sbatch`: sbatch for scripts with `#CAIRN` directives, where Slurm has no plugin for them. The job is submitted
//! held, and let run when its files are on disk.
//!
//! Invariants:
//! - What sbatch is given is what its caller wrote: no option of sbatch's is ours, and only `--hold` is added.
//! - A job is submitted only after its directives were read without a mistake, and after its files were looked at.
//! - If nobody could be left behind to let the job run, there is no job.

mod chain;
pub(super) mod words;

use super::super::{CliError, Session, outcome};
use super::check;
use super::directives::Directives;
use super::queue::{Commands, Queue, Submitted};
use super::resume::{Handing, Left, records};
use super::{directory, parse, read};
use crate::error::Failure;
use chain::Chain;
use clap::{Args, FromArgMatches};
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use words::{Given, Words};

/// Arguments of `sbatch`.
#[derive(Debug, Args)]
pub(crate) struct Sbatch {
    #[command(flatten)]
    own: Own,
    /// Options of sbatch, the batch script (default: standard input), and its arguments.
    #[arg(
        value_name = "SBATCH-OPTIONS... SCRIPT ARGS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    words: Vec<OsString>,
}

/// What is ours.
#[derive(Debug, Clone, Default, Args)]
struct Own {
    /// Stay until the job may run.
    #[arg(long)]
    cairn_wait: bool,
    /// Stage by a job on this partition, not by a process on this host.
    #[arg(long, value_name = "PARTITION")]
    cairn_partition: Option<String>,
    /// Submit also if files cannot be had now, or have no room.
    #[arg(long)]
    cairn_force: bool,
}

impl Own {
    /// Those that stand among sbatch's.
    fn and(&self, words: &[OsString]) -> Result<Self, CliError> {
        let command = Self::augment_args(clap::Command::new("cairn sbatch").no_binary_name(true));
        let found = command
            .disable_help_flag(true)
            .try_get_matches_from(words)
            .and_then(|found| Self::from_arg_matches(&found))
            .map_err(|error| {
                let said = error.to_string();
                let first = said.lines().next().unwrap_or_default();
                CliError::usage(first.trim_start_matches("error: "))
                    .with_hint("cairn sbatch --help lists Cairn's own options")
            })?;
        Ok(Self {
            cairn_wait: self.cairn_wait || found.cairn_wait,
            cairn_partition: found.cairn_partition.or(self.cairn_partition.clone()),
            cairn_force: self.cairn_force || found.cairn_force,
        })
    }
}

/// A job that is about to be submitted.
struct Submission<'a> {
    session: &'a Session,
    own: Own,
    words: Words,
    /// Options in the script.
    inside: Vec<Given>,
    script: Vec<u8>,
    directory: PathBuf,
    directives: Directives,
}

impl Sbatch {
    pub(crate) fn run(&self, session: &Session) -> Result<u8, CliError> {
        let words = words::split(&self.words).map_err(CliError::usage)?;
        let own = self.own.and(&words.own)?;
        let only_asks = ["help", "usage", "version", "test-only"];
        if only_asks.iter().any(|name| words.has(name)) {
            return Err(sbatch(&words));
        }
        if words.has("wrap") {
            let why = "--wrap has no script, and so no #CAIRN directives";
            return Err(CliError::usage(why)
                .with_hint("write a script: cairn sbatch run.sh; or call sbatch itself"));
        }
        let (words, name) = with_script_found(words)?;
        let script = read(&name)?;
        let directives = parse(&name, &script)?;
        // What sbatch cannot read it says itself.
        let inside = words::of_script(&script).unwrap_or_default();
        let chdir = words::value(&[&words.given, &inside], "chdir");
        let submission = Submission {
            session,
            own,
            inside: inside.clone(),
            directory: directory(chdir.map(Path::new))?,
            script,
            directives,
            words,
        };
        submission.check(&name)?;
        submission.submit(name == Path::new("-"))
    }
}

/// sbatch in this process's place; why it is not.
fn sbatch(words: &Words) -> CliError {
    let error = Command::new("sbatch")
        .args(&words.options)
        .args(&words.script)
        .exec();
    CliError::system("run sbatch", &error)
}

/// Finds the script as sbatch does: here, else in `PATH`. `-` and no script are standard input.
fn with_script_found(mut words: Words) -> Result<(Words, PathBuf), CliError> {
    let Some(first) = words.script.first_mut() else {
        return Ok((words, PathBuf::from("-")));
    };
    if first == "-" {
        words.script.remove(0);
        return Ok((words, PathBuf::from("-")));
    }
    let here = PathBuf::from(&first);
    let bare = here.components().count() == 1 && !here.starts_with(".");
    if !bare || here.exists() {
        return Ok((words, here));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&path).map(|dir| dir.join(&here));
    match found.find(|path| path.is_file()) {
        Some(path) => {
            *first = path.clone().into_os_string();
            Ok((words, path))
        }
        None => {
            let why = format!("there is no script {}", here.display());
            Err(CliError::new(Failure::NotFound, why).with_hint(
                "a value of an option that sbatch's plugins have is written as --option=value",
            ))
        }
    }
}

impl Submission<'_> {
    fn value(&self, name: &str) -> Option<&OsStr> {
        words::value(&[&self.words.given, &self.inside], name)
    }

    fn has(&self, name: &str) -> bool {
        self.words.has(name) || self.inside.iter().any(|given| given.name == name)
    }

    /// What is looked at before anything is submitted.
    fn check(&self, name: &Path) -> Result<(), CliError> {
        if self.directives.all.is_empty() {
            return Ok(());
        }
        if self.has("wait") || std::env::var_os("SBATCH_WAIT").is_some() {
            let why =
                "--wait: sbatch would wait for a job that is held until its files are on disk";
            return Err(CliError::usage(why)
                .with_hint("leave it out; --cairn-wait stays until the job may run"));
        }
        if self.own.cairn_partition.is_some() {
            if self.own.cairn_wait {
                let why = "--cairn-wait is for a process on this host, not for --cairn-partition";
                return Err(CliError::usage(why));
            }
            chain::may_join(self.value("dependency"))?;
        }
        check::before_submission(self.session, &self.directives, &self.directory, name).or_else(
            |error| match self.own.cairn_force {
                true => {
                    error.report();
                    Ok(())
                }
                false => Err(error),
            },
        )
    }

    fn submit(&self, by_stdin: bool) -> Result<u8, CliError> {
        let mut options: Vec<OsString> = Vec::new();
        let stages = !self.directives.all.is_empty();
        if stages {
            // Found now rather than when there is a job.
            records()?;
            options.push("--hold".into());
        }
        if stages && self.own.cairn_partition.is_some() && !self.has("kill-on-invalid-dep") {
            options.push("--kill-on-invalid-dep=yes".into());
        }
        options.extend(self.words.options.iter().cloned());
        options.extend(self.words.script.iter().cloned());
        let script = by_stdin.then_some(&*self.script);
        let taken = match Commands::default().submit(&options, script, false)? {
            Submitted::Taken(taken) => taken,
            Submitted::Refused(code) => return Ok(code),
        };
        let slurm = Commands {
            cluster: taken.cluster.clone(),
        };
        let left = match stages {
            true => self.see_to(&Queue::Slurm(slurm), &taken.job)?,
            false => None,
        };
        if self.has("parsable") {
            let cluster = taken
                .cluster
                .map_or(String::new(), |name| format!(";{name}"));
            println!("{}{cluster}", taken.job);
        } else if !self.has("quiet") {
            println!("Submitted batch job {}", taken.job);
        }
        match left {
            Some(left) if self.own.cairn_wait => left.until_released(),
            Some(left) => {
                self.tell(&left.told());
                Ok(outcome::OK)
            }
            None => Ok(outcome::OK),
        }
    }

    /// Leaves somebody behind who lets the job run, or cancels it.
    fn see_to(&self, queue: &Queue, job: &str) -> Result<Option<Left>, CliError> {
        let left = match (&self.own.cairn_partition, queue) {
            (Some(partition), Queue::Slurm(slurm)) => {
                let chain = Chain {
                    session: self.session,
                    slurm,
                    partition,
                    job,
                    script: &self.script,
                    directory: &self.directory,
                    directives: &self.directives,
                    dependency: self.value("dependency"),
                    account: self.value("account"),
                    keep_held: self.has("hold"),
                };
                chain.submit().map(|said| {
                    self.tell(&said);
                    None
                })
            }
            _ => {
                let handing = Handing {
                    session: self.session,
                    queue,
                    job,
                    script: &self.script,
                    directory: &self.directory,
                    keep_held: self.has("hold"),
                };
                handing.start().map(Some)
            }
        };
        left.map_err(|error| cancelled(queue, job, error))
    }

    fn tell(&self, text: &str) {
        if !self.has("parsable") && !self.has("quiet") {
            eprintln!("cairn: {text}");
        }
    }
}

/// A job that nobody would let run is cancelled.
pub(super) fn cancelled(queue: &Queue, job: &str, error: CliError) -> CliError {
    let done = match queue.cancel(job) {
        Ok(()) => format!("job {job} is cancelled: {error}"),
        Err(also) => format!("job {job} stays held: {error}; it is not cancelled: {also}"),
    };
    CliError::new(Failure::Internal, done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn options_of_ours_count_wherever_they_stand() {
        let first = Own {
            cairn_wait: true,
            ..Own::default()
        };
        let own = first.and(&words("--cairn-partition io")).unwrap();
        assert!(own.cairn_wait && !own.cairn_force);
        assert_eq!(own.cairn_partition.as_deref(), Some("io"));
        let own = first.and(&words("--cairn-partition=io --cairn-force"));
        assert!(own.unwrap().cairn_force);
        for wrong in ["--cairn-wiat", "--cairn-partition", "--cairn-wait=1"] {
            let error = first.and(&words(wrong)).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong}: {error}");
        }
    }

    #[test]
    fn no_script_is_standard_input() {
        let found = |line: &str| with_script_found(words::split(&words(line)).unwrap());
        for line in ["", "-n 4", "-", "-n 4 -"] {
            let (words, name) = found(line).unwrap();
            assert_eq!(name, Path::new("-"), "{line}");
            assert!(words.script.is_empty(), "{line}");
        }
        let (words, name) = found("-n 4 ./run.sh a").unwrap();
        assert_eq!(name, Path::new("./run.sh"));
        assert_eq!(words.script.len(), 2);
        let (words, name) = found("sh").unwrap();
        assert!(name.is_absolute(), "{name:?}");
        assert_eq!(words.script[0], name.into_os_string());
        let error = found("--x11 no-such-script").unwrap_err();
        assert!(error.hint().unwrap().contains("--option=value"));
    }
}
