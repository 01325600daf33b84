//! `cairn mover`: what this host has to keep objects in, for an instance on another host.

use super::CliError;
use super::proof::Proof;
use crate::client::ClientError;
use crate::client::remote::{Link, Server};
use crate::error::Failure;
use crate::tier::TierUrl;
use crate::tier::exec::watch_programs;
use crate::tier::mover::{Far, FarError};
use clap::Args;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Between two tries to join: at first, and at most.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);

/// Arguments of `mover`.
#[derive(Debug, Args)]
pub(crate) struct Mover {
    /// What objects are kept in: dir:, tape:, s3: or exec:, as for `cairn tier`.
    #[arg(value_name = "URL")]
    place: TierUrl,
    /// The server whose tier mover:NAME this is, HOST or HOST:PORT; NAME is that of the token.
    #[arg(long, value_name = "HOST[:PORT]")]
    join: String,
    /// Make an empty place a tier. Once: it is refused where one is already.
    #[arg(long)]
    new: bool,
    #[command(flatten)]
    proof: Proof,
}

impl Mover {
    pub(crate) fn run(&self) -> Result<u8, CliError> {
        if let TierUrl::Mover { .. } = self.place {
            let why = "a mover keeps objects in a place of its own host";
            return Err(CliError::usage(why).with_hint("name a dir:, tape:, s3: or exec: URL"));
        }
        let server = self.proof.server(&self.join)?;
        if let TierUrl::Exec { .. } = self.place {
            watch_programs().map_err(|e| CliError::system("watch the site's programs", &e))?;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("cairn-mover")
            .enable_all()
            .build()
            .map_err(|e| CliError::system("start threads", &e))?;
        let far = Far::new(self.place.clone(), self.new);
        let ended = runtime.block_on(async {
            let mut terminated = signal(SignalKind::terminate())
                .map_err(|e| CliError::system("watch signals", &e))?;
            tokio::select! {
                ended = self.keep(&server, &far) => ended,
                _ = terminated.recv() => Ok(()),
                _ = tokio::signal::ctrl_c() => Ok(()),
            }
        });
        // What is being finished is finished, or is no object: nobody waits for it here.
        runtime.shutdown_background();
        ended.map(|()| 0)
    }

    /// Joins again and again. Returns when the server does not want it: its token is void.
    async fn keep(&self, server: &Server, far: &Arc<Far>) -> Result<(), CliError> {
        let mut pause = PAUSE;
        loop {
            let joined = std::cell::Cell::new(false);
            let ready = || {
                joined.set(true);
                self.say_ready(server);
            };
            let why = match Link::join(server).await {
                Ok((_, at)) if at.port() < 1024 => {
                    let why = format!("port {}: streams are never dialled below 1024", at.port());
                    return Err(CliError::usage(why).with_hint("name the server's own port, 7300"));
                }
                Ok((stream, at)) => match far.serve(stream, at, ready).await {
                    Ok(()) => "the server ended the connection".to_owned(),
                    Err(FarError::Refused(why)) => format!("not let in: {why}"),
                    Err(error) => error.to_string(),
                },
                Err(
                    error @ ClientError::Refused {
                        failure: Failure::NotPermitted,
                        ..
                    },
                ) => return Err(error.into()),
                Err(error) => error.to_string(),
            };
            if joined.get() {
                pause = PAUSE;
            }
            eprintln!(
                "cairn: {} is away: {why}; trying again in {:.1} s",
                server.place(),
                pause.as_secs_f64()
            );
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(LONGEST);
        }
    }

    fn say_ready(&self, server: &Server) {
        let mut out = std::io::stdout();
        // Nobody may be listening.
        let _ = writeln!(out, "ready mover {} joined {}", self.place, server.place())
            .and_then(|()| out.flush());
    }
}
