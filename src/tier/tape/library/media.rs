//! Cartridges come and go.
//!
//! Invariants kept here:
//! - Nothing is labelled that has, or may have, something on it.
//! - A cartridge that goes is known to be away, durably, before its image is moved, and nobody has it
//!   in a drive then. One that comes has its image in its place before the library says so. A stop
//!   between leaves a cartridge that is where it was, or an image that can be imported.
//! - The index of one that goes is durable before its image is moved; whether all that is on it was
//!   known then is kept with it. What nobody knows is missing only if it was.
//! - Images are moved by one rename that replaces nothing; none is ever copied or removed.
//! - What another tier wrote is read and not written, until nothing on it is needed; and it is taken
//!   only if no file on it has the name of another one with other bytes. It never takes the place of a
//!   cartridge of this library that has its barcode, nor what an index says of that one.
//! - No pool does any of that to another one's cartridge. One that comes is the pool's that its label says.

use super::view::{barcode_of, bytes};
use super::{CARTRIDGES, Cartridge, Library, LibraryError, make_dir};
use crate::id::TierId;
use crate::tier::tape::drive::virtual_drive::Inserted;
use crate::tier::tape::files::{Files, lies_among, set_aside};
use crate::tier::tape::image::{Image, ImageError};
use crate::tier::tape::label::{Barcode, LAYOUT, NotOurs, Volume};
use crate::tier::tape::state::{Away, Entry};
use crate::tier::tape::timing::{Generation, Geometry};
use crate::tier::tape::volume::{self, Scan, TapeFile, VolumeError};
use rustix::fs::{CWD, RenameFlags};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Where exported cartridges lie if nobody says where.
const EXPORTED: &str = "exported";

/// What is taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Import {
    /// An exported cartridge, from where it lies.
    Known(Barcode),
    /// An image.
    At(PathBuf),
}

/// What was taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Which.
    pub barcode: Barcode,
    /// Complete files on it.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The tier that wrote it, if it is another one.
    pub from: Option<TierId>,
}

pub(super) fn declined(what: impl ToString, why: impl ToString) -> LibraryError {
    let (what, why) = (what.to_string(), why.to_string());
    LibraryError::Declined { what, why }
}

impl Library {
    /// Whose label a cartridge carries; `None`: it is blank.
    pub(super) fn owner_of(&self, barcode: Barcode) -> Option<TierId> {
        let stock = self.stock.lock();
        let cartridge = stock.cartridges.get(&barcode)?;
        cartridge.entry.taken_from.map(TierId).or(cartridge.owner)
    }

    /// Is a cartridge that tier's, whoever wrote it before?
    pub(super) fn is_whose(&self, barcode: Barcode, tier: TierId) -> bool {
        let stock = self.stock.lock();
        let cartridge = stock.cartridges.get(&barcode);
        cartridge.is_some_and(|c| c.owner == Some(tier))
    }

    /// Makes a new cartridge: this one, or the next one there is no sticker of. With pools it is blank, and
    /// nobody's. Durable.
    ///
    /// # Errors
    /// [`LibraryError::Declined`] if something is on it, or may be; [`LibraryError::Io`], ...
    pub fn label(&self, wanted: Option<Barcode>) -> Result<Entry, LibraryError> {
        if self.is_real() {
            return self.label_real(wanted);
        }
        let entry = {
            // Held, so that two do not get one slot.
            let mut stock = self.stock.lock();
            let entries: Vec<Entry> = stock.cartridges.values().map(|c| c.entry.clone()).collect();
            let known = wanted.and_then(|b| stock.cartridges.get(&b));
            let entry = match (wanted, known) {
                (Some(barcode), Some(known)) => {
                    self.is_own(&stock, barcode)?;
                    self.labelled_anew(barcode, self.entry(known))?
                }
                (Some(barcode), None) => self.labelled(barcode, &entries)?,
                (None, _) => self.add(&entries)?,
            };
            if let Some(known) = stock.cartridges.get_mut(&entry.barcode) {
                known.trouble = None;
                known.entry = entry.clone();
            } else {
                self.enter(&mut stock, entry.clone());
            }
            self.keep(&mut stock)?;
            entry
        };
        self.inspect(entry.barcode);
        Ok(entry)
    }

    /// A cartridge of the library without a label: it is blank, or whoever made it empty was cut short.
    fn labelled_anew(&self, barcode: Barcode, entry: Entry) -> Result<Entry, LibraryError> {
        if entry.away.is_some() || !is_blank(&self.image(barcode)) {
            return Err(declined(
                barcode,
                "it is in the library already. What has data is never labelled: `cairn tape repack` moves \
                 what is needed of it to others and makes it empty",
            ));
        }
        let entry = Entry {
            taken_from: None,
            ..entry
        };
        self.make(entry)
    }

    fn labelled(&self, barcode: Barcode, entries: &[Entry]) -> Result<Entry, LibraryError> {
        let generation = Generation::ALL
            .into_iter()
            .find(|g| g.medium() == barcode.medium())
            .ok_or_else(|| declined(barcode, "its last two characters are no generation"))?;
        if let Some(twin) = same_volume(entries, barcode) {
            let why = format!("{twin} has the same name of a volume (six characters)");
            return Err(declined(barcode, why));
        }
        let image = self.image(barcode);
        if image.exists() && !is_blank(&image) {
            let why = format!(
                "there is an image with something on it. Take it in with `cairn tape import {}`, or move it away",
                image.display()
            );
            return Err(declined(barcode, why));
        }
        let geometry = self.geometry_of(generation, entries);
        self.make(Entry::new(barcode, geometry, free_slot(entries)))
    }

    /// How large a new cartridge of a generation is: as was said, or like the last one.
    pub(super) fn geometry_of(&self, generation: Generation, entries: &[Entry]) -> Geometry {
        let last = entries.iter().rev().find(|e| e.generation == generation);
        let own = self.options.geometry();
        match (self.options.capacity, last) {
            (Some(capacity), _) => Geometry {
                generation,
                capacity,
            },
            (None, Some(last)) => last.geometry(),
            (None, None) if own.generation == generation => own,
            (None, None) => Geometry::whole(generation),
        }
    }

    /// One more cartridge in the next free slot: labelled, or blank where there are pools.
    pub(super) fn add(&self, entries: &[Entry]) -> Result<Entry, LibraryError> {
        let own = self.options.geometry();
        let geometry = self.geometry_of(own.generation, entries);
        // A volume's label has no medium in its name: no two may differ in that alone.
        let taken: BTreeSet<&str> = entries.iter().map(|e| e.barcode.volume()).collect();
        let barcode = (1..)
            .map_while(|n| sticker(self.tier, n, geometry.generation.medium()))
            .find(|b| !taken.contains(b.volume()));
        let Some(barcode) = barcode else {
            let source = io::Error::other("there are no more barcodes");
            return Err(LibraryError::io("adding a cartridge", source));
        };
        self.make(Entry::new(barcode, geometry, free_slot(entries)))
    }

    /// Makes the image of a cartridge, labelled if it is somebody's.
    fn make(&self, entry: Entry) -> Result<Entry, LibraryError> {
        let barcode = entry.barcode;
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
        if self.pooled && entry.owner.is_none() {
            // Who writes the first file to it writes its label.
            return Ok(entry);
        }
        let fail = |e| LibraryError::volume(barcode, e);
        let mut drive = self.bench(&entry).map_err(fail)?;
        let empty = match volume::label(&mut drive) {
            // A label that a dying process wrote in part is none either.
            Err(VolumeError::NotOurs(NotOurs::Unlabelled)) => is_blank(&self.image(barcode)),
            Ok(_) | Err(_) => false,
        };
        if empty {
            volume::initialise(&mut drive, &self.own_label(barcode)).map_err(fail)?;
        }
        Ok(entry)
    }

    pub(super) fn own_label(&self, barcode: Barcode) -> Volume {
        Volume {
            layout: LAYOUT,
            name: barcode.volume().to_owned(),
            owner: self.tier,
        }
    }

    /// Enters a cartridge that was not there.
    pub(super) fn enter(&self, stock: &mut super::Stock, entry: Entry) {
        let barcode = entry.barcode;
        let files = Files::open(&self.root.join(super::FILES), barcode);
        stock.state.slots = stock.state.slots.max(entry.slot);
        let names: Vec<TapeFile> = files.live().copied().collect();
        let owner = match self.pooled {
            true => entry.owner,
            false => Some(self.tier),
        };
        let cartridge = Cartridge {
            entry,
            owner,
            is_being_claimed: false,
            counted: None,
            used: files
                .all()
                .last()
                .map_or(volume::FIRST.bytes, TapeFile::end_bytes),
            damage: files.unreadable().map(str::to_owned),
            files,
            trouble: None,
            distrusted: false,
            failing: None,
            looked: Instant::now(),
        };
        stock.cartridges.insert(barcode, cartridge);
        stock.learn(barcode, &names);
    }

    /// Takes a cartridge out of the library: its image goes to `to`, or to the place for exported
    /// ones. The library knows where; what lies on it is unavailable until it is imported. Durable.
    ///
    /// # Errors
    /// [`LibraryError::Declined`], [`LibraryError::Absent`], [`LibraryError::OtherPool`], [`LibraryError::Blank`],
    /// [`LibraryError::Io`]: it is where it was.
    pub fn export(&self, barcode: Barcode, to: Option<&Path>) -> Result<PathBuf, LibraryError> {
        if self.is_real() {
            return self.export_real(barcode, to);
        }
        self.written(&self.stock.lock(), barcode)?;
        let fail = |step| move |e| LibraryError::io(step, e);
        let dir = match to {
            Some(dir) => dir.to_owned(),
            None => self.root.join(EXPORTED),
        };
        if to.is_none() {
            make_dir(&dir).map_err(fail("making the place for exported cartridges"))?;
        }
        let dir = dir.canonicalize().map_err(fail("looking where to"))?;
        let (image, target) = (self.image(barcode), dir.join(format!("{barcode}.tap")));
        let path = target
            .to_str()
            .ok_or_else(|| declined(dir.display(), "its name is no UTF-8"))?;
        let here = self.root.join(CARTRIDGES);
        let devs = [&here, &dir].map(|d| d.metadata().map(|m| m.dev()));
        if !matches!(&devs, [Ok(a), Ok(b)] if a == b) {
            let why =
                "it is on another filesystem than the library, and images are moved, not copied";
            return Err(declined(dir.display(), why));
        }
        if dir == here.canonicalize().map_err(fail("looking where to"))? || target.exists() {
            return Err(declined(target.display(), "there is one already"));
        }
        self.send_off(barcode, Some(path))?;
        self.mounts.evict(barcode);
        let moved = self.vouch_for(barcode).and_then(|()| {
            let moved = move_image(&image, &target);
            moved.map_err(fail("moving its image"))
        });
        if let Err(error) = moved {
            self.send_off(barcode, None)?;
            return Err(error);
        }
        let away = LibraryError::Exported {
            barcode,
            path: path.to_owned(),
        };
        if let Some(cartridge) = self.stock.lock().cartridges.get_mut(&barcode) {
            cartridge.trouble = Some(away.to_string());
        }
        Ok(target)
    }

    /// Puts the index of a cartridge that goes on disk as it is known, and says, durably, whether it
    /// was seen whole. Nobody has it in a drive any more.
    pub(super) fn vouch_for(&self, barcode: Barcode) -> Result<(), LibraryError> {
        let mut stock = self.stock.lock();
        let cartridge = stock.cartridges.get_mut(&barcode);
        let cartridge = cartridge.ok_or(LibraryError::Absent { barcode })?;
        if cartridge.trouble.is_some() || cartridge.damage.is_some() {
            // It stays one that may hold what nobody knows.
            return Ok(());
        }
        let secured = cartridge.files.secure();
        secured.map_err(|e| LibraryError::io("writing its index", e))?;
        let sum = cartridge.files.sum().0;
        if let Some(away) = &mut cartridge.entry.away {
            away.whole = Some(sum);
        }
        self.keep(&mut stock)
    }

    /// Says that a cartridge is away, or that it is not, durably.
    pub(super) fn send_off(
        &self,
        barcode: Barcode,
        path: Option<&str>,
    ) -> Result<(), LibraryError> {
        let mut stock = self.stock.lock();
        let cartridge = stock.cartridges.get_mut(&barcode);
        let cartridge = cartridge.ok_or(LibraryError::Absent { barcode })?;
        if let (Some(away), Some(_)) = (&cartridge.entry.away, path) {
            let path = away.path.clone();
            return Err(LibraryError::Exported { barcode, path });
        }
        let before = cartridge.entry.away.clone();
        cartridge.entry.away = path.map(|path| Away::at(path.to_owned()));
        let kept = self.keep(&mut stock);
        if kept.is_err()
            && let Some(cartridge) = stock.cartridges.get_mut(&barcode)
        {
            cartridge.entry.away = before;
        }
        kept
    }

    /// Takes a cartridge in: it is the pool's whose label it carries, if that one is open. `take`: also one that
    /// another tier wrote. Durable; its files are known when this returns.
    ///
    /// # Errors
    /// [`LibraryError::Declined`] if it cannot be taken, and why; [`LibraryError::Volume`] if it is no
    /// cartridge; [`LibraryError::Io`].
    pub fn import(&self, what: &Import, take: bool) -> Result<Taken, LibraryError> {
        if self.is_real() {
            return self.import_real(what, take);
        }
        let image = self.image_to_take(what)?;
        let barcode = image
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(barcode_of);
        let barcode = barcode.ok_or_else(|| {
            declined(
                image.display(),
                "its name is no barcode with .tap behind it: name it as its sticker says",
            )
        })?;
        let known = self.may_come(barcode, &image)?;
        let (wrote, scan) = self.examine(barcode, &image)?;
        if let Some(known) = &known {
            self.no_other(known, wrote)?;
        }
        let owner = self.goes_to(barcode, known.as_ref(), wrote, take)?;
        let foreign = (wrote != owner).then_some(wrote);
        self.no_clash(barcode, (owner, known.is_some()), &scan)?;
        if known.is_none() && foreign.is_some() {
            self.begin_index(barcode, &scan)?;
        }
        let place = self.image(barcode);
        if image != place {
            move_image(&image, &place).map_err(|error| match error.raw_os_error() {
                Some(libc::EXDEV) => declined(
                    image.display(),
                    "it is on another filesystem than the library: copy it there first",
                ),
                _ => LibraryError::io("moving its image", error),
            })?;
        }
        self.take_in(barcode, known, (owner, foreign), &scan)?;
        self.inspect(barcode);
        let orphans = self.orphans()?;
        self.stock.lock().orphans = orphans;
        Ok(Taken {
            barcode,
            files: scan.files.len(),
            bytes: bytes(&scan.files),
            from: foreign,
        })
    }

    /// Whose a cartridge is from now on that `wrote` wrote.
    pub(super) fn goes_to(
        &self,
        barcode: Barcode,
        known: Option<&Entry>,
        wrote: TierId,
        take: bool,
    ) -> Result<TierId, LibraryError> {
        let before = match self.pooled {
            true => known.and_then(|entry| entry.owner),
            false => Some(self.tier),
        };
        let taken_from = known.and_then(|entry| entry.taken_from);
        if before == Some(wrote) || taken_from == Some(wrote.0) {
            return Ok(before.unwrap_or(self.tier));
        }
        match before.filter(|_| self.pooled) {
            None if self.is_open(wrote) => Ok(wrote),
            Some(before) if self.is_open(wrote) => {
                let why =
                    format!("its label says tier {wrote}, the library knows it as one of {before}");
                Err(declined(barcode, why))
            }
            _ if take => Ok(before.unwrap_or(self.tier)),
            _ => {
                let why = format!(
                    "tier {wrote} wrote it, and this is {}. If that one does not need it any more: --take",
                    self.tier
                );
                Err(declined(barcode, why))
            }
        }
    }

    fn image_to_take(&self, what: &Import) -> Result<PathBuf, LibraryError> {
        let path = match what {
            Import::At(path) => path.clone(),
            Import::Known(barcode) => {
                let stock = self.stock.lock();
                let cartridge = stock.cartridges.get(barcode);
                match cartridge.and_then(|c| c.entry.away.as_ref()) {
                    Some(away) => {
                        let path = PathBuf::from(&away.path);
                        let name = path.file_name().and_then(|n| n.to_str());
                        if name.and_then(barcode_of) != Some(*barcode) {
                            let why = format!("{} is not named after it", path.display());
                            return Err(declined(barcode, why));
                        }
                        path
                    }
                    None if self.image(*barcode).exists() => self.image(*barcode),
                    None => {
                        let why = "nothing is known of where it lies: name its image";
                        return Err(declined(barcode, why));
                    }
                }
            }
        };
        let found = path.canonicalize();
        found.map_err(|e| declined(path.display(), format!("it cannot be found: {e}")))
    }

    /// The library's entry of a cartridge that may come, if it has one.
    fn may_come(&self, barcode: Barcode, image: &Path) -> Result<Option<Entry>, LibraryError> {
        let stock = self.stock.lock();
        let entries: Vec<Entry> = stock.cartridges.values().map(|c| self.entry(c)).collect();
        drop(stock);
        let known = entries.iter().find(|e| e.barcode == barcode).cloned();
        let place = self.image(barcode);
        if known.as_ref().is_some_and(|e| e.away.is_none()) && place.exists() {
            return Err(declined(
                barcode,
                "the library has a cartridge of this barcode",
            ));
        }
        if known.is_none()
            && let Some(twin) = same_volume(&entries, barcode)
        {
            let why = format!("{twin} has the same name of a volume: two cartridges with one name");
            return Err(declined(barcode, why));
        }
        if place.exists() && place.canonicalize().ok().as_deref() != Some(image) {
            let why = format!("there is another image at {}", place.display());
            return Err(declined(barcode, why));
        }
        Ok(known)
    }

    /// Whose an image is.
    pub(super) fn appraise(&self, barcode: Barcode, image: &Path) -> Result<(), LibraryError> {
        let fail = |e| LibraryError::volume(barcode, e);
        let mut drive = self.bench_with(unwritable(barcode, image)).map_err(fail)?;
        let owner = volume::label(&mut drive).map_err(fail)?.owner;
        let owner = if self.is_open(owner) {
            owner
        } else {
            self.tier
        };
        volume::check(&mut drive, barcode, owner).map_err(fail)?;
        Ok(())
    }

    /// Whose an image is, and what is on it. Nothing is written.
    fn examine(&self, barcode: Barcode, image: &Path) -> Result<(TierId, Scan), LibraryError> {
        let fail = |e| LibraryError::volume(barcode, e);
        let mut drive = self.bench_with(unwritable(barcode, image)).map_err(fail)?;
        let owner = volume::label(&mut drive).map_err(fail)?.owner;
        volume::check(&mut drive, barcode, owner).map_err(fail)?;
        let scan = volume::scan(&mut drive, barcode, None).map_err(fail)?;
        Ok((owner, scan))
    }

    /// It must not be another cartridge with the barcode of one that the library has.
    pub(super) fn no_other(&self, known: &Entry, wrote: TierId) -> Result<(), LibraryError> {
        // One that was taken may have got this tier's label before that was written down.
        let own = known.owner.unwrap_or(self.tier);
        if wrote == own || known.taken_from == Some(wrote.0) {
            return Ok(());
        }
        // Of a pool of this library: whose it is, is asked next.
        if self.pooled && self.is_open(wrote) {
            return Ok(());
        }
        let lies = match &known.away {
            Some(away) => format!("exported to {}", away.path),
            None => "which is not in its place".to_owned(),
        };
        Err(declined(
            known.barcode,
            format!(
                "tier {wrote} wrote it, and this barcode is one of this library's own cartridges, {lies}. No \
                 library has two of one barcode: what is needed of it, the library that wrote it copies to \
                 one with another sticker (`cairn tape repack`)"
            ),
        ))
    }

    /// A cartridge of another tier that is new here begins without an index: one that is there is of
    /// another cartridge, or of another time.
    pub(super) fn begin_index(&self, barcode: Barcode, scan: &Scan) -> Result<(), LibraryError> {
        let dir = self.root.join(super::FILES);
        let index = Files::open(&dir, barcode);
        let other = index.live().find(|f| !lies_among(&scan.files, f));
        if other.is_some() || index.unreadable().is_some() {
            let why = "there is an index of another cartridge of this barcode, which is not in the library: \
                       put that one back";
            return Err(declined(barcode, why));
        }
        set_aside(&dir, barcode).map_err(|e| LibraryError::io("setting an index aside", e))
    }

    /// No file on it may have the name of another one with other bytes: which is right, nobody could say.
    /// `known`: it is one of the library's own.
    pub(super) fn no_clash(
        &self,
        barcode: Barcode,
        (owner, known): (TierId, bool),
        scan: &Scan,
    ) -> Result<(), LibraryError> {
        let stock = self.stock.lock();
        let clash = scan.files.iter().find_map(|file| {
            let (at, other) = stock.names.get(&(owner, file.name))?;
            let own = known && *at == barcode;
            let differs = !own && (other.len, other.crc) != (file.len, file.crc);
            differs.then_some((file.name, *at))
        });
        match clash {
            None => Ok(()),
            Some((name, at)) => Err(declined(
                barcode,
                format!("{name} is on it, and on {at} with other bytes: they are of two instances"),
            )),
        }
    }

    pub(super) fn take_in(
        &self,
        barcode: Barcode,
        known: Option<Entry>,
        (owner, from): (TierId, Option<TierId>),
        scan: &Scan,
    ) -> Result<(), LibraryError> {
        let mut stock = self.stock.lock();
        let entries: Vec<Entry> = stock.cartridges.values().map(|c| c.entry.clone()).collect();
        let mut entry = known.clone().unwrap_or_else(|| {
            let generation = Generation::ALL.into_iter();
            let generation = generation
                .into_iter()
                .find(|g| g.medium() == barcode.medium());
            let generation = generation.unwrap_or(self.options.generation);
            let mut geometry = self.geometry_of(generation, &entries);
            geometry.capacity = geometry.capacity.max(scan.next.bytes);
            Entry::new(barcode, geometry, free_slot(&entries))
        });
        entry.away = None;
        entry.taken_from = from.map(|tier| tier.0);
        entry.owner = self.pooled.then_some(owner);
        match stock.cartridges.get_mut(&barcode) {
            Some(cartridge) => {
                cartridge.entry = entry;
                stock.give(barcode, owner);
            }
            None => self.enter(&mut stock, entry),
        }
        self.keep(&mut stock)
    }
}

/// An image in a drive that does not write.
fn unwritable(barcode: Barcode, image: &Path) -> Inserted {
    Inserted {
        barcode,
        image: image.to_owned(),
        geometry: Geometry::whole(Generation::Lto8),
        protected: true,
    }
}

/// A cartridge whose volume has the name that this one's would have.
pub(super) fn same_volume(entries: &[Entry], barcode: Barcode) -> Option<Barcode> {
    let same = |e: &&Entry| e.barcode.volume() == barcode.volume();
    entries.iter().find(same).map(|e| e.barcode)
}

pub(super) fn free_slot(entries: &[Entry]) -> u32 {
    (1..)
        .find(|n| !entries.iter().any(|e| e.slot == *n))
        .unwrap_or(u32::MAX)
}

/// Moves an image, in place of nothing; durable when this returns.
fn move_image(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        // Not every filesystem can: a second name, then the first one goes.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)?;
        }
        Err(error) => return Err(error.into()),
    }
    for path in [to, from] {
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
    }
    Ok(())
}

/// No more than a torn label: never used.
pub(super) fn is_blank(image: &Path) -> bool {
    // A label and the mark behind it.
    std::fs::metadata(image).is_ok_and(|meta| meta.len() <= 92)
}

/// The sticker of a tier's `number`-th cartridge: three characters that tell libraries apart, three
/// digits, the medium.
fn sticker(tier: TierId, number: u32, medium: &str) -> Option<Barcode> {
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
