//! The library as it stands, for people: cartridges, what is on them, drives, and what lies in its
//! directory and is none of its own.

use super::mounts::BayStatus;
use super::{CARTRIDGES, Cartridge, Library, LibraryError};
use crate::tier::tape::drive::DriveNumber;
use crate::tier::tape::label::Barcode;
use crate::tier::tape::state::{Entry, Errors};
use crate::tier::tape::volume::{FIRST, TapeFile};
use std::time::Duration;

/// A cartridge as it stands, for people and for choosing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CartridgeStatus {
    /// As the library's state has it.
    pub entry: Entry,
    /// In a library with pools, the name of the one whose it is.
    pub pool: Option<String>,
    /// It is no pool's, and blank.
    pub scratch: bool,
    /// Bytes on it, labels included.
    pub used: u64,
    /// Files on it, dead ones too.
    pub files: usize,
    /// Files that are not dead.
    pub live: usize,
    /// Bytes of files that are not dead.
    pub live_bytes: u64,
    /// Bytes of files that are dead.
    pub dead: u64,
    /// The drive that it is in.
    pub drive: Option<DriveNumber>,
    /// Why it cannot be used, or not be written, or failed to be.
    pub trouble: Option<String>,
    /// It cannot be used at all.
    pub unusable: bool,
    /// Something is wrong on it: it is read, and must not be written.
    pub damaged: bool,
}

/// A drive as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct DriveStatus {
    /// What is in it, and what it did since the library was opened.
    pub bay: BayStatus,
    /// What went wrong with it, ever.
    pub errors: Errors,
    /// Why it is retired.
    pub retired: Option<String>,
}

/// A file of a cartridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStatus {
    /// Where it lies, and what it sums to.
    pub file: TapeFile,
    /// It was deleted.
    pub dead: bool,
    /// Why it is bad.
    pub bad: Option<String>,
}

impl Cartridge {
    fn status(&self, library: &Library, bays: &[BayStatus]) -> CartridgeStatus {
        let files = self.files.all().iter();
        let (dead, live): (Vec<&TapeFile>, Vec<&TapeFile>) =
            files.partition(|f| self.files.is_dead(f));
        let holds = |bay: &&BayStatus| bay.holds == Some(self.entry.barcode);
        CartridgeStatus {
            used: self.used,
            files: self.files.all().len(),
            live: live.len(),
            live_bytes: bytes(live),
            dead: bytes(dead),
            drive: bays.iter().find(holds).map(|bay| bay.number),
            trouble: self
                .trouble
                .as_ref()
                .or(self.damage.as_ref())
                .or(self.failing.as_ref())
                .cloned(),
            unusable: self.trouble.is_some(),
            damaged: self.damage.is_some(),
            pool: library.pool.clone().filter(|_| self.owner.is_some()),
            scratch: self.owner.is_none(),
            entry: library.entry(self),
        }
    }

    /// Nothing was ever written to it, or all of it is gone.
    pub(super) fn is_empty(&self) -> bool {
        self.used <= FIRST.bytes && self.files.all().is_empty()
    }
}

impl Library {
    /// All cartridges, by barcode; with pools, those of this one and blank ones.
    #[must_use]
    pub fn cartridges(&self) -> Vec<CartridgeStatus> {
        let bays = self.mounts.status();
        let stock = self.stock.lock();
        let own = stock.cartridges.values().filter(|c| c.is_for(self.tier));
        own.map(|c| c.status(self, &bays)).collect()
    }

    /// One of them, and the files on it in the order in which they lie.
    ///
    /// # Errors
    /// [`LibraryError::Absent`], [`LibraryError::OtherPool`].
    pub fn cartridge(
        &self,
        barcode: Barcode,
    ) -> Result<(CartridgeStatus, Vec<FileStatus>), LibraryError> {
        let bays = self.mounts.status();
        let mut stock = self.stock.lock();
        let cartridge = &*self.own(&mut stock, barcode)?;
        let file = |file: &TapeFile| FileStatus {
            file: *file,
            dead: cartridge.files.is_dead(file),
            bad: cartridge
                .entry
                .bad
                .iter()
                .find(|bad| bad.object == file.object)
                .map(|bad| bad.why.clone()),
        };
        let files = cartridge.files.all().iter().map(file).collect();
        Ok((cartridge.status(self, &bays), files))
    }

    /// What the drives did and hold.
    #[must_use]
    pub fn drives(&self) -> Vec<BayStatus> {
        self.mounts.status()
    }

    /// All drives, with what went wrong with them.
    #[must_use]
    pub fn drive_states(&self) -> Vec<DriveStatus> {
        self.note_failures();
        let bays = self.mounts.status();
        let stock = self.stock.lock();
        let status = |bay: BayStatus| {
            let entry = stock.state.drives.iter().find(|d| d.number == bay.number.0);
            DriveStatus {
                errors: entry.map(|d| d.errors.clone()).unwrap_or_default(),
                retired: entry.and_then(|d| d.retired.clone()),
                bay,
            }
        };
        bays.into_iter().map(status).collect()
    }

    /// Indexes of cartridges that the library does not have, and what lies among the cartridges and
    /// is none of the library's: name and reason.
    ///
    /// # Errors
    /// [`LibraryError::Io`].
    pub fn strangers(&self) -> Result<Vec<(String, String)>, LibraryError> {
        if self.is_real() {
            return self.strangers_real();
        }
        let fail = |e| LibraryError::io("looking for cartridges", e);
        let mut found = Vec::new();
        for image in std::fs::read_dir(self.root.join(CARTRIDGES)).map_err(fail)? {
            let name = image.map_err(fail)?.file_name();
            let barcode = name.to_str().and_then(barcode_of);
            if barcode.is_some_and(|b| self.stock.lock().cartridges.contains_key(&b)) {
                continue;
            }
            let why = match barcode {
                None => "its name is no barcode with .tap behind it".to_owned(),
                Some(barcode) => match self.appraise(barcode, &self.image(barcode)) {
                    Err(error) => error.to_string(),
                    Ok(_) => "it is no cartridge of the library yet: import it".to_owned(),
                },
            };
            found.push((name.to_string_lossy().into_owned(), why));
        }
        found.sort();
        Ok(found)
    }

    /// Why not all can be seen that may be on cartridges; one line for each of them.
    #[must_use]
    pub fn unseen(&self) -> Vec<String> {
        let stock = self.stock.lock();
        let here = stock.cartridges.iter().filter(|(_, c)| c.is_for(self.tier));
        let hidden = here.filter_map(|(barcode, c)| {
            let why = c.trouble.as_ref().or(c.damage.as_ref())?;
            let blind = match c.files.is_known() {
                true => "",
                false => "; its index is lost, too: what lies on it is not listed",
            };
            Some(format!("cartridge {barcode}: {why}{blind}"))
        });
        hidden.chain(stock.orphans.iter().cloned()).collect()
    }

    /// Bytes that fit still, and that fit in all, on cartridges that are there: its own, and blank ones.
    #[must_use]
    pub fn space(&self) -> (u64, u64) {
        let stock = self.stock.lock();
        let there = stock.cartridges.values();
        let there = there.filter(|c| c.trouble.is_none() && c.is_for(self.tier));
        there.fold((0, 0), |(free, total), c| {
            let left = match c.hindrance() {
                None => c.entry.room().saturating_sub(c.used),
                Some(_) => 0,
            };
            (
                free.saturating_add(left),
                total.saturating_add(c.entry.room()),
            )
        })
    }

    /// How long all drives were busy, each for itself, in the model's time.
    #[must_use]
    pub fn busy(&self) -> Vec<Duration> {
        self.drives().iter().map(|d| d.tally.busy).collect()
    }
}

/// Bytes of files. Hostile labels may say anything.
pub(super) fn bytes<'f>(files: impl IntoIterator<Item = &'f TapeFile>) -> u64 {
    let all = files.into_iter();
    all.fold(0, |sum, file| sum.saturating_add(file.len))
}

/// The barcode in an image's name.
pub(super) fn barcode_of(name: &str) -> Option<Barcode> {
    name.strip_suffix(".tap")?.parse().ok()
}
