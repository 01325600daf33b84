//! The commands of `cairn`: each about twenty lines over [`crate::client`].
//!
//! Results go to stdout, progress and hints to stderr. Exit codes are in the text of `--help` and
//! are never given another meaning.

mod acting;
pub mod adopt;
mod catalog;
mod codes;
mod copy;
pub mod demo;
mod down;
mod error;
mod job;
mod ls;
mod mover;
mod names;
mod outcome;
mod output;
mod policy;
mod ports;
mod progress;
mod proof;
mod rebuild;
mod receipt;
mod remove;
mod repair;
mod requests;
mod restore;
mod serve;
mod shell;
mod slurm;
mod state;
mod status;
mod subjects;
mod sys;
mod tape;
mod tier;
mod token;
mod undelete;
pub mod up;
mod upgrade;
mod user;
mod verify;
mod why;

pub use error::CliError;

use crate::client::{Client, Place};
use crate::server::wire::Verb;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What starts an instance: the one thing that the commands cannot do themselves.
pub trait Starter {
    /// Serves until `cairn down` or Ctrl-C; returns what to exit with.
    ///
    /// # Errors
    /// Why it did not start.
    fn up(&self, plan: &up::UpPlan) -> Result<u8, CliError>;
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done, or accepted
  1  some files failed; they are listed with the reason
  2  wrong usage
  3  no running instance
  4  the time is up or the wait was interrupted; the request is still running
  5  not permitted
  6  a tier is unavailable
(status --check exits as monitoring plugins do: 0 ok, 1 warning, 2 critical, 3 unknown)

Start here: cairn demo";

/// Archive filesystem and HSM mover: plain POSIX above, plain tar below
#[derive(Debug, Parser)]
#[command(name = "cairn", version, after_help = EXIT_CODES, max_term_width = 100)]
#[command(disable_help_subcommand = true, infer_subcommands = false)]
pub(crate) struct Cli {
    /// Control socket of the instance; else the mount that PATH lies in is asked
    #[arg(
        long,
        env = "CAIRN_SOCKET",
        value_name = "PATH",
        global = true,
        hide_env_values = true
    )]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Mount BACKING at MOUNT and serve until Ctrl-C or `cairn down`
    #[command(
        after_help = "Example: cairn up --tier cold=dir:/mnt/cold /srv/.cairn-data/backing /srv/data"
    )]
    Up(up::UpArgs),
    /// Put an existing tree behind a mount at the same path
    #[command(
        after_help = "Example: cairn adopt /srv/data && cairn up /srv/.cairn-data/backing /srv/data"
    )]
    Adopt(adopt::AdoptArgs),
    /// Build a lost or damaged catalog anew, while the instance is down
    #[command(
        after_help = "Example: cairn rebuild --tier cold=dir:/mnt/cold /srv/.cairn-data/backing"
    )]
    Rebuild(rebuild::RebuildArgs),
    /// Print what the catalog knows
    Catalog(catalog::Catalog),
    /// Replace the program that serves a mount while it is in use
    #[command(after_help = "Example: cairn upgrade --exec /usr/local/bin/cairn /srv/data")]
    Upgrade(upgrade::Upgrade),
    /// Unmount and stop; name who holds a busy mount
    #[command(after_help = "Example: cairn down /srv/data")]
    Down(down::Down),
    /// Show flags, copies, pins and request of files
    #[command(after_help = "Example: cairn state -r /srv/data/proj")]
    State(state::State),
    /// List files with state and size on disk
    #[command(after_help = "Example: cairn ls -l /srv/data/proj
         cairn ls -Ra0 --on-disk . | tar --null --no-recursion -T - -cf /backup/new.tar")]
    Ls(ls::Ls),
    /// Copy files to a tier
    #[command(after_help = "Example: cairn archive --wait /srv/data/run-17")]
    Archive(acting::Acting),
    /// Give the disk blocks of archived files back
    #[command(after_help = "Example: cairn release --dry-run /srv/data/run-17")]
    Release(acting::Acting),
    /// Bring released files back to disk
    #[command(
        after_help = "Example: find . -name '*.h5' -print0 | cairn stage --files-from - -0 --wait"
    )]
    Stage(acting::Acting),
    /// Give up the copies of files on one tier
    #[command(after_help = "Example: cairn remove --wait --tier cold /srv/data/run-17")]
    Remove(remove::Remove),
    /// Bring deleted and overwritten files back
    #[command(after_help = "Example: cairn undelete --list /srv/data/run-17")]
    Undelete(undelete::Undelete),
    /// Read copies back and compare
    #[command(
        after_help = "Example: cairn verify --wait --tier cold /srv/data/run-17\n         cairn verify --wait --sample 1% --older-than 30d"
    )]
    Verify(verify::Verify),
    /// Show a file's copies, and how to prove them without Cairn
    #[command(after_help = "Example: cairn receipt --sha256 /srv/data/run-17/out.h5")]
    Receipt(receipt::Receipt),
    /// Keep files on disk for a while
    #[command(after_help = "Example: cairn pin --for 7d /srv/data/run-17")]
    Pin(acting::Pin),
    /// Take your pins off
    #[command(after_help = "Example: cairn unpin /srv/data/run-17")]
    Unpin(acting::Acting),
    /// Set a flag: noarchive or norelease
    #[command(after_help = "Example: cairn set norelease /srv/data/index.db")]
    Set(acting::Flags),
    /// Clear a flag
    #[command(after_help = "Example: cairn clear norelease /srv/data/index.db")]
    Clear(acting::Flags),
    /// Mend files that are lost, foreign or in conflict
    #[command(after_help = "Example: cairn repair --keep archive --apply /srv/data/run-17/out.h5")]
    Repair(repair::RepairArgs),
    /// Say what a file waits for, since when, and how long still
    #[command(after_help = "Example: cairn why /srv/data/run-17/out.h5")]
    Why(why::Why),
    /// List requests, or show one
    #[command(after_help = "Example: cairn requests --failed")]
    Requests(requests::Requests),
    /// Wait until a request is done
    #[command(after_help = "Example: cairn wait 12 --timeout 1h")]
    Wait(requests::Wait),
    /// Cancel what is not done of a request
    #[command(after_help = "Example: cairn cancel 12")]
    Cancel(requests::Request),
    /// Ask again for what failed or was cancelled
    #[command(after_help = "Example: cairn retry 12")]
    Retry(requests::Request),
    /// Make a new backing of stubs from a tier alone
    #[command(
        after_help = "Example: cairn restore --tier dir:/mnt/cold --to /srv/.cairn-data/backing --take"
    )]
    Restore(restore::Restore),
    /// Show the state of the instance
    #[command(after_help = "Example: cairn status --check")]
    Status(status::Status),
    /// Check and run policies
    Policy(policy::Policy),
    /// See what lies on tiers, free them of what nobody needs, say whose they are
    Tier(tier::Tier),
    /// See cartridges and drives of a tape library; label, verify, repack, retire, export, import
    Tape(tape::Tape),
    /// Copy files to a server on another host
    #[command(
        override_usage = "cairn put [OPTIONS] LOCAL... :REMOTE",
        after_help = "Example: cairn put --resume results/ :proj/run-17\nAs one tar file: cairn put --tar results/ :proj/run-17.tar"
    )]
    Put(copy::Put),
    /// Copy files from a server on another host
    #[command(
        override_usage = "cairn get [OPTIONS] :REMOTE... LOCAL",
        after_help = "Example: cairn get :proj/run-17/out.h5 .\nOut of a tar file: cairn get --tar --member results/out.h5 :proj/run-17.tar ."
    )]
    Get(copy::Get),
    /// Look what this host or container lacks for copies to and from a server
    #[command(after_help = "Example: cairn doctor --server archive.example.org")]
    Doctor(copy::Doctor),
    /// Serve a mount to other hosts: TLS, tokens, parallel streams
    #[command(after_help = "Example: cairn serve --listen 0.0.0.0:7300 /srv/data")]
    Serve(serve::Serve),
    /// Keep a tier for a server on another host
    #[command(after_help = "Example: cairn mover --join archive.example.org tape:/var/lib/library")]
    Mover(mover::Mover),
    /// Say who may come from other hosts
    Token(token::Token),
    /// Lease ranges of this host's ports to containers
    Ports(ports::Ports),
    /// Have a batch job's files on disk before it runs
    Job(job::Job),
    /// Submit a batch job, and let it run when its files are on disk
    #[command(
        override_usage = "cairn sbatch [CAIRN-OPTIONS] [SBATCH-OPTIONS...] [SCRIPT] [ARGS...]",
        after_help = "Example: cairn sbatch -N 64 -t 0:10:00 run.sh"
    )]
    Sbatch(job::Sbatch),
    /// Have Slurm ask for it
    Slurm(slurm::Slurm),
    /// Act for a user's callers (started by `cairn serve`)
    #[command(hide = true)]
    Agent(serve::Agent),
    /// See the main job on real files of this machine
    #[command(after_help = "Example: cairn demo --size 200M")]
    Demo(demo::DemoArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Example: cairn completions bash > /etc/bash_completion.d/cairn")]
    Completions(shell::Completions),
    /// Print manual pages
    #[command(after_help = "Example: cairn man /usr/local/share/man/man1")]
    Man(shell::Man),
}

/// Which instance the user means.
#[derive(Debug)]
pub(crate) struct Session {
    socket: Option<PathBuf>,
}

impl Session {
    fn client_near(&self, path: Option<&Path>) -> Result<Client, CliError> {
        Ok(Client::find(&Place {
            socket: self.socket.as_deref(),
            path,
        })?)
    }
    /// The same; a mount that says nothing within that time has none.
    fn client_within(&self, path: Option<&Path>, limit: Duration) -> Result<Client, CliError> {
        let place = Place {
            socket: self.socket.as_deref(),
            path,
        };
        Ok(Client::find_within(&place, limit)?)
    }
    /// The instance of the mount that the path lies in.
    fn client_at(&self, path: &[u8]) -> Result<Client, CliError> {
        self.client_near(Some(Path::new(OsStr::from_bytes(path))))
    }
    /// The instance at hand.
    fn client(&self) -> Result<Client, CliError> {
        self.client_near(None)
    }
}

/// The whole command line, as help, completions and manual pages show it.
fn command() -> clap::Command {
    codes::told_by(Cli::command())
}

/// Bounds what threads leave unused of the memory that they had. To be called before there are threads.
pub fn share_heaps() {
    // Where the C library is another one there is nothing to bound.
    let _ = sys::share_heaps();
}

/// Whether a process with these arguments (without its name) will mount. Looked at before they are
/// parsed: what mounts must be made while there is one thread.
#[must_use]
pub fn will_mount(args: impl IntoIterator<Item = OsString>) -> bool {
    let cli = Cli::command();
    let has_value = |option: &str| {
        let mut known = cli.get_arguments();
        known.any(|arg| arg.get_long() == Some(option) && arg.get_action().takes_values())
    };
    let mut args = args.into_iter();
    let verb = loop {
        let Some(arg) = args.next() else {
            return false;
        };
        let text = arg.to_string_lossy();
        match text.strip_prefix("--") {
            // `--option=value` is one argument.
            Some(option) if has_value(option) => drop(args.next()),
            Some("help" | "version") => return false,
            Some(_) => {}
            None if text.starts_with('-') => {}
            None => break arg,
        }
    };
    verb == "up" && !args.any(|arg| arg == "--detach" || arg == "--help")
}

/// Runs the command line and returns what to exit with. Everything has been said.
pub fn run(args: impl IntoIterator<Item = OsString>, starter: &dyn Starter) -> u8 {
    let parsed = command()
        .try_get_matches_from(args)
        .and_then(|found| Cli::from_arg_matches(&found));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // To stdout for help, to stderr for mistakes; if that fails nobody listens.
            let _ = error.print();
            return if error.use_stderr() { 2 } else { 0 };
        }
    };
    let session = Session { socket: cli.socket };
    match dispatch(&cli.command, &session, starter) {
        Ok(code) => code,
        Err(error) => {
            error.report();
            error.exit_code()
        }
    }
}

fn dispatch(command: &Command, session: &Session, starter: &dyn Starter) -> Result<u8, CliError> {
    match command {
        Command::Up(args) => up::run(args, starter),
        Command::Adopt(args) => adopt::run(args),
        Command::Rebuild(args) => args.run(),
        Command::Catalog(args) => args.run(session),
        Command::Upgrade(args) => args.run(session),
        Command::Down(args) => args.run(session),
        Command::State(args) => args.run(session),
        Command::Ls(args) => args.run(session),
        Command::Archive(args) => args.run(session, Verb::Archive),
        Command::Release(args) => args.run(session, Verb::Release),
        Command::Stage(args) => args.run(session, Verb::Stage),
        Command::Remove(args) => args.run(session),
        Command::Undelete(args) => args.run(session),
        Command::Verify(args) => args.run(session),
        Command::Receipt(args) => args.run(session),
        Command::Pin(args) => args.run(session),
        Command::Unpin(args) => args.run(session, Verb::Unpin),
        Command::Set(args) => args.run(session, Verb::Set),
        Command::Clear(args) => args.run(session, Verb::Clear),
        Command::Repair(args) => args.run(session),
        Command::Why(args) => args.run(session),
        Command::Requests(args) => args.run(session),
        Command::Wait(args) => args.run(session),
        Command::Cancel(args) => args.cancel(session),
        Command::Retry(args) => args.retry(session),
        Command::Restore(args) => args.run(),
        Command::Status(args) => args.run(session),
        Command::Policy(args) => args.run(session),
        Command::Tier(args) => args.run(session),
        Command::Tape(args) => args.run(session),
        Command::Put(args) => args.run(),
        Command::Get(args) => args.run(),
        Command::Doctor(args) => args.run(),
        Command::Serve(args) => args.run(session),
        Command::Mover(args) => args.run(),
        Command::Token(args) => args.run(session),
        Command::Ports(args) => args.run(),
        Command::Job(args) => args.run(session),
        Command::Sbatch(args) => args.run(session),
        Command::Slurm(args) => args.run(),
        Command::Agent(args) => args.run(),
        Command::Demo(args) => {
            demo::run(args).map_err(CliError::from)?;
            Ok(0)
        }
        Command::Completions(args) => args.run(),
        Command::Man(args) => args.run(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_will_mount_is_seen_behind_options() {
        let will = |line: &str| will_mount(line.split(' ').map(OsString::from));
        for line in [
            "up /b /m",
            "--socket /s up /b /m",
            "--socket=/s up --hold 1h /b /m",
            "--socket up up",
        ] {
            assert!(will(line), "{line}");
        }
        for line in [
            "down /m",
            "--socket up down /m",
            "--socket",
            "--help up",
            "up --detach /b /m",
            "--socket /s up --detach /b /m",
            "status up",
        ] {
            assert!(!will(line), "{line}");
        }
    }
}
