//! Submission where Slurm has no plugin: by `cairn sbatch`, and by slurmrestd.

use crate::needs_slurm;
use crate::rest::{call, doors};
use crate::rig::wait_for;
use crate::site::{OTHER, Site, USER, installed};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Output, Stdio};

/// A site whose Slurm knows nothing of Cairn. Waiters that are left are ended with it.
struct Plain {
    site: Site,
}

impl Plain {
    fn new(options: &str) -> Result<Self> {
        let site = Site::without_plugin("dir", options)?;
        ensure!(
            site.slurm("scontrol", ["show", "config"])?
                .contains("BurstBufferType         = (null)"),
            "the plugin is there"
        );
        Ok(Self { site })
    }

    /// With a released directory of so many files, from a tier with these options.
    fn with(files: usize, options: &str) -> Result<Self> {
        let mut plain = Self::new("delay=0s")?;
        plain.site.released("in", files, 100_000)?;
        plain.site.slow(options)?;
        Ok(plain)
    }

    fn stage_in(&self, name: &str) -> String {
        format!("#CAIRN stage_in {}", self.site.cairn.at(name).display())
    }

    /// `cairn sbatch` of the user's, with these options and this script.
    fn sbatch(&self, options: &[&str], name: &str, directives: &str, body: &str) -> Result<Output> {
        let script = self.site.script(name, directives, body)?;
        let mut command = self.site.command("cairn", Some(USER));
        command
            .arg("sbatch")
            .arg("-o")
            .arg(self.site.path("home/%j.out"));
        Ok(command.args(options).arg(script).output()?)
    }

    /// The same, and the job's number.
    fn submit(&self, options: &[&str], directives: &str, body: &str) -> Result<String> {
        let output = self.sbatch(options, "run.sh", directives, body)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "cairn sbatch: {said}");
        eprintln!("{}", said.trim());
        number(&output)
    }

    fn records(&self, name: &str) -> PathBuf {
        self.site.path("home/.local/state/cairn/jobs").join(name)
    }

    /// The process that waits for a job.
    fn waiter(&self, job: &str) -> Result<i32> {
        let text = fs::read_to_string(self.records(&format!("{job}.lock")))?;
        let pid = text.split(' ').nth(1).context("no process")?;
        Ok(pid.parse()?)
    }

    /// What the job's waiter wrote.
    fn log(&self, job: &str) -> String {
        fs::read_to_string(self.records(&format!("{job}.log"))).unwrap_or_default()
    }

    fn shows(&self, job: &str, text: &str) -> Result<String> {
        self.site
            .shows(job, text)
            .with_context(|| format!("waiter: {}", self.log(job)))
    }

    fn queue(&self) -> Result<String> {
        self.site.slurm("squeue", ["-h", "-t", "all", "-o", "%i"])
    }

    fn pins_go(&self, name: &str, job: &str) -> Result<()> {
        wait_for("the pins to go", || {
            Ok(!self.site.pins(name)?.contains("job:"))
        })
        .with_context(|| format!("waiter: {}", self.log(job)))
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.records(""))
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(job) = name.strip_suffix(".lock") else {
                continue;
            };
            let Ok(pid) = self.waiter(job) else { continue };
            let ours = fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|words| words.contains(&format!("resume\0{job}\0")));
            if ours {
                kill(pid);
            }
        }
    }
}

fn kill(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// `Submitted batch job 4711`, and nothing else.
fn number(output: &Output) -> Result<String> {
    let said = String::from_utf8(output.stdout.clone())?;
    let job = said.trim_end().strip_prefix("Submitted batch job ");
    let job = job.with_context(|| format!("{said:?}"))?;
    ensure!(job.bytes().all(|b| b.is_ascii_digit()), "{said:?}");
    Ok(job.to_owned())
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_job_is_held_while_its_files_come_and_reads_without_one_implicit_recall() -> Result<()> {
    needs_slurm!();
    let plain = Plain::with(6, "delay=400ms")?;
    let site = &plain.site;
    let out = site.cairn.at("out");
    fs::create_dir(&out)?;
    chown(&out, Some(USER.uid), Some(USER.gid))?;
    let before = site.recalls()?;
    let directives = format!(
        "{} pin=1h\n#CAIRN stage_out {} archive=cold",
        plain.stage_in("in"),
        out.display()
    );
    let body = format!(
        "for f in {}/*; do getfattr --only-values -n user.cairn.state $f; echo; done\ncp {0}/* {}",
        site.cairn.at("in").display(),
        out.display()
    );
    let job = plain.submit(&["-n", "1"], &directives, &body)?;
    // Pinned by the job before its last byte has come, and held.
    let holder = format!("uid:{}/job:{job} ", USER.uid);
    wait_for("the job's pins", || {
        Ok(site.pins("in/0")?.contains(&holder))
    })
    .with_context(|| plain.log(&job))?;
    ensure!(site.cairn.shown_state("in/5")? == "released", "all at once");
    ensure!(site.field(&job, "JobState")? == "PENDING");
    ensure!(site.field(&job, "Priority")? == "0", "{}", site.show(&job)?);
    plain.shows(&job, "Comment=cairn: ")?;
    plain.shows(&job, "JobState=COMPLETED")?;
    let said = site.output(&job);
    let states = said.lines().filter(|l| *l == "archived").count();
    ensure!(states == 6, "{said}");
    let after = site.recalls()?;
    ensure!(after == (before.0 + 6, before.1), "{before:?} {after:?}");
    plain.pins_go("in/0", &job)?;
    ensure!(site.cairn.shown_state("out/5")? == "archived");
    wait_for("the waiter's end", || {
        Ok(!plain.records(&format!("{job}.lock")).exists())
    })
    .with_context(|| plain.log(&job))?;
    eprintln!("{}", plain.log(&job));
    Ok(())
}

#[test]
fn what_is_wrong_is_refused_and_there_is_no_job() -> Result<()> {
    needs_slurm!();
    let plain = Plain::new("delay=1ms")?;
    let site = &plain.site;
    site.released("closed", 1, 100_000)?;
    chown(site.cairn.at("closed"), Some(OTHER.uid), Some(OTHER.gid))?;
    fs::set_permissions(site.cairn.at("closed"), fs::Permissions::from_mode(0o700))?;
    let wrong = plain.sbatch(&[], "wrong.sh", "#CAIRN stage_in /x pni=1d", "echo")?;
    ensure!(wrong.status.code() == Some(2), "{wrong:?}");
    let said = errors(&wrong);
    ensure!(
        said.contains("wrong.sh:2:20: unknown option \"pni\"; did you mean \"pin\"?"),
        "{said}"
    );
    let checked = site.job(
        USER,
        &["check", &site.path("home/wrong.sh").to_string_lossy()],
    )?;
    ensure!(errors(&checked) == said, "{} {said}", errors(&checked));
    for (directive, words) in [
        (
            plain.stage_in("closed"),
            "no permission to read the directory",
        ),
        (plain.stage_in("absent"), "(not-found)"),
        (
            "#CAIRN stage_in /etc/passwd".to_owned(),
            "lies on no Cairn mount",
        ),
    ] {
        let refused = plain.sbatch(&[], "bad.sh", &directive, "echo")?;
        let said = errors(&refused);
        eprintln!("{}", said.trim());
        ensure!(!refused.status.success(), "{refused:?}");
        ensure!(said.contains(words), "{directive}: {said}");
    }
    for (options, words) in [
        (&["--wrap", "hostname"][..], "--wrap has no script"),
        (&["--wait"], "leave it out"),
        (&["--cairn-wiat"], "--cairn-wiat"),
        (&["-Z"], "no option -Z"),
    ] {
        let refused = plain.sbatch(options, "plain.sh", &plain.stage_in("closed"), "echo")?;
        let said = errors(&refused);
        ensure!(refused.status.code() == Some(2), "{options:?}: {refused:?}");
        ensure!(said.contains(words), "{options:?}: {said}");
    }
    ensure!(plain.queue()?.is_empty(), "{}", plain.queue()?);
    Ok(())
}

#[test]
fn a_script_without_directives_is_submitted_as_sbatch_does() -> Result<()> {
    needs_slurm!();
    let plain = Plain::with(1, "delay=1ms")?;
    let site = &plain.site;
    let output = plain.sbatch(&["--parsable"], "none.sh", "", "echo ran $SLURM_JOB_NAME")?;
    ensure!(output.status.success(), "{output:?}");
    let job = String::from_utf8(output.stdout)?.trim().to_owned();
    plain.shows(&job, "JobState=COMPLETED")?;
    ensure!(
        site.output(&job) == "ran none.sh\n",
        "{}",
        site.output(&job)
    );
    ensure!(!plain.records(&format!("{job}.log")).exists());
    // By standard input, with directives; and arguments behind the script.
    let mut child = site
        .command("cairn", Some(USER))
        .args(["sbatch", "--parsable", "--cairn-wait", "-o"])
        .arg(site.path("home/%j.out"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let text = format!("#!/bin/bash\n{}\necho piped\n", plain.stage_in("in"));
    let mut stdin = child.stdin.take().context("no stdin")?;
    stdin.write_all(text.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{output:?}");
    let job = String::from_utf8(output.stdout)?.trim().to_owned();
    ensure!(
        site.cairn.shown_state("in/0")? == "archived",
        "let run too early"
    );
    plain.shows(&job, "JobState=COMPLETED")?;
    ensure!(site.output(&job) == "piped\n", "{}", site.output(&job));
    let script = site.script("args.sh", &plain.stage_in("in"), "echo \"$@\"")?;
    let output = site
        .command("cairn", Some(USER))
        .args(["sbatch", "--cairn-wait", "-o"])
        .arg(site.path("home/%j.out"))
        .arg(script)
        .args(["--hold", "a b"])
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    let job = number(&output)?;
    plain.shows(&job, "JobState=COMPLETED")?;
    ensure!(site.output(&job) == "--hold a b\n", "{}", site.output(&job));
    Ok(())
}

#[test]
fn what_cannot_be_staged_is_told_and_the_job_goes_on_when_it_is_mended() -> Result<()> {
    needs_slurm!();
    let plain = Plain::with(1, "delay=1ms")?;
    let site = &plain.site;
    let file = site.cairn.at("in/0");
    chown(&file, Some(OTHER.uid), Some(OTHER.gid))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    let directive = format!("#CAIRN stage_in {}", file.display());
    let job = plain.submit(&["--cairn-force"], &directive, "echo ran")?;
    let shown = plain.shows(&job, "the job stays held")?;
    ensure!(shown.contains("no permission to read"), "{shown}");
    ensure!(site.field(&job, "JobState")? == "PENDING", "{shown}");
    ensure!(site.field(&job, "Priority")? == "0", "{shown}");
    wait_for("the waiter's end", || {
        Ok(!plain.records(&format!("{job}.lock")).exists())
    })?;
    ensure!(
        !site.pins("in/0")?.contains("job:"),
        "{}",
        site.pins("in/0")?
    );
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    let resumed = site.job(USER, &["resume", &job, "--wait"])?;
    ensure!(resumed.status.success(), "{resumed:?}");
    plain.shows(&job, "JobState=COMPLETED")?;
    ensure!(site.output(&job) == "ran\n", "{}", site.output(&job));
    plain.pins_go("in/0", &job)
}

#[test]
fn a_job_cancelled_while_it_is_staged_frees_its_places() -> Result<()> {
    needs_slurm!();
    let plain = Plain::with(40, "delay=4s")?;
    let site = &plain.site;
    let job = plain.submit(&[], &plain.stage_in("in"), "echo ran")?;
    wait_for("the request", || Ok(!site.requests(&job)?.is_empty()))?;
    site.slurm("scancel", [&job])?;
    let mut asked = Vec::new();
    wait_for("the request's end", || {
        asked = site.requests(&job)?;
        Ok(asked.iter().all(|r| r["state"] == "cancelled"))
    })
    .with_context(|| plain.log(&job))?;
    let done: u64 = asked.iter().filter_map(|r| r["files_done"].as_u64()).sum();
    ensure!(done < 40, "it was all done before: {asked:?}");
    plain.pins_go("in/39", &job)
}

#[test]
fn a_waiter_that_is_killed_is_followed_by_another_and_nothing_is_recalled_twice() -> Result<()> {
    needs_slurm!();
    let plain = Plain::with(10, "delay=300ms")?;
    let site = &plain.site;
    let job = plain.submit(&[], &plain.stage_in("in"), "echo ran")?;
    wait_for("the request", || Ok(!site.requests(&job)?.is_empty()))?;
    let second = site.job(USER, &["resume", &job])?;
    let said = errors(&second);
    ensure!(!second.status.success(), "{second:?}");
    ensure!(said.contains("is waited for already, by process"), "{said}");
    kill(plain.waiter(&job)?);
    wait_for("the files", || {
        Ok(site.requests(&job)?.iter().all(|r| r["state"] == "done"))
    })?;
    // Nobody lets it run, and nothing is lost.
    ensure!(site.field(&job, "Priority")? == "0", "{}", site.show(&job)?);
    ensure!(
        site.pins("in/0")?.contains("job:"),
        "{}",
        site.pins("in/0")?
    );
    let resumed = site.job(USER, &["resume", &job, "--wait"])?;
    eprintln!("{}", errors(&resumed).trim());
    ensure!(resumed.status.success(), "{resumed:?}");
    plain.shows(&job, "JobState=COMPLETED")?;
    ensure!(site.output(&job) == "ran\n", "{}", site.output(&job));
    ensure!(site.recalls()? == (10, 0), "{:?}", site.recalls()?);
    plain.pins_go("in/0", &job)
}

#[test]
fn a_job_that_its_user_holds_stays_held_with_its_files_on_disk() -> Result<()> {
    needs_slurm!();
    let plain = Plain::with(2, "delay=1ms")?;
    let site = &plain.site;
    let job = plain.submit(&["-H"], &plain.stage_in("in"), "echo ran")?;
    plain.shows(&job, "held as its user wished")?;
    ensure!(site.field(&job, "Priority")? == "0", "{}", site.show(&job)?);
    ensure!(site.cairn.shown_state("in/1")? == "archived");
    site.slurm("scontrol", ["release", &job])?;
    plain.shows(&job, "JobState=COMPLETED")?;
    plain.pins_go("in/0", &job)
}

#[test]
fn a_job_of_its_own_stages_where_no_process_may_wait() -> Result<()> {
    needs_slurm!();
    let plain = Plain::with(4, "delay=200ms")?;
    let site = &plain.site;
    let out = site.cairn.at("out");
    fs::create_dir(&out)?;
    chown(&out, Some(USER.uid), Some(USER.gid))?;
    let directives = format!(
        "{}\n#CAIRN stage_out {} archive=cold",
        plain.stage_in("in"),
        out.display()
    );
    let body = format!("head -c 100000 /dev/zero > {}/x\necho ran", out.display());
    let job = plain.submit(&["--cairn-partition", "main"], &directives, &body)?;
    plain.shows(&job, "Dependency=afterok:")?;
    plain.shows(&job, "JobState=COMPLETED")?;
    ensure!(site.output(&job) == "ran\n", "{}", site.output(&job));
    ensure!(site.recalls()? == (4, 0), "{:?}", site.recalls()?);
    plain.pins_go("in/0", &job)?;
    ensure!(site.cairn.shown_state("out/x")? == "archived");
    let printed = fs::read_to_string(site.path(&format!("home/cairn-{job}.out")))?;
    eprintln!("{printed}");
    // What cannot be had ends the job that needs it.
    site.released("closed", 1, 100_000)?;
    let file = site.cairn.at("closed/0");
    chown(&file, Some(OTHER.uid), Some(OTHER.gid))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    let directive = format!("#CAIRN stage_in {}", file.display());
    let options = ["--cairn-partition", "main", "--cairn-force"];
    let job = plain.submit(&options, &directive, "echo ran")?;
    plain.shows(&job, "JobState=CANCELLED")?;
    let printed = fs::read_to_string(site.path(&format!("home/cairn-{job}.out")))?;
    ensure!(printed.contains("no permission to read"), "{printed}");
    ensure!(site.output(&job).is_empty(), "{}", site.output(&job));
    Ok(())
}

/// A token of the user's, which the door takes.
fn token(site: &Site, door: &str) -> Result<String> {
    let user = format!("username={}", USER.name);
    let said = site.slurm("scontrol", ["token", &user, "lifespan=600"])?;
    let token = said.trim().strip_prefix("SLURM_JWT=").context("no token")?;
    wait_for("the doors", || {
        Ok(call(site, &format!("{door}/ping"), token, None)?.0 == "200")
    })
    .with_context(|| site.logs())?;
    Ok(token.to_owned())
}

#[test]
fn a_workflow_service_submits_through_nginx_with_a_token() -> Result<()> {
    needs_slurm!();
    if let Some(why) = ["slurmrestd", "nginx", "curl"]
        .iter()
        .find_map(|name| installed(name))
    {
        eprintln!("SKIPPED a_workflow_service_submits_through_nginx_with_a_token: {why}");
        return Ok(());
    }
    let mut plain = Plain::with(6, "delay=300ms")?;
    let door = doors(&mut plain.site)?;
    let site = &plain.site;
    let token = &token(site, &door)?;
    let url = door.strip_suffix("/slurm/v0.0.38").context("no door")?;
    let home = site.path("home");
    let head = format!(
        "#SBATCH -J rest -t 5 -o {}/%j.out\n{}",
        home.display(),
        plain.stage_in("in")
    );
    let script = site.script("rest.sh", &head, "echo ran")?;
    let submit = |token: &str| -> Result<Output> {
        let file = home.join("token");
        fs::write(&file, format!("SLURM_JWT={token}\n"))?;
        let mut command = site.command("cairn", Some(USER));
        command.args(["job", "submit", "--rest", url, "--token-file"]);
        Ok(command.arg(file).arg(&script).output()?)
    };
    for bad in ["x.y.z", &format!("{token}x")] {
        let refused = submit(bad)?;
        let said = errors(&refused);
        eprintln!("{}", said.trim());
        ensure!(refused.status.code() == Some(5), "{refused:?}");
        ensure!(said.contains("does not take the token for user"), "{said}");
        ensure!(!said.contains(bad), "the token is told: {said}");
    }
    ensure!(plain.queue()?.is_empty(), "{}", plain.queue()?);
    let taken = submit(token)?;
    ensure!(taken.status.success(), "{taken:?}");
    let job = number(&taken)?;
    let holder = format!("uid:{}/job:{job} ", USER.uid);
    wait_for("the job's pins", || {
        Ok(site.pins("in/0")?.contains(&holder))
    })
    .with_context(|| plain.log(&job))?;
    ensure!(site.field(&job, "Priority")? == "0", "{}", site.show(&job)?);
    // The waiter of a service that is restarted: another one goes on.
    kill(plain.waiter(&job)?);
    ensure!(site.field(&job, "Priority")? == "0", "{}", site.show(&job)?);
    let token_file = home.join("token").display().to_string();
    let script = script.display().to_string();
    let resumed = site.job(
        USER,
        &[
            "resume",
            &job,
            "--rest",
            url,
            "--token-file",
            &token_file,
            "--script",
            &script,
            "--wait",
        ],
    )?;
    ensure!(resumed.status.success(), "{resumed:?}");
    plain.shows(&job, "JobState=COMPLETED")?;
    ensure!(site.output(&job) == "ran\n", "{}", site.output(&job));
    ensure!(site.recalls()? == (6, 0), "{:?}", site.recalls()?);
    ensure!(
        site.show(&job)?.contains("JobName=rest"),
        "{}",
        site.show(&job)?
    );
    plain.pins_go("in/0", &job)?;
    ensure!(!plain.log(&job).contains(token), "the token is in the log");
    Ok(())
}
