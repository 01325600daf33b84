//! What a batch script asks of the archive: `#CAIRN` lines, parsed into a value. Pure: text in, value or
//! mistakes out.
//!
//! ```text
//! #CAIRN stage_in PATH|GLOB|@LISTFILE [pin=DUR]
//! #CAIRN stage_out PATH archive=TIER
//! #CAIRN optional stage_in|stage_out ...
//! ```
//!
//! As with `#SBATCH`: a directive begins in the first column, and the first line that is neither empty
//! nor a comment ends them. A word is quoted as in a shell (`'...'`, `"..."`, `\`), and a `#` before a
//! word begins a comment. Nothing is expanded but globs.

mod words;

use crate::config::hint;
use crate::config::units::{format_duration, parse_duration};
use std::time::Duration;
use words::{Mistake, Word, split};

/// What directives begin with.
pub(crate) const MARK: &str = "#CAIRN";
/// Longest time that a job may pin files.
pub(crate) const LONGEST_PIN: Duration = Duration::from_secs(30 * 24 * 3600);
/// Most directives in one script: more belong in a list.
const MOST: usize = 1000;

const VERBS: [&str; 3] = ["stage_in", "stage_out", "optional"];

/// All that a script asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Directives {
    /// In the order of their lines.
    pub(crate) all: Vec<Directive>,
    /// Lines that look like directives and are none, with why.
    pub(crate) ignored: Vec<Ignored>,
}

/// One directive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directive {
    /// Its line, from 1.
    pub(crate) line: usize,
    /// The job runs also if it cannot be done.
    pub(crate) optional: bool,
    /// What is asked.
    pub(crate) what: What,
}

/// What a directive asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// On disk before the job starts.
    StageIn {
        /// What.
        source: Source,
        /// How long it stays at most, from the beginning of staging on.
        pin: Option<Duration>,
    },
    /// Archived when the job has ended.
    StageOut {
        /// What.
        path: Vec<u8>,
        /// Where to.
        tier: String,
    },
}

/// Which files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file, or a directory with all below it.
    Path(Vec<u8>),
    /// What a pattern matches; what was quoted in it is escaped by `\`.
    Glob(Vec<u8>),
    /// Paths in a file, one a line.
    List(Vec<u8>),
}

/// A line that is no directive though it looks like one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ignored {
    /// Its line, from 1.
    pub(crate) line: usize,
    /// Why.
    pub(crate) why: &'static str,
}

/// A mistake in a directive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub(crate) struct Wrong {
    /// Its line, from 1.
    pub(crate) line: usize,
    /// Its column, from 1, in characters.
    pub(crate) column: usize,
    /// What is wrong.
    pub(crate) message: String,
    /// What to write.
    pub(crate) hint: Option<String>,
}

/// The directives of a script, or all mistakes in them.
pub(crate) fn parse(script: &[u8]) -> Result<Directives, Vec<Wrong>> {
    let (mut found, mut wrong) = (Directives::default(), Vec::new());
    let mut in_head = true;
    for (number, line) in script.split(|b| *b == b'\n').enumerate() {
        let (number, line) = (number + 1, line.strip_suffix(b"\r").unwrap_or(line));
        let Some(rest) = line.strip_prefix(MARK.as_bytes()).filter(|r| begins(r)) else {
            if in_head && let Some(why) = looks_like_one(line) {
                found.ignored.push(Ignored { line: number, why });
            }
            in_head = in_head && is_comment(line);
            continue;
        };
        if !in_head {
            let why = "it stands below the first command, where sbatch reads no directives either";
            found.ignored.push(Ignored { line: number, why });
            continue;
        }
        if found.all.len() + wrong.len() >= MOST {
            wrong.push(Wrong {
                line: number,
                column: 1,
                message: format!("more than {MOST} directives"),
                hint: Some("name the files in a list: #CAIRN stage_in @LISTFILE".to_owned()),
            });
            break;
        }
        match directive(rest) {
            Ok((optional, what)) => found.all.push(Directive {
                line: number,
                optional,
                what,
            }),
            Err(mistake) => wrong.push(Wrong {
                line: number,
                column: column(line, MARK.len() + mistake.at),
                message: mistake.message,
                hint: mistake.hint,
            }),
        }
    }
    if wrong.is_empty() {
        Ok(found)
    } else {
        Err(wrong)
    }
}

/// `#CAIRN` ends here: `#CAIRNS` is a word of somebody else's.
fn begins(rest: &[u8]) -> bool {
    rest.first().is_none_or(u8::is_ascii_whitespace)
}

fn is_comment(line: &[u8]) -> bool {
    let first = line.iter().find(|b| !b.is_ascii_whitespace());
    first.is_none_or(|b| *b == b'#')
}

/// Written as people write it by mistake: `# CAIRN`, `#cairn`, with spaces before it.
fn looks_like_one(line: &[u8]) -> Option<&'static str> {
    let at = line.iter().position(|b| !b.is_ascii_whitespace())?;
    let rest = line[at..].strip_prefix(b"#")?;
    let spaces = rest.iter().take_while(|b| **b == b' ').count();
    let word = rest[spaces..].get(..5)?;
    let follows = rest[spaces..].get(5..).unwrap_or_default();
    let verb = follows.trim_ascii_start();
    let is_verb = VERBS.iter().any(|v| verb.starts_with(v.as_bytes()));
    (word.eq_ignore_ascii_case(b"CAIRN") && begins(follows) && is_verb)
        .then_some("a directive begins with #CAIRN in the first column")
}

/// The column, in characters from 1, of a byte in a line.
fn column(line: &[u8], at: usize) -> usize {
    let before = &line[..at.min(line.len())];
    1 + before.iter().filter(|b| (**b & 0xc0) != 0x80).count()
}

fn directive(rest: &[u8]) -> Result<(bool, What), Mistake> {
    let words = split(rest)?;
    let mut words = words.iter().peekable();
    let optional = words.next_if(|w| w.text() == "optional").is_some();
    let Some(verb) = words.next() else {
        let message = "nothing is asked for".to_owned();
        return Err(Mistake::new(rest.len(), message).hint("write #CAIRN stage_in PATH"));
    };
    let rest: Vec<&Word> = words.collect();
    let what = match &*verb.text() {
        "stage_in" => stage_in(verb, &rest)?,
        "stage_out" => stage_out(verb, &rest)?,
        other => {
            let message = format!("unknown directive {other:?}{}", hint(other, &VERBS));
            return Err(Mistake::new(verb.at, message));
        }
    };
    Ok((optional, what))
}

fn stage_in(verb: &Word, words: &[&Word]) -> Result<What, Mistake> {
    const FORM: &str = "write #CAIRN stage_in PATH|GLOB|@LISTFILE [pin=DUR]";
    let (named, options) = named(verb, words, FORM)?;
    let source = if named.begins_bare(b'@') {
        let path = plain(&named.without_first())?;
        if path.is_empty() {
            let message = "the list's name is missing behind @".to_owned();
            return Err(Mistake::new(named.at, message).hint(FORM));
        }
        Source::List(path)
    } else if named.has_bare(b"*?[") {
        expands_nothing_else(named)?;
        Source::Glob(named.pattern())
    } else {
        Source::Path(plain(named)?)
    };
    let mut pin = None;
    for (name, value, word) in read(options, &["pin"], FORM)? {
        debug_assert_eq!(name, "pin");
        let time = parse_duration(&value).map_err(|why| {
            Mistake::new(word.at, why.to_string()).hint("write a time as 12h or 7d")
        })?;
        if time.is_zero() || time > LONGEST_PIN {
            let most = format_duration(LONGEST_PIN);
            let message = format!("pin={value}: a job pins for at least 1s and at most {most}");
            return Err(Mistake::new(word.at, message));
        }
        pin = Some(time);
    }
    Ok(What::StageIn { source, pin })
}

fn stage_out(verb: &Word, words: &[&Word]) -> Result<What, Mistake> {
    const FORM: &str = "write #CAIRN stage_out PATH archive=TIER";
    let (named, options) = named(verb, words, FORM)?;
    if named.has_bare(b"*?[") {
        let message = "stage_out takes one path, and no pattern".to_owned();
        let hint = "name the directory (all below it is archived), or quote the name";
        return Err(Mistake::new(named.at, message).hint(hint));
    }
    let path = plain(named)?;
    let mut tier = None;
    for (_, value, word) in read(options, &["archive"], FORM)? {
        if value.is_empty() {
            let message = "archive= names no tier".to_owned();
            return Err(Mistake::new(word.at, message).hint("cairn status lists the tiers"));
        }
        tier = Some(value);
    }
    let Some(tier) = tier else {
        let message = "it is not said where to: archive=TIER is missing".to_owned();
        return Err(Mistake::new(verb.at, message).hint(FORM));
    };
    Ok(What::StageOut { path, tier })
}

/// The word that names files, and what follows it.
fn named<'a>(
    verb: &Word,
    words: &'a [&'a Word],
    form: &'static str,
) -> Result<(&'a Word, &'a [&'a Word]), Mistake> {
    match words.split_first() {
        Some((named, options)) if !named.is_empty() => Ok((named, options)),
        Some((empty, _)) => Err(Mistake::new(empty.at, "an empty path".to_owned()).hint(form)),
        None => {
            let message = format!("{} names no files", verb.text());
            Err(Mistake::new(verb.at, message).hint(form))
        }
    }
}

/// A word as a path.
fn plain(word: &Word) -> Result<Vec<u8>, Mistake> {
    expands_nothing_else(word)?;
    Ok(word.bytes())
}

/// A script's author may believe that a shell reads this.
fn expands_nothing_else(word: &Word) -> Result<(), Mistake> {
    let message = if word.begins_bare(b'~') {
        "~ is not expanded here"
    } else if word.has_bare(b"$`") {
        "variables are not expanded here"
    } else {
        return Ok(());
    };
    let hint = "write the whole path, or quote it with '...' if it is the name's own";
    Err(Mistake::new(word.at, message.to_owned()).hint(hint))
}

/// `name=value` words, each of them known and given once.
fn read<'a>(
    options: &[&'a Word],
    known: &[&'static str],
    form: &'static str,
) -> Result<Vec<(&'static str, String, &'a Word)>, Mistake> {
    let mut found: Vec<(&'static str, String, &Word)> = Vec::new();
    for word in options {
        let text = word.text();
        let Some((name, value)) = text.split_once('=') else {
            let message = format!("{text:?} is one word too many");
            let hint = "one path a line; a path with spaces is quoted: 'a b'";
            return Err(Mistake::new(word.at, message).hint(hint));
        };
        let Some(name) = known.iter().find(|k| **k == name) else {
            let message = format!("unknown option {name:?}{}", hint(name, known));
            return Err(Mistake::new(word.at, message).hint(form));
        };
        if found.iter().any(|(given, ..)| given == name) {
            return Err(Mistake::new(word.at, format!("{name}= is given twice")));
        }
        found.push((name, value.to_owned(), word));
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
