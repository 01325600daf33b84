//! What can go wrong between a caller and an instance.

use crate::error::Failure;
use crate::server::wire::{ErrorBody, Problem};
use std::io;
use std::path::PathBuf;

/// Why a question has no answer, or which answer it got instead.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The instance refused or failed.
    #[error("{message}")]
    Refused {
        /// What kind.
        failure: Failure,
        /// In a sentence.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// No instance could be found.
    #[error("no running instance: {why}")]
    NoInstance {
        /// Where it was looked for.
        why: String,
        /// How to name one.
        hint: String,
    },
    /// A mount that is held for the next instance; this one has died.
    #[error("no running instance: the mount does not answer")]
    Silent,
    /// The socket is there but nobody answers.
    #[error("no instance answers on {socket}: {source}")]
    Dead {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A server on another host cannot be reached, or is not the one that is believed.
    #[error("no server at {server}: {source}")]
    Away {
        /// Host and port.
        server: String,
        /// Why.
        source: io::Error,
    },
    /// Somebody else than root or the caller listens.
    #[error("the instance on {socket} is run by user {uid}, not by root or you")]
    Untrusted {
        /// The socket.
        socket: PathBuf,
        /// Who listens.
        uid: u32,
    },
    /// The connection broke before the answer was whole.
    #[error("the connection to the instance broke: {why}")]
    Broken {
        /// What was seen.
        why: String,
    },
    /// The answer makes no sense here.
    #[error("cannot understand the instance's answer: {why}")]
    NotUnderstood {
        /// What was seen.
        why: String,
    },
    /// The time is up.
    #[error("the time is up; it is still running")]
    TimedOut,
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// Something of this process failed.
    #[error("{step}: {source}")]
    Local {
        /// What was being done.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl ClientError {
    pub(super) fn broken(why: impl ToString) -> Self {
        Self::Broken {
            why: why.to_string(),
        }
    }
    pub(super) fn not_understood(why: impl ToString) -> Self {
        Self::NotUnderstood {
            why: why.to_string(),
        }
    }

    /// What kind of failure this is.
    #[must_use]
    pub const fn failure(&self) -> Failure {
        match self {
            Self::Refused { failure, .. } => *failure,
            Self::NoInstance { .. }
            | Self::Silent
            | Self::Dead { .. }
            | Self::Away { .. }
            | Self::Broken { .. } => Failure::NoInstance,
            Self::Untrusted { .. } => Failure::NotPermitted,
            Self::NotUnderstood { .. } | Self::Local { .. } => Failure::Internal,
            Self::TimedOut => Failure::TimedOut,
            Self::Interrupted => Failure::Interrupted,
        }
    }

    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Refused { hint, .. } => hint.as_deref(),
            Self::NoInstance { hint, .. } => Some(hint),
            Self::Silent => Some("`cairn up` takes it over, or `cairn down --force` ends it"),
            Self::Dead { .. } => Some("start it again with `cairn up`; what was accepted resumes"),
            Self::Away { .. } => {
                Some("CAIRN_SERVER names it, CAIRN_FINGERPRINT or --ca says whom to believe")
            }
            Self::Untrusted { .. } => {
                Some("if you trust that user, name the socket: CAIRN_SOCKET=PATH")
            }
            Self::Broken { .. } => {
                Some("an accepted request goes on when the instance is back: cairn requests")
            }
            Self::NotUnderstood { .. } => Some("client and instance may be of different versions"),
            Self::Interrupted => Some("what was accepted goes on: cairn requests"),
            Self::TimedOut | Self::Local { .. } => None,
        }
    }
}

impl From<ErrorBody> for ClientError {
    fn from(body: ErrorBody) -> Self {
        Self::Refused {
            failure: Failure::parse(&body.code).unwrap_or(Failure::Internal),
            message: body.message,
            hint: body.hint,
        }
    }
}

impl From<Problem> for ClientError {
    fn from(problem: Problem) -> Self {
        let path = problem.path.as_ref().map_or("?", |p| p.text());
        Self::Refused {
            failure: Failure::parse(&problem.code).unwrap_or(Failure::Internal),
            message: format!("{path}: {}", problem.message),
            hint: None,
        }
    }
}
