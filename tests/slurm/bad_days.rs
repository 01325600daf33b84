//! Staging is cancelled, the controller or Cairn dies, the tier is away: the job is not lost, and nothing is
//! fetched twice.

use crate::needs_slurm;
use crate::rig::wait_for;
use crate::site::Site;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::time::Instant;

/// A job that stages a released directory of so many files, from a tier with these options.
fn staging(site: &mut Site, files: usize, options: &str) -> Result<String> {
    site.released("in", files, 100_000)?;
    site.slow(options)?;
    let directive = format!("#CAIRN stage_in {}", site.cairn.at("in").display());
    let job = site.submit("in.sh", &directive, "echo ran")?;
    wait_for("the request", || Ok(!site.requests(&job)?.is_empty()))
        .with_context(|| format!("{}\n{}", site.show(&job).unwrap_or_default(), site.logs()))?;
    Ok(job)
}

#[test]
fn a_cancelled_job_frees_its_places_at_once() -> Result<()> {
    needs_slurm!();
    let mut site = Site::new("dir", "delay=0s")?;
    let job = staging(&mut site, 40, "delay=400ms")?;
    site.shows(&job, "BurstBufferState=staging-in")?;
    let begun = Instant::now();
    site.slurm("scancel", [&job])?;
    let mut asked = Vec::new();
    wait_for("the request's end", || {
        asked = site.requests(&job)?;
        Ok(asked.iter().all(|r| r["state"] == "cancelled"))
    })?;
    eprintln!("cancelled {} ms after scancel", begun.elapsed().as_millis());
    let done = asked
        .iter()
        .filter_map(|r| r["files_done"].as_u64())
        .sum::<u64>();
    ensure!(done < 40, "it was all done before: {asked:?}");
    wait_for("the pins to go", || {
        Ok(!site.pins("in/39")?.contains("job:"))
    })?;
    site.shows(&job, "JobState=CANCELLED")?;
    Ok(())
}

#[test]
fn a_requeued_job_keeps_what_it_holds() -> Result<()> {
    needs_slurm!();
    let site = Site::new("dir", "delay=0s")?;
    site.released("in", 2, 100_000)?;
    let directive = format!("#CAIRN stage_in {}", site.cairn.at("in").display());
    let job = site.submit("long.sh", &directive, "sleep 600")?;
    site.shows(&job, "JobState=RUNNING")?;
    site.slurm("scontrol", ["requeue", &job])?;
    site.shows(&job, "JobState=PENDING")?;
    // Slurm tears down what the first run had, and stages for the second one.
    site.shows(&job, "BurstBufferState=staged-in")?;
    ensure!(site.recalls()? == (2, 0), "{:?}", site.recalls()?);
    ensure!(
        site.pins("in/0")?.contains("job:"),
        "{}",
        site.pins("in/0")?
    );
    site.slurm("scancel", [&job])?;
    wait_for("the pins to go", || {
        Ok(!site.pins("in/0")?.contains("job:"))
    })?;
    Ok(())
}

#[test]
fn a_controller_that_is_restarted_asks_again_and_nothing_is_recalled_twice() -> Result<()> {
    needs_slurm!();
    let mut site = Site::new("dir", "delay=0s")?;
    let job = staging(&mut site, 10, "delay=300ms")?;
    let before = site.requests(&job)?;
    site.stop_control()?;
    site.control()?;
    site.shows(&job, "JobState=COMPLETED")?;
    ensure!(site.output(&job) == "ran\n", "{}", site.output(&job));
    let after = site.requests(&job)?;
    // Perhaps a second request, when the first had ended already: of nothing.
    let files: u64 = after.iter().filter_map(|r| r["files"].as_u64()).sum();
    ensure!(files == 10, "{before:?} {after:?}");
    ensure!(site.recalls()? == (10, 0), "{:?}", site.recalls()?);
    Ok(())
}

#[test]
fn a_job_goes_on_waiting_when_cairn_is_killed_and_runs() -> Result<()> {
    needs_slurm!();
    let mut site = Site::new("dir", "delay=0s")?;
    let job = staging(&mut site, 6, "delay=300ms")?;
    site.shows(&job, "BurstBufferState=staging-in")?;
    site.cairn.die()?;
    let shown = site.shows(&job, "Cairn does not answer")?;
    ensure!(shown.contains("JobState=PENDING"), "{shown}");
    site.cairn.up()?;
    site.shows(&job, "JobState=COMPLETED")?;
    ensure!(site.output(&job) == "ran\n", "{}", site.output(&job));
    ensure!(
        site.requests(&job)?.len() == 1,
        "{:?}",
        site.requests(&job)?
    );
    Ok(())
}

#[test]
fn a_tier_that_is_away_is_seen_in_the_queue_and_the_job_is_not_lost() -> Result<()> {
    needs_slurm!();
    let site = Site::new("dir", "delay=1ms")?;
    let aside = site.path("aside");
    site.released("in", 3, 100_000)?;
    fs::rename(&site.cairn.tier, &aside)?;
    let directive = format!("#CAIRN stage_in {}", site.cairn.at("in").display());
    let job = site.submit("in.sh", &directive, "echo ran")?;
    let mut seen = String::new();
    let queue = ["-h", "-j", &*job, "-o", "%T %r %k"];
    wait_for("the reason in squeue", || {
        seen = site.slurm("squeue", queue)?;
        Ok(seen.contains("waits: ") && seen.contains("BurstBufferStageIn"))
    })
    .with_context(|| format!("{seen}\n{}", site.logs()))?;
    eprintln!("squeue: {}", seen.trim());
    ensure!(
        seen.starts_with("PENDING BurstBufferStageIn cairn: "),
        "{seen}"
    );
    fs::rename(&aside, &site.cairn.tier)?;
    site.shows(&job, "JobState=COMPLETED")?;
    ensure!(site.output(&job) == "ran\n", "{}", site.output(&job));
    Ok(())
}
