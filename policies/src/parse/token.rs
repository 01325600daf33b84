//! Text into tokens. Total: what is no token becomes [`Token::Bad`] and a problem, and reading goes on.

use crate::error::Problem;

/// Longest word, number or quoted text is bounded by the text itself; this bounds the text.
const LARGEST_TEXT: usize = 1 << 20;

/// What stands in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// Letters, digits, `-`, `_`, `.`, beginning with a letter or `_`.
    Word(String),
    /// A decimal number: `digits / 10^decimals`.
    Number { digits: u64, decimals: u32 },
    /// A quoted text.
    Text(String),
    /// `( ) , % = < <= > >=`
    Sign(&'static str),
    /// Reported already.
    Bad,
    /// The end of the text.
    End,
}

/// A token and its place.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) token: Token,
    /// From 1.
    pub(super) line: usize,
    /// In characters, from 1.
    pub(super) column: usize,
    /// In characters, at least 1.
    pub(super) width: usize,
    /// First on its line.
    pub(super) first: bool,
}

/// All tokens of a text, the last one [`Token::End`], and what was wrong.
pub(super) fn tokens(text: &str) -> (Vec<Placed>, Vec<Problem>) {
    let mut reader = Reader::default();
    if text.len() > LARGEST_TEXT {
        reader.problem(1, 1, "", "a policy has at most 1 MiB of text".to_owned());
        reader.end(1, 1);
        return (reader.tokens, reader.problems);
    }
    let (mut last_line, mut last_column) = (1, 1);
    for (i, line) in text.lines().enumerate() {
        reader.line(i + 1, line);
        // The end is reported behind the last line that says something.
        if reader
            .tokens
            .last()
            .is_some_and(|token| token.line == i + 1)
        {
            (last_line, last_column) = (i + 1, line.trim_end().chars().count() + 1);
        }
    }
    reader.end(last_line, last_column);
    (reader.tokens, reader.problems)
}

#[derive(Default)]
struct Reader {
    tokens: Vec<Placed>,
    problems: Vec<Problem>,
}

impl Reader {
    fn problem(&mut self, line: usize, column: usize, text: &str, message: String) {
        self.problems.push(Problem {
            line,
            column,
            width: 1,
            text: text.to_owned(),
            message,
            hint: None,
        });
    }

    fn end(&mut self, line: usize, column: usize) {
        self.tokens.push(Placed {
            token: Token::End,
            line,
            column,
            width: 1,
            first: true,
        });
    }

    fn line(&mut self, number: usize, line: &str) {
        let chars: Vec<char> = line.chars().collect();
        let (mut at, mut first) = (0, true);
        while let Some(&c) = chars.get(at) {
            // A byte order mark is what some editors put before the first line.
            if c.is_whitespace() || (c == '\u{feff}' && number == 1 && at == 0) {
                at += 1;
                continue;
            }
            if c == '#' {
                return;
            }
            let rest = chars.get(at..).unwrap_or_default();
            let (token, width) = match read(rest) {
                Ok(found) => found,
                Err((message, width)) => {
                    self.problem(number, at + 1, line, message);
                    (Token::Bad, width)
                }
            };
            self.tokens.push(Placed {
                token,
                line: number,
                column: at + 1,
                width,
                first,
            });
            first = false;
            at += width.max(1);
        }
    }
}

/// One token at the beginning of `chars` (not empty) and its width, or what is wrong and how far.
fn read(chars: &[char]) -> Result<(Token, usize), (String, usize)> {
    let c = chars.first().copied().unwrap_or(' ');
    if c.is_ascii_alphabetic() || c == '_' {
        let width = run(chars, |c| {
            c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
        });
        return Ok((Token::Word(chars.iter().take(width).collect()), width));
    }
    if c.is_ascii_digit() {
        return number(chars);
    }
    if c == '"' {
        return quoted(chars);
    }
    let double = match chars {
        ['<', '=', ..] => Some("<="),
        ['>', '=', ..] => Some(">="),
        _ => None,
    };
    if let Some(sign) = double {
        return Ok((Token::Sign(sign), 2));
    }
    let sign = match c {
        '(' => "(",
        ')' => ")",
        ',' => ",",
        '%' => "%",
        '=' => "=",
        '<' => "<",
        '>' => ">",
        _ => {
            let width = run(chars, |other| other == c);
            return Err((format!("{c:?} means nothing here"), width.max(1)));
        }
    };
    Ok((Token::Sign(sign), 1))
}

fn run(chars: &[char], belongs: impl Fn(char) -> bool) -> usize {
    chars.iter().take_while(|c| belongs(**c)).count()
}

fn number(chars: &[char]) -> Result<(Token, usize), (String, usize)> {
    let whole = run(chars, |c| c.is_ascii_digit());
    let fraction = match chars.get(whole..) {
        Some(['.', rest @ ..]) => run(rest, |c| c.is_ascii_digit()),
        _ => 0,
    };
    let width = if fraction > 0 {
        whole + 1 + fraction
    } else {
        whole
    };
    let decimals = u32::try_from(fraction).unwrap_or(u32::MAX);
    let digits: String = chars.iter().take(width).filter(|c| **c != '.').collect();
    match digits.parse() {
        Ok(digits) if decimals <= 9 => Ok((Token::Number { digits, decimals }, width)),
        _ => Err(("number too large or with too many digits".to_owned(), width)),
    }
}

/// Quoted text: `\"` is a quote; any other backslash stays, for the pattern to read.
fn quoted(chars: &[char]) -> Result<(Token, usize), (String, usize)> {
    let mut text = String::new();
    let mut at = 1;
    loop {
        match (chars.get(at).copied(), chars.get(at + 1).copied()) {
            (Some('\\'), Some('"')) => {
                text.push('"');
                at += 2;
            }
            (Some('\\'), Some(next)) => {
                text.extend(['\\', next]);
                at += 2;
            }
            (Some('"'), _) => return Ok((Token::Text(text), at + 1)),
            (Some(c), _) => {
                text.push(c);
                at += 1;
            }
            (None, _) => return Err(("this quote has no end on its line".to_owned(), at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<Token> {
        tokens(text).0.into_iter().map(|t| t.token).collect()
    }

    #[test]
    fn words_numbers_and_signs() {
        let word = |w: &str| Token::Word(w.to_owned());
        let expected = [
            word("by-watermark"),
            Token::Sign(">="),
            Token::Number {
                digits: 855,
                decimals: 1,
            },
            Token::Sign("%"),
            Token::Number {
                digits: 64,
                decimals: 0,
            },
            word("KiB"),
            Token::End,
        ];
        assert_eq!(kinds("by-watermark >= 85.5% 64KiB # rest"), expected);
    }

    #[test]
    fn quotes_keep_the_patterns_backslashes() {
        let texts = [
            (r#""a\"b""#, "a\"b"),
            (r#""a\*b""#, r"a\*b"),
            (r#""a\\""#, r"a\\"),
        ];
        for (text, inner) in texts {
            assert_eq!(kinds(text), [Token::Text(inner.to_owned()), Token::End]);
        }
    }

    #[test]
    fn places_are_counted_in_characters() {
        let (placed, problems) = tokens("a\n  \u{e9} \"x");
        let places: Vec<_> = placed.iter().map(|t| (t.line, t.column, t.first)).collect();
        assert_eq!(
            places,
            [(1, 1, true), (2, 3, true), (2, 5, false), (2, 7, true)]
        );
        assert_eq!(problems.len(), 2);
    }

    #[test]
    fn too_much_text_is_refused() {
        let (placed, problems) = tokens(&"a ".repeat(LARGEST_TEXT));
        assert_eq!((placed.len(), problems.len()), (1, 1));
    }
}
