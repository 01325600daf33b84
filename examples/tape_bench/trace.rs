//! A day of recalls: who asks for what, and when. Equal seeds give equal days.
//!
//! Twenty users, forty full cartridges of LTO-8, five thousand recalls. Each user's project lies on two to six cartridges, some
//! of which it shares with others. Four in five recalls are staged for jobs: somebody asks for 40 to 400 members of one or two of the
//! project's cartridges at once, at any time of the day, twice as often in working hours. The others are single reads between
//! eight and eighteen, by users who look at one to six files with minutes between them.

use crate::BLOCK;
use crate::random::Random;
use cairn::hsm::tape::queue::{Job, JobId, Urgency};
use cairn::tier::tape::timing::{Generation, Geometry};
use std::time::Duration;

pub(crate) const CARTRIDGES: usize = 40;
pub(crate) const DRIVES: usize = 4;
pub(crate) const USERS: usize = 20;
const RECALLS: usize = 5000;
const READS: usize = RECALLS / 5;
const HOUR: f64 = 3600.0;

pub(crate) fn geometry() -> Geometry {
    Geometry::whole(Generation::Lto8)
}

/// The jobs of a day, by the time at which they are asked for.
pub(crate) fn day(seed: u64) -> Vec<Job<usize>> {
    let mut random = Random::new(seed);
    let projects: Vec<Vec<usize>> = (0..USERS).map(|_| project(&mut random)).collect();
    let mut jobs = Vec::with_capacity(RECALLS);
    while jobs.len() < READS {
        let user = random.below(USERS);
        let mut at = HOUR * (8.0 + 10.0 * random.unit());
        for _ in 0..=random.below(6) {
            let cartridge = one_of(&projects[user], &mut random);
            jobs.push(job(user, cartridge, Urgency::Reader, at, &mut random));
            at += random.exponential(180.0);
        }
    }
    jobs.truncate(READS);
    while jobs.len() < RECALLS {
        stage(&projects, &mut jobs, &mut random);
    }
    jobs.truncate(RECALLS);
    jobs.sort_by_key(|job| job.since);
    for (id, job) in (0..).zip(&mut jobs) {
        job.id = JobId(id);
    }
    jobs
}

fn project(random: &mut Random) -> Vec<usize> {
    let many = 2 + random.below(5);
    (0..many).map(|_| random.below(CARTRIDGES)).collect()
}

fn one_of(project: &[usize], random: &mut Random) -> usize {
    project[random.below(project.len())]
}

/// What a job needs, asked for at once.
fn stage(projects: &[Vec<usize>], jobs: &mut Vec<Job<usize>>, random: &mut Random) {
    let user = random.below(USERS);
    let hour = if random.below(2) == 0 {
        24.0 * random.unit()
    } else {
        8.0 + 10.0 * random.unit()
    };
    let cartridges = [
        one_of(&projects[user], random),
        one_of(&projects[user], random),
    ];
    for _ in 0..40 + random.below(361) {
        let cartridge = one_of(&cartridges, random);
        jobs.push(job(user, cartridge, Urgency::Work, hour * HOUR, random));
    }
}

/// A member of 16 MiB to 4 GiB, evenly by its logarithm: 740 MiB on average.
fn job(
    user: usize,
    cartridge: usize,
    urgency: Urgency,
    at: f64,
    random: &mut Random,
) -> Job<usize> {
    let bytes = (f64::from(16 << 20) * 256_f64.powf(random.unit())) as u64;
    let blocks = bytes.div_ceil(BLOCK);
    let whole = geometry().capacity / BLOCK;
    let begin = random.below((whole - blocks) as usize) as u64;
    Job {
        id: JobId(0),
        cartridge,
        begin,
        end: begin + blocks,
        bytes,
        user: user as u32,
        urgency,
        since: Duration::from_secs_f64(at),
    }
}
