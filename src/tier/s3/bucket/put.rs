//! Writing one object: parts go to the service while the next one gathers, and nothing on this disk.
//!
//! The order (P2): look whether the name is free; parts, each with its CRC32C, several at once; when all are
//! there, one request makes them an object, only if there is none of that name; where the service does not
//! refuse wrong checksums itself, the object is read back and compared; receipt. One that fits into a part goes
//! in one request.
//!
//! Invariants kept here:
//! - An object is made by one request, whole; before it there is nothing to see. Without `If-None-Match` a name is
//!   looked up right before, and one of this process gives it at a time: that keeps one writer (P9) from overwriting
//!   what is there, not two.
//! - Which put made an object is written in its metadata. So an answer that was lost does no harm: what is there
//!   then is ours, or it is not. Nothing is deleted that another put made.
//! - Memory: one part that gathers for each object, and what [`Service::in_flight`] says for all of them.
//!
//! [`Service::in_flight`]: super::service::Service::in_flight

use super::able::{Able, Multipart};
use super::failure::{Failure, Verdict};
use super::object::{self, Range};
use super::parts::{self, Parts};
use super::place::Place;
use super::upload::{self, Part, Target};
use crate::id::{AggregateId, InstanceId};
use crate::tier::s3::S3Place;
use crate::tier::{Proof, Put, Receipt, TierError};
use bytes::{Bytes, BytesMut};
use cairn_mover::{Crc32c, Crc32cHasher};
use std::future::Future;
use std::io::{self, Write};
use std::sync::Arc;
use tokio::task::JoinSet;

const WRITING: &str = "writing";
const FINISHING: &str = "making an object of the parts";
const PROVING: &str = "reading back";
/// Read back so many bytes at a time.
const STRETCH: u64 = 8 << 20;
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

/// What all requests of one put need.
struct Work {
    place: Arc<Place>,
    able: Arc<Able>,
    name: AggregateId,
    key: String,
    /// Which put it is.
    id: String,
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
}

impl S3Put {
    pub(super) fn start(
        place: &Arc<Place>,
        name: AggregateId,
        size_hint: u64,
    ) -> Result<Self, TierError> {
        const STEP: &str = "starting to write";
        let here = Arc::clone(place);
        let work = place.service.wait(STEP, async move {
            here.enter().await?;
            let able = here.able().await?;
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

    /// All parts are there, and the object is made.
    fn store(&mut self) -> Result<(), TierError> {
        if self.upload.is_some() && !self.gathering.is_empty() {
            self.send()?;
        }
        let work = Arc::clone(&self.work);
        let all = (self.whole.len(), self.whole.sum());
        let service = Arc::clone(&self.work.place.service);
        let Some(upload) = self.upload.clone() else {
            let body = std::mem::take(&mut self.gathering).freeze();
            return service.wait(WRITING, async move { work.put(body, all.1).await });
        };
        let mut sending = std::mem::take(&mut self.sending);
        let mut sent = std::mem::take(&mut self.sent);
        service.wait(FINISHING, async move {
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
            work.complete(&upload, &sent, all).await
        })?;
        if let Some(upload) = self.upload.take() {
            self.work.place.living.end(&upload);
        }
        Ok(())
    }

    /// Forgets what was sent.
    fn give_up(&mut self) {
        let Some(upload) = self.upload.take() else {
            return;
        };
        let work = Arc::clone(&self.work);
        let mut sending = std::mem::take(&mut self.sending);
        let service = Arc::clone(&self.work.place.service);
        let gone = service.wait("giving up", async move {
            // A part that arrives after the abort would stay.
            sending.shutdown().await;
            let service = &work.place.service;
            let gone = service
                .again(|| upload::abort(service, &work.key, &upload))
                .await;
            work.place.living.end(&upload);
            gone.map_err(|f| {
                work.place.living.look_again();
                work.fail(f, "giving up")
            })
        });
        if let Err(error) = gone {
            tracing::warn!(%error, "an upload remains until it is looked for again");
        }
    }
}

fn joined(
    work: &Work,
    done: Result<Result<Part, TierError>, tokio::task::JoinError>,
) -> Result<Part, TierError> {
    done.unwrap_or_else(|_| Err(work.stopped()))
}

impl Work {
    fn fail(&self, failure: Failure, step: &'static str) -> TierError {
        match self.place.fail(failure, step, Some(self.name)) {
            // What is missing while writing is a part of the tier, never the object.
            TierError::Missing { .. } => {
                self.transient(step, "what was sent is not there any more")
            }
            other => other,
        }
    }

    fn transient(&self, step: &'static str, why: &str) -> TierError {
        TierError::Transient {
            tier: self.place.label().to_owned(),
            object: self.name.to_string(),
            step,
            source: io::Error::other(why.to_owned()),
        }
    }

    fn stopped(&self) -> TierError {
        self.transient(WRITING, "the program is stopping")
    }

    fn exists(&self) -> TierError {
        TierError::Exists {
            tier: self.place.label().to_owned(),
            object: self.name,
        }
    }

    /// The class that it goes to after it was proven in the bucket's own.
    fn later(&self) -> Option<&str> {
        archive(&self.place.service.place).filter(|_| is_moved(&self.able))
    }

    fn target(&self) -> Target<'_> {
        let class = self.place.service.place.storage_class.as_deref();
        Target {
            key: &self.key,
            put: &self.id,
            class: class.filter(|_| self.later().is_none()),
            exclusively: self.able.is_conditional(false),
        }
    }

    /// What is under the name, if anything.
    async fn look(&self) -> Result<Option<object::Seen>, Failure> {
        let service = &self.place.service;
        match service.again(|| object::head(service, &self.key)).await {
            Ok(seen) => Ok(Some(seen)),
            Err(failure) if failure.verdict() == Verdict::Missing => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Is what is under the name this put's? `None`: there is nothing.
    async fn is_ours(&self, len: u64, crc: Crc32c) -> Result<Option<bool>, Failure> {
        let seen = self.look().await?;
        Ok(seen.map(|seen| {
            let crc = seen.noted.is_none_or(|noted| noted == upload::hex(crc));
            seen.put.as_deref() == Some(&self.id) && seen.len == len && crc
        }))
    }

    async fn send(&self, upload: &str, number: i32, body: Bytes) -> Result<Part, TierError> {
        let service = &self.place.service;
        let crc = Crc32c::of(&body);
        let at = (self.key.as_str(), upload);
        let send = || {
            upload::part(
                service,
                at,
                number,
                (body.clone(), crc),
                self.able.multipart,
            )
        };
        service.again(send).await.map_err(|f| self.fail(f, WRITING))
    }

    async fn put(&self, body: Bytes, crc: Crc32c) -> Result<(), TierError> {
        let service = &self.place.service;
        let len = body.len() as u64;
        let room = service.room(len).await;
        let _alone = self.place.alone(self.name).await;
        if !self.able.is_conditional(false) {
            self.must_be_free().await?;
        }
        let put = || upload::whole(service, self.target(), body.clone(), crc);
        let done = self.until_known(put, (len, crc), WRITING).await;
        drop(room);
        done
    }

    async fn complete(
        &self,
        upload: &str,
        parts: &[Part],
        all: (u64, Crc32c),
    ) -> Result<(), TierError> {
        let service = &self.place.service;
        let target = Target {
            exclusively: self.able.is_conditional(true),
            ..self.target()
        };
        let _alone = self.place.alone(self.name).await;
        if !target.exclusively {
            self.must_be_free().await?;
        }
        let run = || upload::complete(service, target, upload, parts, all, self.able.multipart);
        self.until_known(run, all, FINISHING).await
    }

    async fn must_be_free(&self) -> Result<(), TierError> {
        match self.look().await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(self.exists()),
            Err(failure) => Err(self.fail(failure, "looking for the name")),
        }
    }

    /// Runs the request that makes the object, until it is known whether it did.
    async fn until_known<F>(
        &self,
        run: impl Fn() -> F,
        (len, crc): (u64, Crc32c),
        step: &'static str,
    ) -> Result<(), TierError>
    where
        F: Future<Output = Result<(), Failure>>,
    {
        let service = &self.place.service;
        let mut tried = 1;
        loop {
            let Err(failure) = run().await else {
                return Ok(());
            };
            let verdict = failure.verdict();
            let taken = matches!(verdict, Verdict::Precondition | Verdict::NoUpload);
            let unsure = failure.passes() || verdict == Verdict::Conflict;
            if taken || unsure {
                match self.is_ours(len, crc).await {
                    Ok(Some(true)) => return Ok(()),
                    Ok(Some(false)) => return Err(self.exists()),
                    // Not there, or it does not say.
                    Ok(None) | Err(_) => {}
                }
            }
            if !unsure || tried == super::service::TRIES {
                return Err(match self.fail(failure, step) {
                    TierError::Exists { .. } => {
                        self.transient(step, "the name was taken, and is free again")
                    }
                    other => other,
                });
            }
            service.pause(tried).await;
            tried += 1;
        }
    }

    /// Reads the object back, twice if need be: bytes may have been damaged on the way here.
    async fn prove(&self, len: u64, sum: Crc32c) -> Result<(), TierError> {
        let mut found = self.read_back(len).await?;
        if found != sum {
            found = self.read_back(len).await?;
        }
        if found == sum {
            return Ok(());
        }
        Err(TierError::Corrupt {
            tier: self.place.label().to_owned(),
            object: self.name,
            expected: sum,
            found,
        })
    }

    async fn read_back(&self, len: u64) -> Result<Crc32c, TierError> {
        let service = &self.place.service;
        let mut hasher = Crc32cHasher::default();
        while hasher.len() < len {
            let (at, count) = (hasher.len(), STRETCH.min(len - hasher.len()));
            let read = service
                .again(|| object::range(service, &self.key, at, count))
                .await;
            match read.map_err(|f| self.fail(f, PROVING))? {
                Range::Bytes(bytes) => hasher.update(&bytes),
                Range::Short(_) => return Ok(hasher.sum()),
            }
        }
        Ok(hasher.sum())
    }

    /// An object without a receipt goes, if it is this put's.
    async fn remove(&self, len: u64, crc: Crc32c) {
        let service = &self.place.service;
        let gone = match self.is_ours(len, crc).await {
            Ok(Some(true)) => service.again(|| object::delete(service, &self.key)).await,
            Ok(_) => Ok(()),
            Err(failure) => Err(failure),
        };
        if let Err(failure) = gone {
            let why = failure.message;
            tracing::error!(tier = service.label, object = %self.name, why, "an object without a receipt remains");
        }
    }

    /// Proves what was stored, and brings it to its class.
    async fn settle(&self, in_parts: bool, len: u64, sum: Crc32c) -> Result<Proof, TierError> {
        let proof = self.able.proof(in_parts);
        if proof == Proof::ReadBack
            && let Err(error) = self.prove(len, sum).await
        {
            self.remove(len, sum).await;
            return Err(error);
        }
        if let Some(class) = self.later() {
            let service = &self.place.service;
            if let Err(failure) = upload::change_class(service, &self.key, class).await {
                self.remove(len, sum).await;
                return Err(self.fail(failure, "moving to its storage class"));
            }
        }
        Ok(proof)
    }
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
        self.store()?;
        let work = Arc::clone(&self.work);
        let service = &self.work.place.service;
        let proof = service.wait(
            PROVING,
            async move { work.settle(in_parts, len, sum).await },
        )?;
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
