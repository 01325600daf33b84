//! The transfers that an agent has open: each is one end of a parcel.
//!
//! # Invariants
//! - A transfer is opened, moved, finished, once each and in that order; `finish` is what gives files their names.
//! - One that nobody finishes is dropped with the connection that opened it, or after a while, and with it what was not
//!   named.
//! - What is dialled is the caller's own address, or in a network that the administrator listed (P15).

mod pipe;

pub(super) use pipe::go_on;

use super::register::{Counted, MOST, Number};
use super::routes::{Refused, failure_of, problem, words_of};
use super::{Agent, Message, routes};
use crate::error::Failure;
use crate::id::{bytes_of_hex, hex_of};
use crate::parcel::{
    Entry, Fate, Found, Incoming, Kind, Layout, Outgoing, Placing, Receiving, Sending, Time, Tree,
    Trouble,
};
use crate::server::wire::{
    BadEntry, DialTransfer, Dialled, Dialling, EntryKind, EntryView, FinishTransfer,
    FinishedTransfer, GivenPath, OpenTransfer, OpenedTransfer, Problem, Way,
};
use cairn_mover::{
    BLOCK_DEFAULT, ByteRange, DialRule, Dialler, Direction, Door, Iod, Meter, Mode, Options, Place,
    Progress, Protect, RANGES_MAX, Secret, Streams, TransferId,
};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// A first stream must come within this many seconds.
const OFFER: u32 = 60;
/// Streams of one of them.
const STREAMS: u16 = 64;
/// So much of a large file is moved again at most, if its caller dies.
const KEEP: u64 = 64 << 20;
/// How long a first stream may take to come up, before the caller is told that it does not.
const REACH: Duration = Duration::from_secs(20);

/// What an end of a transfer says when it is over.
#[derive(Debug, Clone)]
struct Moved {
    bytes: u64,
    crc: Option<cairn_mover::Crc32c>,
    /// What is there now, at a receiving end.
    progress: Progress,
}

type Job = JoinHandle<Result<Moved, cairn_mover::Error>>;

enum End {
    Sends(Arc<Sending>),
    Receives(Arc<Receiving>),
}

pub(super) struct Transfer {
    end: End,
    from: SocketAddr,
    /// Which connection opened it.
    pub(super) connection: u64,
    /// What is there already, at the receiving end.
    progress: Progress,
    /// What the caller's descriptor must ask for (parallel mode).
    expected: Expected,
    meter: Arc<Meter>,
    job: Option<Job>,
    pub(super) opened: Instant,
    /// The caller's name for the parcel.
    key: String,
    /// It is counted while it lives, also while it is worked on.
    _counted: Counted,
}

#[derive(Clone)]
struct Expected {
    ranges: Vec<ByteRange>,
    size: u64,
    version: Vec<u8>,
}

/// Says to the door that streams come here, as long as it lives.
pub(super) struct Expectation {
    agent: Arc<Agent>,
    transfer: TransferId,
}

impl Expectation {
    pub(super) fn new(agent: &Arc<Agent>, transfer: TransferId) -> io::Result<Self> {
        agent.door.send(&Message::Expect(transfer))?;
        Ok(Self {
            agent: Arc::clone(agent),
            transfer,
        })
    }
}

impl Drop for Expectation {
    fn drop(&mut self) {
        if let Err(error) = self.agent.door.send(&Message::Forget(self.transfer)) {
            tracing::debug!(%error, "the door is gone");
        }
    }
}

/// Nobody waits for it any more: not the caller, who went away, nor the agent.
impl Drop for Transfer {
    fn drop(&mut self) {
        if let Some(job) = &self.job {
            job.abort();
        }
    }
}

fn usage(why: impl ToString) -> Refused {
    Refused::new(Failure::Usage, why)
}

fn entry(view: &EntryView) -> Entry {
    let target = view
        .target
        .as_ref()
        .map(GivenPath::bytes)
        .unwrap_or_default();
    Entry {
        path: routes::below(&view.path),
        kind: match view.kind {
            EntryKind::File => Kind::File(view.size),
            EntryKind::Directory => Kind::Directory,
            EntryKind::Symlink => Kind::Link(target),
        },
        mode: view.mode,
        modified: Time {
            seconds: view.mtime_s,
            nanos: view.mtime_ns,
        },
    }
}

fn ranges_of(pairs: &[[u64; 2]]) -> Option<Vec<ByteRange>> {
    pairs
        .iter()
        .map(|[start, len]| ByteRange::new(*start, *len))
        .collect()
}

fn pairs_of(ranges: &[ByteRange]) -> Vec<[u64; 2]> {
    ranges.iter().map(|r| [r.start(), r.len()]).collect()
}

/// Opens a transfer; of one that callers dial, streams are expected from now on.
pub(super) async fn open(
    agent: &Arc<Agent>,
    (from, connection): (SocketAddr, u64),
    asked: OpenTransfer,
) -> Result<OpenedTransfer, Refused> {
    if let Some(finished) = agent.transfers.answer(&asked.key) {
        return Ok(OpenedTransfer {
            number: 0,
            iod: None,
            here: false,
            version: String::new(),
            ranges: Vec::new(),
            finished: Some(finished),
        });
    }
    let Some(counted) = agent.transfers.place() else {
        let why = format!("{MOST} transfers of yours are open already");
        return Err(Refused::new(Failure::OverBudget, why).hint("finish or cancel some"));
    };
    let protect: Protect = asked.protect.parse().map_err(usage)?;
    let layout = Layout::new(asked.entries.iter().map(entry).collect()).map_err(usage)?;
    let size = layout.size();
    let id = TransferId::generate().map_err(|e| Refused::new(Failure::Internal, e))?;
    let (end, version, progress, ranges) = ends(agent, &asked, layout, hex_of(&id.0)).await?;
    let expected = Expected {
        ranges,
        size,
        version,
    };
    let mut transfer = Transfer {
        end,
        from,
        connection,
        progress,
        expected: expected.clone(),
        meter: Arc::default(),
        job: None,
        opened: Instant::now(),
        key: asked.key,
        _counted: counted,
    };
    let mut opened = OpenedTransfer {
        number: 0,
        iod: None,
        here: agent.advertise.is_empty(),
        version: hex_of(&expected.version),
        ranges: pairs_of(&expected.ranges),
        finished: None,
    };
    if asked.dialling == Dialling::Firewall && !expected.ranges.is_empty() {
        let iod = offer(agent, id, asked.way, &expected, asked.streams, protect)?;
        let door = agent
            .listener
            .expect(&iod)
            .map_err(|e| Refused::new(Failure::Internal, e))?;
        let bytes = iod.encode().map_err(usage)?;
        let expectation =
            Expectation::new(agent, id).map_err(|e| Refused::new(Failure::Internal, e))?;
        opened.iod = Some(hex_of(&bytes));
        transfer.begin(Some(expectation), door, iod, Streams::All);
    }
    opened.number = agent.transfers.add(transfer);
    Ok(opened)
}

/// This end of a parcel: its version, what is there already, and what is to be moved.
async fn ends(
    agent: &Arc<Agent>,
    asked: &OpenTransfer,
    layout: Layout,
    tag: String,
) -> Result<(End, Vec<u8>, Progress, Vec<ByteRange>), Refused> {
    match asked.way {
        Way::Put => {
            let version = asked.version.as_deref().unwrap_or_default();
            let version =
                bytes_of_hex(version).ok_or_else(|| usage("the version is not in hexadecimal"))?;
            let placing = Placing {
                if_missing: asked.if_missing,
                resume: asked.resume,
                finish_directories: asked.finish_directories,
            };
            let receiving = receiving(agent, layout, placing, version.clone(), tag).await?;
            let progress = receiving.progress(&version);
            let ranges = match &asked.ranges {
                None => progress.ranges(RANGES_MAX),
                Some(pairs) => pipe::lacking(&progress, pairs)?,
            };
            Ok((End::Receives(receiving), version, progress, ranges))
        }
        Way::Get => {
            let size = layout.size();
            let sending = sending(agent, layout).await?;
            let version = sending.version();
            let ranges = match &asked.ranges {
                None => ByteRange::new(0, size).into_iter().collect(),
                Some(pairs) => ranges_of(pairs).ok_or_else(|| usage("a range without bytes"))?,
            };
            let progress = Progress::new(&version, size);
            Ok((End::Sends(sending), version, progress, ranges))
        }
    }
}

/// The descriptor of a transfer that the caller dials.
fn offer(
    agent: &Agent,
    transfer: TransferId,
    way: Way,
    expected: &Expected,
    streams: u16,
    protect: Protect,
) -> Result<Iod, Refused> {
    // Where nothing is advertised the caller puts in where its control connection went.
    let here = || "0.0.0.0".parse().map(|host| Place::new(host, &[1024]));
    let places = if agent.advertise.is_empty() {
        here().into_iter().collect()
    } else {
        agent.advertise.clone()
    };
    Ok(Iod {
        transfer,
        secret: Secret::generate().map_err(|e| Refused::new(Failure::Internal, e))?,
        direction: match way {
            Way::Put => Direction::ToListener,
            Way::Get => Direction::FromListener,
        },
        mode: Mode::Firewall,
        protect,
        block: BLOCK_DEFAULT,
        streams: streams.clamp(1, STREAMS),
        offer: OFFER,
        size: expected.size,
        version: expected.version.clone(),
        places,
        ranges: expected.ranges.clone(),
    })
}

pub(super) async fn tree(agent: &Arc<Agent>) -> Result<Arc<Tree>, Refused> {
    let own = Arc::clone(agent);
    let opened = blocking(move || own.tree()).await?;
    opened.map_err(|error| Refused::io("open", b"the mount", &error))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refused> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| {
        tracing::error!(%error, "a step of a transfer did not return");
        Refused::new(Failure::Internal, "the agent failed")
    })
}

async fn receiving(
    agent: &Arc<Agent>,
    layout: Layout,
    placing: Placing,
    version: Vec<u8>,
    tag: String,
) -> Result<Arc<Receiving>, Refused> {
    let (tree, local) = (tree(agent).await?, Arc::clone(&agent.local));
    let named = layout
        .entries()
        .first()
        .map(|e| e.path.clone())
        .unwrap_or_default();
    let make = move || {
        let begun = local.settle(true)?;
        let settle = Box::new(move || match local.settle(false)? {
            now if now == begun => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "writes may have been lost meanwhile",
            )),
        });
        Receiving::new(tree, layout, placing, &version, tag, settle)
    };
    let made = blocking(make).await?;
    made.map(Arc::new).map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy => {
            let path = String::from_utf8_lossy(&named).into_owned();
            Refused::new(
                Failure::Busy,
                format!("another transfer writes {path} already"),
            )
        }
        _ => Refused::io("make", &named, &error),
    })
}

/// The files of a parcel as they are now. What is not what the caller saw is known as changed from the start.
async fn sending(agent: &Arc<Agent>, layout: Layout) -> Result<Arc<Sending>, Refused> {
    let tree = tree(agent).await?;
    blocking(move || {
        let mut made = Vec::with_capacity(layout.entries().len());
        for entry in layout.entries() {
            let found = tree
                .look(&entry.path)
                .map_err(|e| Refused::io("read", &entry.path, &e));
            let now = match found {
                Ok(now) => now,
                Err(refused) if layout.is_single() => return Err(refused),
                Err(_) => absent(),
            };
            let is_as_seen = now.size == entry.size() && now.modified == entry.modified;
            if layout.is_single() && !is_as_seen {
                let path = String::from_utf8_lossy(&entry.path).into_owned();
                return Err(Refused::new(
                    Failure::Changed,
                    format!("{path} was changed meanwhile"),
                ));
            }
            made.push(Found {
                size: entry.size(),
                modified: entry.modified,
                ..now
            });
        }
        let named = layout
            .entries()
            .first()
            .map(|e| e.path.clone())
            .unwrap_or_default();
        let sending = Sending::new(tree, layout, made);
        // Better known now than when its first block is wanted.
        let readable = sending.readable();
        readable.map_err(|error| Refused::io("read", &named, &error))?;
        Ok(Arc::new(sending))
    })
    .await?
}

/// What nothing is as.
fn absent() -> Found {
    Found {
        kind: rustix::fs::FileType::Unknown,
        size: 0,
        mode: 0,
        modified: Time::default(),
        changed: Time::default(),
        inode: 0,
        blocks: 0,
        links: 0,
        owner: (0, 0),
        device: (0, 0),
    }
}

impl Transfer {
    /// Something moves, or will, or has.
    pub(super) const fn has_begun(&self) -> bool {
        self.job.is_some()
    }

    /// Starts this end.
    fn begin(&mut self, expectation: Option<Expectation>, door: Door, iod: Iod, streams: Streams) {
        let options = Options {
            streams,
            meter: Arc::clone(&self.meter),
            keep_every: KEEP,
            ..Options::default()
        };
        let progress = self.progress.clone();
        let end = match &self.end {
            End::Sends(sending) => End::Sends(Arc::clone(sending)),
            End::Receives(receiving) => End::Receives(Arc::clone(receiving)),
        };
        self.job = Some(tokio::spawn(async move {
            let _expectation = expectation;
            match end {
                End::Sends(source) => {
                    let sent = cairn_mover::send(door, &iod, source, &options).await?;
                    Ok(Moved {
                        bytes: sent.bytes,
                        crc: Some(sent.crc),
                        progress,
                    })
                }
                End::Receives(sink) => {
                    let received = cairn_mover::receive(door, &iod, sink, progress, &options).await;
                    let received = received.map_err(|failed| failed.error)?;
                    Ok(Moved {
                        bytes: received.bytes,
                        crc: received.crc,
                        progress: received.progress,
                    })
                }
            }
        }));
    }
}

/// Dials a caller, and says so once a stream is up.
pub(super) async fn dial(
    agent: &Arc<Agent>,
    number: Number,
    asked: &DialTransfer,
) -> Result<Dialled, Refused> {
    let bytes =
        bytes_of_hex(&asked.iod).ok_or_else(|| usage("the descriptor is not in hexadecimal"))?;
    let iod = Iod::decode(&bytes).map_err(usage)?;
    let mut transfer = agent.transfers.take(number)?;
    let Expected {
        ranges,
        size,
        version,
    } = &transfer.expected;
    let direction = match &transfer.end {
        End::Sends(_) => Direction::ToListener,
        End::Receives(_) => Direction::FromListener,
    };
    let fits = iod.ranges == *ranges
        && iod.size == *size
        && iod.version == *version
        && iod.direction == direction;
    if !fits || transfer.job.is_some() {
        agent.transfers.add_back(number, transfer);
        return Err(usage(
            "the descriptor is not of this transfer, or it was dialled already",
        ));
    }
    let rule = DialRule::new(transfer.from.ip(), agent.dial.clone());
    let refused = |error: cairn_mover::Error| {
        tracing::warn!(%error, "a caller is not dialled");
        Refused::new(Failure::NotPermitted, error)
            .hint("CAIRN_HOSTNAME must name the address that your connection comes from, or the administrator lists it")
    };
    match Dialler::new(&iod, &rule).await {
        Ok(dialler) => {
            let streams = if asked.all {
                Streams::All
            } else {
                Options::default().streams
            };
            transfer.begin(None, Door::Dialling(dialler), iod, streams);
        }
        // It is over: nothing of it may be in the way when it is opened the other way.
        Err(error) => return Err(refused(error)),
    }
    match transfer.reached().await {
        Ok(streams) => {
            agent.transfers.add_back(number, transfer);
            Ok(Dialled { streams })
        }
        Err(why) => {
            let why = format!("the server cannot reach you: {why}");
            Err(Refused::new(Failure::TimedOut, why))
        }
    }
}

impl Transfer {
    /// Waits for a first stream; why there is none. The transfer is over then, and can be opened the other way.
    async fn reached(&mut self) -> Result<u64, String> {
        let until = Instant::now() + REACH;
        let moves = |meter: &Meter| meter.live() > 0 || meter.moved() > 0;
        while !moves(&self.meter) && Instant::now() < until {
            if self.job.as_ref().is_none_or(JoinHandle::is_finished) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        if moves(&self.meter) {
            return Ok(self.meter.live() as u64);
        }
        match self.job.take() {
            Some(job) if job.is_finished() => match job.await {
                Ok(Ok(_)) => Err("it ended without a stream".to_owned()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            },
            Some(job) => {
                job.abort();
                Err("no stream came up in time".to_owned())
            }
            None => Err("nothing was dialled".to_owned()),
        }
    }
}

fn trouble(bad: &BadEntry) -> Trouble {
    if bad.changed {
        Trouble::Changed
    } else {
        Trouble::Unreadable(None, bad.why.clone().unwrap_or_default())
    }
}

impl Transfer {
    /// Waits until all that was asked for has moved.
    async fn moved(&mut self) -> Result<Moved, Refused> {
        // The job stays in the transfer meanwhile: who drops that ends it.
        let moved = match self.job.as_mut() {
            None if self.expected.ranges.is_empty() => Moved {
                bytes: 0,
                crc: None,
                progress: self.progress.clone(),
            },
            None => return Err(usage("the transfer was never dialled")),
            Some(job) => match job.await {
                Ok(Ok(moved)) => moved,
                Ok(Err(error)) => return Err(failed(error)),
                Err(error) => {
                    tracing::error!(%error, "a transfer did not end well");
                    return Err(Refused::new(Failure::Internal, "the agent failed"));
                }
            },
        };
        self.job = None;
        Ok(moved)
    }
}

/// Waits until all has moved, and gives files their names.
pub(super) async fn finish(
    agent: &Arc<Agent>,
    number: Number,
    asked: FinishTransfer,
) -> Result<FinishedTransfer, Refused> {
    let mut transfer = agent.transfers.take(number)?;
    let moved = transfer.moved().await?;
    let mut finished = FinishedTransfer {
        bytes: moved.bytes,
        crc32c: moved.crc.map(|crc| format!("{:08x}", crc.0)),
        problems: Vec::new(),
        bad: Vec::new(),
    };
    match &transfer.end {
        End::Sends(sending) => {
            let bad = sending
                .troubles()
                .into_iter()
                .map(|(entry, trouble)| BadEntry {
                    entry,
                    changed: trouble == Trouble::Changed,
                    why: match trouble {
                        Trouble::Changed => None,
                        Trouble::Unreadable(_, why) => Some(why),
                    },
                });
            finished.bad = bad.collect();
        }
        End::Receives(receiving) => {
            let troubles: BTreeMap<usize, Trouble> = asked
                .bad
                .iter()
                .map(|bad| (bad.entry, trouble(bad)))
                .collect();
            let receiving = Arc::clone(receiving);
            if let Some(size) = asked.size {
                receiving.ends_at(size);
            }
            let placed = blocking(move || {
                let fates = receiving.place(&moved.progress, &troubles);
                fates.map(|fates| {
                    fates
                        .into_iter()
                        .map(|fate| told(receiving.layout(), fate))
                        .collect()
                })
            });
            finished.problems = placed
                .await?
                .map_err(|e| Refused::io("make durable", b"what was put", &e))?;
        }
    }
    agent.transfers.remember(&transfer.key, &finished);
    Ok(finished)
}

fn told(layout: &Layout, (number, fate): (usize, Fate)) -> Problem {
    let path = layout
        .entries()
        .get(number)
        .map(|e| e.path.clone())
        .unwrap_or_default();
    let (code, message) = match fate {
        Fate::Exists => (Failure::Exists, "there is a file already".to_owned()),
        Fate::Sender(Trouble::Changed) => (
            Failure::Changed,
            "it was changed while it was sent".to_owned(),
        ),
        Fate::Sender(Trouble::Unreadable(_, why)) => {
            (Failure::Internal, format!("it could not be read: {why}"))
        }
        Fate::Failed(step, error) => {
            let mut told = problem(&path, &error);
            told.message = format!("{step}: {}", words_of(&error));
            return told;
        }
    };
    Problem {
        path: Some(GivenPath::new(&path)),
        code: code.as_str().to_owned(),
        message,
    }
}

/// Why a transfer failed, for the caller.
fn failed(error: cairn_mover::Error) -> Refused {
    use cairn_mover::Error;
    let code = match &error {
        Error::SourceChanged => Failure::Changed,
        Error::Source { source, .. } | Error::Sink { source, .. } => failure_of(source),
        Error::NoStream { .. } => Failure::TimedOut,
        _ => Failure::Interrupted,
    };
    Refused::new(code, error)
}

/// Drops a transfer, and what was not named of it.
pub(super) fn cancel(agent: &Arc<Agent>, number: Number) -> Result<(), Refused> {
    drop(agent.transfers.take(number)?);
    Ok(())
}
