//! Leases on real files.

use super::*;
use crate::hsm::backing::How;
use crate::hsm::rig::{Mapping, Rig, patiently};

#[test]
fn a_lease_alone_excludes_readers_and_mappings() {
    let rig = Rig::new();
    rig.write("f", &[1; 4096]);
    let once = || Lease::take(rig.open("f", How::ReadWrite), LeaseKind::Alone);
    let alone = || patiently(once, |why| matches!(why, LeaseError::InUse));
    assert!(alone().is_ok());
    let path = rig.open("f", How::Path);
    assert!(alone().is_ok(), "an O_PATH descriptor disturbs nobody");
    drop(path);
    let reader = std::fs::File::open(rig.path("f")).unwrap();
    assert!(matches!(alone(), Err(LeaseError::InUse)));
    let mapping = Mapping::readable(reader.as_fd(), 4096);
    drop(reader);
    assert!(
        matches!(alone(), Err(LeaseError::InUse)),
        "the mapping outlives its descriptor"
    );
    drop(mapping);
    assert!(alone().is_ok());
}

#[test]
fn a_dropped_lease_is_gone() {
    let rig = Rig::new();
    rig.write("f", b"x");
    let fd = rig.open("f", How::Read);
    drop(Lease::take(fd.as_fd(), LeaseKind::NoWriters).unwrap());
    assert!(rig.backing.reopen(fd.as_fd(), How::ReadWrite).is_ok());
}
