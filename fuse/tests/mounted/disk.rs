//! Filesystems of their own below a mirror: small, full, limited, broken.

use crate::rig::Rig;
use cairn_fuse::{BackingDir, Passthrough};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A filesystem that is mounted for the length of a test.
pub(crate) struct Disk {
    dir: tempfile::TempDir,
}

/// Runs a program; `false` if it fails or is not there.
pub(crate) fn ran(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    let command = command
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

impl Disk {
    /// In an image of `mib` MiB made by `mkfs` (program and arguments), mounted with `options`.
    /// `None`, said by the test's name, where that cannot be had.
    pub(crate) fn new(test: &str, mkfs: &[&str], mib: u64, options: &str) -> Option<Self> {
        let disk = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        File::create(disk.image())
            .unwrap()
            .set_len(mib << 20)
            .unwrap();
        let image = disk.image();
        let image = image.to_str().unwrap();
        let made = ran(mkfs[0], &[&mkfs[1..], &[image]].concat());
        let options = format!("loop,{options}");
        let mounted = made && disk.mount(&["-o", &options, image]);
        if !mounted {
            eprintln!("SKIPPED {test}: no {} in an image here", mkfs[0]);
        }
        mounted.then_some(disk)
    }

    /// In memory, with exactly so much room.
    pub(crate) fn in_memory(test: &str, options: &str) -> Option<Self> {
        let disk = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let mounted = disk.mount(&["-t", "tmpfs", "-o", options, "none"]);
        if !mounted {
            eprintln!("SKIPPED {test}: no tmpfs can be mounted here");
        }
        mounted.then_some(disk)
    }

    fn mount(&self, args: &[&str]) -> bool {
        fs::create_dir(self.root()).unwrap();
        let root = self.root();
        let mounted = ran("mount", &[args, &[root.to_str().unwrap()]].concat());
        if mounted && !root.join("backing").exists() {
            fs::create_dir(root.join("backing")).unwrap();
        }
        mounted
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// The filesystem's root.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    /// What a mirror may have of it.
    pub(crate) fn backing(&self) -> PathBuf {
        self.root().join("backing")
    }

    pub(crate) fn rig(&self, passthrough: Passthrough) -> anyhow::Result<Rig> {
        Rig::with(|c| {
            c.backing = BackingDir::Path(self.backing());
            c.passthrough = passthrough;
        })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let root = self.root();
        let root = root.to_str().unwrap();
        // (It cannot even be asked for whether a dead one is there.)
        if !ran("umount", &["--", root]) {
            // A descriptor of a failed test may still be open: then it goes with that.
            ran("umount", &["-l", "--", root]);
        }
    }
}
