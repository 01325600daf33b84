//! Tests of reading: every construct, every kind of mistake as it is shown, and any text at all.

use crate::testing::{any_policy, policy, secs};
use crate::*;
use proptest::prelude::*;

#[test]
fn a_policy_is_read_as_it_is_meant() {
    let read = policy(
        r#"
        let high = 85.5 %
        copies 2            # each file twice
        keep-staged 2 hours
        class scratch = path "tmp/**" or name "*.o"
        rule archive cold
            when  state is new or dirty
            and   unchanged for 1 h
            and   not class scratch
            every 10 min
            limit 10000 files, 1 TiB per run
        rule release by-watermark
            above high down to 75 %
            when archived and (size >= 64KiB or links > 1) and not accessed for 1 h
            order largest first
        "#,
    );
    insta::assert_snapshot!("canonical", read.to_string());
    assert_eq!(read.settings.copies, 2);
    assert_eq!(read.settings.keep_staged, secs(7200));
    assert_eq!(read.warnings(), []);
}

#[test]
fn states_joined_by_or_are_one_condition_and_need_no_parentheses() {
    let read = policy("rule archive a when new or dirty and size > 0 manual");
    let Condition::All(parts) = &read.rules[0].condition else {
        panic!("{:?}", read.rules[0].condition)
    };
    assert_eq!(
        parts[0],
        Condition::State(StateSet::of(&[FileState::New, FileState::Dirty]))
    );
}

#[test]
fn every_mistake_says_where_and_what() {
    let texts = [
        "rule relaese x manual",
        "rule stage x manual",
        "rule archive when size > 1 manual",
        "rule archive x when size > 1",
        "rule archive x when sise > 1 manual",
        "rule archive x when size 10 manual",
        "rule archive x when size > 10 manual",
        "rule archive x when size > 10 KiBs manual",
        "rule archive x when unchanged for 10 minuts manual",
        "rule archive x when accessed for 1 h manual",
        "rule archive x when new or size > 1 KiB and links > 1 manual",
        "rule archive x when (size > 1 KiB manual",
        "rule archive x when path tmp manual",
        "rule archive x when path \"/tmp\" manual",
        "rule archive x when path \"a[\" manual",
        "rule archive x when name \"a/b\" manual",
        "rule archive x when name \"a manual",
        "rule archive x when owner \"root\" manual",
        "rule archive x when state is realeased manual",
        "rule archive x when flag noarchiv manual",
        "class tmpfiles = name \"x\"\nrule archive x when class tempfiles manual",
        "rule archive x every 0 s",
        "rule archive x every 1.5",
        "rule archive x every hihg",
        "let high = 80 %\nrule release x above hihg down to 70 %",
        "rule archive x above 80 % down to 70 %",
        "rule release x above 80 % down to 80 %",
        "rule release x above 101 % down to 80 %",
        "rule archive x manual never",
        "rule archive x manual limit 0 files",
        "rule archive x manual limit 1 files, 2 files",
        "rule archive x manual order olddest access",
        "rule archive x manual\nrule release x manual",
        "rule archive x not new manual",
        "copies 0",
        "copies 1\ncopies 1",
        "copis 1",
        "let h = 1 %",
        "keep-staged 200 years",
        "keep-staged 99999999999999999999 s",
        "keep-staged",
        "\u{1}",
    ];
    let mut shown = String::new();
    for text in texts {
        let error = Policy::parse("p", text).expect_err(text);
        shown += &format!("{error}\n\n");
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn several_mistakes_are_reported_at_once() {
    let text = "copies\nrule archive a\n  when sise > 1\n  manual\n\nrule releas b\n  manual\nlet x = 5 %\nclass c = size >\n";
    let error = Policy::parse("site.policy", text).unwrap_err();
    let lines: Vec<usize> = error.problems.iter().map(|p| p.line).collect();
    assert_eq!(lines, [2, 3, 6, 9], "{error}");
}

#[test]
fn problems_are_bounded() {
    let error = Policy::parse("p", &"rule bad\n".repeat(1000)).unwrap_err();
    assert_eq!(error.problems.len(), 20);
    assert!(
        error
            .to_string()
            .ends_with("(more problems may follow these)")
    );
}

#[test]
fn nesting_and_classes_are_bounded() {
    let deep = format!(
        "class a = {}size > 1 B{}",
        "(".repeat(5000),
        ")".repeat(5000)
    );
    assert!(Policy::parse("p", &deep).is_err());
    let nots = format!("class a = {}new", "not ".repeat(5000));
    assert!(Policy::parse("p", &nots).is_err());
    let mut doubling = "class c0 = new and links > 1\n".to_owned();
    for i in 1..60 {
        doubling += &format!("class c{i} = class c{} and class c{}\n", i - 1, i - 1);
    }
    let error = Policy::parse("p", &doubling).unwrap_err();
    assert!(error.to_string().contains("too large"), "{error}");
}

#[test]
fn classes_know_only_what_is_above_them() {
    assert!(Policy::parse("p", "class a = class a").is_err());
    assert!(Policy::parse("p", "class a = class b\nclass b = new").is_err());
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        if let Err(error) = Policy::parse("p", &text) {
            prop_assert!(!error.problems.is_empty());
            let _ = error.to_string();
        }
    }

    #[test]
    fn no_sequence_of_words_panics(words in prop::collection::vec(prop::sample::select(vec![
        "rule", "archive", "release", "x", "when", "and", "or", "not", "(", ")", "size", ">=",
        "5", "KiB", "%", "1.5", "h", "every", "above", "down", "to", "class", "=", "let",
        "copies", "keep-staged", "\n", "\"a*\"", "\"", "path", "name", "state", "is", "new",
        "dirty", "accessed", "for", "within", "unchanged", "limit", "files", ",", "order",
        "oldest", "access", "manual", "never", "any", "file", "#", "\u{e9}", "18446744073709551615",
    ]), 0..40)) {
        if let Err(error) = Policy::parse("p", &words.join(" ")) {
            let _ = error.to_string();
        }
    }

    #[test]
    fn the_canonical_text_reads_as_the_same_policy(policy in any_policy()) {
        let text = policy.to_string();
        let again = Policy::parse("p", &text);
        prop_assert_eq!(again.as_ref(), Ok(&policy), "{}", text);
    }
}

/// Every fenced block of the reference that is marked `policy` is a policy on its own.
#[test]
fn the_examples_of_the_reference_are_read() {
    let text = include_str!("../../../docs/policies.md");
    let blocks: Vec<&str> = text
        .split("```policy\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(blocks.len() >= 10, "{}", blocks.len());
    for block in blocks {
        let read = policy(block);
        assert_eq!(policy(&read.to_string()), read);
    }
}
