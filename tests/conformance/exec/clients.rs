//! The examples that speak to real components: rclone to a directory of its own, and ssh to a server on this
//! host's loopback, both with everything they need in a temporary directory.

use super::Site;
use cairn::tier::TierUrl;
use cairn::tier::trial::{Outcome, Trial};
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The cases for authors and those of opening; and those of every tier, where there is time.
fn passes(url: &TierUrl) {
    let trial = Trial::at(url).expect("an area");
    let (mut failed, mut count) = (Vec::new(), 0);
    let mut each = |outcome: Outcome| {
        count += 1;
        let why = outcome.result.err();
        failed.extend(why.map(|why| format!("{}: {why}", outcome.case)));
    };
    if super::has_time() {
        trial.run(&mut each);
    } else {
        trial.run_own(&mut each);
        trial.run_opening(&mut each);
    }
    trial.clear().expect("cleared");
    assert_eq!(failed, [""; 0], "{url}");
    eprintln!("{}: {count} cases", url);
}

fn is_installed(program: &str) -> bool {
    let places = ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin"];
    places
        .iter()
        .any(|place| Path::new(place).join(program).exists())
}

#[test]
fn rclone_conforms() {
    if !is_installed("rclone") {
        eprintln!("SKIPPED rclone_conforms: rclone is not installed");
        return;
    }
    let site = Site::new();
    let root = site.empty("remote");
    let config = site.path("rclone.conf");
    fs::write(&config, "[vault]\ntype = local\n").expect("configuration");
    let options = format!(
        "opt.remote=vault:{}&opt.config={}",
        root.display(),
        config.display()
    );
    // Nobody said that what it acknowledges is durable.
    let error = super::opened(&site.url("rclone", &options)).map(|_| ());
    let error = error.expect_err("refused");
    assert_eq!(error.kind(), cairn::tier::ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("opt.durable=yes"), "{error}");
    let options = format!("{options}&opt.durable=yes");
    passes(&site.url("rclone", &options));
    assert_eq!(super::names(&root), [""; 0]);
}

/// An ssh server of this user's own, on a port of the loopback that was free.
struct Server {
    child: Child,
    config: PathBuf,
    shared: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("ssh")
            .args(["-O", "exit", "-F"])
            .arg(&self.config)
            .arg("-o")
            .arg(format!("ControlPath={}/%C", self.shared.display()))
            .arg("vault")
            .stderr(Stdio::null())
            .status();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(site: &Site) -> Self {
        let at = |name: &str| site.path(name);
        for key in ["host", "user"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(at(key))
                .status();
            assert!(made.expect("ssh-keygen").success());
        }
        // Its own separation directory is made by the system's service, which is not started here.
        if rustix_is_root() {
            fs::create_dir_all("/run/sshd").expect("/run/sshd");
        }
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let text = |file: &str| fs::read_to_string(at(file)).expect("key");
        fs::write(
            at("known"),
            format!("[127.0.0.1]:{port} {}", text("host.pub")),
        )
        .expect("known");
        fs::copy(at("user.pub"), at("authorized")).expect("authorized");
        let own = at("");
        let own = own.display();
        let server = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {own}/host\nAuthorizedKeysFile {own}/authorized\n\
             PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n\
             MaxSessions 100\nMaxStartups 100\n"
        );
        fs::write(at("sshd_config"), server).expect("configuration");
        let user = Command::new("id").arg("-un").output().expect("id").stdout;
        let client = format!(
            "Host vault\n HostName 127.0.0.1\n Port {port}\n User {}\n IdentityFile {own}/user\n IdentitiesOnly yes\n\
             UserKnownHostsFile {own}/known\n GlobalKnownHostsFile /dev/null\n StrictHostKeyChecking yes\n",
            String::from_utf8_lossy(&user).trim()
        );
        let config = at("ssh_config");
        fs::write(&config, client).expect("configuration");
        let log = fs::File::create(at("sshd.log")).expect("log");
        let child = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(at("sshd_config"))
            .stderr(log)
            .spawn()
            .expect("sshd starts");
        let server = Self {
            child,
            config,
            shared: site.empty("shared"),
        };
        for _ in 0..2000 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return server;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        panic!("{}", text("sshd.log"));
    }
}

fn rustix_is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id").stdout;
    id == b"0\n"
}

#[test]
fn ssh_conforms_and_a_server_that_is_gone_is_unavailable() {
    if !is_installed("sshd") || !is_installed("ssh") {
        eprintln!(
            "SKIPPED ssh_conforms_and_a_server_that_is_gone_is_unavailable: openssh-server is not installed"
        );
        return;
    }
    let site = Site::new();
    let mut server = Server::start(&site);
    // A quote and a blank, as a directory over there may have.
    let root = site.empty("it's there");
    let options = |shared: &str| {
        format!(
            "opt.host=vault&opt.root={}&opt.config={}{shared}",
            root.display(),
            server.config.display()
        )
    };
    let shared = format!("&opt.shared={}", server.shared.display());
    let (together, alone) = (options(&shared), options(""));
    passes(&site.url("ssh", &together));
    assert_eq!(super::names(&root), [""; 0]);
    let tier = super::opened(&site.url("ssh", &alone)).expect("opens");
    crate::store(&*tier, crate::name(1), b"over there");
    server.child.kill().expect("killed");
    server.child.wait().expect("reaped");
    let away = tier.stat(crate::name(1)).expect_err("gone");
    assert_eq!(away.kind(), cairn::tier::ErrorKind::Unavailable, "{away}");
    assert!(away.to_string().contains("refused"), "{away}");
}
