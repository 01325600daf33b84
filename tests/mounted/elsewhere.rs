//! Other mount namespaces: copies of the mount in them hold up no stop, and the server's own holds
//! up nobody.

use crate::needs_mounts;
use crate::rig::disk::Disk;
use crate::rig::{Instance, is_mounted, sys, tree, wait_for};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A process in a mount namespace of its own, made from this thread's now.
struct Elsewhere(Child);

impl Elsewhere {
    fn new() -> Result<Self> {
        let mut child = Command::new("unshare")
            .args(["-m", "--propagation", "private", "sh", "-c"])
            .arg("echo there; exec sleep 3600")
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().context("stdout")?;
        let elsewhere = Self(child);
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        ensure!(line == "there\n", "unshare said {line:?}");
        Ok(elsewhere)
    }

    fn sees(&self, what: &str) -> Result<bool> {
        Ok(fs::read_to_string(format!("/proc/{}/mounts", self.0.id()))?.contains(what))
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn p11_a_copy_of_the_mount_elsewhere_holds_up_no_stop() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let data = tree::bytes(1, 200_000);
    cairn.released("f", &data)?;
    let elsewhere = Elsewhere::new()?;
    let mount = cairn.mount.to_string_lossy().into_owned();
    ensure!(elsewhere.sees(&mount)?, "no copy was made");
    cairn.down()?;
    ensure!(!is_mounted(&cairn.mount)?);
    ensure!(
        cairn.log().contains("another mount namespace"),
        "nothing was said of it:\n{}",
        cairn.log()
    );
    // With the copy still there the next instance runs, and keeps every promise.
    cairn.up()?;
    ensure!(fs::read(cairn.at("f"))? == data);
    drop(elsewhere);
    cairn.down()
}

/// An image that was mounted when Cairn started goes with its unmount, whether the machine's
/// mounts are shared among namespaces (as systemd has them) or not.
fn unmounts_while_cairn_runs(shared: bool) -> Result<()> {
    sys::own_mounts()?;
    if shared {
        let done = Command::new("mount")
            .args(["--make-rshared", "/"])
            .status()?;
        ensure!(done.success(), "mount --make-rshared");
    }
    let stick = Disk::new("ext4", 16)?;
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    stick.unmount()?;
    wait_for("the unmounted filesystem to let its device go", || {
        Ok(!stick.is_held()?)
    })?;
    let seen = fs::read_to_string(format!("/proc/{}/mounts", cairn.pid().context("up")?))?;
    ensure!(
        !seen.contains(&*cairn.mount.to_string_lossy()),
        "the server sees its own mount:\n{seen}"
    );
    cairn.down()?;
    ensure!(!cairn.log().contains("another mount namespace"));
    Ok(())
}

#[test]
fn p11_unmounted_filesystems_are_not_kept_alive() -> Result<()> {
    needs_mounts!();
    unmounts_while_cairn_runs(false)
}

#[test]
fn p11_unmounted_filesystems_are_not_kept_alive_where_mounts_are_shared() -> Result<()> {
    needs_mounts!();
    unmounts_while_cairn_runs(true)
}

/// A tier that is mounted only later is used then, where mounts are shared.
#[test]
fn a_tier_mounted_while_cairn_runs_is_used() -> Result<()> {
    needs_mounts!();
    sys::own_mounts()?;
    let done = Command::new("mount")
        .args(["--make-rshared", "/"])
        .status()?;
    ensure!(done.success(), "mount --make-rshared");
    let disk = Disk::new("ext4", 64)?;
    let mut cairn = Instance::new(None)?;
    let url = format!("disk=dir:{}/tier", disk.path.display());
    cairn.args.extend(["--tier".to_owned(), url]);
    cairn.up()?;
    let data = tree::bytes(1, 200_000);
    cairn.released("f", &data)?;
    cairn.down()?;
    disk.unmount()?;
    cairn.up()?;
    let error = fs::read(cairn.at("f")).err().and_then(|e| e.raw_os_error());
    ensure!(error == Some(libc::EHOSTDOWN), "reading gave {error:?}");
    disk.mount()?;
    wait_for("the tier to be used", || {
        Ok(fs::read(cairn.at("f")).is_ok_and(|got| got == data))
    })?;
    cairn.down()
}
