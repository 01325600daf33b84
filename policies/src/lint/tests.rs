//! Tests of warnings.

use crate::testing::policy;

#[track_caller]
fn warns(text: &str, expected: &[&str]) {
    let found: Vec<String> = policy(text)
        .warnings()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(found, expected);
}

const ARCHIVE: &str = "rule archive a every 1 h\n";

#[test]
fn what_is_never_used() {
    warns(
        &format!("let x = 5 %\nclass c = new\n{ARCHIVE}"),
        &[
            "test.policy:1: value `x` is never used",
            "test.policy:2: class `c` is never used",
        ],
    );
}

#[test]
fn unreachable_rules() {
    for (wide, narrow) in [
        ("any file", "new"),
        ("new or dirty", "new"),
        ("unchanged for 1 h", "unchanged for 2 h and size > 1 B"),
        ("size > 1 B", "size > 1 B"),
        ("size > 1 B or owner 5", "owner 5 and new"),
    ] {
        warns(
            &format!("rule archive a every 1 h when {wide}\nrule archive b manual when {narrow}"),
            &[
                "test.policy:2: rule archive/b never decides: rule archive/a above it takes all of its files",
            ],
        );
        if wide != "size > 1 B" {
            warns(
                &format!(
                    "rule archive a every 1 h when {narrow}\nrule archive b manual when {wide}"
                ),
                &[],
            );
        }
    }
}

#[test]
fn rules_that_take_nothing_or_too_much() {
    warns(
        &format!("{ARCHIVE}rule release r manual when new"),
        &["test.policy:2: rule release/r can take no file: no state satisfies it"],
    );
    warns(
        &format!("{ARCHIVE}rule release r every 5 min when size > 1 B"),
        &[
            "test.policy:2: rule release/r releases files of any age every 5 min, also those just in use",
        ],
    );
}

#[test]
fn releasing_without_archiving_and_no_rules_at_all() {
    warns(
        "rule release r manual",
        &["test.policy: files are released and none are archived: only what users archive can go"],
    );
    warns("copies 1", &["test.policy: no rules: nothing is ever done"]);
}
