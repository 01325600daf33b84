//! The canonical text of a policy: values written out, one clause a line. Reading it gives the
//! same policy again.

use crate::condition::{Condition, Flag};
use crate::policy::{Limits, Order, Policy, Rule, Trigger};
use std::fmt;

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "copies {}", self.settings.copies)?;
        writeln!(f, "keep-staged {}", self.settings.keep_staged)?;
        if !self.classes.is_empty() {
            writeln!(f)?;
        }
        for class in &self.classes {
            writeln!(f, "class {} = {}", class.name, class.condition)?;
        }
        for rule in &self.rules {
            writeln!(f)?;
            print_rule(f, rule)?;
        }
        Ok(())
    }
}

fn print_rule(f: &mut fmt::Formatter<'_>, rule: &Rule) -> fmt::Result {
    writeln!(f, "rule {} {}", rule.verb.word(), rule.name)?;
    if rule.condition != Condition::ANY_FILE {
        writeln!(f, "    when {}", rule.condition)?;
    }
    writeln!(f, "    {}", rule.trigger)?;
    writeln!(f, "    order {} first", rule.order)?;
    if rule.limits != Limits::default() {
        writeln!(f, "    limit {} per run", rule.limits)?;
    }
    Ok(())
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every(span) => write!(f, "every {span}"),
            Self::Watermark { high, low } => write!(f, "above {high} down to {low}"),
            Self::Manual => f.write_str("manual"),
            Self::Never => f.write_str("never"),
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OldestAccess => "oldest access",
            Self::OldestChange => "oldest change",
            Self::Largest => "largest",
        })
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.files, self.bytes) {
            (Some(files), Some(bytes)) => write!(f, "{files} files, {bytes}"),
            (Some(files), None) => write!(f, "{files} files"),
            (None, Some(bytes)) => write!(f, "{bytes}"),
            (None, None) => Ok(()),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(parts) if parts.is_empty() => f.write_str("any file"),
            Self::All(parts) => joined(f, parts, " and "),
            Self::Any(parts) => joined(f, parts, " or "),
            Self::Not(inner) => {
                f.write_str("not ")?;
                part(f, inner)
            }
            Self::Path(pattern) => write!(f, "path {pattern}"),
            Self::Name(pattern) => write!(f, "name {pattern}"),
            Self::Size(compare, size) => write!(f, "size {} {size}", compare.sign()),
            Self::Owner(uid) => write!(f, "owner {uid}"),
            Self::Group(gid) => write!(f, "group {gid}"),
            Self::Links(compare, links) => write!(f, "links {} {links}", compare.sign()),
            Self::Copies(compare, copies) => write!(f, "copies {} {copies}", compare.sign()),
            Self::State(states) => write!(f, "state is {states}"),
            Self::Flagged(Flag::NoArchive) => f.write_str("flag noarchive"),
            Self::Flagged(Flag::NoRelease) => f.write_str("flag norelease"),
            Self::NotFor(time, span) => write!(f, "not {} for {span}", time.word()),
            Self::Within(time, span) => write!(f, "{} within {span}", time.word()),
            Self::Unchanged(span) => write!(f, "unchanged for {span}"),
            Self::Class(name, _) => write!(f, "class {name}"),
        }
    }
}

fn joined(f: &mut fmt::Formatter<'_>, parts: &[Condition], glue: &str) -> fmt::Result {
    for (i, inner) in parts.iter().enumerate() {
        if i > 0 {
            f.write_str(glue)?;
        }
        part(f, inner)?;
    }
    Ok(())
}

fn part(f: &mut fmt::Formatter<'_>, inner: &Condition) -> fmt::Result {
    match inner {
        Condition::All(_) | Condition::Any(_) => write!(f, "({inner})"),
        _ => write!(f, "{inner}"),
    }
}
