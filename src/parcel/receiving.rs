//! The receiving end of a parcel: files written under names of their own, and renamed once they are good.
//!
//! Invariants kept here:
//! - what is written to is a file of our own making: new, or left by an earlier transfer of the same user, with one
//!   link, and locked against a second transfer;
//! - progress is kept after what is in it is durable, and is believed only with the part that it is about;
//! - a name is given after the data are durable and all there, and told after the name is;
//! - modes and times are set on what is open, never by a name that somebody may have given to something else; a directory
//!   that was there before keeps its own.

mod part;

use super::ends::Incoming;
use super::layout::{Entry, Kind, Layout, Piece};
use super::opened::Trouble;
use super::tree::{Tree, split};
use cairn_mover::{ByteRange, Progress, RANGES_MAX, Sink};
use parking_lot::Mutex;
pub(super) use part::Within;
use part::{Alone, make_new};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
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
    /// Directories are there: give them their modes and times. Else they are made, for their owner alone, and those that
    /// were there are told as [`Fate::Exists`].
    pub finish_directories: bool,
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
    /// Where the file that travels alone ends, if that came to be known later.
    end: Mutex<Option<u64>>,
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
        let within = Within {
            at: 0,
            size: layout.size(),
        };
        Self::within(tree, layout, placing, (version, within), tag, settle)
    }

    /// The same, where what is sent is more than this parcel: a file that travels alone lies somewhere in it.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(super) fn within(
        tree: Arc<Tree>,
        layout: Layout,
        placing: Placing,
        (version, within): (&[u8], Within),
        tag: String,
        settle: Settle,
    ) -> io::Result<Self> {
        let alone = match layout.entries() {
            [entry] if layout.is_single() => {
                make_parents(&tree, &entry.path)?;
                let source = (version, within);
                Some(Alone::open(&tree, entry, source, placing.resume, &tag)?)
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
            end: Mutex::default(),
        })
    }

    /// The parcel.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What an earlier transfer left of a file that travels alone.
    pub(super) fn begun(&self) -> Option<Progress> {
        self.alone.as_ref().map(|alone| alone.begun.clone())
    }

    /// Reads what is there of a file that travels alone.
    pub(super) fn read_back(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        match &self.alone {
            Some(alone) => alone.file.read_exact_at(buffer, at),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// The file that travels alone has so many bytes, and not as many as it could have had.
    pub fn ends_at(&self, size: u64) {
        *self.end.lock() = Some(size);
    }

    /// An entry is not to get its name.
    pub(super) fn fail(&self, entry: usize, step: &'static str, error: io::Error) {
        let mut failed = self.failed.lock();
        failed.entry(entry).or_insert((step, error));
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

    /// Writes a piece of an entry, of a sparse one at its place in the file; an error that says nothing of the other entries fails this one alone.
    ///
    /// # Errors
    /// Any other.
    pub(super) fn take(&self, piece: Piece, bytes: &[u8]) -> io::Result<()> {
        match self.write(piece, bytes) {
            Err(error) if self.alone.is_some() || !is_of_one(&error) => Err(error),
            Err(error) => {
                self.fail(piece.entry, "write it", error);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn write(&self, piece: Piece, bytes: &[u8]) -> io::Result<()> {
        if let Some(alone) = &self.alone {
            return alone.file.write_all_at(bytes, piece.at);
        }
        let entry = &self.layout.entries()[piece.entry];
        let whole = matches!(entry.kind, Kind::File(size) if piece.len as u64 == size);
        if piece.at == 0 && whole {
            let file = self.create(piece.entry)?;
            file.write_all_at(bytes, 0)?;
            complete(&file, entry)?;
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
        let left = {
            let mut left = self.left.lock();
            let left = &mut left[piece.entry];
            *left = left.saturating_sub(piece.len as u64);
            *left
        };
        // Whoever wrote last: all other writes are over.
        if left == 0 {
            self.files.lock().remove(&piece.entry);
            complete(&file, entry)?;
        }
        Ok(())
    }

    fn name(&self, number: usize, entry: &Entry, progress: &Progress) -> Result<(), Fate> {
        let failed = |step| move |error: io::Error| Fate::Failed(step, error);
        make_parents(&self.tree, &entry.path).map_err(failed("make its directory"))?;
        let (parent, name) = split(&entry.path);
        let parent = self
            .tree
            .directory(parent)
            .map_err(failed("open its directory"))?;
        let mut made: std::ffi::OsString = self.temporary(number).into();
        match (&entry.kind, &self.alone) {
            (Kind::Directory, _) if self.placing.finish_directories => {
                return finish_directory(&parent, name, entry)
                    .map_err(failed("set its mode and time"));
            }
            (Kind::Directory, _) => {
                return match rustix::fs::mkdirat(&*parent, name, Mode::from_raw_mode(0o700)) {
                    Ok(()) => Ok(()),
                    Err(Errno::EXIST) => Err(Fate::Exists),
                    Err(error) => Err(failed("make the directory")(error.into())),
                };
            }
            (Kind::Link(to), _) => {
                let to = OsStr::from_bytes(to);
                let linked = rustix::fs::symlinkat(to, &*parent, &made);
                linked.map_err(|e| failed("make the link")(e.into()))?;
                let set = rustix::fs::utimensat(
                    &*parent,
                    &made,
                    &times(entry),
                    AtFlags::SYMLINK_NOFOLLOW,
                );
                set.map_err(|e| failed("set its time")(e.into()))?;
            }
            (Kind::Name { of, size }, _) => {
                self.link(of, *size, entry, (&*parent, &made))
                    .map_err(failed("make it a name of the other file"))?;
            }
            (Kind::File(0) | Kind::Sparse { stored: 0, .. }, _) => {
                let file = make_new(&parent, &made).map_err(failed("make it"))?;
                complete(&file, entry).map_err(failed("set its mode and time"))?;
            }
            (Kind::File(size), Some(alone)) => {
                let size = self.end.lock().unwrap_or(*size);
                alone
                    .is_whole(progress, size)
                    .map_err(failed("receive it"))?;
                complete(&alone.file, entry).map_err(failed("set its mode and time"))?;
                made.clone_from(&alone.name);
            }
            (Kind::File(_) | Kind::Sparse { .. }, _) if self.left.lock()[number] != 0 => {
                return Err(failed("receive it")(io::ErrorKind::InvalidData.into()));
            }
            (Kind::File(_) | Kind::Sparse { .. }, _) => {}
        }
        rename(&parent, &made, name, self.placing.if_missing)?;
        if let Some(alone) = &self.alone {
            alone.forget_progress();
        }
        Ok(())
    }

    /// Makes another name of a file that is what it is said to be.
    fn link(
        &self,
        of: &[u8],
        size: u64,
        entry: &Entry,
        (parent, made): (&OwnedFd, &OsStr),
    ) -> io::Result<()> {
        let there = self.tree.look(of)?;
        let is_it = there.kind == rustix::fs::FileType::RegularFile
            && (there.size, there.modified) == (size, entry.modified);
        if !is_it {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the other file is not there",
            ));
        }
        let (directory, name) = split(of);
        let directory = self.tree.directory(directory)?;
        let linked = rustix::fs::linkat(&*directory, name, parent, made, AtFlags::empty());
        Ok(linked?)
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

/// Gives a file its name, instead of what has it unless that is to stay.
fn rename(parent: &OwnedFd, made: &OsStr, name: &OsStr, if_missing: bool) -> Result<(), Fate> {
    let failed = |error: Errno| match error {
        Errno::EXIST => Fate::Exists,
        other => Fate::Failed("give it its name", other.into()),
    };
    if !if_missing {
        rustix::fs::renameat(parent, made, parent, name).map_err(failed)?;
        // Where both are names of one file the kernel leaves both, and says that all is well; mostly it is gone.
        let _ = rustix::fs::unlinkat(parent, made, AtFlags::empty());
        return Ok(());
    }
    match rustix::fs::renameat_with(parent, made, parent, name, RenameFlags::NOREPLACE) {
        // NFS cannot; a second name and then one less comes to the same.
        Err(Errno::INVAL) => {
            rustix::fs::linkat(parent, made, parent, name, AtFlags::empty()).map_err(failed)?;
            rustix::fs::unlinkat(parent, made, AtFlags::empty()).map_err(failed)
        }
        other => other.map_err(failed),
    }
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec {
        tv_sec: entry.modified.seconds,
        tv_nsec: entry.modified.nanos.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Mode and times of a file that is written.
fn complete(file: &File, entry: &Entry) -> io::Result<()> {
    if let Kind::Sparse { size, .. } = entry.kind {
        file.set_len(size)?;
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode & 0o777))?;
    Ok(rustix::fs::futimens(file, &times(entry))?)
}

/// Those of a directory that was made; what it inherited (setgid) stays.
fn finish_directory(parent: &OwnedFd, name: &OsStr, entry: &Entry) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let kept = rustix::fs::fstat(&directory)?.st_mode & 0o7000;
    rustix::fs::fchmod(&directory, Mode::from_raw_mode((entry.mode & 0o777) | kept))?;
    Ok(rustix::fs::futimens(&directory, &times(entry))?)
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
        let mut rest = bytes;
        for piece in self.layout.pieces(offset, bytes.len()) {
            let (here, behind) = rest.split_at(piece.len);
            self.take(piece, here)?;
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

impl Incoming for Receiving {
    fn size(&self) -> u64 {
        self.layout.size()
    }

    fn progress(&self, version: &[u8]) -> Progress {
        let begun = self.begun();
        begun.unwrap_or_else(|| Progress::new(version, self.layout.size()))
    }

    fn lacking(&self, version: &[u8]) -> Vec<ByteRange> {
        self.progress(version).ranges(RANGES_MAX)
    }

    fn place(
        &self,
        progress: &Progress,
        troubles: &BTreeMap<usize, Trouble>,
    ) -> io::Result<Vec<(usize, Fate)>> {
        let mut fates = Vec::new();
        let mut failed = std::mem::take(&mut *self.failed.lock());
        for (number, entry) in self.layout.entries().iter().enumerate() {
            let fate = match (troubles.get(&number), failed.remove(&number)) {
                (Some(trouble), _) => Err(Fate::Sender(trouble.clone())),
                (None, Some((step, error))) => Err(Fate::Failed(step, error)),
                (None, None) => self.name(number, entry, progress),
            };
            if let Err(fate) = fate {
                // What is not whole yet can be resumed.
                if !matches!(&fate, Fate::Failed(_, e) if e.kind() == io::ErrorKind::UnexpectedEof)
                {
                    self.discard(number, entry);
                }
                fates.push((number, fate));
            }
        }
        (self.settle)()?;
        Ok(fates)
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
