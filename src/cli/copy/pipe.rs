//! `-`: standard input as a file there, a file there as standard output.

use super::found::{self, Remote, at, made_now};
use super::{Get, How, Put, or_interrupted, patiently, runtime, shown};
use crate::cli::{CliError, outcome};
use crate::client::ClientError;
use crate::client::remote::Link;
use crate::client::remote::plan::Plan;
use crate::client::remote::session::{Session, Way};
use crate::error::Failure;
use crate::parcel::Tree;
use crate::server::wire::{EntryKind, GivenPath};
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Is it standard input or output?
fn is_pipe(path: &OsString) -> bool {
    path == "-"
}

/// What makes no sense beside `-`.
fn check(paths: &[OsString], how: &How, tar: bool) -> Result<(), CliError> {
    if paths.len() != 2 {
        return Err(CliError::usage("- stands for one file, and alone")
            .with_hint("cairn put - :REMOTE, cairn get :REMOTE -; a file of that name is ./-"));
    }
    if tar || how.resume || how.if_newer || how.json {
        let why = "- goes with none of --tar, --resume, --if-newer, --json";
        return Err(CliError::usage(why));
    }
    Ok(())
}

/// Shows why the server does not dial while something moves, and a sentence at the end: on standard error.
async fn watched<T>(
    session: &Session,
    quiet: bool,
    work: impl Future<Output = Result<(u64, T), ClientError>>,
) -> Result<T, CliError> {
    let (begun, mut work) = (Instant::now(), Box::pin(work));
    let bar = shown::Bar::new(true, 0);
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            _ = tick.tick() => bar.at(&session.shared),
        }
    };
    bar.end(&session.shared);
    let (bytes, rest) = done?;
    let mut plan = Plan::default();
    plan.count = 1;
    let summary = shown::summary(session, &plan, 0, bytes, begun.elapsed());
    if !quiet {
        eprintln!("cairn: {}", shown::sentence(&summary));
    }
    Ok(rest)
}

/// Runs to its end, and does not wait for a read or a write that waits for somebody else.
fn run(work: impl Future<Output = Result<u8, CliError>>) -> Result<u8, CliError> {
    let runtime = runtime()?;
    let done = runtime.block_on(or_interrupted(work));
    runtime.shutdown_background();
    done
}

impl Put {
    pub(super) fn is_pipe(&self) -> bool {
        let (_, local) = self.paths.split_last().unzip();
        local.is_some_and(|local| local.iter().any(is_pipe))
    }

    pub(super) fn run_pipe(&self) -> Result<u8, CliError> {
        check(&self.paths, &self.how, self.tar)?;
        let (_, remote) = found::to_remote(&self.paths)?;
        let server = self.far.server()?;
        run(async {
            let link = patiently(async || {
                let mut link = Link::connect(&server).await?;
                no_directory(&mut link, &remote).await?;
                Ok(link)
            })
            .await?;
            let session = self
                .far
                .session(Way::Put, &self.how, server.clone(), &link)
                .await?;
            drop(link);
            let put = session.put_pipe(made_now(&remote, 0), std::io::stdin());
            let problems = watched(&session, self.how.quiet, put).await?;
            for problem in &problems {
                let path = problem.path.as_ref().map_or("?", GivenPath::text);
                eprintln!("cairn: {path}: {} ({})", problem.message, problem.code);
            }
            let codes = problems.iter().map(|problem| problem.code.as_str());
            let code = outcome::of_problems(codes, false);
            self.archived(&server, &[remote.path], code).await?;
            Ok(code)
        })
    }
}

impl Get {
    pub(super) fn is_pipe(&self) -> bool {
        self.paths.last().is_some_and(is_pipe)
    }

    pub(super) fn run_pipe(&self) -> Result<u8, CliError> {
        check(&self.paths, &self.how, self.tar)?;
        if self.how.if_missing {
            return Err(CliError::usage(
                "- is never there: --if-missing says nothing",
            ));
        }
        let (remote, _) = found::from_remote(&self.paths)?;
        let server = self.far.server()?;
        run(async {
            let (link, view) = patiently(async || {
                let mut link = Link::connect(&server).await?;
                let view = super::tar::archive(&mut link, &remote).await?;
                Ok((link, view))
            })
            .await?;
            let session = self.far.session(Way::Get, &self.how, server, &link).await?;
            drop(link);
            let session = Arc::new(session);
            let tree = Tree::open(Path::new("/")).map_err(|e| CliError::system("open /", &e))?;
            let tree = Arc::new(tree);
            let write = |bytes: &[u8]| {
                let mut out = std::io::stdout().lock();
                out.write_all(bytes)?;
                out.flush()
            };
            let get = async {
                let bytes = session.get_pipe(&view, &tree, write).await?;
                Ok((bytes, ()))
            };
            match watched(&session, self.how.quiet, get).await {
                Ok(()) => Ok(outcome::OK),
                // Nobody reads it any more.
                Err(CliError::Client(ClientError::Local { source, .. }))
                    if source.kind() == std::io::ErrorKind::BrokenPipe =>
                {
                    Err(source.into())
                }
                Err(error) => Err(error),
            }
        })
    }
}

async fn no_directory(link: &mut Link, remote: &Remote) -> Result<(), CliError> {
    let there = at(link, &remote.path).await?;
    let is_directory = there.is_some_and(|entry| entry.kind == EntryKind::Directory);
    if remote.directory || is_directory {
        let shown = String::from_utf8_lossy(&remote.path);
        return Err(CliError::new(
            Failure::Usage,
            format!(":{shown} is a directory; name the file"),
        ));
    }
    Ok(())
}
