//! P13: room kept back on a filesystem, given up when a stub, a record or the catalog's log could
//! not be written otherwise, and laid again when there is room.
//!
//! Invariants:
//! - On the backing it is a file without a name (`O_TMPFILE`): no user meets it, and whatever ends
//!   the process gives it back.
//! - It is laid whole or not at all, and never takes the last room: three times as much stays.

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Where it lies.
#[derive(Debug)]
enum Place {
    /// Somewhere on the filesystem of this directory, under no name.
    Nameless(OwnedFd),
    /// A file with a name, mode 0600.
    Named(PathBuf),
}

/// Room kept back on one filesystem.
#[derive(Debug)]
pub struct Ballast {
    place: Place,
    size: u64,
    laid: Mutex<Option<File>>,
}

impl Ballast {
    /// `size` bytes on the filesystem of the directory, without a name; not laid yet. 0: none.
    ///
    /// # Errors
    /// The descriptor cannot be duplicated.
    pub fn nameless(directory: BorrowedFd<'_>, size: u64) -> io::Result<Self> {
        Ok(Self {
            place: Place::Nameless(directory.try_clone_to_owned()?),
            size,
            laid: Mutex::default(),
        })
    }

    /// `size` bytes in a file of this name; not laid yet, but what an earlier process laid is taken
    /// over by [`Ballast::lay`]. 0: none.
    #[must_use]
    pub fn named(path: PathBuf, size: u64) -> Self {
        Self {
            place: Place::Named(path),
            size,
            laid: Mutex::default(),
        }
    }

    /// Bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// It is there.
    #[must_use]
    pub fn is_laid(&self) -> bool {
        self.laid.lock().is_some()
    }

    /// Lays it, unless it is there; `room`: bytes free now. `false`: there is not room enough, or
    /// the filesystem cannot keep room back.
    ///
    /// # Errors
    /// Anything but a full filesystem.
    pub fn lay(&self, room: u64) -> io::Result<bool> {
        let mut laid = self.laid.lock();
        if laid.is_some() {
            return Ok(true);
        }
        let old = match &self.place {
            Place::Named(path) => std::fs::metadata(path).map_or(0, |m| m.len()),
            Place::Nameless(_) => 0,
        };
        if self.size == 0 {
            drop(laid);
            self.give_up();
            return Ok(false);
        }
        if room.saturating_add(old) < self.size.saturating_mul(4) {
            return Ok(false);
        }
        let file = match self.open() {
            Ok(file) => file,
            Err(why) if cannot(&why) => return Ok(false),
            Err(why) => return Err(why),
        };
        let allocated = file.set_len(self.size.min(old)).and_then(|()| {
            Ok(rustix::fs::fallocate(
                &file,
                FallocateFlags::empty(),
                0,
                self.size,
            )?)
        });
        match allocated {
            Ok(()) => {
                *laid = Some(file);
                Ok(true)
            }
            Err(why) => {
                drop(laid);
                self.give_up();
                if cannot(&why) { Ok(false) } else { Err(why) }
            }
        }
    }

    fn open(&self) -> io::Result<File> {
        match &self.place {
            Place::Nameless(directory) => {
                let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
                let mode = Mode::RUSR | Mode::WUSR;
                let file = rustix::fs::openat(directory.as_fd(), c".", flags, mode)?;
                Ok(File::from(file))
            }
            Place::Named(path) => File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(path),
        }
    }

    /// Gives it up, so that something else can be written. `false`: there was nothing to give.
    pub fn give_up(&self) -> bool {
        let file = self.laid.lock().take();
        let named = match &self.place {
            // A missing one is what we want.
            Place::Named(path) => std::fs::remove_file(path).is_ok(),
            Place::Nameless(_) => false,
        };
        // The last reference: its blocks come free now.
        let held = file.is_some();
        drop(file);
        named || held
    }
}

/// No room, or not possible here: no reason to complain.
fn cannot(why: &io::Error) -> bool {
    matches!(
        why.raw_os_error(),
        Some(libc::ENOSPC | libc::EDQUOT | libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    const SIZE: u64 = 1 << 20;

    #[test]
    fn a_named_one_is_laid_taken_over_and_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ballast");
        let first = Ballast::named(path.clone(), SIZE);
        assert!(!first.lay(SIZE).unwrap(), "it would take the last room");
        assert!(!path.exists());
        assert!(first.lay(4 * SIZE).unwrap() && first.is_laid());
        let found = path.metadata().unwrap();
        assert_eq!((found.len(), found.mode() & 0o777), (SIZE, 0o600));
        assert!(found.blocks() * 512 >= SIZE, "it holds no blocks");
        drop(first);
        // The setting has become smaller: the rest is given back.
        let second = Ballast::named(path.clone(), SIZE / 2);
        assert!(second.lay(SIZE).unwrap());
        assert_eq!(path.metadata().unwrap().len(), SIZE / 2);
        assert!(second.give_up() && !path.exists() && !second.is_laid());
        assert!(!second.give_up());
    }

    /// Where nothing can be written any more, what is given up can be written.
    #[test]
    fn p13_what_is_given_up_is_room() {
        use std::os::unix::fs::FileExt;
        let Some(image) = crate::hsm::rig::Image::ext4("p13_what_is_given_up_is_room") else {
            return;
        };
        let root = File::open(image.path()).unwrap();
        let free = || {
            let stat = rustix::fs::fstatvfs(&root).unwrap();
            (stat.f_bavail * stat.f_frsize, stat.f_bfree * stat.f_frsize)
        };
        let ballast = Ballast::nameless(root.as_fd(), 8 << 20).unwrap();
        assert!(ballast.lay(free().0).unwrap());
        // To the last block, those for root too.
        let filler = File::create(image.path().join("filler")).unwrap();
        let (mut at, mut step) = (0, 1 << 20);
        while step >= 1024 {
            let flags = FallocateFlags::empty();
            match rustix::fs::fallocate(&filler, flags, at, step) {
                Ok(()) => at += step,
                Err(_) => step /= 2,
            }
        }
        let small = File::create(image.path().join("small")).unwrap();
        let block = [7_u8; 1 << 20];
        let full = small.write_all_at(&block, 0).unwrap_err();
        assert_eq!(full.raw_os_error(), Some(libc::ENOSPC), "{:?}", free());
        assert!(ballast.give_up());
        small.write_all_at(&block, 0).unwrap();
        assert!(
            !ballast.lay(free().0).unwrap(),
            "it would take the last room"
        );
    }

    #[test]
    fn none_at_all_takes_what_there_was_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ballast");
        std::fs::write(&path, "what an earlier setting left").unwrap();
        assert!(!Ballast::named(path.clone(), 0).lay(1 << 40).unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn a_nameless_one_is_met_by_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        let ballast = Ballast::nameless(root.as_fd(), SIZE).unwrap();
        if !ballast.lay(4 * SIZE).unwrap() {
            eprintln!("SKIPPED a_nameless_one_is_met_by_nobody: no O_TMPFILE here");
            return;
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let laid = ballast.laid.lock().as_ref().unwrap().metadata().unwrap();
        assert!(laid.blocks() * 512 >= SIZE, "it holds no blocks");
        assert!(ballast.give_up() && !ballast.is_laid());
    }
}
