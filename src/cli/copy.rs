//! `cairn put` and `cairn get`: files to and from a server on another host.

mod doctor;
mod found;
mod pipe;
mod shown;
mod tar;

pub(super) use doctor::Doctor;

use super::output::Output;
use super::proof::Proof;
use super::{CliError, outcome};
use crate::client::ClientError;
use crate::client::remote::plan::{Plan, Skip};
use crate::client::remote::session::{Listening, Outcome, Session, Shared, Way};
use crate::client::remote::{Link, Server};
use crate::config::units::parse_size;
use crate::error::Failure;
use crate::parcel::Placing;
use cairn_mover::{Limit, ListenOptions, Listener, Network, PortMap, STREAMS_MAX, Settings};
use clap::Args;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long nothing may move before a copy is given up.
const PATIENCE: Duration = Duration::from_secs(120);
/// A connection to this end must prove itself within this.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Ports that this end listens on, where nobody says how many streams.
const PORTS: u16 = 8;

/// Which server, and how the data go.
#[derive(Debug, Args)]
pub(crate) struct Far {
    /// The server, HOST or HOST:PORT.
    #[arg(
        long,
        env = "CAIRN_SERVER",
        hide_env_values = true,
        value_name = "HOST[:PORT]"
    )]
    server: String,
    #[command(flatten)]
    proof: Proof,
    /// So many streams (default: as many as pay).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(STREAMS_MAX)))]
    streams: Option<u16>,
    /// At most so much a second: 100M.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    limit_rate: Option<u64>,
    /// Dial the server, also where CAIRN_HOSTNAME says that it could dial this host.
    #[arg(long)]
    dial_out: bool,
    /// none, integrity or privacy (default: integrity, none on the same host).
    #[arg(long, value_name = "HOW")]
    protect: Option<String>,
    /// A network in which streams may be dialled besides at the server's own address.
    #[arg(
        long,
        env = "CAIRN_DIAL",
        hide_env_values = true,
        value_name = "NETWORK",
        value_delimiter = ','
    )]
    dial: Vec<Network>,
    /// The address to listen on, where the server dials (default: all).
    #[arg(
        long,
        env = "CAIRN_BIND",
        hide_env_values = true,
        value_name = "ADDRESS"
    )]
    bind: Option<IpAddr>,
}

/// How files come to their names.
#[derive(Debug, Args)]
pub(crate) struct How {
    /// Leave out what is there and not older.
    #[arg(long, conflicts_with = "if_missing")]
    if_newer: bool,
    /// Leave out what is there.
    #[arg(long)]
    if_missing: bool,
    /// Go on with large files where an earlier copy stopped.
    #[arg(long)]
    resume: bool,
    /// Print results and problems only.
    #[arg(short, long)]
    quiet: bool,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

/// Arguments of `put`.
#[derive(Debug, Args)]
pub(crate) struct Put {
    /// Files and directories here, or - for standard input, then :PATH, the place below the mount.
    #[arg(required = true, num_args = 2.., value_name = "PATH")]
    paths: Vec<std::ffi::OsString>,
    /// Put all of it into one tar file, :PATH, with its index at its end.
    #[arg(long, conflicts_with = "if_newer")]
    tar: bool,
    /// Have it archived now, and not when the policy comes to it; does not wait for that.
    #[arg(long)]
    archive: bool,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    far: Far,
}

/// Arguments of `get`.
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// :PATH of files and directories below the mount, then the place here, or - for standard output.
    #[arg(required = true, num_args = 2.., value_name = "PATH")]
    paths: Vec<std::ffi::OsString>,
    /// Get what is in the tar file :PATH, which `cairn put --tar` made.
    #[arg(long)]
    tar: bool,
    /// Of a tar file this member and all below it, and not the rest; may be given again.
    #[arg(long, value_name = "PATH", requires = "tar")]
    member: Vec<std::ffi::OsString>,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    far: Far,
}

impl Far {
    fn server(&self) -> Result<Server, CliError> {
        self.proof.server(&self.server)
    }

    /// Where this end can be dialled, if it was said where.
    async fn listening(&self) -> Result<Option<Listening>, CliError> {
        let settings = Settings::read(|name| std::env::var(name).ok()).map_err(CliError::usage)?;
        let Some(hosts) = settings.hosts.filter(|_| !self.dial_out) else {
            return Ok(None);
        };
        let ports: Option<PortMap> = settings.ports.map(|given| given.value);
        let options = ListenOptions {
            bind: self.bind.unwrap_or(IpAddr::from([0, 0, 0, 0])),
            ports,
            want: self.streams.unwrap_or(PORTS).into(),
            handshake: HANDSHAKE,
        };
        let listener = Listener::bind(&options).await.map_err(|why| {
            CliError::new(Failure::Busy, why)
                .with_hint("choose another CAIRN_PORT_RANGE, or lease one: cairn ports lease")
        })?;
        if let Some(shortfall) = listener.shortfall() {
            eprintln!("cairn: {shortfall}");
        }
        Ok(Some(Listening {
            listener,
            hosts: hosts.value,
        }))
    }

    async fn session(
        &self,
        way: Way,
        how: &How,
        server: Server,
        link: &Link,
    ) -> Result<Session, CliError> {
        if let Some(word) = &self.protect {
            word.parse::<cairn_mover::Protect>()
                .map_err(CliError::usage)?;
        }
        Ok(Session {
            server,
            way,
            placing: Placing {
                if_missing: how.if_missing,
                resume: how.resume,
                finish_directories: false,
            },
            listening: self.listening().await?,
            wanted: self.streams,
            protect: self.protect.clone(),
            limit: self.limit_rate.and_then(NonZeroU64::new).map(Limit::new),
            dial: self.dial.clone(),
            patience: PATIENCE,
            peer: link.peer().ip(),
            shared: Arc::new(Shared::default()),
        })
    }
}

impl How {
    const fn skip(&self) -> Skip {
        match (self.if_newer, self.if_missing) {
            (true, _) => Skip::NotOlder,
            (false, true) => Skip::Present,
            (false, false) => Skip::Nothing,
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("cairn-copy")
        .enable_all()
        .build()
        .map_err(|e| CliError::system("start threads", &e))
}

/// What the process takes away from the modes of new files.
fn umask() -> u32 {
    let mask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(mask);
    mask.bits()
}

/// Ctrl-C ends a copy; what can be resumed stays.
async fn or_interrupted<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => Err(ClientError::Interrupted.into()),
    }
}

/// Looks at what is to be copied; again, if the server went away meanwhile. One that is not there at all is told at once.
async fn patiently<T>(look: impl AsyncFn() -> Result<T, CliError>) -> Result<T, CliError> {
    for pause in [200, 1000, 3000] {
        match look().await {
            Err(CliError::Client(ClientError::Broken { .. })) => {
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            other => return other,
        }
    }
    look().await
}

impl Put {
    pub(crate) fn run(&self) -> Result<u8, CliError> {
        if self.is_pipe() {
            return self.run_pipe();
        }
        let (local, remote) = found::to_remote(&self.paths)?;
        let server = self.far.server()?;
        runtime()?.block_on(or_interrupted(async {
            let (link, plan) = patiently(async || {
                let mut link = Link::connect(&server).await?;
                let plan = if self.tar {
                    tar::put(&mut link, &local, &remote).await?
                } else {
                    found::put(&mut link, &local, &remote, self.how.skip()).await?
                };
                Ok((link, plan))
            })
            .await?;
            let tops = plan.tops.clone();
            let session = self
                .far
                .session(Way::Put, &self.how, server.clone(), &link)
                .await?;
            drop(link);
            let code = copy(session, plan, &self.how).await?;
            self.archived(&server, &tops, code).await?;
            Ok(code)
        }))
    }

    /// Asks for copies of what was put, if that was wanted.
    async fn archived(&self, server: &Server, tops: &[Vec<u8>], code: u8) -> Result<(), CliError> {
        if !self.archive {
            return Ok(());
        }
        if code != outcome::OK {
            eprintln!("cairn: not archived now: not all of it is there");
            return Ok(());
        }
        let asked = async { Link::connect(server).await?.archive(tops).await };
        let request = asked.await.map_err(|error| {
            let why = format!("all of it is there, but it is not archived now: {error}");
            CliError::new(error.failure(), why)
        })?;
        if !self.how.quiet {
            eprintln!("cairn: being archived by request {request}");
        }
        Ok(())
    }
}

impl Get {
    pub(crate) fn run(&self) -> Result<u8, CliError> {
        if self.is_pipe() {
            return self.run_pipe();
        }
        let (remote, local) = found::from_remote(&self.paths)?;
        let server = self.far.server()?;
        if self.tar {
            return self.run_tar(server, &remote, &local);
        }
        runtime()?.block_on(or_interrupted(async {
            let (link, plan) = patiently(async || {
                let mut link = Link::connect(&server).await?;
                let plan = found::get(&mut link, &remote, &local, self.how.skip()).await?;
                Ok((link, plan))
            })
            .await?;
            let session = self.far.session(Way::Get, &self.how, server, &link).await?;
            drop(link);
            copy(session, plan, &self.how).await
        }))
    }
}

impl Get {
    fn run_tar(
        &self,
        server: Server,
        remote: &[found::Remote],
        local: &std::path::Path,
    ) -> Result<u8, CliError> {
        let members: Vec<_> = self
            .member
            .iter()
            .map(tar::member)
            .collect::<Result<_, _>>()?;
        runtime()?.block_on(or_interrupted(async {
            let (link, view) = patiently(async || {
                let mut link = Link::connect(&server).await?;
                let view = tar::archive(&mut link, remote).await?;
                Ok((link, view))
            })
            .await?;
            let session = self.far.session(Way::Get, &self.how, server, &link).await?;
            drop(link);
            let plan = tar::get(&session, &view, local, &members, self.how.skip()).await?;
            copy(session, plan, &self.how).await
        }))
    }
}

/// Moves the plan, and says how it went.
async fn copy(session: Session, mut plan: Plan, how: &How) -> Result<u8, CliError> {
    let (begun, session) = (Instant::now(), Arc::new(session));
    let mut output = Output::new(how.json);
    let bar = shown::Bar::new(how.quiet || how.json, plan.bytes);
    let mut work = Box::pin(session.run(&mut plan));
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    let done: Outcome = loop {
        tokio::select! {
            done = &mut work => break done,
            _ = tick.tick() => bar.at(&session.shared),
        }
    };
    drop(work);
    bar.end(&session.shared);
    let mut problems = std::mem::take(&mut plan.problems);
    problems.extend(done.problems);
    let summary = shown::summary(
        &session,
        &plan,
        problems.len() as u64,
        done.bytes,
        begun.elapsed(),
    );
    let code = outcome::of_problems(problems.iter().map(|p| p.code.as_str()), summary.files > 0);
    for problem in problems {
        output.problem(problem)?;
    }
    if let Some(error) = done.broke {
        output.finish()?;
        return Err(error.into());
    }
    if how.json {
        output.object(summary)?;
    } else if !how.quiet {
        output.line(shown::sentence(&summary))?;
    }
    output.finish()?;
    Ok(code)
}
