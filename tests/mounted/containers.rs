//! Copies from real containers (podman): each of its networks, both ways of dialling; and a server in a container.

use crate::needs_mounts;
use crate::rig::far::{Caller, Far, both};
use crate::rig::lan::{Lan, no_networks};
use crate::rig::podman::{CLIENT, Podman, SERVER as SERVER_IMAGE, no_podman};
use crate::rig::{Instance, tree, wait_for};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs;

const SIZE: usize = 256 << 20;
const SERVER: &str = "10.77.0.1:7300";

macro_rules! needs_podman {
    ($test:literal) => {
        needs_mounts!();
        if let Some(why) = no_networks().or_else(no_podman) {
            eprintln!("SKIPPED {}: {why}", $test);
            return Ok(());
        }
    };
}

/// Streams, as the server's host saw them.
#[derive(Debug, Default)]
struct Seen {
    by_server: BTreeSet<String>,
    /// The most at one time, the control connection among them.
    by_caller: usize,
}

struct Site {
    lan: Lan,
    cairn: Instance,
    far: Far,
    data: Vec<u8>,
}

impl Site {
    fn new() -> Result<Self> {
        let lan = Lan::new()?;
        let mut cairn = Instance::new(None)?;
        cairn.up()?;
        let far = Far::open_at(&cairn, &lan.on("server"), SERVER, &[])?;
        let data = tree::bytes(91, SIZE);
        fs::write(cairn.dir.path().join("file"), &data)?;
        Ok(Self {
            lan,
            cairn,
            far,
            data,
        })
    }

    /// A caller in a container with these options.
    fn caller(&self, podman: &Podman, options: &str) -> Result<Caller> {
        let place = self.cairn.dir.path().display();
        let environment = "-e CAIRN_SERVER -e CAIRN_TOKEN -e CAIRN_FINGERPRINT -e CAIRN_HOSTNAME -e CAIRN_PORT_RANGE";
        let mut caller = self.far.caller(&self.far.token(&self.cairn, 0)?);
        caller.before = podman.run(&format!("{options} {environment} -v {place}:{place}"));
        caller.runs = CLIENT.into();
        Ok(caller)
    }

    fn watched(&self, caller: &Caller, args: &[&str]) -> Result<(Seen, String)> {
        let mut child = caller.command(args).spawn()?;
        let mut seen = Seen::default();
        wait_for("the copy to end", || {
            let all = self.lan.connections("server")?.into_iter();
            let (out, back): (Vec<_>, Vec<_>) = all.partition(|(here, _)| here == SERVER);
            seen.by_caller = seen.by_caller.max(out.len());
            seen.by_server
                .extend(back.into_iter().map(|(_, there)| there));
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

    /// There and back, compared.
    fn cell(&self, caller: &Caller, what: &str) -> Result<Vec<(Seen, String)>> {
        let (file, back) = (
            self.cairn.dir.path().join("file"),
            self.cairn.dir.path().join(what),
        );
        let (file, to) = (
            file.to_str().context("a path")?,
            back.to_str().context("a path")?,
        );
        let there = format!(":{what}");
        let rate = ["--streams", "4", "--limit-rate", "400M"];
        let put = self.watched(caller, &[&["put"], &rate[..], &[file, &there]].concat())?;
        ensure!(
            fs::read(self.cairn.at(what))? == self.data,
            "{what}: other bytes are there"
        );
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
fn podmans_networks_carry_files_in_parallel_either_way() -> Result<()> {
    needs_podman!("podmans_networks_carry_files_in_parallel_either_way");
    let mut site = Site::new()?;
    let podman = Podman::new(&site.lan, "host", site.cairn.dir.path())?;
    podman.build("client", CLIENT)?;
    podman.does("network create --subnet 10.89.77.0/24 bridged")?;
    podman.does("network create -d macvlan -o parent=eth0 --subnet 10.77.0.0/24 outside")?;
    println!(
        "| network of podman | streams dialled by the server | streams dialled by the caller |"
    );
    for (network, options, advertised, ports) in [
        (
            "bridge",
            "--network bridged -p 7010-7019:7000-7009",
            "10.77.0.2",
            "7010-7019:7000-7009",
        ),
        ("host", "--network host", "10.77.0.2", "7000-7009"),
        (
            "macvlan",
            "--network outside --ip 10.77.0.77",
            "10.77.0.77",
            "7000-7009",
        ),
    ] {
        let plain = site.caller(&podman, options)?;
        let told = plain
            .with("CAIRN_HOSTNAME", advertised)
            .with("CAIRN_PORT_RANGE", ports);
        let mut counted = Vec::new();
        for (seen, said) in site.cell(&told, &format!("{network}-parallel"))? {
            ensure!(said.contains("dialled by the server"), "{network}: {said}");
            ensure!(seen.by_server.len() == 4, "{network}: {seen:?}");
            let way = format!("{advertised}:70");
            ensure!(
                seen.by_server.iter().all(|there| there.starts_with(&way)),
                "{network}: {seen:?}"
            );
            ensure!(seen.by_caller <= 1, "{network}: {seen:?}");
            counted.push(seen.by_server.len());
        }
        for (seen, said) in site.cell(&plain, &format!("{network}-firewall"))? {
            ensure!(said.contains("dialling out"), "{network}: {said}");
            ensure!(
                seen.by_server.is_empty() && seen.by_caller == 5,
                "{network}: {seen:?}"
            );
            counted.push(seen.by_caller - 1);
        }
        println!(
            "| {network} | put {}, get {} | put {}, get {} |",
            counted[0], counted[1], counted[2], counted[3]
        );
    }
    // As rootless containers are by default: nothing can be dialled.
    let hidden = site.caller(&podman, "--network slirp4netns")?;
    let hidden = hidden
        .with("CAIRN_HOSTNAME", "10.77.0.2")
        .with("CAIRN_PORT_RANGE", "7000-7009");
    for (seen, said) in site.cell(&hidden, "slirp4netns")? {
        let lines = said
            .lines()
            .filter(|l| l.contains("the server cannot reach you"));
        ensure!(
            lines.count() == 1 && said.contains("dialling out instead"),
            "{said}"
        );
        ensure!(seen.by_caller == 5, "{seen:?}");
    }
    println!("| slirp4netns, nothing forwarded | one line says why | put 4, get 4 |");
    drop(podman);
    site.cairn.down()
}

#[test]
fn a_server_in_a_container_archives_releases_and_recalls() -> Result<()> {
    needs_podman!("a_server_in_a_container_archives_releases_and_recalls");
    let lan = Lan::new()?;
    let place = tempfile::Builder::new()
        .prefix("cairn-test-")
        .tempdir_in("/var/tmp")?;
    let podman = Podman::new(&lan, "host", place.path())?;
    podman.build("server", SERVER_IMAGE)?;
    for name in ["backing", "state"] {
        fs::create_dir(place.path().join(name))?;
    }
    let at = place.path().display();
    let data = tree::bytes(92, 3 << 20);
    fs::write(place.path().join("file"), &data)?;
    podman.does(&format!(
        "run -d --name archive --device /dev/fuse --cap-add SYS_ADMIN --cap-add DAC_READ_SEARCH -v {at}/backing:/guarded/backing -v {at}/state:/state \
         -v {at}:/data {SERVER_IMAGE} up --listen 0.0.0.0:7300 --allow-same-fs --state /state --tier disk=dir:/state/tier \
         /guarded/backing /mount"
    ))?;
    let inside = |args: &str| podman.does(&format!("exec archive /usr/bin/cairn {args}"));
    wait_for("the server to be ready", || Ok(inside("ls /mount").is_ok()))?;
    let token = inside("token issue --user 0 /mount")?;
    let (token, fingerprint) = token.trim().split_once('\n').context("two lines")?;
    let remote = |args: &str| {
        podman.does(&format!(
            "exec -e {token} -e {fingerprint} -e CAIRN_SERVER=127.0.0.1:7300 archive /usr/bin/cairn {args}"
        ))
    };
    remote("put /data/file :file")?;
    inside("archive --wait /mount/file")?;
    inside("release --wait /mount/file")?;
    let listed = inside("ls -l /mount/file")?;
    ensure!(listed.contains("released"), "{listed}");
    remote("get :file /data/back")?;
    ensure!(
        fs::read(place.path().join("back"))? == data,
        "other bytes came back"
    );
    podman.does("stop -t 60 archive")?;
    Ok(())
}
