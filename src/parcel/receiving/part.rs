//! What is written before it has its name: new files, and the part of a large one, which an interrupted transfer leaves
//! with its progress beside it.
//!
//! ```text
//! .cairn-part-CCCCCCCC-NAME            the bytes; CCCCCCCC: CRC32C of the whole name, NAME its first 100 bytes
//! .cairn-part-CCCCCCCC-NAME.progress   which of them are there (docs/mover.md, "What is missing")
//! ```

use crate::parcel::layout::Entry;
use crate::parcel::tree::{Tree, split};
use cairn_mover::{Crc32c, Progress};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

/// How much of a name is in a part's name.
const NAME_SHOWN: usize = 100;
/// The longest progress that is read.
const PROGRESS_MAX: u64 = 4 << 20;

/// A file that was not there before, open for writing, for its owner alone.
pub(super) fn make_new(parent: &OwnedFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?.into())
}

/// A large file on its way.
#[derive(Debug)]
pub(super) struct Alone {
    parent: Arc<OwnedFd>,
    pub(super) name: OsString,
    pub(super) file: File,
    /// What an earlier transfer left.
    pub(super) begun: Progress,
}

impl Alone {
    pub(super) fn open(
        tree: &Tree,
        entry: &Entry,
        version: &[u8],
        resume: bool,
    ) -> io::Result<Self> {
        let (parent, given) = split(&entry.path);
        let parent = tree.directory(parent)?;
        let shown = &given.as_bytes()[..given.len().min(NAME_SHOWN)];
        let sum = Crc32c::of(given.as_bytes()).0;
        let mut name = format!("{}{sum:08x}-", crate::parcel::PART).into_bytes();
        name.extend_from_slice(shown);
        let name = OsString::from_vec(name);
        let file = open_own(&parent, &name)?;
        if let Err(error) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            let busy = error == Errno::WOULDBLOCK;
            return Err(if busy {
                io::ErrorKind::ResourceBusy.into()
            } else {
                error.into()
            });
        }
        let mut part = Self {
            parent,
            name,
            file,
            begun: Progress::new(version, entry.size()),
        };
        match part.kept(version, entry.size()).filter(|_| resume) {
            Some(begun) => part.begun = begun,
            None => {
                part.forget_progress();
                part.file.set_len(0)?;
            }
        }
        Ok(part)
    }

    fn progress_name(&self) -> OsString {
        let mut name = self.name.clone();
        name.push(".progress");
        name
    }

    /// The progress beside it, if it is of these data and this part is long enough to hold it.
    fn kept(&self, version: &[u8], size: u64) -> Option<Progress> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(&*self.parent, self.progress_name(), flags, Mode::empty()).ok()?;
        let file = File::from(file);
        if !is_own(&file).ok()? {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(PROGRESS_MAX).read_to_end(&mut bytes).ok()?;
        let progress = Progress::decode(&bytes).ok()?.resume(version, size).ok()?;
        let missing = progress.missing();
        // The last byte that is said to be there.
        let end = match missing.iter().last() {
            Some(last) if last.end() == size => last.start(),
            _ => size,
        };
        (self.file.metadata().ok()?.len() >= end).then_some(progress)
    }

    /// Durable when it returns, and whole whenever it is read.
    pub(super) fn keep(&self, progress: &Progress) -> io::Result<()> {
        if progress.bytes() == 0 {
            self.forget_progress();
            return self.file.set_len(0);
        }
        let mut new = self.progress_name();
        new.push(".new");
        // One that a killed transfer left.
        let _ = rustix::fs::unlinkat(&*self.parent, &new, AtFlags::empty());
        let mut file = make_new(&self.parent, &new)?;
        file.write_all(&progress.encode())?;
        file.sync_all()?;
        rustix::fs::renameat(&*self.parent, &new, &*self.parent, self.progress_name())?;
        Ok(())
    }

    pub(super) fn forget_progress(&self) {
        // Mostly it is not there.
        let _ = rustix::fs::unlinkat(&*self.parent, self.progress_name(), AtFlags::empty());
    }

    pub(super) fn discard(&self) {
        self.forget_progress();
        // It may have been taken away.
        let _ = rustix::fs::unlinkat(&*self.parent, &self.name, AtFlags::empty());
    }
}

/// The part of that name: ours, or made anew. Somebody else's would make theirs what is written to it.
fn open_own(parent: &OwnedFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Ok(found) => {
            let found = File::from(found);
            if is_own(&found)? {
                return Ok(found);
            }
        }
        Err(Errno::NOENT) => return make_part(parent, name),
        Err(_) => {}
    }
    rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
    make_part(parent, name)
}

fn make_part(parent: &OwnedFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?.into())
}

fn is_own(file: &File) -> io::Result<bool> {
    let found = file.metadata()?;
    let mine = found.uid() == rustix::process::geteuid().as_raw();
    Ok(mine && found.is_file() && found.nlink() == 1)
}
