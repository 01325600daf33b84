//! The queue by example, and random days in a library with its invariants asserted after every event.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeSet, HashSet};

type Cartridge = u8;
/// Where no time matters.
const NOON: Moment = Duration::ZERO;

fn as_they_lie(_: &Cartridge, _: Option<u64>, jobs: &[Job<Cartridge>]) -> Vec<usize> {
    (0..jobs.len()).collect()
}

fn at(seconds: u64) -> Moment {
    Duration::from_secs(seconds)
}

fn job(id: u64, cartridge: Cartridge, since: u64) -> Job<Cartridge> {
    Job {
        id: JobId(id),
        cartridge,
        begin: id * 10,
        end: id * 10 + 1,
        bytes: 1 << 30,
        user: 0,
        urgency: Urgency::Work,
        since: at(since),
    }
}

fn reader(id: u64, cartridge: Cartridge, since: u64) -> Job<Cartridge> {
    Job {
        urgency: Urgency::Reader,
        ..job(id, cartridge, since)
    }
}

fn of_user(user: u32, job: Job<Cartridge>) -> Job<Cartridge> {
    Job { user, ..job }
}

/// The ids of a drive's whole pass.
fn all_of(queue: &mut Queue<Cartridge>, drive: usize) -> Vec<u64> {
    std::iter::from_fn(|| queue.step(drive, NOON, &as_they_lie).map(|job| job.id.0)).collect()
}

fn next(queue: &mut Queue<Cartridge>, seconds: u64) -> Option<(usize, Cartridge)> {
    let turn = queue.next(at(seconds), &as_they_lie)?;
    Some((turn.drive, turn.cartridge))
}

#[test]
fn what_others_left_in_a_drive_is_at_hand_and_what_they_took_is_not() {
    let mut queue = Queue::new(Rules::default(), 2);
    let work = |id, cartridge| Job {
        urgency: Urgency::Work,
        ..job(id, cartridge, 0)
    };
    assert!(queue.offer(work(1, 7)));
    let order = |_: &_, _, jobs: &[Job<_>]| (0..jobs.len()).collect::<Vec<_>>();
    assert_eq!(queue.next(Moment::ZERO, &order), None, "not worth a mount");
    queue.found(1, Some(7));
    let turn = queue.next(Moment::ZERO, &order).expect("it is there");
    assert_eq!((turn.drive, turn.load, turn.unload), (1, false, None));
    // Amid a pass nobody takes it.
    queue.found(1, None);
    assert_eq!(
        queue.step(1, Moment::ZERO, &order).map(|j| j.id),
        Some(JobId(1))
    );
    assert_eq!(queue.step(1, Moment::ZERO, &order), None);
    queue.found(1, None);
    assert!(queue.offer(work(2, 7)));
    assert_eq!(
        queue.next(Moment::ZERO, &order),
        None,
        "it is not there any more"
    );
}

#[test]
fn work_waits_until_its_cartridge_is_worth_a_mount_and_a_reader_for_a_moment() {
    let mut queue = Queue::new(Rules::default(), 1);
    queue.offer(job(1, 1, 0));
    assert_eq!(next(&mut queue, 60), None);
    queue.offer(reader(2, 2, 60));
    assert_eq!(next(&mut queue, 61), None);
    assert_eq!(next(&mut queue, 62), Some((0, 2)));
    assert_eq!(all_of(&mut queue, 0), [2]);
    assert_eq!(next(&mut queue, 63), None);
    // Old enough, or many, or much.
    assert_eq!(next(&mut queue, 15 * 60), Some((0, 1)));
    assert_eq!(all_of(&mut queue, 0), [1]);
    (10..110).for_each(|id| assert!(queue.offer(job(id, 3, 1000))));
    assert_eq!(next(&mut queue, 1000), Some((0, 3)));
    assert_eq!(all_of(&mut queue, 0).len(), 100);
    let much = Job {
        bytes: 60 << 30,
        ..job(200, 4, 1000)
    };
    queue.offer(much);
    assert_eq!(next(&mut queue, 1000), Some((0, 4)));
}

#[test]
fn what_is_mounted_needs_no_mount_to_be_worth_it_and_arrivals_join_the_pass() {
    let mut queue = Queue::new(Rules::default(), 2);
    queue.offer(reader(1, 1, 0));
    assert_eq!(next(&mut queue, 2), Some((0, 1)));
    queue.offer(job(2, 1, 3));
    // Nobody else's drive: the cartridge is in this one.
    assert_eq!(next(&mut queue, 3), None);
    assert_eq!(all_of(&mut queue, 0), [1, 2]);
    queue.offer(job(3, 1, 4));
    let turn = queue.next(at(4), &as_they_lie).unwrap();
    assert_eq!((turn.load, turn.unload), (false, None));
    assert_eq!(all_of(&mut queue, 0), [3]);
    // Another cartridge goes to the empty drive; the next one pushes out what nobody asks for.
    queue.offer(reader(4, 2, 5));
    assert_eq!(next(&mut queue, 7), Some((1, 2)));
    queue.offer(reader(5, 3, 8));
    let turn = queue.next(at(10), &as_they_lie).unwrap();
    assert_eq!((turn.drive, turn.unload), (0, Some(1)));
}

#[test]
fn a_pass_takes_users_in_turns_and_no_more_than_its_bound() {
    let rules = Rules {
        pass_jobs: 3,
        ..Rules::default()
    };
    let mut queue = Queue::new(rules, 1);
    (0..10).for_each(|id| assert!(queue.offer(of_user(1, reader(id, 1, 0)))));
    queue.offer(of_user(2, reader(20, 1, 5)));
    queue.offer(of_user(2, reader(21, 1, 5)));
    assert_eq!(next(&mut queue, 9), Some((0, 1)));
    assert_eq!(all_of(&mut queue, 0), [0, 1, 20]);
    assert_eq!(next(&mut queue, 9), Some((0, 1)));
    assert_eq!(all_of(&mut queue, 0), [2, 3, 21]);
}

#[test]
fn who_was_served_least_comes_first() {
    let rules = Rules {
        pass_bytes: 1 << 30,
        ..Rules::default()
    };
    let mut queue = Queue::new(rules, 1);
    for id in 0..6 {
        queue.offer(of_user(1, reader(id, id as u8, 0)));
    }
    queue.offer(of_user(2, reader(10, 10, 1)));
    queue.offer(of_user(2, reader(11, 11, 1)));
    let mut users = Vec::new();
    for _ in 0..4 {
        let (drive, _) = next(&mut queue, 20).unwrap();
        let ids = all_of(&mut queue, drive);
        users.push(if ids[0] < 10 { 1 } else { 2 });
    }
    users.sort_unstable();
    assert_eq!(users, [1, 1, 2, 2]);
}

#[test]
fn what_is_cancelled_or_was_in_a_drive_that_went_is_not_lost() {
    let mut queue = Queue::new(Rules::default(), 2);
    (1..5).for_each(|id| assert!(queue.offer(reader(id, 1, 0))));
    assert!(!queue.offer(reader(1, 2, 0)), "its number is taken");
    assert_eq!(next(&mut queue, 5), Some((0, 1)));
    assert_eq!(
        queue.step(0, NOON, &as_they_lie).map(|j| j.id),
        Some(JobId(1))
    );
    assert_eq!(queue.cancel(JobId(3)).map(|j| j.id), Some(JobId(3)));
    assert_eq!(queue.cancel(JobId(1)), None, "it is handed out");
    queue.drive_down(0);
    assert_eq!(next(&mut queue, 6), Some((1, 1)));
    assert_eq!(all_of(&mut queue, 1), [2, 4]);
    assert!(queue.is_empty());
}

#[test]
fn a_cartridge_that_is_away_is_asked_for_and_waited_for() {
    let mut queue = Queue::new(Rules::default(), 1);
    queue.offer(reader(1, 1, 0));
    queue.offer(reader(2, 1, 0));
    assert_eq!(next(&mut queue, 5), Some((0, 1)));
    queue.away(1);
    assert_eq!(next(&mut queue, 100_000), None);
    assert_eq!(queue.wanted().collect::<Vec<_>>(), [(&1, 2)]);
    queue.back(&1);
    assert_eq!(next(&mut queue, 100_001), Some((0, 1)));
    assert_eq!(all_of(&mut queue, 0), [1, 2]);
}

/// When a job of a [`Day`] has waited too long.
const OVERDUE: Duration = Duration::from_secs(60);

/// A day in a library, as an outsider sees it.
struct Day {
    queue: Queue<Cartridge>,
    rules: Rules,
    now: u64,
    offered: Vec<Job<Cartridge>>,
    /// Handed out or cancelled.
    gone: HashSet<JobId>,
    /// See [`Day::note_overdue`].
    allowed: Vec<(Job<Cartridge>, usize)>,
    taken: Vec<usize>,
}

#[derive(Debug, Clone)]
enum Event {
    Offer {
        cartridge: Cartridge,
        user: u32,
        reader: bool,
    },
    Begin,
    Step(usize),
    Cancel(usize),
    Down(usize),
    Later(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..6u8, 0..3u32, any::<bool>())
            .prop_map(|(cartridge, user, reader)| Event::Offer { cartridge, user, reader }),
        6 => Just(Event::Begin),
        8 => (0..3usize).prop_map(Event::Step),
        1 => any::<usize>().prop_map(Event::Cancel),
        1 => (0..3usize).prop_map(Event::Down),
        3 => (1..40u64).prop_map(Event::Later),
    ]
}

impl Day {
    fn new(overdue: Duration) -> Self {
        let rules = Rules {
            reader_after: at(2),
            files: 4,
            bytes: 6 << 30,
            age: at(30),
            pass_jobs: 3,
            pass_bytes: 3 << 30,
            reader_late: at(20),
            overdue,
        };
        Self {
            queue: Queue::new(rules.clone(), 3),
            rules,
            now: 0,
            offered: Vec::new(),
            gone: HashSet::new(),
            allowed: Vec::new(),
            taken: vec![0; 3],
        }
    }

    fn is_here(&self, id: JobId) -> bool {
        !self.gone.contains(&id)
    }

    /// Jobs that have waited too long, each with how many passes may begin for older ones where a drive could
    /// have turned to its cartridge.
    fn note_overdue(&mut self) {
        let late = |job: &&Job<Cartridge>| at(self.now) - job.since >= OVERDUE;
        for job in self.offered.iter().filter(late) {
            let known = self.allowed.iter().any(|(other, _)| other.id == job.id);
            if self.is_here(job.id) && !known {
                let older = |other: &&Job<Cartridge>| {
                    self.is_here(other.id) && (other.since, other.id) < (job.since, job.id)
                };
                let older = self.offered.iter().filter(older).count();
                self.allowed.push((job.clone(), older));
            }
        }
    }

    fn begin(&mut self) {
        self.note_overdue();
        let (held, busy) = (self.queue.mounted(), self.queue.in_pass());
        let busy: BTreeSet<_> = held.zip(busy).filter(|(_, busy)| *busy).collect();
        let busy: BTreeSet<_> = busy.into_iter().filter_map(|(c, _)| c.copied()).collect();
        let Some(turn) = self.queue.next(at(self.now), &as_they_lie) else {
            return;
        };
        self.taken[turn.drive] = 0;
        let in_pass: HashSet<_> = (0..3)
            .flat_map(|drive| {
                self.queue
                    .ahead(drive)
                    .map(|job| job.id)
                    .collect::<Vec<_>>()
            })
            .collect();
        let gone = &self.gone;
        self.allowed
            .retain(|(job, _)| !in_pass.contains(&job.id) && !gone.contains(&job.id));
        for (job, left) in &mut self.allowed {
            if !busy.contains(&job.cartridge) {
                assert!(*left > 0, "{:?} starves", job.id);
                *left -= 1;
            }
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Offer {
                cartridge,
                user,
                reader,
            } => {
                let id = self.offered.len() as u64;
                let urgency = if reader {
                    Urgency::Reader
                } else {
                    Urgency::Work
                };
                let job = Job {
                    user,
                    urgency,
                    ..job(id, cartridge, self.now)
                };
                self.offered.push(job.clone());
                assert!(self.queue.offer(job));
            }
            Event::Begin => self.begin(),
            Event::Step(drive) => {
                if let Some(job) = self.queue.step(drive, at(self.now), &as_they_lie) {
                    assert!(self.gone.insert(job.id), "{:?} handed out twice", job.id);
                    self.taken[drive] += 1;
                    assert!(self.taken[drive] <= self.rules.pass_jobs);
                }
            }
            Event::Cancel(any) => {
                if let Some(job) = self.offered.get(any % self.offered.len().max(1)) {
                    let id = job.id;
                    assert_eq!(self.queue.cancel(id).is_some(), self.is_here(id));
                    self.gone.insert(id);
                }
            }
            Event::Down(drive) => {
                self.queue.drive_down(drive);
                self.queue.drive_up(drive);
                // What it had waits anew, for as many passes again.
                self.allowed.clear();
            }
            Event::Later(seconds) => self.now += seconds,
        }
        let held: Vec<_> = self.queue.mounted().flatten().collect();
        assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), held.len());
        let here = self.offered.iter().filter(|j| self.is_here(j.id)).count();
        assert_eq!(self.queue.len(), here);
    }

    /// Everything that is left is handed out.
    fn end(&mut self) {
        for _ in 0..10_000 {
            self.now += 10;
            self.begin();
            (0..3).for_each(|drive| self.apply(Event::Step(drive)));
            if self.queue.is_empty() {
                return;
            }
        }
        panic!("{} jobs are never handed out", self.queue.len());
    }
}

/// A reader of cartridge 0 comes while a full pass of it is under way, and another drive has passes of another
/// cartridge all the time: none of them could have been his.
#[test]
fn passes_of_other_drives_keep_nobody_waiting_whose_cartridge_is_busy() {
    let mut day = Day::new(OVERDUE);
    let offer = |cartridge| Event::Offer {
        cartridge,
        user: 0,
        reader: true,
    };
    (0..3).for_each(|_| day.apply(offer(0)));
    day.apply(Event::Later(2));
    day.apply(Event::Begin);
    day.apply(offer(0));
    day.apply(Event::Later(60));
    for _ in 0..20 {
        day.apply(offer(1));
        day.apply(Event::Later(2));
        day.apply(Event::Begin);
        day.apply(Event::Step(1));
        day.apply(Event::Step(1));
    }
    day.end();
}

/// The control: without the rule, somebody does. Three drives that are kept busy with readers, who go first,
/// and a job that is worth a mount by its age.
#[test]
#[should_panic(expected = "starves")]
fn without_the_bound_somebody_starves() {
    let mut day = Day::new(Duration::MAX);
    let offer = |cartridge, reader| Event::Offer {
        cartridge,
        user: 0,
        reader,
    };
    day.apply(offer(0, false));
    for _ in 0..100 {
        (1..5).for_each(|cartridge| day.apply(offer(cartridge, true)));
        day.apply(Event::Later(5));
        for _ in 0..3 {
            day.apply(Event::Begin);
            // All of the pass, in whatever drive, and the end of it.
            (0..15).for_each(|n| day.apply(Event::Step(n % 3)));
        }
    }
}

/// A long pass of stages, and a reader of another cartridge with no other drive.
#[test]
fn a_pass_of_other_work_ends_for_a_reader_who_has_waited_too_long() {
    let mut queue = Queue::new(Rules::default(), 1);
    (10..200).for_each(|id| assert!(queue.offer(job(id, 1, 0))));
    assert_eq!(next(&mut queue, 1), Some((0, 1)));
    queue.offer(reader(1, 2, 10));
    let at_time = |queue: &mut Queue<Cartridge>, seconds| {
        queue.step(0, at(seconds), &as_they_lie).map(|job| job.id.0)
    };
    assert_eq!(at_time(&mut queue, 20), Some(10));
    assert_eq!(at_time(&mut queue, 10 + 299), Some(11));
    assert_eq!(at_time(&mut queue, 10 + 300), None);
    assert_eq!(next(&mut queue, 311), Some((0, 2)));
    assert_eq!(all_of(&mut queue, 0), [1]);
    // What was not read waits as long as it has.
    assert_eq!(next(&mut queue, 320), Some((0, 1)));
    assert_eq!(all_of(&mut queue, 0).len(), 188);
    // What is overdue is read to its end.
    (300..400).for_each(|id| assert!(queue.offer(job(id, 1, 400))));
    assert_eq!(next(&mut queue, 400), Some((0, 1)));
    queue.offer(reader(2, 2, 401));
    assert_eq!(at_time(&mut queue, 402), Some(300));
    assert_eq!(at_time(&mut queue, 400 + 3600), Some(301));
}

#[test]
fn readers_of_a_pass_come_first_also_those_who_come_for_what_was_queued() {
    let mut queue = Queue::new(Rules::default(), 1);
    for id in [1, 2, 3, 4] {
        queue.offer(job(id, 1, 0));
    }
    queue.offer(reader(5, 1, 0));
    assert!(queue.raise(JobId(4)) && !queue.raise(JobId(9)));
    assert_eq!(next(&mut queue, 5), Some((0, 1)));
    let step = |queue: &mut Queue<Cartridge>| queue.step(0, NOON, &as_they_lie).map(|job| job.id.0);
    assert_eq!([step(&mut queue), step(&mut queue)], [Some(4), Some(5)]);
    assert!(queue.raise(JobId(2)));
    assert!(!queue.raise(JobId(4)), "it is handed out");
    assert_eq!(all_of(&mut queue, 0), [2, 1, 3]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn nothing_is_lost_and_nobody_starves(events in prop::collection::vec(event(), 0..300)) {
        let mut day = Day::new(OVERDUE);
        events.into_iter().for_each(|event| day.apply(event));
        day.end();
    }
}
