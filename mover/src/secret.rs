//! What the two ends of a transfer know and nobody else: the secret, and what is drawn at random.
//!
//! Invariant kept here: a secret is never printed, and never compared but through a MAC.

use ring::hmac::{Context, HMAC_SHA256, Key, verify};
use ring::rand::{SecureRandom, SystemRandom};
use std::fmt;

/// Length of a secret, of a nonce, of a proof and of a key, in bytes.
pub(crate) const SECRET_LEN: usize = 32;

/// The system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random bytes")]
pub struct NoRandom;

/// `N` bytes from the system's source of randomness.
///
/// # Errors
/// [`NoRandom`] if there is none.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], NoRandom> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandom)?;
    Ok(bytes)
}

/// The name of a transfer: 128 random bits. It is no secret, and proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransferId(pub [u8; 16]);

impl TransferId {
    /// A new one.
    ///
    /// # Errors
    /// [`NoRandom`].
    pub fn generate() -> Result<Self, NoRandom> {
        random().map(Self)
    }
}

impl fmt::Display for TransferId {
    /// Thirty-two lower-case hex digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TransferId({self})")
    }
}

/// Which stream of a transfer: the dialler counts up, and no number is used twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct StreamIndex(pub u16);

impl fmt::Display for StreamIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The secret of one transfer: 256 random bits, agreed on the control channel, used for nothing else.
#[derive(Clone)]
pub struct Secret([u8; SECRET_LEN]);

impl Secret {
    /// A new one.
    ///
    /// # Errors
    /// [`NoRandom`].
    pub fn generate() -> Result<Self, NoRandom> {
        random().map(Self)
    }

    /// One that arrived over the control channel.
    #[must_use]
    pub fn from_bytes(bytes: [u8; SECRET_LEN]) -> Self {
        Self(bytes)
    }

    /// Its bytes, for the control channel alone.
    #[must_use]
    pub fn expose(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }

    /// HMAC-SHA256 over `parts`, one behind the other.
    pub(crate) fn mac(&self, parts: &[&[u8]]) -> [u8; SECRET_LEN] {
        let tag = self.context(parts).sign();
        let mut mac = [0; SECRET_LEN];
        mac.copy_from_slice(tag.as_ref());
        mac
    }

    /// Is `mac` the HMAC-SHA256 over `parts`? Takes the same time wherever they differ.
    pub(crate) fn proves(&self, parts: &[&[u8]], mac: &[u8]) -> bool {
        let key = Key::new(HMAC_SHA256, &self.0);
        verify(&key, &parts.concat(), mac).is_ok()
    }

    fn context(&self, parts: &[&[u8]]) -> Context {
        let key = Key::new(HMAC_SHA256, &self.0);
        let mut context = Context::with_key(&key);
        parts.iter().for_each(|part| context.update(part));
        context
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(not shown)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_hmac_sha256() {
        // RFC 4231, test case 2 has a key of four bytes; zeros behind it are the same key.
        let mut key = [0; SECRET_LEN];
        key[..4].copy_from_slice(b"Jefe");
        let mac = Secret::from_bytes(key).mac(&[b"what do ya want ", b"for nothing?"]);
        assert_eq!(mac[..4], [0x5b, 0xdc, 0xc1, 0x46]);
        assert_eq!(mac[28..], [0x64, 0xec, 0x38, 0x43]);
    }

    #[test]
    fn a_secret_is_not_printed() {
        let shown = format!("{:?}", Secret::from_bytes([0xab; SECRET_LEN]));
        assert!(!shown.contains("ab") && !shown.contains("171"), "{shown}");
    }
}
