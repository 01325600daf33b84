//! `cairn remove`: the copy on one tier is given up.

use super::acting::Acting;
use super::{CliError, Session};
use crate::server::wire::{SubmitOptions, Verb};
use clap::Args;

/// Arguments of `remove`.
#[derive(Debug, Args)]
pub(crate) struct Remove {
    #[command(flatten)]
    acting: Acting,
    /// Also if fewer copies are left than policy asks for.
    #[arg(long)]
    below_policy: bool,
    /// Also if it is the last good copy, of files whose data are on disk.
    #[arg(long)]
    last_copy: bool,
}

impl Remove {
    pub(crate) fn run(&self, session: &Session) -> Result<u8, CliError> {
        if !self.acting.names_a_tier() {
            return Err(CliError::usage("which copy is to go must be said")
                .with_hint("--tier NAME names the tier that it lies on"));
        }
        let options = SubmitOptions {
            last_copy: self.last_copy,
            below_policy: self.below_policy,
            ..Default::default()
        };
        let code = self.acting.submit(session, Verb::Remove, options)?;
        if self.last_copy || self.below_policy {
            eprintln!(
                "note: files that have fewer copies than policy asks for are archived again by it, \
                 unless they are set noarchive; `cairn why FILE` says of which"
            );
        }
        Ok(code)
    }
}
