//! The door for callers on other hosts, as a process beside the instance: `cairn serve`, in the users' mount namespace.
//!
//! Invariants: the mount does not depend on it, and it is started again when it dies; it ends with the instance, also by
//! kill -9, because it reads the end of what the instance holds open.

use crate::cli::CliError;
use std::io::{BufRead, PipeWriter};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two starts: at first, and at most.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(10);
/// How often it is looked whether it still runs.
const LOOK: Duration = Duration::from_millis(200);

/// A door that is kept open while this lives.
pub(super) struct Far {
    stop: Arc<AtomicBool>,
    keeper: Option<JoinHandle<()>>,
    /// Its end is what the door waits for.
    open: Option<PipeWriter>,
}

impl Far {
    /// Opens one on `listen` for the mount; `namespace` is the users', if this process left it.
    pub(super) fn open(
        listen: SocketAddr,
        mount: &Path,
        namespace: Option<PathBuf>,
    ) -> Result<Self, CliError> {
        let failed = |e: std::io::Error| CliError::system("open the door for other hosts", &e);
        let program = std::env::current_exe().map_err(failed)?;
        let (read, write) = std::io::pipe().map_err(failed)?;
        let mount = mount.to_owned();
        let start = move || -> std::io::Result<Child> {
            let mut command = Command::new(&program);
            command
                .arg("serve")
                .arg("--listen")
                .arg(listen.to_string())
                .arg("--while-open");
            if let Some(namespace) = &namespace {
                command.arg("--in").arg(namespace);
            }
            command
                .arg(&mount)
                .stdin(Stdio::from(read.try_clone()?))
                .stdout(Stdio::piped())
                .spawn()
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let keeper = std::thread::Builder::new().name("cairn-far".to_owned());
        let keeper = keeper
            .spawn(move || keep(&start, &stopped))
            .map_err(failed)?;
        Ok(Self {
            stop,
            keeper: Some(keeper),
            open: Some(write),
        })
    }
}

fn keep(start: &dyn Fn() -> std::io::Result<Child>, stopped: &AtomicBool) {
    let mut pause = PAUSE;
    while !stopped.load(Ordering::SeqCst) {
        match start() {
            Ok(mut child) => loop {
                say_ready(&mut child);
                match child.try_wait() {
                    Ok(None) => std::thread::sleep(LOOK),
                    Ok(Some(status)) => {
                        tracing::warn!(%status, "the door for other hosts ended");
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the door for other hosts is lost sight of");
                        return;
                    }
                }
            },
            Err(error) => tracing::error!(%error, "the door for other hosts does not open"),
        }
        if !stopped.load(Ordering::SeqCst) {
            std::thread::sleep(pause);
            pause = (2 * pause).min(LONGEST);
        }
    }
}

/// Says once, on stderr, where other hosts are served.
fn say_ready(child: &mut Child) {
    if let Some(out) = child.stdout.take() {
        let mut said = String::new();
        // Without a word it has ended, and said why on stderr.
        let read = std::io::BufReader::new(out).read_line(&mut said);
        if read.is_ok()
            && let Some(at) = said.split_whitespace().nth(2)
        {
            eprintln!("cairn: other hosts are served at {at}");
        }
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.open.take();
        // It ends soon: the door has read its end.
        if let Some(keeper) = self.keeper.take()
            && keeper.join().is_err()
        {
            tracing::error!("the keeper of the door for other hosts died");
        }
    }
}
