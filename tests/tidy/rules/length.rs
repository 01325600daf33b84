//! Files and functions stay short enough to be read whole.

use super::Source;

const FILE: usize = 700;
const MEDIAN: usize = 200;
const FUNCTION: usize = 80;

pub(crate) fn check(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut lengths = Vec::new();
    for source in sources {
        let lines = source.text.lines().count();
        lengths.push(lines);
        if lines > FILE {
            complaints.push(format!(
                "{}: {lines} lines; at most {FILE}. Which noun inside wants its own file?",
                source.path
            ));
        }
        complaints.extend(functions(source));
    }
    lengths.sort_unstable();
    let median = lengths.get(lengths.len() / 2).copied().unwrap_or(0);
    if median > MEDIAN {
        complaints.push(format!(
            "the median file has {median} lines; at most {MEDIAN}. Split the long ones"
        ));
    }
    complaints
}

/// A function of a trait without a body: its head ends in `;`.
fn is_declaration(from: &[&str]) -> bool {
    let end = from.iter().find(|l| l.ends_with('{') || l.ends_with(';'));
    end.is_some_and(|l| l.ends_with(';'))
}

/// Functions by rustfmt's shape: from a line with `fn` to the `}` at the same indentation.
fn functions(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    let lines: Vec<&str> = source.text.lines().collect();
    for (start, line) in lines.iter().enumerate() {
        let body = line.trim_start();
        let is_fn = body.split_whitespace().take(5).any(|w| w == "fn") && !body.starts_with("//");
        if !is_fn || body.ends_with(';') || body.ends_with('}') {
            continue;
        }
        if is_declaration(&lines[start..]) {
            continue;
        }
        let indent = &line[..line.len() - body.len()];
        let close = format!("{indent}}}");
        let Some(length) = lines[start..].iter().position(|l| **l == *close) else {
            continue;
        };
        if length + 1 > FUNCTION {
            complaints.push(format!(
                "{}:{}: a function of {} lines; at most {FUNCTION}. Name its steps",
                source.path,
                start + 1,
                length + 1
            ));
        }
    }
    complaints
}
