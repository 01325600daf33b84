//! Reads a whole cartridge once, in the order of its blocks, and says which files are bad.
//!
//! Invariants kept here:
//! - A file is good if all of its bytes were read just now and sum to what its closing labels say, and
//!   if it ends as the aggregate of its name, with an index that has its own sum.
//! - The drive is given back after each [`TURN`] at most: who waits for it is not shut out.
//! - What was found is remembered with the cartridge, durably.
//! - A file that goes while its cartridge is waited for is passed over: nothing is said of what is in its
//!   place. What a drive does wrong that dies is no file's fault.

use super::{Library, LibraryError};
use crate::format::aggregate::{TRAILER_LEN, decode_index, decode_trailer};
use crate::tier::tape::drive::{Blame, DriveNumber};
use crate::tier::tape::label::Barcode;
use crate::tier::tape::state::Fault;
use crate::tier::tape::volume::{self, TapeFile, VolumeError, Window};
use cairn_mover::Crc32cHasher;

/// Read before the drive is given back, bytes.
const TURN: u64 = 256 << 20;
/// Read at once, bytes.
const PIECE: u64 = 4 << 20;
/// Kept of a file's end: mostly the whole index lies in it.
const TAIL: u64 = 8 << 20;
/// A longer index is none.
const INDEX_MOST: u64 = 4 << 30;

/// What reading a cartridge showed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Audit {
    /// Files that were read.
    pub files: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Files that are bad, and why: dead ones, too.
    pub bad: Vec<(TapeFile, String)>,
    /// The caller asked to stop.
    pub stopped: bool,
}

/// What reading one file showed.
enum Seen {
    Good,
    Bad(String),
    /// It is not there any more.
    Gone,
    /// The caller asked to stop.
    Stopped,
}

impl Library {
    /// Reads all files of a cartridge. `stop` is asked before each piece, and told how much was read.
    ///
    /// # Errors
    /// The cartridge cannot be had: nothing is said of what is on it. [`LibraryError::Absent`],
    /// [`LibraryError::OtherPool`], [`LibraryError::Blank`], ...
    pub fn audit(
        &self,
        barcode: Barcode,
        stop: &dyn Fn(&Audit) -> bool,
    ) -> Result<Audit, LibraryError> {
        let mut audit = Audit::default();
        self.written(&self.stock.lock(), barcode)?;
        // Looked at, so that the index is what is on it.
        drop(self.mount(barcode)?);
        let (_, files) = self.cartridge(barcode)?;
        for status in files {
            let file = status.file;
            match self.read_through(barcode, &file, &mut audit, stop)? {
                Seen::Stopped => {
                    audit.stopped = true;
                    break;
                }
                Seen::Gone => continue,
                Seen::Good => {
                    self.known_to_be(barcode, &file, None);
                }
                Seen::Bad(why) => {
                    if !self.known_to_be(barcode, &file, Some(why.clone())) {
                        continue;
                    }
                    tracing::error!(%barcode, file = %file.name, why, "a file of a cartridge is bad");
                    audit.bad.push((file, why));
                }
            }
            audit.files += 1;
        }
        let mut stock = self.stock.lock();
        self.keep(&mut stock)?;
        Ok(audit)
    }

    /// Remembers what a file was seen to be; `false`: it is not there any more.
    fn known_to_be(&self, barcode: Barcode, file: &TapeFile, bad: Option<String>) -> bool {
        let mut stock = self.stock.lock();
        let cartridge = stock.cartridges.get_mut(&barcode);
        let Some(cartridge) = cartridge.filter(|c| c.files.holds(file)) else {
            return false;
        };
        match bad {
            Some(why) => cartridge.entry.spoiled(file.object, why),
            None => drop(cartridge.entry.mended(file.object)),
        }
        true
    }

    /// Is the file where it was? Asked while its cartridge is held, it stays true.
    fn holds(&self, barcode: Barcode, file: &TapeFile) -> bool {
        let stock = self.stock.lock();
        let cartridge = stock.cartridges.get(&barcode);
        cartridge.is_some_and(|c| c.files.holds(file))
    }

    /// Reads one file.
    fn read_through(
        &self,
        barcode: Barcode,
        file: &TapeFile,
        audit: &mut Audit,
        stop: &dyn Fn(&Audit) -> bool,
    ) -> Result<Seen, LibraryError> {
        let (mut at, mut sum) = (0, Crc32cHasher::default());
        let geometry = self.geometry(barcode)?;
        // Its own: what others have just read says nothing of the medium.
        let (mut tail, mut window) = (Vec::new(), Window::default());
        let mut piece = vec![0; usize::try_from(PIECE).unwrap_or(0)];
        while at < file.len {
            let turn = file.len.min(at + TURN);
            let mut mounted = self.mount(barcode)?;
            if !self.holds(barcode, file) {
                return Ok(Seen::Gone);
            }
            while at < turn {
                if stop(audit) {
                    return Ok(Seen::Stopped);
                }
                let count = (turn - at).min(PIECE);
                let into = &mut piece[..usize::try_from(count).unwrap_or(0)];
                match volume::read(mounted.drive(), file, at, into, (&mut window, geometry)) {
                    Ok(()) => {}
                    Err(VolumeError::Drive { source, .. }) if source.blames() == Blame::Drive => {
                        // Once more, on another one.
                        mounted.fail(&source);
                        break;
                    }
                    // Nothing is said of the file by that.
                    Err(error) if error.is_lost() => {
                        return Err(LibraryError::volume(barcode, error));
                    }
                    Err(error) => {
                        self.unread(mounted.drive(), barcode, file, &error);
                        return Ok(Seen::Bad(error.to_string()));
                    }
                }
                sum.update(into);
                audit.bytes += count;
                at += count;
                keep_tail(&mut tail, into);
                if at == turn {
                    self.succeeded(mounted.drive().number(), barcode, false);
                    break;
                }
            }
        }
        if sum.sum() != file.crc {
            let why = format!(
                "its bytes sum to {}, its labels say {}",
                sum.sum(),
                file.crc
            );
            // The medium's: every drive reads the same.
            self.failed_with(DriveNumber(0), barcode, Fault::Read, &why);
            return Ok(Seen::Bad(why));
        }
        self.is_aggregate(barcode, file, &tail)
    }

    /// Does a file end as the aggregate of its name?
    fn is_aggregate(
        &self,
        barcode: Barcode,
        file: &TapeFile,
        tail: &[u8],
    ) -> Result<Seen, LibraryError> {
        let last = tail
            .len()
            .saturating_sub(usize::try_from(TRAILER_LEN).unwrap_or(0));
        let trailer = match decode_trailer(tail.get(last..).unwrap_or_default(), file.len) {
            Ok(trailer) => trailer,
            Err(why) => return Ok(Seen::Bad(why.to_string())),
        };
        if trailer.aggregate != file.name {
            return Ok(Seen::Bad(format!("it holds {}", trailer.aggregate)));
        }
        let begins = file.len - tail.len() as u64;
        let index = match trailer.index_offset.checked_sub(begins) {
            Some(at) => {
                let from = usize::try_from(at).unwrap_or(usize::MAX);
                let rest = tail.get(from..).unwrap_or_default();
                let len = usize::try_from(trailer.index_len).unwrap_or(usize::MAX);
                rest.get(..len).unwrap_or_default().to_vec()
            }
            None if trailer.index_len > INDEX_MOST => {
                return Ok(Seen::Bad("its index is too long to be one".to_owned()));
            }
            // Longer than what was kept: the tape goes back for it.
            None => {
                let mut index = Vec::new();
                let len = usize::try_from(trailer.index_len).unwrap_or(usize::MAX);
                if index.try_reserve_exact(len).is_err() {
                    let source = std::io::ErrorKind::OutOfMemory.into();
                    return Err(LibraryError::io("reading an index", source));
                }
                index.resize(len, 0);
                match self.read_again(barcode, file, trailer.index_offset, &mut index)? {
                    Seen::Good => index,
                    other => return Ok(other),
                }
            }
        };
        match decode_index(&index, &trailer) {
            Ok(_) => Ok(Seen::Good),
            Err(why) => Ok(Seen::Bad(why.to_string())),
        }
    }

    /// Reads a part of a file that was read already.
    fn read_again(
        &self,
        barcode: Barcode,
        file: &TapeFile,
        offset: u64,
        into: &mut [u8],
    ) -> Result<Seen, LibraryError> {
        loop {
            let mut mounted = self.mount(barcode)?;
            if !self.holds(barcode, file) {
                return Ok(Seen::Gone);
            }
            let by = (&mut Window::default(), self.geometry(barcode)?);
            match volume::read(mounted.drive(), file, offset, into, by) {
                Ok(()) => return Ok(Seen::Good),
                Err(VolumeError::Drive { source, .. }) if source.blames() == Blame::Drive => {
                    mounted.fail(&source);
                }
                Err(error) if error.is_lost() => return Err(LibraryError::volume(barcode, error)),
                Err(error) => {
                    self.unread(mounted.drive(), barcode, file, &error);
                    return Ok(Seen::Bad(error.to_string()));
                }
            }
        }
    }
}

/// Keeps what comes last, [`TAIL`] bytes of it at least.
fn keep_tail(tail: &mut Vec<u8>, piece: &[u8]) {
    tail.extend_from_slice(piece);
    let most = usize::try_from(TAIL).unwrap_or(usize::MAX);
    if tail.len() > 2 * most {
        tail.drain(..tail.len() - most);
    }
}
