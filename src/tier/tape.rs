//! Tape: a library of cartridges, drives and a robot. It is virtual, cartridges being images on disk and
//! drives models of real ones, or real; docs/tiers.md and docs/format.md ("The cartridge") draw it.
//!
//! The pieces, from the bottom: [`image`] (the container), [`label`], [`drive`] (the tape's verbs, and
//! the virtual and the real drive), [`timing`] and [`clock`] (how long a real one takes), [`volume`] (a cartridge's
//! files through any drive), [`files`] (their index), [`robot`],
//! [`hardware`] (real drives and a changer), [`library`] (all of it together), and
//! here the tier.
//!
//! Invariants kept here: an object is visible when the library knows its file, which is after it was
//! proven; nothing is called missing unless the tier's mark was seen in the same operation and all
//! cartridges can be seen whole.

pub mod clock;
pub mod drive;
pub mod faults;
pub mod files;
pub mod front;
pub mod hardware;
mod hold;
pub mod image;
pub mod label;
pub mod library;
mod lock;
pub mod options;
mod place;
mod put;
pub mod robot;
pub mod state;
pub mod timing;
pub mod volume;

pub use options::TapeOptions;

use super::dir::mark;
use super::tapes::Tapes;
use super::{
    Description, Expect, Kind, Mark, OpenHow, Promise, Put, Root, Space, Tier, TierError, TierUrl,
};
use crate::id::{AggregateId, InstanceId};
use bytes::Bytes;
use faults::TapeFaults;
use hardware::Hardware;
use library::{Equipment, Library, LibraryError};
use parking_lot::Mutex;
use place::Place;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use volume::VolumeError;

const NOTE: &str = "A tape library of Cairn. cartridges/ holds one image for each cartridge (SIMH .tap); \
                    docs/format.md says how to take the tar archives out. Do not change this directory by hand.";

/// A tape library as a tier.
pub struct TapeTier {
    place: Arc<Place>,
}

/// Does a directory carry a tier's mark?
pub(super) fn is_marked(root: &Path) -> io::Result<bool> {
    place::is_marked(root)
}

/// Gives the library at `root`, or its pool whose mark is at `mark`, from one instance to another; refused while a process uses it.
pub(super) fn take(
    root: &Path,
    mark: &Path,
    from: InstanceId,
    to: InstanceId,
) -> Result<Mark, TierError> {
    let refused = |why: String| super::dir::place::refused(root, &why);
    match Library::in_use(root) {
        Ok(false) => super::dir::take(mark, from, to, NOTE),
        Ok(true) => Err(refused(
            "a process uses the library: stop it first".to_owned(),
        )),
        Err(error) => Err(refused(error.to_string())),
    }
}

impl TapeTier {
    /// Opens the library at the absolute path `root`; see [`Expect`] for what may be there.
    ///
    /// # Errors
    /// As [`super::open`].
    pub fn open(root: &Path, options: &TapeOptions, how: OpenHow) -> Result<Self, TierError> {
        Self::equipped(root, options, how, Equipment::of(options))
    }

    /// The same with drives and cartridges that fail when told to.
    ///
    /// # Errors
    /// As [`super::open`].
    pub fn with_faults(
        root: &Path,
        options: &TapeOptions,
        how: OpenHow,
        faults: TapeFaults,
    ) -> Result<Self, TierError> {
        Self::equipped(root, options, how, faults.into())
    }

    /// The same with other drives and another changer than the options name.
    ///
    /// # Errors
    /// As [`super::open`].
    pub fn with_hardware(
        root: &Path,
        options: &TapeOptions,
        how: OpenHow,
        hardware: Arc<dyn Hardware>,
    ) -> Result<Self, TierError> {
        Self::equipped(root, options, how, Equipment::Real(hardware))
    }

    fn equipped(
        root: &Path,
        options: &TapeOptions,
        how: OpenHow,
        equipment: Equipment,
    ) -> Result<Self, TierError> {
        let label = TierUrl::Tape {
            path: root.to_owned(),
            options: options.clone(),
        }
        .to_string();
        let (tier, is_new) = match how.expect {
            Expect::New(tier) => (tier, true),
            Expect::Known(tier) => (tier, false),
        };
        let mut expected = Mark {
            tier,
            owner: how.owner,
        };
        let mark = options.mark_dir(root);
        if is_new {
            if options.pool.is_some() {
                place::make_room(root, &label)?;
            }
            expected = mark::establish(&mark, &label, expected, NOTE)?;
        }
        let place = Arc::new(Place {
            path: root.to_owned(),
            mark,
            label,
            expected,
            is_new,
            options: options.clone(),
            equipment,
            seen: Mutex::new(None),
            was_there: AtomicBool::new(false),
            hurried: AtomicBool::new(false),
        });
        match place.look("opening") {
            Err(error @ TierError::Unavailable { .. }) if !is_new => {
                tracing::warn!(%error, "tier is away; it is used when it is back");
            }
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        Ok(Self { place })
    }

    /// The library, if it is there.
    ///
    /// # Errors
    /// [`TierError::Unavailable`].
    pub fn library(&self) -> Result<Arc<Library>, TierError> {
        self.place.enter("asking for the library")
    }

    /// One attempt to read; `None` if the object is not any more where it was when it began.
    fn try_read(
        &self,
        library: &Library,
        name: AggregateId,
        offset: u64,
        len: u64,
    ) -> Result<Option<Bytes>, TierError> {
        const STEP: &str = "reading";
        let fail = |error| sorted(&self.place, STEP, name, error);
        let (barcode, file) = library.known(name).map_err(fail)?;
        let wanted = offset.saturating_add(len);
        if wanted > file.len {
            return Err(TierError::Short {
                tier: self.place.label.clone(),
                object: name,
                len: file.len,
                wanted,
            });
        }
        if len == 0 {
            // No reason to mount anything.
            return Ok(Some(Bytes::new()));
        }
        let memory = || sorted_writing(&self.place, name, io::ErrorKind::OutOfMemory.into());
        // Bounded by the file's own length.
        let count = usize::try_from(len).map_err(|_| memory())?;
        let mut data = Vec::new();
        data.try_reserve_exact(count).map_err(|_| memory())?;
        data.resize(count, 0);
        match library.read(barcode, &file, offset, &mut data) {
            Ok(()) => Ok(Some(data.into())),
            Err(LibraryError::Elsewhere) => Ok(None),
            Err(error) => Err(fail(error)),
        }
    }
}

impl Tier for TapeTier {
    fn mark(&self) -> Mark {
        self.place.expected
    }

    fn describe(&self) -> Description {
        let dev = self
            .place
            .seen
            .lock()
            .as_ref()
            .map(|(identity, _)| identity.dev);
        Description {
            kind: Kind::Tape,
            url: self.place.label.clone(),
            // The directory of a real library has no copies in it.
            root: (!self.place.equipment.is_real()).then(|| Root {
                path: self.place.path.clone(),
                dev,
            }),
            notes: Vec::new(),
        }
    }

    fn tape(&self) -> Option<&TapeTier> {
        Some(self)
    }

    fn tapes(&self) -> Option<Arc<dyn Tapes>> {
        let place = Arc::clone(&self.place);
        Some(Arc::new(hold::Cartridges { place }))
    }

    fn longest(&self) -> Result<Option<u64>, TierError> {
        let library = self.place.enter("asking for its cartridges")?;
        Ok(Some(library.longest()))
    }

    fn lengths(&self, file: u64) -> Result<Vec<u64>, TierError> {
        let library = self.place.enter("asking for its cartridges")?;
        Ok(library.lengths(file))
    }

    fn admit(&self, lengths: &[u64]) -> Result<(), TierError> {
        const STEP: &str = "looking for room";
        let library = self.place.enter(STEP)?;
        let admitted = library.admit_all(lengths);
        admitted.map_err(|error| roomless(&self.place, STEP, error))
    }

    fn promise(&self, objects: &[(AggregateId, u64)]) -> Result<Promise, TierError> {
        const STEP: &str = "keeping room";
        let library = self.place.enter(STEP)?;
        let kept = library.promise(objects);
        let kept = kept.map_err(|error| roomless(&self.place, STEP, error))?;
        Ok(Promise::new(kept))
    }

    fn put(&self, name: AggregateId, size_hint: u64) -> Result<Box<dyn Put>, TierError> {
        Ok(Box::new(put::TapePut::start(&self.place, name, size_hint)?))
    }

    fn read(&self, name: AggregateId, offset: u64, len: u64) -> Result<Bytes, TierError> {
        let library = self.place.enter("reading")?;
        loop {
            if let Some(data) = self.try_read(&library, name, offset, len)? {
                return Ok(data);
            }
        }
    }

    fn stat(&self, name: AggregateId) -> Result<u64, TierError> {
        const STEP: &str = "looking up";
        let library = self.place.enter(STEP)?;
        match library.known(name) {
            Ok((_, file)) => Ok(file.len),
            Err(error) => Err(sorted(&self.place, STEP, name, error)),
        }
    }

    fn delete(&self, name: AggregateId) -> Result<(), TierError> {
        const STEP: &str = "deleting";
        let library = self.place.enter(STEP)?;
        library
            .delete(name)
            .map_err(|error| sorted(&self.place, STEP, name, error))
    }

    fn list(
        &self,
        after: Option<AggregateId>,
        limit: usize,
    ) -> Result<Vec<AggregateId>, TierError> {
        const STEP: &str = "listing";
        let library = self.place.enter(STEP)?;
        let names = library.names(after, limit);
        match library.blind() {
            // As long as there are others: but the end would say that there are no more.
            Some(why) if names.len() < limit => Err(self.place.away(STEP, why)),
            _ => Ok(names),
        }
    }

    fn space(&self) -> Result<Space, TierError> {
        const STEP: &str = "asking for space";
        let (free, total) = self.place.enter(STEP)?.space();
        if self.place.equipment.is_real() {
            return Ok(Space {
                free: Some(free),
                total: Some(total),
            });
        }
        // The images lie on a filesystem that may be full before they are.
        let below = rustix::fs::statvfs(&self.place.path)
            .map_err(|error| self.place.away(STEP, io::Error::from(error).to_string()))?;
        let below = below.f_bavail.saturating_mul(below.f_frsize);
        Ok(Space {
            free: Some(free.min(below)),
            total: Some(total),
        })
    }
}

/// Why there is no room for several.
fn roomless(place: &Place, step: &'static str, error: LibraryError) -> TierError {
    match error {
        LibraryError::NoRoom(why) => TierError::Full {
            tier: place.label.clone(),
            step,
            why: why.to_string(),
        },
        error => place.away(step, error.to_string()),
    }
}

/// Sorts an error of the library by what can be done about it.
fn sorted(
    place: &Place,
    step: &'static str,
    object: AggregateId,
    error: LibraryError,
) -> TierError {
    let tier = place.label.clone();
    let transient = |source: io::Error| TierError::Transient {
        tier: tier.clone(),
        object: object.to_string(),
        step,
        source,
    };
    match error {
        LibraryError::Taken => TierError::Exists { tier, object },
        LibraryError::Missing => TierError::Missing { tier, object },
        LibraryError::Corrupt {
            expected, found, ..
        } => TierError::Corrupt {
            tier,
            object,
            expected,
            found,
        },
        LibraryError::NoRoom(why) => TierError::Full {
            tier,
            step,
            why: why.to_string(),
        },
        LibraryError::Io { step, source } if place::is_full(&source) => TierError::Full {
            tier,
            step,
            why: source.to_string(),
        },
        LibraryError::Io { step, source } => TierError::Transient {
            tier,
            object: object.to_string(),
            step,
            source,
        },
        // Time and people bring a drive or a cartridge back.
        error @ (LibraryError::InUse
        | LibraryError::PoolInUse
        | LibraryError::Otherwise { .. }
        | LibraryError::State(_)
        | LibraryError::Absent { .. }
        | LibraryError::Exported { .. }
        | LibraryError::Unseen(_)
        | LibraryError::Elsewhere
        | LibraryError::NoDrive(_)
        | LibraryError::Stopping
        | LibraryError::Unwanted
        | LibraryError::Robot { .. }
        | LibraryError::Load { .. }) => TierError::Unavailable {
            tier,
            step,
            why: error.to_string(),
        },
        // Not what it is taken for: nothing is said of the object, which lies on another cartridge.
        LibraryError::Volume { ref source, .. } if is_mistaken(source) => TierError::Unavailable {
            tier,
            step,
            why: error.to_string(),
        },
        error @ LibraryError::Unreadable { .. } => TierError::Unreadable {
            tier,
            object,
            why: error.to_string(),
        },
        error @ (LibraryError::Volume { .. }
        | LibraryError::Alive { .. }
        | LibraryError::NoSuchDrive(_)
        | LibraryError::OtherPool { .. }
        | LibraryError::Blank { .. }
        | LibraryError::Declined { .. }) => transient(io::Error::other(error)),
    }
}

/// Another cartridge than the one that was asked for.
fn is_mistaken(error: &VolumeError) -> bool {
    matches!(
        error,
        VolumeError::NotOurs(_) | VolumeError::Mistaken { .. } | VolumeError::Stranger { .. }
    )
}

/// Sorts an error of the front area, and of memory.
fn sorted_writing(place: &Place, object: AggregateId, error: io::Error) -> TierError {
    let (tier, step) = (place.label.clone(), "gathering in the front area");
    if place::is_full(&error) {
        return TierError::Full {
            tier,
            step,
            why: error.to_string(),
        };
    }
    TierError::Transient {
        tier,
        object: object.to_string(),
        step,
        source: error,
    }
}
