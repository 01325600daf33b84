//! The supervisor of one process: it counts the points while it is armed, and at one of them does
//! what it was told to.
//!
//! Invariants:
//! - Every call is answered, also after the process was killed; the supervisor ends with the last
//!   process that could ask.
//! - It never touches the mount: what it looks at are descriptors' names and devices.

use crate::call::LEASE;
use crate::fault::{Aim, Fault};
use crate::point::{Ground, Point};
use crate::rig::disk::Disk;
use crate::seccomp::{Answer, Asked, Listener, Next, supervise};
use anyhow::{Context, Result, anyhow};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Only what hangs takes as long.
const PATIENCE: Duration = Duration::from_secs(150);

/// What it does, and what it has seen.
#[derive(Debug)]
struct Log {
    armed: bool,
    aim: Aim,
    points: Vec<Point>,
    /// The point that was struck.
    struck: Option<Point>,
    lies: u64,
    hung: bool,
    process: Option<Pid>,
}

/// A supervisor, and the thread that answers.
pub(crate) struct Supervisor {
    log: Arc<Mutex<Log>>,
    socket: Mutex<Option<UnixStream>>,
    thread: Mutex<Option<JoinHandle<Result<()>>>>,
}

impl Supervisor {
    /// A supervisor for a process that is about to start.
    pub(crate) fn new(
        aim: Aim,
        armed: bool,
        grounds: Vec<Ground>,
        disks: Arc<[Disk]>,
    ) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let log = Arc::new(Mutex::new(Log {
            armed,
            aim,
            points: Vec::new(),
            struck: None,
            lies: 0,
            hung: false,
            process: None,
        }));
        let shared = Arc::clone(&log);
        let thread = std::thread::spawn(move || {
            let listener = Listener::take(&ours)?;
            Desk {
                listener,
                log: shared,
                grounds,
                disks,
            }
            .serve()
        });
        Ok(Self {
            log,
            socket: Mutex::new(Some(theirs)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Puts the command under this supervisor, once.
    pub(crate) fn watch(&self, command: &mut Command) -> Result<()> {
        let socket = self.socket.lock().take().context("one process only")?;
        supervise(command, &crate::call::numbers(), socket);
        Ok(())
    }

    /// Whether it counts and strikes; whether it did.
    pub(crate) fn arm(&self, armed: bool) -> bool {
        std::mem::replace(&mut self.log.lock().armed, armed)
    }

    pub(crate) fn points(&self) -> Vec<Point> {
        self.log.lock().points.clone()
    }

    pub(crate) fn struck(&self) -> Option<Point> {
        self.log.lock().struck.clone()
    }

    pub(crate) fn lies(&self) -> u64 {
        self.log.lock().lies
    }

    /// Was it killed because it did not end?
    pub(crate) fn hung(&self) -> bool {
        self.log.lock().hung
    }

    /// Waits for the end of the processes.
    pub(crate) fn ends(&self) -> Result<()> {
        drop(self.socket.lock().take());
        let thread = self.thread.lock().take();
        match thread.map(JoinHandle::join) {
            None => Ok(()),
            Some(ended) => ended.map_err(|_| anyhow!("the supervisor panicked"))?,
        }
    }
}

/// Where calls are answered.
struct Desk {
    listener: Listener,
    log: Arc<Mutex<Log>>,
    grounds: Vec<Ground>,
    disks: Arc<[Disk]>,
}

impl Desk {
    fn serve(self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.listener.next(Duration::from_millis(500))? {
                Next::Gone => return Ok(()),
                Next::Nothing if Instant::now() > end => self.give_up()?,
                Next::Nothing => {}
                Next::Call(asked) => {
                    let answer = self.decide(&asked)?;
                    self.listener.answer(&asked, answer)?;
                }
            }
        }
    }

    fn give_up(&self) -> Result<()> {
        let mut log = self.log.lock();
        if let (false, Some(process)) = (log.hung, log.process) {
            log.hung = true;
            send(process, Signal::KILL)?;
        }
        Ok(())
    }

    fn decide(&self, asked: &Asked) -> Result<Answer> {
        let mut log = self.log.lock();
        if log.process.is_none() {
            log.process = process_of(asked);
        }
        if !log.armed {
            return Ok(Answer::Go);
        }
        let Some(point) = Point::of(asked, &self.grounds) else {
            return Ok(Answer::Go);
        };
        if let Aim::Lie(lie) = &mut log.aim {
            let told = lie(&point, asked);
            log.lies += u64::from(told.is_some());
            return Ok(told.unwrap_or(Answer::Go));
        }
        if point.call == LEASE {
            return Ok(Answer::Go);
        }
        log.points.push(point.clone());
        let many = log.points.len() as u64;
        match &log.aim {
            Aim::At { n, fault } if *n == many => {
                let fault = *fault;
                log.struck = Some(point);
                let process = process_of(asked).context("who asks")?;
                drop(log);
                self.strike(fault, process)
            }
            _ => Ok(Answer::Go),
        }
    }

    /// The call is not made: it fails, or its process dies before it.
    fn strike(&self, fault: Fault, process: Pid) -> Result<Answer> {
        match fault {
            Fault::Fails(errno) | Fault::FailsThenPower(errno) => return Ok(Answer::Fail(errno)),
            Fault::Crash => {}
            Fault::Power => {
                // It stops first, so that no disk's end is seen by it.
                send(process, Signal::STOP)?;
                for disk in self.disks.iter() {
                    disk.cut_power()?;
                }
            }
        }
        send(process, Signal::KILL)?;
        // Whom this answers is dead.
        Ok(Answer::Fail(libc::EIO))
    }
}

fn process_of(asked: &Asked) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{}/status", asked.thread)).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("Tgid:"))?;
    Pid::from_raw(line.trim().parse().ok()?)
}

/// A signal for a process that the test may have ended in the same moment.
fn send(process: Pid, signal: Signal) -> Result<()> {
    match kill_process(process, signal) {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        done => Ok(done?),
    }
}
