//! What a rule's condition implies, in terms that a catalog can index: asking for these files
//! alone loses none that the rule would take. Never the other way round: files that pass still
//! have to be judged.

use crate::condition::{Compare, Condition, TimeOf};
use crate::decide::states_for;
use crate::facts::{FileFacts, StateSet};
use crate::policy::{Rule, Trigger};
use crate::quantity::{ByteCount, Moment, Span};

/// Necessary conditions of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefilter {
    /// The state is one of these. Empty: the rule can never take a file.
    pub states: StateSet,
    /// The size is at least this.
    pub min_size: ByteCount,
    /// atime lies at least this far back.
    pub accessed_before: Option<Span>,
    /// mtime lies at least this far back.
    pub modified_before: Option<Span>,
    /// ctime lies at least this far back.
    pub changed_before: Option<Span>,
}

impl Prefilter {
    /// What every file passes.
    const OPEN: Self = Self {
        states: StateSet::ALL,
        min_size: ByteCount(0),
        accessed_before: None,
        modified_before: None,
        changed_before: None,
    };
    /// What no file passes.
    const CLOSED: Self = Self {
        states: StateSet::NONE,
        min_size: ByteCount(u64::MAX),
        accessed_before: Some(Span::MAX),
        modified_before: Some(Span::MAX),
        changed_before: Some(Span::MAX),
    };

    /// Does a file pass at `now`?
    #[must_use]
    pub fn accepts(&self, file: &FileFacts, now: Moment) -> bool {
        let old = |time: TimeOf, span: Option<Span>| {
            span.is_none_or(|span| time.of(file).after(span) <= now)
        };
        self.states.contains(file.state)
            && file.size >= self.min_size
            && old(TimeOf::Access, self.accessed_before)
            && old(TimeOf::Modification, self.modified_before)
            && old(TimeOf::Change, self.changed_before)
    }

    fn both(self, other: Self) -> Self {
        Self {
            states: self.states.and(other.states),
            min_size: self.min_size.max(other.min_size),
            accessed_before: self.accessed_before.max(other.accessed_before),
            modified_before: self.modified_before.max(other.modified_before),
            changed_before: self.changed_before.max(other.changed_before),
        }
    }

    fn either(self, other: Self) -> Self {
        // `None` is the least, so that what only one side asks for is not asked for.
        Self {
            states: self.states.or(other.states),
            min_size: self.min_size.min(other.min_size),
            accessed_before: self.accessed_before.min(other.accessed_before),
            modified_before: self.modified_before.min(other.modified_before),
            changed_before: self.changed_before.min(other.changed_before),
        }
    }

    fn closed_if_empty(self) -> Self {
        if self.states.is_empty() {
            Self::CLOSED
        } else {
            self
        }
    }
}

impl Rule {
    /// What every file satisfies that this rule takes, under whatever settings.
    #[must_use]
    pub fn prefilter(&self) -> Prefilter {
        if self.trigger == Trigger::Never {
            return Prefilter::CLOSED;
        }
        let verb = Prefilter {
            states: states_for(self.verb),
            ..Prefilter::OPEN
        };
        verb.both(implied(&self.condition, true)).closed_if_empty()
    }
}

/// What follows from the condition being true (`truth`) or false.
fn implied(condition: &Condition, truth: bool) -> Prefilter {
    let open = Prefilter::OPEN;
    match (condition, truth) {
        (Condition::All(parts), true) | (Condition::Any(parts), false) => {
            let parts = parts.iter().map(|part| implied(part, truth));
            parts.fold(open, Prefilter::both).closed_if_empty()
        }
        (Condition::Any(parts), true) | (Condition::All(parts), false) => {
            let parts = parts.iter().map(|part| implied(part, truth));
            parts.fold(Prefilter::CLOSED, Prefilter::either)
        }
        (Condition::Not(inner), truth) => implied(inner, !truth),
        (Condition::Class(_, body), truth) => implied(body, truth),
        (Condition::State(states), true) => Prefilter {
            states: *states,
            ..open
        },
        (Condition::State(states), false) => Prefilter {
            states: states.complement(),
            ..open
        }
        .closed_if_empty(),
        (Condition::Size(compare, size), truth) => match least(*compare, *size, truth) {
            Some(min_size) => Prefilter { min_size, ..open },
            None => Prefilter::CLOSED,
        },
        (Condition::NotFor(time, span), true) | (Condition::Within(time, span), false) => {
            older(*time, *span)
        }
        // Only ctime: a modification time in the future is passed over.
        (Condition::Unchanged(span), true) => older(TimeOf::Change, *span),
        (
            Condition::NotFor(..)
            | Condition::Within(..)
            | Condition::Unchanged(_)
            | Condition::Path(_)
            | Condition::Name(_)
            | Condition::Owner(_)
            | Condition::Group(_)
            | Condition::Links(..)
            | Condition::Copies(..)
            | Condition::Flagged(_),
            _,
        ) => open,
    }
}

fn older(time: TimeOf, span: Span) -> Prefilter {
    let mut implied = Prefilter::OPEN;
    match time {
        TimeOf::Access => implied.accessed_before = Some(span),
        TimeOf::Modification => implied.modified_before = Some(span),
        TimeOf::Change => implied.changed_before = Some(span),
    }
    implied
}

/// The least size for which the comparison has this truth; `None` if there is none.
fn least(compare: Compare, size: ByteCount, truth: bool) -> Option<ByteCount> {
    let above = || size.0.checked_add(1).map(ByteCount);
    let nothing = Some(ByteCount(0));
    match (compare, truth) {
        (Compare::AtLeast | Compare::Equal, true) => Some(size),
        (Compare::More, true) => above(),
        (Compare::Less, false) => Some(size),
        (Compare::AtMost, false) => above(),
        (Compare::Less, true) | (Compare::AtLeast, false) if size.0 == 0 => None,
        (Compare::Less | Compare::AtMost, true) => nothing,
        (Compare::AtLeast | Compare::More | Compare::Equal, false) => nothing,
    }
}

#[cfg(test)]
mod tests;
