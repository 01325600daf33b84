//! `cairn why`: what a file waits for, since when, how long still; what holds it where it is.

use super::output::Output;
use super::{CliError, Session};
use crate::config::units::shown::seconds;
use crate::server::wire::{StateFlag, When};
use clap::Args;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

/// Arguments of `why`.
#[derive(Debug, Args)]
pub(crate) struct Why {
    /// The file.
    path: OsString,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Why {
    pub(crate) fn run(&self, session: &Session) -> Result<u8, CliError> {
        let path = self.path.as_bytes();
        let why = session.client_at(path)?.why(path)?;
        let mut output = Output::new(self.json);
        if output.json {
            output.object(why)?;
            output.finish()?;
            return Ok(0);
        }
        let words: Vec<&str> = why.flags.iter().copied().map(StateFlag::as_str).collect();
        let words = if words.is_empty() {
            "resident".to_owned()
        } else {
            words.join(" ")
        };
        output.path_line("", &why.path.bytes(), &format!(": {words}"))?;
        if why.waiting.is_empty() {
            output.line("waits for nothing")?;
        }
        for wait in &why.waiting {
            let since = wait.since.age(When::now().0).as_secs();
            let left = wait.eta_s.map_or_else(
                || "no telling how long still".to_owned(),
                |s| format!("about {} left", seconds(s)),
            );
            let request = wait
                .request
                .map_or_else(String::new, |r| format!(" (request {r})"));
            let head = format!("waits {} to {}{request}: ", seconds(since), wait.verb);
            output.line(format!("{head}{}; {left}", wait.on))?;
        }
        for reason in &why.because {
            output.line(format!("because {reason}"))?;
        }
        output.finish()?;
        Ok(0)
    }
}
