//! Files without a record, and a catalog that cannot be asked, or not be told.

use super::*;
use crate::hsm::backing::How;
use crate::hsm::rig::noise;
use std::os::fd::{AsFd, OwnedFd};

const BIG: usize = 256 << 10;

pub(super) fn path(bench: &Bench, name: &str) -> OwnedFd {
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
pub(super) fn eventually(mut condition: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while !condition() {
        assert!(std::time::Instant::now() < end, "it never came true");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Lost or not, if that can be told; and whether an open is answered by it.
pub(super) fn judged(bench: &Bench, name: &str) -> (Option<bool>, bool) {
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
    assert_eq!(judged(&bench, "whole"), (Some(false), true));
    bench.write("new", &noise(BIG, 4));
    assert_eq!(judged(&bench, "new"), (Some(false), true));
    // Its owner may have emptied it a moment ago, which the catalog cannot be told.
    emptied(&bench, "empty");
    assert_eq!(judged(&bench, "empty"), (None, false));
    bench.engine().catalog().refuse_reads();
    let shared = &bench.engine().shared;
    shared.believed.forget(&bench.handle("whole"));
    assert_eq!(judged(&bench, "whole"), (Some(false), true));
    assert_eq!(judged(&bench, "empty"), (None, false));
}

/// Room for all of it, and half of it written. `false`: not here.
fn partly_written(bench: &Bench, name: &str) -> bool {
    let path = bench.root.join(name);
    let file = std::fs::OpenOptions::new().write(true).open(path);
    let file = file.unwrap();
    let room = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, BIG as u64);
    std::os::unix::fs::FileExt::write_all_at(&file, &noise(BIG / 2, 9), 0).unwrap();
    file.sync_all().unwrap();
    room.is_ok()
}

/// A file that a recall has half brought back, by the catalog released.
fn half_recalled(bench: &Bench, name: &str, seed: u64) -> bool {
    use crate::catalog::Durability::Full;
    stripped(bench, name, seed);
    let (row, released) = (bench.node(name), FileState::Released);
    let catalog = bench.engine().catalog();
    catalog.set_state(row.id, released, None, Full).unwrap();
    emptied(bench, name);
    partly_written(bench, name)
}

#[test]
fn never_zeros_half_a_recall_is_refused_while_the_catalog_cannot_be_read() {
    let bench = Bench::new(&[Place::Beside], small(), NOTHING);
    let catalog = bench.engine().catalog();
    eventually(|| catalog.scan_state().unwrap().finished_generation != 0);
    if !half_recalled(&bench, "half", 1) {
        eprintln!("SKIPPED never_zeros_half_a_recall: no fallocate here");
        return;
    }
    stripped(&bench, "whole", 2);
    bench.write("sparse", b"");
    emptied(&bench, "sparse");
    partly_written(&bench, "sparse");
    let shared = &bench.engine().shared;
    assert!(!shared.may_be_lost(&bench.handle("sparse"), false));
    catalog.refuse_reads();
    assert_eq!(judged(&bench, "half"), (None, false));
    assert_eq!(judged(&bench, "whole"), (Some(false), true));
    assert_eq!(judged(&bench, "sparse"), (Some(false), true), "nobody's");
}

/// Its size never holds still.
#[test]
fn who_writes_to_a_file_without_a_record_is_believed() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let bench = Bench::new(&[Place::Beside], small(), NOTHING);
    let catalog = bench.engine().catalog();
    eventually(|| catalog.scan_state().unwrap().finished_generation != 0);
    stripped(&bench, "busy", 1);
    let node = bench.handle("busy");
    let (shared, fd) = (&bench.engine().shared, path(&bench, "busy"));
    let file = std::fs::OpenOptions::new()
        .append(true)
        .open(bench.root.join("busy"))
        .unwrap();
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                std::io::Write::write_all(&mut &file, b"+").unwrap();
            }
        });
        let told: Vec<_> = (0..200)
            .map(|_| {
                shared.believed.forget(&node);
                let lost = shared.is_lost(&node, fd.as_fd());
                (lost.ok(), shared.believed.holds(&node))
            })
            .collect();
        end.store(true, Ordering::Relaxed);
        assert!(
            told.iter().all(|told| *told == (Some(false), true)),
            "{told:?}"
        );
    });
}

/// As a release holds it while it begins.
#[test]
fn a_lease_on_a_file_without_a_record_is_waited_for() {
    use crate::hsm::lease::{Lease, LeaseKind};
    use crate::hsm::recall::Vouched;
    let bench = Bench::new(&[Place::Beside], small(), NOTHING);
    let catalog = bench.engine().catalog();
    eventually(|| catalog.scan_state().unwrap().finished_generation != 0);
    stripped(&bench, "leased", 1);
    let (engine, node, fd) = (
        bench.engine(),
        bench.handle("leased"),
        path(&bench, "leased"),
    );
    let asked = || engine.asks().vouch(&node, fd.as_fd());
    let open = engine
        .backing()
        .open_node(&node, None, How::ReadWrite)
        .unwrap();
    let lease = match Lease::take(open, LeaseKind::Alone) {
        Ok(lease) => lease,
        Err(why) => {
            eprintln!("SKIPPED a_lease_on_a_file_without_a_record: {why}");
            return;
        }
    };
    assert_eq!(asked().unwrap(), Vouched::Busy);
    drop(lease);
    assert_eq!(asked().unwrap(), Vouched::Whole);
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
