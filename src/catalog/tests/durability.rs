//! Opening, refusing, group commit, incarnations, and a writer that is killed.

use super::*;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// The schema version after the one that this program writes.
const NEWER: u32 = crate::catalog::schema::VERSION + 1;

#[test]
fn a_newer_catalog_is_refused_and_keeps_every_byte() {
    let Rig { dir, catalog } = Rig::new();
    drop(catalog);
    let path = dir.path().join("catalog");
    let newer = rusqlite::Connection::open(&path).unwrap();
    newer
        .execute_batch(&format!(
            "PRAGMA user_version = {NEWER}; PRAGMA wal_checkpoint(TRUNCATE)"
        ))
        .unwrap();
    drop(newer);
    refused_untouched(dir.path());
}

/// The new version number is only in the log, because the newer program was killed.
#[test]
fn a_newer_catalog_whose_log_was_not_folded_is_refused_too() {
    let rig = Rig::new();
    let copy = tempfile::tempdir().unwrap();
    rig.connection()
        .execute_batch(&format!("PRAGMA user_version = {NEWER}"))
        .unwrap();
    for name in ["catalog", "catalog-wal"] {
        std::fs::copy(rig.dir.path().join(name), copy.path().join(name)).unwrap();
    }
    let header = std::fs::read(copy.path().join("catalog")).unwrap();
    assert!(
        header.len() < 64 || u32::from(header[63]) != NEWER,
        "the header must lag behind for this test"
    );
    refused_untouched(copy.path());
}

fn refused_untouched(dir: &std::path::Path) {
    let bytes = |name: &str| std::fs::read(dir.join(name)).ok();
    let before = (bytes("catalog"), bytes("catalog-wal").unwrap_or_default());
    let refused = Catalog::open(&dir.join("catalog"), identity());
    let Err(CatalogError::Newer { found, known, .. }) = refused else {
        panic!("not refused as newer: {:?}", refused.err());
    };
    assert_eq!((found, known), (NEWER, NEWER - 1));
    let after = (bytes("catalog"), bytes("catalog-wal").unwrap_or_default());
    assert!(before == after, "a refused catalog was written to");
}

#[test]
fn other_files_are_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text");
    std::fs::write(
        &text,
        "no database, and this line is long enough for a header".repeat(3),
    )
    .unwrap();
    let other = dir.path().join("other");
    let foreign = rusqlite::Connection::open(&other).unwrap();
    foreign.execute_batch("CREATE TABLE theirs (x)").unwrap();
    drop(foreign);
    for path in [text, other] {
        let before = std::fs::read(&path).unwrap();
        let refused = Catalog::open(&path, identity()).err();
        assert!(
            matches!(refused, Some(CatalogError::NotACatalog { .. })),
            "{refused:?}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}

#[test]
fn an_interrupted_creation_is_done_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("catalog"), "").unwrap();
    let catalog = Catalog::open(&dir.path().join("catalog"), identity()).unwrap();
    assert_eq!(catalog.identity(), identity());
}

/// Found by the sweep: the first transaction's journal is removed without a sync, and a power loss
/// brought it back. No start went past it.
#[test]
fn a_creation_whose_journal_came_back_is_done_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog");
    let begun = rusqlite::Connection::open(&path).unwrap();
    begun.pragma_update(None, "journal_mode", "wal").unwrap();
    drop(begun);
    assert!(
        std::fs::read(&path)
            .unwrap()
            .starts_with(b"SQLite format 3\0")
    );
    // Of no page yet, in a file that had none.
    let mut journal = vec![0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    for word in [0_u32, 7, 0, 512, 4096] {
        journal.extend(word.to_be_bytes());
    }
    journal.resize(512, 0);
    std::fs::write(dir.path().join("catalog-journal"), journal).unwrap();
    let catalog = Catalog::open(&path, identity()).unwrap();
    assert_eq!(catalog.identity(), identity());
}

#[test]
fn identity_is_that_of_the_first_opening() {
    let Rig { dir, catalog } = Rig::new();
    drop(catalog);
    let other = Identity {
        instance: InstanceId([9; 16]),
        fs: FsUuid([9; 16]),
    };
    let again = Catalog::open(&dir.path().join("catalog"), other).unwrap();
    assert_eq!(again.identity(), identity());
}

#[test]
fn epochs_grow_and_names_of_aggregates_differ() {
    let Rig { dir, catalog } = Rig::new();
    assert_eq!(
        catalog.next_aggregate().unwrap(),
        AggregateId { epoch: 1, seq: 1 }
    );
    assert_eq!(
        catalog.next_aggregate().unwrap(),
        AggregateId { epoch: 1, seq: 2 }
    );
    drop(catalog);
    let again = Catalog::open(&dir.path().join("catalog"), identity()).unwrap();
    assert!(again.next_aggregate().is_err(), "no incarnation has begun");
    let begun = again
        .begin_incarnation(Start {
            epoch_above: 41,
            ..start(1)
        })
        .unwrap();
    assert_eq!(begun.epoch, 42);
    assert_eq!(
        again.next_aggregate().unwrap(),
        AggregateId { epoch: 42, seq: 1 }
    );
}

#[test]
fn versions_are_suspect_after_a_boot_without_a_clean_stop() {
    let rig = Rig::new();
    let node = rig.file(2, 10);
    rig.archive(node, 1, TIER);
    let row = rig.row(node);
    let first = rig.incarnation().unwrap();
    assert!(!row.is_suspect(&first));
    // the process was killed, the machine was not: nothing is lost
    let killed = rig.begin_incarnation(start(1)).unwrap();
    assert!(!killed.after_clean_stop && !row.is_suspect(&killed));
    rig.clean_stop(at(5)).unwrap();
    let clean = rig.begin_incarnation(start(2)).unwrap();
    assert!(clean.after_clean_stop && !row.is_suspect(&clean));
    let crashed = rig.begin_incarnation(start(3)).unwrap();
    assert!(row.is_suspect(&crashed));
    // and stays so, however clean the next stops are
    rig.clean_stop(at(6)).unwrap();
    let later = rig.begin_incarnation(start(4)).unwrap();
    assert!(row.is_suspect(&later));
    let point = Rebound {
        node,
        version: (file_id(node), DataVersion(1)),
        proven: Proven {
            boot: later.boot,
            ..proven(1)
        },
    };
    rig.rebound(vec![point], Durability::Full).unwrap();
    assert!(!rig.row(node).is_suspect(&later));
}

/// A catalog from a backup: others wrote under later epochs since. Its clean stop was another's.
#[test]
fn an_older_catalog_that_was_put_back_is_believed_nothing() {
    let rig = Rig::new();
    let node = rig.file(2, 10);
    rig.archive(node, 1, TIER);
    let epoch = rig.incarnation().unwrap().epoch;
    rig.clean_stop(at(5)).unwrap();
    let own = Start {
        epoch_above: epoch,
        ..start(1)
    };
    let again = rig.begin_incarnation(own).unwrap();
    assert!(again.after_clean_stop && !rig.row(node).is_suspect(&again));
    rig.clean_stop(at(6)).unwrap();
    // In the very boot in which it was proven.
    let behind = Start {
        epoch_above: again.epoch + 1,
        ..start(1)
    };
    let put_back = rig.begin_incarnation(behind).unwrap();
    assert!(!put_back.after_clean_stop && rig.row(node).is_suspect(&put_back));
    assert!(put_back.epoch > again.epoch + 1);
    // What is proven from now on counts.
    let now = Proven {
        boot: put_back.boot,
        ..proven(1)
    };
    let version = rig.row(node).version.unwrap();
    let point = Rebound {
        node,
        version: (version.file, version.version),
        proven: now,
    };
    rig.rebound(vec![point], Durability::Full).unwrap();
    let killed = rig.begin_incarnation(start(1)).unwrap();
    assert!(!rig.row(node).is_suspect(&killed));
}

#[test]
fn tiers_are_kept_and_names_are_unique() {
    let rig = Rig::new();
    let tier = |id, name: &str| TierRow {
        id: TierId(id),
        name: name.into(),
        url: "dir:/x".into(),
        kind: "dir".into(),
        owner: InstanceId([1; 16]),
    };
    rig.set_tier(tier(0xffff_fff0, "b")).unwrap();
    rig.set_tier(tier(2, "a")).unwrap();
    rig.set_tier(tier(2, "c")).unwrap();
    assert_eq!(rig.tiers().unwrap(), [tier(0xffff_fff0, "b"), tier(2, "c")]);
    assert!(rig.set_tier(tier(3, "b")).is_err());
}

#[test]
fn changes_that_gathered_are_committed_together_and_fail_alone() {
    let rig = Rig::new();
    let before = rig.status(1).unwrap().commits;
    let (open, gate) = crossbeam_channel::bounded::<()>(0);
    let (entered, inside) = crossbeam_channel::bounded::<()>(1);
    rig.post(Durability::Relaxed, move |_| {
        entered.send(()).unwrap();
        let _ = gate.recv();
        Ok(())
    })
    .unwrap();
    inside.recv().unwrap();
    let results: Vec<_> = std::thread::scope(|scope| {
        let submit = |n: u64| {
            let catalog = &rig.catalog;
            scope.spawn(move || {
                if n == 3 {
                    catalog
                        .cancel(crate::id::RequestId(4711), at(1))
                        .map(|_| ())
                } else {
                    let key = format!("k{n}");
                    catalog
                        .submit(request(Verb::Stage, 1, Some(&key)), vec![], at(1))
                        .map(|_| ())
                }
            })
        };
        let threads: Vec<_> = (0..20).map(submit).collect();
        // All of them wait behind the closed gate; then it opens.
        while rig.inner.writer.queued() < 20 {
            std::thread::yield_now();
        }
        drop(open);
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let failed: Vec<usize> = (0..20).filter(|n| results[*n].is_err()).collect();
    assert_eq!(failed, [3]);
    assert_eq!(
        rig.requests(RequestFilter::default(), 100).unwrap().len(),
        19
    );
    let commits = rig.status(1).unwrap().commits - before;
    assert!(commits <= 3, "twenty changes took {commits} transactions");
}

#[test]
fn a_failed_change_that_nobody_waited_for_is_counted() {
    let rig = Rig::new();
    rig.set_flag(NodeId(999), Flag::NoArchive, true, Durability::Relaxed)
        .unwrap();
    rig.settle(Durability::Relaxed).unwrap();
    assert_eq!(rig.status(1).unwrap().write_errors, 1);
    assert_eq!(rig.check().unwrap(), [""; 0]);
}

const CHILD: &str = "CAIRN_CATALOG_TEST_CHILD";

/// Not a test of its own: the process that the next one kills.
#[test]
fn child_that_writes_until_killed() {
    let Some(path) = std::env::var_os(CHILD) else {
        return;
    };
    let catalog = Catalog::open(std::path::Path::new(&path), identity()).unwrap();
    catalog.begin_incarnation(start(1)).unwrap();
    for n in 2.. {
        let key = format!("key{n}");
        let actions = (0..50).map(|i| action(NodeId(1000 * n + i), 7)).collect();
        let id = catalog
            .submit(request(Verb::Stage, 1, Some(&key)), actions, at(n))
            .unwrap()
            .id;
        let taken = catalog.take_actions(Class::Stage, 20, at(n)).unwrap();
        catalog
            .start_actions(taken.iter().map(|a| a.id).collect(), at(n))
            .unwrap();
        println!("accepted {id} {key}");
    }
}

#[test]
fn what_was_accepted_survives_a_kill() {
    struct Child(std::process::Child);
    impl Drop for Child {
        fn drop(&mut self) {
            // Killed on every way out; an error means that it is gone already.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog");
    let mut accepted = Vec::new();
    for round in 1..=3 {
        let mut child = Child(
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "--nocapture", "--test-threads=1"])
                .arg("catalog::tests::durability::child_that_writes_until_killed")
                .env(CHILD, &path)
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        );
        let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        // libtest may have left its own words at the beginning of the first line.
        let told = lines
            .map_while(Result::ok)
            .filter_map(|l| l.split_once("accepted ").map(|a| a.1.to_owned()));
        accepted.extend(told.take(7 * round));
        drop(child);
        let catalog = Catalog::open(&path, identity()).unwrap();
        assert_eq!(catalog.check().unwrap(), [""; 0]);
        for line in &accepted {
            let (id, key) = line.split_once(' ').unwrap();
            let found = catalog.request_by_key(1, key).unwrap().expect(line);
            assert_eq!(found.id.0.to_string(), id);
            assert_eq!(
                catalog.actions(found.id, None, None, 100).unwrap().len(),
                50
            );
        }
        catalog.begin_incarnation(start(1)).unwrap();
        catalog.recover_actions(at(9)).unwrap();
        let all = catalog.requests(RequestFilter::default(), 1000).unwrap();
        assert!(
            all.iter()
                .all(|r| r.counts.running.files == 0 && r.counts.queued.files == 50)
        );
        let backlog = catalog.status(1).unwrap().backlog;
        let stage = backlog.iter().find(|b| b.class == Class::Stage).unwrap();
        assert_eq!(stage.queued.files, 50 * all.len() as u64);
    }
    assert!(
        accepted.len() >= 30,
        "the child did not get far: {accepted:?}"
    );
}
