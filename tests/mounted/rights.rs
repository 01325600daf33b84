//! An instance has of root's rights those that it needs (docs/operations.md names them).

use crate::needs_mounts;
use crate::rig::Instance;
use anyhow::{Context, Result, ensure};
use cairn::cli::up::rights::NEEDED;
use std::fs;

/// A set of capabilities of a process, or of one of its threads.
fn set(status: &str, key: &str) -> Result<u64> {
    let status = fs::read_to_string(status)?;
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    Ok(u64::from_str_radix(
        line.context("no such line")?.trim(),
        16,
    )?)
}

#[test]
fn only_the_rights_that_are_needed_are_kept() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let pid = cairn.pid().context("not up")?;
    let own = set("/proc/self/status", "CapBnd:")?;
    let wanted = NEEDED.bits() & own;
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
    let mut threads: Vec<_> = tasks
        .map(|task| Ok(task?.path().join("status").display().to_string()))
        .collect::<Result<_>>()?;
    ensure!(threads.len() > 4, "{threads:?}");
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let mounter = children.split_whitespace().next().context("no mounter")?;
    threads.push(format!("/proc/{mounter}/status"));
    for status in threads {
        for key in ["CapBnd:", "CapPrm:"] {
            let found = set(&status, key)?;
            ensure!(found == wanted, "{status} {key} {found:x} for {wanted:x}");
        }
        let found = set(&status, "CapEff:")?;
        ensure!(found & !wanted == 0, "{status} {found:x} beyond {wanted:x}");
    }
    ensure!(wanted != own, "this test is run with no more than that");
    cairn.down()
}
