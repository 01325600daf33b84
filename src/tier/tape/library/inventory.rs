//! Taking stock: which cartridges there are, whose they are, and what is on them.

use super::mounts::Seen;
use super::{CARTRIDGES, Cartridge, FILES, Library, LibraryError, Stock};
use crate::id::TierId;
use crate::tier::tape::clock::Speed;
use crate::tier::tape::drive::virtual_drive::VirtualDrive;
use crate::tier::tape::drive::{Drive, DriveNumber};
use crate::tier::tape::files::Files;
use crate::tier::tape::image::{Image, ImageError};
use crate::tier::tape::label::{Barcode, NotOurs, Volume};
use crate::tier::tape::state::Entry;
use crate::tier::tape::timing::Generation;
use crate::tier::tape::volume::{self, FIRST, TapeFile, VolumeError};
use std::collections::BTreeSet;
use std::io;

impl Library {
    /// Adds the cartridges that are missing, and looks at all.
    pub(super) fn take_stock(&mut self) -> Result<(), LibraryError> {
        let stock = self.stock.get_mut();
        let mut entries = std::mem::take(&mut stock.state.cartridges);
        if entries.is_empty() {
            entries = self.adopt()?;
        }
        // An entry before its image would be a missing cartridge; an image before its entry is
        // found and taken.
        while entries.len() < self.options.cartridges as usize {
            let entry = self.add(&entries)?;
            entries.push(entry);
        }
        let slots = entries.iter().map(|e| e.slot).max().unwrap_or(0);
        let changed = {
            let state = &mut self.stock.get_mut().state;
            let before = state.clone();
            (state.slots, state.cartridges) = (state.slots.max(slots), entries.clone());
            *state != before
        };
        if changed {
            self.stock.get_mut().state.write(&self.root)?;
        }
        let dir = self.root.join(FILES);
        for entry in entries {
            let barcode = entry.barcode;
            let files =
                Files::read(&dir, barcode).map_err(|e| LibraryError::io("reading an index", e))?;
            let used = files.all().last().map_or(FIRST.bytes, TapeFile::end_bytes);
            let cartridge = Cartridge {
                entry,
                files,
                used,
                trouble: None,
                damage: None,
            };
            let names: Vec<TapeFile> = cartridge.files.live().copied().collect();
            let stock = self.stock.get_mut();
            stock.cartridges.insert(barcode, cartridge);
            stock.learn(barcode, &names);
            let seen = self.inspect(barcode);
            self.settle(barcode, seen);
        }
        Ok(())
    }

    /// The cartridges of this tier that lie there although no state says so: it was lost.
    fn adopt(&self) -> Result<Vec<Entry>, LibraryError> {
        let fail = |e| LibraryError::io("looking for cartridges", e);
        let mut found = Vec::new();
        for image in std::fs::read_dir(self.root.join(CARTRIDGES)).map_err(fail)? {
            let name = image.map_err(fail)?.file_name();
            let barcode = name
                .to_str()
                .and_then(|n| n.strip_suffix(".tap")?.parse::<Barcode>().ok());
            found.extend(barcode);
        }
        found.sort_unstable();
        let mut entries = Vec::new();
        for barcode in found {
            let known = Generation::ALL
                .into_iter()
                .find(|g| g.medium() == barcode.medium());
            let geometry = self.options.geometry();
            let entry = Entry {
                barcode,
                generation: known.unwrap_or(geometry.generation),
                capacity: geometry.capacity,
                // One for each entry before it, and one more.
                slot: u32::try_from(entries.len()).unwrap_or(u32::MAX - 1) + 1,
                write_protected: false,
                full: false,
            };
            let ours = self
                .bench(&entry)
                .and_then(|mut d| volume::check(&mut d, barcode, self.tier));
            match ours {
                Ok(()) => entries.push(entry),
                Err(error) => tracing::warn!(%barcode, %error, "an image is left alone"),
            }
        }
        Ok(entries)
    }

    /// One more cartridge, labelled, in the next free slot.
    fn add(&self, entries: &[Entry]) -> Result<Entry, LibraryError> {
        let slot = (1..)
            .find(|n| !entries.iter().any(|e| e.slot == *n))
            .unwrap_or(u32::MAX);
        let geometry = self.options.geometry();
        let taken: BTreeSet<Barcode> = entries.iter().map(|e| e.barcode).collect();
        let barcode = (1..)
            .map_while(|n| barcode(self.tier, n, geometry.generation.medium()))
            .find(|b| !taken.contains(b));
        let Some(barcode) = barcode else {
            let source = io::Error::other("there are no more barcodes");
            return Err(LibraryError::io("adding a cartridge", source));
        };
        let entry = Entry {
            barcode,
            generation: geometry.generation,
            capacity: geometry.capacity,
            slot,
            write_protected: false,
            full: false,
        };
        match Image::create(&self.image(barcode)) {
            Ok(_) => {}
            // Made by a process that died before it could say so, or put there by somebody: it is
            // labelled only if it never was.
            Err(ImageError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
            }
            Err(error) => {
                return Err(LibraryError::io(
                    "making a cartridge",
                    io::Error::other(error),
                ));
            }
        }
        let mut drive = self
            .bench(&entry)
            .map_err(|e| LibraryError::volume(barcode, e))?;
        let empty = match volume::label(&mut drive) {
            // A label that a dying process wrote in part is none either.
            Err(VolumeError::NotOurs(NotOurs::Unlabelled)) => is_blank(&self.image(barcode)),
            Ok(_) | Err(_) => false,
        };
        if empty {
            let label = Volume {
                name: barcode.volume().to_owned(),
                owner: self.tier,
            };
            volume::initialise(&mut drive, &label).map_err(|e| LibraryError::volume(barcode, e))?;
        }
        Ok(entry)
    }

    /// A cartridge in a drive of its own that takes no time: for what is no work of the library.
    fn bench(&self, entry: &Entry) -> Result<VirtualDrive, VolumeError> {
        let mut drive =
            VirtualDrive::new(DriveNumber(0), Speed::Max.clock(), 0.0, self.faults.clone());
        *drive.mouth().lock() = Some(self.inserted(entry));
        let fail = |source| VolumeError::Drive {
            step: "loading",
            source,
        };
        drive.load().map_err(fail)?;
        Ok(drive)
    }

    /// Looks at a cartridge outside the library's drives.
    fn inspect(&mut self, barcode: Barcode) -> Result<Seen, LibraryError> {
        let entry = match self.stock.get_mut().cartridges.get(&barcode) {
            Some(cartridge) => cartridge.entry.clone(),
            None => return Err(LibraryError::Absent { barcode }),
        };
        if !self.image(barcode).exists() {
            return Err(LibraryError::Absent { barcode });
        }
        let mut drive = self
            .bench(&entry)
            .map_err(|e| LibraryError::volume(barcode, e))?;
        self.look(&mut drive, barcode)
    }

    /// What came of looking at a cartridge.
    fn settle(&mut self, barcode: Barcode, seen: Result<Seen, LibraryError>) {
        let stock = self.stock.get_mut();
        let Some(cartridge) = stock.cartridges.get_mut(&barcode) else {
            return;
        };
        if let Err(error) = seen {
            tracing::error!(%error, "a cartridge cannot be used");
            cartridge.trouble = Some(error.to_string());
        }
    }

    /// Checks the label of the cartridge in a drive and looks for its end; brings its index up to it.
    pub(super) fn look(
        &self,
        drive: &mut dyn Drive,
        barcode: Barcode,
    ) -> Result<Seen, LibraryError> {
        let fail = |e| LibraryError::volume(barcode, e);
        volume::check(drive, barcode, self.tier).map_err(fail)?;
        let (last, places) = {
            let stock = self.stock.lock();
            let cartridge = stock
                .cartridges
                .get(&barcode)
                .ok_or(LibraryError::Absent { barcode })?;
            (
                cartridge.files.all().last().copied(),
                cartridge.files.places(),
            )
        };
        drive.know(&places);
        let mut anew = false;
        let scan = match volume::scan(drive, barcode, last.as_ref()) {
            Err(VolumeError::Moved { .. }) => {
                tracing::warn!(%barcode, "its index is not that of the cartridge: it is read through");
                drive.know(&[]);
                anew = true;
                volume::scan(drive, barcode, None)
            }
            other => other,
        };
        let scan = scan.map_err(fail)?;
        if scan.torn && scan.damage.is_none() {
            tracing::info!(%barcode, "something incomplete at its end is ignored");
        }
        let mut stock = self.stock.lock();
        stock.found(barcode, &scan, anew);
        Ok(Seen {
            next: scan.next,
            damage: scan.damage,
        })
    }
}

impl Stock {
    /// Adds files by name. Of two with one name the one that is found later counts.
    pub(super) fn learn(&mut self, barcode: Barcode, files: &[TapeFile]) {
        for file in files {
            let earlier = self.names.insert(file.name, (barcode, *file));
            if let Some(earlier) = earlier.filter(|e| *e != (barcode, *file)) {
                self.twins.entry(file.name).or_default().push(earlier);
            }
        }
    }

    /// Forgets the files of a cartridge by name.
    fn unlearn(&mut self, barcode: Barcode) {
        self.names.retain(|_, (at, _)| *at != barcode);
        for twins in self.twins.values_mut() {
            twins.retain(|(at, _)| *at != barcode);
        }
        let twins = std::mem::take(&mut self.twins);
        for (name, mut twins) in twins {
            if !self.names.contains_key(&name)
                && let Some(twin) = twins.pop()
            {
                self.names.insert(name, twin);
            }
            if !twins.is_empty() {
                self.twins.insert(name, twins);
            }
        }
    }

    /// Brings what is known of a cartridge up to what was found on it.
    fn found(&mut self, barcode: Barcode, scan: &volume::Scan, anew: bool) {
        let Some(cartridge) = self.cartridges.get_mut(&barcode) else {
            return;
        };
        if anew {
            cartridge.files.forget();
        }
        if !scan.files.is_empty() || anew {
            let added = cartridge.files.add(&scan.files);
            if let Err(error) = added.and_then(|()| {
                if anew {
                    cartridge.files.rewrite()
                } else {
                    Ok(())
                }
            }) {
                tracing::warn!(%barcode, %error, "the index of a cartridge stays behind");
            }
        }
        (cartridge.used, cartridge.damage) = (scan.next.bytes, scan.damage.clone());
        cartridge.trouble = None;
        let live: Vec<TapeFile> = cartridge.files.live().copied().collect();
        if anew {
            self.unlearn(barcode);
            self.learn(barcode, &live);
        } else {
            let new: Vec<TapeFile> = live
                .into_iter()
                .filter(|f| scan.files.contains(f))
                .collect();
            self.learn(barcode, &new);
        }
    }
}

/// No more than a torn label: never used.
fn is_blank(image: &std::path::Path) -> bool {
    // A label and the mark behind it.
    std::fs::metadata(image).is_ok_and(|meta| meta.len() <= 92)
}

/// The sticker of a tier's `number`-th cartridge: three characters that tell libraries apart, three
/// digits, the medium.
fn barcode(tier: TierId, number: u32, medium: &str) -> Option<Barcode> {
    const LETTERS: &[u8; 26] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    if number > 999 {
        return None;
    }
    let letter = |n: u32| {
        LETTERS
            .get((n % 26) as usize)
            .copied()
            .map_or('X', char::from)
    };
    let (a, b, c) = (letter(tier.0), letter(tier.0 / 26), letter(tier.0 / 676));
    format!("{a}{b}{c}{number:03}{medium}").parse().ok()
}
