//! Which cartridges have room, and for whom it is kept.
//!
//! Invariants kept here:
//! - What is promised to the objects of a file in parts is given to no other object while the promise lives: whoever
//!   chooses a cartridge has those laid out first, the longest first.
//! - Of a file in parts nothing is begun before all of it has room: on cartridges, and, for one object at a time, in the
//!   front area.

use super::choose::{Candidate, Kind, NoRoom, choose, choose_all, lay_out, lengths, longest};
use super::{Cartridge, FRONT, Library, LibraryError, Name, Stock};
use crate::id::{AggregateId, TierId};
use crate::tier::tape::label::Barcode;
use crate::tier::tape::volume::{Next, room_for};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// However little room the front area has, no file of up to so many bytes is cut for its sake.
const FRONT_LEAST: u64 = 64 << 20;

/// Room that a library keeps for some objects. Dropped, it is everybody's again.
pub struct Kept {
    library: Arc<Library>,
    names: Vec<Name>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut stock = self.library.stock.lock();
        for name in &self.names {
            stock.promised.remove(name);
        }
    }
}

/// Whose promises count for a choice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Besides {
    /// All.
    Nobody,
    /// All but this object's own.
    Object(AggregateId),
    /// All but those of the objects of this one's file.
    File(AggregateId),
}

impl Besides {
    fn counts(self, tier: TierId, (of, name): Name) -> bool {
        match self {
            Self::Nobody => true,
            Self::Object(own) => (of, name) != (tier, own),
            Self::File(own) => (of, name.head()) != (tier, own.head()),
        }
    }
}

impl Library {
    /// Would a file of this name and so many bytes find a cartridge now?
    ///
    /// # Errors
    /// [`LibraryError::NoRoom`].
    pub fn admit(&self, name: AggregateId, len: u64) -> Result<(), LibraryError> {
        self.candidate(name, len, &BTreeSet::new()).map(|_| ())
    }

    /// Would files of these lengths find room now, all of them?
    ///
    /// # Errors
    /// [`LibraryError::NoRoom`].
    pub fn admit_all(&self, lens: &[u64]) -> Result<(), LibraryError> {
        self.make_room(lens, |_| ())
    }

    /// Keeps room for these objects, which are those of one file, as long as the value lives.
    ///
    /// # Errors
    /// [`LibraryError::NoRoom`].
    pub fn promise(self: &Arc<Self>, objects: &[(AggregateId, u64)]) -> Result<Kept, LibraryError> {
        let lens: Vec<u64> = objects.iter().map(|(_, len)| *len).collect();
        let names: Vec<Name> = objects.iter().map(|(name, _)| (self.tier, *name)).collect();
        let keep = |stock: &mut Stock| {
            let promised = names.iter().copied().zip(lens.iter().copied());
            stock.promised.extend(promised);
        };
        self.make_room(&lens, keep)?;
        Ok(Kept {
            library: Arc::clone(self),
            names,
        })
    }

    /// Sees that there is room for all of these, and does something before anybody else looks.
    fn make_room(&self, lens: &[u64], then: impl Fn(&mut Stock)) -> Result<(), LibraryError> {
        self.look_again();
        match self.try_room(lens, &then) {
            Err(LibraryError::NoRoom(NoRoom::Parts { .. })) if !self.free_dead().is_empty() => {
                self.try_room(lens, &then)
            }
            found => found,
        }
    }

    fn try_room(&self, lens: &[u64], then: impl Fn(&mut Stock)) -> Result<(), LibraryError> {
        let front = self.front_free();
        let bays = self.mounts.status();
        let mut stock = self.stock.lock();
        let (candidates, kept) = self.laid_out(&stock, &bays, &BTreeSet::new(), Besides::Nobody);
        choose_all(candidates, lens, (self.kind(), kept))?;
        fits_in_front((front, !self.is_real()), &stock.promised, lens)?;
        then(&mut stock);
        Ok(())
    }

    /// See [`crate::tier::Tier::longest`].
    #[must_use]
    pub fn longest(&self) -> u64 {
        let (candidates, _) = self.candidates(&BTreeSet::new(), Besides::Nobody);
        longest(&candidates, self.kind())
    }

    /// See [`crate::tier::Tier::lengths`]: never empty.
    #[must_use]
    pub fn lengths(&self, file: u64) -> Vec<u64> {
        let front = self.front_free();
        let (candidates, _) = self.candidates(&BTreeSet::new(), Besides::Nobody);
        let reserve = self.options.part_reserve();
        // The front area keeps some for others; that of a virtual library lies where its cartridges do.
        let front = if self.is_real() {
            front / 4 * 3
        } else {
            front / 2
        };
        lengths(
            &candidates,
            self.kind(),
            (reserve, front.max(FRONT_LEAST)),
            file,
        )
    }

    /// The cartridge for so many bytes. If none has room, those are freed on which everything is dead.
    pub(super) fn candidate(
        &self,
        name: AggregateId,
        len: u64,
        tried: &BTreeSet<Barcode>,
    ) -> Result<Barcode, LibraryError> {
        self.look_again();
        match self.best(name, len, tried) {
            Err(LibraryError::NoRoom(NoRoom::Full { .. })) if !self.free_dead().is_empty() => {
                self.best(name, len, tried)
            }
            found => found,
        }
    }

    fn best(
        &self,
        name: AggregateId,
        len: u64,
        tried: &BTreeSet<Barcode>,
    ) -> Result<Barcode, LibraryError> {
        let (candidates, kept) = self.candidates(tried, Besides::Object(name));
        match choose(&candidates, len, (self.kind(), kept)) {
            // Something went wrong with a cartridge since it was promised: first come, first served.
            Err(NoRoom::Full { .. }) if self.is_promised(name) => {
                let (candidates, kept) = self.candidates(tried, Besides::File(name));
                Ok(choose(&candidates, len, (self.kind(), kept))?)
            }
            found => Ok(found?),
        }
    }

    fn is_promised(&self, name: AggregateId) -> bool {
        self.stock.lock().promised.contains_key(&(self.tier, name))
    }

    /// Bytes that are left on a cartridge behind `next` for an object of this name and length, and for others that are
    /// written with it.
    pub(super) fn left(
        &self,
        barcode: Barcode,
        next: Next,
        (name, len): (AggregateId, u64),
    ) -> u64 {
        let bays = self.mounts.status();
        let stock = self.stock.lock();
        let Some(cartridge) = stock.cartridges.get(&barcode) else {
            return 0;
        };
        let left = |besides| {
            let (laid_out, _) = self.laid_out(&stock, &bays, &BTreeSet::new(), besides);
            let candidate = laid_out.iter().find(|c| c.barcode == barcode);
            let used = candidate.map_or(cartridge.used, |c| c.used);
            let promised = used.saturating_sub(cartridge.used);
            cartridge
                .entry
                .room()
                .saturating_sub(next.bytes.saturating_add(promised))
        };
        match left(Besides::Object(name)) {
            enough if enough >= room_for(len) => enough,
            _ => left(Besides::File(name)),
        }
    }

    /// What is added when the library is full.
    fn kind(&self) -> Kind {
        let geometry = self.options.geometry();
        Kind {
            generation: geometry.generation,
            capacity: geometry.capacity,
        }
    }

    fn candidates(&self, tried: &BTreeSet<Barcode>, besides: Besides) -> (Vec<Candidate>, usize) {
        let bays = self.mounts.status();
        self.laid_out(&self.stock.lock(), &bays, tried, besides)
    }

    /// The tier's cartridges as they will be when what is promised is on them, and for how many objects that is.
    fn laid_out(
        &self,
        stock: &Stock,
        bays: &[super::BayStatus],
        tried: &BTreeSet<Barcode>,
        besides: Besides,
    ) -> (Vec<Candidate>, usize) {
        let candidate = |(barcode, cartridge): (&Barcode, &Cartridge)| {
            let bay = bays.iter().find(|b| b.holds == Some(*barcode));
            let tried = tried
                .contains(barcode)
                .then(|| "could not be written just now".to_owned());
            Candidate {
                barcode: *barcode,
                capacity: cartridge.entry.room(),
                used: cartridge.used,
                hindrance: cartridge.hindrance().or(tried),
                failing: cartridge.failing.is_some(),
                mounted: bay.is_some(),
                busy: bay.is_some_and(|b| b.busy),
            }
        };
        let mut all: Vec<Candidate> = stock.cartridges.iter().map(candidate).collect();
        let promised = stock.promised.iter().map(|(name, len)| (*name, *len));
        let mut promised: Vec<(Name, u64)> = promised
            .filter(|(name, _)| besides.counts(self.tier, *name) && !stock.names.contains_key(name))
            .collect();
        promised.sort_by_key(|(name, len)| (std::cmp::Reverse(*len), *name));
        let is_for = |tier: TierId, barcode: &Barcode| {
            let cartridge = stock.cartridges.get(barcode);
            cartridge.is_some_and(|c| c.is_for(tier))
        };
        for ((tier, _), len) in &promised {
            lay_out(&mut all, *len, |barcode| is_for(*tier, barcode));
        }
        all.retain(|c| is_for(self.tier, &c.barcode));
        (all, promised.len())
    }

    /// Bytes that are free where objects wait for a drive.
    fn front_free(&self) -> u64 {
        match rustix::fs::statvfs(self.root.join(FRONT)) {
            Ok(below) => below.f_bavail.saturating_mul(below.f_frsize),
            // Whoever needs it is told by his first write.
            Err(_) => u64::MAX,
        }
    }
}

/// Has the front area, of which so much is free, room for these objects of one file, one after the other, beside those of
/// others? `with_images`: all of them will lie on the same filesystem.
fn fits_in_front(
    (free, with_images): (u64, bool),
    promised: &BTreeMap<Name, u64>,
    lens: &[u64],
) -> Result<(), NoRoom> {
    let mut others: BTreeMap<Name, u64> = BTreeMap::new();
    for ((tier, name), len) in promised {
        let longest = others.entry((*tier, name.head())).or_default();
        *longest = (*len).max(*longest);
    }
    let sum =
        |start: u64, lens: &mut dyn Iterator<Item = u64>| lens.fold(start, u64::saturating_add);
    let free = free.saturating_sub(sum(0, &mut others.into_values()));
    let longest = lens.iter().copied().max().unwrap_or(0);
    let wanted = match with_images {
        true => sum(longest, &mut lens.iter().copied()),
        false => longest,
    };
    if wanted <= free {
        return Ok(());
    }
    Err(NoRoom::Front { wanted, free })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_room_in_the_front_beside_the_longest_of_each_other_file() {
        let id = |seq| AggregateId { epoch: 1, seq };
        let promised = BTreeMap::from([
            ((TierId(1), id(1)), 10),
            ((TierId(1), id(1).part(1)), 40),
            ((TierId(2), id(1).part(1)), 30),
        ]);
        let fits = |free, with_images, lens: &[u64]| {
            let found = fits_in_front((free, with_images), &promised, lens);
            found.is_ok()
        };
        assert!(fits(170, false, &[100, 90]) && !fits(169, false, &[100, 90]));
        assert!(fits(360, true, &[100, 90]) && !fits(359, true, &[100, 90]));
        let said = fits_in_front((170, false), &promised, &[101]).map_err(|why| why.to_string());
        let said = said.expect_err("too long");
        assert!(
            said.contains("has 100 bytes free") && said.contains("101 are wanted"),
            "{said}"
        );
    }
}
