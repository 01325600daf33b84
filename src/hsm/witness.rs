//! What the catalog says against the files of a backing that nobody serves: asked before a tree is
//! given back to readers without Cairn (P7). A file whose stub is gone, or was overwritten by an
//! older record, carries no sign of it but holes; that they are not its data only the catalog knows.
//! So a tree is given back only with its catalog, or against better advice: [`is_bare_file`] names
//! what to look at where there is none.
//!
//! Invariants:
//! - Nothing is written, neither into the backing nor into the state directory (SQLite may leave its
//!   log there).
//! - What cannot be looked at is an error, never a "no".

use crate::catalog::{CatalogError, FileState, Node, Unserved};
use crate::format::record::Record;
use crate::hsm::backing::{
    BackingError, FileStat, Mark, belongs_to, data_bytes, handle_of, open_alone, stat_of,
};
use crate::hsm::state_dir::{self, StateError};
use crate::hsm::vouch::{Remembered, is_bare, is_lost, remembered};
use crate::id::{InstanceId, NodeHandle};
use rustix::fs::OFlags;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Why a state directory cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// There is none, or none with a catalog.
    #[error("{} holds no catalog", .0.display())]
    None(PathBuf),
    /// It is the state of another instance.
    #[error(
        "{} belongs to instance {found}, and the tree was served by {served}",
        path.display()
    )]
    Other {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: InstanceId,
        /// By the mark on the backing.
        served: InstanceId,
    },
    /// Its catalog is another's, or of another tree.
    #[error("the catalog in {} is not that of {of}", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What it should be that of.
        of: &'static str,
    },
    /// It cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The catalog cannot be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A file cannot be looked at.
    #[error(transparent)]
    Backing(#[from] BackingError),
}

/// An instance's catalog, open for reading.
pub struct Witness {
    catalog: Unserved,
}

impl Witness {
    /// Opens the catalog in the state directory `path`. With a mark it must be that of the instance
    /// that served the backing last.
    ///
    /// # Errors
    /// [`WitnessError`]; nothing was changed.
    pub fn of(path: &Path, mark: Option<&Mark>) -> Result<Self, WitnessError> {
        let none = || WitnessError::None(path.to_owned());
        let found = state_dir::owner(path)?.ok_or_else(none)?;
        if let Some(mark) = mark
            && mark.instance != found
        {
            let (path, served) = (path.to_owned(), mark.instance);
            return Err(WitnessError::Other {
                path,
                found,
                served,
            });
        }
        let catalog = Unserved::open(&state_dir::catalog_in(path))?.ok_or_else(none)?;
        let (whose, path) = (catalog.identity(), path.to_owned());
        if whose.instance != found {
            let of = "the instance that the directory belongs to";
            return Err(WitnessError::Foreign { path, of });
        }
        if mark.is_some_and(|mark| mark.fs != whose.fs) {
            let of = "this tree";
            return Err(WitnessError::Foreign { path, of });
        }
        Ok(Self { catalog })
    }

    /// Are the bytes of a regular file without a stub not its data? `path` leads to it; a link at its
    /// end is not followed. `record`: the one that it has, if any.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn is_lost(&self, path: &Path, record: Option<&Record>) -> Result<bool, WitnessError> {
        let file = open_alone(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let (stat, node) = (stat_of(file.as_fd())?, handle_of(file.as_fd())?);
        if stat.size == 0 {
            return Ok(false);
        }
        let row = self.catalog.node_by_handle(&node)?;
        let known = match &row {
            Some(row) => self.remembered(row)?,
            None => None,
        };
        // Another inode's, copied with the data, says nothing of this file.
        let fs = self.catalog.identity().fs;
        let record = record.filter(|r| belongs_to(r, fs, &node));
        if let Some(known) = known {
            let needs = known.needs(record, stat.size);
            let data = data_bytes(file.as_fd(), stat.size, needs)?;
            return Ok(is_lost(&known, record, (stat.size, data)));
        }
        if record.is_some() || row.is_some_and(|row| row.version.is_some()) {
            return Ok(false);
        }
        self.is_restored(path, file.as_fd(), &node, &stat)
    }

    /// Does the catalog have the inode of a file, whatever it says of it?
    ///
    /// # Errors
    /// It cannot be told.
    pub fn knows(&self, path: &Path) -> Result<bool, WitnessError> {
        let file = open_alone(path, OFlags::PATH)?;
        let row = self.catalog.node_by_handle(&handle_of(file.as_fd())?)?;
        Ok(row.is_some())
    }

    fn remembered(&self, row: &Node) -> Result<Option<Remembered>, WitnessError> {
        let copies = match row.version {
            Some(version) => self.catalog.copies(version.file, version.version)?,
            None => Vec::new(),
        };
        Ok(remembered(row, &copies))
    }

    /// Is it the hole of a released file, restored as another inode without the stub: of its name,
    /// size and time, and without any data?
    fn is_restored(
        &self,
        path: &Path,
        file: BorrowedFd<'_>,
        node: &NodeHandle,
        stat: &FileStat,
    ) -> Result<bool, WitnessError> {
        if !holds_nothing(file, stat)? {
            return Ok(false);
        }
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(false);
        };
        let above = open_alone(above, OFlags::PATH | OFlags::DIRECTORY)?;
        let Some(parent) = self.catalog.node_by_handle(&handle_of(above.as_fd())?)? else {
            return Ok(false);
        };
        let old = self.catalog.lookup(parent.id, name.as_bytes())?;
        Ok(old.is_some_and(|old| {
            let gone = matches!(old.state, FileState::Released | FileState::Lost);
            let seen = (old.attributes.size, old.attributes.mtime);
            gone && old.handle != *node && seen == (stat.size, stat.mtime)
        }))
    }
}

/// Does a regular file hold nothing, although it is as large as one that is released? Where nobody can
/// say more, such a file may be one that lost its stub, or its owner's own.
///
/// # Errors
/// It cannot be looked at.
pub fn is_bare_file(path: &Path) -> Result<bool, WitnessError> {
    let file = open_alone(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    Ok(holds_nothing(file.as_fd(), &stat_of(file.as_fd())?)?)
}

fn holds_nothing(file: BorrowedFd<'_>, stat: &FileStat) -> Result<bool, BackingError> {
    Ok(is_bare(stat) && data_bytes(file, stat.size, 1)? == 0)
}
