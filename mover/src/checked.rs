//! Bytes that nobody can read before they were compared with their checksum.
//!
//! Invariant kept here: a [`Checked`] exists only if its bytes have the sum that was asked for
//! (design, invariant 2). There is no other constructor.

use crate::Crc32c;
use bytes::Bytes;

/// Bytes whose checksum was verified.
#[derive(Clone, PartialEq, Eq)]
pub struct Checked {
    bytes: Bytes,
    sum: Crc32c,
}

/// The bytes are not those that the checksum was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("checksum mismatch over {len} bytes: expected {expected}, found {found}")]
pub struct Mismatch {
    /// The sum recorded when the bytes were written.
    pub expected: Crc32c,
    /// The sum of the bytes that arrived.
    pub found: Crc32c,
    /// How many bytes were compared.
    pub len: usize,
}

impl Checked {
    /// Compares `bytes` with `expected`; on a mismatch the bytes are dropped.
    ///
    /// # Errors
    /// [`Mismatch`] if the sums differ.
    pub fn verify(bytes: Bytes, expected: Crc32c) -> Result<Self, Mismatch> {
        let found = Crc32c::of(&bytes);
        if found == expected {
            Ok(Self { bytes, sum: found })
        } else {
            Err(Mismatch {
                expected,
                found,
                len: bytes.len(),
            })
        }
    }

    /// The verified bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// The verified bytes, shared.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// The sum they were verified against.
    #[must_use]
    pub fn sum(&self) -> Crc32c {
        self.sum
    }
}

impl std::fmt::Debug for Checked {
    /// Length and sum only: user data does not belong in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Checked({} bytes, {})", self.bytes.len(), self.sum)
    }
}
