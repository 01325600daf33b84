//! The mount inside the containers of jobs (docs/slurm.md, "Containers"): what is staged before is read there without a
//! recall, and what a restart of the server leaves of each way to bind it.

use crate::needs_mounts;
use crate::rig::lan::{Lan, no_networks};
use crate::rig::podman::{Podman, no_podman};
use crate::rig::{Instance, is_mounted, program, tree, wait_for, wait_up_to};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// A user that every Debian has, whose job it is.
const USER: (&str, u32) = ("backup", 34);
const FILES: usize = 3;

/// A directory in which what is mounted is seen by those who follow it, as all of a host that systemd started.
struct Shared {
    at: PathBuf,
}

impl Shared {
    fn new(at: PathBuf) -> Result<Self> {
        fs::create_dir_all(&at)?;
        let shared = Self { at };
        mount(&["--bind".as_ref(), &shared.at, &shared.at])?;
        mount(&["--make-shared".as_ref(), &shared.at])?;
        Ok(shared)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

fn mount(args: &[&Path]) -> Result<()> {
    let done = Command::new("mount").args(args).output()?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(done.status.success(), "mount {args:?}: {said}");
    Ok(())
}

/// Files of the user's, staged for a job of theirs, and a container's root. Fields end in their order: what is mounted
/// before what it is mounted in.
struct Place {
    cairn: Instance,
    shared: Shared,
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("cairn-test-")
            .tempdir_in("/var/tmp")?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let shared = Shared::new(dir.path().join("site"))?;
        let mut cairn = Instance::new(None)?;
        cairn.mount = shared.at.join("archive");
        fs::create_dir(&cairn.mount)?;
        cairn.hold = Some("300s".to_owned());
        // A container's root: its programs are the host's, which are bound over it.
        let root = dir.path().join("root");
        for name in [
            "usr", "etc", "dev", "proc", "sys", "home", "tmp", "root", "mnt", "run", "var/tmp",
            "site", "alone", "archive",
        ] {
            fs::create_dir_all(root.join(name))?;
        }
        for name in ["bin", "lib", "lib64", "sbin"] {
            symlink(format!("usr/{name}"), root.join(name))?;
        }
        for name in ["passwd", "group", "hosts", "resolv.conf"] {
            fs::copy(Path::new("/etc").join(name), root.join("etc").join(name))?;
        }
        Ok(Self { cairn, shared, dir })
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Up, with files on the tier that a job of the user's had staged.
    fn staged(&mut self) -> Result<()> {
        let cairn = &mut self.cairn;
        cairn.up()?;
        fs::set_permissions(&cairn.mount, fs::Permissions::from_mode(0o755))?;
        for n in 0..FILES {
            let name = n.to_string();
            cairn.released(&name, &tree::bytes(n as u64, 200_000))?;
            chown(cairn.at(&name), Some(USER.1), Some(USER.1))?;
            fs::set_permissions(cairn.at(&name), fs::Permissions::from_mode(0o600))?;
        }
        let script = self.dir.path().join("run.sh");
        let directive = format!("#CAIRN stage_in {}/?", cairn.mount.display());
        fs::write(&script, format!("#!/bin/sh\n{directive}\n"))?;
        // Where the user may run it.
        let copy = self.dir.path().join("cairn");
        fs::copy(program(), &copy)?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
        let done = Command::new(&copy)
            .args(["job", "stage-in", "4711", "--wait", "--script"])
            .arg(&script)
            .env_remove("CAIRN_SOCKET")
            .current_dir("/")
            .uid(USER.1)
            .gid(USER.1)
            .output()?;
        ensure!(done.status.success(), "stage-in: {done:?}");
        Ok(())
    }

    fn by_readers(&self) -> Result<u64> {
        let status = self.cairn.cairn(["status", "--json"])?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        status["recalls"]["by_readers"]
            .as_u64()
            .context("no number")
    }

    /// The server is replaced, and another time stopped and started; what the container sees each time. `follows`: its
    /// directory sees what is mounted later.
    fn outlives(&mut self, inside: &mut Inside) -> Result<()> {
        let before = self.by_readers()?;
        for place in ["/site/archive", "/alone/archive", "/archive"] {
            inside.reads(place)?;
        }
        ensure!(self.by_readers()? == before, "a reader waited for a recall");
        self.cairn.die()?;
        self.cairn.up()?;
        for place in ["/site/archive", "/alone/archive", "/archive"] {
            inside.reads(place).context("after a death")?;
        }
        let mount = self.cairn.mount.display().to_string();
        let exec = program().to_string_lossy().into_owned();
        self.cairn.cairn(["upgrade", "--exec", &exec, &mount])?;
        self.cairn.replaced()?;
        for place in ["/site/archive", "/alone/archive", "/archive"] {
            inside.reads(place).context("after an upgrade")?;
        }
        // Unmounted and mounted: what is there now is another mount.
        self.cairn.cairn(["down", &mount])?;
        wait_for("the mount to go", || Ok(!is_mounted(&self.cairn.mount)?))?;
        self.cairn.up()?;
        inside.reads("/site/archive").context("mounted anew")?;
        Ok(())
    }
}

/// A shell in a container.
struct Inside {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Inside {
    fn start(mut command: Command) -> Result<Self> {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.spawn().context("starting a container")?;
        let to = child.stdin.take().context("its input")?;
        let from = BufReader::new(child.stdout.take().context("its output")?);
        let mut inside = Self { child, to, from };
        let who = inside.says("id -u")?;
        ensure!(who == format!("{}\n", USER.1), "it runs as {who}");
        Ok(inside)
    }

    /// What a command prints there, its errors with it.
    fn says(&mut self, command: &str) -> Result<String> {
        writeln!(self.to, "{{ {command}; }} 2>&1 </dev/null; echo; echo =end")?;
        self.to.flush()?;
        let mut said = String::new();
        while !said.ends_with("\n=end\n") {
            ensure!(
                self.from.read_line(&mut said)? > 0,
                "the container ended: {said}"
            );
        }
        Ok(said.trim_end_matches("\n=end\n").to_owned())
    }

    /// Every file of the mount, whole.
    fn reads(&mut self, place: &str) -> Result<()> {
        let said = self.says(&format!("cat {place}/? | sha256sum"))?;
        let all: Vec<u8> = (0..FILES)
            .flat_map(|n| tree::bytes(n as u64, 200_000))
            .collect();
        let mut sum = Command::new("sha256sum")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        sum.stdin.take().context("its input")?.write_all(&all)?;
        let right = sum.wait_with_output()?.stdout;
        ensure!(said.as_bytes() == right, "{place} reads as {said}");
        Ok(())
    }

    /// The mount of before, which nobody serves.
    fn is_dead(&mut self, place: &str) -> Result<()> {
        let said = self.says(&format!("cat {place}/0"))?;
        let dead = said.contains("Transport endpoint is not connected");
        ensure!(dead, "{place} says {said}");
        Ok(())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = writeln!(self.to, "exit");
        let _ = self.to.flush();
        // One that does not end is killed.
        let soon = (Duration::from_secs(5), Duration::from_millis(20));
        let _ = wait_up_to(soon, "the shell's end", || {
            Ok(!self.child.try_wait().is_ok_and(|ended| ended.is_none()))
        });
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_container_of_podman_reads_what_was_staged_and_outlives_the_server() -> Result<()> {
    needs_mounts!();
    if let Some(why) = no_networks().or_else(no_podman) {
        eprintln!(
            "SKIPPED a_container_of_podman_reads_what_was_staged_and_outlives_the_server: {why}"
        );
        return Ok(());
    }
    let mut place = Place::new()?;
    let lan = Lan::new()?;
    let podman = Podman::following(&lan, "host", place.dir.path())?;
    place.staged()?;
    let (site, mount) = (place.shared.at.display(), place.cairn.mount.display());
    let mut words = podman.run(&format!(
        "--network none --user {0}:{0} -v /usr:/usr:ro -v {site}:/site:rslave -v {site}:/alone -v {mount}:/archive:rslave --rootfs {1} sh",
        USER.1,
        place.root().display()
    ));
    let mut command = Command::new(words.remove(0));
    command.args(words);
    let mut inside = Inside::start(command)?;
    place.outlives(&mut inside)?;
    // What docs say of the other two ways.
    inside.is_dead("/alone/archive")?;
    inside.is_dead("/archive")?;
    drop(inside);
    drop(podman);
    place.cairn.down()
}

#[test]
fn a_container_of_charliecloud_reads_what_was_staged_and_outlives_the_server() -> Result<()> {
    needs_mounts!();
    let test = "a_container_of_charliecloud_reads_what_was_staged_and_outlives_the_server";
    // As the job's user, who has no right but to a user namespace of theirs.
    let spaces = Command::new("setpriv")
        .args(["--reuid", USER.0, "--regid", USER.0, "--clear-groups"])
        .args(["unshare", "-Urm", "true"])
        .output()?;
    let runs = Command::new("ch-run").arg("--help").output();
    if runs.is_err() || !spaces.status.success() {
        let why = match runs {
            Err(_) => "ch-run (Charliecloud) is not installed",
            Ok(_) => "users may not have namespaces of their own here",
        };
        eprintln!("SKIPPED {test}: {why}");
        return Ok(());
    }
    let mut place = Place::new()?;
    place.staged()?;
    let mut command = Command::new("ch-run");
    command.env("USER", USER.0).env("HOME", "/var/tmp");
    command.uid(USER.1).gid(USER.1).current_dir("/");
    for (from, to) in [
        (Path::new("/usr"), "/usr"),
        (&place.shared.at, "/site"),
        (&place.shared.at, "/alone"),
        (&place.cairn.mount, "/archive"),
    ] {
        command.arg("-b").arg(format!("{}:{to}", from.display()));
    }
    command.arg(place.root()).args(["--", "sh"]);
    let mut inside = Inside::start(command)?;
    place.outlives(&mut inside)?;
    // Whatever is bound follows the host there.
    inside.reads("/alone/archive")?;
    inside.is_dead("/archive")?;
    drop(inside);
    place.cairn.down()
}
