//! A file's capability is there, and only then, from its release through its recall and a crash.

use crate::needs_mounts;
use crate::rig::{Instance, tree, wait_for};
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{XattrFlags, getxattr, listxattr, setxattr};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

const NAME: &str = "security.capability";
/// `setfattr -n security.capability -v 0sAQAAAgAgAAAAAAAAAAAAAAAAAAA=`
const VALUE: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const SIZE: usize = 8 << 20;

fn value(path: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let mut value = [0; 64];
    match getxattr(path, name, &mut value[..]) {
        Ok(len) => Ok(Some(value[..len].to_vec())),
        Err(rustix::io::Errno::NODATA) => Ok(None),
        Err(why) => Err(why.into()),
    }
}

fn names(path: &Path) -> Result<BTreeSet<String>> {
    let mut list = [0; 4096];
    let len = listxattr(path, &mut list[..])?;
    let text = String::from_utf8_lossy(&list[..len]).into_owned();
    Ok(text
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect())
}

/// What every look at the file through the mount must show.
fn check(cairn: &Instance, name: &str, when: &str) -> Result<()> {
    let path = cairn.at(name);
    let seen = value(&path, NAME)?;
    ensure!(seen.as_deref() == Some(&VALUE[..]), "{when}: {seen:?}");
    let listed = names(&path)?;
    let wanted = BTreeSet::from([NAME.to_owned(), "user.mine".to_owned()]);
    ensure!(listed == wanted, "{when}: {listed:?}");
    Ok(())
}

/// A released file with a capability; the tier is slow from now on, so that a recall lasts.
fn capable(cairn: &mut Instance, data: &[u8]) -> Result<()> {
    cairn.up()?;
    let path = cairn.at("f");
    fs::write(&path, data)?;
    let none = XattrFlags::empty();
    setxattr(&path, "user.mine", b"x", none)?;
    setxattr(&path, NAME, &VALUE, none)?;
    cairn.archive("f")?;
    cairn.release("f")?;
    check(cairn, "f", "released")?;
    cairn.down()?;
    cairn.tier_options("rate=1MiB/s");
    cairn.up()?;
    cairn.cold()?;
    check(cairn, "f", "released, after a start")
}

/// Reads the head, so that the recall runs, and sees it take the capability below. A busy machine
/// may look only when the recall is over: then all over again.
fn begin(cairn: &Instance) -> Result<()> {
    for _ in 0..20 {
        cairn.cold()?;
        let mut head = [0; 10];
        fs::File::open(cairn.at("f"))?.read_exact_at(&mut head, 0)?;
        if value(&cairn.below("f"), NAME)?.is_none() {
            return Ok(());
        }
        wait_for("the recall", || Ok(cairn.shown_state("f")? == "archived"))?;
        cairn.release("f")?;
    }
    bail!("the capability was never gone below: the test tests nothing")
}

#[test]
fn p4_a_capability_is_seen_through_a_slow_recall() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    let data = tree::bytes(1, SIZE);
    capable(&mut cairn, &data)?;
    begin(&cairn)?;
    check(&cairn, "f", "half-way")?;
    let copy = cairn.dir.path().join("copy");
    // `cp -a` asks for the list of attributes twice and is not prepared for another answer.
    let copied = Command::new("cp")
        .arg("-a")
        .args([&cairn.at("f"), &copy])
        .output()
        .context("cp")?;
    ensure!(copied.status.success(), "{copied:?}");
    ensure!(fs::read(&copy)? == data);
    ensure!(value(&copy, NAME)?.as_deref() == Some(&VALUE[..]));
    let while_it_runs = || -> Result<bool> {
        check(&cairn, "f", "during the recall")?;
        Ok(cairn.shown_state("f")? == "archived")
    };
    wait_for("the recall", while_it_runs)?;
    check(&cairn, "f", "resident")?;
    ensure!(value(&cairn.below("f"), NAME)?.as_deref() == Some(&VALUE[..]));
    ensure!(!names(&cairn.below("f"))?.contains("trusted.cairn.capability"));
    // A user's write takes it, as on any filesystem.
    fs::OpenOptions::new()
        .append(true)
        .open(cairn.at("f"))
        .and_then(|mut file| std::io::Write::write_all(&mut file, b"more"))?;
    ensure!(
        value(&cairn.at("f"), NAME)?.is_none(),
        "it outlived a write"
    );
    cairn.down()
}

#[test]
fn p4_a_capability_outlives_a_kill_in_the_middle_of_a_recall() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    let data = tree::bytes(2, SIZE);
    capable(&mut cairn, &data)?;
    begin(&cairn)?;
    cairn.kill()?;
    cairn.up()?;
    check(&cairn, "f", "after the crash")?;
    ensure!(fs::read(cairn.at("f"))? == data);
    wait_for("the recall", || Ok(cairn.shown_state("f")? == "archived"))?;
    check(&cairn, "f", "resident")?;
    ensure!(value(&cairn.below("f"), NAME)?.as_deref() == Some(&VALUE[..]));
    cairn.down()
}

/// Root changes or takes away the capability while the file is on its way.
#[test]
fn p4_a_capability_set_during_a_recall_stays() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    let data = tree::bytes(3, SIZE);
    capable(&mut cairn, &data)?;
    begin(&cairn)?;
    let path = cairn.at("f");
    let mut other = VALUE;
    other[5] = 4;
    let again = setxattr(&path, NAME, &other, XattrFlags::CREATE);
    ensure!(again == Err(rustix::io::Errno::EXIST), "{again:?}");
    setxattr(&path, NAME, &other, XattrFlags::REPLACE)?;
    ensure!(value(&path, NAME)?.as_deref() == Some(&other[..]));
    wait_for("the recall", || Ok(cairn.shown_state("f")? == "archived"))?;
    ensure!(value(&path, NAME)?.as_deref() == Some(&other[..]));
    cairn.release("f")?;
    begin(&cairn)?;
    rustix::fs::removexattr(&path, NAME)?;
    ensure!(value(&path, NAME)?.is_none());
    ensure!(!names(&path)?.contains(NAME));
    wait_for("the recall", || Ok(cairn.shown_state("f")? == "archived"))?;
    ensure!(value(&path, NAME)?.is_none());
    ensure!(fs::read(&path)? == data);
    cairn.down()
}
