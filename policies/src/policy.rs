//! A policy as a value: settings, classes and rules, after parsing.
//!
//! Keeps: rule names are unique; a class's body is complete in itself (classes are written before
//! their use, so there are no cycles); a watermark's low mark lies below its high one.

use crate::condition::Condition;
use crate::quantity::{ByteCount, Percent, Span};
use crate::{ParseError, parse};
use std::fmt;
use std::sync::Arc;

/// What a rule does to the files it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Write copies to a tier.
    Archive,
    /// Give blocks back.
    Release,
}

impl Verb {
    /// All of them, in the order in which a plan is explained.
    pub const ALL: [Self; 2] = [Self::Archive, Self::Release];

    /// The language's word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Release => "release",
        }
    }
}

/// When a rule runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// Again and again, this long after its last run began.
    Every(Span),
    /// When usage of the backing filesystem is above `high`, until it is at `low` or below.
    Watermark {
        /// Starts above this.
        high: Percent,
        /// Stops at or below this; lower than `high`.
        low: Percent,
    },
    /// Only when named.
    Manual,
    /// Never, not even when named: its files are held back from the rules below it.
    Never,
}

/// Which of the matching files come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Longest not accessed.
    OldestAccess,
    /// Longest not changed.
    OldestChange,
    /// Largest size.
    Largest,
}

/// How much one run takes at most. The file that reaches a limit is still taken, so that one file
/// larger than the limit cannot stand in the way for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Files, at least 1. Without it, [`crate::MOST_FILES`].
    pub files: Option<u64>,
    /// Bytes: of file data for archive, of freed blocks for release; at least 1.
    pub bytes: Option<ByteCount>,
}

/// A named condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// Its name.
    pub name: String,
    /// What its files satisfy.
    pub condition: Arc<Condition>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What it does.
    pub verb: Verb,
    /// Its name, unique in the policy.
    pub name: String,
    /// Which files; [`Condition::ANY_FILE`] without a `when`.
    pub condition: Condition,
    /// When it runs.
    pub trigger: Trigger,
    /// Which files first.
    pub order: Order,
    /// How much at once.
    pub limits: Limits,
}

impl fmt::Display for Rule {
    /// `release/by-watermark`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.verb.word(), self.name)
    }
}

/// What holds for all rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Copies a file must have before its blocks may go; at least 1.
    pub copies: u32,
    /// How long a file stays on disk after it came back.
    pub keep_staged: Span,
}

impl Settings {
    /// Most copies that a policy may ask for.
    pub const MOST_COPIES: u32 = 16;
}

impl Default for Settings {
    /// One copy; an hour on disk after a stage.
    fn default() -> Self {
        Self {
            copies: 1,
            keep_staged: Span::from_secs(3600).unwrap_or_default(),
        }
    }
}

/// A whole policy. Equal to another that decides alike; where its parts stood in their files is
/// not compared.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Settings.
    pub settings: Settings,
    /// Classes, in the order written.
    pub classes: Vec<Class>,
    /// Rules, in the order written, which is the order in which they decide.
    pub rules: Vec<Rule>,
    pub(crate) origin: Origin,
}

/// Where things stood in the text, for warnings.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origin {
    pub(crate) source_name: String,
    pub(crate) class_lines: Vec<usize>,
    pub(crate) rule_lines: Vec<usize>,
    /// Values that were named with `let` and not used.
    pub(crate) unused: Vec<(String, usize)>,
}

impl Policy {
    /// Reads a policy. `source_name` is what errors call the text: usually the file's name.
    ///
    /// # Errors
    /// Every mistake that can be told from its consequences, with its place.
    pub fn parse(source_name: &str, text: &str) -> Result<Self, ParseError> {
        parse::parse(source_name, text)
    }

    /// The rule of this name.
    #[must_use]
    pub fn rule(&self, name: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.name == name)
    }
}

impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
            && self.classes == other.classes
            && self.rules == other.rules
    }
}
impl Eq for Policy {}
