//! A catalog of last week in the place of today's: nothing that today's files need is deleted.

use super::*;

/// Copies the catalog's files (the instance is down).
fn copy_catalog(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("catalog") && path.is_file() {
            std::fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

fn put_back(from: &Path, state: &Path) {
    for file in std::fs::read_dir(state).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("catalog") && path.is_file() {
            std::fs::remove_file(path).unwrap();
        }
    }
    copy_catalog(from, state);
}

/// Names and data that must read right.
type Truth = Vec<(&'static str, u64)>;

/// Today's files, made after the backup of the catalog: more archives, overwrites, releases, a repack,
/// a deletion, and a stub that came back.
fn today(bench: &Bench, clock: &Clock) -> Truth {
    // New ones, in a new aggregate.
    for (name, seed) in [("new1", 11), ("new2", 12)] {
        bench.write(name, &noise(BIG, seed));
    }
    bench.archive(&["new1", "new2"]);
    bench.done(bench.submit(Verb::Release, &["new1", "new2"]));
    // One that the old catalog knows at another version.
    bench.write("over", &noise(BIG, 13));
    scan(bench);
    bench.archive(&["over"]);
    bench.done(bench.submit(Verb::Release, &["over"]));
    // What the old catalog knows as deleted is a file again.
    let (buried, size) = ("buried", BIG as u64);
    let stub = std::fs::read(bench._dir.path().join("stub")).unwrap();
    let file = std::fs::File::create(bench.root.join(buried)).unwrap();
    file.set_len(size).unwrap();
    let mtime = std::fs::metadata(bench._dir.path().join("stub")).unwrap();
    file.set_modified(mtime.modified().unwrap()).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(
        bench.root.join(buried),
        "trusted.cairn.record",
        &stub,
        flags,
    )
    .unwrap();
    drop(file);
    scan(bench);
    // A repack, of which the old catalog knows nothing: two of three go.
    remove(bench, &["r/a", "r/b"]);
    scan(bench);
    clock.advance(WINDOW + DAY);
    scan(bench);
    let repacked = collect(bench);
    assert!(acts(&repacked).contains(&Act::Repack), "{repacked:?}");
    collect(bench);
    clock.advance(DELAY * 2);
    let deleted = collect(bench);
    assert!(acts(&deleted).contains(&Act::Delete), "{deleted:?}");
    vec![
        ("new1", 11),
        ("new2", 12),
        ("over", 13),
        ("buried", 2),
        ("still", 3),
        ("r/c", 7),
    ]
}

/// Last week: files, some released, one deleted long ago.
fn last_week(bench: &Bench, clock: &Clock) {
    for (name, seed) in [("over", 1), ("buried", 2), ("still", 3)] {
        bench.write(name, &noise(BIG, seed));
        bench.archive(&[name]);
    }
    for (name, seed) in [("r/a", 5), ("r/b", 6), ("r/c", 7)] {
        bench.write(name, &noise(BIG, seed));
    }
    scan(bench);
    bench.archive(&["r/a", "r/b", "r/c"]);
    bench.done(bench.submit(Verb::Release, &["buried", "still", "r/c"]));
    let mut record = vec![0; 512];
    let path = bench.root.join("buried");
    let len = rustix::fs::getxattr(&path, "trusted.cairn.record", &mut record[..]).unwrap();
    let kept = bench._dir.path().join("stub");
    std::fs::write(&kept, &record[..len]).unwrap();
    let mtime = std::fs::metadata(&path).unwrap().modified().unwrap();
    let file = std::fs::File::options().write(true).open(&kept).unwrap();
    file.set_modified(mtime).unwrap();
    remove(bench, &["buried"]);
    // Its tombstone, and a complete scan behind it: all that a collector would ask for.
    scan(bench);
    clock.advance(Duration::from_secs(1));
    scan(bench);
}

/// Everything up to the collector's runs over the old catalog.
fn put_in_place_of_todays() -> (Bench, Clock, Truth) {
    let (bench, clock) = bench();
    last_week(&bench, &clock);
    let backup = tempfile::tempdir().unwrap();
    let bench = bench.again(PLACES, settings(&clock), NOTHING, |state| {
        copy_catalog(state, backup.path());
    });
    settled(&bench);
    let truth = today(&bench, &clock);
    let bench = bench.again_unattached(PLACES, settings(&clock), NOTHING, |state| {
        put_back(backup.path(), state);
    });
    (bench, clock, truth)
}

#[test]
fn p8_a_catalog_of_last_week_deletes_nothing_that_todays_files_need() {
    let (bench, clock, truth) = put_in_place_of_todays();
    // Before any scan of its own, with the clock past every window. What else would keep it, the
    // mark of a start without a clean stop, is taken away: the epoch alone is asked.
    let catalog = bench.engine().catalog();
    for mark in catalog.rescans(9).unwrap() {
        catalog.rescanned(&mark).unwrap();
    }
    catalog.settle(crate::catalog::Durability::Full).unwrap();
    assert_eq!(catalog.rescans(9).unwrap(), []);
    for _ in 0..3 {
        clock.advance(WINDOW + DAY);
        collect(&bench);
        clock.advance(DELAY * 2);
        collect(&bench);
    }
    bench.attach();
    scan(&bench);
    let did = collect_all(&bench, &clock);
    for (name, seed) in truth {
        reads(&bench, name, &noise(BIG, seed));
    }
    // It was no standstill: what today's files do not need went, in its time.
    assert!(did.contains(&Act::Release), "{did:?}");
}
