//! One instance with its backing, two tiers and state directory on four disks that can lose power,
//! and images of such disks to begin from.

use crate::fault::Aim;
use crate::point::{Class, Ground};
use crate::reference::Reference;
use crate::rig::disk::{Disk, scratch};
use crate::rig::{Instance, is_mounted, wait_for};
use crate::supervisor::Supervisor;
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

const MIB: [(&str, u64); 2] = [("ext4", 96), ("xfs", 320)];

/// For a few sites at once and the images, bytes.
const ROOM: u64 = 4 << 30;

const POLICY: &str = "copies 2\n\
    rule archive everything when any file manual\n\
    rule release large when size >= 64 KiB manual\n";

/// In memory, where there is room for it: thousands of copies are made.
pub(crate) fn base() -> &'static Path {
    let memory = Path::new("/dev/shm");
    let free = rustix::fs::statvfs(memory).map_or(0, |s| s.f_bavail * s.f_frsize);
    if free > ROOM { memory } else { scratch() }
}

/// Disks to begin from, and what the users have on them.
pub(crate) struct Images {
    dir: tempfile::TempDir,
    kinds: [&'static str; 4],
    settings: &'static str,
    pub(crate) reference: Reference,
}

impl Images {
    fn path(&self, n: usize) -> PathBuf {
        self.dir.path().join(n.to_string())
    }
}

pub(crate) struct Site {
    // Dropped first: it unmounts before the disks do.
    pub(crate) cairn: Instance,
    disks: Arc<[Disk]>,
    kinds: [&'static str; 4],
    /// Of the configuration, beside what all have.
    settings: &'static str,
    pub(crate) supervisor: Option<Arc<Supervisor>>,
}

impl Site {
    /// Fresh disks: the backing on filesystem `kind`, the first tier on the other one.
    pub(crate) fn new(kind: &'static str, settings: &'static str) -> Result<Self> {
        let other = if kind == "xfs" { "ext4" } else { "xfs" };
        let kinds = [kind, other, "ext4", "ext4"];
        let fresh = |kind: &&'static str| {
            let (_, mib) = MIB.iter().find(|(k, _)| k == kind).context("a size")?;
            Disk::new(kind, *mib)
        };
        let disks: Vec<_> = kinds.iter().map(fresh).collect::<Result<_>>()?;
        let guard = disks[0].path.join("guarded");
        DirBuilder::new().mode(0o700).create(&guard)?;
        fs::create_dir(guard.join("backing"))?;
        for disk in &disks[1..3] {
            fs::create_dir(disk.path.join("tier"))?;
        }
        Self::over(disks, kinds, settings)
    }

    /// On copies of these disks.
    pub(crate) fn on(images: &Images) -> Result<Self> {
        let copy = |(n, kind): (usize, &&'static str)| Disk::copy(base(), kind, &images.path(n));
        let disks = images.kinds.iter().enumerate().map(copy);
        Self::over(disks.collect::<Result<_>>()?, images.kinds, images.settings)
    }

    fn over(disks: Vec<Disk>, kinds: [&'static str; 4], settings: &'static str) -> Result<Self> {
        let mut cairn = Instance::new(Some(base()))?;
        cairn.backing = disks[0].path.join("guarded/backing");
        cairn.tier = disks[1].path.join("tier");
        cairn.state = disks[3].path.join("state");
        let mut site = Self {
            cairn,
            disks: disks.into(),
            kinds,
            settings,
            supervisor: None,
        };
        site.configure()?;
        Ok(site)
    }

    fn configure(&mut self) -> Result<()> {
        let at = |name: &str| self.cairn.dir.path().join(name);
        let (policy, config) = (at("site.policy"), at("cairn.toml"));
        fs::write(&policy, POLICY)?;
        let text = format!(
            "min-residency = \"0s\"\nballast-size = \"1MiB\"\npolicy = {:?}\n{}",
            policy.display().to_string(),
            self.settings
        );
        fs::write(&config, text)?;
        let mut args = vec!["--config".into(), config.display().to_string()];
        for name in ["one", "two"] {
            args.extend(["--tier".to_owned(), self.url(name)]);
        }
        self.cairn.args = args;
        Ok(())
    }

    /// A tier, as a program is told of it.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("{name}=dir:{}", self.tier(name).display())
    }

    /// Backing and state directory of an instance that takes this one's place.
    pub(crate) fn anew(&self) -> (PathBuf, PathBuf) {
        (
            self.disks[0].path.join("guarded/new"),
            self.disks[3].path.join("state-2"),
        )
    }

    /// Where the objects of a tier lie.
    pub(crate) fn tier(&self, name: &str) -> PathBuf {
        let n = if name == "one" { 1 } else { 2 };
        self.disks[n].path.join("tier")
    }

    /// Unmounts the disks and keeps their images.
    pub(crate) fn freeze(self, reference: Reference) -> Result<Images> {
        let Self {
            cairn,
            disks,
            kinds,
            settings,
            supervisor,
        } = self;
        drop((cairn, supervisor));
        let images = Images {
            dir: tempfile::Builder::new()
                .prefix("cairn-images-")
                .tempdir_in(base())?,
            kinds,
            settings,
            reference,
        };
        for (n, disk) in disks.iter().enumerate() {
            wait_for("a disk to be free", || Ok(disk.unmount().is_ok()))?;
            disk.save(&images.path(n))?;
        }
        Ok(images)
    }

    fn grounds(&self) -> Result<Vec<Ground>> {
        let one = |(class, disk): (Class, &Disk)| {
            Ok(Ground {
                class,
                device: fs::metadata(&disk.path)?.dev(),
                path: disk.path.clone(),
            })
        };
        Class::ALL
            .into_iter()
            .zip(self.disks.iter())
            .map(one)
            .collect()
    }

    /// Starts under a supervisor.
    pub(crate) fn up(&mut self, aim: Aim, armed: bool) -> Result<()> {
        let supervisor = Supervisor::new(aim, armed, self.grounds()?, Arc::clone(&self.disks))?;
        let supervisor = Arc::new(supervisor);
        self.supervisor = Some(Arc::clone(&supervisor));
        self.cairn.prepare = Some(Box::new(move |command| supervisor.watch(command)));
        let started = self.cairn.up();
        self.cairn.prepare = None;
        if started.is_err() {
            wait_for("the process to end", || Ok(!self.is_running()))?;
        }
        started
    }

    /// Runs a program under a supervisor, while there is no instance.
    pub(crate) fn apart(&mut self, aim: Aim, args: &[OsString]) -> Result<()> {
        let supervisor = Supervisor::new(aim, true, self.grounds()?, Arc::clone(&self.disks))?;
        let supervisor = Arc::new(supervisor);
        self.supervisor = Some(Arc::clone(&supervisor));
        let mut command = Command::new(crate::rig::program());
        command.args(args).stdin(Stdio::null());
        supervisor.watch(&mut command)?;
        let output = command.output()?;
        supervisor.ends()?;
        succeeded(args, &output).map(drop)
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.cairn.kill()?;
        self.ended()
    }

    /// The process has ended: so does its supervisor.
    pub(crate) fn ended(&mut self) -> Result<()> {
        let mount = self.cairn.mount.clone();
        wait_for("the mount to go", || Ok(!is_mounted(&mount)?))?;
        self.supervisor.as_ref().map_or(Ok(()), |s| s.ends())
    }

    /// Ends it as an administrator would.
    pub(crate) fn down(&mut self) -> Result<()> {
        self.cairn.down()?;
        self.ended()
    }

    /// The end of what it wrote to stderr.
    pub(crate) fn log(&self) -> String {
        let log = self.cairn.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// Is there a process, and has it not ended?
    pub(crate) fn is_running(&self) -> bool {
        let stat = self.cairn.pid().map(|pid| format!("/proc/{pid}/stat"));
        stat.and_then(|stat| fs::read_to_string(stat).ok())
            .is_some_and(|text| !text.contains(") Z"))
    }

    /// The disks stop.
    pub(crate) fn cut_power(&self) -> Result<()> {
        self.disks.iter().try_for_each(Disk::cut_power)
    }

    /// All disks stop at one instant, the process before them.
    pub(crate) fn outage(&mut self) -> Result<()> {
        let pid = self.cairn.pid().context("up")?;
        let pid = Pid::from_raw(pid.cast_signed()).context("a pid")?;
        kill_process(pid, Signal::STOP)?;
        self.cut_power()?;
        self.kill()
    }

    /// Power comes back.
    pub(crate) fn power_on(&self) -> Result<()> {
        self.disks.iter().try_for_each(Disk::power_on)
    }

    /// Writes out what the disks' filesystems hold in memory.
    pub(crate) fn sync(&self) -> Result<()> {
        for disk in self.disks.iter() {
            rustix::fs::syncfs(File::open(&disk.path)?)?;
        }
        Ok(())
    }

    /// Runs `cairn`, not for ever.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Output> {
        let args: Vec<_> = args.into_iter().collect();
        let output = Command::new("timeout")
            .args(["-k", "5", "100"])
            .arg(crate::rig::program())
            .args(&args)
            .env("CAIRN_SOCKET", self.cairn.state.join("run/control.sock"))
            .stdin(Stdio::null())
            .output()?;
        let shown = shown(&args);
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() != Some(124), "HANGS: cairn {shown}");
        ensure!(!said.contains("panicked"), "PANIC: cairn {shown}: {said}");
        Ok(output)
    }

    /// Runs `cairn`, which must succeed; what it said.
    pub(crate) fn succeeds<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> Result<String> {
        let args: Vec<_> = args.into_iter().collect();
        succeeded(&args, &self.run(&args)?)
    }

    /// Runs `cairn VERB --wait` on the whole mount: what the user is told if it fails.
    pub(crate) fn whole(&self, verb: &str) -> Result<()> {
        let mount = self.cairn.mount.as_os_str();
        self.succeeds([OsStr::new(verb), OsStr::new("--wait"), mount])
            .map(drop)
    }
}

fn shown<S: AsRef<OsStr>>(args: &[S]) -> String {
    let shown: Vec<_> = args.iter().map(|a| a.as_ref().to_string_lossy()).collect();
    shown.join(" ")
}

/// What a program said that succeeded.
fn succeeded<S: AsRef<OsStr>>(args: &[S], output: &Output) -> Result<String> {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    let args = shown(args);
    ensure!(
        !complaint.contains("panicked"),
        "PANIC: cairn {args}: {complaint}"
    );
    ensure!(
        output.status.success(),
        "cairn {args}: {}: {said}{complaint}",
        output.status
    );
    Ok(said)
}
