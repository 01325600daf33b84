//! Every subject of a request ends in a result.

use super::*;
use cairn_fuse::{Event, EventKind};

#[test]
fn what_is_gone_when_its_turn_comes_has_failed_and_says_so() {
    let bench = Bench::new(&[Place::Elsewhere], small(), NOTHING);
    for name in ["stays", "goes", "also"] {
        bench.write(name, b"bytes");
    }
    let all = ["stays", "goes", "also"].map(|name| bench.named(name));
    std::fs::remove_file(bench.root.join("goes")).unwrap();
    std::fs::remove_file(bench.root.join("also")).unwrap();
    let asked = bench.ask(Verb::Archive, all.to_vec());
    let forecast = bench.engine().forecast(&asked).unwrap();
    assert_eq!((forecast.files, forecast.skipped_files), (1, 2));
    let report = bench.ended(bench.engine().submit(asked).unwrap().id);
    assert_eq!(report.row.state, RequestState::Failed);
    let counts = report.row.counts;
    assert_eq!((counts.done.files, counts.failed.files), (1, 2));
    let mut why = failures(&report);
    why.sort();
    assert_eq!(
        why,
        [
            "not-found: also: it no longer exists",
            "not-found: goes: it no longer exists"
        ]
    );
}

#[test]
fn what_was_never_archived_cannot_be_verified_and_is_not_called_done() {
    let bench = Bench::new(&[Place::Elsewhere], small(), NOTHING);
    bench.write("d/f", b"bytes");
    let report = bench.ended(bench.submit(Verb::Verify, &["d/f"]));
    assert_eq!(failures(&report), ["no-good-copy: never archived"]);
    // In a directory it is no mistake of who asks.
    bench.done(bench.submit(Verb::Verify, &["d"]));
}

/// A file that the kernel knows under a name that is no more, first of all, as after a cold open by handle under
/// none. As long as what is given is open.
fn forgotten(bench: &Bench, name: &str) -> std::fs::File {
    bench.write(name, b"bytes");
    let [now, old] = [name, &format!("{name}.old")].map(|name| bench.root.join(name));
    std::fs::hard_link(now, &old).unwrap();
    let held = std::fs::File::open(&old).unwrap();
    std::fs::remove_file(old).unwrap();
    held
}

#[test]
fn what_the_kernel_knows_no_name_of_is_there_all_the_same() {
    let bench = Bench::new(&[Place::Elsewhere], small(), NOTHING);
    let (_told, _untold) = (forgotten(&bench, "told"), forgotten(&bench, "untold"));
    let all = ["told", "untold"].map(|name| bench.named(name));
    let path_of = |named: &Named| {
        let fd = bench.engine().open(&named.node).unwrap();
        bench
            .engine()
            .backing()
            .path_of(std::os::fd::AsFd::as_fd(&fd))
    };
    assert!(
        all.iter().all(|named| path_of(named).is_err()),
        "the kernel finds a name"
    );
    let [told, untold] = all;
    bench.engine().changelog().push(Event {
        kind: EventKind::Created,
        node: told.node.clone(),
        place: Some((bench.handle(""), b"told".to_vec())),
        from: None,
    });
    let engine = bench.engine();
    bench.done(
        engine
            .submit(bench.ask(Verb::Archive, vec![told]))
            .unwrap()
            .id,
    );
    assert!(bench.node("told").version.is_some());
    bench.done(
        engine
            .submit(bench.ask(Verb::Pin, vec![untold]))
            .unwrap()
            .id,
    );
}

#[test]
fn many_that_are_named_one_by_one_are_all_done_and_each_once() {
    let bench = Bench::new(&[Place::Elsewhere], small(), NOTHING);
    let names: Vec<String> = (0..600).map(|n| format!("many/{n}")).collect();
    for name in &names {
        bench.write(name, b"bytes");
    }
    let mut all: Vec<Named> = names.iter().map(|name| bench.named(name)).collect();
    // In the middle one that goes, one again, and the directory of all.
    bench.write("goes", b"bytes");
    all.insert(300, bench.named("goes"));
    all.insert(300, bench.named("many/599"));
    all.insert(300, bench.named("many"));
    std::fs::remove_file(bench.root.join("goes")).unwrap();
    let asked = bench.ask(Verb::Archive, all);
    let forecast = bench.engine().forecast(&asked).unwrap();
    assert_eq!((forecast.files, forecast.skipped_files), (601, 1));
    let report = bench.ended(bench.engine().submit(asked).unwrap().id);
    let counts = report.row.counts;
    assert_eq!((counts.done.files, counts.failed.files), (601, 1));
    assert_eq!(failures(&report), ["not-found: goes: it no longer exists"]);
    for name in &names {
        assert_eq!(state_of(&bench, name), FileState::Archived, "{name}");
    }
}
