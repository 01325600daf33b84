//! The receiving end: takes blocks as they come, and writes each once.
//!
//! Invariants kept here:
//! - a block is acknowledged after it was written, also when it came twice;
//! - a write that was begun is counted when it ends, or fails the transfer, even if its stream died meanwhile;
//! - `Done` is said after the total agreed and the sink was synchronised;
//! - progress is kept only after what is in it was synchronised; none is, if the source changed.

use super::crew::{Crew, Door, End, Event};
use super::ends::Sink;
use super::error::{AbortCode, Broken, Error, Failed};
use super::options::Options;
use super::stream::{Reader, Stream, Writer};
use crate::arrival::{Arrival, Claim};
use crate::checksum::Crc32c;
use crate::frame::{FrameFault, Header, Kind, Total};
use crate::iod::{Direction, Iod};
use crate::progress::Progress;
use crate::range::ByteRange;
use crate::secret::StreamIndex;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// How long an end waits for the other to close after the last word.
const GRACE: Duration = Duration::from_secs(2);

/// A transfer that was received: all of its ranges are written and synchronised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Bytes that this transfer moved.
    pub bytes: u64,
    /// What is there now. Not all of the object, if the descriptor did not ask for all that was missing.
    pub progress: Progress,
    /// CRC32C of the whole object, once all of it is there.
    pub crc: Option<Crc32c>,
}

/// Receives the ranges of `iod` into `sink` through the streams that come by `door`. `progress` is what is there
/// already; the descriptor's ranges are of what it lacks.
///
/// # Errors
/// [`Failed`] has the reason, and the progress to resume from.
pub async fn receive(
    door: Door,
    iod: &Iod,
    sink: Arc<dyn Sink>,
    progress: Progress,
    options: &Options,
) -> Result<Received, Failed> {
    let way = match door.listens() {
        true => Direction::ToListener,
        false => Direction::FromListener,
    };
    let kept = progress.clone();
    let fail = |error| Failed {
        error,
        progress: kept.clone(),
    };
    if iod.direction != way {
        return Err(fail(Error::Direction(iod.transfer)));
    }
    let fits = progress.resume(&iod.version, iod.size);
    let fits = fits.and_then(|p| p.lacks(&iod.ranges).map(|()| p));
    let progress = fits.map_err(|fault| fail(fault.into()))?;
    let receiving = Arc::new(Receiving {
        sink,
        arrival: Mutex::new(Arrival::new(&iod.ranges, iod.block, progress)),
        replies: Mutex::default(),
        asking: Mutex::default(),
        done: AtomicBool::new(false),
        failed: Mutex::default(),
        written: Notify::new(),
        writers: Arc::new(Semaphore::new(options.writers.max(1))),
        driver: Notify::new(),
        options: options.clone(),
        block: iod.block,
    });
    let mut crew = Crew::new(door, iod, options);
    let mut kept = Kept::new(kept);
    let result = receiving.drive(&mut crew, &mut kept).await;
    if let Err(error) = &result {
        receiving.reply_all(|reply| reply.abort = Some(error.abort()));
    }
    crew.wind_down(GRACE).await;
    kept.settle().await;
    match result {
        Ok(()) => Ok(receiving.received()),
        Err(error) => {
            let progress = receiving.rescue(&error, iod, kept).await;
            Err(Failed { error, progress })
        }
    }
}

/// What a stream is to tell the sender.
#[derive(Debug, Default)]
struct Reply {
    acked: Option<u64>,
    retire: bool,
    done: bool,
    abort: Option<(AbortCode, String)>,
}

#[derive(Debug, Default)]
struct Replies {
    reply: Mutex<Reply>,
    wake: Notify,
}

impl Replies {
    fn say(&self, what: impl FnOnce(&mut Reply)) {
        what(&mut self.reply.lock());
        self.wake.notify_one();
    }
}

/// What was kept durably, and the keeping that is under way.
struct Kept {
    progress: Progress,
    moved: u64,
    tasks: JoinSet<Result<Progress, Error>>,
}

impl Kept {
    fn new(progress: Progress) -> Self {
        Self {
            progress,
            moved: 0,
            tasks: JoinSet::new(),
        }
    }

    /// A keeping that ended; pending for ever if none is under way.
    async fn ended(&mut self) -> Result<(), Error> {
        match self.tasks.join_next().await {
            Some(ended) => {
                self.progress = ended.map_err(|e| Error::Task(e.to_string()))??;
                Ok(())
            }
            None => std::future::pending().await,
        }
    }

    /// Waits for the keeping that is under way.
    async fn settle(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Ok(Ok(progress)) = ended {
                self.progress = progress;
            }
        }
    }
}

struct Receiving {
    sink: Arc<dyn Sink>,
    arrival: Mutex<Arrival>,
    replies: Mutex<HashMap<StreamIndex, Arc<Replies>>>,
    /// The streams that said the total, and wait for `Done`.
    asking: Mutex<Vec<StreamIndex>>,
    done: AtomicBool,
    /// What a write failed with.
    failed: Mutex<Option<Error>>,
    written: Notify,
    writers: Arc<Semaphore>,
    driver: Notify,
    options: Options,
    block: u32,
}

impl Receiving {
    async fn drive(self: &Arc<Self>, crew: &mut Crew, kept: &mut Kept) -> Result<(), Error> {
        let mut until: Option<Instant> = None;
        loop {
            let moved = self.arrival.lock().moved();
            self.options.meter.moved.store(moved, Ordering::Relaxed);
            let event = tokio::select! {
                event = crew.next(moved) => match event {
                    Ok(event) => Some(event),
                    // It is all here; that nobody is left to be told is the sender's trouble.
                    Err(_) if until.is_some() => return Ok(()),
                    Err(error) => return Err(error),
                },
                () = self.driver.notified() => None,
                ended = kept.ended() => { ended?; None }
            };
            match event {
                Some(Event::Came(stream)) => {
                    crew.spawn(stream.index, Arc::clone(self).stream(*stream))
                }
                Some(Event::Retire(index)) => self.reply(index, |reply| reply.retire = true),
                Some(Event::Tick) | None => {}
                Some(Event::Ended(index, end)) => {
                    self.replies.lock().remove(&index);
                    match end {
                        End::Well if until.is_some() => return Ok(()),
                        End::Fatal(_) if until.is_some() => return Ok(()),
                        End::Fatal(error) => return Err(error),
                        End::Well | End::Lost => {}
                    }
                }
            }
            if let Some(error) = self.failed.lock().take() {
                return Err(error);
            }
            if until.is_none() && self.arrival.lock().is_complete() {
                kept.settle().await;
                self.keep().await?;
                self.done.store(true, Ordering::Release);
                crew.closing = true;
                until = Some(Instant::now() + GRACE.max(self.options.freeze));
            }
            if self.done.load(Ordering::Acquire) {
                let asking = std::mem::take(&mut *self.asking.lock());
                asking
                    .into_iter()
                    .for_each(|i| self.reply(i, |reply| reply.done = true));
            } else if moved - kept.moved >= self.options.keep_every && kept.tasks.is_empty() {
                kept.moved = moved;
                let receiving = Arc::clone(self);
                kept.tasks.spawn(async move { receiving.keep().await });
            }
            if until.is_some_and(|until| Instant::now() > until) {
                return Ok(());
            }
        }
    }

    /// Synchronises what is written, then keeps the progress that it covers.
    async fn keep(&self) -> Result<Progress, Error> {
        let progress = self.arrival.lock().progress().clone();
        let sink = Arc::clone(&self.sink);
        let kept = tokio::task::spawn_blocking(move || {
            let failed = |step| {
                move |source| Error::Sink {
                    step,
                    offset: None,
                    source,
                }
            };
            sink.sync().map_err(failed("synchronise"))?;
            sink.keep(&progress)
                .map_err(failed("keep the progress of"))?;
            Ok(progress)
        });
        kept.await.map_err(|e| Error::Task(e.to_string()))?
    }

    /// After a failure: what can be resumed from.
    async fn rescue(&self, error: &Error, iod: &Iod, kept: Kept) -> Progress {
        if matches!(error, Error::SourceChanged | Error::Arrival(_)) {
            let nothing = Progress::new(&iod.version, iod.size);
            let (sink, forgotten) = (Arc::clone(&self.sink), nothing.clone());
            let keep = tokio::task::spawn_blocking(move || sink.keep(&forgotten)).await;
            if !matches!(keep, Ok(Ok(()))) {
                tracing::warn!(transfer = %iod.transfer, "progress that may not be used could not be taken back");
            }
            return nothing;
        }
        match self.keep().await {
            Ok(progress) => progress,
            Err(error) => {
                tracing::warn!(transfer = %iod.transfer, %error, "progress since the last time is lost");
                kept.progress
            }
        }
    }

    fn received(&self) -> Received {
        let arrival = self.arrival.lock();
        self.options
            .meter
            .moved
            .store(arrival.moved(), Ordering::Relaxed);
        Received {
            bytes: arrival.moved(),
            progress: arrival.progress().clone(),
            crc: arrival.progress().crc(),
        }
    }

    fn reply(&self, index: StreamIndex, what: impl FnOnce(&mut Reply)) {
        if let Some(replies) = self.replies.lock().get(&index) {
            replies.say(what);
        }
    }

    fn reply_all(&self, what: impl Fn(&mut Reply)) {
        self.replies.lock().values().for_each(|r| r.say(&what));
    }

    /// A stream's task.
    async fn stream(self: Arc<Self>, stream: Stream) -> Result<(), Broken> {
        let index = stream.index;
        let replies = Arc::new(Replies::default());
        self.replies.lock().insert(index, Arc::clone(&replies));
        let (mut reader, mut writer) = stream.split(self.block, self.options.freeze);
        let heard = {
            let talk = self.talk(&mut writer, &replies);
            let mut talk = std::pin::pin!(talk);
            let heard = tokio::select! {
                heard = self.listen(index, &mut reader, &replies) => heard,
                said = &mut talk => said,
            };
            match &heard {
                // Whoever gave up knows why.
                Err(Broken::Transfer(Error::Peer { .. } | Error::SourceChanged)) => return heard,
                Err(Broken::Transfer(error)) => {
                    replies.say(|reply| reply.abort = Some(error.abort()));
                    let _ = timeout(GRACE, talk).await;
                }
                Err(Broken::Stream(_)) => return heard,
                Ok(()) => {}
            }
            heard
        };
        reader.discard(GRACE).await;
        heard
    }

    /// What the sender says.
    async fn listen(
        self: &Arc<Self>,
        index: StreamIndex,
        reader: &mut Reader,
        replies: &Replies,
    ) -> Result<(), Broken> {
        let mut buffer = Vec::new();
        loop {
            let header = reader.header().await?;
            match header.kind {
                Kind::Data => {
                    self.take(&header, reader, &mut buffer).await?;
                    replies.say(|reply| reply.acked = Some(header.sequence));
                }
                Kind::Finish => {
                    reader.payload(&header, &mut buffer).await?;
                    let total = Total::decode(&buffer);
                    let total = total.map_err(|fault| Broken::frame(index, fault))?;
                    self.arrival.lock().finish(total)?;
                    self.asking.lock().push(index);
                    self.driver.notify_one();
                }
                Kind::Bye => return Ok(()),
                Kind::Abort => return Err(reader.abort(&header).await),
                Kind::Alive => {}
                Kind::Ack | Kind::Done | Kind::Retire => {
                    let fault = FrameFault::Shape(header.kind as u8);
                    return Err(Broken::frame(index, fault));
                }
            }
        }
    }

    /// One block: is it of the plan, is it whole, and was it here before?
    async fn take(
        self: &Arc<Self>,
        header: &Header,
        reader: &mut Reader,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Broken> {
        let block = self.arrival.lock().expects(header.range())?;
        let crc = reader.payload(header, buffer).await?;
        for limit in &self.options.limits {
            limit.pass(block.len()).await;
        }
        let mut first = true;
        loop {
            // Asked for before the claim, so that no write ends unnoticed in between.
            let written = self.written.notified();
            // And so is the permit: a block that is claimed is written, whatever becomes of this task.
            let permit = Arc::clone(&self.writers).acquire_owned().await;
            let permit = permit.map_err(|e| Error::Task(e.to_string()))?;
            let claim = self.arrival.lock().claim(block);
            if claim == Claim::Write {
                return self.write(block, crc, buffer, permit).await;
            }
            drop(permit);
            if first {
                let meter = &self.options.meter.repeated;
                meter.fetch_add(block.len(), Ordering::Relaxed);
                first = false;
            }
            if claim == Claim::Written {
                return Ok(());
            }
            written.await;
        }
    }

    async fn write(
        self: &Arc<Self>,
        block: ByteRange,
        crc: Crc32c,
        buffer: &mut Vec<u8>,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), Broken> {
        let (this, bytes) = (Arc::clone(self), std::mem::take(buffer));
        // All that follows from the write is done on its thread: this task may be gone when it ends.
        let written = tokio::task::spawn_blocking(move || {
            let written = this.sink.write_at(block.start(), &bytes);
            drop(permit);
            match written {
                Ok(()) => this.arrival.lock().written(block, crc),
                Err(source) => {
                    let (step, offset) = ("write", Some(block.start()));
                    let error = Error::Sink {
                        step,
                        offset,
                        source,
                    };
                    this.failed.lock().get_or_insert(error);
                    this.driver.notify_one();
                    return None;
                }
            }
            this.written.notify_waiters();
            Some(bytes)
        });
        match written.await.map_err(|e| Error::Task(e.to_string()))? {
            Some(bytes) => *buffer = bytes,
            // The driver ends this task, after the sender was told.
            None => std::future::pending().await,
        }
        Ok(())
    }

    /// What the sender is told.
    async fn talk(&self, writer: &mut Writer, replies: &Replies) -> Result<(), Broken> {
        loop {
            let reply = std::mem::take(&mut *replies.reply.lock());
            if let Some((code, text)) = reply.abort {
                return writer.abort(code, &text).await;
            }
            let quiet = reply.acked.is_none() && !reply.retire && !reply.done;
            if let Some(sequence) = reply.acked {
                writer.bare(Kind::Ack, sequence).await?;
            }
            if reply.retire {
                writer.bare(Kind::Retire, 0).await?;
            }
            if reply.done {
                writer.bare(Kind::Done, 0).await?;
            }
            if quiet {
                let woken = timeout(self.options.alive_every(), replies.wake.notified()).await;
                if woken.is_err() {
                    writer.bare(Kind::Alive, 0).await?;
                }
            }
        }
    }
}
