//! Writing files behind the last complete one, any number of them behind one synchronisation of their data.
//!
//! The order (P2): for each file opening labels, tape mark, data, tape mark; the sum is compared; then, if another
//! follows, closing labels that do not count by themselves, and a tape mark. Behind the last: synchronise, which
//! proves all of them; closing labels that count, tape mark; synchronise. A crash before those are on the medium
//! leaves a torn tail from the first file on; after it, all files whole.

use super::{LABEL, Next, TapeFile, VolumeError, step};
use crate::id::AggregateId;
use crate::tier::Proof;
use crate::tier::tape::drive::{Drive, DriveError};
use crate::tier::tape::label::{Barcode, Closing, Day, Opening, Worth};
use cairn_mover::{Crc32c, Crc32cHasher};

/// Files that are written together. Dropped or failed, it leaves a torn tail: [`Appender::abandon`] removes it.
pub struct Appender<'d> {
    drive: &'d mut dyn Drive,
    barcode: Barcode,
    /// Where the first begins.
    start: Next,
    /// Number of the first, from 1.
    number: u64,
    day: Day,
    /// Those whose closing labels are written, and count only with a later one's.
    chain: Vec<TapeFile>,
    /// Behind them: its data are written, and no closing labels, unless they were and are to be replaced.
    ended: Option<TapeFile>,
    open: Option<Open>,
    early_warning: bool,
    /// The head is behind what was written last.
    placed: bool,
    /// Something was written.
    touched: bool,
}

/// A file whose data are being written.
struct Open {
    opening: Opening,
    offset: u64,
    gathered: Vec<u8>,
    written: Crc32cHasher,
}

impl<'d> Appender<'d> {
    /// Will write from `start` on; the first file is the `number`-th of the cartridge (from 1).
    pub fn new(
        drive: &'d mut dyn Drive,
        barcode: Barcode,
        start: Next,
        (number, day): (u64, Day),
    ) -> Self {
        Self {
            drive,
            barcode,
            start,
            number,
            day,
            chain: Vec::new(),
            ended: None,
            open: None,
            early_warning: false,
            placed: false,
            touched: false,
        }
    }

    /// Behind the files that have ended.
    fn next(&self) -> Next {
        let last = self.ended.as_ref().or(self.chain.last());
        last.map_or(self.start, Next::behind)
    }

    /// Begins a file behind the others, in blocks of `block` bytes.
    ///
    /// # Errors
    /// [`VolumeError::Drive`].
    pub fn begin(&mut self, name: AggregateId, block: u32) -> Result<(), VolumeError> {
        debug_assert!(self.open.is_none(), "one file after the other");
        let Next { object, bytes } = self.next();
        if let Some(last) = self.ended {
            self.label(&last, Worth::Provisional)?;
            self.chain.extend(self.ended.take());
        }
        let fail = step("beginning a file");
        self.place(object).map_err(&fail)?;
        let offset = self.drive.place().map_or(0, |place| place.offset);
        let opening = Opening {
            name,
            object,
            bytes,
            block: block.max(1),
        };
        let number = self.number + self.chain.len() as u64;
        for label in opening.labels(self.barcode.volume(), number, self.day) {
            self.drive.write_block(&label).map_err(&fail)?;
            self.touched = true;
        }
        self.drive.write_mark().map_err(&fail)?;
        self.open = Some(Open {
            opening,
            offset,
            gathered: Vec::with_capacity(block as usize),
            written: Crc32cHasher::default(),
        });
        Ok(())
    }

    /// Brings the head before an object. A drive that has to stop for a locate is spared that where it stands there.
    fn place(&mut self, object: u64) -> Result<(), DriveError> {
        const STEP: &str = "beginning a file";
        if !self.placed {
            self.drive.locate(object)?;
            self.placed = true;
            return Ok(());
        }
        let at = self.drive.position()?;
        if at != object {
            let (drive, why) = (self.drive.number(), format!("at {at}, not {object}"));
            let step = STEP;
            return Err(DriveError::Lost { drive, step, why });
        }
        Ok(())
    }

    /// Takes more of the file's bytes.
    ///
    /// # Errors
    /// [`VolumeError::Drive`], above all [`DriveError::EndOfMedium`].
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), VolumeError> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let block = open.opening.block as usize;
        while !bytes.is_empty() {
            let count = bytes.len().min(block - open.gathered.len());
            let (piece, rest) = bytes.split_at(count);
            bytes = rest;
            if piece.len() < block {
                open.gathered.extend_from_slice(piece);
                if open.gathered.len() < block {
                    continue;
                }
            }
            // A whole block goes by without being gathered.
            let whole = if piece.len() == block {
                piece
            } else {
                &open.gathered
            };
            let wrote = self.drive.write_block(whole).map_err(step("writing"))?;
            self.early_warning |= wrote.early_warning;
            open.written.update(whole);
            open.gathered.clear();
        }
        Ok(())
    }

    /// Ends the file's data. `sum` is what its bytes must sum to.
    ///
    /// # Errors
    /// [`VolumeError::Sum`], [`VolumeError::Drive`].
    pub fn end(&mut self, sum: Crc32c) -> Result<(), VolumeError> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        if !open.gathered.is_empty() {
            let wrote = self.drive.write_block(&open.gathered);
            self.early_warning |= wrote.map_err(step("writing"))?.early_warning;
            open.written.update(&open.gathered);
            open.gathered.clear();
        }
        let wrote = self.drive.write_mark().map_err(step("ending the data"))?;
        self.early_warning |= wrote.early_warning;
        let found = open.written.sum();
        if found != sum {
            return Err(VolumeError::Sum {
                expected: sum,
                found,
            });
        }
        let Opening {
            name,
            object,
            bytes,
            block,
        } = open.opening;
        self.ended = Some(TapeFile {
            name,
            object,
            bytes,
            offset: open.offset,
            block,
            len: open.written.len(),
            crc: sum,
        });
        self.open = None;
        Ok(())
    }

    /// The last file, ended or not, is none of these any more: what follows is written in its place.
    pub fn give_up(&mut self) {
        self.placed = false;
        if self.open.take().is_none() {
            self.ended = None;
        }
    }

    /// Did the drive say that the end of the tape is near?
    #[must_use]
    pub fn early_warning(&self) -> bool {
        self.early_warning
    }

    /// Bytes of the files that have ended, if the first began at `start`.
    #[must_use]
    pub fn bytes_from(&self, start: Next) -> u64 {
        self.next().bytes.saturating_sub(start.bytes)
    }

    /// Files that have ended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chain.len() + usize::from(self.ended.is_some())
    }

    /// Has none ended?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes all files durable and proven, and then part of the cartridge: none if there is none.
    ///
    /// # Errors
    /// [`VolumeError::Drive`]: none is there. At [`DriveError::EndOfMedium`] it may be done again without the last, or
    /// without any if synchronising met it.
    pub fn close(&mut self) -> Result<Option<(Vec<TapeFile>, Proof)>, VolumeError> {
        debug_assert!(self.open.is_none(), "it was ended, or given up");
        let last = match self.ended {
            Some(last) => last,
            None => {
                let Some(last) = self.chain.pop() else {
                    return Ok(None);
                };
                // What was begun behind it was given up: its closing labels are replaced by some that count. Before
                // the head moves it is seen that nothing before them is lost.
                self.sync("synchronising before going back")?;
                self.ended = Some(last);
                let back = self.drive.locate(last.labels());
                back.map_err(step("going back to the closing labels"))?;
                last
            }
        };
        let proof = self.sync("synchronising the data")?;
        self.label(&last, Worth::Proof)?;
        self.sync("synchronising the closing labels")?;
        let mut files = std::mem::take(&mut self.chain);
        files.extend(self.ended.take());
        Ok(Some((files, proof)))
    }

    /// Makes what was written durable; if that fails, none of these is.
    fn sync(&mut self, what: &'static str) -> Result<Proof, VolumeError> {
        self.drive.sync().map_err(|source| {
            self.chain.clear();
            self.ended = None;
            step(what)(source)
        })
    }

    /// Writes closing labels, and their tape mark.
    fn label(&mut self, file: &TapeFile, worth: Worth) -> Result<(), VolumeError> {
        let fail = step("writing the closing labels");
        let closing = Closing {
            name: file.name,
            object: file.object,
            len: file.len,
            crc: file.crc,
        };
        let number = self.number + self.chain.len() as u64;
        let (volume, when) = (self.barcode.volume(), (number, self.day));
        for label in closing.labels(worth, volume, when, file.blocks()) {
            self.drive.write_block(&label).map_err(&fail)?;
        }
        self.drive.write_mark().map_err(&fail)?;
        Ok(())
    }

    /// Was anything written? If not, and it failed, it is not even certain on which tape.
    #[must_use]
    pub fn is_touched(&self) -> bool {
        self.touched
    }

    /// Removes what was written, durably; the cartridge is as before.
    ///
    /// # Errors
    /// [`VolumeError::Drive`]: a torn tail remains, which the next file overwrites.
    pub fn abandon(self) -> Result<(), VolumeError> {
        cut(self.drive, self.start).map_err(step("removing what was given up"))
    }
}

/// Removes everything from `next` on, durably.
///
/// # Errors
/// [`DriveError`]: something may remain, which the next file overwrites.
pub fn cut(drive: &mut dyn Drive, next: Next) -> Result<(), DriveError> {
    drive.locate(next.object)?;
    drive.erase()?;
    if next == super::FIRST {
        // An empty cartridge ends with a tape mark behind its label.
        drive.write_mark()?;
    }
    drive.sync()?;
    Ok(())
}

/// Bytes that a file of `len` bytes takes on a cartridge, labels included.
#[must_use]
pub fn room_for(len: u64) -> u64 {
    len.saturating_add(6 * LABEL as u64)
}

/// Did the tape end? Then the file goes to another cartridge.
#[must_use]
pub fn ended(error: &VolumeError) -> bool {
    matches!(
        error,
        VolumeError::Drive {
            source: DriveError::EndOfMedium,
            ..
        }
    )
}
