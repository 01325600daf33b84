//! Taking stock: which cartridges there are, whose they are, and what is on them.

use super::mounts::Seen;
use super::{CARTRIDGES, Cartridge, Equipment, FILES, Library, LibraryError, Name, Stock};
use crate::id::TierId;
use crate::tier::tape::clock::Speed;
use crate::tier::tape::drive::virtual_drive::{Inserted, VirtualDrive};
use crate::tier::tape::drive::{Drive, DriveError, DriveNumber};
use crate::tier::tape::files::{Files, lies_among};
use crate::tier::tape::label::{Barcode, LAYOUT, NotOurs};
use crate::tier::tape::state::Entry;
use crate::tier::tape::timing::{Generation, Geometry};
use crate::tier::tape::volume::{self, FIRST, TapeFile, VolumeError};
use std::time::{Duration, Instant};

/// How long a cartridge in trouble is left alone.
const AGAIN: Duration = Duration::from_secs(60);

impl Library {
    /// Adds the cartridges that are missing, and looks at all: those of all pools.
    pub(super) fn take_stock(&self) -> Result<(), LibraryError> {
        let mut entries = std::mem::take(&mut self.stock.lock().state.cartridges);
        if entries.is_empty() {
            entries = match self.is_real() {
                true => self.recognise()?,
                false => self.adopt()?,
            };
        }
        for entry in &mut entries {
            // Whoever exported it died before it was moved, or somebody put it back.
            if !self.is_real() && entry.away.is_some() && self.image(entry.barcode).exists() {
                entry.away = None;
            }
        }
        // An entry before its image would be a missing cartridge; an image before its entry is
        // found and taken.
        while !self.is_real() && entries.len() < self.options.cartridges as usize {
            let entry = self.add(&entries)?;
            entries.push(entry);
        }
        let slots = entries.iter().map(|e| e.slot).max().unwrap_or(0);
        let changed = {
            let state = &mut self.stock.lock().state;
            let before = state.clone();
            (state.slots, state.cartridges) = (state.slots.max(slots), entries.clone());
            *state != before
        };
        if changed {
            self.stock.lock().state.write(&self.root)?;
        }
        self.find_in_drives();
        let dir = self.root.join(FILES);
        for entry in entries {
            let barcode = entry.barcode;
            let files = Files::open(&dir, barcode);
            let used = files.all().last().map_or(FIRST.bytes, TapeFile::end_bytes);
            let files_damage = files.unreadable().map(str::to_owned);
            let failing = entry.failed_on.first().map(|_| {
                let last = entry.errors.last.as_ref();
                last.map_or_else(String::new, |last| last.why.clone())
            });
            let owner = if self.pooled {
                self.whose(&entry)
            } else {
                Some(self.tier)
            };
            let cartridge = Cartridge {
                entry,
                owner,
                is_being_claimed: false,
                counted: None,
                files,
                used,
                trouble: None,
                distrusted: false,
                damage: files_damage,
                failing,
                looked: Instant::now(),
            };
            let names: Vec<TapeFile> = cartridge.files.live().copied().collect();
            {
                let mut stock = self.stock.lock();
                stock.cartridges.insert(barcode, cartridge);
                stock.learn(barcode, &names);
            }
            self.inspect(barcode);
        }
        let orphans = self.orphans()?;
        let mut stock = self.stock.lock();
        stock.orphans = orphans;
        if stock.unkept {
            self.keep_soon(&mut stock, true);
        }
        Ok(())
    }

    /// Indexes that know files on cartridges that the library does not have, for people.
    pub(super) fn orphans(&self) -> Result<Vec<String>, LibraryError> {
        let fail = |e| LibraryError::io("looking for indexes", e);
        let (dir, stock) = (self.root.join(FILES), self.stock.lock());
        let mut orphans = Vec::new();
        for index in std::fs::read_dir(&dir).map_err(fail)? {
            let name = index.map_err(fail)?.file_name();
            let barcode = name
                .to_str()
                .and_then(|n| n.strip_suffix(".jsonl")?.parse::<Barcode>().ok());
            let Some(barcode) = barcode.filter(|b| !stock.cartridges.contains_key(b)) else {
                continue;
            };
            let files = Files::open(&dir, barcode);
            if files.live().next().is_some() || files.unreadable().is_some() {
                tracing::warn!(%barcode, "a cartridge whose index is there is not in the library");
                orphans.push(format!(
                    "cartridge {barcode} is not in the library, but its index is: put it back"
                ));
            }
        }
        Ok(orphans)
    }

    /// The cartridges that lie there although no state says so: it was lost. Those of this tier; with pools, those of
    /// all pools, and blank ones.
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
            if let Some(twin) = super::media::same_volume(&entries, barcode) {
                tracing::warn!(%barcode, %twin, "an image is left alone: two have one name of a volume");
                continue;
            }
            let known = Generation::ALL
                .into_iter()
                .find(|g| g.medium() == barcode.medium());
            let geometry = self.options.geometry();
            let geometry = Geometry {
                generation: known.unwrap_or(geometry.generation),
                ..geometry
            };
            // One for each entry before it, and one more.
            let slot = u32::try_from(entries.len()).unwrap_or(u32::MAX - 1) + 1;
            let mut entry = Entry::new(barcode, geometry, slot);
            let mut owner = Some(self.tier);
            if self.pooled {
                owner = self.whose(&entry);
                entry.owner = owner;
            }
            let ours = match owner {
                Some(owner) => self
                    .bench(&entry)
                    .and_then(|mut d| volume::check(&mut d, barcode, owner).map(|_| ())),
                None => self.check_blank(&entry),
            };
            match ours {
                Ok(()) => entries.push(entry),
                Err(error) => tracing::warn!(%barcode, %error, "an image is left alone"),
            }
        }
        Ok(entries)
    }

    /// A cartridge in a drive of its own that takes no time: for what is no work of the library.
    pub(super) fn bench(&self, entry: &Entry) -> Result<VirtualDrive, VolumeError> {
        self.bench_with(self.inserted(entry))
    }

    pub(super) fn bench_with(&self, inserted: Inserted) -> Result<VirtualDrive, VolumeError> {
        let fail = |source| VolumeError::Drive {
            step: "loading",
            source,
        };
        let Equipment::Virtual(faults) = &self.equipment else {
            let why = "it is no image: only a drive of the library reads it";
            return Err(fail(DriveError::Unloadable(why.to_owned())));
        };
        let mut drive = VirtualDrive::new(DriveNumber(0), Speed::Max.clock(), 0.0, faults.clone());
        *drive.mouth().lock() = Some(inserted);
        drive.load().map_err(fail)?;
        Ok(drive)
    }

    /// Looks at a cartridge outside the library's drives, and notes its trouble.
    pub(super) fn inspect(&self, barcode: Barcode) {
        let Err(error) = self.look_outside(barcode) else {
            return;
        };
        tracing::error!(%error, "a cartridge cannot be used");
        if let Some(cartridge) = self.stock.lock().cartridges.get_mut(&barcode) {
            cartridge.trouble = Some(error.to_string());
        }
    }

    fn look_outside(&self, barcode: Barcode) -> Result<(), LibraryError> {
        self.to_insert(barcode)?;
        if self.is_real() {
            return self.look_from_afar(barcode);
        }
        let entry = match self.stock.lock().cartridges.get(&barcode) {
            Some(cartridge) => self.entry(cartridge),
            None => return Err(LibraryError::Absent { barcode }),
        };
        if self.pooled && entry.owner.is_none() {
            return self.look_at_blank(&entry).map(drop);
        }
        let mut drive = self
            .bench(&entry)
            .map_err(|e| LibraryError::volume(barcode, e))?;
        self.look(&mut drive, barcode).map(drop)
    }

    /// Looks at a cartridge that is nobody's: blank, or a pool's that could not say so.
    fn look_at_blank(&self, entry: &Entry) -> Result<Seen, LibraryError> {
        let barcode = entry.barcode;
        let fail = |e| LibraryError::volume(barcode, e);
        if let Some(owner) = self.whose(entry) {
            self.stock.lock().give(barcode, owner);
            return self.look(&mut self.bench(entry).map_err(fail)?, barcode);
        }
        self.check_blank(entry).map_err(fail)?;
        if let Some(cartridge) = self.stock.lock().cartridges.get_mut(&barcode) {
            let files = &cartridge.files;
            if !files.all().is_empty() || files.unreadable().is_some() {
                // It was written once, by whom nobody knows.
                return Err(fail(NotOurs::Unlabelled.into()));
            }
            cartridge.trouble = None;
        }
        Ok(Seen {
            layout: LAYOUT,
            next: FIRST,
            damage: None,
        })
    }

    /// Looks anew at the cartridges in trouble, at each once a minute at most: it may be over.
    pub(super) fn look_again(&self) {
        let due: Vec<Barcode> = {
            let mut stock = self.stock.lock();
            let now = Instant::now();
            let troubled = stock.cartridges.iter_mut();
            troubled
                .filter(|(_, c)| {
                    c.trouble.is_some()
                        && c.entry.away.is_none()
                        && now.duration_since(c.looked) >= AGAIN
                })
                .map(|(barcode, cartridge)| {
                    cartridge.looked = now;
                    *barcode
                })
                .collect()
        };
        // Those in a drive are looked at there: their image is held.
        let held = self.mounts.status();
        for barcode in due {
            if !held.iter().any(|bay| bay.holds == Some(barcode)) {
                self.inspect(barcode);
            }
        }
    }

    /// Checks the label of the cartridge in a drive and looks for its end; brings its index up to it.
    pub(super) fn look(
        &self,
        drive: &mut dyn Drive,
        barcode: Barcode,
    ) -> Result<Seen, LibraryError> {
        let fail = |e| LibraryError::volume(barcode, e);
        let owner = self.owner_of(barcode);
        let owner = owner.ok_or_else(|| fail(NotOurs::Unlabelled.into()))?;
        let layout = match volume::check(drive, barcode, owner) {
            // Whoever freed one that was taken died before it was written down whose it is now.
            Err(VolumeError::Stranger { found, .. }) if self.is_whose(barcode, found) => {
                let mut stock = self.stock.lock();
                if let Some(cartridge) = stock.cartridges.get_mut(&barcode) {
                    cartridge.entry.taken_from = None;
                }
                stock.unkept = true;
                1
            }
            checked => checked.map_err(fail)?.layout,
        };
        let (last, counted, places) = {
            let stock = self.stock.lock();
            let cartridge = stock
                .cartridges
                .get(&barcode)
                .ok_or(LibraryError::Absent { barcode })?;
            (
                cartridge.files.all().last().copied(),
                cartridge.counted,
                cartridge.files.places(),
            )
        };
        drive.know(&places);
        let mut anew = false;
        let is_counted = last.is_some() && last == counted;
        let scan = match volume::scan_behind(drive, barcode, last.as_ref(), is_counted) {
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
        if !scan.files.is_empty() {
            // Whoever wrote them may have died before their closing labels were durable.
            let synced = drive.sync().map_err(|source| VolumeError::Drive {
                step: "synchronising what was found",
                source,
            });
            synced.map_err(fail)?;
        }
        let mut stock = self.stock.lock();
        let damage = stock.found(barcode, &scan, anew);
        Ok(Seen {
            layout,
            next: scan.next,
            damage,
        })
    }
}

impl Stock {
    pub(super) fn owner(&self, barcode: Barcode) -> Option<TierId> {
        self.cartridges.get(&barcode)?.owner
    }

    /// A cartridge is a tier's. If it was nobody's, what its index knows is known by name only now.
    pub(super) fn give(&mut self, barcode: Barcode, owner: TierId) {
        let Some(cartridge) = self.cartridges.get_mut(&barcode) else {
            return;
        };
        if cartridge.owner.replace(owner).is_none() {
            let files: Vec<TapeFile> = cartridge.files.live().copied().collect();
            self.learn(barcode, &files);
        }
    }

    /// Adds files by name. Of two with one name the one that is found later counts.
    pub(super) fn learn(&mut self, barcode: Barcode, files: &[TapeFile]) {
        let Some(owner) = self.owner(barcode) else {
            return;
        };
        for file in files {
            let name = (owner, file.name);
            let earlier = self.names.insert(name, (barcode, *file));
            if let Some(earlier) = earlier.filter(|e| *e != (barcode, *file)) {
                self.twins.entry(name).or_default().push(earlier);
            }
        }
    }

    /// Forgets the files of a cartridge by name.
    pub(super) fn unlearn(&mut self, barcode: Barcode) {
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

    /// Adds files that were found on a cartridge. Those whose names are being written are withheld.
    fn discover(&mut self, barcode: Barcode, files: &[TapeFile]) {
        let Some(owner) = self.owner(barcode) else {
            return;
        };
        for file in files {
            let name = (owner, file.name);
            if self.writing.contains(&name) || self.withheld.contains_key(&name) {
                let withheld = self.withheld.entry(name).or_default();
                if !withheld.contains(&(barcode, *file)) {
                    withheld.push((barcode, *file));
                }
            } else {
                self.learn(barcode, &[*file]);
            }
        }
    }

    /// Marks a file as dead, durably.
    pub(super) fn bury(&mut self, barcode: Barcode, file: &TapeFile) -> Result<(), LibraryError> {
        let Some(cartridge) = self.cartridges.get_mut(&barcode) else {
            return Ok(());
        };
        let buried = cartridge.files.bury(file);
        buried.map_err(|e| LibraryError::io("marking a file as dead", e))
    }

    /// Marks the files as dead that are withheld under a name.
    pub(super) fn bury_withheld(&mut self, name: Name) -> Result<(), LibraryError> {
        for (barcode, file) in self.withheld.get(&name).cloned().unwrap_or_default() {
            self.bury(barcode, &file)?;
        }
        self.withheld.remove(&name);
        Ok(())
    }

    /// Why an object of a tier may be there although nobody knows it; `None` if it cannot be.
    pub(super) fn unseen(&self, tier: TierId) -> Option<String> {
        let hidden = |(barcode, c): (&Barcode, &Cartridge)| {
            let why = c.trouble.as_ref().or(c.damage.as_ref())?;
            // Given out whole: all that lies on it is known by its index, if that is the one of then.
            let whole = c.entry.away.as_ref().and_then(|away| away.whole);
            if whole == Some(c.files.sum().0) && c.files.is_known() && c.damage.is_none() {
                return None;
            }
            Some(format!("cartridge {barcode}: {why}"))
        };
        let here = self.cartridges.iter().filter(|(_, c)| c.is_for(tier));
        let mut hidden = here.filter_map(hidden);
        hidden.next().or_else(|| self.orphans.first().cloned())
    }

    /// Why there may be objects of a tier whose names nobody knows; `None` if there are none.
    pub(super) fn blind(&self, tier: TierId) -> Option<String> {
        let blind = |(barcode, c): (&Barcode, &Cartridge)| {
            let why = c.trouble.as_ref().or(c.damage.as_ref())?;
            (!c.files.is_known())
                .then(|| format!("cartridge {barcode}: {why}; and its index is lost"))
        };
        let here = self.cartridges.iter().filter(|(_, c)| c.is_for(tier));
        let mut blind = here.filter_map(blind);
        blind.next().or_else(|| self.orphans.first().cloned())
    }

    /// All of a cartridge was seen, and nothing is on it: whoever erased it may have died before he
    /// wrote that down. What stood against its use was said of what is gone.
    fn emptied(&mut self, barcode: Barcode) {
        let Some(Cartridge { entry, .. }) = self.cartridges.get_mut(&barcode) else {
            return;
        };
        let bad = !std::mem::take(&mut entry.bad).is_empty();
        let full = std::mem::take(&mut entry.full);
        // Kept with whatever is kept next; until then each look finds it again.
        self.unkept |= std::mem::take(&mut entry.repack) || bad || full;
    }

    /// Brings what is known of a cartridge up to what was found on it; says why it must not be
    /// written, if so. A file that is not dead is never forgotten.
    fn found(&mut self, barcode: Barcode, scan: &volume::Scan, anew: bool) -> Option<String> {
        let cartridge = self.cartridges.get_mut(&barcode)?;
        let lost = cartridge
            .files
            .live()
            .find(|f| anew && !lies_among(&scan.files, f));
        let lost = lost.map(|f| {
            format!(
                "the index knows {} at object {}, its labels cannot be read",
                f.name, f.object
            )
        });
        let unreadable = cartridge.files.unreadable().map(str::to_owned);
        let damage = unreadable.or(lost).or_else(|| scan.damage.clone());
        let kept = match (anew, &damage) {
            // The index may be right where the medium is damaged: it stays as it is.
            (true, Some(_)) => Ok(()),
            (true, None) => cartridge.files.replace(&scan.files),
            (false, _) if scan.files.is_empty() => Ok(()),
            (false, _) => cartridge.files.add(&scan.files),
        };
        if let Err(error) = kept {
            tracing::warn!(%barcode, %error, "the index of a cartridge stays behind");
        }
        if damage.is_none()
            && let Err(error) = cartridge.files.settle()
        {
            tracing::warn!(%barcode, %error, "a cartridge has no index");
        }
        let last = cartridge.files.all().last();
        cartridge.counted = last.filter(|_| damage.is_none()).copied();
        (cartridge.used, cartridge.damage) = (scan.next.bytes, damage.clone());
        (cartridge.trouble, cartridge.distrusted) = (None, false);
        let alive = |f: &&TapeFile| !cartridge.files.is_dead(f);
        let mut files: Vec<TapeFile> = scan.files.iter().filter(alive).copied().collect();
        if anew {
            // Those that the index alone knows, and where it says; then those that only the medium has.
            files.retain(|f| !cartridge.files.has(f));
            files.splice(0..0, cartridge.files.live().copied());
            self.unlearn(barcode);
        }
        self.discover(barcode, &files);
        if damage.is_none() && scan.next == FIRST {
            self.emptied(barcode);
        }
        damage
    }
}
