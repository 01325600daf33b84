//! What a tier of cartridges and drives says of itself beyond the bytes: where an object lies, what a way
//! there takes, and that a cartridge stays in its drive. For those who put many reads in order; who
//! only reads one object need not know of it.
//!
//! - But for [`Tapes::hold`] nothing here moves a tape, and nothing waits for one.
//! - A tape is written fast only in long streams: objects that are finished at the same time go together.
//! - An *address* is a place on a cartridge, counted in bytes of data and labels from its beginning; it
//!   grows the way the tape is read.

use crate::id::AggregateId;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// A cartridge, by its barcode.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cartridge(Arc<str>);

impl Cartridge {
    /// The one with that barcode.
    #[must_use]
    pub fn new(barcode: &str) -> Self {
        Self(barcode.into())
    }

    /// Its barcode.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Cartridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A part of a cartridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// Which one.
    pub cartridge: Cartridge,
    /// Address of its first byte.
    pub begin: u64,
    /// Address behind its last byte.
    pub end: u64,
    /// Bytes of it that are wanted.
    pub bytes: u64,
}

/// How long a drive takes with a cartridge, in seconds of the library's clock; finite, not negative.
pub trait Timing: Send + Sync {
    /// From one address (`None`: the beginning of the tape) to another.
    fn step(&self, from: Option<u64>, to: u64) -> f64;
    /// To read so many bytes that lie behind each other.
    fn read(&self, bytes: u64) -> f64;
    /// From its slot to a drive that is ready.
    fn mount(&self) -> f64;
    /// Back to its slot, with the head at that address.
    fn unmount(&self, from: Option<u64>) -> f64;
}

/// A cartridge in a drive, which stays there as long as this lives.
pub trait Held: Send {
    /// Does it? Not any more if its drive failed, or somebody took it out for himself.
    fn stands(&self) -> bool;
    /// How long nobody has used it; nothing while somebody does.
    fn unused(&self) -> Duration;
}

/// Why a cartridge is in no drive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HoldError {
    /// It is not in the library.
    #[error("cartridge {0} is not in the library: put it back")]
    Absent(Cartridge),
    /// It is there and cannot be used, or there is no drive for it.
    #[error("{0}")]
    Failed(String),
}

/// See the module.
pub trait Tapes: Send + Sync {
    /// Where a part of an object lies; `None`: nowhere that is known now.
    fn place(&self, object: AggregateId, range: Range<u64>) -> Option<Stretch>;
    /// Drives that there are, also those that failed; always the same.
    fn drives(&self) -> usize;
    /// How many of them work now; none while the library is away.
    fn working(&self) -> usize;
    /// What is in drives that work.
    fn loaded(&self) -> Vec<Cartridge>;
    /// Is it in the library, as far as can be seen?
    fn is_here(&self, cartridge: &Cartridge) -> bool;
    /// The times of a cartridge; `None` if it is not known.
    fn timing(&self, cartridge: &Cartridge) -> Option<Arc<dyn Timing>>;
    /// How many of the library's seconds pass in one; `None`: nobody waits for them.
    fn pace(&self) -> Option<f64>;
    /// Waits for a drive with the cartridge in it (where there is a choice, the one that holds
    /// `instead`), in which it stays. Who holds one lets go of it before he asks for another, and when
    /// [`Self::stuck`] says that somebody has waited long.
    ///
    /// # Errors
    /// [`HoldError`].
    fn hold(
        &self,
        cartridge: &Cartridge,
        instead: Option<&Cartridge>,
    ) -> Result<Box<dyn Held>, HoldError>;
    /// How many objects that are finished at the same time are written together at most, and their bytes.
    fn together(&self) -> (usize, u64) {
        (1, 0)
    }
    /// The process stops: what is being written is finished, and of what waits nothing but snapshots is written.
    fn hurry(&self) {}
    /// How long the first has waited who gets no drive because all that work are held.
    fn stuck(&self) -> Option<Duration>;
}
