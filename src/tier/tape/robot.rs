//! The robot: what moves cartridges between slots and drives.

pub mod mtx;

use super::drive::DriveNumber;
use super::drive::virtual_drive::{Inserted, Mouth};
use super::label::Barcode;
use super::timing::Geometry;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A cartridge as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Its sticker.
    pub barcode: Barcode,
    /// How long and how full it can be.
    pub geometry: Geometry,
    /// Its tab is said to say: not to be written.
    pub protected: bool,
}

/// Why the robot could not move a cartridge.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RobotError {
    /// The library has no such drive.
    #[error("the library has no {0}")]
    NoDrive(DriveNumber),
    /// There is a cartridge in the drive already.
    #[error("{0} holds a cartridge already")]
    Occupied(DriveNumber),
    /// Its slot is empty: somebody took the cartridge away.
    #[error("its slot is empty")]
    Gone,
    /// It is in a drive from which nobody took it.
    #[error(
        "it is in {0}, from which it could not be taken: take it out by hand, or with `mt offline` and `mtx unload`"
    )]
    Stuck(DriveNumber),
    /// Another cartridge is in the drive than was left there.
    #[error("{drive} holds {found:?}, and should hold {wanted}")]
    Another {
        /// Which.
        drive: DriveNumber,
        /// What was left there.
        wanted: Barcode,
        /// What its sticker says.
        found: String,
    },
    /// The changer declined, or could not be asked.
    #[error("the changer failed ({step}): {why}")]
    Failed {
        /// What it was told.
        step: String,
        /// What it said.
        why: String,
    },
}

/// A cartridge that a robot sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What its sticker says; empty if nobody can read that.
    pub sticker: String,
    /// The drive that it is in.
    pub drive: Option<DriveNumber>,
    /// It stands where people put cartridges in and take them out.
    pub port: bool,
    /// Number of its slot, or of the one that it came from, where that is known.
    pub slot: Option<u32>,
}

impl Standing {
    /// Its sticker as a barcode, if it is one of a cartridge for data.
    #[must_use]
    pub fn barcode(&self) -> Option<Barcode> {
        if self.is_for_cleaning() {
            return None;
        }
        self.sticker.parse().ok()
    }

    /// Is it a cleaning cartridge?
    #[must_use]
    pub fn is_for_cleaning(&self) -> bool {
        self.sticker.starts_with("CLN")
    }
}

/// Moves cartridges. Moves of one drive come one after the other; those of different drives may
/// be asked for at once.
pub trait Robot: Send + Sync {
    /// Puts a cartridge from its slot into an empty drive.
    ///
    /// # Errors
    /// [`RobotError`]; the cartridge is in its slot.
    fn fill(&self, drive: DriveNumber, cartridge: &Wanted) -> Result<(), RobotError>;
    /// Puts what an unloaded drive holds back into its slot; nothing if it is empty.
    ///
    /// # Errors
    /// [`RobotError`]; it may be in the drive still.
    fn empty(&self, drive: DriveNumber) -> Result<(), RobotError>;
    /// Puts a cartridge that an unloaded drive holds into it anew, so that it can be loaded again. Nothing where it lies in the
    /// drive's mouth as it was.
    ///
    /// # Errors
    /// [`RobotError`]; it may be in its slot. [`RobotError::Another`]: nothing was moved.
    fn reseat(&self, drive: DriveNumber, cartridge: Barcode) -> Result<(), RobotError> {
        let _ = (drive, cartridge);
        Ok(())
    }
    /// Is a cartridge where the robot can reach it, as far as it saw a short while ago?
    ///
    /// # Errors
    /// It cannot be told.
    fn has(&self, barcode: Barcode) -> Result<bool, RobotError>;
    /// All that it sees now; nothing where cartridges are images.
    ///
    /// # Errors
    /// [`RobotError::Failed`].
    fn inventory(&self) -> Result<Vec<Standing>, RobotError> {
        Ok(Vec::new())
    }
    /// Moves a cartridge from its slot to where people take it out; where it is then, if there is such a place.
    ///
    /// # Errors
    /// [`RobotError`]; it is in its slot.
    fn put_out(&self, barcode: Barcode) -> Result<Option<String>, RobotError> {
        let _ = barcode;
        Ok(None)
    }
    /// Moves a cartridge from where people put it into a slot, if it is there and one is free.
    ///
    /// # Errors
    /// [`RobotError`]; it is where it was.
    fn take_in(&self, barcode: Barcode) -> Result<(), RobotError> {
        let _ = barcode;
        Ok(())
    }
}

/// The robot of a virtual library: puts images into the mouths of virtual drives. Its moves take
/// the time that the drives charge for them; it does as many at once as there are drives.
pub struct VirtualRobot {
    mouths: BTreeMap<DriveNumber, Mouth>,
    /// Where the images are.
    cartridges: PathBuf,
}

impl VirtualRobot {
    /// A robot that reaches these drives, and the images in a directory.
    #[must_use]
    pub fn new(mouths: BTreeMap<DriveNumber, Mouth>, cartridges: PathBuf) -> Self {
        Self { mouths, cartridges }
    }

    fn mouth(&self, drive: DriveNumber) -> Result<&Mouth, RobotError> {
        self.mouths.get(&drive).ok_or(RobotError::NoDrive(drive))
    }

    fn image(&self, barcode: Barcode) -> PathBuf {
        self.cartridges.join(format!("{barcode}.tap"))
    }
}

impl Robot for VirtualRobot {
    fn fill(&self, drive: DriveNumber, cartridge: &Wanted) -> Result<(), RobotError> {
        let mut mouth = self.mouth(drive)?.lock();
        if mouth.is_some() {
            return Err(RobotError::Occupied(drive));
        }
        let image = self.image(cartridge.barcode);
        if !image.exists() {
            return Err(RobotError::Gone);
        }
        *mouth = Some(Inserted {
            barcode: cartridge.barcode,
            image,
            geometry: cartridge.geometry,
            protected: cartridge.protected,
        });
        Ok(())
    }

    fn empty(&self, drive: DriveNumber) -> Result<(), RobotError> {
        *self.mouth(drive)?.lock() = None;
        Ok(())
    }

    fn has(&self, barcode: Barcode) -> Result<bool, RobotError> {
        let there = self.image(barcode).try_exists();
        there.map_err(|error| RobotError::Failed {
            step: format!("looking for {barcode}"),
            why: error.to_string(),
        })
    }
}
