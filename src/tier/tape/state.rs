//! What a library has, on disk: `library.json`, written whole and by one rename.
//!
//! It says what stands in which slot, whose it is, how it may be used, and what went wrong with it. It
//! never says what is on a cartridge or where to append: the medium does (P9).
//!
//! Version 2 has what went wrong, what is retired, and what is away; and, of a library with pools, no
//! tier, but whose each cartridge is: of one tier or, while it is blank, of none. One of version 1 is a
//! tier's. Version 3 has where a tape ended. Those of earlier versions are read, and are of this one when they are
//! written next.

mod wear;

pub use wear::{Away, Bad, DriveEntry, Errors, Fault, LastError};

use super::label::Barcode;
use super::timing::{Generation, Geometry, ROBOT_MOVE};
use crate::id::TierId;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The state's file.
pub const STATE: &str = "library.json";
const FORMAT: &str = "cairn-library";
const VERSION: u32 = 3;
/// A cartridge is full when less than this part of it is left.
pub(super) const FULL: u64 = 20;
/// A thousand cartridges are some 200 KiB.
const LONGEST: u64 = 64 << 20;

/// Why a state could not be had.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file could not be read or written.
    #[error("{STATE}: {step}: {source}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It is no state of a library.
    #[error(
        "{STATE} is no state of a library ({0}); move it away, and it is made again from the cartridges in cartridges/"
    )]
    Damaged(String),
    /// A later version's.
    #[error("{STATE} is of version {0}, this program knows {VERSION}: use a newer Cairn")]
    Newer(u64),
    /// It has pools, or has none, and the other was asked for.
    #[error("{STATE} is of a library {}: open it so", if *.pools { "with pools (pool=NAME)" } else { "without pools" })]
    Pools {
        /// What it is.
        pools: bool,
    },
    /// Another tier's.
    #[error("{STATE} belongs to tier {found}, the mark says {wanted}")]
    Stranger {
        /// Whose it is.
        found: String,
        /// Whose it should be.
        wanted: TierId,
    },
}

/// All of a library but its cartridges' contents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    format: String,
    version: u32,
    /// Whose it is; not there if it has pools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tier: Option<String>,
    /// Number of slots; a cartridge stands in one, also while it is in a drive.
    pub slots: u32,
    /// What the robot takes for one move, seconds.
    pub robot_move: f64,
    /// Drives of which there is something to say.
    #[serde(default)]
    pub drives: Vec<DriveEntry>,
    /// The cartridges, by barcode.
    pub cartridges: Vec<Entry>,
}

/// One cartridge of a library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its sticker.
    #[serde(with = "text")]
    pub barcode: Barcode,
    /// Its kind.
    #[serde(with = "text")]
    pub generation: Generation,
    /// Bytes that fit on it.
    pub capacity: u64,
    /// Its slot, from 1; it is kept for it while it is away.
    pub slot: u32,
    /// Its tab says: not to be written.
    #[serde(default)]
    pub write_protected: bool,
    /// It met its end before its capacity said so, and what is left is not worth another try.
    #[serde(default)]
    pub full: bool,
    /// So many bytes fit on it and not its capacity: its tape ended there once. It outlives what lies on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<u64>,
    /// In a library with pools: the tier that writes on it; `None`: it is blank, and whoever needs one takes it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "tier")]
    pub owner: Option<TierId>,
    /// Why it is never written again: by somebody's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<String>,
    /// Why it is never written again: writes to it failed on several drives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<String>,
    /// It was exported, and lies there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away: Option<Away>,
    /// Number of the tier that its label names, if it was taken from another one: it is read, and
    /// gets a label of this one when nothing on it is needed any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_from: Option<u32>,
    /// What is needed of it is being copied to others: nothing new goes to it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub repack: bool,
    /// How often it was loaded.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mounts: u64,
    /// How often all on it was dead and it was made empty.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub freed: u64,
    /// What went wrong with it.
    #[serde(default, skip_serializing_if = "Errors::is_none")]
    pub errors: Errors,
    /// Drives on which writes to it failed since the last one that did not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_on: Vec<u32>,
    /// Files on it that could not be read, or were not what was written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bad: Vec<Bad>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Entry {
    /// A cartridge of which there is nothing else to say.
    #[must_use]
    pub fn new(barcode: Barcode, geometry: Geometry, slot: u32) -> Self {
        Self {
            barcode,
            generation: geometry.generation,
            capacity: geometry.capacity,
            slot,
            write_protected: false,
            full: false,
            ends: None,
            owner: None,
            retired: None,
            read_only: None,
            away: None,
            taken_from: None,
            repack: false,
            mounts: 0,
            freed: 0,
            errors: Errors::default(),
            failed_on: Vec::new(),
            bad: Vec::new(),
        }
    }

    /// Bytes that fit on it, as far as is known.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.ends.unwrap_or(self.capacity).min(self.capacity)
    }

    /// Its tape ended at so many bytes, of which `used` are files: that is kept, and of two ends the earlier one.
    pub fn ended(&mut self, at: u64, used: u64) {
        let at = at.max(used).min(self.room());
        self.ends = Some(at);
        self.full = at - used < self.capacity / FULL;
    }

    /// Its length and capacity for the model.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        Geometry {
            generation: self.generation,
            capacity: self.capacity,
        }
    }
}

impl State {
    /// An empty library: a tier's, or one with pools.
    #[must_use]
    pub fn new(tier: Option<TierId>) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            tier: tier.map(|tier| tier.to_string()),
            slots: 0,
            robot_move: ROBOT_MOVE,
            drives: Vec::new(),
            cartridges: Vec::new(),
        }
    }

    /// Reads the state of a tier's library, or of one with pools (`tier` is `None`); `None` if there is none.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn read(root: &Path, tier: Option<TierId>) -> Result<Option<Self>, StateError> {
        let io = |source| StateError::Io {
            step: "reading",
            source,
        };
        let mut text = Vec::new();
        match open(&root.join(STATE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other
                .map_err(io)?
                .take(LONGEST)
                .read_to_end(&mut text)
                .map_err(io)?,
        };
        let damaged = |why: String| StateError::Damaged(why);
        // The version first: a newer state may have other fields.
        let mut value: serde_json::Value =
            serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
        if value.get("format").and_then(|f| f.as_str()) != Some(FORMAT) {
            return Err(damaged(format!("its \"format\" is not {FORMAT:?}")));
        }
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(1) => wear::bring_forward(&mut value),
            Some(n) if (2..=u64::from(VERSION)).contains(&n) => {}
            Some(n) if n > u64::from(VERSION) => return Err(StateError::Newer(n)),
            _ => return Err(damaged("its \"version\" is no number above 0".to_owned())),
        }
        let mut state: Self = serde_json::from_value(value).map_err(|e| damaged(e.to_string()))?;
        if state.version == 1 && state.tier.is_none() {
            return Err(damaged("missing field `tier`".to_owned()));
        }
        state.version = VERSION;
        match (&state.tier, tier) {
            (Some(found), Some(wanted)) if *found != wanted.to_string() => {
                let found = found.clone();
                return Err(StateError::Stranger { found, wanted });
            }
            (found, wanted) if found.is_some() != wanted.is_some() => {
                let pools = found.is_none();
                return Err(StateError::Pools { pools });
            }
            _ => {}
        }
        state.check().map_err(damaged)?;
        Ok(Some(state))
    }

    fn check(&self) -> Result<(), String> {
        if !(0.0..=3600.0).contains(&self.robot_move) {
            return Err(format!("a robot's move of {} s", self.robot_move));
        }
        for (at, entry) in self.cartridges.iter().enumerate() {
            if let (Some(_), Some(owner)) = (&self.tier, entry.owner) {
                return Err(format!("{} is of tier {owner} alone", entry.barcode));
            }
            let Entry { barcode, slot, .. } = entry;
            if entry.capacity == 0 || *slot == 0 || *slot > self.slots {
                return Err(format!(
                    "{barcode}: capacity {}, slot {slot}",
                    entry.capacity
                ));
            }
            let earlier = self.cartridges.get(..at).unwrap_or_default();
            if earlier
                .iter()
                .any(|other| other.barcode == *barcode || other.slot == *slot)
            {
                return Err(format!("{barcode} or its slot {slot} is there twice"));
            }
        }
        Ok(())
    }

    /// What is known of a drive.
    pub fn drive(&mut self, number: u32) -> &mut DriveEntry {
        let at = match self.drives.iter().position(|d| d.number == number) {
            Some(at) => at,
            None => {
                self.drives.push(DriveEntry::new(number));
                self.drives.len() - 1
            }
        };
        &mut self.drives[at]
    }

    /// Writes it; durable when this returns.
    ///
    /// # Errors
    /// [`StateError::Io`]; the old one stays.
    pub fn write(&self, root: &Path) -> Result<(), StateError> {
        let io = |source| StateError::Io {
            step: "writing",
            source,
        };
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| io(e.into()))?;
        text.push(b'\n');
        write_whole(root, STATE, &text).map_err(io)
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Puts a file of these bytes in the place of the one that is there, if any, durably. A half-written one
/// has another name, and is overwritten by the next.
pub(super) fn write_whole(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let half = dir.join(format!(".{name}.new"));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.custom_flags(libc::O_NOFOLLOW).open(&half)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&half, dir.join(name))?;
    File::open(dir)?.sync_all()
}

/// A tier's number as eight hex digits, as everywhere.
mod tier {
    use crate::id::TierId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(
        value: &Option<TierId>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(tier) => to.collect_str(tier),
            None => to.serialize_none(),
        }
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<TierId>, D::Error> {
        let text = String::deserialize(from)?;
        match u32::from_str_radix(&text, 16) {
            Ok(number) if number > 0 && text.len() == 8 => Ok(Some(TierId(number))),
            Ok(_) | Err(_) => Err(D::Error::custom(format!("{text:?} is no number of a tier"))),
        }
    }
}

/// What prints and parses, as text.
mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::fmt::Display;
    use std::str::FromStr;

    pub(super) fn serialize<T: Display, S: Serializer>(
        value: &T,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }
    pub(super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<T, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIER: TierId = TierId(7);
    const VERSION_1: &str = include_str!("../../../tests/golden/v1/library.json");
    const VERSION_2: &str = include_str!("../../../tests/golden/v2/library.json");
    const POOLED_2: &str = include_str!("../../../tests/golden/v2/library-pools.json");
    const WHOLE: &str = include_str!("../../../tests/golden/v3/library.json");
    const POOLED: &str = include_str!("../../../tests/golden/v3/library-pools.json");

    fn entry(barcode: &str, slot: u32) -> Entry {
        let geometry = Geometry {
            generation: Generation::Lto9,
            capacity: 1 << 30,
        };
        Entry {
            write_protected: true,
            ..Entry::new(barcode.parse().expect("barcode"), geometry, slot)
        }
    }

    #[test]
    fn a_state_is_read_as_it_was_written() {
        let place = tempfile::tempdir().expect("temporary directory");
        assert_eq!(State::read(place.path(), Some(TIER)).expect("none"), None);
        let mut state = State::new(Some(TIER));
        state.slots = 2;
        state.cartridges = vec![entry("CRN001L9", 1), entry("CRN002L9", 2)];
        state.write(place.path()).expect("is written");
        assert_eq!(
            State::read(place.path(), Some(TIER)).expect("read"),
            Some(state)
        );
        let other = State::read(place.path(), Some(TierId(8)));
        assert!(
            matches!(other, Err(StateError::Stranger { .. })),
            "{other:?}"
        );
    }

    #[test]
    fn a_state_of_version_1_is_read_with_all_that_is_in_it_and_written_as_it_is_now() {
        let place = tempfile::tempdir().expect("temporary directory");
        std::fs::write(place.path().join(STATE), VERSION_1).expect("write");
        let state = State::read(place.path(), Some(TIER)).expect("is read");
        let state = state.expect("is there");
        assert_eq!((state.slots, state.cartridges.len()), (3, 2));
        assert!(state.cartridges[0].full && state.cartridges[1].write_protected);
        assert_eq!(state.drives.len(), 1);
        let retired = state.drives[0].retired.as_deref();
        assert_eq!(
            (state.drives[0].number, retired),
            (2, Some("it failed writing"))
        );
        state.write(place.path()).expect("is written");
        let text = std::fs::read_to_string(place.path().join(STATE)).expect("text");
        assert!(text.contains("\"version\": 3"), "{text}");
        assert_eq!(
            State::read(place.path(), Some(TIER)).expect("again"),
            Some(state)
        );
    }

    #[test]
    fn states_of_earlier_versions_are_read_and_written_as_this_one_always_was() {
        let place = tempfile::tempdir().expect("temporary directory");
        let at = place.path().join(STATE);
        for (old, golden, tier) in [
            (VERSION_2, WHOLE, Some(TIER)),
            (POOLED_2, POOLED, None),
            (WHOLE, WHOLE, Some(TIER)),
            (POOLED, POOLED, None),
        ] {
            let mut state = State::new(tier);
            state.slots = 2;
            state.cartridges = vec![entry("CRN001L9", 1), entry("CRN002L9", 2)];
            state.cartridges[1].owner = tier.is_none().then_some(TierId(0xc0_ffee));
            if old == golden {
                state.cartridges[0].ended(1_072_000_000, 1_071_000_000);
                state.cartridges[1].ended(900_000_000, 80);
            }
            std::fs::write(&at, old).expect("write");
            let read = State::read(place.path(), tier).expect("is read");
            assert_eq!(read, Some(state.clone()));
            state.write(place.path()).expect("is written");
            let text = std::fs::read_to_string(&at).expect("text");
            let as_new = old.replace("\"version\": 2", "\"version\": 3");
            assert_eq!(text, if old == golden { golden } else { &as_new });
        }
    }

    #[test]
    fn a_library_with_pools_and_one_without_are_not_taken_for_each_other() {
        let place = tempfile::tempdir().expect("temporary directory");
        let at = place.path().join(STATE);
        let read = |text: &str, tier| {
            std::fs::write(&at, text).expect("write");
            let error = State::read(place.path(), tier).expect_err(text);
            error.to_string()
        };
        assert!(read(POOLED, Some(TIER)).contains("pool=NAME"));
        assert!(read(WHOLE, None).contains("without pools"));
        assert!(read(VERSION_1, None).contains("without pools"));
        // Of one tier, and yet a cartridge of another.
        let mixed = WHOLE.replace(r#""slot": 1"#, r#""slot": 1, "owner": "00000008""#);
        assert!(read(&mixed, Some(TIER)).contains("alone"));
        assert!(read(&POOLED.replace("00c0ffee", "0"), None).contains("no number"));
        // Version 1 knew no pools.
        let old = POOLED.replace("\"version\": 3", "\"version\": 1");
        assert!(read(&old, None).contains("missing field"));
    }

    #[test]
    fn states_that_are_none_are_refused_with_a_reason() {
        let place = tempfile::tempdir().expect("temporary directory");
        let mut twice = State::new(Some(TIER));
        twice.slots = 2;
        twice.cartridges = vec![entry("CRN001L9", 1), entry("CRN001L9", 2)];
        let twice = serde_json::to_string(&twice).expect("text");
        for (text, says) in [
            ("", "EOF"),
            ("{}", "format"),
            (r#"{"format":"cairn-library","version":0}"#, "version"),
            (
                r#"{"format":"cairn-library","version":4,"shape":1}"#,
                "newer",
            ),
            (r#"{"format":"cairn-library","version":1}"#, "missing field"),
            (r#"{"format":"cairn-library","version":2}"#, "missing field"),
            (&*twice, "twice"),
            (&twice.replace("L9\"", "\""), "no barcode"),
        ] {
            std::fs::write(place.path().join(STATE), text).expect("write");
            let error = State::read(place.path(), Some(TIER))
                .expect_err(text)
                .to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
