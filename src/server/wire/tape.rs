//! Tape libraries as the control API shows them: cartridges, drives, what lies on a cartridge, and
//! what can be asked of them.

use super::When;
use serde::{Deserialize, Serialize};

/// Errors of a cartridge or a drive, ever.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TapeErrors {
    /// Reads that failed.
    pub read: u64,
    /// Writes that failed.
    pub write: u64,
    /// Loads that failed.
    pub load: u64,
    /// When the last one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<When>,
    /// What it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// A cartridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapeCartridge {
    /// Its sticker.
    pub barcode: String,
    /// Its kind, as in `LTO-8`.
    pub generation: String,
    /// Bytes that fit on it.
    pub capacity: u64,
    /// Bytes on it, labels included.
    pub used: u64,
    /// Files on it.
    pub files: u64,
    /// Bytes of files that are needed, as far as the library knows.
    pub live: u64,
    /// Bytes of files that were deleted.
    pub dead: u64,
    /// Files that are known to be bad.
    pub bad: u64,
    /// Its slot.
    pub slot: u32,
    /// In a library with pools, the one whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// The drive that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drive: Option<u32>,
    /// Where its image lies while it is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away: Option<String>,
    /// In words: `scratch` (blank, and no pool's), `empty`, `full`, `write-protected`, `away`, `retired`, `read-only`, `failing`,
    /// `damaged`, `unusable`, `repacking`, `foreign`.
    pub state: Vec<String>,
    /// Why, where there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How often it was loaded.
    pub mounts: u64,
    /// How often it was made empty.
    pub freed: u64,
    /// What went wrong with it.
    pub errors: TapeErrors,
}

/// A drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapeDrive {
    /// Its number.
    pub drive: u32,
    /// The cartridge in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds: Option<String>,
    /// Somebody uses it now.
    pub busy: bool,
    /// Why it is not used any more, until the library is opened again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// Why it is not used any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<String>,
    /// Cartridges loaded since the library was opened; so are the next ones.
    pub mounts: u64,
    /// Locates.
    pub locates: u64,
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
    /// Seconds that all of it takes a real drive.
    pub busy_s: u64,
    /// What went wrong with it, ever.
    pub errors: TapeErrors,
}

/// Something in the library's directory that is none of its cartridges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrangeImage {
    /// Its name.
    pub image: String,
    /// What is wrong with it.
    pub why: String,
}

/// A library.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TapeLibrary {
    /// The tier's name; where it was opened directly, its number.
    pub tier: String,
    /// Where it is, without secrets.
    pub url: String,
    /// Why it cannot be looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its cartridges, by barcode.
    pub cartridges: Vec<TapeCartridge>,
    /// Its drives.
    pub drives: Vec<TapeDrive>,
    /// What lies among the cartridges and is none.
    pub strange: Vec<StrangeImage>,
    /// Why not everything can be seen that may be on its cartridges.
    pub unseen: Vec<String>,
}

/// Answer to `GET /v1/tapes`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TapeList {
    /// In the order they were named.
    pub libraries: Vec<TapeLibrary>,
}

/// A file of a cartridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapeFileView {
    /// The object in it.
    pub object: String,
    /// Number of its first data block on the tape.
    pub block: u64,
    /// Blocks of its data.
    pub blocks: u64,
    /// Bytes of all blocks before its labels.
    pub at: u64,
    /// Its length, bytes.
    pub len: u64,
    /// CRC32C of its data, eight hex digits.
    pub crc32c: String,
    /// It was deleted.
    pub dead: bool,
    /// Why it is bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bad: Option<String>,
}

/// Answer to `GET /v1/tapes/{barcode}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapeView {
    /// The tier's name.
    pub tier: String,
    /// The cartridge.
    pub cartridge: TapeCartridge,
    /// Passes of its tape from one end to the other.
    pub wraps: u32,
    /// Its files, in the order in which they lie.
    pub contents: Vec<TapeFileView>,
}

/// What is asked of a library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TapeAct {
    /// Make new cartridges: these, or so many more.
    Label {
        /// Which.
        #[serde(default)]
        barcodes: Vec<String>,
        /// How many, if none is named.
        #[serde(default)]
        count: u32,
    },
    /// Use a cartridge or drive no more; or again.
    Retire {
        /// A cartridge.
        #[serde(default)]
        barcode: Option<String>,
        /// A drive.
        #[serde(default)]
        drive: Option<u32>,
        /// Use it again.
        #[serde(default)]
        undo: bool,
    },
    /// Take a cartridge out.
    Export {
        /// Which.
        barcode: String,
        /// The directory where its image goes; else the library's own place.
        #[serde(default)]
        to: Option<String>,
    },
    /// Take a cartridge in.
    Import {
        /// A barcode, or the path of an image.
        what: String,
        /// Also one that another tier wrote.
        #[serde(default)]
        take: bool,
    },
    /// Read all of a cartridge. It runs on its own.
    Verify {
        /// Which.
        barcode: String,
    },
    /// Copy what is needed of a cartridge to others. It runs on its own.
    Repack {
        /// Which.
        barcode: String,
    },
}

/// Body of `POST /v1/tapes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapeOrder {
    /// The tier's name; absent: the only one, or the one that has the cartridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// What.
    pub act: TapeAct,
}

/// Answer to an order: what was done, or the run that does it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TapeDone {
    /// The tier.
    pub tier: String,
    /// What was done, one line each.
    pub done: Vec<String>,
    /// Number of the run that does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<u64>,
}

/// A file that is bad, or an object that could not be copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapeTrouble {
    /// The object.
    pub object: String,
    /// What.
    pub why: String,
}

/// A run over a cartridge: answer to `GET /v1/tapes/runs/{number}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TapeRun {
    /// Its number; 0 where nothing gives numbers.
    pub number: u64,
    /// `verify` or `repack`.
    pub act: String,
    /// The tier.
    pub tier: String,
    /// The cartridge.
    pub barcode: String,
    /// When it ended; absent: it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<When>,
    /// Files that were read, or copied.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that are bad; objects that stay where they are.
    pub trouble: Vec<TapeTrouble>,
    /// Copies of files that are bad by that.
    pub bad_copies: u64,
    /// Old objects that wait to be deleted before the cartridge is free.
    pub waiting: u64,
    /// Why it ended early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
