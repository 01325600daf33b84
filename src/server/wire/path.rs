//! A path in JSON: readable always, exact also when it is not UTF-8.

use crate::id::{bytes_of_hex, hex_of};
use serde::{Deserialize, Serialize};

/// A path as a user gave it, or beneath what a user gave. Never used to find a file (P15).
///
/// In JSON: `path` (bytes that are not UTF-8 replaced by U+FFFD) and, only when something had to
/// be replaced, `path_hex`, the exact bytes in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct GivenPath {
    path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
}

impl GivenPath {
    /// From exact bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self {
                path: text.to_owned(),
                path_hex: None,
            },
            Err(_) => Self {
                path: String::from_utf8_lossy(bytes).into_owned(),
                path_hex: Some(hex_of(bytes)),
            },
        }
    }

    /// The exact bytes; those of the readable form if the hexadecimal is malformed.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.path_hex
            .as_deref()
            .and_then(bytes_of_hex)
            .unwrap_or_else(|| self.path.clone().into_bytes())
    }

    /// For people: as JSON's `path`.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.path
    }

    /// The path of something directly or further below this one.
    #[must_use]
    pub fn join(&self, below: &[u8]) -> Self {
        let mut bytes = self.bytes();
        if !below.is_empty() {
            if bytes.last() != Some(&b'/') {
                bytes.push(b'/');
            }
            bytes.extend_from_slice(below);
        }
        Self::new(&bytes)
    }

    /// As [`Self::join`]; what lies in the working directory goes by its name alone.
    #[must_use]
    pub fn reach(&self, below: &[u8]) -> Self {
        if self.path == "." && !below.is_empty() {
            return Self::new(below);
        }
        self.join(below)
    }
}

impl From<&[u8]> for GivenPath {
    fn from(bytes: &[u8]) -> Self {
        Self::new(bytes)
    }
}
