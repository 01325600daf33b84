//! The agents: one process for each user who has a caller, started with the first and ended by itself when idle. For
//! movers the instance itself stands where an agent does for users.
//!
//! Invariants: an agent runs as the user that the token names, with the groups that the system has for them *now*, and
//! with no more rights than that; a dead one is replaced at the next call; all end with the door.

use super::channel::{Channel, Message};
use cairn_mover::TransferId;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// How an agent is started.
#[derive(Debug, Clone)]
pub struct Start {
    /// The program, this one.
    pub program: PathBuf,
    /// The mount.
    pub mount: PathBuf,
    /// The instance's control socket.
    pub socket: PathBuf,
    /// The instance's socket for movers.
    pub movers: PathBuf,
    /// Networks that may be dialled besides callers' own addresses, as they were given.
    pub dial: Vec<String>,
    /// Where streams are to be sent that callers dial: hosts and ports as they are dialled; none: where the control
    /// connection went.
    pub advertise: Vec<String>,
}

/// Who acts for a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Whom {
    /// The agent of a user.
    Agent(u32),
    /// The instance: for movers.
    Instance,
}

/// The agents that are running, by user; and which of them expects which transfer.
#[derive(Debug)]
pub(super) struct Agents {
    start: Start,
    running: Mutex<HashMap<Whom, Arc<Channel>>>,
    expected: Mutex<HashMap<TransferId, Arc<Channel>>>,
}

impl Agents {
    pub(super) fn new(start: Start) -> Arc<Self> {
        Arc::new(Self {
            start,
            running: Mutex::default(),
            expected: Mutex::default(),
        })
    }

    /// Hands a caller's connection to who acts for it.
    pub(super) fn caller(
        self: &Arc<Self>,
        whom: Whom,
        from: SocketAddr,
        connection: OwnedFd,
    ) -> io::Result<()> {
        let message = Message::Caller(from, connection);
        let (agent, fresh) = self.acting(whom)?;
        match agent.send(&message) {
            // It ended because nobody wanted anything of it. One that does not keep up is no dead one.
            Err(error) if !fresh && error.kind() != io::ErrorKind::WouldBlock => {
                self.lost(whom, &agent);
                self.acting(whom)?.0.send(&message)
            }
            other => other,
        }
    }

    /// Whether an agent expects the transfer.
    pub(super) fn expects(&self, transfer: TransferId) -> bool {
        self.expected.lock().contains_key(&transfer)
    }

    /// Hands a stream to the agent that expects its transfer; gives it back if none does.
    pub(super) fn stream(
        &self,
        transfer: TransferId,
        from: SocketAddr,
        stream: OwnedFd,
    ) -> Option<OwnedFd> {
        let Some(agent) = self.expected.lock().get(&transfer).map(Arc::clone) else {
            return Some(stream);
        };
        if let Err(error) = agent.send(&Message::Stream(from, stream)) {
            tracing::warn!(%transfer, %error, "a stream could not be handed over");
        }
        None
    }

    /// The channel to them, and whether it is new.
    fn acting(self: &Arc<Self>, whom: Whom) -> io::Result<(Arc<Channel>, bool)> {
        let mut running = self.running.lock();
        if let Some(agent) = running.get(&whom) {
            return Ok((Arc::clone(agent), false));
        }
        let (channel, child) = match whom {
            Whom::Agent(uid) => self
                .start(uid)
                .map(|(channel, child)| (channel, Some(child)))?,
            Whom::Instance => (Channel::connect(&self.start.movers)?, None),
        };
        let channel = Arc::new(channel);
        let (agents, heard) = (Arc::clone(self), Arc::clone(&channel));
        let listen = move || {
            agents.listen(whom, &heard);
            match child.map(|mut child| child.wait()) {
                None => tracing::info!("the instance is gone, or another one takes movers"),
                Some(Ok(status)) if status.success() => tracing::info!(?whom, "agent ended"),
                Some(Ok(status)) => tracing::warn!(?whom, %status, "agent ended"),
                Some(Err(error)) => tracing::warn!(?whom, %error, "agent ended"),
            }
        };
        std::thread::Builder::new()
            .name("cairn-agent".to_owned())
            .spawn(listen)?;
        // Its words are heard and its end is seen from now on.
        running.insert(whom, Arc::clone(&channel));
        Ok((channel, true))
    }

    /// Starts an agent.
    fn start(&self, uid: u32) -> io::Result<(Channel, Child)> {
        let (here, there) = Channel::pair()?;
        let Start {
            program,
            mount,
            socket,
            dial,
            advertise,
            movers: _,
        } = &self.start;
        let mut command = Command::new(program);
        command
            .arg("agent")
            .arg("--uid")
            .arg(uid.to_string())
            .arg("--control")
            .arg(socket);
        command.args(dial.iter().flat_map(|network| ["--dial", network]));
        command.args(advertise.iter().flat_map(|place| ["--advertise", place]));
        // Nothing of the door's environment is the user's but where it logs to.
        command
            .env_clear()
            .envs(std::env::var_os("CAIRN_LOG").map(|log| ("CAIRN_LOG", log)));
        command
            .arg(mount)
            .current_dir("/")
            .stdin(Stdio::from(there))
            .stdout(Stdio::null());
        let child = command.spawn()?;
        drop(command);
        tracing::info!(uid, pid = child.id(), "agent started");
        Ok((here, child))
    }

    /// Until the agent is gone.
    fn listen(&self, whom: Whom, agent: &Arc<Channel>) {
        loop {
            match agent.receive() {
                Ok(Some(Message::Expect(transfer))) => {
                    // The first to say so: a second agent cannot draw another's streams to itself.
                    self.expected
                        .lock()
                        .entry(transfer)
                        .or_insert_with(|| Arc::clone(agent));
                }
                Ok(Some(Message::Forget(transfer))) => {
                    let mut expected = self.expected.lock();
                    if expected
                        .get(&transfer)
                        .is_some_and(|of| Arc::ptr_eq(of, agent))
                    {
                        expected.remove(&transfer);
                    }
                }
                Ok(Some(Message::Caller(..) | Message::Stream(..))) => {}
                Ok(None) | Err(_) => break,
            }
        }
        self.lost(whom, agent);
    }

    fn lost(&self, whom: Whom, agent: &Arc<Channel>) {
        let mut running = self.running.lock();
        if running.get(&whom).is_some_and(|of| Arc::ptr_eq(of, agent)) {
            running.remove(&whom);
        }
        self.expected.lock().retain(|_, of| !Arc::ptr_eq(of, agent));
    }
}
