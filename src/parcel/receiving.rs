//! The receiving end of a parcel: files written under names of their own, and renamed once they are good.
//!
//! Invariants kept here:
//! - what is written to is a file of our own making: new, or left by an earlier transfer of the same user, with one
//!   link, and locked against a second transfer;
//! - progress is kept after what is in it is durable, and is believed only with the part that it is about;
//! - a name is given after the data are durable, and told after the name is.

mod part;

use super::layout::{Entry, Kind, Layout, Piece};
use super::sending::Trouble;
use super::tree::{Tree, split};
use cairn_mover::{Progress, Sink};
use parking_lot::Mutex;
use part::{Alone, make_new};
use rustix::fs::{AtFlags, Mode, RenameFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Makes durable all that was written and renamed before it is called.
pub type Settle = Box<dyn Fn() -> io::Result<()> + Send + Sync>;

/// How files are to come to their names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Placing {
    /// Never instead of what is there.
    pub if_missing: bool,
    /// Go on with what an earlier transfer left, if it was of the same data.
    pub resume: bool,
}

/// What became of an entry that is not where it should be.
#[derive(Debug)]
pub enum Fate {
    /// Something is there already, and was to stay.
    Exists,
    /// The sender says that it must not be used.
    Sender(Trouble),
    /// A step of ours failed.
    Failed(&'static str, io::Error),
}

/// A file that is being written, made by whoever needs it first.
type Slot = Arc<Mutex<Option<Arc<File>>>>;

/// See the module.
pub struct Receiving {
    tree: Arc<Tree>,
    layout: Layout,
    placing: Placing,
    settle: Settle,
    /// In the names of what is being written.
    tag: String,
    alone: Option<Alone>,
    files: Mutex<HashMap<usize, Slot>>,
    /// Bytes of each entry that are not written yet.
    left: Mutex<Vec<u64>>,
    failed: Mutex<BTreeMap<usize, (&'static str, io::Error)>>,
}

impl std::fmt::Debug for Receiving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiving")
            .field("tag", &self.tag)
            .finish_non_exhaustive()
    }
}

/// Errors of one file that say nothing of the others.
fn is_of_one(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::PermissionDenied
            | Kind::NotFound
            | Kind::NotADirectory
            | Kind::IsADirectory
            | Kind::InvalidFilename
            | Kind::AlreadyExists
            | Kind::CrossesDevices
    ) || error.raw_os_error() == Some(libc::ELOOP)
}

impl Receiving {
    /// Ready to write the parcel below the tree. `version` is the sender's name for the state of a file that travels
    /// alone; `tag` is of this transfer alone.
    ///
    /// # Errors
    /// A file that travels alone cannot be written, or another transfer of it is under way (`ResourceBusy`).
    pub fn new(
        tree: Arc<Tree>,
        layout: Layout,
        placing: Placing,
        version: &[u8],
        tag: String,
        settle: Settle,
    ) -> io::Result<Self> {
        let alone = match layout.entries() {
            [entry] if layout.is_single() => {
                make_parents(&tree, &entry.path)?;
                Some(Alone::open(&tree, entry, version, placing.resume)?)
            }
            _ => None,
        };
        let left = layout.entries().iter().map(Entry::size).collect();
        Ok(Self {
            tree,
            layout,
            placing,
            settle,
            tag,
            alone,
            files: Mutex::default(),
            left: Mutex::new(left),
            failed: Mutex::default(),
        })
    }

    /// The parcel.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What is there already. `version` is the sender's.
    #[must_use]
    pub fn progress(&self, version: &[u8]) -> Progress {
        match &self.alone {
            Some(alone) => alone.begun.clone(),
            None => Progress::new(version, self.layout.size()),
        }
    }

    fn temporary(&self, entry: usize) -> String {
        format!("{}{}-{entry}", super::PUT, self.tag)
    }

    fn create(&self, entry: usize) -> io::Result<Arc<File>> {
        let path = &self.layout.entries()[entry].path;
        make_parents(&self.tree, path)?;
        let parent = self.tree.directory(split(path).0)?;
        Ok(Arc::new(make_new(&parent, self.temporary(entry).as_ref())?))
    }

    fn write(&self, piece: Piece, bytes: &[u8]) -> io::Result<()> {
        let size = self.layout.entries()[piece.entry].size();
        if piece.at == 0 && piece.len as u64 == size {
            self.create(piece.entry)?.write_all_at(bytes, 0)?;
            self.left.lock()[piece.entry] = 0;
            return Ok(());
        }
        let slot = Arc::clone(self.files.lock().entry(piece.entry).or_default());
        let file = {
            let mut slot = slot.lock();
            match &*slot {
                Some(file) => Arc::clone(file),
                None => Arc::clone(slot.insert(self.create(piece.entry)?)),
            }
        };
        file.write_all_at(bytes, piece.at)?;
        let mut left = self.left.lock();
        left[piece.entry] = left[piece.entry].saturating_sub(piece.len as u64);
        if left[piece.entry] == 0 {
            self.files.lock().remove(&piece.entry);
        }
        Ok(())
    }

    /// Gives the files their names: those that are whole and of which the sender says nothing bad. To be called once,
    /// after the transfer succeeded. What did not get its name is told, by number.
    ///
    /// # Errors
    /// What was named could not be made durable.
    pub fn place(&self, troubles: &BTreeMap<usize, Trouble>) -> io::Result<Vec<(usize, Fate)>> {
        let mut fates = Vec::new();
        let mut failed = std::mem::take(&mut *self.failed.lock());
        for (number, entry) in self.layout.entries().iter().enumerate() {
            let fate = match (troubles.get(&number), failed.remove(&number)) {
                (Some(trouble), _) => Err(Fate::Sender(trouble.clone())),
                (None, Some((step, error))) => Err(Fate::Failed(step, error)),
                (None, None) => self.name(number, entry),
            };
            if let Err(fate) = fate {
                self.discard(number, entry);
                fates.push((number, fate));
            }
        }
        (self.settle)()?;
        if let Some(alone) = &self.alone {
            alone.forget_progress();
        }
        Ok(fates)
    }

    fn name(&self, number: usize, entry: &Entry) -> Result<(), Fate> {
        let failed = |step| move |error: io::Error| Fate::Failed(step, error);
        make_parents(&self.tree, &entry.path).map_err(failed("make its directory"))?;
        let (parent, name) = split(&entry.path);
        let parent = self
            .tree
            .directory(parent)
            .map_err(failed("open its directory"))?;
        let made = match &self.alone {
            Some(alone) => alone.name.clone(),
            None => self.temporary(number).into(),
        };
        match &entry.kind {
            Kind::Directory => {
                if let Err(error) = rustix::fs::mkdirat(&*parent, name, Mode::from_raw_mode(0o755))
                    && error != Errno::EXIST
                {
                    return Err(failed("make the directory")(error.into()));
                }
                let flags = AtFlags::empty();
                let mode = Mode::from_raw_mode(entry.mode & 0o777);
                rustix::fs::chmodat(&*parent, name, mode, flags)
                    .map_err(|e| failed("set its mode")(e.into()))?;
                return set_time(&parent, name, entry).map_err(failed("set its time"));
            }
            Kind::Link(to) => {
                let to = std::ffi::OsStr::from_bytes(to);
                rustix::fs::symlinkat(to, &*parent, &made)
                    .map_err(|e| failed("make the link")(e.into()))?;
            }
            Kind::File(0) => drop(make_new(&parent, &made).map_err(failed("make it"))?),
            Kind::File(_) if self.alone.is_none() && self.left.lock()[number] != 0 => {
                return Err(failed("receive it")(io::ErrorKind::UnexpectedEof.into()));
            }
            Kind::File(_) => {}
        }
        if !matches!(entry.kind, Kind::Link(_)) {
            let mode = Mode::from_raw_mode(entry.mode & 0o777);
            rustix::fs::chmodat(&*parent, &made, mode, AtFlags::empty())
                .map_err(|e| failed("set its mode")(e.into()))?;
        }
        set_time(&parent, &made, entry).map_err(failed("set its time"))?;
        let flags = if self.placing.if_missing {
            RenameFlags::NOREPLACE
        } else {
            RenameFlags::empty()
        };
        match rustix::fs::renameat_with(&*parent, &made, &*parent, name, flags) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(Fate::Exists),
            Err(error) => Err(failed("give it its name")(error.into())),
        }
    }

    /// Takes away what was written of an entry.
    fn discard(&self, number: usize, entry: &Entry) {
        if let Some(alone) = &self.alone {
            return alone.discard();
        }
        if let Ok(parent) = self.tree.directory(split(&entry.path).0) {
            // Mostly it is not there.
            let _ = rustix::fs::unlinkat(&*parent, self.temporary(number), AtFlags::empty());
        }
    }
}

fn set_time(
    parent: &std::os::fd::OwnedFd,
    name: &std::ffi::OsStr,
    entry: &Entry,
) -> io::Result<()> {
    let time = Timespec {
        tv_sec: entry.modified.seconds,
        tv_nsec: entry.modified.nanos.into(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rustix::fs::utimensat(
        parent,
        name,
        &times,
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// Makes the directories that a path needs and that are not there.
fn make_parents(tree: &Tree, path: &[u8]) -> io::Result<()> {
    let parent = split(path).0;
    if tree.directory(parent).is_ok() {
        return Ok(());
    }
    let ends = parent
        .iter()
        .enumerate()
        .filter(|(_, b)| **b == b'/')
        .map(|(at, _)| at);
    for end in ends.chain([parent.len()]) {
        let (above, name) = split(&parent[..end]);
        match rustix::fs::mkdirat(&*tree.directory(above)?, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

impl Sink for Receiving {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if let Some(alone) = &self.alone {
            return alone.file.write_all_at(bytes, offset);
        }
        let mut rest = bytes;
        for piece in self.layout.pieces(offset, bytes.len()) {
            let (here, behind) = rest.split_at(piece.len);
            if let Err(error) = self.write(piece, here) {
                if !is_of_one(&error) {
                    return Err(error);
                }
                self.failed
                    .lock()
                    .entry(piece.entry)
                    .or_insert(("write it", error));
            }
            rest = behind;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        match &self.alone {
            Some(alone) => alone.file.sync_data(),
            None => (self.settle)(),
        }
    }

    fn keep(&self, progress: &Progress) -> io::Result<()> {
        match &self.alone {
            Some(alone) => alone.keep(progress),
            None => Ok(()),
        }
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if self.alone.is_some() {
            return;
        }
        for (number, entry) in self.layout.entries().iter().enumerate() {
            if entry.size() > 0 {
                self.discard(number, entry);
            }
        }
    }
}

#[cfg(test)]
mod tests;
