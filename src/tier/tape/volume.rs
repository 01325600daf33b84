//! A cartridge's contents, through any drive: its label, its files, where the next one goes.
//!
//! ```text
//! VOL1  HDR1 HDR2 UHL1 * data ... * EOF1 EOF2 UTL1 *  HDR1 HDR2 UHL1 * data ... * ...     * tape mark
//! VOL1 *                                                                     an empty cartridge
//! VOL1  HDR1 HDR2 UHL1 * data ... * EOF1 EOF2 UTLP *  HDR1 HDR2 UHL1 * data ... * EOF1 EOF2 UTL1 *   two at once
//! ```
//! Invariants kept here:
//! - A closing label UTL1 is written only after everything before it on the cartridge was synchronised and
//!   proven. A file is on the cartridge when its own is; or when it has UTLP in its place, and a file with UTL1 is
//!   found behind it, file after file; or when its data, read from the medium, sum to what its UTLP says, and all
//!   before it count. (Layout version 1 has no UTLP.)
//! - What lies behind those is a torn tail: ignored, and overwritten by the next file (P9: where to append comes from
//!   the medium), unless an index knows better, which its library sees to. So no UTL1 ever comes to lie behind a UTLP
//!   that is not proven, and one UTL1 that cannot be read costs no file but its own.
//! - A file's data are the object's bytes and nothing else: blocks of one length, the last as short
//!   as it comes out, so that an aggregate's trailer ends the tape file (P14).
//! - A tape with something wrong in its middle is never written: what seems to be its end is none.

mod append;
mod proof;
mod read;
mod window;

pub use append::{Appender, cut, ended, room_for};
pub use read::{read, reads_on};
pub use window::Window;

use super::drive::{Blame, Drive, DriveError, Read};
use super::image::Place;
use super::label::{Barcode, Closing, LABEL, NotOurs, Opening, Volume, Worth};
use crate::id::{AggregateId, TierId};
use cairn_mover::Crc32c;
use serde::{Deserialize, Serialize};

/// Bytes of the labels before a file's data, and of those behind them.
const LABELS: u64 = 3 * LABEL as u64;

/// Why something on a cartridge could not be done.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The drive said so.
    #[error("{step}: {source}")]
    Drive {
        /// What was being done.
        step: &'static str,
        /// Why.
        source: DriveError,
    },
    /// Its first block is not the label of a cartridge of ours.
    #[error("{0}")]
    NotOurs(#[from] NotOurs),
    /// Another cartridge's label.
    #[error(
        "its label says volume {found:?}, its sticker {barcode}: a wrong sticker, or another cartridge's image"
    )]
    Mistaken {
        /// What the sticker says.
        barcode: Barcode,
        /// What the label says.
        found: String,
    },
    /// Another tier's cartridge.
    #[error(
        "its label says that it belongs to tier {found}, this is {wanted}: two libraries with one barcode"
    )]
    Stranger {
        /// Whose it is.
        found: TierId,
        /// Who asks.
        wanted: TierId,
    },
    /// What is there is not what the index said.
    #[error("at object {object} is not {name}, as the index says")]
    Moved {
        /// The file.
        name: AggregateId,
        /// Where it should be.
        object: u64,
    },
    /// What was taken from the front area is not what was put there.
    #[error("the bytes written sum to {found}, wanted {expected}")]
    Sum {
        /// What the caller said.
        expected: Crc32c,
        /// What was written.
        found: Crc32c,
    },
}

/// One complete file of a cartridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TapeFile {
    /// The aggregate.
    #[serde(with = "text")]
    pub name: AggregateId,
    /// Number of the object that its HDR1 is.
    pub object: u64,
    /// Bytes of all blocks before its HDR1.
    pub bytes: u64,
    /// Offset of its HDR1 in the image; 0 where there is none.
    pub offset: u64,
    /// Length of its blocks but the last, bytes; not 0.
    pub block: u32,
    /// Its length, bytes.
    pub len: u64,
    /// CRC32C of its data.
    #[serde(with = "sum")]
    pub crc: Crc32c,
}

impl TapeFile {
    /// Number of its first data block.
    #[must_use]
    pub fn data(&self) -> u64 {
        self.object + 4
    }
    /// Blocks of its data.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.len.div_ceil(u64::from(self.block.max(1)))
    }
    /// Number of its first closing label: behind the data and their tape mark.
    #[must_use]
    pub fn labels(&self) -> u64 {
        self.data().saturating_add(self.blocks()).saturating_add(1)
    }
    /// Number of the object behind its last tape mark.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.labels().saturating_add(4)
    }
    /// Bytes of all blocks up to the byte at `offset` of its data: where the timing model finds it.
    #[must_use]
    pub fn byte(&self, offset: u64) -> u64 {
        self.bytes.saturating_add(LABELS).saturating_add(offset)
    }
    /// Bytes of all blocks up to its end.
    #[must_use]
    pub fn end_bytes(&self) -> u64 {
        self.byte(self.len).saturating_add(LABELS)
    }
    /// Where an image has it, for [`Drive::know`].
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        let Self {
            object,
            bytes,
            offset,
            ..
        } = *self;
        (offset != 0).then_some(Place {
            object,
            bytes,
            offset,
        })
    }
}

/// Where the next file goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    /// Number of the object that its HDR1 will be.
    pub object: u64,
    /// Bytes of all blocks before.
    pub bytes: u64,
}

impl Next {
    /// Behind a file.
    #[must_use]
    pub fn behind(file: &TapeFile) -> Self {
        Self {
            object: file.end(),
            bytes: file.end_bytes(),
        }
    }
}

/// Behind VOL1.
pub const FIRST: Next = Next {
    object: 1,
    bytes: LABEL as u64,
};

/// What a look at a cartridge found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Complete files behind those known, in their order.
    pub files: Vec<TapeFile>,
    /// Where the next file goes.
    pub next: Next,
    /// Why nothing must be written: something is wrong before the end.
    pub damage: Option<String>,
    /// Something incomplete lies behind the last complete file, with at least one whole block.
    pub torn: bool,
}

fn step(step: &'static str) -> impl Fn(DriveError) -> VolumeError {
    move |source| VolumeError::Drive { step, source }
}

impl VolumeError {
    /// Did the drive lose its place? Once its cartridge's label was read, it may be tried again.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        let Self::Drive { source, .. } = self else {
            return false;
        };
        matches!(source, DriveError::Lost { .. })
    }

    /// Is it the medium that does not give what was wanted, whoever asks and whenever?
    #[must_use]
    pub fn is_mediums(&self) -> bool {
        match self {
            Self::Moved { .. } => true,
            Self::Drive { source, .. } => match source {
                DriveError::BadBlock { .. }
                | DriveError::Damaged { .. }
                | DriveError::Beyond { .. }
                | DriveError::Length { .. }
                | DriveError::Longer { .. } => true,
                DriveError::Medium { source, .. } => source.raw_os_error() == Some(libc::EIO),
                _ => false,
            },
            _ => false,
        }
    }
}

/// Makes the loaded cartridge an empty one of this volume: everything on it is gone.
///
/// # Errors
/// [`VolumeError::Drive`].
pub fn initialise(drive: &mut dyn Drive, label: &Volume) -> Result<(), VolumeError> {
    let fail = step("writing the volume's label");
    drive.rewind().map_err(&fail)?;
    // Durable before anything is written, so that no old file can follow the new label.
    drive.erase().map_err(&fail)?;
    drive.sync().map_err(&fail)?;
    drive.write_block(&label.encode()).map_err(&fail)?;
    drive.write_mark().map_err(&fail)?;
    drive.sync().map_err(&fail)?;
    Ok(())
}

/// Reads the label of the cartridge that was just loaded; the head stands behind it.
///
/// # Errors
/// [`VolumeError::NotOurs`], [`VolumeError::Drive`].
pub fn label(drive: &mut dyn Drive) -> Result<Volume, VolumeError> {
    let fail = step("reading the volume's label");
    // What passes everywhere.
    let mut buffer = vec![0; 256 << 10];
    drive.rewind().map_err(&fail)?;
    match drive.read_block(&mut buffer) {
        Ok(Read::Block(len)) => Ok(Volume::decode(buffer.get(..len).unwrap_or_default())?),
        // The first block of another program's tape may be of any length.
        Ok(Read::Mark | Read::End) | Err(DriveError::Longer { .. } | DriveError::Length { .. }) => {
            Err(NotOurs::Unlabelled.into())
        }
        Err(error) => Err(fail(error)),
    }
}

/// Sees that the loaded cartridge is the one that its sticker says, and this tier's. Gives its label.
///
/// # Errors
/// [`VolumeError::Mistaken`], [`VolumeError::Stranger`], and those of [`label`].
pub fn check(drive: &mut dyn Drive, barcode: Barcode, tier: TierId) -> Result<Volume, VolumeError> {
    let found = label(drive)?;
    if found.name != barcode.volume() {
        return Err(VolumeError::Mistaken {
            barcode,
            found: found.name,
        });
    }
    if found.owner != tier {
        return Err(VolumeError::Stranger {
            found: found.owner,
            wanted: tier,
        });
    }
    Ok(found)
}

/// Looks for the end of a cartridge whose label was checked, from behind the last file that an
/// index knows, if that one is there.
///
/// # Errors
/// [`VolumeError::Moved`] if it is not (scan without it); [`VolumeError::Drive`].
pub fn scan(
    drive: &mut dyn Drive,
    barcode: Barcode,
    known: Option<&TapeFile>,
) -> Result<Scan, VolumeError> {
    scan_behind(drive, barcode, known, false)
}

/// The same. `counted`: an earlier look has found that the file counts, so that it is not read for that again.
///
/// # Errors
/// As [`scan`].
pub fn scan_behind(
    drive: &mut dyn Drive,
    barcode: Barcode,
    known: Option<&TapeFile>,
    counted: bool,
) -> Result<Scan, VolumeError> {
    let volume = barcode.volume();
    let mut next = FIRST;
    // The last that is known is proven; if its labels do not say so, those of a later one do.
    let mut owed = false;
    if let Some(last) = known {
        owed = confirm(drive, volume, last)? == Worth::Provisional && !counted;
        next = Next::behind(last);
    }
    let start = next;
    let mut files = Vec::new();
    // Those of them, from the first, that are proven.
    let mut proven = 0;
    let (mut damage, mut torn) = loop {
        drive
            .locate(next.object)
            .map_err(step("going behind the last file"))?;
        let begun = drive.place().map_or(0, |place| place.offset);
        match file_at(drive, volume, next)? {
            Step::File(mut file, worth) => {
                file.offset = begun;
                next = Next::behind(&file);
                files.push(file);
                if worth == Worth::Proof {
                    (proven, owed) = (files.len(), false);
                }
            }
            Step::Blank => break (None, false),
            Step::Torn => break (None, true),
            Step::Damaged(why) => break (Some(why), true),
        }
    };
    // Where nothing is to be written, the index is believed.
    if let Some(last) = known.filter(|_| owed && damage.is_none()) {
        tracing::info!(%barcode, name = %last.name, "nothing behind a file proves it: it is read");
        let shown = proof::shown(drive, std::slice::from_ref(last))?;
        if shown.sound == 0 && shown.why.is_none() {
            return Err(moved(last));
        }
        damage = shown.why;
    }
    let unproven = files.get(proven..).unwrap_or_default();
    if !unproven.is_empty() {
        let count = unproven.len();
        tracing::warn!(%barcode, count, "files have no proof behind them: they are read");
    }
    let shown = proof::shown(drive, unproven)?;
    torn |= shown.sound < unproven.len();
    damage = damage.or(shown.why);
    files.truncate(proven + shown.sound);
    Ok(Scan {
        next: files.last().map_or(start, Next::behind),
        files,
        damage,
        torn,
    })
}

enum Step {
    File(TapeFile, Worth),
    Blank,
    Torn,
    Damaged(String),
}

fn moved(file: &TapeFile) -> VolumeError {
    VolumeError::Moved {
        name: file.name,
        object: file.object,
    }
}

/// Is the file where the index says? Its closing labels say so, and what they are worth.
fn confirm(drive: &mut dyn Drive, volume: &str, file: &TapeFile) -> Result<Worth, VolumeError> {
    match drive.locate(file.labels()) {
        Ok(()) => {}
        Err(DriveError::Beyond { .. } | DriveError::Damaged { .. }) => return Err(moved(file)),
        Err(error) => return Err(step("going to the last file")(error)),
    }
    let wanted = Closing {
        name: file.name,
        object: file.object,
        len: file.len,
        crc: file.crc,
    };
    match closing(drive, volume) {
        Ok(Some((found, worth))) if found == wanted => Ok(worth),
        Ok(_)
        | Err(
            DriveError::Damaged { .. }
            | DriveError::Length { .. }
            | DriveError::Longer { .. }
            | DriveError::BadBlock { .. },
        ) => Err(moved(file)),
        Err(error) => Err(step("reading the last file's labels")(error)),
    }
}

/// One file from here, if a complete one follows.
fn file_at(drive: &mut dyn Drive, volume: &str, next: Next) -> Result<Step, VolumeError> {
    match walk(drive, volume, next) {
        Ok(Some((file, worth))) => return Ok(Step::File(file, worth)),
        // Cannot be read now, which says nothing of what is there.
        Err(
            error @ (DriveError::Failed { .. }
            | DriveError::Empty { .. }
            | DriveError::Lost { .. }
            | DriveError::Busy { .. }
            | DriveError::Unpassable { .. }),
        ) => {
            return Err(step("reading a file's labels")(error));
        }
        Err(DriveError::Damaged { object, why }) => {
            return Ok(Step::Damaged(format!("at object {object}: {why}")));
        }
        Err(DriveError::BadBlock { object }) => {
            return Ok(Step::Damaged(format!(
                "bad block in the labels, object {object}"
            )));
        }
        Err(error @ DriveError::Medium { .. }) => return Ok(Step::Damaged(error.to_string())),
        Ok(None) | Err(_) => {}
    }
    let fail = step("looking at the end");
    drive.locate(next.object).map_err(&fail)?;
    let behind = match drive.complete_behind() {
        // It may be a file, and is not written over.
        Err(error) if error.blames() == Blame::Cartridge => {
            return Ok(Step::Damaged(error.to_string()));
        }
        behind => behind.map_err(&fail)?,
    };
    if behind {
        let why = format!(
            "what begins at object {} is no file, and files lie behind it",
            next.object
        );
        return Ok(Step::Damaged(why));
    }
    drive.locate(next.object).map_err(&fail)?;
    let mut buffer = [0; LABEL];
    let first = match drive.read_block(&mut buffer) {
        Err(DriveError::Length { .. } | DriveError::Longer { .. }) => return Ok(Step::Torn),
        Err(error) if error.blames() == Blame::Cartridge => {
            return Ok(Step::Damaged(error.to_string()));
        }
        first => first.map_err(&fail)?,
    };
    let blank = match first {
        Read::End => true,
        Read::Mark if next == FIRST => matches!(drive.read_block(&mut buffer), Ok(Read::End)),
        Read::Mark | Read::Block(_) => false,
    };
    Ok(if blank { Step::Blank } else { Step::Torn })
}

/// Reads one label into `buffer`; `false` for anything else.
fn label_of(
    drive: &mut dyn Drive,
    buffer: &mut [u8; LABEL],
    kind: &[u8],
) -> Result<bool, DriveError> {
    match drive.read_block(buffer) {
        Ok(Read::Block(LABEL)) => Ok(buffer.starts_with(kind)),
        Ok(_) | Err(DriveError::Length { .. } | DriveError::Longer { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_mark(drive: &mut dyn Drive) -> Result<bool, DriveError> {
    match drive.read_block(&mut [0; LABEL]) {
        Ok(found) => Ok(found == Read::Mark),
        Err(DriveError::Length { .. } | DriveError::Longer { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

fn closing(drive: &mut dyn Drive, volume: &str) -> Result<Option<(Closing, Worth)>, DriveError> {
    let mut buffer = [0; LABEL];
    if !(label_of(drive, &mut buffer, b"EOF1")?
        && label_of(drive, &mut buffer, b"EOF2")?
        && label_of(drive, &mut buffer, b"UTL")?)
    {
        return Ok(None);
    }
    let found = [Worth::Proof, Worth::Provisional]
        .into_iter()
        .find_map(|worth| Some((Closing::decode(worth, &buffer, volume)?, worth)));
    Ok(if is_mark(drive)? { found } else { None })
}

/// The next file, and what its closing labels are worth.
fn walk(
    drive: &mut dyn Drive,
    volume: &str,
    next: Next,
) -> Result<Option<(TapeFile, Worth)>, DriveError> {
    let mut buffer = [0; LABEL];
    if !(label_of(drive, &mut buffer, b"HDR1")?
        && label_of(drive, &mut buffer, b"HDR2")?
        && label_of(drive, &mut buffer, b"UHL1")?)
    {
        return Ok(None);
    }
    let Some(opening) = Opening::decode(&buffer, volume) else {
        return Ok(None);
    };
    if (opening.object, opening.bytes) != (next.object, next.bytes) || !is_mark(drive)? {
        return Ok(None);
    }
    let data = drive.position()?;
    if !drive.space_file()? {
        return Ok(None);
    }
    let blocks = drive.position()? - data - 1;
    let Some((closing, worth)) = closing(drive, volume)? else {
        return Ok(None);
    };
    let file = TapeFile {
        name: opening.name,
        object: opening.object,
        bytes: opening.bytes,
        offset: 0,
        block: opening.block,
        len: closing.len,
        crc: closing.crc,
    };
    let fits = (closing.name, closing.object) == (opening.name, opening.object);
    Ok((fits && file.blocks() == blocks).then_some((file, worth)))
}

/// An aggregate's name as text.
mod text {
    use crate::id::AggregateId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(name: &AggregateId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(name)
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<AggregateId, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// A sum as eight hex digits.
mod sum {
    use cairn_mover::Crc32c;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(sum: &Crc32c, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{:08x}", sum.0))
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Crc32c, D::Error> {
        let text = String::deserialize(from)?;
        let sum = u32::from_str_radix(&text, 16).map_err(D::Error::custom)?;
        Ok(Crc32c(sum))
    }
}

#[cfg(test)]
mod tests;
