//! One run of a program: its three pipes, its time limit, its end.
//!
//! Invariants kept here:
//! - A run that is dropped leaves nothing behind: its whole process group is ended (SIGTERM, then SIGKILL) and
//!   its process reaped, also when it ended by itself and left something running.
//! - Nobody waits for a program without also taking what it says: no pipe fills up while another is waited for.
//!   Of stderr only the end is kept; of stdout as much as was asked for.
//! - A program that neither takes nor gives a byte for its time limit is ended. What it says on stderr is no
//!   sign of progress, and the time in which it is not waited for does not count.
//! - Of programs that do not end although they were killed there are no more than [`Program::most_stuck`]: then no
//!   further one is started until one of them does.

use super::trust::{self, Identity};
use super::words::Tail;
use super::{sys, watch};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid,
};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between the request to end and the end.
const GRACE: Duration = Duration::from_secs(5);
/// What is taken from a pipe at once: as much as one holds.
const PIECE: usize = 64 << 10;

/// A program and the surroundings that it is run in.
pub(super) struct Program {
    pub(super) path: PathBuf,
    /// All of its environment.
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) grace: Duration,
    /// What ends one that did not hear.
    pub(super) last: Signal,
    /// So many that do not end at all are put up with.
    pub(super) most_stuck: usize,
    pub(super) stuck: Arc<Mutex<Vec<Stuck>>>,
}

/// A program that was killed and has not ended: it waits in the kernel, for a dead network filesystem perhaps.
pub(super) struct Stuck {
    child: Child,
    end: Arc<OwnedFd>,
    line: Option<watch::Line>,
}

impl Stuck {
    /// Reaps it if it has ended after all.
    fn is_over(&mut self) -> bool {
        let how = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if matches!(waitid(WaitId::PidFd(self.end.as_fd()), how), Ok(None)) {
            return false;
        }
        self.line = None;
        let _ = self.child.wait();
        true
    }
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
    /// Programs that were killed do not end.
    #[error(
        "{0} runs of its program do not end although they were killed (stuck in the kernel, on a dead network \
         filesystem?); no more are started until one of them has ended"
    )]
    Stuck(usize),
    /// It is not the program of which it is known what it can.
    #[error("its program was replaced while it was asked")]
    Replaced,
    /// It neither took nor gave a byte for so long, and was ended.
    #[error("{}", with(&format!(
        "{verb} was ended: it took and gave nothing for {} ({option} of the tier's URL)",
        crate::config::units::format_duration(*.limit)
    ), .words))]
    Silent {
        /// What it was doing.
        verb: String,
        /// The limit.
        limit: Duration,
        /// What sets it.
        option: &'static str,
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
    pub(super) first: Bound,
    /// And from then on.
    pub(super) then: Bound,
}

/// A time, and the option that sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) time: Duration,
    pub(super) option: &'static str,
}

impl Limit {
    /// The same all along.
    pub(super) fn of(time: Duration) -> Self {
        let bound = Bound {
            time,
            option: "timeout=",
        };
        Self {
            first: bound,
            then: bound,
        }
    }
}

/// Takes what comes from stdout; `false`: no more is wanted.
pub(super) type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> bool;

/// A program that runs.
pub(super) struct Run {
    /// Which it is.
    pub(super) of: Identity,
    verb: String,
    child: Option<Child>,
    line: Option<watch::Line>,
    group: Pid,
    /// Readable when it has ended.
    end: Arc<OwnedFd>,
    stdin: Option<File>,
    stdout: Option<File>,
    stderr: Option<File>,
    tail: Tail,
    grace: Duration,
    last: Signal,
    stuck: Arc<Mutex<Vec<Stuck>>>,
    /// It had to be killed.
    deaf: bool,
}

impl Program {
    /// How many runs of it do not end although they were killed.
    pub(super) fn stuck(&self) -> usize {
        let mut stuck = self.stuck.lock();
        stuck.retain_mut(|one| !one.is_over());
        stuck.len()
    }

    /// Which program it is now.
    pub(super) fn identity(&self) -> Result<Identity, Failure> {
        trust::find(&self.path).map_err(Failure::Start)
    }

    /// Starts it; with nothing on stdin unless it is to be fed.
    pub(super) fn start(&self, arguments: &[&str], fed: bool) -> Result<Run, Failure> {
        let stuck = self.stuck();
        if stuck >= self.most_stuck {
            return Err(Failure::Stuck(stuck));
        }
        let of = self.identity()?;
        let failed = |error: io::Error| Failure::Start(format!("{}: {error}", self.path.display()));
        // It is told of before it runs, and crossed off on every way out.
        let line = watch::line().map_err(failed)?;
        let mut command = Command::new(of.path());
        command
            // Some programs look at the name that they are called by.
            .arg0(&self.path)
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .current_dir("/")
            .stdin(if fed { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let (socket, token) = line.pen();
        sys::set_apart(&mut command, socket, token);
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
            Ok(end) => Arc::new(end),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(error.into()));
            }
        };
        let mut run = Run {
            of,
            verb: (*arguments.first().unwrap_or(&"")).to_owned(),
            child: Some(child),
            line: Some(line),
            group,
            end,
            stdin: None,
            stdout: None,
            stderr: None,
            tail: Tail::default(),
            grace: self.grace,
            last: self.last,
            stuck: Arc::clone(&self.stuck),
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
    pub(super) fn feed(&mut self, mut bytes: &[u8], limit: Limit) -> Result<(), Failure> {
        while !bytes.is_empty() {
            match self.wait(limit.then, true, &mut |_| true)? {
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
                    let how = self.end(limit, &mut |_| true)?;
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
    fn wait(&mut self, limit: Bound, feeding: bool, sink: Sink<'_>) -> Result<Ready, Failure> {
        let until = Instant::now() + limit.time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.silent(limit));
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

    /// Ends it: its time is up.
    fn silent(&mut self, Bound { time, option }: Bound) -> Failure {
        let (program, verb) = (self.of.path().display(), &self.verb);
        tracing::warn!(%program, verb, limit = ?time, option, "a program took and gave nothing for its time limit: it is ended");
        self.kill();
        Failure::Silent {
            verb: self.verb.clone(),
            limit: time,
            option,
            words: self.tail.words(),
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
        self.line = None;
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
        let _ = kill_process_group(self.group, self.last);
        let is_dead = self.wait_dead();
        let line = self.line.take();
        if is_dead {
            drop(line);
            let _ = child.wait();
            return;
        }
        // Stuck in the kernel: reaped when it comes back, and nobody waits.
        let (program, verb, pid) = (self.of.path().display(), &self.verb, child.id());
        tracing::warn!(%program, verb, pid, "a program does not end although it was killed");
        let end = Arc::clone(&self.end);
        self.stuck.lock().push(Stuck { child, end, line });
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
            last: Signal::KILL,
            most_stuck: 1,
            stuck: Arc::default(),
        }
    }
}

#[cfg(test)]
mod tests;
