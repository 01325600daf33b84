//! Reading tiers: objects from the front.

use super::*;
use crate::id::{InstanceId, TierId};
use crate::tier::Mark;
use crate::tier::mem::MemTier;
use cairn_mover::Crc32c;
use std::io::{Read, Seek, SeekFrom, Write};

fn tier(names: &[(u32, u64)], bytes: &[u8]) -> MemTier {
    let mark = Mark {
        tier: TierId(7),
        owner: InstanceId([1; 16]),
    };
    let tier = MemTier::new(mark);
    for (epoch, seq) in names {
        let name = AggregateId {
            epoch: *epoch,
            seq: *seq,
        };
        let mut put = tier.put(name, bytes.len() as u64).unwrap();
        put.write_all(bytes).unwrap();
        put.finish(Crc32c::of(bytes)).unwrap();
    }
    tier
}

#[test]
fn an_object_is_read_and_sought_in_like_a_file() {
    let bytes: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).collect();
    let tier = tier(&[(1, 1)], &bytes);
    let name = AggregateId { epoch: 1, seq: 1 };
    let open = || Object::new(&tier, name, bytes.len() as u64);
    let mut all = Vec::new();
    open().read_to_end(&mut all).unwrap();
    assert!(all == bytes);
    let mut object = open();
    let mut piece = [0; 1000];
    for at in [0, 1_000_000, 999_500, 262_100, 2_799_000] {
        object.seek(SeekFrom::Start(at)).unwrap();
        object.read_exact(&mut piece).unwrap();
        assert_eq!(piece[..], bytes[at as usize..][..1000], "{at}");
        assert_eq!(object.stream_position().unwrap(), at + 1000);
    }
    object.seek(SeekFrom::End(10)).unwrap();
    assert_eq!(object.read(&mut piece).unwrap(), 0);
    assert!(object.seek(SeekFrom::Current(-9_999_999)).is_err());
}
