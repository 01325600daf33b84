//! Aggregates that are composed and wait for others with which they go to tape.

use super::*;
use crate::tier::tape::library::Library;

/// One file, composed, that waits.
fn site() -> (Bench, Arc<Library>, RequestId) {
    let bench = Bench::new(&[Place::Tape], small(), NOTHING);
    bench.write("f", b"waits for company");
    let id = bench.submit(Verb::Archive, &["f"]);
    let library = bench.engine().tiers()[0].tier.tape().unwrap();
    let library = library.library().unwrap();
    wait_for("it to wait for others", || {
        (library.unwritten() == 1).then_some(())
    });
    (bench, library, id)
}

#[test]
fn what_is_cancelled_waits_for_no_others() {
    let (bench, library, id) = site();
    bench.engine().cancel(id).unwrap();
    let report = bench.ended(id);
    assert_eq!(report.row.state, RequestState::Cancelled, "{report:?}");
    assert_eq!((library.unwritten(), bench.objects(0)), (0, 0));
}

#[test]
fn a_disk_is_scrubbed_while_something_waits_for_tape() {
    let (bench, _, _) = site();
    let lanes = &bench.engine().shared.lanes;
    wait_for("nothing but that to be under way", || {
        (!lanes.is_busy()).then_some(())
    });
}

#[test]
fn what_waits_when_its_tier_stops_is_put_back_and_nothing_is_said_of_it() {
    let (bench, library, id) = site();
    bench.engine().shared.desks.stop();
    wait_for("it to be put back", || {
        let row = bench.engine().request(id, 0).unwrap().row;
        (row.counts.queued.files == 1).then_some(())
    });
    let report = bench.engine().request(id, 10).unwrap();
    assert_eq!(report.waiting, None, "it did not fail");
    assert_eq!((library.unwritten(), bench.objects(0)), (0, 0));
    drop(library);
    bench.engine().stop(true).unwrap();
    assert_eq!(
        bench
            .engine()
            .request(id, 0)
            .unwrap()
            .row
            .counts
            .queued
            .files,
        1
    );
}
