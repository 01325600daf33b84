//! What stands behind a real library: its drives and its changer.

use super::drive::st::StDrive;
use super::drive::st::mtio::Mtio;
use super::drive::{Drive, DriveNumber};
use super::robot::Robot;
use super::robot::mtx::{MtxRobot, Program};
use crate::tier::clock::SystemClock;
use std::path::PathBuf;
use std::sync::Arc;

/// Drives and a changer. The library asks once each time it is opened; nothing is open before it is used.
pub trait Hardware: Send + Sync {
    /// The drives, numbered from 1 in the order in which the changer has them.
    fn drives(&self) -> Vec<Box<dyn Drive>>;
    /// The changer.
    fn robot(&self) -> Box<dyn Robot>;
}

/// Devices of this host, as a tape URL names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Devices {
    /// The changer's SCSI generic device.
    pub changer: PathBuf,
    /// The drives' devices that do not rewind, in the order in which the changer has them.
    pub drives: Vec<PathBuf>,
}

/// Drives of the `st` driver, and a changer that `mtx` moves.
#[derive(Debug)]
pub(super) struct Linux {
    devices: Devices,
}

impl Linux {
    pub(super) fn new(devices: Devices) -> Self {
        Self { devices }
    }
}

impl Hardware for Linux {
    fn drives(&self) -> Vec<Box<dyn Drive>> {
        let numbered = (1..).zip(&self.devices.drives);
        let drive = |(number, path): (u32, &PathBuf)| {
            let (device, clock) = (Mtio::new(path.clone()), Arc::new(SystemClock::default()));
            Box::new(StDrive::new(DriveNumber(number), device, clock)) as Box<dyn Drive>
        };
        numbered.map(drive).collect()
    }

    fn robot(&self) -> Box<dyn Robot> {
        Box::new(MtxRobot::new(Program::new(self.devices.changer.clone())))
    }
}
