//! The image of a cartridge: the SIMH .tap container (SIMH Magtape Representation and Handling).
//!
//! ```text
//! record       length u32 | data, one zero byte more if the length is odd | length u32
//! tape mark    0x00000000          end of medium  0xffffffff
//! erase gap    0xfffffffe          bad block      a record whose lengths have bit 31 set
//! ```
//! Numbers are little-endian. The end of the file is the end of the medium too. Blocks and tape
//! marks together are *objects*, counted from 0, as an LTO drive counts them.
//!
//! Invariants kept here:
//! - A tape has one writer: the image is held by an OFD lock while it is open (P9).
//! - Writing at a position removes everything behind it, as on a tape.
//! - Nothing is durable before [`Image::prove`] returns; then everything written is, and was read
//!   back from the medium and compared (P2). After a failed write or sync the image takes no more
//!   writes until it is opened again: what the disk holds is not known.
//! - Whatever the file holds, nothing is read beyond its end and no record is longer than
//!   [`LONGEST`]; a length that is not repeated behind its data ends the tape there.

mod frame;
mod readback;

use super::lock::{Locked, Share};
use cairn_mover::{Crc32c, Crc32cHasher};
use frame::{Frame, frame_at};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The longest block that the container can hold, bytes.
pub const LONGEST: u32 = (1 << 24) - 1;
/// Objects between two remembered places.
const STRIDE: u64 = 1024;

/// What went wrong with an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file below failed.
    #[error("{}: {step}: {source}", path.display())]
    Io {
        /// The image.
        path: PathBuf,
        /// What was being done.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Somebody else has it open.
    #[error("{}: another process holds this cartridge", path.display())]
    InUse {
        /// The image.
        path: PathBuf,
    },
    /// The tape ends before the object.
    #[error("{}: the tape ends at object {end}, wanted {wanted}", path.display())]
    Beyond {
        /// The image.
        path: PathBuf,
        /// The object asked for.
        wanted: u64,
        /// Where it ends.
        end: u64,
    },
    /// What was read back is not what was written.
    #[error("{}: read back {found}, wrote {expected} ({len} bytes from {from})", path.display())]
    Lies {
        /// The image.
        path: PathBuf,
        /// Offset in the file.
        from: u64,
        /// Bytes compared.
        len: u64,
        /// Sum of what was written.
        expected: Crc32c,
        /// Sum of what came back.
        found: Crc32c,
    },
    /// An earlier write or sync failed.
    #[error("{}: an earlier write failed; it must be loaded again", path.display())]
    Broken {
        /// The image.
        path: PathBuf,
    },
    /// A block that the container cannot hold, or none at all.
    #[error("{}: a block of {len} bytes; 1 to {LONGEST} can be written", path.display())]
    Length {
        /// The image.
        path: PathBuf,
        /// Its length.
        len: usize,
    },
    /// The block is longer than the reader's buffer.
    #[error("{}: object {object} has {len} bytes, the reader has room for {room}", path.display())]
    Large {
        /// The image.
        path: PathBuf,
        /// The object.
        object: u64,
        /// Its length.
        len: u32,
        /// The reader's buffer.
        room: usize,
    },
}

/// A place on the tape: before an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    /// Number of the object behind it: blocks and tape marks before it.
    pub object: u64,
    /// Bytes of all blocks before it; what a cartridge's capacity counts.
    pub bytes: u64,
    /// Offset in the image's file.
    pub offset: u64,
}

/// What was found at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A block of so many bytes.
    Block(u32),
    /// A block of so many bytes that cannot be read.
    Bad(u32),
    /// A tape mark.
    Mark,
    /// The end of the medium.
    End,
    /// Something that is no record: a torn tail, or damage. The reason is for people.
    Torn(&'static str),
}

/// May the image be written?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read only: a write-protected cartridge.
    Read,
    /// Read and write.
    Write,
}

/// An open image, at a place.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    file: Locked,
    /// Length of the file.
    end: u64,
    here: Place,
    /// Known places, by object.
    known: BTreeMap<u64, Place>,
    /// Where the bytes begin that are not proven, and their sum.
    unproven: Option<(u64, Crc32cHasher)>,
    broken: bool,
}

impl Image {
    /// Makes an empty image and opens it; its name is durable when this returns.
    ///
    /// # Errors
    /// [`ImageError::Io`], also if there is one already.
    pub fn create(path: &Path) -> Result<Self, ImageError> {
        let fail = |step| move |source| io_error(path, step, source);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(path).map_err(fail("making it"))?;
        file.sync_all().map_err(fail("making it durable"))?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        File::open(parent)
            .and_then(|dir| dir.sync_all())
            .map_err(fail("making its name durable"))?;
        Self::locked(path, file, Share::Alone)
    }

    /// Opens an image at its beginning.
    ///
    /// # Errors
    /// [`ImageError::InUse`], [`ImageError::Io`].
    pub fn open(path: &Path, access: Access) -> Result<Self, ImageError> {
        let mut options = OpenOptions::new();
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        options.read(true).write(access == Access::Write);
        let file = options
            .custom_flags(flags)
            .open(path)
            .map_err(|e| io_error(path, "opening", e))?;
        let share = match access {
            Access::Read => Share::Readers,
            Access::Write => Share::Alone,
        };
        Self::locked(path, file, share)
    }

    fn locked(path: &Path, file: File, share: Share) -> Result<Self, ImageError> {
        let locked = Locked::try_new(file, share).map_err(|e| io_error(path, "locking", e))?;
        let Some(file) = locked else {
            return Err(ImageError::InUse { path: path.into() });
        };
        let meta = file
            .metadata()
            .map_err(|e| io_error(path, "looking at it", e))?;
        if !meta.is_file() {
            let source = io::Error::other("no regular file");
            return Err(io_error(path, "opening", source));
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            end: meta.len(),
            here: Place::default(),
            known: BTreeMap::from([(0, Place::default())]),
            unproven: None,
            broken: false,
        })
    }

    /// The image's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it stands.
    #[must_use]
    pub fn place(&self) -> Place {
        self.here
    }

    /// Bytes of the file from the present place on.
    #[must_use]
    pub fn behind(&self) -> u64 {
        self.end.saturating_sub(self.here.offset)
    }

    /// Tells places that an index knows, in place of all known before, so that [`Self::seek`] need
    /// not walk there. A wrong one makes `seek` arrive at another object or at something torn.
    pub fn know(&mut self, places: &[Place]) {
        let inside = places.iter().filter(|p| p.offset <= self.end);
        self.known = inside.map(|p| (p.object, *p)).collect();
        self.known.insert(0, Place::default());
    }

    /// Goes before an object, by walking from the nearest known place before it.
    ///
    /// # Errors
    /// [`ImageError::Beyond`], [`ImageError::Io`].
    pub fn seek(&mut self, object: u64) -> Result<(), ImageError> {
        let nearest = self.known.range(..=object).next_back();
        let mut from = nearest.map_or(Place::default(), |(_, place)| *place);
        if (from.object..=object).contains(&self.here.object) {
            from = self.here;
        }
        self.here = from;
        while self.here.object < object {
            match self.skip()? {
                Found::Block(_) | Found::Bad(_) | Found::Mark => {}
                Found::End | Found::Torn(_) => {
                    return Err(ImageError::Beyond {
                        path: self.path.clone(),
                        wanted: object,
                        end: self.here.object,
                    });
                }
            }
        }
        Ok(())
    }

    /// Passes over the next object; stays where it is at the end and at what is torn.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn skip(&mut self) -> Result<Found, ImageError> {
        let frame = self.frame()?;
        Ok(self.pass(frame))
    }

    /// Reads the next object into `buffer` and passes over it. A bad block is passed over too.
    ///
    /// # Errors
    /// [`ImageError::Large`] (it stays before the block), [`ImageError::Io`].
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<Found, ImageError> {
        let frame = self.frame()?;
        if let Found::Block(len) = frame.found {
            let room = buffer.len();
            // u32 fits usize here.
            let Some(into) = buffer.get_mut(..len as usize) else {
                return Err(ImageError::Large {
                    path: self.path.clone(),
                    object: self.here.object,
                    len,
                    room,
                });
            };
            self.file
                .read_exact_at(into, frame.data)
                .map_err(|e| io_error(&self.path, "reading", e))?;
        }
        Ok(self.pass(frame))
    }

    fn frame(&self) -> Result<Frame, ImageError> {
        frame_at(&self.file, self.here.offset, self.end)
            .map_err(|e| io_error(&self.path, "reading", e))
    }

    fn pass(&mut self, frame: Frame) -> Found {
        let len = match frame.found {
            Found::Block(len) | Found::Bad(len) => u64::from(len),
            Found::Mark => 0,
            Found::End | Found::Torn(_) => return frame.found,
        };
        self.advance(frame.next, len);
        if frame.found == Found::Mark || self.here.object.is_multiple_of(STRIDE) {
            self.known.insert(self.here.object, self.here);
        }
        frame.found
    }

    fn advance(&mut self, offset: u64, bytes: u64) {
        self.here = Place {
            object: self.here.object + 1,
            bytes: self.here.bytes + bytes,
            offset,
        };
    }

    /// Writes a block here. Not durable before [`Self::prove`].
    ///
    /// # Errors
    /// [`ImageError::Length`], [`ImageError::Broken`], [`ImageError::Io`].
    pub fn write(&mut self, block: &[u8]) -> Result<(), ImageError> {
        let len = match u32::try_from(block.len()) {
            Ok(len) if (1..=LONGEST).contains(&len) => len,
            _ => {
                let (path, len) = (self.path.clone(), block.len());
                return Err(ImageError::Length { path, len });
            }
        };
        let bytes = frame::record(len, block);
        self.put(&bytes)?;
        self.advance(self.end, u64::from(len));
        Ok(())
    }

    /// Writes a tape mark here. Not durable before [`Self::prove`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn mark(&mut self) -> Result<(), ImageError> {
        self.put(&frame::MARK)?;
        self.advance(self.end, 0);
        self.known.insert(self.here.object, self.here);
        Ok(())
    }

    /// Writes the first `keep` bytes of a block's record and breaks: what a power loss leaves.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn tear(&mut self, block: &[u8], keep: usize) -> Result<(), ImageError> {
        let len = u32::try_from(block.len()).unwrap_or(LONGEST).min(LONGEST);
        let mut bytes = frame::record(len, block);
        bytes.truncate(keep);
        let torn = self.put(&bytes);
        self.broken = true;
        torn
    }

    /// Removes everything from here on. Not durable before [`Self::prove`].
    ///
    /// # Errors
    /// [`ImageError::Broken`], [`ImageError::Io`].
    pub fn truncate(&mut self) -> Result<(), ImageError> {
        self.put(&[])
    }

    /// Puts bytes at the present place, behind which nothing remains.
    fn put(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        if self.broken {
            let path = self.path.clone();
            return Err(ImageError::Broken { path });
        }
        let from = self.here.offset;
        if self.end != from {
            // What was written before this place still has to be proven.
            if self
                .unproven
                .as_ref()
                .is_some_and(|(start, _)| *start < from)
            {
                self.prove()?;
            }
            self.known.split_off(&(self.here.object + 1));
            self.unproven = None;
            self.broken = true;
            self.file
                .set_len(from)
                .map_err(|e| io_error(&self.path, "removing what lies behind", e))?;
            self.broken = false;
            self.end = from;
        }
        let (_, sum) = self
            .unproven
            .get_or_insert_with(|| (from, Crc32cHasher::default()));
        if let Err(error) = self.file.write_all_at(bytes, from) {
            self.broken = true;
            return Err(io_error(&self.path, "writing", error));
        }
        sum.update(bytes);
        self.end = from + bytes.len() as u64;
        Ok(())
    }

    /// Makes everything written durable, reads it back from the medium and compares.
    ///
    /// # Errors
    /// [`ImageError::Lies`], [`ImageError::Broken`], [`ImageError::Io`]; after any of them the
    /// image is broken.
    pub fn prove(&mut self) -> Result<(), ImageError> {
        if self.broken {
            let path = self.path.clone();
            return Err(ImageError::Broken { path });
        }
        self.broken = true;
        self.file
            .sync_data()
            .map_err(|e| io_error(&self.path, "making durable", e))?;
        if let Some((from, written)) = self.unproven.take() {
            let found = readback::sum(&self.path, &self.file, from, written.len())
                .map_err(|e| io_error(&self.path, "reading back", e))?;
            if found != written.sum() {
                return Err(ImageError::Lies {
                    path: self.path.clone(),
                    from,
                    len: written.len(),
                    expected: written.sum(),
                    found,
                });
            }
        }
        self.broken = false;
        Ok(())
    }

    /// Makes the block at `object` a bad one, on the medium, durably: an injected fault.
    ///
    /// # Errors
    /// [`ImageError::Beyond`] if there is no block, [`ImageError::Io`].
    pub fn spoil(&mut self, object: u64) -> Result<(), ImageError> {
        self.seek(object)?;
        let frame = self.frame()?;
        let (Found::Block(len) | Found::Bad(len)) = frame.found else {
            let (path, end) = (self.path.clone(), object);
            return Err(ImageError::Beyond {
                path,
                wanted: object,
                end,
            });
        };
        let word = frame::bad(len);
        self.file
            .write_all_at(&word, frame.data - 4)
            .and_then(|()| self.file.write_all_at(&word, frame.next - 4))
            .and_then(|()| self.file.sync_data())
            .map_err(|e| io_error(&self.path, "spoiling", e))
    }

    /// Flips a bit of what is not proven yet: an injected fault.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn flip_unproven(&mut self) -> Result<(), ImageError> {
        let Some((from, sum)) = self.unproven.as_ref().filter(|(_, sum)| !sum.is_empty()) else {
            return Ok(());
        };
        let at = from + sum.len() / 2;
        let mut byte = [0];
        self.file
            .read_exact_at(&mut byte, at)
            .and_then(|()| self.file.write_all_at(&[byte[0] ^ 1], at))
            .map_err(|e| io_error(&self.path, "flipping a bit", e))
    }

    /// Are there, in the file behind the present place, `len` bytes that begin with `needle` and
    /// that `is_it` takes? For telling damage in the middle of a tape from a torn tail: reads all
    /// of it.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn occurs_behind(
        &self,
        needle: &[u8],
        len: usize,
        is_it: &dyn Fn(&[u8]) -> bool,
    ) -> Result<bool, ImageError> {
        frame::occurs(&self.file, self.here.offset, needle, len, is_it)
            .map_err(|e| io_error(&self.path, "searching", e))
    }
}

fn io_error(path: &Path, step: &'static str, source: io::Error) -> ImageError {
    ImageError::Io {
        path: path.to_owned(),
        step,
        source,
    }
}

#[cfg(test)]
mod tests;
