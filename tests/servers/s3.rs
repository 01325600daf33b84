//! Real S3 servers for a test: found, started on a free port of the loopback, and gone with whoever
//! started them.
//!
//! `tests/servers/s3.sh` finds or installs them. What is missing is said by name, never passed over.

use cairn::tier::s3::{Access, S3Place, S3Tier};
use cairn::tier::{OpenHow, TierError, TierUrl};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(crate) const KEY: &str = "cairn-test";
pub(crate) const SECRET: &str = "cairn-test-secret";
const SIGNED: &str = "Authorization: AWS4-HMAC-SHA256 Credential=cairn-test/20260101/us-east-1/s3/aws4_request, \
                      SignedHeaders=host, Signature=0";
pub(crate) const BUCKET: &str = "archive";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Looks at no signature and no checksum, and returns checksums.
    Moto,
    /// Looks at both.
    S3s,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Moto => "moto",
            Self::S3s => "s3s-fs",
        }
    }
}

/// A server that is up.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) at: SocketAddr,
    child: Child,
    root: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the servers are, as the script says.
fn programs() -> &'static str {
    static FOUND: OnceLock<String> = OnceLock::new();
    FOUND.get_or_init(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/s3.sh");
        let said = Command::new(script).arg("--find").output();
        said.map_or_else(
            |_| String::new(),
            |said| String::from_utf8_lossy(&said.stdout).into_owned(),
        )
    })
}

fn program(kind: Kind) -> Option<PathBuf> {
    let name = match kind {
        Kind::Moto => "CAIRN_TEST_MOTO=",
        Kind::S3s => "CAIRN_TEST_S3S=",
    };
    let found = programs().lines().find_map(|line| line.strip_prefix(name));
    found.map(PathBuf::from)
}

/// Starts one, or says that `test` is skipped.
pub(crate) fn start(kind: Kind, test: &str) -> Option<Server> {
    let Some(program) = program(kind) else {
        let name = kind.as_str();
        eprintln!("SKIPPED {test}: no {name}; tests/servers/s3.sh installs it");
        return None;
    };
    let root = TempDir::new().expect("temporary directory");
    let mut last = String::new();
    // Between finding a free port and its use, another may take it.
    for _ in 0..3 {
        match try_start(kind, &program, root.path()) {
            Ok((child, at)) => {
                let server = Server {
                    kind,
                    at,
                    child,
                    root,
                };
                server.make_bucket();
                return Some(server);
            }
            Err(why) => last = why,
        }
    }
    panic!("{} does not start: {last}", program.display());
}

fn try_start(
    kind: Kind,
    program: &std::path::Path,
    root: &std::path::Path,
) -> Result<(Child, SocketAddr), String> {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let at = free.local_addr().expect("its address");
    drop(free);
    let port = at.port().to_string();
    // Killed also when this process is: by the kernel.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    match kind {
        Kind::Moto => command.args(["-H", "127.0.0.1", "-p", &port]),
        Kind::S3s => {
            let data = root.join("data");
            std::fs::create_dir_all(&data).expect("directory");
            let keys = ["--access-key", KEY, "--secret-key", SECRET];
            command
                .args(keys)
                .args(["--host", "127.0.0.1", "--port", &port])
                .arg(data)
        }
    };
    let log = std::fs::File::create(root.join("log")).expect("log");
    command
        .stdin(Stdio::null())
        .stderr(log.try_clone().expect("log"))
        .stdout(log);
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if TcpStream::connect(at).is_ok() {
            return Ok((child, at));
        }
        let ended = child.try_wait().map_err(|e| e.to_string())?;
        if ended.is_some() || Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            let log = std::fs::read_to_string(root.join("log")).unwrap_or_default();
            return Err(format!("{ended:?}: {log}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Server {
    fn make_bucket(&self) {
        match self.kind {
            Kind::Moto => {
                let answer = self.raw(&format!("PUT /{BUCKET}"));
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            }
            Kind::S3s => {
                let bucket = self.root.path().join("data").join(BUCKET);
                std::fs::create_dir_all(bucket).expect("bucket");
            }
        }
    }

    /// One request as somebody whose signature is not looked at, and all of the answer.
    pub(crate) fn raw(&self, request: &str) -> String {
        self.send(request, "")
    }

    /// The same with a body.
    pub(crate) fn send(&self, request: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.at).expect("connects");
        let host = self.at;
        write!(
            stream,
            "{request} HTTP/1.1\r\nHost: {host}\r\n{SIGNED}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}",
            len = body.len()
        )
        .expect("is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    /// What it wrote of the requests that it met (moto: a line for each).
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.root.path().join("log")).unwrap_or_default()
    }

    /// From now on a restore of moto's takes a while: whoever asks how it stands is told once that it is under way, and
    /// then that it is done.
    pub(crate) fn slow_restores(&self) {
        let answer = self.send(
            "POST /moto-api/state-manager/set-transition",
            r#"{"model_name": "s3::keyrestore", "transition": {"progression": "time", "seconds": 0}}"#,
        );
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }

    /// Uploads that were begun and not finished.
    pub(crate) fn unfinished(&self) -> usize {
        match self.kind {
            Kind::Moto => self
                .raw(&format!("GET /{BUCKET}?uploads"))
                .matches("<UploadId>")
                .count(),
            Kind::S3s => {
                let data = self.root.path().join("data");
                let names = std::fs::read_dir(data).expect("directory");
                let names =
                    names.map(|e| e.expect("entry").file_name().to_string_lossy().into_owned());
                names
                    .filter(|name| name.starts_with(".upload-") && name.ends_with(".json"))
                    .count()
            }
        }
    }

    /// Waits until so many are.
    pub(crate) fn until_unfinished(&self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.unfinished() != count {
            assert!(
                Instant::now() < deadline,
                "{} uploads remain",
                self.unfinished()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn until_none_is_unfinished(&self) {
        self.until_unfinished(0);
    }

    /// The place of a tier, through `at` (the server itself, or a proxy before it).
    pub(crate) fn place(&self, at: SocketAddr, prefix: &str, options: &str) -> S3Place {
        let url = format!("s3://{BUCKET}/{prefix}?endpoint=http://{at}&region=us-east-1{options}");
        match url.parse().expect("URL") {
            TierUrl::S3(place) => *place,
            other => panic!("{other}"),
        }
    }

    pub(crate) fn open(
        &self,
        prefix: &str,
        options: &str,
        how: OpenHow,
    ) -> Result<S3Tier, TierError> {
        S3Tier::open_as(&self.place(self.at, prefix, options), how, access())
    }
}

pub(crate) fn access() -> Access {
    Access::new(KEY, SECRET)
}
