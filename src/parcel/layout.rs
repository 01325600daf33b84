//! Where each file of a parcel lies: behind the one before it, without gaps.

use super::ENTRIES_MAX;
use std::collections::HashSet;

/// A moment: seconds since 1970, and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Time {
    /// Seconds.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file of so many bytes.
    File(u64),
    /// A regular file with holes, of which less than all is carried.
    Sparse {
        /// Its bytes.
        size: u64,
        /// Those that are carried.
        stored: u64,
    },
    /// Another name of a file that lies here, of so many bytes.
    Name {
        /// Its path below the tree's directory.
        of: Vec<u8>,
        /// Its bytes.
        size: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link and what it says.
    Link(Vec<u8>),
}

/// One name of a parcel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path below the tree's directory: names separated by single slashes.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permissions; of them the nine bits that say who may.
    pub mode: u32,
    /// When it was changed last.
    pub modified: Time,
}

impl Entry {
    /// Bytes of it in the parcel.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self.kind {
            Kind::File(size) => size,
            Kind::Sparse { stored, .. } => stored,
            Kind::Directory | Kind::Link(_) | Kind::Name { .. } => 0,
        }
    }
}

/// A parcel that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutFault {
    /// More than [`ENTRIES_MAX`], or no entry at all.
    #[error("a parcel of {0} entries: it has 1 to {ENTRIES_MAX}")]
    Entries(usize),
    /// A path that is empty, absolute, too long, or has `.`, `..` or nothing between two slashes.
    #[error("{0:?} is no path below a directory")]
    Path(String),
    /// One path twice.
    #[error("{0:?} is named twice")]
    Twice(String),
    /// Their sizes are too large together.
    #[error("the files are larger together than any file can be")]
    Size,
}

/// The entries of a parcel and where they begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    entries: Vec<Entry>,
    starts: Vec<u64>,
    size: u64,
}

/// Some bytes of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The entry's number.
    pub entry: usize,
    /// Offset in the file.
    pub at: u64,
    /// How many.
    pub len: usize,
}

impl Layout {
    /// Lays the entries out.
    ///
    /// # Errors
    /// [`LayoutFault`]: they come from the other side, and are not believed.
    pub fn new(entries: Vec<Entry>) -> Result<Self, LayoutFault> {
        if entries.is_empty() || entries.len() > ENTRIES_MAX {
            return Err(LayoutFault::Entries(entries.len()));
        }
        let mut paths = HashSet::new();
        let (mut starts, mut size) = (Vec::with_capacity(entries.len()), 0_u64);
        for entry in &entries {
            let shown = || String::from_utf8_lossy(&entry.path).into_owned();
            let names = match &entry.kind {
                Kind::Name { of, .. } => is_below(of),
                _ => true,
            };
            if !is_below(&entry.path) || !names {
                return Err(LayoutFault::Path(shown()));
            }
            if !paths.insert(entry.path.as_slice()) {
                return Err(LayoutFault::Twice(shown()));
            }
            starts.push(size);
            size = size.checked_add(entry.size()).ok_or(LayoutFault::Size)?;
        }
        if i64::try_from(size).is_err() {
            return Err(LayoutFault::Size);
        }
        Ok(Self {
            entries,
            starts,
            size,
        })
    }

    /// Its entries.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Bytes of all files.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Is it one file and nothing else? Such a one keeps its progress.
    #[must_use]
    pub fn is_single(&self) -> bool {
        matches!(self.entries.as_slice(), [Entry { kind: Kind::File(size), .. }] if *size > 0)
    }

    /// The files that `len` bytes from `offset` on belong to, in order.
    pub fn pieces(&self, offset: u64, len: usize) -> impl Iterator<Item = Piece> + '_ {
        // The last entry that begins at or before it; entries without bytes begin where the next one does.
        let mut entry = self
            .starts
            .partition_point(|start| *start <= offset)
            .saturating_sub(1);
        let (mut offset, mut left) = (offset, len);
        std::iter::from_fn(move || {
            while left > 0 {
                let (start, size) = (*self.starts.get(entry)?, self.entries.get(entry)?.size());
                let at = offset - start;
                if at < size {
                    let len = usize::try_from(size - at).unwrap_or(usize::MAX).min(left);
                    offset += len as u64;
                    left -= len;
                    return Some(Piece { entry, at, len });
                }
                entry += 1;
            }
            None
        })
    }
}

/// Longest path of an entry, bytes.
const PATH_MAX: usize = 4000;
/// Longest name: the filesystem's 255, less what [`super::Receiving`] puts around it.
const NAME_MAX: usize = 255;

fn is_below(path: &[u8]) -> bool {
    let good = |name: &[u8]| {
        !name.is_empty()
            && name != b"."
            && name != b".."
            && name.len() <= NAME_MAX
            && !name.contains(&0)
    };
    path.len() <= PATH_MAX && path.split(|b| *b == b'/').all(good)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(path: &str, size: u64) -> Entry {
        Entry {
            path: path.into(),
            kind: Kind::File(size),
            mode: 0o644,
            modified: Time::default(),
        }
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in ["", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\0b"] {
            let refused = Layout::new(vec![file(path, 1)]);
            assert_eq!(refused, Err(LayoutFault::Path(path.to_owned())), "{path:?}");
        }
        let long = "x".repeat(256);
        assert!(Layout::new(vec![file(&long, 1)]).is_err());
        assert!(Layout::new(vec![file("...", 1), file("a/..b", 1)]).is_ok());
        assert!(matches!(
            Layout::new(vec![file("a", 1), file("a", 2)]),
            Err(LayoutFault::Twice(_))
        ));
        assert!(matches!(Layout::new(vec![]), Err(LayoutFault::Entries(0))));
        let huge = vec![file("a", u64::MAX), file("b", 2)];
        assert_eq!(Layout::new(huge), Err(LayoutFault::Size));
    }

    proptest! {
        #[test]
        fn every_byte_belongs_to_one_file(sizes in prop::collection::vec(0_u64..5, 1..20), block in 1_usize..7) {
            let entries = sizes.iter().enumerate().map(|(n, size)| file(&format!("f{n}"), *size)).collect();
            let layout = Layout::new(entries).unwrap();
            let mut seen = vec![0; sizes.len()];
            let mut offset = 0;
            while offset < layout.size() {
                let len = block.min((layout.size() - offset) as usize);
                let mut got = 0;
                for piece in layout.pieces(offset, len) {
                    prop_assert!(piece.len > 0);
                    prop_assert_eq!(piece.at, seen[piece.entry]);
                    seen[piece.entry] += piece.len as u64;
                    got += piece.len;
                }
                prop_assert_eq!(got, len);
                offset += len as u64;
            }
            prop_assert_eq!(seen, sizes);
        }
    }
}
