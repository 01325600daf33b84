//! A network of its own for a test: hosts and containers as network namespaces, gone with the test.
//!
//! ```text
//!   server 10.77.0.1 ──┐                    ┌── bridged 172.31.0.2   7000-7009 published as 7010-7019
//!   macvlan 10.77.0.3 ─┼── lan ── host ─────┤
//!                      │     10.77.0.2      └── hidden  172.31.0.3   nothing published
//! ```

use anyhow::{Context, Result, ensure};
use std::ffi::OsString;
use std::process::{Command, Stdio};

/// See the module.
pub(crate) struct Lan {
    /// In the names of its namespaces.
    tag: String,
}

/// Why there can be no such network here.
pub(crate) fn no_networks() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root makes network namespaces".to_owned());
    }
    for tool in ["ip", "nft", "ss", "nsenter"] {
        if Command::new(tool)
            .arg("-V")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_err()
        {
            return Some(format!("{tool} is not installed"));
        }
    }
    // Tests of one process ask at the same time.
    let name = format!("cairn-probe-{}-{:x}", std::process::id(), rand());
    let made = Command::new("ip")
        .args(["netns", "add", &name])
        .stderr(Stdio::null())
        .status();
    let made = made.is_ok_and(|status| status.success());
    // Gone again in each case.
    let _ = Command::new("ip")
        .args(["netns", "del", &name])
        .stderr(Stdio::null())
        .status();
    (!made).then(|| "no network namespace can be made".to_owned())
}

fn run(program: &str, args: &str) -> Result<()> {
    let output = Command::new(program)
        .args(args.split_whitespace())
        .output()
        .context(program.to_owned())?;
    ensure!(
        output.status.success(),
        "{program} {args}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

impl Lan {
    pub(crate) fn new() -> Result<Self> {
        let tag = format!("c{}-{:x}", std::process::id(), rand());
        let lan = Self { tag };
        lan.build()?;
        Ok(lan)
    }

    fn name(&self, host: &str) -> String {
        format!("{}-{host}", self.tag)
    }

    /// What stands before a program that is to run on that host.
    pub(crate) fn on(&self, host: &str) -> Vec<OsString> {
        vec![
            "nsenter".into(),
            format!("--net=/run/netns/{}", self.name(host)).into(),
            "--".into(),
        ]
    }

    fn ip(&self, host: &str, args: &str) -> Result<()> {
        run("ip", &format!("-n {} {args}", self.name(host)))
    }

    fn nft(&self, host: &str, rule: &str) -> Result<()> {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.name(host)))
            .args(["nft", rule]);
        let output = command.output().context("nft")?;
        ensure!(
            output.status.success(),
            "nft {rule}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// A cable between two hosts.
    fn cable(&self, one: (&str, &str), two: (&str, &str)) -> Result<()> {
        let (a, b) = (self.name(one.0), self.name(two.0));
        run(
            "ip",
            &format!(
                "-n {a} link add {} type veth peer name {} netns {b}",
                one.1, two.1
            ),
        )?;
        self.ip(one.0, &format!("link set {} up", one.1))?;
        self.ip(two.0, &format!("link set {} up", two.1))
    }

    fn build(&self) -> Result<()> {
        for host in ["lan", "server", "host", "bridged", "hidden", "macvlan"] {
            run("ip", &format!("netns add {}", self.name(host)))?;
            self.ip(host, "link set lo up")?;
        }
        self.ip("lan", "link add br0 type bridge")?;
        self.ip("lan", "link set br0 up")?;
        for (host, port) in [("server", "p1"), ("host", "p2")] {
            self.cable(("lan", port), (host, "eth0"))?;
            self.ip("lan", &format!("link set {port} master br0"))?;
        }
        self.ip("server", "addr add 10.77.0.1/24 dev eth0")?;
        self.ip("host", "addr add 10.77.0.2/24 dev eth0")?;
        let (host, macvlan) = (self.name("host"), self.name("macvlan"));
        run(
            "ip",
            &format!("-n {host} link add mv0 link eth0 netns {macvlan} type macvlan mode bridge"),
        )?;
        self.ip("macvlan", "addr add 10.77.0.3/24 dev mv0")?;
        self.ip("macvlan", "link set mv0 up")?;
        self.ip("host", "link add br1 type bridge")?;
        self.ip("host", "addr add 172.31.0.1/24 dev br1")?;
        self.ip("host", "link set br1 up")?;
        for (container, port, address) in [
            ("bridged", "c1", "172.31.0.2"),
            ("hidden", "c2", "172.31.0.3"),
        ] {
            self.cable(("host", port), (container, "eth0"))?;
            self.ip("host", &format!("link set {port} master br1"))?;
            self.ip(container, &format!("addr add {address}/24 dev eth0"))?;
            self.ip(container, "route add default via 172.31.0.1")?;
        }
        let sysctl =
            "--net=/run/netns/HOST sysctl -q -w net.ipv4.ip_forward=1".replace("HOST", &host);
        run("nsenter", &sysctl)?;
        let ports = |n: u16| format!("{} : 172.31.0.2 . {}", 7010 + n, 7000 + n);
        let published: Vec<String> = (0..10).map(ports).collect();
        self.nft("host", "add table ip nat")?;
        self.nft(
            "host",
            "add chain ip nat in { type nat hook prerouting priority -100; }",
        )?;
        self.nft(
            "host",
            "add chain ip nat out { type nat hook postrouting priority 100; }",
        )?;
        let map = published.join(", ");
        self.nft(
            "host",
            &format!("add rule ip nat in ip daddr 10.77.0.2 dnat to tcp dport map {{ {map} }}"),
        )?;
        self.nft(
            "host",
            "add rule ip nat out ip saddr 172.31.0.0/24 oifname eth0 masquerade",
        )
    }

    /// Bytes that the host has received through that device, as its kernel counts them.
    pub(crate) fn received(&self, host: &str, device: &str) -> Result<u64> {
        let output = Command::new("ip")
            .args(["-n", &self.name(host), "-j", "-s", "link", "show", device])
            .output()?;
        let told: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let bytes = &told[0]["stats64"]["rx"]["bytes"];
        bytes.as_u64().context("no count of bytes")
    }

    /// TCP connections that the host sees, as `ss` says: local and remote address with their ports.
    pub(crate) fn connections(&self, host: &str) -> Result<Vec<(String, String)>> {
        let on = format!("--net=/run/netns/{}", self.name(host));
        let output = Command::new("nsenter")
            .args([&on, "ss", "-Htn", "state", "established"])
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let of = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            Some(((*words.get(2)?).to_owned(), (*words.get(3)?).to_owned()))
        };
        Ok(said.lines().filter_map(of).collect())
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for host in ["macvlan", "hidden", "bridged", "server", "host", "lan"] {
            // It may not have been made.
            let _ = Command::new("ip")
                .args(["netns", "del", &self.name(host)])
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// Tests of one process must not meet.
fn rand() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
