//! The trailer, as it is and with a right sum.
#![no_main]

use cairn::format::aggregate::decode_trailer;
use cairn_mover::Crc32c;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = decode_trailer(bytes, bytes.len() as u64);
    let Ok(mut sealed) = <[u8; 512]>::try_from(bytes) else {
        return;
    };
    let sum = Crc32c::of(&sealed[..508]).0.to_le_bytes();
    sealed[508..].copy_from_slice(&sum);
    let mut len = [0; 8];
    len.copy_from_slice(&sealed[72..80]);
    let len = u64::from_le_bytes(len);
    if let Ok(trailer) = decode_trailer(&sealed, len) {
        assert!(trailer.index_offset + trailer.index_len + 512 <= len);
    }
});
