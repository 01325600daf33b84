//! Rules: `rule VERB NAME`, then its clauses in any order, each at most once.

use super::{Parser, Read};
use crate::condition::Condition;
use crate::policy::{Limits, Order, Rule, Trigger, Verb};
use crate::quantity::ByteCount;

/// Words that begin a clause.
const CLAUSES: [&str; 7] = [
    "when", "every", "above", "manual", "never", "order", "limit",
];

/// Verbs of the design that no engine executes by policy yet.
const LATER: [&str; 3] = ["stage", "remove", "repack"];

#[derive(Default)]
struct Clauses {
    condition: Option<Condition>,
    trigger: Option<Trigger>,
    order: Option<Order>,
    limits: Option<Limits>,
}

impl Parser<'_> {
    pub(super) fn rule(&mut self) -> Read<()> {
        let place = self.here().clone();
        self.next();
        let verb = self.verb()?;
        let name_place = self.here().clone();
        let name = self.new_name("a name for the rule")?;
        if self.policy.rule(&name).is_some() {
            return self.fail(&name_place, format!("rule `{name}` is there already"), None);
        }
        let mut clauses = Clauses::default();
        while !self.is_statement_word() && self.here().token != super::Token::End {
            self.clause(verb, &mut clauses)?;
        }
        let Some(trigger) = clauses.trigger else {
            let message = format!("rule `{name}` does not say when it runs");
            let hint = match verb {
                Verb::Archive => "add `every 10 min`, `manual` or `never`",
                Verb::Release => "add `above 85 % down to 75 %`, `every 1 h`, `manual` or `never`",
            };
            return self.fail(&name_place, message, Some(hint.to_owned()));
        };
        self.policy.origin.rule_lines.push(place.line);
        self.policy.rules.push(Rule {
            verb,
            name,
            condition: clauses.condition.unwrap_or(Condition::ANY_FILE),
            trigger,
            order: clauses.order.unwrap_or(match verb {
                Verb::Archive => Order::OldestChange,
                Verb::Release => Order::OldestAccess,
            }),
            limits: clauses.limits.unwrap_or_default(),
        });
        Ok(())
    }

    fn verb(&mut self) -> Read<Verb> {
        let word = self.word().unwrap_or_default();
        if let Some(verb) = Verb::ALL.into_iter().find(|verb| verb.word() == word) {
            self.next();
            return Ok(verb);
        }
        if LATER.contains(&word.as_str()) {
            let place = self.here().clone();
            return self.fail(
                &place,
                format!("`{word}` rules are not in this version"),
                None,
            );
        }
        self.expected(
            "what the rule does (`archive` or `release`)",
            &["archive", "release"],
        )
    }

    fn clause(&mut self, verb: Verb, clauses: &mut Clauses) -> Read<()> {
        let place = self.here().clone();
        let word = self.word().unwrap_or_default();
        let taken = match word.as_str() {
            "when" => clauses.condition.is_some(),
            "order" => clauses.order.is_some(),
            "limit" => clauses.limits.is_some(),
            "every" | "above" | "manual" | "never" => clauses.trigger.is_some(),
            "and" | "or" | "not" => {
                let message = format!("`{word}` continues a condition, and there is none here");
                return self.fail(
                    &place,
                    message,
                    Some("conditions begin with `when`".to_owned()),
                );
            }
            _ => return self.expected("a clause of the rule or a new statement", &CLAUSES),
        };
        if taken {
            let what = match word.as_str() {
                "when" | "order" | "limit" => format!("a second `{word}`"),
                _ => "a second clause that says when it runs".to_owned(),
            };
            return self.fail(&place, format!("the rule has {what}"), None);
        }
        self.next();
        match word.as_str() {
            "when" => clauses.condition = Some(self.condition()?),
            "order" => clauses.order = Some(self.order()?),
            "limit" => clauses.limits = Some(self.limits()?),
            "every" => clauses.trigger = Some(Trigger::Every(self.period()?)),
            "above" if verb == Verb::Archive => {
                let message = "a watermark makes room, and archiving makes none".to_owned();
                return self.fail(&place, message, Some("use `every 10 min`".to_owned()));
            }
            "above" => clauses.trigger = Some(self.watermark()?),
            "manual" => clauses.trigger = Some(Trigger::Manual),
            _ => clauses.trigger = Some(Trigger::Never),
        }
        Ok(())
    }

    fn period(&mut self) -> Read<crate::quantity::Span> {
        let place = self.here().clone();
        let span = self.span()?;
        if span.secs() == 0 {
            return self.fail(&place, "a period is at least 1 s".to_owned(), None);
        }
        Ok(span)
    }

    /// `HIGH % down to LOW %`, behind `above`.
    fn watermark(&mut self) -> Read<Trigger> {
        let high = self.percent()?;
        self.keyword("down")?;
        self.keyword("to")?;
        let place = self.here().clone();
        let low = self.percent()?;
        if low >= high {
            let message = format!("the low mark ({low}) must lie below the high mark ({high})");
            return self.fail(&place, message, None);
        }
        Ok(Trigger::Watermark { high, low })
    }

    /// `oldest access`, `oldest change` or `largest`, and `first` if one likes.
    fn order(&mut self) -> Read<Order> {
        let order = if self.take_word("oldest") {
            if self.take_word("access") {
                Order::OldestAccess
            } else if self.take_word("change") {
                Order::OldestChange
            } else {
                return self.expected("`access` or `change`", &["access", "change"]);
            }
        } else if self.take_word("largest") {
            Order::Largest
        } else {
            return self.expected(
                "an order (`oldest access`, `oldest change` or `largest`)",
                &["oldest", "largest"],
            );
        };
        self.take_word("first");
        Ok(order)
    }

    /// `10000 files, 1 TiB`, and `per run` if one likes.
    fn limits(&mut self) -> Read<Limits> {
        let mut limits = Limits::default();
        loop {
            let (place, value) = self.limit_value()?;
            let second = match value {
                Ok(size) => limits.bytes.replace(size).is_some(),
                Err(count) => {
                    self.keyword("files")?;
                    limits.files.replace(count).is_some()
                }
            };
            if second {
                return self.fail(&place, "this limit is there already".to_owned(), None);
            }
            if matches!(value, Ok(ByteCount(0)) | Err(0)) {
                let hint = Some("a rule that shall take nothing says `never`".to_owned());
                return self.fail(&place, "a limit is at least 1".to_owned(), hint);
            }
            if !self.is_sign(",") {
                break;
            }
            self.next();
        }
        if self.take_word("per") {
            self.keyword("run")?;
        }
        Ok(limits)
    }
}
