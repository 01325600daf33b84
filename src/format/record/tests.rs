//! Tests of the record.

use super::*;
use proptest::prelude::*;

fn time() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0..1_000_000_000_u32).prop_map(|(sec, nsec)| Timestamp { sec, nsec })
}

fn copy() -> impl Strategy<Value = CopyHint> {
    any::<(u32, u32, u64, u64)>().prop_map(|(tier, epoch, seq, header)| CopyHint {
        tier: TierId(tier),
        aggregate: AggregateId { epoch, seq },
        header,
    })
}

prop_compose! {
    fn record()(
        state in prop_oneof![Just(State::Resident), Just(State::Released), Just(State::Recalling)],
        (fs, file) in any::<([u8; 16], [u8; 16])>(),
        (version, crc, blocks_crc, size, kind) in any::<(u64, u32, u32, u64, i32)>(),
        mtime in time(), user_ctime in time(), ctime_floor in proptest::option::of(time()),
        handle in proptest::collection::vec(any::<u8>(), 0..128),
        copies in proptest::collection::vec(copy(), 0..12),
    ) -> Record {
        Record {
            state, fs: FsUuid(fs), file: FileId(file), version: DataVersion(version),
            crc: Crc32c(crc), handle: NodeHandle { kind, bytes: handle }, size, mtime, user_ctime,
            ctime_floor, blocks_crc: Crc32c(blocks_crc), copies,
        }
    }
}

proptest! {
    #[test]
    fn records_round_trip_within_their_limit(record in record()) {
        let bytes = record.encode();
        prop_assert!(bytes.len() <= MAX_LEN);
        let back = Record::decode(&bytes).unwrap();
        prop_assert!(back.is_on(&record.handle));
        prop_assert!(record.copies.starts_with(&back.copies));
        prop_assert!(back.copies.len() >= record.copies.len().min(2), "room for two at least");
        let mut expected = record.clone();
        expected.handle.bytes.truncate(40);
        expected.copies.truncate(back.copies.len());
        prop_assert_eq!(&back, &expected);
        prop_assert_eq!(back.encode(), bytes);
    }

    #[test]
    fn any_damage_is_seen(record in record(), at: prop::sample::Index, bit in 0..8_u32) {
        let mut bytes = record.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(Record::decode(&bytes).is_err());
        bytes.truncate(at);
        prop_assert!(Record::decode(&bytes).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes: Vec<u8>, sealed: bool) {
        if sealed {
            bytes.splice(0..0, *b"CRNr\x01");
            bytes.extend_from_slice(&Crc32c::of(&bytes).0.to_le_bytes());
        }
        let _ = Record::decode(&bytes);
    }
}

#[test]
fn a_newer_record_is_told_from_a_damaged_one() {
    let mut newer = b"CRNr\x02whatever".to_vec();
    newer.extend_from_slice(&Crc32c::of(&newer).0.to_le_bytes());
    assert_eq!(Record::decode(&newer), Err(RecordError::Newer(2)));
    assert!(matches!(
        Record::decode(&[0; 200]),
        Err(RecordError::Damaged(_))
    ));
}
