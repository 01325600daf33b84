//! What goes wrong with cartridges and drives: counted, kept, and what follows from it.
//!
//! Invariants kept here:
//! - An error is counted once for the drive and once for the cartridge, and is kept in the library's
//!   state: at once if something follows from it, else within a second or with the next one.
//! - A drive that failed with [`STREAK`] different cartridges in a row is retired, unless it is the
//!   last one that works: it is kept before it is acted upon.
//! - A cartridge to which writes failed on [`DRIVES`] different drives, and on none succeeded meanwhile,
//!   is never written again. It is read.

use super::{BayStatus, Cartridge, Library, LibraryError, Stock};
use crate::tier::tape::drive::{Blame, Drive, DriveError, DriveNumber};
use crate::tier::tape::label::Barcode;
use crate::tier::tape::state::{DriveEntry, Fault};
use crate::tier::tape::volume::{TapeFile, VolumeError};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// Different cartridges in a row.
const STREAK: usize = 3;
/// Different drives.
const DRIVES: usize = 2;
/// So often at most is what nothing follows from written down.
const OFTEN: Duration = Duration::from_secs(1);

impl Library {
    /// Counts an error that is a cartridge's, or may be.
    pub(super) fn failed_with(
        &self,
        drive: DriveNumber,
        barcode: Barcode,
        fault: Fault,
        why: &str,
    ) {
        let mut stock = self.stock.lock();
        let working = working(&self.mounts.status(), &stock.state.drives);
        let follows = stock.count(drive, barcode, fault, why, working > 1);
        let retired = stock.retired(drive);
        self.keep_soon(&mut stock, follows);
        drop(stock);
        if follows && let Some(why) = retired {
            tracing::error!(%why, "{drive} is retired");
            self.mounts.retire(drive, Some(why));
        }
    }

    /// Takes note of the drives that failed.
    pub(super) fn note_failures(&self) {
        for failure in self.mounts.failures() {
            let Some(barcode) = failure.cartridge else {
                continue;
            };
            let fault = match failure.step {
                step if step.contains("writ") || step.contains("sync") || step.contains("eras") => {
                    Fault::Write
                }
                "loading" | "unloading" => Fault::Load,
                _ => Fault::Read,
            };
            self.failed_with(failure.drive, barcode, fault, &failure.why);
        }
    }

    /// Counts a read that failed, and remembers the file if its blocks are bad.
    pub(super) fn unread(
        &self,
        drive: &mut dyn Drive,
        barcode: Barcode,
        file: &TapeFile,
        error: &VolumeError,
    ) {
        let VolumeError::Drive { source, .. } = error else {
            return;
        };
        if source.blames() == Blame::Nobody {
            return;
        }
        let why = error.to_string();
        if matches!(
            source,
            DriveError::BadBlock { .. } | DriveError::Damaged { .. }
        ) && let Some(cartridge) = self.stock.lock().cartridges.get_mut(&barcode)
        {
            cartridge.entry.spoiled(file.object, why.clone());
        }
        self.failed_with(drive.number(), barcode, Fault::Read, &why);
    }

    /// Counts a cartridge of which not even the label or the end could be read.
    pub(super) fn unlookable(&self, drive: DriveNumber, barcode: Barcode, error: &LibraryError) {
        if let LibraryError::Volume {
            source: VolumeError::Drive { source, .. },
            ..
        } = error
            && source.blames() == Blame::Cartridge
        {
            self.failed_with(drive, barcode, Fault::Load, &error.to_string());
        }
    }

    /// A drive did its work with a cartridge: what was wrong with it in a row is over.
    pub(super) fn succeeded(&self, drive: DriveNumber, barcode: Barcode, wrote: bool) {
        let mut stock = self.stock.lock();
        let mut changed = false;
        if let Some(entry) = stock.state.drives.iter_mut().find(|d| d.number == drive.0) {
            changed = !std::mem::take(&mut entry.streak).is_empty();
        }
        if wrote && let Some(cartridge) = stock.cartridges.get_mut(&barcode) {
            changed |= !std::mem::take(&mut cartridge.entry.failed_on).is_empty();
            cartridge.failing = None;
        }
        if changed {
            self.keep_soon(&mut stock, false);
        }
    }

    /// A cartridge was loaded.
    pub(super) fn loaded(&self, barcode: Barcode) {
        let mut stock = self.stock.lock();
        if let Some(cartridge) = stock.cartridges.get_mut(&barcode) {
            cartridge.entry.mounts += 1;
        }
        // Kept with whatever is kept next, or at the end.
        stock.unkept = true;
    }

    /// Is the directory still the one whose lock is held?
    fn is_in_place(&self) -> bool {
        let held = self.lock.metadata();
        let there = self.root.join(super::LOCK).metadata();
        matches!((held, there), (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()))
    }

    /// Writes the state now if something follows from it, else within a while.
    pub(super) fn keep_soon(&self, stock: &mut Stock, now: bool) {
        stock.unkept = true;
        if !now && stock.kept.elapsed() < OFTEN {
            return;
        }
        if let Err(error) = self.keep(stock) {
            tracing::warn!(%error, "what went wrong is not kept yet");
        }
    }

    /// Retires a drive by somebody's word, durably: it is not used any more. `None`: it is again.
    ///
    /// # Errors
    /// [`LibraryError::NoSuchDrive`], [`LibraryError::State`].
    pub fn retire_drive(
        &self,
        drive: DriveNumber,
        why: Option<String>,
    ) -> Result<(), LibraryError> {
        if !self.mounts.status().iter().any(|b| b.number == drive) {
            return Err(LibraryError::NoSuchDrive(drive));
        }
        let mut stock = self.stock.lock();
        let entry = stock.state.drive(drive.0);
        entry.retired.clone_from(&why);
        if why.is_none() {
            entry.streak.clear();
        }
        self.keep(&mut stock)?;
        drop(stock);
        self.mounts.retire(drive, why);
        Ok(())
    }

    /// Retires a cartridge by somebody's word, durably: it is never written again, and read until
    /// nothing on it is needed. `None`: it may be written, whatever went wrong before, and is not emptied; where its tape ended is forgotten.
    ///
    /// # Errors
    /// [`LibraryError::Absent`], [`LibraryError::OtherPool`], [`LibraryError::State`].
    pub fn retire(&self, barcode: Barcode, why: Option<String>) -> Result<(), LibraryError> {
        let mut stock = self.stock.lock();
        let cartridge = self.own(&mut stock, barcode)?;
        if why.is_none() {
            cartridge.entry.read_only = None;
            cartridge.entry.repack = false;
            cartridge.entry.failed_on.clear();
            cartridge.entry.ends = None;
            cartridge.failing = None;
        }
        cartridge.entry.retired = why;
        self.keep(&mut stock)
    }
}

/// How many drives work. One that was just retired may not have been told so yet.
fn working(bays: &[BayStatus], drives: &[DriveEntry]) -> usize {
    let works = |bay: &&BayStatus| {
        let entry = drives.iter().find(|d| d.number == bay.number.0);
        bay.failed.is_none() && entry.is_none_or(|d| d.retired.is_none())
    };
    bays.iter().filter(works).count()
}

impl Library {
    /// Keeps, when it is closed, what was counted and is not kept yet.
    pub(super) fn keep_last(&self) {
        self.note_failures();
        let mut stock = self.stock.lock();
        // Another filesystem may lie over it by now.
        if stock.unkept
            && self.is_in_place()
            && let Err(error) = self.keep(&mut stock)
        {
            tracing::warn!(%error, "what was counted since is not kept");
        }
    }
}

impl Stock {
    fn retired(&self, drive: DriveNumber) -> Option<String> {
        let entry = self.state.drives.iter().find(|d| d.number == drive.0);
        entry.and_then(|d| d.retired.clone())
    }

    /// Counts an error; `true`: something follows from it. `spare`: another drive works.
    fn count(
        &mut self,
        drive: DriveNumber,
        barcode: Barcode,
        fault: Fault,
        why: &str,
        spare: bool,
    ) -> bool {
        let mut follows = false;
        if let Some(Cartridge { entry, failing, .. }) = self.cartridges.get_mut(&barcode) {
            entry.errors.note(fault, drive.to_string(), why.to_owned());
            if fault == Fault::Write {
                *failing = Some(why.to_owned());
                if !entry.failed_on.contains(&drive.0) {
                    entry.failed_on.push(drive.0);
                }
                if entry.failed_on.len() >= DRIVES && entry.read_only.is_none() {
                    let drives = entry.failed_on.iter().map(u32::to_string);
                    let drives = drives.collect::<Vec<_>>().join(" and ");
                    entry.read_only = Some(format!("writes failed on drives {drives}"));
                    tracing::error!(%barcode, "a cartridge is not written any more");
                    follows = true;
                }
            }
        }
        if drive.0 == 0 {
            // No drive's fault.
            return follows;
        }
        let entry: &mut DriveEntry = self.state.drive(drive.0);
        let with = barcode.to_string();
        entry.errors.note(fault, with, why.to_owned());
        if !entry.streak.contains(&barcode) && entry.streak.len() < STREAK {
            entry.streak.push(barcode);
        }
        if entry.streak.len() >= STREAK && entry.retired.is_none() && spare {
            let with: Vec<String> = entry.streak.iter().map(Barcode::to_string).collect();
            let why = format!("it failed with {} one after the other", with.join(", "));
            entry.retired = Some(why);
            follows = true;
        }
        follows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::tape::drive::Tally;
    use crate::tier::tape::state::State;

    #[test]
    fn a_drive_that_is_being_retired_does_not_count_as_one_that_works() {
        let bay = |number| BayStatus {
            number: DriveNumber(number),
            holds: None,
            busy: true,
            failed: None,
            tally: Tally::default(),
        };
        let mut bays = [bay(1), bay(2), bay(3)];
        let mut state = State::new(Some(crate::id::TierId(7)));
        assert_eq!(working(&bays, &state.drives), 3);
        // It is written down first, and acted upon later.
        state.drive(1).retired = Some("a test".to_owned());
        assert_eq!(working(&bays, &state.drives), 2);
        bays[1].failed = Some("a test".to_owned());
        state.drive(3);
        assert_eq!(working(&bays, &state.drives), 1);
        state.drive(3).retired = Some("a test".to_owned());
        assert_eq!(working(&bays, &state.drives), 0);
    }
}
