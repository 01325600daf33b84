//! The shared rig: an instance over temporary directories, on a filesystem of its own where a
//! test needs one. Whatever it starts it ends, also when the test fails.

#![allow(dead_code, reason = "each test target uses its own part of the rig")]

pub(crate) mod disk;
pub(crate) mod far;
pub(crate) mod lan;
pub(crate) mod podman;
pub(crate) mod sys;
pub(crate) mod tree;

use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The program under test.
pub(crate) const CAIRN: &str = env!("CARGO_BIN_EXE_cairn");

/// The program to run: [`CAIRN`], or what the environment's `CAIRN_BIN` names (long runs on a
/// release build).
pub(crate) fn program() -> std::ffi::OsString {
    std::env::var_os("CAIRN_BIN").unwrap_or_else(|| CAIRN.into())
}

/// Why tests with a real mount cannot run here; `None` if they can.
pub(crate) fn no_mounts() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root: the tests look below the mount and drop caches".into());
    }
    match fs::File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => None,
        Err(e) => Some(format!("/dev/fuse: {e}")),
    }
}

/// Leaves the test, saying so, where it cannot run.
#[macro_export]
macro_rules! needs_mounts {
    () => {
        if let Some(why) = $crate::rig::no_mounts() {
            eprintln!(
                "SKIPPED {}: {why}",
                std::thread::current().name().unwrap_or("?")
            );
            return Ok(());
        }
    };
}

/// What is done to the command of `cairn up`.
pub(crate) type Prepare = Box<dyn Fn(&mut Command) -> Result<()> + Send + Sync>;

/// Directories of one instance, and the process while it runs.
pub(crate) struct Instance {
    pub(crate) dir: tempfile::TempDir,
    /// The backing directory, guarded (P7).
    pub(crate) backing: PathBuf,
    pub(crate) mount: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) tier: PathBuf,
    /// How long the mount outlives the instance; `None`: as it is by default. Most tests are about
    /// a mount that is gone when its instance is killed.
    pub(crate) hold: Option<String>,
    /// Further arguments of `cairn up`.
    pub(crate) args: Vec<String>,
    /// Environment of `cairn up`.
    pub(crate) environment: Vec<(&'static str, std::ffi::OsString)>,
    /// Done to the command of `cairn up` before it starts.
    pub(crate) prepare: Option<Prepare>,
    child: Option<Child>,
}

impl Instance {
    /// Directories under one temporary directory, in `base` or the system's place.
    pub(crate) fn new(base: Option<&Path>) -> Result<Self> {
        let builder = {
            let mut b = tempfile::Builder::new();
            b.prefix("cairn-test-");
            b
        };
        let dir = match base {
            Some(base) => builder.tempdir_in(base)?,
            None => builder
                .tempdir_in(std::env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into()))?,
        };
        let guard = dir.path().join("guarded");
        fs::DirBuilder::new().mode(0o700).create(&guard)?;
        let at = |name: &str| -> Result<PathBuf> {
            let path = dir.path().join(name);
            fs::create_dir(&path)?;
            Ok(path)
        };
        let (mount, tier) = (at("mount")?, at("tier")?);
        let (backing, state) = (guard.join("backing"), dir.path().join("state"));
        fs::create_dir(&backing)?;
        fs::set_permissions(
            dir.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )?;
        Ok(Self {
            dir,
            backing,
            mount,
            state,
            tier,
            hold: Some("0s".to_owned()),
            args: Vec::new(),
            environment: Vec::new(),
            prepare: None,
            child: None,
        })
    }

    /// Starts the instance and waits for its "ready" line.
    pub(crate) fn up(&mut self) -> Result<()> {
        let url = if self.args.iter().any(|a| a == "--tier") {
            None
        } else {
            Some(format!("disk=dir:{}", self.tier.display()))
        };
        let mut command = Command::new(program());
        command
            .arg("up")
            .arg("--allow-same-fs")
            .arg("--state")
            .arg(&self.state);
        if let Some(url) = url {
            command.args(["--tier", &url]);
        }
        if let Some(hold) = &self.hold {
            command.args(["--hold", hold]);
        }
        command.args(&self.args).arg(&self.backing).arg(&self.mount);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("up.log"))?;
        command.stderr(log);
        if let Some(prepare) = &self.prepare {
            prepare(&mut command)?;
        }
        let mut child = command.spawn().context("starting cairn up")?;
        let mut out = BufReader::new(child.stdout.take().context("stdout")?);
        self.child = Some(child);
        let mut line = String::new();
        while !line.contains("ready") {
            line.clear();
            if out.read_line(&mut line)? == 0 {
                bail!("cairn up ended before it was ready:\n{}", self.log());
            }
        }
        // The rest of its output must not block it.
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        Ok(())
    }

    /// What the instance wrote to stderr so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("up.log")).unwrap_or_default()
    }

    /// Process id of the running instance.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Ends the instance as an administrator would.
    pub(crate) fn down(&mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let output = self.run(["down", &self.mount.to_string_lossy()])?;
            if output.status.success() {
                return self.ends();
            }
            let said = String::from_utf8_lossy(&output.stderr);
            // A test beside this one forks: until its child is another program, it has open what this process had. Who
            // really holds the mount is named.
            let passing = said.contains("is busy") && !said.contains("held by");
            ensure!(passing && Instant::now() < end, "down: {said}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the process has ended well.
    pub(crate) fn ends(&mut self) -> Result<()> {
        let mut child = self.child.take().context("not up")?;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = child.try_wait()? {
                ensure!(
                    status.success(),
                    "cairn up ended with {status}\n{}",
                    self.log()
                );
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill()?;
        bail!("cairn up did not end of `down`\n{}", self.log())
    }

    /// kill -9, and waits until the mount is gone.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("not up")?;
        child.kill()?;
        child.wait()?;
        wait_for("the mount to go", || Ok(!is_mounted(&self.mount)?))
    }

    /// kill -9, of the process that mounts and unmounts first: what is left is a dead mount.
    pub(crate) fn kill_with_mounter(&mut self) -> Result<()> {
        self.kill_mounter()?;
        self.die()
    }

    /// kill -9, of the process that mounts and unmounts alone.
    pub(crate) fn kill_mounter(&self) -> Result<()> {
        let server = self.pid().context("not up")?;
        let children = fs::read_to_string(format!("/proc/{server}/task/{server}/children"))?;
        for pid in children.split_whitespace() {
            let name = fs::read_to_string(format!("/proc/{pid}/comm"))?;
            ensure!(name.trim() == "cairn-mounter", "a child {name}");
            let killed = Command::new("kill").args(["-KILL", pid]).status()?;
            ensure!(killed.success(), "kill {pid}");
            // Its parent lives, and has not waited for it.
            let stat = format!("/proc/{pid}/stat");
            wait_for("the mounter's death", || {
                Ok(fs::read_to_string(&stat)?.contains(") Z"))
            })?;
        }
        ensure!(!children.is_empty(), "no mounter");
        Ok(())
    }

    /// kill -9; whether the mount stays is the holder's.
    pub(crate) fn die(&mut self) -> Result<()> {
        let mut child = self.child.take().context("not up")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Another process serves in place of the one that was started, which has ended.
    pub(crate) fn replaced(&mut self) -> Result<()> {
        self.child.take().context("not up")?.wait()?;
        Ok(())
    }

    /// Runs `cairn` with these arguments.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Output> {
        Ok(Command::new(program())
            .args(args)
            .env("CAIRN_SOCKET", self.state.join("run/control.sock"))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()?)
    }

    /// Runs `cairn` and expects success; its stdout.
    pub(crate) fn cairn<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> Result<String> {
        let args: Vec<_> = args.into_iter().collect();
        let shown: Vec<_> = args
            .iter()
            .map(|a| a.as_ref().to_string_lossy().into_owned())
            .collect();
        let output = self.run(&args)?;
        ensure!(
            output.status.success(),
            "cairn {}: {}\n{}{}\n--- up.log\n{}",
            shown.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A path on the mount, as an argument.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        if name.is_empty() {
            self.mount.clone()
        } else {
            self.mount.join(name)
        }
    }

    /// The same file in the backing directory.
    pub(crate) fn below(&self, name: &str) -> PathBuf {
        self.backing.join(name)
    }

    /// Before [`Self::up`]: options of the tier's URL, as in `rate=1MiB/s&delay=2s`.
    pub(crate) fn tier_options(&mut self, options: &str) {
        let url = format!("disk=dir:{}?{options}", self.tier.display());
        self.args.extend(["--tier".to_owned(), url]);
    }

    /// A file with these data whose blocks were given back, and nothing of it in memory.
    pub(crate) fn released(&self, name: &str, data: &[u8]) -> Result<()> {
        fs::write(self.at(name), data)?;
        self.archive(name)?;
        self.release(name)?;
        ensure!(
            on_disk(&self.below(name))? <= 8192,
            "{name} was not released\n{}",
            self.log()
        );
        self.cold()
    }

    /// Makes reads cold: the kernel forgets what it has of this mount, and of this one alone. A machine whose caches all
    /// go has to read every program of every other test again. What somebody has open stays: see [`drop_caches`].
    pub(crate) fn cold(&self) -> Result<()> {
        use rustix::mount::MountFlags;
        if !is_mounted(&self.mount)? {
            return Ok(());
        }
        // Whoever remounts loses the names that nobody uses, and with them their inodes and pages.
        let is = rustix::fs::statvfs(&self.mount)?.f_flag.bits();
        let same = [
            MountFlags::RDONLY,
            MountFlags::NOSUID,
            MountFlags::NODEV,
            MountFlags::NOEXEC,
        ];
        let same = same.into_iter().filter(|f| is & u64::from(f.bits()) != 0);
        rustix::mount::mount_remount(&self.mount, same.collect(), c"").context("remounting")
    }

    /// `user.cairn.state` of a file.
    pub(crate) fn shown_state(&self, name: &str) -> Result<String> {
        let mut value = [0; 64];
        let len = rustix::fs::getxattr(self.at(name), "user.cairn.state", &mut value[..])?;
        Ok(String::from_utf8_lossy(&value[..len]).into_owned())
    }

    /// Archives and waits.
    pub(crate) fn archive(&self, name: &str) -> Result<String> {
        self.cairn([
            OsStr::new("archive"),
            OsStr::new("--wait"),
            self.at(name).as_os_str(),
        ])
    }

    /// Releases and waits.
    pub(crate) fn release(&self, name: &str) -> Result<String> {
        self.cairn([
            OsStr::new("release"),
            OsStr::new("--wait"),
            self.at(name).as_os_str(),
        ])
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- up.log\n{}", self.log());
        }
        if let Some(mut child) = self.child.take() {
            let _ = self.run(["down", "--force", &self.mount.to_string_lossy()]);
            let end = Instant::now() + Duration::from_secs(10);
            while Instant::now() < end && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        while is_mounted(&self.mount).unwrap_or(false) {
            if !Command::new("umount")
                .arg("-l")
                .arg(&self.mount)
                .status()
                .is_ok_and(|s| s.success())
            {
                break;
            }
        }
    }
}

/// `truncate(2)`, by name and without an open.
pub(crate) fn truncate(path: &Path, size: u64) -> Result<()> {
    let script = "import os,sys\nos.truncate(sys.argv[1], int(sys.argv[2]))";
    let done = Command::new("python3")
        .args(["-c", script])
        .arg(path)
        .arg(size.to_string())
        .output()
        .context("python3 truncates")?;
    let why = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(done.status.success(), "truncate {}: {why}", path.display());
    Ok(())
}

/// Is something mounted exactly there?
pub(crate) fn is_mounted(path: &Path) -> Result<bool> {
    let mut table = String::new();
    fs::File::open("/proc/thread-self/mounts")?.read_to_string(&mut table)?;
    let path = path.to_string_lossy();
    Ok(table.lines().any(|l| l.split(' ').nth(1) == Some(&*path)))
}

/// Longest wait: only what hangs takes as long, also on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(300);

/// Polls for a condition.
pub(crate) fn wait_for(what: &str, done: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_up_to((PATIENCE, Duration::from_millis(10)), what, done)
}

/// The same with another bound, and another pause between two looks: a look may cost what is waited for.
pub(crate) fn wait_up_to(
    (bound, pause): (Duration, Duration),
    what: &str,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let end = Instant::now() + bound;
    while Instant::now() < end {
        if done()? {
            return Ok(());
        }
        std::thread::sleep(pause);
    }
    bail!("waited in vain for {what}")
}

/// Makes reads cold, of every filesystem here, also of what is open. It slows all that runs: see [`Instance::cold`].
pub(crate) fn drop_caches() -> Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("dropping caches")
}

/// Blocks of a file on disk, in bytes.
pub(crate) fn on_disk(path: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(fs::symlink_metadata(path)?.blocks() * 512)
}
