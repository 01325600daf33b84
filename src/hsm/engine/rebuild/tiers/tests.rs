//! Reading tiers: objects from the front.

use super::*;
use crate::hsm::engine::tests::{Bench, NOTHING, Place, small};
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

#[test]
fn a_part_that_cannot_be_looked_at_keeps_nobody_from_the_others_and_is_asked_for_again() {
    let bench = Bench::new(&[Place::Elsewhere], small(), NOTHING);
    bench.bound((3 << 20) + (160 << 10));
    bench.write("d/large", &crate::hsm::rig::noise(9 << 20, 1));
    bench.archive(&["d/large"]);
    bench.write("d/small", &crate::hsm::rig::noise(5 << 10, 2));
    bench.archive(&["d/small"]);
    let shared = &bench.engine().shared;
    let slot = &shared.tiers[0];
    let of = |path: &str| bench.node(path).version.unwrap();
    let aggregate = |path: &str| {
        let copies = shared.catalog.copies(of(path).file, of(path).version);
        copies.unwrap()[0].aggregate
    };
    let (large, small) = (aggregate("d/large"), aggregate("d/small"));
    assert!(large < small, "the other is read behind it");
    let state = || shared.catalog.tier_read(slot.id).unwrap();
    let mut problems = Vec::new();
    bench.hide(Some(large.part(1)));
    read(shared, slot, 99, &mut problems).expect_err("a part is away");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!((state().complete, state().after), (false, None));
    assert!(state().members > 0, "the other was not read");
    bench.hide(None);
    read(shared, slot, 99, &mut problems).expect("all is there");
    assert!(state().complete);
    assert_eq!(problems.len(), 1, "{problems:?}");
    let row = shared.catalog.aggregate(slot.id, large).unwrap().unwrap();
    assert_eq!(row.in_parts, Some(true));
}

#[test]
fn an_index_that_cannot_be_read_now_is_asked_for_again_and_a_bad_one_is_told_of() {
    use crate::tier::faults::{Fault, Faults, Operation};
    let bench = Bench::new(&[Place::Elsewhere], small(), NOTHING);
    bench.bound((3 << 20) + (160 << 10));
    bench.write("d/large", &crate::hsm::rig::noise(9 << 20, 1));
    bench.archive(&["d/large"]);
    let of = bench.node("d/large").version.unwrap();
    let copies = bench.engine().catalog().copies(of.file, of.version);
    let id = copies.unwrap()[0].aggregate;
    let inner = bench.engine().tiers()[0].tier.clone();
    let tier = Faults::new(inner);
    let (len, in_parts) = end_of(&tier, id).ok().expect("all is there");
    assert!(in_parts && len > 9 << 20);
    let calls = || tier.control().calls(Operation::Read);
    let before = calls();
    assert!(end_of(&tier, id).is_ok());
    let reads = calls() - before;
    assert!(reads >= 2, "the trailer, and the index");
    for nth in 1..=reads {
        tier.control()
            .fail(Operation::Read, nth, Fault::Unavailable);
        let failed = end_of(&tier, id).err();
        assert!(matches!(failed, Some(End::Passing(_))), "{nth}");
    }
}
