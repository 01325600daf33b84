//! For a job of Slurm's: asks Slurm whose it is, has the work done by a process of that user, and tells Slurm
//! how far it is.
//!
//! Invariants:
//! - Nothing is asked of an instance by this process, which Slurm runs as its own user or as root: what the
//!   job's user may not, is refused to the process that is theirs.
//! - Whose a job is, is read from fields that its user cannot write; and never root's.
//! - A job that is to run (again) keeps what it holds, for a while: only what has ended is released.

use super::super::{CliError, Session, outcome};
use super::{no_job, view};
use crate::config::units::format_duration;
use crate::error::Failure;
use crate::server::wire::{JobView, Schema, Tagged};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How often Slurm is told at most.
const CALM: Duration = Duration::from_secs(5);
/// What a comment of ours begins with.
const OURS: &str = "cairn: ";
/// Longest comment, characters.
const LONGEST: usize = 250;

/// A job, as Slurm shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct SlurmJob {
    id: String,
    uid: u32,
    state: String,
    directory: PathBuf,
    /// As the user, and as an administrator wrote it.
    comments: [String; 2],
    /// How long it may run.
    limit: Duration,
}

/// What is to be done for a job.
pub(super) struct Order<'a> {
    pub(super) session: &'a Session,
    pub(super) verb: &'static str,
    pub(super) job: &'a str,
    pub(super) script: Option<Vec<u8>>,
    pub(super) wait: bool,
    pub(super) arguments: Vec<OsString>,
    pub(super) json: bool,
}

/// Runs one of Slurm's own commands; what it printed.
pub(super) fn asked(program: &str, arguments: &[&str]) -> Result<String, CliError> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| CliError::system(format!("run {program}"), &e))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let why = format!("{program} {}: {}", arguments.join(" "), said.trim());
    let unknown = said.contains("Invalid job id");
    let failure = if unknown {
        Failure::NotFound
    } else {
        Failure::Internal
    };
    Err(CliError::new(failure, why))
}

/// What squeue is asked for: the job's number, its user's, and its state. Nothing of it is free text.
const FACTS: &str = "%A %U %T %l";
/// How long a job's files stay after its time is over, as nodes are cleared and what it wrote is archived.
const GRACE: Duration = Duration::from_secs(3600);
/// How long a job that is to run again keeps what it holds, until it is staged again.
const REQUEUED: Duration = Duration::from_secs(3600);
/// Longest pin.
const LONGEST_PIN: Duration = Duration::from_secs(30 * 24 * 3600);

/// User and state of the job of this number in what squeue prints: of an array, of one task.
fn facts_of(text: &str, id: &str) -> Option<(u32, String, Duration)> {
    let mut found = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (number, uid, state) = (words.next()?, words.next()?, words.next()?);
        let limit = limit_of(words.next()?);
        let plain = state.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        let whole = number == id && plain && words.next().is_none();
        whole.then_some((uid.parse().ok()?, state.to_owned(), limit))
    });
    let first = found.next()?;
    // Two that differ are none.
    found.all(|other| other == first).then_some(first)
}

/// A time limit (`2-00:00:00`, `10:00`); what is none (`UNLIMITED`) is very long.
fn limit_of(text: &str) -> Duration {
    let read = || {
        let (days, clock) = text.split_once('-').unwrap_or(("0", text));
        let mut seconds = 0_u64;
        for part in clock.split(':') {
            seconds = seconds.checked_mul(60)?.checked_add(part.parse().ok()?)?;
        }
        let days: u64 = days.parse().ok()?;
        Some(Duration::from_secs(
            seconds.checked_add(days.checked_mul(86_400)?)?,
        ))
    };
    read().unwrap_or(LONGEST_PIN)
}

/// Where the job runs, and what its comments are, in what `scontrol show job` prints. The user may write what they like there:
/// of both nothing follows but what that user may do.
pub(super) fn words_of(text: &str, id: &str) -> Option<(PathBuf, [String; 2])> {
    let mut lines = text.lines();
    let begins = |line: &str| line.split(' ').next() == Some(&format!("JobId={id}"));
    lines.by_ref().find(|line| begins(line))?;
    let (mut directory, mut comments) = (PathBuf::new(), <[String; 2]>::default());
    let [own, admin] = &mut comments;
    for line in lines.take_while(|line| !line.starts_with("JobId=")) {
        let line = line.trim_start();
        // These go on to the end of their line, whatever is in them.
        if let Some(path) = line.strip_prefix("WorkDir=") {
            directory = PathBuf::from(path);
        } else if let Some(text) = line.strip_prefix("Comment=") {
            text.trim_end().clone_into(own);
        } else if let Some(text) = line.strip_prefix("AdminComment=") {
            text.trim_end().clone_into(admin);
        }
    }
    Some((directory, comments))
}

impl SlurmJob {
    fn ask(id: &str) -> Result<Self, CliError> {
        let plain = !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
        if !plain {
            return Err(CliError::usage(format!(
                "{id:?} is no number of a job of Slurm's"
            )));
        }
        // Numbers and words of Slurm's alone: in what scontrol prints, names and paths of the user's stand as they are.
        let facts = ["-h", "-t", "all", "-j", id, "-o", FACTS];
        let text = asked("squeue", &facts).map_err(|error| match error {
            CliError::Failed {
                failure: Failure::NotFound,
                ..
            } => no_job(id),
            other => other,
        })?;
        if text.trim().is_empty() {
            return Err(no_job(id));
        }
        let (uid, state, limit) = facts_of(&text, id).ok_or_else(|| {
            let why = format!("cannot read what squeue says of job {id}");
            CliError::new(Failure::Internal, why)
        })?;
        if uid == 0 {
            return Err(CliError::new(
                Failure::NotPermitted,
                "nothing is staged for jobs of root",
            ));
        }
        let text = asked("scontrol", &["show", "job", id])?;
        let (directory, comments) = words_of(&text, id).unwrap_or_default();
        Ok(Self {
            id: id.to_owned(),
            uid,
            state,
            directory,
            comments,
            limit,
        })
    }

    /// It waits to run, for the first time or again, or runs.
    fn goes_on(&self) -> bool {
        const ALIVE: [&str; 10] = [
            "PENDING",
            "CONFIGURING",
            "RUNNING",
            "SUSPENDED",
            "STOPPED",
            "RESIZING",
            "REQUEUED",
            "REQUEUE_HOLD",
            "REQUEUE_FED",
            "SPECIAL_EXIT",
        ];
        ALIVE.contains(&self.state.as_str())
    }

    /// Shows the text beside the job, where its user and administrators left room for it.
    fn tell(&self, text: &str) {
        let text: String = format!("{OURS}{text}").chars().take(LONGEST).collect();
        let text = text.replace(['\n', '"', '\''], " ");
        let job = format!("jobid={}", self.id);
        let admin = format!("admincomment={text}");
        let own = format!("comment={text}");
        let free =
            |there: &String| there.is_empty() || there == "(null)" || there.starts_with(OURS);
        let [user, administrator] = self.comments.each_ref().map(free);
        let mut words = vec!["update", &job];
        words.extend(user.then_some(own.as_str()));
        words.extend(administrator.then_some(admin.as_str()));
        if words.len() == 2 {
            return;
        }
        if let Err(error) = asked("scontrol", &words) {
            tracing::warn!(%error, "Slurm could not be told how far a job is");
        }
    }
}

impl Order<'_> {
    pub(super) fn run(self) -> Result<u8, CliError> {
        let job = SlurmJob::ask(self.job)?;
        let mut child = self.start(&job)?;
        let script = self.script.clone().unwrap_or_default();
        let mut stdin = child.stdin.take();
        // Whoever reads nothing says why by itself.
        let writer =
            std::thread::spawn(move || stdin.as_mut().map(|stdin| stdin.write_all(&script)));
        let last = if self.wait {
            relay(&job, &mut child)
        } else {
            None
        };
        let ended = child
            .wait()
            .map_err(|e| CliError::system("wait for the user's process", &e))?;
        drop(writer.join());
        let code = u8::try_from(ended.code().unwrap_or(1)).unwrap_or(1);
        if let Some(view) = last {
            job.tell(&view::line(&view));
            if self.json {
                let line =
                    serde_json::to_string(&Tagged::from(view)).map_err(std::io::Error::from)?;
                println!("{line}");
            } else if code == outcome::OK {
                println!("job {}: {}", job.id, view::line(&view));
            }
        }
        Ok(code)
    }

    /// The process that works as the job's user.
    fn start(&self, job: &SlurmJob) -> Result<Child, CliError> {
        let program =
            std::env::current_exe().map_err(|e| CliError::system("find this program", &e))?;
        let own = rustix::process::geteuid();
        let mut command = if own.is_root() || own.as_raw() == job.uid {
            Command::new(&program)
        } else {
            // Slurm's user becomes the job's by the site's leave alone.
            let mut sudo = Command::new("sudo");
            sudo.args(["-n", "-u", &format!("#{}", job.uid), "--"])
                .arg(&program);
            sudo
        };
        command.args(["job", self.verb, &job.id]);
        if own.is_root() {
            command.args(["--as", &job.uid.to_string()]);
        }
        if self.script.is_some() {
            command
                .args(["--script", "-", "--directory"])
                .arg(&job.directory);
        }
        if self.wait {
            command.args(["--wait", "--follow"]);
        }
        if self.json {
            command.arg("--json");
        }
        if let Some(socket) = &self.session.socket {
            command.arg("--socket").arg(socket);
        }
        command.args(&self.arguments);
        if self.verb == "pin" && self.arguments.is_empty() {
            let time = (job.limit + GRACE).min(LONGEST_PIN);
            command.args(["--for", &format!("{}s", time.as_secs())]);
        }
        if self.verb == "release" && job.goes_on() {
            // Slurm tears nothing down for a job that is cancelled before it is staged again.
            let time = format_duration(REQUEUED);
            command.args(["--in", &time]);
        }
        // Nothing of Slurm's environment is the user's.
        let kept = ["PATH", "CAIRN_LOG", "TZ"];
        command.env_clear();
        command.envs(
            kept.iter()
                .filter_map(|name| Some((*name, std::env::var_os(name)?))),
        );
        command.current_dir("/").stdin(Stdio::piped());
        if self.wait {
            command.stdout(Stdio::piped());
        }
        command.spawn().map_err(|e| {
            CliError::system(format!("start a process of user {}", job.uid), &e)
                .with_hint("docs/slurm.md shows the line for sudoers")
        })
    }
}

/// Tells Slurm of what the child says, until it ends; the last of it.
fn relay(job: &SlurmJob, child: &mut Child) -> Option<JobView> {
    let lines = BufReader::new(child.stdout.take()?).lines();
    let (mut last, mut told): (Option<JobView>, Option<(Instant, String)>) = (None, None);
    for line in lines.map_while(Result::ok) {
        let Ok(tagged) = serde_json::from_str::<Tagged<JobView>>(&line) else {
            continue;
        };
        if tagged.schema != JobView::SCHEMA {
            continue;
        }
        let text = view::line(&tagged.body);
        let heard = told
            .as_ref()
            .is_some_and(|(at, told)| *told == text || at.elapsed() < CALM);
        if !heard {
            job.tell(&text);
            told = Some((Instant::now(), text));
        }
        last = Some(tagged.body);
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "JobId=16 JobName=run.sh
   UserId=alice(1000) GroupId=alice(1000) MCS_label=N/A
   Priority=4294901759 Nice=0 Account=(null) QOS=normal
   JobState=PENDING Reason=BurstBufferStageIn Dependency=(null)
   Command=/home/alice/a b/run.sh
   WorkDir=/home/alice/a b
   Comment=UserId=root(0)
   AdminComment=cairn: 1 of 2

JobId=17 JobName=x
   UserId=bob(1001) GroupId=bob(1001) MCS_label=N/A
   JobState=COMPLETED Reason=None Dependency=(null)
   WorkDir=/
";

    #[test]
    fn a_jobs_directory_and_comment_are_read_as_scontrol_shows_them() {
        let (directory, comments) = words_of(SHOWN, "16").unwrap();
        assert_eq!(directory, PathBuf::from("/home/alice/a b"));
        assert_eq!(comments, ["UserId=root(0)", "cairn: 1 of 2"]);
        assert_eq!(words_of(SHOWN, "17").unwrap().0, PathBuf::from("/"));
        assert_eq!(words_of(SHOWN, "1"), None);
    }

    #[test]
    fn whose_a_job_is_comes_from_numbers_alone() {
        let shown = "16 1000 PENDING 10:00\n17 1001 COMPLETED UNLIMITED\n";
        let minutes = Duration::from_secs(600);
        let first = (1000, "PENDING".to_owned(), minutes);
        assert_eq!(facts_of(shown, "16"), Some(first));
        let second = (1001, "COMPLETED".to_owned(), LONGEST_PIN);
        assert_eq!(facts_of(shown, "17"), Some(second));
        for odd in [
            "",
            "1 1000 PENDING 1:00",
            "16 1000 PENDING 1:00 x",
            "16 root PENDING 1:00",
            "16 1000 UserId=root(0) 1:00",
            "16 1000 PENDING",
            "16 1000 PENDING 1:00\n16 0 PENDING 1:00",
        ] {
            assert_eq!(facts_of(odd, "16"), None, "{odd}");
        }
    }

    #[test]
    fn a_time_limit_is_read_as_slurm_writes_it() {
        for (text, seconds) in [
            ("10:00", 600),
            ("30", 30),
            ("1:00:00", 3600),
            ("2-03:00:05", 2 * 86_400 + 3 * 3600 + 5),
            ("UNLIMITED", 30 * 86_400),
            ("18446744073709551615-00", 30 * 86_400),
        ] {
            assert_eq!(limit_of(text), Duration::from_secs(seconds), "{text}");
        }
    }

    #[test]
    fn only_numbers_are_asked_for() {
        for id in ["", "1 2", "-o", "1_2", "x"] {
            let code = SlurmJob::ask(id).unwrap_err().exit_code();
            assert_eq!(code, 2, "{id:?}");
        }
    }
}
