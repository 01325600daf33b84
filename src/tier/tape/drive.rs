//! A tape drive: the verbs that a tape has, and nothing else. [`virtual_drive`] runs them on an
//! image in the time of the model; [`st`] runs them on `/dev/nst*`.
//!
//! What every drive promises:
//! - Blocks and tape marks are *objects*, counted from 0 from the load point; [`Drive::locate`] goes
//!   before one.
//! - Writing at a position makes everything behind it unreadable.
//! - Nothing written is durable before [`Drive::sync`] returns, and then all of it is, and is proven. What is lost before
//!   that is told, and nothing is proven then that was written with it ([`Drive::locate`]).
//! - The end of the data is where writing may go on: [`Read::End`] is never said of damage.
//! - After an error that [blames](DriveError::blames) the drive it does nothing more.

pub mod st;
pub mod virtual_drive;

use super::image::Place;
use super::timing::Generation;
use crate::tier::Proof;
use cairn_mover::Crc32c;
use std::fmt;
use std::io;
use std::time::Duration;

/// Number of a drive in its library, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DriveNumber(pub u32);

impl fmt::Display for DriveNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "drive {}", self.0)
    }
}

/// What a read found; the head stands behind it, but for [`Read::End`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// A block of so many bytes, now at the beginning of the buffer.
    Block(usize),
    /// A tape mark.
    Mark,
    /// The end of the data.
    End,
}

/// What came of a write that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrote {
    /// The end of the medium is near: finish the file, begin no other.
    pub early_warning: bool,
}

/// Where a drive and its cartridge stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// A cartridge is loaded and ready.
    pub ready: bool,
    /// Its tab says: not to be written.
    pub protected: bool,
    /// The head is behind the early warning.
    pub early_warning: bool,
    /// Bytes that fit behind the head, where the drive can tell.
    pub remaining: Option<u64>,
}

/// What a drive did since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Tally {
    /// Cartridges loaded.
    pub mounts: u64,
    /// Locates that moved the tape.
    pub locates: u64,
    /// Streams taken up again after a stop.
    pub backhitches: u64,
    /// Bytes of blocks read.
    pub read: u64,
    /// Bytes of blocks written.
    pub written: u64,
    /// Time that all of it takes a real drive.
    pub busy: Duration,
}

/// Whose fault it is: what a library does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The drive's: another one may do it.
    Drive,
    /// The cartridge's: no drive will.
    Cartridge,
    /// Nobody's: the end of the tape, a cartridge that may not be written, a caller's mistake.
    Nobody,
}

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// The drive does not work any more.
    #[error("{drive} failed {step}: {why}")]
    Failed {
        /// Which.
        drive: DriveNumber,
        /// What was being done.
        step: &'static str,
        /// What was seen.
        why: String,
    },
    /// No cartridge in it, or none loaded.
    #[error("{drive} has no cartridge loaded ({step})")]
    Empty {
        /// Which.
        drive: DriveNumber,
        /// What was being done.
        step: &'static str,
    },
    /// The cartridge cannot be loaded.
    #[error("cannot be loaded: {0}")]
    Unloadable(String),
    /// A block that cannot be read; the head stands behind it.
    #[error("bad block at object {object}")]
    BadBlock {
        /// Number of the block.
        object: u64,
    },
    /// Something that is neither block nor mark, with data behind it.
    #[error("damaged at object {object} ({why}), with files behind that")]
    Damaged {
        /// Number of the object it should be.
        object: u64,
        /// What was seen.
        why: String,
    },
    /// The data end before the object.
    #[error("the data end at object {end}, wanted {wanted}")]
    Beyond {
        /// The object asked for.
        wanted: u64,
        /// The end of the data.
        end: u64,
    },
    /// No room for the block.
    #[error("the tape is at its end")]
    EndOfMedium,
    /// Its tab says: not to be written.
    #[error("write-protected")]
    Protected,
    /// A block longer than the reader's buffer, or one that the medium cannot hold.
    #[error("a block of {len} bytes, {room} fit")]
    Length {
        /// Its length.
        len: usize,
        /// What fits.
        room: usize,
    },
    /// A block longer than the reader's buffer, of which a drive says no more; the head stands behind it.
    #[error("a block longer than the {room} bytes that were asked for")]
    Longer {
        /// What was asked for.
        room: usize,
    },
    /// A block that the kernel does not pass on, whatever the drive could do with it.
    #[error(
        "a block of {len} bytes does not pass through the kernel ({source}): write a smaller block= in the tier's URL"
    )]
    Unpassable {
        /// Its length.
        len: usize,
        /// Why.
        source: io::Error,
    },
    /// The head is not where it was left, or nobody knows where: after a reset, or because a hand was in between.
    /// Nothing is done then before [`Drive::rewind`], behind which the label says what tape it is.
    #[error("{drive} is not where it was left ({step}: {why})")]
    Lost {
        /// Which.
        drive: DriveNumber,
        /// What was to be done.
        step: &'static str,
        /// What was seen.
        why: String,
    },
    /// Another program has the drive.
    #[error("{drive} is in use ({step}): another program has the device open")]
    Busy {
        /// Which.
        drive: DriveNumber,
        /// What was to be done.
        step: &'static str,
    },
    /// What was read back is not what was written: sums of all that was written since the last
    /// synchronisation, labels and framing too.
    #[error("read back {found}, wrote {expected}")]
    Lies {
        /// Sum of what was written.
        expected: Crc32c,
        /// Sum of what came back.
        found: Crc32c,
    },
    /// Reading or writing the medium failed.
    #[error("{step}: {source}")]
    Medium {
        /// What was being done.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl DriveError {
    /// Whose fault it is.
    #[must_use]
    pub fn blames(&self) -> Blame {
        match self {
            Self::Failed { .. } => Blame::Drive,
            Self::Unloadable(_)
            | Self::BadBlock { .. }
            | Self::Damaged { .. }
            | Self::Lies { .. }
            | Self::Medium { .. } => Blame::Cartridge,
            Self::Empty { .. }
            | Self::Beyond { .. }
            | Self::EndOfMedium
            | Self::Protected
            | Self::Length { .. }
            | Self::Longer { .. }
            | Self::Lost { .. }
            | Self::Busy { .. }
            | Self::Unpassable { .. } => Blame::Nobody,
        }
    }
}

/// A tape drive. All verbs block until they are done.
pub trait Drive: Send {
    /// Which one it is.
    fn number(&self) -> DriveNumber;
    /// Tells of what kind the cartridge is that is loaded next. A drive may ignore it.
    fn expect(&mut self, generation: Generation) {
        let _ = generation;
    }
    /// Loads and threads the cartridge that the robot put in; the head stands at the load point.
    ///
    /// # Errors
    /// [`DriveError::Empty`], [`DriveError::Unloadable`], [`DriveError::Failed`].
    fn load(&mut self) -> Result<(), DriveError>;
    /// Rewinds and gives the cartridge back to the robot. What was not synchronised may be lost.
    ///
    /// # Errors
    /// [`DriveError::Empty`], [`DriveError::Failed`].
    fn unload(&mut self) -> Result<(), DriveError>;
    /// Goes to the load point. What was written and not synchronised is given up.
    ///
    /// # Errors
    /// [`DriveError::Empty`], [`DriveError::Failed`].
    fn rewind(&mut self) -> Result<(), DriveError>;
    /// Goes before an object. What was written and not synchronised is neither proven nor given up by that: a drive that
    /// puts it on the medium before it moves proves it now, any other at the next [`Self::sync`].
    ///
    /// # Errors
    /// [`DriveError::Beyond`], [`DriveError::Damaged`], ... If what was written is found to be lost, an error that says
    /// so, once, and the head stays. After that, or after a write that failed, writes and [`Self::sync`] fail until the
    /// tape was rewound, or located where the head was when all before it was proven, or before that.
    fn locate(&mut self, object: u64) -> Result<(), DriveError>;
    /// Goes behind the next tape mark; `false` if the data end before one. Of what was written, as [`Self::locate`].
    ///
    /// # Errors
    /// [`DriveError::Damaged`], ...
    fn space_file(&mut self) -> Result<bool, DriveError>;
    /// Number of the object that the head stands before. A real drive is asked.
    ///
    /// # Errors
    /// [`DriveError::Empty`], [`DriveError::Failed`].
    fn position(&mut self) -> Result<u64, DriveError>;
    /// Reads the next object.
    ///
    /// # Errors
    /// [`DriveError::BadBlock`], [`DriveError::Damaged`], [`DriveError::Length`], ...
    fn read_block(&mut self, buffer: &mut [u8]) -> Result<Read, DriveError>;
    /// Writes a block.
    ///
    /// # Errors
    /// [`DriveError::EndOfMedium`] (nothing was written), [`DriveError::Protected`], ...
    fn write_block(&mut self, block: &[u8]) -> Result<Wrote, DriveError>;
    /// Writes a tape mark, into the drive's buffer.
    ///
    /// # Errors
    /// As [`Self::write_block`].
    fn write_mark(&mut self) -> Result<Wrote, DriveError>;
    /// Makes everything behind the head unreadable; not durable before [`Self::sync`].
    ///
    /// # Errors
    /// [`DriveError::Protected`], ...
    fn erase(&mut self) -> Result<(), DriveError>;
    /// Makes everything written durable and proves it; says how that is known.
    ///
    /// # Errors
    /// [`DriveError::Lies`], [`DriveError::Failed`], ...: nothing since the last one is certain.
    fn sync(&mut self) -> Result<Proof, DriveError>;
    /// Where it stands.
    ///
    /// # Errors
    /// [`DriveError::Failed`].
    fn status(&mut self) -> Result<Status, DriveError>;
    /// Is it certain which tape is in it, and where that stands? Not after some errors, before the tape was rewound.
    fn is_sure(&self) -> bool {
        true
    }
    /// Sees that no cartridge is in it, before the robot puts one there.
    ///
    /// # Errors
    /// [`DriveError::Failed`]: there is one. [`DriveError::Busy`].
    fn vacant(&mut self) -> Result<(), DriveError> {
        Ok(())
    }
    /// What it did so far; a drive that does not count says nothing.
    fn tally(&self) -> Tally {
        Tally::default()
    }
    /// Tells places that an index knows, in place of those told before. A drive may ignore them.
    fn know(&mut self, places: &[Place]) {
        let _ = places;
    }
    /// The place where the head stands, for one that can use it again in [`Self::know`].
    fn place(&self) -> Option<Place> {
        None
    }
    /// Is there a complete file of the volume behind the head, though it cannot be reached by
    /// reading on? A real drive knows the end of its data; an image may be damaged.
    ///
    /// # Errors
    /// [`DriveError::Medium`], ...
    fn complete_behind(&mut self) -> Result<bool, DriveError> {
        Ok(false)
    }
}
