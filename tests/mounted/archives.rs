//! Trees as one tar file there: plain tar restores it, members come out of it alone, and who made it does not matter.

use super::remote::{LARGE, arg, moved, on_their_way, opened, processes};
use crate::needs_mounts;
use crate::rig::far::both;
use crate::rig::{tree, wait_for};
use anyhow::{Context, Result, ensure};
use cairn_mover::Crc32c;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

/// Restores an archive with tar alone, which is to have nothing to say.
fn untar(archive: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    let output = Command::new("tar")
        .args(["--numeric-owner", "--delay-directory-restore", "-xpf"])
        .arg(archive)
        .arg("-C")
        .arg(to)
        .output()
        .context("tar")?;
    let said = both(&output);
    ensure!(output.status.success() && said.is_empty(), "tar: {said}");
    Ok(())
}

/// A tree with one of everything, and a file of more than 8 GiB, nearly all of which is a hole.
fn varied(top: &Path) -> Result<u64> {
    fs::create_dir(top)?;
    tree::varied(top)?;
    rustix::fs::removexattr(top.join("a/64k"), "user.note")?;
    let deep = ["x".repeat(200), "y".repeat(200), "z".repeat(200)].join("/");
    fs::create_dir_all(top.join(&deep))?;
    fs::write(top.join(&deep).join("far down"), tree::bytes(5, 3000))?;
    chown(top.join("a/small"), Some(12_345), Some(3_000_000))?;
    let size = (9 << 30) + 5;
    let huge = File::create(top.join("huge"))?;
    huge.set_len(size)?;
    huge.write_all_at(b"begin", 0)?;
    huge.write_all_at(b"end", size - 3)?;
    Ok(size)
}

/// Takes the file that nobody wants to read whole away, once it was looked at.
fn huge_is_right(top: &Path, size: u64) -> Result<()> {
    let path = top.join("huge");
    let (file, mut end) = (File::open(&path)?, [0; 3]);
    file.read_exact_at(&mut end, size - 3)?;
    let meta = file.metadata()?;
    ensure!(meta.len() == size && &end == b"end", "huge: other bytes");
    ensure!(meta.blocks() < 1000, "huge: {} blocks", meta.blocks());
    fs::remove_file(path)?;
    Ok(())
}

#[test]
fn a_tree_is_one_tar_there_and_comes_back_as_it_was() -> Result<()> {
    needs_mounts!();
    let (mut cairn, _far, caller) = opened()?;
    let top = cairn.dir.path().join("top");
    let size = varied(&top)?;
    let said = caller.does(["put", "--tar", arg(&top)?, ":x.tar"])?;
    ensure!(said.contains("1 file, "), "{said}");
    ensure!(on_their_way(&cairn.mount)?.is_empty());
    // Plain tar, with all that tar keeps.
    let plain = cairn.dir.path().join("plain");
    untar(&cairn.at("x.tar"), &plain)?;
    // And `get`, with what copies keep.
    let back = cairn.dir.path().join("back");
    let said = caller.does(["get", "--tar", ":x.tar", arg(&back)?])?;
    for top in [&top, &plain.join("top"), &back.join("top")] {
        huge_is_right(top, size)?;
    }
    let original = tree::picture(&top)?;
    let restored = tree::picture(&plain.join("top"))?;
    for (name, facts) in &original {
        ensure!(restored.get(name) == Some(facts), "tar: {name:?}");
    }
    let got = tree::picture(&back.join("top"))?;
    for (name, facts) in &original {
        let same = got.get(name).is_some_and(|f| f.is_but_for_rights(facts));
        ensure!(same, "get: {name:?}: {facts:?} and {:?}", got.get(name));
    }
    ensure!(original.len() == restored.len() && original.len() == got.len());
    // All but the directories, and the one that is gone by now.
    let files = original.len() - 8 + 1;
    ensure!(said.contains(&format!("{files} files")), "{said}");
    ensure!(on_their_way(&back)?.is_empty() && on_their_way(&back.join("top"))?.is_empty());
    // Of the same files the same archive is made, and what is there may be kept.
    let kept = caller.run(["put", "--tar", "--if-missing", arg(&top)?, ":x.tar"])?;
    ensure!(!kept.status.success() && both(&kept).contains("there is a file already"));
    cairn.down()
}

#[test]
fn a_member_comes_without_the_rest() -> Result<()> {
    needs_mounts!();
    let (mut cairn, _far, caller) = opened()?;
    let top = cairn.dir.path().join("top");
    fs::create_dir_all(top.join("d.h"))?;
    fs::create_dir(top.join("d"))?;
    fs::write(top.join("large"), tree::bytes(1, LARGE))?;
    fs::write(top.join("d/a"), tree::bytes(2, 70_000))?;
    fs::hard_link(top.join("d/a"), top.join("d/b"))?;
    fs::hard_link(top.join("d/a"), top.join("d.h/c"))?;
    caller.does(["put", "--tar", arg(&top)?, ":x.tar"])?;
    let get = |to: &str, members: &[&str]| {
        let to = cairn.dir.path().join(to);
        let mut args = vec!["get", "--json", "--tar"];
        members.iter().for_each(|m| args.extend(["--member", m]));
        args.extend([":x.tar", arg(&to)?]);
        Ok::<_, anyhow::Error>((caller.run(&args)?, to.join("top")))
    };
    // Another name of a file that is not asked for is that file.
    let (said, to) = get("one", &["top/d.h/c"])?;
    ensure!(moved(&both(&said))? == 70_000, "{}", both(&said));
    ensure!(fs::read(to.join("d.h/c"))? == tree::bytes(2, 70_000));
    ensure!(!to.join("large").exists() && !to.join("d").exists());
    // A directory is all below it, and names of one file are that.
    let (said, to) = get("two", &["./top/d/"])?;
    ensure!(moved(&both(&said))? == 70_000, "{}", both(&said));
    ensure!(fs::metadata(to.join("d/a"))?.ino() == fs::metadata(to.join("d/b"))?.ino());
    ensure!(!to.join("d.h").exists());
    let (said, to) = get("three", &["top/large", "top/nothing"])?;
    ensure!(said.status.code() == Some(1), "{}", both(&said));
    ensure!(both(&said).contains("no such member"), "{}", both(&said));
    ensure!(fs::read(to.join("large"))? == tree::bytes(1, LARGE));
    let (said, _) = get("four", &["top/nothing"])?;
    ensure!(said.status.code() == Some(1), "{}", both(&said));
    let (said, _) = get("five", &["../etc"])?;
    ensure!(said.status.code() == Some(2), "{}", both(&said));
    cairn.down()
}

#[test]
fn names_are_those_of_what_was_packed_and_what_cannot_be_read_is_left_out() -> Result<()> {
    needs_mounts!();
    let (mut cairn, _far, caller) = opened()?;
    let top = cairn.dir.path().join("top");
    fs::create_dir_all(top.join("d"))?;
    fs::write(top.join("d/file"), "x")?;
    fs::write(top.join("secret"), "s")?;
    fs::set_permissions(top.join("secret"), fs::Permissions::from_mode(0o600))?;
    fs::write(cairn.dir.path().join("other"), "y")?;
    let other = cairn.dir.path().join("other");
    let inside = format!("{}/.", arg(&top)?);
    let listed = |name: &str| -> Result<Vec<String>> {
        let output = Command::new("tar")
            .arg("-tf")
            .arg(cairn.at(name))
            .output()?;
        ensure!(output.status.success(), "{}", both(&output));
        let said = String::from_utf8(output.stdout)?;
        Ok(said.lines().map(str::to_owned).collect())
    };
    caller.does(["put", "--tar", &inside, arg(&other)?, ":x.tar"])?;
    ensure!(listed("x.tar")? == ["./", "d/", "d/file", "other", "secret"]);
    caller.does(["put", "--tar", arg(&top)?, ":x.tar"])?;
    ensure!(listed("x.tar")? == ["top/", "top/d/", "top/d/file", "top/secret"]);
    let twice = caller.fails(2, ["put", "--tar", arg(&top)?, arg(&top)?, ":y.tar"])?;
    ensure!(twice.contains("top: two things"), "{twice}");
    let directory = caller.fails(2, ["put", "--tar", arg(&top)?, ":"])?;
    ensure!(directory.contains("name the archive"), "{directory}");
    caller.fails(2, ["put", "--tar", "--if-newer", arg(&top)?, ":y.tar"])?;
    caller.fails(2, ["get", "--member", "top", ":x.tar", arg(&other)?])?;
    ensure!(!cairn.at("y.tar").exists());
    // Somebody else than root packs what they may read.
    let mut theirs = caller.clone();
    theirs.before = ["setpriv", "--reuid=65534", "--clear-groups", "--"]
        .map(Into::into)
        .to_vec();
    let said = theirs.fails(1, ["put", "--tar", arg(&top)?, ":y.tar"])?;
    ensure!(
        said.contains("top/secret") && said.contains("not-permitted") && said.contains("1 file,"),
        "{said}"
    );
    ensure!(listed("y.tar")? == ["top/", "top/d/", "top/d/file"]);
    cairn.down()
}

/// Names another place in an archive, with right sums: `from` and `to` are of one length.
fn renamed(archive: &Path, from: &[u8], to: &[u8]) -> Result<()> {
    let mut bytes = fs::read(archive)?;
    let end = bytes.len() - 512;
    let number = |at: usize| Some(u64::from_le_bytes(bytes[at..at + 8].try_into().ok()?) as usize);
    let at = number(end + 48).context("an index")?;
    let len = number(end + 56).context("an index")?;
    let index = &mut bytes[at..at + len];
    let found: Vec<usize> = (0..index.len() - from.len())
        .filter(|n| index[*n..].starts_with(from))
        .collect();
    ensure!(!found.is_empty(), "the index has no such name");
    for n in found {
        index[n..n + to.len()].copy_from_slice(to);
    }
    let sum = |bytes: &[u8]| Crc32c::of(bytes).0.to_le_bytes();
    let body = sum(&index[88..]);
    index[80..84].copy_from_slice(&body);
    let head = sum(&index[..84]);
    index[84..88].copy_from_slice(&head);
    let whole = sum(index);
    bytes[end + 64..end + 68].copy_from_slice(&whole);
    let own = sum(&bytes[end..end + 508]);
    bytes[end + 508..].copy_from_slice(&own);
    fs::write(archive, bytes)?;
    Ok(())
}

#[test]
fn p15_an_archive_writes_nowhere_but_where_it_is_to() -> Result<()> {
    needs_mounts!();
    let (mut cairn, _far, caller) = opened()?;
    let top = cairn.dir.path().join("tt");
    fs::create_dir_all(top.join("d"))?;
    fs::write(top.join("d/escaped"), "hostile")?;
    fs::write(top.join("d/other"), tree::bytes(1, 100_000))?;
    let outside = cairn.dir.path().join("outside");
    fs::create_dir(&outside)?;
    let to = cairn.dir.path().join("to");
    let get = ["get", "--tar", ":x.tar", arg(&to)?];
    let untouched = || -> Result<()> {
        ensure!(
            !cairn.dir.path().join("d").exists(),
            "it left the directory"
        );
        ensure!(
            fs::read_dir(&outside)?.next().is_none(),
            "it left by a link"
        );
        Ok(())
    };
    caller.does(["put", "--tar", arg(&top)?, ":x.tar"])?;
    // A link that lies here, under the name of a directory of the archive.
    fs::create_dir_all(to.join("tt"))?;
    symlink(&outside, to.join("tt/d"))?;
    let said = caller.run(get)?;
    ensure!(said.status.code() == Some(5), "{}", both(&said));
    untouched()?;
    fs::remove_dir_all(&to)?;
    // A name that leads out.
    renamed(&cairn.at("x.tar"), b"tt/d", b"../d")?;
    let said = caller.run(get)?;
    let words = both(&said);
    ensure!(
        said.status.code() == Some(1) && words.contains("`..`"),
        "{words}"
    );
    untouched()?;
    // Other data than the index says.
    caller.does(["put", "--tar", arg(&top)?, ":x.tar"])?;
    let archive = File::options().write(true).open(cairn.at("x.tar"))?;
    let bytes = fs::read(cairn.at("x.tar"))?;
    let at = bytes.windows(7).position(|w| w == b"hostile");
    archive.write_all_at(b"x", at.context("its data")? as u64)?;
    drop(archive);
    let said = caller.run(get)?;
    let words = both(&said);
    ensure!(
        said.status.code() == Some(1)
            && words.contains("tt/d/escaped")
            && words.contains("checksums"),
        "{words}"
    );
    ensure!(!to.join("tt/d/escaped").exists() && to.join("tt/d/other").exists());
    // Somebody else's tar.
    let made = Command::new("tar")
        .arg("-cf")
        .arg(cairn.at("x.tar"))
        .arg("-C")
        .arg(cairn.dir.path())
        .arg("tt")
        .status()?;
    ensure!(made.success());
    let said = both(&caller.run(get)?);
    ensure!(
        said.contains("x.tar has no index at its end") && said.contains("use tar"),
        "{said}"
    );
    cairn.down()
}

#[test]
fn a_file_that_changes_while_it_is_packed_fails_the_archive_by_its_name() -> Result<()> {
    needs_mounts!();
    let (mut cairn, _far, caller) = opened()?;
    let top = cairn.dir.path().join("top");
    fs::create_dir_all(top.join("d"))?;
    fs::write(top.join("d/first"), tree::bytes(1, 1000))?;
    fs::write(top.join("large"), tree::bytes(2, 100 << 20))?;
    fs::write(cairn.at("x.tar"), "before")?;
    let args = ["put", "--tar", "--limit-rate", "40M", arg(&top)?, ":x.tar"];
    let child = caller.command(args).spawn()?;
    wait_for("something to arrive", || {
        Ok(!on_their_way(&cairn.mount)?.is_empty())
    })?;
    File::options()
        .write(true)
        .open(top.join("d/first"))?
        .write_all_at(b"changed", 0)?;
    let said = child.wait_with_output()?;
    ensure!(
        said.status.code() == Some(1) && both(&said).contains("top/d/first was changed"),
        "{}",
        both(&said)
    );
    ensure!(fs::read(cairn.at("x.tar"))? == b"before");
    // What cannot be read is left out and told; the rest is an archive.
    if rustix::process::geteuid().is_root() {
        fs::set_permissions(&top, fs::Permissions::from_mode(0o755))?;
        rustix::fs::mkfifoat(rustix::fs::CWD, top.join("pipe"), 0o600.into())?;
        caller.does(["put", "--tar", arg(&top)?, ":x.tar"])?;
        untar(&cairn.at("x.tar"), &cairn.dir.path().join("plain"))?;
        ensure!(!cairn.dir.path().join("plain/top/pipe").exists());
    }
    cairn.down()
}

#[test]
fn an_archive_goes_on_after_kills_either_way() -> Result<()> {
    needs_mounts!();
    let (mut cairn, far, caller) = opened()?;
    let top = cairn.dir.path().join("top");
    fs::create_dir(&top)?;
    for n in 0..200_u64 {
        fs::write(top.join(n.to_string()), tree::bytes(n, 100_000))?;
    }
    fs::write(top.join("large"), tree::bytes(1, 400 << 20))?;
    let original = tree::picture(&top)?;
    let kept = |dir: &Path| {
        let names = on_their_way(dir)?;
        Ok::<_, anyhow::Error>(names.iter().any(|name| name.ends_with(".progress")))
    };
    let put = ["put", "--tar", "--json", "--resume", arg(&top)?, ":x.tar"];
    let slow = [&put[..4], &["--limit-rate", "150M"], &put[4..]].concat();
    // The caller, by kill -9.
    let mut child = caller.command(&slow).spawn()?;
    wait_for("progress to be kept", || kept(&cairn.mount))?;
    child.kill()?;
    child.wait()?;
    ensure!(!cairn.at("x.tar").exists(), "half an archive has its name");
    // Then the agent, and this time the caller goes on by itself.
    let names = on_their_way(&cairn.mount)?;
    let part = names.iter().find(|name| !name.contains(".progress"));
    let part = cairn.mount.join(part.context("a part")?);
    let begun = fs::metadata(&part)?.len();
    let agent = ["agent", "--uid", arg(cairn.dir.path())?];
    let child = caller.command(&slow).spawn()?;
    wait_for("the copy to go on", || {
        Ok(fs::metadata(&part)?.len() > begun)
    })?;
    for pid in processes(&agent)? {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("a process")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    }
    let said = child.wait_with_output()?;
    ensure!(said.status.success(), "{}\n{}", both(&said), far.log());
    let size = fs::metadata(cairn.at("x.tar"))?.len();
    let again = moved(&both(&said))?;
    ensure!(
        again < size && begun > 0 && far.log().matches("agent started").count() > 1,
        "{again} of {size} were moved again"
    );
    ensure!(on_their_way(&cairn.mount)?.is_empty());
    let plain = cairn.dir.path().join("plain");
    untar(&cairn.at("x.tar"), &plain)?;
    ensure!(
        original == tree::picture(&plain.join("top"))?,
        "tar: other bytes"
    );
    // The same on the way back.
    let to = cairn.dir.path().join("to");
    let get = ["get", "--tar", "--json", "--resume", ":x.tar", arg(&to)?];
    let slow = [&get[..4], &["--limit-rate", "100M"], &get[4..]].concat();
    let mut child = caller.command(&slow).spawn()?;
    wait_for("progress to be kept", || {
        ensure!(child.try_wait()?.is_none(), "it ended before it was killed");
        Ok(to.join("top").exists() && kept(&to.join("top"))? && to.join("top/0").exists())
    })?;
    child.kill()?;
    child.wait()?;
    ensure!(!to.join("top/large").exists(), "half a file has its name");
    let again = moved(&caller.does(get)?)?;
    ensure!(again < 400 << 20, "{again} of {size} were moved again");
    ensure!(
        original == tree::picture(&to.join("top"))?,
        "get: other bytes"
    );
    cairn.down()
}
