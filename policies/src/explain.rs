//! Why a file is where it is: which rule holds it there, and when that will change.

use crate::decide::{Decision, Held, decide};
use crate::facts::{FileFacts, FileState, RunInput};
use crate::plan::{Gate, PlanPath, Stop, gate};
use crate::policy::{Policy, Verb};
use crate::quantity::{Moment, rough_span};
use crate::words::{self, Missing};
use std::fmt;

/// A rule that does not take the file because its condition does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `release/by-watermark`.
    pub rule: String,
    /// What the file is missing.
    pub missing: Vec<Missing>,
}

/// What is decided for one verb.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There is nothing for the verb to do, in words.
    NothingToDo(String),
    /// No rule's condition holds.
    NoRule,
    /// A rule decides about it, and does not take it.
    Held {
        /// The rule.
        rule: String,
        /// Why not.
        held: Held,
    },
    /// A rule takes it when it runs.
    Taken {
        /// The rule.
        rule: String,
        /// Why it satisfies the rule.
        reason: String,
        /// What keeps the rule from running now; `None`: it would run now (its order and limits
        /// may still leave the file to a later run).
        waits: Option<Stop>,
    },
}

/// The explanation for one verb.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerbExplanation {
    /// The verb.
    pub verb: Verb,
    /// What is decided.
    pub verdict: Verdict,
    /// Rules that were asked before and do not take it.
    pub refusals: Vec<Refusal>,
    /// The first moment from which a rule takes it, if the file stays as it is; `None` if none
    /// ever will by time alone, or one does already.
    pub taken_from: Option<Moment>,
}

/// The explanation of one file's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The file's path.
    pub path: PlanPath,
    /// Where its data are.
    pub state: FileState,
    /// The moment of the explanation.
    pub now: Moment,
    /// Usage at that moment.
    pub usage: crate::Usage,
    /// For each verb.
    pub verbs: Vec<VerbExplanation>,
}

/// Explains where a file is. `input.select` tells which rules' timers are meant: with
/// [`crate::Select::Due`], when each will run is part of the answer.
#[must_use]
pub fn explain(policy: &Policy, input: &RunInput, file: &FileFacts) -> Explanation {
    Explanation {
        path: PlanPath(file.path.clone()),
        state: file.state,
        now: input.now,
        usage: input.usage,
        verbs: Verb::ALL
            .into_iter()
            .map(|verb| explain_verb(policy, verb, input, file))
            .collect(),
    }
}

fn explain_verb(
    policy: &Policy,
    verb: Verb,
    input: &RunInput,
    file: &FileFacts,
) -> VerbExplanation {
    let now = input.now;
    let decision = decide(policy, verb, file, now);
    let (verdict, asked) = match decision {
        Decision::NothingToDo => (Verdict::NothingToDo(nothing_to_do(verb, file)), 0),
        Decision::NoRule => (Verdict::NoRule, policy.rules.len()),
        Decision::Rule { index, held } => {
            let verdict = policy.rules.get(index).map(|rule| match held {
                Some(held) => Verdict::Held {
                    rule: rule.to_string(),
                    held,
                },
                None => Verdict::Taken {
                    rule: rule.to_string(),
                    reason: words::reason(&rule.condition, file, now),
                    waits: match gate(rule, input) {
                        Gate::Shut(stop) => Some(stop),
                        Gate::Open { .. } => None,
                    },
                },
            });
            (verdict.unwrap_or(Verdict::NoRule), index)
        }
    };
    let before = policy.rules.iter().take(asked);
    let refusals = before
        .filter(|rule| rule.verb == verb)
        .map(|rule| Refusal {
            rule: rule.to_string(),
            missing: words::missing(&rule.condition, file, now),
        })
        .collect();
    let taken_from = match verdict {
        Verdict::NoRule | Verdict::Held { .. } => first_taken(policy, verb, file, now),
        Verdict::NothingToDo(_) | Verdict::Taken { .. } => None,
    };
    VerbExplanation {
        verb,
        verdict,
        refusals,
        taken_from,
    }
}

/// First moment after `now` from which a rule of this verb takes the file as it is.
fn first_taken(policy: &Policy, verb: Verb, file: &FileFacts, now: Moment) -> Option<Moment> {
    let mut points = Vec::new();
    for rule in policy.rules.iter().filter(|rule| rule.verb == verb) {
        rule.condition.turning_points(file, &mut points);
    }
    points.extend(file.pinned_until);
    points.extend(
        file.staged_at
            .map(|at| at.after(policy.settings.keep_staged)),
    );
    points.retain(|point| *point > now);
    points.sort_unstable();
    points.dedup();
    points.into_iter().find(|point| {
        let decision = decide(policy, verb, file, *point);
        matches!(decision, Decision::Rule { held: None, .. })
    })
}

fn nothing_to_do(verb: Verb, file: &FileFacts) -> String {
    match (verb, file.state) {
        (Verb::Archive, FileState::Archived) => {
            format!("it is archived ({})", copies(file.copies))
        }
        (_, FileState::Released) => "it is released".to_owned(),
        (_, FileState::Lost) => "it is lost: no good copy is left".to_owned(),
        (Verb::Release, FileState::New) => "it is not archived".to_owned(),
        (Verb::Release, FileState::Dirty) => "it changed since it was archived".to_owned(),
        (Verb::Archive, FileState::New | FileState::Dirty)
        | (Verb::Release, FileState::Archived) => "nothing to do".to_owned(),
    }
}

fn copies(count: u32) -> String {
    match count {
        1 => "1 copy".to_owned(),
        _ => format!("{count} copies"),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = String::from_utf8_lossy(&self.path.0);
        write!(f, "{}: {}", path.escape_debug(), self.state.word())?;
        for verb in &self.verbs {
            write!(f, "\n{}: ", verb.verb.word())?;
            self.verdict(f, verb)?;
            for refusal in &verb.refusals {
                write!(f, "\n  rule {} does not take it: ", refusal.rule)?;
                for (i, missing) in refusal.missing.iter().enumerate() {
                    let glue = if i == 0 { "" } else { "; " };
                    write!(f, "{glue}{}", missing.text)?;
                    if let Some(until) = missing.until {
                        write!(f, " (in {})", self.wait(until))?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Explanation {
    fn wait(&self, until: Moment) -> String {
        rough_span(self.now.wait_until(until))
    }

    fn verdict(&self, f: &mut fmt::Formatter<'_>, verb: &VerbExplanation) -> fmt::Result {
        match &verb.verdict {
            Verdict::NothingToDo(why) => write!(f, "nothing to do, {why}")?,
            Verdict::NoRule => f.write_str("no rule takes it")?,
            Verdict::Held { rule, held } => {
                write!(
                    f,
                    "rule {rule} decides and leaves it: {}",
                    held.say(self.now)
                )?;
            }
            Verdict::Taken {
                rule,
                reason,
                waits,
            } => {
                write!(f, "rule {rule} takes it ({reason})")?;
                match waits {
                    Some(stop) => write!(f, "; {}", stop.say(self.now, self.usage))?,
                    None => f.write_str("; it runs now")?,
                }
            }
        }
        match verb.taken_from {
            Some(from) => write!(f, "; a rule will take it in {}", self.wait(from)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
