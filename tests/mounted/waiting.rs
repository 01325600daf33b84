//! Readers that wait: streamed, interrupted, never in each other's way.

use crate::needs_mounts;
use crate::rig::{Instance, tree, wait_for};
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
    let cairn = slow("rate=2MiB/s")?;
    // A file each: what one of them asked for may come when it has gone.
    let readers = ["-INT", "-KILL"];
    for name in readers {
        cairn.released(name, &tree::bytes(1, 12 << 20))?;
    }
    cairn.cold()?;
    for signal in readers {
        // Who runs the tests in the background has them ignore SIGINT, and so their children.
        let mut cat = Command::new("env")
            .args(["--default-signal=INT", "cat"])
            .arg(cairn.at(signal))
            .stdout(Stdio::null())
            .spawn()?;
        wait_for("the reader to wait", || {
            ensure!(cat.try_wait()?.is_none(), "it has all it wanted");
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
    cairn.cold()?;
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

/// Beyond the cap on a user's implicit recalls readers wait for their turn; they do not fail, and
/// can be interrupted as well. Programs that catch the signal see EINTR.
#[test]
fn p11_readers_beyond_the_cap_wait_their_turn() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let data = tree::bytes(3, 100_000);
    for n in 0..8 {
        cairn.released(&format!("f{n}"), &data)?;
    }
    cairn.down()?;
    let config = cairn.dir.path().join("config.toml");
    fs::write(&config, "implicit-recalls-per-user = 2\n")?;
    cairn
        .args
        .extend(["--config".into(), config.to_string_lossy().into_owned()]);
    // Long enough that the last one still waits for its turn when all are there.
    cairn.tier_options("delay=6s");
    cairn.up()?;
    let script = "import os,signal,sys\n\
        def caught(*a): raise SystemExit(77)\n\
        signal.signal(signal.SIGINT, caught)\n\
        f=os.open(sys.argv[1], os.O_RDONLY)\nprint('open', flush=True)\n\
        sys.exit(0 if len(os.read(f, 100))==100 else 1)\n";
    let mut readers = Vec::new();
    for n in 0..8 {
        let mut reader = Command::new("python3")
            .args(["-c", script])
            .arg(cairn.at(&format!("f{n}")))
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let out = reader.stdout.take().context("stdout")?;
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line)?;
        readers.push(reader);
    }
    let mut last = readers.pop().context("eight readers")?;
    wait_for("the last reader to wait", || {
        Ok(fs::read_to_string(format!("/proc/{}/stat", last.id()))?.contains(") D "))
    })?;
    let kill = Command::new("kill")
        .args(["-INT", &last.id().to_string()])
        .status()?;
    ensure!(kill.success());
    ensure!(last.wait()?.code() == Some(77), "the handler did not run");
    for (n, mut reader) in readers.into_iter().enumerate() {
        let status = reader.wait()?;
        ensure!(status.success(), "reader {n}: {status}\n{}", cairn.log());
    }
    ensure!(
        cairn.shown_state("f7")? == "released",
        "a reader that never had its turn left a recall behind"
    );
    cairn.down()
}
