//! The sending end: reads blocks from the source as its streams have room for them.
//!
//! Invariants kept here:
//! - the total is said only after the source was asked, behind the last acknowledgement, and had not changed;
//! - a stream that waits for the source or for a limit says that it lives.

use super::crew::{Crew, Door, End, Event};
use super::ends::Source;
use super::error::{AbortCode, Broken, Error};
use super::options::Options;
use super::stream::{Reader, Stream, Writer};
use crate::checksum::Crc32c;
use crate::frame::{CONTROL_MAX, FrameFault, Kind, Total};
use crate::iod::{Direction, Iod};
use crate::range::ByteRange;
use crate::schedule::{Next, Pattern, Schedule, ScheduleFault};
use crate::secret::StreamIndex;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, interval_at, timeout};

/// How long an end waits for the other to close after the last word.
const GRACE: Duration = Duration::from_secs(2);
/// How often a stream that has nothing to send asks whether there is something to take over.
const ASK: Duration = Duration::from_millis(200);

/// A transfer that was sent, and confirmed as durable by the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Bytes of the descriptor's ranges.
    pub bytes: u64,
    /// CRC32C of the ranges, one behind the other: of the object, if they are all of it.
    pub crc: Crc32c,
}

/// Sends the ranges of `iod` from `source` through the streams that come by `door`.
///
/// # Errors
/// [`Error`]; the other end was told, if a stream was left to tell it. [`Error::SourceChanged`] if the source did.
pub async fn send(
    door: Door,
    iod: &Iod,
    source: Arc<dyn Source>,
    options: &Options,
) -> Result<Sent, Error> {
    let way = match door.listens() {
        true => Direction::FromListener,
        false => Direction::ToListener,
    };
    if iod.direction != way {
        return Err(Error::Direction(iod.transfer));
    }
    let pattern = Pattern {
        block: iod.block,
        window: options.window.max(1),
        steal_after: options.steal_after,
    };
    let sending = Arc::new(Sending {
        source,
        schedule: Mutex::new(Schedule::new(&iod.ranges, pattern)),
        wakes: Mutex::default(),
        failed: Mutex::default(),
        driver: Notify::new(),
        begun: Instant::now(),
        options: options.clone(),
    });
    let mut crew = Crew::new(door, iod, options);
    let result = sending.drive(&mut crew).await;
    if let Err(error) = &result {
        *sending.failed.lock() = Some(error.abort());
    }
    sending.wake_all();
    crew.wind_down(GRACE).await;
    result
}

struct Sending {
    source: Arc<dyn Source>,
    schedule: Mutex<Schedule>,
    wakes: Mutex<HashMap<StreamIndex, Arc<Notify>>>,
    /// What every stream is to tell the other end.
    failed: Mutex<Option<(AbortCode, String)>>,
    driver: Notify,
    begun: Instant,
    options: Options,
}

impl Sending {
    async fn drive(self: &Arc<Self>, crew: &mut Crew) -> Result<Sent, Error> {
        // Nothing to move is all acknowledged from the start.
        self.driver.notify_one();
        let mut asked = false;
        loop {
            let moved = self.schedule.lock().moved();
            self.options.meter.moved.store(moved, Ordering::Relaxed);
            let event = tokio::select! {
                event = crew.next(moved) => Some(event?),
                () = self.driver.notified() => None,
            };
            match event {
                Some(Event::Came(stream)) => {
                    let index = stream.index;
                    self.schedule.lock().join(index);
                    crew.spawn(index, Arc::clone(self).stream(*stream));
                }
                Some(Event::Ended(index, end)) => self.ended(index, end)?,
                Some(Event::Retire(index)) => {
                    self.schedule.lock().retire(index);
                    self.wake(index);
                }
                Some(Event::Tick) => {}
                None => {
                    let all = self.schedule.lock().all_acked();
                    if all && !asked {
                        asked = true;
                        self.ask_source().await?;
                        self.schedule.lock().unchanged();
                        self.wake_all();
                    }
                }
            }
            let schedule = self.schedule.lock();
            if schedule.is_done() {
                let Total { bytes, crc } = schedule.sum();
                self.options.meter.moved.store(bytes, Ordering::Relaxed);
                return Ok(Sent { bytes, crc });
            }
        }
    }

    fn ended(&self, index: StreamIndex, end: End) -> Result<(), Error> {
        self.wakes.lock().remove(&index);
        let back = self.schedule.lock().lost(index);
        self.options
            .meter
            .repeated
            .fetch_add(back, Ordering::Relaxed);
        self.wake_all();
        match end {
            End::Well | End::Lost => Ok(()),
            End::Fatal(error) => Err(error),
        }
    }

    /// Is the source what it was?
    async fn ask_source(&self) -> Result<(), Error> {
        let source = Arc::clone(&self.source);
        let asked = tokio::task::spawn_blocking(move || source.unchanged()).await;
        match asked.map_err(|e| Error::Task(e.to_string()))? {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::SourceChanged),
            Err(source) => Err(Error::Source { offset: 0, source }),
        }
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn wake(&self, index: StreamIndex) {
        if let Some(wake) = self.wakes.lock().get(&index) {
            wake.notify_one();
        }
    }

    fn wake_all(&self) {
        self.wakes
            .lock()
            .values()
            .for_each(|wake| wake.notify_one());
    }

    /// A stream's task.
    async fn stream(self: Arc<Self>, stream: Stream) -> Result<(), Broken> {
        let index = stream.index;
        let wake = Arc::new(Notify::new());
        self.wakes.lock().insert(index, Arc::clone(&wake));
        let (mut reader, mut writer) = stream.split(CONTROL_MAX, self.options.freeze);
        let said = {
            let listen = self.listen(index, &mut reader);
            let mut listen = std::pin::pin!(listen);
            let said = tokio::select! {
                heard = &mut listen => return heard,
                said = self.talk(index, &mut writer, &wake) => said,
            };
            match said {
                // The other end may have said why before it closed.
                Err(Broken::Stream(error)) => match timeout(GRACE, listen).await {
                    Ok(Err(Broken::Transfer(why))) => return Err(Broken::Transfer(why)),
                    _ => return Err(Broken::Stream(error)),
                },
                other => other,
            }
        };
        if let Err(Broken::Transfer(error)) = &said {
            // The transfer fails here: the receiver is to hear why, and this may be the only stream.
            let (code, text) = error.abort();
            let _ = timeout(GRACE, writer.abort(code, &text)).await;
        }
        reader.discard(GRACE).await;
        said
    }

    /// What the receiver says.
    async fn listen(&self, index: StreamIndex, reader: &mut Reader) -> Result<(), Broken> {
        loop {
            let header = reader.header().await?;
            match header.kind {
                Kind::Ack => {
                    let now = self.now();
                    let all = {
                        let mut schedule = self.schedule.lock();
                        schedule.acked(index, header.offset, now)?;
                        schedule.all_acked()
                    };
                    self.wake(index);
                    if all {
                        self.driver.notify_one();
                    }
                }
                Kind::Done => {
                    self.schedule.lock().confirmed(index);
                    self.driver.notify_one();
                    self.wake_all();
                }
                Kind::Retire => {
                    self.schedule.lock().retire(index);
                    self.wake(index);
                }
                Kind::Abort => return Err(reader.abort(&header).await),
                Kind::Alive => {}
                Kind::Data | Kind::Finish | Kind::Bye => {
                    let fault = FrameFault::Shape(header.kind as u8);
                    return Err(Broken::frame(index, fault));
                }
            }
        }
    }

    /// What the receiver is told.
    async fn talk(
        &self,
        index: StreamIndex,
        writer: &mut Writer,
        wake: &Notify,
    ) -> Result<(), Broken> {
        let mut buffer = Vec::new();
        let mut quiet_since = Instant::now();
        loop {
            let failed = self.failed.lock().clone();
            if let Some((code, text)) = failed {
                return writer.abort(code, &text).await;
            }
            let next = self.schedule.lock().next(index, self.now());
            match next {
                Next::Send(block) => {
                    self.send_block(index, writer, block, &mut buffer).await?;
                    quiet_since = Instant::now();
                }
                Next::Finish(total) => {
                    let mut payload = total.encode();
                    let crc = Crc32c::of(&payload);
                    writer
                        .frame(Kind::Finish, 0, &mut payload, crc, |_| Ok(()))
                        .await?;
                }
                Next::Close => {
                    writer.bare(Kind::Bye, 0).await?;
                    return writer.close().await;
                }
                Next::Wait => {
                    let _ = timeout(ASK.min(self.options.alive_every()), wake.notified()).await;
                    if quiet_since.elapsed() >= self.options.alive_every() {
                        writer.bare(Kind::Alive, 0).await?;
                        quiet_since = Instant::now();
                    }
                }
            }
        }
    }

    async fn send_block(
        &self,
        index: StreamIndex,
        writer: &mut Writer,
        block: ByteRange,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Broken> {
        for limit in &self.options.limits {
            alive_while(writer, &self.options, limit.pass(block.len())).await?;
        }
        let (source, mut bytes) = (Arc::clone(&self.source), std::mem::take(buffer));
        let read = tokio::task::spawn_blocking(move || {
            // Blocks are at most BLOCK_MAX.
            bytes.resize(block.len() as usize, 0);
            let read = source.read_at(block.start(), &mut bytes);
            read.map(|()| (Crc32c::of(&bytes), bytes))
        });
        let read = alive_while(writer, &self.options, read).await?;
        let (crc, bytes) = match read.map_err(|e| Error::Task(e.to_string()))? {
            Ok(read) => read,
            Err(source) => {
                // A file that was cut has changed, whatever the error says.
                self.ask_source().await?;
                let offset = block.start();
                return Err(Error::Source { offset, source }.into());
            }
        };
        *buffer = bytes;
        let sent = |sequence| {
            let now = self.now();
            let sent = self.schedule.lock().sent(index, sequence, crc, now);
            sent.map_err(|fault| match fault {
                ScheduleFault::TwoContents(_) => Broken::Transfer(Error::SourceChanged),
                ScheduleFault::NotSent(_) => Broken::Transfer(fault.into()),
            })
        };
        let start = block.start();
        writer.frame(Kind::Data, start, buffer, crc, sent).await
    }
}

/// Says that this end lives while `work` takes its time.
async fn alive_while<T>(
    writer: &mut Writer,
    options: &Options,
    work: impl Future<Output = T>,
) -> Result<T, Broken> {
    let every = options.alive_every();
    let mut ticks = interval_at(Instant::now() + every, every);
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            _ = ticks.tick() => writer.bare(Kind::Alive, 0).await?,
        }
    }
}
