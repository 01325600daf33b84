//! The collector stopped after each of its steps: everything reads, and what can go still goes.

use super::*;
use std::sync::atomic::{AtomicU64, Ordering};

/// Runs until the `n`-th step was done, and then nothing more, as after a kill; the steps that were
/// done.
fn stopped_at(bench: &Bench, n: u64) -> Vec<Step> {
    let (count, done) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let stop = |step: Option<Step>| {
        if count.load(Ordering::Relaxed) >= n {
            return true;
        }
        match step {
            None => false,
            Some(step) => {
                done.lock().push(step);
                count.fetch_add(1, Ordering::Relaxed) + 1 >= n
            }
        }
    };
    let ended = run(bench, false, &stop);
    assert!(
        ended.is_ok() || count.load(Ordering::Relaxed) >= n,
        "{ended:?}"
    );
    done.into_inner()
}

/// One aggregate that goes whole, one that is repacked; stopped at step `n` of all that follows.
fn stop_at(n: u64) -> Vec<Step> {
    let (bench, clock) = mostly_dead();
    bench.write("whole", &noise(BIG, 8));
    bench.archive(&["whole"]);
    remove(&bench, &["whole"]);
    scan(&bench);
    clock.advance(WINDOW + DAY);
    scan(&bench);
    let mut steps = Vec::new();
    for _ in 0..4 {
        let left = n - steps.len() as u64;
        steps.extend(stopped_at(&bench, left));
        if steps.len() as u64 >= n {
            break;
        }
        clock.advance(DELAY * 2);
    }
    let bench = bench.again(PLACES, settings(&clock), NOTHING, |_| ());
    settled(&bench);
    // Nothing that was decided before binds this start.
    clock.advance(DELAY * 2);
    let first = acts(&collect(&bench));
    assert!(
        first.iter().all(|act| *act != Act::Delete) || steps.last() == Some(&Step::Deleted),
        "after {steps:?}: {first:?}"
    );
    collect_all(&bench, &clock);
    // One aggregate is left, or two equal ones where the first was not known to be copied.
    let left = bench.objects(0);
    let twice = steps.last() == Some(&Step::Copied);
    assert!(
        left == 1 || (twice && left == 2),
        "{left} objects after {steps:?}"
    );
    reads(&bench, "d/c", &noise(BIG, 3));
    steps
}

#[test]
fn p8_the_collector_stopped_after_each_step_leaves_everything_readable() {
    let mut all = std::collections::BTreeSet::new();
    let mut n = 1;
    loop {
        let steps = stop_at(n);
        all.extend(steps.iter().map(|step| format!("{step:?}")));
        if (steps.len() as u64) < n {
            break;
        }
        n += 1;
    }
    let expected = [
        "Condemned",
        "Copied",
        "Copying",
        "Deleted",
        "Doomed",
        "Forgotten",
        "Moved",
    ];
    assert_eq!(all.into_iter().collect::<Vec<_>>(), expected);
}
