//! Writing one file behind the last complete one.
//!
//! The order (P2): opening labels, tape mark, data, tape mark; synchronise, which proves them; compare
//! the sum; closing labels, tape mark; synchronise. A crash before the closing labels are on the
//! medium leaves a torn tail; after it, the whole file.

use super::{LABEL, Next, TapeFile, VolumeError, step};
use crate::id::AggregateId;
use crate::tier::Proof;
use crate::tier::tape::drive::{Drive, DriveError};
use crate::tier::tape::label::{Barcode, Closing, Day, Opening};
use cairn_mover::{Crc32c, Crc32cHasher};

/// A file being written. Dropped or failed, it leaves a torn tail: [`Appender::abandon`] removes it.
pub struct Appender<'d> {
    drive: &'d mut dyn Drive,
    barcode: Barcode,
    number: u64,
    day: Day,
    opening: Opening,
    offset: u64,
    gathered: Vec<u8>,
    written: Crc32cHasher,
    early_warning: bool,
}

impl<'d> Appender<'d> {
    /// Goes to `next` and writes the opening labels of the `number`-th file (from 1).
    ///
    /// # Errors
    /// [`VolumeError::Drive`].
    pub fn begin(
        drive: &'d mut dyn Drive,
        barcode: Barcode,
        next: Next,
        (name, block): (AggregateId, u32),
        (number, day): (u64, Day),
    ) -> Result<Self, VolumeError> {
        let fail = step("beginning a file");
        drive.locate(next.object).map_err(&fail)?;
        let offset = drive.place().map_or(0, |place| place.offset);
        let Next { object, bytes } = next;
        let opening = Opening {
            name,
            object,
            bytes,
            block: block.max(1),
        };
        for label in opening.labels(barcode.volume(), number, day) {
            drive.write_block(&label).map_err(&fail)?;
        }
        drive.write_mark().map_err(&fail)?;
        Ok(Self {
            drive,
            barcode,
            number,
            day,
            opening,
            offset,
            gathered: Vec::with_capacity(block as usize),
            written: Crc32cHasher::default(),
            early_warning: false,
        })
    }

    /// Takes more of the file's bytes.
    ///
    /// # Errors
    /// [`VolumeError::Drive`], above all [`DriveError::EndOfMedium`].
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), VolumeError> {
        let block = self.opening.block as usize;
        while !bytes.is_empty() {
            let count = bytes.len().min(block - self.gathered.len());
            let (piece, rest) = bytes.split_at(count);
            bytes = rest;
            if piece.len() == block {
                // A whole block goes by without being gathered.
                self.block_of(piece)?;
                continue;
            }
            self.gathered.extend_from_slice(piece);
            if self.gathered.len() == block {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), VolumeError> {
        let gathered = std::mem::take(&mut self.gathered);
        let done = if gathered.is_empty() {
            Ok(())
        } else {
            self.block_of(&gathered)
        };
        self.gathered = gathered;
        self.gathered.clear();
        done
    }

    fn block_of(&mut self, block: &[u8]) -> Result<(), VolumeError> {
        let wrote = self.drive.write_block(block).map_err(step("writing"))?;
        self.early_warning |= wrote.early_warning;
        self.written.update(block);
        Ok(())
    }

    /// Did the drive say that the end of the tape is near?
    #[must_use]
    pub fn early_warning(&self) -> bool {
        self.early_warning
    }

    /// Makes the file durable and proven, and then part of the cartridge. `sum` is what its bytes must sum to.
    ///
    /// # Errors
    /// [`VolumeError::Sum`], [`VolumeError::Drive`]: the file is not there.
    pub fn close(&mut self, sum: Crc32c) -> Result<(TapeFile, Proof), VolumeError> {
        self.flush()?;
        self.drive.write_mark().map_err(step("ending the data"))?;
        let proof = self.drive.sync().map_err(step("synchronising the data"))?;
        let found = self.written.sum();
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
        } = self.opening;
        let len = self.written.len();
        let file = TapeFile {
            name,
            object,
            bytes,
            offset: self.offset,
            block,
            len,
            crc: sum,
        };
        let closing = Closing {
            name,
            object,
            len,
            crc: sum,
        };
        let fail = step("writing the closing labels");
        for label in closing.labels(self.barcode.volume(), self.number, self.day, file.blocks()) {
            self.drive.write_block(&label).map_err(&fail)?;
        }
        self.drive.write_mark().map_err(&fail)?;
        self.drive
            .sync()
            .map_err(step("synchronising the closing labels"))?;
        Ok((file, proof))
    }

    /// Removes what was written of the file, durably; the cartridge is as before it.
    ///
    /// # Errors
    /// [`VolumeError::Drive`]: a torn tail remains, which the next file overwrites.
    pub fn abandon(self) -> Result<(), VolumeError> {
        let Opening { object, bytes, .. } = self.opening;
        cut(self.drive, Next { object, bytes }).map_err(step("removing an abandoned file"))
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
