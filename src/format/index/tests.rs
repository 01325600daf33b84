//! Tests of the index.

use super::super::arbitrary::{compose, members};
use super::super::member::MAX_NAME;
use super::*;
use proptest::prelude::*;

/// A trailer for these index bytes, so that only the index's own checks stand.
fn vouching(bytes: &[u8], like: &Trailer) -> Trailer {
    Trailer {
        index_len: bytes.len() as u64,
        index_crc: Crc32c::of(bytes),
        ..*like
    }
}

/// Puts right sums into a damaged index.
fn reseal(bytes: &mut [u8]) {
    let body = Crc32c::of(&bytes[HEAD_LEN..]).0.to_le_bytes();
    let len = ((bytes.len() - HEAD_LEN) as u64).to_le_bytes();
    bytes[72..80].copy_from_slice(&len);
    bytes[80..84].copy_from_slice(&body);
    let head = Crc32c::of(&bytes[..84]).0.to_le_bytes();
    bytes[84..88].copy_from_slice(&head);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_index_round_trips_and_finds_its_members(members in members()) {
        let (object, index, trailer) = compose(&members);
        let bytes = &object[trailer.index_offset as usize..][..trailer.index_len as usize];
        let back = decode_index(bytes, &trailer).unwrap();
        prop_assert_eq!(&back, &index);
        prop_assert_eq!(encode(&back), bytes);
        for member in &members {
            let entry = back.by_path(&member.path).unwrap();
            prop_assert_eq!(&entry.member.kind, &member.kind);
            if let (Kind::Regular { .. }, Some(identity)) = (&member.kind, member.identity) {
                prop_assert!(back.by_identity(identity.file, identity.version).is_some());
            }
        }
    }

    #[test]
    fn damage_is_seen_and_never_panics(
        members in members(), at: prop::sample::Index, byte: u8, cut: prop::sample::Index,
    ) {
        let (object, _, trailer) = compose(&members);
        let mut bytes = object[trailer.index_offset as usize..][..trailer.index_len as usize].to_vec();
        let at = at.index(bytes.len());
        if bytes[at] != byte {
            bytes[at] = byte;
            prop_assert!(decode_index(&bytes, &trailer).is_err());
            prop_assert!(find_index(&bytes, trailer.index_offset).is_err());
            // Also where the sums were made to fit: an answer, whatever it is, that encodes again.
            reseal(&mut bytes);
            if let Ok(index) = decode_index(&bytes, &vouching(&bytes, &trailer)) {
                prop_assert_eq!(encode(&index), &bytes[..]);
            }
        }
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(find_index(&bytes, trailer.index_offset).is_err());
        if bytes.len() >= HEAD_LEN {
            reseal(&mut bytes);
            let _ = find_index(&bytes, trailer.index_offset);
        }
    }

    #[test]
    fn sealed_nonsense_never_panics(body: Vec<u8>, count in 0..20_u64) {
        let (object, _, trailer) = compose(&[]);
        let mut bytes = object[trailer.index_offset as usize..][..HEAD_LEN].to_vec();
        bytes[64..72].copy_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(&body);
        reseal(&mut bytes);
        let _ = find_index(&bytes, u64::MAX);
    }
}

#[test]
fn counts_beyond_what_is_present_are_refused_before_anything_is_allocated() {
    let (object, _, trailer) = compose(&[]);
    let mut bytes = object[trailer.index_offset as usize..][..HEAD_LEN].to_vec();
    bytes[64..72].copy_from_slice(&u64::MAX.to_le_bytes());
    reseal(&mut bytes);
    assert!(find_index(&bytes, 0).is_err());
    // One regular file that claims 2^60 extents, then one that claims as many blocks.
    for claim in [
        &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10][..],
        &[1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f][..],
    ] {
        let mut entry = vec![1, HAS_IDENTITY | HAS_CRC, 1, b'x', 0, 0, 0];
        entry.extend_from_slice(&[0; 6]);
        entry.extend_from_slice(&[9; 16 + 1 + 4]);
        entry.extend_from_slice(&[0x80, 8, 0x80, 8, 1, 2, 3, 4]);
        entry.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
        entry.extend_from_slice(claim);
        bytes.truncate(HEAD_LEN);
        put_bytes(&mut bytes, &entry);
        bytes[64..72].copy_from_slice(&1_u64.to_le_bytes());
        reseal(&mut bytes);
        let error = find_index(&bytes, u64::MAX).unwrap_err().to_string();
        assert!(
            error.contains("present") || error.contains("fewer block"),
            "{error}"
        );
    }
}

#[test]
fn an_entry_is_compact() {
    let path = "p".repeat(MAX_NAME.min(60));
    let file = Member {
        path: MemberPath::new(path).unwrap(),
        kind: Kind::dense(100_000),
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        mtime: Timestamp {
            sec: 1_700_000_000,
            nsec: 123_456_789,
        },
        atime: Timestamp {
            sec: 1_700_000_100,
            nsec: 123_456_789,
        },
        ctime: Timestamp {
            sec: 1_700_000_000,
            nsec: 123_456_789,
        },
        xattrs: Vec::new(),
        identity: Some(DataIdentity {
            file: FileId([3; 16]),
            version: DataVersion(1),
            crc: None,
        }),
    };
    let (_, _, trailer) = compose(&[file]);
    assert!(
        trailer.index_len - HEAD_LEN as u64 <= 140,
        "{}",
        trailer.index_len
    );
}
