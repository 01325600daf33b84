//! Tests of the fault script itself: each fault strikes, once and as told.

use super::*;
use crate::id::{InstanceId, TierId};
use crate::tier::ErrorKind;
use crate::tier::mem::MemTier;
use std::io::Write;

fn faulty() -> (Faults, Control) {
    let mark = Mark {
        tier: TierId(1),
        owner: InstanceId([1; 16]),
    };
    let tier = Faults::new(Arc::new(MemTier::with_capacity(mark, 1 << 20)));
    let control = tier.control();
    (tier, control)
}

fn name(seq: u64) -> AggregateId {
    AggregateId { epoch: 1, seq }
}

fn store(tier: &dyn Tier, name: AggregateId, data: &[u8]) -> Result<Receipt, TierError> {
    let mut put = tier.put(name, 0)?;
    // The finish says what a failed write was.
    let _ = put.write_all(data);
    put.finish(Crc32c::of(data))
}

fn kind<T>(result: Result<T, TierError>) -> Option<ErrorKind> {
    result.err().map(|e| e.kind())
}

#[test]
fn the_nth_call_from_now_fails_once() {
    let (tier, control) = faulty();
    store(&tier, name(1), b"abc").expect("stored");
    tier.stat(name(1)).expect("before the script");
    control.fail(Operation::Stat, 2, Fault::Unavailable);
    assert_eq!(kind(tier.stat(name(1))), None);
    assert_eq!(kind(tier.stat(name(1))), Some(ErrorKind::Unavailable));
    assert_eq!(kind(tier.stat(name(1))), None);
    assert_eq!(control.calls(Operation::Stat), 4);
}

#[test]
fn every_class_of_fault_is_the_error_of_its_name() {
    let (tier, control) = faulty();
    for (fault, wanted) in [
        (Fault::Unavailable, ErrorKind::Unavailable),
        (Fault::Full, ErrorKind::Full),
        (Fault::Transient, ErrorKind::Transient),
        (Fault::Missing, ErrorKind::Missing),
        (Fault::Exists, ErrorKind::Exists),
        (Fault::Corrupt, ErrorKind::Corrupt),
        (Fault::NotRestored, ErrorKind::NotRestored),
    ] {
        control.fail(Operation::Finish, 1, fault);
        assert_eq!(kind(store(&tier, name(1), b"abc")), Some(wanted));
        assert_eq!(kind(tier.stat(name(1))), Some(ErrorKind::Missing));
    }
}

#[test]
fn the_tier_goes_away_and_comes_back() {
    let (tier, control) = faulty();
    store(&tier, name(1), b"abc").expect("stored");
    control.set_unavailable(true);
    assert_eq!(kind(tier.space()), Some(ErrorKind::Unavailable));
    assert_eq!(kind(tier.read(name(1), 0, 1)), Some(ErrorKind::Unavailable));
    control.set_unavailable(false);
    assert_eq!(kind(tier.read(name(1), 0, 1)), None);
}

#[test]
fn objects_are_cut_flipped_and_mended() {
    let (tier, control) = faulty();
    store(&tier, name(1), &[0; 100]).expect("stored");
    control.truncate(name(1), 50);
    assert_eq!(tier.stat(name(1)).expect("stat"), 50);
    assert_eq!(kind(tier.read(name(1), 40, 11)), Some(ErrorKind::Short));
    assert_eq!(tier.read(name(1), 40, 10).expect("read").len(), 10);
    control.mend(name(1));
    control.flip(name(1), 8 * 60 + 3);
    let bytes = tier.read(name(1), 50, 50).expect("read");
    assert_eq!(bytes[10], 8);
    assert_eq!(bytes.iter().filter(|b| **b != 0).count(), 1);
    assert_eq!(tier.read(name(1), 0, 60).expect("read"), vec![0; 60]);
    control.clear();
    assert_eq!(tier.read(name(1), 0, 100).expect("read"), vec![0; 100]);
    control.spoil(name(1), 60);
    assert_eq!(
        kind(tier.read(name(1), 50, 11)),
        Some(ErrorKind::Unreadable)
    );
    assert_eq!(tier.read(name(1), 50, 10).expect("read"), vec![0; 10]);
    control.mend(name(1));
    assert_eq!(tier.read(name(1), 0, 100).expect("read"), vec![0; 100]);
}

#[test]
fn a_put_breaks_half_way_and_leaves_nothing() {
    let (tier, control) = faulty();
    control.break_next_put_at(1000);
    let mut put = tier.put(name(1), 0).expect("put");
    put.write_all(&[1; 900]).expect("before the break");
    let error = put.write_all(&[1; 900]).expect_err("breaks");
    assert_eq!(
        TierError::from_write(error, "t", name(1)).kind(),
        ErrorKind::Transient
    );
    assert!(put.write_all(&[1; 1]).is_err(), "stays broken");
    assert_eq!(kind(put.finish(Crc32c::EMPTY)), Some(ErrorKind::Transient));
    assert_eq!(kind(tier.stat(name(1))), Some(ErrorKind::Missing));
    store(&tier, name(1), &[1; 1800]).expect("the next put is whole");

    control.fail(Operation::Write, 1, Fault::Full);
    assert!(store(&tier, name(2), b"abc").is_err());
    assert_eq!(kind(tier.stat(name(2))), Some(ErrorKind::Missing));
}

#[test]
fn a_lie_on_readback_is_corrupt_once() {
    let (tier, control) = faulty();
    control.lie_on_readback();
    match store(&tier, name(1), b"abc") {
        Err(TierError::Corrupt {
            expected, found, ..
        }) => {
            assert_eq!(expected, Crc32c::of(b"abc"));
            assert_ne!(expected, found);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(kind(tier.stat(name(1))), Some(ErrorKind::Missing));
    store(&tier, name(1), b"abc").expect("the medium is honest again");
}

#[test]
fn memory_has_a_capacity() {
    let (tier, _) = faulty();
    assert_eq!(kind(tier.put(name(1), 2 << 20)), Some(ErrorKind::Full));
    assert_eq!(
        kind(store(&tier, name(1), &vec![1; 2 << 20])),
        Some(ErrorKind::Full)
    );
    store(&tier, name(1), &vec![1; 1 << 20]).expect("the room was given back");
    assert_eq!(tier.space().expect("space").free, Some(0));
    tier.delete(name(1)).expect("delete");
    assert_eq!(tier.space().expect("space").free, Some(1 << 20));
}
