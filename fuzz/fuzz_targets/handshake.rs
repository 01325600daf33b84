//! The handshake: nobody gets in with bytes that were not made with the secret, at either end.
#![no_main]

use cairn_mover::handshake::{Challenging, Dialling, Hello, Terms};
use cairn_mover::{Direction, Protect, Secret, StreamIndex, TransferId};
use libfuzzer_sys::fuzz_target;
use std::time::Duration;

fuzz_target!(|bytes: &[u8]| {
    let secret = Secret::from_bytes([9; 32]);
    let terms = Terms {
        transfer: TransferId([1; 16]),
        direction: Direction::ToListener,
        protect: Protect::Sealed,
    };
    let limit = Duration::from_secs(1);
    let (dialling, hello) = Dialling::begin(secret.clone(), terms, StreamIndex(3), [2; 32], limit);
    assert!(dialling.answer(bytes, Duration::ZERO).is_err());
    let hello = Hello::decode(bytes).or_else(|_| Hello::decode(&hello)).expect("ours is one");
    if let Ok((challenging, _)) = Challenging::begin(secret, terms, &hello, [4; 32], limit) {
        assert!(challenging.verify(bytes, Duration::ZERO).is_err());
    }
});
