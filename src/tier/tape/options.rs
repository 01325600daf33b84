//! What a tape URL says behind its path: how the library is equipped.

use super::clock::Speed;
use super::hardware::Devices;
use super::timing::{Generation, Geometry};
use crate::config::units;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Names of the options.
pub const OPTIONS: [&str; 12] = [
    "generation",
    "capacity",
    "cartridges",
    "drives",
    "speed",
    "block",
    "batch-files",
    "batch-bytes",
    "batch-age",
    "part-reserve",
    "pool",
    "changer",
];

/// Those that equip a virtual library.
const VIRTUAL: [&str; 3] = ["generation", "cartridges", "speed"];

/// Shortest block, bytes: shorter ones make a real drive slow.
const BLOCK_LEAST: u64 = 256 << 10;
/// Longest block, bytes: what drives and kernels take everywhere.
const BLOCK_MOST: u64 = 8 << 20;
/// A barcode has three digits for the number.
const CARTRIDGES: u32 = 999;
/// Each of them has a thread that waits for it.
const FILES: u32 = 64;
/// The front area has room for so many, and a drive is one writer's for as long as they take.
const BYTES_MOST: u64 = 64 << 30;
/// Nobody waits longer for company.
const AGE_MOST: Duration = Duration::from_secs(3600);
/// Percent: a drive warns of a tape's end a sixty-fourth of it before.
const RESERVE: std::ops::RangeInclusive<u8> = 2..=50;
const DRIVES: u32 = 64;
/// Below this the labels would be most of a cartridge.
const CAPACITY_LEAST: u64 = 1 << 20;
/// A pool's name is a directory's, too.
const POOL_MOST: usize = 32;
/// Below a library's root: what belongs to each of its pools.
pub const POOLS: &str = "pools";

/// Files that are written together, behind one synchronisation of their data: as many as wait, within these bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Together {
    /// At most.
    pub files: u32,
    /// Their bytes, at most; one that is longer is written by itself.
    pub bytes: u64,
    /// How long the first waits for others if there are none.
    pub age: Duration,
}

impl Default for Together {
    fn default() -> Self {
        Self {
            files: 16,
            bytes: 1 << 30,
            age: Duration::ZERO,
        }
    }
}

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
    /// What is written behind one synchronisation.
    pub together: Together,
    /// Percent of a cartridge that stay free where a part of a file goes; `None`: the usual.
    pub reserve: Option<u8>,
    /// Which cartridges of the library are this tier's; `None`: all of them.
    pub pool: Option<String>,
    /// The devices of a real library; `None`: it is virtual.
    pub real: Option<Devices>,
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
            together: Together::default(),
            reserve: None,
            pool: None,
            real: None,
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

    /// How many percent of a cartridge are left free where a part of a file goes that is cut to fit: so much earlier than
    /// its capacity says its tape may end.
    #[must_use]
    pub fn part_reserve(&self) -> u64 {
        let usual = if self.real.is_some() { 4 } else { 2 };
        self.reserve.map_or(usual, u64::from)
    }

    /// How many drives the library has.
    #[must_use]
    pub fn count_drives(&self) -> usize {
        match &self.real {
            Some(real) => real.drives.len(),
            None => self.drives as usize,
        }
    }

    /// Do these options, of which those in `given` were given, go together?
    ///
    /// # Errors
    /// The option that does not, and why.
    pub fn check(&self, given: &[&str]) -> Result<(), (&'static str, String)> {
        let Some(real) = &self.real else {
            return Ok(());
        };
        if real.drives.is_empty() {
            let why = "name the drives' devices, too: drives=/dev/nst0,/dev/nst1";
            return Err(("changer", why.to_owned()));
        }
        if real.changer.as_os_str().is_empty() {
            let why = "these are devices: name the changer's, too (changer=/dev/sg3)";
            return Err(("drives", why.to_owned()));
        }
        for key in VIRTUAL {
            if given.contains(&key) {
                let why = "a library with a changer is real, and has its own: leave it out";
                return Err((key, why.to_owned()));
            }
        }
        if given.contains(&"pool") {
            let why = "a library with a changer has no pools in this version: leave it out";
            return Err(("pool", why.to_owned()));
        }
        Ok(())
    }

    fn devices(&mut self) -> &mut Devices {
        self.real.get_or_insert_with(|| Devices {
            changer: PathBuf::new(),
            drives: Vec::new(),
        })
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
            "drives" if value.starts_with('/') => {
                let mut drives = Vec::new();
                for path in value.split(',') {
                    let path = device(path)?;
                    if drives.contains(&path) {
                        return Err(format!("{} is there twice", path.display()));
                    }
                    drives.push(path);
                }
                if drives.len() > DRIVES as usize {
                    return Err(format!("more than {DRIVES} drives"));
                }
                self.devices().drives = drives;
            }
            "drives" => {
                let what = |why| format!("{why}, nor a list of devices (/dev/nst0,/dev/nst1)");
                self.drives = number(DRIVES).map_err(what)?;
            }
            "changer" => self.devices().changer = device(value)?,
            "speed" => self.speed = value.parse().map_err(|e| format!("{e}"))?,
            "block" => {
                let block = size(BLOCK_LEAST, BLOCK_MOST)?;
                self.block = u32::try_from(block).map_err(|e| e.to_string())?;
            }
            "batch-files" => self.together.files = number(FILES)?,
            "batch-bytes" => self.together.bytes = size(1, BYTES_MOST)?,
            "batch-age" => {
                let age = units::parse_duration(value).map_err(|e| e.to_string())?;
                if age > AGE_MOST {
                    return Err(format!(
                        "{value} is more than {}",
                        units::format_duration(AGE_MOST)
                    ));
                }
                self.together.age = age;
            }
            "part-reserve" => {
                let percent = value.parse().ok().filter(|n| RESERVE.contains(n));
                let (least, most) = (RESERVE.start(), RESERVE.end());
                let wrong = || {
                    format!("{value:?} is no number from {least} to {most}: percent of a cartridge")
                };
                self.reserve = Some(percent.ok_or_else(wrong)?);
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

/// A device's path, of what needs no quoting anywhere.
fn device(text: &str) -> Result<PathBuf, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._:+-@=".contains(&b);
    if !text.starts_with('/') || !text.bytes().all(plain) || text.contains("/../") {
        return Err(format!(
            "{text:?} is no device's path of letters, digits and /._:+-@= (as in /dev/sg3 or /dev/tape/by-id/...)"
        ));
    }
    Ok(PathBuf::from(text))
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
        if let Some(Devices { changer, drives }) = &self.real {
            parts.push(format!("changer={}", changer.display()));
            let drives: Vec<String> = drives.iter().map(|d| d.display().to_string()).collect();
            parts.push(format!("drives={}", drives.join(",")));
        } else if self.drives != usual.drives {
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
        let (together, plain) = (self.together, usual.together);
        if together.files != plain.files {
            parts.push(format!("batch-files={}", together.files));
        }
        if together.bytes != plain.bytes {
            parts.push(format!(
                "batch-bytes={}",
                units::format_size(together.bytes)
            ));
        }
        if together.age != plain.age {
            parts.push(format!(
                "batch-age={}",
                units::format_duration(together.age)
            ));
        }
        if let Some(percent) = self.reserve {
            parts.push(format!("part-reserve={percent}"));
        }
        if let Some(pool) = &self.pool {
            parts.push(format!("pool={pool}"));
        }
        f.write_str(&parts.join("&"))
    }
}
