//! The streams of one transfer, whichever end makes them: they come, end, are replaced, or are too many.
//!
//! Invariants kept here:
//! - streams that die one after the other without a byte in between end the transfer;
//! - a transfer without a stream ends after the patience (a first stream: the offer) is over;
//! - the end that dials keeps as many as [`Width`] says, and numbers them without repeating.

use super::dialler::Dialler;
use super::error::{Broken, Error};
use super::listener::Incoming;
use super::options::{Options, Streams};
use super::stream::Stream;
use crate::iod::Iod;
use crate::secret::StreamIndex;
use crate::width::Width;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

const TICK: Duration = Duration::from_millis(200);
/// How often the rate is measured.
const SAMPLE: Duration = Duration::from_secs(1);
/// So many rounds of dialling may fail before there ever was a stream.
const ROUNDS: u32 = 3;
/// The end that dials may know of a death before this one does: so many times the streams that were agreed
/// may seem to live.
pub(crate) const SURPLUS: usize = 2;
/// So many streams may die without a byte, and two more for each that there should be.
const DEATHS: usize = 8;

/// Where streams come from.
#[derive(Debug)]
pub enum Door {
    /// They are accepted.
    Listening(Incoming),
    /// They are dialled.
    Dialling(Dialler),
}

impl Door {
    pub(crate) fn listens(&self) -> bool {
        matches!(self, Self::Listening(_))
    }
}

/// What happened to the crew.
pub(crate) enum Event {
    /// A stream is there: [`Crew::spawn`] its task.
    Came(Box<Stream>),
    /// A stream's task ended.
    Ended(StreamIndex, End),
    /// There are more streams than pay: end this one.
    Retire(StreamIndex),
    /// Time passed.
    Tick,
}

/// How a stream ended.
pub(crate) enum End {
    /// It said goodbye.
    Well,
    /// It is lost; what it had goes to the others.
    Lost,
    /// And the transfer with it.
    Fatal(Error),
}

type Task = (StreamIndex, Result<(), Broken>);

pub(crate) struct Crew {
    door: Door,
    options: Options,
    most: usize,
    offer: Duration,
    width: Width,
    tasks: JoinSet<Task>,
    dials: JoinSet<Result<Stream, Error>>,
    live: BTreeSet<StreamIndex>,
    retiring: BTreeSet<StreamIndex>,
    next_index: u16,
    rounds: u32,
    failing: bool,
    not_before: Instant,
    alone_since: Instant,
    met: bool,
    deaths: usize,
    moved: u64,
    last: Option<Error>,
    sampled: (Instant, u64),
    begun: Instant,
    ticks: Interval,
    /// Nothing is left to move: no more streams than one.
    pub(crate) closing: bool,
}

impl Crew {
    pub(crate) fn new(door: Door, iod: &Iod, options: &Options) -> Self {
        let now = Instant::now();
        let most = usize::from(iod.streams);
        let first = match options.streams {
            Streams::All => most,
            Streams::Adaptive(first) => first,
        };
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            door,
            options: options.clone(),
            most,
            offer: Duration::from_secs(iod.offer.into()),
            width: Width::new(first, most),
            tasks: JoinSet::new(),
            dials: JoinSet::new(),
            live: BTreeSet::new(),
            retiring: BTreeSet::new(),
            next_index: 0,
            rounds: 0,
            failing: false,
            not_before: now,
            alone_since: now,
            met: false,
            deaths: 0,
            moved: 0,
            last: None,
            sampled: (now, 0),
            begun: now,
            ticks,
            closing: false,
        }
    }

    /// The next event. `moved` is how many bytes arrived for good so far.
    ///
    /// # Errors
    /// [`Error::NoStream`] if the transfer has no future.
    pub(crate) async fn next(&mut self, moved: u64) -> Result<Event, Error> {
        loop {
            self.judge(moved)?;
            self.sample(moved);
            self.dial_more();
            if let Some(index) = self.too_many() {
                return Ok(Event::Retire(index));
            }
            let incoming = async {
                match &mut self.door {
                    Door::Listening(incoming) => incoming.stream().await,
                    Door::Dialling(_) => std::future::pending().await,
                }
            };
            tokio::select! {
                stream = incoming => {
                    if self.live.len() < self.most * SURPLUS {
                        return Ok(Event::Came(Box::new(stream)));
                    }
                    tracing::warn!(peer = %stream.peer, "stream dropped: there are as many as agreed");
                }
                Some(dialled) = self.dials.join_next() => {
                    let dialled = dialled.unwrap_or_else(|e| Err(Error::Task(e.to_string())));
                    if let Some(stream) = self.dialled(dialled) {
                        return Ok(Event::Came(Box::new(stream)));
                    }
                }
                Some(ended) = self.tasks.join_next() => {
                    let (index, result) = ended.map_err(|e| Error::Task(e.to_string()))?;
                    return Ok(Event::Ended(index, self.ended(index, result)));
                }
                _ = self.ticks.tick() => return Ok(Event::Tick),
            }
        }
    }

    /// Runs the task of a stream that came.
    pub(crate) fn spawn(
        &mut self,
        index: StreamIndex,
        task: impl Future<Output = Result<(), Broken>> + Send + 'static,
    ) {
        self.met = true;
        self.live.insert(index);
        self.count();
        self.tasks.spawn(async move { (index, task.await) });
    }

    /// Waits until all streams have ended, at most `limit`.
    pub(crate) async fn wind_down(&mut self, limit: Duration) {
        self.dials.abort_all();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(limit, all).await;
        self.tasks.abort_all();
        self.live.clear();
        self.count();
    }

    fn count(&self) {
        let meter = &self.options.meter;
        meter.live.store(self.live.len(), Ordering::Relaxed);
        meter.most.fetch_max(self.live.len(), Ordering::Relaxed);
    }

    fn dialled(&mut self, dialled: Result<Stream, Error>) -> Option<Stream> {
        match dialled {
            Ok(stream) => {
                self.rounds = 0;
                self.failing = false;
                return Some(stream);
            }
            Err(error) => self.last = Some(error),
        }
        // The others of this round come to their end before there is a next one.
        self.failing = !self.dials.is_empty();
        if !self.failing {
            self.rounds += 1;
            let pause = Duration::from_millis(100) * (1 << self.rounds.min(5));
            self.not_before = Instant::now() + pause;
        }
        None
    }

    fn ended(&mut self, index: StreamIndex, result: Result<(), Broken>) -> End {
        self.live.remove(&index);
        self.retiring.remove(&index);
        self.count();
        if self.live.is_empty() {
            self.alone_since = Instant::now();
        }
        match result {
            Ok(()) => End::Well,
            Err(Broken::Transfer(error)) => End::Fatal(error),
            Err(Broken::Stream(error)) => {
                tracing::info!(stream = %index, %error, "stream lost");
                self.options.meter.lost.fetch_add(1, Ordering::Relaxed);
                self.deaths += 1;
                // The first is replaced at once.
                let again = u32::try_from(self.deaths - 1).unwrap_or(u32::MAX).min(10);
                self.not_before = Instant::now() + Duration::from_millis(50) * again;
                self.last = Some(error);
                End::Lost
            }
        }
    }

    fn judge(&mut self, moved: u64) -> Result<(), Error> {
        if moved > self.moved {
            self.moved = moved;
            self.deaths = 0;
        }
        let what = if self.deaths > DEATHS + 2 * self.want() {
            "one after the other died without a byte".to_owned()
        } else if !self.met && self.rounds >= ROUNDS {
            "none could be made".to_owned()
        } else if self.live.is_empty() {
            let patience = match (self.met, self.door.listens()) {
                (false, true) => self.offer,
                _ => self.options.patience,
            };
            if self.alone_since.elapsed() < patience {
                return Ok(());
            }
            format!("none for {patience:?}")
        } else {
            return Ok(());
        };
        let last = self.last.take().map(Box::new);
        Err(Error::NoStream { what, last })
    }

    fn want(&self) -> usize {
        if self.closing {
            1
        } else {
            self.width.streams()
        }
    }

    /// One measure of the rate, if as many streams are up as there should be.
    fn sample(&mut self, moved: u64) {
        let (since, before) = self.sampled;
        let passed = since.elapsed();
        let settled = self.live.len() == self.width.streams() && self.retiring.is_empty();
        if !settled {
            self.sampled = (Instant::now(), moved);
            return;
        }
        if passed < SAMPLE || matches!(self.options.streams, Streams::All) {
            return;
        }
        self.sampled = (Instant::now(), moved);
        // A source that waits for its tape says nothing of streams.
        if moved > before {
            let rate = (moved - before) as f64 / passed.as_secs_f64();
            self.width.measured(rate, self.begun.elapsed());
        }
    }

    fn dial_more(&mut self) {
        let Door::Dialling(dialler) = &self.door else {
            return;
        };
        if self.failing || Instant::now() < self.not_before {
            return;
        }
        while self.live.len() + self.dials.len() < self.want() {
            let index = StreamIndex(self.next_index);
            // Sixty-five thousand streams of one transfer: the listener will not take a number twice.
            self.next_index = self.next_index.wrapping_add(1);
            let dial = dialler.clone().stream(index, self.options.handshake);
            self.dials.spawn(dial);
        }
    }

    fn too_many(&mut self) -> Option<StreamIndex> {
        let staying = self.live.len() - self.retiring.len();
        if self.closing || self.door.listens() || staying <= self.want() {
            return None;
        }
        let index = self.live.difference(&self.retiring).max().copied()?;
        self.retiring.insert(index);
        Some(index)
    }
}
