//! The server's life: takes over what is there or mounts, says what happens, obeys its input.

use super::work::{ELSEWHERE, KEPT};
use cairn_fuse::mount::{Successor, prepare};
use cairn_fuse::{
    AlwaysResident, AttributeChange, Caller, Event, FileRef, Holding, Mirror, MirrorConfig,
    Passthrough, Presence, ReadDone, Residency, Shown, WaitDone, WaitToken,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Arguments: backing, mount point, socket, then words.
pub(crate) fn serve(args: &[String]) -> anyhow::Result<()> {
    let mounter = prepare()?;
    let [backing, mountpoint, socket, words @ ..] = args else {
        anyhow::bail!("too few arguments");
    };
    let has = |word: &str| words.iter().any(|w| w == word);
    let after = |word: &str| {
        let at = words.iter().position(|w| w == word)?;
        words.get(at + 1).cloned()
    };
    let backing = match after("backing") {
        Some(inner) => Path::new(backing).join(inner),
        None => backing.into(),
    };
    let ever = has("never-more-descriptors");
    if ever || has("few-descriptors") {
        let maximum = getrlimit(Resource::Nofile).maximum.filter(|_| !ever);
        let current = Some(64);
        let maximum = maximum.or(current.filter(|_| ever));
        setrlimit(Resource::Nofile, Rlimit { current, maximum })?;
    }
    let residency = Odd {
        dies_at: after("die-at"),
        away: has("away"),
    };
    let mut config = MirrorConfig::new(backing, mountpoint.into(), Arc::new(residency));
    config.shared = has("shared");
    if has("no-passthrough") {
        config.passthrough = Passthrough::Off;
    }
    let hold = after("hold-ms").map_or(Ok(600_000), |ms| ms.parse())?;
    config.hold = Some(Holding {
        time: Duration::from_millis(hold),
        socket: socket.into(),
    });
    match Successor::meet(Path::new(socket))? {
        Some(successor) => {
            successor.check(&config)?;
            config.inherit = Some(successor.take()?);
            drop(mounter);
            anyhow::ensure!(!has("fail-after-taking"), "fails as asked for");
        }
        None => config.mounter = Some(mounter),
    }
    let mirror = Mirror::start(config)?;
    say(&format!("ready {}", mirror.facts().predecessors));
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    match line.trim() {
        "unmount" => mirror.unmount(false)?,
        "wait" => mirror.wait()?,
        "leave" => {}
        // The test is over.
        _ => mirror.unmount(true)?,
    }
    Ok(())
}

fn say(line: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// Dies when it is told of something, which is when that is done and not yet answered; or answers
/// nothing about data.
struct Odd {
    dies_at: Option<String>,
    away: bool,
}

fn path_of(file: FileRef<'_>) -> String {
    format!("/proc/self/fd/{}", file.fd.as_raw_fd())
}

fn errno<T>(done: rustix::io::Result<T>) -> Result<T, cairn_fuse::Errno> {
    done.map_err(|why| cairn_fuse::Errno(why.raw_os_error()))
}

impl Residency for Odd {
    fn presence(&self, file: FileRef<'_>) -> Presence {
        if self.away {
            Presence::Released
        } else {
            AlwaysResident.presence(file)
        }
    }
    fn shown(&self, _: FileRef<'_>, _: &rustix::fs::Statx) -> Shown {
        Shown::default()
    }
    fn read(&self, f: FileRef<'_>, o: u64, l: u32, c: Caller, done: ReadDone) -> WaitToken {
        if self.away {
            say("read");
            std::mem::forget(done);
            return WaitToken(1);
        }
        AlwaysResident.read(f, o, l, c, done)
    }
    fn fetch(&self, f: FileRef<'_>, k: Option<u64>, c: Caller, done: WaitDone) -> WaitToken {
        if self.away {
            say("fetch");
            std::mem::forget(done);
            return WaitToken(2);
        }
        AlwaysResident.fetch(f, k, c, done)
    }
    fn give_up(&self, _: WaitToken) {}
    fn seek(&self, f: FileRef<'_>, o: u64, d: bool) -> Result<u64, cairn_fuse::Errno> {
        AlwaysResident.seek(f, o, d)
    }
    fn truncated(&self, _: FileRef<'_>) -> Result<(), cairn_fuse::Errno> {
        Ok(())
    }
    fn is_private(&self, _: &OsStr) -> bool {
        false
    }
    fn attribute(
        &self,
        file: FileRef<'_>,
        name: &OsStr,
        _: Caller,
    ) -> Option<Result<Vec<u8>, cairn_fuse::Errno>> {
        if name != ELSEWHERE {
            return None;
        }
        let mut value = vec![0; 64];
        let found = rustix::fs::getxattr(path_of(file), KEPT, value.as_mut_slice());
        Some(errno(found).map(|length| value[..length].to_vec()))
    }
    fn change_attribute(
        &self,
        file: FileRef<'_>,
        name: &OsStr,
        change: AttributeChange<'_>,
    ) -> Option<Result<(), cairn_fuse::Errno>> {
        (name == ELSEWHERE).then(|| match change {
            AttributeChange::Set { value, flags } => {
                let flags = rustix::fs::XattrFlags::from_bits_retain(flags.cast_unsigned());
                errno(rustix::fs::setxattr(path_of(file), KEPT, value, flags))
            }
            AttributeChange::Remove => errno(rustix::fs::removexattr(path_of(file), KEPT)),
        })
    }
    fn set_attribute(
        &self,
        _: FileRef<'_>,
        _: &OsStr,
        _: &[u8],
        _: Caller,
    ) -> Option<Result<(), cairn_fuse::Errno>> {
        None
    }
    fn note(&self, event: Event) {
        if self.dies_at.as_deref() == Some(&*format!("{:?}", event.kind)) {
            let this = rustix::process::getpid();
            let _ = rustix::process::kill_process(this, rustix::process::Signal::KILL);
            loop {
                std::thread::park();
            }
        }
    }
}
