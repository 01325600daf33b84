//! What a policy says that its author probably did not mean. Nothing here is an error: the policy
//! is carried out as written.

use crate::condition::Condition;
use crate::policy::{Policy, Rule, Trigger, Verb};
use std::fmt;

/// One doubt about a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// What the text is called.
    pub source_name: String,
    /// Line, from 1; 0 where none is meant in particular.
    pub line: usize,
    /// In words.
    pub text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.source_name, self.text),
            line => write!(f, "{}:{line}: {}", self.source_name, self.text),
        }
    }
}

impl Policy {
    /// Doubts about the policy, in the order of its text.
    #[must_use]
    pub fn warnings(&self) -> Vec<Warning> {
        let mut found = Vec::new();
        self.unused(&mut found);
        for (index, rule) in self.rules.iter().enumerate() {
            let line = self.origin.rule_lines.get(index).copied().unwrap_or(0);
            for text in self.doubts(index, rule) {
                found.push(self.warning(line, text));
            }
        }
        let has = |verb| {
            let mut rules = self.rules.iter();
            rules.any(|rule| rule.verb == verb && rule.trigger != Trigger::Never)
        };
        if self.rules.is_empty() {
            found.push(self.warning(0, "no rules: nothing is ever done".to_owned()));
        } else if has(Verb::Release) && !has(Verb::Archive) {
            let text = "files are released and none are archived: only what users archive can go";
            found.push(self.warning(0, text.to_owned()));
        }
        found.sort_by_key(|warning| warning.line);
        found
    }

    fn warning(&self, line: usize, text: String) -> Warning {
        Warning {
            source_name: self.origin.source_name.clone(),
            line,
            text,
        }
    }

    fn unused(&self, found: &mut Vec<Warning>) {
        for (name, line) in &self.origin.unused {
            found.push(self.warning(*line, format!("value `{name}` is never used")));
        }
        for (index, class) in self.classes.iter().enumerate() {
            let rules = self.rules.iter().map(|rule| &rule.condition);
            let classes = self.classes.iter().map(|class| &*class.condition);
            if !rules.chain(classes).any(|used| names(used, &class.name)) {
                let line = self.origin.class_lines.get(index).copied().unwrap_or(0);
                found.push(self.warning(line, format!("class `{}` is never used", class.name)));
            }
        }
    }

    fn doubts(&self, index: usize, rule: &Rule) -> Vec<String> {
        let mut doubts = Vec::new();
        let mut earlier = self.rules.iter().take(index);
        let wider = earlier
            .find(|other| other.verb == rule.verb && includes(&other.condition, &rule.condition));
        if let Some(other) = wider {
            doubts.push(format!(
                "rule {rule} never decides: rule {other} above it takes all of its files"
            ));
        }
        if rule.trigger != Trigger::Never && rule.prefilter().states.is_empty() {
            doubts.push(format!(
                "rule {rule} can take no file: no state satisfies it"
            ));
        }
        if let (Verb::Release, Trigger::Every(span)) = (rule.verb, rule.trigger) {
            let prefilter = rule.prefilter();
            let age = prefilter.accessed_before.or(prefilter.modified_before);
            if age.or(prefilter.changed_before).is_none() {
                doubts.push(format!(
                    "rule {rule} releases files of any age every {span}, also those just in use"
                ));
            }
        }
        doubts
    }
}

/// Is the class named in the condition itself?
fn names(condition: &Condition, class: &str) -> bool {
    match condition {
        Condition::Class(name, _) => name == class,
        _ => condition.parts().iter().any(|part| names(part, class)),
    }
}

/// Is every file that satisfies `narrow` one that satisfies `wide`, as far as the shape of the two
/// shows? `false` means: not known.
fn includes(wide: &Condition, narrow: &Condition) -> bool {
    if wide == narrow || *wide == Condition::ANY_FILE {
        return true;
    }
    match (wide, narrow) {
        (Condition::All(parts), _) => parts.iter().all(|part| includes(part, narrow)),
        (Condition::State(wide), Condition::State(narrow)) => wide.and(*narrow) == *narrow,
        (_, Condition::Any(parts)) => parts.iter().all(|part| includes(wide, part)),
        (Condition::Any(parts), _) if parts.iter().any(|part| includes(part, narrow)) => true,
        (_, Condition::All(parts)) => parts.iter().any(|part| includes(wide, part)),
        (Condition::NotFor(time, wide), Condition::NotFor(other, narrow)) => {
            time == other && wide <= narrow
        }
        (Condition::Unchanged(wide), Condition::Unchanged(narrow)) => wide <= narrow,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
