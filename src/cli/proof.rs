//! What callers of a server on another host show it, and by what they know it: for `put`, `get` and `mover`.

use super::CliError;
use crate::client::remote::{Server, Trust};
use clap::Args;
use std::path::PathBuf;

/// See the module.
#[derive(Debug, Args)]
pub(super) struct Proof {
    /// The token; a file is better, as others may see this process's arguments and environment.
    #[arg(
        long,
        env = "CAIRN_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    token: Option<String>,
    /// A file with the token.
    #[arg(
        long,
        env = "CAIRN_TOKEN_FILE",
        hide_env_values = true,
        value_name = "FILE"
    )]
    token_file: Option<PathBuf>,
    /// The server's certificate has this SHA-256: `cairn token issue` tells it.
    #[arg(
        long,
        env = "CAIRN_FINGERPRINT",
        hide_env_values = true,
        value_name = "HEX"
    )]
    fingerprint: Option<String>,
    /// Authorities that vouch for the server (PEM); without this and --fingerprint the system's.
    #[arg(long, env = "CAIRN_CA", hide_env_values = true, value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl Proof {
    /// The server at `place`, and what is shown to it.
    pub(super) fn server(&self, place: &str) -> Result<Server, CliError> {
        let token = match (&self.token, &self.token_file) {
            (Some(token), _) => token.clone(),
            (None, Some(file)) => std::fs::read_to_string(file).map_err(|e| {
                CliError::system(format!("read the token in {}", file.display()), &e)
            })?,
            (None, None) => {
                return Err(CliError::usage("no token").with_hint(
                    "set CAIRN_TOKEN_FILE to a file with it; an administrator issues one: cairn token issue",
                ));
            }
        };
        let trust = match (&self.fingerprint, &self.ca) {
            (Some(text), _) => Trust::Fingerprint(text.clone()),
            (None, Some(file)) => Trust::Authorities(file.clone()),
            (None, None) => Trust::System,
        };
        // `CAIRN_TOKEN=...` as `cairn token issue` prints it is a token, too.
        let token = token.trim().trim_start_matches("CAIRN_TOKEN=");
        let token = token.lines().next().unwrap_or_default().to_owned();
        Ok(Server::new(place, token, &trust)?)
    }
}
