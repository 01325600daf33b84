//! The catalog is a cache: deleted or damaged, it is built anew from records, from aggregates, or both.

use crate::needs_mounts;
use crate::rig::{Instance, on_disk, program, tree};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// What every rebuild knows again; and what one from tiers knows beside it.
const BY_ALL: &str = "tiers,files,names,copies";
pub(crate) const BY_TIERS: &str = "tiers,files,names,copies,aggregates,members";

/// Content by path, to compare with.
pub(crate) type Content = BTreeMap<PathBuf, Vec<u8>>;

fn write(cairn: &Instance, content: &mut Content, name: &Path, data: Vec<u8>) -> Result<()> {
    let path = cairn.mount.join(name);
    fs::create_dir_all(path.parent().context("a parent")?)?;
    fs::write(path, &data)?;
    content.insert(name.to_owned(), data);
    Ok(())
}

/// Files of all kinds, in all states.
///
/// The instance is stopped before each archive: by then it has heard of every write, and takes none of
/// these files for one that changed since.
fn populate(cairn: &mut Instance) -> Result<Content> {
    let mut content = Content::new();
    for n in 0..150_u64 {
        let name = format!("small/{}/f{n}", n % 7);
        let data = tree::bytes(n, 10 + 97 * n as usize);
        write(cairn, &mut content, name.as_ref(), data)?;
    }
    let odd = [
        b"odd/\xff\xfe not text".to_vec(),
        b"odd/new\nline".to_vec(),
        "odd/\u{fc}ml\u{e4}ut".as_bytes().to_vec(),
        [b"odd/".to_vec(), vec![b'n'; 250]].concat(),
    ];
    for (n, name) in odd.into_iter().enumerate() {
        let name = PathBuf::from(OsString::from_vec(name));
        write(cairn, &mut content, &name, tree::bytes(n as u64, 5000))?;
    }
    write(cairn, &mut content, "empty".as_ref(), Vec::new())?;
    write(
        cairn,
        &mut content,
        "large".as_ref(),
        tree::bytes(7, 9 << 20),
    )?;
    let sparse = File::create(cairn.at("sparse"))?;
    sparse.set_len(4 << 20)?;
    let piece = tree::bytes(8, 200 << 10);
    sparse.write_all_at(&piece, 1 << 20)?;
    drop(sparse);
    let mut whole = vec![0; 4 << 20];
    whole[1 << 20..][..piece.len()].copy_from_slice(&piece);
    content.insert("sparse".into(), whole);
    for n in 0..10_u64 {
        let name = format!("big/r{n}");
        write(
            cairn,
            &mut content,
            name.as_ref(),
            tree::bytes(100 + n, 200_000),
        )?;
    }
    symlink("big/r0", cairn.at("link"))?;
    fs::hard_link(cairn.at("big/r1"), cairn.at("small/hard"))?;
    content.insert("small/hard".into(), content[Path::new("big/r1")].clone());
    cairn.down()?;
    cairn.up()?;
    cairn.archive("")?;
    live_on(cairn, &mut content)?;
    Ok(content)
}

/// Since then: changed and not archived, changed and archived, renamed, given away, deleted, released.
fn live_on(cairn: &mut Instance, content: &mut Content) -> Result<()> {
    write(cairn, content, "big/r2".as_ref(), tree::bytes(200, 200_001))?;
    write(cairn, content, "big/r3".as_ref(), tree::bytes(201, 200_002))?;
    cairn.down()?;
    cairn.up()?;
    cairn.archive("big/r3")?;
    for (from, to) in [
        ("big/r4", "small/moved"),
        ("small/1/f1", "small/2/f1-moved"),
    ] {
        fs::rename(cairn.at(from), cairn.at(to))?;
        let data = content.remove(Path::new(from)).context("it was written")?;
        content.insert(to.into(), data);
    }
    fs::set_permissions(cairn.at("big/r5"), Permissions::from_mode(0o600))?;
    for name in ["big/r6", "small/3/f3"] {
        fs::remove_file(cairn.at(name))?;
        content.remove(Path::new(name));
    }
    write(cairn, content, "new".as_ref(), tree::bytes(202, 1000))?;
    for name in ["big/r1", "big/r3", "small/moved", "sparse", "large"] {
        cairn.release(name)?;
        ensure!(
            on_disk(&cairn.below(name))? <= 8192,
            "{name}\n{}",
            cairn.log()
        );
    }
    // Renamed as a stub.
    fs::rename(cairn.at("big/r3"), cairn.at("odd/r3"))?;
    let data = content.remove(Path::new("big/r3")).context("r3")?;
    content.insert("odd/r3".into(), data);
    Ok(())
}

fn same_content(cairn: &Instance, content: &Content) -> Result<()> {
    cairn.cold()?;
    for (name, data) in content {
        let read = fs::read(cairn.mount.join(name));
        let read = read.with_context(|| format!("{}\n{}", name.display(), cairn.log()))?;
        ensure!(read == *data, "{} differs", name.display());
    }
    Ok(())
}

pub(crate) fn dump(cairn: &Instance, what: &str) -> Result<String> {
    cairn.cairn([
        OsStr::new("catalog"),
        OsStr::new("dump"),
        OsStr::new("--state"),
        cairn.state.as_os_str(),
        OsStr::new("--what"),
        OsStr::new(what),
    ])
}

/// What `diff` would print.
fn differences(before: &str, after: &str) -> Vec<String> {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (before, after) = (lines(before), lines(after));
    let gone = before
        .iter()
        .filter(|l| !after.contains(l))
        .map(|l| format!("- {l}"));
    let new = after
        .iter()
        .filter(|l| !before.contains(l))
        .map(|l| format!("+ {l}"));
    gone.chain(new).collect()
}

pub(crate) fn assert_same(before: &str, after: &str) -> Result<()> {
    let found = differences(before, after);
    ensure!(found.is_empty(), "{}", found.join("\n"));
    ensure!(before == after, "the order differs");
    Ok(())
}

pub(crate) fn forget_catalog(cairn: &Instance) -> Result<()> {
    for name in ["catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"] {
        match fs::remove_file(cairn.state.join(name)) {
            Err(why) if why.kind() != std::io::ErrorKind::NotFound => return Err(why.into()),
            _ => {}
        }
    }
    Ok(())
}

fn command(cairn: &Instance, options: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.arg("rebuild").args(["--json", "--state"]);
    command.arg(&cairn.state).args(options);
    let url = format!("disk=dir:{}", cairn.tier.display());
    command.args(["--tier", &url]).arg(&cairn.backing);
    command.stdin(Stdio::null());
    command
}

pub(crate) fn rebuild(cairn: &Instance, options: &[&str]) -> Result<(Output, serde_json::Value)> {
    let output = command(cairn, options).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let report = serde_json::from_str(&text).unwrap_or(serde_json::Value::Null);
    Ok((output, report))
}

pub(crate) fn rebuilt(cairn: &Instance, options: &[&str]) -> Result<serde_json::Value> {
    let (output, report) = rebuild(cairn, options)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.success(),
        "{}\n{report}\n{said}",
        output.status
    );
    ensure!(
        report["schema"] == "cairn.rebuild.v1" && report["complete"] == true,
        "{report}"
    );
    Ok(report)
}

/// A populated instance that is down; what is in it, and its catalog's dumps.
pub(crate) fn lived_in() -> Result<(Instance, Content, String, String)> {
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let content = populate(&mut cairn)?;
    cairn.down()?;
    let (some, all) = (dump(&cairn, BY_ALL)?, dump(&cairn, BY_TIERS)?);
    ensure!(
        some.lines().filter(|l| l.contains("released")).count() >= 5,
        "{some}"
    );
    ensure!(some.contains("dirty"), "{some}");
    Ok((cairn, content, some, all))
}

/// It serves, releases what it has copies of, and names aggregates that never were.
fn goes_on(cairn: &mut Instance, content: &Content) -> Result<()> {
    cairn.up()?;
    same_content(cairn, content)?;
    cairn.archive("")?;
    cairn.release("big/r0")?;
    ensure!(on_disk(&cairn.below("big/r0"))? <= 8192, "{}", cairn.log());
    same_content(cairn, content)?;
    cairn.down()
}

#[test]
fn a_catalog_that_was_deleted_is_built_anew_from_stubs() -> Result<()> {
    needs_mounts!();
    let (mut cairn, content, before, _) = lived_in()?;
    forget_catalog(&cairn)?;
    let report = rebuilt(&cairn, &["--from", "stubs"])?;
    ensure!(
        report["files"]["dirty"] == 1 && report["files"]["lost"] == 0,
        "{report}"
    );
    assert_same(&before, &dump(&cairn, BY_ALL)?)?;
    goes_on(&mut cairn, &content)
}

#[test]
fn a_catalog_that_was_deleted_is_built_anew_from_tiers() -> Result<()> {
    needs_mounts!();
    let (mut cairn, content, _, before) = lived_in()?;
    forget_catalog(&cairn)?;
    let report = rebuilt(&cairn, &["--from", "tiers"])?;
    ensure!(
        report["without_copy"] == 0 && report["problems"] == serde_json::json!([]),
        "{report}"
    );
    assert_same(&before, &dump(&cairn, BY_TIERS)?)?;
    goes_on(&mut cairn, &content)
}

/// Killed again and again, it comes to the same end. What it was to replace is kept.
#[test]
fn a_rebuild_that_is_killed_goes_on() -> Result<()> {
    needs_mounts!();
    let (mut cairn, content, _, before) = lived_in()?;
    // Damaged in the middle, and not by its header.
    let path = cairn.state.join("catalog.sqlite");
    let mut bytes = fs::read(&path)?;
    let middle = bytes.len() / 2;
    bytes[middle..middle + 20_000].fill(0x5a);
    bytes[4096..8192].fill(0x5a);
    fs::write(&path, &bytes)?;
    let mut patience = Duration::from_millis(2);
    let (mut kills, mut asides) = (0, Vec::new());
    loop {
        let mut run = command(&cairn, &[]);
        let mut child = run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        std::thread::sleep(patience);
        let ended = child.try_wait()?.is_some();
        child.kill()?;
        let output = child.wait_with_output()?;
        if ended {
            // The one before may have been killed behind its last step.
            let said = String::from_utf8_lossy(&output.stderr);
            let done = output.status.success() || said.contains("a rebuild of it is done");
            ensure!(done, "{} {said}", output.status);
            break;
        }
        kills += 1;
        patience = patience.mul_f32(1.5);
        ensure!(kills < 60, "it never ends");
    }
    ensure!(kills > 3, "{kills} kills");
    for entry in fs::read_dir(&cairn.state)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("catalog.sqlite.aside-")
            && !name.ends_with("-wal")
            && !name.ends_with("-shm")
        {
            asides.push(name);
        }
    }
    ensure!(asides.len() == 1, "{asides:?}");
    ensure!(
        fs::read(cairn.state.join(&asides[0]))? == bytes,
        "not as it was"
    );
    assert_same(&before, &dump(&cairn, BY_TIERS)?)?;
    goes_on(&mut cairn, &content)
}

/// The records are gone: the aggregates alone say which file is which, and `repair` puts the stubs back.
#[test]
fn files_that_lost_their_records_are_known_again_from_tiers() -> Result<()> {
    needs_mounts!();
    let (mut cairn, content, _, before) = lived_in()?;
    let all = Command::new("find")
        .arg(&cairn.backing)
        .args([
            "-type",
            "f",
            "-exec",
            "setfattr",
            "-x",
            "trusted.cairn.record",
            "{}",
            "+",
        ])
        .stderr(Stdio::null())
        .status();
    all?;
    forget_catalog(&cairn)?;
    let report = rebuilt(&cairn, &["--from", "tiers"])?;
    // The dirty one is no file that any aggregate has.
    ensure!(
        report["files"]["lost"] == 5 && report["files"]["dirty"] == 0,
        "{report}"
    );
    let after = dump(&cairn, BY_TIERS)?;
    let found = differences(
        &before,
        &after.replace(r#""state":"lost""#, r#""state":"released""#),
    );
    let dirty: Vec<_> = found
        .iter()
        .filter(|l| !l.contains("dirty") && !l.contains(r#""none""#))
        .collect();
    ensure!(dirty.is_empty(), "{found:#?}");
    cairn.up()?;
    ensure!(fs::read(cairn.at("large")).is_err(), "zeros");
    cairn.cairn(["repair", "--apply"])?;
    same_content(&cairn, &content)?;
    cairn.down()
}

#[test]
fn a_damaged_index_is_read_from_the_front_and_counts_for_little() -> Result<()> {
    needs_mounts!();
    let (mut cairn, content, before, _) = lived_in()?;
    let tars = Command::new("find")
        .arg(&cairn.tier)
        .args(["-name", "*.tar"])
        .output()?;
    let tars = String::from_utf8(tars.stdout)?;
    let first = tars.lines().min().context("an aggregate")?;
    let file = File::options().write(true).open({
        fs::set_permissions(first, Permissions::from_mode(0o600))?;
        first
    })?;
    let len = file.metadata()?.len();
    // The trailer, and its length with it.
    file.set_len(len - 100)?;
    forget_catalog(&cairn)?;
    let report = rebuilt(&cairn, &["--from", "tiers"])?;
    ensure!(report["tiers"][0]["damaged"] == 1, "{report}");
    ensure!(
        report["problems"].to_string().contains("from the front"),
        "{report}"
    );
    let after = dump(&cairn, "names,copies")?;
    ensure!(after.contains("suspect"), "{after}");
    let known = |text: &str| {
        text.lines()
            .filter(|l| l.contains(r#""what":"copies""#))
            .count()
    };
    ensure!(
        known(&before) == known(&after),
        "{} {}",
        known(&before),
        known(&after)
    );
    cairn.up()?;
    drop(content);
    cairn.down()
}

#[test]
fn a_rebuild_is_refused_where_it_could_do_harm() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    fs::write(cairn.at("f"), b"data")?;
    cairn.archive("f")?;
    let refused = |cairn: &Instance, options: &[&str], code: i32, word: &str| -> Result<()> {
        let (output, _) = rebuild(cairn, options)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(code) && said.contains(word),
            "{} {said}",
            output.status
        );
        Ok(())
    };
    refused(&cairn, &[], 1, "in use")?;
    cairn.down()?;
    refused(&cairn, &[], 1, "--anew")?;
    // A tier that is not mounted is not made, and the rebuild is not done.
    forget_catalog(&cairn)?;
    let aside = cairn.dir.path().join("aside");
    fs::rename(&cairn.tier, &aside)?;
    fs::create_dir(&cairn.tier)?;
    let (output, report) = rebuild(&cairn, &[])?;
    ensure!(
        output.status.code() == Some(6) && report["complete"] == false,
        "{report}"
    );
    ensure!(
        fs::read_dir(&cairn.tier)?.next().is_none(),
        "a tier was made"
    );
    fs::remove_dir(&cairn.tier)?;
    fs::rename(&aside, &cairn.tier)?;
    refused(&cairn, &["--from", "stubs"], 1, "other sources")?;
    let report = rebuilt(&cairn, &[])?;
    ensure!(report["resumed"] == true, "{report}");
    let report = rebuilt(&cairn, &["--anew"])?;
    ensure!(
        Path::new(report["aside"].as_str().unwrap_or_default()).exists(),
        "{report}"
    );
    Ok(())
}

/// `up` goes on by itself where the catalog is gone, and says so; it names the command where it is
/// damaged.
#[test]
fn up_says_what_to_do_about_a_catalog() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    fs::write(cairn.at("f"), b"data")?;
    cairn.archive("f")?;
    cairn.down()?;
    ensure!(!cairn.log().contains("cairn rebuild"), "{}", cairn.log());
    forget_catalog(&cairn)?;
    cairn.up()?;
    ensure!(
        cairn.log().contains("the catalog is gone"),
        "{}",
        cairn.log()
    );
    ensure!(cairn.log().contains("cairn rebuild"), "{}", cairn.log());
    cairn.down()?;
    fs::write(cairn.state.join("catalog.sqlite"), vec![7; 9000])?;
    if cairn.up().is_ok() {
        bail!("it started");
    }
    let log = cairn.log();
    ensure!(
        log.contains("is not a catalog") && log.contains("cairn rebuild puts it aside"),
        "{log}"
    );
    Ok(())
}
