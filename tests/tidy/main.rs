//! House rules as a test: where things live and how long they may grow. Each message says what
//! to do instead.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot read what it judges must fail"
)]

mod rules;

use rules::{Source, home, length, level, words};
use std::path::Path;

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for top in ["src", "fuse", "mover", "policies", "tests", "examples"] {
        rules::collect(root, &root.join(top), &mut found);
    }
    assert!(
        found.len() > 20,
        "the walk found only {} files: it looks in the wrong place",
        found.len()
    );
    found
}

fn fail_with(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn every_outside_package_has_one_home() {
    fail_with(sources().iter().flat_map(home::check).collect());
}

#[test]
fn rooms_use_only_what_stands_below_them() {
    fail_with(sources().iter().flat_map(level::check).collect());
}

#[test]
fn every_module_says_what_it_is_for() {
    fail_with(
        sources()
            .iter()
            .filter(|s| !s.text.starts_with("//!"))
            .map(|s| {
                format!(
                    "{}: begin with a `//!` line that says what the room is for",
                    s.path
                )
            })
            .collect(),
    );
}

#[test]
fn files_and_functions_stay_short() {
    fail_with(length::check(&sources()));
}

#[test]
fn no_mod_rs_and_no_grab_bags() {
    fail_with(sources().iter().filter_map(words::name).collect());
}

#[test]
fn the_repository_speaks_of_cairn_alone() {
    fail_with(sources().iter().flat_map(words::text).collect());
}

#[test]
fn the_rules_themselves_can_fail() {
    let bad = Source {
        path: "src/format/x.rs".into(),
        text: "use rusqlite::Row;\nuse crate::hsm::X;\n".into(),
    };
    assert_eq!(home::check(&bad).len(), 1);
    assert_eq!(level::check(&bad).len(), 1);
    let long = Source {
        path: "src/x.rs".into(),
        text: format!("//! x\nfn long() {{\n{}}}\n", "    work();\n".repeat(90)),
    };
    assert_eq!(length::check(&[long]).len(), 1);
}
