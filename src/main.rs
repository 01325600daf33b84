//! The `cairn` program: sets logging up, reads the command line and hands over to the library.

use cairn::cli::up::UpPlan;
use cairn::cli::{CliError, Starter};
use cairn::error::Failure;
use std::io::stderr;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// What must happen before any thread exists: preparing the mount (P11).
fn early() {}

/// Logs to stderr what `CAIRN_LOG` asks for (`info`, `cairn=debug`, ...); warnings otherwise.
fn log() {
    let filter = EnvFilter::try_from_env("CAIRN_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .init();
}

struct Program;

impl Starter for Program {
    fn up(&self, _plan: &UpPlan) -> Result<u8, CliError> {
        Err(CliError::new(Failure::Internal, "this build cannot mount"))
    }
}

fn main() -> ExitCode {
    early();
    log();
    ExitCode::from(cairn::cli::run(std::env::args_os(), &Program))
}
