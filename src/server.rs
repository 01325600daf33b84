//! The doors of a running instance: an HTTP API over a Unix socket, beside it the socket through
//! which local callers hand over descriptors of their files, and the audit log. Who may do what
//! is decided behind [`control::Control`], never here; who is asking is established here, from
//! the socket's peer (P15).
//!
//! # Invariants
//! - No path that a caller sends is ever opened: files come as descriptors only.
//! - What one user can make the server hold (connections, descriptors, bodies, calls, walks, waits)
//!   is bounded, and has a time limit where it depends on the user to go on: no user can shut the
//!   others out. A wait is a parked task, never a thread.

pub mod audit;
pub mod control;
mod crowd;
mod handles;
pub(crate) mod holders;
mod http;
pub mod instance;
mod listen;
pub(crate) mod peer;
pub mod remote;
mod share;
pub mod socket;
mod stream;
mod sys;
pub mod tapes;
mod waits;
pub mod wire;

use crate::id::RequestId;
use audit::Audit;
use control::Control;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Most subjects in one call; more are handed over in parts (`wire::Part`).
pub const MAX_SUBJECTS: usize = 512;

/// Threads on which [`Control`] is called: at most, and for all shares of [`http`] together.
const CONTROL_THREADS: usize = 192;

/// How long [`Server::stop`] lets answers that are under way finish.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// Why the doors could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The sockets' directory cannot be made.
    #[error("make directory {path}: {source}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A running instance answers on the socket.
    #[error("another instance answers on {path}")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// A socket cannot be bound.
    #[error("bind {path}: {source}")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The threads cannot be started.
    #[error("start the control server's threads: {source}")]
    Threads {
        /// Why.
        source: io::Error,
    },
}

/// Open doors. Dropping it closes them without patience.
#[derive(Debug)]
pub struct Server {
    runtime: Option<tokio::runtime::Runtime>,
    stop: tokio::sync::watch::Sender<bool>,
    http: Option<tokio::task::JoinHandle<()>>,
    dir: PathBuf,
}

impl Server {
    /// Opens the doors in `dir` (made with mode 0755 if absent; every directory above it must be
    /// enterable by the users who are to be served). Starts threads of its own.
    ///
    /// # Errors
    /// See [`ServerError`]; a socket nobody listens on may be left, the next start removes it.
    pub fn start(control: Arc<dyn Control>, dir: &Path, audit: Audit) -> Result<Self, ServerError> {
        listen::prepare(dir)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(CONTROL_THREADS)
            .thread_name("cairn-control")
            .enable_all()
            .build()
            .map_err(|source| ServerError::Threads { source })?;
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let tokens = Arc::new(handles::Tokens::default());
        let waits = Arc::new(waits::Waits::default());
        let wake = Arc::clone(&waits);
        control.on_change(Box::new(move |id: RequestId| wake.wake(id)));
        let crowd = crowd::Crowd::default();
        let _inside = runtime.enter();
        let doors = listen::Listener::bind(&dir.join(socket::CONTROL), crowd.clone())?;
        let hatch = listen::bind_packets(&dir.join(socket::HANDLES))?;
        let hatch = handles::Hatch::new(hatch, Arc::clone(&tokens), crowd).map_err(|source| {
            ServerError::Bind {
                path: dir.join(socket::HANDLES),
                source,
            }
        })?;
        runtime.spawn(hatch.serve());
        let movers = dir.join(socket::MOVERS);
        let landing = remote::movers::Landing::new(listen::bind_own_packets(&movers)?);
        let landing = landing.map_err(|source| ServerError::Bind {
            path: movers,
            source,
        })?;
        runtime.spawn(landing.serve());
        let api = http::Api::new(control, tokens, waits, audit, stopped.clone());
        let http = runtime.spawn(http::serve(doors, api, stopped));
        Ok(Self {
            runtime: Some(runtime),
            stop,
            http: Some(http),
            dir: dir.to_owned(),
        })
    }

    /// The control socket: what the mount answers to `user.cairn.socket`.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join(socket::CONTROL)
    }

    /// Closes the doors: no new connections; answers under way get two seconds.
    pub fn stop(mut self) {
        let _ = self.stop.send(true);
        if let (Some(runtime), Some(http)) = (&self.runtime, self.http.take()) {
            let _ = runtime.block_on(async { tokio::time::timeout(STOP_PATIENCE, http).await });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for name in [socket::CONTROL, socket::HANDLES, socket::MOVERS] {
            if let Err(error) = std::fs::remove_file(self.dir.join(name)) {
                tracing::debug!(name, %error, "socket was gone already");
            }
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
