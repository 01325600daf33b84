//! A server in a process of its own: its namespace, its mounter, its death. This program runs
//! itself as the server (it must fork before it has threads), so it has no test harness.

use cairn_fuse::{AlwaysResident, Mirror, MirrorConfig, mount};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

type Test = fn(&Place) -> anyhow::Result<()>;

const TESTS: [(&str, Test); 6] = [
    (
        "the_server_cannot_see_its_own_mount",
        the_server_cannot_see_its_own_mount,
    ),
    (
        "a_killed_server_leaves_no_dead_mount",
        a_killed_server_leaves_no_dead_mount,
    ),
    (
        "a_dead_mount_is_taken_away_at_start",
        a_dead_mount_is_taken_away_at_start,
    ),
    (
        "the_server_unmounts_through_the_mounter",
        the_server_unmounts_through_the_mounter,
    ),
    ("another_can_unmount", another_can_unmount),
    (
        "signals_of_the_terminal_spare_the_mounter",
        signals_of_the_terminal_spare_the_mounter,
    ),
];

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    if let [_, role, how, backing, mountpoint] = args.as_slice()
        && role == "serve"
    {
        return serve(how, Path::new(backing), Path::new(mountpoint));
    }
    if !Path::new("/dev/fuse").exists() || !rustix::process::geteuid().is_root() {
        for (name, _) in TESTS {
            eprintln!("SKIPPED {name}: needs root and /dev/fuse");
        }
        return Ok(());
    }
    let only = args.iter().skip(1).find(|arg| !arg.starts_with('-'));
    let mut failed = 0;
    for (name, test) in TESTS {
        if only.is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        let place = Place::new()?;
        // A panic is a failure of this test alone; the place cleans up either way.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&place)));
        match &result {
            Ok(Ok(())) => println!("test {name} ... ok"),
            Ok(Err(error)) => println!("test {name} ... FAILED: {error:#}"),
            Err(_) => println!("test {name} ... FAILED"),
        }
        failed += usize::from(!matches!(result, Ok(Ok(()))));
    }
    anyhow::ensure!(failed == 0, "{failed} failed");
    Ok(())
}

/// The server's life: says what it sees, then obeys its standard input.
fn serve(how: &str, backing: &Path, mountpoint: &Path) -> anyhow::Result<()> {
    let mounter = match how {
        "mounter" => Some(mount::prepare()?),
        _ => None,
    };
    let mut config = MirrorConfig::new(backing.into(), mountpoint.into(), Arc::new(AlwaysResident));
    config.mounter = mounter;
    let mirror = Mirror::start(config)?;
    println!("ready {}", mountpoint.join("file").exists());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    match line.trim() {
        "unmount" => mirror.unmount(false)?,
        _ => mirror.wait()?,
    }
    println!("over");
    Ok(())
}

/// Two directories; whatever is mounted goes with them.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        fs::create_dir(dir.path().join("b"))?;
        fs::create_dir(dir.path().join("m"))?;
        fs::write(dir.path().join("b/file"), b"data")?;
        Ok(Self { dir })
    }
    fn m(&self, name: &str) -> PathBuf {
        self.dir.path().join("m").join(name)
    }
    fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        mounts.contains(&*self.dir.path().join("m").to_string_lossy())
    }
    fn server(&self, how: &str) -> anyhow::Result<Server> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", how])
            .args([self.dir.path().join("b"), self.dir.path().join("m")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let Some(out) = child.stdout.take() else {
            anyhow::bail!("no output");
        };
        let mut lines = BufReader::new(out).lines();
        let first = lines.next().transpose()?.unwrap_or_default();
        let server = Server {
            child,
            sees_its_mount: first == "ready true",
            _lines: lines,
        };
        anyhow::ensure!(first.starts_with("ready"), "the server said {first:?}");
        Ok(server)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.m("."), rustix::mount::UnmountFlags::DETACH);
        let target = self.dir.path().join("m");
        let _ = rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH);
    }
}

struct Server {
    child: Child,
    sees_its_mount: bool,
    _lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Server {
    fn tell(&mut self, word: &str) -> anyhow::Result<()> {
        use std::io::Write;
        let Some(mut stdin) = self.child.stdin.take() else {
            anyhow::bail!("told already");
        };
        Ok(writeln!(stdin, "{word}")?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < until, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn the_server_cannot_see_its_own_mount(place: &Place) -> anyhow::Result<()> {
    let server = place.server("mounter")?;
    assert!(!server.sees_its_mount);
    assert_eq!(fs::read(place.m("file"))?, b"data");
    fs::write(place.m("new"), b"through")?;
    assert_eq!(fs::read(place.dir.path().join("b/new"))?, b"through");
    Ok(())
}

fn a_killed_server_leaves_no_dead_mount(place: &Place) -> anyhow::Result<()> {
    let mut server = place.server("mounter")?;
    assert!(place.is_mounted());
    let file = fs::File::open(place.m("file"))?;
    server.child.kill()?;
    server.child.wait()?;
    eventually("the mount goes", || !place.is_mounted());
    assert!(!place.m("file").exists());
    assert_eq!(
        fs::read_dir(place.m(""))?.count(),
        0,
        "the bare mount point"
    );
    drop(file);
    Ok(())
}

fn a_dead_mount_is_taken_away_at_start(place: &Place) -> anyhow::Result<()> {
    let mut dead = place.server("alone")?;
    assert!(dead.sees_its_mount);
    dead.child.kill()?;
    dead.child.wait()?;
    let error = fs::metadata(place.m("never asked before"))
        .err()
        .and_then(|e| e.raw_os_error());
    assert_eq!(error, Some(107), "a mount without a server");
    for how in ["alone", "mounter"] {
        let mut server = place.server(how)?;
        assert_eq!(fs::read(place.m("file"))?, b"data");
        server.tell("unmount")?;
        server.child.wait()?;
    }
    Ok(())
}

fn the_server_unmounts_through_the_mounter(place: &Place) -> anyhow::Result<()> {
    let mut server = place.server("mounter")?;
    server.tell("unmount")?;
    assert!(server.child.wait()?.success());
    assert!(!place.is_mounted());
    Ok(())
}

fn another_can_unmount(place: &Place) -> anyhow::Result<()> {
    let mut server = place.server("mounter")?;
    server.tell("wait")?;
    assert!(
        Command::new("umount")
            .arg(place.dir.path().join("m"))
            .status()?
            .success()
    );
    assert!(server.child.wait()?.success());
    Ok(())
}

fn signals_of_the_terminal_spare_the_mounter(place: &Place) -> anyhow::Result<()> {
    let server = place.server("mounter")?;
    let id = server.child.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
    let mounter: i32 = children.trim().parse()?;
    let pid = rustix::process::Pid::from_raw(mounter).ok_or(anyhow::anyhow!("no mounter"))?;
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        rustix::process::kill_process(pid, signal)?;
    }
    assert_eq!(fs::read(place.m("file"))?, b"data");
    drop(server);
    eventually("the mount goes", || !place.is_mounted());
    Ok(())
}
