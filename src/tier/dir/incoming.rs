//! Temporaries: objects being written, each under a lock that dies with its writer.
//!
//! Invariant kept here: a temporary whose writer lives is never removed by anybody else. The writer
//! holds `flock` on it; whoever sweeps takes that lock first. Between creating and locking, a sweeper
//! may come: then the writer finds its file without a name and makes another.

use super::layout::{self, INCOMING};
use crate::id::AggregateId;
use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};

const SUFFIX: &str = ".part";
const TRIES: u32 = 100;

/// A temporary, removed when dropped unless it got its final name.
pub(super) struct Temporary {
    pub(super) dir: OwnedFd,
    pub(super) name: String,
    pub(super) file: File,
    pub(super) placed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.placed
            && let Err(error) = rustix::fs::unlinkat(&self.dir, &self.name, AtFlags::empty())
        {
            tracing::warn!(name = self.name, %error, "temporary remains until the tier is opened again");
        }
    }
}

/// Makes and locks a temporary for `object`.
pub(super) fn create(root: impl AsFd, object: AggregateId) -> io::Result<Temporary> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let dir = match layout::open_dir(&root, INCOMING) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            layout::make_dir(&root, INCOMING)?;
            layout::open_dir(&root, INCOMING)?
        }
        other => other?,
    };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    for _ in 0..TRIES {
        let nonce = RandomState::new().hash_one(COUNT.fetch_add(1, Ordering::Relaxed));
        let name = format!("{object}.{}-{nonce:016x}{SUFFIX}", std::process::id());
        let file = match rustix::fs::openat(&dir, &name, flags, Mode::RUSR | Mode::WUSR) {
            Err(Errno::EXIST) => continue,
            other => File::from(other?),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if file.metadata()?.nlink() == 0 => {}
            // Without locks here, sweepers cannot lock either, and leave it alone.
            Ok(()) | Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                let dir = dir.try_clone()?;
                return Ok(Temporary {
                    dir,
                    name,
                    file,
                    placed: false,
                });
            }
            // A sweeper has it in its hands and is about to remove it.
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => {
                rustix::fs::unlinkat(&dir, &name, AtFlags::empty())?;
                return Err(error.into());
            }
        }
    }
    Err(io::Error::other(
        "temporaries vanish as soon as they are made",
    ))
}

/// Removes the temporaries of writers that are gone.
pub(super) fn sweep(root: impl AsFd) -> io::Result<()> {
    let dir = layout::open_dir(root, INCOMING)?;
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if !name.to_bytes().ends_with(SUFFIX.as_bytes()) {
            continue;
        }
        // Network filesystems lock exclusively only what is open for writing.
        let open = |access| {
            let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
            rustix::fs::openat(&dir, name, flags, Mode::empty())
        };
        let Ok(file) = open(OFlags::RDWR).or_else(|_| open(OFlags::RDONLY)) else {
            continue;
        };
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
                Ok(()) => tracing::info!(?name, "removed what a dead writer left"),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
