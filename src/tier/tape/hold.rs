//! The library as those see it who put reads in order ([`Tapes`]).

use super::library::{Library, LibraryError, Pin};
use super::place::Place;
use super::timing::{Geometry, LOAD_POINT};
use super::volume::reads_on;
use crate::id::AggregateId;
use crate::tier::TierError;
use crate::tier::tape::clock::Speed;
use crate::tier::tapes::{Cartridge, Held, HoldError, Stretch, Tapes, Timing};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The cartridges and drives of a tape tier.
pub(super) struct Cartridges {
    pub(super) place: Arc<Place>,
}

impl Cartridges {
    /// `None`: it is away.
    fn library(&self) -> Option<Arc<Library>> {
        self.place.enter("asking for cartridges").ok()
    }
}

impl Tapes for Cartridges {
    fn place(&self, object: AggregateId, range: Range<u64>) -> Option<Stretch> {
        let (barcode, file) = self.library()?.find(object)?;
        let (from, to) = (range.start.min(file.len), range.end.min(file.len));
        Some(Stretch {
            cartridge: Cartridge::new(barcode.text()),
            begin: file.byte(from),
            end: file.byte(to.max(from)),
            bytes: to.saturating_sub(from),
        })
    }

    fn drives(&self) -> usize {
        match self.library() {
            Some(library) => library.drives().len(),
            None => self.place.options.count_drives(),
        }
    }

    fn working(&self) -> usize {
        let drives = self.library().map_or_else(Vec::new, |lib| lib.drives());
        drives.iter().filter(|d| d.failed.is_none()).count()
    }

    fn loaded(&self) -> Vec<Cartridge> {
        let drives = self.library().map_or_else(Vec::new, |lib| lib.drives());
        let working = drives.iter().filter(|d| d.failed.is_none());
        let held = working.filter_map(|d| d.holds);
        held.map(|b| Cartridge::new(b.text())).collect()
    }

    fn is_here(&self, cartridge: &Cartridge) -> bool {
        let barcode = cartridge.as_str().parse();
        let library = self.library();
        library.is_some_and(|lib| barcode.is_ok_and(|barcode| lib.is_here(barcode)))
    }

    fn timing(&self, cartridge: &Cartridge) -> Option<Arc<dyn Timing>> {
        let barcode = cartridge.as_str().parse().ok()?;
        let library = self.library()?;
        let geometry = library.geometry(barcode).ok()?;
        let robot_move = library.robot_move();
        Some(Arc::new(Times {
            geometry,
            robot_move,
        }))
    }

    fn pace(&self) -> Option<f64> {
        if self.place.equipment.is_real() {
            return Some(1.0);
        }
        match self.place.options.speed {
            Speed::Times(times) => Some(times),
            Speed::Max => None,
        }
    }

    fn hold(
        &self,
        cartridge: &Cartridge,
        instead: Option<&Cartridge>,
    ) -> Result<Box<dyn Held>, HoldError> {
        let absent = || HoldError::Absent(cartridge.clone());
        let failed = |why: TierError| HoldError::Failed(why.to_string());
        let barcode = cartridge.as_str().parse().map_err(|_| absent())?;
        let instead = instead.and_then(|other| other.as_str().parse().ok());
        let library = self.place.enter("loading").map_err(failed)?;
        let pin = match library.mount_instead(barcode, instead) {
            Ok(mounted) => mounted.pin(),
            Err(LibraryError::Absent { .. } | LibraryError::Exported { .. }) => {
                return Err(absent());
            }
            Err(why) => return Err(HoldError::Failed(why.to_string())),
        };
        Ok(Box::new(Pinned { library, pin }))
    }

    fn together(&self) -> (usize, u64) {
        let together = &self.place.options.together;
        (together.files as usize, together.bytes)
    }

    fn hurry(&self) {
        self.place.hurried.store(true, Ordering::Release);
        if let Some(library) = self.library() {
            library.hurry();
        }
    }

    fn stuck(&self) -> Option<Duration> {
        self.library()?.stuck()
    }
}

/// A cartridge that stays in its drive.
struct Pinned {
    library: Arc<Library>,
    pin: Pin,
}

impl Held for Pinned {
    fn stands(&self) -> bool {
        self.library.is_pinned(self.pin)
    }
    fn unused(&self) -> Duration {
        self.library.unused(self.pin)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.library.unpin(self.pin);
    }
}

/// The model's times.
struct Times {
    geometry: Geometry,
    robot_move: f64,
}

impl Timing for Times {
    fn step(&self, from: Option<u64>, to: u64) -> f64 {
        let at = from.unwrap_or(0);
        if reads_on(self.geometry, at, to) {
            return self.geometry.transfer(to - at);
        }
        let spot = |byte| self.geometry.spot(byte);
        self.geometry.locate(spot(at), spot(to))
    }
    fn read(&self, bytes: u64) -> f64 {
        self.geometry.transfer(bytes)
    }
    fn mount(&self) -> f64 {
        self.geometry.mount(self.robot_move)
    }
    fn unmount(&self, from: Option<u64>) -> f64 {
        let at = from.map_or(LOAD_POINT, |byte| self.geometry.spot(byte));
        self.geometry.unmount(at, self.robot_move)
    }
}
