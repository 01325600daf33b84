//! podman, with images and containers of its own, on a host of the test's network; all of it gone with the test.
//!
//! The engine lives in a mount namespace of its own: where the unified hierarchy of control groups is mounted beside the
//! old ones, its runtime must not see it.

use super::lan::Lan;
use super::program;
use anyhow::{Context, Result, ensure};
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The images that it has.
pub(crate) const CLIENT: &str = "localhost/cairn-client";
pub(crate) const SERVER: &str = "localhost/cairn-server";

const CONFIGURATION: &str = r#"
[containers]
default_ulimits = ["nofile=1024:16384", "nproc=1024:16384"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
[network]
network_backend = "netavark"
"#;

/// Why there is no podman here.
pub(crate) fn no_podman() -> Option<String> {
    for tool in ["podman", "crun", "slirp4netns", "iptables", "strip"] {
        let found = Command::new(tool)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if found.is_err() {
            return Some(format!("{tool} is not installed"));
        }
    }
    None
}

/// See the module.
pub(crate) struct Podman {
    /// Keeps the mount namespace.
    holder: Child,
    /// A script that is podman with all that belongs to it.
    pub(crate) engine: PathBuf,
    place: PathBuf,
}

impl Podman {
    /// On that host of the network; what it keeps lies below `place`.
    pub(crate) fn new(lan: &Lan, host: &str, place: &Path) -> Result<Self> {
        Self::with(lan, host, place, "private")
    }

    /// The same; what is mounted from now on in directories that this process shares, it sees as well.
    pub(crate) fn following(lan: &Lan, host: &str, place: &Path) -> Result<Self> {
        Self::with(lan, host, place, "slave")
    }

    fn with(lan: &Lan, host: &str, place: &Path, propagation: &str) -> Result<Self> {
        let place = place.join("podman");
        fs::create_dir(&place)?;
        fs::write(place.join("containers.conf"), CONFIGURATION)?;
        // Named network namespaces are made visible to every later call by the shared bind.
        // Mounts of other tests, which were copied with the namespace, would outlive their tests here.
        let script = "while read -r _ at kind _; do case $kind in fuse*) umount -l \"$at\";; esac; \
                      done < /proc/self/mounts; \
                      umount /sys/fs/cgroup/unified 2>/dev/null; mkdir -p /run/netns && \
                      mount --bind /run/netns /run/netns && mount --make-shared /run/netns && \
                      echo ready && exec sleep infinity";
        let before = lan.on(host);
        let mut holder = Command::new("setpriv");
        holder.args(["--pdeathsig", "KILL", "--"]).args(&before);
        holder.args([
            "unshare",
            "-m",
            "--propagation",
            propagation,
            "sh",
            "-c",
            script,
        ]);
        let mut holder = holder.stdout(Stdio::piped()).stdin(Stdio::null()).spawn()?;
        let mut said = String::new();
        BufReader::new(holder.stdout.take().context("its output")?).read_line(&mut said)?;
        let engine = place.join("engine");
        let podman = Self {
            holder,
            engine,
            place,
        };
        ensure!(said.trim() == "ready", "no mount namespace for podman");
        podman.write_engine()?;
        Ok(podman)
    }

    fn write_engine(&self) -> Result<()> {
        let (place, pid) = (self.place.display(), self.holder.id());
        let text = format!(
            "#!/bin/sh\n\
             export HOME={place} CONTAINERS_CONF={place}/containers.conf\n\
             exec nsenter -t {pid} -m -n podman --root {place}/root --runroot {place}/run --tmpdir {place}/tmp \
             --network-config-dir {place}/networks --storage-driver overlay --log-level error \"$@\"\n"
        );
        fs::write(&self.engine, text)?;
        fs::set_permissions(&self.engine, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// Makes an image of the program under test, as docs say.
    pub(crate) fn build(&self, kind: &str, image: &str) -> Result<()> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/containers/build.sh");
        let output = Command::new(script)
            .arg(program())
            .args([kind, image])
            .env("ENGINE", &self.engine)
            .stdin(Stdio::null())
            .output()?;
        ensure!(
            output.status.success(),
            "build.sh: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// podman with these arguments; what it said.
    pub(crate) fn does(&self, args: &str) -> Result<String> {
        let output = Command::new(&self.engine)
            .args(args.split_whitespace())
            .stdin(Stdio::null())
            .output()?;
        ensure!(
            output.status.success(),
            "podman {args}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What stands before `IMAGE ARGUMENTS...`: a container with these options that ends with its command.
    pub(crate) fn run(&self, options: &str) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec![self.engine.clone().into()];
        words.extend(["run", "--rm", "-i"].map(OsString::from));
        words.extend(options.split_whitespace().map(OsString::from));
        words
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // Containers of a test that failed; there may be none.
        let _ = Command::new(&self.engine)
            .args(["rm", "-f", "-a", "-t", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
