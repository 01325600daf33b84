//! `cairn catalog backup`: the state that cannot be built anew, as a state directory of its own.

use super::failed;
use crate::catalog::backup;
use crate::cli::output::Output;
use crate::cli::{CliError, Session};
use crate::config::units::shown::Bytes;
use crate::error::Failure;
use crate::hsm::state_dir::{StateError, catalog_in, copy_identity};
use crate::server::wire::CatalogBackup;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};

/// Arguments of `catalog backup`.
#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// The state directory; else that of the instance at hand.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Directory for the backup: new, empty, or an earlier backup of the same instance.
    #[arg(value_name = "TO")]
    to: PathBuf,
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
}

impl BackupArgs {
    pub(super) fn run(&self, session: &Session) -> Result<u8, CliError> {
        let state = match &self.state {
            Some(state) => state.clone(),
            None => state_of(session)?,
        };
        let from = catalog_in(&state);
        let to = copy_identity(&state, &self.to).map_err(refused)?;
        let bar = (!self.json && stderr().is_terminal()).then(bar);
        let mut bytes = 0;
        backup(&from, &to, &mut |done, all| {
            bytes = all;
            if let Some(bar) = &bar {
                bar.set_length(all.max(1));
                bar.set_position(done);
                bar.set_message(format!("{} of {}", Bytes(done), Bytes(all)));
            }
            true
        })
        .map_err(failed)?;
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        let mut output = Output::new(self.json);
        if self.json {
            output.object(CatalogBackup {
                state: state.display().to_string(),
                to: self.to.display().to_string(),
                bytes,
            })?;
        } else {
            output.line(format!("{} in {}", Bytes(bytes), self.to.display()))?;
        }
        output.finish()?;
        Ok(0)
    }
}

/// Its sockets lie in it.
fn state_of(session: &Session) -> Result<PathBuf, CliError> {
    let client = session.client()?;
    let state = client.socket().parent().and_then(Path::parent);
    state.map(Path::to_owned).ok_or_else(|| {
        CliError::usage("the instance does not say where its state is")
            .with_hint("name it: --state DIR")
    })
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("backup [{bar:30}] {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

fn refused(why: StateError) -> CliError {
    match &why {
        StateError::Newer { .. } => CliError::new(Failure::Newer, why),
        StateError::NotABackup { .. } => CliError::new(Failure::Usage, why)
            .with_hint("name a new directory, an empty one, or an earlier backup of this instance"),
        StateError::Io { source, .. } => CliError::system(&why, source),
        StateError::InUse { .. } | StateError::Damaged { .. } | StateError::Aside { .. } => {
            CliError::new(Failure::Internal, why)
        }
    }
}
