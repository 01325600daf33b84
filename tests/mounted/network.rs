//! Copies from every network that a container can have, on networks that the test builds: who dials whom is counted
//! from outside, and not from our own log.

use crate::needs_mounts;
use crate::rig::far::{Caller, Far, both};
use crate::rig::lan::{Lan, no_networks};
use crate::rig::{Instance, tree};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

const SIZE: usize = 256 << 20;
const SERVER: &str = "10.77.0.1:7300";
const STREAMS: &str = "4";

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
struct Seen {
    /// The server dialled: its own port is any.
    by_server: BTreeSet<(String, String)>,
    /// The caller dialled the server's one port: the most at one time. One of them is its control connection.
    by_caller: usize,
}

impl Seen {
    const fn dialled_out(&self) -> usize {
        self.by_caller.saturating_sub(1)
    }
}

struct Net {
    lan: Lan,
    cairn: Instance,
    far: Far,
    file: PathBuf,
    data: Vec<u8>,
}

impl Net {
    fn new() -> Result<Self> {
        let lan = Lan::new()?;
        let mut cairn = Instance::new(None)?;
        cairn.up()?;
        let far = Far::open_at(&cairn, &lan.on("server"), SERVER, &[])?;
        let data = tree::bytes(77, SIZE);
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

    fn caller(&self, host: &str) -> Result<Caller> {
        let mut caller = self.far.caller(&self.far.token(&self.cairn, 0)?);
        caller.before = self.lan.on(host);
        Ok(caller)
    }

    /// Runs a copy, and looks at the server's connections until it is over.
    fn watched(&self, caller: &Caller, args: &[&str]) -> Result<(Seen, String)> {
        let mut child = caller.command(args).spawn()?;
        let mut seen = Seen::default();
        while child.try_wait()?.is_none() {
            let all = self.lan.connections("server")?.into_iter();
            let (out, back): (Vec<_>, Vec<_>) = all.partition(|(here, _)| here == SERVER);
            seen.by_caller = seen.by_caller.max(out.len());
            seen.by_server.extend(back);
            sleep(Duration::from_millis(10));
        }
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
    fn cell(&self, caller: &Caller, what: &str) -> Result<Vec<(Seen, String)>> {
        let (there, back) = (format!(":{what}"), self.cairn.dir.path().join(what));
        let file = self.file.to_str().context("a path")?;
        let rate = ["--streams", STREAMS, "--limit-rate", "400M"];
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
            ensure!(seen.dialled_out() == 0, "{host} {way}: {seen:?}");
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
            ensure!(streams == 4, "{host} {way}: {seen:?}");
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
        ensure!(seen.dialled_out() == 4, "{way}: {seen:?}");
    }
    net.cairn.down()
}
