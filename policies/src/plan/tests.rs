//! Tests of planning.

use crate::decide::{Decision, decide};
use crate::testing::*;
use crate::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn nodes(plan: &Plan, rule: &str) -> Vec<u64> {
    let part = plan.rules.iter().find(|part| part.rule == rule).unwrap();
    part.files.iter().map(|file| file.node.0).collect()
}

fn stop(plan: &Plan, rule: &str) -> Stop {
    let part = plan.rules.iter().find(|part| part.rule == rule).unwrap();
    part.stop.clone()
}

const MARKS: &str = "rule release r when not accessed for 1 h above 85 % down to 75 %";

fn old_files(count: u64) -> Vec<FileFacts> {
    (0..count).map(|i| file(i, 10_000 + i)).collect()
}

#[test]
fn a_watermark_rule_goes_from_high_to_low_oldest_first() {
    let plan = plan(&policy(MARKS), &run(86), old_files(50));
    let low = Percent::from_hundredths(7500).unwrap();
    assert_eq!(stop(&plan, "r"), Stop::WatermarkReached { low });
    assert_eq!(nodes(&plan, "r"), (39..50).rev().collect::<Vec<_>>());
    assert_eq!(plan.usage_after.used, ByteCount(75 << 20));
    assert_eq!(plan.rules[0].matched.files, 50);
}

#[test]
fn at_the_high_mark_nothing_happens_and_a_named_rule_starts_all_the_same() {
    let high = Percent::from_hundredths(8500).unwrap();
    let idle = plan(&policy(MARKS), &run(85), old_files(50));
    assert_eq!(stop(&idle, "r"), Stop::BelowWatermark { high });
    assert_eq!(
        nodes(&plan(&policy(MARKS), &named(&["r"], 77), old_files(9)), "r"),
        [8, 7]
    );
    assert!(nodes(&plan(&policy(MARKS), &named(&["r"], 70), old_files(9)), "r").is_empty());
}

#[test]
fn later_rules_count_what_earlier_ones_freed() {
    let text = "rule release one when owner 1 above 80 % down to 70 %
                rule release two above 85 % down to 75 %";
    let mut files = old_files(40);
    for file in files.iter_mut().take(10) {
        file.uid = 1;
    }
    let full = plan(&policy(text), &run(90), files.clone());
    assert_eq!(nodes(&full, "one").len(), 10);
    let high = Percent::from_hundredths(8500).unwrap();
    assert_eq!(stop(&full, "two"), Stop::BelowWatermark { high });
    let fuller = plan(&policy(text), &run(99), files);
    assert_eq!(nodes(&fuller, "two").len(), 14, "from 89 to 75");
}

#[test]
fn limits_stop_with_the_file_that_reaches_them() {
    let by_files = policy("rule release r manual limit 2 files");
    let by_bytes = policy("rule release r manual limit 1500 KiB");
    let files = plan(&by_files, &named(&["r"], 50), old_files(9));
    assert_eq!(nodes(&files, "r"), [8, 7]);
    assert_eq!(stop(&files, "r"), Stop::FileLimit { files: 2 });
    let bytes = plan(&by_bytes, &named(&["r"], 50), old_files(9));
    assert_eq!(nodes(&bytes, "r"), [8, 7]);
    assert_eq!(
        stop(&bytes, "r"),
        Stop::ByteLimit {
            bytes: ByteCount(1500 << 10)
        }
    );
    let all = plan(&by_files, &named(&["r"], 50), old_files(2));
    assert_eq!(stop(&all, "r"), Stop::NothingLeft);
}

#[test]
fn orders_and_their_ties() {
    let mut files = old_files(3);
    files[0].size = ByteCount(7);
    files[2].size = ByteCount(9);
    files[1].ctime = NOW.before(secs(90_000));
    for (order, expected) in [
        ("oldest access", [2, 1, 0]),
        ("oldest change", [1, 2, 0]),
        ("largest", [1, 2, 0]),
    ] {
        let read = policy(&format!("rule release r manual order {order} first"));
        assert_eq!(
            nodes(&plan(&read, &named(&["r"], 50), files.clone()), "r"),
            expected
        );
    }
    let same = [3, 1, 2].map(|node| file(node, 100));
    let read = policy("rule release r manual");
    assert_eq!(
        nodes(&plan(&read, &named(&["r"], 50), same), "r"),
        [1, 2, 3]
    );
}

#[test]
fn the_first_rule_that_matches_decides_even_when_it_does_not_run() {
    let text = "rule release keep when owner 1000 never
                rule release later when name \"file2\" manual
                rule release rest every 1 h";
    let mut files = old_files(4);
    for node in [2, 3] {
        files[node].uid = 7;
    }
    let plan = plan(&policy(text), &run(50), files);
    assert_eq!(nodes(&plan, "rest"), [3]);
    assert_eq!(stop(&plan, "later"), Stop::Manual);
    assert_eq!(plan.rules[0].held["never"].files, 2);
}

#[test]
fn pins_flags_copies_and_residency_hold_files_back() {
    let mut files = old_files(7);
    files[0].flags.norelease = true;
    files[1].pinned_until = Some(NOW.after(secs(1)));
    files[2].staged_at = Some(NOW.before(secs(3599)));
    files[3].copies = 0;
    files[4].blocks = ByteCount(0);
    files[5].pinned_until = Some(NOW);
    files[6].staged_at = Some(NOW.before(secs(3600)));
    let plan = plan(&policy("rule release r manual"), &named(&["r"], 50), files);
    assert_eq!(nodes(&plan, "r"), [6, 5]);
    let held: Vec<_> = plan.rules[0].held.keys().copied().collect();
    let expected = [
        "frees nothing",
        "keep-staged",
        "norelease",
        "pinned",
        "too few copies",
    ];
    assert_eq!(held, expected);
}

#[test]
fn archive_takes_new_and_dirty_files_and_tops_up_copies() {
    let mut files = old_files(6);
    files[0].state = FileState::New;
    files[1].state = FileState::Dirty;
    files[2].state = FileState::Released;
    files[3].state = FileState::Lost;
    files[4].state = FileState::New;
    files[4].flags.noarchive = true;
    let one = policy("rule archive a manual");
    let mut bad = files[5].clone();
    bad.copies = 0;
    assert_eq!(
        nodes(&plan(&one, &named(&["a"], 50), [bad]), "a"),
        [5],
        "its only copy went bad"
    );
    assert_eq!(
        nodes(&plan(&one, &named(&["a"], 50), files.clone()), "a"),
        [1, 0]
    );
    let two = policy("copies 2 rule archive a manual");
    assert_eq!(
        nodes(&plan(&two, &named(&["a"], 50), files), "a"),
        [5, 1, 0]
    );
}

#[test]
fn timers_and_names() {
    let read = policy("rule archive a every 10 min rule archive b manual");
    let mut new = file(1, 100);
    new.state = FileState::New;
    let mut input = run(50);
    let last = NOW.before(secs(599));
    input.select = Select::Due(BTreeMap::from([("a".to_owned(), last)]));
    let waiting = plan(&read, &input, [new.clone()]);
    assert_eq!(
        stop(&waiting, "a"),
        Stop::NotDue {
            next: NOW.after(secs(1))
        }
    );
    input.now = NOW.after(secs(1));
    assert_eq!(nodes(&plan(&read, &input, [new.clone()]), "a"), [1]);
    let by_name = plan(&read, &named(&["aa"], 50), [new]);
    assert!(by_name.rules.is_empty());
    assert_eq!(by_name.unknown[0].name, "aa");
}

#[test]
fn where_releasing_is_not_allowed_the_rule_is_listed_with_the_reason() {
    let reason = "tier and backing share a filesystem".to_owned();
    let input = RunInput {
        release_allowed: Err(reason.clone()),
        ..run(99)
    };
    let plan = plan(&policy(MARKS), &input, old_files(50));
    assert_eq!(stop(&plan, "r"), Stop::NotAllowed { reason });
    assert!(nodes(&plan, "r").is_empty());
    assert_eq!(plan.usage_after, plan.usage_before);
}

#[test]
fn an_unknown_filesystem_size_passes_no_watermark() {
    let mut input = run(99);
    input.usage.total = ByteCount(0);
    let plan = plan(&policy(MARKS), &input, old_files(5));
    assert_eq!(stop(&plan, "r"), Stop::UsageUnknown);
}

#[test]
fn the_serialised_plan_is_frozen() {
    let mut files = old_files(5);
    files[0].state = FileState::New;
    files[3].flags.norelease = true;
    files[4].path = b"odd/\xff".to_vec();
    let plan = plan(&policy(shipped::DEFAULT), &run(87), files);
    insta::assert_snapshot!(json::to_json(&plan));
}

/// What a rule takes, with all of its candidates in memory: sorted, then one after another until
/// the first reason to stop.
fn taken_the_plain_way(
    policy: &Policy,
    rule: &Rule,
    input: &RunInput,
    before: Usage,
    files: &[FileFacts],
) -> Vec<NodeKey> {
    let named = matches!(input.select, Select::Named(_));
    let hundredths = |used: u64| used as f64 / before.total.0 as f64 * 10_000.0;
    let low = match rule.trigger {
        Trigger::Never => return vec![],
        Trigger::Manual if !named => return vec![],
        Trigger::Watermark { high, .. }
            if !named && hundredths(before.used.0) <= f64::from(high.hundredths()) =>
        {
            return vec![];
        }
        Trigger::Watermark { low, .. } => f64::from(low.hundredths()),
        Trigger::Every(_) | Trigger::Manual => -1.0,
    };
    let mut candidates: Vec<&FileFacts> = files
        .iter()
        .filter(|file| match decide(policy, rule.verb, file, input.now) {
            Decision::Rule { index, held: None } => policy.rules[index].name == rule.name,
            _ => false,
        })
        .collect();
    candidates.sort_by_key(|file| match rule.order {
        Order::OldestAccess => (i128::from(file.atime.0), file.node),
        Order::OldestChange => (i128::from(file.ctime.0), file.node),
        Order::Largest => (-i128::from(file.size.0), file.node),
    });
    let (mut used, mut bytes, mut taken) = (before.used.0, 0_u64, vec![]);
    for file in candidates {
        let full = rule
            .limits
            .files
            .is_some_and(|most| taken.len() as u64 >= most)
            || rule.limits.bytes.is_some_and(|most| bytes >= most.0);
        if full || hundredths(used) <= low {
            break;
        }
        taken.push(file.node);
        if rule.verb == Verb::Release {
            used = used.saturating_sub(file.blocks.0);
            bytes = bytes.saturating_add(file.blocks.0);
        } else {
            bytes = bytes.saturating_add(file.size.0);
        }
    }
    taken
}

proptest! {
    #[test]
    fn a_plan_does_not_depend_on_the_order_of_the_files(
        (files, shuffled) in any_files().prop_flat_map(|files| {
            (Just(files.clone()), Just(files).prop_shuffle())
        }),
        policy in any_policy(),
        used in 0..100_u64,
        by_name in any::<bool>(),
    ) {
        let names: Vec<&str> = policy.rules.iter().map(|rule| rule.name.as_str()).collect();
        let input = if by_name { named(&names, used) } else { run(used) };
        let one = plan(&policy, &input, files.clone());
        prop_assert_eq!(&one, &plan(&policy, &input, shuffled));

        let mut usage = input.usage;
        for part in &one.rules {
            let rule = policy.rule(&part.rule).unwrap();
            let expected = taken_the_plain_way(&policy, rule, &input, usage, &files);
            let chosen: Vec<_> = part.files.iter().map(|file| file.node).collect();
            prop_assert_eq!(chosen, expected, "{:?}", part.stop);
            let short = part.taken.files < part.matched.files;
            prop_assert!(!short || part.stop != Stop::NothingLeft, "{:?}", part);
            usage = part.usage_after;
        }
        let taken = one.rules.iter().flat_map(|part| &part.files).map(|file| file.node);
        let mut taken: Vec<_> = taken.collect();
        let count = taken.len();
        taken.sort();
        taken.dedup();
        prop_assert_eq!(taken.len(), count, "a file twice in a plan");
    }

    #[test]
    fn leaving_out_what_the_prefilters_exclude_changes_nothing_that_is_taken(
        files in any_files(), policy in any_policy(), used in 0..100_u64,
    ) {
        let passes = |file: &FileFacts| {
            let mut rules = policy.rules.iter();
            rules.any(|rule| rule.prefilter().accepts(file, NOW))
        };
        let names: Vec<&str> = policy.rules.iter().map(|rule| rule.name.as_str()).collect();
        let input = named(&names, used);
        let all = plan(&policy, &input, files.clone());
        let some = plan(&policy, &input, files.into_iter().filter(passes));
        let taken = |plan: &Plan| -> Vec<_> {
            plan.rules.iter().map(|part| part.files.clone()).collect()
        };
        prop_assert_eq!(taken(&all), taken(&some));
    }
}
