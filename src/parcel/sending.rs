//! The sending end of a parcel: its files read, and looked at before and after.
//!
//! Invariants kept here:
//! - a file is what it was when the parcel was made (size, times, inode), before its first byte is read and
//!   after the last one was acknowledged, or it is named as changed;
//! - a file that travels alone fails the transfer; one among others is filled up with zeros, and named.

use super::layout::{Kind, Layout, Piece};
use super::tree::{Found, Tree, stat};
use lru::LruCache;
use parking_lot::Mutex;
use rustix::fs::{FileType, OFlags};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Files kept open: as many as may be read at one time, and a few.
const KEPT: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not 0");

/// Why a file of the parcel must not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It was changed meanwhile.
    Changed,
    /// It could not be read: the error's number, where it has one, and its text.
    Unreadable(Option<i32>, String),
}

/// See the module.
#[derive(Debug)]
pub struct Sending {
    tree: Arc<Tree>,
    layout: Layout,
    /// What each entry was when the parcel was made.
    made: Vec<Found>,
    open: Mutex<LruCache<usize, Arc<File>>>,
    troubles: Mutex<BTreeMap<usize, Trouble>>,
}

impl Sending {
    /// `made` says what each entry of the layout was.
    #[must_use]
    pub fn new(tree: Arc<Tree>, layout: Layout, made: Vec<Found>) -> Self {
        Self {
            tree,
            layout,
            made,
            open: Mutex::new(LruCache::new(KEPT)),
            troubles: Mutex::default(),
        }
    }

    /// The parcel.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The sender's name for the state of the data: what a later transfer may resume.
    #[must_use]
    pub fn version(&self) -> Vec<u8> {
        match self.made.as_slice() {
            [only] if self.layout.is_single() => only.version(),
            _ => Vec::new(),
        }
    }

    /// The files that must not be used, by number.
    #[must_use]
    pub fn troubles(&self) -> BTreeMap<usize, Trouble> {
        self.troubles.lock().clone()
    }

    /// Whether a file that travels alone can be read at all.
    ///
    /// # Errors
    /// Why not.
    pub fn readable(&self) -> io::Result<()> {
        if self.layout.is_single() {
            self.file(0)?;
        }
        Ok(())
    }

    fn file(&self, entry: usize) -> io::Result<Arc<File>> {
        if let Some(file) = self.open.lock().get(&entry) {
            return Ok(Arc::clone(file));
        }
        let path = self.layout.entries().get(entry).map(|e| e.path.as_slice());
        let (Some(path), Some(made)) = (path, self.made.get(entry)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        // Without waiting: it may be a pipe by now.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = self.tree.open_at(path, flags)?;
        let now = stat(&file)?;
        if now.kind != FileType::RegularFile || !now.is_as(made) {
            return Err(changed());
        }
        let file = Arc::new(File::from(file));
        self.open.lock().put(entry, Arc::clone(&file));
        Ok(file)
    }

    fn fill(&self, piece: Piece, buffer: &mut [u8]) -> io::Result<()> {
        let read = self.file(piece.entry)?.read_exact_at(buffer, piece.at);
        // It became shorter.
        read.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => changed(),
            _ => error,
        })
    }

    fn trouble(&self, entry: usize, why: &io::Error) {
        let trouble = match why.kind() {
            io::ErrorKind::StaleNetworkFileHandle => Trouble::Changed,
            _ => Trouble::Unreadable(why.raw_os_error(), why.to_string()),
        };
        self.troubles.lock().entry(entry).or_insert(trouble);
    }
}

/// What `read_at` answers of a file that changed.
fn changed() -> io::Error {
    io::Error::new(
        io::ErrorKind::StaleNetworkFileHandle,
        "it was changed meanwhile",
    )
}

impl cairn_mover::Source for Sending {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let (mut rest, alone) = (buffer, self.layout.is_single());
        for piece in self.layout.pieces(offset, rest.len()) {
            let (here, behind) = rest.split_at_mut(piece.len);
            if let Err(error) = self.fill(piece, here) {
                self.trouble(piece.entry, &error);
                if alone {
                    return Err(error);
                }
                here.fill(0);
            }
            rest = behind;
        }
        if rest.is_empty() {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn unchanged(&self) -> io::Result<bool> {
        for (entry, made) in self.made.iter().enumerate() {
            let Some(of) = self
                .layout
                .entries()
                .get(entry)
                .filter(|e| matches!(e.kind, Kind::File(_)))
            else {
                continue;
            };
            match self.tree.look(&of.path) {
                Ok(now) if now.is_as(made) => {}
                Ok(_) => self.trouble(entry, &changed()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.trouble(entry, &changed())
                }
                Err(error) => self.trouble(entry, &error),
            }
        }
        let changed = self
            .troubles
            .lock()
            .values()
            .any(|t| *t == Trouble::Changed);
        Ok(!(self.layout.is_single() && changed))
    }
}
