//! The record: what decodes encodes to the same bytes. The last four bytes are made a right sum, so
//! that the fuzzer gets behind it.
#![no_main]

use cairn::format::record::Record;
use cairn_mover::Crc32c;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = Record::decode(bytes);
    let mut sealed = bytes.to_vec();
    let at = sealed.len().saturating_sub(4);
    let sum = Crc32c::of(&sealed[..at]).0.to_le_bytes();
    sealed.truncate(at);
    sealed.extend_from_slice(&sum);
    if let Ok(record) = Record::decode(&sealed) {
        assert_eq!(record.encode(), sealed);
    }
});
