//! Configuration: the file (`--config FILE`, TOML), its settings with their defaults, and the units
//! they are written in.
//!
//! Promises: an unknown key or a value out of range is refused with file, line and the nearest known
//! key; nothing is guessed. Every setting, its default and its meaning stand in one table
//! ([`SETTINGS`]). What [`Config::print`] writes, [`Config::parse`] reads back equal.

mod file;
mod nearest;
mod prices;
mod settings;
pub mod units;

pub use nearest::{hint, nearest};
pub use prices::{Amount, Prices};
pub use settings::{SETTINGS, Setting};

use std::fmt;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The settings of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The directory that is mirrored. Absolute.
    pub backing: Option<PathBuf>,
    /// Where it is shown. Absolute.
    pub mount: Option<PathBuf>,
    /// Where catalog, sockets and logs lie. Absolute.
    pub state: Option<PathBuf>,
    /// The policy file; `None`: the one that is built in. Absolute.
    pub policy: Option<PathBuf>,
    /// Tiers, in the order of the file.
    pub tiers: Vec<TierSetting>,
    /// How long the mount waits for a successor when the instance dies (P12).
    pub hold: Duration,
    /// How long a read may wait for a recall; `None`: as long as it takes (P5).
    pub recall_timeout: Option<Duration>,
    /// What was just staged is not released for so long.
    pub min_residency: Duration,
    /// How many implicit recalls one user may have in flight.
    pub implicit_recalls_per_user: NonZeroU32,
    /// Smaller files are never released: it would free no block (P3). In bytes.
    pub release_min_size: u64,
    /// Aggregates of small files are closed at about this size. In bytes.
    pub aggregate_size: u64,
    /// Indexes of aggregates kept in the state directory, bytes; 0 keeps none.
    pub index_cache_size: u64,
    /// How long bytes outlive the name they had (P8).
    pub keep_deleted: Duration,
    /// How often reclaiming runs by itself; zero: only when asked.
    pub collect_every: Duration,
    /// Between the decision to delete an object and its deletion (P9).
    pub delete_delay: Duration,
    /// An aggregate of which so much can go is repacked.
    pub repack_share: Percent,
    /// A full or retired cartridge of which so much is dead is emptied.
    pub tape_repack_share: Percent,
    /// How long requests that ended are remembered, with their actions and keys; zero: for ever.
    pub keep_requests: Duration,
    /// How long after the end of a scan of the whole tree the next one follows; zero: never.
    pub scan_every: Duration,
    /// How often the listing of all names goes to every tier; zero: never.
    pub snapshot_every: Duration,
    /// How often what changed of it goes there in between; zero: never.
    pub snapshot_changes: Duration,
    /// Every copy is read back once in so long; zero: only when somebody asks.
    pub scrub_every: Duration,
    /// Bytes per second that this reads of each tier.
    pub scrub_bandwidth: u64,
    /// Copies that are found bad are made again from good ones.
    pub heal: bool,
    /// Share of the backing's space that batch jobs may keep on disk by their pins.
    pub job_pins: Percent,
    /// The same, for the jobs of one user.
    pub job_pins_per_user: Percent,
    /// Above it, opens for writing wait while releases make room (P13).
    pub emergency_mark: Percent,
    /// How long such an open waits at most; zero: not at all.
    pub emergency_wait: Duration,
    /// Room kept in the state directory, and on the backing, for the day the disk is full (P13).
    /// In bytes.
    pub ballast_size: u64,
    /// Workers of each class.
    pub workers: Workers,
}

/// How many actions of each class run at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workers {
    /// Archiving.
    pub archive: NonZeroU32,
    /// Releasing.
    pub release: NonZeroU32,
    /// Staging, asked for or by reading.
    pub stage: NonZeroU32,
    /// Verifying.
    pub verify: NonZeroU32,
}

/// One `[tier.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierSetting {
    /// Its name: letters, digits, `-` and `_`.
    pub name: String,
    /// Its URL as written; the tiers' room reads it.
    pub url: String,
    /// What its service asks for its work, if that was said.
    pub prices: Option<Prices>,
}

/// A share of a filesystem, 1 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u8);

impl Percent {
    /// `None` outside 1 to 100.
    #[must_use]
    pub const fn new(percent: u8) -> Option<Self> {
        match percent {
            1..=100 => Some(Self(percent)),
            _ => None,
        }
    }

    /// 1 to 100.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }

    /// That share of `total` bytes, rounded down.
    #[must_use]
    pub fn of(self, total: u64) -> u64 {
        // A percentage of at most 100 of a u64 fits one.
        u64::try_from(u128::from(total) * u128::from(self.0) / 100).unwrap_or(total)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {}: {source}", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The text is wrong.
    #[error("{}:{line}: {why}", file.display())]
    Text {
        /// Which file.
        file: PathBuf,
        /// Where in it, from 1.
        line: usize,
        /// What is wrong, and what was meant.
        why: String,
    },
}

impl Config {
    /// Longest configuration file that is read, in bytes.
    pub const LONGEST: u64 = 1 << 20;

    /// Reads a configuration file. What it does not set has its default.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        file::load(path)
    }

    /// The same of text; `path` is what errors name.
    ///
    /// # Errors
    /// [`ConfigError::Text`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        file::parse(text, path)
    }

    /// Keys of settings that were changed and that this version does not act on.
    #[must_use]
    pub fn without_effect(&self) -> Vec<&'static str> {
        const LATER: [&str; 1] = ["workers.stage"];
        SETTINGS
            .iter()
            .filter(|s| LATER.contains(&s.key) && (s.get)(self) != s.default_text())
            .map(|s| s.key)
            .collect()
    }

    /// The configuration as a file, with every setting that has a value, each with its meaning.
    #[must_use]
    pub fn print(&self) -> String {
        file::print(self)
    }
}

#[cfg(test)]
mod tests;
