//! What one put asks of the service, request by request, and what it makes of the answers. What the order is and
//! which invariants it keeps: `put.rs`.

use super::{FINISHING, PROVING, WRITING, archive, is_moved};
use crate::id::AggregateId;
use crate::tier::s3::bucket::able::Able;
use crate::tier::s3::bucket::failure::{Failure, Verb, Verdict};
use crate::tier::s3::bucket::object::{self, Range};
use crate::tier::s3::bucket::place::Place;
use crate::tier::s3::bucket::service::{MAKING, SENDING, TRIES, carrying, may_wait};
use crate::tier::s3::bucket::upload::{self, Echo, Part, Target};
use crate::tier::{Proof, TierError};
use bytes::Bytes;
use cairn_mover::{Crc32c, Crc32cHasher};
use std::future::Future;
use std::io;
use std::sync::Arc;

/// Read back so many bytes at a time.
const STRETCH: u64 = 4 << 20;

/// What all requests of one put need.
pub(super) struct Work {
    pub(super) place: Arc<Place>,
    pub(super) able: Arc<Able>,
    pub(super) name: AggregateId,
    pub(super) key: String,
    /// Which put it is.
    pub(super) id: String,
}

/// What is under a name.
enum There {
    Nothing,
    /// This put made it.
    Ours(object::Seen),
    /// Somebody else did.
    Others,
}

/// What is known of an object that was made.
pub(super) struct Stored {
    /// The service said of all that was sent that it found the sum which was sent with it.
    echoed: bool,
    /// What it may say of the whole.
    sums: Vec<String>,
}

impl Work {
    pub(super) fn fail(&self, failure: Failure, step: &'static str) -> TierError {
        match self.place.fail(failure, step, Some(self.name)) {
            // What is missing while writing is a part of the tier, never the object.
            TierError::Missing { .. } => {
                self.transient(step, "what was sent is not there any more")
            }
            other => other,
        }
    }

    pub(super) fn transient(&self, step: &'static str, why: &str) -> TierError {
        TierError::Transient {
            tier: self.place.label().to_owned(),
            object: self.name.to_string(),
            step,
            source: io::Error::other(why.to_owned()),
        }
    }

    pub(super) fn stopped(&self) -> TierError {
        self.transient(WRITING, "the program is stopping")
    }

    pub(super) fn exists(&self) -> TierError {
        TierError::Exists {
            tier: self.place.label().to_owned(),
            object: self.name,
        }
    }

    /// The class that it goes to after it was proven in the bucket's own.
    fn later(&self) -> Option<&str> {
        archive(&self.place.service.place).filter(|_| is_moved(&self.able))
    }

    pub(super) fn target(&self) -> Target<'_> {
        let class = self.place.service.place.storage_class.as_deref();
        Target {
            key: &self.key,
            put: &self.id,
            class: class.filter(|_| self.later().is_none()),
            exclusively: self.able.is_conditional(false),
        }
    }

    /// What is under the name, if anything.
    pub(super) async fn look(&self) -> Result<Option<object::Seen>, Failure> {
        let service = &self.place.service;
        match service.again(|| object::head(service, &self.key)).await {
            Ok(seen) => Ok(Some(seen)),
            Err(failure) if failure.verdict() == Verdict::Missing => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Whose is what is under the name?
    async fn whose(&self) -> Result<There, Failure> {
        Ok(match self.look().await? {
            None => There::Nothing,
            Some(seen) if seen.put.as_deref() == Some(&self.id) => There::Ours(seen),
            Some(_) => There::Others,
        })
    }

    pub(super) async fn send(
        &self,
        upload: &str,
        number: i32,
        body: Bytes,
    ) -> Result<Part, TierError> {
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
        let span = SENDING + carrying(body.len() as u64);
        let sent = service.again_within(span, send).await;
        sent.map_err(|f| self.fail(f, WRITING))
    }

    pub(super) async fn put(&self, body: Bytes, crc: Crc32c) -> Result<Stored, TierError> {
        let service = &self.place.service;
        let len = body.len() as u64;
        let room = service.room(len).await;
        let _alone = self.place.alone(self.name).await;
        self.place.enter().await?;
        if !self.able.is_conditional(false) {
            self.must_be_free().await?;
        }
        let put = || upload::whole(service, self.target(), body.clone(), crc);
        let done = self.until_known(put, (len, crc), WRITING).await;
        drop(room);
        Ok(Stored {
            echoed: done?.flatten() == Some(Echo),
            sums: vec![upload::base64(crc)],
        })
    }

    pub(super) async fn complete(
        &self,
        upload: &str,
        parts: &[Part],
        all: (u64, Crc32c),
    ) -> Result<Stored, TierError> {
        let service = &self.place.service;
        let target = Target {
            exclusively: self.able.is_conditional(true),
            ..self.target()
        };
        let _alone = self.place.alone(self.name).await;
        self.place.enter().await?;
        if !target.exclusively {
            self.must_be_free().await?;
        }
        let run = || upload::complete(service, target, upload, parts, all, self.able.multipart);
        self.until_known(run, all, FINISHING).await?;
        Ok(Stored {
            echoed: parts.iter().all(|part| part.echoed),
            sums: vec![upload::base64(all.1), upload::composite(parts)],
        })
    }

    async fn must_be_free(&self) -> Result<(), TierError> {
        match self.look().await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(self.exists()),
            Err(failure) => Err(self.fail(failure, "looking for the name")),
        }
    }

    /// Runs the request that makes the object, until it is known whether it did; what it said, unless that was lost. It
    /// is not asked for again before it was looked for.
    async fn until_known<T, F>(
        &self,
        run: impl Fn() -> F,
        all: (u64, Crc32c),
        step: &'static str,
    ) -> Result<Option<T>, TierError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let service = &self.place.service;
        let mut looks_only = false;
        for tried in 1..=TRIES {
            let failure = match looks_only {
                true => None,
                false => match run().await {
                    Ok(said) => return Ok(Some(said)),
                    Err(failure) => Some(failure),
                },
            };
            let verdict = failure.as_ref().map(Failure::verdict);
            let taken = matches!(verdict, Some(Verdict::Precondition | Verdict::NoUpload));
            let unsure =
                failure.as_ref().is_none_or(Failure::passes) || verdict == Some(Verdict::Conflict);
            if unsure {
                // It may be at it still.
                service.pause(tried).await;
            }
            looks_only = false;
            if taken || unsure {
                match self.whose().await {
                    Ok(There::Ours(seen)) => return self.is_whole(&seen, all).map(|()| None),
                    Ok(There::Others) => return Err(self.exists()),
                    Ok(There::Nothing) => {}
                    Err(_) => looks_only = true,
                }
            }
            if let Some(failure) = failure
                && (!unsure || tried == TRIES || !may_wait(tried))
            {
                return Err(match self.fail(failure, step) {
                    TierError::Exists { .. } => {
                        self.transient(step, "the name was taken, and is free again")
                    }
                    other => other,
                });
            }
        }
        Err(self.transient(step, "whether it was made could not be found out"))
    }

    /// What this put made is as long as what it sent, and was sent as that. If not, it goes with the put.
    fn is_whole(&self, seen: &object::Seen, (len, crc): (u64, Crc32c)) -> Result<(), TierError> {
        let noted = seen.noted.as_deref();
        if seen.len == len && noted.is_none_or(|noted| noted == upload::hex(crc)) {
            return Ok(());
        }
        let why = format!("{len} bytes were sent, and {} are there", seen.len);
        Err(self.transient(FINISHING, &why))
    }

    /// What is there now must be what this put made, whole.
    async fn look_at_it(&self, all: (u64, Crc32c)) -> Result<object::Seen, TierError> {
        match self.whose().await {
            Ok(There::Ours(seen)) => self.is_whole(&seen, all).map(|()| seen),
            Ok(There::Others) => Err(self.exists()),
            Ok(There::Nothing) => {
                Err(self.transient(FINISHING, "it was said to be made, and is not there"))
            }
            Err(failure) => Err(self.fail(failure, "looking at what was made")),
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

    /// Reads it in three lanes, as one request at a time leaves a service idle in between.
    async fn read_back(&self, len: u64) -> Result<Crc32c, TierError> {
        let lane = len.div_ceil(3).max(STRETCH);
        let ends = [lane.min(len), (2 * lane).min(len), len];
        let lanes = tokio::join!(
            self.read_lane(0, ends[0]),
            self.read_lane(ends[0], ends[1]),
            self.read_lane(ends[1], ends[2]),
        );
        let (one, two, three) = (lanes.0?, lanes.1?, lanes.2?);
        Ok(one
            .then(two, ends[1] - ends[0])
            .then(three, ends[2] - ends[1]))
    }

    async fn read_lane(&self, from: u64, to: u64) -> Result<Crc32c, TierError> {
        let service = &self.place.service;
        let mut hasher = Crc32cHasher::default();
        while from + hasher.len() < to {
            let at = from + hasher.len();
            let read = service
                .again(|| object::range(service, &self.key, at, STRETCH.min(to - at)))
                .await;
            match read.map_err(|f| self.fail(f, PROVING))? {
                Range::Bytes(bytes) => hasher.update(&bytes),
                Range::Short(_) => return Ok(hasher.sum()),
            }
        }
        Ok(hasher.sum())
    }

    /// An object without a receipt goes, if it is this put's: whatever it is.
    pub(super) async fn remove(&self) {
        let service = &self.place.service;
        let gone = match self.whose().await {
            Ok(There::Ours(_)) => service.again(|| object::delete(service, &self.key)).await,
            Ok(There::Nothing | There::Others) => Ok(()),
            Err(failure) => Err(failure),
        };
        if let Err(failure) = gone {
            let why = failure.message;
            tracing::error!(tier = service.label, object = %self.name, why, "an object without a receipt remains");
        }
    }

    /// Aborts an upload.
    pub(super) async fn forget(&self, upload: &str) {
        let (service, living) = (&self.place.service, &self.place.living);
        let gone = service.again(|| upload::abort(service, &self.key, upload));
        let gone = gone.await;
        living.end(upload);
        if let Err(failure) = gone {
            living.look_again();
            let why = failure.message;
            tracing::warn!(tier = service.label, object = %self.name, why, "an upload remains until it is looked for again");
        }
    }

    /// Proves what was stored, and brings it to its class.
    pub(super) async fn settle(
        &self,
        in_parts: bool,
        all: (u64, Crc32c),
        stored: Stored,
    ) -> Result<Proof, TierError> {
        let checks = self.able.proof(in_parts) == Proof::ServiceChecksum;
        let mut echoed = stored.echoed;
        // Of one that was made in one request its answer is of the whole.
        if in_parts || !echoed {
            let seen = self.look_at_it(all).await?;
            echoed |= seen.crc.is_some_and(|crc| stored.sums.contains(&crc));
        }
        let proof = if checks && echoed {
            Proof::ServiceChecksum
        } else {
            self.prove(all.0, all.1).await?;
            Proof::ReadBack
        };
        if let Some(class) = self.later() {
            self.move_to(class, all, &stored.sums).await?;
        }
        Ok(proof)
    }

    /// Moves the object to its class. What is there afterwards must be it: the answer alone proves nothing.
    async fn move_to(
        &self,
        class: &str,
        all: (u64, Crc32c),
        sums: &[String],
    ) -> Result<(), TierError> {
        const STEP: &str = "moving to its storage class";
        let service = &self.place.service;
        let run = || async {
            let done = upload::change_class(service, &self.key, class).await;
            // If its answer was lost, it is there by now, and cannot be copied again.
            match (done, object::head(service, &self.key).await) {
                (_, Ok(seen)) if seen.class.as_deref() == Some(class) => Ok(seen),
                (Err(failure), _) | (Ok(()), Err(failure)) => Err(failure),
                (Ok(()), Ok(seen)) => {
                    let class = seen.class.as_deref().unwrap_or("the usual class");
                    let why = format!("it was said to be moved, and is in {class}");
                    Err(Failure::broken(Verb::Copy, why))
                }
            }
        };
        let seen = service.again_within(MAKING, run).await;
        let seen = seen.map_err(|f| self.fail(f, STEP))?;
        if seen.put.as_deref() != Some(&self.id) {
            return Err(self.transient(STEP, "what is there now was made by another"));
        }
        self.is_whole(&seen, all)?;
        match seen.crc {
            // Of what was in parts services say other sums after a copy, and only some of them say of what.
            Some(crc) if !sums.contains(&crc) && (sums.len() == 1 || seen.of_all) => {
                Err(self.transient(STEP, &format!("it has the sum {crc} now")))
            }
            _ => Ok(()),
        }
    }
}
