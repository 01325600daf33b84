//! One instance with backing, tier and state directory on three disks that can lose power.

use crate::random::Random;
use crate::rig::disk::Disk;
use crate::rig::{Instance, is_mounted, sys, wait_for};
use anyhow::{Context, Result};
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// MiB of the sparse images; nothing is ever deleted from the tier.
const BACKING: u64 = 2048;
const TIER: u64 = 24 * 1024;
const STATE: u64 = 1024;

/// What records say.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// Stubs.
    pub(crate) released: u64,
    /// Of these, still with their blocks.
    pub(crate) unpunched: u64,
    /// A recall is writing.
    pub(crate) recalling: u64,
}

pub(crate) struct Site {
    // Dropped first: it unmounts before the disks do.
    pub(crate) cairn: Instance,
    disks: [Disk; 3],
}

impl Site {
    /// Backing on filesystem `kind`; tier and state on the other one and on the same.
    pub(crate) fn new(kind: &'static str) -> Result<Self> {
        sys::own_mounts()?;
        let other = if kind == "xfs" { "ext4" } else { "xfs" };
        let disks = [
            Disk::new(kind, BACKING)?,
            Disk::new(other, TIER)?,
            Disk::new(kind, STATE)?,
        ];
        let mut cairn = Instance::new(None)?;
        let guard = disks[0].path.join("guarded");
        DirBuilder::new().mode(0o700).create(&guard)?;
        cairn.backing = guard.join("backing");
        cairn.tier = disks[1].path.join("tier");
        cairn.state = disks[2].path.join("state");
        for dir in [&cairn.backing, &cairn.tier] {
            fs::create_dir(dir)?;
        }
        // What is staged may be released again at once: more windows in less time.
        let config = cairn.dir.path().join("cairn.toml");
        fs::write(&config, "min-residency = \"0s\"\n")?;
        cairn.args = vec!["--config".into(), config.display().to_string()];
        let site = Self { cairn, disks };
        // The directories are the administrator's, made long ago.
        site.sync()?;
        Ok(site)
    }

    /// Writes out what the disks' filesystems hold in memory.
    pub(crate) fn sync(&self) -> Result<()> {
        for disk in &self.disks {
            rustix::fs::syncfs(File::open(&disk.path)?)?;
        }
        Ok(())
    }

    /// Everything stops at one instant: the process first, so that no disk's end is seen by it.
    /// `dead` is set before the backing's.
    pub(crate) fn outage(&mut self, dead: &AtomicBool) -> Result<()> {
        let pid = self.pid()?;
        rustix::process::kill_process(pid, rustix::process::Signal::STOP)?;
        dead.store(true, Ordering::SeqCst);
        for disk in &self.disks {
            disk.cut_power()?;
        }
        self.end()
    }

    /// One disk after the other, in any order, under a process that goes on meanwhile.
    /// `dead` is set before the backing's end.
    pub(crate) fn staggered_outage(
        &mut self,
        random: &mut Random,
        dead: &AtomicBool,
    ) -> Result<()> {
        let first = random.below(3) as usize;
        for n in 0..3 {
            let disk = &self.disks[(first + n) % 3];
            if self.cairn.backing.starts_with(&disk.path) {
                dead.store(true, Ordering::SeqCst);
            }
            disk.cut_power()?;
            std::thread::sleep(Duration::from_millis(random.below(60)));
        }
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.cairn.kill()?;
        self.disks.iter().try_for_each(Disk::power_on)
    }

    fn pid(&self) -> Result<rustix::process::Pid> {
        let pid = self.cairn.pid().context("up")?;
        rustix::process::Pid::from_raw(pid.cast_signed()).context("a pid")
    }

    /// Starts again. The filesystem of a process that was killed may still be going.
    pub(crate) fn up(&mut self) -> Result<()> {
        let mount = self.cairn.mount.clone();
        wait_for("the mount to go", || Ok(!is_mounted(&mount)?))?;
        self.cairn.up()
    }

    /// Files of the backing by the state in their record, as it stands on the disk.
    pub(crate) fn records(&self) -> Result<Records> {
        let mut found = Records::default();
        each(&self.cairn.backing, &mut |path| {
            let mut record = [0_u8; 256];
            match rustix::fs::lgetxattr(path, "trusted.cairn.record", &mut record[..]) {
                Ok(len) if len > 5 && record[5] == 2 => {
                    found.released += 1;
                    let blocks = fs::symlink_metadata(path).map_or(0, |m| m.blocks() * 512);
                    found.unpunched += u64::from(blocks > 32 << 10);
                }
                Ok(len) if len > 5 && record[5] == 3 => found.recalling += 1,
                _ => {}
            }
        })?;
        Ok(found)
    }

    /// Is an archive, a release or a recall half done just now?
    pub(crate) fn in_a_window(&self) -> bool {
        // A look at files that come and go: what cannot be seen is no window.
        let records = self.records().unwrap_or_default();
        records.recalling + records.unpunched + self.half_written().unwrap_or_default() > 0
    }

    /// Objects that a writer on the tier did not finish.
    pub(crate) fn half_written(&self) -> Result<u64> {
        let mut many = 0;
        each(&self.cairn.tier.join("incoming"), &mut |_| many += 1)?;
        Ok(many)
    }
}

fn each(dir: &Path, seen: &mut impl FnMut(&Path)) -> Result<()> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            each(&entry.path(), seen)?;
        } else {
            seen(&entry.path());
        }
    }
    Ok(())
}
