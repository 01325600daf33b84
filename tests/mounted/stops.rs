//! How an instance ends, and what a dead one leaves.

use crate::needs_mounts;
use crate::rig::{Instance, is_mounted, tree, wait_for};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A process that keeps a file open for writing.
struct Holder(Child);

impl Holder {
    fn new(path: &Path) -> Result<Self> {
        let script = "import sys,time\nf=open(sys.argv[1],'a')\nprint('open',flush=True)\n\
                      time.sleep(3600)";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .arg(path)
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().context("stdout")?;
        let holder = Self(child);
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        ensure!(line == "open\n", "the holder said {line:?}");
        Ok(holder)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn signal(cairn: &Instance, name: &str) -> Result<()> {
    let pid = cairn.pid().context("up")?.to_string();
    let done = Command::new("kill").args([name, &pid]).status()?;
    ensure!(done.success(), "kill {name}");
    Ok(())
}

#[test]
fn a_mount_in_use_is_named_and_force_ends_it_as_no_clean_stop() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    fs::write(cairn.at("f"), "x")?;
    let holder = Holder::new(&cairn.at("f"))?;
    let mount = cairn.mount.to_string_lossy().into_owned();
    let refused = cairn.run(["down", &mount])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success(), "down under an open file");
    ensure!(said.contains(&format!("pid {}", holder.0.id())), "{said}");
    cairn.cairn(["down", "--force", &mount])?;
    cairn.ends()?;
    ensure!(!is_mounted(&cairn.mount)?);
    ensure!(
        cairn.log().contains("not a clean stop"),
        "the file's user may still write:\n{}",
        cairn.log()
    );
    drop(holder);
    cairn.up()?;
    cairn.down()
}

/// `--force` on a mount that nobody uses forces nothing.
#[test]
fn force_that_was_not_needed_is_a_clean_stop() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    fs::write(cairn.at("f"), "x")?;
    let mount = cairn.mount.to_string_lossy().into_owned();
    // The kernel may still be closing the file when the write has returned.
    wait_for("the mount to be idle", || {
        Ok(cairn.run(["status"])?.status.success())
    })?;
    cairn.cairn(["down", "--force", &mount])?;
    cairn.ends()?;
    ensure!(!cairn.log().contains("not a clean stop"), "{}", cairn.log());
    Ok(())
}

/// What follows SIGTERM is SIGKILL: an end in good order comes before it, also under load.
#[test]
fn sigterm_ends_it_also_under_load() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let mut load = Command::new("sh")
        .args([
            "-c",
            "cd \"$1\" && n=0; while n=$((n+1)); do echo x > f$n || exit; cat f$n; done",
        ])
        .arg("sh")
        .arg(&cairn.mount)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let begun = wait_for("the load", || Ok(cairn.at("f20").exists()));
    let ended = begun
        .and_then(|()| signal(&cairn, "-TERM"))
        .and_then(|()| cairn.ends());
    let _ = load.kill();
    let _ = load.wait();
    ended?;
    ensure!(!is_mounted(&cairn.mount)?);
    cairn.up()?;
    cairn.down()
}

#[test]
fn a_tier_that_hangs_holds_up_no_stop() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.tier_options("delay=1h");
    cairn.up()?;
    fs::write(cairn.at("f"), tree::bytes(1, 100_000))?;
    let path = cairn.at("f");
    cairn.cairn(["archive".as_ref(), path.as_os_str()])?;
    wait_for("the archive to be inside the tier", || {
        Ok(cairn
            .cairn(["why".as_ref(), path.as_os_str()])?
            .contains("being worked on"))
    })?;
    cairn.down()?;
    ensure!(!is_mounted(&cairn.mount)?);
    // What was accepted is still to be done.
    cairn.args.clear();
    cairn.up()?;
    wait_for("the archive", || Ok(cairn.shown_state("f")? == "archived"))?;
    cairn.down()
}

#[test]
fn p11_a_dead_mounter_stands_in_the_way_of_no_stop() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    fs::write(cairn.at("f"), "x")?;
    cairn.kill_mounter()?;
    ensure!(fs::read(cairn.at("f"))? == b"x", "it serves on");
    let mount = cairn.mount.to_string_lossy().into_owned();
    let holder = Holder::new(&cairn.at("f"))?;
    let refused = cairn.run(["down", &mount])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success(), "down under an open file");
    ensure!(said.contains(&format!("pid {}", holder.0.id())), "{said}");
    drop(holder);
    cairn.down()?;
    ensure!(!is_mounted(&cairn.mount)?);
    for how in ["-TERM", "--force"] {
        cairn.up()?;
        let holder = Holder::new(&cairn.at("f"))?;
        cairn.kill_mounter()?;
        if how == "-TERM" {
            // The file stays open: it goes by force in the end.
            signal(&cairn, how)?;
        } else {
            cairn.cairn(["down", how, &mount])?;
        }
        cairn.ends()?;
        ensure!(!is_mounted(&cairn.mount)?);
        drop(holder);
    }
    Ok(())
}

#[test]
fn a_dead_mount_is_taken_away_at_the_next_start() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let data = tree::bytes(1, 200_000);
    cairn.released("f", &data)?;
    cairn.kill_with_mounter()?;
    let dead = fs::metadata(&cairn.mount)
        .err()
        .and_then(|e| e.raw_os_error());
    ensure!(
        dead == Some(libc::ENOTCONN),
        "the mount is not dead: {dead:?}"
    );
    cairn.up()?;
    ensure!(
        cairn.log().contains("a dead mount lies on"),
        "nothing was said of it:\n{}",
        cairn.log()
    );
    ensure!(fs::read(cairn.at("f"))? == data);
    cairn.down()?;
    ensure!(!is_mounted(&cairn.mount)?);
    Ok(())
}
