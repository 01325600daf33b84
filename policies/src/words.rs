//! Conditions and facts in words: why a file satisfies a condition, and what it is missing.

use crate::condition::{Condition, Flag, TimeOf};
use crate::facts::FileFacts;
use crate::pattern::name_of;
use crate::quantity::{Moment, rough_size, rough_span};
use serde::Serialize;

/// Most parts of a condition that are named: more would not be read.
const MOST_PARTS: usize = 8;

/// Something that a file is missing for a condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// In words: `accessed 20 min ago, needs 1 h`.
    pub text: String,
    /// When time alone will have mended it, if it will.
    pub until: Option<Moment>,
}

/// Why the file satisfies the condition, in words; the condition must hold.
pub(crate) fn reason(condition: &Condition, file: &FileFacts, now: Moment) -> String {
    let mut parts = Vec::new();
    satisfied(condition, true, file, now, &mut parts);
    if parts.is_empty() {
        return "any file".to_owned();
    }
    parts.join("; ")
}

/// What the file is missing for the condition, which must not hold.
pub(crate) fn missing(condition: &Condition, file: &FileFacts, now: Moment) -> Vec<Missing> {
    let mut found = Vec::new();
    lacking(condition, true, file, now, &mut found);
    found
}

/// First moment after `now` at which the condition's truth differs from what it is now.
fn flips(condition: &Condition, file: &FileFacts, now: Moment) -> Option<Moment> {
    let mut points = Vec::new();
    condition.turning_points(file, &mut points);
    points.sort_unstable();
    let truth = condition.holds(file, now);
    let mut later = points.into_iter().filter(|point| *point > now);
    later.find(|point| condition.holds(file, *point) != truth)
}

fn satisfied(
    condition: &Condition,
    truth: bool,
    file: &FileFacts,
    now: Moment,
    found: &mut Vec<String>,
) {
    if found.len() >= MOST_PARTS {
        return;
    }
    match (condition, truth) {
        (Condition::All(parts), true) | (Condition::Any(parts), false) => {
            for part in parts {
                satisfied(part, truth, file, now, found);
            }
        }
        (Condition::Any(parts), true) | (Condition::All(parts), false) => {
            let holding = parts.iter().find(|part| part.holds(file, now) == truth);
            if let Some(part) = holding {
                satisfied(part, truth, file, now, found);
            }
        }
        (Condition::Not(inner), truth) => satisfied(inner, !truth, file, now, found),
        (Condition::Class(name, _), true) => found.push(format!("of class {name}")),
        (Condition::Class(name, _), false) => found.push(format!("not of class {name}")),
        (Condition::Path(_) | Condition::Name(_) | Condition::Flagged(_), false) => {
            found.push(format!("not {condition}"));
        }
        (Condition::Path(_) | Condition::Name(_), true) => found.push(condition.to_string()),
        (leaf, _) => found.push(fact(leaf, file, now)),
    }
}

fn lacking(
    condition: &Condition,
    wanted: bool,
    file: &FileFacts,
    now: Moment,
    found: &mut Vec<Missing>,
) {
    if found.len() >= MOST_PARTS || condition.holds(file, now) == wanted {
        return;
    }
    match condition {
        Condition::All(parts) | Condition::Any(parts) if !parts.is_empty() => {
            for part in parts {
                lacking(part, wanted, file, now, found);
            }
        }
        Condition::Not(inner) => lacking(inner, !wanted, file, now, found),
        Condition::Class(..) if !wanted => found.push(Missing {
            text: format!("{condition} is left out"),
            until: flips(condition, file, now),
        }),
        Condition::Class(_, body) => lacking(body, wanted, file, now, found),
        leaf => {
            let needs = match (leaf, wanted) {
                (Condition::NotFor(_, span) | Condition::Unchanged(span), true)
                | (Condition::Within(_, span), false) => span.to_string(),
                (Condition::Within(_, span), true)
                | (Condition::NotFor(_, span) | Condition::Unchanged(span), false) => {
                    format!("less than {span}")
                }
                (leaf, true) => leaf.to_string(),
                (leaf, false) => format!("not {leaf}"),
            };
            found.push(Missing {
                text: format!("{}, needs {needs}", fact(leaf, file, now)),
                until: flips(leaf, file, now),
            });
        }
    }
}

/// What is so about the file, as far as this condition asks.
fn fact(leaf: &Condition, file: &FileFacts, now: Moment) -> String {
    match leaf {
        Condition::Path(_) => format!("path is {:?}", String::from_utf8_lossy(&file.path)),
        Condition::Name(_) => {
            let name = String::from_utf8_lossy(name_of(&file.path));
            format!("name is {name:?}")
        }
        Condition::Size(..) => format!("size is {}", rough_size(file.size)),
        Condition::Owner(_) => format!("owner is {}", file.uid),
        Condition::Group(_) => format!("group is {}", file.gid),
        Condition::Links(..) => format!("links are {}", file.nlink),
        Condition::Copies(..) => format!("copies are {}", file.copies),
        Condition::State(_) => format!("state is {}", file.state.word()),
        Condition::Flagged(Flag::NoArchive) => flag("noarchive", file.flags.noarchive),
        Condition::Flagged(Flag::NoRelease) => flag("norelease", file.flags.norelease),
        Condition::NotFor(time, _) | Condition::Within(time, _) => age(*time, file, now),
        Condition::Unchanged(_) if file.mtime > file.ctime && file.mtime <= now => {
            age(TimeOf::Modification, file, now)
        }
        Condition::Unchanged(_) => age(TimeOf::Change, file, now),
        Condition::All(_) | Condition::Any(_) | Condition::Not(_) | Condition::Class(..) => {
            leaf.to_string()
        }
    }
}

fn flag(name: &str, set: bool) -> String {
    format!("flag {name} is {}set", if set { "" } else { "not " })
}

fn age(time: TimeOf, file: &FileFacts, now: Moment) -> String {
    let (word, at) = (time.word(), time.of(file));
    if at > now {
        format!("{word} {} in the future", rough_span(now.wait_until(at)))
    } else {
        format!("{word} {} ago", rough_span(at.until(now)))
    }
}
