//! Plans: what a run would do and why, as a value that is computed, shown, and re-checked when it
//! is carried out.
//!
//! Keeps: a plan depends on its arguments alone, not on the order of the files; a file appears in
//! it at most once (if it is handed in once); no more than [`MOST_FILES`] files of a rule are in
//! memory; release rules stop at their low mark, counting what the rules before them free.

mod gate;
mod selection;

use crate::decide::{Decision, Held, decide};
use crate::facts::{FileFacts, NodeKey, RunInput, Select, Usage};
use crate::policy::{Policy, Rule, Verb};
use crate::quantity::{ByteCount, Moment};
use crate::words;
pub(crate) use gate::Gate;
pub use gate::Stop;
pub(crate) use gate::gate;
use selection::Selection;
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};
use std::collections::BTreeMap;

/// Version of the plan's serialised form: grows with every change that a reader could notice.
pub const PLAN_SCHEMA: u32 = 1;

/// Most files that one rule takes in one run, whatever its limit says: bounds the plan's memory.
pub const MOST_FILES: u64 = 1_000_000;

/// A number of files and of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Tally {
    /// Files.
    pub files: u64,
    /// Bytes: of data for archive, of blocks on disk for release.
    pub bytes: ByteCount,
}

impl Tally {
    fn add(&mut self, bytes: ByteCount) {
        self.files += 1;
        self.bytes = ByteCount(self.bytes.0.saturating_add(bytes.0));
    }
}

/// A path as a plan shows it. A [`Chosen`] serialises it as `path`, and where that would lose bytes
/// that are no UTF-8, with `path_hex` beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanPath(pub Vec<u8>);

/// A file that a rule takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Its number.
    pub node: NodeKey,
    /// Its path.
    pub path: PlanPath,
    /// Its size.
    pub size: ByteCount,
    /// What it takes on disk: what a release frees.
    pub blocks: ByteCount,
    /// Why it satisfies the rule.
    pub reason: String,
}

/// What one rule would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RulePlan {
    /// What it does.
    pub verb: Verb,
    /// Its name.
    pub rule: String,
    /// Why it takes no more than it takes, or nothing at all.
    pub stop: Stop,
    /// Files and bytes it takes.
    pub taken: Tally,
    /// Files and bytes it could take: taken ones and those that a limit left for another run.
    pub matched: Tally,
    /// Files and bytes that satisfy its condition and are held back, by reason.
    pub held: BTreeMap<&'static str, Tally>,
    /// Usage of the backing filesystem after it.
    pub usage_after: Usage,
    /// The files, in the order in which they are to be taken.
    pub files: Vec<Chosen>,
}

/// A name asked for that no rule has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnknownRule {
    /// The name.
    pub name: String,
    /// The rule that was perhaps meant.
    pub nearest: Option<String>,
}

/// What a run would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// [`PLAN_SCHEMA`].
    pub schema: u32,
    /// The moment it was computed for.
    pub now: Moment,
    /// Usage before.
    pub usage_before: Usage,
    /// Usage after all rules.
    pub usage_after: Usage,
    /// Files that were looked at.
    pub considered: u64,
    /// What each rule does, in the policy's order. Of a run by name, the named ones.
    pub rules: Vec<RulePlan>,
    /// Names asked for that there are not.
    pub unknown: Vec<UnknownRule>,
}

/// A rule's part of a run while files go by.
struct Work<'p> {
    rule: &'p Rule,
    gate: Gate,
    selection: Selection,
    matched: Tally,
    held: BTreeMap<&'static str, Tally>,
}

/// What would be done. Each file is to be handed in once; files that a rule's
/// [`prefilter`](Rule::prefilter) excludes may be left out.
#[must_use]
pub fn plan(policy: &Policy, input: &RunInput, files: impl IntoIterator<Item = FileFacts>) -> Plan {
    let mut works: Vec<Work<'_>> = policy
        .rules
        .iter()
        .map(|rule| {
            let gate = gate(rule, input);
            Work {
                rule,
                selection: Selection::new(rule, gate.most_bytes()),
                gate,
                matched: Tally::default(),
                held: BTreeMap::new(),
            }
        })
        .collect();
    let mut considered = 0;
    for file in files {
        considered += 1;
        consider(policy, input, &mut works, file);
    }
    let mut usage = input.usage;
    let mut rules = Vec::new();
    for work in works {
        let rule = finish(work, input, usage);
        usage = rule.usage_after;
        if rule.stop != Stop::NotNamed {
            rules.push(rule);
        }
    }
    Plan {
        schema: PLAN_SCHEMA,
        now: input.now,
        usage_before: input.usage,
        usage_after: usage,
        considered,
        rules,
        unknown: unknown(policy, &input.select),
    }
}

fn consider(policy: &Policy, input: &RunInput, works: &mut [Work<'_>], file: FileFacts) {
    // A file needs at most one verb at a time: what is archived enough is not archived again.
    for verb in Verb::ALL {
        let Decision::Rule { index, held } = decide(policy, verb, &file, input.now) else {
            continue;
        };
        let Some(work) = works.get_mut(index) else {
            continue;
        };
        let bytes = moved(verb, &file);
        match held {
            Some(held) => work.held.entry(Held::kind(held)).or_default().add(bytes),
            None => {
                work.matched.add(bytes);
                if matches!(work.gate, Gate::Open { .. }) {
                    work.selection.offer(file);
                    return;
                }
            }
        }
    }
}

/// The bytes that a verb moves or frees.
fn moved(verb: Verb, file: &FileFacts) -> ByteCount {
    match verb {
        Verb::Archive => file.size,
        Verb::Release => file.blocks,
    }
}

/// Takes the selected files in order until the rule must stop.
fn finish(work: Work<'_>, input: &RunInput, before: Usage) -> RulePlan {
    let rule = work.rule;
    let mut usage = before;
    let mut taken = Tally::default();
    let mut files = Vec::new();
    let mut stop = work.gate.stop_before(before);
    for file in work.selection.in_order() {
        if stop.is_some() {
            break;
        }
        let bytes = moved(rule.verb, &file);
        taken.add(bytes);
        if rule.verb == Verb::Release {
            usage.used = ByteCount(usage.used.0.saturating_sub(bytes.0));
        }
        files.push(Chosen {
            node: file.node,
            reason: words::reason(&rule.condition, &file, input.now),
            size: file.size,
            blocks: file.blocks,
            path: PlanPath(file.path),
        });
        stop = work.gate.stop_at(usage);
        if stop.is_none() && taken.files < work.matched.files {
            stop = limit_reached(rule, taken);
        }
    }
    RulePlan {
        verb: rule.verb,
        rule: rule.name.clone(),
        stop: stop.unwrap_or(Stop::NothingLeft),
        taken,
        matched: work.matched,
        held: work.held,
        usage_after: usage,
        files,
    }
}

fn limit_reached(rule: &Rule, taken: Tally) -> Option<Stop> {
    let most = rule.limits.files.unwrap_or(MOST_FILES).min(MOST_FILES);
    if taken.files >= most {
        return Some(Stop::FileLimit { files: most });
    }
    let bytes = rule.limits.bytes.filter(|bytes| taken.bytes >= *bytes)?;
    Some(Stop::ByteLimit { bytes })
}

fn unknown(policy: &Policy, select: &Select) -> Vec<UnknownRule> {
    let Select::Named(names) = select else {
        return Vec::new();
    };
    let missing = names.iter().filter(|name| policy.rule(name).is_none());
    missing
        .map(|name| UnknownRule {
            name: name.clone(),
            nearest: crate::error::nearest(name, policy.rules.iter().map(|r| r.name.as_str()))
                .map(str::to_owned),
        })
        .collect()
}

impl Serialize for Chosen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = std::str::from_utf8(&self.path.0);
        let count = if text.is_ok() { 5 } else { 6 };
        let mut fields = serializer.serialize_struct("Chosen", count)?;
        fields.serialize_field("node", &self.node)?;
        fields.serialize_field("path", &String::from_utf8_lossy(&self.path.0))?;
        if text.is_err() {
            let hex: String = self.path.0.iter().map(|b| format!("{b:02x}")).collect();
            fields.serialize_field("path_hex", &hex)?;
        }
        fields.serialize_field("size", &self.size)?;
        fields.serialize_field("blocks", &self.blocks)?;
        fields.serialize_field("reason", &self.reason)?;
        fields.end()
    }
}

#[cfg(test)]
mod tests;
