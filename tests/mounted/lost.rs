//! P6: a released file whose stub is gone is lost. It is never read, copied or archived as zeros.

use crate::needs_mounts;
use crate::rig::{Instance, drop_caches, on_disk, tree, truncate, wait_for};
use anyhow::{Context, Result, ensure};
use rustix::fs::FallocateFlags;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

const RECORD: &str = "trusted.cairn.record";

/// Takes the stub away around the mount.
fn strip(cairn: &Instance, name: &str) -> Result<()> {
    rustix::fs::removexattr(cairn.below(name), RECORD)?;
    cairn.cold()
}

/// Can the filesystem below allocate room without writing, and tell the two apart?
fn has_room_unwritten(cairn: &Instance) -> Result<bool> {
    let path = cairn.below("room");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    let room = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 8192).is_ok();
    fs::remove_file(&path)?;
    // These have no FIEMAP.
    let kind = Command::new("stat")
        .args(["--file-system", "--format=%T"])
        .arg(&cairn.backing)
        .output()?;
    let kind = String::from_utf8_lossy(&kind.stdout).into_owned();
    let without = ["tmpfs", "zfs", "nfs", "fuseblk"];
    Ok(room && !without.contains(&kind.trim()))
}

/// The error number of an attempt.
fn errno<T>(attempt: std::io::Result<T>) -> Option<i32> {
    attempt.err().and_then(|e| e.raw_os_error())
}

/// Nothing of the file can be had through the mount, and nothing makes zeros of it.
fn assert_lost(cairn: &Instance, name: &str) -> Result<()> {
    let path = cairn.at(name);
    let eio = Some(libc::EIO);
    let read = errno(fs::read(&path));
    ensure!(
        read == eio,
        "{name}: reading gave {read:?}\n{}",
        cairn.log()
    );
    let open = errno(File::options().write(true).open(&path));
    ensure!(open == eio, "{name}: opening for writing gave {open:?}");
    ensure!(
        truncate(&path, 1000).is_err(),
        "{name} was cut to 1000 bytes"
    );
    ensure!(
        fs::metadata(&path)?.blocks() > 0,
        "{name} looks like a hole"
    );
    let copy = cairn.dir.path().join("copy");
    for command in [
        Command::new("cp")
            .arg("--sparse=always")
            .arg(&path)
            .arg(&copy),
        Command::new("tar").arg("-Scf").arg(&copy).arg(&path),
    ] {
        let done = command.output().context("copies")?;
        ensure!(!done.status.success(), "{name}: {command:?} succeeded");
    }
    let state = cairn.shown_state(name)?;
    ensure!(state == "lost", "{name}: its state is {state}");
    let archive = cairn.run([
        OsStr::new("archive"),
        OsStr::new("--wait"),
        path.as_os_str(),
    ])?;
    let output = String::from_utf8_lossy(&archive.stdout).into_owned();
    let state = cairn.shown_state(name)?;
    ensure!(state == "lost", "{name}: archived, it is {state}: {output}");
    Ok(())
}

/// Lost files by the catalog's count.
fn counted(cairn: &Instance) -> Result<u64> {
    let status: serde_json::Value = serde_json::from_str(&cairn.cairn(["status", "--json"])?)?;
    status["copies"]["lost"].as_u64().context("copies.lost")
}

#[test]
fn p6_a_file_whose_stub_is_gone_is_lost_and_not_zeros() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    if !has_room_unwritten(&cairn)? {
        eprintln!("SKIPPED p6_a_file_whose_stub_is_gone: no fallocate or no FIEMAP here");
        return Ok(());
    }
    let data = tree::bytes(1, 300_000);
    for name in ["holes", "unwritten", "half"] {
        cairn.released(name, &data)?;
        strip(&cairn, name)?;
    }
    // As a recall leaves them that was cut short: allocated and not written, or not all of it.
    let allocate = |name: &str| -> Result<File> {
        let file = File::options().write(true).open(cairn.below(name))?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, data.len() as u64)?;
        Ok(file)
    };
    allocate("unwritten")?.sync_all()?;
    let half = allocate("half")?;
    half.write_all_at(&data[..100_000], 0)?;
    half.sync_all()?;
    drop(half);
    drop_caches()?;
    // Read around the mount, allocated room counts as data for SEEK_DATA.
    for name in ["unwritten", "half"] {
        fs::read(cairn.below(name))?;
    }
    for name in ["holes", "unwritten", "half"] {
        assert_lost(&cairn, name)?;
    }
    ensure!(counted(&cairn)? == 3, "status counts {}", counted(&cairn)?);
    let audit = fs::read_to_string(cairn.state.join("audit.jsonl"))?;
    for name in ["holes", "unwritten", "half"] {
        let told = |line: &&str| line.contains("\"lost\"") && line.contains(name);
        ensure!(audit.lines().filter(told).count() == 1, "{name}:\n{audit}");
    }
    // It stays so.
    cairn.down()?;
    cairn.up()?;
    for name in ["holes", "unwritten", "half"] {
        assert_lost(&cairn, name)?;
    }
    // Cut to nothing it is a new file.
    fs::write(cairn.at("holes"), &data)?;
    truncate(&cairn.at("half"), 0)?;
    File::options()
        .append(true)
        .open(cairn.at("half"))?
        .write_all(b"new")?;
    ensure!(fs::read(cairn.at("holes"))? == data);
    ensure!(fs::read(cairn.at("half"))? == b"new");
    wait_for("the catalog to hear of it", || Ok(counted(&cairn)? == 1))?;
    cairn.archive("holes")?;
    cairn.release("holes")?;
    ensure!(on_disk(&cairn.below("holes"))? <= 8192, "{}", cairn.log());
    ensure!(fs::read(cairn.at("holes"))? == data, "the next cycle");
    cairn.down()
}

#[test]
fn p6_the_scan_finds_lost_files_that_nobody_opens() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    if !has_room_unwritten(&cairn)? {
        eprintln!("SKIPPED p6_the_scan_finds_lost_files: no fallocate or no FIEMAP here");
        return Ok(());
    }
    for name in ["holes", "unwritten"] {
        cairn.released(name, &tree::bytes(2, 200_000))?;
    }
    cairn.kill()?;
    for name in ["holes", "unwritten"] {
        strip(&cairn, name)?;
    }
    let file = File::options().write(true).open(cairn.below("unwritten"))?;
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 200_000)?;
    file.sync_all()?;
    drop(file);
    // After an unclean stop everything is looked at.
    cairn.up()?;
    wait_for("the scan", || Ok(counted(&cairn)? == 2))?;
    cairn.down()
}

/// As a backup without extended attributes restores it: another inode, all holes.
fn restore_bare(cairn: &Instance, name: &str) -> Result<()> {
    let (old, new) = (cairn.below(name), cairn.below("restoring"));
    let facts = fs::metadata(&old)?;
    let file = File::create(&new)?;
    file.set_len(facts.len())?;
    file.set_times(fs::FileTimes::new().set_modified(facts.modified()?))?;
    drop(file);
    fs::rename(new, old)?;
    Ok(())
}

#[test]
fn p6_a_file_restored_without_its_stub_is_lost() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    fs::create_dir(cairn.at("dir"))?;
    for name in ["dir/opened", "dir/scanned", "other"] {
        cairn.released(name, &tree::bytes(4, 200_000))?;
    }
    cairn.down()?;
    restore_bare(&cairn, "dir/opened")?;
    // A clean stop: no scan has seen it before it is opened.
    cairn.up()?;
    assert_lost(&cairn, "dir/opened")?;
    ensure!(counted(&cairn)? == 1);
    cairn.kill()?;
    restore_bare(&cairn, "dir/scanned")?;
    // Not the same file by its time: somebody's own.
    restore_bare(&cairn, "other")?;
    let other = File::options().write(true).open(cairn.below("other"))?;
    other.set_times(fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH))?;
    drop(other);
    cairn.up()?;
    wait_for("the scan", || Ok(counted(&cairn)? == 2))?;
    assert_lost(&cairn, "dir/scanned")?;
    assert_lost(&cairn, "dir/opened")?;
    ensure!(fs::read(cairn.at("other"))? == vec![0; 200_000]);
    cairn.down()
}

#[test]
fn what_a_user_left_empty_is_no_loss() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let size = 1 << 20;
    // Never archived; and a released file that is cut and grown again, of the size that it had.
    File::create(cairn.at("new"))?.set_len(size)?;
    ensure!(
        fs::metadata(cairn.at("new"))?.blocks() == 0,
        "holes are shown as such"
    );
    cairn.released("cut", &tree::bytes(3, usize::try_from(size)?))?;
    let file = File::options()
        .write(true)
        .truncate(true)
        .open(cairn.at("cut"))?;
    file.set_len(size)?;
    let mut got = Vec::new();
    File::open(cairn.at("cut"))?.read_to_end(&mut got)?;
    ensure!(got.len() as u64 == size && got.iter().all(|b| *b == 0));
    drop(file);
    for name in ["new", "cut"] {
        ensure!(fs::read(cairn.at(name))?.iter().all(|b| *b == 0), "{name}");
        cairn.archive(name)?;
        let state = cairn.shown_state(name)?;
        ensure!(state == "archived", "{name}: {state}\n{}", cairn.log());
    }
    ensure!(counted(&cairn)? == 0);
    cairn.down()
}

/// Archived and released; the record that it had between the two.
fn released_once(cairn: &Instance, name: &str, data: &[u8]) -> Result<Vec<u8>> {
    fs::write(cairn.at(name), data)?;
    cairn.archive(name)?;
    let mut old = vec![0; 512];
    let length = rustix::fs::getxattr(cairn.below(name), RECORD, &mut old[..])?;
    old.truncate(length);
    cairn.release(name)?;
    ensure!(on_disk(&cairn.below(name))? <= 8192, "{}", cairn.log());
    Ok(old)
}

/// As `setfattr --restore` or `rsync -X` puts it back around the mount.
fn put_back(cairn: &Instance, name: &str, old: &[u8]) -> Result<()> {
    let flags = rustix::fs::XattrFlags::REPLACE;
    rustix::fs::setxattr(cairn.below(name), RECORD, old, flags)?;
    cairn.cold()
}

/// What `cairn adopt --undo` answers: whether it did it, and what it said.
fn undo(cairn: &Instance, tree: &Path, options: &[&OsStr]) -> Result<(bool, String)> {
    let mut arguments = vec![OsStr::new("adopt"), OsStr::new("--undo")];
    arguments.extend(options);
    arguments.push(tree.as_os_str());
    let done = cairn.run(arguments)?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    Ok((done.status.success(), said))
}

/// An instance whose backing is an adopted tree.
fn adopted() -> Result<(Instance, PathBuf)> {
    let mut cairn = Instance::new(None)?;
    let tree = cairn.dir.path().join("data");
    fs::create_dir(&tree)?;
    adopt(&cairn, &tree)?;
    cairn.backing = cairn.dir.path().join(".cairn-data/backing");
    Ok((cairn, tree))
}

fn adopt(cairn: &Instance, tree: &Path) -> Result<()> {
    cairn.cairn([OsStr::new("adopt"), tree.as_os_str()])?;
    Ok(())
}

#[test]
fn p7_undo_asks_the_catalog_for_files_that_lost_their_stubs() -> Result<()> {
    needs_mounts!();
    let (mut cairn, tree) = adopted()?;
    cairn.mount.clone_from(&tree);
    cairn.up()?;
    let data = tree::bytes(6, 300_000);
    fs::create_dir(cairn.at("sub"))?;
    cairn.released("sub/stripped", &data)?;
    cairn.released("restored", &data)?;
    let old = released_once(&cairn, "old", &data)?;
    cairn.released("anothers", &data)?;
    // Back on disk, and a record of before the release says so: no reason for a doubt.
    let was = released_once(&cairn, "back", &data)?;
    ensure!(fs::read(cairn.at("back"))? == data);
    wait_for(
        "the recall",
        || Ok(cairn.shown_state("back")? == "archived"),
    )?;
    fs::write(cairn.at("kept"), &data)?;
    cairn.archive("kept")?;
    // A record that went before it was written again, and a file that nobody archived.
    rustix::fs::removexattr(cairn.below("kept"), RECORD)?;
    File::create(cairn.at("empty"))?.set_len(1 << 20)?;
    cairn.down()?;
    let bad = ["sub/stripped", "old", "anothers", "restored"];
    strip(&cairn, "sub/stripped")?;
    restore_bare(&cairn, "restored")?;
    put_back(&cairn, "old", &old)?;
    put_back(&cairn, "anothers", &old)?;
    put_back(&cairn, "back", &was)?;
    let names_all = |said: &str| bad.iter().all(|name| said.contains(*name));
    let (done, said) = undo(&cairn, &tree, &[])?;
    ensure!(!done, "zeros came out");
    ensure!(said.contains("4 files") && names_all(&said), "{said}");
    for good in ["kept", "empty", "data/back"] {
        ensure!(!said.contains(good), "{said}");
    }
    for way in ["cairn up", "--force", "--without-catalog"] {
        ensure!(said.contains(way), "{said}");
    }
    let moved = elsewhere(&cairn, &tree)?;
    let named = [OsStr::new("--state"), moved.as_os_str()];
    let (done, said) = undo(&cairn, &tree, &named)?;
    ensure!(!done && names_all(&said), "{said}");
    ensure!(cairn.below("kept").exists(), "nothing has moved");
    for name in bad {
        fs::remove_file(cairn.below(name))?;
    }
    let (done, said) = undo(&cairn, &tree, &named)?;
    ensure!(done, "{said}");
    for name in ["kept", "back"] {
        ensure!(fs::read(tree.join(name))? == data);
    }
    // The tree still says that it was served.
    adopt(&cairn, &tree)?;
    let (done, said) = undo(&cairn, &tree, &[])?;
    ensure!(!done && said.contains("--without-catalog"), "{said}");
    let (done, said) = undo(&cairn, &tree, &[OsStr::new("--without-catalog")])?;
    ensure!(done && said.contains("not asked"), "{said}");
    ensure!(said.contains("data/empty"), "named all the same: {said}");
    ensure!(fs::read(tree.join("kept"))? == data);
    Ok(())
}

/// The state directory is elsewhere than it was when it served the tree; no other does for it.
fn elsewhere(cairn: &Instance, tree: &Path) -> Result<PathBuf> {
    let moved = cairn.dir.path().join("moved");
    fs::rename(&cairn.state, &moved)?;
    let (done, said) = undo(cairn, tree, &[])?;
    ensure!(!done, "without a catalog: {said}");
    let state = cairn.state.display().to_string();
    ensure!(said.contains(&state) && said.contains("--state"), "{said}");
    ensure!(said.contains("--without-catalog"), "{said}");
    let mut other = Instance::new(None)?;
    other.up()?;
    other.down()?;
    // The right directory, and another's catalog in it.
    let mixed = cairn.dir.path().join("mixed");
    fs::create_dir(&mixed)?;
    fs::copy(moved.join("instance.json"), mixed.join("instance.json"))?;
    for entry in fs::read_dir(&other.state)? {
        let name = entry?.file_name();
        if name.to_string_lossy().starts_with("catalog.sqlite") {
            fs::copy(other.state.join(&name), mixed.join(&name))?;
        }
    }
    for place in [&other.state, cairn.dir.path(), &mixed] {
        let (done, said) = undo(cairn, tree, &[OsStr::new("--state"), place.as_os_str()])?;
        let place = place.display().to_string();
        ensure!(!done && said.contains(&place), "{said}");
    }
    Ok(moved)
}

/// A backing that was restored without extended attributes says neither what is a stub nor who
/// served it.
#[test]
fn p7_undo_names_files_of_holes_where_nothing_says_who_served_the_tree() -> Result<()> {
    needs_mounts!();
    let (cairn, tree) = adopted()?;
    fs::write(cairn.below("whole"), tree::bytes(7, 300_000))?;
    File::create(cairn.below("tiny"))?.set_len(4095)?;
    File::create(cairn.below("hole"))?.set_len(300_000)?;
    let (done, said) = undo(&cairn, &tree, &[])?;
    ensure!(!done, "zeros came out");
    ensure!(
        said.contains("1 file") && said.contains("data/hole") && said.contains("--without-catalog"),
        "{said}"
    );
    let (done, said) = undo(&cairn, &tree, &[OsStr::new("--without-catalog")])?;
    ensure!(done && said.contains("data/hole"), "{said}");
    fs::remove_file(tree.join("hole"))?;
    adopt(&cairn, &tree)?;
    let (done, said) = undo(&cairn, &tree, &[])?;
    ensure!(done, "{said}");
    Ok(())
}

#[test]
fn p7_undo_refuses_a_tree_that_is_served_under_another_mount() -> Result<()> {
    needs_mounts!();
    let (mut cairn, tree) = adopted()?;
    cairn.hold = Some("300s".into());
    fs::write(cairn.below("file"), b"bytes")?;
    cairn.up()?;
    let refused = |cairn: &Instance, what: &str| -> Result<()> {
        for options in [&[][..], &[OsStr::new("--force")]] {
            let (done, said) = undo(cairn, &tree, options)?;
            ensure!(!done, "what it serves has gone");
            ensure!(said.contains(what) && said.contains("cairn down"), "{said}");
            ensure!(cairn.below("file").exists());
        }
        Ok(())
    };
    refused(&cairn, "in use")?;
    // Its mount outlives it, and waits for the next one.
    cairn.die()?;
    refused(&cairn, "still serves")?;
    cairn.up()?;
    ensure!(fs::read(cairn.at("file"))? == b"bytes");
    cairn.down()?;
    let (done, said) = undo(&cairn, &tree, &[])?;
    ensure!(done, "{said}");
    ensure!(fs::read(tree.join("file"))? == b"bytes");
    Ok(())
}

fn stub_of(cairn: &Instance, name: &str) -> Result<Vec<u8>> {
    let mut stub = vec![0; 512];
    let length = rustix::fs::getxattr(cairn.below(name), RECORD, &mut stub[..])?;
    stub.truncate(length);
    Ok(stub)
}

/// The copies that the catalog knows of a file, and the objects on the tier.
fn copies(cairn: &Instance, name: &str) -> Result<(serde_json::Value, usize)> {
    let path = cairn.at(name);
    let said = cairn.cairn([OsStr::new("state"), OsStr::new("--json"), path.as_os_str()])?;
    let said: serde_json::Value = serde_json::from_str(&said)?;
    let copies = said["copies"].clone();
    ensure!(copies.as_array().is_some_and(|c| c.len() == 1), "{said}");
    let found = Command::new("find")
        .arg(&cairn.tier)
        .args(["-name", "*.tar"])
        .output()?;
    Ok((copies, found.stdout.iter().filter(|b| **b == b'\n').count()))
}

#[test]
fn p6_an_older_record_put_back_over_a_stub_gives_no_zeros() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let data = tree::bytes(7, 300_000);
    let names = ["read", "scanned", "cut"];
    let mut olds = Vec::new();
    for name in names {
        olds.push((released_once(&cairn, name, &data)?, stub_of(&cairn, name)?));
    }
    let before = copies(&cairn, "read")?;
    put_back(&cairn, "read", &olds[0].0)?;
    assert_lost(&cairn, "read")?;
    ensure!(counted(&cairn)? == 1, "status counts {}", counted(&cairn)?);
    let log = cairn.log();
    ensure!(
        log.contains("an older record was put over its stub"),
        "{log}"
    );
    let path = cairn.at("read");
    let why = cairn.cairn([OsStr::new("why"), path.as_os_str()])?;
    ensure!(why.contains("an older record"), "{why}");
    // A scan of everything, with nobody who reads.
    cairn.kill()?;
    for (name, (old, _)) in names.iter().zip(&olds).skip(1) {
        put_back(&cairn, name, old)?;
    }
    cairn.up()?;
    wait_for("the scan", || Ok(counted(&cairn)? == 3))?;
    for name in names {
        assert_lost(&cairn, name)?;
    }
    ensure!(copies(&cairn, "read")? == before, "{}", cairn.log());
    // The stub brings the data back; a cut makes a new file.
    for (name, (_, stub)) in names.iter().zip(&olds).take(2) {
        put_back(&cairn, name, stub)?;
        ensure!(fs::read(cairn.at(name))? == data, "{name}");
    }
    let new = tree::bytes(8, 200_000);
    fs::write(cairn.at("cut"), &new)?;
    ensure!(fs::read(cairn.at("cut"))? == new);
    wait_for("the catalog to hear of it", || Ok(counted(&cairn)? == 0))?;
    cairn.archive("cut")?;
    cairn.release("cut")?;
    ensure!(on_disk(&cairn.below("cut"))? <= 8192, "{}", cairn.log());
    ensure!(fs::read(cairn.at("cut"))? == new, "the next cycle");
    cairn.down()
}

fn grow_from_nothing(path: &Path, size: u64) -> Result<()> {
    truncate(path, 0)?;
    truncate(path, size)
}

/// All of it can be read, as zeros, and opened for writing.
fn assert_holes(cairn: &Instance, names: &[&str], size: usize, when: &str) -> Result<()> {
    cairn.cold()?;
    for name in names {
        let read = fs::read(cairn.at(name)).with_context(|| format!("{when}: {name}"))?;
        ensure!(read == vec![0; size], "{when}: {name}");
        File::options().write(true).open(cairn.at(name))?;
    }
    let lost = counted(cairn)?;
    ensure!(lost == 0, "{when}: {lost} are lost\n{}", cairn.log());
    Ok(())
}

/// Files of holes with a record: archived as such; cut and grown after they were archived, and after
/// they came back; now, and after a stop of either kind.
#[test]
fn p6_files_of_holes_that_have_a_record_are_no_loss() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let size = 300_000;
    let data = tree::bytes(9, size);
    let names = ["image", "resident", "back", "cut"];
    File::create(cairn.at("image"))?.set_len(size as u64)?;
    fs::write(cairn.at("resident"), &data)?;
    for name in ["image", "resident"] {
        cairn.archive(name)?;
    }
    for name in ["back", "cut"] {
        cairn.released(name, &data)?;
    }
    ensure!(fs::read(cairn.at("back"))? == data);
    wait_for(
        "the recall",
        || Ok(cairn.shown_state("back")? == "archived"),
    )?;
    assert_holes(&cairn, &["image"], size, "archived as holes")?;
    for name in &names[1..] {
        grow_from_nothing(&cairn.at(name), size as u64)?;
    }
    assert_holes(&cairn, &names, size, "at once")?;
    cairn.down()?;
    cairn.up()?;
    assert_holes(&cairn, &names, size, "after a stop")?;
    // With data again, cut again, and the instance gone before it can have noted that.
    for name in names {
        fs::write(cairn.at(name), &data)?;
        cairn.archive(name)?;
        grow_from_nothing(&cairn.at(name), size as u64)?;
    }
    cairn.kill()?;
    cairn.up()?;
    assert_holes(&cairn, &names, size, "after a kill")?;
    cairn.down()
}
