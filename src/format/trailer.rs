//! The trailer: the last 512 bytes of an aggregate, which say where its index lies.
//!
//! ```text
//!   0 "CAIRNEND" | 8 version u32 | 12 flags u32 = 0 | 16 fs uuid
//!  32 epoch u32 | 36 zero u32 | 40 seq u64 | 48 index offset u64 | 56 index length u64
//!  64 index crc u32 | 68 zero u32 | 72 total length u64 | 80 zeros | 508 crc32c of 0..508
//! ```
//! Magic, version and the sum stand at the same places in every version, so that an old program
//! can tell "newer" from "damaged". The total length is in it so that a trailer inside a longer
//! object (a concatenation, an image inside an image) is not taken for that object's end.

use super::aggregate::{
    AggregateError, HEAD_FLAG, INDEX_ALIGN, PARTS_VERSION, TRAILER_LEN, Trailer, check_version,
    told,
};
use super::index::HEAD_LEN;
use super::wire::{Cursor, Wrong};
use crate::id::{AggregateId, FsUuid};
use cairn_mover::Crc32c;

const MAGIC: &[u8; 8] = b"CAIRNEND";
const LEN: usize = TRAILER_LEN as usize;
const SUM_AT: usize = LEN - 4;

/// Encodes a trailer.
pub(super) fn encode(trailer: &Trailer) -> [u8; LEN] {
    let mut head = Vec::with_capacity(LEN);
    head.extend_from_slice(MAGIC);
    let (version, flags) = told(trailer.aggregate, trailer.in_parts);
    head.extend_from_slice(&version.to_le_bytes());
    head.extend_from_slice(&flags.to_le_bytes());
    head.extend_from_slice(&trailer.fs.0);
    head.extend_from_slice(&trailer.aggregate.epoch.to_le_bytes());
    head.extend_from_slice(&[0; 4]);
    head.extend_from_slice(&trailer.aggregate.seq.to_le_bytes());
    head.extend_from_slice(&trailer.index_offset.to_le_bytes());
    head.extend_from_slice(&trailer.index_len.to_le_bytes());
    head.extend_from_slice(&trailer.index_crc.0.to_le_bytes());
    head.extend_from_slice(&[0; 4]);
    head.extend_from_slice(&trailer.total_len.to_le_bytes());
    let mut out = [0; LEN];
    out[..head.len()].copy_from_slice(&head);
    let sum = Crc32c::of(&out[..SUM_AT]);
    out[SUM_AT..].copy_from_slice(&sum.0.to_le_bytes());
    out
}

/// Decodes the last [`TRAILER_LEN`] bytes of an object of `object_len` bytes.
///
/// # Errors
/// [`AggregateError::NoTrailer`] or [`AggregateError::Newer`].
pub fn decode_trailer(last: &[u8], object_len: u64) -> Result<Trailer, AggregateError> {
    let bytes: &[u8; LEN] = last
        .try_into()
        .map_err(|_| AggregateError::NoTrailer("shorter than a trailer"))?;
    if !bytes.starts_with(MAGIC) {
        return Err(AggregateError::NoTrailer("no magic"));
    }
    let mut cursor = Cursor::new(&bytes[MAGIC.len()..]);
    if Crc32c::of(&bytes[..SUM_AT]).0.to_le_bytes() != bytes[SUM_AT..] {
        return Err(AggregateError::NoTrailer("its checksum is wrong"));
    }
    let version = cursor.u32().map_err(AggregateError::NoTrailer)?;
    let flags = cursor.u32().map_err(AggregateError::NoTrailer)?;
    if version == 0 {
        return Err(AggregateError::NoTrailer("version 0"));
    }
    check_version(version, flags)?;
    let mut trailer = fields(cursor).map_err(AggregateError::NoTrailer)?;
    trailer.in_parts = (version, flags) == (PARTS_VERSION, HEAD_FLAG);
    if told(trailer.aggregate, trailer.in_parts) != (version, flags) {
        return Err(AggregateError::NoTrailer(
            "its name and its flags do not belong together",
        ));
    }
    if trailer.total_len != object_len {
        return Err(AggregateError::NoTrailer(
            "it is of an object of another length",
        ));
    }
    let index_end = trailer.index_offset.checked_add(trailer.index_len);
    let ends_well = index_end.is_some_and(|end| end <= object_len.saturating_sub(TRAILER_LEN));
    if !ends_well || trailer.index_offset % INDEX_ALIGN != 0 || trailer.index_offset == 0 {
        return Err(AggregateError::NoTrailer(
            "its index lies where none can be",
        ));
    }
    if trailer.index_len < HEAD_LEN as u64 {
        return Err(AggregateError::NoTrailer(
            "its index is shorter than an empty one",
        ));
    }
    Ok(trailer)
}

fn fields(mut cursor: Cursor<'_>) -> Result<Trailer, Wrong> {
    let fs = FsUuid(cursor.array()?);
    let epoch = cursor.u32()?;
    let zero = cursor.u32()?;
    let seq = cursor.u64()?;
    let index_offset = cursor.u64()?;
    let index_len = cursor.u64()?;
    let index_crc = Crc32c(cursor.u32()?);
    let zero_too = cursor.u32()?;
    let total_len = cursor.u64()?;
    let rest = cursor.take(cursor.remaining() - 4)?;
    if zero != 0 || zero_too != 0 || rest.iter().any(|b| *b != 0) {
        return Err("bytes that version 1 leaves zero are not");
    }
    Ok(Trailer {
        aggregate: AggregateId { epoch, seq },
        fs,
        index_offset,
        index_len,
        index_crc,
        total_len,
        in_parts: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn trailer() -> Trailer {
        Trailer {
            aggregate: AggregateId { epoch: 3, seq: 9 },
            fs: FsUuid([7; 16]),
            index_offset: 8192,
            index_len: 100,
            index_crc: Crc32c(5),
            total_len: 9216,
            in_parts: false,
        }
    }

    #[test]
    fn round_trip_and_other_lengths() {
        let bytes = encode(&trailer());
        assert_eq!(decode_trailer(&bytes, 9216).unwrap(), trailer());
        assert!(decode_trailer(&bytes, 9217).is_err());
        assert!(decode_trailer(&bytes[1..], 9216).is_err());
        assert!(decode_trailer(&[0; LEN], 9216).is_err());
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut bytes = encode(&trailer());
        bytes[8] = 2;
        bytes[100] = 1;
        let sum = Crc32c::of(&bytes[..SUM_AT]).0.to_le_bytes();
        bytes[SUM_AT..].copy_from_slice(&sum);
        assert!(matches!(
            decode_trailer(&bytes, 9216),
            Err(AggregateError::Newer(2))
        ));
    }

    proptest! {
        #[test]
        fn any_damage_is_seen(at in 0..LEN, bit in 0..8_u32) {
            let mut bytes = encode(&trailer());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode_trailer(&bytes, 9216).is_err());
        }

        #[test]
        fn sealed_nonsense_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), LEN), len: u64) {
            bytes[..12].copy_from_slice(b"CAIRNEND\x01\0\0\0");
            let sum = Crc32c::of(&bytes[..SUM_AT]).0.to_le_bytes();
            bytes[SUM_AT..].copy_from_slice(&sum);
            let _ = decode_trailer(&bytes, len);
        }
    }
}
