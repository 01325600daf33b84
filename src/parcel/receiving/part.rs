//! What is written before it has its name: new files, and the part of a large one, which an interrupted transfer leaves
//! with its progress beside it.
//!
//! ```text
//! .cairn-part-UID-CCCCCCCC-NAME            the bytes; CCCCCCCC: CRC32C of the whole name, NAME its first 100 bytes
//! .cairn-part-UID-CCCCCCCC-NAME.progress   which of them are there (docs/mover.md, "What is missing")
//! ```
//!
//! Invariant: a part is written, renamed and taken away only while it is locked by us and its name is still its own: another
//! transfer of the same user may have finished it meanwhile, and another user may have put something in its place.

use crate::parcel::layout::Entry;
use crate::parcel::tree::{Tree, split};
use cairn_mover::{ByteRange, Crc32c, Crc32cHasher, Progress};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

/// How much of a name is in a part's name.
const NAME_SHOWN: usize = 100;
/// The longest progress that is read.
const PROGRESS_MAX: u64 = 4 << 20;
/// So often a part may have been finished by another transfer between being opened and being locked.
const TRIES: usize = 16;

/// A file that was not there before, open for writing, for its owner alone.
pub(super) fn make_new(parent: &OwnedFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?.into())
}

/// Where a file lies in what is sent.
#[derive(Debug, Clone, Copy)]
pub(in crate::parcel) struct Within {
    /// Where its first byte is; progress counts from the start of what is sent.
    pub(in crate::parcel) at: u64,
    /// Bytes of what is sent.
    pub(in crate::parcel) size: u64,
}

/// A large file on its way.
#[derive(Debug)]
pub(super) struct Alone {
    parent: Arc<OwnedFd>,
    pub(super) name: OsString,
    pub(super) file: File,
    /// What an earlier transfer left.
    pub(super) begun: Progress,
    /// The bytes of what is sent that are the file's.
    own: ByteRange,
}

impl Alone {
    pub(super) fn open(
        tree: &Tree,
        entry: &Entry,
        (version, within): (&[u8], Within),
        resume: bool,
        tag: &str,
    ) -> io::Result<Self> {
        let own = ByteRange::new(within.at, entry.size()).ok_or(io::ErrorKind::InvalidInput)?;
        let (parent, given) = split(&entry.path);
        let parent = tree.directory(parent)?;
        let (file, name) = locked(&parent, given.as_bytes(), tag)?;
        let mut part = Self {
            parent,
            name,
            file,
            begun: Progress::new(version, within.size),
            own,
        };
        match part.kept(version, within.size).filter(|_| resume) {
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

    /// The progress beside it, if it is of these data and the part still has them: they are read and summed.
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
        let is_there = |(run, sum): (ByteRange, Crc32c)| {
            self.own.contains(run) && self.sum(run).is_ok_and(|found| found == sum)
        };
        let all = progress.runs().all(is_there);
        all.then_some(progress)
    }

    fn sum(&self, run: ByteRange) -> io::Result<Crc32c> {
        let (mut hasher, mut buffer) = (Crc32cHasher::default(), vec![0; 1 << 20]);
        while hasher.len() < run.len() {
            let want = usize::try_from(run.len() - hasher.len())
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            self.file.read_exact_at(
                &mut buffer[..want],
                run.start() - self.own.start() + hasher.len(),
            )?;
            hasher.update(&buffer[..want]);
        }
        Ok(hasher.sum())
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

    /// All of it is there, and nobody put another file in its place.
    pub(super) fn is_whole(&self, progress: &Progress, size: u64) -> io::Result<()> {
        let own = ByteRange::new(self.own.start(), size);
        let own = own.ok_or(io::ErrorKind::UnexpectedEof)?;
        let whole = !progress.missing().overlaps(own)
            && own.end() <= progress.size()
            && self.file.metadata()?.len() == size;
        if !whole {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "not all of it is there; --resume goes on",
            ));
        }
        if !is_named(&self.parent, &self.name, &self.file)? {
            return Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "its part was replaced by another file",
            ));
        }
        Ok(())
    }

    pub(super) fn forget_progress(&self) {
        // Mostly it is not there.
        let _ = rustix::fs::unlinkat(&*self.parent, self.progress_name(), AtFlags::empty());
    }

    pub(super) fn discard(&self) {
        if is_named(&self.parent, &self.name, &self.file).unwrap_or(false) {
            self.forget_progress();
            // It may have been taken away.
            let _ = rustix::fs::unlinkat(&*self.parent, &self.name, AtFlags::empty());
        }
    }
}

/// Does that name stand for this very file?
fn is_named(parent: &OwnedFd, name: &OsStr, file: &File) -> io::Result<bool> {
    let own = file.metadata()?;
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) => Ok((there.st_dev, there.st_ino) == (own.dev(), own.ino())),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A part of that name, ours alone: locked, and still the one that the name stands for.
fn locked(parent: &OwnedFd, given: &[u8], tag: &str) -> io::Result<(File, OsString)> {
    let shown = &given[..given.len().min(NAME_SHOWN)];
    let (uid, sum) = (rustix::process::geteuid().as_raw(), Crc32c::of(given).0);
    let mut name = format!("{}{uid}-{sum:08x}-", crate::parcel::PART).into_bytes();
    name.extend_from_slice(shown);
    let name = OsString::from_vec(name);
    for _ in 0..TRIES {
        let file = match open_own(parent, &name) {
            Ok(file) => file,
            // Somebody else's lies there, and cannot be taken away: this one cannot be resumed.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let mut other = name;
                other.push(format!(".{tag}"));
                return Ok((make_new(parent, &other)?, other));
            }
            Err(error) => return Err(error),
        };
        if let Err(error) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            let busy = error == Errno::WOULDBLOCK;
            return Err(if busy {
                io::ErrorKind::ResourceBusy.into()
            } else {
                error.into()
            });
        }
        if is_named(parent, &name, &file)? {
            return Ok((file, name));
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
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
        Err(Errno::NOENT) => return make_new(parent, name),
        Err(_) => {}
    }
    rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
    make_new(parent, name)
}

fn is_own(file: &File) -> io::Result<bool> {
    let found = file.metadata()?;
    let mine = found.uid() == rustix::process::geteuid().as_raw();
    Ok(mine && found.is_file() && found.nlink() == 1)
}
