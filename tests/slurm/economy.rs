//! What jobs hold is bounded, begins in time, and ends with them.

use crate::needs_slurm;
use crate::rig::disk::Disk;
use crate::rig::{tree, wait_for};
use crate::site::{Site, USER};
use anyhow::{Result, ensure};
use std::fs;
use std::os::unix::fs::chown;

/// Three released files of 32 MiB on a disk of 256 MiB, of which one user's jobs may keep 35 %.
fn small_site(disk: &Disk) -> Result<Site> {
    let mut site = Site::on(Some(&disk.path), "dir", "delay=0s", "")?;
    site.set("job-pins-per-user = \"35%\"\n")?;
    for (n, name) in ["one", "two", "three"].into_iter().enumerate() {
        fs::create_dir(site.cairn.at(name))?;
        let file = format!("{name}/f");
        site.cairn
            .released(&file, &tree::bytes(n as u64, 32 << 20))?;
        for path in [name, &file] {
            chown(site.cairn.at(path), Some(USER.uid), Some(USER.gid))?;
        }
    }
    Ok(site)
}

#[test]
fn a_job_waits_until_another_holds_less_and_says_so() -> Result<()> {
    needs_slurm!();
    let disk = Disk::new("ext4", 256)?;
    let site = small_site(&disk)?;
    let stage = |name: &str| format!("#CAIRN stage_in {}", site.cairn.at(name).display());
    let both = |one, other| format!("{}\n{}", stage(one), stage(other));
    let first = site.submit("first.sh", &both("one", "two"), "sleep 600")?;
    site.shows(&first, "JobState=RUNNING")?;
    // What it could have at once it does not hold while it waits for the rest.
    let second = site.submit("second.sh", &both("two", "three"), "echo ran")?;
    let shown = site.shows(&second, "your jobs keep 67108864 of")?;
    ensure!(shown.contains("JobState=PENDING"), "{shown}");
    let queue = site.slurm("squeue", ["-h", "-j", &*second, "-o", "%T %r %k"])?;
    eprintln!("squeue: {}", queue.trim());
    wait_for("nothing to be held by who waits", || {
        Ok(!site.pins("two/f")?.contains(&format!("job:{second} ")))
    })?;
    ensure!(site.cairn.shown_state("three/f")? == "released");
    let status = site.job(USER, &["status", &second])?;
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    ensure!(status.contains("your jobs keep"), "{status}");
    // Said before submission, too, and by a look that does not wait (as Slurm 24.05 looks).
    let script = site.path("home/second.sh").display().to_string();
    let checked = site.job(USER, &["check", &script])?;
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    ensure!(
        checked.status.success() && said.contains("it would have to wait: "),
        "{said}"
    );
    for _ in 0..3 {
        let look = [
            "stage-in",
            "99",
            "--poll",
            "--wait",
            "--timeout",
            "1s",
            "--script",
            &script,
        ];
        let looked = site.job(USER, &look)?;
        ensure!(looked.status.code() == Some(4), "{looked:?}");
    }
    ensure!(
        site.requests("99")?.is_empty(),
        "{:?}",
        site.requests("99")?
    );
    site.job(USER, &["release", "99", "--script", &script])?;
    // One that would fit, after it: it need not wait.
    let third = site.submit("third.sh", &stage("one"), "echo ran")?;
    site.shows(&third, "JobState=COMPLETED")?;
    site.slurm("scancel", [&first])?;
    site.shows(&second, "JobState=COMPLETED")?;
    ensure!(site.output(&second) == "ran\n", "{}", site.output(&second));
    ensure!(
        site.requests(&second)?.len() == 2,
        "{:?}",
        site.requests(&second)?
    );
    // What is more than this user's jobs may ever keep does not wait.
    let all = format!("{}\n{}", both("one", "two"), stage("three"));
    let never = site.submit("never.sh", &all, "echo ran")?;
    let shown = site.shows(&never, "together may keep")?;
    ensure!(shown.contains("Priority=0"), "{shown}");
    eprintln!(
        "{}",
        site.slurm("squeue", ["-h", "-j", &*never, "-o", "%T %r"])?
    );
    Ok(())
}

#[test]
fn nothing_is_staged_for_a_job_that_may_not_start_yet() -> Result<()> {
    needs_slurm!();
    let site = Site::new("dir", "delay=0s")?;
    site.released("in", 1, 100_000)?;
    let directive = format!(
        "#SBATCH --begin=now+1hour\n#CAIRN stage_in {}",
        site.cairn.at("in").display()
    );
    let later = site.submit("later.sh", &directive, "echo ran")?;
    // One that was submitted after it has come and gone.
    site.released("other", 1, 100_000)?;
    let directive = format!("#CAIRN stage_in {}", site.cairn.at("other").display());
    let now = site.submit("now.sh", &directive, "echo ran")?;
    site.shows(&now, "JobState=COMPLETED")?;
    ensure!(site.requests(&later)?.is_empty(), "{}", site.show(&later)?);
    ensure!(site.cairn.shown_state("in/0")? == "released");
    Ok(())
}

#[test]
fn a_job_that_is_cancelled_while_cairn_is_down_holds_nothing_when_it_is_up_again() -> Result<()> {
    needs_slurm!();
    let mut site = Site::new("dir", "delay=0s")?;
    site.released("in", 2, 100_000)?;
    let directive = format!("#CAIRN stage_in {}", site.cairn.at("in").display());
    let job = site.submit("held.sh", &directive, "sleep 600")?;
    site.shows(&job, "JobState=RUNNING")?;
    ensure!(site.pins("in/0")?.contains("job:"));
    site.cairn.die()?;
    site.slurm("scancel", [&job])?;
    site.shows(&job, "BurstBufferState=teardown")?;
    site.cairn.up()?;
    wait_for("the pins to go", || {
        Ok(!site.pins("in/0")?.contains("job:"))
    })?;
    Ok(())
}
