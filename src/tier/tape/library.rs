//! A tape library: cartridges in slots, drives, a robot, and what lies where. [`equipment`] says what those are.
//!
//! ```text
//! ROOT/cairn-tier.json        the mark
//! ROOT/library.json           slots, cartridges (see `state`)
//! ROOT/library.lock           held while a process uses the library
//! ROOT/cartridges/XYZ001L8.tap    the images of a virtual one
//! ROOT/files/XYZ001L8.jsonl       which file lies where: a cache, and the dead (see `files`)
//! ROOT/front/                 bytes that wait for a drive (files without names)
//! ROOT/pools/NAME/cairn-tier.json   in a library with pools, the mark of each
//! ```
//! Invariants kept here:
//! - One process has the library, one drive a cartridge, one user a drive (P9).
//! - Where to append comes from the medium: each time a cartridge is loaded its label is checked and
//!   its end looked for; nothing on disk is believed about it. An index can only forbid it: a live file
//!   that it knows and the medium does not show is no torn tail but damage.
//! - No name is missing, and none is deleted, that may be where nothing can be seen now.
//! - A file is known when its closing labels are proven, and a receipt follows only that. At the end of a tape it is
//!   abandoned there and written anew, whole, to another cartridge (P14).
//! - Of one name at most one file is being written, and none if one is there.
//! - Pools share drives and slots (see `hall`), and neither cartridges nor names.
//! - Deleting marks a file as dead, durably; its bytes go when its whole cartridge is freed.

mod append;
mod audit;
mod batch;
mod choose;
mod equipment;
mod error;
mod freeing;
mod hall;
mod inventory;
mod media;
mod mounts;
mod read;
mod real;
mod room;
mod view;
mod wear;

pub use audit::Audit;
pub use choose::{Candidate, Kind, NoRoom, choose};
pub use equipment::Equipment;
pub use error::LibraryError;
pub use media::{Import, Taken};
pub use mounts::{BayStatus, Failure, MountError, Mounted, Mounts, Pin, Seen};
pub use room::Kept;
pub use view::{CartridgeStatus, DriveStatus, FileStatus};

use super::drive::virtual_drive::Inserted;
use super::drive::{Blame, Drive, DriveError};
use super::files::Files;
use super::label::Barcode;
use super::lock::{Locked, Share};
use super::options::TapeOptions;
use super::robot::{RobotError, Wanted};
use super::state::{Entry, State};
use super::timing::Geometry;
use super::volume::{self, FIRST, TapeFile, VolumeError};
use crate::id::{AggregateId, TierId};
use batch::Batches;
use hall::Hall;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const LOCK: &str = "library.lock";
const CARTRIDGES: &str = "cartridges";
const FILES: &str = "files";
const FRONT: &str = "front";

/// An open library of a tier: all of one, or a pool of one.
pub struct Library {
    /// What it shares with other pools; `None` only while this is dropped.
    hall: Option<Arc<Hall>>,
    tier: TierId,
    /// The pool's name, if the library has pools.
    pool: Option<String>,
    /// Others may have the hall, too.
    is_shared: bool,
    /// Files that are to be written.
    batches: Batches,
}

/// A file's name, among those of its tier.
type Name = (TierId, AggregateId);

/// What the library has.
struct Stock {
    state: State,
    cartridges: BTreeMap<Barcode, Cartridge>,
    names: BTreeMap<Name, (Barcode, TapeFile)>,
    /// Further files of such a name: only where an index was lost that said which is dead.
    twins: BTreeMap<Name, Vec<(Barcode, TapeFile)>>,
    /// Bytes of objects for which room is kept, until they are there.
    promised: BTreeMap<Name, u64>,
    /// Names that are being written.
    writing: BTreeSet<Name>,
    /// Whole files that were found under such a name: leftovers of a drive that died before it said
    /// that they are proven. Nobody sees them; they are buried before the name is written again.
    withheld: BTreeMap<Name, Vec<(Barcode, TapeFile)>>,
    /// Indexes with files on cartridges that the library does not have.
    orphans: Vec<String>,
    /// Something of the state is not on disk yet.
    unkept: bool,
    /// When it was last put there.
    kept: Instant,
}

/// A cartridge and what is on it.
struct Cartridge {
    entry: Entry,
    /// Whose it is; `None`: it is blank, and nobody's.
    owner: Option<TierId>,
    /// A pool is labelling it.
    is_being_claimed: bool,
    files: Files,
    /// The last file that a look of this process found to count: if nothing on the cartridge proves it, it was read.
    counted: Option<TapeFile>,
    /// Bytes on it, torn tails left out, as last seen.
    used: u64,
    /// It cannot be used at all.
    trouble: Option<String>,
    /// A drive said so of a real one: only a drive can say that it is over.
    distrusted: bool,
    /// Something is wrong on it: it is read, and never written.
    damage: Option<String>,
    /// Why the last write to it failed: it is chosen after all others.
    failing: Option<String>,
    /// When it was last looked at because of its trouble.
    looked: Instant,
}

impl Library {
    /// Opens the library of a tier, or makes one where there is none: adds the cartridges that
    /// `options` asks for and are missing, and looks at each. Of a library with pools that this process has open
    /// already, one more pool: the equipment is then the one that it was opened with.
    ///
    /// # Errors
    /// [`LibraryError::InUse`], [`LibraryError::PoolInUse`], [`LibraryError::Otherwise`], [`LibraryError::State`],
    /// [`LibraryError::Io`]. A cartridge that cannot be used is no error: [`Self::cartridges`] says so.
    pub fn open(
        root: &Path,
        tier: TierId,
        options: &TapeOptions,
        equipment: impl Into<Equipment>,
    ) -> Result<Self, LibraryError> {
        let make = || Self::begin(root, tier, options, equipment.into());
        match options.pool {
            None => make(),
            Some(_) => Self::join(root, tier, options, make),
        }
    }

    fn begin(
        root: &Path,
        tier: TierId,
        options: &TapeOptions,
        equipment: Equipment,
    ) -> Result<Self, LibraryError> {
        let lock = lock_of(root)?;
        equipment.settle_in(root, options)?;
        for dir in [FILES, FRONT] {
            make_dir(&root.join(dir)).map_err(|e| LibraryError::io("making its directories", e))?;
        }
        let alone = options.pool.is_none().then_some(tier);
        let state = match State::read(root, alone)? {
            Some(state) => state,
            None => State::new(alone),
        };
        let mounts = equipment.mounts(root, &state, options);
        let stock = Stock {
            state,
            cartridges: BTreeMap::new(),
            names: BTreeMap::new(),
            twins: BTreeMap::new(),
            promised: BTreeMap::new(),
            writing: BTreeSet::new(),
            withheld: BTreeMap::new(),
            orphans: Vec::new(),
            unkept: false,
            kept: Instant::now(),
        };
        let library = Self {
            hall: Some(Arc::new(Hall::new(
                (root, options, equipment),
                mounts,
                stock,
                lock,
            ))),
            tier,
            pool: options.pool.clone(),
            is_shared: false,
            batches: Batches::default(),
        };
        library.take_stock()?;
        Ok(library)
    }

    /// The tier whose library, or pool, it is.
    #[must_use]
    pub fn tier(&self) -> TierId {
        self.tier
    }

    /// Is there a library below `root`?
    #[must_use]
    pub fn is_at(root: &Path) -> bool {
        root.join(super::state::STATE).exists()
    }

    /// Is a process using the library below `root`?
    ///
    /// # Errors
    /// It cannot be told.
    pub fn in_use(root: &Path) -> Result<bool, LibraryError> {
        match lock_of(root) {
            Ok(_) => Ok(false),
            Err(LibraryError::InUse) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Opens the library of a tier as it is: nothing is added to it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_as_is(
        root: &Path,
        tier: TierId,
        options: &TapeOptions,
    ) -> Result<Self, LibraryError> {
        let options = TapeOptions {
            cartridges: 0,
            ..options.clone()
        };
        Self::open(root, tier, &options, Equipment::of(&options))
    }

    /// The directory for [`super::front::Front`].
    ///
    /// # Errors
    /// [`LibraryError::Io`].
    pub fn front(&self) -> Result<File, LibraryError> {
        File::open(self.root.join(FRONT)).map_err(|e| LibraryError::io("opening the front area", e))
    }

    /// Its directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a file lies.
    ///
    /// # Errors
    /// [`LibraryError::Missing`] if every cartridge was seen, and [`LibraryError::Unseen`] if not.
    pub fn known(&self, name: AggregateId) -> Result<(Barcode, TapeFile), LibraryError> {
        if let Some(found) = self.find(name) {
            return Ok(found);
        }
        self.look_again();
        let stock = self.stock.lock();
        match (stock.names.get(&(self.tier, name)), stock.unseen(self.tier)) {
            (Some(found), _) => Ok(*found),
            (None, None) => Err(LibraryError::Missing),
            (None, Some(why)) => Err(LibraryError::Unseen(why)),
        }
    }

    /// Where a file lies, as far as is known now.
    #[must_use]
    pub fn find(&self, name: AggregateId) -> Option<(Barcode, TapeFile)> {
        self.stock.lock().names.get(&(self.tier, name)).copied()
    }

    /// Names from behind `after`, ascending, at most `limit`.
    #[must_use]
    pub fn names(&self, after: Option<AggregateId>, limit: usize) -> Vec<AggregateId> {
        use std::ops::Bound;
        let least = AggregateId { epoch: 0, seq: 0 };
        let from = match after {
            Some(after) => Bound::Excluded((self.tier, after)),
            None => Bound::Included((self.tier, least)),
        };
        let stock = self.stock.lock();
        let names = stock.names.range((from, Bound::Unbounded));
        let names = names.take_while(|((tier, _), _)| *tier == self.tier);
        names.map(|((_, name), _)| *name).take(limit).collect()
    }

    /// Why there may be objects that [`Self::names`] does not name; `None` if there are none.
    #[must_use]
    pub fn blind(&self) -> Option<String> {
        self.stock.lock().blind(self.tier)
    }

    /// Marks a file as dead, durably, wherever it lies. What is not there is dead already.
    ///
    /// # Errors
    /// [`LibraryError::Io`]: it may be there or not. [`LibraryError::Unseen`]: nobody knows it, and it
    /// may be where nothing can be seen.
    pub fn delete(&self, name: AggregateId) -> Result<(), LibraryError> {
        if self.find(name).is_none() {
            self.look_again();
        }
        let mut stock = self.stock.lock();
        let name = (self.tier, name);
        stock.bury_withheld(name)?;
        let Some(first) = stock.names.get(&name).copied() else {
            return match stock.unseen(self.tier) {
                None => Ok(()),
                Some(why) => Err(LibraryError::Unseen(why)),
            };
        };
        let twins = stock.twins.get(&name).cloned().unwrap_or_default();
        for (barcode, file) in twins.iter().chain([&first]) {
            stock.bury(*barcode, file)?;
        }
        stock.names.remove(&name);
        stock.twins.remove(&name);
        Ok(())
    }

    /// Makes a cartridge empty whose files are all dead.
    ///
    /// # Errors
    /// [`LibraryError::Alive`] if they are not; [`LibraryError::Declined`] if it is damaged, or not to be
    /// written; [`LibraryError::OtherPool`], [`LibraryError::Volume`], ...
    pub fn free(&self, barcode: Barcode) -> Result<(), LibraryError> {
        self.written(&self.stock.lock(), barcode)?;
        // While the drive is held nobody appends to it; and what is dead stays so.
        let mut mounted = self.mount(barcode)?;
        let damage = mounted.seen.as_ref().and_then(|seen| seen.damage.clone());
        let freed = match damage {
            None => self.empty(mounted.drive(), barcode),
            Some(why) => Err(media::declined(barcode, why)),
        };
        // Whatever came of it, it is looked at anew before it is written.
        mounted.vacate();
        freed
    }

    /// Erases a cartridge behind its label, if all on it is dead, and then its index: so no dead mark
    /// is lost while its file is there.
    fn empty(&self, drive: &mut dyn Drive, barcode: Barcode) -> Result<(), LibraryError> {
        let alive = {
            let stock = self.stock.lock();
            let cartridge = stock.cartridges.get(&barcode);
            let cartridge = cartridge.ok_or(LibraryError::Absent { barcode })?;
            // Whoever chose it waited for its drive since.
            if let Some(why) = cartridge.kept() {
                return Err(media::declined(barcode, why));
            }
            // Those that its index does not know, too.
            let twins = stock.twins.values().flatten();
            let withheld = stock.withheld.values().flatten();
            let named = stock.names.values().chain(twins).chain(withheld);
            let named = named.filter(|(at, _)| *at == barcode).count();
            named.max(cartridge.files.live().count())
        };
        if alive > 0 {
            return Err(LibraryError::Alive {
                barcode,
                files: alive,
            });
        }
        let owner = self.owner_of(barcode);
        // However long it was in the drive since that was looked at.
        volume::check(drive, barcode, owner.unwrap_or(self.tier))
            .map_err(|e| LibraryError::volume(barcode, e))?;
        if owner == Some(self.tier) {
            volume::cut(drive, FIRST).map_err(|source| {
                let step = "erasing a cartridge";
                LibraryError::volume(barcode, VolumeError::Drive { step, source })
            })?;
        } else {
            // From now on it is this tier's.
            let label = self.own_label(barcode);
            let done = volume::initialise(drive, &label);
            done.map_err(|e| LibraryError::volume(barcode, e))?;
        }
        let mut stock = self.stock.lock();
        if let Some(cartridge) = stock.cartridges.get_mut(&barcode) {
            let cleared = cartridge.files.clear();
            cleared.map_err(|e| LibraryError::io("clearing an index", e))?;
            (cartridge.used, cartridge.damage) = (FIRST.bytes, None);
            cartridge.entry.full = false;
            cartridge.entry.repack = false;
            cartridge.entry.taken_from = None;
            cartridge.entry.freed += 1;
            cartridge.entry.bad.clear();
        }
        self.keep(&mut stock)
    }

    /// Writes the state as the cartridges have it.
    fn keep(&self, stock: &mut Stock) -> Result<(), LibraryError> {
        let entry = |c: &Cartridge| self.entry(c);
        stock.state.cartridges = stock.cartridges.values().map(entry).collect();
        stock.state.write(&self.root)?;
        (stock.unkept, stock.kept) = (false, Instant::now());
        Ok(())
    }

    /// Changes the tab of a cartridge: whether it may be written.
    ///
    /// # Errors
    /// [`LibraryError::Absent`], [`LibraryError::OtherPool`], [`LibraryError::Blank`], [`LibraryError::State`].
    pub fn protect(&self, barcode: Barcode, protected: bool) -> Result<(), LibraryError> {
        self.written(&self.stock.lock(), barcode)?;
        if self.is_real() {
            return Err(media::declined(
                barcode,
                "move its tab: its drive sees that when it is loaded next",
            ));
        }
        let mounted = self.mount(barcode)?;
        let kept = {
            let mut stock = self.stock.lock();
            match stock.cartridges.get_mut(&barcode) {
                Some(cartridge) => {
                    cartridge.entry.write_protected = protected;
                    self.keep(&mut stock)
                }
                None => Err(LibraryError::Absent { barcode }),
            }
        };
        // Out of its drive: a drive looks at the tab when it loads.
        mounted.vacate();
        kept
    }

    /// Is a cartridge there, as far as can be seen?
    #[must_use]
    pub fn is_here(&self, barcode: Barcode) -> bool {
        let found = self.to_insert(barcode);
        matches!(
            found,
            Ok(_) | Err(LibraryError::Load { .. } | LibraryError::Robot { .. })
        )
    }

    /// Seconds of one move of the robot.
    #[must_use]
    pub fn robot_move(&self) -> f64 {
        self.stock.lock().state.robot_move
    }

    /// See [`Mounts::waiting`].
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.mounts.waiting()
    }

    /// See [`Mounts::stuck`].
    #[must_use]
    pub fn stuck(&self) -> Option<Duration> {
        self.mounts.stuck()
    }

    /// See [`Mounts::is_pinned`].
    #[must_use]
    pub fn is_pinned(&self, pin: Pin) -> bool {
        self.mounts.is_pinned(pin)
    }

    /// See [`Mounts::unused`].
    #[must_use]
    pub fn unused(&self, pin: Pin) -> Duration {
        self.mounts.unused(pin)
    }

    /// How many keep a cartridge in its drive.
    #[must_use]
    pub fn pins(&self) -> usize {
        self.mounts.pins()
    }

    /// See [`Mounts::unpin`].
    pub fn unpin(&self, pin: Pin) {
        self.mounts.unpin(pin);
    }

    /// Waits for a drive with the cartridge, and looks at it if it was just loaded.
    ///
    /// # Errors
    /// [`LibraryError::Absent`], [`LibraryError::Load`], [`LibraryError::Volume`],
    /// [`LibraryError::NoDrive`].
    pub fn mount(&self, barcode: Barcode) -> Result<Mounted<'_>, LibraryError> {
        self.mount_instead(barcode, None)
    }

    /// The same; where there is a choice, in the drive that holds `instead`.
    ///
    /// # Errors
    /// As [`Self::mount`].
    pub fn mount_instead(
        &self,
        barcode: Barcode,
        instead: Option<Barcode>,
    ) -> Result<Mounted<'_>, LibraryError> {
        loop {
            let inserted = self.to_insert(barcode)?;
            let mounted = self.mounts.mount(&inserted, instead);
            self.note_failures();
            let mut mounted = mounted.map_err(|e| LibraryError::mount(barcode, e))?;
            // It may have been exported while a drive was waited for.
            if let Err(away) = self.to_insert(barcode) {
                mounted.vacate();
                return Err(away);
            }
            if mounted.seen.is_some() {
                return Ok(mounted);
            }
            self.loaded(barcode);
            self.note_tab(mounted.drive(), barcode);
            // Its tab may have been changed while a drive was waited for.
            if !self.is_real() && self.tab(barcode) != Some(inserted.protected) {
                mounted.vacate();
                continue;
            }
            match self.look(mounted.drive(), barcode) {
                Ok(seen) => {
                    mounted.seen = Some(seen);
                    return Ok(mounted);
                }
                Err(LibraryError::Volume {
                    source: VolumeError::Drive { source, .. },
                    ..
                }) if source.blames() == Blame::Drive => {
                    mounted.fail(&source);
                }
                Err(error) => {
                    self.unlookable(mounted.drive().number(), barcode, &error);
                    mounted.vacate();
                    return Err(error);
                }
            }
        }
    }

    /// Is a cartridge write-protected?
    fn tab(&self, barcode: Barcode) -> Option<bool> {
        let stock = self.stock.lock();
        let cartridge = stock.cartridges.get(&barcode);
        cartridge.map(|c| c.entry.write_protected)
    }

    /// The cartridge for a drive, if it is there.
    fn to_insert(&self, barcode: Barcode) -> Result<Wanted, LibraryError> {
        let stock = self.stock.lock();
        let cartridge = stock.cartridges.get(&barcode);
        let entry = &cartridge.ok_or(LibraryError::Absent { barcode })?.entry;
        if let Some(away) = &entry.away {
            let path = away.path.clone();
            return Err(LibraryError::Exported { barcode, path });
        }
        let wanted = wanted(entry);
        drop(stock);
        // Nothing is called absent that could not be looked for.
        match self.mounts.robot().has(barcode) {
            Ok(true) => Ok(wanted),
            Ok(false) => Err(LibraryError::Absent { barcode }),
            Err(RobotError::Failed { why, .. }) if !self.is_real() => Err(LibraryError::Load {
                barcode,
                source: DriveError::Unloadable(why),
            }),
            Err(source) => Err(LibraryError::Robot { barcode, source }),
        }
    }

    /// A cartridge as the timing model sees it.
    ///
    /// # Errors
    /// [`LibraryError::Absent`].
    pub fn geometry(&self, barcode: Barcode) -> Result<Geometry, LibraryError> {
        let stock = self.stock.lock();
        let cartridge = stock.cartridges.get(&barcode);
        let cartridge = cartridge.ok_or(LibraryError::Absent { barcode })?;
        Ok(cartridge.entry.geometry())
    }

    fn inserted(&self, entry: &Entry) -> Inserted {
        Inserted {
            barcode: entry.barcode,
            image: self.image(entry.barcode),
            geometry: entry.geometry(),
            protected: entry.write_protected,
        }
    }

    fn image(&self, barcode: Barcode) -> PathBuf {
        self.root.join(CARTRIDGES).join(format!("{barcode}.tap"))
    }
}

/// A cartridge as a robot is asked for it.
fn wanted(entry: &Entry) -> Wanted {
    Wanted {
        barcode: entry.barcode,
        geometry: entry.geometry(),
        protected: entry.write_protected,
    }
}

fn lock_of(root: &Path) -> Result<Locked, LibraryError> {
    let fail = |e| LibraryError::io("locking the library", e);
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    let file = options
        .custom_flags(libc::O_NOFOLLOW)
        .open(root.join(LOCK))
        .map_err(fail)?;
    let locked = Locked::try_new(file, Share::Alone).map_err(fail)?;
    locked.ok_or(LibraryError::InUse)
}

/// Makes a directory unless it is there; durable when this returns.
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}
