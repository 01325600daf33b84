//! Writing files to the library: choosing a cartridge, and another one when its tape ends. Those that wait for one
//! are written together ([`super::batch`]); if that fails, each is tried by itself, so that none fails for another's
//! sake.

use super::batch::{Batches, Job, Lead, Turn};
use super::{Library, LibraryError, Mounted, Name, Seen};
use crate::id::AggregateId;
use crate::tier::Proof;
use crate::tier::tape::drive::{Blame, DriveError};
use crate::tier::tape::front::Front;
use crate::tier::tape::label::{Barcode, Day};
use crate::tier::tape::robot::RobotError;
use crate::tier::tape::state::Fault;
use crate::tier::tape::volume::{
    Appender, Next, TapeFile, VolumeError, check, cut, ended, room_for,
};
use cairn_mover::Crc32c;
use std::collections::VecDeque;
use std::time::SystemTime;

/// The first layout of cartridges on which files may be written together.
const BATCHED: u32 = 2;

/// Bytes after which one who waits for a drive comes before the rest of a batch: less is not worth a move of the robot.
const TURN: u64 = 1 << 30;

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

/// A writer whose file waits to be written, or is; whatever becomes of him, nobody writes it when he is gone.
struct InLine<'l> {
    batches: &'l Batches,
    ticket: u64,
    ended: bool,
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.batches.leave(self.ticket);
        }
    }
}

/// What came of writing files together.
struct Written {
    /// Those that are there.
    files: Vec<TapeFile>,
    proof: Option<Proof>,
    /// Those that failed by themselves, and why.
    spoiled: Vec<(AggregateId, LibraryError)>,
    /// The tape ended before all were written: at so many bytes.
    ended: Option<u64>,
    /// Why none is there.
    error: Option<VolumeError>,
    /// What was written of those that are not there is gone.
    clean: bool,
}

enum Failed {
    /// This file's own fault.
    Alone(LibraryError),
    /// That of all.
    All(VolumeError),
}

impl Library {
    /// Writes a file, proves it and makes it known. `sum` is what its bytes must sum to. Others that wait for a
    /// cartridge at the same time are written with it; it waits for such if it `may_wait`.
    ///
    /// # Errors
    /// [`LibraryError::Taken`], [`LibraryError::NoRoom`], [`LibraryError::Corrupt`], [`LibraryError::Stopping`], ...:
    /// the file is not there.
    pub fn append(
        &self,
        name: AggregateId,
        front: Front,
        sum: Crc32c,
        may_wait: bool,
    ) -> Result<Proof, LibraryError> {
        self.append_unless(name, front, sum, may_wait, &|| false)
    }

    /// The same, unless `unwanted` says that nobody wants it any more before it is taken up. It is asked now and then.
    ///
    /// # Errors
    /// [`LibraryError::Unwanted`], and those of [`Self::append`].
    pub fn append_unless(
        &self,
        name: AggregateId,
        front: Front,
        sum: Crc32c,
        may_wait: bool,
        unwanted: &dyn Fn() -> bool,
    ) -> Result<Proof, LibraryError> {
        let _reserved = self.reserve(name)?;
        // A snapshot is written by one who does nothing else meanwhile.
        let may_wait = may_wait && !name.is_snapshot();
        let mut place = InLine {
            batches: &self.batches,
            ticket: self.batches.join(name, front, sum, may_wait),
            ended: false,
        };
        let drives = self.options.count_drives();
        loop {
            let together = &self.options.together;
            match self.batches.turn(place.ticket, together, drives, unwanted) {
                Turn::Ended(written) => {
                    place.ended = true;
                    return written;
                }
                Turn::Lead(lead) => self.lead(lead),
            }
        }
    }

    /// The process stops: what is being written is finished, and of what waits only snapshots are written.
    pub fn hurry(&self) {
        self.batches.hurry();
    }

    /// Files that wait to be written, and that nobody has begun with.
    #[must_use]
    pub fn unwritten(&self) -> usize {
        self.batches.waiting()
    }

    /// One try with the first that waits, and with what goes with it, on one cartridge.
    fn lead(&self, mut lead: Lead<'_>) {
        let Some(first) = lead.first() else {
            return;
        };
        let barcode = match first.again.take() {
            // It may be why the drive died.
            Some(barcode) if self.hindrance(barcode).is_some() => {
                return lead.elsewhere(barcode, None);
            }
            Some(barcode) => barcode,
            None => match self.candidate(first.name, first.front.len(), &first.tried) {
                Ok(barcode) => barcode,
                Err(error) => {
                    let error = first.last.take().unwrap_or(error);
                    return lead.end_with(error);
                }
            },
        };
        let mounted = match self.claim(barcode).and_then(|()| self.mount(barcode)) {
            Ok(mounted) => mounted,
            // Another pool took it.
            Err(LibraryError::Elsewhere) => return lead.elsewhere(barcode, None),
            // In a drive that died; what that one wrote of the files is buried when it is seen.
            Err(
                error @ LibraryError::Robot {
                    source: RobotError::Stuck(_),
                    ..
                },
            ) => return lead.elsewhere(barcode, Some(error)),
            // Another program has the drive: nothing is wrong with the cartridge.
            Err(LibraryError::Load { barcode, source }) if source.blames() == Blame::Nobody => {
                return lead.end_with(LibraryError::Load { barcode, source });
            }
            Err(
                error @ (LibraryError::Absent { .. }
                | LibraryError::Exported { .. }
                | LibraryError::Load { .. }
                | LibraryError::Volume { .. }),
            ) => {
                self.trouble(barcode, &error);
                return lead.elsewhere(barcode, Some(error));
            }
            Err(error) => return lead.end_with(error),
        };
        self.write_on(mounted, barcode, lead);
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

    /// The same, on a cartridge that is in a drive.
    fn write_on(&self, mut mounted: Mounted<'_>, barcode: Barcode, mut lead: Lead<'_>) {
        let Some(Seen {
            layout,
            next,
            damage: None,
        }) = mounted.seen.clone()
        else {
            return lead.elsewhere(barcode, None);
        };
        // While we waited for it, it may have been retired, or filled.
        if let Some(why) = self.hindrance(barcode) {
            tracing::info!(%barcode, why, "files go to another cartridge");
            return lead.elsewhere(barcode, None);
        }
        let need = lead.first().map(|job| (job.name, job.front.len()));
        let left = need.map_or(0, |need| self.left(barcode, next, need));
        if need.is_none_or(|(_, len)| left < room_for(len)) {
            return lead.elsewhere(barcode, None);
        }
        self.gather(&mut lead, barcode, layout, left);
        // What a drive wrote of them that died before it said so; nobody else writes the names.
        // One after the other, and not in the way of those who come: each is made durable.
        let bury = |job: &Job| {
            let buried = self.stock.lock().bury_withheld((self.tier, job.name));
            buried.err().map(|error| (job.name, error))
        };
        let mut kept: Vec<_> = lead.jobs().iter().filter_map(bury).collect();
        lead.end(|job| {
            let at = kept.iter().position(|(name, _)| *name == job.name)?;
            Some(Err(kept.swap_remove(at).1))
        });
        if lead.jobs().is_empty() {
            return;
        }
        let written = self.write(&mut mounted, barcode, next, lead.jobs());
        if let Some(last) = written.files.last() {
            let next = Next {
                object: last.end(),
                bytes: last.end_bytes(),
            };
            mounted.seen = Some(Seen {
                layout,
                next,
                damage: None,
            });
            self.succeeded(mounted.drive().number(), barcode, true);
            // While the drive is held: the index has files in the order in which they lie.
            for file in &written.files {
                self.learn(barcode, *file);
            }
        }
        self.settle(mounted, barcode, written, lead);
    }

    /// Takes up what is written with the first: as much as goes together, and fits.
    fn gather(&self, lead: &mut Lead<'_>, barcode: Barcode, layout: u32, left: u64) {
        let together = &self.options.together;
        let Some(first) = lead.first() else { return };
        let (mut files, mut bytes) = (1, first.front.len());
        let mut room = left.saturating_sub(room_for(bytes));
        let is_alone = first.alone || layout < BATCHED || self.batches.is_hurried();
        lead.gather(|job| {
            let len = job.front.len();
            let goes = !is_alone
                && !job.alone
                && !job.tried.contains(&barcode)
                && job.again.is_none_or(|again| again == barcode)
                && files < together.files
                && bytes.saturating_add(len) <= together.bytes
                && room_for(len) <= room;
            if goes {
                files += 1;
                bytes += len;
                room -= room_for(len);
            }
            goes
        });
        for job in lead.jobs_mut() {
            job.again = None;
        }
    }

    /// Writes the files and, if none of them gets there, removes what was written.
    fn write(
        &self,
        mounted: &mut Mounted<'_>,
        barcode: Barcode,
        next: Next,
        jobs: &VecDeque<Job>,
    ) -> Written {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let day = Day {
            unix: now.map_or(0, |t| t.as_secs()),
        };
        let about = (self.count(barcode) + 1, day);
        let mut batch = Appender::new(mounted.drive(), barcode, next, about);
        let mut written = Written {
            files: Vec::new(),
            proof: None,
            spoiled: Vec::new(),
            ended: None,
            error: None,
            clean: true,
        };
        for job in jobs {
            if !batch.is_empty() && self.is_enough(&batch, next) {
                break;
            }
            let mut taken = 0;
            match self.write_one(&mut batch, barcode, job, &mut taken) {
                Ok(()) => continue,
                Err(Failed::Alone(why)) => written.spoiled.push((job.name, why)),
                Err(Failed::All(why)) if ended(&why) => {
                    written.ended = Some(next.bytes + batch.bytes_from(next) + taken);
                }
                Err(Failed::All(why)) => written.error = Some(why),
            }
            batch.give_up();
            if written.ended.is_some() || written.error.is_some() {
                break;
            }
        }
        while written.error.is_none() {
            match batch.close() {
                Ok(None) => break,
                Ok(Some((files, proof))) => {
                    (written.files, written.proof) = (files, Some(proof));
                    return written;
                }
                Err(why) if ended(&why) => {
                    // The last did not fit: one as long does not, either.
                    let at = (next.bytes + batch.bytes_from(next)).saturating_sub(1);
                    written.ended = Some(written.ended.map_or(at, |earlier| earlier.min(at)));
                    batch.give_up();
                }
                Err(why) => written.error = Some(why),
            }
        }
        if written.error.is_some() && !batch.is_touched() {
            written.clean = false;
        } else if let Err(error) = batch.abandon() {
            tracing::warn!(%barcode, %error, "a torn tail remains");
            written.clean = false;
        }
        written
    }

    /// Is what was written closed before more is?
    fn is_enough(&self, batch: &Appender<'_>, start: Next) -> bool {
        // Near its end a tape takes one after the other.
        batch.early_warning()
            || self.batches.is_hurried()
            || (batch.bytes_from(start) >= TURN && self.mounts.waiting() > 0)
    }

    fn write_one(
        &self,
        batch: &mut Appender<'_>,
        barcode: Barcode,
        job: &Job,
        taken: &mut u64,
    ) -> Result<(), Failed> {
        batch
            .begin(job.name, self.options.block)
            .map_err(Failed::All)?;
        let take = |piece: &[u8]| {
            batch.write(piece)?;
            *taken += piece.len() as u64;
            Ok(())
        };
        match job.front.hand_on(take) {
            Err(error) => {
                let error = LibraryError::io("reading the front area", error);
                return Err(Failed::Alone(error));
            }
            Ok(written) => written.map_err(Failed::All)?,
        }
        batch.end(job.sum).map_err(|error| match error {
            error @ VolumeError::Sum { .. } => Failed::Alone(LibraryError::volume(barcode, error)),
            error => Failed::All(error),
        })
    }

    /// Gives results to those that were written, or failed by themselves; the others wait again.
    fn settle(&self, mounted: Mounted<'_>, barcode: Barcode, written: Written, mut lead: Lead<'_>) {
        let Written {
            files,
            proof,
            mut spoiled,
            ended,
            error,
            clean,
        } = written;
        lead.end(|job| {
            if let Some(at) = spoiled.iter().position(|(name, _)| *name == job.name) {
                return Some(Err(spoiled.swap_remove(at).1));
            }
            let there = files.iter().any(|file| file.name == job.name);
            proof.filter(|_| there).map(Ok)
        });
        if let Some(error) = error {
            return self.failed(mounted, barcode, error, clean, lead);
        }
        self.restore(mounted, barcode, clean);
        if let Some(at) = ended {
            tracing::info!(%barcode, at, "the tape is at its end: files go to another cartridge");
            self.fill(barcode, at);
            return lead.elsewhere(barcode, None);
        }
        lead.put_back(|_| {});
    }

    /// What the medium holds is not known if what was written could not be removed: it is loaded anew, and cut where
    /// it was complete.
    fn restore(&self, mut mounted: Mounted<'_>, barcode: Barcode, clean: bool) {
        if !clean && let Err(why) = self.cut(&mut mounted, barcode) {
            tracing::error!(%barcode, %why, "what was written without a receipt may be there later");
            mounted.vacate();
        }
    }

    /// What to do after a failure that was no file's own.
    fn failed(
        &self,
        mut mounted: Mounted<'_>,
        barcode: Barcode,
        error: VolumeError,
        clean: bool,
        mut lead: Lead<'_>,
    ) {
        let number = mounted.drive().number();
        if let VolumeError::Drive { source, .. } = &error
            && source.blames() == Blame::Drive
        {
            mounted.fail(source);
            // The same again, in another.
            return lead.put_back(|job| job.again = Some(barcode));
        }
        if error.is_lost() {
            tracing::warn!(%barcode, %error, "a drive lost its place");
            mounted.seen = None;
            drop(mounted);
            return lead.lost(barcode, || LibraryError::lost(barcode, &error));
        }
        self.restore(mounted, barcode, clean);
        if let VolumeError::Drive { source, .. } = &error
            && source.blames() == Blame::Cartridge
            && !is_full(source)
        {
            tracing::error!(%barcode, error = %source, "a cartridge could not be written");
            self.failed_with(number, barcode, Fault::Write, &source.to_string());
        }
        if lead.jobs().len() > 1 {
            return lead.put_back(|job| job.alone = true);
        }
        match error {
            // The filesystem below is full: so it is for every cartridge.
            VolumeError::Drive {
                step,
                source: DriveError::Medium { source, .. },
            } if is_no_room(&source) => lead.end_with(LibraryError::Io { step, source }),
            VolumeError::Drive {
                source: DriveError::Protected,
                ..
            } => lead.elsewhere(barcode, None),
            // The bytes may be wrong that were handed over: who has them makes them anew.
            VolumeError::Drive { ref source, .. }
                if source.blames() == Blame::Cartridge
                    && !matches!(source, DriveError::Lies { .. }) =>
            {
                lead.elsewhere(barcode, Some(LibraryError::volume(barcode, error)));
            }
            error => lead.end_with(LibraryError::volume(barcode, error)),
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
        if let Some(Seen {
            next, damage: None, ..
        }) = seen
        {
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

    /// Notes that a tape ended at so many bytes, before its capacity said so. An empty one is never full: what is
    /// shorter still goes there.
    fn fill(&self, barcode: Barcode, at: u64) {
        let mut stock = self.stock.lock();
        if let Some(cartridge) = stock.cartridges.get_mut(&barcode) {
            let is_empty = cartridge.is_empty();
            cartridge.entry.ended(at, cartridge.used);
            cartridge.entry.full &= !is_empty;
        }
        if let Err(error) = self.keep(&mut stock) {
            tracing::warn!(%barcode, %error, "where it ended is not kept");
        }
    }

    fn trouble(&self, barcode: Barcode, error: &LibraryError) {
        tracing::error!(%error, "a cartridge cannot be written");
        if let Some(cartridge) = self.stock.lock().cartridges.get_mut(&barcode) {
            cartridge.trouble = Some(error.to_string());
            cartridge.distrusted = !matches!(error, LibraryError::Absent { .. });
        }
    }

    fn hindrance(&self, barcode: Barcode) -> Option<String> {
        let stock = self.stock.lock();
        stock.cartridges.get(&barcode)?.hindrance()
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

impl Lead<'_> {
    /// The first, all that is in hand, ends with an error.
    fn end_with(mut self, error: LibraryError) {
        let mut error = Some(error);
        self.end(|_| error.take().map(Err));
    }

    /// Not on this cartridge, perhaps because of an error.
    fn elsewhere(mut self, barcode: Barcode, why: Option<LibraryError>) {
        let mut why = why;
        self.put_back(|job| {
            job.tried.insert(barcode);
            // What it does by itself was seen here.
            job.alone = false;
            job.last = why.take().or(job.last.take());
        });
    }
}

/// No room on the filesystem below.
fn is_no_room(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

fn is_full(error: &DriveError) -> bool {
    matches!(error, DriveError::Medium { source, .. } if is_no_room(source))
}
