//! Cartridges are made empty: those on which all is dead, and those that are worth it first.
//!
//! Invariants kept here (and in [`Library::free`]):
//! - A cartridge is freed, by itself or by word, only if all of it was seen and all of it is dead, and it
//!   may be written: that is asked when it is in its drive, just before it is erased.
//! - No pool frees another one's cartridge.

use super::view::bytes;
use super::{Cartridge, Library, LibraryError};
use crate::tier::tape::label::Barcode;
use crate::tier::tape::state::{Entry, FULL};
use std::collections::BTreeSet;

impl Library {
    /// Frees all cartridges on which everything is dead, as far as they may be written: which, and how
    /// many bytes were on them.
    pub fn free_dead(&self) -> Vec<(Barcode, u64)> {
        let mut freed = Vec::new();
        for (barcode, used) in self.all_dead() {
            match self.free(barcode) {
                Ok(()) => {
                    tracing::info!(%barcode, used, "a cartridge is free again");
                    freed.push((barcode, used));
                }
                Err(error) => tracing::warn!(%barcode, %error, "a cartridge is not freed"),
            }
        }
        freed
    }

    fn all_dead(&self) -> Vec<(Barcode, u64)> {
        let stock = self.stock.lock();
        let twins = stock.twins.values().flatten();
        let withheld = stock.withheld.values().flatten();
        let named: BTreeSet<Barcode> = stock
            .names
            .values()
            .chain(twins)
            .chain(withheld)
            .map(|(at, _)| *at)
            .collect();
        let is_dead = |(barcode, c): &(&Barcode, &Cartridge)| {
            c.owner == Some(self.tier)
                && c.kept().is_none()
                && !c.is_empty()
                && c.files.live().next().is_none()
                && !named.contains(barcode)
        };
        let dead = stock.cartridges.iter().filter(is_dead);
        dead.map(|(barcode, c)| (*barcode, c.used)).collect()
    }

    /// Cartridges that are worth emptying: nothing more goes to them (full, retired, no more
    /// written), and so many percent of their files' bytes are dead. Not one that is write-protected or
    /// another tier's: somebody wants it as it is.
    #[must_use]
    pub fn worth_repacking(&self, share: u64) -> Vec<Barcode> {
        let stock = self.stock.lock();
        let worth = |(_, c): &(&Barcode, &Cartridge)| {
            let Entry {
                full,
                retired,
                read_only,
                write_protected,
                taken_from,
                ..
            } = &c.entry;
            let untouched = *write_protected || taken_from.is_some();
            let room = c.entry.room();
            let filled = *full || c.used >= room - room / FULL;
            let done = filled || retired.is_some() || read_only.is_some();
            let seen = c.trouble.is_none() && c.damage.is_none() && c.entry.away.is_none();
            let (all, live) = (bytes(c.files.all()), bytes(c.files.live()));
            let dead = all.saturating_sub(live);
            let enough = dead.saturating_mul(100) >= all.saturating_mul(share);
            let ours = c.owner == Some(self.tier) && !untouched;
            ours && done && seen && !c.entry.repack && live > 0 && dead > 0 && enough
        };
        let worth = stock.cartridges.iter().filter(worth);
        worth.map(|(barcode, _)| *barcode).collect()
    }

    /// Would the files in parts of which something lies on a cartridge of this tier find room for another copy now? They
    /// leave it as a whole.
    #[must_use]
    pub fn has_room_for_parts(&self, barcode: Barcode) -> bool {
        let lens: Vec<u64> = {
            let stock = self.stock.lock();
            let live = || {
                let all = stock.cartridges.iter();
                let own = all.filter(|(_, c)| c.owner == Some(self.tier));
                own.flat_map(|(on, c)| c.files.live().map(move |file| (*on, file)))
            };
            let parts: BTreeSet<_> = live()
                .filter(|(_, file)| file.name.is_part())
                .map(|(_, file)| file.name.head())
                .collect();
            let here: BTreeSet<_> = live()
                .filter(|(on, file)| *on == barcode && parts.contains(&file.name.head()))
                .map(|(_, file)| file.name.head())
                .collect();
            live()
                .filter(|(_, file)| here.contains(&file.name.head()))
                .map(|(_, file)| file.len)
                .collect()
        };
        lens.is_empty() || self.admit_all(&lens).is_ok()
    }

    /// Says, durably, that what is needed of a cartridge is to be copied to others, or not any more:
    /// nothing new goes to it meanwhile.
    ///
    /// # Errors
    /// [`LibraryError::Absent`], [`LibraryError::Exported`], [`LibraryError::OtherPool`], [`LibraryError::Blank`],
    /// [`LibraryError::State`].
    pub fn set_repack(&self, barcode: Barcode, repack: bool) -> Result<(), LibraryError> {
        self.written(&self.stock.lock(), barcode)?;
        if repack {
            self.to_insert(barcode)?;
        }
        let mut stock = self.stock.lock();
        let entry = &mut self.own(&mut stock, barcode)?.entry;
        if entry.repack == repack {
            return Ok(());
        }
        entry.repack = repack;
        self.keep(&mut stock)
    }
}

impl Cartridge {
    /// Why it is not made empty, even if all that is known on it is dead.
    pub(super) fn kept(&self) -> Option<String> {
        if let Some(why) = self.trouble.as_ref().or(self.damage.as_ref()) {
            return Some(why.clone());
        }
        match &self.entry {
            entry if entry.away.is_some() => Some("it is away".to_owned()),
            entry if entry.retired.is_some() => Some("it is retired".to_owned()),
            entry if entry.write_protected => Some("it is write-protected".to_owned()),
            entry => entry.read_only.clone(),
        }
    }
}
