//! Standard input put as a file there, a file there got as standard output.

use super::remote::{arg, on_their_way, opened, processes};
use crate::needs_mounts;
use crate::rig::far::{Caller, both};
use crate::rig::{tree, wait_for};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Output, Stdio};

/// Segments are as long.
const SEGMENT: usize = 32 << 20;

fn started(caller: &Caller, args: &[&str]) -> Result<Child> {
    Ok(caller.command(args).stdin(Stdio::piped()).spawn()?)
}

/// What comes of these bytes on standard input.
fn given(caller: &Caller, args: &[&str], bytes: &[u8]) -> Result<Output> {
    let mut child = started(caller, args)?;
    child.stdin.take().context("its input")?.write_all(bytes)?;
    Ok(child.wait_with_output()?)
}

#[test]
fn what_a_pipe_gives_is_a_file_there_and_goes_into_a_pipe_again() -> Result<()> {
    needs_mounts!();
    let (mut cairn, _far, caller) = opened()?;
    for len in [0, 1, 700_000, SEGMENT, 2 * SEGMENT, 3 * SEGMENT - 5] {
        let data = tree::bytes(len as u64, len);
        let said = given(&caller, &["put", "-", ":p"], &data)?;
        ensure!(said.status.success(), "{len}: {}", both(&said));
        ensure!(said.stdout.is_empty(), "{len}: {}", both(&said));
        ensure!(fs::read(cairn.at("p"))? == data, "{len}: other bytes there");
        ensure!(on_their_way(&cairn.mount)?.is_empty(), "{len}");
        let got = caller.run(["get", ":p", "-"])?;
        let why = String::from_utf8_lossy(&got.stderr).into_owned();
        ensure!(got.status.success(), "{len}: {why}");
        ensure!(got.stdout == data, "{len}: other bytes came back");
    }
    let kept = given(&caller, &["put", "--if-missing", "-", ":p"], b"other")?;
    ensure!(
        kept.status.code() == Some(1) && both(&kept).contains("there is a file already"),
        "{}",
        both(&kept)
    );
    for wrong in [
        &["put", "-", "x", ":p"][..],
        &["put", "--tar", "-", ":p"],
        &["get", "--json", ":p", "-"],
        &["get", ":p", ":q", "-"],
    ] {
        caller.fails(2, wrong)?;
    }
    caller.fails(2, ["put", "-", ":"])?;
    caller.fails(1, ["get", ":nothing", "-"])?;
    cairn.down()
}

#[test]
fn a_pipe_that_breaks_leaves_no_named_file_and_a_dead_agent_does_not_end_it() -> Result<()> {
    needs_mounts!();
    let (mut cairn, far, caller) = opened()?;
    let data = tree::bytes(3, 3 * SEGMENT);
    // The caller is killed when it has sent something, and not all.
    let mut child = started(&caller, &["put", "-", ":p"])?;
    let mut input = child.stdin.take().context("its input")?;
    input.write_all(&data[..2 * SEGMENT])?;
    wait_for("something to arrive", || {
        Ok(on_their_way(&cairn.mount)?.len() == 2)
    })?;
    child.kill()?;
    child.wait()?;
    drop(input);
    ensure!(!cairn.at("p").exists(), "half a pipe has its name");
    // The agent is killed between two segments: what is there is gone on with.
    let mut child = started(&caller, &["put", "-", ":q"])?;
    let mut input = child.stdin.take().context("its input")?;
    input.write_all(&data[..2 * SEGMENT])?;
    wait_for("a segment to arrive", || {
        let names = on_their_way(&cairn.mount)?;
        Ok(names.iter().any(|n| n.ends_with("-q.progress")))
    })?;
    let agent = ["agent", "--uid", arg(cairn.dir.path())?];
    for pid in processes(&agent)? {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("a process")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    }
    input.write_all(&data[2 * SEGMENT..])?;
    drop(input);
    let said = child.wait_with_output()?;
    ensure!(said.status.success(), "{}\n{}", both(&said), far.log());
    ensure!(fs::read(cairn.at("q"))? == data, "other bytes there");
    cairn.down()
}

#[test]
fn who_reads_a_pipe_may_leave_and_is_told_of_a_file_that_changes() -> Result<()> {
    needs_mounts!();
    let (mut cairn, _far, caller) = opened()?;
    fs::write(cairn.at("p"), tree::bytes(4, 4 * SEGMENT))?;
    let slow = ["get", "--limit-rate", "30M", ":p", "-"];
    let mut child = caller.command(slow).spawn()?;
    let mut out = child.stdout.take().context("its output")?;
    out.read_exact(&mut [0; 1000])?;
    drop(out);
    ensure!(child.wait()?.code() == Some(1), "it did not end");
    let mut child = caller.command(slow).spawn()?;
    let mut out = child.stdout.take().context("its output")?;
    out.read_exact(&mut [0; 1000])?;
    fs::write(cairn.at("p"), tree::bytes(5, 4 * SEGMENT))?;
    let mut rest = Vec::new();
    out.read_to_end(&mut rest)?;
    let said = child.wait_with_output()?;
    ensure!(
        said.status.code() == Some(1) && both(&said).contains("changed"),
        "{} {}",
        said.status,
        both(&said)
    );
    cairn.down()
}
