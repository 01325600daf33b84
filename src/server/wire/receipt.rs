//! A file's receipt: what `cairn receipt` shows.

use super::{GivenPath, SubjectRef, When};
use serde::{Deserialize, Serialize};

/// Body of `POST /v1/receipt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptQuery {
    /// The file; the caller must be able to read it.
    pub subject: SubjectRef,
    /// With its SHA-256, for which it is read: from the disk, or from a copy if it is released.
    #[serde(default)]
    pub sha256: bool,
}

/// What copies of a file exist, and by which sums they can be proven without Cairn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The subject's path as given.
    #[serde(flatten)]
    pub path: GivenPath,
    /// Identity of the file.
    pub id: String,
    /// Number of the data version that was archived last.
    pub version: u64,
    /// Its size, bytes.
    pub size: u64,
    /// CRC32C of its whole content, holes as zeros: eight hexadecimal digits.
    pub crc32c: String,
    /// SHA-256 of its whole content, if it was asked for and could be computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// What was read for it, or why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256_note: Option<String>,
    /// The file is still this version, as far as its times tell.
    pub current: bool,
    /// Its copies, good ones first.
    pub copies: Vec<CopyProof>,
    /// A shell function that the commands of `checks` use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup: Option<String>,
}

/// One copy. What is absent is unknown, or not for this caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyProof {
    /// The tier's name.
    pub tier: String,
    /// Where the tier is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// `good`, `suspect` or `bad`.
    pub state: String,
    /// Since when it is proven.
    pub since: When,
    /// How that was: `read-back`, `service-checksum`, `drive`, `volatile` or `learned`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// When it was last read and found good since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<When>,
    /// The aggregate that holds it.
    pub aggregate: String,
    /// The aggregate's length, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregate_len: Option<u64>,
    /// CRC32C of all of the aggregate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregate_crc32c: Option<String>,
    /// The aggregate's file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<GivenPath>,
    /// Its name in the tar archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<GivenPath>,
    /// Offset of its data in the aggregate, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_offset: Option<u64>,
    /// Bytes of data there; fewer than the size where holes are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_len: Option<u64>,
    /// Why more cannot be told now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Commands that prove it without Cairn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckCommand>,
}

/// A verification of copies of the whole archive was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verifying {
    /// The request.
    pub request: u64,
    /// What the sample follows from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// A shell command and what it prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckCommand {
    /// What it proves.
    pub of: String,
    /// For bash.
    pub command: String,
    /// What it prints, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prints: Option<String>,
}
