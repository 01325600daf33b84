//! Writing a file to the library: choosing a cartridge, and another one when its tape ends.

use super::choose::{Candidate, Kind, NoRoom, choose};
use super::{Library, LibraryError, Mounted, Name, Seen};
use crate::id::AggregateId;
use crate::tier::Proof;
use crate::tier::tape::drive::{Blame, DriveError};
use crate::tier::tape::front::Front;
use crate::tier::tape::label::{Barcode, Day};
use crate::tier::tape::robot::RobotError;
use crate::tier::tape::state::Fault;
use crate::tier::tape::volume::{Appender, Next, TapeFile, VolumeError, check, cut, ended};
use cairn_mover::Crc32c;
use std::collections::BTreeSet;
use std::time::SystemTime;

/// A name that is being written by one; free again when dropped.
struct Reserved<'l> {
    library: &'l Library,
    name: Name,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.library.stock.lock().writing.remove(&self.name);
        self.library.settled.notify_all();
    }
}

/// What came of one try on one cartridge.
enum Tried {
    Done(Proof),
    /// Not on this cartridge, perhaps because of an error.
    Elsewhere(Option<LibraryError>),
    /// The drive died: the same again on another.
    Again,
    /// The drive lost its place: the same again, once, after the label was read.
    Lost(LibraryError),
}

impl Library {
    /// Would a file of `len` bytes find a cartridge now?
    ///
    /// # Errors
    /// [`LibraryError::NoRoom`].
    pub fn admit(&self, len: u64) -> Result<(), LibraryError> {
        self.candidate(len, &BTreeSet::new()).map(|_| ())
    }

    /// Writes a file, proves it and makes it known. `sum` is what its bytes must sum to.
    ///
    /// # Errors
    /// [`LibraryError::Taken`], [`LibraryError::NoRoom`], [`LibraryError::Corrupt`], ...: the file is
    /// not there.
    pub fn append(
        &self,
        name: AggregateId,
        front: &Front,
        sum: Crc32c,
    ) -> Result<Proof, LibraryError> {
        let _reserved = self.reserve(name)?;
        let (mut tried, mut again, mut last) = (BTreeSet::new(), None, None);
        let mut lost = BTreeSet::new();
        loop {
            let barcode = match again.take() {
                // What the dead drive left is there: perhaps the whole file.
                Some(barcode) => barcode,
                None => match self.candidate(front.len(), &tried) {
                    Ok(barcode) => barcode,
                    Err(error) => return Err(last.unwrap_or(error)),
                },
            };
            match self.try_on(barcode, name, front, sum)? {
                Tried::Done(proof) => return Ok(proof),
                Tried::Elsewhere(why) => {
                    tried.insert(barcode);
                    last = why.or(last);
                }
                Tried::Again => again = Some(barcode),
                Tried::Lost(_) if lost.insert(barcode) => again = Some(barcode),
                Tried::Lost(error) => return Err(error),
            }
        }
    }

    /// Waits until nobody writes that name.
    fn reserve(&self, name: AggregateId) -> Result<Reserved<'_>, LibraryError> {
        let name = (self.tier, name);
        let mut stock = self.stock.lock();
        loop {
            if stock.names.contains_key(&name) {
                return Err(LibraryError::Taken);
            }
            if stock.writing.insert(name) {
                return Ok(Reserved {
                    library: self,
                    name,
                });
            }
            self.settled.wait(&mut stock);
        }
    }

    /// The cartridge for so many bytes. If none has room, those are freed on which everything is dead.
    fn candidate(&self, len: u64, tried: &BTreeSet<Barcode>) -> Result<Barcode, LibraryError> {
        self.look_again();
        match self.best(len, tried) {
            Err(LibraryError::NoRoom(NoRoom::Full { .. })) if !self.free_dead().is_empty() => {
                self.best(len, tried)
            }
            found => found,
        }
    }

    fn best(&self, len: u64, tried: &BTreeSet<Barcode>) -> Result<Barcode, LibraryError> {
        let bays = self.mounts.status();
        let stock = self.stock.lock();
        let candidate = |(barcode, cartridge): (&Barcode, &super::Cartridge)| {
            let bay = bays.iter().find(|b| b.holds == Some(*barcode));
            let tried = tried
                .contains(barcode)
                .then(|| "could not be written just now".to_owned());
            Candidate {
                barcode: *barcode,
                capacity: cartridge.entry.capacity,
                used: cartridge.used,
                hindrance: cartridge.hindrance().or(tried),
                failing: cartridge.failing.is_some(),
                mounted: bay.is_some(),
                busy: bay.is_some_and(|b| b.busy),
            }
        };
        let candidates: Vec<Candidate> = stock
            .cartridges
            .iter()
            .filter(|(_, c)| c.is_for(self.tier))
            .map(candidate)
            .collect();
        let geometry = self.options.geometry();
        let kind = Kind {
            generation: geometry.generation,
            capacity: geometry.capacity,
        };
        Ok(choose(&candidates, len, kind)?)
    }

    fn try_on(
        &self,
        barcode: Barcode,
        name: AggregateId,
        front: &Front,
        sum: Crc32c,
    ) -> Result<Tried, LibraryError> {
        let mounted = self.claim(barcode).and_then(|()| self.mount(barcode));
        let mut mounted = match mounted {
            Ok(mounted) => mounted,
            // Another pool took it.
            Err(LibraryError::Elsewhere) => return Ok(Tried::Elsewhere(None)),
            // In a drive that died; what that one wrote of the file is buried when it is seen.
            Err(
                error @ LibraryError::Robot {
                    source: RobotError::Stuck(_),
                    ..
                },
            ) => return Ok(Tried::Elsewhere(Some(error))),
            // Another program has the drive: nothing is wrong with the cartridge.
            Err(LibraryError::Load { barcode, source }) if source.blames() == Blame::Nobody => {
                return Err(LibraryError::Load { barcode, source });
            }
            Err(
                error @ (LibraryError::Absent { .. }
                | LibraryError::Exported { .. }
                | LibraryError::Load { .. }
                | LibraryError::Volume { .. }),
            ) => {
                self.trouble(barcode, &error);
                return Ok(Tried::Elsewhere(Some(error)));
            }
            Err(error) => return Err(error),
        };
        let next = match &mounted.seen {
            Some(Seen { next, damage: None }) => *next,
            Some(_) | None => return Ok(Tried::Elsewhere(None)),
        };
        // What a drive wrote of it that died before it said so; nobody else writes the name.
        self.stock.lock().bury_withheld((self.tier, name))?;
        // It may have been filled while we waited for it.
        if self.left(barcode, next) < super::volume::room_for(front.len()) {
            return Ok(Tried::Elsewhere(None));
        }
        let number = self.count(barcode) + 1;
        let written = self.write(&mut mounted, barcode, next, (name, number), front, sum);
        match written {
            Ok((file, proof)) => {
                let next = Next {
                    object: file.end(),
                    bytes: file.end_bytes(),
                };
                mounted.seen = Some(Seen { next, damage: None });
                self.succeeded(mounted.drive().number(), barcode, true);
                // While the drive is held: the index has files in the order in which they lie.
                self.learn(barcode, file);
                Ok(Tried::Done(proof))
            }
            Err(Failed::Front(error)) => Err(LibraryError::io("reading the front area", error)),
            Err(Failed::Volume(error, clean)) => self.failed(mounted, barcode, error, clean),
        }
    }

    /// Writes the file and, if that fails, removes what was written; `clean` says whether it is gone.
    fn write(
        &self,
        mounted: &mut Mounted<'_>,
        barcode: Barcode,
        next: Next,
        (name, number): (AggregateId, u64),
        front: &Front,
        sum: Crc32c,
    ) -> Result<(TapeFile, Proof), Failed> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let day = Day {
            unix: now.map_or(0, |t| t.as_secs()),
        };
        let about = (name, self.options.block);
        let mut file = match Appender::begin(mounted.drive(), barcode, next, about, (number, day)) {
            Ok(file) => file,
            Err(error) => return Err(Failed::Volume(error, false)),
        };
        let error = match front.hand_on(|piece| file.write(piece)) {
            Err(error) => {
                if let Err(error) = file.abandon() {
                    tracing::warn!(%barcode, %error, "a torn tail remains");
                }
                return Err(Failed::Front(error));
            }
            Ok(Err(error)) => error,
            Ok(Ok(())) => match file.close(sum) {
                Ok(done) => return Ok(done),
                Err(error) => error,
            },
        };
        let gone = file.abandon();
        if let Err(error) = &gone {
            tracing::warn!(%barcode, %error, "a torn tail remains");
        }
        Err(Failed::Volume(error, gone.is_ok()))
    }

    /// What to do after a failure. The cartridge is loaded anew if its end is not certain.
    fn failed(
        &self,
        mut mounted: Mounted<'_>,
        barcode: Barcode,
        error: VolumeError,
        clean: bool,
    ) -> Result<Tried, LibraryError> {
        let number = mounted.drive().number();
        if let VolumeError::Drive { source, .. } = &error
            && source.blames() == Blame::Drive
        {
            mounted.fail(source);
            return Ok(Tried::Again);
        }
        if error.is_lost() {
            tracing::warn!(%barcode, %error, "a drive lost its place");
            mounted.seen = None;
            return Ok(Tried::Lost(LibraryError::volume(barcode, error)));
        }
        // What the medium holds now is not known: it is loaded anew, and cut where it was complete.
        if !clean && let Err(why) = self.cut(&mut mounted, barcode) {
            tracing::error!(%barcode, %why, "what was written without a receipt may be there later");
            mounted.vacate();
        } else {
            drop(mounted);
        }
        if ended(&error) {
            tracing::info!(%barcode, "the tape is at its end: the file goes to another cartridge");
            self.fill(barcode);
            return Ok(Tried::Elsewhere(None));
        }
        match error {
            // The filesystem below is full: so it is for every cartridge.
            VolumeError::Drive {
                step,
                source: DriveError::Medium { source, .. },
            } if matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) => {
                Err(LibraryError::Io { step, source })
            }
            VolumeError::Drive {
                source: DriveError::Protected,
                ..
            } => Ok(Tried::Elsewhere(None)),
            VolumeError::Drive { step, source } if source.blames() == Blame::Cartridge => {
                tracing::error!(%barcode, error = %source, "a cartridge could not be written");
                self.failed_with(number, barcode, Fault::Write, &source.to_string());
                let lies = matches!(source, DriveError::Lies { .. });
                let error = LibraryError::volume(barcode, VolumeError::Drive { step, source });
                // The bytes may be wrong that were handed over: who has them makes them anew.
                if lies {
                    Err(error)
                } else {
                    Ok(Tried::Elsewhere(Some(error)))
                }
            }
            error => Err(LibraryError::volume(barcode, error)),
        }
    }

    /// Loads a cartridge anew and removes what lies behind its last complete file, durably, if its label says that it
    /// is the one.
    fn cut(&self, mounted: &mut Mounted<'_>, barcode: Barcode) -> Result<(), VolumeError> {
        let step = "removing what was begun";
        let fail = |source| VolumeError::Drive { step, source };
        let seen = mounted.seen.take();
        mounted.reload(barcode).map_err(fail)?;
        let owner = self.owner_of(barcode).unwrap_or(self.tier);
        check(mounted.drive(), barcode, owner)?;
        if let Some(Seen { next, damage: None }) = seen {
            cut(mounted.drive(), next).map_err(fail)?;
        }
        mounted.seen = seen;
        Ok(())
    }

    /// Adds a file that was just written.
    fn learn(&self, barcode: Barcode, file: TapeFile) {
        let mut stock = self.stock.lock();
        if let Some(cartridge) = stock.cartridges.get_mut(&barcode) {
            cartridge.used = file.end_bytes();
            if let Err(error) = cartridge.files.wrote(file) {
                tracing::warn!(%barcode, %error, "the index of a cartridge stays behind");
            }
        }
        stock.learn(barcode, &[file]);
    }

    /// Notes that a tape ended before its capacity said so.
    fn fill(&self, barcode: Barcode) {
        let mut stock = self.stock.lock();
        if let Some(cartridge) = stock.cartridges.get_mut(&barcode) {
            cartridge.entry.full = true;
        }
        if let Err(error) = self.keep(&mut stock) {
            tracing::warn!(%barcode, %error, "that it is full is not kept");
        }
    }

    fn trouble(&self, barcode: Barcode, error: &LibraryError) {
        tracing::error!(%error, "a cartridge cannot be written");
        if let Some(cartridge) = self.stock.lock().cartridges.get_mut(&barcode) {
            cartridge.trouble = Some(error.to_string());
            cartridge.distrusted = !matches!(error, LibraryError::Absent { .. });
        }
    }

    fn left(&self, barcode: Barcode, next: Next) -> u64 {
        let stock = self.stock.lock();
        let capacity = stock
            .cartridges
            .get(&barcode)
            .map_or(0, |c| c.entry.capacity);
        capacity.saturating_sub(next.bytes)
    }

    /// Files on a cartridge.
    fn count(&self, barcode: Barcode) -> u64 {
        let stock = self.stock.lock();
        stock
            .cartridges
            .get(&barcode)
            .map_or(0, |c| c.files.all().len() as u64)
    }
}

enum Failed {
    /// The front area could not be read.
    Front(std::io::Error),
    /// The error, and whether what was written is gone again.
    Volume(VolumeError, bool),
}
