//! How commands fail, and what they exit with.

use crate::client::ClientError;
use crate::error::Failure;
use std::fmt::Display;
use std::io;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The instance refused, failed or is not there.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The results could not be written.
    #[error("write the results: {0}")]
    Output(#[from] io::Error),
    /// The command itself refused or failed.
    #[error("{message}")]
    Failed {
        /// What kind.
        failure: Failure,
        /// In a sentence.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
}

impl CliError {
    /// A failure of the command's own.
    pub fn new(failure: Failure, message: impl Display) -> Self {
        Self::Failed {
            failure,
            message: message.to_string(),
            hint: None,
        }
    }
    /// The arguments make no sense.
    pub fn usage(message: impl Display) -> Self {
        Self::new(Failure::Usage, message)
    }
    /// A step that the operating system refused.
    pub fn system(step: impl Display, source: &io::Error) -> Self {
        let failure = match source.kind() {
            io::ErrorKind::NotFound => Failure::NotFound,
            io::ErrorKind::PermissionDenied => Failure::NotPermitted,
            io::ErrorKind::StorageFull => Failure::NoSpace,
            io::ErrorKind::ResourceBusy => Failure::Busy,
            _ => Failure::Internal,
        };
        Self::new(failure, format!("{step}: {source}"))
    }
    /// With what the user can do (for failures of the command's own).
    #[must_use]
    pub fn with_hint(mut self, text: impl Display) -> Self {
        if let Self::Failed { hint, .. } = &mut self {
            *hint = Some(text.to_string());
        }
        self
    }

    /// What the process exits with.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Client(error) => error.failure().exit_code(),
            Self::Output(_) => 1,
            Self::Failed { failure, .. } => failure.exit_code(),
        }
    }

    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Client(error) => error.hint(),
            Self::Output(_) => None,
            Self::Failed { hint, .. } => hint.as_deref(),
        }
    }

    /// Whether it is only that nobody reads the results any more (`cairn ls | head`).
    #[must_use]
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Says it on stderr.
    pub fn report(&self) {
        if self.is_closed_pipe() {
            return;
        }
        eprintln!("cairn: {self}");
        if let Some(hint) = self.hint() {
            eprintln!("hint: {hint}");
        }
    }
}
