//! The record of what arrived: what decodes encodes to the same bytes. The last four bytes are made a right sum.
#![no_main]

use cairn_mover::{Crc32c, Progress};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = Progress::decode(bytes);
    let mut sealed = bytes.to_vec();
    let at = sealed.len().saturating_sub(4);
    sealed.truncate(at);
    let sum = Crc32c::of(&sealed).0.to_le_bytes();
    sealed.extend_from_slice(&sum);
    if let Ok(progress) = Progress::decode(&sealed) {
        assert_eq!(progress.encode(), sealed);
        let missing = progress.missing().bytes();
        assert_eq!(missing + progress.bytes(), progress.size());
    }
});
