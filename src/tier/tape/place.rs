//! Where a library lies, and the proof, made anew in every operation, that it is there: as for a
//! directory tier, its mark is seen first, and without it nothing is made and nothing called missing.

use super::library::{Equipment, Library, LibraryError, make_dir};
use super::options::{POOLS, TapeOptions};
use crate::tier::dir::mark::{self, MarkError};
use crate::tier::dir::place::{Identity, identify, refused};
use crate::tier::{Mark, TierError};
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const MARK: &str = "cairn-tier.json";

/// A tape tier's place.
pub(super) struct Place {
    /// The library's root.
    pub(super) path: PathBuf,
    /// Where the mark is: there, or at its pool's place below.
    pub(super) mark: PathBuf,
    pub(super) label: String,
    pub(super) expected: Mark,
    /// It may be used for the first time: a library is made.
    pub(super) is_new: bool,
    pub(super) options: TapeOptions,
    pub(super) equipment: Equipment,
    pub(super) seen: Mutex<Option<(Identity, Arc<Library>)>>,
    /// A library was there once: none is made any more, whatever becomes of it.
    pub(super) was_there: AtomicBool,
    /// The process stops: a library that comes back meanwhile learns it, too.
    pub(super) hurried: AtomicBool,
}

impl Place {
    /// Proves that the tier is there. A mark that is not ours is [`TierError::Unavailable`] too:
    /// another filesystem lies over the tier, and it may go again.
    pub(super) fn enter(&self, step: &'static str) -> Result<Arc<Library>, TierError> {
        match self.look(step) {
            Err(TierError::Refused { why, .. }) => Err(self.away(step, why)),
            other => other,
        }
    }

    /// Like [`Self::enter`], but [`TierError::Refused`] for a mark that is not ours: for opening.
    pub(super) fn look(&self, step: &'static str) -> Result<Arc<Library>, TierError> {
        let away = |error: io::Error| {
            let why = match error.kind() {
                io::ErrorKind::NotFound => format!("no {MARK} there; is it mounted?"),
                _ => error.to_string(),
            };
            self.away(step, why)
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::open(&self.mark, flags, Mode::empty()).map_err(|e| away(e.into()))?;
        let identity = identify(&root).map_err(away)?;
        // Held while the library is opened, so that it is opened once.
        let mut seen = self.seen.lock();
        if let Some((last, library)) = &*seen
            && *last == identity
        {
            // It may have been away when that was said.
            if self.hurried.load(Ordering::Acquire) {
                library.hurry();
            }
            return Ok(Arc::clone(library));
        }
        let mark = mark::read(&root).map_err(|error| match error {
            MarkError::Io(error) => away(error),
            other => refused(&self.mark, &other.to_string()),
        })?;
        self.check(mark)?;
        // It lets go of its lock first: the same library may come back on another device.
        *seen = None;
        let new = self.is_new && !self.was_there.load(Ordering::Acquire);
        let library = Arc::new(self.library(step, &root, new)?);
        self.was_there.store(true, Ordering::Release);
        // Whoever says it says it here first, and then to the library that is seen.
        if self.hurried.load(Ordering::Acquire) {
            library.hurry();
        }
        *seen = Some((identity, Arc::clone(&library)));
        Ok(library)
    }

    fn library(
        &self,
        step: &'static str,
        _root: &OwnedFd,
        new: bool,
    ) -> Result<Library, TierError> {
        if !new && !Library::is_at(&self.path) {
            let why = format!(
                "{MARK} is there, library.json is not: it is not all there. If the cartridges are, \
                 copy library.json back, or open the tier as a new one"
            );
            return Err(self.away(step, why));
        }
        let opened = Library::open(
            &self.path,
            self.expected.tier,
            &self.options,
            self.equipment.clone(),
        );
        opened.map_err(|error| match error {
            LibraryError::State(why) if !matches!(why, super::state::StateError::Io { .. }) => {
                refused(&self.path, &why.to_string())
            }
            why @ (LibraryError::PoolInUse
            | LibraryError::Otherwise { .. }
            | LibraryError::Declined { .. }) => refused(&self.path, &why.to_string()),
            LibraryError::Io { step, source } if is_full(&source) => TierError::Full {
                tier: self.label.clone(),
                step,
                why: source.to_string(),
            },
            error => self.away(step, error.to_string()),
        })
    }

    fn check(&self, mark: Mark) -> Result<(), TierError> {
        mark::check_owner(&self.mark, mark, self.expected.owner)?;
        if mark.tier == self.expected.tier {
            return Ok(());
        }
        let why = format!(
            "its mark says tier {}, expected is {}: two tiers changed places, or the wrong \
             filesystem is mounted",
            mark.tier, self.expected.tier
        );
        Err(refused(&self.mark, &why))
    }

    pub(super) fn away(&self, step: &'static str, why: String) -> TierError {
        TierError::Unavailable {
            tier: self.label.clone(),
            step,
            why,
        }
    }
}

/// No room on the filesystem below.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG)
    )
}

/// Makes room for a pool's mark: the library's root, if it is not there, and what holds its pools. Only in
/// an empty directory, or in a library that has pools.
pub(super) fn make_room(root: &Path, label: &str) -> Result<(), TierError> {
    let away = |error: io::Error| TierError::Unavailable {
        tier: label.to_owned(),
        step: "opening",
        why: error.to_string(),
    };
    let pools = root.join(POOLS);
    if pools.is_dir() {
        return Ok(());
    }
    if !root.try_exists().map_err(away)? {
        make_dir(root).map_err(away)?;
    }
    if is_marked(root).map_err(away)? {
        let why = "it is a tier as a whole, without pools: open it without pool=, or choose another directory";
        return Err(refused(root, why));
    }
    for entry in std::fs::read_dir(root).map_err(away)? {
        let name = entry.map_err(away)?.file_name();
        // Others may open other pools at the same time.
        if name != "lost+found" && name != POOLS {
            let why = format!(
                "it is not empty (it holds {name:?}) and has no {POOLS}/: choose an empty directory"
            );
            return Err(refused(root, &why));
        }
    }
    make_dir(&pools).map_err(away)
}

/// Does a directory carry a tier's mark?
pub(super) fn is_marked(root: &Path) -> io::Result<bool> {
    root.join(MARK).try_exists()
}
