//! What must come to an end whatever else happens: drains, requests, waits, a start on a full disk.

use super::*;
use cairn_fuse::{Event, EventKind};
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn a_drain_ends_while_users_go_on() {
    let bench = Bench::new(&[], small(), NOTHING);
    let shared = &bench.engine().shared;
    let (ended, given_up) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let node = NodeHandle {
                kind: 1,
                bytes: vec![9; 8],
            };
            while !ended.load(Ordering::Acquire) && !given_up.load(Ordering::Acquire) {
                if shared.changelog.waiting() < 1000 {
                    shared.changelog.push(Event {
                        kind: EventKind::Read,
                        node: node.clone(),
                        place: None,
                        from: None,
                    });
                }
            }
        });
        scope.spawn(|| {
            for _ in 0..3 {
                shared.drain_changelog().unwrap();
            }
            ended.store(true, Ordering::Release);
        });
        let end = Instant::now() + Duration::from_secs(60);
        while !ended.load(Ordering::Acquire) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let done = ended.load(Ordering::Acquire);
        given_up.store(true, Ordering::Release);
        assert!(done, "the drain goes on as long as users do");
    });
}
