//! What the years do to a library, as its state keeps it: errors, what is retired, what is away.

use super::text;
use crate::tier::tape::label::Barcode;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::SystemTime;

/// Bad files of one cartridge that are remembered.
const BAD: usize = 1000;

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Loading.
    Load,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Load => "load",
        })
    }
}

/// Errors of a cartridge or of a drive, ever.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Errors {
    /// Reads that failed.
    #[serde(default)]
    pub read: u64,
    /// Writes that failed.
    #[serde(default)]
    pub write: u64,
    /// Loads that failed.
    #[serde(default)]
    pub load: u64,
    /// The latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastError>,
}

/// An error, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastError {
    /// When, seconds since 1970.
    pub at: u64,
    /// What failed.
    pub fault: Fault,
    /// With which cartridge, or in which drive.
    pub with: String,
    /// Why.
    pub why: String,
}

impl Errors {
    pub(super) fn is_none(&self) -> bool {
        self.all() == 0 && self.last.is_none()
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.read
            .saturating_add(self.write)
            .saturating_add(self.load)
    }

    /// One more.
    pub fn note(&mut self, fault: Fault, with: String, why: String) {
        let count = match fault {
            Fault::Read => &mut self.read,
            Fault::Write => &mut self.write,
            Fault::Load => &mut self.load,
        };
        *count = count.saturating_add(1);
        let at = now();
        self.last = Some(LastError {
            at,
            fault,
            with,
            why,
        });
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |t| t.as_secs())
}

/// A drive of which there is something to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriveEntry {
    /// Its number, from 1.
    pub number: u32,
    /// Why it is not used any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<String>,
    /// What went wrong with it.
    #[serde(default)]
    pub errors: Errors,
    /// The cartridges with which it failed, each once, since it last did not.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "barcodes")]
    pub streak: Vec<Barcode>,
}

impl DriveEntry {
    pub(super) fn new(number: u32) -> Self {
        Self {
            number,
            retired: None,
            errors: Errors::default(),
            streak: Vec::new(),
        }
    }
}

/// Where an exported cartridge lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Away {
    /// Its image.
    pub path: String,
    /// Since when, seconds since 1970.
    pub since: u64,
    /// Sum of the files in its index, if it was seen whole and its index was durable when it went:
    /// an index of that sum knows all that is on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<u32>,
}

impl Away {
    /// From now on.
    #[must_use]
    pub fn at(path: String) -> Self {
        let since = now();
        let whole = None;
        Self { path, since, whole }
    }
}

/// A file that could not be read, or was not what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bad {
    /// Number of the object that its HDR1 is.
    pub object: u64,
    /// What was seen.
    pub why: String,
}

impl super::Entry {
    /// A file on it is bad.
    pub fn spoiled(&mut self, object: u64, why: String) {
        self.mended(object);
        if self.bad.len() < BAD {
            self.bad.push(Bad { object, why });
        }
    }

    /// A file on it is not bad (any more). `true`: it was thought so.
    pub fn mended(&mut self, object: u64) -> bool {
        let before = self.bad.len();
        self.bad.retain(|bad| bad.object != object);
        self.bad.len() < before
    }
}

/// A state of version 1 as one of version 2: its retired drives were pairs.
pub(super) fn bring_forward(value: &mut serde_json::Value) {
    let Some(fields) = value.as_object_mut() else {
        return;
    };
    let Some(retired) = fields.remove("retired_drives") else {
        return;
    };
    let drive = |pair: &serde_json::Value| serde_json::json!({ "number": pair.get(0), "retired": pair.get(1) });
    let drives = retired
        .as_array()
        .map(|pairs| pairs.iter().map(drive).collect::<Vec<_>>());
    fields.insert("drives".to_owned(), drives.into());
}

/// Barcodes as texts.
mod barcodes {
    use super::{Barcode, text};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct One(#[serde(with = "text")] Barcode);

    pub(super) fn serialize<S: Serializer>(all: &[Barcode], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(all.iter().map(|b| One(*b)))
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<Barcode>, D::Error> {
        let all = Vec::<One>::deserialize(from)?;
        Ok(all.into_iter().map(|one| one.0).collect())
    }
}
