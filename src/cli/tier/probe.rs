//! `cairn tier probe`: what a bucket's service can do is found out once and remembered; this finds it out anew.

use super::owner::url_of;
use crate::cli::output::Output;
use crate::cli::{CliError, Session, outcome};
use crate::error::Failure;
use clap::Args;

/// Arguments of `tier probe`.
#[derive(Debug, Args)]
pub(crate) struct Probe {
    /// A tier's URL, or its name at the running instance; that sees what was found when it is started again.
    tier: String,
}

impl Probe {
    pub(crate) fn run(&self, session: &Session) -> Result<u8, CliError> {
        let url = url_of(&self.tier, session)?;
        let found = crate::tier::probe(&url);
        let notes = found.map_err(|why| CliError::new(Failure::TierUnavailable, why))?;
        let mut output = Output::new(false);
        if notes.is_empty() {
            output.line(format!("{url}: the service does all that Cairn asks of it"))?;
        }
        for note in notes {
            output.line(format!("{url}: {note}"))?;
        }
        output.finish()?;
        Ok(outcome::OK)
    }
}
