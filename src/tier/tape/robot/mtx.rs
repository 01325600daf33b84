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
use parking_lot::{Mutex, MutexGuard};
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
    /// Held while the changer works: a move takes its time, and is not waited for by who only asks.
    works: Mutex<()>,
    known: Mutex<Known>,
}

/// What is known of a changer.
#[derive(Default)]
struct Known {
    /// What was seen last, and when.
    seen: Option<(Instant, Elements)>,
    /// Why it could not be asked last, and when.
    failed: Option<(Instant, RobotError)>,
}

impl<M: Mtx> MtxRobot<M> {
    /// The robot of a changer.
    #[must_use]
    pub fn new(mtx: M) -> Self {
        Self {
            mtx,
            works: Mutex::default(),
            known: Mutex::default(),
        }
    }

    /// Asks the changer, for one who holds it.
    fn look(&self, _works: &MutexGuard<'_, ()>) -> Result<Elements, RobotError> {
        let asked = self.mtx.run(&["status".to_owned()]).and_then(|text| {
            let read: Result<Elements, String> = text.parse();
            read.map_err(|why| RobotError::Failed {
                step: "status".to_owned(),
                why,
            })
        });
        let (mut known, now) = (self.known.lock(), Instant::now());
        match &asked {
            Ok(elements) => {
                *known = Known {
                    seen: Some((now, elements.clone())),
                    failed: None,
                }
            }
            Err(error) => known.failed = Some((now, error.clone())),
        }
        asked
    }

    /// Tells it to move something; what is known of it is changed by `moved`, or must be asked again.
    fn told(
        &self,
        (verb, from, to): (&str, u32, u32),
        moved: impl FnOnce(&mut Elements),
    ) -> Result<(), RobotError> {
        let arguments = [verb.to_owned(), from.to_string(), to.to_string()];
        let done = self.mtx.run(&arguments);
        let mut known = self.known.lock();
        match (&done, &mut known.seen) {
            (Ok(_), Some((_, elements))) => moved(elements),
            _ => known.seen = None,
        }
        done.map(drop)
    }

    /// Puts what a drive holds into its slot, and says into which.
    fn put_away(
        &self,
        drive: DriveNumber,
        only: Option<Barcode>,
        works: &MutexGuard<'_, ()>,
    ) -> Result<Option<u32>, RobotError> {
        let elements = self.look(works)?;
        let from = index(drive);
        let bay = elements.bay(from);
        let bay = bay.ok_or(RobotError::NoDrive(drive))?;
        if !bay.full {
            return Ok(None);
        }
        // A sticker that cannot be read now is taken for it: the label is read before anything is written.
        if let Some(wanted) = only
            && !bay.sticker.is_empty()
            && bay.sticker != wanted.to_string()
        {
            let found = bay.sticker.clone();
            return Err(RobotError::Another {
                drive,
                wanted,
                found,
            });
        }
        let free = |home: &u32| elements.is_free(*home) && !elements.is_port(*home);
        let to = bay.home.filter(free);
        let to = to.or_else(|| elements.free(false));
        let to = to.ok_or_else(|| RobotError::Failed {
            step: format!("unload from drive {from}"),
            why: "no storage slot is free".to_owned(),
        })?;
        self.told(("unload", to, from), |elements| elements.unload(to, from))?;
        Ok(Some(to))
    }

    /// What is known of a cartridge without asking; `None`: it must be asked.
    fn recall(&self, sticker: &str, works: bool) -> Option<Result<bool, RobotError>> {
        let known = self.known.lock();
        if let Some((when, elements)) = &known.seen {
            let there = elements.has(sticker);
            let believed = if there { BELIEVED } else { DOUBTED };
            if when.elapsed() < believed || (there && works) {
                return Some(Ok(there));
            }
        }
        // Many ask at once, each for his own; one that does not answer takes its time.
        let (when, error) = known.failed.as_ref()?;
        (when.elapsed() < DOUBTED).then(|| Err(error.clone()))
    }
}

/// The number of a drive as `mtx` counts.
fn index(drive: DriveNumber) -> u32 {
    drive.0.saturating_sub(1)
}

impl<M: Mtx> Robot for MtxRobot<M> {
    fn fill(&self, drive: DriveNumber, cartridge: &Wanted) -> Result<(), RobotError> {
        let works = self.works.lock();
        let elements = self.look(&works)?;
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
        let to = index(drive);
        self.told(("load", from, to), |elements| elements.load(from, to))
    }

    fn empty(&self, drive: DriveNumber) -> Result<(), RobotError> {
        self.put_away(drive, None, &self.works.lock()).map(drop)
    }

    fn reseat(&self, drive: DriveNumber, cartridge: Barcode) -> Result<(), RobotError> {
        let works = self.works.lock();
        let from = self.put_away(drive, Some(cartridge), &works)?;
        let from = from.ok_or(RobotError::Gone)?;
        let to = index(drive);
        self.told(("load", from, to), |elements| elements.load(from, to))
    }

    fn has(&self, barcode: Barcode) -> Result<bool, RobotError> {
        let sticker = barcode.to_string();
        let idle = self.works.try_lock();
        if let Some(known) = self.recall(&sticker, idle.is_none()) {
            return known;
        }
        let works = idle.unwrap_or_else(|| self.works.lock());
        // Another one may have asked meanwhile.
        match self.recall(&sticker, false) {
            Some(known) => known,
            None => Ok(self.look(&works)?.has(&sticker)),
        }
    }

    fn inventory(&self) -> Result<Vec<Standing>, RobotError> {
        let elements = self.look(&self.works.lock())?;
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
        let works = self.works.lock();
        let elements = self.look(&works)?;
        let from = elements.holding(&barcode.to_string());
        let from = from.ok_or(RobotError::Gone)?;
        let to = match (elements.is_port(from), elements.free(true)) {
            (true, _) => from,
            (false, Some(to)) => to,
            (false, None) => return Ok(None),
        };
        if to != from {
            self.told(("transfer", from, to), |elements| elements.shift(from, to))?;
        }
        Ok(Some(format!("import/export slot {to}")))
    }

    fn take_in(&self, barcode: Barcode) -> Result<(), RobotError> {
        let works = self.works.lock();
        let elements = self.look(&works)?;
        let from = elements.holding(&barcode.to_string());
        let from = from.filter(|from| elements.is_port(*from));
        let (Some(from), Some(to)) = (from, elements.free(false)) else {
            return Ok(());
        };
        self.told(("transfer", from, to), |elements| elements.shift(from, to))
    }
}

#[cfg(test)]
mod tests;
