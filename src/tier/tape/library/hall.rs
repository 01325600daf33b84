//! What the pools of one library share: its lock, drives, robot, slots and blank cartridges.
//!
//! Without pools a library is one tier's, and its hall is nobody else's. With pools, all tiers of this process that lie in
//! one library share one hall, which lives as long as the last of them; another process meets the lock.
//!
//! Invariants kept here: a hall is open once; a pool is open once in it. A cartridge is of one pool from before the first
//! file is written to it: its label says of which, durably, before the state does, and neither is changed any more. Only what
//! was never labelled is blank.

use super::batch::Batches;
use super::{Cartridge, Equipment, Library, LibraryError, Mounts, Stock, media};
use crate::id::TierId;
use crate::tier::dir::mark;
use crate::tier::tape::label::{Barcode, NotOurs};
use crate::tier::tape::lock::Locked;
use crate::tier::tape::options::{POOLS, TapeOptions};
use crate::tier::tape::state::Entry;
use crate::tier::tape::volume::{self, VolumeError};
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

/// See the module. [`Library`] is what a tier has of it.
pub struct Hall {
    pub(super) root: PathBuf,
    pub(super) options: TapeOptions,
    pub(super) equipment: Equipment,
    pub(super) mounts: Mounts,
    pub(super) stock: Mutex<Stock>,
    /// A name is not being written any more.
    pub(super) settled: Condvar,
    /// It has pools.
    pub(super) pooled: bool,
    /// Those that are open, each once.
    open: Mutex<BTreeSet<TierId>>,
    pub(super) lock: Locked,
}

/// Device and inode of a library's root.
type Identity = (u64, u64);

/// Halls with pools that this process has open.
static OPEN: Mutex<Vec<(Identity, Weak<Hall>)>> = Mutex::new(Vec::new());

impl Hall {
    pub(super) fn new(
        (root, options, equipment): (&Path, &TapeOptions, Equipment),
        mounts: Mounts,
        stock: Stock,
        lock: Locked,
    ) -> Self {
        Self {
            root: root.to_owned(),
            options: options.of_library(),
            equipment,
            mounts,
            stock: Mutex::new(stock),
            settled: Condvar::new(),
            pooled: options.pool.is_some(),
            open: Mutex::new(BTreeSet::new()),
            lock,
        }
    }
}

impl Library {
    /// One more pool of the library at `root`, if this process has it open; else the one that `make` makes.
    pub(super) fn join(
        root: &Path,
        tier: TierId,
        options: &TapeOptions,
        make: impl FnOnce() -> Result<Self, LibraryError>,
    ) -> Result<Self, LibraryError> {
        let meta = std::fs::metadata(root).map_err(|e| LibraryError::io("looking for it", e))?;
        let identity: Identity = (meta.dev(), meta.ino());
        // Until it is open, so that it is opened once.
        let mut open = OPEN.lock();
        open.retain(|(_, hall)| hall.strong_count() > 0);
        let here = open.iter().find(|(at, _)| *at == identity);
        let mut library = match here.and_then(|(_, hall)| hall.upgrade()) {
            Some(hall) => Self {
                hall: Some(hall),
                tier,
                pool: options.pool.clone(),
                is_shared: false,
                batches: Batches::default(),
            },
            None => {
                let library = make()?;
                open.extend(library.hall.iter().map(|h| (identity, Arc::downgrade(h))));
                library
            }
        };
        if library.options != options.of_library() {
            return Err(LibraryError::Otherwise {
                open: library.options.to_string(),
            });
        }
        if !library.open.lock().insert(tier) {
            return Err(LibraryError::PoolInUse);
        }
        library.is_shared = true;
        Ok(library)
    }

    /// The tiers of all pools that are marked below the root.
    fn pools(&self) -> io::Result<Vec<TierId>> {
        let mut tiers = Vec::new();
        for pool in std::fs::read_dir(self.root.join(POOLS))? {
            let dir = File::open(pool?.path())?;
            match mark::read(&dir) {
                Ok(mark) => tiers.push(mark.tier),
                // Half made.
                Err(error) if error.is_absent() => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(tiers)
    }

    /// Whose a cartridge is: also if the pool that took it died before the state could say so.
    pub(super) fn whose(&self, entry: &Entry) -> Option<TierId> {
        if entry.owner.is_some() {
            return entry.owner;
        }
        let label = self.bench(entry).and_then(|mut d| volume::label(&mut d));
        let label = label.ok().filter(|l| l.name == entry.barcode.volume())?;
        // One of which nobody knows is a stranger's, and not blank.
        let pools = self.pools().unwrap_or_default();
        pools.contains(&label.owner).then_some(label.owner)
    }

    /// Sees that a cartridge that nobody has is blank.
    pub(super) fn check_blank(&self, entry: &Entry) -> Result<(), VolumeError> {
        let found = self.bench(entry).and_then(|mut d| volume::label(&mut d));
        match found {
            Err(VolumeError::NotOurs(NotOurs::Unlabelled)) if self.is_blank(entry.barcode) => {
                Ok(())
            }
            Ok(label) => Err(VolumeError::Stranger {
                found: label.owner,
                wanted: TierId(0),
            }),
            Err(error) => Err(error),
        }
    }

    pub(super) fn is_blank(&self, barcode: Barcode) -> bool {
        media::is_blank(&self.image(barcode))
    }

    /// Makes a blank cartridge this pool's own, unless it is: its label says so, durably, before its first file is written.
    ///
    /// # Errors
    /// [`LibraryError::Elsewhere`] if another pool was quicker; [`LibraryError::Volume`]: it stays blank.
    pub(super) fn claim(&self, barcode: Barcode) -> Result<(), LibraryError> {
        let mut stock = self.stock.lock();
        let entry = loop {
            let cartridge = stock.cartridges.get_mut(&barcode);
            let cartridge = cartridge.ok_or(LibraryError::Absent { barcode })?;
            if let Some(away) = &cartridge.entry.away {
                let path = away.path.clone();
                return Err(LibraryError::Exported { barcode, path });
            }
            match cartridge.owner {
                Some(owner) if owner == self.tier => return Ok(()),
                Some(_) => return Err(LibraryError::Elsewhere),
                None if cartridge.is_being_claimed => self.settled.wait(&mut stock),
                None => {
                    cartridge.is_being_claimed = true;
                    break cartridge.entry.clone();
                }
            }
        };
        drop(stock);
        let labelled = self
            .check_blank(&entry)
            .and_then(|()| volume::initialise(&mut self.bench(&entry)?, &self.own_label(barcode)));
        let mut stock = self.stock.lock();
        if let Some(cartridge) = stock.cartridges.get_mut(&barcode) {
            cartridge.is_being_claimed = false;
            if labelled.is_ok() {
                cartridge.owner = Some(self.tier);
            }
        }
        self.settled.notify_all();
        labelled.map_err(|error| LibraryError::volume(barcode, error))?;
        tracing::info!(%barcode, tier = %self.tier, "a blank cartridge is taken");
        // The label says it already.
        if let Err(error) = self.keep(&mut stock) {
            tracing::warn!(%barcode, %error, "that it is taken is not kept");
        }
        Ok(())
    }

    /// Is it a pool of the library that is open, or the tier whose library it is?
    pub(super) fn is_open(&self, tier: TierId) -> bool {
        tier == self.tier || self.open.lock().contains(&tier)
    }

    /// A cartridge that is this pool's, or nobody's: no pool touches another one's.
    ///
    /// # Errors
    /// [`LibraryError::Absent`], [`LibraryError::OtherPool`].
    pub(super) fn own<'s>(
        &self,
        stock: &'s mut Stock,
        barcode: Barcode,
    ) -> Result<&'s mut Cartridge, LibraryError> {
        self.is_own(stock, barcode)?;
        let cartridge = stock.cartridges.get_mut(&barcode);
        cartridge.ok_or(LibraryError::Absent { barcode })
    }

    /// Is it this pool's, or nobody's?
    ///
    /// # Errors
    /// As [`Self::own`].
    pub(super) fn is_own(&self, stock: &Stock, barcode: Barcode) -> Result<(), LibraryError> {
        let cartridge = stock.cartridges.get(&barcode);
        let owner = cartridge.ok_or(LibraryError::Absent { barcode })?.owner;
        match owner.filter(|owner| *owner != self.tier) {
            Some(owner) => Err(LibraryError::OtherPool { barcode, owner }),
            None => Ok(()),
        }
    }

    /// Is it this pool's?
    ///
    /// # Errors
    /// As [`Self::own`]; [`LibraryError::Blank`] if it is nobody's.
    pub(super) fn written(&self, stock: &Stock, barcode: Barcode) -> Result<(), LibraryError> {
        self.is_own(stock, barcode)?;
        match stock.owner(barcode) {
            Some(_) => Ok(()),
            None => Err(LibraryError::Blank { barcode }),
        }
    }

    /// A cartridge for the state and for people, with whose it is where that is not plain.
    pub(super) fn entry(&self, cartridge: &Cartridge) -> Entry {
        Entry {
            owner: cartridge.owner.filter(|_| self.pooled),
            ..cartridge.entry.clone()
        }
    }
}

impl Deref for Library {
    type Target = Hall;

    fn deref(&self) -> &Hall {
        #[expect(clippy::expect_used, reason = "only drop takes it")]
        self.hall.as_ref().expect("there until dropped")
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // Whoever opens the library meanwhile waits until it is given up whole: lock, drives and what is in them.
        let _open = self.is_shared.then(|| OPEN.lock());
        self.keep_last();
        if let Some(hall) = self.hall.take().filter(|_| self.is_shared) {
            hall.open.lock().remove(&self.tier);
        }
    }
}

impl Cartridge {
    /// May files of a tier lie on it, or come to lie there?
    pub(super) fn is_for(&self, tier: TierId) -> bool {
        self.owner.is_none_or(|owner| owner == tier)
    }
}
