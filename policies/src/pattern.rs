//! Globs over paths and names. They match bytes, so a name that is no UTF-8 is a name like any
//! other; `*` and `?` never cross a `/`, `**` does.

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};
use std::fmt;
use std::sync::Arc;

/// Longest pattern, in bytes: longer ones are mistakes, and compiling them takes memory.
const LONGEST: usize = 1024;

/// A glob, compiled once. Equal to another with the same text.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    matcher: Arc<GlobSet>,
}

impl Pattern {
    /// Compiles a glob; the error says what is wrong with it.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("an empty pattern matches nothing".to_owned());
        }
        if text.len() > LONGEST {
            return Err(format!("a pattern has at most {LONGEST} bytes"));
        }
        if text.contains(['\n', '\r', '\0']) {
            return Err("a pattern stays on one line and has no NUL".to_owned());
        }
        let glob = GlobBuilder::new(text)
            .literal_separator(true)
            .backslash_escape(true)
            .build()
            .map_err(|error| format!("not a pattern: {}", error.kind()))?;
        // A set of one, because compiling a single matcher panics where a set returns an error.
        let matcher = GlobSetBuilder::new()
            .add(glob)
            .build()
            .map_err(|error| format!("pattern too complex: {}", error.kind()))?;
        Ok(Self {
            text: text.to_owned(),
            matcher: Arc::new(matcher),
        })
    }

    /// The glob as written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Does it match all of these bytes?
    #[must_use]
    pub fn matches(&self, bytes: &[u8]) -> bool {
        self.matcher
            .is_match_candidate(&Candidate::from_bytes(bytes))
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}
impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.text)
    }
}

impl fmt::Display for Pattern {
    /// In quotes, as the language reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.text.replace('"', "\\\""))
    }
}

/// The last component of a path.
pub(crate) fn name_of(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_bytes_and_keep_to_their_level() {
        let below = Pattern::new("tmp/**").unwrap();
        assert!(below.matches(b"tmp/a/b"));
        assert!(!below.matches(b"x/tmp/a"));
        let objects = Pattern::new("*.o").unwrap();
        assert!(objects.matches(b"\xff\xfe.o"));
        assert!(!objects.matches(b"a/b.o"), "a star stays within its level");
        assert_eq!(name_of(b"a/b/\xff.o"), b"\xff.o");
        assert_eq!(name_of(b"b"), b"b");
    }

    #[test]
    fn bad_globs_say_why() {
        for bad in ["", "[", "a{b", "x\\", "a\nb"] {
            assert!(Pattern::new(bad).is_err(), "{bad:?}");
        }
        assert!(Pattern::new(&"a".repeat(LONGEST + 1)).is_err());
    }
}
