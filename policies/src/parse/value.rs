//! Values: counts, sizes, spans, percentages; and names given to them with `let`.

use super::token::{Placed, Token};
use super::{Parser, Read};
use crate::error::nearest;
use crate::quantity::{ByteCount, Percent, SIZE_UNITS, Span, TIME_UNITS};

/// A value with its unit.
#[derive(Debug, Clone, Copy)]
enum Value {
    Count(u64),
    Size(ByteCount),
    Span(Span),
    Percent(Percent),
}

/// A value that `let` named.
pub(super) struct Named {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) used: bool,
    value: Value,
}

/// A value as it stood in the text: the place for what may be wrong with it, and the token behind
/// a bare number, which is usually a unit with a typing mistake.
pub(super) struct Found {
    value: Value,
    place: Placed,
}

impl Found {
    fn describe(&self) -> &'static str {
        match self.value {
            Value::Count(_) => "a number without a unit",
            Value::Size(_) => "a size",
            Value::Span(_) => "a span of time",
            Value::Percent(_) => "a percentage",
        }
    }

    fn wrong<T>(&self, parser: &mut Parser<'_>, what: &str, units: &[&str]) -> Read<T> {
        let behind = match &parser.here().token {
            Token::Word(word) if matches!(self.value, Value::Count(_)) => {
                nearest(word, units.iter().copied())
            }
            _ => None,
        };
        let hint = behind.map(|unit| format!("did you mean the unit `{unit}`?"));
        let message = format!("expected {what}, found {}", self.describe());
        parser.fail(&self.place, message, hint)
    }

    /// As a span of time.
    pub(super) fn span(&self, parser: &mut Parser<'_>) -> Read<Span> {
        match self.value {
            Value::Span(span) => Ok(span),
            _ => self.wrong(
                parser,
                "a span of time such as `10 min`",
                &TIME_UNITS.map(|(name, _)| name),
            ),
        }
    }
}

impl Parser<'_> {
    /// `let NAME = VALUE`
    pub(super) fn let_value(&mut self) -> Read<()> {
        let line = self.here().line;
        self.next();
        let place = self.here().clone();
        let name = self.new_name("a name for the value")?;
        if is_unit(&name) {
            return self.fail(&place, format!("`{name}` is the name of a unit"), None);
        }
        if self.values.iter().any(|value| value.name == name) {
            return self.fail(&place, format!("value `{name}` is there already"), None);
        }
        self.sign("=")?;
        let found = self.value()?;
        self.values.push(Named {
            name,
            line,
            used: false,
            value: found.value,
        });
        Ok(())
    }

    /// A number with its unit, or a name.
    pub(super) fn value(&mut self) -> Read<Found> {
        let place = self.here().clone();
        let value = match &place.token {
            Token::Number { digits, decimals } => {
                self.next();
                self.with_unit(&place, *digits, *decimals)?
            }
            Token::Word(word) => {
                let Some(named) = self.values.iter_mut().find(|value| value.name == *word) else {
                    let names: Vec<String> = self.values.iter().map(|v| v.name.clone()).collect();
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    return self.expected("a number or a value named by `let` above", &names);
                };
                named.used = true;
                let value = named.value;
                self.next();
                value
            }
            _ => return self.expected("a number", &[]),
        };
        Ok(Found { value, place })
    }

    fn with_unit(&mut self, place: &Placed, digits: u64, decimals: u32) -> Read<Value> {
        let scale = 10_u64.saturating_pow(decimals);
        let scaled = |unit: u64| {
            let exact = u128::from(digits) * u128::from(unit) / u128::from(scale);
            u64::try_from(exact).ok()
        };
        if self.is_sign("%") {
            self.next();
            let share = scaled(100).and_then(|hundredths| u16::try_from(hundredths).ok());
            return match share.and_then(Percent::from_hundredths) {
                Some(percent) => Ok(Value::Percent(percent)),
                None => self.fail(place, "a percentage is at most 100 %".to_owned(), None),
            };
        }
        let unit = self.word().unwrap_or_default();
        if let Some(bytes) = size_unit(&unit) {
            self.next();
            return match scaled(bytes) {
                Some(size) => Ok(Value::Size(ByteCount(size))),
                None => self.fail(place, "a size is less than 16 EiB".to_owned(), None),
            };
        }
        if let Some((_, secs)) = TIME_UNITS.iter().find(|(name, _)| *name == unit) {
            self.next();
            return match scaled(*secs).and_then(Span::from_secs) {
                Some(span) => Ok(Value::Span(span)),
                None => self.fail(place, "a span is at most 100 years".to_owned(), None),
            };
        }
        if decimals > 0 {
            let message = "a number without a unit is whole".to_owned();
            return self.fail(place, message, None);
        }
        Ok(Value::Count(digits))
    }

    /// A bare number.
    pub(super) fn count(&mut self, what: &str) -> Read<u64> {
        let found = self.value()?;
        match found.value {
            Value::Count(count) => Ok(count),
            _ => found.wrong(self, &format!("a number ({what})"), &[]),
        }
    }

    /// A size.
    pub(super) fn size(&mut self) -> Read<ByteCount> {
        let found = self.value()?;
        match found.value {
            Value::Size(size) => Ok(size),
            // Nothing is nothing in any unit.
            Value::Count(0) => Ok(ByteCount(0)),
            _ => found.wrong(
                self,
                "a size such as `64 KiB`",
                &SIZE_UNITS.map(|(name, _)| name),
            ),
        }
    }

    /// A percentage.
    pub(super) fn percent(&mut self) -> Read<Percent> {
        let found = self.value()?;
        match found.value {
            Value::Percent(percent) => Ok(percent),
            _ => found.wrong(self, "a percentage such as `85 %`", &[]),
        }
    }

    /// A number of files or a size: what limits are made of.
    pub(super) fn limit_value(&mut self) -> Read<(Placed, Result<ByteCount, u64>)> {
        let found = self.value()?;
        match found.value {
            Value::Size(size) => Ok((found.place, Ok(size))),
            Value::Count(files) => Ok((found.place, Err(files))),
            _ => found.wrong(self, "a number of files or a size", &[]),
        }
    }
}

fn size_unit(word: &str) -> Option<u64> {
    let unit = SIZE_UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(word));
    unit.map(|(_, bytes)| *bytes)
}

fn is_unit(word: &str) -> bool {
    size_unit(word).is_some() || TIME_UNITS.iter().any(|(name, _)| *name == word)
}
