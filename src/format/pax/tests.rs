//! Tests of extended headers.

use super::*;
use proptest::prelude::*;

proptest! {
    #[test]
    fn records_round_trip(pairs in proptest::collection::vec(("[a-zA-Z.]{1,12}", any::<Vec<u8>>()), 0..20)) {
        let body: Vec<u8> = pairs.iter().flat_map(|(k, v)| record(k.as_bytes(), v)).collect();
        let back = records(&body).unwrap();
        prop_assert_eq!(back.len(), pairs.len());
        for ((k, v), (key, value)) in pairs.iter().zip(back) {
            prop_assert_eq!((k.as_bytes(), &v[..]), (key, value));
        }
    }

    #[test]
    fn arbitrary_bodies_never_panic(body: Vec<u8>, text in "[0-9]{0,3} ?[a-z=\n]{0,20}") {
        let _ = records(&body);
        let _ = records(text.as_bytes());
        let _ = (parse_time(&body), parse_identity(&body), parse_composition(&body));
    }

    #[test]
    fn times_round_trip(sec: i64, nsec in 0..1_000_000_000_u32) {
        let when = Timestamp { sec, nsec };
        prop_assert_eq!(parse_time(time(when).as_bytes()), Some(when));
    }

    #[test]
    fn xattrs_round_trip(name in "[a-z%=.3D25]{1,20}", value: Vec<u8>) {
        let record = xattr(name.as_bytes(), &value).unwrap();
        let pairs = records(&record).unwrap();
        let back = parse_xattr(pairs[0].0, pairs[0].1).unwrap();
        prop_assert_eq!(back, Some((name.into_bytes(), value)));
    }
}

#[test]
fn a_records_length_counts_its_own_digits() {
    for len in [
        1, 3, 4, 90, 91, 92, 93, 94, 989, 990, 991, 992, 99_990, 99_991,
    ] {
        let record = record(b"k", &vec![b'v'; len]);
        assert_eq!(records(&record).unwrap()[0].1.len(), len);
    }
}

#[test]
fn times_before_1970_count_down() {
    let half_before = Timestamp {
        sec: -1,
        nsec: 500_000_000,
    };
    assert_eq!(time(half_before), "-0.5");
    assert_eq!(time(Timestamp { sec: -2, nsec: 0 }), "-2");
    assert_eq!(parse_time(b"-0"), Some(Timestamp::default()));
    assert_eq!(parse_time(b"1.0000000001"), None);
}

#[test]
fn comments_round_trip() {
    let mut whose = DataIdentity {
        file: FileId([3; 16]),
        version: DataVersion(12),
        crc: Some(Crc32c(0xab)),
    };
    assert_eq!(parse_identity(identity(&whose).as_bytes()), Some(whose));
    whose.crc = None;
    assert_eq!(parse_identity(identity(&whose).as_bytes()), Some(whose));
    assert_eq!(parse_identity(b"cairn2 id=x"), None);
    let what = (
        AggregateId { epoch: 1, seq: 2 },
        FsUuid([9; 16]),
        Timestamp { sec: 5, nsec: 1 },
    );
    assert_eq!(
        parse_composition(composition(what.0, what.1, what.2).as_bytes()),
        Some(what)
    );
}
