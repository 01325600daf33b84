//! What can go wrong in a library.

use super::choose::NoRoom;
use super::mounts::MountError;
use crate::id::TierId;
use crate::tier::tape::drive::{DriveError, DriveNumber};
use crate::tier::tape::label::Barcode;
use crate::tier::tape::robot::RobotError;
use crate::tier::tape::state::StateError;
use crate::tier::tape::volume::VolumeError;
use cairn_mover::Crc32c;
use std::io;

/// What can go wrong in a library.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// Another process has it.
    #[error("another process uses the library")]
    InUse,
    /// This process has the pool open already.
    #[error("the pool is open already: two tiers name it")]
    PoolInUse,
    /// Another pool of the same library was opened with other options.
    #[error(
        "another pool of this library was opened with {}: give all its pools the same options",
        if open.is_empty() { "no options but pool=" } else { open }
    )]
    Otherwise {
        /// Its options.
        open: String,
    },
    /// Its state cannot be had or kept.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its directory failed.
    #[error("{step}: {source}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A cartridge is not there.
    #[error("cartridge {barcode} is not in the library: put it back")]
    Absent {
        /// Which.
        barcode: Barcode,
    },
    /// A cartridge was taken out.
    #[error("cartridge {barcode} is away, exported as {path}: import it")]
    Exported {
        /// Which.
        barcode: Barcode,
        /// Where its image lay.
        path: String,
    },
    /// A cartridge is another pool's.
    #[error("cartridge {barcode} is of another pool of the library, tier {owner}: name that one")]
    OtherPool {
        /// Which.
        barcode: Barcode,
        /// Whose it is.
        owner: TierId,
    },
    /// A cartridge is no pool's yet.
    #[error(
        "cartridge {barcode} is blank, and no pool's: it has no label before a pool writes the first file to it"
    )]
    Blank {
        /// Which.
        barcode: Barcode,
    },
    /// There is no such drive.
    #[error("the library has no {0}")]
    NoSuchDrive(DriveNumber),
    /// A cartridge is not labelled, exported or taken in.
    #[error("{what}: {why}")]
    Declined {
        /// Which, or its image.
        what: String,
        /// Why, and the way out.
        why: String,
    },
    /// A cartridge cannot be loaded.
    #[error("cartridge {barcode}: {source}")]
    Load {
        /// Which.
        barcode: Barcode,
        /// Why.
        source: DriveError,
    },
    /// The robot failed.
    #[error("cartridge {barcode}: {source}")]
    Robot {
        /// Which.
        barcode: Barcode,
        /// Why.
        source: RobotError,
    },
    /// Something on a cartridge.
    #[error("cartridge {barcode}: {source}")]
    Volume {
        /// Which.
        barcode: Barcode,
        /// Why.
        source: VolumeError,
    },
    /// A cartridge does not give bytes of a file, though it was loaded anew.
    #[error("cartridge {barcode}, read twice: {source}")]
    Unreadable {
        /// Which.
        barcode: Barcode,
        /// Why.
        source: VolumeError,
    },
    /// No drive works.
    #[error("no drive is left: {0}")]
    NoDrive(String),
    /// No cartridge takes the file.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The process stops: nothing more is written.
    #[error("Cairn stops: nothing more is written")]
    Stopping,
    /// It was not taken up before whoever writes it said that nobody wants it.
    #[error("nobody wants it any more: it was not written")]
    Unwanted,
    /// The name is taken.
    #[error("the name is taken")]
    Taken,
    /// Nobody knows the name, and every cartridge was seen.
    #[error("no cartridge has it")]
    Missing,
    /// Nobody knows the name, and something that may hold it cannot be seen.
    #[error("not found, and it may be where nothing can be seen now: {0}")]
    Unseen(String),
    /// It was moved or deleted while its cartridge was waited for.
    #[error("it is not any more where it was: look again")]
    Elsewhere,
    /// A cartridge with files that are not dead cannot be freed.
    #[error("cartridge {barcode} holds {files} files that are not dead: repack it first")]
    Alive {
        /// Which.
        barcode: Barcode,
        /// How many.
        files: usize,
    },
    /// What the front area gave back is not what was put there, or the medium lies.
    #[error("cartridge {barcode}: wrote {expected}, found {found}")]
    Corrupt {
        /// Which.
        barcode: Barcode,
        /// Sum of what was written.
        expected: Crc32c,
        /// Sum of what was found.
        found: Crc32c,
    },
}

impl LibraryError {
    pub(super) fn io(step: &'static str, source: io::Error) -> Self {
        Self::Io { step, source }
    }

    pub(super) fn volume(barcode: Barcode, source: VolumeError) -> Self {
        match source {
            VolumeError::Sum { expected, found }
            | VolumeError::Drive {
                source: DriveError::Lies { expected, found },
                ..
            } => Self::Corrupt {
                barcode,
                expected,
                found,
            },
            source => Self::Volume { barcode, source },
        }
    }

    /// A drive lost its place over several files: the error of one of them.
    pub(super) fn lost(barcode: Barcode, error: &VolumeError) -> Self {
        let source = match error {
            VolumeError::Drive {
                step,
                source:
                    DriveError::Lost {
                        drive,
                        step: to,
                        why,
                    },
            } => {
                let (drive, to, why) = (*drive, *to, why.clone());
                let source = DriveError::Lost {
                    drive,
                    step: to,
                    why,
                };
                VolumeError::Drive { step, source }
            }
            other => {
                let source = io::Error::other(other.to_string());
                return Self::io("writing files together", source);
            }
        };
        Self::Volume { barcode, source }
    }

    pub(super) fn mount(barcode: Barcode, error: MountError) -> Self {
        match error {
            MountError::NoDrive(why) => Self::NoDrive(why),
            MountError::Robot(RobotError::Gone) => Self::Absent { barcode },
            MountError::Robot(source) => Self::Robot { barcode, source },
            MountError::Load(source) | MountError::Before(source) => Self::Load { barcode, source },
        }
    }
}
