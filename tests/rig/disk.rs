//! A filesystem of its own for a test: an image on a loop device, which can lose power.

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An image file with a mounted filesystem. Unmounted and removed when dropped.
pub(crate) struct Disk {
    _dir: tempfile::TempDir,
    image: PathBuf,
    kind: &'static str,
    /// The loop device below the present mount; it goes by itself with the mount.
    device: Mutex<String>,
    /// Where it is mounted.
    pub(crate) path: PathBuf,
}

fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A copy that takes no more room than its data.
fn copied(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("--sparse=always").arg(from).arg(to)).map(drop)
}

impl Disk {
    /// A fresh filesystem (`ext4` or `xfs`) of `mib` MiB.
    pub(crate) fn new(kind: &'static str, mib: u64) -> Result<Self> {
        Self::of(scratch(), kind, |image| {
            fs::File::create(image)?.set_len(mib << 20)?;
            run(Command::new(format!("mkfs.{kind}")).arg("-q").arg(image)).map(drop)
        })
    }

    /// A copy of an image ([`Self::save`]), kept in `base`.
    pub(crate) fn copy(base: &Path, kind: &'static str, image: &Path) -> Result<Self> {
        Self::of(base, kind, |to| copied(image, to))
    }

    fn of(base: &Path, kind: &'static str, make: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("cairn-disk-")
            .tempdir_in(base)?;
        let (image, path) = (dir.path().join("image"), dir.path().join("fs"));
        fs::create_dir(&path)?;
        make(&image)?;
        let disk = Self {
            _dir: dir,
            image,
            kind,
            device: Mutex::default(),
            path,
        };
        disk.mount()?;
        Ok(disk)
    }

    /// Mounts the image on a loop device of its own: other processes' mount namespaces may still
    /// hold the dead filesystem with its device, and `mount -o loop` would join them.
    pub(crate) fn mount(&self) -> Result<()> {
        let device = run(Command::new("losetup")
            .args(["-f", "--show"])
            .arg(&self.image))?;
        let mut mount = Command::new("mount");
        if self.kind == "xfs" {
            mount.args(["-o", "nouuid"]);
        }
        let mounted = run(mount.arg(&device).arg(&self.path));
        // From now on the device goes with its last user.
        run(Command::new("losetup").args(["-d", &device]))?;
        *self.device.lock() = device;
        mounted.map(drop)
    }

    /// Unmounts it, as an administrator would.
    pub(crate) fn unmount(&self) -> Result<()> {
        run(Command::new("umount").arg(&self.path)).map(drop)
    }

    /// Copies the image of an unmounted filesystem to `to`.
    pub(crate) fn save(&self, to: &Path) -> Result<()> {
        copied(&self.image, to)
    }

    /// Does any loop device still hold the image?
    pub(crate) fn is_held(&self) -> Result<bool> {
        let held = run(Command::new("losetup").arg("-j").arg(&self.image))?;
        Ok(!held.is_empty())
    }

    /// Power loss: the filesystem stops at once, nothing more reaches the image, not even its log.
    pub(crate) fn cut_power(&self) -> Result<()> {
        super::sys::shut_down(&fs::File::open(&self.path)?)
            .with_context(|| format!("shut down {}", self.path.display()))
    }

    /// Power comes back: unmounts what is dead and mounts the image again.
    pub(crate) fn power_on(&self) -> Result<()> {
        super::wait_for("the dead filesystem to unmount", || {
            Ok(run(Command::new("umount").arg(&self.path)).is_ok())
        })?;
        // What the dead filesystem had already handed to its device must not arrive later than
        // what the living one writes. Usually the device is gone with the mount.
        let old = self.device.lock().clone();
        let still = run(Command::new("losetup").arg("-j").arg(&self.image))?;
        if still.lines().any(|l| l.starts_with(&format!("{old}:"))) {
            let _ = run(Command::new("blockdev").args(["--flushbufs", &old]));
        }
        self.mount()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Its image may have been saved, and unmounted for it.
        if !Command::new("umount")
            .arg(&self.path)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
        {
            let _ = Command::new("umount")
                .arg("-l")
                .arg(&self.path)
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// Where a test that needs no disk of its own may keep things.
pub(crate) fn scratch() -> &'static Path {
    Path::new("/var/tmp")
}
