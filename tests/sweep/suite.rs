//! The sweep itself. In the ordinary suite a sample of the points of some verbs; with `CAIRN_SWEEP=kinds`
//! one point of each kind (and every fault at it) in each verb, with `files` every point but those on
//! the catalog's log, with `all` every point.
//!
//! `CAIRN_SWEEP_SEED` repeats a sample, `CAIRN_SWEEP_VERBS` (names with commas) chooses verbs,
//! `CAIRN_SWEEP_BACKING` is the backing's filesystem, `CAIRN_SWEEP_AT=n,fault` one run of one verb,
//! `CAIRN_SWEEP_JOBS` how many run at once; `CAIRN_SWEEP_SHOW=1` names every
//! point and run.

use crate::fault::Fault;
use crate::needs_mounts;
use crate::point::Point;
use crate::rig::sys;
use crate::run;
use crate::site::Images;
use crate::tally::Tally;
use crate::verb::{From, VERBS, Verb};
use anyhow::{Context, Result, anyhow, ensure};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs in the ordinary suite, and the verbs that they are of: a third of all, others each time.
const SAMPLE: usize = 24;
const VERBS_OF_SAMPLE: usize = 6;

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

pub(crate) fn backing() -> &'static str {
    match setting("CAIRN_SWEEP_BACKING").as_deref() {
        Some("xfs") => "xfs",
        _ => "ext4",
    }
}

fn seed() -> Result<u64> {
    let clock = || {
        std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .map_or(1, |d| d.as_nanos() as u64)
    };
    match setting("CAIRN_SWEEP_SEED") {
        Some(text) => text.parse().context("CAIRN_SWEEP_SEED"),
        None => Ok(clock()),
    }
}

/// One run to make.
#[derive(Clone, Copy)]
struct Job {
    verb: usize,
    n: u64,
    fault: Fault,
}

/// The verbs that were asked for, or a sample of them.
fn verbs(seed: u64) -> Vec<&'static Verb> {
    if let Some(list) = setting("CAIRN_SWEEP_VERBS") {
        let named = |v: &&Verb| list.split(',').any(|w| w.trim() == v.name);
        return VERBS.iter().filter(named).collect();
    }
    let mut all: Vec<_> = VERBS.iter().zip(0_u64..).collect();
    let chosen = ["CAIRN_SWEEP", "CAIRN_SWEEP_AT"].map(setting);
    if chosen.iter().all(Option::is_none) {
        all.sort_unstable_by_key(|(_, n)| mixed(seed ^ mixed(!*n)));
        all.truncate(VERBS_OF_SAMPLE);
        let names: Vec<_> = all.iter().map(|(verb, _)| verb.name).collect();
        eprintln!("of {} verbs: {}", VERBS.len(), names.join(", "));
    }
    all.into_iter().map(|(verb, _)| verb).collect()
}

/// Splitmix: which runs a sample has.
fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Faults by their names in `CAIRN_SWEEP_AT`.
fn one_run() -> Result<Option<(u64, Fault)>> {
    let Some(text) = setting("CAIRN_SWEEP_AT") else {
        return Ok(None);
    };
    let (n, fault) = text.split_once(',').context("CAIRN_SWEEP_AT=n,fault")?;
    let all = [
        Fault::Fails(libc::EIO),
        Fault::Fails(libc::ENOSPC),
        Fault::Fails(libc::EDQUOT),
        Fault::FailsThenPower(libc::EIO),
        Fault::Crash,
        Fault::Power,
    ];
    let fault = all.into_iter().find(|f| f.to_string() == fault);
    Ok(Some((
        n.parse()?,
        fault.context("EIO, ENOSPC, crash, ...")?,
    )))
}

/// Every point and fault of these verbs, or a sample of them.
fn jobs(points: &[Vec<Point>], seed: u64) -> Result<Vec<Job>> {
    let mut all = Vec::new();
    for (verb, points) in points.iter().enumerate() {
        for (n, point) in (1..).zip(points) {
            all.extend(
                Fault::at(point)
                    .into_iter()
                    .map(|fault| Job { verb, n, fault }),
            );
        }
    }
    if let Some((n, fault)) = one_run()? {
        let many = points.len();
        return Ok((0..many).map(|verb| Job { verb, n, fault }).collect());
    }
    let mut order: Vec<_> = (0..all.len() as u64)
        .map(|n| (mixed(seed ^ mixed(n)), all[n as usize]))
        .collect();
    order.sort_unstable_by_key(|(key, _)| *key);
    let mut all: Vec<_> = order.into_iter().map(|(_, job)| job).collect();
    let many = all.len();
    match setting("CAIRN_SWEEP").as_deref() {
        Some("all") => {}
        Some("files") => all.retain(|job| !points[job.verb][job.n as usize - 1].is_of_the_log()),
        Some("kinds") => {
            let mut seen = HashSet::new();
            let at = |job: &Job| &points[job.verb][job.n as usize - 1];
            all.retain(|job| seen.insert((job.verb, at(job), job.fault)));
        }
        _ => all.truncate(SAMPLE),
    }
    eprintln!("{} of {many} runs: CAIRN_SWEEP_SEED={seed}", all.len());
    Ok(all)
}

/// Does `one` for each, several at once, each in a mount namespace of its thread's. What they gave, in
/// order.
fn each<T: Sync, R: Send>(all: &[T], one: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let many = setting("CAIRN_SWEEP_JOBS").map_or(Ok(4), |t| t.parse())?;
    let given = Mutex::new(Vec::new());
    let worker = || -> Result<()> {
        sys::own_mounts()?;
        loop {
            let n = next.fetch_add(1, Ordering::SeqCst);
            let Some(job) = all.get(n) else {
                return Ok(());
            };
            let done = one(job)?;
            given.lock().push((n, done));
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..many).map(|_| scope.spawn(worker)).collect();
        threads
            .into_iter()
            .try_for_each(|t| t.join().map_err(|_| anyhow!("a run panicked"))?)
    })?;
    let mut given = given.into_inner();
    given.sort_unstable_by_key(|(n, _)| *n);
    Ok(given.into_iter().map(|(_, done)| done).collect())
}

/// One run, into its verb's tally.
fn run(job: &Job, verb: &Verb, images: &Images, tally: &Mutex<Tally>) {
    let done = run::strike(verb, images, job.n, job.fault);
    let mut tally = tally.lock();
    match done {
        Ok(shown) => {
            let at = shown.struck.as_ref();
            if setting("CAIRN_SWEEP_SHOW").is_some() {
                let at = at.map_or("nothing".to_owned(), ToString::to_string);
                eprintln!("RUN {}, {}, {}, {at}", verb.name, job.n, job.fault);
            }
            match shown.struck {
                Some(point) => tally.struck(point, job.fault, shown.told),
                None => tally.missed(),
            }
        }
        Err(why) => {
            let text = format!("{}: {} at {}: {why:#}", verb.name, job.fault, job.n);
            eprintln!("VIOLATION {text}\n");
            tally.violations.push(text);
        }
    }
}

/// The points of a verb, without a fault.
fn counted(verb: &Verb, images: &Images) -> Result<Vec<Point>> {
    let counted = run::count(verb, images);
    let counted = counted.with_context(|| format!("{} without a fault", verb.name))?;
    if setting("CAIRN_SWEEP_SHOW").is_some() {
        let all = counted.iter().zip(1..);
        all.for_each(|(p, n)| eprintln!("{} {n}: {p}", verb.name));
    }
    Ok(counted)
}

#[test]
fn after_a_fault_at_any_point_of_any_verb_the_invariants_hold() -> Result<()> {
    needs_mounts!();
    sys::own_mounts()?;
    let seed = seed()?;
    let verbs = verbs(seed);
    let from: BTreeSet<_> = verbs.iter().map(|v| v.from).collect();
    let from: Vec<_> = from.into_iter().collect();
    let images = each(&from, |from| Ok((*from, from.prepare(backing())?)))?;
    let images: HashMap<From, Images> = images.into_iter().collect();
    let points = each(&verbs, |verb| counted(verb, &images[&verb.from]))?;
    let count = |points: &Vec<_>| {
        let mut tally = Tally::default();
        tally.points = points.len() as u64;
        Mutex::new(tally)
    };
    let tallies: Vec<_> = points.iter().map(count).collect();
    let jobs = jobs(&points, seed)?;
    each(&jobs, |job| {
        let verb = verbs[job.verb];
        run(job, verb, &images[&verb.from], &tallies[job.verb]);
        Ok(())
    })?;
    let (mut struck, mut violations) = (0, 0);
    for (verb, tally) in verbs.iter().zip(&tallies) {
        let tally = tally.lock();
        eprintln!("{}: {tally}\n{}", verb.name, tally.kinds());
        struck += tally.struck_in_all();
        violations += tally.violations.len();
    }
    ensure!(violations == 0, "{violations} violations, see above");
    ensure!(struck > 0, "no fault struck");
    Ok(())
}
