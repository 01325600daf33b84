//! Rows about names and attributes.

use crate::rows::Sizes;
use crate::side::Side;
use anyhow::{Context, ensure};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Files a directory.
const SPREAD: usize = 250;

fn file(side: &Side, i: usize) -> PathBuf {
    side.dir
        .join(format!("d{}", i / SPREAD))
        .join(format!("file-{i}"))
}

fn new_file(side: &Side, i: usize) -> PathBuf {
    side.dir
        .join("new")
        .join(format!("d{}", i / SPREAD))
        .join(format!("file-{i}"))
}

/// Small files in directories of some hundred.
pub(crate) fn make(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    for i in 0..sizes.files {
        if i % SPREAD == 0 {
            fs::create_dir(side.dir.join(format!("d{}", i / SPREAD)))?;
        }
        fs::write(file(side, i), [b'x'; 4096])?;
    }
    Ok(sizes.files)
}

pub(crate) fn make_entries(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    fs::create_dir(side.path("many"))?;
    for i in 0..sizes.entries {
        File::create(side.path(&format!("many/entry-{i}")))?;
    }
    Ok(sizes.entries)
}

pub(crate) fn stat(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    for i in 0..sizes.files {
        ensure!(fs::metadata(file(side, i))?.len() == 4096, "a file's size");
    }
    Ok(sizes.files)
}

pub(crate) fn absent(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    for i in 0..sizes.files {
        let path = side
            .dir
            .join(format!("d{}", i / SPREAD))
            .join(format!("absent-{i}"));
        ensure!(!path.exists(), "{path:?} is not there");
    }
    Ok(sizes.files)
}

pub(crate) fn read(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    let mut buffer = [0; 4096];
    for i in 0..sizes.files {
        let count = File::open(file(side, i))?.read(&mut buffer)?;
        ensure!(count == 4096 && buffer[17] == b'x', "a file's data");
    }
    Ok(sizes.files)
}

/// A directory with the attributes of all that is in it.
pub(crate) fn list(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(side.path("many"))? {
        ensure!(entry?.metadata()?.nlink() == 1, "an entry's links");
        count += 1;
    }
    ensure!(
        count == sizes.entries,
        "{count} entries of {}",
        sizes.entries
    );
    Ok(count)
}

pub(crate) fn remove_new(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    let new = side.path("new");
    if new.exists() {
        fs::remove_dir_all(&new)?;
    }
    fs::create_dir(&new)?;
    for dir in 0..sizes.files.div_ceil(SPREAD) {
        fs::create_dir(new.join(format!("d{dir}")))?;
    }
    Ok(0)
}

pub(crate) fn create(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    if !side.path("new").exists() {
        remove_new(side, sizes)?;
    }
    for i in 0..sizes.files {
        File::create_new(new_file(side, i))?;
    }
    Ok(sizes.files)
}

pub(crate) fn create_full(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    for i in 0..sizes.files {
        File::create_new(new_file(side, i))?.write_all(&[b'x'; 4096])?;
    }
    Ok(sizes.files)
}

pub(crate) fn unlink(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    for i in 0..sizes.files {
        fs::remove_file(new_file(side, i))?;
    }
    Ok(sizes.files)
}

pub(crate) fn mkdir(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    for i in 0..sizes.files {
        fs::create_dir(new_file(side, i))?;
    }
    Ok(sizes.files)
}

/// There and back.
pub(crate) fn rename(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    for i in 0..sizes.files {
        let path = file(side, i);
        let other = path.with_extension("renamed");
        fs::rename(&path, &other)?;
        fs::rename(&other, &path)?;
    }
    Ok(sizes.files * 2)
}

/// Runs a program, which has to succeed.
fn run(program: &str, args: &[&dyn AsRef<std::ffi::OsStr>]) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    command
        .args(args.iter().map(|arg| arg.as_ref()))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let status = command
        .status()
        .with_context(|| format!("running {program}"))?;
    ensure!(status.success(), "{program} ended with {status}");
    Ok(())
}

fn archive() -> PathBuf {
    std::env::temp_dir().join(format!("cairn-bench-{}.tar", std::process::id()))
}

fn files_in(tree: &Path) -> anyhow::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(tree)? {
        let entry = entry?;
        count += 1;
        if entry.file_type()?.is_dir() {
            count += files_in(&entry.path())?;
        }
    }
    Ok(count)
}

pub(crate) fn pack(_: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    run("tar", &[&"-C", &sizes.tree, &"-cf", &archive(), &"."])?;
    Ok(1)
}

pub(crate) fn untar(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    run("tar", &[&"-C", &side.path("new"), &"-xf", &archive()])?;
    files_in(&sizes.tree)
}

pub(crate) fn untar_anew(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    remove_new(
        side,
        &Sizes {
            files: 0,
            entries: 0,
            mib: 0,
            tree: PathBuf::new(),
        },
    )?;
    untar(side, sizes)
}

pub(crate) fn remove_tree(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    run("rm", &[&"-rf", &side.path("new")])?;
    files_in(&sizes.tree)
}

pub(crate) fn copy_tree(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    run("cp", &[&"-a", &sizes.tree, &side.path("tree")])?;
    Ok(1)
}

pub(crate) fn rsync(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    run(
        "rsync",
        &[&"-a", &sizes.tree.join(""), &side.path("tree").join("")],
    )?;
    files_in(&sizes.tree)
}

pub(crate) fn repository(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    copy_tree(side, sizes)?;
    let tree = side.path("tree");
    run("git", &[&"-C", &tree, &"init", &"-q"])?;
    run("git", &[&"-C", &tree, &"add", &"."])?;
    let who = [
        "-c",
        "user.name=bench",
        "-c",
        "user.email=bench@example.org",
    ];
    let [a, b, c, d] = &who;
    run(
        "git",
        &[&"-C", &tree, a, b, c, d, &"commit", &"-q", &"-m", &"all"],
    )?;
    Ok(1)
}

pub(crate) fn git_status(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    run(
        "git",
        &[&"-C", &side.path("tree"), &"status", &"--porcelain"],
    )?;
    files_in(&sizes.tree)
}
