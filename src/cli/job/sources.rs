//! From a directive to paths: patterns are matched and lists are read as the user who runs this, so that
//! what they may not see is not seen.

use super::directives::{Directive, Directives, Source, What};
use crate::error::Failure;
use crate::server::wire::{GivenPath, Problem, Verb};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest list that is read, bytes: a million long paths.
const LONGEST_LIST: u64 = 256 << 20;
/// How long a job's files stay on disk, if the job does not end before.
const PIN: Duration = Duration::from_secs(7 * 24 * 3600);

/// What one directive is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Its line in the script.
    pub(super) line: usize,
    /// The job runs without it.
    pub(super) optional: bool,
    /// How long it is pinned (a stage).
    pub(super) pin: Duration,
    /// Where it is archived (a stage-out).
    pub(super) tier: Option<String>,
    /// Files and directories.
    pub(super) paths: Vec<Vec<u8>>,
    /// What cannot be asked for, and why.
    pub(super) problems: Vec<Problem>,
}

/// What is to be staged in, or archived.
pub(super) fn all(directives: &Directives, verb: Verb, directory: &Path) -> Vec<Wanted> {
    let wanted = directives.all.iter();
    wanted
        .filter_map(|one| wanted_by(one, verb, directory))
        .collect()
}

/// What leads to the instances that a script's files lie in: a path for each directive, there or not. Nothing if
/// one of them cannot be told.
pub(super) fn places(directives: &Directives, directory: &Path) -> Vec<PathBuf> {
    let place = |directive: &Directive| {
        let path = match &directive.what {
            What::StageOut { path, .. } => below(directory, path),
            What::StageIn { source, .. } => match source {
                Source::Path(path) => below(directory, path),
                Source::Glob(pattern) => fixed_part(&below(directory, pattern)),
                Source::List(_) => find(source, directory).ok()?.into_iter().next()?,
            },
        };
        Some(PathBuf::from(OsString::from_vec(path)))
    };
    let places: Option<Vec<PathBuf>> = directives.all.iter().map(place).collect();
    places.unwrap_or_default()
}

/// A pattern's directories up to the first that acts.
fn fixed_part(pattern: &[u8]) -> Vec<u8> {
    let parts = pattern.split(|b| *b == b'/').take_while(|part| !acts(part));
    let parts: Vec<Vec<u8>> = parts.map(unescaped).collect();
    let path = parts.join(&b'/');
    if path.is_empty() { b"/".to_vec() } else { path }
}

fn wanted_by(directive: &Directive, verb: Verb, directory: &Path) -> Option<Wanted> {
    let mut wanted = Wanted {
        line: directive.line,
        optional: directive.optional,
        pin: PIN,
        tier: None,
        paths: Vec::new(),
        problems: Vec::new(),
    };
    match (&directive.what, verb) {
        (What::StageIn { source, pin }, Verb::Stage) => {
            wanted.pin = pin.unwrap_or(PIN);
            match find(source, directory) {
                Ok(paths) => wanted.paths = paths,
                Err(problem) => wanted.problems.push(problem),
            }
        }
        (What::StageOut { path, tier }, Verb::Archive) => {
            wanted.tier = Some(tier.clone());
            wanted.paths.push(below(directory, path));
        }
        _ => return None,
    }
    Some(wanted)
}

fn below(directory: &Path, path: &[u8]) -> Vec<u8> {
    directory
        .join(OsStr::from_bytes(path))
        .into_os_string()
        .into_vec()
}

fn problem(path: &[u8], code: Failure, message: impl ToString) -> Problem {
    Problem {
        path: Some(GivenPath::new(path)),
        code: code.as_str().to_owned(),
        message: message.to_string(),
    }
}

fn failed(path: &[u8], step: &str, error: &io::Error) -> Problem {
    let code = match error.kind() {
        io::ErrorKind::NotFound => Failure::NotFound,
        io::ErrorKind::PermissionDenied => Failure::NotPermitted,
        _ => Failure::Internal,
    };
    problem(path, code, format!("{step}: {error}"))
}

fn find(source: &Source, directory: &Path) -> Result<Vec<Vec<u8>>, Problem> {
    match source {
        Source::Path(path) => {
            let path = below(directory, path);
            let at = Path::new(OsStr::from_bytes(&path));
            match fs::symlink_metadata(at) {
                Ok(_) => Ok(vec![path]),
                Err(error) => Err(failed(&path, "look", &error)),
            }
        }
        Source::Glob(pattern) => {
            let whole = below(directory, pattern);
            let found = glob(&whole);
            if found.is_empty() {
                return Err(problem(&whole, Failure::NotFound, "no file matches"));
            }
            Ok(found)
        }
        Source::List(list) => {
            let list = below(directory, list);
            let read = read_list(&list).map_err(|e| failed(&list, "read the list of files", &e))?;
            let lines = read
                .split(|b| *b == b'\n')
                .map(|l| l.strip_suffix(b"\r").unwrap_or(l));
            let named = lines.filter(|l| !l.is_empty()).map(|l| below(directory, l));
            let paths: Vec<Vec<u8>> = named.collect();
            if paths.is_empty() {
                return Err(problem(&list, Failure::NotFound, "the list names no file"));
            }
            Ok(paths)
        }
    }
}

fn read_list(list: &[u8]) -> io::Result<Vec<u8>> {
    let path = Path::new(OsStr::from_bytes(list));
    // A pipe would wait for ever, and a device may have no end.
    let file = fs::File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    let read = file.take(LONGEST_LIST + 1).read_to_end(&mut bytes)?;
    if read as u64 > LONGEST_LIST {
        return Err(io::Error::other("it is larger than 256 MiB"));
    }
    Ok(bytes)
}

/// What a pattern matches, sorted. What may not be listed matches nothing.
fn glob(pattern: &[u8]) -> Vec<Vec<u8>> {
    let mut found = vec![PathBuf::from("/")];
    for part in pattern.split(|b| *b == b'/').filter(|p| !p.is_empty()) {
        let literal = !acts(part);
        let mut next = Vec::new();
        for dir in found {
            if literal {
                let path = dir.join(OsString::from_vec(unescaped(part)));
                next.extend(fs::symlink_metadata(&path).is_ok().then_some(path));
                continue;
            }
            let Ok(entries) = fs::read_dir(&dir) else {
                continue;
            };
            let names = entries.flatten().map(|entry| entry.file_name());
            let mut names: Vec<OsString> = names.filter(|n| matches(part, n.as_bytes())).collect();
            names.sort();
            next.extend(names.into_iter().map(|name| dir.join(name)));
        }
        found = next;
    }
    found
        .into_iter()
        .map(|path| path.into_os_string().into_vec())
        .collect()
}

fn acts(part: &[u8]) -> bool {
    let mut escaped = false;
    part.iter().any(|b| {
        let acts = !escaped && matches!(b, b'*' | b'?' | b'[');
        escaped = !escaped && *b == b'\\';
        acts
    })
}

fn unescaped(part: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(part.len());
    let mut bytes = part.iter();
    while let Some(byte) = bytes.next() {
        let next = if *byte == b'\\' { bytes.next() } else { None };
        out.push(*next.unwrap_or(byte));
    }
    out
}

/// As a shell matches a name: a leading dot is matched by a dot alone.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let hidden = name.first() == Some(&b'.');
    if hidden && pattern.first() != Some(&b'.') {
        return false;
    }
    // Where to go on if what follows the last `*` does not match: one character later.
    let (mut p, mut n) = (0, 0);
    let mut again: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            again = Some((p + 1, n));
            p += 1;
            continue;
        }
        match (
            name.get(n),
            one(pattern.get(p..).unwrap_or_default(), name.get(n).copied()),
        ) {
            (Some(_), Some(width)) => (p, n) = (p + width, n + 1),
            (None, _) if p >= pattern.len() => return true,
            _ => match again {
                Some((back, at)) if at < name.len() => {
                    again = Some((back, at + 1));
                    (p, n) = (back, at + 1);
                }
                _ => return false,
            },
        }
    }
}

/// Does the pattern's first element match the byte? How long it is.
fn one(pattern: &[u8], byte: Option<u8>) -> Option<usize> {
    let byte = byte?;
    match pattern.first()? {
        b'?' => Some(1),
        b'[' => match set(pattern, byte) {
            Some((true, width)) => Some(width),
            Some((false, _)) => None,
            // A bracket that is never closed is itself.
            None => (byte == b'[').then_some(1),
        },
        b'\\' => match pattern.get(1) {
            Some(next) => (*next == byte).then_some(2),
            None => (byte == b'\\').then_some(1),
        },
        other => (*other == byte).then_some(1),
    }
}

/// `[abc]`, `[a-z]`, `[!x]`: whether the byte is in it, and how long it is.
fn set(pattern: &[u8], byte: u8) -> Option<(bool, usize)> {
    let mut at = 1;
    let negated = matches!(pattern.get(at), Some(b'!' | b'^'));
    at += usize::from(negated);
    let first = at;
    let mut found = false;
    loop {
        let mut low = *pattern.get(at)?;
        if low == b']' && at > first {
            return Some((found != negated, at + 1));
        }
        if low == b'\\' {
            at += 1;
            low = *pattern.get(at)?;
        }
        let ranges = pattern.get(at + 1) == Some(&b'-') && pattern.get(at + 2) != Some(&b']');
        if ranges {
            let high = *pattern.get(at + 2)?;
            found |= (low..=high).contains(&byte);
            at += 3;
        } else {
            found |= low == byte;
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_as_a_shell_does() {
        for (pattern, name) in [
            ("*", "a"),
            ("*.h5", "x.h5"),
            ("a*b*c", "aXbbYc"),
            ("?x", "ax"),
            ("[a-c]1", "b1"),
            ("[!a]1", "b1"),
            ("[]x]", "]"),
            ("[x", "[x"),
            (r"\*", "*"),
            (r"[\]]", "]"),
            (".*", ".hidden"),
            ("*", "\u{e4}"),
            ("a*", "a"),
        ] {
            assert!(
                matches(pattern.as_bytes(), name.as_bytes()),
                "{pattern} {name}"
            );
        }
        for (pattern, name) in [
            ("*", ".hidden"),
            ("?x", ".x"),
            ("[a-c]1", "d1"),
            ("[!a]1", "a1"),
            (r"\*", "a"),
            ("a*b", "abc"),
            ("", "a"),
            ("a?", "a"),
        ] {
            assert!(
                !matches(pattern.as_bytes(), name.as_bytes()),
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn a_pattern_lies_below_what_is_fixed_of_it() {
        assert_eq!(fixed_part(b"/a/b*/c"), b"/a");
        assert_eq!(fixed_part(br"/a/b\*/c?"), b"/a/b*");
        assert_eq!(fixed_part(b"/*"), b"/");
    }

    #[test]
    fn sources_become_paths_or_say_why_not() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.h5", "a.h5", "c.txt", "x[1]"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        fs::write(dir.path().join("list"), "a.h5\r\n\nsub/b\n").unwrap();
        fs::write(dir.path().join("none"), "\n").unwrap();
        let ask = |source: Source| {
            let strip = |path: Vec<u8>| {
                let path = PathBuf::from(OsString::from_vec(path));
                path.strip_prefix(dir.path()).unwrap().display().to_string()
            };
            find(&source, dir.path())
                .map(|paths| paths.into_iter().map(strip).collect::<Vec<_>>())
                .map_err(|problem| problem.message)
        };
        let glob = |text: &str| Source::Glob(text.as_bytes().to_vec());
        assert_eq!(ask(glob("*.h5")).unwrap(), ["a.h5", "b.h5"]);
        assert_eq!(ask(glob(r"x\[1\]*")).unwrap(), ["x[1]"]);
        assert_eq!(ask(glob("*.nc")).unwrap_err(), "no file matches");
        assert_eq!(
            ask(Source::List(b"list".to_vec())).unwrap(),
            ["a.h5", "sub/b"]
        );
        let named_none = ask(Source::List(b"none".to_vec())).unwrap_err();
        assert_eq!(named_none, "the list names no file");
        let absent = ask(Source::Path(b"absent".to_vec())).unwrap_err();
        assert!(absent.contains("No such file"), "{absent}");
    }
}
