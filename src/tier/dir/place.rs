//! Where a directory tier lies, and the proof, made anew in every operation, that it is there.
//!
//! Invariant kept here: whoever holds an [`Entered`] holds a descriptor of a directory in which the
//! expected mark was seen in this operation. Everything else goes through that descriptor, never
//! through the path, so an unmounted filesystem's empty mount point is never mistaken for it.
//!
//! The mark itself is read when something looks different from last time (another device or inode,
//! another file in the mark's place); otherwise one `stat` of it is the proof. A filesystem that
//! comes back with another device number is recognised by its mark and used again.

use super::incoming;
use super::layout::{self, AGGREGATES, INCOMING, MARK, Shard};
use super::mark::{self, MarkError};
use crate::id::AggregateId;
use crate::tier::{Mark, TierError};
use lru::LruCache;
use parking_lot::Mutex;
use rustix::fs::{AtFlags, Mode, OFlags};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Directories known to be durable; more are only fsynced once more.
const DURABLE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(255);

/// A directory tier's place.
pub(super) struct Place {
    path: PathBuf,
    label: String,
    expected: Mark,
    /// It may be used for the first time: what is missing in it was never there.
    is_new: bool,
    seen: Mutex<Option<Seen>>,
    durable: Mutex<LruCache<(u64, Shard), ()>>,
}

/// What was there when the mark was last read.
#[derive(Clone, Copy)]
struct Seen {
    identity: Identity,
    /// Counts how often the mark was read: descriptors from before are of another filesystem.
    generation: u64,
}

/// Which directory, and which mark in it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::tier) struct Identity {
    pub(in crate::tier) dev: u64,
    root: u64,
    mark: u64,
    mark_size: i64,
    mark_changed: (i64, u64),
}

/// A root whose mark was seen.
pub(super) struct Entered {
    pub(super) root: OwnedFd,
    pub(super) generation: u64,
}

/// `root` is not to be used, and why.
pub(in crate::tier) fn refused(root: &Path, why: &str) -> TierError {
    TierError::Refused {
        place: root.display().to_string(),
        why: why.to_owned(),
    }
}

impl Place {
    pub(super) fn new(path: PathBuf, label: String, expected: Mark, is_new: bool) -> Self {
        Self {
            path,
            label,
            expected,
            is_new,
            seen: Mutex::new(None),
            durable: Mutex::new(LruCache::new(DURABLE)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
    pub(super) fn label(&self) -> &str {
        &self.label
    }
    pub(super) fn expected(&self) -> Mark {
        self.expected
    }
    pub(super) fn dev(&self) -> Option<u64> {
        self.seen.lock().map(|seen| seen.identity.dev)
    }

    /// Proves that the tier is there. A mark that is not ours is [`TierError::Unavailable`] too:
    /// another filesystem lies over the tier, and it may go again.
    pub(super) fn enter(&self, step: &'static str) -> Result<Entered, TierError> {
        match self.look(step) {
            Err(TierError::Refused { why, .. }) => Err(self.away(step, why)),
            other => other,
        }
    }

    /// Like [`Self::enter`], but [`TierError::Refused`] for a mark that is not ours: for opening.
    pub(super) fn look(&self, step: &'static str) -> Result<Entered, TierError> {
        let away = |error: io::Error| {
            let why = match error.kind() {
                io::ErrorKind::NotFound => format!("no {MARK} there; is it mounted?"),
                _ => error.to_string(),
            };
            self.away(step, why)
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::open(&self.path, flags, Mode::empty()).map_err(|e| away(e.into()))?;
        let identity = identify(&root).map_err(away)?;
        // Held while the mark is read, so that leftovers are looked for once.
        let mut seen = self.seen.lock();
        let generation = match *seen {
            Some(last) if last.identity == identity => last.generation,
            last => {
                let mark = mark::read(&root).map_err(|error| match error {
                    MarkError::Io(error) => away(error),
                    other => refused(&self.path, &other.to_string()),
                })?;
                self.check(mark)?;
                self.prepare(step, &root, self.is_new && last.is_none())?;
                let generation = last.map_or(0, |l| l.generation) + 1;
                *seen = Some(Seen {
                    identity,
                    generation,
                });
                generation
            }
        };
        drop(seen);
        Ok(Entered { root, generation })
    }

    fn check(&self, mark: Mark) -> Result<(), TierError> {
        mark::check_owner(&self.path, mark, self.expected.owner)?;
        if mark.tier == self.expected.tier {
            return Ok(());
        }
        let why = format!(
            "its mark says tier {}, expected is {}: two tiers changed places, or the wrong \
             filesystem is mounted",
            mark.tier, self.expected.tier
        );
        Err(refused(&self.path, &why))
    }

    /// Makes the two directories and removes what dead writers left. A tier that cannot be
    /// written to can still be read. One that was in use and has no objects' directory is not all
    /// there: it would look as if every object were gone. So a new one is none before it has it durably.
    fn prepare(&self, step: &'static str, root: &OwnedFd, new: bool) -> Result<(), TierError> {
        if new {
            layout::make_dir(root, AGGREGATES)
                .and_then(|()| layout::sync_dir(root))
                .and_then(|()| layout::open_dir(root, AGGREGATES).map(drop))
                .map_err(|error| {
                    self.away(step, format!("{AGGREGATES}/ cannot be made: {error}"))
                })?;
        } else if let Err(error) = layout::open_dir(root, AGGREGATES) {
            let why = format!(
                "{MARK} is there, {AGGREGATES}/ is not ({error}); if it never held anything, make \
                 that directory"
            );
            return Err(self.away(step, why));
        }
        let made = layout::make_dir(root, INCOMING)
            .and_then(|()| layout::sync_dir(root))
            .and_then(|()| incoming::sweep(root));
        if let Err(error) = made {
            tracing::warn!(tier = %self.label, %error, "could not tidy the tier; reading goes on");
        }
        Ok(())
    }

    /// The directory of an object, made and durable down from the root.
    pub(super) fn make_shard(&self, at: &Entered, name: AggregateId) -> io::Result<OwnedFd> {
        let key = (at.generation, Shard::of(name));
        // Held while directories are fsynced: whoever finds one here finds it durable.
        let mut durable = self.durable.lock();
        if durable.get(&key).is_some()
            && let Ok(dir) = layout::open_shard(&at.root, name)
        {
            return Ok(dir);
        }
        let dir = layout::make_shard(&at.root, name)?;
        durable.put(key, ());
        Ok(dir)
    }

    pub(super) fn away(&self, step: &'static str, why: String) -> TierError {
        TierError::Unavailable {
            tier: self.label.clone(),
            step,
            why,
        }
    }

    /// Sorts an error about one object by what can be done about it.
    pub(super) fn fail(
        &self,
        step: &'static str,
        name: AggregateId,
        error: io::Error,
    ) -> TierError {
        let tier = self.label.clone();
        match self.sort(step, error) {
            Sorted::Whole(error) => error,
            Sorted::Absent => TierError::Missing { tier, object: name },
            Sorted::Passing(source) => TierError::Transient {
                tier,
                object: name.to_string(),
                step,
                source,
            },
        }
    }

    /// The same for an operation on no object.
    pub(super) fn fail_whole(&self, step: &'static str, error: io::Error) -> TierError {
        match self.sort(step, error) {
            Sorted::Whole(error) => error,
            Sorted::Absent => self.away(step, "part of the tier's directory is missing".to_owned()),
            Sorted::Passing(source) => TierError::Transient {
                tier: self.label.clone(),
                object: "the whole tier".to_owned(),
                step,
                source,
            },
        }
    }

    fn sort(&self, step: &'static str, error: io::Error) -> Sorted {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => {
                return Sorted::Whole(TierError::Full {
                    tier: self.label.clone(),
                    step,
                    why: error.to_string(),
                });
            }
            // These speak of the filesystem, not of one object.
            Some(
                libc::ESTALE
                | libc::ENODEV
                | libc::ENXIO
                | libc::ESHUTDOWN
                | libc::ENOTCONN
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ETIMEDOUT
                | libc::EROFS
                | libc::EACCES
                | libc::EPERM,
            ) => return Sorted::Whole(self.away(step, error.to_string())),
            _ => {}
        }
        // Is it the object, or did the tier go while we worked?
        let entered = match self.enter(step) {
            Ok(entered) => entered,
            Err(gone) => return Sorted::Whole(gone),
        };
        if error.kind() != io::ErrorKind::NotFound {
            return Sorted::Passing(error);
        }
        match layout::open_dir(&entered.root, AGGREGATES) {
            Ok(_) => Sorted::Absent,
            Err(error) => {
                let why = format!("{MARK} is there, {AGGREGATES}/ is not: {error}");
                Sorted::Whole(self.away(step, why))
            }
        }
    }
}

enum Sorted {
    Whole(TierError),
    Absent,
    Passing(io::Error),
}

pub(in crate::tier) fn identify(root: &OwnedFd) -> io::Result<Identity> {
    let dir = rustix::fs::fstat(root)?;
    let mark = rustix::fs::statat(root, MARK, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(Identity {
        dev: dir.st_dev,
        root: dir.st_ino,
        mark: mark.st_ino,
        mark_size: mark.st_size,
        mark_changed: (mark.st_mtime, mark.st_mtime_nsec),
    })
}
