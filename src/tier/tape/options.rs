//! What a tape URL says behind its path: how the library is equipped.

use super::clock::Speed;
use super::timing::{Generation, Geometry};
use crate::config::units;
use std::fmt;
use std::path::{Path, PathBuf};

/// Names of the options.
pub const OPTIONS: [&str; 7] = [
    "generation",
    "capacity",
    "cartridges",
    "drives",
    "speed",
    "block",
    "pool",
];

/// Shortest block, bytes: shorter ones make a real drive slow.
const BLOCK_LEAST: u64 = 256 << 10;
/// Longest block, bytes: what drives and kernels take everywhere.
const BLOCK_MOST: u64 = 8 << 20;
/// A barcode has three digits for the number.
const CARTRIDGES: u32 = 999;
const DRIVES: u32 = 64;
/// Below this the labels would be most of a cartridge.
const CAPACITY_LEAST: u64 = 1 << 20;
/// A pool's name is a directory's, too.
const POOL_MOST: usize = 32;
/// Below a library's root: what belongs to each of its pools.
pub const POOLS: &str = "pools";

/// How a virtual library is equipped.
#[derive(Debug, Clone, PartialEq)]
pub struct TapeOptions {
    /// Of cartridges that are added.
    pub generation: Generation,
    /// Bytes of each cartridge that is added; `None`: those of a real one.
    pub capacity: Option<u64>,
    /// Cartridges at least: what is missing is added, nothing is taken away.
    pub cartridges: u32,
    /// Drives.
    pub drives: u32,
    /// How fast the model's time passes.
    pub speed: Speed,
    /// Length of blocks of new files, bytes.
    pub block: u32,
    /// Which cartridges of the library are this tier's; `None`: all of them.
    pub pool: Option<String>,
}

impl Default for TapeOptions {
    fn default() -> Self {
        Self {
            generation: Generation::Lto8,
            capacity: None,
            cartridges: 20,
            drives: 2,
            speed: Speed::Max,
            block: 256 << 10,
            pool: None,
        }
    }
}

// `speed` is never NaN: its parser takes none.
impl Eq for TapeOptions {}

impl TapeOptions {
    /// A cartridge that is added now.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        let whole = Geometry::whole(self.generation);
        Geometry {
            capacity: self.capacity.unwrap_or(whole.capacity),
            ..whole
        }
    }

    /// Where the tier's mark lies, if its library's root is `root`.
    #[must_use]
    pub fn mark_dir(&self, root: &Path) -> PathBuf {
        match &self.pool {
            None => root.to_owned(),
            Some(pool) => root.join(POOLS).join(pool),
        }
    }

    /// The same without what a pool has of its own.
    #[must_use]
    pub(super) fn of_library(&self) -> Self {
        Self {
            pool: None,
            ..self.clone()
        }
    }

    /// Sets one option.
    ///
    /// # Errors
    /// What is wrong with the value, and what could stand there.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let number = |most: u32| match value.parse::<u32>() {
            Ok(n) if (1..=most).contains(&n) => Ok(n),
            _ => Err(format!("{value:?} is no number from 1 to {most}")),
        };
        let size = |least: u64, most: u64| {
            let found = units::parse_size(value).map_err(|e| e.to_string())?;
            if (least..=most).contains(&found) {
                return Ok(found);
            }
            let (least, most) = (units::format_size(least), units::format_size(most));
            Err(format!("{value} is not from {least} to {most}"))
        };
        match key {
            "generation" => {
                self.generation = value.parse().map_err(|e| format!("{e}"))?;
            }
            "capacity" => {
                // Positions are exact in the model up to here.
                self.capacity = Some(size(CAPACITY_LEAST, 1 << 50)?);
            }
            "cartridges" => self.cartridges = number(CARTRIDGES)?,
            "drives" => self.drives = number(DRIVES)?,
            "speed" => self.speed = value.parse().map_err(|e| format!("{e}"))?,
            "block" => {
                let block = size(BLOCK_LEAST, BLOCK_MOST)?;
                self.block = u32::try_from(block).map_err(|e| e.to_string())?;
            }
            "pool" => {
                let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
                if value.is_empty() || value.len() > POOL_MOST || !value.bytes().all(plain) {
                    return Err(format!(
                        "{value:?} is no name of 1 to {POOL_MOST} of a-z, 0-9 and -"
                    ));
                }
                self.pool = Some(value.to_owned());
            }
            _ => return Err("unknown".to_owned()),
        }
        Ok(())
    }
}

impl fmt::Display for TapeOptions {
    /// `generation=LTO-8&...`, only what differs from the defaults.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usual = Self::default();
        let mut parts = Vec::new();
        if self.generation != usual.generation {
            parts.push(format!("generation={}", self.generation));
        }
        if let Some(capacity) = self.capacity {
            parts.push(format!("capacity={}", units::format_size(capacity)));
        }
        if self.cartridges != usual.cartridges {
            parts.push(format!("cartridges={}", self.cartridges));
        }
        if self.drives != usual.drives {
            parts.push(format!("drives={}", self.drives));
        }
        if self.speed != usual.speed {
            parts.push(format!("speed={}", self.speed));
        }
        if self.block != usual.block {
            parts.push(format!(
                "block={}",
                units::format_size(u64::from(self.block))
            ));
        }
        if let Some(pool) = &self.pool {
            parts.push(format!("pool={pool}"));
        }
        f.write_str(&parts.join("&"))
    }
}
