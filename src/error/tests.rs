//! The whole table, frozen.

use super::*;
use std::collections::HashSet;

#[test]
fn the_table_is_as_promised() {
    let mut table = format!(
        "{:<17}{:>6}{:>5}{:>6}\n",
        "failure", "errno", "exit", "http"
    );
    for failure in Failure::ALL {
        let (errno, exit, http) = (failure.errno(), failure.exit_code(), failure.http_status());
        table += &format!("{:<17}{errno:>6}{exit:>5}{http:>6}\n", failure.as_str());
    }
    insta::assert_snapshot!(table, @r"
    failure           errno exit  http
    no-good-copy          5    1   410
    conflict              5    1   409
    foreign               5    1   409
    lost                  5    1   410
    tier-unavailable    112    6   503
    cartridge-absent    123    6   503
    timed-out           110    4   504
    over-budget          87    1   429
    no-space             28    1   507
    quota-exceeded      122    1   507
    not-permitted         1    5   403
    not-found             2    1   404
    exists               17    1   409
    not-a-file           22    1   400
    busy                 16    1   409
    changed              11    1   409
    interrupted           4    4   503
    cancelled           125    1   409
    usage                22    2   400
    no-instance         107    3   503
    already-running      16    1   409
    newer                93    1   501
    internal              5    1   500
    ");
}

#[test]
fn words_are_distinct_and_parse_back() {
    let words: HashSet<_> = Failure::ALL.iter().map(|f| f.as_str()).collect();
    assert_eq!(words.len(), Failure::ALL.len());
    for (place, failure) in Failure::ALL.into_iter().enumerate() {
        assert_eq!(Failure::parse(failure.as_str()), Some(failure));
        assert_eq!(failure as usize, place, "ALL is complete and in order");
    }
    assert_eq!(Failure::ALL.len(), Failure::Internal as usize + 1);
    assert_eq!(Failure::parse("nonsense"), None);
}

#[test]
fn the_table_in_the_document_is_this_one() {
    let names = [
        ("EPERM", libc::EPERM),
        ("ENOENT", libc::ENOENT),
        ("EEXIST", libc::EEXIST),
        ("EINTR", libc::EINTR),
        ("EIO", libc::EIO),
        ("EAGAIN", libc::EAGAIN),
        ("EBUSY", libc::EBUSY),
        ("EINVAL", libc::EINVAL),
        ("ENOSPC", libc::ENOSPC),
        ("EUSERS", libc::EUSERS),
        ("EPROTONOSUPPORT", libc::EPROTONOSUPPORT),
        ("ENOTCONN", libc::ENOTCONN),
        ("ETIMEDOUT", libc::ETIMEDOUT),
        ("EHOSTDOWN", libc::EHOSTDOWN),
        ("EDQUOT", libc::EDQUOT),
        ("ENOMEDIUM", libc::ENOMEDIUM),
        ("ECANCELED", libc::ECANCELED),
    ];
    let wanted = Failure::ALL.map(|f| {
        let name = names.iter().find(|(_, number)| *number == f.errno());
        let name = name.map_or("an errno without a name here", |(name, _)| *name);
        format!(
            "| `{f}` | {name} | {} | {} |",
            f.exit_code(),
            f.http_status()
        )
    });
    let document = include_str!("../../docs/semantics.md");
    let rows = document.lines().filter(|line| {
        let word = line
            .strip_prefix("| `")
            .and_then(|rest| rest.split('`').next());
        word.and_then(Failure::parse).is_some() && line.matches('|').count() == 6
    });
    let cut = |row: &str| {
        row.splitn(6, '|')
            .take(5)
            .map(|c| c.to_owned() + "|")
            .collect::<String>()
    };
    let found: Vec<String> = rows.map(cut).collect();
    assert_eq!(found, wanted, "docs/semantics.md, \"Errors\"");
}
