//! `cairn up` as the first process of a container: a small one that starts the real one, passes signals on and reaps
//! whatever ends.
//!
//! The real one leaves the users' mount namespace, as it must not block on its own mount. What enters a container (`podman
//! exec`) enters the namespaces of its first process, which therefore has to stay among the users.

use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use std::io;
use std::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// Is this the first process of its container, or host?
#[must_use]
pub fn is_first() -> bool {
    rustix::process::getpid() == Pid::INIT
}

/// Starts this command once more, as another process, and stands in for it; its exit code.
///
/// # Errors
/// It cannot be started, or not be waited for.
pub fn stand_in() -> io::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(until_it_ends())
}

async fn until_it_ends() -> io::Result<u8> {
    // Heard from before there is somebody to tell: the first process has no other answer to them.
    let mut heard = Vec::new();
    for (kind, told) in [
        (SignalKind::terminate(), Signal::TERM),
        (SignalKind::interrupt(), Signal::INT),
        (SignalKind::hangup(), Signal::HUP),
        (SignalKind::quit(), Signal::QUIT),
        (SignalKind::user_defined1(), Signal::USR1),
        (SignalKind::user_defined2(), Signal::USR2),
    ] {
        heard.push((signal(kind)?, told));
    }
    let child = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .spawn()?;
    let raw = i32::try_from(child.id()).map_err(io::Error::other)?;
    let pid = Pid::from_raw(raw).ok_or(io::ErrorKind::NotFound)?;
    for (mut signal, told) in heard {
        tokio::spawn(async move {
            while signal.recv().await.is_some() {
                // It may be gone already.
                let _ = kill_process(pid, told);
            }
        });
    }
    let ended = tokio::task::spawn_blocking(move || reap(pid)).await;
    ended.map_err(io::Error::other)?
}

/// Is that process the one that the first process of this container stands in for? Nobody can take its place: the
/// container ends with it.
#[must_use]
pub fn is_stood_in_for(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may hold anything: state, parent.
    let parent = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.split(' ').nth(1));
    let program = |pid: &str| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    let same = program("1").is_some_and(|first| program(&pid.to_string()) == Some(first));
    parent == Some("1") && same
}

/// Waits for all that ends, until that is the one that counts.
fn reap(child: Pid) -> io::Result<u8> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => {
                let signalled = status.terminating_signal().map(|s| 128 + s);
                let code = status.exit_status().or(signalled).unwrap_or(1);
                return Ok(u8::try_from(code).unwrap_or(1));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
