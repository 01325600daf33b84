//! Overlapping requests, and workers that panic.

use super::*;
use crate::hsm::engine::lanes;
use crate::hsm::rig::noise;
use std::sync::atomic::{AtomicU32, Ordering};

#[test]
fn two_requests_for_one_file_write_it_once() {
    let bench = Bench::new(&[Place::Elsewhere], small(), NOTHING);
    bench.write("f", b"once");
    // The first is held where it writes, until the second is there.
    let (go, gate) = crossbeam_channel::bounded::<()>(1);
    *bench.hooks[0].lock() = Some(Box::new(move || {
        let _ = gate.recv_timeout(Duration::from_secs(120));
    }));
    let first = bench.submit(Verb::Archive, &["f"]);
    wait_for("the first to run", || {
        let row = bench.engine().request(first, 0).unwrap().row;
        (row.counts.running.files == 1).then_some(())
    });
    let second = bench.submit(Verb::Archive, &["f"]);
    wait_for("the second to be accepted", || {
        let row = bench.engine().request(second, 0).unwrap().row;
        row.sealed.then_some(())
    });
    drop(go);
    let (first, second) = (bench.done(first), bench.done(second));
    assert_eq!(first.row.counts.done.files, 1);
    assert_eq!(second.row.counts.done.files, 1, "it shares the work");
    assert_eq!(bench.objects(0), 1);
}

#[test]
fn what_another_action_has_is_waited_for_and_not_given_up() {
    let bench = Bench::new(&[Place::Elsewhere], small(), NOTHING);
    bench.write("f", &noise(256 << 10, 1));
    bench.archive(&["f"]);
    let engine = bench.engine();
    // As an archive to another tier has it that waits for a tape.
    // (A check of its ctime may have it for a moment.)
    let node = bench.handle("f");
    let claim = wait_for("it to be nobody's", || {
        engine.shared.lanes.claim_to_copy(&node)
    });
    let release = bench.submit(Verb::Release, &["f"]);
    let tries = || {
        let rows = engine.catalog().actions(release, None, None, 10).unwrap();
        let row = rows.first()?;
        (row.failure.is_some() && row.started.is_some()).then_some((row.attempts, row.started))
    };
    let first = wait_for("it to be tried", tries);
    let again = wait_for("it to be tried again", || {
        tries().filter(|(_, started)| *started != first.1)
    });
    assert!(first.0 <= 1 && again.0 <= 1, "{first:?}, {again:?}");
    drop(claim);
    bench.done(release);
}

#[test]
fn a_stage_does_not_wait_for_an_archive_and_keeps_a_release_out_while_it_begins() {
    let bench = Bench::new(&[Place::Elsewhere], small(), NOTHING);
    bench.write("f", &noise(256 << 10, 1));
    bench.archive(&["f"]);
    bench.done(bench.submit(Verb::Release, &["f"]));
    let (lanes, node) = (&bench.engine().shared.lanes, bench.handle("f"));
    // A check of its ctime may have it for a moment, here and at the end.
    let copying = wait_for("it to be nobody's", || lanes.claim_to_copy(&node));
    assert!(lanes.claim_to_copy(&node).is_none(), "one copies");
    bench.done(bench.submit(Verb::Stage, &["f"]));
    let staging = lanes.claim_to_stage(&node).expect("beside who copies");
    let other = lanes.claim_to_stage(&node).expect("beside another");
    drop((copying, staging));
    assert!(lanes.claim(&node).is_none(), "one still begins");
    drop(other);
    let release = wait_for("all to be gone", || lanes.claim(&node));
    assert!(lanes.claim_to_stage(&node).is_none() && lanes.claim_to_copy(&node).is_none());
    drop(release);
}

#[test]
fn one_batch_with_the_same_file_twice_writes_it_once() {
    let bench = Bench::new(&[Place::Elsewhere], small(), NOTHING);
    bench.write("other", b"other");
    bench.write("f", b"once");
    let (go, gate) = crossbeam_channel::bounded::<()>(1);
    *bench.hooks[0].lock() = Some(Box::new(move || {
        let _ = gate.recv_timeout(Duration::from_secs(120));
    }));
    // The one worker is kept busy, so that both requests wait together.
    let busy = bench.submit(Verb::Archive, &["other"]);
    wait_for("the worker to be busy", || {
        let row = bench.engine().request(busy, 0).unwrap().row;
        (row.counts.running.files == 1).then_some(())
    });
    let both = [(); 2].map(|()| bench.submit(Verb::Archive, &["f"]));
    for id in both {
        wait_for("it to be expanded", || {
            let row = bench.engine().request(id, 0).unwrap().row;
            (row.sealed && row.counts.queued.files == 1).then_some(())
        });
    }
    drop(go);
    bench.done(busy);
    for id in both {
        bench.done(id);
    }
    let version = bench.node("f").version.unwrap();
    let copies = bench.engine().catalog();
    let copies = copies.copies(version.file, version.version).unwrap();
    assert_eq!(copies.len(), 1, "{copies:?}");
}

#[test]
fn slots_and_waiters_outlive_a_worker_that_panics() {
    let bench = Bench::new(&[Place::Elsewhere], small(), NOTHING);
    bench.write("bad", b"bad");
    bench.write("good", b"good");
    let panics = Arc::new(AtomicU32::new(0));
    let count = panics.clone();
    *bench.hooks[0].lock() = Some(Box::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
        panic!("a test's panic");
    }));
    let bad = bench.submit(Verb::Archive, &["bad"]);
    wait_for("the panic to be noted", || {
        let waiting = bench.engine().request(bad, 0).unwrap().waiting?;
        assert!(waiting.text.contains("mistake of its own"), "{waiting:?}");
        Some(())
    });
    assert_eq!(panics.load(Ordering::SeqCst), 1);
    // The only slot of the lane is free, and what failed in passing is tried again.
    bench.archive(&["good"]);
    bench.done(bad);
}

/// An action is put back in the catalog and taken again before its flight is forgotten: it does
/// not stay taken and in no window.
#[test]
fn what_is_taken_again_before_its_flight_is_forgotten_is_not_lost() {
    let bench = Bench::new(&[Place::Elsewhere], small(), NOTHING);
    bench.write("f", b"f");
    bench.archive(&["f"]);
    bench.engine().stop(true).unwrap();
    let shared = &bench.engine().shared;
    shared.stop.store(false, Ordering::Release);
    let node = bench.node("f");
    let new = crate::catalog::NewRequest {
        verb: Verb::Archive,
        uid: 0,
        gid: 0,
        origin: Origin::Policy,
        key: None,
        tier: None,
        options: "{}".into(),
        sealed: true,
    };
    let action = crate::catalog::NewAction {
        node: node.id,
        handle: node.handle,
        tier: Some(bench.engine().tiers()[0].id),
        bytes: 1,
        place: None,
        near: crate::catalog::NodeId::ROOT,
        refused: None,
    };
    shared
        .catalog
        .submit(new, vec![action], shared.now())
        .unwrap();
    let (door, started) = crossbeam_channel::unbounded();
    let doors = [(crate::hsm::schedule::Lane::Archive, door)].into();
    let turn = || {
        lanes::refill(shared).unwrap();
        lanes::start_ready(shared, &doors).unwrap();
    };
    turn();
    let id = started.try_recv().expect("it starts").items[0].action;
    // The writer of ends has committed, and comes to the rest later.
    let end = vec![(id, crate::catalog::Finish::PutBack)];
    shared
        .catalog
        .finish_actions(end, shared.now(), crate::catalog::Durability::Relaxed)
        .unwrap();
    turn();
    assert!(started.try_recv().is_err(), "its flight is still known");
    shared.lanes.forget(id);
    lanes::refill(shared).unwrap();
    // A second end of the first flight takes nothing from what waits now.
    shared.lanes.forget(id);
    lanes::start_ready(shared, &doors).unwrap();
    let again = started.try_recv().expect("it starts again");
    assert_eq!(again.items[0].action, id);
    assert_eq!(shared.lanes.actions(&again).len(), 1, "with its row");
}

#[test]
fn a_request_that_ended_long_ago_is_forgotten() {
    let settings = Settings {
        keep_requests: Duration::from_secs(1),
        ..small()
    };
    let bench = Bench::new(&[Place::Elsewhere], settings, NOTHING);
    bench.write("f", b"f");
    let id = bench.submit(Verb::Archive, &["f"]);
    wait_for("it to be forgotten", || {
        let row = bench.engine().catalog().request(id).unwrap();
        row.is_none().then_some(())
    });
    assert_eq!(state_of(&bench, "f"), FileState::Archived);
}
