//! `cairn serve`: the door for callers on other hosts; and `cairn agent`, what it starts for each user.

use super::{CliError, Session, token, user};
use crate::client::{Client, ClientError, Place};
use crate::error::Failure;
use crate::server::remote::Identity;
use crate::server::remote::agent::{Local, Plan, place, run as act};
use crate::server::remote::door::{AgentStart, serve};
use crate::server::remote::tokens::Tokens;
use crate::server::socket::MOVERS;
use crate::server::wire::{SubmitOptions, Submitted, Verb};
use cairn_mover::Network;
use clap::Args;
use parking_lot::Mutex;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The mount whose files are served.
    mount: PathBuf,
    /// Address and port for callers and for the streams that they dial; port 1024 or above.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:7300")]
    listen: SocketAddr,
    /// Where callers dial streams, if that is not where they call, as often as needed.
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Vec<String>,
    /// A network in which callers may be dialled besides at their own address, as often as needed.
    #[arg(long, value_name = "NETWORK")]
    dial: Vec<Network>,
    /// A certificate (PEM); without it one of the instance's own, that callers know by its fingerprint.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Until its standard input ends (`cairn up` starts it so).
    #[arg(long, hide = true)]
    while_open: bool,
    /// In this mount namespace (likewise).
    #[arg(long = "in", value_name = "PATH", hide = true)]
    namespace: Option<PathBuf>,
}

impl Serve {
    pub(crate) fn run(&self, session: &Session) -> Result<u8, CliError> {
        if self.listen.port() != 0 && self.listen.port() < 1024 {
            let why = format!(
                "port {}: streams are never dialled below 1024",
                self.listen.port()
            );
            return Err(
                CliError::usage(why).with_hint("listen on 7300, and forward another one to it")
            );
        }
        for text in &self.advertise {
            place(text).map_err(CliError::usage)?;
        }
        if let Some(path) = &self.namespace {
            enter(path)?;
        }
        raise_files();
        let mount =
            std::path::absolute(&self.mount).map_err(|e| CliError::system("find the mount", &e))?;
        let state = token::state_of(session, Some(&mount))?;
        let socket = session.client_near(Some(&mount))?.socket().to_owned();
        let identity = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => Identity::load(certificate, key),
            _ => Identity::own(&state),
        };
        let identity = identity.map_err(|why| CliError::new(Failure::Internal, why))?;
        let told = state.join(token::SERVED);
        std::fs::write(&told, &identity.fingerprint)
            .map_err(|e| CliError::system(format!("write {}", told.display()), &e))?;
        let start = AgentStart {
            program: std::env::current_exe()
                .map_err(|e| CliError::system("find this program", &e))?,
            mount,
            movers: socket.with_file_name(MOVERS),
            socket,
            dial: self.dial.iter().map(ToString::to_string).collect(),
            advertise: self.advertise.clone(),
        };
        self.until_told(identity, Tokens::of(&state), start)
    }

    fn until_told(
        &self,
        identity: Identity,
        tokens: Tokens,
        start: AgentStart,
    ) -> Result<u8, CliError> {
        let failed = |e: io::Error| CliError::system(format!("listen on {}", self.listen), &e);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("cairn-door")
            .enable_all()
            .build()
            .map_err(|e| CliError::system("start threads", &e))?;
        let (stop, stopped) = tokio::sync::watch::channel(false);
        runtime.block_on(async {
            let mut terminated = signal(SignalKind::terminate())
                .map_err(|e| CliError::system("watch signals", &e))?;
            let ended = input_ends(self.while_open);
            tokio::spawn(async move {
                tokio::select! {
                    _ = terminated.recv() => {}
                    _ = tokio::signal::ctrl_c() => {}
                    () = ended => {}
                }
                // The door may be gone already.
                let _ = stop.send(true);
            });
            let socket = tokio::net::TcpListener::bind(self.listen)
                .await
                .map_err(failed)?;
            let at = socket.local_addr().map_err(failed)?;
            let mut out = io::stdout();
            writeln!(
                out,
                "ready serve {at} mount {} fingerprint {}",
                start.mount.display(),
                identity.fingerprint
            )?;
            out.flush()?;
            serve(socket, identity, tokens, start, stopped)
                .await
                .map_err(failed)
        })?;
        runtime.shutdown_background();
        Ok(0)
    }
}

/// Returns when the standard input ends, if that `matters`.
fn input_ends(matters: bool) -> impl Future<Output = ()> + Send + 'static {
    let (tell, told) = tokio::sync::oneshot::channel::<()>();
    let read = move || {
        // Nothing is ever written to it; an error is an end, too.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        drop(tell);
    };
    let reads = matters
        && std::thread::Builder::new()
            .name("cairn-input".to_owned())
            .spawn(read)
            .is_ok();
    async move {
        // Nothing is ever told: the other end goes.
        let _ = told.await;
        if !reads {
            std::future::pending().await
        }
    }
}

/// As many open files as may be: each caller has some.
fn raise_files() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit) {
        tracing::warn!(%error, "few files may be open");
    }
}

/// Joins a mount namespace, while there is one thread.
fn enter(namespace: &Path) -> Result<(), CliError> {
    let failed = |e: io::Error| CliError::system(format!("enter {}", namespace.display()), &e);
    let file = std::fs::File::open(namespace).map_err(failed)?;
    let kind = rustix::thread::LinkNameSpaceType::Mount;
    rustix::thread::move_into_link_name_space(file.as_fd(), Some(kind))
        .map_err(|e| failed(e.into()))
}

/// Arguments of `agent`, which people do not start.
#[derive(Debug, Args)]
pub(crate) struct Agent {
    mount: PathBuf,
    #[arg(long)]
    uid: u32,
    #[arg(long)]
    control: PathBuf,
    #[arg(long)]
    dial: Vec<Network>,
    #[arg(long, value_parser = place)]
    advertise: Vec<cairn_mover::Place>,
}

impl Agent {
    pub(crate) fn run(&self) -> Result<u8, CliError> {
        raise_files();
        user::become_user(self.uid)?;
        let door = door()?;
        let local = Arc::new(Here {
            socket: self.control.clone(),
            mount: self.mount.clone(),
            client: Mutex::new(None),
        });
        let plan = Plan {
            mount: self.mount.clone(),
            dial: self.dial.clone(),
            advertise: self.advertise.clone(),
            door,
            local,
        };
        act(plan).map_err(|e| CliError::system(format!("serve {}", self.mount.display()), &e))?;
        Ok(0)
    }
}

/// The socket that the door gave this process, as its standard input.
fn door() -> Result<OwnedFd, CliError> {
    let stdin = io::stdin();
    let own = rustix::io::fcntl_dupfd_cloexec(stdin.as_fd(), 3);
    let own = own.map_err(|e| CliError::system("take the door's socket", &e.into()))?;
    if rustix::net::sockopt::socket_type(&own) != Ok(rustix::net::SocketType::SEQPACKET) {
        return Err(CliError::usage("cairn serve starts this; people do not"));
    }
    Ok(own)
}

/// How long an instance that is being replaced is waited for.
const REPLACED: Duration = Duration::from_secs(60);

/// The instance, as the user's own client sees it.
struct Here {
    socket: PathBuf,
    mount: PathBuf,
    client: Mutex<Option<Client>>,
}

impl Here {
    fn connect(&self) -> Result<Client, ClientError> {
        Client::find(&Place {
            socket: Some(&self.socket),
            path: None,
        })
    }

    fn try_settle(&self, only_look: bool) -> Result<u64, ClientError> {
        // Taken out: several may wait for the disk at one time.
        let kept = self.client.lock().take();
        let mut client = match kept {
            Some(client) => client,
            None => self.connect()?,
        };
        let settled = client.settle(only_look)?;
        *self.client.lock() = Some(client);
        Ok(settled)
    }
}

impl Local for Here {
    fn settle(&self, only_look: bool) -> io::Result<u64> {
        let until = Instant::now() + REPLACED;
        loop {
            match self.try_settle(only_look) {
                Ok(faults) => return Ok(faults),
                Err(error) if error.failure() != Failure::NoInstance => {
                    tracing::error!(%error, "what was put could not be made durable");
                    return Err(io::Error::other("the filesystem failed"));
                }
                Err(error) if Instant::now() > until => {
                    tracing::error!(%error, "what was put could not be made durable");
                    return Err(io::ErrorKind::NotConnected.into());
                }
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    fn stage(&self, paths: Vec<Vec<u8>>) -> Result<(), String> {
        self.ask(Verb::Stage, paths).map(drop)
    }

    fn archive(&self, paths: Vec<Vec<u8>>) -> Result<u64, String> {
        match self.ask(Verb::Archive, paths)? {
            Some(Submitted::Accepted(accepted)) => Ok(accepted.request),
            Some(Submitted::Plan(_)) | None => Err("nothing was begun".to_owned()),
        }
    }
}

impl Here {
    fn ask(&self, verb: Verb, paths: Vec<Vec<u8>>) -> Result<Option<Submitted>, String> {
        let whole = |path: Vec<u8>| {
            let below = Path::new(OsStr::from_bytes(&path));
            self.mount.join(below).into_os_string().into_vec()
        };
        // A client of its own: nobody who settles waits for it.
        let mut client = self.connect().map_err(|error| error.to_string())?;
        let mut paths = paths.into_iter().map(whole);
        let asked = client.submit(verb, &mut paths, &SubmitOptions::default());
        asked
            .map(|done| done.submitted)
            .map_err(|error| error.to_string())
    }
}
