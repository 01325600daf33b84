//! P6: copied and restored stubs, adopted or refused.

use super::rig::{OLD, Rig, Stub, set_mtime};
use crate::format::aggregate::BLOCK;
use crate::format::record::{Record, State};
use crate::hsm::backing::SetHow;
use crate::hsm::recall::Settings;
use crate::tier::faults::Operation;
use cairn_fuse::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// A file of `size` bytes with this record, as `cp -a` around the mount makes one.
fn copied(rig: &Rig, stub: &Stub, name: &str, record: &Record, size: u64) -> Stub {
    let path = stub.path.with_file_name(name);
    let file = std::fs::File::create_new(&path).expect("a new file");
    file.set_len(size).expect("a size");
    let fd = OwnedFd::from(file);
    set_mtime(&fd, OLD);
    let set = rig.backing.set_record(fd.as_fd(), record, SetHow::Create);
    set.expect("a record");
    Stub {
        node: rig.backing.handle_of(fd.as_fd()).expect("a handle"),
        path,
        record: record.clone(),
        content: stub.content.clone(),
        entry_data: stub.entry_data,
    }
}

#[test]
fn p6_a_copied_stub_is_adopted_under_a_new_id() {
    let rig = Rig::new();
    let stub = rig.dense("original", 3 * BLOCK);
    let copy = copied(&rig, &stub, "copy", &stub.record, 3 * BLOCK);
    let got = rig.read(&copy, BLOCK - 7, 20).wait().expect("bytes");
    assert!(got == stub.content[BLOCK as usize - 7..][..20]);
    rig.until("resident", |rig| {
        rig.record(&copy)
            .is_some_and(|r| r.state == State::Resident)
    });
    let record = rig.record(&copy).expect("a record");
    assert_ne!(record.file, stub.record.file);
    assert_eq!(record.handle, copy.node);
    assert_eq!(record.copies, stub.record.copies, "shared");
    assert!(std::fs::read(&copy.path).expect("readable") == stub.content);
    let adopted = rig.above.adopted.lock().clone();
    assert_eq!(adopted.len(), 1);
    assert_eq!(
        (
            &adopted[0].node,
            adopted[0].record.file,
            adopted[0].stored_len
        ),
        (&copy.node, record.file, 3 * BLOCK)
    );
    assert_eq!(adopted[0].record.state, State::Released);
    // The original is as it was, and comes back by itself.
    let original = rig.record(&stub).expect("a record");
    assert_eq!(
        (original.file, original.state),
        (stub.record.file, State::Released)
    );
    rig.stage(&stub).expect("staged");
    rig.assert_whole(&stub);
}

#[test]
fn p6_a_copied_stub_whose_object_must_be_restored_is_adopted_when_it_was() {
    let rig = Rig::with(Settings {
        restore_poll: Duration::from_millis(10),
        restore_poll_most: Duration::from_millis(20),
        ..Settings::default()
    });
    let stub = rig.dense("original", BLOCK);
    let copy = copied(&rig, &stub, "copy", &stub.record, BLOCK);
    let (tier, object) = (rig.tier(), stub.record.copies[0].aggregate);
    tier.control().stow(object);
    let reader = rig.read(&copy, 0, 20);
    rig.until("it is asked for, and how it stands", |rig| {
        rig.tier().control().calls(Operation::Restore) >= 3
    });
    assert!(rig.above.adopted.lock().is_empty());
    tier.control().restore(object);
    assert!(reader.wait().expect("bytes") == stub.content[..20]);
    assert_eq!(rig.above.adopted.lock().len(), 1);
}

#[test]
fn p6_what_differs_makes_a_stub_foreign() {
    let rig = Rig::new();
    let stub = rig.dense("original", 3 * BLOCK);
    let other = rig.dense("other", 3 * BLOCK);
    let good = &stub.record;
    let all = 3 * BLOCK;
    let with = |change: fn(&mut Record)| {
        let mut record = good.clone();
        change(&mut record);
        record
    };
    let mut elsewhere = with(|r| r.file.0[0] ^= 1);
    elsewhere.copies[0].aggregate = other.record.copies[0].aggregate;
    elsewhere.crc.0 ^= 1;
    let cases = [
        ("its size", copied(&rig, &stub, "size", good, all - 1)),
        (
            "modification time",
            copied(&rig, &stub, "mtime", &with(|r| r.mtime.sec += 1), all),
        ),
        (
            "another checksum",
            copied(&rig, &stub, "crc", &with(|r| r.crc.0 ^= 1), all),
        ),
        (
            "block checksums",
            copied(&rig, &stub, "blocks", &with(|r| r.blocks_crc.0 ^= 1), all),
        ),
        (
            "no aggregate",
            copied(&rig, &stub, "elsewhere", &elsewhere, all),
        ),
        (
            "names no copy",
            copied(&rig, &stub, "none", &with(|r| r.copies.clear()), all),
        ),
        ("holds data", {
            let copy = copied(&rig, &stub, "data", good, all);
            super::rig::scribble(&copy, 5);
            copy
        }),
    ];
    for (reason, copy) in &cases {
        let eio = Err(Errno(libc::EIO));
        assert_eq!(rig.read(copy, 0, 10).wait(), eio, "{reason}");
        assert_eq!(rig.record(copy).as_ref(), Some(&copy.record), "{reason}");
        let why = rig.stage(copy).expect_err("foreign").to_string();
        assert!(why.contains(reason), "{reason}: {why}");
    }
    assert!(rig.above.adopted.lock().is_empty());
}

#[test]
fn p6_nobody_gets_anothers_data_by_a_stub() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can give a file away");
        return;
    }
    let rig = Rig::new();
    let stub = rig.dense("original", 1000);
    let copy = copied(&rig, &stub, "copy", &stub.record, 1000);
    for owner in [(Some(1234), None), (Some(0), Some(1234))] {
        std::os::unix::fs::chown(&copy.path, owner.0, owner.1).expect("given away");
        let why = rig.stage(&copy).expect_err("another's").to_string();
        assert!(why.contains("another owner"), "{why}");
        assert_eq!(rig.record(&copy), Some(stub.record.clone()));
    }
    // What was remembered was so of the inode as it was.
    std::os::unix::fs::chown(&copy.path, Some(0), Some(0)).expect("given back");
    rig.stage(&copy).expect("adopted");
    assert!(std::fs::read(&copy.path).expect("readable") == stub.content);
}

#[test]
fn p6_a_foreign_stub_is_looked_into_once() {
    let rig = Rig::new();
    let stub = rig.dense("original", 1000);
    let mut record = stub.record.clone();
    record.crc.0 ^= 1;
    let copy = copied(&rig, &stub, "copy", &record, 1000);
    let asked = || {
        let control = rig.tier().control();
        control.calls(Operation::Read) + control.calls(Operation::Stat)
    };
    rig.stage(&copy).expect_err("foreign");
    let before = asked();
    rig.recaller.indexes().forget_all();
    rig.stage(&copy).expect_err("foreign");
    rig.read(&copy, 0, 10).wait().expect_err("foreign");
    assert_eq!(asked(), before, "the tier was asked again");
    assert_eq!(rig.above.foreign.lock().len(), 1, "told once");
}

#[test]
fn p6_a_tier_that_is_away_refuses_nothing_for_good() {
    let rig = Rig::new();
    let stub = rig.dense("original", 1000);
    let copy = copied(&rig, &stub, "copy", &stub.record, 1000);
    rig.tier().control().set_unavailable(true);
    let why = rig.stage(&copy).expect_err("away");
    assert!(why.is_passing(), "{why}");
    assert_eq!(rig.record(&copy), Some(stub.record.clone()));
    rig.tier().control().set_unavailable(false);
    rig.stage(&copy).expect("adopted and staged");
    assert!(std::fs::read(&copy.path).expect("readable") == stub.content);
    // A stub of a recall that never wrote is as good as a released one.
    let mut recalling = stub.record.clone();
    recalling.state = State::Recalling;
    let again = copied(&rig, &stub, "again", &recalling, 1000);
    rig.stage(&again).expect("adopted and staged");
    assert!(std::fs::read(&again.path).expect("readable") == stub.content);
}
