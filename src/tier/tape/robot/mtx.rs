//! A real changer, through the `mtx` program.
//!
//! Drives are numbered here from 1, as in the library, and in `mtx` from 0: `drives=` names them in the order
//! of the changer's data transfer elements.
//!
//! Invariants kept here:
//! - What stands where is asked of the changer before each move: people move cartridges, too.
//! - One program works on the changer at a time, as far as it is this process's.
//! - A cartridge goes back to where it came from, as the changer remembers it, if that slot is free; else to the
//!   first free one. Nothing is put into an import/export slot but by [`Robot::put_out`].

mod program;
mod status;

pub use program::Program;
pub use status::{Bay, Elements, Slot};

use super::{Robot, RobotError, Standing, Wanted};
use crate::tier::tape::drive::DriveNumber;
use crate::tier::tape::label::Barcode;
use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// How long it is believed that a cartridge is there.
const BELIEVED: Duration = Duration::from_secs(60);
/// How long it is believed that one is not.
const DOUBTED: Duration = Duration::from_secs(5);

/// Runs `mtx`.
pub trait Mtx: Send + Sync {
    /// Runs it with these arguments behind those that name the changer; what it printed.
    ///
    /// # Errors
    /// [`RobotError::Failed`] with what it said.
    fn run(&self, arguments: &[String]) -> Result<String, RobotError>;
}

/// See the module.
pub struct MtxRobot<M> {
    mtx: M,
    /// What was seen last, and when. Held while the changer works.
    seen: Mutex<Option<(Instant, Elements)>>,
    /// Why it could not be asked last, and when.
    failed: Mutex<Option<(Instant, RobotError)>>,
}

impl<M: Mtx> MtxRobot<M> {
    /// The robot of a changer.
    #[must_use]
    pub fn new(mtx: M) -> Self {
        Self {
            mtx,
            seen: Mutex::new(None),
            failed: Mutex::new(None),
        }
    }

    fn look<'s>(
        &self,
        seen: &'s mut Option<(Instant, Elements)>,
    ) -> Result<&'s mut Elements, RobotError> {
        let text = self.mtx.run(&["status".to_owned()])?;
        let elements = text.parse().map_err(|why| RobotError::Failed {
            step: "status".to_owned(),
            why,
        })?;
        let (_, elements) = seen.insert((Instant::now(), elements));
        Ok(elements)
    }

    fn told(&self, verb: &str, from: u32, to: u32) -> Result<(), RobotError> {
        let arguments = [verb.to_owned(), from.to_string(), to.to_string()];
        self.mtx.run(&arguments).map(drop)
    }
}

/// The number of a drive as `mtx` counts.
fn index(drive: DriveNumber) -> u32 {
    drive.0.saturating_sub(1)
}

impl<M: Mtx> Robot for MtxRobot<M> {
    fn fill(&self, drive: DriveNumber, cartridge: &Wanted) -> Result<(), RobotError> {
        let mut seen = self.seen.lock();
        let elements = self.look(&mut seen)?;
        let sticker = cartridge.barcode.to_string();
        let bay = elements.bay(index(drive));
        if bay.ok_or(RobotError::NoDrive(drive))?.full {
            return Err(RobotError::Occupied(drive));
        }
        if let Some(other) = elements
            .bays
            .iter()
            .find(|b| b.full && b.sticker == sticker)
        {
            return Err(RobotError::Stuck(DriveNumber(other.number + 1)));
        }
        let from = elements.holding(&sticker).ok_or(RobotError::Gone)?;
        let moved = self.told("load", from, index(drive));
        match moved {
            Ok(()) => elements.load(from, index(drive)),
            // Where it is now is asked again.
            Err(_) => *seen = None,
        }
        moved
    }

    fn empty(&self, drive: DriveNumber) -> Result<(), RobotError> {
        let mut seen = self.seen.lock();
        let elements = self.look(&mut seen)?;
        let bay = elements.bay(index(drive));
        let bay = bay.ok_or(RobotError::NoDrive(drive))?;
        if !bay.full {
            return Ok(());
        }
        let to = bay.home.filter(|home| elements.is_free(*home));
        let to = to.or_else(|| elements.free(false));
        let to = to.ok_or_else(|| RobotError::Failed {
            step: format!("unload from drive {}", index(drive)),
            why: "no storage slot is free".to_owned(),
        })?;
        let moved = self.told("unload", to, index(drive));
        match moved {
            Ok(()) => elements.unload(to, index(drive)),
            Err(_) => *seen = None,
        }
        moved
    }

    fn has(&self, barcode: Barcode) -> Result<bool, RobotError> {
        let sticker = barcode.to_string();
        let mut seen = self.seen.lock();
        if let Some((when, elements)) = &*seen {
            let there = elements.has(&sticker);
            let believed = if there { BELIEVED } else { DOUBTED };
            if when.elapsed() < believed {
                return Ok(there);
            }
        }
        // Many ask at once for each their own; one that does not answer takes its time.
        if let Some((when, error)) = &*self.failed.lock()
            && when.elapsed() < DOUBTED
        {
            return Err(error.clone());
        }
        let there = self.look(&mut seen).map(|elements| elements.has(&sticker));
        let failed = there.as_ref().err().cloned();
        *self.failed.lock() = failed.map(|error| (Instant::now(), error));
        there
    }

    fn inventory(&self) -> Result<Vec<Standing>, RobotError> {
        let mut seen = self.seen.lock();
        let elements = self.look(&mut seen)?;
        let bays = elements.bays.iter().filter(|bay| bay.full);
        let bays = bays.map(|bay| Standing {
            sticker: bay.sticker.clone(),
            drive: Some(DriveNumber(bay.number + 1)),
            port: false,
            slot: bay.home,
        });
        let slots = elements.slots.iter().filter(|slot| slot.full);
        let slots = slots.map(|slot| Standing {
            sticker: slot.sticker.clone(),
            drive: None,
            port: slot.port,
            slot: Some(slot.number),
        });
        Ok(bays.chain(slots).collect())
    }

    fn put_out(&self, barcode: Barcode) -> Result<Option<String>, RobotError> {
        let mut seen = self.seen.lock();
        let elements = self.look(&mut seen)?;
        let from = elements.holding(&barcode.to_string());
        let from = from.ok_or(RobotError::Gone)?;
        if elements.is_port(from) {
            return Ok(Some(format!("import/export slot {from}")));
        }
        let Some(to) = elements.free(true) else {
            return Ok(None);
        };
        *seen = None;
        self.told("transfer", from, to)?;
        Ok(Some(format!("import/export slot {to}")))
    }

    fn take_in(&self, barcode: Barcode) -> Result<(), RobotError> {
        let mut seen = self.seen.lock();
        let elements = self.look(&mut seen)?;
        let from = elements.holding(&barcode.to_string());
        let (Some(from), Some(to)) = (from, elements.free(false)) else {
            return Ok(());
        };
        if !elements.is_port(from) {
            return Ok(());
        }
        *seen = None;
        self.told("transfer", from, to)
    }
}

#[cfg(test)]
mod tests;
