//! Writing one object to tape: its bytes gather in the front area, and go to a cartridge in one
//! stream when it is finished, with those of others that are finished meanwhile. So a writer never holds a drive, and
//! a drive never waits for a writer.

use super::front::Front;
use super::library::Library;
use super::place::Place;
use super::{sorted, sorted_writing};
use crate::id::AggregateId;
use crate::tier::{Put, Receipt, TierError, Unwanted};
use cairn_mover::{Crc32c, Crc32cHasher};
use std::io::{self, Write};
use std::sync::Arc;

/// An object being written.
pub(super) struct TapePut {
    place: Arc<Place>,
    library: Arc<Library>,
    name: AggregateId,
    front: Front,
    taken: Crc32cHasher,
    /// `errno` of the write that broke it, or 0 if that had none.
    broken: Option<i32>,
    may_wait: bool,
    unwanted: Option<Unwanted>,
}

impl TapePut {
    pub(super) fn start(
        place: &Arc<Place>,
        name: AggregateId,
        size_hint: u64,
    ) -> Result<Self, TierError> {
        const STEP: &str = "starting to write";
        let library = place.enter(STEP)?;
        if library.find(name).is_some() {
            return Err(TierError::Exists {
                tier: place.label.clone(),
                object: name,
            });
        }
        let fail = |error| sorted(place, STEP, name, error);
        // A hint is no promise: what is too long for any cartridge is told when it is.
        if let Err(error) = library.admit(name, size_hint) {
            return Err(fail(error));
        }
        let front = Front::new(library.front().map_err(fail)?);
        Ok(Self {
            place: Arc::clone(place),
            library,
            name,
            front,
            taken: Crc32cHasher::default(),
            broken: None,
            may_wait: true,
            unwanted: None,
        })
    }
}

impl Write for TapePut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.broken.is_some() {
            return Err(io::Error::other("an earlier write of this object failed"));
        }
        match self.front.add(bytes) {
            Ok(()) => {
                self.taken.update(bytes);
                Ok(bytes.len())
            }
            Err(error) => {
                self.broken = Some(error.raw_os_error().unwrap_or(0));
                Err(sorted_writing(&self.place, self.name, error).into())
            }
        }
    }

    /// Nothing to do: only `finish` makes bytes durable.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Put for TapePut {
    fn finish(self: Box<Self>, sum: Crc32c) -> Result<Receipt, TierError> {
        const STEP: &str = "writing to tape";
        if let Some(errno) = self.broken {
            let error = match errno {
                0 => io::Error::other("an earlier write failed"),
                errno => io::Error::from_raw_os_error(errno),
            };
            return Err(sorted_writing(&self.place, self.name, error));
        }
        if self.taken.sum() != sum {
            return Err(TierError::Corrupt {
                tier: self.place.label.clone(),
                object: self.name,
                expected: sum,
                found: self.taken.sum(),
            });
        }
        let now = self.place.enter(STEP)?;
        if !Arc::ptr_eq(&now, &self.library) {
            let why = "the library changed while the object was written".to_owned();
            return Err(self.place.away(STEP, why));
        }
        let len = self.front.len();
        let unwanted = || self.unwanted.as_ref().is_some_and(|unwanted| unwanted());
        let proof = self
            .library
            .append_unless(self.name, self.front, sum, self.may_wait, &unwanted)
            .map_err(|error| sorted(&self.place, STEP, self.name, error))?;
        Ok(Receipt {
            aggregate: self.name,
            len,
            crc: sum,
            proof,
        })
    }

    fn hasten(&mut self) {
        self.may_wait = false;
    }

    fn heed(&mut self, unwanted: Unwanted) {
        self.unwanted = Some(unwanted);
    }

    fn abandon(self: Box<Self>) {}
}
