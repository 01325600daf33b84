//! Good, damaged and truncated copies.

use super::*;
use crate::hsm::rig::{Rig, noise};

const BLOCKS: usize = 12;

/// A large member alone in its aggregate.
fn stored(rig: &Rig) -> (AggregateId, IndexEntry) {
    rig.write("f", &noise(BLOCKS << 20, 1));
    rig.archived("f");
    let name = *rig.tier.names().last().unwrap();
    let (_, index) = read_index(&rig.tier, name).unwrap();
    let entry = index.entries.into_iter().find(is_data).unwrap();
    (name, entry)
}

#[test]
fn a_good_copy_is_good() {
    let rig = Rig::new();
    let (name, entry) = stored(&rig);
    let verdict = verify_member(&rig.tier, name, &entry, &|| false).unwrap();
    assert!(verdict.is_good());
    assert_eq!(verdict.bytes, (BLOCKS << 20) as u64);
}

#[test]
fn flipped_bits_are_named_by_block() {
    let rig = Rig::new();
    let (name, entry) = stored(&rig);
    rig.tier.damage(name, |bytes| {
        bytes[entry.data as usize + (2 << 20)] ^= 1;
        bytes[entry.data as usize + (11 << 20) - 1] ^= 0x80;
    });
    let verdict = verify_member(&rig.tier, name, &entry, &|| false).unwrap();
    assert_eq!(
        verdict.bad.iter().map(|b| b.block).collect::<Vec<_>>(),
        [2, 10]
    );
    let all = verify_aggregate(&rig.tier, name, &|| false).unwrap();
    assert_eq!((all.members, all.bad), (1, vec![verdict]));
}

#[test]
fn what_the_medium_does_not_give_is_named_by_block() {
    let rig = Rig::new();
    let (name, entry) = stored(&rig);
    let bad = entry.data + (5 << 20);
    let tier = crate::tier::faults::Faults::new(std::sync::Arc::new(rig.tier.clone()));
    tier.control().spoil(name, bad);
    let verdict = verify_member(&tier, name, &entry, &|| false).unwrap();
    let found: Vec<_> = verdict.bad.iter().map(|b| (b.block, b.found)).collect();
    assert_eq!(found, [(5, None)]);
}

#[test]
fn a_truncated_object_has_no_index_and_only_its_first_blocks() {
    let rig = Rig::new();
    let (name, entry) = stored(&rig);
    rig.tier.damage(name, |bytes| {
        bytes.truncate(entry.data as usize + (9 << 20))
    });
    assert!(matches!(
        read_index(&rig.tier, name),
        Err(VerifyError::Index { .. })
    ));
    let verdict = verify_member(&rig.tier, name, &entry, &|| false).unwrap();
    assert_eq!(
        verdict
            .bad
            .iter()
            .map(|b| (b.block, b.found))
            .collect::<Vec<_>>(),
        [(9, None), (10, None), (11, None)]
    );
}

#[test]
fn a_missing_object_says_nothing_about_blocks() {
    let rig = Rig::new();
    let (name, entry) = stored(&rig);
    rig.tier.delete(name).unwrap();
    let gone = verify_member(&rig.tier, name, &entry, &|| false);
    assert!(matches!(
        gone,
        Err(VerifyError::Tier(TierError::Missing { .. }))
    ));
}

#[test]
fn an_index_that_contradicts_itself_is_noticed() {
    let rig = Rig::new();
    let (name, mut entry) = stored(&rig);
    if let Some(identity) = &mut entry.member.identity {
        identity.crc = Some(Crc32c(1));
    }
    let verdict = verify_member(&rig.tier, name, &entry, &|| false).unwrap();
    assert!(verdict.bad.is_empty() && verdict.content_differs && !verdict.is_good());
}

#[test]
fn what_must_be_restored_first_is_neither_good_nor_bad() {
    let rig = Rig::new();
    let (name, entry) = stored(&rig);
    let tier = crate::tier::faults::Faults::new(std::sync::Arc::new(rig.tier.clone()));
    tier.control().stow(name);
    let is_it = |why: VerifyError| {
        let kind = match why {
            VerifyError::Tier(why) => why.kind(),
            why => panic!("{why}"),
        };
        assert_eq!(kind, crate::tier::ErrorKind::NotRestored);
    };
    is_it(verify_member(&tier, name, &entry, &|| false).unwrap_err());
    is_it(verify_copies(&tier, name, &[], &|| false).unwrap_err());
    assert!(is_there(&tier, name).is_err() && is_known_there(&tier, name));
    tier.control().restore(name);
    assert!(
        verify_member(&tier, name, &entry, &|| false)
            .unwrap()
            .is_good()
    );
}
