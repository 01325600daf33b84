//! Bodies of questions that are no submission.

use super::{SubjectRef, Walk};
use serde::{Deserialize, Serialize};

/// Body of `POST /v1/state`; answered by a stream of states and problems.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateQuery {
    /// At most [`crate::server::MAX_SUBJECTS`].
    pub subjects: Vec<SubjectRef>,
    /// How much of each.
    pub walk: Walk,
}

/// Body of `POST /v1/why`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyQuery {
    /// The file.
    pub subject: SubjectRef,
}

/// Body of `POST /v1/policy/check`: a text to check, else the policy in force.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PolicyCheckQuery {
    /// Name for messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Body of `POST /v1/policy/run`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PolicyRunQuery {
    /// One rule; else all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// Body of `POST /v1/shutdown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ShutdownQuery {
    /// Also while the mount is in use.
    #[serde(default)]
    pub force: bool,
}
