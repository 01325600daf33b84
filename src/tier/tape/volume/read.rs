//! Reading a part of a file: from the blocks that were just read, else from the tape, reading on to it
//! where that is sooner done than a locate.

use super::{TapeFile, VolumeError, Window, step};
use crate::tier::tape::drive::{Blame, Drive, DriveError, Read};
use crate::tier::tape::timing::Geometry;

/// Longest way that is read over, bytes: all that is passed is read, in a virtual library from a disk.
const READ_ON: u64 = 64 << 20;

/// Is the way ahead from one byte of a tape to another sooner read over than located to?
#[must_use]
pub fn reads_on(geometry: Geometry, from: u64, to: u64) -> bool {
    let gap = to.saturating_sub(from);
    to >= from
        && gap <= READ_ON
        && geometry.transfer(gap) <= geometry.locate(geometry.spot(from), geometry.spot(to))
}

/// Reads `into.len()` bytes at `offset` of a file, which must lie within it. `window`: the blocks of the
/// loaded cartridge that were just read, which grows by those that are read now; `geometry`: the
/// cartridge's.
///
/// # Errors
/// [`VolumeError::Moved`] if blocks are not as long as the index says; [`VolumeError::Drive`].
pub fn read(
    drive: &mut dyn Drive,
    file: &TapeFile,
    offset: u64,
    mut into: &mut [u8],
    (window, geometry): (&mut Window, Geometry),
) -> Result<(), VolumeError> {
    let moved = || VolumeError::Moved {
        name: file.name,
        object: file.object,
    };
    let block = u64::from(file.block.max(1));
    let mut number = offset / block;
    // Below the block's length, which is a u32.
    let mut skip = (offset % block) as usize;
    let mut head = None;
    while !into.is_empty() {
        let object = file.data().checked_add(number).ok_or_else(moved)?;
        let wanted = block.min(file.len.saturating_sub(number * block));
        if window.get(object).is_none() {
            window.room.resize(file.block as usize, 0);
            if head != Some(object) {
                go(drive, object, file.byte(number * block), (window, geometry))?;
            }
            match drive.read_block(&mut window.room) {
                Ok(Read::Block(len)) if len as u64 == wanted => window.keep(object, len),
                Ok(_) | Err(DriveError::Length { .. } | DriveError::Longer { .. }) => {
                    return Err(moved());
                }
                Err(error) => return Err(step("reading")(error)),
            }
            head = Some(object + 1);
        }
        let whole = window.get(object).ok_or_else(moved)?;
        if whole.len() as u64 != wanted {
            return Err(moved());
        }
        let piece = whole.get(skip..).ok_or_else(moved)?;
        let count = piece.len().min(into.len());
        let (here, rest) = into.split_at_mut(count);
        here.copy_from_slice(&piece[..count]);
        into = rest;
        number += 1;
        skip = 0;
    }
    Ok(())
}

/// Brings the head before an object that begins at the byte `to` of the tape.
fn go(
    drive: &mut dyn Drive,
    object: u64,
    to: u64,
    (window, geometry): (&mut Window, Geometry),
) -> Result<(), VolumeError> {
    let at = drive.position().map_err(step("reading"))?;
    if at == object {
        return Ok(());
    }
    let ahead = |place: &crate::tier::tape::image::Place| {
        at < object && reads_on(geometry, place.bytes, to)
    };
    if drive.place().filter(ahead).is_some() && read_over(drive, at..object, window)? {
        return Ok(());
    }
    drive.locate(object).map_err(step("locating"))
}

/// Reads all up to the end of `objects`. `false`: something lies there that cannot be read, which is no
/// matter to who does not want it.
fn read_over(
    drive: &mut dyn Drive,
    objects: std::ops::Range<u64>,
    window: &mut Window,
) -> Result<bool, VolumeError> {
    for object in objects {
        match drive.read_block(&mut window.room) {
            Ok(Read::Block(len)) => window.keep(object, len),
            Ok(Read::Mark) => {}
            Ok(Read::End) => return Ok(false),
            Err(error) if error.blames() == Blame::Drive => return Err(step("reading")(error)),
            Err(_) => return Ok(false),
        }
    }
    Ok(true)
}
