//! `cairn status`: the instance at one look; `--check` for a monitor.

mod check;
mod screen;

use super::output::Output;
use super::{CliError, Session};
use crate::client::ClientError;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// A mount that says nothing for so long waits for an instance itself.
const LONGEST_SILENCE: Duration = Duration::from_secs(10);

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// A path on the mount that is meant; else the working directory's, else the only one.
    path: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Say in one line whether all is well, for a monitoring system. Exits as monitoring plugins
    /// do, not as other commands: 0 ok, 1 warning, 2 critical, 3 unknown.
    #[arg(long)]
    check: bool,
}

impl Status {
    pub(crate) fn run(&self, session: &Session) -> Result<u8, CliError> {
        let asked = session
            .client_within(self.path.as_deref(), LONGEST_SILENCE)
            .and_then(|mut c| Ok(c.status()?));
        if self.check {
            return self.check(asked);
        }
        let status = asked?;
        let mut output = Output::new(self.json);
        if self.json {
            output.object(status)?;
        } else {
            for line in screen::lines(&status) {
                output.line(line)?;
            }
        }
        output.finish()?;
        Ok(0)
    }

    fn check(&self, asked: Result<crate::server::wire::Status, CliError>) -> Result<u8, CliError> {
        let mut output = Output::new(self.json);
        let (code, line) = match asked {
            Ok(status) => {
                let verdict = check::verdict(&status);
                if self.json {
                    output.object(status)?;
                }
                (check::exit_code(verdict.level), verdict.to_string())
            }
            Err(CliError::Client(
                error @ (ClientError::Silent
                | ClientError::Dead { .. }
                | ClientError::Broken { .. }),
            )) => (check::CRITICAL, format!("CRITICAL: {error}")),
            Err(error) => (check::UNKNOWN, format!("UNKNOWN: {error}")),
        };
        if self.json {
            eprintln!("CAIRN {line}");
        } else {
            output.line(format!("CAIRN {line}"))?;
        }
        output.finish()?;
        Ok(code)
    }
}
