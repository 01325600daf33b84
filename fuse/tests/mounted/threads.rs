//! Random operations by several threads at once: on the mount and on a plain directory they give
//! the same tree, contents, attributes and errnos, while files are released and recalled under
//! them. Names come in groups, spread over the same directories. A group's operations are made
//! one after the other, by whichever thread comes, so that each has one right result; those of
//! different groups run at once, in the same directories. What several threads do to one file at
//! the same time is in `together.rs`, and runs beside it here.
//!
//! A seed gives each thread the same dice; how the threads fall together is up to the machine.

use crate::model::{Sides, rig, with_seeds};
use crate::rig::{TestResult, need_mount};
use crate::steps::{Dice, Kept, Names, Step};
use crate::together::Shared;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

const THREADS: u64 = 4;
/// Of each thread.
const STEPS: u64 = 400;
const GROUPS: u64 = 6;

fn names(group: u64) -> Names {
    Names {
        group,
        count: 4,
        alone: false,
    }
}

/// A file that may be released.
fn any_name(dice: &mut Dice) -> String {
    match dice.roll(8) {
        0 => Shared::LOG.to_owned(),
        1 => Shared::SLOTS.to_owned(),
        2 => Shared::token(dice.roll(Shared::TOKENS)),
        _ => names(dice.roll(GROUPS)).roll(dice),
    }
}

/// One run; says how often a file was released.
fn run(seed: u64, steps: u64, passthrough: bool) -> anyhow::Result<u64> {
    let rig = rig(passthrough)?;
    let sides = Sides::new(&rig)?;
    let shared = Shared::new(&rig.m(""), THREADS)?;
    let groups: Vec<Mutex<Vec<(Kept, Kept)>>> = (0..GROUPS).map(|_| Mutex::default()).collect();
    let work = |thread: u64| -> TestResult {
        let mut dice = Dice(seed.wrapping_mul(1000) + thread);
        for number in 0..steps {
            if dice.roll(3) == 0 {
                shared.step(thread, &mut dice)?;
                continue;
            }
            let group = dice.roll(GROUPS);
            let mut kept = groups[group as usize].lock().unwrap();
            let step = Step::roll(&mut dice, names(group), sides.plain());
            let label = format!("thread {thread}, step {number}");
            sides.step(&mut kept, &label, &step)?;
        }
        Ok(())
    };
    sides.while_releasing(&rig, Dice(!seed), any_name, |releasing| {
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| scope.spawn(move || work(thread)))
                .collect();
            threads.into_iter().map(|t| t.join()).collect()
        });
        releasing.store(false, Ordering::Relaxed);
        for group in &groups {
            group.lock().unwrap_or_else(|e| e.into_inner()).clear();
        }
        results
            .into_iter()
            .try_for_each(|result| result.unwrap_or_else(|_| anyhow::bail!("a thread panicked")))?;
        shared.at_the_end()?;
        sides.compare_at_the_end(&rig)
    })
}

#[test]
fn many_threads_see_what_a_plain_directory_shows() -> TestResult {
    need_mount!("many_threads_see_what_a_plain_directory_shows");
    with_seeds(1..=4, STEPS, run)
}
