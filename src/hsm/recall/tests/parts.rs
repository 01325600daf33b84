//! Recalls of files whose data lie in several objects.

use super::rig::*;
use crate::format::member::Extent;
use crate::id::TierId;
use crate::tier::Tier;

const SHORT: TierId = TierId(3);
const MIB: u64 = 1 << 20;
/// Three blocks and what is around them.
const LONGEST: u64 = 3 * MIB + (160 << 10);

fn rig() -> Rig {
    let rig = Rig::new();
    rig.add_short_tier(SHORT, LONGEST);
    rig
}

fn objects(rig: &Rig) -> usize {
    let tier = rig.above.tiers.lock()[&SHORT].clone();
    tier.list(None, 100).expect("names").len()
}

#[test]
fn a_file_in_parts_is_read_across_their_borders_and_comes_back_whole() {
    let rig = rig();
    let stub = rig.released("large", 10 * MIB + 5, &dense(10 * MIB + 5), &[SHORT]);
    assert!(objects(&rig) >= 3);
    for offset in [3 * MIB - 1000, 6 * MIB - 1, 9 * MIB, 10 * MIB] {
        let want = &stub.content[offset as usize..];
        let len = want.len().min(2000);
        let got = rig.read(&stub, offset, 2000).wait().expect("bytes");
        assert!(got == want[..len], "at {offset}");
    }
    rig.stage(&stub).expect("staged");
    rig.assert_whole(&stub);
    assert!(rig.above.failed.lock().is_empty());
}

#[test]
fn a_sparse_file_in_parts_comes_back_with_its_holes() {
    let rig = rig();
    let run = |offset, len| Extent {
        offset: offset * MIB,
        len,
    };
    let runs = [
        run(1, 2 * MIB + 512),
        run(7, 2 * MIB - 512),
        run(30, 4 * MIB),
        run(40, 700),
    ];
    let stub = rig.released("sparse", 60 * MIB, &runs, &[SHORT]);
    assert!(objects(&rig) >= 3);
    rig.stage(&stub).expect("staged");
    rig.assert_whole(&stub);
    assert!(rig.stat(&stub).blocks * 512 < 12 * MIB, "holes are holes");
}

#[test]
fn a_part_that_is_missing_or_bad_is_read_from_another_copy_and_told_of() {
    for damage in [true, false] {
        let rig = rig();
        let stub = rig.released("large", 10 * MIB, &dense(10 * MIB), &[SHORT, TierId(1)]);
        let tier = rig.above.tiers.lock()[&SHORT].clone();
        let part = stub.record.copies[0].aggregate.part(2);
        if damage {
            tier.control().flip(part, MIB);
        } else {
            tier.delete(part).expect("deleted");
        }
        rig.stage(&stub).expect("staged");
        rig.assert_whole(&stub);
        let failed = rig.above.failed.lock();
        assert_eq!(failed.len(), 1, "told of once: {failed:?}");
        assert_eq!(failed[0].0.tier, SHORT, "{failed:?}");
        let other = rig.above.tiers.lock()[&TierId(1)].clone();
        let lens: Vec<u64> = other.reads.lock().iter().map(|(_, len)| *len).collect();
        if damage {
            assert_eq!(lens, [MIB], "the bad block alone");
        } else {
            assert!(
                lens.contains(&(3 * MIB)) && !lens.contains(&MIB),
                "{lens:?}"
            );
        }
    }
}

#[test]
fn without_another_copy_a_missing_part_is_an_error_and_the_rest_can_be_read() {
    let rig = rig();
    let stub = rig.released("large", 10 * MIB, &dense(10 * MIB), &[SHORT]);
    let tier = rig.above.tiers.lock()[&SHORT].clone();
    let part = stub.record.copies[0].aggregate.part(2);
    tier.delete(part).expect("deleted");
    let first = rig.read(&stub, 0, 4096).wait().expect("of the first part");
    assert!(first == stub.content[..4096]);
    assert!(rig.read(&stub, 4 * MIB, 4096).wait().is_err());
    let last = rig
        .read(&stub, 10 * MIB - 4096, 4096)
        .wait()
        .expect("of the last");
    assert!(last == stub.content[stub.content.len() - 4096..]);
    assert!(rig.stage(&stub).is_err());
    let failed = rig.above.failed.lock();
    let recalls = 5;
    assert!((1..=recalls).contains(&failed.len()), "{failed:?}");
}
