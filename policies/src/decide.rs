//! Which rule decides about a file, and what holds a file back although its rule takes it.
//!
//! Keeps: at most one rule of a verb decides about a file, the first in the policy's order whose
//! condition holds, whether or not it is due; nothing is released that has too few copies, a pin,
//! `norelease`, or came back less than `keep-staged` ago.

use crate::facts::{FileFacts, FileState, StateSet};
use crate::policy::{Policy, Rule, Settings, Trigger, Verb};
use crate::quantity::{Moment, rough_span};
use serde::Serialize;
use std::fmt;

/// Why a file is left where it is although its rule's condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Held {
    /// Flag `noarchive`.
    NoArchive,
    /// Flag `norelease`.
    NoRelease,
    /// Pinned to the disk.
    Pinned {
        /// Until then.
        until: Moment,
    },
    /// Came back too recently (`keep-staged`).
    Staged {
        /// Until then.
        until: Moment,
    },
    /// Fewer copies than the policy asks for.
    Copies {
        /// Copies there are.
        have: u32,
        /// Copies asked for.
        want: u32,
    },
    /// Takes no blocks on disk: releasing it frees nothing.
    NoBlocks,
    /// The rule that decides says `never`.
    Never,
}

impl Held {
    /// When it ends by itself, if time alone ends it.
    #[must_use]
    pub const fn until(self) -> Option<Moment> {
        match self {
            Self::Pinned { until } | Self::Staged { until } => Some(until),
            Self::NoArchive
            | Self::NoRelease
            | Self::Copies { .. }
            | Self::NoBlocks
            | Self::Never => None,
        }
    }

    /// The reason without the particulars of one file: what a plan counts by.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::NoArchive => "noarchive",
            Self::NoRelease => "norelease",
            Self::Pinned { .. } => "pinned",
            Self::Staged { .. } => "keep-staged",
            Self::Copies { .. } => "too few copies",
            Self::NoBlocks => "frees nothing",
            Self::Never => "never",
        }
    }

    /// In words, as of `now`.
    #[must_use]
    pub fn say(self, now: Moment) -> String {
        let wait = |until| rough_span(now.wait_until(until));
        match self {
            Self::Pinned { until } => format!("it is pinned for {} more", wait(until)),
            Self::Staged { until } => {
                format!(
                    "it was staged recently and is kept for {} more",
                    wait(until)
                )
            }
            Self::Copies { have, want } => {
                format!("it has {have} of {want} copies")
            }
            Self::NoArchive => "its flag noarchive is set".to_owned(),
            Self::NoRelease => "its flag norelease is set".to_owned(),
            Self::NoBlocks => "it takes no blocks, so that releasing it frees nothing".to_owned(),
            Self::Never => "the rule takes nothing (`never`)".to_owned(),
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

/// What a policy has decided for one file and one verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The verb has nothing to do on it.
    NothingToDo,
    /// No rule's condition holds.
    NoRule,
    /// This rule decides (its index in the policy).
    Rule {
        index: usize,
        /// Why it is not taken all the same.
        held: Option<Held>,
    },
}

/// States in which a verb may have something to do.
pub(crate) fn states_for(verb: Verb) -> StateSet {
    match verb {
        // Archived ones too: a copy may have gone bad, or more copies be asked for than once.
        Verb::Archive => StateSet::of(&[FileState::New, FileState::Dirty, FileState::Archived]),
        Verb::Release => StateSet::of(&[FileState::Archived]),
    }
}

/// Can this verb do anything on this file?
pub(crate) fn applies(verb: Verb, settings: &Settings, file: &FileFacts) -> bool {
    let topped_up = verb == Verb::Archive
        && file.state == FileState::Archived
        && file.copies >= settings.copies;
    states_for(verb).contains(file.state) && !topped_up
}

/// What holds the file back from this rule.
fn held(rule: &Rule, settings: &Settings, file: &FileFacts, now: Moment) -> Option<Held> {
    if rule.trigger == Trigger::Never {
        return Some(Held::Never);
    }
    if rule.verb == Verb::Archive {
        return file.flags.noarchive.then_some(Held::NoArchive);
    }
    if file.flags.norelease {
        return Some(Held::NoRelease);
    }
    if file.copies < settings.copies {
        let (have, want) = (file.copies, settings.copies);
        return Some(Held::Copies { have, want });
    }
    if file.blocks.0 == 0 {
        return Some(Held::NoBlocks);
    }
    if let Some(until) = file.pinned_until.filter(|until| *until > now) {
        return Some(Held::Pinned { until });
    }
    let kept = file.staged_at.map(|at| at.after(settings.keep_staged));
    kept.filter(|until| *until > now)
        .map(|until| Held::Staged { until })
}

/// Which rule of `verb` decides about this file, and does it take it.
pub(crate) fn decide(policy: &Policy, verb: Verb, file: &FileFacts, now: Moment) -> Decision {
    if !applies(verb, &policy.settings, file) {
        return Decision::NothingToDo;
    }
    let mut rules = policy.rules.iter().enumerate();
    match rules.find(|(_, rule)| rule.verb == verb && rule.condition.holds(file, now)) {
        Some((index, rule)) => Decision::Rule {
            index,
            held: held(rule, &policy.settings, file, now),
        },
        None => Decision::NoRule,
    }
}
