//! Listings of copies, and what reads that overlap may note.

use super::*;

const MANY: u64 = 2000;

/// One aggregate of `MANY` + 1 files' copies, the last two of which share a member.
fn shared() -> (Rig, NewAggregate) {
    let rig = Rig::new();
    let aggregate = NewAggregate {
        tier: TIER,
        id: rig.next_aggregate().unwrap(),
        len: 4096,
        in_parts: false,
        crc: Crc32c(9),
        proof: ProofKind::ReadBack,
    };
    let one = |n: u64| {
        let node = rig.file(n + 10, 5);
        Archived {
            node,
            planned: rig.plan(node),
            version: version_of(node, 1),
            proven: proven(1),
            header: n.min(MANY - 1) * 1024,
            stored_len: 100,
        }
    };
    let all: Vec<_> = (0..=MANY).map(one).collect();
    rig.archived(aggregate, all, at(50)).unwrap();
    (rig, aggregate)
}

#[test]
fn a_listing_in_pages_passes_nobody_who_shares_a_place() {
    let (rig, aggregate) = shared();
    let whole = usize::try_from(MANY).unwrap();
    for limit in [whole, 7] {
        let (mut members, mut after) = (Vec::new(), None);
        loop {
            let page = rig.live_members(TIER, aggregate.id, after, limit).unwrap();
            members.extend(page.iter().map(|c| c.file));
            let Some(last) = page.last() else {
                break;
            };
            after = Some(last.place());
        }
        let different: std::collections::BTreeSet<_> = members.iter().collect();
        assert_eq!((members.len(), different.len()), (whole + 1, whole + 1));
        let (mut found, mut after) = (0, None);
        loop {
            let (page, next) = rig.verifiable(TIER, after, limit).unwrap();
            found += page.len();
            after = next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, whole + 1, "to be verified");
    }
    let all = rig
        .live_members(TIER, aggregate.id, None, whole + 1)
        .unwrap();
    let bad = all.into_iter().map(|copy| (copy, CopyState::Bad)).collect();
    rig.note_checks(bad, at(60), Durability::Full).unwrap();
    let first = rig.bad_copies(TIER, None, whole).unwrap();
    let behind = first.last().map(|bad| bad.copy.place());
    assert_eq!(rig.bad_copies(TIER, behind, whole).unwrap().len(), 1);
}

fn one_bad() -> (Rig, NodeId, Copy) {
    let rig = Rig::new();
    let node = rig.file(2, 10);
    rig.archive(node, 1, TIER);
    let seen = rig.copies(file_id(node), DataVersion(1)).unwrap()[0];
    let bad = vec![(seen, CopyState::Bad)];
    rig.note_checks(bad, at(60), Durability::Full).unwrap();
    assert_eq!(rig.row(node).copies, 0);
    (rig, node, seen)
}

fn now(rig: &Rig, node: NodeId) -> Copy {
    rig.copies(file_id(node), DataVersion(1)).unwrap()[0]
}

#[test]
fn a_read_that_began_before_a_copy_was_found_bad_does_not_make_it_good() {
    let (rig, node, seen) = one_bad();
    let good = |copy| {
        let told = vec![(copy, CopyState::Good)];
        rig.note_checks(told, at(70), Durability::Full).unwrap();
    };
    good(seen);
    let copy = now(&rig, node);
    assert_eq!((copy.state, rig.row(node).copies), (CopyState::Bad, 0));
    assert_eq!(copy.last_verified, seen.last_verified);
    // One that began since does, and it counts again.
    good(copy);
    let copy = now(&rig, node);
    assert_eq!((copy.state, rig.row(node).copies), (CopyState::Good, 1));
    assert_eq!(copy.last_verified, Some(at(70)));
    // Whoever still thinks that it is bad, and says so, is counted too.
    let stale = Copy {
        state: CopyState::Bad,
        ..copy
    };
    let told = vec![(stale, CopyState::Bad)];
    rig.note_checks(told, at(80), Durability::Full).unwrap();
    assert_eq!(rig.row(node).copies, 0);
}

#[test]
fn a_retired_copy_stays_bad() {
    let (rig, node, _) = one_bad();
    let bad = now(&rig, node);
    rig.connection()
        .execute("UPDATE copies SET live = 0", [])
        .unwrap();
    let told = vec![(bad, CopyState::Good)];
    rig.note_checks(told, at(70), Durability::Full).unwrap();
    assert_eq!(now(&rig, node).state, CopyState::Bad);
}
