//! A session with a server: some parcels at a time, each tried again while that can help.
//!
//! Promises: what broke is tried again until its parcel has come no further for [`Session::patience`]; large files go on where
//! they were; a file that cannot be had does not keep the others back. Directories are made first, for their owner alone, and
//! get their modes and times at the end: nobody else sees a tree that is being copied.

use super::link::{Link, Server};
use super::parcel::Moved;
use super::plan::{Item, Parcel, Plan};
use crate::client::ClientError;
use crate::error::Failure;
use crate::id::hex_of;
use crate::parcel::Placing;
use crate::server::wire::{Dialling, Problem};
use cairn_mover::{Host, Limit, Listener, Meter, Network, TransferId};
use parking_lot::Mutex;
use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Parcels on their way at one time: while one is opened or finished, another one moves.
const AT_ONCE: usize = 3;
/// Streams of one parcel, where nobody says how many.
const STREAMS: u16 = 16;
/// Between two attempts.
pub(super) const PAUSES: [Duration; 4] = [
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(5),
];

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the server.
    Put,
    /// From the server.
    Get,
}

/// Where this end can be dialled.
pub struct Listening {
    /// Its ports.
    pub listener: Listener,
    /// Its hosts, as the server must dial them.
    pub hosts: Vec<Host>,
}

/// See the module.
pub struct Session {
    /// The server.
    pub server: Server,
    /// Which way.
    pub way: Way,
    /// How files come to their names.
    pub placing: Placing,
    /// Parallel mode, if this end can be dialled.
    pub listening: Option<Listening>,
    /// So many streams, if somebody said so.
    pub wanted: Option<u16>,
    /// `none`, `integrity` or `privacy`, if somebody said so.
    pub protect: Option<String>,
    /// Bandwidth.
    pub limit: Option<Arc<Limit>>,
    /// Networks that may be dialled besides the server's address.
    pub dial: Vec<Network>,
    /// How long nothing may move before it is given up.
    pub patience: Duration,
    /// Where the control connection goes.
    pub peer: IpAddr,
    /// What is counted.
    pub shared: Arc<Shared>,
}

/// What is counted over all parcels, and what they learned.
#[derive(Default)]
pub struct Shared {
    done: AtomicU64,
    meters: Mutex<Vec<Arc<Meter>>>,
    most: AtomicU64,
    fallen_back: AtomicBool,
    why: Mutex<Option<String>>,
}

/// A meter that is counted while this lives.
pub(super) struct Watched<'a>(&'a Shared, Arc<Meter>);

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.0.done.fetch_add(self.1.moved(), Ordering::Relaxed);
        self.0
            .most
            .fetch_max(self.1.most() as u64, Ordering::Relaxed);
        self.0.meters.lock().retain(|m| !Arc::ptr_eq(m, &self.1));
    }
}

impl Shared {
    /// Bytes that arrived so far, also those that had to come twice: it never becomes less.
    #[must_use]
    pub fn moved(&self) -> u64 {
        let now: u64 = self.meters.lock().iter().map(|meter| meter.moved()).sum();
        self.done.load(Ordering::Relaxed) + now
    }

    /// The most streams that a parcel had at one time.
    #[must_use]
    pub fn streams(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    /// Why the server does not dial this end, if that was tried and did not work. Told once.
    #[must_use]
    pub fn take_why(&self) -> Option<String> {
        self.why.lock().take()
    }

    /// Whether this end dials although it could be dialled.
    #[must_use]
    pub fn falls_back(&self) -> bool {
        self.fallen_back.load(Ordering::Relaxed)
    }

    pub(super) fn fall_back(&self, why: &str) {
        if !self.fallen_back.swap(true, Ordering::Relaxed) {
            *self.why.lock() = Some(why.to_owned());
        }
    }

    pub(super) fn watch(&self, meter: &Arc<Meter>) -> Watched<'_> {
        self.meters.lock().push(Arc::clone(meter));
        Watched(self, Arc::clone(meter))
    }
}

/// One try of a parcel.
pub(super) struct Attempt {
    /// The same for all tries: a server that finished it says so again.
    pub(super) key: String,
    pub(super) resume: bool,
    /// How much it moved.
    pub(super) moved: AtomicU64,
}

/// What came of all.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Bytes that were moved.
    pub bytes: u64,
    /// Files that did not get their names.
    pub problems: Vec<Problem>,
    /// Why the rest was not tried.
    pub broke: Option<ClientError>,
}

impl Session {
    /// Moves all of the plan.
    pub async fn run(self: &Arc<Self>, plan: &mut Plan) -> Outcome {
        let mut outcome = Outcome::default();
        let (files, directories) = (
            std::mem::take(&mut plan.files),
            std::mem::take(&mut plan.directories),
        );
        // Those above before those in them.
        let mut there = HashSet::new();
        for parcel in directories.iter().rev() {
            let mut made = parcel.clone();
            made.items.reverse();
            self.all(vec![made], 1, &mut outcome).await;
        }
        // What was there before is not ours to change.
        outcome.problems.retain(|problem| match &problem.path {
            Some(path) if problem.code == Failure::Exists.as_str() => {
                there.insert(path.bytes());
                false
            }
            _ => true,
        });
        if outcome.broke.is_none() {
            self.all(files, AT_ONCE, &mut outcome).await;
        }
        if outcome.broke.is_none() {
            let names = std::mem::take(&mut plan.names);
            self.all(names, 1, &mut outcome).await;
        }
        if outcome.broke.is_none() {
            for mut parcel in directories {
                parcel
                    .items
                    .retain(|item| !there.contains(&self.told_as(item)));
                parcel.finishes = true;
                if !parcel.items.is_empty() {
                    self.all(vec![parcel], 1, &mut outcome).await;
                }
            }
        }
        outcome
    }

    /// The path by which problems name an item.
    fn told_as(&self, item: &Item) -> Vec<u8> {
        match self.way {
            Way::Put => item.remote.path.bytes(),
            Way::Get => item.local.clone(),
        }
    }

    async fn all(self: &Arc<Self>, parcels: Vec<Parcel>, at_once: usize, outcome: &mut Outcome) {
        let queue = Arc::new(Mutex::new(VecDeque::from(parcels)));
        let mut workers = tokio::task::JoinSet::new();
        let (outcomes, mut told) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..at_once.min(queue.lock().len()) {
            let (session, queue, outcomes) =
                (Arc::clone(self), Arc::clone(&queue), outcomes.clone());
            workers.spawn(async move {
                let mut link = None;
                loop {
                    let Some(parcel) = queue.lock().pop_front() else {
                        return;
                    };
                    let done = session.persist(&mut link, &parcel).await;
                    let over = done.as_ref().is_err_and(is_for_all);
                    if outcomes.send((parcel, done)).is_err() || over {
                        queue.lock().clear();
                        return;
                    }
                }
            });
        }
        drop(outcomes);
        while let Some((parcel, done)) = told.recv().await {
            match done {
                Ok(moved) => {
                    outcome.bytes += moved.bytes;
                    outcome.problems.extend(moved.problems);
                }
                Err(error) if is_for_all(&error) => {
                    outcome.broke = outcome.broke.take().or(Some(error))
                }
                Err(error) => outcome.problems.extend(of_all(&parcel, &error)),
            }
        }
    }

    /// Tries a parcel until it is carried, cannot be, or comes no further.
    pub(super) async fn persist(
        &self,
        link: &mut Option<Link>,
        parcel: &Parcel,
    ) -> Result<Moved, ClientError> {
        let key = TransferId::generate().map_err(ClientError::not_understood)?;
        let mut attempt = Attempt {
            key: hex_of(&key.0),
            resume: self.placing.resume,
            moved: AtomicU64::new(0),
        };
        let (mut since, mut best, mut tries) = (Instant::now(), 0, 0);
        loop {
            let error = match self.once(link, parcel, &attempt).await {
                Ok(moved) => return Ok(moved),
                Err(error) => error,
            };
            let came = attempt.moved.swap(0, Ordering::Relaxed);
            // One that keeps its progress came further by all that it moved; another one only if it never came so far.
            let further = if parcel.keeps_progress() {
                came
            } else {
                came.saturating_sub(best)
            };
            best = best.max(came);
            if further > 0 {
                (since, tries) = (Instant::now(), 0);
            }
            if !may_help(&error) || since.elapsed() > self.patience {
                return Err(error);
            }
            tracing::info!(%error, "tried again");
            tokio::time::sleep(PAUSES[tries.min(PAUSES.len() - 1)]).await;
            tries += 1;
            attempt.resume = true;
        }
    }

    async fn once(
        &self,
        link: &mut Option<Link>,
        parcel: &Parcel,
        attempt: &Attempt,
    ) -> Result<Moved, ClientError> {
        let mut own = match link.take() {
            Some(link) => link,
            None => Link::connect(&self.server).await?,
        };
        let moved = self.carry(&mut own, parcel, attempt).await;
        // After an error nobody knows what is still under way on it.
        if moved.is_ok() {
            *link = Some(own);
        }
        moved
    }

    pub(super) const fn dialling(&self) -> Dialling {
        match self.listening {
            Some(_) => Dialling::Parallel,
            None => Dialling::Firewall,
        }
    }

    pub(super) fn streams(&self) -> u16 {
        let ports = self.listening.as_ref().map(|l| l.listener.streams());
        self.wanted
            .unwrap_or(STREAMS)
            .min(ports.unwrap_or(u16::MAX).max(1))
    }

    /// Off this host, what the mover calls integrity; on it, nothing is gained by it.
    pub(super) fn protect_word(&self) -> &str {
        let near = self.peer.to_canonical().is_loopback();
        self.protect
            .as_deref()
            .unwrap_or(if near { "none" } else { "integrity" })
    }
}

/// Errors after which the next parcel fares no better.
fn is_for_all(error: &ClientError) -> bool {
    match error {
        ClientError::Refused { failure, .. } => {
            matches!(
                failure,
                Failure::NoSpace
                    | Failure::QuotaExceeded
                    | Failure::Interrupted
                    | Failure::NoInstance
            )
        }
        ClientError::Local { source, .. } => {
            matches!(
                source.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
            )
        }
        _ => true,
    }
}

/// Errors that may be gone the next time.
pub(super) fn may_help(error: &ClientError) -> bool {
    match error {
        ClientError::Broken { .. } | ClientError::Away { .. } => true,
        ClientError::Refused { failure, .. } => matches!(
            failure,
            Failure::Interrupted
                | Failure::NoInstance
                | Failure::TimedOut
                | Failure::Busy
                | Failure::OverBudget
        ),
        _ => false,
    }
}

fn of_all<'a>(parcel: &'a Parcel, error: &'a ClientError) -> impl Iterator<Item = Problem> + 'a {
    parcel.items.iter().map(move |item| Problem {
        path: Some(item.remote.path.clone()),
        code: error.failure().as_str().to_owned(),
        message: error.to_string(),
    })
}
