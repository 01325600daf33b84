//! Frames: there and back, and everything that must end a stream.

use super::*;
use crate::iod::Protect;
use proptest::prelude::*;

const BLOCK: u32 = 4096;

fn pair(protect: Protect) -> (Outgoing, Incoming) {
    let key = || StreamKey::new(&[5; 32], protect);
    (Outgoing::new(key()), Incoming::new(key(), BLOCK))
}

fn data(out: &mut Outgoing, offset: u64, bytes: &[u8]) -> ([u8; HEADER_LEN], Vec<u8>) {
    let mut payload = bytes.to_vec();
    let (header, _) = out.seal(Kind::Data, offset, &mut payload, Crc32c::of(bytes));
    (header, payload)
}

#[test]
fn there_and_back() {
    for protect in [Protect::None, Protect::Sealed] {
        let (mut out, mut incoming) = pair(protect);
        for n in 0..3_u64 {
            let (header, mut payload) = data(&mut out, n * 4096, b"bytes");
            let header = incoming.header(&header).unwrap();
            assert_eq!(header.range(), ByteRange::new(n * 4096, 5));
            assert_eq!(incoming.wire_len(&header), payload.len());
            let sum = incoming.open(&header, &mut payload).unwrap();
            assert_eq!(
                (payload.as_slice(), sum),
                (&b"bytes"[..], Crc32c::of(b"bytes"))
            );
        }
        let bare = incoming.header(&out.bare(Kind::Ack, 7)).unwrap();
        assert_eq!(
            (bare.kind, bare.offset, incoming.wire_len(&bare)),
            (Kind::Ack, 7, 0)
        );
    }
}

#[test]
fn a_sealed_frame_shows_neither_bytes_nor_sum() {
    let (mut out, _) = pair(Protect::Sealed);
    let (header, payload) = data(&mut out, 0, b"secret words");
    assert!(!payload.windows(6).any(|w| w == b"secret"));
    assert_eq!(header[24..28], [0; 4]);
}

#[test]
fn replayed_skipped_and_foreign_headers_are_refused() {
    let (mut out, mut incoming) = pair(Protect::None);
    let (first, _) = data(&mut out, 0, b"a");
    let (second, _) = data(&mut out, 1, b"b");
    assert_eq!(incoming.header(&second).unwrap_err(), FrameFault::Header);
    incoming.header(&first).unwrap();
    assert_eq!(incoming.header(&first).unwrap_err(), FrameFault::Header);
    let mut other = Outgoing::new(StreamKey::new(&[6; 32], Protect::None));
    let foreign = [data(&mut other, 0, b"a").0, data(&mut other, 1, b"b").0];
    assert_eq!(
        incoming.header(&foreign[1]).unwrap_err(),
        FrameFault::Header
    );
    incoming.header(&second).unwrap();
}

#[test]
fn oversized_and_misshapen_frames_are_refused() {
    let (mut out, mut incoming) = pair(Protect::None);
    let (long, _) = data(&mut out, 0, &[0; BLOCK as usize + 1]);
    let oversized = FrameFault::Oversized {
        len: BLOCK + 1,
        most: BLOCK,
    };
    assert_eq!(incoming.header(&long).unwrap_err(), oversized);
    let (mut out, mut incoming) = pair(Protect::None);
    let empty = out.bare(Kind::Data, 0);
    assert_eq!(incoming.header(&empty).unwrap_err(), FrameFault::Shape(1));
    let (mut out, mut incoming) = pair(Protect::None);
    let (control, _) = out.seal(Kind::Abort, 0, &mut vec![0; 513], Crc32c::EMPTY);
    assert!(matches!(
        incoming.header(&control),
        Err(FrameFault::Oversized { .. })
    ));
    let (mut out, mut incoming) = pair(Protect::None);
    let (ack, _) = out.seal(Kind::Ack, 0, &mut vec![0], Crc32c::EMPTY);
    assert_eq!(incoming.header(&ack).unwrap_err(), FrameFault::Shape(2));
}

#[test]
fn the_total_has_twelve_bytes() {
    let total = Total {
        bytes: 1 << 40,
        crc: Crc32c(7),
    };
    assert_eq!(Total::decode(&total.encode()).unwrap(), total);
    assert!(Total::decode(&total.encode()[1..]).is_err());
    assert!(Total::decode(&[0; 13]).is_err());
}

proptest! {
    #[test]
    fn any_changed_byte_is_refused(sealed: bool, at: usize, flip in 1_u8.., bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
        let (mut out, mut incoming) = pair(if sealed { Protect::Sealed } else { Protect::None });
        let (mut header, mut payload) = data(&mut out, 77, &bytes);
        let at = at % (HEADER_LEN + payload.len());
        if at < HEADER_LEN {
            header[at] ^= flip;
            prop_assert_eq!(incoming.header(&header), Err(FrameFault::Header));
        } else {
            payload[at - HEADER_LEN] ^= flip;
            let header = incoming.header(&header).unwrap();
            prop_assert!(incoming.open(&header, &mut payload).is_err());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(fields: [u8; TAGGED], tag: [u8; TAG_LEN], mut payload: Vec<u8>) {
        if let Ok(header) = Header::decode(&fields) {
            prop_assert_eq!(header.encode(), fields);
            for protect in [Protect::None, Protect::Sealed] {
                let (_, incoming) = pair(protect);
                let opened = incoming.open(&header, &mut payload);
                prop_assert!(opened.is_err() || protect == Protect::None);
            }
        }
        let mut bytes = [0; HEADER_LEN];
        bytes[..TAGGED].copy_from_slice(&fields);
        bytes[TAGGED..].copy_from_slice(&tag);
        let _ = Total::decode(&payload);
        prop_assert!(pair(Protect::None).1.header(&bytes).is_err());
    }
}
