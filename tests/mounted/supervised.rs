//! Under a service supervisor: what it is told, and the unit that is shipped.

use crate::needs_mounts;
use crate::rig::{CAIRN, Instance, is_mounted, wait_for};
use anyhow::{Context, Result, ensure};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// Only a hang reaches it.
const BOUND: Duration = Duration::from_secs(120);

/// The next datagram, as lines.
fn told(supervisor: &UnixDatagram) -> Result<Vec<String>> {
    let mut bytes = [0; 4096];
    let len = supervisor.recv(&mut bytes).context("nothing was told")?;
    let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
    Ok(text.lines().map(str::to_owned).collect())
}

#[test]
fn a_supervisor_is_told_who_serves_through_start_upgrade_and_stop() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.hold = Some("300s".into());
    let socket = cairn.dir.path().join("notify");
    let supervisor = UnixDatagram::bind(&socket)?;
    supervisor.set_read_timeout(Some(BOUND))?;
    cairn.environment.push(("NOTIFY_SOCKET", socket.into()));
    cairn.up()?;
    let first = format!("MAINPID={}", cairn.pid().context("not up")?);
    let lines = told(&supervisor)?;
    ensure!(
        lines.contains(&"READY=1".to_owned()) && lines.contains(&first),
        "{lines:?}"
    );

    // The successor is the main process before the old one ends.
    let mount = cairn.mount.to_string_lossy().into_owned();
    let config = cairn.dir.path().join("cairn.toml");
    std::fs::write(&config, format!("mount = {mount:?}\n"))?;
    cairn.cairn([
        "upgrade",
        "--exec",
        CAIRN,
        "--config",
        &config.to_string_lossy(),
    ])?;
    cairn.replaced()?;
    let second = told(&supervisor)?;
    ensure!(
        second.len() == 1 && second[0].starts_with("MAINPID="),
        "{second:?}"
    );
    ensure!(second[0] != first);
    let ready = told(&supervisor)?;
    ensure!(
        ready.contains(&"READY=1".to_owned()) && ready.contains(&second[0]),
        "{ready:?}"
    );

    cairn.cairn(["down", &mount])?;
    wait_for("the mount to go", || Ok(!is_mounted(&cairn.mount)?))?;
    let last = told(&supervisor)?;
    ensure!(last == ["STOPPING=1"], "{last:?}");
    Ok(())
}
