//! The `cairn` program: sets logging up, reads the command line and hands over to the library.

use cairn::cli::up::{UpPlan, detach, first, rights, serve};
use cairn::cli::{CliError, Starter, will_mount};
use cairn::error::Failure;
use cairn_fuse::mount::{Mounter, prepare};
use std::cell::RefCell;
use std::io::stderr;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Before any thread exists: the process that mounts in the users' namespace (P11). Only `up`
/// mounts, and only root can do without fusermount3.
fn early() -> Option<Result<Mounter, String>> {
    let mounts = will_mount(std::env::args_os().skip(1));
    detach::leave_session();
    if mounts && let Err(why) = rights::keep_needed() {
        eprintln!("cairn: more rights are kept than are needed: {why}");
    }
    (mounts && rustix::process::geteuid().is_root()).then(|| prepare().map_err(|e| e.to_string()))
}

/// Logs to stderr what `CAIRN_LOG` asks for (`info`, `cairn=debug`, ...); warnings otherwise.
fn log() {
    let filter = EnvFilter::try_from_env("CAIRN_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .init();
}

struct Program {
    mounter: RefCell<Option<Result<Mounter, String>>>,
}

impl Starter for Program {
    fn up(&self, plan: &UpPlan) -> Result<u8, CliError> {
        if plan.detach {
            return detach::start(plan);
        }
        let mounter = self.mounter.borrow_mut().take().transpose();
        serve(
            plan,
            mounter.map_err(|why| CliError::new(Failure::Internal, why))?,
        )
    }
}

fn main() -> ExitCode {
    if first::is_first() && will_mount(std::env::args_os().skip(1)) {
        return match first::stand_in() {
            Ok(code) => ExitCode::from(code),
            Err(error) => {
                eprintln!("cairn: the server cannot be started as a process of its own: {error}");
                ExitCode::FAILURE
            }
        };
    }
    cairn::cli::share_heaps();
    let mounter = RefCell::new(early());
    log();
    ExitCode::from(cairn::cli::run(std::env::args_os(), &Program { mounter }))
}
