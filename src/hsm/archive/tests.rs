//! P2 and the archive's side of P6 by their rules.

mod cartridges;
mod parts;
mod race;

use super::*;
use crate::catalog::Version;
use crate::format::member::Kind;
use crate::format::record::{Record, State};
use crate::hsm::backing::SetHow;
use crate::hsm::rig::{MemoryTier, Rig, noise};
use crate::hsm::verify::{read_index, verify_aggregate};
use crate::hsm::version::coarse_now;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const LARGE: usize = SMALL as usize + 100_000;

fn batch<'a>(rig: &'a Rig, items: &'a [Item]) -> Batch<'a> {
    let (backing, tier) = (&rig.backing, &rig.tier);
    Batch {
        backing,
        tier,
        aggregate: rig.next_aggregate(),
        composed: coarse_now(),
        items,
        given: &|_| Ok(crate::id::DataVersion(0)),
        sealed: &|| {},
        unwanted: None,
        resumed: &|| {},
    }
}

fn copied(outcome: &Outcome) -> &Copied {
    match outcome {
        Outcome::Archived(done) => &done.copied,
        other => panic!("not archived: {other:?}"),
    }
}

fn overwrite(path: &std::path::Path) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_at(b"changed", 3).unwrap();
}

fn paths(index: &Index) -> Vec<String> {
    let path = |e: &crate::format::aggregate::IndexEntry| {
        String::from_utf8_lossy(e.member.path.as_bytes()).into_owned()
    };
    index.entries.iter().map(path).collect()
}

#[test]
fn p2_a_packed_batch_is_complete_recorded_and_verifies() {
    let rig = Rig::new();
    rig.write("d/e/one", b"one");
    rig.write("d/two", &noise(100_000, 2));
    rig.write("d/empty", b"");
    std::fs::hard_link(rig.path("d/two"), rig.path("d/e/deux")).unwrap();
    std::os::unix::fs::symlink("two", rig.path("d/link")).unwrap();
    let sparse = std::fs::File::create(rig.path("sparse")).unwrap();
    sparse.write_at(&[7; 4096], 1 << 20).unwrap();
    sparse.set_len(3 << 20).unwrap();
    drop(sparse);
    drop(std::os::unix::net::UnixListener::bind(rig.path("socket")).unwrap());
    let mut items: Vec<_> = [
        "d/e/one", "d/two", "d/empty", "d/link", "sparse", "socket", "d/e",
    ]
    .map(|n| rig.item(n))
    .into();
    items[1].names.push(b"d/e/deux".to_vec());
    let before = std::fs::metadata(rig.path("d/two")).unwrap();
    let report = rig.archive_items(&items);
    let (receipt, index) = report.aggregate.unwrap();
    let want = [
        "", "d", "d/e", "d/e/deux", "d/e/one", "d/empty", "d/link", "d/two", "socket", "sparse",
    ];
    assert_eq!(paths(&index), want);
    assert!(
        index
            .entries
            .iter()
            .any(|e| matches!(&e.member.kind, Kind::HardLink { .. }))
    );
    for at in [3, 5, 6] {
        assert!(
            matches!(report.outcomes[at], Outcome::Entered { .. }),
            "{at}"
        );
    }
    for (at, name) in [(0, "d/e/one"), (1, "d/two"), (2, "d/empty"), (4, "sparse")] {
        let copied = copied(&report.outcomes[at]);
        let record = rig.record(name).unwrap();
        assert_eq!(
            (record.state, record.version),
            (State::Resident, DataVersion(1))
        );
        assert_eq!(
            record.crc,
            Crc32c::of(&std::fs::read(rig.path(name)).unwrap()),
            "{name}"
        );
        assert_eq!(
            (record.file, &record.copies[..]),
            (copied.file, &[copied.copy][..])
        );
        let entry = index.by_identity(record.file, record.version).unwrap();
        assert_eq!(entry.header, copied.copy.header);
        assert_eq!(entry.blocks_crc(), record.blocks_crc);
    }
    let verdict = verify_aggregate(&rig.tier, receipt.aggregate, &|| false).unwrap();
    assert_eq!((verdict.members, verdict.bad), (4, Vec::new()));
    let after = std::fs::metadata(rig.path("d/two")).unwrap();
    assert_eq!(
        (before.mtime(), before.mtime_nsec()),
        (after.mtime(), after.mtime_nsec())
    );
    let record = rig.record("d/two").unwrap();
    assert_eq!(record.user_ctime.sec, before.ctime());
    assert_eq!(i64::from(record.user_ctime.nsec), before.ctime_nsec());
}

#[test]
fn p2_the_order_is_receipt_commit_record() {
    let rig = Rig::new();
    rig.write("f", b"data");
    let items = [rig.item("f")];
    let finished = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&finished);
    rig.tier.on_finish(move || {
        seen.store(true, Ordering::SeqCst);
        Ok(())
    });
    let mut committed = false;
    archive(batch(&rig, &items), &|| false, &mut |durable| {
        assert!(
            finished.load(Ordering::SeqCst),
            "the tier was durable first"
        );
        assert!(rig.record("f").is_none(), "the record comes last");
        assert_eq!(
            rig.tier.stat(durable.receipt.aggregate).unwrap(),
            durable.receipt.len
        );
        committed = true;
        Ok(())
    })
    .unwrap();
    assert!(committed && rig.record("f").is_some());
}

#[test]
fn p2_without_a_receipt_nothing_is_committed() {
    let rig = Rig::new();
    rig.write("f", b"data");
    rig.tier
        .on_finish(|| Err(std::io::Error::other("the medium broke")));
    let items = [rig.item("f")];
    let failed = archive(batch(&rig, &items), &|| false, &mut |_| panic!("committed"));
    assert!(matches!(failed, Err(ArchiveError::Tier(_))));
    assert!(rig.record("f").is_none());
}

#[test]
fn what_a_tier_says_when_nobody_wants_the_aggregate_is_not_held_against_it() {
    let rig = Rig::new();
    rig.write("f", b"data");
    rig.tier
        .on_finish(|| Err(std::io::Error::other("it was told, and gave up")));
    let items = [rig.item("f")];
    let nobody: crate::tier::Unwanted = Arc::new(|| true);
    let batch = Batch {
        unwanted: Some(&nobody),
        ..batch(&rig, &items)
    };
    let stopped = archive(batch, &|| false, &mut |_| panic!("committed"));
    assert!(matches!(stopped, Err(ArchiveError::Stopped)));
    assert!(rig.record("f").is_none());
}

#[test]
fn p2_without_a_commit_nothing_is_recorded() {
    let rig = Rig::new();
    rig.write("f", b"data");
    let items = [rig.item("f")];
    let failed = archive(batch(&rig, &items), &|| false, &mut |_| {
        Err("disk full".into())
    });
    assert!(matches!(failed, Err(ArchiveError::Commit { .. })));
    assert!(rig.record("f").is_none());
}

#[test]
fn p2_changed_while_read_is_abandoned() {
    let rig = Rig::new();
    rig.write("large", &noise(LARGE, 1));
    let path = rig.path("large");
    rig.tier.on_write(move |len| {
        if len > 4 << 20 {
            overwrite(&path);
        }
    });
    let report = rig.archive(&["large"]);
    assert!(matches!(
        report.outcomes[..],
        [Outcome::Skipped(Skip::Changed)]
    ));
    assert!(report.aggregate.is_none() && rig.tier.names().is_empty());
    assert!(rig.record("large").is_none());
}

#[test]
fn p2_cut_short_while_read_is_abandoned() {
    let rig = Rig::new();
    rig.write("large", &noise(LARGE, 1));
    let path = rig.path("large");
    rig.tier.on_write(move |_| {
        std::fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(100)
            .unwrap();
    });
    let report = rig.archive(&["large"]);
    assert!(matches!(
        report.outcomes[..],
        [Outcome::Skipped(Skip::Changed)]
    ));
    assert!(rig.tier.names().is_empty());
}

#[test]
fn p2_a_small_file_that_changed_after_it_was_read_is_disowned() {
    let rig = Rig::new();
    for name in ["a", "b", "c"] {
        rig.write(name, name.as_bytes());
    }
    std::fs::hard_link(rig.path("b"), rig.path("b2")).unwrap();
    let path = rig.path("b");
    rig.tier.on_write(move |_| overwrite(&path));
    let mut items = ["a", "b", "c"].map(|n| rig.item(n));
    items[1].names.push(b"b2".to_vec());
    let report = rig.archive_items(&items);
    let (receipt, index) = report.aggregate.unwrap();
    assert_eq!(paths(&index), ["", "a", "c"]);
    assert!(matches!(
        report.outcomes[1],
        Outcome::Skipped(Skip::Changed)
    ));
    assert!(rig.record("b").is_none());
    assert!(rig.record("a").is_some() && rig.record("c").is_some());
    let (_, stored) = read_index(&rig.tier, receipt.aggregate).unwrap();
    assert_eq!(stored, index);
}

#[test]
fn p2_a_file_that_changed_after_the_commit_gets_no_record() {
    let rig = Rig::new();
    rig.write("f", b"data");
    let items = [rig.item("f")];
    let report = archive(batch(&rig, &items), &|| false, &mut |_| {
        overwrite(&rig.path("f"));
        Ok(())
    })
    .unwrap();
    match &report.outcomes[..] {
        [Outcome::Archived(done)] if matches!(done.recorded, Err(Unrecorded::Changed)) => {}
        other => panic!("{other:?}"),
    }
    assert!(rig.record("f").is_none());
}

#[test]
fn p2_a_large_file_stands_alone() {
    let rig = Rig::new();
    rig.write("large", &noise(LARGE, 1));
    rig.write("small", b"small");
    let report = rig.archive(&["large", "small"]);
    assert!(matches!(
        report.outcomes[0],
        Outcome::Skipped(Skip::StandsAlone(_))
    ));
    copied(&report.outcomes[1]);
    rig.archived("large");
    assert_eq!(
        rig.record("large").unwrap().crc,
        Crc32c::of(&noise(LARGE, 1))
    );
    let last = *rig.tier.names().last().unwrap();
    assert!(
        verify_aggregate(&rig.tier, last, &|| false)
            .unwrap()
            .bad
            .is_empty()
    );
}

#[test]
fn p2_equal_data_keep_their_version_and_gather_copies() {
    let rig = Rig::new();
    rig.write("f", b"data");
    rig.archived("f");
    let first = rig.record("f").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o640);
    std::fs::set_permissions(rig.path("f"), mode).unwrap();
    rig.archived("f");
    let second = rig.record("f").unwrap();
    assert_eq!((second.file, second.version), (first.file, first.version));
    assert_eq!(
        (second.copies.len(), second.copies[0]),
        (2, first.copies[0])
    );
    rig.write("f", b"atad");
    rig.archived("f");
    let third = rig.record("f").unwrap();
    assert_eq!((third.file, third.version), (first.file, DataVersion(2)));
    assert_eq!(third.copies.len(), 1, "old copies are of an old version");
}

#[test]
fn p2_names_are_those_of_the_moment() {
    let rig = Rig::new();
    if rig.backing.access() == crate::hsm::backing::Access::Paths {
        return eprintln!("SKIPPED p2_names_are_those_of_the_moment: no right to open by handle");
    }
    rig.write("old", b"data");
    let items = [rig.item("old")];
    std::fs::create_dir(rig.path("d")).unwrap();
    std::fs::rename(rig.path("old"), rig.path("d/new")).unwrap();
    rig.write("old", b"somebody else");
    let report = rig.archive_items(&items);
    assert_eq!(paths(&report.aggregate.unwrap().1), ["", "d", "d/new"]);
    assert_eq!(copied(&report.outcomes[0]).names, [b"d/new".to_vec()]);
}

#[test]
fn p2_what_is_gone_busy_or_named_twice_is_skipped() {
    let rig = Rig::new();
    for name in ["gone", "busy", "twice"] {
        rig.write(name, b"data");
    }
    let items = [
        rig.item("gone"),
        rig.item("busy"),
        rig.item("twice"),
        rig.item("twice"),
    ];
    std::fs::remove_file(rig.path("gone")).unwrap();
    let writer = std::fs::File::options()
        .write(true)
        .open(rig.path("busy"))
        .unwrap();
    let report = rig.archive_items(&items);
    drop(writer);
    let [gone, busy, twice, again] = &report.outcomes[..] else {
        panic!()
    };
    assert!(matches!(gone, Outcome::Skipped(Skip::Vanished)));
    assert!(matches!(busy, Outcome::Skipped(Skip::Busy)));
    copied(twice);
    assert!(matches!(again, Outcome::Skipped(Skip::Twice)));
}

#[test]
fn a_stopped_batch_leaves_nothing() {
    let rig = Rig::new();
    rig.write("f", b"data");
    let items = [rig.item("f")];
    let stopped = archive(batch(&rig, &items), &|| true, &mut |_| panic!("committed"));
    assert!(matches!(stopped, Err(ArchiveError::Stopped)));
    assert!(rig.tier.names().is_empty());
}

fn set_record(rig: &Rig, name: &str, record: &Record) {
    let fd = rig.open(name, How::Path);
    rig.backing
        .set_record(fd.as_fd(), record, SetHow::Either)
        .unwrap();
}

#[test]
fn p6_a_released_file_is_never_archived() {
    let rig = Rig::new();
    rig.write("f", &noise(100_000, 1));
    let seen = rig.archived("f");
    rig.release("f", Some((&seen, Trust::Sound))).unwrap();
    let report = rig.archive(&["f"]);
    assert!(matches!(
        report.outcomes[..],
        [Outcome::Skipped(Skip::Released)]
    ));
    let recalling = Record {
        state: State::Recalling,
        ..rig.record("f").unwrap()
    };
    set_record(&rig, "f", &recalling);
    let report = rig.archive(&["f"]);
    assert!(matches!(
        report.outcomes[..],
        [Outcome::Skipped(Skip::Released)]
    ));
}

#[test]
fn p6_a_copied_stub_is_foreign_and_a_copied_record_says_nothing() {
    let rig = Rig::new();
    if !matches!(
        rig.backing.keeping(),
        crate::hsm::backing::RecordKeeping::Trusted
    ) {
        return eprintln!("SKIPPED p6_a_copied_stub: sealed records cannot be copied at all");
    }
    rig.write("f", &noise(100_000, 1));
    let seen = rig.archived("f");
    let resident = rig.record("f").unwrap();
    rig.release("f", Some((&seen, Trust::Sound))).unwrap();
    rig.write("copy", b"other data");
    set_record(&rig, "copy", &resident);
    rig.archived("copy");
    let own = rig.record("copy").unwrap();
    assert_ne!(own.file, resident.file);
    assert_eq!(own.version, DataVersion(1));
    std::fs::File::create(rig.path("stub"))
        .unwrap()
        .set_len(100_000)
        .unwrap();
    set_record(&rig, "stub", &rig.record("f").unwrap());
    let report = rig.archive(&["stub"]);
    assert!(matches!(
        report.outcomes[..],
        [Outcome::Skipped(Skip::Foreign)]
    ));
}

/// A released file, and what the catalog has of it.
fn released(rig: &Rig) -> (Record, Prior) {
    rig.write("f", &noise(100_000, 1));
    let seen = rig.archived("f");
    rig.release("f", Some((&seen, Trust::Sound))).unwrap();
    let record = rig.record("f").unwrap();
    let prior = Prior {
        file: record.file,
        version: record.version,
        size: record.size,
        crc: record.crc,
        seen: None,
        copies: record.copies.clone(),
        released: true,
        remembered: Some(Remembered {
            released: true,
            size: record.size,
            stored: Some(100_000),
            version: Version {
                file: record.file,
                version: record.version,
                crc: record.crc,
                blocks_crc: record.blocks_crc,
            },
        }),
    };
    (record, prior)
}

fn assert_lost(rig: &Rig, prior: Prior) {
    let items = [Item {
        prior: Some(prior),
        ..rig.item("f")
    }];
    let report = rig.archive_items(&items);
    assert!(matches!(
        report.outcomes[..],
        [Outcome::Skipped(Skip::Lost)]
    ));
    assert_eq!(MemoryTier::ID, rig.tier.mark().tier);
}

#[test]
fn p6_a_hole_whose_stub_is_missing_is_lost_not_zeros() {
    let rig = Rig::new();
    let (_, prior) = released(&rig);
    rig.backing
        .remove_record(rig.open("f", How::Path).as_fd())
        .unwrap();
    assert_lost(&rig, prior);
}

#[test]
fn p6_a_hole_whose_stub_was_overwritten_is_lost_not_zeros() {
    let rig = Rig::new();
    let (stub, prior) = released(&rig);
    let old = Record {
        state: State::Resident,
        ..stub
    };
    let file = rig.open("f", How::ReadWrite);
    let how = SetHow::Replace;
    rig.backing.set_record(file.as_fd(), &old, how).unwrap();
    drop(file);
    assert_lost(&rig, prior);
}
