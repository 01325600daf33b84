//! What a service supervisor is told: that users are served, and by which process, so that units ordered
//! behind this one start when the mount is there, and a successor (`cairn upgrade`) becomes the service's
//! main process.
//!
//! The protocol is that of sd_notify(3): lines in a datagram to the socket in `NOTIFY_SOCKET`. Nobody is
//! told where there is none, and a supervisor that cannot be told keeps nobody from serving.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Names the socket, as sd_notify(3) says.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// The supervisor of this process, if it has one that wants to know.
pub(super) struct Supervisor(Option<UnixDatagram>);

impl Supervisor {
    /// Connects at once: later the socket's filesystem may be out of this process's sight.
    pub(super) fn of_environment() -> Self {
        let Some(name) = std::env::var_os(VARIABLE).filter(|name| !name.is_empty()) else {
            return Self(None);
        };
        Self(connect(&name).map_or_else(
            |why| {
                tracing::warn!(%why, socket = %name.display(), "the supervisor cannot be told");
                None
            },
            Some,
        ))
    }

    /// Users are served, by this process.
    pub(super) fn ready(&self, status: &str) {
        self.tell(&format!(
            "READY=1\nMAINPID={}\nSTATUS=serving {status}\n",
            std::process::id()
        ));
    }

    /// The service's main process is this one from now on.
    pub(super) fn main_process(&self, pid: u32) {
        self.tell(&format!("MAINPID={pid}\n"));
    }

    /// The mount is gone, or not served any more; what is left is to write down.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1\n");
    }

    fn tell(&self, lines: &str) {
        let told = self.0.as_ref().map(|socket| socket.send(lines.as_bytes()));
        if let Some(Err(why)) = told {
            tracing::warn!(%why, "the supervisor was not told");
        }
    }
}

/// A name that begins with `@` is an abstract one.
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name)?,
        None => SocketAddr::from_pathname(OsString::from(name))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // Who does not read must not keep users waiting.
    socket.set_nonblocking(true)?;
    Ok(socket)
}
