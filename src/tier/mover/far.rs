//! The mover's end: does with its own tier what the instance asks.
//!
//! Invariants kept here:
//! - its place is made a tier only where it was told so, and only an empty one; else it must have the mark of the
//!   instance that asks, and of the tier that it asks for; nothing is done for another one;
//! - of a put nothing is ever seen before its tier proved it, and nothing remains of one whose instance went away
//!   before it was to be finished. One that is being finished goes on, whatever becomes of the connection, and its end is
//!   remembered for the instance that asks again;
//! - what it holds in memory for others is bounded ([`READS`], [`APPENDS`]), over all its connections together.

mod ends;

use super::pieces::{self, PIECE};
use super::wire::{
    Answer, Answered, Ask, Asked, Fault, Join, Joined, NAMES_MAX, SCHEMA, line, parse_iod,
    proof_word, read_line, restoring_answer,
};
use crate::id::{AggregateId, InstanceId, TierId};
use crate::tier::{Mark, OpenHow, Put, Tier, TierError, TierUrl, is_there, open};
use bytes::Bytes;
use cairn_mover::Crc32c;
use ends::Ends;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// Ranges that are read and sent at one time, at most: each is in memory.
const READS: usize = 8;
/// Pieces that are received and written at one time, at most, likewise.
const APPENDS: usize = 8;
/// Questions that are worked on at one time.
const AT_ONCE: usize = 256;
/// And that wait for that.
const QUEUE: usize = 8192;
/// Puts that are open at one time.
const PUTS: usize = 256;
/// How long the server may take to let this mover in: it asks one of the same name whether it lives.
const PATIENCE: Duration = Duration::from_secs(60);
/// The server asks every ten seconds whether this end lives: one that does not is gone.
const SILENT: Duration = Duration::from_secs(60);

/// Why a mover's connection ended.
#[derive(Debug, thiserror::Error)]
pub enum FarError {
    /// The server does not let it in.
    #[error("{0}")]
    Refused(String),
    /// It broke: another one may do.
    #[error("{step}: {source}")]
    Broken {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// What a mover keeps, across its connections.
pub struct Far {
    url: TierUrl,
    /// The place may be made a tier, once.
    is_new: bool,
    /// Held while the place is being opened, which may take its time.
    opening: Mutex<()>,
    opened: RwLock<Option<(Mark, Arc<dyn Tier>)>>,
    ends: Arc<Ends>,
    reads: Arc<Semaphore>,
    appends: Arc<Semaphore>,
    at_once: Arc<Semaphore>,
}

impl Far {
    /// Keeps objects in `url`. `is_new`: an empty place is made a tier for the instance that asks first.
    #[must_use]
    pub fn new(url: TierUrl, is_new: bool) -> Arc<Self> {
        Self::with(url, is_new, None)
    }

    /// The same with a tier that is open: test doubles.
    #[must_use]
    pub fn keeping(url: TierUrl, tier: Arc<dyn Tier>) -> Arc<Self> {
        Self::with(url, false, Some((tier.mark(), tier)))
    }

    fn with(url: TierUrl, is_new: bool, opened: Option<(Mark, Arc<dyn Tier>)>) -> Arc<Self> {
        Arc::new(Self {
            url,
            is_new,
            opening: Mutex::new(()),
            opened: RwLock::new(opened),
            ends: Arc::default(),
            reads: Arc::new(Semaphore::new(READS)),
            appends: Arc::new(Semaphore::new(APPENDS)),
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
        })
    }

    /// Serves one connection until it ends. Streams are dialled to `server`, where the connection went.
    ///
    /// # Errors
    /// Why it ended; `Ok` if the server ended it.
    pub async fn serve(
        self: &Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        server: SocketAddr,
        joined: impl FnOnce(),
    ) -> Result<(), FarError> {
        let broken = |step| move |source| FarError::Broken { step, source };
        let (read, mut write) = tokio::io::split(stream);
        let mut read = BufReader::new(read);
        let join = Join {
            schema: SCHEMA.to_owned(),
            place: self.url.to_string(),
        };
        let text = line(&join).map_err(broken("join"))?;
        write
            .write_all(text.as_bytes())
            .await
            .map_err(broken("join"))?;
        let answer = timeout(PATIENCE, read_line::<Joined>(&mut read)).await;
        let answer = answer
            .map_err(|_| broken("join")(io::ErrorKind::TimedOut.into()))?
            .map_err(broken("join"))?
            .ok_or_else(|| broken("join")(io::ErrorKind::UnexpectedEof.into()))?;
        if let Some(why) = answer.refused {
            return Err(FarError::Refused(why));
        }
        joined();
        let (lines, mut out) = mpsc::channel::<String>(64);
        let work = Arc::new(Work {
            far: Arc::clone(self),
            server,
            is_open: AtomicBool::new(false),
            puts: Mutex::new(HashMap::new()),
            finishing: Mutex::new(HashMap::new()),
        });
        let mut tasks = Tasks::default();
        let listen = async {
            loop {
                let asked = timeout(SILENT, read_line::<Asked>(&mut read)).await;
                let Some(Asked { id, ask }) = asked?? else {
                    return Ok(());
                };
                tasks.begin(&work, &lines, id, ask);
            }
        };
        let said = async {
            while let Some(text) = out.recv().await {
                write.write_all(text.as_bytes()).await?;
            }
            Ok(())
        };
        let ended: io::Result<()> = tokio::select! {
            ended = listen => ended,
            ended = said => ended,
        };
        // Nobody asks for these any more.
        tasks.running.shutdown().await;
        let left: Vec<_> = work.puts.lock().drain().map(|(_, put)| put).collect();
        tokio::task::spawn_blocking(move || left.iter().for_each(|put| put.cancel()));
        ended.map_err(broken("serve"))
    }

    /// The tier, open for the instance that asked.
    fn tier(&self) -> Result<Arc<dyn Tier>, Fault> {
        let opened = self.opened.read();
        let tier = opened.as_ref().map(|(_, tier)| Arc::clone(tier));
        tier.ok_or_else(|| Fault::passing("the mover's place is not open"))
    }

    /// Opens it as that tier of that instance; stays open.
    fn open(&self, wanted: Mark) -> Result<Answer, TierError> {
        let _one = self.opening.lock();
        let kept = self.opened.read().clone();
        let (mark, tier) = match kept {
            Some(kept) => kept,
            None => {
                let tier = self.open_place(wanted)?;
                *self.opened.write() = Some((tier.mark(), Arc::clone(&tier)));
                (tier.mark(), tier)
            }
        };
        if mark != wanted {
            let why = format!("it is tier {} of instance {}", mark.tier, mark.owner);
            return Err(self.refused(&why));
        }
        Ok(Answer::Opened {
            owner: mark.owner.to_string(),
            tier: mark.tier.0,
            notes: tier.describe().notes,
            empty: tier.list(None, 1)?.is_empty(),
        })
    }

    fn refused(&self, why: &str) -> TierError {
        TierError::Refused {
            place: self.url.to_string(),
            why: why.to_owned(),
        }
    }

    fn open_place(&self, wanted: Mark) -> Result<Arc<dyn Tier>, TierError> {
        let there = is_there(&self.url).map_err(|error| TierError::Unavailable {
            tier: self.url.to_string(),
            step: "looking for its mark",
            why: error.to_string(),
        })?;
        let (owner, number) = (wanted.owner, wanted.tier);
        match (self.is_new, there) {
            (true, false) => open(&self.url, OpenHow::new(owner, number)),
            // Left in a service's command line, it would one day make a tier of an empty mount point.
            (true, true) => Err(self.refused("it is a tier already: leave --new out")),
            (false, true) => open(&self.url, OpenHow::known(owner, number)),
            (false, false) => {
                let why =
                    "it has no mark of a tier: is it mounted? A new one is made by --new, once";
                Err(self.refused(why))
            }
        }
    }
}

/// What a connection works on.
#[derive(Default)]
struct Tasks {
    running: JoinSet<()>,
    /// How each is ended, until it has ended.
    by_question: HashMap<u64, AbortHandle>,
}

impl Tasks {
    fn begin(&mut self, work: &Arc<Work>, lines: &mpsc::Sender<String>, id: u64, ask: Ask) {
        while self.running.try_join_next().is_some() {}
        if self.by_question.len() > 2 * QUEUE {
            self.by_question.retain(|_, task| !task.is_finished());
        }
        if let Ask::Forget { id } = ask {
            if let Some(task) = self.by_question.remove(&id) {
                task.abort();
            }
            return;
        }
        let (work, lines) = (Arc::clone(work), lines.clone());
        let is_full = self.running.len() >= QUEUE;
        let task = self.running.spawn(async move {
            let answer = if is_full {
                Err(Fault::passing("too many questions wait"))
            } else {
                work.in_turn(ask).await
            };
            let text = line(&Answered { id, answer }).or_else(|error| {
                let answer = Err(Fault::passing(error));
                line(&Answered { id, answer })
            });
            if let Ok(text) = text {
                // The server may be gone.
                let _ = lines.send(text).await;
            }
        });
        self.by_question.insert(id, task);
    }
}

/// A put that is open, and is not to be finished yet.
struct OpenPut {
    object: AggregateId,
    put: Mutex<Option<Box<dyn Put>>>,
    unwanted: Arc<AtomicBool>,
}

impl OpenPut {
    /// Nobody wants it any more.
    fn cancel(&self) {
        self.unwanted.store(true, Ordering::SeqCst);
        if let Some(mut put) = self.put.try_lock()
            && let Some(put) = put.take()
        {
            put.abandon();
        }
    }
}

/// One connection's work.
struct Work {
    far: Arc<Far>,
    server: SocketAddr,
    /// The instance showed that the place is its own.
    is_open: AtomicBool,
    puts: Mutex<HashMap<u64, Arc<OpenPut>>>,
    /// Those that are being finished, and how each is told that nobody wants it.
    finishing: Mutex<HashMap<u64, Arc<AtomicBool>>>,
}

fn parse(object: &str) -> Result<AggregateId, Fault> {
    object
        .parse()
        .map_err(|_| Fault::passing(format!("{object:?} is no object's name")))
}

/// Tiers block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Fault::passing("a step did not return"))?
}

impl Work {
    /// What is quick never waits for what is not.
    async fn in_turn(self: &Arc<Self>, ask: Ask) -> Result<Answer, Fault> {
        let _turn = match &ask {
            // Those wait for a tape's line, and not for a turn.
            Ask::Ping | Ask::Abandon { .. } | Ask::Finish { .. } | Ask::Outcome { .. } => None,
            _ => Arc::clone(&self.far.at_once).acquire_owned().await.ok(),
        };
        self.answer(ask).await
    }

    async fn answer(self: &Arc<Self>, ask: Ask) -> Result<Answer, Fault> {
        let needs_place = !matches!(ask, Ask::Ping | Ask::Open { .. });
        if needs_place && !self.is_open.load(Ordering::SeqCst) {
            return Err(Fault::passing("the place was not opened"));
        }
        match ask {
            Ask::Ping => Ok(Answer::Done),
            Ask::Open { owner, tier } => self.open(&owner, tier).await,
            Ask::Begin { put, object, hint } => self.begin(put, &object, hint).await,
            Ask::Append { put, iod } => self.append(put, &iod).await,
            Ask::Finish { put, crc, hasten } => self.finish(put, crc, hasten).await,
            Ask::Outcome { put, object } => self.far.ends.of((put, parse(&object)?)).await,
            Ask::Abandon { put } => {
                let found = self.puts.lock().remove(&put);
                if let Some(unwanted) = self.finishing.lock().get(&put) {
                    unwanted.store(true, Ordering::SeqCst);
                }
                blocking(move || {
                    if let Some(found) = found {
                        found.cancel();
                    }
                    Ok(Answer::Done)
                })
                .await
            }
            Ask::Read {
                object,
                offset,
                len,
                iod,
            } => self.read(parse(&object)?, offset, len, &iod).await,
            other => {
                let tier = self.far.tier()?;
                blocking(move || simple(&*tier, other)).await
            }
        }
    }

    async fn open(&self, owner: &str, tier: u32) -> Result<Answer, Fault> {
        let owner: InstanceId = owner
            .parse()
            .map_err(|_| Fault::passing("no instance's name"))?;
        let tier = TierId(tier);
        let far = Arc::clone(&self.far);
        let answer = blocking(move || {
            far.open(Mark { tier, owner }).map_err(|error| {
                tracing::error!(%error, "not opened for the server");
                Fault::from(&error)
            })
        })
        .await?;
        self.is_open.store(true, Ordering::SeqCst);
        Ok(answer)
    }

    async fn begin(&self, number: u64, object: &str, hint: u64) -> Result<Answer, Fault> {
        let (tier, object) = (self.far.tier()?, parse(object)?);
        if self.puts.lock().len() >= PUTS {
            return Err(Fault::passing("too many puts are open"));
        }
        let unwanted = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&unwanted);
        let put = blocking(move || {
            let mut put = tier.put(object, hint).map_err(|e| Fault::from(&e))?;
            put.heed(Arc::new(move || seen.load(Ordering::SeqCst)));
            Ok(put)
        })
        .await?;
        let put = Arc::new(OpenPut {
            object,
            put: Mutex::new(Some(put)),
            unwanted,
        });
        self.puts.lock().insert(number, put);
        Ok(Answer::Done)
    }

    fn put(&self, number: u64) -> Result<Arc<OpenPut>, Fault> {
        let puts = self.puts.lock();
        let found = puts.get(&number).map(Arc::clone);
        found.ok_or_else(|| Fault::passing("the put is not open any more"))
    }

    async fn append(&self, number: u64, iod: &str) -> Result<Answer, Fault> {
        let put = self.put(number)?;
        let mut iod = parse_iod(iod).ok_or_else(|| Fault::passing("no descriptor"))?;
        let room = Arc::clone(&self.far.appends).acquire_owned().await;
        let room = room.map_err(Fault::passing)?;
        let door = pieces::dial(&mut iod, self.server).await?;
        let bytes = pieces::receive(door, &iod).await?;
        blocking(move || {
            let _room = room;
            let mut open = put.put.lock();
            let gone = || Fault::passing("the put failed before");
            let mut writing = open.take().ok_or_else(gone)?;
            match writing.write_all(&bytes) {
                Ok(()) => {
                    *open = Some(writing);
                    Ok(Answer::Done)
                }
                Err(error) => {
                    writing.abandon();
                    Err(Fault::from(&TierError::from_write(
                        error, "far", put.object,
                    )))
                }
            }
        })
        .await
    }

    /// It goes on also when nobody waits for it: see [`Ends`].
    async fn finish(&self, number: u64, crc: u32, hasten: bool) -> Result<Answer, Fault> {
        let failed = || Fault::passing("the put failed before");
        let put = self.puts.lock().remove(&number).ok_or_else(failed)?;
        let mut taken = put.put.lock().take().ok_or_else(failed)?;
        // From here on it does not end with the connection.
        let (ends, which) = (Arc::clone(&self.far.ends), (number, put.object));
        let begun = ends.begin(which);
        let unwanted = Arc::clone(&put.unwanted);
        self.finishing.lock().insert(number, unwanted);
        tokio::task::spawn_blocking(move || {
            if hasten {
                taken.hasten();
            }
            let finished = taken.finish(Crc32c(crc));
            let receipt = finished.map_err(|e| Fault::from(&e));
            begun.end(receipt.map(|receipt| Answer::Receipt {
                len: receipt.len,
                crc: receipt.crc.0,
                proof: proof_word(receipt.proof).to_owned(),
            }));
        });
        let finished = ends.of(which).await;
        self.finishing.lock().remove(&number);
        finished
    }

    async fn read(
        &self,
        object: AggregateId,
        offset: u64,
        len: u64,
        iod: &str,
    ) -> Result<Answer, Fault> {
        let tier = self.far.tier()?;
        let mut iod = parse_iod(iod).ok_or_else(|| Fault::passing("no descriptor"))?;
        if len > PIECE || iod.size != len {
            return Err(Fault::passing("a range and a descriptor that do not fit"));
        }
        let room = Arc::clone(&self.far.reads).acquire_owned().await;
        let room = room.map_err(Fault::passing)?;
        // It stays with the bytes, also if nobody waits for them any more.
        let (_room, bytes): (_, Bytes) = blocking(move || {
            let bytes = tier
                .read(object, offset, len)
                .map_err(|e| Fault::from(&e))?;
            Ok((room, bytes))
        })
        .await?;
        if bytes.len() as u64 != len {
            return Err(Fault::passing("the tier gave fewer bytes than asked for"));
        }
        let door = pieces::dial(&mut iod, self.server).await?;
        pieces::send(door, &iod, bytes).await?;
        Ok(Answer::Done)
    }
}

/// What is one call of the tier's.
fn simple(tier: &dyn Tier, ask: Ask) -> Result<Answer, Fault> {
    let done = |result: Result<(), TierError>| result.map(|()| Answer::Done);
    let answered = match ask {
        Ask::Longest => tier.longest().map(|value| Answer::Number { value }),
        Ask::Lengths { file } => tier.lengths(file).map(|values| Answer::Numbers { values }),
        Ask::Admit { lengths } => done(tier.admit(&lengths)),
        Ask::Stat { object } => tier
            .stat(parse(&object)?)
            .map(|len| Answer::Number { value: Some(len) }),
        Ask::Restore { object } => tier.restore(parse(&object)?).map(restoring_answer),
        Ask::Delete { object } => done(tier.delete(parse(&object)?)),
        Ask::List { after, limit } => {
            let after = after.as_deref().map(parse).transpose()?;
            let limit = usize::try_from(limit).unwrap_or(NAMES_MAX).min(NAMES_MAX);
            tier.list(after, limit).map(|names| Answer::Names {
                names: names.iter().map(ToString::to_string).collect(),
            })
        }
        Ask::Confirm => done(tier.confirm()),
        Ask::Space => tier.space().map(|space| Answer::Space {
            free: space.free,
            total: space.total,
        }),
        Ask::Ping
        | Ask::Open { .. }
        | Ask::Begin { .. }
        | Ask::Append { .. }
        | Ask::Finish { .. }
        | Ask::Abandon { .. }
        | Ask::Outcome { .. }
        | Ask::Forget { .. }
        | Ask::Read { .. } => return Err(Fault::passing("it is answered elsewhere")),
    };
    answered.map_err(|error| Fault::from(&error))
}
