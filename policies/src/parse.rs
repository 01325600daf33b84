//! Tokens into a policy. After a mistake, reading goes on at the next line that begins a
//! statement, so that several mistakes are reported at once.

mod condition;
mod rule;
mod token;
mod value;

use crate::condition::Condition;
use crate::error::{MOST_PROBLEMS, ParseError, Problem, nearest};
use crate::policy::{Class, Origin, Policy, Settings};
use crate::quantity::Span;
use std::sync::Arc;
use token::{Placed, Token};
use value::Named;

/// Words that begin a statement.
const STATEMENTS: [&str; 5] = ["rule", "class", "copies", "keep-staged", "let"];

/// Words of the language that cannot name a rule, a class or a value.
const RESERVED: [&str; 47] = [
    "rule",
    "class",
    "copies",
    "keep-staged",
    "let",
    "when",
    "every",
    "above",
    "down",
    "to",
    "order",
    "limit",
    "per",
    "run",
    "manual",
    "never",
    "and",
    "or",
    "not",
    "archive",
    "release",
    "stage",
    "remove",
    "repack",
    "path",
    "name",
    "size",
    "owner",
    "group",
    "links",
    "state",
    "is",
    "flag",
    "accessed",
    "modified",
    "changed",
    "unchanged",
    "for",
    "within",
    "new",
    "dirty",
    "archived",
    "released",
    "lost",
    "files",
    "first",
    "any",
];

/// A statement could not be read; the problem is noted.
#[derive(Debug)]
struct Failed;

/// What reading yields.
type Read<T> = Result<T, Failed>;

struct Parser<'t> {
    lines: Vec<&'t str>,
    tokens: Vec<Placed>,
    at: usize,
    problems: Vec<Problem>,
    values: Vec<Named>,
    policy: Policy,
    /// Settings seen so far, to refuse a second one.
    set: Vec<&'static str>,
}

/// See [`Policy::parse`].
pub(crate) fn parse(source_name: &str, text: &str) -> Result<Policy, ParseError> {
    let (tokens, problems) = token::tokens(text);
    let mut parser = Parser {
        lines: text.lines().collect(),
        tokens,
        at: 0,
        problems,
        values: Vec::new(),
        policy: Policy {
            settings: Settings::default(),
            classes: Vec::new(),
            rules: Vec::new(),
            origin: Origin {
                source_name: source_name.to_owned(),
                ..Origin::default()
            },
        },
        set: Vec::new(),
    };
    while parser.here().token != Token::End {
        let start = parser.at;
        if parser.statement().is_err() {
            parser.skip_statement(start);
        }
    }
    parser.finish(source_name)
}

impl Parser<'_> {
    fn finish(mut self, source_name: &str) -> Result<Policy, ParseError> {
        if self.problems.is_empty() {
            let unused = self.values.iter().filter(|value| !value.used);
            self.policy.origin.unused = unused.map(|v| (v.name.clone(), v.line)).collect();
            return Ok(self.policy);
        }
        self.problems
            .sort_by_key(|problem| (problem.line, problem.column));
        self.problems.truncate(MOST_PROBLEMS);
        Err(ParseError {
            source_name: source_name.to_owned(),
            problems: self.problems,
        })
    }

    fn statement(&mut self) -> Read<()> {
        let place = self.here().clone();
        match self.word().as_deref() {
            Some("rule") => self.rule(),
            Some("class") => self.class(),
            Some("let") => self.let_value(),
            Some("copies") => {
                self.once("copies", &place)?;
                self.next();
                let count_at = self.here().clone();
                let copies = self.count("how many copies")?;
                match u32::try_from(copies) {
                    Ok(copies @ 1..=Settings::MOST_COPIES) => self.policy.settings.copies = copies,
                    _ => {
                        let most = Settings::MOST_COPIES;
                        return self.fail(&count_at, format!("copies are 1 to {most}"), None);
                    }
                }
                Ok(())
            }
            Some("keep-staged") => {
                self.once("keep-staged", &place)?;
                self.next();
                self.policy.settings.keep_staged = self.span()?;
                Ok(())
            }
            _ => self.expected(
                "a statement (`rule`, `class`, `let` or a setting)",
                &STATEMENTS,
            ),
        }
    }

    fn once(&mut self, setting: &'static str, place: &Placed) -> Read<()> {
        if self.set.contains(&setting) {
            return self.fail(place, format!("`{setting}` is set a second time"), None);
        }
        self.set.push(setting);
        Ok(())
    }

    fn class(&mut self) -> Read<()> {
        let line = self.here().line;
        self.next();
        let place = self.here().clone();
        let name = self.new_name("a name for the class")?;
        if self.policy.classes.iter().any(|class| class.name == name) {
            return self.fail(&place, format!("class `{name}` is there already"), None);
        }
        let condition = self.sign("=").and_then(|()| self.condition());
        // Known even if its body is not, so that its uses are not reported as well.
        let failed = condition.is_err();
        self.policy.classes.push(Class {
            name,
            condition: Arc::new(condition.unwrap_or(Condition::ANY_FILE)),
        });
        self.policy.origin.class_lines.push(line);
        if failed { Err(Failed) } else { Ok(()) }
    }

    /// On to the next line that begins a statement, behind the failed one that began at `start`.
    fn skip_statement(&mut self, start: usize) {
        if self.at == start {
            self.next();
        }
        while self.here().token != Token::End && !self.begins_statement() {
            self.next();
        }
    }

    /// Here a statement begins: one of its words, first on a line, and not behind a word that
    /// wants a condition (`class` and `copies` are conditions too).
    fn begins_statement(&self) -> bool {
        let here = self.here();
        let open = match self.at.checked_sub(1).and_then(|at| self.tokens.get(at)) {
            Some(Placed {
                token: Token::Word(word),
                ..
            }) => matches!(word.as_str(), "and" | "or" | "not" | "when"),
            Some(Placed { token, .. }) => matches!(token, Token::Sign("(" | "=")),
            None => false,
        };
        here.first && self.is_statement_word() && !open
    }

    fn is_statement_word(&self) -> bool {
        matches!(&self.here().token, Token::Word(word) if STATEMENTS.contains(&word.as_str()))
    }

    fn here(&self) -> &Placed {
        self.ahead(0)
    }

    fn ahead(&self, by: usize) -> &Placed {
        const END: &Placed = &Placed {
            token: Token::End,
            line: 1,
            column: 1,
            width: 1,
            first: true,
        };
        self.tokens
            .get(self.at.saturating_add(by))
            .or_else(|| self.tokens.last())
            .unwrap_or(END)
    }

    fn next(&mut self) {
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
    }

    /// The word that stands here, if one does.
    fn word(&self) -> Option<String> {
        match &self.here().token {
            Token::Word(word) => Some(word.clone()),
            _ => None,
        }
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(&self.here().token, Token::Word(here) if here == word)
    }

    fn is_sign(&self, sign: &str) -> bool {
        matches!(self.here().token, Token::Sign(here) if here == sign)
    }

    /// Steps over this word if it stands here.
    fn take_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        if found {
            self.next();
        }
        found
    }

    fn keyword(&mut self, word: &'static str) -> Read<()> {
        if self.take_word(word) {
            return Ok(());
        }
        self.expected(&format!("`{word}`"), &[word])
    }

    fn sign(&mut self, sign: &'static str) -> Read<()> {
        if self.is_sign(sign) {
            self.next();
            return Ok(());
        }
        self.expected(&format!("`{sign}`"), &[])
    }

    /// A word that is free to be a name.
    fn new_name(&mut self, what: &str) -> Read<String> {
        match self.word() {
            Some(word) if RESERVED.contains(&word.as_str()) => {
                let place = self.here().clone();
                let message = format!("expected {what}, but `{word}` is a word of the language");
                self.fail(&place, message, None)
            }
            Some(word) => {
                self.next();
                Ok(word)
            }
            None => self.expected(what, &[]),
        }
    }

    /// Notes that something else should stand here.
    fn expected<T>(&mut self, what: &str, words: &[&str]) -> Read<T> {
        let place = self.here().clone();
        let (found, hint) = match &place.token {
            Token::Bad => return Err(Failed),
            Token::Word(word) => {
                let meant = nearest(word, words.iter().copied());
                let hint = meant.map(|known| format!("did you mean `{known}`?"));
                (format!("`{word}`"), hint)
            }
            Token::Number { .. } => ("a number".to_owned(), None),
            Token::Text(_) => ("a quoted text".to_owned(), None),
            Token::Sign(sign) => (format!("`{sign}`"), None),
            Token::End => ("the end of the text".to_owned(), None),
        };
        self.fail(&place, format!("expected {what}, found {found}"), hint)
    }

    fn fail<T>(&mut self, place: &Placed, message: String, hint: Option<String>) -> Read<T> {
        let text = place.line.checked_sub(1).and_then(|i| self.lines.get(i));
        self.problems.push(Problem {
            line: place.line,
            column: place.column,
            width: place.width,
            text: text.copied().unwrap_or_default().to_owned(),
            message,
            hint,
        });
        Err(Failed)
    }

    /// A span of time.
    fn span(&mut self) -> Read<Span> {
        self.value()?.span(self)
    }
}

#[cfg(test)]
mod tests;
