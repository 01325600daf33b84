//! A bucket as the tier of an instance, on real servers: what is kept there, what must be restored first, and days on
//! which the service is away, forgets, or refuses.

#[path = "../servers/s3.rs"]
#[allow(
    dead_code,
    clippy::expect_used,
    clippy::panic,
    reason = "the conformance suite uses the rest, and fails in other words"
)]
mod servers;

use crate::needs_mounts;
use crate::rig::{Instance, on_disk, program, tree, wait_for};
use anyhow::{Context, Result, ensure};
use parking_lot::{Condvar, Mutex};
use servers::{BUCKET, KEY, Kind, SECRET, Server, start};
use std::fs;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

/// Only a hang reaches it.
const BOUND: Duration = Duration::from_secs(240);

const CREDENTIALS: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", KEY),
    ("AWS_SECRET_ACCESS_KEY", SECRET),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

fn url(at: SocketAddr, prefix: &str, options: &str) -> String {
    format!("s3://{BUCKET}/{prefix}?endpoint=http://{at}&region=us-east-1{options}")
}

/// An instance with these tiers, and nothing that asks the service by itself.
fn instance(tiers: &[String]) -> Result<Instance> {
    let mut cairn = Instance::new(None)?;
    let config = cairn.dir.path().join("cairn.toml");
    fs::write(&config, "snapshot-every = \"0s\"\n")?;
    cairn.args = vec!["--config".into(), config.display().to_string()];
    for tier in tiers {
        cairn.args.extend(["--tier".to_owned(), tier.clone()]);
    }
    for (name, value) in CREDENTIALS {
        cairn.environment.push((name, value.into()));
    }
    Ok(cairn)
}

fn released(cairn: &Instance, name: &str, data: &[u8]) -> Result<()> {
    fs::write(cairn.at(name), data)?;
    cairn.archive(name)?;
    cairn.release(name)?;
    let left = on_disk(&cairn.below(name))?;
    ensure!(left <= 8192, "{name} was not released\n{}", cairn.log());
    Ok(())
}

fn reads(cairn: &Instance, name: &str, data: &[u8]) -> Result<()> {
    let read = fs::read(cairn.at(name));
    let read = read.with_context(|| format!("{name}\n{}", cairn.log()))?;
    ensure!(read == data, "{name} has other bytes");
    Ok(())
}

/// Requests whose first line has all of this.
fn requests(server: &Server, words: &[&str]) -> usize {
    let log = server.log();
    let lines = log.lines();
    lines
        .filter(|line| words.iter().all(|w| line.contains(w)))
        .count()
}

#[test]
fn what_is_kept_in_a_bucket_comes_back_from_either_server() -> Result<()> {
    needs_mounts!();
    for kind in [Kind::Moto, Kind::S3s] {
        let test = "what_is_kept_in_a_bucket_comes_back_from_either_server";
        let Some(server) = start(kind, test) else {
            continue;
        };
        let tier = format!("cold={}", url(server.at, "site", "&part-size=5MiB"));
        let mut cairn = instance(&[tier])?;
        cairn.up()?;
        // One of several parts, one of one.
        let (large, small) = (tree::bytes(1, 12 << 20), tree::bytes(2, 100_000));
        released(&cairn, "large", &large)?;
        released(&cairn, "small", &small)?;
        reads(&cairn, "small", &small)?;
        reads(&cairn, "large", &large)?;
        released(&cairn, "later", &small)?;
        // The next life finds all of it.
        cairn.kill()?;
        cairn.up()?;
        reads(&cairn, "later", &small)?;
        let said = cairn.cairn(["tier", "check", "cold"])?;
        ensure!(said.contains("3 objects"), "{said}");
        cairn.down()?;
    }
    Ok(())
}

#[test]
fn a_file_in_an_archive_class_is_restored_once_and_its_readers_are_told_how_long() -> Result<()> {
    needs_mounts!();
    let test = "a_file_in_an_archive_class_is_restored_once_and_its_readers_are_told_how_long";
    let Some(server) = start(Kind::Moto, test) else {
        return Ok(());
    };
    let class = "&storage-class=GLACIER&restore-days=3";
    let mut cairn = instance(&[format!("glacier={}", url(server.at, "g", class))])?;
    cairn.up()?;
    let data = tree::bytes(3, 300_000);
    released(&cairn, "f", &data)?;
    server.slow_restores();
    cairn.cold()?;
    // Two processes read it at once.
    let (tell, told) = channel();
    for _ in 0..2 {
        let (tell, path) = (tell.clone(), cairn.at("f"));
        std::thread::spawn(move || {
            let cat = Command::new("cat").arg(path).stdin(Stdio::null()).output();
            // Nobody hears it where the test has failed meanwhile.
            let _ = tell.send(cat);
        });
    }
    let mut eta = String::new();
    wait_for("the restore to be asked for, and its time", || {
        let mut value = [0; 64];
        let len = rustix::fs::getxattr(cairn.at("f"), "user.cairn.eta", &mut value)?;
        eta = String::from_utf8_lossy(&value[..len]).into_owned();
        Ok(eta.parse::<u64>().is_ok_and(|s| s > 0))
    })?;
    // The service's own longest for this class and retrieval is five hours.
    let seconds: u64 = eta.parse()?;
    ensure!((4 * 3600..=5 * 3600).contains(&seconds), "{eta}");
    let why = cairn.cairn(["why".as_ref(), cairn.at("f").as_os_str()])?;
    ensure!(why.contains("restore"), "{why}");
    for _ in 0..2 {
        let cat = told.recv_timeout(BOUND).context("a reader")??;
        ensure!(cat.status.success() && cat.stdout == data, "{cat:?}");
    }
    let restores = || requests(&server, &["POST", "?restore"]);
    ensure!(restores() == 1, "{} restores\n{}", restores(), server.log());
    // It is on disk now: nothing is asked for.
    let gets = requests(&server, &["\"GET", "/aggregates/"]);
    reads(&cairn, "f", &data)?;
    ensure!(requests(&server, &["\"GET", "/aggregates/"]) == gets);
    // And the restored copy is used again, as long as it lasts.
    cairn.release("f")?;
    cairn.cold()?;
    reads(&cairn, "f", &data)?;
    ensure!(restores() == 1, "{} restores", restores());
    cairn.down()
}

#[test]
fn a_service_that_is_away_keeps_nobody_from_what_is_on_disk() -> Result<()> {
    needs_mounts!();
    let test = "a_service_that_is_away_keeps_nobody_from_what_is_on_disk";
    let Some(server) = start(Kind::Moto, test) else {
        return Ok(());
    };
    // A door that can be shut: the instance knows this address alone.
    let door = Door::before(server.at)?;
    let mut cairn = instance(&[format!("cold={}", url(door.at, "p", ""))])?;
    cairn.up()?;
    let data = tree::bytes(4, 200_000);
    released(&cairn, "f", &data)?;
    released(&cairn, "g", &data)?;
    fs::write(cairn.at("resident"), &data)?;
    door.shut(true)?;
    // In the middle: who asked for it waits, and is served when the service is back.
    let path = cairn.at("f");
    cairn.cairn(["stage".as_ref(), path.as_os_str()])?;
    reads(&cairn, "resident", &data)?;
    ensure!(cairn.shown_state("f")? == "released");
    door.shut(false)?;
    wait_for("the stage to be done", || {
        Ok(cairn.shown_state("f")? == "archived")
    })?;
    // At the start.
    cairn.down()?;
    door.shut(true)?;
    cairn.up()?;
    reads(&cairn, "resident", &data)?;
    reads(&cairn, "f", &data)?;
    let said = fs::read(cairn.at("g")).err().and_then(|e| e.raw_os_error());
    ensure!(said == Some(libc::EHOSTDOWN), "{said:?}");
    wait_for("the status to say that it is away", || {
        let status = cairn.run(["status"])?;
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        Ok(status.contains("tier cold is unavailable"))
    })?;
    door.shut(false)?;
    wait_for("it to be back", || Ok(fs::read(cairn.at("g")).is_ok()))?;
    reads(&cairn, "g", &data)?;
    cairn.down()
}

#[test]
fn an_object_that_was_deleted_behind_our_back_is_found_and_its_copy_is_read() -> Result<()> {
    needs_mounts!();
    let test = "an_object_that_was_deleted_behind_our_back_is_found_and_its_copy_is_read";
    let Some(server) = start(Kind::Moto, test) else {
        return Ok(());
    };
    let mut cairn = instance(&[format!("cold={}", url(server.at, "p", ""))])?;
    let policy = cairn.dir.path().join("two.policy");
    fs::write(
        &policy,
        "copies 2\nrule archive everything when any file manual\n",
    )?;
    let disk = format!("disk=dir:{}", cairn.tier.display());
    let policy = policy.display().to_string();
    let more = ["--tier".to_owned(), disk, "--policy".to_owned(), policy];
    cairn.args.extend(more);
    cairn.up()?;
    let data = tree::bytes(5, 200_000);
    released(&cairn, "f", &data)?;
    let listed = server.raw(&format!("GET /{BUCKET}?list-type=2&prefix=p%2Faggregates"));
    let key = listed.split_once("<Key>").and_then(|(_, rest)| {
        let (key, _) = rest.split_once("</Key>")?;
        Some(key.to_owned())
    });
    let key = key.with_context(|| listed.clone())?;
    server.raw(&format!("DELETE /{BUCKET}/{key}"));
    let check = cairn.run(["tier", "check", "cold"])?;
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    ensure!(check.status.code() == Some(1), "{said}");
    ensure!(said.contains("missing"), "{said}");
    reads(&cairn, "f", &data)?;
    cairn.down()
}

#[test]
fn a_wrong_secret_is_refused_at_the_start_in_words() -> Result<()> {
    needs_mounts!();
    let test = "a_wrong_secret_is_refused_at_the_start_in_words";
    let Some(server) = start(Kind::S3s, test) else {
        return Ok(());
    };
    let mut cairn = instance(&[format!("cold={}", url(server.at, "p", ""))])?;
    cairn
        .environment
        .push(("AWS_SECRET_ACCESS_KEY", "another".into()));
    ensure!(cairn.up().is_err(), "it came up");
    let log = cairn.log();
    let words = [
        "tier cold",
        "SignatureDoesNotMatch",
        "AWS_SECRET_ACCESS_KEY",
    ];
    ensure!(words.iter().all(|word| log.contains(word)), "{log}");
    ensure!(!log.contains("another"), "{log}");
    Ok(())
}

/// What `cairn demo` says and proves, on a tier in a bucket.
#[test]
fn the_demo_archives_to_a_bucket_and_leaves_nothing_there() -> Result<()> {
    needs_mounts!();
    for kind in [Kind::Moto, Kind::S3s] {
        let test = "the_demo_archives_to_a_bucket_and_leaves_nothing_there";
        let Some(server) = start(kind, test) else {
            continue;
        };
        let from = tempfile::tempdir_in("/var/tmp")?;
        for n in 0..20 {
            let dir = from.path().join(format!("d{}", n % 3));
            fs::create_dir_all(&dir)?;
            fs::write(dir.join(format!("f{n}")), tree::bytes(n, 150_000))?;
        }
        let demo = Command::new(program())
            .args(["demo", "--tier", &url(server.at, "demo", ""), "--from"])
            .arg(from.path())
            .envs(CREDENTIALS)
            .stdin(Stdio::null())
            .output()?;
        let said = String::from_utf8_lossy(&demo.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&demo.stderr);
        ensure!(demo.status.success(), "{said}{complaint}");
        ensure!(said.contains("Everything came back equal"), "{said}");
        if said.contains("SKIPPED: there is no curl") {
            eprintln!("SKIPPED {test} (a part of it): there is no curl");
        } else {
            ensure!(said.contains("$ tar -tvf object.tar"), "{said}");
        }
        server.until_none_is_unfinished();
        let tier = format!("cold={}", url(server.at, "demo", ""));
        // Nothing is left below the prefix: it takes a tier as a place that nobody used.
        let mut cairn = instance(&[tier])?;
        cairn.up()?;
        let said = cairn.cairn(["tier", "check", "cold"])?;
        ensure!(said.contains("0 objects"), "{said}");
        cairn.down()?;
    }
    Ok(())
}

/// A relay that breaks and refuses connections while it is shut.
struct Door {
    at: SocketAddr,
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    is_shut: Mutex<bool>,
    changed: Condvar,
    open: Mutex<Vec<TcpStream>>,
}

impl Door {
    fn before(server: SocketAddr) -> Result<Self> {
        let mut listener = TcpListener::bind("127.0.0.1:0")?;
        let (at, inner) = (listener.local_addr()?, Arc::new(Inner::default()));
        let here = Arc::clone(&inner);
        std::thread::spawn(move || {
            loop {
                for stream in listener.incoming().flatten() {
                    if *here.is_shut.lock() {
                        break;
                    }
                    // Who comes when nobody is behind the door is let go.
                    let _ = here.relay(stream, server);
                }
                drop(listener);
                let mut is_shut = here.is_shut.lock();
                here.changed.notify_all();
                while *is_shut {
                    here.changed.wait(&mut is_shut);
                }
                drop(is_shut);
                listener = match TcpListener::bind(at) {
                    Ok(listener) => listener,
                    // It stays shut, and the test says so.
                    Err(_) => return,
                };
                here.changed.notify_all();
            }
        });
        Ok(Self { at, inner })
    }

    /// Returns when it is so.
    fn shut(&self, shut: bool) -> Result<()> {
        *self.inner.is_shut.lock() = shut;
        self.inner.changed.notify_all();
        if shut {
            // Wakes who accepts.
            drop(TcpStream::connect(self.at)?);
            for stream in self.inner.open.lock().drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        wait_for("the door to turn", || {
            Ok(TcpStream::connect(self.at).is_err() == shut)
        })
    }
}

impl Inner {
    fn relay(&self, stream: TcpStream, server: SocketAddr) -> std::io::Result<()> {
        let server = TcpStream::connect(server)?;
        for (from, to) in [(&stream, &server), (&server, &stream)] {
            let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
            std::thread::spawn(move || {
                // Either side may end it at any time.
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
        }
        self.open.lock().extend([stream, server]);
        Ok(())
    }
}
