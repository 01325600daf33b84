//! Writing one object to a directory tier.
//!
//! The order (P2): write and lock a temporary; fsync it; read it back past the cache and compare;
//! see that the tier is still there; make its directory durable; move it to its name, exclusively;
//! fsync that directory; receipt. A crash before the move leaves a temporary that the next opening
//! removes; after it, the whole object.

use super::incoming::{self, Temporary};
use super::layout;
use super::place::{Entered, Place};
use super::readback;
use crate::id::AggregateId;
use crate::tier::{Proof, Put, Receipt, TierError};
use cairn_mover::Crc32c;
use rustix::fs::{AtFlags, FallocateFlags, Mode, RenameFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

/// Small writes (tar headers) are gathered up to this many bytes.
const BUFFER: usize = 1 << 20;

/// An object being written.
pub(super) struct DirPut {
    place: Arc<Place>,
    entered: Entered,
    name: AggregateId,
    temporary: Temporary,
    buffer: Vec<u8>,
    /// Bytes handed to the file, without the buffer.
    written: u64,
    preallocated: u64,
    /// `errno` of the write that broke it, or 0 if that had none.
    broken: Option<i32>,
}

impl DirPut {
    pub(super) fn start(
        place: &Arc<Place>,
        name: AggregateId,
        size_hint: u64,
    ) -> Result<Self, TierError> {
        const STEP: &str = "starting to write";
        let entered = place.enter(STEP)?;
        let taken = layout::open_shard(&entered.root, name).and_then(|dir| {
            let file = layout::file_name(name);
            Ok(rustix::fs::statat(dir, file, AtFlags::SYMLINK_NOFOLLOW)?)
        });
        match taken {
            Ok(_) => return Err(exists(place, name)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(place.fail(STEP, name, error)),
        }
        let temporary = incoming::create(&entered.root, name)
            .map_err(|error| fail_writing(place, STEP, name, error))?;
        let preallocated = preallocate(&temporary.file, size_hint)
            .map_err(|error| fail_writing(place, "preallocating", name, error))?;
        Ok(Self {
            place: Arc::clone(place),
            entered,
            name,
            temporary,
            buffer: Vec::new(),
            written: 0,
            preallocated,
            broken: None,
        })
    }

    fn drain(&mut self) -> io::Result<()> {
        self.temporary.file.write_all(&self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn gather(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.drain()?;
        }
        if bytes.len() >= BUFFER {
            self.temporary.file.write_all(bytes)?;
            self.written += bytes.len() as u64;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn fail(&self, step: &'static str, error: io::Error) -> TierError {
        fail_writing(&self.place, step, self.name, error)
    }

    /// Everything written, durable, and compared with `sum`.
    fn prove(&mut self, sum: Crc32c) -> Result<(), TierError> {
        if let Some(errno) = self.broken {
            let error = match errno {
                0 => io::Error::other("an earlier write failed"),
                errno => io::Error::from_raw_os_error(errno),
            };
            return Err(self.fail("writing", error));
        }
        self.drain().map_err(|e| self.fail("writing", e))?;
        let file = &self.temporary.file;
        if self.preallocated > self.written {
            file.set_len(self.written)
                .map_err(|e| self.fail("giving back surplus room", e))?;
        }
        // Its bytes never change from here on.
        rustix::fs::fchmod(file, Mode::RUSR)
            .map_err(|e| self.fail("making read-only", e.into()))?;
        file.sync_all()
            .map_err(|e| self.fail("making durable", e))?;
        let (len, found) = readback::sum(&self.temporary.dir, &self.temporary.name, file)
            .map_err(|e| self.fail("reading back", e))?;
        if found == sum && len == self.written {
            return Ok(());
        }
        Err(TierError::Corrupt {
            tier: self.place.label().to_owned(),
            object: self.name,
            expected: sum,
            found,
        })
    }

    /// Gives the proven object its name, durably.
    fn publish(&mut self) -> Result<(), TierError> {
        const STEP: &str = "moving to its name";
        let now = self.place.enter(STEP)?;
        if now.generation != self.entered.generation {
            let why = "the tier's filesystem changed while the object was written".to_owned();
            return Err(self.place.away(STEP, why));
        }
        let shard = self
            .place
            .make_shard(&self.entered, self.name)
            .map_err(|e| self.fail("making its directory", e))?;
        let file = layout::file_name(self.name);
        let from = &self.temporary;
        match move_exclusively(&from.dir, &from.name, &shard, &file, &from.file) {
            Ok(true) => self.temporary.placed = true,
            Ok(false) => return Err(exists(&self.place, self.name)),
            Err(error) => return Err(self.fail(STEP, error)),
        }
        layout::sync_dir(&shard).map_err(|error| {
            // It may or may not last, so it must not be.
            if let Err(error) = rustix::fs::unlinkat(&shard, &file, AtFlags::empty()) {
                tracing::error!(object = %self.name, %error, "an object without a receipt remains");
            }
            self.fail("making its name durable", error)
        })
    }
}

impl Write for DirPut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.broken.is_some() {
            return Err(io::Error::other("an earlier write of this object failed"));
        }
        match self.gather(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                self.broken = Some(error.raw_os_error().unwrap_or(0));
                Err(self.fail("writing", error).into())
            }
        }
    }

    /// Nothing to do: only `finish` makes bytes durable.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Put for DirPut {
    fn finish(mut self: Box<Self>, sum: Crc32c) -> Result<Receipt, TierError> {
        self.prove(sum)?;
        self.publish()?;
        Ok(Receipt {
            aggregate: self.name,
            len: self.written,
            crc: sum,
            proof: Proof::ReadBack,
        })
    }

    fn abandon(self: Box<Self>) {}
}

fn exists(place: &Place, object: AggregateId) -> TierError {
    TierError::Exists {
        tier: place.label().to_owned(),
        object,
    }
}

/// What is missing while writing is a part of the tier, never the object.
fn fail_writing(place: &Place, step: &'static str, name: AggregateId, e: io::Error) -> TierError {
    match place.fail(step, name, e) {
        TierError::Missing { .. } => {
            place.away(step, "part of the tier's directory vanished".to_owned())
        }
        other => other,
    }
}

/// Reserves room if the filesystem can; says how much. Only a lack of room is an error.
fn preallocate(file: &File, size: u64) -> io::Result<u64> {
    // A hint beyond what a file offset holds is no hint.
    if size == 0 || i64::try_from(size).is_err() {
        return Ok(0);
    }
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, size) {
        Ok(()) => Ok(size),
        Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => Err(error.into()),
        Err(error) => {
            tracing::debug!(%error, size, "no preallocation here");
            Ok(0)
        }
    }
}

/// Moves `file` from one name to another that must not exist; `false` if it does.
pub(super) fn move_exclusively(
    from_dir: impl AsFd,
    from: &str,
    to_dir: impl AsFd,
    to: &str,
    file: &File,
) -> io::Result<bool> {
    match rustix::fs::renameat_with(&from_dir, from, &to_dir, to, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(true),
        Err(Errno::EXIST) => return Ok(false),
        // NFS and older filesystems know no RENAME_NOREPLACE.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    link_exclusively(from_dir, from, to_dir, to, file)
}

pub(super) fn link_exclusively(
    from_dir: impl AsFd,
    from: &str,
    to_dir: impl AsFd,
    to: &str,
    file: &File,
) -> io::Result<bool> {
    match rustix::fs::linkat(&from_dir, from, &to_dir, to, AtFlags::empty()) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            // A link whose reply was lost and that was asked for again is ours.
            let ours = file.metadata()?;
            let there = rustix::fs::statat(&to_dir, to, AtFlags::SYMLINK_NOFOLLOW)?;
            if (there.st_dev, there.st_ino) != (ours.dev(), ours.ino()) {
                return Ok(false);
            }
        }
        Err(error) => return Err(error.into()),
    }
    // The object has its name now: an old one that stays is swept with the next opening.
    if let Err(error) = rustix::fs::unlinkat(from_dir, from, AtFlags::empty()) {
        tracing::warn!(from, %error, "temporary name remains");
    }
    Ok(true)
}
