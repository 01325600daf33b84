//! How long an LTO drive takes: a model without I/O and without a clock, from a cartridge's bytes to
//! seconds. It knows no image, so that whole cartridges can be simulated.
//!
//! A tape is written in **wraps**, passes along its whole length: even ones away from the load
//! point, odd ones back, a quarter of them in each **band**. So the byte at which something begins
//! says where it lies: bytes are spread evenly over the wraps, one behind the other.
//!
//! Every number is in [`table`], with its source. Times are seconds in `f64`: a model's, not a
//! clock's.

pub mod table;

pub use table::{Parameters, ROBOT_MOVE};

use std::fmt;
use std::str::FromStr;

/// A generation of LTO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Generation {
    /// LTO-7, 6 TB.
    Lto7,
    /// LTO-8, 12 TB.
    Lto8,
    /// LTO-9, 18 TB.
    Lto9,
}

/// Text that names no generation of the table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no generation known here: LTO-7, LTO-8 or LTO-9")]
pub struct GenerationError {
    /// What stood there.
    pub text: String,
}

impl Generation {
    /// All of them, oldest first.
    pub const ALL: [Self; 3] = [Self::Lto7, Self::Lto8, Self::Lto9];

    /// Its row of the table.
    #[must_use]
    pub fn parameters(self) -> &'static Parameters {
        match self {
            Self::Lto7 => &table::TABLE[0],
            Self::Lto8 => &table::TABLE[1],
            Self::Lto9 => &table::TABLE[2],
        }
    }

    /// The end of its cartridges' barcodes.
    #[must_use]
    pub fn medium(self) -> &'static str {
        match self {
            Self::Lto7 => "L7",
            Self::Lto8 => "L8",
            Self::Lto9 => "L9",
        }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Lto7 => "LTO-7",
            Self::Lto8 => "LTO-8",
            Self::Lto9 => "LTO-9",
        })
    }
}

impl FromStr for Generation {
    type Err = GenerationError;
    fn from_str(text: &str) -> Result<Self, GenerationError> {
        let plain: String = text.chars().filter(|c| *c != '-').collect();
        let found = Self::ALL
            .into_iter()
            .find(|g| g.to_string().replace('-', "").eq_ignore_ascii_case(&plain));
        found.ok_or_else(|| GenerationError {
            text: text.to_owned(),
        })
    }
}

/// A cartridge as the model sees it: a generation, and how many bytes fill its length. A capacity
/// below the real one makes a cartridge as long as a real one with fewer bytes on each metre: its
/// locates take as long, its transfers less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Which table row.
    pub generation: Generation,
    /// Bytes that fill it, at least 1.
    pub capacity: u64,
}

/// Where a head stands, or a byte lies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spot {
    /// Number of the wrap.
    pub wrap: u32,
    /// Metres from the load point.
    pub metres: f64,
}

/// The load point: where a loaded or rewound tape stands.
pub const LOAD_POINT: Spot = Spot {
    wrap: 0,
    metres: 0.0,
};

/// What a stream of bytes from or to a host of a certain speed came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Streamed {
    /// From the first byte to the last, seconds.
    pub seconds: f64,
    /// Rate at which the tape ran while it ran, bytes per second.
    pub step: f64,
    /// How often it stopped and went back because the host was too slow even for the lowest step.
    pub backhitches: u64,
}

impl Geometry {
    /// A whole cartridge of a generation.
    #[must_use]
    pub fn whole(generation: Generation) -> Self {
        let capacity = generation.parameters().capacity;
        Self {
            generation,
            capacity,
        }
    }

    fn table(&self) -> &'static Parameters {
        self.generation.parameters()
    }

    /// Where the byte lies that is written after so many. What is beyond the capacity lies at the end.
    #[must_use]
    pub fn spot(&self, bytes: u64) -> Spot {
        let table = self.table();
        // Exact enough: positions are metres, not bytes.
        let wraps = (bytes as f64 / self.capacity.max(1) as f64).min(1.0) * f64::from(table.wraps);
        let last = table.wraps - 1;
        // Not negative, and at most the number of wraps.
        let wrap = (wraps.floor() as u32).min(last);
        let along = (wraps - f64::from(wrap)) * table.length;
        let metres = if wrap.is_multiple_of(2) {
            along
        } else {
            table.length - along
        };
        Spot { wrap, metres }
    }

    /// Seconds from one spot to another, ready to read or write there; 0 if it is there.
    #[must_use]
    pub fn locate(&self, from: Spot, to: Spot) -> f64 {
        if from == to {
            return 0.0;
        }
        let (table, terms) = (self.table(), self.table().locate);
        let band = |spot: Spot| spot.wrap / (table.wraps / table.bands).max(1);
        let far_half = |spot: Spot| spot.metres >= table.length / 2.0;
        let backwards = |spot: Spot| spot.wrap & 1 == 1;
        let ahead = to.metres - from.metres;
        let behind = (ahead > 0.0) & backwards(to) | (ahead < 0.0) & !backwards(to);
        let winding = ahead.abs() * terms.metre;
        // Multiplied, not chosen: which terms apply is as good as random, and this is asked millions of times.
        let applies = |term: f64, yes: bool| term * f64::from(u8::from(yes));
        let seconds = terms.base
            + applies(terms.wrap, from.wrap != to.wrap)
            + applies(terms.band, band(from) != band(to))
            + applies(terms.landing, far_half(from) != far_half(to))
            + applies(terms.turn, backwards(from) != backwards(to))
            + applies(terms.back, (from.wrap == to.wrap) & behind)
            + winding;
        seconds.max(terms.shortest + winding)
    }

    /// Seconds to read or write so many bytes one behind the other, at the native rate.
    #[must_use]
    pub fn transfer(&self, bytes: u64) -> f64 {
        bytes as f64 / self.native()
    }

    /// Bytes per second while the host keeps up.
    #[must_use]
    pub fn native(&self) -> f64 {
        self.table().steps.first().copied().unwrap_or(1.0)
    }

    /// The same with a host of `host` bytes per second (above 0). The tape runs at the slowest step
    /// that is not slower than the host, so that the buffer is emptied rarely; below the lowest step it stops whenever
    /// the buffer has run empty and starts when it is full again: the host sees its own rate,
    /// the drive wears.
    #[must_use]
    pub fn stream(&self, bytes: u64, host: f64) -> Streamed {
        let table = self.table();
        let native = self.native();
        let host = host.clamp(1.0, f64::MAX);
        let step = table
            .steps
            .iter()
            .copied()
            .filter(|s| *s >= host)
            .fold(native, f64::min);
        let lowest = table.steps.last().copied().unwrap_or(native);
        let seconds = bytes as f64 / host.min(native);
        if host >= lowest {
            return Streamed {
                seconds,
                step,
                backhitches: 0,
            };
        }
        // From a full buffer the tape takes buffer / (1 - host / step) before it is empty.
        let run = table.buffer as f64 / (1.0 - host / step);
        // Whole runs, never negative.
        let backhitches = (bytes as f64 / run).floor() as u64;
        Streamed {
            seconds,
            step,
            backhitches,
        }
    }

    /// Seconds to rewind.
    #[must_use]
    pub fn rewind(&self, from: Spot) -> f64 {
        if from == LOAD_POINT {
            return 0.0;
        }
        let table = self.table();
        table.rewind + from.metres / table.wind
    }

    /// Seconds from the robot's taking a cartridge out of its slot to a ready drive.
    #[must_use]
    pub fn mount(&self, robot_move: f64) -> f64 {
        robot_move + self.table().load
    }

    /// Seconds to rewind, unload and put the cartridge back into its slot.
    #[must_use]
    pub fn unmount(&self, from: Spot, robot_move: f64) -> f64 {
        self.rewind(from) + self.table().unload + robot_move
    }
}

#[cfg(test)]
mod tests;
