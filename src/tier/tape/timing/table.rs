//! The numbers of the timing model, one row a generation, and where each comes from.
//!
//! | source | what it gives |
//! |---|---|
//! | IBM, LTO cartridge page | capacities, tracks (wraps = tracks / 32 channels), lengths |
//! | IBM, TS4300 tables, full-height drives | native rates, steps of speed matching |
//! | IBM, TS2290 tables, half-height drives | load to ready, unload |
//! | CERN-IT-Note-2020-001 and the cost function in CTA's tapeserver | the seven terms of a locate, measured on LTO-7 |
//! | assumed | robot, backhitch, shortest reposition, constant part of a rewind: no source found |
//!
//! The locate terms were measured on LTO-7. For other generations the winding term is scaled by
//! the tape's length, the others stay: the mechanics are alike, and IBM's average locates from the load
//! point (56, 59, 65 s) move with the length too.

use super::Generation;

/// Seconds of a locate: `base`, plus each term that applies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Locate {
    /// Every locate.
    pub base: f64,
    /// Another wrap.
    pub wrap: f64,
    /// Another band.
    pub band: f64,
    /// Into the other half of the tape's length.
    pub landing: f64,
    /// The tape runs the other way there.
    pub turn: f64,
    /// Behind the head, on the same wrap.
    pub back: f64,
    /// Per metre of distance along the tape.
    pub metre: f64,
    /// No locate is shorter than this and the winding.
    pub shortest: f64,
}

/// What a generation's drive and cartridge do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parameters {
    /// Which.
    pub generation: Generation,
    /// Native capacity, bytes.
    pub capacity: u64,
    /// Wraps: passes along the whole length, there and back.
    pub wraps: u32,
    /// Bands, each of so many wraps one behind the other.
    pub bands: u32,
    /// Recorded length, metres.
    pub length: f64,
    /// Rates the drive can run at, bytes per second, fastest first; the first is the native rate.
    pub steps: &'static [f64],
    /// The drive's buffer, bytes.
    pub buffer: u64,
    /// Load and thread until ready, seconds.
    pub load: f64,
    /// Unload after rewinding, seconds.
    pub unload: f64,
    /// Metres per second of a rewind.
    pub wind: f64,
    /// Constant part of a rewind, seconds.
    pub rewind: f64,
    /// Stop, reposition and start again, seconds.
    pub backhitch: f64,
    /// First load of a new cartridge, seconds more; the virtual library's cartridges had theirs.
    pub calibration: f64,
    /// Locates.
    pub locate: Locate,
}

/// Full length in 104.27 s: 0.0006192 s per unit of position, 168401 units, of 960 m.
const METRE: f64 = 0.000_619_2 * 168_401.0 / 960.0;
/// Metres per second while winding: the same, turned over.
const WIND: f64 = 1.0 / METRE;

const LOCATE: Locate = Locate {
    base: 4.29,
    wrap: 6.69,
    band: 3.20,
    landing: -6.04,
    turn: 5.22,
    back: 11.32,
    metre: METRE,
    shortest: 2.0, // assumed
};

const MB: f64 = 1e6;

/// All generations.
pub const TABLE: [Parameters; 3] = [
    Parameters {
        generation: Generation::Lto7,
        capacity: 6_000_000_000_000,
        wraps: 112,
        bands: 4,
        length: 960.0,
        // The steps between 288 and 101 are interpolated evenly: only the ends are published.
        steps: &[
            300.0 * MB,
            288.0 * MB,
            267.0 * MB,
            246.0 * MB,
            225.0 * MB,
            205.0 * MB,
            184.0 * MB,
            163.0 * MB,
            142.0 * MB,
            122.0 * MB,
            101.0 * MB,
        ],
        buffer: 1 << 30,
        load: 15.0,
        unload: 20.0,
        wind: WIND,
        rewind: 5.0,    // assumed; the average is IBM's 60 s then
        backhitch: 3.0, // assumed
        calibration: 0.0,
        locate: LOCATE,
    },
    Parameters {
        generation: Generation::Lto8,
        capacity: 12_000_000_000_000,
        wraps: 208,
        bands: 4,
        length: 960.0,
        steps: &[
            360.0 * MB,
            341.0 * MB,
            318.0 * MB,
            306.0 * MB,
            273.0 * MB,
            250.0 * MB,
            226.0 * MB,
            203.0 * MB,
            180.0 * MB,
            158.0 * MB,
            135.0 * MB,
            112.0 * MB,
        ],
        buffer: 1 << 30,
        load: 15.0,
        unload: 24.0,
        wind: WIND,
        rewind: 5.0,
        backhitch: 3.0,
        calibration: 0.0,
        locate: LOCATE,
    },
    Parameters {
        generation: Generation::Lto9,
        capacity: 18_000_000_000_000,
        wraps: 280,
        bands: 4,
        length: 1035.0,
        steps: &[
            400.0 * MB,
            385.0 * MB,
            366.0 * MB,
            347.0 * MB,
            325.0 * MB,
            305.0 * MB,
            284.0 * MB,
            263.0 * MB,
            244.0 * MB,
            223.0 * MB,
            203.0 * MB,
            177.0 * MB,
        ],
        buffer: 1 << 30,
        load: 16.0,
        unload: 56.0,
        wind: WIND,
        rewind: 5.0,
        backhitch: 3.0,
        calibration: 2400.0, // average; up to 7200
        locate: LOCATE,
    },
];

/// One move of the robot between a slot and a drive, seconds: assumed, 5 to 12 in large libraries.
pub const ROBOT_MOVE: f64 = 8.0;
