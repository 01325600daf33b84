//! One of the places that are compared: a directory, or a mount with the server behind it.

use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Only a server that hangs takes this long.
const BOUND: Duration = Duration::from_secs(120);
/// How long a server may take to end by itself after its mount has gone.
const GRACE: Duration = Duration::from_millis(300);

pub(crate) struct Side {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    command: Option<Vec<String>>,
    server: Option<Child>,
    /// CPU time of servers that have ended.
    past: Duration,
}

impl Side {
    pub(crate) fn new(name: &str, value: &str) -> anyhow::Result<Self> {
        let (dir, command) = match value.split_once('=') {
            Some((dir, command)) => (
                dir,
                Some(command.split_whitespace().map(str::to_owned).collect()),
            ),
            None => (value, None),
        };
        Ok(Self {
            name: name.to_owned(),
            dir: std::path::absolute(dir)?,
            command,
            server: None,
            past: Duration::ZERO,
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Mounts, and returns when the mount answers. Without effect on a directory.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        let Some([program, args @ ..]) = self.command.as_deref() else {
            return Ok(());
        };
        if self.server.is_some() {
            return Ok(());
        }
        let before = device(&self.dir)?;
        let mut server = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        let until = Instant::now() + BOUND;
        while device(&self.dir).is_ok_and(|now| now == before) {
            if let Some(status) = server.try_wait()? {
                bail!("{program} ended with {status} before it had mounted");
            }
            if Instant::now() > until {
                let _ = server.kill();
                bail!("{program} does not mount");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.server = Some(server);
        Ok(())
    }

    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut server) = self.server.take() else {
            return Ok(());
        };
        self.past += cpu_of(server.id());
        let until = Instant::now() + BOUND;
        while !Command::new("umount")
            .arg(&self.dir)
            .stderr(Stdio::null())
            .status()?
            .success()
        {
            if Instant::now() > until {
                bail!("{:?} cannot be unmounted", self.dir);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // A server of a mount that is gone has nothing left to do, and some do not notice.
        let until = Instant::now() + GRACE;
        while server.try_wait()?.is_none() {
            if Instant::now() > until {
                let _ = server.kill();
                server.wait()?;
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Nothing of the mount is cached any more, above the backing: neither here nor in the server.
    pub(crate) fn remount(&mut self) -> anyhow::Result<()> {
        self.stop()?;
        self.start()
    }

    /// Removes what a row left behind.
    pub(crate) fn clear(&self) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// CPU time that this process, its ended children and the side's servers have used so far.
    pub(crate) fn cpu(&self) -> Duration {
        let server = self
            .server
            .as_ref()
            .map_or(Duration::ZERO, |server| cpu_of(server.id()));
        self.past + server + own() + children()
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("{}: {error:#}", self.name);
        }
    }
}

fn device(path: &Path) -> anyhow::Result<u64> {
    Ok(std::os::unix::fs::MetadataExt::dev(&std::fs::metadata(
        path,
    )?))
}

/// This process's, with all its threads that have ended.
fn own() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// To the nanosecond, where the kernel keeps scheduler statistics.
fn cpu_of(pid: u32) -> Duration {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Duration::ZERO;
    };
    let used = threads.flatten().filter_map(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        stat.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(used.sum())
}

/// Children that have been waited for, to a clock tick.
fn children() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = fields
        .split_whitespace()
        .skip(13)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10)
}
