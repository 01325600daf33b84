//! The robot: what moves cartridges between slots and drives.

use super::drive::DriveNumber;
use super::drive::virtual_drive::{Inserted, Mouth};
use std::collections::BTreeMap;

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
}

/// Moves cartridges. Moves of one drive come one after the other; those of different drives may
/// be asked for at once.
pub trait Robot: Send + Sync {
    /// Puts a cartridge from its slot into an empty drive.
    ///
    /// # Errors
    /// [`RobotError`]; the cartridge is in its slot.
    fn fill(&self, drive: DriveNumber, cartridge: &Inserted) -> Result<(), RobotError>;
    /// Puts what an unloaded drive holds back into its slot; nothing if it is empty.
    ///
    /// # Errors
    /// [`RobotError`].
    fn empty(&self, drive: DriveNumber) -> Result<(), RobotError>;
}

/// The robot of a virtual library: puts images into the mouths of virtual drives. Its moves take
/// the time that the drives charge for them; it does as many at once as there are drives.
pub struct VirtualRobot {
    mouths: BTreeMap<DriveNumber, Mouth>,
}

impl VirtualRobot {
    /// A robot that reaches these drives.
    #[must_use]
    pub fn new(mouths: BTreeMap<DriveNumber, Mouth>) -> Self {
        Self { mouths }
    }

    fn mouth(&self, drive: DriveNumber) -> Result<&Mouth, RobotError> {
        self.mouths.get(&drive).ok_or(RobotError::NoDrive(drive))
    }
}

impl Robot for VirtualRobot {
    fn fill(&self, drive: DriveNumber, cartridge: &Inserted) -> Result<(), RobotError> {
        let mut mouth = self.mouth(drive)?.lock();
        if mouth.is_some() {
            return Err(RobotError::Occupied(drive));
        }
        if !cartridge.image.exists() {
            return Err(RobotError::Gone);
        }
        *mouth = Some(cartridge.clone());
        Ok(())
    }

    fn empty(&self, drive: DriveNumber) -> Result<(), RobotError> {
        *self.mouth(drive)?.lock() = None;
        Ok(())
    }
}
