//! Conditions. `and` and `or` are never mixed without parentheses: what is read aloud has no
//! precedence.

use super::token::{Placed, Token};
use super::{Parser, Read};
use crate::condition::{Compare, Condition, Flag, TimeOf};
use crate::error::nearest;
use crate::facts::{FileState, StateSet};
use crate::pattern::Pattern;
use std::sync::Arc;

/// Deepest nesting, classes included: bounds the stack wherever conditions are walked.
const DEEPEST: usize = 64;
/// Most parts of one condition, classes written out: bounds what judging a file costs.
const HEAVIEST: usize = 10_000;

/// Words that begin a condition.
const BEGINNINGS: [&str; 21] = [
    "path",
    "name",
    "size",
    "owner",
    "group",
    "links",
    "copies",
    "state",
    "flag",
    "class",
    "accessed",
    "modified",
    "changed",
    "unchanged",
    "not",
    "new",
    "dirty",
    "archived",
    "released",
    "lost",
    "any",
];

impl Parser<'_> {
    pub(super) fn condition(&mut self) -> Read<Condition> {
        let place = self.here().clone();
        let condition = self.joined(0)?;
        let (nodes, depth) = condition.weight();
        if nodes > HEAVIEST || depth > DEEPEST {
            let message = "this condition is too large, with its classes written out".to_owned();
            return self.fail(&place, message, None);
        }
        Ok(condition)
    }

    /// Conditions joined by `and`, or by `or`.
    fn joined(&mut self, depth: usize) -> Read<Condition> {
        let first = self.single(depth)?;
        let glue = match self.word().as_deref() {
            Some("and") => "and",
            Some("or") => "or",
            _ => return Ok(first),
        };
        let mut parts = vec![first];
        while self.take_word(glue) {
            parts.push(self.single(depth)?);
        }
        if self.is_word("and") || self.is_word("or") {
            let place = self.here().clone();
            let message = "`and` and `or` are mixed without parentheses".to_owned();
            let hint = "write which of them holds together: `(a or b) and c`".to_owned();
            return self.fail(&place, message, Some(hint));
        }
        Ok(match glue {
            "and" => Condition::All(parts),
            _ => Condition::Any(parts),
        })
    }

    fn single(&mut self, depth: usize) -> Read<Condition> {
        let place = self.here().clone();
        if depth >= DEEPEST {
            return self.fail(&place, "nested too deeply".to_owned(), None);
        }
        if self.is_sign("(") {
            self.next();
            let inner = self.joined(depth + 1)?;
            self.sign(")")?;
            return Ok(inner);
        }
        let Some(word) = self.word() else {
            return self.expected("a condition", &BEGINNINGS);
        };
        if let Some(state) = FileState::from_word(&word) {
            return Ok(Condition::State(self.states(state)));
        }
        if let Some(time) = TimeOf::from_word(&word) {
            self.next();
            return self.within(time);
        }
        if !BEGINNINGS.contains(&word.as_str()) {
            return self.expected("a condition", &BEGINNINGS);
        }
        self.next();
        match word.as_str() {
            "not" => self.negated(depth),
            "path" => self.path(),
            "name" => self.name(),
            "size" => {
                let compare = self.compare()?;
                Ok(Condition::Size(compare, self.size()?))
            }
            "owner" => Ok(Condition::Owner(self.id("uid")?)),
            "group" => Ok(Condition::Group(self.id("gid")?)),
            "links" => {
                let compare = self.compare()?;
                Ok(Condition::Links(compare, self.count("of hard links")?))
            }
            "copies" => {
                let compare = self.compare()?;
                Ok(Condition::Copies(compare, self.count("of copies")?))
            }
            "state" => {
                self.keyword("is")?;
                let states = FileState::ALL.map(FileState::word);
                match self.word().as_deref().and_then(FileState::from_word) {
                    Some(state) => Ok(Condition::State(self.states(state))),
                    None => self.expected("a state", &states),
                }
            }
            "flag" => self.flag(),
            "any" => {
                self.keyword("file")?;
                Ok(Condition::ANY_FILE)
            }
            "class" => self.class_use(),
            _ => {
                self.keyword("for")?;
                Ok(Condition::Unchanged(self.span()?))
            }
        }
    }

    /// Behind `not`: `accessed for 1 h` is one condition with it.
    fn negated(&mut self, depth: usize) -> Read<Condition> {
        let behind_is_for = matches!(&self.ahead(1).token, Token::Word(word) if word == "for");
        let time = self.word().as_deref().and_then(TimeOf::from_word);
        if let (Some(time), true) = (time, behind_is_for) {
            self.next();
            self.next();
            return Ok(Condition::NotFor(time, self.span()?));
        }
        Ok(Condition::Not(Box::new(self.single(depth + 1)?)))
    }

    fn within(&mut self, time: TimeOf) -> Read<Condition> {
        if self.is_word("for") {
            let place = self.here().clone();
            let word = time.word();
            let hint = format!("`not {word} for 1 h` or `{word} within 1 h`");
            return self.fail(&place, format!("`{word} for` needs a `not`"), Some(hint));
        }
        self.keyword("within")?;
        Ok(Condition::Within(time, self.span()?))
    }

    /// `new or dirty`: states that are joined by `or` are one condition.
    fn states(&mut self, first: FileState) -> StateSet {
        self.next();
        let mut states = StateSet::of(&[first]);
        while self.is_word("or") {
            let next = match &self.ahead(1).token {
                Token::Word(word) => FileState::from_word(word),
                _ => None,
            };
            let Some(state) = next else { break };
            states = states.or(StateSet::of(&[state]));
            self.next();
            self.next();
        }
        states
    }

    fn compare(&mut self) -> Read<Compare> {
        let all = [
            Compare::Less,
            Compare::AtMost,
            Compare::Equal,
            Compare::AtLeast,
            Compare::More,
        ];
        match all.into_iter().find(|compare| self.is_sign(compare.sign())) {
            Some(compare) => {
                self.next();
                Ok(compare)
            }
            None => self.expected("a comparison (`<`, `<=`, `=`, `>=` or `>`)", &[]),
        }
    }

    fn id(&mut self, what: &str) -> Read<u32> {
        let place = self.here().clone();
        if let Token::Text(_) = place.token {
            let message = format!("owners and groups are given by number ({what})");
            return self.fail(&place, message, Some("see `getent passwd NAME`".to_owned()));
        }
        let number = self.count(what)?;
        match u32::try_from(number) {
            Ok(id) => Ok(id),
            Err(_) => self.fail(&place, format!("a {what} has at most 32 bits"), None),
        }
    }

    fn path(&mut self) -> Read<Condition> {
        let (place, pattern) = self.pattern()?;
        if pattern.text().starts_with('/') {
            let message = "paths are relative to the root of the mount".to_owned();
            let hint = Some("leave the first `/` away".to_owned());
            return self.fail(&place, message, hint);
        }
        Ok(Condition::Path(pattern))
    }

    fn name(&mut self) -> Read<Condition> {
        let (place, pattern) = self.pattern()?;
        if pattern.text().contains('/') {
            let message = "a name has no `/`".to_owned();
            return self.fail(&place, message, Some("use `path`".to_owned()));
        }
        Ok(Condition::Name(pattern))
    }

    fn pattern(&mut self) -> Read<(Placed, Pattern)> {
        let place = self.here().clone();
        let Token::Text(text) = &place.token else {
            return self.expected("a pattern in quotes", &[]);
        };
        match Pattern::new(text) {
            Ok(pattern) => {
                self.next();
                Ok((place, pattern))
            }
            Err(message) => self.fail(&place, message, None),
        }
    }

    fn flag(&mut self) -> Read<Condition> {
        if self.take_word("noarchive") {
            Ok(Condition::Flagged(Flag::NoArchive))
        } else if self.take_word("norelease") {
            Ok(Condition::Flagged(Flag::NoRelease))
        } else {
            let flags = ["noarchive", "norelease"];
            self.expected("a flag (`noarchive` or `norelease`)", &flags)
        }
    }

    fn class_use(&mut self) -> Read<Condition> {
        let place = self.here().clone();
        let Some(name) = self.word() else {
            return self.expected("the name of a class", &[]);
        };
        let classes = &self.policy.classes;
        if let Some(class) = classes.iter().find(|class| class.name == name) {
            let body = Arc::clone(&class.condition);
            self.next();
            return Ok(Condition::Class(name, body));
        }
        let known = nearest(&name, classes.iter().map(|class| class.name.as_str()));
        let hint = known.map(|known| format!("did you mean `{known}`?"));
        let message = format!("no class `{name}` is written above");
        self.fail(&place, message, hint)
    }
}
