//! The sending end of a parcel: its files read, and looked at before and after.
//!
//! Invariants kept here:
//! - a file is what it was when the parcel was made (size, times, inode), before its first byte is read and
//!   after the last one was acknowledged, or it is named as changed;
//! - a file that travels alone fails the transfer; one among others is filled up with zeros, and named.

use super::ends::Outgoing;
use super::layout::{Kind, Layout, Piece};
use super::opened::{Opened, Trouble, fill, look_again};
use super::tree::{Found, Tree};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub struct Sending {
    tree: Arc<Tree>,
    layout: Layout,
    /// What each entry was when the parcel was made.
    made: Vec<Found>,
    open: Opened,
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
            open: Opened::default(),
            troubles: Mutex::default(),
        }
    }

    /// The parcel.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
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
        let path = self.layout.entries().get(entry).map(|e| e.path.as_slice());
        let (Some(path), Some(made)) = (path, self.made.get(entry)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        self.open.file(entry, &self.tree, path, made)
    }

    fn fill(&self, piece: Piece, buffer: &mut [u8]) -> io::Result<()> {
        fill(&*self.file(piece.entry)?, buffer, piece.at)
    }

    fn trouble(&self, entry: usize, why: &io::Error) {
        let trouble = Trouble::of(why);
        self.troubles.lock().entry(entry).or_insert(trouble);
    }
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
            if let Err(error) = look_again(&self.tree, &of.path, made) {
                self.trouble(entry, &error);
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

impl Outgoing for Sending {
    fn size(&self) -> u64 {
        self.layout.size()
    }

    fn version(&self) -> Vec<u8> {
        match self.made.as_slice() {
            [only] if self.layout.is_single() => only.version(),
            _ => Vec::new(),
        }
    }

    fn troubles(&self) -> BTreeMap<usize, Trouble> {
        self.troubles.lock().clone()
    }

    fn changed(&self) -> Option<Vec<u8>> {
        let troubles = self.troubles.lock();
        let first = troubles.iter().find(|(_, t)| **t == Trouble::Changed)?.0;
        self.layout.entries().get(*first).map(|e| e.path.clone())
    }
}
