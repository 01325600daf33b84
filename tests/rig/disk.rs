//! A filesystem of its own for a test: an image on a loop device, which can lose power.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An image file with a mounted filesystem. Unmounted and removed when dropped.
pub(crate) struct Disk {
    _dir: tempfile::TempDir,
    image: PathBuf,
    /// Where it is mounted.
    pub(crate) path: PathBuf,
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

impl Disk {
    /// A fresh filesystem (`ext4` or `xfs`) of `mib` MiB.
    pub(crate) fn new(kind: &str, mib: u64) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("cairn-disk-")
            .tempdir_in("/var/tmp")?;
        let (image, path) = (dir.path().join("image"), dir.path().join("fs"));
        fs::File::create(&image)?.set_len(mib << 20)?;
        fs::create_dir(&path)?;
        run(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image))?;
        let disk = Self {
            _dir: dir,
            image,
            path,
        };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<()> {
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&self.image)
            .arg(&self.path))
    }

    /// Power loss: the filesystem stops at once, nothing more reaches the image, not even its log.
    pub(crate) fn cut_power(&self) -> Result<()> {
        run(Command::new("xfs_io")
            .args(["-x", "-c", "shutdown"])
            .arg(&self.path))
    }

    /// Power comes back: unmounts what is dead and mounts the image again.
    pub(crate) fn power_on(&self) -> Result<()> {
        super::wait_for("the dead filesystem to unmount", || {
            Ok(run(Command::new("umount").arg(&self.path)).is_ok())
        })?;
        self.mount()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !Command::new("umount")
            .arg(&self.path)
            .status()
            .is_ok_and(|s| s.success())
        {
            let _ = Command::new("umount").arg("-l").arg(&self.path).status();
        }
    }
}

/// Where a test that needs no disk of its own may keep things.
pub(crate) fn scratch() -> &'static Path {
    Path::new("/var/tmp")
}
