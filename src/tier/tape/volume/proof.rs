//! Files whose closing labels do not count by themselves, and whose proof cannot be read: their data are read instead.
//!
//! Invariants kept here: what counts was synchronised, and then all its bytes came back and sum to what its labels say.
//! Nothing that merely looks like labels is a proof: objects hold what their users like.

use super::{TapeFile, VolumeError, step};
use crate::tier::tape::drive::{Blame, Drive, DriveError, Read};
use cairn_mover::Crc32cHasher;

/// What reading showed of files that lie behind each other.
pub(super) struct Shown {
    /// How many, from the first, are there.
    pub(super) sound: usize,
    /// Why that is not known of the one behind them: nothing must be written over it.
    pub(super) why: Option<String>,
}

/// Reads all data of these files, up to the first that is not as its labels say.
///
/// # Errors
/// [`VolumeError::Drive`]: the drive's fault.
pub(super) fn shown(drive: &mut dyn Drive, files: &[TapeFile]) -> Result<Shown, VolumeError> {
    let mut shown = Shown {
        sound: 0,
        why: None,
    };
    if files.is_empty() {
        return Ok(shown);
    }
    // Whoever wrote them may have died before they were durable.
    drive.sync().map_err(step("synchronising what was found"))?;
    for file in files {
        match is_sound(drive, file) {
            Ok(true) => shown.sound += 1,
            Ok(false) => break,
            // Other blocks than its labels say, or none.
            Err(
                DriveError::Length { .. } | DriveError::Longer { .. } | DriveError::Beyond { .. },
            ) => break,
            // The drive's fault, or nobody's.
            Err(error) if error.blames() != Blame::Cartridge => {
                return Err(step("reading a file whose proof is not there")(error));
            }
            // It cannot be read, which says nothing of what is there: it may have a receipt.
            Err(error) => {
                shown.why = Some(format!("{} cannot be read: {error}", file.name));
                break;
            }
        }
    }
    Ok(shown)
}

fn is_sound(drive: &mut dyn Drive, file: &TapeFile) -> Result<bool, DriveError> {
    let block = u64::from(file.block.max(1));
    let mut buffer = vec![0; file.block.max(1) as usize];
    let (mut left, mut sum) = (file.len, Crc32cHasher::default());
    drive.locate(file.data())?;
    while left > 0 {
        let wanted = block.min(left);
        match drive.read_block(&mut buffer)? {
            Read::Block(len) if len as u64 == wanted => {
                sum.update(buffer.get(..len).unwrap_or_default());
            }
            Read::Block(_) | Read::Mark | Read::End => return Ok(false),
        }
        left -= wanted;
    }
    Ok(sum.sum() == file.crc)
}
