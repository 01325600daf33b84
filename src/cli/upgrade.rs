//! `cairn upgrade`: another program goes on with a mount that is in use.
//!
//! The new program is started with the arguments, the directory and the environment of the old
//! one. It ends the old one only when it has found nothing wrong. If it fails after that, the old
//! program is started again, from the file that was running.

use super::down::absolute;
use super::up::{TAKE_OVER, detach, first};
use super::{CliError, Session};
use crate::client::{Client, Place};
use crate::config::Config;
use crate::error::Failure;
use clap::Args;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Arguments of `upgrade`.
#[derive(Debug, Args)]
pub(crate) struct Upgrade {
    /// Where it is mounted.
    #[arg(required_unless_present = "config")]
    mount: Option<PathBuf>,
    /// The instance's configuration file says where it is mounted.
    #[arg(long, value_name = "FILE", conflicts_with = "mount")]
    config: Option<PathBuf>,
    /// The new program (default: this one).
    #[arg(long, value_name = "PATH")]
    exec: Option<PathBuf>,
}

impl Upgrade {
    pub(crate) fn run(&self, session: &Session) -> Result<u8, CliError> {
        let mount = absolute(&self.mountpoint()?)?;
        let mut client = session.client_near(Some(&mount))?;
        let status = client.status()?;
        let socket = client.socket().to_owned();
        if status.mirror.hold_s == 0 {
            return Err(CliError::usage(format!(
                "{} ends with its instance, so it cannot be handed on",
                status.mount
            ))
            .with_hint("start the instance with --hold 60s"));
        }
        let old = Running::of(status.pid)?;
        if first::is_stood_in_for(status.pid) {
            let why = "the instance is a container's first program: the container ends with it";
            return Err(CliError::new(Failure::NotPermitted, why).with_hint(
                "stop the container, and start one of the new image with the same volumes",
            ));
        }
        let program = match &self.exec {
            Some(path) => path
                .canonicalize()
                .map_err(|e| CliError::usage(format!("{}: {e}", path.display())))?,
            None => {
                std::env::current_exe().map_err(|e| CliError::system("find this program", &e))?
            }
        };
        match old.start(&program)? {
            Started::Ready(pid) => {
                eprintln!(
                    "process {pid} serves {} instead of {}",
                    status.mount, old.pid
                );
                Ok(0)
            }
            Started::Failed(said) if old.serves(&socket) => Err(CliError::new(
                Failure::Internal,
                format!("the new program did not start: {said}"),
            )
            .with_hint(format!("process {} serves on", old.pid))),
            Started::Failed(said) => Err(old.again(&said)),
        }
    }
}

impl Upgrade {
    fn mountpoint(&self) -> Result<PathBuf, CliError> {
        if let Some(mount) = &self.mount {
            return Ok(mount.clone());
        }
        let file = self.config.as_deref().unwrap_or_else(|| Path::new(""));
        let config = Config::load(file).map_err(CliError::usage)?;
        config.mount.ok_or_else(|| {
            CliError::usage(format!("{} names no mount", file.display()))
                .with_hint("cairn upgrade MOUNT")
        })
    }
}

/// How a program started.
enum Started {
    Ready(u32),
    /// What it said.
    Failed(String),
}

/// The instance as it runs.
struct Running {
    pid: u32,
    args: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: PathBuf,
    /// The file that it runs, also if that has no name any more.
    program: File,
    name: Option<PathBuf>,
    /// Where it writes messages; not every such place can be read.
    log: PathBuf,
}

/// The messages of a program that is being started: they go on where the old one's are.
struct Log {
    errors: Stdio,
    /// How much stands there already, bytes.
    before: u64,
}

impl Log {
    fn of(pid: u32, place: &Path) -> Self {
        let through = PathBuf::from(format!("/proc/{pid}/fd/2"));
        // After the process' death the file is reached by its name alone.
        let opened = [through.as_path(), place]
            .into_iter()
            .find_map(|path| File::options().append(true).open(path).ok());
        match opened {
            Some(file) => Self {
                before: file.metadata().map_or(0, |m| m.len()),
                errors: file.into(),
            },
            None => Self {
                errors: Stdio::null(),
                before: 0,
            },
        }
    }
}

impl Running {
    fn of(pid: u32) -> Result<Self, CliError> {
        let at = |what: &str| PathBuf::from(format!("/proc/{pid}/{what}"));
        let failed = |e: std::io::Error| CliError::system(format!("look at process {pid}"), &e);
        let words = |what: &str| -> Result<Vec<OsString>, CliError> {
            let text = fs::read(at(what)).map_err(failed)?;
            let words = text.split(|b| *b == 0).filter(|word| !word.is_empty());
            Ok(words.map(|w| OsStr::from_bytes(w).to_owned()).collect())
        };
        let pair = |word: OsString| {
            let bytes = word.as_bytes();
            let end = bytes.iter().position(|b| *b == b'=')?;
            let (key, value) = (&bytes[..end], &bytes[end + 1..]);
            Some((
                OsStr::from_bytes(key).into(),
                OsStr::from_bytes(value).into(),
            ))
        };
        let environment: Vec<(OsString, OsString)> =
            words("environ")?.into_iter().filter_map(pair).collect();
        // An instance does not stay in the directory that it was started in.
        let started_in = environment.iter().find(|(key, _)| key == "PWD");
        let directory = started_in
            .map(|(_, path)| PathBuf::from(path))
            .filter(|path| path.is_absolute() && path.is_dir())
            .unwrap_or_else(|| "/".into());
        let program = File::open(at("exe")).map_err(failed)?;
        let same = |path: &PathBuf| {
            let (Ok(a), Ok(b)) = (fs::metadata(path), program.metadata()) else {
                return false;
            };
            (a.dev(), a.ino()) == (b.dev(), b.ino())
        };
        Ok(Self {
            pid,
            args: words("cmdline")?.into_iter().skip(1).collect(),
            environment,
            directory,
            name: fs::read_link(at("exe")).ok().filter(same),
            program,
            log: fs::read_link(at("fd/2")).unwrap_or_default(),
        })
    }

    /// Does it still serve? It is not asked through the mount: if it does not, nobody answers there.
    fn serves(&self, socket: &Path) -> bool {
        let place = Place {
            socket: Some(socket),
            path: None,
        };
        Client::find(&place)
            .and_then(|mut client| client.status())
            .is_ok_and(|status| status.pid == self.pid)
    }

    /// Starts a program in its place and waits until it serves or has failed.
    fn start(&self, program: &Path) -> Result<Started, CliError> {
        let log = Log::of(self.pid, &self.log);
        let mut child = Command::new(program)
            .args(self.args.iter().filter(|a| *a != "--detach"))
            .env_clear()
            .envs(self.environment.iter().cloned())
            .env(detach::VARIABLE, "1")
            .env(TAKE_OVER, "1")
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.errors)
            .spawn()
            .map_err(|e| CliError::system(format!("start {}", program.display()), &e))?;
        let mut first = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut first)?;
        }
        if first.starts_with("ready") {
            return Ok(Started::Ready(child.id()));
        }
        let status = child.wait()?;
        let readable = fs::metadata(&self.log).is_ok_and(|m| m.is_file());
        let text = if readable {
            fs::read(&self.log).unwrap_or_default()
        } else {
            Vec::new()
        };
        let said = match text {
            text if text.len() as u64 > log.before => {
                let start = usize::try_from(log.before).unwrap_or(0);
                String::from_utf8_lossy(&text[start..]).trim().to_owned()
            }
            _ => format!("{status}; it says why where the instance has its messages"),
        };
        Ok(Started::Failed(said))
    }

    /// The new program failed after it had ended the old one.
    fn again(&self, said: &str) -> CliError {
        let by_descriptor = PathBuf::from(format!("/proc/self/fd/{}", self.program.as_raw_fd()));
        let program = self.name.as_ref().unwrap_or(&by_descriptor);
        let message = format!("the new program did not serve: {said}");
        let hint = match self.start(program) {
            Ok(Started::Ready(pid)) => format!("the old program serves again, as process {pid}"),
            Ok(Started::Failed(why)) => format!("nor did the old one: {why}"),
            Err(why) => format!("nor could the old one be started: {why}"),
        };
        CliError::new(Failure::Internal, message).with_hint(hint)
    }
}
