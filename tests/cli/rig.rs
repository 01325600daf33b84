//! A fake engine behind a real server on a temporary socket, a tree of files, and the program
//! itself as a process.

use crate::fake::Fake;
use cairn::server::Server;
use cairn::server::audit::Audit;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A user that is not root, for where root can become it.
pub const OTHER: u32 = 54_321;

/// All of it; gone when dropped.
pub struct Rig {
    pub fake: Arc<Fake>,
    server: Option<Server>,
    top: tempfile::TempDir,
}

impl Rig {
    pub fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let fake = Arc::new(Fake::default());
        let audit = Audit::open(&top.path().join("audit.jsonl")).unwrap();
        let control = Arc::clone(&fake);
        let server = Server::start(control, &top.path().join("doors"), audit).unwrap();
        let rig = Self {
            fake,
            server: Some(server),
            top,
        };
        rig.file("tree/new", 100);
        rig.file("tree/warm", 5000);
        rig.file("tree/sub/cold", 70_000);
        rig.file("tree/.hidden", 1);
        rig
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.top.path().join(below)
    }

    /// Makes a file of 2003, owned by root and readable by all.
    pub fn file(&self, below: impl AsRef<OsStr>, size: usize) -> PathBuf {
        let path = self.top.path().join(below.as_ref());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(path.parent().unwrap(), open).unwrap();
        fs::write(&path, vec![b'x'; size]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_060_000_000);
        for dated in [&path, path.parent().unwrap()] {
            fs::File::open(dated).unwrap().set_modified(then).unwrap();
        }
        path
    }

    /// The program, in the tree, with the socket named.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
        command
            .args(args)
            .current_dir(self.path("tree"))
            .env("CAIRN_SOCKET", self.path("doors/control.sock"))
            .env("TZ", "UTC")
            .env_remove("CAIRN_LOG")
            .stdin(Stdio::null());
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What a user sees: stdout, stderr, exit code.
    pub fn shown(&self, args: &[&str]) -> String {
        self.cleaned(&format!(
            "$ cairn {}\n{}",
            args.join(" "),
            text(&self.run(args))
        ))
    }

    /// Without what differs from run to run.
    pub fn cleaned(&self, text: &str) -> String {
        text.replace(&self.top.path().display().to_string(), "TOP")
    }

    /// The program run by [`OTHER`], from a place where that user may read it. `None` where this
    /// process cannot become another user.
    pub fn as_other(&self, args: &[&str]) -> Option<Output> {
        self.as_user(OTHER, args)
    }

    /// As [`Rig::as_other`], by any user.
    pub fn as_user(&self, user: u32, args: &[&str]) -> Option<Output> {
        Some(self.command_of(user, args)?.output().unwrap())
    }

    /// The command of [`Rig::as_user`].
    pub fn command_of(&self, user: u32, args: &[&str]) -> Option<Command> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED as_other: only root can become another user");
            return None;
        }
        let program = self.path("program");
        if !program.exists() {
            // By another process: a descriptor open for writing here could be inherited by a
            // child of another test just now, and then the copy cannot be executed.
            let copied = Command::new("cp")
                .arg(env!("CARGO_BIN_EXE_cairn"))
                .arg(&program)
                .status();
            assert!(copied.unwrap().success());
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(self.path("tree"))
            .env("CAIRN_SOCKET", self.path("doors/control.sock"))
            .uid(user)
            .gid(user)
            .stdin(Stdio::null());
        Some(command)
    }

    /// Stops the instance; its sockets are gone.
    pub fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
        }
    }

    /// The audit log's lines.
    pub fn audit(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.path("audit.jsonl")).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// stdout, stderr and exit code as one text.
pub fn text(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.stderr.is_empty() {
        text.push_str("--- stderr\n");
        text.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    text.push_str(&format!(
        "--- exit {}\n",
        output.status.code().unwrap_or(-1)
    ));
    text
}

/// Whether this process is root, which what is frozen shows; says so if not.
pub fn as_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED {test}: what is frozen is what root sees");
    }
    root
}

/// Looks every 10 ms, for at most 20 s.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("never happened: {what}");
}

/// The lines of a file's worth of JSON.
pub fn json_lines(bytes: &[u8]) -> Vec<serde_json::Value> {
    let text = std::str::from_utf8(bytes).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Whether the tree's filesystem keeps user attributes.
pub fn set_attribute(path: &Path, name: &str, value: &[u8]) -> bool {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).is_ok()
}
