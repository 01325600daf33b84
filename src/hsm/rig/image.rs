//! Filesystems in image files, mounted over a loop device for the length of a test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A mounted image; unmounted and deleted when dropped.
pub(crate) struct Image {
    mountpoint: PathBuf,
    _dir: tempfile::TempDir,
}

impl Image {
    /// `None`, and a word why, where images cannot be made or mounted.
    pub(crate) fn ext4(test: &str) -> Option<Self> {
        Self::make(test, &["mkfs.ext4", "-q", "-F"], 128 << 20)
    }

    /// See [`Self::ext4`].
    pub(crate) fn xfs(test: &str) -> Option<Self> {
        Self::make(test, &["mkfs.xfs", "-q", "-f"], 320 << 20)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.mountpoint
    }

    fn make(test: &str, mkfs: &[&str], len: u64) -> Option<Self> {
        let skip = |why: &str| {
            eprintln!("SKIPPED {test}: {why}");
            None
        };
        if !rustix::process::geteuid().is_root() {
            return skip("only root can mount an image");
        }
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(len).unwrap();
        let run = |program: &str, args: &[&std::ffi::OsStr]| {
            let mut command = Command::new(program);
            command
                .args(args)
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command.status().is_ok_and(|s| s.success())
        };
        let mut args: Vec<_> = mkfs[1..].iter().map(std::ffi::OsStr::new).collect();
        args.push(image.as_os_str());
        if !run(mkfs[0], &args) {
            return skip(&format!("{} does not work here", mkfs[0]));
        }
        let mountpoint = dir.path().join("mnt");
        std::fs::create_dir(&mountpoint).unwrap();
        let args = [
            "-o".as_ref(),
            "loop".as_ref(),
            image.as_os_str(),
            mountpoint.as_os_str(),
        ];
        if !run("mount", &args) {
            return skip("the image cannot be mounted over a loop device");
        }
        Some(Self {
            mountpoint,
            _dir: dir,
        })
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let umount = |flag: &str| {
            let mut command = Command::new("umount");
            command
                .args([flag.as_ref(), self.mountpoint.as_os_str()])
                .stderr(Stdio::null());
            command.status().is_ok_and(|s| s.success())
        };
        // A descriptor of a failed test may still be open: then the mount goes with it.
        if !umount("--") && !umount("-l") {
            eprintln!("{} stays mounted", self.mountpoint.display());
        }
    }
}
