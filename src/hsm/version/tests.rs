//! P1 by its rules, on real files.

use super::*;
use crate::hsm::backing::How;
use crate::hsm::rig::{Mapping, Rig, patiently};
use std::os::fd::AsFd;

fn point(rig: &Rig, name: &str) -> Result<Quiet, NotQuiet> {
    let once = || quiescent_one(&rig.backing, rig.open(name, How::Read));
    patiently(once, |why| matches!(why, NotQuiet::Writer))
}

#[test]
fn p1_a_writer_makes_a_file_unquiet() {
    let rig = Rig::new();
    rig.write("f", b"data");
    let writer = std::fs::OpenOptions::new()
        .write(true)
        .open(rig.path("f"))
        .unwrap();
    assert!(matches!(point(&rig, "f"), Err(NotQuiet::Writer)));
    drop(writer);
    let reader = std::fs::File::open(rig.path("f")).unwrap();
    assert!(point(&rig, "f").is_ok(), "readers do not disturb");
    drop(reader);
}

#[test]
fn p1_store_through_an_old_mapping_is_seen() {
    let rig = Rig::new();
    rig.write("f", &[1; 4096]);
    let before = point(&rig, "f").unwrap().seen().clone();
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(rig.path("f"))
        .unwrap();
    let mapping = Mapping::writable(file.as_fd(), 4096);
    drop(file);
    mapping.store(0, 2);
    assert!(
        matches!(point(&rig, "f"), Err(NotQuiet::Writer)),
        "the descriptor is gone"
    );
    // The page is dirty already: this store changes no timestamp.
    mapping.store(1, 3);
    drop(mapping);
    let after = point(&rig, "f").unwrap().seen().clone();
    assert_ne!(before, after);
}

#[test]
fn p1_same_tick_write_is_not_missed() {
    let rig = Rig::new();
    for round in 0..100_u8 {
        rig.write("f", &[round; 64]);
        let before = point(&rig, "f").unwrap().seen().clone();
        // As soon as the point is made, and of equal size.
        rig.write("f", &[round.wrapping_add(1); 64]);
        let after = point(&rig, "f").unwrap().seen().clone();
        assert_ne!(before, after, "round {round}");
    }
}

#[test]
fn p1_a_quiescent_point_lies_behind_its_ctime() {
    let rig = Rig::new();
    rig.write("f", b"data");
    let quiet = point(&rig, "f").unwrap();
    assert!(
        floor_now(i64::from(rig.backing.capabilities().granularity_ns))
            > quiet.seen().ctime.nanos()
    );
}

#[test]
fn p1_a_ctime_in_the_future_is_not_waited_for_long() {
    let far = coarse_now().nanos() + 3_600_000_000_000;
    assert!(wait_past(far, 1, Duration::from_millis(3)) <= far);
}

#[test]
fn p1_many_files_take_one_wait_and_keep_their_order() {
    let rig = Rig::new();
    let names: Vec<String> = (0..40).map(|n| format!("f{n}")).collect();
    for name in &names {
        rig.write(name, name.as_bytes());
    }
    let busy = std::fs::OpenOptions::new()
        .write(true)
        .open(rig.path("f7"))
        .unwrap();
    let files = names.iter().map(|n| rig.open(n, How::Read)).collect();
    let points = quiescent(&rig.backing, files);
    for (n, point) in points.iter().enumerate() {
        match point {
            Ok(quiet) => assert_eq!(quiet.seen().node, rig.node(&names[n])),
            Err(why) => assert!(n == 7 && matches!(why, NotQuiet::Writer), "{n}: {why}"),
        }
    }
    drop(busy);
}

#[test]
fn p1_a_lease_that_was_asked_for_ends_the_point() {
    let rig = Rig::new();
    rig.write("f", b"data");
    let quiet = point(&rig, "f").unwrap();
    assert!(quiet.still_held());
    let waiting = rig.backing.reopen(quiet.fd(), How::ReadWrite);
    assert!(
        matches!(waiting, Err(BackingError::Busy { .. })),
        "the open does not wait"
    );
    assert!(!quiet.still_held());
}

#[test]
fn p1_another_ctime_is_rebound_by_checksum_and_another_content_is_dirty() {
    let rig = Rig::new();
    rig.write("f", b"some data");
    let crc = Crc32c::of(b"some data");
    let seen = point(&rig, "f").unwrap().seen().clone();
    let again = |trust, size| {
        let known = Some((&seen, trust));
        rebind(&rig.backing, rig.open("f", How::Read), known, size, crc).unwrap()
    };
    assert!(matches!(again(Trust::Sound, 9), Rebound::Same(q) if *q.seen() == seen));
    std::fs::rename(rig.path("f"), rig.path("g")).unwrap();
    std::fs::rename(rig.path("g"), rig.path("f")).unwrap();
    assert!(matches!(again(Trust::Sound, 9), Rebound::Same(q) if *q.seen() != seen));
    rig.write("f", b"same size");
    assert!(matches!(
        again(Trust::Sound, 9),
        Rebound::Dirty { found: Some(_), .. }
    ));
    rig.write("f", b"longer than before");
    assert!(matches!(
        again(Trust::Sound, 9),
        Rebound::Dirty { found: None, .. }
    ));
}

#[test]
fn p1_after_an_unclean_boot_equal_v_is_not_believed() {
    let rig = Rig::new();
    rig.write("f", b"new data");
    let seen = point(&rig, "f").unwrap().seen().clone();
    // What power loss can leave: the old ctime over other bytes.
    let old = Crc32c::of(b"old data");
    let open = || rig.open("f", How::Read);
    let suspect = rebind(&rig.backing, open(), Some((&seen, Trust::Suspect)), 8, old).unwrap();
    assert!(matches!(suspect, Rebound::Dirty { .. }));
}

/// A resident record of the file `f`, which holds `data`.
fn resident(rig: &Rig, user_ctime: Timestamp) -> crate::format::record::Record {
    crate::format::record::Record {
        state: crate::format::record::State::Resident,
        fs: rig.backing.fs(),
        file: crate::id::FileId([1; 16]),
        version: crate::id::DataVersion(1),
        crc: Crc32c::of(b"data"),
        handle: rig.node("f"),
        size: 4,
        mtime: Timestamp::default(),
        user_ctime,
        ctime_floor: None,
        blocks_crc: Crc32c::EMPTY,
        copies: Vec::new(),
    }
}

#[test]
fn a_chmod_in_the_window_is_shown_after_settling() {
    use crate::hsm::backing::{SetHow, shown_ctime};
    let rig = Rig::new();
    rig.write("f", b"data");
    let fd = rig.open("f", How::Path);
    let user_ctime = Timestamp {
        sec: 1_000,
        nsec: 5,
    };
    let record = resident(&rig, user_ctime);
    let stamp = Stamp::set(
        &rig.backing,
        fd.as_fd(),
        Some(b"f"),
        &record,
        SetHow::Create,
    )
    .unwrap();
    let check = stamp.settle.unwrap();
    let shown = || {
        let record = rig.record("f");
        shown_ctime(record.as_ref(), rig.backing.stat(fd.as_fd()).unwrap().ctime)
    };
    assert_eq!(shown(), user_ctime);
    assert_eq!(settle(&rig.backing, &check).unwrap(), Settled::Quiet);
    // A chmod moments later may or may not fall into the window; settled, it always shows.
    std::fs::set_permissions(
        rig.path("f"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    assert_eq!(settle(&rig.backing, &check).unwrap(), Settled::Shown);
    assert_ne!(shown(), user_ctime);
}

#[test]
fn a_check_leaves_a_later_stamp_of_cairns_own_alone() {
    use crate::hsm::backing::SetHow;
    let rig = Rig::new();
    rig.write("f", b"data");
    let fd = rig.open("f", How::Path);
    let record = resident(&rig, Timestamp::default());
    let stamp = || {
        let how = SetHow::Either;
        Stamp::set(&rig.backing, fd.as_fd(), Some(b"f"), &record, how).unwrap()
    };
    // The first copy's record, and the second's in the next tick: within the first one's window.
    let first = stamp();
    while coarse_now() <= first.ctime {
        std::hint::spin_loop();
    }
    let second = stamp();
    assert_ne!(first.ctime, second.ctime);
    let settled = |stamp: Stamp| settle(&rig.backing, &stamp.settle.unwrap()).unwrap();
    assert_eq!(settled(first), Settled::Moot);
    assert_eq!(rig.backing.stat(fd.as_fd()).unwrap().ctime, second.ctime);
    assert_eq!(settled(second), Settled::Quiet);
}
