//! A tier held against the catalog, for whoever asks.

use super::*;
use crate::hsm::reclaim::{Comparison, Differs};
use crate::id::AggregateId;

fn checked(bench: &Bench, closely: bool) -> Comparison {
    let number = bench.engine().check_tier("t0", closely).unwrap();
    let check = wait_for("the check", || {
        let check = bench.engine().tier_check(number).unwrap();
        check.filter(|check| check.ended.is_some())
    });
    check.found.unwrap().unwrap()
}

fn differences(found: &Comparison) -> Vec<(AggregateId, Differs)> {
    let all = found.differences.iter();
    all.map(|one| (one.object, one.differs)).collect()
}

/// An object of one byte, which is no aggregate.
fn put(bench: &Bench, id: AggregateId) {
    let mut put = bench.engine().tiers()[0].tier.put(id, 1).unwrap();
    put.write_all(b"x").unwrap();
    put.finish(cairn_mover::Crc32c::of(b"x")).unwrap();
}

#[test]
fn each_difference_is_named_and_nothing_is_changed() {
    let (bench, clock) = bench();
    let names = ["same", "gone", "short", "lost"];
    for (name, n) in names.iter().zip(1..) {
        bench.write(name, &noise(BIG, n));
        bench.archive(&[name]);
    }
    let copies = names.map(|name| proof::copies_on(&bench, name, 0)[0]);
    let [_, gone, short, lost] = copies.map(|copy| copy.aggregate);
    let found = checked(&bench, true);
    assert_eq!(
        (found.objects, found.alike, found.differ_in_all()),
        (4, 4, 0)
    );
    let bench = bench.again(PLACES, settings(&clock), NOTHING, |_| ());
    settled(&bench);
    // Behind the look at the start, which notes what is missing.
    checked(&bench, false);

    let epoch = bench.engine().shared.incarnation.epoch;
    let strangers = [gone.epoch, epoch, epoch + 1].map(|epoch| AggregateId { epoch, seq: 900 });
    strangers.iter().for_each(|id| put(&bench, *id));
    let tier = &bench.engine().tiers()[0].tier;
    tier.delete(gone).unwrap();
    tier.delete(lost).unwrap();
    let path = proof::object(&bench, 0, short);
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(1000).unwrap();

    let unknown = |id| (id, Differs::Unknown);
    let mut expected = vec![
        unknown(strangers[0]),
        (gone, Differs::Missing),
        (lost, Differs::Missing),
        unknown(strangers[2]),
    ];
    expected.sort_by_key(|(id, _)| *id);
    let sorted = |found: &Comparison| {
        let mut all = differences(found);
        all.sort_by_key(|(id, _)| *id);
        all
    };
    let found = checked(&bench, false);
    assert_eq!(sorted(&found), expected);
    assert_eq!((found.objects, found.alike, found.young), (5, 2, 1));
    assert_eq!(found.counts, [2, 2, 0, 0]);

    let found = checked(&bench, true);
    expected.push((short, Differs::Unlike));
    expected.sort_by_key(|(id, _)| *id);
    assert_eq!(sorted(&found), expected);

    // What the tier cannot say of an object is not held against it.
    *bench.unseen[0].lock() = Some(lost);
    let found = checked(&bench, false);
    assert_eq!(found.counts, [1, 2, 0, 1]);

    // Nothing was written down.
    for (name, copy) in names.iter().zip(&copies) {
        let now = proof::copies_on(&bench, name, 0);
        assert_eq!(now[0].state, copy.state, "{name}");
    }
    assert!(bench.engine().tier_check(900).is_err());
    assert!(bench.engine().check_tier("nowhere", false).is_err());
}

#[test]
fn many_objects_are_compared_page_by_page() {
    let (bench, clock) = bench();
    bench.write("f", b"bytes");
    bench.archive(&["f"]);
    let epoch = bench.engine().shared.incarnation.epoch;
    for seq in 100..1500 {
        put(&bench, AggregateId { epoch, seq });
    }
    let bench = bench.again(PLACES, settings(&clock), NOTHING, |_| ());
    settled(&bench);
    let found = checked(&bench, false);
    assert_eq!((found.objects, found.alike), (1401, 1));
    assert_eq!(found.counts, [0, 1400, 0, 0]);
    assert_eq!(found.differences.len(), 1000);
}
