//! A tier on another host, behind its mover: two hosts that the test builds, and a mover that is killed in the middle.

use crate::needs_mounts;
use crate::rig::far::{Caller, Far, behind};
use crate::rig::lan::{Lan, no_networks};
use crate::rig::{Instance, on_disk, program, tree, wait_for};
use anyhow::{Context, Result, ensure};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

const SERVER: &str = "10.77.0.1:7300";
/// Of each large file.
const LARGE: usize = 80 << 20;
const LARGE_FILES: usize = 3;
const SMALL_FILES: usize = 300;

/// A mover on another host; killed when it is dropped.
struct Mover {
    child: Child,
    before: Vec<OsString>,
    caller: Caller,
    url: String,
}

impl Mover {
    /// Starts it, and waits until it has joined.
    fn start(caller: &Caller, url: &str, is_new: bool) -> Result<Self> {
        let mut mover = Self {
            child: behind(&caller.before, OsStr::new("true")).spawn()?,
            before: caller.before.clone(),
            caller: caller.clone(),
            url: url.to_owned(),
        };
        mover.child.wait()?;
        mover.start_again(is_new)?;
        Ok(mover)
    }

    fn start_again(&mut self, is_new: bool) -> Result<()> {
        let mut command = behind(&self.before, &program());
        command.arg("mover").args(["--join", SERVER]);
        if is_new {
            command.arg("--new");
        }
        command
            .arg(&self.url)
            .envs(self.caller.environment.iter().map(|(n, v)| (n, v)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        self.child = command.spawn()?;
        let mut said = String::new();
        let out = self.child.stdout.take().context("its output")?;
        BufReader::new(out).read_line(&mut said)?;
        ensure!(said.starts_with("ready mover "), "{said:?}");
        Ok(())
    }

    /// Bytes that it read so far, from wherever.
    fn has_read(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/io", self.child.id()))?;
        let count = text.lines().find_map(|l| l.strip_prefix("rchar: "));
        Ok(count.context("no count")?.parse()?)
    }

    fn die(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The most streams that the server's host saw at one time, besides the mover's own connection.
fn streams(lan: &Lan, most: &mut usize) -> Result<()> {
    let here = lan.connections("server")?;
    let here = here.iter().filter(|(local, _)| local == SERVER).count();
    *most = (*most).max(here.saturating_sub(1));
    Ok(())
}

fn bytes_below(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else {
        return 0;
    };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(m) if m.is_dir() => bytes_below(&entry.path()),
        Ok(m) => m.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

fn content(n: usize) -> Vec<u8> {
    match n {
        n if n < LARGE_FILES => tree::bytes(n as u64, LARGE),
        n => tree::bytes(n as u64, 1000 + 37 * n),
    }
}

fn name(n: usize) -> String {
    match n {
        n if n < LARGE_FILES => format!("tree/large-{n}"),
        n => format!("tree/d{}/small-{n}", n % 7),
    }
}

/// A tree of large and small files on the mount.
fn plant(cairn: &Instance) -> Result<()> {
    fs::create_dir(cairn.at("tree"))?;
    for n in 0..7 {
        fs::create_dir(cairn.at(&format!("tree/d{n}")))?;
    }
    for n in 0..LARGE_FILES + SMALL_FILES {
        fs::write(cairn.at(&name(n)), content(n))?;
    }
    Ok(())
}

fn compare(cairn: &Instance) -> Result<()> {
    for n in 0..LARGE_FILES + SMALL_FILES {
        ensure!(
            fs::read(cairn.at(&name(n)))? == content(n),
            "{} differs",
            name(n)
        );
    }
    Ok(())
}

/// Bytes of the large files that are on disk.
fn here(cairn: &Instance) -> Result<u64> {
    (0..LARGE_FILES)
        .map(|n| on_disk(&cairn.below(&name(n))))
        .sum()
}

/// Files that are not back.
fn away(cairn: &Instance) -> Result<usize> {
    let mut count = 0;
    for n in 0..LARGE_FILES + SMALL_FILES {
        count += usize::from(cairn.shown_state(&name(n))? != "archived");
    }
    Ok(count)
}

/// Asks, and says its number.
fn ask(cairn: &Instance, verb: &str) -> Result<String> {
    let said = cairn.cairn([OsStr::new(verb), cairn.at("tree").as_os_str()])?;
    Ok(said.trim().to_owned())
}

fn done(cairn: &Instance, request: &str) -> Result<()> {
    cairn
        .cairn(["wait", "--timeout", "300s", request])
        .map(drop)
}

struct Hosts {
    lan: Lan,
    cairn: Instance,
    far: Far,
    tier: PathBuf,
}

fn hosts() -> Result<Hosts> {
    let lan = Lan::new()?;
    let mut cairn = Instance::new(None)?;
    cairn
        .args
        .extend(["--tier".into(), "far=mover:vault?streams=4".into()]);
    cairn.up()?;
    let far = Far::open_at(&cairn, &lan.on("server"), SERVER, &[])?;
    let tier = cairn.dir.path().join("vault");
    Ok(Hosts {
        lan,
        cairn,
        far,
        tier,
    })
}

impl Hosts {
    /// Somebody on the second host, with a token for the mover.
    fn second(&self) -> Result<Caller> {
        let said = self.cairn.cairn(["token", "issue", "--mover", "vault"])?;
        let token = said.lines().find_map(|l| l.strip_prefix("CAIRN_TOKEN="));
        let mut second = self.far.caller(token.context("no token")?);
        second.before = self.lan.on("macvlan");
        Ok(second)
    }
}

#[test]
fn a_tree_goes_to_a_second_host_and_back_though_its_mover_is_killed() -> Result<()> {
    needs_mounts!();
    if let Some(why) = no_networks() {
        eprintln!(
            "SKIPPED a_tree_goes_to_a_second_host_and_back_though_its_mover_is_killed: {why}"
        );
        return Ok(());
    }
    let mut on = hosts()?;
    // Slow, so that there is a middle.
    let url = format!("dir:{}?rate=80MB/s", on.tier.display());
    let mut mover = Mover::start(&on.second()?, &url, true)?;
    plant(&on.cairn)?;
    let mut most = 0;
    let archived = ask(&on.cairn, "archive")?;
    wait_for("a third to be there", || {
        streams(&on.lan, &mut most)?;
        Ok(bytes_below(&on.tier) > (LARGE_FILES * LARGE / 3) as u64)
    })?;
    mover.die()?;
    let there = bytes_below(&on.tier);
    let all = (LARGE_FILES * LARGE) as u64;
    ensure!(there < all, "all {there} bytes were there before the kill");
    mover.start_again(false)?;
    done(&on.cairn, &archived)?;
    let put = std::mem::take(&mut most);
    let freed = ask(&on.cairn, "release")?;
    done(&on.cairn, &freed)?;
    let few = (LARGE_FILES * 8192) as u64;
    ensure!(
        here(&on.cairn)? <= few,
        "{} bytes are not released",
        here(&on.cairn)?
    );
    on.cairn.cold()?;
    let staged = ask(&on.cairn, "stage")?;
    let before = mover.has_read()?;
    wait_for("some of it to be read", || {
        streams(&on.lan, &mut most)?;
        Ok(mover.has_read()? > before + all / 4)
    })?;
    mover.die()?;
    let away = away(&on.cairn)?;
    ensure!(away > 0, "all was back before the kill");
    mover.start_again(false)?;
    done(&on.cairn, &staged)?;
    compare(&on.cairn)?;
    ensure!(
        put >= 4 && most >= 4,
        "streams at one time: put {put}, recall {most}"
    );
    println!(
        "of {all} bytes {there} were there at the first kill, {away} files away at the second; streams at one time: \
         {put} to the mover, {most} from it"
    );
    on.cairn.down()
}

#[test]
fn a_user_is_no_mover_a_mover_no_user_and_a_revoked_one_neither() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn
        .args
        .extend(["--tier".into(), "far=mover:vault".into()]);
    cairn.up()?;
    let far = Far::open(&cairn)?;
    let said = cairn.cairn(["token", "issue", "--mover", "vault"])?;
    let token = said.lines().find_map(|l| l.strip_prefix("CAIRN_TOKEN="));
    let (vault, user) = (
        far.caller(token.context("no token")?),
        far.caller(&far.token(&cairn, 0)?),
    );
    let url = format!("dir:{}", cairn.dir.path().join("vault").display());
    let said = user.fails(5, ["mover", "--join", &far.at, &url])?;
    ensure!(said.contains("a user's, and not a mover's"), "{said}");
    let said = vault.fails(5, ["put", "/etc/hostname", ":x"])?;
    ensure!(said.contains("the token is a mover's"), "{said}");
    // One that is here is ended, too.
    let mut here = vault
        .command(["mover", "--join", &far.at, "--new", &url])
        .spawn()?;
    let mut out = BufReader::new(here.stdout.take().context("its output")?);
    out.read_line(&mut String::new())?;
    let list = cairn.cairn(["token", "list"])?;
    let id = list
        .lines()
        .find(|l| l.contains("mover:vault"))
        .context(list.clone())?;
    let id = id.split_whitespace().next().context("an id")?;
    cairn.cairn(["token", "revoke", id])?;
    let said = vault.fails(5, ["mover", "--join", &far.at, &url])?;
    ensure!(said.contains("not known, or void"), "{said}");
    wait_for("the mover to be ended", || Ok(here.try_wait()?.is_some()))?;
    let status = cairn.run(["status"])?;
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    ensure!(status.contains("mover vault is not here"), "{status}");
    cairn.down()
}
