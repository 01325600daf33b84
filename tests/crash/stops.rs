//! The loop: work, stop at a random instant, restart, compare; and the same loop with syncing
//! turned into nothing, which must fail.
//!
//! `CAIRN_CRASH_STOPS` sets how many stops in all (two of five are power losses),
//! `CAIRN_CRASH_SEED` the seed, `CAIRN_BIN` the program.

use crate::model::Stop;
use crate::needs_mounts;
use crate::random::Random;
use crate::site::Site;
use crate::tally::Tally;
use crate::traffic::Traffic;
use crate::writer::Writer;
use crate::{check, sys};
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::fs::{self, File};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const WRITERS: u64 = 4;
const TRAFFIC: u64 = 3;
const DEFAULT_STOPS: u64 = 6;

fn number(name: &str) -> Result<Option<u64>> {
    let Ok(text) = std::env::var(name) else {
        return Ok(None);
    };
    Ok(Some(
        text.parse().with_context(|| format!("{name}={text}"))?,
    ))
}

fn stops() -> Result<u64> {
    Ok(number("CAIRN_CRASH_STOPS")?.unwrap_or(DEFAULT_STOPS))
}

fn seed() -> Result<u64> {
    let clock = || {
        std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .map_or(1, |d| d.as_nanos() as u64)
    };
    Ok(number("CAIRN_CRASH_SEED")?.unwrap_or_else(clock))
}

/// Which stops a run makes.
#[derive(Clone, Copy, PartialEq)]
enum Kinds {
    Both,
    Power,
}

struct Run {
    site: Site,
    random: Random,
    writers: Vec<Writer>,
    traffic: Vec<Traffic>,
    tally: Tally,
}

impl Run {
    fn new(kind: &'static str, seed: u64) -> Result<Self> {
        let site = Site::new(kind)?;
        let mount = &site.cairn.mount;
        let dirs: Vec<_> = (0..WRITERS).map(|n| mount.join(format!("d{n}"))).collect();
        let writers = (0..WRITERS).zip(&dirs);
        let writers = writers.map(|(n, dir)| Writer::new(dir.clone(), Random::new(seed, n + 1)));
        let traffic = (0..TRAFFIC).map(|n| Traffic {
            socket: site.cairn.state.join("run/control.sock"),
            dirs: dirs.clone(),
            random: Random::new(seed, 100 + n),
            tally: Tally::default(),
        });
        let (writers, traffic) = (writers.collect(), traffic.collect());
        Ok(Self {
            random: Random::new(seed, 0),
            site,
            writers,
            traffic,
            tally: Tally::default(),
        })
    }

    /// The first start, and the directories of the users.
    fn begin(&mut self) -> Result<()> {
        self.site.up()?;
        for writer in &self.writers {
            fs::create_dir(writer.dir())?;
            File::open(writer.dir())?.sync_all()?;
        }
        Ok(File::open(&self.site.cairn.mount)?.sync_all()?)
    }

    /// Works for a while and stops in the middle of it.
    fn work_and_stop(&mut self, how: Stop) -> Result<()> {
        let (stop, dead) = (AtomicBool::new(false), Arc::default());
        let lasting = Duration::from_millis(150 + self.random.below(1850));
        let staggered = self.random.chance(30);
        // Half of the stops wait for work half done, so that these windows are struck often.
        let aimed = self.random.chance(50);
        let (site, random) = (&mut self.site, &mut self.random);
        let (writers, traffic) = (&mut self.writers, &mut self.traffic);
        let (struck, failed) = std::thread::scope(|scope| {
            let mut threads: Vec<_> = writers
                .iter_mut()
                .map(|w| scope.spawn(|| w.work(&stop, &dead)))
                .collect();
            threads.extend(traffic.iter_mut().map(|t| scope.spawn(|| t.work(&stop))));
            std::thread::sleep(lasting);
            let patience = Instant::now() + Duration::from_secs(2);
            while aimed && Instant::now() < patience && !site.in_a_window() {
                std::thread::sleep(Duration::from_millis(1));
            }
            // From here on what fails is the stop's doing.
            stop.store(true, Ordering::SeqCst);
            let struck = match how {
                Stop::Kill => site.cairn.kill(),
                Stop::Power if staggered => site.staggered_outage(random, &dead),
                Stop::Power => site.outage(&dead),
            };
            let ended: Vec<_> = threads.into_iter().map(|t| t.join()).collect();
            (struck, ended)
        });
        struck?;
        for ended in failed {
            ended.map_err(|_| anyhow!("a thread of the workload panicked"))??;
        }
        match how {
            Stop::Kill => self.tally.kills += 1,
            Stop::Power if staggered => self.tally.staggered += 1,
            Stop::Power => self.tally.outages += 1,
        }
        Ok(())
    }

    /// Restarts and compares.
    fn restart(&mut self, how: Stop) -> Result<()> {
        let records = self.site.records()?;
        self.tally.released += records.released;
        self.tally.unpunched += records.unpunched;
        self.tally.recalling += records.recalling;
        self.tally.half_written += self.site.half_written()?;
        self.site.up()?;
        self.tally.resumed += check::open_requests(&self.site.cairn)?;
        for writer in &mut self.writers {
            let dir = writer.dir().to_owned();
            check::directory(&dir, &mut writer.model, how, &mut self.tally)?;
        }
        check::requests_end(&self.site.cairn)?;
        check::status(&self.site.cairn)
    }

    fn stops(&mut self, stops: u64, kinds: Kinds) -> Result<()> {
        for n in 0..stops {
            let power = kinds == Kinds::Power || matches!(n % 5, 1 | 3);
            let how = if power { Stop::Power } else { Stop::Kill };
            self.work_and_stop(how)
                .and_then(|()| self.restart(how))
                .with_context(|| format!("at stop {} of {stops}, a {how:?}", n + 1))?;
            if (n + 1) % 20 == 0 {
                eprintln!("{} of {stops}; so far {}", n + 1, self.tally());
            }
        }
        Ok(())
    }

    fn tally(&self) -> Tally {
        let mut sum = self.tally.clone();
        self.writers.iter().for_each(|w| sum.add(&w.tally));
        self.traffic.iter().for_each(|t| sum.add(&t.tally));
        sum
    }
}

/// Half of the stops on a backing of this kind.
fn survives(kind: &'static str) -> Result<()> {
    let seed = seed()?;
    eprintln!("backing on {kind}: CAIRN_CRASH_SEED={seed}");
    let mut run = Run::new(kind, seed)?;
    run.begin()?;
    let done = run.stops(stops()?.div_ceil(2), Kinds::Both);
    let tally = run.tally();
    eprintln!("backing on {kind}: {tally}");
    done.with_context(|| format!("seed {seed}\n--- up.log\n{}", run.site.cairn.log()))?;
    ensure!(tally.checked > 0, "nothing was compared");
    run.site.cairn.archive("")?;
    run.site
        .cairn
        .cairn(["verify", "--wait", &run.site.cairn.mount.to_string_lossy()])?;
    run.site.cairn.down()
}

#[test]
fn what_was_synced_equals_its_reference_after_every_stop_on_xfs() -> Result<()> {
    needs_mounts!();
    survives("xfs")
}

#[test]
fn what_was_synced_equals_its_reference_after_every_stop_on_ext4() -> Result<()> {
    needs_mounts!();
    survives("ext4")
}

#[test]
fn with_syncing_turned_into_nothing_the_loop_fails() -> Result<()> {
    needs_mounts!();
    let seed = seed()?;
    let mut run = Run::new("xfs", seed)?;
    run.site.cairn.prepare = Some(Box::new(|command| {
        sys::sync_nothing(command);
        Ok(())
    }));
    run.begin()?;
    // The beginning is on the disks: what gets lost is what users synced later.
    run.site.sync()?;
    match run.stops(12, Kinds::Power) {
        Ok(()) => bail!(
            "12 power losses without a sync were survived, seed {seed}: {}",
            run.tally()
        ),
        Err(why) => {
            ensure!(
                run.tally().stops() > 0,
                "failed before a power loss: {why:#}"
            );
            eprintln!("without syncing, {why:#}\n{}", run.tally());
            Ok(())
        }
    }
}
