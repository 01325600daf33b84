//! What planning costs: the order of a pass, and estimates for everybody who waits in a long queue.

use crate::library::{Expected, least};
use crate::orders::Members;
use crate::random::Random;
use crate::report::{Table, spread};
use crate::trace::{self, CARTRIDGES, DRIVES};
use cairn::hsm::tape::estimate::Estimator;
use cairn::hsm::tape::order::order;
use cairn::hsm::tape::queue::{Moment, Queue, Rules};
use cairn::tier::tape::timing::Generation;
use rustix::time::{ClockId, clock_gettime};

pub(crate) fn run(seeds: u64) {
    println!("## Planning\n\nMilliseconds of CPU, median (least..most) of n = {seeds}.\n");
    let table = Table::new(&["what", "ms"]);
    for many in [64, 512, 2000] {
        let each = |seed: u64| {
            let members = Members::random(Generation::Lto8, many, &mut Random::new(seed));
            timed(|| assert_eq!(order(many, |from, to| members.step(from, to)).len(), many))
        };
        let mut times: Vec<f64> = (1..=seeds).map(each).collect();
        table.row(&[
            format!("order of {many} random members"),
            spread(&mut times, 2),
        ]);
    }
    for cartridges in [CARTRIDGES, 3] {
        let times: Vec<_> = (1..=seeds)
            .map(|seed| estimating(seed, cartridges))
            .collect();
        let what = format!("estimates of 5000 jobs on {cartridges} cartridges, {DRIVES} drives");
        let (first, next): (Vec<f64>, Vec<f64>) = times.into_iter().unzip();
        for (when, mut times) in [("the first time", first), ("when one more came", next)] {
            table.row(&[format!("{what}, {when}"), spread(&mut times, 2)]);
        }
    }
    println!();
}

fn timed(what: impl FnOnce()) -> f64 {
    let now = || clock_gettime(ClockId::ThreadCPUTime);
    let begun = now();
    what();
    let ended = now();
    (ended.tv_sec - begun.tv_sec) as f64 * 1e3 + (ended.tv_nsec - begun.tv_nsec) as f64 / 1e6
}

/// A day's jobs, asked for at once: the first estimate, and the next when one more has come.
fn estimating(seed: u64, cartridges: usize) -> (f64, f64) {
    let mut queue = Queue::new(Rules::default(), DRIVES);
    let mut jobs = trace::day(seed);
    for job in &mut jobs {
        job.cartridge %= cartridges;
        job.since = Moment::ZERO;
    }
    let last = jobs.pop();
    jobs.into_iter().for_each(|job| assert!(queue.offer(job)));
    let mut estimator = Estimator::default();
    let mut ask = |queue: &Queue<usize>| {
        timed(|| {
            let told = estimator.estimates(queue, &[], &Expected, &least, Moment::ZERO, usize::MAX);
            assert_eq!(told.len(), queue.len());
        })
    };
    let first = ask(&queue);
    last.into_iter().for_each(|job| assert!(queue.offer(job)));
    (first, ask(&queue))
}
