//! Cartridges of a real library: they are looked at in its drives only, and come and go by people's hands.
//!
//! Invariants kept here:
//! - No label is written but on somebody's word, and only where nothing is: a tape without data, or with a mark alone.
//!   Another one's label is never overwritten.
//! - What the changer does not see is absent; what nobody has looked at, whose index is not here, may hold anything.
//! - A cartridge that goes is known to be away, durably, before the changer moves it.

use super::media::{declined, free_slot, same_volume};
use super::view::bytes;
use super::{FILES, Import, Library, LibraryError, Mounted, Taken, volume, wanted};
use crate::id::TierId;
use crate::tier::tape::drive::{Drive, Read};
use crate::tier::tape::label::{Barcode, LABEL, NotOurs};
use crate::tier::tape::state::Entry;
use crate::tier::tape::timing::Generation;
use crate::tier::tape::volume::{Scan, VolumeError};
use std::path::{Path, PathBuf};

impl Library {
    /// Are its cartridges no images?
    #[must_use]
    pub fn is_real(&self) -> bool {
        self.equipment.is_real()
    }

    /// Cartridges that were left in the drives are used there.
    pub(super) fn find_in_drives(&self) {
        if !self.is_real() {
            return;
        }
        match self.mounts.robot().inventory() {
            Ok(all) => {
                for standing in all {
                    if let (Some(drive), Some(barcode)) = (standing.drive, standing.barcode()) {
                        tracing::info!(%barcode, %drive, "a cartridge is in a drive already");
                        self.mounts.found(drive, barcode);
                    }
                }
            }
            Err(error) => tracing::error!(%error, "the changer cannot be asked what it has"),
        }
    }

    /// The state was lost: the cartridges whose indexes are here, as far as the changer has them. Their labels
    /// are checked when they are loaded.
    pub(super) fn recognise(&self) -> Result<Vec<Entry>, LibraryError> {
        let fail = |e| LibraryError::io("looking for indexes", e);
        let mut found = Vec::new();
        for index in std::fs::read_dir(self.root.join(FILES)).map_err(fail)? {
            let name = index.map_err(fail)?.file_name();
            let barcode = name.to_str().and_then(|n| n.strip_suffix(".jsonl"));
            found.extend(barcode.and_then(|b| b.parse::<Barcode>().ok()));
        }
        found.sort_unstable();
        let mut entries: Vec<Entry> = Vec::new();
        for barcode in found {
            let here = self.mounts.robot().has(barcode);
            let here = here.map_err(|source| LibraryError::Robot { barcode, source })?;
            if let (true, Some(generation)) = (here, generation_of(barcode)) {
                let geometry = self.geometry_of(generation, &entries);
                entries.push(Entry::new(barcode, geometry, free_slot(&entries)));
            }
        }
        Ok(entries)
    }

    /// Sees what can be seen of a cartridge that the changer has, without loading it.
    pub(super) fn look_from_afar(&self, barcode: Barcode) -> Result<(), LibraryError> {
        let mut stock = self.stock.lock();
        let cartridge = stock.cartridges.get_mut(&barcode);
        let cartridge = cartridge.ok_or(LibraryError::Absent { barcode })?;
        if !cartridge.files.is_known() {
            let why = format!("its index is not here: `cairn tape verify {barcode}` reads it");
            return Err(declined(barcode, why));
        }
        if !cartridge.distrusted {
            cartridge.trouble = None;
        }
        Ok(())
    }

    /// The tab of the cartridge that was just loaded, as its drive sees it.
    pub(super) fn note_tab(&self, drive: &mut dyn Drive, barcode: Barcode) {
        if !self.is_real() {
            return;
        }
        let Ok(status) = drive.status() else { return };
        let mut stock = self.stock.lock();
        if let Some(cartridge) = stock.cartridges.get_mut(&barcode) {
            cartridge.entry.write_protected = status.protected;
        }
    }

    fn is_in_changer(&self, barcode: Barcode) -> Result<(), LibraryError> {
        match self.mounts.robot().has(barcode) {
            Ok(true) => Ok(()),
            Ok(false) => Err(declined(barcode, "the changer does not have it: put it in")),
            Err(source) => Err(LibraryError::Robot { barcode, source }),
        }
    }

    /// Has a cartridge loaded of which nothing is known, and not looked at.
    fn mount_unseen(&self, entry: &Entry) -> Result<Mounted<'_>, LibraryError> {
        let mounted = self.mounts.mount(&wanted(entry), None);
        self.note_failures();
        mounted.map_err(|e| LibraryError::mount(entry.barcode, e))
    }

    /// Labels a cartridge that the changer has and nothing is on, or takes one in that this tier labelled.
    pub(super) fn label_real(&self, barcode: Option<Barcode>) -> Result<Entry, LibraryError> {
        let barcode = barcode.ok_or_else(|| {
            declined(
                "a new cartridge",
                "name it as its sticker says: nobody makes one here",
            )
        })?;
        let (entry, known) = {
            let stock = self.stock.lock();
            match stock.cartridges.get(&barcode) {
                Some(c) if c.entry.away.is_some() => {
                    return Err(declined(
                        barcode,
                        "it is away: `cairn tape import` takes it in",
                    ));
                }
                Some(c) if !c.files.all().is_empty() || c.files.unreadable().is_some() => {
                    return Err(declined(
                        barcode,
                        "it is in the library already, with files: `cairn tape repack` moves what is needed of it",
                    ));
                }
                Some(c) => (self.entry(c), true),
                None => {
                    let entries: Vec<Entry> =
                        stock.cartridges.values().map(|c| c.entry.clone()).collect();
                    (self.new_entry(barcode, &entries)?, false)
                }
            }
        };
        self.is_in_changer(barcode)?;
        // Put into a drive that was seen to be empty before: what is written to now is what the changer moved.
        self.mounts.evict(barcode);
        let mut mounted = self.mount_unseen(&entry)?;
        if let Err(error) = self.label_loaded(mounted.drive(), barcode) {
            mounted.vacate();
            return Err(error);
        }
        drop(mounted);
        {
            let mut stock = self.stock.lock();
            match stock.cartridges.get_mut(&barcode) {
                Some(cartridge) => cartridge.entry.taken_from = None,
                None => self.enter(&mut stock, entry.clone()),
            }
            self.keep(&mut stock)?;
        }
        self.look_now(barcode)?;
        tracing::info!(%barcode, known, "a cartridge is labelled");
        Ok(entry)
    }

    fn new_entry(&self, barcode: Barcode, entries: &[Entry]) -> Result<Entry, LibraryError> {
        let generation = generation_of(barcode).ok_or_else(|| {
            declined(
                barcode,
                "its last two characters are no generation that is known",
            )
        })?;
        if let Some(twin) = same_volume(entries, barcode) {
            let why = format!("{twin} has the same name of a volume (six characters)");
            return Err(declined(barcode, why));
        }
        let geometry = self.geometry_of(generation, entries);
        Ok(Entry::new(barcode, geometry, free_slot(entries)))
    }

    fn label_loaded(&self, drive: &mut dyn Drive, barcode: Barcode) -> Result<(), LibraryError> {
        let fail = |e| LibraryError::volume(barcode, e);
        match volume::label(drive) {
            Ok(_) => volume::check(drive, barcode, self.tier)
                .map(drop)
                .map_err(fail),
            Err(VolumeError::NotOurs(NotOurs::Unlabelled)) => {
                if !is_without_data(drive).map_err(fail)? {
                    return Err(declined(
                        barcode,
                        "something is on it that is not Cairn's, and no label is written over that. If nobody \
                         needs it, make it empty: `mt -f DEVICE rewind` and `mt -f DEVICE weof`",
                    ));
                }
                volume::initialise(drive, &self.own_label(barcode)).map_err(fail)
            }
            Err(error) => Err(fail(error)),
        }
    }

    /// Loads a cartridge and looks at it: its index is what is on it then.
    fn look_now(&self, barcode: Barcode) -> Result<(), LibraryError> {
        let looked = self.mount(barcode).map(drop);
        let orphans = self.orphans()?;
        self.stock.lock().orphans = orphans;
        looked
    }

    /// Lets a cartridge leave the library: the changer moves it to where people take it out, if it has such a
    /// place. Where it stands then.
    pub(super) fn export_real(
        &self,
        barcode: Barcode,
        to: Option<&Path>,
    ) -> Result<PathBuf, LibraryError> {
        self.written(&self.stock.lock(), barcode)?;
        if to.is_some() {
            return Err(declined(barcode, "it is no image: say nothing of where to"));
        }
        self.send_off(barcode, Some("on its way out"))?;
        self.mounts.evict(barcode);
        let out = self.vouch_for(barcode).and_then(|()| {
            let out = self.mounts.robot().put_out(barcode);
            out.map_err(|source| LibraryError::Robot { barcode, source })
        });
        let place = match out {
            Ok(place) => place.unwrap_or_else(|| "its slot (take it out by hand)".to_owned()),
            Err(error) => {
                self.send_off(barcode, None)?;
                return Err(error);
            }
        };
        let mut stock = self.stock.lock();
        if let Some(cartridge) = stock.cartridges.get_mut(&barcode) {
            let path = place.clone();
            cartridge.trouble = Some(LibraryError::Exported { barcode, path }.to_string());
            if let Some(away) = &mut cartridge.entry.away {
                away.path.clone_from(&place);
            }
        }
        self.keep(&mut stock)?;
        Ok(place.into())
    }

    /// Takes a cartridge in that the changer has: see [`Library::import`].
    pub(super) fn import_real(&self, what: &Import, take: bool) -> Result<Taken, LibraryError> {
        let Import::Known(barcode) = what else {
            return Err(declined(
                "an image",
                "this library is real: put the cartridge into the changer, and name it as its sticker says",
            ));
        };
        let barcode = *barcode;
        let entries: Vec<Entry> = {
            let stock = self.stock.lock();
            stock.cartridges.values().map(|c| self.entry(c)).collect()
        };
        let known = entries.iter().find(|e| e.barcode == barcode).cloned();
        if known.as_ref().is_some_and(|e| e.away.is_none()) {
            return Err(declined(barcode, "the library has it already"));
        }
        let entry = match &known {
            Some(known) => known.clone(),
            None => self.new_entry(barcode, &entries)?,
        };
        self.is_in_changer(barcode)?;
        let moved = self.mounts.robot().take_in(barcode);
        moved.map_err(|source| LibraryError::Robot { barcode, source })?;
        let mut mounted = self.mount_unseen(&entry)?;
        let taken = self.take_loaded(mounted.drive(), barcode, (known, take));
        // Loaded anew by whoever wants it next, and looked at then.
        mounted.vacate();
        let (scan, foreign) = taken?;
        self.look_now(barcode)?;
        Ok(Taken {
            barcode,
            files: scan.files.len(),
            bytes: bytes(&scan.files),
            from: foreign,
        })
    }

    fn take_loaded(
        &self,
        drive: &mut dyn Drive,
        barcode: Barcode,
        (known, take): (Option<Entry>, bool),
    ) -> Result<(Scan, Option<TierId>), LibraryError> {
        let fail = |e| LibraryError::volume(barcode, e);
        let wrote = volume::label(drive).map_err(fail)?.owner;
        volume::check(drive, barcode, wrote).map_err(fail)?;
        let scan = volume::scan(drive, barcode, None).map_err(fail)?;
        if let Some(known) = &known {
            self.no_other(known, wrote)?;
        }
        let owner = self.goes_to(barcode, known.as_ref(), wrote, take)?;
        let foreign = (wrote != owner).then_some(wrote);
        self.no_clash(barcode, (owner, known.is_some()), &scan)?;
        if known.is_none() && foreign.is_some() {
            self.begin_index(barcode, &scan)?;
        }
        self.take_in(barcode, known, (owner, foreign), &scan)?;
        Ok((scan, foreign))
    }

    /// What the changer has and is none of the library's: what it is, and what to do.
    pub(super) fn strangers_real(&self) -> Result<Vec<(String, String)>, LibraryError> {
        let all = self.mounts.robot().inventory();
        let all = all.map_err(|error| LibraryError::Io {
            step: "asking the changer what it has",
            source: std::io::Error::other(error),
        })?;
        let stock = self.stock.lock();
        let mut found = Vec::new();
        for standing in all.iter().filter(|s| !s.is_for_cleaning()) {
            let place = match (standing.drive, standing.slot) {
                (Some(drive), _) => drive.to_string(),
                (None, Some(slot)) => format!("slot {slot}"),
                (None, None) => "the changer".to_owned(),
            };
            match standing.barcode() {
                Some(barcode) if stock.cartridges.contains_key(&barcode) => {}
                Some(barcode) => found.push((
                    barcode.to_string(),
                    format!(
                        "in {place}, no cartridge of the library: `cairn tape label {barcode}` if nothing is on it, \
                         `cairn tape import {barcode}` if Cairn wrote it"
                    ),
                )),
                None => found.push((
                    format!("{:?}", standing.sticker),
                    format!("in {place}: its sticker is no barcode of eight characters, as in ABC123L8"),
                )),
            }
        }
        found.sort();
        Ok(found)
    }
}

fn generation_of(barcode: Barcode) -> Option<Generation> {
    let mut all = Generation::ALL.into_iter();
    all.find(|g| g.medium() == barcode.medium())
}

/// No data on it: nothing at all, or a tape mark alone, as `mt weof` leaves it.
fn is_without_data(drive: &mut dyn Drive) -> Result<bool, VolumeError> {
    let fail = |source| VolumeError::Drive {
        step: "looking for data",
        source,
    };
    let mut room = [0; LABEL];
    drive.rewind().map_err(fail)?;
    match drive.read_block(&mut room) {
        Ok(Read::End) => return Ok(true),
        Ok(Read::Mark) => {}
        Ok(Read::Block(_)) => return Ok(false),
        Err(error) => return Err(fail(error)),
    }
    let second = drive.read_block(&mut room).map_err(fail)?;
    Ok(second == Read::End)
}
