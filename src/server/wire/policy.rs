//! Policies as the control API shows them.

use super::Plan;
use serde::{Deserialize, Serialize};

/// A mistake or a doubt in a policy file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyProblem {
    /// The file's name.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1; 0 when the whole line is meant.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What may have been meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// One rule in force, or in the text that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRule {
    /// Its name.
    pub name: String,
    /// It, read aloud in one line.
    pub says: String,
}

/// What checking a policy found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyReport {
    /// Where the policy came from.
    pub source: String,
    /// Its rules; empty when it could not be parsed.
    pub rules: Vec<PolicyRule>,
    /// What is wrong with it; empty: it can be used.
    pub problems: Vec<PolicyProblem>,
}

/// What running a rule did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRun {
    /// The rule.
    pub rule: String,
    /// Why it does what it does now, in a sentence ("disk is at 91 %, above 90 %").
    pub because: String,
    /// What would be done, or has been asked for.
    pub plan: Option<Plan>,
    /// The request that does it; absent in a dry run and when there is nothing to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<u64>,
}
