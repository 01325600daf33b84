//! What a program is asked and what its answers mean: verbs, names, exit codes, facts. Pure; the
//! words for people are docs/exec-protocol.md.
//!
//! Invariants kept here:
//! - Only an exit code made for it says that an object is missing. No tool, shell or signal ends with one
//!   by accident; whatever else a program ends with is a failure and says nothing of objects.
//! - A temporary's name is never an object's, and an object's never a temporary's.

use crate::id::AggregateId;
use std::collections::BTreeMap;

/// The version of the protocol that this program speaks.
pub(super) const VERSION: u32 = 1;
/// Name of the mark at the place.
pub(super) const MARK: &str = "cairn-tier.json";
/// A whole answer of `describe`, `stat` or `space` is shorter, bytes.
pub(super) const ANSWER: usize = 16 << 10;
/// A line of `list` is shorter, bytes; longer ones are no name of ours.
pub(super) const LINE: usize = 4 << 10;
/// An object is not longer: shells count in signed 64 bits.
pub(super) const LONGEST: u64 = i64::MAX as u64;

/// What a program's end says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It did what was asked.
    Done,
    /// There is no such object.
    Missing,
    /// The name is taken.
    Exists,
    /// No room.
    Full,
    /// The place as a whole cannot be reached.
    Unavailable,
    /// It failed, and may not fail again.
    Passing,
    /// The place does not give the object's bytes.
    Damaged,
    /// The place does not let us.
    Refused,
    /// It does not know the verb.
    Unknown,
}

/// The exit codes that mean something of their own, the word for each, and what is said of them.
pub(super) const CODES: [(i32, Verdict, &str); 11] = [
    (0, Verdict::Done, "done"),
    (111, Verdict::Missing, "no such object"),
    (112, Verdict::Exists, "the name is taken"),
    (113, Verdict::Full, "no room"),
    (114, Verdict::Unavailable, "the place cannot be reached"),
    (115, Verdict::Passing, "it failed and may be tried again"),
    (116, Verdict::Damaged, "the object cannot be read"),
    (117, Verdict::Refused, "the place does not let us"),
    (118, Verdict::Unknown, "the verb is not known"),
    (126, Verdict::Unavailable, "a command in it cannot be run"),
    (127, Verdict::Unavailable, "a command in it is not there"),
];

impl Verdict {
    /// What an exit code says.
    pub(super) fn of(code: i32) -> Self {
        CODES
            .iter()
            .find(|(known, ..)| *known == code)
            .map_or(Self::Passing, |(_, verdict, _)| *verdict)
    }
}

/// The words for an exit code.
pub(super) fn said(code: i32) -> String {
    match CODES.iter().find(|(known, ..)| *known == code) {
        Some((_, _, words)) => format!("exit code {code}: {words}"),
        None => format!("exit code {code}"),
    }
}

/// How `commit` makes an object of a temporary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Commit {
    /// The same bytes under another name.
    Renames,
    /// Copied: what was proven of the temporary is proven once more of the object.
    Copies,
}

/// What a program says of itself and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// `get` begins where it is told to.
    pub(super) ranges: bool,
    pub(super) commit: Commit,
    /// The longest object, bytes.
    pub(super) longest: Option<u64>,
    /// Seconds until the first byte of a usual `get`.
    pub(super) first_byte: Option<u64>,
}

/// Reads the answer of `describe`; the error says what is wrong with it.
pub(super) fn facts(answer: &[u8]) -> Result<Facts, String> {
    let text = std::str::from_utf8(answer).map_err(|_| "describe: not UTF-8".to_owned())?;
    let mut lines = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| format!("describe: {line:?} is no key=value"))?;
        if lines.insert(key.trim(), value.trim()).is_some() {
            return Err(format!("describe: {key:?} is said twice"));
        }
    }
    let spoken = lines.get("protocol").copied().unwrap_or_default();
    if !spoken.split(',').any(|v| v.trim() == VERSION.to_string()) {
        return Err(format!(
            "describe: protocol={spoken:?}; this Cairn speaks {VERSION}"
        ));
    }
    let choice = |key: &str, yes: &str, no: &str| match lines.get(key).copied() {
        Some(value) if value == yes => Ok(true),
        Some(value) if value == no => Ok(false),
        Some(value) => Err(format!("describe: {key}={value:?}; write {yes} or {no}")),
        None => Err(format!("describe: {key}= is missing; write {yes} or {no}")),
    };
    let number = |key: &str| match lines.get(key).copied() {
        None | Some("-") => Ok(None),
        Some(value) => value
            .parse::<u64>()
            .map(Some)
            .map_err(|_| format!("describe: {key}={value:?} is no number")),
    };
    let longest = number("longest")?;
    if longest == Some(0) {
        return Err("describe: longest=0 would take no object".to_owned());
    }
    Ok(Facts {
        ranges: choice("ranges", "yes", "no")?,
        commit: if choice("commit", "rename", "copy")? {
            Commit::Renames
        } else {
            Commit::Copies
        },
        longest,
        first_byte: number("first-byte")?,
    })
}

/// Reads the answer of `stat`: the length in bytes.
pub(super) fn length(answer: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(answer).ok()?;
    let length = text.trim_end_matches('\n').parse().ok()?;
    // A sign or spaces before it parse nowhere else.
    (length <= LONGEST && !text.starts_with('+')).then_some(length)
}

/// Reads the answer of `space`: free and total bytes, `-` where that is not known.
pub(super) fn space(answer: &[u8]) -> Option<(Option<u64>, Option<u64>)> {
    let text = std::str::from_utf8(answer).ok()?;
    let number = |word: &str| match word {
        "-" => Some(None),
        word => word.parse().ok().map(Some),
    };
    let mut words = text.split_ascii_whitespace();
    let free: Option<u64> = number(words.next()?)?;
    let total: Option<u64> = number(words.next()?)?;
    let fits = !matches!((free, total), (Some(free), Some(total)) if free > total);
    (words.next().is_none() && fits).then_some((free, total))
}

/// An object's name at the place.
pub(super) fn object(prefix: &str, name: AggregateId) -> String {
    format!("{prefix}{name}.tar")
}

/// The object of a name at the place, if it is one of ours.
pub(super) fn parse_object(prefix: &str, name: &str) -> Option<AggregateId> {
    name.strip_prefix(prefix)?
        .strip_suffix(".tar")?
        .parse()
        .ok()
}

/// What temporaries' names begin with, behind the tier's prefix.
pub(super) const TEMPORARY: &str = "tmp-";

/// A temporary's name: when it was begun (seconds since 1970), a number of its own, and what it is to be.
pub(super) fn temporary(prefix: &str, begun: u64, own: u64, what: &str) -> String {
    format!("{prefix}{TEMPORARY}{begun:010x}-{own:016x}-{what}")
}

/// When a temporary was begun, seconds since 1970, if the name is one of ours.
pub(super) fn parse_temporary(prefix: &str, name: &str) -> Option<u64> {
    let rest = name.strip_prefix(prefix)?.strip_prefix(TEMPORARY)?;
    let (begun, rest) = rest.split_once('-')?;
    let (own, what) = rest.split_once('-')?;
    let hex = |s: &str| s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if begun.len() != 10 || own.len() != 16 || !hex(begun) || !hex(own) || what.is_empty() {
        return None;
    }
    u64::from_str_radix(begun, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "protocol=1\nranges=yes\ncommit=rename\n";

    #[test]
    fn what_is_not_said_with_a_code_of_its_own_is_a_failure_that_may_pass() {
        for code in 1..=255 {
            let known = CODES.iter().any(|(known, ..)| *known == code);
            assert!(
                known || Verdict::of(code) == Verdict::Passing,
                "{code} is {:?}",
                Verdict::of(code)
            );
        }
        // What hsi, ssh, rclone, sysexits and shells end with says nothing of objects.
        for code in (1..=9)
            .chain(64..=78)
            .chain([124, 126, 127, 128, 137, 143, 255])
        {
            assert!(
                matches!(Verdict::of(code), Verdict::Passing | Verdict::Unavailable),
                "{code}"
            );
        }
    }

    #[test]
    fn the_page_has_every_code_with_its_words() {
        let page = include_str!("../../../docs/exec-protocol.md");
        for (code, _, words) in CODES.iter().filter(|(code, ..)| *code < 120) {
            assert!(
                page.contains(&format!("| {code} | {words} |")),
                "{code}: {words}"
            );
        }
        assert!(page.contains("| 126, 127 | "));
    }

    #[test]
    fn facts_are_whole_or_an_error_that_names_the_line() {
        let good = facts(format!("{WHOLE}longest=-\nfirst-byte=90\nnote=x=y\n").as_bytes());
        let expected = Facts {
            ranges: true,
            commit: Commit::Renames,
            longest: None,
            first_byte: Some(90),
        };
        assert_eq!(good, Ok(expected));
        assert!(facts(WHOLE.replace("=1", "=2, 1").as_bytes()).is_ok());
        for (text, says) in [
            ("", "protocol"),
            ("protocol=2\nranges=yes\ncommit=copy", "speaks 1"),
            ("protocol=11\nranges=yes\ncommit=copy", "speaks 1"),
            ("protocol=1\ncommit=copy", "ranges= is missing"),
            ("protocol=1\nranges=maybe\ncommit=copy", "write yes or no"),
            ("protocol=1\nranges=no", "commit= is missing"),
            ("protocol=1\nranges=no\nranges=yes", "said twice"),
            ("hello", "no key=value"),
            (&format!("{WHOLE}longest=1G"), "no number"),
            (&format!("{WHOLE}longest=0"), "no object"),
        ] {
            let why = facts(text.as_bytes()).expect_err(text);
            assert!(why.contains(says), "{text}: {why}");
        }
        assert!(facts(b"\xff=1").is_err());
    }

    #[test]
    fn lengths_and_room_are_numbers_and_nothing_else() {
        assert_eq!(length(b"0\n"), Some(0));
        assert_eq!(length(b"9223372036854775807"), Some(LONGEST));
        for bad in [
            "",
            "\n",
            "-1",
            "+1",
            "1 2",
            "1K",
            "0x10",
            "9223372036854775808",
            "1\n2\n",
        ] {
            assert_eq!(length(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(space(b"5 10\n"), Some((Some(5), Some(10))));
        assert_eq!(space(b"- -\n"), Some((None, None)));
        for bad in ["", "5", "5 10 15", "10 5", "-1 5", "x y"] {
            assert_eq!(space(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn names_of_objects_and_temporaries_are_told_apart_under_every_prefix() {
        let name = AggregateId {
            epoch: 0x2a,
            seq: 0x17,
        }
        .part(3);
        for prefix in ["", "near-", "t-1-"] {
            let plain = object(prefix, name);
            let half = temporary(prefix, 1_800_000_000, 7, &name.to_string());
            assert_eq!(parse_object(prefix, &plain), Some(name));
            assert_eq!(parse_temporary(prefix, &half), Some(1_800_000_000));
            for other in ["", "near-", "t-1-", "t-"] {
                assert_eq!(parse_object(other, &half), None);
                assert_eq!(parse_temporary(other, &plain), None);
                if other != prefix {
                    assert_eq!(parse_object(other, &plain), None);
                    assert_eq!(parse_temporary(other, &half), None);
                }
            }
        }
        for foreign in [
            "tmp-",
            "tmp-1-2-3",
            "tmp-006b49d200-0000000000000007-",
            "tmp-x.tar",
            MARK,
        ] {
            assert_eq!(parse_temporary("", foreign), None, "{foreign}");
            assert_eq!(parse_object("", foreign), None, "{foreign}");
        }
    }
}
