//! Writing one object: parts go to the service while the next one gathers, and nothing on this disk.
//!
//! The order (P2): look whether the name is free; parts, each with its CRC32C, several at once; when all are
//! there and the mark was seen again, one request makes them an object, only if there is none of that name; what is
//! there then is looked at; where the service does not refuse wrong checksums itself, or does not say what it found of
//! this very object, it is read back and compared; receipt. One that fits into a part goes in one request.
//!
//! Invariants kept here:
//! - An object is made by one request, whole; before it there is nothing to see. Without `If-None-Match` a name is
//!   looked up right before, and one of this process gives it at a time: that keeps one writer (P9) from overwriting
//!   what is there, not two.
//! - Which put made an object is written in its metadata. So an answer that was lost does no harm: what is there
//!   then is ours, or it is not: that is looked at before anything is asked again. Nothing is deleted that another put
//!   made, and what this one made and could not prove goes, whatever came of it.
//! - Memory: one part that gathers for each object, and what [`Service::in_flight`] says for all of them.
//!
//! [`Service::in_flight`]: super::service::Service::in_flight

mod work;

use super::able::{Able, Multipart};
use super::parts::{self, Parts};
use super::place::Place;
use super::service::{ASK, MAKING, PROBING, SENDING, carrying, within};
use super::upload::{self, Part};
use crate::id::{AggregateId, InstanceId};
use crate::tier::s3::S3Place;
use crate::tier::{Proof, Put, Receipt, TierError};
use bytes::BytesMut;
use cairn_mover::{Crc32c, Crc32cHasher};
use std::io::{self, Write};
use std::sync::Arc;
use tokio::task::JoinSet;
use work::{Stored, Work};

const WRITING: &str = "writing";
const FINISHING: &str = "making an object of the parts";
const PROVING: &str = "reading back";
/// A service copies no longer object at once (S3 API reference, CopyObject).
const COPY_MOST: u64 = 5 << 30;

/// The longest object that there can be, bytes.
pub(super) fn longest(able: &Able, place: &S3Place) -> u64 {
    let most = match able.multipart {
        Multipart::None => parts::LARGEST * place.part_size,
        Multipart::Plain | Multipart::Composite | Multipart::FullObject => {
            parts::longest(place.part_size)
        }
    };
    let is_moved = archive(place).is_some() && is_moved(able);
    if is_moved { most.min(COPY_MOST) } else { most }
}

/// The class asked for, where what is in it cannot be read at once.
fn archive(place: &S3Place) -> Option<&str> {
    let class = place.storage_class.as_deref();
    class.filter(|class| matches!(*class, "GLACIER" | "DEEP_ARCHIVE"))
}

/// What goes to such a class cannot be read back there: it is proven before.
fn is_moved(able: &Able) -> bool {
    [false, true]
        .into_iter()
        .any(|in_parts| able.proof(in_parts) == Proof::ReadBack)
}

/// An object being written.
pub(super) struct S3Put {
    work: Arc<Work>,
    parts: Parts,
    /// The part that gathers.
    gathering: BytesMut,
    whole: Crc32cHasher,
    /// Parts that are full, or were sent.
    count: u32,
    upload: Option<String>,
    sending: JoinSet<Result<Part, TierError>>,
    sent: Vec<Part>,
    broken: bool,
    /// The request that makes the object was sent, and it has no receipt.
    unproven: bool,
}

impl S3Put {
    pub(super) fn start(
        place: &Arc<Place>,
        name: AggregateId,
        size_hint: u64,
    ) -> Result<Self, TierError> {
        const STEP: &str = "starting to write";
        let here = Arc::clone(place);
        // Rarely more than a look at what is known; when something is tried out, more.
        let able = place
            .service
            .ask(STEP, PROBING, async move { here.able().await })?;
        let here = Arc::clone(place);
        let work = place.service.ask(STEP, ASK, async move {
            here.enter().await?;
            let work = Work {
                key: here.service.keys.object(name),
                place: here,
                able,
                name,
                id: InstanceId::random().to_string(),
            };
            match work.look().await {
                Ok(None) => Ok(work),
                Ok(Some(_)) => Err(work.exists()),
                Err(failure) => Err(work.fail(failure, STEP)),
            }
        })?;
        super::sweep::notice(place, name.epoch);
        Ok(Self {
            work: Arc::new(work),
            parts: Parts::plan(place.service.place.part_size, size_hint),
            gathering: BytesMut::new(),
            whole: Crc32cHasher::default(),
            count: 0,
            upload: None,
            sending: JoinSet::new(),
            sent: Vec::new(),
            broken: false,
            unproven: false,
        })
    }

    /// Bytes that the part which gathers takes in all.
    fn room(&self) -> u64 {
        if self.work.able.multipart == Multipart::None {
            parts::LARGEST * self.work.place.service.place.part_size
        } else {
            self.parts.len(self.count + 1)
        }
    }

    fn gather(&mut self, mut bytes: &[u8]) -> Result<(), TierError> {
        while !bytes.is_empty() {
            let room = self.room().saturating_sub(self.gathering.len() as u64);
            if room == 0 {
                self.send()?;
                continue;
            }
            let count = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            let (now, later) = bytes.split_at(count);
            self.gathering.extend_from_slice(now);
            self.whole.update(now);
            bytes = later;
        }
        Ok(())
    }

    /// Sends the part that gathered, and waits only for room to do so.
    fn send(&mut self) -> Result<(), TierError> {
        if self.work.able.multipart == Multipart::None || self.count == parts::PARTS {
            return Err(TierError::Full {
                tier: self.work.place.label().to_owned(),
                step: WRITING,
                why: "the object is longer than the service takes".to_owned(),
            });
        }
        while let Some(done) = self.sending.try_join_next() {
            self.sent.push(joined(&self.work, done)?);
        }
        let upload = self.begin()?;
        self.count += 1;
        let number = i32::try_from(self.count).unwrap_or(i32::MAX);
        let body = std::mem::take(&mut self.gathering).freeze();
        let (work, service) = (Arc::clone(&self.work), Arc::clone(&self.work.place.service));
        let len = body.len() as u64;
        let asked = Arc::clone(&service);
        let room = service.wait(WRITING, async move { Ok(asked.room(len).await) })?;
        let task = async move {
            let _room = room;
            work.send(&upload, number, body).await
        };
        match service.handle() {
            Some(handle) => drop(self.sending.spawn_on(task, handle)),
            None => return Err(self.work.stopped()),
        }
        Ok(())
    }

    /// The upload, begun if it is not.
    fn begin(&mut self) -> Result<String, TierError> {
        if let Some(upload) = &self.upload {
            return Ok(upload.clone());
        }
        let work = Arc::clone(&self.work);
        let service = &self.work.place.service;
        let id = service.wait(WRITING, async move {
            let service = &work.place.service;
            let create = || upload::create(service, work.target(), work.able.multipart);
            let id = service.again(create).await;
            let id = id.map_err(|f| work.fail(f, WRITING))?;
            work.place.living.begin(&id);
            Ok(id)
        })?;
        self.upload = Some(id.clone());
        Ok(id)
    }

    /// All parts are there, and the object is made; did the service say each sum that it found?
    fn store(&mut self) -> Result<Stored, TierError> {
        if self.upload.is_some() && !self.gathering.is_empty() {
            self.send()?;
        }
        let work = Arc::clone(&self.work);
        let all = (self.whole.len(), self.whole.sum());
        let service = Arc::clone(&self.work.place.service);
        self.unproven = true;
        let Some(upload) = self.upload.clone() else {
            let body = std::mem::take(&mut self.gathering).freeze();
            let span = SENDING + carrying(all.0) * 2;
            return service.ask(WRITING, span, async move { work.put(body, all.1).await });
        };
        let mut sending = std::mem::take(&mut self.sending);
        let mut sent = std::mem::take(&mut self.sent);
        let span = MAKING + carrying(all.0);
        let stored = service.wait(FINISHING, async move {
            while let Some(done) = sending.join_next().await {
                match joined(&work, done) {
                    Ok(part) => sent.push(part),
                    Err(error) => {
                        sending.shutdown().await;
                        return Err(error);
                    }
                }
            }
            sent.sort_unstable_by_key(|part| part.number);
            within(span, work.complete(&upload, &sent, all)).await
        })?;
        if let Some(upload) = self.upload.take() {
            self.work.place.living.end(&upload);
        }
        Ok(stored)
    }

    /// Forgets what was sent, and what was made of it without a receipt. Nobody waits for that.
    fn give_up(&mut self) {
        let upload = self.upload.take();
        if upload.is_none() && !self.unproven {
            return;
        }
        let work = Arc::clone(&self.work);
        let (mut sending, unproven) = (std::mem::take(&mut self.sending), self.unproven);
        let forget = async move {
            // A part that arrives after the abort would stay.
            sending.shutdown().await;
            if let Some(upload) = upload {
                work.forget(&upload).await;
            }
            if unproven {
                work.remove().await;
            }
        };
        // Without its threads the program is at its end, and the next life looks for what is left.
        if let Some(handle) = self.work.place.service.handle() {
            handle.spawn(within(MAKING, forget));
        }
    }
}

fn joined(
    work: &Work,
    done: Result<Result<Part, TierError>, tokio::task::JoinError>,
) -> Result<Part, TierError> {
    done.unwrap_or_else(|_| Err(work.stopped()))
}

impl Write for S3Put {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.broken {
            return Err(io::Error::other("an earlier write of this object failed"));
        }
        match self.gather(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                self.broken = true;
                Err(error.into())
            }
        }
    }

    /// Nothing to do: only `finish` makes bytes durable.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Put for S3Put {
    fn finish(mut self: Box<Self>, sum: Crc32c) -> Result<Receipt, TierError> {
        if self.broken {
            return Err(self.work.transient(WRITING, "an earlier write failed"));
        }
        let (len, found) = (self.whole.len(), self.whole.sum());
        if found != sum {
            // Not what the caller meant to write: nothing of it is to be seen.
            return Err(TierError::Corrupt {
                tier: self.work.place.label().to_owned(),
                object: self.work.name,
                expected: sum,
                found,
            });
        }
        let in_parts = self.upload.is_some();
        let stored = self.store()?;
        let work = Arc::clone(&self.work);
        let service = &self.work.place.service;
        let span = MAKING + carrying(len) * 2;
        let proof = service.ask(PROVING, span, async move {
            let settled = work.settle(in_parts, (len, sum), stored).await;
            if settled.is_err() {
                work.remove().await;
            }
            settled
        })?;
        self.unproven = false;
        Ok(Receipt {
            aggregate: self.work.name,
            len,
            crc: sum,
            proof,
        })
    }

    fn abandon(self: Box<Self>) {}
}

impl Drop for S3Put {
    fn drop(&mut self) {
        self.give_up();
    }
}
