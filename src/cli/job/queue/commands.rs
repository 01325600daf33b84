//! The queue by Slurm's own commands, as the user who calls.

use super::super::with_slurm::{asked, words_of};
use super::{Stand, stand_of, together};
use crate::cli::CliError;
use crate::error::Failure;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// See the module.
#[derive(Debug, Clone, Default)]
pub(in crate::cli::job) struct Commands {
    /// Which of several clusters; `None`: this host's.
    pub(in crate::cli::job) cluster: Option<String>,
}

/// A job that sbatch took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli::job) struct Taken {
    pub(in crate::cli::job) job: String,
    pub(in crate::cli::job) cluster: Option<String>,
}

/// How sbatch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli::job) enum Submitted {
    Taken(Taken),
    /// It said why itself.
    Refused(u8),
}

impl Commands {
    fn ask(&self, program: &str, arguments: &[&str]) -> Result<String, CliError> {
        let mut words = Vec::new();
        if let Some(cluster) = &self.cluster {
            words.extend(["-M", cluster]);
        }
        words.extend(arguments);
        asked(program, &words)
    }

    /// Has sbatch take a job; what it says goes to stderr as it comes. A script that is given is passed by stdin. Of
    /// the user's own wishes in the environment nothing counts for a job that is `ours`.
    pub(in crate::cli::job) fn submit<S: AsRef<OsStr>>(
        &self,
        words: impl IntoIterator<Item = S>,
        script: Option<&[u8]>,
        ours: bool,
    ) -> Result<Submitted, CliError> {
        let failed = |e| CliError::system("run sbatch", &e);
        let mut command = Command::new("sbatch");
        if ours {
            let names = std::env::vars_os().map(|(name, _)| name);
            for name in names.filter(|name| name.as_encoded_bytes().starts_with(b"SBATCH_")) {
                command.env_remove(name);
            }
        }
        if let Some(cluster) = &self.cluster {
            command.args(["-M", cluster]);
        }
        let mut child = command
            .arg("--parsable")
            .args(words)
            .stdin(match script {
                Some(_) => Stdio::piped(),
                None => Stdio::null(),
            })
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if let (Some(script), Some(mut stdin)) = (script, child.stdin.take()) {
            // Whoever does not read it to its end says why.
            let _ = stdin.write_all(script);
        }
        let output = child.wait_with_output().map_err(failed)?;
        if !output.status.success() {
            let code = output.status.code().and_then(|c| u8::try_from(c).ok());
            return Ok(Submitted::Refused(code.filter(|c| *c != 0).unwrap_or(1)));
        }
        let said = String::from_utf8_lossy(&output.stdout);
        let taken = taken(&said).ok_or_else(|| {
            let why = format!("cannot read what sbatch says: {:?}", said.trim());
            CliError::new(Failure::Internal, why)
        })?;
        Ok(Submitted::Taken(taken))
    }

    pub(super) fn stand(&self, job: &str) -> Result<Stand, CliError> {
        let wanted = ["-h", "-t", "all", "-j", job, "-o", "%i %T %Q"];
        match self.ask("squeue", &wanted) {
            Ok(text) if text.trim().is_empty() => Ok(Stand::Unknown),
            Ok(text) => match together(text.lines().filter_map(stand_in)) {
                // Words that are not understood are no end.
                Stand::Unknown => Err(unread("squeue", job)),
                stand => Ok(stand),
            },
            Err(CliError::Failed {
                failure: Failure::NotFound,
                ..
            }) => Ok(Stand::Unknown),
            Err(other) => Err(other),
        }
    }

    pub(super) fn release(&self, job: &str) -> Result<(), CliError> {
        self.ask("scontrol", &["release", job]).map(drop)
    }

    pub(super) fn cancel(&self, job: &str) -> Result<(), CliError> {
        self.ask("scancel", &[job]).map(drop)
    }

    /// The job's comment.
    pub(super) fn commented(&self, job: &str) -> Result<String, CliError> {
        let text = self.ask("squeue", &["-h", "-t", "all", "-j", job, "-o", "%k"])?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    pub(super) fn comment(&self, job: &str, text: &str) -> Result<(), CliError> {
        let (job, comment) = (format!("jobid={job}"), format!("comment={text}"));
        self.ask("scontrol", &["update", &job, &comment]).map(drop)
    }

    /// Lets the job wait for that, too.
    pub(in crate::cli::job) fn depend(&self, job: &str, on: &str) -> Result<(), CliError> {
        let (job, on) = (format!("jobid={job}"), format!("dependency={on}"));
        self.ask("scontrol", &["update", &job, &on]).map(drop)
    }

    /// The script as Slurm keeps it.
    pub(in crate::cli::job) fn script(&self, job: &str) -> Result<Vec<u8>, CliError> {
        let mut command = Command::new("scontrol");
        if let Some(cluster) = &self.cluster {
            command.args(["-M", cluster]);
        }
        // Its bytes: names in it need not be UTF-8.
        let output = command
            .args(["write", "batch_script", job, "-"])
            .stdin(Stdio::null())
            .output()
            .map_err(|e| CliError::system("run scontrol", &e))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let why = format!("Slurm does not show the script of job {job}: {said}");
        Err(CliError::new(Failure::NotFound, why).with_hint("--script FILE names it"))
    }

    /// Where the job runs.
    pub(in crate::cli::job) fn directory(&self, job: &str) -> Result<PathBuf, CliError> {
        let text = self.ask("scontrol", &["show", "job", job])?;
        let found = words_of(&text, job).map(|(directory, _)| directory);
        found
            .filter(|directory| directory.is_absolute())
            .ok_or_else(|| unread("scontrol", job).with_hint("--directory DIR says where it runs"))
    }

    pub(super) fn arguments(&self) -> Vec<OsString> {
        let cluster = self.cluster.iter();
        cluster
            .flat_map(|cluster| [OsString::from("--cluster"), cluster.into()])
            .collect()
    }
}

fn unread(program: &str, job: &str) -> CliError {
    let why = format!("cannot read what {program} says of job {job}");
    CliError::new(Failure::Internal, why)
}

/// `4711` or `4711;cluster`, the last line of what sbatch prints.
fn taken(said: &str) -> Option<Taken> {
    let line = said.lines().rfind(|line| !line.trim().is_empty())?;
    let (job, cluster) = match line.trim().split_once(';') {
        Some((job, cluster)) => (job, Some(cluster.to_owned())),
        None => (line.trim(), None),
    };
    let number = !job.is_empty() && job.bytes().all(|b| b.is_ascii_digit());
    number.then(|| Taken {
        job: job.to_owned(),
        cluster,
    })
}

/// One line of squeue's: job, state, priority.
fn stand_in(line: &str) -> Option<Stand> {
    let mut words = line.split_whitespace();
    let (_, state, priority) = (words.next()?, words.next()?, words.next()?);
    let priority = priority.parse().ok()?;
    words.next().is_none().then(|| stand_of(state, priority))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sbatch_prints_is_a_number_and_perhaps_a_cluster() {
        let job = |said: &str| taken(said).map(|t| (t.job, t.cluster));
        assert_eq!(job("12\n"), Some(("12".to_owned(), None)));
        let there = Some(("12".to_owned(), Some("far".to_owned())));
        assert_eq!(job("a plugin's words\n12;far\n"), there);
        for odd in ["", "\n", "Submitted batch job 12", "-1", "12 13"] {
            assert_eq!(job(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn a_job_stands_as_squeue_says() {
        assert_eq!(stand_in("12 PENDING 0"), Some(Stand::Held));
        assert_eq!(stand_in("12_[1-3] PENDING 44"), Some(Stand::Waits));
        assert_eq!(stand_in("12_7 CANCELLED 44"), Some(Stand::Ended));
        for odd in ["", "CLUSTER: far", "12 PENDING", "12 PENDING x", "12 A 1 x"] {
            assert_eq!(stand_in(odd), None, "{odd:?}");
        }
    }
}
