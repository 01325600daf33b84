//! Files that are being sent, kept open while they are read, each looked at before its first byte is.

use super::tree::{Found, Tree, stat};
use lru::LruCache;
use parking_lot::Mutex;
use rustix::fs::{FileType, OFlags};
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Files kept open: as many as may be read at one time, and a few.
const KEPT: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not 0");

/// Why a file must not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It was changed meanwhile.
    Changed,
    /// It could not be read: the error's number, where it has one, and its text.
    Unreadable(Option<i32>, String),
}

impl Trouble {
    /// Of an error of [`Opened`].
    pub(super) fn of(why: &io::Error) -> Self {
        match why.kind() {
            io::ErrorKind::StaleNetworkFileHandle => Self::Changed,
            _ => Self::Unreadable(why.raw_os_error(), why.to_string()),
        }
    }
}

/// A file that changed, as an error.
pub(super) fn changed() -> io::Error {
    io::Error::new(
        io::ErrorKind::StaleNetworkFileHandle,
        "it was changed meanwhile",
    )
}

/// Open files by the sender's numbers for them.
#[derive(Debug)]
pub(super) struct Opened(Mutex<LruCache<usize, Arc<File>>>);

impl Default for Opened {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(KEPT)))
    }
}

impl Opened {
    /// The file of that number, which lies at the path of the tree and was `made`.
    ///
    /// # Errors
    /// It cannot be opened, or is not what it was ([`Trouble::Changed`]).
    pub(super) fn file(
        &self,
        number: usize,
        tree: &Tree,
        path: &[u8],
        made: &Found,
    ) -> io::Result<Arc<File>> {
        if let Some(file) = self.0.lock().get(&number) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(open(tree, path, made)?);
        self.0.lock().put(number, Arc::clone(&file));
        Ok(file)
    }
}

/// A regular file, if it is what it was.
///
/// # Errors
/// As [`Opened::file`].
pub(super) fn open(tree: &Tree, path: &[u8], made: &Found) -> io::Result<File> {
    // Without waiting: it may be a pipe by now.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = tree.open_at(path, flags)?;
    let now = stat(&file)?;
    if now.kind != FileType::RegularFile || !now.is_as(made) {
        return Err(changed());
    }
    Ok(File::from(file))
}

/// Fills the buffer; a file that became shorter was changed.
///
/// # Errors
/// As `pread`.
pub(super) fn fill(file: &File, buffer: &mut [u8], at: u64) -> io::Result<()> {
    let read = file.read_exact_at(buffer, at);
    read.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => changed(),
        _ => error,
    })
}

/// Looks again whether what lies at the path is what it was.
///
/// # Errors
/// As [`Opened::file`].
pub(super) fn look_again(tree: &Tree, path: &[u8], made: &Found) -> io::Result<()> {
    match tree.look(path) {
        Ok(now) if now.is_as(made) => Ok(()),
        Ok(_) => Err(changed()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(changed()),
        Err(error) => Err(error),
    }
}
