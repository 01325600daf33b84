//! Slurm in a temporary directory: munge, a controller and two nodes, and a mount beside them. What is started
//! here is ended here, also when a test fails.

use crate::rig::{Instance, is_mounted, no_mounts, program, wait_for};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// Users that every Debian has, with accounts: whose the jobs are, and somebody else.
pub(crate) const USER: User = User {
    name: "backup",
    uid: 34,
    gid: 34,
};
pub(crate) const OTHER: User = User {
    name: "games",
    uid: 5,
    gid: 60,
};

#[derive(Debug, Clone, Copy)]
pub(crate) struct User {
    pub(crate) name: &'static str,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Why these tests cannot run here; `None` if they can.
pub(crate) fn no_slurm() -> Option<String> {
    if let Some(why) = no_mounts() {
        return Some(why);
    }
    let needed = [
        "slurmctld",
        "slurmd",
        "munged",
        "sbatch",
        "scontrol",
        "getfattr",
    ];
    needed.iter().find_map(|name| installed(name))
}

/// That a program is not installed.
pub(crate) fn installed(name: &str) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    dirs.push("/usr/sbin".into());
    let has = dirs.iter().any(|dir| dir.join(name).exists());
    (!has).then(|| format!("{name} is not installed"))
}

/// Leaves the test, saying so, where it cannot run.
#[macro_export]
macro_rules! needs_slurm {
    () => {
        if let Some(why) = $crate::site::no_slurm() {
            eprintln!(
                "SKIPPED {}: {why}",
                std::thread::current().name().unwrap_or("?")
            );
            return Ok(());
        }
    };
}

/// Daemons and directories of one cluster, over one instance.
pub(crate) struct Site {
    pub(crate) cairn: Instance,
    controller: Option<Child>,
    others: Vec<Child>,
    /// The tier's directory, where the instance's own disk is a small one.
    _apart: Option<tempfile::TempDir>,
}

pub(crate) fn port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn daemon(name: &str) -> Command {
    let sbin = Path::new("/usr/sbin").join(name);
    Command::new(if sbin.exists() { sbin } else { name.into() })
}

impl Site {
    /// An instance with this kind of tier, up, and Slurm beside it.
    pub(crate) fn new(kind: &'static str, options: &str) -> Result<Self> {
        Self::on(None, kind, options, "")
    }

    /// The same, with tokens for slurmrestd.
    pub(crate) fn with_tokens(kind: &'static str, options: &str) -> Result<Self> {
        let more = "AuthAltTypes=auth/jwt\nAuthAltParameters=jwt_key=@DIR@/etc/jwt.key\n";
        Self::on(None, kind, options, more)
    }

    /// The same, with the controller's prolog and epilog in the place of the plugin.
    pub(crate) fn with_prolog(kind: &'static str, options: &str) -> Result<Self> {
        let more = "PrologSlurmctld=@DIR@/etc/prolog\nEpilogSlurmctld=@DIR@/etc/prolog\n";
        Self::on(None, kind, options, more)
    }

    /// Tokens, but neither plugin nor prolog: Slurm knows nothing of Cairn.
    pub(crate) fn without_plugin(kind: &'static str, options: &str) -> Result<Self> {
        let more =
            "# No plugin.\nAuthAltTypes=auth/jwt\nAuthAltParameters=jwt_key=@DIR@/etc/jwt.key\n";
        Self::on(None, kind, options, more)
    }

    /// The same, with all but the tier below `base`, and with further lines of slurm.conf.
    pub(crate) fn on(
        base: Option<&Path>,
        kind: &'static str,
        options: &str,
        more: &str,
    ) -> Result<Self> {
        let mut cairn = Instance::new(base)?;
        let mut apart = None;
        if base.is_some() {
            // The program is large, too.
            let dir = tempfile::Builder::new()
                .prefix("cairn-tier-")
                .tempdir_in("/var/tmp")?;
            cairn.tier = dir.path().join("tier");
            fs::create_dir(&cairn.tier)?;
            let (bin, all) = (dir.path().join("bin"), fs::Permissions::from_mode(0o755));
            fs::create_dir(&bin)?;
            fs::set_permissions(dir.path(), all)?;
            std::os::unix::fs::symlink(bin, cairn.dir.path().join("bin"))?;
            apart = Some(dir);
        }
        let url = format!("cold={kind}:{}?{options}", cairn.tier.display());
        cairn.args.extend(["--tier".to_owned(), url]);
        // The mount outlives its server, as at a site.
        cairn.hold = Some("10min".to_owned());
        let mut site = Self {
            cairn,
            controller: None,
            others: Vec::new(),
            _apart: apart,
        };
        site.cairn.up()?;
        fs::set_permissions(&site.cairn.mount, fs::Permissions::from_mode(0o755))?;
        site.prepare(more)?;
        site.munge()?;
        site.control()?;
        for node in ["n1", "n2"] {
            let mut command = daemon("slurmd");
            command.args(["-D", "-N", node, "-f"]).arg(site.conf());
            let child = site.spawn(command, node)?;
            site.others.push(child);
        }
        wait_for("two idle nodes", || {
            let shown = site.slurm("sinfo", ["-h", "-o", "%T %D"])?;
            Ok(shown.trim() == "idle 2")
        })
        .with_context(|| site.logs())?;
        Ok(site)
    }

    /// The instance again, its tier with other options: what was archived quickly comes back slowly.
    pub(crate) fn slow(&mut self, options: &str) -> Result<()> {
        self.cairn.down()?;
        let url = self.cairn.args.last_mut().context("no tier")?;
        let plain = url.split('?').next().unwrap_or_default();
        *url = format!("{plain}?{options}");
        self.cairn.up()
    }

    /// The instance again, with settings.
    pub(crate) fn set(&mut self, settings: &str) -> Result<()> {
        self.cairn.down()?;
        let file = self.path("cairn.toml");
        fs::write(&file, settings)?;
        let file = file.to_string_lossy().into_owned();
        self.cairn.args.splice(0..0, ["--config".to_owned(), file]);
        self.cairn.up()
    }

    /// Jobs that Slurm knows, those that have ended too.
    pub(crate) fn jobs(&self) -> Result<usize> {
        let shown = self.slurm("squeue", ["-h", "-t", "all", "-o", "%A"])?;
        Ok(shown.lines().count())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.cairn.dir.path().join(name)
    }

    fn conf(&self) -> PathBuf {
        self.path("etc/slurm.conf")
    }

    /// Directories, configuration, and the program where every user may read it.
    fn prepare(&self, more: &str) -> Result<()> {
        for name in ["etc", "spool", "log", "home", "bin", "munge"] {
            fs::create_dir_all(self.path(name))?;
        }
        chown(self.path("home"), Some(USER.uid), Some(USER.gid))?;
        let copied = Command::new("cp")
            .arg(program())
            .arg(self.path("bin/cairn"))
            .status()?;
        ensure!(copied.success(), "copying the program");
        let host = Command::new("hostname").arg("-s").output()?;
        let host = String::from_utf8(host.stdout)?.trim().to_owned();
        let at = |name: &str| self.path(name).display().to_string();
        // What is requeued begins when credentials of its last run have expired: by default after two minutes.
        let conf = format!(
            "ClusterName=test\nSlurmctldHost={host}(127.0.0.1)\nSlurmUser=root\n\
             SlurmctldPort={}\nAuthType=auth/munge\nAuthInfo=socket={},cred_expire=20\n\
             StateSaveLocation={}\nSlurmdSpoolDir={}\nSlurmctldPidFile={}\nSlurmdPidFile={}\n\
             SlurmctldLogFile={}\nSlurmdLogFile={}\nSlurmctldDebug=debug\n\
             ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\n\
             JobAcctGatherType=jobacct_gather/none\nReturnToService=2\nMinJobAge=300\n\
             SchedulerType=sched/backfill\nSchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=100000\n\
             SelectType=select/cons_tres\nSelectTypeParameters=CR_Core\n{}\
             NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={} CPUs=2\n\
             NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={} CPUs=2\n\
             PartitionName=main Nodes=n1,n2 Default=YES MaxTime=1:00:00 State=UP\n",
            port()?,
            at("munge/socket"),
            at("spool"),
            at("spool/%n"),
            at("log/slurmctld.pid"),
            at("log/%n.pid"),
            at("log/slurmctld.log"),
            at("log/%n.log"),
            if more.contains("PrologSlurmctld=") || more.contains("# No plugin") {
                ""
            } else {
                "BurstBufferType=burst_buffer/lua\n"
            },
            port()?,
            port()?,
        );
        let more = more.replace("@DIR@", &self.cairn.dir.path().display().to_string());
        fs::write(self.conf(), conf + &more)?;
        self.prolog()?;
        let key = self.path("etc/jwt.key");
        fs::write(&key, self.seed(32))?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        let installed = Command::new(self.path("bin/cairn"))
            .args([
                "slurm",
                "install",
                "--slurm-version",
                "22.05",
                "--directory",
            ])
            .arg(self.path("etc"))
            .output()?;
        let said = String::from_utf8_lossy(&installed.stderr).into_owned();
        ensure!(installed.status.success(), "slurm install: {said}");
        Ok(())
    }

    /// The prolog as it is shipped, with what Slurm's scripts are not told here: all lies in unusual places.
    fn prolog(&self) -> Result<()> {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = format!(
            "#!/bin/sh\nexport CAIRN={} SLURM_CONF={}\nexec {} >>{} 2>&1\n",
            self.path("bin/cairn").display(),
            self.conf().display(),
            shipped
                .join("packaging/slurm/prolog_slurmctld.sh")
                .display(),
            self.path("log/prolog.out").display(),
        );
        fs::write(self.path("etc/prolog"), text)?;
        let all = fs::Permissions::from_mode(0o755);
        Ok(fs::set_permissions(self.path("etc/prolog"), all)?)
    }

    /// From the test's own directory name: it is no secret, and not known before.
    fn seed(&self, length: usize) -> Vec<u8> {
        let name = self.cairn.dir.path().display().to_string();
        name.bytes().cycle().take(length).collect()
    }

    /// Starts a further daemon, which ends with the site.
    pub(crate) fn start(&mut self, command: Command, name: &str) -> Result<()> {
        let child = self.spawn(command, name)?;
        self.others.push(child);
        Ok(())
    }

    /// The same, of nobody's, with this in its environment.
    pub(crate) fn start_as_nobody(
        &mut self,
        mut command: Command,
        name: &str,
        environment: &[(&str, &str)],
    ) -> Result<()> {
        command
            .uid(65_534)
            .gid(65_534)
            .envs(environment.iter().copied());
        self.start(command, name)
    }

    fn munge(&mut self) -> Result<()> {
        let (key, dir) = (self.path("munge/key"), self.path("munge"));
        fs::write(&key, self.seed(1024))?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        let mut command = daemon("munged");
        command.args(["--force", "--foreground"]);
        for (option, name) in [
            ("--key-file", "key"),
            ("--socket", "socket"),
            ("--pid-file", "pid"),
            ("--log-file", "log"),
            ("--seed-file", "seed"),
        ] {
            command.arg(format!("{option}={}", dir.join(name).display()));
        }
        let child = self.spawn(command, "munged")?;
        self.others.push(child);
        wait_for("munge", || Ok(dir.join("socket").exists())).with_context(|| self.logs())
    }

    /// Starts the controller.
    pub(crate) fn control(&mut self) -> Result<()> {
        let mut command = daemon("slurmctld");
        command.args(["-D", "-f"]).arg(self.conf());
        self.controller = Some(self.spawn(command, "slurmctld")?);
        wait_for("the controller", || {
            let asked = self.command("scontrol", None).arg("ping").output()?;
            Ok(String::from_utf8_lossy(&asked.stdout).contains("is UP"))
        })
        .with_context(|| self.logs())
    }

    /// Ends the controller as a service manager does, and waits for its end.
    pub(crate) fn stop_control(&mut self) -> Result<()> {
        let mut child = self.controller.take().context("no controller")?;
        end(&mut child)
    }

    fn spawn(&self, mut command: Command, log: &str) -> Result<Child> {
        let log = self.path(&format!("log/{log}.out"));
        let out = fs::File::options().create(true).append(true).open(log)?;
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("SLURM_CONF", self.conf())
            .env_remove("CAIRN_SOCKET")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out);
        Ok(command.spawn()?)
    }

    /// A command of a user's, or of root's.
    pub(crate) fn command(&self, program: &str, user: Option<User>) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("SLURM_CONF", self.conf())
            .env("HOME", self.path("home"))
            .env_remove("CAIRN_SOCKET")
            .current_dir(self.path("home"))
            .stdin(Stdio::null());
        if let Some(user) = user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    /// What one of Slurm's commands prints.
    pub(crate) fn slurm<S: AsRef<OsStr>>(
        &self,
        program: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Result<String> {
        let output = self.command(program, None).args(args).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{program}: {said}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// `cairn job ...` as the user.
    pub(crate) fn job(&self, user: User, args: &[&str]) -> Result<Output> {
        Ok(self
            .command("cairn", Some(user))
            .arg("job")
            .args(args)
            .output()?)
    }

    /// A script in the user's home; its directives and its body.
    pub(crate) fn script(&self, name: &str, directives: &str, body: &str) -> Result<PathBuf> {
        let path = self.path("home").join(name);
        fs::write(&path, format!("#!/bin/bash\n{directives}\n{body}\n"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }

    /// Submits as the user; what sbatch said.
    pub(crate) fn sbatch(&self, user: User, script: &Path) -> Result<Output> {
        let out = self.path("home/%j.out");
        let mut command = self.command("sbatch", Some(user));
        command.arg("--parsable").arg("-o").arg(out).arg(script);
        Ok(command.output()?)
    }

    /// Submits as the user and expects a number.
    pub(crate) fn submit(&self, name: &str, directives: &str, body: &str) -> Result<String> {
        let script = self.script(name, directives, body)?;
        let output = self.sbatch(USER, &script)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "sbatch: {said}");
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// `scontrol show job`.
    pub(crate) fn show(&self, job: &str) -> Result<String> {
        self.slurm("scontrol", ["show", "job", job])
    }

    /// One `Name=value` word of it.
    pub(crate) fn field(&self, job: &str, name: &str) -> Result<String> {
        let shown = self.show(job)?;
        let begin = format!("{name}=");
        let mut words = shown.split_whitespace();
        let word = words.find_map(|word| word.strip_prefix(&begin));
        Ok(word
            .with_context(|| format!("no {name} in {shown}"))?
            .to_owned())
    }

    /// Waits until the job's line contains a text.
    pub(crate) fn shows(&self, job: &str, text: &str) -> Result<String> {
        let mut shown = String::new();
        let waited = wait_for(&format!("job {job} to show {text:?}"), || {
            shown = self.show(job)?;
            if shown.contains("JobState=FAILED") && !text.contains("FAILED") {
                bail!("job {job} failed: {shown}");
            }
            Ok(shown.contains(text))
        });
        waited.with_context(|| format!("{shown}\n{}", self.logs()))?;
        Ok(shown)
    }

    /// What the job printed.
    pub(crate) fn output(&self, job: &str) -> String {
        fs::read_to_string(self.path(&format!("home/{job}.out"))).unwrap_or_default()
    }

    /// `cairn status`.
    pub(crate) fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(
            &self.cairn.cairn(["status", "--json"])?,
        )?)
    }

    /// Recalls so far: all of them, and those that a reader waited for.
    pub(crate) fn recalls(&self) -> Result<(u64, u64)> {
        let status = self.status()?;
        let number = |name: &str| status["recalls"][name].as_u64().context("no number");
        Ok((number("begun")?, number("by_readers")?))
    }

    /// The requests of a job, newest first, as root sees them.
    pub(crate) fn requests(&self, job: &str) -> Result<Vec<Value>> {
        let lines = self.cairn.cairn(["requests", "--job", job, "--json"])?;
        lines
            .lines()
            .map(|line| Ok(serde_json::from_str(line)?))
            .collect()
    }

    /// Pins of a file.
    pub(crate) fn pins(&self, name: &str) -> Result<String> {
        let mut value = [0; 4096];
        let at = self.cairn.at(name);
        let length = rustix::fs::getxattr(at, "user.cairn.pins", &mut value[..])?;
        Ok(String::from_utf8_lossy(&value[..length]).into_owned())
    }

    /// Released files of the user's.
    pub(crate) fn released(&self, dir: &str, files: usize, size: usize) -> Result<()> {
        fs::create_dir(self.cairn.at(dir))?;
        for n in 0..files {
            let name = self.cairn.at(&format!("{dir}/{n}"));
            fs::write(&name, crate::rig::tree::bytes(n as u64, size))?;
            chown(&name, Some(USER.uid), Some(USER.gid))?;
        }
        chown(self.cairn.at(dir), Some(USER.uid), Some(USER.gid))?;
        self.cairn.archive(dir)?;
        self.cairn.release(dir)?;
        for n in 0..files {
            let state = self.cairn.shown_state(&format!("{dir}/{n}"))?;
            ensure!(state == "released", "{dir}/{n} is {state}");
        }
        Ok(())
    }

    /// What the daemons wrote, the end of it.
    pub(crate) fn logs(&self) -> String {
        let mut all = String::new();
        for name in [
            "slurmctld.log",
            "slurmctld.out",
            "n1.log",
            "munged.out",
            "prolog.out",
            "slurmrestd.out",
            "nginx.out",
            "nginx.log",
        ] {
            let text = fs::read_to_string(self.path(&format!("log/{name}"))).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let end = lines[lines.len().saturating_sub(40)..].join("\n");
            all.push_str(&format!("--- {name}\n{end}\n"));
        }
        all
    }
}

/// SIGTERM, then SIGKILL for what does not end.
fn end(child: &mut Child) -> Result<()> {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    for _ in 0..500 {
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    child.wait()?;
    Ok(())
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        // Steps that still run are the nodes' children: they are asked to end first.
        if self.controller.is_some() {
            let _ = self
                .command("scancel", None)
                .args(["-u", USER.name])
                .output();
            let _ = self
                .command("scancel", None)
                .args(["-u", OTHER.name])
                .output();
        }
        if let Some(mut controller) = self.controller.take() {
            let _ = end(&mut controller);
        }
        for child in self.others.iter_mut().rev() {
            let _ = end(child);
        }
        // A mount that is held for the next instance has no process of ours to end.
        if self.cairn.pid().is_none() && is_mounted(&self.cairn.mount).unwrap_or(false) {
            let mount = self.cairn.mount.display().to_string();
            let _ = self.cairn.run(["down", "--force", &mount]);
        }
    }
}
