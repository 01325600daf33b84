//! The main road: files on a tier, jobs that need them.

use crate::needs_slurm;
use crate::rig::{tree, wait_for};
use crate::site::{Site, USER};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::chown;

/// Prints the state of each file as it is found, then reads them all.
const BODY: &str = "for f in $FILES; do getfattr --only-values -n user.cairn.state $f; echo; done\n\
                    cat $FILES | cksum\necho read";

fn body(site: &Site, dir: &str) -> String {
    format!("FILES={}/*\n{BODY}", site.cairn.at(dir).display()).replace("$FILES", "$FILES")
}

/// What the files of [`Site::released`] are, summed as the job does it.
fn sum(files: usize, size: usize) -> Result<String> {
    let dir = tempfile::tempdir()?;
    let all: Vec<u8> = (0..files)
        .flat_map(|n| tree::bytes(n as u64, size))
        .collect();
    let path = dir.path().join("all");
    fs::write(&path, all)?;
    let file = fs::File::open(&path)?;
    let output = std::process::Command::new("cksum").stdin(file).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[test]
fn a_job_waits_in_stage_in_and_reads_without_one_implicit_recall() -> Result<()> {
    needs_slurm!();
    // A tape library whose clock runs thirty times as fast.
    let site = Site::new("tape", "capacity=64MiB&cartridges=2&drives=1&speed=30")?;
    site.released("run", 6, 300_000)?;
    let before = site.recalls()?;
    let directive = format!("#CAIRN stage_in {} pin=1h", site.cairn.at("run").display());
    let job = site.submit("main.sh", &directive, &body(&site, "run"))?;
    site.shows(&job, "BurstBufferState=staging-in")?;
    // Pinned by the job before its first byte, and the queue shows how far it is.
    let holder = format!("uid:{}/job:{job} ", USER.uid);
    wait_for("the job's pins", || {
        Ok(site.pins("run/0")?.contains(&holder))
    })?;
    ensure!(
        site.cairn.shown_state("run/5")? == "released",
        "it was staged at once"
    );
    site.shows(&job, "AdminComment=cairn: ")?;
    let asked = site.requests(&job)?;
    ensure!(asked.len() == 1, "{asked:?}");
    ensure!(
        asked[0]["uid"] == USER.uid && asked[0]["job"] == *job,
        "{asked:?}"
    );
    site.shows(&job, "JobState=COMPLETED")?;
    let said = site.output(&job);
    let states = said.lines().filter(|l| *l == "archived").count();
    ensure!(states == 6, "{said}");
    let mut good = said.lines().rev();
    ensure!(good.next() == Some("read"), "{said}");
    ensure!(good.next() == Some(&*sum(6, 300_000)?), "{said}");
    let after = site.recalls()?;
    ensure!(
        after.1 == before.1,
        "a reader waited for a recall: {before:?} {after:?}"
    );
    ensure!(after.0 == before.0 + 6, "{before:?} {after:?}");
    wait_for("the pins to go", || {
        Ok(!site.pins("run/0")?.contains("job:"))
    })?;
    Ok(())
}

#[test]
fn two_jobs_that_share_files_recall_them_once() -> Result<()> {
    needs_slurm!();
    let mut site = Site::new("dir", "delay=0s")?;
    site.released("shared", 40, 100_000)?;
    site.slow("delay=1s")?;
    let before = site.recalls()?;
    let directive = format!("#CAIRN stage_in {}/*", site.cairn.at("shared").display());
    let one = site.submit("one.sh", &directive, &body(&site, "shared"))?;
    let two = site.submit("two.sh", &directive, &body(&site, "shared"))?;
    wait_for("both to be staging at one time", || {
        let open = |job: &String| -> Result<bool> {
            let asked = site.requests(job)?;
            Ok(asked.iter().any(|r| r["state"] == "running")
                && site.pins("shared/0")?.contains(&format!("job:{job} ")))
        };
        Ok(open(&one)? && open(&two)?)
    })?;
    for job in [&one, &two] {
        site.shows(job, "JobState=COMPLETED")?;
        ensure!(site.output(job).ends_with("read\n"), "{}", site.output(job));
    }
    let after = site.recalls()?;
    ensure!(after == (before.0 + 40, before.1), "{before:?} {after:?}");
    Ok(())
}

#[test]
fn what_a_job_wrote_is_archived_when_it_ends() -> Result<()> {
    needs_slurm!();
    let site = Site::new("dir", "delay=1ms")?;
    fs::create_dir(site.cairn.at("out"))?;
    chown(site.cairn.at("out"), Some(USER.uid), Some(USER.gid))?;
    let out = site.cairn.at("out").display().to_string();
    let directive = format!("#CAIRN stage_out {out} archive=cold");
    let job = site.submit(
        "out.sh",
        &directive,
        &format!("head -c 100000 /dev/zero > {out}/x"),
    )?;
    site.shows(&job, "JobState=COMPLETED")?;
    let asked = site.requests(&job)?;
    let last = asked.first().context("nothing was asked for")?;
    ensure!(
        last["verb"] == "archive" && last["state"] == "done",
        "{asked:?}"
    );
    ensure!(site.cairn.shown_state("out/x")? == "archived");
    Ok(())
}
