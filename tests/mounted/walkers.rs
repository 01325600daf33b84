//! Programs that walk over whole trees night after night: find, updatedb, incremental backups. What
//! they do to an archive must not be to recall it.

use crate::needs_mounts;
use crate::rig::{Instance, on_disk, tree};
use anyhow::{Context, Result, bail, ensure};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// Files that are released, of 200,000 bytes each.
const RELEASED: u64 = 24;

/// An instance over some directories of files, all archived.
fn archived() -> Result<Instance> {
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    for n in 0..RELEASED {
        let dir = cairn.at(&format!("project-{}", n % 4));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(format!("run {n}.dat")), tree::bytes(n, 200_000))?;
    }
    cairn.archive("")?;
    Ok(cairn)
}

/// The file's place in the tree.
fn name(n: u64) -> String {
    format!("project-{}/run {n}.dat", n % 4)
}

/// Every file is still released: nobody read a byte of it.
fn all_released(cairn: &Instance, after: &str) -> Result<()> {
    for n in 0..RELEASED {
        let left = on_disk(&cairn.below(&name(n)))?;
        ensure!(left <= 8192, "{after} recalled {}", name(n));
        ensure!(cairn.shown_state(&name(n))? == "released", "{}", name(n));
    }
    Ok(())
}

/// Runs a program in the instance's directory; what it printed.
fn run<S: AsRef<OsStr>>(
    cairn: &Instance,
    program: &str,
    args: impl IntoIterator<Item = S>,
) -> Result<Output> {
    let output = Command::new(program)
        .args(args)
        .current_dir(cairn.dir.path())
        .env("RESTIC_PASSWORD", "not a secret")
        .env("XDG_CACHE_HOME", cairn.dir.path())
        .env("HOME", cairn.dir.path())
        .output()
        .with_context(|| format!("starting {program}"))?;
    ensure!(
        output.status.success(),
        "{program}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Says that a part of a test was left out, if the program for it is not here.
fn is_absent(program: &str) -> bool {
    let there = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
    });
    if !there {
        let test = std::thread::current().name().unwrap_or("?").to_owned();
        eprintln!("SKIPPED {test}: {program} is not installed");
    }
    !there
}

#[test]
fn find_sees_every_name_once_and_recalls_nothing() -> Result<()> {
    needs_mounts!();
    let mut cairn = archived()?;
    cairn.release("")?;
    cairn.cold()?;
    // All that find can ask of a file without reading it.
    let questions = "mount -xdev -type f -size +100k -newermt 2001-01-01 -perm -u+r -user root \
                     -printf %p\\t%s\\t%b\\t%T@\\t%l\\n";
    let seen = text(&run(&cairn, "find", questions.split_whitespace())?);
    for n in 0..RELEASED {
        let times = seen
            .matches(&format!("mount/{}\t200000\t", name(n)))
            .count();
        ensure!(times == 1, "{} was seen {times} times:\n{seen}", name(n));
    }
    ensure!(seen.lines().count() as u64 == RELEASED, "{seen}");
    // From above, -xdev stays out of the mount, which is another device.
    let above = text(&run(&cairn, "find", [".", "-xdev", "-name", "run *"])?);
    ensure!(!above.contains("./mount/"), "{above}");
    all_released(&cairn, "find")?;
    cairn.down()
}

#[test]
fn updatedb_lists_every_name_and_recalls_nothing() -> Result<()> {
    needs_mounts!();
    if is_absent("updatedb.plocate") || is_absent("plocate") {
        return Ok(());
    }
    let mut cairn = archived()?;
    cairn.release("")?;
    cairn.cold()?;
    let root = fs::canonicalize(&cairn.mount)?;
    let database = cairn.dir.path().join("names.db");
    let mut args: Vec<OsString> = ["--prunefs", "", "--prunepaths", "", "--add-prunenames", ""]
        .map(OsString::from)
        .into();
    args.extend(["-U".into(), root.clone().into(), "-o".into()]);
    args.extend([database.clone().into(), "-l".into(), "0".into()]);
    run(&cairn, "updatedb.plocate", &args)?;
    let ask = [OsStr::new("-d"), database.as_os_str(), OsStr::new("run ")];
    let listed = text(&run(&cairn, "plocate", ask)?);
    for n in 0..RELEASED {
        let path = root.join(name(n));
        ensure!(
            listed.lines().any(|line| Path::new(line) == path),
            "{} is not listed:\n{listed}",
            path.display()
        );
    }
    all_released(&cairn, "updatedb")?;
    cairn.down()
}

/// Changes one file, the first, which is released: only that one may come back.
fn change_one(cairn: &Instance) -> Result<()> {
    fs::write(cairn.at("project-0/new.txt"), b"new")?;
    let all = cairn.at(&name(0));
    fs::write(all, b"written anew")?;
    Ok(())
}

/// All but the first are still released.
fn others_released(cairn: &Instance, after: &str) -> Result<()> {
    for n in 1..RELEASED {
        let left = on_disk(&cairn.below(&name(n)))?;
        ensure!(left <= 8192, "{after} recalled {}", name(n));
    }
    Ok(())
}

#[test]
fn rsync_of_a_released_tree_that_it_has_recalls_nothing() -> Result<()> {
    needs_mounts!();
    if is_absent("rsync") {
        return Ok(());
    }
    let mut cairn = archived()?;
    run(&cairn, "rsync", ["-aHAX", "mount/", "copy"])?;
    cairn.release("")?;
    cairn.cold()?;
    let again = ["-aHAX", "--stats", "--delete", "mount/", "copy"];
    let said = text(&run(&cairn, "rsync", again)?);
    let none = "Number of regular files transferred: 0";
    ensure!(said.contains(none), "{said}");
    all_released(&cairn, "rsync")?;
    change_one(&cairn)?;
    let said = text(&run(&cairn, "rsync", again)?);
    let two = "Number of regular files transferred: 2";
    ensure!(said.contains(two), "{said}");
    others_released(&cairn, "rsync")?;
    cairn.down()
}

#[test]
fn an_incremental_tar_of_a_released_tree_recalls_nothing() -> Result<()> {
    needs_mounts!();
    let mut cairn = archived()?;
    let tar = |cairn: &Instance, to: &str| {
        let args = ["-C", "mount", "--listed-incremental=names", "-S", "-cf", to];
        run(cairn, "tar", args.into_iter().chain(["."]))?;
        run(cairn, "tar", ["-tf", to]).map(|out| text(&out))
    };
    let first = tar(&cairn, "full.tar")?;
    ensure!(first.matches("run ").count() as u64 == RELEASED, "{first}");
    cairn.release("")?;
    cairn.cold()?;
    let second = tar(&cairn, "second.tar")?;
    ensure!(!second.contains("run "), "saved again: {second}");
    all_released(&cairn, "tar")?;
    change_one(&cairn)?;
    let third = tar(&cairn, "third.tar")?;
    let saved: Vec<_> = third.lines().filter(|line| !line.ends_with('/')).collect();
    let changed = ["./project-0/new.txt", "./project-0/run 0.dat"];
    ensure!(saved == changed, "{third}");
    others_released(&cairn, "tar")?;
    cairn.down()
}

/// A backup with a parent takes what it knows for unchanged by inode, size, mtime and ctime; also
/// after the instance was started anew.
#[test]
fn restic_of_a_released_tree_that_it_has_recalls_nothing() -> Result<()> {
    needs_mounts!();
    if is_absent("restic") {
        return Ok(());
    }
    let mut cairn = archived()?;
    run(&cairn, "restic", ["-r", "repository", "init"])?;
    let backup = |cairn: &Instance| -> Result<String> {
        let args = ["-r", "repository", "backup", "--verbose", "mount"];
        Ok(text(&run(cairn, "restic", args)?))
    };
    counts(&backup(&cairn)?, RELEASED, 0)?;
    cairn.release("")?;
    cairn.cold()?;
    counts(&backup(&cairn)?, 0, 0)?;
    all_released(&cairn, "restic")?;
    cairn.down()?;
    cairn.up()?;
    counts(&backup(&cairn)?, 0, 0)?;
    all_released(&cairn, "restic after a restart")?;
    change_one(&cairn)?;
    counts(&backup(&cairn)?, 1, 1)?;
    others_released(&cairn, "restic")?;
    cairn.down()
}

/// What restic says of files: `Files:  1 new,  1 changed,  23 unmodified`.
fn counts(said: &str, new: u64, changed: u64) -> Result<()> {
    let Some(line) = said.lines().find(|line| line.starts_with("Files:")) else {
        bail!("restic does not count files:\n{said}");
    };
    let numbers: Vec<u64> = line
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    ensure!(numbers.get(..2) == Some(&[new, changed]), "{line}\n{said}");
    Ok(())
}
