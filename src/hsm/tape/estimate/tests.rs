//! What is told, against what a plain model then takes.

use super::*;
use crate::hsm::tape::queue::{Rules, Urgency};
use std::cell::Cell;

/// A minute for each mount, a second for each block between reads and for each block read.
struct Plain;

impl Model<u8> for Plain {
    fn mount(&self, turn: &Turn<u8>) -> Duration {
        Duration::from_secs(if turn.load { 60 } else { 0 })
    }
    fn read(&self, job: &Job<u8>, from: Option<u64>) -> Duration {
        Duration::from_secs(job.begin.abs_diff(from.unwrap_or(0)) + job.end - job.begin)
    }
}

fn as_they_lie(_: &u8, _: Option<u64>, jobs: &[Job<u8>]) -> Vec<usize> {
    (0..jobs.len()).collect()
}

fn job(id: u64, cartridge: u8, begin: u64) -> Job<u8> {
    Job {
        id: JobId(id),
        cartridge,
        begin,
        end: begin + 5,
        bytes: 1,
        user: 0,
        urgency: Urgency::Reader,
        since: Moment::ZERO,
    }
}

#[test]
fn readers_are_told_what_the_model_then_takes() {
    let mut queue = Queue::new(Rules::default(), 1);
    for (id, cartridge, begin) in [(1, 1, 100), (2, 1, 50), (3, 2, 10)] {
        assert!(queue.offer(job(id, cartridge, begin)));
    }
    let now = Duration::from_secs(10);
    let told = estimates(&queue, &[], &Plain, &as_they_lie, now, 100);
    let left: Vec<_> = told
        .values()
        .map(|e| (e.drive, e.ahead, e.left.as_secs()))
        .collect();
    // Cartridge 1 has more: mount, 55 blocks to the end of job 2, 50 more to that of job 1.
    assert_eq!(left, [(0, 1, 165), (0, 0, 115), (0, 2, 165 + 60 + 15)]);
    // The queue itself was not touched.
    assert_eq!(queue.len(), 3);
    // Amid the pass, with 7 seconds of what the drive is at.
    queue.next(now, &as_they_lie).unwrap();
    assert_eq!(queue.step(0, now, &as_they_lie).unwrap().id, JobId(2));
    let seven = Busy {
        left: Duration::from_secs(7),
    };
    let told = estimates(&queue, &[seven], &Plain, &as_they_lie, now, 100);
    assert_eq!(told[&JobId(1)].left.as_secs(), 7 + 50);
    assert_eq!(told[&JobId(3)].left.as_secs(), 7 + 50 + 60 + 15);
}

#[test]
fn two_drives_work_beside_each_other() {
    let mut queue = Queue::new(Rules::default(), 2);
    assert!(queue.offer(job(1, 1, 100)) && queue.offer(job(2, 2, 10)));
    let now = Duration::from_secs(10);
    let told = estimates(&queue, &[], &Plain, &as_they_lie, now, 100);
    assert_eq!(told[&JobId(1)].left.as_secs(), 60 + 105);
    assert_eq!(told[&JobId(2)].left.as_secs(), 60 + 15);
    assert_ne!(told[&JobId(1)].drive, told[&JobId(2)].drive);
}

#[test]
fn what_waits_to_be_worth_a_mount_is_told_when_that_will_be() {
    let mut queue = Queue::new(Rules::default(), 1);
    let work = Job {
        urgency: Urgency::Work,
        ..job(1, 1, 0)
    };
    assert!(queue.offer(work));
    let told = estimates(&queue, &[], &Plain, &as_they_lie, Moment::ZERO, 100);
    assert_eq!(told[&JobId(1)].left.as_secs(), 15 * 60 + 60 + 5);
    // One that is away has no answer.
    queue.away(1);
    let told = estimates(&queue, &[], &Plain, &as_they_lie, Moment::ZERO, 100);
    assert!(told.is_empty());
}

#[test]
fn what_is_asked_again_is_answered_alike_and_found_once() {
    let mut queue = Queue::new(Rules::default(), 2);
    for id in 0..60 {
        assert!(queue.offer(job(id, id as u8 % 5, 1000 - id)));
    }
    let found = Cell::new(0);
    let counted = |cartridge: &u8, at: Option<u64>, jobs: &[Job<u8>]| {
        found.set(found.get() + 1);
        as_they_lie(cartridge, at, jobs)
    };
    let now = Duration::from_secs(10);
    let mut estimator = Estimator::default();
    let mut ask = |queue: &Queue<u8>| {
        found.set(0);
        let told = estimator.estimates(queue, &[], &Plain, &counted, now, 100);
        assert_eq!(told, estimates(queue, &[], &Plain, &as_they_lie, now, 100));
        found.get()
    };
    assert_eq!(ask(&queue), 5, "an order for each cartridge");
    assert_eq!(ask(&queue), 0, "nothing is new");
    // The others are told something else, too, but are read in the same order.
    assert!(queue.offer(job(100, 3, 1)));
    assert_eq!(ask(&queue), 1);
    assert!(queue.cancel(JobId(7)).is_some());
    assert_eq!(ask(&queue), 1);
    // What was known two questions ago is forgotten.
    let all: Vec<_> = (0..60).map(|id| queue.cancel(JobId(id))).collect();
    assert_eq!(ask(&queue), 0);
    all.into_iter()
        .flatten()
        .for_each(|job| assert!(queue.offer(job)));
    assert_eq!(ask(&queue), 5);
}
