//! A day of recalls: how long users wait, in a library that serves them by the queue and in ones that do not; and what
//! they are told.

use crate::library::{Expected, Library, least};
use crate::report::{Table, percentile, spread};
use crate::trace::{self, CARTRIDGES, DRIVES, USERS};
use cairn::hsm::tape::estimate::experience::Experience;
use cairn::hsm::tape::estimate::{Busy, Estimate, Estimator};
use cairn::hsm::tape::queue::{Job, JobId, Moment, Queue, Rules, Urgency};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a library does with a day.
#[derive(Default)]
struct Served {
    /// What was asked for, and when it was read.
    reads: Vec<(Job<usize>, Moment)>,
    mounts: u64,
    /// What was foretold for everybody when he came, and what he was told: how long it would take.
    told: BTreeMap<JobId, (Duration, Duration)>,
    experience: Experience,
}

impl Served {
    fn is_read(&mut self, job: Job<usize>, ends: Moment) {
        if let Some((foretold, _)) = self.told.get(&job.id) {
            self.experience
                .learn(job.urgency, *foretold, ends - job.since, ends);
        }
        self.reads.push((job, ends));
    }

    fn tell(&mut self, came: &[(JobId, Urgency)], foretold: &BTreeMap<JobId, Estimate>) {
        for (id, urgency) in came {
            if let Some(Estimate { left, .. }) = foretold.get(id) {
                let told = self.experience.correct(*urgency, *left);
                self.told.insert(*id, (*left, told));
            }
        }
    }

    /// Seconds that those waited, in all.
    fn waits(&self, urgency: Urgency) -> Vec<f64> {
        let those = self.reads.iter().filter(|(job, _)| job.urgency == urgency);
        those
            .map(|(job, ends)| (*ends - job.since).as_secs_f64())
            .collect()
    }
}

/// By the queue. `tell`: also what everybody would be told as he comes.
fn by_queue(day: &[Job<usize>], tell: bool) -> Served {
    let mut queue = Queue::new(Rules::default(), DRIVES);
    let (mut library, mut served) = (Library::new(), Served::default());
    let mut reading: Vec<Option<Job<usize>>> = vec![None; DRIVES];
    let mut estimator = Estimator::default();
    let mut coming = day.iter().peekable();
    let mut now = Moment::ZERO;
    loop {
        let mut came: Vec<(JobId, Urgency)> = Vec::new();
        while let Some(job) = coming.next_if(|job| job.since <= now) {
            came.push((job.id, job.urgency));
            queue.offer(job.clone());
        }
        for (drive, reading) in reading.iter_mut().enumerate() {
            while queue.in_pass()[drive] && library.drives[drive].busy <= now {
                if let Some(job) = reading.take() {
                    served.is_read(job, library.drives[drive].busy);
                }
                *reading = queue.step(drive, now, &least);
                if let Some(job) = reading {
                    library.read(drive, job, now);
                }
            }
        }
        while let Some(turn) = queue.next(now, &least) {
            library.mount(turn.drive, turn.cartridge, now);
        }
        if tell && !came.is_empty() {
            let left = |drive: &crate::library::Drive| Busy {
                left: drive.busy.saturating_sub(now),
            };
            let busy: Vec<Busy> = library.drives.iter().map(left).collect();
            let told = estimator.estimates(&queue, &busy, &Expected, &least, now, usize::MAX);
            served.tell(&came, &told);
        }
        let in_pass = queue.in_pass();
        let busy = library
            .drives
            .iter()
            .zip(&in_pass)
            .filter(|(_, in_pass)| **in_pass);
        let busy = busy.map(|(drive, _)| drive.busy);
        let ripe = queue.ripe_at(now).filter(|_| in_pass.contains(&false));
        let next = busy
            .chain(ripe)
            .chain(coming.peek().map(|job| job.since))
            .min();
        match next {
            // A pass that has just begun may have nothing to wait for.
            Some(next) => now = next.max(now),
            None => break,
        }
    }
    served.mounts = library.mounts;
    served
}

/// Whoever came first is read first, as far as his cartridge is not in a drive that is busy. `all`: whatever is asked for of
/// the same cartridge by then is read with it, as it lies.
fn as_they_came(day: &[Job<usize>], all: bool) -> Served {
    let (mut library, mut served) = (Library::new(), Served::default());
    let mut waiting: Vec<&Job<usize>> = Vec::new();
    let mut coming = day.iter().peekable();
    let mut now = Moment::ZERO;
    loop {
        while let Some(job) = coming.next_if(|job| job.since <= now) {
            waiting.push(job);
        }
        while let Some((at, drive)) = first_that_can(&waiting, &library, now) {
            let first = waiting.remove(at);
            let mut pass = vec![first];
            if all {
                pass.extend(waiting.extract_if(.., |job| job.cartridge == first.cartridge));
                pass.sort_by_key(|job| job.begin);
            }
            library.mount(drive, first.cartridge, now);
            for job in pass {
                let ends = library.read(drive, job, now);
                served.reads.push((job.clone(), ends));
            }
        }
        let busy = library
            .drives
            .iter()
            .map(|drive| drive.busy)
            .filter(|busy| *busy > now);
        let next = busy.chain(coming.peek().map(|job| job.since)).min();
        match next {
            Some(next) => now = next,
            None => break,
        }
    }
    served.mounts = library.mounts;
    served
}

/// The first of those who wait who can be served, by his place among them, and the drive that does it: the one
/// that holds his cartridge, an empty one, or the one that has rested longest.
fn first_that_can(
    waiting: &[&Job<usize>],
    library: &Library,
    now: Moment,
) -> Option<(usize, usize)> {
    let drives = &library.drives;
    let free = |drive: &usize| drives[*drive].busy <= now;
    let any = (0..drives.len())
        .filter(free)
        .min_by_key(|drive| (drives[*drive].holds.is_some(), drives[*drive].busy))?;
    waiting.iter().enumerate().find_map(|(at, job)| {
        match drives
            .iter()
            .position(|drive| drive.holds == Some(job.cartridge))
        {
            Some(holder) => free(&holder).then_some((at, holder)),
            None => Some((at, any)),
        }
    })
}

/// A way to serve a day.
type Serve = fn(&[Job<usize>]) -> Served;

pub(crate) fn run(seeds: u64) {
    println!(
        "## A day\n\n{USERS} users, 5000 recalls, {CARTRIDGES} cartridges, {DRIVES} drives; minutes from asking to the last \
         byte, median (least..most) of n = {seeds} days.\n"
    );
    let table = Table::new(&["served", "of", "mean", "median", "99 %", "worst", "mounts"]);
    let ways: [(&str, Serve); 3] = [
        ("as they come", |day| as_they_came(day, false)),
        ("cartridges as they come", |day| as_they_came(day, true)),
        ("queue", |day| by_queue(day, false)),
    ];
    for (name, serve) in ways {
        let days: Vec<Served> = (1..=seeds).map(|seed| serve(&trace::day(seed))).collect();
        for (whom, urgency) in [("readers", Urgency::Reader), ("staged", Urgency::Work)] {
            let minutes = |of: fn(&mut [f64]) -> f64| {
                let each = days.iter().map(|day| of(&mut day.waits(urgency)) / 60.0);
                spread(&mut each.collect::<Vec<_>>(), 1)
            };
            let mounts = days.iter().map(|day| day.mounts as f64);
            table.row(&[
                name.to_owned(),
                whom.to_owned(),
                minutes(|waits| waits.iter().sum::<f64>() / waits.len() as f64),
                minutes(|waits| percentile(waits, 0.5)),
                minutes(|waits| percentile(waits, 0.99)),
                minutes(|waits| percentile(waits, 1.0)),
                spread(&mut mounts.collect::<Vec<_>>(), 0),
            ]);
        }
    }
    println!();
    told(seeds);
}

/// One who asked: for whom, what was foretold, what he was told, and what he waited, minutes.
struct Told {
    urgency: Urgency,
    foretold: f64,
    told: f64,
    waited: f64,
}

impl Served {
    fn all_told(&self) -> impl Iterator<Item = Told> {
        let minutes = |time: Duration| time.as_secs_f64() / 60.0;
        self.reads.iter().filter_map(move |(job, ends)| {
            let (foretold, told) = self.told.get(&job.id)?;
            Some(Told {
                urgency: job.urgency,
                foretold: minutes(*foretold),
                told: minutes(*told),
                waited: minutes(*ends - job.since),
            })
        })
    }
}

/// What people are told, against what it then takes.
fn told(seeds: u64) {
    println!(
        "## What is told\n\nRelative error |told - waited| / waited, of all {seeds} days together, each of which begins \
         without experience. `foretold`: the queue alone, played forward.\n"
    );
    let head = [
        "of",
        "told, minutes",
        "n",
        "foretold: median",
        "90 %",
        "waited / foretold",
        "told: median",
        "90 %",
        "waited / told",
    ];
    let table = Table::new(&head);
    let all: Vec<Told> = (1..=seeds)
        .flat_map(|seed| {
            by_queue(&trace::day(seed), true)
                .all_told()
                .collect::<Vec<_>>()
        })
        .collect();
    let bounds = [0.0, 5.0, 15.0, 30.0, 60.0, 120.0, 240.0, f64::INFINITY];
    for (whom, urgency) in [("readers", Urgency::Reader), ("staged", Urgency::Work)] {
        let classes = bounds.windows(2).map(|pair| (pair[0], pair[1]));
        for (from, to) in [(0.0, f64::INFINITY)].into_iter().chain(classes) {
            let those: Vec<&Told> = all
                .iter()
                .filter(|t| t.urgency == urgency && (from..to).contains(&t.told))
                .collect();
            if those.is_empty() {
                continue;
            }
            let class = match (from, to.is_infinite()) {
                (0.0, true) => "all".to_owned(),
                (_, true) => format!("{from} and more"),
                (_, false) => format!("{from} to {to}"),
            };
            let mut cells = vec![whom.to_owned(), class, those.len().to_string()];
            cells.extend(errors(&those, |t| t.foretold));
            cells.extend(errors(&those, |t| t.told));
            table.row(&cells);
        }
    }
    println!();
}

/// Median and 90 % of the relative error, and the median of what was waited as a multiple.
fn errors(those: &[&Told], said: fn(&Told) -> f64) -> [String; 3] {
    let mut errors: Vec<f64> = those
        .iter()
        .map(|t| (said(t) - t.waited).abs() / t.waited)
        .collect();
    let mut ratios: Vec<f64> = those.iter().map(|t| t.waited / said(t)).collect();
    [
        format!("{:.0} %", 100.0 * percentile(&mut errors, 0.5)),
        format!("{:.0} %", 100.0 * percentile(&mut errors, 0.9)),
        format!("{:.2}", percentile(&mut ratios, 0.5)),
    ]
}
