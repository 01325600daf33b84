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

/// Polls for what must come true, with a bound that only a hang reaches.
fn eventually(mut condition: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while !condition() {
        assert!(std::time::Instant::now() < end, "it never came true");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
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
    // The first scan would look at these files, too, and set right what lacks its record.
    let catalog = bench.engine().catalog();
    eventually(|| catalog.scan_state().unwrap().finished_generation != 0);
    stripped(&bench, "whole", 1);
    stripped(&bench, "empty", 2);
    stripped(&bench, "seen", 3);
    assert_eq!(judged(&bench, "seen"), (Some(false), true));
    // The writer ends when it has done what it had; from then on nothing can be told.
    catalog.refuse_changes();
    eventually(|| {
        let told = catalog.settle(crate::catalog::Durability::Relaxed);
        told.is_err()
    });
    assert_eq!(judged(&bench, "whole"), (Some(false), false));
    bench.write("new", &noise(BIG, 4));
    assert_eq!(judged(&bench, "new"), (Some(false), false));
    // Its owner may have emptied it a moment ago, which the catalog cannot be told.
    emptied(&bench, "empty");
    assert_eq!(judged(&bench, "empty"), (None, false));
    bench.engine().catalog().refuse_reads();
    assert_eq!(judged(&bench, "whole"), (Some(false), false));
    assert_eq!(judged(&bench, "empty"), (None, false));
}

/// ext4 puts the attributes of a file into a block that counts as its own.
#[test]
fn p6_a_lost_file_with_a_block_of_attributes_shows_lost() {
    use crate::catalog::Durability;
    use crate::hsm::residency::HsmResidency;
    use cairn_fuse::{Caller, FileRef, Residency};
    let bench = Bench::new(&[Place::Beside], small(), NOTHING);
    stripped(&bench, "f", 1);
    let (engine, row) = (bench.engine(), bench.node("f"));
    let catalog = engine.catalog();
    catalog
        .set_state(row.id, FileState::Released, None, Durability::Full)
        .unwrap();
    emptied(&bench, "f");
    // Looks just the same.
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(bench.root.join("f"));
    std::os::unix::fs::FileExt::write_at(&file.unwrap(), b"x", 0).unwrap();
    let fd = path(&bench, "f");
    rustix::fs::syncfs(engine.backing().root()).unwrap();
    let stat = engine.backing().stat(fd.as_fd()).unwrap();
    assert!(stat.blocks > 0);
    let residency = HsmResidency::new(
        engine.recaller().unwrap(),
        engine.asks(),
        engine.changelog(),
        None,
    );
    let handle = bench.handle("f");
    let file = FileRef {
        handle: &handle,
        fd: fd.as_fd(),
    };
    let me = Caller {
        uid: 0,
        gid: 0,
        pid: 1,
    };
    let name = std::ffi::OsStr::new("user.cairn.state");
    let state = residency.attribute(file, name, me);
    assert_eq!(state, Some(Ok(b"lost".to_vec())));
    assert!(residency.attribute_may_wait(name));
}
