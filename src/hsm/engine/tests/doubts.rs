//! Files without a record, and a catalog that cannot be asked, or not be told.

use super::*;
use crate::hsm::backing::How;
use crate::hsm::rig::noise;
use std::os::fd::{AsFd, OwnedFd};

const BIG: usize = 256 << 10;

fn path(bench: &Bench, name: &str) -> OwnedFd {
    let backing = bench.engine().backing();
    let fd = backing.open_node(&bench.handle(name), None, How::Path);
    fd.unwrap()
}

/// Archived; then its record is gone.
fn stripped(bench: &Bench, name: &str, seed: u64) {
    bench.write(name, &noise(BIG, seed));
    bench.archive(&[name]);
    let fd = path(bench, name);
    bench.engine().backing().remove_record(fd.as_fd()).unwrap();
}

/// As large as before, and nothing in it.
fn emptied(bench: &Bench, name: &str) {
    let path = bench.root.join(name);
    let file = std::fs::OpenOptions::new().write(true).open(path);
    let file = file.unwrap();
    file.set_len(0).unwrap();
    file.set_len(BIG as u64).unwrap();
}

/// Lost or not, if that can be told; and whether that is remembered.
fn judged(bench: &Bench, name: &str) -> (Option<bool>, bool) {
    let (shared, node) = (&bench.engine().shared, bench.handle(name));
    let lost = shared.is_lost(&node, path(bench, name).as_fd());
    (lost.ok(), shared.believed.holds(&node))
}

#[test]
fn p6_a_full_state_directory_refuses_no_file_that_holds_its_data() {
    let bench = Bench::new(&[Place::Beside], small(), NOTHING);
    stripped(&bench, "whole", 1);
    stripped(&bench, "empty", 2);
    stripped(&bench, "seen", 3);
    emptied(&bench, "empty");
    assert_eq!(judged(&bench, "seen"), (Some(false), true));
    bench.engine().catalog().refuse_changes();
    assert_eq!(judged(&bench, "whole"), (Some(false), false));
    bench.write("new", &noise(BIG, 4));
    assert_eq!(judged(&bench, "new"), (Some(false), false));
    // Its owner may have emptied it a moment ago, which the catalog cannot be told.
    assert_eq!(judged(&bench, "empty"), (None, false));
    bench.engine().catalog().refuse_reads();
    assert_eq!(judged(&bench, "whole"), (Some(false), false));
    assert_eq!(judged(&bench, "empty"), (None, false));
}
