//! The tier is slow, dead or gone: each with its errno, and all is well when it is back.

use crate::needs_mounts;
use crate::rig::{Instance, tree, wait_for};
use anyhow::{Result, ensure};
use std::ffi::OsStr;
use std::fs;

fn read_error(cairn: &Instance, name: &str) -> Option<i32> {
    fs::read(cairn.at(name))
        .err()
        .and_then(|e| e.raw_os_error())
}

#[test]
fn p5_a_wait_ends_with_the_recall_timeout() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let data = tree::bytes(1, 200_000);
    cairn.released("f", &data)?;
    cairn.down()?;
    cairn.tier_options("delay=6s");
    cairn.args.extend(["--recall-timeout".into(), "1s".into()]);
    cairn.up()?;
    let error = read_error(&cairn, "f");
    ensure!(error == Some(libc::ETIMEDOUT), "reading gave {error:?}");
    let error = fs::File::options().write(true).open(cairn.at("f")).err();
    let error = error.and_then(|e| e.raw_os_error());
    ensure!(
        error == Some(libc::ETIMEDOUT),
        "opening for writing gave {error:?}"
    );
    // The recall itself goes on.
    wait_for("the recall", || Ok(cairn.shown_state("f")? == "archived"))?;
    ensure!(fs::read(cairn.at("f"))? == data);
    cairn.down()
}

#[test]
fn a_tier_that_is_away_and_back() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let data = tree::bytes(2, 300_000);
    cairn.released("f", &data)?;
    cairn.released("g", &data)?;
    fs::write(cairn.at("new"), &data)?;
    let aside = cairn.dir.path().join("aside");
    fs::rename(&cairn.tier, &aside)?;
    let error = read_error(&cairn, "f");
    ensure!(
        error == Some(libc::EHOSTDOWN),
        "reading gave {error:?}\n{}",
        cairn.log()
    );
    let stage = cairn.run([
        OsStr::new("stage"),
        OsStr::new("--wait"),
        OsStr::new("--timeout"),
        OsStr::new("3s"),
        cairn.at("g").as_os_str(),
    ])?;
    ensure!(
        !stage.status.success(),
        "a stage from a tier that is away was done"
    );
    let id = cairn.cairn([OsStr::new("archive"), cairn.at("new").as_os_str()])?;
    ensure!(fs::read(cairn.at("new"))? == data, "resident files suffer");
    ensure!(
        cairn.shown_state("f")? == "released",
        "{}",
        cairn.shown_state("f")?
    );
    fs::rename(&aside, &cairn.tier)?;
    cairn.cold()?;
    wait_for("the file to be readable again", || {
        Ok(fs::read(cairn.at("f")).is_ok_and(|got| got == data))
    })?;
    cairn.cairn(["wait", "--timeout", "60s", id.trim()])?;
    ensure!(cairn.shown_state("new")? == "archived");
    wait_for("the stage to go on", || {
        Ok(cairn.shown_state("g")? == "archived")
    })?;
    cairn.down()
}
