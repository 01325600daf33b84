//! Frames: no header is believed that was not made with the key; a header's fields there and back; and what
//! an authentic peer may send wrongly (any kind, offset, length and payload) is judged without a panic.
#![no_main]

use cairn_mover::frame::{HEADER_LEN, Header, Incoming, Kind, Outgoing, Total};
use cairn_mover::handshake::{Challenging, Dialling, Hello, Terms};
use cairn_mover::{
    Arrival, ByteRange, Crc32c, Direction, Progress, Protect, Secret, StreamIndex, TransferId,
};
use libfuzzer_sys::fuzz_target;
use std::time::Duration;

const BLOCK: u32 = 4096;

fn pair(protect: Protect) -> Option<(Outgoing, Incoming)> {
    let secret = Secret::from_bytes([9; 32]);
    let (transfer, direction) = (TransferId([1; 16]), Direction::ToListener);
    let terms = Terms { transfer, direction, protect };
    let limit = Duration::from_secs(1);
    let (dialling, hello) = Dialling::begin(secret.clone(), terms, StreamIndex(3), [2; 32], limit);
    let hello = Hello::decode(&hello).ok()?;
    let (challenging, challenge) = Challenging::begin(secret, terms, &hello, [4; 32], limit).ok()?;
    let (proof, dialler) = dialling.answer(&challenge, Duration::ZERO).ok()?;
    let listener = challenging.verify(&proof, Duration::ZERO).ok()?;
    Some((Outgoing::new(dialler.outgoing), Incoming::new(listener.incoming, BLOCK)))
}

fuzz_target!(|bytes: &[u8]| {
    let _ = Total::decode(bytes);
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return;
    };
    if let Some(fields) = header.first_chunk() {
        let _ = Header::decode(fields);
    }
    for protect in [Protect::None, Protect::Sealed] {
        let (mut outgoing, mut incoming) = pair(protect).expect("both know the secret");
        assert!(incoming.header(header).is_err());
        let kinds = [Kind::Data, Kind::Ack, Kind::Finish, Kind::Abort];
        let kind = kinds[usize::from(header[0]) % kinds.len()];
        let offset = u64::from_le_bytes(*header[8..].first_chunk().expect("48 bytes"));
        let mut wire = payload.to_vec();
        let (sealed, _) = outgoing.seal(kind, offset, &mut wire, Crc32c::of(payload));
        let Ok(read) = incoming.header(&sealed) else {
            continue;
        };
        assert!(read.len <= BLOCK);
        if read.len > 0 {
            assert!(incoming.open(&read, &mut wire).is_ok() && wire == payload);
        }
        let range = ByteRange::new(100, 10_000).expect("not empty");
        let arrival = Arrival::new(&[range], BLOCK, Progress::new(b"v", 20_000));
        if let Ok(block) = arrival.expects(read.range()) {
            assert!(range.contains(block));
        }
    }
});
