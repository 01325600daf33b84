//! sbatch's command line, read as sbatch reads it: which word is the script, and what of the options matters to
//! whoever submits for staging. Pure.
//!
//! Invariant: a word that is not ours is handed on as it is, in its place.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// What all options of ours begin with.
pub(super) const OURS: &str = "--cairn-";
/// Those of them that have a value.
const OURS_WITH_VALUE: [&str; 1] = ["--cairn-partition"];

/// How an option has its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    Value,
    /// Only what is written in the same word.
    Perhaps,
}

/// Options of sbatch (22.05 and later) without a value.
const PLAIN: &str = "contiguous help hold ignore-pbs no-requeue overcommit oversubscribe parsable quiet \
    reboot requeue spread-job test-only use-min-nodes verbose version usage wait";
/// With one.
const VALUED: &str = "account acctg-freq array batch bb bbf begin chdir cluster cluster-constraint clusters \
    comment constraint consolidate-segments container container-id context core-spec cores-per-socket cpu-freq \
    cpus-per-gpu cpus-per-task deadline delay-boot dependency distribution error exclude export export-file extra \
    extra-node-info gid gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task gres gres-flags hint \
    input job-name kill-on-invalid-dep licenses mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu \
    mincpus network nodefile nodelist nodes ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node \
    ntasks-per-socket ntasks-per-tres oom-kill-step open-mode output partition power prefer priority profile qos \
    reservation resv-ports segment signal sockets-per-node switches tasks-per-node thread-spec threads-per-core \
    time time-min tmp tres-bind tres-per-task uid wait-all-nodes wckey wrap";
/// With one only behind `=`.
const PERHAPS: &str = "exclusive get-user-env nice no-kill propagate";
/// Letters, and what they stand for.
const LETTERS: &str = "A account a array b begin B extra-node-info C constraint c cpus-per-task D chdir d dependency \
    e error F nodefile G gpus h help H hold i input J job-name k no-kill L licenses M clusters m distribution N nodes \
    n ntasks O overcommit o output p partition Q quiet q qos S core-spec s oversubscribe t time V version v verbose \
    W wait w nodelist x exclude";

/// An option as it was given: its long name, and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli::job) struct Given {
    pub(in crate::cli::job) name: String,
    pub(in crate::cli::job) value: Option<OsString>,
}

/// A command line in its parts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Words {
    /// Options for sbatch, as they stand.
    pub(super) options: Vec<OsString>,
    /// Ours.
    pub(super) own: Vec<OsString>,
    /// The script, and its own arguments.
    pub(super) script: Vec<OsString>,
    /// What the options are.
    pub(super) given: Vec<Given>,
}

fn takes(name: &str) -> Option<Takes> {
    let is_in = |list: &str| list.split_whitespace().any(|known| known == name);
    if is_in(PLAIN) {
        return Some(Takes::Nothing);
    }
    if is_in(PERHAPS) {
        return Some(Takes::Perhaps);
    }
    is_in(VALUED).then_some(Takes::Value)
}

fn letter(wanted: char) -> Option<&'static str> {
    let mut words = LETTERS.split_whitespace();
    while let (Some(letter), Some(name)) = (words.next(), words.next()) {
        if letter.chars().eq([wanted]) {
            return Some(name);
        }
    }
    None
}

/// The option that a long name, or the beginning of one, means. `None`: none of sbatch's own (a site's plugin may
/// have it).
fn long(name: &str) -> Result<Option<&'static str>, String> {
    let all = || {
        let lists = [PLAIN, VALUED, PERHAPS];
        lists.into_iter().flat_map(str::split_whitespace)
    };
    if let Some(exact) = all().find(|known| *known == name) {
        return Ok(Some(exact));
    }
    let begin: Vec<&str> = all().filter(|known| known.starts_with(name)).collect();
    match begin.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        several => Err(format!("--{name} may be --{}", several.join(" or --"))),
    }
}

/// Reads options up to the first word that is none; how many words they are.
fn read(words: &[OsString], given: &mut Vec<Given>) -> Result<usize, String> {
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let bytes = word.as_bytes();
        if bytes == b"--" {
            return Ok(at + 1);
        }
        if !is_option(bytes) {
            break;
        }
        at += 1;
        at += usize::from(option(word, words.get(at), given)?);
    }
    Ok(at)
}

/// One option; whether the next word is its value.
fn option(
    word: &OsString,
    next: Option<&OsString>,
    given: &mut Vec<Given>,
) -> Result<bool, String> {
    let (bytes, next) = (word.as_bytes(), next.map(OsString::as_os_str));
    match bytes.strip_prefix(b"--") {
        Some(rest) => one_long(rest, next, given),
        None => letters(bytes.get(1..).unwrap_or_default(), next, given),
    }
}

/// `--name`, `--name=value`; whether the next word is its value.
fn one_long(rest: &[u8], next: Option<&OsStr>, given: &mut Vec<Given>) -> Result<bool, String> {
    let (name, value) = match rest.iter().position(|b| *b == b'=') {
        Some(end) => (&rest[..end], Some(&rest[end + 1..])),
        None => (rest, None),
    };
    let name = String::from_utf8_lossy(name).into_owned();
    let Some(known) = long(&name)? else {
        given.push(Given {
            name,
            value: value.map(|v| OsStr::from_bytes(v).to_owned()),
        });
        return Ok(false);
    };
    let value = value.map(|v| OsStr::from_bytes(v).to_owned());
    let (value, took) = match (value, takes(known)) {
        (Some(_), Some(Takes::Nothing)) => return Err(format!("--{known} has no value")),
        (None, Some(Takes::Value)) => match next {
            Some(next) => (Some(next.to_owned()), true),
            None => return Err(format!("the value of --{known} is missing")),
        },
        (value, _) => (value, false),
    };
    given.push(Given {
        name: known.to_owned(),
        value,
    });
    Ok(took)
}

/// `-Hn4`, `-n 4`; whether the next word is the last one's value.
fn letters(rest: &[u8], next: Option<&OsStr>, given: &mut Vec<Given>) -> Result<bool, String> {
    let mut at = 0;
    while let Some(byte) = rest.get(at) {
        let shown = char::from(*byte);
        let name = letter(shown).ok_or_else(|| format!("sbatch has no option -{shown}"))?;
        at += 1;
        let attached = (at < rest.len()).then(|| OsString::from_vec(rest[at..].to_vec()));
        let (value, took) = match (takes(name), attached) {
            (Some(Takes::Nothing) | None, _) => {
                given.push(Given {
                    name: name.to_owned(),
                    value: None,
                });
                continue;
            }
            (Some(Takes::Perhaps), attached) | (_, attached @ Some(_)) => (attached, false),
            (Some(Takes::Value), None) => match next {
                Some(next) => (Some(next.to_owned()), true),
                None => return Err(format!("the value of -{shown} is missing")),
            },
        };
        given.push(Given {
            name: name.to_owned(),
            value,
        });
        return Ok(took);
    }
    Ok(false)
}

/// Takes what is ours out of the options. What stands behind the script is the script's.
pub(super) fn split(words: &[OsString]) -> Result<Words, String> {
    let mut found = Words::default();
    let mut rest = words;
    while let Some(word) = rest.first() {
        let first = word.as_bytes();
        let (to, count) = if first.starts_with(OURS.as_bytes()) {
            let with_value = OURS_WITH_VALUE.iter().any(|ours| ours.as_bytes() == first);
            (&mut found.own, 1 + usize::from(with_value))
        } else if first == b"--" {
            (&mut found.options, 1)
        } else if is_option(first) {
            let took = option(word, rest.get(1), &mut found.given)?;
            (&mut found.options, 1 + usize::from(took))
        } else {
            break;
        };
        let (these, others) = rest.split_at(count.min(rest.len()));
        to.extend_from_slice(these);
        rest = others;
        if first == b"--" {
            break;
        }
    }
    if rest.first().is_some_and(|word| word.as_bytes() == b":") {
        return Err("a job of several kinds of nodes (`:`) is not staged for".to_owned());
    }
    found.script = rest.to_vec();
    Ok(found)
}

fn is_option(word: &[u8]) -> bool {
    word.len() > 1 && word.first() == Some(&b'-')
}

/// The options in the script's own `#SBATCH` lines.
pub(in crate::cli::job) fn of_script(script: &[u8]) -> Result<Vec<Given>, String> {
    let mut given = Vec::new();
    for (number, line) in script.split(|b| *b == b'\n').enumerate() {
        let comment = line.first().is_none_or(|b| *b == b'#');
        let blank = line.iter().all(u8::is_ascii_whitespace);
        if !comment && !blank {
            break;
        }
        let Some(rest) = line.strip_prefix(b"#SBATCH") else {
            continue;
        };
        if rest.first().is_some_and(|b| !b.is_ascii_whitespace()) {
            continue;
        }
        let words = line_words(rest);
        let read = read(&words, &mut given).map_err(|why| format!("line {}: {why}", number + 1))?;
        if read < words.len() {
            let word = words[read].to_string_lossy().into_owned();
            return Err(format!("line {}: {word:?} is no option", number + 1));
        }
    }
    Ok(given)
}

/// Words with their quotes off, up to a comment.
fn line_words(line: &[u8]) -> Vec<OsString> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<Vec<u8>>, None);
    let mut bytes = line.iter().copied().filter(|b| *b != b'\r');
    while let Some(byte) = bytes.next() {
        match (byte, quote) {
            (b'\\', None) => word.get_or_insert_default().extend(bytes.next()),
            (b'"' | b'\'', None) => {
                quote = Some(byte);
                word.get_or_insert_default();
            }
            (byte, Some(open)) if byte == open => quote = None,
            (b'#', None) if word.is_none() => break,
            (byte, None) if byte.is_ascii_whitespace() => {
                words.extend(word.take().map(OsString::from_vec));
            }
            (byte, _) => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word.map(OsString::from_vec));
    words
}

impl Words {
    /// Whether an option is among those of the command line.
    pub(super) fn has(&self, name: &str) -> bool {
        self.given.iter().any(|given| given.name == name)
    }
}

/// The value that counts: the last one of the first list that has any.
pub(super) fn value<'a>(lists: &[&'a [Given]], name: &str) -> Option<&'a OsStr> {
    lists.iter().find_map(|list| {
        let mut named = list.iter().rev().filter(|given| given.name == name);
        named.find_map(|given| given.value.as_deref())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn shown(words: &[OsString]) -> String {
        let words: Vec<String> = words.iter().map(|w| w.display().to_string()).collect();
        words.join(" ")
    }

    #[test]
    fn the_script_is_the_first_word_that_is_no_options_value() {
        for (line, options, script) in [
            ("run.sh", "", "run.sh"),
            ("run.sh -N 2 --hold", "", "run.sh -N 2 --hold"),
            ("-N 2 run.sh a", "-N 2", "run.sh a"),
            ("-N2 run.sh", "-N2", "run.sh"),
            ("-HN 2 run.sh", "-HN 2", "run.sh"),
            ("--nodes 2 run.sh", "--nodes 2", "run.sh"),
            ("--nodes=2 run.sh", "--nodes=2", "run.sh"),
            ("--part x run.sh", "--part x", "run.sh"),
            ("--job run.sh x", "--job run.sh", "x"),
            ("--exclusive run.sh", "--exclusive", "run.sh"),
            ("--exclusive=user run.sh", "--exclusive=user", "run.sh"),
            ("-k run.sh", "-k", "run.sh"),
            ("-koff run.sh", "-koff", "run.sh"),
            ("--hold -- -odd.sh", "--hold --", "-odd.sh"),
            ("--dependency afterok:1 -", "--dependency afterok:1", "-"),
            ("-J --hold run.sh", "-J --hold", "run.sh"),
            ("--x11=all run.sh", "--x11=all", "run.sh"),
            ("--wrap hostname", "--wrap hostname", ""),
            ("-n 4", "-n 4", ""),
        ] {
            let found = split(&words(line)).unwrap();
            assert_eq!(shown(&found.options), options, "{line}");
            assert_eq!(shown(&found.script), script, "{line}");
            assert!(found.own.is_empty(), "{line}");
        }
    }

    #[test]
    fn what_is_ours_is_taken_out_wherever_it_stands_before_the_script() {
        let line = "-N 2 --cairn-wait --cairn-partition io -J --cairn-x run.sh --cairn-wait";
        let found = split(&words(line)).unwrap();
        assert_eq!(shown(&found.options), "-N 2 -J --cairn-x");
        assert_eq!(shown(&found.own), "--cairn-wait --cairn-partition io");
        assert_eq!(shown(&found.script), "run.sh --cairn-wait");
        let found = split(&words("--cairn-partition=io --hold x")).unwrap();
        assert_eq!(shown(&found.own), "--cairn-partition=io");
        assert_eq!(shown(&found.options), "--hold");
    }

    #[test]
    fn options_are_known_by_each_of_their_names() {
        let name = |line: &str| {
            let found = split(&words(line)).unwrap();
            let all = found.given.iter().map(|given| match &given.value {
                Some(value) => format!("{}={}", given.name, value.display()),
                None => given.name.clone(),
            });
            all.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            name("-HWJ a -D /x s"),
            "hold wait job-name=a chdir=/x".to_owned()
        );
        assert_eq!(name("--parsable --hol s"), "parsable hold");
        assert_eq!(name("--chdir=/x --wrap=a s"), "chdir=/x wrap=a");
    }

    #[test]
    fn what_sbatch_would_not_understand_is_refused() {
        for (line, said) in [
            ("-Z x", "no option -Z"),
            ("-N", "the value of -N is missing"),
            ("--nodes", "the value of --nodes is missing"),
            ("--hold=1 x", "--hold has no value"),
            ("--node 2 x", "may be --nodefile or --nodelist or --nodes"),
            ("--mem- 1 x", "may be --mem-bind or --mem-per-cpu"),
            ("-N1 : -N2 x", "several kinds of nodes"),
        ] {
            let why = split(&words(line)).unwrap_err();
            assert!(why.contains(said), "{line}: {why}");
        }
    }

    #[test]
    fn options_in_the_script_are_read_up_to_the_first_command() {
        let script = b"#!/bin/sh\n#SBATCH -N 2 --job-name='a b' # two\n#SBATCHX -H\n\n#SBATCH -D /x\necho\n#SBATCH -W\n";
        let given = of_script(script).unwrap();
        let names: Vec<&str> = given.iter().map(|given| &*given.name).collect();
        assert_eq!(names, ["nodes", "job-name", "chdir"]);
        assert_eq!(value(&[&given], "job-name"), Some(OsStr::new("a b")));
        let other = vec![Given {
            name: "chdir".to_owned(),
            value: Some("/y".into()),
        }];
        assert_eq!(value(&[&other, &given], "chdir"), Some(OsStr::new("/y")));
        let wrong = of_script(b"#SBATCH -N 2 x\n").unwrap_err();
        assert_eq!(wrong, "line 1: \"x\" is no option");
    }
}
