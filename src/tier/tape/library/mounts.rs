//! The drives of a library and what is in them: who asks for a cartridge gets the drive that holds
//! it, alone, for as long as he keeps it.
//!
//! Invariants kept here:
//! - A cartridge is in one drive at most; a drive has one user at a time. A drive that failed is not
//!   used again.
//! - Those who wait are served in the order in which they came ([`line`]); nobody waits while he
//!   holds a drive, so nobody waits for ever.
//! - A *pinned* cartridge stays in its drive: others use it there, one after the other, and it is not
//!   put away for one who wants another cartridge. Whoever pins it must let go of it when
//!   [`Mounts::stuck`] says that somebody gets nothing; he does not wait for another drive meanwhile.

mod line;

use crate::tier::tape::drive::{Blame, Drive, DriveError, DriveNumber, Tally};
use crate::tier::tape::label::Barcode;
use crate::tier::tape::robot::{Robot, RobotError, Wanted};
use crate::tier::tape::volume::{Next, Window};
use line::{Line, Spot};
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

/// Why a cartridge could not be had in a drive.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// Every drive of the library failed.
    #[error("no drive is left: {0}")]
    NoDrive(String),
    /// The robot found no cartridge, or could not move it.
    #[error(transparent)]
    Robot(#[from] RobotError),
    /// It is in a drive and cannot be loaded.
    #[error(transparent)]
    Load(DriveError),
    /// What was in the drive before does not leave it.
    #[error(transparent)]
    Before(DriveError),
}

/// What was found on a cartridge since it was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Version of its layout, by its label.
    pub layout: u32,
    /// Where the next file goes.
    pub next: Next,
    /// Why nothing must be written.
    pub damage: Option<String>,
}

struct Bay {
    number: DriveNumber,
    /// `None` while somebody uses it.
    drive: Option<Box<dyn Drive>>,
    /// Also while it is on its way there.
    holds: Option<Barcode>,
    /// It is in the drive and not loaded.
    cold: Option<Cold>,
    /// What is being taken out for it.
    leaving: Option<Barcode>,
    seen: Option<Seen>,
    failed: Option<String>,
    /// Grows with each use: the longest unused one is emptied first.
    used: u64,
    /// When it was last used.
    at: Instant,
    /// Who wants its cartridge to stay in it.
    pins: BTreeSet<Pin>,
    /// Of the cartridge that it holds.
    window: Window,
    tally: Tally,
}

/// Names one who wants a cartridge to stay where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin(u64);

/// How a cartridge came to be in a drive that has not loaded it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cold {
    /// It was there before.
    Found,
    /// It was given back, and could not be put away.
    Stuck,
}

/// Is a cartridge in the drive that was taken for it?
enum There {
    Loaded,
    Cold(Cold),
    Not,
}

#[derive(Default)]
struct Floor {
    bays: Vec<Bay>,
    line: Line,
    pins: u64,
}

/// A drive as it stands, for status and for choosing a cartridge.
#[derive(Debug, Clone, PartialEq)]
pub struct BayStatus {
    /// Which.
    pub number: DriveNumber,
    /// What is in it.
    pub holds: Option<Barcode>,
    /// Somebody uses it.
    pub busy: bool,
    /// Why it is not used any more.
    pub failed: Option<String>,
    /// What it did, as of its last use.
    pub tally: Tally,
}

/// All drives of a library, and its robot.
pub struct Mounts {
    floor: Mutex<Floor>,
    freed: Condvar,
    robot: Box<dyn Robot>,
    /// Drives that failed, and with what in them, until somebody takes note.
    failures: Mutex<Vec<Failure>>,
}

/// A drive that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub drive: DriveNumber,
    /// What was in it.
    pub cartridge: Option<Barcode>,
    /// What it was doing, and why.
    pub step: &'static str,
    /// The same, for people.
    pub why: String,
}

/// A drive with a cartridge in it, for one user; given back when dropped.
pub struct Mounted<'m> {
    mounts: &'m Mounts,
    bay: usize,
    drive: Option<Box<dyn Drive>>,
    /// What was found on the cartridge since it was loaded; `None`: nobody looked.
    pub seen: Option<Seen>,
    /// Blocks of the cartridge that were just read.
    pub window: Window,
}

impl Floor {
    fn spots(&self) -> Vec<Spot> {
        let spot = |bay: &Bay| Spot {
            works: bay.failed.is_none(),
            idle: bay.drive.is_some(),
            pinned: !bay.pins.is_empty(),
            holds: bay.holds,
            leaving: bay.leaving,
            used: bay.used,
        };
        self.bays.iter().map(spot).collect()
    }
}

impl Mounts {
    /// Empty drives.
    #[must_use]
    pub fn new(drives: Vec<Box<dyn Drive>>, robot: Box<dyn Robot>) -> Self {
        let bay = |drive: Box<dyn Drive>| Bay {
            number: drive.number(),
            tally: drive.tally(),
            drive: Some(drive),
            holds: None,
            cold: None,
            leaving: None,
            seen: None,
            failed: None,
            used: 0,
            at: Instant::now(),
            pins: BTreeSet::new(),
            window: Window::default(),
        };
        let floor = Floor {
            bays: drives.into_iter().map(bay).collect(),
            ..Floor::default()
        };
        Self {
            floor: Mutex::new(floor),
            freed: Condvar::new(),
            robot,
            failures: Mutex::default(),
        }
    }

    /// What moves cartridges.
    pub fn robot(&self) -> &dyn Robot {
        &*self.robot
    }

    /// A cartridge is in a drive, into which nobody put it here: who wants it has it loaded there.
    /// `false`: it is not to be had there.
    pub fn found(&self, drive: DriveNumber, barcode: Barcode) -> bool {
        let mut floor = self.floor.lock();
        let elsewhere = |bay: &Bay| bay.number != drive && bay.holds == Some(barcode);
        if floor.bays.iter().any(elsewhere) {
            return true;
        }
        let free =
            |bay: &&mut Bay| bay.number == drive && bay.holds.is_none() && bay.failed.is_none();
        let Some(bay) = floor.bays.iter_mut().find(free) else {
            return false;
        };
        (bay.holds, bay.cold) = (Some(barcode), Some(Cold::Found));
        true
    }

    /// The drives that failed since this was last asked.
    #[must_use]
    pub fn failures(&self) -> Vec<Failure> {
        std::mem::take(&mut self.failures.lock())
    }

    /// A drive is not used any more, for this reason, once its user is through with it; or it is again.
    pub fn retire(&self, drive: DriveNumber, why: Option<String>) {
        let mut floor = self.floor.lock();
        let Some(at) = floor.bays.iter().position(|b| b.number == drive) else {
            return;
        };
        let held = floor.bays.get_mut(at).and_then(|bay| {
            bay.failed = why;
            bay.holds.filter(|_| bay.failed.is_some())
        });
        let idle = held.and_then(|held| self.take(&mut floor, at, held));
        drop(floor);
        if let Some((mounted, _)) = idle {
            mounted.vacate();
        }
        self.freed.notify_all();
    }

    /// Takes a cartridge out of the drive that it is in, if any, when its user is through with it.
    pub fn evict(&self, barcode: Barcode) {
        let mut floor = self.floor.lock();
        loop {
            let Some(bay) = floor.bays.iter().position(|b| b.holds == Some(barcode)) else {
                return;
            };
            if let Some((mounted, _)) = self.take(&mut floor, bay, barcode) {
                drop(floor);
                mounted.vacate();
                return;
            }
            self.freed.wait(&mut floor);
        }
    }

    /// All drives, as they stand.
    #[must_use]
    pub fn status(&self) -> Vec<BayStatus> {
        let floor = self.floor.lock();
        let status = |bay: &Bay| BayStatus {
            number: bay.number,
            holds: bay.holds,
            busy: bay.drive.is_none(),
            failed: bay.failed.clone(),
            tally: bay.tally,
        };
        floor.bays.iter().map(status).collect()
    }

    /// How many wait for a drive.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.floor.lock().line.len()
    }

    /// How long the first has waited who gets no drive because all that work are pinned.
    #[must_use]
    pub fn stuck(&self) -> Option<Duration> {
        let floor = self.floor.lock();
        let since = floor.line.stuck_since(&floor.spots());
        since.map(|since| since.elapsed())
    }

    /// Does the pin hold? Not any more if the drive failed, or the cartridge was taken out of it by one
    /// who had it for himself.
    #[must_use]
    pub fn is_pinned(&self, pin: Pin) -> bool {
        let floor = self.floor.lock();
        floor.bays.iter().any(|bay| bay.pins.contains(&pin))
    }

    /// How long nobody has used the drive with that pin; nothing while somebody does.
    #[must_use]
    pub fn unused(&self, pin: Pin) -> Duration {
        let floor = self.floor.lock();
        let bay = floor.bays.iter().find(|bay| bay.pins.contains(&pin));
        bay.filter(|bay| bay.drive.is_some())
            .map_or(Duration::ZERO, |bay| bay.at.elapsed())
    }

    /// Pins that hold.
    #[must_use]
    pub fn pins(&self) -> usize {
        let floor = self.floor.lock();
        floor.bays.iter().map(|bay| bay.pins.len()).sum()
    }

    /// The cartridge may leave its drive, as far as this pin goes.
    pub fn unpin(&self, pin: Pin) {
        let mut floor = self.floor.lock();
        for bay in &mut floor.bays {
            bay.pins.remove(&pin);
        }
        self.freed.notify_all();
    }

    /// Waits for a drive and has the cartridge loaded in it; where there is a choice, in the drive that
    /// holds `instead`.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn mount(
        &self,
        cartridge: &Wanted,
        instead: Option<Barcode>,
    ) -> Result<Mounted<'_>, MountError> {
        loop {
            let (mut mounted, there) = self.claim(cartridge.barcode, instead)?;
            mounted.drive().expect(cartridge.geometry.generation);
            let loaded = match there {
                There::Loaded => return Ok(mounted),
                There::Cold(cold) => self.take_up(&mut mounted, cartridge.barcode, cold),
                There::Not => self.exchange(&mut mounted, cartridge),
            };
            match loaded {
                Ok(()) => return Ok(mounted),
                Err(MountError::Load(error)) if error.blames() == Blame::Drive => {
                    mounted.fail(&error);
                }
                // Neither is the wanted cartridge's fault.
                Err(MountError::Before(error)) if error.blames() != Blame::Nobody => {
                    let before = mounted.place(|bay| bay.leaving);
                    mounted.fail_with(&error, before);
                }
                Err(MountError::Robot(RobotError::Stuck(drive))) => {
                    mounted.vacate();
                    // Left there by whoever had it before: it is used there, if it can be.
                    if !self.found(drive, cartridge.barcode) {
                        return Err(RobotError::Stuck(drive).into());
                    }
                }
                Err(error) => {
                    mounted.vacate();
                    return Err(error);
                }
            }
        }
    }

    /// The drive for a cartridge, alone; whether it is in it already.
    fn claim(
        &self,
        barcode: Barcode,
        instead: Option<Barcode>,
    ) -> Result<(Mounted<'_>, There), MountError> {
        let mut floor = self.floor.lock();
        let turn = floor.line.join(barcode, instead);
        let claimed = loop {
            let spots = floor.spots();
            if !spots.iter().any(|spot| spot.works) {
                let why = floor.bays.iter().filter_map(|b| b.failed.clone());
                break Err(MountError::NoDrive(why.collect::<Vec<_>>().join("; ")));
            }
            let chosen = floor.line.choose(turn, &spots);
            if let Some(claimed) = chosen.and_then(|bay| self.take(&mut floor, bay, barcode)) {
                break Ok(claimed);
            }
            self.freed.wait(&mut floor);
        };
        floor.line.leave(turn);
        // Who came later may choose among what is left.
        self.freed.notify_all();
        claimed
    }

    fn take(
        &self,
        floor: &mut Floor,
        bay: usize,
        barcode: Barcode,
    ) -> Option<(Mounted<'_>, There)> {
        let used = floor.bays.iter().map(|b| b.used).max().unwrap_or(0) + 1;
        let place = floor.bays.get_mut(bay)?;
        let drive = place.drive.take()?;
        let loaded = place.holds == Some(barcode);
        let there = match (loaded, std::mem::take(&mut place.cold)) {
            (true, None) => There::Loaded,
            (true, Some(cold)) => There::Cold(cold),
            (false, _) => There::Not,
        };
        let seen = place.seen.take().filter(|_| loaded);
        let mut window = std::mem::take(&mut place.window);
        if !loaded {
            window.clear();
        }
        // Claimed: others who want this cartridge wait for this drive.
        place.leaving = place.holds.filter(|_| !loaded);
        place.holds = Some(barcode);
        place.used = used;
        let mounted = Mounted {
            mounts: self,
            bay,
            drive: Some(drive),
            seen,
            window,
        };
        Some((mounted, there))
    }

    /// Loads a cartridge that is in the drive already.
    fn take_up(
        &self,
        mounted: &mut Mounted<'_>,
        barcode: Barcode,
        cold: Cold,
    ) -> Result<(), MountError> {
        let drive = mounted.drive();
        if cold == Cold::Found && drive.load().is_ok() {
            return Ok(());
        }
        // What was given back lies in the drive's mouth, and must be put in anew.
        let _ = drive.unload();
        let number = drive.number();
        self.robot.reseat(number, barcode)?;
        drive.load().map_err(MountError::Load)
    }

    /// Takes out what is in the drive and loads the cartridge.
    fn exchange(&self, mounted: &mut Mounted<'_>, cartridge: &Wanted) -> Result<(), MountError> {
        let bay = mounted.bay;
        let drive = mounted.drive();
        match drive.unload() {
            Ok(()) | Err(DriveError::Empty { .. }) => {}
            Err(error) => return Err(MountError::Before(error)),
        }
        let number = drive.number();
        self.robot.empty(number)?;
        // Two names for one drive, or one for two, would have another cartridge used for this one.
        drive.vacant().map_err(MountError::Before)?;
        let mut floor = self.floor.lock();
        if let Some(bay) = floor.bays.get_mut(bay) {
            bay.leaving = None;
        }
        drop(floor);
        // Who wants what was in it may have it in another.
        self.freed.notify_all();
        self.robot.fill(number, cartridge)?;
        drive.load().map_err(MountError::Load)
    }
}

impl fmt::Debug for Mounted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mounted")
            .field("bay", &self.bay)
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

impl Mounted<'_> {
    /// The drive.
    ///
    /// # Panics
    /// Never: it is there until this is dropped.
    pub fn drive(&mut self) -> &mut dyn Drive {
        self.parts().0
    }

    /// The drive failed and is not used again; its cartridge goes back to its slot.
    pub fn fail(self, why: &DriveError) {
        let cartridge = self.place(|bay| bay.holds);
        self.fail_with(why, cartridge);
    }

    fn place<T>(&self, of: impl FnOnce(&Bay) -> Option<T>) -> Option<T> {
        self.mounts.floor.lock().bays.get(self.bay).and_then(of)
    }

    fn fail_with(mut self, why: &DriveError, cartridge: Option<Barcode>) {
        let number = self.drive().number();
        tracing::error!(%why, "{number} is not used any more");
        let step = match why {
            DriveError::Failed { step, .. } => step,
            _ => "",
        };
        self.mounts.failures.lock().push(Failure {
            drive: number,
            cartridge,
            step,
            why: why.to_string(),
        });
        // What is in it is taken out by hand.
        let _ = self.drive().unload();
        self.give_back(false, Some(why.to_string()));
    }

    /// Loads the cartridge anew in the drive that it is in. What was seen of it is forgotten: nothing is written
    /// before its label was read.
    ///
    /// # Errors
    /// [`DriveError`]: vacate the drive.
    pub fn reload(&mut self, barcode: Barcode) -> Result<(), DriveError> {
        self.seen = None;
        self.window.clear();
        self.drive().unload()?;
        let number = self.drive().number();
        let seated = self.mounts.robot.reseat(number, barcode);
        seated.map_err(|error| DriveError::Unloadable(error.to_string()))?;
        self.drive().load()
    }

    /// The cartridge stays in this drive until [`Mounts::unpin`].
    pub fn pin(self) -> Pin {
        let mut floor = self.mounts.floor.lock();
        floor.pins += 1;
        let pin = Pin(floor.pins);
        if let Some(bay) = floor.bays.get_mut(self.bay) {
            bay.pins.insert(pin);
        }
        drop(floor);
        pin
    }

    /// The drive, and the blocks that were just read of what is in it.
    ///
    /// # Panics
    /// Never, as [`Self::drive`].
    pub fn parts(&mut self) -> (&mut dyn Drive, &mut Window) {
        #[expect(
            clippy::expect_used,
            reason = "only drop, vacate and fail take it, and they end this"
        )]
        let drive = self.drive.as_mut().expect("held until dropped");
        (&mut **drive, &mut self.window)
    }

    /// The cartridge goes back to its slot: whoever wants it next loads it anew.
    pub fn vacate(mut self) {
        match self.drive().unload() {
            Err(error) if error.blames() == Blame::Drive => self.fail(&error),
            Ok(()) | Err(_) => self.give_back(false, None),
        }
    }

    fn give_back(&mut self, mut stays: bool, failed: Option<String>) {
        let Some(mut drive) = self.drive.take() else {
            return;
        };
        let mut stuck = false;
        let mut empty = |drive: &dyn Drive| {
            if let Err(error) = self.mounts.robot.empty(drive.number()) {
                tracing::error!(%error, "a drive could not be emptied");
                stuck = true;
            }
        };
        if !stays {
            empty(&*drive);
        }
        let mut floor = self.mounts.floor.lock();
        let retired = |floor: &Floor| {
            let bay = floor.bays.get(self.bay);
            bay.is_some_and(|bay| bay.failed.is_some())
        };
        if stays && retired(&floor) {
            // Meanwhile: others must find the cartridge in its slot.
            drop(floor);
            let _ = drive.unload();
            empty(&*drive);
            stays = false;
            floor = self.mounts.floor.lock();
        }
        if let Some(bay) = floor.bays.get_mut(self.bay) {
            bay.failed = failed.or(bay.failed.take());
            // One that works is asked for it again; from one that does not people take it.
            stuck &= bay.failed.is_none();
            if !drive.is_sure() {
                self.seen = None;
                self.window.clear();
            }
            let holds = match stuck {
                true => bay.leaving.or(bay.holds),
                false => bay.holds.filter(|_| stays),
            };
            bay.cold = stuck.then_some(Cold::Stuck);
            bay.tally = drive.tally();
            bay.drive = Some(drive);
            bay.at = Instant::now();
            bay.holds = holds;
            bay.leaving = None;
            bay.seen = self.seen.take().filter(|_| holds.is_some() && !stuck);
            bay.window = std::mem::take(&mut self.window);
            if holds.is_none() || stuck {
                bay.window.clear();
                bay.pins.clear();
            }
        }
        self.mounts.freed.notify_all();
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        self.give_back(true, None);
    }
}

#[cfg(test)]
mod tests;
