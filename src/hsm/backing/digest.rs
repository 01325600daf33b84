//! SHA-256 of a content, for those who prove files with the tools of every system.

use sha2::{Digest, Sha256};

/// A content summed piece by piece.
#[derive(Debug, Default)]
pub struct ContentDigest(Sha256);

impl ContentDigest {
    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The sum of all of them.
    #[must_use]
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}
