//! Copies from every network that a container can have, on networks that the test builds: who dials whom is counted
//! from outside, and not from our own log.

use crate::needs_mounts;
use crate::rig::far::{Caller, Far, both};
use crate::rig::lan::{Lan, no_networks};
use crate::rig::{Instance, program, tree, wait_for};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// Bytes of a file, and how many of them go in a second: a copy lasts, and connections are counted meanwhile. Those who
/// have time copy more.
fn of_a_file() -> (usize, &'static str) {
    match std::env::var_os("CAIRN_TEST_WHOLE") {
        Some(_) => (256 << 20, "100M"),
        None => (64 << 20, "40M"),
    }
}
/// Of an archive: more than its client has under way at one time.
const SIZE: usize = 256 << 20;
pub(super) const SERVER: &str = "10.77.0.1:7300";
const STREAMS: &str = "4";
/// Of archives: more than the control connections of a copy of many members, so that they are told apart by their number.
pub(super) const ARCHIVE_STREAMS: usize = 8;
/// The most control connections of one copy: three at a time, and those before them that may still be closing.
pub(super) const CONTROL: usize = 6;
/// The connection that looked what is there may still be closing when the copy's own is up: one more.
pub(super) const LOOKED: usize = 1;

/// Leaves the test, saying so, where it cannot build networks.
macro_rules! needs_networks {
    ($test:literal) => {
        needs_mounts!();
        if let Some(why) = no_networks() {
            eprintln!("SKIPPED {}: {why}", $test);
            return Ok(());
        }
    };
}

/// Streams, each by its two ends, as the server's host saw them.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The server dialled: its own port is any.
    pub(super) by_server: BTreeSet<(String, String)>,
    /// The caller dialled the server's one port: the most at one time. One of them is its control connection.
    pub(super) by_caller: usize,
}

impl Seen {
    pub(super) const fn dialled_out(&self) -> usize {
        self.by_caller.saturating_sub(1)
    }
}

pub(super) struct Net {
    pub(super) lan: Lan,
    pub(super) cairn: Instance,
    pub(super) far: Far,
    file: PathBuf,
    data: Vec<u8>,
}

impl Net {
    pub(super) fn new() -> Result<Self> {
        let lan = Lan::new()?;
        let mut cairn = Instance::new(None)?;
        cairn.up()?;
        let far = Far::open_at(&cairn, &lan.on("server"), SERVER, &[])?;
        let data = tree::bytes(77, of_a_file().0);
        let file = cairn.dir.path().join("file");
        fs::write(&file, &data)?;
        Ok(Self {
            lan,
            cairn,
            far,
            file,
            data,
        })
    }

    pub(super) fn caller(&self, host: &str) -> Result<Caller> {
        let mut caller = self.far.caller(&self.far.token(&self.cairn, 0)?);
        caller.before = self.lan.on(host);
        Ok(caller)
    }

    /// Runs a copy, and looks at the server's connections until it is over.
    fn watched(&self, caller: &Caller, args: &[&str]) -> Result<(Seen, String)> {
        let mut child = caller.command(args).spawn()?;
        let mut seen = Seen::default();
        wait_for("the copy to end", || {
            let all = self.lan.connections("server")?.into_iter();
            let (out, back): (Vec<_>, Vec<_>) = all.partition(|(here, _)| here == SERVER);
            seen.by_caller = seen.by_caller.max(out.len());
            seen.by_server.extend(back);
            Ok(child.try_wait()?.is_some())
        })?;
        let output = child.wait_with_output()?;
        let said = both(&output);
        ensure!(
            output.status.success(),
            "{args:?}: {said}\n{}",
            self.far.log()
        );
        Ok((seen, said))
    }

    /// Both directions of one cell; what was seen of each.
    pub(super) fn cell(&self, caller: &Caller, what: &str) -> Result<Vec<(Seen, String)>> {
        let (there, back) = (format!(":{what}"), self.cairn.dir.path().join(what));
        let file = self.file.to_str().context("a path")?;
        let rate = ["--streams", STREAMS, "--limit-rate", of_a_file().1];
        let put = self.watched(caller, &[&["put"], &rate[..], &[file, &there]].concat())?;
        ensure!(
            fs::read(self.cairn.at(what))? == self.data,
            "{what}: other bytes are there"
        );
        let to = back.to_str().context("a path")?;
        let get = self.watched(caller, &[&["get"], &rate[..], &[&there, to]].concat())?;
        ensure!(
            fs::read(&back)? == self.data,
            "{what}: other bytes came back"
        );
        fs::remove_file(&back)?;
        fs::remove_file(self.cairn.at(what))?;
        Ok(vec![put, get])
    }
}

/// What an archive of 256 MiB is made of: large files and small ones.
pub(super) fn members(top: &Path) -> Result<()> {
    fs::create_dir_all(top.join("tree/small"))?;
    let large = (SIZE - 2000 * 5000) / 4;
    for n in 0..4 {
        let file = top.join(format!("tree/large-{n}"));
        fs::write(file, tree::bytes(n, large))?;
    }
    for n in 0..2000 {
        let file = top.join(format!("tree/small/{n}"));
        fs::write(file, tree::bytes(n, 5000))?;
    }
    Ok(())
}

/// Are both trees the same, as `diff` sees them?
fn is_same(one: &Path, other: &Path) -> Result<()> {
    let output = Command::new("diff")
        .args(["-r", "--no-dereference"])
        .args([one, other])
        .output()?;
    ensure!(output.status.success(), "{}", both(&output));
    Ok(())
}

impl Net {
    /// Both directions of an archive's cell, verified with tar; what was seen of each.
    pub(super) fn archive_cell(&self, caller: &Caller, what: &str) -> Result<Vec<(Seen, String)>> {
        let dir = self.cairn.dir.path();
        let (tree, back) = (dir.join("tree"), dir.join(what));
        let there = format!(":{what}.tar");
        let streams = ARCHIVE_STREAMS.to_string();
        let rate = ["--tar", "--streams", &streams, "--limit-rate", "400M"];
        let from = tree.to_str().context("a path")?;
        let put = self.watched(caller, &[&["put"], &rate[..], &[from, &there]].concat())?;
        let archive = self.cairn.at(&format!("{what}.tar"));
        fs::create_dir(&back)?;
        let tar = Command::new("tar")
            .arg("-xf")
            .arg(&archive)
            .arg("-C")
            .arg(&back)
            .output()?;
        ensure!(
            tar.status.success() && both(&tar).is_empty(),
            "{}",
            both(&tar)
        );
        is_same(&tree, &back.join("tree"))?;
        fs::remove_dir_all(&back)?;
        let to = back.to_str().context("a path")?;
        let get = self.watched(caller, &[&["get"], &rate[..], &[&there, to]].concat())?;
        is_same(&tree, &back.join("tree"))?;
        fs::remove_dir_all(&back)?;
        Ok(vec![put, get])
    }

    /// A member is got there: bytes that its host received for it.
    fn member(&self, host: &str, device: &str, caller: &Caller, what: &str) -> Result<u64> {
        let back = self.cairn.dir.path().join("member");
        let (there, to) = (format!(":{what}.tar"), back.to_str().context("a path")?);
        let before = self.lan.received(host, device)?;
        caller.does(["get", "--tar", "--member", "tree/small/7", &there, to])?;
        let received = self.lan.received(host, device)? - before;
        ensure!(fs::read(back.join("tree/small/7"))? == tree::bytes(7, 5000));
        fs::remove_dir_all(&back)?;
        fs::remove_file(self.cairn.at(&format!("{what}.tar")))?;
        Ok(received)
    }
}

#[test]
fn every_network_of_a_container_carries_archives_in_parallel_either_way() -> Result<()> {
    needs_networks!("every_network_of_a_container_carries_archives_in_parallel_either_way");
    let mut net = Net::new()?;
    members(net.cairn.dir.path())?;
    println!(
        "| network | dialled by the server | dialled by the caller | a member of 5,000 bytes |"
    );
    for (host, device, advertised, ports) in [
        ("bridged", "eth0", "10.77.0.2", "7010-7019:7000-7009"),
        ("host", "eth0", "10.77.0.2", "7000-7009"),
        ("macvlan", "mv0", "10.77.0.3", "7000-7009"),
    ] {
        let plain = net.caller(host)?;
        let told = plain
            .with("CAIRN_HOSTNAME", advertised)
            .with("CAIRN_PORT_RANGE", ports);
        let (parallel, firewall) = (format!("{host}-parallel"), format!("{host}-firewall"));
        let low: u16 = ports.split('-').next().context("a range")?.parse()?;
        let mut counted = Vec::new();
        for (seen, said) in net.archive_cell(&told, &parallel)? {
            ensure!(said.contains("dialled by the server"), "{host}: {said}");
            for (_, there) in &seen.by_server {
                let port = there.strip_prefix(&format!("{advertised}:"));
                let port: u16 = port.context(there.clone())?.parse()?;
                ensure!((low..low + 10).contains(&port), "{host}: dialled {there}");
            }
            ensure!(
                seen.by_server.len() >= ARCHIVE_STREAMS && seen.by_caller <= CONTROL,
                "{host}: {seen:?}"
            );
            counted.push(seen.by_server.len());
        }
        // One archive is one transfer.
        ensure!(counted[0] == ARCHIVE_STREAMS, "{host}: {counted:?}");
        for (seen, said) in net.archive_cell(&plain, &firewall)? {
            ensure!(said.contains("dialling out"), "{host}: {said}");
            ensure!(
                seen.by_server.is_empty() && seen.dialled_out() >= ARCHIVE_STREAMS,
                "{host}: {seen:?}"
            );
            counted.push(seen.dialled_out());
        }
        ensure!(
            counted[2] - ARCHIVE_STREAMS <= LOOKED,
            "{host}: {counted:?}"
        );
        let bytes = [
            net.member(host, device, &told, &parallel)?,
            net.member(host, device, &plain, &firewall)?,
        ];
        ensure!(bytes.iter().all(|b| *b < 2 << 20), "{host}: {bytes:?}");
        println!(
            "| {host} | put {}, get {} | put {}, get {} at a time | {} and {} bytes received |",
            counted[0], counted[1], counted[2], counted[3], bytes[0], bytes[1]
        );
    }
    net.cairn.down()
}

#[test]
fn every_network_of_a_container_carries_files_in_parallel_either_way() -> Result<()> {
    needs_networks!("every_network_of_a_container_carries_files_in_parallel_either_way");
    let mut net = Net::new()?;
    println!("| network | streams dialled by the server | streams dialled by the caller |");
    for (host, advertised, ports) in [
        ("bridged", "10.77.0.2", "7010-7019:7000-7009"),
        ("host", "10.77.0.2", "7000-7009"),
        ("macvlan", "10.77.0.3", "7000-7009"),
    ] {
        let plain = net.caller(host)?;
        let told = plain
            .with("CAIRN_HOSTNAME", advertised)
            .with("CAIRN_PORT_RANGE", ports);
        let mut counted = Vec::new();
        for (way, (seen, said)) in ["put", "get"]
            .iter()
            .zip(net.cell(&told, &format!("{host}-parallel"))?)
        {
            ensure!(
                said.contains("dialled by the server"),
                "{host} {way}: {said}"
            );
            ensure!(seen.by_server.len() == 4, "{host} {way}: {seen:?}");
            let low: u16 = ports.split('-').next().context("a range")?.parse()?;
            for (_, there) in &seen.by_server {
                let port: u16 = there
                    .strip_prefix(&format!("{advertised}:"))
                    .context(there.clone())?
                    .parse()?;
                ensure!(
                    (low..low + 10).contains(&port),
                    "{host} {way}: dialled {there}"
                );
            }
            ensure!(seen.dialled_out() <= LOOKED, "{host} {way}: {seen:?}");
            counted.push(seen.by_server.len());
        }
        let mut out = Vec::new();
        for (way, (seen, said)) in ["put", "get"]
            .iter()
            .zip(net.cell(&plain, &format!("{host}-firewall"))?)
        {
            ensure!(said.contains("dialling out"), "{host} {way}: {said}");
            ensure!(seen.by_server.is_empty(), "{host} {way}: {seen:?}");
            let streams = seen.dialled_out();
            ensure!(
                (4..=4 + LOOKED).contains(&streams),
                "{host} {way}: {seen:?}"
            );
            out.push(streams);
        }
        println!(
            "| {host} | put {}, get {} | put {}, get {} |",
            counted[0], counted[1], out[0], out[1]
        );
    }
    net.cairn.down()
}

#[test]
fn where_nothing_is_published_that_is_said_in_a_line_and_the_caller_dials() -> Result<()> {
    needs_networks!("where_nothing_is_published_that_is_said_in_a_line_and_the_caller_dials");
    let mut net = Net::new()?;
    let told = net
        .caller("hidden")?
        .with("CAIRN_HOSTNAME", "10.77.0.2")
        .with("CAIRN_PORT_RANGE", "7000-7009");
    for (way, (seen, said)) in ["put", "get"].iter().zip(net.cell(&told, "hidden")?) {
        let why = "the server cannot reach you";
        ensure!(said.matches(why).count() == 1, "{way}: {said}");
        ensure!(
            said.lines().any(|l| l.contains(why)
                && l.contains("10.77.0.2")
                && l.ends_with("dialling out instead")),
            "{way}: {said}"
        );
        let streams = seen.dialled_out();
        ensure!((4..=4 + LOOKED).contains(&streams), "{way}: {seen:?}");
    }
    members(net.cairn.dir.path())?;
    for (seen, said) in net.archive_cell(&told, "hidden")? {
        let why = "the server cannot reach you";
        ensure!(said.matches(why).count() == 1, "{said}");
        ensure!(seen.dialled_out() >= ARCHIVE_STREAMS, "{seen:?}");
    }
    net.cairn.down()
}

/// Ten at once, and each with ports of its own.
const TEN: usize = 10;

#[test]
fn ten_with_leased_ports_copy_both_ways_at_once_and_a_lease_goes_with_its_holder() -> Result<()> {
    needs_networks!(
        "ten_with_leased_ports_copy_both_ways_at_once_and_a_lease_goes_with_its_holder"
    );
    let mut net = Net::new()?;
    let data = tree::bytes(78, 48 << 20);
    fs::write(&net.file, &data)?;
    let place = net.cairn.dir.path().join("ports");
    let caller = net.caller("host")?.with("CAIRN_HOSTNAME", "10.77.0.2");
    let lease = |script: &str| leased(&caller, &place, script);
    let (file, back) = (net.file.display(), net.cairn.dir.path().join("back"));
    let mut running = Vec::new();
    for n in 0..TEN {
        let back = back.with_extension(n.to_string());
        let copy = format!(
            "echo range $CAIRN_PORT_RANGE; \"$0\" put --limit-rate 20M {file} :n{n} && \
             \"$0\" get --limit-rate 20M :n{n} {}; code=$?; sleep 1000 & wait; exit $code",
            back.display()
        );
        running.push((lease(&copy).spawn()?, back));
    }
    let mut dialled = BTreeSet::new();
    wait_for("all ten to come back", || {
        let all = net.lan.connections("server")?;
        dialled.extend(
            all.into_iter()
                .filter(|(here, _)| here != SERVER)
                .map(|(_, there)| there),
        );
        Ok(running
            .iter()
            .all(|(_, back)| fs::metadata(back).is_ok_and(|m| m.len() == data.len() as u64)))
    })?;
    for (n, (_, back)) in running.iter().enumerate() {
        ensure!(
            fs::read(back)? == data && fs::read(net.cairn.at(&format!("n{n}")))? == data,
            "{n}: other bytes"
        );
    }
    let list = || {
        caller.does([
            OsStr::new("ports"),
            "list".as_ref(),
            "--place".as_ref(),
            place.as_ref(),
        ])
    };
    let tens = tens(&dialled)?;
    ensure!(tens.len() == TEN, "{tens:?} of {:?}", list()?);
    println!(
        "ten at once: {} ports of {} ranges were dialled",
        dialled.len(),
        tens.len()
    );
    ensure!(
        list()?.lines().filter(|l| l.starts_with("71")).count() == TEN,
        "{}",
        list()?
    );
    let refused = both(&lease("true").output()?);
    ensure!(
        refused.contains("no 10 ports side by side are free in 7100-7199")
            && refused.contains(" by sh (process "),
        "{refused}"
    );
    // kill -9 of one, with all that it started: its range is free, and given again.
    let (mut child, _) = running.swap_remove(3);
    let gone = ends_with_all(&mut child)?;
    let again = both(&lease("echo range $CAIRN_PORT_RANGE").output()?);
    ensure!(again.trim() == gone, "{again:?} and not {gone:?}");
    for (mut child, _) in running {
        ends_with_all(&mut child)?;
    }
    wait_for("the leases to go", || Ok(list()?.lines().count() == 1))?;
    net.cairn.down()
}

/// A shell with ten ports of its own.
fn leased(caller: &Caller, place: &Path, script: &str) -> Command {
    let pool = [
        "ports",
        "lease",
        "--pool",
        "7100-7199",
        "--count",
        "10",
        "--place",
    ];
    let mut args: Vec<OsString> = pool.map(OsString::from).to_vec();
    args.push(place.into());
    args.extend(["--", "sh", "-c", script].map(OsString::from));
    args.push(program());
    caller.command(args)
}

/// The ranges that were dialled; nothing outside of the pool was, as the server's host saw it.
fn tens(dialled: &BTreeSet<String>) -> Result<BTreeSet<u16>> {
    let mut tens = BTreeSet::new();
    for there in dialled {
        let port = there.strip_prefix("10.77.0.2:").context(there.clone())?;
        let port: u16 = port.parse()?;
        ensure!((7100..7200).contains(&port), "dialled {there}");
        tens.insert(port / 10);
    }
    Ok(tens)
}

/// kill -9 of a shell and of what it started; the first line that it said.
fn ends_with_all(child: &mut Child) -> Result<String> {
    let pid = child.id();
    let tasks = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    for below in tasks
        .split_whitespace()
        .map(str::to_owned)
        .chain([pid.to_string()])
    {
        let pid = rustix::process::Pid::from_raw(below.parse()?).context("a process")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    }
    child.wait()?;
    let mut said = String::new();
    std::io::BufReader::new(child.stdout.take().context("its output")?).read_line(&mut said)?;
    Ok(said.trim().to_owned())
}

#[test]
fn the_doctor_says_of_each_network_what_is_missing() -> Result<()> {
    needs_networks!("the_doctor_says_of_each_network_what_is_missing");
    let mut net = Net::new()?;
    let told = |host: &str, name: &str, ports: &str| -> Result<Caller> {
        let caller = net.caller(host)?;
        Ok(caller
            .with("CAIRN_HOSTNAME", name)
            .with("CAIRN_PORT_RANGE", ports))
    };
    let published = "7010-7019:7000-7009";
    for (caller, says) in [
        (
            told("bridged", "10.77.0.2", published)?,
            "to do       nothing is missing",
        ),
        (
            told("macvlan", "10.77.0.3", "7000-7009")?,
            "to do       nothing is missing",
        ),
        (net.caller("hidden")?, "to do       nothing is missing"),
        // HPSS's mistake: the container's own address.
        (
            told("bridged", "172.31.0.2", published)?,
            "to do       set CAIRN_HOSTNAME=10.77.0.2",
        ),
        (
            told("hidden", "10.77.0.2", "7000-7009")?,
            "to do       publish the ports",
        ),
    ] {
        let said = caller.does(["doctor", "--size", "16M"])?;
        println!("{said}");
        ensure!(
            said.lines().any(|line| line.starts_with(says)),
            "{says}:\n{said}"
        );
        ensure!(said.contains("dialling    4 streams, "), "{said}");
    }
    let json = net
        .caller("bridged")?
        .does(["doctor", "--size", "1M", "--json"])?;
    let report: serde_json::Value = serde_json::from_str(&json)?;
    ensure!(report["schema"] == "cairn.doctor.v1", "{json}");
    ensure!(
        report["local"] == "172.31.0.2" && report["seen_as"] == "10.77.0.2",
        "{json}"
    );
    net.cairn.down()
}
