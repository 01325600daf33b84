//! What cannot be staged is said: at submission where it can be seen there, else in the job's reason.

use crate::needs_slurm;
use crate::rig::disk::Disk;
use crate::rig::{tree, wait_for, wait_up_to};
use crate::site::{OTHER, Site, USER};
use anyhow::{Context, Result, ensure};
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::Duration;

/// The reason of a job that cannot be staged, which is held.
fn reason(site: &Site, directive: &str) -> Result<String> {
    let job = site.submit("bad.sh", directive, "echo ran")?;
    let queue = ["-h", "-j", &*job, "-o", "%r"];
    let mut seen = String::new();
    wait_for("the reason", || {
        seen = site.slurm("squeue", queue)?;
        Ok(seen.contains("cairn: "))
    })
    .with_context(|| format!("{directive}: {seen}\n{}", site.logs()))?;
    ensure!(
        site.field(&job, "JobState")? == "PENDING",
        "{}",
        site.show(&job)?
    );
    ensure!(site.field(&job, "Priority")? == "0", "{}", site.show(&job)?);
    site.slurm("scancel", [&job])?;
    Ok(seen.trim().to_owned())
}

#[test]
fn what_cannot_be_staged_is_said_with_its_reason() -> Result<()> {
    needs_slurm!();
    let site = Site::new("dir", "delay=1ms")?;
    site.released("open", 2, 100_000)?;
    site.released("closed", 2, 100_000)?;
    chown(site.cairn.at("closed"), Some(OTHER.uid), Some(OTHER.gid))?;
    fs::set_permissions(site.cairn.at("closed"), fs::Permissions::from_mode(0o700))?;
    for name in ["0", "1"] {
        let file = site.cairn.at(&format!("open/{name}"));
        chown(&file, Some(OTHER.uid), Some(OTHER.gid))?;
        fs::set_permissions(
            &file,
            fs::Permissions::from_mode(if name == "0" { 0o600 } else { 0o644 }),
        )?;
    }
    let at = |name: &str| site.cairn.at(name).display().to_string();
    let mut table = String::new();
    for (directive, words) in [
        (
            format!("#CAIRN stage_in {}", at("closed")),
            "(not-permitted)",
        ),
        (
            format!("#CAIRN stage_in {}", at("closed/0")),
            "(not-permitted)",
        ),
        (
            format!("#CAIRN stage_in {}", at("open/0")),
            "no permission to read the file (not-permitted)",
        ),
        (format!("#CAIRN stage_in {}", at("absent")), "(not-found)"),
        (
            format!("#CAIRN stage_in {}/*.h5", at("open")),
            "no file matches (not-found)",
        ),
        (
            "#CAIRN stage_in /etc/passwd".to_owned(),
            "/etc/passwd lies on no Cairn mount",
        ),
        ("#CAIRN stage_in @absent".to_owned(), "(not-found)"),
    ] {
        let said = reason(&site, &directive)?;
        writeln!(table, "{directive}\n    {said}")?;
        ensure!(said.contains(words), "{directive}: {said}");
    }
    eprintln!("{table}");
    // Nobody else's file came back, and what may be read needs no owner.
    ensure!(site.cairn.shown_state("open/0")? == "released");
    ensure!(site.cairn.shown_state("closed/0")? == "released");
    let directive = format!(
        "#CAIRN stage_in {}\n#CAIRN optional stage_in {}",
        at("open/1"),
        at("open/0")
    );
    let job = site.submit("good.sh", &directive, "echo ran")?;
    site.shows(&job, "JobState=COMPLETED")?;
    ensure!(site.output(&job) == "ran\n", "{}", site.output(&job));
    ensure!(site.cairn.shown_state("open/1")? == "archived");
    Ok(())
}

#[test]
fn a_mistake_in_a_directive_is_refused_at_submission() -> Result<()> {
    needs_slurm!();
    let site = Site::new("dir", "delay=1ms")?;
    let script = site.script("wrong.sh", "#CAIRN stage_in /x pni=1d", "echo ran")?;
    let refused = site.sbatch(USER, &script)?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    eprintln!("{}", said.trim());
    ensure!(!refused.status.success(), "{said}");
    ensure!(
        said.contains("script:2:20: unknown option \"pni\"; did you mean \"pin\"?"),
        "{said}"
    );
    Ok(())
}

#[test]
fn a_list_of_a_hundred_thousand_files_is_one_request() -> Result<()> {
    needs_slurm!();
    if std::env::var_os("CAIRN_TEST_WHOLE").is_none() {
        eprintln!(
            "SKIPPED a_list_of_a_hundred_thousand_files_is_one_request: minutes; CAIRN_TEST_WHOLE=1"
        );
        return Ok(());
    }
    const FILES: usize = 100_000;
    let site = Site::new("dir", "delay=0s")?;
    fs::create_dir(site.cairn.at("many"))?;
    let mut list = String::new();
    for n in 0..FILES {
        let file = site.cairn.at(&format!("many/{n}"));
        fs::write(&file, b"x")?;
        writeln!(list, "{}", file.display())?;
    }
    fs::write(site.path("home/list"), list)?;
    let job = site.submit("list.sh", "#CAIRN stage_in @list", "echo ran")?;
    // Minutes of an unoptimised program; who asks a hundred times a second takes them from it.
    let seldom = (Duration::from_secs(900), Duration::from_secs(1));
    wait_up_to(seldom, "the job's end", || {
        let shown = site.show(&job)?;
        let mut ends = ["=COMPLETED", "=FAILED", "Priority=0"].iter();
        Ok(ends.any(|end| shown.contains(end)))
    })?;
    site.shows(&job, "JobState=COMPLETED")?;
    ensure!(site.output(&job) == "ran\n", "{}", site.output(&job));
    ensure!(
        site.requests(&job)?.iter().all(|r| r["state"] == "done"),
        "{:?}",
        site.requests(&job)?
    );
    Ok(())
}

#[test]
fn a_disk_that_cannot_hold_the_jobs_data_is_said_with_numbers() -> Result<()> {
    needs_slurm!();
    let disk = Disk::new("ext4", 96)?;
    let site = Site::on(Some(&disk.path), "dir", "delay=0s", "")?;
    fs::create_dir(site.cairn.at("big"))?;
    // One at a time there is room for them.
    for n in 0..3 {
        let name = format!("big/{n}");
        site.cairn.released(&name, &tree::bytes(n, 36 << 20))?;
        chown(site.cairn.at(&name), Some(USER.uid), Some(USER.gid))?;
    }
    let directive = format!("#CAIRN stage_in {}", site.cairn.at("big").display());
    let script = site.script("big.sh", &directive, "echo ran")?;
    let checked = site.job(USER, &["check", &script.to_string_lossy()])?;
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    eprintln!("{}{said}", String::from_utf8_lossy(&checked.stdout));
    ensure!(checked.status.code() == Some(1), "{checked:?}");
    ensure!(
        said.contains("113246208 bytes are needed on the backing filesystem"),
        "{said}"
    );
    let said = reason(&site, &directive)?;
    eprintln!("{said}");
    ensure!(
        said.contains("bytes are needed on the backing filesystem"),
        "{said}"
    );
    Ok(())
}
