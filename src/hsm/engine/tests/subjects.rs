//! Every subject of a request ends in a result.

use super::*;

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
