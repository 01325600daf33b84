//! Readers that wait: streamed, interrupted, never in each other's way.

use crate::needs_mounts;
use crate::rig::{Instance, drop_caches, tree, wait_for};
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

fn slow(delay: &str) -> Result<Instance> {
    let mut cairn = Instance::new(None)?;
    cairn.args = vec![
        "--tier".into(),
        format!("disk=dir:{}?{delay}", cairn.tier.display()),
    ];
    cairn.up()?;
    Ok(cairn)
}

#[test]
fn a_waiting_reader_is_interrupted_by_a_signal() -> Result<()> {
    needs_mounts!();
    let cairn = slow("rate=4MiB/s")?;
    fs::write(cairn.at("f"), tree::bytes(1, 32 << 20))?;
    cairn.archive("f")?;
    cairn.release("f")?;
    drop_caches()?;
    for signal in ["-INT", "-KILL"] {
        let mut cat = Command::new("tail")
            .args(["-c", "1"])
            .arg(cairn.at("f"))
            .stdout(Stdio::null())
            .spawn()?;
        wait_for("the reader to wait", || {
            Ok(fs::read_to_string(format!("/proc/{}/stat", cat.id()))?.contains(") D "))
        })?;
        ensure!(
            Command::new("kill")
                .arg(signal)
                .arg(cat.id().to_string())
                .status()?
                .success()
        );
        wait_for("the reader to end", || Ok(cat.try_wait()?.is_some()))?;
    }
    Ok(())
}

#[test]
fn the_head_of_a_large_file_does_not_wait_for_the_rest() -> Result<()> {
    needs_mounts!();
    let cairn = slow("rate=16MiB/s")?;
    let data = tree::bytes(2, 64 << 20);
    fs::write(cairn.at("f"), &data)?;
    cairn.archive("f")?;
    cairn.release("f")?;
    drop_caches()?;
    let file = File::open(cairn.at("f"))?;
    let mut part = vec![0; 4096];
    for offset in [0_usize, 48 << 20] {
        file.read_exact_at(&mut part, offset as u64)?;
        ensure!(part == data[offset..offset + 4096]);
        let state = cairn.cairn(["state", cairn.at("f").to_str().context("UTF-8")?])?;
        ensure!(
            state.contains("released"),
            "the read at {offset} waited until all was back: {state}"
        );
    }
    drop(file);
    ensure!(fs::read(cairn.at("f"))? == data);
    Ok(())
}
