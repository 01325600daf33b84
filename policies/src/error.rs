//! Mistakes in a policy's text: where, what was expected, and what was probably meant.

use std::fmt;

/// Widest piece of a line that is quoted, in characters.
const QUOTED: usize = 120;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Characters that are marked, at least 1.
    pub width: usize,
    /// The line as it stands in the text.
    pub text: String,
    /// What is wrong.
    pub message: String,
    /// What to do, where that can be told.
    pub hint: Option<String>,
}

/// Everything that is wrong with a policy's text, in the order of the text. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", Report(self))]
pub struct ParseError {
    /// What the text is called.
    pub source_name: String,
    /// The mistakes.
    pub problems: Vec<Problem>,
}

/// Most problems that are reported at once.
pub(crate) const MOST_PROBLEMS: usize = 20;

struct Report<'a>(&'a ParseError);

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.problems.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            let Problem { line, column, .. } = problem;
            let name = &self.0.source_name;
            writeln!(f, "{name}:{line}:{column}: {}", problem.message)?;
            quote(f, problem)?;
            if let Some(hint) = &problem.hint {
                write!(f, "\n  hint: {hint}")?;
            }
        }
        if self.0.problems.len() >= MOST_PROBLEMS {
            write!(f, "\n(more problems may follow these)")?;
        }
        Ok(())
    }
}

/// The line with a caret under the place; of a long line, the piece around it.
fn quote(f: &mut fmt::Formatter<'_>, problem: &Problem) -> fmt::Result {
    let start = if problem.text.chars().nth(QUOTED).is_some() {
        problem.column.saturating_sub(1).saturating_sub(QUOTED / 2)
    } else {
        0
    };
    let shown: String = problem
        .text
        .chars()
        .skip(start)
        .take(QUOTED)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let number = problem.line.to_string();
    writeln!(f, "  {number} | {}", shown.trim_end())?;
    let before = problem.column.saturating_sub(1).saturating_sub(start);
    let carets = "^".repeat(problem.width.clamp(1, QUOTED.saturating_sub(before).max(1)));
    let margin = " ".repeat(number.len());
    write!(f, "  {margin} | {}{carets}", " ".repeat(before))
}

/// The known word nearest to what was written, if it is near enough to be meant.
pub(crate) fn nearest<'a>(
    written: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if written.chars().nth(63).is_some() {
        return None;
    }
    let reach = match written.chars().count() {
        0..=2 => 1,
        3..=6 => 2,
        _ => 3,
    };
    known
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(written, word), word))
        .filter(|(distance, word)| *distance <= reach && *distance < word.chars().count())
        .min()
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_word_is_near() {
        let known = ["archive", "release", "stage"];
        assert_eq!(nearest("relaese", known), Some("release"));
        assert_eq!(nearest("archiv", known), Some("archive"));
        assert_eq!(nearest("banana", known), None);
        assert_eq!(nearest(&"a".repeat(1000), known), None);
    }

    #[test]
    fn long_lines_are_cut_around_the_place() {
        let error = ParseError {
            source_name: "x".to_owned(),
            problems: vec![Problem {
                line: 1,
                column: 500,
                width: 3,
                text: format!("{}bad{}", "a".repeat(499), "c".repeat(500)),
                message: "no".to_owned(),
                hint: None,
            }],
        };
        let text = error.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.iter().all(|line| line.chars().count() < 140));
        assert_eq!(lines[1].find("bad"), lines[2].find("^^^"));
    }
}
