//! The key of one direction of one stream: it authenticates headers, and seals payloads.
//!
//! AES-256-GCM. A frame's header is authenticated as additional data of an empty message; a
//! payload, where [`Protect::Sealed`] asks for it, is encrypted with its checksum behind it.
//!
//! Invariants kept here:
//! - a nonce is used once: it is the frame's sequence number, which only grows, and one bit that tells
//!   header from payload; a key is of one stream and one direction;
//! - what does not open is not given out.

use crate::checksum::Crc32c;
use crate::iod::Protect;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use std::fmt;

/// Bytes of a tag.
pub(crate) const TAG_LEN: usize = 16;
/// What a sealed payload is longer than its bytes: the checksum, and the tag.
pub(crate) const SEAL_LEN: usize = 4 + TAG_LEN;

/// The bytes are not those that the other end sent at this place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not authentic")]
pub struct NotAuthentic;

/// The key of one direction of one stream.
pub struct StreamKey {
    key: Option<LessSafeKey>,
    protect: Protect,
}

impl StreamKey {
    pub(crate) fn new(key: &[u8; 32], protect: Protect) -> Self {
        // Thirty-two bytes are always a key; without one, nothing would be authentic.
        let key = UnboundKey::new(&AES_256_GCM, key)
            .ok()
            .map(LessSafeKey::new);
        Self { key, protect }
    }

    /// What it protects.
    #[must_use]
    pub fn protect(&self) -> Protect {
        self.protect
    }

    /// What a payload of `len` bytes is on the wire.
    #[must_use]
    pub fn wire_len(&self, len: u32) -> usize {
        match self.protect {
            Protect::None => len as usize,
            Protect::Sealed => len as usize + SEAL_LEN,
        }
    }

    /// The tag of a header.
    pub(crate) fn tag(&self, sequence: u64, header: &[u8]) -> [u8; TAG_LEN] {
        self.seal(nonce(sequence, 0), header, &mut [])
    }

    /// Is `tag` the tag of this header?
    pub(crate) fn check(
        &self,
        sequence: u64,
        header: &[u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), NotAuthentic> {
        let mut tag = *tag;
        let key = self.key.as_ref().ok_or(NotAuthentic)?;
        key.open_in_place(nonce(sequence, 0), Aad::from(header), &mut tag)
            .map_err(|_| NotAuthentic)?;
        Ok(())
    }

    /// Makes `payload` what goes on the wire: as it is, or sealed with its checksum.
    pub(crate) fn close(&self, sequence: u64, payload: &mut Vec<u8>, crc: Crc32c) {
        if self.protect == Protect::None {
            return;
        }
        payload.extend_from_slice(&crc.0.to_le_bytes());
        let tag = self.seal(nonce(sequence, 1), &[], payload);
        payload.extend_from_slice(&tag);
    }

    /// The other way: `payload` becomes the bytes; answers their checksum, `stated` in the
    /// header or sealed with them. The bytes were not compared with it yet.
    pub(crate) fn open(
        &self,
        sequence: u64,
        payload: &mut Vec<u8>,
        stated: Crc32c,
    ) -> Result<Crc32c, NotAuthentic> {
        if self.protect == Protect::None {
            return Ok(stated);
        }
        let key = self.key.as_ref().ok_or(NotAuthentic)?;
        let opened = key.open_in_place(nonce(sequence, 1), Aad::empty(), payload);
        let inner = opened.map_err(|_| NotAuthentic)?.len();
        payload.truncate(inner);
        let Some((_, crc)) = payload.split_last_chunk::<4>() else {
            return Err(NotAuthentic);
        };
        let crc = Crc32c(u32::from_le_bytes(*crc));
        payload.truncate(inner - 4);
        Ok(crc)
    }

    fn seal(&self, nonce: Nonce, aad: &[u8], inner: &mut [u8]) -> [u8; TAG_LEN] {
        let mut tag = [0; TAG_LEN];
        let sealed = self.key.as_ref().and_then(|key| {
            key.seal_in_place_separate_tag(nonce, Aad::from(aad), inner)
                .ok()
        });
        // It fails for messages of 64 GiB alone; zeros would not open.
        if let Some(sealed) = sealed {
            tag.copy_from_slice(sealed.as_ref());
        }
        tag
    }
}

fn nonce(sequence: u64, part: u8) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&sequence.to_le_bytes());
    bytes[8] = part;
    Nonce::assume_unique_for_key(bytes)
}

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamKey({:?})", self.protect)
    }
}
