//! Leases of ports: a lock for each port, on a file of its own, that lives as long as somebody has it open.
//!
//! # Invariants
//! - A port is leased to one holder at a time, of all users of the host: the kernel's locks say so, nothing else does.
//! - A lease ends with its holder, however that ends: locks go with the last descriptor.
//! - What a file says of its holder is for people; it is believed only while the port is locked.

use cairn_mover::PortRange;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::{Errno, FdFlags};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Longest text about a holder that is read.
const TEXT_MAX: u64 = 4096;
/// How long others may take to find their ports.
const TURN: Duration = Duration::from_secs(10);

/// Who has a range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) pid: u32,
    pub(super) uid: u32,
    pub(super) command: String,
    /// Seconds since 1970.
    pub(super) since: u64,
}

/// A range that is ours as long as this lives, or what it was handed on to.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) first: u16,
    pub(super) last: u16,
    locks: Vec<File>,
}

impl Lease {
    /// Has its locks survive in the program that this process becomes.
    pub(super) fn inherit(self) -> io::Result<()> {
        for lock in self.locks {
            rustix::io::fcntl_setfd(&lock, FdFlags::empty())?;
            // Open for good: the program that is run has it.
            std::mem::forget(lock);
        }
        Ok(())
    }
}

/// What came of asking for one.
#[derive(Debug)]
pub(super) enum Taken {
    Range(Lease),
    /// None is free; who has which.
    None(Vec<Held>),
}

/// Where the locks are.
#[derive(Debug)]
pub(super) struct Pool {
    place: PathBuf,
}

impl Pool {
    pub(super) fn at(place: &Path) -> Self {
        Self {
            place: place.to_owned(),
        }
    }

    /// Takes `count` ports side by side, the lowest that are free; ports that some program listens on are passed over.
    pub(super) fn take(&self, pool: &PortRange, count: u16, command: &str) -> io::Result<Taken> {
        self.prepare()?;
        let _alone = self.alone()?;
        let mut locks = Vec::new();
        for port in pool.first()..=pool.last() {
            match self.lock(port)? {
                Some(lock) if is_free(port) => locks.push(lock),
                // Not side by side any more.
                _ => locks.clear(),
            }
            if locks.len() == usize::from(count) {
                let lease = Lease {
                    first: port - (count - 1),
                    last: port,
                    locks,
                };
                lease.tell(command)?;
                return Ok(Taken::Range(lease));
            }
        }
        Ok(Taken::None(self.held()?))
    }

    fn prepare(&self) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(&self.place) {
            // For every user, and nobody may take another's files away.
            Ok(()) => fs::set_permissions(&self.place, fs::Permissions::from_mode(0o1777)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// One at a time takes ports, or two would be in each other's way.
    fn alone(&self) -> io::Result<File> {
        let file = self.open("lock")?;
        let until = Instant::now() + TURN;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(Errno::WOULDBLOCK) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(10))
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn open(&self, name: &str) -> io::Result<File> {
        let path = self.place.join(name);
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        loop {
            // Without O_CREAT first: the kernel refuses that for another user's file in such a directory.
            match rustix::fs::open(&path, flags, Mode::empty()) {
                Ok(file) => return Ok(file.into()),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            let new = flags | OFlags::CREATE | OFlags::EXCL;
            match rustix::fs::open(&path, new, Mode::from_raw_mode(0o666)) {
                Ok(file) => {
                    let file = File::from(file);
                    // Whatever this process's mask says.
                    file.set_permissions(fs::Permissions::from_mode(0o666))?;
                    return Ok(file);
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The lock of a port; `None`: somebody has it.
    fn lock(&self, port: u16) -> io::Result<Option<File>> {
        let file = self.open(&port.to_string())?;
        let found = file.metadata()?;
        if !found.is_file() || found.nlink() != 1 {
            let why = format!("{}/{port} is not a file of its own", self.place.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Who has which ports now.
    pub(super) fn held(&self) -> io::Result<Vec<Held>> {
        let entries = match fs::read_dir(&self.place) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut held: Vec<Held> = Vec::new();
        for entry in entries {
            let Some(port) = entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u16>().ok())
            else {
                continue;
            };
            // Another user's umask cannot keep it from us; it may have gone.
            let Ok(file) = self.open(&port.to_string()) else {
                continue;
            };
            if rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
                continue;
            }
            let mut text = String::new();
            // What is no text says nothing.
            let _ = file.take(TEXT_MAX).read_to_string(&mut text);
            held.push(serde_json::from_str(&text).unwrap_or(Held {
                first: port,
                last: port,
                pid: 0,
                uid: 0,
                command: "?".to_owned(),
                since: 0,
            }));
        }
        held.sort_by_key(|h| (h.first, h.last));
        held.dedup();
        Ok(held)
    }
}

impl Lease {
    fn tell(&self, command: &str) -> io::Result<()> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let text = serde_json::to_string(&Held {
            first: self.first,
            last: self.last,
            pid: std::process::id(),
            uid: rustix::process::geteuid().as_raw(),
            command: command.to_owned(),
            since: since.map_or(0, |d| d.as_secs()),
        })?;
        for mut lock in &self.locks {
            lock.set_len(0)?;
            lock.rewind()?;
            lock.write_all(text.as_bytes())?;
        }
        Ok(())
    }
}

/// Nobody listens on it, on any address.
fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u16, last: u16) -> PortRange {
        format!("{first}-{last}").parse().unwrap()
    }

    /// Ports that nobody listens on, as far as can be told.
    fn free() -> u16 {
        let probe = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        probe.local_addr().unwrap().port().min(65_000)
    }

    #[test]
    fn ranges_do_not_meet_and_go_with_their_holder() {
        let place = tempfile::tempdir().unwrap();
        let (one, two) = (
            Pool::at(&place.path().join("p")),
            Pool::at(&place.path().join("p")),
        );
        let start = free();
        let pool = range(start, start + 299);
        let taken = |from: &Pool, count| match from.take(&pool, count, "test").unwrap() {
            Taken::Range(lease) => lease,
            Taken::None(held) => panic!("none: {held:?}"),
        };
        let (a, b) = (taken(&one, 10), taken(&two, 7));
        assert!(a.last < b.first || b.last < a.first, "{a:?} {b:?}");
        let held = one.held().unwrap();
        assert_eq!(held.len(), 2, "{held:?}");
        let ranges: Vec<_> = held.iter().map(|h| (h.first, h.last, h.pid)).collect();
        for lease in [&a, &b] {
            let own = (lease.first, lease.last, std::process::id());
            assert!(ranges.contains(&own), "{own:?} is not in {ranges:?}");
        }
        let first = a.first;
        drop(a);
        assert_eq!(two.held().unwrap().len(), 1);
        assert_eq!(taken(&two, 10).first, first);
    }

    #[test]
    fn who_has_all_of_a_pool_is_told_and_ports_in_use_are_passed_over() {
        let place = tempfile::tempdir().unwrap();
        let pool = Pool::at(place.path());
        let busy = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = busy.local_addr().unwrap().port();
        assert!(
            matches!(pool.take(&range(port, port), 1, "x").unwrap(), Taken::None(held) if held.is_empty())
        );
        // Other programs may listen on some of them.
        let found = (0..100).find_map(|_| {
            let start = free();
            let all = range(start, start + 4);
            match pool.take(&all, 5, "holder").unwrap() {
                Taken::Range(lease) => Some((all, lease)),
                Taken::None(_) => None,
            }
        });
        let (all, lease) = found.expect("five free ports side by side");
        let Taken::None(held) = pool.take(&all, 1, "late").unwrap() else {
            panic!("given twice");
        };
        assert_eq!(held.len(), 1);
        assert_eq!(held[0].command, "holder");
        drop(lease);
        assert!(pool.held().unwrap().is_empty());
    }
}
