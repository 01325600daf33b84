//! Under which epochs an instance writes.

use super::super::{Opening, claim};
use std::os::unix::fs::PermissionsExt;

/// P9: a tier that the state directory never saw may hold later epochs than the backing's mark tells.
#[test]
fn names_are_given_above_every_epoch_of_a_tier_seen_for_the_first_time() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("backing");
    std::fs::create_dir(&root).unwrap();
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o700)).unwrap();
    let opening = Opening {
        backing: root.clone(),
        outside: root.clone(),
        state: dir.path().join("state"),
        force: false,
        ballast: 0,
    };
    let url = |name: &str| {
        let path = dir.path().join(name);
        (name.to_owned(), format!("dir:{}", path.display()))
    };
    let mut claimed = claim(&opening).unwrap();
    let tiers = claimed.open_tiers(&[url("t0"), url("t1")]).unwrap();
    let before = claimed.catalog().next_aggregate().unwrap();
    let latest = crate::id::AggregateId { epoch: 40, seq: 3 };
    let mut put = tiers[1].tier.put(latest, 9).unwrap();
    std::io::Write::write_all(&mut put, b"something").unwrap();
    put.finish(cairn_mover::Crc32c::of(b"something")).unwrap();
    drop((claimed, tiers));
    assert!(before.epoch < 40);
    // As after a restore: the state directory is a fresh one, of the same instance.
    let fresh = dir.path().join("fresh");
    std::fs::create_dir(&fresh).unwrap();
    let identity = "instance.json";
    std::fs::copy(opening.state.join(identity), fresh.join(identity)).unwrap();
    let opening = Opening {
        state: fresh,
        ..opening
    };
    let mut claimed = claim(&opening).unwrap();
    claimed.open_tiers(&[url("t0"), url("t1")]).unwrap();
    let name = claimed.catalog().next_aggregate().unwrap();
    assert!(name > latest, "{name} does not come after {latest}");
    let mark = crate::hsm::backing::Backing::mark_of(&root)
        .unwrap()
        .unwrap();
    assert_eq!(mark.epoch, name.epoch);
}
