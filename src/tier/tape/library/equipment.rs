//! What a library is equipped with: images and virtual drives, or real drives and a changer.

use super::super::drive::virtual_drive::VirtualDrive;
use super::super::drive::{Drive, DriveNumber};
use super::super::faults::TapeFaults;
use super::super::options::TapeOptions;
use super::super::robot::{Robot, VirtualRobot};
use super::super::state::State;
use super::{CARTRIDGES, Library, LibraryError, Mounts, make_dir, media};
use crate::tier::tape::hardware::{Hardware, Linux};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// See the module.
#[derive(Clone)]
pub enum Equipment {
    /// Cartridges are images; drives and cartridges fail when told to.
    Virtual(TapeFaults),
    /// They are real.
    Real(Arc<dyn Hardware>),
}

impl Equipment {
    /// As a tape URL says.
    #[must_use]
    pub fn of(options: &TapeOptions) -> Self {
        match &options.real {
            Some(real) => Self::Real(Arc::new(Linux::new(real.clone()))),
            None => Self::Virtual(TapeFaults::default()),
        }
    }

    /// Are cartridges no images?
    #[must_use]
    pub fn is_real(&self) -> bool {
        matches!(self, Self::Real(_))
    }

    /// Sees that the library at `root` is of this kind, and makes the place for images where there are to be some.
    pub(super) fn settle_in(&self, root: &Path, options: &TapeOptions) -> Result<(), LibraryError> {
        let images = root.join(CARTRIDGES);
        let there = images.try_exists();
        let there = there.map_err(|e| LibraryError::io("looking for its cartridges", e))?;
        let declined = |why: &str| Err(media::declined(root.display(), why));
        match (self, there) {
            (Self::Real(_), true) => declined(
                "it has images of cartridges (cartridges/): it is a virtual library, and has no changer",
            ),
            (Self::Real(_), false) if options.pool.is_some() => {
                declined("a real library has no pools in this version: leave pool= out")
            }
            (Self::Real(_), false) => Ok(()),
            (Self::Virtual(_), false) if Library::is_at(root) => declined(
                "library.json is there, cartridges/ is not: name the changer and drives of a real library \
                 (changer=, drives=), or put the images back",
            ),
            (Self::Virtual(_), _) => {
                make_dir(&images).map_err(|e| LibraryError::io("making its directories", e))
            }
        }
    }

    /// The drives and their robot; those that are retired are not used.
    pub(super) fn mounts(&self, root: &Path, state: &State, options: &TapeOptions) -> Mounts {
        let (drives, robot) = match self {
            Self::Virtual(faults) => virtual_ones(root, state, options, faults),
            Self::Real(hardware) => (hardware.drives(), hardware.robot()),
        };
        let mounts = Mounts::new(drives, robot);
        for drive in state.drives.iter().filter(|d| d.retired.is_some()) {
            mounts.retire(DriveNumber(drive.number), drive.retired.clone());
        }
        mounts
    }
}

impl From<TapeFaults> for Equipment {
    fn from(faults: TapeFaults) -> Self {
        Self::Virtual(faults)
    }
}

/// The drives that the options ask for, and their robot.
fn virtual_ones(
    root: &Path,
    state: &State,
    options: &TapeOptions,
    faults: &TapeFaults,
) -> (Vec<Box<dyn Drive>>, Box<dyn Robot>) {
    let mut drives: Vec<Box<dyn Drive>> = Vec::new();
    let mut mouths = BTreeMap::new();
    for number in 1..=options.drives {
        let number = DriveNumber(number);
        let clock = options.speed.clock();
        let drive = VirtualDrive::new(number, clock, state.robot_move, faults.clone());
        mouths.insert(number, drive.mouth());
        drives.push(Box::new(drive));
    }
    (
        drives,
        Box::new(VirtualRobot::new(mouths, root.join(CARTRIDGES))),
    )
}
