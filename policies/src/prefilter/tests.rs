//! Tests of what a rule implies.

use crate::testing::*;
use crate::*;
use proptest::prelude::*;

fn prefilter(rule: &str) -> Prefilter {
    let read = policy(rule);
    read.rules[0].prefilter()
}

#[test]
fn the_default_rules_ask_for_little() {
    let read = policy(shipped::DEFAULT);
    let of = |name| read.rule(name).unwrap().prefilter();
    let archive = of("cold");
    assert_eq!(archive.states.to_string(), "new or dirty or archived");
    assert_eq!(archive.changed_before, Some(secs(3600)));
    assert_eq!(archive.modified_before, None, "it may lie in the future");
    let release = of("by-watermark");
    assert_eq!(release.states.to_string(), "archived");
    assert_eq!(release.min_size, ByteCount(65_536));
    assert_eq!(release.accessed_before, Some(secs(3600)));
}

#[test]
fn either_side_of_an_or_counts_and_not_turns_it_round() {
    let either = prefilter("rule release x manual when size > 9 B or size >= 5 B");
    assert_eq!(either.min_size, ByteCount(5));
    let turned = prefilter("rule release x manual when not (size < 9 B or accessed within 1 h)");
    assert_eq!(turned.min_size, ByteCount(9));
    assert_eq!(turned.accessed_before, Some(secs(3600)));
    let open = prefilter("rule release x manual when size > 9 B or owner 1");
    assert_eq!(open.min_size, ByteCount(0));
}

#[test]
fn contradictions_and_never_ask_for_nothing() {
    for rule in [
        "rule release x manual when new",
        "rule release x never",
        "rule archive x manual when new and dirty",
        "rule archive x manual when size < 0 B",
    ] {
        assert!(prefilter(rule).states.is_empty(), "{rule}");
    }
}

#[test]
fn archived_files_are_asked_for_too_because_a_copy_may_have_gone_bad() {
    let states = prefilter("rule archive x manual").states;
    assert_eq!(states.to_string(), "new or dirty or archived");
}

proptest! {
    #[test]
    fn what_a_rule_takes_passes_its_prefilter(policy in any_policy(), files in any_files()) {
        let names: Vec<&str> = policy.rules.iter().map(|rule| rule.name.as_str()).collect();
        let plan = plan(&policy, &named(&names, 100), files.clone());
        for part in &plan.rules {
            let prefilter = policy.rule(&part.rule).unwrap().prefilter();
            for chosen in &part.files {
                let file = files.iter().find(|file| file.node == chosen.node).unwrap();
                prop_assert!(prefilter.accepts(file, NOW), "{prefilter:?} {file:?}");
            }
        }
    }

    #[test]
    fn what_satisfies_a_condition_passes_what_it_implies(
        condition in condition(), file in any_file(0),
    ) {
        if condition.holds(&file, NOW) {
            prop_assert!(super::implied(&condition, true).accepts(&file, NOW));
        } else {
            prop_assert!(super::implied(&condition, false).accepts(&file, NOW));
        }
    }
}
