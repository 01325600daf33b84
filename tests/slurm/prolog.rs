//! A site without the plugin: the controller's prolog stages while a job has its nodes, and its epilog ends what it
//! holds (packaging/slurm/prolog_slurmctld.sh).

use crate::needs_slurm;
use crate::rig::wait_for;
use crate::site::{OTHER, Site, USER};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

const STATES: &str = "for f in $FILES; do getfattr --absolute-names --only-values -n user.cairn.state $f; echo; done\necho ran";

/// A job that stages what was released in `in`, and shows what it found.
fn submit(site: &Site, more: &str) -> Result<String> {
    let dir = site.cairn.at("in").display().to_string();
    let body = format!("FILES={dir}/*\n{STATES}");
    site.submit(
        "in.sh",
        &format!("#CAIRN stage_in {dir} pin=1h{more}"),
        &body,
    )
}

#[test]
fn a_prolog_stages_while_the_nodes_are_configuring() -> Result<()> {
    needs_slurm!();
    let mut site = Site::with_prolog("dir", "delay=0s")?;
    site.released("in", 5, 100_000)?;
    site.slow("delay=400ms")?;
    let job = submit(&site, "")?;
    site.shows(&job, "JobState=CONFIGURING")?;
    let holder = format!("uid:{}/job:{job} ", USER.uid);
    wait_for("the job's pins", || {
        Ok(site.pins("in/4")?.contains(&holder))
    })?;
    site.shows(&job, "AdminComment=cairn: ")?;
    ensure!(site.output(&job).is_empty(), "{}", site.output(&job));
    site.shows(&job, "JobState=COMPLETED")?;
    let said = site.output(&job);
    ensure!(said == "archived\n".repeat(5) + "ran\n", "{said}");
    ensure!(site.recalls()? == (5, 0), "{:?}", site.recalls()?);
    wait_for("the pins to go", || {
        Ok(!site.pins("in/4")?.contains("job:"))
    })?;
    // Of jobs without directives nothing is asked.
    let plain = site.submit("plain.sh", "", "echo ran")?;
    site.shows(&plain, "JobState=COMPLETED")?;
    ensure!(site.requests(&plain)?.is_empty());
    Ok(())
}

/// Held with a comment of these words; what Slurm shows.
fn held(site: &Site, job: &str, words: &str) -> Result<String> {
    let mut shown = String::new();
    wait_for("the job to be held", || {
        shown = site.show(job)?;
        Ok(shown.contains("Priority=0 ") && shown.contains("JobState=PENDING"))
    })
    .with_context(|| format!("{shown}\n{}", site.logs()))?;
    let lines = ["\n   Comment=cairn: ", "\n   AdminComment=cairn: "];
    for line in lines {
        let said = shown.split(line).nth(1).and_then(|l| l.lines().next());
        let said = said.with_context(|| format!("{shown}\n{}", site.logs()))?;
        let said = format!("cairn: {said}");
        ensure!(said.contains(words), "{said}");
    }
    Ok(shown)
}

#[test]
fn what_a_prolog_cannot_have_holds_the_job_with_its_reason_and_does_not_requeue_it_for_ever()
-> Result<()> {
    needs_slurm!();
    let site = Site::with_prolog("dir", "delay=1ms")?;
    site.released("in", 2, 100_000)?;
    let closed = site.cairn.at("in/1");
    chown(&closed, Some(OTHER.uid), Some(OTHER.gid))?;
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o600))?;
    let absent = site.cairn.at("absent").display().to_string();
    let unclosed = format!("#CAIRN stage_in {absent} pni=1h");
    let no_file = format!("#CAIRN stage_in {absent}");
    let missing = format!("{absent}: ");
    let no_right = format!("{}: no permission to read the file", closed.display());
    let mut all = Vec::new();
    for (directive, words) in [
        (&*no_file, &*missing),
        (&*unclosed, "cairn: script:2:"),
        ("#CAIRN stage_in /etc/passwd", "/etc/passwd"),
    ] {
        let job = site.submit("bad.sh", directive, "echo ran")?;
        all.push((job, words));
    }
    all.push((submit(&site, "")?, &no_right));
    for (job, words) in &all {
        let shown = held(&site, job, words)?;
        eprintln!("{}", shown.trim());
    }
    // Also what could be had is not kept for it.
    pinned(&site, "in/0", false)?;
    // Nothing of it turns for ever: some cycles of the scheduler later all is as it was, and the nodes are free.
    let after = site.submit("plain.sh", "", "sleep 3; echo ran")?;
    site.shows(&after, "JobState=COMPLETED")?;
    for (job, words) in &all {
        held(&site, job, words)?;
        ensure!(site.field(job, "Restarts")? == "1", "{}", site.show(job)?);
        ensure!(site.output(job).is_empty(), "{}", site.output(job));
    }
    wait_for("two idle nodes", || {
        Ok(site.slurm("sinfo", ["-h", "-o", "%T %D"])?.trim() == "idle 2")
    })?;
    // What is mended runs when its user says so.
    fs::write(&absent, "x")?;
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o644))?;
    for (job, _) in [&all[0], &all[3]] {
        let released = site
            .command("scontrol", Some(USER))
            .args(["release", job])
            .output()?;
        ensure!(released.status.success(), "{released:?}");
        site.shows(job, "JobState=COMPLETED")?;
        ensure!(site.output(job).ends_with("ran\n"), "{}", site.output(job));
    }
    Ok(())
}

#[test]
fn a_prolog_waits_for_cairn_and_ends_with_its_job() -> Result<()> {
    needs_slurm!();
    let mut site = Site::with_prolog("dir", "delay=0s")?;
    site.released("in", 40, 100_000)?;
    site.slow("delay=400ms")?;
    let job = submit(&site, "")?;
    wait_for("the request", || Ok(!site.requests(&job)?.is_empty()))?;
    site.cairn.die()?;
    site.shows(&job, "Cairn does not answer")?;
    ensure!(site.field(&job, "JobState")? == "CONFIGURING");
    site.cairn.up()?;
    site.shows(&job, "JobState=COMPLETED")?;
    ensure!(
        site.output(&job).ends_with("ran\n"),
        "{}",
        site.output(&job)
    );
    ensure!(site.requests(&job)?.len() == 1);
    // Cancelled meanwhile: its work and its pins end.
    wait_for("the pins to go", || {
        Ok(!site.pins("in/39")?.contains("job:"))
    })?;
    site.cairn.release("in")?;
    // So slow that it is not done before.
    site.slow("delay=3s")?;
    let job = submit(&site, "")?;
    wait_for("the request", || Ok(!site.requests(&job)?.is_empty()))?;
    site.slurm("scancel", [&job])?;
    wait_for("the request's end", || {
        let asked = site.requests(&job)?;
        Ok(asked.iter().all(|r| r["state"] == "cancelled"))
    })
    .with_context(|| site.logs())?;
    wait_for("the pins to go", || {
        Ok(!site.pins("in/39")?.contains("job:"))
    })?;
    site.shows(&job, "JobState=CANCELLED")?;
    Ok(())
}

/// The job's pins are there, or are not.
fn pinned(site: &Site, name: &str, is: bool) -> Result<()> {
    wait_for("the pins to come or go", || {
        Ok(site.pins(name)?.contains("job:") == is)
    })
    .with_context(|| site.logs())
}

#[test]
fn a_job_that_is_requeued_is_staged_again_and_holds_nothing_while_it_is_pending() -> Result<()> {
    needs_slurm!();
    let site = Site::with_prolog("dir", "delay=1ms")?;
    site.released("in", 2, 100_000)?;
    let directive = format!("#CAIRN stage_in {}", site.cairn.at("in").display());
    let body = "echo run $SLURM_RESTART_COUNT; sleep 600";
    let job = site.submit("long.sh", &directive, body)?;
    wait_for("its first run", || Ok(site.output(&job).contains("run")))?;
    pinned(&site, "in/0", true)?;
    site.slurm("scontrol", ["requeue", &job])?;
    wait_for("its second run", || Ok(site.output(&job).contains("run 1")))
        .with_context(|| site.logs())?;
    pinned(&site, "in/0", true)?;
    // Cancelled while it is pending, which no epilog sees.
    site.slurm("scontrol", ["requeuehold", &job])?;
    site.shows(&job, "JobState=PENDING")?;
    pinned(&site, "in/0", false)?;
    site.slurm("scancel", [&job])?;
    site.shows(&job, "JobState=CANCELLED")?;
    ensure!(site.recalls()? == (2, 0), "{:?}", site.recalls()?);
    Ok(())
}

#[test]
fn an_epilog_archives_what_a_job_wrote_and_drops_its_pins_also_if_that_fails() -> Result<()> {
    needs_slurm!();
    let site = Site::with_prolog("dir", "delay=1ms")?;
    site.released("in", 1, 100_000)?;
    fs::create_dir(site.cairn.at("out"))?;
    chown(site.cairn.at("out"), Some(USER.uid), Some(USER.gid))?;
    let out = site.cairn.at("out").display().to_string();
    let file = site.cairn.at("in/0").display().to_string();
    for (tier, wrote) in [("cold", "archived"), ("nowhere", "resident")] {
        let directives =
            format!("#CAIRN stage_in {file}\n#CAIRN stage_out {out}/{tier} archive={tier}");
        let body = format!("getfattr -n user.cairn.pins {file}; date > {out}/{tier}");
        let job = site.submit("out.sh", &directives, &body)?;
        site.shows(&job, "JobState=COMPLETED")?;
        ensure!(site.output(&job).contains("/job:"), "{}", site.output(&job));
        wait_for("the pins to go", || {
            Ok(!site.pins("in/0")?.contains("job:"))
        })
        .with_context(|| site.logs())?;
        let state = site.cairn.shown_state(&format!("out/{tier}"))?;
        ensure!(state == wrote, "out/{tier} is {state}");
    }
    Ok(())
}

#[test]
fn the_prolog_is_a_plain_shells() -> Result<()> {
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("packaging/slurm/prolog_slurmctld.sh");
    let read = Command::new("sh").arg("-n").arg(script).output()?;
    ensure!(read.status.success(), "{read:?}");
    Ok(())
}
