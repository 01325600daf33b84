//! The movers that have joined this process, by name: what the server's doors hand in, and what tiers ask for.
//!
//! Invariants kept here:
//! - one mover of a name at a time: a second one is let in when the first does not answer any more;
//! - a mover that is silent is gone after [`SILENT`], and all that was asked of it fails then;
//! - a transfer is expected only as long as somebody waits for it.

use super::pieces::{self, Carrying, Way};
use super::wire::{
    Answer, Answered, Ask, Asked, Caller, Fault, Join, Joined, SCHEMA, clipped, line, read_line,
};
use crate::tier::Mark;
use bytes::Bytes;
use cairn_mover::{Door, Iod, Listener, TransferId};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

/// How often a mover is asked whether it lives.
const PING: Duration = Duration::from_secs(10);
/// One that does not answer that for so long is gone.
const SILENT: Duration = Duration::from_secs(30);
/// How long the first words may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the other end's reason is waited for, when this end of a transfer failed.
const REASON: Duration = Duration::from_secs(5);
/// How long this end of a transfer may go on when the mover says that it is done.
const LATE: Duration = Duration::from_secs(60);

/// How streams of transfers come to this process.
pub trait Doorway: Send + Sync {
    /// Streams of this transfer are to be handed in.
    ///
    /// # Errors
    /// Whoever accepts them is gone.
    fn expect(&self, transfer: TransferId) -> io::Result<()>;
    /// Not any more.
    fn forget(&self, transfer: TransferId);
}

/// A door's side of things: where streams that it accepts are handed in, and how it is told which.
#[derive(Clone)]
pub struct Gate {
    /// Takes the streams.
    pub listener: Arc<Listener>,
    /// Is told which are expected.
    pub doorway: Arc<dyn Doorway>,
}

/// The movers that are here.
#[derive(Default)]
pub struct Hall {
    sessions: Mutex<HashMap<String, Arc<Session>>>,
}

/// The one of this process.
pub fn hall() -> &'static Hall {
    static HALL: OnceLock<Hall> = OnceLock::new();
    HALL.get_or_init(Hall::default)
}

/// Threads for the transfers of all movers.
pub(super) fn threads() -> Option<&'static Handle> {
    static THREADS: OnceLock<Option<Runtime>> = OnceLock::new();
    let runtime = THREADS.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).thread_name("cairn-movers");
        builder
            .enable_all()
            .build()
            .inspect_err(|error| tracing::error!(%error, "no threads for movers"))
            .ok()
    });
    runtime.as_ref().map(Runtime::handle)
}

/// Who waits for the answer to which question.
type Waiting = HashMap<u64, oneshot::Sender<Result<Answer, Fault>>>;

/// The mover has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

/// One mover that is here.
pub(super) struct Session {
    name: String,
    from: String,
    /// What it keeps objects in, as it says.
    pub(super) place: String,
    /// What it said of its place, once it was opened, and for whom.
    pub(super) opened: tokio::sync::Mutex<Option<(Mark, Vec<String>)>>,
    lines: mpsc::UnboundedSender<String>,
    /// Who waits for answers; nobody can any more when it is gone.
    waiting: Mutex<Option<Waiting>>,
    next: AtomicU64,
    over: watch::Sender<bool>,
    gate: Gate,
}

impl Hall {
    /// The mover of that name, if it is here.
    pub(super) fn find(&self, name: &str) -> Option<Arc<Session>> {
        self.sessions.lock().get(name).map(Arc::clone)
    }

    /// Serves a mover's connection until one end goes. `caller` is whom the door believes it to be.
    ///
    /// # Errors
    /// It broke, or the mover does not speak as expected.
    pub async fn converse(
        &self,
        caller: Caller,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        gate: Gate,
    ) -> io::Result<()> {
        let (read, mut write) = tokio::io::split(stream);
        let mut read = BufReader::new(read);
        let join = timeout(PATIENCE, read_line::<Join>(&mut read)).await??;
        let join = join.ok_or(io::ErrorKind::UnexpectedEof)?;
        let refused = match self.find(&caller.name) {
            _ if join.schema != SCHEMA => {
                Some(format!("this server speaks {SCHEMA}: use the same version"))
            }
            Some(other) if other.lives().await => Some(format!(
                "mover {} is here already, from {}: end that one, or give this one a token of its own",
                caller.name, other.from
            )),
            _ => None,
        };
        let answer = line(&Joined {
            schema: SCHEMA.to_owned(),
            refused: refused.clone(),
        })?;
        if let Some(why) = refused {
            tracing::warn!(mover = caller.name, from = caller.from, why, "not let in");
            return write.write_all(answer.as_bytes()).await;
        }
        let (lines, mut out) = mpsc::unbounded_channel::<String>();
        let session = Arc::new(Session {
            name: caller.name,
            from: caller.from,
            place: clipped(&join.place),
            opened: tokio::sync::Mutex::new(None),
            lines,
            waiting: Mutex::new(Some(HashMap::new())),
            next: AtomicU64::new(1),
            over: watch::Sender::new(false),
            gate,
        });
        let earlier = self
            .sessions
            .lock()
            .insert(session.name.clone(), Arc::clone(&session));
        if let Some(earlier) = earlier {
            earlier.end();
        }
        // Also when this is dropped in the middle.
        let here = Here(self, Arc::clone(&session));
        tracing::info!(
            mover = session.name,
            from = session.from,
            place = session.place,
            "joined"
        );
        let mut over = session.over.subscribe();
        let said = async {
            // It can be asked already when it hears this.
            write.write_all(answer.as_bytes()).await?;
            while let Some(text) = out.recv().await {
                write.write_all(text.as_bytes()).await?;
            }
            Ok(())
        };
        let ended = tokio::select! {
            ended = session.listen(&mut read) => ended,
            ended = said => ended,
            () = session.watch() => Err(io::Error::new(io::ErrorKind::TimedOut, "it is silent")),
            _ = over.wait_for(|over| *over) => Ok(()),
        };
        drop(here);
        tracing::info!(mover = session.name, error = ?ended.as_ref().err(), "gone");
        ended
    }
}

/// A session that is in the hall, and leaves it with this: first nobody finds it any more, then who waits is told.
struct Here<'a>(&'a Hall, Arc<Session>);

impl Drop for Here<'_> {
    fn drop(&mut self) {
        let mut sessions = self.0.sessions.lock();
        let name = &self.1.name;
        if sessions
            .get(name)
            .is_some_and(|now| Arc::ptr_eq(now, &self.1))
        {
            sessions.remove(name);
        }
        drop(sessions);
        self.1.end();
    }
}

impl Session {
    async fn listen(&self, read: &mut (impl AsyncBufRead + Unpin)) -> io::Result<()> {
        while let Some(Answered { id, answer }) = read_line(read).await? {
            let waiter = self.waiting.lock().as_mut().and_then(|all| all.remove(&id));
            if let Some(waiter) = waiter {
                // Whoever asked may have stopped waiting.
                let _ = waiter.send(answer);
            }
        }
        Ok(())
    }

    /// Returns when it was silent for too long.
    async fn watch(&self) {
        while matches!(timeout(SILENT, self.ask(Ask::Ping)).await, Ok(Ok(_))) {
            sleep(PING).await;
        }
    }

    async fn lives(&self) -> bool {
        matches!(timeout(SILENT, self.ask(Ask::Ping)).await, Ok(Ok(_)))
    }

    fn end(&self) {
        // Who waits reads the end of his channel.
        self.waiting.lock().take();
        self.over.send_replace(true);
    }

    /// Asks without waiting: nothing follows from the answer.
    pub(super) fn tell(&self, ask: Ask) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        if let Ok(text) = line(&Asked { id, ask }) {
            // It may be gone.
            let _ = self.lines.send(text);
        }
    }

    /// One question; the answer, if the mover lives to give it.
    pub(super) async fn ask(&self, ask: Ask) -> Result<Result<Answer, Fault>, Gone> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let text = match line(&Asked { id, ask }) {
            Ok(text) => text,
            Err(error) => return Ok(Err(Fault::passing(error))),
        };
        let (tell, told) = oneshot::channel();
        self.waiting.lock().as_mut().ok_or(Gone)?.insert(id, tell);
        let _forget = Forget(self, id);
        self.lines.send(text).map_err(|_| Gone)?;
        told.await.map_err(|_| Gone)
    }

    /// Asks for a transfer: `ask` makes the question of its descriptor, `carry` is this end of it.
    async fn transfer<T>(
        &self,
        iod: Iod,
        ask: impl FnOnce(String) -> Ask,
        carry: impl AsyncFnOnce(Door, Iod) -> Result<T, Fault>,
        enough: Option<T>,
    ) -> Result<Result<T, Fault>, Gone> {
        let prepared = || -> io::Result<(Door, Expectation<'_>, String)> {
            let text = super::wire::iod_text(&iod).map_err(io::Error::other)?;
            let door = self.gate.listener.expect(&iod).map_err(io::Error::other)?;
            self.gate.doorway.expect(iod.transfer)?;
            Ok((door, Expectation(&*self.gate.doorway, iod.transfer), text))
        };
        let (door, _expectation, text) = match prepared() {
            Ok(prepared) => prepared,
            Err(error) => return Ok(Err(Fault::passing(error))),
        };
        let mut asked = std::pin::pin!(self.ask(ask(text)));
        let mut carried = std::pin::pin!(carry(door, iod));
        tokio::select! {
            biased;
            answered = &mut asked => match answered? {
                // It has all of it.
                Ok(_) if enough.is_some() => Ok(enough.ok_or_else(|| Fault::passing("nothing"))),
                // It sent all of it: this end has it, or soon knows better.
                Ok(_) => Ok(match timeout(LATE, carried).await {
                    Ok(carried) => carried,
                    Err(_) => Err(Fault::passing("the mover says that it sent what did not come")),
                }),
                Err(fault) => Ok(Err(fault)),
            },
            carried = &mut carried => match carried {
                Ok(done) => Ok(asked.await?.map(|_| done)),
                // The mover may know why.
                Err(fault) => match timeout(REASON, asked).await {
                    Ok(Ok(Err(reason))) => Ok(Err(reason)),
                    Ok(Err(gone)) => Err(gone),
                    Ok(Ok(Ok(_))) | Err(_) => Ok(Err(fault)),
                },
            },
        }
    }

    /// Receives a piece; `ask` makes the question.
    pub(super) async fn fetch(
        &self,
        len: u64,
        carrying: Carrying,
        ask: impl FnOnce(String) -> Ask,
    ) -> Result<Result<Vec<u8>, Fault>, Gone> {
        let iod = match pieces::offer(Way::ToInstance, len, carrying) {
            Ok(iod) => iod,
            Err(fault) => return Ok(Err(fault)),
        };
        let carry = async |door, iod: Iod| pieces::receive(door, &iod).await;
        self.transfer(iod, ask, carry, None).await
    }

    /// Sends a piece; `ask` makes the question.
    pub(super) async fn give(
        &self,
        bytes: Bytes,
        carrying: Carrying,
        ask: impl FnOnce(String) -> Ask,
    ) -> Result<Result<(), Fault>, Gone> {
        let iod = match pieces::offer(Way::ToMover, bytes.len() as u64, carrying) {
            Ok(iod) => iod,
            Err(fault) => return Ok(Err(fault)),
        };
        let carry = async |door, iod: Iod| pieces::send(door, &iod, bytes).await;
        self.transfer(iod, ask, carry, Some(())).await
    }
}

/// Nobody waits for the answer any more.
struct Forget<'a>(&'a Session, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let unanswered = self
            .0
            .waiting
            .lock()
            .as_mut()
            .and_then(|all| all.remove(&self.1));
        if unanswered.is_some() {
            self.0.tell(Ask::Forget { id: self.1 });
        }
    }
}

struct Expectation<'a>(&'a dyn Doorway, TransferId);

impl Drop for Expectation<'_> {
    fn drop(&mut self) {
        self.0.forget(self.1);
    }
}
