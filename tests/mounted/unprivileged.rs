//! An instance that a plain user runs, with fusermount3.

use crate::needs_mounts;
use crate::rig::{self, drop_caches, is_mounted, sys, tree, wait_for};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// Nobody's.
const USER: u32 = 65_534;

struct Own {
    dir: tempfile::TempDir,
    child: Option<Child>,
}

impl Own {
    fn new() -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("cairn-own-")
            .tempdir_in("/var/tmp")?;
        let own = Self { dir, child: None };
        for name in ["guarded", "guarded/backing", "mount", "tier"] {
            fs::DirBuilder::new().mode(0o700).create(own.path(name))?;
            chown(own.path(name), Some(USER), Some(USER))?;
        }
        chown(own.dir.path(), Some(USER), Some(USER))?;
        // By another process: a descriptor open for writing here could be inherited by a child
        // of another test just now, and then the copy cannot be executed.
        let copied = Command::new("cp")
            .arg(rig::program())
            .arg(own.path("cairn"))
            .status()?;
        ensure!(copied.success(), "copying the program");
        fs::set_permissions(own.path("cairn"), fs::Permissions::from_mode(0o755))?;
        Ok(own)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command of the user's.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .uid(USER)
            .gid(USER)
            .env("HOME", self.dir.path())
            .env_remove("CAIRN_SOCKET")
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    fn cairn(&self, args: &[&str]) -> Result<Output> {
        let output = self.command(self.path("cairn")).args(args).output()?;
        ensure!(
            output.status.success(),
            "cairn {args:?}: {}\n{}{}\n--- up.log\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            fs::read_to_string(self.path("up.log")).unwrap_or_default(),
        );
        Ok(output)
    }

    fn up(&mut self) -> Result<()> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("up.log"))?;
        let tier = format!("disk=dir:{}", self.path("tier").display());
        let mut child = self
            .command(self.path("cairn"))
            .args(["up", "--allow-same-fs", "--state", "state", "--tier", &tier])
            .args(["guarded/backing", "mount"])
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let out = child.stdout.take().context("stdout")?;
        self.child = Some(child);
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        ensure!(
            line.starts_with("ready"),
            "it did not start:\n{}",
            fs::read_to_string(self.path("up.log"))?
        );
        Ok(())
    }

    fn ends(&mut self) -> Result<()> {
        let mut child = self.child.take().context("up")?;
        let ended = wait_for("the instance to end", || Ok(child.try_wait()?.is_some()));
        if ended.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        ended
    }

    /// The file's bytes, as only its owner can read them here.
    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let output = self.command("cat").arg(self.path(name)).output()?;
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "cat {name}: {why}");
        Ok(output.stdout)
    }

    fn write(&self, name: &str, data: &[u8]) -> Result<()> {
        let source = self.path("source");
        fs::write(&source, data)?;
        let output = self
            .command("cp")
            .arg(&source)
            .arg(self.path(name))
            .output()?;
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "cp to {name}: {why}");
        Ok(())
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        while is_mounted(&self.path("mount")).unwrap_or(false) {
            let mount = self.path("mount");
            let gone = Command::new("umount").arg("-l").arg(mount).status();
            if !gone.is_ok_and(|status| status.success()) {
                break;
            }
        }
    }
}

fn has_fusermount() -> bool {
    let found = [
        "/usr/bin/fusermount3",
        "/bin/fusermount3",
        "/usr/local/bin/fusermount3",
    ];
    found.iter().any(|path| Path::new(path).exists())
}

#[test]
fn a_plain_user_archives_releases_and_reads_back() -> Result<()> {
    needs_mounts!();
    if !has_fusermount() {
        eprintln!("SKIPPED a_plain_user_archives_releases_and_reads_back: no fusermount3");
        return Ok(());
    }
    sys::own_mounts()?;
    sys::open_dev_fuse()?;
    let mut own = Own::new()?;
    own.up()?;
    let data = tree::bytes(1, 300_000);
    own.write("mount/f", &data)?;
    own.cairn(&["archive", "--wait", "mount/f"])?;
    own.cairn(&["release", "--wait", "mount/f"])?;
    let left = rig::on_disk(&own.path("guarded/backing/f"))?;
    ensure!(left <= 8192, "{left} bytes are left on disk");
    drop_caches()?;
    ensure!(own.read("mount/f")? == data, "other bytes came back");
    own.cairn(&["release", "--wait", "mount/f"])?;
    own.cairn(&["stage", "--wait", "mount/f"])?;
    ensure!(own.read("guarded/backing/f")? == data);
    own.cairn(&["release", "--wait", "mount/f"])?;
    own.cairn(&["down", "mount"])?;
    own.ends()?;
    ensure!(!is_mounted(&own.path("mount"))?);
    // A later instance reads what an earlier one released.
    own.up()?;
    ensure!(own.read("mount/f")? == data);
    own.cairn(&["down", "mount"])?;
    own.ends()
}

#[test]
fn a_plain_user_starts_again_over_a_dead_mount() -> Result<()> {
    needs_mounts!();
    if !has_fusermount() {
        eprintln!("SKIPPED a_plain_user_starts_again_over_a_dead_mount: no fusermount3");
        return Ok(());
    }
    sys::own_mounts()?;
    sys::open_dev_fuse()?;
    let mut own = Own::new()?;
    own.up()?;
    own.write("mount/f", b"data")?;
    let mut child = own.child.take().context("up")?;
    child.kill()?;
    child.wait()?;
    ensure!(
        is_mounted(&own.path("mount"))?,
        "nothing is left that could be dead"
    );
    own.up()?;
    ensure!(own.read("mount/f")? == b"data");
    own.cairn(&["down", "mount"])?;
    own.ends()
}
