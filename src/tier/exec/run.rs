//! One run of a program: its three pipes, its time limit, its end.
//!
//! Invariants kept here:
//! - A run that is dropped leaves nothing behind: its whole process group is ended (SIGTERM, then SIGKILL) and
//!   its process reaped, also when it ended by itself and left something running.
//! - Nobody waits for a program without also taking what it says: no pipe fills up while another is waited for.
//!   Of stderr only the end is kept; of stdout as much as was asked for.
//! - A program that neither takes nor gives a byte for its time limit is ended. What it says on stderr is no
//!   sign of progress, and the time in which it is not waited for does not count.

use super::sys;
use super::words::Tail;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid,
};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Between the request to end and the end.
const GRACE: Duration = Duration::from_secs(5);
/// What is taken from a pipe at once: as much as one holds.
const PIECE: usize = 64 << 10;

/// A program and the surroundings that it is run in.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    /// All of its environment.
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) grace: Duration,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Code(i32),
    Signal(i32),
}

/// Why a run came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It may not be run, or could not be started.
    #[error("{0}")]
    Start(String),
    /// It ended otherwise than with success.
    #[error("{}", with(&ending(*.how), .words))]
    Ended {
        /// How.
        how: Ended,
        /// Its last words.
        words: String,
    },
    /// It neither took nor gave a byte for so long, and was ended.
    #[error("{}", with(&format!("ended after {} without progress", crate::config::units::format_duration(*.limit)), .words))]
    Silent {
        /// The limit.
        limit: Duration,
        /// Its last words.
        words: String,
    },
    /// It did not keep to the protocol.
    #[error("{}", with(&format!("does not keep to the protocol: {}", .why), .words))]
    Breach {
        /// What it did.
        why: String,
        /// Its last words.
        words: String,
    },
    /// It went well, and gave less than it should have.
    #[error("{}", with(&format!("gave {} of {} bytes", .given, .wanted), .words))]
    Less {
        /// Bytes.
        given: u64,
        /// Bytes.
        wanted: u64,
        /// Its last words.
        words: String,
    },
    /// A pipe failed.
    #[error("{0}")]
    Pipe(#[from] io::Error),
}

fn ending(how: Ended) -> String {
    match how {
        Ended::Code(code) => super::protocol::said(code),
        Ended::Signal(signal) => format!("killed by signal {signal}"),
    }
}

fn with(what: &str, words: &str) -> String {
    if words.is_empty() {
        what.to_owned()
    } else {
        format!("{what}; it said: {words}")
    }
}

/// How long a program may neither take nor give anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit {
    /// Before its first byte.
    pub(super) first: Duration,
    /// And from then on.
    pub(super) then: Duration,
}

impl Limit {
    /// The same all along.
    pub(super) fn of(time: Duration) -> Self {
        Self {
            first: time,
            then: time,
        }
    }
}

/// Takes what comes from stdout; `false`: no more is wanted.
pub(super) type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> bool;

/// A program that runs.
pub(super) struct Run {
    child: Option<Child>,
    group: Pid,
    /// Readable when it has ended.
    end: OwnedFd,
    stdin: Option<File>,
    stdout: Option<File>,
    stderr: Option<File>,
    tail: Tail,
    grace: Duration,
    /// It had to be killed.
    deaf: bool,
}

impl Program {
    /// Starts it; with nothing on stdin unless it is to be fed.
    pub(super) fn start(&self, arguments: &[&str], fed: bool) -> Result<Run, Failure> {
        super::trust::check(&self.path).map_err(Failure::Start)?;
        let failed = |error: io::Error| Failure::Start(format!("{}: {error}", self.path.display()));
        let mut command = Command::new(&self.path);
        command
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .current_dir("/")
            .stdin(if fed { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        sys::set_apart(&mut command);
        let mut child = command.spawn().map_err(|error| match error.kind() {
            // The file is there: it was looked at.
            io::ErrorKind::NotFound => Failure::Start(format!(
                "{}: the interpreter in its first line is not there",
                self.path.display()
            )),
            _ => failed(error),
        })?;
        let pipes = (
            child.stdin.take().map(OwnedFd::from),
            child.stdout.take().map(OwnedFd::from),
            child.stderr.take().map(OwnedFd::from),
        );
        let group = Pid::from_child(&child);
        let end = match pidfd_open(group, PidfdFlags::empty()) {
            Ok(end) => end,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(error.into()));
            }
        };
        let mut run = Run {
            child: Some(child),
            group,
            end,
            stdin: None,
            stdout: None,
            stderr: None,
            tail: Tail::default(),
            grace: self.grace,
            deaf: false,
        };
        run.stdin = pipes.0.map(unblocked).transpose()?;
        run.stdout = pipes.1.map(unblocked).transpose()?;
        run.stderr = pipes.2.map(unblocked).transpose()?;
        Ok(run)
    }
}

/// A pipe's end, whose reads and writes do not wait. (The program's own end is another description.)
fn unblocked(fd: OwnedFd) -> io::Result<File> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
    Ok(File::from(fd))
}

/// What became ready.
enum Ready {
    /// It takes bytes, or stopped doing so.
    Stdin,
    /// Bytes of stdout went to the sink; `false`: it wants no more.
    Stdout(bool),
    /// It has ended, and all it said was taken.
    End(Ended),
}

impl Run {
    /// Hands over all of `bytes`, in pieces, each within `limit`.
    pub(super) fn feed(&mut self, mut bytes: &[u8], limit: Duration) -> Result<(), Failure> {
        while !bytes.is_empty() {
            match self.wait(limit, true, &mut |_| true)? {
                Ready::Stdin => {}
                Ready::Stdout(_) => continue,
                Ready::End(how) => return Err(self.ended_early(how)),
            }
            let Some(stdin) = &mut self.stdin else {
                return Err(Failure::Pipe(io::ErrorKind::BrokenPipe.into()));
            };
            match stdin.write(bytes) {
                Ok(taken) => bytes = &bytes[taken..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // It reads no more: its end says why.
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                    self.stdin = None;
                    let how = self.end(Limit::of(limit), &mut |_| true)?;
                    return Err(self.ended_early(how));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// It ended while there were bytes for it.
    fn ended_early(&self, how: Ended) -> Failure {
        match how {
            Ended::Code(0) => Failure::Breach {
                why: "it ended with success before it had all bytes".to_owned(),
                words: self.tail.words(),
            },
            how => self.ended(how),
        }
    }

    /// Says that there are no more bytes, lets it go on to its end, and wants success.
    pub(super) fn succeed(&mut self, limit: Limit, sink: Sink<'_>) -> Result<(), Failure> {
        self.stdin = None;
        match self.end(limit, sink)? {
            Ended::Code(0) => Ok(()),
            how => Err(self.ended(how)),
        }
    }

    /// Its end, or the sink's word that no more is wanted, which ends it at once; with success, then.
    fn end(&mut self, limit: Limit, sink: Sink<'_>) -> Result<Ended, Failure> {
        let mut left = limit.first;
        loop {
            match self.wait(left, false, sink)? {
                Ready::End(how) => return Ok(how),
                Ready::Stdout(false) => {
                    self.kill();
                    return Ok(Ended::Code(0));
                }
                Ready::Stdin | Ready::Stdout(true) => left = limit.then,
            }
        }
    }

    fn ended(&self, how: Ended) -> Failure {
        let words = self.tail.words();
        Failure::Ended { how, words }
    }

    /// Did it not end when it was told to?
    pub(super) fn was_deaf(&self) -> bool {
        self.deaf
    }

    /// What it last said on stderr.
    pub(super) fn words(&self) -> String {
        self.tail.words()
    }

    /// Waits for whatever comes first, taking all it says meanwhile.
    fn wait(&mut self, limit: Duration, feeding: bool, sink: Sink<'_>) -> Result<Ready, Failure> {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.kill();
                let words = self.tail.words();
                return Err(Failure::Silent { limit, words });
            }
            let seen = self.look(left, feeding)?;
            if seen.stderr {
                self.take_stderr();
            }
            if seen.stdout
                && let Some(more) = self.take_stdout(sink)?
            {
                return Ok(Ready::Stdout(more));
            }
            // Only after all that it said before its end: the pipes are empty now.
            if seen.end {
                return self.reap(sink).map(Ready::End);
            }
            if seen.stdin {
                return Ok(Ready::Stdin);
            }
        }
    }

    fn look(&self, left: Duration, feeding: bool) -> io::Result<Seen> {
        let taken = PollFlags::IN;
        let end = self.end.as_fd();
        let mut fds = vec![PollFd::new(&end, taken)];
        let pipes = [
            (self.stdout.as_ref(), taken),
            (self.stderr.as_ref(), taken),
            (self.stdin.as_ref().filter(|_| feeding), PollFlags::OUT),
        ];
        let mut at = [None; 3];
        for (slot, (pipe, flags)) in at.iter_mut().zip(&pipes) {
            if let Some(pipe) = pipe {
                *slot = Some(fds.len());
                fds.push(PollFd::new(*pipe, *flags));
            }
        }
        let time = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut fds, Some(&time)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // An error or a hang-up is found by whoever reads or writes.
        let ready = |n: usize| fds.get(n).is_some_and(|fd| !fd.revents().is_empty());
        let [stdout, stderr, stdin] = at.map(|n| n.is_some_and(ready));
        Ok(Seen {
            end: ready(0),
            stdout,
            stderr,
            stdin,
        })
    }

    fn take_stderr(&mut self) {
        let mut piece = [0; 4096];
        let Some(stderr) = &mut self.stderr else {
            return;
        };
        match stderr.read(&mut piece) {
            Ok(0) => self.stderr = None,
            Ok(count) => self.tail.push(&piece[..count]),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(_) => self.stderr = None,
        }
    }

    /// One piece of stdout; `None` if there was none.
    fn take_stdout(&mut self, sink: Sink<'_>) -> io::Result<Option<bool>> {
        let mut piece = vec![0; PIECE];
        let Some(stdout) = &mut self.stdout else {
            return Ok(None);
        };
        match stdout.read(&mut piece) {
            Ok(0) => self.stdout = None,
            Ok(count) => return Ok(Some(sink(&piece[..count]))),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
        Ok(None)
    }

    /// It has ended: what it left running goes too, what it said before is taken, and its process reaped.
    fn reap(&mut self, sink: Sink<'_>) -> Result<Ended, Failure> {
        let how = waitid(
            WaitId::PidFd(self.end.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG,
        )
        .map_err(io::Error::from)?;
        let how = match how {
            Some(status) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Ended::Code(code),
                (None, Some(signal)) => Ended::Signal(signal),
                (None, None) => Ended::Signal(0),
            },
            None => return Err(Failure::Pipe(io::ErrorKind::WouldBlock.into())),
        };
        // Not reaped yet: until then nobody else can have the group's number.
        let _ = kill_process_group(self.group, Signal::KILL);
        // A process that left the group may hold the pipes open for ever: what is in them now counts.
        let mut wanted = true;
        while wanted && let Some(more) = self.take_stdout(sink)? {
            wanted = more;
        }
        for _ in 0..PIECE / 4096 {
            self.take_stderr();
        }
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(how)
    }

    /// Ends it and everything it started.
    fn kill(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        self.stdin = None;
        self.stdout = None;
        let _ = kill_process_group(self.group, Signal::TERM);
        self.deaf = !self.wait_dead();
        // Also those that did not hear the first one, when the first of them is gone.
        let _ = kill_process_group(self.group, Signal::KILL);
        if self.wait_dead() {
            let _ = child.wait();
            return;
        }
        // Stuck in the kernel (a dead network filesystem): reaped when it comes back, and nobody waits.
        let waits = std::thread::Builder::new().name("exec-reaper".to_owned());
        let waits = waits.spawn(move || child.wait());
        if let Err(error) = waits {
            tracing::warn!(%error, "a program that does not die is not waited for");
        }
    }

    /// Is it dead within the grace? Takes its last words meanwhile.
    fn wait_dead(&mut self) -> bool {
        let until = Instant::now() + self.grace;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.look(left, false) {
                Ok(seen) if seen.end => {
                    self.take_stderr();
                    return true;
                }
                Ok(seen) if seen.stderr => self.take_stderr(),
                Ok(_) => {}
                Err(_) => return false,
            }
            if left.is_zero() {
                return false;
            }
        }
    }
}

struct Seen {
    end: bool,
    stdout: bool,
    stderr: bool,
    stdin: bool,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Default for Program {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            environment: Vec::new(),
            grace: GRACE,
        }
    }
}

#[cfg(test)]
mod tests;
