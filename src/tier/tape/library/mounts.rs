//! The drives of a library and what is in them: who asks for a cartridge gets the drive that holds
//! it, alone, for as long as he keeps it.
//!
//! Invariants kept here: a cartridge is in one drive at most; a drive has one user at a time; nobody
//! waits while he holds a drive, so nobody waits forever. A drive that failed is not used again.
//! There is no order among those who wait: whoever wants one asks in the order that he wants.

use crate::tier::tape::drive::virtual_drive::Inserted;
use crate::tier::tape::drive::{Blame, Drive, DriveError, DriveNumber, Tally};
use crate::tier::tape::label::Barcode;
use crate::tier::tape::robot::{Robot, RobotError};
use crate::tier::tape::volume::Next;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::fmt;

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
}

/// What was found on a cartridge since it was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
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
    seen: Option<Seen>,
    failed: Option<String>,
    /// Grows with each use: the longest unused one is emptied first.
    used: u64,
    tally: Tally,
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
    bays: Mutex<Vec<Bay>>,
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
            seen: None,
            failed: None,
            used: 0,
        };
        Self {
            bays: Mutex::new(drives.into_iter().map(bay).collect()),
            freed: Condvar::new(),
            robot,
            failures: Mutex::default(),
        }
    }

    /// The drives that failed since this was last asked.
    #[must_use]
    pub fn failures(&self) -> Vec<Failure> {
        std::mem::take(&mut self.failures.lock())
    }

    /// A drive is not used any more, for this reason, once its user is through with it; or it is again.
    pub fn retire(&self, drive: DriveNumber, why: Option<String>) {
        let mut bays = self.bays.lock();
        let Some(at) = bays.iter().position(|b| b.number == drive) else {
            return;
        };
        let held = bays.get_mut(at).and_then(|bay| {
            bay.failed = why;
            bay.holds.filter(|_| bay.failed.is_some())
        });
        let idle = held.and_then(|held| self.take(&mut bays, at, held));
        drop(bays);
        if let Some(mounted) = idle {
            mounted.vacate();
        }
        self.freed.notify_all();
    }

    /// Takes a cartridge out of the drive that it is in, if any, when its user is through with it.
    pub fn evict(&self, barcode: Barcode) {
        let mut bays = self.bays.lock();
        loop {
            let Some(bay) = bays.iter().position(|b| b.holds == Some(barcode)) else {
                return;
            };
            if let Some(mounted) = self.take(&mut bays, bay, barcode) {
                drop(bays);
                mounted.vacate();
                return;
            }
            self.freed.wait(&mut bays);
        }
    }

    /// All drives, as they stand.
    #[must_use]
    pub fn status(&self) -> Vec<BayStatus> {
        let bays = self.bays.lock();
        let status = |bay: &Bay| BayStatus {
            number: bay.number,
            holds: bay.holds,
            busy: bay.drive.is_none(),
            failed: bay.failed.clone(),
            tally: bay.tally,
        };
        bays.iter().map(status).collect()
    }

    /// Waits for a drive and has the cartridge loaded in it.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn mount(&self, cartridge: &Inserted) -> Result<Mounted<'_>, MountError> {
        loop {
            let mut mounted = self.claim(cartridge.barcode)?;
            if mounted.1 {
                return Ok(mounted.0);
            }
            match self.exchange(&mut mounted.0, cartridge) {
                Ok(()) => return Ok(mounted.0),
                Err(MountError::Load(error)) if error.blames() == Blame::Drive => {
                    mounted.0.fail(&error);
                }
                Err(error) => {
                    mounted.0.vacate();
                    return Err(error);
                }
            }
        }
    }

    /// The drive for a cartridge, alone; whether it is loaded in it already.
    fn claim(&self, barcode: Barcode) -> Result<(Mounted<'_>, bool), MountError> {
        let mut bays = self.bays.lock();
        loop {
            let works = |b: &&mut Bay| b.failed.is_none();
            if let Some(bay) = bays
                .iter()
                .position(|b| b.failed.is_none() && b.holds == Some(barcode))
            {
                if let Some(mounted) = self.take(&mut bays, bay, barcode) {
                    return Ok((mounted, true));
                }
            } else {
                if bays.iter_mut().filter(works).count() == 0 {
                    let why: Vec<String> = bays.iter().filter_map(|b| b.failed.clone()).collect();
                    return Err(MountError::NoDrive(why.join("; ")));
                }
                let idle = bays
                    .iter()
                    .enumerate()
                    .filter(|(_, b)| b.failed.is_none() && b.drive.is_some());
                let best = idle
                    .min_by_key(|(_, b)| (b.holds.is_some(), b.used))
                    .map(|(n, _)| n);
                if let Some(mounted) = best.and_then(|bay| self.take(&mut bays, bay, barcode)) {
                    return Ok((mounted, false));
                }
            }
            self.freed.wait(&mut bays);
        }
    }

    fn take(
        &self,
        bays: &mut MutexGuard<'_, Vec<Bay>>,
        bay: usize,
        barcode: Barcode,
    ) -> Option<Mounted<'_>> {
        let used = bays.iter().map(|b| b.used).max().unwrap_or(0) + 1;
        let place = bays.get_mut(bay)?;
        let drive = place.drive.take()?;
        let seen = place.seen.take().filter(|_| place.holds == Some(barcode));
        // Claimed: others who want this cartridge wait for this drive.
        place.holds = Some(barcode);
        place.used = used;
        Some(Mounted {
            mounts: self,
            bay,
            drive: Some(drive),
            seen,
        })
    }

    /// Takes out what is in the drive and loads the cartridge.
    fn exchange(&self, mounted: &mut Mounted<'_>, cartridge: &Inserted) -> Result<(), MountError> {
        let drive = mounted.drive();
        match drive.unload() {
            Ok(()) | Err(DriveError::Empty { .. }) => {}
            Err(error) => return Err(MountError::Load(error)),
        }
        let number = drive.number();
        self.robot.empty(number)?;
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
        #[expect(
            clippy::expect_used,
            reason = "only drop, vacate and fail take it, and they end this"
        )]
        let drive = self.drive.as_mut().expect("held until dropped");
        &mut **drive
    }

    /// The drive failed and is not used again; its cartridge goes back to its slot.
    pub fn fail(mut self, why: &DriveError) {
        let number = self.drive().number();
        tracing::error!(%why, "{number} is not used any more");
        let step = match why {
            DriveError::Failed { step, .. } => step,
            _ => "",
        };
        let cartridge = self.mounts.bays.lock().get(self.bay).and_then(|b| b.holds);
        self.mounts.failures.lock().push(Failure {
            drive: number,
            cartridge,
            step,
            why: why.to_string(),
        });
        // What is in it is taken out by hand.
        let _ = self.drive().unload();
        self.give_back(None, Some(why.to_string()));
    }

    /// Loads the cartridge anew in the drive that it is in. What was seen of it is kept.
    ///
    /// # Errors
    /// [`DriveError`]: vacate the drive.
    pub fn reload(&mut self) -> Result<(), DriveError> {
        self.drive().unload()?;
        self.drive().load()
    }

    /// The cartridge goes back to its slot: whoever wants it next loads it anew.
    pub fn vacate(mut self) {
        match self.drive().unload() {
            Err(error) if error.blames() == Blame::Drive => self.fail(&error),
            Ok(()) | Err(_) => self.give_back(None, None),
        }
    }

    fn give_back(&mut self, holds: Option<Barcode>, failed: Option<String>) {
        let Some(drive) = self.drive.take() else {
            return;
        };
        if holds.is_none()
            && let Err(error) = self.mounts.robot.empty(drive.number())
        {
            tracing::error!(%error, "a drive could not be emptied");
        }
        let mut bays = self.mounts.bays.lock();
        if let Some(bay) = bays.get_mut(self.bay) {
            bay.tally = drive.tally();
            bay.drive = Some(drive);
            bay.holds = holds;
            bay.seen = self.seen.take().filter(|_| holds.is_some());
            bay.failed = failed.or(bay.failed.take());
        }
        self.mounts.freed.notify_all();
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let held = self
            .mounts
            .bays
            .lock()
            .get(self.bay)
            .and_then(|bay| bay.holds.filter(|_| bay.failed.is_none()));
        if held.is_none()
            && let Some(drive) = &mut self.drive
        {
            // It was retired meanwhile: others must find the cartridge in its slot.
            let _ = drive.unload();
        }
        self.give_back(held, None);
    }
}
