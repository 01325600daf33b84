//! Writing one object through a program.
//!
//! The order (P2): `put` under a temporary name; all of it read back and compared; the place proven to be ours
//! once more, and the name free; `commit`; the object's length asked for, and where a commit copies, all of it read
//! back again; receipt. Cairn's death ends the program's stdin early, which looks like a proper end: what comes of
//! that is a temporary that nobody commits.

use super::mark::discard;
use super::place::{Claim, Place, says};
use super::protocol::{Commit, LONGEST, Verdict};
use super::run::Failure;
use super::verbs::Putting;
use crate::id::AggregateId;
use crate::tier::{ErrorKind, Proof, Put, Receipt, TierError};
use cairn_mover::Crc32c;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Small writes (tar headers) are gathered up to this many bytes.
const BUFFER: usize = 256 << 10;

/// An object being written.
pub(super) struct ExecPut {
    place: Arc<Place>,
    name: AggregateId,
    temporary: String,
    claim: Arc<Claim>,
    longest: u64,
    /// How its program committed when this was begun.
    commit: Commit,
    putting: Option<Putting>,
    buffer: Vec<u8>,
    /// Bytes handed over, without the buffer.
    written: u64,
    /// What broke it.
    broken: Option<(ErrorKind, String)>,
    /// The temporary has become the object.
    committed: bool,
}

impl ExecPut {
    pub(super) fn start(
        place: &Arc<Place>,
        name: AggregateId,
        hint: u64,
    ) -> Result<Self, TierError> {
        const STEP: &str = "starting to write";
        let facts = place.facts(STEP)?;
        place.enter(STEP)?;
        place.sweep_once();
        if place.length(STEP, name, &place.at(name))?.is_some() {
            return Err(exists(place, name));
        }
        let temporary = place.temporary(&name.to_string());
        let putting = match place.verbs.put(&temporary, hint) {
            Ok(putting) => putting,
            Err(failure) => {
                place.release(&temporary);
                return Err(place.fail(STEP, Some(name), failure));
            }
        };
        Ok(Self {
            place: Arc::clone(place),
            name,
            temporary,
            claim: place.claim(name),
            longest: facts.longest.unwrap_or(LONGEST).min(LONGEST),
            commit: facts.commit,
            putting: Some(putting),
            buffer: Vec::with_capacity(BUFFER),
            written: 0,
            broken: None,
            committed: false,
        })
    }

    fn gather(&mut self, bytes: &[u8]) -> Result<(), TierError> {
        let len = self.written + (self.buffer.len() + bytes.len()) as u64;
        if len > self.longest {
            return Err(TierError::Full {
                tier: self.place.label.clone(),
                step: "writing",
                why: format!("it takes no object longer than {} bytes", self.longest),
            });
        }
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush_buffer()?;
        }
        if bytes.len() >= BUFFER {
            self.hand_over(bytes)
        } else {
            self.buffer.extend_from_slice(bytes);
            Ok(())
        }
    }

    fn flush_buffer(&mut self) -> Result<(), TierError> {
        let buffer = std::mem::take(&mut self.buffer);
        self.hand_over(&buffer)?;
        self.buffer = buffer;
        self.buffer.clear();
        Ok(())
    }

    fn hand_over(&mut self, bytes: &[u8]) -> Result<(), TierError> {
        let Some(putting) = &mut self.putting else {
            return Err(self.again());
        };
        let fed = putting.feed(bytes);
        fed.map_err(|failure| self.fail("writing", failure))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// A temporary that is gone, or taken, is a failure of the place and says nothing of the object.
    fn fail(&self, step: &'static str, failure: Failure) -> TierError {
        match says(&failure) {
            Some(Verdict::Exists | Verdict::Missing) => TierError::Transient {
                tier: self.place.label.clone(),
                object: self.name.to_string(),
                step,
                source: io::Error::other(failure.to_string()),
            },
            _ => self.place.fail(step, Some(self.name), failure),
        }
    }

    /// What broke it, said once more.
    fn again(&self) -> TierError {
        const STEP: &str = "writing";
        let (tier, object) = (self.place.label.clone(), self.name.to_string());
        match &self.broken {
            Some((ErrorKind::Full, why)) => TierError::Full {
                tier,
                step: STEP,
                why: why.clone(),
            },
            Some((ErrorKind::Unavailable, why)) => TierError::Unavailable {
                tier,
                step: STEP,
                why: why.clone(),
            },
            other => TierError::Transient {
                tier,
                object,
                step: STEP,
                source: io::Error::other(
                    other
                        .as_ref()
                        .map_or("an earlier write of it failed", |(_, why)| why.as_str())
                        .to_owned(),
                ),
            },
        }
    }

    /// The temporary is whole and right, as the place gives it back.
    fn prove(&mut self, sum: Crc32c) -> Result<(), TierError> {
        self.flush_buffer()?;
        let Some(putting) = self.putting.take() else {
            return Err(self.again());
        };
        putting
            .end()
            .map_err(|failure| self.fail("finishing", failure))?;
        self.compare(&self.temporary, sum)
    }

    fn compare(&self, at: &str, sum: Crc32c) -> Result<(), TierError> {
        const STEP: &str = "reading back";
        let found = self
            .place
            .verbs
            .read_back(at, self.written)
            .map_err(|failure| self.fail(STEP, failure))?;
        if found == sum {
            return Ok(());
        }
        Err(TierError::Corrupt {
            tier: self.place.label.clone(),
            object: self.name,
            expected: sum,
            found,
        })
    }

    /// Makes the temporary the object. Called with the claim locked.
    fn publish(&mut self, sum: Crc32c) -> Result<(), TierError> {
        const STEP: &str = "giving it its name";
        let at = self.place.at(self.name);
        if self.place.length(STEP, self.name, &at)?.is_some() {
            return Err(exists(&self.place, self.name));
        }
        // Another's by now, or not the place that it was: what is not there was not asked of the right one.
        self.place.enter(STEP)?;
        self.claim.settling.store(true, Ordering::SeqCst);
        let commit = self
            .place
            .verbs
            .commit(&self.temporary, &at, self.written, sum);
        match commit {
            Ok(()) => self.committed = true,
            Err(failure) if says(&failure) == Some(Verdict::Exists) => {
                return Err(exists(&self.place, self.name));
            }
            Err(failure) => return Err(self.settle(&at, failure)),
        }
        self.inspect(&at, sum).inspect_err(|_| {
            self.take_back(&at);
            // It may have done nothing, and said that all is well.
            self.committed = false;
        })
    }

    /// The object is what was committed.
    fn inspect(&self, at: &str, sum: Crc32c) -> Result<(), TierError> {
        const STEP: &str = "looking at what was committed";
        match self.place.length(STEP, self.name, at)? {
            Some(len) if len == self.written => {}
            Some(len) => {
                return Err(TierError::Short {
                    tier: self.place.label.clone(),
                    object: self.name,
                    len,
                    wanted: self.written,
                });
            }
            None => {
                return Err(TierError::Unavailable {
                    tier: self.place.label.clone(),
                    step: STEP,
                    why: "commit ended with success, and the object is not there".to_owned(),
                });
            }
        }
        // It may be another program by now; whichever of the two did it.
        let commits = [self.commit, self.place.facts(STEP)?.commit];
        if commits.contains(&Commit::Copies) {
            self.compare(at, sum)?;
        }
        Ok(())
    }

    /// A commit failed, and may have been done all the same. Only its success says that the object survives a loss of
    /// power: what is there counts for nothing, however whole it looks. The temporary goes first, so that whatever
    /// still runs on the other side has nothing to rename; then what is there under the object's name, which is ours:
    /// that was free, at the right place, a moment ago.
    fn settle(&mut self, at: &str, failure: Failure) -> TierError {
        // If it stays, it is tried once more when this is dropped.
        self.committed = discard(&self.place, &self.temporary);
        self.take_back(at);
        self.fail("giving it its name", failure)
    }

    /// What was committed, and has no receipt, must not be. At another place, or one that does not
    /// say whose it is, nothing is deleted.
    fn take_back(&self, at: &str) {
        if let Err(error) = self.place.enter("taking back what was committed") {
            tracing::error!(tier = self.place.label, object = %self.name, %error, "an object without a receipt may remain");
            return;
        }
        if let Err(failure) = self.place.verbs.delete(at)
            && says(&failure) != Some(Verdict::Missing)
        {
            tracing::error!(tier = self.place.label, object = %self.name, %failure, "an object without a receipt remains");
        }
    }
}

fn exists(place: &Place, object: AggregateId) -> TierError {
    TierError::Exists {
        tier: place.label.clone(),
        object,
    }
}

impl Write for ExecPut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.broken.is_some() {
            return Err(self.again().into());
        }
        match self.gather(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                self.broken = Some((error.kind(), error.to_string()));
                self.putting = None;
                Err(error.into())
            }
        }
    }

    /// Nothing to do: only `finish` makes bytes durable.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Put for ExecPut {
    fn finish(mut self: Box<Self>, sum: Crc32c) -> Result<Receipt, TierError> {
        if self.broken.is_some() {
            return Err(self.again());
        }
        self.prove(sum)?;
        let claim = Arc::clone(&self.claim);
        let mut taken = claim.taken.lock();
        if *taken {
            return Err(exists(&self.place, self.name));
        }
        let published = self.publish(sum);
        claim.settling.store(false, Ordering::SeqCst);
        published?;
        *taken = true;
        Ok(Receipt {
            aggregate: self.name,
            len: self.written,
            crc: sum,
            proof: Proof::ReadBack,
        })
    }

    fn abandon(self: Box<Self>) {}
}

impl Drop for ExecPut {
    fn drop(&mut self) {
        // Before its temporary goes, so that nothing makes it again.
        self.putting = None;
        if !self.committed {
            discard(&self.place, &self.temporary);
        }
        self.place.release(&self.temporary);
    }
}
