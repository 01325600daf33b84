//! Copies from real containers (podman): each of its networks, both ways of dialling; and a server in a container.

use crate::needs_mounts;
use crate::network::{ARCHIVE_STREAMS, CONTROL, LOOKED, Net, Seen, members};
use crate::rig::far::Caller;
use crate::rig::lan::{Lan, no_networks};
use crate::rig::podman::{CLIENT, Podman, SERVER as SERVER_IMAGE, no_podman};
use crate::rig::{tree, wait_for};
use anyhow::{Context, Result, ensure};
use std::fs;

macro_rules! needs_podman {
    ($test:literal) => {
        needs_mounts!();
        if let Some(why) = no_networks().or_else(no_podman) {
            eprintln!("SKIPPED {}: {why}", $test);
            return Ok(());
        }
    };
}

/// A caller in a container with these options.
fn caller(net: &Net, podman: &Podman, options: &str) -> Result<Caller> {
    let place = net.cairn.dir.path().display();
    let names = ["SERVER", "TOKEN", "FINGERPRINT", "HOSTNAME", "PORT_RANGE"];
    let environment = names.map(|name| format!(" -e CAIRN_{name}")).concat();
    let mut caller = net.caller("host")?;
    caller.before = podman.run(&format!("{options}{environment} -v {place}:{place}"));
    caller.runs = CLIENT.into();
    Ok(caller)
}

/// The server dialled, at what was advertised.
fn by_server(seen: &Seen, said: &str, advertised: &str) -> Result<usize> {
    let way = format!("{advertised}:70");
    ensure!(said.contains("dialled by the server"), "{said}");
    ensure!(
        seen.by_server
            .iter()
            .all(|(_, there)| there.starts_with(&way)),
        "{seen:?}"
    );
    Ok(seen.by_server.len())
}

/// The caller dialled.
fn by_caller(seen: &Seen, said: &str) -> Result<usize> {
    ensure!(said.contains("dialling out"), "{said}");
    ensure!(seen.by_server.is_empty(), "{seen:?}");
    Ok(seen.dialled_out())
}

/// One network's row of the table. That archives go out as well, the namespaces' test shows.
fn row(net: &Net, plain: &Caller, network: &str, told: (&str, &str)) -> Result<()> {
    let (advertised, ports) = told;
    let told = plain
        .with("CAIRN_HOSTNAME", advertised)
        .with("CAIRN_PORT_RANGE", ports);
    let mut cells = Vec::new();
    for (seen, said) in net.cell(&told, &format!("{network}-parallel"))? {
        let streams = by_server(&seen, &said, advertised)?;
        ensure!(
            streams == 4 && seen.by_caller <= 1 + LOOKED,
            "{network}: {seen:?}"
        );
        cells.push(streams);
    }
    for (seen, said) in net.cell(plain, &format!("{network}-firewall"))? {
        let streams = by_caller(&seen, &said)?;
        ensure!((4..=4 + LOOKED).contains(&streams), "{network}: {seen:?}");
        cells.push(4);
    }
    for (seen, said) in net.archive_cell(&told, &format!("{network}-archive"))? {
        let streams = by_server(&seen, &said, advertised)?;
        ensure!(
            streams >= ARCHIVE_STREAMS && seen.by_caller <= CONTROL,
            "{network}: {seen:?}"
        );
        cells.push(streams);
    }
    fs::remove_file(net.cairn.at(&format!("{network}-archive.tar")))?;
    println!(
        "| {network} | put {}, get {} | put {}, get {} | put {}, get {} |",
        cells[0], cells[1], cells[2], cells[3], cells[4], cells[5]
    );
    Ok(())
}

#[test]
fn podmans_networks_carry_files_and_archives_in_parallel_either_way() -> Result<()> {
    needs_podman!("podmans_networks_carry_files_and_archives_in_parallel_either_way");
    let mut net = Net::new()?;
    members(net.cairn.dir.path())?;
    let podman = Podman::new(&net.lan, "host", net.cairn.dir.path())?;
    podman.build("client", CLIENT)?;
    podman.does("network create --subnet 10.89.77.0/24 bridged")?;
    podman.does("network create -d macvlan -o parent=eth0 --subnet 10.77.0.0/24 outside")?;
    println!(
        "| network of podman | file, dialled by the server | file, dialled by the caller | archive |"
    );
    for (network, options, told) in [
        (
            "bridge",
            "--network bridged -p 7010-7019:7000-7009",
            ("10.77.0.2", "7010-7019:7000-7009"),
        ),
        ("host", "--network host", ("10.77.0.2", "7000-7009")),
        (
            "macvlan",
            "--network outside --ip 10.77.0.77",
            ("10.77.0.77", "7000-7009"),
        ),
    ] {
        let plain = caller(&net, &podman, options)?;
        row(&net, &plain, network, told).context(network)?;
    }
    // As rootless containers are by default: nothing can be dialled.
    let hidden = caller(&net, &podman, "--network slirp4netns")?;
    let hidden = hidden
        .with("CAIRN_HOSTNAME", "10.77.0.2")
        .with("CAIRN_PORT_RANGE", "7000-7009");
    for (seen, said) in net.cell(&hidden, "slirp4netns")? {
        let why = said
            .lines()
            .filter(|l| l.contains("the server cannot reach you"));
        ensure!(
            why.count() == 1 && said.contains("dialling out instead"),
            "{said}"
        );
        ensure!(seen.dialled_out() >= 4, "{seen:?}");
    }
    println!("| slirp4netns, nothing forwarded | one line says why | put 4, get 4 | |");
    drop(podman);
    net.cairn.down()
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
    // It was told to end, and ended by itself; killed, it would say 137.
    let code = podman.does("inspect -f {{.State.ExitCode}} archive")?;
    ensure!(code.trim() == "0", "it ended with {code}");
    Ok(())
}
