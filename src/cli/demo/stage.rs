//! The demo's stage: a directory, an instance in it, and the commands that are run and shown.

use super::DemoError;
use super::compare::{Care, Comparison};
use super::sources::Sources;
use crate::config::units::shown::seconds;
use crate::server::wire::{TapeDrive, TapeList};
use crate::tier::trial::Trial;
use crate::tier::{Kind, TierUrl};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A measured step: a row of the table.
#[derive(Debug)]
pub(super) struct Step {
    what: &'static str,
    files: u64,
    bytes: u64,
    took: Duration,
    /// The yardstick of the same run it is compared with.
    against: Option<&'static str>,
}

const PLAIN_COPY: &str = "cp -a to the disk below";
const PLAIN_TAR: &str = "tar c, then sync";
const PLAIN_READ: &str = "compare two plain trees";

/// Where the demo runs.
#[derive(Debug)]
pub(super) struct Place {
    root: PathBuf,
    keep: bool,
    up: bool,
    /// Where it archives to, if not to a library of its own; with what removes that again.
    pub(super) tier: Option<(TierUrl, Trial)>,
}

pub(super) fn io(step: impl Into<String>) -> impl FnOnce(std::io::Error) -> DemoError {
    let step = step.into();
    move |source| DemoError::Io { step, source }
}

impl Place {
    pub(super) fn make(keep: bool, tier: Option<&TierUrl>) -> Result<Self, DemoError> {
        let area = |url: &TierUrl| Trial::at(url).map(|trial| (trial.next(), trial));
        let tier = tier.map(area).transpose();
        let tier = tier.map_err(|why| DemoError::Tier(Box::new(why)))?;
        let base =
            std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let root = base.join(format!("cairn-demo-{}", std::process::id()));
        let make = |path: &Path, mode| {
            fs::DirBuilder::new()
                .mode(mode)
                .create(path)
                .map_err(io(format!("creating {}", path.display())))
        };
        make(&root, 0o755)?;
        let place = Self {
            root,
            keep,
            up: false,
            tier,
        };
        // Guarded, so that no stub can be read past the mount.
        make(&place.root.join("guarded"), 0o700)?;
        make(&place.backing(), 0o755)?;
        make(&place.mount(), 0o755)?;
        make(&place.root.join("plain"), 0o755)?;
        Ok(place)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }
    fn backing(&self) -> PathBuf {
        self.root.join("guarded/backing")
    }
    fn mount(&self) -> PathBuf {
        self.root.join("mount")
    }
    pub(super) fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// The same bytes by plain tools, in the same run: what the ratios are made of.
    pub(super) fn yardsticks(&self, chosen: &Sources) -> Result<Vec<Step>, DemoError> {
        let plain = self.root.join("plain");
        // Once unmeasured, so that every measured step finds the originals in memory alike.
        copy(chosen, &plain)?;
        fs::remove_dir_all(&plain)
            .and_then(|()| fs::create_dir(&plain))
            .map_err(io("emptying plain/"))?;
        sync();
        let copied = time(|| copy(chosen, &plain).map(|()| sync()))?;
        let tar = self.root.join("plain.tar");
        let mut pack = Command::new("tar");
        pack.arg("-cf").arg(&tar).arg("-C").arg(&plain).arg(".");
        let packed = time(|| run(pack).map(|_| sync()))?;
        fs::remove_file(&tar).map_err(io("removing plain.tar"))?;
        drop_caches();
        let started = Instant::now();
        let same = compare(chosen, &plain);
        let read = started.elapsed();
        if let Some(first) = same.differences.first() {
            let first = format!("{first} (in a plain copy: the originals changed meanwhile?)");
            return Err(DemoError::Differs {
                count: same.differences.len(),
                first,
            });
        }
        let row = |what, took| Step {
            what,
            files: chosen.files,
            bytes: chosen.bytes,
            took,
            against: None,
        };
        Ok(vec![
            row(PLAIN_COPY, copied),
            row(PLAIN_TAR, packed),
            row(PLAIN_READ, read),
        ])
    }

    pub(super) fn up(&mut self) -> Result<(), DemoError> {
        let policy = self.root.join("demo.policy");
        fs::write(&policy, cairn_policies::shipped::DEMO).map_err(io("writing demo.policy"))?;
        let with = match &self.tier {
            None => "a virtual tape library, no configuration",
            Some(_) => "one tier, no configuration",
        };
        println!("1. One command starts an instance with {with}.");
        self.up = true;
        let mut args: Vec<OsString> = vec![
            "up".into(),
            "--detach".into(),
            "--allow-same-fs".into(),
            "--state".into(),
            self.state().into(),
            "--policy".into(),
            policy.into(),
        ];
        if let Some((url, _)) = &self.tier {
            args.extend(["--tier".into(), format!("demo={url}").into()]);
        }
        args.extend([self.backing().into(), self.mount().into()]);
        let said = self.cairn(&args)?;
        println!("   {}\n", said.trim().replace('\n', "\n   "));
        Ok(())
    }

    pub(super) fn copy_in(&self, chosen: &Sources) -> Result<Step, DemoError> {
        println!("2. Users write through the mount, with any tool (here cp -a).");
        let took = time(|| copy(chosen, &self.mount()).map(|()| sync()))?;
        Ok(row("cp -a into the mount", chosen, took, Some(PLAIN_COPY)))
    }

    pub(super) fn archive(&self, chosen: &Sources) -> Result<Step, DemoError> {
        let how = match self.kind() {
            Kind::Tape => "on cartridges, synced, read back and compared",
            Kind::S3 => "in objects whose checksum the service verified, or that were read back",
            Kind::Dir | Kind::Exec | Kind::Mover | Kind::Memory | Kind::Unnamed => {
                "in files, synced and proven"
            }
        };
        println!("3. The policy archives: plain tar {how}.");
        let took = time(|| self.policy("all"))?;
        Ok(row(
            "archive (tar, durable, proven)",
            chosen,
            took,
            Some(PLAIN_TAR),
        ))
    }

    pub(super) fn release(&self, chosen: &Sources) -> Result<Step, DemoError> {
        println!("4. The policy releases: blocks go back to the disk; names and sizes stay.");
        let took = time(|| self.policy("large"))?;
        Ok(row("release (prove, mark, punch)", chosen, took, None))
    }

    fn policy(&self, rule: &str) -> Result<(), DemoError> {
        self.cairn(&["policy".into(), "run".into(), "--wait".into(), rule.into()])
            .map(drop)
    }

    /// What kind of place it archives to.
    pub(super) fn kind(&self) -> Kind {
        match self.tier.as_ref().map(|(url, _)| url) {
            None | Some(TierUrl::Tape { .. }) => Kind::Tape,
            Some(TierUrl::Dir { .. }) => Kind::Dir,
            Some(TierUrl::S3(_)) => Kind::S3,
            Some(TierUrl::Exec { .. }) => Kind::Exec,
            Some(TierUrl::Mover { .. }) => Kind::Mover,
        }
    }

    /// A path as it is shown: from the demo's own directory on.
    pub(super) fn shown(&self, path: &Path) -> String {
        let below = path.strip_prefix(&self.root).unwrap_or(path);
        below.display().to_string()
    }

    pub(super) fn stage_one_directory(&self, chosen: &Sources) -> Result<(), DemoError> {
        println!("6. A directory is staged before it is needed.");
        let Some(first) = chosen.paths.iter().find(|p| p.is_dir()) else {
            return Ok(());
        };
        let at = below(&self.mount(), first);
        let said = self.cairn(&["stage".into(), "--wait".into(), at.into()])?;
        println!("   {}\n", said.trim());
        Ok(())
    }

    pub(super) fn read_back(&self, chosen: &Sources) -> Result<(Step, Comparison), DemoError> {
        println!("7. Everything is read back cold and compared with the originals, byte by byte.");
        drop_caches();
        let started = Instant::now();
        let compared = compare(chosen, &self.mount());
        let took = started.elapsed();
        println!(
            "   {} files, {} compared, {} differences\n",
            compared.files,
            size(compared.bytes),
            compared.differences.len()
        );
        Ok((
            row(
                "recall by reading, and compare",
                chosen,
                took,
                Some(PLAIN_READ),
            ),
            compared,
        ))
    }

    /// What the library did, and how long a real one would have been at it.
    pub(super) fn tape_words(&self) -> Result<(), DemoError> {
        if self.kind() != Kind::Tape {
            return Ok(());
        }
        println!("8. What that was in tape words:");
        let said = self.cairn(&["tape".into(), "list".into(), "--json".into()])?;
        let list: TapeList = serde_json::from_str(&said)
            .map_err(|e| DemoError::NotDone(format!("cairn tape list --json: {e}")))?;
        let drives: Vec<_> = list.libraries.iter().flat_map(|l| &l.drives).collect();
        let cartridges = list.libraries.iter().flat_map(|l| &l.cartridges);
        let used: Vec<_> = cartridges.filter(|c| c.files > 0).collect();
        let sum = |what: fn(&TapeDrive) -> u64| drives.iter().map(|d| what(d)).sum::<u64>();
        let of = used.first().map_or("no", |c| c.generation.as_str());
        println!(
            "   {} {of} cartridge{} written ({} of {}); mounts: {}, locates: {}, drives: {};\n   \
             {} went to tape, {} came from it",
            used.len(),
            if used.len() == 1 { "" } else { "s" },
            size(used.iter().map(|c| c.used).sum()),
            size(used.iter().map(|c| c.capacity).sum()),
            sum(|d| d.mounts),
            sum(|d| d.locates),
            drives.len(),
            size(sum(|d| d.written)),
            size(sum(|d| d.read)),
        );
        let longest = drives.iter().map(|d| d.busy_s).max().unwrap_or(0);
        println!(
            "   On real {of} drives this takes about {} (by the model in docs/tiers.md; here nobody waited for it)\n",
            seconds(longest)
        );
        if used.is_empty() {
            return Err(DemoError::NotDone("no cartridge was written".into()));
        }
        Ok(())
    }

    /// Blocks of the backing directory on disk.
    pub(super) fn disk_used(&self) -> Result<OnDisk, DemoError> {
        sync();
        let mut sum = OnDisk::default();
        blocks(&self.backing(), &mut sum).map_err(io("measuring the backing directory"))?;
        Ok(sum)
    }

    /// Takes the instance down and removes what was made.
    pub(super) fn end(mut self) -> Result<(), DemoError> {
        self.down()?;
        self.clear()?;
        if self.keep {
            println!("\nKept: {}", self.root.display());
        }
        Ok(())
    }

    /// Removes what was archived, unless it is to be kept.
    fn clear(&mut self) -> Result<(), DemoError> {
        let Some((_, trial)) = self.tier.take() else {
            return Ok(());
        };
        if self.keep {
            println!("\nKept: {}", trial.area());
            return Ok(());
        }
        trial.clear().map_err(|why| DemoError::Tier(Box::new(why)))
    }

    fn down(&mut self) -> Result<(), DemoError> {
        if std::mem::take(&mut self.up) {
            self.cairn(&["down".into(), self.mount().into()])?;
        }
        Ok(())
    }

    /// Runs this program, shown as a user would type it.
    fn cairn(&self, args: &[OsString]) -> Result<String, DemoError> {
        let shown: Vec<_> = args
            .iter()
            .map(|a| a.to_string_lossy().into_owned())
            .collect();
        println!(
            "   $ cairn {}",
            shown.join(" ").replace(&*self.root.to_string_lossy(), ".")
        );
        let program = std::env::current_exe().map_err(io("finding this program"))?;
        let mut command = Command::new(program);
        command.args(args).current_dir(&self.root);
        command.env("CAIRN_SOCKET", self.state().join("run/control.sock"));
        run(command)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.down().is_err() {
            eprintln!(
                "the mount {} is still there: `cairn down --force` takes it away",
                self.mount().display()
            );
            if let Some((_, trial)) = &self.tier {
                eprintln!("what was archived is still there: {}", trial.area());
            }
            return;
        }
        if let Err(why) = self.clear() {
            eprintln!("{why}");
        }
        if !self.keep {
            let removed = fs::remove_dir_all(&self.root);
            if let Err(e) = removed {
                eprintln!("could not remove {}: {e}", self.root.display());
            }
        }
    }
}

fn row(
    what: &'static str,
    chosen: &Sources,
    took: Duration,
    against: Option<&'static str>,
) -> Step {
    Step {
        what,
        files: chosen.files,
        bytes: chosen.bytes,
        took,
        against,
    }
}

/// `cp -a`, one for each directory that sources lie in: they keep their whole path below `to`.
fn copy(chosen: &Sources, to: &Path) -> Result<(), DemoError> {
    let mut by_parent = BTreeMap::<PathBuf, Vec<&Path>>::new();
    for path in &chosen.paths {
        let parent = path.parent().unwrap_or(Path::new("/"));
        by_parent.entry(below(to, parent)).or_default().push(path);
    }
    for (parent, paths) in by_parent {
        fs::create_dir_all(&parent).map_err(io(format!("creating {}", parent.display())))?;
        let mut command = Command::new("cp");
        command
            .args(["-a", "-t"])
            .arg(&parent)
            .arg("--")
            .args(paths);
        run(command)?;
    }
    Ok(())
}

fn below(root: &Path, absolute: &Path) -> PathBuf {
    root.join(absolute.strip_prefix("/").unwrap_or(absolute))
}

fn compare(chosen: &Sources, copy: &Path) -> Comparison {
    let care = Care {
        owners: rustix::process::geteuid().is_root(),
        contents: true,
    };
    let mut compared = Comparison::default();
    for path in &chosen.paths {
        compared.trees(path, &below(copy, path), care);
    }
    compared
}

pub(super) fn run(mut command: Command) -> Result<String, DemoError> {
    let shown = format!("{} ...", command.get_program().to_string_lossy());
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(io(format!("starting {shown}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
    said.truncate(
        said.char_indices()
            .nth(4000)
            .map_or(said.len(), |(at, _)| at),
    );
    Err(DemoError::Command {
        command: shown,
        status: output.status.to_string(),
        output: said,
    })
}

fn time(work: impl FnOnce() -> Result<(), DemoError>) -> Result<Duration, DemoError> {
    let started = Instant::now();
    work().map(|()| started.elapsed())
}

fn sync() {
    rustix::fs::sync();
}

/// Root can make reads cold; for others they are as cold as the kernel leaves them.
fn drop_caches() {
    sync();
    if let Err(e) = fs::write("/proc/sys/vm/drop_caches", "3") {
        tracing::debug!(error = %e, "caches stay warm");
    }
}

/// Space on disk, bytes: of all files, and of those of 64 KiB and more.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct OnDisk {
    pub(super) all: u64,
    pub(super) large: u64,
}

fn blocks(dir: &Path, sum: &mut OnDisk) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let meta = fs::symlink_metadata(entry.path())?;
        if meta.is_dir() {
            blocks(&entry.path(), sum)?;
        } else {
            let bytes = meta.blocks() * 512;
            sum.all += bytes;
            sum.large += if meta.is_file() && meta.size() >= 64 << 10 {
                bytes
            } else {
                0
            };
        }
    }
    Ok(())
}

/// Bytes as a person reads them.
pub(super) fn size(bytes: u64) -> String {
    crate::config::units::shown::Bytes(bytes).to_string()
}

/// Prints the measured steps, each beside the yardstick of the same run.
pub(super) fn table(rows: &[Step]) {
    println!(
        "{:34} {:>8} {:>10} {:>9} {:>10}   compared with",
        "step", "files", "bytes", "seconds", "MB/s"
    );
    for step in rows {
        let seconds = step.took.as_secs_f64().max(1e-9);
        #[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
        let rate = step.bytes as f64 / 1e6 / seconds;
        let yardstick = step
            .against
            .and_then(|name| rows.iter().find(|r| r.what == name));
        let ratio = yardstick.map_or(String::new(), |y| {
            format!(
                "{:.2} x the time of: {}",
                seconds / y.took.as_secs_f64().max(1e-9),
                y.what
            )
        });
        println!(
            "{:34} {:>8} {:>10} {seconds:>9.2} {rate:>10.0}   {ratio}",
            step.what,
            step.files,
            size(step.bytes)
        );
    }
    println!("(one run, n = 1: a look, not a benchmark)");
}
